//! COMMAND: what is executed, and its process between the fork and the exec.

use crate::{
    cli::Cli,
    error::{Attempt as _, CANNOT_RUN, Error, NOT_FOUND},
    identity::Identity,
    init::die_with_supervisor,
    rootfs::Rootfs,
    scheduling::Scheduling,
    seccomp::Filter,
    security::Privileges,
    sys::{self, Page},
    terminal::Attached,
    userns::Userns,
};
use nix::{
    errno::Errno,
    sys::signal::{SigSet, SigmaskHow},
    unistd::{Gid, Uid, chdir, execve, getcwd, setgroups, setresgid, setresuid},
};
use rustix::{fd::AsRawFd as _, thread::CapabilitySet};
use std::{
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    io::Read as _,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        net::UnixStream,
    },
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
    workdir: PathBuf,
    privileges: Privileges,
    filter: Filter,
    scheduling: Scheduling,
    /// Descriptors of the caller's that COMMAND gets.
    pub(crate) passed: Vec<u32>,
    keeps_groups: bool,
    /// COMMAND's users are not ours.
    in_userns: bool,
    /// For messages: COMMAND and DIR as the user gave them.
    shown: String,
    root: String,
}

impl Command {
    /// What `cli` asks for, in the root directory `rootfs`, and in the user namespace `userns` if one is made.
    pub(crate) fn new(cli: &Cli, rootfs: &Rootfs, userns: Option<&Userns>) -> Result<Self, Error> {
        if !cli.workdir.is_absolute() {
            let shown = cli.workdir.display();
            return Err(Error::new(format!("working directory '{shown}' does not begin with '/'")));
        }
        for number in &cli.pass_fd {
            drop(
                sys::duplicate(*number)
                    .attempt(|| format!("cannot pass on descriptor {number}"))?,
            );
        }
        let identity = Identity::look_up(&cli.user, rootfs)?;
        let mut extra = Vec::new();
        for file in &cli.env_file {
            extra.extend(read_environment(file)?);
        }
        extra.extend_from_slice(&cli.env);
        let environment = environment(&extra, &identity);
        let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH="));
        let candidates = candidates(&cli.command, path.unwrap_or(PATH))?;
        let environment = environment
            .into_iter()
            .map(|text| c_string(text.into_bytes()))
            .collect::<Result<_, _>>()?;
        let privileges = Privileges::new(cli)?;
        Ok(Self {
            candidates,
            environment,
            identity,
            workdir: cli.workdir.clone(),
            privileges,
            filter: Filter::new(cli, privileges.capabilities)?,
            scheduling: Scheduling::new(cli)?,
            passed: cli.pass_fd.clone(),
            // With one group the kernel lets nobody drop the caller's others.
            keeps_groups: userns.is_some_and(Userns::has_one_id),
            in_userns: userns.is_some(),
            shown: cli
                .command
                .first()
                .map_or("/bin/bash".into(), |word| word.to_string_lossy().into()),
            root: rootfs.shown().to_string(),
        })
    }

    /// Whether it can look into processes that are not dumpable: ptrace(2).
    pub(crate) fn may_trace(&self) -> bool {
        self.privileges.capabilities.contains(CapabilitySet::SYS_PTRACE)
    }

    /// The commands that would do the same, once inside.
    pub(crate) fn shell(&self) -> Vec<String> {
        let environment = self.environment.iter().map(|text| text.to_string_lossy().into_owned());
        let Some((file, arguments)) = self.candidates.first() else { return vec![] };
        let file = if self.shown.contains('/') {
            file.to_string_lossy().into_owned()
        } else {
            self.shown.clone()
        };
        let identity = [
            "--clear-groups".into(),
            "--reuid".into(),
            self.identity.uid.to_string(),
            "--regid".into(),
        ];
        let words = ["exec".to_owned()]
            .into_iter()
            .chain(self.scheduling.shell_words())
            .chain(["setpriv".into()])
            .chain(self.privileges.shell_words())
            .chain(identity)
            .chain([self.identity.gid.to_string(), "env".into(), "-i".into()])
            .chain(environment)
            .chain([file])
            .chain(arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned()));
        let line: Vec<_> = words.map(|word| crate::plan::quote(&word)).collect();
        vec![
            format!("# seccomp: {}", self.filter.shown()),
            format!("cd {}", crate::plan::quote(&self.workdir.to_string_lossy())),
            line.join(" "),
        ]
    }

    /// Be COMMAND: the last steps of a process that was made for it. Returns only to say what went wrong.
    ///
    /// `supervised`: die with the supervisor, whose page this is, where no init does so. `channel`: what the exec closes,
    /// and so tells the supervisor of.
    pub(crate) fn run(
        &self,
        terminal: &Attached,
        mask: &SigSet,
        supervised: Option<&Page>,
        channel: Option<&UnixStream>,
    ) -> Error {
        match self.prepare(terminal, mask, supervised, channel) {
            Ok(()) => self.execute(),
            Err(error) => error,
        }
    }

    fn prepare(
        &self,
        terminal: &Attached,
        mask: &SigSet,
        supervised: Option<&Page>,
        channel: Option<&UnixStream>,
    ) -> Result<(), Error> {
        terminal.take_as_own()?;
        self.enter_workdir()?;
        sys::leave_session_keyring().attempt(|| "cannot leave the session keyring".into())?;
        self.scheduling.apply()?;
        if self.privileges.gain_more {
            // Without no_new_privs it takes CAP_SYS_ADMIN, which goes with the user.
            self.filter.load(terminal, &self.passed)?;
        }
        self.privileges.limit()?;
        self.become_user()?;
        self.privileges.seal(self.identity.uid)?;
        // The kernel forgets it where the user changes.
        supervised.map_or(Ok(()), die_with_supervisor)?;
        // Before the exec, which would still follow a path through one of the host's: CVE-2024-21626.
        let kept = channel.map(|channel| channel.as_raw_fd().unsigned_abs());
        let kept: Vec<_> = self.passed.iter().copied().chain(kept).collect();
        sys::close_from(3, &kept).attempt(|| "cannot close the descriptors above 2".into())?;
        for number in &self.passed {
            sys::keep_at_exec(*number).attempt(|| format!("cannot pass on descriptor {number}"))?;
        }
        mask.thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .map(drop)
            .attempt(|| "cannot restore the signal mask".into())?;
        if self.privileges.gain_more {
            return Ok(());
        }
        // Last: from here on COMMAND's rules hold for this process as well.
        self.filter.load(terminal, &self.passed)
    }

    /// Enter the working directory, and see that it is inside: CVE-2024-21626.
    fn enter_workdir(&self) -> Result<(), Error> {
        if self.workdir == Path::new("/") {
            return Ok(()); // where the new root, or joining another's, has led
        }
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
        if !self.keeps_groups {
            setgroups(&[]).attempt(|| "cannot drop the supplementary groups".into())?;
        }
        if !self.in_userns && sys::started_as(uid, gid) {
            return Ok(()); // and nothing has changed it
        }
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
                    error.hint(format!("it is there; '{interpreter}', which runs it, is missing"))
                }
                None => error.hint("it is there; what runs it is missing"),
            },
            Errno::EACCES if path.is_dir() => error.hint("it is a directory"),
            Errno::EACCES => error.hint(format!("'{}' is not executable", path.display())),
            Errno::ENOEXEC => error.hint("it is no program, and no script that begins with #!"),
            _ => error,
        }
    }
}

