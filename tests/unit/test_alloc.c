/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every constructor of common and of the core, once for each allocation that it makes, with that one failing: it says
 * −ENOMEM, leaves its outputs alone and leaks nothing. Then once more with none failing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/json.h"
#include "common/varlink.h"
#include "controller/core/policy.h"
#include "tests/unit/alloc_fail.h"

/* More allocations than any of these makes: a sweep that gets here does not end. */
#define SWEEP_MAX 5000

/* op returns 0 or −ENOMEM and cleans up after itself. tolerant: it may also get by without that memory. */
static void sweep(int (*op)(void), bool tolerant)
{
	size_t n, refused = 0;

	for (n = 1; n < SWEEP_MAX; n++) {
		long before = alloc_live();
		bool hit;
		int r;

		alloc_fail_at(n);
		r = op();
		hit = alloc_fail_end();
		if (!hit) {
			assert_int_equal(r, 0);
			break;
		}
		if (r != -ENOMEM && !(tolerant && r == 0))
			print_error("allocation %zu failed: result %d\n", n, r);
		assert_true(r == -ENOMEM || (tolerant && r == 0));
		assert_int_equal(alloc_live() - before, 0);
		refused += r == -ENOMEM;
	}
	assert_true(n > 1 && n < SWEEP_MAX);
	assert_true(refused > 0);
}

/* ---- JSON ---- */

static const char big_text[] = "{\"a\":[1,-2.5,\"x\\u00e9y\",null,true,{\"deep\":[[[[\"z\"]]]]}],\"b\":{\"c\":\"d\","
			       "\"e\":18446744073709551615},"
			       "\"l1\":1,\"l2\":2,\"l3\":3,\"l4\":4,\"l5\":5,\"l6\":6,\"l7\":7,\"l8\":8}";

static int op_parse(void)
{
	struct json *j = NULL;
	struct memoc_err err = {0};
	int r = json_parse(big_text, strlen(big_text), NULL, &j, &err);

	assert_true((r == 0) == (j != NULL));
	if (r < 0)
		assert_non_null(strstr(err.text, "memory"));
	json_free(j);
	return r;
}

static void test_parse(void **state)
{
	sweep(op_parse, false);
}

/* A bad text stays a bad text, or memory ends before that is known; neither leaks. */
static int op_parse_bad(void)
{
	static const char *const bad[] = {"{\"a\":[1,2,{\"k\":\"v\"}", "{\"a\":1,\"a\":2}", "{\"a\":\"\\u0000\"}",
					  "[1,2,x]"};
	bool memory = true;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct json *j = NULL;
		int r = json_parse(bad[i], strlen(bad[i]), NULL, &j, NULL);

		assert_null(j);
		assert_true(r == -EINVAL || r == -ENOMEM);
		memory = memory && r != -ENOMEM;
	}
	return memory ? 0 : -ENOMEM;
}

static void test_parse_bad(void **state)
{
	sweep(op_parse_bad, false);
}

static struct json *tree;

static int op_write(void)
{
	struct json_writer *w = jw_new(true);
	char *text = NULL;
	int r;

	jw_object(w, NULL);
	for (int i = 0; i < 50; i++) {
		jw_array(w, "a list");
		jw_str(w, NULL, "some text that makes the buffer grow and grow");
		jw_u64(w, NULL, UINT64_MAX);
		jw_i64(w, NULL, INT64_MIN);
		jw_double(w, NULL, 1.5);
		jw_bool(w, NULL, true);
		jw_null(w, NULL);
		jw_end(w);
	}
	jw_json(w, "tree", tree);
	jw_end(w);
	r = jw_finish(w, &text, NULL);
	assert_true((r == 0) == (text != NULL));
	free(text);
	return r;
}

static void test_write(void **state)
{
	assert_int_equal(json_parse(big_text, strlen(big_text), NULL, &tree, NULL), 0);
	sweep(op_write, false);
	tree = json_free(tree);
}

/* ---- varlink, server half ---- */

static struct varlink_call *kept;
static int gone;

static void method_keep(struct varlink_call *call, const struct json *parameters, void *user)
{
	kept = call;
}

static void method_echo(struct varlink_call *call, const struct json *parameters, void *user)
{
	varlink_answer(call, "{\"a\":1}", false);
}

static const struct varlink_method methods[] = {
	{"org.example.Test.Keep", method_keep}, {"org.example.Test.Echo", method_echo}, {NULL, NULL}};
static const struct varlink_interface interfaces[] = {{"org.example.Test", "interface org.example.Test\n", methods},
						      {NULL, NULL, NULL}};
static const struct varlink_limits limits = {.message_bytes = 100000, .unread_bytes = 1 << 20};

static void on_wants(struct varlink_conn *conn, int mask, void *user)
{
}

static void on_call_gone(struct varlink_call *call, void *user)
{
	assert_ptr_equal(call, kept);
	kept = NULL;
	gone++;
}

static const struct varlink_conn_ops ops = {on_wants, on_call_gone};

static int op_server(void)
{
	struct varlink_server *s = NULL;
	int r = varlink_server_new("v", "p", "1", "u", interfaces, &limits, NULL, &s);

	assert_true((r == 0) == (s != NULL));
	varlink_server_free(s);
	return r;
}

static void test_server(void **state)
{
	sweep(op_server, false);
}

