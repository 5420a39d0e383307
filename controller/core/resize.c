/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The hybrid: how a target is reached. Shrinking asks the balloon first and lowers the limit behind it; growing raises
 * the limit first. A balloon is judged by bytes per second over a window, never by any movement at all.
 */
#include "controller/core/policy.h"

#include <errno.h>
#include <stdio.h>

/* A balloon moves in pages and QEMU rounds: closer than this is there. */
static uint64_t balloon_tolerance_bytes(const struct vm *vm, const struct core_config *c)
{
	return max_u64(MIB, vm_dead_band_bytes(vm, c) / 4);
}

/* Limits are rounded to pages by the kernel. */
#define LIMIT_TOLERANCE_BYTES (64 * KIB)

static bool balloon_reachable(const struct vm *vm, const struct vm_ctx *x, bool growing)
{
	/* What a balloon holds is given back also where it may not be used any more. */
	return growing ? vm->facts.has_balloon && !vm->quarantined : vm_balloon_usable(vm, x);
}

/* Known not to deliver: asked, but not waited for. One that is due again, where no limit can take its part, is waited
 * for: else the same shrink would begin and end with every event. */
static bool balloon_hopeless(const struct vm *vm, const struct vm_ctx *x, bool growing)
{
	bool due = x->now_ms >= vm->retry_at_ms, limit = vm_limit_allowed(vm, x) && x->now_ms >= vm->limit_hold_ms;
	return vm->health == BALLOON_ABSENT || vm->health == BALLOON_INHIBITED ||
	       (vm->health == BALLOON_STALLED && !growing && vm->target_bytes < vm->floor_bytes && (limit || !due));
}

/*
 * A target that moves on in the same direction does not renew the window: otherwise a trickle under a policy that
 * changes its mind each second would never be judged.
 */
void resize_watch_balloon(struct vm *vm, struct vm_ctx *x, bool growing, bool retry)
{
	if (x->config->observe || !balloon_reachable(vm, x, growing) || (!retry && balloon_hopeless(vm, x, growing))) {
		vm->op_ms = NEVER_MS;
		return;
	}
	if (vm->op_ms == NEVER_MS || vm->op_growing != growing) {
		vm->op_ms = vm->window_ms = x->now_ms;
		vm->op_actual_bytes = vm->window_actual_bytes = vm->actual_bytes;
		vm->op_growing = growing;
	}
	vm->deadline_ms = max_u64(x->now_ms, vm->window_ms + x->config->stall_timeout_ms);
}

static bool balloon_at_target(const struct vm *vm, const struct core_config *c, bool growing)
{
	uint64_t tolerance = balloon_tolerance_bytes(vm, c);
	return growing ? vm_balloon_forgotten(vm) || vm->actual_bytes + tolerance >= vm->target_bytes
		       : vm->actual_trusted && vm->actual_bytes <= vm->target_bytes + tolerance;
}

/* It is believed, and says that it needs more than the limit leaves it: see review_balloon() of demand.c. */
static bool left_empty(const struct vm *vm, const struct vm_ctx *x)
{
	return vm->by_limit && !vm->silent && !vm->distrusted && !vm->pinned_bytes && !x->config->policy->own_bounds;
}

/*
 * Even where the balloon is not waited for the wish is left with QEMU: a driver that comes back then does it by itself,
 * and one that loads late does not inflate to a size of long ago.
 */
enum vm_signal resize_ask_balloon(struct vm *vm, struct vm_ctx *x, bool growing)
{
	bool there = balloon_at_target(vm, x->config, growing);
	if (x->config->observe || !balloon_reachable(vm, x, growing)) {
		vm->op_ms = NEVER_MS;
		return there ? SIG_BALLOON_DONE : SIG_BALLOON_SKIP;
	}
	uint64_t wish = vm_by_limit_alone(vm, x) || left_empty(vm, x) ? vm->facts.max_bytes : vm->target_bytes;
	bool asked = vm->balloon_asked_bytes == wish && !vm->balloon_unsure;
	if (!asked && (!there || vm->balloon_asked_bytes || x->config->policy->own_bounds))
		vm_send_balloon(vm, x, wish);
	if (there) {
		vm->op_ms = NEVER_MS;
		return SIG_BALLOON_DONE;
	}
	resize_watch_balloon(vm, x, growing, false);
	return vm->op_ms == NEVER_MS ? SIG_BALLOON_SKIP : 0;
}

