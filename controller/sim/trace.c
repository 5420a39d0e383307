/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/sim/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/text.h"

struct trace *trace_new(void)
{
	return calloc(1, sizeof(struct trace));
}

struct trace *trace_free(struct trace *t)
{
	if (!t)
		return NULL;
	for (size_t i = 0; i < t->n; i++)
		free(t->vms[i].points);
	free(t->vms);
	free(t);
	return NULL;
}

const char *trace_name_problem(const char *name, size_t len)
{
	if (len == 0)
		return "is empty";
	if (len >= TRACE_NAME_MAX)
		return "is longer than 63 bytes";
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
			return "has a control character";
	return text_utf8_valid_len(name, len) == len ? NULL : "is not UTF-8";
}

/* Room for one more of `size` bytes each in *array, which has n of *capacity; doubles. */
static int room_for_one(void **array, size_t n, size_t *capacity, size_t size)
{
	size_t more = *capacity ? 2 * *capacity : 16;
	void *p;

	if (n < *capacity)
		return 0;
	p = realloc(*array, more * size);
	if (!p)
		return -ENOMEM;
	*array = p;
	*capacity = more;
	return 0;
}

int trace_add_vm(struct trace *t, const char *name, uint64_t size_bytes, size_t *ret_vm)
{
	void *vms = t->vms;
	int r;

	if (trace_name_problem(name, strlen(name)) || size_bytes == 0)
		return -EINVAL;
	if (t->n >= TRACE_VMS_MAX || size_bytes > TRACE_BYTES_MAX)
		return -E2BIG;
	r = room_for_one(&vms, t->n, &t->capacity, sizeof(*t->vms));
	if (r < 0)
		return r;
	t->vms = vms;
	t->vms[t->n] = (struct trace_vm){.size_bytes = size_bytes};
	strcpy(t->vms[t->n].name, name);
	*ret_vm = t->n++;
	return 0;
}

/* The last point is of this same time: the later word counts, and may make it equal to the one before. */
static void replace_last(struct trace *t, struct trace_vm *v, uint64_t demand_bytes)
{
	v->points[v->n - 1].demand_bytes = demand_bytes;
	if (v->n > 1 && v->points[v->n - 2].demand_bytes == demand_bytes) {
		v->n--;
		t->points_n--;
	}
}

int trace_add(struct trace *t, size_t vm, uint64_t time_ms, uint64_t demand_bytes)
{
	struct trace_vm *v = vm < t->n ? &t->vms[vm] : NULL;
	const struct trace_point *last = v && v->n ? &v->points[v->n - 1] : NULL;
	void *points;
	int r;

	if (!v || (last && time_ms < last->time_ms))
		return -EINVAL;
	if (time_ms > TRACE_TIME_MAX_MS)
		return -E2BIG;
	demand_bytes = min_u64(demand_bytes, v->size_bytes);
	if (last && time_ms == last->time_ms) {
		replace_last(t, v, demand_bytes);
	} else if (!last || demand_bytes != last->demand_bytes) {
		if (t->points_n >= TRACE_POINTS_MAX)
			return -E2BIG;
		points = v->points;
		r = room_for_one(&points, v->n, &v->capacity, sizeof(*v->points));
		if (r < 0)
			return r;
		v->points = points;
		v->points[v->n++] = (struct trace_point){.time_ms = time_ms, .demand_bytes = demand_bytes};
		t->points_n++;
	}
	t->duration_ms = max_u64(t->duration_ms, time_ms);
	return 0;
}

/* ---- writing: the VMs' points merged by time through a heap of VMs, ordered by their next point ---- */

struct merge {
	const struct trace *t;
	size_t *heap, n; /* indices of VMs */
	size_t *next;	 /* per VM: its next point */
};

