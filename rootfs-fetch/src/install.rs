//! Programs that work on a tree, apt above all, in mount and PID namespaces of their own.
//!
//! This program is started anew as process 1 of those namespaces. When it ends, and it ends when the first
//! one does, whatever ends that, the kernel kills all other processes there and takes the mounts away:
//! nothing stays mounted or running.

use crate::{
    error::{Attempt as _, Error, say},
    http,
    sources::{LIST, Sources, System},
    steps::proxies,
};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::chroot,
};
use rustix::{
    fd::{AsRawFd as _, OwnedFd},
    fs::{Mode, OFlags, open},
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, Permissions},
    io::{self, BufRead as _, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{
            fs::{PermissionsExt as _, symlink},
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::Duration,
};

/// The name by which this program knows that it is the one in the new namespaces.
const STAGE: &str = "rootfs-fetch: in its namespaces";

/// The options of each apt-get command. It shows its progress on a terminal, and is quiet elsewhere, by itself.
const APT_OPTIONS: [&str; 8] = [
    "--yes",
    "--no-install-recommends",
    "-o=Acquire::Retries=3",
    "-o=APT::Update::Error-Mode=any",
    "-o=DPkg::Lock::Timeout=60",
    "-o=Dpkg::Use-Pty=0",
    "-o=Dpkg::Options::=--force-confold",
    "-o=Dpkg::Options::=--force-unsafe-io",
];

/// An apt-get command: `verb` is install, update, clean.
pub(crate) fn apt_get(verb: &'static str, sources: &Sources, packages: &[String]) -> Vec<String> {
    let words = ["apt-get", verb].into_iter().chain(APT_OPTIONS).map(str::to_owned);
    words.chain(sources.apt_options()).chain(packages.iter().cloned()).collect()
}

/// In a file that is put into the tree while packages are installed. One that a killed run has left is told
/// by it, and removed by the next.
const MARK: &str = "# by rootfs-fetch, while it installs packages\n";

/// Files that are put into the tree while packages are installed, where it has none of that name.
pub(crate) const PLACED: [&str; 2] = ["/etc/resolv.conf", "/usr/sbin/policy-rc.d"];

/// What is to be done in the new namespaces.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Install `packages` in the tree at `root`, and take away what apt keeps of them.
    Packages { root: OsString, packages: Vec<String>, sources: Sources },
    /// Run this program.
    Program { argv: Vec<OsString> },
}

/// Do `job` in new mount and PID namespaces.
pub(crate) fn run(job: &Job) -> Result<(), Error> {
    // The namespaces that a thread has entered end with it, and this one waits for all that is in them.
    let done = thread::scope(|scope| scope.spawn(|| start(job)).join());
    done.unwrap_or_else(|_| Err(Error::new("the thread that installs has ended before its time")))
}

fn start(job: &Job) -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .attempt(|| "cannot create mount and PID namespaces".into())?;
    let cannot = || "cannot start in the new namespaces".to_owned();
    let mut stage = Command::new("/proc/self/exe")
        .arg0(STAGE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .attempt(cannot)?;
    let mut talk = || -> io::Result<String> {
        let (Some(mut to), Some(mut from)) = (stage.stdin.take(), stage.stdout.take()) else {
            return Ok(String::new());
        };
        // It gets the job when it has said that it will not outlive this process.
        from.read_exact(&mut [0])?;
        serde_json::to_writer(&mut to, job)?;
        drop(to);
        let mut failure = String::new();
        from.read_to_string(&mut failure)?;
        Ok(failure)
    };
    let failure = talk();
    let status = stage.wait().attempt(cannot)?;
    let failure = failure.attempt(cannot)?;
    if status.success() {
        return Ok(());
    }
    let Ok((failure, hint)) = serde_json::from_str::<(String, Option<String>)>(&failure) else {
        return Err(Error::new(ended("the process that installs", status)));
    };
    Err(hint.into_iter().fold(Error::new(failure), Error::hint))
}

/// Do what the first process asks for, if this is the one in the new namespaces.
pub(crate) fn as_stage() -> Option<ExitCode> {
    if std::env::args_os().next()? != STAGE {
        return None;
    }
    Some(match obey() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(serde_json::to_writer(io::stdout(), &error.into_parts())); // the first process tells it
            ExitCode::FAILURE
        }
    })
}

