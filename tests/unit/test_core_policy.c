/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who gets and who gives: plans of one round over VMs whose estimates are set by hand. */
#include "tests/unit/core_kit.h"

#include <errno.h>

/* A round as the core makes it, over VMs of the test's own. */
struct round {
	struct core_config config;
	struct host_sample host;
	struct books books;
	struct policy_host memory;
	struct vm vms[1000];
	struct vm *list[1000];
	size_t n;
};

static struct round *round_new(uint64_t buffer_bytes, enum host_level level)
{
	static struct round r;
	memset(&r, 0, sizeof(r));
	r.config = kit_config();
	r.host = (struct host_sample){
		.has_memory = true, .mem_available_bytes = 64 * GIB, .swap_total_bytes = GIB, .swap_free_bytes = GIB};
	r.books = (struct books){.pool_bytes = 16 * GIB,
				 .buffer_target_bytes = 128 * MIB,
				 .buffer_bytes = (int64_t)buffer_bytes,
				 .level = level};
	return &r;
}

#define NOW 1000000

/* Steady, max 1 GiB, its balloon works; need is what it has justified. */
static struct vm *round_vm(struct round *r, uint64_t size_mib, uint64_t demand_mib)
{
	struct vm *vm = &r->vms[r->n];
	vm->id = (vm_id)++r->n;
	vm->state = VM_STEADY;
	vm->booted = true;
	vm->facts = kit_facts(GIB);
	vm->health = BALLOON_WORKING;
	vm->actual_trusted = true;
	vm->actual_bytes = vm->target_bytes = size_mib * MIB;
	vm->limit_bytes = LIMIT_NONE;
	vm->demand_bytes = demand_mib * MIB;
	vm->headroom_bytes = 32 * MIB;
	vm->demand_confidence = 0.9;
	vm->has_stats = true;
	vm->stats_advances = 2;
	vm->stats_ms = NOW - 500;
	vm->untouched_ms = vm->grow_ms = vm->shrink_ms = vm->op_ms = vm->retry_at_ms = NEVER_MS;
	vm->dwell_ms = r->config.dwell_ms;
	vm->has_sample = true;
	vm->sample_ms = NOW - 500;
	vm->sample = (struct vm_host_sample){
		.has_memory = true, .resident_bytes = vm->actual_bytes, .limit_bytes = LIMIT_NONE};
	return vm;
}

static struct vm *round_needy(struct round *r, uint64_t size_mib, double score)
{
	struct vm *vm = round_vm(r, size_mib, size_mib);
	vm->needy = true;
	vm->need_score = score * vm->facts.policy.weight / 100;
	vm->needy_sign_ms = NOW;
	return vm;
}

static void plan(struct round *r)
{
	struct vm_ctx x = {.config = &r->config, .host = &r->host, .level = r->books.level, .now_ms = NOW};
	for (size_t i = 0; i < r->n; i++) {
		struct vm *vm = &r->vms[i];
		vm->need_bytes = clamp_u64(vm->demand_bytes + vm->headroom_bytes, vm_min_bytes(vm, &r->config),
					   vm_max_bytes(vm));
		vm->greedy_bytes = vm->needy ? 0 : sub_sat_u64(vm_size_bytes(vm), vm->need_bytes);
		vm->plan_bytes = vm->state == VM_STEADY ? vm_size_bytes(vm) : vm->target_bytes;
		r->list[i] = vm;
	}
	struct plan p = {.config = &r->config,
			 .host = &r->host,
			 .books = &r->books,
			 .ctx = &x,
			 .vms = r->list,
			 .n = r->n,
			 .all = r->list,
			 .all_n = r->n,
			 .now_ms = NOW,
			 .memory = &r->memory};
	r->config.policy->plan(&p);
}

static int64_t change_mib(const struct vm *vm)
{
	return ((int64_t)vm->plan_bytes - (int64_t)vm_size_bytes(vm)) / (int64_t)MIB;
}

static void without_need_and_with_a_full_buffer_nothing_moves(void **unused)
{
	struct round *r = round_new(128 * MIB, LEVEL_HIGH);
	struct vm *a = round_vm(r, 900, 100), *b = round_vm(r, 500, 300);
	plan(r);
	assert_int_equal(change_mib(a), 0);
	assert_int_equal(change_mib(b), 0);
	r->books.buffer_bytes = 120 * (int64_t)MIB; /* nearly full is full */
	plan(r);
	assert_int_equal(change_mib(a), 0);
	assert_int_equal(r->books.unmet_bytes, 0);
}

static void an_empty_round_is_no_round(void **unused)
{
	struct round *r = round_new(0, LEVEL_LOW);
	r->books.unmet_bytes = 5;
	plan(r);
	assert_int_equal(r->books.unmet_bytes, 0);
}

