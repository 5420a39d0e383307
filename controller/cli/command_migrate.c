/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memoc migrate: a VM is made as small as its guest can be made for nothing, then virsh migrates it. What libvirt
 * refuses or what is cancelled leaves it here, and memocd gives it its size back.
 */
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "controller/cli/commands.h"
#include "controller/cli/migrate.h"
#include "common/clock.h"
#include "common/parse.h"

#define PREPARE_MS 30000 /* a balloon that has not given it by then is not waited for */
#define RENEW_MS 1000	 /* not to hold up a Ctrl-C */

struct view {
	struct cli *cli;
	const char *vm;
	bool bar; /* stderr is a terminal: one line that is written over */
	unsigned width;
	char last[64]; /* plain lines: where it was when one was written */
	uint64_t began_ms, prepared_ms;
	/* memocd's answer */
	uint64_t from_bytes, to_bytes, from_swapped_bytes, to_swapped_bytes, max_bytes;
	const char *why_not, *uri; /* in the answer */
};

/* ---- progress: a bar on stderr, or lines of output; a reader that has left does not end a migration ---- */

#define BAR_WIDTH 16

static unsigned stderr_width(void)
{
	struct winsize ws;

	return ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col ? ws.ws_col : 80;
}

/* What left the swap while the balloon took memory: some of it the guest read back itself, so not more than was taken.
 */
static uint64_t avoided_bytes(const struct view *v)
{
	return min_u64(sub_sat_u64(v->from_swapped_bytes, v->to_swapped_bytes),
		       sub_sat_u64(v->from_bytes, v->to_bytes));
}

static void draw_bar(const struct view *v, const char *phase, double share, const char *figures)
{
	char bar[BAR_WIDTH + 1], line[256];
	size_t full = (size_t)(share * BAR_WIDTH);

	memset(bar, '-', BAR_WIDTH);
	memset(bar, '#', min_u64(full, BAR_WIDTH));
	bar[BAR_WIDTH] = '\0';
	snprintf(line, sizeof(line), "%s: %-15s [%s] %3.0f %%  %s", v->vm, phase, bar, share * 100, figures);
	fprintf(stderr, "\r%-*.*s", (int)v->width - 1, (int)v->width - 1, line);
}

static void draw_line(struct view *v, const char *phase, double share, const char *figures)
{
	char now[sizeof(v->last)];

	snprintf(now, sizeof(now), "%s %d", phase, (int)(share * 4));
	if (v->cli->json || !strcmp(now, v->last))
		return;
	memcpy(v->last, now, sizeof(now));
	cli_line(v->cli, "%s: %s, %.0f %%, %s", v->vm, phase, share * 100, figures);
	cli_flush(v->cli);
}

static void show_progress(void *user, const struct job_stats *s)
{
	struct view *v = user;
	char phase[JOB_PHASE_LEN], figures[128], sent[SIZE_SHORT_LEN], total[SIZE_SHORT_LEN], per_s[SIZE_SHORT_LEN];
	char avoided[SIZE_SHORT_LEN];
	uint64_t kept = avoided_bytes(v);
	int n = snprintf(figures, sizeof(figures), "%s of %s sent, %s/s", size_short(sent, s->memory_processed_bytes),
			 size_short(total, s->memory_total_bytes), size_short(per_s, s->memory_bytes_per_s));

	if (kept)
		snprintf(figures + n, sizeof(figures) - (size_t)n, ", %s of swap unread", size_short(avoided, kept));
	job_phase(phase, s);
	if (v->bar)
		draw_bar(v, phase, job_share(s), figures);
	else
		draw_line(v, phase, job_share(s), figures);
}

static void end_progress(const struct view *v)
{
	if (v->bar)
		fprintf(stderr, "\r%*s\r", (int)v->width - 1, "");
}

/* ---- memocd ---- */

static bool read_prepared(const struct json *p, struct view *v)
{
	v->why_not = NULL;
	json_get_str(p, "why_not", &v->why_not);
	return json_get_u64(p, "from_bytes", &v->from_bytes) == 0 && json_get_u64(p, "to_bytes", &v->to_bytes) == 0 &&
	       json_get_u64(p, "from_swapped_bytes", &v->from_swapped_bytes) == 0 &&
	       json_get_u64(p, "to_swapped_bytes", &v->to_swapped_bytes) == 0 &&
	       json_get_u64(p, "max_bytes", &v->max_bytes) == 0 && json_get_str(p, "connect_uri", &v->uri) == 0;
}

