/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memoc command as a user sees it: cli_main in a child process, its output through a pipe or a pseudo-terminal.
 * Simulated: memocd is a forked process that answers with fixed data by the real varlink server half (or with garbage,
 * or not at all); the hosts that `check` looks at are trees of files; memocd --check-config and virsh are shell
 * scripts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>

#include "common/json.h"
#include "common/varlink.h"
#include "controller/cli/check.h"
#include "controller/cli/cli.h"
#include "controller/cli/migrate.h"
#include "varlink-text.h"

#define PATIENCE_MS 30000 /* a hang ends as a failure */
#define OUTPUT_MAX 65536
#define C "org.memoc.Controller."

/* ---- children ---- */

/*
 * cmocka turns a crash into a failed test by longjmp: in a child that would go on running all tests, and fork children
 * of its own without end. So a child gets back the signals that cmocka takes, dies with its parent, and setup() lets
 * none in.
 */
static pid_t tests_pid;

static pid_t fork_child(void)
{
	static const int signals[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS};
	pid_t pid;

	assert_int_equal(getpid(), tests_pid);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid > 0)
		return pid;
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		signal(signals[i], SIG_DFL);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != tests_pid)
		_exit(99);
	return 0;
}

/* ---- the server: fixed answers; errors are chosen by the VM's name ---- */

static const char web1[] =
	"{\"name\":\"web1\",\"uuid\":\"00000000-0000-4000-8000-000000000001\",\"state\":\"steady\",\"eligible\":true,"
	"\"ineligible_reason\":null,\"max_bytes\":4294967296,\"min_bytes\":536870912,\"weight\":100,"
	"\"target_bytes\":2147483648,\"balloon_bytes\":2147483648,\"limit_bytes\":null,\"resident_bytes\":1610612736,"
	"\"swapped_bytes\":0,\"usable_bytes\":805306368,\"wss_bytes\":1073741824,\"wss_error_bytes\":21474836,"
	"\"need_bytes\":1342177280,\"rank\":null,\"needy\":false,\"greedy_bytes\":805306368,"
	"\"balloon_health\":\"working\",\"balloon_bytes_per_s\":1020054732,\"guest_swap_in_per_s\":0,"
	"\"guest_swap_out_per_s\":0,\"host_major_faults_per_s\":0.5,\"stats_age_ms\":420,\"last_change_ms\":61000,"
	"\"reason\":\"within the dead band\",\"held\":false,\"pinned_bytes\":null,\"quarantined\":false,"
	"\"double_swapping\":false}";
static const char web2[] =
	"{\"name\":\"web2\",\"uuid\":\"00000000-0000-4000-8000-000000000002\",\"state\":\"growing-limit\",\"eligible\":"
	"true,"
	"\"max_bytes\":2147483648,\"min_bytes\":268435456,\"weight\":200,\"target_bytes\":1610612736,"
	"\"balloon_bytes\":1073741824,\"limit_bytes\":1181116006,\"resident_bytes\":1073741824,\"swapped_bytes\":"
	"104857600,"
	"\"wss_bytes\":null,\"need_bytes\":1717986918,\"rank\":1,\"needy\":true,\"greedy_bytes\":0,"
	"\"balloon_health\":\"slow\",\"reason\":\"needy: guest swap-in\",\"held\":true,\"pinned_bytes\":1610612736,"
	"\"quarantined\":false,\"double_swapping\":true,\"newer_field\":7}";
static const char long_name[] =
	"{\"name\":\"a-virtual-machine-with-a-very-long-name-indeed\",\"uuid\":\"00000000-0000-4000-8000-"
	"000000000003\","
	"\"state\":\"fixed\",\"eligible\":false,\"ineligible_reason\":\"passes a PCI device through\","
	"\"max_bytes\":8589934592,\"min_bytes\":8589934592,\"weight\":100,\"target_bytes\":8589934592,"
	"\"need_bytes\":8589934592,\"needy\":false,\"greedy_bytes\":0,\"balloon_health\":\"absent\",\"reason\":\"\","
	"\"held\":false,\"quarantined\":true,\"double_swapping\":false}";
static const char policy[] = "[{\"key\":\"min\",\"value\":\"512M\",\"effective\":\"536870912\",\"source\":\"live\"},"
			     "{\"key\":\"weight\",\"value\":\"\",\"effective\":\"100\",\"source\":\"default\"}]";
static const char host[] =
	"{\"host\":{\"pool_bytes\":10737418240,\"reserve_bytes\":1073741824,\"buffer_target_bytes\":536870912,"
	"\"buffer_bytes\":402653184,\"committed_bytes\":15032385536,\"granted_bytes\":9663676416,"
	"\"resident_bytes\":8053063680,\"swapped_bytes\":104857600,\"overcommit_ratio\":1.4,\"level\":\"soft\","
	"\"swap_total_bytes\":2147483648,\"swap_free_bytes\":1932735283,\"psi_some_avg10\":0.25,\"psi_full_avg10\":"
	"null,"
	"\"vms\":3,\"cgroup\":\"v2\",\"wss_backend\":\"none\",\"observe_only\":false,\"version\":\"" MEMOC_VERSION "\","
	"\"uptime_s\":90,\"libvirt_connected\":true,\"policy\":\"needy-greedy\",\"held\":false,\"swap_low\":false}}";
static const char event1[] =
	"{\"time\":\"2026-11-22T20:15:25.123Z\",\"vm\":\"web1\",\"uuid\":\"00000000-0000-4000-8000-000000000001\","
	"\"event\":\"target\",\"state\":\"steady\",\"from_bytes\":2147483648,\"to_bytes\":1610612736,"
	"\"reason\":\"greedy\",\"details\":{\"rank\":2}}";
static const char event2[] =
	"{\"time\":\"2026-11-22T20:15:26.000Z\",\"event\":\"level\",\"reason\":\"buffer below half\"}";

static int log_fd = -1; /* every call: "Method {parameters}" in a line */

static void log_call(struct varlink_call *call, const struct json *parameters)
{
	struct json_writer *w = jw_new(false);
	char *text AUTO_FREE = NULL;

	jw_json(w, NULL, parameters);
	if (jw_finish(w, &text, NULL) == 0)
		dprintf(log_fd, "%s %s\n", varlink_call_method(call) + strlen(C), text);
}

/* true where the VM's name asked for an error, or for none at all. */
static bool answer_error(struct varlink_call *call, const struct json *parameters)
{
	static const struct {
		const char *vm, *error, *parameters;
	} errors[] = {
		{"wbe1", C "NoSuchVm", "{\"vm\":\"wbe1\"}"},
		{"elephant", C "NoSuchVm", "{\"vm\":\"elephant\"}"},
		{"twins", C "AmbiguousVm", "{\"vm\":\"twins\"}"},
		{"denied", C "PermissionDenied", "{\"why\":\"uid 1000 is not in the group memoc\"}"},
		{"refused", C "Refused", "{\"what\":\"the size 1G\",\"why\":\"its policy has min=2G\"}"},
		{"slow", C "StillResizing", "{\"target_bytes\":1073741824,\"size_bytes\":1610612736}"},
		{"future", C "NotSupported", "{\"what\":\"shrinking TPMs\"}"},
		{"failed", C "Failed", "{\"why\":\"libvirt:\\u001b[31m no domain\"}"},
		{"strange", "com.example.Strange", NULL},
		{"bad-parameter", "org.varlink.service.InvalidParameter", "{\"parameter\":\"vm\"}"},
		{"old", "org.varlink.service.MethodNotFound", "{\"method\":\"x\"}"},
	};
	const char *vm = "";

	log_call(call, parameters);
	json_get_str(parameters, "vm", &vm);
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
		if (!strcmp(errors[i].vm, vm)) {
			varlink_fail(call, errors[i].error, errors[i].parameters);
			return true;
		}
	if (!strcmp(vm, "dies"))
		_exit(0);
	/* parameters, and vm with them, are gone after an answer */
	if (!strcmp(vm, "lacking")) {
		varlink_answer(call, "{\"vm\":5}", false);
		return true;
	}
	return !strcmp(vm, "hangs");
}

