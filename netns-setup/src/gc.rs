//! `gc`: remove what is ours and has no namespace any more.

use crate::{
    act::{begin, take_all},
    address::netns_name,
    cli, dns,
    error::{self, Error},
    firewall, forwarding,
    kernel::{Asks, Host, Look},
    mark::Mark,
    nat,
    netlink::{Link, Netlink},
    netns::{self, NameLock, Named},
    plan::{Plan, remove},
    state::our_bridge,
    steps::Step,
};
use std::{collections::BTreeSet, process::ExitCode};

/// Remove it, and print the names that it was for.
pub(crate) fn collect(gc: &cli::Gc) -> Result<ExitCode, Error> {
    let mut done = vec![];
    for name in dead()? {
        let _lock = begin(&gc.trial, &name)?;
        let mut host = Host::open(&name, gc.trial.verbose)?;
        let state = host.state(Look::Leftovers, Asks::all)?;
        // Somebody may have made it while we waited for the lock.
        if state.inside.is_some() {
            continue;
        }
        let plan: Plan = remove(&state, false);
        if plan.steps.is_empty() {
            continue;
        }
        if gc.trial.dry_run {
            error::result(&error::lines(&plan.steps))?;
        } else {
            take_all(&plan, &mut host)?;
            done.push(name);
        }
    }
    for bridge in idle_bridges()? {
        let _lock = (!gc.trial.dry_run).then(|| NameLock::take_bridge(&bridge)).transpose()?;
        if !idle_bridges()?.contains(&bridge) {
            continue;
        }
        let step = Step::DeleteLink { link: bridge.clone(), restore: None };
        if gc.trial.dry_run {
            error::result(&error::lines([step]))?;
            continue;
        }
        if gc.trial.verbose {
            error::trace(&step);
        }
        Netlink::open()?.delete_link(&bridge)?;
        done.push(bridge);
    }
    if !gc.trial.dry_run {
        forwarding::forget(&Netlink::open()?)?;
    }
    if gc.trial.verbose && done.is_empty() {
        error::note("nothing to do");
    }
    error::result(&error::lines(done))?;
    Ok(ExitCode::SUCCESS)
}

/// The bridges of ours that have no port.
fn idle_bridges() -> Result<Vec<String>, Error> {
    let links = Netlink::open()?.links()?;
    let port = |bridge: &Link| links.iter().any(|link| link.controller == Some(bridge.index));
    let idle = links.iter().filter(|link| our_bridge(link) && !port(link));
    Ok(idle.map(|link| link.name.clone()).collect())
}

/// The names that stand on something of ours, or on nothing, but on no namespace.
fn dead() -> Result<BTreeSet<String>, Error> {
    let mut names: BTreeSet<String> = netns::list()?.into_iter().collect();
    let links = Netlink::open()?.links()?;
    names.extend(links.iter().filter_map(|link| Mark::read(&link.alias)).map(|mark| mark.netns));
    names.extend(nat::list()?.into_iter().flatten());
    names.extend(firewall::list()?);
    names.extend(dns::list()?);
    names.retain(|name| {
        netns_name(name).is_ok() && matches!(netns::look(name), Ok(Named::Absent | Named::Stale))
    });
    Ok(names)
}
