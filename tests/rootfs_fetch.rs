//! rootfs-fetch from outside.

use crate::{
    fixture::{debian_rootfs, debian_tarball, host_suite, sha256},
    http_server::{Reply, Server},
    support::{
        Host, Outcome, installed, outcome, outcome_with_input, root, run, sh, shell_status, tool,
        write_busybox_rootfs,
    },
};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::Duration,
};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// The sum that is built in for the default file on amd64.
const BUILT_IN: &str = "60e216b60947653dc8989be3821380268315b99b2959c29882781541bfe5a426";

/// Where the real server has it.
const REAL_PATH: &str = "/ubuntu-base/releases/20.04/release/ubuntu-base-20.04.5-base-amd64.tar.gz";

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
    fn unpack(&self, archive: &[u8]) -> Outcome {
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
struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(Builder::new(Vec::new())).dir("etc", 0o755).dir("bin", 0o755)
    }

    fn entry(mut self, path: &str, kind: EntryType, mode: u32, link: &str, content: &[u8]) -> Self {
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

    fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, mode, "", b"")
    }

    fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, mode, "", content)
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, 0o644, target, b"")
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn small_tarball() -> Vec<u8> {
    gzip(&Archive::new().file("etc/motd", 0o644, b"hello\n").finish())
}

