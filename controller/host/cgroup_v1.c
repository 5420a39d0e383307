/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The v1 memory controller. Lowering limit_in_bytes reclaims inside the write and fails with EBUSY, keeping the old
 * limit, where not enough can be reclaimed. One big step on a guest that uses its memory fails for ever, because what
 * it reclaims is faulted back meanwhile; and a guest at a limit where reclaim finds nothing for a moment is OOM-killed
 * although swap is free (both seen on 6.18). So limits go down in small steps, and a limited group has its OOM killer
 * switched off: its tasks wait instead, which memory.oom_control tells and a higher limit ends.
 */
#include "controller/host/cgroup_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "common/clock.h"
#include "controller/host/kernfile.h"

#define LIMIT_FILE "memory.limit_in_bytes"
#define OOM_FILE "memory.oom_control"
#define LOWER_STEP_BYTES (16 * MIB)
#define LOWER_STEP_MIN_BYTES (1 * MIB)
#define LOWER_TRIES 6
/* "No limit" reads back as LONG_MAX rounded down to a page (PAGE_COUNTER_MAX), whatever the size of pages: up to 64
 * KiB. */
#define V1_OPEN_MIN ((uint64_t)INT64_MAX - 64 * KIB + 1)

static int v1_open(struct cgroup_vm *g, struct memoc_err *err)
{
	int r = cgroup_open_file(g, "memory.usage_in_bytes", O_RDONLY, true, &g->usage_fd, err);

	if (r == 0)
		r = cgroup_open_file(g, "memory.stat", O_RDONLY, true, &g->stat_fd, err);
	if (r == 0)
		r = cgroup_open_file(g, LIMIT_FILE, O_RDONLY, true, &g->limit_fd, err);
	if (r == 0) /* absent where swap is not accounted (swapaccount=0) */
		r = cgroup_open_file(g, "memory.memsw.limit_in_bytes", O_RDONLY, false, &g->memsw_limit_fd, err);
	if (r == 0)
		r = cgroup_open_file(g, "memory.memsw.usage_in_bytes", O_RDONLY, false, &g->swap_fd, err);
	if (r == 0)
		r = cgroup_open_file(g, OOM_FILE, O_RDONLY, false, &g->oom_fd, err);
	return r;
}

static int v1_read_limit(int fd, uint64_t *ret_bytes)
{
	int r = kernfile_read_number(fd, ret_bytes);

	if (r == 0 && *ret_bytes >= V1_OPEN_MIN)
		*ret_bytes = LIMIT_NONE;
	return r;
}

static int v1_limit(struct cgroup_vm *g, uint64_t *ret_bytes)
{
	return v1_read_limit(g->limit_fd, ret_bytes);
}

/*
 * memsw counts what is in memory or in swap once. Unlike total_swap of memory.stat it does not lag, and a page that is
 * in both (swap cache) counts as resident. Without swap accounting the kernel does not know: 0.
 */
static int read_swapped(struct cgroup_vm *g, uint64_t usage, uint64_t *ret_bytes)
{
	uint64_t memsw = usage;
	int r = g->swap_fd < 0 ? 0 : kernfile_read_number(g->swap_fd, &memsw);

	if (r == 0)
		*ret_bytes = sub_sat_u64(memsw, usage);
	return r;
}

static bool read_under_oom(struct cgroup_vm *g)
{
	char text[256];
	uint64_t under = 0;

	return g->oom_fd >= 0 && kernfile_read(g->oom_fd, text, sizeof(text)) > 0 &&
	       kernfile_field(text, "under_oom", &under) == 0 && under > 0;
}

