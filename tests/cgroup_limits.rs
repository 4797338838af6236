//! cgroup-apply from outside: that each limit holds, and what is said when it is reached or cannot be set.

use crate::{
    cgroup_apply::{Scratch, anchor, controller, home, on_v1, says},
    support::{root, tool},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

#[test]
fn a_fork_bomb_stays_within_pids_max_and_is_told() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("pids");
    let script = "for i in 1 2 3 4 5 6 7; do sleep 5 & done; wait";
    let outcome = scratch.run(&["run", "--pids-max", "5", "{}", "--", "sh", "-c", script]);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("Cannot fork"), "{outcome:?}");
    let told = "cgroup-apply: pids limit 5 reached: 1 fork was refused\n";
    assert!(outcome.stderr.ends_with(told), "{outcome:?}");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn a_fork_bomb_without_end_is_bounded_and_killed() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("bomb");
    let dir = tempfile::tempdir().unwrap();
    let stats = dir.path().join("stats");
    // The first shell forks once, before there is a bomb that could keep it from that.
    let bomb = "bomb() { bomb | bomb & }; bomb 2>/dev/null & exec sleep 1000";
    let options = ["--pids-max", "10", "--timeout", "3", "--stats", stats.to_str().unwrap()];
    let command = ["{}", "--", "sh", "-c", bomb];
    let outcome = scratch.run(&[&["run"], &options[..], &command].concat());
    assert_eq!((outcome.code, outcome.stdout.as_str()), (124, ""), "{outcome:?}");
    let stats: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(stats).unwrap()).unwrap();
    assert!(stats["pids"]["forks_refused"].as_u64().unwrap() > 0, "{stats}");
    // Counted from Linux 6.6 on.
    assert!(stats["pids"]["peak"].as_u64().is_none_or(|peak| peak <= 10), "{stats}");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn an_oom_kill_is_told_and_another_kill_is_not() {
    need!(root() && controller("memory"));
    let scratch = Scratch::new("oom");
    // tail keeps its last line, and this one does not end.
    let hungry = ["{}", "--", "tail", "/dev/zero"];
    let limits = ["run", "--memory-max", "30M", "--best-effort", "--memory-swap-max", "0"];
    let outcome = scratch.run(&[&limits[..], &hungry].concat());
    assert_eq!(outcome.code, 137, "{outcome:?}");
    let told = "cgroup-apply: memory limit 30M reached: 1 process was killed (OOM)";
    assert_eq!(outcome.stderr.lines().filter(|line| *line == told).count(), 1, "{outcome:?}");

    let outcome =
        scratch.run(&["run", "--memory-max", "30M", "{}", "--", "sh", "-c", "kill -KILL $$"]);
    says(&outcome, 137, "", "");
}

/// Use the CPU for two seconds under this limit: time that it took and that was used, both in microseconds, and
/// the periods at whose end COMMAND was throttled.
fn burn(scratch: &Scratch, cpu_max: &str) -> [u128; 3] {
    let script = "timeout 2 sh -c 'while :; do :; done'; exit 0";
    let began = Instant::now();
    let args = ["run", "--cpu-max", cpu_max, "--stats", "-", "{}", "--", "sh", "-c", script];
    let outcome = scratch.run(&args);
    let elapsed = began.elapsed().as_micros();
    let stats: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let number = |name: &str| u128::from(stats["cpu"][name].as_u64().unwrap());
    [elapsed, number("usage_usec"), number("throttled_periods")]
}

#[test]
fn cpu_time_is_bounded_by_cpu_max() {
    need!(root() && controller("cpu"));
    let [elapsed, used, throttled] = burn(&Scratch::new("cpu"), "10%");
    // How much it gets depends on what else runs; that it is no more, and why, does not.
    assert!(used <= elapsed / 10 * 115 / 100, "{used} of {elapsed} us");
    assert!(throttled > 0);
}

// Not in an emulated machine: the clock goes on there while the processor does not.
#[test]
fn cpu_time_up_to_cpu_max_is_had_in_full() {
    need!(root() && controller("cpu"));
    let [elapsed, used, throttled] = burn(&Scratch::new("cpu-full"), "10%");
    // In each period at the end of which it was throttled it had its 10 ms.
    assert!(used >= throttled * 10_000 * 85 / 100, "{used} of {elapsed} us, {throttled} times");
}

