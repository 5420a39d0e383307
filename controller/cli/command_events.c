/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* events: the journal of decisions and of VMs' lives. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

#include "controller/cli/commands.h"
#include "common/parse.h"

/* How often to look whether the reader of a pipe is still there while nothing happens. */
#define READER_CHECK_MS 1000

/* "2G -> 1.5G: ", or nothing where the event is about no size. */
static void put_sizes(char *buf, size_t len, const struct json *e)
{
	char from[SIZE_SHORT_LEN], to[SIZE_SHORT_LEN];
	uint64_t from_bytes = 0, to_bytes = 0;

	json_get_u64(e, "from_bytes", &from_bytes);
	json_get_u64(e, "to_bytes", &to_bytes);
	buf[0] = '\0';
	if (from_bytes || to_bytes)
		snprintf(buf, len, "%s -> %s: ", size_short_json(from, json_get(e, "from_bytes"), "none"),
			 size_short_json(to, json_get(e, "to_bytes"), "none"));
}

static void event_line(struct cli *cli, const struct json *e)
{
	char sizes[2 * SIZE_SHORT_LEN + 8];

	put_sizes(sizes, sizeof(sizes), e);
	cli_line(cli, "%-24s %-15s %-16s %-17s %s%s", text_member(e, "time"), text_member(e, "vm"),
		 text_member(e, "event"), text_member(e, "state"), sizes, text_member(e, "reason"));
}

static int event_json(struct cli *cli, const struct json *e)
{
	struct json_writer *w = jw_new(false);

	jw_object(w, NULL);
	fields_write(w, e, fields_event);
	if (!json_get(e, "details")) {
		jw_object(w, "details");
		jw_end(w);
	}
	jw_end(w);
	return cli_put_json(cli, w);
}

static int put_events(struct cli *cli, const struct varlink_reply *reply)
{
	const struct json *events;
	int r = array_member(cli, reply, "Events", "events", &events);

	for (size_t i = 0; r == CLI_DONE && i < json_len(events); i++) {
		if (json_type(json_at(events, i)) != JSON_OBJECT)
			r = call_bad_answer(cli, "Events", "events");
		else if (cli->json)
			r = event_json(cli, json_at(events, i));
		else
			event_line(cli, json_at(events, i));
	}
	return r;
}

/* Whole lines are out at any time (see follow): nothing to tidy. */
static void on_signal(int signo)
{
	_exit(CLI_DONE);
}

/* SIGINT and SIGTERM are let in only while we wait, so that they never cut a line. */
static void wait_signals(sigset_t *ret_set)
{
	struct sigaction end = {.sa_handler = on_signal};

	sigemptyset(ret_set);
	sigaddset(ret_set, SIGINT);
	sigaddset(ret_set, SIGTERM);
	sigprocmask(SIG_BLOCK, ret_set, NULL);
	sigaction(SIGINT, &end, NULL);
	sigaction(SIGTERM, &end, NULL);
}

static bool is_pipe(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

static bool reader_gone(void)
{
	struct pollfd p = {.fd = STDOUT_FILENO};

	return poll(&p, 1, 0) > 0 && p.revents & (POLLERR | POLLHUP | POLLNVAL);
}

static int next_events(struct cli *cli, bool watch_reader, const sigset_t *signals, struct varlink_reply *ret)
{
	int r;

	do {
		sigprocmask(SIG_UNBLOCK, signals, NULL);
		r = call_next(cli, "Events", watch_reader ? READER_CHECK_MS : -1, ret);
		sigprocmask(SIG_BLOCK, signals, NULL);
		if (r == -ETIMEDOUT && reader_gone())
			return -EPIPE;
	} while (r == -ETIMEDOUT);
	return r;
}

static int follow(struct cli *cli, struct json_writer *params)
{
	bool watch_reader = is_pipe(STDOUT_FILENO), more = true;
	sigset_t signals;
	int r;

	wait_signals(&signals);
	r = call_more(cli, "Events", params);
	while (r == CLI_DONE && more) {
		struct varlink_reply reply AUTO_REPLY = {0};
		r = next_events(cli, watch_reader, &signals, &reply);
		more = reply.continues;
		if (r == CLI_DONE)
			r = put_events(cli, &reply);
		if (r == CLI_DONE)
			r = cli_flush(cli);
	}
	return r;
}

static int run_events(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	const char *limit_text = cli_opt(cli, "limit");
	struct memoc_err err = {0};
	struct json_writer *params;
	uint64_t limit = 0;
	int r;

	if (limit_text && (parse_u64(limit_text, &limit, &err) < 0 || limit > INT32_MAX))
		return cli_usage(cli, "--limit: %s", err.text[0] ? err.text : "more events than memocd can keep");
	params = call_params_vm(cli_arg(cli, 0));
	if (limit_text)
		jw_u64(params, "limit", limit);
	if (cli_opt(cli, "follow"))
		return follow(cli, params);
	r = call_controller(cli, "Events", params, &reply);
	return r == CLI_DONE ? put_events(cli, &reply) : r;
}

static const struct cli_option events_options[] = {
	{"follow", 'f', NULL, "go on and print what comes, until interrupted", WORDS_NONE},
	{"limit", 'n', "N", "of the past only the last N", WORDS_NONE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};
static const struct cli_arg events_args[] = {
	{"VM", WORDS_VM, true, false},
	{NULL, WORDS_NONE, false, false},
};
static const struct cli_example events_examples[] = {
	{"memoc events web1", "what happened to web1, newest last"},
	{"memoc events --follow", "what happens to all VMs, as it happens"},
	{"memoc events --follow --json | jq .reason", "one object a line, for a script"},
	{NULL, NULL},
};
const struct cli_command command_events = {
	.name = "events",
	.summary = "journal of decisions and of VMs' lives",
	.description =
		"Prints what memocd decided and what happened to VMs, newest last: time (UTC), VM, event, state,\n"
		"sizes before and after, reason. memocd keeps a bounded number of events in memory; the journal has\n"
		"them all: journalctl -u memocd MEMOC_VM=NAME",
	.options = events_options,
	.args = events_args,
	.examples = events_examples,
	.run = run_events,
};
