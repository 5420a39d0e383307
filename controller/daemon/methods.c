/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The methods of org.memoc.Controller and org.memoc.Hook. */
#include "controller/daemon/control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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

/* ---- reading ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct entry *const *)a)->facts.name, (*(struct entry *const *)b)->facts.name);
}

static void method_list(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	bool all = false;
	if (!optional_bool(call, parameters, "all", &all))
		return;
	size_t n = 0;
	for (struct entry *e = d->entries; e; e = e->next)
		n++;
	struct entry **list = calloc(n ? n : 1, sizeof(*list));
	if (!list) {
		fail_failed(call, "out of memory");
		return;
	}
	n = 0;
	for (struct entry *e = d->entries; e; e = e->next)
		if (all || e->facts.ineligible != DOM_UNMANAGED)
			list[n++] = e;
	qsort(list, n, sizeof(*list), by_name);
	struct json_writer *w = object();
	jw_array(w, "vms");
	for (size_t i = 0; i < n; i++)
		show_vm(w, NULL, d, list[i]);
	jw_end(w);
	jw_end(w);
	free(list);
	answer(call, w, false);
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

static void policy_read(void *user, int code, const char *xml, const struct memoc_err *err)
{
	struct pending *p = user;
	struct entry *e = entry_by_id(p->daemon, p->vm);
	struct vmpolicy policy = vmpolicy_default();
	struct memoc_err why = *err;
	if (code == 0 && xml)
		code = domxml_parse_policy(xml, strlen(xml), &policy, &why);
	if (p->call && (code < 0 || !e)) {
		fail_failed(p->call, why.text);
	} else if (p->call) {
		struct json_writer *w = object();
		show_policy(w, "values", p->daemon, e, &policy, "persistent domain XML");
		jw_end(w);
		answer(p->call, w, false);
	}
	pending_free(p);
}

static void method_get_policy(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	bool config = false;
	struct entry *e = named_vm(d, call, parameters);
	if (!e || !optional_bool(call, parameters, "config", &config))
		return;
	if (!config) {
		struct json_writer *w = object();
		show_policy(w, "values", d, e, &e->facts.policy, "domain XML");
		jw_end(w);
		answer(call, w, false);
		return;
	}
	struct pending *p = pending_new(d, call, WAIT_JOB);
	if (!p)
		return;
	p->vm = e->id;
	if (job_get_policy(e, true, policy_read, p) < 0) {
		fail_failed(call, "out of memory");
		pending_free(p);
	}
}

static void policy_written(void *user, int code, const char *xml, const struct memoc_err *err)
{
	struct pending *p = user;
	struct entry *e = entry_by_id(p->daemon, p->vm);
	if (code < 0) {
		if (p->call && code == -EINVAL)
			fail_why(p->call, ERROR("Refused"), "what", "policy", err->text);
		else if (p->call)
			fail_failed(p->call, err->text);
	} else {
		if (e && p->live) { /* at once; libvirt's own event confirms it in a moment */
			struct dom_facts facts = e->facts;
			facts.policy = p->policy;
			facts.policy_bad = false;
			facts.policy_err.text[0] = '\0';
			entry_learn(e, &facts, e->has_xml);
		}
		if (p->call)
			varlink_answer(p->call, NULL, false);
	}
	pending_free(p);
}

static uint32_t policy_key_bit(const char *key)
{
	for (size_t i = 0; vmpolicy_keys[i].name; i++)
		if (strcmp(vmpolicy_keys[i].name, key) == 0)
			return UINT32_C(1) << i;
	return 0;
}

/* The change on top of the live policy; what is only for the persistent XML is checked there. */
static bool apply_values(struct varlink_call *call, const struct json *values, uint64_t max_bytes,
			 struct policy_change *change)
{
	struct memoc_err err = {""};
	for (size_t i = 0; i < json_len(values); i++) {
		const char *key = json_key_at(values, i), *value;
		if (json_str(json_at(values, i), &value) < 0)
			memoc_err_set(&err, -EINVAL, "%s: its value must be text", key);
		else
			vmpolicy_set(&change->policy, key, value, &err);
		if (err.text[0]) {
			fail_why(call, ERROR("Refused"), "what", key, err.text);
			return false;
		}
		change->keys |= policy_key_bit(key);
	}
	if (change->live && vmpolicy_check(&change->policy, max_bytes, &err) < 0) {
		fail_why(call, ERROR("Refused"), "what", "policy", err.text);
		return false;
	}
	return true;
}

static void method_set_policy(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	bool live = false, config = false;
	struct entry *e = named_vm(d, call, parameters);
	if (!e || !optional_bool(call, parameters, "live", &live) ||
	    !optional_bool(call, parameters, "config", &config))
		return;
	const struct json *values = json_get(parameters, "values");
	if (json_type(values) != JSON_OBJECT) {
		varlink_fail_parameter(call, "values");
		return;
	}
	bool neither = !live && !config;
	struct policy_change change = {.policy = e->facts.policy,
				       .live = live || neither,
				       .config = config || neither,
				       .config_optional = neither};
	if (!apply_values(call, values, e->facts.max_bytes, &change))
		return;
	struct pending *p = pending_new(d, call, WAIT_JOB);
	if (!p)
		return;
	p->vm = e->id;
	p->policy = change.policy;
	p->live = change.live;
	if (job_set_policy(e, &change, policy_written, p) < 0) {
		fail_failed(call, "out of memory");
		pending_free(p);
	}
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
		bool full = !vm->facts.has_balloon || vm->actual_bytes == 0 ||
			    vm->actual_bytes + 4 * MIB >= vm->facts.max_bytes;
		*ret_open += open && !vm->limit_pending && (full || vm->health == BALLOON_ABSENT);
	}
}

