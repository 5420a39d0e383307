/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The methods of org.memoc.Controller and org.memoc.Hook. */
#include "controller/daemon/control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/domjson.h"
#include "varlink-text.h"

#define ERROR(name) "org.memoc.Controller." name

static void fail_why(struct varlink_call *call, const char *error, const char *key, const char *value, const char *why)
{
	struct json_writer *w = jw_new(false);
	char *text AUTO_FREE = NULL;
	jw_object(w, NULL);
	if (key)
		jw_str(w, key, value);
	if (why)
		jw_str(w, "why", why);
	jw_end(w);
	varlink_fail(call, error, jw_finish(w, &text, NULL) == 0 ? text : NULL);
}

static void fail_failed(struct varlink_call *call, const char *why)
{
	fail_why(call, ERROR("Failed"), NULL, NULL, why);
}

static void answer(struct varlink_call *call, struct json_writer *w, bool continues)
{
	char *text AUTO_FREE = NULL;
	if (jw_finish(w, &text, NULL) < 0)
		fail_failed(call, "out of memory");
	else
		varlink_answer(call, text, continues);
}

static struct json_writer *object(void)
{
	struct json_writer *w = jw_new(false);
	jw_object(w, NULL);
	return w;
}

/* The VM a call names; NULL after the call was failed. */
static struct entry *named_vm(struct daemon *d, struct varlink_call *call, const struct json *parameters)
{
	const char *word;
	if (json_get_str(parameters, "vm", &word) < 0) {
		varlink_fail_parameter(call, "vm");
		return NULL;
	}
	struct entry *e = entry_by_word(d, word);
	if (!e)
		fail_why(call, ERROR("NoSuchVm"), "vm", word, NULL);
	return e;
}

/* Optional members of the wrong type are refused, not ignored. */
static bool optional_bool(struct varlink_call *call, const struct json *parameters, const char *key, bool *ret)
{
	if (json_get_bool(parameters, key, ret) != -EINVAL)
		return true;
	varlink_fail_parameter(call, key);
	return false;
}

static bool optional_u64(struct varlink_call *call, const struct json *parameters, const char *key, uint64_t *ret)
{
	if (json_get_u64(parameters, key, ret) != -EINVAL)
		return true;
	varlink_fail_parameter(call, key);
	return false;
}

#define WAIT_DEFAULT_MS 60000
#define WAIT_MAX_MS 3600000

static void arm_wait(struct pending *p, uint64_t timeout_ms)
{
	ev_timer_set(&p->timer, (double)min_u64(timeout_ms, WAIT_MAX_MS) / 1000, 0.);
	ev_timer_start(p->daemon->loop, &p->timer);
}

/* ---- reading ---- */

/* A row of the list: a VM that is known, or the facts of one that is off. */
struct row {
	const struct entry *e;
	const struct dom_facts *off;
};

static const char *row_name(const struct row *r)
{
	return r->e ? r->e->facts.name : r->off->name;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(row_name(a), row_name(b));
}

static void answer_list(struct varlink_call *call, struct daemon *d, bool all, const struct dom_facts *off,
			size_t n_off)
{
	size_t n = n_off;
	for (const struct entry *e = d->entries; e; e = e->next)
		n++;
	struct row *rows = calloc(n ? n : 1, sizeof(*rows));
	if (!rows) {
		fail_failed(call, "out of memory");
		return;
	}
	n = 0;
	for (const struct entry *e = d->entries; e; e = e->next)
		if (all || e->facts.ineligible != DOM_UNMANAGED)
			rows[n++].e = e;
	for (size_t i = 0; i < n_off; i++)
		if (!entry_by_uuid(d, off[i].uuid)) /* not one that is just starting or stopping */
			rows[n++].off = &off[i];
	qsort(rows, n, sizeof(*rows), by_name);
	struct json_writer *w = object();
	jw_array(w, "vms");
	for (size_t i = 0; i < n; i++)
		if (rows[i].e)
			show_vm(w, NULL, d, rows[i].e);
		else
			show_vm_off(w, NULL, d, rows[i].off);
	jw_end(w);
	jw_end(w);
	free(rows);
	answer(call, w, false);
}

