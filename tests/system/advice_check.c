/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * advice_check MIB: the advice room against the kernel that runs, without any VM: a process reads its memory from end
 * to end, as a migration would, and this one gives advice behind it. What is in memory is asked of the kernel by other
 * ways than the room's own: the reader's pagemap for private memory, mincore over a window of its own for shared. Needs
 * root and swap for the memory, twice. For test_advice_kernels.py, and inside the nested host.
 *
 * Of the memory the first half is swapped out; the last eighth of shared memory was never allocated. Two eighths are
 * the guest's: one in memory that it goes on using, and one swapped out that it brings back before the reader comes to
 * it. Through most of what was never allocated the reader races, between being asked for its position and the look.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "controller/advice/advice.h"

#define PAGE 4096
#define EIGHTHS 8
#define STEPS_AN_EIGHTH 4
/* Eighths of the memory: [0, OUT) is swapped out, of which BACK is brought in again; HOT is in use all the time. */
enum { BACK = 2, OUT = 4, HOT = 5, UNTOUCHED = 7 };

struct stage {
	size_t pages;
	volatile unsigned char *at;
	unsigned char *window; /* shared: the file once more, never touched */
	int pagemap;	       /* private: the reader's */
	bool shared;
	pid_t reader;
	int ask[2], answer[2];
};

static unsigned failures;

static void check(bool right, const char *what, double is, const char *must, double bar)
{
	printf("%s %s: %.1f (%s %.1f)\n", right ? "ok    " : "FAILED", what, is, must, bar);
	failures += !right;
}

static void at_least(const char *what, double is, double bar)
{
	check(is >= bar, what, is, "at least", bar);
}

static void at_most(const char *what, double is, double bar)
{
	check(is <= bar, what, is, "at most", bar);
}

static void die(const char *what)
{
	fprintf(stderr, "advice_check: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* ---- the reader, who is the guest as well ---- */

struct wish {
	char what; /* 'r'ead, 'o'ut */
	size_t first, pages;
};

static unsigned sum; /* what was read has to go somewhere */

static void read_pages(const struct stage *s, size_t first, size_t pages)
{
	for (size_t i = first; i < first + pages; i++)
		sum += s->at[i * PAGE];
}

static _Noreturn void serve(const struct stage *s)
{
	size_t filled = s->shared ? s->pages / EIGHTHS * UNTOUCHED : s->pages;
	uint64_t x = UINT64_C(0x9e3779b97f4a7c15);
	struct wish w;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < filled; i++)
		for (size_t j = 0; j < PAGE / 4;
		     j += 8) { /* a quarter is random: it is no page of zeroes, and compresses */
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			*(volatile uint64_t *)(uintptr_t)(s->at + i * PAGE + j) = x;
		}
	while (write(s->answer[1], "", 1) == 1 && read(s->ask[0], &w, sizeof(w)) == sizeof(w)) {
		if (w.what == 'o')
			madvise((char *)(uintptr_t)s->at + w.first * PAGE, w.pages * PAGE, MADV_PAGEOUT);
		else
			read_pages(s, w.first, w.pages);
	}
	_exit(0);
}

static void answered(const struct stage *s)
{
	char c;

	if (read(s->answer[0], &c, 1) != 1)
		die("the reader has ended");
}

static void tell(const struct stage *s, char what, size_t first, size_t pages)
{
	const struct wish w = {what, first, pages};

	if (write(s->ask[1], &w, sizeof(w)) != sizeof(w))
		die("the reader has ended");
	answered(s);
}

/* ---- what the kernel says ---- */

/* A byte a page: is it in memory? Freed by the caller. */
static unsigned char *present(const struct stage *s)
{
	unsigned char *in = calloc(s->pages, 1);
	uint64_t entry;

	if (!in)
		die("memory");
	if (s->shared) {
		if (mincore(s->window, s->pages * PAGE, in) < 0)
			die("mincore");
		return in;
	}
	for (size_t i = 0; i < s->pages; i++) {
		if (pread(s->pagemap, &entry, sizeof(entry), (off_t)(((uintptr_t)s->at / PAGE + i) * sizeof(entry))) !=
		    sizeof(entry))
			die("pagemap");
		in[i] = entry >> 63;
	}
	return in;
}

static size_t count(const unsigned char *in, size_t first, size_t pages)
{
	size_t n = 0;

	for (size_t i = first; i < first + pages; i++)
		n += in[i] & 1;
	return n;
}

/* ---- */

static void set_up(struct stage *s, size_t pages, bool shared)
{
	int fd = shared ? memfd_create("memory-backend-memfd", MFD_CLOEXEC) : -1;
	char path[64];

	*s = (struct stage){.pages = pages, .shared = shared, .pagemap = -1};
	if (shared && (fd < 0 || ftruncate(fd, (off_t)(pages * PAGE)) < 0))
		die("memfd");
	void *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
			fd, 0);
	void *window = shared ? mmap(NULL, pages * PAGE, PROT_READ, MAP_SHARED, fd, 0) : NULL;
	if (at == MAP_FAILED || window == MAP_FAILED || pipe(s->ask) < 0 || pipe(s->answer) < 0)
		die("set up");
	madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
	s->at = at;
	s->window = window;
	s->reader = fork();
	if (s->reader < 0)
		die("fork");
	if (s->reader == 0)
		serve(s);
	close(s->answer[1]);
	close(s->ask[0]);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)s->reader);
	s->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (s->pagemap < 0)
		die(path);
	answered(s);
	if (fd >= 0)
		close(fd);
}

