/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The hook against a real unix socket: a memocd that answers, lies, freezes, is full or is not there; a libvirt that
 * writes good XML, bad XML, too much or never ends. hook_run() is called directly; the program itself
 * ($MEMOC_BUILD/memoc-hook) is run for what only a process shows: exit status, stdout, signals, closed descriptors.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/domjson.h"
#include "common/json.h"
#include "hooks/hook.h"

#define SLACK_MS 2000	  /* beyond the deadline, for a machine that is busy with other things */
#define PATIENCE_MS 20000 /* until a test gives up on what must happen */
#define UUID "c7a5fdbd-edaf-9455-926a-d65c16db1809"
#define GOOD_XML                                                                                                       \
	"<domain type='kvm'><name>web1</name><uuid>" UUID                                                              \
	"</uuid><metadata><memoc:policy xmlns:memoc='" VMPOLICY_XMLNS                                                  \
	"' min='512M'/></metadata><memory unit='KiB'>2097152</memory><currentMemory "                                  \
	"unit='KiB'>1048576</currentMemory>"                                                                           \
	"<devices><memballoon model='virtio'><stats period='5'/></memballoon></devices></domain>\n"
#define YES "{\"parameters\":{\"admitted\":true,\"mode\":\"deny\"}}"
#define NO(mode) "{\"parameters\":{\"admitted\":false,\"missing_bytes\":1610612736,\"mode\":\"" mode "\"}}"

/* ---- a memocd ---- */

struct peer {
	char dir[64], path[96];
	int listen_fd;
	const char *reply; /* sent after the first message; NULL: none */
	size_t reply_len;
	bool stays; /* keeps the connection open until the client leaves */
	pthread_t thread;
	bool running;
	char *got; /* the first message, or what came of it */
	size_t got_len;
};

static void peer_listen(struct peer *p, int backlog)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	*p = (struct peer){.dir = "/tmp/memoc-hook-XXXXXX"};
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/sock", p->dir);
	memcpy(addr.sun_path, p->path, strlen(p->path) + 1);
	p->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(p->listen_fd >= 0);
	assert_int_equal(bind(p->listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(p->listen_fd, backlog), 0);
}

static int connect_to(const struct peer *p)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path, p->path, strlen(p->path) + 1);
	assert_true(fd >= 0);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		int code = -errno;

		close(fd);
		return code;
	}
	return fd;
}

static bool readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, PATIENCE_MS) == 1;
}

/* One message up to its NUL, or what came until the client left. */
static void peer_read(struct peer *p, int fd)
{
	size_t size = (size_t)2 << 20;
	ssize_t n = 1;

	p->got = calloc(1, size);
	while (p->got && n > 0 && p->got_len < size - 1 && !memchr(p->got, '\0', p->got_len) && readable(fd)) {
		n = read(fd, p->got + p->got_len, size - 1 - p->got_len);
		if (n > 0)
			p->got_len += (size_t)n;
	}
}

static int peer_accept(struct peer *p)
{
	return readable(p->listen_fd) ? accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC) : -1;
}

static void *peer_main(void *arg)
{
	struct peer *p = arg;
	int fd AUTO_CLOSE = peer_accept(p);
	char rest[256];

	if (fd < 0)
		return NULL;
	peer_read(p, fd);
	/* The client may have left already: that is its right. */
	if (p->reply && send(fd, p->reply, p->reply_len, MSG_NOSIGNAL) < 0)
		return NULL;
	while (p->stays && readable(fd) && read(fd, rest, sizeof(rest)) > 0)
		;
	return NULL;
}

/* reply with len bytes (len 0: the text and its NUL). */
static void peer_start(struct peer *p, const char *reply, size_t len, bool stays)
{
	peer_listen(p, 5);
	p->reply = reply;
	p->reply_len = reply && !len ? strlen(reply) + 1 : len;
	p->stays = stays;
	assert_int_equal(pthread_create(&p->thread, NULL, peer_main, p), 0);
	p->running = true;
}

static void peer_join(struct peer *p)
{
	if (p->running)
		pthread_join(p->thread, NULL);
	p->running = false;
}

static void peer_end(struct peer *p)
{
	peer_join(p);
	if (p->listen_fd >= 0)
		close(p->listen_fd);
	unlink(p->path);
	rmdir(p->dir);
	free(p->got);
}

/* A frozen memocd: the kernel takes the connection and the message, nobody reads. Looks at it after the fact. */
static void peer_thaw(struct peer *p)
{
	int fd AUTO_CLOSE = peer_accept(p);

	assert_true(fd >= 0);
	peer_read(p, fd);
}

/* The message as it came: parameters in *ret; the caller frees *ret_message. */
static const struct json *peer_parameters(struct peer *p, struct json **ret_message)
{
	const char *method;
	const struct json *parameters;

	peer_join(p);
	assert_true(p->got_len > 1);
	assert_int_equal(p->got[p->got_len - 1], '\0');
	assert_int_equal(json_parse(p->got, p->got_len - 1, NULL, ret_message, NULL), 0);
	assert_int_equal(json_get_str(*ret_message, "method", &method), 0);
	assert_string_equal(method, "org.memoc.Hook.Notify");
	parameters = json_get(*ret_message, "parameters");
	assert_int_equal(json_type(parameters), JSON_OBJECT);
	return parameters;
}

