/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The simulator: figures recomputed from what a watcher of each step sees, the least moved bytes against a search of
 * all ways, every fault by what it does to a guest, and options that are refused.
 */
#include "controller/core/policy.h"
#include "controller/sim/faults.h"
#include "controller/sim/generate.h"
#include "controller/sim/host.h"
#include "controller/sim/random.h"
#include "tests/unit/alloc_fail.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- traces made by hand ---- */

struct point {
	uint64_t s, mib;
};

static struct trace *trace_of(size_t vms, const uint64_t *size_mib, const struct point *const *points)
{
	struct trace *t = calloc(1, sizeof(*t));
	assert_non_null(t);
	for (size_t i = 0; i < vms; i++) {
		char name[16];
		size_t at;
		snprintf(name, sizeof(name), "v%zu", i);
		assert_int_equal(trace_add_vm(t, name, size_mib[i] * MIB, &at), 0);
		for (const struct point *p = points[i]; p->mib; p++)
			assert_int_equal(trace_add(t, at, p->s * 1000, p->mib * MIB), 0);
	}
	return t;
}

static struct sim_options options_of(const struct trace *t, const char *policy)
{
	return (struct sim_options){.trace = t,
				    .policy = policy,
				    .overcommit = 2,
				    .step_ms = 1000,
				    .duration_ms = 120000,
				    .seed = 7,
				    .model = sim_model_default()};
}

/* ---- figures, recomputed ---- */

#define STEPS_MAX 2000
#define VMS_MAX 16

struct seen {
	size_t vms, steps;
	uint64_t pool, max[VMS_MAX];
	uint64_t demand[STEPS_MAX][VMS_MAX], size[STEPS_MAX][VMS_MAX];
	char names[VMS_MAX][TRACE_NAME_MAX];
	size_t episodes;
	uint64_t episode_ms, episode_unmet;
	double progress;
	size_t progress_calls;
};

static void on_placed(void *user, size_t host, size_t vm, const struct trace_vm *of, uint64_t pool_bytes)
{
	struct seen *s = user;
	s->pool = pool_bytes;
	s->max[vm] = of->size_bytes;
	s->vms = vm + 1;
	snprintf(s->names[vm], sizeof(s->names[vm]), "%s", of->name);
}

static void on_step(void *user, uint64_t time_ms, size_t host, size_t vm, uint64_t demand_bytes, uint64_t size_bytes)
{
	struct seen *s = user;
	size_t step = (size_t)(time_ms / 1000);
	assert_true(step < STEPS_MAX && vm < VMS_MAX);
	s->steps = step + 1;
	s->demand[step][vm] = demand_bytes;
	s->size[step][vm] = size_bytes;
}

static void on_episode(void *user, const struct sim_episode *e)
{
	struct seen *s = user;
	assert_true(e->cause[0]);
	assert_non_null(e->cure);
	assert_true(e->begin_ms <= e->end_ms);
	s->episodes++;
	s->episode_ms += e->end_ms - e->begin_ms;
	s->episode_unmet += e->unmet_byte_s;
}

static void on_progress(void *user, double done)
{
	struct seen *s = user;
	assert_true(done >= s->progress && done <= 1);
	s->progress = done;
	s->progress_calls++;
}

static struct sim_watch watch_of(struct seen *s)
{
	memset(s, 0, sizeof(*s));
	return (struct sim_watch){
		.placed = on_placed, .vm_step = on_step, .episode = on_episode, .progress = on_progress, .user = s};
}

static uint64_t demand_at(const struct seen *s, size_t t)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < s->vms; i++)
		sum += s->demand[t][i];
	return sum;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static void check_relief(const struct seen *s, const struct sim_result *r)
{
	double list[STEPS_MAX];
	size_t n = 0;
	for (size_t i = 0; i < s->vms; i++) {
		size_t begin = STEPS_MAX;
		for (size_t t = 0; t < s->steps; t++) {
			bool lacks = s->demand[t][i] > s->size[t][i];
			if (begin == STEPS_MAX && lacks && demand_at(s, t) <= s->pool)
				begin = t;
			else if (begin != STEPS_MAX && !lacks)
				list[n++] = (double)(t - begin), begin = STEPS_MAX;
		}
		if (begin != STEPS_MAX)
			list[n++] = (double)(s->steps - begin);
	}
	assert_int_equal(r->relief_n, n);
	assert_int_equal(s->episodes, n);
	if (!n)
		return;
	qsort(list, n, sizeof(list[0]), by_value);
	assert_true(r->relief_p50_s == list[(n + 1) / 2 - 1]);
	assert_true(r->relief_p95_s == list[(95 * n + 99) / 100 - 1]);
	assert_true(r->relief_p99_s == list[(99 * n + 99) / 100 - 1]);
	assert_true(r->relief_max_s == list[n - 1]);
	size_t longer = 0;
	for (size_t i = 0; i < n; i++)
		longer += list[i] > 6;
	assert_int_equal(r->relief_long_n, longer);
	assert_true(r->relief_fit_max_s <= r->relief_max_s);
}

