/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Both halves of varlink against hostile peers. The server half is driven by a loop of three lines over poll, as the
 * daemon drives it by libev; its peer is the other end of a socket pair, or the client half against a thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "common/varlink.h"

/* Nothing here should take this long; a hang ends as a failure. */
#define PATIENCE_MS 20000

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- the service under test ---- */

static struct {
	struct varlink_call *kept;
	int gone, oneways, calls, mask, wants;
	struct varlink_conn *wants_conn;
} seen;

static void method_echo(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct json_writer *w = jw_new(false);
	char *text AUTO_FREE = NULL;

	assert_ptr_equal(user, &seen);
	seen.calls++;
	seen.oneways += varlink_call_oneway(call);
	jw_json(w, NULL, parameters);
	assert_int_equal(jw_finish(w, &text, NULL), 0);
	assert_int_equal(varlink_answer(call, parameters ? text : NULL, false), 0);
}

static void method_keep(struct varlink_call *call, const struct json *parameters, void *user)
{
	assert_null(seen.kept);
	assert_null(varlink_call_data(call));
	varlink_call_set_data(call, &seen);
	seen.kept = call;
}

static void method_count(struct varlink_call *call, const struct json *parameters, void *user)
{
	if (!varlink_call_more(call)) {
		varlink_fail(call, "org.example.Test.NeedsMore", "{\"method\":\"Count\"}");
		return;
	}
	assert_int_equal(varlink_answer(call, "{\"n\":1}", true), 0);
	assert_int_equal(varlink_answer(call, "{\"n\":2}", true), 0);
	assert_int_equal(varlink_answer(call, "{\"n\":3}", false), 0);
}

static void method_bad_continues(struct varlink_call *call, const struct json *parameters, void *user)
{
	assert_int_equal(varlink_answer(call, NULL, true), -EINVAL);
}

static void method_bad_parameters(struct varlink_call *call, const struct json *parameters, void *user)
{
	assert_int_equal(varlink_answer(call, "[1]", false), -EINVAL);
}

static void method_bad_error(struct varlink_call *call, const struct json *parameters, void *user)
{
	assert_int_equal(varlink_fail(call, "a\",\"b\":\"c", NULL), -EINVAL);
}

/* {"x":"   …"} of len bytes and a NUL. */
static void fill_parameters(char *text, size_t len)
{
	snprintf(text, len + 1, "{\"x\":\"%*s\"}", (int)len - 8, "");
}

static void method_big(struct varlink_call *call, const struct json *parameters, void *user)
{
	static char text[3 << 20];
	uint64_t bytes = 0;

	assert_int_equal(json_get_u64(parameters, "bytes", &bytes), 0);
	assert_true(bytes + 10 < sizeof(text));
	fill_parameters(text, bytes);
	varlink_answer(call, text, false);
}

static void method_needs_size(struct varlink_call *call, const struct json *parameters, void *user)
{
	varlink_fail_parameter(call, "size");
}

static const struct varlink_method methods[] = {
	{"org.example.Test.Echo", method_echo},
	{"org.example.Test.Keep", method_keep},
	{"org.example.Test.Count", method_count},
	{"org.example.Test.BadContinues", method_bad_continues},
	{"org.example.Test.BadParameters", method_bad_parameters},
	{"org.example.Test.BadError", method_bad_error},
	{"org.example.Test.Big", method_big},
	{"org.example.Test.NeedsSize", method_needs_size},
	{"org.example.Test.Planned", NULL},
	{NULL, NULL},
};
static const struct varlink_method other_methods[] = {{NULL, NULL}};
static const struct varlink_interface interfaces[] = {
	{"org.example.Test", "interface org.example.Test\n", methods},
	{"org.example", "interface org.example\n", other_methods},
	{NULL, NULL, NULL},
};
static const struct varlink_limits limits = {.message_bytes = 100000, .unread_bytes = 1 << 20};

static void on_wants(struct varlink_conn *conn, int mask, void *user)
{
	assert_ptr_equal(user, &seen);
	assert_true(mask != seen.mask);
	seen.mask = mask;
	seen.wants++;
	seen.wants_conn = conn;
}

static void on_call_gone(struct varlink_call *call, void *user)
{
	assert_ptr_equal(call, seen.kept);
	assert_ptr_equal(varlink_call_data(call), &seen);
	seen.kept = NULL;
	seen.gone++;
}

static const struct varlink_conn_ops ops = {on_wants, on_call_gone};

struct bench {
	struct varlink_server *server;
	struct varlink_conn *conn;
	struct memoc_err err;
	int fd; /* the client's end */
};

static struct bench bench_new(void)
{
	struct bench b = {.fd = -1};
	int fds[2];

	memset(&seen, 0, sizeof(seen));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(varlink_server_new("Vendor", "Product", "1", "https://example.org", interfaces, &limits, &seen,
					    &b.server),
			 0);
	assert_int_equal(varlink_conn_new(b.server, fds[0], &ops, &seen, &b.conn), 0);
	assert_ptr_equal(seen.wants_conn, b.conn);
	assert_int_equal(seen.mask, 1);
	b.fd = fds[1];
	return b;
}

static void bench_free(struct bench *b)
{
	assert_null(varlink_conn_free(b->conn));
	assert_null(varlink_server_free(b->server));
	if (b->fd >= 0)
		close(b->fd);
}

