/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How targets are reached: the hybrid of balloon and limit, its failures, what is learned, and lifecycles in between.
 */
#include "tests/unit/core_kit.h"

#include <errno.h>

/* One VM of 512 MiB, all of it resident, wishing for nothing; the pool is so large that the policy keeps still. */
static int open_kit(void **state)
{
	static struct kit k;
	struct core_config c = kit_config();
	c.pool_bytes = 64 * GIB;
	kit_open(&k, &c);
	kit_steady(&k, 1, 512 * MIB, 400 * MIB);
	*state = &k;
	return 0;
}

static int close_kit(void **state)
{
	kit_close(*state);
	return 0;
}

/* A person's pin is the plainest way to ask for a size. */
static void pin(struct kit *k, uint64_t bytes)
{
	struct event ev = {.type = EVENT_VM_PIN, .vm = 1, .bytes = bytes};
	assert_int_equal(kit_step(k, &ev), 0);
}

static void balloon_moves(struct kit *k, uint64_t bytes)
{
	struct event ev = {.type = EVENT_VM_BALLOON, .vm = 1, .bytes = bytes};
	assert_int_equal(kit_step(k, &ev), 0);
}

static void answer(struct kit *k, enum effect_op op, int code, uint64_t bytes)
{
	struct vm *vm = kit_vm(k, 1);
	assert_int_equal(kit_result(k, 1, op, op == OP_LIMIT ? vm->limit_seq : vm->balloon_seq, code, bytes), 0);
}

static void timer(struct kit *k, uint64_t advance_ms)
{
	k->now_ms += advance_ms;
	struct event ev = {.type = EVENT_TIMER};
	assert_int_equal(kit_step(k, &ev), 0);
}

static void shrink_is_balloon_then_limit(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	pin(k, 300 * MIB);
	assert_int_equal(vm->state, VM_SHRINKING_BALLOON);
	assert_non_null(kit_find(k, EFFECT_BALLOON, 1));
	assert_int_equal(kit_find(k, EFFECT_BALLOON, 1)->bytes, 300 * MIB);
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
	answer(k, OP_BALLOON, 0, 0);
	k->now_ms += 500;
	balloon_moves(k, 400 * MIB);
	assert_int_equal(vm->state, VM_SHRINKING_BALLOON);
	k->now_ms += 500;
	balloon_moves(k, 301 * MIB);
	assert_int_equal(vm->state, VM_SHRINKING_LIMIT);
	assert_int_equal(vm->health, BALLOON_WORKING);
	assert_in_range(vm->speed_bytes_per_s, 200 * MIB, 220 * MIB);
	const struct effect *limit = kit_find(k, EFFECT_LIMIT, 1);
	assert_non_null(limit);
	assert_true(limit->bytes > 300 * MIB);
	answer(k, OP_LIMIT, 0, limit->bytes);
	assert_int_equal(vm->state, VM_STEADY);
	assert_int_equal(vm_size_bytes(vm), 301 * MIB);
	/* Within the dead band, 5 MiB: a policy would not move for that, a person's word is done. */
	pin(k, 298 * MIB);
	assert_int_equal(kit_find(k, EFFECT_BALLOON, 1)->bytes, 298 * MIB);
}

static void grow_is_limit_then_balloon(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->actual_bytes = 300 * MIB;
	vm->health = BALLOON_WORKING;
	vm->limit_known = vm->limit_ours = true;
	vm->limit_bytes = vm->limit_asked_bytes = 316 * MIB;
	vm->sample.resident_bytes = 300 * MIB;
	pin(k, 400 * MIB);
	assert_int_equal(vm->state, VM_GROWING_LIMIT);
	assert_null(kit_find(k, EFFECT_BALLOON, 1));
	uint64_t limit = kit_find(k, EFFECT_LIMIT, 1)->bytes;
	assert_true(limit >= 400 * MIB);
	answer(k, OP_LIMIT, 0, limit);
	assert_int_equal(vm->state, VM_GROWING_BALLOON);
	assert_int_equal(kit_find(k, EFFECT_BALLOON, 1)->bytes, 400 * MIB);
	answer(k, OP_BALLOON, 0, 0);
	k->now_ms += 100;
	balloon_moves(k, 400 * MIB);
	assert_int_equal(vm->state, VM_STEADY);
	pin(k, 512 * MIB); /* all of it: no limit */
	assert_true(kit_find(k, EFFECT_LIMIT, 1)->bytes == LIMIT_NONE);
}

/* Shrinks by `step` each 100 ms until judged; returns when the balloon's time was up. */
static bool stalls_at(struct kit *k, uint64_t page_bytes, uint64_t each_ms)
{
	struct vm *vm = kit_vm(k, 1);
	pin(k, 300 * MIB);
	answer(k, OP_BALLOON, 0, 0);
	for (uint64_t ms = 100; ms <= 20000; ms += 100) {
		k->now_ms += 100;
		if (ms % each_ms == 0)
			balloon_moves(k, vm->actual_bytes - page_bytes);
		if (core_next_wakeup_ms(k->core) <= k->now_ms)
			timer(k, 0);
		if (vm->health == BALLOON_STALLED)
			return true;
		if (vm->state == VM_STEADY || vm->actual_bytes < 301 * MIB)
			return false;
	}
	return false;
}

static void one_page_in_five_seconds_is_a_stall(void **state)
{
	struct kit *k = *state;
	assert_true(stalls_at(k, 4096, 5000));
	struct vm *vm = kit_vm(k, 1);
	assert_true(kit_record(k, RECORD_BALLOON_STALLED, 1) != NULL);
	assert_true(vm->floor_bytes > 511 * MIB);
	assert_int_equal(vm->retry_delay_ms, 30000);
	assert_int_equal(vm->state, VM_SHRINKING_LIMIT); /* the limit does the rest */
}

static void under_min_speed_is_a_stall(void **state)
{
	struct kit *k = *state; /* min_speed is 4 MiB/s */
	assert_true(stalls_at(k, 390 * KIB, 100));
}

static void just_above_min_speed_is_slow_but_no_stall(void **state)
{
	struct kit *k = *state;
	assert_false(stalls_at(k, 450 * KIB, 100));
	assert_int_equal(kit_vm(k, 1)->health, BALLOON_SLOW);
}

static void a_moving_target_does_not_hide_a_trickle(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	for (uint64_t i = 0; i < 5 && vm->health != BALLOON_STALLED; i++) {
		pin(k, 400 * MIB - i * 20 * MIB);
		kit_answer(k);
		timer(k, 900);
	}
	assert_int_equal(vm->health, BALLOON_STALLED);
}

static void no_word_from_the_guest_ever_is_no_driver(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_add(k, 2, 512 * MIB);
	kit_sample(k, 2, 512 * MIB, LIMIT_NONE, 0);
	k->now_ms += 60000;
	timer(k, 0);
	assert_int_equal(vm->state, VM_STEADY);
	struct event ev = {.type = EVENT_VM_PIN, .vm = 2, .bytes = 300 * MIB};
	assert_int_equal(kit_step(k, &ev), 0);
	kit_answer(k);
	timer(k, 3000);
	assert_int_equal(vm->health, BALLOON_ABSENT);
	for (int i = 0; i < 3; i++) /* and then one loads */
		kit_stats(k, 2, 512 * MIB, 400 * MIB);
	assert_int_equal(vm->health, BALLOON_UNKNOWN);
}

