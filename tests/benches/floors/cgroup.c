/* The fewest system calls that make a cgroup with three limits, run COMMAND in it, or remove it.
 *
 * usage: cgroup-floor run NAME COMMAND [ARG...] | delete NAME
 *
 * With cgroup v1 a thread that writes 0 to `tasks` moves itself, and with v2 a child is born in the cgroup: neither waits
 * for the grace period that a write to `cgroup.procs` does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRY(call) do { if ((call) < 0) die(#call); } while (0)
#define LENGTH(array) (sizeof(array) / sizeof *(array))

struct limit { const char *controller, *file, *value; };
static const struct limit v1[] = {
    { "pids", "pids.max", "15" }, { "memory", "memory.limit_in_bytes", "268435456" }, { "cpu", "cpu.cfs_quota_us", "50000" },
};
static const struct limit v2[] = {
    { "", "pids.max", "15" }, { "", "memory.max", "268435456" }, { "", "cpu.max", "50000 100000" },
};

static void die(const char *what)
{
    dprintf(2, "cgroup-floor: %s: %s\n", what, strerror(errno));
    _exit(125);
}

static void put(const char *controller, const char *name, const char *file, const char *value)
{
    char path[512];
    snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s/%s", controller, name, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    TRY(fd);
    TRY(write(fd, value, strlen(value)));
    close(fd);
}

static void directory(const char *controller, const char *name, int (*change)(const char *))
{
    char path[512];
    snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", controller, name);
    if (change(path) < 0)
        die(path);
}

static int make(const char *path)
{
    return mkdir(path, 0755);
}

static int run_v2(const char *name, char **argv)
{
    char path[512];
    snprintf(path, sizeof path, "/sys/fs/cgroup/%s", name);
    int cgroup = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), status;
    TRY(cgroup);
    struct clone_args args = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = cgroup };
    pid_t child = syscall(SYS_clone3, &args, sizeof args);
    TRY(child);
    if (child == 0) {
        execv(argv[0], argv);
        die(argv[0]);
    }
    TRY(waitpid(child, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 125;
    const char *name = argv[2];
    int old = access("/sys/fs/cgroup/pids/tasks", F_OK) == 0;
    const struct limit *limits = old ? v1 : v2;
    unsigned hierarchies = old ? LENGTH(v1) : 1;
    int deletes = strcmp(argv[1], "delete") == 0;
    for (unsigned i = 0; i < hierarchies; i++)
        directory(limits[i].controller, name, deletes ? rmdir : make);
    if (deletes)
        return 0;
    if (argc < 4)
        return 125;
    for (unsigned i = 0; i < LENGTH(v1); i++)
        put(limits[i].controller, name, limits[i].file, limits[i].value);
    if (!old)
        return run_v2(name, argv + 3);
    for (unsigned i = 0; i < LENGTH(v1); i++)
        put(limits[i].controller, name, "tasks", "0");
    execv(argv[3], argv + 3);
    die(argv[3]);
}
