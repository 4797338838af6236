//! The network namespace to join, and the files that belong to it.

use crate::{
    attributes::restrict,
    error::{Attempt as _, Error},
    rootfs::{Kind, attach, detach, leave_open, mount_point_within, needs_root, old_kernel},
    sys,
};
use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, setns},
    sys::statfs::fstatfs,
};
use rustix::{
    fd::{AsFd as _, BorrowedFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags, RawDir, openat},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};
use std::{
    ffi::OsStr,
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// A network namespace, opened.
#[derive(Debug)]
pub(crate) struct Netns {
    namespace: OwnedFd,
    /// As the user gave it.
    shown: String,
    /// Where it was opened.
    pub(crate) path: PathBuf,
    etc: Option<Etc>,
}

/// The directory /etc/netns/NAME.
#[derive(Debug)]
struct Etc {
    #[expect(dead_code, reason = "it is closed with all the others")]
    dir: OwnedFd,
    files: Vec<EtcFile>,
}

/// One file in it, opened.
#[derive(Debug)]
struct EtcFile {
    file: OwnedFd,
    source: PathBuf,
    target: PathBuf,
    kind: Kind,
}

/// `struct statfs.f_type` of namespace files: `NSFS_MAGIC` in linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

impl Netns {
    /// Open the namespace that `given` names, as ip-netns(8) does, or a path if it has a '/' in it.
    pub(crate) fn open(given: &OsStr) -> Result<Self, Error> {
        let shown = given.to_string_lossy().into_owned();
        let named = !given.as_encoded_bytes().contains(&b'/');
        if named && matches!(given.as_encoded_bytes(), b"" | b"." | b"..") {
            return Err(Error::new(format!("'{shown}' is no name of a network namespace")));
        }
        let path = if named { Path::new("/run/netns").join(given) } else { PathBuf::from(given) };
        let makes_it =
            format!("'netns-setup up {shown}' makes it; 'ip netns list' shows what exists");
        let namespace = openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .attempt(|| format!("cannot open network namespace '{shown}'"))
            .map_err(|err| if named { err.hint_on(Errno::ENOENT, makes_it) } else { err })?;
        let filesystem = fstatfs(&namespace)
            .attempt(|| format!("cannot look at network namespace '{shown}'"))?
            .filesystem_type();
        if filesystem.0 != NSFS_MAGIC {
            let error =
                Error::new(format!("'{}' is a file, not a network namespace", path.display()));
            return Err(if named {
                error.hint(format!("'netns-setup up {shown}' repairs it"))
            } else {
                error
            });
        }
        let etc = if named { Etc::open(&Path::new("/etc/netns").join(given))? } else { None };
        Ok(Self { namespace, shown, path, etc })
    }

    /// Enter it.
    pub(crate) fn join(&self) -> Result<(), Error> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET)
            .attempt(|| format!("cannot enter network namespace '{}'", self.shown))
            .map_err(needs_root)
            .map_err(|err| err.hint_on(Errno::EINVAL, "it is a namespace of another kind"))
    }

    /// Detached copies of its files' mounts, to be attached in the new mount namespace.
    pub(crate) fn detach_files(&self, inside: bool) -> Result<Vec<OwnedFd>, Error> {
        let copy = |file: &EtcFile| {
            detach(&file.file, &file.source, false, inside)
                .attempt(|| format!("cannot bind '{}'", file.source.display()))
        };
        self.etc_files().iter().map(copy).collect()
    }

    /// Attach those copies over the files of the same name in the rootfs's /etc.
    pub(crate) fn attach_files(
        &self,
        copies: &[OwnedFd],
        tree: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        for (file, copy) in self.etc_files().iter().zip(copies) {
            let target = mount_point_within(tree, &file.target, file.kind)?;
            // They are the host's: inside they are only read.
            let closed = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
            let attempt = || {
                format!("cannot bind '{}' on '{}'", file.source.display(), file.target.display())
            };
            attach(copy, leave_open(target)).attempt(attempt)?;
            restrict(copy, closed).attempt(attempt).map_err(old_kernel)?;
        }
        Ok(())
    }

    fn etc_files(&self) -> &[EtcFile] {
        self.etc.as_ref().map_or(&[], |etc| &etc.files)
    }

    /// Pairs of source and target, for showing.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.etc_files().iter().map(|file| (file.source.as_path(), file.target.as_path()))
    }
}

impl Etc {
    fn open(path: &Path) -> Result<Option<Self>, Error> {
        let attempt = || format!("cannot read '{}'", path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match openat(CWD, path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            opened => opened.attempt(attempt)?,
        };
        let mut files = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let mut entries = RawDir::new(&dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.attempt(attempt)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            let source = path.join(name);
            let attempt = || format!("cannot open '{}'", source.display());
            let file = openat(&dir, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .attempt(attempt)?;
            let kind = match entry.file_type() {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                _ => Kind::of(&file).attempt(attempt)?, // a link leads to it, or the file system does not tell
            };
            let target = Path::new("/etc").join(name);
            files.push(EtcFile { file, source, target, kind });
        }
        files.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(Some(Self { dir, files }))
    }
}

/// Bring up `lo` in the current network namespace.
pub(crate) fn raise_loopback() -> Result<(), Error> {
    let attempt = || "cannot bring up 'lo' in the new network namespace".to_owned();
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .attempt(attempt)?;
    sys::raise_loopback(socket.as_fd()).attempt(attempt)
}
