//! What is there, as plain data.

use crate::{
    address::Mac,
    dns,
    firewall::Firewall,
    mark::{BRIDGE, Mark},
    nat::Table,
    netlink::{Kind, Link, LinkAddress, Match, Route},
};

/// One network namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Side {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<LinkAddress>,
    pub(crate) routes: Vec<Route>,
    /// How the addresses are reached that are wanted, where only that was looked for, and not all there is.
    pub(crate) matches: Vec<Match>,
}

impl Side {
    /// The link `name`.
    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The number of the link by which the default route leads.
    pub(crate) fn uplink(&self) -> Option<u32> {
        if let Some(Match::Default(link)) = self.matches.first() {
            return Some(*link);
        }
        let routes = self.routes.iter().filter(|route| route.destination.is_none());
        Some(routes.min_by_key(|route| (!route.v4, route.metric))?.link)
    }

    /// The name of the link number `index`.
    pub(crate) fn link_name(&self, index: u32) -> &str {
        self.links.iter().find(|link| link.index == index).map_or("?", |link| &link.name)
    }
}

/// Whether `link` is a bridge that we made. The kernel takes no alias in the request that makes a link: a
/// run that was killed before it wrote one has left the MAC address that only we give.
pub(crate) fn our_bridge(link: &Link) -> bool {
    let unmarked = link.alias.is_empty() && link.mac == Some(bridge_mac(&link.name));
    link.kind == Kind::Bridge && (link.alias == BRIDGE || unmarked)
}

/// The MAC address that a bridge of ours gets.
pub(crate) fn bridge_mac(bridge: &str) -> Mac {
    Mac::from_text(&format!("netns-setup bridge {bridge}"))
}

/// The host, and the namespace `netns` in it.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) netns: String,
    /// There is a file of that name with no namespace behind it.
    pub(crate) stale: bool,
    pub(crate) host: Side,
    /// None without such a namespace.
    pub(crate) inside: Option<Side>,
    pub(crate) forwarding: bool,
    pub(crate) nat: Table,
    /// The ports that other networks of ours publish, with their names.
    pub(crate) published: Vec<(String, String)>,
    /// None without iptables, and where nobody looked.
    pub(crate) firewall: Option<Firewall>,
    pub(crate) dns: dns::File,
}

impl State {
    /// Our mark on the namespace.
    pub(crate) fn netns_mark(&self) -> Option<Mark> {
        let lo = self.inside.as_ref()?.link("lo")?;
        Mark::read(&lo.alias).filter(|mark| mark.netns == self.netns)
    }

    /// Our mark on a link of the host.
    pub(crate) fn mark(&self, link: &Link) -> Option<Mark> {
        Mark::read(&link.alias).filter(|mark| mark.netns == self.netns)
    }

    /// Whether some of it was ours before, as far as can be seen without a look at every link.
    pub(crate) fn known(&self) -> bool {
        self.stale || self.netns_mark().is_some() || self.dns != dns::File::Absent
    }

    /// The links on the host that are ours: those marked so, and those without an alias whose peer is in
    /// our namespace: made by a run that was killed before it could write the mark (the kernel takes no
    /// alias in the request that makes a link).
    pub(crate) fn own_links(&self) -> Vec<&Link> {
        let in_ours =
            |link: &Link| self.netns_mark().is_some() && self.container_end(link).is_some();
        let own =
            |link: &&Link| self.mark(link).is_some() || link.alias.is_empty() && in_ours(link);
        self.host.links.iter().filter(own).collect()
    }

    /// The bridges that are ours and have no port that is not: they go with the network.
    pub(crate) fn idle_bridges(&self) -> Vec<&Link> {
        let own = self.own_links();
        let strange = |bridge: &Link| {
            let mut ports = self.host.links.iter().filter(|it| it.controller == Some(bridge.index));
            ports.any(|port| !own.contains(&port))
        };
        self.host.links.iter().filter(|link| our_bridge(link) && !strange(link)).collect()
    }

    /// The other end of `link` in the namespace.
    pub(crate) fn container_end(&self, link: &Link) -> Option<&Link> {
        let paired = |other: &&Link| {
            link.kind == Kind::Veth
                && other.kind == Kind::Veth
                && link.peer == Some(other.index)
                && other.peer == Some(link.index)
        };
        self.inside.as_ref()?.links.iter().find(paired)
    }

    /// Whether another network of ours found forwarding off when it came.
    pub(crate) fn others_need_forwarding(&self) -> bool {
        let marks = self.host.links.iter().filter_map(|link| Mark::read(&link.alias));
        let mut others = marks.filter(|mark| mark.netns != self.netns && *mark != Mark::host());
        others.any(|mark| mark.forwarding_was_off)
    }

    /// The host's own `lo`, if it says that forwarding was off.
    pub(crate) fn host_mark(&self) -> Option<&Link> {
        self.host.link("lo").filter(|lo| Mark::read(&lo.alias) == Some(Mark::host()))
    }
}
