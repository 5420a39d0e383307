/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The policy of the talk. Needy VMs are ordered by neediness and served from the buffer at once, by position and growth
 * potential, but small wishes first for half of what is too little for all; VMs that are merely tight grow to what they
 * need; the buffer is refilled, and what needy VMs still lack is fetched, from greedy VMs in proportion to what they
 * have too much. Without need and with a full buffer nothing moves.
 */
#include "controller/core/policy.h"

#include <stdio.h>

uint64_t vm_fair_share_bytes(const struct vm *vm, const struct books *b)
{
	uint64_t all = vm->facts.max_bytes;
	if (!b->committed_max_bytes)
		return all;
	uint64_t share = mul_div_u64(b->pool_bytes, all, b->committed_max_bytes);
	return min_u64(mul_div_u64(share, vm->facts.policy.weight, 100), all);
}

uint64_t vm_credit_bytes(const struct vm *vm, const struct books *b)
{
	uint64_t fair = vm_fair_share_bytes(vm, b), touched;
	if (!vm_wss_known(vm, vm->estimate_ms))
		return fair;
	touched = add_sat_u64(add_sat_u64(vm_wss_bytes(vm), vm->wss.error_bytes), vm->headroom_bytes);
	return max_u64(fair, min_u64(touched, vm_max_bytes(vm)));
}

/* Its need ends at its credit. */
static bool on_credit(const struct vm *vm)
{
	return vm->needy && (vm->insatiable || vm_wss_overclaims(vm, vm->estimate_ms));
}

bool vm_doubted(const struct vm *vm, const struct books *b)
{
	return on_credit(vm) && vm_size_bytes(vm) > vm_credit_bytes(vm, b);
}

static int by_need(const void *a, const void *b)
{
	const struct vm *va = *(struct vm *const *)a, *vb = *(struct vm *const *)b;
	if (va->needy != vb->needy)
		return va->needy ? -1 : 1;
	if (va->needy && va->need_score != vb->need_score)
		return va->need_score > vb->need_score ? -1 : 1;
	/* The greediest first: where shares are smaller than is worth a resize, they give the whole of it. */
	if (!va->needy && va->greedy_bytes != vb->greedy_bytes)
		return va->greedy_bytes > vb->greedy_bytes ? -1 : 1;
	return va->id < vb->id ? -1 : va->id > vb->id; /* a total order: the same input gives the same output */
}

/* The others than the needy: where it matters who comes first. */
static void in_order(struct plan *p, size_t needy)
{
	qsort(p->vms + needy, p->n - needy, sizeof(p->vms[0]), by_need);
}

/* The needy in order, then the others as they are: mostly nothing is to be had of them. Returns how many are needy. */
static size_t needy_first(struct plan *p)
{
	size_t needy = 0, pinned = 0;
	for (size_t i = 0; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		pinned += vm->pinned_bytes != 0;
		if (!vm->needy)
			continue;
		p->vms[i] = p->vms[needy];
		p->vms[needy++] = vm;
	}
	if (needy > 1)
		qsort(p->vms, needy, sizeof(p->vms[0]), by_need);
	if (pinned > 1)
		in_order(p, needy);
	return needy;
}

#define HELPING_LEAST_BYTES (128 * MIB) /* most of a buffer, half of its size: whichever is less */
#define HELPING_SHARE 4			/* of what a VM has of the pool on average */
#define FEW_VMS 8

/* For one of them. Of more than a few several may ask within the same second: so much less for each. */
static uint64_t if_few(const struct plan *p, uint64_t bytes)
{
	return p->n <= FEW_VMS ? bytes : mul_div_u64(bytes, FEW_VMS, p->n);
}

/*
 * A guest whose own swap is full kills something within a second: a first helping is not little, whatever is known.
 * With few VMs and a full buffer, most of it is for one: growth comes in jumps, and the next may not wait for the next
 * look.
 */
static uint64_t least_helping(const struct plan *p, uint64_t size)
{
	uint64_t part = p->books->level == LEVEL_HIGH ? if_few(p, p->books->pool_bytes / p->n / HELPING_SHARE) : 0;
	uint64_t most = min_u64(size, max_u64(HELPING_LEAST_BYTES, part));
	return min_u64(max_u64(p->books->buffer_target_bytes / 4 * 3, size / 2), most);
}

