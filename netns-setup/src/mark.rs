//! Whose a link is: a line in its ifalias. There is no state file.

use std::fmt;

/// The alias of a bridge of ours, which belongs to all networks on it.
pub(crate) const BRIDGE: &str = "netns-setup bridge";

const PREFIX: &str = "netns-setup:";
const ADOPTED: &str = "adopted";
const FORWARDING: &str = "forwarding-was=0";
const NAT: &str = "nat";
const ACCEPT: &str = "forward-accept";

/// What is written on the host end, and on `lo` in the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one word of the line")]
pub(crate) struct Mark {
    /// The name of the network namespace that the link belongs to.
    pub(crate) netns: String,
    /// On `lo`: the namespace was there before, and stays.
    pub(crate) adopted: bool,
    /// On the host end: forwarding was off before the first of ours came.
    pub(crate) forwarding_was_off: bool,
    /// On the host end: there is an nft table.
    pub(crate) nat: bool,
    /// On the host end: there are rules in the host's firewall.
    pub(crate) accept: bool,
}

impl Mark {
    /// A plain mark of `netns`.
    pub(crate) fn new(netns: &str) -> Self {
        Self { netns: netns.into(), ..Self::default() }
    }

    /// What is written on the host's `lo`, which nobody can delete: that forwarding was off before ours came.
    pub(crate) fn host() -> Self {
        Self { forwarding_was_off: true, ..Self::default() }
    }

    /// Read an ifalias. A stranger's is none, and so is one that says more than we know.
    pub(crate) fn read(alias: &str) -> Option<Self> {
        let mut words = alias.strip_prefix(PREFIX)?.split(' ');
        let mut mark = Self::new(words.next()?);
        for word in words {
            match word {
                ADOPTED => mark.adopted = true,
                FORWARDING => mark.forwarding_was_off = true,
                NAT => mark.nat = true,
                ACCEPT => mark.accept = true,
                _ => return None,
            }
        }
        Some(mark)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.netns)?;
        let words = [
            (self.adopted, ADOPTED),
            (self.forwarding_was_off, FORWARDING),
            (self.nat, NAT),
            (self.accept, ACCEPT),
        ];
        words.iter().filter(|(said, _)| *said).try_for_each(|(_, word)| write!(f, " {word}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        for bits in 0..16 {
            let mark = Mark {
                netns: "demo".into(),
                adopted: bits & 1 != 0,
                forwarding_was_off: bits & 2 != 0,
                nat: bits & 4 != 0,
                accept: bits & 8 != 0,
            };
            assert_eq!(Mark::read(&mark.to_string()), Some(mark));
        }
    }

    #[test]
    fn a_strangers_alias_is_no_mark() {
        for alias in ["", "uplink", "netns-setup", "netns-setup:demo by hand"] {
            assert_eq!(Mark::read(alias), None);
        }
    }
}
