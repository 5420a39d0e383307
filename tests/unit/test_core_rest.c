/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rest (rest.h) is not to be seen: a core that passes VMs by that are at rest, and one that looks at all of them each
 * time, are told the same for hours, and after every event their effects are the same, and all of the cores every few.
 * And one VM at rest is woken by everything that there is to wake it.
 */
#include "tests/unit/core_kit.h"

#include <errno.h>

#include "controller/record/format.h"

/* ---- two cores that are told the same ---- */

#define GUESTS 8

/* A guest that does at once what it is asked for, mostly. */
struct guest {
	bool there, paused, mute, stuck, swapping, faulting;
	uint64_t max_bytes, demand_bytes, actual_bytes, limit_bytes;
	uint64_t swap_bytes, faults, refaults, psi_some_us, updates, overhead_bytes;
	bool measured, under_oom;
	uint64_t hidden_bytes; /* its kernel does not count them */
	uint64_t phase_ms;
};

struct pair {
	struct kit a, b;		 /* with rest, without */
	struct guest guests[GUESTS + 1]; /* by id */
	uint64_t seed;
	struct core_config config;
	uint64_t rested, looks, compared;
};

static uint64_t below(struct pair *p, uint64_t n)
{
	p->seed = p->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (p->seed >> 33) % n;
}

static bool once_in(struct pair *p, uint64_t n)
{
	return below(p, n) == 0;
}

/* As a recording has them: all fields, and no padding, of which a compiler may make what it likes. */
static void put_all(struct bytes *b, const struct kit *k, const struct event *ev, bool whole)
{
	*b = (struct bytes){.most = 16 * MIB};
	if (whole)
		put_snapshot(b, k->core);
	put_outcome(b, ev, 0, &k->out);
	assert_false(b->full);
}

#define WHOLE_EACH 32 /* writing all of a core down takes a hundred times as long as an event */

static void compare(struct pair *p, const struct event *ev)
{
	const struct kit *a = &p->a, *b = &p->b;
	struct bytes x, y;
	bool whole = ++p->compared % WHOLE_EACH == 0;
	put_all(&x, a, ev, whole);
	put_all(&y, b, ev, whole);
	bool same = core_next_wakeup_ms(a->core) == core_next_wakeup_ms(b->core) && x.n == y.n &&
		    memcmp(x.data, y.data, x.n) == 0;
	bytes_free(&x);
	bytes_free(&y);
	if (!same)
		print_error("differs after event %d of VM %u at %llu ms\n", ev->type, ev->vm,
			    (unsigned long long)p->a.now_ms);
	assert_true(same);
}

static void tell(struct pair *p, const struct event *ev)
{
	struct event x = *ev, y;
	memcpy(&x, ev, sizeof(x));
	memcpy(&y, ev, sizeof(y));
	p->b.now_ms = p->a.now_ms;
	assert_int_equal(kit_step(&p->a, &x), kit_step(&p->b, &y));
	compare(p, ev);
}

/* The effects of the last step are carried out, and answered but for a few. */
static void answer(struct pair *p)
{
	struct event list[64];
	size_t n = 0;
	for (size_t i = 0; i < p->a.out.n && n < ARRAY_SIZE(list); i++) {
		const struct effect *e = &p->a.out.list[i];
		if (e->type != EFFECT_BALLOON && e->type != EFFECT_LIMIT)
			continue;
		struct guest *g = &p->guests[e->vm];
		bool fails = once_in(p, 20);
		if (e->type == EFFECT_BALLOON && !g->stuck && !fails)
			g->actual_bytes = min_u64(e->bytes, g->max_bytes);
		if (e->type == EFFECT_LIMIT && !fails)
			g->limit_bytes = e->bytes;
		if (once_in(p, 40))
			continue;
		struct event *ev = &list[n++];
		memset(ev, 0, sizeof(*ev));
		ev->type = EVENT_VM_RESULT;
		ev->vm = e->vm;
		ev->result.op = e->type == EFFECT_BALLOON ? OP_BALLOON : OP_LIMIT;
		ev->result.seq = e->seq;
		ev->result.code = fails ? -EBUSY : 0;
		ev->result.bytes = g->limit_bytes;
	}
	for (size_t i = 0; i < n; i++) {
		tell(p, &list[i]);
		answer(p);
	}
}

