//! `show` and `info`: what is in effect.

use crate::{
    cgroup::directories,
    cli,
    error::{self, Error},
    hierarchy::{Hierarchy, Tree, Version},
    interface,
    limits::IO_KEYS,
    processes::{is_frozen, no_such, processes},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A cgroup as `show` prints it.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    directories: Vec<PathBuf>,
    limits: Vec<Limit>,
    frozen: bool,
    processes: BTreeSet<i32>,
}

/// A limit, named as on v2.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Limit {
    name: String,
    /// What the cgroup's own file says.
    value: String,
    /// What holds, with the cgroups above.
    effective: String,
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
    // On v1 it is the sum of both, and so is what is used.
    (
        "memory.swap.max",
        ["memory.swap.max", "memory.memsw.limit_in_bytes"],
        ["memory.swap.current", "memory.memsw.usage_in_bytes"],
    ),
    ("cpu.max", ["cpu.max", "cpu.cfs_quota_us"], ["", ""]),
    ("cpu.weight", ["cpu.weight", "cpu.shares"], ["", ""]),
    ("cpuset.cpus", ["cpuset.cpus", "cpuset.cpus"], ["", ""]),
    ("cpuset.mems", ["cpuset.mems", "cpuset.mems"], ["", ""]),
];

/// `show`.
pub(crate) fn show(tree: &Tree, args: &cli::Show) -> Result<u8, Error> {
    let dirs = directories(tree, &args.name);
    if dirs.is_empty() {
        return Err(no_such("show", &args.name));
    }
    let shown = Shown {
        name: args.name.to_string(),
        limits: limits(tree, args.name.path()),
        frozen: is_frozen(&dirs),
        processes: processes(dirs.iter(), true),
        directories: dirs,
    };
    error::result(&if args.json { vec![json(&shown)?] } else { shown.table() })
}

/// All limits of the cgroup at `path`.
fn limits(tree: &Tree, path: &Path) -> Vec<Limit> {
    let fixed = LIMITS.iter().filter_map(|(name, files, counts)| {
        let hierarchy = tree.of(name.split('.').next()?).ok()?;
        let at = usize::from(hierarchy.version == Version::V1);
        let dir = hierarchy.base.join(path);
        let file = Some(files[at]).filter(|file| !file.is_empty()).map(|file| dir.join(file))?;
        let value = value(name, &file)?;
        let current = Some(counts[at])
            .filter(|count| !count.is_empty())
            .and_then(|count| used(name, &dir.join(count)));
        let effective = effective(name, hierarchy, &dir, files[at]).unwrap_or(value.clone());
        Some(Limit { name: (*name).into(), value, effective, current, file })
    });
    fixed.chain(huge_pages(tree, path)).chain(devices(tree, path)).collect()
}

/// What holds of a limit with those of the cgroups above: the smallest.
fn effective(name: &str, hierarchy: &Hierarchy, dir: &Path, file: &str) -> Option<String> {
    if let Some(kind) = name.strip_prefix("cpuset.") {
        let v2 = dir.join(format!("{file}.effective"));
        return text(&v2).or_else(|| text(&dir.join(format!("cpuset.effective_{kind}"))));
    }
    if name == "cpu.weight" {
        return None; // it counts among those that have the same cgroup above
    }
    let path = dir.ancestors().take_while(|each| each.starts_with(&hierarchy.mount));
    path.filter_map(|each| value(name, &each.join(file))).min_by_key(|value| amount(value))
}

/// A limit as something that can be compared: none, or millionths of a CPU, is more than any number.
fn amount(value: &str) -> u128 {
    match value.split_once(' ').unwrap_or((value, "")) {
        (number, "") => number.parse().unwrap_or(u128::MAX),
        (quota, period) => match (quota.parse::<u128>(), period.parse::<u128>()) {
            (Ok(quota), Ok(period)) if period > 0 => quota * 1_000_000 / period,
            _ => u128::MAX,
        },
    }
}

