/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/sim/script.h"

#include <errno.h>
#include <string.h>

/* Chains of rising demand: what is asked of the future, or of the past, is answered along them, without walking every
 * point. */
static void link_higher(struct script *s)
{
	for (size_t i = s->n; i-- > 0;) {
		size_t j = i + 1;
		while (j < s->n && s->demand_bytes[j] <= s->demand_bytes[i])
			j = s->next_higher[j];
		s->next_higher[i] = (uint32_t)j;
	}
	for (size_t i = 0; i < s->n; i++) {
		size_t j = i ? i - 1 : s->n;
		while (j < s->n && s->demand_bytes[j] <= s->demand_bytes[i])
			j = s->last_higher[j];
		s->last_higher[i] = (uint32_t)j;
	}
}

static void append(struct script *s, uint64_t at_ms, uint64_t demand_bytes)
{
	if (s->n && s->at_ms[s->n - 1] == at_ms)
		s->n--; /* within one step only the last word counts */
	if (s->n && s->demand_bytes[s->n - 1] == demand_bytes)
		return;
	s->at_ms[s->n] = at_ms;
	s->demand_bytes[s->n++] = demand_bytes;
}

int script_make(const struct trace_vm *v, uint64_t phase_ms, uint64_t step_ms, uint64_t duration_ms, struct script *ret)
{
	struct script s = {.at_ms = calloc(v->n + 2, sizeof(*s.at_ms)),
			   .demand_bytes = calloc(v->n + 2, sizeof(*s.demand_bytes)),
			   .next_higher = calloc(v->n + 2, sizeof(*s.next_higher)),
			   .last_higher = calloc(v->n + 2, sizeof(*s.last_higher))};
	if (!s.at_ms || !s.demand_bytes || !s.next_higher || !s.last_higher || v->n >= UINT32_MAX - 2) {
		script_clear(&s);
		return -ENOMEM;
	}
	bool there = v->n && !v->points[0].time_ms;
	append(&s, 0, there ? min_u64(v->points[0].demand_bytes, v->size_bytes) : 0);
	for (size_t i = 0; i < v->n; i++) {
		uint64_t shifted = add_sat_u64(v->points[i].time_ms, phase_ms);
		if (shifted >= duration_ms)
			break;
		uint64_t late = shifted % step_ms, at = late ? shifted - late + step_ms : shifted;
		if (at < duration_ms)
			append(&s, at, min_u64(v->points[i].demand_bytes, v->size_bytes));
	}
	s.at_ms[s.n] = SCRIPT_NEVER_MS;
	link_higher(&s);
	*ret = s;
	return 0;
}

void script_clear(struct script *s)
{
	free(s->at_ms);
	free(s->demand_bytes);
	free(s->next_higher);
	free(s->last_higher);
	memset(s, 0, sizeof(*s));
}

uint64_t script_reaches_ms(const struct script *s, size_t from, uint64_t bytes)
{
	size_t i = from;
	while (i < s->n && s->demand_bytes[i] < bytes)
		i = s->next_higher[i];
	return i < s->n ? s->at_ms[i] : SCRIPT_NEVER_MS;
}

uint64_t script_most_bytes(const struct script *s, size_t from, uint64_t end_ms)
{
	size_t i = from;
	while (s->next_higher[i] < s->n && s->at_ms[s->next_higher[i]] < end_ms)
		i = s->next_higher[i];
	return s->demand_bytes[i];
}