static void tell_prepared(const struct view *v)
{
	char from[SIZE_SHORT_LEN], to[SIZE_SHORT_LEN];

	if (v->cli->json)
		return;
	if (v->why_not)
		cli_line(v->cli, "%s: sent as it is, %s: %s", v->vm, size_short(from, v->from_bytes), v->why_not);
	else
		cli_line(v->cli, "%s: %s -> %s by its balloon", v->vm, size_short(from, v->from_bytes),
			 size_short(to, v->to_bytes));
	cli_flush(v->cli);
}

static int prepare(struct view *v, struct varlink_reply *reply)
{
	struct json_writer *params = call_params_vm(v->vm);
	int r;

	jw_u64(params, "timeout_ms", PREPARE_MS);
	if (v->bar)
		fprintf(stderr, "\r%s: its balloon takes what it does not need", v->vm);
	r = call_waiting(v->cli, "PrepareMigration", params, PREPARE_MS, reply);
	end_progress(v);
	if (r == CLI_DONE && !read_prepared(reply->parameters, v))
		r = call_bad_answer(v->cli, "PrepareMigration", "sizes");
	if (r == CLI_DONE)
		tell_prepared(v);
	v->prepared_ms = now_ms();
	return r;
}

static bool quiet_call_once(struct cli *cli, const char *method, const char *vm)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	struct json_writer *params = call_params_vm(vm);
	int timeout_ms = cli->timeout_ms, r;

	jw_u64(params, "timeout_ms", 0);
	cli->quiet = true;
	cli->timeout_ms = RENEW_MS;
	r = call_controller(cli, method, params, &reply);
	cli->timeout_ms = timeout_ms;
	cli->quiet = false;
	if (r != CLI_DONE) /* a late answer would be taken for that to the next call */
		cli->client = varlink_client_free(cli->client);
	return r == CLI_DONE;
}

/*
 * A call on the side: a memocd that does not answer must not stop a migration. Once more where the connection was of
 * before, as memocd may have been restarted since. False: it did not do it.
 */
static bool quiet_call(struct cli *cli, const char *method, const char *vm)
{
	bool old = cli->client != NULL;

	return quiet_call_once(cli, method, vm) || (old && quiet_call_once(cli, method, vm));
}

static void renew(void *user)
{
	struct view *v = user;

	quiet_call(v->cli, "PrepareMigration", v->vm);
}

/* ---- the end ---- */

static int fail_migration(struct view *v, const struct migration *m)
{
	bool stays = quiet_call(v->cli, "AbandonMigration", v->vm);

	return cli_fail(v->cli, CLI_FAILED, "%s was not migrated: %s%s%s; %s", v->vm,
			m->cancelled ? "cancelled" : m->why, m->cancelled && m->why[0] ? ": " : "",
			m->cancelled ? m->why : "",
			stays ? "it goes on here and gets its size back; see libvirt's log at the destination, or "
				"\"memoc events\""
			      : "memocd does not know it any more: see \"virsh list --all\" here and there");
}

static int put_json(const struct view *v, const struct migration *m)
{
	const struct job_stats *s = &m->stats;
	struct json_writer *w = jw_new(true);

	jw_object(w, NULL);
	jw_str(w, "vm", v->vm);
	jw_str(w, "desturi", m->desturi);
	jw_bool(w, "migrated", true);
	jw_u64(w, "max_bytes", v->max_bytes);
	jw_u64(w, "from_bytes", v->from_bytes);
	jw_u64(w, "to_bytes", v->to_bytes);
	jw_str(w, "why_not_smaller", v->why_not);
	jw_u64(w, "swap_in_avoided_bytes", avoided_bytes(v));
	jw_u64(w, "sent_bytes", s->memory_processed_bytes);
	jw_u64(w, "passes", s->iteration);
	jw_u64(w, "prepare_ms", v->prepared_ms - v->began_ms);
	jw_u64(w, "total_ms", now_ms() - v->began_ms);
	jw_u64(w, "downtime_ms", s->downtime_ms);
	jw_end(w);
	return cli_put_json(v->cli, w);
}

