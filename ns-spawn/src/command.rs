//! COMMAND: what is executed, and its process between the fork and the exec.

use crate::{
    error::{Attempt as _, CANNOT_RUN, Error, NOT_FOUND},
    identity::Identity,
    security, sys,
    terminal::Attached,
};
use nix::{
    errno::Errno,
    sys::signal::{SigSet, SigmaskHow, Signal},
    unistd::{Gid, Uid, chdir, execve, getcwd, setgroups, setresgid, setresuid},
};
use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// Docker's PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to be executed, and as whom.
#[derive(Debug)]
pub(crate) struct Command {
    /// The files to try in turn, and the arguments that go with each: a bare name has one in every directory
    /// of PATH, no name at all has two shells.
    candidates: Vec<(CString, Vec<CString>)>,
    environment: Vec<CString>,
    pub(crate) identity: Identity,
    pub(crate) workdir: PathBuf,
    /// For messages: COMMAND and DIR as the user gave them.
    shown: String,
    root: String,
}

impl Command {
    /// `words` is COMMAND with its arguments; empty: a shell.
    pub(crate) fn new(
        words: Vec<OsString>,
        extra: &[String],
        identity: Identity,
        workdir: PathBuf,
        root: String,
    ) -> Result<Self, Error> {
        let environment = environment(extra, &identity);
        let path = environment
            .iter()
            .find_map(|variable| variable.strip_prefix("PATH="))
            .unwrap_or(PATH)
            .to_owned();
        let shown =
            words.first().map_or("/bin/bash".into(), |word| word.to_string_lossy().into_owned());
        let words = words
            .into_iter()
            .map(|word| c_string(word.into_vec()))
            .collect::<Result<Vec<_>, _>>()?;
        let candidates = match words.first() {
            None => vec![
                (c"/bin/bash".into(), vec![c"bash".into()]),
                (c"/bin/sh".into(), vec![c"sh".into()]),
            ],
            Some(first) if first.to_bytes().contains(&b'/') => vec![(first.clone(), words)],
            Some(first) => path
                .split(':')
                .map(|dir| {
                    let file = Path::new(if dir.is_empty() { "." } else { dir })
                        .join(OsStr::from_bytes(first.to_bytes()));
                    Ok((c_string(file.into_os_string().into_vec())?, words.clone()))
                })
                .collect::<Result<_, _>>()?,
        };
        let environment = environment
            .into_iter()
            .map(|text| c_string(text.into_bytes()))
            .collect::<Result<_, _>>()?;
        Ok(Self { candidates, environment, identity, workdir, shown, root })
    }

    /// Words for a shell that would do the same.
    pub(crate) fn shell_words(&self) -> Vec<String> {
        let environment = self.environment.iter().map(|text| text.to_string_lossy().into_owned());
        let arguments = match self.candidates.as_slice() {
            [(_, arguments), ..] if !self.shown.starts_with('/') => arguments.as_slice(),
            [(_, arguments), ..] => &arguments[1..],
            [] => &[],
        };
        let command = self.shown.starts_with('/').then(|| self.shown.clone());
        ["env".to_owned(), "-i".to_owned()]
            .into_iter()
            .chain(environment)
            .chain(command)
            .chain(arguments.iter().map(|word| word.to_string_lossy().into_owned()))
            .collect()
    }

    /// Be COMMAND: the last steps of a process that init has forked. Returns only to say what went wrong.
    pub(crate) fn run(&self, terminal: &Attached, mask: &SigSet) -> Error {
        match self.prepare(terminal, mask) {
            Ok(()) => self.execute(),
            Err(error) => error,
        }
    }

    fn prepare(&self, terminal: &Attached, mask: &SigSet) -> Result<(), Error> {
        terminal.take_as_own()?;
        self.enter_workdir()?;
        security::limit_bounding_set(security::DOCKER)?;
        security::limit_capabilities(security::DOCKER)?;
        self.become_user()?;
        security::give_up_new_privileges()?;
        // The Rust runtime ignores it; COMMAND wants to die of it.
        sys::reset_disposition(Signal::SIGPIPE).attempt(|| "cannot reset SIGPIPE".into())?;
        sys::close_from(3, true).attempt(|| "cannot close the descriptors above 2".into())?;
        mask.thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .map(drop)
            .attempt(|| "cannot restore the signal mask".into())
    }

