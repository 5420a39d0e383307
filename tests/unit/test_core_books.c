/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host's budget: arithmetic at its ends, levels, admission, and what each state of a VM counts. */
#include "tests/unit/core_kit.h"

#include <errno.h>

static enum host_level level_at(int64_t buffer_mib, enum host_level before)
{
	struct core_config c = kit_config();
	struct host_sample h = {0};
	struct books b = {.buffer_bytes = buffer_mib * (int64_t)MIB, .buffer_target_bytes = 100 * MIB};
	return books_level(&b, before, &c, &h);
}

static void levels_follow_the_fill(void **unused)
{
	assert_int_equal(level_at(100, LEVEL_HIGH), LEVEL_HIGH);
	assert_int_equal(level_at(64, LEVEL_HIGH), LEVEL_HIGH);
	assert_int_equal(level_at(63, LEVEL_HIGH), LEVEL_SOFT);
	assert_int_equal(level_at(31, LEVEL_HIGH), LEVEL_HARD);
	assert_int_equal(level_at(15, LEVEL_HIGH), LEVEL_LOW);
	assert_int_equal(level_at(-1, LEVEL_HIGH), LEVEL_LOW);
	assert_int_equal(level_at(INT64_MIN / (int64_t)MIB, LEVEL_HIGH), LEVEL_LOW);
}

static void levels_are_left_later_than_entered(void **unused)
{
	assert_int_equal(level_at(64, LEVEL_SOFT), LEVEL_SOFT);
	assert_int_equal(level_at(71, LEVEL_SOFT), LEVEL_SOFT);
	assert_int_equal(level_at(73, LEVEL_SOFT), LEVEL_HIGH);
	assert_int_equal(level_at(35, LEVEL_HARD), LEVEL_HARD);
	assert_int_equal(level_at(41, LEVEL_HARD), LEVEL_SOFT);
	assert_int_equal(level_at(20, LEVEL_LOW), LEVEL_LOW);
	assert_int_equal(level_at(25, LEVEL_LOW), LEVEL_HARD);
	assert_int_equal(level_at(100, LEVEL_LOW), LEVEL_HIGH);
}

static void a_buffer_of_nothing_is_full_until_it_is_overdrawn(void **unused)
{
	struct core_config c = kit_config();
	struct host_sample h = {0};
	struct books b = {.buffer_bytes = 0};
	assert_int_equal(books_level(&b, LEVEL_HIGH, &c, &h), LEVEL_HIGH);
	b.buffer_bytes = -1;
	assert_int_equal(books_level(&b, LEVEL_HIGH, &c, &h), LEVEL_LOW);
}

static void a_host_short_of_memory_is_hard_whatever_the_books_say(void **unused)
{
	struct core_config c = kit_config(); /* reserve 512 MiB */
	struct books b = {.buffer_bytes = 100, .buffer_target_bytes = 100};
	struct host_sample h = {.has_memory = true, .mem_available_bytes = 255 * MIB};
	assert_int_equal(books_level(&b, LEVEL_HIGH, &c, &h), LEVEL_HARD);
	h.mem_available_bytes = 257 * MIB;
	assert_int_equal(books_level(&b, LEVEL_HIGH, &c, &h), LEVEL_HIGH);
	assert_int_equal(books_level(&b, LEVEL_HARD, &c, &h), LEVEL_HARD);
	h.mem_available_bytes = 330 * MIB;
	assert_int_equal(books_level(&b, LEVEL_HARD, &c, &h), LEVEL_HIGH);
	h.has_memory = false;
	h.mem_available_bytes = 0;
	assert_int_equal(books_level(&b, LEVEL_HIGH, &c, &h), LEVEL_HIGH);
}

static enum host_level stalled(double full, uint64_t available_mib, uint64_t resident_mib, enum host_level before)
{
	struct core_config c = kit_config(); /* pool 2 GiB, reserve 512 MiB */
	struct books b = {.buffer_bytes = 100,
			  .buffer_target_bytes = 100,
			  .pool_bytes = c.pool_bytes,
			  .resident_bytes = resident_mib * MIB};
	struct host_sample h = {.has_memory = true,
				.mem_available_bytes = available_mib * MIB,
				.has_psi = full >= 0,
				.psi_full_avg10 = full};
	return books_level(&b, before, &c, &h);
}