#[test]
fn writing_is_slowed_to_io_max() {
    need!(root() && (controller("io") || controller("blkio")));
    let scratch = Scratch::new("io");
    let dir = tempfile::tempdir_in(disk()).unwrap();
    let file = dir.path().join("file");
    let limit = format!("{}:wbps=1M,riops=max", dir.path().display());
    let write = format!("of={}", file.display());
    let outcome = scratch.run(&[
        "run",
        "--io-max",
        &limit,
        "--timeout",
        "2",
        "{}",
        "--",
        "dd",
        "if=/dev/zero",
        &write,
        "bs=256K",
        "count=64",
        "oflag=direct",
        "status=none",
    ]);
    let told = "cgroup-apply: time limit 2 s reached: COMMAND was killed\n";
    says(&outcome, 124, "", told);
    let written = fs::metadata(&file).unwrap().len();
    assert!(written <= 5 << 20, "{written} bytes in two seconds");
}

/// A directory on a disk, not in memory.
fn disk() -> &'static str {
    let on_disk = |dir: &&str| {
        let device = std::os::unix::fs::MetadataExt::dev(&fs::metadata(dir).unwrap());
        nix::sys::stat::major(device) != 0
    };
    ["/var/tmp", "/root"].into_iter().find(on_disk).unwrap()
}

#[test]
fn io_max_wants_something_on_a_block_device() {
    need!(root() && (controller("io") || controller("blkio")));
    let scratch = Scratch::new("io-device");
    for (path, said) in [
        ("/nosuch", "No such file or directory (ENOENT)\n"),
        (
            "/proc",
            "it is on no block device\n  hint: 'lsblk' shows the block devices, 'findmnt --target' what a file is on\n",
        ),
    ] {
        let limit = format!("{path}:rbps=1M");
        let said = format!("cgroup-apply: cannot limit io of '{path}': {said}");
        says(&scratch.run(&["run", "--io-max", &limit, "{}", "--", "true"]), 125, "", &said);
    }
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn huge_pages_are_limited_where_their_controller_lives() {
    need!(root() && controller("hugetlb"));
    let scratch = Scratch::new("hugetlb");
    let file = scratch.dir("hugetlb").join(if on_v1("hugetlb") {
        "hugetlb.2MB.limit_in_bytes"
    } else {
        "hugetlb.2MB.max"
    });
    let file = file.to_str().unwrap();
    let run = |limit| scratch.run(&["run", "--hugetlb-max", limit, "{}", "--", "cat", file]);
    says(&run("2M=4M"), 0, "4194304\n", "");
    let name = Path::new(file).file_name().unwrap().to_str().unwrap();
    let said = format!("cgroup-apply: {name}: 5242880 asked, 4194304 in effect\n");
    says(&run("2M=5M"), 0, "4194304\n", &said);
}

#[test]
fn oci_resources_become_limits_and_options_win() {
    need!(root() && controller("pids") && controller("memory"));
    let scratch = Scratch::new("oci");
    let pids = scratch.dir("pids").join("pids.max");
    let memory = scratch.dir("memory").join(if on_v1("memory") {
        "memory.limit_in_bytes"
    } else {
        "memory.max"
    });
    let json = br#"{"pids": {"limit": 64}, "memory": {"limit": 104857600}}"#;
    let mut command = tool("cgroup-apply");
    command.args(["run", "--resources", "-", "--pids-max", "8", &scratch.name, "--", "cat"]);
    command.args([&pids, &memory]);
    says(&crate::support::outcome_with_input(&mut command, json), 0, "8\n104857600\n", "");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resources.json");
    let shown = file.display();
    for (json, said) in [
        (
            r#"{"pids": {"limit": "x"}}"#,
            "invalid type: string \"x\", expected i64 at line 1 column 22\n",
        ),
        ("{", "EOF while parsing an object at line 1 column 1\n"),
    ] {
        fs::write(&file, json).unwrap();
        let said = format!("cgroup-apply: cannot read '{shown}' as OCI resources: {said}");
        let outcome = scratch.run(&["create", "--resources", file.to_str().unwrap(), "{}"]);
        says(&outcome, 2, "", &said);
    }
    let missing = dir.path().join("missing");
    let said = format!(
        "cgroup-apply: cannot read '{}': No such file or directory (ENOENT)\n",
        missing.display()
    );
    let outcome = scratch.run(&["create", "--resources", missing.to_str().unwrap(), "{}"]);
    says(&outcome, 1, "", &said);
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn a_cpuset_is_joined_without_naming_its_memory_nodes() {
    need!(root() && controller("cpuset"));
    let scratch = Scratch::new("cpuset");
    let outcome = scratch.run(&[
        "run",
        "--cpuset-cpus",
        "0",
        "{}/below",
        "--",
        "grep",
        "Cpus_allowed_list",
        "/proc/self/status",
    ]);
    says(&outcome, 0, "Cpus_allowed_list:\t0\n", "");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn rounding_by_the_kernel_is_told() {
    need!(root() && controller("memory"));
    let scratch = Scratch::new("rounding");
    let file = if on_v1("memory") { "memory.limit_in_bytes" } else { "memory.max" };
    let outcome = scratch.run(&["run", "--memory-max", "100000001", "{}", "--", "true"]);
    says(&outcome, 0, "", &format!("cgroup-apply: {file}: 100000001 asked, 99999744 in effect\n"));
}

#[test]
fn a_limit_that_cannot_be_set_stops_the_run_before_command_starts() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("refused");
    let dir = scratch.dir("pids");
    let shown = dir.display();
    let outcome = scratch.run(&["run", "--set", "pids.bogus=1", "{}", "--", "echo", "started"]);
    // On v1 there is a directory in another hierarchy besides: the one in which runs meet.
    let undone = if on_v1("pids") { "2 changes" } else { "1 change" };
    let said = format!(
        "cgroup-apply: cannot limit pids.bogus: cannot write '1' to '{shown}/pids.bogus': No such file or directory (ENOENT)\n  \
         undone: {undone}; the cgroups are as they were\n  hint: this kernel has no such file in '{shown}'\n"
    );
    says(&outcome, 125, "", &said);
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);

    let outcome = scratch.run(&[
        "run",
        "--best-effort",
        "--set",
        "pids.bogus=1",
        "{}",
        "--",
        "echo",
        "started",
    ]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "started\n"), "{outcome:?}");
    assert!(outcome.stderr.starts_with("cgroup-apply: cannot limit pids.bogus: "), "{outcome:?}");
}

