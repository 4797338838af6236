//! Unpacking a tarball: all writing goes through directory handles, and stays in the tree whatever the archive
//! holds.
//!
//! One thread inflates, another one writes, and that one can write nowhere else: see [`fence`].

use crate::{
    acl,
    archive::{Extent, Flaw, Member, Members, Time},
    decode::{Decoder, pipe},
    error::{Attempt as _, Error},
    tree::{Tree, join, names, remove, split},
};
use landlock::{
    ABI, AccessFs, CompatLevel, Compatible as _, PathBeneath, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _,
};
use rustix::{
    fd::{AsFd, AsRawFd as _, OwnedFd},
    fs::{
        self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
        ftruncate,
    },
    io::Errno,
};
use std::{
    collections::BTreeSet,
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{BufRead, Read, Seek as _, SeekFrom, Write as _},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    thread,
};
use tar::EntryType;

/// The device nodes that a root file system has: null zero full random urandom, tty console ptmx.
const STANDARD_NODES: [(u32, u32); 8] =
    [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];

/// The longest path that the kernel takes, without the NUL at its end (`PATH_MAX`).
const MAX_PATH: usize = 4095;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// Paths have up to 2048 parts, and each that is missing is a call deeper.
const STACK: usize = 16 << 20;

/// What was in the archive and is not in the tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// Device nodes that are none of the standard ones: a disk or memory, say.
    pub(crate) device_nodes: u64,
    /// Standard ones that this process may not make.
    pub(crate) refused_nodes: u64,
    /// Files whose owners this process may not give them, or that no id here stands for.
    pub(crate) owners: u64,
    /// Extended attributes that the file system of the tree does not hold, or that this process may not set.
    pub(crate) attributes: u64,
    /// Something after the archive's end that is no part of it.
    pub(crate) garbage: bool,
}

/// What a name that begins with `.wh.` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whiteouts {
    /// Nothing: the archive is no layer.
    None,
    /// That what it names in a layer below is not there
    /// (<https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts>).
    Applied,
}

/// Unpack the tarball `input`, named `what` in messages, into `tree`, unless it takes more than `budget` bytes;
/// what it takes is taken off.
pub(crate) fn unpack(
    input: impl Read + Send,
    what: &str,
    tree: &Tree,
    budget: &mut u64,
    whiteouts: Whiteouts,
) -> Result<Skipped, Error> {
    let decoder = Decoder::new(input).attempt(|| format!("cannot read '{what}'"))?;
    let mut decoder = decoder.ok_or_else(|| unknown(what))?;
    let is_packed = decoder.is_packed();
    let max_size = *budget;
    let (pump, pumped) = pipe();
    let unpacked = thread::scope(|scope| {
        let inflate = scope.spawn(|| pump.pump(&mut decoder));
        let write = || {
            fence(tree);
            let members = Members::new(pumped, max_size);
            unpack_members(members, Unpacker::new(tree, what, whiteouts), is_packed)
        };
        let writer = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, write);
        let unpacked = writer.map(thread::ScopedJoinHandle::join);
        drop(inflate.join());
        unpacked
    });
    let unpacked = unpacked.attempt(|| "cannot start a thread".into())?;
    let died = |_| Err(Error::new("the thread that unpacks has ended before its time"));
    let (mut skipped, left, marked) = unpacked.unwrap_or_else(died)?;
    *budget = left;
    skipped.garbage = decoder.garbage();
    if !marked && skipped.garbage {
        return Err(Error::new(format!("cannot unpack '{what}': the archive is cut off")));
    }
    Ok(skipped)
}

/// Unpack `members`, and tell how much more may be taken, and whether they had a mark at their end.
fn unpack_members<R: BufRead>(
    mut members: Members<R>,
    mut unpacker: Unpacker<'_>,
    is_packed: bool,
) -> Result<(Skipped, u64, bool), Error> {
    let what = unpacker.what;
    while let Some(member) = members.next().map_err(|flaw| unpacker.explain(flaw))? {
        unpacker.member(&member, &mut members)?;
    }
    let (left, marked) = members.finish().map_err(|flaw| unpacker.explain(flaw))?;
    // What was packed is complete: its own checksum says so.
    if !marked && !is_packed {
        return Err(Error::new(format!("cannot unpack '{what}': the archive is cut off"))
            .hint("its end is marked by zeros, which are missing"));
    }
    Ok((unpacker.finish()?, left, marked))
}

