/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/core/roster.h"

#include <stdlib.h>
#include <string.h>

void roster_clear(struct roster *r)
{
	for (size_t i = 0; i < r->n; i++)
		free(r->vms[i]);
	free(r->vms);
	free(r->seats);
	free(r->touched);
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
	for (size_t at = place(r, id); r->index[at].seat_and_1; at = next_place(r, at))
		if (r->index[at].id == id)
			return r->index[at].seat_and_1 - 1;
	return NO_SEAT;
}

static void index_put(struct roster *r, size_t seat)
{
	size_t at = place(r, r->vms[seat]->id);
	while (r->index[at].seat_and_1)
		at = next_place(r, at);
	r->index[at] = (struct index_place){.id = r->vms[seat]->id, .seat_and_1 = (uint32_t)seat + 1};
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
	if (!vms)
		return false;
	r->vms = vms;
	struct vm **round = realloc(r->round, capacity * sizeof(*round));
	if (!round)
		return false;
	r->round = round;
	struct seat *seats = realloc(r->seats, capacity * sizeof(*seats));
	if (!seats)
		return false;
	r->seats = seats;
	size_t *touched = realloc(r->touched, capacity * sizeof(*touched));
	if (!touched)
		return false;
	r->touched = touched;
	struct index_place *index = realloc(r->index, 2 * capacity * sizeof(*index));
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
	r->seats[r->n] = (struct seat){0};
	index_put(r, r->n++);
	return vm;
}

void roster_remove(struct roster *r, size_t seat)
{
	book_sums_move(&r->sums, &r->seats[seat].booked, NULL);
	r->sums_moved = true;
	r->wishes_n -= r->seats[seat].wishes;
	free(r->vms[seat]);
	size_t behind = --r->n - seat;
	memmove(&r->vms[seat], &r->vms[seat + 1], behind * sizeof(r->vms[0]));
	memmove(&r->seats[seat], &r->seats[seat + 1], behind * sizeof(r->seats[0]));
	index_all(r);
	r->touched_n = 0; /* the list knows them by their seats */
	for (size_t i = 0; i < r->n; i++) {
		r->seats[i].touched = false;
		roster_touch(r, i);
	}
}

/* ---- what changes ---- */

void roster_touch(struct roster *r, size_t seat)
{
	if (r->seats[seat].touched)
		return;
	r->seats[seat].touched = true;
	r->touched[r->touched_n++] = seat;
}

void roster_changed(struct roster *r, size_t seat)
{
	struct seat *s = &r->seats[seat];
	const struct booked now = booked_of(r->vms[seat]), *was = &s->booked;
	if (now.max_bytes != was->max_bytes || now.granted_bytes != was->granted_bytes ||
	    now.resident_bytes != was->resident_bytes || now.swapped_bytes != was->swapped_bytes) {
		book_sums_move(&r->sums, was, &now);
		s->booked = now;
		r->sums_moved = true;
	}
	s->rest_until_ms = 0;
	roster_touch(r, seat);
}

void roster_wake_all(struct roster *r)
{
	for (size_t i = 0; i < r->n; i++) {
		r->seats[i].rest_until_ms = 0;
		roster_touch(r, i);
	}
}
