/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory of guests. A guest touches what it uses, and the rest of what it has in time; it never gives a page back by
 * itself, and its balloon takes what was never touched first. What a limit leaves no room for the host swaps, cold
 * pages first, as fast as it can; and where all VMs together use more than the pool, somebody's pages have to go
 * whatever balloons and limits say.
 */
#include "controller/sim/host.h"

static void set_marks(struct host *h, struct guest *g)
{
	bool over = g->resident_bytes > g->limit_bytes;
	bool touching = g->touched_bytes < g->actual_bytes && g->resident_bytes < g->limit_bytes;
	h->over_limit_n += (size_t)over - (size_t)g->over_limit;
	h->touching_n += (size_t)touching - (size_t)g->touching;
	g->over_limit = over;
	g->touching = touching;
}

/* New pages are there as soon as they are touched, swapped ones come home by major faults. */
static void touch(struct guest *g, uint64_t used_bytes, uint64_t hot_bytes)
{
	uint64_t fresh = sub_sat_u64(used_bytes, g->touched_bytes);
	g->touched_bytes = min_u64(g->touched_bytes + fresh, g->actual_bytes);
	g->resident_bytes = min_u64(g->resident_bytes, g->touched_bytes);
	if (hot_bytes <= g->resident_bytes)
		return;
	g->fault_bytes += sub_sat_u64(hot_bytes - g->resident_bytes, fresh);
	g->resident_bytes = hot_bytes;
}

static void set_size(struct host *h, struct guest *g, uint64_t size_bytes)
{
	uint64_t unmet = sub_sat_u64(g->demand_bytes, size_bytes);
	h->unmet_sum += unmet - g->unmet_bytes; /* modulo 2^64: the sum is never negative */
	if (!g->fault)
		h->honest_unmet_sum += unmet - g->unmet_bytes;
	g->unmet_bytes = unmet;
	if (g->size_bytes == size_bytes)
		return;
	g->size_bytes = size_bytes;
	if (!g->size_changed)
		h->resized[h->resized_n++] = (size_t)(g - h->guests);
	g->size_changed = true;
}

void guest_refresh(struct host *h, struct guest *g)
{
	uint64_t resident = g->resident_bytes, touched = g->touched_bytes;
	uint64_t room = min_u64(g->actual_bytes, g->limit_bytes), want = min_u64(g->demand_bytes, room);
	g->cut_bytes = min_u64(g->cut_bytes, want);
	uint64_t hot = want - g->cut_bytes, used = min_u64(g->demand_bytes, g->actual_bytes);
	touch(g, used, hot);
	h->resident_sum += g->resident_bytes - resident;
	h->swapped_sum += (g->touched_bytes - g->resident_bytes) - (touched - resident);
	set_size(h, g, g->cut_bytes ? hot : room);
	set_marks(h, g);
	g->sample_changed = true;
}

/* ---- balloon ---- */

static uint64_t way_bytes(uint64_t bytes_per_s, uint64_t ms)
{
	return ms <= UINT64_MAX / bytes_per_s ? bytes_per_s * ms / 1000 : mul_div_u64(bytes_per_s, ms, 1000);
}

static void stop_moving(struct host *h, struct guest *g)
{
	h->moving_n -= g->moving;
	g->moving = false;
}

void guest_settle(struct host *h, struct guest *g)
{
	uint64_t ms = h->now_ms - g->move_ms, before = g->actual_bytes;
	if (!g->moving || !ms)
		return;
	uint64_t way = way_bytes(g->asked_bytes < before ? g->take_bytes_per_s : g->return_bytes_per_s, ms);
	if (!way)
		return; /* so slow that it has not moved a byte: the time counts on */
	g->move_ms = h->now_ms;
	if (g->asked_bytes < before)
		g->actual_bytes -= min_u64(way, before - g->asked_bytes);
	else
		g->actual_bytes += min_u64(way, g->asked_bytes - before);
	if (g->actual_bytes == g->asked_bytes)
		stop_moving(h, g);
	g->stats_changed = true;
	guest_refresh(h, g);
}

static void start_moving(struct host *h, struct guest *g)
{
	uint64_t speed = g->asked_bytes < g->actual_bytes ? g->take_bytes_per_s : g->return_bytes_per_s;
	bool moving = !g->booting && speed && g->asked_bytes != g->actual_bytes;
	h->moving_n += moving;
	g->moving = moving;
	g->move_ms = h->now_ms;
}

void guest_ask(struct host *h, struct guest *g, uint64_t bytes)
{
	guest_settle(h, g);
	stop_moving(h, g);
	g->asked_bytes = min_u64(bytes, g->max_bytes);
	start_moving(h, g);
}

void guest_limit(struct host *h, struct guest *g, uint64_t bytes)
{
	guest_settle(h, g);
	g->limit_bytes = bytes;
	guest_refresh(h, g);
}

/* ---- reboot ---- */

#define BOOT_MS 20000 /* from reset until the driver is there */

/* Its balloon is gone with the driver, QEMU does not know it, and all pages stay where they are. */
void guest_reboot(struct host *h, struct guest *g)
{
	guest_settle(h, g);
	stop_moving(h, g);
	g->said_actual_bytes = g->actual_bytes;
	g->actual_bytes = g->max_bytes;
	g->booting = true;
	g->boot_end_ms = h->now_ms + BOOT_MS;
	g->swap_bytes = g->swap_shown_bytes = 0;
	g->stats_changed = true;
	guest_refresh(h, g);
}

