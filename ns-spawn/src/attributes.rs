//! What a mount does not allow: writing, devices, set-user-ID programs.

use crate::sys;
use nix::{
    errno::Errno,
    libc,
    mount::{MsFlags, mount},
    sys::statvfs::{FsFlags, fstatvfs},
};
use rustix::{
    fd::{AsFd, AsRawFd as _, BorrowedFd},
    fs::{AtFlags, StatxFlags, statx},
};
use std::fs;

/// Attributes as `mount_setattr(2)` and as mount(2) have them, and how the latter finds them set.
const NAMES: [(u64, MsFlags, FsFlags); 5] = [
    (libc::MOUNT_ATTR_RDONLY, MsFlags::MS_RDONLY, FsFlags::ST_RDONLY),
    (libc::MOUNT_ATTR_NOSUID, MsFlags::MS_NOSUID, FsFlags::ST_NOSUID),
    (libc::MOUNT_ATTR_NODEV, MsFlags::MS_NODEV, FsFlags::ST_NODEV),
    (libc::MOUNT_ATTR_NOEXEC, MsFlags::MS_NOEXEC, FsFlags::ST_NOEXEC),
    (libc::MOUNT_ATTR_NOATIME, MsFlags::MS_NOATIME, FsFlags::ST_NOATIME),
];

/// No change: the rest of one that is made.
const AS_IT_IS: libc::mount_attr =
    libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };

/// `attributes` (`MOUNT_ATTR_*`) as mount(2) has them.
pub(crate) fn mount_flags(attributes: u64) -> MsFlags {
    let set = NAMES.iter().filter(|(attribute, ..)| attributes & attribute != 0);
    set.map(|(_, flag, _)| *flag).collect()
}

/// Set attributes (`MOUNT_ATTR_*`) of the mount `fd`, which is attached, and of all mounts below it, and make them
/// private: what is mounted on a copy of a shared mount, as those of a systemd host are, would appear on both.
pub(crate) fn restrict(fd: impl AsFd, attributes: u64) -> Result<(), Errno> {
    let wanted =
        libc::mount_attr { attr_set: attributes, propagation: libc::MS_PRIVATE, ..AS_IT_IS };
    match sys::set_mount_attributes(fd.as_fd(), &wanted, true) {
        Err(Errno::ENOSYS) => {
            change(fd.as_fd(), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
            if attributes == 0 {
                return Ok(());
            }
            if has_mounts_below(fd.as_fd())? {
                return Err(Errno::ENOSYS);
            }
            remount(fd.as_fd(), attributes, 0)
        }
        done => done,
    }
}

/// Let the mount `fd`, which is attached, be written again. Those below it stay as they are.
pub(crate) fn allow_writing(fd: impl AsFd) -> Result<(), Errno> {
    let wanted = libc::mount_attr { attr_clr: libc::MOUNT_ATTR_RDONLY, ..AS_IT_IS };
    match sys::set_mount_attributes(fd.as_fd(), &wanted, false) {
        Err(Errno::ENOSYS) => remount(fd.as_fd(), 0, libc::MOUNT_ATTR_RDONLY),
        done => done,
    }
}

/// By mount(2) it goes by a path; /proc/self/fd is one that leads to what is open and nowhere else.
fn change(fd: BorrowedFd<'_>, flags: MsFlags) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    mount(None::<&str>, path.as_str(), None::<&str>, flags, None::<&str>)
}

/// The same before Linux 5.12: by mount(2), which sets the attributes of one mount, and all of them.
///
/// Other mounts below stay as they are: it cannot stand in for a change of all.
fn remount(fd: BorrowedFd<'_>, set: u64, clear: u64) -> Result<(), Errno> {
    let found = fstatvfs(fd)?.flags();
    let wanted = NAMES.iter().filter(|(attribute, _, now)| {
        set & attribute != 0 || (found.contains(*now) && clear & attribute == 0)
    });
    let flags: MsFlags = wanted.map(|(_, flag, _)| *flag).collect();
    change(fd, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags)
}

fn has_mounts_below(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
    let id = stat.map_err(|errno| Errno::from_raw(errno.raw_os_error()))?.stx_mnt_id.to_string();
    // proc(5): ID PARENT …
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|_| Errno::ENOSYS)?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(&id)))
}
