/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory demand over time, of real or made-up VMs: what the simulator plays. A trace holds, for each VM, the points at
 * which its demand changed; between two points it is what the earlier one says, before the first the VM is not there.
 */
#ifndef MEMOC_SIM_TRACE_H
#define MEMOC_SIM_TRACE_H

#include "common/err.h"
#include "common/util.h"

#include <stdio.h>

#define TRACE_NAME_MAX 64 /* with the NUL */
#define TRACE_VMS_MAX 100000
/* 1.6 GB of memory: one week of 450 VMs at 3 s. A few kB of compressed text must not fill the machine's memory. */
#define TRACE_POINTS_MAX ((size_t)100000000)
/* Of one VM; the sum over TRACE_VMS_MAX of them still fits 64 bits. */
#define TRACE_BYTES_MAX (UINT64_C(64) << 40)
/* 100 years: times since the epoch pass, too. */
#define TRACE_TIME_MAX_MS (UINT64_C(36525) * 24 * 3600 * 1000)
#define TRACE_LINE_MAX 4096 /* bytes */

struct trace_point {
	uint64_t time_ms; /* since the trace's begin */
	uint64_t demand_bytes;
};

struct trace_vm {
	char name[TRACE_NAME_MAX];
	uint64_t size_bytes; /* provisioned: its maximum; where it changed, the largest that it had */
	struct trace_point *points;
	size_t n, capacity;
};

struct trace {
	struct trace_vm *vms; /* order of first appearance */
	size_t n, capacity;
	size_t points_n;      /* of all VMs */
	uint64_t duration_ms; /* of the last row, also where it changed nothing; a trace's last demand holds on */
};

/* What was wrong in the files read: the first lines, each as "FILE:LINE:COLUMN: what", and how many there were. */
#define TRACE_FAULTS_MAX 10
struct trace_report {
	struct memoc_err first[TRACE_FAULTS_MAX];
	uint64_t n;
	bool broken_off; /* reading ended early, and err says why: these are the lines that were bad before that */
};

/*
 * Reads a file, whatever of these it is, by its content: our own format (CSV `time_s,vm,size_mib,demand_mib`, sorted by
 * time, `#` comments, optional header line), or a folder or file of GWA-T-12 (`;`-separated, one file a VM); plain,
 * gzip or xz (zlib, liblzma). "-" is standard input.
 *
 * Numbers are decimal, not negative, finite; demand above the size is cut to it. A name may stand in double quotes (""
 * within them is one), as a name with a comma must. Times of our own format stay as they are; those of GWA-T-12 begin
 * at the earliest row of all files. Of a folder the files named *.csv, *.csv.gz and *.csv.xz are read in the order of
 * their names (2 before 10), and the VM is called like the file; one that never has any memory is left out.
 *
 * −EINVAL with file, line, column and reason; −E2BIG for the limits above; −ENOMEM; −errno of opening and reading.
 * Errors leave nothing behind. The caller frees with trace_free().
 */
int trace_read(const char *path, struct trace **ret, struct memoc_err *err);
/* The same; *ret_report is written always, and err is its first line with "(and N more)". ret_report may be NULL. */
int trace_read_report(const char *path, struct trace **ret, struct trace_report *ret_report, struct memoc_err *err);
/* An empty trace; NULL without memory. */
struct trace *trace_new(void);
struct trace *trace_free(struct trace *t); /* NULL is fine; always NULL */
/*
 * Our own format, flushed; 0, −ENOMEM or −errno of writing. Bytes come back as they were from reading it; a last row
 * that repeats a demand keeps the duration.
 */
int trace_write(const struct trace *t, FILE *out);

/*
 * Adds a point; equal demand adds nothing, the same time again replaces, demand above the VM's size is cut. For readers
 * and generators. 0, −EINVAL where time goes back or there is no such VM, −E2BIG, −ENOMEM.
 */
int trace_add(struct trace *t, size_t vm, uint64_t time_ms, uint64_t demand_bytes);
/*
 * Adds a VM; *ret_vm is its index. −EINVAL for a name that trace_name_problem() refuses and for size 0, −E2BIG,
 * −ENOMEM. Whether another VM is called so is the caller's business.
 */
int trace_add_vm(struct trace *t, const char *name, uint64_t size_bytes, size_t *ret_vm);
/* Why it cannot be a VM's name (empty, too long, control characters, not UTF-8); NULL where it can. */
const char *trace_name_problem(const char *name, size_t len);

#endif