fn failed(code: i32, stderr: impl Into<String>) -> Outcome {
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

// Sources and their verification

#[test]
fn the_dry_run_names_the_file_its_sum_and_the_install() {
    let place = Place::new();
    let plan = place.fetch(&[
        "--dry-run",
        "--arch",
        "amd64",
        "--mirror",
        "http://m/ubuntu-base",
        "rootfs",
    ]);
    let apt_options = "--yes --no-install-recommends -o=Acquire::Retries=3 \
        -o=APT::Update::Error-Mode=any -o=DPkg::Lock::Timeout=60 -o=Dpkg::Use-Pty=0 \
        -o=Dpkg::Options::=--force-confold -o=Dpkg::Options::=--force-unsafe-io";
    let dir = "http://m/ubuntu-base/releases/20.04/release";
    let inside = "unshare --mount --pid --fork --kill-child --mount-proc=.rootfs.partial/proc \
        -- chroot .rootfs.partial";
    let stdout = format!(
        "\
mkdir --parents cache
wget --output-document=cache/20.04.SHA256SUMS {dir}/SHA256SUMS \
&& wget --output-document=cache/20.04.SHA256SUMS.gpg {dir}/SHA256SUMS.gpg
gpgv --keyring /etc/apt/trusted.gpg.d/ubuntu-keyring-2012-cdimage.gpg \
cache/20.04.SHA256SUMS.gpg cache/20.04.SHA256SUMS
mkdir --parents cache
wget --output-document=cache/{BUILT_IN}.part http://m{REAL_PATH}
echo '{BUILT_IN}  cache/{BUILT_IN}.part' | sha256sum --check
mv cache/{BUILT_IN}.part cache/{BUILT_IN}
mkdir --parents .rootfs.partial
tar --extract --preserve-permissions --numeric-owner --xattrs --xattrs-include='*' \
--directory=.rootfs.partial --file=cache/{BUILT_IN}
{inside} apt-get update {apt_options}
{inside} apt-get install {apt_options} sysbench
{inside} apt-get clean {apt_options}
find .rootfs.partial/var/lib/apt/lists -maxdepth 1 -type f -not -name lock -delete
mv --no-target-directory .rootfs.partial rootfs
"
    );
    assert_eq!(plan, Outcome { code: 0, stdout, stderr: String::new() });
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn a_mirror_with_the_real_layout_gives_the_default_file() {
    need!(root());
    let (place, tarball) = (Place::new(), small_tarball());
    let sum = sha256(&tarball);
    let server = Server::new([(REAL_PATH, Reply::Content(tarball))]);
    let mirror = server.url("/ubuntu-base");
    let args = ["--arch", "amd64", "--mirror", &mirror, "--sha256", &sum, "--no-install"];
    let made = place.fetch(&[&args[..], &["rootfs"]].concat());
    let name = "ubuntu-base-20.04.5-base-amd64.tar.gz";
    let stderr = format!(
        "rootfs-fetch: downloading '{}'\nrootfs-fetch: unpacking '{name}'\n",
        server.url(REAL_PATH)
    );
    let stdout = format!("{}\n", place.path("rootfs").display());
    assert_eq!(made, Outcome { code: 0, stdout, stderr });
    // The second tree comes from the cache.
    place.fetch(&[&args[..], &["other"]].concat()).success();
    assert_eq!(server.requests(), [REAL_PATH]);
}

#[test]
fn what_has_not_the_built_in_sum_is_refused_with_both_sums() {
    need!(root());
    let (place, tarball) = (Place::new(), small_tarball());
    let sum = sha256(&tarball);
    let server = Server::new([(REAL_PATH, Reply::Content(tarball))]);
    let refused =
        place.fetch(&["--arch", "amd64", "--mirror", &server.url("/ubuntu-base"), "rootfs"]);
    let url = server.url(REAL_PATH);
    let list = server.url("/ubuntu-base/releases/20.04/release/SHA256SUMS");
    let stderr = format!(
        "\
rootfs-fetch: no list of releases, so taking 'ubuntu-base-20.04.5-base-amd64.tar.gz', whose sum is built in
  cannot download '{list}': server answered 404 Not Found
rootfs-fetch: downloading '{url}'
rootfs-fetch: refusing '{url}': its SHA-256 sum is not the expected one
  expected: {BUILT_IN}
  received: {sum}
"
    );
    assert_eq!(refused, failed(1, stderr));
    assert_eq!(place.names(), ["cache"]);
    assert_eq!(fs::read_dir(place.path("cache")).unwrap().count(), 0);
}

#[test]
fn one_bit_of_the_sum_changed_is_a_refusal_for_a_file_and_for_standard_input_too() {
    need!(root());
    let (place, tarball) = (Place::new(), small_tarball());
    let sum = sha256(&tarball);
    let last = u8::from_str_radix(&sum[62..], 16).unwrap() ^ 1;
    let other = format!("{}{last:02x}", &sum[..62]);
    let sums = format!("  expected: {other}\n  received: {sum}\n");
    fs::write(place.path("base.tar.gz"), &tarball).unwrap();
    let refused = place.fetch(&["--from", "base.tar.gz", "--sha256", &other, "rootfs"]);
    let stderr = "rootfs-fetch: refusing 'base.tar.gz': its SHA-256 sum is not the expected one\n";
    assert_eq!(refused, failed(1, format!("{stderr}{sums}")));

    let mut command = tool("rootfs-fetch");
    command.current_dir(&place.dir).args([
        "--from",
        "-",
        "--no-install",
        "--sha256",
        &other,
        "rootfs",
    ]);
    let refused = outcome_with_input(&mut command, &tarball);
    let stderr =
        "rootfs-fetch: refusing 'standard input': its SHA-256 sum is not the expected one\n";
    let undone = "  undone: '.rootfs.partial' is removed\n";
    assert_eq!(refused, failed(1, format!("{stderr}{sums}{undone}")));
    assert_eq!(place.names(), ["base.tar.gz"]);
}

#[test]
fn standard_input_is_taken_with_the_right_sum() {
    need!(root());
    let (place, tarball) = (Place::new(), small_tarball());
    let mut command = tool("rootfs-fetch");
    command.current_dir(&place.dir).args(["--from", "-", "--no-install", "--json"]);
    command.args(["--sha256", &sha256(&tarball), "rootfs"]);
    let made = outcome_with_input(&mut command, &tarball).success();
    let path = place.path("rootfs");
    let mut result: serde_json::Value = serde_json::from_str(&made.stdout).unwrap();
    assert_eq!(result["manifest"].take().as_str().unwrap().len(), 64);
    let expected = serde_json::json!({
        "changed": true, "manifest": null, "packages": [], "path": path.to_str().unwrap()
    });
    assert_eq!((result, &*made.stderr), (expected, ""));
    assert_eq!(fs::read_to_string(path.join("etc/motd")).unwrap(), "hello\n");
}

#[test]
fn what_nothing_verifies_is_refused_unless_the_user_takes_it() {
    need!(root());
    let (place, server) = (Place::new(), Server::new([("/x", Reply::Content(small_tarball()))]));
    let url = server.url("/x");
    let refused = place.fetch(&["--from", &url, "--no-install", "rootfs"]);
    let stderr = format!(
        "rootfs-fetch: cannot verify '{url}': no SHA-256 sum is given\n  \
         hint: give its sum with --sha256, or take it as it comes with --insecure\n"
    );
    assert_eq!(refused, failed(1, stderr));
    assert_eq!(server.requests(), [""; 0]);
    place.fetch(&["--from", &url, "--insecure", "--no-install", "rootfs"]).success();
    assert_eq!(fs::read_dir(place.path("cache")).unwrap().count(), 0);
}

#[test]
fn a_cut_download_and_a_damaged_cache_are_made_good() {
    need!(root());
    let (place, tarball) = (Place::new(), small_tarball());
    let sum = sha256(&tarball);
    let server = Server::new([("/x", Reply::CutOnce(tarball))]);
    let url = server.url("/x");
    let args = ["--from", &url, "--sha256", &sum, "--no-install"];
    place.fetch(&[&args[..], &["one"]].concat()).success();
    assert_eq!(server.requests(), ["/x", "/x"]);
    let cached = place.path("cache").join(&sum);
    fs::write(&cached, "damaged").unwrap();
    let again = place.fetch(&[&args[..], &["two"]].concat()).success();
    let stderr = format!(
        "rootfs-fetch: 'cache/{sum}' is damaged; downloading it again\n\
         rootfs-fetch: downloading '{url}'\nrootfs-fetch: unpacking '{url}'\n"
    );
    assert_eq!(again.stderr, stderr);
    assert_eq!(sha256(&fs::read(cached).unwrap()), sum);
}

#[test]
fn a_download_goes_through_the_proxy_of_the_environment_unless_no_proxy_has_the_server() {
    let (place, tarball) = (Place::new(), small_tarball());
    let sum = sha256(&tarball);
    let far = "http://base.example/x";
    let server =
        Server::new([(far, Reply::Content(tarball.clone())), ("/x", Reply::Content(tarball))]);
    let near = server.url("/x");
    let download = |url: &str, cache: &str, name: &str, value: &str| {
        let mut command = tool("rootfs-fetch");
        command.current_dir(&place.dir).env(name, value).env("http_proxy", server.url(""));
        command.args(["--from", url, "--sha256", &sum, "--download-only", "--cache-dir", cache]);
        outcome(&mut command).success();
    };
    download(far, "one", "LC_ALL", "C");
    download(&near, "two", "no_proxy", "127.0.0.1");
    assert_eq!(server.requests(), [far, "/x"]);
}

#[test]
fn each_server_that_fails_is_told_with_its_reason() {
    need!(root());
    let place = Place::new();
    let server = Server::new([]);
    let (gone, path) = (server.url("/a"), &REAL_PATH["/ubuntu-base".len()..]);
    // A port that nothing listens on: it was free a moment ago.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = place.fetch(&[
        "--arch",
        "amd64",
        "--mirror",
        &gone,
        "--mirror",
        &format!("http://{closed}"),
        "rootfs",
    ]);
    let tried = format!(
        "  tried: cannot download '{gone}{path}': server answered 404 Not Found\n  \
         tried: cannot download 'http://{closed}{path}': Connection refused (ECONNREFUSED)\n"
    );
    let name = "ubuntu-base-20.04.5-base-amd64.tar.gz";
    assert!(refused.stderr.ends_with(&tried), "{refused:?}");
    assert!(
        refused
            .stderr
            .contains(&format!("\nrootfs-fetch: cannot download '{name}' from any server\n"))
    );
    assert_eq!((refused.code, place.names()), (1, vec!["cache".to_owned()]));
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

// Archives

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

// What is killed leaves nothing

/// A tree with an apt-get that says where it is and then sleeps, as an archive.
fn tree_with_slow_apt(place: &Place) {
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

/// A process that ends with the value, at the latest.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        assert_eq!(shell_status(self.0.wait().unwrap()), 137);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Start the tool here with its stderr in a file, and wait until that has `sign`.
fn start(place: &Place, args: &[&str], sign: &str) -> Running {
    let log = place.path("log");
    let mut command = tool("rootfs-fetch");
    command.current_dir(&place.dir).args(args).stdout(Stdio::null());
    let mut child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    while !fs::read_to_string(&log).unwrap().contains(sign) {
        assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&log).unwrap());
        thread::sleep(Duration::from_millis(10));
    }
    Running(child)
}

