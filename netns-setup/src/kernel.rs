//! The real kernel: takes the steps and takes them back.

use crate::{
    dns,
    error::{Attempt as _, Error},
    firewall::{self, Firewall},
    forwarding,
    mark::{BRIDGE, Mark},
    nat::{self, Table},
    netlink::{Kind, Link, Match, Netlink},
    netns::{self, Named},
    plan::needs_all_links,
    state::{Side, State},
    steps::{End, Kernel, Step},
    wanted::Wanted,
};
use nix::errno::Errno;
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

/// What has to be asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asks {
    pub(crate) nft: bool,
    pub(crate) iptables: bool,
}

impl Asks {
    /// Both.
    pub(crate) fn all(_: &State) -> Self {
        Self { nft: true, iptables: true }
    }
}

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Look<'a> {
    /// All that there is.
    All,
    /// Whatever `down` may have to take away.
    Leftovers,
    /// What can matter to this network.
    For(&'a Wanted),
}

/// The host, and the namespace `name` in it.
pub(crate) struct Host {
    name: String,
    verbose: bool,
    /// The namespace that we came from.
    home: OwnedFd,
    netlink: Netlink,
    stale: bool,
    netns: Option<OwnedFd>,
    inside: Option<Netlink>,
    undoing: bool,
}

impl Host {
    /// Open what there is. Nothing is changed.
    pub(crate) fn open(name: &str, verbose: bool) -> Result<Self, Error> {
        let named = netns::look(name)?;
        let stale = matches!(named, Named::Stale);
        let netns = match named {
            Named::Netns(netns) => Some(netns),
            Named::Absent | Named::Stale => None,
        };
        let home = netns::own()?;
        let inside = netns.as_ref().map(|netns| netns::netlink(name, netns, &home)).transpose()?;
        let netlink = Netlink::open()?;
        let name = name.into();
        Ok(Self { name, verbose, home, netlink, stale, netns, inside, undoing: false })
    }

    /// Read what there is; nft and iptables, which take a process each, only where `asks` says so.
    pub(crate) fn state(
        &self,
        what: Look<'_>,
        asks: impl FnOnce(&State) -> Asks,
    ) -> Result<State, Error> {
        // Links and forwarding are read together: see forwarding::release.
        let lock = netns::lock_dir()?;
        let inside = self.inside.as_ref().map(|inside| read(inside, what)).transpose()?;
        let mut state = State {
            netns: self.name.clone(),
            stale: self.stale,
            host: match what {
                Look::For(wanted) => near(&self.netlink, wanted, inside.as_ref())?,
                _ => read(&self.netlink, what)?,
            },
            inside,
            forwarding: forwarding::is_on()?,
            nat: Table::Unknown,
            published: vec![],
            firewall: None,
            dns: dns::look(&self.name)?,
        };
        if matches!(what, Look::For(wanted) if wanted.is_wide() || needs_all_links(wanted, &state))
        {
            state.host = read(&self.netlink, Look::All)?;
        }
        drop(lock);
        let Asks { nft, iptables } = asks(&state);
        if nft {
            (state.nat, state.published) = nat::look(&self.name)?;
        }
        if iptables {
            state.firewall = Firewall::look(&self.name)?;
        }
        Ok(state)
    }

    /// Undo speaks to the kernel by sockets of its own: what failed may have been the socket.
    fn reconnect(&mut self) -> Result<(), Error> {
        netns::enter(&self.home).attempt(|| "cannot come back from a network namespace".into())?;
        self.netlink = Netlink::open()?;
        if let Some(netns) = &self.netns {
            self.inside = Some(netns::netlink(&self.name, netns, &self.home)?);
        }
        self.undoing = true;
        Ok(())
    }

    fn socket_has_failed(&self) -> bool {
        let mut sockets = std::iter::once(&self.netlink).chain(&self.inside);
        sockets.any(Netlink::has_failed)
    }

    fn netlink(&self, end: &End) -> Result<&Netlink, Error> {
        if end.netns.is_none() { Ok(&self.netlink) } else { self.inside() }
    }

    fn inside(&self) -> Result<&Netlink, Error> {
        let name = &self.name;
        self.inside
            .as_ref()
            .ok_or_else(|| Error::new(format!("network namespace '{name}' is not there")))
    }

    fn add_netns(&mut self) -> Result<(), Error> {
        let (netns, inside) = netns::add(&self.name, &self.home)?;
        self.netns = Some(netns);
        self.inside = Some(inside);
        Ok(())
    }

