//! Without root: this program once more, as root of a user namespace with the caller's ranges of ids.
//!
//! The caller is root inside, and the ids that /etc/subuid and /etc/subgid give the caller are all others. Only
//! newuidmap(1) and newgidmap(1) may map those, and from outside: so a first process stays there, and the second
//! one, in the new namespace, becomes this program when its ids are mapped.

use crate::error::{Attempt as _, Error};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{Gid, Uid, User, close, getegid, geteuid, setgid, setgroups, setuid},
};
use std::{
    env::{self, ArgsOs},
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Command, ExitCode, Stdio},
};

/// The name by which this program knows that it is to enter a user namespace, and that it is in one.
const STAGE: &str = "rootfs-fetch: into a user namespace";
const INSIDE: &str = "rootfs-fetch: in a user namespace";

/// As many ids as a distribution uses: up to nobody's and nogroup's.
const IDS: u32 = 65_536;

/// Where the ranges are, and who may map them.
const KINDS: [(&str, &str); 2] = [("/etc/subuid", "newuidmap"), ("/etc/subgid", "newgidmap")];

/// What helps a user who has none.
pub(crate) const GET_RANGES: &str = "run as root; or let root give you ids for newuidmap: \
    'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER'";

/// Whose files this process can make.
#[derive(Debug)]
pub(crate) enum Rights {
    /// Everybody's.
    Root,
    /// Those of the caller and of the caller's ranges, in a namespace.
    Ranges(Ranges),
    /// The caller's only, and why.
    Alone(String),
}

impl Rights {
    /// Those of this process.
    pub(crate) fn look() -> Self {
        if geteuid().is_root() {
            return Self::Root;
        }
        Ranges::find().map_or_else(Self::Alone, Self::Ranges)
    }
}

/// The caller's ranges, start and number, of users and of groups.
#[derive(Debug)]
pub(crate) struct Ranges([Vec<(u32, u32)>; 2]);

/// Whether this process is root of its own user namespace, made here: what it writes for itself is the caller's.
pub(crate) fn is_inside() -> bool {
    env::args_os().next().is_some_and(|name| name == INSIDE)
}

impl Ranges {
    /// Those of the caller, or why there are none to use.
    pub(crate) fn find() -> Result<Self, String> {
        let uid = geteuid();
        let name = User::from_uid(uid).ok().flatten().map(|user| user.name).unwrap_or_default();
        let mut ranges = [Vec::new(), Vec::new()];
        for (ranges, (file, program)) in ranges.iter_mut().zip(KINDS) {
            let text = fs::read_to_string(file).unwrap_or_default();
            *ranges = of_user(&text, &name, uid.as_raw());
            let number = ranges.iter().fold(0_u32, |sum, (_, number)| sum.saturating_add(*number));
            if number < IDS - 1 {
                return Err(format!("{file} gives user {uid} {number} ids, and {IDS} are needed"));
            }
            if !is_installed(program) {
                return Err(format!("{program} is not installed"));
            }
        }
        Ok(Self(ranges))
    }