static void learn_speed(struct vm *vm, struct vm_ctx *x)
{
	uint64_t moved = vm->actual_bytes > vm->op_actual_bytes ? vm->actual_bytes - vm->op_actual_bytes
								: vm->op_actual_bytes - vm->actual_bytes;
	uint64_t elapsed_ms = max_u64(1, x->now_ms - vm->op_ms);
	if (moved < 16 * MIB)
		return;
	uint64_t speed = mul_div_u64(moved, 1000, elapsed_ms);
	vm->speed_bytes_per_s = vm->speed_bytes_per_s ? vm->speed_bytes_per_s / 4 * 3 + speed / 4 : speed;
}

static void note_working(struct vm *vm, struct vm_ctx *x)
{
	bool slow = vm->speed_bytes_per_s && vm->speed_bytes_per_s < 4 * x->config->min_speed_bytes_per_s;
	vm->actual_trusted = true;
	if (vm->health == BALLOON_INHIBITED)
		return;
	if (vm->health == BALLOON_ABSENT || vm->health == BALLOON_STALLED)
		record(x, vm, RECORD_BALLOON_BACK, vm->actual_bytes, vm->target_bytes, "the driver moves again");
	vm->health = slow ? BALLOON_SLOW : BALLOON_WORKING;
	vm->retry_delay_ms = 0;
	vm->retry_at_ms = NEVER_MS;
}

static void balloon_reached(struct vm *vm, struct vm_ctx *x)
{
	learn_speed(vm, x);
	note_working(vm, x);
	if (vm->floor_bytes && vm->actual_bytes < vm->floor_bytes)
		vm->floor_bytes = 0; /* it went below: the floor was not one */
	record(x, vm, RECORD_BALLOON_REACHED, vm->op_actual_bytes, vm->actual_bytes, "%llu MiB/s",
	       (unsigned long long)(vm->speed_bytes_per_s / MIB));
	vm->op_ms = NEVER_MS;
}

/* Someone else set the balloon (virsh setmem): what it says now is the target until the policy finds a better one. */
static void adopt_foreign_size(struct vm *vm, uint64_t before_bytes)
{
	uint64_t asked = vm->balloon_asked_bytes;
	if (vm->state != VM_STEADY || !asked || vm->balloon_pending || !vm_balloon_works(vm))
		return;
	uint64_t off = vm->actual_bytes > asked ? vm->actual_bytes - asked : asked - vm->actual_bytes;
	uint64_t was_off = before_bytes > asked ? before_bytes - asked : asked - before_bytes;
	if (off <= was_off || off < 4 * MIB)
		return;
	vm->target_bytes = vm->actual_bytes;
	vm->balloon_asked_bytes = vm->actual_bytes;
	snprintf(vm->reason, sizeof(vm->reason), "balloon was set by someone else");
}

/*
 * Movement that nobody waits for: a driver that comes back. Judged over a window as well, because a trickle has its
 * bursts: what min_speed moves in a whole window, or all that was asked for. While an operation is under way its own
 * window judges.
 */
static void notice_return(struct vm *vm, struct vm_ctx *x, uint64_t before_bytes, uint64_t elapsed_ms)
{
	uint64_t actual = vm->actual_bytes, asked = vm->balloon_asked_bytes;
	if (vm->op_ms != NEVER_MS)
		return;
	if (x->now_ms - vm->window_ms > x->config->stall_timeout_ms) {
		vm->window_ms = x->now_ms - elapsed_ms;
		vm->window_actual_bytes = before_bytes;
	}
	uint64_t from = vm->window_actual_bytes, moved = from > actual ? from - actual : actual - from;
	uint64_t off = asked > actual ? asked - actual : actual - asked;
	bool there = asked && off <= balloon_tolerance_bytes(vm, x->config);
	uint64_t enough = mul_div_u64(x->config->min_speed_bytes_per_s, x->config->stall_timeout_ms, 1000);
	uint64_t span_ms = max_u64(1, x->now_ms - vm->window_ms);
	if (moved < 4 * MIB || (moved < enough && !there) ||
	    mul_div_u64(moved, 1000, span_ms) < x->config->min_speed_bytes_per_s)
		return;
	note_working(vm, x);
}

