/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/daemon/wss.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "controller/wss/estimator.h"

#define POOL_THREADS 1
#define POOL_THREADS_MAX 4
#define POOL_OVERDUE_MS 10000 /* a process that hangs in the kernel with its memory map locked holds up its own job */
#define PERIOD_WINDOWS 2      /* a VM is read each two windows at most */
#define GOOD_PERIODS 4	      /* and a reading is believed so long */
#define INTERVAL_PERIODS 10
#define GOOD_INTERVALS 2 /* or, where the budget allows no reading each period, so many of the times that it takes */
#define REOPEN_MS 300000 /* where nothing works, or it broke: perhaps it is another user who has gone by then */
#define COST_GUESS_NS 15000000
#define FREE_MS 2000
#define LATE_MS 1000	   /* and half a window: so much later than it was to end a window may end */
#define INSTEAD_READINGS 4 /* at most so many by the second back-end, before the better one is tried again */

/* One VM in a group. */
struct member {
	vm_id id;
	struct attach *attach;
	struct dom_facts facts;
	uint32_t pages;
	uint64_t overhead_bytes; /* of its QEMU; 0: not measured */
	uint64_t reckoned_ns, began_ms;
	uint64_t interval_ms;	   /* since it was read before; 0: never */
	uint64_t extra_ns;	   /* that no reading tells of: the map of its memory, a begin that failed */
	struct wss_sample *sample; /* between begin and end */
	struct wss_reading reading;
	int code;
	struct memoc_err err;
};

struct group {
	struct measuring *m;
	struct group *next;
	struct wss *wss;
	atomic_bool cancel;
	bool working;	       /* a worker has it */
	bool told_overdue;     /* and has it for too long, which was said */
	uint64_t submitted_ms; /* since when */
	uint64_t window_ms, begun_ms;
	int code; /* of what concerns them all */
	struct memoc_err err;
	ev_timer timer;
	size_t n;
	struct member list[];
};

struct measuring {
	struct daemon *d;
	struct workpool *pool;
	struct wss *wss;     /* NULL: none */
	struct wss *instead; /* lru, beside a better one: for VMs that the kernel reclaims from. NULL: none */
	char wanted[sizeof(((struct config *)NULL)->wss_backend)];
	bool opening, reopen;
	bool told_overdue;  /* the opening, which */
	uint64_t opened_ms; /* was begun then */
	uint64_t open_ms;   /* when to try; NEVER_MS: no need */
	unsigned failed;    /* groups in a row that the back-end could not measure at all */
	struct memoc_err why[WSS_BACKEND_END];
	struct wss_budget budget;
	struct group *groups;
};

/* ---- a back-end ---- */

struct opening {
	struct measuring *m;
	char wanted[sizeof(((struct config *)NULL)->wss_backend)];
	struct wss *old, *old_instead, *wss, *instead;
	struct memoc_err why[WSS_BACKEND_END];
};

static enum wss_backend backend_by_name(const char *name)
{
	for (enum wss_backend b = WSS_IDLE; b < WSS_BACKEND_END; b++)
		if (strcmp(wss_backend_name(b), name) == 0)
			return b;
	return WSS_NONE;
}

static void open_run(void *arg, void **worker)
{
	struct opening *o = arg;
	enum wss_backend wanted = backend_by_name(o->wanted);

	o->old = wss_close(o->old);
	o->old_instead = wss_close(o->old_instead);
	wss_clear_left("");
	if (strcmp(o->wanted, "auto") == 0) {
		struct memoc_err none;

		wss_open_best("", &o->wss, o->why);
		if (o->wss && wss_kind(o->wss) != WSS_LRU && wss_open("", WSS_LRU, &o->instead, &none) == 0)
			memoc_err_set(&o->why[WSS_LRU], 0,
				      "works: taken for VMs that the kernel reclaims from, which %s cannot judge",
				      wss_backend_name(wss_kind(o->wss)));
		return;
	}
	for (enum wss_backend b = WSS_IDLE; b < WSS_BACKEND_END; b++)
		memoc_err_set(&o->why[b], 0, "[wss] backend = %s", o->wanted);
	if (wanted != WSS_NONE && wss_open("", wanted, &o->wss, &o->why[wanted]) == 0)
		o->why[wanted].text[0] = '\0';
}