/* One round of a loop: serves what is ready now. 1: something was; 0: nothing; negative: the connection is over. */
static int turn(struct bench *b, int timeout_ms)
{
	struct pollfd p = {.fd = varlink_conn_fd(b->conn),
			   .events = (short)((seen.mask & 1 ? POLLIN : 0) | (seen.mask & 2 ? POLLOUT : 0))};
	int r = 0;

	if (poll(&p, 1, timeout_ms) <= 0)
		return 0;
	/* libev does the same: hang-up and error count as both. */
	if ((p.revents & ~POLLOUT) && (seen.mask & 1))
		r = varlink_conn_readable(b->conn, &b->err);
	if (r == 0 && (p.revents & ~POLLIN) && (seen.mask & 2))
		r = varlink_conn_writable(b->conn, &b->err);
	return r < 0 ? r : 1;
}

/* Until nothing is left to do, or the connection is over. The count proves that it never spins. */
static int serve(struct bench *b)
{
	int r, n = 0;

	while ((r = turn(b, 0)) > 0)
		assert_true(++n < 10000);
	return r;
}

static void give(struct bench *b, const char *data, size_t len)
{
	assert_int_equal(send(b->fd, data, len, MSG_NOSIGNAL), len);
}

/* Text and its NUL. */
static void say(struct bench *b, const char *message)
{
	give(b, message, strlen(message) + 1);
}

static void expect(struct bench *b, const char *message)
{
	char buf[8192];
	size_t used = 0;

	do
		assert_int_equal(recv(b->fd, buf + used, 1, MSG_DONTWAIT), 1);
	while (buf[used++] && used < sizeof(buf));
	assert_string_equal(buf, message);
}

static void expect_nothing(struct bench *b)
{
	char c;

	assert_int_equal(recv(b->fd, &c, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

#define ECHO(p) "{\"method\":\"org.example.Test.Echo\",\"parameters\":" p "}"
#define ANSWER(p) "{\"parameters\":" p "}"
#define KEEP "{\"method\":\"org.example.Test.Keep\",\"more\":true}"

/* ---- server: good clients ---- */

static void test_get_info(void **state)
{
	struct bench b = bench_new();

	say(&b, "{\"method\":\"org.varlink.service.GetInfo\"}");
	assert_int_equal(serve(&b), 0);
	expect(&b, ANSWER("{\"vendor\":\"Vendor\",\"product\":\"Product\",\"version\":\"1\",\"url\":\"https://"
			  "example.org\","
			  "\"interfaces\":[\"org.varlink.service\",\"org.example.Test\",\"org.example\"]}"));
	say(&b, "{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"org."
		"example.Test\"}}");
	assert_int_equal(serve(&b), 0);
	expect(&b, ANSWER("{\"description\":\"interface org.example.Test\\n\"}"));
	assert_int_equal(varlink_conn_pid(b.conn), getpid());
	assert_int_equal(varlink_conn_uid(b.conn), getuid());
	assert_int_equal(varlink_conn_gid(b.conn), getgid());
	bench_free(&b);
}

/* The service's own interface describes itself, with the errors that it gives. */
static void test_own_description(void **state)
{
	struct bench b = bench_new();
	char buf[8192];
	ssize_t n;

	say(&b, "{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"org."
		"varlink.service\"}}");
	assert_int_equal(serve(&b), 0);
	n = recv(b.fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);
	assert_true(n > 0);
	buf[n] = 0;
	assert_non_null(strstr(buf, "interface org.varlink.service"));
	assert_non_null(strstr(buf, "error InvalidParameter (parameter: string)"));
	bench_free(&b);
}

static void test_standard_errors(void **state)
{
	static const struct {
		const char *call, *answer;
	} t[] = {
		{"{\"method\":\"org.nowhere.X.Y\"}", "{\"error\":\"org.varlink.service.InterfaceNotFound\","
						     "\"parameters\":{\"interface\":\"org.nowhere.X\"}}"},
		{"{\"method\":\"Nodot\"}",
		 "{\"error\":\"org.varlink.service.InterfaceNotFound\",\"parameters\":{\"interface\":\"Nodot\"}}"},
		{"{\"method\":\"\"}",
		 "{\"error\":\"org.varlink.service.InterfaceNotFound\",\"parameters\":{\"interface\":\"\"}}"},
		{"{\"method\":\"a\\\"\\n.b\"}",
		 "{\"error\":\"org.varlink.service.InterfaceNotFound\",\"parameters\":{\"interface\":\"a\\\"\\n\"}}"},
		{"{\"method\":\"org.example.Test.Nope\"}", "{\"error\":\"org.varlink.service.MethodNotFound\","
							   "\"parameters\":{\"method\":\"org.example.Test.Nope\"}}"},
		{"{\"method\":\"org.example.Test\"}",
		 "{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":{\"method\":\"org.example.Test\"}}"},
		{"{\"method\":\"org.varlink.service.Nope\"}",
		 "{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":{\"method\":\"org.varlink.service."
		 "Nope\"}}"},
		{"{\"method\":\"org.example.Test.Planned\"}",
		 "{\"error\":\"org.varlink.service.MethodNotImplemented\",\"parameters\":{\"method\":\"org.example."
		 "Test.Planned\"}}"},
		{"{\"method\":\"org.example.Test.NeedsSize\"}",
		 "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"size\"}}"},
		{"{\"method\":\"org.varlink.service.GetInterfaceDescription\"}",
		 "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"interface\"}}"},
		{"{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":7}}",
		 "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"interface\"}}"},
		{"{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"org."
		 "exam\"}}",
		 "{\"error\":\"org.varlink.service.InterfaceNotFound\",\"parameters\":{\"interface\":\"org.exam\"}}"},
		{"{\"method\":\"org.example.Test.Echo\",\"upgrade\":true}",
		 "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"upgrade\"}}"},
		{"{\"method\":\"org.example.Test.Count\"}",
		 "{\"error\":\"org.example.Test.NeedsMore\",\"parameters\":{\"method\":\"Count\"}}"},
	};
	struct bench b = bench_new();

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		say(&b, t[i].call);
		assert_int_equal(serve(&b), 0);
		expect(&b, t[i].answer);
	}
	expect_nothing(&b);
	bench_free(&b);
}

/* parameters absent, null or {}; unknown members of a call are not the server's business. */
static void test_parameters_forms(void **state)
{
	struct bench b = bench_new();

	say(&b, "{\"method\":\"org.example.Test.Echo\"}");
	say(&b, ECHO("{}"));
	say(&b, "{\"extra\":[1],\"method\":\"org.example.Test.Echo\",\"parameters\":{\"a\":\"é\"},\"more\":null,"
		"\"oneway\":false}");
	assert_int_equal(serve(&b), 0);
	expect(&b, ANSWER("{}"));
	expect(&b, ANSWER("{}"));
	expect(&b, ANSWER("{\"a\":\"é\"}"));
	bench_free(&b);
}

static void test_split_bytes(void **state)
{
	static const char call[] = ECHO("{\"a\":1}");
	struct bench b = bench_new();

	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < sizeof(call); i++) {
			expect_nothing(&b);
			give(&b, call + i, 1);
			assert_int_equal(serve(&b), 0);
		}
		expect(&b, ANSWER("{\"a\":1}"));
	}
	bench_free(&b);
}