static void answerf(struct varlink_call *call, bool continues, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void answerf(struct varlink_call *call, bool continues, const char *fmt, ...)
{
	char *text AUTO_FREE = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	varlink_answer(call, text, continues);
}

static void method_list(struct varlink_call *call, const struct json *parameters, void *user)
{
	bool all = false;

	log_call(call, parameters);
	json_get_bool(parameters, "all", &all);
	if (user) /* no VMs */
		answerf(call, false, "{\"vms\":[]}");
	else if (all)
		answerf(call, false, "{\"vms\":[%s,%s,%s]}", long_name, web1, web2);
	else
		answerf(call, false, "{\"vms\":[%s,%s]}", web1, web2);
}

static void method_info(struct varlink_call *call, const struct json *parameters, void *user)
{
	if (!answer_error(call, parameters))
		answerf(call, false,
			"{\"vm\":%s,\"pid\":4711,\"cgroup_path\":\"/machine/"
			"qemu-1-web1.libvirt-qemu\",\"overhead_bytes\":104857600,"
			"\"overhead_measured\":true,\"demand_bytes\":1207959552,\"headroom_bytes\":134217728,\"floor_"
			"bytes\":null,"
			"\"next_retry_ms\":null,\"retry_delay_ms\":null,\"dwell_ms\":10000,\"free_page_reporting\":"
			"true,"
			"\"stats_period_s\":1,\"shared_memory\":false,\"policy\":%s,\"policy_error\":\"weight: '0' is "
			"too small\","
			"\"signals\":[{\"name\":\"usable\",\"value\":805306368,\"unit\":\"bytes\",\"age_ms\":420,"
			"\"confidence\":0.9,"
			"\"source\":\"balloon\"},{\"name\":\"psi\",\"value\":null,\"unit\":\"ratio\",\"age_ms\":null,"
			"\"confidence\":0,\"source\":\"cgroup\"}]}",
			web1, policy);
}

static void method_host(struct varlink_call *call, const struct json *parameters, void *user)
{
	log_call(call, parameters);
	if (user)
		varlink_answer(call,
			       "{\"host\":{\"buffer_bytes\":-1073741824,\"swap_total_bytes\":0,\"swap_free_bytes\":0}}",
			       false);
	else
		varlink_answer(call, host, false);
}

static void method_explain(struct varlink_call *call, const struct json *parameters, void *user)
{
	if (!answer_error(call, parameters))
		answerf(call, false,
			"{\"vm\":%s,\"summary\":\"2 GiB, since nobody needs more\",\"terms\":[{\"name\":\"demand\","
			"\"value_bytes\":1207959552,\"text\":\"used by its own "
			"account\"},{\"name\":\"wss\",\"value_bytes\":null,"
			"\"text\":\"unknown\"}],\"bounds\":[\"never below min, 512 MiB\"],\"next\":[]}",
			web1);
}

static void method_events(struct varlink_call *call, const struct json *parameters, void *user)
{
	const char *vm = "";

	if (answer_error(call, parameters))
		return;
	json_get_str(parameters, "vm", &vm);
	if (!varlink_call_more(call)) {
		answerf(call, false, "{\"events\":[%s,%s]}", event1, event2);
		return;
	}
	answerf(call, true, "{\"events\":[%s]}", event1);
	answerf(call, strcmp(vm, "ends") != 0, "{\"events\":[%s]}", event2);
}

static void method_get(struct varlink_call *call, const struct json *parameters, void *user)
{
	if (!answer_error(call, parameters))
		answerf(call, false, "{\"values\":%s}", policy);
}

static void method_plain(struct varlink_call *call, const struct json *parameters, void *user)
{
	if (!answer_error(call, parameters))
		varlink_answer(call, NULL, false);
}

static void method_resize(struct varlink_call *call, const struct json *parameters, void *user)
{
	uint64_t bytes = 2 * GIB;
	bool wait = false;

	json_get_u64(parameters, "bytes", &bytes);
	json_get_bool(parameters, "wait", &wait);
	if (!answer_error(call, parameters))
		answerf(call, false, "{\"from_bytes\":2147483648,\"to_bytes\":%llu,\"reached\":%s}",
			(unsigned long long)bytes, wait ? "true" : "false");
}

static void method_drain(struct varlink_call *call, const struct json *parameters, void *user)
{
	const char *vm = "";

	json_get_str(parameters, "vm", &vm);
	if (!answer_error(call, parameters))
		answerf(call, false, "{\"vms\":3,\"open\":%d}", strcmp(vm, "web2") ? 3 : 1);
}

static void method_config(struct varlink_call *call, const struct json *parameters, void *user)
{
	log_call(call, parameters);
	answerf(call, false,
		"{\"settings\":[{\"key\":\"host.pool\",\"value\":\"auto\",\"source\":\"default\"},"
		"{\"key\":\"policy.interval\",\"value\":\"1s\",\"source\":\"/etc/memoc/memoc.conf:7\"}]}");
}

static void method_prepare(struct varlink_call *call, const struct json *parameters, void *user)
{
	const char *vm = "";

	json_get_str(parameters, "vm", &vm);
	if (!answer_error(call, parameters))
		answerf(call, false,
			"{\"from_bytes\":2147483648,\"to_bytes\":%s,\"from_swapped_bytes\":104857600,"
			"\"to_swapped_bytes\":%s,\"max_bytes\":4294967296,\"why_not\":%s,\"connect_uri\":\"qemu:///"
			"here\"}",
			strcmp(vm, "web2") ? "1073741824" : "2147483648", strcmp(vm, "web2") ? "20971520" : "104857600",
			strcmp(vm, "web2") ? "null" : "\"its balloon does not work\"");
}

static const struct varlink_method methods[] = {
	{C "List", method_list},
	{C "Info", method_info},
	{C "Host", method_host},
	{C "Explain", method_explain},
	{C "Events", method_events},
	{C "GetPolicy", method_get},
	{C "SetPolicy", method_plain},
	{C "Resize", method_resize},
	{C "Hold", method_plain},
	{C "Release", method_plain},
	{C "Drain", method_drain},
	{C "PrepareMigration", method_prepare},
	{C "AbandonMigration", method_plain},
	{C "Config", method_config},
	{NULL, NULL},
};
static const struct varlink_interface interfaces[] = {
	{"org.memoc.Controller", VARLINK_TEXT_org_memoc_Controller, methods},
	{NULL, NULL, NULL},
};

static void no_wants(struct varlink_conn *conn, int mask, void *conn_user)
{
}

static void no_call_gone(struct varlink_call *call, void *conn_user)
{
}

/* One client after the other is all that memoc needs. */
static void serve_client(struct varlink_server *s, int fd)
{
	static const struct varlink_conn_ops ops = {no_wants, no_call_gone};
	struct varlink_conn *conn = NULL;
	int r = varlink_conn_new(s, fd, &ops, NULL, &conn);

	while (r == 0) {
		struct pollfd p = {.fd = varlink_conn_fd(conn), .events = POLLIN};
		poll(&p, 1, -1);
		r = varlink_conn_readable(conn, NULL);
		if (r == 0)
			r = varlink_conn_writable(conn, NULL);
	}
	varlink_conn_free(conn);
}

enum server_kind { SERVER_GOOD = 1, SERVER_EMPTY, SERVER_GARBAGE, SERVER_SILENT };

static void serve(int listen_fd, enum server_kind kind)
{
	static const struct varlink_limits limits = {.message_bytes = 65536, .unread_bytes = 1 << 20};
	static int empty;
	struct varlink_server *s = NULL;

	if (varlink_server_new("memoc", "test", MEMOC_VERSION, "", interfaces, &limits,
			       kind == SERVER_EMPTY ? &empty : NULL, &s) < 0)
		_exit(1);
	for (;;) {
		int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			_exit(1);
		if (kind == SERVER_GOOD || kind == SERVER_EMPTY) {
			serve_client(s, fd);
		} else if (kind == SERVER_GARBAGE) {
			char call[4096];
			if (read(fd, call, sizeof(call)) > 0 && write(fd, "SSH-2.0-OpenSSH_9.2", 20) < 0)
				_exit(1);
			close(fd);
		} /* SERVER_SILENT: kept open, never read */
	}
}

/* ---- fixture: a directory with a socket in it, and a server ---- */

static struct {
	char dir[64], socket[96];
	pid_t server;
	int log_read; /* what the server logged */
} fix;

static int make_listener(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_true(snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path) < (int)sizeof(addr.sun_path));
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 16), 0);
	return fd;
}

static void start_server(enum server_kind kind)
{
	int fd = make_listener(fix.socket), log_pipe[2];

	assert_int_equal(pipe2(log_pipe, O_CLOEXEC | O_NONBLOCK), 0);
	fix.server = fork_child();
	if (fix.server == 0) {
		log_fd = log_pipe[1];
		serve(fd, kind);
	}
	close(fd);
	close(log_pipe[1]);
	fix.log_read = log_pipe[0];
}

