/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Estimates from signals that may lie, be silent, go back or be old. */
#include "tests/unit/core_kit.h"

#include <errno.h>

static int open_kit(void **state)
{
	static struct kit k;
	kit_open(&k, NULL);
	*state = &k;
	return 0;
}

static int close_kit(void **state)
{
	kit_close(*state);
	return 0;
}

/* Statistics now, a sample and a tick a moment later. */
static void second(struct kit *k, uint64_t actual_bytes, uint64_t usable_bytes, uint64_t swapped_in)
{
	k->now_ms += 1000;
	const struct guest_stats *s = &kit_vm(k, 1)->stats;
	kit_stats_swap(k, 1, actual_bytes, usable_bytes, s->swap_in_bytes + swapped_in, s->swap_out_bytes);
}

static void rising_demand_is_believed_at_once_falling_slowly(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	assert_int_equal(vm->demand_bytes, 224 * MIB);
	second(k, GIB, 300 * MIB, 0);
	assert_int_equal(vm->demand_bytes, 724 * MIB);
	second(k, GIB, 800 * MIB, 0);
	assert_in_range(vm->demand_bytes, 600 * MIB, 700 * MIB);
	for (int i = 0; i < 60; i++)
		second(k, GIB, 800 * MIB, 0);
	assert_in_range(vm->demand_bytes, 224 * MIB, 230 * MIB);
}

static void measure_overhead(struct kit *k, uint64_t resident_bytes, uint64_t overhead_bytes)
{
	struct event ev = {.type = EVENT_VM_SAMPLE, .vm = 1};
	ev.sample = (struct vm_host_sample){.has_memory = true,
					    .resident_bytes = resident_bytes,
					    .limit_bytes = LIMIT_NONE,
					    .has_overhead = true,
					    .overhead_bytes = overhead_bytes};
	assert_int_equal(kit_step(k, &ev), 0);
}

static void a_guest_uses_no_more_than_is_there(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	k->now_ms += 500;
	measure_overhead(k, 300 * MIB, 20 * MIB);
	second(k, GIB, 0, 0); /* it says it uses all of it */
	assert_int_equal(vm->demand_bytes, 280 * MIB);
	assert_false(vm->needy);
}

static void a_guessed_overhead_does_not_make_a_guest_a_liar(void **state)
{
	struct kit *k = *state;
	struct vm_facts f = kit_facts(512 * MIB);
	f.overhead_guess_bytes = 300 * MIB;
	struct vm *vm = kit_add_facts(k, 1, ORIGIN_START, &f);
	kit_sample(k, 1, 530 * MIB, LIMIT_NONE, 0);
	for (int i = 0; i < 3; i++)
		second(k, 400 * MIB, 2 * MIB, 0);
	assert_int_equal(vm->demand_bytes, 398 * MIB);
	assert_true(vm->needy);
}

/* A VM of 1 GiB that its balloon holds at 400 MiB, of which 200 MiB are present and `usable` usable. */
static struct vm *ballooned(struct kit *k, uint64_t usable_bytes)
{
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	vm->health = BALLOON_WORKING;
	for (int i = 0; i < 2; i++) {
		k->now_ms += 1000;
		kit_sample(k, 1, 200 * MIB, LIMIT_NONE, 0);
	}
	kit_stats(k, 1, 400 * MIB, usable_bytes);
	assert_int_equal(vm_size_bytes(vm), 400 * MIB);
	assert_false(vm->needy);
	return vm;
}

static void residency(struct kit *k, uint64_t resident_bytes, uint64_t swapped_bytes)
{
	struct event ev = {.type = EVENT_VM_RESIDENCY,
			   .vm = 1,
			   .sample = {.has_memory = true,
				      .resident_bytes = resident_bytes,
				      .swapped_bytes = swapped_bytes,
				      .limit_bytes = LIMIT_NONE}};
	k->now_ms += 100;
	assert_int_equal(kit_step(k, &ev), 0);
}

static void a_spike_is_seen_before_the_guest_tells_it(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k, 190 * MIB);
	assert_true(core_watch_residency(k->core, vm));
	residency(k, 280 * MIB, 0);
	assert_int_equal(vm->surge_bytes, 80 * MIB);
	assert_false(vm->needy); /* more than half of what it called usable is left */
	residency(k, 310 * MIB, 0);
	assert_true(vm->needy);
	assert_string_equal(vm->needy_why, "guest touched 110 of 190 MiB usable in 200 ms");
	assert_true(vm->target_bytes > 450 * MIB); /* without waiting for a tick */
}