static void retries_double_up_to_their_maximum(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	assert_true(stalls_at(k, 0, 100));
	uint64_t delay_ms = 30000;
	for (int i = 0; i < 8; i++) {
		assert_int_equal(vm->retry_delay_ms, delay_ms);
		uint64_t due_ms = k->now_ms + delay_ms;
		bool tried = false;
		while (!tried) {
			kit_answer(k);
			kit_sample(k, 1, min_u64(512 * MIB, vm->limit_bytes), vm->limit_bytes, 0);
			kit_tick(k, 1000);
			tried = kit_record(k, RECORD_BALLOON_RETRY, 1) != NULL;
			assert_true(k->now_ms <= due_ms + 20000);
			assert_true(!tried || k->now_ms >= due_ms - 1000);
		}
		while (vm->state == VM_SHRINKING_BALLOON) {
			kit_answer(k);
			timer(k, 500);
		}
		delay_ms = min_u64(delay_ms * 2, k->config.retry_max_ms);
	}
	assert_int_equal(vm->retry_delay_ms, k->config.retry_max_ms);
}

/* Until the balloon is tried again, with a sample a second of a VM that fills its limit. */
static void wait_retry(struct kit *k, uint64_t most_ms)
{
	struct vm *vm = kit_vm(k, 1);
	uint64_t until_ms = k->now_ms + most_ms;
	do {
		assert_true(k->now_ms <= until_ms);
		kit_answer(k);
		kit_sample(k, 1, min_u64(512 * MIB, vm->limit_bytes), vm->limit_bytes, 0);
		kit_tick(k, 1000);
	} while (!kit_record(k, RECORD_BALLOON_RETRY, 1));
	assert_int_equal(vm->state, VM_SHRINKING_BALLOON);
}

/* Whatever ends a try before it was judged: another one comes. */
static void a_retry_broken_off_is_made_again(void **state)
{
	struct kit *k = *state;
	assert_true(stalls_at(k, 0, 100));
	wait_retry(k, 45000);
	for (int i = 0; i < 3; i++) {
		struct event ev = {.type = EVENT_VM_HOLD, .vm = 1, .flag = true};
		assert_int_equal(kit_step(k, &ev), 0);
		assert_int_equal(kit_vm(k, 1)->state, VM_STEADY);
		kit_answer(k);
		ev.flag = false;
		assert_int_equal(kit_step(k, &ev), 0);
		wait_retry(k, 90000);
	}
}

static void a_driver_that_comes_back_is_noticed(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	assert_true(stalls_at(k, 0, 100));
	for (int i = 0; i < 6; i++) {
		kit_answer(k);
		kit_tick(k, 1000);
		balloon_moves(k, 512 * MIB);
	}
	k->now_ms += 1000;
	balloon_moves(k, 490 * MIB);
	assert_non_null(kit_record(k, RECORD_BALLOON_BACK, 1));
	assert_int_equal(vm->health, BALLOON_WORKING);
	assert_int_equal(vm->retry_delay_ms, 0);
}

static void the_learned_floor_is_not_waited_for_again(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_STALLED;
	vm->floor_bytes = 350 * MIB;
	vm->retry_at_ms = k->now_ms + 100000;
	pin(k, 300 * MIB);
	assert_int_equal(vm->state, VM_SHRINKING_LIMIT); /* at once */
	assert_non_null(kit_find(k, EFFECT_BALLOON, 1)); /* the wish is left with QEMU all the same */
}

static void limit_goes_down_in_steps_from_residency(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_ABSENT;
	vm->actual_trusted = false;
	pin(k, 200 * MIB);
	uint64_t resident = 512 * MIB;
	for (int i = 0; i < 10 && vm->state == VM_SHRINKING_LIMIT; i++) {
		const struct effect *e = kit_find(k, EFFECT_LIMIT, 1);
		if (e) {
			assert_true(e->bytes + k->config.max_step_bytes >= resident);
			resident = e->bytes;
			answer(k, OP_LIMIT, 0, e->bytes);
		}
		k->now_ms += 1000;
		kit_sample(k, 1, resident, resident, 0);
		kit_tick(k, 0);
	}
	assert_int_equal(vm->state, VM_STEADY);
	assert_int_equal(vm->limit_bytes, 200 * MIB);
}

static void a_lost_answer_ends_a_state(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_ABSENT;
	vm->actual_trusted = false;
	pin(k, 300 * MIB);
	assert_int_equal(vm->state, VM_SHRINKING_LIMIT);
	uint32_t seq = vm->limit_seq;
	bool failed = false;
	for (int i = 0; i < 40 && !failed; i++) {
		kit_tick(k, 1000);
		failed = kit_record(k, RECORD_LIMIT_FAILED, 1) != NULL;
	}
	assert_true(failed);
	assert_int_equal(vm->state, VM_STEADY);
	kit_result(k, 1, OP_LIMIT, seq, 0, 384 * MIB); /* it comes after all: true, so taken */
	assert_int_equal(vm->limit_bytes, 384 * MIB);
	assert_int_equal(vm->state, VM_STEADY);
}

static void residency_that_does_not_follow_is_given_up(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_ABSENT;
	vm->actual_trusted = false;
	pin(k, 300 * MIB);
	bool failed = false;
	for (int i = 0; i < 60 && !failed; i++) {
		kit_answer(k);
		k->now_ms += 1000;
		kit_sample(k, 1, 512 * MIB, vm->limit_bytes, 0);
		kit_tick(k, 0);
		failed = kit_record(k, RECORD_LIMIT_FAILED, 1) != NULL;
	}
	assert_true(failed);
	assert_true(kit_find(k, EFFECT_LIMIT, 1)->bytes >= 512 * MIB); /* no throttling for nothing */
	assert_int_equal(vm->state, VM_STEADY);
	kit_answer(k);
	kit_tick(k, 1000);
	assert_int_equal(vm->state, VM_STEADY); /* and not tried again at once */
}

static void stale_results_are_ignored(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_ABSENT;
	pin(k, 300 * MIB);
	uint32_t old = vm->limit_seq;
	assert_true(vm->limit_pending);
	vm_send_limit(vm, &(struct vm_ctx){.config = &k->config, .host = &k->host, .now_ms = k->now_ms, .out = &k->out},
		      400 * MIB);
	assert_int_equal(kit_result(k, 1, OP_LIMIT, old, 0, 111 * MIB), 0);
	assert_true(vm->limit_pending);
	assert_true(vm->limit_bytes != 111 * MIB);
	assert_int_equal(kit_result(k, 1, OP_LIMIT, vm->limit_seq + 1, 0, 111 * MIB), 0);
	assert_true(vm->limit_pending);
	assert_int_equal(kit_result(k, 77, OP_LIMIT, 1, 0, 0), -ENOENT);
}

