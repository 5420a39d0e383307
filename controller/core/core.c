/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/core/core.h"
#include "controller/core/rest.h"
#include "controller/core/roster.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct core {
	struct core_config config;
	struct host_sample host;
	struct books books;
	struct roster roster;
	bool no_rest;
	bool hold_all;
	uint64_t now_ms;
	struct policy_host policy_memory;
	uint64_t given_bytes;	 /* raised since the last tick */
	double given_peak_per_s; /* decaying */
};

/* The sums follow each VM as it changes; the books are brought up to them where a decision begins or a step ends. */
static void post_books(struct core *c)
{
	books_set(&c->books, &c->config, &c->roster.sums, c->roster.n);
}

static void note_change(struct core *c, const struct vm *vm)
{
	roster_changed(&c->roster, roster_find(&c->roster, vm->id));
}

int core_new(const struct core_config *config, struct core **ret)
{
	if (!config->policy || !config->interval_ms)
		return -EINVAL;
	struct core *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->config = *config;
	c->books.buffer_target_bytes = config->buffer_bytes;
	c->books.level = LEVEL_HIGH;
	post_books(c);
	*ret = c;
	return 0;
}

struct core *core_free(struct core *c)
{
	if (!c)
		return NULL;
	roster_clear(&c->roster);
	free(c);
	return NULL;
}

void core_set_rest(struct core *c, bool rest)
{
	c->no_rest = !rest;
	roster_wake_all(&c->roster);
}

const struct books *core_books(const struct core *c)
{
	return &c->books;
}

const struct core_config *core_config(const struct core *c)
{
	return &c->config;
}

const struct host_sample *core_host(const struct core *c)
{
	return &c->host;
}

bool core_hold_all(const struct core *c)
{
	return c->hold_all;
}

size_t core_vm_count(const struct core *c)
{
	return c->roster.n;
}

const struct vm *core_vm_at(const struct core *c, size_t i)
{
	return i < c->roster.n ? c->roster.vms[i] : NULL;
}

static struct vm *find(const struct core *c, vm_id id)
{
	size_t seat = roster_find(&c->roster, id);
	return seat == NO_SEAT ? NULL : c->roster.vms[seat];
}

const struct vm *core_vm(const struct core *c, vm_id id)
{
	return find(c, id);
}

/* One VM can tell at most about a dozen things in one step (needy, halt, target, state × 4, balloon, limit, level …).
 */
#define EFFECTS_PER_VM 24

size_t core_effects_max(const struct core *c)
{
	return (c->roster.n + 1) * EFFECTS_PER_VM + 8;
}

static struct vm_ctx context(struct core *c, struct effects *out)
{
	return (struct vm_ctx){.config = &c->config,
			       .host = &c->host,
			       .swap_low = c->books.swap_low,
			       .hold_all = c->hold_all,
			       .level = c->books.level,
			       .buffer_bytes = c->books.buffer_bytes,
			       .now_ms = c->now_ms,
			       .out = out};
}

/* ---- planning ---- */

/* The size that a VM has or is on its way to: what a plan is compared with. */
static uint64_t planned_now(const struct vm *vm)
{
	return vm->state == VM_STEADY ? vm_size_bytes(vm) : vm->target_bytes;
}

static void note_reversal(struct vm *vm, struct vm_ctx *x, bool raise)
{
	const struct core_config *c = x->config;
	uint64_t since = vm->shrink_ms == NEVER_MS ? NEVER_MS : x->now_ms - vm->shrink_ms;
	/* Several helpings after one shrink are one reversal. */
	bool turned = vm->shrink_ms != NEVER_MS && (vm->grow_ms == NEVER_MS || vm->grow_ms < vm->shrink_ms);
	if (raise && turned && since < c->dwell_ms)
		vm->dwell_ms = min_u64(vm->dwell_ms * 2, c->dwell_max_ms);
	else if (raise && since > 2 * vm->dwell_ms)
		vm->dwell_ms = c->dwell_ms;
	if (raise)
		vm->grow_ms = x->now_ms;
	else
		vm->shrink_ms = x->now_ms;
}

#define PAGE_BYTES 4096 /* no balloon moves less */