/* Two and a half calls in one write, then the other half. */
static void test_pipelined(void **state)
{
	static const char data[] = ECHO("{\"n\":1}") "\0" ECHO("{\"n\":2}") "\0" ECHO("{\"n\":3}");
	struct bench b = bench_new();

	give(&b, data, sizeof(data) - 10);
	assert_int_equal(serve(&b), 0);
	expect(&b, ANSWER("{\"n\":1}"));
	expect(&b, ANSWER("{\"n\":2}"));
	expect_nothing(&b);
	give(&b, data + sizeof(data) - 10, 10);
	assert_int_equal(serve(&b), 0);
	expect(&b, ANSWER("{\"n\":3}"));
	bench_free(&b);
}

/* More calls in a buffer than one turn handles: none is forgotten, though no further byte arrives. */
static void test_pipelined_many(void **state)
{
	struct bench b = bench_new();
	char text[100];
	int r = 0;

	for (int i = 0; i < 200; i++) {
		snprintf(text, sizeof(text), ECHO("{\"n\":%d}"), i);
		say(&b, text);
	}
	/* The client closes its sending half, as `nc` does: what it asked before that is answered. */
	shutdown(b.fd, SHUT_WR);
	for (int i = 0; i < 200; i++) {
		struct pollfd p = {.fd = b.fd, .events = POLLIN};

		/* The kernel calls our end writable again only when the client has read most of what is queued. */
		while (r == 0 && poll(&p, 1, 0) == 0)
			r = serve(&b);
		snprintf(text, sizeof(text), ANSWER("{\"n\":%d}"), i);
		expect(&b, text);
	}
	assert_int_equal(r ? r : serve(&b), -ECONNRESET);
	bench_free(&b);
}

static void test_oneway(void **state)
{
	struct bench b = bench_new();

	say(&b, "{\"method\":\"org.example.Test.Echo\",\"oneway\":true}");
	say(&b, "{\"method\":\"org.nowhere.X.Y\",\"oneway\":true}");
	say(&b, ECHO("{\"last\":true}"));
	assert_int_equal(serve(&b), 0);
	assert_int_equal(seen.calls, 2);
	assert_int_equal(seen.oneways, 1);
	expect(&b, ANSWER("{\"last\":true}"));
	expect_nothing(&b);
	bench_free(&b);
}

static void test_more(void **state)
{
	struct bench b = bench_new();

	say(&b, "{\"method\":\"org.example.Test.Count\",\"more\":true}");
	assert_int_equal(serve(&b), 0);
	expect(&b, "{\"parameters\":{\"n\":1},\"continues\":true}");
	expect(&b, "{\"parameters\":{\"n\":2},\"continues\":true}");
	expect(&b, ANSWER("{\"n\":3}"));
	expect_nothing(&b);
	bench_free(&b);
}

/* While a call is open, the following ones wait; the answer sets them going though nothing more arrives. */
static void test_kept_call_keeps_order(void **state)
{
	struct bench b = bench_new();

	say(&b, KEEP);
	say(&b, ECHO("{\"n\":1}"));
	say(&b, ECHO("{\"n\":2}"));
	assert_int_equal(serve(&b), 0);
	assert_non_null(seen.kept);
	assert_int_equal(seen.calls, 0);
	assert_string_equal(varlink_call_method(seen.kept), "org.example.Test.Keep");
	assert_ptr_equal(varlink_call_conn(seen.kept), b.conn);
	assert_int_equal(varlink_answer(seen.kept, "{\"event\":1}", true), 0);
	assert_int_equal(serve(&b), 0);
	assert_int_equal(seen.calls, 0);
	assert_int_equal(varlink_answer(seen.kept, "{\"event\":2}", false), 0);
	assert_int_equal(seen.calls, 0); /* not from inside the answer */
	assert_int_equal(serve(&b), 0);
	assert_int_equal(seen.calls, 2);
	expect(&b, "{\"parameters\":{\"event\":1},\"continues\":true}");
	expect(&b, ANSWER("{\"event\":2}"));
	expect(&b, ANSWER("{\"n\":1}"));
	expect(&b, ANSWER("{\"n\":2}"));
	assert_int_equal(seen.mask, 1);
	assert_int_equal(seen.gone, 0);
	bench_free(&b);
}