/*
 * What to give somebody of whom only is known that nothing is left: up to where its demand went the last time that it
 * was above its size, and half as much again as it has just grown, because growth that was cut off goes on while this
 * is given; no more than its balloon brings until it tells what it swapped, a second or two: 2.34 GiB/s (policy.md). As
 * much of that as there is little left.
 */
#define HELPING_MOST_BYTES (3600 * MIB)

static uint64_t blind_helping(const struct plan *p, const struct vm *vm)
{
	uint64_t size = vm_size_bytes(vm), low = vm_low_usable_bytes(vm);
	uint64_t above = vm_past_above_bytes(vm, add_sat_u64(size, size / 64));
	uint64_t grown = max_u64(vm->grown_bytes, vm->surge_bytes);
	uint64_t guess = min_u64(max_u64(above ? above - size : 0, grown / 2 * 3), HELPING_MOST_BYTES);
	uint64_t helping = max_u64(add_sat_u64(guess, 2 * low), least_helping(p, size));
	if (vm->usable_ms == vm->needy_sign_ms && vm->usable_bytes < low)
		helping = mul_div_u64(helping, low - vm->usable_bytes, low);
	return max_u64(helping, 2 * low);
}

/*
 * Nothing is left of what it has, by its own word or as its host sees it. Counters of swap come later than what they
 * count: a guest that was given enough tells of its lack afterwards, and then of pages that come home.
 */
static bool runs_dry(const struct vm *vm)
{
	bool surges = vm->surge_sign_ms == vm->needy_sign_ms;
	return !vm->left_known || vm->left_bytes < vm_low_usable_bytes(vm) || surges || vm->host_need;
}

/* Size that counts as already on the way: a VM that is growing has its target granted. */
static uint64_t granted_size(const struct vm *vm)
{
	bool growing = vm->state == VM_GROWING_LIMIT || vm->state == VM_GROWING_BALLOON;
	return growing ? max_u64(vm_size_bytes(vm), vm->target_bytes) : vm_size_bytes(vm);
}

/* By itself, from statistics to statistics. */
static uint64_t swapped_bytes(const struct vm *vm, const struct plan *p)
{
	bool told = vm->has_guest_rates && vm_stats_fresh(vm, p->config, p->now_ms);
	return told ? vm->guest_swap_delta_bytes : 0;
}

/* A guest that swaps so long after a helping, and has usable memory, does not find that useful. */
#define HELPING_WORKS_INTERVALS 3

/* Growth since the statistics before the last but one came: a helping that what they count has not seen yet. */
static uint64_t given_lately(const struct vm *vm)
{
	uint64_t before = vm->stats_size_bytes[2];
	return before ? sub_sat_u64(vm_size_bytes(vm), before) : 0;
}

/*
 * How much a needy VM needs cannot be known; it is found by giving. While all that is known is that nothing is left,
 * a guess; once it has swapped, twice of what it swapped less what it was given since, but at first no less than that
 * it can go on: what it swapped until its statistics tells of the begin of its growth only. Each helping after the
 * second that did not end the need is doubled, but not on a short host, where it was hardly given in full. Who has some
 * left of the last gets no other yet. What was too much is greedy soon, and comes back.
 */
static uint64_t needy_wish(const struct plan *p, const struct vm *vm)
{
	uint64_t most = on_credit(vm) ? min_u64(vm_credit_bytes(vm, p->books), vm_max_bytes(vm)) : vm_max_bytes(vm);
	uint64_t potential = sub_sat_u64(most, granted_size(vm)), low = vm_low_usable_bytes(vm), helping;
	uint64_t swapped = swapped_bytes(vm, p);
	bool just = vm->needy_rounds && p->now_ms - vm->grow_ms < HELPING_WORKS_INTERVALS * p->config->interval_ms;
	if (!runs_dry(vm) && (just || !swapped))
		return min_u64(sub_sat_u64(2 * low, vm->left_bytes), potential);
	if (swapped) {
		helping = max_u64(sub_sat_u64(2 * swapped, given_lately(vm)), swapped / 2);
		helping = add_sat_u64(helping, 2 * low);
		if (!vm->needy_rounds)
			helping = max_u64(helping, least_helping(p, vm_size_bytes(vm)));
	} else {
		helping = blind_helping(p, vm);
	}
	bool in_full = p->books->level <= LEVEL_SOFT;
	unsigned rounds = in_full ? min_u64(sub_sat_u64(vm->needy_rounds, 1), 8) : 0;
	return min_u64(mul_div_u64(helping, UINT64_C(1) << rounds, 1), potential);
}

