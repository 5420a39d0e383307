/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The rules of Proxmox VE 9: PVE/AutoBalloon.pm, compute_alg1(), as pvestatd's auto_balloning() calls it. Written anew
 * from what the rules say; each is named where it is followed. Its oddities are kept: they are what is compared.
 *
 * What is mapped to what:
 *   host memtotal, memused   the pool, and what of it is resident (policy_host_free_bytes())
 *   balloon, maxmem          the balloon's size, the VM's maximum
 *   balloon_min              the VM's minimum, as memoc has it (Proxmox leaves VMs without one alone)
 *   shares                   ten times the weight: 1000 where nothing is said
 *   freemem                  MemFree of the guest, as last told; a guest that does not tell it is under pressure
 *   lock "migrate"           a VM that migrates is not shown to policies
 */
#include "controller/core/policy.h"

#include <stdio.h>

#define ROUND_MS 10000			  /* pvestatd: $updatetime */
#define HOST_TARGET 0.8			  /* auto_balloning(): share of the host that is to be in use */
#define MAX_CHANGE ((int64_t)(100 * MIB)) /* auto_balloning(): $maxchange, of a VM in a round */
#define DEAD_BAND ((int64_t)(10 * MIB))	  /* compute_alg1(): a goal within it is no reason to do anything */
#define SHARES_OF_WEIGHT 10		  /* shares 1000 are weight 100 */

enum pve_list {
	LIST_NONE,
	LIST_PRESSURE, /* $idlist1 */
	LIST_FREE      /* $idlist2 */
};

static int64_t min_of(const struct vm *vm, const struct plan *p)
{
	return (int64_t)vm_min_bytes(vm, p->config);
}

static int64_t shares_of(const struct vm *vm)
{
	return (int64_t)vm->facts.policy.weight * SHARES_OF_WEIGHT;
}

static int64_t balloon_of(const struct vm *vm)
{
	return (int64_t)policy_balloon_bytes(vm);
}

/* Its size in this round so far: what was decided, or what it has. */
static int64_t size_of(const struct vm *vm)
{
	uint64_t new = vm->policy_memory.pve.new_bytes;
	return new ? (int64_t) new : balloon_of(vm);
}

/* Has enough free: over a quarter of its minimum (of its minimum, not of its size), and not below that minimum. */
static unsigned list_of(const struct vm *vm, const struct plan *p)
{
	if (!vm_balloon_allowed(vm, p->config) || min_of(vm, p) == 0)
		return LIST_NONE;
	double unused = vm->has_stats && vm->stats.has_unused ? (double)vm->stats.unused_bytes : 0;
	return unused > (double)min_of(vm, p) * 0.25 && balloon_of(vm) >= min_of(vm, p) ? LIST_FREE : LIST_PRESSURE;
}

/* Whether it takes part in this pass over `list` (LIST_NONE: over all that are in any). */
static bool takes_part(const struct vm *vm, unsigned list)
{
	unsigned its = vm->policy_memory.pve.list;
	return its != LIST_NONE && (list == LIST_NONE || its == list) && !vm->policy_memory.pve.done;
}

struct pass {
	int64_t alloc_bytes; /* above the minima, with the change wanted */
	int64_t shares;
	int64_t changed_bytes; /* by this pass */
	bool progress, repeat;
};

/*
 * One VM of a pass. Its share of everything above the minima is what it should have: one that has more is shrunk also
 * where memory is to be given out, one that has less is not grown where it is to be taken.
 */
static void change_one(struct vm *vm, const struct plan *p, int64_t goal_bytes, struct pass *pass)
{
	int64_t min = min_of(vm, p), max = (int64_t)vm_max_bytes(vm), balloon = balloon_of(vm), size = size_of(vm), new;
	int64_t desired = min + (int64_t)((double)pass->alloc_bytes / (double)pass->shares * (double)shares_of(vm));
	pass->repeat |= desired > max || desired < min;
	desired = desired > max ? max : desired < min ? min : desired;
	if (goal_bytes > 0 && desired > balloon) {
		new = desired < balloon + MAX_CHANGE ? desired : balloon + MAX_CHANGE;
	} else if (desired < balloon) {
		new = desired > balloon - MAX_CHANGE ? desired : balloon - MAX_CHANGE;
	} else {
		vm->policy_memory.pve.done = true;
		return;
	}
	vm->policy_memory.pve.new_bytes = (uint64_t) new;
	if (new == size)
		return;
	pass->changed_bytes += new - size;
	pass->progress = pass->repeat = true;
}

/* $change_func: passes over a list until the change is made or nothing moves any more. Returns what is left of it. */
static int64_t change_list(struct plan *p, unsigned list, int64_t goal_bytes)
{
	int64_t rest = goal_bytes;
	for (size_t i = 0; i < p->n; i++)
		p->vms[i]->policy_memory.pve.done = false;
	struct pass pass = {.progress = true, .repeat = true};
	/* A pass without a change ends it, and a change only follows from a VM leaving: the bound is never met. */
	for (size_t turn = 0; rest && pass.progress && pass.repeat && turn < 4 * p->n + 8; turn++) {
		pass = (struct pass){.alloc_bytes = rest};
		for (size_t i = 0; i < p->n; i++) {
			if (!takes_part(p->vms[i], list))
				continue;
			pass.alloc_bytes += size_of(p->vms[i]) - min_of(p->vms[i], p);
			pass.shares += shares_of(p->vms[i]);
		}
		for (size_t i = 0; i < p->n; i++)
			if (takes_part(p->vms[i], list))
				change_one(p->vms[i], p, goal_bytes, &pass);
		rest -= pass.changed_bytes;
	}
	return rest;
}

static void pve_plan(struct plan *p)
{
	double total = (double)p->books->pool_bytes, used = total - (double)policy_host_free_bytes(p);
	int64_t goal = (int64_t)(total * HOST_TARGET - used);
	for (size_t i = 0; i < p->n; i++) {
		p->vms[i]->policy_memory.pve.new_bytes = 0;
		p->vms[i]->policy_memory.pve.list = list_of(p->vms[i], p);
	}
	/* The list that should come first, and all where nothing was moved there. */
	bool grow = goal > DEAD_BAND && change_list(p, LIST_PRESSURE, goal) >= goal;
	bool shrink = goal < -DEAD_BAND && change_list(p, LIST_FREE, goal) <= goal;
	if (grow || shrink)
		change_list(p, LIST_NONE, goal);
	for (size_t i = 0; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		uint64_t new = vm->policy_memory.pve.new_bytes;
		if (!new || new == policy_balloon_bytes(vm))
			continue;
		vm->plan_bytes = new;
		snprintf(vm->plan_reason, sizeof(vm->plan_reason), "pve: host goal %+.0f MiB, %s",
			 (double)goal / (double)MIB,
			 vm->policy_memory.pve.list == LIST_FREE ? "has enough free" : "is under pressure");
	}
}

const struct policy_ops policy_pve = {
	.name = "pve",
	.about = "rules of Proxmox VE 9, AutoBalloon.pm",
	.plan = pve_plan,
	.interval_ms = ROUND_MS,
	.own_bounds = true,
	.balloon_only = true,
};
