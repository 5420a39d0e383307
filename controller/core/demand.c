/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From signals to estimates: what a VM uses, how fast that grows, whether it is needy, whether both sides swap it.
 * Unknown is not zero: a missing signal lowers confidence and moves weight to the others.
 */
#include "controller/core/policy.h"

#include <stdio.h>
#include <string.h>

void vm_forget_account(struct vm *vm)
{
	vm->surge_from_bytes = vm->surge_bytes = 0;
	vm->growth_mean_bytes_per_s = vm->growth_dev_bytes_per_s = 0;
	vm->used_ms = NEVER_MS;
	vm->growth_from_ms = NEVER_MS;
	vm->used_before_bytes[0] = vm->used_before_bytes[1] = 0;
	vm->noise_bytes = 0;
	vm->needy = vm->insatiable = false;
	vm->needy_rounds = 0;
	vm->host_need = vm->left_known = false;
	vm->grown_bytes = 0;
	vm->past_n = 0;
	vm->usable_ms = NEVER_MS;
	vm->rank = 0;
	vm->wss_overclaims = vm->wss_underclaims = false;
}

void vm_forget_signals(struct vm *vm)
{
	vm_forget_account(vm);
	vm->stats_advances = 0;
	vm->has_guest_rates = false;
	vm->guest_swap_in_per_s = vm->guest_swap_out_per_s = 0;
	vm->guest_swap_delta_bytes = 0;
	memset(vm->stats_size_bytes, 0, sizeof(vm->stats_size_bytes));
	vm->double_swap_signs = 0;
	vm->total_shrinks = false;
}

/*
 * What the VM was ever seen to touch and not give back; 0 = unknown. A guessed overhead is not subtracted: it would
 * make honest guests look as if they claimed too much.
 */
static uint64_t present_bytes(const struct vm *vm)
{
	if (!vm->has_sample || !vm->sample.has_memory)
		return 0;
	uint64_t overhead = vm->overhead_measured ? vm->overhead_bytes : 0;
	return add_sat_u64(sub_sat_u64(vm->sample.resident_bytes, overhead), vm->sample.swapped_bytes);
}

/* The same with QEMU's own memory: what is known of that changes, and is no surge. */
static uint64_t touched_bytes(const struct vm *vm)
{
	bool known = vm->has_sample && vm->sample.has_memory;
	return known ? add_sat_u64(vm->sample.resident_bytes, vm->sample.swapped_bytes) : 0;
}

static bool judged(enum vm_state s)
{
	return s == VM_STEADY || s == VM_SHRINKING_BALLOON || s == VM_SHRINKING_LIMIT || s == VM_GROWING_LIMIT ||
	       s == VM_GROWING_BALLOON;
}

/* ---- guest ---- */

static void take_guest_rates(struct vm *vm, const struct guest_stats *s, uint64_t now_ms)
{
	bool counted = vm->stats.has_swap && s->has_swap && vm->rate_stats_ms &&
		       s->swap_in_bytes >= vm->stats.swap_in_bytes && s->swap_out_bytes >= vm->stats.swap_out_bytes;
	if (counted && now_ms > vm->rate_stats_ms) {
		double dt = (double)(now_ms - vm->rate_stats_ms) / 1000;
		uint64_t in = s->swap_in_bytes - vm->stats.swap_in_bytes;
		uint64_t out = s->swap_out_bytes - vm->stats.swap_out_bytes;
		vm->guest_swap_in_per_s = (double)in / dt;
		vm->guest_swap_out_per_s = (double)out / dt;
		vm->guest_swap_delta_bytes = add_sat_u64(in, out);
	}
	vm->has_guest_rates = counted;
	vm->rate_stats_ms = now_ms;
}

/* Longer than statistics are old: a snapshot that comes now was taken with the balloon where it is. */
#define BALLOON_REST_MS 3000

/* Learned only while the balloon rests. */
uint64_t vm_hidden_bytes(const struct vm *vm, uint64_t now_ms)
{
	const struct guest_stats *s = &vm->stats;
	if (s->has_available && s->available_bytes <= vm->actual_bytes &&
	    now_ms - vm->actual_change_ms >= BALLOON_REST_MS)
		return min_u64(vm->actual_bytes - s->available_bytes, vm->facts.max_bytes / 8);
	return vm->hidden_bytes;
}

/* While the balloon rests, and holds something, a total above what it leaves is no snapshot of before. */
bool vm_total_shrinks(const struct vm *vm, uint64_t now_ms)
{
	const struct guest_stats *s = &vm->stats;
	bool holds = vm->actual_trusted && vm->actual_bytes <= vm->facts.max_bytes / 8 * 7; /* more than is hidden */
	if (s->has_available && holds && now_ms - vm->actual_change_ms >= BALLOON_REST_MS)
		return s->available_bytes <= vm->actual_bytes;
	return vm->total_shrinks;
}

/*
 * Used by the guest's own account. Its total and its usable memory come from one snapshot, while `actual` is read
 * later: their difference is right even while the balloon moves. A guest with deflate-on-oom does not shrink its total;
 * then, and as long as that is not known, actual − usable is the best there is where the total is above.
 */
