/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Working sets as the host measures them, beside the guest's own word. A guest that tells the truth knows more than its
 * host: what it says is used even where it is not touched, because it cannot give it without swapping. So its word
 * stands unless the working set contradicts it:
 *
 *   it claims to be in need, and in a window that lay wholly within that need it touched less than half of what it has:
 *   wss_overclaims. Where the limit alone can size it, its host sees whether it lacks memory, and it is distrusted: its
 *   word counts for nothing until it has not claimed to be in need for a while, which an honest guest does not with an
 *   empty balloon. Elsewhere it keeps what all have alike and has no claim to more (vm_doubted).
 *
 *   it is in no need, and for ten minutes each window saw less than half of what it says it uses, while others in need
 *   lack memory that nobody has too much of (the policy decides): where the limit alone can size it, what is above its
 *   own share is had of it by that, and it pays by major faults if it was wrong. Elsewhere its word stands: an honest
 *   guest that cannot be swapped by its host would swap.
 *
 *   it touched clearly more than it says it uses, page cache included: wss_underclaims. Then what it touched is its
 *   demand.
 *
 * A guest that says nothing is judged by its working set alone.
 */
#include "controller/core/policy.h"

#include <string.h>

void vm_forget_wss(struct vm *vm, uint64_t now_ms)
{
	vm->wss = (struct wss_reading){0};
	vm->wss_average = (struct wss_average){0};
	vm->wss_ms = NEVER_MS;
	vm->wss_from_ms = now_ms;
	vm->wss_overclaims = vm->wss_underclaims = false;
	vm->untouched_ms = NEVER_MS;
}

void vm_wss_new_claim(struct vm *vm)
{
	vm->wss_overclaims = false;
}

uint64_t vm_wss_until_ms(const struct vm *vm)
{
	bool known = vm->wss_ms != NEVER_MS && vm->wss_average.readings;
	return known ? add_sat_u64(vm->wss_average.ms, vm->wss.good_ms) : NEVER_MS;
}

bool vm_wss_known(const struct vm *vm, uint64_t now_ms)
{
	uint64_t until_ms = vm_wss_until_ms(vm);
	return until_ms != NEVER_MS && now_ms <= until_ms;
}

uint64_t vm_wss_bytes(const struct vm *vm)
{
	return min_u64(wss_average_bytes(&vm->wss_average), vm->facts.max_bytes);
}

uint64_t vm_wss_error_bytes(const struct vm *vm)
{
	uint64_t average = vm_wss_bytes(vm), last = min_u64(vm->wss.wss_bytes, vm->facts.max_bytes);
	uint64_t apart = average > last ? average - last : last - average;
	return min_u64(add_sat_u64(vm->wss.error_bytes, apart), vm->facts.max_bytes);
}

bool vm_wss_overclaims(const struct vm *vm, uint64_t now_ms)
{
	return vm->wss_overclaims && vm_wss_known(vm, now_ms);
}

/*
 * Of what it has. A guest that swaps in earnest has turned all of its memory over within a window; half is left for
 * memory of its kernel's own and for what its swap has no room for.
 */
#define OVERCLAIM_SHARE 2
/* Free memory that a guest takes and gives back within a window is touched and not used: a tenth of all is left for it.
 */
#define UNDERCLAIM_SHARE 10

static bool overclaims(const struct vm *vm, const struct wss_reading *r)
{
	uint64_t most = add_sat_u64(r->wss_bytes, r->error_bytes);
	return vm->needy && r->began_ms >= vm->needy_since_ms && most < vm_size_bytes(vm) / OVERCLAIM_SHARE;
}

/* A server's cache is idle for minutes, and wanted again when its next job runs. */
#define UNTOUCHED_MS 600000
#define UNTOUCHED_GROWN 8 /* says so much more than at its last window: there is something that no window has seen */

