/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virsh as a child, its job's figures by another, and a third that cancels. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "controller/cli/migrate.h"
#include "common/clock.h"
#include "common/parse.h"
#include "common/text.h"

extern char **environ;

#define STATS_EVERY_MS 1000
#define STATS_LIMIT_MS 10000 /* a libvirt that answers later than that is asked anew */
#define ABORT_EVERY_MS 1000
#define RENEW_EVERY_MS 30000 /* a quarter of what memocd gives (TRIM_MS in core.c) */
#define TEXT_MOST ((size_t)16 << 10)

/* ---- figures ---- */

static const struct {
	const char *name; /* libvirt's */
	size_t offset;
} stat_names[] = {
	{"memory_total", offsetof(struct job_stats, memory_total_bytes)},
	{"memory_processed", offsetof(struct job_stats, memory_processed_bytes)},
	{"memory_remaining", offsetof(struct job_stats, memory_remaining_bytes)},
	{"memory_bps", offsetof(struct job_stats, memory_bytes_per_s)},
	{"memory_iteration", offsetof(struct job_stats, iteration)},
	{"disk_total", offsetof(struct job_stats, disk_total_bytes)},
	{"disk_remaining", offsetof(struct job_stats, disk_remaining_bytes)},
	{"time_elapsed", offsetof(struct job_stats, elapsed_ms)},
	{"downtime", offsetof(struct job_stats, downtime_ms)},
};

static void read_stat(const char *line, size_t len, struct job_stats *s)
{
	char value[32];

	for (size_t i = 0; i < ARRAY_SIZE(stat_names); i++) {
		size_t n = strlen(stat_names[i].name);
		if (len <= n + 2 || strncmp(line, stat_names[i].name, n) != 0 || line[n] != ':')
			continue;
		snprintf(value, sizeof(value), "%.*s", (int)min_u64(len - n - 2, sizeof(value) - 1), line + n + 2);
		parse_u64(value, (uint64_t *)((char *)s + stat_names[i].offset), NULL);
	}
}

bool job_stats_read(const char *text, struct job_stats *ret)
{
	struct job_stats s = {0};

	while (*text) {
		size_t len = strcspn(text, "\n");
		read_stat(text, len, &s);
		text += len + (text[len] == '\n');
	}
	if (!s.memory_total_bytes)
		return false;
	*ret = s;
	return true;
}

const char *job_phase(char buf[JOB_PHASE_LEN], const struct job_stats *s)
{
	if (s->iteration)
		snprintf(buf, JOB_PHASE_LEN, "memory, pass %llu", (unsigned long long)s->iteration);
	else
		snprintf(buf, JOB_PHASE_LEN, "%s", s->disk_total_bytes ? "storage" : "starting");
	return buf;
}

double job_share(const struct job_stats *s)
{
	bool disk = !s->iteration;
	uint64_t total = disk ? s->disk_total_bytes : s->memory_total_bytes;
	uint64_t left = disk ? s->disk_remaining_bytes : s->memory_remaining_bytes;

	return total ? (double)sub_sat_u64(total, left) / (double)total : 0;
}

/* ---- a child whose output is kept ---- */

struct child {
	pid_t pid; /* 0: none */
	int pidfd, fd;
	uint64_t began_ms;
	char text[TEXT_MOST + 1];
	size_t n;
	int status;
};

/*
 * What is said to people: its errors are read here, the rest (a question for a password) goes where our own messages
 * go, not into our output. Else its output is read, and nothing is said.
 */
static int child_files(posix_spawn_file_actions_t *actions, int write_fd, bool for_people)
{
	int r = posix_spawn_file_actions_adddup2(actions, for_people ? STDERR_FILENO : write_fd, STDOUT_FILENO);

	if (r || for_people)
		return r ? r : posix_spawn_file_actions_adddup2(actions, write_fd, STDERR_FILENO);
	r = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	return r ? r : posix_spawn_file_actions_addopen(actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
}

static int spawn(struct child *c, const char *const *argv, int write_fd, bool for_people)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t pipe_set, none;
	int r;

	sigemptyset(&none);
	sigemptyset(&pipe_set);
	sigaddset(&pipe_set, SIGPIPE); /* ignored here, not there */
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigdefault(&attr, &pipe_set);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&actions);
	r = child_files(&actions, write_fd, for_people);
	if (r == 0)
		r = posix_spawnp(&c->pid, argv[0], &actions, &attr, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return -r;
}