/* Its VM has just started: what QEMU takes for itself is measured only now. */
static void a_spike_is_seen_while_overhead_becomes_known(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k, 190 * MIB);
	vm->overhead_bytes = 50 * MIB;
	vm->surge_from_bytes = 430 * MIB; /* nearly all, but some of it is QEMU's own */
	assert_false(vm->overhead_measured);
	assert_true(core_watch_residency(k->core, vm));
	vm->surge_from_bytes = 200 * MIB;
	measure_overhead(k, 200 * MIB, 60 * MIB);
	assert_true(vm->overhead_measured);
	residency(k, 310 * MIB, 0);
	assert_int_equal(vm->surge_bytes, 110 * MIB);
	assert_true(vm->needy);
}

static void slow_growth_is_no_spike(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k, 190 * MIB);
	k->now_ms += 3900; /* statistics are late */
	residency(k, 300 * MIB, 0);
	assert_int_equal(vm->surge_bytes, 100 * MIB); /* 25 MiB/s: the 90 that are left last for seconds */
	assert_false(vm->needy);
}

static void what_goes_to_swap_and_comes_home_is_no_spike(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k, 250 * MIB);
	residency(k, 300 * MIB, 0);
	assert_int_equal(vm->surge_bytes, 100 * MIB);
	residency(k, 200 * MIB, 100 * MIB);
	assert_int_equal(vm->surge_bytes, 100 * MIB);
	residency(k, 300 * MIB, 0);
	assert_int_equal(vm->surge_bytes, 100 * MIB);
}

static void the_guests_own_word_ends_a_surge(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k, 300 * MIB);
	residency(k, 340 * MIB, 0);
	assert_int_equal(vm->demand_bytes, 240 * MIB);
	k->now_ms += 900;
	kit_stats(k, 1, 400 * MIB, 300 * MIB); /* it was page cache */
	assert_int_equal(vm->surge_bytes, 0);
	assert_false(vm->needy);
	vm->surge_from_bytes = 395 * MIB; /* all that it has was present: no more can be seen */
	assert_false(core_watch_residency(k->core, vm));
}

static void residency_says_nothing_where_it_cannot(void **state)
{
	struct kit *k = *state;
	struct vm *vm = ballooned(k, 190 * MIB);
	vm->health = BALLOON_ABSENT; /* its size is not the balloon's */
	assert_false(core_watch_residency(k->core, vm));
	vm->health = BALLOON_WORKING;
	vm->actual_bytes = GIB; /* it has all it may have */
	assert_false(core_watch_residency(k->core, vm));
	vm->actual_bytes = 400 * MIB;
	assert_true(core_watch_residency(k->core, vm));
	struct event nothing = {.type = EVENT_VM_RESIDENCY, .vm = 1}; /* nothing could be read */
	assert_int_equal(kit_step(k, &nothing), 0);
	assert_int_equal(vm->sample.resident_bytes, 200 * MIB);
	nothing.vm = 99;
	assert_int_equal(kit_step(k, &nothing), -ENOENT);
	k->now_ms += 60000; /* what it called usable is long ago */
	residency(k, 390 * MIB, 0);
	assert_false(vm->needy);
}

static void nonsense_is_not_an_account(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	for (int i = 0; i < 3; i++)
		second(k, GIB, UINT64_MAX, 0);	       /* what Windows says where it does not know */
	assert_int_equal(vm->demand_bytes, 224 * MIB); /* the last word that made sense */
	assert_true(vm->demand_confidence > 0.5);
	for (int i = 0; i < 10; i++)
		second(k, GIB, UINT64_MAX, 0);
	assert_true(vm->demand_confidence < 0.5);
	assert_true(vm->demand_bytes <= GIB);
	assert_false(vm->needy);
}

