//! What COMMAND gets of the machine: resource limits, niceness, CPUs, OOM score, clock offsets.

use crate::{
    cli::Cli,
    error::{Attempt as _, Error},
};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    sys::{
        resource::{Resource, setrlimit},
        statfs::{PROC_SUPER_MAGIC, fstatfs},
    },
    unistd::Pid,
};
use std::{
    fs::OpenOptions,
    io::{self, Write as _},
};

/// The settings asked for.
#[derive(Debug, Default)]
pub(crate) struct Scheduling {
    limits: Vec<(String, Resource, u64, u64)>,
    nice: Option<i32>,
    cpus: Option<(String, CpuSet)>,
    oom_score_adj: Option<i32>,
}

/// prlimit(1)'s names.
const RESOURCES: [(&str, Resource); 15] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

impl Scheduling {
    pub(crate) fn new(cli: &Cli) -> Result<Self, Error> {
        Ok(Self {
            limits: cli.rlimit.iter().map(|word| limit(word)).collect::<Result<_, _>>()?,
            nice: cli.nice,
            cpus: cli.cpu_affinity.as_deref().map(cpus).transpose()?,
            oom_score_adj: cli.oom_score_adj,
        })
    }

    /// Apply them to this process. It still has the privileges that some of them need.
    pub(crate) fn apply(&self) -> Result<(), Error> {
        if let Some(score) = self.oom_score_adj {
            write_oom_score_adj(&score.to_string())
                .attempt(|| format!("cannot set the OOM score adjustment {score}"))
                .map_err(|err| err.hint_on(Errno::EACCES, "lowering it takes CAP_SYS_RESOURCE"))?;
        }
        if let Some(nice) = self.nice {
            rustix::process::setpriority_process(None, nice)
                .attempt(|| format!("cannot set niceness {nice}"))
                .map_err(|err| err.hint_on(Errno::EACCES, "lowering it takes CAP_SYS_NICE"))?;
        }
        if let Some((shown, cpus)) = &self.cpus {
            sched_setaffinity(Pid::from_raw(0), cpus)
                .attempt(|| format!("cannot run on CPUs '{shown}'"))
                .map_err(|err| err.hint_on(Errno::EINVAL, "none of them is there, or allowed"))?;
        }
        for (shown, resource, soft, hard) in &self.limits {
            setrlimit(*resource, *soft, *hard)
                .attempt(|| format!("cannot set the resource limit '{shown}'"))
                .map_err(|err| err.hint_on(Errno::EPERM, "raising it takes CAP_SYS_RESOURCE"))?;
        }
        Ok(())
    }

    /// Words of prlimit(1), taskset(1), nice(1) and choom(1) that would do the same.
    pub(crate) fn shell_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(score) = self.oom_score_adj {
            words.extend(["choom".into(), "-n".into(), score.to_string(), "--".into()]);
        }
        if let Some(nice) = self.nice {
            words.extend(["nice".into(), "-n".into(), nice.to_string()]);
        }
        if let Some((shown, _)) = &self.cpus {
            words.extend(["taskset".into(), "--cpu-list".into(), shown.clone()]);
        }
        if !self.limits.is_empty() {
            words.push("prlimit".into());
            words.extend(self.limits.iter().map(|(shown, ..)| format!("--{shown}")));
        }
        words
    }
}

/// The root directory may have a /proc of its own, where it would be lost, or worse: CVE-2025-52881.
fn write_oom_score_adj(score: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open("/proc/self/oom_score_adj")?;
    if fstatfs(&file)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(Errno::ENOENT.into());
    }
    file.write_all(score.as_bytes())
}

/// `NAME=SOFT[:HARD]`.
fn limit(word: &str) -> Result<(String, Resource, u64, u64), Error> {
    let wrong = |why: &str| Error::new(format!("'{word}' is no resource limit: {why}"));
    let (name, values) =
        word.split_once('=').ok_or_else(|| wrong("it has the form NAME=SOFT[:HARD]"))?;
    let resource =
        RESOURCES.iter().find(|(known, _)| *known == name).map(|(_, resource)| *resource);
    let resource = resource.ok_or_else(|| {
        let known: Vec<_> = RESOURCES.iter().map(|(known, _)| *known).collect();
        wrong(&format!("the kernel has {}", known.join(", ")))
    })?;
    let value = |text: &str| match text {
        "unlimited" => Ok(u64::MAX), // RLIM_INFINITY
        number => number.parse().map_err(|_| wrong("a value is a number or 'unlimited'")),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft > hard {
        return Err(wrong("the soft limit is above the hard one"));
    }
    Ok((word.to_owned(), resource, soft, hard))
}

/// `0-3,8`: the kernel's list format.
fn cpus(list: &str) -> Result<(String, CpuSet), Error> {
    let wrong = || Error::new(format!("'{list}' is no list of CPUs, such as 0-3,8"));
    let mut chosen = CpuSet::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
        let (from, to) = (number(from)?, number(to)?);
        if from > to || to >= CpuSet::count() {
            return Err(wrong());
        }
        for cpu in from..=to {
            chosen.set(cpu).map_err(|_| wrong())?;
        }
    }
    Ok((list.to_owned(), chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_name_and_one_or_two_values() {
        let read = |word| {
            limit(word).map(|(_, _, soft, hard)| (soft, hard)).map_err(|err| err.to_string())
        };
        assert_eq!(read("nofile=10"), Ok((10, 10)));
        assert_eq!(read("nofile=10:unlimited"), Ok((10, u64::MAX)));
        for wrong in ["nofile", "nofile=", "nofile=x", "nosuch=1", "nofile=2:1", "nofile=-1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpu_lists_are_the_kernels() {
        let read = |list: &str| {
            cpus(list)
                .ok()
                .map(|(_, set)| (0..20).filter(|cpu| set.is_set(*cpu).unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(read("0-2,5"), Some(vec![0, 1, 2, 5]));
        for wrong in ["", "x", "2-1", "0,", "99999", "-1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
