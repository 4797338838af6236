//! netns-setup when things go wrong: failing calls, lost results, kills, crowds.

use crate::{
    netns_setup::{NAME, done, down, everything, host, refused, up},
    support::{installed, outcome, root, tool_path},
};
use serde_json::Value;
use std::process::Stdio;

/// System calls by which `up` changes something, or learns what it has changed.
const CALLS: [&str; 8] =
    ["sendto", "recvfrom", "mount", "unshare", "setns", "mkdir", "rename", "write"];

#[test]
fn whichever_call_fails_all_is_undone() {
    need!(root() && installed("strace"));
    let failed = fail_each_call(&[]);
    assert!(failed > 30, "only {failed} calls failed");
}

#[test]
fn whichever_call_fails_what_was_there_comes_back() {
    need!(root() && installed("strace"));
    let failed =
        fail_each_call(&["--host-link", "old", "--container-link", "inner", "--mtu", "1400"]);
    assert!(failed > 20, "only {failed} calls failed");
}

/// Run `up` on a host where `up` with the options `before` has run, if any, once for each of its calls,
/// which fails. Says how many runs failed.
fn fail_each_call(before: &[&str]) -> usize {
    let host = host();
    let prepare = || if before.is_empty() { down(&host, &[]) } else { up(&host, before) };
    prepare().success();
    let state = everything(&host);
    let mut failed = 0;
    for call in CALLS {
        for nth in 1.. {
            let inject = format!("inject={call}:error=ENOBUFS:when={nth}");
            let trace = format!("trace={call}");
            let mut strace = host.command("strace");
            strace.args(["-f", "-qq", "-o", "/run/trace", "-e", &trace, "-e", &inject]);
            let outcome = outcome(strace.arg(tool_path("netns-setup")).arg("up"));
            if host.sh("grep -q INJECTED /run/trace").code != 0 {
                outcome.success();
                prepare().success();
                break;
            }
            if outcome.code == 0 {
                prepare().success(); // it could do without
            } else {
                failed += 1;
                assert_eq!(outcome.code, 1, "{call} {nth}: {outcome:?}");
            }
            assert_eq!(everything(&host), state, "{call} {nth}: {outcome:?}");
        }
    }
    failed
}

#[test]
fn signals_wait_until_the_change_is_done() {
    need!(root());
    let host = host();
    // HUP, INT, QUIT and TERM: bash itself, before it becomes the tool, blocks others for a moment.
    let line = format!(
        "exec 9>/run/netns-setup.{NAME}.lock; flock 9; {} up 9>&- & pid=$!
        until grep -q '^SigBlk:\t0*4007$' /proc/$pid/status; do sleep 0.01; done
        kill -TERM $pid; kill -INT $pid; kill -HUP $pid; flock -u 9; wait $pid",
        tool_path("netns-setup").display()
    );
    assert_eq!(host.sh(&line), done("/run/netns/container_network_ns\n"));
    assert_eq!(host.run("netns-setup", &["check"]), done(""));
}

