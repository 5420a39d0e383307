/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The event connection. Opening, subscribing and closing are blocking RPC, so each runs on a thread of its own; what
 * they share with the loop thread is a link, counted by references: one for the loop or a thread, one for each
 * subscription. A link whose owner has gone is closed by whichever thread has it, however late.
 */
#include "controller/host/virt.h"

#include <errno.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "controller/host/thread.h"

#define KEEPALIVE_INTERVAL_S 5
#define KEEPALIVE_COUNT 3
#define BACKOFF_MIN_S 0.25
#define BACKOFF_MAX_S 10.

#define CALLBACKS_MAX 16

enum link_state { LINK_OPENING = 1, LINK_READY, LINK_FAILED };

struct link {
	atomic_uint refs;
	char *uri;
	/* until ready the opening thread's, then the loop thread's, at last the closing thread's */
	virConnectPtr conn;
	int callbacks[CALLBACKS_MAX]; /* ids to deregister */
	size_t n_callbacks;
	bool close_callback;
	/* under the mutex */
	pthread_mutex_t mutex;
	struct virt_events *owner; /* NULL: given up */
	enum link_state state;
	bool lost;
	struct memoc_err err; /* failed or lost: why */
};

struct virt_events {
	struct ev_loop *loop;
	char *uri;
	virt_event_fn *fn;
	void *user;
	ev_async news; /* of the link */
	ev_timer retry;
	double backoff_s;
	ev_tstamp up_since;
	struct link *link; /* NULL while waiting for the retry */
	bool connected, down_said;
};

/* ---- link ---- */

static struct link *link_ref(struct link *l)
{
	atomic_fetch_add(&l->refs, 1);
	return l;
}

static void link_unref(void *opaque)
{
	struct link *l = opaque;

	if (atomic_fetch_sub(&l->refs, 1) != 1)
		return;
	pthread_mutex_destroy(&l->mutex);
	free(l->uri);
	free(l);
}

static struct link *link_new(struct virt_events *owner)
{
	struct link *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->uri = strdup(owner->uri);
	if (!l->uri) {
		free(l);
		return NULL;
	}
	atomic_init(&l->refs, 1);
	pthread_mutex_init(&l->mutex, NULL);
	l->owner = owner;
	l->state = LINK_OPENING;
	return l;
}

/* Mutex held. */
static void link_news(struct link *l)
{
	if (l->owner)
		ev_async_send(l->owner->loop, &l->owner->news);
}

/* On whatever thread notices. */
static void on_close(virConnectPtr conn, int reason, void *opaque)
{
	static const char *const reasons[] = {
		[VIR_CONNECT_CLOSE_REASON_ERROR] = "an input/output error",
		[VIR_CONNECT_CLOSE_REASON_EOF] = "libvirt closed it",
		[VIR_CONNECT_CLOSE_REASON_KEEPALIVE] = "libvirt does not answer",
	};
	struct link *l = opaque;

	if (reason == VIR_CONNECT_CLOSE_REASON_CLIENT)
		return;
	pthread_mutex_lock(&l->mutex);
	l->lost = true;
	memoc_err_set(&l->err, 0, "connection to libvirt at %s lost: %s", l->uri,
		      reason >= 0 && (size_t)reason < ARRAY_SIZE(reasons) && reasons[reason] ? reasons[reason]
											     : "unknown reason");
	link_news(l);
	pthread_mutex_unlock(&l->mutex);
}

/* Blocks. Gives libvirt's references back: else the connection would stay open for ever. */
static void link_close(struct link *l)
{
	if (!l->conn)
		return;
	for (size_t i = 0; i < l->n_callbacks; i++)
		virConnectDomainEventDeregisterAny(l->conn, l->callbacks[i]);
	if (l->close_callback)
		virConnectUnregisterCloseCallback(l->conn, on_close);
	virConnectClose(l->conn);
	l->conn = NULL;
}

