/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/core/rest.h"

/* Nothing is on its way: no request, no operation, no need, no surge, no doubt about the balloon. */
static bool settled(const struct vm *vm)
{
	bool reopens = vm->limit_ours && vm->limit_asked_bytes == LIMIT_NONE && vm->limit_bytes != LIMIT_NONE;
	return vm->state == VM_STEADY && !vm->needy && vm->op_ms == NEVER_MS && !vm->balloon_pending &&
	       !vm->limit_pending && !reopens && !vm->advice_limit_bytes && vm->surge_bytes == 0 &&
	       vm_balloon_works(vm) && !vm->double_swap && vm->double_swap_signs == 0 && vm->faulting_ms == NEVER_MS &&
	       vm->limit_known && !vm->silent && !vm->distrusted && !vm->by_limit && vm->silent_from_ms == vm->asked_ms;
}

/* What was seen last is from after the last change: rules that wait for such a look have had it. */
static bool seen_since(const struct vm *vm)
{
	return vm->has_sample && vm->sample.has_memory && vm->sample_ms > vm->limit_result_ms &&
	       vm->sample_ms > vm->actual_change_ms && vm->stats_ms > vm->actual_change_ms;
}

uint64_t vm_rest_until_ms(const struct vm *vm, const struct vm_ctx *x)
{
	if (!settled(vm) || !seen_since(vm) || x->now_ms < vm->host_floor_until_ms ||
	    x->now_ms < vm->double_swap_until_ms || !vm_stats_fresh(vm, x->config, x->now_ms))
		return 0;
	/* What it touched raises its demand for as long as that is believed. */
	return vm->wss_underclaims ? min_u64(vm->deadline_ms, vm_wss_until_ms(vm)) : vm->deadline_ms;
}

bool vm_falls(const struct vm *vm, uint64_t now_ms)
{
	uint64_t falling = sub_sat_u64(vm->demand_bytes, vm->used_bytes);
	return falling >= DEMAND_DECAY_MS || falling * (now_ms - vm->estimate_ms) >= DEMAND_DECAY_MS;
}

bool vm_same_stats(const struct vm *vm, const struct guest_stats *s, uint64_t now_ms)
{
	const struct guest_stats *o = &vm->stats;
	bool same = s->has_actual == o->has_actual && s->has_usable == o->has_usable &&
		    s->has_unused == o->has_unused && s->has_available == o->has_available &&
		    s->has_swap == o->has_swap && s->usable_bytes == o->usable_bytes &&
		    s->unused_bytes == o->unused_bytes && s->available_bytes == o->available_bytes &&
		    s->swap_in_bytes == o->swap_in_bytes && s->swap_out_bytes == o->swap_out_bytes;
	bool rates = vm->has_guest_rates == (s->has_swap && vm->rate_stats_ms) && vm->guest_swap_in_per_s == 0 &&
		     vm->guest_swap_out_per_s == 0 && vm->guest_swap_delta_bytes == 0;
	return same && rates && s->last_update_s > o->last_update_s && vm->rate_stats_ms < now_ms && vm->actual_seen &&
	       (!s->has_actual || s->actual_bytes == vm->actual_bytes) &&
	       vm_hidden_bytes(vm, now_ms) == vm->hidden_bytes && vm_total_shrinks(vm, now_ms) == vm->total_shrinks;
}

/* Nothing was counted for so long that its rates are known and nothing, and stay so. */
static bool same_counters(const struct vm *vm, const struct vm_host_sample *s)
{
	const struct host_counters *from = &vm->counters_from, *next = &vm->counters_next;
	return vm->has_lasting_faults && s->has_major_faults && vm->has_refault_rate == s->has_refaults &&
	       vm->has_stall == s->has_psi && s->major_faults == from->major_faults &&
	       s->major_faults == next->major_faults &&
	       (!s->has_refaults || (s->refaults == from->refaults && s->refaults == next->refaults)) &&
	       (!s->has_psi || (s->psi_some_us == from->psi_some_us && s->psi_some_us == next->psi_some_us)) &&
	       vm->lasting_faults_per_s == 0 && vm->host_refaults_per_s == 0 && vm->stall_share == 0;
}

bool vm_same_sample(const struct vm *vm, const struct vm_host_sample *s, uint64_t now_ms)
{
	const struct vm_host_sample *o = &vm->sample;
	bool same = s->has_memory == o->has_memory && s->resident_bytes == o->resident_bytes &&
		    s->swapped_bytes == o->swapped_bytes && s->limit_bytes == o->limit_bytes &&
		    s->under_oom == o->under_oom && s->major_faults == o->major_faults && !s->has_overhead;
	bool rates = vm->has_host_rates && vm->host_faults_per_s == 0 && vm->host_faults_before_per_s == 0;
	return same && rates && same_counters(vm, s) && now_ms - vm->sample_ms >= SAMPLE_APART_MS;
}

void vm_note_stats(struct vm *vm, const struct guest_stats *s, uint64_t now_ms)
{
	if (s->has_actual)
		vm->actual_ms = now_ms;
	vm->rate_stats_ms = vm->stats_ms = vm->asked_ms = vm->silent_from_ms = now_ms;
	vm->stats_advances++;
	vm->stats = *s;
	vm_note_stats_size(vm);
	vm_surge_begins(vm, now_ms);
}

void vm_note_sample(struct vm *vm, const struct vm_host_sample *s, uint64_t now_ms)
{
	vm->sample = *s;
	vm->sample_ms = now_ms;
	vm_counters_stand(vm, now_ms);
	vm_note_surge(vm, now_ms);
}