static uint64_t check_movement(const struct seen *s, const struct sim_result *r)
{
	uint64_t reversals = 0;
	double moved = 0;
	for (size_t i = 0; i < s->vms; i++) {
		size_t last = 0;
		int before = 0;
		for (size_t t = 1; t < s->steps; t++) {
			double d = (double)s->size[t][i] - (double)s->size[t - 1][i];
			int way = d > 0 ? 1 : d < 0 ? -1 : 0;
			moved += fabs(d);
			if (way && before == -way && t - last <= 60)
				reversals++;
			if (way)
				before = way, last = t;
		}
	}
	assert_true(fabs(moved - r->moved_bytes) < 1);
	assert_int_equal(reversals, r->reversals);
	return reversals;
}

/* On one host, without faults. */
static void check_shares(const struct seen *s, const struct sim_result *r)
{
	double sizes = 0, lacked = 0, most = 0;
	for (size_t i = 0; i < s->vms; i++)
		sizes += (double)s->max[i];
	for (size_t i = 0; i < s->vms; i++) {
		double share = (double)s->pool * (double)s->max[i] / sizes, own = 0;
		for (size_t t = 0; t < s->steps; t++)
			own += fmax(0, fmin((double)s->demand[t][i], share) - (double)s->size[t][i]);
		lacked += own;
		most = fmax(most, own / share / (double)s->steps);
	}
	assert_true(fabs(lacked / (double)s->pool / (double)s->steps - r->share_lacked) < 1e-8);
	assert_true(fabs(most - r->share_lacked_most) < 1e-8);
}

static void check_figures(const struct seen *s, const struct sim_result *r)
{
	double demand = 0, unmet = 0, bound = 0;
	for (size_t t = 0; t < s->steps; t++) {
		uint64_t used = 0;
		for (size_t i = 0; i < s->vms; i++) {
			unmet += s->demand[t][i] > s->size[t][i] ? (double)(s->demand[t][i] - s->size[t][i]) : 0;
			used += min_u64(s->demand[t][i], s->size[t][i]);
			assert_true(s->size[t][i] <= s->max[i]);
		}
		/* Whatever a policy wishes: no more can be used than there is. */
		assert_true(used <= s->pool + s->vms);
		demand += (double)demand_at(s, t);
		bound += demand_at(s, t) > s->pool ? (double)(demand_at(s, t) - s->pool) : 0;
	}
	assert_int_equal(r->steps, s->steps);
	assert_int_equal(r->vms, s->vms);
	assert_true(fabs(demand - r->demand_byte_s) <= demand * 1e-9);
	assert_true(fabs(unmet - r->unmet_byte_s) <= demand * 1e-9);
	assert_true(fabs(bound - r->bound_byte_s) <= demand * 1e-9);
	assert_true(fabs((unmet - bound) / demand - r->regret) < 1e-9);
	check_relief(s, r);
	check_movement(s, r);
	check_shares(s, r);
}

static const struct point rising[] = {{0, 100}, {20, 700}, {50, 300}, {80, 900}, {0, 0}};
static const struct point falling[] = {{0, 800}, {30, 200}, {70, 500}, {0, 0}};
static const struct point calm[] = {{0, 150}, {0, 0}};

static void test_figures_of_every_policy(void **state)
{
	static struct seen s;
	const uint64_t size[] = {1024, 1024, 512};
	const struct point *const points[] = {rising, falling, calm};
	const char *const policies[] = {"needy-greedy", "static",	  "mom",	"pve",	 "squeezed",
					"ideal",	"ideal-headroom", "ideal-told", "oracle"};
	struct trace *t = trace_of(3, size, points);
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++)
		for (unsigned tenths = 15; tenths <= 30; tenths += 5) {
			struct sim_watch w = watch_of(&s);
			struct sim_options o = options_of(t, policies[i]);
			struct sim_result r;
			o.duration_ms = 500000; /* phases are up to 300 s */
			o.overcommit = tenths / 10.;
			assert_int_equal(sim_run(&o, &w, &r, NULL), 0);
			assert_string_equal(r.policy, policies[i]);
			assert_int_equal(s.pool, (uint64_t)(2560 * MIB / o.overcommit));
			assert_true(s.progress == 1 && s.progress_calls <= 300);
			check_figures(&s, &r);
		}
	trace_free(t);
}

/* 500 MiB of 1000 are 100 s too little by 100 MiB: 10 GB·s by hand, nothing about it is the policy's fault. */
static void test_bound_is_no_regret(void **state)
{
	static struct seen s;
	const uint64_t size[] = {1000};
	const struct point steady[] = {{0, 600}, {0, 0}};
	const struct point *const points[] = {steady};
	struct trace *t = trace_of(1, size, points);
	struct sim_watch w = watch_of(&s);
	struct sim_options o = options_of(t, "oracle");
	struct sim_result r;
	o.duration_ms = 100000;
	assert_int_equal(sim_run(&o, &w, &r, NULL), 0);
	check_figures(&s, &r);
	assert_true(r.bound_byte_s == 100. * 100 * (double)MIB);
	assert_true(r.unmet_byte_s >= r.bound_byte_s && r.regret < 0.06); /* buffer of the begin: 25 MiB */
	assert_true(r.demand_byte_s == 100. * 600 * (double)MIB);
	assert_int_equal(r.relief_n, 0); /* it never fitted */
	trace_free(t);
}

