/* Tries system calls, and says what came of each. Static, for a container that has nothing else. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef TIOCLINUX
#define TIOCLINUX 0x541C
#endif

/* A call that would do nothing, if it were allowed: its arguments are wrong or without effect. */
struct call {
	const char *name;
	long number;
	long args[6];
};

#define CALL(name, ...) { #name, SYS_##name, { __VA_ARGS__ } }
#define NAMED(text, name, ...) { text, SYS_##name, { __VA_ARGS__ } }
#define NUMBER(name, number, ...) { #name, number, { __VA_ARGS__ } }

#define nowhere -1L /* no address, no descriptor */

static const struct call refused[] = {
	/* what is not namespaced */
	CALL(add_key, nowhere),
	CALL(keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING),
	CALL(request_key, nowhere),
	CALL(acct, nowhere),
	CALL(clock_settime, 0, nowhere),
	CALL(settimeofday, nowhere),
	CALL(syslog, 3, nowhere),
	CALL(quotactl, nowhere, nowhere),
	CALL(swapon, nowhere),
	CALL(swapoff, nowhere),
	CALL(vhangup),
	/* the kernel itself */
	CALL(init_module, nowhere),
	CALL(finit_module, nowhere),
	CALL(delete_module, nowhere),
	CALL(kexec_load, 0, nowhere, nowhere),
	CALL(reboot),
	CALL(bpf, nowhere),
	CALL(perf_event_open, nowhere),
	CALL(userfaultfd, nowhere),
	NUMBER(io_uring_setup, 425, 0, nowhere),
	NUMBER(io_uring_enter, 426, nowhere),
	NUMBER(io_uring_register, 427, nowhere),
#ifdef SYS_lookup_dcookie
	CALL(lookup_dcookie, nowhere, nowhere),
#endif
#ifdef SYS_nfsservctl
	CALL(nfsservctl),
#endif
	/* mounts */
	CALL(mount, nowhere, nowhere, nowhere),
	CALL(umount2, nowhere),
	CALL(pivot_root, nowhere, nowhere),
	NUMBER(open_tree, 428, nowhere, nowhere),
	NUMBER(move_mount, 429, nowhere, nowhere),
	NUMBER(fsopen, 430, nowhere),
	NUMBER(fsconfig, 431, nowhere),
	NUMBER(fsmount, 432, nowhere),
	NUMBER(fspick, 433, nowhere, nowhere),
	NUMBER(mount_setattr, 442, nowhere, nowhere),
	NUMBER(quotactl_fd, 443, nowhere),
	CALL(fanotify_init, nowhere),
	CALL(open_by_handle_at, nowhere, nowhere),
	/* namespaces */
	CALL(setns, nowhere),
	CALL(sethostname, nowhere, 1),
	CALL(setdomainname, nowhere, 1),
	NAMED("unshare mount", unshare, CLONE_NEWNS),
	NAMED("unshare cgroup", unshare, CLONE_NEWCGROUP),
	NAMED("unshare uts", unshare, CLONE_NEWUTS),
	NAMED("unshare ipc", unshare, CLONE_NEWIPC),
	NAMED("unshare user", unshare, CLONE_NEWUSER),
	NAMED("unshare pid", unshare, CLONE_NEWPID),
	NAMED("unshare net", unshare, CLONE_NEWNET),
	NAMED("clone mount", clone, CLONE_NEWNS | SIGCHLD),
	NAMED("clone cgroup", clone, CLONE_NEWCGROUP | SIGCHLD),
	NAMED("clone uts", clone, CLONE_NEWUTS | SIGCHLD),
	NAMED("clone ipc", clone, CLONE_NEWIPC | SIGCHLD),
	NAMED("clone user", clone, CLONE_NEWUSER | SIGCHLD),
	NAMED("clone pid", clone, CLONE_NEWPID | SIGCHLD),
	NAMED("clone net", clone, CLONE_NEWNET | SIGCHLD),
	/* other processes */
	CALL(kcmp, 1, 1),
	NUMBER(pidfd_getfd, 438, nowhere),
	NUMBER(process_madvise, 440, nowhere),
	CALL(migrate_pages, 1, 0, 0, 0),
	CALL(move_pages, 1),
	CALL(mbind, nowhere),
	CALL(set_mempolicy, nowhere),
	CALL(get_mempolicy, nowhere),
	NUMBER(set_mempolicy_home_node, 450, nowhere),
	/* one argument decides */
	NAMED("personality without address randomization", personality, ADDR_NO_RANDOMIZE),
	NAMED("personality that executes what it reads", personality, READ_IMPLIES_EXEC),
	NAMED("socket of AF_ALG", socket, 38, SOCK_SEQPACKET),
	NAMED("socket of AF_ALG and a bit above", socket, 38 | 1L << 32, SOCK_SEQPACKET),
	NAMED("socket of AF_VSOCK", socket, 40, SOCK_STREAM),
	NAMED("socket of AF_DECNET", socket, 12, SOCK_STREAM),
	NAMED("socket of AF_CAIF", socket, 37, SOCK_STREAM),
	NAMED("ioctl TIOCSTI", ioctl, 0, TIOCSTI, (long)"x"),
	NAMED("ioctl TIOCSTI and a bit above", ioctl, 0, TIOCSTI | 1L << 32, (long)"x"),
	NAMED("ioctl TIOCLINUX", ioctl, 0, TIOCLINUX, (long)"x"),
	NAMED("ioctl TIOCLINUX and a bit above", ioctl, 0, TIOCLINUX | 1L << 32, (long)"x"),
#ifdef __x86_64__
	CALL(iopl, 3),
	CALL(ioperm, 0, 1, 1),
	CALL(uselib, nowhere),
	CALL(ustat, nowhere, nowhere),
	CALL(sysfs, nowhere),
	CALL(_sysctl, nowhere),
	CALL(create_module, nowhere),
	CALL(get_kernel_syms, nowhere),
	CALL(query_module, nowhere),
	CALL(kexec_file_load, nowhere),
	CALL(afs_syscall),
	CALL(getpmsg),
	CALL(putpmsg),
	CALL(security),
	CALL(tuxcall),
	CALL(vserver),
#endif
};

