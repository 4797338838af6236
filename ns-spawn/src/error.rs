//! What can go wrong, in words: the only place that words a failure.

use crate::sys::Page;
use nix::errno::Errno;
use std::{
    fmt,
    io::{self, Write as _},
};

/// The tool itself failed. As in env(1), nice(1) and chroot(1): 2, which clap uses, may be COMMAND's own status.
const FAILED: u8 = 125;

/// COMMAND was found but cannot be run.
pub(crate) const CANNOT_RUN: u8 = 126;

/// COMMAND was not found.
pub(crate) const NOT_FOUND: u8 = 127;

/// One failure: what was attempted, why it was refused, what may help.
#[derive(Debug)]
pub(crate) struct Error {
    attempt: String,
    cause: Option<io::Error>,
    hint: Option<String>,
    code: u8,
}

impl Error {
    /// A refusal of our own, with no errno behind it.
    pub(crate) fn new(attempt: impl Into<String>) -> Self {
        Self { attempt: attempt.into(), cause: None, hint: None, code: FAILED }
    }

    /// Add advice, only where a look has shown that it applies.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Add advice, only where the errno shows that it applies.
    pub(crate) fn hint_on(self, errno: Errno, hint: impl Into<String>) -> Self {
        if self.errno() == Some(errno) { self.hint(hint) } else { self }
    }

    /// The kernel's reason, if it was the kernel that refused.
    pub(crate) fn errno(&self) -> Option<Errno> {
        self.cause.as_ref().and_then(io::Error::raw_os_error).map(Errno::from_raw)
    }

    /// End with `code` instead of 125.
    pub(crate) fn status(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Leave it where the supervisor finds it: the child does not print.
    pub(crate) fn leave_on(&self, page: &Page) {
        let errno = self.errno().map_or(0, |errno| errno as i32);
        page.failed(&self.attempt, errno, self.hint.as_deref().unwrap_or(""), self.code);
    }

    /// The one that the child left.
    pub(crate) fn found(attempt: String, errno: i32, hint: String, code: u8) -> Self {
        let cause = (errno != 0).then(|| io::Error::from_raw_os_error(errno));
        Self { attempt, cause, hint: Some(hint).filter(|hint| !hint.is_empty()), code }
    }

    /// Tell the user, and say which status the process ends with.
    pub(crate) fn report(self) -> u8 {
        drop(writeln!(io::stderr(), "ns-spawn: {self}")); // nobody left to tell
        self.code
    }
}

/// Tell the user something that is no failure.
pub(crate) fn say(text: &str) {
    drop(writeln!(io::stderr(), "ns-spawn: {text}")); // nobody left to tell
}

/// Clap's text under our name: among four tools, a bare "error:" does not say whose it is.
pub(crate) fn usage(err: &clap::Error) -> u8 {
    if !err.use_stderr() {
        drop(err.print()); // --help or --version
        return 0;
    }
    let text = err.render().to_string();
    drop(write!(io::stderr(), "ns-spawn: {}", text.strip_prefix("error: ").unwrap_or(&text)));
    FAILED
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.attempt)?;
        match self.cause.as_ref().map(|err| (err, err.raw_os_error())) {
            Some((_, Some(raw))) => {
                let errno = Errno::from_raw(raw);
                write!(f, ": {} ({errno:?})", errno.desc())?;
            }
            Some((err, None)) => write!(f, ": {err}")?,
            None => {}
        }
        self.hint.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

/// Say what a failing call was for. There is no `From<io::Error>`: `?` alone does not compile.
pub(crate) trait Attempt<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|err| Error { cause: Some(err.into()), ..Error::new(what()) })
    }
}
