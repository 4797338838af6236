//! Masquerading and published ports by nft(8), in a table of our own: a firewall that reloads its tables
//! leaves it alone.

use crate::{
    address::Cidr,
    error::{Attempt as _, Error},
    publish::Publish,
};
use nix::errno::Errno;
use std::{
    io,
    net::IpAddr,
    process::{Command, Stdio},
};

/// The base chains, in the order in which nft lists them.
const CHAINS: [Chain; 3] = [Chain::Prerouting, Chain::Output, Chain::Postrouting];

/// Where a packet meets a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chain {
    /// It has come from a link.
    Prerouting,
    /// It was made by this host.
    Output,
    /// It is about to leave by a link.
    Postrouting,
}

impl Chain {
    fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    /// `NF_IP_PRI_NAT_DST` and `NF_IP_PRI_NAT_SRC` of `linux/netfilter_ipv4.h`.
    fn priority(self) -> i32 {
        if self == Self::Postrouting { 100 } else { -100 }
    }
}

/// A rule, worded as nft lists it, so that what is there can be compared with what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) chain: Chain,
    pub(crate) text: String,
}

/// Our table, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Table {
    /// There is no nft, or nobody looked.
    Unknown,
    /// There is none.
    Absent,
    /// Its rules.
    Rules(Vec<Rule>),
}

impl Table {
    /// The rules, if there is a table.
    pub(crate) fn rules(&self) -> Option<&Vec<Rule>> {
        if let Self::Rules(rules) = self { Some(rules) } else { None }
    }

    /// Whether it lets the container reach what the host reaches.
    pub(crate) fn masquerades(&self) -> bool {
        let plain =
            |rule: &Rule| rule.text.ends_with(" masquerade") && !rule.text.contains(" dnat ");
        self.rules().is_some_and(|rules| rules.iter().any(plain))
    }

    /// The ports that it publishes.
    pub(crate) fn published(&self) -> Vec<String> {
        let rules = self.rules().into_iter().flatten();
        let rules = rules.filter(|rule| rule.chain == Chain::Prerouting);
        let comment = |rule: &Rule| {
            Some(rule.text.split_once(" comment \"")?.1.trim_end_matches('"').to_owned())
        };
        rules.filter_map(comment).collect()
    }
}

/// The table of the network `netns`.
pub(crate) fn table(netns: &str) -> String {
    format!("{TABLE}{netns}")
}

const TABLE: &str = "netns-setup-";

/// The rule that lets `subnet` out: what comes from it and leaves by another link than its own takes that
/// link's address.
pub(crate) fn masquerade(subnet: Cidr, link: &str) -> Rule {
    let text = format!("ip saddr {subnet} oifname != \"{link}\" masquerade");
    Rule { chain: Chain::Postrouting, text }
}

/// The rules that lead a port of the host to `container`, whoever calls: another machine, this host (by
/// any of its addresses but loopback's, whose packets may not leave), or the container itself.
pub(crate) fn publish(publish: &Publish, container: IpAddr) -> [Rule; 2] {
    let protocol = if publish.udp { "udp" } else { "tcp" };
    let Publish { ip, host, container: port, .. } = publish;
    let leads = format!("{protocol} dport {host} dnat to {container}:{port} comment \"{publish}\"");
    let rule = |chain, to: String| Rule { chain, text: format!("{to} {leads}") };
    match ip {
        Some(ip) => {
            [Chain::Prerouting, Chain::Output].map(|chain| rule(chain, format!("ip daddr {ip}")))
        }
        None => [
            rule(Chain::Prerouting, "fib daddr type local".into()),
            rule(Chain::Output, "ip daddr != 127.0.0.0/8 fib daddr type local".into()),
        ],
    }
}

/// The rule for a container that calls a published port, its own or its neighbour's: were the source not
/// this host, the answer would not come back this way, and the caller would not know it.
pub(crate) fn hairpin(subnet: Cidr, link: &str) -> Rule {
    let text = format!("ip saddr {subnet} oifname \"{link}\" ct status dnat masquerade");
    Rule { chain: Chain::Postrouting, text }
}

/// One transaction that makes the table anew, whatever was there.
pub(crate) fn replace_text(netns: &str, rules: &[Rule]) -> String {
    let chain = |chain: Chain| {
        let own = rules.iter().filter(|rule| rule.chain == chain);
        let own: Vec<String> = own.map(|rule| format!(" {};", rule.text)).collect();
        let (name, priority) = (chain.name(), chain.priority());
        (!own.is_empty()).then(|| {
            let own = own.concat();
            format!(" chain {name} {{ type nat hook {name} priority {priority};{own} }};")
        })
    };
    let chains: Vec<String> = CHAINS.into_iter().filter_map(chain).collect();
    format!("{}; table ip {} {{{} }}", delete_text(netns), table(netns), chains.concat())
}

