//! A root file system seen through directory handles: no path in it, and no link, leads out of it.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags, fchmod, mkdirat, openat, openat2,
        readlinkat, renameat_with, unlinkat,
    },
    io::{Errno, Result},
};
use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
};

/// As many symbolic links as the kernel follows in one path (`path_resolution(7)`).
const MAX_LINKS: u32 = 40;

/// A directory that is, or becomes, a root file system.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// The tree whose root directory is `root`.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// The tree's root directory.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Open `path` as a process whose root directory this is would.
    pub(crate) fn open(&self, path: &OsStr, flags: OFlags) -> Result<OwnedFd> {
        let path = if path.is_empty() { OsStr::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        open_beneath(self.root(), path, flags | OFlags::CLOEXEC, resolve)
    }

    /// Open the directory `path`, after making it and those above it where they are missing.
    pub(crate) fn make_dir_all(&self, path: &OsStr) -> Result<OwnedFd> {
        self.make_dirs(path, MAX_LINKS)
    }

    fn make_dirs(&self, path: &OsStr, links_left: u32) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::NOENT) => {}
            opened => return opened,
        }
        let (parent, name) = split(path);
        let parent_dir = self.make_dirs(parent, links_left)?;
        match mkdirat(&parent_dir, name, Mode::RWXU) {
            Ok(()) => {
                let made = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                fchmod(&made, Mode::from_raw_mode(0o755))?; // whatever the umask
            }
            // A link to what is not there yet: make that, seen from inside.
            Err(Errno::EXIST) if links_left > 0 => {
                let target = readlinkat(&parent_dir, name, Vec::new())?;
                let target = join(parent, OsStr::from_bytes(target.as_bytes()));
                return self.make_dirs(&target, links_left - 1);
            }
            Err(Errno::EXIST) => return Err(Errno::LOOP),
            Err(errno) => return Err(errno),
        }
        self.open(path, flags)
    }

    /// The content of the file `path`, or `None` where there is none.
    pub(crate) fn read(&self, path: &str) -> std::io::Result<Option<String>> {
        let file = match self.open(path.as_ref(), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut content = Vec::new();
        File::from(file).read_to_end(&mut content)?;
        Ok(Some(String::from_utf8_lossy(&content).into_owned()))
    }

    /// Whether `path` names something, seen from inside.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.open(path.as_ref(), OFlags::PATH).is_ok()
    }

    /// Whether this looks like a root file system. As a tree gets its name only when it is complete, one
    /// that looks so is complete.
    pub(crate) fn is_rootfs(&self) -> bool {
        self.has("etc") && (self.has("bin") || self.has("usr"))
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        let dir = self.open(OsStr::new(""), OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(names(&dir)?.is_empty())
    }
}

/// `path` in two at its last slash: the directory, and the name in it.
pub(crate) fn split(path: &OsStr) -> (&OsStr, &OsStr) {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (OsStr::from_bytes(&bytes[..slash]), OsStr::from_bytes(&bytes[slash + 1..])),
        None => (OsStr::new(""), path),
    }
}

/// Where a link in `dir` that reads `target` leads, its slashes at the end taken away.
pub(crate) fn join(dir: &OsStr, target: &OsStr) -> OsString {
    let bytes = target.as_bytes();
    let kept = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let mut joined = dir.to_owned();
    if bytes.starts_with(b"/") || dir.is_empty() {
        joined.clear();
    } else {
        joined.push("/");
    }
    joined.push(OsStr::from_bytes(&bytes[..kept]));
    joined
}

