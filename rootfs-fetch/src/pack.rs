//! Packing a tree into a tar archive: the same tree gives the same bytes.
//!
//! Names come in their order, without what tells one run from another: no access times, no inode numbers, no
//! names of users. What a header cannot hold is in PAX records before it.

use crate::{
    manifest::{Node, walk},
    tree::Tree,
};
use rustix::fs::{FileType, Stat, major, minor, readlinkat};
use std::{
    collections::HashMap,
    io::{self, Read as _, Write},
    os::unix::ffi::OsStrExt as _,
};
use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// What fits a field of a header: 100 bytes of a name, 7 octal digits of an id, 11 of a size or a time.
const MAX_NAME: usize = 100;
const MAX_ID: u32 = 0o777_7777;
const MAX_NUMBER: u64 = 0o777_7777_7777;

/// What the archive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be unpacked by itself.
    Archive,
    /// To be a layer of an image, where a name that begins with `.wh.` means that something is not there.
    Layer,
}

/// Write `tree` to `out` as a tar archive, and give the number of sockets in it, which no archive holds.
pub(crate) fn pack(tree: &Tree, purpose: Purpose, out: &mut impl Write) -> io::Result<u64> {
    let (mut links, mut sockets) = (HashMap::new(), 0);
    walk(tree, |node| {
        if purpose == Purpose::Layer && node.name.to_bytes().starts_with(b".wh.") {
            let name = node.path.display();
            return Err(invalid(format!("'{name}' would mean in a layer that it is not there")));
        }
        if FileType::from_raw_mode(node.stat.st_mode) == FileType::Socket {
            sockets += 1;
            return Ok(());
        }
        member(&node, &mut links, out)
    })?;
    out.write_all(&[0; 2 * BLOCK])?;
    Ok(sockets)
}

/// The first name of each file that has several, by device and inode.
type Links = HashMap<(u64, u64), Vec<u8>>;

fn member(node: &Node<'_>, links: &mut Links, out: &mut impl Write) -> io::Result<()> {
    let Stat { st_mode, st_uid, st_gid, st_mtime, st_mtime_nsec, st_rdev, .. } = *node.stat;
    let mut header = Header::new_ustar();
    let mut records = Records(Vec::new());
    let kind = FileType::from_raw_mode(st_mode);
    let mut name = node.path.as_bytes().to_vec();
    if kind == FileType::Directory {
        name.extend(if name.is_empty() { &b"./"[..] } else { b"/" });
    }
    records.name(&mut header, 0, "path", &name);
    header.set_mode(st_mode & 0o7777);
    header.set_uid(records.id("uid", st_uid));
    header.set_gid(records.id("gid", st_gid));
    header.set_mtime(records.time(st_mtime, st_mtime_nsec));
    header.set_size(0);
    let mut content = None;
    if let Some(first) = first_name(node, kind, name, links) {
        header.set_entry_type(EntryType::Link);
        records.name(&mut header, LINK, "linkpath", &first);
    } else {
        records.attributes(node)?;
        match kind {
            FileType::RegularFile => {
                let size = u64::try_from(node.stat.st_size).unwrap_or_default();
                header.set_entry_type(EntryType::Regular);
                if size > MAX_NUMBER {
                    records.push("size", size.to_string().as_bytes());
                }
                header.set_size(size);
                content = Some(size);
            }
            FileType::Directory => header.set_entry_type(EntryType::Directory),
            FileType::Fifo => header.set_entry_type(EntryType::Fifo),
            FileType::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                let target = readlinkat(node.dir, node.name, Vec::new())?;
                records.name(&mut header, LINK, "linkpath", target.as_bytes());
            }
            device => {
                let block = device == FileType::BlockDevice;
                header.set_entry_type(if block { EntryType::Block } else { EntryType::Char });
                header.set_device_major(major(st_rdev))?;
                header.set_device_minor(minor(st_rdev))?;
            }
        }
    }
    records.write(out)?;
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    content.map_or(Ok(()), |size| copy(node, size, out))
}

/// The name that the file of `node` has already, if it has one; else it has `name` from now on.
fn first_name(
    node: &Node<'_>,
    kind: FileType,
    name: Vec<u8>,
    links: &mut Links,
) -> Option<Vec<u8>> {
    if kind == FileType::Directory || node.stat.st_nlink < 2 {
        return None;
    }
    let file = (node.stat.st_dev, node.stat.st_ino);
    let first = links.get(&file).cloned();
    if first.is_none() {
        links.insert(file, name);
    }
    first
}

fn copy(node: &Node<'_>, size: u64, out: &mut impl Write) -> io::Result<()> {
    if io::copy(&mut node.open()?.take(size), out)? != size {
        return Err(invalid(format!("'{}' has become shorter meanwhile", node.path.display())));
    }
    pad(size, out)
}

/// Fill the last block of what has `size` bytes.
fn pad(size: u64, out: &mut impl Write) -> io::Result<()> {
    let filled = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    out.write_all(&[0; BLOCK][..(BLOCK - filled) % BLOCK])
}

/// Where the target of a link is in a header.
const LINK: usize = 157;

/// PAX records in the making: what a header cannot hold.
struct Records(Vec<u8>);