bool vm_guest_used_bytes(const struct vm *vm, uint64_t *ret)
{
	const struct guest_stats *s = &vm->stats;
	if (!s->has_usable)
		return false;
	bool with_balloon = !vm->total_shrinks && vm->actual_trusted && s->available_bytes > vm->actual_bytes;
	if (s->has_available && !with_balloon && s->usable_bytes <= s->available_bytes) {
		*ret = s->available_bytes - s->usable_bytes + vm->hidden_bytes;
		return true;
	}
	if (s->usable_bytes > vm->actual_bytes)
		return false;
	*ret = vm->actual_bytes - s->usable_bytes;
	return true;
}

/* ---- what it used before ---- */

#define PAST_MERGE 16 /* levels nearer than a part of so much are one */

/* The two neighbours of most alike age become one: as high as the higher, as young as the younger. */
static void merge_past(struct vm *vm, uint64_t now_ms)
{
	size_t best = 0;
	double best_part = 2;
	for (size_t i = 0; i + 1 < vm->past_n; i++) {
		double age = (double)(now_ms - vm->past_ms[i]) + 1;
		double part = (double)(vm->past_ms[i + 1] - vm->past_ms[i]) / age;
		if (part < best_part)
			best = i, best_part = part;
	}
	vm->past_ms[best] = vm->past_ms[best + 1];
	for (size_t i = best + 1; i + 1 < vm->past_n; i++) {
		vm->past_bytes[i] = vm->past_bytes[i + 1];
		vm->past_ms[i] = vm->past_ms[i + 1];
	}
	vm->past_n--;
}

static void remember_use(struct vm *vm, uint64_t used, uint64_t now_ms)
{
	while (vm->past_n && vm->past_bytes[vm->past_n - 1] <= used)
		vm->past_n--;
	if (vm->past_n && vm->past_bytes[vm->past_n - 1] - used <= vm->past_bytes[vm->past_n - 1] / PAST_MERGE) {
		vm->past_ms[vm->past_n - 1] = now_ms;
		return;
	}
	if (vm->past_n == PAST_LEVELS)
		merge_past(vm, now_ms);
	vm->past_bytes[vm->past_n] = used;
	vm->past_ms[vm->past_n++] = now_ms;
}

uint64_t vm_past_peak_bytes(const struct vm *vm, uint64_t since_ms)
{
	for (size_t i = 0; i < vm->past_n; i++)
		if (vm->past_ms[i] >= since_ms)
			return vm->past_bytes[i];
	return 0;
}

uint64_t vm_past_above_bytes(const struct vm *vm, uint64_t bytes)
{
	for (size_t i = vm->past_n; i-- > 0;)
		if (vm->past_bytes[i] > bytes)
			return vm->past_bytes[i];
	return 0;
}

/* What is left of a growth after a long rest: nothing. Numbers that halve for hours get so small that reckoning with
 * them takes the processor a hundred times as long. */
#define GROWTH_LEAST_BYTES_PER_S 1e-6

static double growth_worth(double bytes_per_s)
{
	return bytes_per_s < GROWTH_LEAST_BYTES_PER_S ? 0 : bytes_per_s;
}

/*
 * Noise goes to and fro: of two changes in opposite directions the smaller. A step, a slope or a pulse of two words or
 * more is none, whatever its height. Gain 1/8 as that of the mean growth.
 */
static void track_noise(struct vm *vm)
{
	uint64_t now = vm->used_bytes, last = vm->used_before_bytes[0], before = vm->used_before_bytes[1], noise = 0;

	if (last && before && (now < last) != (last < before))
		noise = min_u64(now < last ? last - now : now - last, last < before ? before - last : last - before);
	vm->used_before_bytes[1] = last;
	vm->used_before_bytes[0] = now;
	vm->noise_bytes = growth_worth(vm->noise_bytes + ((double)noise - vm->noise_bytes) / 8);
}

/* As TCP sets its retransmission timer: mean and mean deviation with gains 1/8 and 1/4 (Jacobson 1988, RFC 6298). */
static void track_growth(struct vm *vm, uint64_t now_ms)
{
	uint64_t used = vm->demand_bytes, before = vm->growth_from_bytes, before_ms = vm->growth_from_ms;
	if (vm->stats_ms != now_ms || before_ms == now_ms || vm->distrusted)
		return; /* only from statistics to statistics: between them nothing new is known */
	vm->growth_from_bytes = used;
	vm->growth_from_ms = now_ms;
	if (before_ms == NEVER_MS)
		return;
	track_noise(vm);
	double dt_s = (double)(now_ms - before_ms) / 1000;
	uint64_t grown = sub_sat_u64(used, before);
	/* A jump that ends at once is over: only growth that goes on says what is to come. */
	uint64_t lasting = min_u64(grown, vm->grown_bytes);
	double growth = lasting ? (double)lasting / dt_s : 0;
	vm->grown_bytes = grown;
	double err = growth - vm->growth_mean_bytes_per_s;
	double abs_err = err < 0 ? -err : err;
	vm->growth_mean_bytes_per_s = growth_worth(vm->growth_mean_bytes_per_s + err / 8);
	vm->growth_dev_bytes_per_s =
		growth_worth(vm->growth_dev_bytes_per_s + (abs_err - vm->growth_dev_bytes_per_s) / 4);
}