static void apply_plan(struct core *c, struct vm *vm, struct vm_ctx *x)
{
	const struct policy_ops *policy = x->config->policy;
	bool own = policy->own_bounds && !vm->pinned_bytes;
	uint64_t now = planned_now(vm), all = vm->facts.max_bytes;
	uint64_t plan = own ? clamp_u64(vm->plan_bytes, min_u64(MIB, all), all)
			    : clamp_u64(vm->plan_bytes, vm_min_bytes(vm, x->config), vm_max_bytes(vm));
	/* A pin, or a policy that shares all out, waits until it has migrated, or has not. */
	if (vm->trim_until_ms && !vm->needy && plan > now)
		plan = clamp_u64(vm->need_bytes, now, plan);
	uint64_t diff = plan > now ? plan - now : now - plan;
	uint64_t band = vm_dead_band_bytes(vm, x->config), least = own ? PAGE_BYTES : band;
	/* A person's word is worth a small resize; nearer than this counts as reached (resize.c). */
	if (vm->pinned_bytes)
		least = max_u64(MIB, band / 4) + PAGE_BYTES;
	/* Where somebody is in need little is worth a resize, however large the VM is. */
	if (!own && (plan > now ? vm->needy : x->level >= LEVEL_HARD))
		least = min_u64(least, 4 * MIB);
	bool limit_now = x->level >= LEVEL_HARD && vm_limit_allowed(vm, x) && vm->state == VM_SHRINKING_BALLOON;
	if (diff < least && !(diff && plan == vm_max_bytes(vm) && vm->pinned_bytes)) {
		if (limit_now && !x->config->observe) {
			vm_signal(vm, SIG_LOWER_NOW, x);
			note_change(c, vm);
		}
		return;
	}
	if (plan < now && vm->needy && !vm->pinned_bytes && !own && !vm_doubted(vm, &c->books))
		return;
	bool any_way = own && policy->balloon_only; /* peers ask, whatever came of it the last time */
	if (plan < now && !any_way && plan < vm_shrink_floor_bytes(vm, x)) { /* no way: not tried again each tick */
		vm->bounds |= BOUND_NO_SWAP;
		return;
	}
	if (x->config->observe) {
		uint64_t off = plan > vm->would_bytes ? plan - vm->would_bytes : vm->would_bytes - plan;
		if (off >= vm_dead_band_bytes(vm, x->config))
			record(x, vm, RECORD_WOULD, now, plan, "%s", vm->plan_reason);
		vm->would_bytes = off >= vm_dead_band_bytes(vm, x->config) ? plan : vm->would_bytes;
		return;
	}
	vm->target_bytes = plan;
	memcpy(vm->reason, vm->plan_reason, sizeof(vm->reason));
	note_reversal(vm, x, plan > now);
	record(x, vm, RECORD_TARGET, now, plan, "%s", vm->reason);
	if (plan > now) {
		c->given_bytes = add_sat_u64(c->given_bytes, plan - now);
		vm->needy_rounds += vm->needy;
		vm_signal(vm, SIG_RAISE, x);
	} else {
		vm_signal(vm, vm->plan_urgent && vm_limit_allowed(vm, x) ? SIG_LOWER_NOW : SIG_LOWER, x);
	}
	note_change(c, vm);
}

static void update_books(struct core *c, struct vm_ctx *x)
{
	c->roster.sums_moved = false;
	post_books(c);
	enum host_level before = c->books.level;
	c->books.level = books_level(&c->books, before, &c->config, &c->host);
	x->level = c->books.level;
	if (before != c->books.level)
		record(x, NULL, RECORD_LEVEL, c->books.buffer_target_bytes,
		       c->books.buffer_bytes > 0 ? (uint64_t)c->books.buffer_bytes : 0, "%s -> %s",
		       host_level_name(before), host_level_name(c->books.level));
}

/* Asked at ticks: a policy with an interval of its own is not hastened by events. Half a tick early is in time. */
static bool round_due(struct core *c)
{
	uint64_t interval_ms = c->config.policy->interval_ms;
	if (!interval_ms)
		return true;
	struct policy_host *m = &c->policy_memory;
	if (m->round_made && c->now_ms - m->round_ms + c->config.interval_ms / 2 < interval_ms)
		return false;
	m->round_made = 1;
	m->round_ms = c->now_ms;
	return true;
}

/* Where the policy knows nothing of pins: a person's word, as far as there is memory for it. */
static void follow_pin(struct core *c, struct vm *vm, struct vm_ctx *x)
{
	uint64_t now = planned_now(vm), most = add_sat_u64(now, books_available(&c->books, &c->config, &c->host));
	vm->plan_bytes = min_u64(clamp_u64(vm->pinned_bytes, vm_min_bytes(vm, x->config), vm_max_bytes(vm)), most);
	snprintf(vm->plan_reason, sizeof(vm->plan_reason), "pinned by memoc resize");
	apply_plan(c, vm, x);
	post_books(c);
}

/* Every VM that is shown to a policy wishes what it has, until the policy says something else. */
static void prepare(struct vm *vm, const struct core_config *config)
{
	uint64_t now = planned_now(vm);
	vm->plan_bytes = config->policy->own_bounds ? now : clamp_u64(now, vm_min_bytes(vm, config), vm_max_bytes(vm));
	vm->plan_urgent = false;
	vm->bounds = 0;
	const char *why = vm->plan_bytes > now	 ? "its minimum is guaranteed"
			  : vm->plan_bytes < now ? "its maximum is lower"
						 : "nothing to do";
	memcpy(vm->plan_reason, why, strlen(why) + 1); /* in every round, for every VM that changed: no snprintf() */
}

static bool wishes(const struct vm *vm, const struct core_config *config)
{
	const struct policy_ops *policy = config->policy;
	return vm->pinned_bytes || (!policy->own_bounds && vm->plan_bytes != planned_now(vm)) ||
	       (policy->wishes && policy->wishes(vm, config));
}

/* Prepares what changed since the last round; returns whether the whole round would change nothing more. */
static bool nothing_to_plan(struct core *c, struct vm_ctx *x, bool due)
{
	struct roster *r = &c->roster;
	const struct policy_ops *policy = c->config.policy;
	for (size_t k = 0; k < r->touched_n; k++) {
		struct seat *seat = &r->seats[r->touched[k]];
		struct vm *vm = r->vms[r->touched[k]];
		bool plannable = vm_plannable(vm, x);
		if (plannable)
			prepare(vm, x->config);
		r->wishes_n -= seat->wishes;
		seat->wishes = plannable && wishes(vm, x->config);
		r->wishes_n += seat->wishes;
		seat->touched = false;
	}
	r->touched_n = 0;
	return !c->no_rest && !r->wishes_n && (!due || (policy->at_ease && policy->at_ease(&c->books)));
}

