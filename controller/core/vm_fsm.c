/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state machine: one table gives next state and action for every (state, signal) pair. An action may return the
 * signal that follows at once (a VM without a balloon goes on to the limit in the same step). A zero cell is a mistake;
 * tests walk all.
 */
#include "controller/core/vm.h"

#include <stdio.h>

typedef enum vm_signal action_fn(struct vm *vm, struct vm_ctx *x);

static enum vm_signal nothing(struct vm *vm, struct vm_ctx *x)
{
	return 0;
}

static enum vm_signal settle(struct vm *vm, struct vm_ctx *x)
{
	vm->deadline_ms = NEVER_MS;
	vm->change_ms = x->now_ms;
	vm->limit_failures = 0;
	return 0;
}

/* Limits open, balloon to all: for a guest that boots anew or is not to be touched any more. */
static void open_all(struct vm *vm, struct vm_ctx *x, bool foreign_too, const char *why)
{
	vm->target_bytes = vm->facts.max_bytes;
	vm->op_ms = NEVER_MS;
	snprintf(vm->reason, sizeof(vm->reason), "%s", why);
	bool in_force = vm->limit_known && vm->limit_bytes != LIMIT_NONE;
	if (vm->limit_ours || vm->limit_pending || (foreign_too && in_force))
		vm_send_limit(vm, x, LIMIT_NONE);
	if (vm->facts.has_balloon && !vm->quarantined && vm->balloon_asked_bytes &&
	    vm->balloon_asked_bytes < vm->facts.max_bytes)
		vm_send_balloon(vm, x, vm->facts.max_bytes);
}

/* First time that the VM can be judged: it is at whatever size it has now. */
static enum vm_signal begin(struct vm *vm, struct vm_ctx *x)
{
	settle(vm, x);
	/* What an adopted VM was on its way to when memocd died is still what its balloon was asked for. */
	if (!vm->target_bytes || vm->booted || vm->origin != ORIGIN_ADOPT)
		vm->target_bytes = vm_size_bytes(vm);
	vm->booted = true;
	if (vm->drained)
		open_all(vm, x, true, "drained by memoc drain");
	return 0;
}

/* One that was found running does not begin to boot because somebody says that it runs. */
static enum vm_signal await(struct vm *vm, struct vm_ctx *x)
{
	if (vm->origin != ORIGIN_ADOPT || vm->booted)
		vm->deadline_ms = x->now_ms + x->config->grace_ms;
	return 0;
}

static enum vm_signal shrink(struct vm *vm, struct vm_ctx *x)
{
	vm->advice_limit_bytes = 0; /* of before: the new target's is what counts */
	return resize_ask_balloon(vm, x, false);
}

/* The host cannot wait: balloon and limit at once. What the balloon delivers in time the limit need not take. */
static enum vm_signal shrink_now(struct vm *vm, struct vm_ctx *x)
{
	vm->advice_limit_bytes = 0;
	vm->deadline_ms = NEVER_MS;
	if (vm_balloon_usable(vm, x) && (vm->balloon_asked_bytes != vm->target_bytes || vm->balloon_unsure))
		vm_send_balloon(vm, x, vm->target_bytes);
	resize_watch_balloon(vm, x, false, false);
	return resize_lower_limit(vm, x);
}

static enum vm_signal limit_rest(struct vm *vm, struct vm_ctx *x)
{
	vm->deadline_ms = NEVER_MS;
	return resize_lower_limit(vm, x);
}

static enum vm_signal stalled(struct vm *vm, struct vm_ctx *x)
{
	resize_stalled(vm, x, false);
	return limit_rest(vm, x);
}

static enum vm_signal stalled_growing(struct vm *vm, struct vm_ctx *x)
{
	resize_stalled(vm, x, true);
	return settle(vm, x);
}

static enum vm_signal grow(struct vm *vm, struct vm_ctx *x)
{
	vm->advice_limit_bytes = 0;
	vm->deadline_ms = NEVER_MS;
	if (!vm->op_growing)
		vm->op_ms = NEVER_MS;
	return resize_raise_limit(vm, x);
}

static enum vm_signal grow_balloon(struct vm *vm, struct vm_ctx *x)
{
	return resize_ask_balloon(vm, x, true);
}

