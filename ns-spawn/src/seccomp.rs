//! Which system calls COMMAND may make: a filter that the kernel asks before each of them.

mod compile;
mod default;
mod json;
mod profile;
mod syscalls;

use crate::{
    cli::Cli,
    error::{Attempt as _, Error},
    security, sys,
    terminal::Attached,
};
use built::{DEFAULT, NATIVE, TERMINAL_ONLY};
pub(crate) use compile::Instruction;
use compile::compile;
use json::{Document, Machine};
use nix::errno::Errno;
use rustix::{
    fs::{Mode, OFlags, open},
    stdio,
    termios::isatty,
    thread::CapabilitySet,
};
use std::{borrow::Cow, ffi::OsStr, fs, path::Path};
use syscalls::{Arch, Table};

/// What build.rs found and compiled: the machine's own architecture, and the built-in programs.
#[expect(clippy::unreadable_literal, reason = "these numbers are not for reading")]
mod built {
    use super::{Arch, Instruction};
    include!(concat!(env!("OUT_DIR"), "/built.rs"));
}

/// The most instructions that the kernel takes: `BPF_MAXINSNS`.
const MOST: usize = 4096;

/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`, as runc does: older kernels would slow the whole process down otherwise.
const SPEC_ALLOW: u32 = 4;

/// A program for the kernel, ready to be loaded.
#[derive(Debug)]
pub(crate) struct Filter {
    program: Cow<'static, [Instruction]>,
    flags: u32,
    /// Load it only where COMMAND gets a terminal that is the caller's.
    on_callers_terminal: bool,
    /// What the user asked for.
    shown: String,
}

impl Filter {
    /// The one that `cli` asks for. COMMAND's capabilities are among `capabilities`.
    pub(crate) fn new(cli: &Cli, capabilities: CapabilitySet) -> Result<Self, Error> {
        // Docker has it so: who may do everything is not held up by a filter, unless one is asked for.
        let otherwise = OsStr::new(if cli.privileged { "none" } else { "default" });
        let option = cli.seccomp.as_deref().unwrap_or(otherwise);
        let shown = option.to_string_lossy().escape_debug().to_string(); // for one line of a comment
        let program = match option.to_str() {
            Some("none") => {
                let program = TERMINAL_ONLY.into();
                return Ok(Self { program, flags: SPEC_ALLOW, on_callers_terminal: true, shown });
            }
            Some("default") if capabilities == security::DOCKER => DEFAULT.into(),
            Some("default") => {
                let profile = default::default(NATIVE, |name| has(capabilities, name));
                compile(&profile, &Table::new()).into()
            }
            _ => return Self::from_file(Path::new(option), capabilities),
        };
        Ok(Self { program, flags: SPEC_ALLOW, on_callers_terminal: false, shown })
    }

    fn from_file(path: &Path, capabilities: CapabilitySet) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let text = fs::read_to_string(path)
            .attempt(|| format!("cannot read seccomp profile '{shown}'"))
            .map_err(|err| {
                err.hint_on(Errno::ENOENT, "'default', 'none' or a profile in JSON is expected")
            })?;
        let (program, flags) = from_json(&text, capabilities).map_err(|reason| {
            Error::new(format!("cannot use seccomp profile '{shown}': {reason}"))
        })?;
        Ok(Self { program: program.into(), flags, on_callers_terminal: false, shown })
    }

    /// Put this process, and all that it becomes or starts, under the filter. It has `terminal`, and the
    /// descriptors `passed` of the caller's.
    pub(crate) fn load(&self, terminal: &Attached, passed: &[u32]) -> Result<(), Error> {
        if self.on_callers_terminal && !has_callers_terminal(terminal, passed) {
            return Ok(());
        }
        sys::load_filter(&self.program, self.flags)
            .attempt(|| "cannot load the seccomp filter".into())
            .map_err(|err| {
                let advice = "this kernel has no such filters; '--seccomp none' does without";
                err.hint_on(Errno::EINVAL, advice).hint_on(Errno::ENOSYS, advice)
            })
    }

    /// What to print of it: no shell command does the same.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }
}

/// Whether this process has a terminal that is not the container's own: as one of its streams, as another
/// descriptor, or as its controlling terminal, which any process can open.
fn has_callers_terminal(terminal: &Attached, passed: &[u32]) -> bool {
    let [input, output, errors] = [stdio::stdin(), stdio::stdout(), stdio::stderr()].map(isatty);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let controlling = || open("/dev/tty", flags, Mode::empty()).is_ok_and(isatty);
    let from_caller = match terminal {
        Attached::Own { stderr, .. } => !stderr && errors,
        Attached::Inherited { .. } => input || output || errors || controlling(),
        Attached::None => input || output || errors,
    };
    from_caller || passed.iter().any(|number| sys::duplicate(*number).is_ok_and(isatty))
}

/// Compile a profile in JSON. The result is its program and flags.
fn from_json(text: &str, capabilities: CapabilitySet) -> Result<(Vec<Instruction>, u32), String> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let machine = Machine {
        native: NATIVE,
        kernel: json::version(&release)?,
        has: &|name| has(capabilities, name),
    };
    let document = Document::parse(text)?;
    let program = compile(&document.profile(&machine)?, &Table::new());
    if program.len() > MOST {
        let length = program.len();
        return Err(format!("it needs {length} instructions; the kernel takes {MOST}"));
    }
    Ok((program, document.flags()))
}

/// Whether the capability `name` (`CAP_CHOWN`) is in `set`.
fn has(set: CapabilitySet, name: &str) -> bool {
    name.strip_prefix("CAP_")
        .and_then(CapabilitySet::from_name)
        .is_some_and(|capability| set.contains(capability))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiled_beforehand_is_that_of_the_default_capabilities() {
        let profile = default::default(NATIVE, |name| has(security::DOCKER, name));
        assert_eq!(compile(&profile, &Table::new()), DEFAULT);
    }

    #[test]
    fn every_capability_that_the_default_profile_asks_about_is_known() {
        default::default(NATIVE, |name| {
            assert!(has(CapabilitySet::all(), name), "{name}");
            true
        });
    }
}