static void child_end(struct child *c)
{
	if (c->pidfd >= 0)
		close(c->pidfd);
	if (c->fd >= 0)
		close(c->fd);
	c->pidfd = c->fd = -1;
	c->pid = 0;
}

static int child_start(struct child *c, const char *const *argv, bool for_people)
{
	int fds[2], r;

	*c = (struct child){.pidfd = -1, .fd = -1, .began_ms = now_ms()};
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	r = spawn(c, argv, fds[1], for_people);
	close(fds[1]);
	c->fd = fds[0];
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	if (r == 0)
		c->pidfd = pidfd_open(c->pid, 0);
	if (r == 0 && c->pidfd < 0) {
		r = -errno;
		kill(c->pid, SIGKILL);
		waitpid(c->pid, NULL, 0);
	}
	if (r < 0)
		child_end(c);
	return r;
}

/* What there is to read now; what is too much is dropped. */
static void child_read(struct child *c)
{
	char more[4096];
	ssize_t n;

	while (c->fd >= 0 && (n = read(c->fd, more, sizeof(more))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return;
		size_t keep = min_u64((size_t)n, TEXT_MOST - c->n);
		memcpy(c->text + c->n, more, keep);
		c->n += keep;
		c->text[c->n] = '\0';
	}
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

/* True: it has ended, and all that it said is in text. */
static bool child_ended(struct child *c)
{
	if (!c->pid || waitpid(c->pid, &c->status, WNOHANG) != c->pid)
		return false;
	child_read(c);
	child_end(c);
	return true;
}

static void child_kill(struct child *c)
{
	if (!c->pid)
		return;
	kill(c->pid, SIGKILL);
	waitpid(c->pid, &c->status, 0);
	child_end(c);
}

/* ---- the job's figures ---- */

static int ask_stats(struct child *c, const char *uri, const char *vm, bool completed)
{
	const char *argv[] = {
		"virsh", "-q", "-c", uri, "domjobinfo", "--domain", vm, "--rawstats", completed ? "--completed" : NULL,
		NULL};

	return child_start(c, argv, false);
}

static bool wait_stats(struct child *c, struct job_stats *ret)
{
	struct pollfd p[] = {{.fd = c->pidfd, .events = POLLIN}};

	poll(p, 1, STATS_LIMIT_MS);
	if (!child_ended(c)) {
		child_kill(c);
		return false;
	}
	return job_stats_read(c->text, ret);
}

void migration_final_stats(struct migration *m, const char *name_there)
{
	struct child c;

	if (ask_stats(&c, m->uri, m->vm, true) == 0 && wait_stats(&c, &m->stats))
		return;
	if (ask_stats(&c, m->desturi, name_there, true) == 0)
		wait_stats(&c, &m->stats);
}

/* ---- the migration ---- */

struct run {
	struct migration *m;
	struct child virsh, stats, abort;
	int signal_fd;
	unsigned signals;
	uint64_t stats_due_ms, renew_due_ms, abort_due_ms;
};

static int watch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* A third one ends virsh without more ado; libvirt then gives the migration up, but not at once. */
static void take_signals(struct run *r)
{
	struct signalfd_siginfo info;

	while (read(r->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		r->m->cancelled = true;
		if (++r->signals > 2 && r->virsh.pid)
			kill(r->virsh.pid, SIGTERM);
	}
}

/*
 * virsh 9.0 takes Ctrl-C from its terminal, as a character, and does nothing on SIGINT. So the job is aborted by
 * another one; until virsh has ended, because there may be no job yet.
 */
static void tend_abort(struct run *r)
{
	const char *argv[] = {"virsh", "-q", "-c", r->m->uri, "domjobabort", "--domain", r->m->vm, NULL};
	uint64_t now = now_ms();

	if (r->abort.pid && !child_ended(&r->abort) && now - r->abort.began_ms > STATS_LIMIT_MS)
		child_kill(&r->abort);
	if (!r->m->cancelled || r->abort.pid || now < r->abort_due_ms)
		return;
	r->abort_due_ms = now + ABORT_EVERY_MS;
	child_start(&r->abort, argv, false);
}

static void tend_stats(struct run *r)
{
	uint64_t now = now_ms();

	if (child_ended(&r->stats)) {
		job_stats_read(r->stats.text, &r->m->stats);
		r->m->progress(r->m->user, &r->m->stats);
		r->stats_due_ms = now + STATS_EVERY_MS;
	} else if (r->stats.pid && now - r->stats.began_ms > STATS_LIMIT_MS) {
		child_kill(&r->stats);
		r->stats_due_ms = now + STATS_EVERY_MS;
	}
	if (!r->stats.pid && now >= r->stats_due_ms) {
		r->stats_due_ms = now + STATS_EVERY_MS;
		ask_stats(&r->stats, r->m->uri, r->m->vm, false);
	}
	if (now >= r->renew_due_ms) {
		r->renew_due_ms = now + RENEW_EVERY_MS;
		r->m->renew(r->m->user);
	}
}

static void wait_some(struct run *r)
{
	struct pollfd p[] = {
		{.fd = r->signal_fd, .events = POLLIN}, {.fd = r->virsh.pidfd, .events = POLLIN},
		{.fd = r->virsh.fd, .events = POLLIN},	{.fd = r->stats.pidfd, .events = POLLIN},
		{.fd = r->stats.fd, .events = POLLIN},	{.fd = r->abort.pidfd, .events = POLLIN},
	};
	uint64_t now = now_ms(), wait_ms = r->stats.pid ? STATS_EVERY_MS : sub_sat_u64(r->stats_due_ms, now);

	poll(p, ARRAY_SIZE(p), (int)min_u64(max_u64(wait_ms, 1), STATS_EVERY_MS));
	child_read(&r->virsh);
	child_read(&r->stats);
}

/*
 * virsh's first "error: …" says most; else its first line. What a hook of ours said at the destination libvirt gives at
 * the end of a long line of its own.
 */
static void take_reason(struct migration *m, const struct child *virsh)
{
	static const char *const marks[] = {"memoc-hook: ", "error: "};
	const char *from = virsh->text + strspn(virsh->text, "\n");
	size_t len;

	for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
		const char *at = strstr(virsh->text, marks[i]);
		if (!at)
			continue;
		from = at + strlen(marks[i]);
		break;
	}
	len = strcspn(from, "\n");
	snprintf(m->why, sizeof(m->why), "%.*s", (int)min_u64(len, sizeof(m->why) - 1), from);
	if (!m->why[0] && WIFSIGNALED(virsh->status))
		snprintf(m->why, sizeof(m->why), "virsh was ended by signal %d", WTERMSIG(virsh->status));
	text_make_printable(m->why);
}

static int start_virsh(struct run *r)
{
	const struct migration *m = r->m;
	const char *const first[] = {"virsh",	 "-q",	"-c",	     m->uri,	"migrate",
				     "--domain", m->vm, "--desturi", m->desturi};
	size_t n = 0;

	while (m->words[n])
		n++;
	const char **argv AUTO_FREE = calloc(ARRAY_SIZE(first) + n + 1, sizeof(*argv));
	if (!argv)
		return -ENOMEM;
	memcpy(argv, first, sizeof(first));
	for (size_t i = 0, at = ARRAY_SIZE(first); i < n; i++)
		if (strcmp(m->words[i], "--verbose") != 0) /* its own bar would run through ours */
			argv[at++] = m->words[i];
	return child_start(&r->virsh, argv, true);
}

int migration_run(struct migration *m)
{
	struct run *r AUTO_FREE = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	*r = (struct run){.m = m,
			  .stats = {.pidfd = -1, .fd = -1},
			  .abort = {.pidfd = -1, .fd = -1},
			  .renew_due_ms = now_ms() + RENEW_EVERY_MS};
	r->signal_fd = watch_signals();
	int code = r->signal_fd < 0 ? r->signal_fd : start_virsh(r);
	while (code == 0 && !child_ended(&r->virsh)) {
		tend_stats(r);
		wait_some(r);
		take_signals(r);
		tend_abort(r);
	}
	child_kill(&r->stats);
	child_kill(&r->abort);
	if (r->signal_fd >= 0)
		close(r->signal_fd);
	if (code < 0)
		return code;
	m->migrated = WIFEXITED(r->virsh.status) && WEXITSTATUS(r->virsh.status) == 0;
	if (!m->migrated)
		take_reason(m, &r->virsh);
	return 0;
}
