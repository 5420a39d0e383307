/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/sim/host.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define REVERSAL_MS 60000 /* policy.md: direction changes within 60 s */

void figures_clear(struct figures *f)
{
	free(f->relief_ms);
	free(f->relief_fit_ms);
	memset(f, 0, sizeof(*f));
}

void figures_begin(struct guest_figures *g, uint64_t size_bytes)
{
	*g = (struct guest_figures){
		.size_bytes = size_bytes, .up_ms = NEVER_MS, .down_ms = NEVER_MS, .begin_ms = NEVER_MS};
}

static void note_direction(struct figures *f, struct guest_figures *g, bool up, uint64_t now_ms)
{
	uint64_t against = up ? g->down_ms : g->up_ms, along = up ? g->up_ms : g->down_ms;
	/* Several steps in one direction turn only once. */
	bool turned = against != NEVER_MS && (along == NEVER_MS || along < against);
	if (turned && now_ms - against <= REVERSAL_MS)
		f->reversals++;
	if (up)
		g->up_ms = now_ms;
	else
		g->down_ms = now_ms;
}

static void measure_resized(struct host *h)
{
	for (size_t k = 0; k < h->resized_n; k++) {
		struct guest *g = &h->guests[h->resized[k]];
		struct guest_figures *gf = &g->figures;
		uint64_t from = gf->size_bytes, to = g->size_bytes;
		bool below = to < g->min_bytes;
		g->size_changed = false;
		h->below_min_n += (size_t)below - (size_t)gf->below_min;
		gf->below_min = below;
		if (from == to)
			continue;
		h->figures->moved_bytes += from < to ? (double)(to - from) : (double)(from - to);
		note_direction(h->figures, gf, from < to, h->now_ms);
		gf->size_bytes = to;
	}
	h->resized_n = 0;
}

/* ---- relief ---- */

static bool grow(uint64_t **list, size_t capacity)
{
	uint64_t *more = realloc(*list, capacity * sizeof(*more));
	if (!more)
		return false;
	*list = more;
	return true;
}

static int keep_relief(struct figures *f, uint64_t ms, uint64_t crowded_ms)
{
	if (f->relief_n == f->relief_capacity) {
		size_t capacity = f->relief_capacity ? f->relief_capacity * 2 : 1024;
		if (!grow(&f->relief_ms, capacity) || !grow(&f->relief_fit_ms, capacity))
			return -ENOMEM;
		f->relief_capacity = capacity;
	}
	f->relief_ms[f->relief_n] = ms;
	f->relief_fit_ms[f->relief_n++] = ms - crowded_ms;
	return 0;
}

static int end_episode(struct host *h, size_t i)
{
	struct guest_figures *gf = &h->guests[i].figures;
	const struct sim_watch *w = h->watch;
	const struct vm *vm = core_vm_at(h->core, i);
	uint64_t begin = gf->begin_ms, crowded_ms = gf->crowded_ms;
	if (w && w->episode) {
		const struct sim_episode e = {.host = h->index,
					      .vm = i,
					      .begin_ms = begin,
					      .end_ms = h->now_ms,
					      .unmet_byte_s = (uint64_t)gf->unmet_byte_s,
					      .cause = gf->before ? gf->before : "",
					      .cure = vm ? vm->reason : ""};
		w->episode(w->user, &e);
	}
	free(gf->before);
	gf->before = NULL;
	gf->begin_ms = NEVER_MS;
	gf->unmet_byte_s = 0;
	gf->crowded_ms = 0;
	h->open_n--;
	return keep_relief(h->figures, h->now_ms - begin, crowded_ms);
}

static void begin_episode(struct host *h, size_t i)
{
	struct guest_figures *gf = &h->guests[i].figures;
	const struct vm *vm = core_vm_at(h->core, i);
	gf->begin_ms = h->now_ms;
	if (h->watch && h->watch->episode && vm)
		gf->before = strdup(vm->reason);
	h->open_n++;
}

static int measure_lacking(struct host *h, double step_s)
{
	bool fits = h->demand_sum <= h->pool_bytes;
	int r = 0;
	for (size_t i = 0; r == 0 && i < h->n; i++) {
		struct guest *g = &h->guests[i];
		bool open = g->figures.begin_ms != NEVER_MS;
		if (!g->unmet_bytes) {
			r = open ? end_episode(h, i) : 0;
			continue;
		}
		guest_suffer(h, g);
		if (!g->fault)
			g->figures.lacked_byte_s +=
				(double)sub_sat_u64(min_u64(g->demand_bytes, g->share_bytes), g->size_bytes) * step_s;
		if (!open && fits)
			begin_episode(h, i);
		if (!fits && open)
			g->figures.crowded_ms += h->options->step_ms;
		if (open || fits)
			g->figures.unmet_byte_s += (double)g->unmet_bytes * step_s;
	}
	return r;
}

