/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory demand over time, of real or made-up VMs: what the simulator plays. A trace holds, for each VM, the points at
 * which its demand changed; between two points it is what the earlier one says.
 */
#ifndef MEMOC_SIM_TRACE_H
#define MEMOC_SIM_TRACE_H

#include "common/err.h"
#include "common/util.h"

#include <stdio.h>

#define TRACE_NAME_MAX 64
#define TRACE_VMS_MAX 100000

struct trace_point {
	uint64_t time_ms; /* since the trace's begin */
	uint64_t demand_bytes;
};

struct trace_vm {
	char name[TRACE_NAME_MAX];
	uint64_t size_bytes; /* provisioned: its maximum */
	struct trace_point *points;
	size_t n, capacity;
};

struct trace {
	struct trace_vm *vms; /* order of first appearance */
	size_t n, capacity;
	uint64_t duration_ms; /* of the last point; a trace's last demand holds on */
};

/*
 * Reads a file, whatever of these it is, by its content: our own format (CSV `time_s,vm,size_mib,demand_mib`, sorted by
 * time, `#` comments, header line), or a folder or file of GWA-T-12 (`;`-separated, one file a VM); plain, gzip or xz
 * (zlib, liblzma). "-" is standard input. Errors (−EINVAL with file, line, column and reason; −E2BIG; −ENOMEM; −errno
 * of opening) leave nothing behind. The caller frees with trace_free().
 */
int trace_read(const char *path, struct trace **ret, struct memoc_err *err);
struct trace *trace_free(struct trace *t); /* always NULL */
/* Our own format; 0 or −errno of writing. */
int trace_write(const struct trace *t, FILE *out);

/* Adds a point, times not descending per VM; equal demand adds nothing. For readers and generators. 0 or −errno. */
int trace_add(struct trace *t, size_t vm, uint64_t time_ms, uint64_t demand_bytes);
/* Adds a VM; *ret_vm is its index. −EINVAL for an empty or overlong name, −E2BIG, −ENOMEM. */
int trace_add_vm(struct trace *t, const char *name, uint64_t size_bytes, size_t *ret_vm);

#endif
