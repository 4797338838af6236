//! rootfs-fetch from outside.

use crate::{
    fixture::{debian_rootfs, host_suite},
    http_server::{Reply, Server},
    support::{Host, Outcome, installed, outcome, root, run, sh, tool},
};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// A directory of a test's own, for the cache and for DEST.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    /// Removes it at the end, unless it is a part of another one.
    _removed: Option<TempDir>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir: dir.path().to_owned(), _removed: Some(dir) }
    }

    /// The directory `dir` of another place.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), _removed: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Run rootfs-fetch here, with a cache here.
    #[track_caller]
    pub(crate) fn fetch(&self, args: &[&str]) -> Outcome {
        outcome(
            tool("rootfs-fetch").current_dir(&self.dir).args(["--cache-dir", "cache"]).args(args),
        )
    }

    /// The outcome of unpacking `archive` to `rootfs` and installing nothing.
    #[track_caller]
    pub(crate) fn unpack(&self, archive: &[u8]) -> Outcome {
        fs::write(self.path("a.tar"), archive).unwrap();
        self.fetch(&["--from", "a.tar", "--no-install", "rootfs"])
    }

    /// What lies here, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.dir).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A tar archive in the making. It begins with what makes a root file system of it.
pub(crate) struct Archive(Builder<Vec<u8>>);

impl Archive {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new())).dir("etc", 0o755).dir("bin", 0o755)
    }

    pub(crate) fn entry(
        mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        link: &str,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        // Not set_path, which refuses what a hostile archive would have.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1234);
        header.set_gid(5678);
        header.set_mtime(1_000_000_007);
        header.set_size(content.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(if kind == EntryType::Char { 3 } else { 0 }).unwrap();
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, mode, "", b"")
    }

    pub(crate) fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, mode, "", content)
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, target, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, 0o644, target, b"")
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn small_tarball() -> Vec<u8> {
    gzip(&Archive::new().file("etc/motd", 0o644, b"hello\n").finish())
}

pub(crate) fn failed(code: i32, stderr: impl Into<String>) -> Outcome {
    Outcome { code, stdout: String::new(), stderr: stderr.into() }
}

// The whole of it, on a real distribution

#[test]
fn a_tarball_from_a_web_server_becomes_a_tree_with_a_working_sysbench() {
    need!(root() && installed("mmdebstrap"));
    let rootfs = debian_rootfs();
    let version = sh(&format!("chroot '{}' sysbench --version", rootfs.display())).success();
    assert!(version.stdout.starts_with("sysbench 1."), "{version:?}");
    let left = ["usr/sbin/policy-rc.d", "var/cache/apt/archives/sysbench.deb"];
    assert!(!left.iter().any(|path| rootfs.join(path).exists()));
    let lists = fs::read_dir(rootfs.join("var/lib/apt/lists")).unwrap();
    assert!(
        lists.flatten().all(|entry| entry.metadata().unwrap().len() == 0 || entry.path().is_dir())
    );
}

#[test]
fn a_complete_tree_is_left_alone_with_no_request_and_no_apt() {
    need!(root() && installed("mmdebstrap"));
    let rootfs = debian_rootfs().to_str().unwrap();
    let server = Server::new([]);
    let args = [
        "--verbose",
        "--mirror",
        &server.url("/ubuntu-base"),
        "--install",
        "sysbench,bash",
        rootfs,
    ];
    let again = run("rootfs-fetch", &args);
    let stderr = format!("rootfs-fetch: '{rootfs}' is complete: nothing to do\n");
    assert_eq!(again, Outcome { code: 0, stdout: format!("{rootfs}\n"), stderr });
    assert_eq!(server.requests(), [""; 0]);
    assert_eq!(run("rootfs-fetch", &["--dry-run", rootfs]), failed(0, ""));
}

#[test]
fn a_bootstrapped_tree_has_the_hosts_sources_and_what_is_asked_for() {
    need!(root() && installed("mmdebstrap"));
    let place = Place::new();
    let made =
        place.fetch(&["--bootstrap", &host_suite(), "--install", "nano", "rootfs"]).success();
    assert_eq!(made.stdout, format!("{}\n", place.path("rootfs").display()));
    assert_eq!(place.names(), ["rootfs"]);
    assert_eq!(fs::metadata(place.path("rootfs")).unwrap().mode(), 0o40755);
    assert!(place.path("rootfs/bin/nano").exists());
    // Usable from inside: what is missing is installed with them.
    place.fetch(&["--install", "nano,less", "rootfs"]).success();
    assert!(place.path("rootfs/bin/less").exists());
    let sources = fs::read_to_string(place.path("rootfs/etc/apt/sources.list")).unwrap();
    assert!(sources.lines().all(|line| line.contains(&host_suite())), "{sources}");
}

