/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cgroup adapter against the real kernel: a group of its own, named as libvirt names one, with a child in it that
 * has touched memory, half of it incompressible, a quarter of it shared as a memfd is. Run by test_cgroup.py on this
 * machine and inside a guest with cgroup v2. Prints a line per check; the last one is "cgroup_check: N passed, N
 * failed".
 *
 * cgroup_check v1|v2 MIB swap|noswap
 */
#include "controller/host/cgroup.h"
#include "controller/host/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define MACHINE "/qemu-1-x.libvirt-qemu"
/* The child's page tables, stack and libc, and what per-CPU caches hold back: 64 pages for each CPU. */
#define SLACK_BYTES (12 * MIB)

static struct {
	enum cgroup_version version;
	uint64_t child_bytes;
	bool swap;
	char base[256];	   /* /sys/fs/cgroup/…/memoc-check-PID */
	char machine[300]; /* base + MACHINE */
	char vm[320];	   /* the group whose limit counts */
	char leaf[340];	   /* where the child sits */
	pid_t child;
	int to_child, from_child;
	int passed, failed;
} t;

static bool check(bool good, const char *fmt, ...) PRINTF_LIKE(2, 3);
static bool check(bool good, const char *fmt, ...)
{
	va_list args;

	printf("%s ", good ? "ok    " : "FAILED");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	*(good ? &t.passed : &t.failed) += 1;
	return good;
}

/* ---- groups, by hand: what is checked must not check itself ---- */

static bool write_file(const char *dir, const char *file, const char *value)
{
	char path[512];
	int fd AUTO_CLOSE = -1;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value);
}

static const char *read_file(const char *dir, const char *file)
{
	static char text[16384];
	char path[512];
	int fd AUTO_CLOSE = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	text[n < 0 ? 0 : n] = 0;
	text[strcspn(text, "\n")] = n > 0 && strchr(text, '\n') == text + n - 1 ? 0 : text[strcspn(text, "\n")];
	return text;
}

/* "oom_kill 3" in memory.events (v2) or memory.oom_control (v1). */
static unsigned long event_count(const char *file, const char *key)
{
	const char *at = strstr(read_file(t.vm, file), key);

	return at ? strtoul(at + strlen(key), NULL, 10) : ~0UL;
}

static unsigned long oom_kills(void)
{
	return event_count(t.version == CGROUP_V2 ? "memory.events" : "memory.oom_control", "oom_kill ");
}

static bool find_mount(char *ret, size_t size)
{
	FILE *f = setmntent("/proc/mounts", "r");
	struct mntent *m;
	bool found = false;

	while (f && !found && (m = getmntent(f))) {
		found = t.version == CGROUP_V2 ? strcmp(m->mnt_type, "cgroup2") == 0
					       : strcmp(m->mnt_type, "cgroup") == 0 && hasmntopt(m, "memory");
		if (found)
			snprintf(ret, size, "%s", m->mnt_dir);
	}
	if (f)
		endmntent(f);
	return found;
}

/* v2: as systemd and libvirt do, with a group "libvirt" inside the machine's and the process one further down. */
static bool make_groups(void)
{
	bool v2 = t.version == CGROUP_V2;
	char mount[200];

	if (!find_mount(mount, sizeof(mount)))
		return false;
	snprintf(t.base, sizeof(t.base), "%s/memoc-check-%d", mount, (int)getpid());
	snprintf(t.machine, sizeof(t.machine), "%s" MACHINE, t.base);
	snprintf(t.vm, sizeof(t.vm), "%s%s", t.machine, v2 ? "/libvirt" : "");
	snprintf(t.leaf, sizeof(t.leaf), "%s/emulator", t.vm);
	if (v2 && !write_file(mount, "cgroup.subtree_control", "+memory"))
		return false;
	return mkdir(t.base, 0755) == 0 && (!v2 || write_file(t.base, "cgroup.subtree_control", "+memory")) &&
	       mkdir(t.machine, 0755) == 0 && (!v2 || write_file(t.machine, "cgroup.subtree_control", "+memory")) &&
	       (!v2 || mkdir(t.vm, 0755) == 0) && mkdir(t.leaf, 0755) == 0;
}

