/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How VMs, the host and events look as JSON. Names are promises (interfaces.md); null means unknown. */
#include "controller/core/policy.h"
#include "controller/daemon/advice.h"
#include "controller/daemon/control.h"
#include "controller/daemon/wss.h"
#include "controller/host/evglue.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static void bytes_or_null(struct json_writer *w, const char *key, bool known, uint64_t bytes)
{
	if (known && bytes != LIMIT_NONE)
		jw_u64(w, key, bytes);
	else
		jw_null(w, key);
}

static void rate_or_null(struct json_writer *w, const char *key, bool known, double rate)
{
	if (known)
		jw_double(w, key, rate);
	else
		jw_null(w, key);
}

static const char *ineligible_text(const struct dom_facts *f, char buf[256])
{
	if (f->ineligible == DOM_ELIGIBLE)
		return NULL;
	snprintf(buf, 256, "%s%s%s", dom_ineligible_text(f->ineligible), f->ineligible_detail[0] ? ": " : "",
		 f->ineligible_detail);
	return buf;
}

/* A VM of which nothing is measured: libvirt has announced it but nobody knows its size yet, or it is off. */
static void show_unmeasured(struct json_writer *w, const char *state, uint64_t max_bytes, uint64_t min_bytes,
			    uint64_t weight, const char *reason)
{
	static const char *const nulls[] = {
		"balloon_bytes",       "limit_bytes",	      "resident_bytes",	      "swapped_bytes",
		"usable_bytes",	       "wss_bytes",	      "wss_error_bytes",      "rank",
		"balloon_bytes_per_s", "guest_swap_in_per_s", "guest_swap_out_per_s", "host_major_faults_per_s",
		"stats_age_ms",	       "last_change_ms",      "pinned_bytes"};
	static const char *const zeros[] = {"target_bytes", "need_bytes", "greedy_bytes"};
	jw_str(w, "state", state);
	jw_u64(w, "max_bytes", max_bytes);
	jw_u64(w, "min_bytes", min_bytes);
	jw_u64(w, "weight", weight);
	for (size_t i = 0; i < ARRAY_SIZE(nulls); i++)
		jw_null(w, nulls[i]);
	for (size_t i = 0; i < ARRAY_SIZE(zeros); i++)
		jw_u64(w, zeros[i], 0);
	jw_bool(w, "needy", false);
	jw_str(w, "balloon_health", balloon_health_name(BALLOON_UNKNOWN));
	jw_str(w, "reason", reason);
	jw_bool(w, "held", false);
	jw_bool(w, "quarantined", false);
	jw_bool(w, "double_swapping", false);
}

static void show_sizes(struct json_writer *w, struct daemon *d, const struct vm *vm)
{
	bool sampled = vm->has_sample && vm->sample.has_memory;
	bool stats = vm->stats_advances > 0 && vm->stats.has_usable;
	jw_u64(w, "max_bytes", vm->facts.max_bytes);
	jw_u64(w, "min_bytes", vm_min_bytes(vm, core_config(d->core)));
	jw_u64(w, "weight", vm->facts.policy.weight);
	jw_u64(w, "target_bytes", vm->target_bytes);
	bytes_or_null(w, "balloon_bytes", vm->actual_bytes != 0, vm->actual_bytes);
	bytes_or_null(w, "limit_bytes", vm->limit_known, vm->limit_bytes);
	bytes_or_null(w, "resident_bytes", sampled, vm->sample.resident_bytes);
	bytes_or_null(w, "swapped_bytes", sampled, vm->sample.swapped_bytes);
	bytes_or_null(w, "usable_bytes", stats, vm->stats.usable_bytes);
	bool wss = vm_wss_known(vm, now_ms());
	bytes_or_null(w, "wss_bytes", wss, vm_wss_bytes(vm));
	bytes_or_null(w, "wss_error_bytes", wss, vm_wss_error_bytes(vm));
	jw_u64(w, "need_bytes", vm->need_bytes);
	jw_u64(w, "greedy_bytes", vm->greedy_bytes);
}

