//! The options. The doc comments are the help; no logic, no I/O.

use crate::{
    error,
    generate::Format,
    limits::{CpuMax, HugeTlbMax, IoMax, List, PidsMax, Setting, Size},
    name::Name,
    report::StatsTo,
    run::Timeout,
};
use clap::{Args, Parser, Subcommand};
use std::{env, ffi::OsString, fmt::Display, path::PathBuf, str::FromStr};

/// Make a cgroup, set its limits, run a command inside it
///
/// Limits are named after the interface files of cgroup v2 and mean the same
/// on v1: each controller is used where it lives on this host (v1, v2 or, on
/// a hybrid host, both).
#[derive(Debug, Parser)]
#[command(version, max_term_width = 80, after_help = AFTER_HELP, override_usage = USAGE)]
#[command(arg_required_else_help = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// Print the manual page, or the completions for a shell
    #[arg(long, value_name = "FORMAT", value_enum, exclusive = true)]
    pub(crate) generate: Option<Format>,

    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

// What every verb has that changes something.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Steps {
    /// Print the steps as shell commands and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Show each step on stderr as it is taken
    #[arg(long)]
    pub(crate) verbose: bool,
}

const USAGE: &str = "\
cgroup-apply <COMMAND>
       cgroup-apply --generate <FORMAT>";

const AFTER_HELP: &str = "\
Exit status: of 'run' COMMAND's own, or 128+N if signal N killed it; 124 if its
time was up (--timeout); 125 if cgroup-apply failed before COMMAND ran, 126 if
COMMAND cannot be executed, 127 if it is not found.
Of the others: 0 done, or nothing to do; 1 failed, nothing left; 2 wrong usage;
3 failed, and something is left behind and named.

Example: cgroup-apply run --pids-max 64 --memory-max 512M container -- bash";

/// What to do.
#[derive(Debug, Subcommand)]
#[command(defer = true)] // builds the options of the given verb alone; doc comments on them would become its help
pub(crate) enum Verb {
    /// Make the cgroup, limit it, run COMMAND inside, wait, remove the cgroup
    ///
    /// COMMAND starts inside the cgroup. Its standard streams and exit status
    /// are passed through, signals sent to cgroup-apply are passed on to it.
    /// When it ends, what it left running is killed and the cgroup removed.
    /// Runs at the same time under one NAME share the cgroup; the last one
    /// removes it. A cgroup that 'create' or somebody else made is used as it
    /// is, with its limits and those asked for here, and stays.
    Run(Run),

    /// Make the cgroup and limit it, or change it to what is asked for
    ///
    /// Prints its directories, one a line: one in each hierarchy that has a
    /// controller that is limited, and in the cgroup v2 tree if there is one.
    Create(Create),

    /// Remove the cgroup in every hierarchy
    ///
    /// An absent cgroup is success. One with processes is refused unless
    /// --kill is given.
    Delete(Delete),

    /// Show the limits, what is used of them, and the processes of the cgroup
    ///
    /// VALUE is what was asked of the cgroup, EFFECTIVE what holds with the
    /// limits of those above it.
    Show(Show),

    /// Move a running process, with all its threads, into the cgroup
    ///
    /// In every hierarchy that has the cgroup, or in none. Its limits are for
    /// what the process does from now on: memory that it has stays charged
    /// where it was.
    Add(Add),

    /// Stop all that is in the cgroup; returns when it stands still
    Freeze(Named),

    /// Let what was frozen go on; returns when it does
    Thaw(Named),

    /// Kill all that is in the cgroup and wait for its end; the cgroup stays
    Kill(Named),

    /// Show where each controller of this host lives: v1, v2 or hybrid
    Info(Info),
}

impl Verb {
    /// Whether and how steps are shown.
    pub(crate) fn steps(&self) -> Steps {
        match self {
            Self::Run(args) => args.steps,
            Self::Create(args) => args.steps,
            Self::Delete(args) => args.steps,
            Self::Add(args) => args.steps,
            Self::Freeze(args) | Self::Thaw(args) | Self::Kill(args) => args.steps,
            Self::Show(_) | Self::Info(_) => Steps::default(),
        }
    }
}

// `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) steps: Steps,

    /// Join the cgroup and execute COMMAND in place of cgroup-apply
    ///
    /// No process of ours stays to wait or report; the cgroup stays, as with
    /// 'create', until 'delete'. If COMMAND cannot be executed, it does not.
    #[arg(long, conflicts_with = "keep")]
    pub(crate) exec: bool,

    /// Leave the cgroup, and what runs in it, when COMMAND has ended
    #[arg(long)]
    pub(crate) keep: bool,

    /// Kill COMMAND after this time: seconds, or with s, m, h or d ('90',
    /// '1.5s', '10m'); the status is 124
    #[arg(long, value_name = "TIME", conflicts_with = "exec")]
    pub(crate) timeout: Option<Timeout>,

    /// Write what COMMAND used as one JSON object when it has ended
    ///
    /// To a file, to the inherited descriptor of that number, or with '-' to
    /// standard output. Peaks are those of the cgroup's life; everything else
    /// is counted from the start of this run. What the kernel does not count
    /// is absent.
    #[arg(long, value_name = "FILE|FD|-", conflicts_with = "exec")]
    pub(crate) stats: Option<StatsTo>,

    /// The cgroup, below the root of each hierarchy (without root: below the
    /// caller's own cgroup); 'a/b' is b below a
    #[arg(value_name = "NAME", default_value = "container")]
    pub(crate) name: Name,

    /// Program to run, and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub(crate) command: Vec<OsString>,

    #[command(flatten)]
    pub(crate) limits: Limits,
}