static void counters_that_go_back_are_no_rates(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 20 * MIB);
	k->now_ms += 1000;
	kit_stats_swap(k, 1, GIB, 20 * MIB, 100 * MIB, 100 * MIB);
	assert_true(vm->has_guest_rates);
	assert_true(vm->needy);
	k->now_ms += 1000;
	kit_stats_swap(k, 1, GIB, 20 * MIB, 50 * MIB, 0); /* rebooted without a word */
	assert_false(vm->has_guest_rates);
	k->now_ms += 1000;
	kit_sample(k, 1, GIB, LIMIT_NONE, 500);
	k->now_ms += 1000;
	kit_sample(k, 1, GIB, LIMIT_NONE, 100);
	assert_false(vm->has_host_rates);
}

static void a_clock_that_goes_back_is_no_statistics(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	uint64_t stats_ms = vm->stats_ms;
	struct event ev = {.type = EVENT_VM_STATS, .vm = 1, .stats = vm->stats};
	ev.stats.last_update_s = 1; /* QEMU 10 zeroes it on reset, a host's clock may be set */
	k->now_ms += 1000;
	assert_int_equal(kit_step(k, &ev), 0);
	assert_int_equal(vm->stats_ms, stats_ms);
	ev.stats.last_update_s = 2;
	k->now_ms += 1000;
	assert_int_equal(kit_step(k, &ev), 0);
	assert_int_equal(vm->stats_ms, k->now_ms); /* it goes on from there */
}

static void the_same_statistics_again_are_old(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	assert_true(vm_stats_fresh(vm, &k->config, k->now_ms));
	struct event ev = {.type = EVENT_VM_STATS, .vm = 1, .stats = vm->stats};
	for (int i = 0; i < 6; i++) {
		k->now_ms += 1000;
		assert_int_equal(kit_step(k, &ev), 0);
	}
	assert_false(vm_stats_fresh(vm, &k->config, k->now_ms));
}

static void silence_is_not_idleness(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 100 * MIB);
	for (int i = 0; i < 15; i++)
		kit_tick(k, 1000);
	assert_true(vm->demand_confidence < 0.5);
	assert_in_range(vm->demand_bytes, 780 * MIB, 924 * MIB); /* towards half of it, slowly */
}

static void a_snapshot_from_before_the_balloon_moved_is_not_demand(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	/* The balloon took 600 MiB since: usable of then is more than all of now. */
	struct event ev = {.type = EVENT_VM_BALLOON, .vm = 1, .bytes = 424 * MIB};
	k->now_ms += 900;
	assert_int_equal(kit_step(k, &ev), 0);
	kit_tick(k, 100);
	assert_int_equal(vm->demand_bytes, 224 * MIB);
	assert_false(vm->needy);
	/* And gave it back: what the kernel hides from its total has not grown. */
	uint64_t hidden = vm->hidden_bytes;
	second(k, 424 * MIB, 200 * MIB, 0);
	ev.bytes = GIB;
	k->now_ms += 300;
	assert_int_equal(kit_step(k, &ev), 0);
	kit_tick(k, 100);
	assert_int_equal(vm->hidden_bytes, hidden);
	assert_true(vm->demand_bytes <= 225 * MIB);
}

static void snapshot(struct kit *k, uint64_t actual_mib, uint64_t total_mib, uint64_t usable_mib)
{
	struct event ev = {.type = EVENT_VM_STATS,
			   .vm = 1,
			   .stats = {.has_actual = true,
				     .has_usable = true,
				     .has_available = true,
				     .actual_bytes = actual_mib * MIB,
				     .usable_bytes = usable_mib * MIB,
				     .available_bytes = total_mib * MIB,
				     .last_update_s = kit_vm(k, 1)->stats.last_update_s + 1}};
	assert_int_equal(kit_step(k, &ev), 0);
}

/* Statistics of before come with the balloon of now: its own total and usable memory still belong together. */
static void a_snapshot_of_before_is_right_in_itself(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 724 * MIB); /* it uses 300 */
	k->now_ms += 5000;
	snapshot(k, 1024, 1024, 724); /* an empty balloon shows nothing */
	assert_false(vm->total_shrinks);
	snapshot(k, 800, 800, 500);
	assert_false(vm->total_shrinks); /* it may still move */
	k->now_ms += 4000;
	snapshot(k, 800, 800, 500);
	assert_true(vm->total_shrinks);
	k->now_ms += 500;
	snapshot(k, 700, 800, 500); /* of before the balloon took 100 more */
	assert_int_equal(vm->used_bytes, 300 * MIB);
	/* Deflate-on-oom: another kernel, whose total stays. */
	k->now_ms += 4000;
	snapshot(k, 700, 1024, 400);
	assert_false(vm->total_shrinks);
	assert_int_equal(vm->used_bytes, 300 * MIB);
	k->now_ms += 500;
	snapshot(k, 600, 1024, 300);
	assert_int_equal(vm->used_bytes, 300 * MIB);
}

