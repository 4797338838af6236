//! ns-spawn from outside: what is mounted in a container.

use crate::{
    ns_spawn::{failure, inside, inside_with, spawn},
    support::{Host, busybox_rootfs, outcome, root, tool, tool_path, write_busybox_rootfs},
};
use std::{fs, path::Path, process::Command};

#[test]
fn what_tells_of_the_host_is_masked_and_its_switches_are_read_only() {
    need!(root());
    let masked = "for p in kcore keys timer_list interrupts; do \
                  [ ! -e /proc/$p ] || [ -c /proc/$p ] || echo $p; done; \
                  for p in /proc/acpi /proc/scsi /sys/firmware; do ls -A $p 2>/dev/null; done";
    assert_eq!(inside(masked).success().stdout, "");
    let switches = "for p in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/default_smp_affinity \
                    /sys/kernel/uevent_seqnum /sys/kernel/mm/ksm/run; do \
                    [ ! -e $p ] || touch $p 2>&1; done; exit 0";
    let written = inside(switches).success().stdout;
    assert!(written.lines().all(|line| line.ends_with("Read-only file system")), "{written}");
    assert!(written.lines().count() >= 3, "{written}");
}

#[test]
fn dev_has_the_standard_nodes_and_links() {
    need!(root());
    let seen = inside(
        "cd /dev; ls; readlink fd; readlink stdin; readlink ptmx; echo x >null; stat -c %a shm",
    )
    .success()
    .stdout;
    let expected = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\n\
                    zero\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n1777\n";
    assert_eq!(seen, expected);
}

#[test]
fn a_read_only_root_cannot_be_written() {
    need!(root());
    let seen = inside_with(&["--read-only"], "touch /x; touch /dev/shm/x && echo tmpfs");
    assert_eq!(seen.stdout, "tmpfs\n");
    assert_eq!(seen.stderr, "touch: /x: Read-only file system\n");
}

#[test]
fn the_host_keeps_no_mount_of_a_container() {
    need!(root());
    let host = Host::new();
    let dir = rootfs_with_names();
    let mounts = || host.sh("cat /proc/self/mountinfo").success().stdout;
    let before = mounts();
    let run = |options: &str, command: &str| {
        let program = tool_path("ns-spawn");
        let line =
            format!("{} --root {} {options} -- {command}", program.display(), dir.path().display());
        host.sh(&line)
    };
    for options in ["", "--overlay", "--tmpfs /mnt/x", "--read-only"] {
        run(options, "true").success();
        assert_eq!(mounts(), before, "{options}");
    }
    // What is mounted inside does not get out by what was bound from outside either.
    let source = tempfile::tempdir().unwrap();
    fs::create_dir(source.path().join("sub")).unwrap();
    let bind = format!("--privileged --bind {}:/mnt/x", source.path().display());
    let inside = "sh -c 'for at in /mnt/x/sub /mnt/x /mnt /dev/null; do mount --bind /etc/passwd $at || \
                  mount -t tmpfs tmpfs $at; done 2>/dev/null; grep -c -e /mnt -e passwd /proc/self/mountinfo'";
    assert_eq!(run(&bind, inside).success().stdout, "5\n");
    assert_eq!(mounts(), before);
    assert_eq!(run("", "sh -c 'kill -KILL $$'").code, 137);
    let killed = format!(
        "{} --root {} -- sleep 60 & sleep 0.2; kill -KILL $!; wait $!; echo $?",
        tool_path("ns-spawn").display(),
        dir.path().display()
    );
    assert_eq!(host.sh(&killed).stdout, "137\n");
    assert_eq!(mounts(), before);
}

/// A root file system that has what a distribution's has in /etc.
pub(crate) fn rootfs_with_names() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_busybox_rootfs(dir.path());
    fs::write(dir.path().join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::write(dir.path().join("etc/hostname"), "image\n").unwrap();
    dir
}