static void run_program(const char *const *argv)
{
	int status;
	pid_t pid = fork_child();

	if (pid == 0) {
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static int setup(void **state)
{
	if (getpid() != tests_pid)
		_exit(99);
	snprintf(fix.dir, sizeof(fix.dir), "/tmp/memoc-test-cli-XXXXXX");
	assert_non_null(mkdtemp(fix.dir));
	snprintf(fix.socket, sizeof(fix.socket), "%s/sock", fix.dir);
	fix.server = 0;
	fix.log_read = -1;
	assert_int_equal(setenv("MEMOC_SOCKET", fix.socket, 1), 0);
	unsetenv("NO_COLOR");
	setenv("TERM", "xterm", 1);
	return 0;
}

static int setup_server(void **state)
{
	setup(state);
	start_server(SERVER_GOOD);
	return 0;
}

static int teardown(void **state)
{
	const char *const rm[] = {"rm", "-rf", fix.dir, NULL};

	if (fix.server > 0) {
		kill(fix.server, SIGKILL);
		waitpid(fix.server, NULL, 0);
	}
	if (fix.log_read >= 0)
		close(fix.log_read);
	run_program(rm);
	return 0;
}

/* ---- running the command ---- */

struct result {
	int status;
	char out[OUTPUT_MAX], err[4096];
};

struct running {
	pid_t pid;
	int out, err;
};

/* width 0: standard output is a pipe; else a terminal so wide, that changes no bytes. */
static void make_output(unsigned width, int *ret_read, int *ret_write)
{
	struct winsize size = {.ws_row = 24, .ws_col = (unsigned short)width};
	struct termios raw;
	int fds[2];

	if (width == 0) {
		assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	} else {
		assert_int_equal(openpty(&fds[0], &fds[1], NULL, NULL, &size), 0);
		assert_int_equal(tcgetattr(fds[1], &raw), 0);
		cfmakeraw(&raw);
		assert_int_equal(tcsetattr(fds[1], TCSANOW, &raw), 0);
	}
	*ret_read = fds[0];
	*ret_write = fds[1];
}

static struct running start_words(unsigned width, char **argv)
{
	struct running r;
	int out_write, err_write, argc = 0;

	while (argv[argc])
		argc++;
	make_output(width, &r.out, &out_write);
	make_output(0, &r.err, &err_write);
	r.pid = fork_child();
	if (r.pid == 0) {
		close(r.out);
		close(r.err);
		dup2(out_write, STDOUT_FILENO);
		dup2(err_write, STDERR_FILENO);
		/* exit, not _exit: lets the leak checker speak */
		exit(cli_main(argc, argv));
	}
	close(out_write);
	close(err_write);
	return r;
}

/* Words are split at blanks; none in the tests holds one. */
static struct running start(unsigned width, const char *line)
{
	char copy[512], *argv[32] = {(char *)"memoc"}, *state = NULL;
	size_t n = 1;

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *word = strtok_r(copy, " ", &state); word; word = strtok_r(NULL, " ", &state))
		argv[n++] = word;
	argv[n] = NULL;
	return start_words(width, argv);
}

/* Appends what is there; false at the end (a terminal ends with EIO). */
static bool read_some(int fd, char *text, size_t size)
{
	size_t used = strlen(text);
	ssize_t n = read(fd, text + used, size - 1 - used);

	if (n > 0)
		text[used + (size_t)n] = '\0';
	return n > 0;
}

/* Reads until standard output holds `wanted`, or to the end where it is NULL. */
static void read_until(const struct running *run, struct result *res, const char *wanted)
{
	struct pollfd p[2] = {{.fd = run->out, .events = POLLIN}, {.fd = run->err, .events = POLLIN}};

	while ((p[0].fd >= 0 || p[1].fd >= 0) && !(wanted && strstr(res->out, wanted))) {
		assert_true(poll(p, 2, PATIENCE_MS) > 0);
		if (p[0].revents && !read_some(run->out, res->out, sizeof(res->out)))
			p[0].fd = -1;
		if (p[1].revents && !read_some(run->err, res->err, sizeof(res->err)))
			p[1].fd = -1;
	}
}

static void finish(struct running *run, struct result *res)
{
	int status;

	read_until(run, res, NULL);
	close(run->out);
	close(run->err);
	assert_int_equal(waitpid(run->pid, &status, 0), run->pid);
	assert_true(WIFEXITED(status));
	res->status = WEXITSTATUS(status);
}

static const struct result *run_wide(unsigned width, const char *line)
{
	static struct result res;
	struct running run = start(width, line);

	memset(&res, 0, sizeof(res));
	finish(&run, &res);
	return &res;
}

static const struct result *run(const char *line)
{
	return run_wide(0, line);
}

static void assert_contains(const char *text, const char *wanted)
{
	if (!strstr(text, wanted))
		fail_msg("\"%s\" is not in: %s", wanted, text);
}

static void assert_lacks(const char *text, const char *unwanted)
{
	if (strstr(text, unwanted))
		fail_msg("\"%s\" is in: %s", unwanted, text);
}

/* An error: nothing on stdout, and on stderr one line (two with wrong usage). */
static const char *run_error(const char *line, int status)
{
	const struct result *res = run(line);
	size_t lines = 0;

	if (res->status != status)
		fail_msg("memoc %s: status %d, not %d; it said: %s", line, res->status, status, res->err);
	assert_string_equal(res->out, "");
	for (const char *p = res->err; *p; p++)
		lines += *p == '\n';
	assert_int_equal(lines, status == CLI_USAGE ? 2 : 1);
	assert_int_equal(strncmp(res->err, "memoc: ", 7), 0);
	return res->err;
}

/* What the server was called with since the last look. */
static const char *calls(void)
{
	static char text[4096];
	ssize_t n = read(fix.log_read, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

static struct json *parse_output(const struct result *res)
{
	struct memoc_err err = {0};
	struct json *j = NULL;

	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->err, "");
	if (json_parse(res->out, strlen(res->out), NULL, &j, &err) < 0)
		fail_msg("%s: %s", err.text, res->out);
	return j;
}

static void assert_json_equal(const struct json *a, const struct json *b)
{
	char *texts[2] = {NULL, NULL};
	const struct json *both[] = {a, b};

	for (size_t i = 0; i < 2; i++) {
		struct json_writer *w = jw_new(false);
		jw_json(w, NULL, both[i]);
		assert_int_equal(jw_finish(w, &texts[i], NULL), 0);
	}
	assert_string_equal(texts[0], texts[1]);
	free(texts[0]);
	free(texts[1]);
}

/* ---- text output ---- */

static void test_list_tables(void **state)
{
	const struct result *res = run_wide(120, "list --all --no-color");

	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->out, "NAME                    STATE                           MAX TARGET BALLOON "
				      "LIMIT RESIDENT SWAPPED WSS  NEED RANK HEALTH\n"
				      "a-virtual-machine-with~ fixed,quarantined                8G     8G       -  "
				      "none        -       -   -    8G    - absent\n"
				      "web1                    steady                           4G     2G      2G  "
				      "none     1.5G       0  1G 1.25G    - working\n"
				      "web2                    growing-limit,needy,held,pinned  2G   1.5G      1G  "
				      "1.1G       1G    100M   -  1.6G    1 slow\n");
	assert_string_equal(res->err, "");
	res = run_wide(60, "list --all --no-color");
	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->out, "NAME           STATE               MAX TARGET RESIDENT  NEED\n"
				      "a-virtual-mac~ fixed,quarantined    8G     8G        -    8G\n"
				      "web1           steady               4G     2G     1.5G 1.25G\n"
				      "web2           growing-limit,need~  2G   1.5G       1G  1.6G\n"
				      "(6 columns left out; widen the terminal, or use --json)\n");
	/* into a pipe: nothing is cut or left out */
	res = run("list");
	assert_string_equal(
		res->out,
		"NAME STATE                           MAX TARGET BALLOON LIMIT RESIDENT SWAPPED WSS  NEED RANK HEALTH\n"
		"web1 steady                           4G     2G      2G  none     1.5G       0  1G 1.25G    - "
		"working\n"
		"web2 growing-limit,needy,held,pinned  2G   1.5G      1G  1.1G       1G    100M   -  1.6G    1 slow\n");
	assert_string_equal(calls(), "List {\"all\":true,\"off\":true}\nList {\"all\":true,\"off\":true}\nList "
				     "{\"all\":false,\"off\":false}\n");
}

/* Whatever the width: no row wraps, and the names' first letters survive. */
static void test_list_any_width(void **state)
{
	char line[64];

	for (unsigned width = 20; width <= 200; width += 15) {
		const struct result *res = run_wide(width, "list --all --no-color");
		assert_int_equal(res->status, CLI_DONE);
		const char *p = res->out;
		for (size_t row = 0; row < 4; row++) {
			size_t len = strcspn(p, "\n");
			if (len > width)
				fail_msg("%zu columns on a terminal of %u: %.*s", len, width, (int)len, p);
			snprintf(line, sizeof(line), "%.*s", 2, p);
			assert_string_equal(line, row == 0 ? "NA" : row == 1 ? "a-" : "we");
			p += len + 1;
		}
	}
}

static void test_colors(void **state)
{
	assert_contains(run_wide(120, "list")->out, "\033[");
	assert_lacks(run_wide(120, "list --no-color")->out, "\033");
	assert_lacks(run("list")->out, "\033");
	setenv("NO_COLOR", "1", 1);
	assert_lacks(run_wide(120, "list")->out, "\033");
	setenv("NO_COLOR", "", 1);
	assert_contains(run_wide(120, "list")->out, "\033[");
	setenv("TERM", "dumb", 1);
	assert_lacks(run_wide(120, "list")->out, "\033");
}

static void test_empty_host_and_list(void **state)
{
	start_server(SERVER_EMPTY);
	assert_contains(run("list")->out, "No VM is managed");
	assert_contains(run("list --all")->out, "knows no VMs");
	struct json *j AUTO_JSON = parse_output(run("list --json"));
	assert_int_equal(json_type(j), JSON_ARRAY);
	assert_int_equal(json_len(j), 0);
	/* and a host that is overdrawn, without swap, of which the rest is unknown */
	const struct result *res = run("host");
	assert_contains(res->out, "Buffer now:        overdrawn by 1 GiB\n");
	assert_contains(res->out, "Swap:              none: only balloons can take memory back\n");
	assert_contains(res->out, "Overcommit:        -\n");
}

static void test_info_text(void **state)
{
	const struct result *res = run("info web1");

	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(
		res->out, "Name:              web1\n"
			  "UUID:              00000000-0000-4000-8000-000000000001\n"
			  "State:             steady\n"
			  "Resized by memoc:  yes\n"
			  "Held:              no\n"
			  "Pinned to:         no\n"
			  "QEMU process:      4711\n"
			  "Cgroup:            /machine/qemu-1-web1.libvirt-qemu\n"
			  "Last change:       61 s\n"
			  "Reason:            within the dead band\n"
			  "\n"
			  "Maximum:           4 GiB\n"
			  "Minimum:           512 MiB\n"
			  "Weight:            100\n"
			  "Target:            2 GiB\n"
			  "Limit:             none\n"
			  "Resident:          1.5 GiB\n"
			  "Swapped:           0 B\n"
			  "QEMU's overhead:   100 MiB, measured\n"
			  "Shared memory:     no\n"
			  "\n"
			  "Balloon:           2 GiB\n"
			  "Balloon health:    working\n"
			  "Balloon speed:     973 MiB/s\n"
			  "Balloon floor:     -\n"
			  "Next retry in:     -\n"
			  "Retry delay:       -\n"
			  "Page reporting:    yes\n"
			  "Statistics each:   1 s\n"
			  "Statistics age:    0.42 s\n"
			  "\n"
			  "Usable in guest:   768 MiB\n"
			  "Working set:       1 GiB, give or take 20.5 MiB\n"
			  "Demand:            1.13 GiB\n"
			  "Headroom:          128 MiB\n"
			  "Need:              1.25 GiB\n"
			  "Greedy by:         768 MiB\n"
			  "Needy:             no\n"
			  "Rank:              -\n"
			  "Guest swap in:     0 B/s\n"
			  "Guest swap out:    0 B/s\n"
			  "Host major faults: 0.5/s\n"
			  "Double swapping:   no\n"
			  "Shrink dwell:      10 s\n"
			  "\n"
			  "SIGNAL VALUE UNIT     AGE CONFIDENCE SOURCE\n"
			  "usable  768M bytes 0.42 s        90% balloon\n"
			  "psi        - ratio      -         0% cgroup\n"
			  "\n"
			  "KEY    VALUE EFFECTIVE SOURCE\n"
			  "min    512M  512M      live\n"
			  "weight -     100       default\n"
			  "The policy in the VM's XML is refused, the last good one holds: weight: '0' is too small\n");
	assert_string_equal(calls(), "Info {\"vm\":\"web1\"}\n");
}

