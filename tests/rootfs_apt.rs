//! rootfs-fetch from outside: packages, by the tree's own apt.

use crate::{
    fixture::debian_tarball,
    http_server::Server,
    rootfs_fetch::{Place, failed, small_tarball},
    support::{installed, outcome, root, sh, tool, write_busybox_rootfs},
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

#[test]
fn a_tree_without_apt_says_what_helps() {
    need!(root());
    let place = Place::new();
    fs::write(place.path("a.tar"), small_tarball()).unwrap();
    let stderr = "\
rootfs-fetch: unpacking 'a.tar'
rootfs-fetch: installing sysbench
rootfs-fetch: cannot run 'apt-get update': No such file or directory (ENOENT)
  undone: '.rootfs.partial' is removed
  hint: the tree has no apt; --no-install makes it as it is
";
    assert_eq!(place.fetch(&["--from", "a.tar", "rootfs"]), failed(1, stderr));
    assert_eq!(place.names(), ["a.tar"]);
}

/// A tree with an apt-get that says where it is and then sleeps, as an archive.
pub(crate) fn tree_with_slow_apt(place: &Place) {
    let tree = place.path("slow");
    write_busybox_rootfs(&tree);
    let apt =
        "#!/bin/sh\n[ \"$1\" = update ] && exit 0\necho started >&2\nsleep 1000 & sleep 1000\n";
    fs::write(tree.join("usr/bin/apt-get"), apt).unwrap();
    fs::set_permissions(tree.join("usr/bin/apt-get"), fs::Permissions::from_mode(0o755)).unwrap();
    sh(&format!("tar -C '{}' -cf '{}' .", tree.display(), place.path("slow.tar").display()))
        .success();
    fs::remove_dir_all(tree).unwrap();
}

#[test]
fn when_apt_fails_its_status_is_told_and_its_output_kept() {
    need!(root() && installed("busybox"));
    let place = Place::new();
    tree_with_slow_apt(&place);
    place.fetch(&["--from", "slow.tar", "--no-install", "rootfs"]).success();
    let apt = "#!/bin/sh\necho \"E: $1\"; [ \"$1\" = update ] || exit 100\n";
    fs::write(place.path("rootfs/usr/bin/apt-get"), apt).unwrap();
    let stderr = "\
rootfs-fetch: installing sysbench
E: update
E: install
rootfs-fetch: 'apt-get install sysbench' ended with status 100; its output is above
";
    assert_eq!(place.fetch(&["rootfs"]), failed(1, stderr));
    assert!(!place.path("rootfs/usr/sbin/policy-rc.d").exists());
    assert!(!place.path("rootfs/etc/resolv.conf").exists());
}

#[test]
fn apt_shows_its_progress_on_a_terminal() {
    need!(root() && installed("busybox"));
    let place = Place::new();
    tree_with_slow_apt(&place);
    place.fetch(&["--from", "slow.tar", "--no-install", "rootfs"]).success();
    let apt = "#!/bin/sh\n[ \"$1\" != install ] || { [ -t 1 ] && echo \"$@\" >/found; }\n";
    fs::write(place.path("rootfs/usr/bin/apt-get"), apt).unwrap();
    let install = format!(
        "cd '{}' && script --quiet --return --command \"'{}' --install x rootfs\" /dev/null",
        place.dir.display(),
        crate::support::tool_path("rootfs-fetch").display()
    );
    sh(&install).success();
    let words = fs::read_to_string(place.path("rootfs/found")).unwrap();
    assert!(words.starts_with("install --yes ") && !words.contains("quiet"), "{words}");
}

#[test]
fn apt_finds_mounts_name_servers_and_no_word_of_the_host() {
    need!(root() && installed("busybox"));
    let place = Place::new();
    tree_with_slow_apt(&place);
    place.fetch(&["--from", "slow.tar", "--no-install", "rootfs"]).success();
    let rootfs = place.path("rootfs");
    symlink("../run/systemd/resolve/stub-resolv.conf", rootfs.join("etc/resolv.conf")).unwrap();
    let apt = "#!/bin/sh
[ \"$1\" = install ] || exit 0
tail -n +2 /etc/resolv.conf >/found
/usr/sbin/policy-rc.d; echo \"policy $?\" >>/found
echo \"pid1 $(tr '\\0' ' ' </proc/1/cmdline)\" >>/found
echo \"${HOST_SECRET-none} $DEBIAN_FRONTEND $http_proxy\" >>/found
test -c /dev/null && test -d /dev/pts && test -d /sys/class && echo devices >>/found
";
    fs::write(rootfs.join("usr/bin/apt-get"), apt).unwrap();
    let mut command = tool("rootfs-fetch");
    command.current_dir(&place.dir).args(["--install", "x", "rootfs"]);
    outcome(command.env("HOST_SECRET", "x").env("http_proxy", "http://proxy:3128")).success();
    let expected = format!(
        "{}policy 101\npid1 rootfs-fetch: in its namespaces \nnone noninteractive http://proxy:3128\ndevices\n",
        fs::read_to_string("/etc/resolv.conf").unwrap()
    );
    assert_eq!(fs::read_to_string(rootfs.join("found")).unwrap(), expected);
    // The link is still one to what is not there.
    assert!(fs::read_link(rootfs.join("etc/resolv.conf")).is_ok());
    assert!(!rootfs.join("run/systemd").exists());
}

/// A tree of Ubuntu 20.04 with an apt-get that keeps its options and lists, and fails as `failing` says.
fn tree_with_listing_apt(place: &Place, mirror: &str, failing: &str) {
    tree_with_slow_apt(place);
    place.fetch(&["--from", "slow.tar", "--no-install", "rootfs"]).success();
    let rootfs = place.path("rootfs");
    let release = "ID=ubuntu\nVERSION_CODENAME=focal\n";
    fs::write(rootfs.join("etc/os-release"), release).unwrap();
    fs::create_dir(rootfs.join("etc/apt")).unwrap();
    fs::write(rootfs.join("etc/apt/sources.list"), format!("deb {mirror} focal main\n")).unwrap();
    let apt = format!(
        "#!/bin/sh\n{failing}\n[ \"$1\" = install ] || exit 0\n\
         echo \"$@\" | tr ' ' '\\n' | grep -e Dir:: -e Valid >/found; cat /run/rootfs-fetch.list >>/found\n"
    );
    fs::write(rootfs.join("usr/bin/apt-get"), apt).unwrap();
}

const LIST_OPTIONS: &str =
    "-o=Dir::Etc::SourceList=/run/rootfs-fetch.list\n-o=Dir::Etc::SourceParts=-\n";

#[test]
fn another_mirror_a_snapshot_and_components_are_for_the_installation_only() {
    need!(root() && installed("busybox"));
    let place = Place::new();
    tree_with_listing_apt(&place, "http://own", "");
    let mirror = ["--apt-mirror", "http://m/ubuntu", "--snapshot", "20240301T030400Z"];
    let args =
        [&mirror[..], &["--components", "main,restricted", "--install", "x", "rootfs"]].concat();
    place.fetch(&args).success();
    let line =
        |part: &str| format!("deb http://m/ubuntu/20240301T030400Z focal{part} main restricted\n");
    let expected = [
        LIST_OPTIONS,
        "-o=Acquire::Check-Valid-Until=false\n",
        &line(""),
        &line("-updates"),
        &line("-security"),
    ];
    let rootfs = place.path("rootfs");
    assert_eq!(fs::read_to_string(rootfs.join("found")).unwrap(), expected.concat());
    let own = fs::read_to_string(rootfs.join("etc/apt/sources.list")).unwrap();
    assert_eq!(own, "deb http://own focal main\n");
    assert!(!rootfs.join("run/rootfs-fetch.list").exists());
}

#[test]
fn a_release_that_has_left_its_mirror_is_installed_from_the_old_releases_and_this_is_told() {
    need!(root() && installed("busybox"));
    let (place, server) = (Place::new(), Server::new([]));
    let mirror = server.url("/ubuntu");
    tree_with_listing_apt(&place, &mirror, "[ -e /run/rootfs-fetch.list ] || exit 100");
    let installed = place.fetch(&["--install", "x", "rootfs"]).success();
    let lists: Vec<String> = ["", "-updates", "-security"]
        .map(|part| {
            format!("deb http://old-releases.ubuntu.com/ubuntu focal{part} main universe\n")
        })
        .to_vec();
    let stderr = format!(
        "rootfs-fetch: installing x\n\
         rootfs-fetch: '{mirror}/dists/focal/InRelease' is gone, so installing from Ubuntu's old releases:\n  {}",
        lists.join("  ")
    );
    assert_eq!(installed.stderr, stderr);
    let found = fs::read_to_string(place.path("rootfs/found")).unwrap();
    assert_eq!(found, format!("{LIST_OPTIONS}{}", lists.concat()));
    assert_eq!(server.requests(), ["/ubuntu/dists/focal/InRelease"]);
}

#[test]
fn from_a_snapshot_with_a_source_date_epoch_two_runs_give_the_same_tree() {
    need!(root() && installed("mmdebstrap"));
    let place = Place::new();
    // A snapshot of today: the host's own mirror.
    let mirror = "apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1";
    let mirror = sh(mirror).success().stdout.trim_end().trim_end_matches('/').to_owned();
    let server = Server::redirecting("/debian/20240301T030400Z", mirror);
    let mirror = server.url("/debian");
    let make = |name: &str| {
        let mut command = tool("rootfs-fetch");
        command.current_dir(&place.dir).env("SOURCE_DATE_EPOCH", "1700000000");
        command.args(["--apt-mirror", &mirror, "--snapshot", "20240301T030400Z"]);
        command.args(["--json", "--install", "less", "--from"]).arg(debian_tarball()).arg(name);
        let result = outcome(&mut command).success().stdout;
        serde_json::from_str::<serde_json::Value>(&result).unwrap()["manifest"].clone()
    };
    let (one, two) = (make("one"), make("two"));
    let difference =
        sh(&format!("cd '{}' && diff -r --no-dereference one two", place.dir.display()));
    assert_eq!(one, two, "{difference:?}");
    let asked = server.requests();
    assert!(asked.iter().any(|path| path.contains("/pool/")), "{asked:?}");
    let late = sh(&format!("find '{}/one' -newermt @1700000000", place.dir.display()));
    assert_eq!(late.success().stdout, "");
}
