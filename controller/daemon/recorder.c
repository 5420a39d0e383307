/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/daemon/recorder.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "controller/daemon/daemon.h"
#include "controller/record/record.h"

#define WRITE_EVERY_MS 1000
#define WRITE_NOW_BYTES (256 * KIB) /* a quarter of what may wait */
#define BEGIN_AGAIN_MS 1000	    /* a snapshot that did not fit is not tried at each event */
#define FAILED_WAIT_MS 10000	    /* after a write that failed, such as on a full disk */

struct recorder {
	struct daemon *daemon;
	struct record_writer *writer; /* NULL: nothing is recorded */
	struct record_store *store;   /* the worker's while in_flight */
	uint64_t total_bytes;
	bool in_flight;
	bool failed;		   /* said, until it works again */
	uint64_t lost_told;	   /* events; said already */
	uint64_t write_ms, try_ms; /* not before */
};

struct write_job {
	struct recorder *recorder;
	struct record_store *store;
	struct record_block block;
	uint64_t resize_bytes;
	int code;
	struct memoc_err err;
};

static uint64_t realtime_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool name_of(void *user, vm_id vm, const char **ret_name, const char **ret_uuid)
{
	const struct entry *e = entry_by_id(user, vm);
	if (!e)
		return false;
	*ret_name = e->facts.name;
	*ret_uuid = e->uuid;
	return true;
}

/* ---- start and end ---- */

static int start(struct recorder *r)
{
	struct record_start s = {.total_bytes = r->total_bytes, .name = name_of, .user = r->daemon};
	/* Only to tell one memocd's recording from another's. */
	if (getrandom(&s.session, sizeof(s.session), GRND_NONBLOCK) != sizeof(s.session))
		s.session = realtime_ms() << 16 ^ (uint64_t)getpid();
	int result = record_writer_new(&s, &r->writer);
	if (result == 0)
		record_writer_begin(r->writer, r->daemon->core, realtime_ms(), now_ms());
	return result;
}

int recorder_new(struct daemon *d, struct recorder **ret)
{
	char dir[512];
	struct recorder *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->daemon = d;
	r->total_bytes = d->config.record_bytes;
	snprintf(dir, sizeof(dir), "%s/record", d->options->state_dir);
	int result = record_store_new(dir, r->total_bytes, &r->store);
	if (result == 0 && r->total_bytes)
		result = start(r);
	if (result < 0) {
		recorder_free(r);
		return result;
	}
	*ret = r;
	return 0;
}

static void say_failure(struct recorder *r, int code, const struct memoc_err *err)
{
	if (code < 0 && !r->failed)
		log_warning("%s; decisions go on, and it is tried again", err->text);
	else if (code == 0 && r->failed)
		log_notice("the recording for memoc replay is written again");
	r->failed = code < 0;
}

struct recorder *recorder_free(struct recorder *r)
{
	struct record_block block;
	struct memoc_err err = {""};
	if (!r)
		return NULL;
	if (r->in_flight) { /* the worker hangs, and what it works with is left to it */
		record_writer_free(r->writer);
		free(r);
		return NULL;
	}
	if (r->writer && !r->failed && record_writer_take(r->writer, &block)) {
		say_failure(r, record_store_write(r->store, &block, &err), &err);
		free(block.bytes);
	}
	record_writer_free(r->writer);
	record_store_free(r->store);
	free(r);
	return NULL;
}

/* ---- writing ---- */

static void write_run(void *arg, void **worker)
{
	struct write_job *j = arg;
	record_store_resize(j->store, j->resize_bytes);
	j->code = record_store_write(j->store, &j->block, &j->err);
}

static void wrote(struct recorder *r, struct write_job *j)
{
	r->in_flight = false;
	say_failure(r, j->code, &j->err);
	if (j->code == 0)
		return;
	r->try_ms = now_ms() + FAILED_WAIT_MS;
	if (r->writer)
		record_writer_lost(r->writer, j->block.events);
}

/* cancelled: memocd ends and the job never ran. */
static void write_done(void *arg, bool cancelled)
{
	struct write_job *j = arg;
	if (cancelled) {
		j->code = record_store_write(j->store, &j->block, &j->err);
		j->recorder->in_flight = false;
		say_failure(j->recorder, j->code, &j->err);
	} else {
		wrote(j->recorder, j);
	}
	free(j->block.bytes);
	free(j);
}

static void submit(struct recorder *r)
{
	struct write_job *j = calloc(1, sizeof(*j));
	if (!j || !record_writer_take(r->writer, &j->block)) {
		free(j);
		return;
	}
	j->recorder = r;
	j->store = r->store;
	j->resize_bytes = r->total_bytes;
	r->in_flight = true;
	if (workpool_submit(r->daemon->house_pool, NULL, 0, write_run, write_done, j) == 0)
		return;
	r->in_flight = false;
	record_writer_lost(r->writer, j->block.events);
	free(j->block.bytes);
	free(j);
}

static void say_losses(struct recorder *r)
{
	uint64_t lost = record_writer_events_lost(r->writer);
	if (lost == r->lost_told || r->failed || record_writer_wants_segment(r->writer))
		return;
	log_warning("%llu events are missing in the recording for memoc replay: the disk was full or too slow, or too "
		    "many VMs changed at once",
		    (unsigned long long)(lost - r->lost_told));
	r->lost_told = lost;
}

void recorder_event(struct recorder *r, const struct event *ev, int code)
{
	if (!r || !r->writer)
		return;
	record_writer_event(r->writer, r->daemon->core, ev, code, &r->daemon->effects);
	if (record_writer_wants_segment(r->writer) && ev->now_ms >= r->try_ms) {
		record_writer_begin(r->writer, r->daemon->core, realtime_ms(), ev->now_ms);
		if (record_writer_wants_segment(r->writer))
			r->try_ms = ev->now_ms + BEGIN_AGAIN_MS;
		say_losses(r);
	}
	size_t waiting = record_writer_waiting(r->writer);
	if (r->in_flight || !waiting || (ev->now_ms < r->write_ms && waiting < WRITE_NOW_BYTES))
		return;
	r->write_ms = ev->now_ms + WRITE_EVERY_MS;
	submit(r);
}

void recorder_configure(struct recorder *r)
{
	uint64_t total_bytes = r->daemon->config.record_bytes;
	if (total_bytes == r->total_bytes)
		return;
	/* What waits is few seconds of the past: not worth a wait of the loop. */
	r->writer = record_writer_free(r->writer);
	r->total_bytes = total_bytes;
	r->lost_told = 0;
	if (total_bytes && start(r) < 0)
		log_error("out of memory: nothing is recorded for memoc replay");
}
