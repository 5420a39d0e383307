/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Workers: order within a lane, hung lanes, replacement, cancelling. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "controller/host/workpool.h"

#define LIMIT_S 60.
#define NEVER_MS 600000

static struct ev_loop *loop;

struct task {
	sem_t *started, *release; /* posted when it runs; waited for in the job */
	atomic_int ran;
	int done, cancelled;
	pthread_t ran_on, done_on;
	int *order; /* next place in the order of done callbacks */
	int place;
	void *slot; /* what the worker's slot held before */
};

static void run_task(void *arg, void **worker)
{
	struct task *t = arg;

	t->ran_on = pthread_self();
	t->slot = *worker;
	*worker = t;
	if (t->started)
		sem_post(t->started);
	if (t->release)
		while (sem_wait(t->release) < 0)
			;
	atomic_fetch_add(&t->ran, 1);
}

static void task_done(void *arg, bool cancelled)
{
	struct task *t = arg;

	t->done_on = pthread_self();
	if (t->order)
		t->place = ++*t->order;
	t->cancelled += cancelled;
	t->done++;
}

static void on_limit(struct ev_loop *l, ev_timer *w, int revents)
{
	*(bool *)w->data = true;
}

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

static void sem_wait_for(sem_t *s)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += (time_t)LIMIT_S;
	assert_int_equal(sem_timedwait(s, &until), 0);
}

static struct workpool *pool_of(unsigned threads, unsigned threads_max, uint64_t overdue_ms, work_overdue_fn *overdue)
{
	struct workpool *p;

	assert_int_equal(workpool_new(loop, "test", threads, threads_max, overdue_ms, NULL, overdue, &p), 0);
	return p;
}

static struct work_lane *lane_of(struct workpool *p, void *user)
{
	struct work_lane *l;

	assert_int_equal(work_lane_new(p, user, &l), 0);
	return l;
}

static void submit(struct workpool *p, struct work_lane *l, unsigned key, struct task *t)
{
	assert_int_equal(workpool_submit(p, l, key, run_task, task_done, t), 0);
}

/* ---- plain work ---- */

static void test_refuses_nonsense(void **state)
{
	struct workpool *p = (void *)1;

	assert_int_equal(workpool_new(loop, "x", 0, 1, 1, NULL, NULL, &p), -EINVAL);
	assert_int_equal(workpool_new(loop, "x", 2, 1, 1, NULL, NULL, &p), -EINVAL);
	assert_int_equal(workpool_new(loop, "x", 1, 1, 0, NULL, NULL, &p), -EINVAL);
	assert_ptr_equal(p, (void *)1);
	assert_null(workpool_free(NULL, 0));
	assert_null(work_lane_free(NULL));
}

static void test_job_runs_elsewhere_and_ends_here(void **state)
{
	struct workpool *p = pool_of(1, 1, NEVER_MS, NULL);
	struct task t = {0};

	submit(p, NULL, 0, &t);
	ev_run(loop, 0); /* a job due keeps the loop running, and nothing else does */
	assert_int_equal(t.done, 1);
	assert_int_equal(t.cancelled, 0);
	assert_false(pthread_equal(t.ran_on, pthread_self()));
	assert_true(pthread_equal(t.done_on, pthread_self()));
	assert_null(workpool_free(p, NEVER_MS));
}

static void test_idle_pool_does_not_wake(void **state)
{
	struct workpool *p = pool_of(2, 2, 1, NULL);
	struct task t = {0};
	ev_timer limit;
	struct workpool_counts counts = {0};
	bool over = false;
	unsigned first;

	submit(p, NULL, 0, &t);
	run_until(&t.done, 1);
	first = ev_iteration(loop);
	ev_now_update(loop);
	ev_timer_init(&limit, on_limit, 0.1, 0.);
	limit.data = &over;
	ev_timer_start(loop, &limit);
	ev_run(loop, 0);
	assert_true(over);
	assert_in_range(ev_iteration(loop) - first, 1, 3);
	workpool_count(p, &counts);
	assert_int_equal(counts.jobs, 1);
	assert_int_equal(counts.for_nothing, 0);
	workpool_free(p, NEVER_MS);
}

static int n_fini;
static void *fini_slot;

static void count_fini(void *worker)
{
	__atomic_store_n(&fini_slot, worker, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&n_fini, 1, __ATOMIC_SEQ_CST);
}

static void test_slot_is_the_workers_own(void **state)
{
	struct task a = {0}, b = {0};
	struct workpool *p;

	n_fini = 0;
	assert_int_equal(workpool_new(loop, "a name that is too long", 1, 1, NEVER_MS, count_fini, NULL, &p), 0);
	submit(p, NULL, 0, &a);
	submit(p, NULL, 0, &b);
	run_until(&b.done, 1);
	assert_null(a.slot);
	assert_ptr_equal(b.slot, &a);
	workpool_free(p, NEVER_MS);
	assert_int_equal(n_fini, 1);
	assert_ptr_equal(fini_slot, &b);
}

