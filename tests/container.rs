//! The chain: `make container` and `make run`, and the lab's demonstrations in what they start.
//!
//! The Makefile runs on a host of the test's own: its network is not the machine's, and leads nowhere. So what
//! runs here runs without a download.

use crate::{
    fixture::debian_rootfs,
    pty::Pty,
    support::{Host, Outcome, outcome, root, shell_status, tool_path, top},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};
use tempfile::TempDir;

const TOOLS: [&str; 4] = ["rootfs-fetch", "netns-setup", "cgroup-apply", "ns-spawn"];

/// A checkout in which everything is built, on a host of its own.
struct Lab {
    host: Host,
    checkout: TempDir,
    cgroup: String,
}

impl Lab {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let host = Host::new();
        // The host's /etc is the machine's: what the tools write there goes to a private copy, without the machine's
        // own networks.
        let copy = "mkdir /run/etc && cp --archive /etc/. /run/etc && \
                    rm --recursive --force /run/etc/netns && mount --bind /run/etc /etc";
        host.sh(copy).success();
        let checkout = tempfile::tempdir().unwrap();
        fs::copy(top().join("Makefile"), checkout.path().join("Makefile")).unwrap();
        fs::create_dir_all(checkout.path().join("target/release")).unwrap();
        for name in TOOLS {
            symlink(tool_path(name), checkout.path().join("target/release").join(name)).unwrap();
        }
        let cgroup = format!("lab-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { host, checkout, cgroup }
    }

    /// With a root file system that is there already.
    fn with_rootfs() -> Self {
        let lab = Self::new();
        symlink(debian_rootfs(), lab.checkout.path().join("rootfs")).unwrap();
        lab
    }

    /// `make` with these words; the tools are built.
    fn make(&self, words: &[&str]) -> Command {
        let mut command = self.host.command("make");
        command
            .arg("--directory")
            .arg(self.checkout.path())
            .args(["--no-print-directory", "--old-file=build"]);
        command.arg(format!("CGROUP={}", self.cgroup)).args(words);
        command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        command
    }

    /// Run a line of shell in the container.
    #[track_caller]
    fn run(&self, line: &str) -> Outcome {
        outcome(&mut self.make(&["run", &format!("CMD={}", line.replace('$', "$$"))]))
    }

    fn cgroups(&self) -> Vec<String> {
        let find = format!("find /sys/fs/cgroup -type d -name '{}*'", self.cgroup);
        outcome(Command::new("sh").args(["-c", &find])).stdout.lines().map(str::to_owned).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.host.tool("cgroup-apply").args(["delete", "--kill", &self.cgroup]).output());
    }
}

fn stdout(outcome: Outcome) -> String {
    outcome.success().stdout
}

#[test]
fn make_run_runs_sysbench_in_the_container() {
    need!(root());
    let lab = Lab::with_rootfs();
    let report = stdout(lab.run("sysbench cpu --cpu-max-prime=2000 --time=1 run"));
    assert!(report.contains("events per second:"), "{report}");
    assert!(report.starts_with("sysbench "), "{report}");
}

#[test]
fn a_second_run_changes_nothing() {
    need!(root());
    let lab = Lab::with_rootfs();
    let state = || {
        let list = "ip -json -details link show veth_host; ip -json address; ip -json route; \
                    stat --format '%i %z' /run/netns/container_network_ns; nft list ruleset";
        lab.host.sh(list).success().stdout
    };
    assert_eq!(lab.run("true").success().stderr, "");
    let (before, tree) = (state(), fs::metadata(debian_rootfs()).unwrap());
    assert_eq!(lab.run("true").success().stderr, "");
    assert_eq!(state(), before);
    let after = fs::metadata(debian_rootfs()).unwrap();
    assert_eq!(after.modified().unwrap(), tree.modified().unwrap());
    assert_eq!(lab.cgroups(), Vec::<String>::new());
}

