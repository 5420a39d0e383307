/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * DAMON by its sysfs interface (Documentation/admin-guide/mm/damon/usage.rst), as a sampler: RAM is cut into as many
 * equal regions as pages are wanted, and one sampling interval is the whole window. DAMON then makes one random page of
 * each region old at the begin and sees at the end whether it is young: a stratified sample, KVM's accesses included.
 * Bytes of the regions whose page was accessed are summed by a scheme that does nothing (`stat`), one for each VM.
 *
 * One kdamond serves a round. The interface knows one set of kdamonds for everybody: it is used only while nobody else
 * has any, and is given back after each round. What is ours is known again by its update interval (MARK_US), so that
 * a memocd that was killed leaves nothing that the next one would not clear away; without one, the kdamond ends with
 * the VMs that it watches.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "controller/wss/backend.h"

#define ADMIN "/sys/kernel/mm/damon/admin/kdamonds/"
#define CONTEXT ADMIN "0/contexts/0/"
/* Nobody chooses 18 minutes and 13.500113 s by chance, and nothing is updated in fixed address ranges. */
#define MARK_US "1093500113"
/* A region is a directory of two files: more cost more than they tell. */
#define REGIONS_MOST 2401

struct damon {
	struct wss_sample **round;
	size_t n, capacity;
	bool on;
};

struct damon_sample {
	size_t place, regions;
	uint64_t accessed_bytes;
	bool collected;
};

/* ---- files ---- */