static enum vm_signal retry(struct vm *vm, struct vm_ctx *x)
{
	record(x, vm, RECORD_BALLOON_RETRY, vm->actual_bytes, vm->target_bytes, "tried again after %llu s",
	       (unsigned long long)(vm->retry_delay_ms / 1000));
	/* What comes of it says when there is another one. Where it is broken off (need, a migration, libvirt that does
	 * not answer) it is as after a stall. */
	uint64_t again_ms = min_u64(2 * vm->retry_delay_ms, x->config->retry_max_ms);
	vm->retry_at_ms = vm->retry_delay_ms ? add_sat_u64(x->now_ms, again_ms) : NEVER_MS;
	vm_send_balloon(vm, x, vm->target_bytes);
	vm->op_ms = NEVER_MS;
	resize_watch_balloon(vm, x, false, true);
	return vm->op_ms == NEVER_MS ? SIG_BALLOON_SKIP : 0;
}

/* A needy VM is not shrunk: what it has now is its target, and every request for less is taken back. */
static enum vm_signal halt(struct vm *vm, struct vm_ctx *x)
{
	uint64_t size = max_u64(vm_size_bytes(vm), vm->target_bytes);
	vm->target_bytes = clamp_u64(size, vm_min_bytes(vm, x->config), vm_max_bytes(vm));
	snprintf(vm->reason, sizeof(vm->reason), "%s while it was shrunk: stopped",
		 vm->held || x->hold_all ? "held" : "became needy");
	vm->op_ms = NEVER_MS;
	if (vm_balloon_usable(vm, x) && vm->balloon_asked_bytes && vm->balloon_asked_bytes < vm->target_bytes)
		vm_send_balloon(vm, x, vm->target_bytes);
	uint64_t limit = resize_open_limit_for(vm, x, vm->target_bytes);
	if (vm->limit_pending || (vm->limit_known && vm->limit_bytes < limit))
		vm_send_limit(vm, x, limit);
	return settle(vm, x);
}

#define LIMIT_HOLD_MS 60000 /* what the kernel could not do now it cannot do a second later */

/*
 * The limit did not do it: stay with what is in force, so that the books are true. A limit left below residency would
 * throttle the VM for nothing.
 */
static enum vm_signal give_up(struct vm *vm, struct vm_ctx *x)
{
	bool below = vm->limit_known && vm->limit_bytes != LIMIT_NONE && vm->has_sample && vm->sample.has_memory &&
		     vm->limit_bytes < vm->sample.resident_bytes;
	if (below)
		vm_send_limit(vm, x, add_sat_u64(vm->sample.resident_bytes, vm_limit_margin_bytes(vm)));
	vm->op_ms = NEVER_MS;
	vm->limit_hold_ms = x->now_ms + LIMIT_HOLD_MS;
	vm->target_bytes = clamp_u64(vm_size_bytes(vm), vm_min_bytes(vm, x->config), vm_max_bytes(vm));
	return settle(vm, x);
}

static void forget_guest(struct vm *vm, struct vm_ctx *x)
{
	vm->actual_trusted = false;
	vm->actual_stale = true;
	vm_forget_signals(vm);
	vm_forget_wss(vm, x->now_ms);
	vm->demand_bytes = 0;
	vm->origin = ORIGIN_START;
	vm_forget_distrust(vm, x);
	if (vm->health == BALLOON_INHIBITED)
		vm->health = BALLOON_UNKNOWN;
}

static enum vm_signal reboot(struct vm *vm, struct vm_ctx *x)
{
	forget_guest(vm, x);
	record(x, vm, RECORD_REBOOTED, vm->target_bytes, vm->facts.max_bytes,
	       "guest reset: its balloon is empty again");
	open_all(vm, x, true, "guest rebooted: it has all its memory until its statistics are believable again");
	return await(vm, x);
}

static enum vm_signal note_reboot(struct vm *vm, struct vm_ctx *x)
{
	forget_guest(vm, x);
	return 0;
}

/* It will boot when it is resumed, and needs room for that. */
static enum vm_signal reboot_paused(struct vm *vm, struct vm_ctx *x)
{
	forget_guest(vm, x);
	vm->booted = false;
	open_all(vm, x, true, "guest rebooted while paused");
	return 0;
}

static enum vm_signal freeze(struct vm *vm, struct vm_ctx *x)
{
	vm->deadline_ms = vm->op_ms = NEVER_MS;
	vm->needy = false;
	vm->rank = 0;
	return 0;
}

#define BLIND_MS 10000 /* statistics come each second, and two of them are wanted */

/*
 * Statistics from before a pause say nothing: two advances are wanted again before the guest's word counts, and until
 * then nothing is taken. A guest that was started paused has all its boot before it.
 */
