//! The options. Their doc comments are the help.

use crate::{error, generate::Format, sys};
use clap::{Parser, ValueEnum};
use std::{ffi::OsString, fmt::Display, path::PathBuf, str::FromStr};

/// Run COMMAND in new namespaces, with DIR as its root directory
///
/// COMMAND gets new mount, PID, UTS, IPC, cgroup and network namespaces, its own /proc, /sys and /dev,
/// Docker's capabilities and a clean environment. It runs as process 2 under a small init that reaps
/// orphans; its exit status becomes ns-spawn's. When COMMAND ends, or ns-spawn does, everything in the
/// container ends.
#[derive(Debug, Clone, Parser)]
#[command(version, max_term_width = 100, after_help = AFTER_HELP, override_usage = USAGE)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Cli {
    /// Directory that becomes '/'
    ///
    /// Missing mount points (proc, sys, dev) are made in it and stay.
    #[arg(long, value_name = "DIR", required_unless_present_any = ["join", "check"])]
    pub(crate) root: Option<PathBuf>,

    /// Run COMMAND in the container of process PID instead of a new one
    #[arg(long, value_name = "PID", value_parser = number(0, LAST_PID), conflicts_with_all = CONTAINER_OPTIONS)]
    pub(crate) join: Option<i32>,

    /// Say whether this host can run containers; if not, why, and what helps
    #[arg(long)]
    pub(crate) check: bool,

    /// Print the manual page, or the completions for a shell
    #[arg(long, value_name = "FORMAT", value_enum, exclusive = true)]
    pub(crate) generate: Option<Format>,

    /// Print the steps as shell commands and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print each step on standard error when it is taken, with the time it took
    #[arg(long)]
    pub(crate) verbose: bool,

    /// Join this network namespace instead of making a new one
    ///
    /// A NAME is looked up in /run/netns, as 'ip netns' does, and the files in /etc/netns/NAME are bound
    /// over those of the same name in /etc. Anything with a '/' in it is a path.
    #[arg(long, value_name = "NAME|PATH", help_heading = "Namespaces")]
    pub(crate) netns: Option<OsString>,

    /// Stay in the caller's namespaces of these kinds (comma list)
    #[arg(long, value_name = "KIND", value_delimiter = ',', help_heading = "Namespaces")]
    pub(crate) share: Vec<Shared>,

    /// Make a user namespace too, in which root is the caller (the default when not root)
    ///
    /// The caller's ranges in /etc/subuid and /etc/subgid become the other users inside, through newuidmap
    /// and newgidmap; without them root is the only one.
    #[arg(long, help_heading = "Namespaces")]
    pub(crate) userns: bool,

    /// Hostname that COMMAND sees
    #[arg(long, value_name = "NAME", default_value = "container", help_heading = "Namespaces")]
    pub(crate) hostname: String,

    /// Make a time namespace whose monotonic and boot-time clocks are ahead by these seconds
    #[arg(
        long,
        value_name = "MONOTONIC[,BOOTTIME]",
        allow_hyphen_values = true,
        help_heading = "Namespaces"
    )]
    pub(crate) time: Option<String>,

    /// Mount DIR read-only
    #[arg(long, help_heading = "File systems")]
    pub(crate) read_only: bool,

    /// Leave DIR as it is: changes go to UPPER/upper, or without it to memory, and are lost at the end
    #[arg(long, value_name = "UPPER", num_args = 0..=1, require_equals = true, help_heading = "File systems")]
    #[expect(clippy::option_option, reason = "absent, without a value, with one")]
    pub(crate) overlay: Option<Option<PathBuf>>,

    /// Bind SRC, a file or a directory with all below it, on DEST inside (may be repeated)
    ///
    /// DEST is SRC if it is not given; it is made when it is missing, and stays.
    #[arg(long, value_name = "SRC[:DEST]", help_heading = "File systems")]
    pub(crate) bind: Vec<OsString>,

    /// The same, read-only all the way down
    #[arg(long, value_name = "SRC[:DEST]", help_heading = "File systems")]
    pub(crate) ro_bind: Vec<OsString>,

    /// Mount a tmpfs on DEST; its options are size=, mode= and `nr_inodes=`
    #[arg(long, value_name = "DEST[:OPTIONS]", help_heading = "File systems")]
    pub(crate) tmpfs: Vec<String>,

    /// Bind a device node and let COMMAND open it
    #[arg(long, value_name = "SRC[:DEST]", help_heading = "File systems")]
    pub(crate) device: Vec<OsString>,

    /// Hide a file or directory
    #[arg(long, value_name = "PATH", help_heading = "File systems")]
    pub(crate) mask: Vec<PathBuf>,

    /// Show the parts of /proc and /sys that are hidden or read-only otherwise
    #[arg(long, help_heading = "File systems")]
    pub(crate) no_mask: bool,

    /// The container's /proc
    #[arg(long, value_name = "MODE", default_value = "rw", help_heading = "File systems")]
    pub(crate) proc: Kernel,

    /// The container's /sys; with --privileged it is rw
    #[arg(long, value_name = "MODE", default_value = "ro", help_heading = "File systems")]
    pub(crate) sys: Kernel,

    /// The container's /dev; without one of its own there are no masks, and no pty
    #[arg(long, value_name = "MODE", default_value = "own", help_heading = "File systems")]
    pub(crate) dev: Dev,

    /// Run COMMAND as this user, looked up in DIR's /etc/passwd
    #[arg(long, value_name = "NAME|UID[:GID]", default_value = "root", help_heading = "Identity")]
    pub(crate) user: String,

    /// Directory to start COMMAND in, inside DIR
    #[arg(long, value_name = "DIR", default_value = "/", help_heading = "Identity")]
    pub(crate) workdir: PathBuf,

    /// Set a variable in COMMAND's environment (may be repeated)
    ///
    /// Otherwise it holds only PATH, HOME, USER, TERM and container=ns-spawn.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_env, help_heading = "Identity")]
    pub(crate) env: Vec<String>,

    /// Set the variables of a file, one NAME=VALUE a line; lines that begin with # are comments
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub(crate) env_file: Vec<PathBuf>,

    /// Let COMMAND have a capability, such as `NET_ADMIN` or ALL (comma list, may be repeated)
    #[arg(long, value_name = "CAP", value_delimiter = ',', help_heading = "Security")]
    pub(crate) cap_add: Vec<String>,

    /// Take a capability away
    #[arg(long, value_name = "CAP", value_delimiter = ',', help_heading = "Security")]
    pub(crate) cap_drop: Vec<String>,

    /// All capabilities, all devices, nothing masked: the root of the lab, who can do what host root can
    #[arg(long, help_heading = "Security")]
    pub(crate) privileged: bool,

    /// Which system calls COMMAND may make [default: default; with --privileged none]
    ///
    /// 'default': those that Docker allows to its capabilities; 'none': all;
    /// else a FILE, a profile in JSON as Docker and OCI runtimes take it. In no
    /// case can COMMAND type at a terminal of the caller (TIOCSTI).
    #[arg(long, value_name = "default|none|FILE", help_heading = "Security")]
    pub(crate) seccomp: Option<OsString>,

    /// Let COMMAND have this descriptor of the caller's (may be repeated)
    #[arg(long, value_name = "N", value_parser = number(0, LAST_DESCRIPTOR), help_heading = "Security")]
    pub(crate) pass_fd: Vec<u32>,

    /// Set a resource limit, by prlimit(1)'s names: nofile=1024:4096 (may be repeated)
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Resources")]
    pub(crate) rlimit: Vec<String>,

    /// Niceness, -20 to 19
    #[arg(long, value_name = "N", value_parser = number(-20, 19), allow_negative_numbers = true, help_heading = "Resources")]
    pub(crate) nice: Option<i32>,

    /// CPUs to run on: 0-3,8
    #[arg(long, value_name = "LIST", help_heading = "Resources")]
    pub(crate) cpu_affinity: Option<String>,

    /// How much likelier the OOM killer takes COMMAND, -1000 to 1000
    #[arg(long, value_name = "N", value_parser = number(-1000, 1000), allow_negative_numbers = true, help_heading = "Resources")]
    pub(crate) oom_score_adj: Option<i32>,

    /// What COMMAND gets as its terminal
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "Process")]
    pub(crate) console: Console,

    /// Make COMMAND process 1, with no init: it must reap orphans itself
    #[arg(long, help_heading = "Process")]
    pub(crate) as_pid_1: bool,

    /// After a first SIGTERM wait this many seconds, then kill
    #[arg(long, value_name = "SECONDS", value_parser = number(0, 1_000_000_000_u64), help_heading = "Process")]
    pub(crate) kill_after: Option<u64>,

    /// Write JSON lines about the start and the end to this descriptor
    #[arg(long, value_name = "N", value_parser = number(0, LAST_DESCRIPTOR), help_heading = "Process")]
    pub(crate) status_fd: Option<u32>,

    /// Write the host's PID of the container's first process to FILE; it is removed at the end
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub(crate) pid_file: Option<PathBuf>,

    /// Program to run, looked up in DIR, and its arguments [default: /bin/bash, else /bin/sh]
    #[arg(trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

