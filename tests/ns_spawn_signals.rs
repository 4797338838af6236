//! ns-spawn from outside: signals to and from a container, and that all of it ends.

use crate::{
    ns_spawn::{gone_soon, inside, inside_with, lives, spawn},
    ns_spawn_mounts::rootfs_with_names,
    support::{Outcome, busybox_rootfs, installed, outcome, root, sh, shell_status, tool_path},
};
use nix::sys::signal::Signal;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Start a container whose shell runs `line`, and wait until it has printed `ready`.
fn started(line: &str, ready: &str) -> Child {
    // Who starts the tests may ignore a signal, and what is ignored stays so.
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(tool_path("ns-spawn")).arg("--root").arg(busybox_rootfs());
    command.args(["--", "sh", "-c", line]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim_end(), ready);
    child
}

fn kill(child: &Child, number: i32) {
    sh(&format!("kill -{number} {}", child.id())).success();
}

#[test]
fn after_an_interrupt_the_callers_script_stops_too() {
    need!(root());
    // A shell ends its script only when its child died of SIGINT itself: a status of 130 is not enough.
    let rootfs = busybox_rootfs();
    let status =
        spawn(rootfs).args(["--", "sh", "-c", "kill -INT $$"]).spawn().unwrap().wait().unwrap();
    assert_eq!(status.signal(), Some(2));
}

#[test]
fn after_a_quit_the_caller_sees_one_and_no_second_core() {
    need!(root());
    let mut child = started("ulimit -c 0; echo ready; exec sleep 60", "ready");
    thread::sleep(Duration::from_millis(300)); // ash ignores SIGQUIT: it comes after the exec
    kill(&child, Signal::SIGQUIT as i32);
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(3), false));
}

