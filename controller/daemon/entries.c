/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who is here: what the hook, libvirt's events, its list and the process table say of a VM, brought together. The hook
 * tells first, libvirt's XML tells best, the pidfd tells last.
 */
#include "controller/daemon/advice.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct attach *attach_ref(struct attach *a)
{
	atomic_fetch_add(&a->refs, 1);
	return a;
}

void attach_unref(struct attach *a)
{
	if (!a || atomic_fetch_sub(&a->refs, 1) != 1)
		return;
	proc_vm_close(a->proc);
	cgroup_vm_close(a->cgroup);
	free(a);
}

struct entry *entry_by_uuid(struct daemon *d, const char *uuid)
{
	for (struct entry *e = d->entries; e; e = e->next)
		if (strcmp(e->uuid, uuid) == 0)
			return e;
	return NULL;
}

struct entry *entry_by_id(struct daemon *d, vm_id id)
{
	for (struct entry *e = d->entries; e; e = e->next)
		if (e->id == id)
			return e;
	return NULL;
}

struct entry *entry_by_word(struct daemon *d, const char *word)
{
	char uuid[UUID_TEXT_LEN + 1];
	if (parse_uuid(word, uuid, NULL) == 0)
		return entry_by_uuid(d, uuid);
	for (struct entry *e = d->entries; e; e = e->next)
		if (strcmp(e->facts.name, word) == 0)
			return e;
	return NULL;
}

static void exit_cb(struct ev_loop *loop, ev_io *w, int revents)
{
	entry_stopped(w->data, "its QEMU has ended");
}

static void attach_timer_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	job_attach(w->data);
}

struct entry *entry_get(struct daemon *d, const char *uuid, const char *name, enum vm_origin origin, bool *ret_new)
{
	struct entry *e = entry_by_uuid(d, uuid);
	*ret_new = !e;
	if (e)
		return e;
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	e->daemon = d;
	e->id = ++d->next_id;
	e->origin = origin;
	e->limit_seen_bytes = LIMIT_NONE;
	e->checked_ms = now_ms();
	e->inspect_again_ms = NEVER_MS;
	snprintf(e->uuid, sizeof(e->uuid), "%s", uuid);
	snprintf(e->facts.name, sizeof(e->facts.name), "%s", name);
	if (work_lane_new(d->virt_pool, e, &e->virt_lane) < 0 ||
	    work_lane_new(d->kernel_pool, e, &e->kernel_lane) < 0) {
		work_lane_free(e->virt_lane);
		free(e);
		return NULL;
	}
	ev_timer_init(&e->attach_timer, attach_timer_cb, 0., 0.);
	ev_timer_init(&e->poll_timer, poll_timer_cb, 0., 0.);
	e->attach_timer.data = e->poll_timer.data = e->exit_io.data = e;
	const struct state_vm *s = state_find(&d->remembered, uuid);
	if (s)
		e->memory = s->memory;
	e->next = d->entries;
	d->entries = e;
	return e;
}

void entry_free(struct entry *e)
{
	struct daemon *d = e->daemon;
	for (struct entry **p = &d->entries; *p; p = &(*p)->next) {
		if (*p != e)
			continue;
		*p = e->next;
		break;
	}
	ev_timer_stop(d->loop, &e->attach_timer);
	ev_timer_stop(d->loop, &e->poll_timer);
	if (e->attach)
		ev_io_stop(d->loop, &e->exit_io);
	advising_drop(d->advising, e->id);
	work_lane_free(e->virt_lane);
	work_lane_free(e->kernel_lane);
	attach_unref(e->attach);
	free(e);
}

void entries_free(struct daemon *d)
{
	while (d->entries)
		entry_free(d->entries);
}

struct vm_facts core_facts(const struct dom_facts *f)
{
	return (struct vm_facts){.max_bytes = f->max_bytes,
				 .overhead_guess_bytes = proc_overhead_guess(f),
				 .has_balloon = f->has_balloon,
				 .eligible = f->ineligible == DOM_ELIGIBLE,
				 .policy = f->policy};
}