static void excess_of_two_to_one_gives_two_to_one(void **unused)
{
	struct round *r = round_new(28 * MIB, LEVEL_SOFT);
	struct vm *a = round_vm(r, 832, 400), *b = round_vm(r, 632, 400); /* 400 and 200 MiB too much */
	plan(r);
	assert_in_range(-change_mib(a), 66, 68);
	assert_in_range(-change_mib(b), 33, 34);
	assert_false(a->plan_urgent);
}

static void what_was_used_lately_is_taken_last(void **unused)
{
	struct round *r = round_new(28 * MIB, LEVEL_SOFT);
	struct vm *idle = round_vm(r, 600, 400), *worker = round_vm(r, 900, 400);
	worker->past_bytes[0] = 880 * MIB;
	worker->past_ms[0] = NOW - 300000;
	worker->past_n = 1;
	plan(r);
	assert_in_range(-change_mib(idle), 86, 92); /* of what nobody has used: 168 and 20 */
	assert_in_range(-change_mib(worker), 10, 12);
	r->books.buffer_target_bytes = 428 * MIB; /* that does not do: the worker's peak, too */
	plan(r);
	assert_in_range(-change_mib(idle) - change_mib(worker), 398, 402);
	assert_true(-change_mib(worker) > 200);
}

static void a_weight_is_worth_its_share(void **unused)
{
	struct round *r = round_new(8 * MIB, LEVEL_SOFT);
	struct vm *a = round_vm(r, 832, 400), *b = round_vm(r, 832, 400);
	b->facts.policy.weight = 200;
	plan(r);
	assert_in_range(-change_mib(a), 79, 81);
	assert_in_range(-change_mib(b), 39, 41);
}

static void nobody_is_planned_below_minimum_or_need(void **unused)
{
	struct round *r = round_new(0, LEVEL_SOFT);
	r->books.buffer_bytes = -(int64_t)(4 * GIB);
	struct vm *a = round_vm(r, 600, 400), *b = round_vm(r, 300, 10), *c = round_vm(r, 256, 10);
	a->facts.policy.min_bytes = 500 * MIB;
	plan(r);
	assert_int_equal(a->plan_bytes, 500 * MIB); /* minimum above need */
	assert_int_equal(b->plan_bytes, 256 * MIB); /* a quarter of 1 GiB */
	assert_int_equal(change_mib(c), 0);
}

static void hard_takes_headroom_low_takes_use_only_from_a_host_out_of_memory(void **unused)
{
	struct round *r = round_new(0, LEVEL_LOW);
	r->books.buffer_bytes = -(int64_t)(2 * GIB);
	struct vm *a = round_vm(r, 600, 568);
	plan(r);
	assert_int_equal(a->plan_bytes, 576 * MIB + MIB / 16); /* of its headroom stays what does not make it needy */
	assert_true(a->plan_urgent);
	r->host.mem_available_bytes = 50 * MIB; /* of a reserve of 512 */
	plan(r);
	assert_in_range(a->plan_bytes, 256 * MIB, 500 * MIB);
}

/* What was just given as headroom is not fetched back for the buffer's sake: only for somebody in need. */
static void hard_leaves_headroom_to_who_just_grew(void **unused)
{
	struct round *r = round_new(0, LEVEL_HARD);
	struct vm *grew = round_vm(r, 600, 568), *had = round_vm(r, 600, 568);
	r->books.buffer_bytes = -(int64_t)GIB;
	grew->grow_ms = NOW - 5000;
	plan(r);
	assert_int_equal(change_mib(grew), 0);
	assert_int_equal(had->plan_bytes, 576 * MIB + MIB / 16);
	round_needy(r, 300, 10);
	plan(r);
	assert_int_equal(grew->plan_bytes, 576 * MIB + MIB / 16);
}

/* Elsewhere demand falls over ten seconds; what goes to and fro is left to it. */
static void a_short_host_believes_at_once_what_is_used_no_more(void **unused)
{
	struct round *r = round_new(0, LEVEL_HARD);
	struct vm *fell = round_vm(r, 640, 600);
	round_needy(r, 300, 10);
	r->books.buffer_bytes = -(int64_t)GIB;
	fell->used_bytes = 320 * MIB;
	fell->used_ms = fell->stats_ms = NOW;
	plan(r);
	assert_int_equal(fell->plan_bytes, 328 * MIB + MIB / 16); /* 320 and the least headroom */
	fell->noise_bytes = MIB;
	plan(r);
	assert_int_equal(fell->plan_bytes, 344 * MIB + MIB / 16); /* 16 more */
	fell->demand_bytes = 322 * MIB; /* it did not fall: noise goes above what was seen last as well */
	plan(r);
	assert_int_equal(fell->plan_bytes, 344 * MIB + MIB / 16);
	fell->demand_bytes = 600 * MIB;
	fell->noise_bytes = GIB;
	plan(r);
	assert_int_equal(fell->plan_bytes, 368 * MIB + MIB / 16); /* an eighth */
	fell->stats_ms = NOW - 5000;				  /* an old word */
	plan(r);
	assert_int_equal(fell->plan_bytes, 608 * MIB + MIB / 16);
	fell->stats_ms = NOW;
	fell->wss_underclaims = true; /* one that is not believed */
	plan(r);
	assert_int_equal(fell->plan_bytes, 608 * MIB + MIB / 16);
}