static void test_host_text(void **state)
{
	const struct result *res = run("host");

	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->out, "Level:             soft\n"
				      "Pool:              10 GiB\n"
				      "Reserve:           1 GiB\n"
				      "Buffer target:     512 MiB\n"
				      "Buffer now:        384 MiB\n"
				      "Committed:         14 GiB\n"
				      "Overcommit:        1.40\n"
				      "Granted:           9 GiB\n"
				      "Resident:          7.5 GiB\n"
				      "Swapped:           100 MiB\n"
				      "Swap:              1.8 GiB free of 2 GiB\n"
				      "Pressure some:     0.25 % of the last 10 s\n"
				      "Pressure full:     -\n"
				      "VMs:               3\n"
				      "Cgroups:           v2\n"
				      "Working set by:    none\n"
				      "Policy:            needy-greedy\n"
				      "Observe only:      no\n"
				      "Held:              no\n"
				      "libvirt connected: yes\n"
				      "memocd:            " MEMOC_VERSION "\n"
				      "Up for:            90 s\n");
	assert_string_equal(calls(), "Host {}\n");
}

static void test_explain_text(void **state)
{
	const struct result *res = run("explain web1");

	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->out, "web1: 2 GiB, since nobody needs more\n"
				      "\n"
				      "TERM   VALUE WHY\n"
				      "demand 1.13G used by its own account\n"
				      "wss        - unknown\n"
				      "\n"
				      "What bounds it:\n"
				      "  - never below min, 512 MiB\n");
}

static void test_get_and_config_text(void **state)
{
	assert_string_equal(run("get web1")->out, "KEY    VALUE EFFECTIVE SOURCE\n"
						  "min    512M  512M      live\n"
						  "weight -     100       default\n");
	assert_string_equal(run("config")->out, "KEY             VALUE SOURCE\n"
						"host.pool       auto  default\n"
						"policy.interval 1s    /etc/memoc/memoc.conf:7\n");
	run("get web1 --config");
	run("get web1 --live");
	assert_string_equal(calls(),
			    "GetPolicy {\"vm\":\"web1\"}\nConfig {}\n"
			    "GetPolicy {\"vm\":\"web1\",\"config\":true}\nGetPolicy {\"vm\":\"web1\",\"live\":true}\n");
	run_error("get web1 --live --config", CLI_USAGE);
}

/* ---- JSON ---- */

static void test_list_json(void **state)
{
	struct json *j AUTO_JSON = parse_output(run("list --json"));
	struct json *one AUTO_JSON = NULL, *two AUTO_JSON = NULL;
	uint64_t newer;

	assert_int_equal(json_type(j), JSON_ARRAY);
	assert_int_equal(json_len(j), 2);
	/* all that is promised is there in the server's own order: nothing changes on the way */
	assert_int_equal(json_parse(web1, strlen(web1), NULL, &one, NULL), 0);
	assert_json_equal(json_at(j, 0), one);
	/* what the server left out is null, what it has beyond the promise stays */
	for (const char *const *name = fields_vm; *name; name++) {
		size_t found = 0;
		for (size_t i = 0; i < json_len(json_at(j, 1)); i++)
			found += !strcmp(json_key_at(json_at(j, 1), i), *name);
		assert_int_equal(found, 1);
	}
	assert_int_equal(json_type(json_get(json_at(j, 1), "usable_bytes")), JSON_NULL);
	assert_int_equal(json_get_u64(json_at(j, 1), "newer_field", &newer), 0);
	assert_int_equal(json_parse(web2, strlen(web2), NULL, &two, NULL), 0);
	for (size_t i = 0; i < json_len(two); i++)
		assert_json_equal(json_get(json_at(j, 1), json_key_at(two, i)), json_at(two, i));
}

static void test_info_json_is_flat(void **state)
{
	struct json *j AUTO_JSON = parse_output(run("--json info web1"));
	const char *name, *error;
	uint64_t pid;

	assert_int_equal(json_get_str(j, "name", &name), 0);
	assert_string_equal(name, "web1");
	assert_int_equal(json_get_u64(j, "pid", &pid), 0);
	assert_int_equal(pid, 4711);
	assert_int_equal(json_get_str(j, "policy_error", &error), 0);
	assert_int_equal(json_len(json_get(j, "signals")), 2);
	assert_null(json_get(j, "vm"));
	for (size_t i = 0; fields_vm[i]; i++)
		assert_string_equal(json_key_at(j, i), fields_vm[i]);
}

static void test_other_json(void **state)
{
	struct json *h AUTO_JSON = parse_output(run("host --json")), *given AUTO_JSON = NULL;

	assert_int_equal(json_parse(host, strlen(host), NULL, &given, NULL), 0);
	assert_json_equal(h, json_get(given, "host"));
	struct json *get AUTO_JSON = parse_output(run("get web1 --json"));
	assert_int_equal(json_type(get), JSON_ARRAY);
	assert_int_equal(json_len(get), 2);
	struct json *config AUTO_JSON = parse_output(run("config --json"));
	assert_int_equal(json_len(config), 2);
	struct json *explain AUTO_JSON = parse_output(run("explain web1 --json"));
	assert_int_equal(json_len(json_get(explain, "terms")), 2);
	struct json *resize AUTO_JSON = parse_output(run("resize web1 1G --json"));
	uint64_t to;
	assert_int_equal(json_get_u64(resize, "to_bytes", &to), 0);
	assert_int_equal(to, GIB);
	struct json *set AUTO_JSON = parse_output(run("set web1 weight=5 --json"));
	assert_int_equal(json_type(set), JSON_OBJECT);
	assert_int_equal(json_len(set), 0);
}

/* ---- events ---- */

static void test_events_text(void **state)
{
	const struct result *res = run("events");

	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(
		res->out,
		"2026-11-22T20:15:25.123Z web1            target           steady            2G -> 1.5G: greedy\n"
		"2026-11-22T20:15:26.000Z -               level            -                 buffer below half\n");
	run("events web1 --limit 5");
	assert_string_equal(calls(), "Events {\"vm\":null}\nEvents {\"vm\":\"web1\",\"limit\":5}\n");
	run_error("events --limit many", CLI_USAGE);
	run_error("events --limit -1", CLI_USAGE);
}

static void test_events_json_is_one_a_line(void **state)
{
	const struct result *res = run("events --json");
	const char *second = strchr(res->out, '\n') + 1;
	struct json *a AUTO_JSON = NULL, *b AUTO_JSON = NULL, *given AUTO_JSON = NULL;

	assert_int_equal(res->status, CLI_DONE);
	assert_int_equal(json_parse(res->out, (size_t)(second - res->out), NULL, &a, NULL), 0);
	assert_int_equal(json_parse(second, strlen(second), NULL, &b, NULL), 0);
	assert_ptr_equal(strchr(second, '\n') + 1, res->out + strlen(res->out));
	assert_int_equal(json_parse(event1, strlen(event1), NULL, &given, NULL), 0);
	assert_json_equal(a, given);
	assert_int_equal(json_type(json_get(b, "vm")), JSON_NULL);
	assert_int_equal(json_type(json_get(b, "details")), JSON_OBJECT);
}

static void test_follow_ends_with_the_stream(void **state)
{
	const struct result *res = run("events --follow ends");

	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->err, "");
	assert_contains(res->out, "2026-11-22T20:15:25.123Z");
	assert_contains(res->out, "2026-11-22T20:15:26.000Z");
}

static void test_follow_is_interrupted(void **state)
{
	static const int signals[] = {SIGINT, SIGTERM};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct running r = start(0, "events -f --json");
		struct result res = {0};
		read_until(&r, &res, "buffer below half");
		kill(r.pid, signals[i]);
		finish(&r, &res);
		assert_int_equal(res.status, CLI_DONE);
		assert_string_equal(res.err, "");
		assert_int_equal(res.out[strlen(res.out) - 1], '\n');
	}
}

/* The reader of the pipe leaves and nothing more happens: memoc notices all the same. */
static void test_follow_reader_leaves(void **state)
{
	struct running r = start(0, "events --follow");
	struct result res = {0};
	int status;

	read_until(&r, &res, "buffer below half");
	close(r.out);
	assert_int_equal(waitpid(r.pid, &status, 0), r.pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == CLI_DONE);
	assert_false(read_some(r.err, res.err, sizeof(res.err)));
	close(r.err);
}

static void test_follow_daemon_goes_away(void **state)
{
	struct running r = start(0, "events --follow");
	struct result res = {0};

	read_until(&r, &res, "buffer below half");
	kill(fix.server, SIGKILL);
	finish(&r, &res);
	assert_int_equal(res.status, CLI_UNREACHABLE);
	assert_contains(res.err, "closed the connection; it may be restarting");
}

static void test_output_errors(void **state)
{
	char *argv[] = {(char *)"memoc", (char *)"list", NULL};
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC), null = open("/dev/null", O_WRONLY | O_CLOEXEC), status;
	pid_t pid = fork_child();

	if (pid == 0) {
		dup2(full, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		exit(cli_main(2, argv));
	}
	close(full);
	close(null);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), CLI_FAILED);
}

/* ---- changes ---- */

static void test_set(void **state)
{
	const struct result *res = run("set web1 min=512M weight=200 swap=");

	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->out, "web1: policy set\n");
	run("set --live web1 balloon=no");
	run("set web1 balloon=no --config --live");
	assert_string_equal(
		calls(), "SetPolicy {\"vm\":\"web1\",\"values\":{\"min\":\"512M\",\"weight\":\"200\",\"swap\":\"\"}}\n"
			 "SetPolicy {\"vm\":\"web1\",\"values\":{\"balloon\":\"no\"},\"live\":true}\n"
			 "SetPolicy {\"vm\":\"web1\",\"values\":{\"balloon\":\"no\"},\"live\":true,\"config\":true}\n");
}

/* Bad words are refused before anything is sent. */
static void test_set_refuses(void **state)
{
	assert_contains(run_error("set web1 wieght=5", CLI_USAGE), "did you mean \"weight\"?");
	assert_contains(run_error("set web1 weight=0", CLI_USAGE), "weight");
	assert_contains(run_error("set web1 min=512M max=lots", CLI_USAGE), "lots");
	assert_contains(run_error("set web1 min", CLI_USAGE), "not of the form key=value");
	assert_contains(run_error("set web1 =5", CLI_USAGE), "not of the form key=value");
	assert_contains(run_error("set web1 min=1G weight=5 min=2G", CLI_USAGE), "\"min\" is given twice");
	assert_contains(run_error("set web1", CLI_USAGE), "key=value is missing");
	assert_string_equal(calls(), "");
}