/// What has to be there for a file to run: the interpreter of a script, the loader of a program.
fn interpreter(path: &Path) -> Option<String> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(4096).read_to_end(&mut start).ok()?;
    let name = match start.strip_prefix(b"#!") {
        Some(line) => {
            let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
            line.split(u8::is_ascii_whitespace).next()?
        }
        None => loader(&start)?,
    };
    Some(String::from_utf8_lossy(name).into_owned())
}

/// `PT_INTERP`, elf(5): this program header says where the loader's name stands.
const INTERPRETER: usize = 3;

/// The loader that a program names, of which `file` is the beginning.
fn loader(file: &[u8]) -> Option<&[u8]> {
    let number = |at: usize, size: usize| {
        let bytes = file.get(at..at.checked_add(size)?)?; // the lowest first, on all machines that we know
        bytes.iter().rev().try_fold(0_usize, |value, byte| {
            value.checked_mul(256).map(|value| value | usize::from(*byte))
        })
    };
    // Where it stands, in 32-bit files and in 64-bit ones: e_phoff, e_phentsize, e_phnum; p_offset, p_filesz.
    let (word, [headers, size, count], [offset, length]) =
        match file.strip_prefix(b"\x7fELF")?.first()? {
            1 => (4, [28, 42, 44], [4, 16]),
            _ => (8, [32, 54, 56], [8, 32]),
        };
    let (first, size) = (number(headers, word)?, number(size, 2)?);
    let mut places =
        (0..number(count, 2)?).filter_map(|at| at.checked_mul(size)?.checked_add(first));
    let header = places.find(|at| number(*at, 4) == Some(INTERPRETER))?;
    let start = number(header.checked_add(offset)?, word)?;
    let end = start.checked_add(number(header.checked_add(length)?, word)?)?;
    file.get(start..end)?.split(|byte| *byte == 0).next()
}

/// The files that `words`, COMMAND and its arguments, may mean, each with the arguments for it.
fn candidates(words: &[OsString], path: &str) -> Result<Vec<(CString, Vec<CString>)>, Error> {
    let words: Vec<_> =
        words.iter().map(|word| c_string(word.as_bytes().to_vec())).collect::<Result<_, _>>()?;
    let Some(first) = words.first() else {
        let shells = [(c"/bin/bash", c"bash"), (c"/bin/sh", c"sh")];
        return Ok(shells.map(|(file, name)| (file.to_owned(), vec![name.to_owned()])).into());
    };
    if first.to_bytes().contains(&b'/') {
        return Ok(vec![(first.clone(), words)]);
    }
    let name = OsStr::from_bytes(first.to_bytes());
    let candidate = |dir: &str| {
        let file = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        Ok((c_string(file.into_os_string().into_vec())?, words.clone()))
    };
    path.split(':').map(candidate).collect()
}

/// The lines of a file of variables.
fn read_environment(file: &Path) -> Result<Vec<String>, Error> {
    let shown = file.display();
    let text = fs::read_to_string(file).attempt(|| format!("cannot read '{shown}'"))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| match line.split_once('=') {
            Some((name, _)) if !name.is_empty() => Ok(line.to_owned()),
            _ => {
                let number = number + 1;
                Err(Error::new(format!("line {number} of '{shown}' has not the form NAME=VALUE")))
            }
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        /// The root directory's files are anybody's.
        #[test]
        fn whatever_a_program_says_of_its_loader_is_read_in_bounds(
            class in 0_u8..4,
            rest in vec(prop_oneof![0_u8..70, Just(0_u8), any::<u8>()], 0..300),
        ) {
            let mut file = b"\x7fELF".to_vec();
            file.push(class);
            file.extend(rest);
            let found = loader(&file);
            prop_assert!(found.is_none_or(|name| name.len() < file.len()));
        }
    }
}