static void assert_text(const struct json *j, const char *key, const char *expected)
{
	const char *text;

	assert_int_equal(json_get_str(j, key, &text), 0);
	assert_string_equal(text, expected);
}

static void assert_number(const struct json *j, const char *key, uint64_t expected)
{
	uint64_t number;

	assert_int_equal(json_get_u64(j, key, &number), 0);
	assert_true(number == expected);
}

static void assert_flag(const struct json *j, const char *key, bool expected)
{
	bool flag;

	assert_int_equal(json_get_bool(j, key, &flag), 0);
	assert_int_equal(flag, expected);
}

/* ---- a libvirt ---- */

struct xml_writer {
	int fd;
	const char *xml;
	size_t len, written;
	bool never_ends;
};

static void *xml_main(void *arg)
{
	struct xml_writer *w = arg;
	ssize_t n = 1;

	while (w->written < w->len && n > 0) {
		n = write(w->fd, w->xml + w->written, w->len - w->written);
		if (n > 0)
			w->written += (size_t)n;
	}
	if (!w->never_ends)
		close(w->fd);
	return NULL;
}

struct run {
	const char *args[6]; /* after argv[0], ended by NULL */
	const char *xml;
	size_t len;	      /* 0: strlen(xml) */
	bool never_ends;      /* stdin stays open */
	uint64_t deadline_ms; /* 0: PATIENCE_MS, where time is not the subject */
	/* results */
	int status;
	uint64_t took_ms;
	size_t written; /* of the XML */
	char err[1024];
};

/* Runs the hook in this process, libvirt's pipe being written from a thread. */
static void run(struct run *r, const char *socket_path)
{
	char *argv[8] = {(char *)(uintptr_t) "memoc-hook"};
	int in[2], err[2], argc = 1;
	struct xml_writer w = {.xml = r->xml, .len = r->len ? r->len : strlen(r->xml), .never_ends = r->never_ends};
	struct hook_io io = {.socket_path = socket_path, .deadline_ms = r->deadline_ms ? r->deadline_ms : PATIENCE_MS};
	pthread_t writer;
	ssize_t n;

	for (; argc < 7 && argc <= (int)ARRAY_SIZE(r->args) && r->args[argc - 1]; argc++)
		argv[argc] = (char *)(uintptr_t)r->args[argc - 1];
	assert_int_equal(pipe2(in, O_CLOEXEC) | pipe2(err, O_CLOEXEC), 0);
	w.fd = in[1];
	io.xml_fd = in[0];
	io.err_fd = err[1];
	assert_int_equal(pthread_create(&writer, NULL, xml_main, &w), 0);
	io.start_ms = now_ms();
	r->status = hook_run(argc, argv, &io);
	r->took_ms = now_ms() - io.start_ms;
	close(in[0]);
	close(err[1]);
	pthread_join(writer, NULL);
	if (r->never_ends)
		close(in[1]);
	r->written = w.written;
	n = read(err[0], r->err, sizeof(r->err) - 1);
	r->err[n > 0 ? n : 0] = '\0';
	close(err[0]);
}

#define START(op) .args = {"web1", op, "begin", "-"}

/* ---- what is sent ---- */

static void test_notifies(void **state)
{
	static const char *const operations[] = {"start",   "started", "stopped", "release",	     "reconnect",
						 "migrate", "restore", "attach",  "future-operation"};

	for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
		struct run r = {.args = {"web1", operations[i], "end", "shutdown"}, .xml = GOOD_XML};
		struct json *message AUTO_JSON = NULL;
		const struct json *p;
		struct peer peer;

		peer_start(&peer, NULL, 0, true);
		run(&r, peer.path);
		p = peer_parameters(&peer, &message);
		assert_int_equal(r.status, 0);
		assert_string_equal(r.err, "");
		assert_flag(message, "oneway", true);
		assert_text(p, "name", "web1");
		assert_text(p, "operation", operations[i]);
		assert_text(p, "suboperation", "end");
		assert_text(p, "extra", "shutdown");
		peer_end(&peer);
	}
}

static void test_facts_are_sent(void **state)
{
	struct run r = {START("start"), .xml = GOOD_XML};
	struct json *message AUTO_JSON = NULL;
	const struct json *p;
	struct peer peer;

	peer_start(&peer, NULL, 0, false);
	run(&r, peer.path);
	p = peer_parameters(&peer, &message);
	assert_text(p, "uuid", UUID);
	assert_number(p, "max_bytes", 2 * GIB);
	assert_number(p, "current_bytes", GIB);
	assert_number(p, "min_bytes", 512 * MIB);
	assert_flag(p, "has_balloon", true);
	assert_number(p, "stats_period_s", 5);
	assert_flag(p, "eligible", true);
	assert_null(json_get(p, "ineligible_reason"));
	assert_null(json_get(p, "xml_error"));
	assert_null(json_get(p, "policy_error"));
	peer_end(&peer);
}

