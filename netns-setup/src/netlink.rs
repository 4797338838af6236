//! Links, addresses and routes of one network namespace, by rtnetlink. The only async file.

use crate::{
    address::{Cidr, Mac},
    error::{Attempt as _, Error},
    socket::Blocking,
};
use futures::{FutureExt as _, Stream, StreamExt as _};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressScope},
    link::{
        InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
        LinkMessage,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteType,
    },
};
use nix::errno::Errno;
use rtnetlink::{
    Handle, LinkGetRequest, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_route::RouteNetlinkMessage, proto::Connection, sys::AsyncSocket as _,
};
use std::{
    cell::RefCell,
    future::ready,
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    pin::pin,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

const CARRIER_WAIT: Duration = Duration::from_secs(5);

/// What a link is, as far as we care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// One end of a veth pair.
    Veth,
    Bridge,
    #[default]
    Other,
}

/// A link, as far as we care.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) kind: Kind,
    /// The index of the bridge that it is a port of.
    pub(crate) controller: Option<u32>,
    pub(crate) up: bool,
    /// It is up and its peer too, and the kernel has noticed: before, what is sent is dropped.
    pub(crate) carrier: bool,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    /// The index of the peer, in the peer's namespace.
    pub(crate) peer: Option<u32>,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkAddress {
    pub(crate) link: u32,
    pub(crate) cidr: Cidr,
    /// Set by someone: not by the kernel itself, not from a router's advertisement.
    pub(crate) set: bool,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// None for a default route.
    pub(crate) destination: Option<Cidr>,
    pub(crate) via: Option<IpAddr>,
    pub(crate) link: u32,
    pub(crate) v4: bool,
    pub(crate) metric: u32,
}

/// How an address is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// Not at all.
    None,
    /// By the default route of the main table, which leads over this link.
    Default(u32),
    /// By half a default route: a VPN has a pair of them.
    Half,
    /// By a route or an address that is on this link.
    Link(u32),
    /// In another way.
    Other,
}

/// What a veth pair is made with, all in the one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) host_link: String,
    pub(crate) host_mac: Mac,
    pub(crate) container_link: String,
    pub(crate) container_mac: Mac,
    pub(crate) mtu: u32,
    /// The bridge that the host end is a port of.
    pub(crate) bridge: Option<String>,
}

/// A netlink socket. It stays in the namespace of the thread that opened it.
pub(crate) struct Netlink {
    connection: RefCell<Connection<RouteNetlinkMessage, Blocking>>,
    handle: Handle,
    /// The numbers of links that were asked for by name.
    numbers: RefCell<Vec<(String, u32)>>,
}

