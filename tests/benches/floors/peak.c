/* Run COMMAND and write to FILE the peak of its resident memory in KiB, or that of the largest process it waited for.
 *
 * usage: peak FILE COMMAND [ARG...]
 *
 * A program of its own, because until its exec a child counts the memory of the one that started it: a larger parent would
 * be the figure of each smaller child.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 3)
        return 125;
    pid_t child = vfork();
    if (child == 0) {
        execvp(argv[2], argv + 2);
        _exit(127);
    }
    int status;
    struct rusage usage;
    FILE *file = fopen(argv[1], "we");
    if (child < 0 || !file || wait4(child, &status, 0, &usage) < 0)
        return 125;
    if (fprintf(file, "%ld\n", usage.ru_maxrss) < 0 || fclose(file))
        return 125;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