static void test_lane_keeps_order(void **state)
{
	struct workpool *p = pool_of(4, 4, NEVER_MS, NULL);
	struct work_lane *l = lane_of(p, NULL);
	struct task t[50] = {0};
	int order = 0;

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		t[i].order = &order;
		submit(p, l, 0, &t[i]);
	}
	assert_true(work_lane_busy(l));
	run_until(&t[ARRAY_SIZE(t) - 1].done, 1);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(t[i].place, i + 1);
	assert_false(work_lane_busy(l));
	assert_int_equal(work_lane_queued(l), 0);
	work_lane_free(l);
	workpool_free(p, NEVER_MS);
}

static void test_lanes_run_side_by_side(void **state)
{
	struct workpool *p = pool_of(2, 2, NEVER_MS, NULL);
	struct work_lane *a = lane_of(p, NULL), *b = lane_of(p, NULL);
	sem_t started, release;
	struct task slow = {.started = &started, .release = &release}, next = {0}, other = {0};

	sem_init(&started, 0, 0);
	sem_init(&release, 0, 0);
	submit(p, a, 0, &slow);
	submit(p, a, 0, &next);
	submit(p, b, 0, &other);
	run_until(&other.done, 1);
	sem_wait_for(&started);
	assert_int_equal(slow.done + atomic_load(&next.ran), 0);
	assert_int_equal(work_lane_queued(a), 1);
	assert_false(work_lane_overdue(a));
	sem_post(&release);
	run_until(&next.done, 1);
	work_lane_free(a);
	work_lane_free(b);
	workpool_free(p, NEVER_MS);
}

struct chain {
	struct workpool *pool;
	struct work_lane *lane;
	struct task next;
	bool was_busy;
	int done;
};

static void run_nothing(void *arg, void **worker)
{
}

static void chain_done(void *arg, bool cancelled)
{
	struct chain *c = arg;

	c->was_busy = work_lane_busy(c->lane);
	submit(c->pool, c->lane, 0, &c->next);
	c->done++;
}

static void free_lane_done(void *arg, bool cancelled)
{
	struct chain *c = arg;

	c->lane = work_lane_free(c->lane);
	c->done++;
}

static void test_submit_and_free_from_done(void **state)
{
	struct chain c = {.pool = pool_of(1, 1, NEVER_MS, NULL)};
	struct task queued = {0};

	c.lane = lane_of(c.pool, NULL);
	assert_int_equal(workpool_submit(c.pool, c.lane, 0, run_nothing, chain_done, &c), 0);
	run_until(&c.next.done, 1);
	assert_false(c.was_busy);
	assert_int_equal(workpool_submit(c.pool, c.lane, 0, run_nothing, free_lane_done, &c), 0);
	submit(c.pool, c.lane, 0, &queued);
	run_until(&c.done, 2);
	assert_int_equal(queued.done, 1);
	assert_int_equal(queued.cancelled, 1);
	assert_int_equal(queued.ran, 0);
	workpool_free(c.pool, NEVER_MS);
}

/* ---- replacing and cancelling ---- */

static void test_key_replaces_what_waits(void **state)
{
	struct workpool *p = pool_of(1, 1, NEVER_MS, NULL);
	struct work_lane *l = lane_of(p, NULL);
	sem_t started, release;
	int order = 0;
	struct task running = {.started = &started, .release = &release};
	struct task old = {0}, between = {.order = &order}, new = {.order = &order}, other_key = {.order = &order};

	sem_init(&started, 0, 0);
	sem_init(&release, 0, 0);
	submit(p, l, 7, &running);
	sem_wait_for(&started);
	submit(p, l, 7, &old); /* the running one is not replaced */
	submit(p, l, 0, &between);
	submit(p, l, 8, &other_key);
	submit(p, l, 7, &new);
	assert_int_equal(work_lane_queued(l), 3);
	run_until(&old.done, 1); /* before the running job ends */
	assert_int_equal(old.cancelled, 1);
	sem_post(&release);
	run_until(&other_key.done, 1);
	assert_int_equal(running.cancelled + new.cancelled, 0);
	assert_int_equal(old.ran, 0);
	assert_int_equal(new.place, 1);
	assert_int_equal(between.place, 2);
	work_lane_free(l);
	workpool_free(p, NEVER_MS);
}

