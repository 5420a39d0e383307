/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The least bytes that meeting demand would move: what somebody would move who knows the future, sees every change at
 * once and moves memory in no time. A VM's memory is thought of as layers; the layer at height b is wanted whenever its
 * demand is b or more. Memory is given only when it is wanted, and, when the pool is full, taken from the layer that is
 * wanted again last (Belady 1966: no other choice fetches less).
 *
 * The same without foresight: when the pool is full, memory is taken from the layer that was not wanted for longest, by
 * who knows demand itself at once and leaves nobody any headroom. What that rule costs; another one may do better on a
 * given trace.
 */
#ifndef MEMOC_SIM_LEAST_H
#define MEMOC_SIM_LEAST_H

#include "controller/sim/script.h"

struct least {
	size_t n;
	const struct script *scripts;
	const size_t *at;     /* each VM's point in its script now */
	uint64_t *size_bytes; /* what each has in this thought */
	bool blind;	      /* without foresight */
	uint64_t *worth_ms;   /* of a VM's top layer, the more the sooner it goes: when it is wanted again; blind: how
				 long it was not */
	bool *known;	      /* worth_ms is right */
	uint64_t free_bytes;
	bool lacking;	    /* the pool did not do for all */
	double moved_bytes; /* given and taken */
};

/* All begin at begin_bytes[]; what is left of the pool is free. −ENOMEM. */
int least_open(struct least *l, bool blind, size_t n, const struct script *scripts, const size_t *at,
	       const uint64_t *begin_bytes, uint64_t pool_bytes);
void least_close(struct least *l);
/* Demand of these VMs has changed: it is met as far as the pool allows. Called with all changes of a step at once. */
void least_meet(struct least *l, const size_t *changed, size_t changed_n);

#endif
