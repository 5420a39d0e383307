/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lanes belong to the loop thread: it hands at most one job of a lane to the workers and the next one only after the
 * done callback of the first. Workers see nothing but the ready and the done queue. All functions of the interface
 * are for the loop thread; workpool_free not from within a callback.
 */
#include "controller/host/workpool.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/queue.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "controller/host/thread.h"

struct job {
	STAILQ_ENTRY(job) link;	 /* in one queue at a time: the lane's, ready, done; none while it runs */
	TAILQ_ENTRY(job) flight; /* handed to the workers, done callback not yet called */
	struct work_lane *lane;	 /* NULL: none, or freed meanwhile */
	unsigned key;
	work_run_fn *run;
	work_done_fn *done;
	void *arg;
	bool in_flight, cancelled, delivering;
	/* under the mutex */
	uint64_t started_ms; /* 0: not yet */
	bool finished, overdue;
	bool report; /* loop thread: overdue and not yet said */
};
STAILQ_HEAD(job_queue, job);

struct work_lane {
	LIST_ENTRY(work_lane) all;
	struct workpool *pool; /* NULL: freed before its lane */
	void *user;
	struct job *current; /* in flight */
	struct job_queue queue;
	size_t queued;
};

struct workpool {
	struct ev_loop *loop;
	char name[16];
	unsigned threads, threads_max;
	uint64_t overdue_ms;
	void (*worker_fini)(void *worker);
	work_overdue_fn *overdue_fn;
	/* loop thread */
	ev_async wake;
	ev_timer clock; /* runs only while some job may become overdue */
	LIST_HEAD(, work_lane) lanes;
	TAILQ_HEAD(, job) flight;
	size_t outstanding; /* jobs whose done callback is due from the loop: they keep it alive */
	/* under the mutex */
	pthread_mutex_t mutex;
	pthread_cond_t work, gone;
	struct job_queue ready, done;
	unsigned n_ready, n_idle;
	unsigned n_threads; /* that take work */
	unsigned n_alive;   /* with those that are ending */
	unsigned n_overdue; /* running jobs marked overdue: each allows one thread more */
	bool stop, abandoned;
	struct workpool_counts counts;
};

/* ---- workers ---- */

/* How often this thread went to sleep by itself. */
static uint64_t sleeps(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) == 0 ? (uint64_t)usage.ru_nvcsw : 0;
}

/* Mutex held on entry and exit. */
static void run_job(struct workpool *p, struct job *j, void **worker)
{
	uint64_t before = sleeps();

	j->started_ms = max_u64(now_ms(), 1);
	pthread_mutex_unlock(&p->mutex);
	j->run(j->arg, worker);
	pthread_mutex_lock(&p->mutex);
	p->counts.jobs++;
	p->counts.job_sleeps += sub_sat_u64(sleeps(), before);
	j->finished = true;
	if (j->overdue)
		p->n_overdue--;
	/* Under the mutex, because an abandoned thread must not touch a loop that may be gone. */
	if (!p->abandoned && STAILQ_EMPTY(&p->done))
		ev_async_send(p->loop, &p->wake);
	STAILQ_INSERT_TAIL(&p->done, j, link);
}

static bool worker_is_extra(const struct workpool *p)
{
	return p->n_threads > p->threads + p->n_overdue;
}

static void *worker_main(void *arg)
{
	struct workpool *p = arg;
	void *worker = NULL;
	struct job *j;

	pthread_mutex_lock(&p->mutex);
	for (;;) { /* counted as idle here */
		while (!p->stop && STAILQ_EMPTY(&p->ready) && !worker_is_extra(p)) {
			pthread_cond_wait(&p->work, &p->mutex);
			p->counts.for_nothing += STAILQ_EMPTY(&p->ready);
		}
		p->n_idle--;
		j = STAILQ_FIRST(&p->ready);
		if (!j)
			break;
		STAILQ_REMOVE_HEAD(&p->ready, link);
		p->n_ready--;
		run_job(p, j, &worker);
		p->n_idle++;
	}
	p->n_threads--;
	pthread_mutex_unlock(&p->mutex);
	if (worker && p->worker_fini)
		p->worker_fini(worker);
	pthread_mutex_lock(&p->mutex);
	p->n_alive--;
	pthread_cond_signal(&p->gone);
	pthread_mutex_unlock(&p->mutex);
	return NULL;
}

