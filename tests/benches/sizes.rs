//! How big the binaries are, how much they depend on, how long a build from nothing takes.

use crate::{
    error::{Attempt as _, Error},
    host::{results, tool, top},
    report::Report,
};
use std::{collections::HashSet, env, fs, process::Command, time::Instant};

const TOOLS: [&str; 4] = ["rootfs-fetch", "netns-setup", "cgroup-apply", "ns-spawn"];

/// The binaries that there are.
pub(crate) fn measure() -> Result<Report, Error> {
    let mut report = Report::new("sizes", "Sizes", 1);
    report
        .say("The stripped binaries of `make build`, and the crates that are compiled into each:");
    let mut rows = vec![];
    for name in TOOLS {
        let path = tool(name)?;
        let bytes = fs::metadata(&path).attempt(|| format!("cannot look at '{path}'"))?.len();
        rows.push(vec![name.to_owned(), (bytes / 1024).to_string(), crates(name)?.to_string()]);
    }
    report.table(&["", "KiB", "crates"], &rows);
    Ok(report)
}

/// How many crates `name` is made of, build scripts' and macros' not counted.
fn crates(name: &str) -> Result<usize, Error> {
    let mut tree = cargo();
    tree.args([
        "tree",
        "--locked",
        "--package",
        name,
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
    ]);
    tree.args(["--format", "{p}"]);
    let listed = tree.output().attempt(|| "cannot run cargo".into())?;
    if !listed.status.success() {
        let said = String::from_utf8_lossy(&listed.stderr).trim().to_owned();
        return Err(Error::new(format!("cannot list the crates of '{name}': {said}")));
    }
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let crates: HashSet<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    Ok(crates.len() - 1) // itself
}

/// A release build into an empty directory, with what cargo has downloaded.
pub(crate) fn build() -> Result<Report, Error> {
    let scratch = tempfile::Builder::new()
        .prefix("build-")
        .tempdir_in(results()?)
        .attempt(|| "cannot make a directory".into())?;
    let mut report = Report::new("build", "Building", 1);
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--quiet", "--workspace"]);
    build.args(["--exclude", "tests", "--exclude", "benches", "--target-dir"]).arg(scratch.path());
    let begin = Instant::now();
    let mut child = build.spawn().attempt(|| "cannot run cargo".into())?;
    let ended = child.wait().attempt(|| "cannot wait for cargo".into())?;
    if !ended.success() {
        return Err(Error::new("cargo did not build the tools"));
    }
    let seconds = begin.elapsed().as_secs();
    report.say(&format!("A release build of the four tools from nothing takes {seconds} s here, downloads not counted."));
    Ok(report)
}

fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(top());
    cargo
}