impl Netlink {
    /// Open a socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        let attempt = || "cannot open a netlink socket".into();
        let (mut connection, handle, _) =
            rtnetlink::new_connection_with_socket::<Blocking>().attempt(attempt)?;
        // Else the kernel would list the routes of every table: four for each address.
        connection.socket_mut().socket_ref().set_netlink_get_strict_chk(true).attempt(attempt)?;
        Ok(Self { connection: connection.into(), handle, numbers: RefCell::default() })
    }

    /// Whether the socket failed: then nobody knows what the kernel made of the last request.
    pub(crate) fn has_failed(&self) -> bool {
        self.connection.borrow_mut().socket_mut().has_failed()
    }

    /// All links.
    pub(crate) fn links(&self) -> Result<Vec<Link>, Error> {
        let request = brief(self.handle.link().get());
        self.all(request.execute(), |message| Some(read_link(message)), "links")
    }

    /// The link `name`, if there is one.
    pub(crate) fn link_named(&self, name: &str) -> Result<Option<Link>, Error> {
        let found = self.one(self.handle.link().get().match_name(name));
        unless_gone(found).attempt(|| format!("cannot look at interface '{name}'"))
    }

    /// The link number `index`, if there is one.
    pub(crate) fn link_numbered(&self, index: u32) -> Result<Option<Link>, Error> {
        let found = self.one(self.handle.link().get().match_index(index));
        unless_gone(found).attempt(|| format!("cannot look at interface {index}"))
    }

    /// All addresses.
    pub(crate) fn addresses(&self) -> Result<Vec<LinkAddress>, Error> {
        self.all(self.handle.address().get().execute(), read_address, "addresses")
    }

    /// The unicast routes of the main table, IPv4 or IPv6.
    pub(crate) fn routes(&self, v4: bool) -> Result<Vec<Route>, Error> {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family(v4);
        wanted.header.table = RouteHeader::RT_TABLE_MAIN;
        match self.all(self.handle.route().get(wanted).execute(), read_route, "routes") {
            // The table comes with its first route.
            Err(err) if err.errno() == Some(Errno::ENOENT) => Ok(vec![]),
            routes => routes,
        }
    }

    /// The addresses of the link number `index`.
    pub(crate) fn addresses_of(&self, index: u32) -> Result<Vec<LinkAddress>, Error> {
        let request = self.handle.address().get().set_link_index_filter(index);
        self.all(request.execute(), read_address, "addresses")
    }

    /// The route that the kernel would take to `ip`, from whichever table.
    pub(crate) fn route_to(&self, ip: IpAddr) -> Result<Match, Error> {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family(ip.is_ipv4());
        wanted.header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
        wanted.header.flags = RouteFlags::FibMatch;
        wanted.attributes.push(RouteAttribute::Destination(ip.into()));
        let found = self.handle.route().get(wanted).execute();
        match self.run(async { Box::pin(found).next().await.transpose() }) {
            Err(err) if err.raw_os_error() == Some(Errno::ENETUNREACH as i32) => Ok(Match::None),
            Err(err) if self.has_failed() => Err(err).attempt(|| format!("cannot look for {ip}")),
            // A route that forbids, and whatever else there may be.
            Err(_) | Ok(None) => Ok(Match::Other),
            Ok(Some(message)) => Ok(read_match(&message)),
        }
    }

    /// Make a veth pair whose container end is born in `netns`.
    ///
    /// Names, MAC addresses and MTU are in the one request: udev, which renames and readdresses what it
    /// sees appear, finds nothing left to do (systemd#21185). A link that is moved between namespaces
    /// costs an RCU grace period; and the peer must not be up yet (ENOTCONN).
    pub(crate) fn add_veth(&self, pair: &Pair, netns: &OwnedFd) -> Result<(), Error> {
        let end = |name: &str, mac: Mac| {
            LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
                .name(name)
                .address(mac.0.into())
                .mtu(pair.mtu)
        };
        let mut peer = end(&pair.container_link, pair.container_mac).build();
        peer.attributes.retain(|attribute| !matches!(attribute, LinkAttribute::LinkInfo(_)));
        peer.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        let attempt = || {
            format!("cannot create veth pair '{}' and '{}'", pair.host_link, pair.container_link)
        };
        let mut host =
            end(&pair.host_link, pair.host_mac).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        if let Some(bridge) = &pair.bridge {
            host = host.controller(self.index(bridge, attempt)?);
        }
        self.numbers.borrow_mut().clear();
        self.run(self.handle.link().add(host.build()).execute()).attempt(attempt)
    }

    /// Make a bridge.
    pub(crate) fn add_bridge(&self, bridge: &str, mac: Mac, mtu: u32) -> Result<(), Error> {
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
            .name(bridge)
            .address(mac.0.into())
            .mtu(mtu)
            .build();
        self.run(self.handle.link().add(message).execute())
            .attempt(|| format!("cannot create bridge '{bridge}'"))
    }

    /// Make `link` a port of `bridge`, or of none.
    pub(crate) fn set_bridge(&self, link: &str, bridge: Option<&str>) -> Result<(), Error> {
        let attempt = || match bridge {
            Some(bridge) => format!("cannot make interface '{link}' a port of '{bridge}'"),
            None => format!("cannot take interface '{link}' from its bridge"),
        };
        let change = LinkUnspec::new_with_name(link);
        let change = match bridge {
            Some(bridge) => change.controller(self.index(bridge, attempt)?),
            None => change.nocontroller(),
        };
        self.set(change, attempt)
    }

    /// Delete `link`, and with it its peer. It may be gone: links go with their namespace.
    pub(crate) fn delete_link(&self, link: &str) -> Result<(), Error> {
        self.numbers.borrow_mut().clear();
        let mut request = self.handle.link().del(0);
        request.message_mut().attributes.push(LinkAttribute::IfName(link.into()));
        unless_gone(self.run(request.execute()))
            .attempt(|| format!("cannot delete interface '{link}'"))
            .map(drop)
    }

    /// Set `link` up or down.
    pub(crate) fn set_up(&self, link: &str, up: bool) -> Result<(), Error> {
        let (change, word) = match LinkUnspec::new_with_name(link) {
            builder if up => (builder.up(), "up"),
            builder => (builder.down(), "down"),
        };
        self.set(change, || format!("cannot set interface '{link}' {word}"))
    }

    /// Wait until `link` has a carrier, five seconds at most.
    ///
    /// The end of a pair that was set up first gets it from a kernel thread, which may take its time (up
    /// to a second where both ends have the same index); from Linux 6.10 on, asking for that one link
    /// makes it do so now.
    pub(crate) fn await_carrier(&self, link: &str) -> Result<(), Error> {
        let attempt = || format!("cannot look at interface '{link}'");
        let start = Instant::now();
        while !self.one(self.handle.link().get().match_name(link)).attempt(attempt)?.carrier {
            if start.elapsed() > CARRIER_WAIT {
                let seconds = CARRIER_WAIT.as_secs();
                return Err(Error::new(format!(
                    "interface '{link}' has no carrier after {seconds} seconds"
                )));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Write on `link` whose it is.
    pub(crate) fn set_alias(&self, link: &str, alias: &str) -> Result<(), Error> {
        self.set(LinkUnspec::new_with_name(link).alias(alias), || {
            format!("cannot set the alias of interface '{link}'")
        })
    }

    /// Set the MTU of `link`.
    pub(crate) fn set_mtu(&self, link: &str, mtu: u32) -> Result<(), Error> {
        self.set(LinkUnspec::new_with_name(link).mtu(mtu), || {
            format!("cannot set the MTU of interface '{link}' to {mtu}")
        })
    }

    /// Set the MAC address of `link`.
    pub(crate) fn set_mac(&self, link: &str, mac: Mac) -> Result<(), Error> {
        self.set(LinkUnspec::new_with_name(link).address(mac.0.into()), || {
            format!("cannot set the MAC address of interface '{link}' to {mac}")
        })
    }

    /// Give `link` an address; an IPv6 one without the second of duplicate detection.
    pub(crate) fn replace_address(&self, link: &str, cidr: Cidr) -> Result<(), Error> {
        let attempt = || format!("cannot add address {cidr} to interface '{link}'");
        let index = self.index(link, attempt)?;
        let mut request = self.handle.address().add(index, cidr.ip, cidr.prefix).replace();
        // Of our own making: rtnetlink would add a broadcast address, which ip(8) does not.
        *request.message_mut() = address_message(index, cidr);
        self.run(request.execute()).attempt(attempt)
    }

    /// Take an address from `link`.
    pub(crate) fn delete_address(&self, link: &str, cidr: Cidr) -> Result<(), Error> {
        let attempt = || format!("cannot delete address {cidr} from interface '{link}'");
        let index = self.index(link, attempt)?;
        self.run(self.handle.address().del(address_message(index, cidr)).execute()).attempt(attempt)
    }

    /// Make the default route lead to `via` by `link`.
    pub(crate) fn replace_default_route(&self, link: &str, via: IpAddr) -> Result<(), Error> {
        let attempt = || format!("cannot add default route via {via}");
        let index = self.index(link, attempt)?;
        let request = self.handle.route().add(default_route(index, via)).replace();
        self.run(request.execute()).attempt(attempt)
    }

    /// Delete the default route to `via` by `link`.
    pub(crate) fn delete_default_route(&self, link: &str, via: IpAddr) -> Result<(), Error> {
        let attempt = || format!("cannot delete default route via {via}");
        let index = self.index(link, attempt)?;
        self.run(self.handle.route().del(default_route(index, via)).execute()).attempt(attempt)
    }

    fn set(
        &self,
        change: LinkMessageBuilder<LinkUnspec>,
        attempt: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        self.run(self.handle.link().set(change.build()).execute()).attempt(attempt)
    }

    fn index(&self, link: &str, attempt: impl FnOnce() -> String) -> Result<u32, Error> {
        let known = self.numbers.borrow().iter().find(|(name, _)| name == link).map(|it| it.1);
        if let Some(index) = known {
            return Ok(index);
        }
        let index = self.one(self.handle.link().get().match_name(link)).attempt(attempt)?.index;
        self.numbers.borrow_mut().push((link.into(), index));
        Ok(index)
    }

    fn one(&self, request: LinkGetRequest) -> io::Result<Link> {
        let found = brief(request).execute();
        let first = self.run(async { Box::pin(found).next().await.transpose() })?;
        first.as_ref().map(read_link).ok_or_else(|| Errno::ENODEV.into())
    }

    /// What `read` takes from each message; the messages themselves are many kilobytes each once parsed.
    fn all<M, T>(
        &self,
        found: impl Stream<Item = Result<M, rtnetlink::Error>>,
        read: impl Fn(&M) -> Option<T>,
        what: &str,
    ) -> Result<Vec<T>, Error> {
        let read = |message: Result<M, _>| ready(message.map(|message| read(&message)).transpose());
        let all = async {
            let found: Vec<_> = found.filter_map(read).collect().await;
            found.into_iter().collect()
        };
        self.run(all).attempt(|| format!("cannot list {what}"))
    }

    /// Carry a request to the kernel and its answer back, one datagram a turn.
    fn run<T>(&self, request: impl Future<Output = Result<T, rtnetlink::Error>>) -> io::Result<T> {
        let mut request = pin!(request);
        let mut connection = self.connection.borrow_mut();
        let mut context = Context::from_waker(Waker::noop());
        let mut sent = false;
        loop {
            if let Poll::Ready(answer) = request.as_mut().poll(&mut context) {
                return answer.map_err(|err| match err {
                    rtnetlink::Error::NetlinkError(message) => message.to_io(),
                    other => io::Error::other(other.to_string()),
                });
            }
            if sent {
                connection.socket_mut().expect();
            }
            // It only ends when the socket fails; the request would then seem to have succeeded.
            if connection.poll_unpin(&mut context).is_ready() {
                return Err(connection.socket_mut().failure());
            }
            sent = true;
        }
    }
}

/// Without the counters: they are half of each message, and nobody asks for them.
fn brief(request: LinkGetRequest) -> LinkGetRequest {
    request.set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
}

/// A link that is gone is no failure.
fn unless_gone<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(err) if err.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
        found => found.map(Some),
    }
}