fn obey() -> Result<(), Error> {
    set_pdeathsig(Signal::SIGKILL).attempt(|| "cannot bind this process to the first".into())?;
    let cannot = || "cannot read what to install".to_owned();
    let mut stdout = io::stdout();
    stdout.write_all(b"\n").and_then(|()| stdout.flush()).attempt(cannot)?;
    let mut job = String::new();
    // Nothing comes when the first process has died before it could take this one along.
    io::stdin().lock().read_line(&mut job).attempt(cannot)?;
    let job: Job = serde_json::from_str(&job).map_err(io::Error::from).attempt(cannot)?;
    // Else the mounts below would appear on the host too: systemd makes '/' shared.
    mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&Path>)
        .attempt(|| "cannot make '/' private".into())?;
    match job {
        Job::Packages { root, packages, sources } => install(Path::new(&root), &packages, &sources),
        Job::Program { argv } => {
            mount_at(Some("proc"), "/proc", "proc", NOTHING_RUNS, None)?;
            // For temporary files, which a killed program does not remove.
            mount_at(Some("tmpfs"), "/dev/shm", "tmpfs", NOTHING_RUNS, Some("mode=1777"))?;
            suppress_fsync();
            program(&argv)
        }
    }
}

const NOTHING_RUNS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// A program of the host's.
fn program(words: &[OsString]) -> Result<(), Error> {
    let [program, args @ ..] = words else { return Ok(()) };
    let mut command = Command::new(program);
    // Of a root that came by su(1), the path may lack what such programs need.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    command.args(args).envs([
        ("PATH", path.as_str()),
        ("TMPDIR", "/dev/shm"),
        ("LC_ALL", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
    ]);
    wait_for(command, &program.to_string_lossy())
}

fn install(root: &Path, packages: &[String], sources: &Sources) -> Result<(), Error> {
    let nodes = host_nodes()?;
    let sys = open("/sys", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let sys = sys.attempt(|| "cannot open '/sys'".into())?;
    let resolv_conf = content(Path::new("/etc/resolv.conf"));
    enter(root)?;
    mount_all(&nodes, &sys)?;
    let placed = Placed::put(&resolv_conf)?;
    suppress_fsync();
    let installed = apt(packages, sources);
    let removed = placed.remove();
    installed.and(removed)
}

fn apt(packages: &[String], sources: &Sources) -> Result<(), Error> {
    let mut sources = sources.clone();
    write_list(&sources)?;
    if !packages.is_empty() {
        if let Err(error) = run_apt("update", &sources, &[]) {
            sources = instead(&sources).ok_or(error)?;
            write_list(&sources)?;
            run_apt("update", &sources, &[])?;
        }
        run_apt("install", &sources, packages)?;
    }
    run_apt("clean", &sources, &[])?;
    remove_lists().attempt(|| "cannot remove apt's lists from the tree".into())
}

/// Write the list that apt takes instead of the tree's own, if there is to be one.
fn write_list(sources: &Sources) -> Result<(), Error> {
    if !sources.are_given() {
        return Ok(());
    }
    let system = System::parse(&content(Path::new("/etc/os-release"))).ok_or_else(|| {
        Error::new(
            "cannot tell the tree's release: '/etc/os-release' in it has no VERSION_CODENAME",
        )
    })?;
    fs::write(LIST, sources.list(&system)).attempt(|| format!("cannot write '{LIST}'"))
}

/// Where to install from when a release of Ubuntu has left the mirror that the tree names.
fn instead(sources: &Sources) -> Option<Sources> {
    let system = System::parse(&content(Path::new("/etc/os-release")))?;
    let index = system.index(&content(Path::new("/etc/apt/sources.list")))?;
    if sources.are_given() || !http::is_gone(&index, Duration::from_secs(10)) {
        return None;
    }
    let old = Sources::old_releases();
    say(&format!(
        "'{index}' is gone, so installing from Ubuntu's old releases:\n  {}",
        old.list(&system).trim_end().replace('\n', "\n  ")
    ));
    Some(old)
}

fn run_apt(verb: &'static str, sources: &Sources, packages: &[String]) -> Result<(), Error> {
    let [program, args @ ..] = &*apt_get(verb, sources, packages) else { return Ok(()) };
    let mut command = Command::new(program);
    let epoch = std::env::var_os("SOURCE_DATE_EPOCH").map(|epoch| ("SOURCE_DATE_EPOCH", epoch));
    command.args(args).env_clear().envs(proxies()).envs(epoch).envs([
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ]);
    let shown = format!("apt-get {verb} {}", packages.join(" "));
    wait_for(command, shown.trim_end()).map_err(|err| {
        err.hint_on(Errno::ENOENT, "the tree has no apt; --no-install makes it as it is").hint_on(
            Errno::ENOEXEC,
            "the tree is of another architecture; --no-install makes it as it is",
        )
    })
}

/// Run `command` with its output on stderr: stdout is the result's.
fn wait_for(mut command: Command, shown: &str) -> Result<(), Error> {
    let cannot = || format!("cannot run '{shown}'");
    let stderr = io::stderr().as_fd().try_clone_to_owned().attempt(cannot)?;
    let mut child = command.stdin(Stdio::null()).stdout(stderr).spawn().attempt(cannot)?;
    let status = child.wait().attempt(cannot)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(format!("{}; its output is above", ended(&format!("'{shown}'"), status))))
}

