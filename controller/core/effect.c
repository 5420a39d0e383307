/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/core/vm.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*
 * The list is sized by core_effects_max(), so a full one means a caller's mistake. Then a record gives way to an effect
 * that changes something; the count of what was lost is kept.
 */
struct effect *effect_add(struct effects *out, enum effect_type type, vm_id vm)
{
	size_t i = out->n;
	if (i >= out->capacity) {
		out->dropped++;
		if (type == EFFECT_RECORD)
			return NULL;
		for (i = out->capacity; i > 0 && out->list[i - 1].type != EFFECT_RECORD; i--)
			;
		if (i == 0)
			return NULL;
		memmove(&out->list[i - 1], &out->list[i], (out->capacity - i) * sizeof(out->list[0]));
		i = out->capacity - 1;
	} else {
		out->n++;
	}
	struct effect *e = &out->list[i];
	memset(e, 0, sizeof(*e));
	e->type = type;
	e->vm = vm;
	return e;
}

void record(struct vm_ctx *x, const struct vm *vm, enum record_kind kind, uint64_t from_bytes, uint64_t to_bytes,
	    const char *fmt, ...)
{
	struct effect *e = effect_add(x->out, EFFECT_RECORD, vm ? vm->id : 0);
	if (!e)
		return;
	e->record = kind;
	e->from_bytes = from_bytes;
	e->to_bytes = to_bytes;
	if (vm)
		e->state = vm->state;
	va_list args;
	va_start(args, fmt);
	vsnprintf(e->reason, sizeof(e->reason), fmt, args);
	va_end(args);
}

void vm_send_balloon(struct vm *vm, struct vm_ctx *x, uint64_t bytes)
{
	if (x->config->observe || vm->quarantined)
		return;
	bytes = max_u64(bytes, MIB); /* nothing is no size */
	record(x, vm, RECORD_BALLOON, vm->actual_bytes, bytes, "%s", vm->reason);
	struct effect *e = effect_add(x->out, EFFECT_BALLOON, vm->id);
	if (!e)
		return;
	e->bytes = bytes;
	e->seq = ++vm->balloon_seq;
	vm->balloon_pending = true;
	vm->balloon_asked_bytes = bytes;
	vm->balloon_unsure = false;
	vm->balloon_sent_ms = x->now_ms;
}

void vm_send_limit(struct vm *vm, struct vm_ctx *x, uint64_t bytes)
{
	if (x->config->observe)
		return;
	record(x, vm, RECORD_LIMIT, vm->limit_known ? vm->limit_bytes : LIMIT_NONE, bytes, "%s", vm->reason);
	struct effect *e = effect_add(x->out, EFFECT_LIMIT, vm->id);
	if (!e)
		return;
	e->bytes = bytes;
	e->seq = ++vm->limit_seq;
	vm->limit_pending = true;
	vm->limit_asked_bytes = bytes;
	vm->limit_sent_ms = x->now_ms;
	vm->limit_ours |= bytes != LIMIT_NONE;
	vm->advice_limit_bytes = 0; /* whatever was owed: this is to hold now */
}
