/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Idle page tracking, guest sampler: pages of guest RAM are picked at random, the frames behind them marked idle, and
 * after the window the frames that are behind them then are asked. Documentation/admin-guide/mm/idle_page_tracking.rst.
 *
 * What a page counts for at the end:
 *   absent                       not in the working set: never touched, given back, swapped out
 *   present, absent at the begin in the working set: it was touched, that is how it came
 *   frame tracked, bit set       idle
 *   frame tracked, bit cleared   in the working set. A page that was moved takes its bit along (folio_migrate_flags), a
 *                                huge page that is split leaves it to its parts; a page that came anew has none
 *   on no LRU list, then or now  unknown: not counted in the sample
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "controller/wss/frames.h"

struct idle {
	int bitmap, kpageflags;
};

struct idle_sample {
	int pagemap; /* of the process that it was opened for, whoever has its number now */
	size_t n;
	uint64_t *page;
	struct frame *frames;
	bool ksm; /* may have merged pages of it */
};

int wss_idle_probe(const char *root, struct memoc_err *why)
{
	int bitmap AUTO_CLOSE = wss_open_file(root, WSS_BITMAP, O_RDWR), flags AUTO_CLOSE = -1;

	if (bitmap == -ENOENT)
		return memoc_err_set(why, -ENOENT,
				     "no idle page tracking: use a kernel with CONFIG_IDLE_PAGE_TRACKING");
	if (bitmap < 0)
		return memoc_err_set(why, bitmap, "%s cannot be opened: %s", WSS_BITMAP, strerror(-bitmap));
	flags = wss_open_file(root, WSS_KPAGEFLAGS, O_RDONLY);
	if (flags < 0)
		return memoc_err_set(why, flags, "%s cannot be opened: %s", WSS_KPAGEFLAGS, strerror(-flags));
	return 0;
}

/* What only looks at frames of the host (idle-host) needs none of this. */
static int probe(const char *root, struct memoc_err *why)
{
	int r = wss_idle_probe(root, why);

	return r < 0 ? r : frames_hidden(root, why);
}

static void close_idle(struct wss *w)
{
	struct idle *idle = w->own;

	if (idle->bitmap >= 0)
		close(idle->bitmap);
	if (idle->kpageflags >= 0)
		close(idle->kpageflags);
	free(idle);
}

static int open_idle(struct wss *w, struct memoc_err *err)
{
	struct idle *idle = malloc(sizeof(*idle));

	if (!idle)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	idle->bitmap = wss_open_file(w->root, WSS_BITMAP, O_RDWR);
	idle->kpageflags = wss_open_file(w->root, WSS_KPAGEFLAGS, O_RDONLY);
	w->own = idle;
	if (idle->bitmap >= 0 && idle->kpageflags >= 0)
		return 0;
	close_idle(w);
	return memoc_err_set(err, -EIO, "%s and %s cannot be opened any more", WSS_BITMAP, WSS_KPAGEFLAGS);
}

static void clear(struct wss_sample *s)
{
	struct idle_sample *i = s->own;

	if (i->pagemap >= 0)
		close(i->pagemap);
	free(i->page);
	free(i->frames);
	free(i);
}

/* Marks the heads of all tracked frames. */
static int mark(const struct idle *idle, const struct idle_sample *i, struct memoc_err *err)
{
	uint32_t *order AUTO_FREE = NULL;
	ssize_t n = frames_order(i->frames, i->n, &order);
	uint64_t *bit AUTO_FREE = n < 0 ? NULL : malloc(((size_t)n + 1) * sizeof(*bit));
	int r;

	if (!bit)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	for (ssize_t k = 0; k < n; k++)
		bit[k] = i->frames[order[k]].head;
	r = wss_set_bits(idle->bitmap, bit, (size_t)n);
	return r < 0 ? memoc_err_set(err, r, "pages cannot be marked idle: %s", strerror(-r)) : 0;
}

static int no_hugetlb(const struct idle_sample *i, struct memoc_err *err)
{
	for (size_t k = 0; k < i->n; k++)
		if (i->frames[k].kind == FRAME_HUGETLB)
			return memoc_err_set(err, -EOPNOTSUPP,
					     "its memory is reserved huge pages, which the kernel does not track");
	return 0;
}