static int put_text(const struct view *v, const struct migration *m)
{
	const struct job_stats *s = &m->stats;
	char sent[SIZE_SHORT_LEN], max[SIZE_SHORT_LEN], avoided[SIZE_SHORT_LEN];

	cli_line(v->cli, "%s: migrated to %s in %.1f s, %.1f s of it for its balloon: %s of %s sent, down for %llu ms",
		 v->vm, m->desturi, (double)(now_ms() - v->began_ms) / 1000,
		 (double)(v->prepared_ms - v->began_ms) / 1000, size_short(sent, s->memory_processed_bytes),
		 size_short(max, v->max_bytes), (unsigned long long)s->downtime_ms);
	if (avoided_bytes(v))
		cli_line(v->cli, "%s: %s that were swapped out were not read back to be sent", v->vm,
			 size_short(avoided, avoided_bytes(v)));
	return CLI_DONE;
}

static int migrate(struct view *v, struct migration *m)
{
	const char *dname = cli_opt(v->cli, "dname");
	int r = migration_run(m);

	end_progress(v);
	if (r < 0) {
		quiet_call(v->cli, "AbandonMigration", v->vm);
		return cli_fail(v->cli, CLI_FAILED, "cannot run virsh: %s; install libvirt's client programs",
				strerror(-r));
	}
	if (!m->migrated)
		return fail_migration(v, m);
	migration_final_stats(m, dname ? dname : v->vm);
	return v->cli->json ? put_json(v, m) : put_text(v, m);
}

static int run_migrate(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	struct view v = {.cli = cli,
			 .vm = cli_arg(cli, 0),
			 .bar = isatty(STDERR_FILENO),
			 .width = stderr_width(),
			 .began_ms = now_ms()};
	struct migration m = {.vm = v.vm,
			      .desturi = cli_arg(cli, 1),
			      .words = cli->passed,
			      .progress = show_progress,
			      .renew = renew,
			      .user = &v};

	if (cli_opt(cli, "offline") || cli_opt(cli, "postcopy-resume"))
		return cli_usage(cli, "migrate: there is no memory to spare with --%s: use virsh migrate",
				 cli_opt(cli, "offline") ? "offline" : "postcopy-resume");
	int r = prepare(&v, &reply);
	if (r != CLI_DONE)
		return r;
	m.uri = v.uri;
	return migrate(&v, &m);
}

