//! Run a command in new namespaces, on its own root directory.

mod attributes;
mod check;
mod cli;
mod command;
mod error;
mod etc;
mod identity;
mod init;
mod join;
mod mounts;
mod netns;
mod overlay;
mod plan;
mod program;
mod rootfs;
mod scheduling;
mod seccomp;
mod security;
mod status;
mod supervise;
#[expect(unsafe_code, reason = "the only file that needs it: raw kernel calls")]
mod sys;
mod terminal;
mod userns;
mod volumes;

use crate::{cli::Cli, error::Error, status::Status, supervise::Job};
use std::process::ExitCode;

fn main() -> ExitCode {
    Cli::parse_or_usage()
        .and_then(|cli| run(&cli).map_err(Error::report))
        .unwrap_or_else(|code| code)
}

fn run(cli: &Cli) -> Result<ExitCode, Error> {
    if cli.check {
        return check::print();
    }
    let status = Status::open(cli)?;
    let ended = Job::plan(cli).and_then(|job| {
        // Everything that can be refused has been.
        if cli.dry_run { job.print() } else { supervise::act(&job, &status)?.finish(&status) }
    });
    ended.map_err(|error| status.failed(error))
}