static void a_failure_that_cannot_read_the_limit_changes_no_books(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_ABSENT;
	vm->actual_trusted = false;
	pin(k, 300 * MIB);
	answer(k, OP_LIMIT, -ENOENT, 0);
	assert_int_equal(vm_size_bytes(vm), 512 * MIB);
}

static void needy_in_mid_shrink_stops_it(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	struct core_config c = k->config;
	c.pool_bytes = 460 * MIB;
	struct event ev = {.type = EVENT_CONFIG, .config = &c};
	assert_int_equal(kit_step(k, &ev), 0);
	kit_tick(k, 1000);
	kit_answer(k);
	assert_int_not_equal(vm->state, VM_STEADY);
	uint64_t target = vm->target_bytes;
	k->now_ms += 300;
	balloon_moves(k, 490 * MIB);
	kit_stats_swap(k, 1, 490 * MIB, 2 * MIB, 0, 0);
	assert_true(vm->needy);
	assert_true(vm->target_bytes > target);
	assert_int_equal(kit_find(k, EFFECT_BALLOON, 1)->bytes, vm->target_bytes);
}

/* Within the dead band of where a person pinned it, but without the limit behind. */
static void a_shrink_halted_near_its_pin_is_finished(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	pin(k, 300 * MIB);
	kit_answer(k);
	k->now_ms += 500;
	balloon_moves(k, 304 * MIB);
	kit_stats_swap(k, 1, 304 * MIB, 2 * MIB, 50 * MIB, 50 * MIB);
	assert_true(vm->needy);
	kit_answer(k);
	for (int i = 0; i < 10 && vm->state != VM_SHRINKING_BALLOON; i++) {
		kit_tick(k, 1000);
		kit_answer(k);
	}
	assert_int_equal(vm->state, VM_SHRINKING_BALLOON);
	assert_int_equal(vm->target_bytes, 300 * MIB);
	balloon_moves(k, 300 * MIB);
	kit_answer(k);
	assert_int_equal(vm->state, VM_STEADY);
	assert_int_not_equal(vm->limit_bytes, LIMIT_NONE);
	kit_tick(k, 1000);
	assert_int_equal(vm->state, VM_STEADY);
}

/* How much RAM of the guest exists, and a tick. */
static void measure(struct kit *k, uint64_t ram_bytes)
{
	struct event ev = {.type = EVENT_VM_SAMPLE, .vm = 1};
	ev.sample = (struct vm_host_sample){.has_memory = true,
					    .resident_bytes = ram_bytes,
					    .limit_bytes = LIMIT_NONE,
					    .has_overhead = true,
					    .guest_ram_bytes = ram_bytes};
	k->now_ms += 1000;
	assert_int_equal(kit_step(k, &ev), 0);
	kit_tick(k, 0);
}

/* A hundredth of its memory is its dead band; at level hard many such shares are what somebody lacks. */
static void where_the_host_is_short_little_is_worth_a_shrink(void **state)
{
	(void)state;
	struct kit kit, *k = &kit;
	struct core_config c = kit_config();
	c.pool_bytes = GIB;
	kit_open(k, &c);
	struct vm *vm = kit_add(k, 1, GIB);
	kit_sample(k, 1, GIB, LIMIT_NONE, 0);
	for (int i = 0; i < 3; i++)
		kit_stats(k, 1, GIB, 16 * MIB);
	kit_tick(k, 1000);
	assert_true(core_books(k->core)->level >= LEVEL_HARD);
	assert_false(vm->needy);
	assert_int_equal(vm->target_bytes, GIB - 8 * MIB + MIB / 16);
	kit_close(k);
}

static void a_lower_maximum_waits_for_the_needy(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	kit_sample(k, 1, 512 * MIB, LIMIT_NONE, 0);
	k->now_ms += 1000;
	kit_stats_swap(k, 1, 512 * MIB, 10 * MIB, 50 * MIB, 0);
	assert_true(vm->needy);
	struct event ev = {.type = EVENT_VM_FACTS, .vm = 1, .facts = kit_facts(512 * MIB)};
	ev.facts.policy.max_bytes = 300 * MIB;
	assert_int_equal(kit_step(k, &ev), 0);
	assert_int_equal(vm->state, VM_STEADY);
	for (int i = 0; i < 5; i++) {
		k->now_ms += 1000;
		kit_stats(k, 1, 512 * MIB, 300 * MIB);
		kit_tick(k, 0);
	}
	assert_false(vm->needy);
	assert_int_equal(vm->state, VM_SHRINKING_BALLOON);
	assert_int_equal(vm->target_bytes, 300 * MIB);
}

static void nearly_full_swap_takes_no_more(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_ABSENT;
	vm->actual_trusted = false;
	k->host.swap_free_bytes = 63 * MIB; /* keep_free is 64 */
	kit_tick(k, 1000);
	assert_non_null(kit_record(k, RECORD_SWAP_LOW, 0));
	pin(k, 300 * MIB);
	k->host.swap_free_bytes = 79 * MIB; /* not yet: left a quarter above where it is entered */
	for (int i = 0; i < 5; i++) {
		kit_tick(k, 1000);
		assert_null(kit_find(k, EFFECT_LIMIT, 1));
		assert_null(kit_record(k, RECORD_SWAP_LOW, 0)); /* said once */
		assert_int_equal(vm->state, VM_STEADY);
	}
	k->host.swap_free_bytes = 200 * MIB;
	kit_tick(k, 1000);
	assert_non_null(kit_record(k, RECORD_SWAP_LOW_OVER, 0));
	assert_non_null(kit_find(k, EFFECT_LIMIT, 1));
}

static void inhibited_balloons_are_found_out_and_forgiven(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_WORKING;
	vm->actual_bytes = vm->target_bytes = vm->balloon_asked_bytes = 250 * MIB;
	k->now_ms += 5000;
	measure(k, 512 * MIB); /* it says 250, but all is there */
	assert_int_equal(vm->health, BALLOON_WORKING);
	kit_tick(k, 1000);
	assert_int_equal(vm->health, BALLOON_WORKING); /* the same measurement is not a second one */
	measure(k, 512 * MIB);
	assert_int_equal(vm->health, BALLOON_INHIBITED);
	assert_int_equal(vm_size_bytes(vm), 512 * MIB); /* its word does not count */
	measure(k, 240 * MIB);
	assert_int_equal(vm->health, BALLOON_UNKNOWN);
	vm->health = BALLOON_INHIBITED;
	kit_signal(k, EVENT_VM_REBOOTED, 1);
	assert_int_equal(vm->health, BALLOON_UNKNOWN);
}

static void a_limit_changed_by_others_is_put_back_once(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_ABSENT;
	vm->actual_trusted = false;
	pin(k, 400 * MIB);
	kit_answer(k);
	kit_tick(k, 1000);
	assert_int_equal(vm->limit_bytes, 400 * MIB);
	k->now_ms += 1000;
	kit_sample(k, 1, 400 * MIB, LIMIT_NONE, 0);
	kit_tick(k, 0);
	assert_non_null(kit_record(k, RECORD_LIMIT_DRIFT, 1));
	assert_int_equal(kit_find(k, EFFECT_LIMIT, 1)->bytes, 400 * MIB);
	kit_answer(k);
	struct event hold = {.type = EVENT_VM_HOLD, .vm = 1, .flag = true};
	assert_int_equal(kit_step(k, &hold), 0);
	k->now_ms += 10000;
	kit_sample(k, 1, 400 * MIB, 500 * MIB, 0);
	kit_tick(k, 0);
	assert_null(kit_find(k, EFFECT_LIMIT, 1)); /* hands off while held; the books know */
	assert_int_equal(vm->limit_bytes, 500 * MIB);
}

