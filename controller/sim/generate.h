/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Synthetic traces: the same seed gives the same trace, on every machine. */
#ifndef MEMOC_SIM_GENERATE_H
#define MEMOC_SIM_GENERATE_H

#include "controller/sim/trace.h"

struct generate_options {
	const char *kind; /* one of generate_kinds[] */
	size_t vms;
	uint64_t size_bytes; /* of each VM */
	uint64_t duration_ms, step_ms;
	uint64_t seed;
};

struct generate_kind {
	const char *name, *what; /* NULL name ends the list */
};
/* diurnal, bursts, steps, ramps, sawtooth, surge (all VMs at once), boot-storm */
extern const struct generate_kind generate_kinds[];

/* −EINVAL names the kinds there are; −ENOMEM. The caller frees with trace_free(). */
int trace_generate(const struct generate_options *o, struct trace **ret, struct memoc_err *err);

#endif
