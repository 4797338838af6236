//! cgroup-apply from outside: how a run ends, whatever ends it, and what it leaves to the others.

use crate::{
    cgroup_apply::{Scratch, controller, eventually, on_v1, says, v2},
    pty::Pty,
    support::{Outcome, outcome, root, run, sh, tool},
};
use nix::sys::signal::{Signal, kill};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

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
