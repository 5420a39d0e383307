/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/varlink.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "common/clock.h"
#include "common/varlink_frames.h"

struct varlink_client {
	int fd;
	int broken; /* −errno after which the stream cannot be used: a call went out in part, or it ended */
	struct frames in;
};

/* ---- deadlines: one absolute instant per call, so that a peer that trickles bytes gains no time ---- */

#define NEVER_US INT64_MAX

static int64_t deadline_after(int timeout_ms)
{
	return timeout_ms < 0 ? NEVER_US : (int64_t)now_us() + (int64_t)timeout_ms * 1000;
}

static int64_t left_us(int64_t deadline_us)
{
	int64_t left;

	if (deadline_us == NEVER_US)
		return NEVER_US;
	left = deadline_us - (int64_t)now_us();
	return left > 0 ? left : 0;
}

/* 0: fd is ready (or has an error, which the next call on it tells); −ETIMEDOUT. */
static int wait_ready(int fd, short events, int64_t deadline_us)
{
	struct pollfd p = {.fd = fd, .events = events};
	int64_t left;
	int r;

	do {
		left = left_us(deadline_us);
		/* Rounded up: a last fraction of a millisecond must not become a busy loop. */
		r = poll(&p, 1, left == NEVER_US ? -1 : (int)min_u64(((uint64_t)left + 999) / 1000, INT_MAX));
	} while ((r < 0 && errno == EINTR) || (r == 0 && left_us(deadline_us) > 0));
	return r > 0 ? 0 : r == 0 ? -ETIMEDOUT : -errno;
}

/* ---- connecting ---- */

static int connect_failed(int code, const char *path, struct memoc_err *err)
{
	switch (code) {
	case -ENOENT:
	case -ECONNREFUSED:
		return memoc_err_set(err, code,
				     "nobody listens at %s (%s): start memocd, or give its socket with $MEMOC_SOCKET",
				     path, strerror(-code));
	case -EACCES:
	case -EPERM:
		return memoc_err_set(err, code, "not allowed to use %s: be root or a member of the socket's group",
				     path);
	case -ETIMEDOUT:
		return memoc_err_set(err, code, "%s takes no connection in time: memocd is stuck or overloaded", path);
	default:
		return memoc_err_set(err, code, "cannot connect to %s: %s", path, strerror(-code));
	}
}

/*
 * A unix socket whose queue is full refuses a non-blocking connect with EAGAIN and gives nothing to poll for; but a
 * blocking one waits for SO_SNDTIMEO at most (unix_stream_connect in Linux' net/unix/af_unix.c).
 */
static int set_connect_timeout(int fd, int64_t deadline_us)
{
	int64_t left = left_us(deadline_us);
	struct timeval t = {0};

	if (left != NEVER_US) {
		left = left > 0 ? left : 1; /* 0 would mean for ever */
		t.tv_sec = left / 1000000;
		t.tv_usec = left % 1000000;
	}
	return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)) < 0 ? -errno : 0;
}

static int connect_until(int fd, const struct sockaddr_un *addr, int64_t deadline_us)
{
	int r;

	do {
		r = set_connect_timeout(fd, deadline_us);
		if (r < 0)
			return r;
		r = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
	} while (r == -EINTR && left_us(deadline_us) > 0);
	return r == -EAGAIN || r == -EINTR ? -ETIMEDOUT : r;
}

struct varlink_client *varlink_client_free(struct varlink_client *c)
{
	if (c) {
		if (c->fd >= 0)
			close(c->fd);
		frames_clear(&c->in);
	}
	free(c);
	return NULL;
}

int varlink_connect(const char *path, int timeout_ms, struct varlink_client **ret, struct memoc_err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int64_t deadline_us = deadline_after(timeout_ms);
	struct varlink_client *c;
	int r;

	if (!*path || strlen(path) >= sizeof(addr.sun_path))
		return memoc_err_set(err, -ENAMETOOLONG, "socket path '%s' is empty or longer than %zu bytes", path,
				     sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path));
	c = calloc(1, sizeof(*c));
	if (!c)
		return memoc_err_set(err, -ENOMEM, "cannot connect to %s: out of memory", path);
	/* Blocking for connect alone: sends and receives say MSG_DONTWAIT. */
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	r = c->fd < 0 ? -errno : connect_until(c->fd, &addr, deadline_us);
	if (r < 0) {
		varlink_client_free(c);
		return connect_failed(r, path, err);
	}
	*ret = c;
	return 0;
}

