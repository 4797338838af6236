//! cgroup-apply from outside.
//!
//! Each test has a cgroup name of its own and removes it even when it fails. What differs between v1, v2 and
//! hybrid hosts (paths, what a controller offers) is asked of the host.

use crate::{
    pty::Pty,
    support::{Outcome, outcome, root, run, sh, shell_status, tool},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// A cgroup name that no other test has; what is left of it goes with the value.
pub(crate) struct Scratch {
    pub(crate) name: String,
}

impl Scratch {
    pub(crate) fn new(label: &str) -> Self {
        Self { name: format!("ca-test-{}-{label}", std::process::id()) }
    }

    /// Its directories that exist, in all hierarchies.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        mounts()
            .into_iter()
            .map(|(mount, _)| mount.join(&self.name))
            .filter(|dir| dir.exists())
            .collect()
    }

    /// Its directory where `controller` lives.
    pub(crate) fn dir(&self, controller: &str) -> PathBuf {
        home(controller).unwrap().join(&self.name)
    }

    /// Run the tool with `args` in which `{}` is the name.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        let args: Vec<_> = args.iter().map(|arg| arg.replace("{}", &self.name)).collect();
        run("cgroup-apply", &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Start the tool, and wait until COMMAND has said "ready".
    pub(crate) fn start(&self, args: &[&str], script: &str) -> Running {
        let mut command = tool("cgroup-apply");
        command.arg("run").args(args).args([&self.name, "--", "sh", "-c", script]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Running { child, stdout }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for _ in 0..200 {
            let dirs = self.dirs();
            if dirs.is_empty() {
                return;
            }
            for dir in dirs {
                sweep(&dir);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Kill what is in `dir` and remove it with the cgroups below.
fn sweep(dir: &Path) {
    let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 1) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_default(); // gone already
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep(&entry.path());
        }
    }
    drop(fs::remove_dir(dir));
}

/// A run in progress. It is killed if the test leaves it.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Close its standard input and wait for its end; what it said after "ready".
    pub(crate) fn finish(mut self) -> Outcome {
        drop(self.child.stdin.take());
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).unwrap();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = shell_status(self.child.wait().unwrap());
        Outcome { code, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The mounted hierarchies with their controllers; v2 has its own list.
pub(crate) fn mounts() -> Vec<(PathBuf, Vec<String>)> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroups = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mount = PathBuf::from(before.split(' ').nth(4)?);
        let controllers = match after.split(' ').next()? {
            "cgroup" => after.split(' ').nth(2)?.replace(',', " "),
            "cgroup2" => fs::read_to_string(mount.join("cgroup.controllers")).unwrap(),
            _ => return None,
        };
        Some((mount, controllers.split_whitespace().map(str::to_owned).collect()))
    });
    cgroups.collect()
}

/// The v2 hierarchy among them.
pub(crate) fn v2() -> Option<(PathBuf, Vec<String>)> {
    mounts().into_iter().find(|(mount, _)| mount.join("cgroup.controllers").exists())
}

/// Where `controller` is mounted.
pub(crate) fn home(controller: &str) -> Option<PathBuf> {
    let has = |controllers: &Vec<String>| controllers.iter().any(|each| each == controller);
    mounts().into_iter().find(|(_, controllers)| has(controllers)).map(|(mount, _)| mount)
}

pub(crate) fn controller(name: &str) -> bool {
    home(name).is_some()
}

pub(crate) fn on_v1(controller: &str) -> bool {
    home(controller).is_some_and(|mount| !mount.join("cgroup.controllers").exists())
}

/// Wait for something that takes a moment.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
pub(crate) fn says(outcome: &Outcome, code: i32, stdout: &str, stderr: &str) {
    assert_eq!(*outcome, Outcome { code, stdout: stdout.into(), stderr: stderr.into() });
}

#[test]
fn command_runs_inside_and_nothing_is_left() {
    need!(root() && controller("pids") && controller("memory"));
    let scratch = Scratch::new("inside");
    let outcome = scratch.run(&[
        "run",
        "--pids-max",
        "64",
        "--memory-max",
        "512M",
        "{}",
        "--",
        "cat",
        "/proc/self/cgroup",
    ]);
    says(&Outcome { stdout: String::new(), ..outcome }, 0, "", "");
    let outcome = scratch.run(&["run", "--pids-max", "64", "{}", "--", "cat", "/proc/self/cgroup"]);
    let line = if on_v1("pids") {
        format!(":pids:/{}", scratch.name)
    } else {
        format!("0::/{}", scratch.name)
    };
    assert!(outcome.stdout.lines().any(|each| each.ends_with(&line)), "{outcome:?}");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn controllers_of_both_versions_are_used_in_one_run() {
    need!(root() && controller("pids") && controller("hugetlb"));
    let scratch = Scratch::new("both");
    let options = ["run", "--pids-max", "10", "--hugetlb-max", "2M=0"];
    let command = ["{}", "--", "cat", "/proc/self/cgroup"];
    let outcome = scratch.run(&[&options[..], &command].concat()).success();
    for controller in ["pids", "hugetlb"] {
        let (kind, name) = (if on_v1(controller) { controller } else { "" }, &scratch.name);
        let line = format!(":{kind}:/{name}");
        assert!(outcome.stdout.lines().any(|each| each.ends_with(&line)), "{line}: {outcome:?}");
    }
}

#[test]
fn the_limit_is_what_the_file_reads() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("reads");
    let file = scratch.dir("pids").join("pids.max");
    let outcome =
        scratch.run(&["run", "--pids-max", "5", "{}", "--", "cat", file.to_str().unwrap()]);
    says(&outcome, 0, "5\n", "");
}

#[test]
fn the_status_is_the_commands() {
    need!(root());
    let scratch = Scratch::new("status");
    says(&scratch.run(&["run", "{}", "--", "sh", "-c", "exit 42"]), 42, "", "");
    says(&scratch.run(&["run", "{}", "--", "sh", "-c", "kill -TERM $$"]), 143, "", "");
    says(&scratch.run(&["run", "{}", "--", "sh", "-c", "kill -KILL $$"]), 137, "", "");
    says(
        &scratch.run(&["run", "{}", "--", "no-such-command"]),
        127,
        "",
        "cgroup-apply: cannot run 'no-such-command': No such file or directory (ENOENT)\n",
    );
    says(
        &scratch.run(&["run", "{}", "--", "/etc/passwd"]),
        126,
        "",
        "cgroup-apply: cannot run '/etc/passwd': Permission denied (EACCES)\n",
    );
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn wrong_usage_is_125_of_run_and_2_of_the_others() {
    assert_eq!(run("cgroup-apply", &["run", "--bogus", "--", "true"]).code, 125);
    assert_eq!(run("cgroup-apply", &["run", "--verbose", "x"]).code, 125);
    assert_eq!(run("cgroup-apply", &["create", "--bogus"]).code, 2);
    assert_eq!(run("cgroup-apply", &["bogus"]).code, 2);
    assert_eq!(run("cgroup-apply", &[]).code, 2);
    let said = run("cgroup-apply", &["create", "--pids-max", "-1"]).stderr;
    assert!(said.starts_with("cgroup-apply: "), "{said}");
}

#[test]
fn bad_values_are_refused_with_what_is_allowed() {
    for (option, value, allowed) in [
        ("--pids-max", "abc", "allowed are 0 to 4194304, and 'max'"),
        ("--pids-max", "4194305", "allowed are 0 to 4194304, and 'max'"),
        (
            "--memory-max",
            "10MB",
            "allowed are bytes, a number with K, M, G or T, '1%' to '100%', and 'max'",
        ),
        (
            "--cpu-max",
            "half",
            "allowed are CPUs ('1.5'), a share ('50%'), QUOTA/PERIOD in microseconds, and 'max'",
        ),
        ("--cpu-max", "0.001", "the kernel's shortest quota is 1000 microseconds in 100000"),
        ("--cpuset-cpus", "3-1", "allowed are numbers and ranges, as '0-2,4'"),
        ("--hugetlb-max", "2M", "SIZE=MAX is expected, as '2M=64M', '1G=max' or '2M=0'"),
        (
            "--io-max",
            "/dev/sda:rbps=0",
            "PATH:KEY=VALUE[,...] is expected, with rbps, wbps (bytes a second, with K, M, G or T), \
             riops, wiops (operations a second) as KEY, and a number above 0 or 'max' as VALUE",
        ),
    ] {
        let said = run("cgroup-apply", &["run", option, value, "--", "true"]);
        assert_eq!(said.code, 125, "{said:?}");
        let line = said.stderr.lines().next().unwrap();
        assert!(
            line.starts_with(&format!("cgroup-apply: invalid value '{value}' for '{option} <")),
            "{line}"
        );
        assert!(line.ends_with(allowed), "{line}");
    }
}

#[test]
fn names_that_lead_out_of_the_tree_are_refused() {
    for (name, why) in [
        ("..", "'..' begins with a dot"),
        ("a/../../b", "'..' begins with a dot"),
        (".hidden", "'.hidden' begins with a dot"),
        ("/a", "a cgroup's name has no empty part, and no '/' before or behind it"),
        ("a//b", "a cgroup's name has no empty part, and no '/' before or behind it"),
        ("a/", "a cgroup's name has no empty part, and no '/' before or behind it"),
        ("", "a cgroup's name has no empty part, and no '/' before or behind it"),
        ("a\nb", "a control character is in it"),
    ] {
        let said = run("cgroup-apply", &["create", name]);
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.stderr.contains(why), "{said:?}");
    }
}

#[test]
fn not_a_byte_of_ours_is_on_the_streams() {
    need!(root());
    let scratch = Scratch::new("streams");
    let mut command = tool("cgroup-apply");
    command.args(["run", &scratch.name, "--", "sh", "-c", "cat; printf err >&2"]);
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&bytes).unwrap();
            drop(stdin);
        });
        child.wait_with_output().unwrap()
    });
    assert_eq!(output.stdout, bytes);
    assert_eq!(output.stderr, b"err");
}

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
fn what_command_leaves_running_is_killed() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("leftover");
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo $!";
    let outcome = scratch.run(&["run", "--pids-max", "9", "{}", "--", "sh", "-c", script]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
    let sleeper = format!("/proc/{}/stat", outcome.stdout.trim());
    eventually("the sleeper is gone", || {
        fs::read_to_string(&sleeper).is_err()
            || fs::read_to_string(&sleeper).unwrap_or_default().contains(" Z ")
    });
}

