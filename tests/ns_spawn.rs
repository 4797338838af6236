//! ns-spawn from outside.

use crate::{
    ns_spawn_mounts::rootfs_with_names,
    support::{
        Host, Outcome, busybox_rootfs, outcome, outcome_with_input, root, run, sh, tool, tool_path,
        write_busybox_rootfs, write_program,
    },
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// Run `line` by the shell of a container.
#[track_caller]
pub(crate) fn inside(line: &str) -> Outcome {
    inside_with(&[], line)
}

/// The same, with options.
#[track_caller]
pub(crate) fn inside_with(options: &[&str], line: &str) -> Outcome {
    outcome(spawn(busybox_rootfs()).args(options).args(["--", "sh", "-c", line]))
}

pub(crate) fn spawn(rootfs: &Path) -> Command {
    let mut command = tool("ns-spawn");
    command.arg("--root").arg(rootfs);
    command
}

/// Whether a process with `word` in its command line lives. It must not be in this test's own.
pub(crate) fn lives(word: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    })
}

#[track_caller]
pub(crate) fn gone_soon(word: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while lives(word) {
        assert!(Instant::now() < deadline, "'{word}' goes on");
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn failure(code: i32, stderr: String) -> Outcome {
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
    let compile =
        "echo 'int main(void) { return 0; }' | cc -x c - -Wl,--dynamic-linker=/lib/nosuch.so -o";
    sh(&format!("{compile} {}/bin/program", dir.path().display())).success();
    write_program(b"#!/bin/sh\n", &dir.path().join("bin/busy"));
    let _writer = fs::OpenOptions::new().append(true).open(dir.path().join("bin/busy")).unwrap();
    let cases = [
        (
            "script",
            "cannot run 'script': No such file or directory (ENOENT)\n  hint: it is there; '/bin/nosuch', which \
             runs it, is missing\n",
        ),
        (
            "program",
            "cannot run 'program': No such file or directory (ENOENT)\n  hint: it is there; '/lib/nosuch.so', \
             which runs it, is missing\n",
        ),
        ("busy", "cannot run 'busy': Text file busy (ETXTBSY)\n"),
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
fn a_command_is_looked_up_inside_by_the_path_of_its_own_environment() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    write_busybox_rootfs(dir.path());
    fs::create_dir(dir.path().join("opt")).unwrap();
    write_program(b"#!/bin/sh\necho from opt\n", &dir.path().join("opt/tool"));
    let run = |path: &str, command: &str| {
        outcome(
            spawn(dir.path())
                .args(["--env", path, "--", command])
                .env("PATH", "/opt:/bin:/usr/bin"),
        )
    };
    assert_eq!(run("PATH=/nosuch:/opt", "tool").success().stdout, "from opt\n");
    assert_eq!(run("PATH=/opt", "sh").code, 127);
    assert_eq!(run("PATH=/bin", "tool").code, 127);
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
       ns-spawn --generate <FORMAT>

For more information, try '--help'.
";
    assert_eq!(run("ns-spawn", &["--bogus"]), failure(125, expected.into()));
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
fn streams_pass_through_byte_for_byte() {
    need!(root());
    let cat = |input: &[u8]| outcome_with_input(spawn(busybox_rootfs()).args(["--", "cat"]), input);
    assert_eq!(cat(b"hi\n").success().stdout, "hi\n");
    assert_eq!(cat(b"").success().stdout, "");
    let seen = inside("echo out; echo err >&2");
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("out\n", "err\n"));
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
    // The same number, but COMMAND's own.
    let told = report("-- sh -c 'exit 127'");
    assert_eq!((&told[1]["event"], &told[1]["code"]), (&"exited".into(), &127.into()));
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
    let on_pty = tool("ns-spawn").args(["--join", &pid, "--console", "pty", "--", "tty"]).output();
    assert_eq!(Outcome::from(on_pty.unwrap()).success().stdout, "/dev/pts/0\r\n");
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