static void test_ineligible_is_sent(void **state)
{
	struct run r = {START("start"),
			.xml = "<domain><name>web1</name><uuid>" UUID
			       "</uuid><memory>1024</memory><metadata><p:policy xmlns:p='" VMPOLICY_XMLNS
			       "' weight='0'/></metadata><devices><hostdev type='pci'/></devices></domain>"};
	struct json *message AUTO_JSON = NULL;
	const struct json *p;
	const char *reason, *policy;
	struct peer peer;

	peer_start(&peer, NULL, 0, false);
	run(&r, peer.path);
	p = peer_parameters(&peer, &message);
	assert_flag(p, "eligible", false);
	assert_int_equal(json_get_str(p, "ineligible_reason", &reason), 0);
	assert_non_null(strstr(reason, dom_ineligible_text(DOM_VFIO)));
	assert_non_null(strstr(reason, "hostdev pci"));
	assert_int_equal(json_get_str(p, "policy_error", &policy), 0);
	assert_non_null(strstr(policy, "weight=\"0\""));
	assert_null(json_get(p, "min_bytes"));
	assert_null(json_get(p, "policy"));
	assert_text(p, "ineligible", "vfio");
	assert_text(p, "ineligible_detail", "hostdev pci");
	peer_end(&peer);
}

/* All that the XML says of memory and policy arrives: what memocd reads from the message is what the XML has. */
static void test_message_is_as_good_as_xml(void **state)
{
	static const char head[] =
		"<domain type='qemu'><name>web1</name><uuid>" UUID "</uuid><memory>2097152</memory>"
		"<currentMemory>1048576</currentMemory><vcpu>3</vcpu><metadata><p:policy xmlns:p='" VMPOLICY_XMLNS "' ";
	static const char tail[] =
		"/></metadata><memoryBacking><source type='memfd'/></memoryBacking><features><tcg>"
		"<tb-cache unit='MiB'>32</tb-cache></tcg></features><devices><memballoon "
		"model='virtio' freePageReporting='on'><stats period='2'/></memballoon></devices></domain>";
	static const char *const policies[] = {"",
					       "swap='no'",
					       "managed='no'",
					       "balloon='no' weight='7'",
					       "min='512M' max='1.5G' weight='250' swap='no'",
					       "min='3G'",
					       "hue='red'"};

	for (size_t i = 0; i < ARRAY_SIZE(policies); i++) {
		struct json *message AUTO_JSON = NULL;
		struct dom_facts from_xml, from_hook;
		struct memoc_err err = {""};
		char xml[2048];
		struct peer peer;

		snprintf(xml, sizeof(xml), "%s%s%s", head, policies[i], tail);
		struct run r = {START("start"), .xml = xml};
		assert_int_equal(domxml_parse(xml, strlen(xml), &from_xml, NULL), 0);
		peer_start(&peer, NULL, 0, false);
		run(&r, peer.path);
		memset(&from_hook, 0, sizeof(from_hook));
		assert_int_equal(domjson_read(peer_parameters(&peer, &message), &from_hook, &err), 0);
		/* Where QEMU's mappings are looked for, the live XML is at hand. */
		assert_int_equal(from_hook.ram_blocks, 0);
		from_hook.ram_blocks = from_xml.ram_blocks;
		memcpy(from_hook.ram_block_bytes, from_xml.ram_block_bytes, sizeof(from_xml.ram_block_bytes));
		assert_string_equal(from_hook.name, ""); /* libvirt's argument says it */
		memcpy(from_hook.name, from_xml.name, sizeof(from_hook.name));
		assert_string_equal(from_hook.uuid, from_xml.uuid);
		assert_int_equal(from_hook.ineligible, from_xml.ineligible);
		assert_string_equal(from_hook.ineligible_detail, from_xml.ineligible_detail);
		assert_int_equal(from_hook.policy_bad, from_xml.policy_bad);
		assert_string_equal(from_hook.policy_err.text, from_xml.policy_err.text);
		assert_memory_equal(&from_hook, &from_xml, offsetof(struct dom_facts, ineligible));
		assert_memory_equal(&from_hook.policy, &from_xml.policy, sizeof(from_xml.policy));
		peer_end(&peer);
	}
}

