//! The supervisor: clones init, passes signals and the terminal on, waits, tells how it ended.

use crate::{
    check,
    cli::Cli,
    command::Command,
    error::{self, Attempt as _, Error},
    init::{self, Given, Opened},
    join::Join,
    plan::{Clocks, Plan},
    program,
    rootfs::needs_root,
    status::Status,
    sys::{self, Note, Page, Received, Side},
    terminal::{self, Relay, Saved, Terminal},
    userns::Userns,
};
use nix::{
    errno::Errno,
    libc,
    sys::{
        resource::{Resource, setrlimit},
        signal::{SigSet, SigmaskHow, Signal, raise},
        signalfd::{SfdFlags, SignalFd},
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd as _, AsRawFd as _, OwnedFd},
    process::{Pid, WaitOptions, WaitStatus, getpgrp, waitpid},
    termios::{tcgetpgrp, tcsetpgrp},
};
use std::{
    io::{Read as _, Write as _, stdin},
    mem,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// How COMMAND ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(u8),
    Killed(i32),
}

/// What is asked for: a container, or COMMAND in one that runs.
pub(crate) enum Job {
    New(Box<Plan>, Option<Userns>, Option<Duration>),
    Join(Box<Join>, Option<Duration>),
}

impl Job {
    pub(crate) fn plan(cli: &Cli) -> Result<Self, Error> {
        let patience = cli.kill_after.map(Duration::from_secs);
        match (cli.join, &cli.root) {
            (Some(pid), _) => Ok(Self::Join(Box::new(Join::new(cli, pid)?), patience)),
            (None, Some(root)) => {
                let userns = Userns::plan(cli)?;
                Ok(Self::New(Box::new(Plan::new(cli, root, userns.as_ref())?), userns, patience))
            }
            (None, None) => Err(Error::new("--root is missing")),
        }
    }

    pub(crate) fn print(&self) -> Result<u8, Error> {
        match self {
            Self::New(plan, ..) => plan.print(),
            Self::Join(join, _) => join.print(),
        }
    }

    /// Whether processes of the container may come to look at the program that init, or who joins them, runs.
    fn shows_program(&self) -> bool {
        match self {
            // In a user namespace of its own a capability is of no use against what was started outside.
            Self::New(plan, userns, _) => userns.is_none() && plan.command.may_trace(),
            Self::Join(..) => true, // nobody knows what they may
        }
    }

    fn terminal(&self) -> &Terminal {
        match self {
            Self::New(plan, ..) => &plan.terminal,
            Self::Join(join, _) => &join.terminal,
        }
    }

    fn command(&self) -> &Command {
        match self {
            Self::New(plan, ..) => &plan.command,
            Self::Join(join, _) => &join.command,
        }
    }
}

/// Do it, and wait for its end.
pub(crate) fn act(job: &Job, status: &Status) -> Result<Ended, Error> {
    if job.shows_program() {
        program::seal()?;
    }
    let (mask, saved) = (take_signals()?, Saved::new(job.terminal()));
    let page = Page::new().attempt(|| "cannot map a page".into())?;
    let own_terminal = matches!(job.terminal(), Terminal::Own { .. });
    let hands_over = matches!(job, Job::New(plan, ..) if matches!(plan.terminal, Terminal::Inherited { handed_over: true, .. }));
    let stops = hands_over.then(UnixStream::pair).transpose();
    let (stops, their_stops) = stops.attempt(|| "cannot make a socket pair".into())?.unzip();
    let maps_users = matches!(job, Job::New(_, Some(_), _));
    let pair =
        (own_terminal || maps_users || status.is_wanted()).then(UnixStream::pair).transpose();
    let (channel, theirs) = pair.attempt(|| "cannot make a socket pair".into())?.unzip();
    let (first, patience, direct) = match job {
        Job::New(plan, userns, patience) => {
            let first =
                start(plan, userns.as_ref(), mask, &page, channel.as_ref(), (theirs, their_stops))?;
            (first, *patience, plan.as_pid_1)
        }
        Job::Join(join, patience) => {
            let first = join.start(mask, &page, channel.as_ref(), theirs.as_ref())?;
            drop(theirs); // or its end would never be seen
            (first, *patience, true)
        }
    };
    job.command().passed.iter().for_each(|number| sys::close_number(*number));
    let shares_terminal = matches!(job.terminal(), Terminal::Inherited { .. });
    if let Some(stops) = &stops {
        sys::signal_on_input(stops).attempt(|| "cannot wait for COMMAND to stop".into())?;
    }
    let mut supervisor = Supervisor {
        first,
        direct,
        killed: false,
        asked: None,
        shares_terminal,
        patience,
        deadline: None,
        saved,
        stops,
    };
    let ended = supervisor.attend(channel.as_ref(), own_terminal, &page, status);
    let ended = match ended {
        Ok(ended) => ended,
        Err(error) => {
            supervisor.kill();
            supervisor.wait_for_first().ok(); // the first error is the one to tell
            supervisor.saved.put_back().ok();
            return Err(error);
        }
    };
    supervisor.saved.put_back().attempt(|| "cannot put the terminal back as it was".into())?;
    supervisor.judge(&page, ended)
}

