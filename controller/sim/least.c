/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/sim/least.h"

#include <errno.h>
#include <string.h>

int least_open(struct least *l, size_t n, const struct script *scripts, const size_t *at, const uint64_t *begin_bytes,
	       uint64_t pool_bytes)
{
	*l = (struct least){.n = n,
			    .scripts = scripts,
			    .at = at,
			    .size_bytes = calloc(n, sizeof(*l->size_bytes)),
			    .again_ms = calloc(n, sizeof(*l->again_ms)),
			    .known = calloc(n, sizeof(*l->known)),
			    .free_bytes = pool_bytes};
	if (!l->size_bytes || !l->again_ms || !l->known) {
		least_close(l);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++) {
		l->size_bytes[i] = min_u64(begin_bytes[i], l->free_bytes);
		l->free_bytes -= l->size_bytes[i];
	}
	return 0;
}

void least_close(struct least *l)
{
	free(l->size_bytes);
	free(l->again_ms);
	free(l->known);
	memset(l, 0, sizeof(*l));
}

static uint64_t demand_now(const struct least *l, size_t i)
{
	return l->scripts[i].demand_bytes[l->at[i]];
}

static uint64_t again_ms(struct least *l, size_t i)
{
	if (!l->known[i]) {
		l->again_ms[i] = script_reaches_ms(&l->scripts[i], l->at[i], l->size_bytes[i]);
		l->known[i] = true;
	}
	return l->again_ms[i];
}

/* How far the layer at the top of VM i reaches down: to what it wants sooner than its top, or now. */
static uint64_t layer_bytes(const struct least *l, size_t i)
{
	const struct script *s = &l->scripts[i];
	uint64_t top = l->size_bytes[i], below = demand_now(l, i);
	for (size_t k = s->next_higher[l->at[i]]; k < s->n && s->demand_bytes[k] < top; k = s->next_higher[k])
		below = s->demand_bytes[k];
	return top - below;
}

/* The VM whose top layer is not wanted now and wanted last; l->n where all is wanted. */
static size_t last_wanted(struct least *l)
{
	size_t best = l->n;
	for (size_t i = 0; i < l->n; i++)
		if (l->size_bytes[i] > demand_now(l, i) && (best == l->n || again_ms(l, i) > again_ms(l, best)))
			best = i;
	return best;
}

static void meet(struct least *l, size_t i)
{
	uint64_t want = demand_now(l, i), given = min_u64(sub_sat_u64(want, l->size_bytes[i]), l->free_bytes);
	l->free_bytes -= given;
	while (l->size_bytes[i] + given < want) {
		size_t from = last_wanted(l);
		if (from == l->n)
			break;
		uint64_t taken = min_u64(want - l->size_bytes[i] - given, layer_bytes(l, from));
		l->size_bytes[from] -= taken;
		l->known[from] = false;
		l->moved_bytes += (double)taken;
		given += taken;
	}
	l->size_bytes[i] += given;
	l->known[i] = false;
	l->moved_bytes += (double)given;
	l->lacking |= l->size_bytes[i] < want;
}

void least_meet(struct least *l, const size_t *changed, size_t changed_n)
{
	bool lacking = l->lacking;
	l->lacking = false;
	for (size_t i = 0; i < changed_n; i++)
		l->known[changed[i]] = false; /* what was to come may be past */
	for (size_t i = 0; i < changed_n; i++)
		meet(l, changed[i]);
	for (size_t i = 0; lacking && changed_n && i < l->n; i++)
		if (l->size_bytes[i] < demand_now(l, i))
			meet(l, i);
}
