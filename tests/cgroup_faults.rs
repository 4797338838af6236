//! cgroup-apply when things go wrong: failing calls, and what is said about them.

use crate::{
    cgroup_apply::{Scratch, anchor, controller, home, on_v1, says, v2},
    support::{Host, Outcome, installed, outcome, root, run, tool_path},
};
use std::{fs, path::PathBuf, process::Command};

/// The tool under strace, which lets calls fail: `what` is an `inject` expression, of calls about `path` alone
/// if one is given. `{}` in `args` is the name.
fn inject(scratch: &Scratch, what: &str, path: Option<&str>, args: &[&str]) -> Outcome {
    let mut strace = Command::new("strace");
    let call = what.split(':').next().unwrap();
    strace.args([
        "--follow-forks",
        "--quiet=all",
        "--output=/dev/null",
        &format!("--trace={call}"),
    ]);
    strace.arg(format!("--inject={what}")).args(path.iter().flat_map(|path| ["-P", path]));
    strace.arg(tool_path("cgroup-apply"));
    outcome(strace.args(args.iter().map(|arg| arg.replace("{}", &scratch.name))))
}

/// Run the tool once for each of its calls, which fails; what it leaves, it names.
#[track_caller]
fn fail_each_call(scratch: &Scratch, calls: &[&str], args: &[&str]) -> usize {
    let mut failed = 0;
    let trace = tempfile::NamedTempFile::new().unwrap();
    for call in calls {
        for nth in 1.. {
            let mut strace = Command::new("strace");
            strace.args(["-qq", "--output", trace.path().to_str().unwrap()]);
            strace.args(["--trace", call, "--inject", &format!("{call}:error=EIO:when={nth}")]);
            strace.arg(tool_path("cgroup-apply"));
            strace.args(args.iter().map(|arg| arg.replace("{}", &scratch.name)));
            let outcome = outcome(&mut strace);
            let is_named = outcome.stderr.contains("left behind: ");
            let is_left = scratch.dirs() != [] as [PathBuf; 0] && outcome.code != 0;
            assert!(is_named || !is_left, "{call} {nth}: {outcome:?}");
            run("cgroup-apply", &["delete", "--kill", &scratch.name]).success();
            if !fs::read_to_string(trace.path()).unwrap().contains("INJECTED") {
                outcome.success();
                break;
            }
            failed += usize::from(outcome.code != 0);
        }
    }
    failed
}

#[test]
fn whichever_call_fails_nothing_is_left_or_it_is_named() {
    need!(root() && installed("strace") && controller("pids") && controller("memory"));
    let scratch = Scratch::new("each-call");
    let limits = ["--pids-max", "9", "--memory-max", "64M", "{}/x"];
    let create = [&["create"], &limits[..]].concat();
    let failed = fail_each_call(&scratch, &["mkdir", "write", "fcntl", "openat"], &create);
    assert!(failed > 8, "only {failed} calls failed");
    let run = [&["run"], &limits[..], &["--", "/bin/true"]].concat();
    let calls = ["mkdir", "write", "fcntl", "rt_sigprocmask", "signalfd4", "clone3", "rmdir"];
    let failed = fail_each_call(&scratch, &calls, &run);
    assert!(failed > 8, "only {failed} calls failed");
}

/// How many directories a limit of `controllers` needs, in words.
fn undone(controllers: &[&str]) -> String {
    let count = 1 + controllers.iter().filter(|each| on_v1(each)).count();
    let changes = if count == 1 { "change" } else { "changes" };
    format!("  undone: {count} {changes}; the cgroups are as they were\n")
}

/// What the tool says, of which the last word of `args` is the name, when calls fail as `what` has it.
#[track_caller]
fn fails(scratch: &Scratch, what: &str, path: Option<&str>, args: &str, code: i32, said: &str) {
    let args: Vec<_> = args.split(' ').collect();
    let said = format!("cgroup-apply: {said}");
    says(&inject(scratch, what, path, &args), code, "", &said);
    assert_eq!(scratch.dirs().is_empty(), !said.contains("left behind"), "{what}");
}