#[test]
fn a_thousand_short_commands_end_with_their_status() {
    need!(root());
    let line = format!(
        "for i in $(seq 1000); do {} --root {} -- sh -c 'exit 7'; echo $?; done | sort | uniq -c",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    assert_eq!(sh(&line).success().stdout.trim(), "1000 7");
}

#[test]
fn a_command_whose_reader_is_gone_dies_of_sigpipe() {
    need!(root());
    let line = format!(
        "{} --root {} -- sh -c 'while echo y; do :; done' | head -1; echo ${{PIPESTATUS[0]}}",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    assert_eq!(sh(&line).success().stdout, "y\n141\n");
}

/// A container whose shell traps `name`, says so, waits, and ends with 3 when it comes.
fn trapping(name: &str) -> Child {
    started(&format!("trap 'exit 3' {name}; echo trapped; while :; do sleep 0.02; done"), "trapped")
}

#[test]
fn signals_are_passed_on() {
    need!(root());
    let named = [
        (Signal::SIGTERM as i32, "TERM"),
        (Signal::SIGHUP as i32, "HUP"),
        (Signal::SIGINT as i32, "INT"),
        (Signal::SIGQUIT as i32, "QUIT"),
        (Signal::SIGUSR1 as i32, "USR1"),
        (Signal::SIGUSR2 as i32, "USR2"),
        (Signal::SIGALRM as i32, "ALRM"),
        (Signal::SIGCONT as i32, "CONT"),
    ];
    let numbered = [34, 35, 50, 64].map(|number: i32| (number, number.to_string()));
    for (number, name) in
        named.map(|(number, name)| (number, name.to_owned())).into_iter().chain(numbered)
    {
        let mut child = trapping(&name);
        kill(&child, number);
        assert_eq!(shell_status(child.wait().unwrap()), 3, "{name}");
    }
}

#[test]
fn signals_that_are_the_supervisors_own_are_not_passed_on() {
    need!(root());
    let mut child = started(
        "trap 'exit 4' URG PIPE WINCH; trap 'exit 3' USR1; echo trapped; while :; do sleep 0.02; done",
        "trapped",
    );
    for signal in [Signal::SIGCHLD, Signal::SIGURG, Signal::SIGPIPE, Signal::SIGWINCH] {
        kill(&child, signal as i32);
    }
    thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None);
    kill(&child, Signal::SIGUSR1 as i32);
    assert_eq!(shell_status(child.wait().unwrap()), 3);
}

#[test]
fn the_callers_signal_mask_is_the_commands() {
    need!(root());
    let line = format!(
        "exec env --default-signal --block-signal=USR1,RTMIN {} --root {} -- grep SigBlk /proc/self/status",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    // SIGUSR1 is 10, the first real-time signal of the C library 34.
    assert_eq!(sh(&line).success().stdout, "SigBlk:\t0000000200000200\n");
}

#[test]
fn under_nohup_a_hangup_ends_nothing() {
    need!(root());
    let line = format!(
        "exec nohup {} --root {} -- sh -c 'echo ready; sleep 0.5; echo here; exit 5'",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    let mut child = Command::new("bash")
        .args(["-c", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    kill(&child, Signal::SIGHUP as i32);
    assert_eq!(said.next().unwrap().unwrap(), "here");
    assert_eq!(shell_status(child.wait().unwrap()), 5);
}

#[test]
fn it_stops_and_goes_on_with_the_command() {
    need!(root());
    let mut child = trapping("USR1");
    let pid = child.id();
    let state = move || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    };
    kill(&child, Signal::SIGTSTP as i32);
    let deadline = Instant::now() + Duration::from_secs(20);
    while state() != 'T' {
        assert!(Instant::now() < deadline, "it does not stop");
        thread::sleep(Duration::from_millis(5));
    }
    kill(&child, Signal::SIGUSR1 as i32);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(child.try_wait().unwrap(), None);
    kill(&child, Signal::SIGCONT as i32);
    assert_eq!(shell_status(child.wait().unwrap()), 3);
}

#[test]
fn a_command_that_a_signal_kills_gives_128_and_its_number() {
    need!(root());
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGQUIT, 131), (Signal::SIGUSR2, 140)] {
        let mut child = started("echo ready; exec sleep 60", "ready");
        thread::sleep(Duration::from_millis(300)); // ash ignores SIGQUIT: it comes after the exec
        kill(&child, signal as i32);
        assert_eq!(shell_status(child.wait().unwrap()), code);
    }
}

#[test]
fn a_second_sigterm_kills() {
    need!(root());
    let mut child = started("trap '' TERM; echo trapped; while :; do sleep 0.1; done", "trapped");
    kill(&child, Signal::SIGTERM as i32);
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(child.try_wait().unwrap(), None);
    kill(&child, Signal::SIGTERM as i32);
    assert_eq!(shell_status(child.wait().unwrap()), 137);
}

#[test]
fn the_container_dies_with_its_supervisor() {
    need!(root());
    let mut child = started("sleep 61001 & echo started; exec sleep 61002", "started");
    assert!(lives("61001"));
    child.kill().unwrap();
    child.wait().unwrap();
    gone_soon("61001");
    gone_soon("61002");
}

#[test]
fn killed_at_any_moment_of_its_start_it_leaves_no_process() {
    need!(root());
    for round in 0..200_u64 {
        let mut child = spawn(busybox_rootfs()).args(["--", "sleep", "61003"]).spawn().unwrap();
        // Spread over 20 ms without a pattern: 7919 is prime.
        thread::sleep(Duration::from_micros(round * 7919 % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    gone_soon("61003");
    gone_soon("ns-spawn: init");
}

#[test]
fn init_sees_that_its_supervisor_had_died_before_it_was_bound_to_it() {
    need!(root());
    need!(installed("strace"));
    for option in ["", "--as-pid-1"] {
        // Init's first prctl(2) binds it. Meanwhile the first process that strace has made, the supervisor, is killed.
        let line = format!(
            "strace -f -qq -o /dev/null -e trace=prctl -e inject=prctl:delay_enter=1s:when=1 -- \
             {} --root {} {option} -- echo ran & \
             sleep 0.5; read -r pid _ </proc/$!/task/$!/children; kill -KILL $pid; wait $!; echo $?",
            tool_path("ns-spawn").display(),
            busybox_rootfs().display()
        );
        assert_eq!(sh(&line).success().stdout, "137\n", "{option}");
    }
    gone_soon("ns-spawn: init");
}

#[test]
fn what_the_command_leaves_running_ends_with_it() {
    need!(root());
    assert_eq!(inside("sleep 61004 & exit 5").code, 5);
    gone_soon("61004");
}

#[test]
fn orphans_are_reaped_and_do_not_end_the_container() {
    need!(root());
    let seen =
        inside("(sleep 0.1 &); sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status; echo survived");
    assert_eq!(seen.success().stdout, "survived\n");
}

#[test]
fn a_caller_that_ignores_sigchld_does_not_hang_it() {
    need!(root());
    let line = format!(
        "trap '' CHLD; exec timeout 30 {} --root {} -- sh -c 'exit 9'",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    assert_eq!(sh(&line).code, 9);
}

#[test]
fn signals_that_the_caller_ignores_stay_ignored() {
    need!(root());
    let line = format!(
        "trap '' HUP; exec {} --root {} -- sh -c 'kill -HUP $$; echo here'",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    assert_eq!(sh(&line).success().stdout, "here\n");
}

#[test]
fn a_hundred_start_at_once_on_one_rootfs() {
    need!(root());
    let children: Vec<_> =
        (0..100).map(|_| spawn(busybox_rootfs()).args(["--", "true"]).spawn().unwrap()).collect();
    for mut child in children {
        assert_eq!(shell_status(child.wait().unwrap()), 0);
    }
}

#[test]
fn as_pid_1_there_is_no_init() {
    need!(root());
    assert_eq!(
        inside_with(&["--as-pid-1"], "echo $$; exit 9"),
        Outcome { code: 9, stdout: "1\n".into(), stderr: String::new() }
    );
    assert_eq!(
        inside_with(&["--as-pid-1", "--user", "nobody"], "id -u").success().stdout,
        "65534\n"
    );
    let missing = outcome(spawn(busybox_rootfs()).args(["--as-pid-1", "--", "/nosuch"]));
    assert_eq!(missing.code, 127);
}

#[test]
fn a_signal_to_the_whole_group_is_no_second_one() {
    need!(root());
    // timeout(1) sends it to its child and to its group, of which that is one.
    let line = format!(
        "timeout 0.5 {} --root {} -- \
         sh -c 'trap \"trap : TERM; sleep 0.5; echo tidied; exit 3\" TERM; while :; do sleep 0.02; done'",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    let seen = sh(&line);
    assert_eq!((seen.code, seen.stdout.as_str()), (124, "tidied\n"), "{seen:?}");
}

#[test]
fn after_a_while_a_sigterm_kills() {
    need!(root());
    let mut command = spawn(busybox_rootfs());
    command.args([
        "--kill-after",
        "1",
        "--",
        "sh",
        "-c",
        "trap '' TERM; echo ready; while :; do sleep 0.1; done",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    kill(&child, Signal::SIGTERM as i32);
    assert_eq!(shell_status(child.wait().unwrap()), 137);
}

#[test]
fn two_hundred_runs_leave_no_process_descriptor_or_mount() {
    need!(root());
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let (dir, before) = (rootfs_with_names(), mounts());
    for _ in 0..200 {
        outcome(spawn(dir.path()).args(["--overlay", "--", "true"])).success();
    }
    assert_eq!(mounts(), before);
    gone_soon(dir.path().to_str().unwrap());
}
