/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Any bytes, in any pieces, as a client of the server half and as a service to the client half. The first byte of the
 * input says how the rest is cut. Every call is answered or forgotten, in the end nothing is left.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/varlink.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
	if (!good)
		abort();
}

static struct varlink_call *kept;
static int mask;

static void method_keep(struct varlink_call *call, const struct json *parameters, void *user)
{
	check(!kept);
	kept = call;
}

static void method_echo(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct json_writer *w = jw_new(false);
	char *text AUTO_FREE = NULL;

	jw_json(w, NULL, parameters);
	check(jw_finish(w, &text, NULL) == 0);
	varlink_answer(call, parameters && json_type(parameters) == JSON_OBJECT ? text : NULL, false);
}

static const struct varlink_method methods[] = {
	{"a.Keep", method_keep}, {"a.Echo", method_echo}, {"a.Plan", NULL}, {NULL, NULL}};
static const struct varlink_interface interfaces[] = {{"a", "interface a\n", methods}, {NULL, NULL, NULL}};
static const struct varlink_limits limits = {.message_bytes = 4096, .unread_bytes = 65536};

static void on_wants(struct varlink_conn *conn, int new_mask, void *user)
{
	check(new_mask != mask);
	mask = new_mask;
}

static void on_call_gone(struct varlink_call *call, void *user)
{
	check(call == kept);
	kept = NULL;
}

static const struct varlink_conn_ops ops = {on_wants, on_call_gone};

static void drain(int fd)
{
	char buf[65536];

	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

static int serve(struct varlink_conn *c, int fd)
{
	int r = varlink_conn_readable(c, NULL);

	for (int i = 0; r == 0 && (mask & 2); i++) {
		check(i < 10000);
		drain(fd);
		r = varlink_conn_writable(c, NULL);
	}
	drain(fd);
	return r;
}

static void as_client(struct varlink_server *server, const uint8_t *data, size_t size, size_t piece)
{
	struct varlink_conn *c;
	struct varlink_call *call;
	int fds[2], r = 0;

	mask = 0;
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
	check(varlink_conn_new(server, fds[0], &ops, NULL, &c) == 0);
	for (size_t at = 0; at < size && r == 0; at += piece) {
		r = send(fds[1], data + at, min_u64(piece, size - at), MSG_NOSIGNAL) > 0 ? serve(c, fds[1]) : -1;
		/* A kept call is answered by every other piece, or never. */
		if (r == 0 && kept && at / piece % 2) {
			call = TAKE(kept);
			varlink_answer(call, "{\"late\":true}", false);
			r = serve(c, fds[1]);
		}
	}
	varlink_conn_free(c);
	check(!kept);
	close(fds[1]);
}

/* A listener of this process alone: an abstract address, which the client half does not know, would not do. */
static int listener = -1;
static char dir[] = "/tmp/memoc-fuzz-XXXXXX", path[64];

static void listener_end(void)
{
	unlink(path);
	rmdir(dir);
}

static void listener_start(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	check(mkdtemp(dir) != NULL);
	snprintf(path, sizeof(path), "%s/sock", dir);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	check(bind(listener, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(listener, 1) == 0);
	atexit(listener_end);
}

static void as_service(const uint8_t *data, size_t size)
{
	struct varlink_client *c;
	struct varlink_reply reply = {0};
	int fd, r = 0;

	check(varlink_connect(path, -1, &c, NULL) == 0);
	fd = accept(listener, NULL, NULL);
	check(fd >= 0);
	/* What the socket does not hold is not needed: the reply is refused or complete long before. */
	if (size > 0)
		send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
	shutdown(fd, SHUT_WR);
	while (r >= 0) {
		r = varlink_receive(c, 10000, &reply, NULL);
		check(r != -ETIMEDOUT);
		check((r >= 0) == (reply.message != NULL));
		check((r == VARLINK_REPLY_ERROR) == (reply.error != NULL));
		varlink_reply_clear(&reply);
	}
	varlink_client_free(c);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct varlink_server *server;

	if (!server) {
		check(varlink_server_new("v", "p", "1", "u", interfaces, &limits, NULL, &server) == 0);
		listener_start();
	}
	if (size == 0)
		return 0;
	as_client(server, data + 1, size - 1, data[0] ? data[0] : 4096);
	as_service(data + 1, size - 1);
	return 0;
}