static void remove_groups(void)
{
	const char *const dirs[] = {t.leaf, t.vm, t.machine, t.base};

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		for (int tries = 0; rmdir(dirs[i]) < 0 && errno == EBUSY && tries < 500; tries++)
			usleep(10000); /* a group stays busy until its last process is reaped */
}

/* ---- the child ---- */

static uint64_t noise(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17; /* xorshift64 */
	return *state;
}

static void fill(uint64_t *p, size_t bytes)
{
	uint64_t state = 88172645463325252;

	for (size_t i = 0; i < bytes / 8; i++)
		p[i] = i & 1 ? noise(&state) : 0; /* half of it: zram must have something to do, and win something */
}

static _Noreturn void child_main(int in, int out)
{
	size_t shared_bytes = t.child_bytes / 4, private_bytes = t.child_bytes - shared_bytes;
	int fd = memfd_create("guest", MFD_CLOEXEC);
	volatile char *parts[2];
	size_t sizes[2] = {private_bytes, shared_bytes};
	char command;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (read(in, &command, 1) != 1 || ftruncate(fd, (off_t)shared_bytes) < 0)
		_exit(1);
	parts[0] = mmap(NULL, private_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	parts[1] = mmap(NULL, shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (int i = 0; i < 2; i++) {
		if (parts[i] == MAP_FAILED)
			_exit(1);
		fill((uint64_t *)(uintptr_t)parts[i], sizes[i]);
	}
	do {
		for (int i = 0; i < 2; i++)
			for (size_t at = 0; at < sizes[i]; at += 4096)
				parts[i][at]++;
		if (write(out, "d", 1) != 1)
			break;
	} while (read(in, &command, 1) == 1);
	_exit(0);
}

/* One round of touching everything; false when the child is gone. */
static bool child_touches_all(void)
{
	char done;

	return write(t.to_child, "t", 1) == 1 && read(t.from_child, &done, 1) == 1;
}

static bool start_child(void)
{
	int down[2], up[2];
	char pid[16];

	if (pipe2(down, O_CLOEXEC) < 0 || pipe2(up, O_CLOEXEC) < 0)
		return false;
	t.child = fork();
	if (t.child == 0) {
		close(down[1]);
		close(up[0]);
		child_main(down[0], up[1]);
	}
	close(down[0]);
	close(up[1]);
	t.to_child = down[1];
	t.from_child = up[0];
	snprintf(pid, sizeof(pid), "%d", (int)t.child);
	return t.child > 0 && write_file(t.leaf, "cgroup.procs", pid) && child_touches_all();
}

static void end_child(void)
{
	if (t.child > 0) {
		kill(t.child, SIGKILL);
		waitpid(t.child, NULL, 0);
	}
	t.child = 0;
}

/* ---- reading all the time while limits change ---- */

static struct {
	struct cgroup_vm *g;
	volatile bool stop;
	unsigned long reads, errors;
} reader;

static void *read_all_the_time(void *unused)
{
	struct vm_host_sample s;

	while (!reader.stop) {
		reader.reads++;
		reader.errors += cgroup_vm_read(reader.g, &s) != 0;
		usleep(1000);
	}
	return NULL;
}

/* ---- checks ---- */

static double elapsed_ms(const struct timespec *began)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - began->tv_sec) * 1e3 + (double)(now.tv_nsec - began->tv_nsec) / 1e6;
}

/* Sets the limit and says what happened; *ret is the sample after it. */
static int set(struct cgroup_vm *g, uint64_t bytes, enum cgroup_method method, uint64_t max_ms, uint64_t *ret_limit,
	       struct vm_host_sample *ret)
{
	struct memoc_err err = {0};
	struct timespec began;
	int r, read_r;