static void a_host_that_stalls_and_is_short_raises_the_level(void **unused)
{
	assert_int_equal(stalled(9.9, 500, 1700, LEVEL_HIGH), LEVEL_HIGH);
	assert_int_equal(stalled(10, 500, 1700, LEVEL_HIGH), LEVEL_SOFT);
	assert_int_equal(stalled(29.9, 500, 1700, LEVEL_HIGH), LEVEL_SOFT);
	assert_int_equal(stalled(30, 500, 1700, LEVEL_HIGH), LEVEL_HARD);
	assert_int_equal(stalled(-1, 500, 1700, LEVEL_HIGH), LEVEL_HIGH); /* unknown */
	/* Left at half of what entered it, and with an eighth more available. */
	assert_int_equal(stalled(16, 570, 1700, LEVEL_HARD), LEVEL_HARD);
	assert_int_equal(stalled(6, 570, 1700, LEVEL_HARD), LEVEL_SOFT);
	assert_int_equal(stalled(4, 570, 1700, LEVEL_SOFT), LEVEL_HIGH);
	assert_int_equal(stalled(90, 577, 1700, LEVEL_HARD), LEVEL_HIGH);
}

static void a_stall_that_is_not_the_vms_squeezes_nobody(void **unused)
{
	assert_int_equal(stalled(90, 513, 1700, LEVEL_HIGH), LEVEL_HIGH); /* enough available: somebody's own limit */
	assert_int_equal(stalled(90, 500, 1547, LEVEL_HIGH), LEVEL_HIGH); /* others have eaten into the pool */
	assert_int_equal(stalled(90, 500, 1548, LEVEL_HIGH), LEVEL_HARD);
}

static void available_is_bounded_by_what_the_host_has(void **unused)
{
	struct core_config c = kit_config();
	struct books b = {.buffer_bytes = 300 * MIB};
	struct host_sample h = {.has_memory = true, .mem_available_bytes = 400 * MIB};
	assert_int_equal(books_available(&b, &c, &h), 144 * MIB);
	h.mem_available_bytes = 100 * MIB;
	assert_int_equal(books_available(&b, &c, &h), 0);
	h.has_memory = false;
	assert_int_equal(books_available(&b, &c, &h), 300 * MIB);
	b.buffer_bytes = -5;
	assert_int_equal(books_available(&b, &c, &h), 0);
	b.buffer_bytes = INT64_MIN;
	assert_int_equal(books_available(&b, &c, &h), 0);
}

static void sums_saturate(void **unused)
{
	struct core_config c = kit_config();
	struct host_sample h = {0};
	struct vm big = {.state = VM_FIXED, .facts = kit_facts(UINT64_MAX)};
	struct vm *vms[3] = {&big, &big, &big};
	struct books b = {0};
	books_update(&b, &c, &h, vms, 3);
	assert_true(b.granted_bytes == UINT64_MAX);
	assert_true(b.committed_max_bytes == UINT64_MAX);
	assert_true(b.buffer_bytes < 0);
	c.pool_bytes = UINT64_MAX;
	books_update(&b, &c, &h, vms, 3);
	assert_int_equal(b.buffer_bytes, 0);
	books_update(&b, &c, &h, NULL, 0);
	assert_true(b.buffer_bytes == INT64_MAX);
	c.pool_bytes = 0;
	books_update(&b, &c, &h, NULL, 0);
	assert_int_equal(b.buffer_bytes, 0);
}

static void shares_saturate(void **unused)
{
	assert_int_equal(share_of(1000, 0.25), 250);
	assert_true(share_of(UINT64_MAX, 1.0) == UINT64_MAX);
	assert_true(share_of(UINT64_MAX, 1e30) == UINT64_MAX);
	assert_int_equal(share_of(UINT64_MAX, -1), 0);
	assert_int_equal(share_of(0, 1e30), 0);
	assert_int_equal(share_of(1000, __builtin_nan("")), 0);
}

