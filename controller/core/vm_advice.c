/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory advice while a VM's memory is read to be sent or saved: when it begins and ends, and the room under the limit
 * that reading needs. How it is done is controller/advice's affair.
 */
#include "controller/core/vm.h"

#include <stdio.h>

/*
 * What is read between two looks of the adviser is in memory besides what was there, and under a limit it would push
 * out what the guest uses. So the limit is raised by that much meanwhile, from the buffer: ten looks a second, each
 * behind by as much as 1.25 GB/s (10 Gbit/s) bring in 0.1 s, which are 128 MiB; small VMs and slow links need less, and
 * half of the buffer stays for whom it is there for.
 */
#define ROOM_MOST_BYTES (128 * MIB)
#define ROOM_SHARE 4		   /* of the VM's maximum */
#define ROOM_LEAST_BYTES (8 * MIB) /* swapped out: for less it is not worth a limit written twice */
#define ROOM_AGAIN_MS 2000	   /* a second for the kernel to reclaim (RECLAIM_MS), and one for others */
#define ROOM_TRIES 4		   /* that came to nothing */

static void ask(struct vm *vm, struct vm_ctx *x, enum effect_type type, uint64_t bytes)
{
	struct effect *e = effect_add(x->out, type, vm->id);

	if (e)
		e->bytes = bytes;
}

/* Swapped out as it was looked at last; or by the map, which knows of memory that was never allocated, too. */
static bool wants_room(const struct vm *vm)
{
	uint64_t swapped = vm->has_sample ? vm->sample.swapped_bytes : 0;

	return max_u64(swapped, add_sat_u64(vm->advice.swapped_bytes, vm->advice.untouched_bytes)) >= ROOM_LEAST_BYTES;
}

/* Once for each reading; as long as it is due it is tried again, as a limit may be on its way or the map not there yet.
 */
static void make_room(struct vm *vm, struct vm_ctx *x)
{
	uint64_t buffer = x->buffer_bytes > 0 ? (uint64_t)x->buffer_bytes : 0;
	uint64_t room = min_u64(ROOM_MOST_BYTES, vm->facts.max_bytes / ROOM_SHARE);
	bool limited = vm->limit_ours && vm->limit_known && vm->limit_bytes != LIMIT_NONE && !vm->limit_pending;

	room = min_u64(room, buffer / 2);
	/* Raised by a memocd that was killed, or for a migration before and not down again yet: once is enough. */
	if (vm->advice_limit_bytes && vm->limit_bytes > vm->advice_limit_bytes)
		vm->advice_room_due = false;
	if (!vm->advice_room_due || vm->advice_state != ADVICE_GIVEN || !limited || !room || !wants_room(vm))
		return;
	vm->advice_room_due = false;
	snprintf(vm->reason, sizeof(vm->reason), "room for what is read of it while it is sent or saved");
	uint64_t back = vm->limit_bytes;
	vm_send_limit(vm, x, add_sat_u64(back, room));
	vm->advice_limit_bytes = back;
}

/*
 * The limit as it was. What did not go by advice goes now; where swap may not take it, later. It is owed until it is
 * confirmed, or until somebody else sends a limit (vm_send_limit()) or a new target is followed.
 */
static void take_room(struct vm *vm, struct vm_ctx *x)
{
	uint64_t back = vm->advice_limit_bytes;

	if (!back || !vm->limit_known || (vm->limit_pending && vm->limit_asked_bytes == back))
		return;
	if (!vm->limit_pending &&
	    vm->limit_bytes <= back) { /* the kernel refused to raise it, or a memocd was killed */
		vm->advice_limit_bytes = 0;
		return;
	}
	if (!vm_limit_allowed(vm, x))
		return;
	snprintf(vm->reason, sizeof(vm->reason), "its memory was read once: the limit as before");
	vm_send_limit(vm, x, back);
	vm->advice_limit_bytes = back;
}

void vm_advice_maintain(struct vm *vm, struct vm_ctx *x)
{
	bool over = vm->state == VM_STEADY || vm->state == VM_PAUSED ||
		    (vm->state == VM_MIGRATING_OUT && vm->advice_state == ADVICE_DONE);

	if (over && !vm->limit_pending && x->now_ms - vm->limit_sent_ms >= ROOM_AGAIN_MS)
		take_room(vm, x);
	make_room(vm, x);
}

