/*
 * For CRIU on a machine that withholds CAP_SYS_RESOURCE from root.
 *
 * prlimit(2) wants that capability for reading the limits of another user's process, so CRIU could
 * dump no process that is not root's. The same numbers stand, for everybody, in /proc/PID/limits:
 * one line per resource, in the order of their numbers, after one line of headings.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

struct limit {
	unsigned long soft, hard;
};

#define INFINITE (~0UL)
#define NAME_WIDTH 26

static unsigned long number(const char *word)
{
	return strcmp(word, "unlimited") == 0 ? INFINITE : strtoul(word, NULL, 10);
}

static int read_limit(pid_t pid, int resource, struct limit *old)
{
	char path[64], line[256], soft[32], hard[32];
	int at = -1, found = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/limits", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return -1;
	while (!found && fgets(line, sizeof(line), file))
		found = at++ == resource && strlen(line) > NAME_WIDTH &&
			sscanf(line + NAME_WIDTH, "%31s %31s", soft, hard) == 2;
	fclose(file);
	if (!found)
		return -1;
	old->soft = number(soft);
	old->hard = number(hard);
	return 0;
}

/* CRIU reads limits by syscall(2), which has at most six arguments. */
long syscall(long call, ...)
{
	static long (*next)(long, ...);
	long word[6], result;
	va_list list;
	int i;

	if (!next)
		next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	va_start(list, call);
	for (i = 0; i < 6; i++)
		word[i] = va_arg(list, long);
	va_end(list);
	result = next(call, word[0], word[1], word[2], word[3], word[4], word[5]);
	if (call != SYS_prlimit64 || result == 0 || errno != EPERM || word[2] || !word[3])
		return result;
	if (read_limit((pid_t)word[0], (int)word[1], (struct limit *)word[3]) == 0)
		return 0;
	errno = EPERM;
	return -1;
}
