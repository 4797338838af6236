//! What may be asked of a cgroup, and the interface files it becomes on v1 and on v2.

use crate::{cli, error::Error, hierarchy::Version};
use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The most that the kernel's `pids.max` takes (`PID_MAX_LIMIT` in include/linux/threads.h, 64 bit).
const PIDS_MOST: u64 = 4_194_304;
/// The shortest CPU quota and period that the kernel takes (1 ms), and the longest period (1 s).
const CPU_SHORTEST: u64 = 1_000;
const CPU_LONGEST_PERIOD: u64 = 1_000_000;
/// From here on a v1 memory limit means none: `PAGE_COUNTER_MAX`, for the largest page size there is.
const V1_NO_MEMORY_LIMIT: u64 = i64::MAX as u64 & !0xffff;
/// Memory limits are rounded down to pages; the largest page size of a supported machine.
const LARGEST_PAGE: u64 = 65_536;

/// How a limit of memory is compared.
const BYTES: Check = Check::Bytes { page: LARGEST_PAGE };

/// A cgroup's path below the base of each hierarchy. It cannot lead out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

impl Name {
    /// The name and, before it, those it is below of: `a/b` gives `a`, `a/b`.
    pub(crate) fn lineage(&self) -> Vec<&Path> {
        let mut lineage: Vec<_> =
            self.path().ancestors().filter(|path| *path != Path::new("")).collect();
        lineage.reverse();
        lineage
    }

    /// As a relative path.
    pub(crate) fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        for part in text.split('/') {
            if part.is_empty() {
                return Err(
                    "a cgroup's name has no empty part, and no '/' before or behind it".into()
                );
            }
            if part.starts_with('.') {
                return Err(format!("'{part}' begins with a dot"));
            }
            if part.chars().any(char::is_control) {
                return Err("a control character is in it".into());
            }
            if part.len() > 255 {
                return Err(format!("'{part}' has {} bytes; the kernel allows 255", part.len()));
            }
        }
        Ok(Self(text.into()))
    }
}

/// A number of processes, or `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PidsMax(Option<u64>);

impl FromStr for PidsMax {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "max" => Ok(Self(None)),
            _ => match text.parse() {
                Ok(most) if most <= PIDS_MOST => Ok(Self(Some(most))),
                _ => Err(format!("allowed are 0 to {PIDS_MOST}, and 'max'")),
            },
        }
    }
}

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Max,
    Bytes(u64),
    /// Of the machine's RAM.
    Percent(u64),
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = || {
            "allowed are bytes, a number with K, M, G or T, '1%' to '100%', and 'max'".to_owned()
        };
        if text == "max" {
            return Ok(Self::Max);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|percent| (1..=100).contains(percent));
            return percent.map(Self::Percent).ok_or_else(allowed);
        }
        bytes(text).filter(|bytes| *bytes < V1_NO_MEMORY_LIMIT).map(Self::Bytes).ok_or_else(allowed)
    }
}

/// A number with or without K, M, G or T.
fn bytes(text: &str) -> Option<u64> {
    let shift = match text.bytes().last() {
        Some(b'K') => 10,
        Some(b'M') => 20,
        Some(b'G') => 30,
        Some(b'T') => 40,
        _ => 0,
    };
    let number = if shift == 0 { text } else { &text[..text.len() - 1] };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl Size {
    /// In bytes, `None` for no limit, on a machine with `ram` bytes.
    fn bytes(self, ram: u64) -> Option<u64> {
        match self {
            Self::Max => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Percent(percent) => Some(ram / 100 * percent),
        }
    }
}

/// CPU time in each period, both in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuMax {
    pub(crate) quota: Option<u64>,
    pub(crate) period: u64,
}

impl CpuMax {
    /// The period of a limit for which none is given, in microseconds: the kernel's.
    pub(crate) const DEFAULT_PERIOD: u64 = 100_000;
}

