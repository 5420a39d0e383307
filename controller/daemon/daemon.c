/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The loop: ticks, timers, signals, start and end. */
#include "controller/daemon/advice.h"
#include "controller/daemon/control.h"
#include "controller/daemon/recorder.h"
#include "controller/daemon/wss.h"
#include "controller/host/evglue.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>

/* ---- stepping the core ---- */

static void arm_wake(struct daemon *d)
{
	uint64_t at = core_next_wakeup_ms(d->core), now = now_ms();
	ev_timer_stop(d->loop, &d->wake_timer);
	if (at == NEVER_MS)
		return;
	/* Rounded up by a millisecond: waking a fraction too early would only mean waking twice. */
	ev_timer_set(&d->wake_timer, (double)sub_sat_u64(at, now) / 1000 + 0.001, 0.);
	ev_timer_start(d->loop, &d->wake_timer);
}

static bool room_for_effects(struct daemon *d)
{
	size_t want = core_effects_max(d->core);
	if (want <= d->effects.capacity)
		return true;
	struct effect *list = realloc(d->effects.list, want * sizeof(*list));
	if (!list)
		return false;
	d->effects.list = list;
	d->effects.capacity = want;
	return true;
}

static void step(struct daemon *d, struct event *ev)
{
	if (!room_for_effects(d)) {
		log_error("out of memory: an event was dropped");
		return;
	}
	ev->now_ms = now_ms();
	int r = core_step(d->core, ev, &d->effects);
	recorder_event(d->recorder, ev, r);
	if (r == 0 && ev->type == EVENT_TICK)
		d->decided_ms = ev->now_ms;
	if (r < 0 && r != -ENOENT)
		log_error("event %d was refused by the core: %s", ev->type, strerror(-r));
	if (r == 0)
		effects_carry_out(d);
	else if (ev->type == EVENT_VM_STOPPING && entry_by_id(d, ev->vm)) /* the core never took it */
		entry_free(entry_by_id(d, ev->vm));
	struct entry *e = r == 0 && ev->vm ? entry_by_id(d, ev->vm) : NULL;
	if (e)
		poll_rearm(e);
	if (ev->type == EVENT_TICK)
		for (e = d->entries; e; e = e->next)
			poll_rearm(e);
	bool reading = ev->type == EVENT_VM_SAMPLE || ev->type == EVENT_VM_STATS || ev->type == EVENT_VM_RESIDENCY ||
		       ev->type == EVENT_VM_WSS || ev->type == EVENT_VM_ADVICE;
	if ((ev->type == EVENT_VM_MIGRATING_OUT || ev->type == EVENT_VM_ADVICE) &&
	    d->effects.n) /* a limit that is to be taken back may have been raised */
		keep_soon(d);
	else if (!reading && (d->effects.n || ev->type == EVENT_VM_RESULT))
		keep_mark(d);
}

void daemon_post(struct daemon *d, struct event ev)
{
	if (d->closing)
		return;
	if (d->queue_n == d->queue_capacity) {
		size_t capacity = d->queue_capacity ? d->queue_capacity * 2 : 64;
		struct event *queue = realloc(d->queue, capacity * sizeof(*queue));
		if (!queue) {
			log_error("out of memory: an event was dropped");
			return;
		}
		d->queue = queue;
		d->queue_capacity = capacity;
	}
	d->queue[d->queue_n++] = ev;
	if (d->draining)
		return;
	d->draining = true;
	for (size_t i = 0; i < d->queue_n; i++) {
		struct event next = d->queue[i];
		step(d, &next);
	}
	d->queue_n = 0;
	d->draining = false;
	arm_wake(d);
	if (d->control)
		control_after_step(d->control);
}

/* ---- timers and signals ---- */

static void tick_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct daemon *d = w->data;
	struct event ev = {.type = EVENT_TICK};
	d->wakeups[WAKEUP_TICK]++;
	poll_samples(d);
	if (proc_host_read(d->proc_host, &ev.host) < 0)
		ev.host = *core_host(d->core); /* what was read last is nearer the truth than nothing */
	daemon_post(d, ev);
	measuring_tick(d->measuring);
}

static void watchdog_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	job_watchdog(w->data);
}

