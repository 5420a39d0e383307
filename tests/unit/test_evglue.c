/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libvirt's event contract on libev: called through libvirt's own virEvent… functions, as its drivers do. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <libvirt/libvirt.h>

#include "controller/host/evglue.h"

#define LIMIT_S 30. /* generous: the machine may be busy; nothing waits that long unless it is broken */

static struct ev_loop *loop;

struct seen {
	int calls, events, freed, id, other;
	pthread_t freed_by;
};

static void on_limit(struct ev_loop *l, ev_timer *w, int revents)
{
	*(bool *)w->data = true;
}

/* Runs the loop, sleeping in it as the daemon does, until *value reaches `least`. */
static void run_until(const int *value, int least)
{
	bool late = false;
	ev_timer limit;

	ev_timer_init(&limit, on_limit, LIMIT_S, 0.);
	limit.data = &late;
	ev_timer_start(loop, &limit);
	while (*value < least && !late)
		ev_run(loop, EVRUN_ONCE);
	ev_timer_stop(loop, &limit);
	assert_false(late);
}

/* How many iterations fit into this time: few where the loop sleeps. */
static unsigned iterations_in(double seconds)
{
	unsigned first = ev_iteration(loop);
	bool over = false;
	ev_timer limit;

	ev_now_update(loop);
	ev_timer_init(&limit, on_limit, seconds, 0.);
	limit.data = &over;
	ev_timer_start(loop, &limit);
	while (!over)
		ev_run(loop, EVRUN_ONCE);
	return ev_iteration(loop) - first;
}

static void settle(void)
{
	for (int i = 0; i < 4; i++)
		ev_run(loop, EVRUN_NOWAIT);
}

static void on_free(void *opaque)
{
	struct seen *s = opaque;

	s->freed++;
	s->freed_by = pthread_self();
}

static void on_timer(int id, void *opaque)
{
	struct seen *s = opaque;

	s->calls++;
	s->id = id;
}

static void on_handle(int id, int fd, int events, void *opaque)
{
	struct seen *s = opaque;

	s->calls++;
	s->id = id;
	s->events |= events;
}

/* ---- timers ---- */

static void test_register_once(void **state)
{
	assert_int_equal(evglue_register(loop), -EALREADY);
}

static void test_zero_timer_fires_every_iteration(void **state)
{
	struct seen s = {0};
	int id = virEventAddTimeout(0, on_timer, &s, on_free);

	assert_true(id >= 1);
	for (int i = 0; i < 20; i++)
		ev_run(loop, EVRUN_ONCE);
	assert_in_range(s.calls, 19, 20);
	assert_int_equal(s.id, id);
	virEventUpdateTimeout(id, -1);
	s.calls = 0;
	assert_in_range(iterations_in(0.1), 1, 5);
	assert_int_equal(s.calls, 0);
	assert_int_equal(virEventRemoveTimeout(id), 0);
	settle();
	assert_int_equal(evglue_count(), 0);
}

static void test_no_busy_loop_after_removal(void **state)
{
	struct seen s = {0};
	int id = virEventAddTimeout(0, on_timer, &s, on_free);

	run_until(&s.calls, 3);
	virEventRemoveTimeout(id);
	s.calls = 0;
	assert_in_range(iterations_in(0.1), 1, 6);
	assert_int_equal(s.calls, 0);
	assert_int_equal(s.freed, 1);
}

static void test_periodic_timer_repeats(void **state)
{
	struct seen s = {0};
	int id = virEventAddTimeout(5, on_timer, &s, on_free);
	ev_tstamp begin;

	ev_now_update(loop);
	begin = ev_now(loop);
	virEventUpdateTimeout(id, 5);
	run_until(&s.calls, 4);
	assert_true(ev_time() - begin >= 0.018);
	virEventRemoveTimeout(id);
	settle();
	assert_int_equal(evglue_count(), 0);
}

static void test_disabled_timer_is_silent_until_updated(void **state)
{
	struct seen s = {0};
	int id = virEventAddTimeout(-1, on_timer, &s, NULL);

	assert_in_range(iterations_in(0.05), 1, 4);
	assert_int_equal(s.calls, 0);
	virEventUpdateTimeout(id, 0);
	run_until(&s.calls, 1);
	virEventRemoveTimeout(id);
	settle();
	assert_int_equal(evglue_count(), 0);
}

static void *update_to_zero(void *arg)
{
	virEventUpdateTimeout(*(int *)arg, 0);
	return NULL;
}

