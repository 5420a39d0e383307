/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The decision engine: events in, effects out, nothing else. One core is used by one thread; everything it decides
 * follows from the events it was given, in their order. It allocates only when a VM is added.
 */
#ifndef MEMOC_CORE_CORE_H
#define MEMOC_CORE_CORE_H

#include "controller/core/vm.h"

/* The host's books in bytes, brought up to date in every step that changes them: a VM that changed is counted anew. */
struct books {
	uint64_t pool_bytes;
	uint64_t buffer_target_bytes;
	uint64_t committed_max_bytes; /* sum of the VMs' maxima */
	uint64_t granted_bytes;	      /* sum of what VMs can use, overhead included */
	int64_t buffer_bytes;	      /* pool − granted; negative while over-granted */
	uint64_t resident_bytes, swapped_bytes;
	uint64_t unmet_bytes; /* wanted by needy VMs and not had in the last round */
	enum host_level level;
	bool swap_low;
	size_t vms;
};

struct core;
int core_new(const struct core_config *config, struct core **ret);
struct core *core_free(struct core *c);

/*
 * With false every step looks at all VMs anew, as if nothing were known of who is at rest (rest.h). What a core decides
 * is the same either way, and so is all that can be read of it: for tests and for finding out.
 */
void core_set_rest(struct core *c, bool rest);
/* How many VMs are at rest now: a tick at this time would pass them by. */
size_t core_resting(const struct core *c);

/*
 * One event. `out` is emptied first and must have room for core_effects_max(). Returns 0; −ENOENT: no such VM
 * (harmless: late events are normal); −EEXIST: VM added twice; −EINVAL; −ENOMEM. Errors change nothing.
 */
int core_step(struct core *c, const struct event *ev, struct effects *out);
/* Enough for any one event with one more VM than there is now. */
size_t core_effects_max(const struct core *c);
/* When EVENT_TIMER is due; NEVER_MS = not at all. */
uint64_t core_next_wakeup_ms(const struct core *c);
/* How long after the last read the VM's guest statistics are worth reading again; NEVER_MS: not in this state. */
uint64_t core_poll_ms(const struct core *c, const struct vm *vm);

/* Is it worth looking at the VM's residency more often than once a tick? Where it can grow into memory that it has. */
bool core_watch_residency(const struct core *c, const struct vm *vm);

const struct books *core_books(const struct core *c);
const struct core_config *core_config(const struct core *c);
const struct host_sample *core_host(const struct core *c);
bool core_hold_all(const struct core *c);
size_t core_vm_count(const struct core *c);
const struct vm *core_vm_at(const struct core *c, size_t i); /* order of adding */
const struct vm *core_vm(const struct core *c, vm_id id);    /* NULL: no such VM */

/*
 * A core as data, for recording and replaying: this and its VMs (core_vm_at) are all that its decisions follow from;
 * what else a core keeps is made from them. The fields are listed in controller/record/layout.c, too; policy_data is
 * not recorded.
 */
struct core_image {
	struct core_config config;
	struct host_sample host;
	struct books books;
	bool hold_all;
	uint64_t now_ms;
	struct policy_host policy_memory;
	uint64_t given_bytes;
	double given_peak_per_s;
};
void core_image_get(const struct core *c, struct core_image *ret);
/* The core that an image and its n VMs, in order of adding, were taken from; copies them. −EINVAL, −ENOMEM. */
int core_from_image(const struct core_image *image, const struct vm *vms, size_t n, struct core **ret);

/*
 * Would the guaranteed minimum of one more VM fit beside all others? *ret_missing_bytes is 0 where it does.
 * max_bytes, min_bytes (0 = default share) and overhead of the new one. except: its own id where it is known already,
 * or 0.
 */
void core_admit(const struct core *c, vm_id except, uint64_t max_bytes, uint64_t min_bytes, uint64_t overhead_bytes,
		uint64_t *ret_missing_bytes);

/*
 * What EVENT_VM_TRIM would take from a VM now, in bytes; 0, and why not, where nothing. No such VM: 0 and no reason.
 * ret_why may be NULL.
 */
uint64_t core_spare_bytes(const struct core *c, vm_id vm, const char **ret_why);

/* Why nothing of its memory may be taken just to learn whether it is wanted back (wss: refault); NULL where it may. */
const char *core_probe_forbidden_why(const struct core *c, const struct vm *vm);

/* `memoc explain`: the terms of the formula as they stand, each with a sentence. */
struct explain_term {
	char name[32];
	bool has_bytes;
	uint64_t bytes;
	char text[160];
};
#define EXPLAIN_TERMS_MAX 24
size_t core_explain(const struct core *c, const struct vm *vm, uint64_t now_ms,
		    struct explain_term ret[EXPLAIN_TERMS_MAX]);
/* The bounds that apply and what comes next, as sentences; returns how many lines were written. */
#define EXPLAIN_LINES_MAX 12
size_t core_explain_lines(const struct core *c, const struct vm *vm, uint64_t now_ms, char ret[EXPLAIN_LINES_MAX][160]);

#endif
