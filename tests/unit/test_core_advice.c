/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory advice as the core decides it: when it begins and ends, what limit the VM has meanwhile. */
#include <errno.h>

#include "tests/unit/core_kit.h"

static int open_kit(void **state)
{
	static struct kit k;

	kit_open(&k, NULL);
	kit_steady(&k, 1, GIB, 600 * MIB);
	*state = &k;
	return 0;
}

static int close_kit(void **state)
{
	kit_close(*state);
	return 0;
}

static void pass(struct kit *k, uint32_t number)
{
	struct event ev = {.type = EVENT_VM_MIGRATING_OUT, .vm = 1, .pass = number};

	assert_int_equal(kit_step(k, &ev), 0);
}

static void report(struct kit *k, bool over)
{
	struct event ev = {.type = EVENT_VM_ADVICE,
			   .vm = 1,
			   .advice = {.over = over, .swapped_bytes = 300 * MIB, .out_bytes = 290 * MIB}};

	assert_int_equal(kit_step(k, &ev), 0);
}

/* A sample of a VM that fills this limit, with much of it swapped out. */
static struct event full_sample(uint64_t limit_bytes)
{
	return (struct event){.type = EVENT_VM_SAMPLE,
			      .vm = 1,
			      .sample = {.has_memory = true,
					 .resident_bytes = limit_bytes - MIB,
					 .swapped_bytes = 300 * MIB,
					 .limit_bytes = limit_bytes}};
}

/* As after a limit of ours that swapped much of it out. */
static struct vm *limited(struct kit *k, uint64_t limit_bytes)
{
	struct vm *vm = kit_vm(k, 1);
	struct event ev = full_sample(limit_bytes);

	vm->limit_known = vm->limit_ours = true;
	vm->limit_pending = false;
	vm->limit_bytes = vm->limit_asked_bytes = limit_bytes;
	assert_int_equal(kit_step(k, &ev), 0);
	return vm;
}

static void one_pass_is_advised(void **state)
{
	struct kit *k = *state;

	k->host.swap_free_bytes = GIB;
	kit_tick(k, 1000);
	pass(k, 1);
	assert_non_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
	assert_int_equal(kit_find(k, EFFECT_ADVICE_BEGIN, 1)->bytes, GIB - k->config.keep_free_bytes);
	pass(k, 1); /* libvirt's event and its job's statistics say the same */
	assert_int_equal(k->out.n, 0);
	pass(k, 2);
	assert_non_null(kit_find(k, EFFECT_ADVICE_FINISH, 1));
	pass(k, 3);
	assert_int_equal(k->out.n, 0);
	report(k, true);
	assert_non_null(kit_record(k, RECORD_ADVICE, 1));
	assert_int_equal(kit_record(k, RECORD_ADVICE, 1)->to_bytes, 290 * MIB);
	pass(k, 1); /* late news */
	assert_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
	kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
	assert_null(kit_find(k, EFFECT_ADVICE_STOP, 1));
	pass(k, 1); /* it migrates again */
	assert_non_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
}

static void it_stops_with_the_migration(void **state)
{
	struct kit *k = *state;

	pass(k, 1);
	report(k, false);
	assert_null(kit_record(k, RECORD_ADVICE, 1));
	kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
	assert_non_null(kit_find(k, EFFECT_ADVICE_STOP, 1));
	assert_int_equal(kit_vm(k, 1)->state, VM_STEADY);
	report(k, true);
	assert_non_null(kit_record(k, RECORD_ADVICE, 1));
	pass(k, 1);
	assert_non_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
	kit_signal(k, EVENT_VM_STOPPING, 1); /* destroyed in the middle: what is known is told */
	assert_non_null(kit_record(k, RECORD_GONE, 1));
}

/* Nothing tells that a migration has failed: the next may begin before the last word of the advice of the first. */
static void the_next_migration_is_advised_too(void **state)
{
	struct kit *k = *state;

	for (int finishing = 0; finishing < 2; finishing++) {
		pass(k, 1);
		assert_non_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
		if (finishing)
			pass(k, 2);
		kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
		assert_non_null(kit_find(k, EFFECT_ADVICE_STOP, 1));
		pass(k, 1);
		assert_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
		report(k, true);
		assert_non_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
		kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
		pass(k, 1);
		pass(k, 2); /* its first pass is over before */
		report(k, true);
		assert_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
		kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
	}
}

/* An hour of disks before memory is read: the map would be of before. */
static void it_waits_for_the_first_pass(void **state)
{
	struct kit *k = *state;

	pass(k, 0);
	assert_int_equal(kit_vm(k, 1)->state, VM_MIGRATING_OUT);
	assert_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
	pass(k, 1);
	assert_non_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
}

