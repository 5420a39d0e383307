/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `memoc explain`: what the core knows of a VM, in words. Says only what is so now. */
#include "controller/core/policy.h"

#include <stdarg.h>
#include <stdio.h>

struct terms {
	struct explain_term *list;
	size_t n;
};

static void term(struct terms *t, const char *name, bool has_bytes, uint64_t bytes, const char *fmt, ...)
	PRINTF_LIKE(5, 6);
static void term(struct terms *t, const char *name, bool has_bytes, uint64_t bytes, const char *fmt, ...)
{
	if (t->n >= EXPLAIN_TERMS_MAX)
		return;
	struct explain_term *e = &t->list[t->n++];
	snprintf(e->name, sizeof(e->name), "%s", name);
	e->has_bytes = has_bytes;
	e->bytes = bytes;
	va_list args;
	va_start(args, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, args);
	va_end(args);
}

static double seconds_since(uint64_t now_ms, uint64_t then_ms)
{
	return (double)sub_sat_u64(now_ms, then_ms) / 1000;
}

static const char *weight_of(char buf[48], const struct host_signs *s, double sign)
{
	if (!s->at_limit)
		return "not counted: it is not at its limit";
	if (sign >= 1)
		snprintf(buf, 48, "a sign of need, %.1f times the least", sign);
	else
		snprintf(buf, 48, "no sign of need");
	return buf;
}

static void explain_host_signs(struct terms *t, const struct vm *vm, const struct core_config *c, uint64_t now_ms)
{
	struct host_signs s = vm_host_signs(vm, c, now_ms);
	char buf[48];
	if (vm->has_host_rates)
		term(t, "faults", false, 0, "%.0f major faults/s of QEMU: %s", vm->host_faults_per_s,
		     s.cold ? "not counted: cold pages, hardly any refaults" : weight_of(buf, &s, s.faults));
	else
		term(t, "faults", false, 0, "unknown");
	if (vm->has_refault_rate)
		term(t, "refaults", false, 0, "%.0f evicted pages/s come back: %s", vm->host_refaults_per_s,
		     weight_of(buf, &s, s.refaults));
	else
		term(t, "refaults", false, 0, "unknown");
	if (vm->has_stall)
		term(t, "stall", false, 0, "waits for memory %.1f %% of the time: %s", vm->stall_share * 100,
		     weight_of(buf, &s, s.stall));
	else
		term(t, "stall", false, 0, "unknown: no memory.pressure of its cgroup (v1 has none)");
}

static void explain_wss(struct terms *t, const struct vm *vm, uint64_t now_ms)
{
	const struct wss_reading *r = &vm->wss;
	bool known = vm_wss_known(vm, now_ms);
	if (vm->wss_ms == NEVER_MS)
		term(t, "wss", false, 0, "unknown: not measured yet");
	else if (!known)
		term(t, "wss", false, 0, "unknown: %s", r->known ? "the last reading is too old" : r->why);
	else
		term(t, "wss", true, vm_wss_bytes(vm), "touched, ± %llu MiB, by %s, %.0f s old%s%s",
		     (unsigned long long)(vm_wss_error_bytes(vm) / MIB), wss_backend_name(r->backend),
		     seconds_since(now_ms, vm->wss_average.ms),
		     r->known ? "" : "; since then: ", r->known ? "" : r->why);
	if (vm_wss_overclaims(vm, now_ms))
		term(t, "claim", true, vm_size_bytes(vm), "it says it is in need, and touches less than half of this");
	else if (vm_wss_untouched(vm, now_ms))
		term(t, "claim", true, vm->untouched_of_bytes,
		     "by its word; for %.0f min it touched less than half of this",
		     seconds_since(now_ms, vm->untouched_ms) / 60);
	else if (known && vm->wss_underclaims)
		term(t, "claim", true, vm->used_bytes, "what it says it uses; it touches more, which counts");
}

