//! /etc/netns/NAME/resolv.conf: the resolvers of the namespace, where ip-netns(8) and ns-spawn look.

use crate::error::{Attempt as _, Error};
use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

const DIR: &str = "/etc/netns";
const HOST: &str = "/etc/resolv.conf";
/// The resolvers behind the stub on 127.0.0.53, see systemd-resolved(8).
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What the namespace shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resolvers {
    /// The host's.
    Host,
    /// No file.
    None,
    /// This one.
    Given(IpAddr),
}

/// The file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum File {
    /// None.
    Absent,
    /// Made by us.
    Ours(String),
    /// Someone else's.
    Strange,
}

/// The directory of `netns`.
pub(crate) fn dir(netns: &str) -> PathBuf {
    Path::new(DIR).join(netns)
}

/// Where the file of `netns` is.
pub(crate) fn path(netns: &str) -> PathBuf {
    dir(netns).join("resolv.conf")
}

/// See whose file is there.
pub(crate) fn look(netns: &str) -> Result<File, Error> {
    let path = path(netns);
    match fs::read_to_string(&path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(look_for_remains(netns)),
        Err(err) if err.kind() == io::ErrorKind::InvalidData => Ok(File::Strange),
        Ok(text) if text.lines().next() == Some(&first_line(netns)) => Ok(File::Ours(text)),
        Ok(_) => Ok(File::Strange),
        Err(err) => Err(err).attempt(|| format!("cannot read '{}'", path.display())),
    }
}

/// A run that was killed leaves an unfinished file, or a directory without one.
fn look_for_remains(netns: &str) -> File {
    let empty = fs::read_dir(dir(netns)).is_ok_and(|mut entries| entries.next().is_none());
    if empty || unfinished(netns).exists() { File::Ours(String::new()) } else { File::Absent }
}

/// The text that the file shall have. None where all of the host's resolvers are on loopback: the
/// namespace has a loopback of its own, on which nobody listens.
pub(crate) fn text(netns: &str, wanted: &Resolvers) -> Result<Option<String>, Error> {
    let lines = match wanted {
        Resolvers::None => None,
        Resolvers::Given(ip) => Some(format!("nameserver {ip}\n")),
        Resolvers::Host => match reachable(&read(HOST)?) {
            None => reachable(&read(RESOLVED)?),
            found => found,
        },
    };
    Ok(lines.map(|lines| format!("{}\n{lines}", first_line(netns))))
}

/// Write the file. It appears whole: by its new name first, then renamed.
pub(crate) fn write(netns: &str, text: &str) -> Result<(), Error> {
    let path = path(netns);
    let attempt = || format!("cannot write '{}'", path.display());
    fs::create_dir_all(dir(netns)).attempt(attempt)?;
    fs::write(unfinished(netns), text).attempt(attempt)?;
    fs::rename(unfinished(netns), &path).attempt(attempt)
}

/// Remove the file, what a killed run left of it, and the directories where nothing else is in them.
pub(crate) fn delete(netns: &str) -> Result<(), Error> {
    for path in [path(netns), unfinished(netns)] {
        unless_absent(fs::remove_file(&path))
            .attempt(|| format!("cannot remove '{}'", path.display()))?;
    }
    for dir in [dir(netns), DIR.into()] {
        match fs::remove_dir(&dir) {
            Err(err) if err.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy => {} // mounted on
            done => {
                unless_absent(done).attempt(|| format!("cannot remove '{}'", dir.display()))?;
            }
        }
    }
    Ok(())
}

fn unless_absent(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|err| if err.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(err) })
}

fn unfinished(netns: &str) -> PathBuf {
    dir(netns).join(".resolv.conf.netns-setup")
}

fn first_line(netns: &str) -> String {
    format!("# netns-setup:{netns}")
}

fn read(path: &str) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.attempt(|| format!("cannot read '{path}'")),
    }
}

/// The lines that mean something in the namespace, see resolv.conf(5); none without a resolver.
fn reachable(resolv_conf: &str) -> Option<String> {
    let resolver = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next().unwrap_or_default().to_owned())
    };
    // A link-local resolver (fe80::1%eth0) is on a link that the namespace does not have.
    let far = |ip: String| ip.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback());
    let keep = |line: &&str| match resolver(line) {
        Some(ip) => far(ip),
        None => ["search ", "domain ", "options "].iter().any(|word| line.starts_with(word)),
    };
    let lines: Vec<&str> = resolv_conf.lines().filter(keep).collect();
    let any = lines.iter().any(|line| resolver(line).is_some());
    any.then(|| lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_resolvers_are_left_out() {
        let conf = "# stub\nsearch lan\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n\
                    nameserver ::1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\noptions edns0\n";
        let kept = "search lan\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions edns0\n";
        assert_eq!(reachable(conf), Some(kept.into()));
    }

    #[test]
    fn without_a_resolver_nothing_is_written() {
        assert_eq!(reachable("search lan\nnameserver 127.0.0.1\n"), None);
        assert_eq!(reachable(""), None);
    }
}