/* ---- server: bad clients ---- */

static void test_garbage(void **state)
{
	static const char *const bad[] = {
		"",
		"x",
		"GET / HTTP/1.1\r\n",
		"[]",
		"7",
		"null",
		"\"x\"",
		"{}",
		"{\"method\":null}",
		"{\"method\":7}",
		"{\"method\":[\"org.example.Test.Echo\"]}",
		"{\"parameters\":{}}",
		"{\"method\":\"org.example.Test.Echo\",\"parameters\":[]}",
		"{\"method\":\"org.example.Test.Echo\",\"parameters\":7}",
		"{\"method\":\"org.example.Test.Echo\",\"parameters\":\"x\"}",
		"{\"method\":\"org.example.Test.Echo\",\"more\":1}",
		"{\"method\":\"org.example.Test.Echo\",\"oneway\":\"no\"}",
		"{\"method\":\"org.example.Test.Echo\",\"upgrade\":0}",
		"{\"method\":\"org.example.Test.Echo\",\"more\":true,\"oneway\":true}",
		"{\"method\":\"org.example.Test.Echo\",\"method\":\"org.example.Test.Keep\"}",
		"{\"method\":\"org.example.Test.Echo\\u0000x\"}",
		"{\"method\":\"\xff\"}",
		"{\"method\":\"org.example.Test.Echo\"} x",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct bench b = bench_new();
		int r;

		say(&b, bad[i]);
		say(&b, ECHO("{\"after\":1}"));
		r = serve(&b);
		if (r != -EPROTO)
			print_error("'%s' gave %d\n", bad[i], r);
		assert_int_equal(r, -EPROTO);
		assert_non_null(strstr(b.err.text, "not a varlink call"));
		assert_int_equal(seen.calls, 0);
		/* Over is over, whatever is called next. */
		assert_int_equal(varlink_conn_readable(b.conn, NULL), -EPROTO);
		assert_int_equal(varlink_conn_writable(b.conn, NULL), -EPROTO);
		bench_free(&b);
	}
}

static void test_too_deep(void **state)
{
	struct bench b = bench_new();
	char text[1000] = "{\"method\":\"org.example.Test.Echo\",\"parameters\":{\"a\":";

	memset(text + strlen(text), '[', 100);
	say(&b, text);
	assert_int_equal(serve(&b), -E2BIG);
	assert_non_null(strstr(b.err.text, "deeper"));
	bench_free(&b);
}

/* A message of exactly the limit is good, one byte more is not; it is refused before it is complete. */
static void test_message_limit(void **state)
{
	static const char head[] = "{\"method\":\"org.example.Test.Echo\",\"oneway\":true,\"parameters\":{\"x\":\"";
	struct bench b = bench_new();
	char *text = malloc(limits.message_bytes + 2);

	snprintf(text, limits.message_bytes + 1, "%s%*s\"}}", head, (int)(limits.message_bytes - strlen(head) - 3), "");
	for (size_t at = 0; at < limits.message_bytes + 1; at += 1000) {
		give(&b, text + at, min_u64(1000, limits.message_bytes + 1 - at));
		assert_int_equal(serve(&b), 0);
	}
	assert_int_equal(seen.oneways, 1);
	text[limits.message_bytes - 3] = text[limits.message_bytes] = 'x';
	give(&b, text, limits.message_bytes);
	assert_int_equal(serve(&b), 0);
	give(&b, "y", 1);
	assert_int_equal(serve(&b), -E2BIG);
	assert_non_null(strstr(b.err.text, "message_bytes"));
	free(text);
	bench_free(&b);
}

/* A client that streams for ever behind an open call costs one message's memory, then its connection. */
static void test_flood_behind_open_call(void **state)
{
	struct bench b = bench_new();
	size_t sent = 0;
	int r = 0;

	say(&b, KEEP);
	while (r == 0 && sent < 10 * limits.message_bytes) {
		say(&b, ECHO("{}"));
		sent += sizeof(ECHO("{}"));
		r = serve(&b);
	}
	assert_int_equal(r, -E2BIG);
	assert_true(sent <= limits.message_bytes + 2 * sizeof(ECHO("{}")));
	assert_non_null(strstr(b.err.text, "open call"));
	bench_free(&b);
	assert_int_equal(seen.gone, 1);
}

static void test_client_leaves(void **state)
{
	struct bench b = bench_new();

	close(b.fd);
	b.fd = -1;
	assert_int_equal(serve(&b), -ECONNRESET);
	assert_non_null(strstr(b.err.text, "closed"));
	bench_free(&b);
}

static void test_client_leaves_open_call(void **state)
{
	struct bench b = bench_new();

	say(&b, KEEP);
	say(&b, ECHO("{}"));
	assert_int_equal(serve(&b), 0);
	assert_non_null(seen.kept);
	close(b.fd);
	b.fd = -1;
	assert_int_equal(serve(&b), -ECONNRESET);
	assert_int_equal(seen.gone, 0);
	bench_free(&b);
	assert_int_equal(seen.gone, 1);
	assert_int_equal(seen.calls, 0);
}

