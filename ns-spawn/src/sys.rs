//! Raw kernel calls: what neither nix nor rustix offers as a safe function.

mod heap;

use self::heap::Heap;
use crate::seccomp::Instruction;
use nix::{
    errno::Errno,
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};
use rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::{
    cell::UnsafeCell,
    ffi::CStr,
    mem::{self, MaybeUninit},
    os::{
        fd::FromRawFd as _,
        raw::{c_char, c_int, c_void},
    },
    ptr,
    sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering},
    time::Duration,
};

/// What the C library calls. Rust's own start-up would read /proc/self/maps, set handlers and a stack for them,
/// and ignore SIGPIPE: 20 system calls for nothing that is wanted here.
#[cfg(not(test))]
// SAFETY: this is the function that the C library calls by this name.
#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    open_standard_streams();
    exit_now(crate::main().into()) // what was printed is out: standard output goes line by line
}

/// Open /dev/null as what is closed of standard input, output and error. What the container is made with would
/// take their numbers otherwise, and get into it.
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

/// A stack's unit, of the alignment that it has to have.
type Word = u128;

#[cfg_attr(not(test), global_allocator)]
static HEAP: Heap = Heap::new();

/// Move `value` out of the memory in which it was made, and give that back to the kernel, if nothing else is left there.
pub(crate) fn move_out<T: Clone>(value: T) -> T {
    HEAP.move_out(value)
}

/// Give all of the heap back to the kernel. Nothing on it may be used any more, nor may anything be allocated.
pub(crate) fn give_up_heap() {
    HEAP.give_up();
}

/// On which side of the clone one is.
pub(crate) enum Side {
    /// The caller, with the child's PID as the caller sees it.
    Parent(i32),
    /// The new process.
    Child,
}

/// clone3(2) with the namespaces of `flags` (`CLONE_NEW*`) and a copy of the caller's memory, like fork(2).
pub(crate) fn clone_process(flags: u64) -> Result<Side, Errno> {
    // SAFETY: zero is a valid value of every field (no stack, no TLS: those of the caller, copied).
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: `args` is a valid clone_args of the size given. CLONE_VM is never passed, so the child runs on
    // a copy of this stack; ns-spawn has one thread, so the child inherits no lock that another one holds.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut args, mem::size_of::<libc::clone_args>())
    };
    match i32::try_from(Errno::result(pid)?) {
        Ok(0) | Err(_) => Ok(Side::Child),
        Ok(pid) => Ok(Side::Parent(pid)),
    }
}

/// vfork(2), on a stack of its own: `child` runs in this process's memory, and this process stands still until it
/// executes another program or ends, with the status that it returns. So nothing is copied, and no page is then
/// written twice.
///
/// There is one stack, so no two such children at once. Killed half-way it may leave the heap as it was at that moment: its
/// parent must not allocate any more.
pub(crate) fn run_in_own_memory<F: FnMut() -> i32>(mut child: F) -> Result<i32, Errno> {
    extern "C" fn call<F: FnMut() -> i32>(child: *mut c_void) -> c_int {
        // SAFETY: it is the `child` below, which nothing else uses meanwhile.
        let child = unsafe { &mut *child.cast::<F>() };
        child()
    }
    let top = HEAP.top_of_stack();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: with CLONE_VFORK only one of the two processes runs at any time, each has its own stack, and
    // ns-spawn has one thread. `child` lives on until the child has left this memory, the stack for ever.
    let pid = unsafe { libc::clone(call::<F>, top.cast(), flags, (&raw mut child).cast()) };
    Errno::result(pid)
}

/// End this process at once: no destructors, no buffers (they are the parent's).
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) is always safe to call.
    unsafe { libc::_exit(status) }
}

/// Give `signal` its default action.
pub(crate) fn reset_disposition(signal: Signal) -> Result<(), Errno> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed, so none can run at a wrong moment.
    unsafe { sigaction(signal, &default) }.map(drop)
}

