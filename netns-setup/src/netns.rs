//! Named network namespaces: files in /run/netns, as ip-netns(8) makes them.

use crate::{
    error::{Attempt as _, Error},
    mark::Mark,
    netlink::Netlink,
};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        stat::Mode,
        statfs::{FsType, fstatfs},
    },
};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
};

/// `NETNS_RUN_DIR` of iproute2.
pub(crate) const DIR: &str = "/run/netns";

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS: FsType = FsType(0x6e73_6673);

/// The network namespace of this process.
const OWN: &str = "/proc/self/ns/net";

const NEEDS: &str = "run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN";

/// Say what is needed where it is missing.
pub(crate) fn needs(err: Error) -> Error {
    err.hint_on(Errno::EPERM, NEEDS)
}

/// What the name stands for.
#[derive(Debug)]
pub(crate) enum Named {
    /// Nothing.
    Absent,
    /// An empty file with no namespace behind it: a run was killed, or the namespace was unmounted.
    Stale,
    /// A namespace. It is entered by this descriptor, never by its name again.
    Netns(OwnedFd),
}

/// Where the namespace `name` appears.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// See what `name` stands for.
pub(crate) fn look(name: &str) -> Result<Named, Error> {
    let path = path(name);
    let shown = path.display();
    let file =
        match open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(Named::Absent),
            // iproute2 and we make the file with mode 0, which matters to no one who may go on.
            opened => opened
                .attempt(|| format!("cannot open network namespace '{name}'"))
                .map_err(|err| err.hint_on(Errno::EACCES, NEEDS))?,
        };
    let kind = fstatfs(&file).attempt(|| format!("cannot look at '{shown}'"))?.filesystem_type();
    if kind == NSFS {
        return Ok(Named::Netns(file));
    }
    let status = fs::symlink_metadata(&path).attempt(|| format!("cannot look at '{shown}'"))?;
    if status.is_file() && status.len() == 0 {
        return Ok(Named::Stale);
    }
    Err(Error::new(format!("'{shown}' exists and is no network namespace")))
}

/// Make a namespace, mark it as ours and give it a name; come back to `home`. The socket speaks to it.
///
/// The mark comes first: a namespace that has a name and no mark is a stranger's, whenever we are killed.
pub(crate) fn add(name: &str, home: &OwnedFd) -> Result<(OwnedFd, Netlink), Error> {
    let attempt = || format!("cannot create network namespace '{name}'");
    let lock = prepare_dir()?;
    let path = path(name);
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_CREAT | OFlag::O_EXCL;
    open(&path, flags, Mode::empty()).map(drop).attempt(attempt)?;
    drop(lock);
    let made = make(name, &path);
    enter(home).attempt(attempt).and(made).map_err(|err| match delete(name) {
        Ok(()) => err,
        Err(_) => err.left(vec![format!("'{}'", path.display())]),
    })
}

fn make(name: &str, path: &Path) -> Result<(OwnedFd, Netlink), Error> {
    let attempt = || format!("cannot create network namespace '{name}'");
    unshare(CloneFlags::CLONE_NEWNET).attempt(attempt).map_err(needs)?;
    let netlink = Netlink::open()?;
    netlink.set_alias("lo", &Mark::new(name).to_string())?;
    mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).attempt(attempt)?;
    Ok((own()?, netlink))
}

/// The namespace that this process is in.
pub(crate) fn own() -> Result<OwnedFd, Error> {
    open(OWN, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .attempt(|| format!("cannot open '{OWN}'"))
}

/// Go there. This process has one thread, which visits a namespace to make it or to open a socket there. Undo comes
/// home before anything else, and changes nothing where that fails.
pub(crate) fn enter(netns: &OwnedFd) -> nix::Result<()> {
    setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)
}

/// Take away the name. The namespace goes with its last process.
pub(crate) fn delete(name: &str) -> Result<(), Error> {
    let path = path(name);
    let attempt = || format!("cannot delete network namespace '{name}'");
    match umount2(&path, MntFlags::MNT_DETACH) {
        Err(Errno::EINVAL | Errno::ENOENT) => {} // a stale file, or nothing
        done => done.attempt(attempt).map_err(needs)?,
    }
    match fs::remove_file(&path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        done => done.attempt(attempt)?,
    }
    release_dir()
}

