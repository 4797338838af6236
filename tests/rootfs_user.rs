//! rootfs-fetch as an ordinary user: with a range of ids, and without.

use crate::{
    fixture::debian_tarball,
    rootfs_fetch::Place,
    support::{Outcome, installed, outcome, root, sh, tool_path, write_program},
};
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    process::Command,
};

/// A place of an ordinary user's own, with the tool in it.
fn place() -> Place {
    let place = Place::new();
    write_program(&fs::read(tool_path("rootfs-fetch")).unwrap(), &place.path("rootfs-fetch"));
    fs::set_permissions(&place.dir, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&place.dir, Some(12_345), Some(12_345)).unwrap();
    place
}

/// Run it as that user, on a host that gives the user `range`.
fn fetch(place: &Place, range: &str, args: &[&str]) -> Outcome {
    let line = "mount -t tmpfs tmpfs /mnt && cp --archive /etc /mnt && mount --bind /mnt/etc /etc && \
        echo tester:x:12345:12345::/:/bin/sh >>/etc/passwd && echo \"$1\" >/etc/subuid && cp /etc/subuid /etc/subgid && \
        shift && exec setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps=-all -- ./rootfs-fetch \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", line, "sh", range]);
    outcome(command.args(args).current_dir(&place.dir).env("HOME", &place.dir))
}

const RANGE: &str = "tester:700000:65536";

#[test]
fn with_a_range_of_ids_a_tree_is_unpacked_with_its_owners_and_apt_installs_in_it() {
    need!(root() && installed("newuidmap") && installed("mmdebstrap"));
    let place = place();
    fs::copy(debian_tarball(), place.path("base.tar.gz")).unwrap();
    let made =
        fetch(&place, RANGE, &["--from", "base.tar.gz", "--install", "less", "rootfs"]).success();
    assert_eq!(made.stdout, format!("{}\n", place.path("rootfs").display()));
    assert!(
        made.stderr.contains(" device nodes, which only the host's root can make\n"),
        "{made:?}"
    );
    for trouble in ["setgroups", "seteuid", "are yours", "unsandboxed", "W: "] {
        assert!(!made.stderr.contains(trouble), "{made:?}");
    }
    assert!(place.path("rootfs/usr/bin/less").exists());
    let owner = |path: &str| {
        let found = fs::symlink_metadata(place.path("rootfs").join(path)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(owner("etc/passwd"), (12_345, 12_345));
    // _apt works there, and the group shadow has its files.
    let passwd = fs::read_to_string(place.path("rootfs/etc/passwd")).unwrap();
    let apt =
        passwd.lines().find_map(|line| line.strip_prefix("_apt:x:")?.split(':').next()).unwrap();
    assert_eq!(owner("var/cache/apt/archives/partial").0, 699_999 + apt.parse::<u32>().unwrap());
    assert_eq!(owner("etc/shadow"), (12_345, 700_041));
    let again = fetch(&place, RANGE, &["--verbose", "--install", "less", "rootfs"]);
    assert_eq!(again.stderr, "rootfs-fetch: 'rootfs' is complete: nothing to do\n");
    // What is made of a tree, and a hook, too; and what a tree of the ids leaves is removed.
    let args = [
        "--from",
        "base.tar.gz",
        "--no-install",
        "--hook",
        "id -u >&2; touch \"$1/hooked\"",
        "--force",
    ];
    let exchanged = fetch(&place, RANGE, &[&args[..], &["rootfs"]].concat()).success();
    assert!(exchanged.stderr.ends_with("\n0\n"), "{exchanged:?}");
    assert!(place.path("rootfs/hooked").exists() && !place.path("rootfs/usr/bin/less").exists());
    assert_eq!(place.names(), ["base.tar.gz", "rootfs", "rootfs-fetch"]);
}

#[test]
fn without_a_range_the_tree_is_the_users_and_what_takes_others_is_refused() {
    need!(root());
    let place = place();
    let line = format!(
        "cd '{}' && mkdir -p t/etc t/bin t/dev && mknod t/dev/null c 1 3 && mknod t/dev/sda b 8 0 && ln -s x t/etc/link && \
         touch t/bin/su && chmod 4755 t/bin/su && touch t/bin/mine && tar -cf a.tar -C t . && rm -r t",
        place.dir.display()
    );
    sh(&line).success();
    let made = fetch(&place, "", &["--from", "a.tar", "--no-install", "rootfs"]);
    let stderr = "\
rootfs-fetch: unpacking 'a.tar'
rootfs-fetch: left out 1 device nodes that are not standard ones
rootfs-fetch: left out 1 device nodes, which only the host's root can make
rootfs-fetch: 7 files are yours: their owners in the archive are not yours to give
";
    let stdout = format!("{}\n", place.path("rootfs").display());
    assert_eq!(made, Outcome { code: 0, stdout, stderr: stderr.into() });
    let su = fs::metadata(place.path("rootfs/bin/su")).unwrap();
    assert_eq!((su.mode(), su.uid()), (0o104_755, 12_345));
    let why = "as user 12345: /etc/subuid gives user 12345 0 ids, and 65536 are needed";
    let hint = "run as root; or let root give you ids for newuidmap: \
        'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER'";
    let cases: [(&str, &[&str]); 4] = [
        ("install packages in 'rootfs'", &["--install", "x", "rootfs"]),
        ("install packages in 'new'", &["--from", "a.tar", "new"]),
        ("run a hook on 'new'", &["--from", "a.tar", "--no-install", "--hook", "true", "new"]),
        ("build 'new'", &["--or-bootstrap", "--no-install", "new"]),
    ];
    for (what, args) in cases {
        let stderr = format!("rootfs-fetch: cannot {what} {why}\n  hint: {hint}\n");
        assert_eq!(fetch(&place, "", args), Outcome { code: 1, stdout: String::new(), stderr });
    }
    assert_eq!(place.names(), ["a.tar", "rootfs", "rootfs-fetch"]);
}

#[test]
fn the_plan_of_a_user_with_a_range_is_for_a_user_namespace() {
    need!(root() && installed("newuidmap"));
    let place = place();
    fs::write(place.path("a.tar"), "").unwrap();
    let plan = fetch(&place, RANGE, &["--from", "a.tar", "--no-install", "--dry-run", "rootfs"]);
    let stdout = "\
unshare --map-auto --map-root-user sh /dev/fd/3 3<<'INSIDE'
mkdir --parents .rootfs.partial
tar --extract --preserve-permissions --numeric-owner --xattrs --xattrs-include='*' --directory=.rootfs.partial --file=a.tar
mv --no-target-directory .rootfs.partial rootfs
INSIDE
";
    assert_eq!(plan, Outcome { code: 0, stdout: stdout.into(), stderr: String::new() });
}
