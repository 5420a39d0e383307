/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt: an event subscription on the loop thread, and blocking calls for workers, each worker with a connection of
 * its own (max_client_requests is 5 per connection, and a hung monitor must only hold up its own).
 * Errors: −ENOENT no such domain or not running; −ENOTCONN connection lost (reopen); −EBUSY job in the way (migration);
 * −EOPNOTSUPP; −EIO anything else, with libvirt's message in err. libvirt's own error printing is switched off.
 */
#ifndef MEMOC_HOST_VIRT_H
#define MEMOC_HOST_VIRT_H

#include <ev.h>

#include "common/domxml.h"
#include "controller/core/types.h"

struct virt_conn; /* a blocking connection; one thread at a time */

int virt_init(void); /* once, before threads */
int virt_conn_open(const char *uri, struct virt_conn **ret, struct memoc_err *err);
struct virt_conn *virt_conn_close(struct virt_conn *c);
bool virt_conn_alive(struct virt_conn *c);

enum virt_run_state {
	VIRT_RUNNING = 1,
	VIRT_PAUSED,
	VIRT_INCOMING /* paused by an incoming migration */,
	VIRT_OTHER,
	VIRT_OFF
};

struct virt_domain {
	char name[DOMXML_NAME_MAX];
	char uuid[UUID_TEXT_LEN + 1];
	enum virt_run_state run_state;
};

/* Active domains, or those that are defined and off. The caller frees *ret_list. */
int virt_list(struct virt_conn *c, bool active, struct virt_domain **ret_list, size_t *ret_n, struct memoc_err *err);
/* By name or UUID, running or not. */
int virt_lookup(struct virt_conn *c, const char *name, struct virt_domain *ret, struct memoc_err *err);
int virt_state(struct virt_conn *c, const char *uuid, enum virt_run_state *ret, struct memoc_err *err);
int virt_persistent(struct virt_conn *c, const char *uuid, bool *ret, struct memoc_err *err);
/* Live XML (−ENOENT: not running), or with config the persistent one (−EOPNOTSUPP: transient). The caller frees
 * *ret_xml.
 */
int virt_xml(struct virt_conn *c, const char *uuid, bool config, char **ret_xml, struct memoc_err *err);
/* Guest statistics, one RPC and two monitor commands. Values ≥ 2^63 (Windows' 2^64−1) are left out as unknown. */
int virt_stats(struct virt_conn *c, const char *uuid, struct guest_stats *ret, struct memoc_err *err);
/* Live balloon target. Success means only that QEMU knows it. */
int virt_set_balloon(struct virt_conn *c, const char *uuid, uint64_t bytes, struct memoc_err *err);
int virt_set_stats_period(struct virt_conn *c, const char *uuid, unsigned seconds, struct memoc_err *err);
/* Writes or (xml NULL) removes <memoc:policy>. live/config as in virsh. */
int virt_set_policy(struct virt_conn *c, const char *uuid, const char *policy_xml, bool live, bool config,
		    struct memoc_err *err);
/*
 * Is the VM's memory being sent or saved (migration, save, dump, snapshot)? And how far: the pass (1: all memory is
 * read for the first time; 0: not said), and how much was read in all passes, pages of zeroes and others. One monitor
 * command while it is.
 */
struct virt_job {
	bool outgoing;
	unsigned pass;
	uint64_t read_bytes;
};
int virt_job(struct virt_conn *c, const char *uuid, struct virt_job *ret, struct memoc_err *err);

/* ---- events ---- */

enum virt_event_type {
	VIRT_EVENT_LINK_UP = 1, /* subscribed: now list domains */
	VIRT_EVENT_LINK_DOWN,	/* err text in .text; it reconnects by itself with back-off 0.25 s doubling to 10 s */
	VIRT_EVENT_STARTED,	/* vCPUs run (booted, migrated here and resumed, restored …) */
	VIRT_EVENT_STARTED_PAUSED, /* defined as running but paused: incoming migration, restore, start --paused */
	VIRT_EVENT_PAUSED,
	VIRT_EVENT_RESUMED,
	VIRT_EVENT_STOPPED, /* shut off, destroyed, crashed, migrated away, saved: reason in .text */
	VIRT_EVENT_REBOOTED,
	VIRT_EVENT_BALLOON,   /* .bytes */
	VIRT_EVENT_POLICY,    /* metadata changed */
	VIRT_EVENT_DEVICES,   /* device added or removed, memory hotplug: read the XML again */
	VIRT_EVENT_MIGRATING, /* MIGRATION_ITERATION 1 or more (.bytes): we are the source, of a save or dump too */
	VIRT_EVENT_POSTCOPY,  /* … and the guest runs at the destination before its memory is there; paused here */
	VIRT_EVENT_JOB_DONE,  /* migration job completed here */
	VIRT_EVENT_RENAMED,   /* undefined/defined or renamed: read the XML again */
};
struct virt_event {
	enum virt_event_type type;
	const char *name, *uuid; /* NULL for link events; good during the callback */
	uint64_t bytes;
	const char *text; /* reason, or NULL */
};
struct virt_events;
typedef void virt_event_fn(const struct virt_event *ev, void *user);
/*
 * Needs evglue_register(). Connects on a thread of its own (opening and registering are blocking RPC), events come on
 * the loop thread. Subscribes before LINK_UP is posted. Keepalive 5 s × 3 finds a hung libvirtd. Any close reason but
 * our own = lost.
 */
int virt_events_new(struct ev_loop *loop, const char *uri, virt_event_fn *fn, void *user, struct virt_events **ret);
struct virt_events *virt_events_free(struct virt_events *e); /* does not wait for a hung libvirtd */
bool virt_events_connected(const struct virt_events *e);

#endif