static void test_made_up_traces(void **state)
{
	static struct seen s;
	for (const struct generate_kind *k = generate_kinds; k->name; k++) {
		struct generate_options g = {.kind = k->name,
					     .vms = 10,
					     .size_bytes = 4 * GIB,
					     .duration_ms = 900000,
					     .step_ms = 1000,
					     .seed = 3};
		struct trace *t;
		assert_int_equal(trace_generate(&g, &t, NULL), 0);
		struct sim_watch w = watch_of(&s);
		struct sim_options o = options_of(t, "needy-greedy");
		struct sim_result r, best;
		o.duration_ms = 900000;
		assert_int_equal(sim_run(&o, &w, &r, NULL), 0);
		check_figures(&s, &r);
		o.policy = "oracle";
		assert_int_equal(sim_run(&o, NULL, &best, NULL), 0);
		assert_true(best.regret <= r.regret + 1e-6);
		trace_free(t);
	}
}

/* ---- least moved ---- */

#define LEVELS 5

/* All ways to hold three VMs' demand in a pool, tried out: cost[a][b][c] of being at these sizes. */
static unsigned search_least(const unsigned demand[][3], size_t steps, const unsigned begin[3], unsigned pool)
{
	static unsigned cost[LEVELS][LEVELS][LEVELS], next[LEVELS][LEVELS][LEVELS];
	const unsigned far = 1000000, all = LEVELS * LEVELS * LEVELS;
	for (unsigned k = 0; k < all; k++)
		(&cost[0][0][0])[k] = far;
	cost[begin[0]][begin[1]][begin[2]] = 0;
	for (size_t t = 0; t < steps; t++) {
		for (unsigned to = 0; to < all; to++) {
			unsigned a = to / LEVELS / LEVELS, b = to / LEVELS % LEVELS, c = to % LEVELS, best = far;
			bool good = a + b + c <= pool && a >= demand[t][0] && b >= demand[t][1] && c >= demand[t][2];
			for (unsigned from = 0; good && from < all; from++) {
				int da = (int)(from / LEVELS / LEVELS) - (int)a,
				    db = (int)(from / LEVELS % LEVELS) - (int)b, dc = (int)(from % LEVELS) - (int)c;
				unsigned sum = (&cost[0][0][0])[from] + (unsigned)(abs(da) + abs(db) + abs(dc));
				best = sum < best ? sum : best;
			}
			(&next[0][0][0])[to] = best;
		}
		memcpy(cost, next, sizeof(cost));
	}
	unsigned least = far;
	for (unsigned k = 0; k < all; k++)
		least = (&cost[0][0][0])[k] < least ? (&cost[0][0][0])[k] : least;
	return least;
}

static void random_demands(struct sim_random *random, unsigned demand[][3], size_t steps, unsigned pool)
{
	for (size_t t = 0; t < steps; t++)
		do
			for (size_t i = 0; i < 3; i++)
				demand[t][i] = (unsigned)random_below(random, LEVELS);
		while (demand[t][0] + demand[t][1] + demand[t][2] > pool);
}

static double run_least(bool blind, const unsigned demand[][3], size_t steps, const unsigned begin[3], unsigned pool)
{
	struct script scripts[3];
	size_t at[3] = {0};
	uint64_t from[3];
	struct least l;
	for (size_t i = 0; i < 3; i++) {
		struct trace_point points[16];
		struct trace_vm v = {.size_bytes = LEVELS, .points = points, .n = steps};
		for (size_t t = 0; t < steps; t++)
			points[t] = (struct trace_point){.time_ms = t * 1000, .demand_bytes = demand[t][i]};
		assert_int_equal(script_make(&v, 0, 1000, steps * 1000, &scripts[i]), 0);
		from[i] = begin[i];
	}
	assert_int_equal(least_open(&l, blind, 3, scripts, at, from, pool), 0);
	for (size_t t = 0; t < steps; t++) {
		size_t changed[3], n = 0;
		for (size_t i = 0; i < 3; i++)
			if (scripts[i].at_ms[at[i] + 1] == t * 1000)
				at[i]++, changed[n++] = i;
		least_meet(&l, changed, n);
		for (size_t i = 0; i < 3; i++)
			assert_true(l.size_bytes[i] >= demand[t][i]);
		assert_true(l.size_bytes[0] + l.size_bytes[1] + l.size_bytes[2] + l.free_bytes == pool);
	}
	double moved = l.moved_bytes;
	least_close(&l);
	for (size_t i = 0; i < 3; i++)
		script_clear(&scripts[i]);
	return moved;
}

static void test_least_is_the_least(void **state)
{
	struct sim_random random = {.state = 11};
	for (unsigned round = 0; round < 150; round++) {
		unsigned demand[12][3], begin[3], pool = 5 + (unsigned)random_below(&random, 3);
		random_demands(&random, demand, 12, pool);
		memcpy(begin, demand[0], sizeof(begin));
		double moved = run_least(false, (const unsigned(*)[3])demand, 12, begin, pool);
		unsigned least = search_least((const unsigned(*)[3])demand, 12, begin, pool);
		if (moved != least)
			fail_msg("round %u: %g moved, %u would do", round, moved, least);
	}
}