static void show_known(struct json_writer *w, struct daemon *d, const struct vm *vm)
{
	uint64_t now = now_ms();
	jw_str(w, "state", vm_state_name(vm->state));
	show_sizes(w, d, vm);
	if (vm->needy)
		jw_u64(w, "rank", vm->rank);
	else
		jw_null(w, "rank");
	jw_bool(w, "needy", vm->needy);
	jw_str(w, "balloon_health", balloon_health_name(vm->health));
	bytes_or_null(w, "balloon_bytes_per_s", vm->speed_bytes_per_s != 0, vm->speed_bytes_per_s);
	rate_or_null(w, "guest_swap_in_per_s", vm->has_guest_rates, vm->guest_swap_in_per_s);
	rate_or_null(w, "guest_swap_out_per_s", vm->has_guest_rates, vm->guest_swap_out_per_s);
	rate_or_null(w, "host_major_faults_per_s", vm->has_host_rates, vm->host_faults_per_s);
	bytes_or_null(w, "stats_age_ms", vm->stats_advances > 0, sub_sat_u64(now, vm->stats_ms));
	jw_u64(w, "last_change_ms", sub_sat_u64(now, vm->change_ms));
	jw_str(w, "reason", vm->reason);
	jw_bool(w, "held", vm->held || core_hold_all(d->core));
	bytes_or_null(w, "pinned_bytes", vm->pinned_bytes != 0, vm->pinned_bytes);
	jw_bool(w, "quarantined", vm->quarantined);
	jw_bool(w, "double_swapping", vm->double_swap);
}

static void show_identity(struct json_writer *w, const struct dom_facts *f, const char *uuid)
{
	char why[256];
	jw_str(w, "name", f->name);
	jw_str(w, "uuid", uuid);
	jw_bool(w, "eligible", f->ineligible == DOM_ELIGIBLE);
	jw_str(w, "ineligible_reason", ineligible_text(f, why));
}

void show_vm(struct json_writer *w, const char *key, struct daemon *d, const struct entry *e)
{
	const struct vm *vm = e->in_core ? core_vm(d->core, e->id) : NULL;
	jw_object(w, key);
	show_identity(w, &e->facts, e->uuid);
	if (vm)
		show_known(w, d, vm);
	else
		show_unmeasured(w, vm_state_name(VM_STARTING), 0, 0, 0, "being looked at");
	jw_end(w);
}

void show_vm_off(struct json_writer *w, const char *key, struct daemon *d, const struct dom_facts *facts)
{
	struct vm vm = {.facts = core_facts(facts)};
	jw_object(w, key);
	show_identity(w, facts, facts->uuid);
	show_unmeasured(w, "off", facts->max_bytes, vm_min_bytes(&vm, core_config(d->core)), facts->policy.weight,
			"not running");
	jw_end(w);
}

/* ---- info ---- */

static void signal_row(struct json_writer *w, const char *name, bool known, double value, const char *unit,
		       uint64_t age_ms, double confidence, const char *source)
{
	jw_object(w, NULL);
	jw_str(w, "name", name);
	rate_or_null(w, "value", known, value);
	jw_str(w, "unit", unit);
	bytes_or_null(w, "age_ms", known, age_ms);
	jw_double(w, "confidence", known ? confidence : 0);
	jw_str(w, "source", source);
	jw_end(w);
}

static void show_signals(struct json_writer *w, struct daemon *d, const struct vm *vm)
{
	uint64_t now = now_ms(), stats_age = sub_sat_u64(now, vm->stats_ms),
		 sample_age = sub_sat_u64(now, vm->sample_ms);
	bool stats = vm->stats_advances > 0, sampled = vm->has_sample;
	double guest = vm_stats_fresh(vm, core_config(d->core), now) ? 0.9 : 0.2;
	const char *balloon = "virtio-balloon";
	jw_array(w, "signals");
	signal_row(w, "usable", stats && vm->stats.has_usable, (double)vm->stats.usable_bytes, "bytes", stats_age,
		   guest, balloon);
	signal_row(w, "unused", stats && vm->stats.has_unused, (double)vm->stats.unused_bytes, "bytes", stats_age,
		   guest, balloon);
	signal_row(w, "total", stats && vm->stats.has_available, (double)vm->stats.available_bytes, "bytes", stats_age,
		   guest, balloon);
	signal_row(w, "disk caches", stats && vm->stats.has_disk_caches, (double)vm->stats.disk_caches_bytes, "bytes",
		   stats_age, guest, balloon);
	signal_row(w, "guest swap-in", vm->has_guest_rates, vm->guest_swap_in_per_s, "bytes/s", stats_age, guest,
		   balloon);
	signal_row(w, "guest swap-out", vm->has_guest_rates, vm->guest_swap_out_per_s, "bytes/s", stats_age, guest,
		   balloon);
	signal_row(w, "resident", sampled && vm->sample.has_memory, (double)vm->sample.resident_bytes, "bytes",
		   sample_age, 1, "cgroup");
	signal_row(w, "swapped", sampled && vm->sample.has_memory, (double)vm->sample.swapped_bytes, "bytes",
		   sample_age, 1, "cgroup");
	signal_row(w, "QEMU major faults", vm->has_host_rates, vm->host_faults_per_s, "faults/s", sample_age, 1,
		   "procfs");
	signal_row(w, "refaults", vm->has_refault_rate, vm->host_refaults_per_s, "pages/s", sample_age, 1, "cgroup");
	signal_row(w, "pressure", vm->has_stall, vm->stall_share * 100, "% stalled", sample_age, 1, "cgroup");
	signal_row(w, "working set", vm_wss_known(vm, now), (double)vm_wss_bytes(vm), "bytes",
		   sub_sat_u64(now, vm->wss_average.ms), 0.95, wss_backend_name(vm->wss.backend));
	signal_row(w, "demand", true, (double)vm->demand_bytes, "bytes", 0, vm->demand_confidence, "estimate");
	jw_end(w);
}