/* An answer finds out first that the client left: the answer fails, the loop is told, nothing is left behind. */
static void test_answer_to_nobody(void **state)
{
	struct bench b = bench_new();
	struct varlink_call *call;

	say(&b, KEEP);
	assert_int_equal(serve(&b), 0);
	close(b.fd);
	b.fd = -1;
	assert_int_equal(varlink_answer(seen.kept, NULL, true), -ECONNRESET);
	assert_int_equal(seen.mask, 3);
	assert_int_equal(varlink_answer(seen.kept, NULL, true), -ECONNRESET);
	call = TAKE(seen.kept);
	assert_int_equal(varlink_answer(call, NULL, false), -ECONNRESET);
	assert_int_equal(serve(&b), -ECONNRESET);
	bench_free(&b);
	assert_int_equal(seen.gone, 0);
}

static void test_free_with_open_call(void **state)
{
	struct bench b = bench_new();

	say(&b, KEEP);
	assert_int_equal(serve(&b), 0);
	bench_free(&b);
	assert_int_equal(seen.gone, 1);
}

/* A subscriber that does not read: events are queued up to the limit, then its connection ends; the loop hears of it
 * though the socket is neither readable nor writable by itself. */
static void test_slow_reader(void **state)
{
	struct bench b = bench_new();
	char event[1100];
	size_t sent = 0;
	int r = 0;

	fill_parameters(event, sizeof(event) - 1);
	say(&b, KEEP);
	assert_int_equal(serve(&b), 0);
	while (r == 0 && sent < 100 * limits.unread_bytes) {
		r = varlink_answer(seen.kept, event, true);
		sent += sizeof(event);
		if (r == 0)
			assert_int_equal(serve(&b), 0);
	}
	assert_int_equal(r, -ENOBUFS);
	assert_true(sent > limits.unread_bytes);
	assert_true(sent < limits.unread_bytes + (8 << 20)); /* and what the socket holds */
	assert_int_equal(varlink_answer(seen.kept, event, true), -ENOBUFS);
	assert_int_equal(turn(&b, PATIENCE_MS), -ENOBUFS);
	assert_non_null(strstr(b.err.text, "unread_bytes"));
	bench_free(&b);
	assert_int_equal(seen.gone, 1);
}

/* Slow, but reading: everything arrives, in order, and "writable" is asked for only while it is needed. */
static void test_reader_catches_up(void **state)
{
	struct bench b = bench_new();
	char buf[65536];
	size_t got = 0, ends = 0;
	ssize_t n;

	say(&b, "{\"method\":\"org.example.Test.Big\",\"parameters\":{\"bytes\":1000000}}");
	say(&b, ECHO("{\"after\":1}"));
	assert_int_equal(serve(&b), 0);
	assert_int_equal(seen.mask, 2);
	assert_int_equal(seen.calls, 0);
	while (ends < 2) {
		assert_int_equal(serve(&b), 0);
		n = recv(b.fd, buf, sizeof(buf), MSG_DONTWAIT);
		assert_true(n > 0);
		got += (size_t)n;
		for (ssize_t i = 0; i < n; i++)
			ends += buf[i] == 0;
	}
	assert_int_equal(got, sizeof(ANSWER("")) + 1000000 + sizeof(ANSWER("{\"after\":1}")));
	assert_int_equal(serve(&b), 0);
	assert_int_equal(seen.mask, 1);
	expect_nothing(&b);
	bench_free(&b);
}

static void test_answer_over_limit(void **state)
{
	struct bench b = bench_new();

	say(&b, "{\"method\":\"org.example.Test.Big\",\"parameters\":{\"bytes\":3000000}}");
	assert_int_equal(serve(&b), -ENOBUFS);
	bench_free(&b);
}

/* A client that asks and asks and never reads is held up, not dropped: it costs one answer and one message. */
static void test_asks_without_reading(void **state)
{
	static const char call[] = "{\"method\":\"org.example.Test.Big\",\"parameters\":{\"bytes\":200000}}";
	struct bench b = bench_new();

	fcntl(b.fd, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 20000; i++) {
		if (send(b.fd, call, sizeof(call), MSG_NOSIGNAL) < 0) {
			assert_int_equal(errno, EAGAIN);
			break;
		}
		assert_int_equal(serve(&b), 0);
	}
	assert_int_equal(seen.mask, 2);
	bench_free(&b);
}

/* A mistake of the program's own must not leave a client waiting for ever. */
static void test_program_errors(void **state)
{
	static const char *const calls[] = {"{\"method\":\"org.example.Test.BadContinues\"}",
					    "{\"method\":\"org.example.Test.BadParameters\"}",
					    "{\"method\":\"org.example.Test.BadError\"}"};

	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		struct bench b = bench_new();

		say(&b, calls[i]);
		assert_int_equal(serve(&b), -EINVAL);
		assert_non_null(strstr(b.err.text, "org.example.Test.Bad"));
		bench_free(&b);
	}
}

static void test_conn_needs_socket(void **state)
{
	struct varlink_server *s;
	struct varlink_conn *c = NULL;
	int fds[2];

	memset(&seen, 0, sizeof(seen));
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(varlink_server_new("", "", "", "", interfaces, &limits, &seen, &s), 0);
	assert_int_equal(varlink_conn_new(s, fds[0], &ops, &seen, &c), -ENOTSOCK);
	assert_null(c);
	assert_int_equal(seen.wants, 0);
	varlink_server_free(s);
	assert_int_equal(close(fds[0]), 0); /* still the caller's */
	close(fds[1]);
	assert_null(varlink_conn_free(NULL));
	assert_null(varlink_server_free(NULL));
}

/* ---- client against a thread that plays a script ---- */

struct peer {
	char dir[64], path[96];
	int listener;
	pthread_t thread;
	void (*play)(int fd);
	char heard[4096];
};

static struct peer peer;

