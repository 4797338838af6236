//! ns-spawn from outside.

use crate::{
    pty::Pty,
    support::{
        Host, Outcome, busybox_rootfs, outcome, outcome_with_input, root, run, sh, shell_status,
        tool, tool_path, write_busybox_rootfs, write_program,
    },
};
use nix::{sys::signal::Signal, unistd::Pid};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Run `line` by the shell of a container.
#[track_caller]
fn inside(line: &str) -> Outcome {
    inside_with(&[], line)
}

/// The same, with options.
#[track_caller]
fn inside_with(options: &[&str], line: &str) -> Outcome {
    outcome(spawn(busybox_rootfs()).args(options).args(["--", "sh", "-c", line]))
}

fn spawn(rootfs: &Path) -> Command {
    let mut command = tool("ns-spawn");
    command.arg("--root").arg(rootfs);
    command
}

/// Start a container whose shell runs `line`, and wait until it has printed a first line.
fn started(line: &str) -> Child {
    let line = format!("echo ready; {line}");
    let mut child = spawn(busybox_rootfs())
        .args(["--", "sh", "-c", &line])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    child
}

fn send(child: &Child, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Whether a process with `word` in its command line lives. It must not be in this test's own.
fn lives(word: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    })
}

#[track_caller]
fn gone_soon(word: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while lives(word) {
        assert!(Instant::now() < deadline, "'{word}' goes on");
        thread::sleep(Duration::from_millis(10));
    }
}

fn failure(code: i32, stderr: String) -> Outcome {
    Outcome { code, stdout: String::new(), stderr }
}

#[test]
fn the_exit_status_is_the_commands() {
    need!(root());
    let cases = [
        ("exit 0", 0),
        ("exit 42", 42),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -USR1 $$", 138),
        ("kill -INT $$", 130),
        ("kill -40 $$", 168),
        ("exec 2>/dev/null; sh -c 'kill -TERM $$'; exit $?", 143),
    ];
    for (line, code) in cases {
        assert_eq!(inside(line), failure(code, String::new()), "{line}");
    }
}

#[test]
fn after_an_interrupt_the_callers_script_stops_too() {
    need!(root());
    // A shell ends its script only when its child died of SIGINT itself: a status of 130 is not enough.
    let rootfs = busybox_rootfs();
    let status =
        spawn(rootfs).args(["--", "sh", "-c", "kill -INT $$"]).spawn().unwrap().wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2));
}

#[test]
fn a_missing_command_is_named() {
    need!(root());
    let rootfs = busybox_rootfs();
    let shown = rootfs.display();
    assert_eq!(
        outcome(spawn(rootfs).args(["--", "nosuch"])),
        failure(
            127,
            format!(
                "ns-spawn: cannot run 'nosuch': No such file or directory (ENOENT)\n  hint: it is looked up \
                 inside '{shown}'; 'rootfs-fetch --install nosuch {shown}' puts it there\n"
            )
        )
    );
    assert_eq!(
        outcome(spawn(rootfs).args(["--", "/bin/nosuch"])),
        failure(
            127,
            format!(
                "ns-spawn: cannot run '/bin/nosuch': No such file or directory (ENOENT)\n  hint: it is \
                 looked up inside '{shown}'\n"
            )
        )
    );
}

#[test]
fn a_command_that_cannot_be_run_says_why() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    write_busybox_rootfs(dir.path());
    write_program(b"#!/bin/nosuch -x\n", &dir.path().join("bin/script"));
    write_program(b"garbage\n", &dir.path().join("bin/garbage"));
    let cases = [
        (
            "script",
            "cannot run 'script': No such file or directory (ENOENT)\n  hint: it is there; its interpreter \
             '/bin/nosuch' is missing\n",
        ),
        (
            "garbage",
            "cannot run 'garbage': Exec format error (ENOEXEC)\n  hint: it is no program, and no script \
             that begins with #!\n",
        ),
        (
            "/etc/passwd",
            "cannot run '/etc/passwd': Permission denied (EACCES)\n  hint: '/etc/passwd' is not executable\n",
        ),
        ("/etc", "cannot run '/etc': Permission denied (EACCES)\n  hint: it is a directory\n"),
    ];
    for (command, message) in cases {
        let expected = failure(126, format!("ns-spawn: {message}"));
        assert_eq!(outcome(spawn(dir.path()).args(["--", command])), expected);
    }
}

#[test]
fn its_own_failures_are_125() {
    let enoent = "No such file or directory (ENOENT)";
    let cases = [
        (
            vec!["--root", "/nosuch", "--", "true"],
            format!(
                "cannot open root directory '/nosuch': {enoent}\n  hint: 'rootfs-fetch /nosuch' makes one\n"
            ),
        ),
        (
            vec!["--netns", "no-such", "--root", "/", "--", "true"],
            format!(
                "cannot open network namespace 'no-such': {enoent}\n  hint: 'netns-setup up no-such' makes \
                 it; 'ip netns list' shows what exists\n"
            ),
        ),
        (
            vec!["--netns", "/dev/null", "--root", "/", "--", "true"],
            "'/dev/null' is a file, not a network namespace\n".into(),
        ),
        (
            vec!["--root", "/", "--hostname", "", "--", "true"],
            "hostname '' has 0 bytes; the kernel allows 1 to 64\n".into(),
        ),
        (
            vec!["--root", "/", "--workdir", "tmp", "--", "true"],
            "working directory 'tmp' does not begin with '/'\n".into(),
        ),
        (
            vec!["--root", "/", "--netns", "/proc/self/ns/net", "--share", "net", "--", "true"],
            "--netns and --share net exclude each other\n".into(),
        ),
    ];
    for (args, message) in cases {
        assert_eq!(run("ns-spawn", &args), failure(125, format!("ns-spawn: {message}")));
    }
}

