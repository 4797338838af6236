/* The fewest system calls that start a container as ns-spawn does by default when it joins a network namespace: a
 * supervisor, an init, and COMMAND with Docker's capabilities, masks and seccomp filter.
 *
 * usage: spawn-floor ROOT NETNS RESOLV_CONF COMMAND [ARG...]
 *
 * It looks nothing up, checks nothing but each call's result, and can only do this one thing. What it leaves out is what
 * does not change the outcome: reading options, following symbolic links safely, error messages, terminals, passing on
 * signals. seccomp-filter.h is the program that ns-spawn loads, as strace shows it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY(call) do { if ((call) < 0) die(#call); } while (0)
#define LENGTH(array) (sizeof(array) / sizeof *(array))

static struct sock_filter filter[] = {
#include "seccomp-filter.h"
};
static const int kept[] = {
    CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP,
    CAP_NET_BIND_SERVICE, CAP_NET_RAW, CAP_SYS_CHROOT, CAP_MKNOD, CAP_AUDIT_WRITE, CAP_SETFCAP,
};
static char *environment[] = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "TERM=dumb",
    "container=ns-spawn", NULL,
};
static const unsigned long none = MS_NOSUID | MS_NODEV | MS_NOEXEC;
static sigset_t every_signal;

static void die(const char *what)
{
    dprintf(2, "spawn-floor: %s: %s\n", what, strerror(errno));
    _exit(125);
}

static void set_attributes(const char *path, __u64 attributes)
{
    struct mount_attr change = { .attr_set = attributes };
    TRY(syscall(SYS_mount_setattr, AT_FDCWD, path, AT_RECURSIVE, &change, sizeof change));
}

static void bind(const char *source, const char *target)
{
    TRY(mount(source, target, NULL, MS_BIND, NULL));
}

static void touch(const char *path)
{
    TRY(mknod(path, S_IFREG | 0644, 0));
}

/* A file of the container's own on `target`. It lives in /dev's tmpfs, without a name. */
static void write_file(const char *target, const char *content)
{
    int file = open("dev/file", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    TRY(file);
    TRY(write(file, content, strlen(content)));
    bind("dev/file", target);
    TRY(unlink("dev/file"));
    close(file);
}

static void mount_dev(void)
{
    /* No node in the container can be opened, but these six, which are the host's. */
    static const char *nodes[][2] = {
        { "/dev/null", "dev/null" }, { "/dev/zero", "dev/zero" }, { "/dev/full", "dev/full" },
        { "/dev/random", "dev/random" }, { "/dev/urandom", "dev/urandom" }, { "/dev/tty", "dev/tty" },
    };
    TRY(mount("tmpfs", "dev", "tmpfs", none, "mode=755,size=65536k"));
    for (unsigned i = 0; i < LENGTH(nodes); i++) {
        touch(nodes[i][1]);
        bind(nodes[i][0], nodes[i][1]);
    }
    TRY(symlink("/proc/self/fd", "dev/fd"));
    TRY(symlink("/proc/self/fd/0", "dev/stdin"));
    TRY(symlink("/proc/self/fd/1", "dev/stdout"));
    TRY(symlink("/proc/self/fd/2", "dev/stderr"));
    TRY(symlink("pts/ptmx", "dev/ptmx"));
    TRY(mkdir("dev/pts", 0755));
    TRY(mkdir("dev/shm", 0755));
    TRY(mkdir("dev/mqueue", 0755));
    TRY(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    TRY(mount("tmpfs", "dev/shm", "tmpfs", none, "mode=1777,size=65536k"));
    TRY(mount("mqueue", "dev/mqueue", "mqueue", none, NULL));
}

/* Docker's masked and read-only paths. Which of them a kernel has is its own matter. */
static void mask(void)
{
    static const char *files[] = { "proc/interrupts", "proc/kcore", "proc/keys", "proc/timer_list", "proc/latency_stats",
                                   "proc/sched_debug", "proc/timer_stats" };
    static const char *directories[] = { "sys/firmware", "sys/devices/virtual/powercap", "proc/acpi", "proc/asound",
                                         "proc/scsi" };
    static const char *read_only[] = { "proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger" };
    for (unsigned i = 0; i < LENGTH(files); i++)
        if (mount("/dev/null", files[i], NULL, MS_BIND, NULL) < 0 && errno != ENOENT)
            die(files[i]);
    const char *empty = NULL;
    for (unsigned i = 0; i < LENGTH(directories); i++) {
        int failed = empty ? mount(empty, directories[i], NULL, MS_BIND, NULL)
                           : mount("tmpfs", directories[i], "tmpfs", none | MS_RDONLY, "size=0,mode=755");
        if (failed < 0 && errno != ENOENT)
            die(directories[i]);
        if (failed == 0)
            empty = directories[i];
    }
    for (unsigned i = 0; i < LENGTH(read_only); i++) {
        if (mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL) == 0)
            set_attributes(read_only[i], MOUNT_ATTR_RDONLY);
        else if (errno != ENOENT)
            die(read_only[i]);
    }
}

static void set_capabilities(unsigned long long wanted)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2] = {
        { .effective = (__u32)wanted, .permitted = (__u32)wanted },
        { .effective = (__u32)(wanted >> 32), .permitted = (__u32)(wanted >> 32) },
    };
    TRY(syscall(SYS_capset, &header, data));
}

