//! What the four tools cost: beside a program that makes the fewest system calls for the same, and beside other tools.
//!
//! A section runs on a host of its own (network and mount namespaces), interleaves its candidates in shuffled rounds,
//! and writes Markdown to standard output, and the samples as JSON and plots as SVG to `target/bench`.

mod cgroup;
mod cli;
mod docs;
mod error;
mod host;
mod machine;
mod measure;
mod network;
mod peers;
mod report;
mod startup;
mod stats;

use crate::{
    cli::{Cli, Section},
    error::{Attempt as _, Error},
    host::Host,
    report::Report,
};
use clap::Parser as _;
use std::{
    env,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    run(&Cli::parse()).map_or_else(Error::report, |()| ExitCode::SUCCESS)
}

fn run(cli: &Cli) -> Result<(), Error> {
    let report = match cli.section {
        Section::All => return measure_all(cli.rounds),
        Section::Docs => return docs::write(),
        section => measure(section, cli.rounds)?,
    };
    report.write()
}

/// Each section in a process of its own, which leaves its host with it.
fn measure_all(rounds: Option<usize>) -> Result<(), Error> {
    let program = env::current_exe().attempt(|| "cannot find this program".into())?;
    for section in Section::MEASURING {
        let mut command = Command::new(&program);
        command.arg(section.name()).args(rounds.map(|rounds| format!("--rounds={rounds}")));
        let mut child =
            command.spawn().attempt(|| format!("cannot start '{}'", program.display()))?;
        let ended = child.wait().attempt(|| format!("cannot wait for '{}'", section.name()))?;
        if !ended.success() {
            return Err(Error::new(format!("'{}' gave no report", section.name())));
        }
    }
    Ok(())
}

fn measure(section: Section, rounds: Option<usize>) -> Result<Report, Error> {
    let host = Host::new(section.name())?;
    let report = match section {
        Section::Startup => startup::measure(&host, rounds.unwrap_or(200)),
        Section::Network => network::measure(&host, rounds.unwrap_or(200)),
        Section::Cgroup => cgroup::measure(&host, rounds.unwrap_or(200)),
        Section::All | Section::Docs => unreachable!("they are no section to measure"),
    }?;
    host.leave()?;
    Ok(report)
}