/* v1 with the OOM killer off: a VM that waits at its limit gets room at once, whatever the books say. */
static void what_waits_at_its_limit_is_rescued(void **state)
{
	struct kit *k = *state;
	kit_steady(k, 7, 512 * MIB, 100 * MIB);
	kit_sample(k, 7, 300 * MIB, 304 * MIB, 0);
	kit_tick(k, 1000);
	kit_answer(k);
	struct event ev = {.type = EVENT_VM_SAMPLE, .vm = 7};
	ev.sample.has_memory = ev.sample.under_oom = true;
	ev.sample.resident_bytes = 304 * MIB;
	ev.sample.limit_bytes = kit_vm(k, 7)->limit_bytes;
	k->now_ms += 500;
	kit_step(k, &ev);
	kit_tick(k, 500);
	const struct effect *e = kit_find(k, EFFECT_LIMIT, 7);
	assert_non_null(e);
	assert_true(e->bytes >= 304 * MIB + 16 * MIB);
	assert_true(kit_vm(k, 7)->needy);
}

static void a_sample_from_before_the_answer_is_no_drift(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_ABSENT;
	vm->actual_trusted = false;
	pin(k, 400 * MIB);
	k->now_ms += 400;
	kit_sample(k, 1, 512 * MIB, LIMIT_NONE, 0);
	k->now_ms += 100;
	answer(k, OP_LIMIT, 0, vm->limit_asked_bytes);
	kit_tick(k, 500);
	assert_null(kit_record(k, RECORD_LIMIT_DRIFT, 1));
}

static void reboot_opens_and_forgets(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->limit_known = vm->limit_ours = true;
	vm->limit_bytes = vm->limit_asked_bytes = 300 * MIB;
	vm->actual_bytes = vm->balloon_asked_bytes = vm->target_bytes = 280 * MIB;
	kit_signal(k, EVENT_VM_REBOOTED, 1);
	assert_int_equal(vm->state, VM_REBOOTING);
	assert_true(kit_find(k, EFFECT_LIMIT, 1)->bytes == LIMIT_NONE);
	assert_int_equal(kit_find(k, EFFECT_BALLOON, 1)->bytes, 512 * MIB);
	kit_answer(k);
	assert_int_equal(vm_size_bytes(vm), 512 * MIB); /* whatever `actual` says */
	kit_stats(k, 1, 280 * MIB, 100 * MIB);
	assert_int_equal(vm->state, VM_REBOOTING);
	kit_stats(k, 1, 512 * MIB, 400 * MIB);
	assert_int_equal(vm->state, VM_STEADY); /* two advances */
	assert_int_equal(vm->target_bytes, 512 * MIB);
}

/* QEMU tells BALLOON_CHANGE once a second at most: the last of it may come after the reset. */
static void a_late_word_of_the_balloon_is_not_the_new_drivers(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->actual_bytes = 161 * MIB;
	vm->balloon_asked_bytes = vm->target_bytes = 160 * MIB;
	kit_signal(k, EVENT_VM_REBOOTED, 1);
	kit_answer(k);
	struct event ev = {.type = EVENT_VM_STATS, .vm = 1, .stats = vm->stats};
	ev.stats.actual_bytes = 160 * MIB; /* of before; the new driver, asked for nothing, does not correct it */
	ev.stats.available_bytes = 500 * MIB;
	for (int i = 0; i < 3; i++) {
		ev.stats.last_update_s++;
		assert_int_equal(kit_step(k, &ev), 0);
	}
	assert_int_equal(vm->state, VM_STEADY);
	assert_int_equal(vm_size_bytes(vm), 512 * MIB);
	ev.stats.last_update_s++;
	ev.stats.actual_bytes = 511 * MIB; /* and now it speaks */
	assert_int_equal(kit_step(k, &ev), 0);
	assert_int_equal(vm_size_bytes(vm), 511 * MIB);
}

/* As above, but the old driver was quick: what is told late is a leap, not a MiB. */
static void a_late_leap_of_the_balloon_is_not_the_new_drivers(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->actual_bytes = 200 * MIB; /* in mid-shrink, seen 100 ms ago */
	vm->actual_ms = k->now_ms - 100;
	vm->balloon_asked_bytes = vm->target_bytes = 160 * MIB;
	kit_signal(k, EVENT_VM_REBOOTED, 1);
	kit_answer(k);
	k->now_ms += 100;
	struct event word = {
		.type = EVENT_VM_BALLOON, .vm = 1, .bytes = 160 * MIB}; /* BALLOON_CHANGE, held back by QEMU */
	assert_int_equal(kit_step(k, &word), 0);
	print_message("after the late word: state %s, trusted %d, stale %d, size %llu MiB\n", vm_state_name(vm->state),
		      vm->actual_trusted, vm->actual_stale, (unsigned long long)(vm_size_bytes(vm) / MIB));
	struct event ev = {.type = EVENT_VM_STATS, .vm = 1, .stats = vm->stats};
	ev.stats.actual_bytes = 160 * MIB;
	ev.stats.available_bytes = 500 * MIB;
	for (int i = 0; i < 3; i++) {
		k->now_ms += 1000;
		ev.stats.last_update_s++;
		assert_int_equal(kit_step(k, &ev), 0);
	}
	print_message("steady: state %s, trusted %d, size %llu MiB, target %llu MiB\n", vm_state_name(vm->state),
		      vm->actual_trusted, (unsigned long long)(vm_size_bytes(vm) / MIB),
		      (unsigned long long)(vm->target_bytes / MIB));
	assert_int_equal(vm->state, VM_STEADY);
	assert_int_equal(vm_size_bytes(vm), 512 * MIB);
}

static void after_reset(struct kit *k, struct vm *vm, uint64_t late_mib, const char *what)
{
	kit_signal(k, EVENT_VM_REBOOTED, 1);
	kit_answer(k);
	k->now_ms += 100;
	struct event word = {.type = EVENT_VM_BALLOON, .vm = 1, .bytes = late_mib * MIB};
	assert_int_equal(kit_step(k, &word), 0);
	print_message("%s: after the late word: %s, asked %llu, trusted %d, stale %d, size %llu MiB\n", what,
		      vm_state_name(vm->state), (unsigned long long)(vm->balloon_asked_bytes / MIB), vm->actual_trusted,
		      vm->actual_stale, (unsigned long long)(vm_size_bytes(vm) / MIB));
	struct event ev = {.type = EVENT_VM_STATS, .vm = 1, .stats = vm->stats};
	ev.stats.actual_bytes = late_mib * MIB;
	ev.stats.available_bytes = 500 * MIB;
	for (int i = 0; i < 3; i++) {
		k->now_ms += 1000;
		ev.stats.last_update_s++;
		assert_int_equal(kit_step(k, &ev), 0);
	}
	print_message("%s: %s, trusted %d, size %llu MiB, target %llu MiB\n", what, vm_state_name(vm->state),
		      vm->actual_trusted, (unsigned long long)(vm_size_bytes(vm) / MIB),
		      (unsigned long long)(vm->target_bytes / MIB));
	assert_int_equal(vm->state, VM_STEADY);
	assert_int_equal(vm_size_bytes(vm), 512 * MIB);
}