#[test]
fn the_file_systems_are_apart() {
    need!(root());
    let lab = Lab::with_rootfs();
    let name = format!("lab-{}", std::process::id());
    stdout(lab.run(&format!("echo inside > /{name}.inside")));
    assert!(!Path::new("/").join(format!("{name}.inside")).exists());
    let inside = debian_rootfs().join(format!("{name}.inside"));
    assert_eq!(fs::read_to_string(&inside).unwrap(), "inside\n");
    fs::remove_file(inside).unwrap();
    let outside = tempfile::Builder::new().prefix(&name).tempfile_in("/var/tmp").unwrap();
    let seen =
        lab.run(&format!("test -e {} && echo there || echo absent", outside.path().display()));
    assert_eq!(stdout(seen), "absent\n");
}

#[test]
fn processes_and_hostname_are_the_containers() {
    need!(root());
    let lab = Lab::with_rootfs();
    let before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let line = "echo $$; cat /proc/1/comm; echo /proc/[0-9]*; hostname";
    assert_eq!(
        stdout(lab.run(&format!("exec bash -c '{line}; true'"))),
        "2\nns-spawn: init\n/proc/1 /proc/2\ncontainer\n"
    );
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
}

#[test]
fn its_links_are_lo_and_its_end_of_the_pair() {
    need!(root());
    let lab = Lab::with_rootfs();
    let line =
        "cd /sys/class/net; echo *; cat veth_container/operstate; cat /proc/net/route | wc -l";
    assert_eq!(stdout(lab.run(line)), "lo veth_container\nup\n3\n");
    let addresses = "ip netns exec container_network_ns ip -brief address show dev veth_container";
    let shown = lab.host.sh(addresses).success().stdout;
    assert!(shown.contains("192.168.10.2/24"), "{shown}");
}

#[test]
fn hello_from_the_container_arrives_outside_and_the_reverse() {
    need!(root());
    let lab = Lab::with_rootfs();
    lab.run("true").success();
    let listen = |command: &mut Command, line: &str| -> Child {
        let mut child =
            command.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        child
    };
    // busybox's nc says nothing of when it listens: it is asked of the kernel.
    let server = |port: u16| {
        let hex = format!("{port:04X}");
        format!(
            "timeout 60 sh -c 'busybox nc -l -p {port} & until grep -q \":{hex} .* 0A \" /proc/net/tcp \
             /proc/net/tcp6; do sleep 0.05; done; echo ready; wait $!'"
        )
    };
    let receive = |child: Child| {
        let output = child.wait_with_output().unwrap();
        (shell_status(output.status), String::from_utf8(output.stdout).unwrap())
    };
    let outside = listen(&mut lab.host.command("sh"), &server(5001));
    stdout(lab.run("bash -c 'echo hello from container >/dev/tcp/192.168.10.1/5001'"));
    assert_eq!(receive(outside), (0, "hello from container\n".into()));

    let mut inside = lab.host.tool("ns-spawn");
    // The tree for reading has no nc: a small server in perl, which Debian's base has.
    let script = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 5002, Listen => 1); $| = 1; \
                  print qq(ready\\n); my $c = $s->accept; print <$c>;";
    inside.args(["--netns", "container_network_ns", "--root"]).arg(debian_rootfs());
    inside.args(["--", "perl", "-e", script]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut inside = inside.spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(inside.stdout.as_mut().unwrap(), &mut ready).unwrap();
    lab.host.sh("echo hello from host >/dev/tcp/192.168.10.2/5002").success();
    assert_eq!(receive(inside), (0, "hello from host\n".into()));
}

#[test]
fn no_more_than_pids_max_processes_can_be_started() {
    need!(root());
    let lab = Lab::with_rootfs();
    let counted = outcome(&mut lab.make(&[
        "run",
        "PIDS_MAX=15",
        "CMD=i=0; while [ $$i -lt 40 ]; do sleep 5 & i=$$((i+1)); done",
    ]));
    assert_ne!(counted.code, 0, "{counted:?}");
    assert!(counted.stderr.contains("Cannot fork"), "{counted:?}");
    assert!(counted.stderr.contains("cgroup-apply: pids limit 15 reached"), "{counted:?}");
}

#[test]
fn the_status_of_the_command_is_in_the_recipes_report() {
    need!(root());
    let failed = Lab::with_rootfs().run("exit 7");
    assert_eq!((failed.code, failed.stdout.as_str()), (2, ""));
    assert!(failed.stderr.ends_with("Error 7\n"), "{failed:?}");
}