#[test]
fn a_cgroup_that_cannot_be_made_or_removed_is_named() {
    need!(root() && installed("strace"));
    let scratch = Scratch::new("made");
    let dir = anchor().join(&scratch.name);
    let (shown, name) = (dir.display().to_string(), &scratch.name);
    let said = format!("cannot create cgroup '{shown}': No space left on device (ENOSPC)\n");
    fails(&scratch, "mkdir:error=ENOSPC", None, "create {}", 1, &said);
    let said =
        format!("cannot lock '{shown}': No record locks available (ENOLCK)\n{}", undone(&[]));
    fails(&scratch, "fcntl:error=ENOLCK", None, "create {}", 1, &said);
    let said = "cannot read '/proc/self/mountinfo': No such file or directory (ENOENT)\n";
    let file = Some("/proc/self/mountinfo");
    fails(&scratch, "openat:error=ENOENT", file, "create {}", 1, said);
    let said = format!("cannot remove cgroup '{name}'\n  left behind: '{shown}'\n");
    fails(&scratch, "rmdir:error=EPERM", Some(&shown), "run {} -- true", 0, &said);
    let said = format!("cannot delete '{name}'\n  left behind: '{shown}'\n");
    fails(&scratch, "rmdir:error=EPERM", Some(&shown), "delete {}", 3, &said);
}

#[test]
fn a_limit_that_the_kernel_refuses_is_explained() {
    need!(root() && installed("strace") && controller("pids") && controller("memory"));
    let scratch = Scratch::new("explained");
    let said = "cannot read '/proc/meminfo': Permission denied (EACCES)\n";
    let file = Some("/proc/meminfo");
    fails(&scratch, "openat:error=EACCES", file, "create --memory-max 25% {}", 1, said);

    let file = scratch.dir("pids").join("pids.max").display().to_string();
    for (what, errno, hint) in [
        (
            "write:error=EBUSY",
            "Device or resource busy (EBUSY)",
            "the cgroup uses more than that already",
        ),
        (
            "openat:error=EROFS",
            "Read-only file system (EROFS)",
            "cgroups are mounted read-only here, as inside most containers",
        ),
    ] {
        let said = format!(
            "cannot limit pids.max: cannot write '9' to '{file}': {errno}\n{}  hint: {hint}\n",
            undone(&["pids"])
        );
        fails(&scratch, what, Some(&file), "create --pids-max 9 {}", 1, &said);
    }

    let on_v1 = on_v1("memory");
    let file = if on_v1 { "memory.memsw.limit_in_bytes" } else { "memory.swap.max" };
    let file = scratch.dir("memory").join(file).display().to_string();
    let said = format!(
        "cannot limit memory.swap.max: cannot write '{}' to '{file}': No such file or directory (ENOENT)\n{}  \
         hint: this kernel does not account for swap (swapaccount=1 at boot)\n",
        if on_v1 { -1 } else { 0 },
        undone(&["memory"])
    );
    let args = "create --memory-max 64M --memory-swap-max 0 {}";
    fails(&scratch, "openat:error=ENOENT", Some(&file), args, 1, &said);
}

