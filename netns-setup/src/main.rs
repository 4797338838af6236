//! Make a named network namespace and the veth pair that leads to it.
#![forbid(unsafe_code)]

mod act;
mod address;
mod cli;
mod dns;
mod document;
mod error;
mod exec;
mod firewall;
mod forwarding;
mod gc;
mod generate;
mod kernel;
mod mark;
mod nat;
mod netlink;
mod netns;
mod plan;
mod publish;
mod signals;
mod socket;
mod state;
mod status;
mod steps;
mod wanted;

use crate::{
    cli::{Cli, Verb},
    error::Error,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    Cli::parse_or_usage()
        .and_then(|cli| run(&cli).map_err(Error::report))
        .unwrap_or_else(|code| code)
}

fn run(cli: &Cli) -> Result<ExitCode, Error> {
    // One of the two is there, or clap would have shown the help.
    let Some(verb) = &cli.verb else {
        return cli.generate.map_or(Ok(()), generate::print).map(|()| ExitCode::SUCCESS);
    };
    match verb {
        Verb::Up(up) => act::up(up),
        Verb::Down(down) => act::down(down),
        Verb::Status(which) => status::print(which),
        Verb::Check(network) => act::check(network),
        Verb::Exec(exec) => exec::exec(exec),
        Verb::Gc(gc) => gc::collect(gc),
    }
}