static void policy_row(struct json_writer *w, const struct vmpolicy *p, const char *key, const char *effective,
		       const char *source)
{
	struct vmpolicy plain = vmpolicy_default();
	char value[64] = "", untouched[64] = "";
	vmpolicy_get(p, key, value, sizeof(value));
	vmpolicy_get(&plain, key, untouched, sizeof(untouched));
	jw_object(w, NULL);
	jw_str(w, "key", key);
	jw_str(w, "value", value);
	jw_str(w, "effective", effective ? effective : value);
	jw_str(w, "source", strcmp(value, untouched) == 0 ? "default" : source);
	jw_end(w);
}

void show_policy(struct json_writer *w, const char *key, struct daemon *d, const struct dom_facts *facts,
		 const char *source)
{
	struct vm vm = {.facts = core_facts(facts)};
	char min[32], max[32];
	snprintf(min, sizeof(min), "%llu", (unsigned long long)vm_min_bytes(&vm, core_config(d->core)));
	snprintf(max, sizeof(max), "%llu", (unsigned long long)vm_max_bytes(&vm));
	jw_array(w, key);
	for (const struct vmpolicy_key *k = vmpolicy_keys; k->name; k++) {
		const char *effective = strcmp(k->name, "min") == 0 ? min : strcmp(k->name, "max") == 0 ? max : NULL;
		policy_row(w, &facts->policy, k->name, effective, source);
	}
	jw_end(w);
}

/* Of the migration (save, snapshot) that is under way, or of the last one; null: there was none. */
static void show_advice(struct json_writer *w, const struct vm *vm)
{
	if (!vm || !vm->advice_ms) {
		jw_null(w, "advice");
		return;
	}
	const struct advice_report *r = &vm->advice;
	jw_object(w, "advice");
	jw_bool(w, "active", vm->advice_state == ADVICE_GIVEN || vm->advice_state == ADVICE_ENDING);
	jw_u64(w, "age_ms", sub_sat_u64(now_ms(), vm->advice_ms));
	jw_u64(w, "swapped_bytes", r->swapped_bytes);
	jw_u64(w, "untouched_bytes", r->untouched_bytes);
	jw_u64(w, "out_bytes", r->out_bytes);
	jw_u64(w, "stayed_bytes", r->stayed_bytes);
	jw_u64(w, "zero_bytes", r->zero_bytes);
	jw_u64(w, "zero_out_bytes", r->zero_out_bytes);
	jw_u64(w, "guest_bytes", r->guest_bytes);
	jw_u64(w, "cost_ms", r->cost_ns / 1000000);
	jw_str(w, "refused", r->why[0] ? r->why : NULL);
	jw_end(w);
}