static void tear_down(struct stage *s)
{
	kill(s->reader, SIGKILL);
	waitpid(s->reader, NULL, 0);
	close(s->pagemap);
	close(s->answer[0]);
	close(s->ask[1]);
	munmap((void *)(uintptr_t)s->at, s->pages * PAGE);
	if (s->window)
		munmap(s->window, s->pages * PAGE);
}

/* The whole pass, with or without advice; what is in memory afterwards. */
static unsigned char *pass(const struct stage *s, struct proc_vm *proc, bool advise, struct advice_report *counts)
{
	struct guest_ram_range range = {(uintptr_t)s->at, (uintptr_t)s->at + s->pages * PAGE, s->shared, 0};
	const struct guest_ram ram = {&range, 1, s->pages * PAGE};
	const size_t eighth = s->pages / EIGHTHS, part = eighth / STEPS_AN_EIGHTH;
	struct memoc_err err = {""};
	struct advice *a = NULL;

	if (advise && advice_begin(proc, &ram, &a, &err) < 0) {
		fprintf(stderr, "advice_check: %s\n", err.text);
		exit(2);
	}
	if (a)
		advice_count_map(a, counts);
	tell(s, 'r', BACK * eighth, eighth);
	for (size_t done = 0; done < s->pages; done += part) {
		struct advice_order order = {
			.position_bytes = done ? done * PAGE : 1, .zero_out = true, .most_bytes = GIB};

		tell(s, 'r', HOT * eighth, eighth);
		if (done == UNTOUCHED * eighth + part)
			tell(s, 'r', done, s->pages - done);
		if (a && advice_step(a, &order, counts, &err) < 0)
			die(err.text);
		tell(s, 'r', done, part);
	}
	struct advice_order all = {.position_bytes = ADVICE_ALL, .zero_out = true, .most_bytes = GIB};
	if (a && advice_step(a, &all, counts, &err) < 0)
		die(err.text);
	advice_free(a);
	return present(s);
}

static double mib(size_t pages)
{
	return (double)pages * PAGE / (double)MIB;
}

static void on_memory(size_t pages, bool shared)
{
	const size_t eighth = pages / EIGHTHS;
	struct advice_report counts = {0};
	struct proc_vm *proc = NULL;
	struct stage s;

	set_up(&s, pages, shared);
	if (proc_vm_open(s.reader, &proc, NULL) < 0)
		die("proc_vm_open");
	printf("%s memory, MiB\n", shared ? "shared" : "private");
	for (int i = 0; i < 3; i++) /* Linux 6.1 spares at first what was touched */
		tell(&s, 'o', 0, OUT * eighth);
	unsigned char *before = present(&s);
	size_t out = OUT * eighth - count(before, 0, OUT * eighth);
	at_least("swapped out to begin with", mib(out), 0.95 * mib(OUT * eighth));

	unsigned char *after = pass(&s, proc, true, &counts);
	size_t back = BACK * eighth, theirs = count(after, back, eighth), in = count(after, 0, OUT * eighth) - theirs;
	at_most("of that in memory after the pass with advice, but for the guest's", mib(in), 0.05 * mib(OUT * eighth));
	at_least("of what the guest brought back", mib(theirs), 0.9 * mib(eighth));
	at_least("of what the guest goes on using", mib(count(after, HOT * eighth, eighth)), 0.99 * mib(eighth));
	at_least("on the map", mib(counts.swapped_bytes / PAGE), 0.99 * mib(out));
	at_most("on the map", mib(counts.swapped_bytes / PAGE), 1.01 * mib(out));
	at_least("said to be out again", mib(counts.out_bytes / PAGE), mib(out - in) - 1.1 * mib(eighth));
	at_most("said to have stayed", mib(counts.stayed_bytes / PAGE), mib(in) + 0.1);
	if (shared) {
		size_t zeroes = count(after, UNTOUCHED * eighth, eighth);
		at_least("never allocated before", mib(counts.untouched_bytes / PAGE), mib(eighth));
		at_most("of that in memory after the pass", mib(zeroes), 0.05 * mib(eighth));
	}
	free(before);
	free(after);

	/* That advice is what did it: the same pass without leaves all of it in memory. */
	for (int i = 0; i < 3; i++)
		tell(&s, 'o', 0, OUT * eighth);
	after = pass(&s, proc, false, &counts);
	at_least("in memory after a pass without advice", mib(count(after, 0, OUT * eighth)), 0.95 * mib(OUT * eighth));
	free(after);
	proc_vm_close(proc);
	tear_down(&s);
}

int main(int argc, char **argv)
{
	size_t pages = argc > 1 ? strtoull(argv[1], NULL, 10) * MIB / PAGE : 0;
	struct utsname u;

	if (pages < EIGHTHS * STEPS_AN_EIGHTH) {
		fprintf(stderr, "usage: advice_check MIB\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IONBF, 0);
	uname(&u);
	printf("Linux %s\n", u.release);
	on_memory(pages, false);
	on_memory(pages, true);
	printf("advice_check: %u failed\n", failures);
	return failures ? 1 : 0;
}
