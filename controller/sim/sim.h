/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host in virtual time: VMs of a trace, balloons, limits, statistics and faults as policy.md describes them, around
 * the same core that memocd runs. Deterministic: the same options give the same calls with the same numbers.
 */
#ifndef MEMOC_SIM_SIM_H
#define MEMOC_SIM_SIM_H

#include "controller/core/core.h"
#include "controller/sim/trace.h"

/* Host model; defaults by sim_model_default() (policy.md, "Simulator"). */
struct sim_model {
	uint64_t balloon_take_bytes_per_s;   /* 0.95 GiB/s, per VM */
	uint64_t balloon_return_bytes_per_s; /* 2.34 GiB/s, per VM */
	uint64_t limit_reclaim_bytes_per_s;  /* 1.0 GiB/s, shared by the host */
	/*
	 * A guest touches all the memory it has, sooner or later (page cache, its allocator), at this speed, and the
	 * host has to provide it; 0: only what its demand touches. 1 MiB/s.
	 */
	uint64_t touch_bytes_per_s;
	uint64_t stats_period_ms; /* 1 s; each VM's statistics are 0 to one period old */
	/* Working sets as a host with page tracking samples them: 2401 pages each minute; 0: a host that has none. */
	uint32_t wss_pages;
	uint64_t wss_period_ms;
	uint64_t swap_bytes; /* of the host */
	/*
	 * Traces say nothing of guaranteed minimums, and the usual share of a VM's memory could not be promised at
	 * several times overcommit: so all minimums together are at most this share of the pool. 1 %.
	 */
	double minimums_share;
};
struct sim_model sim_model_default(void);
/* "key=value"; −EINVAL names the keys there are. */
int sim_model_set(struct sim_model *m, const char *text, struct memoc_err *err);

enum sim_fault {
	FAULT_STUCK = 1,
	FAULT_SLOW,
	FAULT_LYING,
	FAULT_STALE,
	FAULT_SILENT,
	FAULT_TRICKLE,
	FAULT_REBOOT,
	FAULT_NO_DRIVER,
	FAULT_HOARDING
};
#define SIM_FAULTS_MAX 16
struct sim_fault_spec {
	enum sim_fault kind;
	double share;	/* of all VMs, chosen by seed */
	uint64_t value; /* slow: bytes/s; reboot: ms */
};
/* "lying:10%,slow=1M:5%,reboot@3600:20%"; a share left out is 10 %. −EINVAL says what is wrong and what there is. */
int sim_faults_parse(const char *text, struct sim_fault_spec ret[SIM_FAULTS_MAX], size_t *ret_n, struct memoc_err *err);

struct sim_options {
	const struct trace *trace;
	const char *policy;	       /* policy_find(), or "oracle", "ideal", "ideal-headroom", "ideal-told" */
	uint64_t pool_bytes;	       /* per host; 0: by overcommit */
	double overcommit;	       /* sum of the VMs' sizes on a host / pool */
	size_t vms_per_host;	       /* 0 = all on one */
	uint64_t step_ms, duration_ms; /* duration 0 = the trace's */
	uint64_t seed;
	double buffer_share; /* of the pool; 0 = as memocd does: 5 %, then sized by the growth seen */
	struct sim_model model;
	struct sim_fault_spec faults[SIM_FAULTS_MAX];
	size_t faults_n;
	const struct core_config *config; /* NULL = defaults */
};

#define SIM_LONG_MS 6000 /* what the 99th percentile of relief is to be at most (policy.md) */

/* Figures of one policy; definitions in policy.md. */
struct sim_result {
	char policy[32];
	size_t hosts, vms;
	uint64_t steps;
	double demand_byte_s, unmet_byte_s, bound_byte_s;
	double regret;			/* (unmet − bound) / demand */
	size_t relief_n, relief_long_n; /* of those that many took longer than SIM_LONG_MS */
	double relief_p50_s, relief_p95_s, relief_p99_s, relief_max_s;
	/* the same without the time in which the demand of a host's VMs was more than its pool */
	double relief_fit_p50_s, relief_fit_p95_s, relief_fit_p99_s, relief_fit_max_s;
	double churn; /* moved / least moved; 0 where nothing had to be moved */
	double moved_bytes, least_moved_bytes;
	double churn_blind; /* the least that could be had without foresight, whatever the policy: least.h */
	uint64_t reversals;
	double buffer_share_of_pool, buffer_below_half_share;
	uint64_t floor_breaches; /* VM-steps with a size below the VM's guaranteed minimum */
	double honest_regret;	 /* of VMs without a fault */
	/*
	 * What VMs without a fault lacked of their shares: ∫ max(0, min(demand, share) − size) / ∫ share, where a VM's
	 * share is pool · size / sum of sizes. Of all of them, and of the one that lacked most.
	 */
	double share_lacked, share_lacked_most;
};

/* A VM lacked memory that its host had. Strings are good during the call. */
struct sim_episode {
	size_t host, vm;
	uint64_t begin_ms, end_ms, unmet_byte_s;
	const char *cause; /* the policy's reason of its size when that began */
	const char *cure;  /* of its last change when that ended */
};

/* Called once per step, host and VM, where set; host and vm count from 0 in the order of placement. */
struct sim_watch {
	/* once per VM before the first step, in the order of host and vm: which of the trace it is, and its host's pool
	 */
	void (*placed)(void *user, size_t host, size_t vm, const struct trace_vm *of, uint64_t pool_bytes);
	void (*vm_step)(void *user, uint64_t time_ms, size_t host, size_t vm, uint64_t demand_bytes,
			uint64_t size_bytes);
	void (*progress)(void *user, double done);		  /* 0..1, at most some hundred times */
	void (*episode)(void *user, const struct sim_episode *e); /* one that ended */
	void *user;
};

/* policy_find(), and those of the simulator; NULL: no policy of that name. */
const struct policy_ops *sim_policy_find(const char *name);

int sim_run(const struct sim_options *o, const struct sim_watch *watch, struct sim_result *ret, struct memoc_err *err);

/* Highest overcommit ratio with unmet ≤ 0.1 % of demand, by bisection to 1 %. Of watch (may be NULL) only progress is
 * called: it may end before 1. */
int sim_density(const struct sim_options *o, const struct sim_watch *watch, double *ret_overcommit,
		struct memoc_err *err);

#endif