    /// The lock keeps a `down` from switching forwarding off between its look and ours.
    fn mark(&self, link: &str, before: &str, alias: &str) -> Result<(), Error> {
        let _lock = netns::lock_dir()?;
        // To set it on a link that is up costs a walk over all IPv6 routes.
        let same = |link: Option<Link>| link.is_some_and(|link| link.alias == alias);
        if before == alias && same(self.netlink.link_named(link)?) {
            return Ok(());
        }
        self.netlink.set_alias(link, alias)
    }

    fn change(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::RemoveStale { netns } | Step::DeleteNetns { netns } => netns::delete(netns),
            Step::AddNetns { .. } => self.add_netns(),
            Step::AdoptNetns { netns } => {
                let mark = Mark { adopted: true, ..Mark::new(netns) };
                self.inside()?.set_alias("lo", &mark.to_string())
            }
            Step::LeaveNetns { .. } => self.inside()?.set_alias("lo", ""),
            Step::AddVeth { netns, pair } => match &self.netns {
                Some(fd) => self.netlink.add_veth(pair, fd),
                None => Err(Error::new(format!("network namespace '{netns}' is not there"))),
            },
            Step::AddBridge { bridge, mac, mtu } => self.netlink.add_bridge(bridge, *mac, *mtu),
            Step::MarkBridge { bridge } => self.netlink.set_alias(bridge, BRIDGE),
            Step::SetBridge { link, bridge, .. } => {
                self.netlink.set_bridge(link, bridge.as_deref())
            }
            Step::DeleteLink { link, .. } => self.netlink.delete_link(link),
            Step::Mark { link, mark, before } => self.mark(link, before, &mark.to_string()),
            Step::Forward { .. } => forwarding::set(true),
            Step::ReleaseForwarding { link, .. } => forwarding::release(&self.netlink, link),
            Step::ForgetForwarding => forwarding::forget(&self.netlink),
            Step::SetMac { end, mac, .. } => self.netlink(end)?.set_mac(&end.link, *mac),
            Step::SetMtu { end, mtu, .. } => self.netlink(end)?.set_mtu(&end.link, *mtu),
            Step::AddAddress { end, cidr } => self.netlink(end)?.replace_address(&end.link, *cidr),
            Step::DeleteAddress { end, cidr } => {
                self.netlink(end)?.delete_address(&end.link, *cidr)
            }
            Step::SetUp { end } => self.netlink(end)?.set_up(&end.link, true),
            Step::AwaitCarrier { end } => self.netlink(end)?.await_carrier(&end.link),
            Step::AddRoute { end, via, .. } => {
                self.netlink(end)?.replace_default_route(&end.link, *via)
            }
            Step::DeleteRoute { end, via } => {
                self.netlink(end)?.delete_default_route(&end.link, *via)
            }
            Step::ReplaceNat { netns, rules, .. } => nat::run(&nat::replace_text(netns, rules)),
            Step::DeleteNat { netns, .. } => nat::run(&nat::delete_text(netns)),
            Step::SetAccept { rules, before, .. } => firewall::replace(before, rules),
            Step::WriteDns { netns, text, .. } => dns::write(netns, text),
            Step::DeleteDns { netns, .. } => dns::delete(netns),
        }
    }
}

fn read(netlink: &Netlink, what: Look<'_>) -> Result<Side, Error> {
    // The links first: what is found on one that is dying meanwhile has a name, and what appears is not ours.
    let links = netlink.links()?;
    if matches!(what, Look::Leftovers) {
        return Ok(Side { links, ..Side::default() });
    }
    let addresses = netlink.addresses()?;
    let routes = [netlink.routes(true)?, netlink.routes(false)?].concat();
    Ok(Side { links, addresses, routes, matches: vec![] })
}

/// The same of the host, but only what may matter to `wanted`.
fn near(netlink: &Netlink, wanted: &Wanted, inside: Option<&Side>) -> Result<Side, Error> {
    let mut side = Side::default();
    for name in ["lo", &wanted.host_link] {
        side.links.extend(netlink.link_named(name)?);
    }
    let ends = inside.into_iter().flat_map(|inside| &inside.links);
    let peers = ends.filter(|link| link.kind == Kind::Veth).filter_map(|end| end.peer);
    side.matches.push(uplink(netlink)?);
    for number in peers.chain(side.uplink()) {
        if !side.links.iter().any(|link| link.index == number) {
            side.links.extend(netlink.link_numbered(number)?);
        }
    }
    for link in side.links.iter().filter(|link| link.kind == Kind::Veth) {
        side.addresses.extend(netlink.addresses_of(link.index)?);
    }
    for ip in wanted.telling_addresses() {
        side.matches.push(netlink.route_to(ip)?);
    }
    Ok(side)
}

