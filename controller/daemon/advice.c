/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/daemon/advice.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "controller/advice/advice.h"

/* VMs side by side: each has descriptors and a map of its own, and is with one worker at a time. */
#define POOL_THREADS 4
#define POOL_THREADS_MAX 8
#define POOL_OVERDUE_MS 10000
#define FREE_MS 2000
/*
 * What a look costs is a monitor command (1 to 2 ms) and some reading of page tables; what is read between two looks is
 * in memory twice, so to say. vm_advice.c reckons with this.
 */
#define LOOK_MS 100
#define FAST_BYTES (16 * MIB) /* came between two looks: the next one sooner, lest the limit push out what is hot */
#define FAST_LOOK_MS 20
/* So near to the end of the pass too: what is read after the last look is advised when the pass is over, and QEMU with
 * it where the last one was short. */
#define END_BYTES (64 * MIB)
#define TELL_MS 1000 /* the core is not told of each look */
#define LAST_TELL_MS 100
#define STILL_LOOKS 50 /* then libvirt is asked again: what it read may be swapped out already */
/* One step: MADV_PAGEOUT to zram takes about 4 µs a page (measured, lzo-rle), so this is a quarter of a second. The
 * next comes with the next look. */
#define STEP_BYTES (256 * MIB)
#define LAST_STEP_BYTES (32 * MIB) /* QEMU ends soon, and with it what was not told */

/*
 * One VM that is advised. It is idle (its timer runs), asking libvirt, or working; towards the end of the pass perhaps
 * both: then the reader is followed without libvirt, to which QEMU does not answer any more. (Its second "pass" begins
 * when little is left to send, not when all of the first is read: ram_state_pending_exact of QEMU's migration/ram.c.)
 */
struct advised {
	struct advising *owner;
	struct advised *next;
	vm_id id;
	struct attach *attach;
	struct dom_facts facts;
	struct advice *advice;
	struct work_lane *lane; /* for libvirt's word of its progress */
	ev_timer timer;
	bool asking, working;
	bool finishing, finishing_step; /* to be, and being done: the loop's, the worker's */
	unsigned still_looks;		/* in which the reader did not seem to move */
	bool stopped;
	bool dropped; /* nobody wants to hear of it any more: it goes when nobody has it */
	atomic_bool cancel;
	uint64_t zero_swap_bytes;	       /* swap that pages of zeroes may take */
	uint64_t zero_due_bytes;	       /* … of which they have not taken so much yet; the loop's */
	bool zeroes_free;		       /* … for which it costs nothing to hold them */
	uint64_t told_bytes;		       /* position that libvirt told while it is finishing; the loop's */
	uint64_t position_bytes, before_bytes; /* at this look and at the one before */
	uint64_t told_ms;
	struct advice_report report;
	int code;
	struct memoc_err err;
};

struct advising {
	struct daemon *d;
	struct workpool *pool;
	struct advised *list;
	bool refusal_told; /* that it is not permitted: once */
};

static struct advised *advised_by_id(struct advising *a, vm_id id)
{
	for (struct advised *v = a->list; v; v = v->next)
		if (v->id == id && !v->dropped)
			return v;
	return NULL;
}

static bool busy(const struct advised *v)
{
	return v->asking || v->working;
}

static void advised_free(struct advised *v)
{
	struct advising *a = v->owner;

	for (struct advised **p = &a->list; *p; p = &(*p)->next) {
		if (*p != v)
			continue;
		*p = v->next;
		break;
	}
	ev_timer_stop(a->d->loop, &v->timer);
	work_lane_free(v->lane);
	advice_free(v->advice);
	attach_unref(v->attach);
	free(v);
}

static void drop(struct advised *v)
{
	v->dropped = true;
	v->zero_due_bytes = 0;
	atomic_store(&v->cancel, true);
	ev_timer_stop(v->owner->d->loop, &v->timer);
	if (!busy(v))
		advised_free(v);
}

static void tell_core(struct advised *v)
{
	v->told_ms = now_ms();
	daemon_post(v->owner->d, (struct event){.type = EVENT_VM_ADVICE, .vm = v->id, .advice = v->report});
}

static void tell_refusal(struct advised *v)
{
	struct log_fields fields = {.message_id = MSG_ADVICE, .event = "advice-refused", .reason = v->err.text};

	if (v->owner->refusal_told)
		return;
	v->owner->refusal_told = true;
	log_fields(LOG_LEVEL_WARNING, &fields, "no memory advice while VMs migrate: %s; all else goes on", v->err.text);
}

/* The last report; v may be gone afterwards. */
static void end(struct advised *v)
{
	bool refused = v->code == -EPERM || v->code == -ENOSYS || v->code == -EOPNOTSUPP;
	bool plain = v->code == 0 || v->code == -ESRCH || v->code == -ECANCELED;

	if (refused)
		tell_refusal(v);
	else if (!plain)
		log_warning("%s: memory advice ended early: %s", v->facts.name, v->err.text);
	v->report.over = true;
	if (!plain)
		snprintf(v->report.why, sizeof(v->report.why), "%.*s", (int)sizeof(v->report.why) - 1, v->err.text);
	struct event ev = {.type = EVENT_VM_ADVICE, .vm = v->id, .advice = v->report};
	struct daemon *d = v->owner->d;
	drop(v); /* first: the core may have more to say to it */
	daemon_post(d, ev);
}