static void plan_all(struct core *c, struct vm_ctx *x, bool due)
{
	struct roster *r = &c->roster;
	bool own = c->config.policy->own_bounds;
	struct plan p = {.config = &c->config,
			 .host = &c->host,
			 .books = &c->books,
			 .ctx = x,
			 .vms = r->round,
			 .all = r->vms,
			 .all_n = r->n,
			 .now_ms = c->now_ms,
			 .memory = &c->policy_memory};
	for (size_t i = 0; i < r->n; i++) {
		struct vm *vm = r->vms[i];
		if (!vm_plannable(vm, x))
			continue;
		prepare(vm, x->config);
		roster_touch(r, i);
		if (own && vm->pinned_bytes)
			follow_pin(c, vm, x);
		else if (due)
			p.vms[p.n++] = vm;
	}
	if (due)
		c->config.policy->plan(&p);
	for (size_t i = 0; i < p.n; i++) {
		struct vm *vm = p.vms[i];
		if (vm->accused) { /* its estimates are for nothing now: the next round plans it */
			vm_accuse(vm, x);
			note_change(c, vm);
		} else {
			apply_plan(c, vm, x);
		}
	}
}

static void plan_round(struct core *c, struct vm_ctx *x, bool due)
{
	update_books(c, x);
	if (!nothing_to_plan(c, x, due))
		plan_all(c, x, due);
	else if (due)
		c->books.unmet_bytes = 0;
	post_books(c);
}

static void replan(struct core *c, struct vm_ctx *x)
{
	plan_round(c, x, c->config.policy->interval_ms == 0);
}

/* ---- host events ---- */

static void watch_swap(struct core *c, struct vm_ctx *x)
{
	const struct host_sample *h = &c->host;
	bool exists = h->has_memory && h->swap_total_bytes > 0;
	uint64_t keep = min_u64(c->config.keep_free_bytes, h->swap_total_bytes / 4);
	bool low = exists && h->swap_free_bytes < (c->books.swap_low ? keep + keep / 4 : keep);
	if (low != c->books.swap_low)
		record(x, NULL, low ? RECORD_SWAP_LOW : RECORD_SWAP_LOW_OVER, h->swap_total_bytes, h->swap_free_bytes,
		       low ? "nothing more is swapped by limits" : "limits may be used again");
	c->books.swap_low = x->swap_low = low;
}

/*
 * The buffer is as large as growth seen times the time to react (a second), between half of what was configured as a
 * start and all of it: larger only wastes memory, smaller is relearned at the price of the next spike.
 */
static void size_buffer(struct core *c)
{
	double given_per_s = (double)c->given_bytes * 1000 / (double)c->config.interval_ms;
	c->given_bytes = 0;
	c->given_peak_per_s *= 1 - 1.0 / 600; /* forgotten over ten minutes of ticks */
	if (given_per_s > c->given_peak_per_s)
		c->given_peak_per_s = given_per_s;
	uint64_t start = c->config.buffer_bytes;
	if (!c->config.buffer_auto || c->given_peak_per_s <= 0 || c->given_peak_per_s >= (double)start)
		c->books.buffer_target_bytes = start;
	else
		c->books.buffer_target_bytes = max_u64((uint64_t)c->given_peak_per_s, start / 2);
}

/* What of the host decides whether limits may be used (vm_limit_forbidden_why()). */
static bool limits_differ(const struct host_sample *a, const struct host_sample *b)
{
	return a->has_memory != b->has_memory || !a->swap_total_bytes != !b->swap_total_bytes;
}

/* What vm_estimate() makes of the same input when time passes: the only of a VM at rest that may change. */
static void copy_estimates(struct vm *to, const struct vm *from)
{
	to->estimate_ms = from->estimate_ms;
	to->used_ms = from->used_ms;
	if (from->past_n && to->past_n == from->past_n)
		to->past_ms[to->past_n - 1] = from->past_ms[from->past_n - 1];
	to->demand_bytes = from->demand_bytes;
	to->headroom_bytes = from->headroom_bytes;
	to->need_bytes = from->need_bytes;
	to->greedy_bytes = from->greedy_bytes;
}

struct estimates {
	uint64_t demand_bytes, headroom_bytes, need_bytes, greedy_bytes;
};

static struct estimates estimates_of(const struct vm *vm)
{
	return (struct estimates){.demand_bytes = vm->demand_bytes,
				  .headroom_bytes = vm->headroom_bytes,
				  .need_bytes = vm->need_bytes,
				  .greedy_bytes = vm->greedy_bytes};
}

static bool same_estimates(const struct estimates *a, const struct vm *vm)
{
	return a->demand_bytes == vm->demand_bytes && a->headroom_bytes == vm->headroom_bytes &&
	       a->need_bytes == vm->need_bytes && a->greedy_bytes == vm->greedy_bytes;
}

/* Padding included: `before` was copied with it, and where it differs all the same a VM just does not come to rest. */
static bool same_bytes(const void *a, const void *b, size_t n)
{
	return memcmp(a, b, n) == 0;
}

static void tick_vm(struct core *c, size_t i, struct vm_ctx *x)
{
	struct vm *vm = c->roster.vms[i], before;
	bool may_rest = !c->no_rest && vm_rest_until_ms(vm, x) > x->now_ms;
	size_t effects = x->out->n;
	if (may_rest)
		memcpy(&before, vm, sizeof(before));
	vm_timer(vm, x);
	vm_estimate(vm, x);
	vm_watch_double_swap(vm, x);
	vm_maintain(vm, x);
	roster_changed(&c->roster, i);
	if (!may_rest || effects != x->out->n || vm->used_ms != x->now_ms)
		return;
	const struct estimates was = estimates_of(&before);
	c->roster.seats[i].still = same_estimates(&was, vm);
	copy_estimates(&before, vm);
	if (same_bytes(&before, vm, sizeof(before)))
		c->roster.seats[i].rest_until_ms = vm_rest_until_ms(vm, x);
}

