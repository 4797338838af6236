//! ns-spawn from outside: containers of ordinary users.

use crate::{
    ns_spawn::{failure, inside_with, spawn},
    support::{
        Host, busybox_rootfs, outcome, root, sh, shell_status, tool_path, write_busybox_rootfs,
        write_program,
    },
};
use std::{fs, path::Path, process::Command};

#[test]
fn an_unknown_user_is_named_before_anything_is_made() {
    need!(root());
    let shown = busybox_rootfs().display();
    let expected = format!(
        "ns-spawn: no user 'nosuch' in '{shown}/etc/passwd'\n  hint: it has root, nobody\n"
    );
    assert_eq!(inside_with(&["--user", "nosuch"], "true"), failure(125, expected));
}

/// A command as an ordinary user, with nothing of root's, on `host`.
fn as_user(host: &Host, program: &Path) -> Command {
    let mut command = host.command("setpriv");
    command.args([
        "--reuid",
        "12345",
        "--regid",
        "12345",
        "--clear-groups",
        "--inh-caps=-all",
        "--",
    ]);
    command.arg(program);
    command
}

/// A directory that everybody may enter, and the tool where everybody may run it.
fn for_everybody() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("ns-spawn");
    write_program(&fs::read(tool_path("ns-spawn")).unwrap(), &program);
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (dir, program)
}

#[test]
fn check_tells_an_ordinary_user_what_there_is_without_root() {
    need!(root());
    let host = Host::new();
    host.sh("mkdir /run/etc && cp --archive /etc/. /run/etc && mount --bind /run/etc /etc && \
             : >/etc/subuid && : >/etc/subgid")
        .success();
    let (_dir, program) = for_everybody();
    let seen = outcome(as_user(&host, &program).arg("--check")).success().stdout;
    let expected = "\
no   privileges to make namespaces: user 12345 has no CAP_SYS_ADMIN
     hint: run as root; without, ns-spawn makes a user namespace
yes  user namespaces for ordinary users
no   further users for containers without root (subuid): /etc/subuid gives user 12345 none
     hint: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER
";
    assert!(seen.contains(expected), "{seen}");
    host.sh("echo 12345:100000:65536 | tee /etc/subuid >/etc/subgid").success();
    let seen = outcome(as_user(&host, &program).arg("--check")).success().stdout;
    assert!(seen.contains("yes  further users for containers without root (subuid)\n"), "{seen}");
}

#[test]
fn an_ordinary_user_without_ranges_is_root_inside_and_nobody_else() {
    need!(root());
    let host = Host::new();
    host.sh("mkdir /run/etc && cp --archive /etc/. /run/etc && mount --bind /run/etc /etc && \
             : >/etc/subuid && : >/etc/subgid")
        .success();
    let (dir, program) = for_everybody();
    let rootfs = dir.path().join("rootfs");
    write_busybox_rootfs(&rootfs);
    sh(&format!("chown -R 12345:12345 {}", rootfs.display())).success();
    let line = "id -u; cat /proc/self/uid_map; touch /made; cat /proc/1/environ 2>/dev/null || echo hidden; \
                grep CapEff /proc/self/status; ls /sys/class/net; echo x >/dev/null; tty; \
                chown 1 /made 2>/dev/null || echo refused";
    let mut command = as_user(&host, &program);
    command.arg("--root").arg(&rootfs).args(["--", "sh", "-c", line]);
    let seen = outcome(&mut command);
    let expected = "0\n         0      12345          1\nhidden\nCapEff:\t00000000a80425fb\nlo\nnot a tty\nrefused\n";
    assert_eq!(seen.stdout, expected, "{seen:?}");
    let lost = "ns-spawn: only root exists inside, as there are no other users for it: /etc/subuid gives \
                user 12345 none\n";
    assert_eq!(seen.stderr, lost);
    let made = fs::metadata(rootfs.join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 12345);
    // And with everything else: an overlay, binds, a read-only root.
    let mut command = as_user(&host, &program);
    command.arg("--root").arg(&rootfs).args(["--overlay", "--bind", "/etc/os-release:/release"]);
    command.args(["--", "sh", "-c", "cat /release; touch /new"]);
    if crate::support::kernel() < (5, 11) {
        let expected = format!(
            "{lost}ns-spawn: cannot lay an overlay over the root directory: Operation not permitted (EPERM)\n  \
             hint: in a user namespace it takes Linux 5.11\n"
        );
        return assert_eq!(outcome(&mut command), failure(125, expected));
    }
    let release = fs::read_to_string("/etc/os-release").unwrap();
    assert_eq!(outcome(&mut command).success().stdout, release);
    assert!(!rootfs.join("new").exists());
}