/*
 * QEMU tells of a balloon once a second at most, so that its last word about the guest of before a reset may come after
 * it. While the VM boots it is asked for all, and a new driver, which begins with an empty balloon, has nothing else to
 * say. Later it speaks when it is asked for less, and its first word is a rise; any other fall is of before.
 */
static bool late_word(const struct vm *vm, uint64_t before_bytes)
{
	bool asked_less = vm->balloon_asked_bytes && vm->balloon_asked_bytes < before_bytes;
	if (!vm->actual_stale)
		return false;
	return vm->state == VM_REBOOTING ? vm->actual_bytes < vm->facts.max_bytes
					 : vm->actual_bytes < before_bytes && !asked_less;
}

void vm_balloon_moved(struct vm *vm, struct vm_ctx *x, uint64_t actual_bytes)
{
	uint64_t before = vm->actual_bytes;
	uint64_t elapsed_ms = x->now_ms - vm->actual_ms;
	bool first = !vm->actual_seen;
	vm->actual_seen = true;
	vm->actual_bytes = actual_bytes;
	vm->actual_ms = x->now_ms;
	if (before == actual_bytes)
		return;
	vm->actual_change_ms = x->now_ms;
	bool late = late_word(vm, before);
	if (!late && !first)
		vm->actual_stale = false;
	if (first || late)
		return;
	notice_return(vm, x, before, elapsed_ms);
	adopt_foreign_size(vm, before);
	if (vm->op_ms == NEVER_MS)
		return;
	if (!vm->op_growing)
		vm->actual_trusted |= actual_bytes < before;
	if (balloon_at_target(vm, x->config, vm->op_growing)) {
		balloon_reached(vm, x);
		vm_signal(vm, SIG_BALLOON_DONE, x); /* nothing to a steady VM: the limit was there first */
	}
}

void resize_stalled(struct vm *vm, struct vm_ctx *x, bool growing)
{
	bool ever = vm->stats_advances || vm->actual_trusted || vm->speed_bytes_per_s;
	vm->health = ever ? BALLOON_STALLED : BALLOON_ABSENT;
	if (!growing)
		vm->floor_bytes = vm->actual_bytes;
	vm->retry_delay_ms =
		vm->retry_delay_ms ? min_u64(vm->retry_delay_ms * 2, x->config->retry_max_ms) : x->config->retry_min_ms;
	vm->retry_at_ms = x->now_ms + vm->retry_delay_ms;
	vm->balloon_unsure = growing; /* a guest that takes nothing back may never have been asked */
	vm->op_ms = NEVER_MS;
	record(x, vm, RECORD_BALLOON_STALLED, vm->actual_bytes, vm->target_bytes,
	       "under %llu KiB/s for %llu ms: %s; next try in %llu s",
	       (unsigned long long)(x->config->min_speed_bytes_per_s / KIB),
	       (unsigned long long)x->config->stall_timeout_ms, ever ? "stalled" : "no driver seen",
	       (unsigned long long)(vm->retry_delay_ms / 1000));
}

void vm_balloon_result(struct vm *vm, struct vm_ctx *x, int code)
{
	vm->balloon_pending = false;
	if (code == 0)
		return;
	vm->balloon_asked_bytes = 0; /* nobody knows what QEMU holds: ask again next time */
	vm->op_ms = NEVER_MS;
	vm_signal(vm, SIG_BALLOON_SKIP, x);
}

/* Whether the balloon moved fast enough in the window that ends now; the next window begins then. */
static bool window_passed(struct vm *vm, struct vm_ctx *x)
{
	uint64_t moved = vm->op_growing ? sub_sat_u64(vm->actual_bytes, vm->window_actual_bytes)
					: sub_sat_u64(vm->window_actual_bytes, vm->actual_bytes);
	uint64_t elapsed_ms = max_u64(1, x->now_ms - vm->window_ms);
	if (mul_div_u64(moved, 1000, elapsed_ms) < x->config->min_speed_bytes_per_s)
		return false;
	learn_speed(vm, x);
	note_working(vm, x);
	vm->window_ms = x->now_ms;
	vm->window_actual_bytes = vm->actual_bytes;
	return true;
}