	clock_gettime(CLOCK_MONOTONIC, &began);
	r = cgroup_vm_set_limit(g, bytes, method, max_ms, ret_limit, &err);
	printf("       set_limit: %s after %.1f ms %s\n", r ? strerror(-r) : "done", elapsed_ms(&began), err.text);
	read_r = cgroup_vm_read(g, ret);
	check(read_r == 0, "sample after it: %.1f MiB resident, %.1f MiB swapped", (double)ret->resident_bytes / MIB,
	      (double)ret->swapped_bytes / MIB);
	return r;
}

static bool limit_file_is(const char *wanted)
{
	const char *text = read_file(t.vm, t.version == CGROUP_V2 ? "memory.high" : "memory.limit_in_bytes");

	return check(strcmp(text, wanted) == 0, "the kernel says limit %s (wanted %s)", text, wanted);
}

/* Arguments of one call have no order: what fills `err` comes before the check that prints it. */
static void check_refused(pid_t pid, int code, const char *what)
{
	struct memoc_err err = {0};
	struct cgroup_vm *g = NULL;
	int r = cgroup_vm_open(pid, &g, &err);

	check(r == code && !g, "%s: %s", what, err.text);
}

static void check_refusals(void)
{
	char pid[16];

	check_refused(getpid(), -ENXIO, "this process' own group is refused");
	check_refused(INT32_MAX, -ESRCH, "no such process");
	/* The group around the machine's is shared. v2 allows no process in a group that gives controllers to
	 * subgroups. */
	if (t.version == CGROUP_V2)
		return;
	snprintf(pid, sizeof(pid), "%d", (int)t.child);
	check(write_file(t.base, "cgroup.procs", pid), "child moved to the group around its machine's");
	check_refused(t.child, -ENXIO, "a shared group is refused");
	check(write_file(t.leaf, "cgroup.procs", pid), "child is back");
}

static void check_first_sample(struct cgroup_vm *g)
{
	struct vm_host_sample s = {0};
	struct timespec began;
	double best_ms = 1e9;

	for (int i = 0; i < 1000; i++) {
		double ms;

		clock_gettime(CLOCK_MONOTONIC, &began);
		if (!cgroup_vm_read(g, &s) && (ms = elapsed_ms(&began)) < best_ms)
			best_ms = ms;
	}
	check(s.has_memory && s.resident_bytes >= t.child_bytes && s.resident_bytes < t.child_bytes + SLACK_BYTES,
	      "resident %.1f MiB, child has %.1f MiB; a read takes %.1f us", (double)s.resident_bytes / MIB,
	      (double)t.child_bytes / MIB, best_ms * 1e3);
	check(s.limit_bytes == LIMIT_NONE && s.swapped_bytes == 0, "no limit, nothing swapped");
	check(s.has_refaults, "refaults are counted");
	check(s.has_psi == (access("/proc/pressure/memory", R_OK) == 0 && t.version == CGROUP_V2), "pressure: %s",
	      s.has_psi ? "known" : "unknown");
}

/* Clean page cache is charged to the group but is not resident memory of the VM. */
static void check_file_cache(struct cgroup_vm *g)
{
	struct vm_host_sample before = {0}, after = {0};
	char path[] = "/var/tmp/memoc-check.XXXXXX", *buf = calloc(1, MIB);
	char pid[16];
	uint64_t usage = 0;
	int fd = mkstemp(path), status = -1;
	pid_t writer;

	unlink(path);
	cgroup_vm_read(g, &before);
	writer = fd < 0 || !buf ? -1 : fork();
	if (writer == 0) {
		snprintf(pid, sizeof(pid), "%d", (int)getpid());
		if (!write_file(t.leaf, "cgroup.procs", pid))
			_exit(1);
		for (int i = 0; i < 64; i++)
			if (write(fd, buf, MIB) != (ssize_t)MIB)
				_exit(1);
		_exit(fsync(fd) < 0);
	}
	if (writer > 0)
		waitpid(writer, &status, 0);
	/* memory.stat may lag by 2 s, usage does not: wait until the two agree again. */
	for (int i = 0; i < 100; i++) {
		cgroup_vm_read(g, &after);
		if (after.resident_bytes < before.resident_bytes + 8 * MIB)
			break;
		usleep(50000);
	}
	usage = strtoull(read_file(t.vm, t.version == CGROUP_V2 ? "memory.current" : "memory.usage_in_bytes"), NULL,
			 10);
	check(status == 0 && usage > t.child_bytes + 60 * MIB && after.resident_bytes < before.resident_bytes + 8 * MIB,
	      "64 MiB of page cache: usage %.1f MiB, resident %.1f MiB", (double)usage / MIB,
	      (double)after.resident_bytes / MIB);
	if (fd >= 0)
		close(fd); /* the file goes, and its cache with it */
	free(buf);
}

