/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What plot.c collects and plot_draw.c draws. */
#ifndef MEMOC_SIM_PLOT_INTERNAL_H
#define MEMOC_SIM_PLOT_INTERNAL_H

#include "controller/sim/plot.h"

/*
 * Merged in pairs when full, so between half and all of them are in use: about one or two a pixel of the widest panel
 * that shows them.
 */
#define HOST_BUCKETS 2048
#define VM_BUCKETS 512

/* All samples of a span of time; n = 0: none, the one before holds on. */
struct plot_bucket {
	uint64_t demand_min, demand_max, size_min, size_max, unmet_max;
	double unmet_sum;
	uint32_t n;
};

struct plot_series {
	struct plot_bucket *buckets;
	double unmet_sum;   /* over all samples: times the step is bytes × time */
	uint64_t top_bytes; /* greatest value to be drawn */
};

struct plot_vm {
	struct plot_series series;
	char name[72];
	uint64_t size_bytes;
	size_t host;
};

struct plot_host {
	struct plot_series series;
	uint64_t pool_bytes, unmet_max_bytes;
	size_t first_vm, first_slot, n; /* its VMs are plot.vms[first_slot …] */
	/* the step that is being seen: hosts may be played one after the other, so each has a time of its own */
	bool begun;
	uint64_t time_ms;
	uint64_t demand, size, unmet; /* sums */
	size_t vm_bucket;	      /* that time_ms falls in */
};

struct plot {
	struct plot_host *hosts;
	size_t n_hosts, hosts_room;
	struct plot_vm *vms;
	size_t n_vms, vms_room;
	uint64_t end_ms, step_ms;	     /* the last step seen; distance of two steps */
	uint64_t host_width_ms, vm_width_ms; /* of a bucket */
	int error;
};

/* Merges; adding an empty one changes nothing. */
void plot_bucket_add(struct plot_bucket *b, const struct plot_bucket *more);
/* Adds the steps that are still being summed up; after it plot_step may not be called. */
void plot_end(struct plot *p);

#endif