    /// Run this program with the same arguments as root of a new namespace, and give its status.
    pub(crate) fn run_inside(&self) -> Result<ExitCode, Error> {
        let cannot = || "cannot start in a user namespace".to_owned();
        // Standard input and output are for the program itself: the two talk over pipes of their own.
        let (mut ready, ready_end) = io::pipe().attempt(cannot)?;
        let (mapped_end, mut mapped) = io::pipe().attempt(cannot)?;
        let ends = [OwnedFd::from(ready_end), OwnedFd::from(mapped_end)];
        for end in &ends {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::empty()).attempt(cannot)?;
        }
        let numbers = ends.each_ref().map(|end| end.as_raw_fd().to_string());
        let mut inside = Command::new("/proc/self/exe");
        let mut inside = inside
            .arg0(STAGE)
            .args(numbers)
            .args(env::args_os().skip(1))
            .spawn()
            .attempt(cannot)?;
        drop(ends);
        let mut said = String::new();
        ready.read_to_string(&mut said).attempt(cannot)?;
        // Nothing is said where it could make no namespace: it has told why itself.
        if said == "ready" {
            let mapping = self.map(inside.id());
            if mapping.is_err() {
                drop(inside.kill());
            }
            mapping?;
            mapped.write_all(b"mapped").attempt(cannot)?;
        }
        drop(mapped);
        let status = inside.wait().attempt(cannot)?;
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
    }

    /// Let those map the ids of the namespace of process `pid` who may.
    fn map(&self, pid: u32) -> Result<(), Error> {
        let own = [geteuid().as_raw(), getegid().as_raw()];
        for ((ranges, own), (_, program)) in self.0.iter().zip(own).zip(KINDS) {
            let mut words = vec![pid.to_string(), "0".into(), own.to_string(), "1".into()];
            let mut inside = 1_u32;
            for (start, number) in ranges {
                words.extend([inside.to_string(), start.to_string(), number.to_string()]);
                inside = inside.saturating_add(*number);
            }
            let mut command = Command::new(program);
            let ended = command.args(&words).stdin(Stdio::null()).output();
            let ended = ended.attempt(|| format!("cannot run '{program}'"))?;
            if !ended.status.success() {
                let said = String::from_utf8_lossy(&ended.stderr).trim().replace('\n', "; ");
                return Err(Error::new(format!("cannot map ids with '{program}': {said}")));
            }
        }
        Ok(())
    }
}

/// Enter a user namespace and become this program in it, if this is the process for that.
pub(crate) fn as_stage() -> Option<ExitCode> {
    let mut args = env::args_os();
    if args.next()? != STAGE {
        return None;
    }
    let (ready, mapped) = (args.next()?, args.next()?);
    Some(enter(&ready, &mapped, args).map_or_else(Error::report, |()| ExitCode::SUCCESS))
}

fn enter(ready: &OsStr, mapped: &OsStr, args: ArgsOs) -> Result<(), Error> {
    let cannot = || "cannot start in a user namespace".to_owned();
    let mut ready = take(ready, File::options().write(true)).attempt(cannot)?;
    let mut mapped = take(mapped, File::options().read(true)).attempt(cannot)?;
    unshare(CloneFlags::CLONE_NEWUSER)
        .attempt(|| "cannot create a user namespace".into())
        .map_err(|err| {
            err.hint_on(
                Errno::EPERM,
                "this host forbids them to ordinary users: sysctl kernel.unprivileged_userns_clone, \
                 kernel.apparmor_restrict_unprivileged_userns; run as root",
            )
        })?;
    ready.write_all(b"ready").attempt(cannot)?;
    drop(ready); // it is read to its end
    let mut answer = String::new();
    mapped.read_to_string(&mut answer).attempt(cannot)?;
    if answer != "mapped" {
        return Err(
            Error::new("the process that maps its ids has ended before its time").about(&cannot())
        );
    }
    setgroups(&[]).attempt(cannot)?;
    setgid(Gid::from_raw(0)).attempt(cannot)?;
    setuid(Uid::from_raw(0)).attempt(cannot)?;
    set_pdeathsig(Signal::SIGKILL).attempt(cannot)?; // last: the others take it back
    let failed = Command::new("/proc/self/exe").arg0(INSIDE).args(args).exec();
    Err(failed).attempt(cannot)
}

/// The inherited descriptor `number` as a file. A number alone is no handle, so it is opened by its name.
fn take(number: &OsStr, options: &OpenOptions) -> io::Result<File> {
    let file = options.open(Path::new("/proc/self/fd").join(number))?;
    let number = number.to_str().and_then(|number| number.parse::<RawFd>().ok());
    close(number.ok_or(io::ErrorKind::InvalidInput)?)?;
    Ok(file)
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The ranges that a subuid(5) file gives a user, by name or by number.
fn of_user(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':').map(str::trim);
            let owner = fields.next()?;
            let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let owns = (owner == name && !name.is_empty()) || owner == number;
            (owns && count > 0).then_some((start, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::of_user;

    #[test]
    fn ranges_go_by_name_or_number() {
        let text =
            "# none\nuser:100000:65536\n1000:300000:10\nother:1:2\nuser:x:1\nuser:5\nuser:7:0\n";
        assert_eq!(of_user(text, "user", 1000), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(of_user(text, "", 7), []);
    }
}
