//! COMMAND's terminal: its own pty, or the caller's, handed over and taken back.

use crate::{
    cli::Console,
    error::{Attempt as _, Error},
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, openat},
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
    process::{getpgrp, getpid, ioctl_tiocsctty, setpgid, setsid},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    termios::{
        OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
        tcsetpgrp, tcsetwinsize,
    },
};
use std::{
    io::{IoSlice, IoSliceMut, stderr, stdin, stdout},
    mem::MaybeUninit,
    os::unix::net::UnixStream,
};

/// What COMMAND will have, decided before anything is made.
#[derive(Debug)]
pub(crate) enum Terminal {
    /// A pty of the container's own. `outer` is the caller's terminal, if standard input is one.
    Own { outer: Option<Outer>, stderr: bool },
    /// The caller's three streams. `foreground`: the first is a terminal, which listens to us; `handed_over`: to COMMAND then.
    Inherited { foreground: bool, handed_over: bool },
    /// The same, in a session without a terminal.
    None,
}

/// The caller's terminal as it was found.
#[derive(Debug)]
pub(crate) struct Outer {
    modes: Termios,
    size: Winsize,
}

impl Terminal {
    /// `has_pts`: the container has a devpts to make one in.
    pub(crate) fn choose(mode: Console, has_pts: bool) -> Result<Self, Error> {
        let own = || -> Result<Self, Error> {
            Ok(Self::Own { outer: Outer::look()?, stderr: isatty(stderr()) })
        };
        match mode {
            Console::Auto | Console::Inherit => {
                let foreground = in_foreground(stdin().as_fd());
                if mode == Console::Auto && has_pts && foreground && output_goes_there() {
                    return own();
                }
                let handed_over = mode == Console::Inherit && foreground;
                Ok(Self::Inherited { foreground, handed_over })
            }
            Console::Pty if has_pts => own(),
            Console::Pty => Err(Error::new("a pty takes a /dev of the container's own")),
            Console::None => Ok(Self::None),
        }
    }

    /// The name of what was chosen, as the option has it.
    pub(crate) fn shown(&self) -> &'static str {
        match self {
            Self::Own { .. } => "pty",
            Self::Inherited { .. } => "inherit",
            Self::None => "none",
        }
    }
}

impl Outer {
    fn look() -> Result<Option<Self>, Error> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let attempt = || "cannot look at the terminal".to_owned();
        let modes = tcgetattr(stdin()).attempt(attempt)?;
        Ok(Some(Self { modes, size: tcgetwinsize(stdin()).attempt(attempt)? }))
    }
}

/// Whether standard output is the terminal that standard input is.
fn output_goes_there() -> bool {
    let (stdin, stdout) = (stdin(), stdout());
    let device = |fd: BorrowedFd<'_>| fstat(fd).map(|stat| stat.st_rdev);
    isatty(stdout.as_fd())
        && matches!((device(stdin.as_fd()), device(stdout.as_fd())), (Ok(a), Ok(b)) if a == b)
}

/// Whether `fd` is our controlling terminal and we are in its foreground process group.
fn in_foreground(fd: BorrowedFd<'_>) -> bool {
    tcgetpgrp(fd).is_ok_and(|group| group == getpgrp())
}

/// The pair that init makes in the container's own devpts.
pub(crate) struct Pty {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

impl Pty {
    /// Make it in a devpts mount: `ptmx` is the path from `dir` to its node of that name. The other end is had from
    /// the master and not by its path, which could by then lead elsewhere (CVE-2025-52565).
    pub(crate) fn open(
        dir: BorrowedFd<'_>,
        ptmx: &str,
        outer: Option<&Outer>,
    ) -> Result<Self, Error> {
        let attempt = || "cannot make a pseudo-terminal".to_owned();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = openat(dir, ptmx, flags, Mode::empty()).attempt(attempt)?;
        unlockpt(&master).attempt(attempt)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).attempt(attempt)?;
        if let Some(outer) = outer {
            tcsetattr(&slave, OptionalActions::Now, &outer.modes).attempt(attempt)?;
            tcsetwinsize(&slave, outer.size).attempt(attempt)?;
        }
        Ok(Self { master, slave })
    }

    /// Hand the master to the supervisor, and keep the slave.
    pub(crate) fn hand_over(self, supervisor: &UnixStream) -> Result<OwnedFd, Error> {
        let masters = [self.master.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&masters));
        sendmsg(supervisor, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)
            .attempt(|| "cannot hand over the pseudo-terminal".into())?;
        Ok(self.slave)
    }
}

