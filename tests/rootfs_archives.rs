//! Archives that are hostile, damaged or only strange, and what rootfs-fetch makes of each.
//!
//! Beside each tree lies a directory that must stay as it is, and which the hostile ones aim at. Nothing half
//! made may stay.
#![expect(clippy::too_many_lines, reason = "lists of cases")]

use crate::{
    rootfs_fetch::{Place, gzip},
    support::{root, sh},
};
use rustix::fs::lgetxattr;
use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};
use tar::{EntryType, Header};

/// What is to come of an archive.
enum Expected {
    /// A tree with these paths, and what else holds of it.
    Made(&'static [&'static str], fn(&Path)),
    /// A refusal with this in its message.
    Refused(&'static str),
}

use Expected::{Made, Refused};

struct Case {
    name: String,
    archive: Vec<u8>,
    args: &'static [&'static str],
    expected: Expected,
}

fn case(name: impl Into<String>, archive: Vec<u8>, expected: Expected) -> Case {
    Case { name: name.into(), archive, args: &[], expected }
}

fn nothing(_: &Path) {}

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
fn tweaked(path: &[u8], kind: u8, content: &[u8], tweak: impl Fn(&mut Header)) -> Vec<u8> {
    let mut header = header(path, kind, b"", content.len());
    tweak(&mut header);
    header.set_cksum();
    let mut member = header.as_bytes().to_vec();
    member.extend(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

fn member(path: &[u8], kind: u8, link: &[u8]) -> Vec<u8> {
    tweaked(path, kind, b"", |header| *header = self::header(path, kind, link, 0))
}

fn file(path: &[u8], content: &[u8]) -> Vec<u8> {
    tweaked(path, b'0', content, |_| {})
}

fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = (1..9).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
    [format!("{} ", rest + digits).as_bytes(), key, b"=", value, b"\n"].concat()
}

fn pax(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    tweaked(b"pax", b'x', &content, |_| {})
}

/// A whole archive, which begins with what makes a root file system of it.
fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let base = [member(b"etc/", b'5', b""), member(b"bin/", b'5', b"")].concat();
    [base, members.concat(), vec![0; 1024]].concat()
}

fn traversals() -> Vec<Case> {
    let names = [
        "..",
        "../x",
        "../../x",
        "a/../../x",
        "./../x",
        "/../x",
        "a/..",
        "etc/../../outside/canary",
        "etc/..//../outside/new",
        "../outside",
        ".//..//x",
        "/etc/../../x",
    ];
    let kinds = [
        (b'0', "file"),
        (b'5', "directory"),
        (b'2', "link"),
        (b'6', "fifo"),
        (b'1', "hard link"),
        (b'3', "node"),
    ];
    let mut cases = Vec::new();
    for name in names {
        for (kind, shown) in kinds {
            let hostile = member(name.as_bytes(), kind, b"etc/x");
            let archive = archive(&[file(b"etc/x", b""), hostile]);
            cases.push(case(format!("{shown} {name}"), archive, Refused("leads out of the tree")));
        }
        let by_pax = [pax(&[(b"path", name.as_bytes())]), file(b"etc/x", b"")].concat();
        cases.push(case(
            format!("PAX {name}"),
            archive(&[by_pax]),
            Refused("leads out of the tree"),
        ));
        let long = [
            tweaked(b"././@LongLink", b'L', &[name.as_bytes(), b"\0"].concat(), |_| {}),
            file(b"x", b""),
        ];
        cases.push(case(format!("long {name}"), archive(&long), Refused("leads out of the tree")));
    }
    for target in ["/etc/passwd", "../x", "a/../../x", "..", "", ".", "/", "../outside/canary"] {
        let hostile = member(b"etc/x", b'1', target.as_bytes());
        cases.push(case(
            format!("hard link to {target}"),
            archive(&[hostile]),
            Refused("leads out of the tree"),
        ));
    }
    let by_pax = [pax(&[(b"linkpath", b"../outside/canary")]), member(b"etc/x", b'1', b"etc/y")];
    cases.push(case("hard link by PAX", archive(&by_pax), Refused("leads out of the tree")));
    cases.push(case(
        "hard link to nothing",
        archive(&[member(b"etc/x", b'1', b"etc/y")]),
        Refused("ENOENT"),
    ));
    for name in ["/etc/x", "//etc/x", "./etc/x", "etc//x", "etc/./x"] {
        let archive = archive(&[file(name.as_bytes(), b"1")]);
        cases.push(case(format!("absolute {name}"), archive, Made(&["etc/x"], nothing)));
    }
    cases
}