/// The error for a flaw of the tarball `what`.
pub(crate) fn explain(flaw: Flaw, what: &str) -> Error {
    match flaw {
        Flaw::Unreadable(error) => Error::because(format!("cannot unpack '{what}'"), error),
        Flaw::Refused { name, why } => refuse(&printable(&name), &why),
        Flaw::TooLarge(max) => {
            Error::new(format!("refusing '{what}': unpacked it takes more than {max} bytes"))
                .hint("--max-size takes more")
        }
    }
}

/// The error for what is no tarball.
pub(crate) fn unknown(what: &str) -> Error {
    Error::new(format!("refusing '{what}': it is no tarball that is taken here")).hint(
        "a .tar, .tar.gz, .tar.xz or .tar.zst is; for another: \
         'bzip2 --decompress --stdout FILE | rootfs-fetch --from - DEST'",
    )
}

/// Keep this thread from writing anything outside of `tree`, whatever mistake is made here: a second fence
/// behind the resolution of paths, where the kernel has Landlock and can still link between directories.
fn fence(tree: &Tree) {
    let fenced = || -> Result<_, landlock::RulesetError> {
        let writing = AccessFs::from_write(ABI::V5);
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::Refer)?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(writing)?
            .create()?
            .add_rule(PathBeneath::new(tree.root(), writing))?
            .restrict_self()
    };
    drop(fenced()); // without it the first fence stands alone, as on a kernel before 5.19
}

struct Unpacker<'a> {
    tree: &'a Tree,
    what: &'a str,
    /// The directory of the last member: the next one is likely to be in it too.
    parent: Option<(OsString, OwnedFd)>,
    /// Modes and times of directories, set when nothing more is written into them.
    dirs: Vec<(OsString, Metadata)>,
    skipped: Skipped,
    /// Of a layer: the paths that are of it, and not of one below.
    own: Option<BTreeSet<OsString>>,
}

/// What a member has besides its content.
struct Metadata {
    mode: Mode,
    uid: Uid,
    gid: Gid,
    times: Timestamps,
    attributes: Vec<(OsString, Vec<u8>)>,
}

impl<'a> Unpacker<'a> {
    fn new(tree: &'a Tree, what: &'a str, whiteouts: Whiteouts) -> Self {
        Self {
            tree,
            what,
            parent: None,
            dirs: Vec::new(),
            skipped: Skipped::default(),
            own: (whiteouts == Whiteouts::Applied).then(BTreeSet::new),
        }
    }