/// Processes whose root directory or open files are in `place`.
fn processes_in(place: &Place) -> Vec<PathBuf> {
    let dirs = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let in_place = |dir: &PathBuf| {
        ["root", "cwd"].iter().any(|link| {
            fs::read_link(dir.join(link)).is_ok_and(|path| path.starts_with(&place.dir))
        })
    };
    dirs.filter(in_place).collect()
}

#[test]
fn killed_while_apt_runs_it_leaves_no_process_and_no_mount_and_the_next_run_works() {
    need!(root() && installed("busybox"));
    let place = Place::new();
    tree_with_slow_apt(&place);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut child = start(&place, &["--from", "slow.tar", "--install", "x", "rootfs"], "started");
    assert!(processes_in(&place).len() >= 3);
    child.kill();
    // They were killed with it; the kernel may need a moment to be done with them.
    while !processes_in(&place).is_empty() {
        thread::sleep(Duration::from_millis(10));
    }
    let in_place = place.dir.to_str().unwrap();
    assert!(!mounts.contains(in_place));
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(in_place));
    assert_eq!(place.names(), [".rootfs.partial", "log", "slow.tar"]);
    place.fetch(&["--from", "slow.tar", "--no-install", "rootfs"]).success();
    assert_eq!(place.names(), ["log", "rootfs", "slow.tar"]);
    assert!(!place.path("rootfs/usr/sbin/policy-rc.d").exists());
}

