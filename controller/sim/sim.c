/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A simulation: VMs placed on hosts by seed, one host after another, and the figures of all. */
#include "controller/sim/foresight.h"
#include "controller/sim/faults.h"
#include "controller/sim/host.h"
#include "controller/sim/random.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PHASE_MAX_MS 300000 /* policy.md: clocks are shifted by up to 300 s */
#define STEP_MAX_MS 3600000
#define OVERCOMMIT_MAX 1e6
#define PROGRESS_CALLS 200

const struct policy_ops *sim_policy_find(const char *name)
{
	const struct policy_ops *p = policy_find(name);
	for (size_t i = 0; !p && foresight_policies[i]; i++)
		if (strcmp(foresight_policies[i]->name, name) == 0)
			p = foresight_policies[i];
	return p;
}

/* ---- options ---- */

static int unknown_policy(const char *name, struct memoc_err *err)
{
	char names[200] = "";
	for (size_t i = 0; policy_list[i]; i++)
		snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s, ", policy_list[i]->name);
	for (size_t i = 0; foresight_policies[i]; i++)
		snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i ? ", " : "",
			 foresight_policies[i]->name);
	return memoc_err_set(err, -EINVAL, "no policy is called '%.40s': give one of %s", name, names);
}

static int check_trace(const struct trace *t, struct memoc_err *err)
{
	if (!t || !t->n)
		return memoc_err_set(err, -EINVAL, "the trace is empty: give one with at least one VM");
	for (size_t i = 0; i < t->n; i++)
		if (!t->vms[i].size_bytes || t->vms[i].size_bytes > TRACE_BYTES_MAX)
			return memoc_err_set(err, -EINVAL, "VM %.64s of the trace has no size, or one over 64 TiB",
					     t->vms[i].name);
	return 0;
}

static int check_faults(const struct sim_options *o, struct memoc_err *err)
{
	double sum = 0;
	bool good = o->faults_n <= SIM_FAULTS_MAX;
	for (size_t i = 0; good && i < o->faults_n; i++) {
		const struct sim_fault_spec *s = &o->faults[i];
		sum += s->share;
		good = s->kind >= FAULT_STUCK && s->kind <= FAULT_HOARDING && s->share >= 0 && s->share <= 1 &&
		       (s->kind != FAULT_SLOW || s->value);
	}
	if (!good || sum > 1 + 1e-9)
		return memoc_err_set(err, -EINVAL,
				     "faults: an unknown kind, a share outside 0 to 1, or more than all VMs together");
	return 0;
}

static int check_numbers(const struct sim_options *o, struct memoc_err *err)
{
	const struct sim_model *m = &o->model;
	if (!o->step_ms || o->step_ms > STEP_MAX_MS)
		return memoc_err_set(err, -EINVAL, "a step of %llu ms is not good: give 1ms to 1h",
				     (unsigned long long)o->step_ms);
	if (!o->pool_bytes && !(o->overcommit > 0 && o->overcommit <= OVERCOMMIT_MAX))
		return memoc_err_set(err, -EINVAL,
				     "neither a pool nor a ratio of overcommit above 0 is given: give one of them");
	if (o->pool_bytes > INT64_MAX / 2)
		return memoc_err_set(err, -EINVAL, "the pool is larger than any host's: give less");
	if (o->duration_ms > TRACE_TIME_MAX_MS)
		return memoc_err_set(err, -EINVAL, "the duration is more than 100 years: give less");
	if (!(o->buffer_share >= 0 && o->buffer_share <= 0.5))
		return memoc_err_set(err, -EINVAL, "the buffer is no share of the pool from 0 to 0.5");
	if (!m->balloon_take_bytes_per_s || !m->balloon_return_bytes_per_s || !m->limit_reclaim_bytes_per_s ||
	    m->stats_period_ms < 100 || m->stats_period_ms > STEP_MAX_MS)
		return memoc_err_set(err, -EINVAL, "the model has a speed of 0, or statistics not each 100ms to 1h");
	if (!(m->minimums_share >= 0 && m->minimums_share <= 1))
		return memoc_err_set(err, -EINVAL, "the minimums are no share of the pool from 0 to 1");
	return 0;
}