/* A libvirt that hangs must not take the list of what is known with it. */
#define LIST_OFF_WAIT_MS 1000

static void off_listed(void *user, const struct dom_facts *off, size_t n)
{
	struct pending *p = user;
	if (p->call)
		answer_list(p->call, p->daemon, p->all, off, n);
	pending_free(p);
}

/* The job is still under way, and frees p. */
static void waiting_list(struct pending *p)
{
	struct varlink_call *call = p->call;
	p->call = NULL;
	varlink_call_set_data(call, NULL);
	answer_list(call, p->daemon, p->all, NULL, 0);
}

static void method_list(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	bool all = false, off = false;
	if (!optional_bool(call, parameters, "all", &all) || !optional_bool(call, parameters, "off", &off))
		return;
	if (!off || !virt_events_connected(d->link) || work_lane_overdue(d->off_lane)) {
		answer_list(call, d, all, NULL, 0);
		return;
	}
	struct pending *p = pending_new(d, call, WAIT_LIST);
	if (!p)
		return;
	p->all = all;
	arm_wait(p, LIST_OFF_WAIT_MS);
	if (job_list_off(d, off_listed, p) < 0) {
		fail_failed(call, "out of memory");
		pending_free(p);
	}
}

static void method_info(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	struct entry *e = named_vm(d, call, parameters);
	if (!e)
		return;
	struct json_writer *w = object();
	show_vm_details(w, d, e);
	jw_end(w);
	answer(call, w, false);
}

static void method_host(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct json_writer *w = object();
	show_host(w, user);
	jw_end(w);
	answer(call, w, false);
}

static void method_explain(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	struct entry *e = named_vm(d, call, parameters);
	if (!e)
		return;
	struct json_writer *w = object();
	show_explain(w, d, e);
	jw_end(w);
	answer(call, w, false);
}

bool events_match(const struct pending *p, const struct ring_event *ev)
{
	if (!p->filter_name[0])
		return true;
	return strcmp(p->filter_name, ev->vm) == 0 || strcmp(p->filter_name, ev->uuid) == 0;
}

static void method_events(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	struct pending filter = {0};
	const char *vm = NULL;
	uint64_t limit = UINT64_MAX;
	if (json_get_str(parameters, "vm", &vm) == -EINVAL) {
		varlink_fail_parameter(call, "vm");
		return;
	}
	if (!optional_u64(call, parameters, "limit", &limit))
		return;
	if (vm)
		snprintf(filter.filter_name, sizeof(filter.filter_name), "%s", vm);
	size_t n = ring_count(d->ring), matching = 0;
	for (size_t i = 0; i < n; i++)
		matching += events_match(&filter, ring_at(d->ring, i));
	struct json_writer *w = object();
	jw_array(w, "events");
	for (size_t i = 0; i < n; i++) {
		const struct ring_event *ev = ring_at(d->ring, i);
		if (events_match(&filter, ev) && matching-- <= limit)
			show_event(w, NULL, ev);
	}
	jw_end(w);
	jw_end(w);
	if (!varlink_call_more(call)) {
		answer(call, w, false);
		return;
	}
	char *text AUTO_FREE = NULL;
	if (jw_finish(w, &text, NULL) < 0) {
		fail_failed(call, "out of memory");
		return;
	}
	struct pending *p = pending_new(d, call, WAIT_EVENTS);
	if (!p)
		return;
	memcpy(p->filter_name, filter.filter_name, sizeof(p->filter_name));
	varlink_answer(call, text, true);
}

static void method_history(struct varlink_call *call, const struct json *parameters, void *user)
{
	fail_why(call, ERROR("NotSupported"), "what", "recorded series come with a later version", NULL);
}

static void method_config(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	struct json_writer *w = object();
	jw_array(w, "settings");
	for (size_t i = 0; i < d->n_settings; i++) {
		jw_object(w, NULL);
		jw_str(w, "key", d->settings[i].key);
		jw_str(w, "value", d->settings[i].value);
		jw_str(w, "source", d->settings[i].source);
		jw_end(w);
	}
	jw_end(w);
	jw_end(w);
	answer(call, w, false);
}

