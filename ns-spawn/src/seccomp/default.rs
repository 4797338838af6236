//! The built-in profiles. The rules are those of Docker's default profile (moby/profiles,
//! seccomp/default.json, 2026), resolved for kernels from 4.8 on.

use super::{
    profile::{Action, Comparison, Condition, Profile, Rule},
    syscalls::Arch,
};

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// Allowed with any arguments.
const ALLOWED: &str = "\
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate \
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync \
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync \
    ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat \
    getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups \
    getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid \
    getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt \
    get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init \
    inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents \
    io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule \
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount \
    listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise \
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 \
    mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 \
    mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock \
    munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause \
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 \
    prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 \
    pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom \
    recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 \
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr \
    sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 \
    sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 \
    setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
    setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 \
    setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask \
    sigreturn socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync \
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 \
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink \
    unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write \
    writev";

/// Allowed besides on machines of one architecture.
const ALLOWED_ON: &[(Arch, &str)] = &[
    (Arch::X86_64, "arch_prctl modify_ldt"),
    (
        Arch::Aarch64,
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
];

/// Allowed to who has a capability.
const ALLOWED_WITH: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

const SYS_ADMIN: &str = "CAP_SYS_ADMIN";

/// The last address family of socket(2) that is known, `AF_MCTP`.
const LAST_FAMILY: u64 = 45;

/// Those that are refused: `AF_ALG` (38, CVE-2026-31431) and `AF_VSOCK` (40), which reach past the container; and
/// what kernels lost, or never had: `AF_DECNET`, `ECONET`, `ATMSVC`, `IRDA`, `WANPIPE`, `ISDN` and `CAIF`.
const REFUSED_FAMILIES: [u64; 9] = [38, 40, 12, 19, 20, 23, 25, 34, 37];

/// The execution domains of personality(2): `PER_LINUX`, `PER_LINUX32`, each with `UNAME26`, and the question.
const PERSONALITIES: &[u64] = &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The first of the calls of socketcall(2).
const SYS_SOCKET: u64 = 1;

/// The default profile on a machine of architecture `native`, for who has the capabilities that `has` says.
pub(crate) fn default(native: Arch, has: impl Fn(&str) -> bool) -> Profile<'static> {
    let mut rules = vec![allow(ALLOWED)];
    let here = ALLOWED_ON.iter().filter(|(arch, _)| *arch == native);
    rules.extend(here.map(|(_, names)| allow(names)));
    let granted = ALLOWED_WITH.iter().filter(|(capability, _)| has(capability));
    rules.extend(granted.map(|(_, names)| allow(names)));
    if !has(SYS_ADMIN) {
        rules.push(allow_if("clone", vec![masked(0, CLONE_NAMESPACES)]));
        // Its flags are in memory, out of a filter's sight. C libraries go on to clone when it is not there.
        rules.push(Rule { action: Action::Errno(ENOSYS), ..allow("clone3") });
    }
    let mut families = vec![condition(0, Comparison::LessOrEqual, LAST_FAMILY)];
    families.extend(REFUSED_FAMILIES.map(|family| condition(0, Comparison::NotEqual, family)));
    rules.push(allow_if("socket", families));
    rules.extend(
        PERSONALITIES
            .iter()
            .map(|domain| allow_if("personality", vec![condition(0, Comparison::Equal, *domain)])),
    );
    // Here we are stricter than Docker, which has AppArmor for it: the family is in memory, so that any program
    // could open AF_ALG by a 32-bit call. 32-bit programs have socket(2) as well.
    let behind = condition(0, Comparison::Greater, SYS_SOCKET);
    rules.push(allow_if("socketcall", vec![behind]));
    Profile { default: Action::Errno(EPERM), arches: vec![native, native.compat()], rules }
}

fn allow(names: &'static str) -> Rule<'static> {
    let names = names.split_whitespace().collect();
    Rule { names, conditions: vec![], action: Action::Allow }
}

fn allow_if(name: &'static str, conditions: Vec<Condition>) -> Rule<'static> {
    Rule { conditions, ..allow(name) }
}

fn condition(index: u8, comparison: Comparison, value: u64) -> Condition {
    Condition { index, comparison, value }
}

/// No bit of `mask` is set.
fn masked(index: u8, mask: u64) -> Condition {
    condition(index, Comparison::MaskedEqual(mask), 0)
}