/* A message is not trusted: what is wrong in it is named, and nothing of it is taken. */
static void test_bad_messages(void **state)
{
#define MSG(rest) "{\"uuid\":\"" UUID "\",\"max_bytes\":1073741824" rest "}"
	static const struct {
		const char *text, *says;
		int code;
	} bad[] = {
		{"{\"uuid\":\"" UUID "\"}", "", -ENOENT},
		{"{\"uuid\":\"" UUID "\",\"max_bytes\":null}", "", -ENOENT},
		{"{\"uuid\":\"" UUID "\",\"max_bytes\":0}", "max_bytes", -EINVAL},
		{"{\"uuid\":\"" UUID "\",\"max_bytes\":\"1G\"}", "max_bytes", -EINVAL},
		{"{\"uuid\":\"" UUID "\",\"max_bytes\":-1}", "max_bytes", -EINVAL},
		{"{\"uuid\":\"web1\",\"max_bytes\":1073741824}", "uuid", -EINVAL},
		{MSG(",\"has_balloon\":1"), "has_balloon", -EINVAL},
		{MSG(",\"stats_period_s\":4294967296"), "stats_period_s", -EINVAL},
		{MSG(",\"ineligible\":\"tired\""), "ineligible", -EINVAL},
		{MSG(",\"ineligible\":\"\""), "ineligible", -EINVAL},
		{MSG(",\"ineligible\":\"sev\",\"ineligible_detail\":4"), "ineligible_detail", -EINVAL},
	};
	static const struct {
		const char *text, *says;
	} refused[] = {
		{MSG(",\"policy\":{\"weight\":\"0\"}"), "weight=\"0\""},
		{MSG(",\"policy\":{\"swap\":\"no\",\"weight\":5}"), "weight"},
		{MSG(",\"policy\":{\"swap\":\"no\",\"hue\":\"red\"}"), "hue"},
		{MSG(",\"policy\":{\"swap\":\"no\",\"min\":\"2G\"}"), "min=\"2G\""},
		{MSG(",\"policy\":[]"), "policy"},
		{MSG(",\"policy\":{\"swap\":\"no\"},\"policy_error\":\"said so\""), "said so"},
	};
#undef MSG

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct json *j AUTO_JSON = NULL;
		struct dom_facts f = {.max_bytes = 7}, before = f;
		struct memoc_err err = {""};

		assert_int_equal(json_parse(bad[i].text, strlen(bad[i].text), NULL, &j, NULL), 0);
		assert_int_equal(domjson_read(j, &f, &err), bad[i].code);
		assert_non_null(strstr(err.text, bad[i].says));
		assert_memory_equal(&f, &before, sizeof(f));
	}
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
		struct json *j AUTO_JSON = NULL;
		struct dom_facts f;

		assert_int_equal(json_parse(refused[i].text, strlen(refused[i].text), NULL, &j, NULL), 0);
		assert_int_equal(domjson_read(j, &f, NULL), 0);
		assert_true(f.policy_bad);
		assert_non_null(strstr(f.policy_err.text, refused[i].says));
		assert_true(f.policy.swap && f.policy.weight == 100 && !f.policy.min_bytes);
	}
}

/* ---- XML that is no good: memocd still hears of the VM by its name ---- */

static void check_xml_error(struct run *r, const char *says)
{
	struct json *message AUTO_JSON = NULL;
	const struct json *p;
	const char *text;
	struct peer peer;

	peer_start(&peer, NULL, 0, false);
	run(r, peer.path);
	p = peer_parameters(&peer, &message);
	assert_int_equal(r->status, 0);
	assert_string_equal(r->err, "");
	assert_text(p, "name", "web1");
	assert_text(p, "operation", r->args[1]);
	assert_int_equal(json_get_str(p, "xml_error", &text), 0);
	if (!strstr(text, says))
		fail_msg("\"%s\" does not say \"%s\"", text, says);
	assert_null(json_get(p, "uuid"));
	assert_null(json_get(p, "max_bytes"));
	peer_end(&peer);
}

static void test_bad_xml(void **state)
{
	static const struct {
		const char *xml, *says;
		size_t len;
	} cases[] = {
		{"", "empty", 0},
		{"<domain", "well-formed", 0},
		{"<!DOCTYPE domain [<!ENTITY a 'b'>]><domain>&a;</domain>", "DOCTYPE", 0},
		{"<domain/>\0<domain/>", "NUL", 19},
		{"<network/>", "network", 0},
		{"<domain><name>web1</name><uuid>" UUID "</uuid><memory unit='EiB'>99</memory></domain>", "too large",
		 0},
		{"\xff\xfe\x00\x01", "NUL", 4},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct run r = {START("reconnect"), .xml = cases[i].xml, .len = cases[i].len};

		check_xml_error(&r, cases[i].says);
	}
}

/* 5 MiB: refused, but taken from the pipe to the last byte, so that libvirt's write succeeds. */
static void test_too_much_xml(void **state)
{
	const size_t len = (size_t)5 << 20;
	char *xml AUTO_FREE = malloc(len);
	struct run r = {START("started"), .xml = xml, .len = len};

	assert_non_null(xml);
	memset(xml, ' ', len);
	check_xml_error(&r, "more than 4194304 bytes");
	assert_int_equal(r.written, len);
}

static void test_stdin_never_ends(void **state)
{
	struct run r = {START("start"), .xml = "<domain><name>web", .never_ends = true, .deadline_ms = HOOK_WORK_MS};

	check_xml_error(&r, "did not end in time");
	assert_true(r.took_ms >= HOOK_WORK_MS / 4 && r.took_ms <= HOOK_DEADLINE_MS + SLACK_MS);
}

/* The document is whole, only the pipe stays open: that is as good. */
static void test_whole_xml_on_open_stdin(void **state)
{
	struct run r = {START("start"), .xml = GOOD_XML, .never_ends = true, .deadline_ms = SLACK_MS};
	struct json *message AUTO_JSON = NULL;
	struct peer peer;

	peer_start(&peer, NULL, 0, false);
	run(&r, peer.path);
	assert_text(peer_parameters(&peer, &message), "uuid", UUID);
	assert_true(r.took_ms <= SLACK_MS + SLACK_MS);
	peer_end(&peer);
}

/* ---- admission ---- */

static int run_prepare(const char *reply, size_t len, struct run *r)
{
	struct json *message AUTO_JSON = NULL;
	struct peer peer;

	*r = (struct run){START("prepare"), .xml = GOOD_XML};
	peer_start(&peer, reply, len, false);
	run(r, peer.path);
	assert_text(peer_parameters(&peer, &message), "operation", "prepare");
	assert_null(json_get(message, "oneway"));
	peer_end(&peer);
	return r->status;
}

