//! Whether this host can make root file systems; if not, why, and what helps.

use crate::{
    bootstrap::Bootstrap,
    error::{Attempt as _, Error},
    http,
    source::{MIRRORS, machine_arch},
    userns::{GET_RANGES, Rights},
};
use std::{
    fs,
    io::{self, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

/// How long servers are waited for, all at the same time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the base with sysbench takes on disk while it is made, in MiB: the archive, the tree, apt's lists.
const DISK: u64 = 1024;

/// What apt and the unpacker take, in MiB.
const MEMORY: u64 = 512;

/// Why something is not there, and what helps.
type Missing = Option<(String, String)>;

/// Print what was found: 0 if root file systems can be made, 1 if not.
pub(crate) fn print() -> Result<ExitCode, Error> {
    let (server, mirror) = (server(), mirror());
    let sourceless = server.is_some() && mirror.is_some();
    let findings = [
        ("privileges to give files to their owners", privileges(), true),
        ("a server of the Ubuntu base", server, sourceless),
        ("an apt mirror to build a tree from, and a tool for it", mirror, sourceless),
        ("disk space in this directory", disk()?, true),
        ("memory", memory()?, true),
    ];
    let line = |(what, missing, needed): &(&str, Missing, bool)| match (missing, needed) {
        (None, _) => format!("yes  {what}\n"),
        (Some((why, help)), true) => format!("NO   {what}: {why}\n     hint: {help}\n"),
        (Some((why, help)), false) => format!("no   {what}: {why}\n     hint: {help}\n"),
    };
    let text: String = findings.iter().map(line).collect();
    io::stdout().write_all(text.as_bytes()).attempt(|| "cannot write to standard output".into())?;
    let able = findings.iter().all(|(_, missing, needed)| missing.is_none() || !needed);
    Ok(if able { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn privileges() -> Missing {
    match Rights::look() {
        Rights::Root | Rights::Ranges(_) => None,
        Rights::Alone(why) => Some((why, GET_RANGES.into())),
    }
}

fn server() -> Missing {
    let asked: Vec<_> = MIRRORS
        .into_iter()
        .map(|mirror| {
            let list = format!("{mirror}/releases/20.04/release/SHA256SUMS");
            thread::spawn(move || http::exists(&list, PATIENCE))
        })
        .collect();
    let any = asked.into_iter().any(|answer| answer.join().unwrap_or(false));
    (!any).then(|| {
        let help = "set https_proxy, name a server with --mirror, or give --or-bootstrap";
        (format!("none of {} answers", MIRRORS.len()), help.into())
    })
}

fn mirror() -> Missing {
    let (why, hint) = Bootstrap::instead(machine_arch()).err()?.into_parts();
    Some((
        why,
        hint.unwrap_or_else(|| "name a suite with --bootstrap, a server with --mirror".into()),
    ))
}

fn disk() -> Result<Missing, Error> {
    let there = rustix::fs::statvfs(".").attempt(|| "cannot look at '.'".into())?;
    let free = there.f_bavail.saturating_mul(there.f_frsize) >> 20;
    let help = "make room, or make the tree elsewhere";
    Ok((free < DISK).then(|| (format!("{free} MiB of {DISK} are free"), help.into())))
}

fn memory() -> Result<Missing, Error> {
    let told =
        fs::read_to_string("/proc/meminfo").attempt(|| "cannot read '/proc/meminfo'".into())?;
    let available = told.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = available.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let free = free.map_or(MEMORY, |kib| kib >> 10);
    let help = "end something that has much of it";
    Ok((free < MEMORY).then(|| (format!("{free} MiB of {MEMORY} are available"), help.into())))
}
