/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/sim/least.h"

#include <errno.h>
#include <string.h>

int least_open(struct least *l, bool blind, size_t n, const struct script *scripts, const size_t *at,
	       const uint64_t *begin_bytes, uint64_t pool_bytes)
{
	*l = (struct least){.n = n,
			    .blind = blind,
			    .scripts = scripts,
			    .at = at,
			    .size_bytes = calloc(n, sizeof(*l->size_bytes)),
			    .worth_ms = calloc(n, sizeof(*l->worth_ms)),
			    .known = calloc(n, sizeof(*l->known)),
			    .free_bytes = pool_bytes};
	if (!l->size_bytes || !l->worth_ms || !l->known) {
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
	free(l->worth_ms);
	free(l->known);
	memset(l, 0, sizeof(*l));
}

static uint64_t demand_now(const struct least *l, size_t i)
{
	return l->scripts[i].demand_bytes[l->at[i]];
}

/* The next point from VM i's present one on, into the future or the past, where more is wanted than at k. */
static size_t higher(const struct least *l, size_t i, size_t k)
{
	return l->blind ? l->scripts[i].last_higher[k] : l->scripts[i].next_higher[k];
}

/* The point nearest to now at which VM i's top layer is wanted; n = none. And down to where the layer reaches: to what
 * is wanted nearer than that, or now. */
static size_t top_wanted(const struct least *l, size_t i, uint64_t *ret_below_bytes)
{
	const struct script *s = &l->scripts[i];
	size_t k = l->at[i];
	for (; k < s->n && s->demand_bytes[k] < l->size_bytes[i]; k = higher(l, i, k))
		*ret_below_bytes = s->demand_bytes[k];
	return k;
}

/* When the top layer is wanted, and, blind, the farther back it was wanted the more: both stay right while nothing of
 * this VM changes. */
static uint64_t worth_ms(struct least *l, size_t i)
{
	const struct script *s = &l->scripts[i];
	if (!l->known[i]) {
		uint64_t below;
		size_t k = top_wanted(l, i, &below);
		uint64_t at_ms = k < s->n ? s->at_ms[l->blind ? k + 1 : k] : l->blind ? 0 : SCRIPT_NEVER_MS;
		l->worth_ms[i] = l->blind ? SCRIPT_NEVER_MS - at_ms : at_ms;
		l->known[i] = true;
	}
	return l->worth_ms[i];
}

static uint64_t layer_bytes(const struct least *l, size_t i)
{
	uint64_t below = demand_now(l, i);
	top_wanted(l, i, &below);
	return l->size_bytes[i] - below;
}

/* The VM whose top layer is not wanted now and is farthest from being wanted; l->n where all is wanted. */
static size_t least_wanted(struct least *l)
{
	size_t best = l->n;
	for (size_t i = 0; i < l->n; i++)
		if (l->size_bytes[i] > demand_now(l, i) && (best == l->n || worth_ms(l, i) > worth_ms(l, best)))
			best = i;
	return best;
}

static void meet(struct least *l, size_t i)
{
	uint64_t want = demand_now(l, i), given = min_u64(sub_sat_u64(want, l->size_bytes[i]), l->free_bytes);
	l->free_bytes -= given;
	while (l->size_bytes[i] + given < want) {
		size_t from = least_wanted(l);
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