// `create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) steps: Steps,

    /// The cgroup, below the root of each hierarchy
    #[arg(value_name = "NAME", default_value = "container")]
    pub(crate) name: Name,

    #[command(flatten)]
    pub(crate) limits: Limits,
}

// `delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) steps: Steps,

    /// Kill the processes in it first
    #[arg(long)]
    pub(crate) kill: bool,

    /// The cgroup, below the root of each hierarchy
    #[arg(value_name = "NAME", default_value = "container")]
    pub(crate) name: Name,
}

// `add`.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Add {
    #[command(flatten)]
    pub(crate) steps: Steps,

    /// The cgroup, below the root of each hierarchy
    #[arg(value_name = "NAME", default_value = "container")]
    pub(crate) name: Name,

    /// The process
    #[arg(value_name = "PID", required = true, value_parser = number(1, i32::MAX))]
    pub(crate) pid: i32,
}

// `freeze`, `thaw` and `kill`.
#[derive(Debug, Args)]
pub(crate) struct Named {
    #[command(flatten)]
    pub(crate) steps: Steps,

    /// The cgroup, below the root of each hierarchy
    #[arg(value_name = "NAME", default_value = "container")]
    pub(crate) name: Name,
}

// `show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// The cgroup, below the root of each hierarchy
    #[arg(value_name = "NAME", default_value = "container")]
    pub(crate) name: Name,
}

// `info`.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

// What may be asked of a cgroup. Without any of these nothing is limited.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// Most processes and threads: a number, or 'max'
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) pids_max: Option<PidsMax>,

    /// Most memory: bytes, with K, M, G or T (1024), a share of the RAM as
    /// '25%', or 'max'
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory_max: Option<Size>,

    /// Memory above which the cgroup is slowed and reclaimed (v2 only)
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory_high: Option<Size>,

    /// Most swap; v1 needs --memory-max with it
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) memory_swap_max: Option<Size>,

    /// Most CPU time: CPUs ('1.5'), share of one CPU ('50%'), QUOTA/PERIOD in
    /// microseconds ('20000/100000'), or 'max'
    #[arg(long, value_name = "CPU")]
    pub(crate) cpu_max: Option<CpuMax>,

    /// Share of the CPU against other cgroups, 1 to 10000; 100 is everybody's
    /// (v1: cpu.shares, times 10.24)
    #[arg(long, value_name = "WEIGHT", value_parser = number(1, 10_000_u64))]
    pub(crate) cpu_weight: Option<u64>,

    /// CPUs to run on, as '0-2,4'
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<List>,

    /// Memory nodes to allocate from, as '0-1'
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<List>,

    /// Speed of a block device, as '/dev/sda:rbps=10M,wiops=100' (repeat)
    ///
    /// PATH is the device's node or any file on it; of a partition it is the
    /// whole disk. KEY is rbps or wbps (bytes a second, with K, M, G or T),
    /// riops or wiops (operations a second); VALUE may be 'max'. On v1 only
    /// what does not go through the page cache is slowed when written.
    #[arg(long, value_name = "PATH:KEY=VALUE,...")]
    pub(crate) io_max: Vec<IoMax>,

    /// Most huge pages of SIZE in bytes, as '2M=64M' or '1G=max' (repeat)
    #[arg(long, value_name = "SIZE=MAX")]
    pub(crate) hugetlb_max: Vec<HugeTlbMax>,

    /// Limits from a file with OCI resources in JSON ('linux.resources' of a
    /// config.json), or with '-' from standard input
    ///
    /// 0 there is "not set", a negative number "no limit". A member that
    /// cgroup-apply does not know is refused. Options of the same name win.
    #[arg(long, value_name = "FILE|-")]
    pub(crate) resources: Option<PathBuf>,

    /// Write VALUE to the interface file FILE, as it is (repeat)
    ///
    /// FILE is named as the kernel of this host has it, and its controller is
    /// what stands before the first dot: 'memory.swappiness=0'.
    #[arg(long, value_name = "FILE=VALUE")]
    pub(crate) set: Vec<Setting>,

    /// Make a limit that cannot be applied a warning, not an error
    #[arg(long)]
    pub(crate) best_effort: bool,
}

impl Cli {
    pub(crate) fn parse_or_usage() -> Result<Self, u8> {
        // The first word that is no option is the verb: no option before it takes a value.
        let verb = env::args_os().skip(1).find(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
        Self::try_parse().map_err(|err| error::usage(&err, verb.is_some_and(|verb| verb == "run")))
    }
}

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