/* Three VMs in a pool of 5: who was not wanted for longest gives, whatever comes. By hand. */
static void test_least_without_foresight(void **state)
{
	const unsigned begin[3] = {2, 2, 0};
	/* 1 is free; a was wanted last at step 1, b at step 2: a gives first, and is wanted again first */
	const unsigned demand[][3] = {{2, 2, 0}, {2, 2, 0}, {0, 2, 0}, {0, 0, 0}, {0, 0, 3}, {2, 0, 3}};
	assert_true(run_least(true, demand, 6, begin, 5) == 3 + 2 + 2 + 2);
	assert_true(run_least(false, demand, 6, begin, 5) == 3 + 2);
	struct sim_random random = {.state = 12};
	for (unsigned round = 0; round < 150; round++) {
		unsigned more[12][3];
		random_demands(&random, more, 12, 6);
		assert_true(run_least(true, (const unsigned(*)[3])more, 12, more[0], 6) >=
			    run_least(false, (const unsigned(*)[3])more, 12, more[0], 6));
	}
}

static void test_script(void **state)
{
	struct trace_point points[] = {{0, 5}, {1200, 9}, {1900, 7}, {4000, 7}, {5000, 30}, {9000, 1}};
	struct trace_vm v = {.size_bytes = 20, .points = points, .n = ARRAY_SIZE(points)};
	struct script s;
	assert_int_equal(script_make(&v, 500, 1000, 9000, &s), 0);
	/* 500 → 1 s, 1700 and 2400 → 2 s and 3 s, no change, 5500 → 6 s and no more than its size, 9500: over */
	assert_int_equal(s.n, 4);
	const uint64_t at[] = {0, 2000, 3000, 6000, SCRIPT_NEVER_MS}, want[] = {5, 9, 7, 20};
	assert_memory_equal(s.at_ms, at, sizeof(at));
	assert_memory_equal(s.demand_bytes, want, sizeof(want));
	assert_int_equal(script_reaches_ms(&s, 0, 8), 2000);
	assert_int_equal(script_reaches_ms(&s, 2, 8), 6000);
	assert_true(script_reaches_ms(&s, 0, 21) == SCRIPT_NEVER_MS);
	assert_int_equal(script_most_bytes(&s, 0, 6000), 9);
	assert_int_equal(script_most_bytes(&s, 0, 6001), 20);
	assert_int_equal(script_most_bytes(&s, 2, 6000), 7);
	script_clear(&s);
	points[0].time_ms = 1000; /* not there before */
	assert_int_equal(script_make(&v, 0, 1000, 9000, &s), 0);
	assert_int_equal(s.demand_bytes[0], 0);
	assert_int_equal(s.at_ms[1], 1000);
	script_clear(&s);
}

/* ---- guests and their faults: a policy that does what the test wants ---- */

static uint64_t wish_bytes;

static void wish_plan(struct plan *p)
{
	for (size_t i = 0; i < p->n && wish_bytes; i++)
		p->vms[i]->plan_bytes = wish_bytes;
}

static const struct policy_ops wish_balloon = {
	.name = "wish", .plan = wish_plan, .own_bounds = true, .balloon_only = true};
static const struct policy_ops wish_any = {.name = "wish", .plan = wish_plan, .own_bounds = true};

struct rig {
	struct trace *trace;
	struct sim_options o;
	struct sim_fault_spec spec;
	struct figures figures;
	struct host *h;
	struct guest *g;
	const struct vm *vm;
};

/* One VM of 8 GiB on a host of 8 GiB, that wants 512 MiB, and 3 GiB from 100 s on. */
static void rig_open(struct rig *r, enum sim_fault fault, uint64_t value, const struct policy_ops *policy)
{
	static const struct point wants[] = {{0, 512}, {100, 3072}, {0, 0}};
	const struct point *const points[] = {wants};
	const uint64_t size[] = {8192};
	const size_t of[] = {0};
	const uint64_t phase[] = {0};
	memset(r, 0, sizeof(*r));
	r->trace = trace_of(1, size, points);
	r->o = options_of(r->trace, NULL);
	r->o.overcommit = 1;
	r->spec = (struct sim_fault_spec){.kind = fault, .value = value};
	const struct sim_fault_spec *faults[] = {fault ? &r->spec : NULL};
	const struct host_plan plan = {.n = 1, .of = of, .phase_ms = phase, .faults = faults, .duration_ms = 1000000};
	struct core_config config = core_config_default();
	config.policy = policy;
	wish_bytes = 0;
	assert_int_equal(host_open(&r->o, NULL, &plan, &config, &r->figures, &r->h), 0);
	r->g = &r->h->guests[0];
	r->vm = core_vm_at(r->h->core, 0);
}

static void rig_close(struct rig *r)
{
	host_close(r->h);
	figures_clear(&r->figures);
	trace_free(r->trace);
}

static void rig_run(struct rig *r, unsigned steps)
{
	while (steps--)
		assert_int_equal(host_step(r->h), 0);
}

/* How far its balloon goes in a second and in ten, asked for 1 GiB less at 10 s. */
static void check_balloon(enum sim_fault fault, uint64_t value, uint64_t one_bytes, uint64_t ten_bytes)
{
	struct rig r;
	rig_open(&r, fault, value, &wish_balloon);
	rig_run(&r, 9);
	uint64_t before = r.g->actual_bytes;
	wish_bytes = before - 4 * GIB;
	rig_run(&r, 1); /* asked in the tick of 9 s */
	guest_settle(r.h, r.g);
	if (before - r.g->actual_bytes > one_bytes || before - r.g->actual_bytes + 2 * MIB < one_bytes)
		fail_msg("%s: %llu of %llu bytes", sim_fault_name(fault),
			 (unsigned long long)(before - r.g->actual_bytes), (unsigned long long)one_bytes);
	rig_run(&r, 9);
	guest_settle(r.h, r.g);
	assert_true(before - r.g->actual_bytes <= ten_bytes && before - r.g->actual_bytes + 2 * MIB >= ten_bytes);
	rig_close(&r);
}