    /// Take away what `path`, in a layer, says is not there; tell whether it says that.
    fn white_out(&mut self, path: &OsStr) -> rustix::io::Result<bool> {
        let Some(own) = &mut self.own else { return Ok(false) };
        let (parent, name) = split(path);
        let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") else {
            let mut path = path;
            while !path.is_empty() && own.insert(path.to_owned()) {
                path = split(path).0;
            }
            return Ok(false);
        };
        self.parent = None; // it may be among what is removed
        let opaque = hidden == b".wh..opq";
        let mut dirs = vec![parent.to_owned()];
        while let Some(parent) = dirs.pop() {
            let dir = match self.tree.open(&parent, OFlags::RDONLY | OFlags::DIRECTORY) {
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                dir => dir?,
            };
            let hidden = match hidden {
                b"" | b"." | b".." => return Err(Errno::INVAL),
                _ if opaque => names(&dir)?,
                name => vec![CString::new(name).map_err(|_| Errno::INVAL)?],
            };
            for name in hidden {
                let name = OsStr::from_bytes(name.to_bytes());
                let path = join(&parent, name);
                if !own.contains(&path) {
                    remove(&dir, name)?;
                } else if opaque && fs::openat(&dir, name, DIRECTORY, Mode::empty()).is_ok() {
                    dirs.push(path); // of this layer, with more of those below in it perhaps
                }
            }
        }
        Ok(true)
    }

    fn explain(&self, flaw: Flaw) -> Error {
        explain(flaw, self.what)
    }

    fn member<R: BufRead>(
        &mut self,
        member: &Member,
        members: &mut Members<R>,
    ) -> Result<(), Error> {
        let shown = printable(&member.path);
        let path = inside(&member.path).map_err(|why| refuse(&shown, why))?;
        let metadata = Metadata::of(member, &shown)?;
        let what = self.what;
        let cannot = || format!("cannot unpack '{shown}' of '{what}'");
        if path.is_empty() && member.kind != EntryType::Directory {
            return Err(refuse(&shown, "it takes the place of the root directory"));
        }
        if self.white_out(&path).attempt(cannot)? {
            return Ok(());
        }
        match member.kind {
            EntryType::Directory => self.directory(path, metadata).attempt(cannot),
            EntryType::Regular | EntryType::GNUSparse => {
                self.file(&path, &metadata, member, members, cannot)
            }
            EntryType::Symlink => {
                if member.link.is_empty() || member.link.contains(&0) {
                    return Err(refuse(&shown, "it is a symbolic link to a name that cannot be"));
                }
                self.symlink(&path, OsStr::from_bytes(&member.link), &metadata).attempt(cannot)
            }
            EntryType::Link => {
                let target = link_target(&member.link).ok_or_else(|| {
                    let target = printable(&member.link);
                    refuse(&shown, &format!("its hard link to '{target}' leads out of the tree"))
                })?;
                self.hard_link(&path, &target).attempt(cannot)
            }
            EntryType::Char | EntryType::Block => {
                let (major, minor) = member.device;
                if member.kind == EntryType::Block || !STANDARD_NODES.contains(&member.device) {
                    self.skipped.device_nodes += 1;
                    return Ok(());
                }
                let device = fs::makedev(major, minor);
                match self.node(&path, FileType::CharacterDevice, device, &metadata) {
                    Err(Errno::PERM) => {
                        self.skipped.refused_nodes += 1;
                        Ok(())
                    }
                    made => made.attempt(cannot),
                }
            }
            EntryType::Fifo => self.node(&path, FileType::Fifo, 0, &metadata).attempt(cannot),
            other => {
                let why =
                    format!("nothing is known of its type '{}'", printable(&[other.as_byte()]));
                Err(refuse(&shown, &why))
            }
        }
    }

    /// Call `make` with the directory of `path` and the name in it; what has that name already gives way.
    fn place<T>(
        &mut self,
        path: &OsStr,
        make: impl Fn(&OwnedFd, &OsStr) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        let (parent, name) = split(path);
        if self.parent.as_ref().is_none_or(|(open, _)| open != parent) {
            self.parent = Some((parent.to_owned(), self.tree.make_dir_all(parent)?));
        }
        let Some((_, dir)) = &self.parent else { return Err(Errno::NOENT) };
        match make(dir, name) {
            Err(Errno::EXIST) => {}
            done => return done,
        }
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            // What a layer has takes the place of all that lies below.
            Err(Errno::ISDIR) if self.own.is_some() => remove(dir, name)?,
            Err(Errno::ISDIR) => fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?,
            unlinked => unlinked?,
        }
        make(dir, name)
    }

    fn directory(&mut self, path: OsString, metadata: Metadata) -> rustix::io::Result<()> {
        let there = self.tree.open(&path, DIRECTORY);
        if there.is_err() {
            self.place(&path, |dir, name| fs::mkdirat(dir, name, Mode::RWXU))?;
        }
        self.dirs.push((path, metadata));
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        path: &OsStr,
        metadata: &Metadata,
        member: &Member,
        members: &mut Members<R>,
        cannot: impl Fn() -> String,
    ) -> Result<(), Error> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Nobody else comes in here yet, so it may have its mode at once; setuid comes after the owner.
        let mode = metadata.mode & Mode::from_raw_mode(0o777);
        let create = |dir: &OwnedFd, name: &OsStr| fs::openat(dir, name, flags, mode);
        let mut file = File::from(self.place(path, create).attempt(&cannot)?);
        let mut end = 0;
        for extent in &member.extents {
            if extent.offset > end {
                file.seek(SeekFrom::Start(extent.offset)).attempt(&cannot)?;
            }
            self.copy(*extent, members, &mut file, &cannot)?;
            end = extent.offset + extent.length;
        }
        if end < member.size || member.extents.last().is_some_and(|last| last.length == 0) {
            ftruncate(&file, member.size).attempt(&cannot)?;
        }
        self.set(&file, metadata).attempt(cannot)
    }

    fn copy<R: BufRead>(
        &mut self,
        extent: Extent,
        members: &mut Members<R>,
        file: &mut File,
        cannot: impl Fn() -> String,
    ) -> Result<(), Error> {
        let mut left = extent.length;
        while left > 0 {
            let content = members.content(left).map_err(|flaw| match flaw {
                Flaw::Unreadable(error) => Error::because(cannot(), error),
                flaw => self.explain(flaw),
            })?;
            file.write_all(content).attempt(&cannot)?;
            let written = content.len();
            members.consume(written);
            left -= written as u64;
        }
        Ok(())
    }

    fn symlink(
        &mut self,
        path: &OsStr,
        target: &OsStr,
        metadata: &Metadata,
    ) -> rustix::io::Result<()> {
        self.place(path, |dir, name| {
            fs::symlinkat(target, dir, name)?;
            let owned = own(dir, name, metadata);
            fs::utimensat(dir, name, &metadata.times, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(owned)
        })
        .and_then(|owned| self.count_owner(owned))?;
        self.set_attributes_of(path, metadata)
    }

    fn hard_link(&mut self, path: &OsStr, target: &OsStr) -> rustix::io::Result<()> {
        let (target_parent, target_name) = split(target);
        let target_dir = self.tree.open(target_parent, OFlags::PATH | OFlags::DIRECTORY)?;
        self.place(path, |dir, name| {
            fs::linkat(&target_dir, target_name, dir, name, AtFlags::empty())
        })
    }

    fn node(
        &mut self,
        path: &OsStr,
        file_type: FileType,
        device: fs::Dev,
        metadata: &Metadata,
    ) -> rustix::io::Result<()> {
        self.place(path, |dir, name| {
            fs::mknodat(dir, name, file_type, Mode::empty(), device)?;
            let owned = own(dir, name, metadata);
            // Follows links, but the name is a node made just now in a directory closed to others.
            fs::chmodat(dir, name, metadata.mode, AtFlags::empty())?;
            fs::utimensat(dir, name, &metadata.times, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(owned)
        })
        .and_then(|owned| self.count_owner(owned))?;
        self.set_attributes_of(path, metadata)
    }

    /// Set the extended attributes of what cannot be opened, a link or node made just now.
    fn set_attributes_of(&mut self, path: &OsStr, metadata: &Metadata) -> rustix::io::Result<()> {
        let Some((_, dir)) = self.parent.as_ref().filter(|_| !metadata.attributes.is_empty())
        else {
            return Ok(());
        };
        let mut place = OsString::from(format!("/proc/self/fd/{}/", dir.as_raw_fd()));
        place.push(split(path).1);
        for (name, value) in &metadata.attributes {
            match fs::lsetxattr(&place, name.as_os_str(), value, XattrFlags::empty()) {
                // Those of users are for files and directories only.
                Err(Errno::NOTSUP | Errno::PERM) => self.skipped.attributes += 1,
                set => set?,
            }
        }
        Ok(())
    }

    /// Without root only some owners can be given (EPERM), and in a user namespace some are nobody (EINVAL).
    fn count_owner(&mut self, owned: rustix::io::Result<()>) -> rustix::io::Result<()> {
        match owned {
            Err(Errno::PERM | Errno::INVAL) => self.skipped.owners += 1,
            owned => owned?,
        }
        Ok(())
    }

    /// Set what a file or directory has besides its content.
    fn set(&mut self, file: impl AsFd, metadata: &Metadata) -> rustix::io::Result<()> {
        let file = file.as_fd();
        let found = fs::fstat(file)?; // a look costs much less than a change, which goes to a journal
        let owned = (found.st_uid, found.st_gid) == (metadata.uid.as_raw(), metadata.gid.as_raw());
        if !owned {
            self.count_owner(fs::fchown(file, Some(metadata.uid), Some(metadata.gid)))?;
        }
        if !owned || Mode::from_raw_mode(found.st_mode) != metadata.mode {
            fs::fchmod(file, metadata.mode)?; // after chown, which takes setuid and setgid away
        }
        for (name, value) in &metadata.attributes {
            // After chown too, which takes capabilities away.
            match fs::fsetxattr(file, name.as_os_str(), value, XattrFlags::empty()) {
                Err(Errno::NOTSUP | Errno::PERM) => self.skipped.attributes += 1,
                set => set?,
            }
        }
        fs::futimens(file, &metadata.times)
    }

    /// Give the directories what they have besides their content, the last first: its time changes with
    /// each name made in it.
    fn finish(mut self) -> Result<Skipped, Error> {
        let root_is_named = self.dirs.iter().any(|(path, _)| path.is_empty());
        for (path, metadata) in std::mem::take(&mut self.dirs).iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match self.tree.open(path, flags) {
                Ok(dir) => self.set(dir, metadata),
                // A later entry has taken its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(errno) => Err(errno),
            }
            .attempt(|| format!("cannot finish the directory '{}'", printable(path.as_bytes())))?;
        }
        if !root_is_named {
            let open = Mode::from_raw_mode(0o755);
            fs::fchmod(self.tree.root(), open).attempt(|| "cannot open the tree to all".into())?;
        }
        Ok(self.skipped)
    }
}