static void low_usable_is_need_unless_memory_was_given_since(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, 512 * MIB, 200 * MIB);
	vm->actual_bytes = 300 * MIB; /* bend: it is small */
	k->now_ms += 5000;
	kit_sample(k, 1, 300 * MIB, LIMIT_NONE, 0);
	second(k, 300 * MIB, 2 * MIB, 0);
	assert_true(vm->needy);
	assert_string_not_equal(vm->needy_why, "");
	uint64_t sign_ms = vm->needy_sign_ms;
	struct event ev = {.type = EVENT_VM_BALLOON, .vm = 1, .bytes = 400 * MIB};
	k->now_ms += 200;
	assert_int_equal(kit_step(k, &ev), 0);
	kit_tick(k, 100);
	assert_int_equal(vm->needy_sign_ms, sign_ms); /* no new sign from the old snapshot */
}

/* Else all that a short host took headroom of would be in need as soon as it is not short any more. */
static void who_was_shrunk_last_is_in_need_at_half_of_what_is_low(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, 512 * MIB, 200 * MIB);
	uint64_t low = vm_low_usable_bytes(vm);
	vm->actual_bytes = 300 * MIB; /* bend: it is small */
	k->now_ms += 5000;
	vm->grow_ms = k->now_ms - 2000;
	vm->shrink_ms = k->now_ms - 1000;
	kit_sample(k, 1, 300 * MIB, LIMIT_NONE, 0);
	second(k, 300 * MIB, low / 2, 0);
	assert_false(vm->needy);
	second(k, 300 * MIB, low / 2 - MIB, 0);
	assert_true(vm->needy);
	second(k, 300 * MIB, 100 * MIB, 0);
	k->now_ms += 20000;
	second(k, 300 * MIB, 100 * MIB, 0);
	assert_false(vm->needy);
	vm->grow_ms = k->now_ms;
	second(k, 300 * MIB, low - MIB, 0);
	assert_true(vm->needy);
}

/* Else it would grow, be greedy, shrink to its need and grow again for ever. */
static void a_vm_that_has_what_it_needs_is_not_needy(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, 4 * GIB, 200 * MIB);
	vm->health = BALLOON_WORKING;
	vm->facts.policy.min_bytes = 64 * MIB;
	for (int i = 0; i < 90; i++)
		second(k, GIB, GIB - 200 * MIB, 0);
	assert_in_range(vm->need_bytes, 223 * MIB, 232 * MIB);
	second(k, vm->need_bytes, vm->need_bytes - 200 * MIB, 0);
	assert_false(vm->needy);
	assert_true(vm_low_usable_bytes(vm) * 2 <= vm->headroom_bytes);
}

/* As the watermarks of its kernel do. */
static void low_usable_grows_with_the_root_of_its_memory(void **state)
{
	(void)state;
	static const struct {
		uint64_t max_bytes, low_bytes;
	} cases[] = {{256 * MIB, 8 * MIB}, {2 * GIB, 8 * MIB},	 {5 * GIB, 12 * MIB},  {8 * GIB, 16 * MIB},
		     {20 * GIB, 24 * MIB}, {32 * GIB, 32 * MIB}, {128 * GIB, 64 * MIB}};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vm vm = {.facts.max_bytes = cases[i].max_bytes, .headroom_bytes = UINT64_MAX};
		assert_int_equal(vm_low_usable_bytes(&vm), cases[i].low_bytes);
		vm.headroom_bytes = 40 * MIB;
		assert_in_range(vm_low_usable_bytes(&vm), 8 * MIB, 10 * MIB);
	}
	struct vm vast = {.facts.max_bytes = UINT64_MAX, .headroom_bytes = UINT64_MAX};
	assert_in_range(vm_low_usable_bytes(&vast), 600 * GIB, 800 * GIB);
}

