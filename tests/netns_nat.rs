//! netns-setup from outside: the ways out of a container and into it, past the host's firewalls.

use crate::{
    netns_setup::{
        KilledAtEnd, NAME, done, down, everything, host, json_of, refused, second_network, up,
    },
    support::{Host, Outcome, installed, root, tool_path},
};
use serde_json::json;
use std::process::Stdio;

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