static void the_room_stays_at_post_copy(void **state)
{
	struct kit *k = *state;
	struct vm *vm = limited(k, 500 * MIB);

	pass(k, 1);
	assert_non_null(kit_find(k, EFFECT_LIMIT, 1));
	kit_answer(k);
	pass(k, PASS_POSTCOPY);
	report(k, true);
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
	kit_tick(k, 5000);
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
	assert_true(vm->limit_bytes > 500 * MIB);
}

static void it_stops_at_post_copy(void **state)
{
	struct kit *k = *state;

	pass(k, 1);
	pass(k, PASS_POSTCOPY);
	assert_non_null(kit_find(k, EFFECT_ADVICE_STOP, 1));
	assert_null(kit_find(k, EFFECT_ADVICE_FINISH, 1));
	report(k, true);
	pass(k, 2);
	assert_int_equal(k->out.n, 0);
}

/* The second pass was heard of, and the last look was still being taken when the guest went. */
static void post_copy_ends_the_last_look(void **state)
{
	struct kit *k = *state;

	pass(k, 1);
	pass(k, 2);
	pass(k, PASS_POSTCOPY);
	assert_non_null(kit_find(k, EFFECT_ADVICE_STOP, 1));
}

static void later_passes_and_off_mean_none(void **state)
{
	struct kit *k = *state;

	pass(k, 2); /* memocd was started in the middle of it */
	assert_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
	pass(k, 1);
	assert_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
	kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
	k->config.advice = false;
	struct event ev = {.type = EVENT_CONFIG, .config = &k->config};
	assert_int_equal(kit_step(k, &ev), 0);
	pass(k, 1);
	assert_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
}

static void room_for_the_reading_comes_from_the_buffer(void **state)
{
	struct kit *k = *state;
	struct vm *vm = limited(k, 500 * MIB);
	uint64_t target = vm->target_bytes;

	pass(k, 1);
	const struct effect *raise = kit_find(k, EFFECT_LIMIT, 1);
	assert_non_null(raise);
	assert_in_range(raise->bytes, 501 * MIB, 628 * MIB);
	assert_true((int64_t)(raise->bytes - 500 * MIB) <= core_books(k->core)->buffer_bytes / 2);
	kit_answer(k);
	assert_true(vm->limit_bytes > 500 * MIB);
	pass(k, 2);
	assert_null(kit_find(k, EFFECT_LIMIT, 1)); /* not before the last look */
	report(k, true);
	assert_int_equal(kit_find(k, EFFECT_LIMIT, 1)->bytes, 500 * MIB);
	kit_answer(k);
	kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
	assert_true(vm->target_bytes <= max_u64(target, 500 * MIB));
}

/* Shared memory that was never allocated is allocated by the reading: it needs room, too, though nothing is swapped
 * out. */
static void memory_never_allocated_needs_room(void **state)
{
	struct kit *k = *state;
	struct vm *vm = limited(k, 500 * MIB);
	struct event map = {.type = EVENT_VM_ADVICE, .vm = 1, .advice = {.untouched_bytes = 100 * MIB}};

	kit_sample(k, 1, 499 * MIB, 500 * MIB, 0);
	assert_int_equal(vm->sample.swapped_bytes, 0);
	pass(k, 1);
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
	assert_int_equal(kit_step(k, &map), 0);
	assert_true(kit_find(k, EFFECT_LIMIT, 1)->bytes > 500 * MIB);
	kit_answer(k);
	assert_int_equal(kit_step(k, &map), 0); /* once */
	kit_tick(k, 1000);
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
	report(k, true);
	assert_int_equal(kit_find(k, EFFECT_LIMIT, 1)->bytes, 500 * MIB);
}

/* Caught while it shrinks: as soon as that limit is in force. */
static void room_waits_for_a_limit_on_its_way(void **state)
{
	struct kit *k = *state;
	struct vm *vm = limited(k, 500 * MIB);

	vm->limit_pending = true;
	pass(k, 1);
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
	vm->limit_pending = false;
	kit_tick(k, 1000);
	assert_true(kit_find(k, EFFECT_LIMIT, 1)->bytes > 500 * MIB);
}

/* Cancelled while the limit is raised: the size from before is the size it has. */
static void a_raised_limit_is_no_size(void **state)
{
	struct kit *k = *state;
	struct vm *vm = limited(k, 500 * MIB);

	vm->target_bytes = 450 * MIB;
	pass(k, 1);
	kit_answer(k);
	kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
	assert_int_equal(kit_find(k, EFFECT_LIMIT, 1)->bytes, 500 * MIB);
	assert_int_equal(vm->target_bytes, 450 * MIB);
	report(k, true);
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
}