static void test_balloon_speeds(void **state)
{
	const struct sim_model m = sim_model_default();
	assert_true(m.balloon_take_bytes_per_s / MIB == 972 && m.balloon_return_bytes_per_s / MIB == 2396);
	check_balloon(0, 0, m.balloon_take_bytes_per_s, 4 * GIB);
	check_balloon(FAULT_SILENT, 0, m.balloon_take_bytes_per_s, 4 * GIB);
	check_balloon(FAULT_STUCK, 0, 0, 0);
	check_balloon(FAULT_NO_DRIVER, 0, 0, 0);
	check_balloon(FAULT_SLOW, 20 * MIB, 20 * MIB, 200 * MIB);
	check_balloon(FAULT_TRICKLE, 0, 820, 2 * 4096);
}

static void test_balloon_returns(void **state)
{
	struct rig r;
	rig_open(&r, 0, 0, &wish_balloon);
	wish_bytes = GIB;
	rig_run(&r, 30);
	assert_int_equal(r.g->actual_bytes, GIB);
	wish_bytes = 8 * GIB;
	rig_run(&r, 1);
	guest_settle(r.h, r.g);
	uint64_t gone = GIB + r.o.model.balloon_return_bytes_per_s; /* less what is lost by whole bytes */
	assert_true(r.g->actual_bytes <= gone && r.g->actual_bytes + 64 >= gone);
	rig_run(&r, 3);
	guest_settle(r.h, r.g);
	assert_int_equal(r.g->actual_bytes, 8 * GIB);
	assert_int_equal(r.h->moving_n, 0);
	rig_close(&r);
}

/* Lacking 512 MiB a guest moves 128 MiB a second each way, and says so a period later. */
static void test_guest_swaps(void **state)
{
	struct rig r;
	rig_open(&r, 0, 0, &wish_balloon);
	wish_bytes = 2560 * MIB;
	rig_run(&r, 100);
	assert_int_equal(r.h->stats[0].stats.swap_in_bytes, 0);
	assert_int_equal(r.h->stats[0].stats.usable_bytes, 2048 * MIB);
	rig_run(&r, 1); /* 100 s: it wants 3 GiB */
	assert_int_equal(r.h->stats[0].stats.swap_in_bytes, 0);
	assert_int_equal(r.h->stats[0].stats.usable_bytes, MIB);
	rig_run(&r, 1);
	uint64_t second = 512 * MIB / 4000 * 1000;
	assert_int_equal(r.h->stats[0].stats.swap_in_bytes, second);
	assert_int_equal(r.h->stats[0].stats.swap_out_bytes, second);
	rig_run(&r, 1);
	assert_int_equal(r.h->stats[0].stats.swap_in_bytes, 2 * second);
	assert_true(r.vm->needy);
	assert_int_equal(r.h->samples[0].sample.major_faults, 0);
	rig_close(&r);
}

/* A balloon that is stuck: the limit takes, a gigabyte a second, and QEMU faults where it goes too deep. */
static void test_limit(void **state)
{
	struct rig r;
	rig_open(&r, FAULT_STUCK, 0, &wish_any);
	r.o.model.touch_bytes_per_s = 16 * MIB; /* more than it wants */
	rig_run(&r, 99);
	assert_true(r.g->resident_bytes >= 2000 * MIB && r.g->resident_bytes <= 2100 * MIB);
	wish_bytes = 2560 * MIB;
	rig_run(&r, 60);
	assert_true(r.g->limit_bytes <= 2560 * MIB + 1);
	assert_int_equal(r.g->size_bytes, r.g->limit_bytes);
	assert_true(r.g->resident_bytes <= r.g->limit_bytes);
	assert_int_equal(r.g->actual_bytes, 8 * GIB);
	assert_true(r.h->samples[0].sample.swapped_bytes >= 512 * MIB);
	uint64_t faults = r.h->samples[0].sample.major_faults;
	rig_run(&r, 1);
	assert_true(r.h->samples[0].sample.major_faults >= faults + 512 * MIB / 2000 * 1000 / 4096);
	assert_int_equal(r.h->stats[0].stats.swap_in_bytes, 0);
	wish_bytes = 8 * GIB; /* what it uses comes home */
	rig_run(&r, 5);
	assert_true(r.g->resident_bytes >= 3 * GIB);
	rig_close(&r);
}

static void test_limits_share_reclaim(void **state)
{
	struct rig r;
	rig_open(&r, 0, 0, &wish_any);
	r.o.model.limit_reclaim_bytes_per_s = 64 * MIB;
	assert_true(r.g->resident_bytes > 7 * GIB);
	uint64_t before = r.g->resident_bytes;
	guest_limit(r.h, r.g, GIB);
	assert_int_equal(r.g->size_bytes, GIB);
	host_reclaim(r.h);
	assert_int_equal(r.g->resident_bytes, before - 64 * MIB);
	assert_int_equal(r.h->swapped_sum, 64 * MIB);
	r.o.model.swap_bytes = 80 * MIB; /* full swap takes no more */
	host_reclaim(r.h);
	host_reclaim(r.h);
	assert_int_equal(r.h->swapped_sum, 80 * MIB);
	rig_close(&r);
}