/* The trap that lost 2.7 s: an update from another thread must wake a loop that sleeps. */
static void test_update_from_thread_wakes_the_loop(void **state)
{
	struct seen s = {0};
	int id = virEventAddTimeout(-1, on_timer, &s, NULL);
	pthread_t t;

	settle();
	assert_int_equal(pthread_create(&t, NULL, update_to_zero, &id), 0);
	run_until(&s.calls, 1); /* no other timer but the limit */
	pthread_join(t, NULL);
	virEventRemoveTimeout(id);
	settle();
	assert_int_equal(evglue_count(), 0);
}

static void test_unknown_ids(void **state)
{
	struct seen s = {0};
	int id = virEventAddTimeout(-1, on_timer, &s, NULL);

	assert_int_equal(virEventRemoveTimeout(id + 1000), -1);
	assert_int_equal(virEventRemoveHandle(id), -1); /* a timer's */
	virEventUpdateTimeout(id + 1000, 0);
	virEventUpdateHandle(id, VIR_EVENT_HANDLE_READABLE);
	assert_int_equal(virEventRemoveTimeout(id), 0);
	assert_int_equal(virEventRemoveTimeout(id), -1);
	settle();
	assert_int_equal(s.calls, 0);
	assert_int_equal(virEventAddHandle(-1, VIR_EVENT_HANDLE_READABLE, on_handle, &s, NULL), -1);
}

static void test_late_update_cannot_rearm(void **state)
{
	struct seen s = {0};
	int id = virEventAddTimeout(0, on_timer, &s, on_free);

	virEventRemoveTimeout(id);
	virEventUpdateTimeout(id, 0);
	assert_in_range(iterations_in(0.05), 1, 6);
	assert_int_equal(s.calls, 0);
	assert_int_equal(s.freed, 1);
}

/* ---- free callbacks ---- */

static void remove_self(int id, void *opaque)
{
	struct seen *s = opaque;

	s->calls++;
	assert_int_equal(virEventRemoveTimeout(id), 0);
	assert_int_equal(s->freed, 0); /* not inside remove */
}

static void test_free_comes_in_a_later_iteration(void **state)
{
	struct seen s = {0};

	virEventAddTimeout(0, remove_self, &s, on_free);
	while (!s.calls) {
		ev_run(loop, EVRUN_ONCE);
		assert_int_equal(s.freed, 0);
	}
	run_until(&s.freed, 1);
	settle();
	assert_int_equal(s.freed, 1);
	assert_int_equal(s.calls, 1);
	assert_int_equal(evglue_count(), 0);
}

static void *remove_timer(void *arg)
{
	assert_int_equal(virEventRemoveTimeout(*(int *)arg), 0);
	return NULL;
}

static void test_removal_by_thread_is_freed_on_the_loop(void **state)
{
	struct seen s = {0};
	int id = virEventAddTimeout(0, on_timer, &s, on_free);
	pthread_t t;

	settle();
	assert_int_equal(pthread_create(&t, NULL, remove_timer, &id), 0);
	pthread_join(t, NULL);
	s.calls = 0;
	run_until(&s.freed, 1);
	assert_int_equal(s.calls, 0); /* not called once remove has returned, though the loop had not heard of it yet */
	assert_true(pthread_equal(s.freed_by, pthread_self()));
}

static void remove_other(int id, void *opaque)
{
	struct seen *s = opaque;

	s->calls++;
	if (s->other) {
		virEventRemoveTimeout(s->other);
		virEventRemoveTimeout(id);
	}
}

/* Two are due in one iteration: the first to run removes the other, which must stay silent. */
static void test_removed_while_pending(void **state)
{
	struct seen a = {0}, b = {0};
	int first = virEventAddTimeout(0, remove_other, &a, NULL),
	    second = virEventAddTimeout(0, remove_other, &b, NULL);

	a.other = second;
	b.other = first;
	settle();
	assert_int_equal(a.calls + b.calls, 1);
	settle();
	assert_int_equal(evglue_count(), 0);
}

static void *add_timer(void *arg)
{
	struct seen *s = arg;

	s->other = virEventAddTimeout(-1, on_timer, s, NULL);
	return NULL;
}

static void call_thread(int id, void *opaque)
{
	struct seen *s = opaque;
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, add_timer, s), 0);
	pthread_join(t, NULL); /* for ever, if a lock were held now */
	virEventRemoveTimeout(s->other);
	virEventRemoveTimeout(id);
	s->calls++;
}

static void test_no_lock_while_calling(void **state)
{
	struct seen s = {0};

	virEventAddTimeout(0, call_thread, &s, NULL);
	run_until(&s.calls, 1);
	settle();
	assert_int_equal(evglue_count(), 0);
}

/* ---- handles ---- */

