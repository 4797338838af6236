//! The root directory: opened once, looked into by descriptor only, attached, switched to.

use crate::{
    attributes::restrict,
    error::{Attempt as _, Error},
};
use nix::{
    errno::Errno,
    libc,
    mount::{MntFlags, umount2},
    unistd::pivot_root,
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2},
    io::Result as SysResult,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    process::fchdir,
};
use std::{
    fs::File,
    path::{Component, Path, PathBuf},
};

/// The directory that becomes '/', as it was when the plan was made.
#[derive(Debug)]
pub(crate) struct Rootfs {
    dir: OwnedFd,
    path: PathBuf,
}

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

impl Kind {
    /// That of what is open as `fd`.
    pub(crate) fn of(fd: impl AsFd) -> SysResult<Self> {
        let mode = fstat(fd)?.st_mode;
        let directory = FileType::from_raw_mode(mode) == FileType::Directory;
        Ok(if directory { Self::Directory } else { Self::File })
    }
}

impl Rootfs {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let shown = path.display();
        let dir =
            openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .attempt(|| format!("cannot open root directory '{shown}'"))
                .map_err(|err| {
                    err.hint_on(Errno::ENOENT, format!("'rootfs-fetch {shown}' makes one"))
                })?;
        Ok(Self { dir, path: path.to_path_buf() })
    }

    /// The path as the user gave it.
    pub(crate) fn shown(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Open a regular file for reading. Links lead to where they would inside the rootfs. The number is its size in bytes.
    pub(crate) fn open_file(&self, path: &str) -> Result<Option<(File, usize)>, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let shown = || format!("cannot open '{}/{path}'", self.shown());
        let file = match openat2(&self.dir, path, flags, Mode::empty(), resolve) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(err) => return Err(err).attempt(shown).map_err(old_kernel),
        };
        let stat = fstat(&file).attempt(shown)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(regular.then(|| (file.into(), usize::try_from(stat.st_size).unwrap_or(usize::MAX))))
    }

    /// A copy of the directory's mount, and of all below it, attached nowhere yet.
    pub(crate) fn detach(&self, inside: bool) -> Result<OwnedFd, Error> {
        detach(&self.dir, &self.path, true, inside)
            .attempt(|| format!("cannot bind root directory '{}'", self.shown()))
            .map_err(needs_root)
            .map_err(old_kernel)
    }
}

/// A detached copy of the mount at `at`; `recursive`: with those below it.
///
/// It has to be made before the mount namespace is: the kernel copies only mounts of the caller's own one.
pub(crate) fn detached_copy(at: impl AsFd, recursive: bool) -> SysResult<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let recursive = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    open_tree(at, "", flags | recursive)
}

/// A detached copy of what is open as `source`, once found at `path`.
///
/// `inside`: by a process in the new mount namespace already, as it has to be done in a new user namespace. It
/// opens the path again, and sees that it is the same.
pub(crate) fn detach(
    source: &OwnedFd,
    path: &Path,
    recursive: bool,
    inside: bool,
) -> SysResult<OwnedFd> {
    if !inside {
        return detached_copy(source, recursive);
    }
    let again = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (first, second) = (fstat(source)?, fstat(&again)?);
    if (first.st_dev, first.st_ino) != (second.st_dev, second.st_ino) {
        return Err(rustix::io::Errno::STALE);
    }
    detached_copy(again, recursive)
}

/// Let `fd` be open as long as this process is, init or COMMAND before its exec: both get rid of all that they do
/// not need with one call.
pub(crate) fn leave_open(fd: OwnedFd) -> BorrowedFd<'static> {
    let fd: &'static OwnedFd = Box::leak(Box::new(fd));
    fd.as_fd()
}

/// Attach the detached mount `mount` at `target`, a descriptor and not a path: nothing can be swapped in between.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> SysResult<()> {
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", empty)
}