/* Drained in the middle: it is open, and nobody closes it again. */
static void a_drained_vm_stays_open(void **state)
{
	struct kit *k = *state;
	struct vm *vm = limited(k, 500 * MIB);

	for (int end = 0; end < 2; end++) {
		pass(k, 1);
		kit_answer(k);
		kit_signal(k, EVENT_VM_DRAIN, 1);
		assert_true(kit_find(k, EFFECT_LIMIT, 1)->bytes == LIMIT_NONE);
		kit_answer(k);
		if (end == 0) { /* else the last report comes late */
			report(k, true);
			assert_null(kit_find(k, EFFECT_LIMIT, 1));
		}
		kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
		kit_answer(k);
		if (end == 1) {
			report(k, true);
			assert_null(kit_find(k, EFFECT_LIMIT, 1));
		}
		assert_true(vm->limit_asked_bytes == LIMIT_NONE);
		kit_tick(k, 5000);
		assert_null(kit_find(k, EFFECT_LIMIT, 1));
		vm->held = vm->drained = false;
		vm->target_bytes = 450 * MIB;
		limited(k, 500 * MIB);
	}
}

/* Cancelled with the limit raised, and the kernel answers the limit of before with code and now_bytes. */
static struct vm *not_reached(struct kit *k, int code, uint64_t now_bytes)
{
	struct vm *vm = limited(k, 500 * MIB);

	vm->target_bytes = 450 * MIB;
	pass(k, 1);
	kit_answer(k);
	report(k, true);
	assert_int_equal(kit_find(k, EFFECT_LIMIT, 1)->bytes, 500 * MIB);
	kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
	assert_null(kit_find(k, EFFECT_LIMIT, 1)); /* asked already */
	kit_result(k, 1, OP_LIMIT, vm->limit_seq, code, now_bytes);
	return vm;
}

static void look(struct kit *k, uint64_t limit_bytes)
{
	k->now_ms += 500;
	struct event ev = full_sample(limit_bytes);
	assert_int_equal(kit_step(k, &ev), 0);
	kit_tick(k, 500);
}

static void a_limit_not_reached_is_asked_for_again(void **state)
{
	struct kit *k = *state;
	struct vm *vm = not_reached(k, -EAGAIN, 550 * MIB);

	assert_int_equal(vm->target_bytes, 450 * MIB);
	look(k, 550 * MIB);
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
	look(k, 550 * MIB);
	assert_int_equal(kit_find(k, EFFECT_LIMIT, 1)->bytes, 500 * MIB);
	kit_answer(k);
	for (int i = 0; i < 5; i++) {
		look(k, 500 * MIB);
		assert_null(kit_find(k, EFFECT_LIMIT, 1));
	}
	assert_int_equal(vm->target_bytes, 450 * MIB);
}

/* Paused right after it was cancelled, as QEMU does on an I/O error: for how long nobody knows. */
static void nor_does_a_pause_keep_it_raised(void **state)
{
	struct kit *k = *state;
	struct vm *vm = not_reached(k, -EAGAIN, 550 * MIB);

	kit_signal(k, EVENT_VM_PAUSED, 1);
	look(k, 550 * MIB);
	look(k, 550 * MIB);
	assert_int_equal(kit_find(k, EFFECT_LIMIT, 1)->bytes, 500 * MIB);
	kit_answer(k);
	kit_signal(k, EVENT_VM_RUNNING, 1);
	assert_true(vm->target_bytes <= 500 * MIB);
}

/* Nothing that the kernel could do about it: what is in force is its size. */
static void a_limit_never_reached_is_given_up(void **state)
{
	struct kit *k = *state;
	struct vm *vm = not_reached(k, -EAGAIN, 550 * MIB);
	int asked = 0;

	for (int i = 0; i < 30; i++) {
		look(k, 550 * MIB);
		if (!kit_find(k, EFFECT_LIMIT, 1))
			continue;
		asked++;
		kit_result(k, 1, OP_LIMIT, vm->limit_seq, -EAGAIN, 550 * MIB);
	}
	assert_int_equal(asked, 4);
	assert_int_equal(vm->target_bytes, vm_size_bytes(vm));
}

/* What another decides meanwhile holds. */
static void a_new_target_ends_the_old_limit(void **state)
{
	struct kit *k = *state;
	struct vm *vm = not_reached(k, -EAGAIN, 550 * MIB);
	struct event pin = {.type = EVENT_VM_PIN, .vm = 1, .bytes = 800 * MIB};

	assert_int_equal(kit_step(k, &pin), 0);
	assert_true(kit_find(k, EFFECT_LIMIT, 1)->bytes >= 800 * MIB);
	for (int i = 0; i < 5; i++) {
		kit_answer(k);
		look(k, vm->limit_bytes);
		assert_true(!kit_find(k, EFFECT_LIMIT, 1) || kit_find(k, EFFECT_LIMIT, 1)->bytes > 500 * MIB);
	}
}

