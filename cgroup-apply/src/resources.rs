//! `--resources`: the limits of an OCI configuration (`linux.resources` of config.json), as engines write them.
//!
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups>. A member that
//! is not known here is refused: a limit that somebody relies on must not be ignored.

use crate::{
    error::{Attempt as _, Error},
    limits::{CpuMax, Limit, Value},
};
use serde::Deserialize;
use std::{collections::BTreeMap, fs, io, path::Path};

/// Read the file, or with `-` standard input.
pub(crate) fn read(path: &Path) -> Result<Vec<Limit>, Error> {
    let shown = path.display();
    let text = if path == Path::new("-") {
        io::read_to_string(io::stdin())
    } else {
        fs::read_to_string(path)
    };
    let text = text.attempt(|| format!("cannot read '{shown}'"))?;
    serde_json::from_str::<Resources>(&text)
        .map_err(|err| Error::usage(format!("cannot read '{shown}' as OCI resources: {err}")))?
        .limits()
}

/// Numbers are signed, as Go has them: a negative one is "no limit". 0 is what Go writes for one that was
/// never set, and so is none.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Resources {
    memory: Memory,
    cpu: Cpu,
    pids: Pids,
    #[serde(rename = "blockIO")]
    block_io: BlockIo,
    hugepage_limits: Vec<HugepageLimit>,
    unified: BTreeMap<String, String>,
    /// Most configurations have these; they are refused one step later, where --best-effort can let them be.
    devices: Vec<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Memory {
    limit: i64,
    reservation: i64,
    /// Memory and swap together.
    swap: i64,
    swappiness: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Cpu {
    shares: u64,
    quota: i64,
    period: u64,
    burst: u64,
    idle: i64,
    cpus: String,
    mems: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Pids {
    limit: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BlockIo {
    #[serde(rename = "throttleReadBpsDevice")]
    read_bps: Vec<Throttle>,
    #[serde(rename = "throttleWriteBpsDevice")]
    write_bps: Vec<Throttle>,
    #[serde(rename = "throttleReadIOPSDevice")]
    read_iops: Vec<Throttle>,
    #[serde(rename = "throttleWriteIOPSDevice")]
    write_iops: Vec<Throttle>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Throttle {
    major: u32,
    minor: u32,
    rate: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HugepageLimit {
    page_size: String,
    limit: u64,
}

impl Resources {
    fn limits(self) -> Result<Vec<Limit>, Error> {
        let Self { memory, cpu, pids, block_io, hugepage_limits, unified, devices } = self;
        let mut limits = vec![];
        let mut add = |file: &str, value| limits.push(Limit { file: file.into(), value });
        if pids.limit != 0 {
            add("pids.max", Value::Pids(bounded(pids.limit)));
        }
        if memory.swap != 0 {
            add("memory.swap.max", memory.swap_alone()?);
        }
        if memory.limit != 0 {
            add("memory.max", Value::Memory(bounded(memory.limit)));
        }
        if memory.reservation != 0 {
            add("memory.low", Value::MemoryLow(bounded(memory.reservation)));
        }
        if let Some(swappiness) = memory.swappiness {
            add("memory.swappiness", Value::Raw(swappiness.to_string()));
        }
        if cpu.quota != 0 || cpu.period != 0 {
            let period = if cpu.period == 0 { CpuMax::DEFAULT_PERIOD } else { cpu.period };
            add(
                "cpu.max",
                Value::Cpu(CpuMax { quota: bounded(cpu.quota).filter(|quota| *quota > 0), period }),
            );
        }
        if cpu.burst != 0 {
            add("cpu.max.burst", Value::CpuBurst(cpu.burst));
        }
        if cpu.shares != 0 {
            add("cpu.weight", Value::Shares(cpu.shares));
        }
        if cpu.idle != 0 {
            add("cpu.idle", Value::Raw(cpu.idle.to_string()));
        }
        for (file, list) in [("cpuset.cpus", cpu.cpus), ("cpuset.mems", cpu.mems)] {
            if !list.is_empty() {
                add(file, Value::List(list));
            }
        }
        for (key, devices) in block_io.throttles() {
            for Throttle { major, minor, rate } in devices {
                let limits = vec![(key, Some(rate).filter(|rate| *rate != 0))];
                add("io.max", Value::Io { device: format!("{major}:{minor}"), limits });
            }
        }
        for HugepageLimit { page_size, limit } in hugepage_limits {
            add(&format!("hugetlb.{page_size}.max"), Value::HugeTlb(Some(limit)));
        }
        if !devices.is_empty() {
            add("devices", Value::Unsupported);
        }
        for (file, value) in unified {
            add(&file, Value::Raw(value));
        }
        Ok(limits)
    }
}

impl Memory {
    /// The swap limit of v2, which is of swap alone.
    fn swap_alone(&self) -> Result<Value, Error> {
        let (Some(sum), memory) = (bounded(self.swap), bounded(self.limit)) else {
            return Ok(Value::Swap(None, None));
        };
        let alone = memory.filter(|memory| *memory > 0).and_then(|memory| sum.checked_sub(memory));
        match alone {
            Some(alone) => Ok(Value::Swap(Some(alone), memory)),
            None => Err(Error::usage(
                "cannot limit memory.swap.max: 'swap' of OCI resources is memory and swap together, so 'limit' must be there and not be above it",
            )),
        }
    }
}

impl BlockIo {
    fn throttles(self) -> [(&'static str, Vec<Throttle>); 4] {
        [
            ("rbps", self.read_bps),
            ("wbps", self.write_bps),
            ("riops", self.read_iops),
            ("wiops", self.write_iops),
        ]
    }
}

/// `None` for no limit.
fn bounded(number: i64) -> Option<u64> {
    number.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hierarchy::Version::{self, V1, V2};

    /// What is written for these resources, as "FILE VALUE" lines, or why they are refused.
    fn written(json: &str, version: Version) -> String {
        let limits = match serde_json::from_str::<Resources>(json) {
            Ok(resources) => match resources.limits() {
                Ok(limits) => limits,
                Err(err) => return err.to_string(),
            },
            Err(err) => return err.to_string(),
        };
        let writes = limits.iter().flat_map(|limit| limit.writes(version).unwrap());
        let lines: Vec<_> =
            writes.map(|write| format!("{} {}\n", write.file, write.value)).collect();
        lines.concat()
    }

    #[test]
    fn what_engines_write_becomes_limits() {
        let json = r#"{
            "memory": {"limit": 536870912, "swap": 1073741824, "reservation": 268435456, "swappiness": 10},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 64},
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
                        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 5}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
            "unified": {"memory.high": "400000000"}
        }"#;
        assert_eq!(
            written(json, V2),
            "pids.max 64\n\
             memory.swap.max 536870912\n\
             memory.max 536870912\n\
             memory.low 268435456\n\
             memory.swappiness 10\n\
             cpu.max 50000 100000\n\
             cpu.weight 39\n\
             cpuset.cpus 0-1\n\
             cpuset.mems 0\n\
             io.max 8:0 rbps=1000\n\
             io.max 8:16 wiops=5\n\
             hugetlb.2MB.max 4194304\n\
             memory.high 400000000\n"
        );
        let v1 = written(json, V1);
        for line in [
            "memory.memsw.limit_in_bytes 1073741824",
            "memory.soft_limit_in_bytes 268435456",
            "cpu.shares 1024",
            "blkio.throttle.read_bps_device 8:0 1000",
            "blkio.throttle.write_iops_device 8:16 5",
            "hugetlb.2MB.limit_in_bytes 4194304",
        ] {
            assert!(v1.lines().any(|each| each == line), "{line}: {v1}");
        }
    }

    #[test]
    fn negative_is_no_limit_and_zero_was_never_set() {
        let json =
            r#"{"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#;
        assert_eq!(
            written(json, V2),
            "pids.max max\nmemory.swap.max max\nmemory.max max\ncpu.max max 100000\n"
        );
        let json = r#"{"memory": {"limit": 0}, "cpu": {"shares": 0}, "pids": {"limit": 0}}"#;
        assert_eq!(written(json, V2), "");
        assert_eq!(written("{}", V2), "");
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (json, why) in [
            (r#"{"rdma": {}}"#, "unknown field `rdma`"),
            (r#"{"memory": {"kernel": 1}}"#, "unknown field `kernel`"),
            (r#"{"pids": {"limit": "many"}}"#, "invalid type: string \"many\""),
            ("[]x", "trailing characters"),
            (
                r#"{"memory": {"swap": 10}}"#,
                "cannot limit memory.swap.max: 'swap' of OCI resources",
            ),
            (r#"{"memory": {"swap": 10, "limit": 20}}"#, "cannot limit memory.swap.max: "),
        ] {
            let said = written(json, V2);
            assert!(said.starts_with(why), "{said}");
        }
    }
}
