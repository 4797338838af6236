//! rootfs-fetch from outside: where a tarball comes from, and what verifies it.

use crate::{
    fixture::sha256,
    http_server::{Reply, Server},
    rootfs_fetch::{Place, failed, small_tarball},
    support::{Outcome, outcome, outcome_with_input, root, tool},
};
use std::fs;

/// The sum that is built in for the default file on amd64.
const BUILT_IN: &str = "60e216b60947653dc8989be3821380268315b99b2959c29882781541bfe5a426";

/// Where the real server has it.
const REAL_PATH: &str = "/ubuntu-base/releases/20.04/release/ubuntu-base-20.04.5-base-amd64.tar.gz";

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