static struct varlink_server *server;

static int op_conn(void)
{
	struct varlink_conn *c = NULL;
	int fds[2], r;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	r = varlink_conn_new(server, fds[0], &ops, NULL, &c);
	assert_true((r == 0) == (c != NULL));
	varlink_conn_free(c);
	if (!c)
		assert_int_equal(close(fds[0]), 0); /* still the caller's */
	close(fds[1]);
	return r;
}

static int setup_server(void **state)
{
	return varlink_server_new("v", "p", "1", "u", interfaces, &limits, NULL, &server);
}

static int teardown_server(void **state)
{
	server = varlink_server_free(server);
	return 0;
}

static void test_conn(void **state)
{
	sweep(op_conn, false);
}

/* A whole conversation. Where memory fails for an answer the connection ends: its client never waits in vain. */
static int op_conversation(void)
{
	static const char calls[] = "{\"method\":\"org.varlink.service.GetInfo\"}\0"
				    "{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{"
				    "\"interface\":\"org.example.Test\"}}\0"
				    "{\"method\":\"org.example.Test.Nope\"}\0{\"method\":\"org.nowhere.X\"}\0"
				    "{\"method\":\"org.example.Test.Echo\"}\0"
				    "{\"method\":\"org.example.Test.Keep\",\"more\":true}";
	struct varlink_conn *c = NULL;
	int fds[2], r, answers = 0;
	char buf[4096];
	ssize_t n;

	gone = 0;
	kept = NULL;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(send(fds[1], calls, sizeof(calls), MSG_NOSIGNAL), sizeof(calls));
	r = varlink_conn_new(server, fds[0], &ops, NULL, &c);
	if (r < 0)
		close(fds[0]);
	if (r == 0)
		r = varlink_conn_readable(c, NULL);
	if (r == 0)
		r = varlink_answer(kept, "{}", true);
	varlink_conn_free(c);
	while ((n = recv(fds[1], buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		for (ssize_t i = 0; i < n; i++)
			answers += buf[i] == 0;
	close(fds[1]);
	assert_null(kept);
	if (r == 0)
		assert_true(answers == 6 && gone == 1);
	return r;
}

static void test_conversation(void **state)
{
	sweep(op_conversation, true);
}

/* ---- varlink, client half; its peer's bytes wait in the socket already ---- */

static int listener;
static struct sockaddr_un addr = {.sun_family = AF_UNIX};

static int setup_listener(void **state)
{
	char dir[] = "/tmp/memoc-test-alloc-XXXXXX";

	if (!mkdtemp(dir))
		return -1;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/sock", dir);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -1;
	return listen(listener, 5);
}

static int teardown_listener(void **state)
{
	close(listener);
	unlink(addr.sun_path);
	*strrchr(addr.sun_path, '/') = 0;
	return rmdir(addr.sun_path);
}

static int op_client(void)
{
	static const char reply_text[] = "{\"error\":\"a.B.C\",\"parameters\":{\"why\":\"because\"}}";
	struct varlink_client *c = NULL;
	struct varlink_reply reply = {0};
	int fd = -1, r = varlink_connect(addr.sun_path, 10000, &c, NULL);

	assert_true((r == 0) == (c != NULL));
	if (r == 0) {
		fd = accept(listener, NULL, NULL);
		assert_true(fd >= 0);
		assert_int_equal(send(fd, reply_text, sizeof(reply_text), MSG_NOSIGNAL), sizeof(reply_text));
		r = varlink_call(c, "a.B.D", "{\"x\":1}", 10000, &reply, NULL);
		close(fd);
	}
	assert_true((r == VARLINK_REPLY_ERROR) == (reply.message != NULL));
	varlink_reply_clear(&reply);
	varlink_client_free(c);
	return r == VARLINK_REPLY_ERROR ? 0 : r;
}

static void test_client(void **state)
{
	sweep(op_client, true);
}

/* ---- core: it allocates when it is made and when a VM is added; an event that fails changes nothing ---- */

static int op_core(void)
{
	struct core_config config = core_config_default();
	struct effect list[600];
	struct effects out = {.list = list, .capacity = 600};
	struct core *c = NULL;
	int r = core_new(&config, &c);

	assert_true((r == 0) == (c != NULL));
	for (vm_id id = 1; r == 0 && id <= 20; id++) {
		struct event ev = {.type = EVENT_VM_ADDED, .vm = id, .now_ms = 1};
		ev.added.origin = ORIGIN_START;
		ev.added.facts = (struct vm_facts){.max_bytes = GIB, .eligible = true, .policy = vmpolicy_default()};
		assert_true(core_effects_max(c) <= out.capacity);
		r = core_step(c, &ev, &out);
		assert_int_equal(core_vm_count(c), r == 0 ? id : id - 1);
		if (r < 0)
			assert_int_equal(out.n, 0);
	}
	core_free(c);
	return r;
}

static void test_core(void **state)
{
	sweep(op_core, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_parse_bad),
		cmocka_unit_test(test_write),
		cmocka_unit_test(test_server),
		cmocka_unit_test(test_core),
		cmocka_unit_test_setup_teardown(test_conn, setup_server, teardown_server),
		cmocka_unit_test_setup_teardown(test_conversation, setup_server, teardown_server),
		cmocka_unit_test_setup_teardown(test_client, setup_listener, teardown_listener),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