static enum vm_signal resume(struct vm *vm, struct vm_ctx *x)
{
	vm_forget_signals(vm);
	vm->untouched_ms = NEVER_MS;
	vm->wss_from_ms = x->now_ms; /* a window that it stood still in says nothing */
	if (!vm->advice_limit_bytes) /* a limit raised for the reading's sake is no size */
		vm->target_bytes = vm_size_bytes(vm);
	uint64_t blind_ms = vm->booted ? min_u64(BLIND_MS, x->config->grace_ms) : x->config->grace_ms;
	vm->blind_until_ms = x->now_ms + blind_ms;
	if (vm->drained)
		open_all(vm, x, true, "drained by memoc drain");
	return settle(vm, x);
}

static enum vm_signal fix(struct vm *vm, struct vm_ctx *x)
{
	vm->deadline_ms = NEVER_MS;
	vm->needy = false;
	vm->rank = 0;
	open_all(vm, x, false, "not eligible any more: everything is given back");
	return 0;
}

static enum vm_signal forget(struct vm *vm, struct vm_ctx *x)
{
	vm->deadline_ms = NEVER_MS;
	return 0;
}

struct cell {
	enum vm_state next;
	action_fn *action;
	const char *name; /* of the action */
};
#define CELL(state, action)                                                                                            \
	{                                                                                                              \
		VM_##state, action, #action                                                                            \
	}
#define STAY(state) CELL(state, nothing)

/* Signals that mean the same in every state where the guest runs under memoc's hand. */
#define LIFECYCLE                                                                                                      \
	[SIG_REBOOT] = CELL(REBOOTING, reboot), [SIG_PAUSE] = CELL(PAUSED, freeze),                                    \
	[SIG_MIGRATE_OUT] = CELL(MIGRATING_OUT, freeze), [SIG_STOP] = CELL(STOPPING, forget),                          \
	[SIG_FIX] = CELL(FIXED, fix)

/* Wishes of the policy; it makes them only where vm_plannable(). */
#define WISHES                                                                                                         \
	[SIG_LOWER] = CELL(SHRINKING_BALLOON, shrink), [SIG_LOWER_NOW] = CELL(SHRINKING_LIMIT, shrink_now),            \
	[SIG_RAISE] = CELL(GROWING_LIMIT, grow)
#define NO_WISHES(s) [SIG_LOWER] = STAY(s), [SIG_LOWER_NOW] = STAY(s), [SIG_RAISE] = STAY(s)

/* Late answers to requests of an earlier state. */
#define NO_BALLOON(s) [SIG_BALLOON_DONE] = STAY(s), [SIG_BALLOON_STALL] = STAY(s), [SIG_BALLOON_SKIP] = STAY(s)
#define NO_LIMIT(s) [SIG_LIMIT_DONE] = STAY(s), [SIG_LIMIT_FAIL] = STAY(s)
#define NO_GUEST(s) [SIG_FRESH] = STAY(s), [SIG_GRACE] = STAY(s), [SIG_NEEDY] = STAY(s), [SIG_RETRY] = STAY(s)