static bool merge_before(const struct merge *m, size_t a, size_t b)
{
	uint64_t ta = m->t->vms[a].points[m->next[a]].time_ms, tb = m->t->vms[b].points[m->next[b]].time_ms;

	return ta < tb || (ta == tb && a < b);
}

static void merge_sift_down(struct merge *m, size_t at)
{
	for (;;) {
		size_t least = at, left = 2 * at + 1, vm = m->heap[at];

		for (size_t child = left; child < m->n && child <= left + 1; child++)
			if (merge_before(m, m->heap[child], m->heap[least]))
				least = child;
		if (least == at)
			return;
		m->heap[at] = m->heap[least];
		m->heap[least] = vm;
		at = least;
	}
}

/* The VM on top has had its point written. */
static void merge_advance(struct merge *m)
{
	size_t vm = m->heap[0];

	if (++m->next[vm] == m->t->vms[vm].n)
		m->heap[0] = m->heap[--m->n];
	if (m->n)
		merge_sift_down(m, 0);
}

/* units/per with as many of the `digits` decimals as it needs; per × 10^digits fits 64 bits. Rounded to the nearest. */
static void write_decimal(FILE *out, uint64_t units, uint64_t per, unsigned digits)
{
	uint64_t scale = 1, fraction;
	uint64_t whole = units / per;

	for (unsigned i = 0; i < digits; i++)
		scale *= 10;
	fraction = (units % per * scale + per / 2) / per;
	for (; digits > 0 && fraction % 10 == 0; digits--)
		fraction /= 10;
	if (digits)
		fprintf(out, "%" PRIu64 ".%0*" PRIu64, whole, (int)digits, fraction);
	else
		fprintf(out, "%" PRIu64, whole);
}

static void write_name(FILE *out, const char *name)
{
	if (!strpbrk(name, ",\"")) {
		fputs(name, out);
		return;
	}
	fputc('"', out);
	for (; *name; name++) {
		if (*name == '"')
			fputc('"', out);
		fputc(*name, out);
	}
	fputc('"', out);
}

/* Seven decimals of a MiB tell bytes apart: one is 9.5e-7 MiB. */
static void write_row(FILE *out, uint64_t time_ms, const struct trace_vm *v, uint64_t demand_bytes)
{
	write_decimal(out, time_ms, 1000, 3);
	fputc(',', out);
	write_name(out, v->name);
	fputc(',', out);
	write_decimal(out, v->size_bytes, MIB, 7);
	fputc(',', out);
	write_decimal(out, demand_bytes, MIB, 7);
	fputc('\n', out);
}

static int merge_begin(struct merge *m, const struct trace *t)
{
	*m = (struct merge){.t = t, .heap = calloc(t->n, sizeof(size_t)), .next = calloc(t->n, sizeof(size_t))};
	if (t->n && (!m->heap || !m->next))
		return -ENOMEM;
	for (size_t i = 0; i < t->n; i++)
		if (t->vms[i].n)
			m->heap[m->n++] = i;
	for (size_t i = m->n / 2; i-- > 0;)
		merge_sift_down(m, i);
	return 0;
}

int trace_write(const struct trace *t, FILE *out)
{
	const struct trace_vm *last = NULL;
	uint64_t time_ms = 0;
	struct merge m;
	int r = merge_begin(&m, t);

	errno = 0;
	if (r == 0) {
		fputs("time_s,vm,size_mib,demand_mib\n", out);
		for (; m.n; merge_advance(&m)) {
			const struct trace_point *p;

			last = &t->vms[m.heap[0]];
			p = &last->points[m.next[m.heap[0]]];
			time_ms = p->time_ms;
			write_row(out, time_ms, last, p->demand_bytes);
		}
		if (last && time_ms < t->duration_ms)
			write_row(out, t->duration_ms, last, last->points[last->n - 1].demand_bytes);
		if (fflush(out) != 0 || ferror(out))
			r = errno ? -errno : -EIO;
	}
	free(m.heap);
	free(m.next);
	return r;
}
