/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The program that runs inside a test guest: it has a hot working set that it walks at a fixed pace, and says how well
 * it keeps up. A guest that is short of memory falls behind its pace; one that thrashes reaches a hundredth of it.
 *
 * Commands come as lines "ID COMMAND [ARG]" over a serial line and are answered "ID {json}"; what happens later by
 * itself is told as "! {json}". Slow commands (first touch of memory, driver loading) run as jobs on a thread of their
 * own: the answer carries the job's number, the event "done" tells its end. `workload --help` lists the commands.
 *
 * All times are the guest's CLOCK_MONOTONIC in ms; who wants host time stamps the lines as they arrive.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define PAGE 4096u
#define REGION_BYTES (UINT64_C(16) << 30) /* address space only: more than any guest of ours has */
#define SLICE_MS 20			  /* the walker sleeps between slices, so that an idle host stays idle */
#define PACE_DEFAULT_MS 200		  /* one pass over the working set: 200 MiB make 256,000 pages a second */
#define BATCH_PAGES 64	  /* touched under the lock at once; short, so that a command never waits long */
#define RANDOM_BYTES 1024 /* of each page: it then compresses about 4:1, as real memory does */
#define SAMPLE_MS 100
#define SAMPLES 11 /* one second, and the sample that begins it */
#define FILL_MARGIN_BYTES (24 * MIB)

struct job {
	unsigned id;
	enum { JOB_NONE, JOB_USE, JOB_TOUCH, JOB_LOCK, JOB_LOAD, JOB_UNLOAD } what;
	uint64_t mib;
};