/// Block all signals, to wait for them, and see that SIGCHLD comes: a caller that ignores it hands that down.
fn take_signals() -> Result<SigSet, Error> {
    sys::reset_disposition(Signal::SIGCHLD).attempt(|| "cannot reset SIGCHLD".into())?;
    SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .attempt(|| "cannot block the signals".into())
}

/// Open what init needs and clone it.
fn start(
    plan: &Plan,
    userns: Option<&Userns>,
    mask: SigSet,
    page: &Page,
    ours: Option<&UnixStream>,
    (channel, stops): (Option<UnixStream>, Option<UnixStream>),
) -> Result<i32, Error> {
    let given = Given {
        // The kernel lets only who owns the mount namespace copy a mount: that is init's, with a new user one.
        opened: if userns.is_some() { None } else { Some(Opened::new(plan, false)?) },
        channel,
        stops,
        mask,
    };
    userns.map_or(Ok(()), Userns::leave_groups)?;
    plan.clocks.map_or(Ok(()), Clocks::set)?;
    if plan.verbose {
        init::tell(&[plan.start_line()], None);
    }
    let flags = u64::from(plan.namespaces.bits().cast_unsigned());
    let side = sys::clone_process(flags)
        .attempt(|| "cannot create the namespaces".into())
        .map_err(|err| err.hint_on(Errno::ENOSPC, "see /proc/sys/user/max_*_namespaces"))
        .map_err(
            |err| if userns.is_some() { check::explain_userns(err) } else { needs_root(err) },
        )?;
    match side {
        Side::Child => {
            close_other_end(ours);
            init::run(plan, given, page)
        }
        Side::Parent(init) => {
            // What they hold is the container's by now, and one call less each is left to do than to close them.
            mem::forget(given.opened);
            let (Some(userns), Some(mut ours)) = (userns, ours) else { return Ok(init) };
            if let Err(error) = map_users(userns, init).and_then(|()| {
                ours.write_all(&[1]).attempt(|| "cannot tell init of its users".into())
            }) {
                sys::kill(init, libc::SIGKILL).ok(); // it may have ended: the first error is the one to tell
                return Err(error);
            }
            Ok(init)
        }
    }
}

fn map_users(userns: &Userns, init: i32) -> Result<(), Error> {
    if let Some(lost) = userns.map(init)? {
        error::say(&lost);
    }
    Ok(())
}

/// In the child: the supervisor's end of the channel must not stay open.
pub(crate) fn close_other_end(ours: Option<&UnixStream>) {
    if let Some(ours) = ours {
        sys::close_number(ours.as_raw_fd().unsigned_abs());
    }
}

/// What comes so soon after the first is no second SIGTERM: timeout(1) sends it to its child, and then to its group.
const AT_ONCE: Duration = Duration::from_secs(1);

struct Supervisor {
    /// The container's first process, or with --join COMMAND itself.
    first: i32,
    /// Whether that one is COMMAND: no init stands between.
    direct: bool,
    /// We killed it ourselves.
    killed: bool,
    /// When the first SIGTERM came.
    asked: Option<Instant>,
    /// COMMAND has our terminal and, but for its own doing, our process group.
    shares_terminal: bool,
    /// How long a first SIGTERM may take to work.
    patience: Option<Duration>,
    deadline: Option<Instant>,
    /// The terminal as it was found.
    saved: Saved,
    /// Where init tells that COMMAND, which has the terminal's foreground, has stopped.
    stops: Option<UnixStream>,
}

impl Supervisor {
    /// Wait for the end, and until then serve COMMAND.
    fn attend(
        &mut self,
        channel: Option<&UnixStream>,
        own_terminal: bool,
        page: &Page,
        status: &Status,
    ) -> Result<WaitStatus, Error> {
        let Some(mut channel) = channel else { return self.watch() };
        let master = if own_terminal { terminal::receive_master(channel)? } else { None };
        if status.is_wanted() {
            // The other end is closed by COMMAND's exec, or when there will be none.
            let end =
                channel.read(&mut [0]).attempt(|| "cannot wait for COMMAND's start".into())?;
            debug_assert_eq!(end, 0, "nothing is sent but the terminal");
            if !matches!(page.read(), Note::Failed { .. }) {
                status.started(self.first)?;
            }
        }
        match (master, own_terminal) {
            (Some(master), _) => self.with_own_terminal(master),
            (None, true) => self.wait_for_first(),
            (None, false) => self.watch(),
        }
    }

