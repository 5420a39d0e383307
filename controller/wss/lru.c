/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The multi-generational LRU (Documentation/admin-guide/mm/multigen_lru.rst) by its debugfs file: an aging run walks
 * the page tables of a cgroup's processes, puts what was accessed since the last one into the youngest generation and
 * opens a new one. One run at the begin, one at the end: what is then in the generations since the begin was touched in
 * the window.
 *
 * It counts what is charged to the VM's cgroup, so QEMU's own memory that is in use too: that is its error. Before
 * Linux 6.12 aging does not see what KVM guests access, so there it is not used.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "controller/wss/lru_gen.h"

struct lru_sample {
	struct lru_generations begin; /* youngest: what was the youngest before the first run */
};

static int probe(const char *root, struct memoc_err *why)
{
	int enabled = lru_gen_enabled(root), fd AUTO_CLOSE = -1;

	if (enabled < 0)
		return memoc_err_set(why, -ENOENT, "no multi-generational LRU: use a kernel with CONFIG_LRU_GEN");
	if ((enabled & (LRU_GEN_IN_USE | LRU_GEN_WALKS)) != (LRU_GEN_IN_USE | LRU_GEN_WALKS))
		return memoc_err_set(why, -EOPNOTSUPP, "the multi-generational LRU is off: echo y > %s",
				     LRU_GEN_ENABLED);
	int r = lru_gen_sees_guests(root, why);
	if (r < 0)
		return r;
	fd = wss_open_file(root, LRU_GEN, O_RDWR);
	if (fd < 0)
		return memoc_err_set(why, fd, "%s cannot be opened (%s): mount debugfs", LRU_GEN, strerror(-fd));
	return 0;
}

/* An aging run on each node, all page tables walked. */
static int age(const struct wss_sample *s, const struct lru_generations *g)
{
	char command[96];
	int r = 0;

	for (size_t i = 0; i < g->nodes && r == 0; i++) {
		if (wss_cancelled(s))
			return -ECANCELED;
		snprintf(command, sizeof(command), "+ %u %u %llu 100 1", g->id, g->node[i].node,
			 (unsigned long long)g->node[i].youngest);
		r = wss_write_text(s->wss->root, LRU_GEN, command);
	}
	return r;
}

static void clear(struct wss_sample *s)
{
	free(s->own);
}

static int failed(struct memoc_err *err, int r, const char *path)
{
	if (r == -ENOENT)
		return memoc_err_set(err, r, "%s does not know the cgroup %s", LRU_GEN, path);
	return memoc_err_set(err, r, "%s: %s", LRU_GEN, strerror(-r));
}

static int begin(struct wss *w, const struct wss_target *t, struct wss_sample *s, struct memoc_err *err)
{
	struct lru_sample *own;
	int r;

	if (!s->cgroup_path)
		return memoc_err_set(err, -ENXIO, "its memory cgroup is not known");
	own = s->own = calloc(1, sizeof(*own));
	if (!own)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	r = lru_gen_look(w->root, s->cgroup_path, NULL, &own->begin);
	if (r == 0)
		r = age(s, &own->begin);
	return r < 0 ? failed(err, r, s->cgroup_path) : 0;
}

static int end(struct wss_sample *s, struct wss_reading *ret, struct memoc_err *err)
{
	const struct lru_sample *own = s->own;
	struct lru_generations now;
	uint64_t pages = 0;
	int r = lru_gen_look(s->wss->root, s->cgroup_path, NULL, &now);

	if (r == 0)
		r = age(s, &now);
	if (r == 0)
		r = lru_gen_look(s->wss->root, s->cgroup_path, &own->begin, &now);
	if (r < 0)
		return failed(err, r, s->cgroup_path);
	r = lru_gen_window(&own->begin, &now, &pages, err);
	if (r < 0)
		return r;
	ret->wss_bytes = min_u64(pages * WSS_PAGE_BYTES, s->ram.bytes);
	ret->error_bytes = max_u64(wss_qemu_bytes(s), s->ram.bytes / 50);
	return 0;
}

const struct wss_ops wss_lru = {
	.kind = WSS_LRU, .collect_after = 1, .probe = probe, .begin = begin, .end = end, .clear = clear};