static const char *const job_names[] = {
	[JOB_NONE] = "none", [JOB_USE] = "use",		 [JOB_TOUCH] = "touch",
	[JOB_LOCK] = "lock", [JOB_LOAD] = "load-driver", [JOB_UNLOAD] = "unload-driver",
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint8_t *region;		/* the working set is its first use_pages pages */
static uint64_t use_pages;	/* walked */
static uint64_t want_use_pages; /* asked for; use_pages follows when the first touch is complete */
static uint64_t locked_mib;	/* mlocked, out of the balloon's reach */
static uint64_t pace_ms = PACE_DEFAULT_MS;
static uint64_t ramp_mib_per_s; /* how fast the working set grows, 0: as fast as it can */
static bool zipf, standing;
static uint8_t marks[REGION_BYTES / PAGE / 8]; /* a bit for each page that was walked since `mark` */
static uint64_t marked_pages, marks_end;       /* how many bits are set, and behind the last one */
static struct job pending, running, last_done;
static unsigned next_job = 1;
static _Atomic uint64_t walked_pages;  /* by the walker, ever */
static _Atomic uint64_t touched_pages; /* first touches, ever */
static _Atomic unsigned throttle_pct = 100;
static int serial = STDOUT_FILENO;
static unsigned starts;

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void sleep_until_ms(uint64_t at)
{
	struct timespec ts = {.tv_sec = (time_t)(at / 1000), .tv_nsec = (long)(at % 1000) * 1000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

/* One whole line in one write: threads share the serial line. */
__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
	static pthread_mutex_t out = PTHREAD_MUTEX_INITIALIZER;
	char line[1024];
	size_t done = 0, n;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	n = strlen(line);
	line[n++] = '\n';
	pthread_mutex_lock(&out);
	while (done < n) {
		ssize_t r = write(serial, line + done, n - done);

		if (r > 0)
			done += (size_t)r;
		else if (errno != EINTR && errno != EAGAIN)
			break;
	}
	pthread_mutex_unlock(&out);
}

/* ---- memory ---- */

static uint64_t random_next(void)
{
	static __thread uint64_t x = 0x9e3779b97f4a7c15;

	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

static void first_touch(uint8_t *page)
{
	for (unsigned i = 0; i < RANDOM_BYTES; i += sizeof(uint64_t))
		*(volatile uint64_t *)(void *)(page + i) = random_next();
	atomic_fetch_add(&touched_pages, 1);
}

/* Called with the lock held: the pages behind the working set go back to the guest's kernel. */
static void shrink_to(uint64_t pages)
{
	use_pages = pages;
	madvise(region + pages * PAGE, REGION_BYTES - pages * PAGE, MADV_DONTNEED);
}

static bool still_wanted(uint64_t pages)
{
	pthread_mutex_lock(&lock);
	bool wanted = want_use_pages == pages;
	pthread_mutex_unlock(&lock);
	return wanted;
}

/* Grows page by page while the walker goes on with what was there before; stops early when the wish changes. */
static bool job_use(const struct job *job)
{
	uint64_t want = job->mib * MIB / PAGE, at, from, ramp, began = now_ms();
	bool wanted;

	pthread_mutex_lock(&lock);
	at = from = use_pages;
	ramp = ramp_mib_per_s * MIB / PAGE;
	pthread_mutex_unlock(&lock);
	while ((wanted = still_wanted(want)) && at < want) {
		for (unsigned i = 0; i < BATCH_PAGES && at < want; i++, at++)
			first_touch(region + at * PAGE);
		if (ramp)
			sleep_until_ms(began + (at - from) * 1000 / ramp);
	}
	pthread_mutex_lock(&lock);
	if (want_use_pages == want)
		use_pages = want;
	else
		shrink_to(use_pages);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return wanted;
}

/* Memory that may be swapped (the rest of the program is locked), in pages of 4 KiB. NULL when there is none. */
static uint8_t *map_bytes(uint64_t bytes)
{
	uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	munlock(p, bytes);
	madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}

static bool touch_once(uint64_t bytes)
{
	uint8_t *p = map_bytes(bytes);

	if (!p)
		return false;
	for (uint64_t at = 0; at < bytes; at += PAGE)
		first_touch(p + at);
	munmap(p, bytes);
	return true;
}

/* Memory that the guest cannot give: it sets the floor down to which a balloon can go. */
static bool job_lock(uint64_t mib)
{
	static uint8_t *held;
	static uint64_t held_bytes;
	uint64_t bytes = mib * MIB;

	if (held)
		munmap(held, held_bytes);
	held = NULL;
	pthread_mutex_lock(&lock);
	locked_mib = 0;
	pthread_mutex_unlock(&lock);
	if (!bytes)
		return true;
	held = map_bytes(bytes);
	if (!held)
		return false;
	held_bytes = bytes;
	for (uint64_t at = 0; at < bytes; at += PAGE)
		first_touch(held + at);
	if (mlock(held, bytes) < 0)
		return false;
	pthread_mutex_lock(&lock);
	locked_mib = mib;
	pthread_mutex_unlock(&lock);
	return true;
}

/* ---- the balloon driver ---- */

static bool job_load(void)
{
	int fd = open("/modules/virtio_balloon.ko", O_RDONLY | O_CLOEXEC);
	long r = fd < 0 ? -1 : syscall(SYS_finit_module, fd, "", 0);
	bool ok = r == 0 || errno == EEXIST;

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool job_unload(void)
{
	return syscall(SYS_delete_module, "virtio_balloon", O_NONBLOCK) == 0 || errno == ENOENT;
}

static bool driver_loaded(void)
{
	return access("/sys/bus/virtio/drivers/virtio_balloon", F_OK) == 0;
}

/* ---- threads ---- */

static bool run_job(const struct job *job)
{
	switch (job->what) {
	case JOB_USE:
		return job_use(job);
	case JOB_TOUCH:
		return touch_once(job->mib * MIB);
	case JOB_LOCK:
		return job_lock(job->mib);
	case JOB_LOAD:
		return job_load();
	case JOB_UNLOAD:
		return job_unload();
	case JOB_NONE:
		break;
	}
	return false;
}

static void say_done(const struct job *job, bool ok, uint64_t began)
{
	say("! {\"event\":\"done\",\"job\":%u,\"what\":\"%s\",\"mib\":%llu,\"ok\":%s,\"began_ms\":%llu,"
	    "\"ended_ms\":%llu}",
	    job->id, job_names[job->what], (unsigned long long)job->mib, ok ? "true" : "false",
	    (unsigned long long)began, (unsigned long long)now_ms());
}

static void *jobs_main(void *arg)
{
	(void)arg;
	for (;;) {
		struct job job;
		uint64_t began;
		bool ok;

		pthread_mutex_lock(&lock);
		while (pending.what == JOB_NONE)
			pthread_cond_wait(&changed, &lock);
		job = running = pending;
		pending.what = JOB_NONE;
		pthread_mutex_unlock(&lock);
		began = now_ms();
		ok = run_job(&job);
		pthread_mutex_lock(&lock);
		last_done = job;
		running.what = JOB_NONE;
		pthread_mutex_unlock(&lock);
		say_done(&job, ok, began);
	}
	return NULL;
}

/*
 * A page of `pages`, the one of rank r with a chance of about 1/r: each doubling of the rank is as likely as any other.
 * Ranks are strewn over the set by an odd factor, as what is popular does not lie together.
 */
static uint64_t zipf_page(uint64_t pages)
{
	unsigned doublings = 64 - (unsigned)__builtin_clzll(pages);
	uint64_t low = UINT64_C(1) << random_next() % doublings, rank = low + random_next() % low - 1;

	return rank % pages * 40503 % pages;
}

/* Called with the lock held. */
static void touch_marked(uint64_t page)
{
	uint8_t bit = (uint8_t)(1u << page % 8);

	*(volatile uint64_t *)(void *)(region + page * PAGE) += 1;
	marked_pages += !(marks[page / 8] & bit);
	marks[page / 8] |= bit;
	if (page >= marks_end)
		marks_end = page + 1;
}

/* Touches up to `count` pages from *at on, going round; returns how many (fewer when the set has shrunk). */
static uint64_t walk(uint64_t *at, uint64_t count)
{
	uint64_t done = 0;

	while (done < count) {
		uint64_t batch = 0;

		pthread_mutex_lock(&lock);
		for (; use_pages && !standing && batch < BATCH_PAGES && done < count; batch++, done++) {
			if (*at >= use_pages)
				*at = 0;
			touch_marked(zipf ? zipf_page(use_pages) : *at);
			(*at)++;
		}
		pthread_mutex_unlock(&lock);
		if (!batch)
			break;
		atomic_fetch_add(&walked_pages, batch);
	}
	return done;
}

/*
 * Keeps the pace by absolute deadlines. A short hiccup (up to one pass) is made up for; what is lost beyond that is
 * lost and shows as a lower rate.
 */
static void *walker_main(void *arg)
{
	uint64_t at = 0, due = now_ms();
	double carry = 0;

	(void)arg;
	for (;;) {
		uint64_t pages, pace, now;

		pthread_mutex_lock(&lock);
		while (!use_pages || standing) {
			pthread_cond_wait(&changed, &lock);
			due = now_ms();
		}
		pages = use_pages;
		pace = pace_ms;
		pthread_mutex_unlock(&lock);
		if (!pace) { /* flat out */
			walk(&at, pages);
			due = now_ms();
			continue;
		}
		carry += (double)pages * SLICE_MS / (double)pace;
		carry -= (double)walk(&at, (uint64_t)carry);
		if (carry > (double)pages || carry < 0)
			carry = 0;
		due += SLICE_MS;
		now = now_ms();
		if (now > due + pace)
			due = now - pace;
		sleep_until_ms(due);
	}
	return NULL;
}

/* Leaves the rest of the guest throttle_pct of the processor: everything slows down, the balloon driver too. */
static void *throttle_main(void *arg)
{
	uint64_t period_start = now_ms();

	(void)arg;
	for (;;) {
		uint64_t busy_ms = 100 - atomic_load(&throttle_pct);

		if (!busy_ms) {
			pthread_mutex_lock(&lock);
			while (atomic_load(&throttle_pct) == 100)
				pthread_cond_wait(&changed, &lock);
			pthread_mutex_unlock(&lock);
			period_start = now_ms();
			continue;
		}
		while (now_ms() < period_start + busy_ms)
			;
		period_start += 100;
		sleep_until_ms(period_start);
	}
	return NULL;
}

/* A real-time thread; priority 0 means an ordinary one. */
static void start_thread(void *(*main_fn)(void *), int priority)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, main_fn, NULL) != 0) {
		say("! {\"event\":\"failed\",\"what\":\"thread\"}");
		_exit(1);
	}
	if (priority)
		pthread_setschedparam(thread, SCHED_FIFO, &(struct sched_param){.sched_priority = priority});
}

/* ---- figures ---- */

struct sample {
	uint64_t at_ms, walked;
};

static struct sample samples[SAMPLES];
static unsigned n_samples;

static void take_sample(void)
{
	if (n_samples == SAMPLES)
		memmove(samples, samples + 1, sizeof(samples[0]) * --n_samples);
	samples[n_samples++] = (struct sample){now_ms(), atomic_load(&walked_pages)};
}

/* Pages a second over the last second, or since the first sample. */
static uint64_t rate_per_s(void)
{
	uint64_t span, walked = atomic_load(&walked_pages), now = now_ms();
	unsigned i = 0;

	if (!n_samples)
		return 0;
	while (i + 1 < n_samples && now - samples[i].at_ms > 1000 + SAMPLE_MS)
		i++;
	span = now - samples[i].at_ms;
	return span ? (walked - samples[i].walked) * 1000 / span : 0;
}

/* The number after `key` at the start of a line of a /proc file: meminfo (kB) and vmstat (counts). */
static uint64_t proc_number(const char *path, const char *key)
{
	char line[256];
	uint64_t value = 0;
	size_t n = strlen(key);
	FILE *f = fopen(path, "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, n) == 0 && (line[n] == ':' || line[n] == ' ')) {
			value = strtoull(line + n + 1, NULL, 10);
			break;
		}
	}
	fclose(f);
	return value;
}

