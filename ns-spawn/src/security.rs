//! What COMMAND may do: capabilities and `no_new_privs`.

use crate::error::{Attempt as _, Error};
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

/// Take every capability but `keep` out of the bounding set: no exec gives it back.
pub(crate) fn limit_bounding_set(keep: CapabilitySet) -> Result<(), Error> {
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
    let attempt = || "cannot limit the capabilities".to_owned();
    let keep = keep.intersection(capabilities(None).attempt(attempt)?.permitted);
    let sets =
        CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).attempt(attempt)
}

/// No exec gives privileges any more: prctl(2), `PR_SET_NO_NEW_PRIVS`.
pub(crate) fn give_up_new_privileges() -> Result<(), Error> {
    set_no_new_privs(true).attempt(|| "cannot set no_new_privs".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(DOCKER.bits(), 0xa804_25fb);
    }
}