/* Mutex held: as many threads as the ready jobs need and the limits allow. Fails only where there is no thread at all.
 */
static int start_threads(struct workpool *p)
{
	unsigned allowed = (unsigned)min_u64(p->threads_max, (uint64_t)p->threads + p->n_overdue);

	while (p->n_ready > p->n_idle && p->n_threads < allowed) {
		if (thread_start(p->name, worker_main, p) < 0)
			return p->n_threads ? 0 : -ENOMEM;
		p->n_threads++;
		p->n_alive++;
		p->n_idle++; /* until it takes its first job */
	}
	return 0;
}

/* ---- from lanes to workers; loop thread ---- */

static void hold_loop(struct workpool *p)
{
	if (p->outstanding++ == 0)
		ev_ref(p->loop);
}

static void release_loop(struct workpool *p)
{
	if (--p->outstanding == 0)
		ev_unref(p->loop);
}

static void clock_start(struct workpool *p, uint64_t after_ms)
{
	ev_timer_stop(p->loop, &p->clock);
	ev_timer_set(&p->clock, (double)max_u64(after_ms, 1) / 1e3, 0.);
	ev_timer_start(p->loop, &p->clock);
}

/* −ENOMEM: no thread could be started and there is none; the job is not queued then. */
static int dispatch(struct workpool *p, struct job *j)
{
	int r;

	pthread_mutex_lock(&p->mutex);
	p->n_ready++;
	r = start_threads(p);
	if (r < 0) {
		p->n_ready--;
		pthread_mutex_unlock(&p->mutex);
		return r;
	}
	STAILQ_INSERT_TAIL(&p->ready, j, link);
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->mutex);
	j->in_flight = true;
	TAILQ_INSERT_TAIL(&p->flight, j, flight);
	if (j->lane)
		j->lane->current = j;
	hold_loop(p);
	if (!ev_is_active(&p->clock))
		clock_start(p, p->overdue_ms);
	return 0;
}

static void lane_next(struct work_lane *l)
{
	struct job *j = STAILQ_FIRST(&l->queue);

	l->current = NULL;
	if (!j)
		return;
	STAILQ_REMOVE_HEAD(&l->queue, link);
	l->queued--;
	/* Cannot fail: a job of this lane has run, so there is a thread, and the last `threads` of them never retire.
	 */
	dispatch(l->pool, j);
}

static void job_end(struct workpool *p, struct job *j)
{
	struct work_lane *l = j->lane;

	if (j->in_flight) {
		TAILQ_REMOVE(&p->flight, j, flight);
		if (TAILQ_EMPTY(&p->flight))
			ev_timer_stop(p->loop, &p->clock);
	}
	j->delivering = true;
	if (j->overdue && !j->report && l && p->overdue_fn)
		p->overdue_fn(l->user, false);
	j->done(j->arg, j->cancelled);
	if (j->lane && j->in_flight) /* not freed by the callbacks */
		lane_next(j->lane);
	free(j);
	release_loop(p);
}

static void deliver(struct workpool *p)
{
	struct job_queue ended = STAILQ_HEAD_INITIALIZER(ended);
	struct job *j;

	pthread_mutex_lock(&p->mutex);
	STAILQ_CONCAT(&ended, &p->done);
	pthread_mutex_unlock(&p->mutex);
	while ((j = STAILQ_FIRST(&ended))) {
		STAILQ_REMOVE_HEAD(&ended, link);
		job_end(p, j);
	}
}

static void on_wake(struct ev_loop *loop, ev_async *w, int revents)
{
	deliver(w->data);
}

/* ---- overdue jobs ---- */

/* Marks what is overdue now; returns when to look again, UINT64_MAX: no need. Mutex held. */
static uint64_t mark_overdue(struct workpool *p)
{
	uint64_t now = now_ms(), next = UINT64_MAX, ran;
	struct job *j;

	TAILQ_FOREACH(j, &p->flight, flight)
	{
		if (j->finished || j->overdue)
			continue;
		ran = j->started_ms ? sub_sat_u64(now, j->started_ms) : 0;
		if (j->started_ms && ran >= p->overdue_ms) {
			j->overdue = j->report = true;
			p->n_overdue++;
		} else {
			next = min_u64(next, p->overdue_ms - ran);
		}
	}
	start_threads(p);
	return next;
}

static struct job *overdue_unreported(struct workpool *p)
{
	struct job *j;

	TAILQ_FOREACH(j, &p->flight, flight)
	if (j->report)
		return j;
	return NULL;
}