/* ---- policy ---- */

/* Every way that a policy job fails, for people. */
static void fail_policy(struct pending *p, int code, const char *why)
{
	if (!p->call)
		return;
	if (code == -ENOENT && !p->vm)
		fail_why(p->call, ERROR("NoSuchVm"), "vm", p->filter_name, NULL);
	else if (code == -EHOSTDOWN)
		fail_why(p->call, ERROR("Refused"), "what", p->filter_name,
			 "it is not running, so there is nothing live; use --config, or leave --live out");
	else if (code == -EOPNOTSUPP)
		fail_why(p->call, ERROR("Refused"), "what", p->filter_name,
			 "it is transient and has no persistent definition; leave --config out");
	else if (code == -EINVAL)
		fail_why(p->call, ERROR("Refused"), "what", "policy", why);
	else
		fail_failed(p->call, why);
}

static void policy_read(void *user, int code, const struct policy_job *job, const struct dom_facts *facts,
			const struct memoc_err *err)
{
	struct pending *p = user;
	if (code < 0 || facts->policy_bad) {
		fail_policy(p, code < 0 ? code : -EIO, code < 0 ? err->text : facts->policy_err.text);
	} else if (p->call) {
		struct json_writer *w = object();
		show_policy(w, "values", p->daemon, facts, job->config ? "persistent domain XML" : "domain XML");
		jw_end(w);
		answer(p->call, w, false);
	}
	pending_free(p);
}

static void policy_written(void *user, int code, const struct policy_job *job, const struct dom_facts *facts,
			   const struct memoc_err *err)
{
	struct pending *p = user;
	struct entry *e = entry_by_id(p->daemon, p->vm);
	if (code == 0 && e && job->live) /* at once; libvirt's own event confirms it in a moment */
		entry_learn(e, facts, true);
	if (code < 0)
		fail_policy(p, code, err->text);
	else if (p->call)
		varlink_answer(p->call, NULL, false);
	pending_free(p);
}

/* Of a policy job, with what both methods have: the VM (NULL: only libvirt may know it), its name, live and config. */
static bool policy_vm(struct daemon *d, struct varlink_call *call, const struct json *parameters, struct entry **ret_e,
		      const char **ret_word, struct policy_job *job)
{
	if (json_get_str(parameters, "vm", ret_word) < 0 || !**ret_word || strlen(*ret_word) >= DOMXML_NAME_MAX) {
		varlink_fail_parameter(call, "vm");
		return false;
	}
	*ret_e = entry_by_word(d, *ret_word);
	*job = (struct policy_job){.last_good = *ret_e ? (*ret_e)->facts.policy : vmpolicy_default()};
	return optional_bool(call, parameters, "live", &job->live) &&
	       optional_bool(call, parameters, "config", &job->config);
}

typedef int policy_submit_fn(struct daemon *d, struct entry *e, const char *name, const struct policy_job *p,
			     policy_done_fn *done, void *user);

static void policy_start(struct daemon *d, struct varlink_call *call, struct entry *e, const char *word,
			 const struct policy_job *job, policy_submit_fn *submit, policy_done_fn *done)
{
	struct pending *p = pending_new(d, call, WAIT_JOB);
	if (!p)
		return;
	p->vm = e ? e->id : 0;
	snprintf(p->filter_name, sizeof(p->filter_name), "%s", e ? e->facts.name : word);
	if (submit(d, e, word, job, done, p) < 0) {
		fail_failed(call, "out of memory");
		pending_free(p);
	}
}

static void method_get_policy(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	struct policy_job job;
	struct entry *e;
	const char *word;
	if (!policy_vm(d, call, parameters, &e, &word, &job))
		return;
	if (job.live && job.config) {
		varlink_fail_parameter(call, "config");
	} else if (e && e->facts.max_bytes && !job.config) { /* what is in effect: the last good one */
		struct json_writer *w = object();
		show_policy(w, "values", d, &e->facts, "domain XML");
		jw_end(w);
		answer(call, w, false);
	} else {
		policy_start(d, call, e, word, &job, job_get_policy, policy_read);
	}
}

