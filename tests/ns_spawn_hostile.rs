//! ns-spawn from outside: root file systems and commands that want out.

use crate::{
    ns_spawn::{failure, inside, inside_with, spawn},
    support::{
        Outcome, busybox_rootfs, installed, outcome, root, sh, tool, tool_path, top,
        write_busybox_rootfs, write_program,
    },
};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::symlink},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

/// A directory of the host's that nothing may change. The result is its state.
fn make_victim(victim: &Path) -> String {
    fs::create_dir_all(victim.join("dir")).unwrap();
    for (name, text) in
        [("file", "untouched\n"), ("dir/passwd", "root:x:0:0\n"), ("null", ""), ("console", "")]
    {
        fs::write(victim.join(name), text).unwrap();
    }
    state_of(victim)
}

/// All that can be known of a directory: names, kinds, modes, owners, sizes, times, contents.
fn state_of(dir: &Path) -> String {
    let line = "cd \"$0\" && find . -printf '%p %y %m %U:%G %s %T@ %C@ %l\\n' | sort && \
                find . -type f -exec sha256sum {} + | sort";
    outcome(Command::new("bash").args(["-c", line]).arg(dir)).success().stdout
}

/// CVE-2024-21626: what is run must not be found through a descriptor that the set-up had of the host.
#[test]
fn no_descriptor_of_the_hosts_leads_to_the_command() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    let rootfs = dir.path().join("rootfs");
    write_busybox_rootfs(&rootfs);
    fs::copy(rootfs.join("bin/busybox"), dir.path().join("outside")).unwrap();
    for number in 3..64 {
        let link = format!("/bin/busybox{number}");
        let target = format!("/proc/self/fd/{number}/../outside");
        symlink(target, rootfs.join(&link[1..])).unwrap();
        for option in ["--hostname=x", "--as-pid-1", "--status-fd=2"] {
            let ended = outcome(spawn(&rootfs).args([option, "--", &link, "echo", "outside"]));
            assert!([126, 127].contains(&ended.code), "{link} {option}: {ended:?}");
            assert_eq!(ended.stdout, "", "{link} {option}");
        }
    }
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
fn a_rootfs_whose_mount_points_are_links_is_refused_and_nothing_outside_changes() {
    need!(root());
    for name in ["proc", "sys", "dev"] {
        let dir = tempfile::tempdir().unwrap();
        let (rootfs, victim) = (dir.path().join("rootfs"), dir.path().join("victim"));
        write_busybox_rootfs(&rootfs);
        let before = make_victim(&victim);
        fs::remove_dir(rootfs.join(name)).unwrap();
        symlink(&victim, rootfs.join(name)).unwrap();
        let refused = outcome(spawn(&rootfs).args(["--", "true"]));
        let expected = format!(
            "ns-spawn: cannot mount on '/{name}': Too many symbolic links encountered (ELOOP)\n  hint: it must \
             be a directory and is a symbolic link\n"
        );
        assert_eq!(refused, failure(125, expected));
        assert_eq!(state_of(&victim), before);
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
fn a_bind_target_that_is_a_link_stays_inside() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    let (rootfs, victim) = (dir.path().join("rootfs"), dir.path().join("victim"));
    write_busybox_rootfs(&rootfs);
    let before = make_victim(&victim);
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
        assert_eq!(state_of(&victim), before);
    }
    assert!(!dir.path().join("sub").exists());
    // A link that stays inside is followed: distributions have /var/run so.
    fs::create_dir(rootfs.join("var")).unwrap();
    symlink("/run", rootfs.join("var/run")).unwrap();
    let bind = format!("{}:/var/run/x", rootfs.join("etc").display());
    let seen = outcome(spawn(&rootfs).args(["--bind", &bind, "--", "ls", "/run/x/passwd"]));
    assert_eq!(seen.success().stdout, "/run/x/passwd\n");
}