static int check(const struct sim_options *o, struct memoc_err *err)
{
	int r = check_trace(o->trace, err);
	if (r == 0)
		r = check_numbers(o, err);
	return r == 0 ? check_faults(o, err) : r;
}

/* ---- placement ---- */

struct placement {
	size_t hosts, per_host;
	size_t *of;	    /* which VM of the trace, in the order of hosts and places */
	uint64_t *phase_ms; /* of the same */
	const struct sim_fault_spec **faults;
};

static void placement_clear(struct placement *p)
{
	free(p->of);
	free(p->phase_ms);
	free(p->faults);
}

/* A last host that would not be full is left out: it would be another experiment. Where there is but one, it stays. */
static int place(const struct sim_options *o, struct placement *p)
{
	size_t n = o->trace->n;
	struct sim_random order = {.state = o->seed}, phase = {.state = o->seed ^ UINT64_C(0x636c6f636b)};
	p->per_host = o->vms_per_host && o->vms_per_host < n ? o->vms_per_host : n;
	p->hosts = n / p->per_host;
	p->of = calloc(n, sizeof(*p->of));
	p->phase_ms = calloc(n, sizeof(*p->phase_ms));
	p->faults = calloc(n, sizeof(*p->faults));
	if (!p->of || !p->phase_ms || !p->faults)
		return -ENOMEM;
	random_shuffle(&order, p->of, n);
	for (size_t i = 0; i < n; i++)
		p->phase_ms[i] = random_below(&phase, PHASE_MAX_MS);
	return sim_faults_assign(o->faults, o->faults_n, p->hosts * p->per_host, o->seed, p->faults);
}

/* ---- running ---- */

static int run_host(const struct sim_options *o, const struct sim_watch *w, const struct placement *p, size_t index,
		    const struct core_config *config, uint64_t steps, struct figures *figures)
{
	struct host *h = NULL;
	size_t first = index * p->per_host;
	const struct host_plan plan = {.index = index,
				       .n = p->per_host,
				       .of = p->of + first,
				       .phase_ms = p->phase_ms + first,
				       .faults = p->faults + first,
				       .duration_ms = steps * o->step_ms};
	uint64_t every = steps * p->hosts / PROGRESS_CALLS + 1;
	int r = host_open(o, w, &plan, config, figures, &h);
	for (uint64_t s = 0; r == 0 && s < steps; s++) {
		r = host_step(h);
		if (w && w->progress && s % every == 0)
			w->progress(w->user, ((double)index + (double)s / (double)steps) / (double)p->hosts);
	}
	if (r == 0)
		r = figures_end(h);
	host_close(h);
	return r;
}

static int run(const struct sim_options *o, const struct sim_watch *w, const struct policy_ops *policy,
	       struct placement *p, struct figures *figures, struct sim_result *ret)
{
	struct core_config config = o->config ? *o->config : core_config_default();
	uint64_t duration_ms = o->duration_ms ? o->duration_ms : o->trace->duration_ms;
	struct sim_result result = {.steps = max_u64(1, duration_ms / o->step_ms)};
	config.policy = policy;
	int r = place(o, p);
	for (size_t i = 0; r == 0 && i < p->hosts; i++)
		r = run_host(o, w, p, i, &config, result.steps, figures);
	if (r < 0)
		return r;
	if (w && w->progress)
		w->progress(w->user, 1);
	snprintf(result.policy, sizeof(result.policy), "%s", policy->name);
	result.hosts = p->hosts;
	result.vms = p->hosts * p->per_host;
	figures_result(figures, &result);
	*ret = result;
	return 0;
}

int sim_run(const struct sim_options *o, const struct sim_watch *watch, struct sim_result *ret, struct memoc_err *err)
{
	const struct policy_ops *policy = o->policy ? sim_policy_find(o->policy) : NULL;
	struct placement placement = {0};
	struct figures figures = {0};
	if (!policy)
		return unknown_policy(o->policy ? o->policy : "", err);
	int r = check(o, err);
	if (r < 0)
		return r;
	r = run(o, watch, policy, &placement, &figures, ret);
	figures_clear(&figures);
	placement_clear(&placement);
	if (r == -ENOMEM)
		return memoc_err_set(err, r, "not enough memory for a simulation of %zu VMs", o->trace->n);
	return r < 0 ? memoc_err_set(err, r, "the core refused an event (error %d): report this", -r) : 0;
}
