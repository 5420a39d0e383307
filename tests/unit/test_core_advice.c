/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory advice as the core decides it: when it begins and ends, what limit the VM has meanwhile. */
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

/* As after a limit of ours that swapped much of it out. */
static struct vm *limited(struct kit *k, uint64_t limit_bytes)
{
	struct vm *vm = kit_vm(k, 1);
	struct event ev = {.type = EVENT_VM_SAMPLE,
			   .vm = 1,
			   .sample = {.has_memory = true,
				      .resident_bytes = limit_bytes - MIB,
				      .swapped_bytes = 300 * MIB,
				      .limit_bytes = limit_bytes}};

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
		cmocka_unit_test_setup_teardown(room_for_the_reading_comes_from_the_buffer, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_raised_limit_is_no_size, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(others_limits_are_left_alone, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(zeroes_need_free_swap, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(observing_advises_nothing, open_kit, close_kit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
