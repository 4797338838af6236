//! Make a cgroup, set its limits, run a command inside it.
#![deny(unsafe_code)]
#![cfg_attr(not(test), no_main)] // the C library calls sys.rs, which calls main

mod cgroup;
mod cli;
mod error;
mod generate;
mod hierarchy;
mod interface;
mod limits;
mod lock;
mod name;
mod plan;
mod processes;
mod report;
mod resources;
mod run;
mod show;
#[expect(
    unsafe_code,
    reason = "clone3 into a cgroup, the start of the program: what spares them is told in the file"
)]
mod sys;

use crate::{
    cli::{Cli, Verb},
    error::{Attempt as _, Error},
};
use std::path::Path;

fn main() -> u8 {
    if let Err(err) = sys::outlive_readers().attempt(|| "cannot ignore SIGPIPE".into()) {
        return err.report(false);
    }
    let Cli { generate, verb } = match Cli::parse_or_usage() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // One of the two is there, or clap would have shown the help.
    let Some(verb) = verb else {
        let printed = generate.map_or(Ok(()), generate::print);
        return printed.map_or_else(|err| err.report(false), |()| 0);
    };
    error::be_verbose(verb.steps().verbose);
    let runs_command = matches!(verb, Verb::Run(_));
    act(&verb).unwrap_or_else(|err| err.report(runs_command))
}

fn act(verb: &Verb) -> Result<u8, Error> {
    let dry_run = verb.steps().dry_run;
    let tree = hierarchy::Tree::read(Path::new("/"), nix::unistd::geteuid().is_root())?;
    match verb {
        Verb::Run(args) => run::run(&tree, args, dry_run),
        Verb::Create(args) => cgroup::create(&tree, args, dry_run),
        Verb::Delete(args) => cgroup::delete(&tree, args, dry_run),
        Verb::Add(args) => processes::add(&tree, args, dry_run),
        Verb::Freeze(args) => processes::freeze(&tree, &args.name, dry_run),
        Verb::Thaw(args) => processes::thaw(&tree, &args.name, dry_run),
        Verb::Kill(args) => processes::kill(&tree, &args.name, dry_run),
        Verb::Show(args) => show::show(&tree, args),
        Verb::Info(args) => show::info(&tree, args),
    }
}
