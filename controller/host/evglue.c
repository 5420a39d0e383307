/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt tells what it wants of a handle or timer from any thread; only the loop thread touches libev. So an entry
 * carries the wanted state under the mutex, and entries whose wish has changed wait in a list until the loop thread
 * applies them: at once where the caller is the loop thread, else woken by ev_async. The last wish wins, so that an
 * entry needs no queue of its own and an update cannot fail for want of memory.
 */
#include "controller/host/evglue.h"

#include <errno.h>
#include <libvirt/libvirt.h>
#include <pthread.h>
#include <sys/queue.h>

struct entry {
	LIST_ENTRY(entry) all;
	STAILQ_ENTRY(entry) wish; /* in `wishes` while dirty, in `dead` afterwards */
	int id;
	bool is_timer;
	/* wanted; under the mutex */
	bool dirty, removed;
	int events;   /* of virEventHandleType */
	int after_ms; /* −1: off */
	/* loop thread */
	unsigned dead_iteration;
	ev_io io;
	ev_timer timer;
	/* constant */
	virEventHandleCallback handle_fn;
	virEventTimeoutCallback timer_fn;
	virFreeCallback free_fn;
	void *opaque;
};
STAILQ_HEAD(entry_queue, entry);

static struct {
	struct ev_loop *loop;
	pthread_t loop_thread;
	ev_async wake;
	pthread_mutex_t mutex;
	LIST_HEAD(, entry) all;
	struct entry_queue wishes;
	struct entry_queue dead; /* loop thread: stopped, free callback not yet called */
	int last_id;
	size_t count;
	uint64_t calls; /* loop thread */
} glue = {
	.mutex = PTHREAD_MUTEX_INITIALIZER,
	.wishes = STAILQ_HEAD_INITIALIZER(glue.wishes),
	.dead = STAILQ_HEAD_INITIALIZER(glue.dead),
};

static void apply_handle(struct entry *e)
{
	int want = (e->events & VIR_EVENT_HANDLE_READABLE ? EV_READ : 0) |
		   (e->events & VIR_EVENT_HANDLE_WRITABLE ? EV_WRITE : 0);

	if (ev_is_active(&e->io) && (e->io.events & (EV_READ | EV_WRITE)) == want)
		return;
	ev_io_stop(glue.loop, &e->io);
	/* ev_io_set, not ev_io_modify: the number may belong to another file by now, which libev must be told. */
	ev_io_set(&e->io, e->io.fd, want);
	if (want)
		ev_io_start(glue.loop, &e->io);
}

static void apply_timer(struct entry *e)
{
	ev_timer_stop(glue.loop, &e->timer);
	if (e->after_ms < 0)
		return;
	ev_timer_set(&e->timer, e->after_ms / 1e3, 0.);
	ev_timer_start(glue.loop, &e->timer);
}

/* Loop thread, mutex held. libev calls nobody back here. */
static void apply_wishes(void)
{
	struct entry *e;

	while ((e = STAILQ_FIRST(&glue.wishes))) {
		STAILQ_REMOVE_HEAD(&glue.wishes, wish);
		e->dirty = false;
		if (e->removed) {
			ev_io_stop(glue.loop, &e->io);
			ev_timer_stop(glue.loop, &e->timer);
			e->dead_iteration = ev_iteration(glue.loop);
			STAILQ_INSERT_TAIL(&glue.dead, e, wish);
			ev_async_send(glue.loop, &glue.wake);
		} else if (e->is_timer) {
			apply_timer(e);
		} else {
			apply_handle(e);
		}
	}
}

/* Mutex held. */
static void entry_changed(struct entry *e)
{
	bool first = STAILQ_EMPTY(&glue.wishes);

	if (!e->dirty) {
		e->dirty = true;
		STAILQ_INSERT_TAIL(&glue.wishes, e, wish);
	}
	if (pthread_equal(pthread_self(), glue.loop_thread))
		apply_wishes();
	else if (first)
		ev_async_send(glue.loop, &glue.wake);
}

/* Frees what was removed in an earlier iteration, so that whoever removed it has long returned. */
static void free_dead(void)
{
	struct entry_queue ready = STAILQ_HEAD_INITIALIZER(ready);
	unsigned now = ev_iteration(glue.loop);
	struct entry *e;

	while ((e = STAILQ_FIRST(&glue.dead)) && e->dead_iteration != now) {
		STAILQ_REMOVE_HEAD(&glue.dead, wish);
		STAILQ_INSERT_TAIL(&ready, e, wish);
	}
	if (!STAILQ_EMPTY(&glue.dead))
		ev_async_send(glue.loop, &glue.wake);
	while ((e = STAILQ_FIRST(&ready))) {
		STAILQ_REMOVE_HEAD(&ready, wish);
		if (e->free_fn)
			e->free_fn(e->opaque);
		pthread_mutex_lock(&glue.mutex);
		LIST_REMOVE(e, all);
		glue.count--;
		pthread_mutex_unlock(&glue.mutex);
		free(e);
	}
}

