/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The varlink socket: connections on the loop (control.c), what each method does (methods.c), and how a VM or the host
 * looks as JSON (show.c). Private to this room.
 */
#ifndef MEMOC_DAEMON_CONTROL_H
#define MEMOC_DAEMON_CONTROL_H

#include "common/varlink.h"
#include "controller/daemon/daemon.h"

/* Connections at once: in all, of all users but root, of one user but root. One more is closed at once, and said so. */
#define CLIENTS_MAX 64
#define CLIENTS_USERS_MAX 48
#define CLIENTS_USER_MAX 16

/* A call that is answered later. */
struct pending {
	struct pending *next;
	struct daemon *daemon;
	struct varlink_call *call; /* NULL: the client has left */
	enum { WAIT_EVENTS = 1, WAIT_SIZE, WAIT_DRAIN, WAIT_TRIM, WAIT_JOB, WAIT_MEMBER, WAIT_LIST } kind;
	vm_id vm; /* 0: all */
	uint64_t from_bytes, target_bytes;
	uint64_t from_swapped_bytes;	   /* WAIT_TRIM */
	const char *why;		   /* WAIT_TRIM: why nothing is taken; NULL where something is */
	ev_timer timer;			   /* WAIT_SIZE, WAIT_DRAIN, WAIT_TRIM, WAIT_LIST: no longer than this */
	bool all;			   /* WAIT_LIST: unmanaged ones too */
	char filter_name[DOMXML_NAME_MAX]; /* WAIT_EVENTS: of this VM; WAIT_JOB: the VM's name, for messages */
	/* WAIT_MEMBER: what to do once the caller is known to be allowed; the parameters live as long as the call */
	varlink_method_fn *allowed;
	const struct json *parameters;
};

struct control {
	struct daemon *daemon;
	struct varlink_server *server;
	struct client *clients;
	size_t n_clients;
	struct pending *pending;
	int listen_fd;
	bool activated; /* the socket is systemd's: not ours to remove */
	ev_io listen_io;
	bool full_told;
	ev_timer accept_timer; /* after a failed accept */
};

extern const struct varlink_interface memoc_interfaces[];

/* New pending call, linked and attached to the call. NULL without memory (the call is failed then). */
struct pending *pending_new(struct daemon *d, struct varlink_call *call, int kind);
void pending_free(struct pending *p); /* unlinks */

/* show.c */
void show_vm(struct json_writer *w, const char *key, struct daemon *d, const struct entry *e);
/* One that is defined and off: what its persistent XML says. */
void show_vm_off(struct json_writer *w, const char *key, struct daemon *d, const struct dom_facts *facts);
void show_vm_details(struct json_writer *w, struct daemon *d, const struct entry *e);
void show_host(struct json_writer *w, struct daemon *d);
void show_event(struct json_writer *w, const char *key, const struct ring_event *e);
void show_explain(struct json_writer *w, struct daemon *d, const struct entry *e);
void show_policy(struct json_writer *w, const char *key, struct daemon *d, const struct dom_facts *facts,
		 const char *source);

/* methods.c */
void methods_waiting(struct pending *p); /* may answer and free it */
bool events_match(const struct pending *p, const struct ring_event *ev);

#endif