#[test]
fn runs_on_one_name_wait_for_each_other() {
    need!(root());
    let host = host();
    let before = everything(&host);
    let ten = |verb: &str| {
        let start = |_| {
            let mut command = host.tool("netns-setup");
            command
                .args([verb, "demo"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let started: Vec<_> = (0..10).map(start).collect();
        started.into_iter().map(|mut child| child.wait().unwrap().code().unwrap()).sum::<i32>()
    };
    assert_eq!(ten("up"), 0);
    assert_eq!(host.run("netns-setup", &["check", "demo"]), done(""));
    assert_eq!(ten("down"), 0);
    assert_eq!(everything(&host), before);
}

#[test]
fn a_hundred_networks_come_and_go_at_once() {
    need!(root());
    let host = host();
    let before = everything(&host);
    let all = |line: &dyn Fn(usize) -> String| {
        let start = |n| {
            let line = line(n);
            host.tool("netns-setup").args(line.split(' ')).stdout(Stdio::null()).spawn().unwrap()
        };
        let started: Vec<_> = (0..100).map(start).collect();
        for child in started {
            assert!(child.wait_with_output().unwrap().status.success());
        }
    };
    all(&|n| {
        format!(
            "up --host-link h{n} --container-link c{n} --host-addr 10.77.{n}.1/24 \
             --container-addr 10.77.{n}.2/24 n{n}"
        )
    });
    let status = format!("{} status --all --json", tool_path("netns-setup").display());
    let status: Value = serde_json::from_str(&host.sh(&status).success().stdout).unwrap();
    assert_eq!(status.as_array().unwrap().len(), 100);
    let pings = "for n in $(seq 0 99); do ip netns exec n$n ping -c1 -W2 10.77.$n.1 || exit; done";
    host.sh(pings).success();
    all(&|n| format!("down n{n}"));
    assert_eq!(everything(&host), before);
}

#[test]
fn a_failure_half_way_is_undone() {
    need!(root());
    for (obstacle, attempt, undone) in [
        (
            "mount --bind /etc /etc; mount -o remount,ro,bind /etc",
            "cannot write '/etc/netns/container_network_ns/resolv.conf': Read-only file system (EROFS)",
            "13 changes",
        ),
        (
            "mount --bind /proc/sys/net /proc/sys/net; mount -o remount,ro,bind /proc/sys/net",
            "cannot write '/proc/sys/net/ipv4/ip_forward': Read-only file system (EROFS)",
            "4 changes",
        ),
    ] {
        let host = host();
        host.sh(obstacle).success();
        let before = everything(&host);
        let expected =
            format!("netns-setup: {attempt}\n  undone: {undone}; the host is as it was\n");
        assert_eq!(up(&host, &[]), refused(1, &expected));
        assert_eq!(everything(&host), before);
    }
}

#[test]
fn a_killed_run_is_repaired_by_up_and_removed_by_down() {
    need!(root() && installed("nft"));
    let host = host();
    let before = everything(&host);
    for round in 0..100_u64 {
        let verb = if round % 4 == 3 { "down" } else { "up" };
        let mut child = host
            .tool("netns-setup")
            .arg(verb)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(200 * (round % 33)));
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 2 == 0 {
            up(&host, &[]).success();
            assert_eq!(host.run("netns-setup", &["check"]), done(""));
        }
        if round % 4 == 1 {
            down(&host, &[]).success();
            assert_eq!(everything(&host), before);
        }
    }
}

#[test]
fn what_up_replaces_comes_back_when_it_fails() {
    need!(root());
    let host = host();
    up(&host, &["--host-link", "old", "--container-link", "inner"]).success();
    let before = everything(&host);
    let inside = host.sh("ip -n container_network_ns -o address; ip -n container_network_ns route");
    // The last step fails, long after the old pair was deleted.
    host.sh("mount --bind /etc /etc; mount -o remount,ro,bind /etc").success();
    let expected = "\
netns-setup: cannot write '/etc/netns/container_network_ns/resolv.conf': Read-only file system (EROFS)
  undone: 12 changes; the host is as it was
";
    assert_eq!(up(&host, &["--dns", "192.0.2.9"]), refused(1, expected));
    assert_eq!(everything(&host), before);
    let strip = |text: &str| text.replace(char::is_numeric, "");
    let again = host.sh("ip -n container_network_ns -o address; ip -n container_network_ns route");
    assert_eq!(strip(&again.stdout), strip(&inside.stdout));
    let options = ["check", "--host-link", "old", "--container-link", "inner"];
    assert_eq!(host.run("netns-setup", &options), done(""));
}

#[test]
fn a_link_that_cannot_be_made_anew_is_named() {
    need!(root());
    let host = host();
    up(&host, &[]).success();
    // The namespace goes on living without its name, and the pair with it.
    let mut holder = host
        .command("ip")
        .args(["netns", "exec", "container_network_ns", "sleep", "60"])
        .spawn()
        .unwrap();
    while host.sh("ip netns pids container_network_ns").stdout.is_empty() {}
    host.sh("ip netns delete container_network_ns; mount --bind /etc /etc; mount -o remount,ro,bind /etc").success();
    let expected = "\
netns-setup: cannot write '/etc/netns/container_network_ns/resolv.conf': Read-only file system (EROFS)
  undone: 13 changes
  left behind: interface 'veth_host' is gone
";
    let outcome = up(&host, &["--dns", "192.0.2.9"]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(outcome, refused(3, expected));
}

#[test]
fn a_result_that_does_not_arrive_undoes_all() {
    need!(root());
    let host = host();
    let before = everything(&host);
    let expected = "\
netns-setup: cannot write to standard output: No space left on device (ENOSPC)
  undone: 14 changes; the host is as it was
";
    for option in ["--verbose", "--json"] {
        let line = format!("{} up {option} >/dev/full", tool_path("netns-setup").display());
        let outcome = host.sh(&line);
        assert_eq!((outcome.code, outcome.stderr.ends_with(expected)), (1, true), "{outcome:?}");
        assert_eq!(everything(&host), before);
    }
}