static void post(struct pair *p, struct event *ev)
{
	tell(p, ev);
	answer(p);
}

static void send_stats(struct pair *p, vm_id id)
{
	struct guest *g = &p->guests[id];
	struct event ev;
	g->swap_bytes += g->swapping ? MIB : 0;
	memset(&ev, 0, sizeof(ev));
	ev.type = EVENT_VM_STATS;
	ev.vm = id;
	ev.stats.has_actual = ev.stats.has_usable = ev.stats.has_available = ev.stats.has_swap = true;
	ev.stats.has_disk_caches = true;
	ev.stats.actual_bytes = g->actual_bytes;
	ev.stats.available_bytes = sub_sat_u64(g->actual_bytes, g->hidden_bytes);
	ev.stats.usable_bytes = sub_sat_u64(ev.stats.available_bytes, g->demand_bytes);
	ev.stats.swap_in_bytes = ev.stats.swap_out_bytes = g->swap_bytes;
	ev.stats.last_update_s = g->mute ? g->updates : ++g->updates;
	post(p, &ev);
}

static void send_sample(struct pair *p, vm_id id, enum event_type type)
{
	struct guest *g = &p->guests[id];
	struct event ev;
	g->faults += g->faulting ? 300 : 0;
	memset(&ev, 0, sizeof(ev));
	ev.type = type;
	ev.vm = id;
	uint64_t room = min_u64(g->actual_bytes, g->limit_bytes);
	ev.sample.has_memory = ev.sample.has_major_faults = true;
	ev.sample.resident_bytes = min_u64(room, max_u64(g->demand_bytes, g->max_bytes / 2)) + g->overhead_bytes;
	ev.sample.swapped_bytes = sub_sat_u64(g->demand_bytes, room);
	ev.sample.limit_bytes = g->limit_bytes;
	ev.sample.major_faults = g->faults;
	ev.sample.has_refaults = ev.sample.has_psi = true;
	ev.sample.refaults = g->refaults;
	ev.sample.psi_some_us = g->psi_some_us;
	ev.sample.under_oom = g->under_oom;
	ev.sample.has_overhead = g->measured;
	ev.sample.overhead_bytes = g->measured ? g->overhead_bytes : 0;
	ev.sample.guest_ram_bytes = g->measured ? g->actual_bytes : 0;
	g->measured = false;
	post(p, &ev);
}

/* Of a window of which nothing is known; it contradicts the guest, or it does not. */
static void send_wss(struct pair *p, vm_id id)
{
	struct guest *g = &p->guests[id];
	struct event ev;
	memset(&ev, 0, sizeof(ev));
	ev.type = EVENT_VM_WSS;
	ev.vm = id;
	ev.wss.known = !once_in(p, 5);
	ev.wss.backend = WSS_IDLE;
	ev.wss.wss_bytes = once_in(p, 2) ? g->demand_bytes : below(p, g->max_bytes);
	ev.wss.error_bytes = g->max_bytes / 50;
	ev.wss.began_ms = sub_sat_u64(p->a.now_ms, below(p, 30000));
	ev.wss.good_ms = below(p, 120000);
	post(p, &ev);
}

static void add_guest(struct pair *p, vm_id id)
{
	struct guest *g = &p->guests[id];
	*g = (struct guest){.there = true, .limit_bytes = LIMIT_NONE, .phase_ms = below(p, 1000)};
	g->max_bytes = g->actual_bytes = (1 + below(p, 4)) * 256 * MIB;
	g->demand_bytes = g->max_bytes / 8 * (1 + below(p, 6));
	g->hidden_bytes = below(p, 3) * 6 * MIB;
	struct event ev;
	memset(&ev, 0, sizeof(ev));
	ev.type = EVENT_VM_ADDED;
	ev.vm = id;
	ev.added.origin = once_in(p, 3) ? ORIGIN_ADOPT : ORIGIN_START;
	ev.added.facts = kit_facts(g->max_bytes);
	post(p, &ev);
	ev.type = EVENT_VM_RUNNING;
	post(p, &ev);
}

