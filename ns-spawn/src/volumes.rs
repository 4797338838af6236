//! Mounts that the user asks for: binds, tmpfs, devices, masks.

use crate::{
    attributes::restrict,
    cli::Cli,
    error::{Attempt as _, Error},
    mounts::{CLOSED, Filesystem, mask},
    plan::quote,
    rootfs::{Kind, attach, detach, find_within, mount_point_within, needs_root, old_kernel},
};
use nix::libc;
use rustix::{
    fd::{BorrowedFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags, fstat, openat},
    mount::MountAttrFlags,
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// One mount, and where it goes.
#[derive(Debug)]
pub(crate) struct Volume {
    target: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// What `source` is, opened. `device`: it is a device node and may be opened.
    Bind { source: OwnedFd, shown: PathBuf, kind: Kind, read_only: bool, device: bool },
    /// A tmpfs with these options.
    Tmpfs(Vec<(String, String)>),
    /// Nothing to be seen.
    Mask,
}

impl Volume {
    /// All that `cli` asks for: those inside others come after them.
    pub(crate) fn open_all(cli: &Cli) -> Result<Vec<Self>, Error> {
        let mut volumes = Vec::new();
        for (words, read_only) in [(&cli.bind, false), (&cli.ro_bind, true)] {
            for word in words {
                volumes.push(Self::bind(word, read_only, false)?);
            }
        }
        for word in &cli.device {
            volumes.push(Self::bind(word, false, true)?);
        }
        for word in &cli.tmpfs {
            volumes.push(Self::tmpfs(word)?);
        }
        for target in &cli.mask {
            let target = absolute(target)?;
            volumes.push(Self { target, content: Content::Mask });
        }
        volumes.sort_by(|a, b| a.target.cmp(&b.target));
        if let Some(twice) = volumes.windows(2).find(|pair| pair[0].target == pair[1].target) {
            let target = twice[0].target.display();
            return Err(Error::new(format!("two mounts are asked for on '{target}'")));
        }
        Ok(volumes)
    }

    fn bind(word: &OsStr, read_only: bool, device: bool) -> Result<Self, Error> {
        let (shown, target) = split(word);
        let target = absolute(&target)?;
        let attempt = || format!("cannot open '{}'", shown.display());
        let source =
            openat(CWD, &shown, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).attempt(attempt)?;
        let kind = FileType::from_raw_mode(fstat(&source).attempt(attempt)?.st_mode);
        let node = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if device != node {
            let is =
                if device { "is no device node" } else { "is a device node: --device takes it" };
            return Err(Error::new(format!("'{}' {is}", shown.display())));
        }
        let kind = if kind == FileType::Directory { Kind::Directory } else { Kind::File };
        Ok(Self { target, content: Content::Bind { source, shown, kind, read_only, device } })
    }

    fn tmpfs(word: &str) -> Result<Self, Error> {
        let (target, options) = word.split_once(':').unwrap_or((word, ""));
        let options = options.split(',').filter(|option| !option.is_empty()).map(|option| {
            match option.split_once('=') {
                Some((key @ ("size" | "mode" | "nr_inodes"), value)) => {
                    Ok((key.to_owned(), value.to_owned()))
                }
                _ => Err(Error::new(format!(
                    "'{option}' is no option of --tmpfs; it takes size=, mode= and nr_inodes="
                ))),
            }
        });
        let content = Content::Tmpfs(options.collect::<Result<_, _>>()?);
        Ok(Self { target: absolute(Path::new(target))?, content })
    }

    /// A copy of the source's mount, to be attached in the new mount namespace; None: it has no source.
    pub(crate) fn detach(&self, inside: bool) -> Result<Option<OwnedFd>, Error> {
        let Content::Bind { source, shown, .. } = &self.content else { return Ok(None) };
        let copy = detach(source, shown, true, inside);
        copy.map(Some).attempt(|| format!("cannot bind '{}'", shown.display())).map_err(needs_root)
    }

    /// Make what it goes on, where that is in the root directory itself and not in another of `all`.
    pub(crate) fn make_target(&self, all: &[Self], tree: BorrowedFd<'_>) -> Result<(), Error> {
        let kind = match &self.content {
            Content::Bind { kind, .. } => *kind,
            Content::Tmpfs(_) => Kind::Directory,
            Content::Mask => return Ok(()),
        };
        let ours = ["/proc", "/sys", "/dev"].map(Path::new);
        let inside = |other: &Path| other != self.target && self.target.starts_with(other);
        let elsewhere =
            all.iter().any(|other| inside(&other.target)) || ours.into_iter().any(inside);
        if elsewhere { Ok(()) } else { mount_point_within(tree, &self.target, kind).map(drop) }
    }

    /// Attach it inside `tree`. `copy` is what [`Self::detach`] gave, `dev` is the container's /dev, if it has one.
    pub(crate) fn mount(
        &self,
        copy: Option<&OwnedFd>,
        tree: BorrowedFd<'_>,
        dev: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let shown = self.target.display();
        match (&self.content, copy) {
            (Content::Bind { shown: source, kind, read_only, device, .. }, Some(copy)) => {
                let attempt = || format!("cannot bind '{}' on '{shown}'", source.display());
                attach(copy, mount_point_within(tree, &self.target, *kind)?).attempt(attempt)?;
                let read_only = if *read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
                let nodev = if *device { 0 } else { libc::MOUNT_ATTR_NODEV };
                // All the way down: a mount below a read-only one is no back door.
                restrict(copy, read_only | nodev).attempt(attempt).map_err(old_kernel)
            }
            (Content::Tmpfs(options), _) => {
                let options: Vec<_> =
                    options.iter().map(|(key, value)| (&**key, &**value)).collect();
                let target = mount_point_within(tree, &self.target, Kind::Directory)?;
                let name = self.target.to_string_lossy();
                tmpfs(&options, name.trim_start_matches('/')).mount(target).map(drop)
            }
            (Content::Mask, _) => match find_within(tree, &self.target)? {
                Some(target) => {
                    let dev = dev.ok_or_else(|| Error::new("there is no /dev/null"))?;
                    mask(target, &self.target.to_string_lossy(), dev)
                }
                None => Ok(()), // what is not there needs no hiding
            },
            (Content::Bind { .. }, None) => {
                Err(Error::new(format!("nothing was opened for '{shown}'")))
            }
        }
    }

    /// The commands that would do the same.
    pub(crate) fn shell(&self, root: &str) -> Vec<String> {
        let target = format!("{root}{}", quote(&self.target.to_string_lossy()));
        match &self.content {
            Content::Bind { shown, kind, read_only, device, .. } => {
                let make = if *kind == Kind::Directory { "mkdir -p" } else { "touch" };
                let options = match (read_only, device) {
                    (true, _) => "ro,nodev",
                    (false, true) => "rw",
                    (false, false) => "nodev",
                };
                let source = quote(&shown.to_string_lossy());
                vec![
                    format!("[ -e {target} ] || {make} {target}"),
                    format!("mount --rbind {source} {target}"),
                    format!("mount -o remount,bind,{options} {target}"),
                ]
            }
            Content::Tmpfs(options) => {
                let options: Vec<_> =
                    options.iter().map(|(key, value)| (&**key, &**value)).collect();
                vec![format!("mkdir -p {target}"), tmpfs(&options, "").shell(&target)]
            }
            Content::Mask => vec![format!(
                "if [ -d {target} ]; then mount -t tmpfs -o ro tmpfs {target}; else mount --bind \
                 /dev/null {target}; fi"
            )],
        }
    }
}

fn tmpfs<'a>(options: &'a [(&'a str, &'a str)], target: &'a str) -> Filesystem<'a> {
    let attributes = CLOSED.difference(MountAttrFlags::MOUNT_ATTR_NOEXEC);
    Filesystem { kind: "tmpfs", options, attributes, target }
}

/// `SRC[:DEST]`: DEST begins with a '/', so a ':' elsewhere is part of SRC.
fn split(word: &OsStr) -> (PathBuf, PathBuf) {
    let bytes = word.as_bytes();
    match bytes.windows(2).rposition(|pair| pair == b":/") {
        Some(at) => {
            let part = |part: &[u8]| PathBuf::from(OsString::from_vec(part.to_vec()));
            (part(&bytes[..at]), part(&bytes[at + 1..]))
        }
        None => (PathBuf::from(word), PathBuf::from(word)),
    }
}

fn absolute(target: &Path) -> Result<PathBuf, Error> {
    let shown = target.display();
    if !target.is_absolute() {
        return Err(Error::new(format!("mount point '{shown}' does not begin with '/'")));
    }
    if target.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Error::new(format!("mount point '{shown}' has '..' in it")));
    }
    let normal: PathBuf = target.components().collect();
    if normal == Path::new("/") {
        return Err(Error::new("nothing can be mounted on '/': --root says what is there"));
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_have_colons() {
        let cases = [
            ("/a", "/a", "/a"),
            ("/a:/b", "/a", "/b"),
            ("a:b:/c", "a:b", "/c"),
            ("/a:/b:/c", "/a:/b", "/c"),
            ("/a:b", "/a:b", "/a:b"),
        ];
        for (word, source, target) in cases {
            assert_eq!(split(OsStr::new(word)), (source.into(), target.into()), "{word}");
        }
    }

    #[test]
    fn mount_points_are_absolute_and_below_the_root() {
        assert_eq!(absolute(Path::new("/a//b/./c/")).unwrap(), Path::new("/a/b/c"));
        for refused in ["a", "/", "/a/../b", "//"] {
            assert!(absolute(Path::new(refused)).is_err(), "{refused}");
        }
    }
}