    /// Enter the working directory, and see that it is inside: CVE-2024-21626.
    fn enter_workdir(&self) -> Result<(), Error> {
        let shown = self.workdir.display();
        chdir(&self.workdir).attempt(|| format!("cannot enter working directory '{shown}'"))?;
        let entered = getcwd().attempt(|| format!("cannot enter working directory '{shown}'"))?;
        if entered.is_absolute() {
            Ok(())
        } else {
            Err(Error::new(format!("working directory '{shown}' is outside the root directory")))
        }
    }

    fn become_user(&self) -> Result<(), Error> {
        let Identity { uid, gid, .. } = self.identity;
        let attempt = || format!("cannot become user {uid}, group {gid}");
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setgroups(&[]).attempt(|| "cannot drop the supplementary groups".into())?;
        setresgid(group, group, group).attempt(attempt)?;
        setresuid(user, user, user).attempt(attempt)
    }

    /// Try the candidates. As execvp(3): go on after "not there" and "not allowed", remember the latter.
    fn execute(&self) -> Error {
        let mut refused = Errno::ENOENT;
        let mut found = None;
        for (file, arguments) in &self.candidates {
            let Err(errno) = execve(file, arguments, &self.environment);
            let path = Path::new(OsStr::from_bytes(file.to_bytes()));
            match errno {
                Errno::ENOENT | Errno::ENOTDIR if !path.exists() => {}
                Errno::EACCES => (refused, found) = (errno, Some(path)),
                _ => {
                    (refused, found) = (errno, Some(path));
                    break;
                }
            }
        }
        self.refusal(refused, found)
    }

    fn refusal(&self, errno: Errno, found: Option<&Path>) -> Error {
        let Self { shown, root, .. } = self;
        let error = Err::<(), _>(errno).attempt(|| format!("cannot run '{shown}'"));
        let error = error.err().unwrap_or_else(|| Error::new(String::new()));
        let Some(path) = found else {
            let advice = if shown.contains('/') {
                format!("it is looked up inside '{root}'")
            } else {
                format!(
                    "it is looked up inside '{root}'; 'rootfs-fetch --install {shown} {root}' puts it there"
                )
            };
            return error.hint(advice).status(NOT_FOUND);
        };
        let error = error.status(CANNOT_RUN);
        match errno {
            Errno::ENOENT => match interpreter(path) {
                Some(interpreter) => {
                    error.hint(format!("it is there; its interpreter '{interpreter}' is missing"))
                }
                None => error.hint("it is there; its interpreter or loader is missing"),
            },
            Errno::EACCES if path.is_dir() => error.hint("it is a directory"),
            Errno::EACCES => error.hint(format!("'{}' is not executable", path.display())),
            Errno::ENOEXEC => error.hint("it is no program, and no script that begins with #!"),
            _ => error,
        }
    }
}

/// The interpreter that a script's first line names.
fn interpreter(path: &Path) -> Option<String> {
    let mut line = Vec::new();
    BufReader::new(File::open(path).ok()?.take(256)).read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8_lossy(line.strip_prefix(b"#!")?).into_owned();
    line.split_whitespace().next().map(str::to_owned)
}

/// PATH, HOME, USER, TERM and what the user adds; the last of a name wins.
fn environment(extra: &[String], identity: &Identity) -> Vec<String> {
    let mut variables = vec![
        format!("PATH={PATH}"),
        format!("HOME={}", identity.home.to_string_lossy()),
        format!("USER={}", identity.name.to_string_lossy()),
        "container=ns-spawn".to_owned(),
    ];
    variables.extend(std::env::var("TERM").ok().map(|term| format!("TERM={term}")));
    for variable in extra {
        let name = variable.split_inclusive('=').next().unwrap_or_default();
        variables.retain(|other| !other.starts_with(name));
        variables.push(variable.clone());
    }
    variables
}

fn c_string(bytes: Vec<u8>) -> Result<CString, Error> {
    CString::new(bytes).map_err(|err| {
        Error::new(format!("'{}' has a zero byte in it", String::from_utf8_lossy(&err.into_vec())))
    })
}