static void *close_thread(void *opaque)
{
	struct link *l = opaque;

	link_close(l);
	link_unref(l);
	return NULL;
}

/* ---- libvirt's callbacks; loop thread ---- */

/* Events before LINK_UP are dropped: whoever hears LINK_UP looks at everything anyway. */
static struct virt_events *events_of(struct link *l)
{
	struct virt_events *e;

	pthread_mutex_lock(&l->mutex);
	e = l->owner;
	pthread_mutex_unlock(&l->mutex);
	return e && e->connected && e->link == l ? e : NULL;
}

static void post(struct link *l, virDomainPtr dom, enum virt_event_type type, uint64_t bytes, const char *text)
{
	struct virt_events *e = events_of(l);
	struct virt_event ev = {.type = type, .bytes = bytes, .text = text};
	char uuid[VIR_UUID_STRING_BUFLEN];

	if (!e || virDomainGetUUIDString(dom, uuid) < 0)
		return;
	ev.uuid = uuid;
	ev.name = virDomainGetName(dom);
	e->fn(&ev, e->user);
}

/*
 * What QEMU's driver sends (libvirt 9.0): boot: RESUMED, then STARTED; SUSPENDED as well where started paused. Incoming
 * migration: STARTED MIGRATED, then RESUMED when it runs here. Restore: STARTED RESTORED, then RESUMED or SUSPENDED.
 * Revert: RESUMED, STARTED FROM_SNAPSHOT, SUSPENDED where the snapshot was paused. Wake-up from suspend-to-RAM: STARTED
 * WAKEUP of a domain that never stopped.
 */
static const struct lifecycle {
	int event, detail;
	enum virt_event_type type;
	const char *text;
} lifecycles[] = {
	{VIR_DOMAIN_EVENT_DEFINED, VIR_DOMAIN_EVENT_DEFINED_ADDED, VIRT_EVENT_RENAMED, "defined"},
	{VIR_DOMAIN_EVENT_DEFINED, VIR_DOMAIN_EVENT_DEFINED_UPDATED, VIRT_EVENT_RENAMED, "configuration changed"},
	{VIR_DOMAIN_EVENT_DEFINED, VIR_DOMAIN_EVENT_DEFINED_RENAMED, VIRT_EVENT_RENAMED, "renamed"},
	{VIR_DOMAIN_EVENT_DEFINED, -1, VIRT_EVENT_RENAMED, "configuration restored"},
	{VIR_DOMAIN_EVENT_UNDEFINED, -1, VIRT_EVENT_RENAMED, "undefined"},
	{VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_MIGRATED, VIRT_EVENT_STARTED_PAUSED, "incoming migration"},
	{VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_RESTORED, VIRT_EVENT_STARTED_PAUSED, "restored"},
	{VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT, VIRT_EVENT_STARTED, "from a snapshot"},
	{VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_WAKEUP, VIRT_EVENT_RESUMED, "woken up"},
	{VIR_DOMAIN_EVENT_STARTED, -1, VIRT_EVENT_STARTED, "booted"},
	{VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED, VIRT_EVENT_PAUSED, "for migration"},
	{VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_IOERROR, VIRT_EVENT_PAUSED, "disk error"},
	{VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG, VIRT_EVENT_PAUSED, "watchdog"},
	{VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY, VIRT_EVENT_POSTCOPY, "post-copy migration"},
	{VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED, VIRT_EVENT_PAUSED, "post-copy failed"},
	{VIR_DOMAIN_EVENT_SUSPENDED, -1, VIRT_EVENT_PAUSED, "paused"},
	{VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_MIGRATED, VIRT_EVENT_RESUMED, "migrated"},
	{VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_POSTCOPY, VIRT_EVENT_RESUMED, "post-copy migration"},
	{VIR_DOMAIN_EVENT_RESUMED, -1, VIRT_EVENT_RESUMED, "resumed"},
	{VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN, VIRT_EVENT_STOPPED, "shut off"},
	{VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_DESTROYED, VIRT_EVENT_STOPPED, "destroyed"},
	{VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_CRASHED, VIRT_EVENT_STOPPED, "crashed"},
	{VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_MIGRATED, VIRT_EVENT_STOPPED, "migrated away"},
	{VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_SAVED, VIRT_EVENT_STOPPED, "saved"},
	{VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED, VIRT_EVENT_STOPPED, "failed"},
	{VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT, VIRT_EVENT_STOPPED,
	 "reverted to a snapshot"},
	{VIR_DOMAIN_EVENT_STOPPED, -1, VIRT_EVENT_STOPPED, "stopped"},
	/* SHUTDOWN is not listed: the process and its memory are still there, and STOPPED follows. */
	{VIR_DOMAIN_EVENT_PMSUSPENDED, -1, VIRT_EVENT_PAUSED, "suspended by the guest"},
	/* The panicked guest stands still with all its memory; where on_crash ends it, STOPPED follows. */
	{VIR_DOMAIN_EVENT_CRASHED, VIR_DOMAIN_EVENT_CRASHED_PANICKED, VIRT_EVENT_PAUSED, "guest panicked"},
};

