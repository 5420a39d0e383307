/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server half. Calls of one connection are answered in their order: while one is open, later messages wait in the
 * input buffer, which is bounded. While answers wait to be read by the client, no further call of it is handled, so
 * that pipelining alone never brings a client over its limit; only answers to an open call (more) can.
 */
#include "common/varlink.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "common/varlink_frames.h"

#define SERVICE "org.varlink.service"
/* Messages handled in one turn, so that a client with a full buffer of tiny calls cannot hold up the loop. */
#define TURN_MESSAGES_MAX 16
enum { WANT_READ = 1, WANT_WRITE = 2 };

static const char service_description[] =
	"# Every varlink service has this interface: it says what the service is and what it offers.\n"
	"interface org.varlink.service\n"
	"\n"
	"# What this service is, and the names of its interfaces.\n"
	"method GetInfo() -> (\n"
	"  vendor: string,\n"
	"  product: string,\n"
	"  version: string,\n"
	"  url: string,\n"
	"  interfaces: []string\n"
	")\n"
	"\n"
	"# The description of one of these interfaces.\n"
	"method GetInterfaceDescription(interface: string) -> (description: string)\n"
	"\n"
	"# There is no such interface here.\n"
	"error InterfaceNotFound (interface: string)\n"
	"\n"
	"# The interface has no such method.\n"
	"error MethodNotFound (method: string)\n"
	"\n"
	"# The interface has this method, but this service does not offer it.\n"
	"error MethodNotImplemented (method: string)\n"
	"\n"
	"# This parameter is missing or not good.\n"
	"error InvalidParameter (parameter: string)\n";

struct varlink_server {
	char *vendor, *product, *version, *url;
	const struct varlink_interface *interfaces;
	struct varlink_limits limits;
	void *user;
};

struct varlink_call {
	struct varlink_conn *conn;
	struct json *message;
	const char *method;
	bool more, oneway;
	void *data;
};

struct varlink_conn {
	struct varlink_server *server;
	int fd;
	const struct varlink_conn_ops *ops;
	void *user;
	struct ucred peer;
	struct frames in, out;
	struct varlink_call *open; /* the one call that has no final answer yet */
	int wanted;		   /* mask told last */
	int error;		   /* −errno: over; told by the next readable/writable */
	struct memoc_err why;
	bool busy, freeing; /* inside readable/writable; inside varlink_conn_free */
};

/* ---- server ---- */

struct varlink_server *varlink_server_free(struct varlink_server *s)
{
	if (s) {
		free(s->vendor);
		free(s->product);
		free(s->version);
		free(s->url);
	}
	free(s);
	return NULL;
}

int varlink_server_new(const char *vendor, const char *product, const char *version, const char *url,
		       const struct varlink_interface *interfaces, const struct varlink_limits *limits, void *user,
		       struct varlink_server **ret)
{
	struct varlink_server *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->vendor = strdup(vendor);
	s->product = strdup(product);
	s->version = strdup(version);
	s->url = strdup(url);
	if (!s->vendor || !s->product || !s->version || !s->url) {
		varlink_server_free(s);
		return -ENOMEM;
	}
	s->interfaces = interfaces;
	s->limits = *limits;
	s->user = user;
	*ret = s;
	return 0;
}

/* ---- connection ---- */

int varlink_conn_fd(const struct varlink_conn *c)
{
	return c->fd;
}

pid_t varlink_conn_pid(const struct varlink_conn *c)
{
	return c->peer.pid;
}

uid_t varlink_conn_uid(const struct varlink_conn *c)
{
	return c->peer.uid;
}

gid_t varlink_conn_gid(const struct varlink_conn *c)
{
	return c->peer.gid;
}

/*
 * While a call is open the connection is read on, to see a client leave; while answers wait, it is not. A message that
 * may be handled at once, but was left for the next turn, asks for "writable", which comes at once.
 */
static int wanted_now(struct varlink_conn *c)
{
	if (c->error)
		return WANT_READ | WANT_WRITE;
	if (c->out.len > 0)
		return WANT_WRITE | (c->open ? WANT_READ : 0);
	if (!c->open && frames_has_next(&c->in, c->server->limits.message_bytes))
		return WANT_WRITE;
	return WANT_READ;
}

static void tell_wants(struct varlink_conn *c)
{
	int mask = wanted_now(c);

	if (c->freeing || c->busy || mask == c->wanted)
		return;
	c->wanted = mask;
	c->ops->wants(c, mask, c->user);
}

/*
 * Ends the connection for a reason. The descriptor is shut down, so that it becomes readable even where the client
 * neither reads nor writes, and the caller's loop comes to hear of it.
 */