/// Remove all that is in the directory `top`. It stops at a mount point, which it does not cross.
///
/// A directory further down is first moved up: so a tree of any depth takes two open directories, and a
/// mount point in it refuses to be moved (EBUSY).
pub(crate) fn remove_contents(top: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH;
    let mut dirs = unlink_files(top)?;
    let mut moved = 0_u64;
    while let Some(name) = dirs.pop() {
        let dir = open_beneath(top, OsStr::from_bytes(name.to_bytes()), flags, resolve)?;
        for sub in unlink_files(dir.as_fd())? {
            dirs.push(loop {
                moved += 1;
                let up = CString::new(format!(".removed-{moved}")).map_err(|_| Errno::INVAL)?;
                match renameat_with(&dir, &*sub, top, &*up, RenameFlags::NOREPLACE) {
                    Err(Errno::EXIST) => {}
                    renamed => break renamed.map(|()| up)?,
                }
            });
        }
        unlinkat(top, &*name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Remove `name` from `dir`, with all that is in it, if it is there.
pub(crate) fn remove(dir: impl AsFd, name: &OsStr) -> Result<()> {
    match unlinkat(&dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        unlinked => return unlinked,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    remove_contents(openat(&dir, name, flags, Mode::empty())?.as_fd())?;
    unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Remove what is in `dir`, and no directory; give the names of the directories.
fn unlink_files(dir: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let mut dirs = Vec::new();
    for name in names(dir)? {
        match unlinkat(dir, &*name, AtFlags::empty()) {
            Err(Errno::ISDIR) => dirs.push(name),
            unlinked => unlinked?,
        }
    }
    Ok(dirs)
}

/// The names in `dir`, without `.` and `..`.
pub(crate) fn names(dir: impl AsFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// openat2(2) gives EAGAIN when anything on the machine was renamed or mounted while it went through "..".
fn open_beneath(
    dir: BorrowedFd<'_>,
    path: &OsStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    loop {
        match openat2(dir, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Tree, join, remove_contents, split};
    use std::{
        ffi::OsStr,
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    fn tree(dir: &tempfile::TempDir) -> Tree {
        Tree::new(fs::File::open(dir.path()).unwrap().into())
    }

    #[test]
    fn a_path_is_split_at_its_last_slash() {
        let pairs = [("a/b/c", ("a/b", "c")), ("a", ("", "a")), ("", ("", ""))];
        for (path, (dir, name)) in pairs {
            assert_eq!(split(path.as_ref()), (OsStr::new(dir), OsStr::new(name)));
        }
    }

    #[test]
    fn a_link_leads_from_its_own_directory() {
        let cases =
            [("a", "b", "a/b"), ("", "b/", "b"), ("a/b", "/c//", "/c"), ("a", "../c", "a/../c")];
        for (dir, target, joined) in cases {
            assert_eq!(join(dir.as_ref(), target.as_ref()), joined);
        }
    }

    #[test]
    fn missing_directories_are_made_behind_links_and_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("var")).unwrap();
        symlink("/run", dir.path().join("var/run")).unwrap();
        symlink("../../../../outside/", dir.path().join("var/up")).unwrap();
        tree(&dir).make_dir_all("var/run/lock".as_ref()).unwrap();
        tree(&dir).make_dir_all("var/up/x".as_ref()).unwrap();
        assert!(dir.path().join("outside/x").is_dir());
        let mode = fs::metadata(dir.path().join("run/lock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn links_in_a_ring_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert_eq!(tree(&dir).make_dir_all("a/x".as_ref()).unwrap_err(), rustix::io::Errno::LOOP);
    }

    #[test]
    fn trees_of_any_depth_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(&dir);
        fs::create_dir_all(dir.path().join(".removed-1/x")).unwrap();
        tree.make_dir_all("d/".repeat(1100).trim_end_matches('/').as_ref()).unwrap();
        remove_contents(tree.root()).unwrap();
        assert!(tree.is_empty().unwrap());
    }

    #[test]
    fn removal_takes_links_and_not_what_they_point_at() {
        let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(kept.path().join("file"), "").unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink(kept.path(), dir.path().join("a/b/link")).unwrap();
        remove_contents(tree(&dir).root()).unwrap();
        assert!(tree(&dir).is_empty().unwrap());
        assert!(kept.path().join("file").exists());
    }
}
