//! The host that a section runs on: namespaces and a directory of its own, gone when it ends.

use crate::{
    error::{Attempt as _, Error},
    machine,
    measure::{Runner, words},
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Where programs are looked up, here and in what is run.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's engine is reached through this, if it is reached.
const DOCKER: &str = "/run/docker.sock";

/// The network namespace that containers join.
pub(crate) const NETNS: &str = "bench";

/// A network without links, an empty `/run`, a private copy of `/etc`, and a directory below `target/bench`.
///
/// Nothing of it is left when the process has ended, however it ends, except that directory after SIGKILL.
pub(crate) struct Host {
    pub(crate) runner: Runner,
    cgroups: Cgroups,
    mounts: Mounts,
    scratch: TempDir,
}

impl Host {
    /// Make it, and move this process to it.
    pub(crate) fn new(needs_tarball: bool) -> Result<Self, Error> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::new("cannot measure: only root may make containers; use sudo"));
        }
        let results = results()?;
        let scratch = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&results)
            .attempt(|| format!("cannot make a directory in '{}'", results.display()))?;
        let runner = Runner::new(scratch.path())?;
        let host = Self {
            runner,
            cgroups: Cgroups::new(),
            mounts: Mounts(scratch.path().into()),
            scratch,
        };
        if needs_tarball {
            host.make_tarball()?; // as long as there is a network
        }
        host.leave_the_machine()?;
        host.compile("peak")?;
        Ok(host)
    }

    /// Debian's smallest tree with sysbench, as an archive: made once, and kept.
    fn make_tarball(&self) -> Result<(), Error> {
        let tarball = tarball()?;
        if tarball.exists() {
            return Ok(());
        }
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let suite =
            suite.ok_or_else(|| Error::new("cannot tell the suite: no VERSION_CODENAME"))?;
        let part = tarball.with_file_name("rootfs.part.tar.gz");
        let line = format!("mmdebstrap --quiet --variant=minbase --include=sysbench {suite}");
        let mut argv = words(&line);
        argv.push(part.display().to_string());
        self.runner.must_succeed(&argv)?;
        fs::rename(&part, &tarball).attempt(|| format!("cannot name '{}'", tarball.display()))
    }

    fn leave_the_machine(&self) -> Result<(), Error> {
        let attempt = || "cannot make a host of its own".to_owned();
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).attempt(attempt)?;
        let none = None::<&Path>;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).attempt(attempt)?;
        let docker = self.scratch().join("docker.sock");
        let reached = Path::new(DOCKER).exists();
        if reached {
            fs::write(&docker, "").attempt(attempt)?;
            mount(Some(DOCKER), &docker, none, MsFlags::MS_BIND, none).attempt(attempt)?;
        }
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).attempt(attempt)?;
        if reached {
            fs::write(DOCKER, "").attempt(attempt)?;
            mount(Some(&docker), DOCKER, none, MsFlags::MS_BIND, none).attempt(attempt)?;
            umount2(&docker, MntFlags::MNT_DETACH).attempt(attempt)?;
        }
        fs::create_dir("/run/netns").attempt(attempt)?;
        fs::create_dir("/run/etc").attempt(attempt)?;
        self.runner.must_succeed(&words("cp --archive /etc/. /run/etc"))?;
        mount(Some("/run/etc"), "/etc", none, MsFlags::MS_BIND, none).attempt(attempt)?;
        self.runner.must_succeed(&words("ip link set lo up"))?;
        Ok(())
    }

    /// Make the network that containers join.
    pub(crate) fn make_network(&self) -> Result<(), Error> {
        let up = format!("{} up --dns 192.0.2.53 {NETNS}", tool("netns-setup")?);
        self.runner.must_succeed(&words(&up)).map(drop)
    }

    /// crun refuses cgroup v1 with v2 beside it: from here on there is no v2 then.
    pub(crate) fn without_hybrid_cgroups() -> Result<(), Error> {
        let unified = Path::new("/sys/fs/cgroup/unified");
        if machine::cgroups() == "v1 with v2 beside it" && unified.exists() {
            umount2(unified, MntFlags::MNT_DETACH)
                .attempt(|| format!("cannot unmount '{}'", unified.display()))?;
        }
        Ok(())
    }

    /// Remove the directory, and say so if it cannot be.
    pub(crate) fn leave(self) -> Result<(), Error> {
        let shown = self.scratch().display().to_string();
        drop(self.mounts);
        self.scratch.close().attempt(|| format!("cannot remove '{shown}'"))
    }

    /// The directory that is gone at the end.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The beginning of the name of each cgroup that is made here; what is left of them is removed at the end.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroups.prefix
    }

    /// A program of the benchmarks' own, compiled before.
    pub(crate) fn floor(&self, name: &str) -> PathBuf {
        self.scratch().join(name)
    }

    /// Compile one, without shared libraries.
    pub(crate) fn compile(&self, name: &str) -> Result<PathBuf, Error> {
        let (source, program) =
            (top().join(format!("tests/benches/floors/{name}.c")), self.floor(name));
        let mut argv = words("cc -O2 -static -I");
        let paths = [self.scratch(), Path::new("-o"), &program, &source];
        argv.extend(paths.map(|path| path.display().to_string()));
        self.runner.must_succeed(&argv)?;
        Ok(program)
    }

    /// A root file system with these programs of the host and their libraries: the same bytes inside and outside.
    pub(crate) fn rootfs(&self, programs: &[&str]) -> Result<PathBuf, Error> {
        let tree = self.scratch().join("rootfs");
        let attempt = || format!("cannot make '{}'", tree.display());
        for dir in [
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
            "dev",
            "etc",
            "proc",
            "root",
            "run",
            "sys",
            "tmp",
        ] {
            fs::create_dir_all(tree.join(dir)).attempt(attempt)?;
        }
        for dir in ["bin", "sbin", "lib", "lib64"] {
            match fs::read_link(Path::new("/").join(dir)) {
                Ok(target) => symlink(target, tree.join(dir)).attempt(attempt)?,
                Err(_) => fs::create_dir_all(tree.join(dir)).attempt(attempt)?,
            }
        }
        let own = ["passwd", "group", "hosts", "hostname", "resolv.conf", "os-release"];
        for file in own {
            let content = fs::read(Path::new("/etc").join(file)).unwrap_or_default();
            fs::write(tree.join("etc").join(file), content).attempt(attempt)?;
        }
        let mut copy = words("cp --dereference --parents --target-directory");
        copy.push(tree.display().to_string());
        for program in programs {
            let program = Self::find(program)
                .ok_or_else(|| Error::new(format!("cannot find '{program}' in PATH")))?;
            let program = program.display().to_string();
            let libraries = self.runner.output(&["ldd".into(), program.clone()])?;
            copy.push(program);
            copy.extend(
                libraries
                    .split_whitespace()
                    .filter(|word| word.starts_with('/'))
                    .map(str::to_owned),
            );
        }
        self.runner.must_succeed(&copy)?;
        Ok(tree)
    }

    /// The path of a program, if it is installed.
    pub(crate) fn find(program: &str) -> Option<PathBuf> {
        let dirs = PATH.trim_start_matches("PATH=").split(':');
        let mut found = dirs.map(|dir| Path::new(dir).join(program));
        if program.contains('/') { Some(program.into()) } else { found.find(|path| path.is_file()) }
    }
}