/// Attach the detached mount `mount` at the directory `name`, directly below `tree`, and make that when it is missing.
///
/// A link is refused: the mount would land elsewhere (CVE-2019-19921, CVE-2026-41579).
pub(crate) fn attach_in(tree: BorrowedFd<'_>, name: &str, mount: impl AsFd) -> Result<(), Error> {
    let mount = mount.as_fd();
    // Without MOVE_MOUNT_T_SYMLINKS it follows none, and a directory goes only on a directory.
    if move_mount(mount, "", tree, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).is_ok() {
        return Ok(());
    }
    let target = mount_point(tree, name)?;
    attach(mount, target).attempt(|| format!("cannot mount on '/{name}'"))
}

/// Attach `tree` over this mount namespace's '/'. `devices`: nodes in it may be opened.
///
/// There, since `pivot_root(2)` wants a mount point below the old root, and '/' is the one path that
/// certainly leads to the same place in the new mount namespace as before.
pub(crate) fn attach_root(tree: BorrowedFd<'_>, devices: bool) -> Result<(), Error> {
    move_mount(tree, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .attempt(|| "cannot attach the root directory".into())?;
    restrict(tree, if devices { 0 } else { libc::MOUNT_ATTR_NODEV })
        .attempt(|| "cannot set the attributes of the root directory".into())
        .map_err(old_kernel)
}

/// Make `tree`, attached before, the root directory of this mount namespace and let go of the old one.
pub(crate) fn switch_root(tree: BorrowedFd<'_>) -> Result<(), Error> {
    fchdir(tree).attempt(|| "cannot enter the root directory".into())?;
    // "." for both stacks the old root on the new one: no directory for it has to be made
    // inside DIR, and so none can be left behind there.
    pivot_root(".", ".").attempt(|| "cannot make DIR the root directory".into()).map_err(
        |err| err.hint_on(Errno::EINVAL, "pivot_root(2) does not work from an initramfs"),
    )?;
    umount2(".", MntFlags::MNT_DETACH).attempt(|| "cannot detach the old root".into())?;
    // Were anything still mounted over '/', '/..' would lead there, to another mount.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, "/..", flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        Err(rustix::io::Errno::XDEV) => {
            Err(Error::new("the old root is still mounted over the new one"))
        }
        opened => opened.map(leave_open).map(drop).attempt(|| "cannot look at the new root".into()),
    }
}

/// Open a directory that is to be mounted on, directly below `tree`, and make it when it is missing.
///
/// A link is refused: the mounts would land elsewhere (CVE-2019-19921, CVE-2026-41579).
pub(crate) fn mount_point(tree: BorrowedFd<'_>, name: &str) -> Result<BorrowedFd<'static>, Error> {
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(tree, name, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH)
    };
    let opened = match open() {
        Err(rustix::io::Errno::NOENT) => {
            mkdirat(tree, name, Mode::from_raw_mode(0o755)).and_then(|()| open())
        }
        other => other,
    };
    opened
        .map(leave_open)
        .attempt(|| format!("cannot mount on '/{name}'"))
        .map_err(|err| err.hint_on(Errno::ELOOP, "it must be a directory and is a symbolic link"))
        .map_err(|err| err.hint_on(Errno::EROFS, format!("make the directory '{name}' in DIR")))
        .map_err(old_kernel)
}

/// Open what `path` names inside `tree`, to be mounted on, and make it, with its parents, when it is missing.
///
/// Links lead to where they would inside: absolute ones too, and never out of `tree`.
pub(crate) fn mount_point_within(
    tree: BorrowedFd<'_>,
    path: &Path,
    kind: Kind,
) -> Result<OwnedFd, Error> {
    resolve_or_make(tree, path, kind, 0).attempt(|| format!("cannot mount on '{}'", path.display()))
}

