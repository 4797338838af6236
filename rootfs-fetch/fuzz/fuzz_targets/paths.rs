//! Any names, links and types, one after the other: nothing outside of the tree changes.
//!
//! It runs the whole unpacker, in a directory of its own beside one that must stay as it is.
#![no_main]
#![expect(dead_code, reason = "of these modules only what unpacks is used")]

#[path = "../../src/acl.rs"]
mod acl;
#[path = "../../src/archive.rs"]
mod archive;
#[path = "../../src/decode.rs"]
mod decode;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/tree.rs"]
mod tree;
#[path = "../../src/unpack.rs"]
mod unpack;

use arbitrary::Arbitrary;
use libfuzzer_sys::{Corpus, fuzz_target};
use std::{fs, os::unix::fs::MetadataExt as _, path::Path};
use tar::{EntryType, Header};
use tree::Tree;
use unpack::{Whiteouts, unpack};

/// One member of an archive, of parts that lead somewhere more often than bytes at random would.
#[derive(Debug, Arbitrary)]
struct Member {
    kind: Kind,
    path: Vec<Part>,
    link: Vec<Part>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Fifo,
}

#[derive(Debug, Arbitrary)]
enum Part {
    Root,
    Here,
    Up,
    A,
    B,
    Outside,
    Canary,
    Whiteout,
    Opaque,
    Any(u8),
}

impl Member {
    fn bytes(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::File => EntryType::Regular,
            Kind::HardLink => EntryType::Link,
            Kind::Symlink => EntryType::Symlink,
            Kind::Directory => EntryType::Directory,
            Kind::Fifo => EntryType::Fifo,
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        let (path, link) = (joined(&self.path), joined(&self.link));
        header.as_mut_bytes()[..path.len()].copy_from_slice(&path);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(&link);
        header.set_size(0);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        header.as_bytes().to_vec()
    }
}

/// The parts with slashes between them, as far as they have room in a header.
fn joined(parts: &[Part]) -> Vec<u8> {
    let part = |part: &Part| match part {
        Part::Root => Vec::new(),
        Part::Here => b".".to_vec(),
        Part::Up => b"..".to_vec(),
        Part::A => b"a".to_vec(),
        Part::B => b"b".to_vec(),
        Part::Outside => b"outside".to_vec(),
        Part::Canary => b"canary".to_vec(),
        Part::Whiteout => b".wh.a".to_vec(),
        Part::Opaque => b".wh..wh..opq".to_vec(),
        Part::Any(byte) => vec![*byte],
    };
    let mut path = parts.iter().map(part).collect::<Vec<_>>().join(&b'/');
    path.truncate(100);
    path
}

/// What must stay: the canary and the directory around it.
fn look(outside: &Path) -> (Vec<u8>, u64, i64, u32) {
    let (dir, file) = (fs::metadata(outside).unwrap(), outside.join("canary"));
    let canary = fs::metadata(&file).unwrap();
    let names = fs::read_dir(outside).unwrap().count();
    assert_eq!(names, 1);
    (fs::read(file).unwrap(), canary.nlink(), dir.ctime_nsec() + dir.ctime(), canary.mode())
}

fuzz_target!(|input: (bool, Vec<Member>)| -> Corpus {
    let (is_layer, members) = input;
    if members.len() > 20 {
        return Corpus::Reject;
    }
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let outside = place.path().join("outside");
    let root = place.path().join("tree");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(outside.join("canary"), "alive").unwrap();
    let before = look(&outside);
    let mut archive: Vec<u8> = members.iter().flat_map(Member::bytes).collect();
    archive.extend([0; 1024]);
    let tree = Tree::new(fs::File::open(&root).unwrap().into());
    let whiteouts = if is_layer { Whiteouts::Applied } else { Whiteouts::None };
    drop(unpack(&archive[..], "archive", &tree, &mut (1 << 20), whiteouts));
    assert_eq!(look(&outside), before);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    Corpus::Keep
});