/* The committed test's own case, 161 -> 160, but 2 s after the shrink began. */
static void late_word_soon_after_a_shrink(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->actual_bytes = 161 * MIB;
	vm->actual_ms = k->now_ms - 100;
	vm->window_ms = k->now_ms - 2000; /* left by the shrink that ended just now */
	vm->window_actual_bytes = 512 * MIB;
	vm->balloon_asked_bytes = vm->target_bytes = 160 * MIB;
	after_reset(k, vm, 160, "soon after a shrink");
}

static void late_word_of_a_growth(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->actual_bytes = 200 * MIB;
	vm->actual_ms = k->now_ms - 100;
	vm->balloon_asked_bytes = vm->target_bytes = 300 * MIB;
	after_reset(k, vm, 300, "of a growth");
}

/* memocd is killed after a reboot: QEMU still says what the guest of before had. */
static void a_restart_does_not_believe_the_balloon_of_before(void **state)
{
	struct kit kit, *k = &kit;
	kit_open(k, NULL);
	struct vm_memory m = {
		.known = true, .target_bytes = 512 * MIB, .health = BALLOON_WORKING}; /* as keep.c remembers it */
	struct event ev = {.type = EVENT_VM_ADDED,
			   .vm = 7,
			   .added = {.origin = ORIGIN_ADOPT, .facts = kit_facts(512 * MIB), .memory = m}};
	assert_int_equal(kit_step(k, &ev), 0);
	kit_signal(k, EVENT_VM_RUNNING, 7);
	kit_sample(k, 7, 450 * MIB, LIMIT_NONE, 0);
	struct vm *vm = kit_vm(k, 7);
	for (int i = 0; i < 5; i++) {
		k->now_ms += 1000;
		struct event st = {.type = EVENT_VM_STATS,
				   .vm = 7,
				   .stats = {.has_actual = true,
					     .has_usable = true,
					     .has_available = true,
					     .actual_bytes = 160 * MIB,
					     .usable_bytes = 100 * MIB,
					     .available_bytes = 500 * MIB,
					     .last_update_s = 10 + (uint64_t)i}};
		assert_int_equal(kit_step(k, &st), 0);
		kit_sample(k, 7, 450 * MIB, LIMIT_NONE, 0);
		kit_tick(k, 0);
	}
	print_message("adopted: %s, trusted %d, stale %d, size %llu MiB, demand %llu MiB (confidence %.2f), needy %d\n",
		      vm_state_name(vm->state), vm->actual_trusted, vm->actual_stale,
		      (unsigned long long)(vm_size_bytes(vm) / MIB), (unsigned long long)(vm->demand_bytes / MIB),
		      vm->demand_confidence, vm->needy);
	uint64_t size = vm_size_bytes(vm);
	kit_close(k);
	assert_int_equal(size, 512 * MIB);
}

/* Rebooted with a balloon that nobody asks for anything: QEMU keeps the old actual. The guest says that it uses 450 of
 * 500. */
static void after_a_reboot_the_guests_account_counts(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->actual_bytes = 160 * MIB;
	vm->balloon_asked_bytes = vm->target_bytes = 160 * MIB;
	kit_signal(k, EVENT_VM_REBOOTED, 1);
	kit_answer(k);
	struct event ev = {.type = EVENT_VM_STATS, .vm = 1, .stats = vm->stats};
	ev.stats.actual_bytes = 160 * MIB;
	ev.stats.available_bytes = 500 * MIB;
	ev.stats.usable_bytes = 50 * MIB;
	for (int i = 0; i < 60; i++) {
		k->now_ms += 500;
		kit_sample(k, 1, 500 * MIB, LIMIT_NONE, 0);
		k->now_ms += 500;
		ev.stats.last_update_s++;
		assert_int_equal(kit_step(k, &ev), 0);
		kit_tick(k, 0);
	}
	print_message("60 s after: %s, size %llu, demand %llu MiB, confidence %.2f, need %llu MiB, greedy %llu MiB\n",
		      vm_state_name(vm->state), (unsigned long long)(vm_size_bytes(vm) / MIB),
		      (unsigned long long)(vm->demand_bytes / MIB), vm->demand_confidence,
		      (unsigned long long)(vm->need_bytes / MIB), (unsigned long long)(vm->greedy_bytes / MIB));
	/* The host needs memory now. */
	k->config.pool_bytes = 500 * MIB;
	struct event c = {.type = EVENT_CONFIG, .config = &k->config};
	assert_int_equal(kit_step(k, &c), 0);
	print_message("a pool of 500 MiB: target %llu MiB: %s\n", (unsigned long long)(vm->target_bytes / MIB),
		      vm->reason);
	assert_true(vm->need_bytes >= 450 * MIB);
}

/* Asked each second, and its statistics never move on; everything it asks for is done. */
static void asked_in_vain(struct kit *k, unsigned seconds)
{
	struct vm *vm = kit_vm(k, 1);
	struct event ev = {.type = EVENT_VM_STATS, .vm = 1, .stats = vm->stats};
	for (unsigned i = 0; i < seconds; i++) {
		ev.stats.actual_bytes = vm->balloon_asked_bytes ? vm->balloon_asked_bytes : vm->actual_bytes;
		k->now_ms += 500;
		kit_sample(k, 1, min_u64(280 * MIB, vm->limit_bytes), vm->limit_bytes, 0);
		k->now_ms += 500;
		assert_int_equal(kit_step(k, &ev), 0);
		kit_answer(k);
		kit_tick(k, 0);
		kit_answer(k);
	}
}

/* Its balloon holds memory and works. */
static struct vm *ballooned(struct kit *k)
{
	struct vm *vm = kit_vm(k, 1);
	vm->actual_bytes = vm->target_bytes = vm->balloon_asked_bytes = 300 * MIB;
	vm->health = BALLOON_WORKING;
	vm->limit_known = true;
	vm->limit_bytes = LIMIT_NONE;
	vm->grow_ms = k->now_ms;
	return vm;
}

static void a_silent_guest_is_by_limit_alone(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k);
	asked_in_vain(k, 55);
	assert_false(vm->silent);
	assert_int_equal(vm->actual_bytes, 300 * MIB);
	asked_in_vain(k, 15);
	assert_true(vm->silent && vm_by_limit_alone(vm, &(struct vm_ctx){.config = &k->config, .host = &k->host}));
	assert_int_equal(vm->actual_bytes, 512 * MIB);
	assert_int_equal(vm_size_bytes(vm), 300 * MIB); /* no more than before */
	/* Less is had by the limit, at once; more by the limit too. */
	struct event c = {.type = EVENT_CONFIG, .config = &k->config};
	k->config.pool_bytes = 300 * MIB;
	assert_int_equal(kit_step(k, &c), 0);
	uint64_t before = vm_size_bytes(vm);
	for (int i = 0; i < 90; i++) {
		asked_in_vain(k, 1);
		assert_int_equal(vm->balloon_asked_bytes, 512 * MIB);
	}
	assert_true(vm_size_bytes(vm) < before);
	/* A person's word is done by both. */
	pin(k, vm_size_bytes(vm) - 32 * MIB);
	assert_non_null(kit_find(k, EFFECT_BALLOON, 1));
	assert_int_equal(kit_find(k, EFFECT_BALLOON, 1)->bytes, vm->pinned_bytes);
}