/// The limits of huge pages, one for each size.
fn huge_pages(tree: &Tree, path: &Path) -> Vec<Limit> {
    let Ok(hierarchy) = tree.of("hugetlb") else { return vec![] };
    let dir = hierarchy.base.join(path);
    let (end, count) = match hierarchy.version {
        Version::V1 => (".limit_in_bytes", ".usage_in_bytes"),
        Version::V2 => (".max", ".current"),
    };
    let files = fs::read_dir(&dir).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let limit = |name: String| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(end)?;
        if size.contains('.') {
            return None; // of reservations
        }
        let file = dir.join(&name);
        let value = value("hugetlb", &file)?;
        let effective = effective("hugetlb", hierarchy, &dir, &name).unwrap_or(value.clone());
        let current = text(&dir.join(format!("hugetlb.{size}{count}")));
        Some(Limit { name: format!("hugetlb.{size}.max"), value, effective, current, file })
    };
    let mut limits: Vec<_> = names.filter_map(limit).collect();
    limits.sort_by(|one, other| one.name.cmp(&other.name));
    limits
}

/// The limits of devices, one for each line of their files.
fn devices(tree: &Tree, path: &Path) -> Vec<Limit> {
    let Ok(hierarchy) = tree.of("io").or_else(|_| tree.of("blkio")) else { return vec![] };
    let dir = hierarchy.base.join(path);
    let limit = |file: &Path, value: String| Limit {
        name: "io.max".into(),
        effective: value.clone(),
        value,
        current: None,
        file: file.to_path_buf(),
    };
    let lines = |file: &Path, word: &str| {
        let text = text(file).unwrap_or_default();
        let words = |line: &str| match word {
            "" => line.to_owned(),
            _ => line.replacen(' ', &format!(" {word}="), 1),
        };
        text.lines().map(|line| limit(file, words(line))).collect::<Vec<_>>()
    };
    match hierarchy.version {
        Version::V2 => lines(&dir.join("io.max"), ""),
        Version::V1 => IO_KEYS.iter().flat_map(|(key, file)| lines(&dir.join(file), key)).collect(),
    }
}