impl FromStr for CpuMax {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = || {
            "allowed are CPUs ('1.5'), a share ('50%'), QUOTA/PERIOD in microseconds, and 'max'"
                .to_owned()
        };
        let (quota, period) = if text == "max" {
            (None, CpuMax::DEFAULT_PERIOD)
        } else if let Some((quota, period)) = text.split_once('/') {
            let period = period.parse().map_err(|_| allowed())?;
            match quota {
                "max" => (None, period),
                _ => (Some(quota.parse().map_err(|_| allowed())?), period),
            }
        } else if let Some(percent) = text.strip_suffix('%') {
            (Some(fixed_point(percent, 3).ok_or_else(allowed)?), CpuMax::DEFAULT_PERIOD)
        } else {
            (Some(fixed_point(text, 5).ok_or_else(allowed)?), CpuMax::DEFAULT_PERIOD)
        };
        if quota.is_some_and(|quota| quota < CPU_SHORTEST) {
            return Err(format!(
                "the kernel's shortest quota is {CPU_SHORTEST} microseconds in {period}"
            ));
        }
        if !(CPU_SHORTEST..=CPU_LONGEST_PERIOD).contains(&period) {
            return Err(format!(
                "the period is {CPU_SHORTEST} to {CPU_LONGEST_PERIOD} microseconds"
            ));
        }
        Ok(Self { quota, period })
    }
}

/// A decimal number times ten to the `places`; `None` if it has more places, which would have to be rounded.
pub(crate) fn fixed_point(text: &str, places: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > places {
        return None;
    }
    format!("{whole}{fraction:0<places$}").parse().ok()
}

/// Limits of a block device, which is named by its node or by any file on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IoMax {
    pub(crate) path: PathBuf,
    pub(crate) limits: Vec<IoLimit>,
}

/// A key of `io.max` and its value, `None` for no limit.
pub(crate) type IoLimit = (&'static str, Option<u64>);

/// The keys of `io.max`, and the files of v1 that stand for them.
pub(crate) const IO_KEYS: [(&str, &str); 4] = [
    ("rbps", "blkio.throttle.read_bps_device"),
    ("wbps", "blkio.throttle.write_bps_device"),
    ("riops", "blkio.throttle.read_iops_device"),
    ("wiops", "blkio.throttle.write_iops_device"),
];

impl FromStr for IoMax {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = "PATH:KEY=VALUE[,...] is expected, with rbps, wbps (bytes a second, with K, M, G or T), \
                       riops, wiops (operations a second) as KEY, and a number above 0 or 'max' as VALUE";
        let limit = |text: &str| {
            let (key, value) = text.split_once('=')?;
            let (key, _) = IO_KEYS.into_iter().find(|(known, _)| *known == key)?;
            let number = match value {
                "max" => None,
                _ if key.ends_with("bps") => Some(bytes(value)?),
                _ => Some(value.parse().ok()?),
            };
            (number != Some(0)).then_some((key, number))
        };
        let (path, limits) =
            text.rsplit_once(':').filter(|(path, _)| !path.is_empty()).ok_or(allowed)?;
        let limits = limits.split(',').map(limit).collect::<Option<_>>().ok_or(allowed)?;
        Ok(Self { path: path.into(), limits })
    }
}

/// A limit of huge pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HugeTlbMax {
    /// As it is in the interface file's name: `2MB`.
    page_size: String,
    most: Option<u64>,
}

impl FromStr for HugeTlbMax {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = || "SIZE=MAX is expected, as '2M=64M', '1G=max' or '2M=0'".to_owned();
        let (page_size, most) = text.split_once('=').ok_or_else(allowed)?;
        let page_size = page_size.strip_suffix('B').unwrap_or(page_size);
        let is_size = page_size.ends_with(['K', 'M', 'G']) && bytes(page_size).is_some();
        let most = match most {
            "max" => None,
            _ => Some(bytes(most).ok_or_else(allowed)?),
        };
        if is_size { Ok(Self { page_size: format!("{page_size}B"), most }) } else { Err(allowed()) }
    }
}

/// A list of CPUs or memory nodes, as `0-2,4`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List(String);

impl FromStr for List {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match expand(text) {
            Some(set) if !set.is_empty() => Ok(Self(text.into())),
            _ => Err("allowed are numbers and ranges, as '0-2,4'".into()),
        }
    }
}

/// The members of a list; `None` if it is none.
fn expand(text: &str) -> Option<BTreeSet<u16>> {
    let mut set = BTreeSet::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        if first > last {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

/// An interface file and what is written to it, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    file: String,
    value: String,
}

impl FromStr for Setting {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (file, value) = text.split_once('=').ok_or("FILE=VALUE is expected")?;
        let (controller, rest) =
            file.split_once('.').ok_or("FILE is an interface file, as 'pids.max'")?;
        if controller.is_empty() || rest.is_empty() || file.contains('/') {
            return Err("FILE is an interface file, as 'pids.max'".into());
        }
        // Moving a process is no limit, and `cgroup.subtree_control` would shut COMMAND out.
        if [
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.kill",
            "cgroup.type",
            "cgroup.subtree_control",
        ]
        .contains(&file)
        {
            return Err(format!("'{file}' is not a limit"));
        }
        Ok(Self { file: file.into(), value: value.into() })
    }
}