static void say_report(const char *id)
{
	uint64_t use, want, pace, locked;
	struct job done, now;

	pthread_mutex_lock(&lock);
	use = use_pages;
	want = want_use_pages;
	pace = pace_ms;
	locked = locked_mib;
	done = last_done;
	now = running;
	pthread_mutex_unlock(&lock);
	say("%s {\"at_ms\":%llu,\"use_mib\":%llu,\"want_use_mib\":%llu,\"locked_mib\":%llu,\"pace_ms\":%llu,"
	    "\"walked_pages\":%llu,\"touched_pages\":%llu,\"rate_per_s\":%llu,\"wanted_per_s\":%llu,\"throttle_pct\":%"
	    "u,"
	    "\"driver\":%s,\"job\":%u,\"last_job\":%u,\"oom_kills\":%llu,\"starts\":%u}",
	    id, (unsigned long long)now_ms(), (unsigned long long)(use * PAGE / MIB),
	    (unsigned long long)(want * PAGE / MIB), (unsigned long long)locked, (unsigned long long)pace,
	    (unsigned long long)atomic_load(&walked_pages), (unsigned long long)atomic_load(&touched_pages),
	    (unsigned long long)rate_per_s(), (unsigned long long)(pace ? use * 1000 / pace : 0),
	    atomic_load(&throttle_pct), driver_loaded() ? "true" : "false", now.what ? now.id : 0, done.id,
	    (unsigned long long)proc_number("/proc/vmstat", "oom_kill"), starts);
}

