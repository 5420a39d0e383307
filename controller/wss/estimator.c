/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/wss/backend.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

static const struct wss_ops *const backends[] = {&wss_idle, &wss_damon, &wss_lru, &wss_refault, &wss_idle_host};

static const struct wss_ops *ops_of(enum wss_backend kind)
{
	for (size_t i = 0; i < ARRAY_SIZE(backends); i++)
		if (backends[i]->kind == kind)
			return backends[i];
	return NULL;
}

int wss_probe(const char *root, enum wss_backend kind, struct memoc_err *why)
{
	const struct wss_ops *ops = ops_of(kind);

	if (!ops)
		return memoc_err_set(why, -EINVAL, "no such back-end");
	return ops->probe(root, why);
}

int wss_open(const char *root, enum wss_backend kind, struct wss **ret, struct memoc_err *err)
{
	const struct wss_ops *ops = ops_of(kind);
	struct wss *w;
	int r = wss_probe(root, kind, err);

	if (r < 0)
		return r;
	if (sysconf(_SC_PAGESIZE) != WSS_PAGE_BYTES)
		return memoc_err_set(err, -EOPNOTSUPP, "pages of %ld bytes: only 4096 are known here",
				     sysconf(_SC_PAGESIZE));
	w = calloc(1, sizeof(*w));
	if (w)
		w->root = strdup(root);
	if (!w || !w->root) {
		free(w);
		return memoc_err_set(err, -ENOMEM, "out of memory");
	}
	w->ops = ops;
	uint64_t seed = wss_cpu_ns();
	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) < 0)
		seed ^= (uint64_t)(uintptr_t)w; /* early at boot: which pages are taken need not be a secret */
	atomic_init(&w->seed, seed);
	r = ops->open ? ops->open(w, err) : 0;
	if (r < 0) {
		free(w->root);
		free(w);
		return r;
	}
	*ret = w;
	return 0;
}

/*
 * In the order in which they are trusted. refault is not among them: it takes memory from VMs in order to learn, and an
 * upper bound is all that it finds most of the time. Nor is idle-host, which idle is better than wherever it works.
 */
static const enum wss_backend preferred[] = {WSS_IDLE, WSS_DAMON, WSS_LRU};

void wss_clear_left(const char *root)
{
	wss_damon_clear_left(root);
}

void wss_open_best(const char *root, struct wss **ret, struct memoc_err *why)
{
	struct wss *best = NULL;

	for (size_t i = 0; i < WSS_BACKEND_END; i++)
		why[i].text[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(preferred); i++) {
		enum wss_backend kind = preferred[i];
		int r = best ? wss_probe(root, kind, &why[kind]) : wss_open(root, kind, &best, &why[kind]);

		if (r == 0 && kind != best->ops->kind)
			memoc_err_set(&why[kind], 0, "seems to work, but %s is more exact",
				      wss_backend_name(best->ops->kind));
	}
	if (wss_probe(root, WSS_REFAULT, &why[WSS_REFAULT]) == 0)
		memoc_err_set(
			&why[WSS_REFAULT], 0,
			"works, but takes memory from VMs in order to learn: only where [wss] backend asks for it");
	if (wss_probe(root, WSS_IDLE_HOST, &why[WSS_IDLE_HOST]) == 0)
		memoc_err_set(&why[WSS_IDLE_HOST], 0,
			      "works, but counts QEMU's own memory: only where [wss] backend asks for it");
	*ret = best;
}

struct wss *wss_close(struct wss *w)
{
	if (!w)
		return NULL;
	if (w->ops->close)
		w->ops->close(w);
	free(w->root);
	free(w);
	return NULL;
}

enum wss_backend wss_kind(const struct wss *w)
{
	return w->ops->kind;
}

bool wss_in_rounds(const struct wss *w)
{
	return w->ops->rounds;
}

double wss_collect_after(const struct wss *w)
{
	return w->ops->collect_after;
}

static int copy_target(struct wss_sample *s, const struct wss_target *t)
{
	const struct guest_ram *ram = t->ram;

	s->pid = t->pid;
	s->pidfd = t->pidfd;
	s->cancel = t->cancel;
	s->cgroup = t->cgroup;
	s->overhead_bytes = t->overhead_bytes;
	s->memory = t->memory;
	s->ram = (struct guest_ram){.n = ram->n, .bytes = ram->bytes};
	s->ram.list = malloc((ram->n + 1) * sizeof(*ram->list));
	if (s->ram.list)
		memcpy(s->ram.list, ram->list, ram->n * sizeof(*ram->list));
	s->cgroup_path = t->cgroup_path ? strdup(t->cgroup_path) : NULL;
	return s->ram.list && !s->cgroup_path == !t->cgroup_path ? 0 : -ENOMEM;
}

const struct guest_ram *wss_sample_ram(const struct wss_sample *s)
{
	return &s->ram;
}

void wss_cancel(struct wss_sample *s)
{
	if (!s)
		return;
	if (s->own)
		s->ops->clear(s);
	guest_ram_clear(&s->ram);
	free(s->cgroup_path);
	free(s);
}

int wss_begin(struct wss *w, const struct wss_target *t, struct wss_sample **ret, struct memoc_err *err)
{
	uint64_t began = wss_cpu_ns();
	struct wss_sample *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	s->wss = w;
	s->ops = w->ops;
	s->seed = atomic_fetch_add(&w->seed, UINT64_C(0x9e3779b97f4a7c15)) | 1;
	r = copy_target(s, t);
	if (r < 0)
		memoc_err_set(err, r, "out of memory");
	if (r == 0 && w->ops->marks)
		r = aging_begin(w, t, &s->aging, err);
	if (r == 0)
		r = w->ops->begin(w, t, s, err);
	/* Whatever was opened by its number belongs to it only if it is still there now. */
	if (r == 0 && wss_ended(t->pidfd))
		r = memoc_err_set(err, -ESRCH, "process %d has ended", (int)t->pid);
	if (r < 0) {
		wss_cancel(s);
		return r;
	}
	s->cost_ns += wss_cpu_ns() - began;
	*ret = s;
	return 0;
}

int wss_start(struct wss *w, uint64_t window_ms, struct memoc_err *err)
{
	return w->ops->start ? w->ops->start(w, window_ms, err) : 0;
}

int wss_collect(struct wss *w, struct memoc_err *err)
{
	return w->ops->collect ? w->ops->collect(w, err) : 0;
}

void wss_abort(struct wss *w)
{
	if (w->ops->abort)
		w->ops->abort(w);
}

static int still_good(const struct wss_sample *s, struct wss_reading *reading, struct memoc_err *err)
{
	double share;
	int r = aging_end(s, &s->aging, &share, err);

	if (r == 0)
		reading->error_bytes =
			min_u64(reading->error_bytes + (uint64_t)(share * (double)s->ram.bytes), s->ram.bytes);
	return r;
}

int wss_end(struct wss_sample *s, struct wss_reading *ret, struct memoc_err *err)
{
	uint64_t began = wss_cpu_ns();
	struct wss_reading reading = {.known = true, .backend = s->ops->kind};
	int r = 0;

	if (wss_ended(s->pidfd))
		r = memoc_err_set(err, -ESRCH, "process %d has ended", (int)s->pid);
	if (r == 0)
		r = s->ops->end(s, &reading, err);
	if (r == 0 && s->ops->marks)
		r = still_good(s, &reading, err);
	if (r < 0) /* what it cost is as true */
		reading = (struct wss_reading){.backend = s->ops->kind};
	reading.cost_ns = s->cost_ns + wss_cpu_ns() - began;
	wss_cancel(s);
	*ret = reading;
	return r;
}
