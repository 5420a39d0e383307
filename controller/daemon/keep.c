/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What survives memocd: written a second after something worth keeping changed, by a worker. */
#include "controller/daemon/daemon.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int keep_load(struct daemon *d, struct memoc_err *err)
{
	int r = state_load(d->options->state_dir, &d->remembered, err);
	if (r > 0) {
		log_warning("%s; going on with what is found", err->text);
		r = 0;
	}
	return r;
}

static struct vm_memory remember(const struct vm *vm, const struct entry *e)
{
	return (struct vm_memory){
		.known = true,
		.target_bytes = vm->target_bytes,
		.health = vm->health,
		.speed_bytes_per_s = vm->speed_bytes_per_s,
		.floor_bytes = vm->floor_bytes,
		.retry_delay_ms = vm->retry_delay_ms,
		.pinned_bytes = vm->pinned_bytes,
		.held = vm->held,
		.drained = vm->drained,
		.limit_ours = vm->limit_ours || vm->limit_pending,
		.silent = vm->silent,
		.distrusted = vm->distrusted,
		.by_limit = vm->by_limit,
		.advice_limit_bytes = vm->advice_limit_bytes,
		.trim_from_bytes = vm->trim_until_ms ? vm->trim_from_bytes : 0,
		.overhead_bytes = vm->overhead_measured ? vm->overhead_bytes : 0,
	};
}

/* VMs of the last memocd that have not been seen yet are carried on: libvirt may only be late. */
static int snapshot(const struct daemon *d, struct state *ret)
{
	size_t n = d->remembered.n;
	for (const struct entry *e = d->entries; e; e = e->next)
		n++;
	struct state s = {.hold_all = core_hold_all(d->core), .vms = calloc(n ? n : 1, sizeof(*s.vms))};
	if (!s.vms)
		return -ENOMEM;
	for (const struct entry *e = d->entries; e; e = e->next) {
		const struct vm *vm = e->in_core ? core_vm(d->core, e->id) : NULL;
		if (!vm)
			continue;
		struct state_vm *v = &s.vms[s.n++];
		memcpy(v->uuid, e->uuid, sizeof(v->uuid));
		snprintf(v->name, sizeof(v->name), "%s", e->facts.name);
		v->pid = e->attach ? proc_vm_pid(e->attach->proc) : 0;
		v->pid_start_ticks = e->attach ? e->attach->start_ticks : 0;
		v->memory = remember(vm, e);
		v->limit_open = vm->limit_known && vm->limit_bytes == LIMIT_NONE && !v->memory.limit_ours;
		v->policy = e->facts.policy;
	}
	for (size_t i = 0; i < d->remembered.n; i++)
		if (!state_find(&s, d->remembered.vms[i].uuid))
			s.vms[s.n++] = d->remembered.vms[i];
	*ret = s;
	return 0;
}

void keep_forget(struct daemon *d, const char *uuid)
{
	struct state *s = &d->remembered;
	for (size_t i = 0; i < s->n; i++) {
		if (strcmp(s->vms[i].uuid, uuid) != 0)
			continue;
		s->vms[i] = s->vms[--s->n];
		keep_mark(d);
		return;
	}
}

void keep_mark(struct daemon *d)
{
	d->state_dirty = true;
	if (!ev_is_active(&d->state_timer) && !d->state_writing) {
		ev_timer_set(&d->state_timer, 1., 0.);
		ev_timer_start(d->loop, &d->state_timer);
	}
}

void keep_soon(struct daemon *d)
{
	d->state_dirty = true;
	keep_write(d);
	if (d->state_dirty)
		keep_mark(d);
}

/* Called by the timer (through daemon.c) and again when a worker has written. */
void keep_write(struct daemon *d)
{
	struct state s;
	if (!d->state_dirty || d->state_writing || snapshot(d, &s) < 0)
		return;
	d->state_dirty = false;
	d->state_writing = true;
	job_save_state(d, &s);
}

void keep_saved(struct daemon *d, int code, const struct memoc_err *err)
{
	static bool told; /* one line for a full disk, not one a try */
	d->state_writing = false;
	if (code < 0 && code != -ECANCELED && !told)
		log_warning("%s; tried again, else what was learned would be lost with memocd", err->text);
	told = code < 0;
	d->state_dirty |= code < 0;
	if (!d->state_dirty || d->closing)
		return;
	ev_timer_set(&d->state_timer, code < 0 ? 10. : 1., 0.);
	ev_timer_start(d->loop, &d->state_timer);
}

void keep_now(struct daemon *d)
{
	struct state s;
	struct memoc_err err = {""};
	if (snapshot(d, &s) < 0)
		return;
	s.whole = true;
	if (state_save(d->options->state_dir, &s, &err) < 0)
		log_warning("%s", err.text);
	state_clear(&s);
}
