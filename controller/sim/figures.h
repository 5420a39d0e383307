/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The figures of policy.md, gathered step by step over all hosts. */
#ifndef MEMOC_SIM_FIGURES_H
#define MEMOC_SIM_FIGURES_H

#include "controller/sim/sim.h"

struct host;

/* Of one VM, between steps. */
struct guest_figures {
	uint64_t size_bytes;	 /* when last measured */
	uint64_t up_ms, down_ms; /* last growth and shrink; NEVER_MS = none */
	uint64_t begin_ms;	 /* of the open episode; NEVER_MS = none */
	uint64_t crowded_ms;	 /* in it, with more demand on the host than pool */
	double unmet_byte_s;	 /* in it */
	double lacked_byte_s;	 /* of its share, ever */
	bool below_min;
	char *before; /* why it had the size with which that began; NULL: nobody asked, or no memory */
};

struct figures {
	double demand_byte_s, unmet_byte_s, bound_byte_s, honest_demand_byte_s, honest_unmet_byte_s;
	double moved_bytes, least_moved_bytes, least_blind_moved_bytes;
	uint64_t reversals, floor_breaches, host_steps, buffer_low_steps;
	double share_byte_s, lacked_byte_s, lacked_most; /* sim_result.share_lacked */
	uint64_t *relief_ms, *relief_fit_ms;
	size_t relief_n, relief_capacity;
	double buffer_bytes, pool_bytes; /* sums over hosts */
};

void figures_clear(struct figures *f);
/* Nothing has been measured of that VM yet: what it has now is where it begins. */
void figures_begin(struct guest_figures *g, uint64_t size_bytes);
/* A step that begins now, of one host: all demand and sizes are as they are for its whole length. −ENOMEM. */
int figures_measure(struct host *h);
/* The host's last step is over: episodes that are still open count as they are. −ENOMEM. */
int figures_end(struct host *h);
/* Everything but what the caller knows: policy, hosts, vms, steps. */
void figures_result(struct figures *f, struct sim_result *ret);

#endif
