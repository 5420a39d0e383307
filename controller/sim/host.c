/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The clock of a host and its talk with the core, as memocd holds it: a sample of every VM and then a tick each
 * interval (poll_samples), statistics of each VM right after its guest has made them (poll.c locks to that phase),
 * another look every tenth of a second while a balloon moves, a timer when the core wants one, and each effect carried
 * out and answered. Libvirt and the kernel take no time here: an answer comes in the millisecond of the question.
 */
#include "controller/sim/host.h"

#include <errno.h>
#include <string.h>

#define BALLOON_EVENT_MS 1000 /* QEMU sends BALLOON_CHANGE so often at most */

/* ---- looks at balloons that move: a heap by time, then by VM ---- */

static bool sooner(const struct poll *a, const struct poll *b)
{
	return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->vm < b->vm;
}

static void poll_push(struct host *h, struct poll p)
{
	size_t i = h->polls_n++;
	for (; i && sooner(&p, &h->polls[(i - 1) / 2]); i = (i - 1) / 2)
		h->polls[i] = h->polls[(i - 1) / 2];
	h->polls[i] = p;
}

static struct poll poll_pop(struct host *h)
{
	struct poll first = h->polls[0], last = h->polls[--h->polls_n];
	size_t i = 0;
	for (size_t child = 1; child < h->polls_n; child = 2 * i + 1) {
		if (child + 1 < h->polls_n && sooner(&h->polls[child + 1], &h->polls[child]))
			child++;
		if (!sooner(&h->polls[child], &last))
			break;
		h->polls[i] = h->polls[child];
		i = child;
	}
	h->polls[i] = last;
	return first;
}

static void schedule_poll(struct host *h, size_t i)
{
	const struct vm *vm = core_vm_at(h->core, i);
	if (!vm || h->guests[i].polled)
		return;
	uint64_t every_ms = core_poll_ms(h->core, vm);
	if (every_ms >= min_u64(h->options->model.stats_period_ms, core_config(h->core)->interval_ms))
		return;
	h->guests[i].polled = true;
	poll_push(h, (struct poll){.at_ms = h->now_ms + every_ms, .vm = i});
}

/* ---- events and effects ---- */

static void answer(struct host *h, const struct effect *e, enum effect_op op)
{
	if (h->answers_n == h->answers_capacity) {
		size_t capacity = h->answers_capacity ? h->answers_capacity * 2 : 64;
		struct event *list = realloc(h->answers, capacity * sizeof(*list));
		if (!list) {
			h->error = -ENOMEM;
			return;
		}
		h->answers = list;
		h->answers_capacity = capacity;
	}
	struct event *ev = &h->answers[h->answers_n++];
	memset(ev, 0, sizeof(*ev));
	ev->type = EVENT_VM_RESULT;
	ev->vm = e->vm;
	ev->result.op = op;
	ev->result.seq = e->seq;
	ev->result.bytes = e->bytes;
}

static void carry_out(struct host *h)
{
	for (size_t k = 0; k < h->out.n; k++) {
		const struct effect *e = &h->out.list[k];
		if (!e->vm)
			continue;
		struct guest *g = &h->guests[e->vm - 1];
		if (e->type == EFFECT_BALLOON) {
			guest_ask(h, g, e->bytes);
			answer(h, e, OP_BALLOON);
		} else if (e->type == EFFECT_LIMIT) {
			guest_limit(h, g, e->bytes);
			answer(h, e, OP_LIMIT);
		}
		schedule_poll(h, e->vm - 1);
	}
}

static inline void step_core(struct host *h, struct event *ev)
{
	ev->now_ms = CORE_BEGIN_MS + h->now_ms;
	int r = core_step(h->core, ev, &h->out);
	if (r < 0 && !h->error)
		h->error = r;
}

static void learn_wakeup(struct host *h)
{
	uint64_t wake = core_next_wakeup_ms(h->core);
	h->wake_ms = wake == NEVER_MS ? NEVER_MS : sub_sat_u64(wake, CORE_BEGIN_MS);
}

static void follow(struct host *h)
{
	carry_out(h);
	for (size_t k = 0; k < h->answers_n && !h->error; k++) {
		struct event next = h->answers[k]; /* the list may move while it is answered */
		step_core(h, &next);
		carry_out(h);
	}
	h->answers_n = 0;
	learn_wakeup(h);
}

/* Returns whether anything came of it: nearly all events are a look that shows nothing new. */
static inline bool post(struct host *h, struct event *ev)
{
	step_core(h, ev);
	if (!h->out.n)
		return false;
	follow(h);
	return true;
}

void host_post(struct host *h, struct event *ev)
{
	post(h, ev);
}

/* ---- what happens within a step ---- */

static bool statistics(struct host *h)
{
	size_t i = h->turns[h->turn].vm;
	struct guest *g = &h->guests[i];
	h->now_ms = h->turn_base_ms + h->turns[h->turn].phase_ms;
	if (++h->turn == h->n) {
		h->turn = 0;
		h->turn_base_ms += h->options->model.stats_period_ms;
	}
	if (g->stats_changed | g->moving)
		tell_snapshot(h, i);
	else
		h->stats[i].stats.last_update_s = ++g->updates;
	return post(h, &h->stats[i]);
}

/* Those whose turn comes before next_ms, or until the core does something. */
static void statistics_until(struct host *h, uint64_t next_ms)
{
	while (h->turn_base_ms + h->turns[h->turn].phase_ms < next_ms)
		if (statistics(h))
			break;
}

#define OVERHEAD_EVERY_MS 30000 /* memocd measures QEMU's own memory so often, first after … */
#define OVERHEAD_FIRST_MS 3000

