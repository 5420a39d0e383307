/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Synthetic traces: the same options give the same trace on every machine (integers only, a generator of our own).
 * Every VM has noise of its own of at most 2 % of its size; demand comes in steps of 1 MiB, or of 1/1024 of the size
 * where that is more.
 */
#ifndef MEMOC_SIM_GENERATE_H
#define MEMOC_SIM_GENERATE_H

#include "controller/sim/trace.h"

/* No VM grows faster, "steps" excepted, which jump: as builds do, and as fast as a balloon takes (policy.md). */
#define GENERATE_GROWTH_BYTES_PER_S (GIB * 95 / 100)
#define GENERATE_SIZE_MIN_BYTES (16 * MIB)

struct generate_options {
	const char *kind;    /* one of generate_kinds[] */
	size_t vms;	     /* called vm1, vm2, … */
	uint64_t size_bytes; /* of each VM */
	uint64_t duration_ms;
	uint64_t step_ms; /* demand is looked at so often; what happens between does not depend on it from 1 s on */
	uint64_t seed;
};

struct generate_vm; /* private */
struct generate_kind {
	const char *name, *what; /* NULL name ends the list */
	void (*event)(struct generate_vm *);
};
/* diurnal, bursts, steps, ramps, sawtooth, surge (all VMs at once), boot-storm */
extern const struct generate_kind generate_kinds[];

/*
 * −EINVAL with the kinds there are, or with what is wrong with a number; −E2BIG for more points or more work than a
 * trace may be; −ENOMEM. The caller frees with trace_free().
 */
int trace_generate(const struct generate_options *o, struct trace **ret, struct memoc_err *err);

#endif
