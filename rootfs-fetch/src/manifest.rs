//! What a tree is, in one sum, and what makes two runs give the same one.

use crate::{
    tree::{Tree, names},
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
    ffi::{CStr, OsStr, OsString},
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

/// The most that an extended attribute, or all their names, can take (`xattr(7)`).
const MAX_ATTRIBUTES: usize = 1 << 16;

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
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(openat(node.dir, node.name, flags, Mode::empty())?);
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
struct Node<'a> {
    path: &'a OsStr,
    dir: &'a OwnedFd,
    name: &'a CStr,
    stat: &'a Stat,
}

impl Node<'_> {
    fn write_attributes(&self, hash: &mut Hashing<io::Sink>) -> io::Result<()> {
        let mut place = OsString::from(format!("/proc/self/fd/{}/", self.dir.as_raw_fd()));
        place.push(OsStr::from_bytes(self.name.to_bytes()));
        let mut list = vec![0; MAX_ATTRIBUTES];
        let length = match llistxattr(&place, &mut list) {
            Err(Errno::NOTSUP) => return Ok(()),
            length => length?,
        };
        let mut names: Vec<&[u8]> = list[..length].split(|byte| *byte == 0).collect();
        names.sort_unstable();
        let mut value = vec![0; MAX_ATTRIBUTES];
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let length = lgetxattr(&place, OsStr::from_bytes(name), &mut value)?;
            write!(hash, "\0{}\0{length}\0", name.escape_ascii())?;
            hash.write_all(&value[..length])?;
        }
        Ok(())
    }
}

/// Call `visit` with all that is in the tree, and the tree itself, in the order of names.
fn walk(tree: &Tree, mut visit: impl FnMut(Node<'_>) -> io::Result<()>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let root = tree.open(OsStr::new(""), flags)?;
    let stat = statat(&root, c".", AtFlags::SYMLINK_NOFOLLOW)?;
    visit(Node { path: OsStr::new(""), dir: &root, name: c".", stat: &stat })?;
    // By path each time: a handle for each level would be too many in a deep tree.
    let mut dirs = vec![OsString::new()];
    while let Some(parent) = dirs.pop() {
        let dir = tree.open(&parent, flags)?;
        let mut names = names(&dir)?;
        names.sort_unstable();
        let mut below = Vec::new();
        for name in names {
            let stat = statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
            let mut path = parent.clone();
            if !path.is_empty() {
                path.push("/");
            }
            path.push(OsStr::from_bytes(name.to_bytes()));
            visit(Node { path: &path, dir: &dir, name: &name, stat: &stat })?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                below.push(path);
            }
        }
        dirs.extend(below.into_iter().rev());
    }
    Ok(())
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
