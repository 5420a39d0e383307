/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMs of a core in order of adding: found by id, counted in the books one by one, and each with what the core knows
 * of its rest (rest.h), so that an event of one VM costs nothing for the others. Private to the core.
 */
#ifndef MEMOC_CORE_ROSTER_H
#define MEMOC_CORE_ROSTER_H

#include "controller/core/policy.h"

#define NO_SEAT SIZE_MAX

struct seat {
	struct booked booked;	/* what it counts for in `sums` */
	uint64_t rest_until_ms; /* 0: not at rest */
	bool still;		/* at rest: its estimates did not change at the last look */
	bool touched;		/* in `touched`: changed since it was last prepared for a plan */
	bool wishes;		/* then: it wants something of the plan */
};

/* Of the index: 0 = empty. With the id beside, a search touches no VM. */
struct index_place {
	vm_id id;
	uint32_t seat_and_1;
};

struct roster {
	struct vm **vms; /* owned */
	struct seat *seats;
	struct vm **round; /* scratch of a planning round, as large as vms */
	size_t n, capacity;
	struct book_sums sums;
	bool sums_moved; /* set with each change of the sums; who has looked at them clears it */
	size_t *touched, touched_n;
	size_t wishes_n;
	struct index_place *index; /* by id, open addressing; twice the capacity, a power of two */
};

void roster_clear(struct roster *r);
/* NO_SEAT: no such VM. */
size_t roster_find(const struct roster *r, vm_id id);
/* A zeroed VM with that id, which no other has; roster_changed() is to follow. NULL: no memory. */
struct vm *roster_add(struct roster *r, vm_id id);
/* Frees the VM; those behind it move up. */
void roster_remove(struct roster *r, size_t seat);
/* After anything that may have changed more of a VM than when it was last looked at: it is counted anew, its rest is
 * over, and it is touched. */
void roster_changed(struct roster *r, size_t seat);
/* Something changed for all of them. */
void roster_wake_all(struct roster *r);
/* Only what the last plan left in it is to be prepared anew. */
void roster_touch(struct roster *r, size_t seat);

#endif