static void judge_progress(struct vm *vm, struct vm_ctx *x)
{
	if (vm->balloon_pending || vm->op_ms == NEVER_MS) { /* libvirt's delay is not the balloon's fault */
		vm->deadline_ms = vm->op_ms = NEVER_MS;
		vm_signal(vm, SIG_BALLOON_SKIP, x);
		return;
	}
	if (window_passed(vm, x)) {
		vm->deadline_ms = x->now_ms + x->config->stall_timeout_ms;
		return;
	}
	vm->deadline_ms = NEVER_MS;
	vm_signal(vm, SIG_BALLOON_STALL, x);
}

/* The limit reached the target first: the balloon is still judged, so that what is learned of it is right. */
static void judge_in_background(struct vm *vm, struct vm_ctx *x)
{
	if (vm->op_ms == NEVER_MS || vm->balloon_pending || x->now_ms - vm->window_ms < x->config->stall_timeout_ms)
		return;
	if (!window_passed(vm, x))
		resize_stalled(vm, x, vm->op_growing);
}

void vm_timer(struct vm *vm, struct vm_ctx *x)
{
	if (x->now_ms < vm->deadline_ms)
		return;
	switch (vm->state) {
	case VM_STARTING:
	case VM_REBOOTING:
		vm_signal(vm, SIG_GRACE, x);
		break;
	case VM_SHRINKING_BALLOON:
	case VM_SHRINKING_LIMIT:
	case VM_GROWING_BALLOON:
		judge_progress(vm, x);
		break;
	default:
		vm->deadline_ms = NEVER_MS;
	}
}

uint64_t vm_next_deadline_ms(const struct vm *vm)
{
	return vm->trim_until_ms ? min_u64(vm->deadline_ms, vm->trim_until_ms) : vm->deadline_ms;
}

/* ---- limits ---- */

/* What the balloon will have brought by the next tick: that much need not be swapped. */
static uint64_t balloon_will_bring_bytes(const struct vm *vm, const struct vm_ctx *x)
{
	bool tried = vm->health == BALLOON_ABSENT || vm->health == BALLOON_STALLED || vm->health == BALLOON_INHIBITED;
	if (vm->op_ms == NEVER_MS || tried || !vm_stats_fresh(vm, x->config, x->now_ms))
		return 0;
	uint64_t elapsed_ms = sub_sat_u64(x->now_ms, vm->op_ms);
	if (elapsed_ms <= x->config->interval_ms) /* a driver that is there has one tick to show what it can */
		return UINT64_MAX;
	return mul_div_u64(vm->speed_bytes_per_s, x->config->interval_ms, 1000);
}

/*
 * The next value on the way down to `final`. Nothing that is not resident costs anything, so the first step goes to
 * residency; below it one step a tick, so that swap can follow and pressure be seen.
 */
#define LEAST_STEP_BYTES (4 * MIB)

static uint64_t next_limit_step(const struct vm *vm, const struct vm_ctx *x, uint64_t final)
{
	uint64_t resident = vm->sample.resident_bytes;
	if (resident <= final)
		return final;
	uint64_t take = sub_sat_u64(resident - final, balloon_will_bring_bytes(vm, x));
	uint64_t step = x->config->max_step_bytes;
	if (x->level >= LEVEL_HARD)
		step = add_sat_u64(step, step);
	/* Others may be stepping too: no more than half of the swap that is left to use, but no endless small steps. */
	uint64_t room = sub_sat_u64(x->host->swap_free_bytes, x->config->keep_free_bytes);
	step = min_u64(step, max_u64(room / 2, LEAST_STEP_BYTES));
	return resident - min_u64(take, step);
}

/* A limit behind a balloon that did its work only backs it up: it must not swap QEMU's own memory. */
static uint64_t final_limit(const struct vm *vm, const struct vm_ctx *x)
{
	uint64_t final = vm_limit_for(vm, x, vm->target_bytes);
	if (final != LIMIT_NONE && vm_limit_backs_up(vm, x) && balloon_at_target(vm, x->config, false))
		final = max_u64(final, add_sat_u64(vm->sample.resident_bytes, vm_limit_margin_bytes(vm) / 2));
	return final;
}

