/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Idle page tracking, host sampler: frames of the host's memory are picked at random, /proc/kpagecgroup says whose they
 * are, and those of VMs are marked idle: one sample serves all VMs of a round, and none needs to be looked into. A VM's
 * share of accessed frames among its frames is taken of what its cgroup has in memory; file cache does not count on
 * either side. QEMU's own memory cannot be told apart: in use, it is part of the result.
 *
 * The same frames are looked at again in the end. A frame that was not the VM's and is now came by being touched; one
 * that was and is not any more is no part of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "controller/host/cgroup.h"
#include "controller/wss/frames.h"

#define KPAGECGROUP "/proc/kpagecgroup"
#define IOMEM "/proc/iomem"
#define IOMEM_MOST ((size_t)256 << 10)
/* Small VMs on a large host would want nearly all of it: 0.2 s of a processor. */
#define FRAMES_MOST 100000

struct picked {
	struct frame before;
	uint64_t owner; /* inode of its cgroup at the begin; 0: none of the round's */
};

struct host {
	int bitmap, kpageflags, kpagecgroup;
	struct guest_ram memory; /* of the host: a guest's RAM is ranges of pages as well */
	struct wss_sample **round;
	size_t n, capacity;
	struct picked *list;
	size_t picked;
};

struct host_sample_of {
	uint64_t inode, owned, accessed;
	uint32_t pages;
};

/* ---- the host's memory ---- */

/* "00100000-bffd9fff : System RAM"; addresses are zero to who may not see them. */
static int read_memory(const char *root, struct guest_ram *ret)
{
	char *text AUTO_FREE = malloc(IOMEM_MOST), *save = NULL;
	ssize_t n = text ? wss_read_text(root, IOMEM, text, IOMEM_MOST) : -ENOMEM;
	struct guest_ram m = {0};

	if (n < 0)
		return (int)n;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned long long from, to;
		int at = 0;

		if (*line == ' ' || sscanf(line, "%llx-%llx : %n", &from, &to, &at) != 2 || !at ||
		    strcmp(line + at, "System RAM") != 0)
			continue;
		uint64_t start = (from + WSS_PAGE_BYTES - 1) / WSS_PAGE_BYTES * WSS_PAGE_BYTES;
		uint64_t end = (to + 1) / WSS_PAGE_BYTES * WSS_PAGE_BYTES;
		struct guest_ram_range *more = realloc(m.list, (m.n + 1) * sizeof(*more));
		if (!more) {
			guest_ram_clear(&m);
			return -ENOMEM;
		}
		m.list = more;
		if (end <= start)
			continue;
		m.list[m.n++] = (struct guest_ram_range){.start = start, .end = end};
		m.bytes += end - start;
	}
	if (m.bytes == 0) {
		guest_ram_clear(&m);
		return -EPERM;
	}
	*ret = m;
	return 0;
}

static int probe(const char *root, struct memoc_err *why)
{
	struct guest_ram memory = {0};
	int r = wss_idle_probe(root, why), fd AUTO_CLOSE = r < 0 ? -1 : wss_open_file(root, KPAGECGROUP, O_RDONLY);

	if (r < 0)
		return r;
	if (fd < 0)
		return memoc_err_set(why, fd, "%s cannot be opened: %s", KPAGECGROUP, strerror(-fd));
	r = read_memory(root, &memory);
	guest_ram_clear(&memory);
	return r < 0 ? memoc_err_set(why, r, "%s does not tell where memory is: %s", IOMEM, strerror(-r)) : 0;
}

static void close_host(struct wss *w)
{
	struct host *h = w->own;

	for (int *fd = (int[]){h->bitmap, h->kpageflags, h->kpagecgroup, -2}; *fd != -2; fd++)
		if (*fd >= 0)
			close(*fd);
	guest_ram_clear(&h->memory);
	free(h->round);
	free(h->list);
	free(h);
}

static int open_host(struct wss *w, struct memoc_err *err)
{
	struct host *h = calloc(1, sizeof(*h));
	int r;

	if (!h)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	w->own = h;
	h->bitmap = wss_open_file(w->root, WSS_BITMAP, O_RDWR);
	h->kpageflags = wss_open_file(w->root, WSS_KPAGEFLAGS, O_RDONLY);
	h->kpagecgroup = wss_open_file(w->root, KPAGECGROUP, O_RDONLY);
	r = read_memory(w->root, &h->memory);
	if (r == 0 && h->bitmap >= 0 && h->kpageflags >= 0 && h->kpagecgroup >= 0)
		return 0;
	close_host(w);
	return memoc_err_set(err, r < 0 ? r : -EIO, "files of page frames cannot be opened any more");
}