static void give(struct plan *p, struct vm *vm, uint64_t bytes, uint64_t *available, const char *why)
{
	uint64_t size = granted_size(vm);
	vm->plan_bytes = min_u64(add_sat_u64(size, bytes), max_u64(size, vm_max_bytes(vm)));
	*available -= min_u64(*available, vm->plan_bytes - size);
	snprintf(vm->plan_reason, sizeof(vm->plan_reason), "%s", why);
}

/* Its balloon will have brought all that it was given before it is heard of again, and it has used up what came. */
static bool outgrows(const struct vm *vm, const struct plan *p)
{
	uint64_t left = sub_sat_u64(vm->target_bytes, vm_size_bytes(vm));
	uint64_t way = mul_div_u64(vm->speed_bytes_per_s, p->config->interval_ms, 1000);
	return vm->state == VM_GROWING_BALLOON && p->books->level <= LEVEL_SOFT && vm->stats_ms > vm->grow_ms &&
	       vm->needy_sign_ms > vm->grow_ms && runs_dry(vm) && left < way;
}

/* One helping a second look: a VM that was just given memory is judged again when its signals have seen it. */
static bool helping_in_progress(const struct vm *vm, const struct plan *p)
{
	if (vm->state == VM_GROWING_LIMIT || vm->state == VM_GROWING_BALLOON)
		return !outgrows(vm, p);
	/* It counts as needy for a while after the last sign; but only a sign that came when the last helping was there
	 * says that it was too small. */
	if (vm->grow_ms != NEVER_MS && vm->needy_sign_ms <= max_u64(vm->grow_ms, vm->change_ms))
		return true;
	/* What its balloon holds cannot be given back while libvirt does not answer for it. */
	if (vm->quarantined && vm->actual_trusted && vm->actual_bytes <= vm_size_bytes(vm) &&
	    vm->actual_bytes < vm_max_bytes(vm))
		return true;
	bool just = vm->grow_ms != NEVER_MS && p->now_ms - vm->grow_ms < p->config->interval_ms * 3 / 2;
	bool seen = vm->stats_ms > vm->change_ms || vm->surge_sign_ms > vm->change_ms ||
		    vm->sample_ms > vm->change_ms + p->config->interval_ms / 2;
	return just && !seen;
}

#define WAIT_INTERVALS 60 /* then its turn comes: it may have no swap of its own */

/*
 * It has little left, but something, and does not swap: while the host is short it waits for those who do. Else many
 * small helpings leave everybody a little that he does not use, and somebody with less than he uses.
 */
static bool can_wait(const struct vm *vm, const struct plan *p)
{
	uint64_t left = sub_sat_u64(vm->left_bytes, vm->surge_bytes);
	bool waited = p->now_ms - vm->needy_since_ms >= WAIT_INTERVALS * p->config->interval_ms;
	bool swaps = swapped_bytes(vm, p) != 0;
	return vm->left_known && left >= vm_low_usable_bytes(vm) / 10 && !waited && !swaps && !vm->host_need;
}

static bool asks(const struct vm *vm, const struct plan *p)
{
	if (p->books->level >= LEVEL_HARD && can_wait(vm, p))
		return false;
	return !vm->pinned_bytes && !vm_doubted(vm, p->books) && needy_wish(p, vm) && !helping_in_progress(vm, p);
}

/* The smallest wish first; the heavier a VM, the smaller its wish counts. */
static int by_wish(const void *a, const void *b)
{
	const struct vm *va = *(struct vm *const *)a, *vb = *(struct vm *const *)b;
	double wa = (double)va->wish_bytes / va->facts.policy.weight,
	       wb = (double)vb->wish_bytes / vb->facts.policy.weight;
	if (wa != wb)
		return wa < wb ? -1 : 1;
	return va->rank < vb->rank ? -1 : va->rank > vb->rank;
}