static void *peer_main(void *arg)
{
	int fd = accept4(peer.listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return NULL;
	peer.play(fd);
	close(fd);
	return NULL;
}

/* Reads one message into peer.heard. */
static void hear(int fd)
{
	size_t used = 0;

	while (used < sizeof(peer.heard) - 1 && recv(fd, peer.heard + used, 1, 0) == 1)
		if (!peer.heard[used++])
			return;
	peer.heard[used] = 0;
}

static void wait_for_end(int fd)
{
	char c;

	while (recv(fd, &c, 1, 0) > 0)
		;
}

static void peer_start(void (*play)(int fd), int backlog)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memset(&peer, 0, sizeof(peer));
	snprintf(peer.dir, sizeof(peer.dir), "/tmp/memoc-test-varlink-XXXXXX");
	assert_non_null(mkdtemp(peer.dir));
	snprintf(peer.path, sizeof(peer.path), "%s/sock", peer.dir);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", peer.path);
	peer.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(peer.listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(peer.listener, backlog), 0);
	peer.play = play;
	if (play)
		assert_int_equal(pthread_create(&peer.thread, NULL, peer_main, NULL), 0);
}

static void peer_stop(void)
{
	if (peer.play)
		pthread_join(peer.thread, NULL);
	close(peer.listener);
	unlink(peer.path);
	rmdir(peer.dir);
}

static struct varlink_client *connected(void)
{
	struct varlink_client *c = NULL;
	struct memoc_err err = {0};

	assert_int_equal(varlink_connect(peer.path, PATIENCE_MS, &c, &err), 0);
	return c;
}

static void play_answer(int fd)
{
	static const char answer[] = "{\"parameters\":{\"a\":1}}";

	hear(fd);
	for (size_t i = 0; i < sizeof(answer); i++)
		send(fd, answer + i, 1, MSG_NOSIGNAL);
	wait_for_end(fd);
}

static void test_client_call(void **state)
{
	struct varlink_client *c;
	struct varlink_reply reply = {0};
	struct memoc_err err = {0};
	uint64_t a = 0;

	peer_start(play_answer, 5);
	c = connected();
	assert_int_equal(varlink_call(c, "org.example.Test.Echo", "{\"a\":1}", PATIENCE_MS, &reply, &err), 0);
	assert_int_equal(json_get_u64(reply.parameters, "a", &a), 0);
	assert_true(a == 1 && !reply.error && !reply.continues);
	assert_string_equal(peer.heard, ECHO("{\"a\":1}"));
	varlink_reply_clear(&reply);
	assert_null(reply.message);
	assert_null(varlink_client_free(c));
	assert_null(varlink_client_free(NULL));
	peer_stop();
}

static void test_client_flags(void **state)
{
	struct varlink_client *c;

	peer_start(play_answer, 5);
	c = connected();
	assert_int_equal(varlink_send(c, "a.B", NULL, VARLINK_ONEWAY, PATIENCE_MS, NULL), 0);
	varlink_client_free(c);
	peer_stop();
	assert_string_equal(peer.heard, "{\"method\":\"a.B\",\"parameters\":{},\"oneway\":true}");
	peer_start(play_answer, 5);
	c = connected();
	assert_int_equal(varlink_send(c, "a.B", "{}", VARLINK_MORE, PATIENCE_MS, NULL), 0);
	varlink_client_free(c);
	peer_stop();
	assert_string_equal(peer.heard, "{\"method\":\"a.B\",\"parameters\":{},\"more\":true}");
}

static void play_error(int fd)
{
	static const char answer[] =
		"{\"error\":\"a.B.NoSuchVm\",\"parameters\":{\"name\":\"w\"}}\0{\"error\":\"a.B.Plain\"}";

	hear(fd);
	send(fd, answer, sizeof(answer), MSG_NOSIGNAL);
	wait_for_end(fd);
}

static void test_client_error_reply(void **state)
{
	struct varlink_client *c;
	struct varlink_reply reply = {0};
	struct memoc_err err = {0};

	peer_start(play_error, 5);
	c = connected();
	assert_int_equal(varlink_call(c, "a.B.C", NULL, PATIENCE_MS, &reply, &err), VARLINK_REPLY_ERROR);
	assert_string_equal(reply.error, "a.B.NoSuchVm");
	assert_int_equal(json_len(reply.parameters), 1);
	assert_string_equal(err.text, "the service refused: a.B.NoSuchVm {\"name\":\"w\"}");
	varlink_reply_clear(&reply);
	assert_int_equal(varlink_receive(c, PATIENCE_MS, &reply, &err), VARLINK_REPLY_ERROR);
	assert_null(reply.parameters);
	assert_string_equal(err.text, "the service refused: a.B.Plain");
	varlink_reply_clear(&reply);
	varlink_client_free(c);
	peer_stop();
}

static void play_continues(int fd)
{
	static const char answer[] = "{\"parameters\":{\"n\":1},\"continues\":true}\0{\"parameters\":{\"n\":2}}";

	hear(fd);
	send(fd, answer, sizeof(answer), MSG_NOSIGNAL);
	wait_for_end(fd);
}

static void test_client_continues(void **state)
{
	struct varlink_client *c;
	struct varlink_reply reply = {0};

	peer_start(play_continues, 5);
	c = connected();
	assert_int_equal(varlink_send(c, "a.B.C", NULL, VARLINK_MORE, PATIENCE_MS, NULL), 0);
	assert_int_equal(varlink_receive(c, PATIENCE_MS, &reply, NULL), 0);
	assert_true(reply.continues);
	varlink_reply_clear(&reply);
	assert_int_equal(varlink_receive(c, PATIENCE_MS, &reply, NULL), 0);
	assert_false(reply.continues);
	varlink_reply_clear(&reply);
	/* Late is not lost: a wait that ends without a reply can be taken up again. */
	assert_int_equal(varlink_receive(c, 1, &reply, NULL), -ETIMEDOUT);
	assert_int_equal(varlink_receive(c, 0, &reply, NULL), -ETIMEDOUT);
	varlink_client_free(c);
	peer_stop();
}