static void test_silent_stale_and_lying(void **state)
{
	struct rig r;
	rig_open(&r, FAULT_SILENT, 0, &wish_balloon);
	rig_run(&r, 20);
	assert_true(r.vm->has_stats && !r.vm->stats.has_usable && r.vm->stats.has_actual);
	assert_int_equal(r.vm->stats_advances, 0);
	rig_close(&r);

	rig_open(&r, FAULT_STALE, 0, &wish_balloon);
	rig_run(&r, 60);
	unsigned advances = r.vm->stats_advances;
	assert_true(advances >= 58 && r.vm->stats.has_usable);
	rig_run(&r, 60);
	assert_int_equal(r.vm->stats_advances, advances);
	rig_close(&r);

	rig_open(&r, FAULT_LYING, 0, &wish_balloon);
	rig_run(&r, 20);
	assert_int_equal(r.vm->stats.usable_bytes, MIB);
	assert_true(r.vm->guest_swap_in_per_s > 7. * (double)MIB && r.vm->guest_swap_in_per_s < 9. * (double)MIB);
	assert_true(r.g->size_bytes > r.g->demand_bytes); /* it has all it wants */
	rig_close(&r);
}

/* Windows are told in the core's time: a claim is contradicted by the first that began within it. */
static void test_liars_are_found_out(void **state)
{
	struct rig r;
	rig_open(&r, FAULT_LYING, 0, &wish_balloon);
	rig_run(&r, 50);
	assert_true(r.vm->needy && !r.vm->wss_overclaims);
	rig_run(&r, 80);
	assert_true(r.vm->wss.known && r.vm->wss.began_ms == r.vm->wss_ms - 30000);
	assert_true(r.vm->needy && r.vm->wss_overclaims);
	rig_close(&r);
}

static void test_reboot(void **state)
{
	struct rig r;
	rig_open(&r, FAULT_REBOOT, 30000, &wish_balloon);
	wish_bytes = 2 * GIB;
	rig_run(&r, 30);
	assert_int_equal(r.g->actual_bytes, 2 * GIB);
	assert_int_equal(r.vm->state, VM_STEADY);
	wish_bytes = 0;
	rig_run(&r, 1);
	assert_true(r.g->booting);
	assert_int_equal(r.vm->state, VM_REBOOTING);
	assert_int_equal(r.g->actual_bytes, 8 * GIB);
	assert_int_equal(r.h->stats[0].stats.last_update_s, 0);
	assert_int_equal(r.h->stats[0].stats.actual_bytes, 2 * GIB); /* QEMU does not know */
	rig_run(&r, 25);
	assert_false(r.g->booting);
	assert_int_equal(r.vm->state, VM_STEADY);
	assert_true(r.vm->actual_trusted);
	assert_int_equal(r.vm->actual_bytes, 8 * GIB);
	rig_run(&r, 100); /* once only */
	assert_int_equal(r.vm->state, VM_STEADY);
	rig_close(&r);
}

/* Two VMs that want 600 of 1000 MiB each: with or without a policy somebody lacks 200. */
static void test_pool_is_all_there_is(void **state)
{
	static struct seen s;
	const uint64_t size[] = {1000, 1000};
	const struct point much[] = {{0, 600}, {0, 0}};
	const struct point *const points[] = {much, much};
	struct trace *t = trace_of(2, size, points);
	struct sim_options o = options_of(t, "mom");
	struct sim_watch w = watch_of(&s);
	struct sim_result r;
	assert_int_equal(sim_run(&o, &w, &r, NULL), 0);
	check_figures(&s, &r);
	for (size_t k = 0; k < s.steps; k++)
		assert_true(min_u64(s.size[k][0], 600 * MIB) + min_u64(s.size[k][1], 600 * MIB) <= 1000 * MIB + 2);
	assert_true(r.unmet_byte_s >= r.bound_byte_s);
	trace_free(t);
}

/* ---- seeds and shares ---- */

static struct trace *seven(void)
{
	static const uint64_t size[] = {1000, 1001, 1002, 1003, 1004, 1005, 1006};
	static const struct point *const points[] = {rising, calm, falling, rising, calm, falling, rising};
	return trace_of(7, size, points);
}

static void test_seed(void **state)
{
	static struct seen a, b, c;
	struct trace *t = seven();
	struct sim_options o = options_of(t, "needy-greedy");
	struct sim_result ra, rb, rc;
	struct sim_watch wa = watch_of(&a), wb = watch_of(&b), wc = watch_of(&c);
	o.duration_ms = 400000;
	assert_int_equal(sim_faults_parse("lying:20%,slow=1M:20%", o.faults, &o.faults_n, NULL), 0);
	assert_int_equal(sim_run(&o, &wa, &ra, NULL), 0);
	assert_int_equal(sim_run(&o, &wb, &rb, NULL), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_true(ra.regret == rb.regret && ra.churn == rb.churn && ra.honest_regret == rb.honest_regret);
	o.seed = 8;
	assert_int_equal(sim_run(&o, &wc, &rc, NULL), 0);
	assert_memory_not_equal(a.names, c.names, sizeof(a.names));
	assert_memory_not_equal(a.demand, c.demand, sizeof(a.demand));
	trace_free(t);
}

static void test_placement(void **state)
{
	struct trace *t = seven();
	struct sim_options o = options_of(t, "static");
	struct sim_result r;
	const struct {
		size_t per_host, hosts, vms;
	} want[] = {{0, 1, 7}, {3, 2, 6}, {7, 1, 7}, {50, 1, 7}, {4, 1, 4}, {1, 7, 7}};
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		o.vms_per_host = want[i].per_host;
		assert_int_equal(sim_run(&o, NULL, &r, NULL), 0);
		assert_int_equal(r.hosts, want[i].hosts);
		assert_int_equal(r.vms, want[i].vms);
	}
	trace_free(t);
}