/// How to tell from what an interface file reads that a value is in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// It reads as it was written.
    Same,
    /// It reads as a number of bytes, at most a page of this size lower.
    Bytes { page: u64 },
    /// It has a line for a device on which the same words are; none if there is no limit.
    Device,
    /// It reads as the same set.
    List,
    /// Only the kernel knows; a difference is told.
    Told,
}

/// What a comparison of the value asked for with the one read back gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    InEffect,
    /// In effect but for this difference.
    Remark(String),
    NotApplied,
}

/// A value for an interface file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) file: String,
    pub(crate) value: String,
    pub(crate) check: Check,
}

impl Write {
    fn new(file: &str, value: impl fmt::Display, check: Check) -> Self {
        Self { file: file.into(), value: value.to_string(), check }
    }

    /// Whether it need not be written to a file that reads `read`.
    pub(crate) fn holds(&self, read: &str) -> bool {
        match self.verdict(read) {
            Verdict::InEffect => true,
            Verdict::Remark(_) => matches!(self.check, Check::Bytes { .. }),
            Verdict::NotApplied => false,
        }
    }

    /// What `read`, the text of the file, shows about the value.
    pub(crate) fn verdict(&self, read: &str) -> Verdict {
        let (asked, read) = (self.value.trim(), read.trim());
        let remark = || Verdict::Remark(format!("{}: {asked} asked, {read} in effect", self.file));
        let known = match self.check {
            Check::Same | Check::Told => asked == read,
            Check::List => expand(asked) == expand(read),
            Check::Bytes { page } => match (amount(asked), amount(read)) {
                (Some(asked), Some(read)) if read < asked && asked - read < page => {
                    return remark();
                }
                (asked, read) => asked == read,
            },
            Check::Device => device_has(asked, read),
        };
        match (known, self.check) {
            (true, _) => Verdict::InEffect,
            // Files such as io.max have a line for each device.
            (false, Check::Told) if read.lines().any(|line| line.trim() == asked) => {
                Verdict::InEffect
            }
            (false, Check::Told) => remark(),
            (false, _) => Verdict::NotApplied,
        }
    }
}

/// Whether the line of `read` for the device of `asked` has all its words.
fn device_has(asked: &str, read: &str) -> bool {
    let (device, words) = asked.split_once(' ').unwrap_or((asked, ""));
    let line = read.lines().find_map(|line| line.strip_prefix(device)?.strip_prefix(' '));
    words.split(' ').all(|word| match line {
        Some(line) => line.split(' ').any(|each| each == word),
        None => word == "0" || word.ends_with("=max"),
    })
}

/// A number of bytes as the kernel writes it, `u64::MAX` for no limit.
fn amount(text: &str) -> Option<u64> {
    match text {
        "max" | "-1" => Some(u64::MAX),
        _ => text
            .parse()
            .ok()
            .map(|bytes| if bytes >= V1_NO_MEMORY_LIMIT { u64::MAX } else { bytes }),
    }
}

/// One thing that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The interface file on v2, which the option is named after.
    pub(crate) file: String,
    pub(crate) value: Value,
}

/// What it is limited to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Pids(Option<u64>),
    Memory(Option<u64>),
    MemoryHigh(Option<u64>),
    MemoryLow(Option<u64>),
    /// Swap alone, and the memory limit, which on v1 is part of the swap limit.
    Swap(Option<u64>, Option<u64>),
    Cpu(CpuMax),
    CpuBurst(u64),
    Weight(u64),
    /// The weight in the measure of v1.
    Shares(u64),
    List(String),
    Io {
        device: String,
        limits: Vec<IoLimit>,
    },
    HugeTlb(Option<u64>),
    /// Something that OCI resources may have and this program cannot do.
    Unsupported,
    Raw(String),
}

impl Limit {
    /// The controller that it belongs to.
    pub(crate) fn controller(&self) -> &str {
        self.file.split_once('.').map_or(&*self.file, |(controller, _)| controller)
    }