static void test_admitted(void **state)
{
	struct run r;

	assert_int_equal(run_prepare(YES, 0, &r), 0);
	assert_string_equal(r.err, "");
	assert_int_equal(run_prepare(NO("warn"), 0, &r), 0);
	assert_int_equal(run_prepare(NO("off"), 0, &r), 0);
	assert_int_equal(run_prepare(NO("DENY"), 0, &r), 0);
	assert_string_equal(r.err, "");
}

static void test_denied(void **state)
{
	struct run r;

	assert_int_equal(run_prepare(NO("deny"), 0, &r), 1);
	assert_non_null(strstr(r.err, "web1"));
	assert_non_null(strstr(r.err, "1.5 GiB missing"));
	assert_non_null(strstr(r.err, "memoc set"));
	assert_ptr_equal(strchr(r.err, '\n'), r.err + strlen(r.err) - 1); /* one line */
	/* a "no" that does not say how much is one, too */
	assert_int_equal(run_prepare("{\"parameters\":{\"admitted\":false,\"mode\":\"deny\"}}", 0, &r), 1);
	assert_non_null(strstr(r.err, "memory is missing"));
}

/* A stdin that never ends may not use up the time for the answer. */
static void test_denied_on_open_stdin(void **state)
{
	struct run r = {START("prepare"), .xml = GOOD_XML, .never_ends = true, .deadline_ms = SLACK_MS};
	struct peer peer;

	peer_start(&peer, NO("deny"), 0, false);
	run(&r, peer.path);
	assert_int_equal(r.status, 1);
	peer_end(&peer);
}

/* The same "no" to any other operation is not even waited for. */
static void test_only_prepare_can_deny(void **state)
{
	static const char *const operations[] = {"reconnect", "start",	  "started", "migrate",
						 "restore",   "prepared", "PREPARE"};

	for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
		struct run r = {START(operations[i]), .xml = GOOD_XML};
		struct peer peer;

		peer_start(&peer, NO("deny"), 0, false);
		run(&r, peer.path);
		assert_int_equal(r.status, 0);
		assert_string_equal(r.err, "");
		peer_end(&peer);
	}
}

static void test_garbage_answers(void **state)
{
	static const struct {
		const char *reply;
		size_t len;
	} cases[] = {
		{"", 0}, /* a NUL alone */
		{"no", 0},
		{"\0\0\0\0", 4},
		{"{}", 0},
		{"[]", 0},
		{"{\"parameters\":{\"admitted\":false,\"mode\":\"deny\"}", 0},
		{"{\"parameters\":{\"admitted\":false,\"mode\":\"deny\"}}", 20}, /* cut off, then closed */
		{"{\"parameters\":{\"admitted\":false}}", 0},
		{"{\"parameters\":{\"mode\":\"deny\"}}", 0},
		{"{\"parameters\":{\"admitted\":\"false\",\"mode\":\"deny\"}}", 0},
		{"{\"parameters\":{\"admitted\":0,\"mode\":\"deny\"}}", 0},
		{"{\"parameters\":{\"admitted\":false,\"mode\":1}}", 0},
		{"{\"parameters\":[false,\"deny\"]}", 0},
		{"{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":{\"admitted\":false,\"mode\":"
		 "\"deny\"}}",
		 0},
		{"HTTP/1.1 400 Bad Request\r\n\r\n", 0},
		{"\xff\xfe\xfd", 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct run r;

		if (run_prepare(cases[i].reply, cases[i].len, &r) != 0)
			fail_msg("case %zu denied", i);
		assert_string_equal(r.err, "");
	}
}

static void test_closed_without_answer(void **state)
{
	struct run r;

	assert_int_equal(run_prepare(NULL, 0, &r), 0);
	assert_string_equal(r.err, "");
}

/* More than a message may have, and no end in it. */
static void test_endless_answer(void **state)
{
	const size_t len = (size_t)3 << 20;
	char *reply AUTO_FREE = malloc(len);
	struct run r;

	assert_non_null(reply);
	memset(reply, '{', len);
	assert_int_equal(run_prepare(reply, len, &r), 0);
}

/* ---- a memocd that is frozen, full or absent ---- */

static void test_frozen(void **state)
{
	static const char *const operations[] = {"prepare", "start", "reconnect"};

	for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
		struct run r = {START(operations[i]), .xml = GOOD_XML, .deadline_ms = HOOK_WORK_MS};
		struct json *message AUTO_JSON = NULL;
		struct peer peer;

		peer_listen(&peer, 5);
		run(&r, peer.path);
		assert_int_equal(r.status, 0);
		assert_string_equal(r.err, "");
		assert_true(r.took_ms <= HOOK_DEADLINE_MS + SLACK_MS);
		/* prepare waits for an answer as long as it may, and its job was done before it gave up */
		assert_true(i > 0 || r.took_ms + 5 >= HOOK_WORK_MS);
		peer_thaw(&peer);
		assert_text(peer_parameters(&peer, &message), "operation", operations[i]);
		peer_end(&peer);
	}
}

/* Nobody accepts and the queue is full: connecting itself must not outlast the deadline. */
static void test_full_queue(void **state)
{
	struct run r = {START("start"), .xml = GOOD_XML, .deadline_ms = HOOK_WORK_MS};
	struct peer peer;
	int fds[64], n = 0, fd = 0;

	peer_listen(&peer, 0);
	while (fd >= 0 && n < (int)ARRAY_SIZE(fds)) {
		fd = connect_to(&peer);
		if (fd >= 0)
			fds[n++] = fd;
	}
	assert_int_equal(fd, -EAGAIN);
	run(&r, peer.path);
	assert_int_equal(r.status, 0);
	assert_true(r.took_ms <= HOOK_DEADLINE_MS + SLACK_MS);
	while (n > 0)
		close(fds[--n]);
	peer_end(&peer);
}

static void test_absent(void **state)
{
	static const char *const operations[] = {"prepare", "start", "reconnect", "release"};
	char path[256];
	struct peer peer;

	peer_listen(&peer, 1);
	close(peer.listen_fd); /* the socket's file is left over, as after kill -9 */
	peer.listen_fd = -1;
	memset(path, 'p', sizeof(path) - 1); /* longer than a socket's path may be */
	path[sizeof(path) - 1] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
		const char *const paths[] = {"/nonexistent/memoc.sock", "/dev/null", "", path, peer.path};
		for (size_t j = 0; j < ARRAY_SIZE(paths); j++) {
			struct run r = {START(operations[i]), .xml = GOOD_XML};

			run(&r, paths[j]);
			assert_int_equal(r.status, 0);
			assert_string_equal(r.err, "");
			assert_true(r.took_ms < PATIENCE_MS / 2); /* waits for nothing */
			assert_int_equal(r.written, strlen(GOOD_XML));
		}
	}
	peer_end(&peer);
}

