/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* replay: what memocd recorded, through the same core again; needs no memocd. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "controller/cli/commands.h"
#include "controller/record/record.h"
#include "common/parse.h"

#define FLUSH_LINES 500 /* a recording may hold millions of decisions: they are not all kept in memory */
#define NOTES_MAX 50

struct replaying {
	struct cli *cli;
	bool explain;
	size_t lines;		     /* since the last flush */
	bool told;		     /* the difference, by the step hook */
	struct memoc_err difference; /* one line of it */
	char *notes[NOTES_MAX];
	size_t n_notes, notes_left_out;
	struct replay *replay;
};

/* ---- decisions ---- */

static void put_sizes(char *buf, size_t len, const struct effect *e)
{
	char from[SIZE_SHORT_LEN], to[SIZE_SHORT_LEN];

	buf[0] = '\0';
	if (e->from_bytes || e->to_bytes)
		snprintf(buf, len, "%s -> %s: ", e->from_bytes == LIMIT_NONE ? "none" : size_short(from, e->from_bytes),
			 e->to_bytes == LIMIT_NONE ? "none" : size_short(to, e->to_bytes));
}

/* As `memoc events` prints them. */
static void decision_line(struct replaying *p, const struct replay_step *s, const struct effect *e)
{
	char time[FORMAT_TIME_LEN], sizes[2 * SIZE_SHORT_LEN + 8];
	const char *vm = e->vm ? replay_vm_name(p->replay, e->vm) : "-";

	put_sizes(sizes, sizeof(sizes), e);
	cli_line(p->cli, "%-24s %-15s %-16s %-17s %s%s", format_rfc3339(time, s->realtime_ms), *vm ? vm : "?",
		 record_name(e->record), e->state ? vm_state_name(e->state) : "-", sizes, e->reason);
}

static void jw_bytes(struct json_writer *w, const char *key, uint64_t bytes)
{
	if (bytes == LIMIT_NONE)
		jw_null(w, key);
	else
		jw_u64(w, key, bytes);
}

static void write_decision(struct json_writer *w, struct replaying *p, const struct replay_step *s,
			   const struct effect *e)
{
	char time[FORMAT_TIME_LEN];

	jw_object(w, NULL);
	jw_str(w, "time", format_rfc3339(time, s->realtime_ms));
	jw_str(w, "vm", e->vm ? replay_vm_name(p->replay, e->vm) : NULL);
	jw_str(w, "uuid", e->vm ? replay_vm_uuid(p->replay, e->vm) : NULL);
	jw_str(w, "event", record_name(e->record));
	jw_str(w, "state", e->state ? vm_state_name(e->state) : NULL);
	jw_bytes(w, "from_bytes", e->from_bytes);
	jw_bytes(w, "to_bytes", e->to_bytes);
	jw_str(w, "reason", e->reason);
	jw_object(w, "details");
	jw_u64(w, "input", s->number);
	jw_str(w, "input_type", event_type_name(s->event->type));
	jw_u64(w, "monotonic_ms", s->event->now_ms);
	jw_end(w);
	jw_end(w);
}

static int decision(struct replaying *p, const struct replay_step *s, const struct effect *e)
{
	int r = CLI_DONE;

	if (p->cli->json) {
		struct json_writer *w = jw_new(false);
		write_decision(w, p, s, e);
		r = cli_put_json(p->cli, w);
	} else {
		decision_line(p, s, e);
	}
	if (r == CLI_DONE && ++p->lines >= FLUSH_LINES) {
		p->lines = 0;
		r = cli_flush(p->cli);
	}
	/* Statuses of the command are positive, as is the replay's "differs": they pass through as an error. */
	return r == CLI_DONE ? 0 : r == -EPIPE ? r : -ECANCELED;
}

/* ---- the difference ---- */