/// A signal that was waited for, and where it came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Its number; real-time signals have no other name.
    pub(crate) number: i32,
    /// Sent by kill(2), and not made by the kernel, a terminal's driver for example.
    pub(crate) sent: bool,
    /// The sender as this PID namespace sees it; 0 when it is outside.
    pub(crate) sender: i32,
}

/// Wait for one of the blocked signals, at most as long as `limit`: EAGAIN says that it is over.
pub(crate) fn wait_for_signal(limit: Option<Duration>) -> Result<Received, Errno> {
    let all = SigSet::all();
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: all three point to values that live until the call returns; a null limit is none.
    let number = unsafe { libc::sigtimedwait(all.as_ref(), &raw mut info, limit) };
    let number = Errno::result(number)?;
    // SAFETY: si_pid is valid memory for any signal; it is meaningful only if `sent`.
    let sender = unsafe { info.si_pid() };
    Ok(Received { number, sent: info.si_code <= 0, sender })
}

/// kill(2) with a number, because real-time signals have no other name.
pub(crate) fn kill(pid: i32, number: i32) -> Result<(), Errno> {
    // SAFETY: kill(2) takes no pointers.
    Errno::result(unsafe { libc::kill(pid, number) }).map(drop)
}

/// Have SIGIO sent to this process when there is something to read from `fd`, which no longer blocks (fcntl(2)).
pub(crate) fn signal_on_input(fd: impl AsFd) -> Result<(), Errno> {
    let fd = fd.as_fd().as_raw_fd();
    let owner = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETOWN, owner) })?;
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK) })
        .map(drop)
}

/// Close the descriptors from `first` on, but for `kept`. Values that own one must not be dropped any more.
///
/// Allocates nothing: see [`run_in_own_memory`].
pub(crate) fn close_from(first: u32, kept: &[u32]) -> Result<(), Errno> {
    let mut first = first;
    while let Some(next) = kept.iter().copied().filter(|number| *number >= first).min() {
        if next > first {
            close_range(first, next - 1)?;
        }
        first = next + 1;
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: takes no pointers. That nothing uses what is closed is for the caller above.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// seccomp(2), `SECCOMP_SET_MODE_FILTER`: put this thread, the only one, under the filter `program`.
pub(crate) fn load_filter(program: &[Instruction], flags: u32) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?,
        filter: program.as_ptr().cast_mut().cast(), // the kernel only reads it
    };
    // SAFETY: `filter` points to `len` instructions, which live until the call returns; `Instruction` is
    // `repr(C)` with the fields of the kernel's `struct sock_filter`.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    Errno::result(done).map(drop)
}

/// `mount_setattr(2)`: change attributes and propagation of the mount `fd`, and with `recursive` of all below it.
pub(crate) fn set_mount_attributes(
    fd: impl AsFd,
    attributes: &libc::mount_attr,
    recursive: bool,
) -> Result<(), Errno> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and `attributes` is of the size given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            ptr::from_ref(attributes),
            mem::size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done).map(drop)
}

/// `IFF_UP` has this value in the 16 bits that the request has for it: netdevice(7).
const UP: i16 = 1;

/// Bring up `lo` in the current network namespace (netdevice(7), `SIOCSIFFLAGS`).
pub(crate) fn raise_loopback(socket: impl AsFd) -> Result<(), Errno> {
    // SAFETY: zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = UP;
    // SAFETY: SIOCSIFFLAGS reads an ifreq with a name and flags.
    let done =
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(done).map(drop)
}