/* What each asks for, and at first nothing beyond what it has. Returns how much that is of all. */
static uint64_t hear_wishes(struct plan *p, size_t needy)
{
	uint64_t all = 0, none = 0;
	for (size_t i = 0; i < needy; i++) {
		struct vm *vm = p->vms[i];
		char why[EFFECT_REASON_LEN];
		vm->rank = (unsigned)i + 1;
		vm->wish_bytes = asks(vm, p) ? needy_wish(p, vm) : 0;
		if (!vm->wish_bytes)
			continue;
		snprintf(why, sizeof(why), "needy, rank %u of %zu: %s", vm->rank, needy, vm->needy_why);
		give(p, vm, 0, &none, why);
		all = add_sat_u64(all, vm->wish_bytes);
	}
	return all;
}

/* Returns what is left of the given bytes. */
static uint64_t grant(struct vm *vm, uint64_t most, uint64_t bytes)
{
	uint64_t got = min_u64(min_u64(vm->wish_bytes, most), bytes);
	vm->plan_bytes += got;
	vm->wish_bytes -= got;
	return bytes - got;
}

static uint64_t serve_in_turn(struct plan *p, size_t needy, uint64_t bytes)
{
	for (size_t i = 0; i < needy; i++)
		bytes = grant(p->vms[i], UINT64_MAX, bytes);
	return bytes;
}

static double claim(const struct vm *vm, size_t needy)
{
	return (double)(needy + 1 - vm->rank) * (double)vm->wish_bytes;
}

static uint64_t serve_by_rank(struct plan *p, size_t needy, uint64_t bytes)
{
	uint64_t pot = bytes;
	double total = 0;
	for (size_t i = 0; i < needy; i++)
		total += claim(p->vms[i], needy);
	for (size_t i = 0; i < needy && total > 0; i++)
		bytes = grant(p->vms[i], share_of(pot, claim(p->vms[i], needy) / total), bytes);
	return bytes;
}

/*
 * Where there is not enough for all, half of it goes to the smallest wishes first: many small ones wait long for what
 * one large one hardly misses. The rest goes by rank and growth potential: a large one takes longest to be brought, and
 * is not to begin last. What is left then goes to the smallest again. Returns what could not be met.
 */
static uint64_t serve_needy(struct plan *p, size_t needy, uint64_t *available)
{
	uint64_t all = hear_wishes(p, needy), bytes = min_u64(all, *available), small = bytes / 2;
	*available -= bytes;
	if (bytes == all) {
		serve_in_turn(p, needy, all);
		return 0;
	}
	qsort(p->vms, needy, sizeof(p->vms[0]), by_wish);
	bytes = bytes - small + serve_in_turn(p, needy, small);
	serve_in_turn(p, needy, serve_by_rank(p, needy, bytes));
	uint64_t unmet = 0;
	for (size_t i = 0; i < needy; i++) {
		if (p->vms[i]->wish_bytes)
			p->vms[i]->bounds |= BOUND_BUFFER;
		unmet = add_sat_u64(unmet, p->vms[i]->wish_bytes);
	}
	return unmet;
}

/* Under a quarter of its headroom is left. */
static bool is_tight(const struct vm *vm)
{
	uint64_t least = add_sat_u64(vm->demand_bytes, vm->headroom_bytes / 4);
	return granted_size(vm) < min_u64(least, vm_max_bytes(vm)) && vm->demand_confidence >= 0.5;
}

/* Not swapping yet, but tight: grown before it hurts, from what the needy of the next seconds will hardly want, by no
 * more than that it is not tight again soon: what it does not use was moved for nothing. */
static void serve_tight(struct plan *p, size_t first, uint64_t *available)
{
	size_t n = 0;
	for (size_t i = first; i < p->n; i++)
		n += is_tight(p->vms[i]);
	if (n > 1)
		in_order(p, first);
	uint64_t target = p->books->buffer_target_bytes, keep = target - if_few(p, target / 2);
	for (size_t i = first; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		uint64_t size = granted_size(vm);
		if (vm->pinned_bytes || !is_tight(vm))
			continue;
		uint64_t enough = add_sat_u64(vm->demand_bytes, vm->headroom_bytes / 4 * 3);
		uint64_t want =
			sub_sat_u64(min_u64(max_u64(enough, vm_min_bytes(vm, p->config)), vm_max_bytes(vm)), size);
		uint64_t got = min_u64(want, sub_sat_u64(*available, keep));
		if (got < vm_dead_band_bytes(vm, p->config)) {
			vm->bounds |= BOUND_BUFFER;
			continue;
		}
		give(p, vm, got, available, "less than a quarter of its headroom is left");
	}
}

