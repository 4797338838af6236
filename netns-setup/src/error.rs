//! What can go wrong, in words: the only place that words a failure.

use nix::errno::Errno;
use std::{
    ffi::OsStr,
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

/// Failed, and nothing is left of it; for `check`: something differs.
pub(crate) const FAILED: u8 = 1;
/// The command line asks for something that cannot be.
const USAGE: u8 = 2;
/// Failed, and something is left behind.
const LEFT: u8 = 3;

/// `exec` itself failed: 1 to 3 may be the command's own. As in env(1), nice(1) and chroot(1).
const EXEC_FAILED: u8 = 125;
/// The command was found and cannot be executed.
const CANNOT_EXECUTE: u8 = 126;
/// The command was not found.
const NOT_FOUND: u8 = 127;

/// One failure: what was attempted, why it was refused, what was undone, what is left, what may help.
#[derive(Debug)]
pub(crate) struct Error {
    attempt: String,
    cause: Option<io::Error>,
    undone: usize,
    left: Vec<String>,
    hint: Option<String>,
    code: u8,
}

impl Error {
    /// A refusal of our own, with no errno behind it.
    pub(crate) fn new(attempt: impl Into<String>) -> Self {
        Self {
            attempt: attempt.into(),
            cause: None,
            undone: 0,
            left: vec![],
            hint: None,
            code: FAILED,
        }
    }

    /// A refusal of what was asked for: it cannot be, whatever the host looks like.
    pub(crate) fn usage(attempt: impl Into<String>) -> Self {
        Self { code: USAGE, ..Self::new(attempt) }
    }

    /// A command that cannot be run.
    pub(crate) fn command(program: &OsStr, cause: io::Error) -> Self {
        let not_found = cause.kind() == io::ErrorKind::NotFound;
        let code = if not_found { NOT_FOUND } else { CANNOT_EXECUTE };
        let attempt = format!("cannot run '{}'", program.display());
        Self { cause: Some(cause), code, ..Self::new(attempt) }
    }

    /// A failure of `exec`, before there was a command whose status could be passed on.
    pub(crate) fn before_command(self) -> Self {
        Self { code: EXEC_FAILED, ..self }
    }

    /// Say how many changes were taken back.
    pub(crate) fn undone(self, undone: usize) -> Self {
        Self { undone, ..self }
    }

    /// Name what could not be taken back.
    pub(crate) fn left(self, left: Vec<String>) -> Self {
        let code = if left.is_empty() { self.code } else { LEFT };
        Self { left, code, ..self }
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

    /// Tell the user, and say which status the process ends with.
    pub(crate) fn report(self) -> ExitCode {
        drop(writeln!(io::stderr(), "netns-setup: {self}")); // nobody left to tell
        ExitCode::from(self.code)
    }
}

/// Clap's text under our name: among four tools, a bare "error:" does not say whose it is.
pub(crate) fn usage(err: &clap::Error, runs_command: bool) -> ExitCode {
    if !err.use_stderr() {
        drop(err.print()); // --help or --version
        return ExitCode::SUCCESS;
    }
    let text = err.render().to_string();
    drop(write!(io::stderr(), "netns-setup: {}", text.strip_prefix("error: ").unwrap_or(&text)));
    ExitCode::from(if runs_command { EXEC_FAILED } else { USAGE })
}

/// Tell something that is no failure.
pub(crate) fn note(text: &str) {
    drop(writeln!(io::stderr(), "netns-setup: {text}")); // nobody left to tell
}

/// Show a step as it is taken, like `bash -x`.
pub(crate) fn trace(step: &impl fmt::Display) {
    drop(writeln!(io::stderr(), "+ {step}")); // nobody left to tell
}

/// One line for each.
pub(crate) fn lines(items: impl IntoIterator<Item: fmt::Display>) -> String {
    items.into_iter().map(|item| item.to_string() + "\n").collect()
}

/// Write the result. A reader that has gone away is a failure: the result did not arrive.
pub(crate) fn result(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .attempt(|| "cannot write to standard output".into())
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
        match (self.undone, self.left.is_empty()) {
            (0, _) => {}
            (1, true) => write!(f, "\n  undone: 1 change; the host is as it was")?,
            (n, true) => write!(f, "\n  undone: {n} changes; the host is as it was")?,
            (1, false) => write!(f, "\n  undone: 1 change")?,
            (n, false) => write!(f, "\n  undone: {n} changes")?,
        }
        self.left.iter().try_for_each(|left| write!(f, "\n  left behind: {left}"))?;
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