/// Overwrite the argument and environment strings that /proc/PID/cmdline and environ show.
///
/// Afterwards neither `std::env::args` nor `std::env::var` may be used in this process.
pub(crate) fn wipe_arguments() {
    unsafe extern "C" {
        static program_invocation_name: *mut c_char;
        static environ: *const *mut c_char;
    }
    // SAFETY: both are set by the C library before main. The first points to argv[0]; the kernel lays
    // the strings of argv and then those of the environment behind one another (execve(2), proc(5)).
    let (first, mut variable) = unsafe { (program_invocation_name, environ) };
    let mut end = first;
    // SAFETY: `environ` is an array of C strings that ends in a null pointer; nothing in ns-spawn changes it.
    while let Some(text) = unsafe { variable.as_ref() }.filter(|text| !text.is_null()) {
        // SAFETY: as above, it is a C string.
        let length = unsafe { CStr::from_ptr(*text) }.to_bytes().len();
        // SAFETY: still inside the same string.
        end = unsafe { text.add(length) };
        // SAFETY: the array goes on at least to its null pointer.
        variable = unsafe { variable.add(1) };
    }
    if first.is_null() || end <= first {
        return; // no environment: the arguments alone are not worth a second way of counting
    }
    let length = end.addr() - first.addr();
    // SAFETY: the area between belongs to this process and nothing of Rust's borrows it: `std::env` copies.
    unsafe { ptr::write_bytes(first, 0, length) };
}

/// A descriptor of our own for what the caller has open as `number`.
pub(crate) fn duplicate(number: u32) -> Result<OwnedFd, Errno> {
    let number = i32::try_from(number).map_err(|_| Errno::EBADF)?;
    // SAFETY: takes no pointers.
    let copy = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: it is new, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Let the caller's descriptor `number` through the next exec.
pub(crate) fn keep_at_exec(number: u32) -> Result<(), Errno> {
    let number = i32::try_from(number).map_err(|_| Errno::EBADF)?;
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).map(drop)
}

/// Close the caller's descriptor `number`, which no value of ours owns.
pub(crate) fn close_number(number: u32) {
    if let Ok(number) = i32::try_from(number) {
        // SAFETY: takes no pointers, and the caller of this says that nothing owns it.
        unsafe { libc::close(number) };
    }
}

/// Get a new, empty session keyring: the caller's keys stay outside (keyctl(2)).
pub(crate) fn leave_session_keyring() -> Result<(), Errno> {
    // SAFETY: a null name asks for an anonymous keyring.
    let joined = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<c_char>())
    };
    match Errno::result(joined) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()), // a kernel without keys has none to leave
        Err(errno) => Err(errno),
    }
}

/// The effective user that this program was started as, from what the kernel then told it (getauxval(3)).
pub(crate) fn effective_uid() -> u32 {
    started_with(libc::AT_EUID)
}

/// Whether this program was started with no other IDs than these: real, effective and so, after an exec, saved ones.
pub(crate) fn started_as(uid: u32, gid: u32) -> bool {
    let all =
        [(libc::AT_UID, uid), (libc::AT_EUID, uid), (libc::AT_GID, gid), (libc::AT_EGID, gid)];
    all.iter().all(|(key, id)| started_with(*key) == *id)
}

/// One of the IDs. 4294967295 is none: setresuid(2).
fn started_with(key: libc::c_ulong) -> u32 {
    // SAFETY: takes no pointers.
    u32::try_from(unsafe { libc::getauxval(key) }).unwrap_or(u32::MAX)
}