/* Before the reading is averaged: windows that were too far apart for the last to be known are no run. */
static void note_untouched(struct vm *vm, const struct vm_ctx *x, const struct wss_reading *r)
{
	uint64_t most = add_sat_u64(r->wss_bytes, r->error_bytes), said;
	if (!vm_wss_known(vm, x->now_ms))
		vm->untouched_ms = NEVER_MS;
	if (!vm_stats_recent(vm, x->config, x->now_ms) || !vm_guest_used_bytes(vm, &said))
		return; /* nonsense, or nothing, takes nothing back */
	if (!vm->distrusted)
		said = min_u64(vm_size_bytes(vm), vm->demand_bytes);
	if (most >= said / OVERCLAIM_SHARE)
		vm->untouched_ms = NEVER_MS;
	else if (vm->untouched_ms == NEVER_MS)
		vm->untouched_ms = r->began_ms;
	vm->untouched_of_bytes = said;
}

bool vm_wss_untouched(const struct vm *vm, uint64_t now_ms)
{
	return vm->untouched_ms != NEVER_MS && now_ms - vm->untouched_ms >= UNTOUCHED_MS && vm_wss_known(vm, now_ms);
}

bool vm_hoards(const struct vm *vm, const struct vm_ctx *x)
{
	uint64_t says = min_u64(vm_size_bytes(vm), vm->demand_bytes), said = vm->untouched_of_bytes;
	bool same = says <= add_sat_u64(said, said / UNTOUCHED_GROWN) && vm->demand_confidence >= 0.9;
	return vm_wss_untouched(vm, x->now_ms) && same && !vm->needy && !vm->distrusted && vm_limit_alone_works(vm, x);
}

/*
 * The most that it may touch by its own account, whichever it says: all that it does not call free; or what it says it
 * uses, all of its page cache (which `usable` counts as well as what is free), and what its kernel's own caches, which
 * no statistic tells of, may have. And what it used at most in the window. A guest that forges one of these statistics
 * is held by the other.
 */
#define KERNEL_CACHES_SHARE 8

static bool claimed_bytes(const struct vm *vm, uint64_t since_ms, uint64_t *ret)
{
	const struct guest_stats *s = &vm->stats;
	uint64_t most = UINT64_MAX;

	if (s->has_available && s->has_unused)
		most = add_sat_u64(sub_sat_u64(s->available_bytes, s->unused_bytes), vm->hidden_bytes);
	if (s->has_disk_caches && s->has_usable) /* without the latter nothing is known of what it uses */
		most = min_u64(most, add_sat_u64(add_sat_u64(vm->used_bytes, s->disk_caches_bytes),
						 vm->facts.max_bytes / KERNEL_CACHES_SHARE));
	if (most == UINT64_MAX)
		return false;
	*ret = max_u64(most, vm_past_peak_bytes(vm, since_ms));
	return true;
}

static bool underclaims(const struct vm *vm, const struct vm_ctx *x, const struct wss_reading *r)
{
	uint64_t least = sub_sat_u64(r->wss_bytes, r->error_bytes), claimed;
	return vm_stats_fresh(vm, x->config, x->now_ms) && claimed_bytes(vm, r->began_ms, &claimed) &&
	       least > add_sat_u64(claimed, vm->facts.max_bytes / UNDERCLAIM_SHARE);
}

/*
 * A guest that is paused touches nothing, and one whose memory is sent or comes in is read or written by QEMU: its
 * window was begun before that, and says nothing whatever it found. One that ends later is known by wss_from_ms.
 */
static bool guest_is_not_itself(const struct vm *vm)
{
	return vm->state == VM_PAUSED || vm->state == VM_MIGRATING_OUT || vm->state == VM_MIGRATING_IN;
}

/* So long without such a word: many times what an honest guest that had too much untouched memory needs to notice that
 * its balloon is empty. Doubled each time that it was distrusted again. */
#define TRUST_AGAIN_MS 600000
#define TRUST_MOST_MS 86400000

