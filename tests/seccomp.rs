//! The system call filter of ns-spawn from outside, by a small program that tries the calls.

use crate::{
    fixture::debian_rootfs,
    pty::Pty,
    support::{Outcome, outcome, root, tool, tool_path, top, write_busybox_rootfs},
};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// A root file system with `try`, built from `seccomp/try.c`. It ends with the value.
fn rootfs() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_busybox_rootfs(dir.path());
    let source = top().join("tests/seccomp/try.c");
    let mut compile = Command::new("cc");
    compile.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
    outcome(compile.arg(dir.path().join("bin/try")).arg(source)).success();
    dir
}

/// Run `command` in a container on `rootfs`, in a session that has no terminal.
#[track_caller]
fn inside(rootfs: &TempDir, options: &[&str], command: &[&str]) -> Outcome {
    let mut spawn = Command::new("setsid");
    spawn.arg("--wait").arg(tool_path("ns-spawn")).stdin(Stdio::null());
    outcome(spawn.arg("--root").arg(rootfs.path()).args(options).arg("--").args(command))
}

/// What `try WHAT` says, by lines.
#[track_caller]
fn tried(rootfs: &TempDir, options: &[&str], what: &str) -> Vec<String> {
    let said = inside(rootfs, options, &["try", what]).success();
    assert_eq!(said.stderr, "");
    said.stdout.lines().map(str::to_owned).collect()
}

/// A profile in a file of the test's own.
fn profile(dir: &Path, text: &str) -> String {
    let path = dir.join("profile.json");
    fs::write(&path, text).unwrap();
    path.into_os_string().into_string().unwrap()
}

#[test]
fn there_is_a_filter_unless_none_is_wanted() {
    need!(root());
    let rootfs = rootfs();
    let status = |options: &[&str]| {
        let line = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status";
        inside(&rootfs, options, &["sh", "-c", line]).success().stdout
    };
    assert_eq!(status(&[]), "NoNewPrivs:\t1\nSeccomp:\t2\n");
    assert_eq!(status(&["--seccomp", "default"]), "NoNewPrivs:\t1\nSeccomp:\t2\n");
    assert_eq!(status(&["--seccomp", "none"]), "NoNewPrivs:\t1\nSeccomp:\t0\n");
}

#[test]
fn dangerous_calls_are_refused_to_root_inside() {
    need!(root());
    let rootfs = rootfs();
    let refused = tried(&rootfs, &[], "refused");
    let done: Vec<_> = refused.iter().filter(|line| !line.ends_with(": EPERM")).collect();
    assert_eq!(done, Vec::<&String>::new());
    assert!(refused.len() >= 80, "{}", refused.len());
    // It is the filter that does so, not the lack of capabilities alone.
    let without = tried(&rootfs, &["--seccomp", "none"], "refused");
    assert_eq!(without.len(), refused.len());
    let by_filter = without.iter().filter(|line| !line.ends_with(": EPERM")).count();
    assert!(by_filter >= 40, "{without:#?}");
}

#[test]
fn what_programs_need_works_and_what_is_newer_is_not_there() {
    need!(root());
    let rootfs = rootfs();
    let mut expected = vec![
        "clone3: ENOSYS",
        "a call newer than the profile: ENOSYS",
        "a call that no kernel has: ENOSYS",
        "clone: done",
        "chroot: done",
        "personality, a question: done",
        "ptrace: done",
        "socket of AF_UNIX: done",
        "socket of AF_INET: done",
        "socket of AF_NETLINK: done",
        "socket of AF_PACKET: done",
    ];
    if cfg!(target_arch = "x86_64") {
        expected.extend(["x32 getpid: ENOSYS", "a thread: done", "32-bit getpid: done"]);
    } else {
        expected.push("a thread: done");
    }
    assert_eq!(tried(&rootfs, &[], "other"), expected);
}

