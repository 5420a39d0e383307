/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A picture of one run of the simulator: per host the sums of demand and size under its pool and what was not met, and
 * the same of the VMs that missed most. It is collected while the run goes on, in bounded memory: points are merged to
 * the least and greatest of what one pixel shows, so a week of seconds is some hundred kilobytes of SVG and no peak is
 * lost.
 */
#ifndef MEMOC_SIM_PLOT_H
#define MEMOC_SIM_PLOT_H

#include "common/util.h"

#include <stdio.h>

#define PLOT_HOST_PANELS 12   /* the hosts with most unmet, where there are more */
#define PLOT_VM_PANELS 6      /* likewise */
#define PLOT_VMS_WATCHED 5000 /* VMs after these get no panel: bounds the memory to about 100 MiB */

struct plot;

struct plot *plot_new(void); /* NULL without memory */
/* Announces a VM before its first step, VMs of a host one after the other and their numbers ascending by one. */
void plot_placed(struct plot *p, size_t host, size_t vm, const char *name, uint64_t size_bytes, uint64_t pool_bytes);
/* One VM in one step; times never descend. Unknown hosts and VMs are left out. */
void plot_step(struct plot *p, uint64_t time_ms, size_t host, size_t vm, uint64_t demand_bytes, uint64_t size_bytes);
/*
 * The whole SVG; title and figures are one line of text each, of any characters. 0; −ENOMEM where memory was short at
 * any time; −errno of writing; −ENODATA where nothing was announced or no step seen.
 */
int plot_write(struct plot *p, const char *title, const char *figures, FILE *out);
struct plot *plot_free(struct plot *p); /* always NULL */

#endif