/* A period begins with the first VM and ends with the last; the first windows end a period after the begin. */
static void working_sets(struct host *h)
{
	const struct sim_model *m = &h->options->model;
	if (!m->wss_pages || h->now_ms < m->wss_period_ms)
		return;
	while (h->wss_base_ms + mul_div_u64(m->wss_period_ms, h->wss_turn, h->n) <= h->now_ms - m->wss_period_ms) {
		struct event ev = {.type = EVENT_VM_WSS, .vm = (vm_id)(h->wss_turn + 1)};
		if (tell_wss(h, h->wss_turn, &ev.wss))
			post(h, &ev);
		if (++h->wss_turn == h->n) {
			h->wss_turn = 0;
			h->wss_base_ms += m->wss_period_ms;
		}
	}
}

static void tick(struct host *h)
{
	uint64_t interval_ms = core_config(h->core)->interval_ms;
	bool measured =
		h->now_ms >= OVERHEAD_FIRST_MS && (h->now_ms - OVERHEAD_FIRST_MS) % OVERHEAD_EVERY_MS < interval_ms;
	bool other = measured || h->measured;
	h->measured = measured;
	for (size_t i = 0; i < h->n; i++) {
		struct guest *g = &h->guests[i];
		if (g->sample_changed | g->moving | other)
			tell_sample(h, i);
		post(h, &h->samples[i]);
	}
	struct event ev = {.type = EVENT_TICK, .host = tell_host(h)};
	post(h, &ev);
	working_sets(h);
	learn_wakeup(h);
	h->tick_ms += interval_ms;
}

static void look(struct host *h)
{
	size_t i = poll_pop(h).vm;
	h->guests[i].polled = false;
	schedule_poll(h, i);
	tell_balloon(h, i);
	post(h, &h->stats[i]);
}

static void timer(struct host *h)
{
	struct event ev = {.type = EVENT_TIMER};
	post(h, &ev);
	learn_wakeup(h);
	if (h->wake_ms <= h->now_ms)
		h->wake_ms = h->now_ms + 1;
}

static void live_until(struct host *h, uint64_t end_ms)
{
	while (!h->error) {
		uint64_t look_ms = h->polls_n ? h->polls[0].at_ms : NEVER_MS;
		uint64_t next_ms = min_u64(min_u64(h->tick_ms, look_ms), min_u64(h->wake_ms, end_ms));
		if (h->turn_base_ms + h->turns[h->turn].phase_ms < next_ms) {
			statistics_until(h, next_ms);
			continue;
		}
		if (next_ms >= end_ms)
			break;
		h->now_ms = next_ms;
		if (h->tick_ms == next_ms)
			tick(h);
		else if (look_ms == next_ms)
			look(h);
		else
			timer(h);
	}
	h->now_ms = end_ms;
}

/* ---- a step ---- */

static void change_demand(struct host *h, size_t i)
{
	struct guest *g = &h->guests[i];
	const struct script *s = &h->scripts[i];
	h->at[i]++;
	h->next_ms[i] = s->at_ms[h->at[i] + 1];
	uint64_t demand = s->demand_bytes[h->at[i]];
	h->demand_sum += demand - g->demand_bytes;
	if (!g->fault)
		h->honest_demand_sum += demand - g->demand_bytes;
	g->demand_bytes = demand;
	g->stats_changed = true;
	h->changed[h->changed_n++] = i;
	if (g->moving)
		guest_settle(h, g);
	guest_refresh(h, g);
}

static void take_demands(struct host *h)
{
	h->changed_n = 0;
	for (size_t i = 0; i < h->n; i++)
		if (h->next_ms[i] <= h->now_ms)
			change_demand(h, i);
	if (!h->changed_n)
		return;
	least_meet(&h->least, h->changed, h->changed_n);
	least_meet(&h->least_blind, h->changed, h->changed_n);
}

static void move_balloons(struct host *h)
{
	for (size_t i = 0; h->moving_n && i < h->n; i++) {
		struct guest *g = &h->guests[i];
		if (!g->moving)
			continue;
		guest_settle(h, g);
		if (h->now_ms - g->told_ms < BALLOON_EVENT_MS)
			continue;
		g->told_ms = h->now_ms;
		struct event ev = {.type = EVENT_VM_BALLOON, .vm = (vm_id)(i + 1), .bytes = g->actual_bytes};
		post(h, &ev);
	}
}

static void reboots(struct host *h)
{
	for (size_t i = 0; i < h->n; i++) {
		struct guest *g = &h->guests[i];
		if (g->booting && g->boot_end_ms <= h->now_ms)
			guest_booted(h, g);
		if (!g->fault || g->fault->kind != FAULT_REBOOT || g->rebooted || g->fault->value > h->now_ms)
			continue;
		g->rebooted = true;
		guest_reboot(h, g);
		struct event ev = {.type = EVENT_VM_REBOOTED, .vm = (vm_id)(i + 1)};
		post(h, &ev);
	}
}

int host_step(struct host *h)
{
	uint64_t begin_ms = h->now_ms;
	take_demands(h);
	if (h->moving_n)
		move_balloons(h);
	if (h->rebooting_n)
		reboots(h);
	host_reclaim(h);
	int r = figures_measure(h);
	const struct sim_watch *w = h->watch;
	for (size_t i = 0; w && w->vm_step && i < h->n; i++)
		w->vm_step(w->user, begin_ms, h->index, i, h->guests[i].demand_bytes, h->guests[i].size_bytes);
	if (r == 0)
		live_until(h, begin_ms + h->options->step_ms);
	return r < 0 ? r : h->error;
}