static void notice_driver(struct vm *vm, struct vm_ctx *x)
{
	if (vm->health != BALLOON_ABSENT)
		return;
	vm->health = BALLOON_UNKNOWN;
	vm->retry_delay_ms = 0;
	vm->retry_at_ms = NEVER_MS;
	record(x, vm, RECORD_BALLOON_BACK, vm->actual_bytes, vm->actual_bytes, "a driver sends statistics now");
}

/* QEMU keeps `actual` over a reset, and a driver that is asked for nothing does not correct it: but a guest that has
 * more than that in its own account says so. */
static bool actual_of_before(const struct vm *vm)
{
	return vm->actual_stale && vm->stats.has_available && vm->stats.available_bytes > vm->actual_bytes;
}

#define SAME_MOMENT_MS 20 /* a look at its residency so near to its statistics shows what they speak of */

void vm_surge_begins(struct vm *vm, uint64_t now_ms)
{
	vm->surge_from_bytes = now_ms - vm->present_ms <= SAME_MOMENT_MS ? touched_bytes(vm) : 0;
	vm->surge_bytes = 0;
}

#define SILENT_MS 60000 /* asked for so long and not told */

/* Neither what it uses nor whether it swaps. Only while it is asked and could answer: libvirt away, a hung monitor, a
 * pause or a boot are not the guest's silence. */
static void note_silence(struct vm *vm, struct vm_ctx *x)
{
	uint64_t used;
	bool told = vm_stats_recent(vm, x->config, x->now_ms) && (vm->stats.has_swap || vm_guest_used_bytes(vm, &used));
	bool could = judged(vm->state) && vm->booted && x->now_ms - vm->asked_ms <= x->config->stale_ms;
	vm->asked_ms = x->now_ms;
	if (told && vm->silent)
		record(x, vm, RECORD_SILENT_OVER, vm->actual_bytes, vm->target_bytes, "it tells what it uses");
	if (told)
		vm->silent = false;
	if (told || !could) {
		vm->silent_from_ms = x->now_ms;
	} else if (!vm->silent && x->now_ms - vm->silent_from_ms >= SILENT_MS) {
		vm->silent = vm->by_limit = true;
		record(x, vm, RECORD_SILENT, vm->actual_bytes, vm->target_bytes,
		       "asked for %d s and not told what it uses", SILENT_MS / 1000);
	}
}

void vm_note_stats_size(struct vm *vm)
{
	uint64_t size = vm_size_bytes(vm), *sizes = vm->stats_size_bytes;
	sizes[2] = sizes[1] ? sizes[1] : size;
	sizes[1] = sizes[0] ? sizes[0] : size;
	sizes[0] = size;
}

void vm_take_stats(struct vm *vm, struct vm_ctx *x, const struct guest_stats *s)
{
	if (s->has_actual)
		vm_balloon_moved(vm, x, s->actual_bytes);
	bool first = !vm->has_stats;
	bool advanced = !first && s->last_update_s > vm->stats.last_update_s;
	bool again = !first && s->last_update_s < vm->stats.last_update_s; /* QEMU 10 zeroes it on reset */
	if (advanced) {
		take_guest_rates(vm, s, x->now_ms);
		vm->stats_ms = x->now_ms;
		vm->stats_advances++;
	}
	if (first || advanced || again) {
		vm->stats = *s;
		vm->has_stats = true;
	}
	if (advanced) {
		vm_note_stats_size(vm);
		vm->hidden_bytes = vm_hidden_bytes(vm, x->now_ms);
		vm->total_shrinks = vm_total_shrinks(vm, x->now_ms);
		vm_surge_begins(vm, x->now_ms);
	}
	if (advanced && vm->stats_advances >= 2)
		notice_driver(vm, x);
	if (advanced && vm->stats_advances >= 2 && vm->state != VM_PAUSED && vm->state != VM_MIGRATING_OUT &&
	    !actual_of_before(vm))
		vm->actual_trusted = true;
	note_silence(vm, x);
}

/* ---- host ---- */

/*
 * A busy guest with one processor sends its statistics seconds late; its host sees at once what it touches. Present
 * memory beyond what there was at the last statistics is memory that was usable then and is not any more. It may be
 * page cache, which the next statistics tell; until then it counts as used. A guest that fills memory which is resident
 * already is not seen so.
 */
void vm_note_surge(struct vm *vm, uint64_t now_ms)
{
	uint64_t touched = touched_bytes(vm);
	vm->present_ms = now_ms;
	if (!vm->surge_from_bytes)
		vm->surge_from_bytes = touched;
	vm->surge_bytes = sub_sat_u64(touched, vm->surge_from_bytes);
}

