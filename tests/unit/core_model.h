/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A host and its guests in virtual time, just true enough to close the loop around the core: a guest uses `demand`;
 * what its balloon takes away it swaps, what its limit takes away the host swaps and QEMU faults. Not the simulator: no
 * figures come from here.
 */
#ifndef MEMOC_TESTS_CORE_MODEL_H
#define MEMOC_TESTS_CORE_MODEL_H

#include "tests/unit/core_kit.h"

enum model_driver { DRIVER_OK = 1, DRIVER_STUCK, DRIVER_TRICKLE, DRIVER_NONE };

struct model_vm {
	char name[24];
	vm_id id;
	bool gone, paused, silent;
	bool lying, begging; /* says that it has more than it has; that it swaps and has nothing left */
	bool measured;	     /* its working set is, once a minute */
	struct vm_facts facts;
	enum model_driver driver;
	uint64_t speed_bytes_per_s;
	uint64_t max_bytes, actual_bytes, asked_bytes;
	uint64_t demand_bytes, noise_bytes;
	uint64_t cold_bytes;	     /* of its demand: used and not touched */
	bool lacking;		     /* with such memory, and its balloon has taken it: told in the trace */
	bool deflates;		     /* its total stays whatever its balloon holds (deflate-on-oom) */
	uint64_t touched_bytes;	     /* guest pages that exist: resident or swapped by the host */
	uint64_t host_swapped_bytes; /* of those; they come home only when they are used */
	uint64_t limit_bytes, overhead_bytes;
	uint64_t swap_in_bytes, swap_out_bytes, faults, update_s;
	struct guest_stats snapshot;
	bool limit_fails;
};

#define MODEL_VMS 64
#define MODEL_STEP_MS 100

struct model_line {
	uint64_t at_ms;
	char vm[24]; /* "-": the host */
	char text[96];
};

struct model {
	struct kit kit;
	struct model_vm vms[MODEL_VMS];
	size_t n;
	uint64_t start_ms, now_ms; /* now: of the scenario, from 0 */
	bool manual;		   /* nothing happens by itself */
	bool silent_results;	   /* effects are never answered */
	bool available_set;
	uint64_t swap_total_bytes, base_bytes;
	uint64_t seed;
	struct model_line *trace;
	size_t lines, room;
	char broken[160]; /* first invariant that did not hold */
};

void model_open(struct model *m, const struct core_config *config);
void model_close(struct model *m);
struct model_vm *model_find(struct model *m, const char *name);
struct model_vm *model_add(struct model *m, const char *name, enum vm_origin origin, uint64_t carried_bytes,
			   const struct vm_facts *facts, const struct vm_memory *memory);
const struct vm *model_core_vm(const struct model *m, const struct model_vm *v);
/* One event for the core; what it does is traced and, but in manual mode, carried out and answered. */
int model_event(struct model *m, struct event *ev);
void model_run_to(struct model *m, uint64_t at_ms);
uint64_t model_resident_bytes(const struct model_vm *v); /* of the guest */

#endif