/// What a container that runs already has, or does not get any more.
const CONTAINER_OPTIONS: [&str; 18] = [
    "root",
    "netns",
    "share",
    "userns",
    "hostname",
    "time",
    "read_only",
    "overlay",
    "bind",
    "ro_bind",
    "tmpfs",
    "device",
    "mask",
    "no_mask",
    "proc",
    "sys",
    "dev",
    "as_pid_1",
];

/// A kind of namespace that can be shared with the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shared {
    /// Network
    Net,
    /// Hostname
    Uts,
    /// System V IPC and POSIX message queues
    Ipc,
    /// Cgroup
    Cgroup,
}

/// How a file system of the kernel's is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// To be written, where a user may
    Rw,
    /// To be read
    Ro,
    /// Not at all
    None,
}

/// What /dev is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dev {
    /// A tmpfs with the standard nodes
    Own,
    /// The rootfs's, whose nodes cannot be opened
    None,
}

/// What COMMAND's standard input, output and error are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Console {
    /// pty when input and output are one terminal, else inherit
    Auto,
    /// A pseudo-terminal of the container's own
    Pty,
    /// The caller's, unchanged
    Inherit,
    /// The caller's, but no controlling terminal, and no input from one
    None,
}

const USAGE: &str = "\
ns-spawn [OPTIONS] --root <DIR> [--] [COMMAND]...
       ns-spawn [OPTIONS] --join <PID> [--] [COMMAND]...
       ns-spawn --check
       ns-spawn --generate <FORMAT>";