/// Unmount /run/netns when the last name is gone, so that nothing is left of what [`prepare_dir`] did.
///
/// A run that comes in between is not harmed: it finds the same directory below the mount, or keeps the mount
/// busy. What somebody has mounted there from elsewhere is not ours.
fn release_dir() -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path| fs::symlink_metadata(path).map(|status| status.dev());
    let on_itself = matches!((device("/run"), device(DIR)), (Ok(run), Ok(dir)) if run == dir);
    if !on_itself || !list()?.is_empty() {
        return Ok(());
    }
    match umount2(DIR, MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EBUSY | Errno::EINVAL) => Ok(()), // in use again, or not a mount
        done => done.attempt(|| format!("cannot unmount '{DIR}'")),
    }
}

/// The names in /run/netns, sorted.
pub(crate) fn list() -> Result<Vec<String>, Error> {
    entries(DIR)
}

/// What is in `dir`, sorted. Nothing without such a directory.
pub(crate) fn entries(dir: &str) -> Result<Vec<String>, Error> {
    let attempt = || format!("cannot read '{dir}'");
    let entries = match fs::read_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.attempt(attempt)?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into()));
    let mut names: Vec<String> = names.collect::<Result<_, _>>().attempt(attempt)?;
    names.sort();
    Ok(names)
}

/// Put a name with nothing behind it back.
pub(crate) fn add_stale(name: &str) -> Result<(), Error> {
    let path = path(name);
    let made = fs::File::options().write(true).create_new(true).mode(0o0).open(&path);
    made.map(drop).attempt(|| format!("cannot create '{}'", path.display()))
}

/// A netlink socket in `netns`; come back to `home`.
pub(crate) fn netlink(name: &str, netns: &OwnedFd, home: &OwnedFd) -> Result<Netlink, Error> {
    let attempt = || format!("cannot enter network namespace '{name}'");
    enter(netns).attempt(attempt).map_err(needs)?;
    let netlink = Netlink::open();
    enter(home).attempt(attempt)?;
    netlink
}

/// Hold /run/netns still against other runs of ours and of `ip netns add`, if it is there.
pub(crate) fn lock_dir() -> Result<Option<fs::File>, Error> {
    let dir = match fs::File::open(DIR) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        dir => dir.attempt(|| format!("cannot open '{DIR}'"))?,
    };
    flock(&dir, FlockOperation::LockExclusive).attempt(|| format!("cannot lock '{DIR}'"))?;
    Ok(Some(dir))
}

/// Make /run/netns and mount it shared on itself, so that namespaces that are unmounted in one mount
/// namespace go away in all of them: what `ip netns add` does.
fn prepare_dir() -> Result<Option<fs::File>, Error> {
    fs::create_dir_all(DIR).attempt(|| format!("cannot create '{DIR}'"))?;
    let lock = lock_dir()?;
    let shared = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, DIR, None::<&str>, flags, None::<&str>)
    };
    let attempt = || format!("cannot mount '{DIR}'");
    match shared() {
        Err(Errno::EINVAL) => {
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(DIR), DIR, None::<&str>, bind, None::<&str>).attempt(attempt)?;
            shared().attempt(attempt)?;
        }
        done => done.attempt(attempt).map_err(needs)?,
    }
    Ok(lock)
}

/// One run at a time for each name: holds a lock file in /run, which goes with the value.
#[derive(Debug)]
pub(crate) struct NameLock {
    path: PathBuf,
    _file: fs::File,
}

impl NameLock {
    /// Wait for the other runs on `name`.
    pub(crate) fn take(name: &str) -> Result<Self, Error> {
        Self::lock(format!("/run/netns-setup.{name}.lock").into())
    }

    /// Wait for the other runs that make or remove `bridge`.
    pub(crate) fn take_bridge(bridge: &str) -> Result<Self, Error> {
        Self::lock(format!("/run/netns-setup-bridge.{bridge}.lock").into())
    }

    fn lock(path: PathBuf) -> Result<Self, Error> {
        let attempt = || format!("cannot lock '{}'", path.display());
        loop {
            let file =
                fs::File::options().create(true).append(true).open(&path).attempt(attempt)?;
            flock(&file, FlockOperation::LockExclusive).attempt(attempt)?;
            // Whoever held it before may have removed it: then it locks nothing any more.
            if same_file(&file, &path).attempt(attempt)? {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for NameLock {
    fn drop(&mut self) {
        // Harmless when it stays: the next run locks the same file.
        drop(fs::remove_file(&self.path));
    }
}

fn same_file(file: &fs::File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok(named.ino() == file.metadata()?.ino()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}
