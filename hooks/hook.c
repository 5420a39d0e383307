/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Order of a run: read all of stdin (libvirt writes it, whether anybody listens or not), connect, read the XML, send,
 * and for `prepare` wait for the answer. Connecting goes before reading the XML, so that a host whose memocd is down
 * pays for nothing.
 */
#include "hooks/hook.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "common/domjson.h"
#include "common/varlink.h"

#define NOTIFY_METHOD "org.memoc.Hook.Notify"
/* Of the deadline, in percent, that a stdin which never ends may take; the rest is for telling memocd. */
#define XML_SHARE_PERCENT 60
#define XML_FIRST_BYTES ((size_t)16 << 10) /* seen: 1.6 to 2.2 kB; grows for VMs with many devices */
#define ALT_STACK_BYTES ((size_t)64 << 10)

/* libvirt's arguments, borrowed from argv. */
struct hook_args {
	const char *name, *operation, *suboperation, *extra;
};

/* ---- time ---- */

/* Milliseconds until `share_percent` of the deadline has passed, 0 when it has. Fits an int: poll takes one. */
static int left_ms(const struct hook_io *io, uint64_t share_percent)
{
	uint64_t end_ms = add_sat_u64(io->start_ms, mul_div_u64(io->deadline_ms, share_percent, 100));

	return (int)min_u64(sub_sat_u64(end_ms, now_ms()), INT32_MAX);
}

/* ---- arguments ---- */

static void say(const struct hook_io *io, const char *text)
{
	dprintf(io->err_fd, "memoc-hook: %s\n", text);
}

static int read_args(int argc, char *const argv[], struct hook_args *ret, struct memoc_err *err)
{
	if (argc < 3 || !*argv[1] || !*argv[2])
		return memoc_err_set(
			err, -EINVAL,
			"libvirt runs this as its qemu hook: NAME OPERATION SUBOPERATION EXTRA, the domain's XML "
			"on stdin; nothing was done");
	for (int i = 1; i < argc && i < 5; i++)
		if (strlen(argv[i]) >= DOMXML_NAME_MAX)
			return memoc_err_set(err, -E2BIG, "argument %d is longer than %d bytes; nothing was done", i,
					     DOMXML_NAME_MAX - 1);
	*ret = (struct hook_args){.name = argv[1],
				  .operation = argv[2],
				  .suboperation = argc > 3 ? argv[3] : "-",
				  .extra = argc > 4 ? argv[4] : "-"};
	return 0;
}

/* ---- stdin ---- */

struct buffer {
	char *data;
	size_t len, size;
	bool too_long; /* more came than DOMXML_BYTES_MAX and was thrown away */
};

static void buffer_clear(struct buffer *b)
{
	free(b->data);
}

/* Room for at least one more byte, up to one byte more than is accepted: that one tells that it is too long. */
static int buffer_grow(struct buffer *b)
{
	size_t size = b->size ? b->size * 2 : XML_FIRST_BYTES;
	char *data;

	if (b->len < b->size)
		return 0;
	if (size > DOMXML_BYTES_MAX + 1)
		size = DOMXML_BYTES_MAX + 1;
	data = realloc(b->data, size);
	if (!data)
		return -ENOMEM;
	b->data = data;
	b->size = size;
	return 0;
}

/* Waits for input and reads some. 1: some was read; 0: end of file; −ETIMEDOUT; −errno. */
static int read_some(const struct hook_io *io, struct buffer *b)
{
	struct pollfd p = {.fd = io->xml_fd, .events = POLLIN};
	int ms = left_ms(io, XML_SHARE_PERCENT), r;
	ssize_t n;

	if (ms <= 0)
		return -ETIMEDOUT;
	r = poll(&p, 1, ms);
	if (r <= 0)
		return r == 0 ? -ETIMEDOUT : errno == EINTR ? 1 : -errno;
	/* What is too long is still taken from the pipe, so that libvirt can write all of it. */
	if (b->len > DOMXML_BYTES_MAX) {
		b->too_long = true;
		b->len = 0;
	}
	r = buffer_grow(b);
	if (r < 0)
		return r;
	n = read(io->xml_fd, b->data + b->len, b->size - b->len);
	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 1 : -errno;
	b->len += (size_t)n;
	return n > 0;
}

/* All of stdin, or why not. What was read is in b in any case. */
static int read_xml(const struct hook_io *io, struct buffer *b, struct memoc_err *err)
{
	int r;

	do {
		r = read_some(io, b);
	} while (r > 0);
	if (b->too_long || b->len > DOMXML_BYTES_MAX)
		return memoc_err_set(err, -E2BIG, "the domain XML on stdin has more than %zu bytes", DOMXML_BYTES_MAX);
	if (r == -ETIMEDOUT)
		return memoc_err_set(err, r, "the domain XML on stdin did not end in time: %zu bytes came", b->len);
	if (r < 0)
		return memoc_err_set(err, r, "cannot read the domain XML from stdin: %s", strerror(-r));
	return 0;
}

/* ---- the call ---- */