/* The group is kept off the host's swap, whether there is some or not. */
static bool may_swap(bool yes)
{
	if (t.version == CGROUP_V2)
		return write_file(t.vm, "memory.swap.max", yes ? "max" : "0");
	return write_file(t.vm, "memory.swappiness", yes ? "60" : "0") &&
	       write_file(t.leaf, "memory.swappiness", yes ? "60" : "0");
}

static void check_without_swap(struct cgroup_vm *g)
{
	uint64_t limit = 0, wanted = t.child_bytes / 2;
	struct vm_host_sample s = {0};
	char text[24];
	int r;

	check(may_swap(false), "swapping is forbidden to the group");
	r = set(g, wanted, CGROUP_METHOD_LIMIT, 500, &limit, &s);
	if (t.version == CGROUP_V1) {
		check(r == -EBUSY && limit == LIMIT_NONE, "without swap the kernel refuses, the old limit stays");
		limit_file_is("9223372036854771712");
	} else {
		snprintf(text, sizeof(text), "%llu", (unsigned long long)wanted);
		check(r == -EAGAIN && limit == wanted, "without swap it does not get there; memory.high is in force");
		limit_file_is(text);
	}
	check(s.resident_bytes >= t.child_bytes, "nothing was lost");
	check(set(g, LIMIT_NONE, CGROUP_METHOD_AUTO, 500, &limit, &s) == 0 && limit == LIMIT_NONE, "opened");
	check(may_swap(true), "swapping is allowed again");
}

/* Whether the counters show what touching swapped memory cost. */
static bool paid(const struct vm_host_sample *before, const struct vm_host_sample *after)
{
	return after->refaults > before->refaults && (!after->has_psi || after->psi_some_us > before->psi_some_us);
}

static void check_lower(struct cgroup_vm *g, struct proc_vm *p, enum cgroup_method method, const char *name)
{
	uint64_t limit = 0, wanted = t.child_bytes / 2, faults_before = 0, faults_after = 0;
	struct vm_host_sample s = {0}, touched = {0};
	unsigned long high_before = t.version == CGROUP_V2 ? event_count("memory.events", "\nhigh ") : 0;
	char text[24];
	bool known, back;

	check(set(g, wanted, method, 60000, &limit, &s) == 0 && limit == wanted, "lowered to a half by %s", name);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)wanted);
	limit_file_is(text);
	check(s.resident_bytes <= wanted && s.limit_bytes == wanted, "residency is under it");
	check(s.swapped_bytes + SLACK_BYTES >= t.child_bytes - wanted, "the rest is swapped");
	if (t.version == CGROUP_V2 && method == CGROUP_METHOD_RECLAIM)
		check(event_count("memory.events", "\nhigh ") == high_before, "and nobody was throttled for it");
	proc_vm_major_faults(p, &faults_before);
	check(child_touches_all(), "the child lives under it");
	known = proc_vm_major_faults(p, &faults_after) == 0;
	/* memory.stat and memory.pressure lag by up to 2 s each (kernel/sched/psi.c sums up every PSI_FREQ), and PSI
	   weighs what it finds by whole jiffies of work, so that a short stall may count as none: the child then lives
	   on until one counts. */
	for (int i = 1; i <= 400 && cgroup_vm_read(g, &touched) == 0 && !paid(&s, &touched); i++) {
		usleep(50000);
		if (i % 80 == 0 && !child_touches_all())
			break;
	}
	check(known && faults_after > faults_before + t.child_bytes / 4096 / 20 && touched.refaults > s.refaults,
	      "and pays: %llu major faults, %llu refaults", (unsigned long long)(faults_after - faults_before),
	      (unsigned long long)(touched.refaults - s.refaults));
	if (touched.has_psi)
		check(touched.psi_some_us > s.psi_some_us, "pressure: %.1f ms stalled",
		      (double)(touched.psi_some_us - s.psi_some_us) / 1e3);
	check(set(g, 2 * t.child_bytes, method, 1000, &limit, &s) == 0 && limit == 2 * t.child_bytes, "raised");
	back = child_touches_all() && cgroup_vm_read(g, &s) == 0;
	check(back && s.resident_bytes + SLACK_BYTES >= t.child_bytes, "all of it is back: %.1f MiB resident",
	      (double)s.resident_bytes / MIB);
	check(set(g, LIMIT_NONE, method, 1000, &limit, &s) == 0 && limit == LIMIT_NONE && s.limit_bytes == LIMIT_NONE,
	      "opened");
	limit_file_is(t.version == CGROUP_V2 ? "max" : "9223372036854771712");
}

