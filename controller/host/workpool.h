/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Workers for whatever may block. A job runs on some worker, then its done callback runs on the loop thread. Jobs of
 * one lane (a VM's libvirt calls, a VM's cgroup writes) run one at a time and in order; a lane that hangs holds up
 * nobody else: while a job is overdue the pool starts another worker, up to threads_max.
 */
#ifndef MEMOC_HOST_WORKPOOL_H
#define MEMOC_HOST_WORKPOOL_H

#include <ev.h>

#include "common/err.h"

struct workpool;
struct work_lane; /* in-order queue; at most one job in flight */

/* Runs on a worker. `worker` is the worker's own slot (NULL at first; see worker_fini), so that e.g. a connection is
 * kept per thread. */
typedef void work_run_fn(void *arg, void **worker);
/* Runs on the loop thread afterwards. cancelled: the job never ran (lane or pool freed, or replaced). Owns arg. */
typedef void work_done_fn(void *arg, bool cancelled);
/* Lane became overdue (true: its job has run longer than overdue_ms) or came back (false). Loop thread. */
typedef void work_overdue_fn(void *lane_user, bool overdue);

/* threads: started on demand up to this; threads_max: with replacements for hung ones. worker_fini frees a worker's
 * slot (may be NULL). */
int workpool_new(struct ev_loop *loop, const char *name, unsigned threads, unsigned threads_max, uint64_t overdue_ms,
		 void (*worker_fini)(void *worker), work_overdue_fn *overdue, struct workpool **ret);
/* Cancels what is queued, waits at most wait_ms for running jobs, abandons threads that still hang (their memory is
 * leaked on purpose). */
struct workpool *workpool_free(struct workpool *p, uint64_t wait_ms);

int work_lane_new(struct workpool *p, void *lane_user, struct work_lane **ret);
/* The lane is gone for the caller at once: queued jobs are cancelled now; a running job's done callback comes with
 * cancelled = true when it ends, and the overdue callback is not called any more. */
struct work_lane *work_lane_free(struct work_lane *l);
/*
 * Queues a job. key != 0: a queued (not running) job of the lane with the same key is replaced and its done called with
 * cancelled = true: only the newest matters. lane NULL: no order. −ENOMEM, or −ESHUTDOWN in workpool_free's own
 * callbacks (done is not called then).
 */
int workpool_submit(struct workpool *p, struct work_lane *lane, unsigned key, work_run_fn *run, work_done_fn *done,
		    void *arg);
bool work_lane_busy(const struct work_lane *l); /* a job is running or queued */
bool work_lane_overdue(const struct work_lane *l);
size_t work_lane_queued(const struct work_lane *l); /* without the running one */

/* What the workers did, ever. */
struct workpool_counts {
	uint64_t jobs;	      /* run */
	uint64_t job_sleeps;  /* times that a running job waited: for libvirt's answer, a disk, a lock */
	uint64_t for_nothing; /* times that a worker was woken and there was no work for it */
};
/* Adds the pool's counts to *counts. Any thread. */
void workpool_count(struct workpool *p, struct workpool_counts *counts);

#endif