static void the_needy_are_served_from_the_buffer_in_order(void **unused)
{
	struct round *r = round_new(128 * MIB, LEVEL_HIGH);
	struct vm *idle = round_vm(r, 900, 100);
	struct vm *little = round_needy(r, 400, 100), *much = round_needy(r, 400, 900);
	plan(r);
	assert_int_equal(much->rank, 1);
	assert_int_equal(little->rank, 2);
	assert_true(change_mib(much) > change_mib(little));
	assert_true(change_mib(little) > 0); /* nobody starves */
	assert_int_equal(change_mib(much) + change_mib(little), 127);
	assert_true(change_mib(idle) <= -128); /* what was given and what lacks is fetched */
	assert_true(r->books.unmet_bytes > 0);
}

static void weight_moves_up_the_order_of_the_needy(void **unused)
{
	struct round *r = round_new(128 * MIB, LEVEL_HIGH);
	struct vm *a = round_needy(r, 400, 100), *b = round_needy(r, 400, 90);
	b->facts.policy.weight = 200;
	b->need_score *= 2;
	plan(r);
	assert_int_equal(b->rank, 1);
	assert_int_equal(a->rank, 2);
}

static void growth_potential_bounds_what_a_needy_vm_gets(void **unused)
{
	struct round *r = round_new(GIB, LEVEL_HIGH);
	struct vm *full = round_needy(r, 1024, 900), *nearly = round_needy(r, 1000, 500),
		  *small = round_needy(r, 256, 100);
	plan(r);
	assert_int_equal(change_mib(full), 0);
	assert_int_equal(change_mib(nearly), 24);
	assert_int_equal(change_mib(small), 128); /* half of its size */
	assert_int_equal(full->rank, 1);
}

static void helpings_double(void **unused)
{
	struct round *r = round_new(8 * GIB, LEVEL_HIGH);
	struct vm *vm = round_needy(r, 100, 1);
	vm->facts.policy.min_bytes = 64 * MIB;
	static const int64_t helpings[] = {96, 96, 192, 384, 768, 924}; /* most of the buffer; the first is a guess */
	for (unsigned i = 0; i < ARRAY_SIZE(helpings); i++) {
		vm->needy_rounds = i;
		plan(r);
		assert_int_equal(change_mib(vm), helpings[i]);
	}
	vm->needy_rounds = 4000000000;
	plan(r);
	assert_int_equal(change_mib(vm), 924);
}

static void the_first_helping_covers_what_was_swapped(void **unused)
{
	struct round *r = round_new(8 * GIB, LEVEL_HIGH);
	struct vm *vm = round_needy(r, 300, 1);
	vm->guest_swap_delta_bytes = 150 * MIB;
	vm->has_guest_rates = true;
	plan(r);
	assert_int_equal(change_mib(vm), 316); /* and more than is low */
	vm->needy_rounds = 1;		       /* it swapped before it had these */
	vm->stats_size_bytes[2] = vm_size_bytes(vm) - 180 * MIB;
	vm->grow_ms = NOW - 1000;
	vm->stats_ms = NOW;
	plan(r);
	assert_int_equal(change_mib(vm), 136);
}

/* Counters of swap come later than what they count: it has some left of the last helping, and gets no other. */
static void a_helping_that_is_not_used_yet_is_enough(void **unused)
{
	struct round *r = round_new(8 * GIB, LEVEL_HIGH);
	struct vm *vm = round_needy(r, 100, 1);
	vm->guest_swap_delta_bytes = 150 * MIB;
	vm->has_guest_rates = vm->left_known = true;
	vm->needy_rounds = 1;
	vm->grow_ms = NOW - 1000;
	vm->stats_ms = NOW;
	vm->left_bytes = 60 * MIB;
	plan(r);
	assert_int_equal(change_mib(vm), 0);
	vm->left_bytes = MIB; /* nothing is left of it */
	plan(r);
	assert_true(change_mib(vm) > 100);
	vm->left_bytes = 60 * MIB; /* and it still swaps though it has had it for long */
	vm->grow_ms = NOW - 4000;
	plan(r);
	assert_true(change_mib(vm) > 100);
}