#[test]
fn where_no_server_has_the_tarball_the_hosts_own_suite_is_built_with_a_warning() {
    need!(root() && installed("mmdebstrap"));
    let place = Place::new();
    let server = Server::new([("/gone", Reply::Status("404 Not Found"))]);
    let mirror = server.url("/gone");
    let args =
        ["--or-bootstrap", "--arch", machine_arch(), "--mirror", &mirror, "--no-install", "rootfs"];
    let made = place.fetch(&args).success();
    let warning = format!(
        "rootfs-fetch: warning: no server gives 'ubuntu-base-20.04.5-base-{}.tar.gz', so this tree is ",
        machine_arch()
    );
    assert!(made.stderr.contains(&warning), "{made:?}");
    assert!(place.path("rootfs/usr/bin/apt-get").exists());
}

// Refusals

#[test]
fn wrong_usage_is_told_with_status_2() {
    for args in [
        &["--no-such", "x"][..],
        &[],
        &["--sha256", "12", "x"],
        &["--bootstrap", "b", "--insecure", "x"],
        &["--install", "nano,-o", "x"],
        &["--release", "focal fossa", "x"],
        &["--from", "ftp://x/y", "x"],
    ] {
        let refused = run("rootfs-fetch", args);
        assert_eq!((refused.code, &*refused.stdout), (2, ""), "{refused:?}");
        assert!(refused.stderr.starts_with("rootfs-fetch: "), "{refused:?}");
    }
}

#[test]
fn without_mmdebstrap_and_debootstrap_a_bootstrap_is_refused_with_the_way_to_get_one() {
    need!(root());
    let host = Host::new();
    let hide = "for file in /usr/bin/mmdebstrap /usr/sbin/debootstrap; do \
        [ ! -e $file ] || mount --bind /dev/null $file; done; mount -t tmpfs tmpfs /usr/share/keyrings; \
        touch /usr/share/keyrings/debian-archive-keyring.gpg";
    host.sh(hide).success();
    let args = ["--bootstrap", "bookworm", "--mirror", "http://m/debian", "/tmp/not-made"];
    let stderr = "\
rootfs-fetch: cannot build from an apt mirror: neither mmdebstrap nor debootstrap is installed
  hint: 'apt-get install mmdebstrap' brings one
";
    assert_eq!(host.run("rootfs-fetch", &args), failed(1, stderr));
    // Where it is the second choice, the reason why there is no first is told as before a tree that is built.
    let args =
        ["--or-bootstrap", "--release", "20.04.5", "--arch", machine_arch(), "--retries", "0"];
    let mirrors = ["--mirror", "http://127.0.0.1:9/a", "--mirror", "http://127.0.0.1:9/b"];
    let refused = host.run("rootfs-fetch", &[&args[..], &mirrors, &["/tmp/not-made"]].concat());
    let file = format!("ubuntu-base-20.04.5-base-{}.tar.gz", machine_arch());
    let tried = |mirror| {
        let url = format!("http://127.0.0.1:9/{mirror}/releases/20.04/release/{file}");
        format!("    tried: cannot download '{url}': Connection refused (ECONNREFUSED)\n")
    };
    let told = format!(
        "rootfs-fetch: cannot build from an apt mirror: neither mmdebstrap nor debootstrap is installed\n  \
         before that: cannot download '{file}' from any server\n{}{}  \
         hint: 'apt-get install mmdebstrap' brings one\n",
        tried("a"),
        tried("b")
    );
    assert!(refused.stderr.ends_with(&told), "{refused:?}");
    let args = ["--bootstrap", "focal", "--mirror", "http://m/ubuntu", "/tmp/not-made"];
    let stderr = "\
rootfs-fetch: cannot verify the suite 'focal': there is no keyring '/usr/share/keyrings/ubuntu-archive-keyring.gpg'
  hint: the package ubuntu-archive-keyring (on Ubuntu: ubuntu-keyring) has it
";
    assert_eq!(host.run("rootfs-fetch", &args), failed(1, stderr));
}