static void on_wake(struct ev_loop *loop, ev_async *w, int revents)
{
	pthread_mutex_lock(&glue.mutex);
	apply_wishes();
	pthread_mutex_unlock(&glue.mutex);
	free_dead();
}

/*
 * libev folds hang-up and error into READ and WRITE; libvirt then learns of them by reading or writing. EV_ERROR
 * comes for a descriptor that is not open any more.
 */
static void on_io(struct ev_loop *loop, ev_io *w, int revents)
{
	struct entry *e = w->data;
	int events = 0;

	pthread_mutex_lock(&glue.mutex);
	if (!e->removed) {
		events = (revents & EV_READ ? VIR_EVENT_HANDLE_READABLE : 0) |
			 (revents & EV_WRITE ? VIR_EVENT_HANDLE_WRITABLE : 0);
		events &= e->events;
		if (revents & EV_ERROR)
			events |= VIR_EVENT_HANDLE_ERROR | VIR_EVENT_HANDLE_HANGUP;
	}
	pthread_mutex_unlock(&glue.mutex);
	glue.calls++;
	if (events)
		e->handle_fn(e->id, w->fd, events, e->opaque);
}

/* One-shot in libev, armed again before the call: so 0 ms means every iteration, and an update in the call wins. */
static void on_timer(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct entry *e = w->data;
	bool due;

	pthread_mutex_lock(&glue.mutex);
	due = !e->removed && e->after_ms >= 0;
	if (due)
		apply_timer(e);
	pthread_mutex_unlock(&glue.mutex);
	glue.calls++;
	if (due)
		e->timer_fn(e->id, e->opaque);
}

/* Takes over e. Returns the id, ≥ 1. */
static int entry_add(struct entry *e)
{
	int id;

	ev_init(&e->io, on_io);
	ev_init(&e->timer, on_timer);
	e->io.data = e->timer.data = e;
	pthread_mutex_lock(&glue.mutex);
	id = e->id = ++glue.last_id;
	LIST_INSERT_HEAD(&glue.all, e, all);
	glue.count++;
	entry_changed(e);
	pthread_mutex_unlock(&glue.mutex);
	return id;
}

/* Mutex held. A handful per connection, so a list will do. */
static struct entry *entry_find(int id, bool is_timer)
{
	struct entry *e;

	LIST_FOREACH(e, &glue.all, all)
	if (e->id == id && e->is_timer == is_timer && !e->removed)
		return e;
	return NULL;
}

static int entry_remove(int id, bool is_timer)
{
	struct entry *e;

	pthread_mutex_lock(&glue.mutex);
	e = entry_find(id, is_timer);
	if (e) {
		e->removed = true;
		entry_changed(e);
	}
	pthread_mutex_unlock(&glue.mutex);
	return e ? 0 : -1;
}

static int handle_add(int fd, int events, virEventHandleCallback fn, void *opaque, virFreeCallback free_fn)
{
	struct entry *e;

	if (fd < 0)
		return -1;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -1;
	*e = (struct entry){.events = events, .handle_fn = fn, .opaque = opaque, .free_fn = free_fn, .after_ms = -1};
	e->io.fd = fd;
	return entry_add(e);
}

static void handle_update(int id, int events)
{
	struct entry *e;

	pthread_mutex_lock(&glue.mutex);
	e = entry_find(id, false);
	if (e && e->events != events) {
		e->events = events;
		entry_changed(e);
	}
	pthread_mutex_unlock(&glue.mutex);
}

static int handle_remove(int id)
{
	return entry_remove(id, false);
}

static int timer_add(int after_ms, virEventTimeoutCallback fn, void *opaque, virFreeCallback free_fn)
{
	struct entry *e = calloc(1, sizeof(*e));

	if (!e)
		return -1;
	*e = (struct entry){
		.is_timer = true, .after_ms = after_ms, .timer_fn = fn, .opaque = opaque, .free_fn = free_fn};
	return entry_add(e);
}

static void timer_update(int id, int after_ms)
{
	struct entry *e;

	pthread_mutex_lock(&glue.mutex);
	e = entry_find(id, true);
	/* Off stays off without a wake-up; the same time again starts the countdown anew. */
	if (e && (e->after_ms >= 0 || after_ms >= 0)) {
		e->after_ms = after_ms;
		entry_changed(e);
	}
	pthread_mutex_unlock(&glue.mutex);
}

static int timer_remove(int id)
{
	return entry_remove(id, true);
}

int evglue_register(struct ev_loop *loop)
{
	if (glue.loop)
		return -EALREADY;
	glue.loop = loop;
	glue.loop_thread = pthread_self();
	ev_async_init(&glue.wake, on_wake);
	ev_async_start(loop, &glue.wake);
	ev_unref(loop);
	virEventRegisterImpl(handle_add, handle_update, handle_remove, timer_add, timer_update, timer_remove);
	return 0;
}

uint64_t evglue_calls(void)
{
	return glue.calls;
}

size_t evglue_count(void)
{
	size_t n;

	pthread_mutex_lock(&glue.mutex);
	n = glue.count;
	pthread_mutex_unlock(&glue.mutex);
	return n;
}
