//! IPv4 forwarding of the host, one switch for all networks.

use crate::{
    error::{Attempt as _, Error},
    mark::Mark,
    netlink::Netlink,
    netns,
};
use std::fs;

const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether the host forwards.
pub(crate) fn is_on() -> Result<bool, Error> {
    let text = fs::read_to_string(SWITCH).attempt(|| format!("cannot read '{SWITCH}'"))?;
    Ok(text.trim() != "0")
}

/// Let the host forward, or not.
pub(crate) fn set(on: bool) -> Result<(), Error> {
    fs::write(SWITCH, if on { "1" } else { "0" }).attempt(|| format!("cannot write '{SWITCH}'"))
}

/// Put forwarding back where `link` says that it was off and no other network of ours still needs it.
///
/// The lock keeps another run from marking its link between our look and our writing.
pub(crate) fn release(host: &Netlink, link: &str) -> Result<(), Error> {
    let _lock = netns::lock_dir()?;
    let marks = marks(host)?;
    let Some((_, own)) = marks.iter().find(|(name, _)| name == link) else { return Ok(()) };
    let others = marks.iter().filter(|(name, mark)| name != link && *mark != Mark::host());
    if others.count() == 0 {
        put_back(host, &marks)?;
    }
    let spent = Mark { forwarding_was_off: false, ..own.clone() };
    host.set_alias(link, &spent.to_string())
}

/// Put forwarding back where only the host's `lo` still says that it was off: somebody has deleted the link
/// that said so too.
pub(crate) fn forget(host: &Netlink) -> Result<(), Error> {
    let _lock = netns::lock_dir()?;
    match &marks(host)?[..] {
        [only] if only.1 == Mark::host() => put_back(host, std::slice::from_ref(only)),
        _ => Ok(()),
    }
}

/// The links, with their marks, that say that forwarding was off.
fn marks(host: &Netlink) -> Result<Vec<(String, Mark)>, Error> {
    let links = host.links()?.into_iter();
    let marks = links.filter_map(|link| Some((link.name, Mark::read(&link.alias)?)));
    Ok(marks.filter(|(_, mark)| mark.forwarding_was_off).collect())
}

fn put_back(host: &Netlink, marks: &[(String, Mark)]) -> Result<(), Error> {
    set(false)?;
    let mut lo = marks.iter().filter(|(_, mark)| *mark == Mark::host());
    lo.try_for_each(|(name, _)| host.set_alias(name, ""))
}