static void on_clock(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct workpool *p = w->data;
	struct job *j;
	uint64_t next;

	pthread_mutex_lock(&p->mutex);
	next = mark_overdue(p);
	pthread_mutex_unlock(&p->mutex);
	if (next != UINT64_MAX)
		clock_start(p, next);
	/* From the start each time: the callback may free lanes and submit jobs. */
	while ((j = overdue_unreported(p))) {
		j->report = false;
		if (j->lane && p->overdue_fn)
			p->overdue_fn(j->lane->user, true);
	}
}

/* ---- interface ---- */

int workpool_new(struct ev_loop *loop, const char *name, unsigned threads, unsigned threads_max, uint64_t overdue_ms,
		 void (*worker_fini)(void *worker), work_overdue_fn *overdue, struct workpool **ret)
{
	pthread_condattr_t attr;
	struct workpool *p;

	if (threads == 0 || threads_max < threads || overdue_ms == 0)
		return -EINVAL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->loop = loop;
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->threads = threads;
	p->threads_max = threads_max;
	p->overdue_ms = overdue_ms;
	p->worker_fini = worker_fini;
	p->overdue_fn = overdue;
	LIST_INIT(&p->lanes);
	TAILQ_INIT(&p->flight);
	STAILQ_INIT(&p->ready);
	STAILQ_INIT(&p->done);
	pthread_mutex_init(&p->mutex, NULL);
	pthread_cond_init(&p->work, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->gone, &attr);
	pthread_condattr_destroy(&attr);
	ev_async_init(&p->wake, on_wake);
	p->wake.data = p;
	ev_async_start(loop, &p->wake);
	ev_unref(loop);
	ev_init(&p->clock, on_clock);
	p->clock.data = p;
	*ret = p;
	return 0;
}

static void cancel_all(struct job_queue *jobs)
{
	struct job *j;

	while ((j = STAILQ_FIRST(jobs))) {
		STAILQ_REMOVE_HEAD(jobs, link);
		j->done(j->arg, true);
		free(j);
	}
}

/* Takes every job that does not run yet out of its queues. */
static void collect_waiting(struct workpool *p, struct job_queue *ret)
{
	struct work_lane *l;
	struct job *j;

	pthread_mutex_lock(&p->mutex);
	p->stop = true;
	p->n_ready = 0;
	STAILQ_CONCAT(ret, &p->ready);
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->mutex);
	STAILQ_FOREACH(j, ret, link)
	{
		TAILQ_REMOVE(&p->flight, j, flight);
		release_loop(p);
		if (j->lane)
			j->lane->current = NULL;
	}
	LIST_FOREACH(l, &p->lanes, all)
	{
		STAILQ_CONCAT(ret, &l->queue);
		l->queued = 0;
	}
}

/* False: some still hang. From then on they touch nothing of the loop's. */
static bool wait_threads(struct workpool *p, uint64_t wait_ms)
{
	struct timespec until;
	bool all_gone;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(wait_ms / 1000);
	until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&p->mutex);
	while (p->n_alive && pthread_cond_timedwait(&p->gone, &p->mutex, &until) == 0)
		;
	all_gone = p->n_alive == 0;
	p->abandoned = !all_gone;
	pthread_mutex_unlock(&p->mutex);
	return all_gone;
}

struct workpool *workpool_free(struct workpool *p, uint64_t wait_ms)
{
	struct job_queue waiting = STAILQ_HEAD_INITIALIZER(waiting);
	struct work_lane *l;
	bool all_gone;

	if (!p)
		return NULL;
	collect_waiting(p, &waiting);
	cancel_all(&waiting);
	all_gone = wait_threads(p, wait_ms);
	deliver(p);
	while ((l = LIST_FIRST(&p->lanes))) {
		LIST_REMOVE(l, all);
		l->pool = NULL;
		l->current = NULL;
	}
	ev_timer_stop(p->loop, &p->clock);
	if (p->outstanding)
		ev_unref(p->loop);
	ev_ref(p->loop);
	ev_async_stop(p->loop, &p->wake);
	if (!all_gone) /* the hung threads still use it */
		return NULL;
	pthread_cond_destroy(&p->gone);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->mutex);
	free(p);
	return NULL;
}

