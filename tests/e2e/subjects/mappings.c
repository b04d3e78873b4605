/* Maps private memory of every kind that CRIU can restore lazily, or must not, and then counts. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1UL << 20)
#define PAGE 4096UL
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static char *area(size_t mebibytes, int access, size_t first, size_t step)
{
	size_t at, size = mebibytes * MIB;
	char *made = mmap(NULL, size, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (made == MAP_FAILED)
		return NULL;
	madvise(made, size, MADV_NOHUGEPAGE);
	for (at = first; access & PROT_WRITE && at < size; at += step)
		memcpy(made + at, &at, sizeof(at));
	return made;
}

static void *sleeper(void *deep)
{
	char frame[256 << 10];

	memset(frame, 1, sizeof(frame));
	for (;;)
		pause();
	return deep;
}

int main(void)
{
	char *sparse = area(64, PROT_READ | PROT_WRITE, 0, 2 * PAGE);
	char *split = area(32, PROT_READ | PROT_WRITE, 0, 7 * PAGE);
	char *guarded = area(16, PROT_READ | PROT_WRITE, 4 * MIB, PAGE);
	char *locked = area(16, PROT_READ | PROT_WRITE, 0, PAGE);
	pthread_t thread;
	volatile char zero;
	long number = 0;
	int i;

	area(1 << 12, PROT_NONE, 0, PAGE); /* reserved, as Go and Java do */
	zero = sparse[9 * PAGE];	   /* maps the zero page */
	(void)zero;
	madvise(split + 4 * MIB, 8 * MIB, MADV_DONTFORK);
	mprotect(split + 20 * MIB, 4 * MIB, PROT_NONE);
	madvise(guarded + 2 * MIB, 2 * PAGE, MADV_GUARD_INSTALL);
	mlock(locked, 64 << 10);
	for (i = 0; i < 8; i++)
		pthread_create(&thread, NULL, sleeper, NULL);
	for (;;) {
		printf("%ld\n", ++number);
		fflush(stdout);
		usleep(10000);
	}
}
