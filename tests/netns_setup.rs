//! netns-setup from outside, each test on a host of its own.

use crate::support::{Host, Outcome, installed, outcome, outcome_with_input, root, tool_path};
use serde_json::{Value, json};
use std::process::Stdio;

pub(crate) const NAME: &str = "container_network_ns";

/// The lab's lines.
const LAB: &str = "set -e
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

fn json_of(host: &Host, line: &str) -> Value {
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
fn network(host: &Host) -> Value {
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

fn second_network(name: &str) -> [&str; 9] {
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
fn a_run_directory_that_cannot_be_used_is_named() {
    need!(root());
    for (prepare, stderr) in [
        (
            "mount -o remount,ro /run",
            "cannot lock '/run/netns-setup.container_network_ns.lock': Read-only file system (EROFS)",
        ),
        (
            "mkdir /run/netns; mount --bind /run/netns /run/netns; mount -o remount,ro,bind /run/netns",
            "cannot create network namespace 'container_network_ns': Read-only file system (EROFS)",
        ),
        (
            "touch /run/netns",
            "cannot open network namespace 'container_network_ns': Not a directory (ENOTDIR)",
        ),
    ] {
        let host = host();
        host.sh(prepare).success();
        assert_eq!(up(&host, &[]), refused(1, &format!("netns-setup: {stderr}\n")));
    }
}

#[test]
fn nat_leads_out_under_the_hosts_address() {
    need!(root() && installed("nft"));
    let host = host();
    host.sh("set -e; ip netns add outside
        ip link add uplink type veth peer name outside netns outside
        ip address add 203.0.113.1/24 dev uplink; ip link set uplink up
        ip -n outside address add 203.0.113.2/24 dev outside; ip -n outside link set outside up")
        .success();
    let ping = "ip netns exec container_network_ns ping -c1 -W1 203.0.113.2";
    up(&host, &[]).success();
    assert_eq!(host.sh(ping).code, 1, "outside knows no way back to 192.168.10.0/24");
    up(&host, &["--nat"]).success();
    host.sh(ping).success();
    // As a firewall does when it starts anew.
    host.sh("nft flush ruleset").success();
    let check = host.run("netns-setup", &["check", "--nat"]);
    let line = "nft table 'netns-setup-container_network_ns' is missing or different\n";
    assert_eq!(check, Outcome { code: 1, ..done(line) });
    up(&host, &["--nat"]).success();
    host.sh(ping).success();
    up(&host, &[]).success();
    assert_eq!(host.sh("nft list ruleset").stdout, "");
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
fn a_strangers_link_is_named_and_stays() {
    need!(root());
    let host = host();
    host.sh("ip link add veth_host type veth peer name other").success();
    let before = everything(&host);
    let expected = "\
netns-setup: interface 'veth_host' exists and is not ours
  hint: 'ip link delete veth_host' removes it; --host-link picks another name
";
    assert_eq!(up(&host, &[]), refused(1, expected));
    down(&host, &[]).success();
    assert_eq!(everything(&host), before);
}

#[test]
fn a_name_that_is_taken_is_refused_whatever_has_it() {
    need!(root());
    let host = host();
    host.sh("ip netns add demo; ip -n demo link add veth_container type bridge").success();
    let expected = "\
netns-setup: interface 'veth_container' exists in network namespace 'demo' and is not ours
  hint: --container-link picks another name
";
    assert_eq!(up(&host, &["demo"]), refused(1, expected));
    host.sh("ip link add veth_host type bridge; ip link add lan type bridge").success();
    let before = everything(&host);
    let expected = "\
netns-setup: interface 'veth_host' exists and is not ours
  hint: 'ip link delete veth_host' removes it; --host-link picks another name
";
    assert_eq!(up(&host, &[]), refused(1, expected));
    let expected = "netns-setup: 'lo' is the loopback interface's name\n";
    assert_eq!(up(&host, &["--container-link", "lo"]), refused(2, expected));
    assert_eq!(everything(&host), before);
    // The address stays on a link that is down, and has no route then.
    host.sh("ip address add 192.168.10.1/24 dev lan").success();
    let expected = "\
netns-setup: the host has address 192.168.10.1 on 'lan' already
  hint: --host-addr and --container-addr pick another subnet; --force goes on
";
    assert_eq!(up(&host, &["--host-link", "other"]), refused(1, expected));
}

#[test]
fn a_subnet_of_others_within_a_wide_one_is_found() {
    need!(root());
    let host = host();
    host.sh("set -e; ip link add lan type veth peer name other; ip link set other up; ip link set lan up
        ip address add 10.5.6.7/16 dev lan").success();
    let expected = "\
netns-setup: the host uses subnet 10.0.0.0/8 already: route 10.5.0.0/16 dev lan
  hint: --host-addr and --container-addr pick another subnet; --force goes on
";
    let addresses = ["--host-addr", "10.0.0.1/8", "--container-addr", "10.0.0.2/8"];
    assert_eq!(up(&host, &addresses), refused(1, expected));
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
fn a_namespace_with_a_network_of_its_own_keeps_it() {
    need!(root());
    let host = host();
    host.sh("set -e; ip netns add demo; ip -n demo link add own type veth peer name other
        ip -n demo link set own up; ip -n demo link set other up
        ip -n demo address add 10.0.0.2/24 dev own; ip -n demo route add default via 10.0.0.1")
        .success();
    let inside = "ip -n demo -o address; ip -n demo route";
    let before = (everything(&host), host.sh(inside).stdout);
    let expected = "\
netns-setup: network namespace 'demo' has a default route by 'own' already
  hint: --no-default-route leaves it alone
";
    assert_eq!(up(&host, &["demo"]), refused(1, expected));
    let expected = "\
netns-setup: network namespace 'demo' has address 10.0.0.2 on 'own' already
  hint: --host-addr and --container-addr pick another subnet; --force goes on
";
    let addresses = ["--host-addr", "10.0.0.1/24", "--container-addr", "10.0.0.2/24", "demo"];
    assert_eq!(up(&host, &addresses), refused(1, expected));
    assert_eq!((everything(&host), host.sh(inside).stdout), before);
    up(&host, &["--no-default-route", "demo"]).success();
    down(&host, &["demo"]).success();
    assert_eq!(host.sh("ip -n demo route show default").stdout, "default via 10.0.0.1 dev own \n");
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
fn a_network_made_by_the_labs_lines_is_left_alone() {
    need!(root());
    let host = host();
    host.sh(LAB).success();
    let before = network(&host);
    assert_eq!(up(&host, &[]).code, 1);
    let expected = "netns-setup: network namespace 'container_network_ns' is not ours and stays\n";
    assert_eq!(down(&host, &[]), Outcome { stderr: expected.into(), ..done("") });
    assert_eq!(network(&host), before);
}

#[test]
fn a_namespace_that_was_there_is_used_and_stays() {
    need!(root());
    let host = host();
    host.sh("ip netns add demo").success();
    up(&host, &["demo"]).success();
    host.sh("ip netns exec demo ping -c1 -W2 192.168.10.1").success();
    down(&host, &["demo"]).success();
    assert_eq!(host.sh("ls /run/netns; ip -n demo -o link | grep -c alias").stdout, "demo\n0\n");
    assert_eq!(host.sh("ip link show veth_host").code, 1);
}

#[test]
fn another_networks_link_and_subnet_are_refused() {
    need!(root());
    let host = host();
    up(&host, &["one"]).success();
    let expected = "\
netns-setup: interface 'veth_host' belongs to network namespace 'one'
  hint: --host-link picks another name
";
    assert_eq!(up(&host, &["two"]), refused(1, expected));
    let expected = "\
netns-setup: the host has address 192.168.10.1 on 'veth_host' already
  hint: --host-addr and --container-addr pick another subnet; --force goes on
";
    assert_eq!(up(&host, &["--host-link", "h2", "two"]), refused(1, expected));
}

#[test]
fn a_subnet_in_use_is_refused_with_its_route_unless_forced() {
    need!(root());
    let host = host();
    host.sh(
        "ip link add lan type veth peer name other; ip link set other up; ip address add 192.168.0.7/16 dev lan; ip link set lan up",
    )
    .success();
    let before = everything(&host);
    let expected = "\
netns-setup: the host uses subnet 192.168.10.0/24 already: route 192.168.0.0/16 dev lan
  hint: --host-addr and --container-addr pick another subnet; --force goes on
";
    assert_eq!(up(&host, &[]), refused(1, expected));
    assert_eq!(everything(&host), before);
    up(&host, &["--force"]).success();
}

#[test]
fn a_stale_name_is_repaired_and_a_strangers_file_is_not() {
    need!(root());
    let host = host();
    host.sh("mkdir -p /run/netns; touch /run/netns/stale; echo mine > /run/netns/file").success();
    up(&host, &["stale"]).success();
    host.sh("ip netns exec stale true").success();
    let expected = "netns-setup: '/run/netns/file' exists and is no network namespace\n";
    assert_eq!(up(&host, &["file"]), refused(1, expected));
    assert_eq!(down(&host, &["file"]), refused(1, expected));
    assert_eq!(host.sh("cat /run/netns/file").stdout, "mine\n");
}

#[test]
fn what_cannot_be_is_refused_as_usage() {
    need!(root());
    let host = host();
    let before = everything(&host);
    for (args, why) in [
        (
            &["--host-link", "veth-container-demo"][..],
            "interface name 'veth-container-demo' has 19 bytes; the kernel allows 15",
        ),
        (
            &["a/b"],
            "network namespace name 'a/b' has a '/'; letters, digits, '.', '_' and '-' are allowed",
        ),
        (
            &["--container-link", "sixteen_bytes_16"],
            "interface name 'sixteen_bytes_16' has 16 bytes; the kernel allows 15",
        ),
        (&["--bridge", "veth_host"], "'veth_host' cannot be its own bridge"),
        (&[""], "'' is no network namespace name"),
        (&["."], "'.' is no network namespace name"),
        (&[".."], "'..' is no network namespace name"),
        (
            &["--host-addr", "192.168.10.255/24"],
            "address '192.168.10.255/24' is the broadcast address of its subnet",
        ),
        (&["--host-addr", "0.0.0.0/24"], "address '0.0.0.0/24' cannot be the address of a link"),
        (
            &["--host-addr", "192.168.10.1/33"],
            "address '192.168.10.1/33' has no prefix length from 0 to 32",
        ),
        (
            &["--host-addr", "fe80::1%eth0/64"],
            "address 'fe80::1%eth0/64' is no IP address, as in 192.168.10.1/24",
        ),
        (
            &["--publish", "80"],
            "'80' is no port to publish, as in 8080:80, 192.0.2.1:8080:80 or 53:53/udp",
        ),
        (
            &["--publish", "127.0.0.1:80:80"],
            "port '127.0.0.1:80:80' cannot be published on loopback, which leads to no other namespace",
        ),
        (
            &["--publish", "80:80", "--publish", "0.0.0.0:80:81"],
            "ports '80:80' and '80:81' are the same port of the host",
        ),
        (&["--dns", "192.0.2.1", "--dns", "host"], "resolver 'host' goes with no other"),
        (
            &["--gateway", "192.168.10.1", "--gateway", "192.168.10.3"],
            "gateway 192.168.10.1 and 192.168.10.3 are one too many",
        ),
        (
            &["--host-addr", "192.168.10.1/32"],
            "address '192.168.10.1/32' has prefix length 32; 1 to 31 is allowed",
        ),
        (
            &["--host-addr", "10.0.0.1/24"],
            "container address 192.168.10.2/24 and host address 10.0.0.1/24 are in different subnets",
        ),
    ] {
        assert_eq!(up(&host, args), refused(2, &format!("netns-setup: {why}\n")));
    }
    assert_eq!(everything(&host), before);
}

#[test]
fn without_the_capabilities_nothing_is_begun() {
    need!(root());
    let host = host();
    let before = everything(&host);
    let mut command = host.command("setpriv");
    command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
    let expected = "\
netns-setup: cannot change the network: Operation not permitted (EPERM)
  hint: run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN
";
    assert_eq!(outcome(command.arg(tool_path("netns-setup")).arg("up")), refused(1, expected));
    assert_eq!(everything(&host), before);
}

#[test]
fn a_strangers_resolv_conf_stays() {
    need!(root());
    let host = host();
    host.sh("mkdir -p /etc/netns/container_network_ns; echo nameserver 192.0.2.9 > /etc/netns/container_network_ns/resolv.conf").success();
    let path = "/etc/netns/container_network_ns/resolv.conf";
    assert_eq!(
        up(&host, &[]).stderr,
        format!("netns-setup: '{path}' is not ours and stays as it is\n")
    );
    assert_eq!(down(&host, &[]).stderr, format!("netns-setup: '{path}' is not ours and stays\n"));
    assert_eq!(host.sh(&format!("cat {path}")).stdout, "nameserver 192.0.2.9\n");
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

#[test]
fn a_directory_of_someone_else_stays() {
    need!(root());
    let host = host();
    host.sh("mkdir -p /etc/netns/demo").success();
    down(&host, &["demo"]).success();
    host.sh("test -d /etc/netns/demo").success();
    up(&host, &["demo"]).success();
    host.sh("test -e /etc/netns/demo/resolv.conf").success();
    down(&host, &["demo"]).success();
    assert_eq!(host.sh("find /etc/netns").stdout, "/etc/netns\n/etc/netns/demo\n");
}

#[test]
fn up_says_as_json_what_it_made_and_takes_it_back() {
    need!(root() && installed("nft"));
    let host = host();
    let macs = ["--host-mac", "02:00:00:00:00:01", "--container-mac", "02:00:00:00:00:02"];
    let made = up(&host, &[&["--json", "--nat", "--mtu", "1400"], &macs[..]].concat()).success();
    let mut made: Value = serde_json::from_str(&made.stdout).unwrap();
    for end in ["host_end", "container_end"] {
        assert!(made[end]["index"].take().as_u64().unwrap() > 1);
    }
    let end = |link: &str, mac: &str, address: &str| json!({ "link": link, "index": null, "mac": mac, "mtu": 1400, "up": true, "addresses": [address] });
    let expected = json!({
        "name": NAME,
        "netns": "/run/netns/container_network_ns",
        "made": true,
        "host_end": end("veth_host", "02:00:00:00:00:01", "192.168.10.1/24"),
        "container_end": end("veth_container", "02:00:00:00:00:02", "192.168.10.2/24"),
        "bridge": null,
        "default_routes": ["192.168.10.1"],
        "forwarding": true,
        "nat": true,
        "publish": [],
        "forward_accept": false,
        "dns": ["host"],
        "changed": true,
    });
    assert_eq!(made, expected);
    let before = host.run("netns-setup", &["status", "--json"]).success().stdout;
    let feed = |verb: &[&str]| {
        let mut command = host.tool("netns-setup");
        outcome_with_input(command.args(verb).args(["--from", "-"]), before.as_bytes())
    };
    assert_eq!(feed(&["check"]), done(""));
    let again: Value = serde_json::from_str(&feed(&["up", "--json"]).success().stdout).unwrap();
    assert_eq!(again["changed"], false);
    down(&host, &[]).success();
    assert_eq!(feed(&["up"]), done("/run/netns/container_network_ns\n"));
    let status = |text: &str| {
        let mut status: Value = serde_json::from_str(text).unwrap();
        status["host_end"]["index"].take();
        status
    };
    let again = host.run("netns-setup", &["status", "--json"]).success().stdout;
    assert_eq!(status(&again), status(&before));
}

#[test]
fn json_that_describes_no_network_is_refused() {
    need!(root());
    let host = host();
    let feed = |text: &str| {
        let mut command = host.tool("netns-setup");
        outcome_with_input(command.args(["up", "--from", "-"]), text.as_bytes())
    };
    let expected = "netns-setup: '-' describes no network: expected ident at line 1 column 2\n";
    assert_eq!(feed("netns"), refused(2, expected));
    let unknown = feed(r#"{"name":"demo","bogus":1}"#);
    assert_eq!(unknown.code, 2);
    assert!(
        unknown.stderr.starts_with("netns-setup: '-' describes no network: unknown field `bogus`")
    );
    let expected = "netns-setup: '' is no network namespace name\n";
    assert_eq!(feed(r#"{"name":""}"#), refused(2, expected));
    let both = up(&host, &["--from", "-", "--nat"]);
    assert_eq!(both.code, 2);
    assert!(both.stderr.contains("cannot be used with"), "{both:?}");
    assert_eq!(feed(r#"{"name":"demo"}"#), done("/run/netns/demo\n"));
}

#[test]
fn exec_runs_a_command_inside_and_passes_its_status_on() {
    need!(root());
    let host = host();
    up(&host, &["--dns", "203.0.113.53", "demo"]).success();
    let exec =
        |command: &[&str]| host.run("netns-setup", &[&["exec", "demo", "--"], command].concat());
    assert_eq!(exec(&["sh", "-c", "echo out; echo err >&2; exit 42"]), {
        Outcome { code: 42, stdout: "out\n".into(), stderr: "err\n".into() }
    });
    let resolver = "# netns-setup:demo first\nnameserver 203.0.113.53\n";
    assert_eq!(exec(&["cat", "/etc/resolv.conf"]), done(resolver));
    assert_eq!(exec(&["ls", "/sys/class/net"]), done("lo\nveth_container\n"));
    assert_eq!(exec(&["ls", "/sys/fs/cgroup"]), host.sh("ls /sys/fs/cgroup"));
    // Nothing of that is seen outside, and signals come through as they were.
    assert_eq!(host.sh("cat /etc/resolv.conf").stdout, "nameserver 192.0.2.53\n");
    assert_eq!(exec(&["sh", "-c", "kill -TERM $$"]).code, 143);
    assert_eq!(exec(&["sh", "-c", "kill -PIPE $$"]).code, 141);
}

#[test]
fn exec_tells_its_own_failures_from_the_commands() {
    need!(root());
    let host = host();
    up(&host, &["demo"]).success();
    host.sh("mkdir /run/data; touch /run/data/plain").success();
    for (args, code, stderr) in [
        (&["demo", "--", "false"][..], 1, ""),
        (
            &["none", "--", "true"],
            125,
            "network namespace 'none' does not exist\n  hint: 'netns-setup up none' makes it\n",
        ),
        (&["demo", "/nosuch"], 127, "cannot run '/nosuch': No such file or directory (ENOENT)\n"),
        (
            &["demo", "/run/data/plain"],
            126,
            "cannot run '/run/data/plain': Permission denied (EACCES)\n",
        ),
        (
            &["a/b", "true"],
            125,
            "network namespace name 'a/b' has a '/'; letters, digits, '.', '_' and '-' are allowed\n",
        ),
    ] {
        let stderr =
            if stderr.is_empty() { String::new() } else { format!("netns-setup: {stderr}") };
        assert_eq!(host.run("netns-setup", &[&["exec"], args].concat()), refused(code, &stderr));
    }
    assert_eq!(host.run("netns-setup", &["exec", "demo"]).code, 125);
    assert_eq!(host.run("netns-setup", &["exec", "--bogus"]).code, 125);
}

#[test]
fn a_namespace_deleted_by_hand_is_cleaned_up_after() {
    need!(root() && installed("nft"));
    let host = host();
    let before = everything(&host);
    for verb in [&["down"][..], &["gc"]] {
        up(&host, &["--nat"]).success();
        host.sh("ip netns delete container_network_ns; while ip link show veth_host; do sleep 0.01; done")
            .success();
        host.run("netns-setup", verb).success();
        assert_eq!(everything(&host), before);
        assert_eq!(host.run("netns-setup", verb), done(""));
    }
}

#[test]
fn gc_removes_what_has_no_namespace_and_nothing_else() {
    need!(root() && installed("nft"));
    let host = host();
    up(&host, &second_network("alive")).success();
    let before = everything(&host);
    up(&host, &["--nat", "dead"]).success();
    host.sh("ip netns delete dead; touch /run/netns/stale; while ip link show veth_host; do sleep 0.01; done")
        .success();
    host.sh("echo mine > /run/netns/file; mkdir /etc/netns/other").success();
    let dry = host.run("netns-setup", &["gc", "--dry-run"]).success().stdout;
    let expected = "\
nft 'table ip netns-setup-dead; delete table ip netns-setup-dead'
rm -f /etc/netns/dead/resolv.conf && rmdir --ignore-fail-on-non-empty /etc/netns/dead && \
rmdir --ignore-fail-on-non-empty /etc/netns
rm /run/netns/stale
";
    assert_eq!(dry, expected);
    assert_eq!(host.run("netns-setup", &["gc"]), done("dead\nstale\n"));
    assert_eq!(host.run("netns-setup", &["gc"]), done(""));
    host.sh("rm /run/netns/file; rmdir /etc/netns/other").success();
    // Whoever is the last to go restores forwarding, and 'dead' has taken its mark along.
    assert_eq!(everything(&host), before);
}

/// A host with a machine outside, on 203.0.113.2 behind the link `uplink` with 203.0.113.1.
fn host_with_outside() -> Host {
    let host = host();
    host.sh("set -e; ip netns add outside
        ip link add uplink type veth peer name outside netns outside
        ip address add 203.0.113.1/24 dev uplink; ip link set uplink up
        ip -n outside address add 203.0.113.2/24 dev outside; ip -n outside link set outside up
        until ping -c1 -W1 203.0.113.2; do :; done")
        .success();
    host
}

#[test]
fn a_port_that_another_network_publishes_is_refused() {
    need!(root() && installed("nft"));
    let host = host();
    up(&host, &["--publish", "8080:80", "one"]).success();
    let second = [&["--publish", "192.0.2.1:8080:81"], &second_network("two")[..]].concat();
    let expected =
        "netns-setup: port '192.0.2.1:8080:81' is published for network namespace 'one' already\n";
    assert_eq!(up(&host, &second), refused(1, expected));
    let second = [&["--publish", "8080:81/udp"], &second_network("two")[..]].concat();
    up(&host, &second).success();
}

/// A server in the container that tells its caller's address, on a TCP or UDP port, until it is dropped.
fn serve(host: &Host, listen: &str) -> KilledAtEnd {
    let child = host
        .command("ip")
        .args(["netns", "exec", NAME, "socat", listen, "SYSTEM:echo $SOCAT_PEERADDR"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    KilledAtEnd(child)
}

struct KilledAtEnd(std::process::Child);

impl Drop for KilledAtEnd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What the server at `address` answers to a caller in `netns` (or on the host).
fn call(host: &Host, netns: Option<&str>, address: &str) -> String {
    let inside = netns.map_or(String::new(), |netns| format!("ip netns exec {netns} "));
    // The server may not listen yet.
    let line = format!(
        "for i in $(seq 50); do {inside}socat -T2 - {address} </dev/null 2>/dev/null && exit; sleep 0.1; done; exit 1"
    );
    host.sh(&line).success().stdout
}

#[test]
fn a_published_port_leads_to_the_container_from_everywhere() {
    need!(root() && installed("nft") && installed("socat"));
    let host = host_with_outside();
    let before = everything(&host);
    let options = ["--publish", "8080:80", "--publish", "203.0.113.1:53:5353/udp"];
    up(&host, &options).success();
    assert_eq!(host.run("netns-setup", &[&["check"], &options[..]].concat()), done(""));
    let server = serve(&host, "TCP-LISTEN:80,fork,reuseaddr");
    // From outside with the caller's own address; from the host; from the container itself.
    assert_eq!(call(&host, Some("outside"), "TCP:203.0.113.1:8080"), "203.0.113.2\n");
    assert_eq!(call(&host, None, "TCP:203.0.113.1:8080"), "203.0.113.1\n");
    assert_eq!(call(&host, None, "TCP:192.168.10.1:8080"), "192.168.10.1\n");
    assert_eq!(call(&host, Some(NAME), "TCP:203.0.113.1:8080"), "192.168.10.1\n");
    drop(server);
    let server = serve(&host, "UDP-LISTEN:5353,fork,reuseaddr");
    let ask = "for i in $(seq 50); do answer=$(echo x | ip netns exec outside socat -t1 - UDP:203.0.113.1:53); \
        test -n \"$answer\" && break; done; echo $answer";
    assert_eq!(host.sh(ask).stdout, "203.0.113.2\n");
    drop(server);
    let status = json_of(&host, &format!("{} status --json", tool_path("netns-setup").display()));
    assert_eq!(status["publish"], json!(["8080:80", "203.0.113.1:53:5353/udp"]));
    assert_eq!(status["nat"], false);
    down(&host, &[]).success();
    assert_eq!(everything(&host), before);
    let refused = "ip netns exec outside socat - TCP:203.0.113.1:8080";
    assert!(host.sh(refused).stderr.contains("Connection refused"));
}

#[test]
fn a_forward_policy_of_drop_is_named_and_can_be_passed() {
    need!(root() && installed("nft") && installed("iptables"));
    let host = host_with_outside();
    let ping = "ip netns exec container_network_ns ping -c1 -W1 203.0.113.2";
    up(&host, &["--nat", "--forward-accept"]).success();
    host.sh(ping).success();
    assert_eq!(host.sh("iptables -S FORWARD").stdout, "-P FORWARD ACCEPT\n", "it needs no rule");
    host.sh("iptables -P FORWARD DROP").success();
    let before = host.sh("iptables -S").stdout;
    assert_eq!(host.sh(ping).code, 1);
    let expected = "\
netns-setup: cannot forward for 'veth_host': the policy of iptables' chain FORWARD is DROP
  hint: --forward-accept adds rules for 'veth_host' to FORWARD
";
    assert_eq!(up(&host, &["--nat"]), refused(1, expected));
    assert_eq!(host.run("netns-setup", &["check", "--nat"]), refused(1, expected));
    up(&host, &["--nat", "--forward-accept"]).success();
    host.sh(ping).success();
    let again = up(&host, &["--nat", "--forward-accept", "--verbose"]);
    assert_eq!(again.stderr, "netns-setup: nothing to do\n");
    // A firewall that starts anew flushes them; the next run puts them back.
    host.sh("iptables -F FORWARD").success();
    let check = host.run("netns-setup", &["check", "--nat", "--forward-accept"]);
    let line = "iptables rules of 'container_network_ns' are missing or different\n";
    assert_eq!(check, Outcome { code: 1, ..done(line) });
    up(&host, &["--nat", "--forward-accept"]).success();
    host.sh(ping).success();
    down(&host, &[]).success();
    assert_eq!(host.sh("iptables -S").stdout, before);
}

#[test]
fn dockers_own_chain_for_its_users_is_preferred() {
    need!(root() && installed("nft") && installed("iptables"));
    let host = host();
    host.sh(
        "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER",
    )
    .success();
    let before = host.sh("iptables -S").stdout;
    up(&host, &["--nat", "--forward-accept", "--publish", "80:80"]).success();
    let rules = host.sh("iptables -S DOCKER-USER").stdout;
    assert_eq!(rules.matches("-A DOCKER-USER ").count(), 3, "{rules}");
    // A link that somebody removed takes the mark along, not the rules.
    host.sh("ip link delete veth_host").success();
    down(&host, &[]).success();
    assert_eq!(host.sh("iptables -S").stdout, before);
    assert_eq!(host.sh("nft list tables ip | grep netns-setup").stdout, "");
}

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