/* ---- a round ---- */

static void clear(struct wss_sample *s)
{
	struct host *h = s->wss->own;

	for (size_t i = 0; i < h->n; i++)
		if (h->round[i] == s)
			h->round[i] = NULL;
	while (h->n && !h->round[h->n - 1]) /* rounds that came to nothing leave nothing */
		h->n--;
	free(s->own);
}

static int begin(struct wss *w, const struct wss_target *t, struct wss_sample *s, struct memoc_err *err)
{
	struct host *h = w->own;
	struct host_sample_of *own;

	if (h->n == h->capacity) {
		size_t capacity = h->capacity ? h->capacity * 2 : 16;
		struct wss_sample **round = realloc(h->round, capacity * sizeof(*round));

		if (!round)
			return memoc_err_set(err, -ENOMEM, "out of memory");
		h->round = round;
		h->capacity = capacity;
	}
	own = s->own = calloc(1, sizeof(*own));
	if (!own)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	own->pages = t->pages;
	own->inode = s->cgroup ? cgroup_vm_inode(s->cgroup) : 0;
	if (!own->inode)
		return memoc_err_set(err, -ENXIO, "its memory cgroup is not known");
	h->round[h->n++] = s;
	return 0;
}

static struct host_sample_of *whose(const struct host *h, uint64_t inode)
{
	for (size_t i = 0; inode && i < h->n; i++) {
		struct host_sample_of *own = h->round[i] ? h->round[i]->own : NULL;

		if (own && own->inode == inode)
			return own;
	}
	return NULL;
}

/* So many frames that who has the fewest of the host's has as many in the sample as it wants. */
static size_t frames_wanted(const struct host *h)
{
	uint64_t most = 0;

	for (size_t i = 0; i < h->n; i++) {
		struct host_sample_of *own = h->round[i] ? h->round[i]->own : NULL;
		struct vm_host_sample now;

		if (own && cgroup_vm_read(h->round[i]->cgroup, &now) == 0 && now.has_memory && now.resident_bytes)
			most = max_u64(most, mul_div_u64(h->memory.bytes, own->pages, now.resident_bytes));
	}
	return min_u64(min_u64(most, FRAMES_MOST), h->memory.bytes / WSS_PAGE_BYTES);
}

/* Owners of the heads of frames that may be a VM's; 0 for the others. */
static int look(const struct host *h, struct frame *frames, size_t n, uint64_t *ret_owner)
{
	uint32_t *order AUTO_FREE = NULL;
	int r = frames_look_up(h->kpageflags, frames, n);
	ssize_t tracked = r < 0 ? r : frames_order(frames, n, &order);
	uint64_t *index AUTO_FREE = tracked < 0 ? NULL : calloc((size_t)tracked + 1, 2 * sizeof(*index));

	if (!index)
		return tracked < 0 ? (int)tracked : -ENOMEM;
	memset(ret_owner, 0, n * sizeof(*ret_owner));
	for (ssize_t k = 0; k < tracked; k++)
		index[k] = frames[order[k]].head;
	r = wss_read_words(h->kpagecgroup, WSS_GAP_FRAMES, index, (size_t)tracked, index + tracked);
	for (ssize_t k = 0; k < tracked && r == 0; k++)
		if (frames[order[k]].swap_backed)
			ret_owner[order[k]] = index[tracked + k];
	return r;
}