#[test]
fn what_keeps_command_from_starting_is_explained() {
    need!(root() && installed("strace") && controller("pids"));
    let scratch = Scratch::new("starting");
    let dir = anchor().join(&scratch.name);
    let shown = dir.display();
    let join = if on_v1("pids") { "tasks" } else { "cgroup.procs" };
    let join = scratch.dir("pids").join(join).display().to_string();
    for (what, path, said) in [
        (
            "clone3:error=EAGAIN",
            None,
            format!(
                "cannot start a process in '{shown}': Try again (EAGAIN)\n{}  \
                 hint: a pids limit of the cgroup or of one above it is reached\n",
                undone(&["pids"])
            ),
        ),
        (
            "openat:error=EMFILE",
            Some(&*join),
            format!("cannot open '{join}': Too many open files (EMFILE)\n{}", undone(&["pids"])),
        ),
        (
            "prctl:error=EINVAL",
            None,
            "cannot tie COMMAND to its supervisor: Invalid argument (EINVAL)\n".into(),
        ),
        (
            "rt_sigprocmask:error=EINVAL:when=1",
            None,
            "cannot block signals: Invalid argument (EINVAL)\n".into(),
        ),
        (
            "wait4:error=ECHILD",
            None,
            "cannot wait for COMMAND: No child processes (ECHILD)\n".into(),
        ),
    ] {
        let args = ["run", "--pids-max", "9", "{}", "--", "sleep", "1000"];
        says(&inject(&scratch, what, path, &args), 125, "", &format!("cgroup-apply: {said}"));
        assert_eq!(scratch.dirs(), [] as [PathBuf; 0], "{what}");
    }
    // A filter that hides clone3, as older engines have it: COMMAND is moved in before it starts.
    let args = ["run", "--pids-max", "9", "{}", "--", "cat", "/proc/self/cgroup"];
    let by_itself = inject(&scratch, "clone3:error=ENOSYS", None, &args);
    assert!(by_itself.stdout.contains(&format!("/{}\n", scratch.name)), "{by_itself:?}");
    assert_eq!(by_itself, scratch.run(&args));
}

#[test]
fn a_cpuset_that_cannot_be_filled_is_named() {
    need!(root() && installed("strace") && controller("cpuset"));
    if !on_v1("cpuset") {
        return; // only there a new one is empty
    }
    let scratch = Scratch::new("fill");
    let file = scratch.dir("cpuset").join("cpuset.cpus").display().to_string();
    let args = ["create", "--cpuset-cpus", "0", "{}"];
    let outcome = inject(&scratch, "write:error=EACCES", Some(&file), &args);
    let said = format!(
        "cgroup-apply: cannot fill '{file}' from the cgroup above: Permission denied (EACCES)\n{}  \
         hint: run as root, or in a cgroup that is delegated to you\n",
        undone(&["cpuset"])
    );
    says(&outcome, 1, "", &said);

    // Made by somebody who does not know that a new cpuset is empty.
    let dir = scratch.dir("cpuset");
    fs::create_dir(&dir).unwrap();
    let shown = dir.display();
    for exec in [&["run"][..], &["run", "--exec"]] {
        let outcome = scratch.run(&[exec, &["{}", "--", "echo", "started"]].concat());
        let undone = match (exec.len(), v2().is_some()) {
            (1, _) => String::new(), // told by the child, without whom the supervisor goes on
            (_, true) => "  undone: 2 changes; the cgroups are as they were\n".into(),
            (_, false) => undone(&[]),
        };
        let said = format!(
            "cgroup-apply: cannot join '{shown}': No space left on device (ENOSPC)\n{undone}  \
             hint: '{shown}/cpuset.cpus' and 'cpuset.mems' must not be empty\n"
        );
        says(&outcome, 125, "", &said);
        assert_eq!(scratch.dirs(), std::slice::from_ref(&dir));
    }
}