static void tell_policy_error(struct entry *e, const struct memoc_err *before)
{
	const struct dom_facts *f = &e->facts;
	if (!f->policy_bad || strcmp(before->text, f->policy_err.text) == 0)
		return;
	struct log_fields fields = {
		.message_id = MSG_VM_POLICY_BAD, .vm = f->name, .uuid = e->uuid, .reason = f->policy_err.text};
	log_fields(LOG_LEVEL_WARNING, &fields, "%s: policy refused: %s; the last good one stays", f->name,
		   f->policy_err.text);
}

static void tell_ineligible(struct entry *e)
{
	const struct dom_facts *f = &e->facts;
	struct log_fields fields = {
		.message_id = MSG_VM_INELIGIBLE, .vm = f->name, .uuid = e->uuid, .reason = f->ineligible_detail};
	log_fields(LOG_LEVEL_NOTICE, &fields, "%s: not eligible: %s%s%s", f->name, dom_ineligible_text(f->ineligible),
		   f->ineligible_detail[0] ? ": " : "", f->ineligible_detail);
}

static void post_added(struct entry *e)
{
	struct event ev = {.type = EVENT_VM_ADDED, .vm = e->id};
	ev.added.origin = e->origin;
	ev.added.facts = core_facts(&e->facts);
	/* libvirt sends its live XML ahead, and that has for <currentMemory> what the balloon says. */
	if (e->origin == ORIGIN_INCOMING)
		ev.added.carried_bytes = e->facts.has_balloon ? e->facts.current_bytes : e->facts.max_bytes;
	ev.added.memory = e->memory;
	daemon_post(e->daemon, ev);
}

static void enter_core(struct entry *e)
{
	e->in_core = true;
	post_added(e);
	if (!e->daemon->draining)
		e->in_core = core_vm(e->daemon->core, e->id) != NULL;
	if (!e->in_core)
		return;
	if (e->running && !e->running_told) {
		e->running_told = true;
		daemon_post(e->daemon, (struct event){.type = EVENT_VM_RUNNING, .vm = e->id});
	}
	if (e->paused)
		daemon_post(e->daemon, (struct event){.type = EVENT_VM_PAUSED, .vm = e->id});
	if (e->outgoing)
		daemon_post(e->daemon,
			    (struct event){.type = EVENT_VM_MIGRATING_OUT, .vm = e->id, .pass = e->outgoing_pass});
	if (e->daemon->drain_all)
		daemon_post(e->daemon, (struct event){.type = EVENT_VM_DRAIN, .vm = e->id});
}

/* A guest that was here before memocd enters the core with its process known, so that what was remembered can be
 * checked. */
static bool ready_for_core(const struct entry *e)
{
	return e->facts.max_bytes && (e->origin != ORIGIN_ADOPT || e->attach || e->attach_tries > 3);
}

/* libvirt refuses every change of a VM that migrates, after 30 s in which it answers nothing else of it. When that is
 * over its XML is read again. */
static bool wants_stats_period(const struct entry *e)
{
	const struct dom_facts *f = &e->facts;
	const struct vm *vm = e->in_core ? core_vm(e->daemon->core, e->id) : NULL;
	bool migrates = vm && (vm->state == VM_MIGRATING_IN || vm->state == VM_MIGRATING_OUT);
	return f->has_balloon && !f->stats_period_s && f->ineligible == DOM_ELIGIBLE && !migrates &&
	       !e->daemon->config.core.observe;
}

void entry_learn(struct entry *e, const struct dom_facts *facts, bool from_xml)
{
	struct vmpolicy last_good = e->facts.policy;
	struct memoc_err last_err = e->facts.policy_err;
	bool had = e->facts.max_bytes != 0;
	enum dom_ineligible before = e->facts.ineligible;
	if (!from_xml && e->has_xml)
		return;
	e->facts = *facts;
	e->has_xml |= from_xml;
	const struct state_vm *known = state_find(&e->daemon->remembered, e->uuid);
	if (facts->policy_bad && had)
		e->facts.policy = last_good;
	else if (facts->policy_bad && known)
		e->facts.policy = known->policy;
	tell_policy_error(e, &last_err);
	if (e->facts.ineligible != DOM_ELIGIBLE && e->facts.ineligible != before)
		tell_ineligible(e);
	if (e->in_core)
		daemon_post(e->daemon,
			    (struct event){.type = EVENT_VM_FACTS, .vm = e->id, .facts = core_facts(&e->facts)});
	else if (ready_for_core(e))
		enter_core(e);
	if (from_xml && wants_stats_period(e))
		job_stats_period(e, 1);
}

