//! COMMAND: started inside the cgroup, waited for, its signals passed on.

use crate::{
    cgroup::Group,
    cli,
    error::{self, Attempt as _, Error},
    hierarchy::{Tree, Version},
    interface::put,
    limits::fixed_point,
    plan::{Place, Plan, shown_command},
    processes::explain_join,
    report::{COUNTING, StatsTo, Usage},
    sys,
};
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpid, getppid},
};
use std::{
    ffi::OsString,
    fmt,
    fs::{File, OpenOptions},
    io::Write as _,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::Command,
    str::FromStr,
    time::{Duration, Instant},
};

/// What is passed on to COMMAND when somebody sends it to us.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// How long COMMAND may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeout(Duration);

impl FromStr for Timeout {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86400)];
        let unit = units.into_iter().find(|(unit, _)| text.ends_with(unit));
        let (number, seconds) =
            unit.map_or((text, 1), |(unit, seconds)| (&text[..text.len() - unit.len()], seconds));
        let ms = fixed_point(number, 3).and_then(|ms| ms.checked_mul(seconds));
        ms.filter(|ms| *ms > 0).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(|| {
            "allowed are seconds ('90', '1.5') and a number with s, m, h or d".into()
        })
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

/// The status of a COMMAND whose time was up, as of timeout(1).
const TIME_IS_UP: u8 = 124;

/// `run`.
pub(crate) fn run(tree: &Tree, args: &cli::Run, dry_run: bool) -> Result<u8, Error> {
    let also = match (args.exec, &args.stats) {
        (true, _) => &["freezer"],
        (false, Some(_)) => &COUNTING[..],
        (false, None) => &[],
    };
    let mut plan = Plan::new(tree, &args.name, &args.limits, !args.exec && !args.keep, also)?;
    if args.exec {
        plan.join_v1_alone(tree);
    }
    if dry_run {
        return error::result(&plan.script(Some(&args.command)));
    }
    if args.exec {
        return Err(exec(tree, &plan, &args.command));
    }
    let report = args.stats.as_ref().map(StatsTo::open).transpose()?;
    // Before the first change: what arrives from now on is for COMMAND, and does not end us half-way.
    let mut signals: SigSet = PASSED_ON.into_iter().collect();
    signals.add(Signal::SIGCHLD);
    let mut inherited = SigSet::empty();
    let arrivals = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut inherited))
        .and_then(|()| sys::heed_children())
        .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC))
        .attempt(|| "cannot block signals".into())?;

    let group = Group::make(tree, &plan)?;
    let places = Place::existing(tree, &args.name);
    let before = if group.is_new(&places) {
        Usage::none()
    } else {
        Usage::read(tree, &args.name, report.is_some())
    };
    let child = match start(&places, &args.command, &inherited) {
        Ok(child) => child,
        Err(err) => return Err(group.undo(err)),
    };
    let status = wait(child, &arrivals, &group, args.timeout);
    let used = Usage::read(tree, &args.name, report.is_some()).since(&before);
    used.tell(tree, &args.name);
    if let (Ok(status), Some(report)) = (&status, report) {
        report.write(&used.json(&args.name, *status)).unwrap_or_else(|err| error::tell(&err));
    }
    // COMMAND's status is what was asked for; that something is left is told beside it.
    if let Err(err) = group.leave() {
        error::tell(&err);
    }
    status
}

/// `run --exec`: join, and be COMMAND. Returns only with the reason why not, and then not in the cgroup.
fn exec(tree: &Tree, plan: &Plan, command: &[OsString]) -> Error {
    let group = match Group::make(tree, plan) {
        Ok(group) => group,
        Err(err) => return err,
    };
    let mut places = Place::existing(tree, &plan.name);
    places.retain(|place| plan.joins(place));
    error::trace(&shown_command(&places, command));
    let err = match Joins::open(&places).and_then(|joins| joins.join(false)) {
        Ok(()) => become_command(command),
        Err(err) => err,
    };
    // Where that is refused we are still inside, and what is left behind because of it is named.
    for hierarchy in &tree.hierarchies {
        let home = Place { version: hierarchy.version, dir: hierarchy.own.clone() };
        put(&home.join_file(), "0").unwrap_or_default();
    }
    group.undo(err)
}

/// The files through which COMMAND joins, opened by us.
struct Joins(Vec<(Place, File)>);