/* What a balloon is still bringing is used up before more is heard of it: the next helping comes while it moves. */
static void who_outgrows_a_helping_is_given_the_next_at_once(void **unused)
{
	struct round *r = round_new(8 * GIB, LEVEL_HIGH);
	struct vm *vm = round_needy(r, 300, 1);
	vm->state = VM_GROWING_BALLOON;
	vm->target_bytes = 400 * MIB;
	vm->needy_rounds = 1;
	vm->grow_ms = NOW - 800;
	vm->stats_ms = NOW; /* a word of later, and nothing is left */
	vm->speed_bytes_per_s = 50 * MIB;
	plan(r);
	assert_int_equal(vm->plan_bytes, 400 * MIB); /* two seconds of movement are to come */
	vm->speed_bytes_per_s = 200 * MIB;
	plan(r);
	assert_true(vm->plan_bytes > 450 * MIB);
	r->books.level = LEVEL_HARD; /* others have nothing left either: one helping a look */
	plan(r);
	assert_int_equal(vm->plan_bytes, 400 * MIB);
	r->books.level = LEVEL_HIGH;
	vm->left_known = true;
	vm->left_bytes = 100 * MIB; /* what came is not used up */
	plan(r);
	assert_int_equal(vm->plan_bytes, 400 * MIB);
	vm->left_bytes = 0;
	vm->grow_ms = NOW; /* its word is of before the helping */
	plan(r);
	assert_int_equal(vm->plan_bytes, 400 * MIB);
}

/* Its statistics tell of the first tenths of a second of a spike: the guest's swap would be full before the next ones.
 */
static void the_first_helping_is_no_little_one(void **unused)
{
	struct round *r = round_new(512 * MIB, LEVEL_HIGH);
	struct vm *vm = round_needy(r, 200, 10);
	vm->has_guest_rates = true;
	vm->guest_swap_delta_bytes = 17 * MIB;
	plan(r);
	assert_true(vm->plan_bytes >= 300 * MIB); /* half of its size */
	vm->needy_rounds = 1;
	plan(r);
	assert_true(vm->plan_bytes < 260 * MIB); /* that it swaps little on although it has them is known */
}

static void a_full_buffer_of_few_vms_is_for_one(void **unused)
{
	struct round *r = round_new(GIB, LEVEL_HIGH);
	struct vm *vm = round_needy(r, 300, 100);
	r->books.pool_bytes = 2 * GIB;
	plan(r);
	assert_int_equal(change_mib(vm), 150); /* half of its size */
	r->books.pool_bytes = 560 * MIB;
	plan(r);
	assert_int_equal(change_mib(vm), 140); /* a quarter of what each has on average */
	r->books.level = LEVEL_SOFT;
	plan(r);
	assert_int_equal(change_mib(vm), 128);
}

static void no_second_helping_without_a_new_sign(void **unused)
{
	struct round *r = round_new(GIB, LEVEL_SOFT);
	struct vm *vm = round_needy(r, 300, 100);
	vm->grow_ms = NOW - 5000;
	vm->needy_sign_ms = NOW - 5000; /* still counted as needy, but it has not asked since */
	plan(r);
	assert_int_equal(change_mib(vm), 0);
	assert_int_equal(r->books.unmet_bytes, 0);
	vm->needy_sign_ms = NOW;
	vm->stats_ms = NOW;
	plan(r);
	assert_int_equal(change_mib(vm), 128);
}

static void a_needy_vm_goes_where_it_was_or_as_far_as_it_came(void **unused)
{
	struct round *r = round_new(GIB, LEVEL_HIGH);
	struct vm *vm = round_needy(r, 300, 100);
	vm->grown_bytes = 200 * MIB;
	plan(r);
	assert_int_equal(change_mib(vm), 316); /* half as much again, and more than is low */
	vm->grown_bytes = 20 * MIB;
	vm->past_bytes[0] = 900 * MIB; /* long ago */
	vm->past_bytes[1] = 450 * MIB;
	vm->past_bytes[2] = 100 * MIB;
	vm->past_n = 3;
	plan(r);
	assert_int_equal(change_mib(vm), 166);
	vm->usable_ms = vm->needy_sign_ms; /* half of what is called low is left */
	vm->usable_bytes = 4 * MIB;
	plan(r);
	assert_int_equal(change_mib(vm), 83);
}