fn ended(what: &str, status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("{what} ended with status {code}"),
        (None, signal) => format!("{what} was killed by signal {}", signal.unwrap_or_default()),
    }
}

/// The device nodes of the host that apt and what it runs need.
fn host_nodes() -> Result<Vec<(&'static str, OwnedFd)>, Error> {
    let node = |name| {
        let path = format!("/dev/{name}");
        let node = open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        Ok((name, node.attempt(|| format!("cannot open '{path}'"))?))
    };
    ["null", "zero", "full", "random", "urandom", "tty"].into_iter().map(node).collect()
}

/// The content of a file, empty where there is none.
fn content(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Make the tree the root directory: of all that follows, no path and no link leads out of it.
fn enter(root: &Path) -> Result<(), Error> {
    let cannot = || format!("cannot enter '{}'", root.display());
    chroot(root).attempt(cannot)?;
    std::env::set_current_dir("/").attempt(cannot)
}

fn mount_all(nodes: &[(&str, OwnedFd)], sys: &OwnedFd) -> Result<(), Error> {
    let tmpfs = MsFlags::MS_NOSUID;
    mount_at(Some("proc"), "/proc", "proc", NOTHING_RUNS, None)?;
    match mount_at(Some("sysfs"), "/sys", "sysfs", NOTHING_RUNS | MsFlags::MS_RDONLY, None) {
        // In a user namespace it is for those who have a network of their own: the host's, with all in it.
        Err(error) if error.errno() == Some(Errno::EPERM) => {
            bind_on(sys, "/sys", MsFlags::MS_BIND | MsFlags::MS_REC)?;
        }
        mounted => mounted?,
    }
    mount_at(Some("tmpfs"), "/run", "tmpfs", tmpfs | MsFlags::MS_NODEV, Some("mode=755"))?;
    mount_at(Some("tmpfs"), "/dev", "tmpfs", tmpfs | MsFlags::MS_NOEXEC, Some("mode=755,size=1m"))?;
    for (name, node) in nodes {
        bind(node, &format!("/dev/{name}"))?;
    }
    let pts = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount_at(Some("devpts"), "/dev/pts", "devpts", pts, Some(options))?;
    mount_at(Some("tmpfs"), "/dev/shm", "tmpfs", tmpfs | MsFlags::MS_NODEV, Some("mode=1777"))?;
    let cannot = || "cannot make '/run/lock'".to_owned();
    fs::create_dir("/run/lock").attempt(cannot)?;
    fs::set_permissions("/run/lock", Permissions::from_mode(0o1777)).attempt(cannot)?;
    let links = [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ];
    for (target, name) in links {
        let path = format!("/dev/{name}");
        symlink(target, &path).attempt(|| format!("cannot make '{path}'"))?;
    }
    Ok(())
}

fn mount_at(
    source: Option<&str>,
    target: &str,
    kind: &str,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), Error> {
    let cannot = || format!("cannot mount '{target}'");
    fs::create_dir_all(target).attempt(cannot)?;
    mount(source, target, Some(kind), flags, options).attempt(cannot)
}

/// Bind an open file of the host on a new file of the tree.
fn bind(file: &OwnedFd, target: &str) -> Result<(), Error> {
    fs::write(target, "").attempt(|| format!("cannot bind '{target}'"))?;
    bind_on(file, target, MsFlags::MS_BIND)
}

fn bind_on(file: &OwnedFd, target: &str, flags: MsFlags) -> Result<(), Error> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    mount(Some(&*source), target, None::<&str>, flags, None::<&str>)
        .attempt(|| format!("cannot bind '{target}'"))
}