/// The repository's top directory.
pub(crate) fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Where the results go: `target/bench`.
pub(crate) fn results() -> Result<PathBuf, Error> {
    let dir = top().join("target/bench");
    let attempt = || format!("cannot make '{}'", dir.display());
    fs::create_dir_all(&dir).attempt(attempt)?;
    dir.canonicalize().attempt(attempt)
}

/// The archive that is unpacked.
pub(crate) fn tarball() -> Result<PathBuf, Error> {
    Ok(results()?.join("rootfs.tar.gz"))
}

/// The path of one of the four tools: in `$BIN_DIR`, or else where `make build` puts it.
pub(crate) fn tool(name: &str) -> Result<String, Error> {
    let dir = env::var_os("BIN_DIR").map_or_else(|| top().join("target/release"), PathBuf::from);
    let path = dir.join(name);
    let path = path.canonicalize().attempt(|| format!("cannot find '{}'", path.display()))?;
    Ok(path.display().to_string())
}

/// What tools have mounted below a directory and left. Dropping this unmounts it.
struct Mounts(PathBuf);

impl Drop for Mounts {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| Path::new(point).starts_with(&self.0)) {
            umount2(point, MntFlags::MNT_DETACH).ok(); // it may have gone with the one above it
        }
    }
}

/// Cgroups whose names begin alike. Dropping this removes them from every hierarchy.
struct Cgroups {
    prefix: String,
}

impl Cgroups {
    fn new() -> Self {
        Self { prefix: format!("bench-{}", std::process::id()) }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = subdirectories(root).chain([root.to_path_buf()]);
        for hierarchy in hierarchies {
            for cgroup in subdirectories(&hierarchy) {
                if cgroup
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&self.prefix))
                {
                    drop(remove(&cgroup)); // nothing more can be done about it
                }
            }
        }
    }
}

fn subdirectories(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink())
}

fn remove(cgroup: &Path) -> io::Result<()> {
    for below in subdirectories(cgroup) {
        remove(&below)?;
    }
    fs::remove_dir(cgroup)
}