static void waiting_drain(struct pending *p, bool wait)
{
	size_t vms, open;
	count_open(p->daemon, p->vm, &vms, &open);
	if (wait && open < vms && ev_is_active(&p->timer))
		return;
	struct json_writer *w = object();
	jw_u64(w, "vms", vms);
	jw_u64(w, "open", open);
	jw_end(w);
	answer(p->call, w, false);
	pending_free(p);
}

void methods_waiting(struct pending *p)
{
	if (p->kind == WAIT_SIZE)
		waiting_size(p);
	else if (p->kind == WAIT_DRAIN)
		waiting_drain(p, true);
}

#define WAIT_DEFAULT_MS 60000
#define WAIT_MAX_MS 3600000

static void arm_wait(struct pending *p, uint64_t timeout_ms)
{
	ev_timer_set(&p->timer, (double)min_u64(timeout_ms, WAIT_MAX_MS) / 1000, 0.);
	ev_timer_start(p->daemon->loop, &p->timer);
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
			 vm ? "it is not eligible: memoc explain says why" : "it is still being looked at");
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
		fail_why(call, ERROR("Refused"), "what", e->facts.name, "it is still being looked at");
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
	if (!id) /* VMs to come are left alone too: this is the way out */
		daemon_post(d, (struct event){.type = EVENT_VM_HOLD, .flag = true});
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

/* ---- the hook ---- */

static void optional_text(const struct json *parameters, const char *key, char *buf, size_t len)
{
	const char *text;
	if (json_get_str(parameters, key, &text) == 0)
		snprintf(buf, len, "%s", text);
}

/* What the hook read from the XML; enough to know the VM by until its live XML has been read. */
static bool notice_facts(const struct json *parameters, struct dom_facts *f)
{
	bool eligible = true;
	uint64_t period = 0;
	memset(f, 0, sizeof(*f));
	f->policy = vmpolicy_default();
	f->ineligible = DOM_ELIGIBLE;
	optional_text(parameters, "name", f->name, sizeof(f->name));
	optional_text(parameters, "uuid", f->uuid, sizeof(f->uuid));
	if (json_get_u64(parameters, "max_bytes", &f->max_bytes) < 0 || !f->max_bytes)
		return false;
	f->current_bytes = f->max_bytes;
	json_get_u64(parameters, "current_bytes", &f->current_bytes);
	json_get_u64(parameters, "min_bytes", &f->policy.min_bytes);
	json_get_bool(parameters, "has_balloon", &f->has_balloon);
	json_get_u64(parameters, "stats_period_s", &period);
	f->stats_period_s = (uint32_t)min_u64(period, UINT32_MAX);
	json_get_bool(parameters, "eligible", &eligible);
	if (!eligible) {
		f->ineligible = DOM_UNMANAGED;
		optional_text(parameters, "ineligible_reason", f->ineligible_detail, sizeof(f->ineligible_detail));
	}
	return true;
}

static const char *admission_name(enum admission_mode mode)
{
	return mode == ADMISSION_DENY ? "deny" : mode == ADMISSION_WARN ? "warn" : "off";
}

static void answer_admission(struct varlink_call *call, struct daemon *d, const struct hook_notice *n)
{
	const struct core_config *c = core_config(d->core);
	uint64_t missing = 0;
	bool asks = strcmp(n->operation, "prepare") == 0 && n->has_facts && c->admission != ADMISSION_OFF;
	/* restore and migrate come before prepare: the VM may be known, but it holds nothing before it has a process */
	const struct entry *e = n->uuid ? entry_by_uuid(d, n->uuid) : NULL;
	/* What is never resized keeps all that it has. */
	bool fixed = n->facts.ineligible != DOM_ELIGIBLE;
	uint64_t min_bytes = fixed ? n->facts.max_bytes : n->facts.policy.min_bytes;
	if (asks && !(e && e->attach))
		core_admit(d->core, e ? e->id : 0, n->facts.max_bytes, min_bytes, proc_overhead_guess(&n->facts),
			   &missing);
	if (missing) {
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
}

static void method_notify(struct varlink_call *call, const struct json *parameters, void *user)
{
	struct daemon *d = user;
	struct hook_notice n = {0};
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
	n.has_facts = n.uuid && notice_facts(parameters, &n.facts);
	log_debug("hook: %s %s", n.name, n.operation);
	/* Answered first: libvirt holds the VM's lock while its hook waits. parameters end with the answer. */
	char name[DOMXML_NAME_MAX], operation[32];
	snprintf(name, sizeof(name), "%s", n.name);
	snprintf(operation, sizeof(operation), "%s", n.operation);
	n.name = name;
	n.operation = operation;
	answer_admission(call, d, &n);
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
	{ERROR("Config"), method_config},
	{NULL, NULL},
};
static const struct varlink_method hook_methods[] = {{"org.memoc.Hook.Notify", guarded_notify}, {NULL, NULL}};

const struct varlink_interface memoc_interfaces[] = {
	{"org.memoc.Controller", VARLINK_TEXT_org_memoc_Controller, controller_methods},
	{"org.memoc.Hook", VARLINK_TEXT_org_memoc_Hook, hook_methods},
	{NULL, NULL, NULL},
};
