/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every constructor and reader of common, of the core, the daemon's files and the hook, once for each allocation that
 * it makes, libxml2's for it included, with that one failing: it says −ENOMEM, leaves its outputs alone and leaks
 * nothing. Then once more with none failing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <libxml/parser.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/domxml.h"
#include "common/json.h"
#include "common/varlink.h"
#include "controller/core/policy.h"
#include "controller/daemon/config.h"
#include "controller/daemon/state.h"
#include "hooks/hook.h"
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

/* ---- domain XML and policies; libxml2 allocates through here too ---- */

#define UUID "c7a5fdbd-edaf-9455-926a-d65c16db1809"
/* Of everything that facts are read from a little, and text that libxml2 must put together from pieces. */
#define DOMAIN_XML                                                                                                     \
	"<?xml version='1.0'?><!-- a note --><domain type='qemu' id='7'><name>web<![CDATA[1]]></name><uuid>" UUID      \
	"</uuid><metadata><x:note xmlns:x='http://example.org/'>&lt;long&gt; &amp; of no use</x:note>"                 \
	"<memoc:policy xmlns:memoc='" VMPOLICY_XMLNS "' min='512M' weight='5' max='1&#71;'/></metadata>"               \
	"<memory unit='MiB'>2048</memory><currentMemory unit='KiB'>1048576</currentMemory><vcpu current='2'>8</vcpu>"  \
	"<features><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features><devices>"                                  \
	"<hostdev type='pci'><source><address domain='0x0000' bus='0x65' slot='0x00' function='0x1'/></source>"        \
	"</hostdev><memballoon model='virtio' freePageReporting='on'><stats period='5'/></memballoon></devices>"       \
	"</domain>\n"

static int op_domxml(void)
{
	struct dom_facts f = {.vcpus = 77}, untouched = f;
	struct memoc_err err = {""};
	int r = domxml_parse(DOMAIN_XML, sizeof(DOMAIN_XML) - 1, &f, &err);

	if (r < 0) {
		assert_memory_equal(&f, &untouched, sizeof(f));
		assert_non_null(strstr(err.text, "memory"));
		return r;
	}
	/* Never some of the facts without the others. */
	assert_string_equal(f.name, "web1");
	assert_string_equal(f.uuid, UUID);
	assert_true(f.max_bytes == 2 * GIB && f.current_bytes == GIB && f.tb_cache_bytes == 32 * MIB);
	assert_true(f.vcpus == 2 && f.tcg && f.has_balloon && f.free_page_reporting && f.stats_period_s == 5);
	assert_true(!f.policy_bad && f.policy.min_bytes == 512 * MIB && f.policy.max_bytes == GIB);
	assert_int_equal(f.policy.weight, 5);
	assert_int_equal(f.ineligible, DOM_VFIO);
	assert_string_equal(f.ineligible_detail, "hostdev pci 0000:65:00.1");
	return r;
}

/* What is bad stays bad, or memory ends before that is known. */
static int op_domxml_bad(void)
{
	static const char *const bad[] = {"<domain><name>x</name", "<!DOCTYPE domain><domain/>", "<a><b></a>", "<net/>",
					  "<domain><name>x</name><uuid>" UUID "</uuid><memory unit='elk'>5</memory>"
					  "</domain>"};
	bool memory = true;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct dom_facts f = {.vcpus = 77};
		int r = domxml_parse(bad[i], strlen(bad[i]), &f, NULL);

		assert_true(r == -EINVAL || r == -ENOMEM);
		assert_int_equal(f.vcpus, 77);
		memory = memory && r != -ENOMEM;
	}
	return memory ? 0 : -ENOMEM;
}

static int op_policy(void)
{
	static const char xml[] = "<policy min='512M' weight='5' swap='no'/>";
	struct vmpolicy p = {.weight = 77};
	char *text = NULL;
	int r = domxml_parse_policy(xml, sizeof(xml) - 1, &p, NULL);

	if (r < 0) {
		assert_int_equal(p.weight, 77);
		return r;
	}
	assert_true(p.min_bytes == 512 * MIB && p.weight == 5 && !p.swap && p.balloon && p.managed);
	r = vmpolicy_to_xml(&p, &text);
	assert_true((r == 0) == (text != NULL));
	if (r == 0)
		assert_string_equal(text, "<policy min=\"512M\" weight=\"5\" swap=\"no\"/>");
	free(text);
	return r;
}