static bool rests(const struct core *c, size_t seat)
{
	return c->now_ms < c->roster.seats[seat].rest_until_ms &&
	       vm_stats_fresh(c->roster.vms[seat], &c->config, c->now_ms);
}

/* A VM at rest is looked at again, by a tick or by statistics that say the same. */
static void look_again(struct core *c, size_t i, struct vm_ctx *x, bool stats)
{
	struct seat *seat = &c->roster.seats[i];
	struct vm *vm = c->roster.vms[i];
	if (seat->still && !vm_falls(vm, c->now_ms)) {
		if (!stats)
			vm_note_use(vm, c->now_ms);
		if (!stats || vm_estimate_again(vm, x))
			return;
		seat->still = false;
	} else {
		const struct estimates before = estimates_of(vm);
		vm_estimate(vm, x);
		seat->still = same_estimates(&before, vm);
	}
	if (!seat->still)
		roster_touch(&c->roster, i);
	if (vm->needy)
		roster_changed(&c->roster, i);
}

size_t core_resting(const struct core *c)
{
	size_t n = 0;
	for (size_t i = 0; i < c->roster.n; i++)
		n += rests(c, i);
	return n;
}

static void tick(struct core *c, const struct event *ev, struct vm_ctx *x)
{
	bool swap_low = x->swap_low, limits = limits_differ(&c->host, &ev->host);
	c->host = ev->host;
	watch_swap(c, x);
	size_buffer(c);
	if (limits || swap_low != x->swap_low)
		roster_wake_all(&c->roster);
	for (size_t i = 0; i < c->roster.n; i++)
		if (rests(c, i))
			look_again(c, i, x, false);
		else
			tick_vm(c, i, x);
	plan_round(c, x, round_due(c));
}

/* Another policy takes over: nothing that the one before kept means anything to it. */
static void forget_policy(struct core *c)
{
	c->books.unmet_bytes = 0;
	memset(&c->policy_memory, 0, sizeof(c->policy_memory));
	for (size_t i = 0; i < c->roster.n; i++) {
		memset(&c->roster.vms[i]->policy_memory, 0, sizeof(c->roster.vms[i]->policy_memory));
		c->roster.vms[i]->rank = 0;
	}
}

static int configure(struct core *c, const struct event *ev, struct vm_ctx *x)
{
	if (!ev->config || !ev->config->policy || !ev->config->interval_ms)
		return -EINVAL;
	if (c->config.policy != ev->config->policy)
		forget_policy(c);
	c->config = *ev->config;
	c->books.buffer_target_bytes = c->config.buffer_bytes;
	roster_wake_all(&c->roster);
	for (size_t i = 0; i < c->roster.n; i++)
		c->roster.vms[i]->dwell_ms =
			clamp_u64(c->roster.vms[i]->dwell_ms, c->config.dwell_ms, c->config.dwell_max_ms);
	replan(c, x);
	return 0;
}

static void hold(struct core *c, struct vm *vm, bool flag, struct vm_ctx *x)
{
	if (!vm)
		x->hold_all = c->hold_all = flag;
	record(x, vm, flag ? RECORD_HELD : RECORD_RELEASED, 0, 0, "by memoc %s", flag ? "hold" : "release");
	for (size_t i = 0; i < c->roster.n; i++) {
		struct vm *each = c->roster.vms[i];
		if (vm && each != vm)
			continue;
		if (vm || !flag)
			each->held = flag;
		each->drained = each->drained && flag;
		/* A shrink under way would go on step by step. */
		if (flag && (each->state == VM_SHRINKING_BALLOON || each->state == VM_SHRINKING_LIMIT))
			vm_signal(each, SIG_NEEDY, x);
		roster_changed(&c->roster, i);
	}
}

/* ---- VM events ---- */

#define TRIM_MS 120000 /* its migration begins within that time, or whoever wanted it tells again, or is gone */

/* What an earlier controller knew; the balloon's word is believed where it was learned from this same guest. */
static void adopt(struct vm *vm, const struct vm_memory *m, uint64_t now_ms, const struct core_config *config)
{
	uint64_t wait_ms = min_u64(config->grace_ms, 5000);
	if (!m->known) {
		vm->deadline_ms = now_ms + wait_ms;
		return;
	}
	if (m->overhead_bytes) {
		vm->overhead_bytes = m->overhead_bytes;
		vm->overhead_measured = true;
	}
	vm->limit_ours = m->limit_ours;
	vm->advice_limit_bytes = m->limit_ours ? m->advice_limit_bytes : 0;
	vm->target_bytes = min_u64(m->target_bytes, vm->facts.max_bytes);
	vm->silent = m->silent;
	vm->distrusted = m->distrusted;
	vm->by_limit = m->by_limit || m->silent || m->distrusted;
	vm->claim_ms = vm->evidence_ms = now_ms;
	vm->balloon_asked_bytes = vm->by_limit ? vm->facts.max_bytes : vm->target_bytes;
	vm->balloon_unsure = true;
	vm->health = m->health ? m->health : BALLOON_UNKNOWN;
	vm->speed_bytes_per_s = m->speed_bytes_per_s;
	vm->floor_bytes = min_u64(m->floor_bytes, vm->facts.max_bytes);
	vm->retry_delay_ms = min_u64(m->retry_delay_ms, config->retry_max_ms);
	vm->retry_at_ms = vm->retry_delay_ms ? now_ms + vm->retry_delay_ms : NEVER_MS;
	vm->pinned_bytes = min_u64(m->pinned_bytes, vm->facts.max_bytes);
	vm->held = m->held;
	vm->drained = m->drained;
	vm->trim_from_bytes = m->trim_from_bytes;
	vm->trim_until_ms = m->trim_from_bytes ? now_ms + TRIM_MS : 0;
	/* Asked for all: less is what the guest had before it was reset, or somebody else's doing. Its own total tells.
	 */
	vm->actual_stale = m->target_bytes >= vm->facts.max_bytes;
	vm->actual_trusted =
		m->target_bytes && !vm->actual_stale &&
		(vm->health == BALLOON_WORKING || vm->health == BALLOON_SLOW || vm->health == BALLOON_STALLED);
	vm->actual_bytes = vm->actual_trusted ? vm->target_bytes : 0; /* until it is read: the best guess there is */
	vm->deadline_ms = now_ms + (vm->health == BALLOON_ABSENT ? min_u64(wait_ms, 2000) : wait_ms);
}

