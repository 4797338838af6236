//! A plan as data: each step prints as the shell command that does the same, is taken, and goes back.

use crate::{
    address::{Cidr, Mac},
    dns, firewall,
    mark::{BRIDGE, Mark},
    nat::{self, Rule},
    netlink::Pair,
    netns,
};
use std::{fmt, net::IpAddr};

/// A link, on the host or in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// None: on the host.
    pub(crate) netns: Option<String>,
    pub(crate) link: String,
}

impl End {
    /// The command that speaks to the link's namespace.
    fn ip(&self) -> String {
        self.netns.as_ref().map_or("ip".into(), |netns| format!("ip -n {netns}"))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.netns {
            Some(netns) => write!(f, "'{}' in '{netns}'", self.link),
            None => write!(f, "'{}'", self.link),
        }
    }
}

/// One change. `before` is what undo puts back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remove a file with no namespace behind it.
    RemoveStale { netns: String },
    /// Make a namespace that carries our mark.
    AddNetns { netns: String },
    /// Mark a namespace that was there before.
    AdoptNetns { netns: String },
    /// Make a bridge.
    AddBridge { bridge: String, mac: Mac, mtu: u32 },
    /// Write on a bridge that it is ours.
    MarkBridge { bridge: String },
    /// Make a link a port of a bridge, or of none.
    SetBridge { link: String, bridge: Option<String>, before: Option<String> },
    /// Make the pair.
    AddVeth { netns: String, pair: Pair },
    /// Delete a link of ours that is not as it should be, or is no longer wanted. `restore` makes it anew;
    /// none where the other end is out of sight.
    DeleteLink { link: String, restore: Option<Vec<Step>> },
    /// Write on the host end whose it is.
    Mark { link: String, mark: Mark, before: String },
    /// Let the host forward.
    Forward { link: String, before: bool },
    /// Set a MAC address.
    SetMac { end: End, mac: Mac, before: Mac },
    /// Set an MTU.
    SetMtu { end: End, mtu: u32, before: u32 },
    /// Add an address.
    AddAddress { end: End, cidr: Cidr },
    /// Delete an address that is not wanted.
    DeleteAddress { end: End, cidr: Cidr },
    /// Set a link up.
    SetUp { end: End },
    /// Wait until the link has a carrier.
    AwaitCarrier { end: End },
    /// Lead the default route to `via`.
    AddRoute { end: End, via: IpAddr, before: Option<IpAddr> },
    /// Delete the default route.
    DeleteRoute { end: End, via: IpAddr },
    /// Make the nft table.
    ReplaceNat { netns: String, rules: Vec<Rule>, before: Option<Vec<Rule>> },
    /// Delete the nft table.
    DeleteNat { netns: String, before: Vec<Rule> },
    /// Let traffic through the host's firewall, by `rules` instead of those that are there.
    SetAccept { netns: String, rules: Vec<String>, before: Vec<String> },
    /// Write resolv.conf.
    WriteDns { netns: String, text: String, before: Option<String> },
    /// Remove resolv.conf.
    DeleteDns { netns: String, before: String },
    /// Put forwarding back, if this link's network is the `last` that needs it.
    ReleaseForwarding { link: String, mark: Mark, last: bool },
    /// Put forwarding back, if no link needs it any more.
    ForgetForwarding,
    /// Take the name from a namespace that we made.
    DeleteNetns { netns: String },
    /// Take our mark from a namespace that was there before us.
    LeaveNetns { netns: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveStale { netns } => write!(f, "rm {}/{netns}", netns::DIR),
            Self::AddNetns { netns } => {
                let mark = Mark::new(netns);
                write!(f, "ip netns add {netns} && ip -n {netns} link set lo alias '{mark}'")
            }
            Self::AdoptNetns { netns } => {
                let mark = Mark { adopted: true, ..Mark::new(netns) };
                write!(f, "ip -n {netns} link set lo alias '{mark}'")
            }
            Self::AddVeth { netns, pair } => fmt_pair(f, netns, pair),
            Self::AddBridge { bridge, mac, mtu } => {
                write!(f, "ip link add {bridge} mtu {mtu} address {mac} type bridge")
            }
            Self::MarkBridge { bridge } => write!(f, "ip link set {bridge} alias '{BRIDGE}'"),
            Self::SetBridge { link, bridge: Some(bridge), .. } => {
                write!(f, "ip link set {link} master {bridge}")
            }
            Self::SetBridge { link, bridge: None, .. } => write!(f, "ip link set {link} nomaster"),
            Self::DeleteLink { link, .. } => write!(f, "ip link delete {link}"),
            Self::Mark { link, mark, .. } => write!(f, "ip link set {link} alias '{mark}'"),
            Self::Forward { .. } => write!(f, "echo 1 > /proc/sys/net/ipv4/ip_forward"),
            Self::SetMac { end, mac, .. } => {
                write!(f, "{} link set {} address {mac}", end.ip(), end.link)
            }
            Self::SetMtu { end, mtu, .. } => {
                write!(f, "{} link set {} mtu {mtu}", end.ip(), end.link)
            }
            Self::AddAddress { end, cidr } => {
                let nodad = if cidr.ip.is_ipv6() { " nodad" } else { "" };
                write!(f, "{} address replace {cidr} dev {}{nodad}", end.ip(), end.link)
            }
            Self::DeleteAddress { end, cidr } => {
                write!(f, "{} address delete {cidr} dev {}", end.ip(), end.link)
            }
            Self::SetUp { end } => write!(f, "{} link set {} up", end.ip(), end.link),
            Self::AwaitCarrier { end } => {
                let look = format!(r#"{} link show {} | grep -q "state UP""#, end.ip(), end.link);
                write!(f, "timeout 5 sh -c 'until {look}; do sleep 0.01; done'")
            }
            Self::AddRoute { end, via, .. } => {
                write!(f, "{} route replace default via {via} dev {}", end.ip(), end.link)
            }
            Self::DeleteRoute { end, via } => {
                write!(f, "{} route delete default via {via} dev {}", end.ip(), end.link)
            }
            Self::ReplaceNat { netns, rules, .. } => {
                write!(f, "nft '{}'", nat::replace_text(netns, rules))
            }
            Self::DeleteNat { netns, .. } => write!(f, "nft '{}'", nat::delete_text(netns)),
            Self::SetAccept { rules, before, .. } => {
                f.write_str(&firewall::lines("iptables ", before, rules).join(" && "))
            }
            Self::WriteDns { netns, text, .. } => fmt_dns(f, netns, text),
            Self::DeleteDns { netns, before } => {
                write!(f, "{}", dns::delete_text(netns, before))
            }
            Self::ReleaseForwarding { link, mark, last } => {
                let off = if *last { "echo 0 > /proc/sys/net/ipv4/ip_forward && " } else { "" };
                let spent = Mark { forwarding_was_off: false, ..mark.clone() };
                write!(f, "{off}ip link set {link} alias '{spent}'")
            }
            Self::ForgetForwarding => {
                write!(f, "echo 0 > /proc/sys/net/ipv4/ip_forward && ip link set lo alias ''")
            }
            Self::DeleteNetns { netns } => write!(f, "ip netns delete {netns}"),
            Self::LeaveNetns { netns } => write!(f, "ip -n {netns} link set lo alias ''"),
        }
    }
}