#[test]
fn cgroups_that_command_made_below_are_removed_too() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("below");
    let dir = scratch.dir("pids");
    let script =
        format!("mkdir -p {0}/a/b && echo $$ > {0}/a/b/cgroup.procs; echo done", dir.display());
    let outcome = scratch.run(&["run", "--pids-max", "9", "{}", "--", "sh", "-c", &script]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "done\n"), "{outcome:?}");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn signals_are_passed_on() {
    need!(root());
    for (signal, name) in [
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
    ] {
        let scratch = Scratch::new(&format!("signal-{name}"));
        let script = format!(
            "trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.02; done"
        );
        let running = scratch.start(&[], &script);
        kill(running.pid(), signal).unwrap();
        says(&running.finish(), 9, &format!("got {name}\n"), "");
        assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
    }
}

#[test]
fn command_has_the_signal_mask_and_dispositions_it_would_have_without_us() {
    need!(root());
    let scratch = Scratch::new("mask");
    let look = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let outcome = scratch.run(&["run", "{}", "--", "sh", "-c", look]);
    says(&outcome, 0, &sh(look).success().stdout, "");
}

#[test]
fn command_dies_with_a_killed_supervisor_and_the_next_run_clears_up() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("kill9");
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo ready; while :; do sleep 0.02; done";
    let running = scratch.start(&["--pids-max", "7"], script);
    kill(running.pid(), Signal::SIGKILL).unwrap();
    assert_eq!(running.finish().code, 137);
    assert_ne!(scratch.dirs(), [] as [PathBuf; 0]);

    // The old limit is not in the new cgroup: nobody asked for it.
    let file = scratch.dir("pids").join("pids.max");
    let script = format!("cat {} 2>/dev/null || echo none", file.display());
    let outcome = scratch.run(&["run", "{}", "--", "sh", "-c", &script]);
    assert!(["none\n", "max\n"].contains(&outcome.stdout.as_str()), "{outcome:?}");
    says(&Outcome { stdout: String::new(), ..outcome }, 0, "", "");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn killed_at_any_moment_the_next_run_works_and_leaves_nothing() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("moments");
    let run = |tail: &[&str]| {
        let mut command = tool("cgroup-apply");
        command.args(["run", "--pids-max", "7", "--cpu-max", "50%", "--cpuset-cpus", "0"]);
        command.arg(format!("{}/x", scratch.name)).arg("--").args(tail);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    // From before its first step to after its last one.
    let began = Instant::now();
    outcome(&mut run(&["true"])).success();
    let whole = began.elapsed() * 5 / 4;
    let mut moments = Moments::new();
    for _ in 0..50 {
        let moment = moments.below(whole);
        let mut child = run(&["sh", "-c", "setsid sleep 1000 & exec true"]).spawn().unwrap();
        std::thread::sleep(moment);
        drop(child.kill());
        child.wait().unwrap();
        let outcome = scratch.run(&["run", "--pids-max", "8", "{}/x", "--", "echo", "works"]);
        says(&outcome, 0, "works\n", "");
        assert_eq!(scratch.dirs(), [] as [PathBuf; 0], "after {moment:?} of {whole:?}");
    }
}