/* What its balloon held it may use only as far as its limit lets it, and that has no margin any more. */
static void the_margin_goes_before_the_balloon_is_emptied(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k);
	vm->limit_bytes = 300 * MIB + vm->overhead_bytes + vm_limit_margin_bytes(vm);
	vm->limit_ours = true;
	for (int i = 0; i < 70; i++) {
		asked_in_vain(k, 1);
		assert_int_equal(vm_size_bytes(vm), 300 * MIB);
		bool emptied = vm->balloon_asked_bytes == 512 * MIB;
		assert_true(!emptied || vm->limit_bytes == 300 * MIB + vm->overhead_bytes);
	}
	assert_int_equal(vm->actual_bytes, 512 * MIB);
}

static void silence_is_only_counted_where_it_was_asked(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k);
	for (int i = 0; i < 6; i++) { /* libvirt was away in between */
		asked_in_vain(k, 40);
		k->now_ms += 2 * k->config.stale_ms;
	}
	assert_false(vm->silent);
	kit_signal(k, EVENT_VM_PAUSED, 1);
	asked_in_vain(k, 100);
	assert_false(vm->silent);
	kit_signal(k, EVENT_VM_RUNNING, 1);
	asked_in_vain(k, 50);
	assert_false(vm->silent);
	asked_in_vain(k, 12);
	assert_true(vm->silent);
}

static void a_guest_that_says_only_whether_it_swaps_is_not_silent(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k);
	struct event ev = {.type = EVENT_VM_STATS,
			   .vm = 1,
			   .stats = {.last_update_s = vm->stats.last_update_s,
				     .has_actual = true,
				     .has_swap = true,
				     .actual_bytes = 300 * MIB}};
	for (int i = 0; i < 100; i++) {
		k->now_ms += 1000;
		ev.stats.last_update_s++;
		assert_int_equal(kit_step(k, &ev), 0);
		kit_tick(k, 0);
	}
	assert_false(vm->silent);
}

static void without_host_swap_a_silent_guest_keeps_its_balloon(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k);
	k->host.swap_total_bytes = k->host.swap_free_bytes = 0;
	asked_in_vain(k, 100);
	assert_true(vm->silent);
	assert_int_equal(vm->balloon_asked_bytes, 300 * MIB);
	assert_true(vm->limit_bytes == LIMIT_NONE);
}

static void who_speaks_again_is_asked_for_what_the_limit_holds(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k);
	asked_in_vain(k, 70);
	assert_true(vm->silent);
	uint64_t size = vm_size_bytes(vm);
	for (int i = 0; i < 3; i++) {
		k->now_ms += 1000;
		kit_stats(k, 1, 512 * MIB, 300 * MIB);
		kit_sample(k, 1, min_u64(280 * MIB, vm->limit_bytes), vm->limit_bytes, 0);
		kit_tick(k, 0);
	}
	assert_false(vm->silent);
	assert_true(vm->balloon_asked_bytes <= size);
}

static void a_refused_opening_is_tried_again(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->limit_known = vm->limit_ours = true;
	vm->limit_bytes = vm->limit_asked_bytes = 300 * MIB;
	kit_signal(k, EVENT_VM_REBOOTED, 1);
	answer(k, OP_LIMIT, -EIO, 300 * MIB);
	bool again = false;
	for (int i = 0; i < 10 && !again; i++) {
		kit_tick(k, 1000);
		again = kit_find(k, EFFECT_LIMIT, 1) != NULL;
	}
	assert_true(again);
}

static void paused_guests_are_left_alone_and_not_believed_after(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	kit_signal(k, EVENT_VM_PAUSED, 1);
	assert_true(core_poll_ms(k->core, vm) == NEVER_MS);
	kit_tick(k, 1000);
	assert_int_equal(kit_count(k, EFFECT_BALLOON) + kit_count(k, EFFECT_LIMIT), 0);
	kit_signal(k, EVENT_VM_RUNNING, 1);
	assert_int_equal(vm->state, VM_STEADY);
	kit_tick(k, 1000);
	assert_true(vm->demand_confidence == 0); /* nothing is taken on a guess */
	kit_stats(k, 1, 512 * MIB, 400 * MIB);
	assert_false(vm_stats_fresh(vm, &k->config, k->now_ms)); /* bumped with old data, perhaps */
	kit_stats(k, 1, 512 * MIB, 400 * MIB);
	assert_true(vm_stats_fresh(vm, &k->config, k->now_ms));
}

static void a_vm_started_paused_boots_when_it_runs(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_add(k, 2, 512 * MIB);
	kit_signal(k, EVENT_VM_PAUSED, 2);
	kit_signal(k, EVENT_VM_RUNNING, 2);
	kit_sample(k, 2, 30 * MIB, LIMIT_NONE, 0);
	kit_tick(k, 1000);
	assert_int_equal(vm_committed_bytes(vm), 256 * MIB); /* still its reservation */
	assert_true(vm->demand_confidence == 0);
	kit_tick(k, 60000);
	assert_int_equal(vm_committed_bytes(vm), 512 * MIB);
}

static void migration_freezes(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	pin(k, 300 * MIB);
	kit_signal(k, EVENT_VM_MIGRATING_OUT, 1);
	assert_int_equal(vm->state, VM_MIGRATING_OUT);
	timer(k, 5000);
	kit_tick(k, 1000);
	assert_int_equal(kit_count(k, EFFECT_BALLOON) + kit_count(k, EFFECT_LIMIT), 0);
	kit_signal(k, EVENT_VM_PAUSED, 1); /* its last moments here */
	assert_int_equal(vm->state, VM_MIGRATING_OUT);
	kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
	assert_int_equal(vm->state, VM_STEADY);
}

/* Its balloon stalled and is due, it is needy, and no limit may be used: one try, not one with every event. */
static void a_stalled_balloon_without_limit_is_asked_once(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	size_t targets = 0;

	vm->health = BALLOON_STALLED;
	vm->actual_bytes = vm->balloon_asked_bytes = vm->target_bytes = vm->floor_bytes = 400 * MIB;
	vm->actual_trusted = true;
	vm->retry_delay_ms = 1000;
	vm->retry_at_ms = k->now_ms;
	vm->double_swap_until_ms = k->now_ms + 600000;
	vm->needy = true;
	vm->needy_sign_ms = k->now_ms;
	pin(k, 160 * MIB);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(vm->state, VM_SHRINKING_BALLOON);
		kit_tick(k, 50);
		targets += kit_record(k, RECORD_TARGET, 1) != NULL;
		kit_answer(k);
	}
	assert_int_equal(targets, 0);
}

