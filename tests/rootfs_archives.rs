//! Archives that are hostile, damaged or only strange, and what rootfs-fetch makes of each.
//!
//! Beside each tree lies a directory that must stay as it is, and which the hostile ones aim at. Nothing half
//! made may stay.
#![expect(clippy::too_many_lines, reason = "lists of cases")]

use crate::{
    rootfs_archives_members::{attributes, headers, pax_records, sparse},
    rootfs_archives_paths::{depths, links, replacements, traversals},
    rootfs_fetch::{Place, gzip},
    support::{root, sh},
};
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};
use tar::{EntryType, Header};

/// What is to come of an archive.
pub(crate) enum Expected {
    /// A tree with these paths, and what else holds of it.
    Made(&'static [&'static str], fn(&Path)),
    /// A refusal with this in its message.
    Refused(&'static str),
}

use Expected::{Made, Refused};

pub(crate) struct Case {
    name: String,
    archive: Vec<u8>,
    pub(crate) args: &'static [&'static str],
    expected: Expected,
}

pub(crate) fn case(name: impl Into<String>, archive: Vec<u8>, expected: Expected) -> Case {
    Case { name: name.into(), archive, args: &[], expected }
}

pub(crate) fn nothing(_: &Path) {}

/// The header of a member, its checksum to be set.
fn header(path: &[u8], kind: u8, link: &[u8], size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path);
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
    header.set_entry_type(EntryType::new(kind));
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(size as u64);
    if kind == b'3' || kind == b'4' {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    }
    header
}

/// A member whose header `tweak` has changed before its checksum is set.
pub(crate) fn tweaked(
    path: &[u8],
    kind: u8,
    content: &[u8],
    tweak: impl Fn(&mut Header),
) -> Vec<u8> {
    let mut header = header(path, kind, b"", content.len());
    tweak(&mut header);
    header.set_cksum();
    let mut member = header.as_bytes().to_vec();
    member.extend(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

pub(crate) fn member(path: &[u8], kind: u8, link: &[u8]) -> Vec<u8> {
    tweaked(path, kind, b"", |header| *header = self::header(path, kind, link, 0))
}

pub(crate) fn file(path: &[u8], content: &[u8]) -> Vec<u8> {
    tweaked(path, b'0', content, |_| {})
}

pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = (1..9).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
    [format!("{} ", rest + digits).as_bytes(), key, b"=", value, b"\n"].concat()
}

pub(crate) fn pax(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    tweaked(b"pax", b'x', &content, |_| {})
}

/// A whole archive, which begins with what makes a root file system of it.
pub(crate) fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let base = [member(b"etc/", b'5', b""), member(b"bin/", b'5', b"")].concat();
    [base, members.concat(), vec![0; 1024]].concat()
}

