/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Any bytes as a trace file, packed or not: refused with lines of text, or a trace that keeps its promises and comes
 * back the same from being written and read.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "controller/sim/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
	if (!good)
		abort();
}

static int read_bytes(const void *data, size_t size, struct trace **ret)
{
	int fd AUTO_CLOSE = memfd_create("trace", MFD_CLOEXEC);
	struct trace_report report;
	struct memoc_err err = {0};
	char path[64];
	int r;

	check(fd >= 0 && write(fd, data, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = trace_read_report(path, ret, &report, &err);
	check((r < 0) == (err.text[0] != '\0') && !strchr(err.text, '\n'));
	check(r < 0 || report.n == 0);
	for (size_t i = 0; i < report.n && i < TRACE_FAULTS_MAX; i++)
		check(strncmp(report.first[i].text, path, strlen(path)) == 0 && !strchr(report.first[i].text, '\n'));
	return r;
}

static void check_trace(const struct trace *t)
{
	size_t points = 0;

	check(t->n > 0 && t->n <= TRACE_VMS_MAX && t->duration_ms <= TRACE_TIME_MAX_MS);
	for (size_t i = 0; i < t->n; i++) {
		const struct trace_vm *v = &t->vms[i];

		check(!trace_name_problem(v->name, strlen(v->name)));
		check(v->size_bytes > 0 && v->size_bytes <= TRACE_BYTES_MAX && v->n > 0);
		check(v->points[v->n - 1].time_ms <= t->duration_ms);
		check(i == 0 || t->vms[i - 1].points[0].time_ms <= v->points[0].time_ms);
		for (size_t k = 0; k < v->n; k++) {
			check(v->points[k].demand_bytes <= v->size_bytes);
			check(k == 0 || (v->points[k].time_ms > v->points[k - 1].time_ms &&
					 v->points[k].demand_bytes != v->points[k - 1].demand_bytes));
		}
		points += v->n;
	}
	check(points == t->points_n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = NULL, *again = NULL;
	size_t n = 0, again_n = 0;
	struct trace *t = NULL, *back = NULL;
	FILE *f;

	if (read_bytes(data, size, &t) < 0) {
		check(!t);
		return 0;
	}
	check_trace(t);
	f = open_memstream(&text, &n);
	check(f && trace_write(t, f) == 0 && fclose(f) == 0);
	check(read_bytes(text, n, &back) == 0);
	check_trace(back);
	f = open_memstream(&again, &again_n);
	check(f && trace_write(back, f) == 0 && fclose(f) == 0);
	check(n == again_n && memcmp(text, again, n) == 0);
	check(back->n == t->n && back->points_n == t->points_n && back->duration_ms == t->duration_ms);
	free(text);
	free(again);
	trace_free(t);
	trace_free(back);
	return 0;
}
