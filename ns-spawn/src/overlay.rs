//! DIR left as it is: an overlayfs over it takes the changes.

use crate::{
    error::{Attempt as _, Error},
    mounts::{CLOSED, Filesystem},
    rootfs::{attach, detach, needs_root},
};
use nix::mount::{MntFlags, umount2};
use rustix::{
    fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    fs::{CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, mkdirat, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen,
    },
    process::fchdir,
};
use std::path::{Path, PathBuf};

/// Where changes go.
#[derive(Debug)]
pub(crate) enum Overlay {
    /// To a tmpfs that ends with the container.
    Memory,
    /// To the directories `upper` and `work` in this one.
    Directory(OwnedFd, PathBuf),
}

impl Overlay {
    pub(crate) fn open(upper: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = upper else { return Ok(Self::Memory) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, path, flags, Mode::empty())
            .attempt(|| format!("cannot open overlay directory '{}'", path.display()))?;
        Ok(Self::Directory(dir, path.to_path_buf()))
    }

    /// A file system for the changes, attached nowhere yet: a copy of the directory's mount, or a new tmpfs.
    pub(crate) fn detach(&self, inside: bool) -> Result<OwnedFd, Error> {
        match self {
            Self::Memory => Filesystem {
                kind: "tmpfs",
                options: &[("mode", "700")],
                attributes: CLOSED.difference(MountAttrFlags::MOUNT_ATTR_NOEXEC),
                target: "(overlay)",
            }
            .make(),
            Self::Directory(dir, path) => detach(dir, path, false, inside)
                .attempt(|| format!("cannot bind overlay directory '{}'", path.display()))
                .map_err(needs_root),
        }
    }

    /// The commands that would do the same, to have it at `root`.
    pub(crate) fn shell(&self, root: &str) -> Vec<String> {
        let (base, make) = match self {
            Self::Memory => {
                ("/tmp".to_owned(), vec!["mount -t tmpfs -o mode=700 tmpfs /tmp".to_owned()])
            }
            Self::Directory(_, path) => (crate::plan::quote(&path.to_string_lossy()), vec![]),
        };
        let options = format!("nodev,lowerdir={root},upperdir={base}/upper,workdir={base}/work");
        make.into_iter()
            .chain([
                format!("mkdir -p {base}/upper {base}/work"),
                format!("mount -t overlay -o {options} overlay {root}"),
            ])
            .collect()
    }
}

/// Lay one over `tree`, which is attached, with the changes in `changes`, which is not. The result is the
/// overlay's mount, to be attached. `user`: in a user namespace.
///
/// overlayfs takes its directories by path only: /proc/self/fd gives each descriptor one that leads nowhere
/// else. It wants them in this mount namespace: so `changes` goes over `tree`, where nobody looks.
pub(crate) fn lay(tree: BorrowedFd<'_>, changes: &OwnedFd, user: bool) -> Result<OwnedFd, Error> {
    let attempt = || "cannot lay an overlay over the root directory".to_owned();
    attach(changes, tree).attempt(attempt)?;
    for name in ["upper", "work"] {
        match mkdirat(changes, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {}
            made => made.attempt(attempt)?,
        }
    }
    // The overlay's own root directory is upper's.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let upper = openat(changes, "upper", flags, Mode::empty()).attempt(attempt)?;
    let stat = fstat(tree).attempt(attempt)?;
    fchown(&upper, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
        .attempt(attempt)?;
    fchmod(&upper, Mode::from_raw_mode(stat.st_mode)).attempt(attempt)?;

    let by_descriptor = |fd: BorrowedFd<'_>| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let base = by_descriptor(changes.as_fd());
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).attempt(attempt)?;
    let options = [
        ("lowerdir", by_descriptor(tree)),
        ("upperdir", format!("{base}/upper")),
        ("workdir", format!("{base}/work")),
    ];
    for (key, value) in &options {
        fsconfig_set_string(&context, *key, value.as_str()).attempt(attempt)?;
    }
    if user {
        // The other attributes are for the host's root only.
        fsconfig_set_flag(&context, "userxattr").attempt(attempt)?;
    }
    fsconfig_create(&context).attempt(attempt).map_err(|err| {
        let advice = "in a user namespace it takes Linux 5.11";
        if user { err.hint_on(nix::errno::Errno::EPERM, advice) } else { err }
    })?;
    let overlay = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .attempt(attempt)?;
    // It has them now. What stays on '/' would stay on the old root, and keep it: see `switch_root`.
    for below in [changes.as_fd(), tree] {
        fchdir(below).attempt(attempt)?;
        umount2(".", MntFlags::MNT_DETACH).attempt(attempt)?;
    }
    Ok(overlay)
}