static void effect_text(char *buf, size_t len, struct replaying *p, const struct effect *e)
{
	const char *vm = e->vm ? replay_vm_name(p->replay, e->vm) : "host";
	unsigned long long bytes = e->bytes, from = e->from_bytes, to = e->to_bytes;

	if (e->type == EFFECT_BALLOON)
		snprintf(buf, len, "%s: balloon to %llu bytes, request %u", vm, bytes, e->seq);
	else if (e->type == EFFECT_LIMIT && e->bytes == LIMIT_NONE)
		snprintf(buf, len, "%s: limit opened, request %u", vm, e->seq);
	else if (e->type == EFFECT_LIMIT)
		snprintf(buf, len, "%s: limit to %llu bytes, request %u", vm, bytes, e->seq);
	else if (e->type == EFFECT_FORGET)
		snprintf(buf, len, "%s: forgotten", vm);
	else if (e->type == EFFECT_ADVICE_BEGIN)
		snprintf(buf, len, "%s: memory advice, %llu bytes of swap for zeroes", vm, bytes);
	else if (e->type == EFFECT_ADVICE_FINISH || e->type == EFFECT_ADVICE_STOP)
		snprintf(buf, len, "%s: memory advice to %s", vm, e->type == EFFECT_ADVICE_STOP ? "stop" : "finish");
	else
		snprintf(buf, len, "%s: %s [%s] from %llu to %llu bytes: %s", vm, record_name(e->record),
			 e->state ? vm_state_name(e->state) : "-", from, to, e->reason);
}

static const char *effect_at(char *buf, size_t len, struct replaying *p, const struct effects *list, size_t i)
{
	if (i >= list->n)
		return NULL;
	effect_text(buf, len, p, &list->list[i]);
	return buf;
}

static void difference_json(struct replaying *p, const struct replay_step *s, struct json_writer *w)
{
	const struct effects *const lists[] = {s->recorded, s->out};
	static const char *const names[] = {"recorded", "now"};
	char text[400], time[FORMAT_TIME_LEN];

	jw_u64(w, "input", s->number);
	jw_str(w, "input_type", event_type_name(s->event->type));
	jw_str(w, "time", format_rfc3339(time, s->realtime_ms));
	jw_u64(w, "monotonic_ms", s->event->now_ms);
	jw_str(w, "vm", s->event->vm ? s->vm : NULL);
	jw_i64(w, "recorded_code", s->recorded_code);
	jw_i64(w, "now_code", s->code);
	for (size_t which = 0; which < ARRAY_SIZE(lists); which++) {
		jw_array(w, names[which]);
		for (size_t i = 0; i < lists[which]->n; i++)
			jw_str(w, NULL, effect_at(text, sizeof(text), p, lists[which], i));
		jw_end(w);
	}
}

/* Lines with '-' were recorded, those with '+' came out now; the others are the same. */
static void difference_lines(struct replaying *p, const struct replay_step *s)
{
	char was[400], now[400];

	if (s->recorded_code != s->code)
		cli_line(p->cli, "  - the event was %s", s->recorded_code ? strerror(-s->recorded_code) : "taken");
	if (s->recorded_code != s->code)
		cli_line(p->cli, "  + the event is %s", s->code ? strerror(-s->code) : "taken");
	if (!s->recorded->n && !s->out->n)
		return;
	for (size_t i = 0; i < s->recorded->n || i < s->out->n; i++) {
		const char *a = effect_at(was, sizeof(was), p, s->recorded, i);
		const char *b = effect_at(now, sizeof(now), p, s->out, i);
		if (a && b && !strcmp(a, b)) {
			cli_line(p->cli, "    %s", a);
			continue;
		}
		if (a)
			cli_line(p->cli, "  - %s", a);
		if (b)
			cli_line(p->cli, "  + %s", b);
	}
}

