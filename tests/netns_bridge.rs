//! netns-setup from outside: containers on a bridge.

use crate::{
    netns_setup::{done, down, everything, host, json_of, refused, up},
    support::{root, tool_path},
};
use serde_json::json;
use std::process::Stdio;

/// Three containers on the bridge `br0`: the first three names of the alphabet.
fn bridged(number: usize) -> Vec<String> {
    let letter = ["a", "b", "c"][number];
    let address = number + 2;
    format!("--bridge br0 --host-link h{letter} --container-addr 192.168.10.{address}/24 {letter}")
        .split(' ')
        .map(Into::into)
        .collect()
}

#[test]
fn containers_on_a_bridge_reach_each_other_and_share_it() {
    need!(root());
    let host = host();
    let before = everything(&host);
    let started: Vec<_> = (0..3)
        .map(|number| {
            let mut command = host.tool("netns-setup");
            command.arg("up").args(bridged(number)).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for child in started {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    for line in [
        "ip netns exec a ping -c1 -W2 192.168.10.3",
        "ip netns exec b ping -c1 -W2 192.168.10.4",
        "ip netns exec c ping -c1 -W2 192.168.10.1",
    ] {
        host.sh(line).success();
    }
    let words = bridged(1);
    let args: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(host.run("netns-setup", &[&["check"], &args[..]].concat()), done(""));
    let status = json_of(&host, &format!("{} status --json b", tool_path("netns-setup").display()));
    assert_eq!(status["bridge"], "br0");
    assert_eq!(status["host_end"]["addresses"], json!(["192.168.10.1/24"]));
    for name in ["a", "b"] {
        down(&host, &[name]).success();
        host.sh("ip netns exec c ping -c1 -W2 192.168.10.1").success();
    }
    down(&host, &["c"]).success();
    assert_eq!(everything(&host), before);
}

#[test]
fn a_pair_can_change_to_a_bridge_and_back() {
    need!(root());
    let host = host();
    up(&host, &[]).success();
    let direct = everything(&host);
    up(&host, &["--bridge", "br0"]).success();
    assert_eq!(host.run("netns-setup", &["check", "--bridge", "br0"]), done(""));
    host.sh("ip netns exec container_network_ns ping -c1 -W2 192.168.10.1").success();
    let line = "interface 'veth_host' is a port of a bridge\n";
    assert!(host.run("netns-setup", &["check"]).stdout.starts_with(line));
    up(&host, &[]).success();
    assert_eq!(host.run("netns-setup", &["check"]), done(""));
    assert_eq!(everything(&host), direct);
}

#[test]
fn a_strangers_bridge_is_used_as_it_is() {
    need!(root());
    let host = host();
    host.sh("ip link add br0 type bridge; ip address add 10.0.0.1/24 dev br0; ip link add plain type veth peer name other")
        .success();
    let before = everything(&host);
    let expected = "\
netns-setup: bridge 'br0' is not ours and lacks 192.168.10.1/24
  hint: --host-addr names an address that it has
";
    assert_eq!(up(&host, &["--bridge", "br0"]), refused(1, expected));
    let addresses = ["--host-addr", "10.0.0.1/24", "--container-addr", "10.0.0.2/24"];
    let bridged = |bridge| [&["--bridge", bridge], &addresses[..]].concat();
    let expected = "\
netns-setup: bridge 'br0' is down
  hint: 'ip link set br0 up' sets it up
";
    assert_eq!(up(&host, &bridged("br0")), refused(1, expected));
    let expected = "\
netns-setup: interface 'plain' exists and is no bridge
  hint: --bridge picks another name
";
    assert_eq!(up(&host, &["--bridge", "plain"]), refused(1, expected));
    assert_eq!(everything(&host), before);
    host.sh("ip link set br0 up").success();
    up(&host, &bridged("br0")).success();
    host.sh("ip netns exec container_network_ns ping -c1 -W2 10.0.0.1").success();
    down(&host, &[]).success();
    host.sh("ip link show br0").success();
}