#[test]
fn no_mount_of_the_host_is_in_the_container_whatever_its_root_is_made_of() {
    need!(root());
    let dir = rootfs_with_names();
    let shown = dir.path().to_str().unwrap();
    let overlay = tempfile::tempdir().unwrap();
    let kept = format!("--overlay={}", overlay.path().display());
    for options in [vec![], vec!["--overlay"], vec!["--read-only"], vec![&kept]] {
        let line = "cut -d ' ' -f 4,5 /proc/self/mountinfo; ls /..";
        let seen = outcome(spawn(dir.path()).args(&options).args(["--", "sh", "-c", line]))
            .success()
            .stdout;
        let own = ["/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname"];
        let foreign: Vec<_> = seen
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(from, to)| {
                // It may be on a mount of its own, or '/' itself a part of a file system, as in a container.
                let from = from.trim_end_matches('/');
                let root = *to == "/" && (shown.ends_with(from) || from.ends_with(shown));
                !root && !own.iter().any(|own| to.starts_with(own))
            })
            .collect();
        assert_eq!(foreign, [], "{options:?}");
        let roots = seen.lines().filter(|line| line.ends_with(" /")).count();
        assert_eq!(roots, 1, "{options:?}: {seen}");
    }
}

#[test]
fn the_containers_name_is_in_its_etc() {
    need!(root());
    let dir = rootfs_with_names();
    let line = "cat /etc/hostname; grep box /etc/hosts; ls /dev/hosts";
    let seen = outcome(spawn(dir.path()).args(["--hostname", "box", "--", "sh", "-c", line]));
    assert_eq!(seen.stdout, "box\n127.0.1.1\tbox\n");
    assert_eq!(fs::read_to_string(dir.path().join("etc/hostname")).unwrap(), "image\n");
}

#[test]
fn an_overlay_takes_the_changes() {
    need!(root());
    let dir = rootfs_with_names();
    let line = "echo x >/new; rm /etc/passwd; ls /new";
    assert_eq!(
        outcome(spawn(dir.path()).args(["--overlay", "--", "sh", "-c", line])).success().stdout,
        "/new\n"
    );
    assert!(!dir.path().join("new").exists() && dir.path().join("etc/passwd").exists());
    // With a directory they are kept there.
    let upper = tempfile::tempdir().unwrap();
    let option = format!("--overlay={}", upper.path().display());
    outcome(spawn(dir.path()).args([&option, "--", "sh", "-c", line])).success();
    assert_eq!(fs::read_to_string(upper.path().join("upper/new")).unwrap(), "x\n");
    let again = outcome(spawn(dir.path()).args([&option, "--", "cat", "/new"])).success();
    assert_eq!(again.stdout, "x\n");
    assert!(!dir.path().join("new").exists());
}

#[test]
fn binds_are_as_asked_for_all_the_way_down() {
    need!(root());
    let host = Host::new();
    let (dir, source) = (rootfs_with_names(), tempfile::tempdir().unwrap());
    fs::create_dir(source.path().join("sub")).unwrap();
    let shown = source.path().display();
    host.sh(&format!("mount -t tmpfs tmpfs {shown}/sub && mknod {shown}/sub/zero c 1 5")).success();
    let line = "touch /ro/x /ro/sub/x /rw/x /rw/sub/x; head -c 1 /rw/sub/zero; cat /a/b/file";
    let file = source.path().join("file");
    fs::write(&file, "content\n").unwrap();
    let mut command = host.tool("ns-spawn");
    command.arg("--root").arg(dir.path());
    command.args(["--ro-bind", &format!("{shown}:/ro"), "--bind", &format!("{shown}:/rw")]);
    command.args(["--bind", &format!("{}:/a/b/file", file.display()), "--", "sh", "-c", line]);
    let seen = outcome(&mut command);
    if crate::support::kernel() < (5, 12) {
        let expected = format!(
            "ns-spawn: cannot bind '{shown}' on '/ro': Function not implemented (ENOSYS)\n  \
             hint: it takes Linux 5.12, or 5.8 and no other mounts below\n"
        );
        return assert_eq!(seen, failure(125, expected));
    }
    let refused = "touch: /ro/x: Read-only file system\ntouch: /ro/sub/x: Read-only file system\n\
                   head: /rw/sub/zero: Permission denied\n";
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("content\n", refused));
    assert!(source.path().join("x").exists());
}

#[test]
fn wrong_mounts_are_refused_before_anything_is_made() {
    need!(root());
    let shown = busybox_rootfs().display();
    let cases: [(&[&str], &str); 6] = [
        (&["--bind", "/nosuch"], "cannot open '/nosuch': No such file or directory (ENOENT)"),
        (&["--bind", "etc"], "mount point 'etc' does not begin with '/'"),
        (&["--bind", "/etc:/"], "nothing can be mounted on '/': --root says what is there"),
        (&["--bind", "/dev/null:/x"], "'/dev/null' is a device node: --device takes it"),
        (
            &["--tmpfs", "/x:uid=0"],
            "'uid=0' is no option of --tmpfs; it takes size=, mode= and nr_inodes=",
        ),
        (&["--tmpfs", "/x", "--mask", "/x"], "two mounts are asked for on '/x'"),
    ];
    for (options, message) in cases {
        let mut command = tool("ns-spawn");
        command.args(["--root", &shown.to_string()]).args(options).args(["--", "true"]);
        assert_eq!(outcome(&mut command), failure(125, format!("ns-spawn: {message}\n")));
    }
}

