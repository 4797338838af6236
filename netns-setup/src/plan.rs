//! The difference between what is wanted and what is there, as steps. Refuses; never changes.

use crate::{
    address::{Cidr, Mac, netns_name},
    cli::{Down, Network, Trial, Up},
    dns::{self, Resolvers},
    error::{self, Attempt as _, Error},
    kernel::Host,
    mark::Mark,
    nat,
    netlink::{Link, Pair, Route},
    netns::{self, NameLock},
    signals,
    state::{Side, State},
    steps::{self, End, Step},
    wanted::Wanted,
};
use nix::errno::Errno;
use std::{fs, process::ExitCode};

/// The kernel's default for Ethernet.
const MTU: u32 = 1500;

/// What to do, and what the user should know.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    steps: Vec<Step>,
    notes: Vec<String>,
}

/// Make or repair the network.
pub(crate) fn up(up: &Up) -> Result<ExitCode, Error> {
    let wanted = Wanted::new(&up.network)?;
    let _lock = begin(&up.trial, &wanted.netns)?;
    let mut host = Host::open(&wanted.netns, up.trial.verbose)?;
    let plan = converge(&wanted, &host.state(|state| asks_nft(&wanted, state))?, up.force)?;
    if plan.steps.iter().any(|step| matches!(step, Step::ReplaceNat { .. })) {
        nat::need()?;
    }
    if up.trial.dry_run {
        return print(&plan.steps);
    }
    nothing_to_do(&up.trial, &plan.steps);
    steps::run(&plan.steps, &mut host).map_err(|failed| {
        failed.error.undone(failed.undone).left(failed.left.iter().map(left_behind).collect())
    })?;
    plan.notes.iter().for_each(|note| error::note(note));
    error::result(&format!("{}\n", netns::path(&wanted.netns).display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Remove the network.
pub(crate) fn down(down: &Down) -> Result<ExitCode, Error> {
    let name = netns_name(&down.name)?;
    let _lock = begin(&down.trial, &name)?;
    let mut host = Host::open(&name, down.trial.verbose)?;
    let plan = remove(&host.state(|_| true)?);
    if down.trial.dry_run {
        return print(&plan.steps);
    }
    nothing_to_do(&down.trial, &plan.steps);
    plan.notes.iter().for_each(|note| error::note(note));
    let mut failed = steps::run_all(&plan.steps, &mut host).into_iter();
    let Some((step, error)) = failed.next() else { return Ok(ExitCode::SUCCESS) };
    let others = failed.map(|(step, error)| format!("{} ({error})", left_behind(&step)));
    Err(error.left(std::iter::once(left_behind(&step)).chain(others).collect()))
}

/// Compare, and print each difference.
pub(crate) fn check(network: &Network) -> Result<ExitCode, Error> {
    let wanted = Wanted::new(network)?;
    let host = Host::open(&wanted.netns, false)?;
    let plan = converge(&wanted, &host.state(|state| asks_nft(&wanted, state))?, true)?;
    error::result(&error::lines(plan.steps.iter().map(Step::difference)))?;
    Ok(if plan.steps.is_empty() { ExitCode::SUCCESS } else { error::FAILED.into() })
}

/// Before a change: may we, and are we alone?
fn begin(trial: &Trial, name: &str) -> Result<Option<NameLock>, Error> {
    if trial.dry_run {
        return Ok(None);
    }
    need_capabilities()?;
    signals::hold()?;
    NameLock::take(name).map(Some)
}

/// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` of linux/capability.h, looked for in the effective set.
fn need_capabilities() -> Result<(), Error> {
    const NEEDED: u64 = 1 << 12 | 1 << 21;
    let status = "/proc/thread-self/status";
    let text = fs::read_to_string(status).attempt(|| format!("cannot read '{status}'"))?;
    let effective = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    match effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) {
        Some(effective) if effective & NEEDED != NEEDED => Err::<(), _>(Errno::EPERM)
            .attempt(|| "cannot change the network".into())
            .map_err(|err| err.hint("run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN")),
        _ => Ok(()),
    }
}

fn print(steps: &[Step]) -> Result<ExitCode, Error> {
    error::result(&error::lines(steps))?;
    Ok(ExitCode::SUCCESS)
}

fn nothing_to_do(trial: &Trial, steps: &[Step]) {
    if trial.verbose && steps.is_empty() {
        error::note("nothing to do");
    }
}

/// What is still there when `step` could not be undone, or, for `down`, not be taken.
fn left_behind(step: &Step) -> String {
    match step {
        Step::AddNetns { netns } | Step::DeleteNetns { netns } | Step::RemoveStale { netns } => {
            format!("'{}'", netns::path(netns).display())
        }
        Step::AddVeth { pair, .. } => format!("interface '{}'", pair.host_link),
        Step::DeleteLink { link } => format!("interface '{link}'"),
        Step::Forward { .. } | Step::ReleaseForwarding { .. } => {
            "forwarding (net.ipv4.ip_forward), which was off".into()
        }
        Step::ReplaceNat { netns, .. } | Step::DeleteNat { netns, .. } => {
            format!("nft table '{}'", nat::table(netns))
        }
        Step::WriteDns { netns, .. } | Step::DeleteDns { netns, .. } => {
            format!("'{}'", dns::path(netns).display())
        }
        other => format!("the effect of '{other}'"),
    }
}

/// Whether nft has to be asked: its process costs more than all the rest.
fn asks_nft(wanted: &Wanted, state: &State) -> bool {
    let marked = |link: &&Link| state.mark(link).is_some_and(|mark| mark.nat);
    wanted.nat || state.own_links().iter().any(marked)
}

/// The steps from `state` to what is `wanted`.
fn converge(wanted: &Wanted, state: &State, force: bool) -> Result<Plan, Error> {
    let mut planner = Planner { wanted, state, steps: vec![] };
    planner.refuse_strangers()?;
    if !force {
        planner.refuse_clashes()?;
    }
    planner.plan_netns()?;
    let good = planner.plan_pair();
    planner.plan_marks(good);
    planner.plan_end(&planner.host_end(), good);
    planner.plan_end(&planner.container_end(), good.and_then(|link| state.container_end(link)));
    planner.plan_up(good);
    planner.plan_routes(good)?;
    planner.plan_nat();
    let notes = planner.plan_dns()?;
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
        let ours = |index: u32| own.iter().any(|link| link.index == index);
        refuse_clash(&self.state.host, &self.wanted.host_addresses, ours, "the host")?;
        let Some(inside) = &self.state.inside else { return Ok(()) };
        let ends: Vec<_> = own.iter().filter_map(|link| self.state.container_end(link)).collect();
        let ours = |index: u32| ends.iter().any(|link| link.index == index);
        let place = format!("network namespace '{}'", self.wanted.netns);
        refuse_clash(inside, &self.wanted.container_addresses, ours, &place)
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
            if self.state.mark(link).is_some_and(|mark| mark.forwarding_was_off) {
                // The mark on the new link takes over what this one's says.
                self.add(Step::ReleaseForwarding {
                    link: link.name.clone(),
                    netns: wanted.netns.clone(),
                    last: !self.state.others_need_forwarding(),
                });
            }
            self.add(Step::DeleteLink { link: link.name.clone() });
        }
        if good.is_none() {
            let pair = Pair {
                host_link: wanted.host_link.clone(),
                host_mac: wanted.host_mac,
                container_link: wanted.container_link.clone(),
                container_mac: wanted.container_mac,
                mtu: self.mtu(),
            };
            self.add(Step::AddVeth { netns: wanted.netns.clone(), pair });
        }
        good
    }

    fn mtu(&self) -> u32 {
        let host = &self.state.host;
        let by_default = || {
            let routes = host.routes.iter().filter(|route| route.destination.is_none());
            let route = routes.min_by_key(|route| (!route.v4, route.metric))?;
            host.links.iter().find(|link| link.index == route.link).map(|link| link.mtu)
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
        let was_off = own_says || !self.state.forwarding || self.state.others_need_forwarding();
        let netns = self.wanted.netns.clone();
        let mark = Mark {
            netns: netns.clone(),
            adopted: false,
            forwarding_was_off: forward && was_off,
            nat: self.wanted.nat,
        };
        let before = good.map_or(String::new(), |link| link.alias.clone());
        let old = Mark::read(&before).unwrap_or_default();
        if let Some(rules) = self.state.nat.clone().filter(|_| !mark.nat) {
            // Before the mark that remembers the table goes.
            self.add(Step::DeleteNat { netns, before: rules });
        }
        let link = self.wanted.host_link.clone();
        if old != mark {
            self.add(Step::Mark { link: link.clone(), mark: mark.clone(), before });
        }
        // Also where it is on already: a 'down' of another name may be about to switch it off.
        let newly = mark.forwarding_was_off && !old.forwarding_was_off;
        if forward && (!self.state.forwarding || newly) {
            self.add(Step::Forward { link });
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
        let mut missing: Vec<Cidr> = wanted.clone();
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
    }

    fn plan_routes(&mut self, good: Option<&Link>) -> Result<(), Error> {
        let end = self.container_end();
        let link = good.and_then(|link| self.state.container_end(link)).map(|link| link.index);
        // A route goes with the address or the link that it needs.
        let lost = self.steps.iter().any(|step| match step {
            Step::DeleteAddress { end: of, .. } | Step::SetUp { end: of } => *of == end,
            _ => false,
        });
        for v4 in [true, false] {
            let inside = self.state.inside.as_ref();
            let routes = inside.into_iter().flat_map(|inside| &inside.routes);
            let defaults = routes.filter(|route| route.destination.is_none() && route.v4 == v4);
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

    fn plan_nat(&mut self) {
        let v4 = self.wanted.host_addresses.iter().filter(|cidr| cidr.ip.is_ipv4());
        let mut subnets: Vec<Cidr> = v4.map(|cidr| cidr.subnet()).collect();
        subnets.dedup();
        let rules = nat::rules(&self.wanted.host_link, &subnets);
        let before = self.state.nat.clone();
        if self.wanted.nat && before.as_ref() != Some(&rules) {
            self.add(Step::ReplaceNat { netns: self.wanted.netns.clone(), rules, before });
        }
    }

    fn plan_dns(&mut self) -> Result<Vec<String>, Error> {
        let netns = self.wanted.netns.clone();
        let text = dns::text(&netns, &self.wanted.resolvers)?;
        let mut notes = vec![];
        if text.is_none() && self.wanted.resolvers == Resolvers::Host {
            notes.push(format!(
                "the host has no resolver that '{netns}' could reach; --dns ADDRESS names one"
            ));
        }
        match (text, self.state.dns.clone()) {
            (Some(text), dns::File::Absent) => {
                self.add(Step::WriteDns { netns, text, before: None });
            }
            (Some(text), dns::File::Ours(before)) if text != before => {
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

/// The steps that remove all that is ours.
fn remove(state: &State) -> Plan {
    let netns = state.netns.clone();
    let mut steps = vec![];
    let mut notes = vec![];
    if let Some(before) = state.nat.clone() {
        steps.push(Step::DeleteNat { netns: netns.clone(), before });
    }
    for link in state.own_links() {
        let link_name = link.name.clone();
        if state.mark(link).is_some_and(|mark| mark.forwarding_was_off) {
            let last = !state.others_need_forwarding();
            let (link, netns) = (link_name.clone(), netns.clone());
            steps.push(Step::ReleaseForwarding { link, netns, last });
        }
        steps.push(Step::DeleteLink { link: link_name });
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
        let Verb::Check(network) = Cli::try_parse_from(args).unwrap().verb else { panic!() };
        Wanted::new(&network).unwrap()
    }

    fn empty_host() -> State {
        State {
            netns: "demo".into(),
            stale: false,
            host: Side::default(),
            inside: None,
            forwarding: false,
            nat: None,
            dns: dns::File::Absent,
        }
    }

    fn link(name: &str, alias: &str, index: u32, peer: Option<u32>) -> Link {
        let (name, alias) = (name.into(), alias.into());
        Link { index, name, alias, veth: peer.is_some(), peer, up: true, mtu: 1400, mac: None }
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
        assert_eq!(lines(&remove(&state)), [""; 0]);
        state.inside = Some(inside("netns-setup:demo"));
        converge(&wanted(&["demo"]), &state, false).unwrap();
        assert_eq!(lines(&remove(&state)), ["ip link delete veth_host", "ip netns delete demo"]);
    }
}
