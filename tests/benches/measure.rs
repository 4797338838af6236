//! Running candidates in shuffled, interleaved rounds, and timing each.

use crate::{
    error::{Attempt as _, Error},
    host::{Host, PATH},
    stats::{Summary, ratio},
};
use nix::{
    errno::Errno,
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rand::{rngs::OsRng, seq::SliceRandom as _};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
    process::{PidfdFlags, pidfd_open},
};
use std::{
    cell::Cell,
    collections::HashSet,
    ffi::CString,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::fd::AsRawFd as _,
    path::Path,
    time::{Duration, Instant},
};

/// A command of one of the sections' runs. In its words `{n}` stands for a number that no other run has.
pub(crate) type Argv = Vec<String>;

/// The words of a command line.
pub(crate) fn words(line: &str) -> Argv {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Something to be measured beside others.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    /// What is run and timed, one after the other: up and down, say.
    pub(crate) phases: Vec<Argv>,
    /// Longer than the others: it runs in every tenth round.
    pub(crate) slow: bool,
}

impl Candidate {
    pub(crate) fn new(name: &str, phases: impl IntoIterator<Item = Argv>) -> Self {
        Self { name: name.into(), phases: phases.into_iter().collect(), slow: false }
    }

    pub(crate) fn slow(self) -> Self {
        Self { slow: true, ..self }
    }
}

/// What a section measures, and what it would if it were there.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    present: Vec<Candidate>,
    missing: Vec<Missing>,
}

/// Something that is not measured.
#[derive(Debug)]
pub(crate) struct Missing {
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl Candidates {
    /// Add a candidate that is always there.
    pub(crate) fn add(&mut self, name: &str, phases: impl IntoIterator<Item = Argv>) {
        self.push(Candidate::new(name, phases));
    }

    pub(crate) fn push(&mut self, candidate: Candidate) {
        self.present.push(candidate);
    }

    /// Name one that is not there.
    pub(crate) fn lacks(&mut self, name: &str, reason: String) {
        self.missing.push(Missing { name: name.into(), reason });
    }

    /// Add a candidate if its program is installed.
    pub(crate) fn add_if(
        &mut self,
        program: &str,
        candidate: impl FnOnce() -> Result<Candidate, Error>,
        name: &str,
    ) -> Result<(), Error> {
        match Host::find(program) {
            Some(_) => self.present.push(candidate()?),
            None => self.lacks(name, format!("missing: no '{program}' on this machine")),
        }
        Ok(())
    }
}

/// What came of some rounds.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) series: Vec<Series>,
    pub(crate) missing: Vec<Missing>,
}

impl Measured {
    /// The samples of a candidate that must be among them.
    pub(crate) fn named(&self, name: &str) -> Result<&Series, Error> {
        let series = self.series.iter().find(|series| series.candidate.name == name);
        series.ok_or_else(|| {
            let missing = self.missing.iter().find(|missing| missing.name == name);
            Error::new(
                missing.map_or_else(|| format!("no '{name}'"), |missing| missing.reason.clone()),
            )
        })
    }
}

/// The samples of one candidate: for each phase, milliseconds by round.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) candidate: Candidate,
    pub(crate) phases: Vec<Vec<f64>>,
    /// The rounds it ran in.
    pub(crate) rounds: Vec<usize>,
}

impl Series {
    fn new(candidate: Candidate) -> Self {
        Self { phases: vec![vec![]; candidate.phases.len()], rounds: vec![], candidate }
    }

    pub(crate) fn summary(&self, phase: usize) -> Summary {
        Summary::of(&self.phases[phase])
    }

    /// How many times as long as another candidate's this one's phase takes: the median of the ratios of the rounds in
    /// which both ran.
    pub(crate) fn over(&self, other: &Series, phase: usize) -> f64 {
        let pairs = self.rounds.iter().zip(&self.phases[phase]).filter_map(|(round, sample)| {
            let at = other.rounds.binary_search(round).ok()?;
            Some((*sample, other.phases[phase][at]))
        });
        let (own, others): (Vec<f64>, Vec<f64>) = pairs.unzip();
        ratio(&own, &others).median
    }
}

/// A run that takes longer hangs.
const HANGS: Duration = Duration::from_secs(900);

/// Starts commands, waits for them, and hears of the user's signals meanwhile.
pub(crate) struct Runner {
    signals: SignalFd,
    null: File,
    output: File,
    errors: File,
    environment: Vec<CString>,
    serial: Cell<u64>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) wall: Duration,
    /// As a shell shows it.
    pub(crate) status: i32,
}