static void open_done(void *arg, bool cancelled)
{
	struct opening *o = arg;
	struct measuring *m = o->m;

	if (cancelled) {
		m->wss = o->old ? o->old : o->wss; /* measuring_free() closes them */
		m->instead = o->old_instead ? o->old_instead : o->instead;
		free(o);
		return;
	}
	m->opening = false;
	m->wss = o->wss;
	m->instead = o->instead;
	memcpy(m->why, o->why, sizeof(m->why));
	m->open_ms = m->wss || strcmp(o->wanted, "none") == 0 ? NEVER_MS : now_ms() + REOPEN_MS;
	if (m->wss)
		log_info("working sets are measured by %s", wss_backend_name(wss_kind(m->wss)));
	else if (strcmp(o->wanted, "none") != 0 && strcmp(o->wanted, "auto") != 0)
		log_warning("working sets cannot be measured by %s: %s", o->wanted,
			    o->why[backend_by_name(o->wanted)].text);
	free(o);
}

static void open_backend(struct measuring *m)
{
	struct opening *o = calloc(1, sizeof(*o));

	m->open_ms = now_ms() + REOPEN_MS;
	if (!o)
		return;
	o->m = m;
	o->old = m->wss;
	o->old_instead = m->instead;
	memcpy(o->wanted, m->wanted, sizeof(o->wanted));
	if (workpool_submit(m->pool, NULL, 0, open_run, open_done, o) < 0) {
		free(o);
		return;
	}
	m->wss = m->instead = NULL;
	m->opening = true;
	m->told_overdue = false;
	m->opened_ms = now_ms();
	m->reopen = false;
}

/* ---- groups ---- */

static bool measured(const struct measuring *m, vm_id id)
{
	for (const struct group *g = m->groups; g; g = g->next)
		for (size_t i = 0; i < g->n; i++)
			if (g->list[i].id == id)
				return true;
	return false;
}

static void group_free(struct group *g)
{
	struct measuring *m = g->m;

	for (struct group **p = &m->groups; *p; p = &(*p)->next) {
		if (*p != g)
			continue;
		*p = g->next;
		break;
	}
	ev_timer_stop(m->d->loop, &g->timer);
	for (size_t i = 0; i < g->n; i++) {
		wss_cancel(g->list[i].sample);
		attach_unref(g->list[i].attach);
	}
	free(g);
}

/* Once may be a limit that just came down. After that every other reading, then fewer, are tries of the better one. */
static void take_instead(struct entry *e, bool reclaimed)
{
	e->wss_reclaimed = reclaimed ? e->wss_reclaimed + 1 : 0;
	e->wss_instead = e->wss_reclaimed < 2 ? 0 : min_u64(1U << min_u64(e->wss_reclaimed - 2, 8), INSTEAD_READINGS);
}

/* same_ram() looks for what the XML told of at the begin: it does not see a DIMM more, or takes it for another reason.
 */
static void plugged_meanwhile(struct member *b, const struct entry *e)
{
	bool same = e->facts.max_bytes == b->facts.max_bytes && e->facts.ram_blocks == b->facts.ram_blocks;

	if (same || b->code == -ESRCH || b->code == -ECANCELED)
		return;
	b->code = memoc_err_set(&b->err, -EAGAIN, "its memory changed within the window: plugged or unplugged");
	b->reading = (struct wss_reading){.cost_ns = b->reading.cost_ns};
}

#define FAILED_MOST 5 /* groups in a row: then it is opened anew, or another one where `auto` finds that it cannot */

/* What the kernel refuses to whoever asks; not what is the matter with one VM. */
static bool refused(int code)
{
	return code == -EPERM || code == -EACCES || code == -EIO || code == -ENODEV || code == -EBADF;
}

static void back_end_works(struct group *g)
{
	struct measuring *m = g->m;
	bool any = false, broken = g->code < 0 && g->code != -ECANCELED;
	const char *why = g->err.text;

	for (size_t i = 0; i < g->n; i++) {
		any |= g->list[i].reading.known;
		if (broken || !refused(g->list[i].code))
			continue;
		broken = true;
		why = g->list[i].err.text;
	}
	if (g->wss != m->wss || (!any && !broken))
		return;
	m->failed = any ? 0 : m->failed + 1;
	if (m->failed < FAILED_MOST || now_ms() < m->opened_ms + REOPEN_MS)
		return;
	log_warning("working sets are not measured by %s any more: %s; it is opened anew",
		    wss_backend_name(wss_kind(m->wss)), why);
	m->failed = 0;
	m->reopen = true;
}