    /// Pass signals on until the container ends.
    fn watch(&mut self) -> Result<WaitStatus, Error> {
        loop {
            match sys::wait_for_signal(self.time_left()) {
                Ok(signal) if signal.number == libc::SIGCHLD => {
                    if let Some(status) = self.first_status(WaitOptions::NOHANG)? {
                        return Ok(status);
                    }
                }
                Ok(signal) => self.on_signal(signal, None)?,
                Err(Errno::EAGAIN) => self.kill(),
                Err(Errno::EINTR) => {} // stopped and continued
                Err(errno) => return Err(errno).attempt(|| "cannot wait for signals".into()),
            }
        }
    }

    /// The same, and carry bytes between the caller's terminal and the container's.
    fn with_own_terminal(&mut self, master: OwnedFd) -> Result<WaitStatus, Error> {
        let mut relay = Relay::new(master)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&SigSet::all(), flags)
            .attempt(|| "cannot make a signal descriptor".into())?;
        loop {
            let (signal_ready, ready) = wait_for_any(&signals, &relay, self.time_left())?;
            relay.carry(ready);
            if self.time_left() == Some(Duration::ZERO) {
                self.kill();
            }
            if !signal_ready {
                continue;
            }
            while let Some(info) = signals.read_signal().attempt(|| "cannot read signals".into())? {
                let signal = Received {
                    number: info.ssi_signo.cast_signed(),
                    sent: info.ssi_code <= 0,
                    sender: info.ssi_pid.cast_signed(),
                };
                if signal.number != libc::SIGCHLD {
                    self.on_signal(signal, Some(&relay))?;
                } else if let Some(status) = self.first_status(WaitOptions::NOHANG)? {
                    drain(&mut relay);
                    return Ok(status);
                }
            }
        }
    }

    /// Until COMMAND is killed, if that is to be.
    fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn on_signal(&mut self, signal: Received, relay: Option<&Relay>) -> Result<(), Error> {
        match signal.number {
            libc::SIGWINCH => relay.map_or(Ok(()), Relay::resize),
            libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => self.stop(signal, relay),
            libc::SIGIO if self.stops.is_some() => self.stop_with_command(),
            libc::SIGURG | libc::SIGPIPE => Ok(()),
            // From a terminal: COMMAND, in the same process group, has got it already.
            libc::SIGINT | libc::SIGQUIT | libc::SIGHUP if self.shares_terminal && !signal.sent => {
                Ok(())
            }
            libc::SIGTERM => self.terminate(),
            number => self.pass_on(number),
        }
    }

    /// Ask COMMAND to end, and when that was done before, kill it.
    fn terminate(&mut self) -> Result<(), Error> {
        match self.asked {
            None => {
                let now = Instant::now();
                (self.asked, self.deadline) = (Some(now), self.patience.map(|it| now + it));
                self.pass_on(libc::SIGTERM)
            }
            Some(first) if first.elapsed() < AT_ONCE => Ok(()),
            Some(_) => {
                self.kill();
                Ok(())
            }
        }
    }

    /// Stop, as the sender wants, and let the caller's shell see it. Goes on with SIGCONT.
    fn stop(&self, signal: Received, relay: Option<&Relay>) -> Result<(), Error> {
        if signal.sent && relay.is_none() {
            self.pass_on(signal.number)?;
        }
        if let Some(relay) = relay {
            relay.go_cooked()?;
        }
        raise(Signal::SIGSTOP).attempt(|| "cannot stop".into())?;
        relay.map_or(Ok(()), Relay::go_raw)
    }

    /// COMMAND, in the foreground in our place, has stopped: let the caller's shell see it, and go on together.
    fn stop_with_command(&self) -> Result<(), Error> {
        let Some(mut stops) = self.stops.as_ref() else { return Ok(()) };
        if !matches!(stops.read(&mut [0; 64]), Ok(1..)) {
            return Ok(()); // nothing but its end
        }
        let attempt = || "cannot hand over the terminal".to_owned();
        let job = tcgetpgrp(stdin()).attempt(attempt)?;
        self.saved.put_back().attempt(attempt)?;
        raise(Signal::SIGSTOP).attempt(|| "cannot stop".into())?;
        if tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp()) {
            tcsetpgrp(stdin(), job).attempt(attempt)?;
        }
        self.pass_on(libc::SIGCONT)
    }

    fn pass_on(&self, number: i32) -> Result<(), Error> {
        sys::kill(self.first, number).attempt(|| format!("cannot pass on signal {number}"))
    }

    fn kill(&mut self) {
        (self.killed, self.deadline) = (true, None);
        sys::kill(self.first, libc::SIGKILL).ok(); // ESRCH: it has ended, which is all that is wanted
    }

    fn wait_for_first(&self) -> Result<WaitStatus, Error> {
        loop {
            if let Some(status) = self.first_status(WaitOptions::empty())? {
                return Ok(status);
            }
        }
    }

    fn first_status(&self, options: WaitOptions) -> Result<Option<WaitStatus>, Error> {
        let found = waitpid(Pid::from_raw(self.first), options)
            .attempt(|| "cannot wait for the container".into())?;
        Ok(found.map(|(_, status)| status))
    }

    /// What came of it, from what was left on the page and how the first process ended.
    fn judge(&self, page: &Page, first: WaitStatus) -> Result<Ended, Error> {
        match page.read() {
            Note::Failed { attempt, errno, hint, code } => {
                Err(Error::found(attempt, errno, hint, code))
            }
            Note::Ended(status) => Ok(Ended::of(status)),
            Note::Nothing if self.direct => Ok(Ended::of(first.as_raw())),
            Note::Nothing if self.killed => Ok(Ended::Killed(libc::SIGKILL)),
            Note::Nothing => {
                let signal = first.terminating_signal().unwrap_or(0);
                let error =
                    Error::new(format!("the container's init was killed by signal {signal}"));
                Err(error.status(128 + u8::try_from(signal).unwrap_or(0)))
            }
        }
    }
}