    /// Whether `other` is a limit of the same thing.
    pub(crate) fn overrules(&self, other: &Self) -> bool {
        let device = |limit: &Self| match &limit.value {
            Value::Io { device, limits } => {
                Some((device.clone(), limits.iter().map(|(key, _)| *key).collect::<Vec<_>>()))
            }
            _ => None,
        };
        match (device(self), device(other)) {
            (Some((device, keys)), Some((of_other, others))) => {
                device == of_other && others.iter().all(|key| keys.contains(key))
            }
            _ => self.file == other.file,
        }
    }

    /// The size of the huge pages that it is about, in bytes.
    fn huge_page(&self) -> Option<u64> {
        bytes(self.file.split('.').nth(1)?.strip_suffix('B')?)
    }

    /// What has to be written, in this order, where the controller is of `version`.
    pub(crate) fn writes(&self, version: Version) -> Result<Vec<Write>, Error> {
        use Version::{V1, V2};
        let one = |file: &str, value: String, check| Ok(vec![Write::new(file, value, check)]);
        match (&self.value, version) {
            (Value::Pids(most), _) => one("pids.max", or_max(*most), Check::Same),
            (
                Value::Memory(bytes)
                | Value::MemoryHigh(bytes)
                | Value::MemoryLow(bytes)
                | Value::Swap(bytes, _),
                V2,
            ) => one(&self.file, or_max(*bytes), BYTES),
            (Value::Memory(bytes), V1) => one("memory.limit_in_bytes", or_minus_one(*bytes), BYTES),
            (Value::MemoryLow(bytes), V1) => {
                one("memory.soft_limit_in_bytes", or_minus_one(*bytes), BYTES)
            }
            // The soft limit of v1 is something else: it acts only when the whole machine is short.
            (Value::MemoryHigh(_), V1) => Err(Error::new(
                "cannot limit memory.high: the controller 'memory' is on cgroup v1 here, which has nothing like it",
            )),
            (Value::Swap(swap, memory), V1) => swap_on_v1(*swap, *memory),
            (Value::Cpu(CpuMax { quota, period }), V2) => {
                one("cpu.max", format!("{} {period}", or_max(*quota)), Check::Same)
            }
            // No quota while the period changes: the pair in between may be one that the kernel refuses.
            (Value::Cpu(CpuMax { quota, period }), V1) => Ok(vec![
                Write::new("cpu.cfs_quota_us", -1, Check::Same),
                Write::new("cpu.cfs_period_us", period, Check::Same),
                Write::new("cpu.cfs_quota_us", or_minus_one(*quota), Check::Same),
            ]),
            (Value::Weight(weight), V2) => one("cpu.weight", weight.to_string(), Check::Same),
            // The default is 100 of v2 and 1024 of v1.
            (Value::Weight(weight), V1) => {
                one("cpu.shares", (weight * 1024 / 100).to_string(), Check::Same)
            }
            (Value::CpuBurst(us), V2) => one("cpu.max.burst", us.to_string(), Check::Same),
            (Value::CpuBurst(us), V1) => one("cpu.cfs_burst_us", us.to_string(), Check::Same),
            // 2 to 262144 there, 1 to 10000 here, in proportion: as runc and crun have it.
            (Value::Shares(shares), V2) => {
                let weight = 1 + (shares.clamp(&2, &262_144) - 2) * 9_999 / 262_142;
                one("cpu.weight", weight.to_string(), Check::Same)
            }
            (Value::Shares(shares), V1) => one("cpu.shares", shares.to_string(), Check::Same),
            (Value::Io { device, limits }, version) => Ok(io_writes(device, limits, version)),
            (Value::HugeTlb(bytes), version) => {
                let check = Check::Bytes { page: self.huge_page().unwrap_or(LARGEST_PAGE) };
                match version {
                    V2 => one(&self.file, or_max(*bytes), check),
                    V1 => {
                        let file = self.file.replace(".max", ".limit_in_bytes");
                        one(&file, or_minus_one(*bytes), check)
                    }
                }
            }
            (Value::Unsupported, _) => Err(Error::new(format!(
                "cannot limit {}: cgroup-apply does not do that",
                self.file
            ))
            .hint("--best-effort leaves it out")),
            (Value::List(list), _) => one(&self.file, list.clone(), Check::List),
            (Value::Raw(value), _) => one(&self.file, value.clone(), Check::Told),
        }
    }
}

