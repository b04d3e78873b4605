/*
 * Preloaded into CRIU for a dump whose memory the agents move themselves: see preload.py.
 *
 * For every page that a container has, CRIU walks page tables three times and fills a pipe, although
 * nobody asks it for that page: 0.4 us each, half a second for 4 GiB, in the blackout. This library
 * shows CRIU less. The folder $TRANSSHIP_HIDDEN_MEMORY may have two files for a process PID:
 *
 *   PID.smaps   what CRIU reads as /proc/PID/smaps
 *   PID.hidden  pairs of 64-bit addresses, in order: between them, PAGEMAP_SCAN finds no pages
 *
 * Without its files a process looks as it is. The agent adds the hidden pages to CRIU's images.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* <linux/fs.h> has these since Linux 6.7 */
struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

struct region {
	uint64_t start, end, categories;
};

struct hidden {
	uint64_t start, end;
};

#define SCAN_PAGEMAP _IOWR('f', 16, struct scan)
#define PATH_BYTES 512

typedef int (*ioctl_call)(int, unsigned long, ...);
typedef int (*openat_call)(int, const char *, int, ...);

/* Open the file `kind` of a process, whose /proc/PID (or a file `in` there) `fd` is; or return -1. */
static int open_file(int fd, const char *in, const char *kind)
{
	static openat_call next;
	const char *folder = getenv("TRANSSHIP_HIDDEN_MEMORY");
	char link[64], target[PATH_BYTES], format[32], path[PATH_BYTES];
	ssize_t size;
	int pid, end = 0;

	if (!folder)
		return -1;
	if (!next)
		next = (openat_call)dlsym(RTLD_NEXT, "openat");
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	size = readlink(link, target, sizeof(target) - 1);
	if (size < 0)
		return -1;
	target[size] = 0;
	snprintf(format, sizeof(format), "/proc/%%d%s%%n", in);
	if (sscanf(target, format, &pid, &end) != 1 || end != size)
		return -1;
	snprintf(path, sizeof(path), "%s/%d.%s", folder, pid, kind);
	return next(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
}

/* The hidden ranges of the process whose page map `fd` is; the file mapped last stays mapped. */
static const struct hidden *hidden_ranges(int fd, size_t *count)
{
	static const struct hidden *ranges;
	static struct stat known;
	struct stat now;
	int file = open_file(fd, "/pagemap", "hidden");

	*count = 0;
	if (file < 0)
		return NULL;
	if (fstat(file, &now) == 0 && now.st_size > 0) {
		if (now.st_ino != known.st_ino || now.st_dev != known.st_dev) {
			if (ranges)
				munmap((void *)ranges, known.st_size);
			ranges = mmap(NULL, now.st_size, PROT_READ, MAP_PRIVATE, file, 0);
			if (ranges == MAP_FAILED)
				ranges = NULL;
			known = now;
		}
		if (ranges)
			*count = known.st_size / sizeof(*ranges);
	}
	close(file);
	return ranges;
}

/* Scan the parts of the requested range that are not hidden, one after the other. */
static int scan_around(ioctl_call next, int fd, struct scan *asked, const struct hidden *hidden,
		       size_t count)
{
	struct scan part = *asked;
	size_t i = 0;
	int found = 0;

	asked->walk_end = asked->start;
	while (asked->walk_end < asked->end) {
		uint64_t stop = asked->end;
		int got;

		while (i < count && hidden[i].end <= asked->walk_end)
			i++;
		if (i < count && hidden[i].start <= asked->walk_end) {
			asked->walk_end = hidden[i].end < asked->end ? hidden[i].end : asked->end;
			continue;
		}
		if (found == (int)asked->vec_len)
			break;
		if (i < count && hidden[i].start < stop)
			stop = hidden[i].start;
		part.start = asked->walk_end;
		part.end = stop;
		part.vec = asked->vec + found * sizeof(struct region);
		part.vec_len = asked->vec_len - found;
		got = next(fd, SCAN_PAGEMAP, &part);
		if (got < 0)
			return got;
		found += got;
		asked->walk_end = part.walk_end;
		if (part.walk_end < stop)
			break; /* no room for more */
	}
	return found;
}

int ioctl(int fd, unsigned long request, ...)
{
	static ioctl_call next;
	const struct hidden *hidden;
	struct scan *asked;
	size_t count;
	va_list list;
	void *word;

	if (!next)
		next = (ioctl_call)dlsym(RTLD_NEXT, "ioctl");
	va_start(list, request);
	word = va_arg(list, void *);
	va_end(list);
	asked = word;
	if (request != SCAN_PAGEMAP || !asked->vec_len)
		return next(fd, request, word);
	hidden = hidden_ranges(fd, &count);
	if (!count)
		return next(fd, request, word);
	return scan_around(next, fd, asked, hidden, count);
}

int openat64(int folder, const char *path, int flags, ...)
{
	static openat_call next;
	va_list list;
	int mode, file;

	if (!next)
		next = (openat_call)dlsym(RTLD_NEXT, "openat64");
	va_start(list, flags);
	mode = va_arg(list, int);
	va_end(list);
	if (strcmp(path, "smaps") == 0) {
		file = open_file(folder, "", "smaps");
		if (file >= 0)
			return file;
	}
	return next(folder, path, flags, mode);
}