static int tell_difference(struct replaying *p, const struct replay_step *s)
{
	char time[FORMAT_TIME_LEN];

	p->told = true;
	memoc_err_set(&p->difference, 1, "event %llu (%s%s%s, %s) does not do what was recorded",
		      (unsigned long long)s->number, event_type_name(s->event->type), s->event->vm ? " of " : "",
		      s->event->vm ? s->vm : "", format_rfc3339(time, s->realtime_ms));
	if (p->cli->json) {
		struct json_writer *w = jw_new(false);
		jw_object(w, NULL);
		jw_object(w, "difference");
		difference_json(p, s, w);
		jw_end(w);
		jw_end(w);
		return cli_put_json(p->cli, w) == CLI_DONE ? 0 : -ECANCELED;
	}
	cli_line(p->cli, "%s: - was recorded, + is now", p->difference.text);
	difference_lines(p, s);
	return 0;
}

/* ---- running ---- */

static int on_step(void *user, const struct replay *replay, const struct replay_step *s)
{
	struct replaying *p = user;
	int r = 0;

	for (size_t i = 0; p->explain && r == 0 && i < s->out->n; i++)
		if (s->out->list[i].type == EFFECT_RECORD)
			r = decision(p, s, &s->out->list[i]);
	return r == 0 && s->differs ? tell_difference(p, s) : r;
}

static void on_note(void *user, const char *text)
{
	struct replaying *p = user;
	char *copy = p->n_notes < NOTES_MAX ? strdup(text) : NULL;

	if (copy)
		p->notes[p->n_notes++] = copy;
	else
		p->notes_left_out++;
}

/* The result of a run that went through: 0, 1 or −errno, as replay_file. */
static int replay_segment(struct replaying *p, const char *path, struct memoc_err *err)
{
	FILE *f = fopen(path, "re");
	int r;

	if (!f)
		return memoc_err_set(err, -errno, "%s: cannot be read: %s", path, strerror(errno));
	r = replay_file(p->replay, f, path, err);
	fclose(f);
	return r;
}

static int replay_directory(struct replaying *p, const char *dir, struct memoc_err *err)
{
	uint64_t *numbers AUTO_FREE = NULL;
	char path[4096 + RECORD_SEGMENT_NAME_LEN + 2], name[RECORD_SEGMENT_NAME_LEN];
	size_t n = 0;
	int r = record_store_list(dir, &numbers, &n);

	if (r < 0)
		return memoc_err_set(err, r, "%s: cannot be read: %s", dir, strerror(-r));
	if (n == 0)
		return memoc_err_set(err, -ENOENT,
				     "%s: there is no recording in it: give memocd's STATE_DIR/record, and see [log] "
				     "record in its configuration",
				     dir);
	for (size_t i = 0; i < n && r == 0; i++) {
		if (strlen(dir) >= 4096)
			return memoc_err_set(err, -ENAMETOOLONG, "%.100s…: the path is too long", dir);
		snprintf(path, sizeof(path), "%s/%s", dir, record_segment_name(name, numbers[i]));
		r = replay_segment(p, path, err);
		if (r == -ENOENT && replay_totals(p->replay)->segments == 0)
			r = 0; /* memocd runs, and has just taken the oldest away */
	}
	return r;
}

static int replay_path(struct replaying *p, const char *path, struct memoc_err *err)
{
	struct stat st;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return replay_directory(p, path, err);
	return replay_segment(p, path, err);
}

/* ---- the outcome ---- */

static void summary_json(struct replaying *p, const struct memoc_err *err)
{
	const struct replay_totals *t = replay_totals(p->replay);
	struct json_writer *w = jw_new(false);
	char from[FORMAT_TIME_LEN], to[FORMAT_TIME_LEN];

	jw_object(w, NULL);
	jw_bool(w, "same", !t->differs);
	jw_u64(w, "inputs", t->events);
	jw_u64(w, "effects", t->effects);
	jw_u64(w, "segments", t->segments);
	jw_u64(w, "restarts", t->restarts);
	jw_u64(w, "inputs_missing", t->lost);
	jw_str(w, "from", format_rfc3339(from, t->from_ms));
	jw_str(w, "to", format_rfc3339(to, t->to_ms));
	jw_str(w, "differs", t->differs ? err->text : NULL);
	jw_array(w, "notes");
	for (size_t i = 0; i < p->n_notes; i++)
		jw_str(w, NULL, p->notes[i]);
	jw_end(w);
	jw_end(w);
	cli_put_json(p->cli, w);
}