static void say_meminfo(const char *id)
{
	static const char *const keys[] = {"MemTotal",	"MemFree",   "MemAvailable", "Cached",
					   "AnonPages", "SwapTotal", "SwapFree"};
	static const char *const counts[] = {"pswpin", "pswpout", "pgmajfault", "balloon_inflate", "balloon_deflate"};
	char text[768];
	int n = 0;

	for (unsigned i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, "%s\"%s_bytes\":%llu", i ? "," : "", keys[i],
			      (unsigned long long)proc_number("/proc/meminfo", keys[i]) * 1024);
	for (unsigned i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, ",\"%s\":%llu", counts[i],
			      (unsigned long long)proc_number("/proc/vmstat", counts[i]));
	say("%s {%s}", id, text);
}

/* ---- commands ---- */

static void refuse(const char *id, const char *why)
{
	say("%s {\"error\":\"%s\"}", id, why);
}

/*
 * One job runs and one may wait. A new wish for the working set takes the place of a waiting one (and stops a running
 * one, see job_use); smaller than what is there, it is fulfilled at once.
 */
static void start_job(const char *id, int what, uint64_t mib)
{
	struct job replaced = {0}, job = {0};
	bool busy = false, shrunk = false;

	pthread_mutex_lock(&lock);
	if (what == JOB_USE) {
		want_use_pages = mib * MIB / PAGE;
		shrunk = want_use_pages <= use_pages;
	}
	if (pending.what == JOB_USE && what == JOB_USE) {
		replaced = pending;
		pending.what = JOB_NONE;
	}
	busy = !shrunk && pending.what != JOB_NONE;
	if (!busy)
		job = (struct job){next_job++, what, mib};
	if (shrunk) {
		shrink_to(want_use_pages);
		last_done = job;
	} else if (!busy) {
		pending = job;
	}
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	if (replaced.what != JOB_NONE)
		say_done(&replaced, false, now_ms());
	if (busy)
		refuse(id, "busy: one job runs and another waits");
	else
		say("%s {\"job\":%u,\"at_ms\":%llu,\"finished\":%s}", id, job.id, (unsigned long long)now_ms(),
		    shrunk ? "true" : "false");
}

