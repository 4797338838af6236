//! Run a command in new namespaces, on its own root directory.

mod cli;
mod command;
mod error;
mod identity;
mod init;
mod mounts;
mod netns;
mod plan;
mod rootfs;
mod security;
mod supervise;
#[expect(unsafe_code, reason = "the only file that needs it: raw kernel calls")]
mod sys;
mod terminal;

use crate::{cli::Cli, error::Error, plan::Plan};
use std::process::ExitCode;

fn main() -> ExitCode {
    Cli::parse_or_usage()
        .and_then(|cli| run(cli).map_err(Error::report))
        .unwrap_or_else(|code| code)
}

fn run(cli: Cli) -> Result<ExitCode, Error> {
    let dry_run = cli.dry_run;
    let plan = Plan::new(cli)?; // everything that can be refused is refused here
    if dry_run {
        return plan.print();
    }
    let ended = supervise::act(&plan)?;
    Ok(ended.exit_code())
}