static void hold_stops_a_shrink_and_release_goes_on(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	pin(k, 300 * MIB);
	struct event ev = {.type = EVENT_VM_HOLD, .vm = 0, .flag = true};
	assert_int_equal(kit_step(k, &ev), 0);
	assert_true(core_hold_all(k->core));
	assert_int_equal(vm->state, VM_STEADY);
	assert_int_equal(kit_find(k, EFFECT_BALLOON, 1)->bytes, 512 * MIB);
	kit_tick(k, 1000);
	assert_int_equal(vm->state, VM_STEADY);
	ev.flag = false;
	assert_int_equal(kit_step(k, &ev), 0);
	kit_tick(k, 1000);
	assert_int_equal(vm->state, VM_SHRINKING_BALLOON);
}

static void drain_gives_all_back(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	vm->health = BALLOON_WORKING;
	vm->limit_known = vm->limit_ours = true;
	vm->limit_bytes = vm->limit_asked_bytes = 300 * MIB;
	vm->actual_bytes = vm->balloon_asked_bytes = vm->target_bytes = 280 * MIB;
	kit_signal(k, EVENT_VM_DRAIN, 1);
	assert_true(kit_find(k, EFFECT_LIMIT, 1)->bytes == LIMIT_NONE);
	answer(k, OP_LIMIT, 0, LIMIT_NONE);
	assert_int_equal(kit_find(k, EFFECT_BALLOON, 1)->bytes, 512 * MIB);
	kit_answer(k);
	balloon_moves(k, 512 * MIB);
	for (int i = 0; i < 5; i++) {
		kit_tick(k, 1000);
		assert_int_equal(kit_count(k, EFFECT_BALLOON) + kit_count(k, EFFECT_LIMIT), 0);
	}
	assert_true(vm->drained);
	/* A drained VM that is resumed is still drained. */
	vm->actual_bytes = vm->balloon_asked_bytes = 300 * MIB;
	kit_signal(k, EVENT_VM_PAUSED, 1);
	kit_signal(k, EVENT_VM_RUNNING, 1);
	assert_int_equal(kit_find(k, EFFECT_BALLOON, 1)->bytes, 512 * MIB);
}

static void drain_leaves_a_limit_on_a_fixed_vm(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	struct event ev = {.type = EVENT_VM_FACTS, .vm = 1, .facts = vm->facts};
	ev.facts.eligible = false;
	assert_int_equal(kit_step(k, &ev), 0);
	assert_int_equal(vm->state, VM_FIXED);
	vm->limit_known = true;
	vm->limit_ours = vm->limit_pending = false;
	vm->limit_bytes = 300 * MIB; /* virsh memtune */
	kit_signal(k, EVENT_VM_DRAIN, 1);
	assert_int_equal(kit_count(k, EFFECT_LIMIT) + kit_count(k, EFFECT_BALLOON), 0);
	vm->limit_ours = true; /* left by memoc from before it was fixed */
	kit_signal(k, EVENT_VM_DRAIN, 1);
	assert_true(kit_find(k, EFFECT_LIMIT, 1)->bytes == LIMIT_NONE);
}

static void quarantine_leaves_the_balloon_alone(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	pin(k, 300 * MIB);
	struct event ev = {.type = EVENT_VM_QUARANTINE, .vm = 1, .flag = true};
	assert_int_equal(kit_step(k, &ev), 0);
	assert_int_equal(vm->state, VM_SHRINKING_LIMIT); /* its cgroup is still served */
	for (int i = 0; i < 5; i++) {
		kit_tick(k, 1000);
		assert_null(kit_find(k, EFFECT_BALLOON, 1));
		kit_answer(k);
	}
	ev.flag = false;
	assert_int_equal(kit_step(k, &ev), 0);
	assert_non_null(kit_record(k, RECORD_QUARANTINE_OVER, 1));
}

static void what_is_not_managed_is_not_touched(void **state)
{
	struct kit *k = *state;
	struct vm_facts f = kit_facts(512 * MIB);
	f.eligible = false;
	kit_add_facts(k, 2, ORIGIN_ADOPT, &f);
	assert_int_equal(kit_count(k, EFFECT_LIMIT) + kit_count(k, EFFECT_BALLOON), 0);
	kit_sample(k, 2, 100 * MIB, 400 * MIB, 0); /* an administrator's limit */
	for (int i = 0; i < 20; i++) {
		kit_tick(k, 1000);
		assert_null(kit_find(k, EFFECT_LIMIT, 2));
	}
	/* One that memoc did set is taken away when the VM is not its any more. */
	struct vm *vm = kit_vm(k, 1);
	vm->limit_known = vm->limit_ours = true;
	vm->limit_bytes = vm->limit_asked_bytes = 300 * MIB;
	struct event ev = {.type = EVENT_VM_FACTS, .vm = 1, .facts = f};
	assert_int_equal(kit_step(k, &ev), 0);
	assert_int_equal(vm->state, VM_FIXED);
	assert_true(kit_find(k, EFFECT_LIMIT, 1)->bytes == LIMIT_NONE);
	ev.facts.eligible = true;
	assert_int_equal(kit_step(k, &ev), 0);
	assert_int_equal(vm->state, VM_STARTING);
	kit_stats(k, 1, 512 * MIB, 400 * MIB);
	kit_stats(k, 1, 512 * MIB, 400 * MIB);
	assert_int_equal(vm->state, VM_STEADY);
}

static void bad_events_change_nothing(void **state)
{
	struct kit *k = *state;
	struct core *c = NULL;
	struct core_config config = k->config;
	config.policy = NULL;
	assert_int_equal(core_new(&config, &c), -EINVAL);
	config = k->config;
	config.interval_ms = 0;
	assert_int_equal(core_new(&config, &c), -EINVAL);
	assert_null(c);
	struct event ev = {.type = EVENT_CONFIG, .config = &config};
	assert_int_equal(kit_step(k, &ev), -EINVAL);
	ev = (struct event){.type = EVENT_TYPE_END};
	assert_int_equal(kit_step(k, &ev), -EINVAL);
	ev = (struct event){.type = 0};
	assert_int_equal(kit_step(k, &ev), -EINVAL);
	ev = (struct event){.type = EVENT_VM_ADDED, .vm = 1, .added = {.facts = kit_facts(GIB)}};
	assert_int_equal(kit_step(k, &ev), -EEXIST);
	ev.vm = 0;
	assert_int_equal(kit_step(k, &ev), -EINVAL);
	ev.vm = 2;
	ev.added.facts.max_bytes = 0;
	assert_int_equal(kit_step(k, &ev), -EINVAL);
	ev.added.facts = kit_facts(GIB);
	ev.added.facts.policy.weight = 0;
	assert_int_equal(kit_step(k, &ev), -EINVAL);
	ev = (struct event){.type = EVENT_VM_FACTS, .vm = 1};
	assert_int_equal(kit_step(k, &ev), -EINVAL);
	for (int type = EVENT_VM_FACTS; type < EVENT_TYPE_END; type++) {
		ev = (struct event){.type = type, .vm = 99};
		assert_int_equal(kit_step(k, &ev), -ENOENT);
	}
	assert_int_equal(core_vm_count(k->core), 1);
	assert_null(core_vm(k->core, 99));
	assert_null(core_vm_at(k->core, 1));
	assert_null(core_free(NULL));
}