static void test_faults_are_dealt(void **state)
{
	const struct sim_fault_spec specs[] = {{FAULT_STUCK, 0.10, 0}, {FAULT_LYING, 0.25, 0}};
	const struct sim_fault_spec *a[100], *b[100];
	size_t stuck = 0, lying = 0;
	assert_int_equal(sim_faults_assign(specs, 2, 100, 1, a), 0);
	assert_int_equal(sim_faults_assign(specs, 2, 100, 2, b), 0);
	for (size_t i = 0; i < 100; i++) {
		stuck += a[i] == &specs[0];
		lying += a[i] == &specs[1];
	}
	assert_int_equal(stuck, 10);
	assert_int_equal(lying, 25);
	assert_memory_not_equal(a, b, sizeof(a));
}

/* A VM that cannot be helped is not what the honest ones pay. */
static void test_honest_regret(void **state)
{
	struct trace *t = seven();
	struct sim_options o = options_of(t, "oracle");
	struct sim_result r;
	o.duration_ms = 400000;
	o.overcommit = 1;
	assert_int_equal(sim_run(&o, NULL, &r, NULL), 0);
	assert_true(fabs(r.honest_regret - r.regret) < 1e-12);
	assert_int_equal(sim_faults_parse("stuck:100%", o.faults, &o.faults_n, NULL), 0);
	assert_int_equal(sim_run(&o, NULL, &r, NULL), 0);
	assert_true(r.honest_regret <= 0);
	assert_true(r.share_lacked == 0 && r.share_lacked_most == 0); /* nobody is honest */
	trace_free(t);
}

static void test_density(void **state)
{
	const uint64_t size[] = {1024, 1024};
	const struct point low[] = {{0, 256}, {0, 0}};
	const struct point *const points[] = {low, low};
	struct trace *t = trace_of(2, size, points);
	struct sim_options o = options_of(t, "oracle");
	double density = 0;
	o.duration_ms = 60000;
	o.buffer_share = 0.0001;
	o.pool_bytes = GIB; /* not used here */
	struct seen seen;
	struct sim_watch watch = watch_of(&seen);
	assert_int_equal(sim_density(&o, &watch, &density, NULL), 0);
	assert_true(seen.progress > 0.2 && seen.progress <= 1);
	assert_int_equal(seen.vms + seen.steps + seen.episodes, 0);
	assert_true(density > 3.9 && density < 4.01); /* 512 of 2048 MiB are wanted */
	o.policy = "nobody";
	assert_int_equal(sim_density(&o, NULL, &density, NULL), -EINVAL);
	trace_free(t);
}

/* ---- what is refused ---- */

static void refused(struct sim_options o, const char *word)
{
	struct memoc_err err = {0};
	struct sim_result r = {.vms = 99};
	assert_int_equal(sim_run(&o, NULL, &r, &err), -EINVAL);
	if (!strstr(err.text, word))
		fail_msg("\"%s\" does not say \"%s\"", err.text, word);
	assert_int_equal(r.vms, 99);
}

static void test_hostile_options(void **state)
{
	struct trace *t = seven(), empty = {0};
	const struct sim_options good = options_of(t, "needy-greedy");
	struct sim_options o = good;
#define REFUSED(change, word)                                                                                          \
	do {                                                                                                           \
		o = good;                                                                                              \
		change;                                                                                                \
		refused(o, word);                                                                                      \
	} while (0)
	REFUSED(o.policy = "best", "oracle");
	REFUSED(o.policy = NULL, "needy-greedy");
	REFUSED(o.policy = "", "policy");
	REFUSED(o.trace = NULL, "empty");
	REFUSED(o.trace = &empty, "empty");
	REFUSED(o.step_ms = 0, "step");
	REFUSED(o.step_ms = UINT64_MAX, "step");
	REFUSED(o.overcommit = 0, "overcommit");
	REFUSED(o.overcommit = -1, "overcommit");
	REFUSED(o.overcommit = NAN, "overcommit");
	REFUSED(o.overcommit = INFINITY, "overcommit");
	REFUSED(o.pool_bytes = UINT64_MAX, "pool");
	REFUSED(o.duration_ms = UINT64_MAX, "duration");
	REFUSED(o.buffer_share = 0.51, "buffer");
	REFUSED(o.buffer_share = NAN, "buffer");
	REFUSED(o.model.balloon_take_bytes_per_s = 0, "model");
	REFUSED(o.model.stats_period_ms = 0, "model");
	REFUSED(o.model.minimums_share = NAN, "minimums");
	REFUSED(o.faults_n = SIM_FAULTS_MAX + 1, "faults");
	REFUSED((o.faults_n = 1, o.faults[0] = (struct sim_fault_spec){.kind = 99}), "faults");
	REFUSED((o.faults_n = 1, o.faults[0] = (struct sim_fault_spec){.kind = FAULT_STUCK, .share = 1.1}), "faults");
	uint64_t size = t->vms[3].size_bytes;
	t->vms[3].size_bytes = 0;
	refused(good, "v3");
	t->vms[3].size_bytes = size;
	trace_free(t);
}