/// v1 has a file for each kind of limit, and 0 for none.
fn io_writes(device: &str, limits: &[IoLimit], version: Version) -> Vec<Write> {
    let on_v1 = |(key, limit): &IoLimit| {
        let (_, file) = IO_KEYS.into_iter().find(|(known, _)| known == key)?;
        Some(Write::new(file, format!("{device} {}", limit.unwrap_or(0)), Check::Device))
    };
    match version {
        Version::V1 => limits.iter().filter_map(on_v1).collect(),
        Version::V2 => {
            let words: Vec<_> =
                limits.iter().map(|(key, limit)| format!("{key}={}", or_max(*limit))).collect();
            vec![Write::new("io.max", format!("{device} {}", words.join(" ")), Check::Device)]
        }
    }
}

/// v1 limits memory and the sum of memory and swap, and the sum may never be below memory: so it is lifted
/// before both are set.
fn swap_on_v1(swap: Option<u64>, memory: Option<u64>) -> Result<Vec<Write>, Error> {
    let sum = |value: String| Write::new("memory.memsw.limit_in_bytes", value, BYTES);
    match (swap, memory) {
        (None, _) => Ok(vec![sum(or_minus_one(None))]),
        (Some(swap), Some(memory)) => Ok(vec![
            sum(or_minus_one(None)),
            Write::new("memory.limit_in_bytes", memory, BYTES),
            sum(or_minus_one(Some(memory.saturating_add(swap)))),
        ]),
        (Some(_), None) => Err(Error::usage(
            "cannot limit memory.swap.max without --memory-max: cgroup v1 limits the sum of both",
        )),
    }
}

fn or_max(value: Option<u64>) -> String {
    value.map_or_else(|| "max".into(), |value| value.to_string())
}

fn or_minus_one(value: Option<u64>) -> String {
    value.map_or_else(|| "-1".into(), |value| value.to_string())
}

/// The limits that the options ask for, on a machine with `ram` bytes of memory.
pub(crate) fn asked(options: &cli::Limits, ram: u64) -> Vec<Limit> {
    let size = |size: Option<Size>| size.map(|size| size.bytes(ram));
    let memory = size(options.memory_max);
    let list = |list: &Option<List>| list.clone().map(|List(list)| Value::List(list));
    let table = [
        ("pids.max", options.pids_max.map(|PidsMax(most)| Value::Pids(most))),
        (
            "memory.swap.max",
            size(options.memory_swap_max).map(|swap| Value::Swap(swap, memory.flatten())),
        ),
        ("memory.max", memory.map(Value::Memory)),
        ("memory.high", size(options.memory_high).map(Value::MemoryHigh)),
        ("cpu.max", options.cpu_max.map(Value::Cpu)),
        ("cpu.weight", options.cpu_weight.map(Value::Weight)),
        ("cpuset.cpus", list(&options.cpuset_cpus)),
        ("cpuset.mems", list(&options.cpuset_mems)),
    ];
    let named = table
        .into_iter()
        .filter_map(|(file, value)| Some(Limit { file: file.into(), value: value? }));
    let huge = options.hugetlb_max.iter().map(|HugeTlbMax { page_size, most }| Limit {
        file: format!("hugetlb.{page_size}.max"),
        value: Value::HugeTlb(*most),
    });
    let raw = options
        .set
        .iter()
        .cloned()
        .map(|Setting { file, value }| Limit { file, value: Value::Raw(value) });
    named.chain(huge).chain(raw).collect()
}

