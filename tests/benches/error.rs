//! The only place that words a failure.

use nix::errno::Errno;
use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

/// Why there is no report.
#[derive(Debug)]
pub(crate) enum Error {
    /// What was attempted, and why it was refused.
    Failed(String, Option<io::Error>),
    /// The user wanted no more of it.
    Interrupted,
}

impl Error {
    /// A refusal of our own, with no errno behind it.
    pub(crate) fn new(attempt: impl Into<String>) -> Self {
        Self::Failed(attempt.into(), None)
    }

    /// Tell the user, and say which status the process ends with.
    pub(crate) fn report(self) -> ExitCode {
        drop(writeln!(io::stderr(), "bench: {self}")); // nobody left to tell
        ExitCode::from(match self {
            Self::Failed(..) => 1,
            Self::Interrupted => 130,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(attempt, None) => f.write_str(attempt),
            Self::Failed(attempt, Some(cause)) => match cause.raw_os_error().map(Errno::from_raw) {
                Some(errno) => write!(f, "{attempt}: {} ({errno:?})", errno.desc()),
                None => write!(f, "{attempt}: {cause}"),
            },
            Self::Interrupted => f.write_str("interrupted; what it had made is removed"),
        }
    }
}

/// Say what a failing call was for.
pub(crate) trait Attempt<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|err| Error::Failed(what(), Some(err.into())))
    }
}