static void test_resize(void **state)
{
	assert_string_equal(run("resize web1 1.5G")->out, "web1: 2 GiB -> 1.5 GiB, under way\n");
	assert_string_equal(run("resize web1 auto")->out, "web1: back to the policy, from 2 GiB\n");
	assert_string_equal(run("resize web1 10%")->out, "web1: 2 GiB -> 1 GiB, under way\n");
	assert_string_equal(run("resize web1 1G --wait --timeout 30s")->out, "web1: 2 GiB -> 1 GiB, reached\n");
	assert_string_equal(calls(),
			    "Resize {\"vm\":\"web1\",\"bytes\":1610612736}\n"
			    "Resize {\"vm\":\"web1\",\"bytes\":null}\n"
			    "Host {}\nResize {\"vm\":\"web1\",\"bytes\":1073741824}\n"
			    "Resize {\"vm\":\"web1\",\"bytes\":1073741824,\"wait\":true,\"timeout_ms\":30000}\n");
	run_error("resize web1 lots", CLI_USAGE);
	run_error("resize web1 0", CLI_USAGE);
	run_error("resize web1 0%", CLI_USAGE);
	run_error("resize web1", CLI_USAGE);
	run_error("resize web1 1G 2G", CLI_USAGE);
}

static void test_hold_release_drain(void **state)
{
	assert_string_equal(run("hold web1")->out, "web1: held\n");
	assert_string_equal(run("hold")->out, "all VMs: held\n");
	assert_string_equal(run("release web1")->out, "web1: released\n");
	assert_string_equal(run("release")->out, "all VMs: released\n");
	assert_string_equal(run("drain --all")->out, "3 of 3 VMs have all their memory back\n");
	assert_string_equal(run("drain web2")->out,
			    "1 of 3 VMs have all their memory back; the others are under way\n");
	assert_contains(run_error("drain web2 --wait --timeout 2s", CLI_FAILED), "1 of 3 VMs");
	assert_string_equal(calls(), "Hold {\"vm\":\"web1\"}\nHold {\"vm\":null}\nRelease {\"vm\":\"web1\"}\n"
				     "Release {\"vm\":null}\nDrain {\"vm\":null}\nDrain {\"vm\":\"web2\"}\n"
				     "Drain {\"vm\":\"web2\",\"wait\":true,\"timeout_ms\":2000}\n");
	assert_contains(run_error("drain", CLI_USAGE), "either one VM or --all");
	run_error("drain web1 --all", CLI_USAGE);
	run_error("hold web1 web2", CLI_USAGE);
}

/* ---- errors ---- */

static void put_file(const char *dir, const char *path, const char *text)
{
	char full[256];
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", dir, path);
	for (char *p = full + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		assert_true(mkdir(full, 0755) == 0 || errno == EEXIST);
		*p = '/';
	}
	f = fopen(full, "we");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

/* ---- migrate ---- */

/*
 * As virsh behaves, by the name of the destination: it is run as `virsh -q -c URI migrate --domain VM --desturi URI …`.
 * "slow" takes no notice of SIGINT; it goes on until its job is aborted, and then says what libvirt says. The first
 * time there is no job yet.
 */
static const char fake_virsh[] =
	"#!/bin/sh\n"
	"said=$(printf '%s ' \"$@\"); printf '%s\\n' \"$said\" >> \"${0%/*}/virsh.log\"\n" /* one write: two may run */
	"case \"$4 $8\" in\n"
	"domjobinfo*) printf 'Job type: 3\\n\\noperation: 4\\ntime_elapsed: 2670\\ndowntime: 225\\n'\n"
	"\tprintf 'memory_total: 4294967296\\nmemory_processed: 1073741824\\nmemory_remaining: 2147483648\\n'\n"
	"\tprintf 'memory_bps: 104857600\\nmemory_iteration: 2\\n' ;;\n"
	"domjobabort*) [ -e \"${0%/*}/virsh.abort1\" ] && : > \"${0%/*}/virsh.abort2\"; : > \"${0%/*}/virsh.abort1\" "
	";;\n"
	"*slow) trap : INT TERM; echo > \"${0%/*}/virsh.ready\"\n"
	"\twhile [ ! -e \"${0%/*}/virsh.abort2\" ]; do sleep 0.05; done; rm \"${0%/*}\"/virsh.abort?\n"
	"\techo 'error: operation aborted: canceled by client' >&2; exit 1 ;;\n"
	"*full) echo 'error: Hook script execution failed: status 1: memoc-hook: web1 may not start: 64M missing' >&2\n"
	"\techo more >&2; exit 1 ;;\n"
	"*away) echo 'error: failed to connect' >&2; exit 1 ;;\n"
	"esac\n";

static const char *virsh_log(void)
{
	static char text[4096];
	char path[128];

	snprintf(path, sizeof(path), "%s/virsh.log", fix.dir);
	FILE *f = fopen(path, "re");
	assert_non_null(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	fclose(f);
	return text;
}

static int setup_virsh(void **state)
{
	char path[4096];

	setup_server(state);
	put_file(fix.dir, "/virsh", fake_virsh);
	snprintf(path, sizeof(path), "%s/virsh", fix.dir);
	assert_int_equal(chmod(path, 0755), 0);
	snprintf(path, sizeof(path), "%s:/usr/bin:/bin", fix.dir);
	return setenv("PATH", path, 1);
}

static void test_migrate(void **state)
{
	const struct result *res =
		run("migrate --live web1 qemu:///there --bandwidth 50 --xml=/x --verbose -- --brand-new 7");

	assert_int_equal(res->status, CLI_DONE);
	assert_contains(res->out, "web1: migrated to qemu:///there in ");
	assert_contains(res->out, ": 1G of 4G sent, down for 225 ms\n");
	assert_contains(res->out, "web1: 80M that were swapped out were not read back to be sent\n");
	assert_contains(res->out, "web1: 2G -> 1G by its balloon\n");
	assert_string_equal(res->err, "");
	assert_contains(
		virsh_log(),
		"-q -c qemu:///here migrate --domain web1 --desturi qemu:///there --live --bandwidth 50 --xml=/x "
		"--brand-new 7 \n");
	assert_lacks(virsh_log(), "--verbose");
	assert_string_equal(calls(), "PrepareMigration {\"vm\":\"web1\",\"timeout_ms\":30000}\n");
}

static void test_migrate_json(void **state)
{
	const struct result *res = run("migrate web2 qemu:///there --json");
	struct json *j = parse_output(res);
	uint64_t sent;

	assert_string_equal(res->err, "");
	assert_string_equal(text_member(j, "why_not_smaller"), "its balloon does not work");
	assert_int_equal(json_get_u64(j, "sent_bytes", &sent), 0);
	assert_int_equal(sent, GIB);
	assert_true(bool_member(j, "migrated"));
	json_free(j);
}

static void test_migrate_fails(void **state)
{
	const struct result *res = run("migrate web1 full");
	const char *said = res->err;

	assert_int_equal(res->status, CLI_FAILED);
	assert_string_equal(strchr(said, '\n'), "\n");
	assert_contains(said, "web1 was not migrated: web1 may not start: 64M missing; it goes on here");
	assert_lacks(said, "more;");
	assert_contains(calls(), "AbandonMigration {\"vm\":\"web1\"");
	assert_contains(run("migrate web1 away")->err, "web1 was not migrated: failed to connect; it goes on");
	assert_contains(run_error("migrate wbe1 full", CLI_FAILED), "did you mean");
	assert_contains(run_error("migrate web1 there --offline", CLI_USAGE), "use virsh migrate");
	assert_contains(run_error("migrate web1 there --liev", CLI_USAGE), "did you mean \"live\"");
	assert_contains(run_error("migrate web1", CLI_USAGE), "DESTURI is missing");
	setenv("PATH", "/nowhere", 1);
	assert_contains(run("migrate web1 there --json")->err, "cannot run virsh: ");
	setenv("PATH", "/usr/bin:/bin", 1); /* teardown needs it */
}

static void test_migrate_is_cancelled(void **state)
{
	static const int signals[] = {SIGINT, SIGTERM};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct running r = start(0, "migrate web1 slow --live");
		struct result res = {0};
		char ready[128];
		snprintf(ready, sizeof(ready), "%s/virsh.ready", fix.dir);
		for (int tries = 0; access(ready, F_OK) < 0 && tries < PATIENCE_MS / 10; tries++)
			poll(NULL, 0, 10);
		kill(r.pid, signals[i]);
		finish(&r, &res);
		unlink(ready);
		assert_int_equal(res.status, CLI_FAILED);
		assert_contains(
			res.err,
			"web1 was not migrated: cancelled: operation aborted: canceled by client; it goes on here");
		assert_contains(calls(), "AbandonMigration {\"vm\":\"web1\"");
	}
}

static void test_job_stats(void **state)
{
	struct job_stats s = {.iteration = 9};
	char phase[JOB_PHASE_LEN];

	assert_false(job_stats_read("", &s));
	assert_false(job_stats_read("Job type: 0\n\nmemory_totally: 5\nmemory_total 7\nmemory_total: x\n", &s));
	assert_int_equal(s.iteration, 9);
	assert_true(job_stats_read(
		"disk_total: 100\ndisk_remaining: 25\nmemory_total: 18446744073709551616\nmemory_total: 1000", &s));
	assert_int_equal(s.memory_total_bytes, 1000);
	assert_string_equal(job_phase(phase, &s), "storage");
	assert_float_equal(job_share(&s), 0.75, 1e-9);
	assert_true(job_stats_read(
		"memory_total: 1000\nmemory_remaining: 2000\nmemory_iteration: 18446744073709551615\n", &s));
	assert_string_equal(job_phase(phase, &s), "memory, pass 18446744073709551615");
	assert_float_equal(job_share(&s), 0, 1e-9);
}

static void test_error_replies(void **state)
{
	static const struct {
		const char *line, *said;
	} cases[] = {
		{"info wbe1", "memocd knows no VM \"wbe1\": did you mean \"web1\" or \"web2\"?"},
		{"hold elephant", "memocd knows no VM \"elephant\"; \"memoc list --all\" shows all"},
		{"explain twins", "several VMs match \"twins\"; give the UUID"},
		{"set denied min=1G", "permission denied: uid 1000 is not in the group memoc; run as root or"},
		{"resize refused 1G", "memocd refused the size 1G: its policy has min=2G"},
		{"resize slow 1G --wait --timeout 1s", "slow is at 1.5 GiB, not yet at 1 GiB: time is up"},
		{"get future", "does not support shrinking TPMs"},
		{"drain failed", "memocd failed at Drain: libvirt:?[31m no domain"},
		{"hold strange", "com.example.Strange"},
		{"info bad-parameter", "does not accept the parameter \"vm\""},
		{"info old", "another version of memocd"},
		{"info lacking", "answer to Info has no good \"vm\""},
		{"explain lacking --json", "answer to Explain has no good \"vm\""},
		{"events lacking", "no good \"events\""},
		{"get lacking --json", "no good \"values\""},
		{"resize lacking 1G", "no good \"from_bytes\""},
		{"drain lacking", "no good \"vms\""},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_contains(run_error(cases[i].line, CLI_FAILED), cases[i].said);
}

static void test_no_daemon(void **state)
{
	static const char *const lines[] = {
		"list",
		"list --json",
		"info web1",
		"host",
		"explain web1",
		"events",
		"events --follow",
		"get web1",
		"set web1 min=1G",
		"resize web1 1G",
		"resize web1 1%",
		"resize web1 auto --wait",
		"hold",
		"release",
		"drain --all --wait",
		"config",
	};
	const char *said;

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		said = run_error(lines[i], CLI_UNREACHABLE);
		assert_contains(said, "cannot reach memocd: there is no socket");
		assert_contains(said, fix.socket);
		assert_contains(said, "systemctl start memocd");
	}
	/* a socket that nobody listens on any more */
	close(make_listener(fix.socket));
	assert_contains(run_error("list", CLI_UNREACHABLE), "nobody listens on");
	/* --socket goes before the environment */
	assert_contains(run_error("--socket /nonexistent/s list", CLI_UNREACHABLE), "no socket /nonexistent/s");
	assert_contains(run_error("list --socket=/nonexistent/s", CLI_UNREACHABLE), "no socket /nonexistent/s");
}

static void test_daemon_hangs(void **state)
{
	assert_contains(run_error("info hangs --timeout 200ms", CLI_UNREACHABLE), "did not answer within 0.2 s");
}

static void test_daemon_is_silent(void **state)
{
	start_server(SERVER_SILENT);
	assert_contains(run_error("list --timeout 200ms", CLI_UNREACHABLE), "did not answer within");
	/* completion says nothing, and soon */
	const struct result *res = run("__complete names --timeout 200ms");
	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->out, "");
	assert_string_equal(res->err, "");
}