static void at_level_low_who_has_nothing_left_grows_and_nobody_else(void **unused)
{
	struct round *r = round_new(15 * MIB, LEVEL_LOW);
	struct vm *a = round_needy(r, 400, 900), *b = round_needy(r, 400, 100), *tight = round_vm(r, 400, 395);
	struct vm *waits = round_needy(r, 400, 500);
	waits->needy_since_ms = NOW - 5000;
	waits->left_known = true;
	waits->left_bytes = vm_low_usable_bytes(waits) / 2;
	plan(r);
	assert_true(change_mib(a) > change_mib(b) && change_mib(b) > 0); /* by rank */
	assert_in_range(change_mib(a) + change_mib(b), 14, 15);
	assert_int_equal(change_mib(waits), 0);
	assert_int_equal(change_mib(tight), 0);
	a->grow_ms = a->needy_sign_ms = NOW - 1000; /* the first was served and is quiet: the place is free */
	plan(r);
	assert_int_equal(change_mib(a), 0);
	assert_int_equal(change_mib(b), 15);
	b->grow_ms = b->needy_sign_ms = NOW - 1000;
	waits->has_guest_rates = true;
	waits->guest_swap_delta_bytes = MIB; /* it swaps: no more waiting */
	plan(r);
	assert_int_equal(change_mib(waits), 15);
	waits->guest_swap_delta_bytes = 0;
	plan(r);
	assert_int_equal(change_mib(waits), 0);
	waits->needy_since_ms = NOW - 60000; /* a guest without swap of its own may die of it */
	plan(r);
	assert_int_equal(change_mib(waits), 15);
}

/* Shortest first is what makes few wait long; the largest gets its part all the same, and the heavier sooner. */
static void where_there_is_too_little_the_smallest_wish_is_met_first(void **unused)
{
	struct round *r = round_new(200 * MIB, LEVEL_HARD);
	struct vm *large = round_needy(r, 400, 900), *small[3];
	large->has_guest_rates = true;
	large->guest_swap_delta_bytes = 250 * MIB;
	for (int i = 0; i < 3; i++) {
		small[i] = round_needy(r, 100, 10);
		small[i]->has_guest_rates = true;
		small[i]->needy_rounds = 1;
		small[i]->guest_swap_delta_bytes = (uint64_t)(6 + i) * MIB;
	}
	plan(r);
	for (int i = 0; i < 3; i++) /* twice what it swapped and twice what is low */
		assert_int_equal(change_mib(small[i]), 2 * (6 + i) + 16);
	assert_int_equal(change_mib(large), 200 - 90);
	small[2]->guest_swap_delta_bytes = 60 * MIB; /* a half of 100 for the first two and a part of this */
	plan(r);
	assert_int_equal(change_mib(small[0]), 28);
	assert_int_equal(change_mib(small[1]), 30);
	assert_in_range(change_mib(small[2]), 42, 60);
	int64_t before = change_mib(small[2]);
	assert_int_equal(before + change_mib(large), 200 - 58 - 1); /* each a part of a MiB */
	r->books.buffer_bytes = 40 * MIB;
	plan(r);
	assert_in_range(change_mib(small[0]), 20, 28);
	assert_int_equal(change_mib(small[1]), 0);
	small[1]->facts.policy.weight = 200; /* its wish counts half */
	plan(r);
	assert_in_range(change_mib(small[1]), 20, 30);
}

/* There a helping that did not end the need was hardly given in full. */
static void helpings_are_not_doubled_on_a_short_host(void **unused)
{
	struct round *r = round_new(GIB, LEVEL_SOFT);
	struct vm *vm = round_needy(r, 300, 10);
	vm->has_guest_rates = true;
	vm->guest_swap_delta_bytes = 10 * MIB;
	vm->needy_rounds = 3;
	plan(r);
	assert_int_equal(change_mib(vm), 4 * (2 * 10 + 16));
	r->books.level = LEVEL_HARD;
	plan(r);
	assert_int_equal(change_mib(vm), 2 * 10 + 16);
}

/* Two balloons bring twice as much by the next look as one, whoever used it last. */
static void who_waits_is_brought_memory_by_several_balloons(void **unused)
{
	struct round *r = round_new(0, LEVEL_HARD);
	struct vm *old = round_vm(r, 4000, 100), *lately = round_vm(r, 4000, 100);
	old->facts.max_bytes = lately->facts.max_bytes = 4 * GIB;
	lately->past_bytes[0] = 4000 * MIB;
	lately->past_ms[0] = NOW - 30000;
	lately->past_n = 1;
	r->books.buffer_target_bytes = 1600 * MIB;
	plan(r);
	assert_int_equal(change_mib(old), -1600); /* nobody waits: who has not used it for longest */
	assert_int_equal(change_mib(lately), 0);
	struct vm *waits = round_needy(r, 300, 10);
	waits->has_guest_rates = true;
	waits->guest_swap_delta_bytes = 100 * MIB;
	plan(r);
	assert_int_equal(change_mib(old), -1000);
	assert_in_range(-change_mib(lately), 500, 1600 + 2 * 100 + 2 * 8 - 1000);
}