/// Wait for the master. None: init ended without sending one.
pub(crate) fn receive_master(init: &UnixStream) -> Result<Option<OwnedFd>, Error> {
    let attempt = || "cannot receive the pseudo-terminal".to_owned();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(init, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .attempt(attempt)?;
    let master = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    if let Some(master) = &master {
        let flags = fcntl_getfl(master).attempt(attempt)?;
        fcntl_setfl(master, flags | OFlags::NONBLOCK).attempt(attempt)?;
    }
    Ok(master)
}

/// A terminal as COMMAND's process gets it.
pub(crate) enum Attached {
    /// The slave of its own pty; `stderr`: standard error goes there too.
    Own { slave: OwnedFd, stderr: bool },
    /// What the caller has.
    Inherited { handed_over: bool },
    /// No controlling terminal.
    None,
}

impl Attached {
    /// Make it this process's own. All signals are blocked, SIGTTOU too.
    pub(crate) fn take_as_own(&self) -> Result<(), Error> {
        let attempt = || "cannot take over the terminal".to_owned();
        match self {
            Self::Own { slave, stderr } => {
                setsid().attempt(attempt)?;
                ioctl_tiocsctty(slave).attempt(attempt)?;
                dup2_stdin(slave).attempt(attempt)?;
                dup2_stdout(slave).attempt(attempt)?;
                if *stderr {
                    dup2_stderr(slave).attempt(attempt)?;
                }
                Ok(())
            }
            Self::Inherited { handed_over: true } => {
                setpgid(None, None).attempt(attempt)?;
                tcsetpgrp(stdin(), getpid()).attempt(attempt)
            }
            Self::Inherited { handed_over: false } => Ok(()),
            Self::None => {
                setsid().attempt(attempt)?;
                if isatty(stdin()) {
                    let null =
                        openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                            .attempt(attempt)?;
                    dup2_stdin(null).attempt(attempt)?;
                }
                Ok(())
            }
        }
    }
}

/// The caller's terminal as it was, to be put back: its modes, and its foreground process group.
pub(crate) struct Saved {
    modes: Option<Termios>,
    foreground: bool,
}

impl Saved {
    /// `chosen`: what COMMAND will have.
    pub(crate) fn new(chosen: &Terminal) -> Self {
        let foreground = match chosen {
            Terminal::Inherited { foreground, .. } => *foreground,
            Terminal::Own { .. } | Terminal::None => in_foreground(stdin().as_fd()),
        };
        Self { modes: foreground.then(|| tcgetattr(stdin()).ok()).flatten(), foreground }
    }

    /// Put it back. All signals are blocked, SIGTTOU too.
    pub(crate) fn put_back(&self) -> Result<(), Errno> {
        if self.foreground && !in_foreground(stdin().as_fd()) {
            tcsetpgrp(stdin(), getpgrp())?;
        }
        self.modes.iter().try_for_each(|modes| tcsetattr(stdin(), OptionalActions::Drain, modes))
    }
}

/// The caller's side of the container's pty: what is typed goes in, what is written comes out.
pub(crate) struct Relay {
    master: OwnedFd,
    /// The caller's terminal, opened once more so that it can be non-blocking for us alone; None: its streams.
    outer: Option<OwnedFd>,
    cooked: Option<Termios>,
    to_master: Vec<u8>,
    to_outer: Vec<u8>,
    input_open: bool,
    /// The input read last did not end a line.
    in_line: bool,
    output_open: bool,
}

/// What is read at once, and the most that waits to be written.
const CHUNK: usize = 16 * 1024;

impl Relay {
    /// Begin: the caller's terminal goes raw.
    pub(crate) fn new(master: OwnedFd) -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let outer = if isatty(stdin()) {
            let outer = openat(CWD, "/dev/tty", flags, Mode::empty())
                .attempt(|| "cannot open the terminal '/dev/tty'".into())?;
            Some(outer)
        } else {
            None
        };
        let cooked = outer
            .as_ref()
            .map(tcgetattr)
            .transpose()
            .attempt(|| "cannot look at the terminal".into())?;
        let (to_master, to_outer) = (Vec::new(), Vec::new());
        let (input_open, in_line, output_open) = (true, false, true);
        let relay =
            Self { master, outer, cooked, to_master, to_outer, input_open, in_line, output_open };
        relay.go_raw()?;
        Ok(relay)
    }

    /// Take the terminal's modes away, and give the pty its size: at the start, and after a stop.
    pub(crate) fn go_raw(&self) -> Result<(), Error> {
        if let Some(outer) = &self.outer {
            let attempt = || "cannot set the terminal's modes".to_owned();
            let mut modes = tcgetattr(outer).attempt(attempt)?;
            modes.make_raw();
            tcsetattr(outer, OptionalActions::Drain, &modes).attempt(attempt)?;
        }
        self.resize()
    }

    /// Give the terminal its modes back for the time of a stop.
    pub(crate) fn go_cooked(&self) -> Result<(), Error> {
        self.outer.iter().zip(&self.cooked).try_for_each(|(outer, modes)| {
            tcsetattr(outer, OptionalActions::Drain, modes)
                .attempt(|| "cannot set the terminal's modes".into())
        })
    }

    /// Give the pty the size of the caller's terminal.
    pub(crate) fn resize(&self) -> Result<(), Error> {
        let Some(outer) = &self.outer else { return Ok(()) };
        tcgetwinsize(outer)
            .and_then(|size| tcsetwinsize(&self.master, size))
            .attempt(|| "cannot set the pseudo-terminal's size".into())
    }

    /// The descriptors to poll, with what for: where bytes can come from, and where they wait to go.
    pub(crate) fn interests(&self) -> [(BorrowedFd<'_>, Interest); 3] {
        let (input, output) = self.ends();
        let master = Interest {
            read: self.output_open && self.to_outer.len() < CHUNK,
            write: !self.to_master.is_empty(),
        };
        [
            (
                input,
                Interest { read: self.input_open && self.to_master.len() < CHUNK, write: false },
            ),
            (output, Interest { read: false, write: !self.to_outer.is_empty() }),
            (self.master.as_fd(), master),
        ]
    }

    fn ends(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        match &self.outer {
            Some(outer) => (outer.as_fd(), outer.as_fd()),
            // Descriptors 0 and 1 stay open as long as this process lives.
            None => (rustix::stdio::stdin(), rustix::stdio::stdout()),
        }
    }

    /// Move what can be moved. `ready`: of the descriptors of [`Self::interests`], which poll(2) named.
    pub(crate) fn carry(&mut self, ready: [bool; 3]) {
        let [input, output, master] = ready;
        if input && self.input_open {
            let (from, _) = self.ends();
            match read_chunk(from) {
                Read::Bytes(bytes) => {
                    self.in_line = bytes.last() != Some(&b'\n');
                    self.to_master.extend(bytes);
                }
                Read::Later => {}
                // No more input: COMMAND hears of it as at a terminal, by VEOF (Ctrl-D). Inside a line it takes
                // two: the first is the end of that line only.
                Read::End => {
                    self.input_open = false;
                    self.to_master.extend(if self.in_line { &[0x04, 0x04][..] } else { &[0x04] });
                }
            }
        }
        if master {
            self.take_output();
        }
        if master || !self.to_master.is_empty() {
            write_some(self.master.as_fd(), &mut self.to_master);
        }
        if output || !self.to_outer.is_empty() {
            self.give_output();
        }
    }

    fn take_output(&mut self) {
        if !self.output_open || self.to_outer.len() >= CHUNK {
            return;
        }
        match read_chunk(self.master.as_fd()) {
            Read::Bytes(bytes) => self.to_outer.extend(bytes),
            Read::Later => {}
            Read::End => self.output_open = false, // EIO: nobody has the slave open
        }
    }

    fn give_output(&mut self) {
        let mut waiting = std::mem::take(&mut self.to_outer);
        write_some(self.ends().1, &mut waiting);
        self.to_outer = waiting;
    }

    /// After COMMAND's end: what it wrote last must still come out. Returns whether some of it is left.
    pub(crate) fn drain(&mut self) -> bool {
        let before = self.to_outer.len();
        self.take_output();
        let taken = self.to_outer.len() > before;
        self.give_output();
        taken || !self.to_outer.is_empty()
    }
}

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

enum Read {
    Bytes(Vec<u8>),
    Later,
    End,
}

fn read_chunk(from: BorrowedFd<'_>) -> Read {
    let mut buffer = vec![0; CHUNK];
    match rustix::io::read(from, &mut buffer) {
        Ok(0) => Read::End,
        Ok(length) => {
            buffer.truncate(length);
            Read::Bytes(buffer)
        }
        Err(Errno::AGAIN | Errno::INTR) => Read::Later,
        Err(_) => Read::End, // EIO: the other side of a terminal is gone
    }
}

/// Write from the front of `waiting` what can be written now. A reader that is gone gets nothing more.
fn write_some(to: BorrowedFd<'_>, waiting: &mut Vec<u8>) {
    match rustix::io::write(to, waiting) {
        Ok(length) => drop(waiting.drain(..length)),
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(_) => waiting.clear(),
    }
}
