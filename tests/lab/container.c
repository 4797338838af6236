/* A lab's container, as its C program does it: names, order and flags are what the tools must be able to replace.
 *
 * clone with new PID, UTS and mount namespaces; the child joins the network namespace, enters the pids cgroup, changes
 * its root, mounts proc and executes bash. ROOT, and the stages that are left to somebody else, come from outside:
 * SKIP holds the letters of stages that a tool has done already (n: network, c: cgroup).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NETNS "/var/run/netns/container_network_ns"
#define CGROUP "/sys/fs/cgroup/pids/container/"

static char stack[1024 * 1024];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int skipped(char stage)
{
    const char *skip = getenv("SKIP");
    return skip && strchr(skip, stage);
}

static void write_to(const char *file, const char *text)
{
    int fd = open(file, O_WRONLY | O_CREAT, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        die(file);
    close(fd);
}

static void enter_cgroup(void)
{
    mkdir(CGROUP, 0755);
    write_to(CGROUP "pids.max", "15");
    write_to(CGROUP "notify_on_release", "1");
    write_to(CGROUP "cgroup.procs", "0");
}

static void enter_network(void)
{
    int fd = open(NETNS, O_RDONLY);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
        die(NETNS);
    close(fd);
}

static int child(void *command)
{
    char *args[] = { "/bin/bash", "-c", command, NULL };
    char *env[] = { "PATH=/bin:/usr/bin:/sbin:/usr/sbin", "HOME=/root", "TERM=xterm", NULL };
    if (!skipped('c'))
        enter_cgroup();
    if (!skipped('n'))
        enter_network();
    if (sethostname("container", 9) < 0)
        die("sethostname");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        die("private");
    if (chroot(getenv("ROOT")) < 0 || chdir("/") < 0)
        die("chroot");
    if (mount("proc", "/proc", "proc", 0, NULL) < 0)
        die("mount proc");
    execve(args[0], args, env);
    die(args[0]);
    return 1;
}

int main(int argc, char **argv)
{
    int flags = CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWNS | SIGCHLD;
    if (argc != 2 || !getenv("ROOT"))
        return 2;
    if (clone(child, stack + sizeof(stack), flags, argv[1]) < 0)
        die("clone");
    wait(NULL);
    return 0;
}
