/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Varlink (varlink.org): NUL-terminated JSON messages over a stream socket. A call is
 * {"method", "parameters", "oneway"?, "more"?}, a reply {"parameters", "continues"?} or {"error", "parameters"}.
 * Two halves: a blocking client with a deadline for the command and the hook, and a server half that owns no loop:
 * the daemon tells it when a descriptor is readable or writable.
 */
#ifndef MEMOC_COMMON_VARLINK_H
#define MEMOC_COMMON_VARLINK_H

#include <sys/types.h>

#include "common/json.h"

#define VARLINK_MESSAGE_MAX ((size_t)1 << 20) /* bytes of one message without its NUL */
#define VARLINK_REPLY_MAX ((size_t)16 << 20)  /* of one reply to our client: a list of many VMs, a long journal */

/* ---- client: one thread, blocking, every call bounded by a deadline ---- */

struct varlink_client;
/* −ENOENT/−ECONNREFUSED (nobody listens), −EACCES, −ETIMEDOUT (connect queue full) …; timeout_ms < 0 waits for ever. */
int varlink_connect(const char *path, int timeout_ms, struct varlink_client **ret, struct memoc_err *err);
struct varlink_client *varlink_client_free(struct varlink_client *c);
static inline void varlink_client_free_p(struct varlink_client **c)
{
	*c = varlink_client_free(*c);
}
#define AUTO_VARLINK CLEANUP(varlink_client_free_p)

enum { VARLINK_ONEWAY = 1, VARLINK_MORE = 2 };
#define VARLINK_REPLY_ERROR 1 /* positive: the peer answered with a varlink error, which the caller must handle */

/* Sends a call; parameters is JSON text of an object, or NULL for {}. The whole message is out when it returns. */
int varlink_send(struct varlink_client *c, const char *method, const char *parameters, int flags, int timeout_ms,
		 struct memoc_err *err);
struct varlink_reply {
	struct json *message;	       /* owns all below */
	const struct json *parameters; /* NULL where the peer sent none */
	const char *error;	       /* varlink error name, or NULL */
	bool continues;
};
void varlink_reply_clear(struct varlink_reply *r);
#define AUTO_REPLY CLEANUP(varlink_reply_clear)
/* Next reply. 0; VARLINK_REPLY_ERROR (ret filled too); −ETIMEDOUT; −ECONNRESET (peer closed); −EPROTO (garbage). */
int varlink_receive(struct varlink_client *c, int timeout_ms, struct varlink_reply *ret, struct memoc_err *err);
/* send + receive within one deadline. */
int varlink_call(struct varlink_client *c, const char *method, const char *parameters, int timeout_ms,
		 struct varlink_reply *ret, struct memoc_err *err);

/* ---- server half: called from one thread only ---- */

struct varlink_server; /* the interfaces that are served; shared by all connections */
struct varlink_conn;   /* one client */
struct varlink_call;   /* one call that wants an answer */

struct varlink_limits {
	size_t message_bytes; /* a longer message ends the connection */
	size_t unread_bytes;  /* more output than this that the client does not read ends the connection */
};

/*
 * Handles one call: must answer it with varlink_answer/varlink_fail, at once or later (keep the pointer; it stays good
 * until answered without continues, or until the closed callback below has run). parameters lives until the answer.
 */
typedef void varlink_method_fn(struct varlink_call *call, const struct json *parameters, void *user);
struct varlink_method {
	const char *name; /* full: "org.memoc.Controller.List" */
	varlink_method_fn *fn;
};
struct varlink_interface {
	const char *name;		      /* "org.memoc.Controller" */
	const char *description;	      /* text of the .varlink file */
	const struct varlink_method *methods; /* ended by {NULL, NULL} */
};
/*
 * org.varlink.service is added by itself. vendor/product/version/url as GetInfo shows them. interfaces: array ended by
 * a NULL name, and everything it points to must outlive the server. user is passed to every method.
 */
int varlink_server_new(const char *vendor, const char *product, const char *version, const char *url,
		       const struct varlink_interface *interfaces, const struct varlink_limits *limits, void *user,
		       struct varlink_server **ret);
struct varlink_server *varlink_server_free(struct varlink_server *s);

/*
 * Takes over fd (made non-blocking). Peer credentials are read with SO_PEERCRED. conn_user is the caller's own.
 * wants: called whenever what the connection waits for changes (bit 0 readable, bit 1 writable): arm watchers there.
 * call_gone: a call that was kept will never be answered, its client left: forget it.
 */
struct varlink_conn_ops {
	void (*wants)(struct varlink_conn *conn, int mask, void *conn_user);
	void (*call_gone)(struct varlink_call *call, void *conn_user);
};
int varlink_conn_new(struct varlink_server *s, int fd, const struct varlink_conn_ops *ops, void *conn_user,
		     struct varlink_conn **ret);
struct varlink_conn *varlink_conn_free(struct varlink_conn *c); /* closes fd, runs call_gone for open calls */
/* 0: go on. Negative: the connection is over (−ECONNRESET orderly close; −E2BIG, −EPROTO, −ENOBUFS: over a limit, err
 * says which); the caller frees it. Never blocks; reads at most one buffer a call, so that no client can starve the
 * others. */
int varlink_conn_readable(struct varlink_conn *c, struct memoc_err *err);
int varlink_conn_writable(struct varlink_conn *c, struct memoc_err *err);
int varlink_conn_fd(const struct varlink_conn *c);
pid_t varlink_conn_pid(const struct varlink_conn *c);
uid_t varlink_conn_uid(const struct varlink_conn *c);
gid_t varlink_conn_gid(const struct varlink_conn *c);

struct varlink_conn *varlink_call_conn(struct varlink_call *call);
bool varlink_call_more(const struct varlink_call *call);   /* the client asked for several replies */
bool varlink_call_oneway(const struct varlink_call *call); /* answers are dropped silently */
const char *varlink_call_method(const struct varlink_call *call);
/* The call's own slot for the handler's state; NULL at first. */
void varlink_call_set_data(struct varlink_call *call, void *data);
void *varlink_call_data(const struct varlink_call *call);
/* Answers. parameters: JSON text of an object, or NULL for {}. With continues the call stays open (only if more).
 * −ENOBUFS: the client does not read; the connection will be ended by the next readable/writable call. */
int varlink_answer(struct varlink_call *call, const char *parameters, bool continues);
int varlink_fail(struct varlink_call *call, const char *error, const char *parameters);
/* org.varlink.service.InvalidParameter for a named parameter. */
int varlink_fail_parameter(struct varlink_call *call, const char *parameter);

#endif