static const char *garbage;
static size_t garbage_len;

static void play_garbage(int fd)
{
	hear(fd);
	for (size_t sent = 0; sent < garbage_len;) {
		ssize_t n = send(fd, garbage + sent, garbage_len - sent, MSG_NOSIGNAL);

		if (n < 0)
			return;
		sent += (size_t)n;
	}
	wait_for_end(fd);
}

static void client_refuses(const char *data, size_t len, int code)
{
	struct varlink_client *c;
	struct varlink_reply reply = {0};
	struct memoc_err err = {0};

	garbage = data;
	garbage_len = len;
	peer_start(play_garbage, 5);
	c = connected();
	assert_int_equal(varlink_call(c, "a.B.C", NULL, PATIENCE_MS, &reply, &err), code);
	assert_null(reply.message);
	assert_memory_equal(err.text, "a.B.C: ", 7);
	/* The stream is lost: nothing more is sent on it or read from it. */
	assert_int_equal(varlink_call(c, "a.B.C", NULL, PATIENCE_MS, &reply, &err), code);
	assert_int_equal(varlink_receive(c, PATIENCE_MS, &reply, &err), code);
	assert_non_null(strstr(err.text, "connect anew"));
	varlink_client_free(c);
	peer_stop();
}

static void test_client_garbage(void **state)
{
	static const char *const bad[] = {"",
					  "x",
					  "[]",
					  "7",
					  "{\"parameters\":[]}",
					  "{\"parameters\":7}",
					  "{\"error\":7}",
					  "{\"continues\":1}",
					  "{\"parameters\":{\"a\":1,\"a\":1}}",
					  "{\"error\":\"\xff\"}"};
	char *big = malloc(VARLINK_REPLY_MAX + 1);

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		client_refuses(bad[i], strlen(bad[i]) + 1, -EPROTO);
	memset(big, 'x', VARLINK_REPLY_MAX + 1);
	client_refuses(big, VARLINK_REPLY_MAX + 1, -EPROTO);
	free(big);
}

static void play_half(int fd)
{
	hear(fd);
	send(fd, "{\"parameters\":", 14, MSG_NOSIGNAL);
}

static void test_client_peer_leaves(void **state)
{
	struct varlink_client *c;
	struct varlink_reply reply = {0};
	struct memoc_err err = {0};

	peer_start(play_half, 5);
	c = connected();
	assert_int_equal(varlink_call(c, "a.B.C", NULL, PATIENCE_MS, &reply, &err), -ECONNRESET);
	assert_null(reply.message);
	varlink_client_free(c);
	peer_stop();
}

/* One byte every 5 ms for ever: each arrives in time, the reply never does. */
static void play_trickle(int fd)
{
	const struct timespec pause = {.tv_nsec = 5000000};

	hear(fd);
	while (send(fd, "x", 1, MSG_NOSIGNAL) == 1)
		nanosleep(&pause, NULL);
}

static void play_silence(int fd)
{
	hear(fd);
	wait_for_end(fd);
}

static void times_out(void (*play)(int fd), int timeout_ms)
{
	struct varlink_client *c;
	struct varlink_reply reply = {0};
	struct memoc_err err = {0};
	int64_t began;

	peer_start(play, 5);
	c = connected();
	began = now_ms();
	assert_int_equal(varlink_call(c, "a.B.C", NULL, timeout_ms, &reply, &err), -ETIMEDOUT);
	assert_true(now_ms() - began >= timeout_ms - 1);
	assert_true(now_ms() - began < timeout_ms + PATIENCE_MS / 2);
	assert_non_null(strstr(err.text, "in time"));
	assert_int_equal(varlink_call(c, "a.B.C", NULL, timeout_ms, &reply, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "connect anew"));
	varlink_client_free(c);
	peer_stop();
}

static void test_client_deadline(void **state)
{
	times_out(play_silence, 100);
	times_out(play_trickle, 100);
}

/* Nobody accepts: calls fill the socket's buffer and then must time out in sending. */
static void test_client_send_deadline(void **state)
{
	struct varlink_client *c;
	struct memoc_err err = {0};
	char *text = malloc(900000);
	int r = 0;

	fill_parameters(text, 899999);
	peer_start(NULL, 5);
	c = connected();
	for (int i = 0; i < 100 && r == 0; i++)
		r = varlink_send(c, "a.B.C", text, 0, 50, &err);
	assert_int_equal(r, -ETIMEDOUT);
	assert_int_equal(varlink_send(c, "a.B.C", NULL, 0, 50, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "connect anew"));
	varlink_client_free(c);
	peer_stop();
	free(text);
}