static int put(const struct wss *w, const char *text, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int put(const struct wss *w, const char *text, const char *fmt, ...)
{
	char path[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(path, sizeof(path), fmt, args);
	va_end(args);
	return wss_write_text(w->root, path, text);
}

static int put_number(const struct wss *w, uint64_t value, const char *file, size_t place, const char *rest)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return put(w, text, CONTEXT "%s/%zu/%s", file, place, rest);
}

static bool holds(const char *root, const char *path, const char *word)
{
	char text[256];

	return wss_read_text(root, path, text, sizeof(text)) >= 0 && strstr(text, word);
}

static int kdamonds(const char *root, uint64_t *ret)
{
	return wss_read_number(root, ADMIN "nr_kdamonds", ret);
}

static bool ours(const char *root)
{
	uint64_t n;

	return kdamonds(root, &n) == 0 && n == 1 &&
	       holds(root, CONTEXT "monitoring_attrs/intervals/update_us", MARK_US);
}

/* −EBUSY where somebody else has kdamonds there. */
static int give_back(const char *root)
{
	uint64_t n;
	int r = kdamonds(root, &n);

	if (r < 0 || n == 0)
		return r;
	if (!ours(root))
		return -EBUSY;
	if (holds(root, ADMIN "0/state", "on"))
		wss_write_text(root, ADMIN "0/state", "off");
	return wss_write_text(root, ADMIN "nr_kdamonds", "0");
}

void wss_damon_clear_left(const char *root)
{
	(void)give_back(root);
}

static int probe(const char *root, struct memoc_err *why)
{
	uint64_t n;
	int r = kdamonds(root, &n);

	if (r < 0)
		return memoc_err_set(why, r, "no DAMON: use a kernel with CONFIG_DAMON_VADDR and CONFIG_DAMON_SYSFS");
	if (n && !ours(root))
		return memoc_err_set(
			why, -EBUSY,
			"DAMON is in use by somebody else (%s has %llu): end that, or choose another back-end",
			ADMIN "nr_kdamonds", (unsigned long long)n);
	return 0;
}

/* An empty set of ours. */
static int take(const struct wss *w)
{
	int r = give_back(w->root);

	if (r == 0)
		r = wss_write_text(w->root, ADMIN "nr_kdamonds", "1");
	if (r == 0)
		r = wss_write_text(w->root, ADMIN "0/contexts/nr_contexts", "1");
	if (r == 0)
		r = wss_write_text(w->root, CONTEXT "monitoring_attrs/intervals/update_us", MARK_US);
	return r;
}

static int failed(struct memoc_err *err, int r, const char *what)
{
	if (r == -EBUSY)
		return memoc_err_set(err, r, "DAMON is in use by somebody else");
	return memoc_err_set(err, r, "DAMON: %s: %s", what, strerror(-r));
}

static void close_damon(struct wss *w)
{
	struct damon *d = w->own;

	give_back(w->root);
	free(d->round);
	free(d);
}

static int open_damon(struct wss *w, struct memoc_err *err)
{
	struct damon *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	w->own = d;
	r = take(w);
	bool vaddr = holds(w->root, CONTEXT "avail_operations", "fvaddr");
	if (r == 0)
		r = give_back(w->root);
	if (r == 0 && vaddr)
		return 0;
	close_damon(w);
	return r < 0 ? failed(err, r, "cannot be set up")
		     : memoc_err_set(err, -EOPNOTSUPP,
				     "this kernel's DAMON cannot watch processes: use one with CONFIG_DAMON_VADDR");
}

/* ---- a round ---- */

/* The last one of a round that was not collected ends it. */
static void clear(struct wss_sample *s)
{
	struct damon *d = s->wss->own;
	bool left = false;

	for (size_t i = 0; i < d->n; i++) {
		if (d->round[i] == s)
			d->round[i] = NULL;
		left |= d->round[i] != NULL;
	}
	if (d->on && !left) {
		give_back(s->wss->root);
		d->on = false;
	}
	free(s->own);
}

static int begin(struct wss *w, const struct wss_target *t, struct wss_sample *s, struct memoc_err *err)
{
	struct damon *d = w->own;
	struct damon_sample *own;

	if (d->on)
		return memoc_err_set(err, -EAGAIN, "a round is under way");
	if (d->n == d->capacity) {
		size_t capacity = d->capacity ? d->capacity * 2 : 16;
		struct wss_sample **round = realloc(d->round, capacity * sizeof(*round));

		if (!round)
			return memoc_err_set(err, -ENOMEM, "out of memory");
		d->round = round;
		d->capacity = capacity;
	}
	own = s->own = calloc(1, sizeof(*own));
	if (!own)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	own->regions = min_u64(min_u64(t->pages, REGIONS_MOST), s->ram.bytes / WSS_PAGE_BYTES);
	d->round[d->n++] = s;
	return 0;
}

/* Gone ones make no place; the others are numbered as DAMON's targets. Returns how many. */
static size_t number(struct damon *d)
{
	size_t n = 0;

	for (size_t i = 0; i < d->n; i++)
		if (d->round[i])
			d->round[n++] = d->round[i];
	for (size_t i = 0; i < n; i++)
		((struct damon_sample *)d->round[i]->own)->place = i;
	d->n = n;
	return n;
}

/* Regions may not reach over a gap, so each range has its share of them, at least one. */
static size_t regions_of(const struct wss_sample *s, const struct guest_ram_range *r)
{
	const struct damon_sample *own = s->own;
	uint64_t n = mul_div_u64(r->end - r->start, own->regions, s->ram.bytes);

	return n ? n : 1;
}

static int put_target(struct wss *w, const struct wss_sample *s)
{
	struct damon_sample *own = s->own;
	size_t place = own->place, total = 0, at = 0;
	char rest[64];
	int r = put_number(w, (uint64_t)s->pid, "targets", place, "pid_target");

	for (size_t i = 0; i < s->ram.n; i++)
		total += regions_of(s, &s->ram.list[i]);
	own->regions = total;
	if (r == 0)
		r = put_number(w, total, "targets", place, "regions/nr_regions");
	for (size_t i = 0; i < s->ram.n && r == 0; i++) {
		const struct guest_ram_range *range = &s->ram.list[i];
		uint64_t pages = (range->end - range->start) / WSS_PAGE_BYTES;
		size_t n = regions_of(s, range);

		for (size_t k = 0; k < n && r == 0; k++, at++) {
			snprintf(rest, sizeof(rest), "regions/%zu/start", at);
			r = put_number(w, range->start + mul_div_u64(pages, k, n) * WSS_PAGE_BYTES, "targets", place,
				       rest);
			snprintf(rest, sizeof(rest), "regions/%zu/end", at);
			if (r == 0)
				r = put_number(w, range->start + mul_div_u64(pages, k + 1, n) * WSS_PAGE_BYTES,
					       "targets", place, rest);
		}
	}
	return r;
}

/* Does nothing with what was accessed in this target, and so counts it. */
static int put_scheme(struct wss *w, const struct wss_sample *s)
{
	static const struct {
		const char *file, *text;
	} fields[] = {{"action", "stat"},
		      {"access_pattern/sz/min", "0"},
		      {"access_pattern/sz/max", "18446744073709551615"},
		      {"access_pattern/nr_accesses/min", "1"},
		      {"access_pattern/nr_accesses/max", "4294967295"},
		      {"access_pattern/age/min", "0"},
		      {"access_pattern/age/max", "4294967295"},
		      {"filters/nr_filters", "1"},
		      {"filters/0/type", "target"},
		      {"filters/0/matching", "N"}};
	size_t place = ((struct damon_sample *)s->own)->place;
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fields) && r == 0; i++)
		r = put(w, fields[i].text, CONTEXT "schemes/%zu/%s", place, fields[i].file);
	return r ? r : put_number(w, place, "schemes", place, "filters/0/damon_target_idx");
}