/* ---- before a migration ---- */

static void begin_trim(struct vm *vm, struct vm_ctx *x)
{
	uint64_t now = planned_now(vm), spare = vm_spare_bytes(vm, x, NULL);
	if (!spare && !vm->trim_until_ms)
		return;
	if (!vm->trim_until_ms)
		vm->trim_from_bytes = now;
	vm->trim_until_ms = x->now_ms + TRIM_MS;
	if (!spare)
		return;
	vm->target_bytes = vm_size_bytes(vm) - spare;
	snprintf(vm->reason, sizeof(vm->reason), "about to migrate: %llu MiB that it does not need are not sent",
		 (unsigned long long)(spare / MIB));
	record(x, vm, RECORD_TARGET, now, vm->target_bytes, "%s", vm->reason);
	vm_signal(vm, SIG_LOWER, x);
}

/* It did not migrate: the size of before, as far as there is memory for it. What is pinned goes there by itself. */
static void end_trim(struct core *c, struct vm *vm, struct vm_ctx *x)
{
	uint64_t now = planned_now(vm), most = add_sat_u64(now, books_available(&c->books, &c->config, &c->host));
	uint64_t from = min_u64(min_u64(vm->trim_from_bytes, vm_max_bytes(vm)), most);
	vm->trim_until_ms = 0;
	if (vm->pinned_bytes || from < add_sat_u64(now, PAGE_BYTES))
		return;
	vm->target_bytes = from;
	snprintf(vm->reason, sizeof(vm->reason), "it did not migrate: back to its size of before");
	record(x, vm, RECORD_TARGET, now, from, "%s", vm->reason);
	vm_signal(vm, SIG_RAISE, x);
}

#define TRIM_AGAIN_MS 10000 /* paused, migrating or held meanwhile */

static void trim_timer(struct core *c, struct vm *vm, struct vm_ctx *x)
{
	if (!vm->trim_until_ms || x->now_ms < vm->trim_until_ms)
		return;
	if (vm_plannable(vm, x))
		end_trim(c, vm, x);
	else
		vm->trim_until_ms = x->now_ms + TRIM_AGAIN_MS;
}

/* It was taken for one that boots, as nobody had said yet that it comes from elsewhere. */
static int arrive(struct vm *vm, const struct event *ev, struct vm_ctx *x)
{
	if (ev->added.origin != ORIGIN_INCOMING || vm->origin != ORIGIN_START || vm->state != VM_STARTING)
		return -EEXIST;
	vm->origin = ORIGIN_INCOMING;
	vm->state = VM_MIGRATING_IN;
	vm->carried_bytes = min_u64(ev->added.carried_bytes, vm->facts.max_bytes);
	vm->change_ms = x->now_ms;
	vm->deadline_ms = NEVER_MS;
	snprintf(vm->reason, sizeof(vm->reason), "arrives by migration");
	record(x, vm, RECORD_ADDED, vm->carried_bytes, vm->facts.max_bytes, "incoming migration, not a boot");
	return 0;
}

static int add(struct core *c, const struct event *ev, struct vm_ctx *x)
{
	if (!ev->vm || !ev->added.facts.max_bytes || !ev->added.facts.policy.weight)
		return -EINVAL;
	if (find(c, ev->vm))
		return arrive(find(c, ev->vm), ev, x);
	struct vm *vm = roster_add(&c->roster, ev->vm);
	if (!vm)
		return -ENOMEM;
	vm->origin = ev->added.origin;
	vm->state = vm->origin == ORIGIN_INCOMING ? VM_MIGRATING_IN : VM_STARTING;
	vm->facts = ev->added.facts;
	vm->carried_bytes = min_u64(ev->added.carried_bytes, vm->facts.max_bytes);
	vm->added_ms = vm->change_ms = c->now_ms;
	vm->overhead_bytes = vm->facts.overhead_guess_bytes;
	vm->health = vm->facts.has_balloon ? BALLOON_UNKNOWN : BALLOON_ABSENT;
	vm->dwell_ms = c->config.dwell_ms;
	vm->limit_bytes = LIMIT_NONE;
	vm->retry_at_ms = vm->op_ms = vm->grow_ms = vm->shrink_ms = vm->estimate_ms = vm->inhibit_suspect_ms = NEVER_MS;
	vm->faulting_ms = NEVER_MS;
	vm->limit_drift_ms = vm->used_ms = vm->growth_from_ms = vm->usable_ms = vm->wss_ms = vm->untouched_ms =
		NEVER_MS;
	vm->deadline_ms = c->now_ms + c->config.grace_ms;
	if (vm->state == VM_MIGRATING_IN)
		vm->deadline_ms = NEVER_MS;
	if (vm->origin == ORIGIN_ADOPT)
		adopt(vm, &ev->added.memory, c->now_ms, &c->config);
	else if (ev->added.memory.known)
		vm->held = ev->added.memory.held,
		vm->pinned_bytes = min_u64(ev->added.memory.pinned_bytes, vm->facts.max_bytes);
	if (!vm->target_bytes)
		vm->target_bytes = vm->facts.max_bytes;
	snprintf(vm->reason, sizeof(vm->reason), "%s",
		 vm->origin == ORIGIN_ADOPT	 ? "adopted as it was found"
		 : vm->origin == ORIGIN_INCOMING ? "arrives by migration"
						 : "starting");
	record(x, vm, RECORD_ADDED, vm->carried_bytes, vm->facts.max_bytes, "%s",
	       vm->origin == ORIGIN_START      ? "starting"
	       : vm->origin == ORIGIN_INCOMING ? "incoming migration"
					       : "was running already");
	return 0;
}

