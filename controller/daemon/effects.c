/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Effects of the core: jobs for what changes something, ring and journal for what is told. */
#include "controller/daemon/advice.h"
#include "controller/daemon/control.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static uint64_t realtime_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Which record goes into the journal how: the routine of resizing is information, what a person should see is a notice.
 */
static const struct {
	enum log_level level;
	const char *message_id;
} record_log[RECORD_END] = {
	[RECORD_ADDED] = {LOG_LEVEL_NOTICE, MSG_VM_MANAGED},
	[RECORD_STATE] = {LOG_LEVEL_DEBUG, MSG_VM_STATE},
	[RECORD_TARGET] = {LOG_LEVEL_INFO, MSG_VM_RESIZE},
	[RECORD_BALLOON] = {LOG_LEVEL_DEBUG, MSG_VM_RESIZE},
	[RECORD_LIMIT] = {LOG_LEVEL_DEBUG, MSG_VM_RESIZE},
	[RECORD_LIMIT_CONFIRMED] = {LOG_LEVEL_DEBUG, MSG_VM_RESIZE},
	[RECORD_BALLOON_REACHED] = {LOG_LEVEL_DEBUG, MSG_VM_RESIZE},
	[RECORD_BALLOON_STALLED] = {LOG_LEVEL_NOTICE, MSG_BALLOON_STALLED},
	[RECORD_BALLOON_BACK] = {LOG_LEVEL_NOTICE, MSG_BALLOON_BACK},
	[RECORD_BALLOON_INHIBITED] = {LOG_LEVEL_WARNING, MSG_BALLOON_STALLED},
	[RECORD_BALLOON_RETRY] = {LOG_LEVEL_INFO, MSG_VM_RESIZE},
	[RECORD_LIMIT_FAILED] = {LOG_LEVEL_WARNING, MSG_VM_RESIZE},
	[RECORD_LIMIT_DRIFT] = {LOG_LEVEL_NOTICE, MSG_VM_RESIZE},
	[RECORD_NEEDY] = {LOG_LEVEL_INFO, MSG_VM_STATE},
	[RECORD_NEEDY_OVER] = {LOG_LEVEL_INFO, MSG_VM_STATE},
	[RECORD_SILENT] = {LOG_LEVEL_NOTICE, MSG_GUEST_SILENT},
	[RECORD_SILENT_OVER] = {LOG_LEVEL_NOTICE, MSG_GUEST_SILENT},
	[RECORD_DISTRUSTED] = {LOG_LEVEL_WARNING, MSG_GUEST_DISTRUSTED},
	[RECORD_DISTRUSTED_OVER] = {LOG_LEVEL_NOTICE, MSG_GUEST_DISTRUSTED},
	[RECORD_DOUBLE_SWAP] = {LOG_LEVEL_WARNING, MSG_DOUBLE_SWAP},
	[RECORD_DOUBLE_SWAP_OVER] = {LOG_LEVEL_NOTICE, MSG_DOUBLE_SWAP},
	[RECORD_REBOOTED] = {LOG_LEVEL_NOTICE, MSG_VM_STATE},
	[RECORD_PINNED] = {LOG_LEVEL_NOTICE, MSG_VM_POLICY},
	[RECORD_HELD] = {LOG_LEVEL_NOTICE, MSG_VM_POLICY},
	[RECORD_RELEASED] = {LOG_LEVEL_NOTICE, MSG_VM_POLICY},
	[RECORD_DRAINED] = {LOG_LEVEL_NOTICE, MSG_VM_POLICY},
	[RECORD_FACTS] = {LOG_LEVEL_NOTICE, MSG_VM_POLICY},
	[RECORD_QUARANTINED] = {LOG_LEVEL_WARNING, MSG_VM_QUARANTINED},
	[RECORD_QUARANTINE_OVER] = {LOG_LEVEL_NOTICE, MSG_VM_QUARANTINED},
	[RECORD_ADVICE] = {LOG_LEVEL_NOTICE, MSG_ADVICE},
	[RECORD_WOULD] = {LOG_LEVEL_INFO, MSG_VM_RESIZE},
	[RECORD_GONE] = {LOG_LEVEL_NOTICE, MSG_VM_GONE},
	[RECORD_LEVEL] = {LOG_LEVEL_NOTICE, MSG_HOST_LEVEL},
	[RECORD_SWAP_LOW] = {LOG_LEVEL_WARNING, MSG_SWAP_LOW},
	[RECORD_SWAP_LOW_OVER] = {LOG_LEVEL_NOTICE, MSG_SWAP_LOW},
};