static void cmd_pace(const char *id, uint64_t ms)
{
	pthread_mutex_lock(&lock);
	pace_ms = ms;
	pthread_mutex_unlock(&lock);
	say("%s {\"pace_ms\":%llu}", id, (unsigned long long)ms);
}

static void cmd_ramp(const char *id, uint64_t mib_per_s)
{
	pthread_mutex_lock(&lock);
	ramp_mib_per_s = mib_per_s;
	pthread_mutex_unlock(&lock);
	say("%s {\"ramp_mib_per_s\":%llu}", id, (unsigned long long)mib_per_s);
}

static void cmd_pattern(const char *id, const char *name)
{
	pthread_mutex_lock(&lock);
	zipf = strcmp(name, "zipf") == 0;
	pthread_mutex_unlock(&lock);
	say("%s {\"pattern\":\"%s\"}", id, zipf ? "zipf" : "walk");
}

/* The walker goes on, and what it walks from now on is counted anew; or it stands still, and that is told. */
static void cmd_mark(const char *id, bool stand)
{
	uint64_t pages;

	pthread_mutex_lock(&lock);
	if (!stand) {
		memset(marks, 0, marks_end / 8 + 1);
		marked_pages = marks_end = 0;
	}
	pages = marked_pages;
	standing = stand;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	say("%s {\"standing\":%s,\"marked_pages\":%llu}", id, stand ? "true" : "false", (unsigned long long)pages);
}

static void cmd_throttle(const char *id, uint64_t pct)
{
	if (pct < 1 || pct > 100) {
		refuse(id, "throttle wants 1 to 100: the share of the processor that is left");
		return;
	}
	atomic_store(&throttle_pct, (unsigned)pct);
	pthread_mutex_lock(&lock);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	say("%s {\"throttle_pct\":%u}", id, (unsigned)pct);
}

