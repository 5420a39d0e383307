/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/daemon/ring.h"

#include <errno.h>
#include <string.h>

struct ring {
	size_t kept, n, next;
	uint64_t number;
	struct ring_event *events; /* grows up to kept: an idle host does not pay for a full journal */
	size_t allocated;
};

int ring_new(size_t kept, struct ring **ret)
{
	struct ring *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->kept = kept ? kept : 1;
	r->allocated = r->kept < 64 ? r->kept : 64;
	r->events = calloc(r->allocated, sizeof(r->events[0]));
	if (!r->events) {
		free(r);
		return -ENOMEM;
	}
	*ret = r;
	return 0;
}

struct ring *ring_free(struct ring *r)
{
	if (r)
		free(r->events);
	free(r);
	return NULL;
}

/* Without memory to grow the ring stays as long as it is: the newest events still have their place. */
static void grow(struct ring *r)
{
	if (r->n < r->allocated || r->allocated == r->kept)
		return;
	size_t want = r->allocated * 2 < r->kept ? r->allocated * 2 : r->kept;
	struct ring_event *events = realloc(r->events, want * sizeof(*events));
	if (!events) {
		r->kept = r->allocated;
		return;
	}
	r->events = events;
	r->allocated = want;
}

int ring_resize(struct ring *r, size_t kept)
{
	kept = kept ? kept : 1;
	if (kept == r->kept)
		return 0;
	size_t n = r->n < kept ? r->n : kept, allocated = n > 64 ? n : kept < 64 ? kept : 64;
	struct ring_event *events = calloc(allocated, sizeof(*events));
	if (!events)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		events[i] = *ring_at(r, r->n - n + i);
	free(r->events);
	*r = (struct ring){
		.kept = kept, .n = n, .next = n, .number = r->number, .events = events, .allocated = allocated};
	return 0;
}

struct ring_event *ring_add(struct ring *r)
{
	grow(r);
	if (r->next >= r->allocated)
		r->next = 0;
	struct ring_event *e = &r->events[r->next++];
	memset(e, 0, sizeof(*e));
	e->number = ++r->number;
	if (r->n < r->allocated)
		r->n++;
	return e;
}

size_t ring_count(const struct ring *r)
{
	return r->n;
}

const struct ring_event *ring_at(const struct ring *r, size_t i)
{
	if (i >= r->n)
		return NULL;
	size_t first = r->n < r->allocated ? 0 : r->next % r->allocated;
	return &r->events[(first + i) % r->allocated];
}
