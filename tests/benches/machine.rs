//! What was measured on, and with which versions.

use std::{fs, process::Command};

/// What else was measured, and what was used for it: how each says its version.
const PEERS: [&str; 14] = [
    "rustc --version",
    "bwrap --version",
    "unshare --version",
    "ip -V",
    "crun --version",
    "runc --version",
    "podman --version",
    "systemd-nspawn --version",
    "docker --version",
    "tar --version",
    "bsdtar --version",
    "pigz --version",
    "igzip --version",
    "sysbench --version",
];

/// The first line that each gives of itself.
pub(crate) fn versions() -> String {
    let first_line = |line: &&str| {
        let mut words = line.split(' ');
        let output = Command::new(words.next()?).args(words).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        Some(said.lines().find(|line| !line.trim().is_empty())?.trim().to_owned())
    };
    let said: Vec<_> = PEERS.iter().filter_map(first_line).collect();
    format!("Versions: {}.", said.join("; "))
}

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
        kernel.split('-').next().unwrap_or_default().trim(), // what follows is the builder's
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
