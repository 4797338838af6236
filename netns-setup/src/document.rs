//! A network as JSON: what `status --json` prints, and what `--from` reads.

use crate::{
    address::Cidr,
    cli,
    dns::{self, Resolvers},
    error::{Attempt as _, Error},
    netlink::Link,
    netns,
    state::{Side, State},
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// One network. Read back, what is missing has the default of its option; what only `status` can know
/// (the path, numbers, what is up, what was changed) is a fact and no wish, and makes no difference.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "as JSON has them")]
pub(crate) struct Document {
    pub(crate) name: Option<String>,
    pub(crate) netns: Option<PathBuf>,
    /// Made by us; false where the namespace was there before.
    pub(crate) made: bool,
    pub(crate) host_end: Option<End>,
    pub(crate) container_end: Option<End>,
    /// It has the addresses of the host end.
    pub(crate) bridge: Option<String>,
    pub(crate) default_routes: Option<Vec<IpAddr>>,
    pub(crate) forwarding: bool,
    pub(crate) nat: bool,
    pub(crate) publish: Option<Vec<String>>,
    pub(crate) forward_accept: bool,
    /// `host`, `none`, or addresses; null for a file that is not ours.
    pub(crate) dns: Option<Vec<String>>,
    /// Only from `up`: whether it had anything to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) changed: Option<bool>,
}

/// One end of the pair.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct End {
    pub(crate) link: Option<String>,
    pub(crate) index: u32,
    pub(crate) mac: Option<String>,
    pub(crate) mtu: Option<u32>,
    pub(crate) up: bool,
    pub(crate) addresses: Option<Vec<String>>,
}

impl Document {
    /// What is there.
    pub(crate) fn new(state: &State) -> Result<Self, Error> {
        let host_end = state.own_links().into_iter().next();
        let container_end = host_end.and_then(|link| state.container_end(link));
        let bridge = host_end.and_then(|link| link.controller);
        let bridge = state.host.links.iter().find(|link| Some(link.index) == bridge);
        let inside = state.inside.clone().unwrap_or_default();
        let defaults = inside.routes.iter().filter(|route| route.destination.is_none());
        Ok(Self {
            name: Some(state.netns.clone()),
            netns: Some(netns::path(&state.netns)),
            made: state.netns_mark().is_some_and(|mark| !mark.adopted),
            host_end: host_end.map(|link| end(&state.host, link, bridge.unwrap_or(link))),
            container_end: container_end.map(|link| end(&inside, link, link)),
            bridge: bridge.map(|bridge| bridge.name.clone()),
            default_routes: Some(defaults.filter_map(|route| route.via).collect()),
            forwarding: state.forwarding,
            nat: state.nat.masquerades(),
            publish: Some(state.nat.published()),
            forward_accept: state.firewall.as_ref().is_some_and(|it| !it.ours.is_empty()),
            dns: resolvers(&state.dns)?,
            changed: None,
        })
    }

    /// Read one; `-` is standard input.
    pub(crate) fn read(from: &Path) -> Result<Self, Error> {
        let shown = from.display();
        let text = if from == Path::new("-") {
            io::read_to_string(io::stdin())
        } else {
            fs::read_to_string(from)
        };
        let text = text.attempt(|| format!("cannot read '{shown}'"))?;
        serde_json::from_str(&text)
            .map_err(|err| Error::usage(format!("'{shown}' describes no network: {err}")))
    }

    pub(crate) fn json(&self) -> Result<String, Error> {
        serde_json::to_string(self).attempt(|| "cannot write JSON".into())
    }

    /// The options that ask for this network; `other` has those that it says nothing about.
    pub(crate) fn options(self, other: &cli::Network) -> cli::Network {
        let mut network = other.clone();
        let host = self.host_end.unwrap_or_default();
        let container = self.container_end.unwrap_or_default();
        network.name = self.name.unwrap_or(network.name);
        network.host_link = host.link.unwrap_or(network.host_link);
        network.container_link = container.link.unwrap_or(network.container_link);
        network.host_addr = host.addresses.unwrap_or(network.host_addr);
        network.container_addr = container.addresses.unwrap_or(network.container_addr);
        network.host_mac = host.mac;
        network.container_mac = container.mac;
        network.mtu = host.mtu;
        network.no_default_route = self.default_routes.as_ref().is_some_and(Vec::is_empty);
        network.gateway = self.default_routes.unwrap_or_default();
        network.bridge = self.bridge;
        network.nat = self.nat;
        network.publish = self.publish.unwrap_or_default();
        network.forward_accept = self.forward_accept;
        network.dns = self.dns.unwrap_or(network.dns);
        network
    }
}

fn end(side: &Side, link: &Link, addressed: &Link) -> End {
    let own = side.addresses.iter().filter(|it| it.link == addressed.index && it.set);
    End {
        link: Some(link.name.clone()),
        index: link.index,
        mac: link.mac.map(|mac| mac.to_string()),
        mtu: Some(link.mtu),
        up: link.up,
        addresses: Some(own.map(|address| Cidr::to_string(&address.cidr)).collect()),
    }
}

/// In the words of `--dns`.
fn resolvers(file: &dns::File) -> Result<Option<Vec<String>>, Error> {
    let lines = match file {
        dns::File::Ours(text) => Some(dns::body(text).to_owned()),
        dns::File::Absent => None,
        dns::File::Strange => return Ok(None),
    };
    if lines == dns::lines(&Resolvers::Host)? {
        return Ok(Some(vec!["host".into()]));
    }
    let Some(lines) = lines else { return Ok(Some(vec!["none".into()])) };
    let ips = lines.lines().filter_map(|line| line.strip_prefix("nameserver "));
    Ok(Some(ips.map(Into::into).collect()))
}