static int put_attrs(struct wss *w, uint64_t window_ms, size_t regions)
{
	char us[32], least[32], most[32];
	int r;

	snprintf(us, sizeof(us), "%llu", (unsigned long long)window_ms * 1000);
	snprintf(least, sizeof(least), "%zu", regions < 10 ? 10 : regions);
	snprintf(most, sizeof(most), "%zu", 2 * regions + 20); /* none is merged, none split */
	r = wss_write_text(w->root, CONTEXT "operations", "fvaddr");
	/* The longer one first: sampling is never longer than aggregation. */
	if (r == 0)
		r = wss_write_text(w->root, CONTEXT "monitoring_attrs/intervals/aggr_us", us);
	if (r == 0)
		r = wss_write_text(w->root, CONTEXT "monitoring_attrs/intervals/sample_us", us);
	if (r == 0)
		r = wss_write_text(w->root, CONTEXT "monitoring_attrs/nr_regions/max", most);
	return r ? r : wss_write_text(w->root, CONTEXT "monitoring_attrs/nr_regions/min", least);
}

static int put_all(struct wss *w, const struct damon *d, uint64_t window_ms)
{
	size_t regions = 0;
	char n[32];
	int r;

	snprintf(n, sizeof(n), "%zu", d->n);
	r = wss_write_text(w->root, CONTEXT "targets/nr_targets", n);
	if (r == 0)
		r = wss_write_text(w->root, CONTEXT "schemes/nr_schemes", n);
	for (size_t i = 0; i < d->n && r == 0; i++) {
		if (wss_cancelled(d->round[i]))
			return -ECANCELED;
		r = put_target(w, d->round[i]);
		if (r == 0)
			r = put_scheme(w, d->round[i]);
		regions += ((struct damon_sample *)d->round[i]->own)->regions;
	}
	return r ? r : put_attrs(w, window_ms, regions);
}

/* A process that is no more would have DAMON refuse them all. Was there one? */
static bool leave_out_ended(struct damon *d)
{
	bool found = false;

	for (size_t i = 0; i < d->n; i++) {
		if (!d->round[i] || !wss_ended(d->round[i]->pidfd))
			continue;
		d->round[i] = NULL;
		found = true;
	}
	return found;
}

static int switch_on(struct wss *w, const struct damon *d, uint64_t window_ms)
{
	int r = take(w);

	if (r == 0)
		r = put_all(w, d, window_ms);
	/* Numbers of processes become processes here: of those that live when wss_end() looks they were the right ones.
	 */
	if (r == 0)
		r = wss_write_text(w->root, ADMIN "0/state", "on");
	if (r < 0)
		give_back(w->root);
	return r;
}

