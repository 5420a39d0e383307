/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What one placed VM will want and when: its trace, shifted by its phase and laid on the grid of steps. */
#ifndef MEMOC_SIM_SCRIPT_H
#define MEMOC_SIM_SCRIPT_H

#include "controller/sim/trace.h"

#define SCRIPT_NEVER_MS UINT64_MAX

struct script {
	uint64_t *at_ms;	/* ascending; [0] is 0, [n] is SCRIPT_NEVER_MS */
	uint64_t *demand_bytes; /* from at_ms[i] on; neighbours differ */
	uint32_t *next_higher;	/* first later point that wants more than this; n = none */
	uint32_t *last_higher;	/* last earlier one that did; n = none */
	size_t n;
};

/*
 * A point counts from the first step at or after its shifted time. A VM that is there from the trace's begin wants what
 * its first point says until its second; one that comes later wants nothing before. No VM wants more than its size.
 * −ENOMEM. The caller frees with script_clear().
 */
int script_make(const struct trace_vm *v, uint64_t phase_ms, uint64_t step_ms, uint64_t duration_ms,
		struct script *ret);
void script_clear(struct script *s);

/* First time from point `from` on that the VM wants `bytes` or more; SCRIPT_NEVER_MS = never again. */
uint64_t script_reaches_ms(const struct script *s, size_t from, uint64_t bytes);
/* The most it wants between point `from` and end_ms, that excluded. */
uint64_t script_most_bytes(const struct script *s, size_t from, uint64_t end_ms);

#endif