/* Half of what systemd waits, whatever the policy's interval is. */
static void arm_watchdog(struct daemon *d)
{
	uint64_t usec = 0;
	ev_timer_init(&d->watchdog_timer, watchdog_cb, 0., 0.);
	d->watchdog_timer.data = d;
	if (sd_watchdog_enabled(0, &usec) <= 0)
		return;
	ev_timer_set(&d->watchdog_timer, 0., (double)usec / 2e6);
	ev_timer_start(d->loop, &d->watchdog_timer);
}

static void wake_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct daemon *d = w->data;
	d->wakeups[WAKEUP_TIMER]++;
	daemon_post(d, (struct event){.type = EVENT_TIMER});
}

static void state_cb(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct daemon *d = w->data;
	d->wakeups[WAKEUP_STATE_FILE]++;
	keep_write(d);
}

/* Once a turn, after sleeping: memocd is to sleep unless there is something to do, and says how often it did not. */
static void invoke_cb(struct ev_loop *loop)
{
	struct daemon *d = ev_userdata(loop);
	d->loop_wakeups++;
	if (!ev_pending_count(loop))
		d->loop_for_nothing++;
	ev_invoke_pending(loop);
}

static void term_cb(struct ev_loop *loop, ev_signal *w, int revents)
{
	ev_break(loop, EVBREAK_ALL);
}

static void arm_tick(struct daemon *d)
{
	double interval_s = (double)d->config.core.interval_ms / 1000;
	ev_timer_stop(d->loop, &d->tick_timer);
	ev_timer_set(&d->tick_timer, interval_s, interval_s);
	ev_timer_start(d->loop, &d->tick_timer);
}

static int load_config(struct daemon *d, struct config *ret, struct config_setting **ret_settings, size_t *ret_n,
		       struct memoc_err *err)
{
	const struct options *o = d->options;
	struct config c;
	struct host_sample host;
	int r = config_load(o->config_path, o->sets, o->n_sets, &c, ret_settings, ret_n, err);
	if (r < 0)
		return r;
	r = proc_host_read(d->proc_host, &host);
	if (r == 0)
		r = config_resolve(&c, host.mem_total_bytes, err);
	if (r < 0) {
		free(*ret_settings);
		*ret_settings = NULL;
		return r;
	}
	c.core.observe = o->observe;
	*ret = c;
	return 0;
}

static enum log_level log_level_of(const struct daemon *d)
{
	if (d->options->log_level_given)
		return d->options->log_level;
	return d->config.log_level_set ? d->config.log_level : LOG_LEVEL_INFO;
}

/* All or nothing: a bad file is refused whole and what runs stays. */
static void reload_cb(struct ev_loop *loop, ev_signal *w, int revents)
{
	struct daemon *d = w->data;
	struct config c;
	struct config_setting *settings = NULL;
	size_t n = 0;
	struct memoc_err err = {""};
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)now_ms() * 1000);
	if (load_config(d, &c, &settings, &n, &err) < 0) {
		struct log_fields fields = {.message_id = MSG_CONFIG_REFUSED, .reason = err.text};
		log_fields(LOG_LEVEL_ERROR, &fields, "configuration refused, the old one stays: %s", err.text);
	} else {
		free(d->settings);
		d->settings = settings;
		d->n_settings = n;
		d->config = c;
		log_set_level(log_level_of(d));
		if (ring_resize(d->ring, c.events_kept) < 0)
			log_warning("out of memory: `memoc events` looks back as far as before");
		arm_tick(d);
		recorder_configure(d->recorder);
		measuring_configure(d->measuring);
		daemon_post(d, (struct event){.type = EVENT_CONFIG, .config = &d->config.core});
		log_notice("configuration reloaded");
	}
	sd_notify(0, "READY=1");
}

static void overdue(void *lane_user, bool flag)
{
	struct entry *e = lane_user; /* NULL: of VMs that are off */
	if (e && e->in_core)
		daemon_post(e->daemon, (struct event){.type = EVENT_VM_QUARANTINE, .vm = e->id, .flag = flag});
}

static void overdue_kernel(void *lane_user, bool flag)
{
	struct entry *e = lane_user;
	log_debug("%s: a cgroup write %s", e->facts.name, flag ? "takes long" : "came back");
}

