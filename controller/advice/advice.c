/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/advice/advice.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "controller/advice/advise.h"
#include "controller/advice/map.h"

/* Before linux/mman.h of 5.4 and in musl they are missing. */
#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

struct advice {
	int pidfd, pagemap;
	struct block *blocks;
	size_t n;
	uint64_t read_bytes;	 /* sum of the blocks whose reading has begun */
	uint64_t position_bytes; /* of the step before */
	uint64_t advance_bytes;	 /* how far the reader came between two looks of late */
	bool cut;		 /* that step was, at its bound */
};

struct step {
	struct advice *a;
	const struct advice_order *order;
	struct advice_report *counts;
	uint64_t left_bytes; /* that may be advised yet */
};

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int failed(int code, struct memoc_err *err)
{
	if (code == -ESRCH)
		return memoc_err_set(err, code, "the process has ended");
	if (code == -EPERM || code == -EACCES)
		return memoc_err_set(err, -EPERM,
				     "advice on QEMU's memory is not permitted: memocd needs CAP_SYS_NICE, "
				     "CAP_SYS_PTRACE and CAP_SYS_ADMIN");
	if (code == -ECANCELED)
		return memoc_err_set(err, code, "stopped");
	return memoc_err_set(err, code, "advice on QEMU's memory: %s", strerror(-code));
}

/* ---- beginning ---- */

