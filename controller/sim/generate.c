/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/sim/generate.h"

#include <errno.h>
#include <string.h>

#include "common/text.h"
#include "controller/sim/random.h"

#define SECOND UINT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

#define TICK_MS SECOND		       /* nothing happens faster than that, unless the step is shorter */
#define TICKS_MAX UINT64_C(4000000000) /* some minutes of computing */
#define NOISE_MS (10 * SECOND)
#define AT_ONCE UINT64_MAX
#define STORM_MS (2 * MINUTE) /* in which all VMs boot */

/*
 * One random number an expression, here and below: compilers differ in which operand or argument comes first.
 *
 * A VM goes towards its target at its rate; its kind sets both, each time that event_ms has come.
 */
struct generate_vm {
	const struct generate_options *o;
	size_t index;
	struct sim_random own, all; /* `all` gives every VM the same numbers, as long as all ask alike */
	uint64_t now_ms, event_ms, start_ms;
	uint64_t all_ms; /* when the event is that all VMs share; each has a lag of its own */
	unsigned phase;	 /* 0: before the first event; the kind's own business otherwise */
	uint64_t base_bytes, top_bytes, period_ms;
	uint64_t level_bytes, target_bytes, rise_per_s, fall_per_s;
	int64_t noise_bytes;
	uint64_t demand_bytes; /* level and noise */
};

/* lo ≤ result ≤ hi */
static uint64_t between(struct sim_random *r, uint64_t lo, uint64_t hi)
{
	return lo + random_below(r, hi - lo + 1);
}

/* The same with most of them near lo: mean a quarter of the way. */
static uint64_t mostly_low(struct sim_random *r, uint64_t lo, uint64_t hi)
{
	uint64_t part = (hi - lo) * random_below(r, 1001) / 1000;

	return lo + part * random_below(r, 1001) / 1000;
}

/* Of the VM's size. */
static uint64_t percent(struct generate_vm *g, uint64_t lo, uint64_t hi)
{
	return mul_div_u64(g->o->size_bytes, between(&g->own, lo * 10, hi * 10), 1000);
}

/* As a build or a start of a service grows: 0.1..0.95 GiB/s. */
static uint64_t growth_per_s(struct generate_vm *g)
{
	return between(&g->own, GIB / 10, GENERATE_GROWTH_BYTES_PER_S);
}

static void go_to(struct generate_vm *g, uint64_t target_bytes, uint64_t bytes_per_s)
{
	g->target_bytes = target_bytes;
	g->rise_per_s = g->fall_per_s = bytes_per_s;
}

static uint64_t way_bytes(const struct generate_vm *g, uint64_t target_bytes)
{
	return max_u64(target_bytes, g->level_bytes) - min_u64(target_bytes, g->level_bytes);
}

/* Arrives after that time, without haste. */
static void drift_to(struct generate_vm *g, uint64_t target_bytes, uint64_t ms)
{
	go_to(g, target_bytes, add_sat_u64(mul_div_u64(way_bytes(g, target_bytes), 1000, ms), 1));
}

static uint64_t duration_of(uint64_t bytes, uint64_t bytes_per_s)
{
	return mul_div_u64(bytes, 1000, bytes_per_s);
}

/* ---- kinds ---- */

/* 0..1000 over a day, a sine made of two parabolas. */
static uint64_t day_curve(uint64_t time_ms)
{
	uint64_t half = DAY / 2, x = time_ms % DAY, in_half = x % half;
	uint64_t arch = 4 * in_half * (half - in_half) / (half * half / 500);

	return x < half ? 500 + arch : 500 - arch;
}

