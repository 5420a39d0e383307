/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The rules of oVirt's Memory Overcommitment Manager, as published in doc/balloon.rules of MOM 0.6.5 (the rules), its
 * doc/mom-balloon.conf (intervals, length of history), mom/Monitor.py and mom/Entity.py (averages, incomplete data).
 * Written anew from what the rules say; each is named where it is followed.
 *
 * What is mapped to what:
 *   Host.mem_available, mem_free   the pool, and what of it is not resident (policy_host_free_bytes())
 *   guest.balloon_cur, balloon_max the balloon's size, the VM's maximum
 *   guest.balloon_min              the minimum of the VM's own policy, 0 where it has none: libvirt's min_guarantee
 *   guest.mem_unused               MemFree of the guest, as last told, however old it is
 * A share of "host free" is always of host.mem_available.
 */
#include "controller/core/policy.h"

#include <stdio.h>

#define COLLECT_MS 5000 /* mom-balloon.conf: host-monitor-interval, guest-monitor-interval */
#define DECIDE_MS 10000 /* mom-balloon.conf: policy-engine-interval */

/* balloon.rules, constants */
#define PRESSURE_THRESHOLD 0.20
#define PRESSURE_CRITICAL 0.05
#define MIN_GUEST_FREE 0.20
#define MAX_CHANGE 0.05
#define MIN_CHANGE 0.0025

/* Entity.StatAvg(): the mean of all samples that are kept. */
static double average(const uint64_t *samples, uint64_t n)
{
	double sum = 0;
	for (uint64_t i = 0; i < n; i++)
		sum += (double)samples[i];
	return n ? sum / (double)n : 0;
}

static void collect_host(struct plan *p)
{
	p->memory->mom.free_bytes[p->memory->mom.next] = policy_host_free_bytes(p);
	p->memory->mom.next = (p->memory->mom.next + 1) % POLICY_SAMPLES;
	if (p->memory->mom.n < POLICY_SAMPLES)
		p->memory->mom.n++;
}

/* Monitor.collect(): a sample that lacks a field is not kept, and the guest is out of the rules until the next. */
static void collect_guest(struct vm *vm, const struct core_config *c)
{
	const struct guest_stats *s = &vm->stats;
	union policy_vm *m = &vm->policy_memory;
	m->mom.ready = vm_balloon_allowed(vm, c) && vm->has_stats && s->has_unused && s->has_available;
	if (!m->mom.ready)
		return;
	m->mom.balloon_bytes[m->mom.next] = policy_balloon_bytes(vm);
	m->mom.unused_bytes[m->mom.next] = s->unused_bytes;
	m->mom.next = (m->mom.next + 1) % POLICY_SAMPLES;
	if (m->mom.n < POLICY_SAMPLES)
		m->mom.n++;
}

/* guest.balloon_cur is of the latest sample, not of now. */
static double balloon_cur(const struct vm *vm)
{
	return (double)
		vm->policy_memory.mom.balloon_bytes[(vm->policy_memory.mom.next + POLICY_SAMPLES - 1) % POLICY_SAMPLES];
}

/* guest_used_mem of both rules: average balloon less average unused memory. */
static double used_mem(const struct vm *vm)
{
	return average(vm->policy_memory.mom.balloon_bytes, vm->policy_memory.mom.n) -
	       average(vm->policy_memory.mom.unused_bytes, vm->policy_memory.mom.n);
}

/* balloon_min of both rules: never less than the guest uses and a share that is left free. */
static double least_size(const struct vm *vm, double guest_free)
{
	double least = used_mem(vm) + guest_free * balloon_cur(vm), given = (double)vm->facts.policy.min_bytes;
	return least > given ? least : given;
}

/* change_big_enough: smaller changes are not worth the overhead. */
static bool big_enough(const struct vm *vm, double size)
{
	double cur = balloon_cur(vm), change = size > cur ? size - cur : cur - size;
	return change > MIN_CHANGE * cur;
}

/* Controllers/Balloon.py: the target goes out in whole kB. */
static void set_target(struct vm *vm, double size, double host_free, const char *rule)
{
	vm->plan_bytes = size > 0 ? (uint64_t)size / KIB * KIB : 0;
	snprintf(vm->plan_reason, sizeof(vm->plan_reason), "mom: %s, host %.1f %% free, guest uses %.0f MiB", rule,
		 host_free * 100, used_mem(vm) / (double)MIB);
}

/*
 * shrink_guest: by at most 5 %, and not below what it uses and a share that falls with the host's own, from 20 % at the
 * threshold; in a critical host it is the host's less 5 %, which is negative: the guest is to swap.
 */
static void shrink_guest(struct vm *vm, double host_free)
{
	bool critical = host_free <= PRESSURE_CRITICAL;
	double guest_free = critical ? host_free - 0.05 : MIN_GUEST_FREE * (host_free / PRESSURE_THRESHOLD);
	double cur = balloon_cur(vm), size = cur * (1 - MAX_CHANGE), least = least_size(vm, guest_free);
	if (size < least)
		size = least;
	if (size <= cur && big_enough(vm, size))
		set_target(vm, size, host_free, critical ? "critical pressure" : "pressure");
}

/* grow_guest: by 5 %, or at once to what it uses and 20 % free where that is more. */
static void grow_guest(struct vm *vm, double host_free)
{
	double cur = balloon_cur(vm), max = (double)vm_max_bytes(vm), least = least_size(vm, MIN_GUEST_FREE);
	if (cur >= max)
		return;
	double size = cur * (1 + MAX_CHANGE);
	if (size < least)
		size = least;
	if (size > max)
		size = max;
	if (big_enough(vm, size))
		set_target(vm, size, host_free, "no pressure");
}

static void mom_plan(struct plan *p)
{
	struct policy_host *m = p->memory;
	collect_host(p);
	for (size_t i = 0; i < p->n; i++)
		collect_guest(p->vms[i], p->config);
	if (!m->mom.started) { /* PolicyEngine.run(): sleeps first */
		m->mom.started = true;
		m->mom.decide_ms = p->now_ms;
	}
	if (p->now_ms - m->mom.decide_ms + COLLECT_MS / 2 < DECIDE_MS || !p->books->pool_bytes)
		return;
	m->mom.decide_ms = p->now_ms;
	double host_free = average(m->mom.free_bytes, m->mom.n) / (double)p->books->pool_bytes;
	for (size_t i = 0; i < p->n; i++) {
		if (!p->vms[i]->policy_memory.mom.ready)
			continue;
		if (host_free < PRESSURE_THRESHOLD)
			shrink_guest(p->vms[i], host_free);
		else
			grow_guest(p->vms[i], host_free);
	}
}

const struct policy_ops policy_mom = {
	.name = "mom",
	.about = "rules of oVirt MOM 0.6.5, balloon.rules",
	.plan = mom_plan,
	.interval_ms = COLLECT_MS,
	.own_bounds = true,
	.balloon_only = true,
};
