//! DEST, and the directory beside it in which the tree is made: `.NAME.partial`. Where DEST is to be an archive or
//! an image, both the tree and that are made in there.
//!
//! Only one run at a time works there, as it holds a lock on that directory. The lock ends with the run,
//! whatever ends it, and the next one removes what was left.

use crate::{
    cli::Output,
    decode::Format,
    error::{Attempt as _, Error},
    steps::Step,
    tree::{Tree, remove_contents},
};
use nix::errno::Errno;
use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::{
        AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, fchmod, flock, fstat,
        mkdirat, open, openat, renameat, renameat_with, statat, unlinkat,
    },
};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read as _},
    path::{self, Path, PathBuf},
};

/// In that directory: the tree, and what is made of it.
const TREE: &str = "rootfs";
const PACKED: &str = "output";

/// The name of what is written to standard output: a number follows.
const STREAM: &str = "stdout-";

/// What to make.
#[derive(Debug)]
pub(crate) struct Dest {
    /// As the user gave it.
    pub(crate) shown: PathBuf,
    /// Its path from the root.
    pub(crate) absolute: PathBuf,
    pub(crate) found: Found,
    form: Form,
    parent: OwnedFd,
    name: OsString,
    /// The lock, where it is held already.
    locked: Option<OwnedFd>,
}

/// What is at DEST.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing, or nothing but a name: an empty directory, an empty file.
    Nothing,
    /// A root file system.
    Tree(Tree),
    /// An archive or an image.
    Packed,
}

/// What becomes of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Named(Output),
    /// It is written to standard output.
    Stream,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Dest {
    /// Look at what is at `given`: nothing, something empty, or what is to be there.
    pub(crate) fn look(given: &Path, output: Output) -> Result<Self, Error> {
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
        let found = match output {
            Output::Dir | Output::Oci => look_at_directory(&parent, &name, output),
            Output::Tar => look_at_file(&parent, &name),
        };
        let found = found.attempt(cannot)?;
        let found = found.map_err(|why| Error::new(format!("{}: {why}", cannot())))?;
        Ok(Self { shown, absolute, found, form: Form::Named(output), parent, name, locked: None })
    }

    /// A tree in the directory `dir`, which is made if needed, that is written to standard output. Its name is the
    /// first that no other run has.
    pub(crate) fn stream(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).attempt(|| format!("cannot make '{}'", dir.display()))?;
        for number in 0_u32.. {
            let shown = dir.join(format!("{STREAM}{number}"));
            let parent = open(dir, DIRECTORY, Mode::empty())
                .attempt(|| format!("cannot open directory '{}'", dir.display()))?;
            let absolute =
                path::absolute(&shown).attempt(|| format!("cannot find '{}'", shown.display()))?;
            let name = shown.file_name().unwrap_or_default().to_owned();
            let (found, form) = (Found::Nothing, Form::Stream);
            let mut dest = Self { shown, absolute, found, form, parent, name, locked: None };
            match dest.lock(&dest.partial_name()) {
                Err(error) if error.errno() == Some(Errno::EAGAIN) => {}
                locked => {
                    dest.locked = Some(locked?);
                    return Ok(dest);
                }
            }
        }
        Err(Error::new(format!("cannot find a free name in '{}'", dir.display())))
    }

    /// What is beside it meanwhile, as the user would write it.
    pub(crate) fn partial(&self) -> PathBuf {
        self.shown.with_file_name(self.partial_name())
    }

    fn partial_name(&self) -> OsString {
        partial_name(&self.name)
    }

    /// Where the tree is made, in `partial`.
    pub(crate) fn tree_in(&self, partial: &Path) -> PathBuf {
        if self.is_tree() { partial.to_owned() } else { tree_beside_output(partial) }
    }

    fn is_tree(&self) -> bool {
        self.form == Form::Named(Output::Dir)
    }

    /// How what is made gets its name.
    pub(crate) fn publish_steps(&self) -> Vec<Step> {
        let (partial, dest) = (self.partial(), self.shown.clone());
        let made = if self.is_tree() { partial.clone() } else { packed_in(&partial) };
        let mut steps = Vec::new();
        if self.form != Form::Stream {
            let exchange = !matches!(self.found, Found::Nothing);
            steps.push(Step::Publish { made, dest, exchange });
        }
        if self.leaves_partial() {
            steps.push(Step::Remove { dir: partial });
        }
        steps
    }

    /// Whether there is something beside DEST when it has its name: what is not needed any more.
    fn leaves_partial(&self) -> bool {
        !self.is_tree() || !matches!(self.found, Found::Nothing)
    }

    /// Make the directory beside DEST, empty and locked, and call `fill` with the place of the tree in it, and
    /// `pack` with that directory and the tree. DEST gets its name when both succeed, and all is removed when one
    /// fails.
    pub(crate) fn make(
        &self,
        fill: impl FnOnce(&Path, &Tree) -> Result<(), Error>,
        pack: impl FnOnce(&Path, &Tree) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let name = self.partial_name();
        let dir = self.lock(&name)?;
        let path = self.absolute.with_file_name(&name);
        let partial = Partial { dir, name, dest: self };
        let made = remove_contents(partial.dir.as_fd())
            .attempt(|| format!("cannot clear '{}'", self.partial().display()))
            .and_then(|()| partial.tree())
            .and_then(|tree| {
                fill(&self.tree_in(&path), &tree)?;
                partial.require_rootfs(&tree)?;
                pack(&path, &tree)?;
                partial.publish()
            });
        made.map_err(|error| partial.discard(error))?;
        if self.leaves_partial() {
            partial
                .remove()
                .attempt(|| format!("cannot remove '{}'", self.partial().display()))
                .map_err(|error| {
                    error.left_behind(format_args!("'{}'", self.partial().display()))
                })?;
        }
        Ok(())
    }

    fn lock(&self, name: &OsStr) -> Result<OwnedFd, Error> {
        let shown = self.partial();
        let cannot = || format!("cannot make '{}'", shown.display());
        if let Some(locked) = &self.locked {
            return locked.try_clone().attempt(cannot);
        }
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

/// Where the tree is made, in `partial`, if more is made there.
pub(crate) fn tree_beside_output(partial: &Path) -> PathBuf {
    partial.join(TREE)
}

/// Where the archive or image is made, in `partial`.
pub(crate) fn packed_in(partial: &Path) -> PathBuf {
    partial.join(PACKED)
}

fn partial_name(name: &OsStr) -> OsString {
    let mut partial = OsString::from(".");
    partial.push(name);
    partial.push(".partial");
    partial
}

/// Where a tree for standard output is made in `dir`, if no other run makes one there.
pub(crate) fn stream_partial(dir: &Path) -> PathBuf {
    dir.join(partial_name(OsStr::new(&format!("{STREAM}0"))))
}

/// What lies at `name` where a directory is to be, or why it is none that is taken.
fn look_at_directory(
    parent: &OwnedFd,
    name: &OsStr,
    output: Output,
) -> io::Result<Result<Found, &'static str>> {
    let dir = match openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Ok(Found::Nothing)),
        dir => Tree::new(dir?),
    };
    Ok(match output {
        Output::Oci if dir.has("oci-layout") => Ok(Found::Packed),
        _ if dir.is_empty()? => Ok(Found::Nothing),
        Output::Oci => Err("it is not empty, and no OCI layout"),
        _ if dir.is_rootfs() => Ok(Found::Tree(dir)),
        _ => Err("it is not empty, and no root file system"),
    })
}

