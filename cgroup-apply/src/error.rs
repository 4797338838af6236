//! What can go wrong, in words: the only place that words a failure, and the only one that prints.

use nix::errno::Errno;
use std::{
    fmt,
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

/// How a failure ends the process. The numbers differ between `run`, which keeps the low ones for COMMAND,
/// and the other verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing is left of what was begun.
    Failed,
    /// Wrong usage that clap cannot see.
    Usage,
    /// Something is left behind, and is named.
    LeftBehind,
    /// COMMAND was found and cannot be executed.
    CannotExecute,
    /// COMMAND was not found.
    NotFound,
}

/// `run` itself failed. As in env(1), nice(1) and chroot(1): 2, which clap uses, may be COMMAND's own status.
const RUN_FAILED: u8 = 125;

/// One failure: what was attempted, why it was refused, what is left, what may help.
#[derive(Debug)]
pub(crate) struct Error {
    attempt: String,
    cause: Option<io::Error>,
    undone: Option<String>,
    left_behind: Vec<String>,
    hint: Option<String>,
    kind: Kind,
}

impl Error {
    /// A refusal of our own, with no errno behind it.
    pub(crate) fn new(attempt: impl Into<String>) -> Self {
        Self {
            attempt: attempt.into(),
            cause: None,
            undone: None,
            left_behind: vec![],
            hint: None,
            kind: Kind::Failed,
        }
    }

    /// A refusal of what was typed, seen later than clap could.
    pub(crate) fn usage(attempt: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::new(attempt) }
    }

    /// COMMAND could not be executed: 127 if there is no such file, 126 otherwise.
    pub(crate) fn command(command: &std::ffi::OsStr, cause: io::Error) -> Self {
        let kind = match cause.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::CannotExecute,
        };
        let attempt = format!("cannot run '{}'", command.display());
        Self { cause: Some(cause), kind, ..Self::new(attempt) }
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

    /// Say what was taken back.
    pub(crate) fn undone(mut self, undone: impl Into<String>) -> Self {
        self.undone = Some(undone.into());
        self
    }

    /// Name what could not be taken back.
    pub(crate) fn left_behind(mut self, left: impl IntoIterator<Item = String>) -> Self {
        self.left_behind.extend(left);
        if !self.left_behind.is_empty() {
            self.kind = Kind::LeftBehind;
        }
        self
    }

    /// The kernel's reason, if it was the kernel that refused.
    pub(crate) fn errno(&self) -> Option<Errno> {
        self.cause.as_ref().and_then(io::Error::raw_os_error).map(Errno::from_raw)
    }

    /// The status that the process ends with.
    pub(crate) fn status(&self, runs_command: bool) -> u8 {
        match self.kind {
            Kind::NotFound => 127,
            Kind::CannotExecute => 126,
            Kind::Failed | Kind::Usage | Kind::LeftBehind if runs_command => RUN_FAILED,
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::LeftBehind => 3,
        }
    }

    /// Tell the user, and say which status the process ends with.
    pub(crate) fn report(self, runs_command: bool) -> u8 {
        tell(&self);
        self.status(runs_command)
    }
}

/// Say something on standard error under the tool's name.
pub(crate) fn tell(what: &impl fmt::Display) {
    drop(writeln!(io::stderr(), "cgroup-apply: {what}")); // nobody left to tell
}

static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Whether [`trace`] prints.
pub(crate) fn be_verbose(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// Show a step as it is taken, as `bash -x` does.
pub(crate) fn trace(step: &impl fmt::Display) {
    if VERBOSE.load(Ordering::Relaxed) {
        drop(writeln!(io::stderr(), "+ {step}")); // nobody left to tell
    }
}

/// Write the lines of the result to standard output.
pub(crate) fn result(lines: &[String]) -> Result<u8, Error> {
    let mut stdout = io::stdout().lock();
    let written = lines.iter().try_for_each(|line| writeln!(stdout, "{line}"));
    written.attempt(|| "cannot write to standard output".into())?;
    Ok(0)
}

/// Clap's text under our name: among four tools, a bare "error:" does not say whose it is.
pub(crate) fn usage(err: &clap::Error, runs_command: bool) -> u8 {
    if !err.use_stderr() {
        drop(err.print()); // --help or --version
        return 0;
    }
    let text = err.render().to_string();
    drop(write!(io::stderr(), "cgroup-apply: {}", text.strip_prefix("error: ").unwrap_or(&text)));
    Error::usage("").status(runs_command)
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
        self.undone.iter().try_for_each(|undone| write!(f, "\n  undone: {undone}"))?;
        self.left_behind.iter().try_for_each(|left| write!(f, "\n  left behind: {left}"))?;
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
