/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/wss/aging.h"

#include <errno.h>
#include <string.h>

#include "controller/host/cgroup.h"
#include "controller/wss/lru_gen.h"

static int generations(const char *root, const char *path, uint64_t *ret)
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

int aging_begin(const struct wss *w, const struct wss_target *t, struct aging *ret, struct memoc_err *err)
{
	struct memoc_err why;
	int enabled = lru_gen_enabled(w->root), r;

	*ret = (struct aging){AGING_HARMLESS, 0};
	/* Of guests that are emulated the bits are in QEMU's own page tables, which it has seen from its beginnings. */
	if (enabled < 0 || !(enabled & LRU_GEN_IN_USE) ||
	    (!t->emulated && lru_gen_sees_guests(w->root, &why) == -EOPNOTSUPP))
		return 0;
	ret->by = AGING_BY_SCANS;
	r = t->cgroup ? cgroup_vm_scanned(t->cgroup, &ret->count) : -ENODATA;
	if (r == -ENODATA) {
		ret->by = AGING_BY_GENERATIONS;
		r = generations(w->root, t->cgroup_path, &ret->count);
	}
	if (r < 0)
		return memoc_err_set(err, -EOPNOTSUPP,
				     "the multi-generational LRU may take its accessed bits away, and nothing tells when (%s: "
				     "%s): mount debugfs, or turn it off: echo n > %s",
				     LRU_GEN, strerror(-r), LRU_GEN_ENABLED);
	return 0;
}

int aging_end(const struct wss_sample *s, const struct aging *begin, struct memoc_err *err)
{
	uint64_t now = 0;
	int r = 0;

	if (begin->by == AGING_BY_SCANS)
		r = cgroup_vm_scanned(s->cgroup, &now);
	else if (begin->by == AGING_BY_GENERATIONS)
		r = generations(s->wss->root, s->cgroup_path, &now);
	if (r == 0 && now == begin->count)
		return 0;
	return memoc_err_set(err, -EBUSY,
			     "its memory was reclaimed from within the window, and the multi-generational LRU takes "
			     "accessed bits away as it does");
}