enum vm_signal resize_lower_limit(struct vm *vm, struct vm_ctx *x)
{
	/* What is swapped out before a migration would have to be read back to be sent. */
	if (x->config->observe || !vm_limit_allowed(vm, x) || vm->trim_until_ms) {
		if (vm_size_bytes(vm) > vm->target_bytes + vm_dead_band_bytes(vm, x->config) && vm->op_ms == NEVER_MS)
			vm->target_bytes = min_u64(vm_size_bytes(vm), vm_max_bytes(vm)); /* nothing more can be had */
		return SIG_LIMIT_DONE;
	}
	if (!vm->has_sample || !vm->sample.has_memory) /* never blindly: the next tick brings a sample */
		return vm_balloon_works(vm) && balloon_at_target(vm, x->config, false) ? SIG_LIMIT_DONE : 0;
	uint64_t final = final_limit(vm, x);
	uint64_t next = final == LIMIT_NONE ? LIMIT_NONE : next_limit_step(vm, x, final);
	if (vm->limit_known && !vm->limit_pending && vm->limit_bytes == next && next == final)
		return SIG_LIMIT_DONE;
	if (vm->limit_known && !vm->limit_pending && vm->limit_bytes != LIMIT_NONE && next > vm->limit_bytes &&
	    next != LIMIT_NONE)
		next = max_u64(final, vm->limit_bytes); /* a shrink never raises on its way */
	if (vm->limit_pending && vm->limit_asked_bytes == next)
		return 0;
	if (vm->limit_known && !vm->limit_pending && vm->limit_bytes == next)
		return next <= final ? SIG_LIMIT_DONE : 0;
	vm_send_limit(vm, x, next);
	return 0;
}

/* The limit for a VM that is to have size_bytes and is not being shrunk: never below what it uses. Where swap may not
 * take anything a limit has no business. */
uint64_t resize_open_limit_for(const struct vm *vm, const struct vm_ctx *x, uint64_t size_bytes)
{
	uint64_t want = vm_limit_for(vm, x, size_bytes);
	if (!vm_limit_allowed(vm, x) && !x->swap_low)
		return LIMIT_NONE;
	bool sampled = vm->has_sample && vm->sample.has_memory;
	if (want != LIMIT_NONE && sampled && (vm_limit_backs_up(vm, x) || x->swap_low))
		want = max_u64(want, add_sat_u64(vm->sample.resident_bytes, vm_limit_margin_bytes(vm)));
	return want;
}

enum vm_signal resize_raise_limit(struct vm *vm, struct vm_ctx *x)
{
	if (x->config->observe)
		return SIG_LIMIT_DONE;
	uint64_t want = resize_open_limit_for(vm, x, vm->target_bytes);
	bool open = vm->limit_known ? vm->limit_bytes == LIMIT_NONE : !vm->limit_ours;
	if (!vm->limit_pending && (open || (vm->limit_known && vm->limit_bytes >= want)))
		return SIG_LIMIT_DONE;
	if (!vm->limit_pending || vm->limit_asked_bytes != want)
		vm_send_limit(vm, x, want);
	return 0;
}

#define LIMIT_TRIES 4

static void limit_refused(struct vm *vm, struct vm_ctx *x, int code, uint64_t before_bytes)
{
	if (vm->state == VM_SHRINKING_LIMIT && vm->limit_bytes < before_bytes) { /* slow, but on its way */
		vm->limit_failures = 0;
		vm->step_ms = x->now_ms;
		return;
	}
	if (++vm->limit_failures >= LIMIT_TRIES) {
		record(x, vm, RECORD_LIMIT_FAILED, vm->limit_bytes, vm->limit_asked_bytes,
		       "the kernel refused %u times (error %d)", vm->limit_failures, -code);
		vm->limit_failures = 0;
		vm_signal(vm, SIG_LIMIT_FAIL, x);
		return;
	}
	if (vm->state == VM_GROWING_LIMIT)
		vm_send_limit(vm, x, vm->limit_asked_bytes);
	else
		vm->step_ms = x->now_ms + (x->config->interval_ms << vm->limit_failures);
}