/* ---- workers ---- */

static void begin_run(void *arg, void **worker)
{
	struct advised *v = arg;
	struct guest_ram ram = {0};
	int r = proc_vm_ram_map(v->attach->proc, &v->facts, &ram, &v->err);

	if (r == -EAGAIN) /* changed while it was read: once more */
		r = proc_vm_ram_map(v->attach->proc, &v->facts, &ram, &v->err);
	if (r == 0)
		r = advice_begin(v->attach->proc, &ram, &v->advice, &v->err);
	if (r == 0)
		advice_count_map(v->advice, &v->report);
	v->zeroes_free = advice_zeroes_swap_free("");
	v->code = r;
	guest_ram_clear(&ram);
}

static void step_run(void *arg, void **worker)
{
	struct advised *v = arg;
	uint64_t spare = sub_sat_u64(v->zero_swap_bytes, v->report.zero_out_bytes);
	const struct advice_order order = {.position_bytes = v->position_bytes,
					   .follow = v->finishing_step,
					   .zero_out = v->zeroes_free && spare > 0,
					   .most_bytes = v->finishing_step ? LAST_STEP_BYTES : STEP_BYTES,
					   .cancel = &v->cancel};

	v->code = advice_step(v->advice, &order, &v->report, &v->err);
	if (order.follow)
		v->position_bytes = advice_position_bytes(v->advice);
}

/* ---- loop ---- */

static void look_later(struct advised *v, bool soon)
{
	bool fast = soon || v->finishing || v->position_bytes >= add_sat_u64(v->before_bytes, FAST_BYTES) ||
		    v->position_bytes >= sub_sat_u64(v->facts.max_bytes, END_BYTES);

	v->still_looks = v->finishing && v->position_bytes == v->before_bytes ? v->still_looks + 1 : 0;
	v->before_bytes = v->position_bytes;
	ev_timer_set(&v->timer, (fast ? FAST_LOOK_MS : LOOK_MS) / 1000., 0.);
	ev_timer_start(v->owner->d->loop, &v->timer);
}

static void step_done(void *arg, bool cancelled);

static void step(struct advised *v)
{
	v->working = true;
	v->finishing_step = v->finishing;
	if (v->finishing) /* its second pass goes on where the first is, so that this is the position up to the end */
		v->position_bytes =
			v->told_bytes >= v->facts.max_bytes ? ADVICE_ALL : max_u64(v->position_bytes, v->told_bytes);
	if (workpool_submit(v->owner->pool, NULL, 0, step_run, step_done, v) == 0)
		return;
	v->working = false;
	v->code = memoc_err_set(&v->err, -ENOMEM, "out of memory");
	end(v);
}

/* What was waited for is done. Is v to go on? Else it may be gone. */
static bool goes_on(struct advised *v, bool cancelled)
{
	if (cancelled || v->dropped) {
		drop(v);
		return false;
	}
	if (!v->stopped && v->code >= 0)
		return true;
	end(v);
	return false;
}

static void step_done(void *arg, bool cancelled)
{
	struct advised *v = arg;
	bool more = v->code > 0, finishing = v->finishing_step;

	v->working = false;
	if (!goes_on(v, cancelled))
		return;
	v->zero_due_bytes = sub_sat_u64(v->zero_swap_bytes, v->report.zero_out_bytes);
	if (!more && finishing && advice_all_read(v->advice)) {
		end(v);
		return;
	}
	if (now_ms() - v->told_ms >= (finishing ? LAST_TELL_MS : TELL_MS))
		tell_core(v);
	if (v->finishing != finishing || (more && finishing)) /* QEMU may end at any moment */
		step(v);
	else
		look_later(v, more);
}

static void progress_known(void *user, const struct virt_job *job)
{
	struct advised *v = user;
	struct entry *e = entry_by_id(v->owner->d, v->id);

	v->asking = false;
	if (v->finishing && !v->dropped) { /* it steps all the time */
		if (job && job->outgoing)
			v->told_bytes = max_u64(v->told_bytes, job->read_bytes);
		return;
	}
	if (v->dropped) {
		drop(v);
		return;
	}
	v->code = 0;
	if (!goes_on(v, !e))
		return;
	if (!job || !job->outgoing || job->pass > 1)
		look_later(v, false);
	if (job && !job->outgoing) {
		entry_not_migrating(e); /* the core stops this */
	} else if (job && job->pass > 1) {
		entry_migrating(e, job->pass); /* libvirt's event is on its way, or was lost: the core ends this */
	} else if (job) {
		v->position_bytes = job->read_bytes;
		step(v);
	}
}

