/* Run a command to its end, one instruction after the other, and write down where each instruction of the first program
 * and of the processes that it makes stands, in the order of their first times. What they execute then is not followed.
 *
 * usage: trace FILE COMMAND [ARG...]
 *
 * For programs that are linked statically and lie where they were linked to: their addresses are small.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define SMALL (64ull << 20)
#define TRY(call) do { if ((call) < 0) die(#call); } while (0)

static unsigned char seen[SMALL];

static void die(const char *what)
{
    fprintf(stderr, "trace: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void look(pid_t process, FILE *file)
{
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, process, NULL, &registers) < 0)
        return; /* killed meanwhile */
    unsigned long long at = registers.rip;
    if (at < SMALL && !seen[at]) {
        seen[at] = 1;
        fprintf(file, "%llx\n", at);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    FILE *file = fopen(argv[1], "w");
    if (!file)
        die(argv[1]);
    pid_t first = fork();
    TRY(first);
    if (first == 0) {
        TRY(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        raise(SIGSTOP);
        execv(argv[2], argv + 2);
        die(argv[2]);
    }
    int status, result = 1, started = 0;
    TRY(waitpid(first, &status, 0));
    TRY(ptrace(PTRACE_SETOPTIONS, first, NULL, PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK
                                                   | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL));
    TRY(ptrace(PTRACE_CONT, first, NULL, NULL));
    for (pid_t process; (process = waitpid(-1, &status, __WALL)) > 0;) {
        if (!WIFSTOPPED(status)) {
            if (process == first)
                result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        int signal = WSTOPSIG(status);
        if (status >> 16 == PTRACE_EVENT_EXEC && started++) {
            ptrace(PTRACE_DETACH, process, NULL, NULL);
            continue;
        }
        look(process, file);
        /* Stops are the tracing's own; all else is for the process. ESRCH: it was killed meanwhile. */
        if (ptrace(PTRACE_SINGLESTEP, process, NULL, signal == SIGTRAP || signal == SIGSTOP ? 0 : signal) < 0 && errno != ESRCH)
            die("PTRACE_SINGLESTEP");
    }
    if (fclose(file) != 0)
        die(argv[1]);
    return result;
}