static void test_handle_events(void **state)
{
	struct seen s = {0};
	int fds[2], id;

	assert_int_equal(pipe(fds), 0);
	id = virEventAddHandle(fds[0], VIR_EVENT_HANDLE_READABLE, on_handle, &s, on_free);
	assert_true(id >= 1);
	settle();
	assert_int_equal(s.calls, 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	run_until(&s.calls, 1);
	assert_int_equal(s.events, VIR_EVENT_HANDLE_READABLE);
	assert_int_equal(s.id, id);
	virEventUpdateHandle(id, 0);
	s.calls = 0;
	assert_in_range(iterations_in(0.05), 1, 4);
	assert_int_equal(s.calls, 0);
	virEventUpdateHandle(id, VIR_EVENT_HANDLE_READABLE);
	run_until(&s.calls, 1);
	virEventRemoveHandle(id);
	settle();
	assert_int_equal(s.freed, 1);
	close(fds[0]);
	close(fds[1]);
}

static void test_hangup_is_readable(void **state)
{
	struct seen s = {0};
	int fds[2], id;

	assert_int_equal(pipe(fds), 0);
	id = virEventAddHandle(fds[0], VIR_EVENT_HANDLE_READABLE | VIR_EVENT_HANDLE_HANGUP, on_handle, &s, NULL);
	close(fds[1]);
	run_until(&s.calls, 1);
	assert_true(s.events & VIR_EVENT_HANDLE_READABLE);
	virEventRemoveHandle(id);
	settle();
	close(fds[0]);
}

struct swap {
	int id, fds[2];
	struct seen *seen;
};

/* Removes, closes, and opens another pipe under the same number, before the loop has heard of any of it. */
static void *swap_pipes(void *arg)
{
	struct swap *s = arg;
	int old = s->fds[0];

	virEventRemoveHandle(s->id);
	close(s->fds[0]);
	close(s->fds[1]);
	assert_int_equal(pipe(s->fds), 0);
	assert_int_equal(s->fds[0], old);
	s->id = virEventAddHandle(s->fds[0], VIR_EVENT_HANDLE_READABLE, on_handle, s->seen, on_free);
	return NULL;
}

static void test_descriptor_number_is_reused(void **state)
{
	struct seen before = {0}, after = {0};
	struct swap s = {.seen = &after};
	pthread_t t;

	assert_int_equal(pipe(s.fds), 0);
	s.id = virEventAddHandle(s.fds[0], VIR_EVENT_HANDLE_READABLE, on_handle, &before, on_free);
	settle();
	assert_int_equal(pthread_create(&t, NULL, swap_pipes, &s), 0);
	pthread_join(t, NULL);
	run_until(&before.freed, 1);
	assert_int_equal(write(s.fds[1], "x", 1), 1);
	run_until(&after.calls, 1);
	assert_int_equal(before.calls, 0);
	virEventRemoveHandle(s.id);
	settle();
	assert_int_equal(after.freed, 1);
	close(s.fds[0]);
	close(s.fds[1]);
}

/* ---- no wake-up without reason ---- */

struct rpc {
	int handle, timer, fds[2]; /* the client's end, which is watched, and the server's */
	atomic_bool over;
};

#define RPC_CALLS 50

/* What libvirt does in a thread for each call: the handle off, the answer read by the thread itself, the keepalive put
 * off, the handle on again. */
static void *call_by_rpc(void *arg)
{
	struct rpc *r = arg;
	char answer;

	for (int i = 0; i < RPC_CALLS; i++) {
		virEventUpdateHandle(r->handle, 0);
		assert_int_equal(write(r->fds[1], "x", 1), 1);
		usleep(1000); /* a loop that watches it has the time to see it */
		assert_int_equal(read(r->fds[0], &answer, 1), 1);
		virEventUpdateTimeout(r->timer, 60000);
		virEventUpdateHandle(r->handle, VIR_EVENT_HANDLE_READABLE);
	}
	atomic_store(&r->over, true);
	return NULL;
}

static void test_calls_of_other_threads_do_not_wake_the_loop(void **state)
{
	struct seen handle = {0}, timer = {0};
	unsigned turns = 0;
	struct rpc r = {0};
	pthread_t t;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, r.fds), 0);
	r.handle = virEventAddHandle(r.fds[0], VIR_EVENT_HANDLE_READABLE, on_handle, &handle, NULL);
	r.timer = virEventAddTimeout(60000, on_timer, &timer, NULL);
	settle();
	assert_int_equal(pthread_create(&t, NULL, call_by_rpc, &r), 0);
	while (!atomic_load(&r.over))
		turns += iterations_in(0.02) - 1;
	pthread_join(t, NULL);
	assert_in_range(turns, 0, RPC_CALLS / 10);
	assert_int_equal(handle.calls + timer.calls, 0);
	assert_int_equal(write(r.fds[1], "x", 1), 1); /* both work as before */
	run_until(&handle.calls, 1);
	virEventUpdateTimeout(r.timer, 1);
	run_until(&timer.calls, 1);
	virEventRemoveTimeout(r.timer);
	virEventRemoveHandle(r.handle);
	settle();
	assert_int_equal(evglue_count(), 0);
	close(r.fds[0]);
	close(r.fds[1]);
}

