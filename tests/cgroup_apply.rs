//! cgroup-apply from outside.
//!
//! Each test has a cgroup name of its own and removes it even when it fails. What differs between v1, v2 and
//! hybrid hosts (paths, what a controller offers) is asked of the host.

use crate::support::{Outcome, outcome, root, run, shell_status, tool};
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
    pub(crate) child: Child,
    pub(crate) stdout: BufReader<std::process::ChildStdout>,
}

impl Running {
    pub(crate) fn pid(&self) -> Pid {
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

/// A process outside of any cgroup of a test, killed with the value.
pub(crate) struct Sleeper(pub(crate) Child);

impl Sleeper {
    pub(crate) fn new() -> Self {
        Self(std::process::Command::new("sleep").arg("1000").spawn().unwrap())
    }

    /// The letter in `/proc/PID/stat`.
    pub(crate) fn state(&self) -> String {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit(") ").next().unwrap()[..1].to_owned()
    }

    pub(crate) fn is_in(&self, name: &str) -> bool {
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

/// Where every cgroup is made.
pub(crate) fn anchor() -> PathBuf {
    v2().map(|(mount, _)| mount).or(home("freezer")).unwrap()
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
