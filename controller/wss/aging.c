/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/wss/backend.h"

#include <errno.h>
#include <string.h>

#include "controller/host/cgroup.h"
#include "controller/host/kernfile.h"
#include "controller/wss/lru_gen.h"

#define AROUND_PAGES 64 /* BITS_PER_LONG: lru_gen_look_around(), mm/vmscan.c */
#define SHARE_MOST 0.1	/* of RAM, by which a reading may be wrong and still be of use */

static int read_generation(const char *root, const char *path, uint64_t *ret)
{
	struct lru_generations now;
	int r = path ? lru_gen_look(root, path, NULL, &now) : -ENXIO;

	if (r < 0)
		return r;
	*ret = 0;
	for (size_t i = 0; i < now.nodes; i++)
		*ret += now.node[i].youngest; /* each only grows */
	return 0;
}

/* Wake-ups of kswapd and direct reclaim, of /proc/vmstat. −errno. */
static int read_host_reclaims(const char *root, uint64_t *ret)
{
	static const char *const zones[] = {"allocstall_dma", "allocstall_dma32", "allocstall_normal",
					    "allocstall_movable"};
	char text[16384];
	uint64_t value;
	ssize_t n = wss_read_text(root, "/proc/vmstat", text, sizeof(text));

	if (n < 0)
		return (int)n;
	if (kernfile_field(text, "pageoutrun", ret) < 0)
		return -ENODATA;
	for (size_t i = 0; i < ARRAY_SIZE(zones); i++) /* a kernel has those that its machine can have */
		*ret += kernfile_field(text, zones[i], &value) == 0 ? value : 0;
	return 0;
}

int aging_begin(const struct wss *w, const struct wss_target *t, struct aging *ret, struct memoc_err *err)
{
	struct memoc_err why;
	int enabled = lru_gen_enabled(w->root), r = 0;

	*ret = (struct aging){0};
	/* Of guests that are emulated the bits are in QEMU's own page tables, which it has seen from its beginnings. */
	if (enabled < 0 || !(enabled & LRU_GEN_IN_USE) ||
	    (!t->emulated && lru_gen_sees_guests(w->root, &why) == -EOPNOTSUPP))
		return 0;
	ret->harmful = true;
	ret->scans_known = t->cgroup && cgroup_vm_scanned(t->cgroup, &ret->scanned, &ret->stolen) == 0 &&
			   read_host_reclaims(w->root, &ret->host_reclaims) == 0;
	if (!ret->scans_known || (t->memory && t->memory->scanned)) {
		r = read_generation(w->root, t->cgroup_path, &ret->generation);
		ret->generation_known = r == 0;
	}
	if (r < 0 && !ret->scans_known)
		return memoc_err_set(
			err, -EOPNOTSUPP,
			"the multi-generational LRU may take its accessed bits away, and nothing tells when (%s: "
			"%s): mount debugfs, or turn it off: echo n > %s",
			LRU_GEN, strerror(-r), LRU_GEN_ENABLED);
	return 0;
}

int aging_end(const struct wss_sample *s, const struct aging *begin, double *ret_share, struct memoc_err *err)
{
	uint64_t scanned = 0, stolen = 0, reclaims = 0, generation;
	bool scans = begin->scans_known && cgroup_vm_scanned(s->cgroup, &scanned, &stolen) == 0 &&
		     read_host_reclaims(s->wss->root, &reclaims) == 0;
	bool quiet = scans && scanned == begin->scanned && reclaims == begin->host_reclaims;

	*ret_share = 0;
	if (!begin->harmful)
		return 0;
	if (scans && s->memory)
		s->memory->scanned = !quiet;
	if (quiet)
		return 0;
	bool same = begin->generation_known && read_generation(s->wss->root, s->cgroup_path, &generation) == 0 &&
		    generation == begin->generation;
	if (same && scans) {
		uint64_t kept = sub_sat_u64(scanned - begin->scanned, stolen - begin->stolen);
		*ret_share = (double)kept * AROUND_PAGES * WSS_PAGE_BYTES / (double)s->ram.bytes;
	}
	if (same && *ret_share <= SHARE_MOST)
		return 0;
	return memoc_err_set(err, -EBUSY,
			     "its memory was reclaimed from within the window, and the multi-generational LRU takes "
			     "accessed bits away as it does");
}
