//! What the kernel did to COMMAND because of the limits: told in one line each when it has ended.

use crate::{
    error,
    hierarchy::{Tree, Version},
    limits::{Name, human},
};
use std::{fs, path::PathBuf};

/// The event counters of a cgroup. It may be older than the run, so two readings are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    oom_kills: u64,
    forks_refused: u64,
}

impl Counts {
    /// Read them; a controller that the cgroup does not have has counted nothing.
    pub(crate) fn read(tree: &Tree, name: &Name) -> Self {
        let memory_file = match tree.of("memory").map(|hierarchy| hierarchy.version) {
            Ok(Version::V1) => "memory.oom_control",
            _ => "memory.events",
        };
        Self {
            oom_kills: counter(tree, name, memory_file, "oom_kill"),
            forks_refused: counter(tree, name, "pids.events", "max"),
        }
    }

    /// Tell what happened since `before`.
    pub(crate) fn tell_since(&self, before: &Self, tree: &Tree, name: &Name) {
        self.lines_since(before, tree, name).iter().for_each(error::tell);
    }

    fn lines_since(&self, before: &Self, tree: &Tree, name: &Name) -> Vec<String> {
        let mut lines = vec![];
        let killed = self.oom_kills.saturating_sub(before.oom_kills);
        if killed > 0 {
            let who = if killed == 1 {
                "1 process was".into()
            } else {
                format!("{killed} processes were")
            };
            lines.push(match memory_limit(tree, name) {
                Some(limit) => format!("memory limit {limit} reached: {who} killed (OOM)"),
                None => format!("{who} killed (OOM)"),
            });
        }
        let refused = self.forks_refused.saturating_sub(before.forks_refused);
        if refused > 0 {
            let what =
                if refused == 1 { "1 fork was".into() } else { format!("{refused} forks were") };
            let limit = read(tree, name, "pids.max").unwrap_or_default();
            lines.push(format!("pids limit {} reached: {what} refused", limit.trim()));
        }
        lines
    }
}

/// The memory limit in effect, if there is one.
fn memory_limit(tree: &Tree, name: &Name) -> Option<String> {
    let text =
        read(tree, name, "memory.max").or_else(|| read(tree, name, "memory.limit_in_bytes"))?;
    // v1 writes "none" as a number that no machine has.
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 62).map(human)
}

/// The text of an interface file, wherever its controller lives.
fn read(tree: &Tree, name: &Name, file: &str) -> Option<String> {
    let controller = file.split('.').next().unwrap_or(file);
    let dir: PathBuf = tree.of(controller).ok()?.base.join(name.path());
    fs::read_to_string(dir.join(file)).ok()
}

/// The number behind `key` in a file of "KEY NUMBER" lines.
fn counter(tree: &Tree, name: &Name, file: &str, key: &str) -> u64 {
    let text = read(tree, name, file).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    value.unwrap_or(0)
}
