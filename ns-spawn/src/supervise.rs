//! The supervisor: clones init, passes signals and the terminal on, waits, tells how it ended.

use crate::{
    error::{Attempt as _, Error},
    init::{self, Given},
    mounts,
    plan::Plan,
    rootfs::needs_root,
    sys::{self, Note, Page, Received, Side},
    terminal::{self, Relay, Saved, Terminal},
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
    event::{PollFd, PollFlags, poll},
    fd::AsFd as _,
    process::{Pid, PidfdFlags, WaitOptions, WaitStatus, getpid, pidfd_open, waitpid},
};
use std::{os::unix::net::UnixStream, process::ExitCode};

/// How COMMAND ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(u8),
    Killed(i32),
}

/// Do what is planned, and wait for its end.
pub(crate) fn act(plan: &Plan) -> Result<Ended, Error> {
    let (mask, saved) = (take_signals()?, Saved::new());
    let page = Page::new().attempt(|| "cannot map a page".into())?;
    let (init, channel) = start(plan, mask, &page)?;
    let mut supervisor = Supervisor { init, killed: false, terms: 0, shares_terminal: false };
    let ended = if let Some(channel) = channel {
        supervisor.with_own_terminal(&channel)
    } else {
        supervisor.shares_terminal = matches!(plan.terminal, Terminal::Inherited { .. });
        supervisor.watch()
    };
    let init_ended = match ended {
        Ok(status) => status,
        Err(error) => {
            supervisor.kill();
            drop(supervisor.wait_for_init());
            saved.put_back().ok(); // the first error is the one to tell
            return Err(error);
        }
    };
    saved.put_back().attempt(|| "cannot put the terminal back as it was".into())?;
    supervisor.judge(&page, init_ended)
}

/// Block all signals, to wait for them, and see that SIGCHLD comes: a caller that ignores it hands that down.
fn take_signals() -> Result<SigSet, Error> {
    sys::reset_disposition(Signal::SIGCHLD).attempt(|| "cannot reset SIGCHLD".into())?;
    SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .attempt(|| "cannot block the signals".into())
}

/// Open what init needs and clone it.
fn start(plan: &Plan, mask: SigSet, page: &Page) -> Result<(i32, Option<UnixStream>), Error> {
    let (ours, theirs) = if matches!(plan.terminal, Terminal::Own { .. }) {
        let pair = UnixStream::pair().attempt(|| "cannot make a socket pair".into())?;
        (Some(pair.0), Some(pair.1))
    } else {
        (None, None)
    };
    let given = Given {
        tree: plan.rootfs.detach()?,
        devices: mounts::detach_devices()?,
        etc_files: plan.netns.as_ref().map_or(Ok(vec![]), crate::netns::Netns::detach_files)?,
        supervisor: pidfd_open(getpid(), PidfdFlags::empty())
            .attempt(|| "cannot open a descriptor of the supervisor".into())?,
        channel: theirs,
        mask,
    };
    if plan.verbose {
        init::tell(&[plan.start_line()]);
    }
    let flags = u64::from(plan.namespaces.bits().cast_unsigned());
    let side = sys::clone_process(flags)
        .attempt(|| "cannot create the namespaces".into())
        .map_err(needs_root)
        .map_err(|err| err.hint_on(Errno::ENOSPC, "see /proc/sys/user/max_*_namespaces"))?;
    match side {
        Side::Child => {
            drop(ours); // the supervisor's end: it must not stay open here
            init::run(plan, given, page)
        }
        Side::Parent(init) => Ok((init, ours)),
    }
}

struct Supervisor {
    init: i32,
    /// We killed init ourselves.
    killed: bool,
    /// How many SIGTERM have come.
    terms: u32,
    /// COMMAND has our terminal and, but for its own doing, our process group.
    shares_terminal: bool,
}

impl Supervisor {
    /// Pass signals on until init ends.
    fn watch(&mut self) -> Result<WaitStatus, Error> {
        loop {
            match sys::wait_for_signal() {
                Ok(signal) if signal.number == libc::SIGCHLD => {
                    if let Some(status) = self.init_status(WaitOptions::NOHANG)? {
                        return Ok(status);
                    }
                }
                Ok(signal) => self.on_signal(signal, None)?,
                Err(Errno::EINTR) => {} // stopped and continued
                Err(errno) => return Err(errno).attempt(|| "cannot wait for signals".into()),
            }
        }
    }

