/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes and permissions that follow from what is known of a VM. Pure functions, no effects. */
#include "controller/core/policy.h"

/*
 * Room above size and overhead for a limit that only backs up a balloon: QEMU's own memory moves (JIT cache, I/O
 * buffers), and a backstop that swaps QEMU out would be worse than none.
 */
uint64_t vm_limit_margin_bytes(const struct vm *vm)
{
	return max_u64(16 * MIB, vm->facts.max_bytes / 32);
}

bool vm_limit_backs_up(const struct vm *vm, const struct vm_ctx *x)
{
	return vm_balloon_works(vm) && !vm_by_limit_alone(vm, x);
}

uint64_t vm_limit_for(const struct vm *vm, const struct vm_ctx *x, uint64_t size_bytes)
{
	uint64_t limit = add_sat_u64(size_bytes, vm->overhead_bytes), margin = vm_limit_margin_bytes(vm);
	if (size_bytes >= vm->facts.max_bytes)
		return LIMIT_NONE;
	bool backs_up = vm_limit_backs_up(vm, x) && vm->actual_bytes <= add_sat_u64(size_bytes, margin);
	return backs_up ? add_sat_u64(limit, margin) : limit;
}

uint64_t vm_resident_guest_bytes(const struct vm *vm)
{
	return vm->has_sample && vm->sample.has_memory ? sub_sat_u64(vm->sample.resident_bytes, vm->overhead_bytes) : 0;
}

/*
 * A booting Linux guest touches a small part of its memory: half of it is held back until its first statistics, or what
 * it was seen to use if that is more. Whoever arrives by migration brings at once what its balloon left it at its
 * source; what its balloon had taken is not sent (a balloon that lies shows in what becomes resident). One that was
 * found running has what is resident: to count all it might have would make a restart an emergency for its neighbours.
 */
static uint64_t reserved_bytes(const struct vm *vm)
{
	uint64_t half = max_u64(vm->facts.max_bytes / 2, min_u64(vm->facts.policy.min_bytes, vm->facts.max_bytes));
	if (vm->origin == ORIGIN_INCOMING && !vm->booted)
		return vm->carried_bytes ? vm->carried_bytes : vm->facts.max_bytes;
	if (vm->origin != ORIGIN_ADOPT)
		return half;
	bool sampled = vm->has_sample && vm->sample.has_memory;
	return min_u64(vm_size_bytes(vm), sampled ? vm_resident_guest_bytes(vm) : half);
}

static uint64_t granted_guest_bytes(const struct vm *vm)
{
	switch (vm->state) {
	case VM_STARTING:
	case VM_REBOOTING:
	case VM_MIGRATING_IN:
		return reserved_bytes(vm);
	case VM_STEADY:
	case VM_PAUSED:
		return vm->booted ? vm_size_bytes(vm) : reserved_bytes(vm);
	case VM_FIXED:
		return vm->facts.max_bytes;
	case VM_GROWING_LIMIT:
	case VM_GROWING_BALLOON:
		return max_u64(vm_size_bytes(vm), vm->target_bytes);
	default:
		return vm_size_bytes(vm);
	}
}

uint64_t vm_committed_bytes(const struct vm *vm)
{
	uint64_t committed = add_sat_u64(granted_guest_bytes(vm), vm->overhead_bytes);
	return vm->has_sample && vm->sample.has_memory ? max_u64(committed, vm->sample.resident_bytes) : committed;
}

bool vm_balloon_allowed(const struct vm *vm, const struct core_config *c)
{
	return vm->facts.has_balloon && c->balloon_enabled && vm->facts.policy.balloon && !vm->quarantined;
}