static void summary_lines(struct replaying *p)
{
	const struct replay_totals *t = replay_totals(p->replay);
	char from[FORMAT_TIME_LEN], to[FORMAT_TIME_LEN];

	for (size_t i = 0; i < p->n_notes; i++)
		cli_line(p->cli, "note: %s", p->notes[i]);
	if (p->notes_left_out)
		cli_line(p->cli, "note: and %zu more of these", p->notes_left_out);
	cli_line(p->cli, "%llu event%s from %s to %s, %llu effect%s%s", (unsigned long long)t->events,
		 t->events == 1 ? "" : "s", format_rfc3339(from, t->from_ms), format_rfc3339(to, t->to_ms),
		 (unsigned long long)t->effects, t->effects == 1 ? "" : "s", t->differs ? "" : ": all as recorded");
}

static int finish(struct replaying *p, int r, const struct memoc_err *err)
{
	const struct memoc_err *why = p->told ? &p->difference : err;
	int flushed;

	if (r == -EPIPE)
		return r;
	if (r == -ECANCELED)
		return CLI_FAILED; /* said already */
	if (r == 0 && replay_totals(p->replay)->segments == 0)
		return cli_fail(p->cli, CLI_FAILED, "there is nothing in it to replay: memocd has just begun it");
	if (r < 0)
		return cli_fail(p->cli, CLI_FAILED, "%s", err->text);
	if (p->cli->json)
		summary_json(p, why);
	else
		summary_lines(p);
	if (r == 0)
		return CLI_DONE;
	flushed = cli_flush(p->cli);
	return flushed == CLI_DONE ? cli_fail(p->cli, CLI_FAILED, "%s", why->text) : flushed;
}

static int run_replay(struct cli *cli)
{
	struct replaying p = {.cli = cli, .explain = cli_opt(cli, "explain")};
	const struct replay_hooks hooks = {.step = on_step, .note = on_note, .user = &p};
	struct memoc_err err = {0};
	int r = replay_new(&hooks, &p.replay);

	if (r < 0)
		return cli_fail(cli, CLI_FAILED, "cannot replay: %s", strerror(-r));
	for (size_t i = 0; r == 0 && i < cli->n_args; i++)
		r = replay_path(&p, cli->args[i], &err);
	r = finish(&p, r, &err);
	for (size_t i = 0; i < p.n_notes; i++)
		free(p.notes[i]);
	replay_free(p.replay);
	return r;
}

static const struct cli_option replay_options[] = {
	{"explain", 0, NULL, "print each decision with its reason, as \"memoc events\" does", WORDS_NONE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};
static const struct cli_arg replay_args[] = {
	{"FILE", WORDS_FILE, false, true},
	{NULL, WORDS_NONE, false, false},
};
static const struct cli_example replay_examples[] = {
	{"memoc replay /var/lib/memoc/record", "whether this memoc decides as memocd did"},
	{"memoc replay --explain /var/lib/memoc/record | grep web1", "what was done to web1, and why"},
	{"memoc replay --json --explain segment-00000042 | jq .reason", "one object a line; the last is the summary"},
	{NULL, NULL},
};
const struct cli_command command_replay = {
	.name = "replay",
	.summary = "run what memocd recorded through its decisions again",
	.description =
		"memocd records every input of its decisions, with the time, and what came of it ([log] record, in\n"
		"STATE_DIR/record). This runs the same inputs through the same code again; every effect must be the\n"
		"same, byte for byte. The first that is not is shown: event, time, VM, what was recorded and what\n"
		"comes out now. FILE is a segment of a recording, or the directory of all. Needs no running memocd.",
	.options = replay_options,
	.args = replay_args,
	.examples = replay_examples,
	.failure = "it failed, or a decision is not as it was recorded",
	.run = run_replay,
};