/* Whether anything on this host is merged, or may be soon: what kpageflags says of that is wrong in 6.12. */
static bool ksm_at_work(const char *root)
{
	static const char *const files[] = {"/sys/kernel/mm/ksm/run", "/sys/kernel/mm/ksm/pages_shared"};

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		uint64_t number = 0;
		int r = wss_read_number(root, files[i], &number);

		if (r != -ENOENT && (r < 0 || number))
			return true;
	}
	return false;
}

static int begin(struct wss *w, const struct wss_target *t, struct wss_sample *s, struct memoc_err *err)
{
	const struct idle *idle = w->own;
	struct idle_sample *i = calloc(1, sizeof(*i));
	char path[64];
	int r;

	if (!i)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	s->own = i;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)t->pid);
	i->pagemap = wss_open_file(w->root, path, O_RDONLY);
	if (i->pagemap < 0)
		return memoc_err_set(err, i->pagemap == -ENOENT ? -ESRCH : i->pagemap, "%s cannot be opened: %s", path,
				     strerror(-i->pagemap));
	i->page = malloc(((size_t)t->pages + 1) * sizeof(*i->page));
	i->frames = malloc(((size_t)t->pages + 1) * sizeof(*i->frames));
	if (!i->page || !i->frames)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	i->ksm = ksm_at_work(w->root);
	i->n = wss_pick_pages(&s->ram, t->pages, &s->seed, i->page);
	const struct frame_files files = {i->pagemap, idle->kpageflags};
	r = frames_look(&files, i->page, i->n, NULL, i->frames, err);
	if (r == 0)
		r = no_hugetlb(i, err);
	if (r == 0 && wss_cancelled(s))
		r = memoc_err_set(err, -ECANCELED, "cancelled");
	return r < 0 ? r : mark(idle, i, err);
}

/* Idle bits of those frames that are tracked, by their heads. */
static int read_bits(const struct idle *idle, const struct frame *frames, size_t n, bool *ret)
{
	uint32_t *order AUTO_FREE = NULL;
	ssize_t tracked = frames_order(frames, n, &order);
	uint64_t *index AUTO_FREE = tracked < 0 ? NULL : calloc((size_t)tracked + 1, 2 * sizeof(*index));

	if (!index)
		return -ENOMEM;
	uint64_t *words = index + tracked;
	for (ssize_t k = 0; k < tracked; k++)
		index[k] = frames[order[k]].head / 64;
	int r = wss_read_words(idle->bitmap, WSS_GAP_BITMAP, index, (size_t)tracked, words);
	for (ssize_t k = 0; k < tracked && r == 0; k++)
		ret[order[k]] = words[k] >> frames[order[k]].head % 64 & 1;
	return r;
}

/* A page of the sample at the end of its window. */
struct page {
	struct frame now;
	bool idle; /* its frame's bit; where it is tracked */
};

/* Is the page in memory that is mapped shared? at: the range to begin with, for pages that are asked in their order. */
static bool is_shared(const struct guest_ram *ram, uint64_t page, size_t *at)
{
	while (*at < ram->n && page * WSS_PAGE_BYTES >= ram->list[*at].end)
		++*at;
	return *at < ram->n && ram->list[*at].shared;
}

/*
 * A frame that bears its bit still is the page's still: one that is freed loses it. So only the others are looked up
 * again, which is the dearest part. And these: parts of huge pages, which have a bit of their own once they were split
 * off; and frames that live on without the page, once it was written to and got a copy: KSM's, and a file's that is
 * mapped privately.
 */
static int look_again(const struct idle *idle, const struct idle_sample *i, const struct guest_ram *ram, bool ksm,
		      struct page *ret, struct memoc_err *err)
{
	const struct frame_files files = {i->pagemap, idle->kpageflags};
	size_t n = i->n, m = 0, moved = 0, at = 0;
	bool *bit AUTO_FREE = calloc(n + 1, sizeof(*bit));
	int r = bit ? read_bits(idle, i->frames, n, bit) : -ENOMEM;