/// Random moments, others in each run of the tests.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        Self(RandomState::new().hash_one(0) | 1)
    }

    fn below(&mut self, whole: Duration) -> Duration {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        whole * u32::try_from(self.0 % 1000).unwrap() / 1000
    }
}

#[test]
fn delete_tells_the_truth_about_whatever_there_is() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("truth");
    let all = mounts();
    // In one hierarchy, in each other one, in all of them; with cgroups below.
    for only in (0..all.len()).map(Some).chain([None]) {
        let is_limiting = |(_, controllers): &&(PathBuf, Vec<String>)| {
            !controllers.iter().any(|controller| controller.contains('='))
        };
        let chosen = all.iter().enumerate().filter(|(at, _)| only.is_none_or(|only| only == *at));
        for (mount, _) in chosen.map(|(_, mount)| mount).filter(is_limiting) {
            fs::create_dir_all(mount.join(&scratch.name).join("a/b")).unwrap();
        }
        says(&scratch.run(&["delete", "{}"]), 0, "", "");
        assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
    }

    // While runs come and go: 0 is only said when nothing is there.
    let name = &scratch.name;
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| {
            for _ in 0..20 {
                let outcome = run("cgroup-apply", &["run", "--pids-max", "9", name, "--", "true"]);
                assert!([0, 125, 137].contains(&outcome.code), "{outcome:?}");
            }
        });
        while !runs.is_finished() {
            let outcome = run("cgroup-apply", &["delete", "--kill", name]);
            assert!([0, 1].contains(&outcome.code), "{outcome:?}");
        }
    });
    says(&scratch.run(&["delete", "--kill", "{}"]), 0, "", "");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn five_hundred_cgroups_cost_the_last_one_no_more_than_the_first() {
    need!(root() && controller("pids") && crate::support::installed("strace"));
    let scratch = Scratch::new("many-groups");
    scratch.run(&["create", "{}"]).success();
    let dir = tempfile::tempdir().unwrap();
    let calls = |args: &[&str]| {
        let list = dir.path().join("calls");
        let mut strace = std::process::Command::new("strace");
        strace.arg("--output").arg(&list).arg(crate::support::tool_path("cgroup-apply")).args(args);
        outcome(&mut strace).success();
        fs::read_to_string(&list).unwrap().lines().count()
    };
    let nth = |n: usize| format!("{}/g{n}", scratch.name);
    let create = |name: &str| calls(&["create", "--pids-max", "9", name]);
    let delete = |name: &str| calls(&["delete", name]);
    let first = (create(&nth(1000)), delete(&nth(1000)));
    std::thread::scope(|scope| {
        for half in [0, 250] {
            let nth = &nth;
            scope.spawn(move || {
                for n in half..half + 250 {
                    run("cgroup-apply", &["create", "--pids-max", "9", &nth(n)]).success();
                }
            });
        }
    });
    // A few may differ: the list of mounts is longer while other tests run.
    let last = (create(&nth(1000)), delete(&nth(1000)));
    assert!(
        last.0 <= first.0 + 20 && last.1 <= first.1 + 20,
        "{last:?} system calls after {first:?}"
    );
    for n in 0..500 {
        run("cgroup-apply", &["delete", &nth(n)]).success();
    }
    assert_eq!(
        fs::read_dir(scratch.dir("pids"))
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .count(),
        0
    );
    says(&scratch.run(&["delete", "{}"]), 0, "", "");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn the_last_of_two_runs_removes_the_cgroup() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("two");
    let one = scratch.start(&["--pids-max", "20"], "echo ready; read line; echo one");
    let two = scratch.start(&["--pids-max", "20"], "echo ready; read line; echo two");
    says(&one.finish(), 0, "one\n", "");
    assert!(scratch.dir("pids").exists());
    says(&two.finish(), 0, "two\n", "");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn many_runs_at_once_on_one_name_all_work() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("many");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    says(
                        &scratch.run(&["run", "--pids-max", "90", "{}/x", "--", "echo", "ran"]),
                        0,
                        "ran\n",
                        "",
                    );
                }
            });
        }
    });
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn create_prints_the_directories_and_converges() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("create");
    let mut dirs: Vec<String> = vec![];
    if let Some((v2, _)) = v2() {
        dirs.push(format!("{}\n", v2.join(&scratch.name).display()));
    } else {
        dirs.push(format!("{}\n", scratch.dir("freezer").display()));
    }
    if on_v1("pids") {
        dirs.push(format!("{}\n", scratch.dir("pids").display()));
    }
    let dirs = dirs.concat();
    let create = ["create", "--verbose", "--pids-max", "9", "{}"];
    let outcome = scratch.run(&create);
    assert_eq!((outcome.code, &outcome.stdout), (0, &dirs), "{outcome:?}");
    assert_ne!(outcome.stderr, "");
    says(&scratch.run(&create), 0, &dirs, "");

    // Another value is a change of the same cgroup.
    let file = scratch.dir("pids").join("pids.max");
    let said = format!("+ echo 8 > {}\n", file.display());
    says(&scratch.run(&["create", "--verbose", "--pids-max", "8", "{}"]), 0, &dirs, &said);
    assert_eq!(fs::read_to_string(&file).unwrap(), "8\n");

    // A run uses it with its limits and leaves it.
    let outcome = scratch.run(&[
        "run",
        "{}",
        "--",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait",
    ]);
    assert!(outcome.stderr.contains("cgroup-apply: pids limit 8 reached: "), "{outcome:?}");
    assert!(file.exists());
    says(&scratch.run(&["delete", "--kill", "{}"]), 0, "", "");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
    says(&scratch.run(&["delete", "{}"]), 0, "", "");
}

