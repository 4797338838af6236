//! What may be asked of a cgroup, and the interface files it becomes on v1 and on v2.

mod typed;

use crate::{cli, error::Error, hierarchy::Version};
use std::fmt;
pub(crate) use typed::{
    CpuMax, HugeTlbMax, IoLimit, IoMax, List, PidsMax, Setting, Size, fixed_point,
};
use typed::{bytes, expand};

/// From here on a v1 memory limit means none: `PAGE_COUNTER_MAX`, for the largest page size there is.
const V1_NO_MEMORY_LIMIT: u64 = i64::MAX as u64 & !0xffff;
/// Memory limits are rounded down to pages; the largest page size of a supported machine.
const LARGEST_PAGE: u64 = 65_536;

/// How a limit of memory is compared.
const BYTES: Check = Check::Bytes { page: LARGEST_PAGE };

/// The keys of `io.max`, and the files of v1 that stand for them.
pub(crate) const IO_KEYS: [(&str, &str); 4] = [
    ("rbps", "blkio.throttle.read_bps_device"),
    ("wbps", "blkio.throttle.write_bps_device"),
    ("riops", "blkio.throttle.read_iops_device"),
    ("wiops", "blkio.throttle.write_iops_device"),
];

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
    use crate::name::Name;
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