/* A pinned size is a person's word: it is reached as memory allows. */
static uint64_t serve_pinned(struct plan *p, uint64_t *available)
{
	uint64_t unmet = 0;
	for (size_t i = 0; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		if (!vm->pinned_bytes)
			continue;
		uint64_t want = clamp_u64(vm->pinned_bytes, vm_min_bytes(vm, p->config), vm_max_bytes(vm));
		uint64_t size = granted_size(vm);
		if (want <= size) {
			vm->plan_bytes = want;
		} else if (p->books->level == LEVEL_LOW) {
			vm->plan_bytes = size; /* others have nothing left */
			vm->bounds |= BOUND_BUFFER;
		} else {
			uint64_t got = min_u64(want - size, *available);
			unmet = add_sat_u64(unmet, want - size - got);
			vm->plan_bytes = size + got;
			*available -= got;
		}
		snprintf(vm->plan_reason, sizeof(vm->plan_reason), "pinned by memoc resize");
	}
	return unmet;
}

/* Where a VM goes if nothing more is asked of it: a shrink under way has still to come. */
static uint64_t coming_size(const struct vm *vm)
{
	bool shrinking = vm->state == VM_SHRINKING_BALLOON || vm->state == VM_SHRINKING_LIMIT;
	return shrinking ? min_u64(vm_size_bytes(vm), vm->target_bytes) : vm_size_bytes(vm);
}

struct need {
	bool hurry;  /* level hard or low: by limits, dwelling or not */
	bool rescue; /* somebody needy lacks memory: dwelling or not */
};

static uint64_t saturate(__int128 v)
{
	return v <= 0 ? 0 : v > (__int128)UINT64_MAX ? UINT64_MAX : (uint64_t)v;
}

static __int128 max_i128(__int128 a, __int128 b)
{
	return a > b ? a : b;
}

/*
 * Booked for a VM now, but not any more once it is at its target: the rest of a shrink, and what a sample from before
 * the last change still shows as resident.
 */
static uint64_t coming_bytes(const struct vm *vm)
{
	if (vm->state == VM_GROWING_LIMIT || vm->state == VM_GROWING_BALLOON)
		return 0;
	bool old = vm->sample_ms <= vm->actual_change_ms || vm->sample_ms <= vm->limit_result_ms;
	if (vm->state == VM_STEADY && !old)
		return 0;
	return sub_sat_u64(vm_committed_bytes(vm), add_sat_u64(coming_size(vm), vm->overhead_bytes));
}

static bool may_give(struct vm *vm, const struct plan *p, unsigned pass, const struct need *need)
{
	bool growing = vm->state == VM_GROWING_LIMIT || vm->state == VM_GROWING_BALLOON;
	bool doubted = vm_doubted(vm, p->books) && (need->hurry || need->rescue);
	if ((vm->needy && !doubted) || vm->pinned_bytes || growing || vm->plan_bytes > vm_size_bytes(vm))
		return false;
	if (vm->demand_confidence == 0)
		return false;
	bool dwelling = vm->grow_ms != NEVER_MS && p->now_ms - vm->grow_ms < vm->dwell_ms;
	bool urgent = need->rescue || (need->hurry && (pass != 2 || p->books->level == LEVEL_LOW));
	if (dwelling && !urgent) {
		vm->bounds |= BOUND_DWELL;
		return false;
	}
	/* Nobody's word can be had and no way to take: neither balloon nor limit. */
	bool way = vm_shrink_floor_bytes(vm, p->ctx) < vm_size_bytes(vm);
	if (!way)
		vm->bounds |= BOUND_NO_SWAP;
	return way;
}

/*
 * Who is greedy is a matter of the time looked at: first what nobody has used for a day is taken, then for an hour …
 * What was used lately is wanted again soonest: to take the least recently used is the best that is known without
 * foresight, and each byte not taken from somebody who wants it back is moved twice less. Milliseconds.
 */