const char *vm_limit_forbidden_why(const struct vm *vm, const struct vm_ctx *x)
{
	if (x->config->policy->balloon_only)
		return "the policy in use knows balloons only ([policy] name)";
	if (!x->config->swap_enabled)
		return "hypervisor swap is switched off ([swap] enabled)";
	if (!vm->facts.policy.swap)
		return "the VM's policy says swap=no";
	if (!x->host->has_memory || x->host->swap_total_bytes == 0)
		return "the host has no swap: a limit would get QEMU killed";
	if (x->swap_low)
		return "host swap is nearly full ([swap] keep_free)";
	if (vm->double_swap || x->now_ms < vm->double_swap_until_ms)
		return "guest and host were swapping it at once";
	return NULL;
}

bool vm_limit_allowed(const struct vm *vm, const struct vm_ctx *x)
{
	return vm_limit_forbidden_why(vm, x) == NULL;
}

bool vm_limit_alone_works(const struct vm *vm, const struct vm_ctx *x)
{
	bool tried = vm->health == BALLOON_WORKING || vm->health == BALLOON_SLOW || vm->health == BALLOON_STALLED;
	bool heard = vm->distrusted || vm_stats_recent(vm, x->config, x->now_ms);
	bool has_driver = tried || (vm->health == BALLOON_UNKNOWN && heard);
	return has_driver && !vm->pinned_bytes && !x->config->policy->own_bounds && vm_limit_allowed(vm, x);
}

bool vm_by_limit_alone(const struct vm *vm, const struct vm_ctx *x)
{
	return (vm->silent || vm->distrusted || vm->by_limit) && vm_limit_alone_works(vm, x);
}

bool vm_balloon_usable(const struct vm *vm, const struct vm_ctx *x)
{
	return vm_balloon_allowed(vm, x->config) && !vm_by_limit_alone(vm, x);
}

/*
 * A limit cannot be lowered without knowing residency, nor soon after the last try came to nothing. A stalled balloon
 * gives nothing below its floor until it is due again.
 */
uint64_t vm_shrink_floor_bytes(const struct vm *vm, const struct vm_ctx *x)
{
	bool sampled = vm->has_sample && vm->sample.has_memory;
	if (vm_limit_allowed(vm, x) && sampled && x->now_ms >= vm->limit_hold_ms)
		return 0;
	if (!vm_balloon_usable(vm, x) || vm->health == BALLOON_ABSENT || vm->health == BALLOON_INHIBITED)
		return UINT64_MAX;
	return vm->health == BALLOON_STALLED && x->now_ms < vm->retry_at_ms ? vm->floor_bytes : 0;
}

bool vm_plannable(const struct vm *vm, const struct vm_ctx *x)
{
	if (vm->held || vm->drained || x->hold_all)
		return false;
	switch (vm->state) {
	case VM_STEADY:
	case VM_SHRINKING_BALLOON:
	case VM_SHRINKING_LIMIT:
	case VM_GROWING_LIMIT:
	case VM_GROWING_BALLOON:
		return true;
	default:
		return false;
	}
}

uint64_t vm_spare_bytes(const struct vm *vm, const struct vm_ctx *x, const char **ret_why)
{
	uint64_t size = vm_size_bytes(vm), need = max_u64(vm->need_bytes, vm_min_bytes(vm, x->config));
	const char *why = NULL;
	if (x->config->observe)
		why = "memocd only observes";
	else if (!vm_plannable(vm, x))
		why = vm->state == VM_FIXED ? "it is not eligible" : "it is held, paused, booting or migrating already";
	else if (!vm_balloon_usable(vm, x))
		why = "its balloon may not be used";
	else if (vm->health == BALLOON_ABSENT || vm->health == BALLOON_INHIBITED || vm->health == BALLOON_STALLED)
		why = "its balloon does not work";
	else if (!vm_stats_fresh(vm, x->config, x->now_ms) || vm->demand_confidence <= 0)
		why = "its guest does not tell what it uses";
	else if (vm->needy)
		why = "it is short of memory itself";
	else if (size < add_sat_u64(need, vm_dead_band_bytes(vm, x->config)))
		why = "it has hardly more than it needs";
	if (ret_why)
		*ret_why = why;
	return why ? 0 : size - need;
}
