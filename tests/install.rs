//! What comes before use: `make check-host`, `make install`, the compiler that is needed.

use crate::support::{Host, outcome, root, sh, tool_path, top};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};
use tempfile::TempDir;

const TOOLS: [&str; 4] = ["rootfs-fetch", "netns-setup", "cgroup-apply", "ns-spawn"];

/// The files below `root`, each with its mode.
fn files(root: &Path) -> Vec<(String, u32)> {
    let found = sh(&format!("cd '{}' && find . -type f | sort", root.display())).success().stdout;
    let mode = |file: &str| fs::metadata(root.join(file)).unwrap().permissions().mode() & 0o7777;
    found.lines().map(|file| (file[2..].to_owned(), mode(file))).collect()
}

/// A checkout in which everything is built.
fn checkout() -> TempDir {
    let checkout = tempfile::tempdir().unwrap();
    fs::copy(top().join("Makefile"), checkout.path().join("Makefile")).unwrap();
    fs::create_dir_all(checkout.path().join("target/release")).unwrap();
    for name in TOOLS {
        symlink(tool_path(name), checkout.path().join("target/release").join(name)).unwrap();
    }
    checkout
}

/// `make goal` there, with nothing to build.
fn make(mut make: Command, checkout: &TempDir, goal: &str) -> Command {
    make.args(["--no-print-directory", "--old-file=build", "--directory"]).arg(checkout.path());
    make.arg(goal).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    make
}

#[test]
fn what_the_machine_can_do_is_said_with_what_helps() {
    need!(root());
    let (host, checkout) = (Host::new(), checkout());
    // No server is reached from there, and nothing else is known of the machine.
    let asked = outcome(&mut make(host.command("make"), &checkout, "check-host"));
    assert_eq!(asked.code, 0, "{asked:?}");
    for line in [
        "ns-spawn:",
        "yes  PID namespaces",
        "rootfs-fetch:",
        "yes  privileges to give files to their owners",
        "no   a server of the Ubuntu base: none of 7 answers",
        "     hint: set https_proxy, name a server with --mirror, or give --or-bootstrap",
        "yes  an apt mirror to build a tree from, and a tool for it",
        "yes  disk space in this directory",
        "netns-setup:",
        "yes  links, and a masquerade that nft makes",
        "cgroup-apply:",
        "CONTROLLER  VERSION  DIRECTORY",
    ] {
        assert!(asked.stdout.lines().any(|said| said == line), "{line}\n{asked:?}");
    }
    assert_ne!(host.sh("ip link show veth_host").code, 0, "it only looks");
}

#[test]
fn what_is_installed_is_uninstalled() {
    let checkout = checkout();
    let root = checkout.path().join("a root");
    let make = |goal: &str| {
        let mut make = make(Command::new("make"), &checkout, goal);
        make.arg("PREFIX=/usr").arg(format!("DESTDIR={}", root.display()));
        let done = outcome(&mut make).success();
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""), "{goal}");
    };
    make("install");
    let mut expected = vec![];
    for name in TOOLS {
        expected.push((format!("usr/bin/{name}"), 0o755));
        for file in [
            format!("man/man1/{name}.1"),
            format!("bash-completion/completions/{name}"),
            format!("zsh/site-functions/_{name}"),
            format!("fish/vendor_completions.d/{name}.fish"),
        ] {
            expected.push((format!("usr/share/{file}"), 0o644));
        }
    }
    expected.sort();
    assert_eq!(files(&root), expected);
    let version = outcome(Command::new(root.join("usr/bin/ns-spawn")).arg("--version")).success();
    assert_eq!(version.stdout, concat!("ns-spawn ", env!("CARGO_PKG_VERSION"), "\n"));
    make("install");
    make("uninstall");
    assert_eq!(files(&root), []);
    make("uninstall");
}

#[test]
fn no_dependency_needs_a_newer_rust_than_ours() {
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--locked", "--format-version=1"]).current_dir(top());
    let metadata = outcome(&mut metadata).success().stdout;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let version = |text: &str| -> Vec<u32> {
        text.split('.').map(|n| n.parse().unwrap()).chain([0, 0]).take(3).collect()
    };
    let packages = metadata["packages"].as_array().unwrap();
    let ours = packages.iter().find(|package| package["name"] == "ns-spawn").unwrap();
    let ours = version(ours["rust_version"].as_str().unwrap());
    assert!(packages.len() > 100, "{}", packages.len());
    for package in packages {
        if let Some(needed) = package["rust_version"].as_str() {
            assert!(version(needed) <= ours, "{} needs Rust {needed}", package["name"]);
        }
    }
}