const AFTER_HELP: &str = "\
Exit status: COMMAND's own, or 128+N if signal N killed it;
125 if ns-spawn failed, 126 if COMMAND cannot be run, 127 if it is not found.

Examples:
  ns-spawn --netns demo --root rootfs -- sysbench cpu run
  ns-spawn --root rootfs --overlay --bind \"$PWD:/src\" --workdir /src -- make
  ns-spawn --join \"$(cat box.pid)\" -- ps ax";

impl Cli {
    pub(crate) fn parse_or_usage() -> Result<Self, u8> {
        let cli = Self::try_parse().map_err(|err| error::usage(&err))?;
        Ok(sys::move_out(cli))
    }
}

/// The kernel's `INT_MAX`, which no descriptor's number exceeds.
const LAST_DESCRIPTOR: u32 = i32::MAX.cast_unsigned();

/// `PID_MAX_LIMIT` of 64-bit kernels: proc(5), `/proc/sys/kernel/pid_max`.
const LAST_PID: i32 = 1 << 22;

/// A number that is taken, as the kernel has it; what is not one is told which are.
fn number<T>(low: T, high: T) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: Copy + Display + FromStr + PartialOrd,
{
    move |text| match text.parse() {
        Ok(number) if low <= number && number <= high => Ok(number),
        _ => Err(format!("allowed are {low} to {high}")),
    }
}

fn parse_env(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("it has the form NAME=VALUE".into()),
    }
}
