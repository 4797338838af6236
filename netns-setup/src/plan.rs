//! The difference between what is wanted and what is there, as steps. Refuses; never changes.

use crate::{
    address::{Cidr, Mac},
    dns::{self, Resolvers},
    error::Error,
    kernel::Asks,
    mark::Mark,
    nat::{self, Rule},
    netlink::{Kind, Link, Match, Pair, Route},
    publish::Publish,
    state::{Side, State, bridge_mac, our_bridge},
    steps::{End, Step},
    wanted::Wanted,
};

/// The kernel's default for Ethernet.
const MTU: u32 = 1500;

/// What to do, and what the user should know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) notes: Vec<String>,
}

/// What `up` has to ask: a process of nft or iptables costs more than all the rest.
pub(crate) fn asks(wanted: &Wanted, state: &State) -> Asks {
    let Asks { nft, iptables } = leftovers(state);
    let lost = state.known() && state.own_links().is_empty();
    let table = wants_table(wanted);
    let marked = |is: fn(&Mark) -> bool| says(state, is);
    Asks {
        nft: table || lost && nft || marked(|mark| mark.nat),
        iptables: table || wanted.forward_accept || lost && iptables || marked(|mark| mark.accept),
    }
}

/// What `down` has to ask. The mark on the link says what there is; where that is gone all may be.
pub(crate) fn leftovers(state: &State) -> Asks {
    let lost = state.own_links().is_empty();
    Asks {
        nft: lost || says(state, |mark| mark.nat),
        iptables: lost || says(state, |mark| mark.accept),
    }
}

/// Whether `up` has to see every link, address and route of the host. Most often the few that it knows the names
/// or numbers of are enough, and it takes no longer on a host with a thousand networks.
pub(crate) fn needs_all_links(wanted: &Wanted, state: &State) -> bool {
    let own = state.own_links();
    let lost = state.known() && own.is_empty();
    // Whose the ports of a bridge are, and what else is marked where a namespace is out of sight.
    let bridged = wanted.bridge.is_some() || own.iter().any(|link| link.controller.is_some());
    let out_of_sight = own.iter().any(|link| state.container_end(link).is_none());
    // Where `lo` cannot tell whether forwarding was off, the other networks' links do.
    let silent = state.host.link("lo").is_some_and(|lo| !lo.alias.is_empty());
    let silent = silent && state.host_mark().is_none();
    // What is in the way needs a name; and it may be a link of ours that has another one.
    let uplink = wanted.mtu.is_none().then(|| state.host.matches.first());
    let unclear = !matches!(uplink, None | Some(Some(Match::None | Match::Default(_))));
    let clash = state.host.matches.iter().skip(1).any(|found| match found {
        Match::Link(index) => !own.iter().any(|link| link.index == *index),
        other => *other == Match::Other,
    });
    lost || bridged || out_of_sight || silent || unclear || clash
}

fn says(state: &State, what: fn(&Mark) -> bool) -> bool {
    state.own_links().iter().filter_map(|link| state.mark(link)).any(|mark| what(&mark))
}

fn wants_table(wanted: &Wanted) -> bool {
    wanted.nat || !wanted.publish.is_empty()
}

/// The steps from `state` to what is `wanted`.
pub(crate) fn converge(wanted: &Wanted, state: &State, force: bool) -> Result<Plan, Error> {
    let mut planner = Planner { wanted, state, steps: vec![] };
    planner.refuse_strangers()?;
    if !force {
        planner.refuse_clashes()?;
    }
    planner.refuse_firewall()?;
    planner.plan_netns()?;
    planner.plan_bridge()?;
    let good = planner.plan_pair();
    planner.plan_marks(good);
    planner.plan_end(&planner.host_end(), good);
    planner.plan_end(&planner.container_end(), good.and_then(|link| state.container_end(link)));
    planner.plan_up(good);
    planner.plan_routes(good)?;
    planner.plan_nat();
    let notes = planner.plan_dns()?;
    planner.plan_left_bridges();
    Ok(Plan { steps: planner.steps, notes })
}