void vm_limit_result(struct vm *vm, struct vm_ctx *x, int code, uint64_t limit_bytes)
{
	bool lower_ok = limit_bytes <= add_sat_u64(vm->limit_asked_bytes, LIMIT_TOLERANCE_BYTES);
	bool raise_ok = add_sat_u64(limit_bytes, LIMIT_TOLERANCE_BYTES) >= vm->limit_asked_bytes;
	uint64_t before = vm->limit_known ? vm->limit_bytes : LIMIT_NONE;
	vm->limit_pending = false;
	vm->limit_result_ms = x->now_ms;
	if (code < 0 && limit_bytes == 0) { /* not even the limit in force could be read */
		lower_ok = raise_ok = false;
	} else {
		vm->limit_known = true;
		vm->limit_bytes = lower_ok && raise_ok ? vm->limit_asked_bytes : limit_bytes;
		vm->limit_ours &= vm->limit_bytes != LIMIT_NONE;
		if (vm->limit_bytes < before)
			vm->lowered_ms = x->now_ms;
	}
	vm_advice_limit_result(vm, x, code, lower_ok, before);
	if (vm->state == VM_GROWING_LIMIT ? !raise_ok : !lower_ok) {
		if (vm->state == VM_GROWING_LIMIT || vm->state == VM_SHRINKING_LIMIT)
			limit_refused(vm, x, code, before);
		return;
	}
	record(x, vm, RECORD_LIMIT_CONFIRMED, before, vm->limit_bytes, "%s", vm->reason);
	vm->limit_failures = 0;
	if (vm->state == VM_GROWING_LIMIT) {
		vm_signal(vm, SIG_LIMIT_DONE, x);
	} else if (vm->state == VM_SHRINKING_LIMIT) {
		/* One step a tick; the answer came a moment after the tick that asked. */
		vm->step_ms = vm->limit_sent_ms + x->config->interval_ms / 4 * 3;
		if (vm->limit_bytes <= final_limit(vm, x))
			vm_signal(vm, SIG_LIMIT_DONE, x);
	}
}

/* systemd's daemon-reload, an administrator, libvirt's memtune: the limit is not what was set. */
static void watch_drift(struct vm *vm, struct vm_ctx *x)
{
	/* A sample from before the answer still shows the old limit. */
	bool newer = !vm->limit_asked_bytes || vm->sample_ms > vm->limit_result_ms;
	if (vm->limit_pending || !vm->limit_known || !vm->has_sample || !vm->sample.has_memory || !newer)
		return;
	uint64_t seen = vm->sample.limit_bytes;
	uint64_t off = seen > vm->limit_bytes ? seen - vm->limit_bytes : vm->limit_bytes - seen;
	if (off <= LIMIT_TOLERANCE_BYTES)
		return;
	uint64_t ours = vm->limit_bytes;
	vm->limit_bytes = seen;
	bool again = !x->config->observe && vm_plannable(vm, x) && (ours == LIMIT_NONE || vm_limit_allowed(vm, x));
	/* What was let in meanwhile goes out in steps, not at once. */
	if (seen > ours)
		ours = max_u64(ours, sub_sat_u64(vm->sample.resident_bytes, x->config->max_step_bytes));
	if (!again || (vm->limit_drift_ms != NEVER_MS && x->now_ms - vm->limit_drift_ms < 5000))
		return;
	vm->limit_drift_ms = x->now_ms;
	record(x, vm, RECORD_LIMIT_DRIFT, seen, ours, "someone else changed the limit; put back");
	vm_send_limit(vm, x, ours);
}

/* Keeps a steady VM's backstop just above what it uses, and takes away a limit that is not allowed any more. */
static void maintain_backstop(struct vm *vm, struct vm_ctx *x)
{
	if (vm->limit_pending || !vm->limit_known || vm->limit_bytes == LIMIT_NONE || !vm->has_sample ||
	    !vm->sample.has_memory)
		return;
	uint64_t margin = vm_limit_margin_bytes(vm);
	uint64_t resident = vm->sample.resident_bytes;
	bool near = add_sat_u64(resident, margin / 4) > vm->limit_bytes;
	if (!vm_limit_allowed(vm, x)) {
		/* Nearly full swap keeps what it holds: opening would call it all home at the worst time. A VM that
		 * fills its limit gets just the room that spares it an OOM kill. */
		if (!vm->limit_ours || (x->swap_low && !near))
			return;
		snprintf(vm->reason, sizeof(vm->reason), "limit %s: %s", x->swap_low ? "raised" : "opened",
			 vm_limit_forbidden_why(vm, x));
		vm_send_limit(vm, x, x->swap_low ? add_sat_u64(resident, margin) : LIMIT_NONE);
		return;
	}
	if (!vm_limit_backs_up(vm, x) || !balloon_at_target(vm, x->config, false))
		return;
	uint64_t want = max_u64(vm_limit_for(vm, x, vm->target_bytes), add_sat_u64(resident, margin));
	if (near || vm->limit_bytes > add_sat_u64(want, margin)) {
		snprintf(vm->reason, sizeof(vm->reason), "the limit follows QEMU's own memory");
		vm_send_limit(vm, x, want);
	}
}