void show_vm_details(struct json_writer *w, struct daemon *d, const struct entry *e)
{
	const struct vm *vm = e->in_core ? core_vm(d->core, e->id) : NULL;
	show_vm(w, "vm", d, e);
	if (e->attach) {
		jw_u64(w, "pid", (uint64_t)proc_vm_pid(e->attach->proc));
		jw_str(w, "cgroup_path", cgroup_vm_path(e->attach->cgroup));
	} else {
		jw_null(w, "pid");
		jw_null(w, "cgroup_path");
	}
	uint64_t now = now_ms();
	jw_u64(w, "overhead_bytes", vm ? vm->overhead_bytes : 0);
	jw_bool(w, "overhead_measured", vm && vm->overhead_measured);
	jw_u64(w, "demand_bytes", vm ? vm->demand_bytes : 0);
	jw_u64(w, "headroom_bytes", vm ? vm->headroom_bytes : 0);
	bytes_or_null(w, "floor_bytes", vm && vm->floor_bytes, vm ? vm->floor_bytes : 0);
	bytes_or_null(w, "next_retry_ms", vm && vm->retry_at_ms != NEVER_MS,
		      vm ? sub_sat_u64(vm->retry_at_ms, now) : 0);
	bytes_or_null(w, "retry_delay_ms", vm && vm->retry_delay_ms, vm ? vm->retry_delay_ms : 0);
	jw_u64(w, "dwell_ms", vm ? vm->dwell_ms : 0);
	jw_bool(w, "free_page_reporting", e->facts.free_page_reporting);
	jw_u64(w, "stats_period_s", e->facts.stats_period_s);
	jw_bool(w, "shared_memory", e->facts.shared_memory);
	show_policy(w, "policy", d, &e->facts, "domain XML");
	show_advice(w, vm);
	jw_str(w, "policy_error", e->facts.policy_bad ? e->facts.policy_err.text : NULL);
	if (vm) {
		show_signals(w, d, vm);
	} else {
		jw_array(w, "signals");
		jw_end(w);
	}
}

/* ---- host, events, explain ---- */

/* Counted since memocd started. What `sleeps` has more than the others explain was without a reason. */
static void show_wakeups(struct json_writer *w, struct daemon *d)
{
	static const char *const names[WAKEUP_END] = {[WAKEUP_TICK] = "tick",
						      [WAKEUP_TIMER] = "timer",
						      [WAKEUP_STATISTICS] = "statistics",
						      [WAKEUP_RESIDENCY] = "residency",
						      [WAKEUP_WORKING_SET] = "working_set",
						      [WAKEUP_ADVICE] = "advice",
						      [WAKEUP_STATE_FILE] = "state_file",
						      [WAKEUP_CLIENT] = "client"};
	struct workpool_counts counts = {0};
	struct rusage usage;
	workpool_count(d->virt_pool, &counts);
	workpool_count(d->kernel_pool, &counts);
	workpool_count(d->house_pool, &counts);
	measuring_count(d->measuring, &counts);
	advising_count(d->advising, &counts);
	jw_object(w, "wakeups");
	jw_u64(w, "sleeps", getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_nvcsw : 0);
	jw_u64(w, "loop", d->loop_wakeups);
	jw_u64(w, "loop_for_nothing", d->loop_for_nothing + evglue_for_nothing());
	for (size_t i = 0; i < WAKEUP_END; i++)
		jw_u64(w, names[i], d->wakeups[i]);
	jw_u64(w, "libvirt", evglue_calls());
	jw_u64(w, "jobs", counts.jobs);
	jw_u64(w, "job_sleeps", counts.job_sleeps);
	jw_u64(w, "worker_for_nothing", counts.for_nothing);
	jw_end(w);
}

/* In the order in which they are trusted; reason: why not, null for the one in use. */
static void show_backends(struct json_writer *w, struct daemon *d)
{
	const struct memoc_err *why = measuring_why(d->measuring);
	jw_array(w, "wss_backends");
	for (enum wss_backend b = WSS_IDLE; b < WSS_BACKEND_END; b++) {
		bool used = measuring_backend(d->measuring) == b;
		jw_object(w, NULL);
		jw_str(w, "name", wss_backend_name(b));
		jw_str(w, "reason", used ? NULL : why[b].text[0] ? why[b].text : "not looked at yet");
		jw_end(w);
	}
	jw_end(w);
}

