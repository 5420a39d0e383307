/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The v2 memory controller. memory.high reclaims inside the write and throttles whoever exceeds it (up to 2 s per
 * return to user mode, vCPUs too) but never kills; memory.reclaim (Linux 5.19) reclaims in the writer and leaves the
 * guest unthrottled. memory.max is not even opened here: written near usage it is an OOM kill.
 */
#include "controller/host/cgroup_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "controller/host/kernfile.h"

#define LIMIT_FILE "memory.high"
/* The kernel itself tries a chunk 16 times (MAX_RECLAIM_RETRIES): what three chunks in a row cannot move will not move.
 */
#define FRUITLESS_MAX 3

static int v2_open(struct cgroup_vm *g, struct memoc_err *err)
{
	int r = cgroup_open_file(g, "memory.current", O_RDONLY, true, &g->usage_fd, err);

	if (r == 0)
		r = cgroup_open_file(g, "memory.stat", O_RDONLY, true, &g->stat_fd, err);
	if (r == 0)
		r = cgroup_open_file(g, LIMIT_FILE, O_RDONLY, true, &g->limit_fd, err);
	if (r == 0) /* absent in a kernel without swap */
		r = cgroup_open_file(g, "memory.swap.current", O_RDONLY, false, &g->swap_fd, err);
	if (r == 0) /* absent without CONFIG_PSI, EOPNOTSUPP with psi=0 */
		r = cgroup_open_file(g, "memory.pressure", O_RDONLY, false, &g->psi_fd, err);
	if (r == 0) /* write-only */
		r = cgroup_open_file(g, "memory.reclaim", O_WRONLY, false, &g->reclaim_fd, err);
	return r;
}

static int v2_limit(struct cgroup_vm *g, uint64_t *ret_bytes)
{
	return kernfile_read_number(g->limit_fd, ret_bytes); /* "max" is LIMIT_NONE already */
}

/* "some avg10=… avg60=… avg300=… total=MICROSECONDS". Unknown is not an error. */
static bool read_psi(int fd, uint64_t *ret_us)
{
	char text[512];
	const char *some, *total;

	if (fd < 0 || kernfile_read(fd, text, sizeof(text)) < 0)
		return false;
	some = kernfile_line(text, "some ");
	total = some ? strstr(some, "total=") : NULL;
	if (!total || total > strchrnul(some, '\n'))
		return false;
	return kernfile_number(total + strlen("total="), ret_us) == 0;
}

static int v2_read(struct cgroup_vm *g, struct vm_host_sample *ret)
{
	char stat[CGROUP_STAT_MAX];
	uint64_t usage = 0, limit = 0, file = 0, shmem = 0, swap = 0, refaults = 0, psi_us = 0;
	ssize_t n = kernfile_read(g->stat_fd, stat, sizeof(stat));
	int r = n < 0 ? (int)n : kernfile_read_number(g->usage_fd, &usage);

	if (r == 0)
		r = v2_limit(g, &limit);
	if (r == 0 && g->swap_fd >= 0)
		r = kernfile_read_number(g->swap_fd, &swap);
	if (r == 0 && (kernfile_field(stat, "file", &file) < 0 || kernfile_field(stat, "shmem", &shmem) < 0))
		r = -EBADMSG;
	if (r < 0)
		return r;
	ret->has_memory = true;
	/* "file" holds shmem (guest RAM in a memfd), which is not reclaimable file cache. memory.stat lags: saturate.
	 */
	ret->resident_bytes = sub_sat_u64(usage, sub_sat_u64(file, shmem));
	ret->swapped_bytes = swap;
	ret->limit_bytes = limit;
	ret->has_refaults = kernfile_field(stat, "workingset_refault_anon", &refaults) == 0; /* since 5.9 */
	ret->refaults = refaults;
	ret->has_psi = read_psi(g->psi_fd, &psi_us);
	ret->psi_some_us = psi_us;
	return 0;
}

static int write_high(struct cgroup_vm *g, uint64_t bytes, struct memoc_err *err)
{
	char value[24] = "max";

	if (bytes != LIMIT_NONE)
		snprintf(value, sizeof(value), "%llu", (unsigned long long)bytes);
	return g->write(g->path, LIMIT_FILE, value, err);
}

/* 0, or −EAGAIN where only a part was reclaimed: both are progress reports, not failures. */
static int reclaim_chunk(struct cgroup_vm *g, uint64_t bytes)
{
	char value[24];
	int n = snprintf(value, sizeof(value), "%llu", (unsigned long long)bytes);

	return pwrite(g->reclaim_fd, value, (size_t)n, 0) < 0 ? -errno : 0;
}