static int on_lifecycle(virConnectPtr conn, virDomainPtr dom, int event, int detail, void *opaque)
{
	for (size_t i = 0; i < ARRAY_SIZE(lifecycles); i++) {
		if (lifecycles[i].event != event || (lifecycles[i].detail >= 0 && lifecycles[i].detail != detail))
			continue;
		post(opaque, dom, lifecycles[i].type, 0, lifecycles[i].text);
		break;
	}
	return 0;
}

static void on_reboot(virConnectPtr conn, virDomainPtr dom, void *opaque)
{
	post(opaque, dom, VIRT_EVENT_REBOOTED, 0, NULL);
}

static void on_balloon(virConnectPtr conn, virDomainPtr dom, unsigned long long actual_kib, void *opaque)
{
	post(opaque, dom, VIRT_EVENT_BALLOON, mul_div_u64(actual_kib, KIB, 1), NULL);
}

static void on_device(virConnectPtr conn, virDomainPtr dom, const char *alias, void *opaque)
{
	post(opaque, dom, VIRT_EVENT_DEVICES, 0, alias);
}

static void on_memory_device(virConnectPtr conn, virDomainPtr dom, const char *alias, unsigned long long size_kib,
			     void *opaque)
{
	post(opaque, dom, VIRT_EVENT_DEVICES, 0, alias);
}

static void on_metadata(virConnectPtr conn, virDomainPtr dom, int type, const char *nsuri, void *opaque)
{
	if (type == VIR_DOMAIN_METADATA_ELEMENT && nsuri && strcmp(nsuri, VMPOLICY_XMLNS) == 0)
		post(opaque, dom, VIRT_EVENT_POLICY, 0, NULL);
}

static void on_iteration(virConnectPtr conn, virDomainPtr dom, int iteration, void *opaque)
{
	if (iteration >= 1)
		post(opaque, dom, VIRT_EVENT_MIGRATING, (uint64_t)iteration, NULL);
}

static void on_job(virConnectPtr conn, virDomainPtr dom, virTypedParameterPtr params, int n, void *opaque)
{
	static const char *const operations[] = {
		[VIR_DOMAIN_JOB_OPERATION_SAVE] = "save",
		[VIR_DOMAIN_JOB_OPERATION_RESTORE] = "restore",
		[VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN] = "incoming migration",
		[VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT] = "outgoing migration",
		[VIR_DOMAIN_JOB_OPERATION_SNAPSHOT] = "snapshot",
		[VIR_DOMAIN_JOB_OPERATION_DUMP] = "dump",
		[VIR_DOMAIN_JOB_OPERATION_BACKUP] = "backup",
	};
	int operation = VIR_DOMAIN_JOB_OPERATION_UNKNOWN;

	if (virTypedParamsGetInt(params, n, VIR_DOMAIN_JOB_OPERATION, &operation) < 0)
		virResetLastError();
	post(opaque, dom, VIRT_EVENT_JOB_DONE, 0,
	     operation >= 0 && (size_t)operation < ARRAY_SIZE(operations) ? operations[operation] : NULL);
}