/* How much more RAM exists than the balloon says, as last measured while it stood still; 0 where that is not known. */
static uint64_t beyond_balloon_bytes(const struct vm *vm)
{
	bool measured = vm->guest_ram_ms && vm->guest_ram_ms > vm->actual_change_ms + 1000;
	return measured ? sub_sat_u64(vm->guest_ram_bytes, vm->actual_bytes) : 0;
}

static void believe_again(struct vm *vm, struct vm_ctx *x)
{
	if (vm->guest_ram_ms == vm->inhibit_suspect_ms || vm->actual_bytes >= vm->facts.max_bytes ||
	    vm->guest_ram_ms <= vm->actual_change_ms || beyond_balloon_bytes(vm))
		return;
	vm->health = BALLOON_UNKNOWN;
	vm->inhibit_suspect_ms = NEVER_MS;
	record(x, vm, RECORD_BALLOON_BACK, vm->actual_bytes, vm->guest_ram_bytes,
	       "no more is there than the balloon says");
}

/*
 * An inhibited balloon says it shrank while the memory stays. Judged by RAM that exists in QEMU's page tables, not by
 * what is charged to the cgroup: huge pages that were given back in part stay charged until the kernel splits them. Two
 * measurements must agree.
 */
static void watch_inhibition(struct vm *vm, struct vm_ctx *x)
{
	uint64_t actual = vm->actual_bytes;
	if (vm->health == BALLOON_INHIBITED) {
		believe_again(vm, x);
		return;
	}
	if (!vm_balloon_works(vm) || beyond_balloon_bytes(vm) <= max_u64(64 * MIB, actual / 4)) {
		vm->inhibit_suspect_ms = NEVER_MS;
		return;
	}
	if (vm->inhibit_suspect_ms == NEVER_MS)
		vm->inhibit_suspect_ms = vm->guest_ram_ms;
	if (vm->guest_ram_ms == vm->inhibit_suspect_ms)
		return;
	vm->health = BALLOON_INHIBITED;
	vm->inhibit_suspect_ms = vm->guest_ram_ms;
	record(x, vm, RECORD_BALLOON_INHIBITED, actual, vm->guest_ram_bytes,
	       "balloon says it shrank but the memory stayed: not believed any more");
}

static void retry_balloon(struct vm *vm, struct vm_ctx *x)
{
	bool due = (vm->health == BALLOON_STALLED || vm->health == BALLOON_ABSENT) && x->now_ms >= vm->retry_at_ms;
	/* A driver that came late has not been asked for what the limit holds now. */
	due |= vm->health == BALLOON_UNKNOWN && vm->actual_trusted && vm->balloon_asked_bytes &&
	       vm->balloon_asked_bytes != vm->target_bytes;
	/* By the limit alone until now. */
	due |= vm_balloon_works(vm) && !vm->silent && !vm->distrusted && vm->balloon_asked_bytes == vm->facts.max_bytes;
	if (!due || !vm_plannable(vm, x) || !vm_balloon_usable(vm, x) || left_empty(vm, x) || x->config->observe)
		return;
	if (vm->actual_bytes > vm->target_bytes + balloon_tolerance_bytes(vm, x->config) && !vm->needy)
		vm_signal(vm, SIG_RETRY, x);
}

/*
 * First the limit, then the balloon: what comes out of it is not to be used unseen. The margin of a limit that backed
 * the balloon up goes as well, or so much more than the books have would be given.
 */
static void empty_balloon(struct vm *vm, struct vm_ctx *x)
{
	bool full = !vm->actual_trusted || vm->actual_bytes >= vm->facts.max_bytes;
	if (!vm_by_limit_alone(vm, x) || full || !vm_plannable(vm, x) || x->config->observe || vm->needy ||
	    !vm->limit_known || vm->limit_pending)
		return;
	uint64_t size = vm_size_bytes(vm);
	bool closed = vm->limit_bytes <= vm_limit_for(vm, x, size);
	if (closed ? vm->balloon_asked_bytes == vm->facts.max_bytes : x->now_ms < vm->limit_hold_ms)
		return;
	snprintf(vm->reason, sizeof(vm->reason), "%s: by limit, not by balloon",
		 vm->distrusted ? "its word is not believed"
		 : vm->silent	? "it tells nothing of itself"
				: "it says that it needs more than it has");
	if (closed) {
		vm_send_balloon(vm, x, vm->facts.max_bytes);
		return;
	}
	vm->target_bytes = size;
	vm_signal(vm, SIG_LOWER, x);
}