/// Bytes as short as can be said exactly: `100M`.
pub(crate) fn human(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let exact = units.into_iter().find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    exact.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Version::{V1, V2};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC*") {
            drop(text.parse::<Name>());
            drop(text.parse::<PidsMax>());
            drop(text.parse::<Size>());
            drop(text.parse::<CpuMax>());
            drop(text.parse::<List>());
            drop(text.parse::<IoMax>());
            drop(text.parse::<HugeTlbMax>());
            drop(text.parse::<Setting>());
            for check in [Check::Same, BYTES, Check::Device, Check::List, Check::Told] {
                drop(Write::new("f", &text, check).verdict(&text));
            }
        }

        #[test]
        fn a_name_never_leads_out(text in "[./a]{0,12}") {
            if let Ok(name) = text.parse::<Name>() {
                let parts: Vec<_> = name.path().components().collect();
                prop_assert!(!parts.is_empty());
                prop_assert!(parts.iter().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert_eq!(name.lineage().len(), parts.len());
            }
        }

        #[test]
        fn every_size_means_what_it_says(number in 1_u64..1 << 20, unit in 0_usize..5) {
            let (letter, shift) = [("", 0), ("K", 10), ("M", 20), ("G", 30), ("T", 40)][unit];
            let expected = Some(Size::Bytes(number << shift)).filter(|_| number << shift >> shift == number);
            prop_assert_eq!(format!("{number}{letter}").parse().ok(), expected);
            prop_assert!(human(number << shift).parse() == Ok(Size::Bytes(number << shift)));
        }

        #[test]
        fn cpus_and_shares_are_the_same_thing(hundredths in 1_u64..10_000) {
            let cpus = format!("{}.{:02}", hundredths / 100, hundredths % 100);
            prop_assert_eq!(cpus.parse::<CpuMax>(), format!("{hundredths}%").parse::<CpuMax>());
        }

        #[test]
        fn a_list_is_its_set(set in prop::collection::btree_set(0_u16..300, 1..20)) {
            let text = set.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
            prop_assert_eq!(expand(&text), Some(set));
        }
    }

    const GIB: u64 = 1 << 30;

    /// What is written for a size on a machine with 8 GiB; `None` if it is refused.
    fn sizes(text: &str) -> Option<String> {
        text.parse().ok().map(|size: Size| or_max(size.bytes(8 * GIB)))
    }

    #[test]
    fn sizes_are_bytes_units_shares_or_max() {
        assert_eq!(sizes("4096"), Some("4096".into()));
        assert_eq!(sizes("1K"), Some("1024".into()));
        assert_eq!(sizes("512M"), Some((512 << 20).to_string()));
        assert_eq!(sizes("2G"), Some((2 * GIB).to_string()));
        assert_eq!(sizes("1T"), Some((1_u64 << 40).to_string()));
        assert_eq!(sizes("max"), Some("max".into()));
        assert_eq!(sizes("100%"), Some((8 * GIB / 100 * 100).to_string()));
        for bad in [
            "",
            "M",
            "1.5G",
            "-1",
            "10MB",
            "0%",
            "101%",
            "%",
            "1k",
            "9999999T",
            "99999999999999999999",
        ] {
            assert_eq!(sizes(bad), None, "{bad}");
        }
    }

    #[test]
    fn cpu_limits_are_cpus_shares_pairs_or_max() {
        let cpu = |text: &str| text.parse().ok().map(|CpuMax { quota, period }| (quota, period));
        assert_eq!(cpu("1.5"), Some((Some(150_000), 100_000)));
        assert_eq!(cpu("2"), Some((Some(200_000), 100_000)));
        assert_eq!(cpu("0.12345"), Some((Some(12_345), 100_000)));
        assert_eq!(cpu("50%"), Some((Some(50_000), 100_000)));
        assert_eq!(cpu("12.5%"), Some((Some(12_500), 100_000)));
        assert_eq!(cpu("20000/50000"), Some((Some(20_000), 50_000)));
        assert_eq!(cpu("max/50000"), Some((None, 50_000)));
        assert_eq!(cpu("max"), Some((None, 100_000)));
        for bad in [
            "",
            ".",
            ".5",
            "0",
            "-1",
            "1.123456",
            "1e3",
            "0.001",
            "0.5%",
            "1/2",
            "2000/2000000",
            "max/0",
            "1/x",
        ] {
            assert_eq!(cpu(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_stay_below_the_tree() {
        for good in ["container", "a/b", "a.b", "user@1000", "ü"] {
            assert_eq!(good.parse::<Name>().unwrap().to_string(), good);
        }
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "a/.b", "a\n"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        let name: Name = "a/b".parse().unwrap();
        assert_eq!(name.lineage(), [Path::new("a"), Path::new("a/b")]);
    }

    #[test]
    fn settings_name_a_file_of_a_controller() {
        let good = Setting { file: "io.max".into(), value: "8:0 rbps=max".into() };
        assert_eq!("io.max=8:0 rbps=max".parse(), Ok(good));
        for bad in
            ["pids.max", "=1", "tasks=0", "../pids.max=1", ".max=1", "pids.=1", "cgroup.procs=0"]
        {
            assert!(bad.parse::<Setting>().is_err(), "{bad}");
        }
    }

    /// What is written for a limit, as "FILE VALUE" lines.
    fn written(file: &str, value: Value, version: Version) -> String {
        let writes = Limit { file: file.into(), value }.writes(version).unwrap();
        writes
            .iter()
            .map(|write| format!("{} {}", write.file, write.value))
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn each_limit_has_its_files_on_v1_and_v2() {
        let cpu = |quota| Value::Cpu(CpuMax { quota, period: 100_000 });
        assert_eq!(written("pids.max", Value::Pids(Some(9)), V1), "pids.max 9");
        assert_eq!(written("pids.max", Value::Pids(None), V2), "pids.max max");
        assert_eq!(written("memory.max", Value::Memory(Some(4096)), V2), "memory.max 4096");
        assert_eq!(written("memory.max", Value::Memory(None), V1), "memory.limit_in_bytes -1");
        assert_eq!(written("memory.swap.max", Value::Swap(Some(0), None), V2), "memory.swap.max 0");
        assert_eq!(
            written("memory.swap.max", Value::Swap(Some(10), Some(20)), V1),
            "memory.memsw.limit_in_bytes -1; memory.limit_in_bytes 20; memory.memsw.limit_in_bytes 30"
        );
        assert_eq!(written("cpu.max", cpu(Some(50_000)), V2), "cpu.max 50000 100000");
        assert_eq!(written("cpu.max", cpu(None), V2), "cpu.max max 100000");
        assert_eq!(
            written("cpu.max", cpu(Some(50_000)), V1),
            "cpu.cfs_quota_us -1; cpu.cfs_period_us 100000; cpu.cfs_quota_us 50000"
        );
        assert_eq!(written("cpu.weight", Value::Weight(100), V2), "cpu.weight 100");
        assert_eq!(written("cpu.weight", Value::Weight(100), V1), "cpu.shares 1024");
        assert_eq!(written("cpuset.cpus", Value::List("0-1".into()), V1), "cpuset.cpus 0-1");
    }

    #[test]
    fn what_v1_does_not_have_is_refused() {
        let refused = |file: &str, value| {
            Limit { file: file.into(), value }.writes(V1).unwrap_err().to_string()
        };
        assert_eq!(
            refused("memory.high", Value::MemoryHigh(Some(1))),
            "cannot limit memory.high: the controller 'memory' is on cgroup v1 here, which has nothing like it"
        );
        assert_eq!(
            refused("memory.swap.max", Value::Swap(Some(1), None)),
            "cannot limit memory.swap.max without --memory-max: cgroup v1 limits the sum of both"
        );
    }

    #[test]
    fn values_read_back_are_compared_by_meaning() {
        let verdict = |value: &str, check, read: &str| Write::new("f", value, check).verdict(read);
        assert_eq!(verdict("64", Check::Same, "64\n"), Verdict::InEffect);
        assert_eq!(verdict("64", Check::Same, "max\n"), Verdict::NotApplied);
        assert_eq!(verdict("-1", BYTES, "9223372036854771712\n"), Verdict::InEffect);
        assert_eq!(verdict("max", BYTES, "max\n"), Verdict::InEffect);
        assert_eq!(verdict("4096", BYTES, "max\n"), Verdict::NotApplied);
        assert_eq!(verdict("4096", BYTES, "8192\n"), Verdict::NotApplied);
        let rounded = Verdict::Remark("f: 5000 asked, 4096 in effect".into());
        assert_eq!(verdict("5000", BYTES, "4096\n"), rounded);
        assert_eq!(verdict("0,1", Check::List, "0-1\n"), Verdict::InEffect);
        assert_eq!(verdict("0-3", Check::List, "0-1\n"), Verdict::NotApplied);
        assert_eq!(
            verdict("8:0 rbps=1", Check::Told, "8:0 rbps=1\n9:0 rbps=2\n"),
            Verdict::InEffect
        );
        assert_eq!(
            verdict("1", Check::Told, "0\n"),
            Verdict::Remark("f: 1 asked, 0 in effect".into())
        );
    }

    #[test]
    fn bytes_are_said_as_short_as_is_exact() {
        assert_eq!(human(100 << 20), "100M");
        assert_eq!(human(3 << 40), "3T");
        assert_eq!(human(1025), "1025");
        assert_eq!(human(0), "0");
    }
}