#[test]
fn wrong_usage_is_125_and_says_what_is_right() {
    let expected = "\
ns-spawn: unexpected argument '--bogus' found

  tip: to pass '--bogus' as a value, use '-- --bogus'

Usage: ns-spawn [OPTIONS] --root <DIR> [--] [COMMAND]...
       ns-spawn [OPTIONS] --join <PID> [--] [COMMAND]...
       ns-spawn --check

For more information, try '--help'.
";
    assert_eq!(run("ns-spawn", &["--bogus"]), failure(125, expected.into()));
}

#[test]
fn an_unknown_user_is_named_before_anything_is_made() {
    need!(root());
    let shown = busybox_rootfs().display();
    let expected = format!(
        "ns-spawn: no user 'nosuch' in '{shown}/etc/passwd'\n  hint: it has root, nobody\n"
    );
    assert_eq!(inside_with(&["--user", "nosuch"], "true"), failure(125, expected));
}

#[test]
fn the_command_is_process_2_and_sees_only_the_container() {
    need!(root());
    let seen = inside("echo $$; cat /proc/1/comm; echo /proc/[0-9]*").success().stdout;
    assert_eq!(seen, "2\nns-spawn: init\n/proc/1 /proc/2\n");
}

#[test]
fn the_hostname_is_the_containers_own() {
    need!(root());
    let before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(inside("hostname").success().stdout, "container\n");
    assert_eq!(inside_with(&["--hostname", "lab"], "hostname").success().stdout, "lab\n");
    assert_eq!(inside_with(&["--share", "uts"], "hostname").success().stdout, before);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
}

#[test]
fn every_namespace_is_new_but_those_shared() {
    need!(root());
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let list = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done";
    let ours: Vec<_> = kinds
        .map(|kind| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap())
        .into_iter()
        .collect();
    let seen = inside(list).success().stdout;
    for (own, seen) in ours.iter().zip(seen.lines()) {
        assert_ne!(own.to_str(), Some(seen));
    }
    let seen = inside_with(&["--share", "cgroup,ipc,net,uts"], list).success().stdout;
    let same: Vec<_> = ours
        .iter()
        .zip(seen.lines())
        .zip(kinds)
        .filter_map(|((own, seen), kind)| (own.to_str() == Some(seen)).then_some(kind))
        .collect();
    assert_eq!(same, ["cgroup", "ipc", "net", "uts"]);
}

#[test]
fn its_own_network_has_a_loopback_that_is_up() {
    need!(root());
    let seen =
        inside("ls /sys/class/net; ping -c 1 -W 5 127.0.0.1 >/dev/null && echo pong").success();
    assert_eq!(seen.stdout, "lo\npong\n");
}

#[test]
fn a_named_network_is_joined_with_its_files() {
    need!(root());
    let host = Host::new();
    host.sh("ip netns add lab && ip -netns lab link add inside type veth peer name other")
        .success();
    let dir = tempfile::tempdir().unwrap();
    write_busybox_rootfs(dir.path());
    symlink("../run/resolv.conf", dir.path().join("etc/resolv.conf")).unwrap();
    // The host's /etc is the machine's: a private copy gets the files of the network namespace.
    host.sh("mkdir /run/etc && cp --archive /etc/. /run/etc && mount --bind /run/etc /etc && \
             mkdir -p /etc/netns/lab && echo 'nameserver 203.0.113.53' >/etc/netns/lab/resolv.conf")
        .success();
    let line = "ls /sys/class/net; cat /etc/resolv.conf; echo x 2>/dev/null >>/etc/resolv.conf || echo no; \
                readlink /proc/self/ns/net";
    let mut command = host.tool("ns-spawn");
    command.arg("--root").arg(dir.path()).args(["--netns", "lab", "--", "sh", "-c", line]);
    let namespace = host.sh("ip netns exec lab readlink /proc/self/ns/net").success().stdout;
    let expected = format!("inside\nlo\nother\nnameserver 203.0.113.53\nno\n{namespace}");
    assert_eq!(outcome(&mut command).success().stdout, expected);
    assert_eq!(fs::read_to_string(dir.path().join("run/resolv.conf")).unwrap(), "");
}

#[test]
fn nothing_of_the_host_reaches_the_command() {
    need!(root());
    let line = "ls /proc/self/fd; env; cat /proc/1/environ; : >>/proc/1/exe; ls /proc/1/fd; \
                tr -d '\\0' </proc/1/cmdline; grep -v -e ' / ' -e /proc -e /sys -e /dev /proc/mounts";
    let program = tool_path("ns-spawn");
    let command = format!(
        "exec 9</etc/hostname; SECRET=x TERM=vt100 exec {} --root {} -- sh -c \"$0\"",
        program.display(),
        busybox_rootfs().display()
    );
    let seen = outcome(Command::new("bash").args(["-c", &command, line]).stdin(Stdio::null()));
    let expected = "\
0
1
2
3
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
USER=root
container=ns-spawn
TERM=vt100
";
    let (environment, rest) = seen.stdout.split_at(expected.len().min(seen.stdout.len()));
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.retain(|line| !line.starts_with("PWD=") && !line.starts_with("SHLVL="));
        lines
    };
    assert_eq!(sorted(&seen.stdout), sorted(expected), "{environment}{rest}");
    assert!(!seen.stdout.contains("SECRET") && !seen.stderr.contains("SECRET"));
    for refused in ["/proc/1/environ", "/proc/1/exe"] {
        assert!(
            seen.stderr.lines().any(|line| line.contains(refused) && line.contains("denied")),
            "{seen:?}"
        );
    }
}