static void test_daemon_is_something_else(void **state)
{
	start_server(SERVER_GARBAGE);
	assert_contains(run_error("list", CLI_UNREACHABLE), "does not answer as memocd does");
}

static void test_daemon_dies(void **state)
{
	assert_contains(run_error("info dies", CLI_UNREACHABLE), "closed the connection");
}

/* ---- parsing, help ---- */

static void test_usage(void **state)
{
	assert_contains(run_error("", CLI_USAGE), "no command given");
	assert_contains(run_error("lsit", CLI_USAGE), "there is no command \"lsit\": did you mean \"list\"");
	assert_contains(run_error("top", CLI_USAGE), "there is no command \"top\"");
	assert_contains(run_error("list --al", CLI_USAGE), "did you mean \"all\"?");
	assert_contains(run_error("list --all=yes", CLI_USAGE), "takes no value");
	assert_contains(run_error("list web1", CLI_USAGE), "\"web1\" is one word too many");
	assert_contains(run_error("list --socket", CLI_USAGE), "--socket needs a value");
	assert_contains(run_error("list --socket=", CLI_USAGE), "is empty");
	assert_contains(run_error("list --timeout 5", CLI_USAGE), "--timeout");
	assert_contains(run_error("list --timeout 0s", CLI_USAGE), "--timeout");
	assert_contains(run_error("-x list", CLI_USAGE), "no option -x");
	assert_contains(run_error("info", CLI_USAGE), "VM is missing");
	assert_contains(run_error("completion tcsh", CLI_USAGE), "no script for \"tcsh\"");
	/* what looks like an option is a name behind -- */
	assert_contains(run_error("info -- --all --more", CLI_USAGE), "\"--more\" is one word too many");
}

static void test_help(void **state)
{
	char line[64];
	const struct result *res = run("--help");

	assert_int_equal(res->status, CLI_DONE);
	assert_lacks(res->out, "__complete");
	for (size_t i = 0; cli_commands[i]; i++)
		if (!cli_commands[i]->hidden)
			assert_contains(res->out, cli_commands[i]->summary);
	assert_string_equal(run("--version")->out, "memoc " MEMOC_VERSION "\n");
	for (size_t i = 0; cli_commands[i]; i++) {
		if (cli_commands[i]->hidden)
			continue;
		snprintf(line, sizeof(line), "%s --help", cli_commands[i]->name);
		res = run(line);
		assert_int_equal(res->status, CLI_DONE);
		assert_string_equal(res->err, "");
		snprintf(line, sizeof(line), "Usage: memoc [GLOBAL OPTIONS] %s", cli_commands[i]->name);
		assert_contains(res->out, line);
		for (const struct cli_option *o = cli_commands[i]->options; o && o->name; o++)
			assert_contains(res->out, o->help);
		assert_contains(res->out, "\nExamples:\n  ");
		assert_contains(res->out, "\nExit status:\n  0  done\n");
	}
	/* help of the keys of set is written by hand: it must name them all */
	res = run("set --help");
	assert_contains(res->out, "managed=");
	assert_contains(res->out, "min=SIZE max=SIZE");
	assert_contains(res->out, "weight=");
	assert_contains(res->out, "balloon=");
	assert_contains(res->out, "swap=");
	assert_contains(run("drain -h")->out, "drain VM|--all [--wait]");
}

static void test_suggest(void **state)
{
	static const char *const names[] = {"web1", "web2", "db", "mail", "webmail", "WEB10"};
	const char *near[SUGGEST_MAX];
	char text[SUGGEST_TEXT_LEN];

	assert_int_equal(suggest("web1", names, 6, near), 3);
	assert_string_equal(near[0], "web1");
	assert_string_equal(near[1], "web2");
	assert_string_equal(near[2], "WEB10");
	assert_int_equal(suggest("amil", names, 6, near), 1);
	assert_string_equal(near[0], "mail");
	assert_int_equal(suggest("webm", names, 6, near), 3);
	assert_int_equal(suggest("elephant", names, 6, near), 0);
	assert_int_equal(suggest("", names, 0, near), 0);
	assert_string_equal(suggest_text(text, "elephant", names, 6), "");
	assert_string_equal(suggest_text(text, "bd", names, 6), ": did you mean \"db\"?");
}

static void test_short_sizes(void **state)
{
	char buf[SIZE_SHORT_LEN];

	assert_string_equal(size_short(buf, 0), "0");
	assert_string_equal(size_short(buf, 1023), "1023");
	assert_string_equal(size_short(buf, 512 * MIB), "512M");
	assert_string_equal(size_short(buf, 3 * GIB / 2), "1.5G");
	assert_string_equal(size_short(buf, UINT64_MAX), "16E");
	assert_string_equal(size_short_json(buf, NULL, "-"), "-");
}

/* ---- config --check ---- */

static void set_mode(const char *dir, const char *path, mode_t mode)
{
	char full[256];

	snprintf(full, sizeof(full), "%s%s", dir, path);
	assert_int_equal(chmod(full, mode), 0);
}

static void test_config_check(void **state)
{
	char *path = strdup(getenv("PATH")), with_dir[4096];
	const struct result *res;

	put_file(fix.dir, "/memocd",
		 "#!/bin/sh\necho \"$@\"\ncase $3 in */bad) echo bad:7 >&2; exit 1;; */crash) kill -9 $$;; esac\n");
	set_mode(fix.dir, "/memocd", 0755);
	snprintf(with_dir, sizeof(with_dir), "%s:%s", fix.dir, path);
	setenv("PATH", with_dir, 1);
	res = run("config --check /x/good");
	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->out, "--check-config --config /x/good\n");
	res = run("config --check /x/bad");
	assert_int_equal(res->status, CLI_FAILED);
	assert_string_equal(res->err, "bad:7\n");
	res = run("config --check=/x/bad --json");
	assert_int_equal(res->status, CLI_FAILED);
	struct json *j AUTO_JSON = NULL;
	const char *verdict;
	bool good = true;
	assert_int_equal(json_parse(res->out, strlen(res->out), NULL, &j, NULL), 0);
	assert_int_equal(json_get_bool(j, "good", &good), 0);
	assert_false(good);
	assert_int_equal(json_get_str(j, "verdict", &verdict), 0);
	assert_contains(verdict, "bad:7");
	res = run("config --check /x/crash");
	assert_int_equal(res->status, CLI_FAILED);
	assert_contains(res->err, "ended by signal 9");
	setenv("PATH", path, 1);
	free(path);
}

/* ---- check: hosts made of files ---- */

static const struct check_item *find_item(const struct check_list *l, const char *name)
{
	for (size_t i = 0; i < l->n; i++)
		if (!strcmp(l->items[i].name, name))
			return &l->items[i];
	return NULL;
}

static void assert_item(const struct check_list *l, const char *name, enum check_result result, const char *text)
{
	const struct check_item *item = find_item(l, name);

	if (!item)
		fail_msg("no line about %s", name);
	if (item->result != result || !strstr(item->text, text))
		fail_msg("%s: result %d, \"%s\"; expected %d, \"%s\"", name, item->result, item->text, result, text);
	/* every problem has a remedy */
	assert_int_equal(item->remedy[0] == '\0', result == CHECK_PASS);
}

