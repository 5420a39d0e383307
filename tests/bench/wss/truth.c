/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Working-set back-ends against the truth: a process of known memory touches known pages, and each window's reading is
 * held against what it touched in it. Usage: truth BACKEND MEMORY PATTERN [KEY=VALUE…]; see usage() below. One line a
 * window, then a summary; all shares are of the whole memory, in percent.
 *
 * The process notes each page that it touches (the truth), and stands still while a window begins and ends, so that
 * both speak of the same time. Huge pages are in use as a whole when one byte of them is.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "controller/host/cgroup_internal.h"
#include "controller/wss/estimator.h"

#define PAGE ((uint64_t)4096)
#define HUGE_PAGES ((uint64_t)512)

/* Shared by both processes. */
struct control {
	atomic_bool stop, standing, quit, ready;
	atomic_uint epoch;
	atomic_uint_fast64_t stop_ms; /* when the window ends: it stands still from then on; 0: not yet known */
	atomic_uint_fast64_t touches;
	_Atomic double share; /* wanted of the hot set, for step and shrink */
	uint64_t address;
	uint32_t touched[]; /* epoch of each page's last touch */
};

static struct options {
	enum wss_backend backend;
	bool memfd, huge;
	char pattern[16];
	uint64_t mib, window_ms, readings, pages, turn_ms, hold;
	char cgroup[256];
	bool scattered, disturb;
} opt = {.mib = 128,
	 .window_ms = 3000,
	 .readings = 20,
	 .pages = 2401,
	 .turn_ms = 20,
	 .hold = 1,
	 .scattered = true,
	 .disturb = true};

static struct control *control;
static uint64_t all_pages;

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "truth: %s: %s\n", what, why);
	exit(1);
}

static void sleep_ms(uint64_t ms)
{
	struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};

	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

static uint64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- the process that uses memory ---- */

static char *memory;

