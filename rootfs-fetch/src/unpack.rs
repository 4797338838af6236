//! Unpacking a tarball: the tar crate parses, all writing goes through directory handles.
//!
//! The crate's own `unpack` makes empty files of device nodes and FIFOs, leaves `..` entries out without a
//! word, resolves links against the host's root and does not notice a wrong CRC.

use crate::{
    error::{Attempt as _, Error},
    tree::{Tree, split},
};
use flate2::bufread::MultiGzDecoder;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    io::{self, BufReader, Cursor, Read, Write as _},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};
use tar::EntryType;

/// The device nodes that a root file system has: null zero full random urandom, tty console ptmx.
const STANDARD_NODES: [(u32, u32); 8] =
    [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];

/// What was in the archive and is not in the tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// Device nodes that are none of the standard ones: a disk or memory, say.
    pub(crate) device_nodes: u64,
    /// Extended attributes that the file system of the tree does not hold.
    pub(crate) attributes: u64,
}

/// Unpack the tarball `input`, named `what` in messages, into the empty `tree`.
pub(crate) fn unpack(input: impl Read, what: &str, tree: &Tree) -> Result<Skipped, Error> {
    let unreadable = || format!("cannot unpack '{what}'");
    let mut archive = tar::Archive::new(decode(input, what)?);
    let mut unpacker =
        Unpacker { tree, parent: None, dirs: Vec::new(), skipped: Skipped::default() };
    for entry in archive.entries().attempt(unreadable)? {
        unpacker.entry(entry.attempt(unreadable)?, what)?;
    }
    // The archive ends before its compressed stream does, and the stream's checksum is at its end.
    io::copy(&mut archive.into_inner(), &mut io::sink()).attempt(unreadable)?;
    unpacker.finish()
}

/// The tar stream in `input`, told by what it begins with.
fn decode<'a>(mut input: impl Read + 'a, what: &str) -> Result<Box<dyn Read + 'a>, Error> {
    let mut head = Vec::with_capacity(512);
    input.by_ref().take(512).read_to_end(&mut head).attempt(|| format!("cannot read '{what}'"))?;
    let format = Format::of(&head).ok_or_else(|| {
        Error::new(format!("refusing '{what}': it is no tarball that is taken here")).hint(
            "a .tar or .tar.gz is; for another: \
                 'xz --decompress --stdout FILE | rootfs-fetch --from - DEST'",
        )
    })?;
    let input = BufReader::with_capacity(1 << 16, Cursor::new(head).chain(input));
    Ok(match format {
        Format::Tar => Box::new(input),
        Format::Gzip => Box::new(MultiGzDecoder::new(input)),
    })
}

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Tar,
    Gzip,
}

impl Format {
    /// The format of what begins with `head`, some 512 bytes.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        let ustar = head.get(257..262).is_some_and(|magic| magic == b"ustar");
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            _ if ustar => Some(Self::Tar),
            _ => None,
        }
    }
}

struct Unpacker<'a> {
    tree: &'a Tree,
    /// The directory of the last entry: the next one is likely to be in it too.
    parent: Option<(OsString, OwnedFd)>,
    /// Modes and times of directories, set when nothing more is written into them.
    dirs: Vec<(OsString, Metadata)>,
    skipped: Skipped,
}

