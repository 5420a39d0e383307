/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private memory: pagemap tells present and swapped. Shared memory: pagemap knows nothing of swap there; the file does:
 * a hole (SEEK_HOLE) was never allocated, data that is not in the page cache (mincore) is swapped out.
 */
#include "controller/advice/map.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "controller/host/kernfile.h"

/* Documentation/admin-guide/mm/pagemap.rst */
#define PM_PRESENT (UINT64_C(1) << 63)
#define PM_SWAPPED (UINT64_C(1) << 62)

static int read_pagemap(const struct block *b, int pagemap, size_t first, size_t n, uint64_t *ret)
{
	int r = kernfile_read_at(pagemap, ret, n * 8, (b->start / ADVICE_PAGE_BYTES + first) * 8);

	return r == -ENODATA ? -ESRCH : r;
}

int block_look_mapped(const struct block *b, int pagemap, size_t first, size_t n, uint64_t ret[LOOK_PAGES / 64])
{
	uint64_t entry[LOOK_PAGES];
	int r = read_pagemap(b, pagemap, first, n, entry);

	memset(ret, 0, LOOK_PAGES / 8);
	for (size_t i = 0; i < n && r == 0; i++)
		if (entry[i] & PM_PRESENT)
			bit_set(ret, i);
	return r;
}

/* Mapped without any access: no page table entry of ours that would make a page look shared. */
static int open_window(struct block *b)
{
	void *at = mmap(NULL, b->pages * ADVICE_PAGE_BYTES, PROT_NONE, MAP_SHARED, b->fd, (off_t)b->offset);

	if (at == MAP_FAILED)
		return -errno;
	b->window = at;
	return 0;
}

int block_look(struct block *b, int pagemap, size_t first, size_t n, uint64_t ret[LOOK_PAGES / 64])
{
	unsigned char in[LOOK_PAGES];

	if (!b->shared)
		return block_look_mapped(b, pagemap, first, n, ret);
	if (mincore(b->window + first * ADVICE_PAGE_BYTES, n * ADVICE_PAGE_BYTES, in) < 0)
		return -errno;
	memset(ret, 0, LOOK_PAGES / 8);
	for (size_t i = 0; i < n; i++)
		if (in[i] & 1)
			bit_set(ret, i);
	return 0;
}

/* ---- the map ---- */

/*
 * Linux 6.7 and later tell runs of swapped pages at once: 8 bytes of pagemap are not read for each page that is in
 * memory. As include/uapi/linux/fs.h has it; headers of older systems do not.
 */
struct scan_region {
	uint64_t start, end, categories;
};
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_PAGEMAP _IOWR('f', 16, struct scan_arg)
#define SCAN_PRESENT (UINT64_C(1) << 3)
#define SCAN_SWAPPED (UINT64_C(1) << 4)
#define SCAN_REGIONS 512

/* −ENOTTY: this kernel does not have it. −ESRCH: the process has ended; −errno. */
static int scan_private(struct block *b, int pagemap)
{
	struct scan_region found[SCAN_REGIONS];
	uint64_t end = b->start + b->pages * ADVICE_PAGE_BYTES;
	struct scan_arg a = {.size = sizeof(a),
			     .end = end,
			     .vec = (uintptr_t)found,
			     .vec_len = SCAN_REGIONS,
			     .category_inverted = SCAN_PRESENT, /* swapped and not present */
			     .category_mask = SCAN_SWAPPED | SCAN_PRESENT,
			     .return_mask = SCAN_SWAPPED};

	for (uint64_t at = b->start; at < end; at = a.walk_end) {
		a.start = at;
		int n = ioctl(pagemap, SCAN_PAGEMAP, &a);
		if (n < 0 && errno == EINTR) {
			a.walk_end = at;
			continue;
		}
		if (n < 0 || a.walk_end <= at)
			return n < 0 ? -errno : -ESRCH;
		for (int i = 0; i < n; i++)
			for (uint64_t page = found[i].start; page < found[i].end; page += ADVICE_PAGE_BYTES)
				bit_set(b->swapped, (page - b->start) / ADVICE_PAGE_BYTES);
	}
	return 0;
}