void entry_running(struct entry *e)
{
	e->running = true;
	e->paused = false;
	if (e->in_core) {
		e->running_told = true;
		daemon_post(e->daemon, (struct event){.type = EVENT_VM_RUNNING, .vm = e->id});
	}
	if (!e->attach && !ev_is_active(&e->attach_timer))
		job_attach(e);
}

void entry_stopped(struct entry *e, const char *why)
{
	struct daemon *d = e->daemon;
	log_debug("%s: %s", e->facts.name, why);
	keep_forget(d, e->uuid);
	if (e->in_core) /* EFFECT_FORGET frees e */
		daemon_post(d, (struct event){.type = EVENT_VM_STOPPING, .vm = e->id});
	else
		entry_free(e);
}

/* Target and limit of a remembered VM hold only for the same QEMU; what is known of its driver outlives a reboot. */
static void check_memory(struct entry *e, const struct attach *a)
{
	const struct state_vm *s = state_find(&e->daemon->remembered, e->uuid);
	struct vm_host_sample now;
	if (!s)
		return;
	if (s->pid != proc_vm_pid(a->proc) || s->pid_start_ticks != a->start_ticks) {
		e->memory.target_bytes = 0;
		e->memory.limit_ours = false;
		e->memory.advice_limit_bytes = 0;
		e->memory.overhead_bytes = 0;
		return;
	}
	/* Killed between its first limit and the next writing of the state: whose else should it be? */
	if (s->limit_open && !e->daemon->remembered.whole && cgroup_vm_read(a->cgroup, &now) == 0 &&
	    now.limit_bytes != LIMIT_NONE)
		e->memory.limit_ours = true;
}

void entry_attached(struct entry *e, struct attach *a)
{
	struct daemon *d = e->daemon;
	check_memory(e, a);
	e->attach = a;
	e->attach_tries = 0;
	e->overhead_due_ms = now_ms() + 3000;
	ev_io_init(&e->exit_io, exit_cb, proc_vm_pidfd(a->proc), EV_READ);
	ev_io_start(d->loop, &e->exit_io);
	if (!e->in_core && ready_for_core(e))
		enter_core(e);
	struct event ev = {.type = EVENT_VM_SAMPLE, .vm = e->id};
	if (e->in_core && cgroup_vm_read(a->cgroup, &ev.sample) == 0) {
		ev.sample.has_major_faults = proc_vm_major_faults(a->proc, &ev.sample.major_faults) == 0;
		e->limit_seen_bytes = ev.sample.limit_bytes;
		daemon_post(d, ev);
	}
}

static void entry_paused(struct entry *e)
{
	e->paused = true;
	if (e->in_core)
		daemon_post(e->daemon, (struct event){.type = EVENT_VM_PAUSED, .vm = e->id});
}

void entry_inspected(struct entry *e, enum virt_run_state state, const struct dom_facts *facts)
{
	/* Found while it is loaded: an earlier memocd was told of it by the hook. It is not judged before it runs. */
	if (state == VIRT_INCOMING && !e->in_core)
		e->origin = ORIGIN_INCOMING;
	entry_learn(e, facts, true);
	const struct vm *vm = e->in_core ? core_vm(e->daemon->core, e->id) : NULL;
	switch (state) {
	case VIRT_RUNNING:
		if (!e->running || !e->running_told || e->paused || (vm && vm->state == VM_PAUSED))
			entry_running(e);
		break;
	case VIRT_PAUSED:
		e->running = true; /* it has run: its cgroup is served, its statistics are not asked for */
		if (!e->attach && !ev_is_active(&e->attach_timer))
			job_attach(e);
		entry_paused(e);
		break;
	case VIRT_INCOMING:
		if (!e->attach && !ev_is_active(&e->attach_timer))
			job_attach(e);
		break;
	case VIRT_OTHER:
		break;
	case VIRT_OFF:
		entry_stopped(e, "libvirt says it is off");
		break;
	}
}

