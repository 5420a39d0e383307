/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The rules of xapi's squeezed, as published in ocaml/squeezed/lib/squeeze.ml (the rules), src/squeezed.ml (interval)
 * and src/squeeze_xen.ml (memory kept free) of xen-api 24. Written anew from what the rules say; each is named where it
 * is followed. All targets divide the range between minimum and maximum in the same proportion; what guests need is not
 * asked.
 *
 * What is mapped to what:
 *   host free memory        the pool less all that VMs have, by their balloons, and less reservations of starting ones:
 *                           Xen has no pages that a guest owns and has not touched
 *   dynamic_min, _max       the VM's minimum and maximum, as memoc has them
 *   memory_actual           the balloon's size
 *   target                  what the balloon was last asked for
 *   can_balloon             the VM's balloon may be used
 *   stuck (5 s)             kept here, because it decides who takes part; any movement is progress, one page too
 *   uncooperative (20 s)    a flag for the toolstack alone: memoc tells it as the balloon's health (stalled, absent)
 *   maxmem                  Xen's hard cap has no match: only the target is set
 */
#include "controller/core/policy.h"

#include <stdio.h>

#define LOOP_MS 1000	   /* change_host_free_memory: waits a second between iterations */
#define CHECK_MS 10000	   /* squeezed.ml: balance_check_interval */
#define STUCK_MS 5000	   /* assume_balloon_driver_stuck_after */
#define KEEP_FREE_KIB 9216 /* squeeze_xen.ml: low_mem_emergency_pool 1 MiB + extra_mem_to_keep 8 MiB */
#define INACCURACY_KIB 4   /* squeeze_xen.ml: a balloon so near its target has hit it */
#define AS_KIB(bytes) ((int64_t)((bytes) / KIB))

static int64_t actual_kib(const struct vm *vm)
{
	return AS_KIB(policy_balloon_bytes(vm));
}

static uint64_t target_bytes(const struct vm *vm)
{
	return vm->balloon_asked_bytes ? vm->balloon_asked_bytes : policy_balloon_bytes(vm);
}

static int64_t min_kib(const struct vm *vm, const struct plan *p)
{
	return AS_KIB(vm_min_bytes(vm, p->config));
}

static int64_t range_kib(const struct vm *vm, const struct plan *p)
{
	return AS_KIB(vm_max_bytes(vm)) - min_kib(vm, p);
}

/* has_hit_target */
static bool hit(const struct vm *vm, uint64_t target)
{
	int64_t off = actual_kib(vm) - AS_KIB(target);
	return off <= INACCURACY_KIB && off >= -INACCURACY_KIB;
}

/* ---- Stuckness_monitor ---- */

static void watch(struct vm *vm, uint64_t now_ms, bool anew)
{
	union policy_vm *m = &vm->policy_memory;
	uint64_t actual = policy_balloon_bytes(vm), target = target_bytes(vm);
	if (anew || !m->squeezed.watched) {
		m->squeezed.watched = true;
		m->squeezed.stuck = false;
		m->squeezed.progress_ms = now_ms;
		m->squeezed.actual_bytes = actual;
	}
	uint64_t before = m->squeezed.actual_bytes;
	m->squeezed.actual_bytes = actual;
	if (hit(vm, target))
		return;
	if (target > actual ? actual > before : actual < before) {
		m->squeezed.progress_ms = now_ms;
		m->squeezed.stuck = false;
	} else if (now_ms - m->squeezed.progress_ms > STUCK_MS) {
		m->squeezed.stuck = true;
	}
}

/* ---- Proportional ---- */

/* Pool less everything that VMs have: balloons where they are (a growing VM has not yet got what it was promised). */
static int64_t free_kib(const struct plan *p)
{
	int64_t free = p->books->buffer_bytes / (int64_t)KIB;
	for (size_t i = 0; i < p->n; i++)
		free += AS_KIB(vm_committed_bytes(p->vms[i])) - AS_KIB(p->vms[i]->overhead_bytes) -
			actual_kib(p->vms[i]);
	return free;
}

/* min_freeable: what setting the target to the minimum is sure to bring. */
static int64_t min_freeable_kib(const struct vm *vm, const struct plan *p)
{
	int64_t freeable = actual_kib(vm) - min_kib(vm, p) - 2 * INACCURACY_KIB;
	return freeable > 0 ? freeable : 0;
}