fn family(v4: bool) -> AddressFamily {
    if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn read_link(message: &LinkMessage) -> Link {
    let up = message.header.flags.contains(LinkFlags::Up);
    let carrier = message.header.flags.contains(LinkFlags::Running);
    let mut link = Link { index: message.header.index, up, carrier, ..Link::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(bridge) => link.controller = Some(*bridge),
            LinkAttribute::Link(peer) => link.peer = Some(*peer),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(info) => {
                link.kind = info.iter().find_map(read_kind).unwrap_or_default();
            }
            _ => {}
        }
    }
    link
}

fn read_kind(info: &LinkInfo) -> Option<Kind> {
    match info {
        LinkInfo::Kind(InfoKind::Veth) => Some(Kind::Veth),
        LinkInfo::Kind(InfoKind::Bridge) => Some(Kind::Bridge),
        _ => None,
    }
}

fn read_address(message: &AddressMessage) -> Option<LinkAddress> {
    let mut ip = None;
    let mut permanent = false;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link ADDRESS is the other side's.
            AddressAttribute::Local(local) => ip = Some(*local),
            AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
            AddressAttribute::Flags(flags) => permanent = flags.contains(AddressFlags::Permanent),
            _ => {}
        }
    }
    let AddressHeader { prefix_len: prefix, index: link, scope, .. } = message.header;
    let set = permanent && scope == AddressScope::Universe;
    Some(LinkAddress { link, cidr: Cidr { ip: ip?, prefix }, set })
}

