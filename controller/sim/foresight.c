/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/sim/foresight.h"
#include "controller/sim/host.h"

#include <stdio.h>
#include <string.h>

static const struct host *host_of(const struct plan *p)
{
	return p->config->policy_data;
}

/* Guaranteed minimums bind those who know, too. */
static uint64_t true_demand(const struct plan *p, const struct vm *vm)
{
	const struct guest *g = &host_of(p)->guests[vm->id - 1];
	return max_u64(g->demand_bytes, g->min_bytes);
}

/* As exactly as its statistics can tell by now. */
static uint64_t told_demand(const struct plan *p, const struct vm *vm)
{
	const struct guest *g = &host_of(p)->guests[vm->id - 1];
	return max_u64(g->told_bytes, g->min_bytes);
}

/* What it has, or is on its way to. */
static uint64_t coming(const struct vm *vm)
{
	return vm->state == VM_STEADY ? vm_size_bytes(vm) : vm->target_bytes;
}

/* What it counts for now: a shrink frees nothing before it is done. */
static uint64_t booked(const struct vm *vm)
{
	return max_u64(vm_size_bytes(vm), coming(vm));
}

static void plan_size(const struct plan *p, struct vm *vm, uint64_t bytes, const char *why)
{
	vm->plan_bytes = min_u64(bytes, vm_max_bytes(vm));
	vm->plan_urgent = bytes < coming(vm) && p->books->level >= LEVEL_HARD;
	snprintf(vm->plan_reason, sizeof(vm->plan_reason), "%s", why);
}

/* Memory that may be given now. */
static uint64_t free_now(const struct plan *p)
{
	uint64_t used = 0;
	for (size_t i = 0; i < p->n; i++)
		used += max_u64(booked(p->vms[i]), host_of(p)->guests[p->vms[i]->id - 1].resident_bytes);
	return sub_sat_u64(p->books->pool_bytes, used);
}

/* ---- ideal: reacts to true demand, with the same tick and buffer as memoc ---- */

typedef uint64_t wish_fn(const struct plan *p, const struct vm *vm);

static const struct policy_ops policy_ideal_headroom, policy_ideal_told;

static uint64_t known_demand(const struct plan *p, const struct vm *vm)
{
	return p->config->policy == &policy_ideal_told ? told_demand(p, vm) : true_demand(p, vm);
}

/* What is left to everybody: nothing, or what memoc leaves to those who are not in need. */
static uint64_t wanted(const struct plan *p, const struct vm *vm)
{
	bool headroom = p->config->policy == &policy_ideal_headroom;
	uint64_t want = add_sat_u64(known_demand(p, vm), headroom ? vm_least_headroom_bytes(vm) : 0);
	return min_u64(want, vm_max_bytes(vm));
}

/* Everybody who lacks gets what he lacks, in proportion where there is not enough. Returns what is still lacking. */
static uint64_t ideal_give(struct plan *p, wish_fn *wish, uint64_t *available)
{
	uint64_t lack = 0;
	for (size_t i = 0; i < p->n; i++)
		lack += sub_sat_u64(wish(p, p->vms[i]), p->vms[i]->plan_bytes);
	uint64_t give = min_u64(lack, *available);
	*available -= give;
	for (size_t i = 0; give && i < p->n; i++) {
		struct vm *vm = p->vms[i];
		uint64_t lacks = sub_sat_u64(wish(p, vm), vm->plan_bytes);
		if (lacks)
			plan_size(p, vm, vm->plan_bytes + mul_div_u64(lacks, give, lack), "it wants more than it has");
	}
	return lack - give;
}

/* What the buffer and those who lack need comes from all, in proportion to what they have and do not want. */
static void ideal_take(struct plan *p, uint64_t lacking)
{
	uint64_t after = 0, spare = 0;
	for (size_t i = 0; i < p->n; i++) {
		const struct vm *vm = p->vms[i];
		after += vm->plan_bytes;
		spare += sub_sat_u64(vm->plan_bytes, wanted(p, vm));
	}
	uint64_t most = add_sat_u64(after, add_sat_u64(p->books->buffer_target_bytes, lacking));
	uint64_t take = min_u64(sub_sat_u64(most, p->books->pool_bytes), spare);
	for (size_t i = 0; take && i < p->n; i++) {
		struct vm *vm = p->vms[i];
		uint64_t share = mul_div_u64(sub_sat_u64(vm->plan_bytes, wanted(p, vm)), take, spare);
		if (share)
			plan_size(p, vm, vm->plan_bytes - share, "the buffer wants what it does not");
	}
}

static void ideal_plan(struct plan *p)
{
	for (size_t i = 0; i < p->n; i++)
		p->vms[i]->plan_bytes = coming(p->vms[i]);
	uint64_t available = free_now(p), lacking = ideal_give(p, known_demand, &available);
	lacking = add_sat_u64(lacking, lacking ? 0 : ideal_give(p, wanted, &available));
	ideal_take(p, lacking);
	p->books->unmet_bytes = lacking;
}