static void cmd_crash(const char *id)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

	say("%s {\"crash\":true}", id);
	tcdrain(serial);
	if (fd < 0 || write(fd, "c", 1) < 0)
		say("! {\"event\":\"failed\",\"what\":\"crash\"}");
}

static void cmd_reboot(const char *id, int how)
{
	say("%s {\"bye\":true}", id);
	tcdrain(serial);
	reboot(how);
}

static uint64_t watch_ms;

static const char help[] =
	"use MIB: hot working set | touch MIB: once, then free | lock MIB: keep out of the "
	"balloon's reach | pace MS: one "
	"pass (0: flat out) | ramp MIB_PER_S: how fast use grows (0: flat out) | pattern walk or zipf | stand: still, "
	"and the pages walked since | "
	"mark: goes on, counting anew | report | meminfo | watch MS: a rate event each MS (0: off) | throttle "
	"PCT | load-driver | "
	"unload-driver | reboot | poweroff | crash | ping";

static void obey(char *line)
{
	char *save = NULL, *id = strtok_r(line, " \r", &save), *verb = strtok_r(NULL, " \r", &save);
	char *arg = strtok_r(NULL, " \r", &save), *end = NULL;
	uint64_t n = arg ? strtoull(arg, &end, 10) : 0;
	bool number = arg && end != arg && !*end;

	if (!id || !verb)
		return;
	if (strcmp(verb, "use") == 0 && number && n * MIB <= REGION_BYTES)
		start_job(id, JOB_USE, n);
	else if (strcmp(verb, "touch") == 0 && number && n)
		start_job(id, JOB_TOUCH, n);
	else if (strcmp(verb, "lock") == 0 && number)
		start_job(id, JOB_LOCK, n);
	else if (strcmp(verb, "load-driver") == 0)
		start_job(id, JOB_LOAD, 0);
	else if (strcmp(verb, "unload-driver") == 0)
		start_job(id, JOB_UNLOAD, 0);
	else if (strcmp(verb, "pace") == 0 && number)
		cmd_pace(id, n);
	else if (strcmp(verb, "ramp") == 0 && number)
		cmd_ramp(id, n);
	else if (strcmp(verb, "pattern") == 0 && arg && (strcmp(arg, "zipf") == 0 || strcmp(arg, "walk") == 0))
		cmd_pattern(id, arg);
	else if (strcmp(verb, "stand") == 0 || strcmp(verb, "mark") == 0)
		cmd_mark(id, *verb == 's');
	else if (strcmp(verb, "throttle") == 0 && number)
		cmd_throttle(id, n);
	else if (strcmp(verb, "report") == 0)
		say_report(id);
	else if (strcmp(verb, "meminfo") == 0)
		say_meminfo(id);
	else if (strcmp(verb, "watch") == 0 && number)
		say("%s {\"watch_ms\":%llu}", id, (unsigned long long)(watch_ms = n));
	else if (strcmp(verb, "ping") == 0)
		say("%s {\"pong\":true}", id);
	else if (strcmp(verb, "crash") == 0)
		cmd_crash(id);
	else if (strcmp(verb, "reboot") == 0)
		cmd_reboot(id, RB_AUTOBOOT);
	else if (strcmp(verb, "poweroff") == 0)
		cmd_reboot(id, RB_POWER_OFF);
	else
		refuse(id, help);
}

static void say_rate(void)
{
	pthread_mutex_lock(&lock);
	uint64_t wanted = pace_ms ? use_pages * 1000 / pace_ms : 0;
	pthread_mutex_unlock(&lock);
	say("! {\"event\":\"rate\",\"at_ms\":%llu,\"walked_pages\":%llu,\"wanted_per_s\":%llu}",
	    (unsigned long long)now_ms(), (unsigned long long)atomic_load(&walked_pages), (unsigned long long)wanted);
}