/// What an entry has besides its content.
struct Metadata {
    mode: Mode,
    uid: Uid,
    gid: Gid,
    times: Timestamps,
    attributes: Vec<(OsString, Vec<u8>)>,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>, what: &str) -> Result<(), Error> {
        let raw = entry.path_bytes().into_owned();
        let shown = printable(&raw);
        let path = inside(&raw).ok_or_else(|| refuse(&shown, "it leads out of the tree"))?;
        let metadata = Metadata::of(&mut entry, &shown)?;
        let kind = entry.header().entry_type();
        let cannot = || format!("cannot unpack '{shown}' of '{what}'");
        if path.is_empty() && kind != EntryType::Directory {
            return Err(refuse(&shown, "it takes the place of the root directory"));
        }
        match kind {
            EntryType::Directory => self.directory(path, metadata).attempt(cannot),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&path, &metadata, &mut entry, cannot)
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.symlink(&path, &OsString::from_vec(target), &metadata).attempt(cannot)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target =
                    inside(&target).filter(|_| !target.starts_with(b"/")).ok_or_else(|| {
                        let why = format!(
                            "its hard link to '{}' leads out of the tree",
                            printable(&target)
                        );
                        refuse(&shown, &why)
                    })?;
                self.hard_link(&path, &target).attempt(cannot)
            }
            EntryType::Char | EntryType::Block => {
                let header = entry.header();
                let major = header.device_major().attempt(cannot)?.unwrap_or_default();
                let minor = header.device_minor().attempt(cannot)?.unwrap_or_default();
                if kind == EntryType::Block || !STANDARD_NODES.contains(&(major, minor)) {
                    self.skipped.device_nodes += 1;
                    return Ok(());
                }
                let device = fs::makedev(major, minor);
                self.node(&path, FileType::CharacterDevice, device, &metadata).attempt(cannot)
            }
            EntryType::Fifo => self.node(&path, FileType::Fifo, 0, &metadata).attempt(cannot),
            EntryType::XGlobalHeader => Ok(()), // a comment: git writes the commit's hash
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
            Err(Errno::ISDIR) => fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?,
            unlinked => unlinked?,
        }
        make(dir, name)
    }

    fn directory(&mut self, path: OsString, metadata: Metadata) -> rustix::io::Result<()> {
        let there = self.tree.open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW);
        if there.is_err() {
            self.place(&path, |dir, name| fs::mkdirat(dir, name, Mode::RWXU))?;
        }
        self.dirs.push((path, metadata));
        Ok(())
    }

    fn file(
        &mut self,
        path: &OsStr,
        metadata: &Metadata,
        entry: &mut tar::Entry<'_, impl Read>,
        cannot: impl Fn() -> String,
    ) -> Result<(), Error> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create =
            |dir: &OwnedFd, name: &OsStr| fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
        let mut file = std::fs::File::from(self.place(path, create).attempt(&cannot)?);
        let size = entry.size();
        let copied = io::copy(entry, &mut file).attempt(&cannot)?;
        if copied != size {
            let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off");
            return Err(cut).attempt(cannot);
        }
        file.flush().attempt(&cannot)?;
        self.set(&file, metadata).attempt(cannot)
    }

    fn symlink(
        &mut self,
        path: &OsStr,
        target: &OsStr,
        metadata: &Metadata,
    ) -> rustix::io::Result<()> {
        self.place(path, |dir, name| {
            fs::symlinkat(target, dir, name)?;
            fs::chownat(
                dir,
                name,
                Some(metadata.uid),
                Some(metadata.gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
            fs::utimensat(dir, name, &metadata.times, AtFlags::SYMLINK_NOFOLLOW)
        })
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
            fs::chownat(
                dir,
                name,
                Some(metadata.uid),
                Some(metadata.gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
            // Follows links, but the name is a node made just now in a directory closed to others.
            fs::chmodat(dir, name, metadata.mode, AtFlags::empty())?;
            fs::utimensat(dir, name, &metadata.times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Set what a file or directory has besides its content.
    fn set(&mut self, file: impl AsFd, metadata: &Metadata) -> rustix::io::Result<()> {
        let file = file.as_fd();
        fs::fchown(file, Some(metadata.uid), Some(metadata.gid))?;
        fs::fchmod(file, metadata.mode)?; // after chown, which takes setuid and setgid away
        for (name, value) in &metadata.attributes {
            // After chown too, which takes capabilities away.
            match fs::fsetxattr(file, name.as_os_str(), value, XattrFlags::empty()) {
                Err(Errno::NOTSUP) => self.skipped.attributes += 1,
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

impl Metadata {
    fn of<R: Read>(entry: &mut tar::Entry<'_, R>, shown: &str) -> Result<Self, Error> {
        let malformed = || format!("refusing archive entry '{shown}'");
        let header = entry.header();
        let mode = header.mode().attempt(malformed)?;
        let (uid, gid) = (header.uid().attempt(malformed)?, header.gid().attempt(malformed)?);
        let mut mtime =
            Timespec { tv_sec: seconds(header.mtime().attempt(malformed)?), tv_nsec: 0 };
        let mut attributes = Vec::new();
        for record in entry.pax_extensions().attempt(malformed)?.into_iter().flatten() {
            let record = record.attempt(malformed)?;
            match record.key_bytes() {
                b"mtime" => mtime = pax_time(record.value_bytes()).unwrap_or(mtime),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(refuse(
                        shown,
                        "it is a sparse file in PAX form, which is not known here",
                    ));
                }
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        attributes
                            .push((OsStr::from_bytes(name).into(), record.value_bytes().into()));
                    }
                }
            }
        }
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        let (Some(uid), Some(gid)) = (id(uid), id(gid)) else {
            return Err(refuse(shown, &format!("its owner {uid}:{gid} is beyond 32 bits")));
        };
        Ok(Self {
            mode: Mode::from_raw_mode(mode & 0o7777),
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            times: Timestamps { last_access: mtime, last_modification: mtime },
            attributes,
        })
    }
}

fn seconds(mtime: u64) -> i64 {
    // A time before 1970 is a negative number in base 256, which the crate reads as unsigned.
    mtime.cast_signed()
}

/// A PAX time: seconds, perhaps negative, perhaps with a fraction.
fn pax_time(value: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(if whole.starts_with('-') && nanoseconds > 0 {
        Timespec { tv_sec: seconds - 1, tv_nsec: 1_000_000_000 - nanoseconds }
    } else {
        Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
    })
}

/// `path` from the tree's root, without empty parts and `.`; `None` when it has a `..`.
fn inside(path: &[u8]) -> Option<OsString> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => kept.push(part),
        }
    }
    Some(OsString::from_vec(kept.join(&b'/')))
}

fn refuse(entry: &str, why: &str) -> Error {
    Error::new(format!("refusing archive entry '{entry}': {why}"))
}

/// `bytes` without what could drive a terminal.
fn printable(bytes: &[u8]) -> String {
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
    use super::{Format, inside, pax_time, printable};

    #[test]
    fn paths_are_taken_from_the_trees_root() {
        let cases = [("./a//b/", "a/b"), ("/etc/passwd", "etc/passwd"), (".", ""), ("...", "...")];
        for (path, taken) in cases {
            assert_eq!(inside(path.as_bytes()).unwrap(), taken);
        }
        for path in ["..", "a/../b", "/..", "a/.."] {
            assert_eq!(inside(path.as_bytes()), None);
        }
    }

    #[test]
    fn pax_times_have_fractions_and_signs() {
        let read = |text: &str| pax_time(text.as_bytes()).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(read("12"), Some((12, 0)));
        assert_eq!(read("12.000000001"), Some((12, 1)));
        assert_eq!(read("12.5"), Some((12, 500_000_000)));
        assert_eq!(read("12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(read("-1.25"), Some((-2, 750_000_000)));
        for text in ["", ".5", "x", "1.x", "1.-5"] {
            assert_eq!(read(text), None);
        }
    }

    #[test]
    fn the_format_is_told_by_content() {
        let mut ustar = vec![0; 512];
        ustar[257..262].copy_from_slice(b"ustar");
        assert_eq!(Format::of(&ustar), Some(Format::Tar));
        assert_eq!(Format::of(b"\x1f\x8b\x08"), Some(Format::Gzip));
        assert_eq!(Format::of(b"<!DOCTYPE html>"), None);
        assert_eq!(Format::of(b""), None);
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(printable("\x1b[2Jé\n".as_bytes()), "\\u{1b}[2Jé\\n");
    }
}