#[test]
fn delete_refuses_while_processes_are_inside_unless_told_to_kill() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("delete");
    let running = scratch.start(&["--pids-max", "9"], "echo ready; read line");
    let pids = fs::read_to_string(scratch.dir("pids").join("cgroup.procs")).unwrap();
    let said = format!(
        "cgroup-apply: cannot delete '{}': 1 process ({}) in it\n  hint: --kill kills what is in it first\n",
        scratch.name,
        pids.trim()
    );
    says(&scratch.run(&["delete", "{}"]), 1, "", &said);
    says(&scratch.run(&["delete", "--kill", "{}"]), 0, "", "");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
    says(&running.finish(), 137, "", "");
}

#[test]
fn exec_leaves_no_process_of_ours_and_keeps_the_cgroup() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("exec");
    let mut command = tool("cgroup-apply");
    command.args([
        "run",
        "--exec",
        "--pids-max",
        "5",
        &scratch.name,
        "--",
        "sh",
        "-c",
        "echo $$; cat /proc/self/cgroup",
    ]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let said = Outcome::from(child.wait_with_output().unwrap());
    assert_eq!(said.stdout.lines().next(), Some(&*pid.to_string()), "{said:?}");
    assert!(said.stdout.contains(&format!("/{}\n", scratch.name)), "{said:?}");
    assert!(scratch.dir("pids").exists());
    says(&scratch.run(&["delete", "{}"]), 0, "", "");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);

    let outcome = scratch.run(&["run", "--exec", "--pids-max", "5", "{}", "--", "no-such-command"]);
    let undone = match (v2(), on_v1("pids")) {
        (Some(_), false) => "1 change",
        (None, _) => "2 changes",
        (Some(_), true) => "3 changes", // v1's freezer in the place of v2's
    };
    let said = format!(
        "cgroup-apply: cannot run 'no-such-command': No such file or directory (ENOENT)\n  \
         undone: {undone}; the cgroups are as they were\n"
    );
    says(&outcome, 127, "", &said);
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn what_was_executed_in_place_is_frozen_and_killed_with_its_cgroup() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("exec-kill");
    let running = scratch.start(&["--exec", "--pids-max", "5"], "echo ready; exec sleep 1000");
    let pid = running.pid().to_string();
    let shown = scratch.run(&["show", "{}"]).success().stdout;
    assert!(shown.ends_with(&format!("frozen: no\nprocesses: {pid}\n")), "{shown}");
    says(&scratch.run(&["freeze", "{}"]), 0, "", "");
    says(&scratch.run(&["delete", "--kill", "{}"]), 0, "", "");
    says(&running.finish(), 137, "", "");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn keep_leaves_the_cgroup() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("keep");
    says(&scratch.run(&["run", "--keep", "--pids-max", "5", "{}", "--", "true"]), 0, "", "");
    assert_eq!(fs::read_to_string(scratch.dir("pids").join("pids.max")).unwrap(), "5\n");
    says(&scratch.run(&["run", "{}", "--", "true"]), 0, "", "");
    assert!(scratch.dir("pids").exists());
}

#[test]
fn a_run_does_not_touch_a_cgroup_that_somebody_else_made() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("foreign");
    fs::create_dir(scratch.dir("pids")).unwrap();
    let sleeper =
        format!("echo $$ > {}/cgroup.procs; exec sleep 1000", scratch.dir("pids").display());
    let mut child = std::process::Command::new("sh").args(["-c", &sleeper]).spawn().unwrap();
    eventually("the sleeper is inside", || {
        fs::read_to_string(scratch.dir("pids").join("cgroup.procs")).unwrap().trim()
            == child.id().to_string()
    });
    let outcome = scratch.run(&["run", "--pids-max", "50", "{}", "--", "echo", "ran"]);
    let alive = child.try_wait().unwrap().is_none();
    drop(child.kill());
    child.wait().unwrap();
    says(&outcome, 0, "ran\n", "");
    assert!(alive);
    assert!(scratch.dir("pids").exists());
}

