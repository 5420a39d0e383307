/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which VM has which fault. */
#ifndef MEMOC_SIM_FAULTS_H
#define MEMOC_SIM_FAULTS_H

#include "controller/sim/sim.h"

/* "stuck", "no-driver" …; "?" for an unknown value. */
const char *sim_fault_name(enum sim_fault f);
/*
 * Chooses by seed: ret[i] is the specification that holds for VM i of n, or NULL. A VM has one fault at most; each
 * specification gets its share of all VMs, rounded to whole ones. −ENOMEM.
 */
int sim_faults_assign(const struct sim_fault_spec *specs, size_t specs_n, size_t n, uint64_t seed,
		      const struct sim_fault_spec **ret);

#endif