/*
 * allocate_memory_in_proportion: what would be free beyond the reserve if all were at their minima is handed out as one
 * proportion of everybody's range: target = min + γ (max − min), 0 ≤ γ ≤ 1. Returns γ.
 */
static double compute_targets(struct plan *p)
{
	int64_t surplus = free_kib(p) - KEEP_FREE_KIB, total = 0;
	for (size_t i = 0; i < p->n; i++) {
		if (!p->vms[i]->policy_memory.squeezed.active)
			continue;
		surplus += min_freeable_kib(p->vms[i], p);
		total += range_kib(p->vms[i], p);
	}
	double gamma = surplus <= 0 || total <= 0 ? 0 : (double)surplus / (double)total;
	gamma = gamma > 1 ? 1 : gamma;
	for (size_t i = 0; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		int64_t kib = min_kib(vm, p) + (int64_t)(gamma * (double)range_kib(vm, p));
		vm->policy_memory.squeezed.new_bytes = (uint64_t)kib * KIB;
	}
	return gamma;
}

/* ---- Squeezer ---- */

static bool is_freeing(const struct vm *vm)
{
	uint64_t new = vm->policy_memory.squeezed.new_bytes;
	return vm->policy_memory.squeezed.active && !hit(vm, new) && new < policy_balloon_bytes(vm);
}

static void set_target(struct vm *vm, uint64_t bytes, const char *why, double gamma)
{
	if (bytes == target_bytes(vm))
		return;
	vm->plan_bytes = bytes;
	snprintf(vm->plan_reason, sizeof(vm->plan_reason), "squeezed: %s, gamma %.3f", why, gamma);
}

/*
 * A guest that stands still may not take more later: its target is cut to what it has, within its range. A page less,
 * which is within the inaccuracy: the core asks a balloon for nothing where it is already.
 */
static void cut_stuck(struct vm *vm, const struct plan *p, double gamma)
{
	uint64_t has = policy_balloon_bytes(vm);
	if (target_bytes(vm) > has)
		set_target(vm, clamp_u64(has - INACCURACY_KIB * KIB, vm_min_bytes(vm, p->config), vm_max_bytes(vm)),
			   "stuck", gamma);
}

/*
 * one_iteration: first all that free, and only when none has to free any more those that allocate. Returns whether
 * there is more to do: some balloon is not at its target, or a target has changed.
 */
static bool iterate(struct plan *p, bool anew, bool look_only)
{
	bool reached = true, changed = false, freeing = false;
	for (size_t i = 0; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		watch(vm, p->now_ms, anew);
		vm->policy_memory.squeezed.active =
			vm_balloon_allowed(vm, p->config) && !vm->policy_memory.squeezed.stuck;
		reached &= !vm->policy_memory.squeezed.active || hit(vm, target_bytes(vm));
	}
	double gamma = compute_targets(p);
	for (size_t i = 0; i < p->n; i++)
		freeing |= is_freeing(p->vms[i]);
	for (size_t i = 0; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		if (vm->policy_memory.squeezed.active && is_freeing(vm) == freeing) {
			changed |= vm->policy_memory.squeezed.new_bytes != target_bytes(vm);
			if (!look_only)
				set_target(vm, vm->policy_memory.squeezed.new_bytes, freeing ? "frees" : "allocates",
					   gamma);
		} else if (vm->policy_memory.squeezed.stuck && !look_only) {
			cut_stuck(vm, p, gamma);
		}
	}
	return look_only ? changed : !reached || changed;
}

static void squeezed_plan(struct plan *p)
{
	struct policy_host *m = p->memory;
	bool anew = !m->squeezed.balancing;
	if (anew) {
		if (m->squeezed.started && p->now_ms - m->squeezed.check_ms + LOOP_MS / 2 < CHECK_MS)
			return;
		m->squeezed.started = true;
		m->squeezed.check_ms = p->now_ms;
		if (!iterate(p, true, true)) /* is_host_memory_unbalanced */
			return;
	}
	m->squeezed.balancing = iterate(p, anew, false);
	m->squeezed.check_ms = p->now_ms;
}

const struct policy_ops policy_squeezed = {
	.name = "squeezed",
	.about = "rules of xapi's squeezed, xen-api 24, squeeze.ml",
	.plan = squeezed_plan,
	.interval_ms = LOOP_MS,
	.own_bounds = true,
	.balloon_only = true,
};