/* Each VM has its own hour of waking up, and at weekends a third of the work. */
static void diurnal(struct generate_vm *g)
{
	uint64_t height;

	if (g->phase == 0) {
		g->phase = 1;
		g->base_bytes = percent(g, 12, 25);
		g->top_bytes = percent(g, 55, 90);
		g->period_ms = random_below(&g->own, 3 * HOUR);
		g->level_bytes = g->base_bytes + (g->top_bytes - g->base_bytes) * day_curve(g->period_ms) / 1000;
	}
	height = g->top_bytes - g->base_bytes;
	if (g->now_ms / DAY % 7 >= 5)
		height /= 3;
	drift_to(g, g->base_bytes + height * day_curve(g->now_ms + g->period_ms) / 1000, 5 * MINUTE);
	g->event_ms += MINUTE;
}

static void bursts(struct generate_vm *g)
{
	uint64_t peak, rate;

	if (g->phase == 0) {
		g->base_bytes = g->level_bytes = percent(g, 8, 25);
		go_to(g, g->base_bytes, MIB);
	} else if (g->phase % 2 == 1) {
		peak = percent(g, 40, 95);
		rate = growth_per_s(g);
		go_to(g, peak, rate);
		g->event_ms += duration_of(peak - g->base_bytes, rate) + mostly_low(&g->own, 5 * SECOND, 5 * MINUTE);
		g->phase++;
		return;
	} else {
		go_to(g, g->base_bytes, between(&g->own, GIB, 4 * GIB));
	}
	g->event_ms += mostly_low(&g->own, 20 * SECOND, 20 * MINUTE);
	g->phase++;
}

static void steps(struct generate_vm *g)
{
	go_to(g, percent(g, 10, 95), AT_ONCE);
	g->event_ms += mostly_low(&g->own, 2 * MINUTE, 30 * MINUTE);
}

static void ramps(struct generate_vm *g)
{
	bool up = g->phase % 2 == 1;
	uint64_t target = up ? percent(g, 60, 95) : percent(g, 10, 30);
	uint64_t ms = mostly_low(&g->own, 5 * MINUTE, HOUR);

	if (g->phase == 0) {
		g->level_bytes = target;
		ms = random_below(&g->own, 5 * MINUTE) + 1;
	}
	drift_to(g, target, ms);
	g->event_ms += ms + between(&g->own, 1 * MINUTE, 15 * MINUTE);
	g->phase++;
}

/* As a heap that is collected. */
static void sawtooth(struct generate_vm *g)
{
	if (g->phase == 0) {
		g->phase = 1;
		g->base_bytes = percent(g, 10, 25);
		g->top_bytes = percent(g, 50, 90);
		g->period_ms = max_u64(between(&g->own, MINUTE, 10 * MINUTE),
				       duration_of(g->top_bytes, GENERATE_GROWTH_BYTES_PER_S) + SECOND);
		/* The first tooth is begun somewhere in its middle. */
		g->level_bytes = g->base_bytes;
		drift_to(g, g->top_bytes, g->period_ms);
		g->level_bytes += mul_div_u64(g->top_bytes - g->base_bytes, random_below(&g->own, 1000), 1000);
		g->event_ms += duration_of(g->top_bytes - g->level_bytes, g->rise_per_s);
		return;
	}
	g->level_bytes = g->base_bytes;
	drift_to(g, g->top_bytes, g->period_ms);
	g->event_ms += g->period_ms;
}

static void surge(struct generate_vm *g)
{
	bool calm = g->phase % 2 == 0;
	uint64_t rate;

	if (g->phase == 0)
		g->base_bytes = g->level_bytes = percent(g, 12, 25);
	if (calm)
		go_to(g, g->base_bytes, between(&g->own, GIB / 4, 2 * GIB));
	if (!calm) {
		rate = growth_per_s(g);
		go_to(g, percent(g, 60, 95), rate);
	}
	if (g->phase == 0)
		g->all_ms += between(&g->all, MINUTE, 5 * MINUTE);
	else if (calm)
		g->all_ms += between(&g->all, 5 * MINUTE, 30 * MINUTE);
	else
		g->all_ms += between(&g->all, MINUTE, 10 * MINUTE);
	g->event_ms = g->all_ms + random_below(&g->own, 5 * SECOND);
	g->phase++;
}

