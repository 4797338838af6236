//! The raw kernel calls: starting a process inside a cgroup, and the signal settings for it.
//!
//! std has no clone3 with `CLONE_INTO_CGROUP`, and glibc only from 2.39 on. Without it a process joins a v2
//! cgroup by a write that waits for an RCU grace period, 7 to 15 ms on an idle machine; with it in 0.3 ms.

use nix::{
    errno::Errno,
    libc,
    sys::signal::{SigHandler, Signal, signal},
    unistd::{ForkResult, Pid, fork},
};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _},
};

/// What the C library calls. Rust's own start-up would read /proc/self/maps and set handlers and a stack for them: 15 system
/// calls and a twelfth of the time to start, for a word on a stack that overflows.
#[cfg(not(test))]
// SAFETY: this is the function that the C library calls by this name.
#[unsafe(no_mangle)]
extern "C" fn main() -> libc::c_int {
    open_standard_streams();
    crate::main().into() // what was printed is out: standard output goes line by line
}

/// Open /dev/null as what is closed of standard input, output and error: files of the cgroup would take their numbers.
#[cfg(not(test))]
fn open_standard_streams() {
    let mut streams = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the array is as long as is said.
    unsafe { libc::poll(streams.as_mut_ptr(), 3, 0) };
    for _ in streams.iter().filter(|stream| stream.revents & libc::POLLNVAL != 0) {
        // SAFETY: a C string. The kernel gives the lowest number that is free: that of the next closed one.
        unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
    }
}

/// From include/uapi/linux/sched.h; libc's constant of this name is an int, too small for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Start a process that runs `child` and ends with the status that it returns, in the v2 cgroup whose
/// directory is given. `child` is told whether it is inside already: where a seccomp filter hides clone3
/// (ENOSYS) it is not.
///
/// To be called while the process has one thread.
pub(crate) fn spawn(
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce(bool) -> u8,
) -> nix::Result<Pid> {
    let (pid, inside) = match clone3(cgroup) {
        Err(Errno::ENOSYS) => (plain_fork()?, false),
        pid => (pid?, cgroup.is_some()),
    };
    if pid.as_raw() != 0 {
        return Ok(pid);
    }
    let status = child(inside);
    // SAFETY: _exit(2) has no preconditions. It is not exit(3): what the parent registered is the parent's.
    unsafe { libc::_exit(status.into()) }
}

/// clone3(2) as a fork, into `cgroup` if one is given. 0 is the child.
fn clone3(cgroup: Option<BorrowedFd<'_>>) -> nix::Result<Pid> {
    // SAFETY: clone_args is a plain structure of integers, for which zero means "not asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    if let Some(dir) = cgroup {
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd().unsigned_abs().into();
    }
    // SAFETY: without CLONE_VM the child goes on in a copy of this memory, on the same stack, as after
    // fork(2). The program has one thread, so no lock is held by a thread that the child lacks; `args` is
    // as long as its size says and outlives the call.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    Errno::result(pid).map(|pid| Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX)))
}

/// fork(2). 0 is the child.
fn plain_fork() -> nix::Result<Pid> {
    // SAFETY: the program has one thread, so the child may do whatever this process may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => Ok(Pid::from_raw(0)),
    }
}

/// A descriptor that we were started with, as a file of our own; COMMAND does not get it, so that a reader
/// at its other end sees the end when we are done. The standard streams are COMMAND's all the same.
pub(crate) fn inherited(fd: i32) -> io::Result<File> {
    // SAFETY: fcntl(2) with these commands takes any number: of one that is not open it says EBADF.
    let copy = Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })?;
    if fd > 2 {
        // SAFETY: as above.
        Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    // SAFETY: the copy was just made, and nothing else knows of it.
    Ok(unsafe { File::from_raw_fd(copy) })
}

/// Have writes fail where nobody reads any more, and not end us while there is a cgroup to remove.
pub(crate) fn outlive_readers() -> nix::Result<()> {
    // SAFETY: to ignore it is no function of ours that could be called at a bad time.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }.map(drop)
}

/// Make children waitable: if we were started with SIGCHLD ignored, their status would be thrown away.
pub(crate) fn heed_children() -> nix::Result<()> {
    // SAFETY: the default action is no function of ours that could be called at a bad time.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map(drop)
}