size_t core_explain(const struct core *c, const struct vm *vm, uint64_t now_ms,
		    struct explain_term ret[EXPLAIN_TERMS_MAX])
{
	const struct core_config *config = core_config(c);
	bool fresh = vm_stats_fresh(vm, config, now_ms);
	struct terms t = {.list = ret};
	term(&t, "size", true, vm_size_bytes(vm), "what the guest can use now without being swapped");
	term(&t, "balloon", vm->actual_bytes > 0, vm->actual_bytes, "%s, %s",
	     vm->actual_trusted ? "believed" : "not believed (no sign of the driver since it booted)",
	     balloon_health_name(vm->health));
	if (vm->limit_known && vm->limit_bytes != LIMIT_NONE)
		term(&t, "limit", true, vm->limit_bytes, "cgroup limit, QEMU's own memory included");
	else
		term(&t, "limit", false, 0, "open");
	if (vm->has_sample && vm->sample.has_memory) {
		term(&t, "resident", true, vm->sample.resident_bytes, "in host memory, QEMU included, %.1f s old",
		     seconds_since(now_ms, vm->sample_ms));
		term(&t, "swapped", true, vm->sample.swapped_bytes, "swapped out by the host");
	}
	term(&t, "overhead", true, vm->overhead_bytes, "QEMU's own memory, %s",
	     vm->overhead_measured ? "measured" : "estimated from its configuration");
	if (vm->distrusted)
		term(&t, "usable", false, 0, "not believed: it touches little of what it says it uses");
	else if (fresh && vm->stats.has_usable)
		term(&t, "usable", true, vm->stats.usable_bytes, "guest's word, %.1f s old",
		     seconds_since(now_ms, vm->stats_ms));
	else
		term(&t, "usable", false, 0,
		     vm->stats_advances ? "unknown: the guest's statistics are too old"
					: "unknown: the guest sends no statistics");
	explain_wss(&t, vm, now_ms);
	term(&t, "demand", true, vm->demand_bytes, "best estimate of what it uses (confidence %.0f %%)",
	     vm->demand_confidence * 100);
	term(&t, "headroom", true, vm->headroom_bytes,
	     "grows %.1f ± %.1f MiB/s; at least %.0f %% of demand and %llu MiB",
	     vm->growth_mean_bytes_per_s / (double)MIB, vm->growth_dev_bytes_per_s / (double)MIB,
	     config->headroom_share * 100, (unsigned long long)(config->headroom_bytes / MIB));
	term(&t, "need", true, vm->need_bytes, "demand + headroom, between min and max");
	if (vm->needy)
		term(&t, "greedy", true, 0, "nothing: it is needy");
	else
		term(&t, "greedy", true, vm->greedy_bytes, "what it has beyond its need");
	if (vm->needy)
		term(&t, "needy", false, 0, "rank %u: %s, round %u", vm->rank, vm->needy_why, vm->needy_rounds);
	explain_host_signs(&t, vm, config, now_ms);
	if (vm->host_floor_until_ms > now_ms)
		term(&t, "fault floor", true, vm->host_floor_bytes,
		     "it faulted at this size; believed for another %.0f s",
		     seconds_since(vm->host_floor_until_ms, now_ms));
	if (vm->floor_bytes)
		term(&t, "balloon floor", true, vm->floor_bytes, "the guest would not give below it");
	if (vm->pinned_bytes)
		term(&t, "pinned", true, vm->pinned_bytes, "by memoc resize");
	term(&t, "min", true, vm_min_bytes(vm, config), "%s",
	     vm->facts.policy.min_bytes ? "given by its policy" : "default share of its memory");
	term(&t, "max", true, vm_max_bytes(vm), "weight %u", vm->facts.policy.weight);
	return t.n;
}

struct lines {
	char (*list)[160];
	size_t n;
};