	if (r < 0)
		return memoc_err_set(err, r, "idle pages cannot be read: %s", strerror(-r));
	struct frame *frames AUTO_FREE = calloc(n + 1, 2 * sizeof(*frames));
	uint64_t *page AUTO_FREE = malloc((n + 1) * sizeof(*page));
	uint32_t *which AUTO_FREE = malloc((n + 1) * sizeof(*which));
	if (!frames || !page || !which)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	struct frame *known = frames, *now = frames + n;
	for (size_t k = 0; k < n; k++) {
		const struct frame *f = &i->frames[k];

		ret[k] = (struct page){*f, bit[k]};
		bool alone = is_shared(ram, i->page[k], &at) || (f->anonymous && !(ksm && f->merged));
		if (f->kind == FRAME_TRACKED && f->pfn == f->head && bit[k] && alone)
			continue;
		known[m] = *f;
		page[m] = i->page[k];
		which[m++] = (uint32_t)k;
	}
	r = frames_look(&files, page, m, known, now, err);
	if (r < 0)
		return r;
	for (size_t j = 0; j < m; j++) {
		ret[which[j]].now = now[j];
		if (now[j].kind != FRAME_TRACKED || (known[j].kind == FRAME_TRACKED && now[j].head == known[j].head))
			continue;
		now[moved] = now[j];
		which[moved++] = which[j];
	}
	r = read_bits(idle, now, moved, bit);
	for (size_t j = 0; j < moved && r == 0; j++)
		ret[which[j]].idle = bit[j];
	return r < 0 ? memoc_err_set(err, r, "idle pages cannot be read: %s", strerror(-r)) : 0;
}

struct count {
	uint64_t accessed, known;
};

/* khugepaged copies idle pages and used ones into a huge page, which bears no mark: what it shows is no access of this
 * page. */
static bool collapsed(const struct frame *was, const struct frame *now)
{
	return was->kind == FRAME_TRACKED && now->kind == FRAME_TRACKED && !was->huge && now->huge;
}

static struct count count(const struct idle_sample *i, const struct page *now)
{
	struct count c = {0};

	for (size_t k = 0; k < i->n; k++) {
		enum frame_kind was = i->frames[k].kind, is = now[k].now.kind;
		bool judged = is == FRAME_ABSENT || (is == FRAME_TRACKED && was != FRAME_UNTRACKED) ||
			      (is == FRAME_UNTRACKED && was == FRAME_ABSENT);
		judged &= now[k].idle || !collapsed(&i->frames[k], &now[k].now);

		c.known += judged;
		c.accessed += judged && is != FRAME_ABSENT && !(is == FRAME_TRACKED && now[k].idle);
	}
	return c;
}

static int end(struct wss_sample *s, struct wss_reading *ret, struct memoc_err *err)
{
	const struct idle_sample *i = s->own;
	struct page *now AUTO_FREE = calloc(i->n + 1, sizeof(*now));
	int r;

	if (!now)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	r = look_again(s->wss->own, i, &s->ram, i->ksm || ksm_at_work(s->wss->root), now, err);
	if (r < 0)
		return r;
	struct count c = count(i, now);
	/* Where much is unknown it may be of a kind, and the rest no fair sample. */
	if (c.known < i->n - i->n / 4 || c.known == 0)
		return memoc_err_set(err, -EAGAIN, "of %zu pages %llu were in no state to be judged", i->n,
				     (unsigned long long)(i->n - c.known));
	double share = (double)c.accessed / (double)c.known, bytes = (double)s->ram.bytes;
	double error = wss_error_share(c.accessed, c.known, s->ram.bytes / WSS_PAGE_BYTES) +
		       wss_unjudged_share(share, i->n - c.known, i->n);
	ret->wss_bytes = (uint64_t)(share * bytes + 0.5);
	ret->error_bytes = (uint64_t)((error < 1 ? error : 1) * bytes + 0.5);
	ret->pages = c.known;
	return 0;
}

const struct wss_ops wss_idle = {.kind = WSS_IDLE,
				 .marks = true,
				 .collect_after = 1,
				 .probe = probe,
				 .open = open_idle,
				 .close = close_idle,
				 .begin = begin,
				 .end = end,
				 .clear = clear};