static char *map_memory(void)
{
	uint64_t size = all_pages * PAGE, huge = HUGE_PAGES * PAGE;
	char *at = mmap(NULL, size + 2 * huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int fd = opt.memfd ? memfd_create("memory-backend-memfd", MFD_CLOEXEC) : -1;

	if (at == MAP_FAILED || (opt.memfd && (fd < 0 || ftruncate(fd, (off_t)size) < 0)))
		fail("mapping memory", strerror(errno));
	at = (char *)(((uintptr_t)at + huge) & ~(uintptr_t)(huge - 1));
	at = mmap(at, size, PROT_READ | PROT_WRITE, (opt.memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_FIXED,
		  fd, 0);
	if (at == MAP_FAILED)
		fail("mapping memory", strerror(errno));
	madvise(at, size, opt.huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < all_pages; i++)
		at[i * PAGE] = 1;
	return at;
}

/* i-th page of a fixed shuffle, in units of what the kernel tracks. */
static uint64_t place(uint64_t i)
{
	uint64_t unit = opt.huge ? HUGE_PAGES : 1, units = all_pages / unit;

	if (!opt.scattered)
		return i;
	return (i / unit * 40503 + 7) % units * unit +
	       i % unit; /* an odd factor, and units is a power of two times few */
}

static void touch(uint64_t page)
{
	((volatile char *)memory)[page * PAGE]++;
	control->touched[page] = atomic_load_explicit(&control->epoch, memory_order_relaxed);
}

static uint64_t random_number(void)
{
	static uint64_t x = 88172645463325252;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

/* Pareto with exponent 1: page of rank r with a chance of about 1/r. */
static uint64_t zipf(void)
{
	double u = (double)(random_number() >> 11) / 9007199254740992.0;
	uint64_t rank = (uint64_t)exp(u * log((double)all_pages));

	return rank >= all_pages ? all_pages - 1 : rank;
}

static bool stopped(void)
{
	uint64_t stop_ms = atomic_load(&control->stop_ms);

	return atomic_load(&control->stop) || (stop_ms && clock_ms() >= stop_ms);
}

static void turn(uint64_t *at)
{
	uint64_t hot = (uint64_t)(atomic_load(&control->share) * (double)all_pages), n = 0;

	if (strcmp(opt.pattern, "zipf") == 0) {
		for (; n < 2000; n++)
			touch(place(zipf()));
	} else if (strcmp(opt.pattern, "sweep") == 0) {
		/* three windows and a bit for all of it */
		uint64_t step = all_pages * opt.turn_ms * 10 / (opt.window_ms * 33) + 1;

		for (; n < step; n++)
			touch((*at)++ % all_pages);
	} else {
		for (; n < hot && (n % 64 || !stopped()); n++)
			touch(place(n));
	}
	atomic_fetch_add(&control->touches, n);
}

static void work(void)
{
	uint64_t at = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	memory = map_memory();
	control->address = (uintptr_t)memory;
	atomic_store(&control->ready, true);
	while (!atomic_load(&control->quit)) {
		if (stopped()) {
			atomic_store(&control->standing, true);
			sleep_ms(1);
			continue;
		}
		atomic_store(&control->standing, false);
		turn(&at);
		sleep_ms(opt.turn_ms);
	}
	_exit(0);
}

/*
 * Clearing an accessed bit flushes no TLB: what a processor has in it stays "not accessed" until something else runs
 * there. On a host with nothing else to do at all that may be the whole window, so something does a little on each of
 * them.
 */
static void disturb(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (long i = 0;; i = (i + 1) % cpus) {
		cpu_set_t one;

		CPU_ZERO(&one);
		CPU_SET((size_t)i, &one);
		sched_setaffinity(0, sizeof(one), &one);
		sleep_ms(20);
	}
}

/* ---- the other that measures it ---- */

static void stand_still(bool stop)
{
	atomic_store(&control->standing, false);
	atomic_store(&control->stop, stop);
	while (stop && !atomic_load(&control->standing))
		sleep_ms(1);
}

static uint64_t truth_pages(void)
{
	uint64_t n = 0, unit = opt.huge ? HUGE_PAGES : 1;
	uint32_t epoch = atomic_load(&control->epoch);

	for (uint64_t i = 0; i < all_pages; i += unit) {
		bool any = false;

		for (uint64_t k = i; k < i + unit && k < all_pages; k++)
			any |= control->touched[k] == epoch;
		n += any ? unit : 0;
	}
	return n;
}

static double share_of_window(uint64_t i)
{
	static const double steps[] = {0.1, 0.1, 0.5, 0.5, 0.25, 0.25, 0.8, 0.8, 0.05, 0.05};

	if (strcmp(opt.pattern, "shrink") == 0)
		return 0.9 * pow(0.8, (double)(i % 12));
	return steps[i % (sizeof(steps) / sizeof(steps[0]))];
}

struct sums {
	unsigned n, within2, within5, within_own, unknown;
	double abs_sum, most, cost_ms;
};

static void count(struct sums *s, double truth, double reading, double own, double cost_ms)
{
	double off = fabs(reading - truth);

	s->n++;
	s->within2 += off <= 0.02;
	s->within5 += off <= 0.05;
	s->within_own += off <= own;
	s->abs_sum += off;
	s->most = off > s->most ? off : s->most;
	s->cost_ms += cost_ms;
}

static void window(struct wss *w, const struct wss_target *t, uint64_t i, struct sums *sums)
{
	struct wss_sample *s = NULL;
	struct wss_reading r = {0};
	struct memoc_err err = {""};
	double whole = (double)all_pages * (double)PAGE;

	stand_still(true);
	atomic_store(&control->share, share_of_window(i / opt.hold));
	atomic_fetch_add(&control->epoch, 1);
	int code = wss_begin(w, t, &s, &err);
	if (code == 0)
		code = wss_start(w, opt.window_ms, &err);
	atomic_store(&control->stop_ms, clock_ms() + opt.window_ms);
	stand_still(false);
	sleep_ms((uint64_t)((double)opt.window_ms * wss_collect_after(w)));
	if (code == 0)
		code = wss_collect(w, &err);
	stand_still(true);
	if (code == 0) {
		code = wss_end(s, &r, &err);
		s = NULL;
	}
	wss_cancel(s);
	atomic_store(&control->stop_ms, 0);
	double truth = (double)(truth_pages() * PAGE) / whole;
	if (code < 0) {
		sums->unknown++;
		printf("%2llu truth %5.1f unknown: %s\n", (unsigned long long)i, truth * 100, err.text);
	} else {
		double reading = (double)r.wss_bytes / whole, own = (double)r.error_bytes / whole;

		count(sums, truth, reading, own, (double)r.cost_ns / 1e6);
		printf("%2llu truth %5.1f read %5.1f off %+5.1f own error %4.1f pages %llu cost %.2f ms\n",
		       (unsigned long long)i, truth * 100, reading * 100, (reading - truth) * 100, own * 100,
		       (unsigned long long)r.pages, (double)r.cost_ns / 1e6);
	}
	fflush(stdout);
}

/* A child's group is made and entered before it has memory. */
static struct cgroup_vm *enter_cgroup(pid_t pid)
{
	char path[512], text[32];
	struct cgroup_vm *g = NULL;
	struct memoc_err err = {""};
	enum cgroup_version version;
	char *mount = NULL;
	int fd;

	if (!opt.cgroup[0])
		return NULL;
	if (cgroup_setup(&version, &err) < 0 || cgroup_lib_memory_mount(&mount, &err) < 0)
		fail("cgroups", err.text);
	snprintf(path, sizeof(path), "%s%s", mount, opt.cgroup);
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		fail(path, strerror(errno));
	snprintf(path, sizeof(path), "%s%s/cgroup.procs", mount, opt.cgroup);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	snprintf(text, sizeof(text), "%d", (int)pid);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail(path, strerror(errno));
	close(fd);
	if (cgroup_vm_open_path(mount, opt.cgroup, version == CGROUP_V2 ? &cgroup_v2_ops : &cgroup_v1_ops,
				cgroup_lib_write, &g, &err) < 0)
		fail("cgroup", err.text);
	free(mount);
	return g;
}

static void usage(void)
{
	fprintf(stderr,
		"truth idle|damon|lru|refault private|huge|memfd step|shrink|zipf|sweep [mib=128] [window_ms=3000] "
		"[readings=20] [pages=2401] [turn_ms=20] [hold=1: windows at one share] "
		"[cgroup=/NAME] [scattered=1] [disturb=1]\n");
	exit(2);
}

static void parse(int argc, char **argv)
{
	static const struct {
		const char *key;
		uint64_t *value;
	} numbers[] = {{"mib=", &opt.mib},     {"window_ms=", &opt.window_ms}, {"readings=", &opt.readings},
		       {"pages=", &opt.pages}, {"hold=", &opt.hold},	       {"turn_ms=", &opt.turn_ms}};

	if (argc < 4)
		usage();
	for (opt.backend = WSS_IDLE; strcmp(argv[1], wss_backend_name(opt.backend)) != 0; opt.backend++)
		if (opt.backend == WSS_BACKEND_END)
			usage();
	opt.memfd = strcmp(argv[2], "memfd") == 0;
	opt.huge = strcmp(argv[2], "huge") == 0;
	snprintf(opt.pattern, sizeof(opt.pattern), "%s", argv[3]);
	for (int i = 4; i < argc; i++) {
		size_t k = 0;

		while (k < sizeof(numbers) / sizeof(numbers[0]) &&
		       strncmp(argv[i], numbers[k].key, strlen(numbers[k].key)) != 0)
			k++;
		if (k < sizeof(numbers) / sizeof(numbers[0]))
			*numbers[k].value = strtoull(strchr(argv[i], '=') + 1, NULL, 10);
		else if (strncmp(argv[i], "cgroup=", 7) == 0)
			snprintf(opt.cgroup, sizeof(opt.cgroup), "%s", argv[i] + 7);
		else if (strncmp(argv[i], "scattered=", 10) == 0)
			opt.scattered = argv[i][10] != '0';
		else if (strncmp(argv[i], "disturb=", 8) == 0)
			opt.disturb = argv[i][8] != '0';
		else
			usage();
	}
}

int main(int argc, char **argv)
{
	struct memoc_err err = {""};
	struct wss *w = NULL;
	struct sums sums = {0};
	struct wss_memory wss_memory = {0};
	int go[2];

	parse(argc, argv);
	all_pages = opt.mib * MIB / PAGE;
	control =
		mmap(NULL, sizeof(*control) + all_pages * 4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (control == MAP_FAILED || pipe(go) < 0)
		fail("shared memory", strerror(errno));
	pid_t child = fork();
	if (child == 0) {
		char byte;
		if (read(go[0], &byte, 1) == 1)
			work();
		_exit(1);
	}
	pid_t disturber = opt.disturb ? fork() : -1;
	if (disturber == 0)
		disturb();
	struct cgroup_vm *cgroup = enter_cgroup(child);
	if (write(go[1], "", 1) != 1)
		fail("pipe", strerror(errno));
	while (!atomic_load(&control->ready))
		sleep_ms(10);
	if (wss_open("", opt.backend, &w, &err) < 0)
		fail("back-end", err.text);
	struct guest_ram_range range = {
		.start = control->address, .end = control->address + all_pages * PAGE, .shared = opt.memfd};
	struct guest_ram ram = {&range, 1, all_pages * PAGE};
	struct wss_target t = {.pid = child,
			       .pidfd = (int)syscall(SYS_pidfd_open, child, 0),
			       .ram = &ram,
			       .cgroup_path = opt.cgroup[0] ? opt.cgroup : NULL,
			       .cgroup = cgroup,
			       .memory = &wss_memory,
			       .pages = (uint32_t)opt.pages};
	uint64_t began = clock_ms();
	for (uint64_t i = 0; i < opt.readings; i++)
		window(w, &t, i, &sums);
	printf("== %s %s %s %llu MiB: %u readings, within 2 %%: %.0f %%, within 5 %%: %.0f %%, within own error: %.0f "
	       "%%, mean "
	       "error %.2f, largest %.2f, unknown %u, cost %.2f ms, %llu touches in %.1f s\n",
	       argv[1], argv[2], opt.pattern, (unsigned long long)opt.mib, sums.n,
	       100.0 * sums.within2 / (sums.n + 1e-9), 100.0 * sums.within5 / (sums.n + 1e-9),
	       100.0 * sums.within_own / (sums.n + 1e-9), 100 * sums.abs_sum / (sums.n + 1e-9), 100 * sums.most,
	       sums.unknown, sums.cost_ms / (sums.n + 1e-9), (unsigned long long)atomic_load(&control->touches),
	       (double)(clock_ms() - began) / 1000);
	wss_close(w);
	if (disturber > 0)
		kill(disturber, SIGKILL);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	cgroup_vm_close(cgroup);
	return 0;
}