static int start(struct wss *w, uint64_t window_ms, struct memoc_err *err)
{
	struct damon *d = w->own;
	uint64_t began = wss_cpu_ns();
	int r;

	leave_out_ended(d);
	do { /* thousands of files are written: one may end meanwhile */
		if (number(d) == 0)
			return 0;
		r = switch_on(w, d, window_ms);
	} while (r < 0 && r != -ECANCELED && leave_out_ended(d));
	if (r < 0)
		return failed(err, r, "cannot be started");
	uint64_t took = (wss_cpu_ns() - began) / d->n;
	for (size_t i = 0; i < d->n; i++)
		d->round[i]->cost_ns += took;
	d->on = true;
	return 0;
}

/* Of the kernel's thread, by its schedstat: ns. 0 where not known. */
static uint64_t kdamond_ns(const struct wss *w)
{
	char path[64], text[128];
	uint64_t pid;

	if (wss_read_number(w->root, ADMIN "0/pid", &pid) < 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%llu/schedstat", (unsigned long long)pid);
	if (wss_read_text(w->root, path, text, sizeof(text)) < 0)
		return 0;
	return strtoull(text, NULL, 10);
}

/*
 * The kernel answers this command when the window ends (or, where it has ended, at the end of the next): it is written
 * shortly before. It also waits, two windows at most, for the first access to a VM that has none.
 */
static int collect(struct wss *w, struct memoc_err *err)
{
	struct damon *d = w->own;
	char path[128];
	int r;

	if (!d->on)
		return 0;
	r = wss_write_text(w->root, ADMIN "0/state", "update_schemes_tried_bytes");
	/* The command succeeds also where the kdamond has ended, with its VMs or by abort_damon(): then nothing was
	 * counted. */
	if (r == 0 && holds(w->root, ADMIN "0/state", "off"))
		r = -ECANCELED;
	uint64_t ns = kdamond_ns(w);
	for (size_t i = 0; i < d->n && r == 0; i++) {
		struct damon_sample *own = d->round[i] ? d->round[i]->own : NULL;

		if (!own)
			continue;
		snprintf(path, sizeof(path), CONTEXT "schemes/%zu/tried_regions/total_bytes", own->place);
		r = wss_read_number(w->root, path, &own->accessed_bytes);
		own->collected = r == 0;
		d->round[i]->cost_ns += ns / d->n;
	}
	d->on = false;
	d->n = 0;
	int back = give_back(w->root);
	if (r < 0)
		return failed(err, r, "no result");
	return back < 0 ? failed(err, back, "cannot be stopped") : 0;
}

/* The command above comes back when the kdamond ends. */
static void abort_damon(struct wss *w)
{
	if (ours(w->root))
		wss_write_text(w->root, ADMIN "0/state", "off");
}

static int end(struct wss_sample *s, struct wss_reading *ret, struct memoc_err *err)
{
	const struct damon_sample *own = s->own;

	if (!own || !own->collected)
		return memoc_err_set(err, -EAGAIN, "DAMON had no result for it");
	uint64_t accessed = mul_div_u64(min_u64(own->accessed_bytes, s->ram.bytes), own->regions, s->ram.bytes);
	ret->wss_bytes = min_u64(own->accessed_bytes, s->ram.bytes);
	ret->error_bytes = (uint64_t)(wss_error_share(accessed, own->regions, s->ram.bytes / WSS_PAGE_BYTES) *
					      (double)s->ram.bytes +
				      0.5);
	ret->pages = own->regions;
	return 0;
}

const struct wss_ops wss_damon = {.kind = WSS_DAMON,
				  .rounds = true,
				  .marks = true,
				  .collect_after = 0.9,
				  .probe = probe,
				  .open = open_damon,
				  .close = close_damon,
				  .begin = begin,
				  .start = start,
				  .collect = collect,
				  .abort = abort_damon,
				  .end = end,
				  .clear = clear};