/* Half of what is low is left to each while one finds nothing, and all of it else. */
static void while_somebody_finds_nothing_all_share_in_that(void **unused)
{
	struct round *r = round_new(0, LEVEL_LOW);
	struct vm *vm = round_vm(r, 600, 568);
	r->books.buffer_bytes = -(int64_t)GIB;
	plan(r);
	assert_int_equal(vm->plan_bytes, 576 * MIB + MIB / 16);
	round_needy(r, 300, 10);
	plan(r);
	assert_int_equal(vm->plan_bytes, 572 * MIB + MIB / 32);
	r->books.level = LEVEL_HARD;
	plan(r);
	assert_int_equal(vm->plan_bytes, 576 * MIB + MIB / 16);
}

static void the_needy_never_give(void **unused)
{
	struct round *r = round_new(0, LEVEL_LOW);
	r->books.buffer_bytes = -(int64_t)(2 * GIB);
	r->host.mem_available_bytes = 0;
	struct vm *a = round_needy(r, 900, 100);
	a->demand_bytes = 100 * MIB;
	plan(r);
	assert_true(change_mib(a) >= 0);
}

/* A liar, or somebody who wants more than there is, against an honest newcomer in need. */
/* A memocd that starts where others were: whoever it hears of first would give for those who send no statistics. */
static void nobody_gives_before_all_that_were_found_are_known(void **unused)
{
	struct round *r = round_new(0, LEVEL_LOW);
	struct vm *a = round_vm(r, 600, 100), *b = round_vm(r, 600, 100);
	b->state = VM_STARTING;
	b->origin = ORIGIN_ADOPT;
	plan(r);
	assert_int_equal(a->plan_bytes, 600 * MIB);
	b->origin = ORIGIN_START; /* a boot takes its time */
	plan(r);
	assert_true(a->plan_bytes < 600 * MIB);
	b->origin = ORIGIN_ADOPT;
	r->host.mem_available_bytes = 50 * MIB; /* of a reserve of 512: that cannot wait */
	plan(r);
	assert_true(a->plan_bytes < 600 * MIB);
}

static void who_is_never_satisfied_has_no_claim_beyond_its_share(void **unused)
{
	struct round *r = round_new(0, LEVEL_SOFT);
	r->books.pool_bytes = GIB;
	r->books.committed_max_bytes = 2 * GIB; /* a share is half of the maximum: 512 MiB */
	struct vm *liar = round_needy(r, 900, 1000), *honest = round_needy(r, 200, 1);
	plan(r);
	assert_int_equal(liar->plan_bytes, 900 * MIB); /* not yet doubted: nobody takes from the needy */
	liar->insatiable = true;
	plan(r);
	assert_true(liar->plan_bytes < 800 * MIB);
	assert_true(liar->plan_bytes >= 512 * MIB);
	honest->needy = false; /* nobody else is in need: left what it has, and no more */
	r->books.buffer_bytes = 128 * MIB;
	r->books.level = LEVEL_HIGH;
	plan(r);
	assert_int_equal(liar->plan_bytes, 900 * MIB);
	liar->actual_bytes = liar->target_bytes = 500 * MIB; /* within its share it is needy as anybody is */
	plan(r);
	assert_true(liar->plan_bytes > 500 * MIB);
}

static struct vm *round_hoarder(struct round *r, uint64_t size_mib)
{
	struct vm *vm = round_vm(r, size_mib, size_mib - 9);
	vm->estimate_ms = NOW;
	vm->untouched_ms = NOW - 600000;
	vm->untouched_of_bytes = vm->demand_bytes;
	vm->wss = (struct wss_reading){.known = true, .wss_bytes = 60 * MIB, .good_ms = 60000};
	vm->wss_ms = NOW;
	wss_average_take(&vm->wss_average, 60 * MIB, 0, NOW);
	return vm;
}

/* Somebody in need has lacked memory for ten seconds: the one that has most above its share, one at a time. */
static void what_a_hoarder_has_above_its_share_is_had_of_it(void **unused)
{
	struct round *r = round_new(0, LEVEL_LOW);
	struct vm *needy = round_needy(r, 300, 10), *first = round_hoarder(r, 900), *second = round_hoarder(r, 800),
		  *poor = round_hoarder(r, 490);
	r->books.pool_bytes = 2 * GIB;
	r->books.committed_max_bytes = 4 * GIB; /* shares of 512 MiB */
	r->memory.lacking_ms = NOW - 1000;
	r->memory.lacking_until_ms = NOW + 8 * 8999; /* with this second almost ten */
	plan(r);
	assert_true(!first->accused && !second->accused && r->memory.lacking_ms == NOW);
	r->memory.lacking_ms = NOW - 1000;
	r->memory.lacking_until_ms = NOW + 8 * 9000;
	plan(r);
	assert_true(first->accused && !second->accused && !poor->accused);
	first->accused = false;
	first->untouched_ms++; /* not ten minutes yet */
	plan(r);
	assert_true(!first->accused && second->accused && !poor->accused);
	second->accused = false;
	second->untouched_of_bytes = 600 * MIB; /* says more than at its last window */
	plan(r);
	assert_true(!first->accused && !second->accused && !poor->accused);
	first->untouched_ms--;
	needy->needy_sign_ms = NOW - 2500; /* a claim of before */
	plan(r);
	assert_false(first->accused);
	needy->needy_sign_ms = NOW;
	/* Who was found keeps its share. */
	first->distrusted = first->by_limit = first->hoarder = true;
	first->demand_bytes = 60 * MIB;
	plan(r);
	assert_true(!first->accused && first->plan_bytes < 900 * MIB && first->plan_bytes >= 512 * MIB);
}

