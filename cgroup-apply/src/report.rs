//! What COMMAND used and what the limits did to it: read from the cgroup before and after, told in a line
//! each when a limit was reached, and written as JSON if asked for.

use crate::{
    error::{self, Attempt as _, Error},
    hierarchy::{Tree, Version},
    interface,
    limits::human,
    name::Name,
    processes::below,
    sys,
};
use Form::{Fields, Key, Whole, Words};
use Kind::{Counter, Peak};
use Version::{V1, V2};
use serde_json::{Map, Value};
use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    str::FromStr,
};

/// The controllers that count, where they are there to do it: the cgroup has to be made for them.
pub(crate) const COUNTING: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "io", "blkio"];

/// A number that the kernel keeps about a cgroup.
struct Source {
    section: &'static str,
    name: &'static str,
    kind: Kind,
    /// Where it may be found; the first that can be read counts.
    places: &'static [Spot],
}

/// Whether a number grows with use, or is the highest seen in the cgroup's life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Peak,
}

/// An interface file and how the number is written in it.
struct Spot {
    version: Version,
    controller: &'static str,
    file: &'static str,
    form: Form,
    /// What the file's unit is divided by.
    divisor: u64,
}

/// How a number is written.
enum Form {
    /// The file is the number.
    Whole,
    /// The number is behind this word on a line.
    Key(&'static str),
    /// The sum of "DEVICE WORD NUMBER" lines.
    Words(&'static str),
    /// The sum of WORD=NUMBER on the lines that begin so.
    Fields(&'static str, &'static str),
}

const fn at(version: Version, controller: &'static str, file: &'static str, form: Form) -> Spot {
    Spot { version, controller, file, form, divisor: 1 }
}

/// The same, of a file that counts nanoseconds.
const fn ns(controller: &'static str, file: &'static str, form: Form) -> Spot {
    Spot { version: V1, controller, file, form, divisor: 1000 }
}

/// On v2 the CPU time and the pressure belong to no controller: `cgroup` stands for the files of the core.
/// So they are counted on a hybrid host, too.
const SOURCES: [Source; 18] = [
    source(
        "memory",
        "peak_bytes",
        Peak,
        &[
            at(V2, "memory", "memory.peak", Whole),
            at(V1, "memory", "memory.max_usage_in_bytes", Whole),
        ],
    ),
    source(
        "memory",
        "limit_hits",
        Counter,
        &[at(V2, "memory", "memory.events", Key("max")), at(V1, "memory", "memory.failcnt", Whole)],
    ),
    source(
        "memory",
        "oom_kills",
        Counter,
        &[
            at(V2, "memory", "memory.events", Key("oom_kill")),
            at(V1, "memory", "memory.oom_control", Key("oom_kill")),
        ],
    ),
    source(
        "cpu",
        "usage_usec",
        Counter,
        &[at(V2, "cgroup", "cpu.stat", Key("usage_usec")), ns("cpuacct", "cpuacct.usage", Whole)],
    ),
    source(
        "cpu",
        "user_usec",
        Counter,
        &[
            at(V2, "cgroup", "cpu.stat", Key("user_usec")),
            ns("cpuacct", "cpuacct.usage_user", Whole),
        ],
    ),
    source(
        "cpu",
        "system_usec",
        Counter,
        &[
            at(V2, "cgroup", "cpu.stat", Key("system_usec")),
            ns("cpuacct", "cpuacct.usage_sys", Whole),
        ],
    ),
    source(
        "cpu",
        "periods",
        Counter,
        &[
            at(V2, "cpu", "cpu.stat", Key("nr_periods")),
            at(V1, "cpu", "cpu.stat", Key("nr_periods")),
        ],
    ),
    source(
        "cpu",
        "throttled_periods",
        Counter,
        &[
            at(V2, "cpu", "cpu.stat", Key("nr_throttled")),
            at(V1, "cpu", "cpu.stat", Key("nr_throttled")),
        ],
    ),
    source(
        "cpu",
        "throttled_usec",
        Counter,
        &[
            at(V2, "cpu", "cpu.stat", Key("throttled_usec")),
            ns("cpu", "cpu.stat", Key("throttled_time")),
        ],
    ),
    source(
        "pids",
        "peak",
        Peak,
        &[at(V2, "pids", "pids.peak", Whole), at(V1, "pids", "pids.peak", Whole)],
    ),
    source(
        "pids",
        "forks_refused",
        Counter,
        &[at(V2, "pids", "pids.events", Key("max")), at(V1, "pids", "pids.events", Key("max"))],
    ),
    source(
        "io",
        "read_bytes",
        Counter,
        &[
            at(V2, "io", "io.stat", Fields("", "rbytes")),
            at(V1, "blkio", "blkio.throttle.io_service_bytes_recursive", Words("Read")),
        ],
    ),
    source(
        "io",
        "write_bytes",
        Counter,
        &[
            at(V2, "io", "io.stat", Fields("", "wbytes")),
            at(V1, "blkio", "blkio.throttle.io_service_bytes_recursive", Words("Write")),
        ],
    ),
    source(
        "pressure",
        "cpu_some_usec",
        Counter,
        &[at(V2, "cgroup", "cpu.pressure", Fields("some", "total"))],
    ),
    source(
        "pressure",
        "memory_some_usec",
        Counter,
        &[at(V2, "cgroup", "memory.pressure", Fields("some", "total"))],
    ),
    source(
        "pressure",
        "memory_full_usec",
        Counter,
        &[at(V2, "cgroup", "memory.pressure", Fields("full", "total"))],
    ),
    source(
        "pressure",
        "io_some_usec",
        Counter,
        &[at(V2, "cgroup", "io.pressure", Fields("some", "total"))],
    ),
    source(
        "pressure",
        "io_full_usec",
        Counter,
        &[at(V2, "cgroup", "io.pressure", Fields("full", "total"))],
    ),
];

const fn source(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    places: &'static [Spot],
) -> Source {
    Source { section, name, kind, places }
}

impl Source {
    /// Whether [`Usage::tell`] needs it.
    fn is_told(&self) -> bool {
        matches!(
            (self.section, self.name),
            ("memory", "oom_kills")
                | ("pids", "forks_refused")
                | ("cpu", "periods" | "throttled_periods" | "throttled_usec")
        )
    }
}

/// A reading of the [`SOURCES`]; `None` is what is not counted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage(Vec<Option<u64>>);

impl Usage {
    /// Read all of them, or only those that a line may be told about.
    pub(crate) fn read(tree: &Tree, name: &Name, all: bool) -> Self {
        let mut texts = Texts::default();
        let mut number = |source: &Source| {
            let is_wanted = all || source.is_told();
            source
                .places
                .iter()
                .filter(|_| is_wanted)
                .find_map(|spot| spot.read(tree, name, &mut texts))
        };
        Self(SOURCES.iter().map(&mut number).collect())
    }

    /// That of a cgroup in which nothing has run yet.
    pub(crate) fn none() -> Self {
        Self(vec![None; SOURCES.len()])
    }

    /// What was used since `before`: the cgroup may be older than the run.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let pairs = SOURCES.iter().zip(self.0.iter().zip(&before.0));
        let used = pairs.map(|(source, (after, before))| match source.kind {
            Peak => *after,
            Counter => after.map(|after| after.saturating_sub(before.unwrap_or(0))),
        });
        Self(used.collect())
    }

    fn get(&self, section: &str, name: &str) -> u64 {
        let is_it = |source: &Source| source.section == section && source.name == name;
        let found = SOURCES.iter().position(is_it).and_then(|index| self.0[index]);
        found.unwrap_or(0)
    }

    /// Tell which limits were reached.
    pub(crate) fn tell(&self, tree: &Tree, name: &Name) {
        self.lines(tree, name).iter().for_each(error::tell);
    }

    fn lines(&self, tree: &Tree, name: &Name) -> Vec<String> {
        let mut lines = vec![];
        let killed = self.get("memory", "oom_kills");
        if killed > 0 {
            let who = counted(killed, "process was", "processes were");
            lines.push(match memory_limit(tree, name) {
                Some(limit) => format!("memory limit {limit} reached: {who} killed (OOM)"),
                None => format!("{who} killed (OOM)"),
            });
        }
        let refused = self.get("pids", "forks_refused");
        if refused > 0 {
            let limit = text(tree, name, "pids", "pids.max").unwrap_or_default();
            let what = counted(refused, "fork was", "forks were");
            lines.push(format!("pids limit {} reached: {what} refused", limit.trim()));
        }
        let throttled = self.get("cpu", "throttled_periods");
        if throttled > 0 {
            let periods = self.get("cpu", "periods").max(throttled);
            let ms = self.get("cpu", "throttled_usec") / 1000;
            lines.push(format!(
                "cpu limit{} reached: throttled in {throttled} of {}, for {ms} ms of CPU time",
                cpu_limit(tree, name).unwrap_or_default(),
                counted(periods, "period", "periods"),
            ));
        }
        lines
    }

    /// As JSON, with the status that the run ends with.
    pub(crate) fn json(&self, name: &Name, status: u8) -> String {
        let mut object = Map::new();
        object.insert("name".into(), name.to_string().into());
        object.insert("status".into(), status.into());
        for (source, number) in SOURCES.iter().zip(&self.0) {
            let Some(number) = number else { continue };
            let section = object.entry(source.section).or_insert_with(|| Map::new().into());
            if let Value::Object(section) = section {
                section.insert(source.name.into(), (*number).into());
            }
        }
        Value::Object(object).to_string()
    }
}

/// "1 fork was", "2 forks were".
fn counted(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

impl Spot {
    fn read(&self, tree: &Tree, name: &Name, texts: &mut Texts) -> Option<u64> {
        let hierarchy = match self.controller {
            "cgroup" => tree.v2()?,
            controller => tree.of(controller).ok().filter(|home| home.version == self.version)?,
        };
        let dir = hierarchy.base.join(name.path());
        // v1 counts the kills of each cgroup alone, v2 with those below.
        if self.file == "memory.oom_control" {
            let dirs = below(&dir).into_iter();
            return Some(
                dirs.filter_map(|dir| self.form.number(texts.of(dir.join(self.file))?)).sum(),
            );
        }
        self.form.number(texts.of(dir.join(self.file))?).map(|number| number / self.divisor)
    }
}

/// The interface files that were read: several numbers are in one.
#[derive(Default)]
struct Texts(Vec<(PathBuf, Option<String>)>);

impl Texts {
    fn of(&mut self, file: PathBuf) -> Option<&str> {
        let known = self.0.iter().position(|(path, _)| *path == file).unwrap_or_else(|| {
            let text = interface::read(&file).ok();
            self.0.push((file, text));
            self.0.len() - 1
        });
        self.0[known].1.as_deref()
    }
}

impl Form {
    fn number(&self, text: &str) -> Option<u64> {
        match self {
            Whole => text.trim().parse().ok(),
            Key(key) => text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()),
            Words(word) => {
                let of = |line: &str| {
                    let mut words = line.split(' ').skip(1);
                    (words.next() == Some(*word)).then(|| words.next()?.parse::<u64>().ok())?
                };
                Some(text.lines().filter_map(of).sum())
            }
            Fields(start, word) => {
                let of = |line: &str| {
                    let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
                    let (_, number) = fields.find(|(key, _)| key == word)?;
                    number.parse::<u64>().ok()
                };
                Some(text.lines().filter(|line| line.starts_with(start)).filter_map(of).sum())
            }
        }
    }
}

/// The memory limit in effect, if there is one.
fn memory_limit(tree: &Tree, name: &Name) -> Option<String> {
    let limit = ["memory.max", "memory.limit_in_bytes"]
        .iter()
        .find_map(|file| text(tree, name, "memory", file))?;
    // v1 writes "none" as a number that no machine has.
    limit.trim().parse().ok().filter(|bytes| *bytes < 1 << 62).map(human)
}

/// The CPU limit in effect with a blank before it, as CPUs: the form in which it is most often asked for.
fn cpu_limit(tree: &Tree, name: &Name) -> Option<String> {
    let pair = text(tree, name, "cpu", "cpu.max").or_else(|| {
        let quota = text(tree, name, "cpu", "cpu.cfs_quota_us")?;
        Some(format!("{} {}", quota.trim(), text(tree, name, "cpu", "cpu.cfs_period_us")?))
    })?;
    let (quota, period) = pair.trim().split_once(' ')?;
    let hundredths = quota.parse::<u64>().ok()? * 100 / period.parse::<u64>().ok()?;
    Some(format!(" {hundredths}%"))
}

/// The text of an interface file of `controller`, wherever that lives.
fn text(tree: &Tree, name: &Name, controller: &str, file: &str) -> Option<String> {
    let dir: PathBuf = tree.of(controller).ok()?.base.join(name.path());
    interface::read(dir.join(file)).ok()
}

/// Where the statistics go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StatsTo {
    Stdout,
    Descriptor(i32),
    File(PathBuf),
}