impl Runner {
    /// From here on SIGINT, SIGTERM and SIGHUP arrive only while something is waited for, as an error. The end of the
    /// process that started this one counts as such a signal.
    pub(crate) fn new(scratch: &Path) -> Result<Self, Error> {
        set_pdeathsig(Signal::SIGTERM).attempt(|| "cannot ask for a signal".into())?;
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        signals.thread_block().attempt(|| "cannot block signals".into())?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let create = |name: &str| {
            let path = scratch.join(name);
            let mut options = File::options();
            options.read(true).append(true).create(true);
            options.open(&path).attempt(|| format!("cannot create '{}'", path.display()))
        };
        Ok(Self {
            signals: SignalFd::with_flags(&signals, flags)
                .attempt(|| "cannot wait for signals".into())?,
            null: File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .attempt(|| "cannot open '/dev/null'".into())?,
            output: create("stdout")?,
            errors: create("stderr")?,
            environment: environment(),
            serial: Cell::new(0),
        })
    }

    /// Run a command to its end, with nothing on its standard input and its output dropped.
    pub(crate) fn run(&self, argv: &[String]) -> Result<Finished, Error> {
        self.timed(argv, &self.null)
    }

    /// Run a command that must succeed, and take what it prints.
    pub(crate) fn output(&self, argv: &[String]) -> Result<String, Error> {
        self.output.set_len(0).attempt(|| "cannot empty a file".into())?;
        let status = self.timed(argv, &self.output)?.status;
        if status != 0 {
            return Err(Error::new(format!("'{}': {}", argv.join(" "), self.complaint(status)?)));
        }
        read(&self.output)
    }

    /// Why the last run failed: what it wrote on its standard error, in one line, or its status.
    pub(crate) fn complaint(&self, status: i32) -> Result<String, Error> {
        let errors = read(&self.errors)?;
        let lines: Vec<&str> =
            errors.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Ok(if lines.is_empty() { format!("status {status}") } else { lines.join("; ") })
    }

    /// A number that no other run has.
    fn next(&self) -> String {
        self.serial.set(self.serial.get() + 1);
        self.serial.get().to_string()
    }

    fn timed(&self, argv: &[String], output: &File) -> Result<Finished, Error> {
        self.errors.set_len(0).attempt(|| "cannot empty a file".into())?;
        let (child, begin) = self.spawn(argv, output)?;
        let status = self.wait(child)?;
        Ok(Finished { wall: begin.elapsed(), status })
    }