static void line(struct lines *l, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void line(struct lines *l, const char *fmt, ...)
{
	if (l->n >= EXPLAIN_LINES_MAX)
		return;
	va_list args;
	va_start(args, fmt);
	vsnprintf(l->list[l->n++], sizeof(l->list[0]), fmt, args);
	va_end(args);
}

static void explain_hands_off(struct lines *l, const struct core *c, const struct vm *vm)
{
	if (vm->state == VM_FIXED)
		line(l, "not eligible: counted, never resized");
	if (vm->drained)
		line(l, "drained: everything is given back until memoc release");
	else if (vm->held || core_hold_all(c))
		line(l, "held: observed only, until memoc release");
	if (core_config(c)->observe)
		line(l, "memocd runs with --observe: decisions are told, nothing is changed");
	if (vm->quarantined)
		line(l, "quarantined: a libvirt call for it does not come back; its cgroup is still served");
}

static void explain_doubt(struct lines *l, const struct vm *vm, const struct books *books, uint64_t now_ms)
{
	if (!vm_doubted(vm, books))
		return;
	uint64_t credit = vm_credit_bytes(vm, books);
	line(l, "needy for %.0f s, %s: no claim beyond %llu MiB, %s", seconds_since(now_ms, vm->needy_since_ms),
	     vm->insatiable ? "its maximum did not end that" : "yet it touches less than half of what it has",
	     (unsigned long long)(credit / MIB),
	     credit > vm_fair_share_bytes(vm, books) ? "what it touches and headroom" : "its fair share");
}

size_t core_explain_lines(const struct core *c, const struct vm *vm, uint64_t now_ms, char ret[EXPLAIN_LINES_MAX][160])
{
	const struct books *books = core_books(c);
	struct lines l = {.list = ret};
	struct vm_ctx x = {
		.config = core_config(c), .host = core_host(c), .swap_low = books->swap_low, .now_ms = now_ms};
	explain_hands_off(&l, c, vm);
	if (x.config->policy->own_bounds)
		line(&l, "policy %s decides (%s): need and greedy are shown, not used", x.config->policy->name,
		     x.config->policy->about);
	const char *no_limit = vm_limit_forbidden_why(vm, &x);
	if (no_limit)
		line(&l, "no limit fallback: %s", no_limit);
	if (!vm->facts.has_balloon)
		line(&l, "it has no balloon device: only the limit can shrink it");
	else if (!vm->facts.policy.balloon || !x.config->balloon_enabled)
		line(&l, "its balloon may not be used (policy)");
	if (vm_by_limit_alone(vm, &x))
		line(&l, "%s: its balloon stays empty, the limit alone sizes it",
		     vm->distrusted ? "what it says is not believed"
		     : vm->silent   ? "it tells nothing of itself"
				    : "it is believed again, and needs more than it has");
	else if (vm->silent)
		line(&l, "it tells nothing of itself: what its balloon costs it is not seen");
	if (vm->double_swap)
		line(&l, "guest and host swap it at once: limit open, balloon only");
	if (vm->bounds & BOUND_DWELL)
		line(&l, "it grew %.0f s ago: not shrunk before %.0f s", seconds_since(now_ms, vm->grow_ms),
		     (double)vm->dwell_ms / 1000);
	explain_doubt(&l, vm, books, now_ms);
	if (vm->bounds & BOUND_BUFFER)
		line(&l, "wants more than the buffer holds");
	if (vm->retry_at_ms != NEVER_MS)
		line(&l, "its balloon is tried again in %.0f s", seconds_since(vm->retry_at_ms, now_ms));
	enum host_level pressure = books_pressure_level(books, books->level, x.config, x.host);
	if (pressure >= LEVEL_SOFT)
		line(&l, "the host stalls %.0f %% of the time with %llu MiB available: its level is at least %s",
		     x.host->psi_full_avg10, (unsigned long long)(x.host->mem_available_bytes / MIB),
		     host_level_name(pressure));
	if (!vm->needy && vm->greedy_bytes && books->level == LEVEL_HIGH)
		line(&l, "host level is high: nobody needs what it has too much");
	return l.n;
}