#[test]
fn the_environment_is_what_was_asked_for() {
    need!(root());
    let seen = inside_with(&["--env", "A=1", "--env", "HOME=/x", "--env", "A=2"], "echo $A $HOME");
    assert_eq!(seen.success().stdout, "2 /x\n");
    let refused = run("ns-spawn", &["--root", "/", "--env", "A", "--", "true"]);
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.starts_with("ns-spawn: invalid value 'A' for '--env"), "{refused:?}");
}

#[test]
fn capabilities_are_dockers_and_there_are_no_new_privileges() {
    need!(root());
    let seen = inside("grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status").success().stdout;
    let expected = "\
CapInh:\t0000000000000000
CapPrm:\t00000000a80425fb
CapEff:\t00000000a80425fb
CapBnd:\t00000000a80425fb
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
";
    assert_eq!(seen, expected);
    let seen =
        inside_with(&["--user", "nobody"], "id; grep CapEff /proc/self/status").success().stdout;
    assert_eq!(seen, "uid=65534(nobody) gid=65534(nogroup)\nCapEff:\t0000000000000000\n");
}

#[test]
fn what_tells_of_the_host_is_masked_and_its_switches_are_read_only() {
    need!(root());
    let masked = "for p in kcore keys timer_list interrupts; do \
                  [ ! -e /proc/$p ] || [ -c /proc/$p ] || echo $p; done; \
                  for p in /proc/acpi /proc/scsi /sys/firmware; do ls -A $p 2>/dev/null; done";
    assert_eq!(inside(masked).success().stdout, "");
    let switches = "for p in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/default_smp_affinity \
                    /sys/kernel/uevent_seqnum /sys/kernel/mm/ksm/run; do \
                    [ ! -e $p ] || touch $p 2>&1; done; exit 0";
    let written = inside(switches).success().stdout;
    assert!(written.lines().all(|line| line.ends_with("Read-only file system")), "{written}");
    assert!(written.lines().count() >= 3, "{written}");
}

#[test]
fn a_device_node_made_inside_cannot_be_opened() {
    need!(root());
    let line = "cd /tmp && mknod zero c 1 5 && { head -c 1 zero; rm zero; }; \
                mknod /dev/shm/zero c 1 5 && head -c 1 /dev/shm/zero; head -c 1 /dev/zero | wc -c";
    let seen = inside(line).success();
    assert_eq!(seen.stdout, "1\n");
    assert_eq!(
        seen.stderr,
        "head: zero: Permission denied\nhead: /dev/shm/zero: Permission denied\n"
    );
}

#[test]
fn dev_has_the_standard_nodes_and_links() {
    need!(root());
    let seen = inside(
        "cd /dev; ls; readlink fd; readlink stdin; readlink ptmx; echo x >null; stat -c %a shm",
    )
    .success()
    .stdout;
    let expected = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\n\
                    zero\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n1777\n";
    assert_eq!(seen, expected);
}

#[test]
fn a_read_only_root_cannot_be_written() {
    need!(root());
    let seen = inside_with(&["--read-only"], "touch /x; touch /dev/shm/x && echo tmpfs");
    assert_eq!(seen.stdout, "tmpfs\n");
    assert_eq!(seen.stderr, "touch: /x: Read-only file system\n");
}

#[test]
fn streams_pass_through_byte_for_byte() {
    need!(root());
    let cat = |input: &[u8]| outcome_with_input(spawn(busybox_rootfs()).args(["--", "cat"]), input);
    assert_eq!(cat(b"hi\n").success().stdout, "hi\n");
    assert_eq!(cat(b"").success().stdout, "");
    let seen = inside("echo out; echo err >&2");
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("out\n", "err\n"));
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

#[test]
fn signals_are_passed_on() {
    need!(root());
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGUSR1, "USR1"),
    ] {
        let mut child = started(&format!("trap 'exit 3' {name}; while :; do sleep 0.1; done"));
        // The trap stands a moment after the line was printed; what comes before it would kill.
        thread::sleep(Duration::from_millis(300));
        send(&child, signal);
        assert_eq!(shell_status(child.wait().unwrap()), 3, "{name}");
    }
}

#[test]
fn a_command_that_a_signal_kills_gives_128_and_its_number() {
    need!(root());
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGQUIT, 131), (Signal::SIGUSR2, 140)] {
        // Who starts the tests may ignore SIGQUIT, and what is ignored stays so.
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(tool_path("ns-spawn"));
        command.arg("--root").arg(busybox_rootfs()).args([
            "--",
            "sh",
            "-c",
            "echo ready; exec sleep 60",
        ]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        thread::sleep(Duration::from_millis(300)); // ash ignores SIGQUIT: it comes after the exec
        send(&child, signal);
        assert_eq!(shell_status(child.wait().unwrap()), code);
    }
}

#[test]
fn a_second_sigterm_kills() {
    need!(root());
    let mut child = started("trap '' TERM; while :; do sleep 0.1; done");
    thread::sleep(Duration::from_millis(300));
    send(&child, Signal::SIGTERM);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None);
    send(&child, Signal::SIGTERM);
    assert_eq!(shell_status(child.wait().unwrap()), 137);
}