static void tell_core(struct group *g)
{
	struct measuring *m = g->m;
	uint64_t period_ms = PERIOD_WINDOWS * m->d->config.wss_window_ms;

	for (size_t i = 0; i < g->n; i++) {
		struct member *b = &g->list[i];
		struct entry *e = entry_by_id(m->d, b->id);
		struct event ev = {.type = EVENT_VM_WSS, .vm = b->id};

		if (e)
			plugged_meanwhile(b, e);
		ev.wss = b->reading;
		b->reading.cost_ns += b->extra_ns;
		wss_settle(&m->budget, b->reckoned_ns, b->reading.cost_ns);
		if (!e || !e->in_core || b->code == -ECANCELED)
			continue;
		if (m->instead && wss_kind(g->wss) != WSS_LRU)
			take_instead(e, b->code == -EBUSY);
		e->wss_cost_ns = b->reading.cost_ns;
		ev.wss.backend = wss_kind(g->wss);
		ev.wss.began_ms = b->began_ms;
		ev.wss.good_ms = max_u64(GOOD_PERIODS * period_ms, GOOD_INTERVALS * b->interval_ms);
		if (!ev.wss.known)
			snprintf(ev.wss.why, sizeof(ev.wss.why), "%.*s", (int)sizeof(ev.wss.why) - 1,
				 g->code < 0 ? g->err.text : b->err.text);
		daemon_post(m->d, ev);
	}
}

/* ---- workers ---- */

/* One that changed while it was read is read again, once. */
static int map_ram(struct member *b, struct guest_ram *ret)
{
	uint64_t before_ns = wss_cpu_ns();
	int r = proc_vm_ram_map(b->attach->proc, &b->facts, ret, &b->err);

	if (r == -EAGAIN)
		r = proc_vm_ram_map(b->attach->proc, &b->facts, ret, &b->err);
	b->extra_ns += wss_cpu_ns() - before_ns;
	return r;
}

static void begin_member(struct group *g, struct member *b)
{
	struct guest_ram ram = {0};

	b->began_ms = now_ms();
	b->code = map_ram(b, &ram);
	if (b->code < 0)
		return;
	const struct wss_target t = {.pid = proc_vm_pid(b->attach->proc),
				     .pidfd = proc_vm_pidfd(b->attach->proc),
				     .ram = &ram,
				     .cgroup_path = cgroup_vm_path(b->attach->cgroup),
				     .cgroup = b->attach->cgroup,
				     .memory = &b->attach->wss_memory,
				     .overhead_bytes = b->overhead_bytes,
				     .emulated = b->facts.tcg,
				     .pages = b->pages,
				     .cancel = &g->cancel};
	uint64_t before_ns = wss_cpu_ns();
	b->code = wss_begin(g->wss, &t, &b->sample, &b->err);
	if (b->code < 0)
		b->extra_ns += wss_cpu_ns() - before_ns;
	guest_ram_clear(&ram);
}

static void begin_run(void *arg, void **worker)
{
	struct group *g = arg;

	for (size_t i = 0; i < g->n; i++)
		begin_member(g, &g->list[i]);
	g->code = wss_start(g->wss, g->window_ms, &g->err);
	g->begun_ms = now_ms();
}

/* Memory that was plugged or unplugged in the window: the sample is of what is no more. */
static void same_ram(struct member *b, const struct guest_ram *before)
{
	struct guest_ram now = {0};

	b->code = map_ram(b, &now);
	bool same = now.bytes == before->bytes && now.n == before->n;
	for (size_t i = 0; i < now.n && same; i++) {
		const struct guest_ram_range *a = &now.list[i], *old = &before->list[i];
		same = a->start == old->start && a->end == old->end && a->shared == old->shared &&
		       a->offset == old->offset;
	}
	if (b->code == 0 && !same)
		b->code = memoc_err_set(&b->err, -EAGAIN, "its memory changed within the window: mapped anew");
	guest_ram_clear(&now);
}

static void end_member(struct member *b)
{
	struct wss_sample *s = b->sample;

	if (!s)
		return;
	same_ram(b, wss_sample_ram(s));
	b->sample = NULL;
	if (b->code < 0)
		wss_cancel(s);
	else
		b->code = wss_end(s, &b->reading, &b->err);
}

/*
 * What is touched in a longer time is more: nobody's working set of a window. DAMON has windows of its own, whenever it
 * is asked for the last.
 */
