//! What takes time to make, and is made once: a distribution's root file system.

use crate::{
    http_server::{Reply, Server},
    support::{fixtures, outcome, tool},
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// A tarball with the smallest tree of the host's own suite, from the host's own apt mirror.
pub(crate) fn debian_tarball() -> &'static Path {
    static TARBALL: OnceLock<PathBuf> = OnceLock::new();
    TARBALL.get_or_init(|| {
        let suite = host_suite();
        let tarball = fixtures().join(format!("debian-{suite}.tar.gz"));
        let _lock = lock("tarball");
        if !tarball.exists() {
            let tree = fixtures().join(format!("debian-{suite}"));
            let unnamed = tarball.with_extension("part");
            outcome(tool("rootfs-fetch").args(["--bootstrap", &suite, "--no-install"]).arg(&tree))
                .success();
            let mut tar = Command::new("tar");
            tar.args(["--create", "--use-compress-program=gzip -1", "--numeric-owner", "--xattrs"]);
            tar.arg("--file").arg(&unnamed).arg("--directory").arg(&tree).arg(".");
            outcome(&mut tar).success();
            fs::rename(&unnamed, &tarball).unwrap();
            fs::remove_dir_all(&tree).unwrap();
        }
        tarball
    })
}

/// A root file system with bash and sysbench, as rootfs-fetch makes it of that tarball from a web server.
/// It is for reading: a test that writes uses a copy, or puts back what it changed.
pub(crate) fn debian_rootfs() -> &'static Path {
    static ROOTFS: OnceLock<PathBuf> = OnceLock::new();
    ROOTFS.get_or_init(|| {
        let rootfs = fixtures().join("debian-rootfs");
        let _lock = lock("rootfs");
        if !rootfs.exists() {
            let content = fs::read(debian_tarball()).unwrap();
            let sum = sha256(&content);
            let server = Server::new([("/base.tar.gz", Reply::Content(content))]);
            let mut fetch = tool("rootfs-fetch");
            fetch.args(["--from", &server.url("/base.tar.gz"), "--sha256", &sum]);
            fetch.arg("--cache-dir").arg(fixtures().join("cache")).arg(&rootfs);
            outcome(&mut fetch).success();
        }
        rootfs
    })
}

/// The SHA-256 sum of `content`, as sha256sum(1) writes it.
pub(crate) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |mut sum, byte| {
        write!(sum, "{byte:02x}").unwrap();
        sum
    })
}

/// The suite of the machine: bookworm, noble.
pub(crate) fn host_suite() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap();
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    suite.expect("a suite in /etc/os-release").trim_matches('"').to_owned()
}

/// Keep other test processes from making the same; it ends with the value.
fn lock(name: &str) -> File {
    let file = File::create(fixtures().join(format!("{name}.lock"))).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}
