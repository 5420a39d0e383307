/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The recording of a core's life: every event it was given, with its time, and every effect that came of it, so that
 * `memoc replay` can run the same through a core again. Three parts: a writer that only fills memory (loop thread), a
 * store that only does files (a worker), and a replay.
 *
 * A recording is a directory of segments (segment-NUMBER, the oldest deleted first). A segment stands for itself:
 *   "MEMOCREC", u32 version, u32 fingerprint of the field tables (layout.h), then frames
 *   frame: u32 length of what follows the two, u32 CRC-32 of that, records
 *   record: u8 kind, contents as in codec.h
 *     SEGMENT   session (random, of one memocd), number of the next event (a gap shows what was lost), wall clock and
 *               monotonic clock now, version of memoc
 *     NAME      VM, name, UUID: before the VM is spoken of, and when it changes
 *     SNAPSHOT  the core as it is: image, number of VMs, VMs. Follows SEGMENT and its NAMEs, before any event
 *     event     kind = its type: time since the event before, VM, contents, code of core_step, effects in full
 * Statistics and samples are written as differences to the last of the same VM in this segment, the host's likewise.
 * All integers are little-endian.
 */
#ifndef MEMOC_RECORD_RECORD_H
#define MEMOC_RECORD_RECORD_H

#include <stdio.h>

#include "common/domxml.h"
#include "common/parse.h"
#include "controller/core/core.h"

#define RECORD_VERSION 1
#define RECORD_SEGMENTS 4
#define RECORD_BYTES_MIN (RECORD_SEGMENTS * MIB) /* of a recording: a segment is a quarter of it */
#define RECORD_SEGMENT_NAME_LEN 32

/* ---- writer: memory only, never blocks ---- */

/* Who a VM is; the texts are used before the next call. False: not known (any more). */
typedef bool record_name_fn(void *user, vm_id vm, const char **ret_name, const char **ret_uuid);

struct record_start {
	uint64_t session;     /* random */
	uint64_t total_bytes; /* of the recording on disk */
	record_name_fn *name;
	void *user;
};

/* What goes to the store at once: bytes before `split` to the segment at hand, those from there on to a new one. */
struct record_block {
	uint8_t *bytes;
	size_t n, split; /* split = n: no new segment */
	uint64_t events; /* lost with it where it cannot be written */
};

struct record_writer;
/* −EINVAL: total_bytes is under RECORD_BYTES_MIN; −ENOMEM. */
int record_writer_new(const struct record_start *start, struct record_writer **ret);
struct record_writer *record_writer_free(struct record_writer *w);
/*
 * After each core_step: the event with its time, the code that core_step returned, the effects. Where the memory for
 * it is used up (1 MiB waits for the disk) events are dropped, counted, and a new segment begins when there is room.
 */
void record_writer_event(struct record_writer *w, const struct core *core, const struct event *ev, int code,
			 const struct effects *out);
/* Begins a segment with the core as it is; also the first of all, before any event. realtime_ms: since the epoch. */
void record_writer_begin(struct record_writer *w, const struct core *core, uint64_t realtime_ms, uint64_t now_ms);
/* Does the writer want record_writer_begin(): the segment is full, or something was lost? */
bool record_writer_wants_segment(const struct record_writer *w);
size_t record_writer_waiting(const struct record_writer *w); /* bytes not taken yet */
/* Everything written so far; the caller frees ret->bytes. False: nothing is there. */
bool record_writer_take(struct record_writer *w, struct record_block *ret);
/* A block could not be written: what was lost is counted, and a new segment is wanted. */
void record_writer_lost(struct record_writer *w, uint64_t events);
uint64_t record_writer_events(const struct record_writer *w); /* all, those lost too */
uint64_t record_writer_events_lost(const struct record_writer *w);

/* ---- store: files; blocks ---- */

struct record_store;
/* Nothing is touched yet. total_bytes: never more than this lies in dir, segments of earlier memocds included. */
int record_store_new(const char *dir, uint64_t total_bytes, struct record_store **ret);
struct record_store *record_store_free(struct record_store *s);
/*
 * Writes a block. Makes the directory (0700) and segments (0600); deletes the oldest segments to stay within
 * total_bytes. −errno with err: nothing of the block counts as written, and the next one must begin a segment.
 */
int record_store_write(struct record_store *s, const struct record_block *block, struct memoc_err *err);
void record_store_resize(struct record_store *s, uint64_t total_bytes);
/* Numbers of the segments in a directory, lowest first; the caller frees *ret. −errno. */
int record_store_list(const char *dir, uint64_t **ret, size_t *ret_n);
const char *record_segment_name(char buf[RECORD_SEGMENT_NAME_LEN], uint64_t number);

/* ---- replay ---- */

struct replay_step {
	uint64_t number;      /* of the event since memocd started, from 1 */
	uint64_t realtime_ms; /* by the segment's clock */
	const struct event *event;
	const char *vm, *uuid; /* of the event; "" where none */
	int code, recorded_code;
	const struct effects *out;	/* what came out now */
	const struct effects *recorded; /* the same list where nothing differs */
	bool differs;
};

struct replay;
struct replay_hooks {
	/* After each event; what is not 0 ends the replay and is returned. */
	int (*step)(void *user, const struct replay *r, const struct replay_step *s);
	/* Something worth a line that is no difference: events that are missing, a torn end, a restart of memocd. */
	void (*note)(void *user, const char *text);
	void *user;
};

struct replay_totals {
	uint64_t segments, events, effects, restarts, lost, from_ms, to_ms; /* since the epoch */
	bool differs;
	uint64_t differs_at; /* number of the event */
};

int replay_new(const struct replay_hooks *hooks, struct replay **ret);
struct replay *replay_free(struct replay *r);
/*
 * One segment, from a file that is read once from its beginning; name is for messages. Segments follow each other in
 * order: what follows without a gap is checked against the core as it was then, too. Returns 0; 1: it differs from
 * what was recorded (told by the step hook or, where the core's state differs between two segments, in err), the
 * replay is over; −EBADMSG with err: no recording, damaged, or of another version; other −errno with err; or what a
 * step hook returned.
 */
int replay_file(struct replay *r, FILE *f, const char *name, struct memoc_err *err);
const struct replay_totals *replay_totals(const struct replay *r);
/* Name and UUID of a VM that was spoken of; "" where there was none. */
const char *replay_vm_name(const struct replay *r, vm_id vm);
const char *replay_vm_uuid(const struct replay *r, vm_id vm);
const char *event_type_name(enum event_type t); /* "tick", "statistics" …; "?" for an unknown value */

#endif