void vm_take_residency(struct vm *vm, const struct vm_ctx *x, const struct vm_host_sample *s)
{
	vm->sample.resident_bytes = s->resident_bytes;
	vm->sample.swapped_bytes = s->swapped_bytes;
	vm->sample.limit_bytes = s->limit_bytes;
	vm->sample.under_oom = s->under_oom;
	vm_note_surge(vm, x->now_ms);
}

/* Less is QEMU's own coming and going. */
#define SURGE_LEAST_BYTES (16 * MIB)

bool vm_surge_visible(const struct vm *vm, const struct core_config *c, uint64_t now_ms)
{
	uint64_t size = vm_size_bytes(vm);
	uint64_t from = vm->surge_from_bytes ? vm->surge_from_bytes : touched_bytes(vm);
	return judged(vm->state) && vm->has_sample && vm->sample.has_memory && vm_balloon_works(vm) &&
	       vm_stats_fresh(vm, c, now_ms) && size < vm_max_bytes(vm) &&
	       add_sat_u64(from, SURGE_LEAST_BYTES) < add_sat_u64(size, vm->overhead_bytes);
}

/*
 * Counters of the cgroup are told late: memory.stat is flushed each 2 s where few pages move (v1 and v2), and total= of
 * memory.pressure is brought up to date each 2 s (PSI_FREQ of kernel/sched/psi.c). So their rates are taken over 3 to 6
 * s (senpai looks each 6 s), and faults that are compared with refaults likewise.
 */
#define COUNTERS_MS 3000

static bool counters_follow(const struct host_counters *old, const struct host_counters *now)
{
	return old->ms && old->has_major_faults == now->has_major_faults && old->has_refaults == now->has_refaults &&
	       old->has_psi == now->has_psi && old->major_faults <= now->major_faults &&
	       old->refaults <= now->refaults && old->psi_some_us <= now->psi_some_us;
}

static void take_counters(struct vm *vm, const struct vm_host_sample *s, uint64_t now_ms)
{
	struct host_counters now = {.ms = now_ms,
				    .has_major_faults = s->has_major_faults,
				    .major_faults = s->has_major_faults ? s->major_faults : 0,
				    .has_refaults = s->has_refaults,
				    .refaults = s->has_refaults ? s->refaults : 0,
				    .has_psi = s->has_psi,
				    .psi_some_us = s->has_psi ? s->psi_some_us : 0};
	if (!counters_follow(&vm->counters_next, &now))
		vm->counters_from = vm->counters_next = now;
	if (now_ms - vm->counters_next.ms >= COUNTERS_MS) {
		vm->counters_from = vm->counters_next;
		vm->counters_next = now;
	}
	const struct host_counters *from = &vm->counters_from;
	uint64_t span_ms = now_ms - from->ms;
	bool known = span_ms >= COUNTERS_MS;
	double span_s = known ? (double)span_ms / 1000 : 1;
	vm->has_lasting_faults = known && now.has_major_faults;
	vm->has_refault_rate = known && now.has_refaults;
	vm->has_stall = known && now.has_psi;
	vm->lasting_faults_per_s =
		vm->has_lasting_faults ? (double)(now.major_faults - from->major_faults) / span_s : 0;
	vm->host_refaults_per_s = vm->has_refault_rate ? (double)(now.refaults - from->refaults) / span_s : 0;
	vm->stall_share = vm->has_stall ? (double)(now.psi_some_us - from->psi_some_us) / 1e6 / span_s : 0;
}

void vm_counters_stand(struct vm *vm, uint64_t now_ms)
{
	if (now_ms - vm->counters_next.ms < COUNTERS_MS)
		return;
	vm->counters_from.ms = vm->counters_next.ms;
	vm->counters_next.ms = now_ms;
}

void vm_take_sample(struct vm *vm, struct vm_ctx *x, const struct vm_host_sample *s)
{
	const struct vm_host_sample *old = &vm->sample;
	double dt = vm->has_sample ? (double)(x->now_ms - vm->sample_ms) / 1000 : 0;
	bool rate = vm->has_sample && x->now_ms - vm->sample_ms >= SAMPLE_APART_MS;
	if (rate) {
		vm->host_faults_before_per_s = vm->host_faults_per_s;
		vm->has_host_rates =
			s->has_major_faults && old->has_major_faults && s->major_faults >= old->major_faults;
		if (vm->has_host_rates)
			vm->host_faults_per_s = (double)(s->major_faults - old->major_faults) / dt;
		bool significant = vm->has_host_rates && vm->host_faults_per_s >= x->config->needy_faults_per_s;
		if (!significant)
			vm->faulting_ms = NEVER_MS;
		else if (vm->faulting_ms == NEVER_MS)
			vm->faulting_ms = x->now_ms;
	}
	if (rate || !vm->has_sample)
		take_counters(vm, s, x->now_ms);
	if (s->has_overhead) {
		/* Up at once, down slowly: QEMU's memory comes in bursts. */
		bool up = s->overhead_bytes >= vm->overhead_bytes || !vm->overhead_measured;
		vm->overhead_bytes = up ? s->overhead_bytes : vm->overhead_bytes / 8 * 7 + s->overhead_bytes / 8;
		vm->overhead_measured = true;
		vm->guest_ram_bytes = s->guest_ram_bytes;
		vm->guest_ram_ms = x->now_ms;
	}
	if (rate || !vm->has_sample) {
		vm->sample = *s;
		vm->sample_ms = x->now_ms;
		vm->has_sample = true;
		vm_note_surge(vm, x->now_ms);
	} else if (s->has_memory) {
		vm_take_residency(vm, x, s);
	}
}

