/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One host of a simulation, private to this room: guests with their balloons, limits and residency, the core that sizes
 * them, and the clock that both live by. Times are milliseconds from the simulation's begin.
 */
#ifndef MEMOC_SIM_HOST_H
#define MEMOC_SIM_HOST_H

#include "controller/sim/figures.h"
#include "controller/sim/least.h"
#include "controller/sim/random.h"
#include "controller/sim/sim.h"

#define CORE_BEGIN_MS 3600000 /* the core's clock when a simulation begins: no time in it is 0 by chance */

/* A guest as it is; what it says of itself is another matter (tell.c). */
struct guest {
	const struct sim_fault_spec *fault; /* NULL: none */
	uint64_t max_bytes, min_bytes;
	uint64_t share_bytes; /* of the pool, by its size */
	uint64_t demand_bytes;
	uint64_t actual_bytes, asked_bytes; /* what its balloon leaves it, what it is to leave it */
	uint64_t limit_bytes;
	uint64_t touched_bytes;			       /* pages that exist: resident or swapped by the host */
	uint64_t resident_bytes;		       /* of those, present */
	uint64_t cut_bytes;			       /* wanted now, but the host has no page for it */
	uint64_t size_bytes;			       /* what it can use without swapping */
	uint64_t unmet_bytes;			       /* demand − size where that is positive */
	uint64_t take_bytes_per_s, return_bytes_per_s; /* of its balloon */
	uint64_t move_ms;			       /* up to when its balloon's way is walked */
	uint64_t told_ms;			       /* last BALLOON_CHANGE */
	uint64_t boot_end_ms;			       /* while booting nothing of it moves or speaks */
	uint64_t said_actual_bytes;		       /* what QEMU says meanwhile */
	uint64_t swap_bytes, swap_shown_bytes; /* moved in, and as much out; of it told in the next statistics */
	uint64_t fault_bytes;		       /* brought home by major faults of QEMU */
	uint64_t updates;		       /* statistics so far */
	uint64_t told_bytes;		       /* its demand, as exactly as statistics could tell it by now */
	uint64_t lacking_bytes; /* demand above its size at its last statistics, which the next can tell; 0: none */
	bool moving, booting, rebooted, over_limit, touching, size_changed, stats_changed, sample_changed, polled;
	struct guest_figures figures;
};

struct poll { /* a look at a balloon that moves */
	uint64_t at_ms;
	size_t vm;
};

struct turn {
	uint64_t phase_ms; /* within the period */
	size_t vm;
};

struct host {
	const struct sim_options *options;
	const struct sim_watch *watch;
	struct figures *figures;
	size_t index, n;
	uint64_t pool_bytes, reserve_bytes, buffer_bytes;
	struct core *core;
	struct effects out;
	int error; /* of the core, or memory: the simulation ends */

	struct guest *guests;
	struct script *scripts;
	size_t *at;			 /* point of each script */
	uint64_t *next_ms;		 /* when each script goes on */
	struct event *stats, *samples;	 /* last told, per VM */
	struct least least, least_blind; /* with and without foresight */

	/* sums over guests */
	uint64_t demand_sum, unmet_sum, honest_demand_sum, honest_unmet_sum, resident_sum, swapped_sum;
	size_t moving_n, over_limit_n, touching_n, cut_n, open_n, below_min_n, rebooting_n;
	size_t *changed, changed_n; /* demand changed in this step */
	size_t *resized, resized_n; /* size changed since it was last measured */

	/* the clock */
	uint64_t now_ms;
	uint64_t tick_ms, wake_ms;
	bool measured;	    /* this tick tells what QEMU itself takes */
	struct turn *turns; /* VMs by the phase of their statistics */
	size_t turn;
	uint64_t turn_base_ms;
	size_t wss_turn; /* VMs are sampled one after the other, all in a period */
	uint64_t wss_base_ms;
	struct sim_random wss_random;
	struct poll *polls; /* a heap, one for each VM at most */
	size_t polls_n;
	struct event *answers; /* results on their way to the core */
	size_t answers_n, answers_capacity;
};

/* n guests of the options' trace: which (of[]), how late their clocks are, what is wrong with them. */
struct host_plan {
	size_t index, n;
	const size_t *of;
	const uint64_t *phase_ms;
	const struct sim_fault_spec *const *faults;
	uint64_t duration_ms;
};
/* ---- host_open.c ---- */
/* −ENOMEM and what the core says. Options, watch and figures are kept, not owned; plan and config are not. */
int host_open(const struct sim_options *o, const struct sim_watch *w, const struct host_plan *plan,
	      const struct core_config *config, struct figures *figures, struct host **ret);
struct host *host_close(struct host *h); /* always NULL */

/* ---- host.c ---- */
/* One step from h->now_ms on. 0 or −errno. */
int host_step(struct host *h);
/* One event for the core, now; what it wants done is done and answered. */
void host_post(struct host *h, struct event *ev);

/* ---- guest.c: memory ---- */
/* After a change of demand, balloon or limit: size, residency and the sums follow. */
void guest_refresh(struct host *h, struct guest *g);
/* Its balloon is where it is now. */
void guest_settle(struct host *h, struct guest *g);
void guest_ask(struct host *h, struct guest *g, uint64_t bytes);
void guest_limit(struct host *h, struct guest *g, uint64_t bytes);
void guest_reboot(struct host *h, struct guest *g);
void guest_booted(struct host *h, struct guest *g);
/* A step of the host: guests touch memory, limits reclaim, and where VMs use more than there is some is swapped. */
void host_reclaim(struct host *h);
/* A step's swapping of guests that lack memory. */
void guest_suffer(struct host *h, struct guest *g);

/* ---- tell.c: what is said of it ---- */
/* New statistics, as the guest makes them each period; then h->stats[i] is to be posted. */
void tell_snapshot(struct host *h, size_t i);
/* The same statistics looked at again: only the balloon is read anew. */
void tell_balloon(struct host *h, size_t i);
void tell_sample(struct host *h, size_t i);
/* A sample of its working set, with the error that so many pages have. False: it is not in a state to be sampled. */
bool tell_wss(struct host *h, size_t i, struct wss_reading *ret);
struct host_sample tell_host(const struct host *h);

#endif