/* Nothing more goes to swap that is nearly full; when there is room again it does. */
static void a_limit_waits_for_swap(void **state)
{
	struct kit *k = *state;

	limited(k, 500 * MIB);
	pass(k, 1);
	kit_answer(k);
	uint64_t raised = kit_vm(k, 1)->limit_bytes, free_bytes = k->host.swap_free_bytes;
	k->host.swap_free_bytes = 10 * MIB;
	look(k, raised - 64 * MIB);
	report(k, true);
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
	k->host.swap_free_bytes = free_bytes;
	look(k, raised);
	assert_int_equal(kit_find(k, EFFECT_LIMIT, 1)->bytes, 500 * MIB);
}

/* memocd was killed while the limit was raised: the next one knows what to go back to, and raises it no more. */
static void a_raised_limit_outlives_memocd(void **state)
{
	for (int migrates = 0; migrates < 2; migrates++) {
		struct kit kit, *k = &kit;
		struct vm_facts facts = kit_facts(GIB);

		kit_open(k, NULL);
		struct event ev = {.type = EVENT_VM_ADDED,
				   .vm = 1,
				   .added = {.origin = ORIGIN_ADOPT,
					     .facts = facts,
					     .memory = {.known = true,
							.target_bytes = 450 * MIB,
							.health = BALLOON_ABSENT,
							.limit_ours = true,
							.advice_limit_bytes = 500 * MIB}}};
		assert_int_equal(kit_step(k, &ev), 0);
		kit_signal(k, EVENT_VM_RUNNING, 1);
		struct vm *vm = kit_vm(k, 1);
		if (migrates) {
			look(k, 560 * MIB);
			pass(k, 1);
			assert_non_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
			assert_null(kit_find(k, EFFECT_LIMIT, 1));
			look(k, 560 * MIB);
			assert_null(kit_find(k, EFFECT_LIMIT, 1));
			report(k, true);
		}
		for (int i = 0; i < 20 && !kit_find(k, EFFECT_LIMIT, 1); i++)
			look(k, 560 * MIB);
		assert_non_null(kit_find(k, EFFECT_LIMIT, 1));
		assert_int_equal(kit_find(k, EFFECT_LIMIT, 1)->bytes, 500 * MIB);
		kit_answer(k);
		if (migrates)
			kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
		look(k, 500 * MIB);
		assert_int_equal(vm->advice_limit_bytes, 0);
		assert_true(vm->target_bytes <= 500 * MIB);
		kit_close(k);
	}
}

static void others_limits_are_left_alone(void **state)
{
	struct kit *k = *state;

	limited(k, 500 * MIB)->limit_ours = false;
	pass(k, 1);
	assert_non_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
}

/* Swap nearly full takes no pages of zeroes. */
static void zeroes_need_free_swap(void **state)
{
	struct kit *k = *state;

	k->host.swap_free_bytes = 10 * MIB;
	kit_tick(k, 1000);
	pass(k, 1);
	assert_int_equal(kit_find(k, EFFECT_ADVICE_BEGIN, 1)->bytes, 0);
}

static void observing_advises_nothing(void **state)
{
	struct kit *k = *state;
	struct event ev = {.type = EVENT_CONFIG, .config = &k->config};

	k->config.observe = true;
	assert_int_equal(kit_step(k, &ev), 0);
	limited(k, 500 * MIB);
	pass(k, 1);
	assert_null(kit_find(k, EFFECT_ADVICE_BEGIN, 1));
	assert_null(kit_find(k, EFFECT_LIMIT, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_pass_is_advised, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(it_stops_with_the_migration, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(it_stops_at_post_copy, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(post_copy_ends_the_last_look, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(later_passes_and_off_mean_none, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(the_next_migration_is_advised_too, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(it_waits_for_the_first_pass, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(the_room_stays_at_post_copy, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(room_for_the_reading_comes_from_the_buffer, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(memory_never_allocated_needs_room, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(room_waits_for_a_limit_on_its_way, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_raised_limit_is_no_size, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_drained_vm_stays_open, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_limit_not_reached_is_asked_for_again, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(nor_does_a_pause_keep_it_raised, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_limit_never_reached_is_given_up, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_new_target_ends_the_old_limit, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_limit_waits_for_swap, open_kit, close_kit),
		cmocka_unit_test(a_raised_limit_outlives_memocd),
		cmocka_unit_test_setup_teardown(others_limits_are_left_alone, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(zeroes_need_free_swap, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(observing_advises_nothing, open_kit, close_kit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