static void past_levels_are_kept(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	second(k, GIB, 100 * MIB, 0); /* 924 */
	uint64_t high_ms = k->now_ms;
	for (int i = 0; i < 5; i++)
		second(k, GIB, 600 * MIB, 0); /* 424 */
	uint64_t middle_ms = k->now_ms;
	for (int i = 0; i < 5; i++)
		second(k, GIB, 800 * MIB, 0); /* 224 */
	assert_int_equal(vm_past_peak_bytes(vm, 0), 924 * MIB);
	assert_int_equal(vm_past_peak_bytes(vm, high_ms + 1), 424 * MIB);
	assert_int_equal(vm_past_peak_bytes(vm, middle_ms + 1), 224 * MIB);
	assert_int_equal(vm_past_peak_bytes(vm, k->now_ms + 1), 0);
	assert_int_equal(vm_past_above_bytes(vm, 224 * MIB), 424 * MIB);
	assert_int_equal(vm_past_above_bytes(vm, 424 * MIB), 924 * MIB);
	assert_int_equal(vm_past_above_bytes(vm, 924 * MIB), 0);
	second(k, GIB, 550 * MIB, 0); /* 474: what was lower is not looked for any more */
	assert_int_equal(vm_past_above_bytes(vm, 224 * MIB), 474 * MIB);
	for (uint64_t i = 0; i < 3 * PAST_LEVELS; i++)
		second(k, GIB, 560 * MIB + i * 12 * MIB, 0);
	assert_in_range(vm->past_n, 2, PAST_LEVELS);
	assert_int_equal(vm_past_peak_bytes(vm, 0), 924 * MIB); /* merged, never lowered */
	for (size_t i = 1; i < vm->past_n; i++) {
		assert_true(vm->past_bytes[i] < vm->past_bytes[i - 1]);
		assert_true(vm->past_ms[i] >= vm->past_ms[i - 1]);
	}
}

/* One jump says nothing of what is to come; growth that goes on does. */
static void only_growth_that_goes_on_is_headroom(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	uint64_t least = vm->headroom_bytes;
	second(k, GIB, 700 * MIB, 0);
	assert_in_range(vm->headroom_bytes, least, least + 16 * MIB); /* a tenth of demand */
	assert_int_equal(vm->grown_bytes, 100 * MIB);
	second(k, GIB, 600 * MIB, 0);
	assert_in_range(vm->headroom_bytes, 128 * MIB, 128 * MIB); /* the most there is */
}

static void what_goes_to_and_fro_is_noise_and_a_step_is_none(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	second(k, GIB, 400 * MIB, 0);
	second(k, GIB, 400 * MIB, 0);
	second(k, GIB, 700 * MIB, 0);
	second(k, GIB, 700 * MIB, 0);
	for (int i = 0; i < 4; i++)
		second(k, GIB, (700 - 10 * (uint64_t)i) * MIB, 0);
	assert_true(vm->noise_bytes == 0); /* a pulse, a slope */
	for (int i = 0; i < 60; i++)
		second(k, GIB, (i % 2 ? 600 : 608) * MIB, 0);
	assert_in_range((uint64_t)(vm->noise_bytes / 1024), 7 * 1024, 8 * 1024);
	for (int i = 0; i < 60; i++)
		second(k, GIB, 600 * MIB, 0);
	assert_true(vm->noise_bytes < 8192); /* of 8 MiB, after a minute */
}

static void pages_that_come_home_are_no_need(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 600 * MIB);
	for (int i = 0; i < 5; i++) {
		second(k, GIB, 500 * MIB, 50 * MIB);
		assert_false(vm->needy);
	}
	second(k, GIB, 16 * MIB, 50 * MIB);
	assert_true(vm->needy);
	for (int i = 0; i < 5; i++)
		second(k, GIB, 500 * MIB, 50 * MIB);
	assert_false(vm->needy); /* over, needy_hold after its last sign */
}

static void a_swapping_guest_without_usable_is_needy(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 600 * MIB);
	struct event ev = {.type = EVENT_VM_STATS, .vm = 1, .stats = vm->stats};
	ev.stats.has_usable = false;
	ev.stats.swap_in_bytes += 10 * MIB;
	ev.stats.last_update_s++;
	k->now_ms += 1000;
	assert_int_equal(kit_step(k, &ev), 0);
	assert_true(vm->needy);
}