/* A state file that somebody edited, or that belongs to a larger VM of that UUID. */
static void what_was_remembered_is_bounded(void **state)
{
	struct kit *k = *state;
	struct event ev = {.type = EVENT_VM_ADDED, .vm = 7};

	ev.added.origin = ORIGIN_ADOPT;
	ev.added.facts = kit_facts(512 * MIB);
	ev.added.memory = (struct vm_memory){.known = true,
					     .health = BALLOON_STALLED,
					     .target_bytes = UINT64_MAX,
					     .floor_bytes = UINT64_MAX,
					     .pinned_bytes = UINT64_MAX,
					     .retry_delay_ms = UINT64_MAX};
	assert_int_equal(kit_step(k, &ev), 0);
	const struct vm *vm = kit_vm(k, 7);
	assert_true(vm->target_bytes == 512 * MIB);
	assert_true(vm->floor_bytes <= 512 * MIB);
	assert_true(vm->pinned_bytes == 512 * MIB);
	assert_true(vm->retry_at_ms <= k->now_ms + k->config.retry_max_ms);
}

static void a_full_list_drops_records_before_effects(void **unused)
{
	struct effect list[3];
	struct effects out = {.list = list, .capacity = 3};
	assert_non_null(effect_add(&out, EFFECT_RECORD, 1));
	assert_non_null(effect_add(&out, EFFECT_LIMIT, 1));
	assert_non_null(effect_add(&out, EFFECT_RECORD, 1));
	assert_null(effect_add(&out, EFFECT_RECORD, 1));
	assert_non_null(effect_add(&out, EFFECT_BALLOON, 1));
	assert_non_null(effect_add(&out, EFFECT_FORGET, 1));
	assert_null(effect_add(&out, EFFECT_LIMIT, 1));
	assert_int_equal(out.dropped, 4);
	assert_int_equal(list[0].type, EFFECT_LIMIT);
	assert_int_equal(list[1].type, EFFECT_BALLOON);
	assert_int_equal(list[2].type, EFFECT_FORGET);
}

static void explanations_fit_in_every_state(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_vm(k, 1);
	struct explain_term terms[EXPLAIN_TERMS_MAX];
	char lines[EXPLAIN_LINES_MAX][160];
	vm->needy = vm->double_swap = vm->quarantined = vm->drained = true;
	vm->floor_bytes = vm->pinned_bytes = 100 * MIB;
	vm->host_floor_until_ms = UINT64_MAX;
	vm->bounds = ~0u;
	vm->retry_at_ms = 0;
	for (int s = 1; s < VM_STATE_END; s++) {
		vm->state = s;
		size_t n = core_explain(k->core, vm, k->now_ms, terms);
		assert_in_range(n, 10, EXPLAIN_TERMS_MAX);
		for (size_t i = 0; i < n; i++)
			assert_true(terms[i].name[0] && terms[i].text[0]);
		n = core_explain_lines(k->core, vm, k->now_ms, lines);
		assert_in_range(n, 1, EXPLAIN_LINES_MAX);
	}
	vm->state = VM_STEADY;
}

#define WITH_KIT(f) cmocka_unit_test_setup_teardown(f, open_kit, close_kit)
int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_KIT(shrink_is_balloon_then_limit),
		WITH_KIT(grow_is_limit_then_balloon),
		WITH_KIT(one_page_in_five_seconds_is_a_stall),
		WITH_KIT(under_min_speed_is_a_stall),
		WITH_KIT(just_above_min_speed_is_slow_but_no_stall),
		WITH_KIT(a_moving_target_does_not_hide_a_trickle),
		WITH_KIT(no_word_from_the_guest_ever_is_no_driver),
		WITH_KIT(retries_double_up_to_their_maximum),
		WITH_KIT(a_retry_broken_off_is_made_again),
		WITH_KIT(a_driver_that_comes_back_is_noticed),
		WITH_KIT(the_learned_floor_is_not_waited_for_again),
		WITH_KIT(limit_goes_down_in_steps_from_residency),
		WITH_KIT(a_lost_answer_ends_a_state),
		WITH_KIT(residency_that_does_not_follow_is_given_up),
		WITH_KIT(stale_results_are_ignored),
		WITH_KIT(a_failure_that_cannot_read_the_limit_changes_no_books),
		WITH_KIT(needy_in_mid_shrink_stops_it),
		WITH_KIT(a_shrink_halted_near_its_pin_is_finished),
		cmocka_unit_test(where_the_host_is_short_little_is_worth_a_shrink),
		WITH_KIT(a_lower_maximum_waits_for_the_needy),
		WITH_KIT(nearly_full_swap_takes_no_more),
		WITH_KIT(inhibited_balloons_are_found_out_and_forgiven),
		WITH_KIT(a_limit_changed_by_others_is_put_back_once),
		WITH_KIT(what_waits_at_its_limit_is_rescued),
		WITH_KIT(a_sample_from_before_the_answer_is_no_drift),
		WITH_KIT(reboot_opens_and_forgets),
		WITH_KIT(a_late_word_of_the_balloon_is_not_the_new_drivers),
		WITH_KIT(a_late_leap_of_the_balloon_is_not_the_new_drivers),
		WITH_KIT(late_word_soon_after_a_shrink),
		WITH_KIT(late_word_of_a_growth),
		WITH_KIT(after_a_reboot_the_guests_account_counts),
		cmocka_unit_test(a_restart_does_not_believe_the_balloon_of_before),
		WITH_KIT(a_silent_guest_is_by_limit_alone),
		WITH_KIT(the_margin_goes_before_the_balloon_is_emptied),
		WITH_KIT(silence_is_only_counted_where_it_was_asked),
		WITH_KIT(a_guest_that_says_only_whether_it_swaps_is_not_silent),
		WITH_KIT(without_host_swap_a_silent_guest_keeps_its_balloon),
		WITH_KIT(who_speaks_again_is_asked_for_what_the_limit_holds),
		WITH_KIT(a_refused_opening_is_tried_again),
		WITH_KIT(paused_guests_are_left_alone_and_not_believed_after),
		WITH_KIT(a_vm_started_paused_boots_when_it_runs),
		WITH_KIT(migration_freezes),
		WITH_KIT(hold_stops_a_shrink_and_release_goes_on),
		WITH_KIT(drain_gives_all_back),
		WITH_KIT(drain_leaves_a_limit_on_a_fixed_vm),
		WITH_KIT(quarantine_leaves_the_balloon_alone),
		WITH_KIT(what_is_not_managed_is_not_touched),
		WITH_KIT(bad_events_change_nothing),
		WITH_KIT(what_was_remembered_is_bounded),
		WITH_KIT(a_stalled_balloon_without_limit_is_asked_once),
		cmocka_unit_test(a_full_list_drops_records_before_effects),
		WITH_KIT(explanations_fit_in_every_state),
	};
	return cmocka_run_group_tests_name("core_resize", tests, NULL, NULL);
}