static int v1_read(struct cgroup_vm *g, struct vm_host_sample *ret)
{
	char stat[CGROUP_STAT_MAX];
	uint64_t usage = 0, limit = 0, cache = 0, swapped = 0, shmem = 0, refaults = 0;
	ssize_t n = kernfile_read(g->stat_fd, stat, sizeof(stat));
	int r = n < 0 ? (int)n : kernfile_read_number(g->usage_fd, &usage);

	if (r == 0)
		r = read_swapped(g, usage, &swapped);
	if (r == 0)
		r = v1_limit(g, &limit);
	/* total_: with what is in subgroups, as usage_in_bytes has it. "cache" holds shmem, which is not file cache. */
	if (r == 0)
		r = kernfile_field(stat, "total_cache", &cache) < 0 ? -EBADMSG : 0;
	if (r < 0)
		return r;
	(void)kernfile_field(stat, "total_shmem", &shmem); /* since 4.10 */
	ret->has_memory = true;
	/* memory.stat lags behind by up to 2 s (rstat flush), so the parts may exceed the whole. */
	ret->resident_bytes = sub_sat_u64(usage, sub_sat_u64(cache, shmem));
	ret->swapped_bytes = swapped;
	ret->limit_bytes = limit;
	ret->has_refaults = kernfile_field(stat, "total_workingset_refault_anon", &refaults) == 0; /* since 5.9 */
	ret->refaults = refaults;
	ret->under_oom = read_under_oom(g);
	ret->has_psi = false; /* v1 groups have none */
	ret->psi_some_us = 0;
	return 0;
}

static int v1_write(struct cgroup_vm *g, uint64_t bytes, struct memoc_err *err)
{
	char value[24] = "-1";
	int r;

	if (bytes != LIMIT_NONE)
		snprintf(value, sizeof(value), "%llu", (unsigned long long)bytes);
	r = g->write(g->path, LIMIT_FILE, value, err);
	if (r == -EBUSY)
		return memoc_err_prefix(
			err, r,
			"the kernel could not reclaim enough (swap full, or memory in use); the old limit stays");
	return r;
}

/* From usage down to `bytes` step by step; what was reached in max_ms stays in force (−EAGAIN). */
static int v1_lower(struct cgroup_vm *g, uint64_t bytes, uint64_t max_ms, struct memoc_err *err)
{
	uint64_t usage, limit, step = LOWER_STEP_BYTES, end_ms = now_ms() + max_ms;
	unsigned busy = 0;
	int r = v1_limit(g, &limit);

	while (r == 0 && limit > bytes) {
		r = kernfile_read_number(g->usage_fd, &usage);
		if (r < 0)
			break;
		uint64_t from = min_u64(limit, usage);
		uint64_t next = from > bytes + step ? from - step : bytes;
		r = v1_write(g, next, err);
		if (r == -EBUSY && ++busy < LOWER_TRIES) {
			step = max_u64(step / 2, LOWER_STEP_MIN_BYTES);
			r = 0;
		} else if (r == 0) {
			limit = next;
			busy = 0;
		}
		if (r == 0 && limit > bytes && now_ms() > end_ms)
			return memoc_err_set(err, -EAGAIN, "the limit of cgroup %s is on its way down", g->path);
	}
	return r;
}

static int v1_set_limit(struct cgroup_vm *g, uint64_t bytes, enum cgroup_method method, uint64_t max_ms,
			struct memoc_err *err)
{
	uint64_t memsw = LIMIT_NONE, usage = 0;
	int r = kernfile_read_number(g->usage_fd, &usage);

	if (r == 0 && g->memsw_limit_fd >= 0)
		r = v1_read_limit(g->memsw_limit_fd, &memsw);
	if (r < 0)
		return memoc_err_set(err, r, "cannot read usage and limits of cgroup %s", g->path);
	if (method == CGROUP_METHOD_RECLAIM && bytes < usage)
		return memoc_err_set(
			err, -EOPNOTSUPP,
			"cgroup v1 has no memory.reclaim: set method = auto or limit in [swap] of memoc.conf");
	/*
	 * The kernel refuses (EINVAL) a limit above memory.memsw.limit_in_bytes, which only an administrator sets
	 * (swap_hard_limit): his stays, and as memory alone cannot exceed it either, going up to it is all there is.
	 */
	bytes = min_u64(bytes, memsw);
	/* Refused (a parent has its own): the limit is set all the same. */
	if (g->oom_fd >= 0)
		(void)g->write(g->path, OOM_FILE, bytes == LIMIT_NONE ? "0" : "1", NULL);
	return bytes < usage ? v1_lower(g, bytes, max_ms, err) : v1_write(g, bytes, err);
}

const struct cgroup_ops cgroup_v1_ops = {
	.open = v1_open,
	.read = v1_read,
	.set_limit = v1_set_limit,
	.limit = v1_limit,
};