/* A driver that loads does what QEMU was last asked for. */
void guest_booted(struct host *h, struct guest *g)
{
	g->booting = false;
	g->stats_changed = true;
	start_moving(h, g);
}

/* ---- the host ---- */

static void swap_out(struct host *h, struct guest *g, uint64_t bytes)
{
	g->resident_bytes -= bytes;
	h->resident_sum -= bytes;
	h->swapped_sum += bytes;
	g->sample_changed = true;
	set_marks(h, g);
}

/* Limits: those above theirs share what the host can reclaim. Returns what of that is left. */
static uint64_t reclaim_for_limits(struct host *h, uint64_t budget)
{
	uint64_t over = 0, left = budget;
	for (size_t i = 0; h->over_limit_n && i < h->n; i++)
		over += sub_sat_u64(h->guests[i].resident_bytes, h->guests[i].limit_bytes);
	for (size_t i = 0; over && i < h->n; i++) {
		struct guest *g = &h->guests[i];
		uint64_t excess = sub_sat_u64(g->resident_bytes, g->limit_bytes);
		uint64_t share = over <= budget ? excess : mul_div_u64(budget, excess, over);
		if (!share)
			continue;
		swap_out(h, g, share);
		left -= share;
	}
	return left;
}

/* Cold pages of all, in proportion, within the budget; returns how much could be swapped out. */
static uint64_t evict_cold(struct host *h, uint64_t need, uint64_t cold, uint64_t budget)
{
	uint64_t goal = min_u64(min_u64(need, cold), budget), done = 0;
	for (size_t i = 0; goal && i < h->n; i++) {
		struct guest *g = &h->guests[i];
		uint64_t want = min_u64(g->demand_bytes, min_u64(g->actual_bytes, g->limit_bytes));
		uint64_t share = mul_div_u64(sub_sat_u64(g->resident_bytes, want), goal, cold);
		swap_out(h, g, share);
		done += share;
	}
	return done;
}

/* More is used than there is: cold pages go first, then everybody lacks in proportion to what he uses. */
static void press(struct host *h, uint64_t budget)
{
	uint64_t hot = 0, cold = 0;
	for (size_t i = 0; i < h->n; i++) {
		const struct guest *g = &h->guests[i];
		uint64_t want = min_u64(g->demand_bytes, min_u64(g->actual_bytes, g->limit_bytes));
		hot += want;
		cold += sub_sat_u64(g->resident_bytes, want);
	}
	uint64_t need = sub_sat_u64(hot + cold, h->pool_bytes);
	uint64_t lack = need - evict_cold(h, need, cold, budget);
	h->cut_n = 0;
	for (size_t i = 0; i < h->n; i++) {
		struct guest *g = &h->guests[i];
		uint64_t want = min_u64(g->demand_bytes, min_u64(g->actual_bytes, g->limit_bytes));
		uint64_t cut = lack && hot ? mul_div_u64(want, min_u64(lack, hot), hot) : 0;
		if (cut == g->cut_bytes && !cut)
			continue;
		g->cut_bytes = cut;
		h->cut_n += cut != 0;
		uint64_t stays = max_u64(g->resident_bytes, want) - cut;
		if (g->resident_bytes > stays)
			swap_out(h, g, g->resident_bytes - stays);
		guest_refresh(h, g);
	}
}

/* Into memory that is free, no faster: who finds none waits. */
static void touch_on(struct host *h)
{
	uint64_t way = way_bytes(h->options->model.touch_bytes_per_s, h->options->step_ms);
	for (size_t i = 0; i < h->n; i++) {
		struct guest *g = &h->guests[i];
		if (!g->touching)
			continue;
		uint64_t room = min_u64(g->actual_bytes - g->touched_bytes, g->limit_bytes - g->resident_bytes);
		uint64_t bytes = min_u64(min_u64(room, way), sub_sat_u64(h->pool_bytes, h->resident_sum));
		g->touched_bytes += bytes;
		g->resident_bytes += bytes;
		h->resident_sum += bytes;
		g->sample_changed |= bytes != 0;
		set_marks(h, g);
	}
}

void host_reclaim(struct host *h)
{
	if (h->touching_n && h->options->model.touch_bytes_per_s)
		touch_on(h);
	if (!h->over_limit_n && !h->cut_n && h->resident_sum <= h->pool_bytes)
		return;
	const struct sim_model *m = &h->options->model;
	uint64_t budget = way_bytes(m->limit_reclaim_bytes_per_s, h->options->step_ms);
	budget = min_u64(budget, sub_sat_u64(m->swap_bytes, h->swapped_sum));
	budget = reclaim_for_limits(h, budget);
	if (h->cut_n || h->resident_sum > h->pool_bytes)
		press(h, budget);
}

/* ---- lack ---- */

void guest_suffer(struct host *h, struct guest *g)
{
	uint64_t step_ms = h->options->step_ms;
	uint64_t guest = sub_sat_u64(g->demand_bytes, g->actual_bytes);
	uint64_t host = sub_sat_u64(min_u64(g->demand_bytes, g->actual_bytes), g->size_bytes);
	/* About half of what is lacking each second: a quarter in, a quarter out; and what the host lacks comes home as
	 * often. */
	g->swap_bytes += guest / 4000 * step_ms;
	g->stats_changed |= guest != 0;
	g->fault_bytes += host / 2000 * step_ms;
	g->sample_changed |= host != 0;
}