static const uint64_t look_back_ms[] = {UINT64_MAX, 86400000, 6 * 3600000, 3600000, 600000, 60000, 0};

static uint64_t used_lately(const struct vm *vm, uint64_t now_ms, uint64_t look_back)
{
	return look_back ? vm_past_peak_bytes(vm, sub_sat_u64(now_ms, look_back)) : 0;
}

uint64_t vm_least_headroom_bytes(const struct vm *vm)
{
	uint64_t low = vm_low_usable_bytes(vm);
	return min_u64(vm->headroom_bytes / 8 * 5, low + low / 128);
}

/* What fell by less may be noise, and what it gave it would lack a second later. */
#define NOISES 16.0
#define NOISE_PART 8 /* at most */

/*
 * What it uses by its last word, and what that may be off by. Demand falls to that over seconds, because what is used
 * no more is often wanted again; but a host that is short has somebody who lacks it now.
 */
static uint64_t used_now(const struct vm *vm, const struct plan *p)
{
	bool told = vm->demand_confidence >= 0.9 && p->now_ms - vm->stats_ms <= 2 * p->config->interval_ms &&
		    p->now_ms - vm->used_ms <= 2 * p->config->interval_ms;
	bool believed = !vm->wss_underclaims && p->now_ms >= vm->host_floor_until_ms;
	if (!told || !believed)
		return vm->demand_bytes;
	uint64_t used = add_sat_u64(vm->used_bytes, vm->surge_bytes);
	double noise = NOISES * vm->noise_bytes;
	uint64_t most = used / NOISE_PART;
	return add_sat_u64(used, noise < (double)most ? (uint64_t)noise : most);
}

/* While somebody in need finds nothing all others share in that: as much less is no sign of need then, see demand.c. */
static uint64_t least_left(const struct vm *vm, const struct plan *p)
{
	bool lacking = p->books->level == LEVEL_LOW && p->books->unmet_bytes;
	return vm_least_headroom_bytes(vm) / (lacking ? 2 : 1);
}

/*
 * How much a VM can give in a pass. 1: what neither demand, headroom nor recent use justifies. 2 (hard): of its
 * headroom, a part that does not make it tight. 3 (low, host out of memory): down to its minimum, because a host out of
 * memory kills somebody.
 */
static uint64_t can_give(const struct vm *vm, const struct plan *p, unsigned pass, uint64_t look_back)
{
	uint64_t size = min_u64(coming_size(vm), vm->plan_bytes), min = vm_min_bytes(vm, p->config);
	uint64_t tight = add_sat_u64(used_now(vm, p), least_left(vm, p));
	uint64_t lately = used_lately(vm, p->now_ms, look_back);
	uint64_t floor = pass == 1 ? max_u64(vm->need_bytes, lately) : pass == 2 ? min_u64(vm->need_bytes, tight) : min;
	if (vm_doubted(vm, p->books))
		floor = vm_credit_bytes(vm, p->books);
	if (vm->hoarder && pass < 3)
		floor = max_u64(floor, vm_credit_bytes(vm, p->books));
	floor = max_u64(max_u64(floor, min), vm_shrink_floor_bytes(vm, p->ctx));
	return sub_sat_u64(size, floor);
}

static void take(struct vm *vm, uint64_t bytes, uint64_t can, unsigned pass, bool hurry)
{
	vm->plan_bytes = min_u64(coming_size(vm), vm->plan_bytes) - bytes;
	vm->plan_urgent = hurry;
	snprintf(vm->plan_reason, sizeof(vm->plan_reason), "%s: %llu MiB of %llu MiB %s",
		 hurry ? "host short of memory" : "refilling the buffer", (unsigned long long)(bytes / MIB),
		 (unsigned long long)(can / MIB),
		 pass == 1   ? "it does not need"
		 : pass == 2 ? "headroom"
			     : "above its minimum");
}

/* What a balloon brings by the next look is about a GiB: policy.md has measured 0.95 GiB/s. */
#define BALLOON_LOOK_BYTES (1000 * MIB)

/* While somebody waits: what is beyond that comes sooner of another balloon, though that VM used it later. */
static uint64_t at_once(const struct vm *vm, const struct need *need)
{
	uint64_t asked = sub_sat_u64(vm_size_bytes(vm), min_u64(coming_size(vm), vm->plan_bytes));
	return need->rescue ? sub_sat_u64(BALLOON_LOOK_BYTES, asked) : UINT64_MAX;
}