/* Reads what is there and obeys each whole line; an overlong line is thrown away. */
static void read_commands(void)
{
	static char buf[512];
	static size_t have;
	ssize_t r = read(serial, buf + have, sizeof(buf) - 1 - have);
	char *nl;

	if (r <= 0) {
		sleep_until_ms(now_ms() + SAMPLE_MS); /* a hung-up line polls as readable for ever */
		return;
	}
	have += (size_t)r;
	buf[have] = '\0';
	while ((nl = memchr(buf, '\n', have))) {
		*nl = '\0';
		obey(buf);
		have -= (size_t)(nl + 1 - buf);
		memmove(buf, nl + 1, have);
	}
	if (have == sizeof(buf) - 1)
		have = 0;
}

static void serve(void)
{
	uint64_t sample_at = now_ms(), watch_at = 0;

	for (;;) {
		struct pollfd p = {.fd = serial, .events = POLLIN};
		uint64_t now, due = sample_at;
		bool idle;

		pthread_mutex_lock(&lock);
		idle = !want_use_pages;
		pthread_mutex_unlock(&lock);
		if (watch_ms && watch_at < due)
			due = watch_at;
		now = now_ms();
		if (poll(&p, 1, idle && !watch_ms ? -1 : due > now ? (int)(due - now) : 0) > 0)
			read_commands();
		now = now_ms();
		if (now >= sample_at) {
			take_sample();
			sample_at = now + SAMPLE_MS;
		}
		if (watch_ms && now >= watch_at) {
			say_rate();
			watch_at = now + watch_ms;
		}
	}
}

static int open_serial(const char *path)
{
	struct termios t;

	serial = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (serial < 0)
		return -errno;
	if (tcgetattr(serial, &t) == 0) {
		cfmakeraw(&t);
		t.c_cflag |= CLOCAL;
		tcsetattr(serial, TCSANOW, &t);
		tcflush(serial, TCIOFLUSH);
	}
	return 0;
}

/* Makes all of the guest's memory resident on the host, as in a guest that has been up for days. */
static int fill(void)
{
	uint64_t bytes = proc_number("/proc/meminfo", "MemAvailable") * 1024;

	if (bytes <= FILL_MARGIN_BYTES || !touch_once(bytes - FILL_MARGIN_BYTES))
		return 1;
	return 0;
}

/*
 * Tells the kernel that it has all the randomness it wants (random(4)), as nothing here has to be secret: else the
 * first who asks, mkswap for a UUID, waits while the kernel gathers it from the clock's jitter: 2 s of a
 * software-emulated processor.
 */
static int seed(void)
{
	struct {
		struct rand_pool_info info;
		uint32_t words[8];
	} pool = {.info = {.entropy_count = 256, .buf_size = sizeof(pool.words)}};
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);

	return fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) < 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--fill") == 0)
		return fill();
	if (argc == 2 && strcmp(argv[1], "--seed") == 0)
		return seed();
	if (argc < 2 || argv[1][0] == '-') {
		fprintf(stderr, "usage: workload --fill | --seed | TTY [STARTS]\ncommands: %s\n", help);
		return 2;
	}
	starts = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
	if (open_serial(argv[1]) < 0) {
		fprintf(stderr, "workload: cannot open %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	/* Answers come even while the guest swaps, and no page of the program itself is asked for when there is none.
	 */
	mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
	region = map_bytes(REGION_BYTES);
	if (!region) {
		fprintf(stderr, "workload: no address space: %s\n", strerror(errno));
		return 1;
	}
	start_thread(jobs_main, 0);
	start_thread(walker_main, 0);
	start_thread(throttle_main, 10);
	/* Above the throttle: a throttled guest still answers. */
	sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 20});
	say("! {\"event\":\"ready\",\"at_ms\":%llu,\"starts\":%u}", (unsigned long long)now_ms(), starts);
	serve();
}
