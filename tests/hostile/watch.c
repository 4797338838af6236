/* Watches for processes that come into its container, and says what it can learn of them that is not the container's.
 * Static, for a container that has nothing else. It ends when there is a file /tmp/stop. */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[64], text[65536];

static const char *of(int pid, const char *name)
{
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return path;
}

/* The link's text, or nothing. */
static const char *link_of(int pid, const char *name)
{
	ssize_t length = readlink(of(pid, name), text, sizeof(text) - 1);
	text[length > 0 ? length : 0] = 0;
	return text;
}

static void look_at(int pid)
{
	const char *program = link_of(pid, "exe");
	if (*program && strncmp(program, "/bin/", 5))
		printf("program %s\n", program);
	const char *root = link_of(pid, "root");
	if (*root && strcmp(root, "/"))
		printf("root %s\n", root);
	int variables = open(of(pid, "environ"), O_RDONLY);
	if (variables >= 0) {
		ssize_t length = read(variables, text, sizeof(text) - 1);
		if (length > 0 && memmem(text, length, "SECRET", 6))
			printf("environment\n");
		close(variables);
	}
	/* Which there are can be listed by who has the user's ID. What they lead to cannot be seen. */
	for (int number = 3; number < 300; number++) {
		char name[16];
		snprintf(name, sizeof(name), "fd/%d", number);
		const char *target = link_of(pid, name);
		if (*target)
			printf("descriptor %s\n", target);
	}
}

int main(void)
{
	int newest = getpid(), seen = 0;
	puts("ready");
	fflush(stdout);
	while (access("/tmp/stop", F_OK)) {
		DIR *processes = opendir("/proc");
		for (struct dirent *entry; processes && (entry = readdir(processes));) {
			int pid = atoi(entry->d_name);
			if (pid <= getpid())
				continue;
			seen += pid > newest;
			newest = pid > newest ? pid : newest;
			look_at(pid);
		}
		if (processes)
			closedir(processes);
	}
	printf("seen %s\n", seen > 10 ? "many" : "few");
	return 0;
}