static bool add_values(struct varlink_call *call, const struct json *values, struct policy_keys *keys)
{
	struct memoc_err err = {""};
	keys->values = vmpolicy_default();
	for (size_t i = 0; i < json_len(values); i++) {
		const char *key = json_key_at(values, i), *value;
		if (json_str(json_at(values, i), &value) < 0)
			memoc_err_set(&err, -EINVAL, "%s: its value must be text", key);
		else
			policy_keys_add(keys, key, value, &err);
		if (err.text[0]) {
			fail_why(call, ERROR("Refused"), "what", key, err.text);
			return false;
		}
	}
	return true;
}

static void method_set_policy(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	struct policy_job job;
	struct entry *e;
	const char *word;
	if (!policy_vm(d, call, parameters, &e, &word, &job))
		return;
	const struct json *values = json_get(parameters, "values");
	if (json_type(values) != JSON_OBJECT)
		varlink_fail_parameter(call, "values");
	else if (add_values(call, values, &job.keys))
		policy_start(d, call, e, word, &job, job_set_policy, policy_written);
}

/* ---- resize, hold, drain ---- */

static bool size_reached(const struct daemon *d, const struct vm *vm, uint64_t target)
{
	uint64_t size = vm_size_bytes(vm), off = size > target ? size - target : target - size;
	return vm->state == VM_STEADY && off <= vm_dead_band_bytes(vm, core_config(d->core));
}

static void answer_size(struct pending *p, const struct vm *vm, bool reached)
{
	struct json_writer *w = object();
	jw_u64(w, "from_bytes", p->from_bytes);
	jw_u64(w, "to_bytes", p->target_bytes ? p->target_bytes : vm->target_bytes);
	jw_bool(w, "reached", reached);
	jw_end(w);
	answer(p->call, w, false);
}

static void waiting_size(struct pending *p)
{
	const struct vm *vm = core_vm(p->daemon->core, p->vm);
	if (!vm) {
		fail_failed(p->call, "the VM stopped while it was being resized");
	} else if (size_reached(p->daemon, vm, p->target_bytes)) {
		answer_size(p, vm, true);
	} else if (!ev_is_active(&p->timer)) {
		struct json_writer *w = object();
		char *text AUTO_FREE = NULL;
		jw_u64(w, "target_bytes", p->target_bytes);
		jw_u64(w, "size_bytes", vm_size_bytes(vm));
		jw_end(w);
		varlink_fail(p->call, ERROR("StillResizing"), jw_finish(w, &text, NULL) == 0 ? text : NULL);
	} else {
		return;
	}
	pending_free(p);
}

static void count_open(struct daemon *d, vm_id id, size_t *ret_vms, size_t *ret_open)
{
	*ret_vms = *ret_open = 0;
	for (size_t i = 0; i < core_vm_count(d->core); i++) {
		const struct vm *vm = core_vm_at(d->core, i);
		if (id && vm->id != id)
			continue;
		if (vm->state == VM_FIXED && !vm->limit_ours) /* nothing of it is memoc's to give back */
			continue;
		++*ret_vms;
		bool open = vm->limit_known ? vm->limit_bytes == LIMIT_NONE : vm->limit_asked_bytes == 0;
		bool full = !vm->facts.has_balloon || vm->actual_bytes == 0 || vm_balloon_forgotten(vm) ||
			    vm->actual_bytes + 4 * MIB >= vm->facts.max_bytes;
		*ret_open += open && !vm->limit_pending && (full || vm->health == BALLOON_ABSENT);
	}
}

/* memocd may just have been started by this very call. */
static bool all_known(const struct daemon *d)
{
	for (const struct entry *e = d->entries; e; e = e->next)
		if (!e->in_core)
			return false;
	return d->looked;
}

