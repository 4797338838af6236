//! What COMMAND may do: capabilities and `no_new_privs`.

use crate::{
    cli::Cli,
    error::{Attempt as _, Error},
};
use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    },
};

/// Docker's default set: moby's oci/caps/defaults.go. `apt-get` works with it.
pub(crate) const DOCKER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What COMMAND is allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Privileges {
    pub(crate) capabilities: CapabilitySet,
    /// Whether an exec may give more: prctl(2), `PR_SET_NO_NEW_PRIVS`.
    pub(crate) gain_more: bool,
}

impl Privileges {
    pub(crate) fn new(cli: &Cli) -> Result<Self, Error> {
        let start = if cli.privileged { CapabilitySet::all() } else { DOCKER };
        let added = cli.cap_add.iter().try_fold(start, |set, name| Ok(set | named(name)?))?;
        let capabilities =
            cli.cap_drop.iter().try_fold(added, |set, name| Ok(set - named(name)?))?;
        Ok(Self { capabilities, gain_more: cli.privileged })
    }

    /// Take the rest from the bounding set and from this process, which still has to become its user.
    pub(crate) fn limit(&self) -> Result<(), Error> {
        limit_bounding_set(self.capabilities)?;
        let to_become = CapabilitySet::SETUID | CapabilitySet::SETGID;
        limit_capabilities(self.capabilities | to_become)
    }

    /// After this process has become its user.
    pub(crate) fn seal(&self, uid: u32) -> Result<(), Error> {
        let to_become = CapabilitySet::SETUID | CapabilitySet::SETGID;
        if uid == 0 && !self.capabilities.contains(to_become) {
            limit_capabilities(self.capabilities)?;
        }
        if self.gain_more { Ok(()) } else { give_up_new_privileges() }
    }

    /// setpriv(1)'s words for it.
    pub(crate) fn shell_words(&self) -> Vec<String> {
        let names =
            self.capabilities.iter_names().map(|(name, _)| format!("+{}", name.to_lowercase()));
        let set = if self.capabilities.is_all() {
            "+all".to_owned()
        } else {
            std::iter::once("-all".to_owned()).chain(names).collect::<Vec<_>>().join(",")
        };
        let mut words = vec!["--bounding-set".into(), set, "--inh-caps".into(), "-all".into()];
        words.extend((!self.gain_more).then(|| "--no-new-privs".into()));
        words
    }
}

/// A capability by its name, with or without `CAP_`; `ALL` is all of them.
fn named(name: &str) -> Result<CapabilitySet, Error> {
    let upper = name.to_ascii_uppercase();
    match upper.strip_prefix("CAP_").unwrap_or(&upper) {
        "ALL" => Ok(CapabilitySet::all()),
        short => CapabilitySet::from_name(short).ok_or_else(|| {
            Error::new(format!("'{name}' is no capability"))
                .hint("capabilities(7) lists them; ALL means every one")
        }),
    }
}

/// Take every capability but `keep` out of the bounding set: no exec gives it back.
fn limit_bounding_set(keep: CapabilitySet) -> Result<(), Error> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => break, // past the last one that this kernel knows
            Err(err) => {
                return Err(err)
                    .attempt(|| format!("cannot drop capability {number} from the bounding set"));
            }
        }
    }
    Ok(())
}

/// Keep of the permitted capabilities those in `keep`, and make them effective. Inheritable and with it
/// ambient become empty: CVE-2022-24769.
pub(crate) fn limit_capabilities(keep: CapabilitySet) -> Result<(), Error> {
    let set = |keep| {
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: keep, permitted: keep, inheritable })
    };
    // EPERM: some of them this process has not itself.
    let done = match set(keep) {
        Err(Errno::PERM) => capabilities(None).and_then(|now| set(keep & now.permitted)),
        done => done,
    };
    done.attempt(|| "cannot limit the capabilities".into())
}

/// No exec gives privileges any more: prctl(2), `PR_SET_NO_NEW_PRIVS`.
fn give_up_new_privileges() -> Result<(), Error> {
    set_no_new_privs(true).attempt(|| "cannot set no_new_privs".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_go_by_their_names() {
        assert_eq!(named("net_admin").unwrap(), CapabilitySet::NET_ADMIN);
        assert_eq!(named("CAP_SYS_PTRACE").unwrap(), CapabilitySet::SYS_PTRACE);
        assert!(named("ALL").unwrap().is_all());
        assert!(named("NET").is_err());
    }

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(DOCKER.bits(), 0xa804_25fb);
    }
}
