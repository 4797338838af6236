//! What a tree is, in one sum, and what makes two runs give the same one.

use crate::{
    tree::{Tree, join, names, split},
    verify::{Hashing, Sum},
};
use rustix::{
    fd::{AsRawFd as _, OwnedFd},
    fs::{
        AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, lgetxattr, llistxattr, openat,
        readlinkat, statat, unlinkat, utimensat,
    },
    io::Errno,
};
use std::{
    ffi::{CStr, CString, OsStr, OsString},
    fs::File,
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
};

/// Files that say when something was done, and are of no use in a tree that is made anew.
pub(crate) const RECORDS: [&str; 9] = [
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/lock",
    "var/log/alternatives.log",
    "var/log/apt/eipp.log.xz",
    "var/log/apt/history.log",
    "var/log/apt/term.log",
    "var/log/dpkg.log",
];

/// The most that an extended attribute can take (`xattr(7)`).
const MAX_ATTRIBUTE: usize = 1 << 16;

/// Take away what tells one run from another: those files, and all times after `epoch`, in seconds since 1970.
pub(crate) fn settle(tree: &Tree, epoch: i64) -> io::Result<()> {
    for path in RECORDS {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        match tree.open(parent.as_ref(), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(dir) => match unlinkat(dir, name, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                unlinked => unlinked?,
            },
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let time = Timespec { tv_sec: epoch, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    walk(tree, |node| {
        let later = (node.stat.st_mtime, node.stat.st_mtime_nsec) > (epoch, 0);
        if later {
            utimensat(node.dir, node.name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    })
}

/// The sum of all names in the tree, each with its type, mode, owner, time, device, link, extended attributes
/// and content.
pub(crate) fn sum(tree: &Tree) -> io::Result<Sum> {
    let mut hash = Hashing::new(io::sink());
    walk(tree, |node| {
        let Stat { st_mode, st_uid, st_gid, st_mtime, st_mtime_nsec, st_rdev, .. } = *node.stat;
        hash.write_all(node.path.as_bytes())?;
        write!(hash, "\0{st_mode:o} {st_uid}:{st_gid} {st_mtime}.{st_mtime_nsec:09} ")?;
        match FileType::from_raw_mode(st_mode) {
            FileType::RegularFile => {
                let mut file = node.open()?;
                let (links, size) = (node.stat.st_nlink, node.stat.st_size);
                write!(hash, "{links} {size} ")?;
                io::copy(&mut file, &mut hash)?;
            }
            FileType::Symlink => {
                hash.write_all(readlinkat(node.dir, node.name, Vec::new())?.as_bytes())?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => write!(hash, "{st_rdev}")?,
            _ => {}
        }
        node.write_attributes(&mut hash)?;
        hash.write_all(b"\n")
    })?;
    Ok(hash.sum())
}

/// A name in a tree, and what it names.
pub(crate) struct Node<'a> {
    /// From the tree's root, which is the empty path.
    pub(crate) path: &'a OsStr,
    pub(crate) dir: &'a OwnedFd,
    pub(crate) name: &'a CStr,
    pub(crate) stat: &'a Stat,
}

impl Node<'_> {
    /// The file, open for reading.
    pub(crate) fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(self.dir, self.name, flags, Mode::empty())?))
    }

    /// The extended attributes, by name.
    pub(crate) fn attributes(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut place = OsString::from(format!("/proc/self/fd/{}/", self.dir.as_raw_fd()));
        place.push(OsStr::from_bytes(self.name.to_bytes()));
        // Most have none.
        let mut list = vec![0; 256];
        let length = loop {
            match llistxattr(&place, &mut list) {
                Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
                Err(Errno::RANGE) if list.len() < MAX_ATTRIBUTE => list.resize(MAX_ATTRIBUTE, 0),
                length => break length?,
            }
        };
        let mut names: Vec<&[u8]> = list[..length].split(|byte| *byte == 0).collect();
        names.sort_unstable();
        let mut value = vec![0; MAX_ATTRIBUTE];
        let read = |name: &[u8]| {
            let length = lgetxattr(&place, OsStr::from_bytes(name), &mut value)?;
            Ok((name.to_vec(), value[..length].to_vec()))
        };
        names.into_iter().filter(|name| !name.is_empty()).map(read).collect()
    }

    fn write_attributes(&self, hash: &mut Hashing<io::Sink>) -> io::Result<()> {
        for (name, value) in self.attributes()? {
            write!(hash, "\0{}\0{}\0", name.escape_ascii(), value.len())?;
            hash.write_all(&value)?;
        }
        Ok(())
    }
}

/// Call `visit` with the tree itself and all that is in it, in the order of names, and what is in a directory right
/// after that: where it is unpacked, GNU tar sets its time when what follows is not in it.
pub(crate) fn walk(
    tree: &Tree,
    mut visit: impl FnMut(Node<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = tree.open(OsStr::new(""), flags)?;
    let stat = statat(&root, c".", AtFlags::SYMLINK_NOFOLLOW)?;
    visit(Node { path: OsStr::new(""), dir: &root, name: c".", stat: &stat })?;
    let mut left = paths(&root, OsStr::new(""))?;
    // One directory is open at a time: a handle for each level would be too many in a deep tree.
    let mut open = (OsString::new(), root);
    while let Some(path) = left.pop() {
        let (parent, name) = split(&path);
        if open.0 != parent {
            open = (parent.to_owned(), tree.open(parent, flags)?);
        }
        let name = CString::new(name.as_bytes())?;
        let stat = statat(&open.1, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
        visit(Node { path: &path, dir: &open.1, name: &name, stat: &stat })?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let dir = openat(&open.1, &*name, flags, Mode::empty())?;
            left.extend(paths(&dir, &path)?);
            open = (path, dir);
        }
    }
    Ok(())
}

/// The paths of what is in `dir`, which is at `path`, the last first.
fn paths(dir: &OwnedFd, path: &OsStr) -> io::Result<Vec<OsString>> {
    let mut names = names(dir)?;
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names.iter().map(|name| join(path, OsStr::from_bytes(name.to_bytes()))).collect())
}

#[cfg(test)]
mod tests {
    use super::{settle, sum};
    use crate::tree::Tree;
    use std::{
        fs::{self, File, FileTimes, Permissions},
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
        path::Path,
        time::{Duration, SystemTime},
    };

    fn tree(dir: &Path) -> Tree {
        Tree::new(File::open(dir).unwrap().into())
    }

    /// A tree in which all is of the year 2001.
    fn make(dir: &Path) -> Tree {
        fs::create_dir_all(dir.join("etc/deep")).unwrap();
        fs::write(dir.join("etc/deep/file"), "content").unwrap();
        symlink("deep/file", dir.join("etc/link")).unwrap();
        fs::create_dir_all(dir.join("var/log")).unwrap();
        fs::write(dir.join("var/log/dpkg.log"), format!("{:?}", SystemTime::now())).unwrap();
        settle(&tree(dir), 1_000_000_000).unwrap();
        tree(dir)
    }

    #[test]
    fn two_trees_with_the_same_in_them_have_the_same_sum() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(sum(&make(one.path())).unwrap(), sum(&make(two.path())).unwrap());
        assert!(!one.path().join("var/log/dpkg.log").exists());
        assert_eq!(
            fs::symlink_metadata(one.path().join("etc/link")).unwrap().mtime(),
            1_000_000_000
        );
    }

    #[test]
    fn any_difference_is_another_sum() {
        let changes: [fn(&Path); 6] = [
            |dir| fs::write(dir.join("etc/deep/file"), "kontent").unwrap(),
            |dir| fs::write(dir.join("etc/deep/new"), "").unwrap(),
            |dir| fs::hard_link(dir.join("etc/deep/file"), dir.join("var/hard")).unwrap(),
            |dir| {
                fs::remove_file(dir.join("etc/link")).unwrap();
                symlink("deep", dir.join("etc/link")).unwrap();
            },
            |dir| {
                fs::set_permissions(dir.join("etc/deep/file"), Permissions::from_mode(0o600))
                    .unwrap();
            },
            |dir| {
                let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(5);
                let file = File::open(dir.join("etc/deep/file")).unwrap();
                file.set_times(FileTimes::new().set_modified(time)).unwrap();
            },
        ];
        for change in changes {
            let dir = tempfile::tempdir().unwrap();
            let before = sum(&make(dir.path())).unwrap();
            change(dir.path());
            settle(&tree(dir.path()), 1_000_000_000).unwrap();
            assert_ne!(sum(&tree(dir.path())).unwrap(), before);
        }
    }
}