#[test]
fn the_container_dies_with_its_supervisor() {
    need!(root());
    let mut child = started("sleep 61001 & exec sleep 61002");
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
fn a_rootfs_whose_mount_points_are_links_is_refused_and_nothing_outside_changes() {
    need!(root());
    for name in ["proc", "sys", "dev"] {
        let dir = tempfile::tempdir().unwrap();
        let (rootfs, victim) = (dir.path().join("rootfs"), dir.path().join("victim"));
        write_busybox_rootfs(&rootfs);
        fs::create_dir(&victim).unwrap();
        fs::remove_dir(rootfs.join(name)).unwrap();
        symlink(&victim, rootfs.join(name)).unwrap();
        let refused = outcome(spawn(&rootfs).args(["--", "true"]));
        let expected = format!(
            "ns-spawn: cannot mount on '/{name}': Too many symbolic links encountered (ELOOP)\n  hint: it must \
             be a directory and is a symbolic link\n"
        );
        assert_eq!(refused, failure(125, expected));
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    }
}

#[test]
fn root_inside_cannot_climb_out_of_the_root_directory() {
    need!(root());
    let line = "mkdir -p /tmp/x && cd / && chroot /tmp/x true 2>/dev/null; cd ../../../../..; ls -d bin/busybox; \
                ls -d lost+found boot 2>/dev/null; cat /proc/self/mountinfo | wc -l";
    let seen = inside(line).success().stdout;
    assert!(seen.starts_with("bin/busybox\n"), "{seen}");
    assert!(!seen.contains("boot"), "{seen}");
}

#[test]
fn the_host_keeps_no_mount_of_a_container() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    write_busybox_rootfs(dir.path());
    for _ in 0..20 {
        outcome(spawn(dir.path()).args(["--", "true"])).success();
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
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
fn the_working_directory_is_inside() {
    need!(root());
    assert_eq!(inside_with(&["--workdir", "/tmp"], "pwd").success().stdout, "/tmp\n");
    let expected =
        "ns-spawn: cannot enter working directory '/nosuch': No such file or directory (ENOENT)\n";
    assert_eq!(inside_with(&["--workdir", "/nosuch"], "pwd"), failure(125, expected.into()));
}

#[test]
fn a_dry_run_prints_the_steps_and_takes_none() {
    let dir = tempfile::tempdir().unwrap();
    let printed =
        outcome(spawn(dir.path()).args(["--dry-run", "--", "sh", "-c", "echo hi"])).success();
    let shown = printed.stdout.replace(dir.path().to_str().unwrap(), "ROOTFS");
    let expected =
        fs::read_to_string(crate::support::top().join("tests/expected/ns-spawn-dry-run.txt"));
    let without_term = |text: &str| {
        text.split(' ').filter(|w| !w.starts_with("TERM=")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(without_term(&shown), without_term(&expected.unwrap()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn verbose_says_the_same_steps_as_they_are_taken() {
    need!(root());
    let seen = inside_with(&["--verbose"], "echo hi").success();
    assert_eq!(seen.stdout, "hi\n");
    let printed = inside_with(&["--dry-run"], "echo hi").success().stdout;
    let steps: Vec<_> = printed
        .lines()
        .filter(|line| *line != "EOF")
        .map(|line| line.trim_end_matches(" <<'EOF'"))
        .collect();
    let taken: Vec<_> = seen
        .stderr
        .lines()
        .map(|line| line.trim_start_matches("+ ").split("  # ").next().unwrap())
        .collect();
    assert_eq!(taken, steps);
}

/// A script that runs a container's shell as a script of the lab does, and goes on afterwards.
fn script_in_a_terminal(options: &str) -> Pty {
    let line = format!(
        "{} --root {} {options} -- sh -i; echo rc=$?; read x; echo got=$x",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    let mut command = Command::new("bash");
    command.args(["--norc", "-i"]).env("PS1", "outer> ").env("LINE", line);
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

/// A root file system that has what a distribution's has in /etc.
fn rootfs_with_names() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_busybox_rootfs(dir.path());
    fs::write(dir.path().join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::write(dir.path().join("etc/hostname"), "image\n").unwrap();
    dir
}

#[test]
fn no_mount_of_the_host_is_in_the_container_whatever_its_root_is_made_of() {
    need!(root());
    let dir = rootfs_with_names();
    let shown = dir.path().to_str().unwrap();
    let overlay = tempfile::tempdir().unwrap();
    let kept = format!("--overlay={}", overlay.path().display());
    for options in [vec![], vec!["--overlay"], vec!["--read-only"], vec![&kept]] {
        let line = "cut -d ' ' -f 4,5 /proc/self/mountinfo; ls /..";
        let seen = outcome(spawn(dir.path()).args(&options).args(["--", "sh", "-c", line]))
            .success()
            .stdout;
        let own = ["/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname"];
        let foreign: Vec<_> = seen
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(from, to)| {
                let root = *to == "/" && (*from == shown || *from == "/");
                !root && !own.iter().any(|own| to.starts_with(own))
            })
            .collect();
        assert_eq!(foreign, [], "{options:?}");
        let roots = seen.lines().filter(|line| line.ends_with(" /")).count();
        assert_eq!(roots, 1, "{options:?}: {seen}");
    }
}

#[test]
fn the_containers_name_is_in_its_etc() {
    need!(root());
    let dir = rootfs_with_names();
    let line = "cat /etc/hostname; grep box /etc/hosts; ls /dev/hosts";
    let seen = outcome(spawn(dir.path()).args(["--hostname", "box", "--", "sh", "-c", line]));
    assert_eq!(seen.stdout, "box\n127.0.1.1\tbox\n");
    assert_eq!(fs::read_to_string(dir.path().join("etc/hostname")).unwrap(), "image\n");
}

#[test]
fn an_overlay_takes_the_changes() {
    need!(root());
    let dir = rootfs_with_names();
    let line = "echo x >/new; rm /etc/passwd; ls /new";
    assert_eq!(
        outcome(spawn(dir.path()).args(["--overlay", "--", "sh", "-c", line])).success().stdout,
        "/new\n"
    );
    assert!(!dir.path().join("new").exists() && dir.path().join("etc/passwd").exists());
    // With a directory they are kept there.
    let upper = tempfile::tempdir().unwrap();
    let option = format!("--overlay={}", upper.path().display());
    outcome(spawn(dir.path()).args([&option, "--", "sh", "-c", line])).success();
    assert_eq!(fs::read_to_string(upper.path().join("upper/new")).unwrap(), "x\n");
    let again = outcome(spawn(dir.path()).args([&option, "--", "cat", "/new"])).success();
    assert_eq!(again.stdout, "x\n");
    assert!(!dir.path().join("new").exists());
}

#[test]
fn binds_are_as_asked_for_all_the_way_down() {
    need!(root());
    let host = Host::new();
    let (dir, source) = (rootfs_with_names(), tempfile::tempdir().unwrap());
    fs::create_dir(source.path().join("sub")).unwrap();
    let shown = source.path().display();
    host.sh(&format!("mount -t tmpfs tmpfs {shown}/sub && mknod {shown}/sub/zero c 1 5")).success();
    let line = "touch /ro/x /ro/sub/x /rw/x /rw/sub/x; head -c 1 /rw/sub/zero; cat /a/b/file";
    let file = source.path().join("file");
    fs::write(&file, "content\n").unwrap();
    let mut command = host.tool("ns-spawn");
    command.arg("--root").arg(dir.path());
    command.args(["--ro-bind", &format!("{shown}:/ro"), "--bind", &format!("{shown}:/rw")]);
    command.args(["--bind", &format!("{}:/a/b/file", file.display()), "--", "sh", "-c", line]);
    let seen = outcome(&mut command);
    let refused = "touch: /ro/x: Read-only file system\ntouch: /ro/sub/x: Read-only file system\n\
                   head: /rw/sub/zero: Permission denied\n";
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("content\n", refused));
    assert!(source.path().join("x").exists());
}

#[test]
fn a_bind_target_that_is_a_link_stays_inside() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    let (rootfs, victim) = (dir.path().join("rootfs"), dir.path().join("victim"));
    write_busybox_rootfs(&rootfs);
    fs::create_dir(&victim).unwrap();
    symlink(&victim, rootfs.join("evil")).unwrap();
    symlink("../../../../../../../..", rootfs.join("up")).unwrap();
    for target in ["/evil/sub", "/up/sub", "/evil"] {
        let bind = format!("{}:{target}", dir.path().join("rootfs/etc").display());
        let seen = outcome(spawn(&rootfs).args([
            "--bind",
            &bind,
            "--",
            "ls",
            &format!("{target}/passwd"),
        ]));
        assert_eq!(seen.stdout, format!("{target}/passwd\n"), "{seen:?}");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    }
    assert!(!dir.path().join("sub").exists());
}

#[test]
fn wrong_mounts_are_refused_before_anything_is_made() {
    need!(root());
    let shown = busybox_rootfs().display();
    let cases: [(&[&str], &str); 6] = [
        (&["--bind", "/nosuch"], "cannot open '/nosuch': No such file or directory (ENOENT)"),
        (&["--bind", "etc"], "mount point 'etc' does not begin with '/'"),
        (&["--bind", "/etc:/"], "nothing can be mounted on '/': --root says what is there"),
        (&["--bind", "/dev/null:/x"], "'/dev/null' is a device node: --device takes it"),
        (
            &["--tmpfs", "/x:uid=0"],
            "'uid=0' is no option of --tmpfs; it takes size=, mode= and nr_inodes=",
        ),
        (&["--tmpfs", "/x", "--mask", "/x"], "two mounts are asked for on '/x'"),
    ];
    for (options, message) in cases {
        let mut command = tool("ns-spawn");
        command.args(["--root", &shown.to_string()]).args(options).args(["--", "true"]);
        assert_eq!(outcome(&mut command), failure(125, format!("ns-spawn: {message}\n")));
    }
}

#[test]
fn tmpfs_masks_and_devices_are_where_they_were_asked_for() {
    need!(root());
    let line = "echo x >/scratch/x; stat -c %a /scratch; cat /etc/group; head -c 3 /dev/nothing | wc -c; \
                echo kept >/dev/nothing";
    let options =
        ["--tmpfs", "/scratch:mode=700,size=1m", "--mask", "/etc/group", "--mask", "/nosuch"];
    let device = ["--device", "/dev/zero:/dev/nothing"];
    let dir = rootfs_with_names();
    let seen = outcome(spawn(dir.path()).args(options).args(device).args(["--", "sh", "-c", line]))
        .success();
    assert_eq!(seen.stdout, "700\n3\n");
}

#[test]
fn capabilities_can_be_added_and_dropped() {
    need!(root());
    let effective = |options: &[&str]| {
        inside_with(options, "grep CapEff /proc/self/status | cut -f 2")
            .success()
            .stdout
            .trim()
            .to_owned()
    };
    assert_eq!(effective(&["--cap-add", "NET_ADMIN"]), "00000000a80435fb");
    assert_eq!(effective(&["--cap-drop", "ALL"]), "0000000000000000");
    assert_eq!(effective(&["--cap-drop", "ALL", "--cap-add", "cap_kill"]), "0000000000000000");
    let unknown = inside_with(&["--cap-add", "NET"], "true");
    let message = "ns-spawn: 'NET' is no capability\n  hint: capabilities(7) lists them; ALL means every one\n";
    assert_eq!(unknown, failure(125, message.into()));
}

#[test]
fn a_privileged_container_has_it_all() {
    need!(root());
    let line = "mkdir -p /tmp/m && mount -t tmpfs tmpfs /tmp/m && echo mounted; ls /proc/acpi | head -c 0; \
                [ -c /proc/kcore ] || echo shown; grep NoNewPrivs /proc/self/status";
    let dir = rootfs_with_names();
    let seen = outcome(spawn(dir.path()).args(["--privileged", "--", "sh", "-c", line])).success();
    assert_eq!(seen.stdout, "mounted\nshown\nNoNewPrivs:\t0\n");
}

#[test]
fn resources_are_what_was_asked_for() {
    need!(root());
    let options = [
        "--rlimit",
        "nofile=64:128",
        "--nice",
        "5",
        "--oom-score-adj",
        "100",
        "--cpu-affinity",
        "0",
    ];
    let line = "ulimit -n; ulimit -Hn; cut -d ' ' -f 19 /proc/self/stat; cat /proc/self/oom_score_adj; grep Cpus_allowed_list /proc/self/status";
    let seen = inside_with(&options, line).success().stdout;
    assert_eq!(seen, "64\n128\n5\n100\nCpus_allowed_list:\t0\n");
    let shown = inside_with(&["--time", "86400"], "cut -d . -f 1 /proc/uptime").success().stdout;
    assert!(shown.trim().parse::<u64>().unwrap() >= 86400, "{shown}");
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
    send(&child, Signal::SIGTERM);
    assert_eq!(shell_status(child.wait().unwrap()), 137);
}

#[test]
fn descriptors_are_passed_on_only_when_asked_for() {
    need!(root());
    let program = tool_path("ns-spawn");
    let line = format!(
        "exec 7< <(echo seven) 8</dev/null; {} --root {} --pass-fd 7 -- sh -c 'cat <&7; ls /proc/self/fd'",
        program.display(),
        busybox_rootfs().display()
    );
    assert_eq!(sh(&line).success().stdout, "seven\n0\n1\n2\n3\n7\n");
    let closed = inside_with(&["--pass-fd", "77"], "true");
    assert_eq!(
        closed,
        failure(125, "ns-spawn: cannot pass on descriptor 77: Bad file number (EBADF)\n".into())
    );
}

#[test]
fn programs_are_told_of_the_start_and_the_end() {
    need!(root());
    let report = |options: &str| {
        let line = format!(
            "exec 5>&1; {} --root {} --status-fd 5 {options} >/dev/null 2>&1",
            tool_path("ns-spawn").display(),
            busybox_rootfs().display()
        );
        let said = sh(&line).stdout;
        said.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect::<Vec<serde_json::Value>>()
    };
    let told = report("-- sh -c 'exit 3'");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!((&told[0]["event"], &told[1]["event"]), (&"started".into(), &"exited".into()));
    assert!(
        told[0]["pid"].as_u64().unwrap() > 1 && told[0]["namespaces"]["pid"].as_u64().is_some()
    );
    assert_eq!((&told[1]["code"], &told[1]["signal"]), (&3.into(), &serde_json::Value::Null));
    let told = report("-- sh -c 'kill -KILL $$'");
    assert_eq!((&told[1]["code"], &told[1]["signal"]), (&serde_json::Value::Null, &9.into()));
    let told = report("-- /nosuch");
    assert_eq!((told.len(), &told[0]["event"], &told[0]["errno"]), (1, &"error".into(), &2.into()));
}

#[test]
fn another_command_joins_a_container_that_runs() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let mut command = spawn(busybox_rootfs());
    command.arg("--pid-file").arg(&pid_file).args(["--hostname", "joined", "--", "sleep", "60"]);
    let mut container = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let pid = loop {
        match fs::read_to_string(&pid_file) {
            Ok(text) if text.ends_with('\n') => break text.trim().to_owned(),
            _ => assert!(Instant::now() < deadline, "there is no PID"),
        }
    };
    let join =
        |line: &str| outcome(tool("ns-spawn").args(["--join", &pid, "--", "sh", "-c", line]));
    let line = "hostname; cat /proc/1/comm; cat /proc/2/comm; grep -E 'CapEff|NoNew|Seccomp:' /proc/self/status";
    let expected =
        "joined\nns-spawn: init\nsleep\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n";
    assert_eq!(join(line).success().stdout, expected);
    assert_eq!(join("exit 5").code, 5);
    assert_eq!(join("kill -TERM $$").code, 143);
    assert_eq!(outcome(tool("ns-spawn").args(["--join", &pid, "--", "/nosuch"])).code, 127);
    container.kill().unwrap();
    container.wait().unwrap();
    let refused = outcome(tool("ns-spawn").args(["--join", "0"]));
    assert_eq!(refused, failure(125, "ns-spawn: '0' is no process ID\n".into()));
}

#[test]
fn it_says_what_the_host_can_do() {
    need!(root());
    let seen = run("ns-spawn", &["--check"]).success();
    assert!(seen.stdout.lines().any(|line| line == "yes  mount namespaces"), "{seen:?}");
    assert!(!seen.stdout.contains("NO "), "{seen:?}");
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

/// A command as an ordinary user, with nothing of root's, on `host`.
fn as_user(host: &Host, program: &Path) -> Command {
    let mut command = host.command("setpriv");
    command.args([
        "--reuid",
        "12345",
        "--regid",
        "12345",
        "--clear-groups",
        "--inh-caps=-all",
        "--",
    ]);
    command.arg(program);
    command
}

/// A directory that everybody may enter, and the tool where everybody may run it.
fn for_everybody() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("ns-spawn");
    write_program(&fs::read(tool_path("ns-spawn")).unwrap(), &program);
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (dir, program)
}

#[test]
fn an_ordinary_user_without_ranges_is_root_inside_and_nobody_else() {
    need!(root());
    let host = Host::new();
    host.sh("mkdir /run/etc && cp --archive /etc/. /run/etc && mount --bind /run/etc /etc && \
             : >/etc/subuid && : >/etc/subgid")
        .success();
    let (dir, program) = for_everybody();
    let rootfs = dir.path().join("rootfs");
    write_busybox_rootfs(&rootfs);
    sh(&format!("chown -R 12345:12345 {}", rootfs.display())).success();
    let line = "id -u; cat /proc/self/uid_map; touch /made; cat /proc/1/environ 2>/dev/null || echo hidden; \
                grep CapEff /proc/self/status; ls /sys/class/net; echo x >/dev/null; tty; \
                chown 1 /made 2>/dev/null || echo refused";
    let mut command = as_user(&host, &program);
    command.arg("--root").arg(&rootfs).args(["--", "sh", "-c", line]);
    let seen = outcome(&mut command);
    let expected = "0\n         0      12345          1\nhidden\nCapEff:\t00000000a80425fb\nlo\nnot a tty\nrefused\n";
    assert_eq!(seen.stdout, expected, "{seen:?}");
    let lost = "ns-spawn: only root exists inside, as there are no other users for it: /etc/subuid gives \
                user 12345 none\n";
    assert_eq!(seen.stderr, lost);
    let made = fs::metadata(rootfs.join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 12345);
    // And with everything else: an overlay, binds, a read-only root.
    let mut command = as_user(&host, &program);
    command.arg("--root").arg(&rootfs).args(["--overlay", "--bind", "/etc/os-release:/release"]);
    command.args(["--", "sh", "-c", "cat /release; touch /new"]);
    let release = fs::read_to_string("/etc/os-release").unwrap();
    assert_eq!(outcome(&mut command).success().stdout, release);
    assert!(!rootfs.join("new").exists());
}

#[test]
fn an_ordinary_user_with_ranges_can_install_packages() {
    need!(root());
    need!(crate::support::installed("newuidmap"));
    let host = Host::new();
    host.sh("mkdir /run/etc && cp --archive /etc/. /run/etc && mount --bind /run/etc /etc && \
             echo tester:x:12345:12345::/:/bin/sh >>/etc/passwd && \
             echo tester:700000:65536 >/etc/subuid && cp /etc/subuid /etc/subgid")
        .success();
    let (dir, program) = for_everybody();
    let (rootfs, busybox) = (dir.path().join("rootfs"), dir.path().join("busybox"));
    write_busybox_rootfs(&busybox);
    fs::create_dir(&rootfs).unwrap();
    sh(&format!("chown -R 12345:12345 {} {}", rootfs.display(), busybox.display())).success();
    // Unpacked inside, the tree gets the owners that it has inside.
    let mut unpack = as_user(&host, &program);
    unpack.arg("--root").arg(&busybox).arg("--bind").arg(format!("{}:/tree", rootfs.display()));
    let tarball = crate::fixture::debian_tarball();
    let unpacked = "gunzip -c | tar -x -f - -C /tree 2>/dev/null; test -x /tree/usr/bin/apt-get";
    let mut unpack = unpack
        .args(["--", "sh", "-c", unpacked])
        .stdin(fs::File::open(tarball).unwrap())
        .spawn()
        .unwrap();
    assert_eq!(shell_status(unpack.wait().unwrap()), 0);
    // A package of its own: this host's network leads nowhere.
    let line = "mkdir -p /tmp/p/DEBIAN /tmp/p/opt && echo payload >/tmp/p/opt/payload && \
                printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: t <t@t>\\nDescription: t\\n' \
                >/tmp/p/DEBIAN/control && echo 'chown nobody /opt/payload' >/tmp/p/DEBIAN/postinst && \
                sed -i '1i#!/bin/sh' /tmp/p/DEBIAN/postinst && chmod 755 /tmp/p/DEBIAN/postinst && \
                dpkg-deb --build /tmp/p /tmp/p.deb >/dev/null && apt-get install --yes /tmp/p.deb >/dev/null 2>&1; \
                stat -c %U /opt/payload; setpriv --reuid 100 --clear-groups id -u";
    let mut install = as_user(&host, &program);
    install.arg("--root").arg(&rootfs).args(["--", "sh", "-c", line]);
    let seen = outcome(&mut install);
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("nobody\n100\n", ""));
}

#[test]
fn proc_sys_and_dev_are_as_asked_for() {
    need!(root());
    let mounts = "for p in /proc /sys /dev; do grep \" $p \" /proc/mounts | cut -d ' ' -f 2,4 | cut -d , -f 1; done";
    let seen = inside_with(&["--proc", "ro", "--sys", "rw"], mounts).success().stdout;
    assert_eq!(seen, "/proc ro\n/sys rw\n/dev rw\n");
    let none = "ls -A /proc /sys /dev | wc -l; echo x 2>/dev/null >/dev/null || echo no";
    let seen =
        inside_with(&["--proc", "none", "--sys", "none", "--dev", "none"], none).success().stdout;
    assert!(seen.starts_with("5\n"), "{seen}"); // the three names and what parts them
    let refused = inside_with(&["--dev", "none", "--console", "pty"], "true");
    assert_eq!(
        refused,
        failure(125, "ns-spawn: a pty takes a /dev of the container's own\n".into())
    );
}

#[test]
fn a_rootfs_that_changes_while_it_is_set_up_leads_nowhere() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    let (rootfs, victim) = (dir.path().join("rootfs"), dir.path().join("victim"));
    write_busybox_rootfs(&rootfs);
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "untouched\n").unwrap();
    fs::create_dir_all(rootfs.join("a/b")).unwrap();
    symlink(&victim, rootfs.join("dev.link")).unwrap();
    symlink(&victim, rootfs.join("b.link")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        // Somebody inside swaps /dev and a bind's target for links that lead out, all the time.
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for (a, b) in [("dev", "dev.link"), ("a/b", "b.link")] {
                    renameat_with(CWD, rootfs.join(a), CWD, rootfs.join(b), RenameFlags::EXCHANGE)
                        .unwrap();
                }
            }
        });
        let bind = format!("{}:/a/b/new", rootfs.join("etc").display());
        let codes: Vec<_> = (0..150)
            .map(|_| outcome(spawn(&rootfs).args(["--bind", &bind, "--", "true"])).code)
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(codes.iter().all(|code| [0, 125].contains(code)), "{codes:?}");
    });
    let left: Vec<_> =
        fs::read_dir(&victim).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["file"]);
    assert_eq!(fs::read_to_string(victim.join("file")).unwrap(), "untouched\n");
}