static void host_faults_count_only_at_the_limit(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 600 * MIB);
	kit_answer(k);
	uint64_t faults = 0;
	for (int i = 0; i < 3; i++) { /* far from any limit: pages coming home */
		k->now_ms += 1000;
		kit_sample(k, 1, 500 * MIB, LIMIT_NONE, faults += 5000);
		kit_tick(k, 0);
		assert_false(vm->needy);
	}
	k->now_ms += 1000;
	kit_sample(k, 1, 500 * MIB, LIMIT_NONE, faults);
	vm->limit_known = true;
	vm->limit_bytes = vm->limit_asked_bytes = 600 * MIB;
	k->now_ms += 1000;
	kit_sample(k, 1, 598 * MIB, 600 * MIB, faults += 100); /* few: eviction of warm pages */
	kit_tick(k, 0);
	k->now_ms += 1000;
	kit_sample(k, 1, 598 * MIB, 600 * MIB, faults += 20);
	kit_tick(k, 0);
	assert_false(vm->needy);
	k->now_ms += 1000;
	kit_sample(k, 1, 598 * MIB, 600 * MIB, faults += 5000);
	kit_tick(k, 0);
	assert_true(vm->needy);
	for (int i = 0; i < 12; i++) /* samples stop: the last rate is not true for ever */
		kit_tick(k, 1000);
	assert_false(vm->needy);
}

/* A VM at its limit of 600 MiB whose counters have been seen for `seconds`, each second with these steps. */
struct counting {
	uint64_t faults, refaults, stall_us;
	bool no_faults, no_refaults, no_psi;
};

static struct vm *count_at_limit(struct kit *k, const struct counting *step, unsigned seconds)
{
	struct vm *vm = kit_vm(k, 1) ? kit_vm(k, 1) : kit_steady(k, 1, GIB, 600 * MIB);
	vm->limit_known = true;
	vm->limit_bytes = vm->limit_asked_bytes = 600 * MIB;
	for (unsigned i = 0; i < seconds && !vm->needy; i++) {
		const struct vm_host_sample *old = &vm->sample;
		struct event ev = {.type = EVENT_VM_SAMPLE,
				   .vm = 1,
				   .sample = {.has_memory = true,
					      .resident_bytes = 598 * MIB,
					      .limit_bytes = 600 * MIB,
					      .has_major_faults = !step->no_faults,
					      .major_faults = old->major_faults + step->faults,
					      .has_refaults = !step->no_refaults,
					      .refaults = old->refaults + step->refaults,
					      .has_psi = !step->no_psi,
					      .psi_some_us = old->psi_some_us + step->stall_us}};
		k->now_ms += 1000;
		assert_int_equal(kit_step(k, &ev), 0);
		kit_tick(k, 0);
	}
	return vm;
}

static void refaults_at_the_limit_are_need(void **state)
{
	struct kit *k = *state;
	/* Readahead of eight pages a fault: 50 faults a second are 400. */
	struct vm *vm = count_at_limit(k, &(struct counting){.refaults = 399}, 12);
	assert_false(vm->needy);
	assert_true(vm->has_refault_rate && vm->host_refaults_per_s > 398);
	count_at_limit(k, &(struct counting){.refaults = 402}, 12);
	assert_true(vm->needy);
	assert_non_null(strstr(vm->needy_why, "evicted pages/s come back"));
	assert_true(vm->need_score >= 100); /* as much as faults at their threshold */
}

static void refaults_do_not_need_fault_counters(void **state)
{
	struct kit *k = *state;
	const struct counting blind = {.refaults = 800, .no_faults = true, .no_psi = true};
	struct vm *vm = count_at_limit(k, &blind, 8);
	assert_true(vm->needy);
	assert_false(vm->has_host_rates || vm->has_stall);
}

static void a_stall_at_the_limit_is_need(void **state)
{
	struct kit *k = *state;
	struct vm *vm = count_at_limit(k, &(struct counting){.stall_us = 49000}, 12);
	assert_false(vm->needy);
	assert_true(vm->has_stall && vm->stall_share > 0.048);
	count_at_limit(k, &(struct counting){.stall_us = 51000}, 12);
	assert_true(vm->needy);
	assert_non_null(strstr(vm->needy_why, "stalled by memory"));
}

