//! Make a root file system: fetch the Ubuntu base, verify it, unpack it, install packages.
#![forbid(unsafe_code)]

mod acl;
mod act;
mod archive;
mod bootstrap;
mod check;
mod cli;
mod decode;
mod dest;
mod docker_archive;
mod download;
mod error;
mod generate;
mod http;
mod image;
mod install;
mod layout;
mod manifest;
mod pack;
mod packed;
mod plan;
mod signature;
mod source;
mod sources;
mod steps;
mod tree;
mod unpack;
mod userns;
mod verify;

use crate::{cli::Cli, error::Error, plan::Plan};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(ended) = install::as_stage().or_else(userns::as_stage) {
        return ended;
    }
    Cli::parse_or_usage()
        .and_then(|cli| run(&cli).map_err(Error::report))
        .unwrap_or_else(|code| code)
}

fn run(cli: &Cli) -> Result<ExitCode, Error> {
    if let Some(format) = cli.generate {
        return generate::print(format).map(|()| ExitCode::SUCCESS);
    }
    if cli.check {
        return check::print();
    }
    let plan = Plan::new(cli)?; // everything that can be refused is refused here
    if plan.dry_run {
        plan.print()?;
    } else if let Some(ranges) = plan.ranges() {
        return ranges.run_inside();
    } else {
        let made = plan.act()?;
        plan.report(&made)?;
    }
    Ok(ExitCode::SUCCESS)
}
