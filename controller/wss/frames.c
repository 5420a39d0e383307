/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/wss/frames.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* Documentation/admin-guide/mm/pagemap.rst */
#define PM_PRESENT (UINT64_C(1) << 63)
#define PM_PFN ((UINT64_C(1) << 55) - 1)
#define KPF(bit) (UINT64_C(1) << (bit))
#define KPF_LRU KPF(5)
#define KPF_ANON KPF(12)
#define KPF_SWAPBACKED KPF(14)
#define KPF_COMPOUND_TAIL KPF(16)
#define KPF_HUGE KPF(17)
#define KPF_HWPOISON KPF(19)
#define KPF_NOPAGE KPF(20)
#define KPF_KSM KPF(21)
#define KPF_THP KPF(22)
#define KPF_ZERO_PAGE KPF(24)

#define ORDER_MOST 18 /* of 1 GiB */

struct by_number {
	uint64_t number;
	uint32_t index;
};

static int compare(const void *a, const void *b)
{
	const struct by_number *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static enum frame_kind kind_of(uint64_t flags)
{
	if (flags & (KPF_NOPAGE | KPF_ZERO_PAGE | KPF_HWPOISON))
		return FRAME_ABSENT;
	if (flags & KPF_HUGE)
		return FRAME_HUGETLB;
	/* A page that KSM has merged shows others' accesses, too. But 6.12 calls all anonymous pages so. */
	return flags & KPF_LRU ? FRAME_TRACKED : FRAME_UNTRACKED;
}

/*
 * The head of a tail. A huge page of 2^k pages lies at a multiple of 2^k; so the frame's number with ever more low bits
 * cleared is a tail of the same huge page until it is its head.
 */
static int find_head(int kpageflags, uint64_t pfn, uint64_t *ret_head, uint64_t *ret_flags)
{
	for (unsigned order = 1; order <= ORDER_MOST; order++) {
		uint64_t at = pfn >> order << order, flags;
		int r;

		if (at == pfn || (order > 1 && at == pfn >> (order - 1) << (order - 1)))
			continue; /* a frame that was looked at already */
		r = wss_read_words(kpageflags, WSS_GAP_FRAMES, &at, 1, &flags);
		if (r < 0)
			return r;
		if (flags & KPF_COMPOUND_TAIL)
			continue;
		*ret_head = at;
		*ret_flags = flags;
		return 0;
	}
	return -EBADMSG;
}

static int judge(int kpageflags, struct frame *f, uint64_t flags)
{
	uint64_t head = f->pfn;
	int r = flags & KPF_COMPOUND_TAIL ? find_head(kpageflags, f->pfn, &head, &flags) : 0;

	if (r == -EBADMSG) { /* split or freed while it was looked at */
		f->kind = FRAME_UNTRACKED;
		return 0;
	}
	if (r < 0)
		return r;
	f->head = head;
	f->kind = kind_of(flags);
	f->swap_backed = (flags & KPF_SWAPBACKED) != 0;
	f->anonymous = (flags & KPF_ANON) != 0;
	f->merged = (flags & KPF_KSM) != 0;
	f->huge = (flags & KPF_THP) != 0;
	return 0;
}

/* Our own stack is in memory while we run on it. */
int frames_hidden(const char *root, struct memoc_err *why)
{
	uint64_t page = (uint64_t)(uintptr_t)__builtin_frame_address(0) / WSS_PAGE_BYTES, word;
	int fd AUTO_CLOSE = wss_open_file(root, "/proc/self/pagemap", O_RDONLY);

	if (fd < 0 || wss_read_words(fd, WSS_GAP_PAGEMAP, &page, 1, &word) < 0 || !(word & PM_PRESENT) ||
	    (word & PM_PFN))
		return 0;
	return memoc_err_set(why, -EPERM, "/proc/PID/pagemap hides frame numbers: CAP_SYS_ADMIN is missing");
}

int frames_look_up(int kpageflags, struct frame *frames, size_t n)
{
	struct by_number *list AUTO_FREE = malloc((n + 1) * sizeof(*list));
	uint64_t *words AUTO_FREE = calloc(n + 1, 2 * sizeof(*words));
	size_t wanted = 0;
	int r;

	if (!list || !words)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (!frames[i].kind)
			list[wanted++] = (struct by_number){frames[i].pfn, (uint32_t)i};
	qsort(list, wanted, sizeof(*list), compare);
	for (size_t i = 0; i < wanted; i++)
		words[i] = list[i].number;
	uint64_t *flags = words + wanted;
	r = wss_read_words(kpageflags, WSS_GAP_FRAMES, words, wanted, flags);
	for (size_t i = 0; i < wanted && r == 0; i++)
		r = judge(kpageflags, &frames[list[i].index], flags[i]);
	return r;
}

static int take_entries(const uint64_t *entry, size_t n, const struct frame *known, struct frame *ret)
{
	bool present = false, numbered = false;

	for (size_t i = 0; i < n; i++) {
		uint64_t pfn = entry[i] & PM_PFN;

		ret[i] = (struct frame){.pfn = pfn, .head = pfn};
		if (!(entry[i] & PM_PRESENT)) {
			ret[i] = (struct frame){.kind = FRAME_ABSENT};
			continue;
		}
		present = true;
		numbered |= pfn != 0;
		/* A part of a huge page may have been split off since. */
		if (known && known[i].kind == FRAME_TRACKED && known[i].pfn == pfn && known[i].head == pfn)
			ret[i] = known[i];
	}
	return present && !numbered ? -EPERM : 0;
}

int frames_look(const struct frame_files *f, const uint64_t *page, size_t n, const struct frame *known,
		struct frame *ret, struct memoc_err *err)
{
	uint64_t *entry AUTO_FREE = malloc((n + 1) * sizeof(*entry));
	int r;

	if (!entry)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	r = wss_read_words(f->pagemap, WSS_GAP_PAGEMAP, page, n, entry);
	if (r == -ENODATA)
		return memoc_err_set(err, -ESRCH, "the process has ended");
	if (r < 0)
		return memoc_err_set(err, r, "pagemap cannot be read: %s", strerror(-r));
	r = take_entries(entry, n, known, ret);
	if (r < 0)
		return memoc_err_set(err, r, "page frame numbers are hidden: memocd needs CAP_SYS_ADMIN on the host");
	r = frames_look_up(f->kpageflags, ret, n);
	return r < 0 ? memoc_err_set(err, r, "kpageflags cannot be read: %s", strerror(-r)) : 0;
}

ssize_t frames_order(const struct frame *frames, size_t n, uint32_t **ret_order)
{
	struct by_number *list AUTO_FREE = malloc((n + 1) * sizeof(*list));
	uint32_t *order = malloc((n + 1) * sizeof(*order));
	size_t tracked = 0;

	if (!list || !order) {
		free(order);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++)
		if (frames[i].kind == FRAME_TRACKED)
			list[tracked++] = (struct by_number){frames[i].head, (uint32_t)i};
	qsort(list, tracked, sizeof(*list), compare);
	for (size_t i = 0; i < tracked; i++)
		order[i] = list[i].index;
	*ret_order = order;
	return (ssize_t)tracked;
}