/* A round over the widest numbers there are: no trap, no lost effect, targets in bounds (run with SAN=1 to be sure). */
static void a_round_survives_any_size(void **unused)
{
	static const uint64_t sizes[] = {1, 4096, MIB, GIB, UINT64_C(1) << 62, UINT64_MAX - 1, UINT64_MAX};
	static const uint64_t pools[] = {0, 1, GIB, UINT64_C(1) << 63, UINT64_MAX};
	for (size_t p = 0; p < ARRAY_SIZE(pools); p++) {
		struct core_config c = kit_config();
		c.pool_bytes = c.buffer_bytes = pools[p];
		c.buffer_auto = true;
		struct kit k;
		kit_open(&k, &c);
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			kit_add(&k, (vm_id)i + 1, sizes[i]);
			kit_sample(&k, (vm_id)i + 1, sizes[i], LIMIT_NONE, 0);
			for (int n = 0; n < 4; n++) {
				kit_stats_swap(&k, (vm_id)i + 1, sizes[i], n == 3 ? 0 : sizes[i],
					       n == 3 ? UINT64_MAX : 0, n == 3 ? UINT64_MAX : 0);
				kit_answer(&k);
				k.now_ms += 500;
			}
		}
		for (int n = 0; n < 5; n++) {
			kit_tick(&k, 1000);
			kit_answer(&k);
		}
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
			assert_true(kit_vm(&k, (vm_id)i + 1)->target_bytes <= sizes[i]);
		kit_close(&k);
	}
}

static uint64_t granted(struct kit *k)
{
	return core_books(k->core)->granted_bytes;
}

static void each_state_counts_what_it_can_take(void **unused)
{
	struct kit k;
	kit_open(&k, NULL);
	struct vm_facts f = kit_facts(512 * MIB);
	f.overhead_guess_bytes = 20 * MIB;
	struct vm *vm = kit_add_facts(&k, 1, ORIGIN_START, &f);
	assert_int_equal(granted(&k), 276 * MIB); /* half is reserved for one that boots, and its overhead */
	kit_sample(&k, 1, 400 * MIB, LIMIT_NONE, 0);
	assert_int_equal(granted(&k), 400 * MIB); /* more where more is there */
	kit_sample(&k, 1, 100 * MIB, LIMIT_NONE, 0);
	for (int i = 0; i < 3; i++)
		kit_stats(&k, 1, 512 * MIB, 300 * MIB);
	assert_int_equal(vm->state, VM_STEADY);
	assert_int_equal(granted(&k), 532 * MIB);
	kit_signal(&k, EVENT_VM_PAUSED, 1);
	assert_int_equal(granted(&k), 532 * MIB);
	kit_signal(&k, EVENT_VM_STOPPING, 1);
	assert_int_equal(granted(&k), 0);

	kit_add_facts(&k, 2, ORIGIN_INCOMING, &f);
	assert_int_equal(granted(&k), 532 * MIB);
	kit_signal(&k, EVENT_VM_RUNNING, 2);
	assert_int_equal(granted(&k), 532 * MIB);
	kit_signal(&k, EVENT_VM_STOPPING, 2);
	struct event ev = {.type = EVENT_VM_ADDED, .vm = 4, .added = {.origin = ORIGIN_INCOMING, .facts = f}};
	ev.added.carried_bytes = 200 * MIB;
	assert_int_equal(kit_step(&k, &ev), 0);
	assert_int_equal(granted(&k), 220 * MIB); /* what its balloon left it where it comes from */
	kit_sample(&k, 4, 300 * MIB, LIMIT_NONE, 0);
	assert_int_equal(granted(&k), 300 * MIB); /* that balloon had lied */
	kit_signal(&k, EVENT_VM_STOPPING, 4);

	/* Taken for one that boots at first. */
	kit_add_facts(&k, 5, ORIGIN_START, &f);
	kit_signal(&k, EVENT_VM_RUNNING, 5);
	assert_int_equal(granted(&k), 276 * MIB);
	ev.vm = 5;
	assert_int_equal(kit_step(&k, &ev), 0);
	assert_int_equal(kit_vm(&k, 5)->state, VM_MIGRATING_IN);
	assert_int_equal(granted(&k), 220 * MIB);
	assert_int_equal(kit_record(&k, RECORD_ADDED, 5)->from_bytes, 200 * MIB);
	assert_int_equal(kit_step(&k, &ev), -EEXIST);
	kit_signal(&k, EVENT_VM_RUNNING, 5);
	assert_int_equal(kit_vm(&k, 5)->state, VM_STARTING);
	assert_int_equal(kit_step(&k, &ev), -EEXIST); /* it is known where it comes from */
	kit_signal(&k, EVENT_VM_STOPPING, 5);
	f.eligible = false;
	kit_add_facts(&k, 3, ORIGIN_START, &f);
	assert_int_equal(kit_vm(&k, 3)->state, VM_FIXED);
	assert_int_equal(granted(&k), 532 * MIB);
	kit_close(&k);
}