    /// The same, and carry bytes between the caller's terminal and the container's.
    fn with_own_terminal(&mut self, channel: &UnixStream) -> Result<WaitStatus, Error> {
        let Some(master) = terminal::receive_master(channel)? else {
            return self.wait_for_init();
        };
        let mut relay = Relay::new(master)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&SigSet::all(), flags)
            .attempt(|| "cannot make a signal descriptor".into())?;
        loop {
            let (signal_ready, ready) = wait_for_any(&signals, &relay)?;
            relay.carry(ready);
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
                } else if let Some(status) = self.init_status(WaitOptions::NOHANG)? {
                    drain(&mut relay);
                    return Ok(status);
                }
            }
        }
    }

    fn on_signal(&mut self, signal: Received, relay: Option<&Relay>) -> Result<(), Error> {
        match signal.number {
            libc::SIGWINCH => relay.map_or(Ok(()), Relay::resize),
            libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => self.stop(signal, relay),
            libc::SIGURG | libc::SIGPIPE => Ok(()),
            // From a terminal: COMMAND, in the same process group, has got it already.
            libc::SIGINT | libc::SIGQUIT | libc::SIGHUP if self.shares_terminal && !signal.sent => {
                Ok(())
            }
            libc::SIGTERM if self.terms > 0 => {
                self.kill();
                Ok(())
            }
            number => {
                self.terms += u32::from(number == libc::SIGTERM);
                self.pass_on(number)
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

    fn pass_on(&self, number: i32) -> Result<(), Error> {
        sys::kill(self.init, number).attempt(|| format!("cannot pass on signal {number}"))
    }

    fn kill(&mut self) {
        self.killed = true;
        sys::kill(self.init, libc::SIGKILL).ok(); // ESRCH: it has ended, which is all that is wanted
    }

    fn wait_for_init(&self) -> Result<WaitStatus, Error> {
        loop {
            if let Some(status) = self.init_status(WaitOptions::empty())? {
                return Ok(status);
            }
        }
    }

    fn init_status(&self, options: WaitOptions) -> Result<Option<WaitStatus>, Error> {
        let found = waitpid(Pid::from_raw(self.init), options)
            .attempt(|| "cannot wait for the container's init".into())?;
        Ok(found.map(|(_, status)| status))
    }

    /// What came of it, from what init left on the page and how it ended itself.
    fn judge(&self, page: &Page, init: WaitStatus) -> Result<Ended, Error> {
        match page.read() {
            Note::Failed { attempt, errno, hint, code } => {
                Err(Error::found(attempt, errno, hint, code))
            }
            Note::Ended(status) => {
                Ok(if libc::WIFSIGNALED(status) {
                    Ended::Killed(libc::WTERMSIG(status))
                } else {
                    let [_, code, ..] = status.to_le_bytes(); // WEXITSTATUS(), which has 8 bits
                    Ended::Exited(code)
                })
            }
            Note::Nothing if self.killed => Ok(Ended::Killed(libc::SIGKILL)),
            Note::Nothing => {
                let signal = init.terminating_signal().unwrap_or(0);
                let error =
                    Error::new(format!("the container's init was killed by signal {signal}"));
                Err(error.status(128 + u8::try_from(signal).unwrap_or(0)))
            }
        }
    }
}

/// Wait until there is something to do.
fn wait_for_any(signals: &SignalFd, relay: &Relay) -> Result<(bool, [bool; 3]), Error> {
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
    match poll(&mut polled, None) {
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
    /// As a shell shows it. For SIGINT and SIGQUIT die of the same signal: a shell then stops its script, as it
    /// would had it run COMMAND itself.
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Self::Exited(code) => ExitCode::from(code),
            Self::Killed(number) => {
                if let Ok(signal @ (Signal::SIGINT | Signal::SIGQUIT)) = Signal::try_from(number) {
                    die_of(signal).ok(); // returns only when it cannot
                }
                ExitCode::from(128_u8.wrapping_add(u8::try_from(number).unwrap_or(0)))
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
        assert_eq!(Ended::Exited(42).exit_code(), ExitCode::from(42));
        assert_eq!(Ended::Killed(15).exit_code(), ExitCode::from(143));
        assert_eq!(Ended::Killed(64).exit_code(), ExitCode::from(192));
    }
}