#ifdef __x86_64__
/* The same doors for 32-bit programs, which every program can knock at. */
static const struct call refused_32[] = {
	{ "32-bit keyctl", 288, { KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING } },
	{ "32-bit mount", 21, { 0 } },
	{ "32-bit umount", 22, { 0 } },
	{ "32-bit unshare user", 310, { CLONE_NEWUSER } },
	{ "32-bit clone user", 120, { CLONE_NEWUSER | SIGCHLD } },
	{ "32-bit stime", 25, { 0 } },
	{ "32-bit vm86", 166, { 0 } },
	{ "32-bit socket of AF_ALG", 359, { 38, SOCK_SEQPACKET } },
	{ "32-bit socketcall that makes a socket", 102, { 1, 0 } },
	{ "32-bit socketcall that makes a socket and a bit above", 102, { 1 | 1L << 32, 0 } },
	{ "32-bit ioctl TIOCSTI", 54, { 0, TIOCSTI, 0 } },
	{ "32-bit ioctl TIOCSTI and a bit above", 54, { 0, TIOCSTI | 1L << 32, 0 } },
};

static long call_32(const struct call *call)
{
	long result;
	asm volatile("int $0x80"
	             : "=a"(result)
	             : "a"(call->number), "b"(call->args[0]), "c"(call->args[1]), "d"(call->args[2])
	             : "memory", "r8", "r9", "r10", "r11");
	errno = result < 0 ? (int)-result : 0;
	return result < 0 ? -1 : result;
}
#endif

