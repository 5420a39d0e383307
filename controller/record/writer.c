/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/record/format.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

/* Kept free at a segment's end, so that it is left before an event does not fit: no more than a mass shrink of many
 * hundred VMs takes. */
#define EVENT_ROOM (64 * KIB)

struct record_writer {
	struct record_start start;
	struct bytes bytes;
	struct bases bases;
	size_t frame;		 /* where the open frame begins; NO_FRAME: none is open */
	size_t split;		 /* where the new segment begins; NO_SPLIT */
	uint64_t segment_bytes;	 /* room of a segment */
	uint64_t segment_taken;	 /* bytes of the segment at hand that were taken already */
	uint64_t events, lost;	 /* since the start */
	uint64_t events_waiting; /* in `bytes` */
	bool begun;		 /* a segment is open, and all since its snapshot is in it */
	bool full;		 /* the next event is to go to a new one */
};
#define NO_FRAME SIZE_MAX
#define NO_SPLIT SIZE_MAX

int record_writer_new(const struct record_start *start, struct record_writer **ret)
{
	if (start->total_bytes < RECORD_BYTES_MIN)
		return -EINVAL;
	struct record_writer *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->start = *start;
	w->bytes.most = FRAME_LEN_MAX;
	w->frame = NO_FRAME;
	w->split = NO_SPLIT;
	w->segment_bytes = start->total_bytes / RECORD_SEGMENTS;
	*ret = w;
	return 0;
}

struct record_writer *record_writer_free(struct record_writer *w)
{
	if (!w)
		return NULL;
	bytes_free(&w->bytes);
	bases_clear(&w->bases);
	free(w);
	return NULL;
}

/* ---- frames ---- */

static void write_u32(uint8_t *at, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		at[i] = (uint8_t)(v >> 8 * i);
}

static void open_frame(struct record_writer *w)
{
	if (w->frame != NO_FRAME)
		return;
	w->frame = w->bytes.n;
	put_u32(&w->bytes, 0);
	put_u32(&w->bytes, 0);
}

static void seal_frame(struct record_writer *w)
{
	if (w->frame == NO_FRAME)
		return;
	uint8_t *at = w->bytes.data + w->frame;
	size_t n = w->bytes.n - w->frame - FRAME_HEADER_LEN;
	write_u32(at, (uint32_t)n);
	write_u32(at + 4, (uint32_t)crc32(crc32(0, NULL, 0), at + FRAME_HEADER_LEN, (uInt)n));
	w->frame = NO_FRAME;
}

/* Takes back what did not fit whole. */
static void roll_back(struct record_writer *w, size_t n, size_t frame)
{
	w->bytes.n = n;
	w->bytes.full = false;
	w->frame = frame;
}

static uint64_t segment_used(const struct record_writer *w)
{
	return w->split == NO_SPLIT ? w->segment_taken + w->bytes.n : w->bytes.n - w->split;
}

/* ---- names ---- */

static bool name_vm(struct record_writer *w, vm_id id)
{
	const char *name = "", *uuid = "";
	if (!w->start.name(w->start.user, id, &name, &uuid))
		name = uuid = "";
	const struct vm_base *base = bases_find(&w->bases, id);
	if (base && strcmp(base->name, name) == 0 && strcmp(base->uuid, uuid) == 0)
		return true;
	put_name(&w->bytes, id, name, uuid);
	return bases_name(&w->bases, id, name, uuid) == 0;
}

/* ---- segments and events ---- */

bool record_writer_wants_segment(const struct record_writer *w)
{
	return !w->begun || w->full;
}

static bool write_start(struct record_writer *w, const struct core *core, const struct segment_start *s)
{
	struct bytes *b = &w->bytes;
	put_bytes(b, RECORD_MAGIC, RECORD_MAGIC_LEN);
	put_u32(b, RECORD_VERSION);
	put_u32(b, layout_fingerprint());
	open_frame(w);
	put_segment(b, s);
	bool good = true;
	for (size_t i = 0; i < core_vm_count(core) && good; i++)
		good = name_vm(w, core_vm_at(core, i)->id);
	put_snapshot(b, core);
	return good && !b->full;
}

void record_writer_begin(struct record_writer *w, const struct core *core, uint64_t realtime_ms, uint64_t now_ms)
{
	if (w->split != NO_SPLIT) { /* one in a block: later, when this one is taken */
		w->begun = false;
		return;
	}
	seal_frame(w);
	size_t at = w->bytes.n;
	struct segment_start s = {
		.session = w->start.session, .number = w->events + 1, .realtime_ms = realtime_ms, .now_ms = now_ms};
	snprintf(s.version, sizeof(s.version), "%s", MEMOC_VERSION);
	bases_clear(&w->bases);
	w->bases.now_ms = now_ms;
	w->begun = write_start(w, core, &s) && w->bytes.n - at <= w->segment_bytes - EVENT_ROOM;
	w->full = false;
	if (w->begun)
		w->split = at;
	else
		roll_back(w, at, NO_FRAME);
}

void record_writer_event(struct record_writer *w, const struct core *core, const struct event *ev, int code,
			 const struct effects *out)
{
	static const struct effects nothing;
	w->events++;
	if (!w->begun) {
		w->lost++;
		return;
	}
	size_t at = w->bytes.n, frame = w->frame;
	open_frame(w);
	bool good = ev->vm == 0 || (ev->type != EVENT_VM_ADDED && ev->type != EVENT_VM_FACTS) || name_vm(w, ev->vm);
	put_event(&w->bytes, &w->bases, ev);
	put_outcome(&w->bytes, ev, code, code == 0 ? out : &nothing);
	if (ev->type == EVENT_VM_STOPPING)
		bases_forget(&w->bases, ev->vm);
	if (!good || w->bytes.full || segment_used(w) > w->segment_bytes) {
		roll_back(w, at, frame);
		w->begun = false;
		w->lost++;
		return;
	}
	w->events_waiting++;
	w->full = segment_used(w) > w->segment_bytes - EVENT_ROOM;
}

size_t record_writer_waiting(const struct record_writer *w)
{
	return w->bytes.n;
}

bool record_writer_take(struct record_writer *w, struct record_block *ret)
{
	if (!w->bytes.n)
		return false;
	seal_frame(w);
	*ret = (struct record_block){.bytes = w->bytes.data,
				     .n = w->bytes.n,
				     .split = w->split == NO_SPLIT ? w->bytes.n : w->split,
				     .events = w->events_waiting};
	w->segment_taken = segment_used(w);
	w->split = NO_SPLIT;
	w->events_waiting = 0;
	w->bytes = (struct bytes){.most = FRAME_LEN_MAX};
	return true;
}

void record_writer_lost(struct record_writer *w, uint64_t events)
{
	w->lost += events + w->events_waiting;
	w->events_waiting = 0;
	w->bytes.n = 0;
	w->frame = NO_FRAME;
	w->split = NO_SPLIT;
	w->begun = false;
}

uint64_t record_writer_events(const struct record_writer *w)
{
	return w->events;
}

uint64_t record_writer_events_lost(const struct record_writer *w)
{
	return w->lost;
}
