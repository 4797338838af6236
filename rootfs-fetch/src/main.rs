//! Make a root file system: fetch the Ubuntu base, verify it, unpack it, install packages.
#![forbid(unsafe_code)]

mod acl;
mod act;
mod archive;
mod bootstrap;
mod cli;
mod decode;
mod dest;
mod download;
mod error;
mod http;
mod install;
mod layout;
mod manifest;
mod plan;
mod signature;
mod source;
mod sources;
mod steps;
mod tree;
mod unpack;
mod verify;

use crate::{cli::Cli, error::Error, plan::Plan};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(ended) = install::as_stage() {
        return ended;
    }
    Cli::parse_or_usage()
        .and_then(|cli| run(&cli).map_err(Error::report))
        .map_or_else(|code| code, |()| ExitCode::SUCCESS)
}

fn run(cli: &Cli) -> Result<(), Error> {
    let plan = Plan::new(cli)?; // everything that can be refused is refused here
    if plan.dry_run {
        return plan.print();
    }
    let made = plan.act()?;
    plan.report(&made)
}