#[test]
fn a_rootfs_that_changes_while_it_is_set_up_leads_nowhere() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    let (rootfs, victim) = (dir.path().join("rootfs"), dir.path().join("victim"));
    write_busybox_rootfs(&rootfs);
    let before = make_victim(&victim);
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
    assert_eq!(state_of(&victim), before);
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
    for options in [&[][..], &["--cap-add", "ALL"], &["--privileged"]] {
        let mut command = spawn(rootfs);
        command.arg("--overlay").args(options).args(["--", "perl", "-e", script]);
        assert_eq!(outcome(&mut command).success().stdout, "bin inside", "{options:?}");
    }
}

#[test]
fn what_a_rootfs_has_in_its_dev_is_not_used() {
    need!(root());
    // CVE-2025-31133 and CVE-2025-52565: links in the place of what masks are made of, and of terminals.
    let dir = tempfile::tempdir().unwrap();
    let (rootfs, victim) = (dir.path().join("rootfs"), dir.path().join("victim"));
    write_busybox_rootfs(&rootfs);
    let before = make_victim(&victim);
    for name in ["null", "console", "tty", "ptmx", "zero"] {
        symlink(victim.join("null"), rootfs.join("dev").join(name)).unwrap();
    }
    symlink(&victim, rootfs.join("dev/pts")).unwrap();
    symlink(&victim, rootfs.join("dev/shm")).unwrap();
    let line = "stat -c '%t:%T' /proc/keys /dev/null /dev/zero; echo x >/proc/keys; echo y >/dev/null; tty; \
                touch /dev/shm/x; echo z >/dev/console";
    let seen = outcome(spawn(&rootfs).args(["--console", "pty", "--", "sh", "-c", line])).success();
    assert_eq!(seen.stdout, "1:3\r\n1:3\r\n1:5\r\n/dev/pts/0\r\nz\r\n");
    assert_eq!(state_of(&victim), before);
}

#[test]
fn a_proc_of_the_rootfs_is_not_taken_for_the_kernels() {
    need!(root());
    // CVE-2025-52881: what is meant for the kernel would go elsewhere.
    let dir = tempfile::tempdir().unwrap();
    write_busybox_rootfs(dir.path());
    fs::create_dir(dir.path().join("proc/self")).unwrap();
    let fake = dir.path().join("proc/self/oom_score_adj");
    fs::write(&fake, "0\n").unwrap();
    let seen =
        outcome(spawn(dir.path()).args(["--proc", "none", "--oom-score-adj", "5", "--", "true"]));
    let expected =
        "ns-spawn: cannot set the OOM score adjustment 5: No such file or directory (ENOENT)\n";
    assert_eq!(seen, failure(125, expected.into()));
    assert_eq!(fs::read_to_string(fake).unwrap(), "0\n");
}

#[test]
fn no_cgroup_file_system_is_there_or_can_be_mounted() {
    need!(root());
    // CVE-2022-0492: a release agent runs as the host's root.
    let line = "ls -A /sys/fs/cgroup; mkdir /tmp/cg; mount -t cgroup -o memory none /tmp/cg; \
                mount -t cgroup2 none /tmp/cg; rmdir /tmp/cg; grep -c cgroup /proc/mounts";
    let refused = "mount: permission denied (are you root?)\n".repeat(2);
    assert_eq!(inside(line), Outcome { code: 1, stdout: "0\n".into(), stderr: refused });
}

/// A copy of the tool in a directory of its own, to be attacked: the real one is not put at risk.
fn copy_of_the_tool(dir: &Path, name: &str) -> PathBuf {
    let copy = dir.join(name);
    write_program(&fs::read(tool_path("ns-spawn")).unwrap(), &copy);
    copy
}