void vm_advice_limit_result(struct vm *vm, struct vm_ctx *x, int code, bool reached, uint64_t before_bytes)
{
	if (!vm->advice_limit_bytes || vm->limit_asked_bytes != vm->advice_limit_bytes)
		return;
	if (reached) {
		vm->advice_limit_bytes = 0;
	} else if (vm->limit_bytes < before_bytes) {
		vm->limit_failures = 0;
	} else if (++vm->limit_failures >= ROOM_TRIES) { /* stay with what is in force, so that the books are true */
		record(x, vm, RECORD_LIMIT_FAILED, vm->limit_bytes, vm->advice_limit_bytes,
		       "the kernel refused %u times (error %d)", vm->limit_failures, -code);
		vm->limit_failures = 0;
		vm->advice_limit_bytes = 0;
		vm->target_bytes = clamp_u64(vm_size_bytes(vm), vm_min_bytes(vm, x->config), vm_max_bytes(vm));
	}
}

static void begin(struct vm *vm, struct vm_ctx *x)
{
	uint64_t spare = sub_sat_u64(x->host->swap_free_bytes, x->config->keep_free_bytes);

	vm->advice_state = ADVICE_GIVEN;
	vm->advice_again = false;
	vm->advice = (struct advice_report){.over = false};
	vm->advice_room_due = true;
	vm->advice_ms = x->now_ms;
	ask(vm, x, EFFECT_ADVICE_BEGIN, x->swap_low ? 0 : spare);
	make_room(vm, x);
}

void vm_advice_pass(struct vm *vm, struct vm_ctx *x, uint32_t pass)
{
	bool may = x->config->advice && !x->config->observe;

	if (vm->state != VM_MIGRATING_OUT || pass == 0) /* 0: its disks go first, or nothing was read yet */
		return;
	if (pass == PASS_POSTCOPY) { /* QEMU reads what is left while the guest waits for it: nothing is to go out */
		vm->advice_limit_bytes = 0;
		vm->advice_room_due = false;
	}
	vm->advice_again &= pass == 1;
	if (vm->advice_state == ADVICE_GIVEN && pass > 1) {
		vm->advice_state = ADVICE_ENDING;
		ask(vm, x, pass == PASS_POSTCOPY ? EFFECT_ADVICE_STOP : EFFECT_ADVICE_FINISH, 0);
	} else if (vm->advice_state == ADVICE_ENDING && pass == PASS_POSTCOPY) {
		ask(vm, x, EFFECT_ADVICE_STOP, 0);
	} else if (vm->advice_state == ADVICE_ENDING && vm->advice_stopped && pass == 1) {
		vm->advice_again = may; /* the next migration, before the last word of this one's advice */
	} else if (vm->advice_state == ADVICE_NONE && pass == 1 && may) {
		begin(vm, x);
	}
	/* Begun late (memocd came after the first pass), or off: nothing before the VM migrates again. */
	if (vm->advice_state == ADVICE_NONE)
		vm->advice_state = ADVICE_DONE;
}

static uint64_t mib(uint64_t bytes)
{
	return (bytes + MIB / 2) / MIB;
}

static void tell(struct vm *vm, struct vm_ctx *x)
{
	const struct advice_report *r = &vm->advice;

	if (!r->swapped_bytes && !r->untouched_bytes)
		return;
	record(x, vm, RECORD_ADVICE, r->swapped_bytes, r->out_bytes,
	       "%llu MiB read were sent out again, %llu MiB stayed, %llu MiB were the guest's; %llu of %llu MiB of "
	       "zeroes "
	       "gone",
	       (unsigned long long)mib(r->out_bytes), (unsigned long long)mib(r->stayed_bytes),
	       (unsigned long long)mib(r->guest_bytes), (unsigned long long)mib(r->zero_out_bytes),
	       (unsigned long long)mib(r->zero_bytes));
}

void vm_advice_report(struct vm *vm, struct vm_ctx *x, const struct advice_report *r)
{
	if (vm->advice_state != ADVICE_GIVEN && vm->advice_state != ADVICE_ENDING)
		return;
	vm->advice = *r;
	if (!r->over) {
		make_room(vm, x);
		return;
	}
	bool again = vm->advice_again && vm->state == VM_MIGRATING_OUT;
	vm->advice_state = vm->state == VM_MIGRATING_OUT ? ADVICE_DONE : ADVICE_NONE;
	vm->advice_again = vm->advice_stopped = false;
	tell(vm, x);
	if (again)
		begin(vm, x);
	else
		take_room(vm, x);
}

void vm_advice_over(struct vm *vm, struct vm_ctx *x)
{
	if (vm->advice_state == ADVICE_GIVEN || vm->advice_state == ADVICE_ENDING) {
		ask(vm, x, EFFECT_ADVICE_STOP, 0);
		vm->advice_state = ADVICE_ENDING;
		vm->advice_stopped = true;
	} else {
		vm->advice_state = ADVICE_NONE;
	}
	vm->advice_again = false;
	take_room(vm, x);
}

void vm_advice_gone(struct vm *vm, struct vm_ctx *x)
{
	if (vm->advice_state == ADVICE_GIVEN || vm->advice_state == ADVICE_ENDING)
		tell(vm, x);
	vm->advice_state = ADVICE_NONE;
}