#[test]
fn a_directory_that_is_no_root_file_system_is_left_alone() {
    need!(root());
    let place = Place::new();
    fs::create_dir(place.path("rootfs")).unwrap();
    fs::write(place.path("rootfs/mine"), "").unwrap();
    let stderr = "rootfs-fetch: cannot make 'rootfs': it is not empty, and no root file system\n";
    assert_eq!(place.unpack(&small_tarball()), failed(1, stderr));
    assert_eq!(place.fetch(&["--force", "--from", "a.tar", "rootfs/"]), failed(1, stderr));
    assert!(place.path("rootfs/mine").exists());
    assert_eq!(
        place.fetch(&["--from", "a.tar", "no/such/rootfs"]).stderr,
        format!(
            "rootfs-fetch: cannot open directory '{}': No such file or directory (ENOENT)\n",
            place.path("no/such").display()
        )
    );
}

#[test]
fn what_is_no_tarball_is_refused() {
    need!(root());
    for content in [&b"<!DOCTYPE html>"[..], b"", b"BZh9"] {
        let place = Place::new();
        let stderr = "\
rootfs-fetch: unpacking 'a.tar'
rootfs-fetch: refusing 'a.tar': it is no tarball that is taken here
  undone: '.rootfs.partial' is removed
  hint: a .tar, .tar.gz, .tar.xz or .tar.zst is; for another: 'bzip2 --decompress --stdout FILE | rootfs-fetch --from - DEST'
";
        assert_eq!(place.unpack(content), failed(1, stderr));
        assert_eq!(place.names(), ["a.tar"]);
    }
}

#[test]
fn an_archive_without_a_root_file_system_is_refused() {
    need!(root());
    let place = Place::new();
    let archive = Archive(Builder::new(Vec::new())).file("data", 0o644, b"").finish();
    let stderr = "\
rootfs-fetch: unpacking 'a.tar'
rootfs-fetch: cannot make 'rootfs': the archive holds no root file system
  undone: '.rootfs.partial' is removed
  hint: one has 'etc', and 'bin' or 'usr'
";
    assert_eq!(place.unpack(&archive), failed(1, stderr));
    assert_eq!(place.names(), ["a.tar"]);
}

// DEST

#[test]
fn force_exchanges_the_tree_and_removes_the_old_one() {
    need!(root());
    let place = Place::new();
    place.unpack(&Archive::new().file("etc/old", 0o644, b"").finish()).success();
    fs::create_dir_all(place.path("rootfs/a/b/c")).unwrap();
    place.unpack(&small_tarball()).success(); // complete: nothing to do
    assert!(place.path("rootfs/etc/old").exists());
    let bad = &small_tarball()[..100];
    fs::write(place.path("bad.tar"), bad).unwrap();
    assert_eq!(place.fetch(&["--force", "--from", "bad.tar", "--no-install", "rootfs"]).code, 1);
    assert!(place.path("rootfs/etc/old").exists());
    place.fetch(&["--force", "--from", "a.tar", "--no-install", "rootfs"]).success();
    assert!(place.path("rootfs/etc/motd").exists());
    assert!(!place.path("rootfs/etc/old").exists());
    assert_eq!(place.names(), ["a.tar", "bad.tar", "rootfs"]);
}

#[test]
fn a_link_to_dest_and_an_empty_dest_are_filled() {
    need!(root());
    let place = Place::new();
    fs::create_dir(place.path("real")).unwrap();
    symlink("real", place.path("rootfs")).unwrap();
    let made = place.unpack(&small_tarball()).success();
    assert_eq!(made.stdout, format!("{}\n", place.path("real").display()));
    assert!(fs::symlink_metadata(place.path("rootfs")).unwrap().is_symlink());
    assert!(place.path("real/etc/motd").exists());
}

#[test]
fn a_hook_works_on_the_tree_before_it_gets_its_name() {
    need!(root());
    let place = Place::new();
    fs::write(place.path("a.tar"), small_tarball()).unwrap();
    let args = ["--from", "a.tar", "--no-install", "--hook"];
    let hook = "test -d \"$1/etc\" && basename \"$1\" >\"$1/etc/hooked\"";
    place.fetch(&[&args[..], &[hook, "rootfs"]].concat()).success();
    let hooked = fs::read_to_string(place.path("rootfs/etc/hooked")).unwrap();
    assert_eq!(hooked, ".rootfs.partial\n");
    let refused = place.fetch(&[&args[..], &["echo no >&2; exit 4", "other"]].concat());
    let stderr = "\
rootfs-fetch: unpacking 'a.tar'
no
rootfs-fetch: 'sh' ended with status 4; its output is above
  undone: '.other.partial' is removed
";
    assert_eq!(refused, failed(1, stderr));
    assert_eq!(place.names(), ["a.tar", "rootfs"]);
}

/// The machine's architecture in Debian's words.
fn machine_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
