/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/core_model.h"

#include <errno.h>

void model_open(struct model *m, const struct core_config *config)
{
	memset(m, 0, sizeof(*m));
	kit_open(&m->kit, config);
	m->start_ms = m->kit.now_ms;
	m->swap_total_bytes = GIB;
	m->seed = 1;
}

void model_close(struct model *m)
{
	kit_close(&m->kit);
	free(m->trace);
	m->trace = NULL;
}

struct model_vm *model_find(struct model *m, const char *name)
{
	for (size_t i = 0; i < m->n; i++)
		if (!m->vms[i].gone && strcmp(m->vms[i].name, name) == 0)
			return &m->vms[i];
	return NULL;
}

static const char *name_of(const struct model *m, vm_id id)
{
	return id ? m->vms[id - 1].name : "-";
}

const struct vm *model_core_vm(const struct model *m, const struct model_vm *v)
{
	return core_vm(m->kit.core, v->id);
}

/* ---- trace ---- */

static void size_text(char buf[24], uint64_t bytes)
{
	if (bytes == LIMIT_NONE)
		snprintf(buf, 24, "open");
	else
		snprintf(buf, 24, "%lluM", (unsigned long long)((bytes + MIB / 2) / MIB));
}

static void trace(struct model *m, vm_id id, const char *text)
{
	if (m->lines == m->room) {
		m->room = m->room ? m->room * 2 : 256;
		m->trace = realloc(m->trace, m->room * sizeof(m->trace[0]));
		assert_non_null(m->trace);
	}
	struct model_line *l = &m->trace[m->lines++];
	l->at_ms = m->now_ms;
	snprintf(l->vm, sizeof(l->vm), "%s", name_of(m, id));
	snprintf(l->text, sizeof(l->text), "%s", text);
}

static void trace_effect(struct model *m, const struct effect *e)
{
	char text[96], size[24], from[24], to[24];
	size_text(size, e->bytes);
	if (e->type == EFFECT_FORGET) {
		trace(m, e->vm, "forget");
	} else if (e->type >= EFFECT_ADVICE_BEGIN) {
		static const char *const words[] = {"begin", "finish", "stop"};
		snprintf(text, sizeof(text), "advice %s", words[e->type - EFFECT_ADVICE_BEGIN]);
		trace(m, e->vm, text);
	} else if (e->type != EFFECT_RECORD) {
		snprintf(text, sizeof(text), "%s %s", e->type == EFFECT_BALLOON ? "balloon" : "limit", size);
		trace(m, e->vm, text);
	} else if (e->record == RECORD_STATE && sscanf(e->reason, "%23s -> %23s", from, to) == 2) {
		size_text(size, e->to_bytes);
		snprintf(text, sizeof(text), "%s->%s target=%s", from, to, size);
		trace(m, e->vm, text);
	} else if (e->record == RECORD_LEVEL && sscanf(e->reason, "%23s -> %23s", from, to) == 2) {
		snprintf(text, sizeof(text), "level %s->%s", from, to);
		trace(m, 0, text);
	} else if (e->record == RECORD_TARGET) {
		size_text(from, e->from_bytes);
		size_text(size, e->to_bytes);
		snprintf(text, sizeof(text), "target %s->%s", from, size);
		trace(m, e->vm, text);
	} else if (e->record != RECORD_BALLOON && e->record != RECORD_LIMIT) {
		snprintf(text, sizeof(text), "%s", record_name(e->record));
		trace(m, e->vm, text);
	}
}

/* ---- guests ---- */

uint64_t model_resident_bytes(const struct model_vm *v)
{
	return v->touched_bytes - v->host_swapped_bytes;
}