static void waiting_drain(struct pending *p, bool wait)
{
	size_t vms, open;
	count_open(p->daemon, p->vm, &vms, &open);
	bool done = open == vms && (p->vm || all_known(p->daemon));
	if (wait && !done && ev_is_active(&p->timer))
		return;
	struct json_writer *w = object();
	jw_u64(w, "vms", vms);
	jw_u64(w, "open", open);
	jw_end(w);
	answer(p->call, w, false);
	pending_free(p);
}

/* ---- before a migration ---- */

/* As it is now, not as it was at the last tick: what a balloon takes is swapped no more. */
static uint64_t swapped_now(const struct entry *e)
{
	struct vm_host_sample s;
	return e->attach && cgroup_vm_read(e->attach->cgroup, &s) == 0 ? s.swapped_bytes : 0;
}

/*
 * QEMU tells of a balloon once a second at most, and libvirt's XML, which goes ahead of the VM and says there how much
 * to keep for it, has what QEMU told last.
 */
#define XML_FOLLOWS_MS 1200

static void waiting_trim(struct pending *p)
{
	const struct entry *e = entry_by_id(p->daemon, p->vm);
	const struct vm *vm = core_vm(p->daemon->core, p->vm);
	if (!e || !vm) {
		fail_failed(p->call, "the VM stopped while it was prepared");
		pending_free(p);
		return;
	}
	bool moves = vm->state == VM_SHRINKING_BALLOON || vm->state == VM_SHRINKING_LIMIT;
	moves |= !p->why && now_ms() - vm->actual_change_ms < XML_FOLLOWS_MS;
	if (moves && ev_is_active(&p->timer))
		return;
	struct json_writer *w = object();
	jw_u64(w, "from_bytes", p->from_bytes);
	jw_u64(w, "to_bytes", vm_size_bytes(vm));
	jw_u64(w, "from_swapped_bytes", p->from_swapped_bytes);
	jw_u64(w, "to_swapped_bytes", swapped_now(e));
	jw_u64(w, "max_bytes", vm->facts.max_bytes);
	jw_str(w, "why_not", p->why);
	jw_str(w, "connect_uri", p->daemon->options->uri);
	jw_end(w);
	answer(p->call, w, false);
	pending_free(p);
}

#define TRIM_DEFAULT_MS 30000 /* a balloon moves 0.4 GB a second and more; one that stalls is found out after 5 s */

static struct entry *known_vm(struct daemon *d, struct varlink_call *call, const struct json *parameters)
{
	struct entry *e = named_vm(d, call, parameters);
	if (!e || (e->in_core && core_vm(d->core, e->id)))
		return e;
	fail_why(call, ERROR("Refused"), "what", e->facts.name, "it is still being looked at: try again in a moment");
	return NULL;
}

static void method_prepare_migration(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	uint64_t timeout_ms = TRIM_DEFAULT_MS;
	struct entry *e = known_vm(d, call, parameters);
	if (!e || !optional_u64(call, parameters, "timeout_ms", &timeout_ms))
		return;
	struct pending *p = pending_new(d, call, WAIT_TRIM);
	if (!p)
		return;
	const struct vm *vm = core_vm(d->core, e->id);
	p->vm = e->id;
	p->from_bytes = vm_size_bytes(vm);
	p->from_swapped_bytes = swapped_now(e);
	core_spare_bytes(d->core, e->id, &p->why);
	arm_wait(p, timeout_ms);
	/* The step answers it where nothing moves (methods_waiting()). */
	daemon_post(d, (struct event){.type = EVENT_VM_TRIM, .vm = e->id, .flag = true});
}

static void method_abandon_migration(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	struct entry *e = known_vm(d, call, parameters);
	if (!e)
		return;
	daemon_post(d, (struct event){.type = EVENT_VM_TRIM, .vm = e->id});
	varlink_answer(call, NULL, false);
}

void methods_waiting(struct pending *p)
{
	if (p->kind == WAIT_SIZE)
		waiting_size(p);
	else if (p->kind == WAIT_DRAIN)
		waiting_drain(p, true);
	else if (p->kind == WAIT_TRIM)
		waiting_trim(p);
	else if (p->kind == WAIT_LIST)
		waiting_list(p);
}