static void drop(struct core *c, struct vm *vm, struct vm_ctx *x)
{
	vm_signal(vm, SIG_STOP, x);
	vm_advice_gone(vm, x);
	record(x, vm, RECORD_GONE, vm->target_bytes, 0, "stopped");
	effect_add(x->out, EFFECT_FORGET, vm->id);
	roster_remove(&c->roster, roster_find(&c->roster, vm->id));
}

static void learn_facts(struct vm *vm, const struct vm_facts *f, struct vm_ctx *x)
{
	const struct vm_facts *o = &vm->facts;
	bool changed = o->max_bytes != f->max_bytes || o->eligible != f->eligible || o->has_balloon != f->has_balloon ||
		       o->policy.min_bytes != f->policy.min_bytes || o->policy.max_bytes != f->policy.max_bytes ||
		       o->policy.weight != f->policy.weight || o->policy.balloon != f->policy.balloon ||
		       o->policy.swap != f->policy.swap || o->policy.managed != f->policy.managed;
	if (!changed)
		return;
	uint64_t before = vm->facts.max_bytes;
	vm->facts = *f;
	if (!vm->overhead_measured)
		vm->overhead_bytes = f->overhead_guess_bytes;
	vm->target_bytes = min_u64(vm->target_bytes, f->max_bytes);
	if (!f->has_balloon)
		vm->health = BALLOON_ABSENT;
	record(x, vm, RECORD_FACTS, before, f->max_bytes,
	       "min %llu MiB, max %llu MiB, weight %u, balloon %s, swap %s%s",
	       (unsigned long long)(vm_min_bytes(vm, x->config) / MIB), (unsigned long long)(vm_max_bytes(vm) / MIB),
	       f->policy.weight, f->policy.balloon ? "yes" : "no", f->policy.swap ? "yes" : "no",
	       f->eligible ? "" : ", not eligible");
}

static void quarantine(struct vm *vm, bool flag, struct vm_ctx *x)
{
	if (vm->quarantined == flag)
		return;
	vm->quarantined = flag;
	record(x, vm, flag ? RECORD_QUARANTINED : RECORD_QUARANTINE_OVER, 0, 0,
	       flag ? "a libvirt call for it does not come back" : "libvirt answers for it again");
	if (flag)
		vm_signal(vm, SIG_BALLOON_SKIP, x);
}

/* The way out: everything back to the VM, and hands off. */
static void drain(struct vm *vm, struct vm_ctx *x)
{
	vm->held = vm->drained = true;
	vm->pinned_bytes = 0;
	vm->advice_limit_bytes = 0;
	vm->target_bytes = vm->facts.max_bytes;
	snprintf(vm->reason, sizeof(vm->reason), "drained by memoc drain");
	record(x, vm, RECORD_DRAINED, vm_size_bytes(vm), vm->target_bytes, "limits opened, balloon deflated, held");
	enum vm_state before = vm->state;
	vm_signal(vm, SIG_RAISE, x);
	bool closed = vm->limit_known && vm->limit_bytes != LIMIT_NONE;
	if (vm->state == VM_FIXED && !vm->limit_ours) /* a limit on it is somebody else's, and stays */
		return;
	bool asked = vm->limit_pending && vm->limit_asked_bytes == LIMIT_NONE;
	if (vm->state == before && (closed || vm->limit_pending) && !asked)
		vm_send_limit(vm, x, LIMIT_NONE);
}

static void vm_result(struct vm *vm, const struct event *ev, struct vm_ctx *x)
{
	if (ev->result.op == OP_BALLOON && ev->result.seq == vm->balloon_seq)
		vm_balloon_result(vm, x, ev->result.code);
	else if (ev->result.op == OP_LIMIT && ev->result.seq == vm->limit_seq)
		vm_limit_result(vm, x, ev->result.code, ev->result.bytes);
}

/* Waiting for the tick would cost a needy VM up to a second. */
static bool cannot_wait(const struct vm *vm)
{
	return vm->needy || vm_size_bytes(vm) < add_sat_u64(vm->demand_bytes, vm->headroom_bytes / 4);
}

static bool take_stats(struct vm *vm, const struct event *ev, struct vm_ctx *x)
{
	unsigned before = vm->stats_advances;
	vm_take_stats(vm, x, &ev->stats);
	if (vm->stats_advances == before)
		return false;
	if (vm->stats_advances >= 2)
		vm_signal(vm, SIG_FRESH, x);
	vm_estimate(vm, x);
	return cannot_wait(vm);
}

static bool take_residency(struct vm *vm, const struct event *ev, struct vm_ctx *x)
{
	if (!vm_surge_visible(vm, x->config, x->now_ms) || !ev->sample.has_memory)
		return false;
	vm_take_residency(vm, x, &ev->sample);
	vm_estimate(vm, x);
	return cannot_wait(vm);
}

