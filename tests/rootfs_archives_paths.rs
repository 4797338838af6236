//! Archives whose names and links lead somewhere else, take each other's place, or are too deep.

use crate::{
    rootfs_archives::{
        Case,
        Expected::{Made, Refused},
        archive, case, file, member, nothing, pax, tweaked,
    },
    support::sh,
};
use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

pub(crate) fn traversals() -> Vec<Case> {
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
pub(crate) fn links(outside: &str) -> Vec<Case> {
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

pub(crate) fn replacements() -> Vec<Case> {
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

pub(crate) fn depths() -> Vec<Case> {
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