/* ---- a step ---- */

int figures_measure(struct host *h)
{
	struct figures *f = h->figures;
	double step_s = (double)h->options->step_ms / 1000;
	measure_resized(h);
	f->demand_byte_s += (double)h->demand_sum * step_s;
	f->honest_demand_byte_s += (double)h->honest_demand_sum * step_s;
	f->bound_byte_s += (double)sub_sat_u64(h->demand_sum, h->pool_bytes) * step_s;
	f->floor_breaches += h->below_min_n;
	f->host_steps++;
	if (core_books(h->core)->buffer_bytes < (int64_t)(h->buffer_bytes / 2))
		f->buffer_low_steps++;
	if (!h->unmet_sum && !h->open_n)
		return 0;
	f->unmet_byte_s += (double)h->unmet_sum * step_s;
	f->honest_unmet_byte_s += (double)h->honest_unmet_sum * step_s;
	return measure_lacking(h, step_s);
}

static double ratio(double a, double b)
{
	return b > 0 ? a / b : 0;
}

int figures_end(struct host *h)
{
	struct figures *f = h->figures;
	double seconds = (double)h->now_ms / 1000;
	int r = 0;
	for (size_t i = 0; r == 0 && i < h->n; i++) {
		const struct guest *g = &h->guests[i];
		double share_byte_s = g->fault ? 0 : (double)g->share_bytes * seconds;
		f->share_byte_s += share_byte_s;
		f->lacked_byte_s += g->figures.lacked_byte_s;
		f->lacked_most = fmax(f->lacked_most, ratio(g->figures.lacked_byte_s, share_byte_s));
		if (g->figures.begin_ms != NEVER_MS)
			r = end_episode(h, i);
	}
	f->least_moved_bytes += h->least.moved_bytes;
	f->least_blind_moved_bytes += h->least_blind.moved_bytes;
	f->buffer_bytes += (double)h->buffer_bytes;
	f->pool_bytes += (double)h->pool_bytes;
	return r;
}

/* ---- the whole ---- */

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* The smallest that is not below the given part of all (nearest rank). */
static double percentile_s(const uint64_t *sorted_ms, size_t n, size_t percent)
{
	size_t rank = (n * percent + 99) / 100;
	return n ? (double)sorted_ms[rank ? rank - 1 : 0] / 1000 : 0;
}

static void relief_result(struct figures *f, struct sim_result *ret)
{
	size_t n = ret->relief_n = f->relief_n;
	for (size_t i = 0; i < n; i++)
		ret->relief_long_n += f->relief_ms[i] > SIM_LONG_MS;
	if (!n)
		return;
	qsort(f->relief_ms, n, sizeof(f->relief_ms[0]), by_size);
	qsort(f->relief_fit_ms, n, sizeof(f->relief_fit_ms[0]), by_size);
	ret->relief_p50_s = percentile_s(f->relief_ms, n, 50);
	ret->relief_p95_s = percentile_s(f->relief_ms, n, 95);
	ret->relief_p99_s = percentile_s(f->relief_ms, n, 99);
	ret->relief_max_s = percentile_s(f->relief_ms, n, 100);
	ret->relief_fit_p50_s = percentile_s(f->relief_fit_ms, n, 50);
	ret->relief_fit_p95_s = percentile_s(f->relief_fit_ms, n, 95);
	ret->relief_fit_p99_s = percentile_s(f->relief_fit_ms, n, 99);
	ret->relief_fit_max_s = percentile_s(f->relief_fit_ms, n, 100);
}

void figures_result(struct figures *f, struct sim_result *ret)
{
	relief_result(f, ret);
	ret->demand_byte_s = f->demand_byte_s;
	ret->unmet_byte_s = f->unmet_byte_s;
	ret->bound_byte_s = f->bound_byte_s;
	ret->regret = ratio(f->unmet_byte_s - f->bound_byte_s, f->demand_byte_s);
	ret->honest_regret =
		ratio(f->honest_unmet_byte_s, f->honest_demand_byte_s) - ratio(f->bound_byte_s, f->demand_byte_s);
	ret->moved_bytes = f->moved_bytes;
	ret->least_moved_bytes = f->least_moved_bytes;
	ret->churn = ratio(f->moved_bytes, f->least_moved_bytes);
	ret->churn_blind = ratio(f->least_blind_moved_bytes, f->least_moved_bytes);
	ret->reversals = f->reversals;
	ret->buffer_share_of_pool = ratio(f->buffer_bytes, f->pool_bytes);
	ret->buffer_below_half_share = ratio((double)f->buffer_low_steps, (double)f->host_steps);
	ret->floor_breaches = f->floor_breaches;
	ret->share_lacked = ratio(f->lacked_byte_s, f->share_byte_s);
	ret->share_lacked_most = f->lacked_most;
}
