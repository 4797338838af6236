//! ns-spawn from outside: a container's terminal.

use crate::{
    ns_spawn,
    pty::Pty,
    support::{busybox_rootfs, outcome_with_input, root, sh, tool_path},
};
use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// An interactive shell at a terminal, which has said that it is ready.
fn outer_shell() -> Pty {
    let mut command = Command::new("bash");
    command.args(["--norc", "--noediting", "-i"]).env("PS1", "outer> ");
    let mut pty = Pty::start(&command, 24, 80);
    pty.see("outer> ");
    pty
}

/// The tool's command line with `words`, for a shell.
fn line(words: &str) -> String {
    format!("{} --root {} {words}", tool_path("ns-spawn").display(), busybox_rootfs().display())
}

/// A script that runs a container's shell as a script of the lab does, and goes on afterwards.
fn script_in_a_terminal(options: &str) -> Pty {
    let line = format!(
        "{} --root {} {options} -- sh -i; echo rc=$?; read x; echo got=$x",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    let mut command = Command::new("bash");
    command.args(["--norc", "--noediting", "-i"]).env("PS1", "outer> ").env("LINE", line);
    let mut pty = Pty::start(&command, 33, 101);
    pty.see("outer> ");
    pty.enter("bash -c \"$LINE\"\n");
    pty.see("/ # ");
    pty
}

#[test]
fn in_a_terminal_a_shell_inside_is_a_whole_shell() {
    need!(root());
    let mut pty = script_in_a_terminal("");
    pty.enter("tty; stty size\n");
    assert!(pty.see("33 101\r\n").contains("/dev/pts/0\r\n"));
    pty.enter("ls -l /dev/console | cut -c 1; test -t 0 && test -t 1 && test -t 2 && echo all\n");
    pty.see("c\r\nall\r\n");
    // Ctrl-C ends the foreground job only, Ctrl-Z stops it.
    pty.enter("sleep 61005; echo after=$?\n");
    pty.see("\r\n");
    thread::sleep(Duration::from_millis(300));
    pty.enter("\x03");
    pty.see("/ # ");
    pty.enter("sleep 61006\n");
    pty.see("sleep 61006\r\n");
    thread::sleep(Duration::from_millis(300));
    pty.enter("\x1a");
    pty.see("Stopped");
    pty.enter("fg\n");
    pty.see("sleep 61006\r\n");
    thread::sleep(Duration::from_millis(300));
    pty.enter("\x03");
    pty.see("/ # ");
    pty.resize(50, 120);
    pty.enter("stty size\n");
    pty.see("50 120\r\n");
    // The script goes on: it is not stopped, and reads its next line.
    pty.enter("exit 5\n");
    pty.see("rc=5\r\n");
    pty.enter("hello\n");
    pty.see("got=hello\r\n");
    pty.see("outer> ");
}

#[test]
fn a_shell_that_inherits_the_terminal_gives_it_back() {
    need!(root());
    let mut pty = script_in_a_terminal("--console inherit");
    pty.enter("exit 6\n");
    pty.see("rc=6\r\n");
    pty.enter("hello\n");
    pty.see("got=hello\r\n");
    pty.see("outer> ");
}

#[test]
fn the_terminal_is_as_before_when_the_container_is_killed() {
    need!(root());
    let mut pty = script_in_a_terminal("");
    pty.enter("kill -KILL $$\n");
    pty.see("rc=137\r\n");
    pty.enter("hello\n");
    pty.see("got=hello\r\n");
    pty.enter("stty -a | grep -o -w -e icanon -e echo; echo e''nd\n");
    let modes = pty.see("\r\nend\r\n");
    assert!(modes.contains("icanon\r\necho\r\n"), "{modes}");
}

#[test]
fn without_a_terminal_of_its_own_a_command_has_none() {
    need!(root());
    let line = format!(
        "{} --root {} --console none -- sh -c 'tty; cat /dev/tty; wc -c'",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &line]);
    let mut pty = Pty::start(&command, 24, 80);
    pty.see("not a tty\r\n");
    pty.see("can't open '/dev/tty'");
    pty.see("0\r\n");
}