/* ---- estimates ---- */

#define REACTION_S 2.0	       /* a tick to see it, one to act */
#define STALE_DECAY_MS 60000.0 /* DEMAND_DECAY_MS where the guest does not say so itself */

/* The guest's word, or its last that made sense while that is not old: a snapshot from before the balloon moved may
 * contradict itself. */
static bool guest_account(struct vm *vm, struct vm_ctx *x, uint64_t *ret_used)
{
	uint64_t used, present = present_bytes(vm);
	if (vm_stats_fresh(vm, x->config, x->now_ms) && vm_guest_used_bytes(vm, &used)) {
		/* No guest uses what was never given pages: residency and swap bound its word. */
		vm->used_bytes = present && vm->overhead_measured ? min_u64(used, present) : used;
		vm->used_ms = x->now_ms;
	}
	if (vm->distrusted || vm->used_ms == NEVER_MS || x->now_ms - vm->used_ms > x->config->stale_ms)
		return false;
	*ret_used = add_sat_u64(vm->used_bytes, vm->surge_bytes);
	return true;
}

static void estimate_demand(struct vm *vm, struct vm_ctx *x)
{
	uint64_t size = vm_size_bytes(vm), used = 0;
	uint64_t present = add_sat_u64(vm_resident_guest_bytes(vm), present_bytes(vm) ? vm->sample.swapped_bytes : 0);
	double decay_ms = DEMAND_DECAY_MS;
	if (guest_account(vm, x, &used)) {
		vm->demand_confidence = 0.9;
		vm->booted = true;
		if (vm->wss_underclaims && vm_wss_known(vm, x->now_ms))
			used = max_u64(used, vm_wss_bytes(vm));
		remember_use(vm, used, x->now_ms);
	} else if (vm_wss_known(vm, x->now_ms)) { /* it says nothing: what it touches tells */
		used = add_sat_u64(vm_wss_bytes(vm), vm->wss.error_bytes);
		vm->demand_confidence = 0.7;
		vm->booted = true;
		decay_ms = STALE_DECAY_MS;
		remember_use(vm, used, x->now_ms);
	} else {
		/* All that is known is what is resident. Half of it is assumed to be in use until faults say otherwise.
		 */
		bool blind = x->now_ms < vm->blind_until_ms;
		used = present ? min_u64(present, size) / 2 : blind ? 0 : size;
		used = blind ? max_u64(used, vm->demand_bytes) : used;
		vm->demand_confidence = present && !blind ? 0.25 : 0;
		vm->booted |= !blind;
		decay_ms = STALE_DECAY_MS;
	}
	if (x->now_ms < vm->host_floor_until_ms)
		used = max_u64(used, min_u64(vm->host_floor_bytes, vm->facts.max_bytes));
	if (used >= vm->demand_bytes || vm->estimate_ms == NEVER_MS) {
		vm->demand_bytes = used;
		return;
	}
	double part = (double)(x->now_ms - vm->estimate_ms) / decay_ms;
	vm->demand_bytes -= (uint64_t)((double)(vm->demand_bytes - used) * (part > 1 ? 1 : part));
}

static void estimate_headroom(struct vm *vm, const struct core_config *c)
{
	uint64_t least = max_u64(c->headroom_bytes, share_of(vm->demand_bytes, c->headroom_share));
	double growth = (vm->growth_mean_bytes_per_s + 4 * vm->growth_dev_bytes_per_s) * REACTION_S;
	uint64_t most = vm->facts.max_bytes / 8;
	vm->headroom_bytes = max_u64(least, growth < (double)most ? (uint64_t)growth : most);
}

/*
 * A guest's own low watermark is 1.25 times its min_free_kbytes, four times the square root of its memory in KiB
 * (calculate_min_free_kbytes of mm/page_alloc.c): 3.6 MiB of 512 MiB, 29 MiB of 32 GiB. MemAvailable is what is above;
 * as much again is low, 8 MiB of 2 GiB and never less. A share of its memory would be 640 MiB of 40 GiB, which the
 * neediest of a short host lack. Well below the headroom: a VM that has just what it needs would be needy else, grow,
 * be greedy, shrink to its need, and be needy again.
 */
uint64_t vm_low_usable_bytes(const struct vm *vm)
{
	uint64_t low = 8 * MIB, of = 2 * GIB, max = vm->facts.max_bytes;

	/* The root at each fourfold, a straight line between. */
	for (; max / 4 > of; of *= 4)
		low *= 2;
	if (max > of)
		low += mul_div_u64(low, (max - of) / 3, of);
	return max_u64(8 * MIB, min_u64(low, vm->headroom_bytes / 4));
}