/* Starts one after the other, each with a peak that it does not keep; once in an hour or two all reboot. */
static void boot_storm(struct generate_vm *g)
{
	uint64_t rate;

	if (g->phase % 2 == 1) { /* up: what booting needed is given back slowly */
		drift_to(g, g->base_bytes, between(&g->own, MINUTE, 5 * MINUTE));
		g->all_ms += between(&g->all, HOUR, 2 * HOUR);
		g->event_ms = g->all_ms + random_below(&g->own, STORM_MS);
		g->phase++;
		return;
	}
	if (g->phase == 0)
		g->base_bytes = percent(g, 15, 30);
	rate = between(&g->own, GIB / 10, GIB / 2);
	g->level_bytes = percent(g, 1, 2);
	go_to(g, percent(g, 35, 60), rate);
	g->event_ms += duration_of(g->target_bytes, rate) + between(&g->own, 20 * SECOND, MINUTE);
	g->phase++;
}

const struct generate_kind generate_kinds[] = {
	{"diurnal", "days with their nights, weekends with less", diurnal},
	{"bursts", "jobs of seconds to minutes that grow by up to 0.95 GiB/s, as builds do", bursts},
	{"steps", "a new level at once, every few minutes", steps},
	{"ramps", "up and down over minutes to an hour", ramps},
	{"sawtooth", "a heap that grows and is collected", sawtooth},
	{"surge", "all VMs grow within the same five seconds, every some minutes", surge},
	{"boot-storm", "all VMs boot within two minutes, and reboot every hour or two", boot_storm},
	{0},
};

/* ---- the machine under them ---- */

static void move_level(struct generate_vm *g, uint64_t ms)
{
	uint64_t way = way_bytes(g, g->target_bytes);

	if (g->target_bytes > g->level_bytes)
		g->level_bytes += min_u64(way, mul_div_u64(g->rise_per_s, ms, 1000));
	else
		g->level_bytes -= min_u64(way, mul_div_u64(g->fall_per_s, ms, 1000));
}

/* A walk that is drawn back to 0 by an eighth of itself: stays within 8 × 1/400 of the size. */
static void move_noise(struct generate_vm *g)
{
	int64_t most = (int64_t)(g->o->size_bytes / 400);

	g->noise_bytes += (int64_t)random_below(&g->own, 2 * (uint64_t)most + 1) - most - g->noise_bytes / 8;
}

/* Level and noise together grow no faster than they may: noise waits. */
static void move_demand(struct generate_vm *g, uint64_t ms)
{
	uint64_t size = g->o->size_bytes, least = size / 100;
	uint64_t wanted = g->noise_bytes < 0 ? sub_sat_u64(g->level_bytes, (uint64_t)-g->noise_bytes)
					     : g->level_bytes + (uint64_t)g->noise_bytes;
	uint64_t growth = g->rise_per_s == AT_ONCE ? AT_ONCE : GENERATE_GROWTH_BYTES_PER_S * ms / 1000;

	g->demand_bytes = min_u64(clamp_u64(wanted, least, size), add_sat_u64(g->demand_bytes, growth));
}

static void advance(struct generate_vm *g, const struct generate_kind *kind, uint64_t to_ms)
{
	while (g->now_ms < to_ms) {
		uint64_t ms = min_u64(TICK_MS - g->now_ms % TICK_MS, to_ms - g->now_ms);

		while (g->event_ms <= g->now_ms)
			kind->event(g);
		move_level(g, ms);
		if (g->now_ms / NOISE_MS != (g->now_ms + ms) / NOISE_MS)
			move_noise(g);
		g->now_ms += ms;
		move_demand(g, ms);
	}
}

/* VMs of a boot storm come in order: a trace's VMs are in the order of their first points. */
static uint64_t start_ms(struct generate_vm *g)
{
	uint64_t window = min_u64(STORM_MS, g->o->duration_ms / 4), vms = g->o->vms;
	uint64_t from = window * g->index / vms, to = window * (g->index + 1) / vms;

	return strcmp(g->o->kind, "boot-storm") == 0 ? between(&g->own, from, to) : 0;
}