static void test_client_bad_call(void **state)
{
	static const char *const names[] = {"", "a\"b", "a b", "a\nb", NULL};
	struct varlink_client *c;
	struct memoc_err err = {0};
	char *text = malloc(VARLINK_MESSAGE_MAX + 1);

	memset(text, ' ', VARLINK_MESSAGE_MAX);
	text[0] = '{';
	text[VARLINK_MESSAGE_MAX - 1] = '}';
	text[VARLINK_MESSAGE_MAX] = 0;
	peer_start(NULL, 5);
	c = connected();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		assert_int_equal(varlink_send(c, names[i], NULL, 0, PATIENCE_MS, &err), -EINVAL);
	assert_int_equal(varlink_send(c, "a.B", "[]", 0, PATIENCE_MS, &err), -EINVAL);
	assert_int_equal(varlink_send(c, "a.B", "", 0, PATIENCE_MS, &err), -EINVAL);
	assert_int_equal(varlink_send(c, "a.B", text, 0, PATIENCE_MS, &err), -E2BIG);
	/* None of these did harm. */
	assert_int_equal(varlink_send(c, "a.B", NULL, 0, PATIENCE_MS, &err), 0);
	varlink_client_free(c);
	peer_stop();
	free(text);
}

static void test_connect_errors(void **state)
{
	struct varlink_client *c = NULL;
	struct memoc_err err = {0};
	char path[200];

	peer_start(NULL, 5);
	snprintf(path, sizeof(path), "%s/nothing", peer.dir);
	assert_int_equal(varlink_connect(path, 100, &c, &err), -ENOENT);
	assert_non_null(strstr(err.text, path));
	assert_non_null(strstr(err.text, "start memocd"));
	memset(path, 'x', sizeof(path));
	path[150] = 0;
	assert_int_equal(varlink_connect(path, 100, &c, &err), -ENAMETOOLONG);
	assert_int_equal(varlink_connect("", 100, &c, &err), -ENAMETOOLONG);
	close(peer.listener);
	assert_int_equal(varlink_connect(peer.path, 100, &c, &err), -ECONNREFUSED);
	peer.listener = -1;
	peer_stop();
	assert_null(c);
}

/* A listener that never accepts: its queue fills, and connecting waits no longer than it may. */
static void test_connect_queue_full(void **state)
{
	struct varlink_client *c[9] = {0};
	struct memoc_err err = {0};
	int64_t began;
	int r = 0, n = 0;

	peer_start(NULL, 1);
	while (n < 8 && r == 0) {
		began = now_ms();
		r = varlink_connect(peer.path, 50, &c[n], &err);
		n += r == 0;
	}
	assert_int_equal(r, -ETIMEDOUT);
	assert_true(n < 8);
	assert_true(now_ms() - began >= 40);
	assert_null(c[n]);
	assert_int_equal(varlink_connect(peer.path, 0, &c[n], &err), -ETIMEDOUT);
	while (n > 0)
		varlink_client_free(c[--n]);
	peer_stop();
}

/* ---- the client half against the server half ---- */

static void play_server(int fd)
{
	struct bench b = {.fd = -1};
	int r = 0;

	memset(&seen, 0, sizeof(seen));
	varlink_server_new("Vendor", "Product", "1", "", interfaces, &limits, &seen, &b.server);
	varlink_conn_new(b.server, dup(fd), &ops, &seen, &b.conn);
	while (r >= 0)
		r = turn(&b, PATIENCE_MS);
	varlink_conn_free(b.conn);
	varlink_server_free(b.server);
	peer.heard[0] = r == -ECONNRESET;
}

static void test_both_halves(void **state)
{
	struct varlink_client *c;
	struct varlink_reply reply = {0};
	const char *text;
	char call[90000];

	peer_start(play_server, 5);
	c = connected();
	fill_parameters(call, sizeof(call) - 1);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(varlink_call(c, "org.example.Test.Echo", call, PATIENCE_MS, &reply, NULL), 0);
		assert_int_equal(json_get_str(reply.parameters, "x", &text), 0);
		assert_int_equal(strlen(text), sizeof(call) - 9);
		varlink_reply_clear(&reply);
	}
	assert_int_equal(varlink_call(c, "org.example.Test.Nope", NULL, PATIENCE_MS, &reply, NULL),
			 VARLINK_REPLY_ERROR);
	varlink_reply_clear(&reply);
	varlink_client_free(c);
	peer_stop();
	assert_int_equal(peer.heard[0], 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_get_info),
		cmocka_unit_test(test_own_description),
		cmocka_unit_test(test_standard_errors),
		cmocka_unit_test(test_parameters_forms),
		cmocka_unit_test(test_split_bytes),
		cmocka_unit_test(test_pipelined),
		cmocka_unit_test(test_pipelined_many),
		cmocka_unit_test(test_oneway),
		cmocka_unit_test(test_more),
		cmocka_unit_test(test_kept_call_keeps_order),
		cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_too_deep),
		cmocka_unit_test(test_message_limit),
		cmocka_unit_test(test_flood_behind_open_call),
		cmocka_unit_test(test_client_leaves),
		cmocka_unit_test(test_client_leaves_open_call),
		cmocka_unit_test(test_answer_to_nobody),
		cmocka_unit_test(test_free_with_open_call),
		cmocka_unit_test(test_slow_reader),
		cmocka_unit_test(test_reader_catches_up),
		cmocka_unit_test(test_answer_over_limit),
		cmocka_unit_test(test_asks_without_reading),
		cmocka_unit_test(test_program_errors),
		cmocka_unit_test(test_conn_needs_socket),
		cmocka_unit_test(test_client_call),
		cmocka_unit_test(test_client_flags),
		cmocka_unit_test(test_client_error_reply),
		cmocka_unit_test(test_client_continues),
		cmocka_unit_test(test_client_garbage),
		cmocka_unit_test(test_client_peer_leaves),
		cmocka_unit_test(test_client_deadline),
		cmocka_unit_test(test_client_send_deadline),
		cmocka_unit_test(test_client_bad_call),
		cmocka_unit_test(test_connect_errors),
		cmocka_unit_test(test_connect_queue_full),
		cmocka_unit_test(test_both_halves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