struct Planner<'a> {
    wanted: &'a Wanted,
    state: &'a State,
    steps: Vec<Step>,
}

impl<'a> Planner<'a> {
    fn host_end(&self) -> End {
        End { netns: None, link: self.wanted.host_link.clone() }
    }

    fn container_end(&self) -> End {
        self.inside(&self.wanted.container_link)
    }

    fn inside(&self, link: &str) -> End {
        End { netns: Some(self.wanted.netns.clone()), link: link.into() }
    }

    fn add(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// A link that has our name and is not ours stays, and we go.
    fn refuse_strangers(&self) -> Result<(), Error> {
        let own = self.state.own_links();
        let name = &self.wanted.host_link;
        if let Some(link) = self.state.host.link(name)
            && !own.contains(&link)
        {
            return Err(match Mark::read(&link.alias) {
                Some(mark) => {
                    let other = mark.netns;
                    Error::new(format!("interface '{name}' belongs to network namespace '{other}'"))
                        .hint("--host-link picks another name")
                }
                None => Error::new(format!("interface '{name}' exists and is not ours")).hint(
                    format!("'ip link delete {name}' removes it; --host-link picks another name"),
                ),
            });
        }
        let name = &self.wanted.container_link;
        if let Some(link) = self.state.inside.as_ref().and_then(|inside| inside.link(name))
            && !own.iter().any(|own| self.state.container_end(own) == Some(link))
        {
            let netns = &self.wanted.netns;
            return Err(Error::new(format!(
                "interface '{name}' exists in network namespace '{netns}' and is not ours"
            ))
            .hint("--container-link picks another name"));
        }
        Ok(())
    }

    /// What the host or the namespace uses elsewhere already.
    fn refuse_clashes(&self) -> Result<(), Error> {
        let own = self.state.own_links();
        let wanted = self.wanted.bridge.as_ref().and_then(|name| self.state.host.link(name));
        let going = self.left_bridges();
        let ours =
            |index: u32| own.iter().chain(&wanted).chain(&going).any(|link| link.index == index);
        refuse_clash(&self.state.host, &self.wanted.host_addresses, ours, "the host")?;
        let Some(inside) = &self.state.inside else { return Ok(()) };
        let ends: Vec<_> = own.iter().filter_map(|link| self.state.container_end(link)).collect();
        let ours = |index: u32| ends.iter().any(|link| link.index == index);
        let place = format!("network namespace '{}'", self.wanted.netns);
        refuse_clash(inside, &self.wanted.container_addresses, ours, &place)
    }

    /// Refuse what would be made and yet not work: without nft, and under a firewall that drops.
    fn refuse_firewall(&self) -> Result<(), Error> {
        let wanted = self.wanted;
        if wants_table(wanted) && self.state.nat == nat::Table::Unknown {
            return Err(nat::missing());
        }
        for port in &wanted.publish {
            let same = |text: &str| Publish::new(text).is_ok_and(|other| other.clashes(port));
            if let Some((other, _)) = self.state.published.iter().find(|(_, text)| same(text)) {
                return Err(Error::new(format!(
                    "port '{port}' is published for network namespace '{other}' already"
                )));
            }
        }
        let Some(firewall) = &self.state.firewall else { return Ok(()) };
        let link = wanted.router();
        if !wants_table(wanted)
            || wanted.forward_accept
            || !firewall.drops
            || firewall.accepts(link)
        {
            return Ok(());
        }
        let chain = firewall.chain();
        Err(Error::new(format!(
            "cannot forward for '{link}': the policy of iptables' chain FORWARD is DROP"
        ))
        .hint(format!("--forward-accept adds rules for '{link}' to {chain}")))
    }

    fn plan_netns(&mut self) -> Result<(), Error> {
        let netns = self.wanted.netns.clone();
        if self.state.stale {
            self.add(Step::RemoveStale { netns: netns.clone() });
        }
        let Some(inside) = &self.state.inside else {
            self.add(Step::AddNetns { netns });
            return Ok(());
        };
        if self.state.netns_mark().is_some() {
            return Ok(());
        }
        match inside.link("lo") {
            Some(lo) if !lo.alias.is_empty() => Err(Error::new(format!(
                "network namespace '{netns}' is not ours: its 'lo' has the alias '{}'",
                lo.alias
            ))),
            _ => {
                self.add(Step::AdoptNetns { netns });
                Ok(())
            }
        }
    }

    /// The bridge and what it must have. A stranger's is used as it is.
    fn plan_bridge(&mut self) -> Result<(), Error> {
        let Some(name) = &self.wanted.bridge else { return Ok(()) };
        let end = End { netns: None, link: name.clone() };
        let there = self.state.host.link(name);
        let on_it = |cidr: &&Cidr| {
            let mut addresses = self.state.host.addresses.iter();
            addresses.any(|it| it.cidr == **cidr && there.is_some_and(|link| it.link == link.index))
        };
        let missing: Vec<Cidr> =
            self.wanted.host_addresses.iter().filter(|cidr| !on_it(cidr)).copied().collect();
        match there {
            Some(link) if link.kind != Kind::Bridge => {
                return Err(Error::new(format!("interface '{name}' exists and is no bridge"))
                    .hint("--bridge picks another name"));
            }
            Some(link) if !our_bridge(link) => {
                return match missing.first() {
                    Some(cidr) => {
                        Err(Error::new(format!("bridge '{name}' is not ours and lacks {cidr}"))
                            .hint("--host-addr names an address that it has"))
                    }
                    None if !link.up => Err(Error::new(format!("bridge '{name}' is down"))
                        .hint(format!("'ip link set {name} up' sets it up"))),
                    None => Ok(()),
                };
            }
            Some(_) => {}
            None => {
                let (bridge, mac, mtu) = (name.clone(), bridge_mac(name), self.mtu());
                self.add(Step::AddBridge { bridge, mac, mtu });
            }
        }
        if there.is_none_or(|link| link.alias.is_empty()) {
            self.add(Step::MarkBridge { bridge: name.clone() });
        }
        for cidr in missing {
            self.add(Step::AddAddress { end: end.clone(), cidr });
        }
        if !there.is_some_and(|link| link.up) {
            self.add(Step::SetUp { end });
        }
        Ok(())
    }

    /// The bridges of ours that the host end is about to leave, and that nobody else is on.
    fn left_bridges(&self) -> Vec<&'a Link> {
        let own = self.state.own_links();
        let left = |bridge: &&Link| {
            Some(&bridge.name) != self.wanted.bridge.as_ref()
                && own.iter().any(|link| link.controller == Some(bridge.index))
        };
        self.state.idle_bridges().into_iter().filter(left).collect()
    }

