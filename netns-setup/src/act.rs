//! The verbs that change something, and `check`: plan, act, report.

use crate::{
    address::netns_name,
    cli::{Down, Network, Trial, Up},
    dns,
    document::Document,
    error::{self, Attempt as _, Error},
    kernel::{Host, Look},
    nat,
    netns::{self, NameLock},
    plan::{Plan, asks, converge, leftovers, remove},
    signals,
    steps::{self, Step},
    wanted::Wanted,
};
use nix::errno::Errno;
use rustix::thread::CapabilitySet;
use std::process::ExitCode;

/// Make or repair the network.
pub(crate) fn up(up: &Up) -> Result<ExitCode, Error> {
    let wanted = wanted(&up.network)?;
    let _lock = begin(&up.trial, &wanted.netns)?;
    let bridge = wanted.bridge.as_ref().filter(|_| !up.trial.dry_run);
    let _bridge_lock = bridge.map(|bridge| NameLock::take_bridge(bridge)).transpose()?;
    let mut host = Host::open(&wanted.netns, up.trial.verbose)?;
    let plan = converge(
        &wanted,
        &host.state(Look::For(&wanted), |state| asks(&wanted, state))?,
        up.force,
    )?;
    if up.trial.dry_run {
        return print(&plan.steps);
    }
    nothing_to_do(&up.trial, &plan.steps);
    steps::run(&plan.steps, &mut host).map_err(failure)?;
    // A result that does not arrive is a failure, and a failure leaves nothing.
    let told = tell(up, &wanted, &plan, &host);
    told.map_err(|error| failure(steps::undo(&plan.steps, &mut host, error)))?;
    Ok(ExitCode::SUCCESS)
}

fn failure(failed: steps::Failed<Error>) -> Error {
    failed.error.undone(failed.undone).left(failed.left.iter().map(not_undone).collect())
}

fn tell(up: &Up, wanted: &Wanted, plan: &Plan, host: &Host) -> Result<(), Error> {
    plan.notes.iter().for_each(|note| error::note(note));
    if !up.json {
        return error::result(&format!("{}\n", netns::path(&wanted.netns).display()));
    }
    let document = Document::new(&host.state(Look::For(wanted), |state| asks(wanted, state))?)?;
    let document = Document { changed: Some(!plan.steps.is_empty()), ..document };
    error::result(&(document.json()? + "\n"))
}

/// Remove the network.
pub(crate) fn down(down: &Down) -> Result<ExitCode, Error> {
    let name = netns_name(&down.name)?;
    let _lock = begin(&down.trial, &name)?;
    let mut host = Host::open(&name, down.trial.verbose)?;
    let mut state = host.state(Look::Leftovers, leftovers)?;
    let bridges = state.idle_bridges().into_iter().filter(|_| !down.trial.dry_run);
    let locks: Vec<NameLock> =
        bridges.map(|bridge| NameLock::take_bridge(&bridge.name)).collect::<Result<_, _>>()?;
    if !locks.is_empty() {
        // Somebody may have become a port while we waited.
        state = host.state(Look::Leftovers, leftovers)?;
    }
    let plan = remove(&state, down.no_wait);
    if down.trial.dry_run {
        return print(&plan.steps);
    }
    nothing_to_do(&down.trial, &plan.steps);
    take_all(&plan, &mut host)?;
    Ok(ExitCode::SUCCESS)
}

/// Compare, and print each difference.
pub(crate) fn check(network: &Network) -> Result<ExitCode, Error> {
    let wanted = wanted(network)?;
    let host = Host::open(&wanted.netns, false)?;
    let plan =
        converge(&wanted, &host.state(Look::For(&wanted), |state| asks(&wanted, state))?, true)?;
    error::result(&error::lines(plan.steps.iter().map(Step::difference)))?;
    Ok(if plan.steps.is_empty() { ExitCode::SUCCESS } else { error::FAILED.into() })
}

/// What is wanted, from the options or from JSON.
fn wanted(network: &Network) -> Result<Wanted, Error> {
    match &network.from {
        Some(from) => Wanted::new(&Document::read(from)?.options(network)),
        None => Wanted::new(network),
    }
}

/// Before a change: may we, and are we alone?
pub(crate) fn begin(trial: &Trial, name: &str) -> Result<Option<NameLock>, Error> {
    if trial.dry_run {
        return Ok(None);
    }
    need_capabilities()?;
    signals::hold()?;
    NameLock::take(name).map(Some)
}

fn need_capabilities() -> Result<(), Error> {
    let attempt = || "cannot change the network".into();
    let effective = rustix::thread::capabilities(None).attempt(attempt)?.effective;
    if effective.contains(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN) {
        return Ok(());
    }
    Err::<(), _>(Errno::EPERM)
        .attempt(attempt)
        .map_err(|err| err.hint("run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"))
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

/// Remove all that can be removed, and name the rest.
pub(crate) fn take_all(plan: &Plan, host: &mut Host) -> Result<(), Error> {
    plan.notes.iter().for_each(|note| error::note(note));
    let mut failed = steps::run_all(&plan.steps, host).into_iter();
    let Some((step, error)) = failed.next() else { return Ok(()) };
    let others = failed.map(|(step, error)| format!("{} ({error})", left_behind(&step)));
    Err(error.left(std::iter::once(left_behind(&step)).chain(others).collect()))
}

/// What is not as it was when `step` could not be undone.
fn not_undone(step: &Step) -> String {
    match step {
        Step::DeleteLink { link, .. } => format!("interface '{link}' is gone"),
        Step::DeleteDns { netns, .. } => format!("'{}' is gone", dns::path(netns).display()),
        Step::DeleteNat { netns, .. } => format!("nft table '{}' is gone", nat::table(netns)),
        Step::SetAccept { netns, before, .. } if !before.is_empty() => {
            format!("iptables rules of '{netns}' are gone")
        }
        Step::ReleaseForwarding { last: true, .. } => {
            "forwarding (net.ipv4.ip_forward) is off".into()
        }
        Step::RemoveStale { netns } => format!("'{}' is gone", netns::path(netns).display()),
        other => left_behind(other),
    }
}

/// What is still there when `step` of `down` could not be taken.
fn left_behind(step: &Step) -> String {
    match step {
        Step::AddNetns { netns } | Step::DeleteNetns { netns } | Step::RemoveStale { netns } => {
            format!("'{}'", netns::path(netns).display())
        }
        Step::AddBridge { bridge, .. } => format!("interface '{bridge}'"),
        Step::AddVeth { pair, .. } => format!("interface '{}'", pair.host_link),
        Step::DeleteLink { link, .. } => format!("interface '{link}'"),
        Step::Forward { .. } | Step::ReleaseForwarding { .. } | Step::ForgetForwarding => {
            "forwarding (net.ipv4.ip_forward), which was off".into()
        }
        Step::ReplaceNat { netns, .. } | Step::DeleteNat { netns, .. } => {
            format!("nft table '{}'", nat::table(netns))
        }
        Step::SetAccept { netns, .. } => format!("iptables rules of '{netns}'"),
        Step::WriteDns { netns, .. } | Step::DeleteDns { netns, .. } => {
            format!("'{}'", dns::path(netns).display())
        }
        other => format!("the effect of '{other}'"),
    }
}
