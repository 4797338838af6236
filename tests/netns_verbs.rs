//! netns-setup from outside: exec and gc, and networks as JSON.

use crate::{
    netns_setup::{NAME, done, down, everything, host, refused, second_network, up},
    support::{Outcome, installed, outcome_with_input, root},
};
use serde_json::{Value, json};

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