#[test]
fn show_gives_the_limits_in_effect() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("show");
    let said = format!(
        "cgroup-apply: cannot show '{}': there is no such cgroup in any hierarchy\n",
        scratch.name
    );
    says(&scratch.run(&["show", "{}"]), 1, "", &said);
    scratch.run(&["create", "--pids-max", "9", "{}"]).success();
    let file = scratch.dir("pids").join("pids.max");
    let shown = scratch.run(&["show", "{}"]).success().stdout;
    let row = shown.lines().find(|line| line.starts_with("pids.max")).unwrap();
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>(),
        ["pids.max", "9", "9", "0", file.to_str().unwrap()]
    );
    assert!(shown.ends_with("frozen: no\nprocesses: none\n"), "{shown}");
    let json = scratch.run(&["show", "--json", "{}"]).success().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["name"], *scratch.name);
    let limit = json["limits"]
        .as_array()
        .unwrap()
        .iter()
        .find(|limit| limit["name"] == "pids.max")
        .unwrap();
    assert_eq!((&limit["value"], &limit["current"]), (&"9".into(), &"0".into()));
}

#[test]
fn show_tells_what_holds_with_the_cgroups_above() {
    need!(root() && controller("pids") && controller("memory") && controller("cpu"));
    let scratch = Scratch::new("effective");
    let above = ["create", "--pids-max", "9", "--memory-max", "64M", "--cpu-max", "50%", "{}"];
    scratch.run(&above).success();
    scratch.run(&["create", "--pids-max", "20", "--memory-max", "32M", "{}/x"]).success();
    if !on_v1("cpu") {
        scratch.run(&["create", "--cpu-max", "1", "{}/x"]).success();
    }
    scratch.run(&["freeze", "{}/x"]).success();
    let json = scratch.run(&["show", "--json", "{}/x"]).success().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let limit = |name: &str| {
        let limits = json["limits"].as_array().unwrap();
        let limit = limits.iter().find(|limit| limit["name"] == name);
        let limit = limit.unwrap_or_else(|| panic!("no {name}: {json}"));
        ["value", "effective"].map(|key| limit[key].as_str().unwrap().to_owned())
    };
    assert_eq!(limit("pids.max"), ["20", "9"]);
    assert_eq!(limit("memory.max"), ["33554432", "33554432"]);
    if !on_v1("cpu") {
        assert_eq!(limit("cpu.max"), ["100000 100000", "50000 100000"]);
    }
    assert_eq!(json["frozen"], true);
    scratch.run(&["thaw", "{}/x"]).success();
}

#[test]
fn info_names_where_each_controller_lives() {
    need!(controller("pids"));
    let json = run("cgroup-apply", &["info", "--json"]).success().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let version = if on_v1("pids") { 1 } else { 2 };
    assert_eq!(json["controllers"]["pids"]["version"], version);
    let is_named = |(_, controllers): &(PathBuf, Vec<String>)| {
        controllers.iter().any(|controller| controller.contains('='))
    };
    let with_limits = mounts().into_iter().filter(|mount| !is_named(mount)).count();
    let mode = match (v2(), with_limits) {
        (None, _) => "v1",
        (Some(_), 1) => "v2",
        (Some(_), _) => "hybrid",
    };
    assert_eq!(json["mode"], mode);
    if root() {
        assert_eq!(
            json["controllers"]["pids"]["directory"],
            home("pids").unwrap().to_str().unwrap()
        );
    }
}

#[test]
fn dry_run_prints_shell_commands_that_do_the_same() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("dry");
    let command =
        ["{}", "--", "sh", "-c", "cat /proc/self/cgroup; echo \"it's\" $0 $1", "a b", "c"];
    let limits = ["run", "--pids-max", "9"];
    let dry = [&limits[..], &["--dry-run"], &command].concat();
    let script = scratch.run(&dry).success().stdout;
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
    let by_hand = outcome(std::process::Command::new("sh").args(["-e", "-c", &script]));
    let by_tool = scratch.run(&[&limits[..], &command].concat());
    assert_eq!(by_hand, by_tool);
    assert!(by_tool.stdout.ends_with("it's a b c\n"), "{by_tool:?}");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn a_cgroup_with_processes_is_not_made_to_hand_controllers_on() {
    need!(root());
    // The rule is one of v2.
    let Some((mount, controllers)) = v2().filter(|(_, controllers)| !controllers.is_empty()) else {
        return;
    };
    let (controller, setting) = match controllers.iter().find(|name| *name == "hugetlb") {
        Some(_) => ("hugetlb", "hugetlb.2MB.max=0"),
        None => ("pids", "pids.max=9"),
    };
    let scratch = Scratch::new("internal");
    let dir = mount.join(&scratch.name);
    fs::create_dir(&dir).unwrap();
    let sleeper = format!("echo $$ > {}/cgroup.procs; exec sleep 1000", dir.display());
    let mut child = std::process::Command::new("sh").args(["-c", &sleeper]).spawn().unwrap();
    eventually("the sleeper is inside", || {
        fs::read_to_string(dir.join("cgroup.procs")).unwrap().trim() == child.id().to_string()
    });
    let outcome = scratch.run(&["run", "--set", setting, "{}/below", "--", "true"]);
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap();
    drop(child.kill());
    child.wait().unwrap();
    let said = format!(
        "cgroup-apply: cannot enable {controller} below '{}': it has 1 process of its own\n  \
         hint: on cgroup v2 only a cgroup without processes hands controllers on: move them to one below it\n",
        dir.display()
    );
    says(&outcome, 125, "", &said);
    assert_eq!(enabled.trim(), "");
    assert!(!dir.join("below").exists());
}