/* What the limit leaves no room for goes to swap; what is used comes home as far as there is room. */
static void page(struct model_vm *v, uint64_t used_bytes, uint64_t dt_ms)
{
	uint64_t room = v->limit_bytes == LIMIT_NONE ? UINT64_MAX : sub_sat_u64(v->limit_bytes, v->overhead_bytes);
	v->host_swapped_bytes = min_u64(v->host_swapped_bytes, v->touched_bytes);
	uint64_t resident = model_resident_bytes(v);
	if (resident > room)
		v->host_swapped_bytes += resident - room;
	resident = model_resident_bytes(v);
	uint64_t home = min_u64(sub_sat_u64(used_bytes, resident), room - min_u64(room, resident));
	v->host_swapped_bytes -= min_u64(home, v->host_swapped_bytes);
	v->faults += (home + sub_sat_u64(used_bytes, model_resident_bytes(v)) * dt_ms / 1000) / 4096;
}

static uint64_t noise(struct model *m, const struct model_vm *v)
{
	m->seed = m->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return v->noise_bytes ? (m->seed >> 33) % (2 * v->noise_bytes) : 0;
}

static void move_balloon(struct model_vm *v, uint64_t dt_ms)
{
	uint64_t speed = v->driver == DRIVER_OK ? v->speed_bytes_per_s : 0;
	/* A trickle is one page each 5 s. */
	if (v->driver == DRIVER_TRICKLE)
		speed = 820;
	uint64_t step = mul_div_u64(speed, dt_ms, 1000);
	if (!v->asked_bytes || v->asked_bytes == v->actual_bytes)
		return;
	if (v->asked_bytes < v->actual_bytes)
		v->actual_bytes -= min_u64(step, v->actual_bytes - v->asked_bytes);
	else
		v->actual_bytes += min_u64(step, v->asked_bytes - v->actual_bytes);
}

static void live(struct model *m, struct model_vm *v, uint64_t dt_ms)
{
	if (v->paused)
		return;
	move_balloon(v, dt_ms);
	uint64_t demand = v->demand_bytes + noise(m, v);
	uint64_t can = v->actual_bytes;
	v->touched_bytes = min_u64(max_u64(v->touched_bytes, demand), can);
	/* Short of memory a guest moves about half of what it lacks each second, both ways. */
	uint64_t lacks = sub_sat_u64(demand, can);
	v->swap_in_bytes += lacks * dt_ms / 4000;
	v->swap_out_bytes += lacks * dt_ms / 4000;
	bool lacking = v->cold_bytes && lacks >= 16 * MIB;
	if (lacking && !v->lacking)
		trace(m, v->id, "lacks");
	v->lacking = lacking;
	page(v, min_u64(sub_sat_u64(demand, v->cold_bytes), can), dt_ms);
}

static void take_snapshot(struct model *m, struct model_vm *v)
{
	if (v->driver == DRIVER_NONE || v->paused || v->silent)
		return;
	uint64_t demand = v->demand_bytes + noise(m, v);
	v->update_s++;
	if (v->begging) {
		v->swap_in_bytes += 8 * MIB;
		v->swap_out_bytes += 8 * MIB;
	}
	v->snapshot = (struct guest_stats){.has_usable = true,
					   .has_unused = true,
					   .has_available = true,
					   .has_swap = true,
					   .available_bytes = v->deflates ? v->max_bytes : v->actual_bytes,
					   .usable_bytes = v->lying ? v->max_bytes * 2
							   : v->actual_bytes > demand && !v->begging
								   ? v->actual_bytes - demand
								   : MIB,
					   .unused_bytes = sub_sat_u64(v->actual_bytes, demand),
					   .swap_in_bytes = v->swap_in_bytes,
					   .swap_out_bytes = v->swap_out_bytes,
					   .last_update_s = v->update_s};
}

static void send_stats(struct model *m, struct model_vm *v)
{
	struct event ev = {.type = EVENT_VM_STATS, .vm = v->id, .stats = v->snapshot};
	ev.stats.has_actual = true;
	ev.stats.actual_bytes = v->actual_bytes;
	model_event(m, &ev);
}

static void send_sample(struct model *m, struct model_vm *v)
{
	uint64_t resident = model_resident_bytes(v);
	struct event ev = {.type = EVENT_VM_SAMPLE,
			   .vm = v->id,
			   .sample = {.has_memory = true,
				      .resident_bytes = resident + v->overhead_bytes,
				      .swapped_bytes = v->touched_bytes - resident,
				      .limit_bytes = v->limit_bytes,
				      .has_major_faults = true,
				      .major_faults = v->faults,
				      .has_overhead = true,
				      .overhead_bytes = v->overhead_bytes,
				      .guest_ram_bytes = v->touched_bytes}};
	model_event(m, &ev);
}