#define RESULT_LOST_MS 30000 /* a limit on v1 is lowered synchronously, to slow swap perhaps */
#define LIMIT_STALL_MS 30000 /* residency does not follow the limit: locked memory, a swap device that stands still */
#define REOPEN_MS 5000

/* An answer that never comes is a failure like any other: no state waits for ever. */
static void watch_lost_results(struct vm *vm, struct vm_ctx *x)
{
	if (vm->balloon_pending && x->now_ms - vm->balloon_sent_ms >= RESULT_LOST_MS)
		vm_balloon_result(vm, x, -ETIMEDOUT);
	if (!vm->limit_pending || x->now_ms - vm->limit_sent_ms < RESULT_LOST_MS)
		return;
	vm->limit_pending = false;
	record(x, vm, RECORD_LIMIT_FAILED, vm->limit_bytes, vm->limit_asked_bytes, "no answer for %d s",
	       RESULT_LOST_MS / 1000);
	vm_signal(vm, SIG_LIMIT_FAIL, x);
}

static void watch_limit_progress(struct vm *vm, struct vm_ctx *x)
{
	if (vm->state != VM_SHRINKING_LIMIT)
		return;
	uint64_t resident = vm->has_sample && vm->sample.has_memory ? vm->sample.resident_bytes : 0;
	if (vm->progress_ms < vm->change_ms || add_sat_u64(resident, MIB) <= vm->progress_bytes) {
		vm->progress_ms = x->now_ms;
		vm->progress_bytes = resident;
	} else if (x->now_ms - vm->progress_ms >= LIMIT_STALL_MS) {
		record(x, vm, RECORD_LIMIT_FAILED, vm->limit_bytes, vm->limit_asked_bytes, "nothing came back for %d s",
		       LIMIT_STALL_MS / 1000);
		vm_signal(vm, SIG_LIMIT_FAIL, x);
	}
}

/* Opening is the promise that must be kept: tried again where it was refused. */
static void reopen(struct vm *vm, struct vm_ctx *x)
{
	bool refused = vm->limit_ours && vm->limit_asked_bytes == LIMIT_NONE && !vm->limit_pending && vm->limit_known &&
		       vm->limit_bytes != LIMIT_NONE;
	if (refused && x->now_ms - vm->limit_sent_ms >= REOPEN_MS)
		vm_send_limit(vm, x, LIMIT_NONE);
}

/*
 * At its limit and nothing to reclaim: with the OOM killer off (v1) QEMU stands still. It gets room at once, whatever
 * the books say; they then see what was given.
 */
static void rescue_from_limit(struct vm *vm, struct vm_ctx *x)
{
	if (!vm->has_sample || !vm->sample.under_oom || !vm->limit_known || vm->limit_bytes == LIMIT_NONE)
		return;
	uint64_t want = add_sat_u64(max_u64(vm->sample.resident_bytes, vm->limit_bytes), vm_limit_margin_bytes(vm));
	if (vm->limit_pending && vm->limit_asked_bytes >= want)
		return;
	snprintf(vm->reason, sizeof(vm->reason), "nothing to reclaim at its limit: QEMU waited");
	vm_send_limit(vm, x, want);
}

void vm_maintain(struct vm *vm, struct vm_ctx *x)
{
	rescue_from_limit(vm, x);
	watch_lost_results(vm, x);
	watch_drift(vm, x);
	watch_limit_progress(vm, x);
	reopen(vm, x);
	vm_advice_maintain(vm, x);
	if (vm->state == VM_SHRINKING_LIMIT && !vm->limit_pending && x->now_ms >= vm->step_ms)
		vm_signal(vm, resize_lower_limit(vm, x), x);
	if (vm->state == VM_STEADY && !vm->drained && !x->config->observe)
		maintain_backstop(vm, x);
	if (vm->state == VM_STEADY) {
		judge_in_background(vm, x);
		watch_inhibition(vm, x);
		empty_balloon(vm, x);
		retry_balloon(vm, x);
	}
}