#define SIGN_NONE 0.0

/*
 * At the speed at which it has touched memory since its statistics, what it called usable then is gone within a second,
 * and half of it is gone already. A guest that fills its page cache so fast looks the same until it tells.
 */
static bool surges(const struct vm *vm, uint64_t now_ms, uint64_t usable)
{
	if (vm->surge_bytes < SURGE_LEAST_BYTES || vm->surge_bytes < usable / 2)
		return false;
	uint64_t elapsed_ms = max_u64(now_ms - vm->stats_ms, 100);
	return sub_sat_u64(usable, vm->surge_bytes) <= mul_div_u64(vm->surge_bytes, 1000, elapsed_ms);
}

/* And was not given anything since: the little that a short host left it is no need when the host is not short. */
static bool was_shrunk(const struct vm *vm)
{
	return vm->shrink_ms != NEVER_MS && (vm->grow_ms == NEVER_MS || vm->grow_ms < vm->shrink_ms);
}

static double low_sign(struct vm *vm, const struct vm_ctx *x, uint64_t usable)
{
	uint64_t low = vm_low_usable_bytes(vm), present = present_bytes(vm),
		 left = sub_sat_u64(usable, vm->surge_bytes);
	bool plausible = !present || present >= vm_size_bytes(vm) / 4 * 3;
	if (was_shrunk(vm))
		low /= 2;
	if (usable < low && plausible) {
		vm->usable_bytes = usable;
		vm->usable_ms = x->now_ms;
		snprintf(vm->needy_why, sizeof(vm->needy_why), "guest has %llu MiB usable left",
			 (unsigned long long)(usable / MIB));
		return 1000.0 * (1 - (double)usable / (double)low) + 1;
	}
	if (!surges(vm, x->now_ms, usable))
		return SIGN_NONE;
	snprintf(vm->needy_why, sizeof(vm->needy_why), "guest touched %llu of %llu MiB usable in %llu ms",
		 (unsigned long long)(vm->surge_bytes / MIB), (unsigned long long)(usable / MIB),
		 (unsigned long long)(x->now_ms - vm->stats_ms));
	vm->surge_sign_ms = x->now_ms;
	return left < low ? 1000.0 * (1 - (double)left / (double)low) + 1 : 1;
}

/* What it says: pages a second that the guest moves while it has little usable memory; swap-ins with plenty free are
 * just its return. */
static double guest_claim(struct vm *vm, struct vm_ctx *x)
{
	/* A guest that swaps and does not say what is usable may have nothing. */
	bool known = vm->stats.has_usable;
	uint64_t usable = known ? vm->stats.usable_bytes : vm->stats.has_unused ? vm->stats.unused_bytes : 0;
	/* The balloon has given memory back since that snapshot was taken. */
	if (vm->stats.has_available)
		usable = add_sat_u64(usable, sub_sat_u64(sub_sat_u64(vm->actual_bytes, vm->stats.available_bytes),
							 vm->hidden_bytes));
	vm->left_known = known;
	vm->left_bytes = usable;
	uint64_t size = vm_size_bytes(vm);
	double swap = vm->has_guest_rates ? vm->guest_swap_in_per_s + vm->guest_swap_out_per_s : 0;
	if (swap >= x->config->needy_swap_bytes_per_s && usable < max_u64(32 * MIB, size / 8)) {
		snprintf(vm->needy_why, sizeof(vm->needy_why), "guest swaps %.1f MiB/s", swap / (double)MIB);
		return swap / 4096;
	}
	if (known && size < vm_max_bytes(vm))
		return low_sign(vm, x, usable);
	return SIGN_NONE;
}

static double guest_sign(struct vm *vm, struct vm_ctx *x)
{
	vm->left_known = false;
	if (!vm_stats_recent(vm, x->config, x->now_ms))
		return SIGN_NONE;
	double claim = guest_claim(vm, x);
	if (claim > SIGN_NONE)
		vm->claim_ms = x->now_ms;
	if (!vm->distrusted)
		return claim;
	vm->left_known = false;
	return SIGN_NONE;
}

/*
 * Swap is read around a fault as well: page-cluster is 3, eight pages, unless an administrator changed it. Each of them
 * is a refault, so fewer refaults than this a fault may be the readahead of faults that are not significant.
 */
#define REFAULTS_PER_FAULT 8.0
/* Pages that were wrongly evicted are refaults, one each at least. Far fewer than faults: pages that the kernel has
 * forgotten because they were out so long, or files of QEMU itself. */
#define COLD_SHARE 0.25
/* So long after a limit went down, and so long in a row, such faults are taken for its price; then they are need,
 * because whatever they are, QEMU waits for them. */
#define COLD_MS 10000

