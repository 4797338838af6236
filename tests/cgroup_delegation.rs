//! cgroup-apply from outside: where it is allowed to work, by rights, by delegation and by the rules of cgroup v2.

use crate::{
    cgroup_apply::{Scratch, Sleeper, anchor, eventually, says, v2},
    support::{outcome, root},
};
use std::fs;

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
