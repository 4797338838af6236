//! What rootfs-fetch unpacks is what GNU tar unpacks, in everything that a file system holds of it.

use crate::{
    fixture::debian_tarball,
    rootfs_fetch::Place,
    support::{installed, root, sh},
};
use rustix::{
    fs::{
        AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, lsetxattr, utimensat,
    },
    io::Errno,
};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, lchown, symlink},
    },
    path::Path,
};

/// One line for each name in `dir`, sorted: type, mode, owner, size or device, time, link target, the other
/// names that it has, extended attributes; and one with the sum of each file.
fn manifest(dir: &Path) -> Vec<String> {
    let (mut lines, mut first_names) = (Vec::new(), BTreeMap::new());
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let name = shown(path.strip_prefix(dir).unwrap());
        let (kind, mut size) = (found.file_type(), 0);
        let mut line = format!("{name} {:o} {}:{}", found.mode(), found.uid(), found.gid());
        if kind.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
            names.sort();
            todo.extend(names.into_iter().rev());
        } else {
            size = found.size();
            let first = first_names.entry(found.ino()).or_insert(name);
            write!(line, " {} names, first {first}", found.nlink()).unwrap();
        }
        write!(line, " {size} bytes, device {:x}", found.rdev()).unwrap();
        write!(line, " {}.{:09}", found.mtime(), found.mtime_nsec()).unwrap();
        if kind.is_symlink() {
            write!(line, " to {}", shown(&fs::read_link(&path).unwrap())).unwrap();
        }
        for (name, value) in attributes(&path) {
            write!(line, " {name}={value:x?}").unwrap();
        }
        lines.push(line);
    }
    let sums = "find . -type f -print0 | sort --zero-terminated | xargs --null sha256sum";
    let sums = sh(&format!("cd '{}' && {sums}", dir.display())).success().stdout;
    lines.extend(sums.lines().map(str::to_owned));
    lines
}

/// All of a path, in one line and whatever its bytes.
fn shown(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = match llistxattr(path, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        length => length.unwrap(),
    };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let length = lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        value.truncate(length);
        (String::from_utf8_lossy(name).into_owned(), value)
    };
    names.map(value).collect()
}

/// Unpack `tarball` with both, and compare; give how many lines there are.
#[track_caller]
fn compare(place: &Place, tarball: &Path) -> usize {
    let tarball = tarball.to_str().unwrap();
    place.fetch(&["--from", tarball, "--no-install", "ours"]).success();
    let theirs = place.path("theirs");
    fs::create_dir(&theirs).unwrap();
    let tar = "tar --numeric-owner --xattrs --xattrs-include='*' --acls -xpf";
    sh(&format!("{tar} '{tarball}' -C '{}'", theirs.display())).success();
    let (ours, theirs) = (manifest(&place.path("ours")), manifest(&theirs));
    let differ: Vec<_> = ours.iter().zip(&theirs).filter(|(one, other)| one != other).collect();
    assert!(differ.is_empty() && ours.len() == theirs.len(), "{differ:#?}");
    ours.len()
}

#[test]
fn a_tarball_of_the_distribution_unpacks_as_tar_unpacks_it() {
    need!(root() && installed("mmdebstrap"));
    assert!(compare(&Place::new(), debian_tarball()) > 5000);
}

/// An access control list as the kernel holds it: the owner, user 70000, the group, the mask, others. GNU tar writes
/// users by name where they have one.
const LIST: &[u8] = b"\x02\0\0\0\
    \x01\0\x07\0\xff\xff\xff\xff\x02\0\x05\0\x70\x11\x01\0\x04\0\x05\0\xff\xff\xff\xff\
    \x10\0\x05\0\xff\xff\xff\xff\x20\0\x01\0\xff\xff\xff\xff";

/// `cap_net_raw=ep`.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Make what distributions have little or nothing of.
fn fill(dir: &Path) {
    let make = r"mkdir etc bin etc/empty 'etc/with space' && printf one >etc/one && ln etc/one etc/two && ln etc/one bin/three
        printf x >bin/setuid && chown 70000:4000000000 bin/setuid && chmod 7755 bin/setuid
        mkdir -m 3777 tmp && chown 5:6 tmp && mkfifo -m 640 etc/fifo && mknod -m 666 etc/null c 1 3
        printf y >etc/$'new\nline' && printf z >etc/$'latin\xe9' && : >etc/none && chmod 0 etc/none
        printf begin >etc/holes && truncate -s 3M etc/holes && printf end >>etc/holes
        deep=etc; for n in $(seq 30); do deep=$deep/directory-$n; done; mkdir -p $deep && printf d >$deep/file
        head -c 1000000 /dev/urandom >etc/large && printf x >etc/$(printf 'n%.0s' $(seq 255))";
    sh(&format!("cd '{}' && set -e && {make}", dir.display())).success();
    symlink("/etc/one", dir.join("etc/link")).unwrap();
    symlink("n".repeat(300), dir.join("etc/long")).unwrap();
    lchown(dir.join("etc/link"), Some(7), Some(8)).unwrap();
    let set = |path: &str, name: &str, value: &[u8]| {
        lsetxattr(dir.join(path), name, value, XattrFlags::empty()).unwrap();
    };
    for path in ["etc/one", "etc/empty", "etc/link", "etc/fifo"] {
        set(path, "trusted.x", b"a\n\0=b\xff");
    }
    set("bin/three", "security.capability", CAPABILITY);
    set("etc/large", "system.posix_acl_access", LIST);
    set("tmp", "system.posix_acl_access", LIST);
    set("tmp", "system.posix_acl_default", LIST);
    for (path, seconds) in
        [("etc/one", 1), ("etc/link", 1_000_000_000), ("etc/fifo", -2), ("etc/empty", 0)]
    {
        let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, dir.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

#[test]
fn what_file_systems_can_hold_unpacks_as_tar_unpacks_it() {
    need!(root());
    let place = Place::new();
    let made = place.path("made");
    fs::create_dir(&made).unwrap();
    fill(&made);
    let tarball = place.path("rich.tar.gz");
    let tar = "tar --format=posix --numeric-owner --sparse --xattrs --xattrs-include='*' --acls";
    sh(&format!("{tar} -czf '{}' -C '{}' .", tarball.display(), made.display())).success();
    assert_eq!(compare(&place, &tarball), 62);
    assert_eq!(manifest(&place.path("ours")), manifest(&made));
}