static struct check_list check_all(void)
{
	struct check_list l = {0};

	check_host(fix.dir, &l);
	check_libvirt(fix.dir, &l);
	assert_int_equal(l.error, 0);
	return l;
}

/* Process 77 is libvirtd, started in the first second after the boot at `booted`. */
static void put_libvirtd(const char *booted)
{
	char stat[64];

	snprintf(stat, sizeof(stat), "cpu 1 2 3\nintr 5\nbtime %s\nprocesses 9\n", booted);
	put_file(fix.dir, "/proc/stat", stat);
	put_file(fix.dir, "/proc/77/stat",
		 "77 (libvirtd) S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 17 0 100 1 2 18446744073709551615");
	put_file(fix.dir, "/proc/78/stat", "78 (a) b (c) R 1 2 3");
}

static void put_good_host(void)
{
	put_file(fix.dir, "/proc/sys/kernel/osrelease", "6.12.48-amd64\n");
	put_file(fix.dir, "/proc/self/mountinfo",
		 "22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n"
		 "26 22 0:23 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 "
		 "rw,nsdelegate,memory_recursiveprot\n");
	put_file(fix.dir, "/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
	put_file(fix.dir, "/sys/fs/cgroup/machine.slice/memory.high", "max\n");
	put_file(fix.dir, "/sys/fs/cgroup/machine.slice/memory.reclaim", "");
	put_file(fix.dir, "/proc/meminfo",
		 "MemTotal: 16000000 kB\nSwapTotal:       2097152 kB\nSwapFree:        2097152 kB\n");
	put_file(fix.dir, "/proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 2097152 0 -2\n");
	put_file(fix.dir, "/sys/module/zswap/parameters/enabled", "N\n");
	put_file(fix.dir, "/proc/sys/vm/swappiness", "60\n");
	put_file(fix.dir, "/proc/pressure/memory", "some avg10=0.00\n");
	put_file(fix.dir, "/sys/kernel/mm/page_idle/bitmap", "");
	put_file(fix.dir, "/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds", "0\n");
	put_file(fix.dir, "/boot/config-6.12.48-amd64", "# Linux\nCONFIG_DAMON=y\nCONFIG_DAMON_VADDR=y\n");
	put_file(fix.dir, "/sys/kernel/mm/lru_gen/enabled", "0x0007\n");
	put_file(fix.dir, "/sys/kernel/debug/lru_gen", "");
	put_file(fix.dir, "/proc/sys/vm/overcommit_memory", "0\n");
	put_file(fix.dir, "/sys/kernel/mm/ksm/run", "0\n");
	put_file(fix.dir, "/sys/kernel/mm/ksm/pages_shared", "0\n");
	put_file(fix.dir, "/proc/self/status", "Name: memoc\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n");
	put_file(fix.dir, "/run/libvirt/.keep", "");
	put_file(fix.dir, "/etc/libvirt/hooks/qemu.d/50-memoc", "");
	set_mode(fix.dir, "/etc/libvirt/hooks/qemu.d/50-memoc", 0755);
	put_libvirtd("4000000000"); /* far in the future: after the hook */
}

static int listen_libvirt(void)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/run/libvirt/libvirt-sock", fix.dir);
	return make_listener(path);
}

static void test_check_good_host(void **state)
{
	put_good_host();
	int libvirt = listen_libvirt();
	struct check_list l = check_all();

	for (size_t i = 0; i < l.n; i++)
		if (l.items[i].result != CHECK_PASS)
			fail_msg("%s: %s", l.items[i].name, l.items[i].text);
	assert_int_equal(l.n, 17);
	assert_item(&l, "cgroup", CHECK_PASS, "cgroup v2, memory controller at /sys/fs/cgroup");
	assert_item(&l, "swap", CHECK_PASS, "2 GiB free of 2 GiB");
	assert_item(&l, "swap-cache", CHECK_PASS, "swap is zram");
	assert_item(&l, "libvirt", CHECK_PASS, "libvirtd takes connections");
	assert_item(&l, "hook-seen", CHECK_PASS, "libvirtd (process 77) was started after");
	assert_item(&l, "privileges", CHECK_PASS, "capabilities");
	free(l.items);
	close(libvirt);
}

static void test_check_empty_host(void **state)
{
	struct check_list l = check_all();

	assert_item(&l, "cgroup", CHECK_FAIL, "no cgroup memory controller");
	assert_item(&l, "swap", CHECK_WARN, "cannot tell");
	assert_item(&l, "psi", CHECK_WARN, "No such file");
	assert_item(&l, "page-idle", CHECK_WARN, "no idle page tracking");
	assert_item(&l, "damon", CHECK_WARN, "no DAMON");
	assert_item(&l, "mglru", CHECK_WARN, "no multi-generational LRU");
	assert_item(&l, "wss", CHECK_WARN, "nothing here can measure working sets");
	assert_item(&l, "madvise", CHECK_WARN, "kernel unknown");
	assert_item(&l, "ksm", CHECK_PASS, "not in this kernel");
	assert_item(&l, "libvirt", CHECK_FAIL, "neither virtqemud nor libvirtd");
	assert_item(&l, "hook", CHECK_WARN, "is not there");
	assert_null(find_item(&l, "hook-seen"));
	assert_null(find_item(&l, "privileges"));
	free(l.items);
}

/* The good host with one thing bad: the line that must say so. */
static void test_check_each_problem(void **state)
{
	static const struct {
		const char *path, *text, *name;
		enum check_result result;
		const char *said;
	} cases[] = {
		{"/sys/fs/cgroup/cgroup.controllers", "cpu io\n", "cgroup", CHECK_FAIL, "no cgroup memory"},
		{"/proc/self/mountinfo", "26 22 0:23 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw\n", "cgroup",
		 CHECK_FAIL, "read-only"},
		{"/proc/self/mountinfo", "30 25 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "cgroup",
		 CHECK_PASS, "cgroup v1, memory controller at /sys/fs/cgroup/memory"},
		{"/proc/self/mountinfo", "30 25 0:2 / /sys/fs/cgroup/x rw - cgroup cgroup rw,memoryx\nnonsense\n",
		 "cgroup", CHECK_FAIL, "no cgroup memory"},
		{"/proc/meminfo", "SwapTotal: 0 kB\nSwapFree: 0 kB\n", "swap", CHECK_WARN, "none: only balloons"},
		{"/proc/meminfo", "SwapTotal: 1048576 kB\nSwapFree: 90000 kB\n", "swap", CHECK_WARN, "nearly full"},
		{"/sys/module/zswap/parameters/enabled", "Y\n", "swap-cache", CHECK_WARN, "compressed twice"},
		{"/proc/swaps", "Filename\n/swapfile file 2097152 0 -2\n", "swap-cache", CHECK_WARN,
		 "neither zswap nor zram"},
		{"/proc/swaps", "Filename\n/dev/zram0 p 1 0 1\n/dev/sda2 p 1 0 -2\n", "swap-cache", CHECK_PASS,
		 "part of the swap"},
		{"/proc/sys/vm/swappiness", "0\n", "swappiness", CHECK_WARN, "vm.swappiness=0"},
		{"/boot/config-6.12.48-amd64", "# CONFIG_DAMON_VADDR is not set\n", "damon", CHECK_WARN,
		 "cannot watch"},
		{"/sys/kernel/mm/lru_gen/enabled", "0x0000\n", "mglru", CHECK_WARN, "but off"},
		{"/sys/kernel/mm/lru_gen/enabled", "0x0001\n", "mglru", CHECK_WARN, "but off"},
		{"/proc/sys/kernel/osrelease", "6.1.0-38-amd64\n", "mglru", CHECK_WARN,
		 "before Linux 6.12 (here 6.1.0-38-amd64)"},
		{"/proc/sys/kernel/osrelease", "6.1.0-38-amd64\n", "damon", CHECK_WARN, "cannot be told"},
		{"/proc/sys/kernel/osrelease", "5.4.0\n", "madvise", CHECK_WARN, "kernel 5.4.0"},
		{"/proc/sys/vm/overcommit_memory", "2\n", "overcommit", CHECK_WARN, "overcommit_memory=2"},
		{"/sys/kernel/mm/ksm/run", "1\n", "ksm", CHECK_WARN, "liability"},
		{"/sys/kernel/mm/ksm/pages_shared", "5\n", "ksm", CHECK_WARN, "5 pages are still shared"},
		{"/proc/self/status", "Name: x\nUid:\t0\t0\t0\t0\nCapEff:\t0000000000200002\n", "privileges",
		 CHECK_WARN, "lacks CAP_SYS_PTRACE (reading QEMU's memory map), CAP_SYS_NICE"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		put_good_host();
		put_file(fix.dir, cases[i].path, cases[i].text);
		struct check_list l = check_all();
		assert_item(&l, cases[i].name, cases[i].result, cases[i].said);
		free(l.items);
	}
}

static void test_check_hook(void **state)
{
	char path[128];

	put_good_host();
	put_libvirtd("1000"); /* runs since 1970 */
	struct check_list l = check_all();
	assert_item(&l, "hook-seen", CHECK_WARN, "libvirtd (process 77) runs since before the hook");
	free(l.items);
	snprintf(path, sizeof(path), "%s/proc/77/stat", fix.dir);
	unlink(path);
	l = check_all();
	assert_item(&l, "hook-seen", CHECK_PASS, "libvirt is not running");
	free(l.items);
	set_mode(fix.dir, "/etc/libvirt/hooks/qemu.d/50-memoc", 0644);
	l = check_all();
	assert_item(&l, "hook", CHECK_FAIL, "not an executable file");
	assert_null(find_item(&l, "hook-seen"));
	free(l.items);
}

/* Stock kernels of today: none of the three. Where there is swap the fourth can be asked for. */
static void test_check_refault_alone(void **state)
{
	char path[128];

	put_good_host();
	snprintf(path, sizeof(path), "%s/sys/kernel/mm/page_idle/bitmap", fix.dir);
	unlink(path);
	put_file(fix.dir, "/sys/kernel/mm/lru_gen/enabled", "0x0000\n");
	put_file(fix.dir, "/boot/config-6.12.48-amd64", "# Linux\nCONFIG_DAMON=y\n");
	struct check_list l = check_all();
	assert_item(&l, "wss", CHECK_WARN, "nothing here can measure");
	assert_non_null(strstr(find_item(&l, "wss")->remedy, "backend = refault"));
	free(l.items);
	put_file(fix.dir, "/proc/meminfo", "SwapTotal: 0 kB\nSwapFree: 0 kB\n");
	l = check_all();
	assert_null(strstr(find_item(&l, "wss")->remedy, "refault"));
	free(l.items);
}

/* No memory.reclaim in any group: the older kernel is told of. */
static void test_check_reclaim(void **state)
{
	char path[128];

	put_good_host();
	snprintf(path, sizeof(path), "%s/sys/fs/cgroup/machine.slice/memory.reclaim", fix.dir);
	unlink(path);
	struct check_list l = check_all();
	assert_item(&l, "reclaim", CHECK_WARN, "no memory.reclaim");
	free(l.items);
	snprintf(path, sizeof(path), "%s/sys/fs/cgroup/machine.slice/memory.high", fix.dir);
	unlink(path);
	l = check_all();
	assert_item(&l, "reclaim", CHECK_PASS, "memory.reclaim");
	free(l.items);
}

/* The command itself, on this very machine: whatever it finds, its words and its exit status agree. */
static void test_check_command(void **state)
{
	const struct result *res = run("check");
	bool failed = strstr(res->out, "FAIL  ");

	assert_int_equal(res->status, failed ? CLI_FAILED : CLI_DONE);
	assert_string_equal(res->err, "");
	assert_contains(res->out, "PASS  memocd          memocd " MEMOC_VERSION " answers on");
	assert_contains(res->out, "PASS  memocd-libvirt ");
	assert_contains(res->out, "PASS  page-reporting  free page reporting is on in all 2 VMs");
	assert_contains(res->out, failed ? "failed\n" : " 0 failed\n");
	res = run("check --json");
	struct json *j AUTO_JSON = NULL;
	assert_int_equal(json_parse(res->out, strlen(res->out), NULL, &j, NULL), 0);
	bool json_failed = false;
	for (size_t i = 0; i < json_len(j); i++) {
		const char *result, *name;
		assert_int_equal(json_get_str(json_at(j, i), "result", &result), 0);
		assert_int_equal(json_get_str(json_at(j, i), "check", &name), 0);
		json_failed = json_failed || !strcmp(result, "FAIL");
	}
	assert_int_equal(json_failed, failed);
}

static void test_check_without_daemon(void **state)
{
	const struct result *res = run("check");

	assert_string_equal(res->err, "");
	assert_contains(res->out, "WARN  memocd          cannot reach memocd: there is no socket");
	assert_contains(res->out, "      -> start it (systemctl start memocd)");
	assert_lacks(res->out, "page-reporting");
}

/* ---- completion ---- */

static void test_complete_names(void **state)
{
	const struct result *res = run("__complete names");

	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->out, "a-virtual-machine-with-a-very-long-name-indeed\nweb1\nweb2\n");
	assert_int_equal(run("__complete colours")->status, CLI_USAGE);
	assert_int_equal(run("__complete names undefined")->status, CLI_USAGE);
	assert_int_equal(run("__complete names defined")->status, CLI_DONE);
	assert_string_equal(calls(), "List {\"all\":true,\"off\":false}\nList {\"all\":true,\"off\":true}\n");
	kill(fix.server, SIGKILL);
	waitpid(fix.server, NULL, 0);
	fix.server = 0;
	res = run("__complete names");
	assert_int_equal(res->status, CLI_DONE);
	assert_string_equal(res->out, "");
	assert_string_equal(res->err, "");
}

