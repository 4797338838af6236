//! rootfs-fetch from outside: what is killed leaves nothing.

use crate::{
    fixture::sha256,
    http_server::{Reply, Server},
    rootfs_apt::tree_with_slow_apt,
    rootfs_fetch::{Archive, Place, failed},
    support::{installed, root, sh, shell_status, tool},
};
use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

/// A process that ends with the value, at the latest.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        assert_eq!(shell_status(self.0.wait().unwrap()), 137);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Start the tool here with its stderr in a file, and wait until that has `sign`.
fn start(place: &Place, args: &[&str], sign: &str) -> Running {
    let log = place.path("log");
    let mut command = tool("rootfs-fetch");
    command.current_dir(&place.dir).args(args).stdout(Stdio::null());
    let mut child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    while !fs::read_to_string(&log).unwrap().contains(sign) {
        assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&log).unwrap());
        thread::sleep(Duration::from_millis(10));
    }
    Running(child)
}

/// Processes whose root directory or open files are in `place`.
fn processes_in(place: &Place) -> Vec<PathBuf> {
    let dirs = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let in_place = |dir: &PathBuf| {
        ["root", "cwd"].iter().any(|link| {
            fs::read_link(dir.join(link)).is_ok_and(|path| path.starts_with(&place.dir))
        })
    };
    dirs.filter(in_place).collect()
}

#[test]
fn killed_while_apt_runs_it_leaves_no_process_and_no_mount_and_the_next_run_works() {
    need!(root() && installed("busybox"));
    let place = Place::new();
    tree_with_slow_apt(&place);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut child = start(&place, &["--from", "slow.tar", "--install", "x", "rootfs"], "started");
    assert!(processes_in(&place).len() >= 3);
    child.kill();
    // They were killed with it; the kernel may need a moment to be done with them.
    while !processes_in(&place).is_empty() {
        thread::sleep(Duration::from_millis(10));
    }
    let in_place = place.dir.to_str().unwrap();
    assert!(!mounts.contains(in_place));
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(in_place));
    assert_eq!(place.names(), [".rootfs.partial", "log", "slow.tar"]);
    place.fetch(&["--from", "slow.tar", "--no-install", "rootfs"]).success();
    assert_eq!(place.names(), ["log", "rootfs", "slow.tar"]);
    assert!(!place.path("rootfs/usr/sbin/policy-rc.d").exists());
}

#[test]
fn killed_while_it_installs_in_a_complete_tree_the_next_run_takes_back_what_it_put_there() {
    need!(root() && installed("busybox"));
    let place = Place::new();
    tree_with_slow_apt(&place);
    place.fetch(&["--from", "slow.tar", "--no-install", "rootfs"]).success();
    let mut child = start(&place, &["--install", "x", "rootfs"], "started");
    child.kill();
    let placed = [place.path("rootfs/usr/sbin/policy-rc.d"), place.path("rootfs/etc/resolv.conf")];
    assert!(placed.iter().all(|path| path.exists()));
    fs::write(place.path("rootfs/usr/bin/apt-get"), "#!/bin/sh\nexit 0\n").unwrap();
    place.fetch(&["--no-install", "rootfs"]).success();
    assert!(!placed.iter().any(|path| path.exists()));
}

#[test]
fn killed_while_it_unpacks_it_leaves_no_dest_and_the_next_run_works() {
    need!(root());
    let (place, archive) =
        (Place::new(), Archive::new().file("etc/motd", 0o644, b"hello\n").finish());
    let mut command = tool("rootfs-fetch");
    command.current_dir(&place.dir).args(["--from", "-", "--no-install", "rootfs"]);
    let mut child = Running(command.stdin(Stdio::piped()).spawn().unwrap());
    // The archive's end is held back, so it waits in the middle.
    child.0.stdin.as_mut().unwrap().write_all(&archive[..2560]).unwrap();
    while !place.path(".rootfs.partial/etc").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    // A second run keeps off meanwhile.
    let busy = "\
rootfs-fetch: cannot lock '.rootfs.partial': Try again (EAGAIN)
  hint: another rootfs-fetch makes this tree now
";
    assert_eq!(place.unpack(&archive), failed(1, busy));
    child.kill();
    assert_eq!(place.names(), [".rootfs.partial", "a.tar"]);
    place.unpack(&archive).success();
    assert_eq!(place.names(), ["a.tar", "rootfs"]);
}

/// Kill a whole run, of download, unpacking and apt, after `moment`, and give what is wrong then.
fn killed_after(moment: Duration, place: &Place, url: &str, sum: &str) -> Option<String> {
    let args = ["--cache-dir", "cache", "--from", url, "--sha256", sum, "--install", "x", "rootfs"];
    let mut command = tool("rootfs-fetch");
    command.current_dir(&place.dir).args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Running(command.spawn().unwrap());
    thread::sleep(moment);
    drop(child.0.kill()); // it may have ended
    child.0.wait().unwrap();
    while !processes_in(place).is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    let complete = place.path("rootfs/etc/installed").exists();
    if place.path("rootfs").exists() && !complete {
        return Some(format!("a part of a tree after {moment:?}"));
    }
    if fs::read_to_string("/proc/self/mountinfo").unwrap().contains(place.dir.to_str().unwrap()) {
        return Some(format!("a mount after {moment:?}"));
    }
    let again = place.fetch(&args[2..]);
    if again.code != 0 || place.names() != ["cache", "rootfs"] {
        return Some(format!("after {moment:?}: {again:?} {:?}", place.names()));
    }
    let placed = ["usr/sbin/policy-rc.d", "etc/resolv.conf"];
    let left = placed.iter().find(|path| place.path("rootfs").join(path).exists());
    left.map(|left| format!("'{left}' after {moment:?}"))
}

#[test]
fn killed_at_any_of_50_moments_it_leaves_dest_absent_or_complete_and_the_next_run_works() {
    need!(root() && installed("busybox"));
    let place = Place::new();
    tree_with_slow_apt(&place);
    let apt = "#!/bin/sh\nsleep 0.03; [ \"$1\" != install ] || echo done >/etc/half; sleep 0.03; \
        [ \"$1\" != clean ] || mv /etc/half /etc/installed\n";
    fs::create_dir_all(place.path("t/usr/bin")).unwrap();
    fs::write(place.path("t/usr/bin/apt-get"), apt).unwrap();
    let status = "Package: x\nStatus: install ok installed\n";
    fs::create_dir_all(place.path("t/var/lib/dpkg")).unwrap();
    fs::write(place.path("t/var/lib/dpkg/status"), status).unwrap();
    sh(&format!(
        "cd '{}' && chmod 755 t/usr/bin/apt-get && tar -rf slow.tar -C t . && gzip -1 slow.tar",
        place.dir.display()
    ))
    .success();
    let tarball = fs::read(place.path("slow.tar.gz")).unwrap();
    let sum = sha256(&tarball);
    let server = Server::new([("/x", Reply::Content(tarball))]);
    let url = server.url("/x");
    let whole = std::time::Instant::now();
    let args = ["--from", &url, "--sha256", &sum, "--install", "x", "whole"];
    place.fetch(&args).success();
    let whole = whole.elapsed();
    let wrong: Vec<String> = thread::scope(|scope| {
        let run = |worker: u32| {
            let kill = |moment: u32| {
                let place = Place::new();
                killed_after(whole * moment / 50, &place, &url, &sum)
            };
            (0..50).skip(worker as usize).step_by(2).filter_map(kill).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..2).map(|worker| scope.spawn(move || run(worker))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
