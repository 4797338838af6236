//! The limits as they are typed.

use super::{IO_KEYS, V1_NO_MEMORY_LIMIT};
use std::{collections::BTreeSet, path::PathBuf, str::FromStr};

/// The most that the kernel's `pids.max` takes (`PID_MAX_LIMIT` in include/linux/threads.h, 64 bit).
const PIDS_MOST: u64 = 4_194_304;
/// The shortest CPU quota and period that the kernel takes (1 ms), and the longest period (1 s).
const CPU_SHORTEST: u64 = 1_000;
const CPU_LONGEST_PERIOD: u64 = 1_000_000;

/// A number of processes, or `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PidsMax(pub(super) Option<u64>);

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
pub(super) fn bytes(text: &str) -> Option<u64> {
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
    pub(super) fn bytes(self, ram: u64) -> Option<u64> {
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
    pub(super) page_size: String,
    pub(super) most: Option<u64>,
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
pub(crate) struct List(pub(super) String);

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
pub(super) fn expand(text: &str) -> Option<BTreeSet<u16>> {
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
    pub(super) file: String,
    pub(super) value: String,
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

#[cfg(test)]
mod tests {
    use super::{
        super::{human, or_max},
        *,
    };
    use proptest::prelude::*;

    proptest! {
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
    fn settings_name_a_file_of_a_controller() {
        let good = Setting { file: "io.max".into(), value: "8:0 rbps=max".into() };
        assert_eq!("io.max=8:0 rbps=max".parse(), Ok(good));
        for bad in
            ["pids.max", "=1", "tasks=0", "../pids.max=1", ".max=1", "pids.=1", "cgroup.procs=0"]
        {
            assert!(bad.parse::<Setting>().is_err(), "{bad}");
        }
    }
}