static const struct cell table[VM_STATE_END][SIG_END] =
	{
		[VM_STARTING] =
			{
				LIFECYCLE,
				NO_WISHES(STARTING),
				NO_BALLOON(STARTING),
				NO_LIMIT(STARTING),
				[SIG_RUNNING] = CELL(STARTING, await),
				[SIG_FRESH] = CELL(STEADY, begin),
				[SIG_GRACE] = CELL(STEADY, begin),
				[SIG_NEEDY] = STAY(STARTING),
				[SIG_RETRY] = STAY(STARTING),
				[SIG_MIGRATE_OVER] = STAY(STARTING),
				[SIG_UNFIX] = STAY(STARTING),
			},
		[VM_STEADY] =
			{
				LIFECYCLE,
				WISHES,
				NO_BALLOON(STEADY),
				NO_LIMIT(STEADY),
				[SIG_RUNNING] = STAY(STEADY),
				[SIG_FRESH] = STAY(STEADY),
				[SIG_GRACE] = STAY(STEADY),
				[SIG_NEEDY] = STAY(STEADY),
				[SIG_RETRY] = CELL(SHRINKING_BALLOON, retry),
				[SIG_MIGRATE_OVER] = STAY(STEADY),
				[SIG_UNFIX] = STAY(STEADY),
			},
		[VM_SHRINKING_BALLOON] =
			{
				LIFECYCLE,
				WISHES,
				NO_LIMIT(SHRINKING_BALLOON),
				[SIG_RUNNING] = STAY(SHRINKING_BALLOON),
				[SIG_FRESH] = STAY(SHRINKING_BALLOON),
				[SIG_GRACE] = STAY(SHRINKING_BALLOON),
				[SIG_BALLOON_DONE] = CELL(SHRINKING_LIMIT, limit_rest),
				[SIG_BALLOON_STALL] = CELL(SHRINKING_LIMIT, stalled),
				[SIG_BALLOON_SKIP] = CELL(SHRINKING_LIMIT, limit_rest),
				[SIG_NEEDY] = CELL(STEADY, halt),
				[SIG_RETRY] = STAY(SHRINKING_BALLOON),
				[SIG_MIGRATE_OVER] = STAY(SHRINKING_BALLOON),
				[SIG_UNFIX] = STAY(SHRINKING_BALLOON),
			},
		[VM_SHRINKING_LIMIT] =
			{
				LIFECYCLE,
				WISHES,
				[SIG_RUNNING] = STAY(SHRINKING_LIMIT),
				[SIG_FRESH] = STAY(SHRINKING_LIMIT),
				[SIG_GRACE] = STAY(SHRINKING_LIMIT),
				[SIG_BALLOON_DONE] = CELL(SHRINKING_LIMIT, limit_rest),
				[SIG_BALLOON_STALL] = CELL(SHRINKING_LIMIT, stalled),
				[SIG_BALLOON_SKIP] = STAY(SHRINKING_LIMIT),
				[SIG_LIMIT_DONE] = CELL(STEADY, settle),
				[SIG_LIMIT_FAIL] = CELL(STEADY, give_up),
				[SIG_NEEDY] = CELL(STEADY, halt),
				[SIG_RETRY] = STAY(SHRINKING_LIMIT),
				[SIG_MIGRATE_OVER] = STAY(SHRINKING_LIMIT),
				[SIG_UNFIX] = STAY(SHRINKING_LIMIT),
			},
		[VM_GROWING_LIMIT] =
			{
				LIFECYCLE,
				WISHES,
				NO_BALLOON(GROWING_LIMIT),
				[SIG_RUNNING] = STAY(GROWING_LIMIT),
				[SIG_FRESH] = STAY(GROWING_LIMIT),
				[SIG_GRACE] = STAY(GROWING_LIMIT),
				[SIG_LIMIT_DONE] = CELL(GROWING_BALLOON, grow_balloon),
				[SIG_LIMIT_FAIL] = CELL(STEADY, give_up),
				[SIG_NEEDY] = STAY(GROWING_LIMIT),
				[SIG_RETRY] = STAY(GROWING_LIMIT),
				[SIG_MIGRATE_OVER] = STAY(GROWING_LIMIT),
				[SIG_UNFIX] = STAY(GROWING_LIMIT),
			},
		[VM_GROWING_BALLOON] =
			{
				LIFECYCLE,
				WISHES,
				NO_LIMIT(GROWING_BALLOON),
				[SIG_RUNNING] = STAY(GROWING_BALLOON),
				[SIG_FRESH] = STAY(GROWING_BALLOON),
				[SIG_GRACE] = STAY(GROWING_BALLOON),
				[SIG_BALLOON_DONE] = CELL(STEADY, settle),
				[SIG_BALLOON_STALL] = CELL(STEADY, stalled_growing),
				[SIG_BALLOON_SKIP] = CELL(STEADY, settle),
				[SIG_NEEDY] = STAY(GROWING_BALLOON),
				[SIG_RETRY] = STAY(GROWING_BALLOON),
				[SIG_MIGRATE_OVER] = STAY(GROWING_BALLOON),
				[SIG_UNFIX] = STAY(GROWING_BALLOON),
			},
		[VM_REBOOTING] =
			{
				LIFECYCLE,
				NO_WISHES(REBOOTING),
				NO_BALLOON(REBOOTING),
				NO_LIMIT(REBOOTING),
				[SIG_RUNNING] = STAY(REBOOTING),
				[SIG_FRESH] = CELL(STEADY, begin),
				[SIG_GRACE] = CELL(STEADY, begin),
				[SIG_NEEDY] = STAY(REBOOTING),
				[SIG_RETRY] = STAY(REBOOTING),
				[SIG_MIGRATE_OVER] = STAY(REBOOTING),
				[SIG_UNFIX] = STAY(REBOOTING),
			},
		[VM_PAUSED] =
			{
				NO_WISHES(PAUSED),
				NO_BALLOON(PAUSED),
				NO_LIMIT(PAUSED),
				NO_GUEST(PAUSED),
				[SIG_RUNNING] = CELL(STEADY, resume),
				[SIG_REBOOT] = CELL(PAUSED, reboot_paused),
				[SIG_PAUSE] = STAY(PAUSED),
				[SIG_MIGRATE_OUT] = CELL(MIGRATING_OUT, freeze),
				[SIG_MIGRATE_OVER] = STAY(PAUSED),
				[SIG_STOP] = CELL(STOPPING, forget),
				[SIG_FIX] = CELL(FIXED, fix),
				[SIG_UNFIX] = STAY(PAUSED),
			},
		[VM_MIGRATING_OUT] =
			{
				NO_WISHES(MIGRATING_OUT),
				NO_BALLOON(MIGRATING_OUT),
				NO_LIMIT(MIGRATING_OUT),
				NO_GUEST(MIGRATING_OUT),
				[SIG_RUNNING] = STAY(MIGRATING_OUT),
				[SIG_REBOOT] = CELL(MIGRATING_OUT, note_reboot),
				[SIG_PAUSE] = STAY(MIGRATING_OUT),
				[SIG_MIGRATE_OUT] = STAY(MIGRATING_OUT),
				[SIG_MIGRATE_OVER] = CELL(STEADY, resume),
				[SIG_STOP] = CELL(STOPPING, forget),
				[SIG_FIX] = STAY(MIGRATING_OUT),
				[SIG_UNFIX] = STAY(MIGRATING_OUT),
			},
		[VM_MIGRATING_IN] =
			{
				NO_WISHES(MIGRATING_IN),
				NO_BALLOON(MIGRATING_IN),
				NO_LIMIT(MIGRATING_IN),
				NO_GUEST(MIGRATING_IN),
				[SIG_RUNNING] = CELL(STARTING, await),
				[SIG_REBOOT] = STAY(MIGRATING_IN),
				[SIG_PAUSE] = STAY(MIGRATING_IN),
				[SIG_MIGRATE_OUT] = STAY(MIGRATING_IN),
				[SIG_MIGRATE_OVER] = STAY(MIGRATING_IN),
				[SIG_STOP] = CELL(STOPPING, forget),
				[SIG_FIX] = CELL(FIXED, fix),
				[SIG_UNFIX] = STAY(MIGRATING_IN),
			},
		[VM_STOPPING] =
			{
				NO_WISHES(STOPPING),
				NO_BALLOON(STOPPING),
				NO_LIMIT(STOPPING),
				NO_GUEST(STOPPING),
				[SIG_RUNNING] = STAY(STOPPING),
				[SIG_REBOOT] = STAY(STOPPING),
				[SIG_PAUSE] = STAY(STOPPING),
				[SIG_MIGRATE_OUT] = STAY(STOPPING),
				[SIG_MIGRATE_OVER] = STAY(STOPPING),
				[SIG_STOP] = STAY(STOPPING),
				[SIG_FIX] = STAY(STOPPING),
				[SIG_UNFIX] = STAY(STOPPING),
			},
		[VM_FIXED] =
			{
				NO_WISHES(FIXED),
				NO_BALLOON(FIXED),
				NO_LIMIT(FIXED),
				NO_GUEST(FIXED),
				[SIG_RUNNING] = STAY(FIXED),
				[SIG_REBOOT] = CELL(FIXED, note_reboot),
				[SIG_PAUSE] = STAY(FIXED),
				[SIG_MIGRATE_OUT] = STAY(FIXED),
				[SIG_MIGRATE_OVER] = STAY(FIXED),
				[SIG_STOP] = CELL(STOPPING, forget),
				[SIG_FIX] = STAY(FIXED),
				[SIG_UNFIX] = CELL(STARTING, await),
			},
};

enum vm_state vm_table_next(enum vm_state s, enum vm_signal sig, const char **ret_action)
{
	const struct cell *cell = &table[s][sig];
	if (ret_action)
		*ret_action = cell->name;
	return cell->next;
}

/* The longest chain is lower → balloon-skip → limit-done: a bound on the loop, not a limit to be met. */
#define CHAIN_MAX 6

void vm_signal(struct vm *vm, enum vm_signal sig, struct vm_ctx *x)
{
	for (unsigned i = 0; sig && i < CHAIN_MAX; i++) {
		const struct cell *cell = &table[vm->state][sig];
		enum vm_state before = vm->state;
		vm->state = cell->next;
		if (before != vm->state) {
			record(x, vm, RECORD_STATE, vm_size_bytes(vm), vm->target_bytes, "%s -> %s on %s",
			       vm_state_name(before), vm_state_name(vm->state), vm_signal_name(sig));
			vm->change_ms = x->now_ms;
		}
		sig = cell->action(vm, x);
	}
}
