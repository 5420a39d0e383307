/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Records as record.h describes them, each with its writing and its reading side by side. Private to this room. */
#ifndef MEMOC_RECORD_FORMAT_H
#define MEMOC_RECORD_FORMAT_H

#include "controller/record/codec.h"
#include "controller/record/record.h"

#define RECORD_MAGIC "MEMOCREC"
#define RECORD_MAGIC_LEN 8
#define FILE_HEADER_LEN (RECORD_MAGIC_LEN + 4 + 4)
#define FRAME_HEADER_LEN (4 + 4)
/* What waits for the disk at most, so also a frame; a core of a thousand VMs is about a third of it. */
#define FRAME_LEN_MAX (1 << 20)
#define VERSION_LEN 32

/* Kinds of records below it are types of events. */
enum record_tag { TAG_SEGMENT = 0x40, TAG_NAME, TAG_SNAPSHOT };
_Static_assert((int)EVENT_TYPE_END <= (int)TAG_SEGMENT, "an event's type is the kind of its record");

/* ---- what both sides know of the past of a segment ---- */

struct vm_base {
	vm_id id;
	char *name;
	char uuid[UUID_TEXT_LEN + 1];
	struct guest_stats stats;
	struct vm_host_sample sample;
};
struct bases {
	struct vm_base *list; /* by id */
	size_t n, capacity;
	struct host_sample host;
	uint64_t now_ms; /* of the event before */
};
void bases_clear(struct bases *b);
struct vm_base *bases_find(const struct bases *b, vm_id id); /* NULL: never named in this segment */
/* Named (again); −ENOMEM. */
int bases_name(struct bases *b, vm_id id, const char *name, const char *uuid);
void bases_forget(struct bases *b, vm_id id);

/* ---- records ---- */

struct segment_start {
	uint64_t session, number, realtime_ms, now_ms;
	char version[VERSION_LEN];
};
void put_segment(struct bytes *b, const struct segment_start *s);
void get_segment(struct reading *r, struct segment_start *ret);

void put_name(struct bytes *b, vm_id id, const char *name, const char *uuid);
/* −ENOMEM; what is bad sticks in r. */
int get_name(struct reading *r, struct bases *bases);

void put_snapshot(struct bytes *b, const struct core *core);
/* The core that was written; *ret NULL where r is bad. −ENOMEM; −EINVAL: no core can be in this state. */
int get_snapshot(struct reading *r, struct core **ret);

/* Advances `bases` on both sides alike. `config` is where a CONFIG event's configuration is put. */
void put_event(struct bytes *b, struct bases *bases, const struct event *ev);
void get_event(struct reading *r, struct bases *bases, struct event *ret, struct core_config *config);

void put_outcome(struct bytes *b, const struct event *ev, int code, const struct effects *out);
/* Effects beyond the room of *ret are bad. */
void get_outcome(struct reading *r, const struct event *ev, int *ret_code, struct effects *ret);

#endif
