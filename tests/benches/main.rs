//! What the four tools cost: beside a program that makes the fewest system calls for the same, and beside other tools.
//!
//! A section runs on a host of its own (network and mount namespaces), interleaves its candidates in shuffled rounds,
//! and writes Markdown to standard output, and the samples as JSON and plots as SVG to `target/bench`.

mod cgroup;
mod chain;
mod cli;
mod docs;
mod error;
mod host;
mod machine;
mod measure;
mod network;
mod order;
mod peers;
mod plot;
mod report;
mod scale;
mod sizes;
mod startup;
mod stats;
mod table;
mod unpack;

use crate::{
    cli::{Cli, Section},
    error::{Attempt as _, Error},
    host::Host,
    report::Report,
};
use clap::{Parser as _, ValueEnum as _};
use std::{
    env,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    run(&Cli::parse()).map_or_else(Error::report, |()| ExitCode::SUCCESS)
}

fn run(cli: &Cli) -> Result<(), Error> {
    match cli.section {
        Section::All => return measure_all(cli.rounds),
        Section::Docs => return docs::write(),
        Section::Sizes => sizes::measure()?,
        Section::Build => sizes::build()?,
        Section::Order => {
            let host = Host::new(false)?;
            order::write(&host)?;
            return host.leave();
        }
        section => measure(section, cli.rounds)?,
    }
    .write()
}

/// Each section in a process of its own, which leaves its host with it.
fn measure_all(rounds: Option<usize>) -> Result<(), Error> {
    let program = env::current_exe().attempt(|| "cannot find this program".into())?;
    for section in Section::ALL {
        let name = section.to_possible_value().map(|value| value.get_name().to_owned());
        let name = name.unwrap_or_default();
        let mut command = Command::new(&program);
        command.arg(&name).args(rounds.map(|rounds| format!("--rounds={rounds}")));
        let mut child =
            command.spawn().attempt(|| format!("cannot start '{}'", program.display()))?;
        let ended = child.wait().attempt(|| format!("cannot wait for '{name}'"))?;
        if !ended.success() {
            return Err(Error::new(format!("'{name}' gave no report")));
        }
    }
    Ok(())
}

/// What a section asks of its host: on it, so that nothing reaches the machine.
fn measure(section: Section, rounds: Option<usize>) -> Result<Report, Error> {
    let host = Host::new(matches!(section, Section::Unpack | Section::Chain))?;
    let rounds = |default| rounds.unwrap_or(default);
    let report = match section {
        Section::Table => table::measure(&host, rounds(10)),
        Section::Startup => startup::measure(&host, rounds(200)),
        Section::Network => network::measure(&host, rounds(200)),
        Section::Cgroup => cgroup::measure(&host, rounds(200)),
        Section::Unpack => unpack::measure(&host, rounds(15)),
        Section::Scale => scale::measure(&host, rounds(5)),
        Section::Chain => chain::measure(&host, rounds(50)),
        Section::All | Section::Sizes | Section::Build | Section::Order | Section::Docs => {
            unreachable!("none of them needs a host")
        }
    }?;
    host.leave()?;
    Ok(report)
}