impl Records {
    /// Add one: its length in decimal, with itself, a key, a value.
    fn push(&mut self, key: &str, value: &[u8]) {
        let rest = key.len() + value.len() + 3; // space, '=', newline
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend(format!("{length} {key}=").as_bytes());
        self.0.extend(value);
        self.0.push(b'\n');
    }

    /// Put a name at `place` in the header, as far as it fits.
    fn name(&mut self, header: &mut Header, place: usize, key: &str, name: &[u8]) {
        let fits = name.len().min(MAX_NAME);
        header.as_mut_bytes()[place..place + fits].copy_from_slice(&name[..fits]);
        if name.len() > MAX_NAME {
            self.push(key, name);
        }
    }

    /// What the header has as an id.
    fn id(&mut self, key: &str, id: u32) -> u64 {
        if id <= MAX_ID {
            return id.into();
        }
        self.push(key, id.to_string().as_bytes());
        0
    }

    /// What the header has as a time.
    fn time(&mut self, seconds: i64, nanoseconds: u64) -> u64 {
        let whole = u64::try_from(seconds).ok().filter(|seconds| *seconds <= MAX_NUMBER);
        if whole.is_none() || nanoseconds != 0 {
            self.push("mtime", decimal(seconds, nanoseconds).as_bytes());
        }
        whole.unwrap_or_default()
    }

    fn attributes(&mut self, node: &Node<'_>) -> io::Result<()> {
        for (name, value) in node.attributes()? {
            // Labels are by the policy of this host.
            if name == b"security.selinux" {
                continue;
            }
            let key = std::str::from_utf8(&name).ok().filter(|key| !key.contains('='));
            let key = key.ok_or_else(|| {
                let (name, path) = (name.escape_ascii(), node.path.display());
                invalid(format!("no archive holds the extended attribute '{name}' of '{path}'"))
            })?;
            self.push(&format!("SCHILY.xattr.{key}"), &value);
        }
        Ok(())
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..9].copy_from_slice(b"PaxHeader");
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let size = self.0.len() as u64;
        header.set_size(size);
        header.set_cksum();
        out.write_all(header.as_bytes())?;
        out.write_all(&self.0)?;
        pad(size, out)
    }
}

/// Seconds with a fraction. A time before 1970 is so many seconds before it, and its fraction too.
fn decimal(seconds: i64, nanoseconds: u64) -> String {
    if seconds < 0 && nanoseconds > 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use super::{Purpose, Records, decimal, pack};
    use crate::{
        archive::{Member, Members, Time},
        tree::Tree,
    };
    use std::{
        fs::{self, File, FileTimes},
        os::unix::fs::symlink,
        path::Path,
        time::{Duration, SystemTime},
    };

    fn packed(dir: &Path, purpose: Purpose) -> std::io::Result<Vec<u8>> {
        let mut archive = Vec::new();
        pack(&Tree::new(File::open(dir)?.into()), purpose, &mut archive)?;
        Ok(archive)
    }

    fn members(archive: &[u8]) -> Vec<Member> {
        let mut members = Members::new(archive, 1 << 30);
        std::iter::from_fn(|| members.next().unwrap()).collect()
    }

    #[test]
    fn records_tell_their_own_length() {
        for length in [1, 80, 86, 87, 88, 89, 90, 981, 982, 983] {
            let mut records = Records(Vec::new());
            records.push("path", &vec![b'x'; length]);
            let text = String::from_utf8(records.0).unwrap();
            assert_eq!(text.split(' ').next().unwrap(), text.len().to_string());
        }
    }

    #[test]
    fn what_is_packed_is_what_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let long = "long-".repeat(40);
        fs::create_dir(dir.path().join(&long)).unwrap();
        fs::write(dir.path().join(&long).join("file"), "content").unwrap();
        fs::hard_link(dir.path().join(&long).join("file"), dir.path().join("zz")).unwrap();
        symlink(&long, dir.path().join("link")).unwrap();
        let time = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
        let file = File::open(dir.path().join("zz")).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
        let archive = packed(dir.path(), Purpose::Archive).unwrap();
        assert_eq!(archive, packed(dir.path(), Purpose::Layer).unwrap());
        let members = members(&archive);
        let names: Vec<_> = members.iter().map(|it| String::from_utf8_lossy(&it.path)).collect();
        let first = format!("{long}/file");
        assert_eq!(names, ["./", "link", &format!("{long}/"), &first, "zz"]);
        assert_eq!(members[1].link, long.as_bytes());
        assert_eq!(members[3].mtime, Time { seconds: -2, nanoseconds: 500_000_000 });
        assert_eq!((members[3].size, &*members[4].link), (7, first.as_bytes()));
    }

    #[test]
    fn a_layer_has_no_name_that_takes_something_away() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".wh.x"), "").unwrap();
        assert!(packed(dir.path(), Purpose::Archive).is_ok());
        let why = packed(dir.path(), Purpose::Layer).unwrap_err().to_string();
        assert_eq!(why, "'.wh.x' would mean in a layer that it is not there");
    }

    #[test]
    fn times_before_1970_are_negative() {
        let cases =
            [(5, 0, "5.000000000"), (-2, 500_000_000, "-1.500000000"), (-2, 0, "-2.000000000")];
        for (seconds, nanoseconds, text) in cases {
            assert_eq!(decimal(seconds, nanoseconds), text);
        }
    }
}
