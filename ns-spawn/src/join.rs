//! Another command in a container that runs.

use crate::{
    cli::Cli,
    command::Command,
    error::{Attempt as _, Error},
    init::{die_with_supervisor, hide},
    plan::print_script,
    rootfs::{Rootfs, needs_root},
    supervise::close_other_end,
    sys::{self, Page, Side},
    terminal::{Attached, Pty, Terminal},
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::{signal::SigSet, statfs::fstatfs},
};
use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{os::unix::net::UnixStream, path::Path};

/// What will be done.
pub(crate) struct Join {
    pid: i32,
    target: OwnedFd,
    pub(crate) command: Command,
    pub(crate) terminal: Terminal,
}

/// The namespaces that a process enters itself; that of PIDs is for its children.
const ENTERED: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWCGROUP)
    .union(CloneFlags::CLONE_NEWNET);

/// `struct statfs.f_type` of a devpts: `DEVPTS_SUPER_MAGIC` in linux/magic.h.
const DEVPTS: i64 = 0x1cd1;

impl Join {
    pub(crate) fn new(cli: &Cli, pid: i32) -> Result<Self, Error> {
        let attempt = || format!("cannot find process {pid}");
        let target = Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .ok_or_else(|| Error::new(format!("'{pid}' is no process ID")))?;
        let target = pidfd_open(target, PidfdFlags::empty()).attempt(attempt).map_err(|err| {
            err.hint_on(Errno::ESRCH, "it has ended; --pid-file tells a container's")
        })?;
        let rootfs = Rootfs::open(Path::new(&format!("/proc/{pid}/root"))).map_err(needs_root)?;
        let command = Command::new(cli, &rootfs, None)?;
        Ok(Self { pid, target, command, terminal: Terminal::choose(cli.console, true)? })
    }

    /// Print it as a shell script that does the same.
    pub(crate) fn print(&self) -> Result<u8, Error> {
        let shell =
            format!("nsenter --target {} --mount --uts --ipc --net --pid --cgroup sh -e", self.pid);
        let terminal = format!("# terminal: {}", self.terminal.shown());
        print_script(&shell, std::iter::once(terminal).chain(self.command.shell()))
    }

    /// Start COMMAND there. The result is its PID.
    pub(crate) fn start(
        &self,
        mask: SigSet,
        page: &Page,
        ours: Option<&UnixStream>,
        theirs: Option<&UnixStream>,
    ) -> Result<i32, Error> {
        setns(&self.target, CloneFlags::CLONE_NEWPID)
            .attempt(|| format!("cannot enter the PID namespace of process {}", self.pid))
            .map_err(needs_root)?;
        match sys::clone_process(0).attempt(|| "cannot fork".into())? {
            Side::Parent(command) => Ok(command),
            Side::Child => {
                close_other_end(ours);
                let error = match self.enter(page, theirs) {
                    Ok(terminal) => self.command.run(&terminal, &mask, Some(page), theirs),
                    Err(error) => error,
                };
                error.leave_on(page);
                sys::exit_now(1)
            }
        }
    }

    /// In the child: hide from the container's processes before they can see this one, and go in.
    fn enter(&self, page: &Page, channel: Option<&UnixStream>) -> Result<Attached, Error> {
        die_with_supervisor(page)?;
        hide()?;
        setns(&self.target, ENTERED)
            .attempt(|| format!("cannot enter the namespaces of process {}", self.pid))
            .map_err(needs_root)?;
        match (&self.terminal, channel) {
            (Terminal::Own { outer, stderr }, Some(channel)) => {
                let pty = Pty::open(devpts()?.as_fd(), "ptmx", outer.as_ref())?;
                Ok(Attached::Own { slave: pty.hand_over(channel)?, stderr: *stderr })
            }
            (Terminal::Own { .. }, None) => {
                Err(Error::new("no pseudo-terminal can be handed over"))
            }
            (Terminal::Inherited { handed_over, .. }, _) => {
                Ok(Attached::Inherited { handed_over: *handed_over })
            }
            (Terminal::None, _) => Ok(Attached::None),
        }
    }
}

/// The container's devpts. What the container has put in its place is not used.
fn devpts() -> Result<OwnedFd, Error> {
    let attempt = || "cannot open the container's '/dev/pts'".to_owned();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let pts = openat2(CWD, "/dev/pts", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
        .attempt(attempt)?;
    let filesystem = fstatfs(&pts).attempt(attempt)?.filesystem_type();
    if filesystem.0 == DEVPTS {
        Ok(pts)
    } else {
        Err(Error::new("the container's '/dev/pts' is no devpts"))
    }
}