#[test]
fn make_container_ends_at_a_prompt_with_job_control() {
    need!(root());
    let lab = Lab::with_rootfs();
    let mut command = Command::new("bash");
    let make = lab.make(&["container"]);
    let words: Vec<_> = std::iter::once(make.get_program())
        .chain(make.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let line = format!("{}; read x; echo got=$x", words.join(" "));
    command
        .args(["--norc", "--noediting", "-i"])
        .env("PS1", "outer> ")
        .env("LINE", line)
        .env_remove("MAKEFLAGS");
    let mut pty = Pty::start(&command, 33, 101);
    pty.see("outer> ");
    pty.enter("bash -c \"$LINE\"\n");
    pty.see("root@container:/# ");
    pty.enter("stty size\n");
    pty.see("33 101\r\n");
    pty.enter("sleep 61100\n");
    pty.see("sleep 61100\r\n");
    thread::sleep(Duration::from_millis(300));
    pty.enter("\x1a");
    pty.see("Stopped");
    pty.see("root@container:/# ");
    pty.enter("fg\n");
    pty.see("sleep 61100\r\n");
    thread::sleep(Duration::from_millis(300));
    pty.enter("\x03");
    pty.see("root@container:/# ");
    pty.enter("exit 7\n");
    pty.see("Error 7\r\n");
    pty.enter("hello\n");
    pty.see("got=hello\r\n");
    pty.see("outer> ");
}

#[test]
fn make_clean_leaves_nothing() {
    need!(root());
    let lab = Lab::new();
    let rootfs = lab.checkout.path().join("rootfs");
    outcome(
        Command::new("cp").args(["--archive", "--reflink=auto"]).arg(debian_rootfs()).arg(&rootfs),
    )
    .success();
    let state = || {
        let list = "ip -json link | tr -d ' '; ls /run/netns 2>/dev/null; ls /etc/netns 2>/dev/null; \
                    nft list ruleset; cat /proc/sys/net/ipv4/ip_forward; grep -c . /proc/self/mountinfo";
        lab.host.sh(list).stdout
    };
    let before = state();
    assert_eq!(lab.run("echo up").success().stdout, "up\n");
    assert_ne!(state(), before);
    let cleaned = outcome(&mut lab.make(&["clean"])).success();
    assert_eq!((cleaned.stdout.as_str(), cleaned.stderr.as_str()), ("", ""));
    assert_eq!(state(), before);
    assert_eq!(lab.cgroups(), Vec::<String>::new());
    let left: Vec<_> = fs::read_dir(lab.checkout.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["Makefile"]);
}

#[test]
fn after_kill_9_of_the_tools_the_next_run_works() {
    need!(root());
    for round in 0..12_u64 {
        let lab = Lab::with_rootfs();
        let mut make = lab.make(&["run", "CMD=sleep 61101"]).spawn().unwrap();
        thread::sleep(Duration::from_millis(round * 12));
        // Only what this test started: the processes whose parents lead to this make.
        kill_all(make.id());
        make.wait().unwrap();
        assert_eq!(lab.run("echo again").success().stdout, "again\n");
        outcome(&mut lab.make(&["run", "CMD=true"])).success();
        assert_eq!(lab.cgroups(), Vec::<String>::new());
    }
}

/// Kill `ancestor` and all processes that descend from it at one moment: what still runs while others are looked for may have a
/// child that is not found, and lives on.
fn kill_all(ancestor: u32) {
    let send = |pid: u32, signal| {
        let pid = Pid::from_raw(pid.try_into().unwrap());
        kill(pid, signal).ok(); // it may have ended
    };
    let mut stopped = Vec::new();
    loop {
        let mut running = family(ancestor);
        running.retain(|pid| !stopped.contains(pid));
        if running.is_empty() {
            break;
        }
        for pid in &running {
            send(*pid, Signal::SIGSTOP);
        }
        stopped.extend(running);
        thread::sleep(Duration::from_millis(5)); // a fork under way is then done
    }
    for pid in stopped {
        send(pid, Signal::SIGKILL);
    }
}

/// `ancestor` and all processes that descend from it, the oldest first.
fn family(ancestor: u32) -> Vec<u32> {
    let children: Vec<(u32, u32)> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![ancestor];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(children.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}