static void check_v1_memsw(struct cgroup_vm *g)
{
	uint64_t limit = 0;
	struct vm_host_sample s;
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)(2 * t.child_bytes));
	/* The kernel wants limit ≤ memsw limit in this order. */
	if (access("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", F_OK) < 0 ||
	    !check(write_file(t.vm, "memory.limit_in_bytes", text) &&
			   write_file(t.vm, "memory.memsw.limit_in_bytes", text),
		   "an administrator sets memory.memsw.limit_in_bytes"))
		return;
	check(set(g, 4 * t.child_bytes, CGROUP_METHOD_AUTO, 1000, &limit, &s) == 0 && limit == 2 * t.child_bytes,
	      "raising goes up to it");
	check(set(g, LIMIT_NONE, CGROUP_METHOD_AUTO, 1000, &limit, &s) == 0 && limit == 2 * t.child_bytes,
	      "so does opening");
	check(write_file(t.vm, "memory.memsw.limit_in_bytes", "-1") &&
		      set(g, LIMIT_NONE, CGROUP_METHOD_AUTO, 1000, &limit, &s) == 0 && limit == LIMIT_NONE,
	      "and without it, it opens");
}

/* v2: a limit that reclaim cannot reach in time is not put below usage. */
static void check_v2_out_of_time(struct cgroup_vm *g)
{
	uint64_t limit = 0;
	struct vm_host_sample s = {0};
	int r = set(g, 8 * MIB, CGROUP_METHOD_RECLAIM, 0, &limit, &s);

	check(r == -EAGAIN, "no time at all: not there");
	check(limit > s.resident_bytes && limit < t.child_bytes + SLACK_BYTES + 32 * MIB,
	      "memory.high stays above usage: %.1f MiB", (double)limit / MIB);
	check(set(g, LIMIT_NONE, CGROUP_METHOD_AUTO, 1000, &limit, &s) == 0, "opened");
}

static void check_no_harm(void)
{
	check(oom_kills() == 0, "no OOM kill");
	check(kill(t.child, 0) == 0 && waitpid(t.child, NULL, WNOHANG) == 0, "the child lives");
	if (t.version == CGROUP_V2) {
		check(strcmp(read_file(t.machine, "memory.max"), "max") == 0 &&
			      strcmp(read_file(t.vm, "memory.max"), "max") == 0,
		      "memory.max was never touched");
		check(strcmp(read_file(t.machine, "memory.high"), "max") == 0, "nor was the group around libvirt's");
	}
}