/* ---- what happens to a guest ---- */

static void signal_vm(struct pair *p, vm_id id, enum event_type type)
{
	struct event ev;
	memset(&ev, 0, sizeof(ev));
	ev.type = type;
	ev.vm = id;
	post(p, &ev);
}

static void flag_vm(struct pair *p, vm_id id, enum event_type type, bool flag)
{
	struct event ev;
	memset(&ev, 0, sizeof(ev));
	ev.type = type;
	ev.vm = id;
	ev.flag = flag;
	post(p, &ev);
}

static void learn_facts(struct pair *p, vm_id id)
{
	struct event ev;
	memset(&ev, 0, sizeof(ev));
	ev.type = EVENT_VM_FACTS;
	ev.vm = id;
	ev.facts = kit_facts(p->guests[id].max_bytes);
	ev.facts.policy.weight = 50 + (unsigned)below(p, 3) * 50;
	ev.facts.policy.min_bytes = below(p, 3) * 64 * MIB;
	ev.facts.eligible = !once_in(p, 6);
	ev.facts.policy.swap = !once_in(p, 4);
	post(p, &ev);
}

static void pin(struct pair *p, vm_id id)
{
	struct event ev;
	memset(&ev, 0, sizeof(ev));
	ev.type = EVENT_VM_PIN;
	ev.vm = id;
	ev.bytes = once_in(p, 2) ? 0 : p->guests[id].max_bytes / 4 * (1 + below(p, 4));
	post(p, &ev);
}

static void migrate_and_fail(struct pair *p, vm_id id)
{
	flag_vm(p, id, EVENT_VM_TRIM, !once_in(p, 3));
	signal_vm(p, id, EVENT_VM_MIGRATING_OUT);
	signal_vm(p, id, EVENT_VM_MIGRATION_OVER);
	flag_vm(p, id, EVENT_VM_TRIM, once_in(p, 2));
}

static void disturb_guest(struct pair *p, vm_id id)
{
	struct guest *g = &p->guests[id];
	switch (below(p, 26)) {
	case 0:
		signal_vm(p, id, EVENT_VM_REBOOTED);
		g->actual_bytes = g->max_bytes;
		break;
	case 1:
		signal_vm(p, id, g->paused ? EVENT_VM_RUNNING : EVENT_VM_PAUSED);
		g->paused = !g->paused;
		break;
	case 2:
		migrate_and_fail(p, id);
		break;
	case 3:
		flag_vm(p, id, EVENT_VM_QUARANTINE, once_in(p, 2));
		break;
	case 4:
		flag_vm(p, once_in(p, 3) ? 0 : id, EVENT_VM_HOLD, once_in(p, 3));
		break;
	case 5:
		if (once_in(p, 4))
			signal_vm(p, id, EVENT_VM_DRAIN);
		flag_vm(p, id, EVENT_VM_HOLD, false);
		break;
	case 6:
		learn_facts(p, id);
		break;
	case 7:
		pin(p, id);
		break;
	case 8:
		signal_vm(p, id, EVENT_VM_STOPPING);
		add_guest(p, id);
		break;
	case 9:
		g->mute = !g->mute;
		break;
	case 10:
		g->stuck = !g->stuck;
		break;
	case 11:
		g->limit_bytes = once_in(p, 2) ? LIMIT_NONE : g->max_bytes / 2;
		break;
	case 12:
		g->swap_bytes += below(p, 8) * MIB;
		break;
	case 13:
		g->faults += below(p, 200);
		break;
	case 14:
		g->under_oom = once_in(p, 3);
		break;
	case 15:
		g->overhead_bytes = below(p, 3) * 8 * MIB;
		g->measured = true;
		break;
	case 16:
		send_sample(p, id, EVENT_VM_RESIDENCY);
		break;
	case 17:
		g->updates = 0;
		break;
	case 18: /* both sides swap it */
		g->swapping = g->faulting = !g->swapping;
		g->demand_bytes = g->max_bytes;
		break;
	case 23:
		g->refaults += below(p, 4000);
		break;
	case 24:
		g->psi_some_us += below(p, 1000000);
		break;
	case 19: /* at its limit, and nothing is known of the guest */
		g->faulting = g->mute = !g->faulting;
		break;
	default:
		g->demand_bytes = g->max_bytes / 64 * (1 + below(p, 63)) + below(p, 2) * below(p, 40);
	}
}