#[test]
fn killed_while_it_installs_in_a_complete_tree_the_next_run_takes_back_what_it_put_there() {
    need!(root() && installed("busybox"));
    let place = Place::new();
    tree_with_slow_apt(&place);
    place.fetch(&["--from", "slow.tar", "--no-install", "rootfs"]).success();
    let mut child = start(&place, &["--install", "x", "rootfs"], "started");
    child.kill();
    let placed = [place.path("rootfs/usr/sbin/policy-rc.d"), place.path("rootfs/etc/resolv.conf")];
    assert!(placed.iter().all(|path| path.exists()));
    fs::write(place.path("rootfs/usr/bin/apt-get"), "#!/bin/sh\nexit 0\n").unwrap();
    place.fetch(&["--no-install", "rootfs"]).success();
    assert!(!placed.iter().any(|path| path.exists()));
}

#[test]
fn killed_while_it_unpacks_it_leaves_no_dest_and_the_next_run_works() {
    need!(root());
    let (place, archive) =
        (Place::new(), Archive::new().file("etc/motd", 0o644, b"hello\n").finish());
    let mut command = tool("rootfs-fetch");
    command.current_dir(&place.dir).args(["--from", "-", "--no-install", "rootfs"]);
    let mut child = Running(command.stdin(Stdio::piped()).spawn().unwrap());
    // The archive's end is held back, so it waits in the middle.
    child.0.stdin.as_mut().unwrap().write_all(&archive[..2560]).unwrap();
    while !place.path(".rootfs.partial/etc").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    // A second run keeps off meanwhile.
    let busy = "\
rootfs-fetch: cannot lock '.rootfs.partial': Try again (EAGAIN)
  hint: another rootfs-fetch makes this tree now
";
    assert_eq!(place.unpack(&archive), failed(1, busy));
    child.kill();
    assert_eq!(place.names(), [".rootfs.partial", "a.tar"]);
    place.unpack(&archive).success();
    assert_eq!(place.names(), ["a.tar", "rootfs"]);
}