/// `OUTSIDE` in an archive's links is the directory that must stay as it is.
fn links(outside: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let targets =
        [outside.to_owned(), "../outside".into(), "../../../../../../../../etc".into(), "/".into()];
    for target in &targets {
        let link = member(b"s", b'2', target.as_bytes());
        let then: [(&str, Vec<u8>); 9] = [
            ("file", file(b"s/new", b"1")),
            ("canary", file(b"s/canary", b"1")),
            ("directory in it", member(b"s/dir/", b'5', b"")),
            ("directory", tweaked(b"s/", b'5', b"", |header| header.set_mode(0o777))),
            ("fifo", member(b"s/fifo", b'6', b"")),
            ("node", member(b"s/null", b'3', b"")),
            ("link", member(b"s/link", b'2', b"canary")),
            ("file in its place", file(b"s", b"1")),
            ("deeper", file(b"s/a/b/c/d", b"1")),
        ];
        for (what, member) in then {
            let archive = archive(&[link.clone(), member]);
            cases.push(case(
                format!("{what} through a link to {target}"),
                archive,
                Made(&["etc"], nothing),
            ));
        }
        let hard = archive(&[link.clone(), member(b"etc/x", b'1', b"s/canary")]);
        cases.push(case(format!("hard link through a link to {target}"), hard, Refused("ENOENT")));
        let chain = [
            member(b"a", b'2', b"b"),
            member(b"b", b'2', b"s"),
            link.clone(),
            file(b"a/new", b"1"),
        ];
        cases.push(case(format!("chain to {target}"), archive(&chain), Made(&["etc"], nothing)));
        let hard = [link, member(b"h", b'1', b"s"), file(b"h/new", b"1")];
        cases.push(case(
            format!("hard link to a link to {target}"),
            archive(&hard),
            Made(&["etc"], nothing),
        ));
    }
    let ring = [member(b"a", b'2', b"b"), member(b"b", b'2', b"a"), file(b"a/x", b"")];
    cases.push(case("ring", archive(&ring), Refused("ELOOP")));
    let long: Vec<Vec<u8>> = (0..60)
        .map(|n| member(format!("l{n}").as_bytes(), b'2', format!("l{}", n + 1).as_bytes()))
        .chain([file(b"l0/x", b"")])
        .collect();
    cases.push(case("60 links", archive(&long), Refused("ELOOP")));
    cases.push(case(
        "link to nothing",
        archive(&[member(b"s", b'2', b"")]),
        Refused("a name that cannot be"),
    ));
    cases.push(case(
        "root as a link",
        archive(&[member(b".", b'2', b"/etc")]),
        Refused("place of the root directory"),
    ));
    cases.push(case("root as a file", archive(&[file(b"./", b"x")]), Refused("")));
    let swapped =
        [member(b"d/", b'5', b""), member(b"d", b'2', outside.as_bytes()), file(b"d/new", b"")];
    cases.push(case("directory that becomes a link", archive(&swapped), Made(&["etc"], nothing)));
    cases
}

