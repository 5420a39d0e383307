/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/record/format.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- bases ---- */

void bases_clear(struct bases *b)
{
	for (size_t i = 0; i < b->n; i++)
		free(b->list[i].name);
	free(b->list);
	*b = (struct bases){0};
}

/* Index of the first that is not below id. */
static size_t position(const struct bases *b, vm_id id)
{
	size_t lo = 0, hi = b->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (b->list[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct vm_base *bases_find(const struct bases *b, vm_id id)
{
	size_t i = position(b, id);
	return i < b->n && b->list[i].id == id ? &b->list[i] : NULL;
}

int bases_name(struct bases *b, vm_id id, const char *name, const char *uuid)
{
	char *copy = strdup(name);
	struct vm_base *base = bases_find(b, id);
	if (!base && copy && b->n == b->capacity) {
		size_t capacity = b->capacity ? b->capacity * 2 : 16;
		struct vm_base *list = realloc(b->list, capacity * sizeof(*list));
		if (list) {
			b->list = list;
			b->capacity = capacity;
		}
	}
	if (!copy || (!base && b->n == b->capacity)) {
		free(copy);
		return -ENOMEM;
	}
	if (!base) {
		size_t i = position(b, id);
		base = &b->list[i];
		memmove(base + 1, base, (b->n++ - i) * sizeof(*base));
		*base = (struct vm_base){.id = id};
	}
	free(base->name);
	base->name = copy;
	snprintf(base->uuid, sizeof(base->uuid), "%s", uuid);
	return 0;
}

void bases_forget(struct bases *b, vm_id id)
{
	struct vm_base *base = bases_find(b, id);
	if (!base)
		return;
	free(base->name);
	memmove(base, base + 1, (size_t)(b->list + --b->n - base) * sizeof(*base));
}

/* ---- segment, name ---- */

void put_segment(struct bytes *b, const struct segment_start *s)
{
	put_u8(b, TAG_SEGMENT);
	put_number(b, s->session);
	put_number(b, s->number);
	put_number(b, s->realtime_ms);
	put_number(b, s->now_ms);
	put_text(b, s->version, VERSION_LEN - 1);
}

void get_segment(struct reading *r, struct segment_start *ret)
{
	ret->session = get_number(r);
	ret->number = get_number(r);
	ret->realtime_ms = get_number(r);
	ret->now_ms = get_number(r);
	get_text(r, ret->version, sizeof(ret->version));
}

void put_name(struct bytes *b, vm_id id, const char *name, const char *uuid)
{
	put_u8(b, TAG_NAME);
	put_number(b, id);
	put_text(b, name, DOMXML_NAME_MAX - 1);
	put_text(b, uuid, UUID_TEXT_LEN);
}

int get_name(struct reading *r, struct bases *bases)
{
	char name[DOMXML_NAME_MAX], uuid[UUID_TEXT_LEN + 1];
	uint64_t id = get_number(r);
	get_text(r, name, sizeof(name));
	get_text(r, uuid, sizeof(uuid));
	if (!r->bad && id > UINT32_MAX)
		r->bad = "a VM's number is too large";
	return r->bad ? 0 : bases_name(bases, (vm_id)id, name, uuid);
}

/* ---- snapshot ---- */

void put_snapshot(struct bytes *b, const struct core *core)
{
	static const struct core_image no_image;
	static const struct vm no_vm;
	struct core_image image;
	core_image_get(core, &image);
	put_u8(b, TAG_SNAPSHOT);
	put_fields(b, &layout_image, &no_image, &image);
	put_number(b, core_vm_count(core));
	for (size_t i = 0; i < core_vm_count(core); i++)
		put_fields(b, &layout_vm, &no_vm, core_vm_at(core, i));
}

#define SNAPSHOT_VMS_MAX 20000 /* more cannot be in a frame that memocd wrote; a core compares each with each */

int get_snapshot(struct reading *r, struct core **ret)
{
	struct core_image image = {0};
	get_fields(r, &layout_image, &image);
	uint64_t n = get_number(r);
	*ret = NULL;
	if (!r->bad && n > SNAPSHOT_VMS_MAX)
		r->bad = "it has too many VMs";
	if (r->bad)
		return 0;
	struct vm *vms AUTO_FREE = calloc(n ? n : 1, sizeof(*vms));
	if (!vms)
		return -ENOMEM;
	for (uint64_t i = 0; i < n && !r->bad; i++)
		get_fields(r, &layout_vm, &vms[i]);
	return r->bad ? 0 : core_from_image(&image, vms, n, ret);
}

/* ---- events ---- */

static const struct core_config no_config;
static const struct wss_reading no_wss;
static const struct advice_report no_advice;
static const struct vm_facts no_facts;
static const struct event no_event;

/* Statistics and samples against the last ones, where the VM was named. */
static void put_reading(struct bytes *b, struct bases *bases, const struct event *ev)
{
	struct vm_base none = {0}, *base = bases_find(bases, ev->vm);
	base = base ? base : &none;
	if (ev->type == EVENT_VM_STATS) {
		put_fields(b, &layout_stats, &base->stats, &ev->stats);
		base->stats = ev->stats;
	} else {
		put_fields(b, &layout_sample, &base->sample, &ev->sample);
		base->sample = ev->sample;
	}
}

static void get_reading(struct reading *r, struct bases *bases, struct event *ev)
{
	struct vm_base none = {0}, *base = bases_find(bases, ev->vm);
	base = base ? base : &none;
	if (ev->type == EVENT_VM_STATS) {
		get_fields(r, &layout_stats, &base->stats);
		ev->stats = base->stats;
	} else {
		get_fields(r, &layout_sample, &base->sample);
		ev->sample = base->sample;
	}
}

void put_event(struct bytes *b, struct bases *bases, const struct event *ev)
{
	put_u8(b, (uint8_t)ev->type);
	put_signed(b, (int64_t)(ev->now_ms - bases->now_ms));
	bases->now_ms = ev->now_ms;
	put_number(b, ev->vm);
	switch (ev->type) {
	case EVENT_TICK:
		put_fields(b, &layout_host, &bases->host, &ev->host);
		bases->host = ev->host;
		break;
	case EVENT_CONFIG:
		put_fields(b, &layout_config, &no_config, ev->config);
		break;
	case EVENT_VM_ADDED:
		put_fields(b, &layout_added, &no_event, ev);
		break;
	case EVENT_VM_FACTS:
		put_fields(b, &layout_facts, &no_facts, &ev->facts);
		break;
	case EVENT_VM_STATS:
	case EVENT_VM_SAMPLE:
	case EVENT_VM_RESIDENCY:
		put_reading(b, bases, ev);
		break;
	case EVENT_VM_WSS:
		put_fields(b, &layout_wss, &no_wss, &ev->wss);
		break;
	case EVENT_VM_ADVICE:
		put_fields(b, &layout_advice, &no_advice, &ev->advice);
		break;
	case EVENT_VM_MIGRATING_OUT:
		put_number(b, ev->pass);
		break;
	case EVENT_VM_BALLOON:
	case EVENT_VM_PIN:
		put_number(b, ev->bytes);
		break;
	case EVENT_VM_RESULT:
		put_fields(b, &layout_result, &no_event, ev);
		break;
	case EVENT_VM_QUARANTINE:
	case EVENT_VM_HOLD:
	case EVENT_VM_TRIM:
		put_u8(b, ev->flag);
		break;
	default: /* the others say all by their type */
		break;
	}
}

static void get_content(struct reading *r, struct bases *bases, struct event *ev, struct core_config *config)
{
	switch (ev->type) {
	case EVENT_TICK:
		get_fields(r, &layout_host, &bases->host);
		ev->host = bases->host;
		break;
	case EVENT_CONFIG:
		*config = no_config;
		get_fields(r, &layout_config, config);
		ev->config = config;
		break;
	case EVENT_VM_ADDED:
		get_fields(r, &layout_added, ev);
		break;
	case EVENT_VM_FACTS:
		get_fields(r, &layout_facts, &ev->facts);
		break;
	case EVENT_VM_STATS:
	case EVENT_VM_SAMPLE:
	case EVENT_VM_RESIDENCY:
		get_reading(r, bases, ev);
		break;
	case EVENT_VM_WSS:
		get_fields(r, &layout_wss, &ev->wss);
		break;
	case EVENT_VM_ADVICE:
		get_fields(r, &layout_advice, &ev->advice);
		break;
	case EVENT_VM_MIGRATING_OUT:
		ev->pass = (uint32_t)min_u64(get_number(r), UINT32_MAX);
		break;
	case EVENT_VM_BALLOON:
	case EVENT_VM_PIN:
		ev->bytes = get_number(r);
		break;
	case EVENT_VM_RESULT:
		get_fields(r, &layout_result, ev);
		break;
	case EVENT_VM_QUARANTINE:
	case EVENT_VM_HOLD:
	case EVENT_VM_TRIM:
		ev->flag = get_u8(r) != 0;
		break;
	default:
		break;
	}
}

void get_event(struct reading *r, struct bases *bases, struct event *ret, struct core_config *config)
{
	memset(ret, 0, sizeof(*ret));
	ret->type = get_u8(r);
	ret->now_ms = bases->now_ms + (uint64_t)get_signed(r);
	bases->now_ms = ret->now_ms;
	uint64_t vm = get_number(r);
	if (!r->bad && vm > UINT32_MAX)
		r->bad = "a VM's number is too large";
	ret->vm = (vm_id)vm;
	if (!r->bad)
		get_content(r, bases, ret, config);
}

/* ---- what came of an event ---- */

/* Most effects are about the event's own VM. */
static struct effect effect_base(const struct event *ev)
{
	return (struct effect){.vm = ev->vm};
}

void put_outcome(struct bytes *b, const struct event *ev, int code, const struct effects *out)
{
	const struct effect base = effect_base(ev);
	put_signed(b, code);
	put_number(b, out->n);
	for (size_t i = 0; i < out->n; i++)
		put_fields(b, &layout_effect, &base, &out->list[i]);
	if (out->n)
		put_number(b, out->dropped);
}

void get_outcome(struct reading *r, const struct event *ev, int *ret_code, struct effects *ret)
{
	int64_t code = get_signed(r);
	uint64_t n = get_number(r);
	if (!r->bad && (code > 0 || code < -4096))
		r->bad = "a result that there is not";
	if (!r->bad && n > ret->capacity)
		r->bad = "more effects than an event can have";
	ret->n = ret->dropped = 0;
	while (!r->bad && ret->n < n) {
		ret->list[ret->n] = effect_base(ev);
		get_fields(r, &layout_effect, &ret->list[ret->n++]);
	}
	if (n)
		ret->dropped = get_number(r);
	*ret_code = (int)code;
}