/* What bash offers for words, the last of which is being typed; memoc itself is a function that knows three VMs. */
static const char *bash_offers(const char *words)
{
	static char text[4096];
	char script[1024];
	size_t used;
	FILE *f;

	snprintf(script, sizeof(script),
		 "bash -c 'compopt() { :; }; memoc() { printf \"%%s\\n\" web1 web2 \"my vm\" $2; }; . %s/memoc.bash; "
		 "COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _memoc; printf \"%%s \" \"${COMPREPLY[@]}\"' "
		 "2>&1",
		 fix.dir, words);
	f = popen(script, "re");
	assert_non_null(f);
	used = fread(text, 1, sizeof(text) - 1, f);
	text[used] = '\0';
	assert_int_equal(pclose(f), 0);
	return text;
}

static void test_bash_completion(void **state)
{
	char path[128];
	const char *const syntax[] = {"bash", "-n", path, NULL};
	const struct result *res = run("completion bash");

	assert_int_equal(res->status, CLI_DONE);
	put_file(fix.dir, "/memoc.bash", res->out);
	snprintf(path, sizeof(path), "%s/memoc.bash", fix.dir);
	run_program(syntax);
	assert_string_equal(bash_offers("memoc re"), "resize release replay ");
	assert_string_equal(bash_offers("memoc list --a"), "--all ");
	assert_string_equal(bash_offers("memoc info w"), "web1 web2 ");
	assert_string_equal(bash_offers("memoc --no-color info my"), "my\\ vm ");
	assert_string_equal(bash_offers("memoc --socket /sock info /"), "/sock ");
	assert_string_equal(bash_offers("memoc info web1 w"), " ");
	assert_string_equal(bash_offers("memoc set web1 m"), "managed= min= max= ");
	assert_string_equal(bash_offers("memoc set web1 min = 1G we"), "weight= ");
	assert_string_equal(bash_offers("memoc set web1 --c"), "--config ");
	assert_string_equal(bash_offers("memoc resize web1 a"), "auto ");
	assert_string_equal(bash_offers("memoc completion z"), "zsh ");
	assert_contains(bash_offers("memoc config --check /et"), "/etc ");
	assert_string_equal(bash_offers("memoc simulate --policy need"), "needy-greedy ");
	assert_string_equal(bash_offers("memoc simulate --policy mom,or"), "mom,oracle ");
	assert_string_equal(bash_offers("memoc simulate --generate = b"), "bursts boot-storm ");
	assert_string_equal(bash_offers("memoc simulate --pool 4G --over"), "--overcommit ");
	assert_lacks(bash_offers("memoc \"\""), "__complete");
}

/* zsh and fish are seldom there: their scripts must name every command and option. */
static void test_other_completions(void **state)
{
	for (size_t s = 1; completion_shells[s]; s++) {
		char line[64];
		snprintf(line, sizeof(line), "completion %s", completion_shells[s]);
		const struct result *res = run(line);
		assert_int_equal(res->status, CLI_DONE);
		assert_contains(res->out, "memoc");
		assert_contains(res->out, "__complete names");
		for (size_t i = 0; cli_commands[i]; i++) {
			if (cli_commands[i]->hidden)
				continue;
			assert_contains(res->out, cli_commands[i]->name);
			for (const struct cli_option *o = cli_commands[i]->options; o && o->name; o++)
				assert_contains(res->out, o->name);
		}
	}
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, setup_server, teardown)
#define WITHOUT_SERVER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(test_list_tables),
		WITH_SERVER(test_list_any_width),
		WITH_SERVER(test_colors),
		WITHOUT_SERVER(test_empty_host_and_list),
		WITH_SERVER(test_info_text),
		WITH_SERVER(test_host_text),
		WITH_SERVER(test_explain_text),
		WITH_SERVER(test_get_and_config_text),
		WITH_SERVER(test_list_json),
		WITH_SERVER(test_info_json_is_flat),
		WITH_SERVER(test_other_json),
		WITH_SERVER(test_events_text),
		WITH_SERVER(test_events_json_is_one_a_line),
		WITH_SERVER(test_follow_ends_with_the_stream),
		WITH_SERVER(test_follow_is_interrupted),
		WITH_SERVER(test_follow_reader_leaves),
		WITH_SERVER(test_follow_daemon_goes_away),
		WITH_SERVER(test_output_errors),
		WITH_SERVER(test_set),
		WITH_SERVER(test_set_refuses),
		WITH_SERVER(test_resize),
		WITH_SERVER(test_hold_release_drain),
		cmocka_unit_test_setup_teardown(test_migrate, setup_virsh, teardown),
		cmocka_unit_test_setup_teardown(test_migrate_json, setup_virsh, teardown),
		cmocka_unit_test_setup_teardown(test_migrate_fails, setup_virsh, teardown),
		cmocka_unit_test_setup_teardown(test_migrate_is_cancelled, setup_virsh, teardown),
		WITHOUT_SERVER(test_job_stats),
		WITH_SERVER(test_error_replies),
		WITHOUT_SERVER(test_no_daemon),
		WITH_SERVER(test_daemon_hangs),
		WITHOUT_SERVER(test_daemon_is_silent),
		WITHOUT_SERVER(test_daemon_is_something_else),
		WITH_SERVER(test_daemon_dies),
		WITH_SERVER(test_usage),
		WITHOUT_SERVER(test_help),
		WITHOUT_SERVER(test_suggest),
		WITHOUT_SERVER(test_short_sizes),
		WITHOUT_SERVER(test_config_check),
		WITHOUT_SERVER(test_check_good_host),
		WITHOUT_SERVER(test_check_empty_host),
		WITHOUT_SERVER(test_check_each_problem),
		WITHOUT_SERVER(test_check_hook),
		WITHOUT_SERVER(test_check_reclaim),
		WITHOUT_SERVER(test_check_refault_alone),
		WITH_SERVER(test_check_command),
		WITHOUT_SERVER(test_check_without_daemon),
		WITH_SERVER(test_complete_names),
		WITHOUT_SERVER(test_bash_completion),
		WITHOUT_SERVER(test_other_completions),
	};
	tests_pid = getpid();
	return cmocka_run_group_tests_name("cli", tests, NULL, NULL);
}