static bool take_wss(struct vm *vm, const struct event *ev, struct vm_ctx *x)
{
	vm_take_wss(vm, x, &ev->wss);
	vm_estimate(vm, x);
	return cannot_wait(vm);
}

/* A VM that is adopted is as small as its limit: the books need not wait for the tick to know. */
static void learn_limit(struct vm *vm)
{
	if (vm->limit_known || vm->limit_pending || !vm->sample.has_memory)
		return;
	vm->limit_known = true;
	vm->limit_bytes = vm->sample.limit_bytes;
}

/* Returns whether a new plan is wanted at once. */
static bool vm_event(struct core *c, struct vm *vm, const struct event *ev, struct vm_ctx *x)
{
	switch (ev->type) {
	case EVENT_VM_FACTS:
		learn_facts(vm, &ev->facts, x);
		return true;
	case EVENT_VM_RUNNING:
		vm_signal(vm, SIG_RUNNING, x);
		return false;
	case EVENT_VM_PAUSED:
		vm_signal(vm, SIG_PAUSE, x);
		return false;
	case EVENT_VM_REBOOTED:
		vm_signal(vm, SIG_REBOOT, x);
		return true;
	case EVENT_VM_MIGRATING_OUT:
		vm_signal(vm, SIG_MIGRATE_OUT, x);
		vm_advice_pass(vm, x, ev->pass);
		return false;
	case EVENT_VM_MIGRATION_OVER:
		vm_signal(vm, SIG_MIGRATE_OVER, x);
		vm_advice_over(vm, x);
		if (vm->trim_until_ms && vm_plannable(vm, x))
			end_trim(c, vm, x);
		return false;
	case EVENT_VM_ADVICE:
		vm_advice_report(vm, x, &ev->advice);
		return false;
	case EVENT_VM_STATS:
		return take_stats(vm, ev, x);
	case EVENT_VM_SAMPLE:
		vm_take_sample(vm, x, &ev->sample);
		learn_limit(vm);
		return false;
	case EVENT_VM_RESIDENCY:
		return take_residency(vm, ev, x);
	case EVENT_VM_WSS:
		return take_wss(vm, ev, x);
	case EVENT_VM_BALLOON:
		vm_balloon_moved(vm, x, ev->bytes);
		return false;
	case EVENT_VM_RESULT:
		vm_result(vm, ev, x);
		return false;
	case EVENT_VM_QUARANTINE:
		quarantine(vm, ev->flag, x);
		return false;
	case EVENT_VM_PIN:
		vm->pinned_bytes = ev->bytes;
		record(x, vm, RECORD_PINNED, vm_size_bytes(vm), ev->bytes,
		       ev->bytes ? "pinned by memoc resize" : "back to the policy");
		return true;
	case EVENT_VM_HOLD:
		hold(c, vm, ev->flag, x);
		return !ev->flag;
	case EVENT_VM_DRAIN:
		drain(vm, x);
		return false;
	case EVENT_VM_TRIM:
		if (ev->flag)
			begin_trim(vm, x);
		else if (vm->trim_until_ms && vm_plannable(vm, x))
			end_trim(c, vm, x);
		return !ev->flag;
	default:
		return false;
	}
}

/* Would it tell a VM at rest nothing new? */
static bool says_the_same(const struct vm *vm, const struct event *ev)
{
	return (ev->type == EVENT_VM_STATS && vm_same_stats(vm, &ev->stats, ev->now_ms)) ||
	       (ev->type == EVENT_VM_SAMPLE && vm_same_sample(vm, &ev->sample, ev->now_ms));
}

/* Returns whether a new plan is wanted at once. */
static bool vm_step(struct core *c, size_t seat, const struct event *ev, struct vm_ctx *x)
{
	struct vm *vm = c->roster.vms[seat];
	if (rests(c, seat) && says_the_same(vm, ev)) {
		if (ev->type == EVENT_VM_SAMPLE) {
			vm_note_sample(vm, &ev->sample, c->now_ms);
			return false;
		}
		vm_note_stats(vm, &ev->stats, c->now_ms);
		look_again(c, seat, x, true);
		return cannot_wait(vm);
	}
	bool plan = vm_event(c, vm, ev, x);
	if (!vm->facts.eligible != (vm->state == VM_FIXED))
		vm_signal(vm, vm->facts.eligible ? SIG_UNFIX : SIG_FIX, x);
	roster_changed(&c->roster, seat);
	return plan;
}

int core_step(struct core *c, const struct event *ev, struct effects *out)
{
	out->n = out->dropped = 0;
	if (ev->type < EVENT_TICK || ev->type >= EVENT_TYPE_END)
		return -EINVAL;
	c->now_ms = ev->now_ms;
	struct vm_ctx x = context(c, out);
	switch (ev->type) {
	case EVENT_TICK:
		tick(c, ev, &x);
		return 0;
	case EVENT_TIMER:
		for (size_t i = 0; i < c->roster.n; i++) {
			if (c->now_ms < vm_next_deadline_ms(c->roster.vms[i]))
				continue;
			vm_timer(c->roster.vms[i], &x);
			trim_timer(c, c->roster.vms[i], &x);
			roster_changed(&c->roster, i);
		}
		post_books(c);
		return 0;
	case EVENT_CONFIG:
		return configure(c, ev, &x);
	case EVENT_VM_ADDED: {
		int r = add(c, ev, &x);
		if (r < 0)
			return r;
		break;
	}
	default:
		break;
	}
	size_t seat = roster_find(&c->roster, ev->vm);
	struct vm *vm = seat == NO_SEAT ? NULL : c->roster.vms[seat];
	if (!vm && ev->type == EVENT_VM_HOLD && ev->vm == 0) {
		hold(c, NULL, ev->flag, &x);
		return 0;
	}
	if (!vm)
		return -ENOENT;
	if (ev->type == EVENT_VM_FACTS && (!ev->facts.max_bytes || !ev->facts.policy.weight))
		return -EINVAL;
	if (ev->type == EVENT_VM_STOPPING) {
		drop(c, vm, &x);
		replan(c, &x);
		return 0;
	}
	if (vm_step(c, seat, ev, &x))
		replan(c, &x);
	else if (c->roster.sums_moved) /* the level follows from them, and is what it was where they are */
		update_books(c, &x);
	return 0;
}