/* A deadline that has passed already: nothing is done, and nothing waited for. */
static void test_no_time_left(void **state)
{
	struct run r = {START("prepare"), .xml = GOOD_XML, .deadline_ms = 1, .never_ends = true};
	struct peer peer;

	peer_listen(&peer, 5);
	run(&r, peer.path);
	assert_int_equal(r.status, 0);
	assert_true(r.took_ms <= SLACK_MS);
	peer_end(&peer);
}

/* ---- arguments ---- */

static void test_missing_arguments(void **state)
{
	struct run cases[] = {{.args = {NULL}}, {.args = {"web1"}}, {.args = {"", "start"}}, {.args = {"web1", ""}}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct run *r = &cases[i];

		r->xml = GOOD_XML;
		run(r, "/nonexistent/memoc.sock");
		assert_int_equal(r->status, 0);
		assert_non_null(strstr(r->err, "NAME OPERATION"));
		assert_ptr_equal(strchr(r->err, '\n'), r->err + strlen(r->err) - 1);
	}
}

static void test_short_arguments(void **state)
{
	struct run r = {.args = {"web1", "start"}, .xml = GOOD_XML};
	struct json *message AUTO_JSON = NULL;
	const struct json *p;
	struct peer peer;

	peer_start(&peer, NULL, 0, false);
	run(&r, peer.path);
	p = peer_parameters(&peer, &message);
	assert_text(p, "suboperation", "-");
	assert_text(p, "extra", "-");
	peer_end(&peer);
}

static void test_huge_arguments(void **state)
{
	const size_t len = 100000;
	char *huge AUTO_FREE = malloc(len + 1);

	assert_non_null(huge);
	memset(huge, 'A', len);
	huge[len] = '\0';
	for (size_t i = 0; i < 4; i++) {
		struct run r = {START("prepare"), .xml = GOOD_XML};

		r.args[i] = huge;
		run(&r, "/nonexistent/memoc.sock");
		assert_int_equal(r.status, 0);
		assert_non_null(strstr(r.err, "longer than 255 bytes"));
	}
}

static void test_hostile_arguments(void **state)
{
	struct run r = {.args = {"a\"}\n\x1b[31m\xff\xfe", "start\",\"name\":\"x", "\\", "%s%n"}, .xml = GOOD_XML};
	struct json *message AUTO_JSON = NULL;
	const struct json *p;
	struct peer peer;

	peer_start(&peer, NULL, 0, false);
	run(&r, peer.path);
	p = peer_parameters(&peer, &message);
	assert_text(p, "name", "a\"}\n\x1b[31m\xef\xbf\xbd\xef\xbf\xbd");
	assert_text(p, "operation", "start\",\"name\":\"x");
	assert_text(p, "suboperation", "\\");
	assert_text(p, "extra", "%s%n");
	peer_end(&peer);
}

/* ---- the process ---- */

/* Status of a child within the tests' patience; it is killed (and the test fails) after that. */
static int wait_child(pid_t pid)
{
	uint64_t end_ms = now_ms() + PATIENCE_MS;
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_ms() > end_ms) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			fail_msg("the process did not end");
		}
		poll(NULL, 0, 2);
	}
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void overflow_stack(volatile char *from, unsigned depth)
{
	volatile char frame[4096];

	frame[0] = *from;
	if (depth > 0)
		overflow_stack(frame, depth - 1);
	*from = frame[0]; /* no tail call */
}

static void child_pauses(void)
{
	for (;;)
		pause();
}