static bool at_limit(const struct vm *vm, const struct core_config *c, uint64_t now_ms)
{
	if (!vm->limit_known || vm->limit_bytes == LIMIT_NONE || !vm->has_sample || !vm->sample.has_memory ||
	    now_ms - vm->sample_ms > c->stale_ms)
		return false;
	uint64_t slack = max_u64(8 * MIB, vm->limit_bytes / 32);
	return add_sat_u64(vm->sample.resident_bytes, slack) >= vm->limit_bytes;
}

static bool cold_pages(const struct vm *vm, uint64_t now_ms)
{
	return vm->has_refault_rate && vm->has_lasting_faults && vm->lowered_ms && now_ms - vm->lowered_ms <= COLD_MS &&
	       vm->faulting_ms != NEVER_MS && now_ms - vm->faulting_ms <= COLD_MS &&
	       vm->host_refaults_per_s < COLD_SHARE * vm->lasting_faults_per_s;
}

struct host_signs vm_host_signs(const struct vm *vm, const struct core_config *c, uint64_t now_ms)
{
	struct host_signs s = {.at_limit = at_limit(vm, c, now_ms)};
	if (!s.at_limit)
		return s;
	double faults = vm->has_host_rates ? vm->host_faults_per_s : 0, threshold = c->needy_faults_per_s;
	s.cold = faults >= threshold && cold_pages(vm, now_ms);
	/* A limit that was just lowered evicts some warm pages; only many faults, or lasting ones, are need. */
	bool lasting = faults >= 4 * threshold || vm->host_faults_before_per_s >= threshold;
	s.faults = s.cold || !lasting ? 0 : faults / threshold;
	s.refaults = vm->has_refault_rate ? vm->host_refaults_per_s / (REFAULTS_PER_FAULT * threshold) : 0;
	s.stall = vm->has_stall ? vm->stall_share / c->needy_stall : 0;
	return s;
}

/*
 * Signs count as need only where the limit is what causes them: otherwise they are pages coming home. They are three
 * views of the same thing, so the strongest counts, not their sum.
 */
static double host_sign(struct vm *vm, struct vm_ctx *x)
{
	if (vm->has_sample && vm->sample.under_oom) {
		snprintf(vm->needy_why, sizeof(vm->needy_why), "nothing to reclaim at its limit: QEMU waits");
		return 100000;
	}
	struct host_signs s = vm_host_signs(vm, x->config, x->now_ms);
	double most = s.faults > s.refaults ? s.faults : s.refaults;
	most = most > s.stall ? most : s.stall;
	if (most < 1)
		return SIGN_NONE;
	if (most == s.faults)
		snprintf(vm->needy_why, sizeof(vm->needy_why), "QEMU has %.0f major faults/s at its limit",
			 vm->host_faults_per_s);
	else if (most == s.refaults)
		snprintf(vm->needy_why, sizeof(vm->needy_why), "%.0f evicted pages/s come back at its limit",
			 vm->host_refaults_per_s);
	else
		snprintf(vm->needy_why, sizeof(vm->needy_why), "stalled by memory %.1f %% of the time at its limit",
			 vm->stall_share * 100);
	return 2 * x->config->needy_faults_per_s * most;
}

#define HOST_FLOOR_HOLD_MS 120000

static void remember_host_floor(struct vm *vm, struct vm_ctx *x)
{
	uint64_t size = vm_size_bytes(vm);
	if (x->now_ms >= vm->host_floor_until_ms)
		vm->host_floor_bytes = 0;
	vm->host_floor_bytes = max_u64(vm->host_floor_bytes, size);
	vm->host_floor_until_ms = x->now_ms + HOST_FLOOR_HOLD_MS;
}

#define INSATIABLE_MS 300000 /* growth that was honest was met long before */

/* It has nearly all that it may have, and that does not end its need. */
static void watch_satisfaction(struct vm *vm, uint64_t now_ms)
{
	uint64_t all = vm->facts.max_bytes;
	vm->insatiable |= now_ms - vm->needy_since_ms >= INSATIABLE_MS && vm_size_bytes(vm) >= all - all / 16;
}

static void estimate_need(struct vm *vm, struct vm_ctx *x)
{
	double guest = guest_sign(vm, x);
	double host = host_sign(vm, x);
	double score = guest + host;
	/* What is held for somebody between two signs others lack now, where the host is short. */
	uint64_t hold_ms = x->level >= LEVEL_HARD ? x->config->needy_hold_ms / 2 : x->config->needy_hold_ms;
	vm->host_need = host > 0;
	if (host > 0 && !vm_stats_fresh(vm, x->config, x->now_ms))
		remember_host_floor(vm, x);
	if (score > 0) {
		vm->need_score = score * vm->facts.policy.weight / 100;
		vm->needy_sign_ms = x->now_ms;
		if (!vm->needy) {
			vm->needy = true;
			vm->needy_since_ms = x->now_ms;
			vm->needy_rounds = 0;
			vm_wss_new_claim(vm);
			record(x, vm, RECORD_NEEDY, vm_size_bytes(vm), 0, "%s", vm->needy_why);
			if (!x->config->policy->own_bounds)
				vm_signal(vm, SIG_NEEDY, x);
		}
		watch_satisfaction(vm, x->now_ms);
	} else if (vm->needy && x->now_ms - vm->needy_sign_ms > hold_ms) {
		vm->needy = vm->insatiable = false;
		vm->rank = 0;
		vm->need_score = 0;
		vm_wss_new_claim(vm);
		record(x, vm, RECORD_NEEDY_OVER, vm_size_bytes(vm), 0, "after %.1f s",
		       (double)(x->now_ms - vm->needy_since_ms) / 1000);
	}
}