static void in_time(const struct group *g, struct member *b, uint64_t ended_ms)
{
	uint64_t took_ms = ended_ms - g->begun_ms;

	if (b->code < 0 || wss_kind(g->wss) == WSS_DAMON || took_ms <= g->window_ms / 2 * 3 + LATE_MS)
		return;
	b->code =
		memoc_err_set(&b->err, -EAGAIN, "its window became %.1f s long: memocd, or who reads, was kept waiting",
			      (double)took_ms / 1000);
	b->reading = (struct wss_reading){.cost_ns = b->reading.cost_ns};
}

static void end_run(void *arg, void **worker)
{
	struct group *g = arg;

	if (atomic_load(&g->cancel)) { /* in mid-window: another back-end is wanted */
		for (size_t i = 0; i < g->n; i++) {
			wss_cancel(g->list[i].sample);
			g->list[i].sample = NULL;
			g->list[i].code = -ECANCELED;
		}
		return;
	}
	g->code = wss_collect(g->wss, &g->err);
	uint64_t collected_ms = now_ms();
	for (size_t i = 0; i < g->n; i++) {
		end_member(&g->list[i]);
		in_time(g, &g->list[i], wss_in_rounds(g->wss) ? collected_ms : now_ms());
	}
}

/* ---- loop ---- */

static void end_done(void *arg, bool cancelled)
{
	struct group *g = arg;

	g->working = false;
	if (!cancelled) {
		back_end_works(g);
		tell_core(g);
	}
	group_free(g);
}

/* refault lowers limits, as the VM's own jobs do: in their order. Others need none. */
static int submit(struct group *g, work_run_fn *run, work_done_fn *done)
{
	struct measuring *m = g->m;
	struct entry *e = entry_by_id(m->d, g->list[0].id);
	bool limits = wss_kind(g->wss) == WSS_REFAULT;

	if (limits && !e)
		return -ENOENT;
	g->working = true;
	g->told_overdue = false;
	g->submitted_ms = now_ms();
	int r = limits ? workpool_submit(m->d->kernel_pool, e->kernel_lane, 0, run, done, g)
		       : workpool_submit(m->pool, NULL, 0, run, done, g);
	g->working = r == 0;
	return r;
}

static void window_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct group *g = w->data;

	g->m->d->wakeups[WAKEUP_WORKING_SET]++;
	if (submit(g, end_run, end_done) < 0)
		group_free(g);
}

static void begin_done(void *arg, bool cancelled)
{
	struct group *g = arg;
	bool any = false;

	g->working = false;
	for (size_t i = 0; i < g->n; i++)
		any |= g->list[i].sample != NULL;
	if (cancelled) {
		group_free(g);
	} else if (g->code < 0 || !any) {
		back_end_works(g);
		tell_core(g);
		group_free(g);
	} else {
		double wait_s = (double)g->window_ms * wss_collect_after(g->wss) / 1000;
		ev_timer_set(&g->timer, wait_s, 0.);
		ev_timer_start(g->m->d->loop, &g->timer);
	}
}

static void begin_group(struct measuring *m, struct wss *wss, const struct wss_wish *wishes, size_t n)
{
	struct daemon *d = m->d;
	struct group *g = calloc(1, sizeof(*g) + n * sizeof(g->list[0]));

	if (!g)
		return;
	g->m = m;
	g->wss = wss;
	g->window_ms = d->config.wss_window_ms;
	atomic_init(&g->cancel, false);
	ev_timer_init(&g->timer, window_cb, 0., 0.);
	g->timer.data = g;
	for (size_t i = 0; i < n; i++) {
		struct entry *e = entry_by_id(d, wishes[i].vm);
		const struct vm *vm = core_vm(d->core, e->id);
		struct member *b = &g->list[g->n++];
		uint64_t all = e->facts.max_bytes;
		bool known = vm_wss_known(vm, now_ms());
		double share = known ? (double)vm->wss.wss_bytes / (double)all : 0.5;
		double error = known ? (double)vm->wss.error_bytes / (double)all : 0.5;

		b->id = e->id;
		b->attach = attach_ref(e->attach);
		b->facts = e->facts;
		b->overhead_bytes = vm->overhead_measured ? vm->overhead_bytes : 0;
		b->reckoned_ns = wishes[i].cost_ns;
		b->pages = wss_pages_for(share, error, d->config.wss_target_error, all / 4096, d->config.wss_pages);
		/* Longer ones are not the budget's doing: it was paused, or there was no back-end. */
		b->interval_ms = e->wss_asked_ms ? min_u64(now_ms() - e->wss_asked_ms,
							   INTERVAL_PERIODS * PERIOD_WINDOWS * d->config.wss_window_ms)
						 : 0;
		e->wss_asked_ms = now_ms();
	}
	g->next = m->groups;
	m->groups = g;
	if (submit(g, begin_run, begin_done) < 0)
		group_free(g);
}