fn fmt_pair(f: &mut fmt::Formatter<'_>, netns: &str, pair: &Pair) -> fmt::Result {
    let Pair { host_link, host_mac, container_link, container_mac, mtu, bridge } = pair;
    let master = bridge.as_ref().map_or(String::new(), |bridge| format!(" master {bridge}"));
    write!(
        f,
        "ip link add {host_link} mtu {mtu} address {host_mac}{master} type veth \
         peer name {container_link} netns {netns} mtu {mtu} address {container_mac}"
    )
}

fn fmt_dns(f: &mut fmt::Formatter<'_>, netns: &str, text: &str) -> fmt::Result {
    write!(f, "mkdir -p {} && printf '%s\\n'", dns::dir(netns).display())?;
    text.lines().try_for_each(|line| write!(f, " '{}'", line.replace('\'', r"'\''")))?;
    write!(f, " > {}", dns::path(netns).display())
}

impl Step {
    /// The difference that the step would level, for `check`.
    pub(crate) fn difference(&self) -> String {
        match self {
            Self::RemoveStale { netns } => {
                format!("'{}/{netns}' has no namespace behind it", netns::DIR)
            }
            Self::AddNetns { netns } => format!("network namespace '{netns}' is missing"),
            Self::AdoptNetns { netns } => format!("network namespace '{netns}' has no mark"),
            Self::AddVeth { pair, .. } => {
                format!("veth pair '{}' and '{}' is missing", pair.host_link, pair.container_link)
            }
            Self::AddBridge { bridge, .. } => format!("bridge '{bridge}' is missing"),
            Self::MarkBridge { bridge } => format!("bridge '{bridge}' lacks the mark '{BRIDGE}'"),
            Self::SetBridge { link, bridge: Some(bridge), .. } => {
                format!("interface '{link}' is no port of '{bridge}'")
            }
            Self::SetBridge { link, bridge: None, .. } => {
                format!("interface '{link}' is a port of a bridge")
            }
            Self::DeleteLink { link, .. } => format!("interface '{link}' is not wanted as it is"),
            Self::Mark { link, mark, .. } => format!("interface '{link}' lacks the mark '{mark}'"),
            Self::Forward { .. } => "the host does not forward".into(),
            Self::SetMac { end, mac, before } => {
                format!("interface {end} has MAC address {before}, not {mac}")
            }
            Self::SetMtu { end, mtu, before } => {
                format!("interface {end} has MTU {before}, not {mtu}")
            }
            Self::AddAddress { end, cidr } => {
                format!("address {cidr} is missing on interface {end}")
            }
            Self::DeleteAddress { end, cidr } => {
                format!("address {cidr} is not wanted on interface {end}")
            }
            Self::SetUp { end } => format!("interface {end} is down"),
            Self::AwaitCarrier { end } => format!("interface {end} has no carrier"),
            Self::AddRoute { via, .. } => format!("default route via {via} is missing"),
            Self::DeleteRoute { via, .. } => format!("default route via {via} is not wanted"),
            Self::ReplaceNat { netns, .. } => {
                format!("nft table '{}' is missing or different", nat::table(netns))
            }
            Self::DeleteNat { netns, .. } => {
                format!("nft table '{}' is not wanted", nat::table(netns))
            }
            Self::SetAccept { netns, rules, .. } if rules.is_empty() => {
                format!("iptables rules of '{netns}' are not wanted")
            }
            Self::SetAccept { netns, .. } => {
                format!("iptables rules of '{netns}' are missing or different")
            }
            Self::WriteDns { netns, .. } => {
                format!("'{}' is missing or different", dns::path(netns).display())
            }
            Self::DeleteDns { netns, .. } => {
                format!("'{}' is not wanted", dns::path(netns).display())
            }
            Self::ReleaseForwarding { .. } | Self::ForgetForwarding => {
                "forwarding is not needed".into()
            }
            Self::DeleteNetns { netns } | Self::LeaveNetns { netns } => {
                format!("network namespace '{netns}' is not wanted")
            }
        }
    }
}

