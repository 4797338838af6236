//! What the tests share: running a tool, a host to run it on, root file systems.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    io::{Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::OnceLock,
};

/// Leave the test unless `$condition` holds; under `MUST_RUN=1`, as in CI, fail instead.
macro_rules! need {
    ($condition:expr) => {
        if !$condition {
            assert!(
                std::env::var_os("MUST_RUN").is_none_or(|value| value != "1"),
                "needs {}",
                stringify!($condition)
            );
            eprintln!("skipped: needs {}", stringify!($condition));
            return;
        }
    };
}

/// How a process ended and what it said.
#[derive(PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What a shell would show as `$?`: the status, or 128+N for signal N.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Fail the test, with everything that was said, unless the status was 0.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, stdout, stderr } = self;
        write!(f, "status {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: shell_status(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The status as a shell shows it.
pub(crate) fn shell_status(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// The repository's top directory.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The path of the tool `name`, found in `$BIN_DIR`, or else where cargo has built it.
pub(crate) fn tool_path(name: &str) -> PathBuf {
    let tool = env::var_os("BIN_DIR").map_or_else(build_dir, PathBuf::from).join(name);
    assert!(tool.exists(), "{} is missing: run 'make build' first", tool.display());
    tool
}

/// `target/PROFILE`: the test binary is `target/PROFILE/deps/tests-HASH`.
fn build_dir() -> PathBuf {
    env::current_exe().unwrap().ancestors().nth(2).unwrap().to_path_buf()
}

/// The tool `name` as a command, with standard input at its end.
pub(crate) fn tool(name: &str) -> Command {
    let mut command = Command::new(tool_path(name));
    command.stdin(Stdio::null());
    command
}

/// Run the tool `name` to its end.
#[track_caller]
pub(crate) fn run(name: &str, args: &[&str]) -> Outcome {
    outcome(tool(name).args(args))
}

/// Run `command` to its end.
#[track_caller]
pub(crate) fn outcome(command: &mut Command) -> Outcome {
    command.output().unwrap_or_else(|err| panic!("{command:?}: {err}")).into()
}

/// Run `command` to its end with `input` on its standard input.
#[track_caller]
pub(crate) fn outcome_with_input(command: &mut Command, input: &[u8]) -> Outcome {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|err| panic!("{command:?}: {err}"));
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(stdin.write_all(input))); // the reader may stop early
        child.wait_with_output().unwrap().into()
    })
}

/// Run a line of shell to its end.
#[track_caller]
pub(crate) fn sh(line: &str) -> Outcome {
    outcome(Command::new("bash").args(["-c", line]).stdin(Stdio::null()))
}

/// Whether the tests run as root.
pub(crate) fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The version of the kernel.
pub(crate) fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Whether `program` can be found.
pub(crate) fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// A directory of the build for what tests keep between runs.
pub(crate) fn fixtures() -> PathBuf {
    let dir = top().join("target/fixtures");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A small root file system with a shell and the usual tools: busybox, in a directory of its own.
///
/// It holds `bin/busybox`, a link for each of its tools, and `etc/passwd`.
pub(crate) fn busybox_rootfs() -> &'static Path {
    static ROOTFS: OnceLock<PathBuf> = OnceLock::new();
    ROOTFS.get_or_init(|| {
        let dir = fixtures().join(format!("busybox-{}", std::process::id()));
        write_busybox_rootfs(&dir);
        dir
    })
}

/// Write an executable file.
///
/// Another process does it: were the file open for writing here while another test forks, running it
/// would fail with ETXTBSY as long as that child has not come to its exec.
pub(crate) fn write_program(content: &[u8], path: &Path) {
    let line = "cat >\"$0\" && chmod 755 \"$0\"";
    outcome_with_input(Command::new("sh").args(["-c", line]).arg(path), content).success();
}

/// Make such a root file system in `dir`, for tests that change it.
pub(crate) fn write_busybox_rootfs(dir: &Path) {
    for sub in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "run", "usr/bin", "mnt"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| Path::new(path).exists());
    let busybox = busybox.expect("needs busybox-static");
    write_program(&fs::read(busybox).unwrap(), &dir.join("bin/busybox"));
    let list = outcome(Command::new(busybox).arg("--list")).success().stdout;
    for applet in list.lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(applet)).unwrap();
    }
    let passwd =
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n";
    fs::write(dir.join("etc/passwd"), passwd).unwrap();
    fs::write(dir.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
}

/// A host of its own for a test: new network and mount namespaces in which `/run` is empty and private,
/// so that nothing a test does reaches the machine. It ends with the value.
pub(crate) struct Host {
    holder: Child,
}

impl Host {
    /// Make one. Needs root.
    pub(crate) fn new() -> Self {
        // The holder says so when its namespaces stand, and ends when its standard input does, that is
        // with the test process at the latest. Its mounts are shared, as systemd has it, among whom they are its.
        let setup = "mount --make-rshared / && mount -t tmpfs tmpfs /run && ip link set lo up && echo ready && exec cat";
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--", "sh", "-c", setup])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        holder.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Self { holder }
    }

    /// `program` as a command on this host.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.holder.id().to_string();
        command.args(["--target", &target, "--net", "--mount", "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// The tool `name` as a command on this host.
    pub(crate) fn tool(&self, name: &str) -> Command {
        self.command(tool_path(name))
    }

    /// Run the tool `name` on this host.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, args: &[&str]) -> Outcome {
        outcome(self.tool(name).args(args))
    }

    /// Run a line of shell on this host.
    #[track_caller]
    pub(crate) fn sh(&self, line: &str) -> Outcome {
        outcome(self.command("bash").args(["-c", line]))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
