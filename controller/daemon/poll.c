/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When to read what. Guest statistics come once a period, at a moment that QEMU chose; reading just after that moment
 * costs one read a period and sees every change at once, so each VM's timer is locked to the phase of its own
 * statistics.
 */
#include "controller/daemon/daemon.h"

#include <errno.h>

#define TIGHT_MS 90	/* an update seen within this of the read before was caught right after it came */
#define WALK_MS 120	/* otherwise the next read comes this much earlier than a period from now … */
#define LOCKED_READS 30 /* a phase once caught is believed for so many reads: they drift later by some ms each */
#define AGAIN_MS 60	/* … and one that came too early is repeated after this */
#define AGAIN_TRIES 8	/* then the guest is slow or silent: back to one read an interval */
#define VERIFY_MS 60000
#define FAILED_MS 2000 /* after a read that failed */

static uint64_t period_ms(const struct entry *e)
{
	return (uint64_t)(e->facts.stats_period_s ? e->facts.stats_period_s : 1) * 1000;
}

static void arm(struct entry *e, uint64_t after_ms)
{
	struct daemon *d = e->daemon;
	ev_timer_stop(d->loop, &e->poll_timer);
	ev_timer_set(&e->poll_timer, (double)after_ms / 1000, 0.);
	ev_timer_start(d->loop, &e->poll_timer);
}

/* After each change of the VM's state: a moving balloon is watched closely, a paused VM not at all. */
void poll_rearm(struct entry *e)
{
	struct daemon *d = e->daemon;
	const struct vm *vm = e->in_core ? core_vm(d->core, e->id) : NULL;
	uint64_t every_ms = vm && e->running ? core_poll_ms(d->core, vm) : NEVER_MS;
	if (every_ms == NEVER_MS) {
		ev_timer_stop(d->loop, &e->poll_timer);
		return;
	}
	if (!ev_is_active(&e->poll_timer)) {
		if (!work_lane_busy(e->virt_lane))
			arm(e, min_u64(every_ms, 50));
	} else if (ev_timer_remaining(d->loop, &e->poll_timer) * 1000 > (double)every_ms) {
		arm(e, every_ms);
	}
}

void poll_timer_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct entry *e = w->data;
	struct daemon *d = e->daemon;
	if (!virt_events_connected(d->link) || work_lane_overdue(e->virt_lane)) {
		arm(e, FAILED_MS);
		return;
	}
	if (work_lane_busy(e->virt_lane)) { /* another call is under way: right after it is soon enough */
		arm(e, AGAIN_MS);
		return;
	}
	job_stats(e);
}

void poll_result(struct entry *e, const struct guest_stats *s)
{
	struct daemon *d = e->daemon;
	uint64_t now = now_ms(), since_ms = now - e->read_ms, period = period_ms(e), next;
	bool advanced = s->last_update_s > e->last_update_s;
	e->read_ms = now;
	e->stats_err.text[0] = '\0';
	if (advanced) {
		if (since_ms <= TIGHT_MS || !e->last_update_s)
			e->phase_reads = LOCKED_READS;
		else if (e->phase_reads)
			e->phase_reads--;
		next = e->phase_reads ? period : sub_sat_u64(period, WALK_MS);
		e->unchanged_reads = 0;
	} else {
		bool expected = e->last_update_s && ++e->unchanged_reads <= AGAIN_TRIES;
		next = expected ? AGAIN_MS : period;
	}
	e->last_update_s = s->last_update_s;
	arm(e, next);
	struct event ev = {.type = EVENT_VM_STATS, .vm = e->id, .stats = *s};
	daemon_post(d, ev); /* may arm it sooner, and may free nothing: stats never end a VM */
}

void poll_failed(struct entry *e, int code, const struct memoc_err *err)
{
	if (code != -ENOTCONN && code != -ENOENT && !e->stats_err.text[0])
		log_fields(LOG_LEVEL_INFO, &(struct log_fields){.vm = e->facts.name, .uuid = e->uuid},
			   "%s: no guest statistics: %s", e->facts.name, err->text);
	e->stats_err = *err;
	if (e->running)
		arm(e, FAILED_MS);
}

static void sample(struct entry *e, uint64_t now)
{
	struct daemon *d = e->daemon;
	struct event ev = {.type = EVENT_VM_SAMPLE, .vm = e->id};
	if (cgroup_vm_read(e->attach->cgroup, &ev.sample) < 0)
		return; /* the group is gone: the pidfd tells the rest */
	ev.sample.has_major_faults = proc_vm_major_faults(e->attach->proc, &ev.sample.major_faults) == 0;
	e->limit_seen_bytes = ev.sample.limit_bytes;
	daemon_post(d, ev);
	if (now >= e->overhead_due_ms && !work_lane_busy(e->kernel_lane)) {
		e->overhead_due_ms = now + 30000;
		job_overhead(e);
	}
}

void poll_samples(struct daemon *d)
{
	uint64_t now = now_ms();
	for (struct entry *e = d->entries; e; e = e->next) {
		if (e->in_core && e->attach)
			sample(e, now);
		/* Announced, but no process: should libvirt have given it up, its last word may have been lost. */
		if (!e->attach && now - e->checked_ms >= VERIFY_MS && virt_events_connected(d->link)) {
			e->checked_ms = now;
			job_verify(e);
		}
		const struct vm *vm = e->in_core ? core_vm(d->core, e->id) : NULL;
		if (vm && vm->state == VM_MIGRATING_OUT && !work_lane_busy(e->virt_lane))
			job_migration(e);
	}
}