/* The job is on its way to a worker, but none has it: still replaced. */
static void test_key_replaces_what_no_worker_took(void **state)
{
	struct workpool *p = pool_of(1, 1, NEVER_MS, NULL);
	struct work_lane *l = lane_of(p, NULL);
	sem_t started, release;
	struct task blocker = {.started = &started, .release = &release}, old = {0}, new = {0};

	sem_init(&started, 0, 0);
	sem_init(&release, 0, 0);
	submit(p, NULL, 0, &blocker);
	sem_wait_for(&started);
	submit(p, l, 3, &old);
	assert_int_equal(work_lane_queued(l), 1);
	submit(p, l, 3, &new);
	assert_int_equal(work_lane_queued(l), 1);
	sem_post(&release);
	run_until(&new.done, 1);
	assert_int_equal(old.cancelled, 1);
	assert_int_equal(new.cancelled, 0);
	assert_int_equal(new.ran, 1);
	work_lane_free(l);
	workpool_free(p, NEVER_MS);
}

static int overdue_calls;

static void count_overdue(void *user, bool overdue)
{
	overdue_calls++;
}

static void test_lane_free_cancels(void **state)
{
	struct workpool *p = pool_of(1, 1, 20, count_overdue);
	struct work_lane *l = lane_of(p, NULL), *m = lane_of(p, NULL);
	sem_t started, release;
	struct task running = {.started = &started, .release = &release}, queued = {0}, ready = {0}, probe = {0};

	overdue_calls = 0;
	sem_init(&started, 0, 0);
	sem_init(&release, 0, 0);
	submit(p, l, 0, &running);
	sem_wait_for(&started);
	submit(p, l, 0, &queued);
	submit(p, m, 0, &ready);
	work_lane_free(l);
	assert_int_equal(queued.done, 1); /* now, not later */
	assert_int_equal(queued.cancelled, 1);
	work_lane_free(m);
	assert_int_equal(ready.cancelled, 1);
	assert_int_equal(running.done, 0);
	submit(p, NULL, 0, &probe);
	sem_post(&release);
	run_until(&probe.done, 1);
	assert_int_equal(running.done, 1);
	assert_int_equal(running.ran, 1);
	assert_int_equal(running.cancelled, 1);
	assert_int_equal(queued.ran + ready.ran, 0);
	assert_int_equal(overdue_calls, 0);
	workpool_free(p, NEVER_MS);
}

static void test_pool_free_cancels_and_waits(void **state)
{
	struct workpool *p = pool_of(1, 1, NEVER_MS, NULL);
	struct work_lane *l = lane_of(p, NULL), *m = lane_of(p, NULL);
	sem_t started, release;
	struct task running = {.started = &started, .release = &release}, queued = {0}, ready = {0};

	sem_init(&started, 0, 0);
	sem_init(&release, 0, 0);
	submit(p, l, 0, &running);
	submit(p, l, 0, &queued);
	submit(p, m, 0, &ready);
	sem_wait_for(&started);
	sem_post(&release);
	assert_null(workpool_free(p, NEVER_MS));
	assert_int_equal(running.done, 1);
	assert_int_equal(running.cancelled, 0);
	assert_int_equal(queued.cancelled, 1);
	assert_int_equal(queued.ran + ready.ran + 0, ready.done - ready.cancelled);
	work_lane_free(l); /* lanes may outlive their pool */
	work_lane_free(m);
}

/* The thread hangs until the program ends: the pool is left to it on purpose. */
static void test_pool_free_abandons(void **state)
{
	static sem_t started, release;
	static struct task hung = {.started = &started, .release = &release};
	struct workpool *p = pool_of(1, 1, NEVER_MS, NULL);
	ev_tstamp begin;

	sem_init(&started, 0, 0);
	sem_init(&release, 0, 0);
	submit(p, NULL, 0, &hung);
	sem_wait_for(&started);
	begin = ev_time();
	assert_null(workpool_free(p, 50));
	assert_true(ev_time() - begin >= 0.049);
	assert_true(ev_time() - begin < LIMIT_S);
	assert_int_equal(hung.done, 0);
	ev_run(loop, 0); /* holds nothing of the loop */
}

/* ---- overdue ---- */

struct lane_log {
	int overdue, back;
};

static void log_overdue(void *user, bool overdue)
{
	struct lane_log *log = user;

	if (overdue)
		log->overdue++;
	else
		log->back++;
}