/* ---- oracle: gives before it is wanted, takes what is wanted again last ---- */

#define HORIZON_MS 30000 /* so long before it is wanted memory is on its way: 28 GiB by one balloon */

struct view {
	uint64_t most_bytes; /* wanted at any time up to the horizon */
	uint64_t again_ms;   /* when its top is wanted again */
	uint64_t target_bytes;
};

static uint64_t most_soon(const struct plan *p, const struct vm *vm)
{
	const struct host *h = host_of(p);
	size_t i = vm->id - 1;
	return max_u64(h->guests[i].min_bytes, script_most_bytes(&h->scripts[i], h->at[i], h->now_ms + HORIZON_MS));
}

static uint64_t again(const struct plan *p, const struct vm *vm)
{
	const struct host *h = host_of(p);
	size_t i = vm->id - 1;
	return script_reaches_ms(&h->scripts[i], h->at[i], vm->plan_bytes);
}

/* How far down its top may go before something is wanted sooner. */
static uint64_t top_layer(const struct plan *p, const struct vm *vm, uint64_t keep_bytes)
{
	const struct host *h = host_of(p);
	const struct script *s = &h->scripts[vm->id - 1];
	uint64_t below = keep_bytes;
	for (size_t k = h->at[vm->id - 1]; k < s->n && s->demand_bytes[k] < vm->plan_bytes; k = s->next_higher[k])
		below = max_u64(below, s->demand_bytes[k]);
	return vm->plan_bytes - below;
}

/* Takes until the plans fit; what is wanted before the horizon only if `keep_soon` is not set. */
static void oracle_take(struct plan *p, uint64_t excess, bool keep_soon)
{
	while (excess) {
		struct vm *best = NULL;
		uint64_t best_ms = 0, best_keep = 0;
		for (size_t i = 0; i < p->n; i++) {
			struct vm *vm = p->vms[i];
			uint64_t keep = max_u64(keep_soon ? most_soon(p, vm) : true_demand(p, vm), MIB);
			uint64_t at_ms = vm->plan_bytes > keep ? again(p, vm) : 0;
			if (vm->plan_bytes > keep && (!best || at_ms > best_ms))
				best = vm, best_ms = at_ms, best_keep = keep;
		}
		if (!best)
			return;
		uint64_t bytes = min_u64(excess, top_layer(p, best, best_keep));
		plan_size(p, best, best->plan_bytes - bytes, "wanted again later than anything else");
		excess -= bytes;
	}
}

static void oracle_plan(struct plan *p)
{
	uint64_t sum = 0, available = free_now(p);
	for (size_t i = 0; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		vm->plan_bytes = coming(vm);
		if (most_soon(p, vm) > vm->plan_bytes)
			plan_size(p, vm, most_soon(p, vm), "wanted soon");
		sum += vm->plan_bytes;
	}
	oracle_take(p, sub_sat_u64(sum, p->books->pool_bytes), true);
	/* All that is wanted soon does not fit at once: what is wanted now comes first. */
	sum = 0;
	for (size_t i = 0; i < p->n; i++)
		sum += p->vms[i]->plan_bytes;
	oracle_take(p, sub_sat_u64(sum, p->books->pool_bytes), false);
	/* What is not free yet cannot be given: those who want it now come first. */
	for (unsigned now = 2; now-- > 0;)
		for (size_t i = 0; i < p->n; i++) {
			struct vm *vm = p->vms[i];
			uint64_t has = booked(vm), lacks = sub_sat_u64(vm->plan_bytes, has);
			bool urgent = true_demand(p, vm) > has;
			if (!lacks || urgent != (bool)now)
				continue;
			uint64_t got = min_u64(lacks, available);
			available -= got;
			vm->plan_bytes = has + got;
		}
}

static const struct policy_ops policy_ideal = {
	.name = "ideal",
	.about = "knows true demand at once, otherwise reacts as memoc does: what is possible without foresight",
	.plan = ideal_plan,
	.own_bounds = true,
};

/* What it costs not to know: nobody may be left with nothing, because a guest that has nothing left swaps unseen. */
static const struct policy_ops policy_ideal_headroom = {
	.name = "ideal-headroom",
	.about = "as ideal, but leaves everybody the least headroom that memoc leaves to those who are not in need",
	.plan = ideal_plan,
	.own_bounds = true,
};

/* What it costs to be told: a guest says what it uses once a period, and what it lacks a period later. */
static const struct policy_ops policy_ideal_told = {
	.name = "ideal-told",
	.about = "as ideal, but knows demand only when guest statistics can tell it, exactly then",
	.plan = ideal_plan,
	.own_bounds = true,
};

static const struct policy_ops policy_oracle = {
	.name = "oracle",
	.about = "knows the future: gives before it is wanted, takes what is wanted again last",
	.plan = oracle_plan,
	.own_bounds = true,
};

const struct policy_ops *const foresight_policies[] = {&policy_ideal, &policy_ideal_headroom, &policy_ideal_told,
						       &policy_oracle, NULL};
