/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the core gets to hear: statistics of guests, honest and not, samples of their cgroups, the host's own memory. */
#include "controller/core/wss.h"
#include "controller/sim/host.h"

#include <math.h>

#define STALE_AFTER_MS 60000	       /* until then a guest with stale statistics has sent good ones */
#define LIE_SWAP_BYTES_PER_S (8 * MIB) /* in and out each: a liar says that it swaps, and that nothing is left */
#define LEAST_USABLE_BYTES MIB	       /* no guest lets itself run dry */

static bool speaks(const struct host *h, const struct guest *g)
{
	enum sim_fault fault = g->fault ? g->fault->kind : 0;
	if (g->booting || fault == FAULT_SILENT || fault == FAULT_NO_DRIVER)
		return false;
	return fault != FAULT_STALE || h->now_ms < STALE_AFTER_MS;
}

void tell_balloon(struct host *h, size_t i)
{
	struct guest *g = &h->guests[i];
	guest_settle(h, g);
	h->stats[i].stats.actual_bytes = g->booting ? g->said_actual_bytes : g->actual_bytes;
}

/* A hoarder's usable memory: an eighth above what is low for a guest of its size (vm_low_usable_bytes()). */
static uint64_t hoard_usable_bytes(const struct guest *g)
{
	double of = (double)g->max_bytes / (double)(2 * GIB);
	return share_of(9 * MIB, of > 1 ? sqrt(of) : 1);
}

/* Free and usable are one: page cache is no part of the traces. */
static void tell_memory(const struct guest *g, struct guest_stats *s, bool lies)
{
	uint64_t usable = max_u64(sub_sat_u64(g->actual_bytes, g->demand_bytes), LEAST_USABLE_BYTES);
	usable = lies ? LEAST_USABLE_BYTES : usable;
	if (g->fault && g->fault->kind == FAULT_HOARDING)
		usable = hoard_usable_bytes(g);
	s->has_usable = s->has_unused = s->has_available = s->has_swap = s->has_major_faults = true;
	s->available_bytes = g->actual_bytes;
	s->usable_bytes = s->unused_bytes = min_u64(usable, g->actual_bytes);
}

/* What is used shows in the statistics; what is lacked shows a period later, in what the guest swapped for it. */
static void note_told(struct guest *g)
{
	bool lacks = g->demand_bytes > g->actual_bytes;
	g->told_bytes = lacks ? max_u64(g->actual_bytes, g->lacking_bytes) : g->demand_bytes;
	g->lacking_bytes = lacks ? g->demand_bytes : 0;
}

void tell_snapshot(struct host *h, size_t i)
{
	struct guest *g = &h->guests[i];
	struct guest_stats *s = &h->stats[i].stats;
	bool lies = g->fault && g->fault->kind == FAULT_LYING;
	bool always = lies || (g->fault && (g->fault->kind == FAULT_STALE || g->fault->kind == FAULT_SILENT ||
					    g->fault->kind == FAULT_NO_DRIVER));
	tell_balloon(h, i);
	s->has_actual = true;
	if (!speaks(h, g)) {
		if (g->booting) /* QEMU forgets them on reset */
			*s = (struct guest_stats){.has_actual = true, .actual_bytes = s->actual_bytes};
		return;
	}
	s->last_update_s = ++g->updates;
	note_told(g);
	tell_memory(g, s, lies);
	if (lies)
		g->swap_bytes += LIE_SWAP_BYTES_PER_S / 1000 * h->options->model.stats_period_ms;
	/* What was swapped in a period is told at the end of the next. */
	s->swap_in_bytes = s->swap_out_bytes = g->swap_shown_bytes;
	s->major_faults = g->swap_shown_bytes / 4096;
	g->stats_changed = always || g->swap_shown_bytes != g->swap_bytes;
	g->swap_shown_bytes = g->swap_bytes;
}

void tell_sample(struct host *h, size_t i)
{
	struct guest *g = &h->guests[i];
	struct vm_host_sample *s = &h->samples[i].sample;
	if (g->moving)
		guest_settle(h, g);
	g->sample_changed = false;
	s->has_memory = s->has_major_faults = true;
	s->resident_bytes = g->resident_bytes;
	s->swapped_bytes = g->touched_bytes - g->resident_bytes;
	s->limit_bytes = g->limit_bytes;
	s->major_faults = g->fault_bytes / 4096;
	/* QEMU itself takes nothing here: a trace's demand is all there is. */
	s->has_overhead = h->measured;
	s->guest_ram_bytes = h->measured ? g->touched_bytes : 0;
}

#define WSS_WINDOW_MS 30000
#define WSS_GOOD_PERIODS 4 /* as memocd has it */

/* Twelve uniform ones: as good as normal, mean 0 and deviation 1. */
static double normal(struct sim_random *r)
{
	double sum = -6;
	for (int i = 0; i < 12; i++)
		sum += random_unit(r);
	return sum;
}

/* It touches what it demands, as far as it has it: what a guest swaps for itself it touches a moment later. */
bool tell_wss(struct host *h, size_t i, struct wss_reading *ret)
{
	const struct sim_model *m = &h->options->model;
	const struct guest *g = &h->guests[i];
	if (g->booting)
		return false;
	uint64_t population = g->max_bytes / 4096, pages = min_u64(m->wss_pages, population);
	double share = (double)min_u64(g->demand_bytes, g->size_bytes) / (double)g->max_bytes, n = (double)pages;
	double accessed = n * share + sqrt(n * share * (1 - share)) * normal(&h->wss_random);
	accessed = accessed < 0 ? 0 : accessed > n ? n : floor(accessed + 0.5);
	double error = wss_error_share((uint64_t)accessed, pages, population);
	*ret = (struct wss_reading){.known = true,
				    .backend = WSS_IDLE,
				    .wss_bytes = share_of(g->max_bytes, accessed / n),
				    .error_bytes = share_of(g->max_bytes, error),
				    .began_ms = CORE_BEGIN_MS + h->now_ms - WSS_WINDOW_MS,
				    .good_ms = WSS_GOOD_PERIODS * m->wss_period_ms,
				    .pages = pages};
	return true;
}

/* The host's own processes use half of the reserve. */
struct host_sample tell_host(const struct host *h)
{
	uint64_t total = h->pool_bytes + h->reserve_bytes, swap = h->options->model.swap_bytes;
	return (struct host_sample){.has_memory = true,
				    .mem_total_bytes = total,
				    .mem_available_bytes = sub_sat_u64(total - h->reserve_bytes / 2, h->resident_sum),
				    .swap_total_bytes = swap,
				    .swap_free_bytes = sub_sat_u64(swap, h->swapped_sum)};
}