static void child_spins(void)
{
	for (volatile unsigned i = 0;; i++)
		;
}

static void child_crashes(void)
{
	raise(SIGSEGV);
}

static void child_aborts(void)
{
	abort();
}

static void child_overflows(void)
{
	const struct rlimit limit = {.rlim_cur = 256 << 10, .rlim_max = 256 << 10};
	char c = 0;

	setrlimit(RLIMIT_STACK, &limit);
	overflow_stack(&c, 1000000); /* 4 GiB */
}

static void child_writes_to_nobody(void)
{
	int p[2];

	if (pipe(p) == 0 && close(p[0]) == 0 && write(p[1], "x", 1) < 0)
		_exit(0);
	_exit(3);
}

static void child_is_ended(void)
{
	raise(SIGTERM);
	_exit(4);
}

static void test_guard(void **state)
{
	static void (*const children[])(void) = {child_pauses,	child_spins,	 child_crashes,
						 child_aborts,	child_overflows, child_writes_to_nobody,
						 child_is_ended};

	for (size_t i = 0; i < ARRAY_SIZE(children); i++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			sigset_t all;
			int null_fd = open("/dev/null", O_RDWR);

			signal(SIGPIPE, SIG_DFL); /* unlike main() below */

			dup2(null_fd, STDERR_FILENO);
			sigfillset(&all); /* whoever starts the hook may leave it like this */
			sigprocmask(SIG_SETMASK, &all, NULL);
			hook_guard(100);
			children[i]();
			_exit(5);
		}
		assert_int_equal(wait_child(pid), 0);
	}
}

/* Descriptors 0 to 2 closed: the next one that is opened must not become one of them. */
static void test_guard_opens_std_fds(void **state)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		close(0);
		close(1);
		close(2);
		hook_guard(PATIENCE_MS);
		_exit(socket(AF_UNIX, SOCK_STREAM, 0) > 2 ? 0 : 1);
	}
	assert_int_equal(wait_child(pid), 0);
}

static const char *program(void)
{
	static char path[512];
	const char *build = getenv("MEMOC_BUILD");

	snprintf(path, sizeof(path), "%s/memoc-hook", build && *build ? build : "build");
	if (access(path, X_OK))
		fail_msg("%s is missing: run this by `make check-unit`", path);
	return path;
}

struct process {
	pid_t pid;
	int in_fd, out_fd; /* its stdin; its stdout and stderr */
};

static void process_start(struct process *p, const char *operation, const char *socket_path)
{
	const char *path = program();
	int in[2], out[2];

	assert_int_equal(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC), 0);
	/* Before the fork: a peer's thread may hold a lock at that moment, which the child would never see released. */
	assert_int_equal(setenv("MEMOC_SOCKET", socket_path, 1), 0);
	p->pid = fork();
	assert_true(p->pid >= 0);
	if (p->pid == 0) {
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		dup2(out[1], STDERR_FILENO);
		execl(path, path, "web1", operation, "begin", "-", (char *)NULL);
		_exit(127);
	}
	unsetenv("MEMOC_SOCKET");
	close(in[0]);
	close(out[1]);
	p->in_fd = in[1];
	p->out_fd = out[0];
}

static void process_write(struct process *p, const char *xml)
{
	assert_int_equal(write(p->in_fd, xml, strlen(xml)), (ssize_t)strlen(xml));
	close(p->in_fd);
	p->in_fd = -1;
}

/* Exit status; what it printed on stdout and stderr in text. */
static int process_end(struct process *p, char text[1024])
{
	int status = wait_child(p->pid);
	ssize_t n = read(p->out_fd, text, 1023);

	text[n > 0 ? n : 0] = '\0';
	close(p->out_fd);
	if (p->in_fd >= 0)
		close(p->in_fd);
	return status;
}

/*
 * One run of the program against a memocd that never answers; xml NULL: stdin says nothing and never ends. Whether
 * memocd got the call with `says` in it: on a busy machine the deadline may come first, which is the program's right.
 */
static bool program_delivers(const char *operation, const char *xml, const char *says)
{
	uint64_t start_ms = now_ms();
	struct pollfd waiting = {.events = POLLIN};
	struct process p;
	struct peer peer;
	char text[1024];
	bool came;

	peer_listen(&peer, 5);
	process_start(&p, operation, peer.path);
	if (xml)
		process_write(&p, xml);
	assert_int_equal(process_end(&p, text), 0);
	assert_true(now_ms() - start_ms <= HOOK_DEADLINE_MS + SLACK_MS);
	assert_string_equal(text, "");
	waiting.fd = peer.listen_fd;
	came = poll(&waiting, 1, 0) == 1;
	if (came) {
		peer_thaw(&peer);
		came = strstr(peer.got, says);
	}
	peer_end(&peer);
	return came;
}