#[test]
fn an_ordinary_user_with_ranges_can_install_packages() {
    need!(root());
    need!(crate::support::installed("newuidmap"));
    let host = Host::new();
    host.sh("mkdir /run/etc && cp --archive /etc/. /run/etc && mount --bind /run/etc /etc && \
             echo tester:x:12345:12345::/:/bin/sh >>/etc/passwd && \
             echo tester:700000:65536 >/etc/subuid && cp /etc/subuid /etc/subgid")
        .success();
    let (dir, program) = for_everybody();
    let (rootfs, busybox) = (dir.path().join("rootfs"), dir.path().join("busybox"));
    write_busybox_rootfs(&busybox);
    fs::create_dir(&rootfs).unwrap();
    sh(&format!("chown -R 12345:12345 {} {}", rootfs.display(), busybox.display())).success();
    // Unpacked inside, the tree gets the owners that it has inside.
    let mut unpack = as_user(&host, &program);
    unpack.arg("--root").arg(&busybox).arg("--bind").arg(format!("{}:/tree", rootfs.display()));
    let tarball = crate::fixture::debian_tarball();
    let unpacked = "gunzip -c | tar -x -f - -C /tree 2>/dev/null; test -x /tree/usr/bin/apt-get";
    let mut unpack = unpack
        .args(["--", "sh", "-c", unpacked])
        .stdin(fs::File::open(tarball).unwrap())
        .spawn()
        .unwrap();
    assert_eq!(shell_status(unpack.wait().unwrap()), 0);
    // A package of its own: this host's network leads nowhere.
    let line = "mkdir -p /tmp/p/DEBIAN /tmp/p/opt && echo payload >/tmp/p/opt/payload && \
                printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: t <t@t>\\nDescription: t\\n' \
                >/tmp/p/DEBIAN/control && echo 'chown nobody /opt/payload' >/tmp/p/DEBIAN/postinst && \
                sed -i '1i#!/bin/sh' /tmp/p/DEBIAN/postinst && chmod 755 /tmp/p/DEBIAN/postinst && \
                dpkg-deb --build /tmp/p /tmp/p.deb >/dev/null && apt-get install --yes /tmp/p.deb >/dev/null 2>&1; \
                stat -c %U /opt/payload; setpriv --reuid 100 --clear-groups id -u";
    let mut install = as_user(&host, &program);
    install.arg("--root").arg(&rootfs).args(["--", "sh", "-c", line]);
    let seen = outcome(&mut install);
    assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("nobody\n100\n", ""));
}

#[test]
fn where_user_namespaces_are_off_it_says_so() {
    need!(root());
    // In a user namespace of the test's own, in which there may be no further ones.
    let line = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces; {} --userns --root {} -- true",
        tool_path("ns-spawn").display(),
        busybox_rootfs().display()
    );
    let refused =
        outcome(Command::new("unshare").args(["--user", "--map-root-user", "sh", "-c", &line]));
    let expected = "ns-spawn: cannot create the namespaces: No space left on device (ENOSPC)\n  hint: \
                    user.max_user_namespaces is 0; what helps: sysctl user.max_user_namespaces=10000\n";
    assert_eq!(refused, failure(125, expected.into()));
    // And an ordinary user, who gets one without asking.
    let (dir, program) = for_everybody();
    let rootfs = dir.path().join("rootfs");
    write_busybox_rootfs(&rootfs);
    sh(&format!("chown -R 12345:12345 {}", rootfs.display())).success();
    let line = format!(
        "unshare --user sleep 60 & pid=$!; \
         while [ /proc/$pid/ns/user -ef /proc/self/ns/user ]; do sleep 0.01; done; \
         for map in uid_map gid_map; do echo 0 0 20000 >/proc/$pid/$map; done; \
         nsenter --user --preserve-credentials --target $pid sh -c \
         'echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --reuid 12345 --regid 12345 --clear-groups \
          --inh-caps=-all {} --root {} -- true'; code=$?; kill $pid; exit $code",
        program.display(),
        rootfs.display()
    );
    assert_eq!(sh(&line), failure(125, expected.into()));
}

#[test]
fn roots_groups_stay_outside_of_a_user_namespace() {
    need!(root());
    // nsjail had it: where the kernel lets nobody inside drop a group, the caller's would stay.
    let host = Host::new();
    host.sh("mkdir /run/etc && cp --archive /etc/. /run/etc && mount --bind /run/etc /etc && \
             : >/etc/subuid && : >/etc/subgid")
        .success();
    let mut command = host.command("setpriv");
    command.args(["--groups", "5,6,7"]).arg(tool_path("ns-spawn")).arg("--root");
    command.arg(busybox_rootfs()).args([
        "--userns",
        "--",
        "sh",
        "-c",
        "id -G; grep Groups /proc/self/status",
    ]);
    assert_eq!(outcome(&mut command).success().stdout, "0\nGroups:\t \n");
}

#[test]
fn a_user_is_a_name_or_a_number_and_nothing_like_one() {
    need!(root());
    // CVE-2026-30892: the wrong user for what only begins with a number.
    for user in [
        "0x",
        "0 ",
        " 0",
        "-1",
        "+0",
        "4294967295",
        "99999999999",
        "",
        "0:",
        "0:x",
        "0:-1",
        ":0",
        "root:",
    ] {
        let seen =
            outcome(spawn(busybox_rootfs()).arg(format!("--user={user}")).args(["--", "id"]));
        assert_eq!((seen.code, seen.stdout.as_str()), (125, ""), "'{user}': {seen:?}");
        assert!(
            seen.stderr.contains("is no user") || seen.stderr.contains("no user '"),
            "{seen:?}"
        );
    }
    let seen = inside_with(&["--user", "7:8"], "id -u; id -g; id -G").success();
    assert_eq!(seen.stdout, "7\n8\n8\n");
}