#[test]
fn who_may_trace_cannot_write_to_the_hosts_program_through_init() {
    need!(root());
    // CVE-2019-5736
    let dir = tempfile::tempdir().unwrap();
    let original = fs::read(tool_path("ns-spawn")).unwrap();
    for (round, options) in
        [&["--privileged"][..], &["--cap-add", "SYS_PTRACE"], &["--cap-add", "ALL"]]
            .iter()
            .enumerate()
    {
        let copy = copy_of_the_tool(dir.path(), &format!("attacked-{round}"));
        let line = "read go; readlink /proc/1/exe; cat /proc/1/comm; : >>/proc/1/exe; \
                    echo owned >/proc/1/exe; read wait";
        let mut command = Command::new(&copy);
        command.arg("--root").arg(busybox_rootfs()).args(*options);
        command.args(["--status-fd", "2", "--", "sh", "-c", line]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut container = command.spawn().unwrap();
        let mut started = String::new();
        BufReader::new(container.stderr.as_mut().unwrap()).read_line(&mut started).unwrap();
        let started: serde_json::Value = serde_json::from_str(&started).unwrap();
        // Who keeps it open, as somebody outside may for the container, waits until nobody runs it any more.
        let kept = File::open(format!("/proc/{}/exe", started["pid"])).unwrap();
        container.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let seen = Outcome::from(container.wait_with_output().unwrap());
        assert_eq!(seen.stdout, "/memfd:ns-spawn (deleted)\nns-spawn: init\n");
        let mut written = fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{}", kept.as_raw_fd()))
            .unwrap();
        assert_eq!(written.write_all(b"owned").unwrap_err().raw_os_error(), Some(1), "EPERM");
        assert!(fs::read(&copy).unwrap() == original, "{options:?}");
    }
    // In a user namespace no capability is of use against a program from outside.
    let seen = inside_with(&["--userns", "--privileged"], "readlink /proc/1/exe; : >>/proc/1/exe");
    assert_eq!(seen.stdout, "");
    assert!(seen.stderr.contains("can't create /proc/1/exe: Permission denied"), "{seen:?}");
}

/// A container of its own, whose first process has PID `pid` on the host. It ends with the value.
struct Running {
    supervisor: Child,
    pid: String,
    said: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut supervisor = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut started = String::new();
        BufReader::new(supervisor.stderr.as_mut().unwrap()).read_line(&mut started).unwrap();
        let started: serde_json::Value = serde_json::from_str(&started).unwrap();
        let mut said = BufReader::new(supervisor.stdout.take().unwrap());
        let mut ready = String::new();
        said.read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Self { pid: started["pid"].to_string(), supervisor, said }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.supervisor.kill());
        drop(self.supervisor.wait());
    }
}

#[test]
fn a_container_cannot_write_to_the_program_that_joins_it() {
    need!(root());
    // CVE-2019-5736, as it was first found: the command that is to be run inside is a link to what runs it. The
    // container keeps that open until the joining program has ended, and writes to it then.
    let attack = "mkfifo /tmp/fifo; echo ready; \
         while :; do for p in /proc/[0-9]*; do \
             [ \"$(cat $p/comm 2>/dev/null)\" = evil ] && exec 3<$p/exe && break 2; done; done; \
         readlink /proc/self/fd/3; echo >/tmp/fifo; i=0; \
         until { echo owned >/proc/self/fd/3; } 2>/tmp/error; do \
             i=$((i+1)); [ $i -lt 100 ] || break; sleep 0.01; done; \
         cut -d : -f 3 /tmp/error; exec sleep 60";
    for options in [&[][..], &["--privileged"]] {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        write_busybox_rootfs(&rootfs);
        symlink("/proc/self/exe", rootfs.join("bin/evil")).unwrap();
        let (runs, joins) =
            (copy_of_the_tool(dir.path(), "runs"), copy_of_the_tool(dir.path(), "joins"));
        let mut command = Command::new(runs);
        command.arg("--root").arg(&rootfs).args(options);
        command.args(["--status-fd", "2", "--", "sh", "-c", attack]);
        let mut container = Running::start(&mut command);
        let mut join = Command::new(&joins);
        join.args(["--join", &container.pid]).args(options);
        join.args(["--", "/bin/evil", "--root", "/", "--env-file", "/tmp/fifo", "--", "true"]);
        outcome(join.stdin(Stdio::null()));
        let mut said = String::new();
        container.said.read_line(&mut said).unwrap();
        container.said.read_line(&mut said).unwrap();
        assert_eq!(said, "/memfd:ns-spawn (deleted)\n Operation not permitted\n", "{options:?}");
        assert!(
            fs::read(&joins).unwrap() == fs::read(tool_path("ns-spawn")).unwrap(),
            "{options:?}"
        );
    }
}