/* Until usage ≤ bytes: 0; −EAGAIN at the deadline or when nothing moves any more. */
static int reclaim_to(struct cgroup_vm *g, uint64_t bytes, uint64_t deadline_ms)
{
	uint64_t usage, least = UINT64_MAX;
	int r, fruitless = 0;

	for (;;) {
		r = kernfile_read_number(g->usage_fd, &usage);
		if (r < 0 || usage <= bytes)
			return r;
		fruitless = usage < least ? 0 : fruitless + 1;
		least = min_u64(least, usage);
		if (fruitless >= FRUITLESS_MAX || now_ms() >= deadline_ms)
			return -EAGAIN;
		r = reclaim_chunk(g, min_u64(usage - bytes, CGROUP_RECLAIM_CHUNK_BYTES));
		if (r < 0 && r != -EAGAIN && r != -EINTR)
			return r;
	}
}

static int reclaim_err(struct cgroup_vm *g, int code, uint64_t bytes, uint64_t max_ms, struct memoc_err *err)
{
	if (code == -EAGAIN)
		return memoc_err_set(err, code,
				     "cgroup %s is not down to %llu bytes after %llu ms (swap full, or memory in use)",
				     g->path, (unsigned long long)bytes, (unsigned long long)max_ms);
	return memoc_err_set(err, code, "reclaiming from cgroup %s: %s", g->path, strerror(-code));
}

/* memory.high comes first, so that the guest cannot grow while it is squeezed; the write reclaims by itself. */
static int lower_by_limit(struct cgroup_vm *g, uint64_t bytes, uint64_t max_ms, struct memoc_err *err)
{
	uint64_t deadline_ms = add_sat_u64(now_ms(), max_ms), usage;
	int r = write_high(g, bytes, err);

	if (r < 0)
		return r;
	if (g->reclaim_fd >= 0)
		r = reclaim_to(g, bytes, deadline_ms);
	else if ((r = kernfile_read_number(g->usage_fd, &usage)) == 0 && usage > bytes)
		r = -EAGAIN;
	return r < 0 ? reclaim_err(g, r, bytes, max_ms, err) : 0;
}

/*
 * memory.high follows behind. Where reclaim did not get there, it stops one chunk above usage: what was won is kept,
 * and the guest is not throttled for what it uses already.
 */
static int lower_by_reclaim(struct cgroup_vm *g, uint64_t bytes, uint64_t high, uint64_t max_ms, struct memoc_err *err)
{
	int reclaimed = reclaim_to(g, bytes, add_sat_u64(now_ms(), max_ms)), r = 0;
	uint64_t usage, kept = bytes;

	if (reclaimed < 0 && reclaimed != -EAGAIN)
		return reclaim_err(g, reclaimed, bytes, max_ms, err);
	if (reclaimed == -EAGAIN) {
		r = kernfile_read_number(g->usage_fd, &usage);
		if (r < 0)
			return reclaim_err(g, r, bytes, max_ms, err);
		kept = max_u64(bytes, add_sat_u64(usage, CGROUP_RECLAIM_CHUNK_BYTES));
	}
	if (kept < high)
		r = write_high(g, kept, err);
	if (r == 0 && reclaimed < 0)
		r = reclaim_err(g, reclaimed, bytes, max_ms, err);
	return r;
}

static int v2_set_limit(struct cgroup_vm *g, uint64_t bytes, enum cgroup_method method, uint64_t max_ms,
			struct memoc_err *err)
{
	uint64_t usage = 0, high = 0;
	int r = kernfile_read_number(g->usage_fd, &usage);

	if (r == 0)
		r = v2_limit(g, &high);
	if (r < 0)
		return memoc_err_set(err, r, "cannot read usage and memory.high of cgroup %s: %s", g->path,
				     strerror(-r));
	if (bytes >= usage || bytes >= high)
		return write_high(g, bytes, err);
	if (method == CGROUP_METHOD_RECLAIM && g->reclaim_fd < 0)
		return memoc_err_set(
			err, -EOPNOTSUPP,
			"cgroup %s has no memory.reclaim that memocd may write (Linux 5.19 or later): set method = "
			"auto or limit in [swap] of memoc.conf",
			g->path);
	if (method == CGROUP_METHOD_LIMIT || g->reclaim_fd < 0)
		return lower_by_limit(g, bytes, max_ms, err);
	return lower_by_reclaim(g, bytes, high, max_ms, err);
}

static int v2_reclaim_to(struct cgroup_vm *g, uint64_t bytes, uint64_t max_ms)
{
	return g->reclaim_fd < 0 ? -EOPNOTSUPP : reclaim_to(g, bytes, add_sat_u64(now_ms(), max_ms));
}

const struct cgroup_ops cgroup_v2_ops = {
	.open = v2_open,
	.read = v2_read,
	.set_limit = v2_set_limit,
	.reclaim_to = v2_reclaim_to,
	.limit = v2_limit,
};