static void test_hung_lane_holds_up_nobody(void **state)
{
	struct lane_log hung_log = {0}, other_log = {0};
	sem_t started, release;
	struct task hung = {.started = &started, .release = &release}, other = {0}, after = {0};
	struct work_lane *a, *b;
	struct workpool *p;

	n_fini = 0;
	sem_init(&started, 0, 0);
	sem_init(&release, 0, 0);
	assert_int_equal(workpool_new(loop, "test", 1, 2, 30, count_fini, log_overdue, &p), 0);
	a = lane_of(p, &hung_log);
	b = lane_of(p, &other_log);
	submit(p, a, 0, &hung);
	submit(p, b, 0, &other); /* the only thread hangs: another must be started */
	run_until(&other.done, 1);
	assert_int_equal(hung_log.overdue, 1);
	assert_int_equal(hung_log.back, 0);
	assert_true(work_lane_overdue(a));
	assert_false(work_lane_overdue(b));
	assert_int_equal(other_log.overdue, 0);
	submit(p, a, 0, &after);
	sem_post(&release);
	run_until(&after.done, 1);
	assert_int_equal(hung_log.overdue, 1);
	assert_int_equal(hung_log.back, 1);
	assert_false(work_lane_overdue(a));
	/* One of the two threads is too many now and retires without being asked. */
	for (ev_tstamp begin = ev_time(); ev_time() - begin < LIMIT_S && !__atomic_load_n(&n_fini, __ATOMIC_SEQ_CST);)
		sched_yield();
	assert_int_equal(__atomic_load_n(&n_fini, __ATOMIC_SEQ_CST), 1);
	work_lane_free(a);
	work_lane_free(b);
	workpool_free(p, NEVER_MS);
	assert_int_equal(n_fini, 2);
}

static void test_threads_are_limited(void **state)
{
	struct workpool *p = pool_of(1, 2, 10, NULL);
	sem_t started, release;
	struct task hung[3] = {0};

	sem_init(&started, 0, 0);
	sem_init(&release, 0, 0);
	for (int i = 0; i < 3; i++) {
		hung[i].started = &started;
		hung[i].release = &release;
		submit(p, NULL, 0, &hung[i]);
	}
	/* Until both threads hang, and some time for a third that must not be. */
	for (int i = 0; i < 2; i++) {
		while (sem_trywait(&started) < 0)
			ev_run(loop, EVRUN_ONCE);
	}
	for (int i = 0; i < 10; i++)
		ev_run(loop, EVRUN_ONCE);
	assert_int_equal(sem_trywait(&started), -1);
	for (int i = 0; i < 3; i++)
		sem_post(&release);
	run_until(&hung[2].done, 1);
	workpool_free(p, NEVER_MS);
}

/* ---- many jobs ---- */

#define STRESS_LANES 8
#define STRESS_JOBS 400

struct stress_lane {
	atomic_int running;
	int last, wrong, done;
};
struct stress_job {
	struct stress_lane *lane;
	int number;
};

static void stress_run(void *arg, void **worker)
{
	struct stress_job *j = arg;

	if (atomic_fetch_add(&j->lane->running, 1) != 0)
		j->lane->wrong++;
	if (j->number != j->lane->last + 1)
		j->lane->wrong++;
	j->lane->last = j->number;
	atomic_fetch_sub(&j->lane->running, 1);
}

static void stress_done(void *arg, bool cancelled)
{
	struct stress_job *j = arg;

	j->lane->done++;
	free(j);
}

static void test_many_jobs(void **state)
{
	struct workpool *p = pool_of(3, 6, 5, NULL);
	struct stress_lane lanes[STRESS_LANES] = {0};
	struct work_lane *l[STRESS_LANES];

	for (int i = 0; i < STRESS_LANES; i++)
		l[i] = lane_of(p, NULL);
	for (int n = 1; n <= STRESS_JOBS; n++) {
		for (int i = 0; i < STRESS_LANES; i++) {
			struct stress_job *j = malloc(sizeof(*j));

			assert_non_null(j);
			*j = (struct stress_job){&lanes[i], n};
			assert_int_equal(workpool_submit(p, l[i], 0, stress_run, stress_done, j), 0);
		}
	}
	for (int i = 0; i < STRESS_LANES; i++) {
		run_until(&lanes[i].done, STRESS_JOBS);
		assert_int_equal(lanes[i].wrong, 0);
		assert_int_equal(lanes[i].last, STRESS_JOBS);
		work_lane_free(l[i]);
	}
	workpool_free(p, NEVER_MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refuses_nonsense),
		cmocka_unit_test(test_job_runs_elsewhere_and_ends_here),
		cmocka_unit_test(test_idle_pool_does_not_wake),
		cmocka_unit_test(test_slot_is_the_workers_own),
		cmocka_unit_test(test_lane_keeps_order),
		cmocka_unit_test(test_lanes_run_side_by_side),
		cmocka_unit_test(test_submit_and_free_from_done),
		cmocka_unit_test(test_key_replaces_what_waits),
		cmocka_unit_test(test_key_replaces_what_no_worker_took),
		cmocka_unit_test(test_lane_free_cancels),
		cmocka_unit_test(test_pool_free_cancels_and_waits),
		cmocka_unit_test(test_pool_free_abandons),
		cmocka_unit_test(test_hung_lane_holds_up_nobody),
		cmocka_unit_test(test_threads_are_limited),
		cmocka_unit_test(test_many_jobs),
	};

	loop = ev_loop_new(EVFLAG_AUTO);
	if (!loop) {
		fprintf(stderr, "no event loop to test with\n");
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