#[test]
fn an_interrupt_of_the_terminal_reaches_command_once() {
    need!(root());
    let scratch = Scratch::new("tty");
    // Long enough for a second one, passed on by the supervisor, to arrive apart from the first.
    let script = "trap 'n=$((n+1))' INT; echo ready; for i in 1 2 3 4 5 6 7 8; do sleep 0.05; done; echo $n times";
    let mut command = tool("cgroup-apply");
    command.args(["run", &scratch.name, "--", "sh", "-c", script]);
    let mut pty = Pty::start(&command, 24, 80);
    pty.see("ready");
    pty.enter("\x03");
    pty.see("1 times");
}

/// A process outside of any cgroup of a test, killed with the value.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(std::process::Command::new("sleep").arg("1000").spawn().unwrap())
    }

    /// The letter in `/proc/PID/stat`.
    fn state(&self) -> String {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit(") ").next().unwrap()[..1].to_owned()
    }

    fn is_in(&self, name: &str) -> bool {
        let memberships = fs::read_to_string(format!("/proc/{}/cgroup", self.0.id())).unwrap();
        memberships.lines().any(|line| line.ends_with(&format!(":/{name}")))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_running_process_is_added_frozen_thawed_and_killed() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("added");
    scratch.run(&["create", "--pids-max", "9", "{}"]).success();
    let mut sleeper = Sleeper::new();
    let pid = sleeper.0.id().to_string();
    says(&scratch.run(&["add", "{}", &pid]), 0, "", "");
    assert!(sleeper.is_in(&scratch.name));
    assert_eq!(
        fs::read_to_string(scratch.dir("pids").join("cgroup.procs")).unwrap(),
        format!("{pid}\n")
    );
    says(&scratch.run(&["add", "--verbose", "{}", &pid]), 0, "", ""); // it is there already

    says(&scratch.run(&["freeze", "{}"]), 0, "", "");
    let frozen = sleeper.state(); // v1 has it in an uninterruptible sleep
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGCONT).unwrap();
    assert_eq!(sleeper.state(), frozen);
    says(&scratch.run(&["freeze", "--verbose", "{}"]), 0, "", "");
    says(&scratch.run(&["thaw", "{}"]), 0, "", "");
    says(&scratch.run(&["thaw", "--verbose", "{}"]), 0, "", "");

    says(&scratch.run(&["freeze", "{}"]), 0, "", "");
    says(&scratch.run(&["kill", "{}"]), 0, "", "");
    assert_eq!(shell_status(sleeper.0.wait().unwrap()), 137);
    assert!(scratch.dir("pids").exists());
    says(&scratch.run(&["kill", "--verbose", "{}"]), 0, "", "");
}

#[test]
fn a_frozen_loop_stands_still() {
    need!(root());
    let scratch = Scratch::new("frozen");
    let script = "echo ready; while read line; do echo $line; done";
    let running = scratch.start(&[], script);
    says(&scratch.run(&["freeze", "{}"]), 0, "", "");
    let mut stdin = running.child.stdin.as_ref().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let mut waiting = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(running.stdout.get_ref()),
        nix::poll::PollFlags::POLLIN,
    )];
    assert_eq!(nix::poll::poll(&mut waiting, 100_u16), Ok(0), "it has read and written");
    says(&scratch.run(&["thaw", "{}"]), 0, "", "");
    says(&running.finish(), 0, "hello\n", "");
}

#[test]
fn what_holds_a_frozen_cgroup_above_is_named() {
    need!(root());
    let scratch = Scratch::new("above");
    scratch.run(&["create", "{}/below"]).success();
    scratch.run(&["freeze", "{}"]).success();
    let above = scratch.dirs().remove(0);
    let outcome = scratch.run(&["thaw", "{}/below"]);
    scratch.run(&["thaw", "{}"]).success();
    let said = format!(
        "cgroup-apply: cannot thaw '{}/below': '{}' above it is frozen\n  hint: thaw that one first\n",
        scratch.name,
        above.display()
    );
    says(&outcome, 1, "", &said);
}

#[test]
fn what_is_not_there_cannot_be_changed() {
    need!(root());
    let scratch = Scratch::new("absent");
    let name = &scratch.name;
    for (args, verb, hint) in [
        (vec!["freeze", name], "freeze", String::new()),
        (vec!["thaw", name], "thaw", String::new()),
        (vec!["kill", name], "kill what is in", String::new()),
        (
            vec!["add", name, "1"],
            "add a process to",
            format!("  hint: 'cgroup-apply create {name}' makes it\n"),
        ),
    ] {
        let said = format!(
            "cgroup-apply: cannot {verb} '{name}': there is no such cgroup in any hierarchy\n{hint}"
        );
        says(&run("cgroup-apply", &args), 1, "", &said);
    }
    scratch.run(&["create", "{}"]).success();
    let dir = scratch.dirs().remove(0);
    let said = format!(
        "cgroup-apply: cannot add process 4194303 to '{}': No such process (ESRCH)\n",
        dir.display()
    );
    says(&scratch.run(&["add", "{}", "4194303"]), 1, "", &said);
}