static int pick(struct host *h, uint64_t *seed)
{
	size_t n = frames_wanted(h);
	uint64_t *page AUTO_FREE = malloc((n + 1) * 2 * sizeof(*page));
	struct frame *frames AUTO_FREE = calloc(n + 1, sizeof(*frames));
	int r;

	free(h->list);
	h->list = malloc((n + 1) * sizeof(*h->list));
	h->picked = 0;
	if (!page || !frames || !h->list)
		return -ENOMEM;
	n = wss_pick_pages(&h->memory, n, seed, page);
	for (size_t i = 0; i < n; i++)
		frames[i].pfn = frames[i].head = page[i];
	r = look(h, frames, n, page);
	for (size_t i = 0; i < n && r == 0; i++)
		h->list[h->picked++] = (struct picked){frames[i], whose(h, page[i]) ? page[i] : 0};
	return r;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int mark(const struct host *h)
{
	uint64_t *bit AUTO_FREE = malloc((h->picked + 1) * sizeof(*bit));
	size_t n = 0;

	if (!bit)
		return -ENOMEM;
	for (size_t i = 0; i < h->picked; i++)
		if (h->list[i].owner)
			bit[n++] = h->list[i].before.head;
	qsort(bit, n, sizeof(*bit), compare);
	return wss_set_bits(h->bitmap, bit, n);
}

static void charge(const struct host *h, uint64_t ns)
{
	size_t n = 0;

	for (size_t i = 0; i < h->n; i++)
		n += h->round[i] != NULL;
	for (size_t i = 0; i < h->n; i++)
		if (h->round[i])
			h->round[i]->cost_ns += ns / n;
}

static int start(struct wss *w, uint64_t window_ms, struct memoc_err *err)
{
	struct host *h = w->own;
	uint64_t began = wss_cpu_ns(), seed = atomic_fetch_add(&w->seed, UINT64_C(0x9e3779b97f4a7c15)) | 1;
	int r = pick(h, &seed);

	if (r == 0)
		r = mark(h);
	charge(h, wss_cpu_ns() - began);
	return r < 0 ? memoc_err_set(err, r, "frames cannot be marked idle: %s", strerror(-r)) : 0;
}

static int count(struct host *h)
{
	size_t n = h->picked;
	struct frame *now AUTO_FREE = calloc(n + 1, sizeof(*now));
	uint64_t *owner AUTO_FREE = calloc(n + 1, sizeof(*owner)), *index AUTO_FREE = NULL;
	uint32_t *order AUTO_FREE = NULL;
	ssize_t tracked;
	int r;

	if (!now || !owner)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		now[i].pfn = now[i].head = h->list[i].before.pfn;
	r = look(h, now, n, owner);
	tracked = r < 0 ? r : frames_order(now, n, &order);
	index = tracked < 0 ? NULL : calloc((size_t)tracked + 1, 2 * sizeof(*index));
	if (!index)
		return tracked < 0 ? (int)tracked : -ENOMEM;
	for (ssize_t k = 0; k < tracked; k++)
		index[k] = now[order[k]].head / 64;
	r = wss_read_words(h->bitmap, WSS_GAP_BITMAP, index, (size_t)tracked, index + tracked);
	for (ssize_t k = 0; k < tracked && r == 0; k++) {
		size_t i = order[k];
		struct host_sample_of *own = whose(h, owner[i]);

		if (!own)
			continue;
		own->owned++;
		/* Another's then, or nobody's: it came, and no mark of ours is on it. */
		bool idle = h->list[i].owner == owner[i] && (index[tracked + k] >> now[i].head % 64 & 1);
		own->accessed += !idle;
	}
	return r;
}

static int collect(struct wss *w, struct memoc_err *err)
{
	struct host *h = w->own;
	uint64_t began = wss_cpu_ns();
	int r = count(h);

	charge(h, wss_cpu_ns() - began);
	h->n = h->picked = 0;
	return r < 0 ? memoc_err_set(err, r, "idle frames cannot be read: %s", strerror(-r)) : 0;
}

static int end(struct wss_sample *s, struct wss_reading *ret, struct memoc_err *err)
{
	const struct host_sample_of *own = s->own;
	struct vm_host_sample now;
	int r = cgroup_vm_read(s->cgroup, &now);

	if (r < 0 || !now.has_memory)
		return memoc_err_set(err, r < 0 ? r : -EAGAIN, "its cgroup cannot be read");
	if (own->owned < WSS_PAGES_LEAST)
		return memoc_err_set(err, -EAGAIN, "%llu frames of the sample were its own: too few",
				     (unsigned long long)own->owned);
	double resident = (double)now.resident_bytes;
	double share = (double)own->accessed / (double)own->owned;
	double error = wss_error_share(own->accessed, own->owned, now.resident_bytes / WSS_PAGE_BYTES);
	ret->wss_bytes = min_u64((uint64_t)(share * resident + 0.5), s->ram.bytes);
	ret->error_bytes = add_sat_u64(wss_qemu_bytes(s), (uint64_t)(error * resident + 0.5));
	ret->pages = own->owned;
	return 0;
}

const struct wss_ops wss_idle_host = {.kind = WSS_IDLE_HOST,
				      .rounds = true,
				      .marks = true,
				      .collect_after = 1,
				      .probe = probe,
				      .open = open_host,
				      .close = close_host,
				      .begin = begin,
				      .start = start,
				      .collect = collect,
				      .end = end,
				      .clear = clear};