/// What lies at `name` where an archive is to be, or why it is none.
fn look_at_file(parent: &OwnedFd, name: &OsStr) -> io::Result<Result<Found, &'static str>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(parent, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Ok(Found::Nothing)),
        file => file?,
    };
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Ok(Err("it is no file"));
    }
    let mut start = Vec::new();
    File::from(file).take(512).read_to_end(&mut start)?;
    Ok(match Format::of(&start) {
        _ if start.is_empty() => Ok(Found::Nothing),
        Some(Format::Tar) => Ok(Found::Packed),
        _ => Err("it is not empty, and no tar archive"),
    })
}

/// What is being made.
struct Partial<'a> {
    dest: &'a Dest,
    name: OsString,
    dir: OwnedFd,
}

impl Partial<'_> {
    /// The place of the tree, empty.
    fn tree(&self) -> Result<Tree, Error> {
        let tree = if self.dest.is_tree() {
            openat(&self.dir, ".", DIRECTORY, Mode::empty())
        } else {
            // apt's own user must get through it to the tree.
            fchmod(&self.dir, Mode::from_raw_mode(0o711))
                .and_then(|()| mkdirat(&self.dir, TREE, Mode::RWXU))
                .and_then(|()| openat(&self.dir, TREE, DIRECTORY, Mode::empty()))
        };
        let tree = tree.attempt(|| format!("cannot open '{}'", self.dest.partial().display()))?;
        Ok(Tree::new(tree))
    }

    /// What has not the look of one would be refused by the next run.
    fn require_rootfs(&self, tree: &Tree) -> Result<(), Error> {
        if tree.is_rootfs() {
            return Ok(());
        }
        Err(Error::new(format!(
            "cannot make '{}': the archive holds no root file system",
            self.dest.shown.display()
        ))
        .hint("one has 'etc', and 'bin' or 'usr'"))
    }

    fn publish(&self) -> Result<(), Error> {
        let Dest { parent, name, shown, found, form, .. } = self.dest;
        let (from, made) = match form {
            Form::Stream => return Ok(()),
            Form::Named(Output::Dir) => (parent, self.name.as_os_str()),
            Form::Named(_) => (&self.dir, OsStr::new(PACKED)),
        };
        if matches!(found, Found::Nothing) {
            renameat(from, made, parent, name) // over what is empty too, and no other directory
        } else {
            renameat_with(from, made, parent, name, RenameFlags::EXCHANGE)
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