#[test]
fn on_v1_a_realtime_process_needs_its_share() {
    need!(root() && controller("cpu"));
    let scratch = Scratch::new("realtime");
    let dir = scratch.dir("cpu");
    // Only kernels with CONFIG_RT_GROUP_SCHED have the file, and only on v1.
    if !home("cpu").unwrap().join("cpu.rt_runtime_us").exists() {
        return;
    }
    // Who is in a cgroup without a share, as that of a container, can start none to begin with.
    let realtime = || outcome(Command::new("chrt").args(["--fifo", "1", "true"])).code == 0;
    need!(realtime());
    let mut command = Command::new("chrt");
    command.args(["--fifo", "1"]).arg(tool_path("cgroup-apply"));
    command.args(["run", "--exec", "--cpu-max", "50%", &scratch.name, "--", "echo", "started"]);
    let undone = if v2().is_some() { 3 } else { 2 };
    let said = format!(
        "cgroup-apply: cannot join '{0}': Invalid argument (EINVAL)\n  \
         undone: {undone} changes; the cgroups are as they were\n  \
         hint: a process of realtime priority needs more than 0 in '{0}/cpu.rt_runtime_us'\n",
        dir.display()
    );
    says(&outcome(&mut command), 125, "", &said);
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn a_process_outside_of_the_container_that_is_in_the_way_is_named() {
    need!(root());
    let Some((mount, controllers)) = v2().filter(|(_, controllers)| !controllers.is_empty()) else {
        return; // on v1 nothing is handed on
    };
    let (controller, setting) = match controllers.iter().find(|name| *name == "hugetlb") {
        Some(_) => ("hugetlb", "hugetlb.2MB.max=0"),
        None => ("pids", "pids.max=9"),
    };
    let scratch = Scratch::new("outside");
    let shown = mount.display();
    // Below the root of a cgroup namespace, in which unshare itself stays, and of another PID namespace.
    let line = format!(
        "umount {shown} && mount -t cgroup2 cgroup2 {shown} && exec {} create --set {setting} x",
        tool_path("cgroup-apply").display()
    );
    let unshare = ["unshare", "--cgroup", "--pid", "--fork", "--mount-proc", "sh", "-c", &line];
    let said = format!(
        "cgroup-apply: cannot enable {controller} below '{shown}': Device or resource busy (EBUSY)\n  \
         hint: 0 in '{shown}/cgroup.procs' is a process outside of this container, such as its supervisor; \
         move it from outside: 'cgroup-apply add NAME PID'\n"
    );
    let args = [&["run", "--set", setting, "{}", "--"], &unshare[..]].concat();
    says(&scratch.run(&args), 1, "", &said);
}

#[test]
fn a_controller_that_cannot_be_handed_on_is_named() {
    need!(root() && installed("strace"));
    let Some((mount, controllers)) = v2().filter(|(_, controllers)| !controllers.is_empty()) else {
        return; // on v1 nothing is handed on
    };
    let (controller, setting) = match controllers.iter().find(|name| *name == "hugetlb") {
        Some(_) => ("hugetlb", "hugetlb.2MB.max=0"),
        None => ("pids", "pids.max=9"),
    };
    let scratch = Scratch::new("enable");
    let dir = mount.join(&scratch.name);
    let shown = dir.display();
    let file = format!("{shown}/cgroup.subtree_control");
    for (errno, text, hint) in [
        (
            "ENOENT",
            "No such file or directory",
            format!("'{shown}/cgroup.controllers' says which ones it has itself"),
        ),
        (
            "EBUSY",
            "Device or resource busy",
            format!("'{shown}/cgroup.procs' must be empty: move its processes below it"),
        ),
        (
            "EROFS",
            "Read-only file system",
            "cgroups are mounted read-only here, as inside most containers".into(),
        ),
    ] {
        let what = format!("write:error={errno}");
        let args = ["create", "--set", setting, "{}/x"];
        let said = format!(
            "cgroup-apply: cannot enable {controller} below '{shown}': {text} ({errno})\n  \
             undone: 1 change; the cgroups are as they were\n  hint: {hint}\n"
        );
        says(&inject(&scratch, &what, Some(&file), &args), 1, "", &said);
        assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
    }
}

#[test]
fn a_value_that_is_not_in_effect_is_an_error_although_the_kernel_took_it() {
    need!(root() && controller("pids"));
    let scratch = Scratch::new("no-effect");
    scratch.run(&["create", "--pids-max", "9", "{}"]).success();
    let host = Host::new();
    let file = scratch.dir("pids").join("pids.max").display().to_string();
    host.sh(&format!("mount --bind /dev/null {file}")).success();
    let args = ["run", "--pids-max", "8", &scratch.name, "--", "echo", "started"];
    let said = format!(
        "cgroup-apply: cannot limit pids.max: '8' was written to '{file}', which reads ''\n  \
         undone: 1 change; the cgroups are as they were\n"
    );
    says(&host.run("cgroup-apply", &args), 125, "", &said);
}

#[test]
fn a_cgroup_that_is_just_being_removed_is_made_anew() {
    need!(root() && installed("strace"));
    let scratch = Scratch::new("anew");
    let file = if v2().is_some() { "cgroup.type" } else { "notify_on_release" };
    let file = anchor().join(&scratch.name).join(file).display().to_string();
    let args = ["run", "{}", "--", "echo", "ran"];
    says(&inject(&scratch, "openat:error=ENODEV:when=1", Some(&file), &args), 0, "ran\n", "");
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn a_cgroup_that_a_run_holds_is_not_deleted() {
    need!(root());
    let scratch = Scratch::new("held");
    scratch.run(&["create", "{}"]).success();
    let dir = scratch.dirs().remove(0);
    let v1 = dir.join("notify_on_release");
    let file = if v1.exists() { v1 } else { dir.join("cgroup.type") };
    let held = fs::File::open(file).unwrap();
    rustix::fs::fcntl_lock(&held, rustix::fs::FlockOperation::LockShared).unwrap();
    let said = format!(
        "cgroup-apply: cannot delete '{}': a run is using it\n  hint: --kill ends it first\n",
        scratch.name
    );
    says(&scratch.run(&["delete", "{}"]), 1, "", &said);
    drop(held);
    says(&scratch.run(&["delete", "{}"]), 0, "", "");
}

#[test]
fn a_cgroup_that_cannot_be_kept_is_named() {
    need!(root() && installed("strace"));
    let scratch = Scratch::new("kept");
    let running = scratch.start(&[], "echo ready; read line");
    let dir = scratch.dirs().remove(0);
    let outcome = inject(&scratch, "chmod:error=EPERM", None, &["create", "{}"]);
    let said =
        format!("cgroup-apply: cannot keep '{}': Operation not permitted (EPERM)\n", dir.display());
    says(&outcome, 1, "", &said);
    running.finish();
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

#[test]
fn what_does_not_come_to_pass_is_not_waited_for_without_end() {
    need!(root() && installed("strace"));
    let waits = |label: &str,
                 frozen: bool,
                 verb: &str,
                 what: &[&str],
                 said: &dyn Fn(u32) -> String,
                 code: i32| {
        let scratch = Scratch::new(label);
        let running = scratch.start(&[], "echo ready; exec sleep 1000");
        let pid = fs::read_to_string(scratch.dirs()[0].join("cgroup.procs")).unwrap();
        if frozen {
            scratch.run(&["freeze", "{}"]).success();
        }
        let mut strace = Command::new("strace");
        strace.args(["-qq", "--output=/dev/null", "--trace=write,kill"]);
        strace.args(what.iter().map(|what| format!("--inject={what}")));
        // What is said is written, too: only to these files nothing is.
        for file in ["cgroup.freeze", "cgroup.kill", "freezer.state"] {
            strace.arg("-P").arg(scratch.dirs()[0].join(file));
        }
        let outcome = outcome(strace.arg(tool_path("cgroup-apply")).args([verb, &scratch.name]));
        let said = said(pid.trim().parse().unwrap()).replace("{}", &scratch.name);
        says(&outcome, code, "", &format!("cgroup-apply: {said}"));
        scratch.run(&["thaw", "{}"]).success();
        scratch.run(&["kill", "{}"]).success();
        running.finish();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let said = |_| {
                "cannot freeze '{}': not all of it stands still after 10 s\n  undone: it goes on\n"
                    .into()
            };
            waits("freezes-not", false, "freeze", &["write:retval=1"], &said, 1);
        });
        scope.spawn(|| {
            let said = |_| "cannot thaw '{}': it does not go on after 10 s\n".into();
            waits("thaws-not", true, "thaw", &["write:retval=1"], &said, 1);
        });
    });
}