/* Returns what is left of the shortage. */
static uint64_t take_pass(struct plan *p, uint64_t shortage, unsigned pass, uint64_t look_back, const struct need *need)
{
	double total = 0;
	for (size_t i = 0; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		if (may_give(vm, p, pass, need))
			total += (double)can_give(vm, p, pass, look_back) * 100 / vm->facts.policy.weight;
	}
	if (total <= 0)
		return shortage;
	uint64_t left = shortage;
	for (size_t i = 0; i < p->n && left; i++) {
		struct vm *vm = p->vms[i];
		if (!may_give(vm, p, pass, need))
			continue;
		uint64_t can = can_give(vm, p, pass, look_back);
		double part = (double)can * 100 / vm->facts.policy.weight / total;
		uint64_t bytes = add_sat_u64(share_of(shortage, part), 1);
		/* Less than the dead band would not be taken at all, and many small shares would never fill a buffer.
		 */
		if (vm->plan_bytes >= vm_size_bytes(vm))
			bytes = max_u64(bytes, vm_dead_band_bytes(vm, p->config));
		bytes = min_u64(min_u64(bytes, can), at_once(vm, need));
		if (!bytes)
			continue;
		take(vm, bytes, can, pass, need->hurry);
		left = sub_sat_u64(left, bytes);
	}
	return left;
}

/* Free memory of the host itself, below half of its reserve, or below all of it while it stalls: books may be right and
 * the host short all the same. */
static uint64_t host_shortage_bytes(const struct plan *p)
{
	const struct books *b = p->books;
	bool stalls = books_pressure_level(b, b->level, p->config, p->host) >= LEVEL_SOFT;
	uint64_t least = stalls ? p->config->reserve_bytes : p->config->reserve_bytes / 4 * 3;
	return p->host->has_memory && (stalls || b->level >= LEVEL_HARD)
		       ? sub_sat_u64(least, p->host->mem_available_bytes)
		       : 0;
}

/* A nearly full buffer is full: small refills would only move memory to and fro. */
static bool full(__int128 buffer, const struct books *books)
{
	return buffer >= (__int128)(books->buffer_target_bytes / 10 * 9);
}

/* A controller that has just started, and has not heard of everybody yet: seconds. In proportion means of all. */
static bool looks_around(const struct plan *p)
{
	for (size_t i = 0; i < p->all_n; i++)
		if (p->all[i]->state == VM_STARTING && p->all[i]->origin == ORIGIN_ADOPT)
			return true;
	return false;
}

/* Somebody in need does not get what it lacks, and it is no claim of long ago. */
static bool memory_is_lacking(const struct plan *p, size_t needy)
{
	for (size_t i = 0; i < needy; i++) {
		const struct vm *vm = p->vms[i];
		bool now = p->now_ms - vm->needy_sign_ms <= 2 * p->config->interval_ms;
		if (now && !vm_doubted(vm, p->books) && vm->plan_bytes < vm_max_bytes(vm))
			return true;
	}
	return false;
}

/*
 * So long, and what others have too much has been fetched. Needs that come and go are one: the time between them counts
 * an eighth against.
 */
#define LACKING_MS 10000
#define LACKING_FADES 8

static bool lacks_for_long(const struct plan *p)
{
	struct policy_host *m = p->memory;
	uint64_t since_ms = p->now_ms - m->lacking_ms, interval_ms = p->config->interval_ms;
	bool goes_on = m->lacking_ms && since_ms <= 2 * interval_ms;
	m->lacking_until_ms = max_u64(m->lacking_until_ms, p->now_ms) + LACKING_FADES * (goes_on ? since_ms : 0);
	m->lacking_ms = p->now_ms;
	return m->lacking_until_ms - p->now_ms >= (uint64_t)LACKING_FADES * LACKING_MS;
}

/*
 * Nobody's share is paid for what another has beyond his own, says he uses, and has not touched for ten minutes: that
 * is had of him. One at a time, who has most of it: what is coming is counted at the next round.
 */
