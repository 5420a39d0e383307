/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/core/wss.h"

#include <math.h>
#include <stdlib.h>

#define Z 1.96 /* of the normal distribution: 95 % lie within */

double wss_error_share(uint64_t accessed, uint64_t pages, uint64_t population)
{
	if (!pages)
		return 1;
	if (pages >= population)
		return 0;
	double n = (double)pages + Z * Z, all = (double)population;
	double p = ((double)min_u64(accessed, pages) + Z * Z / 2) / n;
	double error = Z * sqrt(p * (1 - p) / n * ((all - (double)pages) / (all - 1)));
	return error < 1 ? error : 1;
}

double wss_unjudged_share(double share, uint64_t unjudged, uint64_t pages)
{
	double widest = share > 0.5 ? share : 1 - share;

	return pages ? (double)unjudged / (double)pages * widest : 0;
}

/* A share may have jumped since: with as many pages as this one wants, the error of one half is 1.7 times what is
 * wanted (0.5 / sqrt(0.1 * 0.9)). */
#define EDGE 0.1

uint32_t wss_pages_for(double share, double share_error, double error_share, uint64_t population, uint32_t most)
{
	double low = share - share_error, high = share + share_error;
	double p = low > 0.5 ? low : high < 0.5 ? high : 0.5;
	p = p < EDGE ? EDGE : p > 1 - EDGE ? 1 - EDGE : p;
	double n = Z * Z * p * (1 - p) / (error_share * error_share);
	double all = (double)population;
	if (all > 0)
		n = n / (1 + (n - 1) / all);
	double wanted = n < WSS_PAGES_LEAST ? WSS_PAGES_LEAST : n;
	wanted = wanted > (double)most ? (double)most : wanted;
	wanted = wanted > all ? all : wanted;
	uint32_t pages = (uint32_t)wanted;
	return (double)pages < wanted ? pages + 1 : pages;
}

/* ---- averages ---- */

/* Half a minute forgets a spike, two and a half a level that lasted: a few windows each. */
#define FAST_MS 30000.0
#define SLOW_MS 150000.0

static uint64_t towards(uint64_t from, uint64_t to, double part)
{
	double v = (double)from + ((double)to - (double)from) * part;
	return v > 0 ? (uint64_t)(v + 0.5) : 0;
}

static double part_of(uint64_t dt_ms, double time_ms)
{
	return 1 - exp(-(double)dt_ms / time_ms);
}

void wss_average_take(struct wss_average *a, uint64_t bytes, uint64_t error_bytes, uint64_t now_ms)
{
	if (!a->readings) {
		*a = (struct wss_average){.fast_bytes = bytes, .slow_bytes = bytes, .ms = now_ms, .readings = 1};
		return;
	}
	uint64_t dt_ms = sub_sat_u64(now_ms, a->ms);
	bool grew = bytes > add_sat_u64(a->fast_bytes, error_bytes);
	a->fast_bytes = grew ? bytes : towards(a->fast_bytes, bytes, part_of(dt_ms, FAST_MS));
	a->slow_bytes = towards(a->slow_bytes, bytes, part_of(dt_ms, SLOW_MS));
	a->ms = now_ms;
	a->readings++;
}

uint64_t wss_average_bytes(const struct wss_average *a)
{
	return a->readings ? max_u64(a->fast_bytes, a->slow_bytes) : 0;
}

/* ---- who is read next ---- */

static double worth(const struct wss_wish *w, uint64_t most_gain)
{
	double gain = most_gain ? (double)w->gain_bytes / (double)most_gain : 0;
	return (double)w->age_ms * (1 + gain);
}

struct scored {
	struct wss_wish wish;
	double worth;
};

static int by_worth(const void *a, const void *b)
{
	const struct scored *sa = a, *sb = b;
	if (sa->worth != sb->worth)
		return sa->worth > sb->worth ? -1 : 1;
	if (sa->wish.gain_bytes != sb->wish.gain_bytes) /* who was never read: all are as old as can be */
		return sa->wish.gain_bytes > sb->wish.gain_bytes ? -1 : 1;
	return sa->wish.vm < sb->wish.vm ? -1 : sa->wish.vm > sb->wish.vm;
}

/* Due ones first; returns how many. Without memory for sorting they are read in the order they came in. */
static size_t put_in_order(struct wss_wish *wishes, size_t n, uint64_t period_ms)
{
	size_t due = 0;
	uint64_t most_gain = 0;
	for (size_t i = 0; i < n; i++) {
		struct wss_wish w = wishes[i];
		if (w.age_ms < period_ms)
			continue;
		wishes[i] = wishes[due];
		wishes[due++] = w;
		most_gain = max_u64(most_gain, w.gain_bytes);
	}
	struct scored *list = due ? malloc(due * sizeof(*list)) : NULL;
	if (!list)
		return due;
	for (size_t i = 0; i < due; i++)
		list[i] = (struct scored){wishes[i], worth(&wishes[i], most_gain)};
	qsort(list, due, sizeof(*list), by_worth);
	for (size_t i = 0; i < due; i++)
		wishes[i] = list[i].wish;
	free(list);
	return due;
}

/* No reading takes years. */
static int64_t bounded_ns(uint64_t ns)
{
	return (int64_t)min_u64(ns, INT64_MAX / 4);
}

size_t wss_choose(struct wss_budget *budget, double share, uint64_t period_ms, uint64_t now_ms, struct wss_wish *wishes,
		  size_t n)
{
	double ns_per_ms = share * 1e6;
	int64_t most = (int64_t)(ns_per_ms * (double)period_ms);
	uint64_t passed_ms = budget->ms ? sub_sat_u64(now_ms, budget->ms) : period_ms;
	budget->saved_ns += (int64_t)(ns_per_ms * (double)min_u64(passed_ms, period_ms));
	budget->saved_ns = budget->saved_ns > most ? most : budget->saved_ns;
	budget->ms = now_ms;

	size_t due = put_in_order(wishes, n, period_ms), chosen = 0;
	while (chosen < due && budget->saved_ns > 0)
		budget->saved_ns -= bounded_ns(wishes[chosen++].cost_ns);
	return chosen;
}

void wss_settle(struct wss_budget *budget, uint64_t reckoned_ns, uint64_t took_ns)
{
	budget->saved_ns += bounded_ns(reckoned_ns) - bounded_ns(took_ns);
}

const char *wss_backend_name(enum wss_backend b)
{
	static const char *const names[WSS_BACKEND_END] = {
		[WSS_NONE] = "none", [WSS_IDLE] = "idle",	[WSS_DAMON] = "damon",
		[WSS_LRU] = "lru",   [WSS_REFAULT] = "refault", [WSS_IDLE_HOST] = "idle-host"};
	return b >= WSS_NONE && b < WSS_BACKEND_END ? names[b] : "?";
}