#[test]
fn an_unknown_controller_is_named_with_those_there_are() {
    need!(root());
    let scratch = Scratch::new("unknown");
    let outcome = scratch.run(&["run", "--set", "bogus.max=1", "{}", "--", "echo", "started"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (125, ""), "{outcome:?}");
    let first = "cgroup-apply: cannot limit bogus: '/sys/fs/cgroup' offers no controller 'bogus'\n  hint: it offers ";
    assert!(outcome.stderr.starts_with(first), "{outcome:?}");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn throttling_is_told() {
    need!(root() && controller("cpu"));
    let scratch = Scratch::new("throttled");
    let script = "timeout 0.5 sh -c 'while :; do :; done'; exit 0";
    // So little that it is used up on a busy machine, too.
    let outcome = scratch.run(&["run", "--cpu-max", "5%", "{}", "--", "sh", "-c", script]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""), "{outcome:?}");
    let told = "cgroup-apply: cpu limit 5% reached: throttled in ";
    assert!(outcome.stderr.starts_with(told), "{outcome:?}");
    assert!(outcome.stderr.ends_with(" ms of CPU time\n"), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
}

#[test]
fn an_oom_kill_in_a_cgroup_below_is_told() {
    need!(root() && controller("memory"));
    let scratch = Scratch::new("oom-below");
    let below = scratch.dir("memory").join("below");
    // On v2 a controller is handed on by cgroups without processes: the kills of those below count all the same.
    let script =
        format!("mkdir {0} && echo 0 >{0}/cgroup.procs && exec tail /dev/zero", below.display());
    let outcome = scratch.run(&[
        "run",
        "--memory-max",
        "30M",
        "--best-effort",
        "--memory-swap-max",
        "0",
        "--stats",
        "-",
        "{}",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    assert_eq!(outcome.code, 137, "{outcome:?}");
    // It was this limit: v1 before Linux 5.11 has to be told that it holds below.
    let stats: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let peak = stats["memory"]["peak_bytes"].as_u64();
    assert!(peak.is_none_or(|peak| (20 << 20..=30 << 20).contains(&peak)), "{stats}");
    let told = "cgroup-apply: memory limit 30M reached: 1 process was killed (OOM)";
    assert!(outcome.stderr.lines().any(|line| line == told), "{outcome:?}");
}

#[test]
fn a_value_that_the_kernel_does_not_take_is_shown_with_what_there_is() {
    need!(root() && controller("pids") && controller("cpuset") && controller("hugetlb"));
    let scratch = Scratch::new("invalid");
    let file = |controller: &str, file: &str| scratch.dir(controller).join(file);
    let above = |file: &str| {
        let read = |name| fs::read_to_string(home("cpuset").unwrap().join(name));
        let list = read(format!("{file}.effective")).or_else(|_| read(file.to_owned())).unwrap();
        list.trim().to_owned()
    };
    let huge = if on_v1("hugetlb") { "hugetlb.3MB.limit_in_bytes" } else { "hugetlb.3MB.max" };
    let sizes = fs::read_dir("/sys/kernel/mm/hugepages").unwrap().flatten();
    let mut sizes: Vec<_> = sizes
        .map(|size| match size.file_name().to_str().unwrap() {
            "hugepages-2048kB" => "2MB",
            "hugepages-1048576kB" => "1GB",
            other => panic!("{other}"),
        })
        .collect();
    sizes.sort_unstable();
    for (option, value, limit, file, written, errno, hint) in [
        (
            "--set",
            "pids.max=abc",
            "pids.max",
            file("pids", "pids.max"),
            "abc",
            "Invalid argument (EINVAL)",
            "the kernel does not take this value; the file reads 'max' now".to_owned(),
        ),
        (
            "--cpuset-cpus",
            "9999",
            "cpuset.cpus",
            file("cpuset", "cpuset.cpus"),
            "9999",
            "Math result not representable (ERANGE)",
            format!("the cgroup above has {}", above("cpuset.cpus")),
        ),
        (
            "--hugetlb-max",
            "3M=0",
            "hugetlb.3MB.max",
            file("hugetlb", huge),
            "0",
            "No such file or directory (ENOENT)",
            format!("the huge pages here are of {}", sizes.join(", ")),
        ),
    ] {
        let outcome = scratch.run(&["run", option, value, "{}", "--", "echo", "started"]);
        let is_alone = file.starts_with(anchor());
        let undone = if is_alone { "1 change" } else { "2 changes" };
        let said = format!(
            "cgroup-apply: cannot limit {limit}: cannot write '{written}' to '{}': {errno}\n  \
             undone: {undone}; the cgroups are as they were\n  hint: {hint}\n",
            file.display()
        );
        says(&outcome, 125, "", &said);
        assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
    }
}

#[test]
fn on_v1_no_cgroup_has_more_of_the_cpu_than_the_one_above() {
    need!(root() && controller("cpu"));
    if !on_v1("cpu") {
        return; // on v2 the smaller of the two holds
    }
    let scratch = Scratch::new("quota");
    scratch.run(&["create", "--cpu-max", "50%", "{}"]).success();
    let file = scratch.dir("cpu").join("x/cpu.cfs_quota_us");
    let said = format!(
        "cgroup-apply: cannot limit cpu.max: cannot write '80000' to '{}': Invalid argument (EINVAL)\n  \
         undone: 2 changes; the cgroups are as they were\n  \
         hint: on cgroup v1 a cgroup has no larger share of the CPU than the one above it\n",
        file.display()
    );
    says(&scratch.run(&["create", "--cpu-max", "80%", "{}/x"]), 1, "", &said);
}

#[test]
fn on_v1_memory_in_use_cannot_be_limited_away() {
    need!(root() && controller("memory"));
    if !on_v1("memory") {
        return; // v2 takes the limit and has the OOM killer see to it
    }
    let scratch = Scratch::new("in-use");
    let script = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ready; read line; echo ${#x}";
    let running = scratch.start(&["--memory-max", "200M"], script);
    let file = scratch.dir("memory").join("memory.limit_in_bytes");
    let outcome = scratch.run(&["create", "--memory-max", "1M", "{}"]);
    let said = format!(
        "cgroup-apply: cannot limit memory.max: cannot write '1048576' to '{}': Device or resource busy (EBUSY)\n  \
         hint: the cgroup uses more than that already\n",
        file.display()
    );
    says(&outcome, 1, "", &said);
    says(&running.finish(), 0, "20000000\n", "");
}
