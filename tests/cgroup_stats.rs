//! cgroup-apply from outside: the statistics of a run.

use crate::{
    cgroup_apply::{Scratch, controller, says, v2},
    support::{root, sh},
};
use std::{fs, path::PathBuf};

#[test]
fn statistics_tell_what_command_used() {
    need!(root() && controller("pids") && controller("memory") && controller("cpu"));
    let scratch = Scratch::new("stats");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stats.json");
    fs::write(&file, "something older and longer than what comes in its place ".repeat(100))
        .unwrap();
    let script = "for i in 1 2 3 4 5 6; do sleep 1 & done 2>/dev/null; wait; exit 3";
    let outcome = scratch.run(&[
        "run",
        "--stats",
        file.to_str().unwrap(),
        "--pids-max",
        "4",
        "{}",
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(outcome.stdout, "");
    let stats: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((&stats["name"], &stats["status"]), (&(*scratch.name).into(), &outcome.code.into()));
    assert_eq!(stats["pids"]["forks_refused"], 1, "{stats}");
    assert!(stats["memory"]["peak_bytes"].as_u64().is_none_or(|peak| peak > 4096), "{stats}");
    assert_eq!(stats["memory"]["oom_kills"], 0, "{stats}");
    let usage = ["usage_usec", "user_usec", "system_usec"].map(|key| stats["cpu"][key].as_u64());
    assert!(usage[0].unwrap() > 0 && usage.iter().all(Option::is_some), "{stats}");
    if v2().is_some() {
        assert!(stats["pressure"]["memory_some_usec"].is_u64(), "{stats}");
    }
    if controller("io") || controller("blkio") {
        assert!(stats["io"]["write_bytes"].is_u64(), "{stats}");
    }
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn statistics_are_of_this_run_only() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("stats-own");
    scratch.run(&["create", "--pids-max", "1", "{}"]).success();
    let run = |script: &str| {
        let outcome = scratch.run(&["run", "--stats", "-", "{}", "--", "sh", "-c", script]);
        let stats: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        (stats["pids"]["forks_refused"].as_u64().unwrap(), outcome.stderr)
    };
    let (refused, stderr) = run("sleep 0 & wait");
    assert_eq!(refused, 1, "{stderr}");
    assert!(stderr.ends_with("cgroup-apply: pids limit 1 reached: 1 fork was refused\n"));
    assert_eq!(run("exec true"), (0, String::new()));
}

#[test]
fn statistics_go_to_a_descriptor_that_command_does_not_have() {
    need!(root());
    let scratch = Scratch::new("stats-fd");
    let tool = crate::support::tool_path("cgroup-apply");
    let line = format!(
        "exec 7>&1 >/dev/null; {} run --stats 7 {} -- sh -c 'echo x >&7' 2>/dev/null",
        tool.display(),
        scratch.name
    );
    let outcome = sh(&line);
    let stats: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(stats["status"], 2, "{stats}");

    for (to, said) in [
        ("77", "descriptor 77: Bad file number (EBADF)"),
        ("/", "'/': Is a directory (EISDIR)"),
        ("/nosuch/file", "'/nosuch/file': No such file or directory (ENOENT)"),
    ] {
        let said = format!("cgroup-apply: cannot write statistics to {said}\n");
        says(&scratch.run(&["run", "--stats", to, "{}", "--", "echo", "started"]), 125, "", &said);
    }
    let outcome = scratch.run(&["run", "--stats", "/dev/full", "{}", "--", "sh", "-c", "exit 4"]);
    let said =
        "cgroup-apply: cannot write statistics to '/dev/full': No space left on device (ENOSPC)\n";
    says(&outcome, 4, "", said);
}
