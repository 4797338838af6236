//! Without root: a user namespace, and which of the host's IDs are whose inside.

use crate::{
    check,
    cli::Cli,
    error::{Attempt as _, Error},
    sys,
};
use nix::{
    errno::Errno,
    unistd::{getegid, setgroups},
};
use std::{
    fs, io,
    process::{Command, Stdio},
};

/// A user namespace as it will be: root inside is the caller outside.
#[derive(Debug)]
pub(crate) struct Userns {
    uid: u32,
    gid: u32,
    /// The caller's other IDs, start and number, as /etc/subuid and /etc/subgid give them; or why there are none.
    others: Result<Ranges, String>,
}

/// Start and number of each range: of users, and of groups.
type Ranges = [Vec<(u32, u32)>; 2];

/// Where the ranges are, and who may map them.
const KINDS: [(&str, &str); 2] = [("/etc/subuid", "newuidmap"), ("/etc/subgid", "newgidmap")];

impl Userns {
    /// One is made when it is asked for, and when the caller is not root.
    pub(crate) fn plan(cli: &Cli) -> Result<Option<Self>, Error> {
        let uid = sys::effective_uid();
        if !cli.userns && uid == 0 {
            return Ok(None);
        }
        let others = ranges_of(uid)?.map_err(|(lost, _)| lost);
        Ok(Some(Self { uid, gid: getegid().as_raw(), others }))
    }

    /// Whether only one ID exists inside: then groups cannot be dropped, and others' files cannot be made.
    pub(crate) fn has_one_id(&self) -> bool {
        self.others.is_err()
    }

    /// Leave root's groups before the clone, where nobody inside can: nothing else keeps their rights out.
    pub(crate) fn leave_groups(&self) -> Result<(), Error> {
        if self.uid != 0 || !self.has_one_id() {
            return Ok(()); // inside, or not at all: user_namespaces(7) says why
        }
        match setgroups(&[]) {
            Err(Errno::EPERM) => Ok(()), // it is root of a user namespace itself, and so no better than a user
            done => done.attempt(|| "cannot drop the supplementary groups".into()),
        }
    }

    /// Map the IDs of the new namespace of process `pid`. Gives what had to be left out, to be told.
    pub(crate) fn map(&self, pid: i32) -> Result<Option<String>, Error> {
        match &self.others {
            Ok(ranges) => map_ranges(ranges, [self.uid, self.gid], pid).map(|()| None),
            Err(lost) => {
                self.map_one(pid)?;
                Ok(Some(format!(
                    "only root exists inside, as there are no other users for it: {lost}"
                )))
            }
        }
    }

    fn map_one(&self, pid: i32) -> Result<(), Error> {
        // Without the first an ordinary user may not do the third: user_namespaces(7).
        let writes = [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {} 1", self.uid)),
            ("gid_map", format!("0 {} 1", self.gid)),
        ];
        for (name, text) in writes {
            fs::write(format!("/proc/{pid}/{name}"), text)
                .attempt(|| "cannot map the user of the container".into())
                .map_err(check::explain_userns)?;
        }
        Ok(())
    }
}

/// The IDs that a user of the host may map besides its own, users and groups; or why there are none, and what helps.
pub(crate) fn ranges_of(uid: u32) -> Result<Result<Ranges, (String, String)>, Error> {
    let name = name_of(uid);
    let mut ranges = [Vec::new(), Vec::new()];
    let mut lost = None;
    for (ranges, (file, program)) in ranges.iter_mut().zip(KINDS) {
        *ranges = match fs::read_to_string(file) {
            Ok(text) => of_user(&text, &name, uid),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(err) => return Err(err).attempt(|| format!("cannot read '{file}'")),
        };
        if ranges.is_empty() {
            let user = if name.is_empty() { "USER" } else { &name };
            let help = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535";
            lost.get_or_insert((format!("{file} gives user {uid} none"), format!("{help} {user}")));
        } else if !is_installed(program) {
            let help = "apt-get install uidmap, or what has it elsewhere";
            lost.get_or_insert((format!("{program} is not installed"), help.into()));
        }
    }
    Ok(lost.map_or(Ok(ranges), Err))
}

/// Let newuidmap(1) and newgidmap(1), which may, write the maps.
fn map_ranges(ranges: &Ranges, own: [u32; 2], pid: i32) -> Result<(), Error> {
    for ((ranges, own), (_, program)) in ranges.iter().zip(own).zip(KINDS) {
        let mut arguments = vec![pid.to_string(), "0".into(), own.to_string(), "1".into()];
        let mut inside = 1_u32;
        for (start, number) in ranges {
            arguments.extend([inside.to_string(), start.to_string(), number.to_string()]);
            inside = inside.saturating_add(*number);
        }
        let ended = Command::new(program)
            .args(&arguments)
            .stdin(Stdio::null())
            .output()
            .attempt(|| format!("cannot run '{program}'"))?;
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr).trim().replace('\n', "; ");
            let arguments = arguments.join(" ");
            let error = Error::new(format!("'{program} {arguments}' failed: {said}"));
            return Err(error);
        }
    }
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The name of the host's user `uid`, or nothing if it has none.
///
/// Asked of getent(1): it may come from a directory service, and the C library would load that as a shared library,
/// which does not go with a program that is linked statically.
fn name_of(uid: u32) -> String {
    let asked = Command::new("getent").args(["passwd", &uid.to_string()]).output();
    let line = asked.map(|output| output.stdout).unwrap_or_default();
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// The ranges that a subuid(5) file gives a user, by name or by number.
fn of_user(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let owner = fields.next()?;
            let (start, count) =
                (fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?);
            let owns = (owner == name && !name.is_empty()) || owner == number;
            (owns && count > 0).then_some((start, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_go_by_name_or_number() {
        let text =
            "# none\nuser:100000:65536\n1000:300000:10\nother:1:2\nuser:x:1\nuser:5\nuser:7:0\n";
        assert_eq!(of_user(text, "user", 1000), [(100_000, 65536), (300_000, 10)]);
        assert_eq!(of_user(text, "", 7), []);
    }
}