fn replacements() -> Vec<Case> {
    let kinds = [
        (b'0', "file"),
        (b'5', "directory"),
        (b'2', "link"),
        (b'6', "fifo"),
        (b'1', "hard link"),
        (b'3', "node"),
    ];
    let mut cases = Vec::new();
    for (before, one) in kinds {
        for (after, other) in kinds {
            let target: &[u8] = b"etc/target";
            let members = [
                file(target, b"target"),
                member(b"etc/x", before, target),
                member(b"etc/x", after, target),
            ];
            let check: fn(&Path) = match after {
                b'0' => |tree| assert_eq!(fs::read(tree.join("etc/x")).unwrap(), b""),
                b'5' => |tree| assert!(tree.join("etc/x").symlink_metadata().unwrap().is_dir()),
                b'2' => |tree| assert!(tree.join("etc/x").is_symlink()),
                b'6' => |tree| {
                    assert!(
                        fs::symlink_metadata(tree.join("etc/x")).unwrap().file_type().is_fifo()
                    );
                },
                b'1' => {
                    |tree| assert_eq!(fs::metadata(tree.join("etc/target")).unwrap().nlink(), 2)
                }
                _ => |tree| {
                    assert_eq!(fs::symlink_metadata(tree.join("etc/x")).unwrap().rdev(), 0x103);
                },
            };
            cases.push(case(
                format!("{one} that becomes a {other}"),
                archive(&members),
                Made(&[], check),
            ));
        }
    }
    let full = [file(b"d/x", b""), file(b"d", b"")];
    cases.push(case("full directory that becomes a file", archive(&full), Refused("ENOTEMPTY")));
    let through = [file(b"f", b""), file(b"f/x", b"")];
    cases.push(case("file as a directory", archive(&through), Refused("ENOTDIR")));
    let twice = [file(b"etc/x", b"long before"), file(b"etc/x", b"after")];
    let check: fn(&Path) = |tree| assert_eq!(fs::read(tree.join("etc/x")).unwrap(), b"after");
    cases.push(case("a name twice", archive(&twice), Made(&[], check)));
    cases
}

