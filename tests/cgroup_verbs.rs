//! cgroup-apply from outside: the verbs besides run, which make, show, fill, freeze and remove cgroups.

use crate::{
    cgroup_apply::{Scratch, Sleeper, controller, home, mounts, on_v1, says, v2},
    support::{outcome, root, run, shell_status},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, io::Write as _, path::PathBuf};

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
