/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * No overcommitment at run time, to compare with: every VM has its fair share of the pool and keeps it, whatever it
 * does with it. All maxima are scaled by one factor s ≤ 1 so that their sum fits the pool, and no VM gets less than its
 * minimum: share = clamp(s × max, min, max). Shares change only when VMs come and go. The whole pool is shared out: a
 * partition needs no buffer.
 */
#include "controller/core/policy.h"

#include <stdio.h>

/* Who boots, is paused or migrates has its share too, though nothing is asked of it now. Others keep what they have. */
static bool has_share(const struct vm *vm)
{
	return vm->state != VM_FIXED && vm->state != VM_STOPPING && !vm->held && !vm->drained && !vm->pinned_bytes;
}

/* What all that have a share may have together: the pool without the others and without QEMU's own memory. */
static uint64_t to_share_bytes(const struct plan *p)
{
	uint64_t taken = 0;
	for (size_t i = 0; i < p->all_n; i++) {
		const struct vm *vm = p->all[i];
		taken = add_sat_u64(taken, has_share(vm) ? vm->overhead_bytes : vm_committed_bytes(vm));
	}
	return sub_sat_u64(p->books->pool_bytes, taken);
}

/*
 * The factor s: whoever would fall below its minimum gets that, and the others share what is left. Each pass finds at
 * least one more of them or ends, and a VM once at its minimum stays there, because s only falls.
 */
static double fair_factor(const struct plan *p, uint64_t share)
{
	double s = 1;
	for (size_t pass = 0; pass <= p->all_n; pass++) {
		double left = (double)share, sum = 0;
		for (size_t i = 0; i < p->all_n; i++) {
			const struct vm *vm = p->all[i];
			if (!has_share(vm))
				continue;
			double min = (double)vm_min_bytes(vm, p->config), max = (double)vm_max_bytes(vm);
			if (max * s <= min)
				left -= min;
			else
				sum += max;
		}
		double next = sum <= 0 || left <= 0 ? 0 : left / sum;
		if (next >= s)
			break;
		s = next;
	}
	return s;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

static void static_plan(struct plan *p)
{
	double s = fair_factor(p, to_share_bytes(p));
	uint64_t available = books_available(p->books, p->config, p->host);
	for (size_t i = 0; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		uint64_t max = vm_max_bytes(vm), min = vm_min_bytes(vm, p->config);
		uint64_t want = clamp_u64(share_of(max, s), min, max);
		/* Overheads are measured now and then and move a little: that is no reason to move VMs. */
		if (distance(want, vm->plan_bytes) < vm_dead_band_bytes(vm, p->config))
			continue;
		/* A newcomer's share is given as fast as the others give theirs back. */
		if (want > vm->plan_bytes) {
			want = min_u64(want, add_sat_u64(vm->plan_bytes, available));
			available -= want - vm->plan_bytes;
		}
		vm->plan_bytes = want;
		snprintf(vm->plan_reason, sizeof(vm->plan_reason), "static share: %.1f %% of its maximum",
			 (double)want * 100 / (double)max);
	}
}

const struct policy_ops policy_static = {
	.name = "static",
	.about = "every VM keeps its fair share of the pool",
	.plan = static_plan,
	.own_bounds = true,
};
