//! Many containers alive at once, and many starts at a time.

use crate::{
    error::{Attempt as _, Error},
    host::{Host, NETNS},
    measure::Argv,
    peers::Container,
    report::{Report, digits},
    stats::Summary,
};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{PidfdFlags, pidfd_open},
};
use serde_json::json;
use std::{
    collections::HashMap,
    fs,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

const TEXT: &str = "\
Containers are started one after the other and stay. A start lasts from before the tool's start until the command in the container has \
written a byte. Memory is the proportional set size (PSS) of the tool's own processes. In the end all are killed at once; the \
tear-down lasts until the last process is gone.";

const STARTS: &str = "\
Starts and ends of `/bin/true` in a second, one, two and as many at a time as there are CPUs, for two seconds each:";

/// How many are alive when it is looked at.
const COUNTS: [usize; 4] = [1, 10, 100, 500];

/// How long starts are counted.
const WINDOW: Duration = Duration::from_secs(2);

/// What came of one tool's five hundred.
struct Grown {
    name: &'static str,
    starts: Vec<f64>,
    /// KiB a container, when as many as in `COUNTS` were alive.
    pss: Vec<f64>,
    tear_down: f64,
}

pub(crate) fn measure(host: &Host, rounds: usize) -> Result<Report, Error> {
    host.make_network()?;
    let rootfs = host.rootfs(&["true"])?;
    let ready = host.compile("ready")?;
    fs::copy(&ready, rootfs.join("usr/bin/ready")).attempt(|| "cannot copy a program".into())?;
    let rootfs = rootfs.display().to_string();
    let mut report = Report::new("scale", "Scale", rounds);
    report.say(TEXT);
    let tools = tools(host, &rootfs, "/usr/bin/ready")?;
    let mut grown = vec![];
    for (name, argv) in &tools {
        grown.push(grow(host, name, argv)?);
    }
    tables(&mut report, &grown)?;
    let tools = self::tools(host, &rootfs, "/bin/true")?;
    starts_a_second(host, rounds, &tools, &mut report)?;
    Ok(report)
}

fn tools(host: &Host, rootfs: &str, command: &str) -> Result<Vec<(&'static str, Argv)>, Error> {
    let container = Container { host, rootfs, netns: NETNS, command, workdir: "/" };
    let mut tools = vec![("floor", container.floor()?), ("ns-spawn", container.ns_spawn("")?)];
    if Host::find("bwrap").is_some() {
        tools.push(("bwrap", container.bwrap()));
    }
    Ok(tools)
}

/// Containers that end with the value.
struct Fleet {
    supervisors: Vec<Pid>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for supervisor in &self.supervisors {
            kill(*supervisor, Signal::SIGKILL).ok(); // it may have ended
        }
        for supervisor in &self.supervisors {
            waitpid(*supervisor, None).ok();
        }
    }
}

fn grow(host: &Host, name: &'static str, argv: &Argv) -> Result<Grown, Error> {
    let mut fleet = Fleet { supervisors: vec![] };
    let (mut starts, mut pss) = (vec![], vec![]);
    for count in COUNTS {
        while fleet.supervisors.len() < count {
            let (supervisor, took) = host.runner.start_until_it_writes(argv)?;
            fleet.supervisors.push(supervisor);
            starts.push(took.as_secs_f64() * 1000.0);
        }
        let own = families(&fleet.supervisors);
        pss.push(own.iter().map(|pid| memory(*pid)).sum::<f64>() / small(count));
    }
    let processes = families(&fleet.supervisors);
    let ends: Vec<OwnedFd> = processes.iter().filter_map(|pid| descriptor(*pid)).collect();
    let begin = Instant::now();
    for supervisor in &fleet.supervisors {
        kill(*supervisor, Signal::SIGKILL).attempt(|| "cannot end a container".into())?;
    }
    for end in &ends {
        poll(&mut [PollFd::new(end, PollFlags::IN)], None)
            .attempt(|| "cannot wait for a container".into())?;
    }
    let tear_down = begin.elapsed().as_secs_f64() * 1000.0;
    Ok(Grown { name, starts, pss, tear_down })
}

