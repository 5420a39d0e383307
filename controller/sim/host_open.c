/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A host before its first step: its guests at the sizes they begin with, its core told of them. */
#include "controller/sim/host.h"
#include "controller/sim/random.h"

#include <errno.h>
#include <string.h>

struct host *host_close(struct host *h)
{
	if (!h)
		return NULL;
	for (size_t i = 0; h->scripts && i < h->n; i++)
		script_clear(&h->scripts[i]);
	for (size_t i = 0; h->guests && i < h->n; i++)
		free(h->guests[i].figures.before);
	least_close(&h->least);
	least_close(&h->least_blind);
	core_free(h->core);
	free(h->out.list);
	free(h->guests);
	free(h->scripts);
	free(h->at);
	free(h->next_ms);
	free(h->stats);
	free(h->samples);
	free(h->changed);
	free(h->resized);
	free(h->turns);
	free(h->polls);
	free(h->answers);
	free(h);
	return NULL;
}

static bool allocate(struct host *h, size_t n)
{
	h->guests = calloc(n, sizeof(*h->guests));
	h->scripts = calloc(n, sizeof(*h->scripts));
	h->at = calloc(n, sizeof(*h->at));
	h->next_ms = calloc(n, sizeof(*h->next_ms));
	h->stats = calloc(n, sizeof(*h->stats));
	h->samples = calloc(n, sizeof(*h->samples));
	h->changed = calloc(n, sizeof(*h->changed));
	h->resized = calloc(n, sizeof(*h->resized));
	h->turns = calloc(n, sizeof(*h->turns));
	h->polls = calloc(n, sizeof(*h->polls));
	return h->guests && h->scripts && h->at && h->next_ms && h->stats && h->samples && h->changed && h->resized &&
	       h->turns && h->polls;
}

/* Its guest's driver works: it begins at a size of its own instead of with an empty balloon. */
static bool sized(const struct guest *g)
{
	enum sim_fault fault = g->fault ? g->fault->kind : 0;
	return fault != FAULT_STUCK && fault != FAULT_SLOW && fault != FAULT_TRICKLE && fault != FAULT_NO_DRIVER;
}

static void set_speeds(struct guest *g, const struct sim_model *m)
{
	enum sim_fault fault = g->fault ? g->fault->kind : 0;
	g->take_bytes_per_s = m->balloon_take_bytes_per_s;
	g->return_bytes_per_s = m->balloon_return_bytes_per_s;
	if (fault == FAULT_STUCK || fault == FAULT_NO_DRIVER)
		g->take_bytes_per_s = g->return_bytes_per_s = 0;
	else if (fault == FAULT_SLOW)
		g->take_bytes_per_s = g->return_bytes_per_s = g->fault->value;
	else if (fault == FAULT_TRICKLE) /* one page each 5 s (peers.md) */
		g->take_bytes_per_s = g->return_bytes_per_s = 4096 / 5;
}

static int open_guest(struct host *h, const struct host_plan *plan, const struct core_config *config, size_t i)
{
	const struct sim_options *o = h->options;
	const struct trace_vm *v = &o->trace->vms[plan->of[i]];
	struct guest *g = &h->guests[i];
	int r = script_make(v, plan->phase_ms[i], o->step_ms, plan->duration_ms, &h->scripts[i]);
	if (r < 0)
		return r;
	h->next_ms[i] = h->scripts[i].at_ms[1];
	g->fault = plan->faults[i];
	g->max_bytes = g->actual_bytes = g->asked_bytes = v->size_bytes;
	g->min_bytes = share_of(v->size_bytes, config->min_share);
	g->limit_bytes = LIMIT_NONE;
	g->demand_bytes = g->told_bytes = h->scripts[i].demand_bytes[0];
	h->demand_sum += g->demand_bytes;
	if (!g->fault)
		h->honest_demand_sum += g->demand_bytes;
	else if (g->fault->kind == FAULT_REBOOT)
		h->rebooting_n++;
	g->stats_changed = g->sample_changed = true;
	set_speeds(g, &o->model);
	return 0;
}

#define PAGE_BYTES 4096

/*
 * The host has been run well before: every VM has what it wants, and what the pool has beyond that and the buffer is
 * shared in proportion to what each could still get. So no policy pays for getting there. VMs have been up for long:
 * they have touched what they have. A driver that does not work has never taken anything; its VM begins with what it
 * wants resident, or the host would be short at once.
 */
static void share_out(struct host *h)
{
	uint64_t usable = sub_sat_u64(h->pool_bytes, h->buffer_bytes), max = 0;
	for (size_t i = 0; i < h->n; i++)
		max += h->guests[i].max_bytes;
	for (size_t i = 0; i < h->n; i++) {
		struct guest *g = &h->guests[i];
		g->share_bytes = mul_div_u64(h->pool_bytes, g->max_bytes, max);
		uint64_t size = g->max_bytes;
		if (h->demand_sum > usable)
			size = mul_div_u64(g->demand_bytes, usable, h->demand_sum);
		else if (max > usable)
			size = g->demand_bytes +
			       mul_div_u64(g->max_bytes - g->demand_bytes, usable - h->demand_sum, max - h->demand_sum);
		size = max_u64(size, max_u64(g->min_bytes, min_u64(MIB, g->max_bytes)));
		if (sized(g))
			g->actual_bytes = g->asked_bytes = min_u64(g->max_bytes, size / PAGE_BYTES * PAGE_BYTES);
		if (sized(g) && h->options->model.touch_bytes_per_s) {
			g->touched_bytes = g->resident_bytes = g->actual_bytes;
			h->resident_sum += g->actual_bytes;
		}
		guest_refresh(h, g);
		figures_begin(&g->figures, g->size_bytes);
	}
}