/* It may say what it likes: it is sized as one that says nothing. What it said before counts no more either. */
static void stop_believing(struct vm *vm, struct vm_ctx *x, const char *why)
{
	uint64_t size = vm_size_bytes(vm);
	vm_forget_account(vm);
	vm->estimate_ms = NEVER_MS;
	vm->distrusted = vm->by_limit = true;
	vm->claim_ms = vm->evidence_ms = x->now_ms;
	vm->untouched_ms = NEVER_MS;
	record(x, vm, RECORD_DISTRUSTED, size, vm_wss_bytes(vm), "%s, and touches %llu of %llu MiB", why,
	       (unsigned long long)(vm->wss.wss_bytes / MIB), (unsigned long long)(size / MIB));
}

void vm_accuse(struct vm *vm, struct vm_ctx *x)
{
	vm->accused = false;
	vm->hoarder = true;
	stop_believing(vm, x, "others lack memory, it says that it uses what it has");
}

static void believe_again(struct vm *vm, struct vm_ctx *x, const char *why)
{
	vm->distrusted = vm->hoarder = false;
	record(x, vm, RECORD_DISTRUSTED_OVER, vm_size_bytes(vm), vm->target_bytes, "%s", why);
}

void vm_review_distrust(struct vm *vm, struct vm_ctx *x)
{
	if (!vm->distrusted)
		return;
	struct vm_ctx lasting = *x;
	lasting.swap_low = false; /* that passes, and is no time to believe it */
	if (vm_wss_known(vm, x->now_ms))
		vm->evidence_ms = x->now_ms;
	if (!vm_stats_recent(vm, x->config, x->now_ms))
		vm->claim_ms = x->now_ms; /* it could not say anything */
	if (!vm_limit_alone_works(vm, &lasting))
		believe_again(vm, x, "the limit alone cannot size it any more");
	else if (x->now_ms - vm->evidence_ms >= TRUST_AGAIN_MS)
		believe_again(vm, x, "what it touches has not been known for ten minutes");
	else if (x->now_ms - vm->claim_ms >= max_u64(vm->trust_ms, TRUST_AGAIN_MS))
		believe_again(vm, x, "what it says and what it touches have agreed for long");
}

void vm_forget_distrust(struct vm *vm, struct vm_ctx *x)
{
	if (vm->distrusted)
		believe_again(vm, x, "it was reset");
	vm->by_limit = vm->silent;
	vm->trust_ms = 0;
}

void vm_take_wss(struct vm *vm, struct vm_ctx *x, const struct wss_reading *r)
{
	if (r->began_ms < vm->wss_from_ms || (r->known && guest_is_not_itself(vm)))
		return;
	vm->wss_ms = x->now_ms;
	if (!r->known) { /* what was known ages as it is */
		vm->wss.known = false;
		if (!vm->wss_average.readings)
			vm->wss.backend = r->backend;
		memcpy(vm->wss.why, r->why, sizeof(vm->wss.why));
		vm->wss.why[sizeof(vm->wss.why) - 1] = '\0';
		return;
	}
	vm->wss = *r;
	vm->wss.why[0] = '\0';
	note_untouched(vm, x, r);
	wss_average_take(&vm->wss_average, r->wss_bytes, r->error_bytes, x->now_ms);
	vm->wss_overclaims = overclaims(vm, r);
	vm->wss_underclaims = underclaims(vm, x, r);
	if (vm->distrusted && vm->untouched_ms != NEVER_MS)
		vm->claim_ms = x->now_ms;
	if (!vm->wss_overclaims || vm->distrusted || !vm_limit_alone_works(vm, x))
		return;
	vm->trust_ms = vm->trust_ms ? min_u64(2 * vm->trust_ms, TRUST_MOST_MS) : TRUST_AGAIN_MS;
	stop_believing(vm, x, "it says that it lacks memory");
}
