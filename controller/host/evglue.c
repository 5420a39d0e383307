/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt tells what it wants of a handle or timer from any thread; only the loop thread touches libev.
 *
 * Handles live in an epoll instance of their own, which libev watches as one descriptor: the kernel takes changes of it
 * from any thread and at once. That matters because a thread that does RPC switches its connection's handle off, waits
 * for the answer itself and switches the handle on again: through the loop each call would cost it two wake-ups, and a
 * third for an answer that it has no use for.
 *
 * Timers, and what was removed, are told by ev_async, but only where that cannot wait until the loop turns by itself: a
 * timer that is put off or switched off finds out when it runs down. (libvirt puts off its keepalive with each
 * message.)
 */
#include "controller/host/evglue.h"

#include <errno.h>
#include <fcntl.h>
#include <libvirt/libvirt.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <unistd.h>

#include "common/clock.h"

struct entry {
	LIST_ENTRY(entry) all;
	STAILQ_ENTRY(entry) wish; /* in `wishes` while dirty, in `dead` afterwards */
	int id;
	bool is_timer;
	/* under the mutex */
	bool dirty, removed;
	int events;	/* of virEventHandleType */
	int watched_fd; /* of a handle: a duplicate, so that neither the number nor the file is shared; −1: removed */
	int after_ms;	/* −1: off */
	uint64_t due_us; /* of a timer that is not off */
	bool armed;	 /* in libev, to run down at armed_us */
	uint64_t armed_us;
	/* loop thread */
	unsigned dead_iteration;
	ev_timer timer;
	/* constant */
	int fd;
	virEventHandleCallback handle_fn;
	virEventTimeoutCallback timer_fn;
	virFreeCallback free_fn;
	void *opaque;
};
STAILQ_HEAD(entry_queue, entry);

static struct {
	struct ev_loop *loop;
	pthread_t loop_thread;
	int epoll_fd;
	ev_io ready; /* on epoll_fd */
	ev_async wake;
	pthread_mutex_t mutex;
	LIST_HEAD(, entry) all;
	struct entry_queue wishes;
	struct entry_queue dead; /* loop thread: stopped, free callback not yet called */
	int last_id;
	size_t count;
	uint64_t calls, for_nothing; /* loop thread */
} glue = {
	.mutex = PTHREAD_MUTEX_INITIALIZER,
	.wishes = STAILQ_HEAD_INITIALIZER(glue.wishes),
	.dead = STAILQ_HEAD_INITIALIZER(glue.dead),
};

/*
 * Mutex held, any thread. A handle that wants nothing is watched for edges only: epoll reports hang-up unasked, and by
 * level it would do so for as long as the handle is off.
 */
static int watch_handle(struct entry *e, int op)
{
	struct epoll_event wanted = {
		.events = (e->events & VIR_EVENT_HANDLE_READABLE ? EPOLLIN : 0) |
			  (e->events & VIR_EVENT_HANDLE_WRITABLE ? EPOLLOUT : 0),
		.data.u32 = (uint32_t)e->id,
	};

	if (!wanted.events)
		wanted.events = EPOLLET;
	return epoll_ctl(glue.epoll_fd, op, e->watched_fd, &wanted);
}

/* Mutex held, any thread. */
static void unwatch_handle(struct entry *e)
{
	epoll_ctl(glue.epoll_fd, EPOLL_CTL_DEL, e->watched_fd, NULL);
	close(e->watched_fd);
	e->watched_fd = -1;
}

/* Loop thread, mutex held. Sooner than now is now; libev counts from ev_now(). */
static void arm(struct entry *e, uint64_t due_us)
{
	uint64_t now = now_us();

	ev_timer_stop(glue.loop, &e->timer);
	ev_now_update(glue.loop);
	ev_timer_set(&e->timer, due_us > now ? (double)(due_us - now) / 1e6 : 0., 0.);
	ev_timer_start(glue.loop, &e->timer);
	e->armed = true;
	e->armed_us = due_us;
}

static void apply_timer(struct entry *e)
{
	if (e->after_ms >= 0) {
		arm(e, e->due_us);
		return;
	}
	ev_timer_stop(glue.loop, &e->timer);
	e->armed = false;
}