static int conn_fail(struct varlink_conn *c, int code)
{
	if (c->error)
		return c->error;
	c->error = code;
	shutdown(c->fd, SHUT_RDWR);
	frames_clear(&c->out);
	return code;
}

int varlink_conn_new(struct varlink_server *s, int fd, const struct varlink_conn_ops *ops, void *conn_user,
		     struct varlink_conn **ret)
{
	struct varlink_conn *c;
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int flags;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return -errno;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->server = s;
	c->fd = fd;
	c->ops = ops;
	c->user = conn_user;
	c->peer = peer;
	*ret = c; /* before wants is called: its caller may look there */
	tell_wants(c);
	return 0;
}

static struct varlink_call *call_free(struct varlink_call *call)
{
	json_free(call->message);
	free(call);
	return NULL;
}

struct varlink_conn *varlink_conn_free(struct varlink_conn *c)
{
	if (!c)
		return NULL;
	c->freeing = true;
	conn_fail(c, -ECONNRESET);
	if (c->open) {
		c->ops->call_gone(c->open, c->user);
		call_free(c->open);
	}
	close(c->fd);
	frames_clear(&c->in);
	frames_clear(&c->out);
	free(c);
	return NULL;
}

/* ---- answers ---- */

/* Appends the pieces of one message, all or nothing. */
static int queue_message(struct varlink_conn *c, const char *const *pieces)
{
	size_t before = c->out.len;
	int r = 0;

	for (; *pieces && r == 0; pieces++)
		r = frames_add(&c->out, *pieces, strlen(*pieces));
	if (r == 0)
		r = frames_add(&c->out, "", 1);
	if (r < 0)
		c->out.len = before;
	return r;
}

/* Queues and sends what the socket takes. */
static int send_message(struct varlink_conn *c, const char *const *pieces)
{
	bool waiting = c->out.len > 0;
	size_t max = c->server->limits.unread_bytes;
	int r;

	if (c->error)
		return c->error;
	r = queue_message(c, pieces);
	if (r < 0) {
		memoc_err_set(&c->why, r, "out of memory for an answer");
		return conn_fail(c, r);
	}
	/* Where earlier answers wait, the socket was full: not tried again unless it matters. */
	r = !waiting || c->out.len > max ? frames_send(&c->out, c->fd) : 0;
	if (r < 0) {
		memoc_err_set(&c->why, -ECONNRESET, "the client left: %s", strerror(-r));
		return conn_fail(c, -ECONNRESET);
	}
	if (c->out.len > max) {
		memoc_err_set(&c->why, -ENOBUFS,
			      "over the limit of unread_bytes: %zu bytes of answers are not read, %zu may be",
			      c->out.len, max);
		return conn_fail(c, -ENOBUFS);
	}
	return 0;
}

/* Ends a call: what becomes of its answer is the connection's business from now on. */
static void finish_call(struct varlink_call *call)
{
	struct varlink_conn *c = call->conn;

	/* call_gone may not answer any more; where it tries, varlink_conn_free still holds the call. */
	if (!c->freeing) {
		c->open = NULL;
		call_free(call);
	}
	tell_wants(c);
}

/* A final answer always ends the call, even one that could not be sent: nobody has to free it. */
static int answer_call(struct varlink_call *call, const char *const *pieces, bool final)
{
	struct varlink_conn *c = call->conn;
	int r = call->oneway ? 0 : send_message(c, pieces);

	if (final)
		finish_call(call);
	else
		tell_wants(c);
	return r;
}

/* What the program itself got wrong: the client must not wait for ever for it. */
static int answer_refused(struct varlink_call *call, const char *what)
{
	struct varlink_conn *c = call->conn;

	if (!c->error)
		memoc_err_set(&c->why, -EINVAL, "%s was answered with a bad %s", call->method, what);
	conn_fail(c, -EINVAL);
	finish_call(call);
	return -EINVAL;
}

int varlink_answer(struct varlink_call *call, const char *parameters, bool continues)
{
	const char *const pieces[] = {"{\"parameters\":", parameters ? parameters : "{}",
				      continues ? ",\"continues\":true}" : "}", NULL};

	if (parameters && !varlink_parameters_good(parameters))
		return answer_refused(call, "parameters");
	if (continues && !call->more && !call->oneway)
		return answer_refused(call, "continues");
	return answer_call(call, pieces, !continues);
}

int varlink_fail(struct varlink_call *call, const char *error, const char *parameters)
{
	const char *const pieces[] = {
		"{\"error\":\"", error, "\",\"parameters\":", parameters ? parameters : "{}", "}", NULL};

	if (!varlink_name_good(error))
		return answer_refused(call, "error");
	if (parameters && !varlink_parameters_good(parameters))
		return answer_refused(call, "parameters");
	return answer_call(call, pieces, true);
}

