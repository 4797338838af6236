//! The lock by which runs under one name know of each other.
//!
//! A record lock (fcntl(2)) on an interface file of the cgroup. Not flock(2): that one is inherited by the
//! child that becomes COMMAND, and so outlives a supervisor that is killed until the child is gone, too. The
//! price: closing any descriptor of the file gives the lock up, so nobody else in this program opens it.

use crate::error::{Attempt as _, Error};
use rustix::{
    fs::{FlockOperation, fcntl_lock},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A lock on a cgroup, held until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Hold the cgroup at `dir` together with others; `None` if it is gone.
    pub(crate) fn share(dir: &Path) -> Result<Option<Self>, Error> {
        let Some(lock) = Self::open(dir)? else { return Ok(None) };
        loop {
            match fcntl_lock(&lock.file, FlockOperation::LockShared) {
                Err(Errno::INTR) => {}
                locked => break locked.attempt(|| format!("cannot lock '{}'", dir.display()))?,
            }
        }
        // It may have been removed, and even made anew, while we waited.
        Ok(Some(lock).filter(Self::is_current))
    }

    /// Hold the cgroup at `dir` alone; `None` if that is not possible, or if it is gone.
    pub(crate) fn alone(dir: &Path) -> Result<Option<Self>, Error> {
        Ok(Self::open(dir)?.filter(Self::try_alone))
    }

    /// Whether nobody else holds it. The share is given up first: of two that ask at the same time, the
    /// second is alone.
    pub(crate) fn become_alone(&self) -> bool {
        fcntl_lock(&self.file, FlockOperation::Unlock).is_ok() && self.try_alone()
    }

    /// Whether the lock could be had and is of the cgroup that is there now. In the moment without any,
    /// another run may have removed ours and a third one made it anew: that one is not ours to remove.
    fn try_alone(&self) -> bool {
        fcntl_lock(&self.file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && self.is_current()
    }

    fn open(dir: &Path) -> Result<Option<Self>, Error> {
        let path = file_of(dir);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(err) if is_gone(&err) => Ok(None),
            file => file
                .attempt(|| format!("cannot open '{}'", path.display()))
                .map(|file| Some(Self { file, path })),
        }
    }

    fn is_current(&self) -> bool {
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(open), Ok(there)) => open.ino() == there.ino(),
            _ => false,
        }
    }
}

/// Whether there is no such file, or none any more: while a cgroup is removed, its files are no device.
fn is_gone(err: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::NODEV].map(Errno::raw_os_error);
    err.raw_os_error().is_some_and(|errno| gone.contains(&errno))
}

/// A file that every cgroup of v1 or of v2 has, and that is of no use to us otherwise.
fn file_of(dir: &Path) -> PathBuf {
    let v1 = dir.join("notify_on_release");
    if v1.exists() { v1 } else { dir.join("cgroup.type") }
}