static void test_program(void **state)
{
	static const struct {
		const char *operation, *xml, *says;
	} cases[] = {
		{"start", GOOD_XML, UUID},
		{"prepare", GOOD_XML, UUID},
		{"prepare", NULL, "0 bytes came"}, /* everything stuck at once: only the clock can end it */
		{"reconnect", NULL, "0 bytes came"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		bool came = false;

		for (int attempt = 0; attempt < 10 && !came; attempt++)
			came = program_delivers(cases[i].operation, cases[i].xml, cases[i].says);
		assert_true(came);
	}
}

/* The deadline came before the call: the peer's thread still waits for somebody. */
static void release_peer(const struct peer *p)
{
	int fd AUTO_CLOSE = connect_to(p);

	assert_true(fd >= 0);
}

static void test_program_denies(void **state)
{
	int status = 0;

	for (int attempt = 0; attempt < 10 && status == 0; attempt++) {
		struct process p;
		struct peer peer;
		char text[1024];

		peer_start(&peer, NO("deny"), 0, false);
		process_start(&p, "prepare", peer.path);
		process_write(&p, GOOD_XML);
		status = process_end(&p, text);
		if (status)
			assert_non_null(strstr(text, "1.5 GiB missing"));
		else
			release_peer(&peer);
		peer_end(&peer);
	}
	assert_int_equal(status, 1);
}

/* Killed in any way that can be caught, a running VM must not pay for it. */
static void test_program_survives_signals(void **state)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGSEGV, SIGABRT, SIGPIPE};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct pollfd connected = {.events = POLLIN};
		struct process p;
		struct peer peer;
		char text[1024];

		peer_listen(&peer, 5);
		process_start(&p, "prepare", peer.path);
		process_write(&p, GOOD_XML);
		/* Once it has connected the guard stands; at the latest after its deadline it is gone. */
		connected.fd = peer.listen_fd;
		poll(&connected, 1, HOOK_DEADLINE_MS + SLACK_MS);
		kill(p.pid, signals[i]); /* not waited for yet: the number is still its own */
		assert_int_equal(process_end(&p, text), 0);
		peer_end(&peer);
	}
}

/* Puts a file that is no library in the way of the one that this test and the hook use. */
struct spoiler {
	const char *dir, *prefix;
	bool done;
};

static int spoil(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct spoiler *s = arg;
	const char *base = strrchr(info->dlpi_name, '/');
	char path[512];

	if (!base || strncmp(base + 1, s->prefix, strlen(s->prefix)) != 0)
		return 0;
	snprintf(path, sizeof(path), "%s%s", s->dir, base);
	int fd AUTO_CLOSE = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	s->done = fd >= 0;
	return 1;
}

/* A library that is gone or broken (an upgrade of the system) must not kill VMs: the loader would end with 127. */
static void test_program_without_its_libraries(void **state)
{
	static const char *const prefixes[] = {"libyajl.so", "libxml2.so"};
	static const char *const operations[] = {"reconnect", "prepare"};

	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
		char dir[] = "/tmp/memoc-hook-XXXXXX", command[64], text[1024];
		struct spoiler s = {.dir = mkdtemp(dir), .prefix = prefixes[i]};
		const char *before = getenv("LD_LIBRARY_PATH");
		char *kept AUTO_FREE = before ? strdup(before) : NULL;

		dl_iterate_phdr(spoil, &s);
		assert_true(s.done);
		setenv("LD_LIBRARY_PATH", dir, 1);
		for (size_t k = 0; k < ARRAY_SIZE(operations); k++) {
			struct process p;

			process_start(&p, operations[k], "/nonexistent");
			close(p.in_fd);
			p.in_fd = -1;
			assert_int_equal(process_end(&p, text), 0);
			assert_non_null(strstr(text, prefixes[i]));
			assert_non_null(strstr(text, "libvirt goes on"));
		}
		if (kept)
			setenv("LD_LIBRARY_PATH", kept, 1);
		else
			unsetenv("LD_LIBRARY_PATH");
		snprintf(command, sizeof(command), "rm -r %s", dir);
		assert_int_equal(system(command), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_notifies),
		cmocka_unit_test(test_facts_are_sent),
		cmocka_unit_test(test_ineligible_is_sent),
		cmocka_unit_test(test_message_is_as_good_as_xml),
		cmocka_unit_test(test_bad_messages),
		cmocka_unit_test(test_bad_xml),
		cmocka_unit_test(test_too_much_xml),
		cmocka_unit_test(test_stdin_never_ends),
		cmocka_unit_test(test_whole_xml_on_open_stdin),
		cmocka_unit_test(test_admitted),
		cmocka_unit_test(test_denied),
		cmocka_unit_test(test_denied_on_open_stdin),
		cmocka_unit_test(test_only_prepare_can_deny),
		cmocka_unit_test(test_garbage_answers),
		cmocka_unit_test(test_closed_without_answer),
		cmocka_unit_test(test_endless_answer),
		cmocka_unit_test(test_frozen),
		cmocka_unit_test(test_full_queue),
		cmocka_unit_test(test_absent),
		cmocka_unit_test(test_no_time_left),
		cmocka_unit_test(test_missing_arguments),
		cmocka_unit_test(test_short_arguments),
		cmocka_unit_test(test_huge_arguments),
		cmocka_unit_test(test_hostile_arguments),
		cmocka_unit_test(test_guard),
		cmocka_unit_test(test_guard_opens_std_fds),
		cmocka_unit_test(test_program),
		cmocka_unit_test(test_program_denies),
		cmocka_unit_test(test_program_survives_signals),
		cmocka_unit_test(test_program_without_its_libraries),
	};

	signal(SIGPIPE, SIG_IGN); /* of the writer threads: the hook may leave its stdin unread */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