#define ATTACH_TRIES 12

/* libvirt's hook runs before QEMU is in its group: a few quiet tries, then one line, then once a minute. */
void entry_attach_failed(struct entry *e, const struct memoc_err *err)
{
	e->attach_tries++;
	if (e->attach_tries == ATTACH_TRIES)
		log_fields(LOG_LEVEL_WARNING, &(struct log_fields){.vm = e->facts.name, .uuid = e->uuid},
			   "%s: neither watched nor limited: %s", e->facts.name, err->text);
	double wait_s = e->attach_tries < ATTACH_TRIES ? 0.1 * e->attach_tries : 60.;
	ev_timer_set(&e->attach_timer, wait_s, 0.);
	ev_timer_start(e->daemon->loop, &e->attach_timer);
	if (!e->in_core && ready_for_core(e))
		enter_core(e);
}

/* ---- libvirt's events ---- */

static void link_changed(struct daemon *d, const struct virt_event *ev)
{
	bool up = ev->type == VIRT_EVENT_LINK_UP;
	struct log_fields fields = {.message_id = MSG_LIBVIRT_LINK, .event = up ? "link-up" : "link-down"};
	if (up) {
		log_fields(LOG_LEVEL_NOTICE, &fields, "connected to libvirt at %s", d->options->uri);
		job_list(d);
	} else {
		d->looked = true;
		log_fields(LOG_LEVEL_WARNING, &fields,
			   "libvirt is not reachable at %s: %s; cgroups are served on, trying again", d->options->uri,
			   ev->text ? ev->text : "connection lost");
	}
}

static void post_simple(struct entry *e, enum event_type type)
{
	if (e->in_core)
		daemon_post(e->daemon, (struct event){.type = type, .vm = e->id});
}

void entry_migrating(struct entry *e, uint32_t pass)
{
	e->outgoing = true;
	e->outgoing_pass = pass;
	if (e->in_core)
		daemon_post(e->daemon, (struct event){.type = EVENT_VM_MIGRATING_OUT, .vm = e->id, .pass = pass});
}

void entry_not_migrating(struct entry *e)
{
	e->outgoing = e->outgoing_event = false;
	post_simple(e, EVENT_VM_MIGRATION_OVER);
	job_inspect(e);
}

static bool tells_run_state(enum virt_event_type type)
{
	return type == VIRT_EVENT_STARTED || type == VIRT_EVENT_STARTED_PAUSED || type == VIRT_EVENT_RESUMED ||
	       type == VIRT_EVENT_PAUSED || type == VIRT_EVENT_POSTCOPY;
}

/* What the hook said of an arrival did not get through (it waits a fifth of a second, no more), and `prepare`, which
 * libvirt says of every start, made it one that boots. */
static void entry_arrives(struct entry *e)
{
	if (e->origin != ORIGIN_START)
		return;
	e->origin = ORIGIN_INCOMING;
	e->running = e->running_told = false;
	if (e->in_core)
		post_added(e);
}

