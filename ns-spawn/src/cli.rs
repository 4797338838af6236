//! The options. Their doc comments are the help.

use crate::error;
use clap::{Parser, ValueEnum};
use std::{ffi::OsString, path::PathBuf, process::ExitCode};

/// Run COMMAND in new namespaces, with DIR as its root directory
///
/// COMMAND gets new mount, PID, UTS, IPC, cgroup and network namespaces, its
/// own /proc, /sys and /dev, Docker's capabilities and a clean environment. It
/// runs as process 2 under a small init that reaps orphans; its exit status
/// becomes ns-spawn's. When COMMAND ends, or ns-spawn does, everything in the
/// container ends.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 80, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// Directory that becomes '/'
    ///
    /// Missing mount points (proc, sys, dev) are made in it and stay.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: PathBuf,

    /// Join this network namespace instead of making a new one
    ///
    /// A NAME is looked up in /run/netns, as 'ip netns' does, and the files in
    /// /etc/netns/NAME are bound over those of the same name in /etc. Anything
    /// with a '/' in it is a path.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) netns: Option<OsString>,

    /// Stay in the caller's namespaces of these kinds (comma list)
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub(crate) share: Vec<Shared>,

    /// Hostname that COMMAND sees
    #[arg(long, value_name = "NAME", default_value = "container")]
    pub(crate) hostname: String,

    /// Run COMMAND as this user, looked up in DIR's /etc/passwd
    #[arg(long, value_name = "NAME|UID[:GID]", default_value = "root")]
    pub(crate) user: String,

    /// Directory to start COMMAND in, inside DIR
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) workdir: PathBuf,

    /// Set a variable in COMMAND's environment (may be repeated)
    ///
    /// Otherwise it holds only PATH, HOME, USER, TERM and container=ns-spawn.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_env)]
    pub(crate) env: Vec<String>,

    /// Mount DIR read-only
    #[arg(long)]
    pub(crate) read_only: bool,

    /// What COMMAND gets as its terminal
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Console::Auto)]
    pub(crate) console: Console,

    /// Print the steps as shell commands and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print each step on standard error as it is taken
    #[arg(long)]
    pub(crate) verbose: bool,

    /// Program to run, looked up in DIR, and its arguments [default: /bin/bash, else /bin/sh]
    #[arg(trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

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

const AFTER_HELP: &str = "\
Exit status: COMMAND's own, or 128+N if signal N killed it;
125 if ns-spawn failed, 126 if COMMAND cannot be run, 127 if it is not found.

Example: ns-spawn --netns demo --root rootfs -- sysbench cpu run";

impl Cli {
    pub(crate) fn parse_or_usage() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|err| error::usage(&err))
    }
}

fn parse_env(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("it has the form NAME=VALUE".into()),
    }
}