/* f is NULL where the XML could not be read: memocd then knows the VM by its name. */
static int write_parameters(const struct hook_args *a, const struct dom_facts *f, const char *xml_error, char **ret)
{
	struct json_writer *w = jw_new(false);

	jw_object(w, NULL);
	jw_str(w, "name", a->name);
	jw_str(w, "operation", a->operation);
	jw_str(w, "suboperation", a->suboperation);
	jw_str(w, "extra", a->extra);
	if (f)
		domjson_write(w, f);
	else
		jw_str(w, "xml_error", xml_error);
	jw_end(w);
	return jw_finish(w, ret, NULL);
}

/* A definite "no": every part of the answer is there and says so. Anything else lets the VM start. */
static bool reply_denies(const struct varlink_reply *reply)
{
	const char *mode;
	bool admitted;

	return json_get_bool(reply->parameters, "admitted", &admitted) == 0 && !admitted &&
	       json_get_str(reply->parameters, "mode", &mode) == 0 && !strcmp(mode, "deny");
}

static void say_denied(const struct hook_io *io, const struct hook_args *a, const struct varlink_reply *reply)
{
	char size[FORMAT_SIZE_LEN];
	uint64_t missing_bytes;
	struct memoc_err line;
	bool known = json_get_u64(reply->parameters, "missing_bytes", &missing_bytes) == 0;

	memoc_err_set(&line, 0,
		      "%.64s may not start here: the minimums guaranteed to all VMs would no longer fit, %s missing; "
		      "stop a VM, "
		      "lower a minimum (memoc set VM min=SIZE), or set [admission] mode = warn in memoc.conf",
		      a->name, known ? format_size(size, missing_bytes) : "memory is");
	say(io, line.text);
}

/* Waits for the answer. The exit status. */
static int ask(const struct hook_io *io, const struct hook_args *a, struct varlink_client *c, const char *parameters)
{
	struct varlink_reply reply AUTO_REPLY = {.message = NULL};

	if (varlink_call(c, NOTIFY_METHOD, parameters, left_ms(io, 100), &reply, NULL) != 0 || !reply_denies(&reply))
		return 0;
	say_denied(io, a, &reply);
	return 1;
}

int hook_run(int argc, char *const argv[], const struct hook_io *io)
{
	struct varlink_client *c AUTO_VARLINK = NULL;
	struct buffer xml CLEANUP(buffer_clear) = {.data = NULL};
	char *parameters AUTO_FREE = NULL;
	struct memoc_err err = {""};
	struct dom_facts facts;
	struct hook_args a = {.name = "", .operation = "", .suboperation = "", .extra = ""};
	int r;

	if (read_args(argc, argv, &a, &err) < 0) {
		say(io, err.text);
		return 0;
	}
	r = read_xml(io, &xml, &err);
	if (varlink_connect(io->socket_path, left_ms(io, 100), &c, NULL) < 0)
		return 0; /* memocd is down: it finds the VM itself when it comes up */
	/* A document that is whole is good, even where whoever wrote it did not close the pipe. */
	if (r == 0)
		r = domxml_parse(xml.data, xml.len, &facts, &err);
	else if (r == -ETIMEDOUT)
		r = domxml_parse(xml.data, xml.len, &facts, NULL);
	if (write_parameters(&a, r == 0 ? &facts : NULL, err.text, &parameters) < 0)
		return 0;
	if (!strcmp(a.operation, "prepare"))
		return ask(io, &a, c, parameters);
	varlink_send(c, NOTIFY_METHOD, parameters, VARLINK_ONEWAY, left_ms(io, 100), NULL);
	return 0;
}

/* ---- the guard ---- */

static void end_quietly(int signo)
{
	_exit(0);
}

/* libvirt shows the stderr of a hook only if it failed; whoever runs it by hand sees the reason. */
static void end_after_crash(int signo)
{
	static const char text[] = "memoc-hook: crashed; ends with status 0, so that libvirt goes on\n";
	ssize_t n UNUSED = write(STDERR_FILENO, text, sizeof(text) - 1);

	_exit(0);
}

static void open_std_fds(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

static void handle(const int *signals, void (*fn)(int))
{
	struct sigaction sa = {.sa_handler = fn, .sa_flags = SA_ONSTACK};

	sigfillset(&sa.sa_mask);
	for (; *signals; signals++)
		sigaction(*signals, &sa, NULL);
}

void hook_guard(uint64_t watchdog_ms)
{
	static const int crashes[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP, 0};
	static const int ends[] = {SIGALRM, SIGTERM,   SIGINT,	SIGHUP,	 SIGQUIT, SIGUSR1,
				   SIGUSR2, SIGVTALRM, SIGPROF, SIGXCPU, SIGXFSZ, 0};
	static const int ignored[] = {SIGPIPE, 0};
	static char alt_stack[ALT_STACK_BYTES];
	const stack_t stack = {.ss_sp = alt_stack, .ss_size = sizeof(alt_stack)};
	const struct itimerval timer = {.it_value = {.tv_sec = (time_t)(watchdog_ms / 1000),
						     .tv_usec = (suseconds_t)(watchdog_ms % 1000 * 1000)}};
	sigset_t none;

	sigaltstack(&stack, NULL);
	handle(crashes, end_after_crash);
	handle(ends, end_quietly);
	handle(ignored, SIG_IGN);
	/* Whoever started us may have blocked what ends us. */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	open_std_fds();
}
