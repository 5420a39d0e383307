/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rest: work only where something changes. Nearly always nearly all VMs are steady, and looking at them shows what the
 * last look showed. When the work of a tick on a VM changed nothing of it but the times of looking and its estimates,
 * and nothing else in it waits for the clock, that VM is at rest: ticks pass it by until something else happens. Its
 * estimates are made anew only while they change with time, because falling demand is believed slowly.
 *
 * What a tick does to a VM follows from the VM, the configuration, a few facts of the host and the time. That it
 * changed nothing is not reasoned but seen: the VM after it is the VM before it, byte by byte. What follows from the
 * time is reasoned: each rule that a tick applies and that compares the time with one of the VM's is listed in
 * vm_rest_until_ms(), or forbids rest there. A new rule of that kind needs its line; test_core_rest is there to find it
 * if it is forgotten.
 *
 * Every event of a VM ends its rest, but for statistics and samples that say the same as the last ones did: these are
 * only noted. A change of configuration, of what the host allows (limits), or of `memoc hold` ends the rest of all.
 *
 * A VM at rest has the same bytes at any time as if there were no rest: times of looking and the decay of its growth
 * are kept up, nothing is put off. So recordings, `memoc explain` and the state file do not know of it.
 *
 * Planning likewise: a round prepares only the VMs that changed since the last one, and ends there where none of them
 * all wants anything and the policy is at ease (policy.h).
 */
#ifndef MEMOC_CORE_REST_H
#define MEMOC_CORE_REST_H

#include "controller/core/policy.h"

/*
 * If the work of a tick that is over (or that begins) finds nothing to change in this VM: until when that stays so, as
 * long as its statistics are fresh (vm_stats_fresh()). 0: it may change at any time.
 */
uint64_t vm_rest_until_ms(const struct vm *vm, const struct vm_ctx *x);
/* May its demand have fallen by a byte since the last look? vm_estimate() says how far. */
bool vm_falls(const struct vm *vm, uint64_t now_ms);
/* Would taking this change nothing but times in a VM at rest? */
bool vm_same_stats(const struct vm *vm, const struct guest_stats *s, uint64_t now_ms);
bool vm_same_sample(const struct vm *vm, const struct vm_host_sample *s, uint64_t now_ms);
/* What vm_take_stats() and vm_take_sample() would do with such a look, and no more. */
void vm_note_stats(struct vm *vm, const struct guest_stats *s, uint64_t now_ms);
void vm_note_sample(struct vm *vm, const struct vm_host_sample *s, uint64_t now_ms);

#endif