/// The files that are in the tree only while packages are installed.
struct Placed(Vec<PathBuf>);

impl Placed {
    /// The host's name servers, and the word to packages that no service is to be started.
    fn put(resolv_conf: &str) -> Result<Self, Error> {
        let contents = [
            (PLACED[0], format!("{MARK}{resolv_conf}"), 0o644),
            (PLACED[1], format!("#!/bin/sh\n{MARK}exit 101\n"), 0o755),
        ];
        let mut placed = Self(Vec::new());
        for (path, content, mode) in contents {
            if let Err(error) = placed.put_one(Path::new(path), &content, mode) {
                placed.remove()?;
                return Err(error);
            }
        }
        Ok(placed)
    }

    fn put_one(&mut self, path: &Path, content: &str, mode: u32) -> Result<(), Error> {
        let cannot = || format!("cannot make '{}' in the tree", path.display());
        let fresh = format!("/dev/shm/{mode:o}");
        fs::write(&fresh, content).attempt(cannot)?;
        fs::set_permissions(&fresh, Permissions::from_mode(mode)).attempt(cannot)?;
        if path.exists() && !is_placed(&self::content(path)) {
            return mount(Some(&*fresh), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .attempt(cannot);
        }
        // There is none, or a link to what is not there, as to systemd's below the empty /run, or the one
        // that a killed run has left.
        let parent = path.parent().unwrap_or(path);
        let target = parent.join(fs::read_link(path).unwrap_or_else(|_| path.to_owned()));
        fs::create_dir_all(target.parent().unwrap_or(parent)).attempt(cannot)?;
        fs::copy(&fresh, path).attempt(cannot)?;
        self.0.push(fs::canonicalize(path).attempt(cannot)?);
        Ok(())
    }

    fn remove(self) -> Result<(), Error> {
        for path in self.0 {
            // A package may have brought its own meanwhile.
            if is_placed(&content(&path)) {
                let cannot = || format!("cannot remove '{}' from the tree", path.display());
                fs::remove_file(&path).attempt(cannot)?;
            }
        }
        Ok(())
    }
}

/// Whether a file with this content was put there by this program.
pub(crate) fn is_placed(content: &str) -> bool {
    content.strip_prefix("#!/bin/sh\n").unwrap_or(content).starts_with(MARK)
}

/// Make fsync and its kin succeed without doing anything: waiting for the disk after each file takes most of
/// dpkg's time, and what a crash of the machine spoils is made anew.
fn suppress_fsync() {
    use nix::libc::{
        SYS_fdatasync, SYS_fsync, SYS_msync, SYS_sync, SYS_sync_file_range, SYS_syncfs,
    };
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return; // a machine that the filter's compiler does not know: slower, and no worse
    };
    let calls = [SYS_fsync, SYS_fdatasync, SYS_sync, SYS_syncfs, SYS_msync, SYS_sync_file_range];
    let rules: BTreeMap<i64, Vec<_>> = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(0), arch);
    let program: Result<BpfProgram, _> = filter.and_then(TryInto::try_into);
    let applied = program
        .map_err(|err| err.to_string())
        .and_then(|program| seccompiler::apply_filter(&program).map_err(|err| err.to_string()));
    if let Err(why) = applied {
        say(&format!("cannot suppress fsync, so this takes longer: {why}"));
    }
}

/// Take away the lists of packages that 'apt-get update' has brought.
fn remove_lists() -> io::Result<()> {
    let dir = match fs::read_dir("/var/lib/apt/lists") {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        dir => dir?,
    };
    for entry in dir {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != "lock" {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