static void configure(struct pair *p, const struct policy_ops *policy)
{
	struct event ev;
	memset(&ev, 0, sizeof(ev));
	ev.type = EVENT_CONFIG;
	p->config.policy = policy;
	p->config.pool_bytes = (1 + below(p, 8)) * 512 * MIB;
	p->config.observe = once_in(p, 8);
	p->config.swap_enabled = !once_in(p, 4);
	ev.config = &p->config;
	post(p, &ev);
}

static void disturb_host(struct pair *p, struct host_sample *h, const struct policy_ops *policy)
{
	switch (below(p, 7)) {
	case 0:
		configure(p, policy);
		break;
	case 1:
		h->swap_total_bytes = h->swap_free_bytes = once_in(p, 2) ? 0 : GIB;
		break;
	case 2:
		h->swap_free_bytes = h->swap_total_bytes / 32 * below(p, 33);
		break;
	case 3:
		h->mem_available_bytes = 512 * MIB / 4 * (1 + below(p, 12));
		break;
	case 4:
		p->a.now_ms += below(p, 4) * 1500;
		break;
	case 5:
		h->has_psi = true;
		h->psi_full_avg10 = (double)below(p, 50);
		h->mem_available_bytes = below(p, 3) * 256 * MIB;
		break;
	default:
		h->has_memory = !once_in(p, 4);
	}
}

/* A core made of the image of the one that rests goes on like it. */
static void restart(struct pair *p)
{
	struct core_image image;
	struct core *other = NULL;
	size_t n = core_vm_count(p->a.core);
	struct vm *vms = calloc(n ? n : 1, sizeof(*vms));
	assert_non_null(vms);
	for (size_t i = 0; i < n; i++)
		memcpy(&vms[i], core_vm_at(p->a.core, i), sizeof(vms[i]));
	core_image_get(p->a.core, &image);
	assert_int_equal(core_from_image(&image, vms, n, &other), 0);
	core_free(p->a.core);
	p->a.core = other;
	free(vms);
}

/* All is well again, so that somebody comes to rest. */
static void heal(struct pair *p, const struct policy_ops *policy)
{
	p->a.host = p->b.host = (struct host_sample){.has_memory = true,
						     .mem_total_bytes = 8 * GIB,
						     .mem_available_bytes = 4 * GIB,
						     .swap_total_bytes = GIB,
						     .swap_free_bytes = GIB};
	configure(p, policy);
	flag_vm(p, 0, EVENT_VM_HOLD, false);
	for (vm_id id = 1; id <= GUESTS; id++) {
		struct guest *g = &p->guests[id];
		struct event ev;
		memset(&ev, 0, sizeof(ev));
		ev.type = EVENT_VM_FACTS;
		ev.vm = id;
		ev.facts = kit_facts(g->max_bytes);
		post(p, &ev);
		ev.type = EVENT_VM_PIN;
		ev.bytes = 0;
		post(p, &ev);
		g->paused = g->mute = g->stuck = g->under_oom = g->swapping = g->faulting = false;
		flag_vm(p, id, EVENT_VM_QUARANTINE, false);
		flag_vm(p, id, EVENT_VM_HOLD, false);
		signal_vm(p, id, EVENT_VM_RUNNING);
	}
}