/* ---- sending ---- */

static int add_text(struct frames *f, const char *text)
{
	return frames_add(f, text, strlen(text));
}

static int build_call(struct frames *out, const char *method, const char *parameters, int flags)
{
	int r = add_text(out, "{\"method\":\"");

	r = r < 0 ? r : add_text(out, method);
	r = r < 0 ? r : add_text(out, "\",\"parameters\":");
	r = r < 0 ? r : add_text(out, parameters ? parameters : "{}");
	if (flags & VARLINK_ONEWAY)
		r = r < 0 ? r : add_text(out, ",\"oneway\":true");
	if (flags & VARLINK_MORE)
		r = r < 0 ? r : add_text(out, ",\"more\":true");
	return r < 0 ? r : frames_add(out, "}", 2); /* with its NUL */
}

static int send_all(struct varlink_client *c, struct frames *out, int64_t deadline_us)
{
	int r;

	for (;;) {
		r = frames_send(out, c->fd);
		if (r < 0 || out->len == 0)
			return r;
		r = wait_ready(c->fd, POLLOUT, deadline_us);
		if (r < 0)
			return r;
	}
}

static int send_until(struct varlink_client *c, const char *method, const char *parameters, int flags,
		      int64_t deadline_us, struct memoc_err *err)
{
	struct frames out = {0};
	int r;

	if (!varlink_name_good(method) || (parameters && !varlink_parameters_good(parameters)))
		return memoc_err_set(err, -EINVAL, "'%s' is no method name, or its parameters are no JSON object",
				     method ? method : "");
	if (c->broken)
		return memoc_err_set(err, c->broken, "%s: this connection has ended: connect anew", method);
	r = build_call(&out, method, parameters, flags);
	if (r < 0)
		memoc_err_set(err, r, "%s: out of memory", method);
	else if (out.len - 1 > VARLINK_MESSAGE_MAX)
		r = memoc_err_set(err, -E2BIG, "%s: the call has %zu bytes, at most %zu can be sent", method,
				  out.len - 1, VARLINK_MESSAGE_MAX);
	else {
		r = send_all(c, &out, deadline_us);
		if (r < 0) {
			r = r == -EPIPE ? -ECONNRESET : r;
			c->broken = r;
			memoc_err_set(err, r, "%s: cannot send the call: %s", method, strerror(-r));
		}
	}
	frames_clear(&out);
	return r;
}

/* ---- receiving ---- */

void varlink_reply_clear(struct varlink_reply *r)
{
	json_free(r->message);
	*r = (struct varlink_reply){0};
}

static int read_reply(const char *text, size_t len, struct varlink_reply *ret, struct memoc_err *err)
{
	static const struct json_limits limits = {.bytes = VARLINK_REPLY_MAX, .depth = 32, .nodes = (size_t)2 << 20};
	struct json *message AUTO_JSON = NULL;
	const struct json *parameters;
	const char *error = NULL;
	bool continues = false;
	int r;

	r = json_parse(text, len, &limits, &message, err);
	if (r == -ENOMEM)
		return r;
	if (r < 0)
		return memoc_err_prefix(err, -EPROTO, "the reply is not understood");
	parameters = json_get(message, "parameters");
	if (json_type(message) != JSON_OBJECT || json_get_str(message, "error", &error) == -EINVAL ||
	    json_get_bool(message, "continues", &continues) == -EINVAL ||
	    (json_type(parameters) != JSON_NULL && json_type(parameters) != JSON_OBJECT))
		return memoc_err_set(err, -EPROTO, "the reply is no varlink reply");
	*ret = (struct varlink_reply){
		.parameters = json_type(parameters) == JSON_OBJECT ? parameters : NULL,
		.error = error,
		.continues = continues && !error,
	};
	ret->message = TAKE(message);
	return 0;
}

