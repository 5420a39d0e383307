/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/core/roster.h"

#include <stdlib.h>
#include <string.h>

void roster_clear(struct roster *r)
{
	for (size_t i = 0; i < r->n; i++)
		free(r->vms[i]);
	free(r->vms);
	free(r->booked);
	free(r->round);
	free(r->index);
	memset(r, 0, sizeof(*r));
}

/* ---- index ---- */

/* Ids are mostly counted up: they spread well over a power of two as they are. */
static size_t place(const struct roster *r, vm_id id)
{
	return id & (2 * r->capacity - 1);
}

static size_t next_place(const struct roster *r, size_t at)
{
	return (at + 1) & (2 * r->capacity - 1);
}

size_t roster_find(const struct roster *r, vm_id id)
{
	if (!r->capacity)
		return NO_SEAT;
	for (size_t at = place(r, id); r->index[at]; at = next_place(r, at))
		if (r->vms[r->index[at] - 1]->id == id)
			return r->index[at] - 1;
	return NO_SEAT;
}

static void index_put(struct roster *r, size_t seat)
{
	size_t at = place(r, r->vms[seat]->id);
	while (r->index[at])
		at = next_place(r, at);
	r->index[at] = seat + 1;
}

static void index_all(struct roster *r)
{
	memset(r->index, 0, 2 * r->capacity * sizeof(*r->index));
	for (size_t i = 0; i < r->n; i++)
		index_put(r, i);
}

/* ---- seats ---- */

/* Where memory ends in between, some lists are larger than `capacity` says: that harms nobody. */
static bool make_room(struct roster *r)
{
	if (r->n < r->capacity)
		return true;
	size_t capacity = r->capacity ? r->capacity * 2 : 16;
	struct vm **vms = realloc(r->vms, capacity * sizeof(*vms));
	r->vms = vms ? vms : r->vms;
	struct vm **round = vms ? realloc(r->round, capacity * sizeof(*round)) : NULL;
	r->round = round ? round : r->round;
	struct booked *booked = round ? realloc(r->booked, capacity * sizeof(*booked)) : NULL;
	r->booked = booked ? booked : r->booked;
	size_t *index = booked ? realloc(r->index, 2 * capacity * sizeof(*index)) : NULL;
	if (!index)
		return false;
	r->index = index;
	r->capacity = capacity;
	index_all(r);
	return true;
}

struct vm *roster_add(struct roster *r, vm_id id)
{
	struct vm *vm = make_room(r) ? calloc(1, sizeof(*vm)) : NULL;
	if (!vm)
		return NULL;
	vm->id = id;
	r->vms[r->n] = vm;
	r->booked[r->n] = (struct booked){0};
	index_put(r, r->n++);
	return vm;
}

void roster_remove(struct roster *r, size_t seat)
{
	book_sums_move(&r->sums, &r->booked[seat], NULL);
	free(r->vms[seat]);
	size_t behind = --r->n - seat;
	memmove(&r->vms[seat], &r->vms[seat + 1], behind * sizeof(r->vms[0]));
	memmove(&r->booked[seat], &r->booked[seat + 1], behind * sizeof(r->booked[0]));
	index_all(r);
}

void roster_recount(struct roster *r, size_t seat)
{
	const struct booked now = booked_of(r->vms[seat]);
	book_sums_move(&r->sums, &r->booked[seat], &now);
	r->booked[seat] = now;
}