    /// They go last: that cannot be undone, and then need not be.
    fn plan_left_bridges(&mut self) {
        for bridge in self.left_bridges() {
            self.add(Step::DeleteLink { link: bridge.name.clone(), restore: None });
        }
    }

    /// The host end of the pair that may stay; else the steps to a new one.
    fn plan_pair(&mut self) -> Option<&'a Link> {
        let wanted = self.wanted;
        let own = self.state.own_links();
        let good = |link: &&&Link| {
            let end = self.state.container_end(link);
            link.name == wanted.host_link
                && end.is_some_and(|end| end.name == wanted.container_link)
        };
        let good = own.iter().find(good).copied();
        for link in own.iter().filter(|link| Some(**link) != good) {
            let mark = self.state.mark(link).filter(|mark| mark.forwarding_was_off);
            if let Some(mark) = mark.filter(|_| self.state.host_mark().is_none()) {
                // The mark on the new link takes over what this one's says.
                let (link, last) = (link.name.clone(), !self.state.others_need_forwarding());
                self.add(Step::ReleaseForwarding { link, mark, last });
            }
            self.add(Step::DeleteLink { link: link.name.clone(), restore: self.restore(link) });
        }
        if good.is_none() {
            let pair = Pair {
                host_link: wanted.host_link.clone(),
                host_mac: wanted.host_mac,
                container_link: wanted.container_link.clone(),
                container_mac: wanted.container_mac,
                mtu: self.mtu(),
                bridge: wanted.bridge.clone(),
            };
            self.add(Step::AddVeth { netns: wanted.netns.clone(), pair });
        }
        if let Some(link) = good {
            let before = self.bridge_of(link);
            if before != wanted.bridge {
                let (link, bridge) = (link.name.clone(), wanted.bridge.clone());
                self.add(Step::SetBridge { link, bridge, before });
            }
        }
        good
    }

    fn bridge_of(&self, link: &Link) -> Option<String> {
        link.controller.map(|index| self.state.host.link_name(index).to_owned())
    }

    /// The steps that make `link` anew; none if its other end is not in the namespace.
    fn restore(&self, link: &Link) -> Option<Vec<Step>> {
        let inside = self.state.inside.as_ref()?;
        let container = self.state.container_end(link)?;
        let netns = self.wanted.netns.clone();
        let pair = Pair {
            host_link: link.name.clone(),
            host_mac: link.mac?,
            container_link: container.name.clone(),
            container_mac: container.mac?,
            mtu: link.mtu,
            bridge: self.bridge_of(link),
        };
        let mut steps = vec![Step::AddVeth { netns, pair }];
        if let Some(mark) = self.state.mark(link) {
            steps.push(Step::Mark { link: link.name.clone(), mark, before: String::new() });
        }
        let host_end = End { netns: None, link: link.name.clone() };
        let container_end = self.inside(&container.name);
        if container.mtu != link.mtu {
            let end = container_end.clone();
            steps.push(Step::SetMtu { end, mtu: container.mtu, before: link.mtu });
        }
        for (end, link, side) in
            [(&host_end, link, &self.state.host), (&container_end, container, inside)]
        {
            let set = side.addresses.iter().filter(|it| it.link == link.index && it.set);
            steps.extend(set.map(|it| Step::AddAddress { end: end.clone(), cidr: it.cidr }));
            if link.up {
                steps.push(Step::SetUp { end: end.clone() });
            }
        }
        if link.up && container.up {
            steps.push(Step::AwaitCarrier { end: host_end });
            steps.push(Step::AwaitCarrier { end: container_end.clone() });
        }
        let defaults = inside
            .routes
            .iter()
            .filter(|route| route.destination.is_none() && route.link == container.index);
        let defaults = defaults.filter_map(|route| route.via);
        steps.extend(defaults.map(|via| {
            let end = container_end.clone();
            Step::AddRoute { end, via, before: None }
        }));
        Some(steps)
    }

    fn mtu(&self) -> u32 {
        let host = &self.state.host;
        let by_default = || {
            let uplink = host.uplink()?;
            host.links.iter().find(|link| link.index == uplink).map(|link| link.mtu)
        };
        self.wanted.mtu.or_else(by_default).unwrap_or(MTU)
    }

    /// The mark on the host end, and the forwarding that it remembers.
    fn plan_marks(&mut self, good: Option<&Link>) {
        let forward = self.wanted.host_addresses.iter().any(|cidr| cidr.ip.is_ipv4());
        let own = self.state.own_links();
        let own_says =
            own.iter().filter_map(|link| self.state.mark(link)).any(|mark| mark.forwarding_was_off);
        // Where another of ours switched it on it was off, and the last one down restores it.
        let was_off = own_says
            || !self.state.forwarding
            || self.state.others_need_forwarding()
            || self.state.host_mark().is_some();
        let netns = self.wanted.netns.clone();
        let mark = Mark {
            netns: netns.clone(),
            adopted: false,
            forwarding_was_off: forward && was_off,
            nat: wants_table(self.wanted),
            accept: self.needs_accept(),
        };
        let before = good.map_or(String::new(), |link| link.alias.clone());
        let old = Mark::read(&before).unwrap_or_default();
        // Before the mark that remembers them goes.
        if let Some(rules) = self.state.nat.rules().cloned().filter(|_| !mark.nat) {
            self.add(Step::DeleteNat { netns: netns.clone(), before: rules });
        }
        let ours = self.state.firewall.as_ref().map(|firewall| firewall.ours.clone());
        if let Some(before) = ours.filter(|ours| !mark.accept && !ours.is_empty()) {
            self.add(Step::SetAccept { netns, rules: vec![], before });
        }
        let link = self.wanted.host_link.clone();
        if old != mark {
            self.add(Step::Mark { link: link.clone(), mark: mark.clone(), before });
        }
        // Also where it is on already and `lo` says so: a 'down' of another name may be about to undo both.
        let newly = mark.forwarding_was_off && !old.forwarding_was_off;
        let again = newly && self.state.host_mark().is_some();
        let lo = self.state.host.link("lo").filter(|lo| lo.alias.is_empty() || again);
        if let Some(lo) = lo.filter(|_| forward && was_off) {
            let (link, before) = (lo.name.clone(), lo.alias.clone());
            self.add(Step::Mark { link, mark: Mark::host(), before });
        }
        if forward && (!self.state.forwarding || newly) {
            self.add(Step::Forward { link, before: self.state.forwarding });
        }
    }

    /// MAC, MTU and addresses of one end; `link` is what there is of it.
    fn plan_end(&mut self, end: &End, link: Option<&Link>) {
        let host = end.netns.is_none();
        let (mac, wanted) = if host {
            (self.wanted.host_mac, &self.wanted.host_addresses)
        } else {
            (self.wanted.container_mac, &self.wanted.container_addresses)
        };
        // Those of the host are the bridge's, where there is one.
        let bridged = host && self.wanted.bridge.is_some();
        let wanted: &[Cidr] = if bridged { &[] } else { wanted };
        let mut missing: Vec<Cidr> = wanted.to_vec();
        if let Some(link) = link {
            let before = link.mac.unwrap_or(Mac([0; 6]));
            if before != mac {
                self.add(Step::SetMac { end: end.clone(), mac, before });
            }
            let mtu = self.mtu();
            if link.mtu != mtu {
                self.add(Step::SetMtu { end: end.clone(), mtu, before: link.mtu });
            }
            let side = if host { Some(&self.state.host) } else { self.state.inside.as_ref() };
            let on_it = side.into_iter().flat_map(|side| &side.addresses);
            let there: Vec<_> = on_it.filter(|address| address.link == link.index).collect();
            let extra = there.iter().filter(|it| it.set && !wanted.contains(&it.cidr));
            let extra: Vec<Cidr> = extra.map(|address| address.cidr).collect();
            // With a primary address go its secondary ones: then all are added again.
            missing.retain(|cidr| {
                !extra.is_empty() || !there.iter().any(|address| address.cidr == *cidr)
            });
            for cidr in extra {
                self.add(Step::DeleteAddress { end: end.clone(), cidr });
            }
        }
        for cidr in missing {
            self.add(Step::AddAddress { end: end.clone(), cidr });
        }
    }

    fn plan_up(&mut self, good: Option<&Link>) {
        let inside = self.state.inside.as_ref();
        let lo = inside.and_then(|inside| inside.link("lo"));
        let container = good.and_then(|link| self.state.container_end(link));
        let ends =
            [(self.inside("lo"), lo), (self.host_end(), good), (self.container_end(), container)];
        for (end, link) in ends {
            if !link.is_some_and(|link| link.up) {
                self.add(Step::SetUp { end });
            }
        }
        for (end, link) in [(self.container_end(), container), (self.host_end(), good)] {
            if !link.is_some_and(|link| link.carrier) {
                self.add(Step::AwaitCarrier { end });
            }
        }
    }

    fn plan_routes(&mut self, good: Option<&Link>) -> Result<(), Error> {
        let end = self.container_end();
        let link = good.and_then(|link| self.state.container_end(link)).map(|link| link.index);
        let own = self.state.own_links();
        let ends = own.iter().filter_map(|link| self.state.container_end(link));
        // With a pair that is replaced go its routes.
        let going: Vec<u32> = ends.map(|end| end.index).filter(|it| Some(*it) != link).collect();
        // A route goes with the address or the link that it needs.
        let lost = self.steps.iter().any(|step| match step {
            Step::DeleteAddress { end: of, .. } | Step::SetUp { end: of } => *of == end,
            _ => false,
        });
        for v4 in [true, false] {
            let inside = self.state.inside.as_ref();
            let routes = inside.into_iter().flat_map(|inside| &inside.routes);
            let defaults = routes.filter(|route| {
                route.destination.is_none() && route.v4 == v4 && !going.contains(&route.link)
            });
            let (ours, strange): (Vec<&Route>, Vec<&Route>) =
                defaults.partition(|route| Some(route.link) == link);
            let before = ours.first().and_then(|route| route.via);
            let wanted = self.wanted.gateways.iter().find(|ip| ip.is_ipv4() == v4).copied();
            match (wanted, before) {
                (Some(via), _) if before != Some(via) || lost => {
                    if let (Some(route), Some(inside)) = (strange.first(), inside) {
                        let (netns, dev) = (&self.wanted.netns, inside.link_name(route.link));
                        return Err(Error::new(format!(
                            "network namespace '{netns}' has a default route by '{dev}' already"
                        ))
                        .hint("--no-default-route leaves it alone"));
                    }
                    self.add(Step::AddRoute { end: end.clone(), via, before });
                }
                (None, Some(via)) => self.add(Step::DeleteRoute { end: end.clone(), via }),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the host's firewall drops what nobody accepts, and that shall be no obstacle.
    fn needs_accept(&self) -> bool {
        self.wanted.forward_accept && self.state.firewall.as_ref().is_some_and(|it| it.drops)
    }

    /// The rules of our table.
    fn nat_rules(&self) -> Vec<Rule> {
        let v4 = self.wanted.host_addresses.iter().filter(|cidr| cidr.ip.is_ipv4());
        let mut subnets: Vec<Cidr> = v4.map(|cidr| cidr.subnet()).collect();
        subnets.dedup();
        let link = self.wanted.router();
        let container = self.wanted.container_addresses.iter().find(|cidr| cidr.ip.is_ipv4());
        let ports = &self.wanted.publish;
        let published = ports.iter().zip(container.into_iter().cycle());
        let mut rules: Vec<Rule> =
            published.flat_map(|(port, container)| nat::publish(port, container.ip)).collect();
        rules.sort_by_key(|rule| rule.chain);
        if !ports.is_empty() {
            rules.extend(subnets.iter().map(|subnet| nat::hairpin(*subnet, link)));
        }
        if self.wanted.nat {
            rules.extend(subnets.iter().map(|subnet| nat::masquerade(*subnet, link)));
        }
        rules
    }

    fn plan_nat(&mut self) {
        let netns = self.wanted.netns.clone();
        let rules = self.nat_rules();
        let before = self.state.nat.rules().cloned();
        if wants_table(self.wanted) && before.as_ref() != Some(&rules) {
            self.add(Step::ReplaceNat { netns: netns.clone(), rules, before });
        }
        let Some(firewall) = self.state.firewall.as_ref().filter(|_| self.needs_accept()) else {
            return;
        };
        let published = !self.wanted.publish.is_empty();
        let rules = firewall.rules(&netns, self.wanted.router(), published);
        let mut before = firewall.ours.clone();
        before.sort();
        let mut sorted = rules.clone();
        sorted.sort();
        if sorted != before {
            self.add(Step::SetAccept { netns, rules, before });
        }
    }

    fn plan_dns(&mut self) -> Result<Vec<String>, Error> {
        let netns = self.wanted.netns.clone();
        let lines = dns::lines(&self.wanted.resolvers)?;
        let mut notes = vec![];
        if lines.is_none() && self.wanted.resolvers == Resolvers::Host {
            notes.push(format!(
                "the host has no resolver that '{netns}' could reach; --dns ADDRESS names one"
            ));
        }
        match (lines, self.state.dns.clone()) {
            (Some(lines), dns::File::Absent) => {
                let text = dns::text(&netns, &lines)?;
                self.add(Step::WriteDns { netns, text, before: None });
            }
            (Some(lines), dns::File::Ours(before)) if lines != dns::body(&before) => {
                let first = before.split_inclusive('\n').next();
                let text = first.map_or_else(
                    || dns::text(&netns, &lines),
                    |first| Ok(format!("{first}{lines}")),
                )?;
                self.add(Step::WriteDns { netns, text, before: Some(before) });
            }
            (Some(_), dns::File::Strange) => {
                let path = dns::path(&netns);
                notes.push(format!("'{}' is not ours and stays as it is", path.display()));
            }
            (None, dns::File::Ours(before)) => self.add(Step::DeleteDns { netns, before }),
            _ => {}
        }
        Ok(notes)
    }
}

/// Refuse addresses and subnets that `side` has on a link that is not `ours`.
fn refuse_clash(
    side: &Side,
    wanted: &[Cidr],
    ours: impl Fn(u32) -> bool,
    place: &str,
) -> Result<(), Error> {
    let hint = "--host-addr and --container-addr pick another subnet; --force goes on";
    for cidr in wanted {
        let mut addresses = side.addresses.iter().filter(|address| !ours(address.link));
        if let Some(address) = addresses.find(|address| address.cidr.ip == cidr.ip) {
            let (ip, link) = (cidr.ip, side.link_name(address.link));
            return Err(
                Error::new(format!("{place} has address {ip} on '{link}' already")).hint(hint)
            );
        }
        // A VPN's pair of /1 routes is a default route in disguise.
        let mut routes = side.routes.iter().filter(|route| !ours(route.link)).filter_map(|route| {
            let to = route.destination.filter(|to| to.prefix > 1 && to.overlaps(*cidr))?;
            Some((to, side.link_name(route.link)))
        });
        if let Some((to, link)) = routes.next() {
            let subnet = cidr.subnet();
            return Err(Error::new(format!(
                "{place} uses subnet {subnet} already: route {to} dev {link}"
            ))
            .hint(hint));
        }
    }
    Ok(())
}

/// The steps that remove all that is ours; with `no_wait` but for the links that go with the namespace.
pub(crate) fn remove(state: &State, no_wait: bool) -> Plan {
    let netns = state.netns.clone();
    let mut steps = vec![];
    let mut notes = vec![];
    if let Some(before) = state.nat.rules().cloned() {
        steps.push(Step::DeleteNat { netns: netns.clone(), before });
    }
    let accepting = state.firewall.as_ref().map(|firewall| firewall.ours.clone());
    if let Some(before) = accepting.filter(|ours| !ours.is_empty()) {
        steps.push(Step::SetAccept { netns: netns.clone(), rules: vec![], before });
    }
    for link in state.own_links() {
        let link_name = link.name.clone();
        if let Some(mark) = state.mark(link).filter(|mark| mark.forwarding_was_off) {
            let (link, last) = (link_name.clone(), !state.others_need_forwarding());
            steps.push(Step::ReleaseForwarding { link, mark, last });
        }
        let goes = state.netns_mark().is_some_and(|mark| !mark.adopted);
        let goes = no_wait && goes && state.container_end(link).is_some();
        if !goes {
            steps.push(Step::DeleteLink { link: link_name, restore: None });
        }
    }
    if state.host_mark().is_some() && !state.others_need_forwarding() {
        steps.push(Step::ForgetForwarding);
    }
    for bridge in state.idle_bridges() {
        steps.push(Step::DeleteLink { link: bridge.name.clone(), restore: None });
    }
    match state.dns.clone() {
        dns::File::Ours(before) => steps.push(Step::DeleteDns { netns: netns.clone(), before }),
        dns::File::Strange => {
            let path = dns::path(&netns);
            notes.push(format!("'{}' is not ours and stays", path.display()));
        }
        dns::File::Absent => {}
    }
    match (state.netns_mark(), &state.inside) {
        _ if state.stale => steps.push(Step::RemoveStale { netns }),
        (Some(mark), _) if mark.adopted => steps.push(Step::LeaveNetns { netns }),
        (Some(_), _) => steps.push(Step::DeleteNetns { netns }),
        (None, Some(_)) => notes.push(format!("network namespace '{netns}' is not ours and stays")),
        (None, None) => {}
    }
    Plan { steps, notes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{Cli, Verb},
        netlink::Route,
    };
    use clap::Parser as _;

    fn wanted(options: &[&str]) -> Wanted {
        let args = ["netns-setup", "check", "--dns", "none"].iter().chain(options);
        let Some(Verb::Check(network)) = Cli::try_parse_from(args).unwrap().verb else { panic!() };
        Wanted::new(&network).unwrap()
    }

    fn empty_host() -> State {
        State {
            netns: "demo".into(),
            stale: false,
            host: Side::default(),
            inside: None,
            forwarding: false,
            nat: nat::Table::Unknown,
            published: vec![],
            firewall: None,
            dns: dns::File::Absent,
        }
    }

    fn link(name: &str, alias: &str, index: u32, peer: Option<u32>) -> Link {
        let (name, alias) = (name.into(), alias.into());
        let kind = if peer.is_some() { Kind::Veth } else { Kind::Other };
        let (up, carrier) = (true, true);
        Link { index, name, alias, kind, peer, up, carrier, mtu: 1400, ..Link::default() }
    }

    fn lines(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn on_an_empty_host_everything_is_made() {
        let macs = ["--host-mac", "02:00:00:00:00:01", "--container-mac", "02:00:00:00:00:02"];
        let wanted = wanted(&[&macs[..], &["demo"]].concat());
        let expected = [
            "ip netns add demo && ip -n demo link set lo alias 'netns-setup:demo'",
            "ip link add veth_host mtu 1500 address 02:00:00:00:00:01 type veth \
             peer name veth_container netns demo mtu 1500 address 02:00:00:00:00:02",
            "ip link set veth_host alias 'netns-setup:demo forwarding-was=0'",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "ip address replace 192.168.10.1/24 dev veth_host",
            "ip -n demo address replace 192.168.10.2/24 dev veth_container",
            "ip -n demo link set lo up",
            "ip link set veth_host up",
            "ip -n demo link set veth_container up",
            "timeout 5 sh -c 'until ip -n demo link show veth_container | grep -q \"state UP\"; \
             do sleep 0.01; done'",
            "timeout 5 sh -c 'until ip link show veth_host | grep -q \"state UP\"; \
             do sleep 0.01; done'",
            "ip -n demo route replace default via 192.168.10.1 dev veth_container",
        ];
        assert_eq!(lines(&converge(&wanted, &empty_host(), false).unwrap()), expected);
    }

    #[test]
    fn the_mtu_follows_the_default_route() {
        let mut state = empty_host();
        state.host.links = vec![link("uplink", "", 2, None)];
        let route = Route { destination: None, via: None, link: 2, v4: true, metric: 0 };
        state.host.routes = vec![route];
        let plan = converge(&wanted(&["demo"]), &state, false).unwrap();
        assert!(lines(&plan)[1].contains(" mtu 1400 "), "{plan:?}");
    }

    #[test]
    fn a_pair_without_a_mark_is_ours_only_in_a_namespace_of_ours() {
        let mut state = empty_host();
        state.host.links = vec![link("veth_host", "", 7, Some(3))];
        let lo = |alias| link("lo", alias, 1, None);
        let end = link("veth_container", "", 3, Some(7));
        let inside = |alias| Side { links: vec![lo(alias), end.clone()], ..Side::default() };
        state.inside = Some(inside(""));
        let refusal = converge(&wanted(&["demo"]), &state, false).unwrap_err().to_string();
        assert!(refusal.starts_with("interface 'veth_host' exists and is not ours"), "{refusal}");
        assert_eq!(lines(&remove(&state, false)), [""; 0]);
        state.inside = Some(inside("netns-setup:demo"));
        converge(&wanted(&["demo"]), &state, false).unwrap();
        assert_eq!(
            lines(&remove(&state, false)),
            ["ip link delete veth_host", "ip netns delete demo"]
        );
    }
}