static void accuse(struct plan *p)
{
	struct vm *best = NULL;
	uint64_t most = 0;
	for (size_t i = 0; i < p->n; i++) {
		struct vm *vm = p->vms[i];
		uint64_t above = sub_sat_u64(coming_size(vm), vm_credit_bytes(vm, p->books));
		if (above > max_u64(most, vm_dead_band_bytes(vm, p->config)) && vm_hoards(vm, p->ctx))
			best = vm, most = above;
	}
	if (best)
		best->accused = true;
}

static void reclaim(struct plan *p, size_t needy, uint64_t unmet)
{
	const struct books *books = p->books;
	__int128 buffer = books->buffer_bytes, coming = 0;
	for (size_t i = 0; i < p->n; i++) {
		const struct vm *vm = p->vms[i];
		uint64_t size = granted_size(vm);
		coming += coming_bytes(vm);				     /* on its way back */
		buffer -= vm->plan_bytes > size ? vm->plan_bytes - size : 0; /* just given */
	}
	buffer += coming;
	uint64_t target = books->buffer_target_bytes, shortage = 0;
	if (unmet || !full(buffer, books))
		shortage = buffer < (__int128)target ? saturate((__int128)target - buffer) : 0;
	uint64_t host_short = saturate((__int128)host_shortage_bytes(p) - coming);
	shortage = max_u64(add_sat_u64(shortage, unmet), host_short);
	if (!shortage || (!host_short && !unmet && looks_around(p)))
		return;
	in_order(p, needy);
	const struct need need = {.hurry = books->level >= LEVEL_HARD, .rescue = unmet > 0};
	uint64_t left = shortage;
	for (size_t i = 0; i < ARRAY_SIZE(look_back_ms) && left > MIB; i++)
		left = take_pass(p, left, 1, look_back_ms[i], &need);
	if (left > MIB)
		left = take_pass(p, left, 1, 0, &need); /* where shares were too small, the greediest give the rest */
	if (left > MIB && memory_is_lacking(p, needy) && lacks_for_long(p))
		accuse(p);
	if (!need.hurry || left <= MIB)
		return;
	/* Headroom is worth more than a full buffer: it is taken only to leave this level, or for somebody in need. */
	uint64_t spare = host_short ? 0 : target / 5 * 3, taken = shortage - left;
	uint64_t wanted = sub_sat_u64(left, spare);
	if (wanted > MIB)
		taken += wanted - take_pass(p, wanted, 2, 0, &need);
	/* Memory in use is taken only where the host has really run out of it, not for what was merely promised. */
	uint64_t out = host_short;
	if (!p->host->has_memory)
		out = saturate((__int128)books->resident_bytes - books->pool_bytes - coming);
	uint64_t breach = min_u64(out, saturate(max_i128(-buffer, host_short) - taken));
	if (books->level == LEVEL_LOW && breach > MIB)
		take_pass(p, breach, 3, 0, &need);
}

static void needy_greedy_plan(struct plan *p)
{
	p->books->unmet_bytes = 0;
	if (!p->n)
		return;
	size_t needy = needy_first(p);
	uint64_t available = books_available(p->books, p->config, p->host);
	for (size_t i = 0; i < p->n; i++) /* guaranteed minimums come first */
		available = sub_sat_u64(available, sub_sat_u64(p->vms[i]->plan_bytes, granted_size(p->vms[i])));
	uint64_t unmet = serve_pinned(p, &available);
	unmet = add_sat_u64(unmet, serve_needy(p, needy, &available));
	p->books->unmet_bytes = unmet;
	if (p->books->level <= LEVEL_SOFT)
		serve_tight(p, needy, &available);
	reclaim(p, needy, unmet);
}

/* What is planned for it already is more than is booked for it: that is paid for from the buffer. */
static bool wishes(const struct vm *vm, const struct core_config *config)
{
	return vm->needy || vm->pinned_bytes || is_tight(vm) || vm->plan_bytes > granted_size(vm);
}

static bool at_ease(const struct books *b)
{
	return b->level == LEVEL_HIGH && full(b->buffer_bytes, b);
}

const struct policy_ops policy_needy_greedy = {
	.name = "needy-greedy",
	.about = "memoc's own: needy VMs are served from the buffer, greedy ones refill it",
	.plan = needy_greedy_plan,
	.wishes = wishes,
	.at_ease = at_ease,
};