#[test]
fn where_nothing_can_freeze_it_is_said() {
    need!(root() && controller("pids"));
    if !on_v1("pids") {
        return; // v2 can
    }
    let scratch = Scratch::new("no-freezer");
    // On a host with this one hierarchy.
    let host = Host::new();
    let pids = home("pids").unwrap().display().to_string();
    host.sh(&format!(
        "awk '$5 != \"{pids}\" && / - cgroup2? / {{ print $5 }}' /proc/self/mountinfo | xargs umount"
    ))
    .success();
    host.run("cgroup-apply", &["create", &scratch.name]).success();
    let said = format!(
        "cgroup-apply: cannot freeze '{}': it is in no hierarchy that can freeze\n  \
         hint: cgroup v2 can, and on v1 the controller 'freezer'\n",
        scratch.name
    );
    says(&host.run("cgroup-apply", &["freeze", &scratch.name]), 1, "", &said);
}

#[test]
fn a_process_out_of_the_freezers_reach_is_named() {
    need!(root() && controller("pids"));
    if !on_v1("pids") {
        return; // one hierarchy reaches all
    }
    let scratch = Scratch::new("reach");
    scratch.run(&["create", "--pids-max", "9", "{}"]).success();
    let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = sleeper.id();
    fs::write(scratch.dir("pids").join("cgroup.procs"), pid.to_string()).unwrap();
    let outcome = scratch.run(&["freeze", "{}"]);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let said = format!(
        "cgroup-apply: cannot freeze '{}': 1 process ({pid}) in it, but not in '{}'\n  \
         hint: 'cgroup-apply add' puts a process into all parts of the cgroup\n",
        scratch.name,
        anchor().join(&scratch.name).display()
    );
    says(&outcome, 1, "", &said);
}