/* ---- start and end ---- */

static int make_dir(const char *path, struct memoc_err *err)
{
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return memoc_err_set(err, -errno, "%s: cannot be created: %m; create it or name another", path);
	return 0;
}

/* Two memocds with one state would fight over the same VMs. */
static int lock_state(struct daemon *d, struct memoc_err *err)
{
	char path[512];
	snprintf(path, sizeof(path), "%s/lock", d->options->state_dir);
	d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->lock_fd < 0)
		return memoc_err_set(err, -errno, "%s: cannot be opened: %m", path);
	if (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return memoc_err_set(err, -EBUSY, "%s: locked: another memocd uses this state directory; stop it first",
				     path);
	return 0;
}

static int open_host(struct daemon *d, struct memoc_err *err)
{
	int r = proc_host_open("", &d->proc_host, err);
	if (r < 0)
		return r;
	if (load_config(d, &d->config, &d->settings, &d->n_settings, err) < 0)
		return DAEMON_NOT_CONFIGURED;
	log_set_level(log_level_of(d));
	r = cgroup_setup(&d->cgroup_version, err);
	if (r == 0)
		r = make_dir(d->options->state_dir, err);
	if (r == 0)
		r = make_dir(d->options->run_dir, err);
	if (r == 0)
		r = lock_state(d, err);
	return r == 0 ? keep_load(d, err) : r;
}

#define VIRT_THREADS 3
#define VIRT_THREADS_MAX 16 /* under libvirtd's max_workers of 20: hung monitors must not eat all of them */
#define VIRT_OVERDUE_MS 3000
#define KERNEL_THREADS 2
#define KERNEL_THREADS_MAX 8
#define KERNEL_OVERDUE_MS 10000
#define HOUSE_THREADS_MAX 3 /* a disk that hangs holds up the state and the recording, but not the watchdog */

static int open_core(struct daemon *d, struct memoc_err *err)
{
	int r = core_new(&d->config.core, &d->core);
	if (r == 0)
		r = ring_new(d->config.events_kept, &d->ring);
	if (r == 0)
		r = workpool_new(d->loop, "virt", VIRT_THREADS, VIRT_THREADS_MAX, VIRT_OVERDUE_MS, jobs_worker_fini,
				 overdue, &d->virt_pool);
	if (r == 0)
		r = work_lane_new(d->virt_pool, NULL, &d->off_lane);
	if (r == 0)
		r = workpool_new(d->loop, "kernel", KERNEL_THREADS, KERNEL_THREADS_MAX, KERNEL_OVERDUE_MS, NULL,
				 overdue_kernel, &d->kernel_pool);
	if (r == 0)
		r = workpool_new(d->loop, "house", 1, HOUSE_THREADS_MAX, KERNEL_OVERDUE_MS, NULL, NULL, &d->house_pool);
	if (r == 0)
		r = recorder_new(d, &d->recorder);
	if (r == 0)
		r = measuring_new(d, &d->measuring);
	if (r == 0)
		r = advising_new(d, &d->advising);
	if (r < 0)
		return memoc_err_set(err, r, "cannot start: %s", strerror(-r));
	r = control_new(d, &d->control, err);
	if (r < 0)
		return r;
	r = evglue_register(d->loop);
	if (r == 0)
		r = virt_events_new(d->loop, d->options->uri, link_event, d, &d->link);
	return r < 0 ? memoc_err_set(err, r, "cannot listen to libvirt's events: %s", strerror(-r)) : 0;
}

static void start_watchers(struct daemon *d)
{
	ev_timer_init(&d->tick_timer, tick_cb, 0., 0.);
	ev_timer_init(&d->wake_timer, wake_cb, 0., 0.);
	ev_timer_init(&d->watch_timer, poll_watch_cb, 0., 0.);
	ev_timer_init(&d->state_timer, state_cb, 0., 0.);
	ev_signal_init(&d->sig_term, term_cb, SIGTERM);
	ev_signal_init(&d->sig_int, term_cb, SIGINT);
	ev_signal_init(&d->sig_hup, reload_cb, SIGHUP);
	d->tick_timer.data = d->wake_timer.data = d->watch_timer.data = d->state_timer.data = d->sig_hup.data = d;
	ev_signal_start(d->loop, &d->sig_term);
	ev_signal_start(d->loop, &d->sig_int);
	ev_signal_start(d->loop, &d->sig_hup);
	arm_tick(d);
	arm_watchdog(d);
	tick_cb(d->loop, &d->tick_timer, 0); /* nothing is decided without a look at the host */
}

