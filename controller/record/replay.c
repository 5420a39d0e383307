/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading segments, and running what they hold through a core again. */
#include "controller/record/format.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>

struct replay {
	struct replay_hooks hooks;
	struct replay_totals totals;
	struct core *core;
	struct bases bases;
	struct effects out, recorded; /* of as many effects as an event can have */
	struct core_config config;    /* of a CONFIG event */
	struct segment_start start;   /* of the segment at hand */
	uint64_t next;		      /* number of the next event */
	uint64_t session;
	bool over;
	struct bytes again; /* a snapshot or an outcome, written anew to be compared */
	uint8_t *frame;	    /* grows to the largest there was */
	size_t frame_room;
	const char *name; /* of the file at hand */
	uint64_t offset;  /* of the frame at hand in it */
	bool expects_start, expects_snapshot;
};

const char *event_type_name(enum event_type t)
{
	static const char *const names[] = {
		[EVENT_TICK] = "tick",
		[EVENT_TIMER] = "timer",
		[EVENT_CONFIG] = "configuration",
		[EVENT_VM_ADDED] = "added",
		[EVENT_VM_FACTS] = "facts",
		[EVENT_VM_RUNNING] = "running",
		[EVENT_VM_PAUSED] = "paused",
		[EVENT_VM_REBOOTED] = "rebooted",
		[EVENT_VM_MIGRATING_OUT] = "migrating out",
		[EVENT_VM_MIGRATION_OVER] = "migration over",
		[EVENT_VM_STOPPING] = "stopping",
		[EVENT_VM_STATS] = "statistics",
		[EVENT_VM_SAMPLE] = "sample",
		[EVENT_VM_RESIDENCY] = "residency",
		[EVENT_VM_WSS] = "working set",
		[EVENT_VM_ADVICE] = "advice",
		[EVENT_VM_BALLOON] = "balloon change",
		[EVENT_VM_RESULT] = "result",
		[EVENT_VM_QUARANTINE] = "quarantine",
		[EVENT_VM_PIN] = "pin",
		[EVENT_VM_HOLD] = "hold",
		[EVENT_VM_DRAIN] = "drain",
		[EVENT_VM_TRIM] = "trim",
	};
	return (size_t)t < ARRAY_SIZE(names) && names[t] ? names[t] : "?";
}

int replay_new(const struct replay_hooks *hooks, struct replay **ret)
{
	struct replay *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->hooks = *hooks;
	r->again.most = FRAME_LEN_MAX;
	*ret = r;
	return 0;
}

struct replay *replay_free(struct replay *r)
{
	if (!r)
		return NULL;
	core_free(r->core);
	bases_clear(&r->bases);
	bytes_free(&r->again);
	free(r->frame);
	free(r->out.list);
	free(r->recorded.list);
	free(r);
	return NULL;
}

const struct replay_totals *replay_totals(const struct replay *r)
{
	return &r->totals;
}

const char *replay_vm_name(const struct replay *r, vm_id vm)
{
	const struct vm_base *base = bases_find(&r->bases, vm);
	return base ? base->name : "";
}

const char *replay_vm_uuid(const struct replay *r, vm_id vm)
{
	const struct vm_base *base = bases_find(&r->bases, vm);
	return base ? base->uuid : "";
}