#[test]
fn a_process_that_cannot_be_added_everywhere_stays_where_it_was() {
    need!(root() && controller("cpuset"));
    if !on_v1("cpuset") {
        return; // the only refusal that can be had in one hierarchy of several
    }
    let scratch = Scratch::new("half");
    scratch.run(&["create", "{}"]).success();
    // Made by somebody who does not know that a new cpuset is empty.
    let cpuset = scratch.dir("cpuset");
    fs::create_dir(&cpuset).unwrap();
    let sleeper = Sleeper::new();
    let pid = sleeper.0.id().to_string();
    let outcome = scratch.run(&["add", "{}", &pid]);
    let shown = cpuset.display();
    let said = format!(
        "cgroup-apply: cannot add process {pid} to '{shown}': No space left on device (ENOSPC)\n  \
         undone: the process is where it was\n  \
         hint: '{shown}/cpuset.cpus' and 'cpuset.mems' must not be empty\n"
    );
    says(&outcome, 1, "", &said);
    assert!(!sleeper.is_in(&scratch.name));
}

#[test]
fn command_is_killed_when_its_time_is_up() {
    need!(root());
    let scratch = Scratch::new("timeout");
    let script = "trap '' TERM; setsid sleep 1000 & echo $!; sleep 1000";
    let outcome = scratch.run(&["run", "--timeout", "0.2s", "{}", "--", "sh", "-c", script]);
    let said = "cgroup-apply: time limit 0.2 s reached: COMMAND was killed\n";
    assert_eq!((outcome.code, outcome.stderr.as_str()), (124, said));
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
    let sleeper = format!("/proc/{}/cgroup", outcome.stdout.trim());
    eventually("what it started is gone", || !Path::new(&sleeper).exists());
    says(&scratch.run(&["run", "--timeout", "1h", "{}", "--", "sh", "-c", "exit 3"]), 3, "", "");
    for bad in ["0", "-1", "1w", "", "s", "0.0001"] {
        let said = run("cgroup-apply", &["run", &format!("--timeout={bad}"), "--", "true"]);
        assert_eq!(said.code, 125, "{said:?}");
    }
}

#[test]
fn a_frozen_command_is_killed_when_its_time_is_up() {
    need!(root());
    let scratch = Scratch::new("timeout-frozen");
    let running = scratch.start(&["--timeout", "3"], "echo ready; exec sleep 1000");
    scratch.run(&["freeze", "{}"]).success();
    says(&running.finish(), 124, "", "cgroup-apply: time limit 3 s reached: COMMAND was killed\n");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

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
fn each_verb_prints_its_plan() {
    need!(root());
    let scratch = Scratch::new("plans");
    scratch.run(&["create", "{}"]).success();
    let sleeper = Sleeper::new();
    let pid = sleeper.0.id().to_string();
    let dir = scratch.dirs().remove(0);
    let shown = dir.display();
    let freezer = if v2().is_some() {
        format!("echo 1 > {shown}/cgroup.freeze\n")
    } else {
        format!("echo FROZEN > {shown}/freezer.state\n")
    };
    // v2 has it from Linux 5.14 on.
    let kill = if dir.join("cgroup.kill").exists() {
        format!("echo 1 > {shown}/cgroup.kill\n")
    } else {
        format!("kill -KILL $(cat {shown}/cgroup.procs)\n")
    };
    let add = format!("echo {pid} > {shown}/cgroup.procs\n");
    says(&scratch.run(&["add", "--dry-run", "{}", &pid]), 0, &add, "");
    says(&scratch.run(&["kill", "--dry-run", "{}"]), 0, "", "");
    scratch.run(&["add", "{}", &pid]).success();
    says(&scratch.run(&["freeze", "--dry-run", "{}"]), 0, &freezer, "");
    says(&scratch.run(&["thaw", "--dry-run", "{}"]), 0, "", "");
    says(&scratch.run(&["kill", "--dry-run", "{}"]), 0, &kill, "");
    assert_eq!(sleeper.state(), "S");
}

/// Where every cgroup is made.
pub(crate) fn anchor() -> PathBuf {
    v2().map(|(mount, _)| mount).or(home("freezer")).unwrap()
}

/// The tool as a user without rights, from a copy that everybody can read.
fn as_nobody(scratch: &Scratch, args: &[&str]) -> (tempfile::TempDir, Vec<String>) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("cgroup-apply");
    let program = fs::read(crate::support::tool_path("cgroup-apply")).unwrap();
    crate::support::write_program(&program, &copy);
    let mut words: Vec<String> =
        ["--reuid=1000", "--regid=1000", "--clear-groups", "--"].map(str::to_owned).to_vec();
    words.push(copy.to_str().unwrap().to_owned());
    words.extend(args.iter().map(|arg| arg.replace("{}", &scratch.name)));
    (dir, words)
}

#[test]
fn without_root_and_delegation_the_way_to_either_is_told() {
    need!(root());
    let scratch = Scratch::new("nobody");
    let (_dir, words) = as_nobody(&scratch, &["run", "{}", "--", "echo", "started"]);
    let at = "/proc/self/cgroup";
    let own = fs::read_to_string(at).unwrap();
    let line = if v2().is_some() { "0::/" } else { ":freezer:/" };
    let own = own.lines().find_map(|each| Some(each.split_once(line)?.1.to_owned())).unwrap();
    // In a container another test may have had what is in its cgroup moved there: it is still the same.
    let own = own.strip_suffix(".leaf").unwrap_or(&own).trim_end_matches('/');
    let dir = anchor().join(own).join(&scratch.name);
    let said = |hint| {
        format!(
            "cgroup-apply: cannot create cgroup '{}': Permission denied (EACCES)\n  hint: {hint}\n",
            dir.display()
        )
    };
    let outcome = outcome(std::process::Command::new("setpriv").args(&words));
    says(&outcome, 125, "", &said("run as root, or in a cgroup that is delegated to you"));

    let host = crate::support::Host::new();
    host.sh("mkdir --parents /run/systemd/system").success();
    let outcome = crate::support::outcome(host.command("setpriv").args(&words));
    let hint = "run as root, or below 'systemd-run --user --scope --property=Delegate=yes', which gives you a cgroup";
    says(&outcome, 125, "", &said(hint));
}