/* virsh 9.0's, in its order; newer ones can be given after "--". */
static const struct cli_option migrate_options[] = {
	{"live", 0, NULL, "the guest runs on while it is sent", WORDS_NONE},
	{"offline", 0, NULL, "not here: no memory is sent", WORDS_NONE},
	{"p2p", 0, NULL, "libvirt here talks to libvirt there", WORDS_NONE},
	{"direct", 0, NULL, "the hypervisors alone talk", WORDS_NONE},
	{"tunnelled", 0, NULL, "through libvirt's own connection", WORDS_NONE},
	{"persistent", 0, NULL, "define it there", WORDS_NONE},
	{"undefinesource", 0, NULL, "undefine it here", WORDS_NONE},
	{"suspend", 0, NULL, "leave it paused there", WORDS_NONE},
	{"copy-storage-all", 0, NULL, "its disks too, all of them", WORDS_NONE},
	{"copy-storage-inc", 0, NULL, "its disks too, what differs from a shared base", WORDS_NONE},
	{"copy-storage-synchronous-writes", 0, NULL, "what it writes goes to both disks at once", WORDS_NONE},
	{"change-protection", 0, NULL, "no changes of its configuration meanwhile", WORDS_NONE},
	{"unsafe", 0, NULL, "even where libvirt holds it for unsafe", WORDS_NONE},
	{"verbose", 0, NULL, "nothing: progress is shown anyway", WORDS_NONE},
	{"compressed", 0, NULL, "compress what is sent again", WORDS_NONE},
	{"auto-converge", 0, NULL, "slow the guest down until it can be sent", WORDS_NONE},
	{"rdma-pin-all", 0, NULL, "RDMA: pin all memory first", WORDS_NONE},
	{"abort-on-error", 0, NULL, "end on soft errors", WORDS_NONE},
	{"postcopy", 0, NULL, "allow to switch to post-copy", WORDS_NONE},
	{"postcopy-after-precopy", 0, NULL, "switch to it after one pass", WORDS_NONE},
	{"postcopy-resume", 0, NULL, "not here: use virsh migrate", WORDS_NONE},
	{"zerocopy", 0, NULL, "send without copying", WORDS_NONE},
	{"migrateuri", 0, "URI", "where its memory is sent to", WORDS_NONE},
	{"graphicsuri", 0, "URI", "where its display will be", WORDS_NONE},
	{"listen-address", 0, "ADDRESS", "on which the destination listens", WORDS_NONE},
	{"dname", 0, "NAME", "its name there", WORDS_NONE},
	{"timeout", 0, "SECONDS", "then suspend it, or what the two below say", WORDS_NONE},
	{"timeout-suspend", 0, NULL, "suspend it after --timeout", WORDS_NONE},
	{"timeout-postcopy", 0, NULL, "switch to post-copy after --timeout", WORDS_NONE},
	{"xml", 0, "FILE", "its definition there", WORDS_FILE},
	{"migrate-disks", 0, "DISK,DISK", "only these", WORDS_NONE},
	{"disks-port", 0, "PORT", "for disks", WORDS_NONE},
	{"disks-uri", 0, "URI", "for disks", WORDS_NONE},
	{"comp-methods", 0, "NAMES", "of compression", WORDS_NONE},
	{"comp-mt-level", 0, "N", "level of multithread compression", WORDS_NONE},
	{"comp-mt-threads", 0, "N", "its threads", WORDS_NONE},
	{"comp-mt-dthreads", 0, "N", "its threads there", WORDS_NONE},
	{"comp-xbzrle-cache", 0, "BYTES", "cache of xbzrle compression", WORDS_NONE},
	{"auto-converge-initial", 0, "PERCENT", "by which it is slowed down first", WORDS_NONE},
	{"auto-converge-increment", 0, "PERCENT", "and then each time", WORDS_NONE},
	{"persistent-xml", 0, "FILE", "its persistent definition there", WORDS_FILE},
	{"tls", 0, NULL, "encrypt what is sent", WORDS_NONE},
	{"postcopy-bandwidth", 0, "MIB", "MiB/s in post-copy", WORDS_NONE},
	{"parallel", 0, NULL, "over several connections", WORDS_NONE},
	{"parallel-connections", 0, "N", "so many", WORDS_NONE},
	{"bandwidth", 0, "MIB", "MiB/s at most", WORDS_NONE},
	{"tls-destination", 0, "NAME", "the name in the destination's certificate", WORDS_NONE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};
static const struct cli_arg migrate_args[] = {
	{"VM", WORDS_VM, false, false},
	{"DESTURI", WORDS_NONE, false, false},
	{NULL, WORDS_NONE, false, false},
};
static const struct cli_example migrate_examples[] = {
	{"memoc migrate web1 qemu+ssh://host2/system --live", "and see how far it is"},
	{"memoc migrate web1 qemu+ssh://host2/system --live --json", "its figures, for programs, when it is done"},
	{NULL, NULL},
};
const struct cli_command command_migrate = {
	.name = "migrate",
	.summary = "migrate a VM, without the memory that it does not need",
	.description =
		"Migrates a running VM (by name or UUID) to the libvirt at DESTURI. Before, its balloon takes what the "
		"guest\n"
		"does not need, so that free and swapped-out memory is not sent; then virsh migrate is run with the "
		"options\n"
		"given, all of which mean the same there (virsh(1)); words after \"--\" are handed on as they are. If "
		"it\n"
		"does not come to it, or is cancelled (Ctrl-C), the VM goes on here and gets its size back. "
		"memoc-migration(7)\n"
		"says what is done and why.",
	.options = migrate_options,
	.args = migrate_args,
	.synopsis = "VM DESTURI [virsh migrate's options]",
	.examples = migrate_examples,
	.failure = "it was not migrated: one line on stderr says why",
	.run = run_migrate,
	.passes_on = true,
};
