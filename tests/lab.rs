//! A drop-in for the lab's scripts: each of its parts is replaced by a tool, in every mixture.

use crate::{
    documents::CONTAINER_CGROUP,
    fixture::debian_tarball,
    support::{Host, outcome, root, sh, tool_path, top},
};
use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::PoisonError,
};
use tempfile::TempDir;

/// What the lab shows of its container, a line each: hostname, PID, links, address, limit, what is outside.
const QUESTIONS: &str = "hostname; \
    test $$ -le 2 && echo process 1 or 2; \
    tail -n +3 /proc/net/dev | sed 's/:.*//; s/ //g' | sort; \
    grep -c 192.168.10.2 /proc/net/fib_trie | sed 's/[1-9][0-9]*/has its address/'; \
    sh -c 'for i in $(seq 20); do sleep 9 >/dev/null 2>&1 & done' 2>&1 | sed 's/.*Cannot fork/limited/'; \
    test -e /srv/outside && echo escaped; \
    true";

/// A part of the lab, and who does it.
const WAYS: [&str; 2] = ["lab", "tool"];

/// A host with the lab's script and program on it.
struct Lab {
    host: Host,
    dir: TempDir,
    program: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let host = Host::new();
        host.sh("mkdir /run/etc && cp --archive /etc/. /run/etc && mount --bind /run/etc /etc")
            .success();
        host.sh("mount -t tmpfs tmpfs /srv && touch /srv/outside").success();
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("container");
        let source = top().join("tests/lab/container.c");
        outcome(Command::new("cc").arg("-o").arg(&program).arg(source)).success();
        for name in ["rootfs-fetch", "netns-setup", "cgroup-apply", "ns-spawn"] {
            symlink(tool_path(name), dir.path().join(name)).unwrap();
        }
        Self { host, dir, program }
    }

    fn script(&self, root: &Path, skip: &str, cgroup: &str, lines: &str) -> Command {
        let mut bash = self.host.command("bash");
        let script = top().join("tests/lab/lab.sh");
        bash.args(["-euc", &format!(". {}\n{lines}", script.display())]);
        bash.env("ROOT", root).env("BASE", debian_tarball()).env("PROGRAM", &self.program);
        bash.env("SKIP", skip).env("CGROUP", cgroup);
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.dir.path().display());
        bash.env("PATH", path);
        bash
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.host.tool("cgroup-apply").args(["delete", "--kill", "container"]).output());
    }
}

#[test]
fn each_part_of_the_lab_can_be_replaced_alone() {
    need!(root());
    need!(crate::support::installed("cc"));
    need!(Path::new("/sys/fs/cgroup/pids/cgroup.procs").exists());
    let _alone = CONTAINER_CGROUP.lock().unwrap_or_else(PoisonError::into_inner);
    let expected = "container\nprocess 1 or 2\nlo\nveth_container\nhas its address\nlimited\n";
    for rootfs in WAYS {
        let trees = tempfile::tempdir().unwrap();
        let tree = trees.path().join("rootfs");
        for network in WAYS {
            let lab = Lab::new();
            let mut made = vec![format!("network_{network}")];
            if !tree.exists() {
                made.insert(0, format!("rootfs_{rootfs}"));
            }
            outcome(&mut lab.script(&tree, "", "", &made.join("\n"))).success();
            for (spawn, cgroup, skip) in [
                ("lab", "program", ""),
                ("lab", "lab", "c"),
                ("lab", "tool", "c"),
                ("tool", "lab", ""),
                ("tool", "tool", ""),
            ] {
                let mixture = format!("{rootfs} {network} {spawn} {cgroup}");
                let line = format!("spawn_{spawn} \"$QUESTIONS\"");
                let mut asked = lab.script(&tree, skip, cgroup, &line);
                let answers = outcome(asked.env("QUESTIONS", QUESTIONS));
                assert_eq!(
                    (answers.code, answers.stdout.as_str()),
                    (0, expected),
                    "{mixture}: {answers:?}"
                );
                lab.host.run("cgroup-apply", &["delete", "container"]).success();
            }
        }
    }
    assert_eq!(sh("ls -d /sys/fs/cgroup/*/container 2>/dev/null").stdout, "");
}

#[test]
fn the_network_of_the_lab_is_told_apart_from_ours() {
    need!(root());
    let lab = Lab::new();
    let state = "ip -json address show dev veth_host; cat /proc/sys/net/ipv4/ip_forward";
    outcome(&mut lab.script(Path::new("/nowhere"), "", "", "network_lab")).success();
    let before = lab.host.sh(state).success().stdout;
    // What somebody else has made is used by name, and is neither changed nor removed.
    let refused = lab.host.run("netns-setup", &["up"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(lab.host.sh(state).success().stdout, before);
}