static bool resize_size_good(struct varlink_call *call, const struct vm *vm, const struct core_config *c,
			     uint64_t bytes)
{
	char why[160], min[FORMAT_SIZE_LEN], max[FORMAT_SIZE_LEN];
	if (!bytes || (bytes >= vm_min_bytes(vm, c) && bytes <= vm_max_bytes(vm)))
		return true;
	snprintf(why, sizeof(why),
		 "must be between its minimum of %s and its maximum of %s; change them with memoc set",
		 format_size(min, vm_min_bytes(vm, c)), format_size(max, vm_max_bytes(vm)));
	fail_why(call, ERROR("Refused"), "what", "size", why);
	return false;
}

static void method_resize(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	uint64_t bytes = 0, timeout_ms = WAIT_DEFAULT_MS;
	bool wait = false;
	struct entry *e = named_vm(d, call, parameters);
	if (!e || !optional_u64(call, parameters, "bytes", &bytes) || !optional_bool(call, parameters, "wait", &wait) ||
	    !optional_u64(call, parameters, "timeout_ms", &timeout_ms))
		return;
	const struct vm *vm = e->in_core ? core_vm(d->core, e->id) : NULL;
	if (!vm || vm->state == VM_FIXED) {
		fail_why(call, ERROR("Refused"), "what", e->facts.name,
			 vm ? "it is not eligible: memoc explain says why"
			    : "it is still being looked at: try again in a moment");
		return;
	}
	if (!resize_size_good(call, vm, core_config(d->core), bytes))
		return;
	struct pending *p = pending_new(d, call, WAIT_SIZE);
	if (!p)
		return;
	p->vm = e->id;
	p->from_bytes = vm_size_bytes(vm);
	p->target_bytes = bytes;
	arm_wait(p, timeout_ms);
	bool answer_now = !wait || !bytes;
	if (answer_now) {
		answer_size(p, vm, size_reached(d, vm, bytes));
		pending_free(p);
	}
	daemon_post(d, (struct event){.type = EVENT_VM_PIN, .vm = e->id, .bytes = bytes});
	keep_soon(d);
}

/* The VM of hold, release and drain: none named means all. False after the call was failed. */
static bool vm_or_all(struct daemon *d, struct varlink_call *call, const struct json *parameters, vm_id *ret)
{
	const struct json *vm = json_get(parameters, "vm");
	*ret = 0;
	if (json_type(vm) == JSON_NULL)
		return true;
	struct entry *e = named_vm(d, call, parameters);
	if (e && !e->in_core)
		fail_why(call, ERROR("Refused"), "what", e->facts.name,
			 "it is still being looked at: try again in a moment");
	if (!e || !e->in_core)
		return false;
	*ret = e->id;
	return true;
}

static void set_hold(struct varlink_call *call, const struct json *parameters, struct daemon *d, bool flag)
{
	vm_id id;
	if (!vm_or_all(d, call, parameters, &id))
		return;
	if (id && !flag && core_hold_all(d->core)) {
		fail_why(call, ERROR("Refused"), "what", "release",
			 "all VMs are held: release them all (memoc release), or hold single ones");
		return;
	}
	d->drain_all = d->drain_all && (id || flag);
	daemon_post(d, (struct event){.type = EVENT_VM_HOLD, .vm = id, .flag = flag});
	keep_soon(d);
	varlink_answer(call, NULL, false);
}

static void method_hold(struct varlink_call *call, const struct json *parameters, void *user)
{
	set_hold(call, parameters, user, true);
}

static void method_release(struct varlink_call *call, const struct json *parameters, void *user)
{
	set_hold(call, parameters, user, false);
}

