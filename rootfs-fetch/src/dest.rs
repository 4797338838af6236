//! DEST, and the directory beside it in which the tree is made: `.NAME.partial`.
//!
//! Only one run at a time works there, as it holds a lock on that directory. The lock ends with the run,
//! whatever ends it, and the next one removes what was left.

use crate::{
    error::{Attempt as _, Error},
    steps::Step,
    tree::{Tree, remove_contents},
};
use nix::errno::Errno;
use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::{
        AtFlags, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, mkdirat, open, openat,
        renameat, renameat_with, statat, unlinkat,
    },
};
use std::{
    ffi::{OsStr, OsString},
    io,
    path::{self, Path, PathBuf},
};

/// The directory to make.
#[derive(Debug)]
pub(crate) struct Dest {
    /// As the user gave it.
    pub(crate) shown: PathBuf,
    /// Its path from the root.
    pub(crate) absolute: PathBuf,
    /// What is there, if it is a root file system.
    pub(crate) tree: Option<Tree>,
    parent: OwnedFd,
    name: OsString,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Dest {
    /// Look at what is at `given`: nothing, an empty directory, or a root file system.
    pub(crate) fn look(given: &Path) -> Result<Self, Error> {
        let shown: PathBuf = given.components().collect(); // without slashes at the end
        let cannot = || format!("cannot make '{}'", shown.display());
        // Behind a link the directory itself is meant.
        let absolute = match given.canonicalize() {
            Err(err) if err.kind() == io::ErrorKind::NotFound => path::absolute(&shown),
            found => found,
        }
        .attempt(cannot)?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(Error::new(format!("{}: it names no directory of its own", cannot())));
        };
        let parent = open(parent, DIRECTORY, Mode::empty())
            .attempt(|| format!("cannot open directory '{}'", parent.display()))?;
        let name = name.to_owned();
        let tree = match openat(&parent, &name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => None,
            opened => Some(Tree::new(opened.attempt(cannot)?)),
        };
        let tree = match tree {
            Some(tree) if tree.is_rootfs() => Some(tree),
            Some(tree) if !tree.is_empty().attempt(cannot)? => {
                let why = "it is not empty, and no root file system";
                return Err(Error::new(format!("{}: {why}", cannot())));
            }
            _ => None,
        };
        Ok(Self { shown, absolute, tree, parent, name })
    }

    /// Owners, device nodes and chroot are root's.
    pub(crate) fn require_root(&self) -> Result<(), Error> {
        if nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        Err(Errno::EPERM)
            .attempt(|| format!("cannot make '{}'", self.shown.display()))
            .map_err(|err| err.hint("run as root"))
    }

    /// Where the tree is made, as the user would write it.
    pub(crate) fn partial(&self) -> PathBuf {
        self.shown.with_file_name(self.partial_name())
    }

    fn partial_name(&self) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(".partial");
        name
    }

    /// How the tree gets its name.
    pub(crate) fn publish_step(&self) -> Step {
        let (dir, dest) = (self.partial(), self.shown.clone());
        if self.tree.is_some() { Step::Exchange { dir, dest } } else { Step::Rename { dir, dest } }
    }

    /// Make the directory beside DEST, empty and locked, and call `fill` with it. The tree gets its name when
    /// that succeeds, and is removed when it fails.
    pub(crate) fn make(
        &self,
        fill: impl FnOnce(&Path, &Tree) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let name = self.partial_name();
        let partial = Partial { tree: Tree::new(self.lock(&name)?), name, dest: self };
        let begun = remove_contents(partial.tree.root())
            .attempt(|| format!("cannot clear '{}'", self.partial().display()));
        let path = self.absolute.with_file_name(&partial.name);
        begun
            .and_then(|()| fill(&path, &partial.tree))
            .and_then(|()| partial.require_rootfs())
            .and_then(|()| partial.publish())
            .map_err(|error| partial.discard(error))?;
        if self.tree.is_some() {
            partial.remove().attempt(|| "cannot remove the old tree".into()).map_err(|error| {
                error.left_behind(format_args!("'{}'", self.partial().display()))
            })?;
        }
        Ok(())
    }

    fn lock(&self, name: &OsStr) -> Result<OwnedFd, Error> {
        let shown = self.partial();
        let cannot = || format!("cannot make '{}'", shown.display());
        loop {
            match mkdirat(&self.parent, name, Mode::RWXU) {
                Err(rustix::io::Errno::EXIST) => {}
                made => made.attempt(cannot)?,
            }
            let flags = DIRECTORY | OFlags::NOFOLLOW;
            let dir = openat(&self.parent, name, flags, Mode::empty()).attempt(cannot)?;
            flock(&dir, FlockOperation::NonBlockingLockExclusive)
                .attempt(|| format!("cannot lock '{}'", shown.display()))
                .map_err(|err| {
                    err.hint_on(Errno::EAGAIN, "another rootfs-fetch makes this tree now")
                })?;
            // The run that held the lock may have renamed it.
            let locked = fstat(&dir).attempt(cannot)?;
            let named = statat(&self.parent, name, AtFlags::SYMLINK_NOFOLLOW);
            if named
                .is_ok_and(|named| (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino))
            {
                return Ok(dir);
            }
        }
    }
}

/// A tree that is being made.
struct Partial<'a> {
    dest: &'a Dest,
    name: OsString,
    tree: Tree,
}

impl Partial<'_> {
    /// What has not the look of one would be refused by the next run.
    fn require_rootfs(&self) -> Result<(), Error> {
        if self.tree.is_rootfs() {
            return Ok(());
        }
        Err(Error::new(format!(
            "cannot make '{}': the archive holds no root file system",
            self.dest.shown.display()
        ))
        .hint("one has 'etc', and 'bin' or 'usr'"))
    }

    fn publish(&self) -> Result<(), Error> {
        let Dest { parent, name, shown, tree, .. } = self.dest;
        if tree.is_some() {
            renameat_with(parent, &self.name, parent, name, RenameFlags::EXCHANGE)
        } else {
            renameat(parent, &self.name, parent, name) // over an empty directory too, and nothing else
        }
        .attempt(|| format!("cannot give the tree its name '{}'", shown.display()))
    }

    fn discard(&self, error: Error) -> Error {
        let shown = format!("'{}'", self.dest.partial().display());
        match self.remove() {
            Ok(()) => error.undone(format_args!("{shown} is removed")),
            // Somebody else has removed it, with the whole directory perhaps.
            Err(why) if why.kind() == io::ErrorKind::NotFound => error,
            Err(why) => error.left_behind(format_args!("{shown}: {why}")),
        }
    }

    fn remove(&self) -> io::Result<()> {
        let dir =
            openat(&self.dest.parent, &self.name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        remove_contents(dir.as_fd())?;
        Ok(unlinkat(&self.dest.parent, &self.name, AtFlags::REMOVEDIR)?)
    }
}