fn own(dir: &OwnedFd, name: &OsStr, metadata: &Metadata) -> rustix::io::Result<()> {
    let (uid, gid) = (Some(metadata.uid), Some(metadata.gid));
    fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

impl Metadata {
    fn of(member: &Member, shown: &str) -> Result<Self, Error> {
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        let Member { uid, gid, mtime: Time { seconds, nanoseconds }, .. } = *member;
        let (Some(uid), Some(gid)) = (id(uid), id(gid)) else {
            return Err(refuse(shown, &format!("its owner {uid}:{gid} is beyond 32 bits")));
        };
        let mtime = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let mut attributes = Vec::new();
        for (key, value) in &member.records {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                attributes.push((OsStr::from_bytes(name).into(), value.clone()));
            } else if let Some(name) = acl::attribute(key).filter(|_| !value.is_empty()) {
                let list = acl::parse(value)
                    .ok_or_else(|| refuse(shown, "its access control list is malformed"))?;
                attributes.push((name.into(), list));
            }
        }
        Ok(Self {
            mode: Mode::from_raw_mode(member.mode & 0o7777),
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            times: Timestamps { last_access: mtime, last_modification: mtime },
            attributes,
        })
    }
}

/// `path` from the tree's root, without empty parts and `.`, or why it is none there.
fn inside(path: &[u8]) -> Result<OsString, &'static str> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("it leads out of the tree"),
            part => kept.push(part),
        }
    }
    let kept = kept.join(&b'/');
    match kept {
        _ if path.is_empty() => Err("it has no name"),
        _ if kept.contains(&0) => Err("its name holds a NUL"),
        _ if kept.len() > MAX_PATH => Err("its name is longer than the kernel takes"),
        kept => Ok(OsString::from_vec(kept)),
    }
}