#[test]
fn nothing_can_be_typed_at_a_terminal_of_the_caller() {
    need!(root());
    let rootfs = rootfs();
    let refused = "TIOCSTI on 0: EPERM\nTIOCSTI on 1: EPERM\nTIOCSTI on 2 and a bit above: EPERM\n\
                   TIOCLINUX on 1: EPERM\nTIOCSTI on 3: EPERM\nTIOCSTI on /dev/tty: ";
    let allowing = profile(rootfs.path(), r#"{ "defaultAction": "SCMP_ACT_ALLOW" }"#);
    let allowing = format!("--console inherit --seccomp {allowing}");
    // Without a controlling terminal there is nothing to open: ENXIO.
    let (no_streams, gone) = ("</dev/null 2>&1 | cat", "errno 6");
    for (options, streams, controlling) in [
        ("--console inherit", "", "EPERM"),
        ("--console inherit --seccomp none", "", "EPERM"),
        ("--console none --seccomp none", "", gone),
        ("--console pty", "", "EPERM"),
        (&allowing, "", "EPERM"),
        ("--seccomp none --privileged", no_streams, "EPERM"),
        ("--seccomp none --console none --pass-fd 3", "3<>/dev/tty </dev/null 2>&1 | cat", gone),
    ] {
        let line = format!(
            "{} --root {} {options} -- try typing {streams}; echo rc=$?; read x; echo got=$x",
            tool_path("ns-spawn").display(),
            rootfs.path().display()
        );
        let mut command = Command::new("bash");
        command.args(["-c", &line]);
        let mut pty = Pty::start(&command, 24, 80);
        let expected = format!("{refused}{controlling}\nrc=0\n").replace('\n', "\r\n");
        assert_eq!(pty.see("rc=0\r\n"), expected, "{options}");
        pty.enter("hello\n");
        pty.see("got=hello\r\n");
    }
}

#[test]
fn the_shell_and_its_tools_notice_no_filter() {
    need!(root());
    let rootfs = rootfs();
    let line = "echo a b | tr ' ' '\\n' | sort -r | head -n 1; mkdir /tmp/d && mknod /tmp/d/fifo p && \
                chown nobody /tmp/d && su nobody -s /bin/sh -c 'id -u'; \
                ping -c 1 -q 127.0.0.1 | grep -c ' 0% '; ls -l /proc/self/exe | wc -l";
    let said = inside(&rootfs, &[], &["sh", "-c", line]);
    let stdout = "b\n65534\n1\n1\n".into();
    assert_eq!(said, Outcome { code: 0, stdout, stderr: String::new() });
}

#[test]
fn the_filter_follows_the_capabilities() {
    need!(root());
    let rootfs = rootfs();
    let line = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; mount -t tmpfs tmpfs /mnt && echo mounted; \
                try refused | grep -E '^(keyctl|mount|unshare user|pidfd_getfd):'";
    let said = |options: &[&str]| inside(&rootfs, options, &["sh", "-c", line]).stdout;
    let (plain, filtered) = ("NoNewPrivs:\t0\nSeccomp:\t0\n", "NoNewPrivs:\t1\nSeccomp:\t2\n");
    // As far as the kernel: a bad address, a bad descriptor.
    let (mounts, traces) = ("mount: errno 14\nunshare user: done\n", "pidfd_getfd: errno 9\n");
    assert_eq!(
        said(&["--cap-add", "SYS_ADMIN"]),
        format!("{filtered}mounted\nkeyctl: EPERM\n{mounts}pidfd_getfd: EPERM\n")
    );
    assert_eq!(
        said(&["--cap-add", "SYS_PTRACE"]),
        format!("{filtered}keyctl: EPERM\nmount: EPERM\nunshare user: EPERM\n{traces}")
    );
    assert_eq!(said(&["--privileged"]), format!("{plain}mounted\nkeyctl: done\n{mounts}{traces}"));
    assert_eq!(
        said(&["--privileged", "--seccomp", "default"]),
        format!("NoNewPrivs:\t0\nSeccomp:\t2\nmounted\nkeyctl: EPERM\n{mounts}{traces}")
    );
    // Who becomes another user has no capability left to load a filter with.
    let unprivileged = ["--privileged", "--seccomp", "default", "--user", "nobody"];
    assert!(said(&unprivileged).starts_with("NoNewPrivs:\t0\nSeccomp:\t2\nkeyctl: EPERM\n"));
}

#[test]
fn who_joins_a_container_is_under_the_same_filter() {
    need!(root());
    let rootfs = rootfs();
    let mut spawn = tool("ns-spawn");
    spawn.arg("--root").arg(rootfs.path()).args(["--status-fd", "1", "--", "sleep", "60"]);
    let mut container = spawn.stdout(Stdio::piped()).spawn().unwrap();
    let mut started = String::new();
    BufReader::new(container.stdout.as_mut().unwrap()).read_line(&mut started).unwrap();
    let started: serde_json::Value = serde_json::from_str(&started).unwrap();
    let pid = started["pid"].to_string();
    let joined = outcome(tool("ns-spawn").args(["--join", &pid, "--", "try", "refused"]));
    container.kill().unwrap();
    container.wait().unwrap();
    assert_eq!(joined.success().stdout.lines().find(|line| !line.ends_with(": EPERM")), None);
}

#[test]
fn a_distributions_programs_notice_no_filter() {
    need!(root());
    // Threads of a C library that would rather use clone3, a package manager, an interpreter.
    let line = "sysbench --threads=4 --events=8 --time=0 cpu run | grep -c '^Threads started'; \
                dpkg --status bash | grep -c '^Status'; perl -e 'fork || exit 3; wait; print $? >> 8'";
    let mut spawn = tool("ns-spawn");
    spawn.arg("--root").arg(debian_rootfs()).args(["--", "bash", "-c", line]);
    let stdout = "1\n1\n3".into();
    assert_eq!(outcome(&mut spawn), Outcome { code: 0, stdout, stderr: String::new() });
}

#[test]
fn a_profile_in_a_file_decides_by_name_and_argument() {
    need!(root());
    let rootfs = rootfs();
    let text = r#"{
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] },
            { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] }
        ],
        "syscalls": [
            { "names": ["getppid", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
            { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97,
              "args": [{ "index": 0, "value": 2, "op": "SCMP_CMP_EQ" }] },
            { "names": ["chroot"], "action": "SCMP_ACT_ERRNO", "includes": { "caps": ["CAP_SYS_CHROOT"] } },
            { "names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "excludes": { "minKernel": "4.8" } },
            { "names": ["clone3"], "action": "SCMP_ACT_KILL_PROCESS" }
        ]
    }"#;
    let profile = profile(rootfs.path(), text);
    let options = ["--seccomp", &profile];
    assert_eq!(tried(&rootfs, &options, "getppid"), ["getppid: EOPNOTSUPP"]);
    let other = tried(&rootfs, &options, "other");
    for line in [
        "clone3: killed by signal 31",
        "chroot: EPERM",
        "ptrace: done",
        "socket of AF_UNIX: done",
        "socket of AF_INET: EAFNOSUPPORT",
        "socket of AF_NETLINK: done",
    ] {
        assert!(other.iter().any(|said| said == line), "'{line}' is not in {other:#?}");
    }
}

#[test]
fn a_profile_may_forbid_the_command_itself() {
    need!(root());
    let rootfs = rootfs();
    let text = r#"{ "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{ "name": "execve", "action": "SCMP_ACT_ERRNO" }] }"#;
    let profile = profile(rootfs.path(), text);
    let refused = inside(&rootfs, &["--seccomp", &profile], &["/bin/try", "other"]);
    let stderr = "ns-spawn: cannot run '/bin/try': Operation not permitted (EPERM)\n".into();
    assert_eq!(refused, Outcome { code: 126, stdout: String::new(), stderr });
}

#[test]
fn a_profile_that_cannot_be_used_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |option: &str| {
        let mut spawn = tool("ns-spawn");
        spawn.arg("--root").arg(dir.path()).args(["--seccomp", option, "--", "true"]);
        let Outcome { code, stdout, stderr } = outcome(&mut spawn);
        assert_eq!((code, stdout.as_str()), (125, ""), "{stderr}");
        stderr.replace(dir.path().to_str().unwrap(), "DIR")
    };
    assert_eq!(
        refusal("no-such.json"),
        "ns-spawn: cannot read seccomp profile 'no-such.json': No such file or directory (ENOENT)\n  \
         hint: 'default', 'none' or a profile in JSON is expected\n"
    );
    let cases = [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{}", "missing field `defaultAction` at line 1 column 2"),
        (
            r#"{ "defaultAction": "SCMP_ACT_NOTIFY" }"#,
            "unknown variant `SCMP_ACT_NOTIFY`, expected one of `SCMP_ACT_ALLOW`, `SCMP_ACT_ERRNO`, \
             `SCMP_ACT_KILL_PROCESS`, `SCMP_ACT_KILL`, `SCMP_ACT_KILL_THREAD`, `SCMP_ACT_LOG`, \
             `SCMP_ACT_TRACE`, `SCMP_ACT_TRAP` at line 1 column 36",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"] }"#,
            "unknown architecture 'SCMP_ARCH_Z80'",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5 }"#,
            "errno 5 is given for an action that takes none",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096 }"#,
            "errno 4096 is too large; the largest is 4095",
        ),
    ];
    for (text, reason) in cases {
        let profile = profile(dir.path(), text);
        assert_eq!(
            refusal(&profile),
            format!("ns-spawn: cannot use seccomp profile 'DIR/profile.json': {reason}\n")
        );
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the profile");
}