#[test]
fn who_joins_a_container_shows_it_nothing_of_the_host() {
    need!(root());
    // CVE-2016-9962
    let dir = tempfile::tempdir().unwrap();
    write_busybox_rootfs(dir.path());
    let source = top().join("tests/hostile/watch.c");
    let mut compile = Command::new("cc");
    compile.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
    outcome(compile.arg(dir.path().join("bin/watch")).arg(source)).success();
    let mut command = spawn(dir.path());
    let mut container = Running::start(command.args(["--status-fd", "2", "--", "watch"]));
    for _ in 0..100 {
        let mut join = tool("ns-spawn");
        join.env("SECRET", "x").args(["--join", &container.pid, "--", "true"]);
        outcome(&mut join).success();
    }
    fs::write(dir.path().join("tmp/stop"), "").unwrap();
    let mut said = String::new();
    container.said.read_to_string(&mut said).unwrap();
    assert_eq!(said, "seen many\n");
}

#[test]
fn a_step_that_fails_lets_no_command_run() {
    need!(root());
    need!(installed("strace"));
    for call in [
        "seccomp",
        "capset",
        "setgroups",
        "setresgid",
        "setresuid",
        "prctl",
        "pivot_root",
        "umount2",
        "move_mount",
        "open_tree",
        "fsmount",
        "mount_setattr",
        "sethostname",
        "close_range",
        "chdir",
        "fchdir",
        "mount",
        "mknodat",
        "keyctl",
        "clone3",
        "fsconfig",
        "symlinkat",
        "mkdirat",
    ] {
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &format!("inject={call}:error=EPERM"),
            "--",
        ]);
        command.arg(tool_path("ns-spawn")).arg("--root").arg(busybox_rootfs());
        let options = ["--workdir", "/tmp", "--user", "7:8"];
        let seen = outcome(command.args(options).args(["--", "echo", "ran"]));
        assert_eq!((seen.code, seen.stdout.as_str()), (125, ""), "{call}: {seen:?}");
        assert!(seen.stderr.starts_with("ns-spawn: cannot "), "{call}: {seen:?}");
    }
}

#[test]
fn init_keeps_nothing_of_the_host() {
    need!(root());
    let mut command = spawn(busybox_rootfs());
    command.args(["--status-fd", "2", "--", "sh", "-c", "echo ready; exec sleep 60"]);
    let container = Running::start(command.env("SECRET", "x"));
    // As the host's root sees it, who may look.
    let line = format!(
        "cd /proc/{}; ls fd; tr -d '\\0' <environ; tr -d '\\0' <cmdline; cat comm; readlink root cwd; \
         grep -E 'CapPrm|CapEff' status",
        container.pid
    );
    let capabilities = "CapPrm:\t0000000000000020\nCapEff:\t0000000000000020\n"; // CAP_KILL
    assert_eq!(sh(&line).success().stdout, format!("ns-spawn: init\n/\n/\n{capabilities}"));
}

#[test]
fn what_was_read_at_the_start_is_given_back() {
    need!(root());
    need!(installed("strace"));
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=madvise,clone3", "-o"]).arg(&trace).arg("--");
    command.arg(tool_path("ns-spawn")).arg("--root").arg(busybox_rootfs()).args(["--", "true"]);
    outcome(&mut command).success();
    let trace = fs::read_to_string(trace).unwrap();
    let (supervisor, init) = trace.split_once("clone3(").unwrap();
    // By the supervisor before anything is made, if nothing of it is in use; by init in the end, with all that it has.
    let given_back = |calls: &str| calls.matches("MADV_DONTNEED").count();
    assert_eq!((given_back(supervisor), given_back(init)), (1, 1), "{trace}");
}