/// Kill a whole run, of download, unpacking and apt, after `moment`, and give what is wrong then.
fn killed_after(moment: Duration, place: &Place, url: &str, sum: &str) -> Option<String> {
    let args = ["--cache-dir", "cache", "--from", url, "--sha256", sum, "--install", "x", "rootfs"];
    let mut command = tool("rootfs-fetch");
    command.current_dir(&place.dir).args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Running(command.spawn().unwrap());
    thread::sleep(moment);
    drop(child.0.kill()); // it may have ended
    child.0.wait().unwrap();
    while !processes_in(place).is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    let complete = place.path("rootfs/etc/installed").exists();
    if place.path("rootfs").exists() && !complete {
        return Some(format!("a part of a tree after {moment:?}"));
    }
    if fs::read_to_string("/proc/self/mountinfo").unwrap().contains(place.dir.to_str().unwrap()) {
        return Some(format!("a mount after {moment:?}"));
    }
    let again = place.fetch(&args[2..]);
    if again.code != 0 || place.names() != ["cache", "rootfs"] {
        return Some(format!("after {moment:?}: {again:?} {:?}", place.names()));
    }
    let placed = ["usr/sbin/policy-rc.d", "etc/resolv.conf"];
    let left = placed.iter().find(|path| place.path("rootfs").join(path).exists());
    left.map(|left| format!("'{left}' after {moment:?}"))
}

#[test]
fn killed_at_any_of_50_moments_it_leaves_dest_absent_or_complete_and_the_next_run_works() {
    need!(root() && installed("busybox"));
    let place = Place::new();
    tree_with_slow_apt(&place);
    let apt = "#!/bin/sh\nsleep 0.03; [ \"$1\" != install ] || echo done >/etc/half; sleep 0.03; \
        [ \"$1\" != clean ] || mv /etc/half /etc/installed\n";
    fs::create_dir_all(place.path("t/usr/bin")).unwrap();
    fs::write(place.path("t/usr/bin/apt-get"), apt).unwrap();
    let status = "Package: x\nStatus: install ok installed\n";
    fs::create_dir_all(place.path("t/var/lib/dpkg")).unwrap();
    fs::write(place.path("t/var/lib/dpkg/status"), status).unwrap();
    sh(&format!(
        "cd '{}' && chmod 755 t/usr/bin/apt-get && tar -rf slow.tar -C t . && gzip -1 slow.tar",
        place.dir.display()
    ))
    .success();
    let tarball = fs::read(place.path("slow.tar.gz")).unwrap();
    let sum = sha256(&tarball);
    let server = Server::new([("/x", Reply::Content(tarball))]);
    let url = server.url("/x");
    let whole = std::time::Instant::now();
    let args = ["--from", &url, "--sha256", &sum, "--install", "x", "whole"];
    place.fetch(&args).success();
    let whole = whole.elapsed();
    let wrong: Vec<String> = thread::scope(|scope| {
        let run = |worker: u32| {
            let kill = |moment: u32| {
                let place = Place::new();
                killed_after(whole * moment / 50, &place, &url, &sum)
            };
            (0..50).skip(worker as usize).step_by(2).filter_map(kill).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..2).map(|worker| scope.spawn(move || run(worker))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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

/// The machine's architecture in Debian's words.
fn machine_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