impl FromStr for StatsTo {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("a file, the number of a descriptor, or '-' is expected".into()),
            "-" => Ok(Self::Stdout),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => text
                .parse()
                .map(Self::Descriptor)
                .map_err(|_| "no descriptor has this number; a file is './NUMBER'".into()),
            _ => Ok(Self::File(text.into())),
        }
    }
}

/// Where the statistics go, opened before anything is changed.
#[derive(Debug)]
pub(crate) struct Stats {
    file: File,
    shown: String,
    is_regular: bool,
}

impl StatsTo {
    /// Open it, so that what cannot be written is refused early.
    pub(crate) fn open(&self) -> Result<Stats, Error> {
        let (file, shown) = match self {
            Self::Stdout => (sys::inherited(1), "standard output".into()),
            Self::Descriptor(fd) => (sys::inherited(*fd), format!("descriptor {fd}")),
            Self::File(path) => {
                let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
                (file, format!("'{}'", path.display()))
            }
        };
        let is_regular = matches!(self, Self::File(path) if path.is_file());
        let file = file.attempt(|| format!("cannot write statistics to {shown}"))?;
        Ok(Stats { file, shown, is_regular })
    }
}

impl Stats {
    /// Write one line.
    pub(crate) fn write(mut self, line: &str) -> Result<(), Error> {
        // What the file held before is gone only now that there is something to take its place.
        let emptied = if self.is_regular { self.file.set_len(0) } else { Ok(()) };
        emptied
            .and_then(|()| writeln!(self.file, "{line}"))
            .attempt(|| format!("cannot write statistics to {}", self.shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_interface_file_is_too_strange(text in "(\\PC|\\n)*", word in "[a-z]{0,4}") {
            let word: &'static str = word.leak();
            for form in [Whole, Key(word), Words(word), Fields(word, word)] {
                std::hint::black_box(form.number(&text));
            }
            let with_key = text + "\nk 7\n";
            prop_assert!(Key("k").number(&with_key).is_some());
        }
    }

    #[test]
    fn numbers_are_found_in_every_form_the_kernel_writes() {
        assert_eq!(Whole.number("4096\n"), Some(4096));
        assert_eq!(Whole.number("max\n"), None);
        assert_eq!(Key("max").number("low 1\nmax 7\noom 2\n"), Some(7));
        assert_eq!(Key("oom").number("oom_kill 3\noom 2\n"), Some(2));
        assert_eq!(Key("oom").number(""), None);
        let v1 = "8:0 Read 10\n8:0 Write 20\n8:16 Read 5\nTotal 35\n";
        assert_eq!(Words("Read").number(v1), Some(15));
        let v2 = "8:0 rbytes=1 wbytes=2 rios=1\n8:16 rbytes=4 wbytes=8\n";
        assert_eq!(Fields("", "wbytes").number(v2), Some(10));
        assert_eq!(Fields("", "rbytes").number(""), Some(0));
        let psi = "some avg10=0.00 avg60=0.00 total=12\nfull avg10=0.00 total=3\n";
        assert_eq!(Fields("some", "total").number(psi), Some(12));
        assert_eq!(Fields("full", "total").number(psi), Some(3));
    }

    #[test]
    fn counters_are_the_runs_own_and_peaks_the_cgroups() {
        let reading = |number| Usage(vec![Some(number); SOURCES.len()]);
        let used = reading(10).since(&reading(4));
        assert_eq!(used.get("memory", "peak_bytes"), 10);
        assert_eq!(used.get("memory", "oom_kills"), 6);
        // A counter that began with the run has no reading before it.
        assert_eq!(reading(10).since(&Usage::none()).get("cpu", "usage_usec"), 10);
    }

    #[test]
    fn what_is_not_counted_is_absent() {
        let mut numbers = vec![None; SOURCES.len()];
        numbers[0] = Some(4096);
        let name = "x".parse().unwrap();
        let json = r#"{"name":"x","status":7,"memory":{"peak_bytes":4096}}"#;
        let json: Value = serde_json::from_str(json).unwrap();
        let said: Value = serde_json::from_str(&Usage(numbers).json(&name, 7)).unwrap();
        assert_eq!(said, json);
    }

    #[test]
    fn statistics_go_to_a_file_a_descriptor_or_standard_output() {
        assert_eq!("-".parse(), Ok(StatsTo::Stdout));
        assert_eq!("3".parse(), Ok(StatsTo::Descriptor(3)));
        assert_eq!("./3".parse(), Ok(StatsTo::File("./3".into())));
        assert!("".parse::<StatsTo>().is_err());
        assert!("99999999999".parse::<StatsTo>().is_err());
    }
}
