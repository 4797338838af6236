//! The lab's table: sysbench in a container of ours, in Docker's, and on the host.

use crate::{
    error::{Attempt as _, Error},
    host::{Host, NETNS},
    measure::{Argv, Missing, words},
    peers::{Container, Docker},
    report::{Report, digits},
    stats::{Summary, ratio},
};
use rand::{rngs::OsRng, seq::SliceRandom as _};
use serde_json::json;
use std::fs;

const TEXT: &str = "\
sysbench measures itself, in *my container* (`cgroup-apply run … ns-spawn …`, everything at its default, seccomp filter and limits \
on), in Docker's, and on the *host*, which is measured twice: how far it is from itself is the noise. All run the same \
sysbench with the same libraries; the files lie on the same file system, with `--overlay` in an upper directory there. The limits are 64 \
processes and 2 GiB: with less, the page cache of 1 GiB of files would not be the container's, and the reading would be the disk's. \
Each test is run in all columns, in another order each round, before the next; the disk is synced between them.";

/// What sysbench is asked, and how its answer is found.
struct Test {
    name: &'static str,
    unit: &'static str,
    arguments: &'static str,
    /// The number is the word after this.
    before: &'static str,
}

/// In this order: a writer that is stopped by the clock leaves short files, which no reader takes.
const TESTS: [Test; 5] = [
    Test {
        name: "CPU, primes to 20000",
        unit: "events/s",
        arguments: "cpu --cpu-max-prime=20000 --time=3 run",
        before: "events per second:",
    },
    Test {
        name: "memory, 1K blocks, 4G",
        unit: "MiB/s",
        arguments: "memory --memory-block-size=1K --memory-total-size=4G run",
        before: "transferred (",
    },
    Test {
        name: "files, prepare",
        unit: "MiB/s",
        arguments: "fileio --file-total-size=1G --file-num=128 prepare",
        before: "seconds (",
    },
    Test {
        name: "files, sequential read",
        unit: "MiB/s",
        arguments: "fileio --file-total-size=1G --file-num=128 --file-test-mode=seqrd --time=3 run",
        before: "read, MiB/s:",
    },
    Test {
        name: "files, sequential write",
        unit: "MiB/s",
        arguments: "fileio --file-total-size=1G --file-num=128 --file-test-mode=seqwr --time=3 run",
        before: "written, MiB/s:",
    },
];

/// Where sysbench runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Mine,
    MineOverlay,
    Docker,
    Host,
    HostAgain,
    Bwrap,
    Crun,
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Mine => "my container",
            Self::MineOverlay => "my container, --overlay",
            Self::Docker => "Docker",
            Self::Host => "host",
            Self::HostAgain => "host again",
            Self::Bwrap => "bwrap",
            Self::Crun => "crun",
        }
    }
}

/// The columns, and what each needs.
struct Lab<'a> {
    host: &'a Host,
    docker: Option<Docker<'a>>,
}

pub(crate) fn measure(host: &Host, rounds: usize) -> Result<Report, Error> {
    host.make_network()?;
    Host::without_hybrid_cgroups()?;
    let rootfs = host.rootfs(&["sysbench", "true"])?.display().to_string();
    let (docker, missing) = match Docker::new(host, &rootfs)? {
        Ok(docker) => (Some(docker), None),
        Err(reason) => (None, Some(Missing { name: "Docker".into(), reason })),
    };
    let mut columns =
        vec![Column::Mine, Column::MineOverlay, Column::Docker, Column::Host, Column::HostAgain];
    columns.extend(Host::find("bwrap").map(|_| Column::Bwrap));
    columns.extend(Host::find("crun").map(|_| Column::Crun));
    let lab = Lab { host, docker };
    let present: Vec<Column> = columns
        .iter()
        .copied()
        .filter(|column| *column != Column::Docker || lab.docker.is_some())
        .collect();
    let mut samples = vec![vec![vec![]; columns.len()]; TESTS.len()];
    for _ in 0..rounds {
        lab.begin(&present)?;
        for (test, row) in TESTS.iter().zip(&mut samples) {
            let mut order = present.clone();
            order.shuffle(&mut OsRng);
            for column in order {
                let at = columns.iter().position(|other| *other == column).unwrap_or_default();
                row[at].push(lab.run(test, column)?);
            }
        }
    }
    let mut report = Report::new("table", "The lab's table", rounds);
    report.say(TEXT);
    tables(&mut report, &columns, &samples);
    report.missing(&Vec::from_iter(missing));
    let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
    let tests: Vec<&str> = TESTS.iter().map(|test| test.name).collect();
    report.keep("table", json!({ "tests": tests, "columns": names, "samples": samples }));
    let ratios = plotted(&columns, &samples);
    report.draw("table", "The lab's table: container ÷ host, quartiles of the rounds", &ratios)?;
    Ok(report)
}