fn descriptor(pid: i32) -> Option<OwnedFd> {
    pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// These processes and all that descend from them.
fn families(roots: &[Pid]) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or_default()).or_default().push(pid);
    }
    let mut found: Vec<i32> = roots.iter().map(|pid| pid.as_raw()).collect();
    let mut at = 0;
    while at < found.len() {
        found.extend(children.remove(&found[at]).unwrap_or_default());
        at += 1;
    }
    found
}

/// The memory of a process of the tool's, in KiB: none of the command's.
fn memory(pid: i32) -> f64 {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    if read("comm").trim() == "ready" {
        return 0.0;
    }
    let rollup = read("smaps_rollup");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "some hundred")]
fn small(count: usize) -> f64 {
    count as f64
}

fn tables(report: &mut Report, grown: &[Grown]) -> Result<(), Error> {
    let row = |grown: &Grown| {
        // A single start says little: the tenth before it are looked at with it.
        let near =
            |count: usize| Summary::of(&grown.starts[count - count.div_ceil(10)..count]).median;
        let first = Summary::of(&grown.starts[..100]).median;
        let mut row = vec![grown.name.to_owned(), digits(first)];
        row.extend(COUNTS.iter().map(|count| digits(near(*count))));
        row.push(digits(near(500) / first));
        row.extend(grown.pss.iter().map(|kib| digits(*kib)));
        row.push(digits(grown.tear_down));
        row
    };
    let head = [
        "",
        "median start of the first 100, ms",
        "the 1st",
        "the 10th",
        "the 100th",
        "the 500th",
        "500th ÷ first 100",
        "PSS at 1, KiB",
        "at 10",
        "at 100",
        "at 500",
        "tear-down of 500, ms",
    ];
    report.table(&head, &grown.iter().map(row).collect::<Vec<_>>());
    for grown in grown {
        report.keep(
            &format!("alive: {}", grown.name),
            json!({ "starts, ms": grown.starts, "pss, KiB": grown.pss, "tear-down, ms": grown.tear_down }),
        );
    }
    // Ten starts make a point.
    let line = |grown: &Grown| {
        let points =
            grown.starts.chunks(10).flat_map(|ten| vec![Summary::of(ten).median; ten.len()]);
        (grown.name.to_owned(), points.collect())
    };
    let lines: Vec<_> = grown.iter().map(line).collect();
    report.lines("scale", "Start of the Nth container while all others run, ms", &lines)
}

fn starts_a_second(
    host: &Host,
    rounds: usize,
    tools: &[(&'static str, Argv)],
    report: &mut Report,
) -> Result<(), Error> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let mut widths = vec![1, 2, cpus];
    widths.dedup();
    let mut counted = vec![vec![vec![]; widths.len()]; tools.len()];
    for _ in 0..rounds {
        for (at, width) in widths.iter().enumerate() {
            for ((_, argv), counted) in tools.iter().zip(&mut counted) {
                let ended = host.runner.count(argv, *width, WINDOW)?;
                counted[at].push(small(ended) / WINDOW.as_secs_f64());
            }
        }
    }
    let head: Vec<String> = [String::new()]
        .into_iter()
        .chain(widths.iter().map(|width| format!("{width} at a time [least–most]")))
        .collect();
    let row = |((name, _), counted): (&(&str, Argv), &Vec<Vec<f64>>)| {
        let mut row = vec![(*name).to_owned()];
        row.extend(counted.iter().map(|rates| {
            let rates = Summary::of(rates);
            format!("{} [{}–{}]", digits(rates.median), digits(rates.min), digits(rates.max))
        }));
        row
    };
    report.say(STARTS);
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    report.table(&head, &tools.iter().zip(&counted).map(row).collect::<Vec<_>>());
    let names: Vec<&str> = tools.iter().map(|(name, _)| *name).collect();
    report.keep(
        "starts a second",
        json!({ "tools": names, "at a time": widths, "samples": counted }),
    );
    Ok(())
}