uint64_t core_next_wakeup_ms(const struct core *c)
{
	uint64_t next = NEVER_MS;
	for (size_t i = 0; i < c->roster.n; i++)
		next = min_u64(next, vm_next_deadline_ms(c->roster.vms[i]));
	return next;
}

#define POLL_MOVING_MS 120 /* while a balloon moves: BALLOON_CHANGE comes at most once a second */

uint64_t core_poll_ms(const struct core *c, const struct vm *vm)
{
	switch (vm->state) {
	case VM_FIXED:
	case VM_PAUSED:
	case VM_MIGRATING_IN:
	case VM_STOPPING:
		return NEVER_MS;
	case VM_SHRINKING_BALLOON:
	case VM_GROWING_BALLOON:
		return POLL_MOVING_MS;
	case VM_SHRINKING_LIMIT:
		return vm->op_ms != NEVER_MS ? POLL_MOVING_MS : c->config.interval_ms;
	default:
		return c->config.interval_ms;
	}
}

bool core_watch_residency(const struct core *c, const struct vm *vm)
{
	return vm_surge_visible(vm, &c->config, c->now_ms);
}

uint64_t core_spare_bytes(const struct core *c, vm_id id, const char **ret_why)
{
	const struct vm *vm = core_vm(c, id);
	const struct vm_ctx x = {.config = &c->config,
				 .host = &c->host,
				 .swap_low = c->books.swap_low,
				 .hold_all = c->hold_all,
				 .level = c->books.level,
				 .now_ms = c->now_ms};
	if (ret_why)
		*ret_why = NULL;
	return vm ? vm_spare_bytes(vm, &x, ret_why) : 0;
}

const char *core_probe_forbidden_why(const struct core *c, const struct vm *vm)
{
	const struct vm_ctx x = {
		.config = &c->config, .host = &c->host, .swap_low = c->books.swap_low, .now_ms = c->now_ms};

	if (c->config.observe)
		return "memocd only observes";
	if (vm->held || vm->drained || c->hold_all)
		return "held: nothing is taken from it";
	if (vm->needy)
		return "in need: nothing is taken from it";
	return vm_limit_forbidden_why(vm, &x);
}

void core_admit(const struct core *c, vm_id except, uint64_t max_bytes, uint64_t min_bytes, uint64_t overhead_bytes,
		uint64_t *ret_missing_bytes)
{
	uint64_t sum = min_bytes ? min_bytes : share_of(max_bytes, c->config.min_share);
	sum = add_sat_u64(sum, overhead_bytes);
	for (size_t i = 0; i < c->roster.n; i++) {
		const struct vm *vm = c->roster.vms[i];
		if (vm->id == except)
			continue;
		uint64_t least = vm->state == VM_FIXED ? vm->facts.max_bytes : vm_min_bytes(vm, &c->config);
		sum = add_sat_u64(sum, add_sat_u64(least, vm->overhead_bytes));
	}
	*ret_missing_bytes = sub_sat_u64(sum, c->config.pool_bytes);
}

/* ---- a core as data ---- */

void core_image_get(const struct core *c, struct core_image *ret)
{
	*ret = (struct core_image){.config = c->config,
				   .host = c->host,
				   .books = c->books,
				   .hold_all = c->hold_all,
				   .now_ms = c->now_ms,
				   .policy_memory = c->policy_memory,
				   .given_bytes = c->given_bytes,
				   .given_peak_per_s = c->given_peak_per_s};
}

/* MOM's places in its histories: an image may come from a file. */
static bool places_good(const struct core_config *config, uint64_t n, uint64_t next)
{
	return config->policy != &policy_mom || (n <= POLICY_SAMPLES && next < POLICY_SAMPLES);
}

static int copy_vm(struct core *c, const struct vm *from)
{
	const union policy_vm *m = &from->policy_memory;
	if (!from->id || !from->facts.max_bytes || !from->facts.policy.weight || find(c, from->id) ||
	    !places_good(&c->config, m->mom.n, m->mom.next))
		return -EINVAL;
	struct vm *vm = roster_add(&c->roster, from->id);
	if (!vm)
		return -ENOMEM;
	*vm = *from;
	note_change(c, vm);
	return 0;
}

int core_from_image(const struct core_image *image, const struct vm *vms, size_t n, struct core **ret)
{
	struct core *c = NULL;
	if (!places_good(&image->config, image->policy_memory.mom.n, image->policy_memory.mom.next))
		return -EINVAL;
	int r = core_new(&image->config, &c);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = copy_vm(c, &vms[i]);
	if (r < 0) {
		core_free(c);
		return r;
	}
	c->host = image->host;
	c->books = image->books;
	c->hold_all = image->hold_all;
	c->now_ms = image->now_ms;
	c->policy_memory = image->policy_memory;
	c->given_bytes = image->given_bytes;
	c->given_peak_per_s = image->given_peak_per_s;
	*ret = c;
	return 0;
}
