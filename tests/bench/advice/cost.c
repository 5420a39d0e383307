/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cost MIB: what the parts of memory advice cost on this machine, on a process of its own with that much memory: the
 *map, a look, and advice on contiguous pages and on every other page. Out to swap only where there is some: make it
 *first (zram), for the figure says more of it than of the advice.
 *
 *	make build/tests/bench/advice/cost && build/tests/bench/advice/cost 1024
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "controller/advice/advice.h"
#include "controller/advice/advise.h"

#define PAGE 4096

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void row(const char *what, uint64_t bytes, double took_s)
{
	printf("%-56s %8.2f GiB/s %8.0f ns/page\n", what, (double)bytes / (double)GIB / took_s,
	       took_s * 1e9 / ((double)bytes / PAGE));
}

static void timed_advice(const char *what, int pidfd, const struct run *runs, size_t n, uint64_t bytes, int advice)
{
	double began = seconds();
	int r = advise(pidfd, runs, n, advice);

	if (r < 0)
		printf("%s: %s\n", what, strerror(-r));
	else
		row(what, bytes, seconds() - began);
}

static void on_memory(struct proc_vm *p, char *at, uint64_t bytes, bool shared)
{
	struct guest_ram_range range = {(uintptr_t)at, (uintptr_t)at + bytes, shared, 0};
	const struct guest_ram ram = {&range, 1, bytes};
	struct memoc_err err = {""};
	struct advice *a = NULL;
	size_t pages = bytes / PAGE, n = 0;
	struct run *other AUTO_FREE = calloc(pages / 2, sizeof(*other)), all = {range.start, bytes};

	printf("%s memory, %llu MiB\n", shared ? "shared" : "private", (unsigned long long)(bytes / MIB));
	double began = seconds();
	if (!other || advice_begin(p, &ram, &a, &err) < 0) {
		printf("  %s\n", err.text);
		return;
	}
	row("  the map", bytes, seconds() - began);
	advice_free(a);
	for (; n < pages / 2; n++)
		other[n] = (struct run){range.start + 2 * n * PAGE, PAGE};
	timed_advice("  MADV_COLD, contiguous", proc_vm_pidfd(p), &all, 1, bytes, MADV_COLD);
	timed_advice("  MADV_COLD, every other page, 1024 a call", proc_vm_pidfd(p), other, n, bytes / 2, MADV_COLD);
	timed_advice("  MADV_PAGEOUT, every other page", proc_vm_pidfd(p), other, n, bytes / 2, MADV_PAGEOUT);
	timed_advice("  MADV_PAGEOUT, contiguous, the rest", proc_vm_pidfd(p), &all, 1, bytes / 2, MADV_PAGEOUT);
}

int main(int argc, char **argv)
{
	uint64_t bytes = (argc > 1 ? strtoull(argv[1], NULL, 10) : 1024) * MIB;
	int fd = memfd_create("memory-backend-memfd", MFD_CLOEXEC);
	struct proc_vm *p = NULL;

	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 || proc_vm_open(getpid(), &p, NULL) < 0)
		return 1;
	for (int shared = 0; shared < 2; shared++) {
		char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
				shared ? fd : -1, 0);
		if (at == MAP_FAILED)
			return 1;
		madvise(at, bytes, MADV_NOHUGEPAGE);
		for (uint64_t i = 0; i < bytes; i += 8) /* a quarter of each page is random: it compresses about 4:1 */
			if (i % PAGE < PAGE / 4)
				*(volatile uint64_t *)(void *)(at + i) = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
		on_memory(p, at, bytes, shared);
		munmap(at, bytes);
	}
	proc_vm_close(p);
	close(fd);
	return 0;
}