/// Open what `path` names inside `tree`, if it is there.
pub(crate) fn find_within(tree: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Error> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(tree, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT) => Ok(None),
        found => found.map(Some).attempt(|| format!("cannot open '{}'", path.display())),
    }
}

/// As many links as the kernel follows: `path_resolution(7)`.
const LINKS: u32 = 40;

fn resolve_or_make(
    tree: BorrowedFd<'_>,
    path: &Path,
    kind: Kind,
    links: u32,
) -> SysResult<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let look = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(tree, path, look, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT) if links < LINKS => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(rustix::io::Errno::INVAL);
    };
    let parent = resolve_or_make(tree, parent, Kind::Directory, links + 1)?;
    match rustix::fs::readlinkat(&parent, name, Vec::new()) {
        // A link to nowhere: make what it points to. A relative one counts from where the link is.
        Ok(target) => {
            let target: &std::ffi::OsStr =
                std::os::unix::ffi::OsStrExt::from_bytes(target.to_bytes());
            let base = path.parent().unwrap_or(Path::new("/"));
            return resolve_or_make(tree, &within(base, Path::new(target)), kind, links + 1);
        }
        Err(rustix::io::Errno::NOENT) => {}
        Err(err) => return Err(err),
    }
    match kind {
        Kind::Directory => mkdirat(&parent, name, Mode::from_raw_mode(0o755))?,
        Kind::File => {
            let make = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            drop(openat(&parent, name, make, Mode::from_raw_mode(0o644))?);
        }
    }
    let directory = if kind == Kind::Directory { OFlags::DIRECTORY } else { OFlags::empty() };
    openat(&parent, name, look | directory | OFlags::NOFOLLOW, Mode::empty())
}

/// `target` as seen from the directory `base`, with no `..` left and so nothing outside.
fn within(base: &Path, target: &Path) -> PathBuf {
    let mut parts = Vec::new();
    for component in base.join(target).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Path::new("/").join(parts.iter().collect::<PathBuf>())
}

/// Add the hint for EPERM.
pub(crate) fn needs_root(err: Error) -> Error {
    err.hint_on(Errno::EPERM, "run as root, or with CAP_SYS_ADMIN")
}

/// Add the hint for a kernel without the calls that mounting by descriptor needs.
pub(crate) fn old_kernel(err: Error) -> Error {
    err.hint_on(Errno::ENOSYS, "it takes Linux 5.12, or 5.8 and no other mounts below")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        let cases = [
            ("/etc", "../run/x", "/run/x"),
            ("/etc", "/run/x", "/run/x"),
            ("/etc", "x", "/etc/x"),
            ("/", "../../../x", "/x"),
            ("/a/b", "./../c", "/a/c"),
        ];
        for (base, target, expected) in cases {
            assert_eq!(within(Path::new(base), Path::new(target)), Path::new(expected));
        }
    }

    #[test]
    fn a_missing_mount_point_is_made_where_its_link_leads() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(
            "../run/systemd/resolv.conf",
            dir.path().join("etc/resolv.conf"),
        )
        .unwrap();
        std::os::unix::fs::symlink("/../../../elsewhere", dir.path().join("out")).unwrap();
        let rootfs = Rootfs::open(dir.path()).unwrap();
        let make = |path: &str, kind| mount_point_within(rootfs.dir.as_fd(), Path::new(path), kind);
        make("/etc/resolv.conf", Kind::File).unwrap();
        make("/out/new/dir", Kind::Directory).unwrap();
        assert!(dir.path().join("run/systemd/resolv.conf").is_file());
        assert!(dir.path().join("elsewhere/new/dir").is_dir());
    }

    #[test]
    fn a_link_that_leads_to_itself_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        let rootfs = Rootfs::open(dir.path()).unwrap();
        let refused = mount_point_within(rootfs.dir.as_fd(), Path::new("/loop/x"), Kind::File);
        assert_eq!(refused.unwrap_err().errno(), Some(Errno::ELOOP));
    }
}