/* Held so long after it ended: the limit may not come back while the guest is still bringing its pages home. */
#define DOUBLE_SWAP_HOLD_MS 60000

static void watch_double_swap(struct vm *vm, struct vm_ctx *x)
{
	bool guest = vm_stats_fresh(vm, x->config, x->now_ms) && vm->has_guest_rates &&
		     vm->guest_swap_in_per_s + vm->guest_swap_out_per_s >= x->config->needy_swap_bytes_per_s;
	bool host = vm->has_host_rates && vm->host_faults_per_s >= x->config->needy_faults_per_s && vm->has_sample &&
		    vm->sample.swapped_bytes > 0;
	if (guest && host)
		vm->double_swap_signs = vm->double_swap_signs < 3 ? vm->double_swap_signs + 1 : 3;
	else if (vm->double_swap_signs)
		vm->double_swap_signs--;
	if (!vm->double_swap && vm->double_swap_signs >= 2) {
		vm->double_swap = true;
		vm->double_swap_ms = x->now_ms;
		record(x, vm, RECORD_DOUBLE_SWAP, vm->limit_bytes, LIMIT_NONE,
		       "guest swaps %.1f MiB/s while the host faults %.0f/s: limit opened, balloon only",
		       (vm->guest_swap_in_per_s + vm->guest_swap_out_per_s) / (double)MIB, vm->host_faults_per_s);
	} else if (vm->double_swap && vm->double_swap_signs == 0) {
		vm->double_swap = false;
		vm->double_swap_until_ms = x->now_ms + DOUBLE_SWAP_HOLD_MS;
		record(x, vm, RECORD_DOUBLE_SWAP_OVER, 0, 0, "after %.1f s",
		       (double)(x->now_ms - vm->double_swap_ms) / 1000);
	}
}

/* What follows from demand and headroom. */
static void conclude(struct vm *vm, struct vm_ctx *x)
{
	estimate_need(vm, x);
	uint64_t need = add_sat_u64(vm->demand_bytes, vm->headroom_bytes);
	vm->need_bytes = clamp_u64(need, vm_min_bytes(vm, x->config), vm_max_bytes(vm));
	vm->greedy_bytes = vm->needy ? 0 : sub_sat_u64(vm_size_bytes(vm), vm->need_bytes);
}

/*
 * What a limit took from a guest it may not miss; what its balloon takes it swaps or is killed for. So the balloon of
 * one that is believed now, or again, is used when the limit leaves it what it says it needs.
 */
static void review_balloon(struct vm *vm, struct vm_ctx *x)
{
	if (!vm->by_limit || vm->silent || vm->distrusted)
		return;
	bool told = vm_stats_fresh(vm, x->config, x->now_ms) && vm->demand_confidence >= 0.9;
	uint64_t enough = min_u64(add_sat_u64(vm->demand_bytes, vm->headroom_bytes / 4), vm_max_bytes(vm));
	bool fits = told && min_u64(vm_size_bytes(vm), vm->target_bytes) >= enough; /* it is not tight */
	struct vm_ctx lasting = *x;
	lasting.swap_low = false; /* that passes */
	if (!fits && vm_limit_alone_works(vm, &lasting))
		return;
	vm->by_limit = false;
	if (!fits)
		vm->target_bytes = max_u64(vm->target_bytes, vm->need_bytes);
}

void vm_estimate(struct vm *vm, struct vm_ctx *x)
{
	if (!judged(vm->state)) {
		vm->greedy_bytes = 0;
		vm->estimate_ms = NEVER_MS;
		return;
	}
	vm_review_distrust(vm, x);
	estimate_demand(vm, x);
	vm->estimate_ms = x->now_ms;
	track_growth(vm, x->now_ms);
	estimate_headroom(vm, x->config);
	conclude(vm, x);
	review_balloon(vm, x);
}

void vm_note_use(struct vm *vm, uint64_t now_ms)
{
	vm->estimate_ms = vm->used_ms = now_ms;
	if (vm->past_n) /* the youngest level is what it uses, or so little above that it counts for it */
		vm->past_ms[vm->past_n - 1] = now_ms;
}

bool vm_estimate_again(struct vm *vm, struct vm_ctx *x)
{
	uint64_t headroom = vm->headroom_bytes;
	vm_note_use(vm, x->now_ms);
	track_growth(vm, x->now_ms);
	estimate_headroom(vm, x->config);
	if (vm->headroom_bytes == headroom)
		return true;
	conclude(vm, x);
	return false;
}

void vm_watch_double_swap(struct vm *vm, struct vm_ctx *x)
{
	if (judged(vm->state))
		watch_double_swap(vm, x);
}