fn pax_records() -> Vec<Case> {
    let refused = |name: &str, members: &[Vec<u8>], why| case(name, archive(members), Refused(why));
    let malformed = |content: &[u8]| [tweaked(b"pax", b'x', content, |_| {}), file(b"etc/x", b"")];
    let mut cases = Vec::new();
    for content in [
        "6 a=b",
        "5 a=b\n",
        "7 a=b\n",
        "6 =ab\n",
        "6 a b\n",
        "\n",
        "+6 a=b\n",
        "-6 a=b\n",
        "0 a=b\n",
        "06 a=b",
        "99999999999999999999 a=b\n",
        "6 a=b\n\n",
        "a=b\n",
        "1 \n",
        " 6 a=b\n",
    ] {
        cases.push(refused(
            &format!("record {content:?}"),
            &malformed(content.as_bytes()),
            "malformed",
        ));
    }
    // A header that says 0 and a record that says 1024, with another header in what one of two readers skips.
    let hidden = [file(b"etc/hidden", b""), vec![0; 512]].concat();
    let honoured: fn(&Path) = |tree| {
        assert_eq!(fs::metadata(tree.join("etc/x")).unwrap().len(), 1024);
        assert!(!tree.join("etc/hidden").exists() && tree.join("etc/after").exists());
    };
    for (name, before) in
        [("size", &b""[..]), ("size after a value with newlines", b"\n\n12 size=0\n\n")]
    {
        let records: &[(&[u8], &[u8])] = &[(b"SCHILY.xattr.user.a", before), (b"size", b"1024")];
        let records = if before.is_empty() { &records[1..] } else { records };
        let confused = tweaked(b"etc/x", b'0', &hidden, |header| header.set_size(0));
        let members = [pax(records), confused, file(b"etc/after", b"")];
        cases.push(case(format!("PAX {name}"), archive(&members), Made(&[], honoured)));
    }
    let smaller =
        [pax(&[(b"size", b"0")]), tweaked(b"etc/x", b'0', &file(b"etc/seen", b""), |_| {})];
    cases.push(case("PAX size 0", archive(&smaller), Made(&["etc/seen"], nothing)));
    for value in ["-1", "x", "1.5", "0x10", "18446744073709551616", " 1"] {
        let members = [pax(&[(b"size", value.as_bytes())]), file(b"etc/x", b"1")];
        cases.push(refused(&format!("PAX size {value}"), &members, "size is malformed"));
    }
    let huge = [pax(&[(b"size", b"9000000000000000000")]), file(b"etc/x", b"1")];
    cases.push(refused("PAX size of exabytes", &huge, ""));
    for (key, value, why) in [
        ("uid", "x", "uid is malformed"),
        ("gid", "-1", "gid is malformed"),
        ("uid", "4294967295", "beyond 32 bits"),
        ("gid", "99999999999", "beyond 32 bits"),
        ("mtime", "soon", "mtime is malformed"),
        ("mtime", "1.x", "mtime is malformed"),
        ("path", "a\0b", "holds a NUL"),
        ("SCHILY.acl.access", "user", "access control list is malformed"),
        ("GNU.sparse.major", "9", "map of its holes"),
        ("GNU.sparse.map", "0,1", "map of its holes"),
    ] {
        let members = [pax(&[(key.as_bytes(), value.as_bytes())]), file(b"etc/x", b"1")];
        cases.push(refused(&format!("PAX {key}={value:?}"), &members, why));
    }
    let twice = [pax(&[(b"path", b"a")]), pax(&[(b"path", b"b")]), file(b"etc/x", b"")];
    cases.push(refused("two PAX headers", &twice, "described twice"));
    cases.push(refused(
        "PAX header at the end",
        &[pax(&[(b"path", b"a")])],
        "archive ends before it",
    ));
    let large = vec![b'a'; 2 << 20];
    cases.push(refused(
        "a record of 2 MiB",
        &[pax(&[(b"comment", &large)]), file(b"x", b"")],
        "more than 1 MiB",
    ));
    cases.push(refused(
        "a long name of 2 MiB",
        &[tweaked(b"l", b'L', &large, |_| {}), file(b"x", b"")],
        "more than 1 MiB",
    ));
    cases.push(refused(
        "a long name of 5000",
        &[tweaked(b"l", b'L', &large[..5000], |_| {}), file(b"x", b"")],
        "longer than the kernel takes",
    ));
    cases.push(refused(
        "a long link of 5000",
        &[tweaked(b"l", b'K', &large[..5000], |_| {}), member(b"x", b'2', b"")],
        "ENAMETOOLONG",
    ));
    let long =
        [tweaked(b"l", b'L', b"a\0", |_| {}), tweaked(b"l", b'L', b"b\0", |_| {}), file(b"x", b"")];
    cases.push(refused("two long names", &long, "described twice"));
    for (key, value) in [("path", "a"), ("linkpath", "a"), ("size", "1"), ("GNU.sparse.size", "1")]
    {
        let global = tweaked(b"g", b'g', &record(key.as_bytes(), value.as_bytes()), |_| {});
        cases.push(refused(
            &format!("global {key}"),
            &[global, file(b"etc/x", b"")],
            "gives all that follow",
        ));
    }
    let global = [
        tweaked(b"g", b'g', &record(b"comment", b"c"), |_| {}),
        tweaked(b"g", b'g', &record(b"uid", b"77"), |_| {}),
        file(b"etc/x", b""),
    ];
    let owned: fn(&Path) = |tree| assert_eq!(fs::metadata(tree.join("etc/x")).unwrap().uid(), 77);
    cases.push(case("global owner", archive(&global), Made(&[], owned)));
    let times = [
        pax(&[(b"mtime", b"1000000000.123456789")]),
        member(b"etc/d/", b'5', b""),
        file(b"etc/d/x", b""),
    ];
    let exact: fn(&Path) =
        |tree| assert_eq!(fs::metadata(tree.join("etc/d")).unwrap().mtime_nsec(), 123_456_789);
    cases.push(case("nanoseconds of a directory", archive(&times), Made(&[], exact)));
    let early = [pax(&[(b"mtime", b"-1.5")]), file(b"etc/x", b"")];
    let early_time: fn(&Path) = |tree| {
        let found = fs::metadata(tree.join("etc/x")).unwrap();
        assert_eq!((found.mtime(), found.mtime_nsec()), (-2, 500_000_000));
    };
    cases.push(case("before 1970", archive(&early), Made(&[], early_time)));
    let empty = [pax(&[(b"path", b"")]), file(b"etc/own", b"")];
    cases.push(case("empty PAX path", archive(&empty), Made(&["etc/own"], nothing)));
    cases
}

