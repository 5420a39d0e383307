/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal kept in memory: the last so many events, for `memoc events`. Plain data, no I/O; one thread. */
#ifndef MEMOC_DAEMON_RING_H
#define MEMOC_DAEMON_RING_H

#include "common/domxml.h"
#include "controller/core/effect.h"

struct ring_event {
	uint64_t number;      /* counts from 1 for ever: gaps show what was overwritten */
	uint64_t realtime_ms; /* since the epoch */
	uint64_t monotonic_ms;
	char vm[DOMXML_NAME_MAX]; /* "" = about the host */
	char uuid[UUID_TEXT_LEN + 1];
	enum record_kind kind;
	enum vm_state state; /* 0 = none */
	uint64_t from_bytes, to_bytes;
	char reason[EFFECT_REASON_LEN];
};

struct ring;
int ring_new(size_t kept, struct ring **ret);
/* The newest stay. −ENOMEM: as before. */
int ring_resize(struct ring *r, size_t kept);
struct ring *ring_free(struct ring *r);
/* A slot for the next event, zeroed but for its number; the oldest is overwritten. Never NULL. */
struct ring_event *ring_add(struct ring *r);
size_t ring_count(const struct ring *r);
/* i-th of those kept, 0 = oldest. */
const struct ring_event *ring_at(const struct ring *r, size_t i);

#endif