#[test]
fn in_a_delegated_cgroup_no_root_is_needed() {
    need!(root());
    // Only v2 lets a user have limits of his own.
    let Some((mount, controllers)) = v2().filter(|(_, controllers)| !controllers.is_empty()) else {
        return;
    };
    let (controller, option) = if controllers.iter().any(|each| each == "pids") {
        ("pids", "--pids-max=9")
    } else {
        ("hugetlb", "--hugetlb-max=2M=0")
    };
    let scratch = Scratch::new("delegated");
    let dir = mount.join(&scratch.name);
    fs::write(mount.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    fs::create_dir(&dir).unwrap();
    for path in ["", "cgroup.procs", "cgroup.subtree_control"] {
        std::os::unix::fs::chown(dir.join(path), Some(1000), Some(1000)).unwrap();
    }
    let (_copy, words) =
        as_nobody(&scratch, &["run", option, "x", "--", "sh", "-c", "grep 0:: /proc/self/cgroup"]);
    // Twice: the first has to move the shell out of the way, the second finds it there.
    let mut shell = std::process::Command::new("sh");
    let script =
        "echo 0 >$0/cgroup.procs; setpriv \"$@\" && setpriv \"$@\"; grep 0:: /proc/self/cgroup";
    let outcome = outcome(shell.args(["-c", script]).arg(&dir).args(&words));
    let name = &scratch.name;
    says(&outcome, 0, &format!("0::/{name}/x\n0::/{name}/x\n0::/{name}/.leaf\n"), "");
    assert_eq!(
        fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap(),
        format!("{controller}\n")
    );
    assert!(!dir.join("x").exists());
}

#[test]
fn a_unit_of_systemd_is_recognized() {
    need!(root());
    let scratch = Scratch::new("systemd.slice");
    let host = crate::support::Host::new();
    host.sh("mkdir --parents /run/systemd/system").success();
    let below = format!("{}/x", scratch.name);
    let said = format!(
        "cgroup-apply: '{}' is a unit of systemd and not delegated: systemd may take controllers away again\n",
        anchor().join(&scratch.name).display()
    );
    says(&host.run("cgroup-apply", &["run", &below, "--", "true"]), 0, "", &said);
}

#[test]
fn cgroups_that_are_mounted_read_only_are_told() {
    need!(root());
    let scratch = Scratch::new("read-only");
    let host = crate::support::Host::new();
    let mount = anchor();
    host.sh(&format!("mount -o remount,bind,ro {}", mount.display())).success();
    let outcome = host.run("cgroup-apply", &["run", &scratch.name, "--", "true"]);
    let said = format!(
        "cgroup-apply: cannot create cgroup '{}': Read-only file system (EROFS)\n  \
         hint: cgroups are mounted read-only here, as inside most containers\n",
        mount.join(&scratch.name).display()
    );
    says(&outcome, 125, "", &said);
}

#[test]
fn a_cgroup_that_hands_controllers_on_takes_no_process() {
    need!(root());
    let Some((mount, controllers)) = v2().filter(|(_, controllers)| !controllers.is_empty()) else {
        return; // v1 has no such rule
    };
    let setting = if controllers.iter().any(|each| each == "memory") {
        "memory.low=0"
    } else {
        "hugetlb.2MB.max=0"
    };
    let scratch = Scratch::new("internal-join");
    scratch.run(&["create", "--set", setting, "{}/below"]).success();
    let shown = mount.join(&scratch.name).display().to_string();
    let said = format!(
        "cgroup-apply: cannot start a process in '{shown}': Device or resource busy (EBUSY)\n  \
         hint: '{shown}' hands controllers on (cgroup.subtree_control), so on cgroup v2 processes go below it\n"
    );
    says(&scratch.run(&["run", "{}", "--", "true"]), 125, "", &said);
}

#[test]
fn a_cgroup_beside_a_threaded_one_takes_no_process() {
    need!(root());
    let Some((mount, _)) = v2() else {
        return; // v1 has no such rule
    };
    let scratch = Scratch::new("threaded");
    scratch.run(&["create", "{}/threads"]).success();
    scratch.run(&["create", "{}/below"]).success();
    fs::write(mount.join(&scratch.name).join("threads/cgroup.type"), "threaded").unwrap();
    let dir = mount.join(&scratch.name).join("below");
    let shown = dir.display();
    let said = format!(
        "cgroup-apply: cannot start a process in '{shown}': Operation not supported on transport endpoint (EOPNOTSUPP)\n  \
         hint: '{shown}/cgroup.type' is 'domain invalid', and only a domain takes processes\n"
    );
    says(&scratch.run(&["run", "{}/below", "--", "true"]), 125, "", &said);
    let sleeper = Sleeper::new();
    let pid = sleeper.0.id().to_string();
    let said = said.replace("cannot start a process in", &format!("cannot add process {pid} to"));
    says(&scratch.run(&["add", "{}/below", &pid]), 1, "", &said);
}

#[test]
fn more_cgroups_than_the_one_above_allows_are_refused() {
    need!(root());
    if v2().is_none() {
        return; // v1 has no such limit
    }
    let scratch = Scratch::new("descendants");
    scratch.run(&["create", "--set", "cgroup.max.descendants=0", "{}"]).success();
    let said = format!(
        "cgroup-apply: cannot create cgroup '{}': Try again (EAGAIN)\n  \
         hint: cgroup.max.descendants or cgroup.max.depth of a cgroup above is reached\n",
        anchor().join(&scratch.name).join("x").display()
    );
    says(&scratch.run(&["create", "{}/x"]), 1, "", &said);
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