int work_lane_new(struct workpool *p, void *lane_user, struct work_lane **ret)
{
	struct work_lane *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->pool = p;
	l->user = lane_user;
	STAILQ_INIT(&l->queue);
	LIST_INSERT_HEAD(&p->lanes, l, all);
	*ret = l;
	return 0;
}

/* Takes the lane's job out of the ready queue if no worker has it yet. */
static bool take_back(struct workpool *p, struct job *j)
{
	bool mine;

	pthread_mutex_lock(&p->mutex);
	mine = j->started_ms == 0;
	if (mine) {
		STAILQ_REMOVE(&p->ready, j, job, link);
		p->n_ready--;
	}
	pthread_mutex_unlock(&p->mutex);
	if (!mine)
		return false;
	TAILQ_REMOVE(&p->flight, j, flight);
	if (TAILQ_EMPTY(&p->flight))
		ev_timer_stop(p->loop, &p->clock);
	release_loop(p);
	return true;
}

struct work_lane *work_lane_free(struct work_lane *l)
{
	struct job_queue waiting = STAILQ_HEAD_INITIALIZER(waiting);
	struct job *j;

	if (!l)
		return NULL;
	j = l->current;
	if (j && take_back(l->pool, j)) {
		STAILQ_INSERT_TAIL(&waiting, j, link);
	} else if (j) {
		j->lane = NULL;
		j->cancelled = true;
	}
	STAILQ_CONCAT(&waiting, &l->queue);
	if (l->pool)
		LIST_REMOVE(l, all);
	free(l);
	cancel_all(&waiting);
	return NULL;
}

/* Mutex held: a job of the lane with this key that no worker has taken. */
static struct job *find_waiting(const struct work_lane *l, unsigned key)
{
	struct job *j = l->current;

	if (j && j->key == key && j->started_ms == 0)
		return j;
	STAILQ_FOREACH(j, &l->queue, link)
	if (j->key == key)
		return j;
	return NULL;
}

/* The waiting job keeps its place and gets the new one's content; `fresh` takes the old content to its cancelled end.
 */
static bool replace_waiting(struct workpool *p, struct work_lane *l, struct job *fresh)
{
	struct job *old, content;

	pthread_mutex_lock(&p->mutex);
	old = find_waiting(l, fresh->key);
	if (old) {
		content = *fresh;
		fresh->run = old->run;
		fresh->done = old->done;
		fresh->arg = old->arg;
		old->run = content.run;
		old->done = content.done;
		old->arg = content.arg;
		fresh->lane = NULL;
		fresh->cancelled = true;
		if (STAILQ_EMPTY(&p->done))
			ev_async_send(p->loop, &p->wake);
		STAILQ_INSERT_TAIL(&p->done, fresh, link);
		hold_loop(p);
	}
	pthread_mutex_unlock(&p->mutex);
	return old;
}

int workpool_submit(struct workpool *p, struct work_lane *lane, unsigned key, work_run_fn *run, work_done_fn *done,
		    void *arg)
{
	struct job *j;
	int r;

	if (p->stop)
		return -ESHUTDOWN;
	j = calloc(1, sizeof(*j));
	if (!j)
		return -ENOMEM;
	*j = (struct job){.lane = lane, .key = key, .run = run, .done = done, .arg = arg};
	if (lane && key && replace_waiting(p, lane, j))
		return 0;
	if (lane && lane->current) {
		STAILQ_INSERT_TAIL(&lane->queue, j, link);
		lane->queued++;
		return 0;
	}
	r = dispatch(p, j);
	if (r < 0)
		free(j);
	return r;
}

static bool current_waits(const struct work_lane *l)
{
	bool waits;

	if (!l->current)
		return false;
	pthread_mutex_lock(&l->pool->mutex);
	waits = l->current->started_ms == 0;
	pthread_mutex_unlock(&l->pool->mutex);
	return waits;
}

void workpool_count(struct workpool *p, struct workpool_counts *counts)
{
	pthread_mutex_lock(&p->mutex);
	counts->jobs += p->counts.jobs;
	counts->job_sleeps += p->counts.job_sleeps;
	counts->for_nothing += p->counts.for_nothing;
	pthread_mutex_unlock(&p->mutex);
}

bool work_lane_busy(const struct work_lane *l)
{
	return l->queued || (l->current && !l->current->delivering);
}

bool work_lane_overdue(const struct work_lane *l)
{
	return l->current && l->current->overdue && !l->current->delivering;
}

size_t work_lane_queued(const struct work_lane *l)
{
	return l->queued + current_waits(l);
}
