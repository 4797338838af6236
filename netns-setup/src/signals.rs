//! SIGINT and friends wait until a change is done or undone.

use crate::error::{Attempt as _, Error};
use nix::sys::signal::{SigSet, Signal};

/// Block the signals that a person or a supervisor sends, for the rest of this process's short life.
///
/// They are not unblocked at the end, so that what was undone can still be told; threads and
/// children made from here on inherit the mask.
pub(crate) fn hold() -> Result<(), Error> {
    let polite = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
    polite.into_iter().collect::<SigSet>().thread_block().attempt(|| "cannot hold signals".into())
}