static void method_drain(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	uint64_t timeout_ms = WAIT_DEFAULT_MS;
	bool wait = false;
	vm_id id;
	if (!optional_bool(call, parameters, "wait", &wait) ||
	    !optional_u64(call, parameters, "timeout_ms", &timeout_ms) || !vm_or_all(d, call, parameters, &id))
		return;
	if (!id) { /* VMs to come are left alone too: this is the way out */
		d->drain_all = true;
		daemon_post(d, (struct event){.type = EVENT_VM_HOLD, .flag = true});
	}
	for (struct entry *e = d->entries; e; e = e->next)
		if (e->in_core && (!id || e->id == id))
			daemon_post(d, (struct event){.type = EVENT_VM_DRAIN, .vm = e->id});
	keep_soon(d);
	struct pending *p = pending_new(d, call, WAIT_DRAIN);
	if (!p)
		return;
	p->vm = id;
	arm_wait(p, timeout_ms);
	waiting_drain(p, wait);
}

/* ---- who may change something ---- */

static void member_known(void *user, bool member)
{
	struct pending *p = user;
	struct varlink_call *call = p->call;
	struct daemon *d = p->daemon;
	varlink_method_fn *allowed = p->allowed;
	const struct json *parameters = p->parameters;
	if (call)
		varlink_call_set_data(call, NULL);
	pending_free(p);
	if (call && d->closing)
		fail_failed(call, "memocd is stopping");
	else if (call && member)
		allowed(call, parameters, d);
	else if (call)
		fail_why(call, ERROR("PermissionDenied"), NULL, NULL,
			 "changing something needs root or membership in group memoc");
}

static void guarded(struct varlink_call *call, const struct json *parameters, struct daemon *d,
		    varlink_method_fn *method)
{
	struct varlink_conn *conn = varlink_call_conn(call);
	if (varlink_conn_uid(conn) == 0) {
		method(call, parameters, d);
		return;
	}
	struct pending *p = pending_new(d, call, WAIT_MEMBER);
	if (!p)
		return;
	p->allowed = method;
	p->parameters = parameters;
	if (job_member(d, varlink_conn_uid(conn), varlink_conn_gid(conn), member_known, p) < 0) {
		fail_failed(call, "out of memory");
		pending_free(p);
	}
}

