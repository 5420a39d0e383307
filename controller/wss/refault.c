/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For kernels that have nothing else: a little of what the VM has in memory is reclaimed, coldest first by the kernel's
 * own LRU, and after the window is counted how much of it came back (workingset_refault_anon). As long as nothing comes
 * back the working set is smaller than what is left, by how much is not known: no reading. Where much comes back, or
 * the VM waits for memory (pressure, cgroup v2), the edge is found: what is in memory then is in use. Steps are small,
 * grow while nothing comes back and fall to the least at the edge, as senpai does it (facebookincubator/senpai).
 *
 * It changes what it measures: what was reclaimed is in swap afterwards. Counts what is charged to the cgroup, so
 * QEMU's own memory in use too.
 */
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "controller/host/cgroup.h"
#include "controller/host/kernfile.h"
#include "controller/wss/backend.h"

#define STEP_LEAST_BYTES MIB
#define STEP_MOST_BYTES (64 * MIB)
#define STEP_SHARE_LEAST 100 /* a hundredth of what is in memory */
#define STEP_SHARE_MOST 25
#define RECLAIM_MS 500
/* More back than this much of what was taken: it brings home what was taken long before, because it grows. */
#define GROWTH 2.0
#define EDGES_WANTED 2 /* in a row: pages that were all touched just now look like an edge, too */
/* Of what was taken, this part back within the window is the edge; under this part nothing worth mentioning came. */
#define EDGE 0.5
#define CALM 0.1
#define STALL 0.01 /* it waits for memory so much of the window (v2): what was taken is missed */
struct refault_sample {
	struct wss_memory *memory, forgotten;
	struct vm_host_sample before;
	uint64_t taken_bytes, began_ms;
	bool scans_known; /* v2 */
	uint64_t scanned;
};

static int probe(const char *root, struct memoc_err *why)
{
	char text[8192];
	uint64_t total = 0;
	ssize_t n = wss_read_text(root, "/proc/meminfo", text, sizeof(text));

	if (n < 0)
		return memoc_err_set(why, (int)n, "/proc/meminfo cannot be read: %s", strerror((int)-n));
	if (kernfile_field(text, "SwapTotal:", &total) < 0 || total == 0)
		return memoc_err_set(why, -EOPNOTSUPP, "the host has no swap, so nothing can be reclaimed from a VM");
	return 0;
}

static void clear(struct wss_sample *s)
{
	free(s->own);
}

static uint64_t step_of(const struct wss_memory *m, uint64_t resident)
{
	uint64_t least = max_u64(resident / STEP_SHARE_LEAST, STEP_LEAST_BYTES);
	uint64_t most = max_u64(min_u64(resident / STEP_SHARE_MOST, STEP_MOST_BYTES), least);

	return clamp_u64(m->step_bytes, least, most);
}

static int begin(struct wss *w, const struct wss_target *t, struct wss_sample *s, struct memoc_err *err)
{
	struct refault_sample *own;
	int r;

	if (!s->cgroup)
		return memoc_err_set(err, -ENXIO, "its memory cgroup is not known");
	own = s->own = calloc(1, sizeof(*own));
	if (!own)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	own->memory = t->memory ? t->memory : &own->forgotten;
	r = cgroup_vm_read(s->cgroup, &own->before);
	if (r < 0 || !own->before.has_memory)
		return memoc_err_set(err, r < 0 ? r : -EAGAIN, "its cgroup cannot be read");
	if (!own->before.has_refaults)
		return memoc_err_set(err, -EOPNOTSUPP,
				     "this kernel does not count what comes back (workingset_refault_anon, Linux 5.9)");
	uint64_t stolen;
	own->scans_known = cgroup_vm_scanned(s->cgroup, &own->scanned, &stolen) == 0;
	own->began_ms = now_ms();
	own->memory->step_bytes = step_of(own->memory, own->before.resident_bytes);
	r = cgroup_vm_reclaim(s->cgroup, own->memory->step_bytes, RECLAIM_MS, &own->taken_bytes, err);
	/* Not all of it is no failure: nothing cold is left, which is what is to be found. */
	return r < 0 && r != -EAGAIN && r != -EBUSY ? r : 0;
}

static double stall_share(const struct refault_sample *own, const struct vm_host_sample *now)
{
	uint64_t window_us = (now_ms() - own->began_ms) * 1000;
	bool known = own->before.has_psi && now->has_psi && window_us;

	return known ? (double)sub_sat_u64(now->psi_some_us, own->before.psi_some_us) / (double)window_us : 0;
}

/*
 * Did reclaim look for cold memory at all? With vm.swappiness=0, memory.swap.max=0 or a full swap it passes a guest's
 * memory by, and finds nothing however cold it is. v1 does not tell: there it is believed of whom it took from before.
 * Scans of QEMU's file cache count as well: who has one that is not empty is not always found out.
 */
static bool was_searched(const struct wss_sample *s, const struct refault_sample *own)
{
	uint64_t scanned, stolen;

	if (!own->scans_known)
		return own->memory->took;
	return cgroup_vm_scanned(s->cgroup, &scanned, &stolen) == 0 && scanned > own->scanned;
}

static int end(struct wss_sample *s, struct wss_reading *ret, struct memoc_err *err)
{
	struct refault_sample *own = s->own;
	struct wss_memory *m = own->memory;
	struct vm_host_sample now = {0};
	int r = cgroup_vm_read(s->cgroup, &now);

	if (r < 0 || !now.has_refaults || now.refaults < own->before.refaults)
		return memoc_err_set(err, r < 0 ? r : -EAGAIN, "its cgroup cannot be read");
	uint64_t back = (now.refaults - own->before.refaults) * WSS_PAGE_BYTES;
	bool less = own->taken_bytes < m->step_bytes / 4; /* reclaim found hardly anything: all is young */
	if (less && !was_searched(s, own)) {
		m->edges = 0;
		return memoc_err_set(err, -EAGAIN,
				     "nothing of it can be reclaimed (vm.swappiness, memory.swap.max, a full swap?): "
				     "that says nothing");
	}
	m->took |= !less;
	double part = own->taken_bytes ? (double)back / (double)own->taken_bytes : 1;
	bool stalls = stall_share(own, &now) >= STALL;
	bool edge =
		(less || stalls || part >= EDGE) && back <= (uint64_t)(GROWTH * (double)max_u64(own->taken_bytes, MIB));
	uint64_t step = m->step_bytes;

	m->edges = edge ? m->edges + 1 : 0;
	m->step_bytes = edge || part > GROWTH ? 0 : part < CALM ? step * 2 : step;
	if (m->edges < EDGES_WANTED)
		return memoc_err_set(err, -EAGAIN, "at most %llu MiB: of %llu MiB reclaimed %.0f %% came back, %s%s",
				     (unsigned long long)(now.resident_bytes / MIB),
				     (unsigned long long)(own->taken_bytes / MIB), part * 100,
				     stalls ? "it waits for memory, " : "",
				     part > GROWTH ? "it grows"
				     : edge	   ? "once more to be sure"
						   : "no edge is found yet");
	ret->wss_bytes = min_u64(now.resident_bytes, s->ram.bytes);
	ret->error_bytes = add_sat_u64(wss_qemu_bytes(s), max_u64(step, now.resident_bytes / 20));
	return 0;
}

const struct wss_ops wss_refault = {
	.kind = WSS_REFAULT, .collect_after = 1, .probe = probe, .begin = begin, .end = end, .clear = clear};
