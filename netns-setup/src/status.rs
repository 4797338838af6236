//! What `status` shows.

use crate::{
    address::{Cidr, netns_name},
    cli,
    error::{self, Attempt as _, Error},
    kernel::Host,
    netlink::Link,
    netns,
    state::{Side, State},
};
use serde::Serialize;
use std::{net::IpAddr, process::ExitCode};

/// One network.
#[derive(Debug, Serialize)]
struct Network {
    name: String,
    netns: String,
    /// Made by us; false where the namespace was there before.
    made: bool,
    host_end: Option<End>,
    container_end: Option<End>,
    default_routes: Vec<IpAddr>,
    forwarding: bool,
    nat: Vec<String>,
}

/// One end of the pair.
#[derive(Debug, Serialize)]
struct End {
    link: String,
    index: u32,
    mac: String,
    mtu: u32,
    up: bool,
    addresses: Vec<String>,
}

/// Print what is there.
pub(crate) fn print(which: &cli::Status) -> Result<ExitCode, Error> {
    let networks = if which.all { all()? } else { vec![one(&netns_name(&which.name)?)?] };
    let text = if which.json {
        let json = match networks.as_slice() {
            [network] if !which.all => serde_json::to_string(network),
            networks => serde_json::to_string(networks),
        };
        json.attempt(|| "cannot write JSON".into())? + "\n"
    } else {
        networks.iter().map(text).collect()
    };
    error::result(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Every network that carries our mark.
fn all() -> Result<Vec<Network>, Error> {
    let mut networks = vec![];
    for name in netns::list()?.iter().filter(|name| netns_name(name).is_ok()) {
        let state = Host::open(name, false)?.state(|_| true)?;
        if state.netns_mark().is_some() {
            networks.push(network(&state));
        }
    }
    Ok(networks)
}

fn one(name: &str) -> Result<Network, Error> {
    let state = Host::open(name, false)?.state(|_| true)?;
    if state.inside.is_none() {
        return Err(Error::new(format!("network namespace '{name}' does not exist"))
            .hint(format!("'netns-setup up {name}' makes it")));
    }
    Ok(network(&state))
}

fn network(state: &State) -> Network {
    let host_end = state.own_links().into_iter().next();
    let container_end = host_end.and_then(|link| state.container_end(link));
    let inside = state.inside.clone().unwrap_or_default();
    let defaults = inside.routes.iter().filter(|route| route.destination.is_none());
    Network {
        name: state.netns.clone(),
        netns: netns::path(&state.netns).display().to_string(),
        made: state.netns_mark().is_some_and(|mark| !mark.adopted),
        host_end: host_end.map(|link| end(&state.host, link)),
        container_end: container_end.map(|link| end(&inside, link)),
        default_routes: defaults.filter_map(|route| route.via).collect(),
        forwarding: state.forwarding,
        nat: state.nat.clone().unwrap_or_default(),
    }
}

fn end(side: &Side, link: &Link) -> End {
    let own = side.addresses.iter().filter(|address| address.link == link.index && address.set);
    End {
        link: link.name.clone(),
        index: link.index,
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: link.mtu,
        up: link.up,
        addresses: own.map(|address| Cidr::to_string(&address.cidr)).collect(),
    }
}

/// The same for people: one line for each thing.
fn text(network: &Network) -> String {
    let end = |end: &Option<End>| {
        end.as_ref().map_or("none".into(), |End { link, index: _, mac, mtu, up, addresses }| {
            let up = if *up { "up" } else { "down" };
            format!("{link} {} mtu {mtu} mac {mac} {up}", addresses.join(" "))
        })
    };
    let routes = or_none(&network.default_routes, " ");
    error::lines([
        network.netns.clone(),
        format!("  host end       {}", end(&network.host_end)),
        format!("  container end  {}", end(&network.container_end)),
        format!("  default route  {routes}"),
        format!("  forwarding     {}", if network.forwarding { "on" } else { "off" }),
        format!("  nat            {}", or_none(&network.nat, "; ")),
    ])
}

fn or_none(items: &[impl ToString], between: &str) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() { "none".into() } else { items.join(between) }
}
