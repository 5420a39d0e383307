/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of the advice room: which pages of guest RAM are in memory. */
#ifndef MEMOC_ADVICE_MAP_H
#define MEMOC_ADVICE_MAP_H

#include "controller/host/proc.h"

#define ADVICE_PAGE_BYTES                                                                                              \
	UINT64_C(4096)	/* of x86-64 and arm64 hosts as distributions build them; checked at the beginning */
#define LOOK_PAGES 4096 /* looked at in one go: 16 MiB */

/* A block of guest RAM. Bitmaps have a bit a page. */
struct block {
	uint64_t start;	 /* address in QEMU */
	uint64_t offset; /* shared: in the file */
	size_t pages;
	bool shared;
	int fd;		       /* shared: the file, else −1 */
	unsigned char *window; /* shared: the file mapped without any access, for mincore; NULL = not yet */
	uint64_t *swapped;     /* was swapped out and is not decided about yet */
	uint64_t *untouched;   /* shared: was never allocated, likewise; NULL for private memory */
	size_t done;	       /* pages below are decided about */
	size_t first;	       /* the first page on the map when it was taken; .pages = none */
	bool read;	       /* its reading has begun, or is over */
	uint64_t base;	       /* in the reader's order; good where .read */
};

static inline bool bit_get(const uint64_t *bits, size_t i)
{
	return bits && (bits[i / 64] >> i % 64 & 1);
}
static inline void bit_set(uint64_t *bits, size_t i)
{
	bits[i / 64] |= UINT64_C(1) << i % 64;
}
static inline void bit_clear(uint64_t *bits, size_t i)
{
	if (bits)
		bits[i / 64] &= ~(UINT64_C(1) << i % 64);
}
static inline bool on_map(const struct block *b, size_t i)
{
	return bit_get(b->swapped, i) || bit_get(b->untouched, i);
}

/* Opens what is needed and finds what is not in memory now. −errno; block_close() it in any case. */
int block_open(struct block *b, struct proc_vm *proc, int pagemap, const struct guest_ram_range *range);
void block_close(struct block *b);
/*
 * Which of n (≤ LOOK_PAGES) pages from `first` on are in memory: bits of ret, the first page's is bit 0. Pages of the
 * swap cache are in memory. −ESRCH: the process has ended; −errno.
 */
int block_look(struct block *b, int pagemap, size_t first, size_t n, uint64_t ret[LOOK_PAGES / 64]);
/* The same for those that QEMU's page tables have: of shared memory that is being written out they are not. */
int block_look_mapped(const struct block *b, int pagemap, size_t first, size_t n, uint64_t ret[LOOK_PAGES / 64]);

#endif