fn streams() -> Vec<Case> {
    let noise: Vec<u8> =
        (0..30_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let sound = archive(&[file(b"etc/x", &noise)]);
    let packed = gzip(&sound);
    let mut cases = Vec::new();
    for part in 1..16 {
        let cut = packed[..packed.len() * part / 16].to_vec();
        cases.push(case(format!("{part}/16 of a gzip"), cut, Refused("cannot unpack")));
        let cut = sound[..sound.len() * part / 16].to_vec();
        cases.push(case(format!("{part}/16 of a tar"), cut, Refused("")));
        let mut flipped = packed.clone();
        flipped[packed.len() * part / 16] ^= 1 << (part % 8);
        cases.push(case(format!("flipped bit at {part}/16"), flipped, Refused("")));
    }
    for (end, name) in [(8, "CRC"), (4, "length")] {
        let mut wrong = packed.clone();
        wrong[packed.len() - end] ^= 1;
        cases.push(case(format!("wrong {name}"), wrong, Refused("cannot unpack")));
    }
    let (one, two) = sound.split_at(1000);
    let whole = |_: &Path| {};
    let members = [gzip(one), gzip(b""), gzip(two)].concat();
    cases.push(case("three members", members, Made(&["etc/x"], whole)));
    let broken = [gzip(one), gzip(two)[..900].to_vec()].concat();
    cases.push(case("a second member that is cut", broken, Refused("cannot unpack")));
    cases.push(case(
        "garbage after it",
        [&packed[..], b"garbage"].concat(),
        Made(&["etc/x"], whole),
    ));
    cases.push(case(
        "garbage in the middle",
        [gzip(one), b"garbage".to_vec(), gzip(two)].concat(),
        Refused("cut off"),
    ));
    cases.push(case("zeros after it", [&packed[..], &[0; 3000]].concat(), Made(&["etc/x"], whole)));
    let unmarked = &sound[..sound.len() - 1024];
    cases.push(case("gzip without a mark at the end", gzip(unmarked), Made(&["etc/x"], whole)));
    cases.push(case("tar without a mark at the end", unmarked.to_vec(), Refused("cut off")));
    cases.push(case(
        "half a mark at the end",
        sound[..sound.len() - 512].to_vec(),
        Made(&["etc/x"], whole),
    ));
    let second = [sound.clone(), archive(&[file(b"etc/second", b"")])].concat();
    cases.push(case(
        "a second archive",
        second,
        Made(&["etc/x"], |tree| assert!(!tree.join("etc/second").exists())),
    ));
    cases.push(case("empty", Vec::new(), Refused("no tarball")));
    cases.push(case("one byte", vec![0x1f], Refused("no tarball")));
    cases.push(case("page", b"<!DOCTYPE html><title>404</title>".to_vec(), Refused("no tarball")));
    cases.push(case("bzip2", b"BZh91AY&SY".to_vec(), Refused("no tarball")));
    cases.push(case("zip", b"PK\x03\x04".to_vec(), Refused("no tarball")));
    cases.push(case("gzip of a gzip", gzip(&packed), Refused("")));
    cases.push(case("gzip of nothing", gzip(b""), Refused("no root file system")));
    cases.push(case("gzip of a page", gzip(&[b'<'; 600]), Refused("checksum")));
    cases.push(case("no members", gzip(&[0; 1024]), Refused("no root file system")));
    let zeros = vec![0; 8 << 20];
    let bombs = [
        ("bomb", gzip(&archive(&[file(b"etc/x", &zeros)]))),
        ("bomb after the end", gzip(&[sound.clone(), zeros.clone()].concat())),
        ("bomb of names", gzip(&archive(&vec![member(b"etc/d/", b'5', b""); 600]))),
    ];
    for (name, bomb) in bombs {
        let mut case = case(name, bomb, Refused("unpacked it takes more than 2097152 bytes"));
        case.args = &["--max-size", "2M"];
        cases.push(case);
    }
    cases
}

/// Run one case in a directory of its own, and give what is wrong.
fn wrong(case: &Case, place: &Path) -> Option<String> {
    let place = Place::at(place);
    fs::write(place.path("a.tar"), &case.archive).unwrap();
    let outcome =
        place.fetch(&[&["--from", "a.tar", "--no-install"], case.args, &["rootfs"]].concat());
    let name = &case.name;
    let rootfs = place.path("rootfs");
    let checked = match &case.expected {
        Made(paths, check) => {
            if outcome.code != 0 {
                return Some(format!("{name}: not made: {outcome:?}"));
            }
            let missing = paths.iter().find(|path| rootfs.join(path).symlink_metadata().is_err());
            if let Some(path) = missing {
                return Some(format!("{name}: '{path}' is missing"));
            }
            std::panic::catch_unwind(|| check(&rootfs)).is_ok()
        }
        Refused(why) => {
            if outcome.code != 1 || !outcome.stderr.contains(why) || rootfs.exists() {
                return Some(format!("{name}: not refused for '{why}': {outcome:?}"));
            }
            true
        }
    };
    if !checked {
        return Some(format!("{name}: the tree is not as expected"));
    }
    if outcome.stderr.bytes().any(|byte| byte.is_ascii_control() && byte != b'\n') {
        return Some(format!("{name}: its message could drive a terminal"));
    }
    let left = place.names().into_iter().find(|name| !["a.tar", "rootfs"].contains(&&**name));
    drop(fs::remove_dir_all(rootfs));
    left.map(|left| format!("{name}: '{left}' is left"))
}

#[test]
fn whatever_an_archive_holds_it_is_unpacked_as_it_should_be_or_refused() {
    need!(root());
    let place = Place::new();
    let outside = place.path("outside");
    fs::create_dir_all(outside.join("dir")).unwrap();
    fs::write(outside.join("canary"), "alive").unwrap();
    let list = "find . -printf '%p %y %m %U:%G %n %s %T@ %C@\\n' | sort && cat canary";
    let look = || sh(&format!("cd '{}' && {list}", outside.display())).success().stdout;
    let before = look();
    let mut cases = traversals();
    cases.extend(links(outside.to_str().unwrap()));
    cases.extend(replacements());
    cases.extend(pax_records());
    cases.extend(headers());
    cases.extend(attributes());
    cases.extend(streams());
    cases.extend(depths());
    fs::create_dir(place.path("sparse")).unwrap();
    cases.extend(sparse(&place.path("sparse")));
    assert!(cases.len() >= 300, "{}", cases.len());
    let next = AtomicUsize::new(0);
    let wrong: Vec<String> = thread::scope(|scope| {
        let run = |worker: usize| {
            let dir = place.path(&format!("worker-{worker}"));
            let cases = std::iter::from_fn(|| cases.get(next.fetch_add(1, Ordering::Relaxed)));
            let mut wrong = Vec::new();
            for case in cases {
                fs::create_dir(&dir).unwrap();
                wrong.extend(self::wrong(case, &dir));
                fs::remove_dir_all(&dir).unwrap();
            }
            wrong
        };
        let workers: Vec<_> = (0..4).map(|worker| scope.spawn(move || run(worker))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(
        wrong.is_empty(),
        "{} of {} went wrong:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    assert_eq!(look(), before);
}