static void test_model_settings(void **state)
{
	struct sim_model m = sim_model_default();
	struct memoc_err err;
	assert_int_equal(sim_model_set(&m, "balloon_take=1G", &err), 0);
	assert_int_equal(sim_model_set(&m, "stats_period=2s", &err), 0);
	assert_int_equal(sim_model_set(&m, "wss_pages=100", &err), 0);
	assert_int_equal(sim_model_set(&m, "minimums=25%", &err), 0);
	assert_int_equal(sim_model_set(&m, "touch=0", &err), 0);
	assert_true(m.balloon_take_bytes_per_s == GIB && m.stats_period_ms == 2000 && m.wss_pages == 100 &&
		    m.minimums_share == 0.25 && m.touch_bytes_per_s == 0);
	const char *const bad[] = {"",
				   "=",
				   "balloon_take",
				   "balloon_take=",
				   "balloon_take=0",
				   "balloon_take=-1",
				   "x=1",
				   "balloon=1G",
				   "stats_period=1",
				   "stats_period=0s",
				   "wss_pages=1e6",
				   "swap=9E",
				   "minimums=2",
				   "minimums=101%",
				   "balloon_take =1G"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct sim_model before = m;
		assert_true(sim_model_set(&m, bad[i], &err) < 0);
		assert_true(err.text[0]);
		assert_memory_equal(&before, &m, sizeof(m));
	}
}

static void test_fault_words(void **state)
{
	struct sim_fault_spec s[SIM_FAULTS_MAX];
	struct memoc_err err;
	size_t n = 0;
	assert_int_equal(sim_faults_parse("lying,slow=1M:5%,reboot@3600.5:20%,no-driver:0%", s, &n, &err), 0);
	assert_int_equal(n, 4);
	assert_true(s[0].kind == FAULT_LYING && s[0].share == 0.10 && s[1].kind == FAULT_SLOW && s[1].value == MIB);
	assert_true(s[2].kind == FAULT_REBOOT && s[2].value == 3600500 && s[2].share == 0.20 && s[3].share == 0);
	const char *const bad[] = {
		"",
		",",
		"lying,",
		"liar",
		"slow",
		"slow=",
		"slow=0",
		"slow@5",
		"reboot",
		"reboot=5",
		"reboot@-1",
		"reboot@x",
		"lying:",
		"lying:5",
		"lying:101%",
		"stuck=1",
		"stuck:60%,stale:50%",
		"stuck,stuck,stuck,stuck,stuck,stuck,stuck,stuck,stuck,stuck,stuck,stuck,stuck,stuck,stuck,stuck,stuck",
		"lyinglyinglyinglyinglyinglyinglyinglyinglyinglyinglyinglyinglyinglyinglyinglyinglyinglyinglying"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		n = 99;
		assert_int_equal(sim_faults_parse(bad[i], s, &n, &err), -EINVAL);
		assert_int_equal(n, 99);
	}
	assert_string_equal(sim_fault_name(FAULT_NO_DRIVER), "no-driver");
	assert_string_equal(sim_fault_name((enum sim_fault)77), "?");
}

static void test_out_of_memory(void **state)
{
	struct trace *t = seven();
	struct sim_options o = options_of(t, "needy-greedy");
	struct sim_result r;
	o.duration_ms = 20000;
	o.vms_per_host = 3;
	for (size_t n = 1;; n++) {
		long before = alloc_live();
		alloc_fail_at(n);
		int code = sim_run(&o, NULL, &r, NULL);
		if (!alloc_fail_end()) {
			assert_int_equal(code, 0);
			assert_true(n > 20);
			break;
		}
		assert_int_equal(code, -ENOMEM);
		assert_int_equal(alloc_live(), before);
	}
	trace_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_figures_of_every_policy),
		cmocka_unit_test(test_bound_is_no_regret),
		cmocka_unit_test(test_made_up_traces),
		cmocka_unit_test(test_least_is_the_least),
		cmocka_unit_test(test_least_without_foresight),
		cmocka_unit_test(test_script),
		cmocka_unit_test(test_balloon_speeds),
		cmocka_unit_test(test_balloon_returns),
		cmocka_unit_test(test_guest_swaps),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_limits_share_reclaim),
		cmocka_unit_test(test_silent_stale_and_lying),
		cmocka_unit_test(test_liars_are_found_out),
		cmocka_unit_test(test_reboot),
		cmocka_unit_test(test_pool_is_all_there_is),
		cmocka_unit_test(test_seed),
		cmocka_unit_test(test_placement),
		cmocka_unit_test(test_faults_are_dealt),
		cmocka_unit_test(test_honest_regret),
		cmocka_unit_test(test_density),
		cmocka_unit_test(test_hostile_options),
		cmocka_unit_test(test_model_settings),
		cmocka_unit_test(test_fault_words),
		cmocka_unit_test(test_out_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