impl Lab<'_> {
    /// Where a column's files are: in the tree, where a container has it as its root.
    fn directory(&self, column: Column) -> String {
        let scratch = self.host.scratch().display();
        let place = match column {
            Column::Mine | Column::Bwrap | Column::Crun => "/rootfs",
            Column::MineOverlay | Column::Docker | Column::Host | Column::HostAgain => "",
        };
        format!("{scratch}{place}/data-{}", column as u8)
    }

    /// Take away what the last round wrote, and make an empty directory for each column.
    fn begin(&self, columns: &[Column]) -> Result<(), Error> {
        // The overlay's files are in its upper directory; in the tree it needs the place.
        let place = self.host.scratch().join("rootfs/data-1").display().to_string();
        for dir in columns.iter().map(|column| self.directory(*column)).chain([place]) {
            if fs::exists(&dir).unwrap_or(false) {
                fs::remove_dir_all(&dir).attempt(|| format!("cannot remove '{dir}'"))?;
            }
            fs::create_dir(&dir).attempt(|| format!("cannot make '{dir}'"))?;
        }
        Ok(())
    }

    fn run(&self, test: &Test, column: Column) -> Result<f64, Error> {
        let argv = self.command(test, column)?;
        self.host.runner.must_succeed(&words("sync"))?;
        let said = self.host.runner.output(&argv)?;
        let number = said.split_once(test.before).and_then(|(_, rest)| {
            let mut words =
                rest.trim_start().split(|end: char| !(end.is_ascii_digit() || end == '.'));
            words.next()?.parse().ok()
        });
        number.ok_or_else(|| Error::new(format!("sysbench did not say '{}': {said}", test.before)))
    }

    fn command(&self, test: &Test, column: Column) -> Result<Argv, Error> {
        let rootfs = self.host.scratch().join("rootfs").display().to_string();
        let (dir, sysbench) =
            (self.directory(column), format!("/usr/bin/sysbench {}", test.arguments));
        let workdir = format!("/data-{}", column as u8);
        let container = |command| Container {
            host: self.host,
            rootfs: &rootfs,
            netns: NETNS,
            command,
            workdir: &workdir,
        };
        Ok(match column {
            Column::Host | Column::HostAgain => {
                vec!["sh".into(), "-c".into(), format!("cd {dir} && exec {sysbench}")]
            }
            Column::Mine => container(&sysbench).limited("2G", "")?,
            Column::MineOverlay => {
                container(&sysbench).limited("2G", &format!("--overlay={dir}"))?
            }
            Column::Bwrap => container(&sysbench).bwrap(),
            Column::Crun => container(&sysbench).oci("crun", "")?,
            Column::Docker => {
                let options =
                    format!("--pids-limit 64 --memory 2G --volume {dir}:/data --workdir /data");
                self.docker.as_ref().map_or_else(Vec::new, |docker| docker.run(&options, &sysbench))
            }
        })
    }
}

fn tables(report: &mut Report, columns: &[Column], samples: &[Vec<Vec<f64>>]) {
    let head: Vec<&str> =
        [""].into_iter().chain(columns.iter().map(|column| column.name())).collect();
    let host = columns.iter().position(|column| *column == Column::Host).unwrap_or_default();
    let (mut values, mut ratios) = (vec![], vec![]);
    for (test, row) in TESTS.iter().zip(samples) {
        let cells = |cell: &dyn Fn(&[f64]) -> String| -> Vec<String> {
            let shown = |samples: &Vec<f64>| {
                if samples.is_empty() { "missing".to_owned() } else { cell(samples) }
            };
            row.iter().map(shown).collect()
        };
        let mut line = vec![format!("{}, {}", test.name, test.unit)];
        line.extend(cells(&|samples| {
            let summary = Summary::of(samples);
            format!("{} [{}–{}]", digits(summary.median), digits(summary.min), digits(summary.max))
        }));
        values.push(line);
        let mut line = vec![test.name.to_owned()];
        line.extend(cells(&|samples| {
            let ratio = ratio(samples, &row[host]);
            format!("{:.3} [{:.3}–{:.3}]", ratio.median, ratio.p25, ratio.p75)
        }));
        ratios.push(line);
    }
    report.say("Medians [least–most]; more is better:");
    report.table(&head, &values);
    report.say("Ratio to the host in the same round: median [quartiles]:");
    report.table(&head, &ratios);
}

fn plotted(columns: &[Column], samples: &[Vec<Vec<f64>>]) -> Vec<(String, Summary)> {
    let host = columns.iter().position(|column| *column == Column::Host).unwrap_or_default();
    let mut rows = vec![];
    for (test, row) in TESTS.iter().zip(samples) {
        for (column, samples) in columns.iter().zip(row) {
            if *column != Column::Host && !samples.is_empty() {
                rows.push((
                    format!("{}: {}", column.name(), test.name),
                    ratio(samples, &row[host]),
                ));
            }
        }
    }
    rows
}