static void vm_event(struct entry *e, const struct virt_event *ev)
{
	e->run_events += tells_run_state(ev->type);
	switch (ev->type) {
	case VIRT_EVENT_STARTED:
	case VIRT_EVENT_RESUMED:
		entry_running(e);
		job_inspect(e);
		break;
	case VIRT_EVENT_STARTED_PAUSED:
		entry_arrives(e);
		job_inspect(e);
		break;
	case VIRT_EVENT_PAUSED:
		entry_paused(e);
		job_inspect(e); /* one under way may still have seen it run; and it may be new to the core */
		break;
	case VIRT_EVENT_STOPPED:
		/* Its pidfd tells; but this may be news of an earlier life, or the process another libvirtd's (a
		 * migration within one host, cancelled). */
		e->stop_told = true;
		job_verify(e);
		break;
	case VIRT_EVENT_REBOOTED:
		post_simple(e, EVENT_VM_REBOOTED);
		break;
	case VIRT_EVENT_BALLOON:
		if (e->in_core)
			daemon_post(e->daemon,
				    (struct event){.type = EVENT_VM_BALLOON, .vm = e->id, .bytes = ev->bytes});
		break;
	case VIRT_EVENT_POLICY:
	case VIRT_EVENT_DEVICES:
	case VIRT_EVENT_RENAMED:
		job_inspect(e);
		break;
	case VIRT_EVENT_MIGRATING:
		/* No event tells that a migration has failed, and the next may begin before anybody has asked. */
		if (ev->bytes == 1 && e->outgoing && e->outgoing_event)
			entry_not_migrating(e);
		entry_migrating(e, (uint32_t)min_u64(ev->bytes, PASS_POSTCOPY - 1));
		e->outgoing_event = true;
		break;
	case VIRT_EVENT_POSTCOPY:
		entry_migrating(e, PASS_POSTCOPY);
		entry_paused(e);
		job_inspect(e);
		break;
	case VIRT_EVENT_JOB_DONE:
	case VIRT_EVENT_LINK_UP:
	case VIRT_EVENT_LINK_DOWN:
		break;
	}
}

void link_event(const struct virt_event *ev, void *daemon)
{
	struct daemon *d = daemon;
	if (ev->type == VIRT_EVENT_LINK_UP || ev->type == VIRT_EVENT_LINK_DOWN) {
		link_changed(d, ev);
		return;
	}
	struct entry *e = entry_by_uuid(d, ev->uuid);
	bool starts = tells_run_state(ev->type) && ev->type != VIRT_EVENT_PAUSED && ev->type != VIRT_EVENT_POSTCOPY;
	bool is_new;
	if (!e && starts) { /* the hook is not installed, or did not get through; QEMU says RESUMED before libvirt says
			       STARTED */
		bool arrives = ev->type == VIRT_EVENT_STARTED_PAUSED;
		e = entry_get(d, ev->uuid, ev->name, arrives ? ORIGIN_INCOMING : ORIGIN_START, &is_new);
	}
	if (e)
		vm_event(e, ev);
}

/* ---- libvirt's hook ---- */

void hook_notice(struct daemon *d, const struct hook_notice *n)
{
	bool starts = strcmp(n->operation, "prepare") == 0 || strcmp(n->operation, "start") == 0;
	bool started = strcmp(n->operation, "started") == 0;
	bool arrives = strcmp(n->operation, "migrate") == 0 || strcmp(n->operation, "restore") == 0;
	bool known = strcmp(n->operation, "reconnect") == 0;
	bool stops = strcmp(n->operation, "stopped") == 0 || strcmp(n->operation, "release") == 0;
	if (!n->uuid) {
		if (started || known)
			job_lookup(d, n->name, started);
		return;
	}
	struct entry *e = entry_by_uuid(d, n->uuid);
	if (stops) {
		if (e && !e->attach) {
			entry_stopped(e, "libvirt's hook says it stopped");
		} else if (e) {
			e->stop_told = true;
			job_verify(e);
		}
		return;
	}
	if (!starts && !started && !arrives && !known)
		return;
	bool is_new = false;
	if (!e)
		e = entry_get(d, n->uuid, n->name,
			      arrives ? ORIGIN_INCOMING
			      : known ? ORIGIN_ADOPT
				      : ORIGIN_START,
			      &is_new);
	if (!e)
		return;
	if (n->has_facts)
		entry_learn(e, &n->facts, false);
	if (started || known) { /* `started` is not running: an incoming guest still waits for its memory */
		if (e->origin == ORIGIN_INCOMING)
			job_attach(e);
		else
			entry_running(e);
		job_inspect(e);
	}
}