/* Was it asked? Then the answer comes, whatever becomes of v; it may have come, and v be gone, at the return. */
static bool ask_libvirt(struct advised *v, struct entry *e)
{
	v->asking = true;
	if (job_progress(e, v->lane, progress_known, v) == 0)
		return true;
	v->asking = false;
	return false;
}

static void look_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct advised *v = w->data;
	struct daemon *d = v->owner->d;
	struct entry *e = entry_by_id(d, v->id);

	d->wakeups[WAKEUP_ADVICE]++;
	if (v->finishing) {
		bool ask = v->still_looks >= STILL_LOOKS && !v->asking && e && virt_events_connected(d->link);

		if (ask) {
			v->still_looks = 0;
			ask_libvirt(v, e); /* the answer leaves it here while it is finishing */
		}
		step(v);
	} else if (!e || !virt_events_connected(d->link) || !ask_libvirt(v, e)) {
		look_later(v, false);
	}
}

/* Two VMs that are read at once share the swap that is to spare: each has what the others will not take. */
static void share_zero_swap(struct advised *v)
{
	uint64_t others = 0;

	for (const struct advised *o = v->owner->list; o; o = o->next)
		others = add_sat_u64(others, o != v ? o->zero_due_bytes : 0);
	v->zero_swap_bytes = min_u64(sub_sat_u64(v->zero_swap_bytes, others), v->report.untouched_bytes);
	v->zero_due_bytes = v->zero_swap_bytes;
}

static void begin_done(void *arg, bool cancelled)
{
	struct advised *v = arg;

	v->working = false;
	if (!goes_on(v, cancelled))
		return;
	share_zero_swap(v);
	if (!advice_worthwhile(v->advice)) {
		end(v);
		return;
	}
	tell_core(v);
	if (v->finishing) {
		step(v);
	} else {
		look_cb(v->owner->d->loop, &v->timer, 0);
	}
}

void advising_begin(struct advising *a, struct entry *e, uint64_t zero_swap_bytes)
{
	struct advised *v = e->attach ? calloc(1, sizeof(*v)) : NULL;
	bool ready = v && work_lane_new(a->d->virt_pool, NULL, &v->lane) == 0;
	struct event none = {.type = EVENT_VM_ADVICE, .vm = e->id, .advice = {.over = true}};

	if (!ready) {
		free(v);
		snprintf(none.advice.why, sizeof(none.advice.why), "%s",
			 e->attach ? "out of memory" : "its QEMU is not known yet");
		daemon_post(a->d, none);
		return;
	}
	v->owner = a;
	v->id = e->id;
	v->attach = attach_ref(e->attach);
	v->facts = e->facts;
	v->zero_swap_bytes = zero_swap_bytes;
	atomic_init(&v->cancel, false);
	ev_timer_init(&v->timer, look_cb, 0., 0.);
	v->timer.data = v;
	v->next = a->list;
	a->list = v;
	v->working = true;
	if (workpool_submit(a->pool, NULL, 0, begin_run, begin_done, v) < 0) {
		v->working = false;
		v->code = memoc_err_set(&v->err, -ENOMEM, "out of memory");
		end(v);
	}
}

void advising_finish(struct advising *a, vm_id id)
{
	struct advised *v = advised_by_id(a, id);

	if (!v || v->finishing)
		return;
	v->finishing = true;
	if (v->working)
		return;
	ev_timer_stop(a->d->loop, &v->timer);
	step(v);
}

void advising_stop(struct advising *a, vm_id id)
{
	struct advised *v = advised_by_id(a, id);

	if (!v)
		return;
	v->stopped = true;
	atomic_store(&v->cancel, true);
	if (!v->working)
		end(v);
}

void advising_drop(struct advising *a, vm_id id)
{
	struct advised *v = a ? advised_by_id(a, id) : NULL;

	if (v)
		drop(v);
}

void advising_count(struct advising *a, struct workpool_counts *counts)
{
	workpool_count(a->pool, counts);
}

int advising_new(struct daemon *d, struct advising **ret)
{
	struct advising *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	a->d = d;
	r = workpool_new(d->loop, "advice", POOL_THREADS, POOL_THREADS_MAX, POOL_OVERDUE_MS, NULL, NULL, &a->pool);
	if (r < 0) {
		free(a);
		return r;
	}
	*ret = a;
	return 0;
}

/* After the pool of libvirt's workers is gone: nobody is asking. */
struct advising *advising_free(struct advising *a)
{
	if (!a)
		return NULL;
	for (struct advised *v = a->list; v; v = v->next) {
		v->dropped = true; /* there may be no libvirt to ask any more */
		atomic_store(&v->cancel, true);
	}
	workpool_free(a->pool, FREE_MS); /* what is busy goes with its last callback */
	for (struct advised *v = a->list, *next; v; v = next) {
		next = v->next;
		if (!busy(v))
			advised_free(v);
	}
	if (!a->list) /* else a worker that does not come back has it still */
		free(a);
	return NULL;
}
