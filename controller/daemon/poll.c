/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When to read what. Guest statistics come once a period, at a moment that QEMU chose; reading just after that moment
 * costs one read a period and sees every change at once, so each VM's timer is locked to the phase of its own
 * statistics. A busy guest answers late, and its next statistics then come late too: a phase that was lost is looked
 * for with many reads at once, because half a period of age is half a second of reaction.
 */
#include "controller/daemon/daemon.h"

#include <errno.h>

#define TIGHT_MS 150	/* an update seen within this of the read before was caught right after it came */
#define WALK_MS 120	/* a phase that was believed long enough is looked for this much earlier */
#define LOCKED_READS 30 /* a phase once caught is believed for so many reads: they drift later by some ms each */
#define AGAIN_MS                                                                                                       \
	75 /* a read that came too early is repeated after this, and so is one that came at an unknown moment */
#define AGAIN_TRIES 40 /* three periods; then the guest is silent: back to one read an interval */
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
	d->wakeups[WAKEUP_STATISTICS]++;
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

/* ---- residency between two ticks ---- */

/*
 * A spike takes a guest's usable memory away within a fraction of a second, and its own statistics come a second later,
 * or several where its processors are busy. So the cgroups of those VMs that can grow into memory they have are looked
 * at more often: one small read each, and only where much was added the core hears of it. No such VM, no timer.
 */
#define WATCH_MS 100
#define SURGE_BYTES (4 * MIB) /* what the core is told of */

static bool watched(struct entry *e)
{
	const struct vm *vm = e->in_core && e->attach ? core_vm(e->daemon->core, e->id) : NULL;
	return vm && core_watch_residency(e->daemon->core, vm);
}

static void start_watch(struct daemon *d)
{
	if (ev_is_active(&d->watch_timer))
		return;
	ev_timer_set(&d->watch_timer, WATCH_MS / 1000., 0.);
	ev_timer_start(d->loop, &d->watch_timer);
}

static void residency(struct entry *e)
{
	struct event ev = {.type = EVENT_VM_RESIDENCY, .vm = e->id};
	if (cgroup_vm_usage(e->attach->cgroup, &e->usage_seen_bytes) == 0 &&
	    cgroup_vm_read(e->attach->cgroup, &ev.sample) == 0)
		daemon_post(e->daemon, ev);
}

void poll_watch_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct daemon *d = w->data;
	bool any = false;
	d->wakeups[WAKEUP_RESIDENCY]++;
	for (struct entry *e = d->entries; e; e = e->next) {
		uint64_t usage;
		if (!watched(e))
			continue;
		any = true;
		if (cgroup_vm_usage(e->attach->cgroup, &usage) < 0)
			continue; /* the group is gone: the pidfd tells the rest */
		if (usage >= add_sat_u64(e->usage_seen_bytes, SURGE_BYTES))
			residency(e);
		else
			e->usage_seen_bytes = min_u64(e->usage_seen_bytes, usage);
	}
	ev_timer_stop(loop, w);
	if (any)
		start_watch(d);
}

/* ---- guest statistics ---- */

void poll_result(struct entry *e, const struct guest_stats *s)
{
	struct daemon *d = e->daemon;
	uint64_t now = now_ms(), since_ms = now - e->read_ms, period = period_ms(e), next;
	bool advanced = s->last_update_s > e->last_update_s;
	e->read_ms = now;
	e->stats_err.text[0] = '\0';
	bool caught = since_ms <= TIGHT_MS || !e->last_update_s;
	if (advanced) {
		/* Waited for a period and there it is: as predicted, unless it had been late before. */
		bool predicted = e->phase_reads && !e->unchanged_reads;
		e->phase_reads = caught ? LOCKED_READS : predicted ? e->phase_reads - 1 : 0;
		next = e->phase_reads ? period : predicted ? sub_sat_u64(period, WALK_MS) : AGAIN_MS;
		e->unchanged_reads = 0;
	} else {
		bool expected = e->last_update_s && ++e->unchanged_reads <= AGAIN_TRIES;
		next = expected ? AGAIN_MS : period;
	}
	e->last_update_s = s->last_update_s;
	arm(e, next);
	bool looked = advanced && watched(e);
	if (looked) /* what is resident now is what they say is used: a surge counts from here */
		residency(e);
	struct event ev = {.type = EVENT_VM_STATS, .vm = e->id, .stats = *s};
	daemon_post(d, ev); /* may arm it sooner, and may free nothing: stats never end a VM */
	if (!advanced || !watched(e))
		return;
	if (!looked) /* they have just made it one that is watched */
		residency(e);
	start_watch(d);
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
	bool watch = false;
	for (struct entry *e = d->entries; e; e = e->next) {
		if (e->in_core && e->attach)
			sample(e, now);
		/* Announced, but no process: should libvirt have given it up, its last word may have been lost. */
		if (!e->attach && now - e->checked_ms >= VERIFY_MS && virt_events_connected(d->link)) {
			e->checked_ms = now;
			job_verify(e);
		}
		if (now >= e->inspect_again_ms && virt_events_connected(d->link) && !work_lane_busy(e->virt_lane))
			job_inspect(e);
		const struct vm *vm = e->in_core ? core_vm(d->core, e->id) : NULL;
		if (vm && vm->state == VM_MIGRATING_OUT && !work_lane_busy(e->virt_lane))
			job_migration(e);
		watch |= watched(e);
	}
	if (now >= d->list_again_ms && virt_events_connected(d->link))
		job_list(d);
	if (watch)
		start_watch(d);
}
