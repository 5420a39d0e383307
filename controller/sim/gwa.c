/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GWA-T-12 (Grid Workloads Archive, "Bitbrains"): one file a VM, columns separated by ";" and blanks, named in the
 * header line. Numbers are as Java prints them ("6.7108864E7"). The header says that times are in milliseconds; in the
 * files that were published they are seconds since the epoch.
 */
#include "controller/sim/trace_read.h"

#include <string.h>

#define COLUMNS_MAX 32 /* published: 11 */

/* A first time in this range is 1973..5138 in seconds, and less than three years or so after 1970 in milliseconds. */
#define SECONDS_FROM UINT64_C(100000000)
#define SECONDS_TO UINT64_C(100000000000)

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Blanks around cells are not theirs. Number of cells, of which COLUMNS_MAX at most are written. */
static size_t split(const struct source_line *line, struct cell ret[COLUMNS_MAX])
{
	size_t n = 0;

	for (size_t at = 0; at <= line->len; n++) {
		const char *found = memchr(line->text + at, ';', line->len - at);
		size_t end = found ? (size_t)(found - line->text) : line->len, next = end + 1;

		for (; at < end && is_blank(line->text[at]); at++)
			;
		for (; end > at && is_blank(line->text[end - 1]); end--)
			;
		if (n < COLUMNS_MAX)
			ret[n] = (struct cell){.text = line->text + at, .len = end - at, .column = at + 1};
		at = next;
	}
	return n;
}

/* Where the header has that column, once; COLUMNS_MAX (fault noted) otherwise. */
static size_t find_column(struct reader *r, const struct cell *cells, size_t n, const char *name)
{
	size_t found = COLUMNS_MAX;

	for (size_t i = 0; i < n; i++) {
		if (cells[i].len != strlen(name) || memcmp(cells[i].text, name, cells[i].len) != 0)
			continue;
		if (found < COLUMNS_MAX) {
			reader_fault(r, cells[i].column, "the header has the column \"%s\" twice", name);
			return COLUMNS_MAX;
		}
		found = i;
	}
	if (found == COLUMNS_MAX)
		reader_fault(r, 0, "the header of GWA-T-12 has no column \"%s\"", name);
	return found;
}

bool gwa_header(struct reader *r, const struct source_line *line, struct gwa *ret)
{
	struct cell cells[COLUMNS_MAX];
	struct gwa g = {.columns = split(line, cells)};

	if (g.columns > COLUMNS_MAX) {
		reader_fault(r, 0, "the header has %zu columns; at most %d", g.columns, COLUMNS_MAX);
		return false;
	}
	g.time_at = find_column(r, cells, g.columns, "Timestamp [ms]");
	if (g.time_at == COLUMNS_MAX)
		return false;
	g.size_at = find_column(r, cells, g.columns, "Memory capacity provisioned [KB]");
	if (g.size_at == COLUMNS_MAX)
		return false;
	g.usage_at = find_column(r, cells, g.columns, "Memory usage [KB]");
	if (g.usage_at == COLUMNS_MAX)
		return false;
	*ret = g;
	return true;
}

static bool read_time(struct reader *r, struct gwa *g, const struct cell *c, uint64_t *ret_ms)
{
	struct decimal_form form = {"Timestamp [ms]", 1, TRACE_TIME_MAX_MS, true};
	char shown[CELL_SHOWN_LEN];
	uint64_t ms;

	if (!reader_decimal(r, c, &form, &ms))
		return false;
	if (g->time_unit_ms == 0)
		g->time_unit_ms = ms >= SECONDS_FROM && ms < SECONDS_TO ? 1000 : 1;
	form.unit = g->time_unit_ms;
	if (!reader_decimal(r, c, &form, &ms))
		return false;
	if (ms < r->last_ms) {
		reader_fault(r, c->column, "Timestamp [ms] %s is before that of a row above; sort the rows by time",
			     cell_shown(shown, c));
		return false;
	}
	*ret_ms = ms;
	return true;
}

int gwa_row(struct reader *r, struct gwa *g, const struct source_line *line)
{
	static const struct decimal_form size_form = {"Memory capacity provisioned [KB]", KIB, TRACE_BYTES_MAX, true};
	static const struct decimal_form usage_form = {"Memory usage [KB]", KIB, TRACE_BYTES_MAX, true};
	struct trace_vm *v = &r->t->vms[g->vm];
	uint64_t time_ms, size_bytes, usage_bytes;
	struct cell cells[COLUMNS_MAX];
	size_t n = split(line, cells);

	if (n != g->columns) {
		reader_fault(r, line->len + 1, "%zu column%s, the header has %zu", n, n == 1 ? "" : "s", g->columns);
		return 0;
	}
	if (!read_time(r, g, &cells[g->time_at], &time_ms) ||
	    !reader_decimal(r, &cells[g->size_at], &size_form, &size_bytes) ||
	    !reader_decimal(r, &cells[g->usage_at], &usage_form, &usage_bytes))
		return 0;
	v->size_bytes = max_u64(v->size_bytes, size_bytes);
	r->last_ms = time_ms;
	r->rows++;
	return trace_add(r->t, g->vm, time_ms, min_u64(usage_bytes, size_bytes));
}

/* By first appearance, then by name with 2 before 10. */
static int compare_vms(const void *a, const void *b)
{
	const struct trace_vm *va = a, *vb = b;
	uint64_t ta = va->points[0].time_ms, tb = vb->points[0].time_ms;

	return ta != tb ? (ta > tb) - (ta < tb) : strverscmp(va->name, vb->name);
}

static void drop_without_memory(struct trace *t)
{
	size_t kept = 0;

	for (size_t i = 0; i < t->n; i++) {
		if (t->vms[i].size_bytes && t->vms[i].n) {
			t->vms[kept++] = t->vms[i];
			continue;
		}
		t->points_n -= t->vms[i].n;
		free(t->vms[i].points);
	}
	t->n = kept;
}

void gwa_finish(struct trace *t)
{
	uint64_t begin_ms = UINT64_MAX;

	for (size_t i = 0; i < t->n; i++)
		if (t->vms[i].n)
			begin_ms = min_u64(begin_ms, t->vms[i].points[0].time_ms);
	drop_without_memory(t);
	for (size_t i = 0; i < t->n; i++)
		for (size_t k = 0; k < t->vms[i].n; k++)
			t->vms[i].points[k].time_ms -= begin_ms;
	t->duration_ms = sub_sat_u64(t->duration_ms, begin_ms);
	if (t->n)
		qsort(t->vms, t->n, sizeof(*t->vms), compare_vms);
}