#[test]
fn tmpfs_masks_and_devices_are_where_they_were_asked_for() {
    need!(root());
    let line = "echo x >/scratch/x; stat -c %a /scratch; cat /etc/group; head -c 3 /dev/nothing | wc -c; \
                echo kept >/dev/nothing";
    let options =
        ["--tmpfs", "/scratch:mode=700,size=1m", "--mask", "/etc/group", "--mask", "/nosuch"];
    let device = ["--device", "/dev/zero:/dev/nothing"];
    let dir = rootfs_with_names();
    let seen = outcome(spawn(dir.path()).args(options).args(device).args(["--", "sh", "-c", line]))
        .success();
    assert_eq!(seen.stdout, "700\n3\n");
}

#[test]
fn proc_sys_and_dev_are_as_asked_for() {
    need!(root());
    let mounts = "for p in /proc /sys /dev; do grep \" $p \" /proc/mounts | cut -d ' ' -f 2,4 | cut -d , -f 1; done";
    let seen = inside_with(&["--proc", "ro", "--sys", "rw"], mounts).success().stdout;
    assert_eq!(seen, "/proc ro\n/sys rw\n/dev rw\n");
    let none = "ls -A /proc /sys /dev | wc -l; echo x 2>/dev/null >/dev/null || echo no";
    let seen =
        inside_with(&["--proc", "none", "--sys", "none", "--dev", "none"], none).success().stdout;
    assert!(seen.starts_with("5\n"), "{seen}"); // the three names and what parts them
    let refused = inside_with(&["--dev", "none", "--console", "pty"], "true");
    assert_eq!(
        refused,
        failure(125, "ns-spawn: a pty takes a /dev of the container's own\n".into())
    );
}

#[test]
fn a_host_whose_device_nodes_are_something_else_is_refused() {
    need!(root());
    let host = Host::new();
    let dir = rootfs_with_names();
    host.sh("mount --bind /dev/null /dev/zero").success();
    let line =
        format!("{} --root {} -- true", tool_path("ns-spawn").display(), dir.path().display());
    let refused = "ns-spawn: '/dev/zero' is not the character device 1:5\n";
    assert_eq!(host.sh(&line), failure(125, refused.into()));
    host.sh("umount /dev/zero; mount --bind /etc/passwd /dev/full").success();
    let refused = "ns-spawn: '/dev/full' is not the character device 1:7\n";
    assert_eq!(host.sh(&line), failure(125, refused.into()));
}

#[test]
fn on_a_kernel_without_mount_setattr_it_is_as_safe_or_says_no() {
    need!(root());
    need!(crate::support::installed("strace"));
    let traced = |rootfs: &Path, line: &str| {
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "inject=mount_setattr:error=ENOSYS",
            "--",
        ]);
        command.arg(tool_path("ns-spawn")).arg("--root").arg(rootfs).args(["--", "sh", "-c", line]);
        outcome(&mut command)
    };
    let line =
        "cd /tmp; mknod zero c 1 5; head -c 1 zero; rm zero; touch /proc/sys/kernel/hostname";
    let seen = traced(busybox_rootfs(), line);
    let refused = "head: zero: Permission denied\n\
                   touch: /proc/sys/kernel/hostname: Read-only file system\n";
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("", refused));
    // What lies below would stay as it is.
    let host = Host::new();
    let dir = rootfs_with_names();
    host.sh(&format!("mount -t tmpfs tmpfs {}/mnt", dir.path().display())).success();
    let line = format!(
        "strace -f -qq -o /dev/null -e inject=mount_setattr:error=ENOSYS -- {} --root {} -- true",
        tool_path("ns-spawn").display(),
        dir.path().display()
    );
    let expected = "ns-spawn: cannot set the attributes of the root directory: Function not implemented (ENOSYS)\n  \
                    hint: it takes Linux 5.12, or 5.8 and no other mounts below\n";
    assert_eq!(host.sh(&line), failure(125, expected.into()));
}