fn headers() -> Vec<Case> {
    let refused = |name: &str, members: &[Vec<u8>], why| case(name, archive(members), Refused(why));
    let mut cases = Vec::new();
    for kind in *b"89AMDNXZ \xff" {
        let members = [member(b"etc/x", kind, b"")];
        cases.push(refused(&format!("type {kind}"), &members, "nothing is known of its type"));
    }
    let mut damaged = file(b"etc/x", b"1");
    damaged[3] ^= 1;
    cases.push(refused("wrong checksum", &[damaged], "not the checksum that it names"));
    cases.push(refused("noise", &[vec![0xa5; 512]], ""));
    for (field, at, bytes) in [
        ("size", 124, &b"zzzzzzzzzzz\0"[..]),
        ("mode", 100, b"99999999"),
        ("uid", 108, b"x1111111"),
        ("mtime", 136, b"1 1 1 1 1 1 "),
        ("size", 124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0"),
    ] {
        let tweak = |header: &mut Header| {
            header.as_mut_bytes()[at..at + bytes.len()].copy_from_slice(bytes);
        };
        cases.push(refused(
            &format!("{field} {bytes:?}"),
            &[tweaked(b"etc/x", b'0', b"", tweak)],
            "",
        ));
    }
    for size in [1 << 30, 1 << 40, u64::MAX >> 2] {
        let members = [tweaked(b"etc/x", b'0', b"", |header| header.set_size(size))];
        cases.push(refused(&format!("size {size} and none of it"), &members, ""));
    }
    for (kind, name) in
        [(b'5', "directory"), (b'2', "link"), (b'1', "hard link"), (b'6', "fifo"), (b'3', "node")]
    {
        let members = [
            file(b"etc/t", b""),
            tweaked(b"etc/x", kind, &file(b"etc/hidden", b""), |header| {
                header.as_mut_bytes()[157..162].copy_from_slice(b"etc/t");
            }),
        ];
        cases.push(refused(
            &format!("{name} with content"),
            &members,
            "has content and is no file",
        ));
    }
    let slash = [tweaked(b"etc/d/", b'0', b"", |_| {}), file(b"etc/d/x", b"")];
    cases.push(case("directory of old", archive(&slash), Made(&["etc/d/x"], nothing)));
    cases.push(refused(
        "directory of old with content",
        &[file(b"etc/d/", b"x")],
        "has content and is no file",
    ));
    cases.push(case("label", archive(&[member(b"label", b'V', b"")]), Made(&["etc"], nothing)));
    cases.push(case(
        "continuous file",
        archive(&[tweaked(b"etc/x", b'7', b"1", |_| {})]),
        Made(&["etc/x"], nothing),
    ));
    cases.push(case(
        "file of V7",
        archive(&[tweaked(b"etc/x", 0, b"1", |_| {})]),
        Made(&["etc/x"], nothing),
    ));
    for (name, major, minor, made) in
        [("kmem", 1, 2, false), ("tty1", 4, 1, false), ("zero", 1, 5, true), ("ptmx", 5, 2, true)]
    {
        let node = tweaked(b"dev/n", b'3', b"", |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        });
        let check: fn(&Path) = if made {
            |tree| assert!(tree.join("dev/n").exists())
        } else {
            |tree| assert!(!tree.join("dev/n").exists())
        };
        cases.push(case(format!("node {name}"), archive(&[node]), Made(&[], check)));
    }
    for (name, bytes) in [
        ("control", &b"etc/\x1b[2J\n"[..]),
        ("dash", b"-rf"),
        ("quote", b"etc/'\"$(x)"),
        ("latin-1", b"etc/\xe9\xff"),
        ("space", b" "),
        ("dots", b"..."),
    ] {
        cases.push(case(
            format!("name with {name}"),
            archive(&[file(bytes, b"")]),
            Made(&["etc"], nothing),
        ));
    }
    cases.push(refused(
        "control bytes in a refused name",
        &[file(b"../\x1b[2J\n", b"")],
        "'../\\u{1b}[2J\\n'",
    ));
    let owner = tweaked(b"etc/x", b'0', b"", |header| {
        header.set_uid(70_000);
        header.set_gid(u64::from(u32::MAX - 1));
        header.set_mode(0o7_755);
    });
    let whose: fn(&Path) = |tree| {
        let found = fs::metadata(tree.join("etc/x")).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode()), (70_000, u32::MAX - 1, 0o107_755));
    };
    cases.push(case("large owners and setuid", archive(&[owner]), Made(&[], whose)));
    cases
}