impl Joins {
    fn open(places: &[Place]) -> Result<Self, Error> {
        let open = |place: &Place| {
            let path = place.join_file();
            let file = OpenOptions::new().write(true).open(&path);
            Ok((place.clone(), file.attempt(|| format!("cannot open '{}'", path.display()))?))
        };
        places.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Put the calling process into the cgroup; `inside_v2` says that it was born there.
    fn join(mut self, inside_v2: bool) -> Result<(), Error> {
        for (place, file) in
            self.0.iter_mut().filter(|(place, _)| !(inside_v2 && place.version == Version::V2))
        {
            let shown = place.dir.display();
            file.write_all(b"0")
                .attempt(|| format!("cannot join '{shown}'"))
                .map_err(|err| explain_join(err, place))?;
        }
        Ok(())
    }
}

/// Start COMMAND as a child that is inside the cgroup before it becomes COMMAND.
///
/// What goes wrong in the child is told by the child, which ends with the status that we would end with.
fn start(places: &[Place], command: &[OsString], signals: &SigSet) -> Result<Pid, Error> {
    let Some(anchor) = places.first() else {
        return Err(Error::new("somebody removed the cgroup before COMMAND started"));
    };
    let joins = Joins::open(places)?;
    let dir = match anchor.version {
        Version::V1 => None,
        Version::V2 => {
            let shown = anchor.dir.display();
            Some(File::open(&anchor.dir).attempt(|| format!("cannot open '{shown}'"))?)
        }
    };
    error::trace(&shown_command(places, command));
    let supervisor = getpid();
    let child = |inside_v2| {
        let err = match enter(joins, inside_v2, signals, supervisor) {
            Ok(()) => become_command(command),
            Err(err) => err,
        };
        error::tell(&err);
        err.status(true)
    };
    sys::spawn(dir.as_ref().map(File::as_fd), child)
        .attempt(|| format!("cannot start a process in '{}'", anchor.dir.display()))
        .map_err(|err| explain_join(err, anchor))
}

/// In the child: join, and be as COMMAND expects to be.
fn enter(joins: Joins, inside_v2: bool, signals: &SigSet, supervisor: Pid) -> Result<(), Error> {
    // Without its supervisor nobody would report on COMMAND or remove the cgroup: it goes, too.
    prctl::set_pdeathsig(Signal::SIGKILL)
        .attempt(|| "cannot tie COMMAND to its supervisor".into())?;
    if getppid() != supervisor {
        return Err(Error::new("the supervisor was killed before COMMAND started"));
    }
    joins.join(inside_v2)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(signals), None)
        .attempt(|| "cannot unblock signals".into())
}

/// Become COMMAND. Returns only with the reason why not.
fn become_command(command: &[OsString]) -> Error {
    let [program, args @ ..] = command else { return Error::usage("COMMAND is missing") };
    Error::command(program, Command::new(program).args(args).exec())
}

/// Wait for COMMAND, and no longer than it may take.
fn wait(
    child: Pid,
    arrivals: &SignalFd,
    group: &Group<'_>,
    timeout: Option<Timeout>,
) -> Result<u8, Error> {
    let deadline = timeout.and_then(|Timeout(time)| Instant::now().checked_add(time));
    if let Some(status) = supervise(child, arrivals, deadline)? {
        return Ok(status);
    }
    group.end(child);
    supervise(child, arrivals, None)?;
    let limit = timeout.map(|timeout| format!(" {timeout}")).unwrap_or_default();
    error::tell(&format!("time limit{limit} reached: COMMAND was killed"));
    Ok(TIME_IS_UP)
}

/// Pass signals on to `child` until it ends; gives its status as a shell would, and none after `deadline`.
fn supervise(
    child: Pid,
    arrivals: &SignalFd,
    deadline: Option<Instant>,
) -> Result<Option<u8>, Error> {
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => return Ok(Some(status.to_le_bytes()[0])),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(Some(128 + (signal as i32).to_le_bytes()[0]));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).attempt(|| "cannot wait for COMMAND".into()),
        }
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Rounded up: it is not to wake before the time.
            let left =
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(arrivals.as_fd(), PollFlags::POLLIN)], left) {
                Ok(0) | Err(Errno::EINTR) => continue,
                polled => drop(polled.attempt(|| "cannot wait for signals".into())?),
            }
        }
        let arrived = match arrivals.read_signal() {
            Ok(Some(arrived)) => arrived,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno).attempt(|| "cannot wait for signals".into()),
        };
        // The kernel's own come from the terminal, and went to COMMAND as well: it is in our process group.
        let signal =
            i32::try_from(arrived.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        if let Some(signal) = signal
            .filter(|signal| *signal != Signal::SIGCHLD && arrived.ssi_code != libc::SI_KERNEL)
        {
            match kill(child, signal) {
                Ok(()) | Err(_) => {} // it has changed its user, or ended: then waitpid says so
            }
        }
    }
}
