//! Run a command in new namespaces, on its own root directory.

#![cfg_attr(not(test), no_main)] // the C library calls sys.rs, which calls main

mod attributes;
mod check;
mod cli;
mod command;
mod error;
mod etc;
mod generate;
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
#[expect(unsafe_code, reason = "nothing else needs it: raw kernel calls, and the heap")]
mod sys;
mod terminal;
mod userns;
mod volumes;

use crate::{
    cli::Cli,
    error::Error,
    status::Status,
    supervise::{Ended, Job},
};
use std::mem::ManuallyDrop;

fn main() -> u8 {
    Cli::parse_or_usage()
        .and_then(|cli| run(&ManuallyDrop::new(cli)).map_err(Error::report))
        .unwrap_or_else(|code| code)
}

fn run(cli: &Cli) -> Result<u8, Error> {
    if let Some(format) = cli.generate {
        return generate::print(format).map(|()| 0);
    }
    if cli.check {
        return check::print();
    }
    let status = Status::open(cli)?;
    let planned = Job::plan(cli).map(ManuallyDrop::new); // nothing is gained by freeing it: the process ends
    let ended = planned.and_then(|job| {
        // Everything that can be refused has been.
        if cli.dry_run {
            return job.print().map(Ended::Exited);
        }
        let ended = supervise::act(&job, &status)?;
        status.ended(ended).map(|()| ended)
    });
    let ended = ended.map_err(|error| status.failed(error))?;
    drop(status);
    Ok(ended.exit_code())
}
