/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Page frames behind pages of a process: pagemap gives the frame, kpageflags says what it is, and a frame within a huge
 * page stands for its head, because only heads are tracked.
 */
#ifndef MEMOC_WSS_FRAMES_H
#define MEMOC_WSS_FRAMES_H

#include "controller/wss/backend.h"

enum frame_kind {
	FRAME_ABSENT = 1, /* nothing is mapped, or the page of zeroes, or a broken page: no memory in use */
	FRAME_TRACKED,	  /* .head is on an LRU list: its idle bit means something */
	FRAME_UNTRACKED,  /* just now on no list (fresh, being moved …): nothing can be said */
	FRAME_HUGETLB,	  /* reserved huge page: never on a list */
};

struct frame {
	uint64_t pfn, head; /* head = pfn but in a huge page */
	enum frame_kind kind;
	bool anonymous;	  /* nobody but this process's kin has it, unless KSM merged it; as .swap_backed */
	bool merged;	  /* by KSM; all anonymous memory is called so by Linux 6.12; as .swap_backed */
	bool huge;	  /* within one; as .swap_backed */
	bool swap_backed; /* anonymous or shared memory, not a file's cache; set where .kind was looked up */
};

/* Descriptors of one look; pagemap is a process's own, kpageflags the host's. */
struct frame_files {
	int pagemap, kpageflags;
};

/*
 * Frames of ascending pages. known: NULL, or frames of the same pages as they were before: a small page that is
 * where it was is not asked again what it is. 0; −ESRCH: the process has ended; −EPERM: frame numbers are hidden from
 * us; −errno.
 */
int frames_look(const struct frame_files *f, const uint64_t *page, size_t n, const struct frame *known,
		struct frame *ret, struct memoc_err *err);
/* Will they be hidden? Asked of a page of our own. −EPERM; 0: no, or that cannot be told. */
int frames_hidden(const char *root, struct memoc_err *why);
/* Kind and head of frames whose pfn is set and whose kind is 0. 0 or −errno. */
int frames_look_up(int kpageflags, struct frame *frames, size_t n);
/* Order of the frames' heads: indexes of those that are tracked, by head. Returns how many. NULL-safe: no memory →
 * −ENOMEM. */
ssize_t frames_order(const struct frame *frames, size_t n, uint32_t **ret_order);

#endif
