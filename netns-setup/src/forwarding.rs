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
    let marks: Vec<(String, Mark)> = host
        .links()?
        .into_iter()
        .filter_map(|link| Some((link.name, Mark::read(&link.alias)?)))
        .filter(|(_, mark)| mark.forwarding_was_off)
        .collect();
    let Some((_, own)) = marks.iter().find(|(name, _)| name == link) else { return Ok(()) };
    if marks.len() == 1 {
        set(false)?;
    }
    let spent = Mark { forwarding_was_off: false, ..own.clone() };
    host.set_alias(link, &spent.to_string())
}
