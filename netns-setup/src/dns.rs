//! /etc/netns/NAME/resolv.conf: the resolvers of the namespace, where ip-netns(8) and ns-spawn look.

use crate::{
    error::{Attempt as _, Error},
    netns,
};
use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Where iproute2 looks for the files of a namespace, one directory each.
pub(crate) const DIR: &str = "/etc/netns";
const HOST: &str = "/etc/resolv.conf";
/// The resolvers behind the stub on 127.0.0.53, see systemd-resolved(8).
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// In the first line: the directory of the namespace was there before, and stays.
const ADOPTED: &str = " adopted";
/// In the first line: /etc/netns was not there before the first of ours came.
const FIRST: &str = " first";

/// What the namespace shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resolvers {
    /// The host's.
    Host,
    /// No file.
    None,
    /// These.
    Given(Vec<IpAddr>),
}

/// The file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum File {
    /// None.
    Absent,
    /// Made by us; empty where a run was killed before it was finished.
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
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            let remains = unfinished(netns).exists() || unfinished_dir(netns).exists();
            Ok(if remains { File::Ours(String::new()) } else { File::Absent })
        }
        Err(err) if err.kind() == io::ErrorKind::InvalidData => Ok(File::Strange),
        Ok(text) if words(&text, netns).is_some() => Ok(File::Ours(text)),
        Ok(_) => Ok(File::Strange),
        Err(err) => Err(err).attempt(|| format!("cannot read '{}'", path.display())),
    }
}

/// The names for which there is a file of ours, or what a killed run left of one.
pub(crate) fn list() -> Result<Vec<String>, Error> {
    let mut names = vec![];
    for entry in netns::entries(DIR)? {
        let name = entry.strip_prefix('.').and_then(|name| name.strip_suffix(".netns-setup"));
        let name = name.unwrap_or(&entry);
        if matches!(look(name)?, File::Ours(_)) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The lines that the file shall have. None where all of the host's resolvers are on loopback: the
/// namespace has a loopback of its own, on which nobody listens.
pub(crate) fn lines(wanted: &Resolvers) -> Result<Option<String>, Error> {
    let nameserver = |ip: &IpAddr| format!("nameserver {ip}\n");
    Ok(match wanted {
        Resolvers::None => None,
        Resolvers::Given(ips) => Some(ips.iter().map(nameserver).collect()),
        Resolvers::Host => match reachable(&read(HOST)?) {
            None => reachable(&read(RESOLVED)?),
            found => found,
        },
    })
}

/// The file with `lines`: its first line says whose it is, and what `delete` may take along.
pub(crate) fn text(netns: &str, lines: &str) -> Result<String, Error> {
    let adopted = if dir(netns).exists() { ADOPTED } else { "" };
    let first = !Path::new(DIR).exists() || said_first()?;
    let first = if first { FIRST } else { "" };
    Ok(format!("{}{adopted}{first}\n{lines}", first_line(netns)))
}

/// Whether the files of ours that are there say so; what one of them says all do.
fn said_first() -> Result<bool, Error> {
    let attempt = || format!("cannot read '{DIR}'");
    // Not all names before the first: there may be a thousand.
    for entry in fs::read_dir(DIR).attempt(attempt)? {
        let name = entry.attempt(attempt)?.file_name().to_string_lossy().into_owned();
        if let Some(words) = words(&read(path(&name))?, &name) {
            return Ok(words.contains(FIRST));
        }
    }
    Ok(false)
}

/// What the file says to a resolver.
pub(crate) fn body(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, lines)| lines)
}

/// Make the file, or put back what there was of it. It appears whole, by a rename, and with its
/// directory: a directory of the namespace that has no file of ours is someone else's.
pub(crate) fn write(netns: &str, text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return delete(netns);
    }
    let _lock = netns::lock_dir()?;
    let first = !Path::new(DIR).exists();
    let done = put(netns, text);
    if done.is_err() {
        // The failure is told already; what cannot be removed now, the next run removes.
        drop(fs::remove_file(unfinished(netns)));
        drop(fs::remove_dir_all(unfinished_dir(netns)));
        if first {
            drop(fs::remove_dir(DIR));
        }
    }
    done.attempt(|| format!("cannot write '{}'", path(netns).display()))
}

fn put(netns: &str, text: &str) -> io::Result<()> {
    if dir(netns).exists() {
        fs::write(unfinished(netns), text)?;
        return fs::rename(unfinished(netns), path(netns));
    }
    let staged = unfinished_dir(netns);
    fs::create_dir_all(&staged)?;
    fs::write(staged.join("resolv.conf"), text)?;
    fs::rename(staged, dir(netns))
}

/// Remove the file, what a killed run left of it, and the directories that were made for it where nothing
/// else is in them.
pub(crate) fn delete(netns: &str) -> Result<(), Error> {
    let _lock = netns::lock_dir()?;
    let text = read(path(netns))?;
    for path in [path(netns), unfinished(netns), unfinished_dir(netns).join("resolv.conf")] {
        unless_absent(fs::remove_file(&path))
            .attempt(|| format!("cannot remove '{}'", path.display()))?;
    }
    for dir in [unfinished_dir(netns)].into_iter().chain(made_dirs(netns, &text)) {
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

/// The directories that were made for the file with `text`.
fn made_dirs(netns: &str, text: &str) -> Vec<PathBuf> {
    let Some(words) = words(text, netns) else { return vec![] };
    let made = (!words.contains(ADOPTED)).then(|| dir(netns));
    made.into_iter().chain(words.contains(FIRST).then(|| DIR.into())).collect()
}

/// What `delete` does, in shell.
pub(crate) fn delete_text(netns: &str, text: &str) -> String {
    let rmdir = |dir: PathBuf| format!("rmdir --ignore-fail-on-non-empty {}", dir.display());
    let dirs = made_dirs(netns, text).into_iter().map(rmdir);
    let remove = format!("rm -f {}", path(netns).display());
    std::iter::once(remove).chain(dirs).collect::<Vec<_>>().join(" && ")
}

fn unless_absent(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|err| if err.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(err) })
}

fn unfinished(netns: &str) -> PathBuf {
    dir(netns).join(".resolv.conf.netns-setup")
}

/// Takes the place of `dir`, with the file in it.
fn unfinished_dir(netns: &str) -> PathBuf {
    Path::new(DIR).join(format!(".{netns}.netns-setup"))
}

fn first_line(netns: &str) -> String {
    format!("# netns-setup:{netns}")
}

/// What stands in the first line after our mark. None: the file is not ours.
fn words<'a>(text: &'a str, netns: &str) -> Option<&'a str> {
    let words = text.lines().next()?.strip_prefix(&first_line(netns))?;
    ["", ADOPTED, FIRST, " adopted first"].contains(&words).then_some(words)
}

fn read(path: impl AsRef<Path>) -> Result<String, Error> {
    let path = path.as_ref();
    match fs::read_to_string(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.attempt(|| format!("cannot read '{}'", path.display())),
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
    fn the_first_line_says_whose_the_file_is() {
        assert_eq!(
            words("# netns-setup:demo adopted\nnameserver 192.0.2.1\n", "demo"),
            Some(ADOPTED)
        );
        assert_eq!(words("# netns-setup:demo\n", "demo"), Some(""));
        assert_eq!(words("# netns-setup:demo2\n", "demo"), None);
        assert_eq!(words("", "demo"), None);
    }

    #[test]
    fn without_a_resolver_nothing_is_written() {
        assert_eq!(reachable("search lan\nnameserver 127.0.0.1\n"), None);
        assert_eq!(reachable(""), None);
    }
}