#[test]
fn a_command_that_shares_the_terminal_stops_and_goes_on_with_its_job() {
    need!(root());
    let mut pty = outer_shell();
    let line = format!(
        "{} --root {} -- sleep 61010 | cat",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    pty.enter(&format!("{line}\n"));
    pty.see("| cat\r\n");
    thread::sleep(Duration::from_millis(500));
    pty.enter("\x1a");
    pty.see("Stopped");
    pty.see("outer> ");
    pty.enter("fg\n");
    pty.see("| cat\r\n");
    thread::sleep(Duration::from_millis(500));
    pty.enter("\x03");
    pty.see("outer> ");
    pty.enter("echo rc=${PIPESTATUS[0]}\n");
    pty.see("rc=130\r\n");
}

#[test]
fn a_command_that_was_handed_the_terminal_stops_and_goes_on_with_its_job() {
    need!(root());
    let mut pty = outer_shell();
    let (program, rootfs) = (tool_path("ns-spawn"), busybox_rootfs());
    let inside = "sleep 61011 | cat; echo inner=$?";
    let line = format!(
        "{} --root {} --console inherit -- sh -c '{inside}'",
        program.display(),
        rootfs.display()
    );
    pty.enter(&format!("{line}; echo outer=$?\n"));
    pty.see("outer=$?\r\n");
    thread::sleep(Duration::from_millis(500));
    pty.enter("\x1a");
    pty.see("Stopped");
    pty.see("outer> ");
    pty.enter("echo still''here\n");
    pty.see("stillhere\r\n");
    pty.see("outer> ");
    pty.enter("fg\n");
    pty.see("61011");
    thread::sleep(Duration::from_millis(500));
    pty.enter("\x03");
    pty.see("outer> ");
    pty.enter("echo rc=$?\n");
    pty.see("rc=130\r\n");
}

#[test]
fn an_interrupt_of_the_terminal_reaches_the_command_once() {
    need!(root());
    let mut pty = outer_shell();
    let inside = "trap 'echo g''ot' INT; echo rea''dy; i=0; while [ $i -lt 30 ]; do sleep 0.1; i=$((i+1)); done; \
                  echo do''ne";
    let (program, rootfs) = (tool_path("ns-spawn"), busybox_rootfs());
    // Standard output is a pipe: the terminal, of which standard input is one, is inherited.
    let line = format!("{} --root {} -- sh -c \"{inside}\"", program.display(), rootfs.display());
    pty.enter(&format!("{} | cat\n", line.replace('$', "\\$")));
    pty.see("ready\r\n");
    pty.enter("\x03");
    // `cat` dies of it. What the command says afterwards goes nowhere; so it says it on standard error.
    pty.see("outer> ");
    let line = line.replace("echo g", "echo >&2 g").replace("echo do", "echo >&2 do");
    pty.enter(&format!("{} | (trap '' INT; cat)\n", line.replace('$', "\\$")));
    pty.see("ready\r\n");
    pty.enter("\x03");
    let said = pty.see("done\r\n");
    assert_eq!(said.matches("got\r\n").count(), 1, "{said}");
}

/// The process of this test's whose command line has `word` in it and begins with the tool's name.
fn supervisor(word: &str) -> u32 {
    let program = tool_path("ns-spawn");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (line.starts_with(program.to_str()?) && line.contains(word)).then_some(pid)
        });
        match found {
            Some(pid) => return pid,
            None => assert!(Instant::now() < deadline, "no supervisor with '{word}'"),
        }
    }
}

#[test]
fn the_terminal_is_as_before_whatever_ends_the_container() {
    need!(root());
    let init = |pid: u32| {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.trim().to_owned()
    };
    // SIGKILL to the container's first process, SIGTERM and then SIGHUP to the supervisor.
    for (marker, kill, code) in
        [("61020", "KILL", 137), ("61021", "TERM", 143), ("61022", "HUP", 129)]
    {
        let mut pty = outer_shell();
        let line = line(&format!("-- sh -c 'stty raw -echo; echo rea''dy; exec sleep {marker}'"));
        pty.enter(&format!("{line}; echo rc=$?\n"));
        pty.see("ready");
        let pid = supervisor(marker);
        let target = if kill == "KILL" { init(pid) } else { pid.to_string() };
        sh(&format!("kill -{kill} {target}")).success();
        let said = pty.see(&format!("rc={code}\r\n"));
        let told = said.contains("the container's init was killed by signal 9");
        assert_eq!(told, kill == "KILL", "{said}");
        pty.see("outer> ");
        pty.enter(
            "stty -a | grep -o -w -e icanon -e echo -e isig -e opost | sort | xargs; echo e''nd\n",
        );
        assert!(pty.see("\r\nend\r\n").contains("echo icanon isig opost"));
    }
}

#[test]
fn what_is_written_last_still_comes_out() {
    need!(root());
    let mut pty = outer_shell();
    pty.enter(&format!(
        "{}; echo rc=$?\n",
        line("-- sh -c 'echo be''gin; seq 30000; echo la''st'")
    ));
    pty.see("begin\r\n");
    let said = pty.see("rc=0\r\n");
    let numbers: Vec<u32> = said.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert!(numbers.iter().copied().eq(1..=30000), "{} lines", numbers.len());
    assert!(said.ends_with("last\r\nrc=0\r\n"));
    // And of a command that ends at once, however often.
    let line = format!(
        "for i in $(seq 100); do {} </dev/null; done | sort | uniq -c",
        line("--console pty -- echo out")
    );
    assert_eq!(sh(&line).success().stdout.trim(), "100 out");
}