/* Runs, is known from its XML, and is in a state in which what it touches says something. */
static bool worth_measuring(const struct measuring *m, const struct entry *e)
{
	const struct vm *vm = e->in_core && e->attach && e->has_xml ? core_vm(m->d->core, e->id) : NULL;

	return vm && e->running && !e->paused && vm->state >= VM_STEADY && vm->state <= VM_GROWING_BALLOON &&
	       !measured(m, e->id);
}

/* Why it is not measured, however long one waits; NULL where it is. */
static const char *not_measured_why(const struct measuring *m, const struct entry *e)
{
	const struct vm *vm = core_vm(m->d->core, e->id);

	if (!vm)
		return NULL;
	if (e->facts.ineligible == DOM_HUGEPAGES)
		return "its memory is reserved huge pages, which the kernel does not track";
	if (vm->state == VM_FIXED)
		return "not measured: it is never resized";
	if (!e->attach)
		return "its process is not known";
	return wss_kind(m->wss) == WSS_REFAULT ? core_probe_forbidden_why(m->d->core, vm) : NULL;
}

/* What a reading may show: all that a VM has where its guest says nothing or asks for more, else what it could give. */
static uint64_t gain_of(const struct measuring *m, const struct vm *vm)
{
	bool told = vm_stats_fresh(vm, core_config(m->d->core), now_ms());

	return !told || vm->needy ? vm_size_bytes(vm) : vm->greedy_bytes;
}

/* So that `memoc explain` can say why nothing is known. */
static void tell_why(struct measuring *m, struct entry *e, enum wss_backend backend, const char *why)
{
	struct event ev = {.type = EVENT_VM_WSS, .vm = e->id, .wss = {.backend = backend, .began_ms = now_ms()}};

	snprintf(ev.wss.why, sizeof(ev.wss.why), "%s", why);
	daemon_post(m->d, ev);
}

/* Whether it is measured; if not, why is told once. */
static bool tell_not_measured(struct measuring *m, struct entry *e)
{
	const char *why = e->in_core ? not_measured_why(m, e) : NULL;

	if (why && why != e->wss_not_why)
		tell_why(m, e, wss_kind(m->wss), why);
	e->wss_not_why = why;
	return !why;
}

static void choose(struct measuring *m)
{
	struct daemon *d = m->d;
	size_t n = 0, most = core_vm_count(d->core);
	struct wss_wish *wishes AUTO_FREE = malloc((most + 1) * sizeof(*wishes));
	uint64_t now = now_ms(), period_ms = PERIOD_WINDOWS * d->config.wss_window_ms;

	for (struct entry *e = d->entries; e && wishes && n < most; e = e->next) {
		if (!tell_not_measured(m, e) || !worth_measuring(m, e))
			continue;
		wishes[n++] = (struct wss_wish){.vm = e->id,
						.age_ms = e->wss_asked_ms ? now - e->wss_asked_ms : UINT64_MAX,
						.gain_bytes = gain_of(m, core_vm(d->core, e->id)),
						.cost_ns = e->wss_cost_ns ? e->wss_cost_ns : COST_GUESS_NS};
	}
	size_t chosen = n ? wss_choose(&m->budget, d->config.wss_budget, period_ms, now, wishes, n) : 0;
	size_t round = 0;
	for (size_t i = 0; i < chosen; i++) {
		struct entry *e = entry_by_id(d, wishes[i].vm);
		bool instead = m->instead && e->wss_instead;

		e->wss_instead -= instead;
		if (instead)
			begin_group(m, m->instead, &wishes[i], 1);
		else if (wss_in_rounds(m->wss))
			wishes[round++] = wishes[i];
		else
			begin_group(m, m->wss, &wishes[i], 1);
	}
	if (round)
		begin_group(m, m->wss, wishes, round);
}

/* Once a VM. */
static void tell_none(struct measuring *m)
{
	bool off = strcmp(m->wanted, "none") == 0;

	for (struct entry *e = m->d->entries; e; e = e->next) {
		if (!e->in_core || e->wss_none_told)
			continue;
		e->wss_none_told = true;
		tell_why(m, e, WSS_NONE,
			 off ? "[wss] backend = none" : "this host can measure none: `memoc host` says why");
	}
}