/* Loop thread, mutex held. libev calls nobody back here. */
static void apply_wishes(void)
{
	struct entry *e;

	while ((e = STAILQ_FIRST(&glue.wishes))) {
		STAILQ_REMOVE_HEAD(&glue.wishes, wish);
		e->dirty = false;
		if (e->removed) {
			ev_timer_stop(glue.loop, &e->timer);
			e->dead_iteration = ev_iteration(glue.loop);
			STAILQ_INSERT_TAIL(&glue.dead, e, wish);
			ev_async_send(glue.loop, &glue.wake);
		} else {
			apply_timer(e);
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
	glue.for_nothing += STAILQ_EMPTY(&glue.wishes) && STAILQ_EMPTY(&glue.dead);
	apply_wishes();
	pthread_mutex_unlock(&glue.mutex);
	free_dead();
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

/* Hang-up and error are told as what the handle waits for; libvirt then learns of them by reading or writing. Returns
 * whether there was something to tell. */
static bool call_handle(const struct epoll_event *seen)
{
	struct entry *e;
	int events = 0;

	pthread_mutex_lock(&glue.mutex);
	e = entry_find((int)seen->data.u32, false);
	if (e) {
		bool gone = seen->events & (EPOLLHUP | EPOLLERR);
		events = (seen->events & EPOLLIN || gone ? VIR_EVENT_HANDLE_READABLE : 0) |
			 (seen->events & EPOLLOUT || gone ? VIR_EVENT_HANDLE_WRITABLE : 0);
		events &= e->events;
	}
	pthread_mutex_unlock(&glue.mutex);
	if (!events)
		return false;
	glue.calls++;
	e->handle_fn(e->id, e->fd, events, e->opaque); /* alive: only this thread frees, and in a later iteration */
	return true;
}

#define READY_MAX 16 /* what is left over is seen in the next iteration */

static void on_ready(struct ev_loop *loop, ev_io *w, int revents)
{
	struct epoll_event seen[READY_MAX];
	int n = epoll_wait(glue.epoll_fd, seen, READY_MAX, 0);
	bool called = false;

	for (int i = 0; i < n; i++)
		called |= call_handle(&seen[i]);
	glue.for_nothing += !called;
}

/* One-shot in libev, armed again before the call: so 0 ms means every iteration, and an update in the call wins. */
static void on_timer(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct entry *e = w->data;
	bool due;

	pthread_mutex_lock(&glue.mutex);
	e->armed = false;
	due = !e->removed && e->after_ms >= 0 && e->armed_us >= e->due_us;
	if (due)
		e->due_us = now_us() + (uint64_t)e->after_ms * 1000;
	if (!e->removed)
		apply_timer(e);
	pthread_mutex_unlock(&glue.mutex);
	if (!due) {
		glue.for_nothing++;
		return;
	}
	glue.calls++;
	e->timer_fn(e->id, e->opaque);
}

/* Mutex held. Another thread that puts a timer off, or switches it off, wakes nobody: it finds out by itself. */
static void timer_changed(struct entry *e)
{
	bool here = pthread_equal(pthread_self(), glue.loop_thread), can_wait;

	if (e->after_ms >= 0)
		e->due_us = now_us() + (uint64_t)e->after_ms * 1000;
	can_wait = e->after_ms < 0 || (e->armed && e->armed_us <= e->due_us);
	if (here || !can_wait)
		entry_changed(e);
}

/* Takes over e. Returns the id, ≥ 1; −1: the kernel watches no more. */
static int entry_add(struct entry *e)
{
	int id;

	ev_timer_init(&e->timer, on_timer, 0., 0.);
	e->timer.data = e;
	pthread_mutex_lock(&glue.mutex);
	id = e->id = glue.last_id + 1;
	if (!e->is_timer && watch_handle(e, EPOLL_CTL_ADD) < 0) {
		pthread_mutex_unlock(&glue.mutex);
		close(e->watched_fd);
		free(e);
		return -1;
	}
	glue.last_id = id;
	LIST_INSERT_HEAD(&glue.all, e, all);
	glue.count++;
	if (e->is_timer)
		timer_changed(e);
	pthread_mutex_unlock(&glue.mutex);
	return id;
}

static int entry_remove(int id, bool is_timer)
{
	struct entry *e;

	pthread_mutex_lock(&glue.mutex);
	e = entry_find(id, is_timer);
	if (e) {
		e->removed = true;
		if (!is_timer)
			unwatch_handle(e);
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
	int watched_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (watched_fd < 0)
		return -1;
	e = calloc(1, sizeof(*e));
	if (!e) {
		close(watched_fd);
		return -1;
	}
	*e = (struct entry){.events = events,
			    .fd = fd,
			    .watched_fd = watched_fd,
			    .handle_fn = fn,
			    .opaque = opaque,
			    .free_fn = free_fn,
			    .after_ms = -1};
	return entry_add(e);
}

static void handle_update(int id, int events)
{
	struct entry *e;

	pthread_mutex_lock(&glue.mutex);
	e = entry_find(id, false);
	if (e && e->events != events) {
		e->events = events;
		watch_handle(e, EPOLL_CTL_MOD); /* of what is watched: needs nothing that could be missing */
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
	if (e) {
		e->after_ms = after_ms; /* the same time again starts the countdown anew */
		timer_changed(e);
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
	glue.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (glue.epoll_fd < 0)
		return -errno;
	glue.loop = loop;
	glue.loop_thread = pthread_self();
	ev_io_init(&glue.ready, on_ready, glue.epoll_fd, EV_READ);
	ev_io_start(loop, &glue.ready);
	ev_unref(loop);
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

uint64_t evglue_for_nothing(void)
{
	return glue.for_nothing;
}

size_t evglue_count(void)
{
	size_t n;

	pthread_mutex_lock(&glue.mutex);
	n = glue.count;
	pthread_mutex_unlock(&glue.mutex);
	return n;
}