    /// Start a command, and take the time until its first output. The caller ends it.
    pub(crate) fn start_until_it_writes(&self, argv: &[String]) -> Result<(Pid, Duration), Error> {
        let attempt = || "cannot wait for a command's output".to_owned();
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).attempt(attempt)?;
        let (child, begin) = self.spawn(argv, &File::from(writer))?;
        let mut watched =
            [PollFd::new(&reader, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        poll(&mut watched, None).attempt(attempt)?;
        let took = begin.elapsed();
        let mut byte = [0];
        let failed = match (watched[1].revents().is_empty(), rustix::io::read(&reader, &mut byte)) {
            (false, _) => Error::Interrupted,
            (true, Ok(1)) => return Ok((child, took)),
            (true, _) => Error::new(format!("'{}' ended: {}", argv.join(" "), self.complaint(0)?)),
        };
        kill(child, Signal::SIGKILL).or_else(gone).attempt(attempt)?;
        waitpid(child, None).attempt(attempt)?;
        Err(failed)
    }

    /// How many runs of a command, `width` at a time, end within a while.
    pub(crate) fn count(
        &self,
        argv: &[String],
        width: usize,
        window: Duration,
    ) -> Result<usize, Error> {
        let attempt = || "cannot wait for a command".to_owned();
        let start = || self.spawn(argv, &self.null).map(|(child, _)| child);
        for _ in 0..width {
            start()?;
        }
        let (begin, mut counted, mut alive) = (Instant::now(), 0, width);
        while alive > 0 {
            match waitpid(None, None).attempt(attempt)? {
                WaitStatus::Exited(_, 0) => alive -= 1,
                other => return Err(Error::new(format!("'{}': {other:?}", argv.join(" ")))),
            }
            if begin.elapsed() < window {
                counted += 1;
                start()?;
                alive += 1;
            }
        }
        self.rest(Duration::ZERO)?;
        Ok(counted)
    }

    /// A child, and the moment before it was made.
    fn spawn(&self, argv: &[String], output: &File) -> Result<(Pid, Instant), Error> {
        let program = Host::find(&argv[0])
            .ok_or_else(|| Error::new(format!("cannot find '{}' in PATH", argv[0])))?;
        let argv: Vec<CString> = argv
            .iter()
            .map(|word| CString::new(word.as_str()).expect("no NUL in a command"))
            .collect();
        let attempt = || format!("cannot start '{}'", program.display());
        let mut files = PosixSpawnFileActions::init().attempt(attempt)?;
        for (file, fd) in [(&self.null, 0), (output, 1), (&self.errors, 2)] {
            files.add_dup2(file.as_raw_fd(), fd).attempt(attempt)?;
        }
        let mut attributes = PosixSpawnAttr::init().attempt(attempt)?;
        attributes.set_sigmask(&SigSet::empty()).attempt(attempt)?;
        attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE)).attempt(attempt)?;
        let flags =
            PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
        attributes.set_flags(flags).attempt(attempt)?;
        let begin = Instant::now();
        let child = posix_spawn(program.as_path(), &files, &attributes, &argv, &self.environment)
            .attempt(attempt)?;
        Ok((child, begin))
    }

    fn wait(&self, child: Pid) -> Result<i32, Error> {
        let attempt = || "cannot wait for a command".to_owned();
        let pid = rustix::process::Pid::from_raw(child.as_raw()).expect("a child's PID");
        let ended = pidfd_open(pid, PidfdFlags::empty()).attempt(attempt)?;
        let mut watched =
            [PollFd::new(&ended, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        let timeout = Timespec { tv_sec: HANGS.as_secs().cast_signed(), tv_nsec: 0 };
        let woken = loop {
            match poll(&mut watched, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.attempt(attempt)?,
            }
        };
        let interrupted = !watched[1].revents().is_empty();
        if interrupted {
            kill(child, Signal::SIGTERM).or_else(gone).attempt(attempt)?;
            let grace = Timespec { tv_sec: 5, tv_nsec: 0 };
            poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&grace)).attempt(attempt)?;
        }
        if interrupted || woken == 0 {
            kill(child, Signal::SIGKILL).or_else(gone).attempt(attempt)?;
        }
        let status = match waitpid(child, None).attempt(attempt)? {
            WaitStatus::Exited(_, status) => status,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
            other => return Err(Error::new(format!("a command is {other:?}"))),
        };
        match (interrupted, woken) {
            (true, _) => Err(Error::Interrupted),
            (false, 0) => Err(Error::new("a command hung and was ended")),
            (false, _) => Ok(status),
        }
    }

    /// Leave the machine alone for a while.
    pub(crate) fn rest(&self, time: Duration) -> Result<(), Error> {
        let mut watched = [PollFd::new(&self.signals, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: time.as_secs().cast_signed(),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        match poll(&mut watched, Some(&timeout)).attempt(|| "cannot sleep".into())? {
            0 => Ok(()),
            _ => Err(Error::Interrupted),
        }
    }

    /// Run each phase of a candidate, timed in milliseconds.
    pub(crate) fn phases(&self, candidate: &Candidate) -> Result<Vec<f64>, Error> {
        let number = self.next();
        let time = |phase: &Argv| {
            let argv: Argv = phase.iter().map(|word| word.replace("{n}", &number)).collect();
            let Finished { wall, status } = self.run(&argv)?;
            if status == 0 {
                return Ok(wall.as_secs_f64() * 1000.0);
            }
            Err(Error::new(format!("{}: {}", candidate.name, self.complaint(status)?)))
        };
        candidate.phases.iter().map(time).collect()
    }

    /// Run the candidates, each once a round, in another order each time. Those that fail when tried are missing then.
    /// `before` is called before each, and not timed.
    pub(crate) fn rounds(
        &self,
        candidates: Candidates,
        rounds: usize,
        before: impl Fn(&Candidate) -> Result<(), Error>,
    ) -> Result<Measured, Error> {
        let Candidates { present, mut missing } = candidates;
        let mut series = vec![];
        for candidate in present {
            before(&candidate)?;
            match self.phases(&candidate) {
                Ok(_) => series.push(Series::new(candidate)),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(err) => {
                    missing.push(Missing { name: candidate.name, reason: err.to_string() });
                }
            }
        }
        let mut order: Vec<usize> = (0..series.len()).collect();
        for round in 0..rounds {
            order.shuffle(&mut OsRng);
            for &at in &order {
                let Series { candidate, phases, rounds } = &mut series[at];
                if candidate.slow && round % 10 != 0 {
                    continue;
                }
                before(candidate)?;
                let samples = self.phases(candidate)?;
                for (phase, sample) in phases.iter_mut().zip(samples) {
                    phase.push(sample);
                }
                rounds.push(round);
            }
        }
        Ok(Measured { series, missing })
    }

    /// The peak of resident memory of the largest process in a candidate's first phase, in KiB.
    pub(crate) fn peak(&self, host: &Host, candidate: &Candidate) -> Result<u64, Error> {
        let result = host.scratch().join("peak-kib");
        self.observed(&[&host.floor("peak"), &result], candidate)?;
        let text = fs::read_to_string(&result).attempt(|| "cannot read the peak".into())?;
        text.trim().parse().map_err(|_| Error::new(format!("no number: '{text}'")))
    }

    /// How many system calls all processes of a candidate's first phase make, but for those that run `command`.
    pub(crate) fn system_calls(
        &self,
        host: &Host,
        candidate: &Candidate,
        command: Option<&str>,
    ) -> Result<usize, Error> {
        let result = host.scratch().join("strace");
        let strace = ["strace", "--follow-forks", "--output"].map(Path::new);
        let prefix: Vec<&Path> =
            strace.into_iter().chain([result.as_path(), Path::new("--")]).collect();
        self.observed(&prefix, candidate)?;
        let text = fs::read(&result).attempt(|| "cannot read what strace wrote".into())?;
        Ok(count_calls(&String::from_utf8_lossy(&text), command))
    }

    /// Run a candidate's phases, the first of them under another program.
    fn observed(&self, observer: &[&Path], candidate: &Candidate) -> Result<(), Error> {
        let number = self.next();
        let observer = observer.iter().map(|word| word.display().to_string());
        let mut prefix: Argv = observer.collect();
        for phase in &candidate.phases {
            prefix.extend(phase.iter().map(|word| word.replace("{n}", &number)));
            self.must_succeed(&prefix)?;
            prefix.clear();
        }
        Ok(())
    }

    /// Run a command, and take any status but 0 as a failure.
    pub(crate) fn must_succeed(&self, argv: &[String]) -> Result<Finished, Error> {
        let finished = self.run(argv)?;
        match finished.status {
            0 => Ok(finished),
            status => Err(Error::new(format!("'{}': {}", argv.join(" "), self.complaint(status)?))),
        }
    }
}

/// The same for every candidate; cargo is found where the caller finds it.
fn environment() -> Vec<CString> {
    let callers = std::env::var("PATH").unwrap_or_default();
    let variables =
        [format!("{PATH}:{callers}"), "HOME=/root".into(), "LC_ALL=C".into(), "TERM=dumb".into()];
    variables.map(|variable| CString::new(variable).expect("no NUL in the environment")).into()
}

fn gone(errno: Errno) -> Result<(), Errno> {
    if errno == Errno::ESRCH { Ok(()) } else { Err(errno) }
}

fn read(mut file: &File) -> Result<String, Error> {
    let attempt = || "cannot read what a command wrote".to_owned();
    file.seek(SeekFrom::Start(0)).attempt(attempt)?;
    let mut content = vec![];
    file.read_to_end(&mut content).attempt(attempt)?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// The system calls in what `strace --follow-forks` wrote, without those of the processes that have executed `command`.
fn count_calls(trace: &str, command: Option<&str>) -> usize {
    let execution = command.map(|command| format!("execve(\"{command}\""));
    let mut executing = HashSet::new();
    let mut calls = 0;
    for line in trace.lines() {
        let (process, what) = line.split_once(' ').unwrap_or_default();
        let what = what.trim_start();
        // Calls go on after "<..."; signals stand after "---", ends after "+++".
        if ["<...", "---", "+++"].iter().any(|other| what.starts_with(other)) {
            continue;
        }
        if !executing.contains(process) {
            calls += 1;
        }
        if execution.as_ref().is_some_and(|begin| what.starts_with(begin)) {
            executing.insert(process);
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_until_the_command_runs() {
        let trace = "7  brk(NULL) = 0x1\n7  clone3({flags=0}, 88) = 8\n\
                     8  execve(\"/bin/true\", [\"true\"], 0x1 <unfinished ...>\n7  wait4(-1, <unfinished ...>\n\
                     8  <... execve resumed>) = 0\n8  brk(NULL) = 0x2\n8  exit_group(0) = ?\n8  +++ exited with 0 +++\n\
                     7  <... wait4 resumed>) = 8\n7  --- SIGCHLD {si_signo=SIGCHLD} ---\n7  exit_group(0) = ?\n";
        assert_eq!(count_calls(trace, Some("/bin/true")), 5);
        assert_eq!(count_calls(trace, None), 7);
    }
}