#define WSS_PERIOD_MS 60000
#define WSS_WINDOW_MS 30000

/* What it uses it touches, as far as it has it. */
static void send_wss(struct model *m, const struct model_vm *v)
{
	uint64_t can = min_u64(v->actual_bytes, sub_sat_u64(v->limit_bytes, v->overhead_bytes));
	struct event ev = {.type = EVENT_VM_WSS,
			   .vm = v->id,
			   .wss = {.known = true,
				   .backend = WSS_IDLE,
				   .wss_bytes = min_u64(sub_sat_u64(v->demand_bytes, v->cold_bytes), can),
				   .error_bytes = v->max_bytes / 50,
				   .began_ms = m->start_ms + m->now_ms - WSS_WINDOW_MS,
				   .good_ms = 4 * WSS_PERIOD_MS}};
	model_event(m, &ev);
}

static void check_invariants(struct model *m)
{
	for (size_t i = 0; i < m->n && !m->broken[0]; i++) {
		const struct model_vm *v = &m->vms[i];
		const struct vm *vm = v->gone ? NULL : model_core_vm(m, v);
		if (!vm)
			continue;
		if (vm->target_bytes > vm->facts.max_bytes)
			snprintf(m->broken, sizeof(m->broken), "%llu ms: %s has a target above its maximum",
				 (unsigned long long)m->now_ms, v->name);
		if (vm->state >= VM_SHRINKING_BALLOON && vm->state <= VM_GROWING_BALLOON &&
		    vm->target_bytes < vm_min_bytes(vm, core_config(m->kit.core)))
			snprintf(m->broken, sizeof(m->broken), "%llu ms: %s has a target below its minimum",
				 (unsigned long long)m->now_ms, v->name);
	}
}

/* Counted one by one as they changed, the VMs make the same books as counted anew. */
static void check_books(struct model *m)
{
	struct vm *vms[MODEL_VMS];
	size_t n = core_vm_count(m->kit.core);
	const struct books *b = core_books(m->kit.core);
	struct books anew = {0};
	for (size_t i = 0; i < n; i++)
		vms[i] = kit_vm(&m->kit, core_vm_at(m->kit.core, i)->id);
	books_update(&anew, core_config(m->kit.core), core_host(m->kit.core), vms, n);
	bool same = anew.granted_bytes == b->granted_bytes && anew.committed_max_bytes == b->committed_max_bytes &&
		    anew.buffer_bytes == b->buffer_bytes && anew.resident_bytes == b->resident_bytes &&
		    anew.swapped_bytes == b->swapped_bytes && anew.vms == b->vms;
	if (!m->broken[0] && !same)
		snprintf(m->broken, sizeof(m->broken), "%llu ms: the books are not those of the VMs",
			 (unsigned long long)m->now_ms);
}

static void do_tick(struct model *m)
{
	uint64_t resident = 0, swapped = 0;
	for (size_t i = 0; i < m->n; i++) {
		if (m->vms[i].gone)
			continue;
		if (m->vms[i].measured && m->now_ms % WSS_PERIOD_MS == 0)
			send_wss(m, &m->vms[i]);
		send_sample(m, &m->vms[i]);
		resident += model_resident_bytes(&m->vms[i]) + m->vms[i].overhead_bytes;
		swapped += m->vms[i].touched_bytes - model_resident_bytes(&m->vms[i]);
	}
	struct host_sample *h = &m->kit.host;
	const struct core_config *c = core_config(m->kit.core);
	if (!m->available_set)
		h->mem_available_bytes = sub_sat_u64(2 * c->pool_bytes + c->reserve_bytes, resident + m->base_bytes);
	h->swap_total_bytes = m->swap_total_bytes;
	h->swap_free_bytes = sub_sat_u64(m->swap_total_bytes, swapped);
	struct event ev = {.type = EVENT_TICK, .host = *h};
	model_event(m, &ev);
	check_invariants(m);
	check_books(m);
}