/// A step failed after `undone` others were taken back. `left` is what could not be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failed<E> {
    pub(crate) error: E,
    pub(crate) undone: usize,
    pub(crate) left: Vec<Step>,
}

/// Take the steps in order. When one fails, undo those taken, last first.
pub(crate) fn run<E>(steps: &[Step], kernel: &mut impl Kernel<Error = E>) -> Result<(), Failed<E>> {
    for (taken, step) in steps.iter().enumerate() {
        if let Err(error) = kernel.take(step) {
            return Err(undo(&steps[..taken], kernel, error));
        }
    }
    Ok(())
}

/// Take back `taken`, last first, because of `error`.
pub(crate) fn undo<E>(taken: &[Step], kernel: &mut impl Kernel<Error = E>, error: E) -> Failed<E> {
    let undo = taken.iter().rev().filter(|step| kernel.undo(step).is_err());
    let left: Vec<Step> = undo.cloned().collect();
    Failed { error, undone: taken.len() - left.len(), left }
}

/// Take the steps in order, whichever fails: removal goes on.
pub(crate) fn run_all<E>(steps: &[Step], kernel: &mut impl Kernel<Error = E>) -> Vec<(Step, E)> {
    steps.iter().filter_map(|step| Some((step.clone(), kernel.take(step).err()?))).collect()
}