/// Wait until there is something to do.
fn wait_for_any(
    signals: &SignalFd,
    relay: &Relay,
    limit: Option<Duration>,
) -> Result<(bool, [bool; 3]), Error> {
    let interests = relay.interests();
    let flags = |read: bool, write: bool| {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, read);
        flags.set(PollFlags::OUT, write);
        flags
    };
    // A descriptor with no interest is left out: poll(2) reports hang-ups unasked, and would not wait.
    let mut polled = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
    let wanted = interests.map(|(_, interest)| interest.read || interest.write);
    for (fd, interest) in interests {
        if interest.read || interest.write {
            polled.push(PollFd::from_borrowed_fd(fd, flags(interest.read, interest.write)));
        }
    }
    let limit = limit.map(|limit| Timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    match poll(&mut polled, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(err) => return Err(err).attempt(|| "cannot wait for the terminal".into()),
    }
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    let signal = ready.next().unwrap_or(false);
    Ok((signal, wanted.map(|wanted| wanted && ready.next().unwrap_or(false))))
}

/// Carry COMMAND's last words. The terminal may be slow, but not gone for ever: its hang-up ends this.
fn drain(relay: &mut Relay) {
    while relay.drain() {
        let [_, (output, interest), _] = relay.interests();
        if interest.write {
            let mut room = [PollFd::from_borrowed_fd(output, PollFlags::OUT)];
            poll(&mut room, None).ok(); // EINTR cannot be: all signals are blocked
        }
    }
}

impl Ended {
    /// From a wait(2) status.
    fn of(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            return Self::Killed(libc::WTERMSIG(status));
        }
        let [_, code, ..] = status.to_le_bytes(); // WEXITSTATUS(), which has 8 bits
        Self::Exited(code)
    }

    /// As a shell shows it. For SIGINT and SIGQUIT die of the same signal: a shell then stops its script, as it
    /// would had it run COMMAND itself.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(number) => {
                if let Ok(signal @ (Signal::SIGINT | Signal::SIGQUIT)) = Signal::try_from(number) {
                    die_of(signal).ok(); // returns only when it cannot
                }
                128_u8.wrapping_add(u8::try_from(number).unwrap_or(0))
            }
        }
    }
}

fn die_of(signal: Signal) -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?; // COMMAND's core is dumped already
    sys::reset_disposition(signal)?;
    raise(signal)?;
    let mut mask = SigSet::empty();
    mask.add(signal);
    mask.thread_unblock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_a_shells() {
        assert_eq!(Ended::Exited(42).exit_code(), 42);
        assert_eq!(Ended::Killed(15).exit_code(), 143);
        assert_eq!(Ended::Killed(64).exit_code(), 192);
    }
}