/* ---- effects ---- */

static void carry_out(struct model *m, const struct effect *e)
{
	struct model_vm *v = &m->vms[e->vm - 1];
	struct event ev = {.type = EVENT_VM_RESULT, .vm = e->vm, .result = {.seq = e->seq, .bytes = e->bytes}};
	if (e->type == EFFECT_BALLOON) {
		ev.result.op = OP_BALLOON;
		ev.result.code = v->facts.has_balloon ? 0 : -ENOTSUP;
		if (v->facts.has_balloon)
			v->asked_bytes = e->bytes;
	} else {
		ev.result.op = OP_LIMIT;
		if (v->limit_fails)
			ev.result.code = -EBUSY;
		else
			v->limit_bytes = e->bytes;
		page(v, 0, 0); /* v1 reclaims before it answers */
		ev.result.bytes = v->limit_bytes;
	}
	if (!m->silent_results && !v->gone)
		model_event(m, &ev);
}

int model_event(struct model *m, struct event *ev)
{
	m->kit.now_ms = m->start_ms + m->now_ms;
	int r = kit_step(&m->kit, ev);
	struct effect todo[128];
	size_t n = 0;
	for (size_t i = 0; i < m->kit.out.n; i++) {
		const struct effect *e = &m->kit.out.list[i];
		trace_effect(m, e);
		if (e->type == EFFECT_FORGET)
			m->vms[e->vm - 1].gone = true;
		if ((e->type == EFFECT_BALLOON || e->type == EFFECT_LIMIT) && n < ARRAY_SIZE(todo))
			todo[n++] = *e;
	}
	for (size_t i = 0; !m->manual && i < n; i++)
		carry_out(m, &todo[i]);
	return r;
}

struct model_vm *model_add(struct model *m, const char *name, enum vm_origin origin, uint64_t carried_bytes,
			   const struct vm_facts *facts, const struct vm_memory *memory)
{
	assert_true(m->n < MODEL_VMS);
	struct model_vm *v = &m->vms[m->n++];
	snprintf(v->name, sizeof(v->name), "%s", name);
	v->id = (vm_id)m->n;
	v->facts = *facts;
	v->driver = facts->has_balloon ? DRIVER_OK : DRIVER_NONE;
	v->speed_bytes_per_s = GIB;
	v->max_bytes = v->actual_bytes = facts->max_bytes;
	v->limit_bytes = LIMIT_NONE;
	v->overhead_bytes = facts->overhead_guess_bytes;
	struct event ev = {
		.type = EVENT_VM_ADDED,
		.vm = v->id,
		.added = {.origin = origin, .carried_bytes = carried_bytes, .facts = *facts, .memory = *memory}};
	assert_int_equal(model_event(m, &ev), 0);
	return v;
}

/* ---- time ---- */

static void step_vm(struct model *m, struct model_vm *v)
{
	live(m, v, MODEL_STEP_MS);
	/* Guests do not beat in time with the tick. */
	bool second = m->now_ms % 1000 == (v->id * 300) % 1000;
	if (second)
		take_snapshot(m, v);
	const struct vm *vm = model_core_vm(m, v);
	if (vm && (second || core_poll_ms(m->kit.core, vm) < 1000))
		send_stats(m, v);
}

void model_run_to(struct model *m, uint64_t at_ms)
{
	while (!m->manual && m->now_ms + MODEL_STEP_MS <= at_ms) {
		m->now_ms += MODEL_STEP_MS;
		for (size_t i = 0; i < m->n; i++)
			if (!m->vms[i].gone)
				step_vm(m, &m->vms[i]);
		if (core_next_wakeup_ms(m->kit.core) <= m->start_ms + m->now_ms) {
			struct event ev = {.type = EVENT_TIMER};
			model_event(m, &ev);
		}
		if (m->now_ms % core_config(m->kit.core)->interval_ms == 0)
			do_tick(m);
	}
	m->now_ms = max_u64(m->now_ms, at_ms);
}
