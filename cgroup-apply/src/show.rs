//! `show` and `info`: what is in effect.

use crate::{
    cgroup::directories,
    cli,
    error::{self, Error},
    hierarchy::{Tree, Version},
    processes::{no_such, processes},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// A cgroup as `show` prints it.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    directories: Vec<PathBuf>,
    limits: Vec<Limit>,
    processes: BTreeSet<i32>,
}

/// A limit in effect, named as on v2.
#[derive(Debug, Serialize)]
struct Limit {
    name: &'static str,
    value: String,
    /// What is used of it, where the kernel counts that.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    file: PathBuf,
}

/// The limits that are shown: name on v2, file on v2 and on v1, and the file that counts on each.
const LIMITS: [(&str, [&str; 2], [&str; 2]); 8] = [
    ("pids.max", ["pids.max", "pids.max"], ["pids.current", "pids.current"]),
    (
        "memory.max",
        ["memory.max", "memory.limit_in_bytes"],
        ["memory.current", "memory.usage_in_bytes"],
    ),
    ("memory.high", ["memory.high", ""], ["memory.current", ""]),
    ("memory.swap.max", ["memory.swap.max", ""], ["memory.swap.current", ""]),
    ("cpu.max", ["cpu.max", "cpu.cfs_quota_us"], ["", ""]),
    ("cpu.weight", ["cpu.weight", "cpu.shares"], ["", ""]),
    ("cpuset.cpus", ["cpuset.cpus.effective", "cpuset.effective_cpus"], ["", ""]),
    ("cpuset.mems", ["cpuset.mems.effective", "cpuset.effective_mems"], ["", ""]),
];

/// `show`.
pub(crate) fn show(tree: &Tree, args: &cli::Show) -> Result<ExitCode, Error> {
    let dirs = directories(tree, &args.name);
    if dirs.is_empty() {
        return Err(no_such("show", &args.name));
    }
    let limits = LIMITS.iter().filter_map(|(name, files, counts)| {
        let hierarchy = tree.of(name.split('.').next()?).ok()?;
        let at = usize::from(hierarchy.version == Version::V1);
        let dir = hierarchy.base.join(args.name.path());
        let file = Some(files[at]).filter(|file| !file.is_empty()).map(|file| dir.join(file))?;
        let value = value(name, &file)?;
        let current =
            Some(counts[at]).filter(|file| !file.is_empty()).and_then(|file| text(&dir.join(file)));
        Some(Limit { name, value, current, file })
    });
    let shown = Shown {
        name: args.name.to_string(),
        limits: limits.collect(),
        processes: processes(dirs.iter(), true),
        directories: dirs,
    };
    error::result(&if args.json { vec![json(&shown)?] } else { shown.table() })
}

impl Shown {
    fn table(&self) -> Vec<String> {
        let mut rows = vec![["LIMIT", "VALUE", "CURRENT", "FILE"].map(str::to_owned)];
        rows.extend(self.limits.iter().map(|Limit { name, value, current, file }| {
            let current = current.clone().unwrap_or_else(|| "-".into());
            [(*name).into(), value.clone(), current, file.display().to_string()]
        }));
        let mut lines = aligned(&rows);
        let directories: Vec<_> =
            self.directories.iter().map(|dir| dir.display().to_string()).collect();
        lines.push(format!("directories: {}", directories.join(" ")));
        let pids: Vec<_> = self.processes.iter().map(i32::to_string).collect();
        let pids = if pids.is_empty() { "none".into() } else { pids.join(" ") };
        lines.push(format!("processes: {pids}"));
        lines
    }
}

/// A limit's value in the words of v2.
fn value(name: &str, file: &Path) -> Option<String> {
    let value = text(file)?;
    if file.ends_with("cpu.cfs_quota_us") {
        let period = text(&file.with_file_name("cpu.cfs_period_us"))?;
        return Some(format!("{} {period}", if value == "-1" { "max" } else { &value }));
    }
    if file.ends_with("cpu.shares") {
        return value.parse::<u64>().ok().map(|shares| (shares * 100).div_ceil(1024).to_string());
    }
    // v1 writes "no limit" as a number that no machine has.
    let unlimited =
        name == "memory.max" && value.parse::<u64>().is_ok_and(|bytes| bytes >= 1 << 62);
    Some(if unlimited { "max".into() } else { value })
}

fn text(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

/// The host as `info` prints it.
#[derive(Debug, Serialize)]
struct Host {
    mode: &'static str,
    controllers: BTreeMap<String, Home>,
    /// Where the v2 tree is mounted, also if no controller is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    v2: Option<PathBuf>,
}

/// Where a controller lives.
#[derive(Debug, Serialize)]
struct Home {
    version: u8,
    directory: PathBuf,
}

/// `info`.
pub(crate) fn info(tree: &Tree, args: &cli::Info) -> Result<ExitCode, Error> {
    let host = Host::new(tree);
    error::result(&if args.json { vec![json(&host)?] } else { host.table() })
}

impl Host {
    fn new(tree: &Tree) -> Self {
        let homes = tree.hierarchies.iter().flat_map(|hierarchy| {
            let version = if hierarchy.version == Version::V1 { 1 } else { 2 };
            let home = move || Home { version, directory: hierarchy.base.clone() };
            hierarchy.controllers.iter().map(move |controller| (controller.clone(), home()))
        });
        let v2 = tree.v2().map(|hierarchy| hierarchy.mount.clone());
        Self { mode: tree.mode(), controllers: homes.collect(), v2 }
    }

    fn table(&self) -> Vec<String> {
        let mut rows = vec![["CONTROLLER", "VERSION", "DIRECTORY"].map(str::to_owned)];
        rows.extend(self.controllers.iter().map(|(controller, home)| {
            [controller.clone(), format!("v{}", home.version), home.directory.display().to_string()]
        }));
        let v2 = self.v2.iter().map(|mount| format!("v2 mounted at: {}", mount.display()));
        [format!("mode: {}", self.mode)].into_iter().chain(v2).chain(aligned(&rows)).collect()
    }
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string(value)
        .map_err(|err| Error::new(format!("cannot write JSON: {err}")))?;
    Ok(text)
}

/// Columns as wide as their widest cell; the last one is not padded.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..COLUMNS).map(width).collect();
    let cell = |(cell, width): (&String, &usize)| format!("{cell:width$}");
    let line =
        |row: &[String; COLUMNS]| row.iter().zip(&widths).map(cell).collect::<Vec<_>>().join("  ");
    rows.iter().map(|row| line(row).trim_end().to_owned()).collect()
}