/* An error of org.varlink.service: each has one string. */
static int fail_named(struct varlink_call *call, const char *error, const char *key, const char *value)
{
	struct json_writer *w = jw_new(false);
	char *text AUTO_FREE = NULL;

	jw_object(w, NULL);
	jw_str(w, key, value);
	jw_end(w);
	/* Without memory the error still has its name. */
	jw_finish(w, &text, NULL);
	return varlink_fail(call, error, text);
}

int varlink_fail_parameter(struct varlink_call *call, const char *parameter)
{
	return fail_named(call, SERVICE ".InvalidParameter", "parameter", parameter);
}

/* ---- the call as its handler sees it ---- */

struct varlink_conn *varlink_call_conn(struct varlink_call *call)
{
	return call->conn;
}

bool varlink_call_more(const struct varlink_call *call)
{
	return call->more;
}

bool varlink_call_oneway(const struct varlink_call *call)
{
	return call->oneway;
}

const char *varlink_call_method(const struct varlink_call *call)
{
	return call->method;
}

void varlink_call_set_data(struct varlink_call *call, void *data)
{
	call->data = data;
}

void *varlink_call_data(const struct varlink_call *call)
{
	return call->data;
}

/* ---- org.varlink.service ---- */

/* Answers with what w holds; without memory for it the client gets to know that, too. */
static void answer_writer(struct varlink_call *call, struct json_writer *w)
{
	char *text AUTO_FREE = NULL;

	if (jw_finish(w, &text, NULL) < 0) {
		memoc_err_set(&call->conn->why, -ENOMEM, "out of memory for an answer");
		conn_fail(call->conn, -ENOMEM);
	}
	varlink_answer(call, text, false);
}

static void get_info(struct varlink_call *call, const struct json *parameters UNUSED, void *user UNUSED)
{
	const struct varlink_server *s = call->conn->server;
	struct json_writer *w = jw_new(false);

	jw_object(w, NULL);
	jw_str(w, "vendor", s->vendor);
	jw_str(w, "product", s->product);
	jw_str(w, "version", s->version);
	jw_str(w, "url", s->url);
	jw_array(w, "interfaces");
	jw_str(w, NULL, SERVICE);
	for (const struct varlink_interface *i = s->interfaces; i->name; i++)
		jw_str(w, NULL, i->name);
	jw_end(w);
	jw_end(w);
	answer_writer(call, w);
}

static void get_interface_description(struct varlink_call *call, const struct json *parameters, void *user UNUSED);

static const struct varlink_method service_methods[] = {
	{SERVICE ".GetInfo", get_info},
	{SERVICE ".GetInterfaceDescription", get_interface_description},
	{NULL, NULL},
};
static const struct varlink_interface service_interface = {SERVICE, service_description, service_methods};

/* name: the first len characters of a method's name, or an interface's own. */
static const struct varlink_interface *find_interface(const struct varlink_server *s, const char *name, size_t len)
{
	if (strlen(SERVICE) == len && strncmp(SERVICE, name, len) == 0)
		return &service_interface;
	for (const struct varlink_interface *i = s->interfaces; i->name; i++)
		if (strlen(i->name) == len && strncmp(i->name, name, len) == 0)
			return i;
	return NULL;
}

static void get_interface_description(struct varlink_call *call, const struct json *parameters, void *user UNUSED)
{
	const struct varlink_interface *i;
	struct json_writer *w;
	const char *name;

	if (json_get_str(parameters, "interface", &name) < 0) {
		varlink_fail_parameter(call, "interface");
		return;
	}
	i = find_interface(call->conn->server, name, strlen(name));
	if (!i) {
		fail_named(call, SERVICE ".InterfaceNotFound", "interface", name);
		return;
	}
	w = jw_new(false);
	jw_object(w, NULL);
	jw_str(w, "description", i->description);
	jw_end(w);
	answer_writer(call, w);
}

/* ---- calls ---- */

/* Reads what of a message is protocol. −EPROTO names what is wrong. */
static int read_call(struct varlink_call *call, bool *ret_upgrade, struct memoc_err *err)
{
	const struct json *m = call->message;
	enum json_type parameters = json_type(json_get(m, "parameters"));

	if (json_type(m) != JSON_OBJECT || json_get_str(m, "method", &call->method) < 0)
		return memoc_err_set(err, -EPROTO, "not a varlink call: no object with a method");
	if (parameters != JSON_OBJECT && parameters != JSON_NULL)
		return memoc_err_set(err, -EPROTO, "not a varlink call: parameters is no object");
	if (json_get_bool(m, "more", &call->more) == -EINVAL || json_get_bool(m, "oneway", &call->oneway) == -EINVAL ||
	    json_get_bool(m, "upgrade", ret_upgrade) == -EINVAL)
		return memoc_err_set(err, -EPROTO, "not a varlink call: more, oneway or upgrade is not true or false");
	if (call->more && call->oneway)
		return memoc_err_set(err, -EPROTO, "not a varlink call: more and oneway exclude each other");
	return 0;
}

