//! What was measured on, and with which versions.

use std::fs;

/// The machine in one line.
pub(crate) fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = value(&cpuinfo, "model name", ':').unwrap_or("unknown CPU").to_owned();
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = value(&memory, "MemTotal", ':')
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system =
        value(&release, "PRETTY_NAME", '=').unwrap_or("Linux").trim_matches('"').to_owned();
    let hypervisor = if cpuinfo.contains(" hypervisor") { ", a virtual machine" } else { "" };
    format!(
        "{cpus} × {model}{hypervisor}, {} GiB, Linux {}, {system}, cgroups {}",
        kib.div_ceil(1024 * 1024),
        kernel.trim(),
        cgroups(),
    )
}

/// The load averages, for a reader to judge how quiet it was.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// Which hierarchies there are.
pub(crate) fn cgroups() -> &'static str {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup"), has("cgroup2")) {
        (true, true) => "v1 with v2 beside it",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "none",
    }
}

fn value<'a>(text: &'a str, key: &str, separator: char) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(separator).map(|(_, value)| value.trim())
}