static void note(struct replay *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void note(struct replay *r, const char *fmt, ...)
{
	char text[300];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (r->hooks.note)
		r->hooks.note(r->hooks.user, text);
}

static int damaged(const struct replay *r, const struct reading *reading, struct memoc_err *err)
{
	return memoc_err_set(err, -EBADMSG, "%s: damaged near byte %llu: %s%s%s; what follows in it cannot be replayed",
			     r->name, (unsigned long long)r->offset, reading->bad, reading->where[0] ? " in " : "",
			     reading->where);
}

/* ---- segments ---- */

static int start_record(struct replay *r, struct reading *reading)
{
	get_segment(reading, &r->start);
	if (reading->bad)
		return 0;
	bases_clear(&r->bases);
	r->bases.now_ms = r->start.now_ms;
	r->expects_start = false;
	r->expects_snapshot = true;
	if (strcmp(r->start.version, MEMOC_VERSION) != 0)
		note(r, "%s was recorded by memoc %s, this is %s: decisions may differ for a reason", r->name,
		     r->start.version, MEMOC_VERSION);
	return 0;
}

static int room_for_effects(struct replay *r)
{
	size_t want = core_effects_max(r->core);
	if (want <= r->out.capacity)
		return 0;
	struct effect *out = realloc(r->out.list, want * sizeof(*out));
	if (!out)
		return -ENOMEM;
	r->out.list = out;
	struct effect *recorded = realloc(r->recorded.list, want * sizeof(*recorded));
	if (!recorded)
		return -ENOMEM;
	r->recorded.list = recorded;
	r->out.capacity = r->recorded.capacity = want;
	return 0;
}

/* The first field in which two objects differ, as text; false where none does. */
static bool first_difference(const struct layout *t, const char *who, const void *recorded, const void *now,
			     struct memoc_err *err)
{
	char a[FIELD_VALUE_LEN], b[FIELD_VALUE_LEN];
	for (size_t i = 0; i < t->n; i++) {
		const struct layout one = {t->name, &t->list[i], 1, t->size};
		uint8_t room[4 + 300];
		struct bytes bytes = {.data = room, .capacity = sizeof(room), .most = sizeof(room)};
		put_fields(&bytes, &one, recorded, now);
		if (bytes.data[0] == 0)
			continue;
		memoc_err_set(err, 1, "%s: %s was %s, is %s now", who, t->list[i].name,
			      field_value(&t->list[i], recorded, a), field_value(&t->list[i], now, b));
		return true;
	}
	return false;
}

/* What is not the same in the core that was recorded and the one that was run up to the same event. */
static void compare_cores(const struct replay *r, const struct core *was, struct memoc_err *err)
{
	struct core_image a, b;
	core_image_get(was, &a);
	core_image_get(r->core, &b);
	if (first_difference(&layout_image, "the host's state", &a, &b, err))
		return;
	for (size_t i = 0; i < core_vm_count(was) && i < core_vm_count(r->core); i++) {
		const struct vm *vm = core_vm_at(was, i);
		char who[80];
		snprintf(who, sizeof(who), "%s", replay_vm_name(r, vm->id));
		if (first_difference(&layout_vm, who, vm, core_vm_at(r->core, i), err))
			return;
	}
	memoc_err_set(err, 1, "the VMs are not the same");
}

static int check_state(struct replay *r, const struct core *was, const uint8_t *bytes, size_t n, struct memoc_err *err)
{
	bytes_free(&r->again);
	put_snapshot(&r->again, r->core);
	if (r->again.full)
		return -ENOMEM;
	if (r->again.n == n && memcmp(r->again.data, bytes, n) == 0)
		return 0;
	compare_cores(r, was, err);
	r->over = r->totals.differs = true;
	r->totals.differs_at = r->next - 1;
	return memoc_err_prefix(
		err, 1, "%s: all effects were the same, but after event %llu the state is not what was recorded",
		r->name, (unsigned long long)(r->next - 1));
}

static int snapshot_record(struct replay *r, struct reading *reading, struct memoc_err *err)
{
	const uint8_t *from = reading->at - 1;
	bool first = !r->totals.segments, same = !first && r->start.session == r->session;
	bool follows = same && r->start.number == r->next;
	struct core *core = NULL;
	int result = get_snapshot(reading, &core);
	if (result == -EINVAL && !reading->bad)
		reading->bad = "no core can be in this state";
	if (result == -ENOMEM || reading->bad)
		return result == -ENOMEM ? result : 0;
	r->expects_snapshot = false;
	if (follows)
		result = check_state(r, core, from, (size_t)(reading->at - from), err);
	else if (same && r->start.number > r->next)
		note(r, "events missing before %s: %llu (the disk was full or too slow, or a segment is gone)", r->name,
		     (unsigned long long)(r->start.number - r->next));
	else if (same)
		note(r, "%s begins before the end of the one before it: give segments in their order, each once",
		     r->name);
	else if (!first)
		note(r, "%s begins anew: another run of memocd, or recording was off", r->name);
	r->totals.lost += same && r->start.number > r->next ? r->start.number - r->next : 0;
	r->totals.restarts += !first && !same;
	r->totals.segments++;
	if (r->totals.segments == 1)
		r->totals.from_ms = r->start.realtime_ms;
	r->totals.to_ms = r->start.realtime_ms;
	r->session = r->start.session;
	r->next = r->start.number;
	core_free(r->core);
	r->core = core;
	return result < 0 || result > 0 ? result : room_for_effects(r);
}

/* ---- events ---- */

/* Byte for byte, as it would have been recorded: 1 the same, 0 not; −ENOMEM. */
static int same_outcome(struct replay *r, const struct event *ev, int code, const uint8_t *recorded, size_t n)
{
	static const struct effects nothing;
	r->again.n = 0;
	r->again.full = false;
	put_outcome(&r->again, ev, code, code == 0 ? &r->out : &nothing);
	if (r->again.full)
		return -ENOMEM;
	return r->again.n == n && memcmp(r->again.data, recorded, n) == 0;
}

static int event_record(struct replay *r, struct reading *reading)
{
	struct event ev;
	struct replay_step s = {.event = &ev, .out = &r->out, .recorded = &r->out};
	int result = room_for_effects(r);
	if (result < 0)
		return result;
	reading->at--;
	get_event(reading, &r->bases, &ev, &r->config);
	const uint8_t *outcome = reading->at;
	get_outcome(reading, &ev, &s.recorded_code, &r->recorded);
	if (reading->bad)
		return 0;
	s.number = r->next++;
	s.realtime_ms = r->start.realtime_ms + (ev.now_ms - r->start.now_ms);
	s.vm = replay_vm_name(r, ev.vm);
	s.uuid = replay_vm_uuid(r, ev.vm);
	if (s.recorded_code == -ENOMEM) { /* it changed nothing then, and has nothing to do with decisions */
		note(r, "event %llu was dropped: memocd had no memory", (unsigned long long)s.number);
		return 0;
	}
	s.code = core_step(r->core, &ev, &r->out);
	if (s.code == -ENOMEM)
		return s.code;
	if (s.code < 0)
		r->out.n = r->out.dropped = 0;
	int same = same_outcome(r, &ev, s.code, outcome, (size_t)(reading->at - outcome));
	if (same < 0)
		return same;
	s.differs = !same;
	s.recorded = s.differs ? &r->recorded : &r->out;
	r->totals.events++;
	r->totals.effects += r->out.n;
	r->totals.to_ms = s.realtime_ms;
	result = r->hooks.step ? r->hooks.step(r->hooks.user, r, &s) : 0;
	if (ev.type == EVENT_VM_STOPPING)
		bases_forget(&r->bases, ev.vm);
	if (s.differs && result == 0) {
		r->over = r->totals.differs = true;
		r->totals.differs_at = s.number;
		result = 1;
	}
	return result;
}

/* ---- frames ---- */

static int one_record(struct replay *r, struct reading *reading, struct memoc_err *err)
{
	uint8_t kind = get_u8(reading);
	if (kind == TAG_SEGMENT && r->expects_start)
		return start_record(r, reading);
	if (kind == TAG_NAME && !r->expects_start)
		return get_name(reading, &r->bases);
	if (kind == TAG_SNAPSHOT && r->expects_snapshot)
		return snapshot_record(r, reading, err);
	if (kind >= EVENT_TICK && kind < EVENT_TYPE_END && !r->expects_start && !r->expects_snapshot)
		return event_record(r, reading);
	if (!reading->bad)
		reading->bad = "a record that cannot be here";
	return 0;
}

static int frame_records(struct replay *r, size_t n, struct memoc_err *err)
{
	struct reading reading = {.at = r->frame, .end = r->frame + n};
	int result = 0;
	while (reading.at < reading.end && result == 0 && !reading.bad)
		result = one_record(r, &reading, err);
	if (result == 0 && reading.bad)
		return damaged(r, &reading, err);
	if (result < 0 && !err->text[0])
		return memoc_err_set(err, result, "%s: cannot be replayed: %s", r->name, strerror(-result));
	return result;
}

static bool at_end(FILE *f)
{
	int c = getc(f);
	if (c != EOF)
		ungetc(c, f);
	return c == EOF;
}

/* memocd was killed, or writes right now: all before is good. */
static void torn(struct replay *r)
{
	note(r, "%s ends within a record, at byte %llu: memocd was killed or is writing; replayed up to there", r->name,
	     (unsigned long long)r->offset);
}

/* 0 with *ret_n = 0 at the end. */
static int next_frame(struct replay *r, FILE *f, size_t *ret_n, struct memoc_err *err)
{
	uint8_t header[FRAME_HEADER_LEN];
	struct reading reading = {.at = header, .end = header + sizeof(header)};
	size_t got = fread(header, 1, sizeof(header), f);
	*ret_n = 0;
	if (got < sizeof(header)) {
		if (ferror(f))
			return memoc_err_set(err, -EIO, "%s: cannot be read to its end", r->name);
		if (got)
			torn(r);
		return 0;
	}
	size_t n = get_u32(&reading);
	uint32_t crc = get_u32(&reading);
	if (n == 0) { /* a power cut leaves zeroes */
		torn(r);
		return 0;
	}
	if (n > FRAME_LEN_MAX) {
		reading.bad = "its length is impossible";
		return damaged(r, &reading, err);
	}
	if (n > r->frame_room) {
		uint8_t *more = realloc(r->frame, n);
		if (!more)
			return memoc_err_set(err, -ENOMEM, "%s: no memory to read it", r->name);
		r->frame = more;
		r->frame_room = n;
	}
	got = fread(r->frame, 1, n, f);
	bool good = got == n && crc32(crc32(0, NULL, 0), r->frame, (uInt)n) == crc;
	if (ferror(f))
		return memoc_err_set(err, -EIO, "%s: cannot be read to its end", r->name);
	if (!good && (got < n || at_end(f))) {
		torn(r);
		return 0;
	}
	if (!good) {
		reading.bad = "its checksum is wrong";
		return damaged(r, &reading, err);
	}
	*ret_n = n;
	return 0;
}

/* 1: it ends within the header. */
static int file_header(struct replay *r, FILE *f, struct memoc_err *err)
{
	uint8_t header[FILE_HEADER_LEN];
	size_t got = fread(header, 1, sizeof(header), f);
	if (got < sizeof(header) && ferror(f))
		return memoc_err_set(err, -EIO, "%s: cannot be read", r->name);
	if (got < sizeof(header) && memcmp(header, RECORD_MAGIC, min_u64(got, RECORD_MAGIC_LEN)) == 0) {
		torn(r);
		return 1;
	}
	if (got < sizeof(header) || memcmp(header, RECORD_MAGIC, RECORD_MAGIC_LEN) != 0)
		return memoc_err_set(err, -EBADMSG,
				     "%s: this is no recording of memocd: give a segment, or the "
				     "directory \"record\" in memocd's state directory",
				     r->name);
	struct reading reading = {.at = header + RECORD_MAGIC_LEN, .end = header + sizeof(header)};
	uint32_t version = get_u32(&reading), fingerprint = get_u32(&reading);
	if (version != RECORD_VERSION || fingerprint != layout_fingerprint())
		return memoc_err_set(
			err, -EBADMSG,
			"%s: recorded by another version of memoc (format %u.%08x; this one reads %u.%08x): "
			"replay it with the memoc of that version",
			r->name, version, fingerprint, RECORD_VERSION, layout_fingerprint());
	return 0;
}

int replay_file(struct replay *r, FILE *f, const char *name, struct memoc_err *err)
{
	size_t n = 0;
	r->name = name;
	r->offset = 0;
	r->expects_start = true;
	r->expects_snapshot = false;
	err->text[0] = '\0';
	if (r->over)
		return memoc_err_set(err, -EINVAL, "%s: the replay is over", name);
	int result = file_header(r, f, err);
	if (result != 0)
		return result < 0 ? result : 0;
	r->offset = FILE_HEADER_LEN;
	do {
		result = next_frame(r, f, &n, err);
		if (result == 0 && n)
			result = frame_records(r, n, err);
		r->offset += n ? n + FRAME_HEADER_LEN : 0;
	} while (result == 0 && n);
	return result;
}