/// A page shared with the child, on which it leaves how things ended, and from which it knows whether the supervisor lives. No
/// descriptor is needed for it, so none can be found in the container.
pub(crate) struct Page(&'static Layout);

/// Enough for every message, and one page with the rest.
const TEXT: usize = 3 * 1024;

#[repr(C)]
struct Layout {
    /// Locked by the supervisor as long as it lives. It is robust: when its owner dies, the kernel marks it.
    alive: UnsafeCell<libc::pthread_mutex_t>,
    state: AtomicU32,
    number: AtomicI32,
    code: AtomicU32,
    lengths: [AtomicU32; 2],
    text: [AtomicU8; TEXT],
}

/// What stands on the page.
pub(crate) enum Note {
    /// Nothing: init was killed before it could write.
    Nothing,
    /// A step failed: attempt, errno (0: none), hint, exit status.
    Failed { attempt: String, errno: i32, hint: String, code: u8 },
    /// COMMAND ended, with this wait(2) status.
    Ended(i32),
}

const FAILED: u32 = 1;
const ENDED: u32 = 2;

impl Page {
    pub(crate) fn new() -> Result<Self, Errno> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping, at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(ptr::null_mut(), mem::size_of::<Layout>(), protection, flags, -1, 0)
        };
        if page == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // SAFETY: the mapping is page-aligned, large enough, never unmapped, and zero, which is a valid
        // value of every field. All of them are atomics, as another process writes there, or the C library's affair.
        let page = Self(unsafe { &*page.cast::<Layout>() });
        page.begin()?;
        Ok(page)
    }

    /// Be the supervisor of whoever is cloned from now on.
    fn begin(&self) -> Result<(), Errno> {
        let done = |errno| if errno == 0 { Ok(()) } else { Err(Errno::from_raw(errno)) };
        let mut kind = MaybeUninit::uninit();
        let (kind, alive) = (kind.as_mut_ptr(), self.0.alive.get());
        // SAFETY: it makes a valid value of `kind`, for the calls below.
        done(unsafe { libc::pthread_mutexattr_init(kind) })?;
        // SAFETY: as above.
        done(unsafe { libc::pthread_mutexattr_setpshared(kind, libc::PTHREAD_PROCESS_SHARED) })?;
        // SAFETY: as above.
        done(unsafe { libc::pthread_mutexattr_setrobust(kind, libc::PTHREAD_MUTEX_ROBUST) })?;
        // SAFETY: as above; the mutex is in nobody's use yet, and stays where it is.
        done(unsafe { libc::pthread_mutex_init(alive, kind) })?;
        // SAFETY: it is one now.
        done(unsafe { libc::pthread_mutex_lock(alive) })
    }

    /// Whether the supervisor has died. Only a child may ask.
    pub(crate) fn is_orphaned(&self) -> bool {
        // SAFETY: it was made one before the child was.
        unsafe { libc::pthread_mutex_trylock(self.0.alive.get()) == libc::EOWNERDEAD }
    }

    /// Note that COMMAND ended with this wait(2) status, unless a failure stands there.
    pub(crate) fn ended(&self, status: i32) {
        if self.0.state.load(Ordering::Acquire) != FAILED {
            self.0.number.store(status, Ordering::Relaxed);
            self.0.state.store(ENDED, Ordering::Release);
        }
    }

    /// Note a failure. Texts that do not fit are cut.
    pub(crate) fn failed(&self, attempt: &str, errno: i32, hint: &str, code: u8) {
        let attempt = &attempt.as_bytes()[..attempt.len().min(TEXT / 2)];
        let hint = &hint.as_bytes()[..hint.len().min(TEXT / 2)];
        for (cell, byte) in self.0.text.iter().zip(attempt.iter().chain(hint)) {
            cell.store(*byte, Ordering::Relaxed);
        }
        for (cell, text) in self.0.lengths.iter().zip([attempt, hint]) {
            cell.store(u32::try_from(text.len()).unwrap_or(0), Ordering::Relaxed);
        }
        self.0.number.store(errno, Ordering::Relaxed);
        self.0.code.store(code.into(), Ordering::Relaxed);
        self.0.state.store(FAILED, Ordering::Release);
    }

    /// What stands there.
    pub(crate) fn read(&self) -> Note {
        let state = self.0.state.load(Ordering::Acquire);
        let number = self.0.number.load(Ordering::Relaxed);
        match state {
            FAILED => {
                let [attempt, hint] = [0, 1].map(|field: usize| {
                    usize::try_from(self.0.lengths[field].load(Ordering::Relaxed)).unwrap_or(0)
                });
                let text: Vec<u8> =
                    self.0.text.iter().map(|cell| cell.load(Ordering::Relaxed)).collect();
                let part = |from: usize, length: usize| {
                    String::from_utf8_lossy(text.get(from..from + length).unwrap_or(&[]))
                        .into_owned()
                };
                let code = u8::try_from(self.0.code.load(Ordering::Relaxed)).unwrap_or(u8::MAX);
                Note::Failed {
                    attempt: part(0, attempt),
                    errno: number,
                    hint: part(attempt, hint),
                    code,
                }
            }
            ENDED => Note::Ended(number),
            _ => Note::Nothing,
        }
    }
}