static void second(struct pair *p, const struct policy_ops *policy, uint64_t calm)
{
	uint64_t begin_ms = p->a.now_ms;
	for (vm_id id = 1; id <= GUESTS; id++) {
		if (once_in(p, calm))
			disturb_guest(p, id);
		if (once_in(p, 8 * calm))
			send_wss(p, id);
	}
	if (once_in(p, 4 * calm))
		disturb_host(p, &p->a.host, policy);
	if (once_in(p, 16 * calm))
		restart(p);
	begin_ms = max_u64(begin_ms, p->a.now_ms);
	for (vm_id id = 1; id <= GUESTS; id++) {
		if (p->guests[id].paused)
			continue;
		p->a.now_ms = max_u64(p->a.now_ms, begin_ms + p->guests[id].phase_ms);
		send_stats(p, id);
		if (once_in(p, 30))
			send_stats(p, id);
	}
	p->a.now_ms = max_u64(p->a.now_ms, begin_ms + 950);
	for (vm_id id = 1; id <= GUESTS; id++)
		if (once_in(p, 30))
			send_sample(p, id, EVENT_VM_SAMPLE);
	p->a.now_ms = begin_ms + 1000;
	for (vm_id id = 1; id <= GUESTS; id++)
		if (!once_in(p, 50))
			send_sample(p, id, EVENT_VM_SAMPLE);
	struct event ev;
	memset(&ev, 0, sizeof(ev));
	ev.type = EVENT_TICK;
	ev.host = p->a.host;
	post(p, &ev);
	if (core_next_wakeup_ms(p->a.core) <= p->a.now_ms) {
		memset(&ev, 0, sizeof(ev));
		ev.type = EVENT_TIMER;
		post(p, &ev);
	}
	p->rested += core_resting(p->a.core);
	p->looks += GUESTS;
	assert_int_equal(core_resting(p->b.core), 0);
}

static void pair_open(struct pair *p, const struct policy_ops *policy, uint64_t seed)
{
	memset(p, 0, sizeof(*p));
	p->seed = seed;
	p->config = kit_config();
	p->config.policy = policy;
	p->config.buffer_auto = seed % 2;
	p->config.grace_ms = 8000;
	p->config.dwell_ms = 5000;
	p->config.dwell_max_ms = 40000;
	p->config.retry_min_ms = 4000;
	p->config.retry_max_ms = 16000;
	kit_open(&p->a, &p->config);
	kit_open(&p->b, &p->config);
	core_set_rest(p->b.core, false);
	for (vm_id id = 1; id <= GUESTS; id++)
		add_guest(p, id);
}

static void rest_is_not_to_be_seen(void **state)
{
	const struct policy_ops *policy = *state;
	uint64_t rested = 0, looks = 0;
	for (uint64_t seed = 1; seed <= 24; seed++) {
		struct pair p;
		pair_open(&p, policy, seed);
		/* From hardly a calm moment to whole minutes of it. */
		for (uint64_t calm = 16; calm <= 4096; calm *= 4) {
			for (unsigned i = 0; i < 300; i++)
				second(&p, policy, calm);
			heal(&p, policy);
		}
		rested += p.rested;
		looks += p.looks;
		kit_close(&p.a);
		kit_close(&p.b);
	}
	assert_true(rested > looks / 200); /* peers keep everybody busy */
}

/* ---- one VM at rest ---- */

struct one {
	struct kit kit;
	struct vm_host_sample sample;
	uint64_t usable_bytes;
};

static void one_tells(struct one *o, bool sample, bool stats)
{
	struct event ev = {.type = EVENT_VM_SAMPLE, .vm = 1, .sample = o->sample};
	o->kit.now_ms += 400;
	if (sample)
		assert_int_equal(kit_step(&o->kit, &ev), 0);
	o->kit.now_ms += 400;
	if (stats)
		kit_stats(&o->kit, 1, 512 * MIB, o->usable_bytes);
}

