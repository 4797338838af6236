//! netns-setup from outside, each test on a host of its own.

use crate::support::{Host, Outcome, installed, outcome, root, tool_path};
use serde_json::{Value, json};

pub(crate) const NAME: &str = "container_network_ns";

/// The lab's lines.
pub(crate) const LAB: &str = "set -e
ip netns add container_network_ns
ip link add veth_host type veth peer name veth_container
ip link set veth_container netns container_network_ns
ip addr add 192.168.10.1/24 dev veth_host
ip link set veth_host up
ip netns exec container_network_ns ip addr add 192.168.10.2/24 dev veth_container
ip netns exec container_network_ns ip link set veth_container up
ip netns exec container_network_ns ip route add default via 192.168.10.1
echo 1 > /proc/sys/net/ipv4/ip_forward";

/// A host with an /etc of its own too, one resolver in it, and forwarding off.
pub(crate) fn host() -> Host {
    let host = Host::new();
    host.sh("set -e; cp -a /etc /run/etc; rm -f /run/etc/resolv.conf; rm -rf /run/etc/netns
        echo nameserver 192.0.2.53 > /run/etc/resolv.conf
        mount --bind /run/etc /etc; echo 0 > /proc/sys/net/ipv4/ip_forward")
        .success();
    host
}

pub(crate) fn up(host: &Host, args: &[&str]) -> Outcome {
    host.run("netns-setup", &[&["up"], args].concat())
}

pub(crate) fn down(host: &Host, args: &[&str]) -> Outcome {
    host.run("netns-setup", &[&["down"], args].concat())
}

pub(crate) fn done(stdout: &str) -> Outcome {
    Outcome { code: 0, stdout: stdout.into(), stderr: String::new() }
}

pub(crate) fn refused(code: i32, stderr: &str) -> Outcome {
    Outcome { code, stdout: String::new(), stderr: stderr.into() }
}

pub(crate) fn json_of(host: &Host, line: &str) -> Value {
    serde_json::from_str(&host.sh(line).success().stdout).unwrap()
}

/// Links with IPv4 addresses, and routes, of the namespace that `ip` speaks to.
fn side(host: &Host, ip: &str) -> Value {
    let links = json_of(host, &format!("{ip} -j address show"));
    let link = |link: &Value| {
        let set = |it: &&Value| it["family"] == "inet";
        let addresses: Vec<&Value> =
            link["addr_info"].as_array().unwrap().iter().filter(set).collect();
        let up = link["flags"].as_array().unwrap().contains(&json!("UP"));
        json!({ "name": link["ifname"], "mtu": link["mtu"], "up": up, "addresses": addresses })
    };
    let links: Vec<Value> = links.as_array().unwrap().iter().map(link).collect();
    let mut routes = json_of(host, &format!("{ip} -j route"));
    for route in routes.as_array_mut().unwrap() {
        // "linkdown", until the kernel has noticed that the other end is up.
        route.as_object_mut().unwrap().remove("flags");
    }
    json!({ "links": links, "routes": routes })
}

/// All that the lab's lines are about.
pub(crate) fn network(host: &Host) -> Value {
    let inside = side(host, &format!("ip -n {NAME}"));
    let sysctls = "cd /proc/sys/net; grep -rs . ipv4/ip_forward ipv4/conf ipv6/conf";
    let within = host.sh(&format!("ip netns exec {NAME} sh -c '{sysctls}'")).stdout;
    json!({
        "host": side(host, "ip"),
        "inside": inside,
        "sysctls": [host.sh(sysctls).stdout, within],
        "rules": host.sh("nft -j list ruleset").stdout,
    })
}

fn forwarding(host: &Host) -> String {
    host.sh("cat /proc/sys/net/ipv4/ip_forward").success().stdout
}

/// Everything that this tool may change on a host, but for link numbers.
pub(crate) fn everything(host: &Host) -> String {
    host.sh(
        "(ip -o link; ip -o address) | sed 's/^[0-9]*: //; s/@if[0-9]*//; s/ tentative//'; ip route
        cat /proc/sys/net/ipv4/ip_forward; nft list ruleset
        find /run/netns /run/netns-setup* /etc/netns -mindepth 1 2>&1 | grep -v 'No such file'",
    )
    .stdout
}

pub(crate) fn second_network(name: &str) -> [&str; 9] {
    [
        "--host-link",
        "h2",
        "--container-link",
        "c2",
        "--host-addr",
        "10.9.8.1/24",
        "--container-addr",
        "10.9.8.2/24",
        name,
    ]
}

pub(crate) struct KilledAtEnd(pub(crate) std::process::Child);

impl Drop for KilledAtEnd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn up_makes_the_labs_network() {
    need!(root());
    let (lab, ours) = (host(), host());
    lab.sh(LAB).success();
    assert_eq!(up(&ours, &[]), done("/run/netns/container_network_ns\n"));
    let mut expected = network(&lab);
    // The documented addition: `lo` is up.
    expected["inside"]["links"][0] = network(&ours)["inside"]["links"][0].clone();
    assert_eq!(network(&ours), expected);
    assert_eq!(network(&ours)["inside"]["links"][0]["up"], true);
    for line in [
        "ip netns exec container_network_ns ping -c1 -W2 192.168.10.1",
        "ip netns exec container_network_ns ping -c1 -W2 127.0.0.1",
        "ping -c1 -W2 192.168.10.2",
    ] {
        ours.sh(line).success();
    }
    let resolver = ours.sh("ip netns exec container_network_ns cat /etc/resolv.conf").stdout;
    assert_eq!(resolver, "# netns-setup:container_network_ns first\nnameserver 192.0.2.53\n");
}

#[test]
fn a_second_up_changes_nothing_and_says_so() {
    need!(root());
    let host = host();
    up(&host, &[]).success();
    let links = host.sh("ip -o link; ip -n container_network_ns -o link").stdout;
    let again = up(&host, &["--verbose"]);
    let expected = Outcome {
        stderr: "netns-setup: nothing to do\n".into(),
        ..done("/run/netns/container_network_ns\n")
    };
    assert_eq!(again, expected);
    assert_eq!(host.sh("ip -o link; ip -n container_network_ns -o link").stdout, links);
    assert_eq!(host.run("netns-setup", &["check"]), done(""));
}

#[test]
fn down_leaves_nothing_and_can_be_repeated() {
    need!(root() && installed("nft"));
    let host = host();
    let before = everything(&host);
    up(&host, &["--nat"]).success();
    assert_ne!(everything(&host), before);
    for _ in 0..3 {
        assert_eq!(down(&host, &[]), done(""));
        assert_eq!(everything(&host), before);
    }
}

#[test]
fn forwarding_that_was_on_stays_on() {
    need!(root());
    let host = host();
    host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward").success();
    up(&host, &[]).success();
    down(&host, &[]).success();
    assert_eq!(forwarding(&host), "1\n");
}

#[test]
fn the_last_network_down_restores_forwarding() {
    need!(root());
    let host = host();
    up(&host, &["one"]).success();
    up(&host, &second_network("two")).success();
    down(&host, &["one"]).success();
    assert_eq!(forwarding(&host), "1\n");
    down(&host, &["two"]).success();
    assert_eq!(forwarding(&host), "0\n");
}

#[test]
fn the_dry_run_is_a_script_that_does_the_same() {
    need!(root() && installed("nft"));
    let (by_tool, by_script) = (host(), host());
    let before = everything(&by_script);
    let script = up(&by_script, &["--dry-run", "--nat"]).success().stdout;
    assert_eq!(everything(&by_script), before);
    by_script.sh(&format!("set -e\n{script}")).success();
    up(&by_tool, &["--nat"]).success();
    assert_eq!(network(&by_script), network(&by_tool));
    assert_eq!(everything(&by_script), everything(&by_tool));
    // What the script made is ours in every respect.
    assert_eq!(by_script.run("netns-setup", &["check", "--nat"]), done(""));
    let script = down(&by_script, &["--dry-run"]).success().stdout;
    by_script.sh(&format!("set -e\n{script}")).success();
    assert_eq!(everything(&by_script), before);
}

#[test]
fn the_dry_run_is_a_script_whatever_is_asked_for() {
    need!(root() && installed("nft") && installed("iptables"));
    let (by_tool, by_script) = (host(), host());
    let options: Vec<&str> = "--bridge br0 --mtu 1400 --publish 8080:80 --publish 53:53/udp --nat \
        --forward-accept --dns 192.0.2.1 --dns 192.0.2.2 --host-addr 10.1.2.1/24 --host-addr fd00::1/64 \
        --container-addr 10.1.2.2/24 --container-addr fd00::2/64 demo"
        .split_whitespace()
        .collect();
    for host in [&by_tool, &by_script] {
        host.sh("iptables -P FORWARD DROP").success();
    }
    let inside = |host: &Host| {
        let line = "(ip -n demo -o link; ip -n demo -o address; ip -n demo route; ip -n demo -6 route) \
            | sed 's/@if[0-9]*//; s/ tentative//' | grep -v fe80";
        host.sh(line).stdout
    };
    let script = up(&by_script, &[&["--dry-run"], &options[..]].concat()).success().stdout;
    by_script.sh(&format!("set -e\n{script}")).success();
    up(&by_tool, &options).success();
    assert_eq!(everything(&by_script), everything(&by_tool));
    assert_eq!(inside(&by_script), inside(&by_tool));
    assert_eq!(by_script.run("netns-setup", &[&["check"], &options[..]].concat()), done(""));
    let script = down(&by_script, &["--dry-run", "demo"]).success().stdout;
    by_script.sh(&format!("set -e\n{script}")).success();
    down(&by_tool, &["demo"]).success();
    assert_eq!(everything(&by_script), everything(&by_tool));
}

#[test]
fn the_pair_is_made_whole_in_one_request() {
    need!(root() && installed("strace"));
    let host = host();
    let trace = ["-f", "-qq", "-e", "trace=sendto,execve", "-e", "signal=none", "-o", "/run/trace"];
    let options = [
        "up",
        "--mtu",
        "1400",
        "--host-mac",
        "02:00:00:00:00:01",
        "--container-mac",
        "02:00:00:00:00:02",
    ];
    let mut strace = host.command("strace");
    outcome(strace.args(trace).arg(tool_path("netns-setup")).args(options)).success();
    assert_eq!(host.sh("grep -c RTM_NEWLINK /run/trace").stdout, "1\n");
    assert_eq!(host.sh("grep -c execve /run/trace").stdout, "1\n", "it needs no other program");
    let dumps = "grep -cE '_F_REQUEST.(NLM_F_DUMP|0x300)' /run/trace";
    assert_eq!(host.sh(dumps).stdout, "0\n", "it costs the same on a host with many links");
    for (ip, link, mac) in [
        ("ip", "veth_host", "02:00:00:00:00:01"),
        ("ip -n container_network_ns", "veth_container", "02:00:00:00:00:02"),
    ] {
        let shown = &json_of(&host, &format!("{ip} -j link show {link}"))[0];
        assert_eq!((&shown["mtu"], &shown["address"]), (&json!(1400), &json!(mac)));
    }
}

#[test]
fn a_directory_of_namespaces_is_made_as_iproute2_makes_it() {
    need!(root());
    let mounts = "grep ' /run/netns ' /proc/self/mountinfo | cut -d' ' -f5,7 | sed 's/:.*//'";
    for prepare in ["true", "mkdir /run/netns", "ip netns add other"] {
        let (ours, iproute2) = (host(), host());
        for host in [&ours, &iproute2] {
            host.sh(prepare).success();
        }
        up(&ours, &["demo"]).success();
        iproute2.sh("ip netns add demo").success();
        assert_eq!(ours.sh(mounts), iproute2.sh(mounts), "{prepare}");
        assert_eq!(
            ours.sh("ip netns list | cut -d' ' -f1"),
            iproute2.sh("ip netns list | cut -d' ' -f1")
        );
        // Each removes what the other has made.
        ours.sh("ip netns delete demo").success();
        up(&iproute2, &["demo"]).success();
    }
}

#[test]
fn what_went_missing_is_named_by_check_and_repaired_by_up() {
    need!(root());
    let host = host();
    up(&host, &[]).success();
    host.sh("ip -n container_network_ns address delete 192.168.10.2/24 dev veth_container")
        .success();
    let expected = "\
address 192.168.10.2/24 is missing on interface 'veth_container' in 'container_network_ns'
default route via 192.168.10.1 is missing
";
    assert_eq!(host.run("netns-setup", &["check"]), Outcome { code: 1, ..done(expected) });
    up(&host, &[]).success();
    assert_eq!(host.run("netns-setup", &["check"]), done(""));
    host.sh("ip link delete veth_host").success();
    up(&host, &[]).success();
    assert_eq!(host.run("netns-setup", &["check"]), done(""));
}

#[test]
fn other_options_are_converged_to() {
    need!(root());
    let host = host();
    up(&host, &[]).success();
    let options = [
        "--mtu",
        "1400",
        "--host-addr",
        "10.1.2.1/24",
        "--host-addr",
        "fd00::1/64",
        "--container-addr",
        "10.1.2.2/24",
        "--container-addr",
        "fd00::2/64",
        "--host-mac",
        "02:00:00:00:00:01",
        "--dns",
        "192.0.2.7",
    ];
    up(&host, &options).success();
    let again = up(&host, &[&["--verbose"], &options[..]].concat());
    assert_eq!(again.stderr, "netns-setup: nothing to do\n");
    let link = &json_of(&host, "ip -j address show veth_host")[0];
    assert_eq!((&link["mtu"], &link["address"]), (&json!(1400), &json!("02:00:00:00:00:01")));
    assert_eq!(link["addr_info"][0]["local"], "10.1.2.1");
    host.sh("ip netns exec container_network_ns ping -c1 -W2 fd00::1").success();
    let resolver = host.sh("tail -n1 /etc/netns/container_network_ns/resolv.conf").stdout;
    assert_eq!(resolver, "nameserver 192.0.2.7\n");
}

#[test]
fn the_mtu_is_that_of_the_hosts_default_route() {
    need!(root());
    let host = host();
    host.sh("set -e; ip link add uplink mtu 1400 type veth peer name other; ip link set other up
        ip link set uplink up; ip address add 203.0.113.1/24 dev uplink")
        .success();
    let mtu = || json_of(&host, "ip -j link show veth_host")[0]["mtu"].clone();
    up(&host, &[]).success();
    assert_eq!(mtu(), 1500);
    // Beside it, half of a VPN's pair of routes, which is another link's.
    for route in ["default via 203.0.113.2 dev uplink", "128.0.0.0/1 dev lo"] {
        host.sh(&format!("ip route add {route}")).success();
        up(&host, &[]).success();
        assert_eq!(mtu(), 1400);
        assert_eq!(host.run("netns-setup", &["check"]), done(""));
        down(&host, &[]).success();
    }
}

#[test]
fn a_link_without_a_carrier_is_waited_for_and_then_named() {
    need!(root());
    let host = host();
    up(&host, &[]).success();
    host.sh("ip -n container_network_ns link set veth_container mode dormant down
        until ip -n container_network_ns link show veth_container | grep 'state DOWN'; do :; done")
        .success();
    let expected = "\
netns-setup: interface 'veth_container' has no carrier after 5 seconds
  undone: 1 change; the host is as it was
";
    assert_eq!(up(&host, &[]), refused(1, expected));
    let up_again = "ip -n container_network_ns link show up | grep veth";
    assert_eq!(host.sh(up_again).stdout, "");
}

#[test]
fn a_link_of_ours_under_another_name_is_found_where_it_is_in_the_way() {
    need!(root());
    let host = host();
    up(&host, &["--host-link", "old", "--dns", "none"]).success();
    let mut holder = KilledAtEnd(
        host.command("ip").args(["netns", "exec", NAME, "sleep", "60"]).spawn().unwrap(),
    );
    while host.sh("ip netns pids container_network_ns").stdout.is_empty() {
        assert!(holder.0.try_wait().unwrap().is_none());
    }
    host.sh("ip netns delete container_network_ns").success();
    // Its namespace lives on without a name, and the link with it.
    up(&host, &[]).success();
    assert_eq!(host.run("netns-setup", &["check"]), done(""));
    assert_eq!(host.sh("ip link show old").code, 1);
}

#[test]
fn up_can_follow_right_behind_a_down_that_did_not_wait() {
    need!(root());
    let host = host();
    let before = everything(&host);
    up(&host, &[]).success();
    let dry = down(&host, &["--no-wait", "--dry-run"]).success().stdout;
    assert!(!dry.contains("ip link delete"), "{dry}");
    assert!(dry.ends_with("ip netns delete container_network_ns\n"), "{dry}");
    for _ in 0..30 {
        assert_eq!(down(&host, &["--no-wait"]), done(""));
        assert_eq!(host.sh("ls -A /run/netns /etc/netns 2>/dev/null").stdout, "/run/netns:\n");
        assert_eq!(forwarding(&host), "0\n");
        up(&host, &[]).success();
        assert_eq!(host.run("netns-setup", &["check"]), done(""));
    }
    host.sh("ip netns exec container_network_ns ping -c1 -W2 192.168.10.1").success();
    down(&host, &["--no-wait"]).success();
    down(&host, &[]).success();
    assert_eq!(everything(&host), before);
    // What does not go with a namespace of ours is waited for.
    host.sh("ip netns add demo").success();
    up(&host, &["--bridge", "br0", "demo"]).success();
    down(&host, &["--no-wait", "demo"]).success();
    assert_eq!(host.sh("ip -o link | grep -cv ' lo:'").stdout, "0\n");
}

#[test]
fn a_loopback_resolver_is_never_written() {
    need!(root());
    let host = host();
    host.sh("echo nameserver 127.0.0.53 > /etc/resolv.conf").success();
    let note = "netns-setup: the host has no resolver that 'container_network_ns' could reach; --dns ADDRESS names one\n";
    assert_eq!(up(&host, &[]).stderr, note);
    assert_eq!(host.sh("test -e /etc/netns").code, 1);
    host.sh("mkdir -p /run/systemd/resolve; echo nameserver 192.0.2.1 > /run/systemd/resolve/resolv.conf").success();
    up(&host, &[]).success();
    assert_eq!(host.sh("tail -n1 /etc/netns/*/resolv.conf").stdout, "nameserver 192.0.2.1\n");
}