/// Where a hard link leads to, unless that is no place in the tree.
fn link_target(target: &[u8]) -> Option<OsString> {
    inside(target).ok().filter(|inner| !target.starts_with(b"/") && !inner.is_empty())
}

fn refuse(entry: &str, why: &str) -> Error {
    Error::new(format!("refusing archive entry '{entry}': {why}"))
}

/// `bytes` without what could drive a terminal.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{inside, link_target, printable};
    use proptest::prelude::*;

    #[test]
    fn paths_are_taken_from_the_trees_root() {
        let cases = [("./a//b/", "a/b"), ("/etc/passwd", "etc/passwd"), (".", ""), ("...", "...")];
        for (path, taken) in cases {
            assert_eq!(inside(path.as_bytes()).unwrap(), taken);
        }
        for path in ["..", "a/../b", "/..", "a/..", "", "a\0b"] {
            assert!(inside(path.as_bytes()).is_err(), "{path:?}");
        }
        assert!(inside(&[b'a'; 4095]).is_ok());
        assert!(inside(&[b'a'; 4096]).is_err());
    }

    #[test]
    fn hard_links_lead_to_a_place_in_the_tree() {
        assert_eq!(link_target(b"./a").unwrap(), "a");
        for target in ["/a", "../a", "", ".", "a/.."] {
            assert_eq!(link_target(target.as_bytes()), None, "{target}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leads_out(path in prop::collection::vec(prop::sample::select(&b"ab./\0"[..]), 0..40)) {
            if let Ok(inner) = inside(&path) {
                let inner = inner.into_encoded_bytes();
                let parts: Vec<&[u8]> = inner.split(|byte| *byte == b'/').collect();
                prop_assert!(!parts.contains(&&b".."[..]));
                prop_assert!(inner.is_empty() || !parts.contains(&&b""[..]));
            }
            prop_assert!(!printable(&path).chars().any(char::is_control));
        }
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(printable("\x1b[2Jé\n".as_bytes()), "\\u{1b}[2Jé\\n");
    }
}