static void unknown_counters_are_no_signs(void **state)
{
	struct kit *k = *state;
	const struct counting none = {
		.refaults = 9000, .stall_us = 900000, .no_faults = true, .no_refaults = true, .no_psi = true};
	struct vm *vm = count_at_limit(k, &none, 12);
	assert_false(vm->needy || vm->has_refault_rate || vm->has_stall);
	/* What was counted while it was not told is no rate of the moment in which it is. */
	count_at_limit(k, &(struct counting){0}, 12);
	assert_false(vm->needy);
	assert_true(vm->has_refault_rate && vm->host_refaults_per_s == 0);
}

static void away_from_the_limit_nothing_counts(void **state)
{
	struct kit *k = *state;
	struct vm *vm = count_at_limit(k, &(struct counting){0}, 4);
	vm->limit_bytes = LIMIT_NONE;
	vm->host_refaults_per_s = 9000;
	vm->stall_share = 0.9;
	struct host_signs s = vm_host_signs(vm, &k->config, k->now_ms);
	assert_false(s.at_limit);
	assert_true(s.faults == 0 && s.refaults == 0 && s.stall == 0);
}

static void cold_pages_are_told_apart_for_a_while(void **state)
{
	struct kit *k = *state;
	const struct counting cold = {.faults = 300, .refaults = 70};
	struct vm *vm = count_at_limit(k, &(struct counting){0}, 8);
	vm->lowered_ms = k->now_ms;
	count_at_limit(k, &cold, 10);
	assert_false(vm->needy);
	assert_true(vm_host_signs(vm, &k->config, k->now_ms).cold);
	count_at_limit(k, &cold, 2);
	assert_true(vm->needy); /* not without end */
}

static void faults_with_refaults_are_not_cold(void **state)
{
	struct kit *k = *state;
	struct vm *vm = count_at_limit(k, &(struct counting){0}, 8);
	vm->lowered_ms = k->now_ms;
	count_at_limit(k, &(struct counting){.faults = 300, .refaults = 80}, 1);
	assert_true(vm->needy);
}

static void faults_are_cold_only_after_a_lowering(void **state)
{
	struct kit *k = *state;
	struct vm *vm = count_at_limit(k, &(struct counting){0}, 8);
	count_at_limit(k, &(struct counting){.faults = 300, .refaults = 1}, 1);
	assert_true(vm->needy);
}

static void growth_is_measured_from_statistics_to_statistics(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	for (int i = 0; i < 5; i++)
		second(k, GIB, 800 * MIB, 0);
	kit_tick(k, 990); /* a tick just before statistics must not make 10 MiB in 10 ms of it */
	k->now_ms += 10;
	kit_stats(k, 1, GIB, 790 * MIB);
	assert_true(vm->growth_mean_bytes_per_s < 2.0 * MIB);
	assert_true(vm->headroom_bytes < 40 * MIB);
}

static void headroom_follows_growth_and_is_bounded(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 900 * MIB);
	assert_int_equal(vm->headroom_bytes, 24 * MIB);
	for (uint64_t i = 0; i < 8; i++)
		second(k, GIB, 900 * MIB - i * 60 * MIB, 0);
	assert_int_equal(vm->headroom_bytes, 128 * MIB); /* an eighth of its memory, at most */
}

static void double_swapping_is_seen_and_ends(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 600 * MIB);
	uint64_t faults = 0;
	for (int i = 0; i < 2; i++) {
		second(k, GIB, 300 * MIB, 10 * MIB);
		struct event ev = {.type = EVENT_VM_SAMPLE, .vm = 1};
		ev.sample = (struct vm_host_sample){.has_memory = true,
						    .resident_bytes = 700 * MIB,
						    .swapped_bytes = 100 * MIB,
						    .limit_bytes = LIMIT_NONE,
						    .has_major_faults = true,
						    .major_faults = faults += 1000};
		assert_int_equal(kit_step(k, &ev), 0);
		kit_tick(k, 0);
	}
	kit_tick(k, 1000);
	assert_true(vm->double_swap || vm->double_swap_signs);
	struct vm_ctx x = {.config = &k->config, .host = &k->host, .now_ms = k->now_ms};
	if (vm->double_swap)
		assert_non_null(vm_limit_forbidden_why(vm, &x));
	for (int i = 0; i < 10; i++) {
		second(k, GIB, 300 * MIB, 0);
		kit_tick(k, 0);
	}
	assert_false(vm->double_swap);
	x.now_ms = k->now_ms;
	assert_non_null(vm_limit_forbidden_why(vm, &x)); /* held for a while */
	x.now_ms += 60000;
	assert_null(vm_limit_forbidden_why(vm, &x));
}