impl Shown {
    fn table(&self) -> Vec<String> {
        let mut rows = vec![["LIMIT", "VALUE", "EFFECTIVE", "CURRENT", "FILE"].map(str::to_owned)];
        rows.extend(self.limits.iter().map(|limit| {
            let Limit { name, value, effective, current, file } = limit;
            let current = current.clone().unwrap_or_else(|| "-".into());
            let or_none =
                |value: &String| if value.is_empty() { "-".into() } else { value.clone() };
            let file = file.display().to_string();
            [name.clone(), or_none(value), or_none(effective), current, file]
        }));
        let mut lines = aligned(&rows);
        let directories: Vec<_> =
            self.directories.iter().map(|dir| dir.display().to_string()).collect();
        lines.push(format!("directories: {}", directories.join(" ")));
        let pids: Vec<_> = self.processes.iter().map(i32::to_string).collect();
        let pids = if pids.is_empty() { "none".into() } else { pids.join(" ") };
        lines.push(format!("frozen: {}", if self.frozen { "yes" } else { "no" }));
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
    if file.ends_with("memory.memsw.limit_in_bytes") {
        let memory = text(&file.with_file_name("memory.limit_in_bytes"))?.parse::<u64>().ok()?;
        let sum = value.parse::<u64>().ok()?;
        return Some(if sum >= NONE_ON_V1 {
            "max".into()
        } else {
            (sum - memory.min(sum)).to_string()
        });
    }
    let is_none = value.parse::<u64>().is_ok_and(|bytes| bytes >= NONE_ON_V1);
    Some(if is_none && name != "pids.max" { "max".into() } else { value })
}

/// v1 writes "no limit" as a number that no machine has.
const NONE_ON_V1: u64 = 1 << 62;

/// What is used of a limit.
fn used(name: &str, file: &Path) -> Option<String> {
    let used = text(file)?;
    if name == "memory.swap.max" && file.ends_with("memory.memsw.usage_in_bytes") {
        let memory = text(&file.with_file_name("memory.usage_in_bytes"))?.parse::<u64>().ok()?;
        return used.parse::<u64>().ok().map(|sum| sum.saturating_sub(memory).to_string());
    }
    Some(used)
}

fn text(file: &Path) -> Option<String> {
    interface::read(file).ok().map(|text| text.trim().to_owned())
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
pub(crate) fn info(tree: &Tree, args: &cli::Info) -> Result<u8, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hierarchy::tests::host;

    /// Name, value and what holds, of all limits of `a/b` on this host.
    fn shown(root: &tempfile::TempDir) -> Vec<String> {
        let tree = Tree::read(root.path(), true).unwrap();
        let line = |limit: Limit| format!("{} {} | {}", limit.name, limit.value, limit.effective);
        limits(&tree, Path::new("a/b")).into_iter().map(line).collect()
    }

    #[test]
    fn on_v2_the_smallest_of_the_path_holds() {
        let root = host(&[
            ("proc/self/mountinfo", "29 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n"),
            ("proc/self/cgroup", "0::/\n"),
            ("cg/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"),
            ("cg/a/pids.max", "9\n"),
            ("cg/a/b/pids.max", "max\n"),
            ("cg/a/memory.max", "max\n"),
            ("cg/a/b/memory.max", "4096\n"),
            ("cg/a/cpu.max", "50000 100000\n"),
            ("cg/a/b/cpu.max", "20000 20000\n"),
            ("cg/a/cpu.weight", "1\n"),
            ("cg/a/b/cpu.weight", "100\n"),
            ("cg/a/b/cpuset.cpus", "\n"),
            ("cg/a/b/cpuset.cpus.effective", "0-3\n"),
            ("cg/a/b/hugetlb.2MB.max", "2097152\n"),
            ("cg/a/b/hugetlb.2MB.rsvd.max", "max\n"),
            ("cg/a/b/io.max", "8:0 rbps=1 wbps=max riops=max wiops=max\n8:16 rbps=2 wbps=max\n"),
        ]);
        assert_eq!(
            shown(&root),
            [
                "pids.max max | 9",
                "memory.max 4096 | 4096",
                "cpu.max 20000 20000 | 50000 100000",
                "cpu.weight 100 | 100",
                "cpuset.cpus  | 0-3",
                "hugetlb.2MB.max 2097152 | 2097152",
                "io.max 8:0 rbps=1 wbps=max riops=max wiops=max | 8:0 rbps=1 wbps=max riops=max wiops=max",
                "io.max 8:16 rbps=2 wbps=max | 8:16 rbps=2 wbps=max",
            ]
        );
    }

    #[test]
    fn on_v1_the_words_are_those_of_v2() {
        let none = "9223372036854771712\n";
        let root = host(&[
            (
                "proc/self/mountinfo",
                "32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu\n\
                 33 31 0:30 / /cg/memory rw - cgroup cgroup rw,memory\n\
                 34 31 0:31 / /cg/blkio rw - cgroup cgroup rw,blkio\n",
            ),
            ("proc/self/cgroup", "3:blkio:/\n2:memory:/\n1:cpu:/\n"),
            ("cg/memory/memory.limit_in_bytes", none),
            ("cg/memory/a/memory.limit_in_bytes", none),
            ("cg/memory/a/b/memory.limit_in_bytes", "4096\n"),
            ("cg/memory/a/b/memory.memsw.limit_in_bytes", "12288\n"),
            ("cg/cpu/a/b/cpu.cfs_quota_us", "-1\n"),
            ("cg/cpu/a/b/cpu.cfs_period_us", "100000\n"),
            ("cg/cpu/a/b/cpu.shares", "1024\n"),
            ("cg/blkio/a/b/blkio.throttle.read_bps_device", "8:0 1000\n"),
        ]);
        assert_eq!(
            shown(&root),
            [
                "memory.max 4096 | 4096",
                "memory.swap.max 8192 | 8192",
                "cpu.max max 100000 | max 100000",
                "cpu.weight 100 | 100",
                "io.max 8:0 rbps=1000 | 8:0 rbps=1000",
            ]
        );
    }
}