/* What the service said, for people: the error's name and its parameters. */
static int reply_is_error(const struct varlink_reply *reply, struct memoc_err *err)
{
	struct json_writer *w = jw_new(false);
	char *text AUTO_FREE = NULL;

	jw_json(w, NULL, reply->parameters);
	if (jw_finish(w, &text, NULL) < 0 || !reply->parameters || json_len(reply->parameters) == 0)
		return memoc_err_set(err, VARLINK_REPLY_ERROR, "the service refused: %s", reply->error);
	return memoc_err_set(err, VARLINK_REPLY_ERROR, "the service refused: %s %s", reply->error, text);
}

/* One message into c->in at least, unless the deadline comes first. */
static int fill_until(struct varlink_client *c, int64_t deadline_us)
{
	ssize_t n;
	int r = wait_ready(c->fd, POLLIN, deadline_us);

	if (r < 0)
		return r;
	n = frames_receive(&c->in, c->fd);
	if (n == -EAGAIN)
		return 0;
	return n > 0 ? 0 : n == 0 ? -ECONNRESET : (int)n;
}

static int receive_failed(struct varlink_client *c, int code, struct memoc_err *err)
{
	/* A reply that is late, or memory that is short, may still come. */
	if (code != -ETIMEDOUT && code != -ENOMEM)
		c->broken = code;
	switch (code) {
	case -ETIMEDOUT:
		return memoc_err_set(err, code, "no reply in time");
	case -ECONNRESET:
		return memoc_err_set(err, code, "the service closed the connection before its reply");
	case -EPROTO:
		return memoc_err_set(err, code, "the reply is longer than %zu bytes", VARLINK_REPLY_MAX);
	default:
		return memoc_err_set(err, code, "cannot read the reply: %s", strerror(-code));
	}
}

static int receive_until(struct varlink_client *c, int64_t deadline_us, struct varlink_reply *ret,
			 struct memoc_err *err)
{
	const char *text;
	size_t len;
	bool waited = false;
	int r;

	if (c->broken)
		return memoc_err_set(err, c->broken, "this connection has ended: connect anew");
	for (;;) {
		r = frames_next(&c->in, VARLINK_REPLY_MAX, &text, &len);
		if (r > 0)
			break;
		if (r == -E2BIG)
			return receive_failed(c, -EPROTO, err);
		/* Even a peer whose bytes never pause must let go; a deadline of "now" gets one look. */
		r = waited && left_us(deadline_us) == 0 ? -ETIMEDOUT : fill_until(c, deadline_us);
		if (r < 0)
			return receive_failed(c, r, err);
		waited = true;
	}
	r = read_reply(text, len, ret, err);
	if (r < 0)
		c->broken = r; /* the message is used up: what follows would answer another call */
	return r < 0 || !ret->error ? r : reply_is_error(ret, err);
}

/* ---- the three calls ---- */

int varlink_send(struct varlink_client *c, const char *method, const char *parameters, int flags, int timeout_ms,
		 struct memoc_err *err)
{
	return send_until(c, method, parameters, flags, deadline_after(timeout_ms), err);
}

int varlink_receive(struct varlink_client *c, int timeout_ms, struct varlink_reply *ret, struct memoc_err *err)
{
	return receive_until(c, deadline_after(timeout_ms), ret, err);
}

int varlink_call(struct varlink_client *c, const char *method, const char *parameters, int timeout_ms,
		 struct varlink_reply *ret, struct memoc_err *err)
{
	int64_t deadline_us = deadline_after(timeout_ms);
	int r = send_until(c, method, parameters, 0, deadline_us, err);

	if (r < 0)
		return r;
	r = receive_until(c, deadline_us, ret, err);
	if (r < 0) {
		c->broken = r; /* a late reply must not answer the next call */
		return memoc_err_prefix(err, r, "%s", method);
	}
	return r;
}
