/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMs of a core in order of adding: found by id, and counted in the books one by one, so that an event of one VM
 * costs nothing for the others. Private to the core.
 */
#ifndef MEMOC_CORE_ROSTER_H
#define MEMOC_CORE_ROSTER_H

#include "controller/core/policy.h"

#define NO_SEAT SIZE_MAX

struct roster {
	struct vm **vms;       /* owned */
	struct booked *booked; /* what each counts for in `sums` */
	struct vm **round;     /* scratch of a planning round, as large as vms */
	size_t n, capacity;
	struct book_sums sums;
	size_t *index; /* seat + 1 by id, open addressing; 0 = empty. Twice the capacity, a power of two. */
};

void roster_clear(struct roster *r);
/* NO_SEAT: no such VM. */
size_t roster_find(const struct roster *r, vm_id id);
/* A zeroed VM with that id, which no other has, not counted yet; NULL: no memory. */
struct vm *roster_add(struct roster *r, vm_id id);
/* Frees the VM; those behind it move up. */
void roster_remove(struct roster *r, size_t seat);
/* After anything that may have changed what it counts for (booked_of()). */
void roster_recount(struct roster *r, size_t seat);

#endif