/// The transaction that takes the table away; no failure when it is not there.
pub(crate) fn delete_text(netns: &str) -> String {
    let table = table(netns);
    format!("table ip {table}; delete table ip {table}")
}

/// What is there now: our table, and the ports that other networks of ours publish, with their names.
pub(crate) fn look(netns: &str) -> Result<(Table, Vec<(String, String)>), Error> {
    // All at once: asked for by its name, a table that is not there would be a failure like any other.
    let Some(listing) = nft(&["list", "ruleset", "ip"])? else {
        return Ok((Table::Unknown, vec![]));
    };
    let tables = read(&listing);
    let others = tables.iter().filter(|(name, _)| name != netns);
    let published = others.flat_map(|(name, table)| {
        table.published().into_iter().map(move |port| (name.clone(), port))
    });
    let published = published.collect();
    let ours = tables.into_iter().find(|(name, _)| name == netns);
    Ok((ours.map_or(Table::Absent, |(_, table)| table), published))
}

/// The tables of ours in a listing, by the names of their networks.
fn read(listing: &str) -> Vec<(String, Table)> {
    let mut tables = vec![];
    let mut chain = None;
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix("table ip ") {
            let name = name.trim_end_matches(" {").strip_prefix(TABLE);
            tables.push((name.map(ToOwned::to_owned), vec![]));
            continue;
        }
        let line = line.trim();
        if let Some(name) = line.strip_prefix("chain ") {
            let name = name.trim_end_matches(" {");
            chain = CHAINS.into_iter().find(|chain| chain.name() == name);
        } else if let (Some(chain), Some((Some(_), rules))) = (chain, tables.last_mut())
            && !matches!(line, "" | "}")
            && !line.starts_with("type ")
        {
            rules.push(Rule { chain, text: line.into() });
        }
    }
    tables.into_iter().filter_map(|(name, rules)| Some((name?, Table::Rules(rules)))).collect()
}

/// The names for which there is a table of ours; none without nft.
pub(crate) fn list() -> Result<Option<Vec<String>>, Error> {
    let Some(tables) = nft(&["list", "tables", "ip"])? else { return Ok(None) };
    let name =
        |line: &str| Some(line.trim().strip_prefix("table ip ")?.strip_prefix(TABLE)?.to_owned());
    Ok(Some(tables.lines().filter_map(name).collect()))
}

/// Run one transaction.
pub(crate) fn run(text: &str) -> Result<(), Error> {
    nft(&[text])?.map(drop).ok_or_else(missing)
}

/// The refusal where nft is needed and missing.
pub(crate) fn missing() -> Error {
    Error::new(format!("cannot run 'nft': {} (ENOENT)", Errno::ENOENT.desc()))
        .hint("--nat and --publish need it; Debian's package is nftables")
}

/// What nft says; none when there is no nft.
fn nft(args: &[&str]) -> Result<Option<String>, Error> {
    let output = Command::new("nft").args(args).stdin(Stdio::null()).output();
    let output = match output {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        output => output.attempt(|| "cannot run 'nft'".into())?,
    };
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("it said nothing");
    Err(Error::new(format!("'nft {}' failed: {first}", args.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet() -> Cidr {
        "192.168.10.0/24".parse().unwrap()
    }

    #[test]
    fn the_table_is_made_in_one_transaction() {
        assert_eq!(
            replace_text("demo", &[masquerade(subnet(), "veth_host")]),
            "table ip netns-setup-demo; delete table ip netns-setup-demo; \
             table ip netns-setup-demo { chain postrouting \
             { type nat hook postrouting priority 100; \
             ip saddr 192.168.10.0/24 oifname != \"veth_host\" masquerade; }; }"
        );
    }

    #[test]
    fn a_listing_is_read_as_the_rules_that_made_it() {
        let listing = "table ip netns-setup-demo {\n\tchain prerouting {\n\t\ttype nat hook prerouting \
            priority dstnat; policy accept;\n\t\tfib daddr type local tcp dport 8080 dnat to \
            192.168.10.2:80 comment \"8080:80\"\n\t}\n\n\tchain postrouting {\n\t\ttype nat hook \
            postrouting priority srcnat; policy accept;\n\t\tip saddr 192.168.10.0/24 oifname \
            \"h\" ct status dnat masquerade\n\t}\n}\n";
        let port = Publish::new("8080:80").unwrap();
        let [outside, _] = publish(&port, "192.168.10.2".parse().unwrap());
        let strange = "table ip filter {\n\tchain output {\n\t\tcounter accept\n\t}\n}\n";
        let mut tables = read(&format!("{strange}{listing}"));
        let (name, table) = tables.pop().unwrap();
        assert_eq!((name.as_str(), tables), ("demo", vec![]));
        assert_eq!(table, Table::Rules(vec![outside, hairpin(subnet(), "h")]));
        assert_eq!(table.published(), ["8080:80"]);
        assert!(!table.masquerades());
        assert!(Table::Rules(vec![masquerade(subnet(), "h")]).masquerades());
    }
}