#[test]
fn errors_that_go_to_a_file_do_not_go_to_the_terminal() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    let mut pty = outer_shell();
    let file = dir.path().join("errors");
    let inside = line("-- sh -c 'test -t 0 && test -t 1 && tty; test -t 2 || echo err >&2'");
    pty.enter(&format!("{inside} 2>{}; echo rc=$?\n", file.display()));
    assert!(pty.see("rc=0\r\n").contains("/dev/pts/0\r\n"));
    assert_eq!(fs::read_to_string(file).unwrap(), "err\n");
}

#[test]
fn the_end_of_the_input_is_one_at_the_pty_too() {
    need!(root());
    // What is typed is echoed; what was read is counted.
    let count = |input: &[u8]| {
        let mut command = ns_spawn::spawn(busybox_rootfs());
        command.args(["--console", "pty", "--", "wc", "-c"]);
        outcome_with_input(&mut command, input).success().stdout
    };
    assert_eq!(count(b""), "0\r\n");
    assert_eq!(count(b"a\nb\n"), "a\r\nb\r\n4\r\n");
    assert_eq!(count(b"no end of line"), "no end of line14\r\n");
}

#[test]
fn in_the_background_there_is_no_pty() {
    need!(root());
    let mut pty = outer_shell();
    pty.enter(&format!("{} &\n", line("-- sh -c 'tty; echo rc''=0'")));
    assert!(pty.see("rc=0\r\n").contains("not a tty\r\n"));
}

#[test]
fn a_supervisor_that_is_stopped_gives_the_terminal_back_meanwhile() {
    need!(root());
    let mut pty = outer_shell();
    pty.enter(&format!(
        "{}\n",
        line("-- sh -c 'echo rea''dy; read x; echo got=$x; sleep 0.61023'")
    ));
    pty.see("ready\r\n");
    sh(&format!("kill -TSTP {}", supervisor("0.61023"))).success();
    pty.see("Stopped");
    pty.see("outer> ");
    pty.enter("echo still''here; stty -a | grep -o -w icanon\n");
    pty.see("stillhere\r\nicanon\r\n");
    pty.see("outer> ");
    pty.enter("fg\n");
    pty.see("61023");
    pty.enter("hello\n");
    pty.see("got=hello\r\n");
    pty.see("outer> ");
}

#[test]
fn what_is_sent_and_not_typed_is_passed_on_though_the_terminal_is_shared() {
    need!(root());
    let mut pty = outer_shell();
    let inside = "trap \"echo g''ot >&2\" INT; echo rea''dy >&2; sleep 0.2 & wait; \
                  for i in 1 2 3 4 5; do sleep 0.61024; done; echo do''ne >&2";
    pty.enter(&format!(
        "{} | cat\n",
        line(&format!("-- sh -c '{}'", inside.replace('\'', "'\\''")))
    ));
    pty.see("ready\r\n");
    let pid = supervisor("0.61024");
    sh(&format!("kill -INT {pid}; sleep 0.5; /bin/kill --queue 1 -s INT {pid}")).success();
    assert_eq!(pty.see("done\r\n").matches("got\r\n").count(), 2);
}

#[test]
fn an_interrupt_at_the_terminal_ends_a_loop_of_the_callers() {
    need!(root());
    // Who only gave 130 would be started three times.
    let mut pty = outer_shell();
    let inside =
        line("-- sh -c 'echo rea''dy; exec sleep 61025' </dev/null").replace('\'', "'\\''");
    pty.enter(&format!(
        "bash -c 'for i in 1 2 3; do {inside}; echo aga''in; done; echo af''ter'; echo rc=$?\n"
    ));
    pty.see("ready\r\n");
    thread::sleep(Duration::from_millis(300));
    pty.enter("\x03");
    let said = pty.see("outer> ");
    assert!(!said.contains("again\r\n") && !said.contains("after\r\n"), "{said}");
    pty.enter("echo rc=$?\n");
    pty.see("rc=130\r\n");
}

#[test]
fn what_a_command_does_to_the_terminal_that_it_inherits_is_undone() {
    need!(root());
    let mut pty = outer_shell();
    pty.enter(&format!(
        "{}; echo rc=$?\n",
        line("--console inherit -- sh -c 'stty raw -echo; exit 4'")
    ));
    pty.see("rc=4\r\n");
    pty.see("outer> ");
    pty.enter(
        "stty -a | grep -o -w -e icanon -e echo -e isig -e opost | sort | xargs; echo e''nd\n",
    );
    assert!(pty.see("\r\nend\r\n").contains("echo icanon isig opost"));
}

#[test]
fn who_loses_its_terminal_takes_the_container_with_it() {
    need!(root());
    let mut pty = outer_shell();
    pty.enter(&format!("{}\n", line("-- sh -c 'echo rea''dy; exec sleep 61030'")));
    pty.see("ready\r\n");
    // With the shell that leads the session the terminal hangs up.
    let status = fs::read_to_string(format!("/proc/{}/status", supervisor("61030"))).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    sh(&format!("kill -KILL {parent}")).success();
    ns_spawn::gone_soon("61030");
}
