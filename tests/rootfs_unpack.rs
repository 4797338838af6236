//! rootfs-fetch from outside: an archive and the tree that it becomes. `rootfs_archives.rs` has the hostile ones.

use crate::{
    rootfs_fetch::{Archive, Place, failed, gzip},
    support::{Outcome, root},
};
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};
use tar::EntryType;

#[test]
fn modes_owners_times_links_and_nodes_come_out_as_they_went_in() {
    need!(root());
    let place = Place::new();
    let archive = Archive::new()
        .dir("tmp", 0o1777)
        .dir("tmp/private", 0o2700)
        .file("tmp/private/su", 0o4755, b"su")
        .hard_link("bin/su", "tmp/private/su")
        .symlink("bin/sh", "dash")
        .entry("dev/null", EntryType::Char, 0o666, "", b"")
        .entry("dev/sda", EntryType::Block, 0o660, "", b"")
        .entry("run/fifo", EntryType::Fifo, 0o620, "", b"")
        .finish();
    let unpacked = place.unpack(&archive);
    let stderr = "\
rootfs-fetch: unpacking 'a.tar'
rootfs-fetch: left out 1 device nodes that are not standard ones
";
    let stdout = format!("{}\n", place.path("rootfs").display());
    assert_eq!(unpacked, Outcome { code: 0, stdout, stderr: stderr.into() });
    let shape = |name: &str| {
        let found = fs::symlink_metadata(place.path("rootfs").join(name)).unwrap();
        assert_eq!(
            (found.uid(), found.gid(), found.mtime()),
            (1234, 5678, 1_000_000_007),
            "{name}"
        );
        (found.mode(), found.nlink(), found.rdev())
    };
    assert_eq!(shape("tmp"), (0o41777, 3, 0));
    assert_eq!(shape("tmp/private"), (0o42700, 2, 0));
    assert_eq!(shape("tmp/private/su"), (0o104_755, 2, 0));
    assert_eq!(shape("bin/su"), (0o104_755, 2, 0));
    assert_eq!(shape("bin/sh"), (0o120_777, 1, 0));
    assert_eq!(shape("dev/null"), (0o20666, 1, 0x103));
    assert_eq!(shape("run/fifo"), (0o10620, 1, 0));
    assert_eq!(shape("etc"), (0o40755, 2, 0));
    assert!(!place.path("rootfs/dev/sda").exists());
    // Directories that no entry names.
    for implied in ["dev", "run", ""] {
        let mode = fs::metadata(place.path("rootfs").join(implied)).unwrap().permissions().mode();
        assert_eq!(mode, 0o40755, "'{implied}'");
    }
}

#[test]
fn links_are_followed_inside_the_tree_and_lead_nowhere_else() {
    need!(root());
    let place = Place::new();
    let outside = place.path("outside");
    fs::create_dir(&outside).unwrap();
    let archive = Archive::new()
        .symlink("var/run", "/run")
        .file("var/run/pid", 0o644, b"1")
        .symlink("up", "../../../../../..")
        .file("up/mine", 0o644, b"2")
        .symlink("away", outside.to_str().unwrap())
        .file("away/file", 0o644, b"3")
        .symlink("etc/over", "/etc/passwd")
        .file("etc/over", 0o644, b"4")
        .finish();
    place.unpack(&archive).success();
    let content = |name: &str| fs::read_to_string(place.path("rootfs").join(name)).unwrap();
    assert_eq!(["run/pid", "mine", "etc/over"].map(content), ["1", "2", "4"]);
    assert_eq!(content(&format!(".{}/file", outside.display())), "3");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn entries_that_lead_out_of_the_tree_are_refused_by_name() {
    need!(root());
    let cases = [
        (Archive::new().file("../../etc/x", 0o644, b""), "'../../etc/x': it leads out of the tree"),
        (Archive::new().dir("a/../..", 0o755), "'a/../..': it leads out of the tree"),
        (
            Archive::new().file("\x1b[2J/..", 0o644, b""),
            "'\\u{1b}[2J/..': it leads out of the tree",
        ),
        (
            Archive::new().hard_link("etc/x", "/etc/passwd"),
            "'etc/x': its hard link to '/etc/passwd' leads out of the tree",
        ),
        (
            Archive::new().hard_link("etc/x", "../passwd"),
            "'etc/x': its hard link to '../passwd' leads out of the tree",
        ),
        (Archive::new().symlink(".", "/etc"), "'.': it takes the place of the root directory"),
    ];
    for (archive, refusal) in cases {
        let place = Place::new();
        let stderr = format!(
            "rootfs-fetch: unpacking 'a.tar'\nrootfs-fetch: refusing archive entry {refusal}\n  \
             undone: '.rootfs.partial' is removed\n"
        );
        assert_eq!(place.unpack(&archive.finish()), failed(1, stderr));
        assert_eq!(place.names(), ["a.tar"]);
    }
}

#[test]
fn a_damaged_archive_leaves_nothing() {
    need!(root());
    let archive = Archive::new().file("etc/big", 0o644, &vec![7; 100_000]).finish();
    let packed = gzip(&archive);
    let mut wrong_sum = packed.clone();
    let crc = packed.len() - 8;
    wrong_sum[crc] ^= 1;
    let cases = [
        ("a bit of the CRC", wrong_sum),
        ("the gzip's end", packed[..packed.len() - 4].to_vec()),
        ("half of the gzip", packed[..packed.len() / 2].to_vec()),
        ("the archive's end, packed", gzip(&archive[..50_000])),
        ("the archive's end", archive[..50_000].to_vec()),
    ];
    for (what, damaged) in cases {
        let place = Place::new();
        let refused = place.unpack(&damaged);
        assert_eq!(refused.code, 1, "{what}: {refused:?}");
        let last = "  undone: '.rootfs.partial' is removed\n";
        assert!(refused.stderr.contains("rootfs-fetch: cannot unpack "), "{what}: {refused:?}");
        assert!(refused.stderr.ends_with(last), "{what}: {refused:?}");
        assert_eq!(place.names(), ["a.tar"], "{what}");
    }
}

#[test]
fn members_of_a_gzip_are_read_one_after_the_other() {
    need!(root());
    let archive = Archive::new().file("etc/motd", 0o644, b"hello\n").finish();
    let (place, (one, two)) = (Place::new(), archive.split_at(700));
    place.unpack(&[gzip(one), gzip(two)].concat()).success();
    assert!(place.path("rootfs/etc/motd").exists());
}
