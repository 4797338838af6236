//! What `status` shows.

use crate::{
    address::netns_name,
    cli,
    document::{Document, End},
    error::{self, Attempt as _, Error},
    kernel::{Asks, Host, Look},
    netns,
};
use std::process::ExitCode;

/// Print what is there.
pub(crate) fn print(which: &cli::Status) -> Result<ExitCode, Error> {
    let networks = if which.all { all()? } else { vec![one(&netns_name(&which.name)?)?] };
    let text = match networks.as_slice() {
        [network] if which.json && !which.all => network.json()? + "\n",
        networks if which.json => {
            serde_json::to_string(networks).attempt(|| "cannot write JSON".into())? + "\n"
        }
        networks => networks.iter().map(text).collect(),
    };
    error::result(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Every network that carries our mark.
fn all() -> Result<Vec<Document>, Error> {
    let mut networks = vec![];
    for name in netns::list()?.iter().filter(|name| netns_name(name).is_ok()) {
        let state = Host::open(name, false)?.state(Look::All, Asks::all)?;
        if state.netns_mark().is_some() {
            networks.push(Document::new(&state)?);
        }
    }
    Ok(networks)
}

fn one(name: &str) -> Result<Document, Error> {
    let state = Host::open(name, false)?.state(Look::All, Asks::all)?;
    if state.inside.is_none() {
        return Err(Error::new(format!("network namespace '{name}' does not exist"))
            .hint(format!("'netns-setup up {name}' makes it")));
    }
    Document::new(&state)
}

/// The same for people: one line for each thing.
fn text(network: &Document) -> String {
    let switch = |on: bool| if on { "on" } else { "off" };
    let netns = network.netns.as_ref().map(|path| path.display().to_string());
    error::lines([
        netns.unwrap_or_default(),
        format!("  host end       {}", end(network.host_end.as_ref())),
        format!("  container end  {}", end(network.container_end.as_ref())),
        format!("  bridge         {}", network.bridge.as_deref().unwrap_or("none")),
        format!("  default route  {}", or_none(network.default_routes.as_deref())),
        format!("  forwarding     {}", switch(network.forwarding)),
        format!("  nat            {}", switch(network.nat)),
        format!("  publish        {}", or_none(network.publish.as_deref())),
        format!("  dns            {}", or_none(network.dns.as_deref())),
    ])
}

fn end(end: Option<&End>) -> String {
    let Some(End { link: Some(link), mac: Some(mac), mtu: Some(mtu), up, addresses, .. }) = end
    else {
        return "none".into();
    };
    let up = if *up { "up" } else { "down" };
    let addresses = addresses.iter().flatten().map(|address| format!("{address} "));
    format!("{link} {}mtu {mtu} mac {mac} {up}", addresses.collect::<String>())
}

fn or_none(items: Option<&[impl ToString]>) -> String {
    let items: Vec<String> = items.unwrap_or_default().iter().map(ToString::to_string).collect();
    if items.is_empty() { "none".into() } else { items.join(" ") }
}