static void what_grows_counts_its_target_once(void **unused)
{
	struct kit k;
	kit_open(&k, NULL);
	struct vm *vm = kit_steady(&k, 1, GIB, 500 * MIB);
	vm->sample.resident_bytes = 0;
	vm->actual_bytes = 300 * MIB;
	vm->target_bytes = 400 * MIB;
	vm->state = VM_GROWING_BALLOON;
	assert_int_equal(vm_committed_bytes(vm), 400 * MIB);
	vm->state = VM_SHRINKING_BALLOON;
	vm->target_bytes = 200 * MIB;
	assert_int_equal(vm_committed_bytes(vm), 300 * MIB); /* not back before it is back */
	vm->sample.resident_bytes = 350 * MIB;
	assert_int_equal(vm_committed_bytes(vm), 350 * MIB);
	kit_close(&k);
}

static void a_restart_counts_what_is_there(void **unused)
{
	struct kit k;
	kit_open(&k, NULL);
	struct event ev = {.type = EVENT_VM_ADDED, .vm = 1};
	ev.added.origin = ORIGIN_ADOPT;
	ev.added.facts = kit_facts(GIB);
	ev.added.memory = (struct vm_memory){.known = true, .target_bytes = 300 * MIB, .health = BALLOON_WORKING};
	assert_int_equal(kit_step(&k, &ev), 0);
	assert_int_equal(granted(&k), 300 * MIB); /* before anything was read */
	assert_int_equal(vm_size_bytes(kit_vm(&k, 1)), 300 * MIB);
	assert_false(kit_vm(&k, 1)->overhead_measured);
	ev.vm = 2;
	ev.added.memory.overhead_bytes = 70 * MIB; /* else its limit would rise and fall by what the guess is off */
	assert_int_equal(kit_step(&k, &ev), 0);
	assert_true(kit_vm(&k, 2)->overhead_measured);
	assert_int_equal(kit_vm(&k, 2)->overhead_bytes, 70 * MIB);
	kit_close(&k);
}

static void admission_sums_minimums(void **unused)
{
	struct kit k;
	kit_open(&k, NULL); /* pool 2 GiB */
	uint64_t missing = 1;
	core_admit(k.core, 0, 8 * GIB, 0, 0, &missing);
	assert_int_equal(missing, 0); /* a quarter of 8 is 2: just fits */
	core_admit(k.core, 0, 8 * GIB, 0, MIB, &missing);
	assert_int_equal(missing, MIB);
	kit_add(&k, 1, 4 * GIB);
	core_admit(k.core, 0, 4 * GIB, 0, 0, &missing);
	assert_int_equal(missing, 0);
	core_admit(k.core, 0, 4 * GIB, 1200 * MIB, 0, &missing);
	assert_int_equal(missing, 176 * MIB);
	core_admit(k.core, 0, UINT64_MAX, UINT64_MAX, UINT64_MAX, &missing);
	assert_true(missing == UINT64_MAX - 2 * GIB);
	struct vm_facts f = kit_facts(2 * GIB);
	f.eligible = false;
	kit_add_facts(&k, 2, ORIGIN_START, &f);
	core_admit(k.core, 0, GIB, 0, 0, &missing);
	assert_int_equal(missing, GIB + 256 * MIB); /* one that cannot be shrunk needs all it has */
	kit_close(&k);
}