#[test]
fn a_command_that_shares_the_terminal_stops_and_goes_on_with_its_job() {
    need!(root());
    let mut command = Command::new("bash");
    command.args(["--norc", "-i"]).env("PS1", "outer> ");
    let mut pty = Pty::start(&command, 24, 80);
    pty.see("outer> ");
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
    let mut command = Command::new("bash");
    command.args(["--norc", "-i"]).env("PS1", "outer> ");
    let mut pty = Pty::start(&command, 24, 80);
    pty.see("outer> ");
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
fn where_user_namespaces_are_off_it_says_so() {
    need!(root());
    // In a user namespace of the test's own, in which there may be no further ones.
    let line = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces; {} --userns --root {} -- true",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    let refused =
        outcome(Command::new("unshare").args(["--user", "--map-root-user", "sh", "-c", &line]));
    let expected = "ns-spawn: cannot create the namespaces: No space left on device (ENOSPC)\n  hint: \
                    user.max_user_namespaces is 0; what helps: sysctl user.max_user_namespaces=10000\n";
    assert_eq!(refused, failure(125, expected.into()));
}

#[test]
fn a_working_directory_by_a_descriptor_of_the_host_is_refused() {
    need!(root());
    // CVE-2024-21626: a descriptor left open in the container leads to the host's directories.
    for number in 0..40 {
        let workdir = format!("/proc/self/fd/{number}");
        let seen = inside_with(&["--workdir", &workdir], "ls ..; pwd");
        let outside = seen.stdout.lines().any(|line| ["boot", "lib64", "srv"].contains(&line));
        assert!(!outside && [0, 125].contains(&seen.code), "{workdir}: {seen:?}");
    }
}

#[test]
fn the_callers_groups_and_inheritable_capabilities_stay_outside() {
    need!(root());
    let mut command = Command::new("setpriv");
    command.args(["--groups", "5,6,7", "--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]);
    command.arg(tool_path("ns-spawn")).arg("--root").arg(busybox_rootfs());
    command.args(["--", "sh", "-c", "id -G; grep -E 'CapInh|CapAmb' /proc/self/status"]);
    let expected = "0\nCapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    assert_eq!(outcome(&mut command).success().stdout, expected);
}

#[test]
fn a_double_chroot_does_not_lead_out() {
    need!(root());
    let script = "mkdir '/tmp/x'; chroot '/tmp/x' or die; chdir '../' for 1..64; chroot '.' or die; \
                  opendir my $d, '/' or die; print join ' ', sort grep { /^(bin|nosuch)$/ } readdir $d; \
                  print -e '/proc/2/comm' ? ' inside' : ' outside'";
    let rootfs = crate::fixture::debian_rootfs();
    let seen = outcome(spawn(rootfs).args(["--overlay", "--", "perl", "-e", script])).success();
    assert_eq!(seen.stdout, "bin inside");
}

#[test]
fn an_interrupt_of_the_terminal_reaches_the_command_once() {
    need!(root());
    let mut command = Command::new("bash");
    command.args(["--norc", "-i"]).env("PS1", "outer> ");
    let mut pty = Pty::start(&command, 24, 80);
    pty.see("outer> ");
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

#[test]
fn on_a_kernel_without_mount_setattr_it_is_as_safe_or_says_no() {
    need!(root());
    need!(crate::support::installed("strace"));
    let traced = |rootfs: &Path, line: &str| {
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "inject=mount_setattr:error=ENOSYS",
            "--",
        ]);
        command.arg(tool_path("ns-spawn")).arg("--root").arg(rootfs).args(["--", "sh", "-c", line]);
        outcome(&mut command)
    };
    let line =
        "cd /tmp; mknod zero c 1 5; head -c 1 zero; rm zero; touch /proc/sys/kernel/hostname";
    let seen = traced(busybox_rootfs(), line);
    let refused = "head: zero: Permission denied\n\
                   touch: /proc/sys/kernel/hostname: Read-only file system\n";
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("", refused));
    // What lies below would stay as it is.
    let host = Host::new();
    let dir = rootfs_with_names();
    host.sh(&format!("mount -t tmpfs tmpfs {}/mnt", dir.path().display())).success();
    let line = format!(
        "strace -f -qq -o /dev/null -e inject=mount_setattr:error=ENOSYS -- {} --root {} -- true",
        tool_path("ns-spawn").display(),
        dir.path().display()
    );
    let expected = "ns-spawn: cannot forbid devices in the root directory: Function not implemented (ENOSYS)\n  \
                    hint: it takes Linux 5.12, or 5.8 and no other mounts below\n";
    assert_eq!(host.sh(&line), failure(125, expected.into()));
}