static void test_xml(void **state)
{
	assert_int_equal(op_domxml(), 0); /* what libxml2 allocates once for good */
	sweep(op_domxml, true);
	sweep(op_domxml_bad, true);
	sweep(op_policy, true);
}

/* ---- files of the daemon ---- */

static char work_dir[64], state_path[96], config_path[96];

static int setup_dir(void **state)
{
	strcpy(work_dir, "/tmp/memoc-test-alloc-XXXXXX");
	if (!mkdtemp(work_dir))
		return -1;
	snprintf(state_path, sizeof(state_path), "%s/state.json", work_dir);
	snprintf(config_path, sizeof(config_path), "%s/memoc.conf", work_dir);
	return 0;
}

/* rmdir tells of anything that was left there. */
static int teardown_dir(void **state)
{
	unlink(state_path);
	unlink(config_path);
	return rmdir(work_dir);
}

static struct state state_of(struct state_vm *vms, size_t n, bool hold_all)
{
	for (size_t i = 0; i < n; i++) {
		vms[i] = (struct state_vm){.pid = 7, .memory = {.known = true}, .policy = vmpolicy_default()};
		snprintf(vms[i].uuid, sizeof(vms[i].uuid), "11111111-2222-3333-4444-%012zu", i);
		snprintf(vms[i].name, sizeof(vms[i].name), "vm%zu", i);
	}
	return (struct state){.hold_all = hold_all, .vms = vms, .n = n};
}

#define OLD_VMS 3
#define NEW_VMS 40

static size_t vms_in_file(void)
{
	struct state s = {0};
	size_t n;

	assert_int_equal(state_load(work_dir, &s, NULL), 0);
	n = s.n;
	assert_true(s.hold_all == (n == NEW_VMS));
	state_clear(&s);
	return n;
}

/* The old file whole, or the new one whole. */
static int op_state_save(void)
{
	static struct state_vm vms[NEW_VMS];
	struct state s = state_of(vms, NEW_VMS, true);
	struct memoc_err err = {""};
	int r = state_save(work_dir, &s, &err);

	if (r < 0) {
		assert_non_null(strstr(err.text, state_path));
		return r;
	}
	return 0;
}

static int op_state_load(void)
{
	struct state s = {.hold_all = true, .n = 77};
	struct memoc_err err = {""};
	int r = state_load(work_dir, &s, &err);

	if (r < 0) {
		assert_true(s.hold_all && s.n == 77 && !s.vms);
		assert_non_null(strstr(err.text, state_path));
		return r;
	}
	assert_int_equal(s.n, NEW_VMS);
	assert_string_equal(s.vms[NEW_VMS - 1].name, "vm39");
	state_clear(&s);
	return r;
}

static void test_state(void **state)
{
	struct state_vm vms[OLD_VMS];
	struct state old = state_of(vms, OLD_VMS, false);

	assert_int_equal(state_save(work_dir, &old, NULL), 0);
	alloc_fail_at(1);
	assert_int_equal(op_state_save(), -ENOMEM);
	assert_true(alloc_fail_end());
	assert_int_equal(vms_in_file(), OLD_VMS);
	sweep(op_state_save, false);
	assert_int_equal(vms_in_file(), NEW_VMS);
	sweep(op_state_load, false);
	assert_int_equal(vms_in_file(), NEW_VMS); /* no lack of memory is taken for damage: it was not put aside */
}

/* Beyond libinih's own allocations. */
static int op_config(void)
{
	static const char *const sets[] = {"host.pool=3G", "policy.interval=2s"};
	struct config c = {.events_kept = 77};
	struct config_setting *settings = NULL;
	struct memoc_err err = {""};
	size_t n = 0;
	int r = config_load(config_path, sets, ARRAY_SIZE(sets), &c, &settings, &n, &err);

	assert_true((r == 0) == (settings != NULL && n > 10));
	if (r < 0) {
		assert_int_equal(c.events_kept, 77);
		assert_non_null(strstr(err.text, "memory"));
	}
	free(settings);
	return r;
}

static void test_config(void **state)
{
	FILE *f = fopen(config_path, "we");

	assert_non_null(f);
	assert_true(fputs("[host]\nbuffer = 64M\n[balloon]\nmin_speed = 1M\n", f) >= 0);
	assert_int_equal(fclose(f), 0);
	sweep(op_config, false);
}

/* ---- the hook: it never fails, and what it says is whole ---- */