fn read_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let v4 = header.address_family == AddressFamily::Inet;
    let mut route = Route { destination: None, via: None, link: 0, v4, metric: 0 };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                let prefix = header.destination_prefix_length;
                route.destination = read_ip(to).map(|ip| Cidr { ip, prefix });
            }
            RouteAttribute::Gateway(via) => route.via = read_ip(via),
            RouteAttribute::Oif(link) => route.link = *link,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::MultiPath(hops) => {
                route.link = hops.first().map_or(0, |hop| hop.interface_index);
            }
            _ => {}
        }
    }
    Some(route)
}

fn read_match(message: &RouteMessage) -> Match {
    let header = &message.header;
    let link = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(link) => Some(*link),
        _ => None,
    });
    let main = header.table == RouteHeader::RT_TABLE_MAIN;
    match (header.destination_prefix_length, header.kind, link) {
        (_, RouteType::Unreachable, _) => Match::None,
        (0, RouteType::Unicast, Some(link)) if main => Match::Default(link),
        (0 | 1, RouteType::Unicast, _) => Match::Half,
        (_, _, Some(link)) => Match::Link(link),
        (_, _, None) => Match::Other,
    }
}

fn read_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn address_message(link: u32, cidr: Cidr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.prefix_len = cidr.prefix;
    message.attributes = vec![AddressAttribute::Local(cidr.ip), AddressAttribute::Address(cidr.ip)];
    message.header.family = if cidr.ip.is_ipv4() {
        AddressFamily::Inet
    } else {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        AddressFamily::Inet6
    };
    message
}

/// As `ip route replace default` makes it: protocol `boot`.
fn default_route(link: u32, via: IpAddr) -> RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new();
    let mut route = builder.output_interface(link).protocol(RouteProtocol::Boot).build();
    route.header.address_family = family(via.is_ipv4());
    route.attributes.push(RouteAttribute::Gateway(via.into()));
    route
}