static void tell(struct daemon *d, const struct entry *e, enum record_kind kind, enum log_level level,
		 enum vm_state state, uint64_t from_bytes, uint64_t to_bytes, const char *reason)
{
	struct ring_event *r = ring_add(d->ring);
	r->realtime_ms = realtime_ms();
	r->monotonic_ms = now_ms();
	if (e) {
		snprintf(r->vm, sizeof(r->vm), "%s", e->facts.name);
		memcpy(r->uuid, e->uuid, sizeof(r->uuid));
	}
	r->kind = kind;
	r->state = state;
	r->from_bytes = from_bytes;
	r->to_bytes = to_bytes;
	snprintf(r->reason, sizeof(r->reason), "%s", reason);

	struct log_fields fields = {
		.message_id = record_log[kind].message_id,
		.vm = e ? r->vm : NULL,
		.uuid = e ? r->uuid : NULL,
		.state = state ? vm_state_name(state) : NULL,
		.event = record_name(kind),
		.reason = reason,
		.has_from = from_bytes && from_bytes != LIMIT_NONE,
		.has_to = to_bytes && to_bytes != LIMIT_NONE,
		.from_bytes = from_bytes,
		.to_bytes = to_bytes,
	};
	log_fields(level, &fields, "%s%s%s%s%s", e ? r->vm : "host", ": ", record_name(kind), *reason ? ": " : "",
		   reason);
	if (d->control)
		control_event(d->control, r);
}

void record_own(struct daemon *d, const struct entry *e, enum record_kind kind, enum log_level level, const char *fmt,
		...)
{
	char reason[EFFECT_REASON_LEN];
	va_list args;
	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	const struct vm *vm = e && e->in_core ? core_vm(d->core, e->id) : NULL;
	tell(d, e, kind, level, vm ? vm->state : 0, 0, 0, reason);
}

/* A request that cannot be sent is answered like one that failed: the core waits for no one. */
static void refuse(struct daemon *d, const struct effect *effect, enum effect_op op, int code, uint64_t bytes)
{
	struct event ev = {.type = EVENT_VM_RESULT, .vm = effect->vm};
	ev.result.op = op;
	ev.result.seq = effect->seq;
	ev.result.code = code;
	ev.result.bytes = bytes;
	daemon_post(d, ev);
}

static void carry_out(struct daemon *d, const struct effect *effect)
{
	struct entry *e = effect->vm ? entry_by_id(d, effect->vm) : NULL;
	switch (effect->type) {
	case EFFECT_BALLOON:
		if (e && virt_events_connected(d->link))
			job_balloon(e, effect->bytes, effect->seq);
		else
			refuse(d, effect, OP_BALLOON, -ENOTCONN, 0);
		break;
	case EFFECT_LIMIT:
		if (e && e->attach)
			job_limit(e, effect->bytes, effect->seq);
		else
			refuse(d, effect, OP_LIMIT, -ENODEV, e ? e->limit_seen_bytes : LIMIT_NONE);
		break;
	case EFFECT_RECORD:
		tell(d, e, effect->record, record_log[effect->record].level, effect->state, effect->from_bytes,
		     effect->to_bytes, effect->reason);
		break;
	case EFFECT_FORGET:
		if (e)
			entry_free(e);
		break;
	case EFFECT_ADVICE_BEGIN:
		if (e)
			advising_begin(d->advising, e, effect->bytes);
		break;
	case EFFECT_ADVICE_FINISH:
		advising_finish(d->advising, effect->vm);
		break;
	case EFFECT_ADVICE_STOP:
		advising_stop(d->advising, effect->vm);
		break;
	}
}

void effects_carry_out(struct daemon *d)
{
	for (size_t i = 0; i < d->effects.n; i++)
		carry_out(d, &d->effects.list[i]);
	if (d->effects.dropped)
		log_error("%zu records of one step did not fit: report this", d->effects.dropped);
}