static int run_command(void *argv)
{
    unsigned long long wanted = 0;
    for (unsigned i = 0; i < LENGTH(kept); i++)
        wanted |= 1ull << kept[i];
    TRY(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL));
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
        if (!(wanted >> capability & 1))
            TRY(prctl(PR_CAPBSET_DROP, capability));
    TRY(syscall(SYS_setgroups, 0, NULL)); /* glibc's function would ask every thread */
    set_capabilities(wanted);
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    TRY(syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC));
    sigset_t no_signal;
    sigemptyset(&no_signal);
    TRY(sigprocmask(SIG_SETMASK, &no_signal, NULL));
    struct sock_fprog program = { LENGTH(filter), filter };
    TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program));
    execve(((char **)argv)[0], argv, environment);
    die("execve");
    return 125;
}

static int wait_for(pid_t child)
{
    siginfo_t signal;
    int status;
    TRY(sigwaitinfo(&every_signal, &signal));
    TRY(waitpid(child, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int init(const char *root, int netns, const char *resolv_conf, char **argv)
{
    static char stack[65536] __attribute__((aligned(16)));
    TRY(prctl(PR_SET_PDEATHSIG, SIGKILL));
    TRY(setns(netns, CLONE_NEWNET));
    TRY(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    TRY(mount(root, root, NULL, MS_BIND | MS_REC, NULL));
    TRY(chdir(root));
    set_attributes(".", MOUNT_ATTR_NODEV);
    bind(resolv_conf, "etc/resolv.conf");
    set_attributes("etc/resolv.conf", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    TRY(mount("proc", "proc", "proc", none, NULL));
    TRY(mount("sysfs", "sys", "sysfs", none | MS_RDONLY, NULL));
    mount_dev();
    write_file("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tcontainer\n::1\tlocalhost\n");
    write_file("etc/hostname", "container\n");
    mask();
    TRY(sethostname("container", 9));
    TRY(syscall(SYS_pivot_root, ".", "."));
    TRY(umount2(".", MNT_DETACH));
    TRY(prctl(PR_SET_DUMPABLE, 0));
    TRY(prctl(PR_SET_NAME, "floor: init"));
    /* The memory is lent until COMMAND is executed: nothing has to be copied. */
    pid_t command = clone(run_command, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, argv);
    TRY(command);
    TRY(syscall(SYS_close_range, 0, ~0u, 0));
    set_capabilities(1ull << CAP_KILL);
    return wait_for(command);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 125;
    int netns = open(argv[2], O_RDONLY | O_CLOEXEC);
    TRY(netns);
    sigfillset(&every_signal);
    TRY(sigprocmask(SIG_SETMASK, &every_signal, NULL));
    struct clone_args args = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP,
        .exit_signal = SIGCHLD,
    };
    pid_t child = syscall(SYS_clone3, &args, sizeof args);
    TRY(child);
    if (child == 0)
        _exit(init(argv[1], netns, argv[3], argv + 4));
    return wait_for(child);
}
