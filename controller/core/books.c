/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host's budget: pool = what VMs can use together + the buffer that no VM may use. */
#include "controller/core/policy.h"

struct booked booked_of(const struct vm *vm)
{
	bool sampled = vm->has_sample && vm->sample.has_memory;
	return (struct booked){.max_bytes = vm->facts.max_bytes,
			       .granted_bytes = vm_committed_bytes(vm),
			       .resident_bytes = sampled ? vm->sample.resident_bytes : 0,
			       .swapped_bytes = sampled ? vm->sample.swapped_bytes : 0};
}

void book_sums_move(struct book_sums *s, const struct booked *from, const struct booked *to)
{
	static const struct booked nothing;
	const struct booked *out = from ? from : &nothing, *in = to ? to : &nothing;
	s->max_bytes += (unsigned __int128)in->max_bytes - out->max_bytes; /* modulo 2^128: no sum is ever negative */
	s->granted_bytes += (unsigned __int128)in->granted_bytes - out->granted_bytes;
	s->resident_bytes += (unsigned __int128)in->resident_bytes - out->resident_bytes;
	s->swapped_bytes += (unsigned __int128)in->swapped_bytes - out->swapped_bytes;
}

static uint64_t saturate(unsigned __int128 v)
{
	return v > UINT64_MAX ? UINT64_MAX : (uint64_t)v;
}

void books_set(struct books *b, const struct core_config *c, const struct book_sums *s, size_t vms)
{
	b->pool_bytes = c->pool_bytes;
	b->committed_max_bytes = saturate(s->max_bytes);
	b->granted_bytes = saturate(s->granted_bytes);
	b->resident_bytes = saturate(s->resident_bytes);
	b->swapped_bytes = saturate(s->swapped_bytes);
	b->vms = vms;
	uint64_t granted = min_u64(b->granted_bytes, INT64_MAX), pool = min_u64(b->pool_bytes, INT64_MAX);
	b->buffer_bytes = (int64_t)pool - (int64_t)granted;
}

void books_update(struct books *b, const struct core_config *c, const struct host_sample *host, struct vm *const *vms,
		  size_t n)
{
	struct book_sums sums = {0};
	for (size_t i = 0; i < n; i++) {
		const struct booked now = booked_of(vms[i]);
		book_sums_move(&sums, NULL, &now);
	}
	books_set(b, c, &sums, n);
}

/*
 * Fill at which each level begins, of the buffer's target: ESX's 64/32/16 % of minFree (peers.md), with a step of
 * hysteresis on the way up, so that a level is not left and entered again by noise.
 */
static enum host_level level_of(double fill)
{
	return fill >= 0.64 ? LEVEL_HIGH : fill >= 0.32 ? LEVEL_SOFT : fill >= 0.16 ? LEVEL_HARD : LEVEL_LOW;
}

#define PRESSURE_SOFT_PERCENT 10.0
#define PRESSURE_HARD_PERCENT 30.0

enum host_level books_pressure_level(const struct books *b, enum host_level before, const struct core_config *c,
				     const struct host_sample *host)
{
	uint64_t least = add_sat_u64(c->reserve_bytes, before >= LEVEL_SOFT ? c->reserve_bytes / 8 : 0);
	if (!host->has_psi || !host->has_memory || host->mem_available_bytes >= least ||
	    add_sat_u64(b->resident_bytes, host->mem_available_bytes) < b->pool_bytes)
		return LEVEL_HIGH;
	double full = host->psi_full_avg10;
	if (full >= PRESSURE_HARD_PERCENT / (before >= LEVEL_HARD ? 2 : 1))
		return LEVEL_HARD;
	return full >= PRESSURE_SOFT_PERCENT / (before >= LEVEL_SOFT ? 2 : 1) ? LEVEL_SOFT : LEVEL_HIGH;
}

enum host_level books_level(const struct books *b, enum host_level before, const struct core_config *c,
			    const struct host_sample *host)
{
	double fill = b->buffer_target_bytes ? (double)b->buffer_bytes / (double)b->buffer_target_bytes
		      : b->buffer_bytes >= 0 ? 1.0
					     : -1.0;
	enum host_level level = level_of(fill);
	if (level < before)
		level = level_of(fill - 0.08) < before ? level_of(fill - 0.08) : before;
	/* Left a little above where it is entered, for the same reason. */
	uint64_t least = c->reserve_bytes / 2 + (before >= LEVEL_HARD ? c->reserve_bytes / 8 : 0);
	if (host->has_memory && host->mem_available_bytes < least && level < LEVEL_HARD)
		level = LEVEL_HARD;
	enum host_level pressure = books_pressure_level(b, before, c, host);
	return level > pressure ? level : pressure;
}

uint64_t books_available(const struct books *b, const struct core_config *c, const struct host_sample *host)
{
	uint64_t available = b->buffer_bytes > 0 ? (uint64_t)b->buffer_bytes : 0;
	if (host->has_memory)
		available = min_u64(available, sub_sat_u64(host->mem_available_bytes, c->reserve_bytes / 2));
	return available;
}