/* ---- opening; a thread of its own ---- */

static const struct {
	int id;
	virConnectDomainEventGenericCallback fn;
} subscriptions[] = {
	{VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle)},
	{VIR_DOMAIN_EVENT_ID_REBOOT, VIR_DOMAIN_EVENT_CALLBACK(on_reboot)},
	{VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, VIR_DOMAIN_EVENT_CALLBACK(on_balloon)},
	{VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, VIR_DOMAIN_EVENT_CALLBACK(on_device)},
	{VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, VIR_DOMAIN_EVENT_CALLBACK(on_device)},
	{VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE, VIR_DOMAIN_EVENT_CALLBACK(on_memory_device)},
	{VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, VIR_DOMAIN_EVENT_CALLBACK(on_metadata)},
	{VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, VIR_DOMAIN_EVENT_CALLBACK(on_iteration)},
	{VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, VIR_DOMAIN_EVENT_CALLBACK(on_job)},
};

_Static_assert(ARRAY_SIZE(subscriptions) <= CALLBACKS_MAX, "room for every subscription");

/* Only the lifecycle is indispensable: an older libvirtd may not know the later ones. */
static int subscribe(struct link *l, struct memoc_err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(subscriptions); i++) {
		int id = subscriptions[i].id, callback;

		callback = virConnectDomainEventRegisterAny(l->conn, NULL, id, subscriptions[i].fn, link_ref(l),
							    link_unref);
		if (callback >= 0) {
			l->callbacks[l->n_callbacks++] = callback;
			continue;
		}
		link_unref(l);
		if (id == VIR_DOMAIN_EVENT_ID_LIFECYCLE || virConnectIsAlive(l->conn) == 0)
			return memoc_err_set(err, -ENOTCONN, "cannot subscribe to events of libvirt at %s: %s", l->uri,
					     virGetLastErrorMessage());
	}
	return 0;
}

static int link_open(struct link *l, struct memoc_err *err)
{
	l->conn = virConnectOpen(l->uri);
	if (!l->conn)
		return memoc_err_set(err, -ENOTCONN, "cannot connect to libvirt at %s: %s", l->uri,
				     virGetLastErrorMessage());
	/*
	 * Drivers inside this process know neither; such a connection cannot be lost. No reference for the close
	 * callback: those drivers take it without a word and never free it, and the others hold a lock while it runs
	 * that unregistering waits for.
	 */
	virConnectSetKeepAlive(l->conn, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT);
	l->close_callback = virConnectRegisterCloseCallback(l->conn, on_close, l, NULL) == 0;
	return subscribe(l, err);
}

static void *open_thread(void *opaque)
{
	struct link *l = opaque;
	struct memoc_err err = {0};
	int r = link_open(l, &err);
	bool handed_over;

	if (r < 0)
		link_close(l);
	pthread_mutex_lock(&l->mutex);
	l->state = r < 0 ? LINK_FAILED : LINK_READY;
	if (r < 0)
		l->err = err;
	handed_over = l->owner;
	link_news(l);
	pthread_mutex_unlock(&l->mutex);
	if (!handed_over)
		link_close(l);
	link_unref(l);
	return NULL;
}

/* ---- loop thread ---- */

static void say(struct virt_events *e, enum virt_event_type type, const char *text)
{
	struct virt_event ev = {.type = type, .text = text};

	e->fn(&ev, e->user);
}