static void the_tight_grow_before_it_hurts(void **unused)
{
	struct round *r = round_new(128 * MIB, LEVEL_HIGH);
	struct vm *tight = round_vm(r, 407, 400), *well = round_vm(r, 409, 400);
	plan(r);
	assert_int_equal(tight->plan_bytes, 424 * MIB); /* demand and three quarters of headroom */
	assert_int_equal(change_mib(well), 0);
	r->books.buffer_bytes = 60 * (int64_t)MIB; /* less than half full: kept for the needy */
	plan(r);
	assert_true(change_mib(tight) <= 0);
	r->books.buffer_bytes = 128 * (int64_t)MIB;
	tight->demand_confidence = 0.25; /* a guess is no reason to grow */
	plan(r);
	assert_int_equal(change_mib(tight), 0);
}

static void dwell_protects_but_not_from_a_rescue(void **unused)
{
	struct round *r = round_new(64 * MIB, LEVEL_SOFT);
	struct vm *a = round_vm(r, 900, 100);
	a->grow_ms = NOW - 59000;
	plan(r);
	assert_int_equal(change_mib(a), 0);
	assert_true(a->bounds & BOUND_DWELL);
	a->grow_ms = NOW - 60000;
	plan(r);
	assert_int_equal(change_mib(a), -64);
	a->grow_ms = NOW - 1000;
	r->books.level = LEVEL_HARD;
	plan(r);
	assert_int_equal(change_mib(a), -64);
	assert_true(a->plan_urgent);
	r->books.level = LEVEL_SOFT;
	round_needy(r, 400, 100);
	plan(r);
	assert_true(change_mib(a) < -64);
	assert_false(a->plan_urgent);
}

static void many_small_shares_still_fill_the_buffer(void **unused)
{
	struct round *r = round_new(28 * MIB, LEVEL_SOFT);
	for (int i = 0; i < 1000; i++)
		round_vm(r, 400 + i % 7, 300);
	plan(r);
	uint64_t taken = 0;
	size_t givers = 0;
	for (size_t i = 0; i < r->n; i++) {
		uint64_t take = sub_sat_u64(vm_size_bytes(&r->vms[i]), r->vms[i].plan_bytes);
		taken += take;
		givers += take > 0;
		if (take) /* worth a resize, each */
			assert_true(take >= vm_dead_band_bytes(&r->vms[i], &r->config));
	}
	assert_in_range(taken, 100 * MIB, 111 * MIB);
	assert_true(givers <= 10);
}

static void who_cannot_give_is_not_asked(void **unused)
{
	struct round *r = round_new(28 * MIB, LEVEL_SOFT);
	r->host.swap_total_bytes = r->host.swap_free_bytes = 0;
	struct vm *absent = round_vm(r, 900, 100), *stalled = round_vm(r, 900, 100), *unknown = round_vm(r, 900, 100);
	struct vm *quarantined = round_vm(r, 900, 100), *works = round_vm(r, 900, 100);
	absent->health = BALLOON_ABSENT;
	stalled->health = BALLOON_STALLED;
	stalled->floor_bytes = 850 * MIB;
	stalled->retry_at_ms = NOW + 1000;
	unknown->demand_confidence = 0;
	quarantined->quarantined = true;
	plan(r);
	assert_int_equal(change_mib(absent), 0);
	assert_true(absent->bounds & BOUND_NO_SWAP);
	assert_true(stalled->plan_bytes >= 850 * MIB);
	assert_int_equal(change_mib(unknown), 0);
	assert_int_equal(change_mib(quarantined), 0);
	assert_in_range(-change_mib(works), 90, 101);
}

static void memory_on_its_way_is_not_asked_for_twice(void **unused)
{
	struct round *r = round_new(0, LEVEL_SOFT);
	struct vm *a = round_vm(r, 900, 100);
	a->state = VM_SHRINKING_BALLOON;
	a->target_bytes = 770 * MIB; /* 130 of 128 are coming */
	plan(r);
	assert_int_equal(a->plan_bytes, 770 * MIB);
	/* A sample from before the balloon moved shows as resident what is back already. */
	a->state = VM_STEADY;
	a->actual_bytes = a->target_bytes;
	a->actual_change_ms = NOW;
	plan(r);
	assert_int_equal(change_mib(a), 0);
}