/* on_exit = open: whoever stops memocd for good wants no limit of its left behind. */
static void open_limits(struct daemon *d)
{
	for (struct entry *e = d->entries; e; e = e->next) {
		const struct vm *vm = e->in_core ? core_vm(d->core, e->id) : NULL;
		bool ours = vm && (vm->limit_ours || vm->limit_pending);
		uint64_t now_bytes;
		struct memoc_err err = {""};
		if (ours && e->attach &&
		    cgroup_vm_set_limit(e->attach->cgroup, LIMIT_NONE, CGROUP_METHOD_AUTO, 0, &now_bytes, &err) < 0)
			log_warning("%s: limit could not be opened: %s", e->facts.name, err.text);
	}
}

static void close_daemon(struct daemon *d)
{
	bool started = d->core && d->link;
	d->closing = true; /* results that still come in change nothing any more */
	d->link = virt_events_free(d->link);
	d->virt_pool = d->virt_pool ? workpool_free(d->virt_pool, 1000) : NULL;
	d->measuring = measuring_free(d->measuring);
	d->advising = advising_free(d->advising);
	d->kernel_pool = d->kernel_pool ? workpool_free(d->kernel_pool, 5000) : NULL;
	d->house_pool = d->house_pool ? workpool_free(d->house_pool, 5000) : NULL;
	d->recorder = recorder_free(d->recorder);
	d->control = control_free(d->control);
	if (started && d->config.on_exit == ON_EXIT_OPEN && !d->config.core.observe)
		open_limits(d);
	if (started)
		keep_now(d);
	entries_free(d);
	work_lane_free(d->off_lane);
	state_clear(&d->remembered);
	d->ring = ring_free(d->ring);
	d->core = core_free(d->core);
	d->proc_host = proc_host_close(d->proc_host);
	free(d->effects.list);
	free(d->queue);
	free(d->settings);
	if (d->lock_fd >= 0)
		close(d->lock_fd);
}

int daemon_run(const struct options *options, struct memoc_err *err)
{
	struct daemon d = {.options = options, .lock_fd = -1, .started_ms = now_ms(), .list_again_ms = NEVER_MS};
	/* Few arenas and prompt trimming: memocd's own memory is part of what it saves (8 MiB at most). */
	mallopt(M_ARENA_MAX, 2);
	signal(SIGPIPE, SIG_IGN);
	d.loop = ev_default_loop(EVFLAG_NOENV);
	int r = d.loop ? virt_init() : -ENOMEM;
	if (r == 0)
		r = open_host(&d, err);
	if (r == 0)
		r = open_core(&d, err);
	if (r != 0 && !d.control)
		control_refuse_waiting(err->text[0] ? err->text : "memocd cannot start");
	if (r == 0) {
		start_watchers(&d);
		ev_set_userdata(d.loop, &d);
		ev_set_invoke_pending_cb(d.loop, invoke_cb);
		if (d.remembered.hold_all)
			daemon_post(&d, (struct event){.type = EVENT_VM_HOLD, .flag = true});
		struct log_fields fields = {.message_id = MSG_DAEMON_READY};
		log_fields(LOG_LEVEL_NOTICE, &fields,
			   "memocd " MEMOC_VERSION " is ready: pool %llu MiB, buffer %llu MiB, cgroup %s%s",
			   (unsigned long long)(d.config.core.pool_bytes / MIB),
			   (unsigned long long)(d.config.core.buffer_bytes / MIB),
			   d.cgroup_version == CGROUP_V1 ? "v1" : "v2", options->observe ? ", observing only" : "");
		sd_notify(0, "READY=1");
		ev_run(d.loop, 0);
		log_fields(LOG_LEVEL_NOTICE, &(struct log_fields){.message_id = MSG_DAEMON_STOPPING},
			   "memocd is stopping");
		sd_notify(0, "STOPPING=1");
	}
	close_daemon(&d);
	return r;
}