/* Closes in the background; while it is being opened, its thread will do that. */
static void link_drop(struct link *l)
{
	bool mine;

	pthread_mutex_lock(&l->mutex);
	l->owner = NULL;
	mine = l->state != LINK_OPENING;
	pthread_mutex_unlock(&l->mutex);
	/* Where no thread is to be had the connection leaks: better than a loop that blocks. */
	if (mine && l->conn && thread_start("virt-close", close_thread, l) == 0)
		return;
	link_unref(l);
}

static void retry_later(struct virt_events *e)
{
	ev_timer_stop(e->loop, &e->retry);
	ev_timer_set(&e->retry, e->backoff_s, 0.);
	ev_timer_start(e->loop, &e->retry);
	e->backoff_s = e->backoff_s * 2 < BACKOFF_MAX_S ? e->backoff_s * 2 : BACKOFF_MAX_S;
}

static int link_begin(struct virt_events *e)
{
	int r;

	e->link = link_new(e);
	if (!e->link)
		return -ENOMEM;
	r = thread_start("virt-open", open_thread, link_ref(e->link));
	if (r < 0) {
		link_unref(e->link);
		link_unref(e->link);
		e->link = NULL;
	}
	return r;
}

/* Said once until it is up again. The callback may free e, so nothing follows it. */
static void went_down(struct virt_events *e, const struct memoc_err *err)
{
	bool said = e->down_said;

	/* After a connection that has lasted the next one is tried soon; one that dies at once is not. */
	if (e->connected && ev_now(e->loop) - e->up_since > BACKOFF_MAX_S)
		e->backoff_s = BACKOFF_MIN_S;
	e->connected = false;
	e->down_said = true;
	retry_later(e);
	if (!said)
		say(e, VIRT_EVENT_LINK_DOWN, err->text);
}

static void went_up(struct virt_events *e)
{
	e->connected = true;
	e->down_said = false;
	e->up_since = ev_now(e->loop);
	say(e, VIRT_EVENT_LINK_UP, NULL);
}

static void on_news(struct ev_loop *loop, ev_async *w, int revents)
{
	struct virt_events *e = w->data;
	struct link *l = e->link;
	enum link_state state;
	struct memoc_err err;
	bool lost;

	if (!l)
		return;
	pthread_mutex_lock(&l->mutex);
	state = l->state;
	lost = l->lost;
	err = l->err;
	pthread_mutex_unlock(&l->mutex);
	if (state == LINK_OPENING)
		return; /* where it is lost already, subscribing fails */
	if (state == LINK_FAILED || lost) {
		e->link = NULL;
		link_drop(l);
		went_down(e, &err);
	} else if (!e->connected) {
		went_up(e);
	}
}

static void on_retry(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct virt_events *e = w->data;

	if (link_begin(e) < 0)
		retry_later(e);
}

int virt_events_new(struct ev_loop *loop, const char *uri, virt_event_fn *fn, void *user, struct virt_events **ret)
{
	struct virt_events *e = calloc(1, sizeof(*e));
	int r;

	if (!e)
		return -ENOMEM;
	*e = (struct virt_events){.loop = loop, .fn = fn, .user = user, .backoff_s = BACKOFF_MIN_S};
	e->uri = strdup(uri);
	ev_init(&e->retry, on_retry);
	e->retry.data = e;
	ev_async_init(&e->news, on_news);
	e->news.data = e;
	ev_async_start(loop, &e->news);
	r = e->uri ? link_begin(e) : -ENOMEM;
	if (r < 0) {
		virt_events_free(e);
		return r;
	}
	*ret = e;
	return 0;
}

struct virt_events *virt_events_free(struct virt_events *e)
{
	if (!e)
		return NULL;
	if (e->link)
		link_drop(e->link);
	ev_timer_stop(e->loop, &e->retry);
	ev_async_stop(e->loop, &e->news);
	free(e->uri);
	free(e);
	return NULL;
}

bool virt_events_connected(const struct virt_events *e)
{
	return e->connected;
}
