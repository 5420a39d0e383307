/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How long the core thinks: one tick over 1,000 VMs of which a tenth is needy, the median of many; and what a second of
 * events (statistics and samples of all of them) costs. Prints, judges nothing. Started by core_decide.sh.
 */
#include "controller/core/core.h"

#include <stdio.h>
#include <time.h>

#define VMS 1000
#define ROUNDS 501

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

struct bench {
	struct core *core;
	struct effects out;
	uint64_t now_ms;
};

static void step(struct bench *b, struct event *ev)
{
	ev->now_ms = b->now_ms;
	if (core_step(b->core, ev, &b->out) < 0) {
		fprintf(stderr, "core_decide: the core refuses event %d\n", ev->type);
		exit(1);
	}
}

static void answer(struct bench *b)
{
	struct effect list[64];
	size_t n = 0;
	for (size_t i = 0; i < b->out.n && n < ARRAY_SIZE(list); i++)
		if (b->out.list[i].type == EFFECT_BALLOON || b->out.list[i].type == EFFECT_LIMIT)
			list[n++] = b->out.list[i];
	for (size_t i = 0; i < n; i++) {
		struct event ev = {.type = EVENT_VM_RESULT,
				   .vm = list[i].vm,
				   .result = {.op = list[i].type == EFFECT_LIMIT ? OP_LIMIT : OP_BALLOON,
					      .seq = list[i].seq,
					      .bytes = list[i].bytes}};
		step(b, &ev);
	}
}

static void second_of_events(struct bench *b, uint64_t round)
{
	for (vm_id id = 1; id <= VMS; id++) {
		const struct vm *vm = core_vm(b->core, id);
		uint64_t actual = vm->balloon_asked_bytes ? vm->balloon_asked_bytes : GIB;
		bool needy = (id + round / 10) % 10 == 0;
		struct event stats = {.type = EVENT_VM_STATS,
				      .vm = id,
				      .stats = {.has_actual = true,
						.has_usable = true,
						.has_available = true,
						.has_swap = true,
						.actual_bytes = actual,
						.usable_bytes = needy ? 4 * MIB : actual / (2 + id % 3),
						.available_bytes = actual,
						.swap_in_bytes = needy ? round * MIB : 0,
						.last_update_s = round + 1}};
		step(b, &stats);
		answer(b);
		struct event sample = {.type = EVENT_VM_SAMPLE,
				       .vm = id,
				       .sample = {.has_memory = true,
						  .resident_bytes = actual,
						  .limit_bytes = vm->limit_known ? vm->limit_bytes : LIMIT_NONE,
						  .has_major_faults = true}};
		step(b, &sample);
	}
}

static void open_bench(struct bench *b)
{
	struct core_config c = core_config_default();
	c.pool_bytes = VMS * GIB / 10 * 7;
	c.reserve_bytes = 8 * GIB;
	c.buffer_bytes = c.pool_bytes / 20;
	if (core_new(&c, &b->core) < 0)
		exit(1);
	b->out.capacity = core_effects_max(b->core) + VMS * 32;
	b->out.list = calloc(b->out.capacity, sizeof(b->out.list[0]));
	if (!b->out.list)
		exit(1);
	for (vm_id id = 1; id <= VMS; id++) {
		struct event ev = {
			.type = EVENT_VM_ADDED,
			.vm = id,
			.added = {
				.origin = ORIGIN_START,
				.facts = {.max_bytes = GIB,
					  .has_balloon = true,
					  .eligible = true,
					  .policy = {.managed = true, .weight = 100, .balloon = true, .swap = true}}}};
		step(b, &ev);
	}
}

int main(void)
{
	struct bench b = {.now_ms = 1000000};
	static uint64_t tick_ns[ROUNDS], events_ns[ROUNDS];
	open_bench(&b);
	struct event tick = {.type = EVENT_TICK,
			     .host = {.has_memory = true,
				      .mem_total_bytes = 1024 * GIB,
				      .mem_available_bytes = 200 * GIB,
				      .swap_total_bytes = 64 * GIB,
				      .swap_free_bytes = 64 * GIB}};
	for (uint64_t i = 0; i < ROUNDS; i++) {
		b.now_ms += 500;
		uint64_t t0 = now_ns();
		second_of_events(&b, i);
		events_ns[i] = now_ns() - t0;
		b.now_ms += 500;
		t0 = now_ns();
		step(&b, &tick);
		tick_ns[i] = now_ns() - t0;
		answer(&b);
	}
	qsort(tick_ns, ROUNDS, sizeof(tick_ns[0]), by_size);
	qsort(events_ns, ROUNDS, sizeof(events_ns[0]), by_size);
	const size_t middle = ROUNDS / 2, late = ROUNDS - ROUNDS / 100;
	printf("tick over %d VMs: median %.3f ms, p99 %.3f ms (bar 1 ms)\n", VMS, (double)tick_ns[middle] / 1e6,
	       (double)tick_ns[late] / 1e6);
	printf("a second of their statistics and samples: median %.3f ms\n", (double)events_ns[middle] / 1e6);
	core_free(b.core);
	free(b.out.list);
	return 0;
}