#[test]
fn what_this_version_or_program_cannot_do_is_refused() {
    need!(root() && controller("memory"));
    let scratch = Scratch::new("cannot");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resources.json");
    fs::write(&file, r#"{"devices": [{"allow": false}]}"#).unwrap();
    let said = "cgroup-apply: cannot limit devices: cgroup-apply does not do that\n  hint: --best-effort leaves it out\n";
    let devices = ["create", "--resources", file.to_str().unwrap(), "{}"];
    says(&scratch.run(&devices), 1, "", said);
    if on_v1("memory") {
        let said = "cgroup-apply: cannot limit memory.high: the controller 'memory' is on cgroup v1 here, which has nothing like it\n";
        says(&scratch.run(&["create", "--memory-high", "1G", "{}"]), 1, "", said);
        let said = "cgroup-apply: cannot limit memory.swap.max without --memory-max: cgroup v1 limits the sum of both\n";
        says(&scratch.run(&["create", "--memory-swap-max", "1G", "{}"]), 2, "", said);
    }
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = crate::support::tool("cgroup-apply");
    let said = "cgroup-apply: cannot write to standard output: No space left on device (ENOSPC)\n";
    says(&outcome_to(command.arg("info"), full.try_clone().unwrap()), 1, "", said);
    let mut command = crate::support::tool("cgroup-apply");
    let said = format!("{said}{}", undone(&[]));
    says(&outcome_to(command.args(["create", &scratch.name]), full), 1, "", &said);
    assert_eq!(scratch.dirs(), [] as [PathBuf; 0]);
}

/// Run `command` to its end with `stdout` as its standard output.
fn outcome_to(command: &mut Command, stdout: fs::File) -> Outcome {
    let command = command.stdout(stdout).stderr(std::process::Stdio::piped());
    command.spawn().unwrap().wait_with_output().unwrap().into()
}