static int parse_call(struct varlink_conn *c, const char *text, size_t len, struct varlink_call **ret,
		      bool *ret_upgrade)
{
	struct json_limits limits = json_limits_default;
	struct varlink_call *call = calloc(1, sizeof(*call));
	int r;

	if (!call)
		return memoc_err_set(&c->why, -ENOMEM, "out of memory for a call");
	limits.bytes = c->server->limits.message_bytes;
	call->conn = c;
	r = json_parse(text, len, &limits, &call->message, &c->why);
	if (r == -EINVAL)
		r = memoc_err_prefix(&c->why, -EPROTO, "not a varlink call");
	if (r == 0)
		r = read_call(call, ret_upgrade, &c->why);
	if (r < 0) {
		call_free(call);
		return r;
	}
	*ret = call;
	return 0;
}

static void run_call(struct varlink_call *call)
{
	struct varlink_server *s = call->conn->server;
	const char *dot = strrchr(call->method, '.');
	size_t len = dot ? (size_t)(dot - call->method) : strlen(call->method);
	const struct varlink_interface *i = find_interface(s, call->method, len);
	const struct varlink_method *m;
	char *interface;

	if (!i) {
		interface = strndup(call->method, len);
		fail_named(call, SERVICE ".InterfaceNotFound", "interface", interface);
		free(interface);
		return;
	}
	for (m = i->methods; m->name && strcmp(m->name, call->method) != 0; m++)
		;
	if (!m->name)
		fail_named(call, SERVICE ".MethodNotFound", "method", call->method);
	else if (!m->fn)
		fail_named(call, SERVICE ".MethodNotImplemented", "method", call->method);
	else
		m->fn(call, json_get(call->message, "parameters"), s->user);
}

static int handle_message(struct varlink_conn *c, const char *text, size_t len)
{
	bool upgrade = false;
	int r = parse_call(c, text, len, &c->open, &upgrade);

	if (r < 0)
		return r;
	if (upgrade)
		varlink_fail_parameter(c->open, "upgrade");
	else
		run_call(c->open);
	return c->error;
}

/* Handles waiting messages as far as order, unread answers and fairness allow. */
static int handle_messages(struct varlink_conn *c)
{
	size_t max = c->server->limits.message_bytes;
	const char *text;
	size_t len;
	int r = 1;

	for (int n = 0; n < TURN_MESSAGES_MAX && !c->open && c->out.len == 0; n++) {
		r = frames_next(&c->in, max, &text, &len);
		if (r == -E2BIG)
			return memoc_err_set(&c->why, r, "over the limit of message_bytes: a message has more than %zu",
					     max);
		if (r <= 0)
			return r;
		r = handle_message(c, text, len);
		if (r < 0)
			return r;
	}
	/* Waiting behind an open call: one message of the greatest size at most. */
	if (c->open && c->in.len > add_sat_u64(max, 1))
		return memoc_err_set(&c->why, -E2BIG,
				     "over the limit of message_bytes: more than %zu wait behind an open call", max);
	return 0;
}

/* Common end of a turn: r is its result. */
static int end_turn(struct varlink_conn *c, int r, struct memoc_err *err)
{
	c->busy = false;
	if (r < 0)
		conn_fail(c, r);
	if (c->error) {
		if (err)
			*err = c->why;
		return c->error;
	}
	tell_wants(c);
	return 0;
}

int varlink_conn_readable(struct varlink_conn *c, struct memoc_err *err)
{
	ssize_t n;

	if (c->error)
		return end_turn(c, c->error, err);
	c->busy = true;
	n = frames_receive(&c->in, c->fd);
	if (n == -EAGAIN)
		return end_turn(c, 0, err);
	if (n == 0)
		memoc_err_set(&c->why, -ECONNRESET, "the client closed the connection");
	else if (n < 0)
		memoc_err_set(&c->why, (int)n, "cannot read from the client: %s", strerror((int)-n));
	if (n <= 0)
		return end_turn(c, n == 0 ? -ECONNRESET : (int)n, err);
	return end_turn(c, handle_messages(c), err);
}

int varlink_conn_writable(struct varlink_conn *c, struct memoc_err *err)
{
	int r;

	if (c->error)
		return end_turn(c, c->error, err);
	c->busy = true;
	r = frames_send(&c->out, c->fd);
	if (r < 0) {
		memoc_err_set(&c->why, -ECONNRESET, "the client left: %s", strerror(-r));
		return end_turn(c, -ECONNRESET, err);
	}
	return end_turn(c, handle_messages(c), err);
}