static int read_private(struct block *b, int pagemap)
{
	uint64_t entry[LOOK_PAGES];

	for (size_t at = 0; at < b->pages; at += LOOK_PAGES) {
		size_t n = min_u64(LOOK_PAGES, b->pages - at);
		int r = read_pagemap(b, pagemap, at, n, entry);

		if (r < 0)
			return r;
		for (size_t i = 0; i < n; i++)
			if ((entry[i] & (PM_PRESENT | PM_SWAPPED)) == PM_SWAPPED)
				bit_set(b->swapped, at + i);
	}
	return 0;
}

static int map_private(struct block *b, int pagemap)
{
	int scanned = scan_private(b, pagemap);
	if (scanned != -ENOTTY && scanned != -EINVAL)
		return scanned;
	return read_private(b, pagemap);
}

static int map_data(struct block *b, size_t from, size_t to)
{
	uint64_t in[LOOK_PAGES / 64] = {0};

	for (size_t at = from; at < to; at += LOOK_PAGES) {
		size_t n = min_u64(LOOK_PAGES, to - at);
		int r = block_look(b, -1, at, n, in);

		if (r < 0)
			return r;
		for (size_t i = 0; i < n; i++)
			if (!bit_get(in, i))
				bit_set(b->swapped, at + i);
	}
	return 0;
}

/* The next page of data, or of a hole, from `at` on; the last page where there is none. */
static int seek_page(const struct block *b, size_t at, int whence, size_t *ret)
{
	off_t found = lseek(b->fd, (off_t)(b->offset + at * ADVICE_PAGE_BYTES), whence);

	if (found < 0 && errno != ENXIO)
		return -errno;
	*ret = found < 0 ? b->pages : min_u64(b->pages, sub_sat_u64((uint64_t)found, b->offset) / ADVICE_PAGE_BYTES);
	return 0;
}

static int map_shared(struct block *b)
{
	size_t at = 0, data = 0, hole = 0;

	while (at < b->pages) {
		int r = seek_page(b, at, SEEK_DATA, &data);

		if (r < 0)
			return r;
		for (; at < data; at++)
			bit_set(b->untouched, at);
		if (at == b->pages)
			break;
		r = seek_page(b, at, SEEK_HOLE, &hole);
		if (r == 0)
			r = map_data(b, at, hole);
		if (r < 0)
			return r;
		at = max_u64(hole, at + 1); /* a hole that came meanwhile must not stop us */
	}
	return 0;
}

static size_t first_on_map(const struct block *b)
{
	size_t i = 0;

	while (i < b->pages && !on_map(b, i))
		i++;
	return i;
}

int block_open(struct block *b, struct proc_vm *proc, int pagemap, const struct guest_ram_range *range)
{
	size_t words;
	int r = 0;

	*b = (struct block){.start = range->start,
			    .offset = range->offset,
			    .pages = (range->end - range->start) / ADVICE_PAGE_BYTES,
			    .shared = range->shared,
			    .fd = -1};
	words = b->pages / 64 + 1;
	b->swapped = calloc(words, 8);
	b->untouched = b->shared ? calloc(words, 8) : NULL;
	if (!b->swapped || (b->shared && !b->untouched))
		return -ENOMEM;
	if (b->shared) {
		b->fd = proc_vm_ram_file(proc, range);
		r = b->fd < 0 ? b->fd : open_window(b);
	}
	if (r == 0)
		r = b->shared ? map_shared(b) : map_private(b, pagemap);
	b->first = first_on_map(b);
	return r;
}

void block_close(struct block *b)
{
	if (b->window)
		munmap(b->window, b->pages * ADVICE_PAGE_BYTES);
	if (b->fd >= 0)
		close(b->fd);
	free(b->swapped);
	free(b->untouched);
	*b = (struct block){.fd = -1};
}