static void one_second(struct one *o, bool sample, bool stats)
{
	one_tells(o, sample, stats);
	kit_tick(&o->kit, 200);
}

static void one_open(struct one *o)
{
	struct event ev = {.type = EVENT_VM_ADDED, .vm = 1};
	memset(o, 0, sizeof(*o));
	kit_open(&o->kit, NULL);
	ev.added.origin = ORIGIN_ADOPT;
	ev.added.facts = kit_facts(512 * MIB);
	ev.added.memory = (struct vm_memory){.known = true, .target_bytes = 512 * MIB, .health = BALLOON_WORKING};
	assert_int_equal(kit_step(&o->kit, &ev), 0);
	o->usable_bytes = 200 * MIB;
	o->sample = (struct vm_host_sample){
		.has_memory = true, .resident_bytes = 400 * MIB, .limit_bytes = LIMIT_NONE, .has_major_faults = true};
	for (unsigned i = 0; i < 200 && !core_resting(o->kit.core); i++)
		one_second(o, true, true);
	assert_int_equal(core_resting(o->kit.core), 1);
}

static void the_same_again_leaves_it_at_rest(void **unused)
{
	struct one o;
	one_open(&o);
	for (unsigned i = 0; i < 7200; i++) {
		one_second(&o, true, true);
		assert_int_equal(core_resting(o.kit.core), 1);
		assert_int_equal(o.kit.out.n, 0);
	}
	assert_true(kit_vm(&o.kit, 1)->estimate_ms == o.kit.now_ms); /* looked at, as far as anybody can see */
	kit_close(&o.kit);
}

/* Even those that mean nothing to a steady VM. */
static void every_kind_of_event_wakes_it(void **unused)
{
	for (int type = EVENT_VM_FACTS; type < EVENT_TYPE_END; type++) {
		struct one o;
		one_open(&o);
		struct event ev = {.type = type, .vm = 1};
		if (type == EVENT_VM_FACTS)
			ev.facts = kit_facts(512 * MIB);
		if (type == EVENT_VM_BALLOON)
			ev.bytes = 512 * MIB;
		assert_int_equal(kit_step(&o.kit, &ev), 0);
		if (core_resting(o.kit.core))
			print_error("event %d does not wake it\n", type);
		assert_int_equal(core_resting(o.kit.core), 0);
		kit_close(&o.kit);
	}
}

static void configuration_and_a_hold_of_all_wake_it(void **unused)
{
	struct one o;
	one_open(&o);
	struct event config = {.type = EVENT_CONFIG, .config = &o.kit.config};
	assert_int_equal(kit_step(&o.kit, &config), 0);
	assert_int_equal(core_resting(o.kit.core), 0);
	kit_close(&o.kit);
	one_open(&o);
	struct event hold = {.type = EVENT_VM_HOLD, .flag = true};
	assert_int_equal(kit_step(&o.kit, &hold), 0);
	assert_int_equal(core_resting(o.kit.core), 0);
	kit_close(&o.kit);
}

static void change(struct one *o, unsigned what)
{
	struct vm_host_sample *s = &o->sample;
	switch (what) {
	case 0:
		s->resident_bytes += 4096;
		break;
	case 1:
		s->swapped_bytes += 4096;
		break;
	case 2:
		s->limit_bytes = 450 * MIB;
		break;
	case 3:
		s->major_faults++;
		break;
	case 4:
		s->under_oom = true;
		break;
	case 5:
		s->has_overhead = true;
		break;
	case 6:
		s->has_refaults = true;
		break;
	case 7:
		s->has_memory = false;
		break;
	default:
		o->usable_bytes -= 4096;
	}
}

static void whatever_a_look_shows_anew_wakes_it(void **unused)
{
	for (unsigned what = 0; what < 9; what++) {
		struct one o;
		one_open(&o);
		change(&o, what);
		one_tells(&o, what < 8, what >= 8);
		if (core_resting(o.kit.core))
			print_error("change %u does not wake it\n", what);
		assert_int_equal(core_resting(o.kit.core), 0);
		kit_close(&o.kit);
	}
}

