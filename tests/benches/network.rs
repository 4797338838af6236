//! The lab's network, up and down.

use crate::{
    error::{Attempt as _, Error},
    host::{Host, tool},
    measure::{Candidate, Candidates, Series, words},
    report::{Report, digits, shown},
};
use serde_json::json;
use std::{fs, path::Path};

const TEXT: &str = "\
A named network namespace, a veth pair, an address on both ends, the links up, the default route, forwarding; then all of it \
removed. *floor* is a C program that sends the fewest netlink messages (`tests/benches/floors/net.c`). The kernel waits for \
a grace period of RCU when it removes a pair: what takes less lets it finish alone. CNI's ptp writes no default \
forwarding and keeps a store of addresses; netns-setup also writes a resolv.conf, MAC addresses and marks of ownership.";

/// The lab's lines, one command each.
const SCRIPT_UP: &str = "set -e
ip netns add script
ip link add script_host type veth peer name script_cont
ip link set script_cont netns script
ip addr add 192.168.12.1/24 dev script_host
ip link set script_host up
ip netns exec script ip addr add 192.168.12.2/24 dev script_cont
ip netns exec script ip link set script_cont up
ip netns exec script ip link set lo up
ip netns exec script ip route add default via 192.168.12.1
sysctl --quiet --write net.ipv4.ip_forward=1";

const SCRIPT_DOWN: &str = "set -e
ip link delete script_host
ip netns delete script";

/// The same as two files for ip, which starts twice then.
const BATCH_OUTSIDE: &str = "netns add batch
link add batch_host type veth peer name batch_cont netns batch
addr add 192.168.13.1/24 dev batch_host
link set batch_host up
";
const BATCH_INSIDE: &str = "addr add 192.168.13.2/24 dev batch_cont
link set batch_cont up
link set lo up
route add default via 192.168.13.1
";
const BATCH_DOWN: &str = "link delete batch_host
netns delete batch
";

pub(crate) fn measure(host: &Host, rounds: usize) -> Result<Report, Error> {
    let measured = host.runner.rounds(candidates(host)?, rounds, |_| Ok(()))?;
    let (floor, ours) = (measured.named("floor")?, measured.named("netns-setup")?);
    let mut report = Report::new("network", "Network", rounds);
    report.say(TEXT);
    for (phase, name) in [(0, "Up"), (1, "Down")] {
        let row = |series: &Series| {
            let summary = series.summary(phase);
            vec![
                series.candidate.name.clone(),
                digits(summary.median),
                format!("{}–{}", digits(summary.p25), digits(summary.p75)),
                digits(summary.p99),
                digits(series.over(floor, phase)),
                digits(1.0 / series.over(ours, phase)),
            ]
        };
        report.say(&format!("{name}:"));
        let head = ["", "median ms", "quartiles", "p99", "÷ floor", "netns-setup ÷ it"];
        report.table(&head, &measured.series.iter().map(row).collect::<Vec<_>>());
        let file = format!("network-{}", name.to_lowercase());
        report.plot(&file, &format!("{name}: the lab's network, ms"), &measured.series, phase)?;
    }
    let row = |series: &Series| -> Result<Vec<String>, Error> {
        Ok(vec![
            series.candidate.name.clone(),
            shown(host.runner.peak(host, &series.candidate))?,
            shown(host.runner.system_calls(host, &series.candidate, None))?,
        ])
    };
    report.say("What up takes:");
    let rows = measured.series.iter().map(row).collect::<Result<Vec<_>, _>>()?;
    report.table(&["", "peak KiB", "system calls"], &rows);
    report.missing(&measured.missing);
    report.samples("network", "ms", &measured.series);
    Ok(report)
}

fn candidates(host: &Host) -> Result<Candidates, Error> {
    let floor = host.compile("net")?.display().to_string();
    let netns_setup = tool("netns-setup")?;
    let up = words(&format!("{netns_setup} up bench"));
    let shell = |script: &str| vec!["bash".to_owned(), "-c".to_owned(), script.to_owned()];
    let mut list = Candidates::default();
    for (name, down) in [("floor", "down"), ("floor, not waiting", "drop")] {
        list.add(
            name,
            [words(&format!("{floor} up f{{n}}")), words(&format!("{floor} {down} f{{n}}"))],
        );
    }
    list.add("netns-setup", [up, words(&format!("{netns_setup} down bench"))]);
    let help = host.runner.output(&words(&format!("{netns_setup} down --help")))?;
    if help.contains("--no-wait") {
        // Names of its own: an 'up' of the same names right behind it waits for what is left of them.
        let names = "--host-link left_host --container-link left_cont";
        let addresses = "--host-addr 192.168.15.1/24 --container-addr 192.168.15.2/24";
        let up = words(&format!("{netns_setup} up {names} {addresses} left"));
        let down = words(&format!("{netns_setup} down --no-wait left"));
        list.add("netns-setup, --no-wait", [up, down]);
    }
    let outside = write(host, "batch-outside", BATCH_OUTSIDE)?;
    let inside = write(host, "batch-inside", BATCH_INSIDE)?;
    let down = write(host, "batch-down", BATCH_DOWN)?;
    let batch = format!("ip -batch {outside} && ip -netns batch -batch {inside}");
    list.add("ip -batch", [shell(&batch), words(&format!("ip -batch {down}"))]);
    list.add("the lab's bash lines", [shell(SCRIPT_UP), shell(SCRIPT_DOWN)]);
    let plugins = ["/usr/lib/cni/ptp", "/opt/cni/bin/ptp"];
    let ptp = plugins.into_iter().find(|path| Path::new(path).exists()).unwrap_or("ptp");
    list.add_if(ptp, || cni_ptp(host, ptp), "CNI ptp")?;
    Ok(list)
}

/// CNI's point-to-point plug-in, called as a runtime calls it.
fn cni_ptp(host: &Host, ptp: &str) -> Result<Candidate, Error> {
    let dir = ptp.trim_end_matches("/ptp");
    let network = json!({
        "cniVersion": "0.4.0", "name": "cni", "type": "ptp",
        "ipam": {
            "type": "host-local", "subnet": "192.168.14.0/24", "dataDir": host.scratch().join("cni"),
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    let config = write(host, "cni.json", &network.to_string())?;
    let call = |verb: &str| {
        format!(
            "CNI_COMMAND={verb} CNI_CONTAINERID=cni CNI_NETNS=/run/netns/cni CNI_IFNAME=eth0 CNI_PATH={dir} {ptp} <{config}"
        )
    };
    let up = format!("ip netns add cni && {}", call("ADD"));
    let down = format!("{} && ip netns delete cni", call("DEL"));
    let shell = |script: String| vec!["sh".to_owned(), "-c".to_owned(), script];
    Ok(Candidate::new("CNI ptp", [shell(up), shell(down)]))
}

fn write(host: &Host, name: &str, content: &str) -> Result<String, Error> {
    let path = host.scratch().join(name);
    fs::write(&path, content).attempt(|| format!("cannot write '{}'", path.display()))?;
    Ok(path.display().to_string())
}