fn attributes() -> Vec<Case> {
    let mut cases = Vec::new();
    let value: &[u8] = b"a\nb=\0c\n";
    for (kind, path) in [(b'0', &b"etc/x"[..]), (b'5', b"etc/x/")] {
        let members = [pax(&[(b"SCHILY.xattr.trusted.x", value)]), member(path, kind, b"")];
        let check: fn(&Path) = |tree| {
            let mut found = [0; 20];
            let length = lgetxattr(tree.join("etc/x"), "trusted.x", &mut found).unwrap();
            assert_eq!(&found[..length], b"a\nb=\0c\n");
        };
        cases.push(case(
            format!("attribute of type {}", char::from(kind)),
            archive(&members),
            Made(&[], check),
        ));
    }
    for kind in *b"26" {
        let members = [pax(&[(b"SCHILY.xattr.trusted.x", b"v")]), member(b"etc/x", kind, b"t")];
        let check: fn(&Path) = |tree| {
            assert_eq!(lgetxattr(tree.join("etc/x"), "trusted.x", &mut [0; 9]).unwrap(), 1);
        };
        cases.push(case(
            format!("attribute of type {}", char::from(kind)),
            archive(&members),
            Made(&[], check),
        ));
    }
    // cap_dac_override,cap_fowner=ep: as a set, the byte of a newline.
    let capability = b"\x01\0\0\x02\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let members =
        [pax(&[(b"SCHILY.xattr.security.capability", capability)]), file(b"bin/ping", b"x")];
    let check: fn(&Path) = |tree| {
        assert_eq!(
            lgetxattr(tree.join("bin/ping"), "security.capability", &mut [0; 30]).unwrap(),
            20
        );
    };
    cases.push(case("capability", archive(&members), Made(&[], check)));
    let list = b"user::rwx,user:lisa:r--:1000,group::r--,mask::r--,other::---";
    let members = [pax(&[(b"SCHILY.acl.access", list)]), file(b"etc/x", b"")];
    let check: fn(&Path) = |tree| {
        let mut found = [0; 64];
        assert_eq!(
            lgetxattr(tree.join("etc/x"), "system.posix_acl_access", &mut found).unwrap(),
            44
        );
    };
    cases.push(case("access control list", archive(&members), Made(&[], check)));
    cases
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

fn depths() -> Vec<Case> {
    let deep = |depth: usize, name: &str| {
        let path = format!("{name}/").repeat(depth) + "x";
        [pax(&[(b"path", path.as_bytes())]), file(b"x", b"1")].concat()
    };
    let check: fn(&Path) = |tree| {
        let found =
            sh(&format!("cd '{}' && find . -name x | awk -F/ '{{print NF}}'", tree.display()));
        assert_eq!(found.stdout, "2002\n");
    };
    let down: Vec<Vec<u8>> = (1..300)
        .map(|depth| {
            let path = "d/".repeat(depth);
            [pax(&[(b"path", path.as_bytes())]), member(b"d/", b'5', b"")].concat()
        })
        .collect();
    let long = |length| [pax(&[(b"path", &vec![b'n'; length])]), file(b"x", b"")].concat();
    vec![
        case("2000 deep", archive(&[deep(2000, "d")]), Made(&["d/d/d/d"], check)),
        case("300 deep with each named", archive(&down), Made(&["d/d/d/d"], nothing)),
        case(
            "2000 deep with longer names",
            archive(&[deep(2000, "dir")]),
            Refused("longer than the kernel takes"),
        ),
        case(
            "500000 deep",
            archive(&[deep(500_000, "d")]),
            Refused("longer than the kernel takes"),
        ),
        case("name of 255", archive(&[long(255)]), Made(&["etc"], nothing)),
        case("name of 256", archive(&[long(256)]), Refused("ENAMETOOLONG")),
    ]
}

/// A file with holes as GNU tar packs it, in each of its forms.
fn sparse(dir: &Path) -> Vec<Case> {
    let make = "mkdir -p etc bin; rm -f etc/*; for n in 1 30 3; do \
        printf begin >etc/holes$n; for i in $(seq $n); do \
        printf x | dd of=etc/holes$n bs=1 seek=$((i * 70000)) status=none conv=notrunc; done; done; \
        truncate -s 400000 etc/holes3; truncate -s 100000 etc/none";
    sh(&format!("cd '{}' && {make}", dir.display())).success();
    let forms = [
        "--format=gnu",
        "--format=posix --sparse-version=0.0",
        "--format=posix --sparse-version=0.1",
        "--format=posix --sparse-version=1.0",
    ];
    let mut cases: Vec<Case> = forms
        .into_iter()
        .map(|form| {
            let tar =
                format!("cd '{}' && tar --sparse {form} -cf ../sparse.tar etc bin", dir.display());
            sh(&tar).success();
            let check: fn(&Path) = |tree| {
                let place = tree.parent().unwrap().parent().unwrap();
                let same =
                    format!("diff -r '{}/sparse/etc' '{}/etc'", place.display(), tree.display());
                sh(&same).success();
                let found = fs::metadata(tree.join("etc/none")).unwrap();
                assert_eq!((found.len(), found.blocks()), (100_000, 0));
            };
            case(
                format!("sparse {form}"),
                fs::read(dir.join("../sparse.tar")).unwrap(),
                Made(&[], check),
            )
        })
        .collect();
    let by_map = |size: &str, map: &str| {
        let records: [(&[u8], &[u8]); 3] = [
            (b"GNU.sparse.size", size.as_bytes()),
            (b"GNU.sparse.map", map.as_bytes()),
            (b"GNU.sparse.name", b"etc/x"),
        ];
        archive(&[pax(&records), file(b"GNUSparseFile.1/x", b"12")])
    };
    for (size, map) in [
        ("9", "0,1,5,2"),
        ("9", "0,3"),
        ("9", "5,1,0,1"),
        ("9", "0,1,8,2"),
        ("1", "0,2"),
        ("9", "0"),
        ("9", "x,2"),
        ("9", "18446744073709551615,2"),
        ("x", "0,2"),
        ("9", "0,1,0,1"),
    ] {
        cases.push(case(
            format!("map {map} of {size}"),
            by_map(size, map),
            Refused("map of its holes is malformed"),
        ));
    }
    let mut bomb = case(
        "holes without end",
        by_map("9000000000000000", "0,2"),
        Refused("unpacked it takes more than"),
    );
    bomb.args = &["--max-size", "1T"];
    cases.push(bomb);
    for content in ["", "9999999999\n", "x\n0\n2\n", "1\n0\n", "-1\n"] {
        let records: [(&[u8], &[u8]); 3] = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.realsize", b"9"),
        ];
        let mut block = content.as_bytes().to_vec();
        block.resize(512, 0);
        let members = [pax(&records), file(b"etc/x", &block)];
        cases.push(case(
            format!("map in content {content:?}"),
            archive(&members),
            Refused("map of its holes is malformed"),
        ));
    }
    let tweak = |header: &mut Header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(5);
        gnu.set_is_extended(true);
    };
    let cut = tweaked(b"etc/x", b'S', b"", tweak);
    cases.push(case("extended map that is cut off", cut, Refused("cut off")));
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