static void check_group_gone(struct cgroup_vm *g)
{
	uint64_t limit = 0;
	struct memoc_err err = {0};
	struct vm_host_sample s;
	int r;

	end_child();
	remove_groups();
	check(access(t.base, F_OK) < 0, "groups are removed");
	check(cgroup_vm_read(g, &s) == -ENODEV, "reading a group that is gone: ENODEV");
	r = cgroup_vm_set_limit(g, 64 * MIB, CGROUP_METHOD_AUTO, 100, &limit, &err);
	check(r == -ENODEV, "setting: %s", err.text);
	/* The same path again, as for the next VM: not this one's. */
	check(make_groups() && cgroup_vm_set_limit(g, 64 * MIB, CGROUP_METHOD_AUTO, 100, &limit, &err) == -ENODEV,
	      "a new group under the old path is not mistaken for it");
	limit_file_is(t.version == CGROUP_V2 ? "max" : "9223372036854771712");
}

static void check_group(struct cgroup_vm *g, struct proc_vm *p)
{
	uint64_t limit = 0;
	struct memoc_err err = {0};
	pthread_t thread;
	bool threaded;
	int r;

	check_first_sample(g);
	if (t.version == CGROUP_V1)
		check_file_cache(g);
	else
		printf("skip   page cache: the guest's file system has no disk under it\n");
	reader.g = g;
	threaded =
		check(pthread_create(&thread, NULL, read_all_the_time, NULL) == 0, "another thread reads all the time");
	r = cgroup_vm_set_limit(g, 1, CGROUP_METHOD_AUTO, 100, &limit, &err);
	check(r == -EINVAL && limit == LIMIT_NONE, "one byte is refused: %s", err.text);
	check_without_swap(g);
	if (t.swap) {
		check_lower(g, p, CGROUP_METHOD_AUTO, "auto");
		check_lower(g, p, CGROUP_METHOD_LIMIT, "limit");
		if (t.version == CGROUP_V2)
			check_lower(g, p, CGROUP_METHOD_RECLAIM, "reclaim");
	} else {
		printf("skip   lowering below residency: the caller has no swap to give\n");
	}
	if (t.version == CGROUP_V1)
		check_v1_memsw(g);
	else
		check_v2_out_of_time(g);
	reader.stop = true;
	if (threaded)
		pthread_join(thread, NULL);
	check(reader.reads > 0 && reader.errors == 0, "%lu reads beside the writes, %lu failed", reader.reads,
	      reader.errors);
	check_no_harm();
	check_group_gone(g);
}

static void check_opened(void)
{
	struct memoc_err err = {0};
	struct cgroup_vm *g = NULL;
	struct proc_vm *p = NULL;
	char path[300];
	int r = cgroup_vm_open(t.child, &g, &err);

	snprintf(path, sizeof(path), "/memoc-check-%d" MACHINE "%s", (int)getpid(),
		 t.version == CGROUP_V2 ? "/libvirt" : "");
	if (check(r == 0, "opened by pid %s", err.text) &&
	    check(strcmp(cgroup_vm_path(g), path) == 0, "cut to %s", cgroup_vm_path(g)) &&
	    check(proc_vm_open(t.child, &p, &err) == 0, "process held"))
		check_group(g, p);
	proc_vm_close(p);
	cgroup_vm_close(g);
}

static void run_checks(void)
{
	struct memoc_err err = {0};
	enum cgroup_version found = 0;
	int r = cgroup_setup(&found, &err);

	if (check(r == 0 && found == t.version, "memory hierarchy is v%d %s", found, err.text) &&
	    check(make_groups(), "groups below memoc-check-%d", (int)getpid()) &&
	    check(start_child(), "child has touched its memory")) {
		check_refusals();
		check_opened();
	}
}

int main(int argc, char **argv)
{
	if (argc != 4 || (t.child_bytes = strtoull(argv[2], NULL, 10) * MIB) < 32 * MIB) {
		fprintf(stderr, "usage: cgroup_check v1|v2 MIB swap|noswap (MIB 32 or more)\n");
		return 2;
	}
	t.version = strcmp(argv[1], "v2") == 0 ? CGROUP_V2 : CGROUP_V1;
	t.swap = strcmp(argv[3], "swap") == 0;
	signal(SIGPIPE, SIG_IGN); /* a child that died shows as an error of write() */
	run_checks();
	end_child();
	remove_groups();
	printf("cgroup_check: %d passed, %d failed\n", t.passed, t.failed);
	return t.failed || !t.passed;
}
