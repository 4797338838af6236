//! Archives whose members say strange things of themselves: PAX records, headers, attributes, maps of holes.
#![expect(clippy::too_many_lines, reason = "lists of cases")]

use crate::{
    rootfs_archives::{
        Case,
        Expected::{Made, Refused},
        archive, case, file, member, nothing, pax, record, tweaked,
    },
    support::sh,
};
use rustix::fs::lgetxattr;
use std::{fs, os::unix::fs::MetadataExt as _, path::Path};
use tar::Header;

pub(crate) fn pax_records() -> Vec<Case> {
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

pub(crate) fn headers() -> Vec<Case> {
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

pub(crate) fn attributes() -> Vec<Case> {
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

/// A file with holes as GNU tar packs it, in each of its forms.
pub(crate) fn sparse(dir: &Path) -> Vec<Case> {
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