/* As below, of what takes a back-end into use: kernel threads that a memocd before left are waited for. */
static void tell_overdue_opening(struct measuring *m, uint64_t now)
{
	if (!m->opening || m->told_overdue || now < m->opened_ms + POOL_OVERDUE_MS)
		return;
	m->told_overdue = true;
	log_warning("working sets are not measured: what takes a back-end into use hangs in the kernel");
	for (struct entry *e = m->d->entries; e; e = e->next)
		if (e->in_core)
			tell_why(m, e, WSS_NONE, "taking a back-end into use hangs in the kernel");
}

static bool round_is_on(const struct measuring *m)
{
	for (const struct group *g = m->groups; g; g = g->next)
		if (g->wss == m->wss && wss_in_rounds(g->wss))
			return true;
	return false;
}

/* A reader that hangs in the kernel cannot be helped, but its VMs are not to be without readings and nobody told. */
static void tell_overdue(struct measuring *m, uint64_t now)
{
	for (struct group *g = m->groups; g; g = g->next) {
		uint64_t waits_ms = wss_in_rounds(g->wss) ? 3 * g->window_ms : 0; /* wss_collect() may */

		if (!g->working || g->told_overdue || now < g->submitted_ms + waits_ms + POOL_OVERDUE_MS)
			continue;
		g->told_overdue = true;
		for (size_t i = 0; i < g->n; i++) {
			struct entry *e = entry_by_id(m->d, g->list[i].id);

			char why[sizeof(((struct wss_reading *)NULL)->why)];

			if (!e || !e->in_core)
				continue;
			snprintf(why, sizeof(why), "its reader hangs in the kernel, for %llu s by now",
				 (unsigned long long)((now - g->submitted_ms) / 1000));
			log_warning("%s: working set: %s", e->facts.name, why);
			tell_why(m, e, wss_kind(g->wss), why);
		}
	}
}

void measuring_tick(struct measuring *m)
{
	uint64_t now = now_ms();

	tell_overdue(m, now);
	tell_overdue_opening(m, now);
	if (m->opening)
		return;
	if ((m->reopen && !m->groups) || (!m->wss && now >= m->open_ms))
		open_backend(m);
	else if (!m->wss)
		tell_none(m);
	else if (!m->reopen && !round_is_on(m))
		choose(m);
}

void measuring_configure(struct measuring *m)
{
	struct group *next;

	if (strcmp(m->wanted, m->d->config.wss_backend) == 0)
		return;
	snprintf(m->wanted, sizeof(m->wanted), "%s", m->d->config.wss_backend);
	m->reopen = true;
	for (struct group *g = m->groups; g; g = next) {
		next = g->next;
		atomic_store(&g->cancel, true);
		if (g->working)
			continue;
		ev_timer_stop(m->d->loop, &g->timer);
		if (submit(g, end_run, end_done) < 0) /* what it has in the kernel is given back by a worker */
			group_free(g);
	}
	for (struct entry *e = m->d->entries; e; e = e->next) {
		e->wss_none_told = false;
		e->wss_not_why = NULL;
	}
}

void measuring_count(struct measuring *m, struct workpool_counts *counts)
{
	workpool_count(m->pool, counts);
}

enum wss_backend measuring_backend(const struct measuring *m)
{
	return m->wss ? wss_kind(m->wss) : WSS_NONE;
}

const struct memoc_err *measuring_why(const struct measuring *m)
{
	return m->why;
}

int measuring_new(struct daemon *d, struct measuring **ret)
{
	struct measuring *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return -ENOMEM;
	m->d = d;
	snprintf(m->wanted, sizeof(m->wanted), "%s", d->config.wss_backend);
	r = workpool_new(d->loop, "wss", POOL_THREADS, POOL_THREADS_MAX, POOL_OVERDUE_MS, NULL, NULL, &m->pool);
	if (r < 0) {
		free(m);
		return r;
	}
	*ret = m;
	return 0;
}

struct measuring *measuring_free(struct measuring *m)
{
	struct group *next;
	bool hangs = false;

	if (!m)
		return NULL;
	for (struct group *g = m->groups; g; g = g->next) {
		atomic_store(&g->cancel, true);
		if (g->working && !ev_is_active(&g->timer))
			wss_abort(g->wss);
	}
	workpool_free(m->pool, FREE_MS);
	for (struct group *g = m->groups; g; g = next) {
		next = g->next;
		hangs |= g->working;
		if (!g->working)
			group_free(g);
	}
	if (hangs) /* a worker that does not come back has it still */
		return NULL;
	wss_close(m->wss);
	wss_close(m->instead);
	free(m);
	return NULL;
}