#define WITH_KIT(f) cmocka_unit_test_setup_teardown(f, open_kit, close_kit)
static void its_maximum_for_five_minutes_and_still_needy(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 500 * MIB);
	uint64_t swapped = 0, begin_ms = k->now_ms;
	while (k->now_ms - begin_ms < 299000) {
		k->now_ms += 1000;
		swapped += 50 * MIB;
		kit_stats_swap(k, 1, GIB, 20 * MIB, swapped, swapped);
		assert_true(vm->needy);
		assert_false(vm->insatiable);
	}
	for (int i = 0; i < 3; i++) {
		k->now_ms += 1000;
		swapped += 50 * MIB;
		kit_stats_swap(k, 1, GIB, 20 * MIB, swapped, swapped);
	}
	assert_true(vm->insatiable);
	for (int i = 0; i < 10; i++) {
		k->now_ms += 1000;
		kit_stats_swap(k, 1, GIB, 500 * MIB, swapped, swapped);
		kit_tick(k, 0);
	}
	assert_false(vm->needy || vm->insatiable);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_KIT(its_maximum_for_five_minutes_and_still_needy),
		WITH_KIT(rising_demand_is_believed_at_once_falling_slowly),
		WITH_KIT(a_guest_uses_no_more_than_is_there),
		WITH_KIT(a_guessed_overhead_does_not_make_a_guest_a_liar),
		WITH_KIT(a_spike_is_seen_before_the_guest_tells_it),
		WITH_KIT(slow_growth_is_no_spike),
		WITH_KIT(what_goes_to_swap_and_comes_home_is_no_spike),
		WITH_KIT(the_guests_own_word_ends_a_surge),
		WITH_KIT(a_spike_is_seen_while_overhead_becomes_known),
		WITH_KIT(residency_says_nothing_where_it_cannot),
		WITH_KIT(nonsense_is_not_an_account),
		WITH_KIT(counters_that_go_back_are_no_rates),
		WITH_KIT(a_clock_that_goes_back_is_no_statistics),
		WITH_KIT(the_same_statistics_again_are_old),
		WITH_KIT(silence_is_not_idleness),
		WITH_KIT(a_snapshot_from_before_the_balloon_moved_is_not_demand),
		WITH_KIT(a_snapshot_of_before_is_right_in_itself),
		WITH_KIT(low_usable_is_need_unless_memory_was_given_since),
		WITH_KIT(who_was_shrunk_last_is_in_need_at_half_of_what_is_low),
		WITH_KIT(a_vm_that_has_what_it_needs_is_not_needy),
		cmocka_unit_test(low_usable_grows_with_the_root_of_its_memory),
		WITH_KIT(past_levels_are_kept),
		WITH_KIT(only_growth_that_goes_on_is_headroom),
		WITH_KIT(what_goes_to_and_fro_is_noise_and_a_step_is_none),
		WITH_KIT(pages_that_come_home_are_no_need),
		WITH_KIT(a_swapping_guest_without_usable_is_needy),
		WITH_KIT(host_faults_count_only_at_the_limit),
		WITH_KIT(refaults_at_the_limit_are_need),
		WITH_KIT(refaults_do_not_need_fault_counters),
		WITH_KIT(a_stall_at_the_limit_is_need),
		WITH_KIT(unknown_counters_are_no_signs),
		WITH_KIT(away_from_the_limit_nothing_counts),
		WITH_KIT(cold_pages_are_told_apart_for_a_while),
		WITH_KIT(faults_with_refaults_are_not_cold),
		WITH_KIT(faults_are_cold_only_after_a_lowering),
		WITH_KIT(growth_is_measured_from_statistics_to_statistics),
		WITH_KIT(headroom_follows_growth_and_is_bounded),
		WITH_KIT(double_swapping_is_seen_and_ends),
	};
	return cmocka_run_group_tests_name("core_demand", tests, NULL, NULL);
}