static void enter_core(struct host *h, size_t i)
{
	const struct guest *g = &h->guests[i];
	struct event ev = {.type = EVENT_VM_ADDED, .vm = (vm_id)(i + 1)};
	ev.added.origin = ORIGIN_ADOPT;
	ev.added.facts = (struct vm_facts){
		.max_bytes = g->max_bytes, .has_balloon = true, .eligible = true, .policy = vmpolicy_default()};
	if (sized(g))
		ev.added.memory =
			(struct vm_memory){.known = true, .target_bytes = g->actual_bytes, .health = BALLOON_WORKING};
	h->stats[i] = (struct event){.type = EVENT_VM_STATS, .vm = (vm_id)(i + 1)};
	h->samples[i] = (struct event){.type = EVENT_VM_SAMPLE, .vm = (vm_id)(i + 1)};
	host_post(h, &ev);
	ev = (struct event){.type = EVENT_VM_RUNNING, .vm = (vm_id)(i + 1)};
	host_post(h, &ev);
}

static int by_phase(const void *a, const void *b)
{
	const struct turn *x = a, *y = b;
	if (x->phase_ms != y->phase_ms)
		return x->phase_ms < y->phase_ms ? -1 : 1;
	return x->vm < y->vm ? -1 : x->vm > y->vm;
}

/* The statistics of each VM come at a phase of its own. */
static void set_turns(struct host *h)
{
	struct sim_random random = {.state = h->options->seed ^ UINT64_C(0x7068617365) ^ (uint64_t)h->index << 40};
	for (size_t i = 0; i < h->n; i++)
		h->turns[i] =
			(struct turn){.phase_ms = random_below(&random, h->options->model.stats_period_ms), .vm = i};
	qsort(h->turns, h->n, sizeof(h->turns[0]), by_phase);
	h->wss_random.state = h->options->seed ^ UINT64_C(0x777373) ^ (uint64_t)h->index << 40;
}

static struct core_config configure(struct host *h, const struct core_config *config, const struct host_plan *plan)
{
	const struct sim_options *o = h->options;
	struct core_config c = *config;
	double sizes = 0;
	for (size_t i = 0; i < plan->n; i++)
		sizes += (double)o->trace->vms[plan->of[i]].size_bytes;
	double pool = o->pool_bytes ? (double)o->pool_bytes : sizes / o->overcommit;
	h->pool_bytes = max_u64((uint64_t)pool, MIB);
	h->reserve_bytes = c.reserve_bytes;
	/* 5 %, then sized by the growth seen: what memocd does where nothing is said. */
	h->buffer_bytes = share_of(h->pool_bytes, o->buffer_share > 0 ? o->buffer_share : 0.05);
	c.pool_bytes = h->pool_bytes;
	c.buffer_bytes = h->buffer_bytes;
	c.buffer_auto = o->buffer_share <= 0;
	if (c.min_share * sizes > o->model.minimums_share * pool)
		c.min_share = o->model.minimums_share * pool / sizes;
	c.policy_data = h;
	return c;
}

static int open_core(struct host *h, const struct core_config *config)
{
	int r = core_new(config, &h->core);
	if (r < 0)
		return r;
	size_t room = 64; /* enough for one VM more than there is */
	for (size_t i = 0; i < h->n && !h->error; i++) {
		room = max_u64(room, core_effects_max(h->core));
		struct effect *list = room > h->out.capacity ? realloc(h->out.list, 2 * room * sizeof(*list)) : NULL;
		if (room > h->out.capacity && !list)
			return -ENOMEM;
		if (list)
			h->out = (struct effects){.list = list, .capacity = 2 * room};
		enter_core(h, i);
	}
	return h->error;
}

static int open_guests(struct host *h, const struct host_plan *plan, const struct core_config *config)
{
	size_t n = plan->n;
	uint64_t *begin = calloc(n, sizeof(*begin));
	int r = begin ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = open_guest(h, plan, config, i);
	if (r == 0)
		share_out(h);
	for (size_t i = 0; r == 0 && i < n; i++)
		begin[i] = sized(&h->guests[i]) ? h->guests[i].size_bytes : h->guests[i].demand_bytes;
	if (r == 0)
		r = least_open(&h->least, false, n, h->scripts, h->at, begin, h->pool_bytes);
	if (r == 0)
		r = least_open(&h->least_blind, true, n, h->scripts, h->at, begin, h->pool_bytes);
	free(begin);
	return r;
}

int host_open(const struct sim_options *o, const struct sim_watch *w, const struct host_plan *plan,
	      const struct core_config *config, struct figures *figures, struct host **ret)
{
	struct host *h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->options = o;
	h->watch = w;
	h->figures = figures;
	h->index = plan->index;
	h->n = plan->n;
	const struct core_config c = configure(h, config, plan);
	int r = allocate(h, plan->n) ? 0 : -ENOMEM;
	if (r == 0)
		r = open_guests(h, plan, &c);
	for (size_t i = 0; r == 0 && w && w->placed && i < h->n; i++)
		w->placed(w->user, h->index, i, &o->trace->vms[plan->of[i]], h->pool_bytes);
	if (r == 0)
		r = open_core(h, &c);
	if (r < 0) {
		host_close(h);
		return r;
	}
	set_turns(h);
	*ret = h;
	return 0;
}
