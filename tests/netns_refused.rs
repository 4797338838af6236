//! netns-setup from outside: what is refused, and what is not ours and stays as it is.

use crate::{
    netns_setup::{LAB, done, down, everything, host, network, refused, up},
    support::{Outcome, outcome, root, tool_path},
};

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