static void statistics_that_stop_coming_wake_it(void **unused)
{
	struct one o;
	one_open(&o);
	uint64_t last_ms = kit_vm(&o.kit, 1)->stats_ms, stale_ms = o.kit.config.stale_ms;
	while (o.kit.now_ms + 1000 - last_ms <= stale_ms) {
		one_second(&o, true, false);
		assert_int_equal(core_resting(o.kit.core), 1);
	}
	one_second(&o, true, false);
	assert_int_equal(core_resting(o.kit.core), 0);
	kit_close(&o.kit);
}

/* At rest demand falls as it does otherwise (the pair above tells), until less than a byte of it is left at a look. */
static void demand_falls_at_rest(void **unused)
{
	struct one o;
	one_open(&o);
	const struct vm *vm = kit_vm(&o.kit, 1);
	uint64_t before = vm->demand_bytes;
	o.usable_bytes += 100 * MIB;
	one_second(&o, true, true);
	assert_true(vm->demand_bytes < before);
	unsigned seconds = 0;
	do {
		before = vm->demand_bytes;
		one_second(&o, true, true);
		assert_int_equal(core_resting(o.kit.core), 1);
		seconds++;
	} while (vm->demand_bytes < before);
	assert_true(seconds > 60);
	assert_true(vm->demand_bytes - vm->used_bytes < 20);
	/* A tick that comes late makes more of what is left. */
	before = vm->demand_bytes;
	kit_tick(&o.kit, o.kit.config.stale_ms - 1000);
	assert_true(before == vm->used_bytes || vm->demand_bytes < before);
	kit_close(&o.kit);
}

static void a_host_that_loses_its_swap_wakes_all(void **unused)
{
	struct one o;
	one_open(&o);
	/* A limit that is memoc's, and may not be any more: opened in the very tick. */
	struct vm *vm = kit_vm(&o.kit, 1);
	vm->limit_known = vm->limit_ours = true;
	vm->limit_bytes = vm->limit_asked_bytes = o.sample.limit_bytes = 500 * MIB;
	for (unsigned i = 0; i < 20; i++)
		one_second(&o, true, true);
	assert_int_equal(core_resting(o.kit.core), 1);
	o.kit.host.swap_total_bytes = o.kit.host.swap_free_bytes = 0;
	one_second(&o, true, true);
	const struct effect *e = kit_find(&o.kit, EFFECT_LIMIT, 1);
	assert_non_null(e);
	assert_true(e->bytes == LIMIT_NONE);
	kit_close(&o.kit);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{"rest_is_not_to_be_seen: needy-greedy", rest_is_not_to_be_seen, NULL, NULL,
		 (void *)(uintptr_t)&policy_needy_greedy},
		{"rest_is_not_to_be_seen: static", rest_is_not_to_be_seen, NULL, NULL,
		 (void *)(uintptr_t)&policy_static},
		{"rest_is_not_to_be_seen: mom", rest_is_not_to_be_seen, NULL, NULL, (void *)(uintptr_t)&policy_mom},
		{"rest_is_not_to_be_seen: pve", rest_is_not_to_be_seen, NULL, NULL, (void *)(uintptr_t)&policy_pve},
		{"rest_is_not_to_be_seen: squeezed", rest_is_not_to_be_seen, NULL, NULL,
		 (void *)(uintptr_t)&policy_squeezed},
		cmocka_unit_test(the_same_again_leaves_it_at_rest),
		cmocka_unit_test(every_kind_of_event_wakes_it),
		cmocka_unit_test(configuration_and_a_hold_of_all_wake_it),
		cmocka_unit_test(whatever_a_look_shows_anew_wakes_it),
		cmocka_unit_test(statistics_that_stop_coming_wake_it),
		cmocka_unit_test(demand_falls_at_rest),
		cmocka_unit_test(a_host_that_loses_its_swap_wakes_all),
	};
	return cmocka_run_group_tests_name("core_rest", tests, NULL, NULL);
}