static int open_blocks(struct advice *a, struct proc_vm *proc, const struct guest_ram *ram)
{
	a->blocks = calloc(ram->n, sizeof(*a->blocks));
	if (!a->blocks)
		return -ENOMEM;
	for (size_t i = 0; i < ram->n; i++) {
		a->n = i + 1; /* what it opened is closed in any case */
		int r = block_open(&a->blocks[i], proc, a->pagemap, &ram->list[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int begin(struct advice *a, struct proc_vm *proc, const struct guest_ram *ram, struct memoc_err *err)
{
	int r;

	if (sysconf(_SC_PAGESIZE) != (long)ADVICE_PAGE_BYTES)
		return memoc_err_set(err, -EOPNOTSUPP, "pages of this host are not of 4 KiB");
	a->pidfd = dup(proc_vm_pidfd(proc));
	if (a->pidfd < 0)
		return memoc_err_set(err, -errno, "no descriptor for the process: %m");
	r = advice_permitted(a->pidfd, err);
	if (r < 0)
		return r;
	a->pagemap = proc_vm_pagemap(proc);
	r = a->pagemap < 0 ? a->pagemap : open_blocks(a, proc, ram);
	return r < 0 ? failed(r, err) : 0;
}

int advice_begin(struct proc_vm *proc, const struct guest_ram *ram, struct advice **ret, struct memoc_err *err)
{
	struct advice *a = malloc(sizeof(*a));

	if (!a)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	*a = (struct advice){.pidfd = -1, .pagemap = -1};
	int r = begin(a, proc, ram, err);
	if (r < 0)
		advice_free(a);
	else
		*ret = a;
	return r;
}

struct advice *advice_free(struct advice *a)
{
	if (!a)
		return NULL;
	for (size_t i = 0; i < a->n; i++)
		block_close(&a->blocks[i]);
	free(a->blocks);
	if (a->pidfd >= 0)
		close(a->pidfd);
	if (a->pagemap >= 0)
		close(a->pagemap);
	free(a);
	return NULL;
}

bool advice_worthwhile(const struct advice *a)
{
	for (size_t i = 0; i < a->n; i++)
		if (a->blocks[i].first < a->blocks[i].pages)
			return true;
	return false;
}

static uint64_t count_bits(const uint64_t *bits, size_t pages)
{
	uint64_t n = 0;

	for (size_t i = 0; bits && i < pages / 64 + 1; i++)
		n += (uint64_t)__builtin_popcountll(bits[i]);
	return n * ADVICE_PAGE_BYTES;
}

void advice_count_map(const struct advice *a, struct advice_report *counts)
{
	for (size_t i = 0; i < a->n; i++) {
		counts->swapped_bytes += count_bits(a->blocks[i].swapped, a->blocks[i].pages);
		counts->untouched_bytes += count_bits(a->blocks[i].untouched, a->blocks[i].pages);
	}
}

/* ---- where the reader is ---- */

#define SIGN_PAGES 64

/* How many of the first pages of its map are in memory now, of SIGN_PAGES; where the map has few, of those. */
static int share_read(struct advice *a, struct block *b, double *ret)
{
	uint64_t in[LOOK_PAGES / 64];
	size_t n = min_u64(LOOK_PAGES, b->pages - b->first), asked = 0, there = 0;

	*ret = 0;
	int r = block_look(b, a->pagemap, b->first, n, in);
	for (size_t i = 0; i < n && asked < SIGN_PAGES && r == 0; i++) {
		if (!on_map(b, b->first + i))
			continue;
		asked++;
		there += bit_get(in, i);
	}
	if (asked)
		*ret = (double)there / (double)asked;
	return r;
}

/*
 * The block that follows in the reader's order: the largest of the rest. Among several of one size (NUMA cells) it is
 * the one whose beginning has come into memory; until one has, none. So is a block after others, whichever: QEMU may
 * have memory of its own in between (video RAM), and is then not where it seems to be. A block with nothing on its map
 * cannot be seen coming: it is taken when a whole block has been read and it was none of the others, or last.
 */
static int next_block(struct advice *a, uint64_t position_bytes, struct block **ret)
{
	struct block *unseen = NULL;
	uint64_t largest = 0;
	double best = 0;
	size_t mapped = 0;

	*ret = NULL;
	for (size_t i = 0; i < a->n; i++)
		largest = a->blocks[i].read ? largest : max_u64(largest, a->blocks[i].pages);
	bool alone = a->read_bytes == 0;
	for (size_t i = 0, n = 0; i < a->n; i++)
		alone &= a->blocks[i].pages != largest || ++n == 1;
	for (size_t i = 0; i < a->n; i++) {
		struct block *b = &a->blocks[i];
		double share = 1;

		if (b->read || b->pages != largest)
			continue;
		if (!alone && b->first >= b->pages) {
			unseen = b;
			continue;
		}
		mapped++;
		int r = alone ? 0 : share_read(a, b, &share);
		if (r < 0)
			return r;
		if (share >= 0.5 && share > best) {
			best = share;
			*ret = b;
		}
	}
	if (unseen && (!mapped || position_bytes - a->read_bytes >= largest * ADVICE_PAGE_BYTES))
		*ret = unseen;
	return 0;
}

static int follow(struct advice *a, uint64_t position_bytes)
{
	while (position_bytes > a->read_bytes) {
		struct block *b;
		int r = next_block(a, position_bytes, &b);

		if (r < 0 || !b)
			return r;
		b->read = true;
		b->base = a->read_bytes;
		a->read_bytes += b->pages * ADVICE_PAGE_BYTES;
	}
	return 0;
}

/* Pages of the block that have been read. */
static size_t pages_read(const struct block *b, uint64_t position_bytes)
{
	if (position_bytes == ADVICE_ALL)
		return b->pages;
	return b->read ? min_u64(b->pages, sub_sat_u64(position_bytes, b->base) / ADVICE_PAGE_BYTES) : 0;
}

/* ---- behind the reader ---- */

struct batch {
	struct block *b;
	size_t first, n;
	uint64_t swapped[LOOK_PAGES / 64], zero[LOOK_PAGES / 64]; /* to be advised */
	struct run runs[LOOK_PAGES];
};

static size_t runs_of(struct batch *t, const uint64_t *bits)
{
	size_t n = 0;

	for (size_t i = 0; i < t->n; i++) {
		if (!bit_get(bits, i))
			continue;
		uint64_t at = t->b->start + (t->first + i) * ADVICE_PAGE_BYTES;
		if (n && t->runs[n - 1].start + t->runs[n - 1].bytes == at)
			t->runs[n - 1].bytes += ADVICE_PAGE_BYTES;
		else
			t->runs[n++] = (struct run){at, ADVICE_PAGE_BYTES};
	}
	return n;
}

/*
 * What of `bits` is in memory still. Shared memory that QEMU's page tables have no more is on its way: it stays in the
 * page cache until the disk has it.
 */
static int still_there(const struct step *s, struct batch *t, uint64_t *bits, uint64_t *ret_pages)
{
	uint64_t in[LOOK_PAGES / 64] = {0}, mapped[LOOK_PAGES / 64];
	int r = block_look_mapped(t->b, s->a->pagemap, t->first, t->n, mapped);

	if (r == 0 && t->b->shared)
		r = block_look(t->b, s->a->pagemap, t->first, t->n, in);
	*ret_pages = 0;
	for (size_t i = 0; i < LOOK_PAGES / 64 && r == 0; i++) {
		bits[i] &= mapped[i] & (t->b->shared ? in[i] : UINT64_MAX);
		*ret_pages += (uint64_t)__builtin_popcountll(bits[i]);
	}
	return r;
}

static uint64_t count_pages(const uint64_t bits[LOOK_PAGES / 64])
{
	return count_bits(bits, LOOK_PAGES - 1) / ADVICE_PAGE_BYTES;
}

#define AGAIN_SHARE 8 /* more than one in so many stayed: not the few that were locked or on their way just then */

/* One or two rounds; *ret_stayed: pages that are there after them. */
static int page_out(const struct step *s, struct batch *t, uint64_t *bits, uint64_t pages, uint64_t *ret_stayed)
{
	int r = 0;

	*ret_stayed = pages;
	for (int round = 0; round < 2 && r == 0 && *ret_stayed > (round ? pages / AGAIN_SHARE : 0); round++) {
		r = advise(s->a->pidfd, t->runs, runs_of(t, bits), MADV_PAGEOUT);
		if (r == 0)
			r = still_there(s, t, bits, ret_stayed);
	}
	return r;
}

static int advise_swapped(const struct step *s, struct batch *t)
{
	uint64_t pages = count_pages(t->swapped), stayed;
	int r = page_out(s, t, t->swapped, pages, &stayed);

	if (r == 0) {
		s->counts->out_bytes += (pages - stayed) * ADVICE_PAGE_BYTES;
		s->counts->stayed_bytes += stayed * ADVICE_PAGE_BYTES;
	}
	return r;
}

static int advise_zeroes(const struct step *s, struct batch *t)
{
	uint64_t pages = count_pages(t->zero), stayed = pages;
	int r = s->order->zero_out ? page_out(s, t, t->zero, pages, &stayed)
				   : advise(s->a->pidfd, t->runs, runs_of(t, t->zero), MADV_COLD);

	if (r == 0) {
		s->counts->zero_bytes += pages * ADVICE_PAGE_BYTES;
		s->counts->zero_out_bytes += (pages - stayed) * ADVICE_PAGE_BYTES;
	}
	return r;
}

/* What of the map is in memory now was read, and is decided about with that: it is not looked at again. */
static int behind(struct step *s, struct batch *t)
{
	uint64_t in[LOOK_PAGES / 64];
	int r = block_look(t->b, s->a->pagemap, t->first, t->n, in);

	memset(t->swapped, 0, sizeof(t->swapped));
	memset(t->zero, 0, sizeof(t->zero));
	for (size_t i = 0; i < t->n && r == 0; i++) {
		if (!bit_get(in, i))
			continue;
		if (bit_get(t->b->swapped, t->first + i))
			bit_set(t->swapped, i);
		else if (bit_get(t->b->untouched, t->first + i))
			bit_set(t->zero, i);
	}
	if (r == 0)
		r = advise_swapped(s, t);
	if (r == 0)
		r = advise_zeroes(s, t);
	return r;
}

/* Is anything of the map between these pages? So that what was in memory all along costs nothing. */
static bool any_on_map(const struct block *b, size_t from, size_t to)
{
	for (size_t w = from / 64; w <= (to - 1) / 64; w++)
		if (b->swapped[w] || (b->untouched && b->untouched[w]))
			return true;
	return false;
}

static bool cancelled(const struct step *s)
{
	return s->order->cancel && atomic_load(s->order->cancel);
}

static int block_behind(struct step *s, struct batch *t, size_t to)
{
	struct block *b = t->b;

	while (b->done < to && s->left_bytes) {
		uint64_t before = s->counts->out_bytes + s->counts->stayed_bytes + s->counts->zero_bytes;
		int r = 0;

		if (cancelled(s))
			return -ECANCELED;
		t->first = b->done;
		t->n = min_u64(LOOK_PAGES, to - b->done);
		if (any_on_map(b, t->first, t->first + t->n))
			r = behind(s, t);
		if (r < 0)
			return r;
		b->done = t->first + t->n;
		uint64_t after = s->counts->out_bytes + s->counts->stayed_bytes + s->counts->zero_bytes;
		s->left_bytes = sub_sat_u64(s->left_bytes, after - before);
	}
	return b->done < to;
}

/* ---- ahead of the reader ---- */

/* Before the reader is there for sure, unless it is much faster now than between the steps before, and as far as it
 * comes until the next step or two. */
#define AHEAD_GAP_BYTES (2 * MIB)
#define AHEAD_BYTES (32 * MIB)
#define FRONT_PAGES 256
#define FRONT_LEAST_PAGES 8 /* of a chunk that says by itself that the reader was there */
#define FRONT_RUN 4	    /* chunks that say so far from where it was */

static int block_ahead(struct step *s, struct block *b, size_t from, size_t to)
{
	uint64_t in[LOOK_PAGES / 64];

	for (size_t at = from; at < to; at += LOOK_PAGES) {
		size_t n = min_u64(LOOK_PAGES, to - at);
		if (!any_on_map(b, at, at + n))
			continue;
		int r = block_look(b, s->a->pagemap, at, n, in);
		if (r < 0)
			return r;
		for (size_t i = 0; i < n; i++) {
			if (!bit_get(in, i) || !on_map(b, at + i))
				continue;
			bit_clear(b->swapped, at + i);
			bit_clear(b->untouched, at + i);
			s->counts->guest_bytes += ADVICE_PAGE_BYTES;
		}
	}
	return 0;
}

/*
 * Where the reader has got to since its position was asked for: through what is on the map and in memory without a gap.
 * It is as fast as the network where there is something to send and many times faster where all is zero, and what it
 * read would else be taken for what the guest brought in. Of that, a run that begins no farther ahead than a step looks
 * was met by the step before.
 */
static int reader_front(const struct step *s, struct block *b, size_t *at)
{
	size_t run = 0; /* of chunks beyond what is not on the map and tells nothing */

	for (size_t look = *at, n; look < b->pages; look += n) {
		uint64_t in[LOOK_PAGES / 64] = {0};
		size_t asked = 0, there = 0;
		bool far = look - *at > AHEAD_BYTES / 2 / ADVICE_PAGE_BYTES;

		n = min_u64(FRONT_PAGES, b->pages - look);
		bool ends = look + n == b->pages;
		if (cancelled(s) || (far && !s->order->follow))
			return 0;
		if (!any_on_map(b, look, look + n)) {
			if (ends && s->order->follow)
				*at = b->pages;
			continue;
		}
		int r = block_look(b, s->a->pagemap, look, n, in);
		for (size_t i = 0; i < n && r == 0; i++) {
			bool mapped = on_map(b, look + i);
			asked += mapped;
			there += mapped && bit_get(in, i);
		}
		if (r < 0 || there < asked - asked / 8)
			return r;
		run = far ? run + (asked >= n / 2) : FRONT_RUN;
		bool sure = look == *at || asked >= FRONT_LEAST_PAGES || ends;
		if (sure && (run >= FRONT_RUN || ends))
			*at = look + n;
	}
	return 0;
}

/* The position by what has come in, from the last one on: through one block after the other. */
static int follow_reader(struct step *s, uint64_t *position_bytes)
{
	for (size_t i = 0; i < s->a->n; i++) {
		uint64_t end = s->a->read_bytes;
		struct block *last = NULL;

		for (size_t j = 0; j < s->a->n; j++)
			if (s->a->blocks[j].read &&
			    s->a->blocks[j].base + s->a->blocks[j].pages * ADVICE_PAGE_BYTES == end)
				last = &s->a->blocks[j];
		size_t at = last ? pages_read(last, *position_bytes) : 0;
		int r = last ? reader_front(s, last, &at) : 0;
		if (r < 0 || (last && at < last->pages)) {
			*position_bytes = last ? last->base + at * ADVICE_PAGE_BYTES : *position_bytes;
			return r;
		}
		*position_bytes = end;
		r = follow(s->a, end + 1);
		if (r < 0 ||
		    s->a->read_bytes == end) /* it is at the end, or nothing of another block has come in yet */
			return r;
	}
	return 0;
}

static int ahead(struct step *s, uint64_t position)
{
	uint64_t advance = sub_sat_u64(position, s->a->position_bytes);
	/* It reads in bursts (a limit of its speed is kept per 0.1 s): one look without an advance means little. */
	s->a->advance_bytes = advance = max_u64(advance, s->a->advance_bytes / 2);
	size_t gap = max_u64(AHEAD_GAP_BYTES, advance) / ADVICE_PAGE_BYTES;
	size_t reach = gap + max_u64(AHEAD_BYTES, 4 * advance) / ADVICE_PAGE_BYTES;

	for (size_t i = 0; i < s->a->n; i++) {
		struct block *b = &s->a->blocks[i];
		size_t at = pages_read(b, position);
		int r = b->read ? reader_front(s, b, &at) : 0;
		if (r == 0 && b->read)
			r = block_ahead(s, b, min_u64(at + gap, b->pages), min_u64(at + reach, b->pages));
		if (r < 0)
			return r;
	}
	return 0;
}

static int take_step(struct step *s)
{
	struct batch *t AUTO_FREE = malloc(sizeof(*t));
	uint64_t position = s->order->position_bytes;
	bool more = false;
	int r = t ? follow(s->a, position) : -ENOMEM;

	/*
	 * First what the guest brought in: it is to be left alone. Not where a step that was cut goes on: the reader
	 * has read on since its position was asked for, and what it brought in would be taken for the guest's.
	 */
	bool goes_on = s->a->cut && s->a->position_bytes == position;
	if (r == 0 && s->order->follow && position != ADVICE_ALL)
		r = follow_reader(s, &position);
	if (r == 0 && position != ADVICE_ALL && !goes_on)
		r = ahead(s, position);
	for (size_t i = 0; i < s->a->n && r >= 0; i++) {
		t->b = &s->a->blocks[i];
		r = block_behind(s, t, pages_read(t->b, position));
		more |= r > 0;
	}
	s->a->position_bytes = position;
	s->a->cut = more;
	return r < 0 ? r : more;
}

uint64_t advice_position_bytes(const struct advice *a)
{
	return a->position_bytes;
}

bool advice_all_read(const struct advice *a)
{
	for (size_t i = 0; i < a->n; i++)
		if (pages_read(&a->blocks[i], a->position_bytes) < a->blocks[i].pages)
			return false;
	return true;
}

int advice_step(struct advice *a, const struct advice_order *order, struct advice_report *counts, struct memoc_err *err)
{
	struct step s = {.a = a, .order = order, .counts = counts, .left_bytes = order->most_bytes};
	uint64_t before_ns = cpu_ns();
	int r = take_step(&s);

	counts->cost_ns += cpu_ns() - before_ns;
	return r < 0 ? failed(r, err) : r;
}