static void test_a_timer_put_off_comes_at_its_new_time(void **state)
{
	struct seen s = {0};
	int id = virEventAddTimeout(20, on_timer, &s, NULL);
	ev_tstamp begin = ev_time();

	virEventUpdateTimeout(id, 100);
	run_until(&s.calls, 1);
	assert_true(ev_time() - begin >= 0.099);
	virEventUpdateTimeout(id, -1);
	s.calls = 0;
	assert_in_range(iterations_in(0.2), 1, 4);
	assert_int_equal(s.calls, 0);
	virEventRemoveTimeout(id);
	settle();
	assert_int_equal(evglue_count(), 0);
}

/* ---- many threads ---- */

#define STRESS_THREADS 4
#define STRESS_ROUNDS 300

static atomic_int stress_calls, stress_freed;

static void stress_timer(int id, void *opaque)
{
	atomic_fetch_add(&stress_calls, 1);
}

static void stress_handle(int id, int fd, int events, void *opaque)
{
	atomic_fetch_add(&stress_calls, 1);
}

static void stress_free(void *opaque)
{
	atomic_fetch_add(&stress_freed, 1);
}

static void *stress(void *arg)
{
	int fd = *(int *)arg;

	for (int i = 0; i < STRESS_ROUNDS; i++) {
		int timer = virEventAddTimeout(i % 3 - 1, stress_timer, NULL, stress_free);
		int handle = virEventAddHandle(fd, VIR_EVENT_HANDLE_READABLE, stress_handle, NULL, stress_free);

		virEventUpdateHandle(handle, 0);
		virEventUpdateTimeout(timer, 0);
		virEventUpdateHandle(handle, VIR_EVENT_HANDLE_READABLE);
		virEventUpdateTimeout(timer, -1);
		virEventRemoveHandle(handle);
		virEventUpdateTimeout(timer, 0);
		virEventRemoveTimeout(timer);
	}
	return NULL;
}

static void test_many_threads(void **state)
{
	pthread_t threads[STRESS_THREADS];
	int fds[2], want = 2 * STRESS_THREADS * STRESS_ROUNDS;
	double begin = ev_time();

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "x", 1), 1); /* always readable */
	for (int i = 0; i < STRESS_THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, stress, &fds[0]), 0);
	while (atomic_load(&stress_freed) < want && ev_time() - begin < LIMIT_S)
		ev_run(loop, EVRUN_NOWAIT);
	for (int i = 0; i < STRESS_THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&stress_freed), want);
	assert_int_equal(evglue_count(), 0);
	close(fds[0]);
	close(fds[1]);
}

/* With nothing registered the glue itself does not keep a loop running. */
static void test_loop_ends_by_itself(void **state)
{
	ev_run(loop, 0);
	assert_int_equal(evglue_count(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_register_once),
		cmocka_unit_test(test_zero_timer_fires_every_iteration),
		cmocka_unit_test(test_no_busy_loop_after_removal),
		cmocka_unit_test(test_periodic_timer_repeats),
		cmocka_unit_test(test_disabled_timer_is_silent_until_updated),
		cmocka_unit_test(test_update_from_thread_wakes_the_loop),
		cmocka_unit_test(test_unknown_ids),
		cmocka_unit_test(test_late_update_cannot_rearm),
		cmocka_unit_test(test_free_comes_in_a_later_iteration),
		cmocka_unit_test(test_removal_by_thread_is_freed_on_the_loop),
		cmocka_unit_test(test_removed_while_pending),
		cmocka_unit_test(test_no_lock_while_calling),
		cmocka_unit_test(test_handle_events),
		cmocka_unit_test(test_hangup_is_readable),
		cmocka_unit_test(test_descriptor_number_is_reused),
		cmocka_unit_test(test_calls_of_other_threads_do_not_wake_the_loop),
		cmocka_unit_test(test_a_timer_put_off_comes_at_its_new_time),
		cmocka_unit_test(test_many_threads),
		cmocka_unit_test(test_loop_ends_by_itself),
	};

	loop = ev_loop_new(EVFLAG_AUTO);
	if (!loop || evglue_register(loop) < 0) {
		fprintf(stderr, "no event loop to test with\n");
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