static void the_buffer_is_sized_by_what_was_given(void **unused)
{
	struct core_config c = kit_config();
	c.buffer_auto = true;
	struct kit k;
	kit_open(&k, &c);
	assert_int_equal(core_books(k.core)->buffer_target_bytes, 128 * MIB); /* nothing seen: as configured */
	kit_steady(&k, 1, 512 * MIB, 300 * MIB);
	struct vm *vm = kit_vm(&k, 1);
	vm->actual_bytes = 256 * MIB;
	kit_tick(&k, 1000);
	kit_stats(&k, 1, 256 * MIB, 1 * MIB);
	assert_non_null(kit_record(&k, RECORD_TARGET, 1));
	kit_tick(&k, 1000);
	uint64_t after = core_books(k.core)->buffer_target_bytes;
	assert_true(after >= 64 * MIB && after <= 128 * MIB);
	for (int i = 0; i < 3000; i++)
		kit_tick(&k, 1000);
	assert_int_equal(core_books(k.core)->buffer_target_bytes, 64 * MIB); /* forgotten down to half */
	kit_close(&k);
}

static void a_thousand_vms_fit(void **unused)
{
	struct core_config c = kit_config();
	c.pool_bytes = 100 * GIB;
	c.buffer_bytes = 4 * GIB;
	struct kit k;
	kit_open(&k, &c);
	k.host.mem_available_bytes = 60 * GIB;
	for (vm_id id = 1; id <= 1000; id++) {
		kit_add(&k, id, 128 * MIB);
		kit_sample(&k, id, 128 * MIB, LIMIT_NONE, 0);
		for (int i = 0; i < 3; i++)
			kit_stats(&k, id, 128 * MIB, id % 2 ? 90 * MIB : 20 * MIB);
	}
	kit_tick(&k, 1000); /* 125 GiB granted of 100 */
	assert_int_equal(core_books(k.core)->vms, 1000);
	assert_int_equal(core_books(k.core)->level, LEVEL_LOW);
	size_t lowered = 0;
	for (vm_id id = 1; id <= 1000; id++) {
		struct vm *vm = kit_vm(&k, id);
		assert_true(vm->target_bytes >= vm_min_bytes(vm, &k.config));
		lowered += vm->target_bytes < vm->facts.max_bytes;
	}
	assert_true(lowered >= 500);
	for (vm_id id = 1000; id >= 1; id--)
		kit_signal(&k, EVENT_VM_STOPPING, id);
	assert_int_equal(core_vm_count(k.core), 0);
	assert_int_equal(granted(&k), 0);
	kit_close(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(levels_follow_the_fill),
		cmocka_unit_test(levels_are_left_later_than_entered),
		cmocka_unit_test(a_buffer_of_nothing_is_full_until_it_is_overdrawn),
		cmocka_unit_test(a_host_short_of_memory_is_hard_whatever_the_books_say),
		cmocka_unit_test(a_host_that_stalls_and_is_short_raises_the_level),
		cmocka_unit_test(a_stall_that_is_not_the_vms_squeezes_nobody),
		cmocka_unit_test(available_is_bounded_by_what_the_host_has),
		cmocka_unit_test(sums_saturate),
		cmocka_unit_test(shares_saturate),
		cmocka_unit_test(a_round_survives_any_size),
		cmocka_unit_test(each_state_counts_what_it_can_take),
		cmocka_unit_test(what_grows_counts_its_target_once),
		cmocka_unit_test(a_restart_counts_what_is_there),
		cmocka_unit_test(admission_sums_minimums),
		cmocka_unit_test(the_buffer_is_sized_by_what_was_given),
		cmocka_unit_test(a_thousand_vms_fit),
	};
	return cmocka_run_group_tests_name("core_books", tests, NULL, NULL);
}