#define GUARDED(name)                                                                                                  \
	static void guarded_##name(struct varlink_call *call, const struct json *parameters, void *user)               \
	{                                                                                                              \
		guarded(call, parameters, user, method_##name);                                                        \
	}
GUARDED(set_policy)
GUARDED(resize)
GUARDED(hold)
GUARDED(release)
GUARDED(drain)
GUARDED(prepare_migration)
GUARDED(abandon_migration)

/* ---- the hook ---- */

static const char *admission_name(enum admission_mode mode)
{
	return mode == ADMISSION_DENY ? "deny" : mode == ADMISSION_WARN ? "warn" : "off";
}

/* What is missing for the guaranteed minimums of all where this VM comes; 0 where nothing, or where nobody asks. */
static uint64_t missing_bytes(struct daemon *d, const struct hook_notice *n)
{
	uint64_t missing = 0;
	bool arrives = strcmp(n->operation, "migrate") == 0 || strcmp(n->operation, "restore") == 0;
	bool asks = (arrives || strcmp(n->operation, "prepare") == 0) && n->has_facts &&
		    core_config(d->core)->admission != ADMISSION_OFF;
	/* restore and migrate come before prepare: the VM may be known, but it holds nothing before it has a process */
	const struct entry *e = n->uuid ? entry_by_uuid(d, n->uuid) : NULL;
	/* What is never resized keeps all that it has. */
	bool fixed = n->facts.ineligible != DOM_ELIGIBLE;
	uint64_t min_bytes = fixed ? n->facts.max_bytes : n->facts.policy.min_bytes;
	if (asks && !(e && e->attach))
		core_admit(d->core, e ? e->id : 0, n->facts.max_bytes, min_bytes, proc_overhead_guess(&n->facts),
			   &missing);
	return missing;
}

/*
 * True: it does not come, and nobody makes room for it. One that arrives is announced before libvirt asks whether it
 * may; only to that question there is an answer.
 */
static bool answer_admission(struct varlink_call *call, struct daemon *d, const struct hook_notice *n)
{
	const struct core_config *c = core_config(d->core);
	uint64_t missing = missing_bytes(d, n);
	if (missing && strcmp(n->operation, "prepare") == 0) {
		struct log_fields fields = {.message_id = MSG_ADMISSION, .vm = n->name, .uuid = n->uuid};
		char size[FORMAT_SIZE_LEN];
		log_fields(LOG_LEVEL_WARNING, &fields, "%s: guaranteed minimums no longer fit, %s missing%s", n->name,
			   format_size(size, missing), c->admission == ADMISSION_DENY ? ": refused" : "");
	}
	struct json_writer *w = object();
	jw_bool(w, "admitted", missing == 0);
	if (missing)
		jw_u64(w, "missing_bytes", missing);
	jw_str(w, "mode", admission_name(c->admission));
	jw_end(w);
	answer(call, w, false);
	return missing && c->admission == ADMISSION_DENY;
}

static void method_notify(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	struct hook_notice n = {0};
	struct memoc_err err = {""};
	char uuid[UUID_TEXT_LEN + 1];
	const char *text;
	if (json_get_str(parameters, "name", &n.name) < 0 || !*n.name || strlen(n.name) >= DOMXML_NAME_MAX) {
		varlink_fail_parameter(call, "name");
		return;
	}
	if (json_get_str(parameters, "operation", &n.operation) < 0) {
		varlink_fail_parameter(call, "operation");
		return;
	}
	if (json_get_str(parameters, "uuid", &text) == 0 && parse_uuid(text, uuid, NULL) == 0)
		n.uuid = uuid;
	int r = domjson_read(parameters, &n.facts, &err); /* enough until its live XML has been read */
	if (r == -EINVAL)
		log_warning("%s: what the hook says of it is not believed: %s", n.name, err.text);
	n.has_facts = n.uuid && r == 0;
	snprintf(n.facts.name, sizeof(n.facts.name), "%s", n.name);
	log_debug("hook: %s %s", n.name, n.operation);
	/* Answered first: libvirt holds the VM's lock while its hook waits. parameters end with the answer. */
	char name[DOMXML_NAME_MAX], operation[32];
	snprintf(name, sizeof(name), "%s", n.name);
	snprintf(operation, sizeof(operation), "%s", n.operation);
	n.name = name;
	n.operation = operation;
	if (!answer_admission(call, d, &n))
		hook_notice(d, &n);
}

static void guarded_notify(struct varlink_call *call, const struct json *parameters, void *user)
{
	/* Only libvirt's hook says what libvirt does; it runs as root. */
	if (varlink_conn_uid(varlink_call_conn(call)) == 0)
		method_notify(call, parameters, user);
	else
		fail_why(call, ERROR("PermissionDenied"), NULL, NULL, "only libvirt's hook, as root, may call this");
}

static const struct varlink_method controller_methods[] = {
	{ERROR("List"), method_list},
	{ERROR("Info"), method_info},
	{ERROR("Host"), method_host},
	{ERROR("Explain"), method_explain},
	{ERROR("Events"), method_events},
	{ERROR("History"), method_history},
	{ERROR("GetPolicy"), method_get_policy},
	{ERROR("SetPolicy"), guarded_set_policy},
	{ERROR("Resize"), guarded_resize},
	{ERROR("Hold"), guarded_hold},
	{ERROR("Release"), guarded_release},
	{ERROR("Drain"), guarded_drain},
	{ERROR("PrepareMigration"), guarded_prepare_migration},
	{ERROR("AbandonMigration"), guarded_abandon_migration},
	{ERROR("Config"), method_config},
	{NULL, NULL},
};
static const struct varlink_method hook_methods[] = {{"org.memoc.Hook.Notify", guarded_notify}, {NULL, NULL}};

const struct varlink_interface memoc_interfaces[] = {
	{"org.memoc.Controller", VARLINK_TEXT_org_memoc_Controller, controller_methods},
	{"org.memoc.Hook", VARLINK_TEXT_org_memoc_Hook, hook_methods},
	{NULL, NULL, NULL},
};