static long call_native(const struct call *call)
{
	const long *a = call->args;
	return syscall(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static const char *errno_name(int number)
{
	static char text[16];
	switch (number) {
	case 0:
		return "done";
	case EPERM:
		return "EPERM";
	case ENOSYS:
		return "ENOSYS";
	case EAFNOSUPPORT:
		return "EAFNOSUPPORT";
	case EOPNOTSUPP:
		return "EOPNOTSUPP";
	default:
		snprintf(text, sizeof(text), "errno %d", number);
		return text;
	}
}

/* Each in a process of its own, so that one that works does not change the next. */
static void try(const struct call *call, long (*how)(const struct call *))
{
	int status;
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		errno = 0;
		long result = how(call);
		_exit(result < 0 ? errno : 0);
	}
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		printf("%s: killed by signal %d\n", call->name, WTERMSIG(status));
	else
		printf("%s: %s\n", call->name, errno_name(WEXITSTATUS(status)));
}

#define TRY_ALL(calls, how) \
	for (size_t i = 0; i < sizeof(calls) / sizeof(*(calls)); i++) \
		try(&(calls)[i], how)

static void *thread(void *arg)
{
	return arg;
}

static long start_thread(const struct call *call)
{
	pthread_t id;
	void *result = NULL;
	int failed = pthread_create(&id, NULL, thread, (void *)call);
	if (failed || pthread_join(id, &result) || result != call)
		return -1;
	return 0;
}

static const struct call other[] = {
	NUMBER(clone3, 435, nowhere, 64),
	{ "a call newer than the profile", 467, { nowhere } },
	{ "a call that no kernel has", 2000, { 0 } },
	NAMED("clone", clone, SIGCHLD),
	NAMED("chroot", chroot, (long)"/"),
	NAMED("personality, a question", personality, 0xffffffff),
	NAMED("ptrace", ptrace, PTRACE_TRACEME),
	NAMED("socket of AF_UNIX", socket, AF_UNIX, SOCK_STREAM),
	NAMED("socket of AF_INET", socket, AF_INET, SOCK_STREAM),
	NAMED("socket of AF_NETLINK", socket, AF_NETLINK, SOCK_RAW),
	NAMED("socket of AF_PACKET", socket, AF_PACKET, SOCK_RAW),
#ifdef __x86_64__
	{ "x32 getpid", 0x40000000 + SYS_getpid, { 0 } },
#endif
};

static long type_at_controlling_terminal(const struct call *call)
{
	int terminal = open("/dev/tty", O_RDWR);
	return terminal < 0 ? -1 : ioctl(terminal, call->args[0], "!");
}

static const struct call controlling = { "TIOCSTI on /dev/tty", 0, { TIOCSTI } };
static const struct call threads = { "a thread", 0, { 0 } };
#ifdef __x86_64__
static const struct call getpid_32 = { "32-bit getpid", 20, { 0 } };
#endif

static const struct call typing[] = {
	NAMED("TIOCSTI on 0", ioctl, 0, TIOCSTI, (long)"!"),
	NAMED("TIOCSTI on 1", ioctl, 1, TIOCSTI, (long)"!"),
	NAMED("TIOCSTI on 2 and a bit above", ioctl, 2, TIOCSTI | 1L << 32, (long)"!"),
	NAMED("TIOCLINUX on 1", ioctl, 1, TIOCLINUX, (long)"\3"),
	NAMED("TIOCSTI on 3", ioctl, 3, TIOCSTI, (long)"!"),
};

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "refused")) {
		TRY_ALL(refused, call_native);
#ifdef __x86_64__
		TRY_ALL(refused_32, call_32);
#endif
	} else if (!strcmp(what, "other")) {
		TRY_ALL(other, call_native);
		try(&threads, start_thread);
#ifdef __x86_64__
		try(&getpid_32, call_32);
#endif
	} else if (!strcmp(what, "typing")) {
		TRY_ALL(typing, call_native);
		try(&controlling, type_at_controlling_terminal);
	} else if (!strcmp(what, "getppid")) {
		/* what a profile of the tests speaks of */
		static const struct call call = CALL(getppid);
		try(&call, call_native);
	} else {
		return 2;
	}
	return 0;
}