/* Two VMs' numbers must not be the same ones, shifted: their states are far apart. */
static void begin(struct generate_vm *g, const struct generate_kind *kind, const struct generate_options *o,
		  size_t index)
{
	struct sim_random seed = {o->seed};

	*g = (struct generate_vm){.o = o, .index = index};
	g->all.state = random_u64(&seed);
	seed.state = random_u64(&seed) ^ index;
	g->own.state = random_u64(&seed);
	g->now_ms = g->event_ms = g->start_ms = start_ms(g);
	kind->event(g);
	if (g->rise_per_s == AT_ONCE)
		g->level_bytes = g->target_bytes;
	g->demand_bytes = max_u64(g->level_bytes, o->size_bytes / 100);
}

static int generate_vm(struct trace *t, const struct generate_kind *kind, const struct generate_options *o,
		       size_t index)
{
	uint64_t quantum = max_u64(MIB, o->size_bytes / 1024 / MIB * MIB);
	char name[TRACE_NAME_MAX];
	struct generate_vm g;
	size_t vm = 0;
	int r;

	snprintf(name, sizeof(name), "vm%zu", index + 1);
	r = trace_add_vm(t, name, o->size_bytes, &vm);
	begin(&g, kind, o, index);
	for (uint64_t at = 0; r == 0 && at <= o->duration_ms; at += o->step_ms) {
		if (at < g.start_ms)
			continue;
		advance(&g, kind, at);
		r = trace_add(t, vm, at, max_u64(quantum, g.demand_bytes / quantum * quantum));
	}
	return r;
}

static const struct generate_kind *find_kind(const char *name, struct memoc_err *err)
{
	char names[200];
	size_t used = 0;

	for (const struct generate_kind *k = generate_kinds; k->name; k++) {
		if (strcmp(k->name, name) == 0)
			return k;
		used = text_add(names, sizeof(names), used, "%s%s", used ? ", " : "", k->name);
	}
	memoc_err_set(err, -EINVAL, "no kind of trace is called \"%s\"; there are %s", name, names);
	return NULL;
}

static int check_options(const struct generate_options *o, struct memoc_err *err)
{
	if (o->vms == 0 || o->vms > TRACE_VMS_MAX)
		return memoc_err_set(err, -EINVAL, "%zu VMs cannot be made up; 1 to %d can", o->vms, TRACE_VMS_MAX);
	if (o->size_bytes < GENERATE_SIZE_MIN_BYTES || o->size_bytes > TRACE_BYTES_MAX)
		return memoc_err_set(err, -EINVAL, "a VM's size must be 16 MiB to 64 TiB");
	if (o->step_ms == 0 || o->step_ms > o->duration_ms)
		return memoc_err_set(err, -EINVAL, "the step must be more than 0 and not more than the duration");
	if (o->duration_ms > TRACE_TIME_MAX_MS)
		return memoc_err_set(err, -EINVAL, "the duration must not be more than 100 years");
	if (o->duration_ms / min_u64(o->step_ms, TICK_MS) > TICKS_MAX / o->vms)
		return memoc_err_set(err, -E2BIG,
				     "that would take too long; ask for fewer VMs, a shorter time or a longer step");
	return 0;
}

int trace_generate(const struct generate_options *o, struct trace **ret, struct memoc_err *err)
{
	const struct generate_kind *kind = find_kind(o->kind, err);
	struct trace *t = NULL;
	int r = kind ? check_options(o, err) : -EINVAL;

	if (r < 0)
		return r;
	t = trace_new();
	r = t ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < o->vms; i++)
		r = generate_vm(t, kind, o, i);
	if (r < 0) {
		trace_free(t);
		if (r == -E2BIG)
			return memoc_err_set(err, r, "more than %zu changes of demand; ask for a longer step",
					     TRACE_POINTS_MAX);
		return memoc_err_set(err, r, "out of memory for the trace; ask for a longer step");
	}
	t->duration_ms = o->duration_ms;
	*ret = t;
	return 0;
}