static void a_pin_is_reached_as_memory_allows(void **unused)
{
	struct round *r = round_new(50 * MIB, LEVEL_SOFT);
	struct vm *up = round_vm(r, 400, 100), *down = round_vm(r, 800, 700);
	up->pinned_bytes = 600 * MIB;
	down->pinned_bytes = 1; /* no lower than its minimum */
	plan(r);
	assert_int_equal(change_mib(up), 50);
	assert_int_equal(down->plan_bytes, 256 * MIB);
	r->books.level = LEVEL_LOW;
	plan(r);
	assert_int_equal(change_mib(up), 0);
}

static void the_same_input_gives_the_same_plan(void **unused)
{
	uint64_t first[100];
	for (int run = 0; run < 2; run++) {
		struct round *r = round_new(GIB, LEVEL_SOFT);
		for (uint64_t i = 0; i < 100; i++) {
			if (i % 3)
				round_vm(r, 300 + i * 5 % 71, 200);
			else
				round_needy(r, 300, 7);
		}
		plan(r);
		for (size_t i = 0; i < 100; i++) {
			if (run)
				assert_int_equal(first[i], r->vms[i].plan_bytes);
			first[i] = r->vms[i].plan_bytes;
		}
	}
}

static void policies_are_found_by_name(void **unused)
{
	assert_ptr_equal(policy_find("needy-greedy"), &policy_needy_greedy);
	assert_null(policy_find("needy"));
	assert_null(policy_find(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_need_and_with_a_full_buffer_nothing_moves),
		cmocka_unit_test(an_empty_round_is_no_round),
		cmocka_unit_test(excess_of_two_to_one_gives_two_to_one),
		cmocka_unit_test(what_was_used_lately_is_taken_last),
		cmocka_unit_test(a_needy_vm_goes_where_it_was_or_as_far_as_it_came),
		cmocka_unit_test(a_weight_is_worth_its_share),
		cmocka_unit_test(nobody_is_planned_below_minimum_or_need),
		cmocka_unit_test(hard_takes_headroom_low_takes_use_only_from_a_host_out_of_memory),
		cmocka_unit_test(hard_leaves_headroom_to_who_just_grew),
		cmocka_unit_test(a_short_host_believes_at_once_what_is_used_no_more),
		cmocka_unit_test(the_needy_are_served_from_the_buffer_in_order),
		cmocka_unit_test(weight_moves_up_the_order_of_the_needy),
		cmocka_unit_test(growth_potential_bounds_what_a_needy_vm_gets),
		cmocka_unit_test(helpings_double),
		cmocka_unit_test(the_first_helping_covers_what_was_swapped),
		cmocka_unit_test(a_helping_that_is_not_used_yet_is_enough),
		cmocka_unit_test(who_outgrows_a_helping_is_given_the_next_at_once),
		cmocka_unit_test(the_first_helping_is_no_little_one),
		cmocka_unit_test(a_full_buffer_of_few_vms_is_for_one),
		cmocka_unit_test(no_second_helping_without_a_new_sign),
		cmocka_unit_test(at_level_low_who_has_nothing_left_grows_and_nobody_else),
		cmocka_unit_test(where_there_is_too_little_the_smallest_wish_is_met_first),
		cmocka_unit_test(helpings_are_not_doubled_on_a_short_host),
		cmocka_unit_test(who_waits_is_brought_memory_by_several_balloons),
		cmocka_unit_test(while_somebody_finds_nothing_all_share_in_that),
		cmocka_unit_test(the_needy_never_give),
		cmocka_unit_test(nobody_gives_before_all_that_were_found_are_known),
		cmocka_unit_test(who_is_never_satisfied_has_no_claim_beyond_its_share),
		cmocka_unit_test(what_a_hoarder_has_above_its_share_is_had_of_it),
		cmocka_unit_test(the_tight_grow_before_it_hurts),
		cmocka_unit_test(dwell_protects_but_not_from_a_rescue),
		cmocka_unit_test(many_small_shares_still_fill_the_buffer),
		cmocka_unit_test(who_cannot_give_is_not_asked),
		cmocka_unit_test(memory_on_its_way_is_not_asked_for_twice),
		cmocka_unit_test(a_pin_is_reached_as_memory_allows),
		cmocka_unit_test(the_same_input_gives_the_same_plan),
		cmocka_unit_test(policies_are_found_by_name),
	};
	return cmocka_run_group_tests_name("core_policy", tests, NULL, NULL);
}