/// The real one is kernel.rs; the test's keeps a list.
pub(crate) trait Kernel {
    type Error;
    fn take(&mut self, step: &Step) -> Result<(), Self::Error>;
    fn undo(&mut self, step: &Step) -> Result<(), Self::Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        refuse: usize,
        stick: Option<Step>,
        in_place: Vec<Step>,
    }

    impl Kernel for Fake {
        type Error = &'static str;

        fn take(&mut self, step: &Step) -> Result<(), Self::Error> {
            if self.in_place.len() == self.refuse {
                return Err("refused");
            }
            self.in_place.push(step.clone());
            Ok(())
        }

        fn undo(&mut self, step: &Step) -> Result<(), Self::Error> {
            if self.stick.as_ref() == Some(step) {
                return Err("stuck");
            }
            assert_eq!(self.in_place.pop().as_ref(), Some(step), "last first");
            Ok(())
        }
    }

    fn three_steps() -> [Step; 3] {
        let end = End { netns: Some("demo".into()), link: "lo".into() };
        [
            Step::AddNetns { netns: "demo".into() },
            Step::SetUp { end },
            Step::Forward { link: "h".into(), before: false },
        ]
    }

    #[test]
    fn whichever_step_fails_nothing_is_left() {
        for refuse in 0..3 {
            let mut fake = Fake { refuse, stick: None, in_place: vec![] };
            let failed = run(&three_steps(), &mut fake).unwrap_err();
            assert_eq!(failed, Failed { error: "refused", undone: refuse, left: vec![] });
            assert_eq!(fake.in_place, []);
        }
    }

    #[test]
    fn what_cannot_be_undone_is_named() {
        let [first, second, third] = three_steps();
        let mut fake = Fake { refuse: 2, stick: Some(second.clone()), in_place: vec![] };
        let failed = run(&[second.clone(), first, third], &mut fake);
        assert_eq!(failed, Err(Failed { error: "refused", undone: 1, left: vec![second] }));
    }

    #[test]
    fn steps_print_as_shell_commands() {
        let pair = Pair {
            host_link: "h".into(),
            host_mac: Mac([2, 0, 0, 0, 0, 1]),
            container_link: "c".into(),
            container_mac: Mac([2, 0, 0, 0, 0, 2]),
            mtu: 1400,
            bridge: None,
        };
        assert_eq!(
            Step::AddVeth { netns: "demo".into(), pair }.to_string(),
            "ip link add h mtu 1400 address 02:00:00:00:00:01 type veth \
             peer name c netns demo mtu 1400 address 02:00:00:00:00:02"
        );
        let end = End { netns: Some("demo".into()), link: "c".into() };
        let cidr = "fd00::2/64".parse().unwrap();
        assert_eq!(
            Step::AddAddress { end, cidr }.to_string(),
            "ip -n demo address replace fd00::2/64 dev c nodad"
        );
        let text = "# netns-setup:demo\nsearch it's\n".into();
        assert_eq!(
            Step::WriteDns { netns: "demo".into(), text, before: None }.to_string(),
            "mkdir -p /etc/netns/demo && printf '%s\\n' '# netns-setup:demo' 'search it'\\''s' \
             > /etc/netns/demo/resolv.conf"
        );
    }
}