void show_host(struct json_writer *w, struct daemon *d)
{
	const struct books *b = core_books(d->core);
	const struct core_config *c = core_config(d->core);
	const struct host_sample *h = core_host(d->core);
	jw_object(w, "host");
	jw_u64(w, "pool_bytes", b->pool_bytes);
	jw_u64(w, "reserve_bytes", c->reserve_bytes);
	jw_u64(w, "buffer_target_bytes", b->buffer_target_bytes);
	jw_i64(w, "buffer_bytes", b->buffer_bytes);
	jw_u64(w, "committed_bytes", b->committed_max_bytes);
	jw_u64(w, "granted_bytes", b->granted_bytes);
	jw_u64(w, "resident_bytes", b->resident_bytes);
	jw_u64(w, "swapped_bytes", b->swapped_bytes);
	jw_double(w, "overcommit_ratio", b->pool_bytes ? (double)b->committed_max_bytes / (double)b->pool_bytes : 0);
	jw_str(w, "level", host_level_name(b->level));
	jw_u64(w, "swap_total_bytes", h->swap_total_bytes);
	jw_u64(w, "swap_free_bytes", h->swap_free_bytes);
	rate_or_null(w, "psi_some_avg10", h->has_psi, h->psi_some_avg10);
	rate_or_null(w, "psi_full_avg10", h->has_psi, h->psi_full_avg10);
	jw_u64(w, "vms", b->vms);
	jw_str(w, "cgroup", d->cgroup_version == CGROUP_V1 ? "v1" : "v2");
	jw_str(w, "wss_backend", wss_backend_name(measuring_backend(d->measuring)));
	jw_bool(w, "observe_only", c->observe);
	jw_str(w, "version", MEMOC_VERSION);
	jw_u64(w, "uptime_s", (now_ms() - d->started_ms) / 1000);
	jw_bool(w, "libvirt_connected", virt_events_connected(d->link));
	jw_str(w, "policy", c->policy->name);
	jw_bool(w, "held", core_hold_all(d->core));
	jw_bool(w, "swap_low", b->swap_low);
	show_backends(w, d);
	show_wakeups(w, d);
	jw_end(w);
}

void show_event(struct json_writer *w, const char *key, const struct ring_event *e)
{
	char time[FORMAT_TIME_LEN];
	jw_object(w, key);
	jw_str(w, "time", format_rfc3339(time, e->realtime_ms));
	jw_str(w, "vm", e->vm[0] ? e->vm : NULL);
	jw_str(w, "uuid", e->uuid[0] ? e->uuid : NULL);
	jw_str(w, "event", record_name(e->kind));
	jw_str(w, "state", e->state ? vm_state_name(e->state) : NULL);
	bytes_or_null(w, "from_bytes", true, e->from_bytes);
	bytes_or_null(w, "to_bytes", true, e->to_bytes);
	jw_str(w, "reason", e->reason);
	jw_object(w, "details");
	jw_u64(w, "number", e->number);
	jw_u64(w, "monotonic_ms", e->monotonic_ms);
	jw_end(w);
	jw_end(w);
}

static void show_term(struct json_writer *w, const struct explain_term *t)
{
	jw_object(w, NULL);
	jw_str(w, "name", t->name);
	bytes_or_null(w, "value_bytes", t->has_bytes, t->bytes);
	jw_str(w, "text", t->text);
	jw_end(w);
}

void show_explain(struct json_writer *w, struct daemon *d, const struct entry *e)
{
	const struct vm *vm = e->in_core ? core_vm(d->core, e->id) : NULL;
	struct explain_term terms[EXPLAIN_TERMS_MAX];
	char lines[EXPLAIN_LINES_MAX][160], why[256], size[FORMAT_SIZE_LEN], target[FORMAT_SIZE_LEN], summary[512];
	size_t n_terms = vm ? core_explain(d->core, vm, now_ms(), terms) : 0;
	size_t n_lines = vm ? core_explain_lines(d->core, vm, now_ms(), lines) : 0;
	show_vm(w, "vm", d, e);
	if (vm)
		snprintf(summary, sizeof(summary), "%s is %s: target %s, has %s, because: %s", e->facts.name,
			 vm_state_name(vm->state), format_size(target, vm->target_bytes),
			 format_size(size, vm_size_bytes(vm)), vm->reason);
	else
		snprintf(summary, sizeof(summary), "%s is being looked at", e->facts.name);
	jw_str(w, "summary", summary);
	jw_array(w, "terms");
	for (size_t i = 0; i < n_terms; i++)
		show_term(w, &terms[i]);
	jw_end(w);
	jw_array(w, "bounds");
	if (ineligible_text(&e->facts, why))
		jw_str(w, NULL, why);
	if (e->facts.policy_bad)
		jw_str(w, NULL, e->facts.policy_err.text);
	for (size_t i = 0; i < n_lines; i++)
		jw_str(w, NULL, lines[i]);
	jw_end(w);
	jw_array(w, "next");
	if (vm && vm->retry_at_ms != NEVER_MS) {
		snprintf(summary, sizeof(summary), "balloon tried again in %llu s",
			 (unsigned long long)(sub_sat_u64(vm->retry_at_ms, now_ms()) / 1000));
		jw_str(w, NULL, summary);
	}
	jw_end(w);
}
