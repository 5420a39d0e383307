/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/core_kit.h"

struct core_config kit_config(void)
{
	struct core_config c = core_config_default();
	c.pool_bytes = 2 * GIB;
	c.reserve_bytes = 512 * MIB;
	c.buffer_bytes = 128 * MIB;
	c.buffer_auto = false;
	return c;
}

void kit_open(struct kit *k, const struct core_config *config)
{
	memset(k, 0, sizeof(*k));
	k->config = config ? *config : kit_config();
	k->now_ms = 1000000;
	k->host = (struct host_sample){.has_memory = true,
				       .mem_total_bytes = 8 * GIB,
				       .mem_available_bytes = 4 * GIB,
				       .swap_total_bytes = GIB,
				       .swap_free_bytes = GIB};
	assert_int_equal(core_new(&k->config, &k->core), 0);
	kit_tick(k, 0);
}

void kit_close(struct kit *k)
{
	k->core = core_free(k->core);
	free(k->out.list);
	k->out.list = NULL;
}

int kit_step(struct kit *k, struct event *ev)
{
	size_t room = core_effects_max(k->core);
	if (room > k->out.capacity) {
		k->out.list = realloc(k->out.list, room * sizeof(k->out.list[0]));
		assert_non_null(k->out.list);
		k->out.capacity = room;
	}
	ev->now_ms = k->now_ms;
	int r = core_step(k->core, ev, &k->out);
	assert_int_equal(k->out.dropped, 0);
	return r;
}

void kit_tick(struct kit *k, uint64_t advance_ms)
{
	k->now_ms += advance_ms;
	struct event ev = {.type = EVENT_TICK, .host = k->host};
	assert_int_equal(kit_step(k, &ev), 0);
}

struct vm_facts kit_facts(uint64_t max_bytes)
{
	return (struct vm_facts){.max_bytes = max_bytes,
				 .overhead_guess_bytes = 0,
				 .has_balloon = true,
				 .eligible = true,
				 .policy = vmpolicy_default()};
}

struct vm *kit_add_facts(struct kit *k, vm_id id, enum vm_origin origin, const struct vm_facts *facts)
{
	struct event ev = {.type = EVENT_VM_ADDED, .vm = id, .added = {.origin = origin, .facts = *facts}};
	assert_int_equal(kit_step(k, &ev), 0);
	return kit_vm(k, id);
}

struct vm *kit_add(struct kit *k, vm_id id, uint64_t max_bytes)
{
	struct vm_facts facts = kit_facts(max_bytes);
	return kit_add_facts(k, id, ORIGIN_START, &facts);
}

/* The struct is open for reading; tests may also bend it. */
struct vm *kit_vm(struct kit *k, vm_id id)
{
	return (struct vm *)(uintptr_t)core_vm(k->core, id);
}

void kit_stats_swap(struct kit *k, vm_id id, uint64_t actual_bytes, uint64_t usable_bytes, uint64_t in, uint64_t out)
{
	struct vm *vm = kit_vm(k, id);
	struct event ev = {.type = EVENT_VM_STATS,
			   .vm = id,
			   .stats = {.has_actual = true,
				     .has_usable = true,
				     .has_available = true,
				     .has_swap = true,
				     .actual_bytes = actual_bytes,
				     .usable_bytes = usable_bytes,
				     .available_bytes = actual_bytes,
				     .swap_in_bytes = in,
				     .swap_out_bytes = out,
				     .last_update_s = vm->stats.last_update_s + 1}};
	assert_int_equal(kit_step(k, &ev), 0);
}

void kit_stats(struct kit *k, vm_id id, uint64_t actual_bytes, uint64_t usable_bytes)
{
	const struct guest_stats *s = &kit_vm(k, id)->stats;
	kit_stats_swap(k, id, actual_bytes, usable_bytes, s->swap_in_bytes, s->swap_out_bytes);
}

void kit_sample(struct kit *k, vm_id id, uint64_t resident_bytes, uint64_t limit_bytes, uint64_t faults)
{
	struct event ev = {.type = EVENT_VM_SAMPLE,
			   .vm = id,
			   .sample = {.has_memory = true,
				      .resident_bytes = resident_bytes,
				      .limit_bytes = limit_bytes,
				      .has_major_faults = true,
				      .major_faults = faults}};
	assert_int_equal(kit_step(k, &ev), 0);
}

struct vm *kit_steady(struct kit *k, vm_id id, uint64_t max_bytes, uint64_t usable_bytes)
{
	kit_add(k, id, max_bytes);
	kit_sample(k, id, max_bytes, LIMIT_NONE, 0);
	for (int i = 0; i < 3; i++)
		kit_stats(k, id, max_bytes, usable_bytes);
	struct vm *vm = kit_vm(k, id);
	assert_int_equal(vm->state, VM_STEADY);
	return vm;
}

void kit_signal(struct kit *k, enum event_type type, vm_id id)
{
	struct event ev = {.type = type, .vm = id};
	assert_int_equal(kit_step(k, &ev), 0);
}

int kit_result(struct kit *k, vm_id id, enum effect_op op, uint32_t seq, int code, uint64_t bytes)
{
	struct event ev = {
		.type = EVENT_VM_RESULT, .vm = id, .result = {.op = op, .seq = seq, .code = code, .bytes = bytes}};
	return kit_step(k, &ev);
}

void kit_answer(struct kit *k)
{
	struct effect todo[256];
	size_t n = 0;
	for (size_t i = 0; i < k->out.n; i++)
		if (k->out.list[i].type == EFFECT_BALLOON || k->out.list[i].type == EFFECT_LIMIT)
			todo[n++] = k->out.list[i];
	for (size_t i = 0; i < n; i++) {
		enum effect_op op = todo[i].type == EFFECT_BALLOON ? OP_BALLOON : OP_LIMIT;
		if (kit_result(k, todo[i].vm, op, todo[i].seq, 0, todo[i].bytes) < 0)
			continue;
		for (size_t j = 0; j < k->out.n && n < ARRAY_SIZE(todo); j++)
			if (k->out.list[j].type == EFFECT_BALLOON || k->out.list[j].type == EFFECT_LIMIT)
				todo[n++] = k->out.list[j];
	}
}

const struct effect *kit_find(const struct kit *k, enum effect_type type, vm_id id)
{
	for (size_t i = k->out.n; i > 0; i--)
		if (k->out.list[i - 1].type == type && k->out.list[i - 1].vm == id)
			return &k->out.list[i - 1];
	return NULL;
}

const struct effect *kit_record(const struct kit *k, enum record_kind kind, vm_id id)
{
	for (size_t i = k->out.n; i > 0; i--) {
		const struct effect *e = &k->out.list[i - 1];
		if (e->type == EFFECT_RECORD && e->record == kind && e->vm == id)
			return e;
	}
	return NULL;
}

size_t kit_count(const struct kit *k, enum effect_type type)
{
	size_t n = 0;
	for (size_t i = 0; i < k->out.n; i++)
		n += k->out.list[i].type == type;
	return n;
}