static int run_hook(const char *operation, char *said, size_t size)
{
	char words[5][16] = {"memoc-hook", "web1", "", "begin", "-"};
	char *const argv[] = {words[0], words[1], words[2], words[3], words[4], NULL};
	int xml[2], err[2], r;
	ssize_t n;

	snprintf(words[2], sizeof(words[2]), "%s", operation);
	assert_int_equal(pipe2(xml, O_CLOEXEC), 0);
	assert_int_equal(pipe2(err, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(write(xml[1], DOMAIN_XML, sizeof(DOMAIN_XML) - 1), sizeof(DOMAIN_XML) - 1);
	close(xml[1]);
	r = hook_run(5, argv,
		     &(struct hook_io){.xml_fd = xml[0],
				       .err_fd = err[1],
				       .socket_path = addr.sun_path,
				       .start_ms = now_ms(),
				       .deadline_ms = 10000});
	n = read(err[0], said, size - 1);
	said[n > 0 ? n : 0] = '\0';
	close(xml[0]);
	close(err[0]);
	close(err[1]);
	return r;
}

/* One notification with all facts; or with the reason why there are none; or none at all. */
static int op_hook_tells(void)
{
	char said[512], got[4096];
	size_t len = 0;
	ssize_t n = 1;
	int fd;

	assert_int_equal(run_hook("started", said, sizeof(said)), 0);
	assert_string_equal(said, "");
	fd = accept(listener, NULL, NULL); /* the listener does not block */
	while (fd >= 0 && n > 0 && len < sizeof(got) - 1) {
		n = recv(fd, got + len, sizeof(got) - 1 - len, MSG_DONTWAIT);
		len += n > 0 ? (size_t)n : 0;
	}
	if (fd >= 0)
		close(fd);
	if (!len)
		return -ENOMEM;
	assert_int_equal(strnlen(got, len), len - 1);
	assert_non_null(strstr(got, "\"name\":\"web1\""));
	if (strstr(got, "\"uuid\":\"" UUID "\"")) {
		assert_non_null(strstr(got, "\"min_bytes\":536870912"));
		assert_null(strstr(got, "xml_error"));
		return 0;
	}
	assert_non_null(strstr(got, "\"xml_error\""));
	return -ENOMEM;
}

/* A server that refuses everybody: the hook hears it, or it lets the VM start and says nothing. */
static int op_hook_asks(void)
{
	char said[512];
	int r = run_hook("prepare", said, sizeof(said));

	if (r == 0) {
		assert_string_equal(said, "");
		return -ENOMEM;
	}
	assert_int_equal(r, 1);
	assert_non_null(strstr(said, "web1 may not start"));
	assert_non_null(strstr(said, "100 MiB missing"));
	assert_int_equal(strchr(said, '\n') - said, strlen(said) - 1);
	return 0;
}

static void refuse_all(void)
{
	static const char no[] = "{\"parameters\":{\"admitted\":false,\"missing_bytes\":104857600,\"mode\":\"deny\"}}";
	char got[4096];

	for (;;) {
		int fd = accept(listener, NULL, NULL);
		ssize_t n = 1;

		if (fd < 0)
			continue;
		while (n > 0 && !memchr(got, '\0', (size_t)n))
			n = recv(fd, got, sizeof(got), 0);
		if (n > 0)
			send(fd, no, sizeof(no), MSG_NOSIGNAL);
		close(fd);
	}
}

static void test_hook(void **state)
{
	int flags = fcntl(listener, F_GETFL);
	pid_t refuser;

	assert_int_equal(fcntl(listener, F_SETFL, flags | O_NONBLOCK), 0);
	sweep(op_hook_tells, true);
	assert_int_equal(fcntl(listener, F_SETFL, flags), 0);
	refuser = fork();
	assert_true(refuser >= 0);
	if (refuser == 0)
		refuse_all();
	sweep(op_hook_asks, true);
	kill(refuser, SIGKILL);
	waitpid(refuser, NULL, 0);
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
		cmocka_unit_test(test_xml),
		cmocka_unit_test_setup_teardown(test_state, setup_dir, teardown_dir),
		cmocka_unit_test_setup_teardown(test_config, setup_dir, teardown_dir),
		cmocka_unit_test_setup_teardown(test_hook, setup_listener, teardown_listener),
	};

	/* Before libxml2 allocates anything: it frees with what it was set up with. */
	if (xmlMemSetup(free, malloc, realloc, strdup) != 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
