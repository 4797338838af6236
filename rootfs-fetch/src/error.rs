//! What can go wrong, in words: the only place that words a failure and writes to stderr.

use nix::errno::Errno;
use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

/// The tool failed and left nothing.
const FAILED: u8 = 1;

/// What was asked for makes no sense.
const WRONG_USAGE: u8 = 2;

/// The tool failed and something is left behind, named in the message.
const LEFT_BEHIND: u8 = 3;

/// One failure: what was attempted, why it was refused, what may help.
#[derive(Debug)]
pub(crate) struct Error {
    attempt: String,
    cause: Option<io::Error>,
    details: Vec<String>,
    hint: Option<String>,
    code: u8,
}

impl Error {
    /// A refusal of our own, with no errno behind it.
    pub(crate) fn new(attempt: impl Into<String>) -> Self {
        let attempt = attempt.into();
        Self { attempt, cause: None, details: Vec::new(), hint: None, code: FAILED }
    }

    /// A refusal of what the user gave.
    pub(crate) fn usage(attempt: impl Into<String>) -> Self {
        Self { code: WRONG_USAGE, ..Self::new(attempt) }
    }

    /// The same, as the reason why something else cannot be done.
    pub(crate) fn about(mut self, cannot: &str) -> Self {
        self.attempt = match self.attempt.as_str() {
            "" => cannot.to_owned(),
            reason => format!("{cannot}: {reason}"),
        };
        self
    }

    /// The error as it is told, and its advice apart.
    pub(crate) fn into_parts(mut self) -> (String, Option<String>) {
        let hint = self.hint.take();
        (self.to_string(), hint)
    }

    /// An attempt that failed with `cause`.
    pub(crate) fn because(attempt: String, cause: io::Error) -> Self {
        Self { cause: Some(cause), ..Self::new(attempt) }
    }

    /// A refusal of the kernel's, told through others.
    pub(crate) fn from_errno(attempt: String, errno: i32) -> Self {
        Self { cause: Some(io::Error::from_raw_os_error(errno)), ..Self::new(attempt) }
    }

    /// Add a line of detail, `label: text`.
    pub(crate) fn detail(mut self, label: &str, text: impl fmt::Display) -> Self {
        self.details.push(format!("{label}: {text}"));
        self
    }

    /// Say what was taken back after the failure.
    pub(crate) fn undone(self, what: impl fmt::Display) -> Self {
        self.detail("undone", what)
    }

    /// Say what could not be taken back: the status tells it too.
    pub(crate) fn left_behind(mut self, what: impl fmt::Display) -> Self {
        self.code = LEFT_BEHIND;
        self.detail("left behind", what)
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
        say(&self.to_string());
        ExitCode::from(self.code)
    }
}

/// Write one message to stderr under our name.
pub(crate) fn say(message: &str) {
    drop(writeln!(io::stderr(), "rootfs-fetch: {message}")); // nobody left to tell
}

/// Write the shell commands of a step that is taken now, as `bash -x` does.
pub(crate) fn trace(commands: &impl fmt::Display) {
    for line in commands.to_string().lines() {
        drop(writeln!(io::stderr(), "+ {line}")); // nobody left to tell
    }
}

/// Clap's text under our name: among four tools, a bare "error:" does not say whose it is.
pub(crate) fn usage(err: &clap::Error) -> ExitCode {
    if !err.use_stderr() {
        drop(err.print()); // --help or --version
        return ExitCode::SUCCESS;
    }
    let text = err.render().to_string();
    drop(write!(io::stderr(), "rootfs-fetch: {}", text.strip_prefix("error: ").unwrap_or(&text)));
    ExitCode::from(WRONG_USAGE)
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
        self.details.iter().try_for_each(|detail| write!(f, "\n  {detail}"))?;
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