/// Where the default route leads. Nobody has an address of those that are for documentation only (RFC 5737, RFC 3849).
fn uplink(netlink: &Netlink) -> Result<Match, Error> {
    match netlink.route_to(Ipv4Addr::new(192, 0, 2, 0).into())? {
        Match::None => netlink.route_to(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).into()),
        found => Ok(found),
    }
}

impl Kernel for Host {
    type Error = Error;

    fn take(&mut self, step: &Step) -> Result<(), Error> {
        if self.verbose {
            crate::error::trace(step);
        }
        let done = self.change(step);
        let by_nft = matches!(step, Step::ReplaceNat { .. });
        if done.is_err() && (by_nft || self.socket_has_failed()) {
            // It may have come through, and only the answer not. If it has not, there is nothing to
            // undo, and the failure of that says so.
            drop(self.undo(step));
        }
        done
    }

    fn undo(&mut self, step: &Step) -> Result<(), Error> {
        if !self.undoing {
            self.reconnect()?;
        }
        match step {
            Step::AddNetns { netns } => netns::delete(netns),
            Step::AdoptNetns { .. } => self.inside()?.set_alias("lo", ""),
            Step::AddBridge { bridge, .. } => self.netlink.delete_link(bridge),
            Step::SetBridge { link, before, .. } => {
                self.netlink.set_bridge(link, before.as_deref())
            }
            Step::AddVeth { pair, .. } => self.netlink.delete_link(&pair.host_link),
            Step::Mark { link, mark, before } => self.mark(link, &mark.to_string(), before),
            Step::Forward { link, before: false } => forwarding::release(&self.netlink, link),
            Step::SetMac { end, before, .. } => self.netlink(end)?.set_mac(&end.link, *before),
            Step::SetMtu { end, before, .. } => self.netlink(end)?.set_mtu(&end.link, *before),
            Step::AddAddress { end, cidr } => {
                match self.netlink(end)?.delete_address(&end.link, *cidr) {
                    // Setting the link down, which was undone before, took the IPv6 ones along.
                    Err(err) if err.errno() == Some(Errno::EADDRNOTAVAIL) => Ok(()),
                    done => done,
                }
            }
            Step::DeleteAddress { end, cidr } => {
                self.netlink(end)?.replace_address(&end.link, *cidr)
            }
            Step::SetUp { end } => self.netlink(end)?.set_up(&end.link, false),
            Step::AddRoute { end, before: Some(via), .. } | Step::DeleteRoute { end, via } => {
                self.netlink(end)?.replace_default_route(&end.link, *via)
            }
            Step::AddRoute { end, via, before: None } => {
                self.netlink(end)?.delete_default_route(&end.link, *via)
            }
            Step::ReplaceNat { netns, before: Some(rules), .. }
            | Step::DeleteNat { netns, before: rules } => {
                nat::run(&nat::replace_text(netns, rules))
            }
            Step::ReplaceNat { netns, before: None, .. } => nat::run(&nat::delete_text(netns)),
            Step::SetAccept { rules, before, .. } => firewall::replace(rules, before),
            Step::WriteDns { netns, before: Some(text), .. }
            | Step::DeleteDns { netns, before: text } => dns::write(netns, text),
            Step::WriteDns { netns, before: None, .. } => dns::delete(netns),
            Step::RemoveStale { netns } => netns::add_stale(netns),
            Step::DeleteLink { link, restore: None } => {
                Err(Error::new(format!("interface '{link}' cannot be made anew")))
            }
            Step::DeleteLink { restore: Some(steps), .. } => {
                steps.iter().try_for_each(|step| self.take(step))
            }
            Step::ReleaseForwarding { link, mark, last } => {
                self.mark(link, "", &mark.to_string())?;
                if *last { forwarding::set(true) } else { Ok(()) }
            }
            // It changed nothing; and steps of `down`, which is not undone.
            Step::Forward { before: true, .. }
            | Step::ForgetForwarding
            | Step::MarkBridge { .. }
            | Step::AwaitCarrier { .. }
            | Step::DeleteNetns { .. }
            | Step::LeaveNetns { .. } => Ok(()),
        }
    }
}
