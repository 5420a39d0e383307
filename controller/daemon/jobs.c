/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Work for the workers. A job carries copies of all it needs, so that the VM may go while it runs; its result looks the
 * VM up again. Libvirt jobs use the worker's own connection, opened when first needed and closed when it breaks.
 */
#include "controller/daemon/daemon.h"
#include "controller/daemon/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

/* Keys of work_lane jobs: of one kind only the newest waits. */
enum {
	KEY_NONE,
	KEY_INSPECT,
	KEY_VERIFY,
	KEY_STATS,
	KEY_PERIOD,
	KEY_BALLOON,
	KEY_LIMIT,
	KEY_ATTACH,
	KEY_OVERHEAD,
	KEY_MIGRATION
};

#define RETRY_MS 2000 /* after a call to libvirt that failed and has to succeed some day */

struct job {
	struct daemon *d;
	vm_id id;
	char uuid[UUID_TEXT_LEN + 1];
	char name[DOMXML_NAME_MAX];
	int code;
	struct memoc_err err;
	/* what is asked, and what comes back; each kind uses its own few */
	uint64_t bytes, ret_bytes;
	uint32_t seq;
	unsigned seconds;
	int method;
	bool flag;
	unsigned run_events; /* of the entry when this was asked */
	struct policy_job policy_job;
	struct dom_facts *off;
	size_t off_n;
	struct attach *attach;
	char *xml;
	enum virt_run_state run_state;
	struct dom_facts facts;
	struct virt_job job;
	struct guest_stats stats;
	struct virt_domain *list;
	size_t list_n;
	struct state state;
	uid_t uid;
	gid_t gid;
	policy_done_fn *policy_done;
	progress_done_fn *progress_done;
	off_done_fn *off_done;
	member_done_fn *member_done;
	void *user;
};

static struct job *job_new(struct daemon *d, const struct entry *e)
{
	struct job *j = calloc(1, sizeof(*j));
	if (!j) {
		log_error("out of memory: a request was dropped");
		return NULL;
	}
	j->d = d;
	if (e) {
		j->id = e->id;
		memcpy(j->uuid, e->uuid, sizeof(j->uuid));
		snprintf(j->name, sizeof(j->name), "%s", e->facts.name);
	}
	return j;
}

static void job_free(struct job *j)
{
	attach_unref(j->attach);
	free(j->xml);
	free(j->list);
	free(j->off);
	state_clear(&j->state);
	free(j);
}

static void submit(struct workpool *pool, struct work_lane *lane, unsigned key, work_run_fn *run, work_done_fn *done,
		   struct job *j)
{
	if (j && workpool_submit(pool, lane, key, run, done, j) < 0) {
		log_error("out of memory: a request was dropped");
		done(j, true);
	}
}

/* ---- the worker's connection ---- */

void jobs_worker_fini(void *worker)
{
	virt_conn_close(worker);
}

static struct virt_conn *connection(struct job *j, void **worker)
{
	struct virt_conn *c = *worker;
	if (c && !virt_conn_alive(c))
		c = *worker = virt_conn_close(c);
	if (!c) {
		j->code = virt_conn_open(j->d->options->uri, &c, &j->err);
		if (j->code < 0)
			return NULL;
		*worker = c;
	}
	return c;
}

static struct entry *entry_of(const struct job *j, bool cancelled)
{
	return cancelled ? NULL : entry_by_id(j->d, j->id);
}

/* ---- libvirt: list, lookup, inspect, verify ---- */

static void list_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_conn *c = connection(j, worker);
	if (c)
		j->code = virt_list(c, true, &j->list, &j->list_n, &j->err);
}

static bool listed(const struct job *j, const char *uuid)
{
	for (size_t i = 0; i < j->list_n; i++)
		if (strcmp(j->list[i].uuid, uuid) == 0)
			return true;
	return false;
}

/* Ended while no memocd was looking. */
static void forget_unlisted(const struct job *j)
{
	const struct state *s = &j->d->remembered;
	for (size_t i = s->n; i-- > 0;) {
		const char *uuid = s->vms[i].uuid;
		if (!listed(j, uuid) && !entry_by_uuid(j->d, uuid))
			keep_forget(j->d, uuid);
	}
}

static void list_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	struct daemon *d = j->d;
	if (!cancelled && j->code < 0) {
		log_warning("cannot list VMs, tried again: %s", j->err.text);
		d->list_again_ms = now_ms() + RETRY_MS;
	}
	if (!cancelled && j->code == 0) {
		for (size_t i = 0; i < j->list_n; i++) {
			bool is_new;
			struct entry *e = entry_get(d, j->list[i].uuid, j->list[i].name, ORIGIN_ADOPT, &is_new);
			if (!e)
				continue;
			if (j->list[i].run_state == VIRT_RUNNING && is_new)
				entry_running(e);
			job_inspect(e);
		}
		struct entry *next;
		for (struct entry *e = d->entries; e; e = next) {
			next = e->next;
			if (!listed(j, e->uuid) && !e->attach)
				job_verify(e);
		}
		forget_unlisted(j);
		d->looked = true;
	}
	job_free(j);
}

void job_list(struct daemon *d)
{
	d->list_again_ms = NEVER_MS;
	submit(d->virt_pool, NULL, KEY_NONE, list_run, list_done, job_new(d, NULL));
}

static void lookup_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_domain dom;
	struct virt_conn *c = connection(j, worker);
	if (c)
		j->code = virt_lookup(c, j->name, &dom, &j->err);
	if (c && j->code == 0)
		memcpy(j->uuid, dom.uuid, sizeof(j->uuid));
}

static void lookup_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	bool is_new;
	struct entry *e = !cancelled && j->code == 0 ? entry_get(j->d, j->uuid, j->name, ORIGIN_START, &is_new) : NULL;
	if (e) {
		if (j->flag)
			entry_running(e);
		job_inspect(e);
	} else if (!cancelled && j->code < 0) { /* it will be in the list */
		j->d->list_again_ms = now_ms() + RETRY_MS;
	}
	job_free(j);
}

void job_lookup(struct daemon *d, const char *name, bool running)
{
	struct job *j = job_new(d, NULL);
	if (!j)
		return;
	snprintf(j->name, sizeof(j->name), "%s", name);
	j->flag = running;
	submit(d->virt_pool, NULL, KEY_NONE, lookup_run, lookup_done, j);
}

static void inspect_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_conn *c = connection(j, worker);
	if (!c)
		return;
	j->code = virt_state(c, j->uuid, &j->run_state, &j->err);
	if (j->code == 0)
		j->code = virt_xml(c, j->uuid, false, &j->xml, &j->err);
	if (j->code == 0)
		j->code = domxml_parse(j->xml, strlen(j->xml), &j->facts, &j->err);
	/* Events of a migration may have come before memocd, or not come through. What fails here is no failure. */
	if (j->code == 0 && (j->run_state == VIRT_RUNNING || j->run_state == VIRT_PAUSED))
		virt_job(c, j->uuid, &j->job, NULL);
}

/* What libvirt refused is asked for again with the next inspection, and told once. */
static void inspect_later(struct entry *e, const struct job *j, const char *what)
{
	e->inspect_again_ms = now_ms() + RETRY_MS;
	if (j->code != -ENOTCONN && strcmp(e->virt_err.text, j->err.text) != 0)
		log_warning("%s: %s, tried again: %s", j->name, what, j->err.text);
	e->virt_err = j->err;
}

static void inspect_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	struct entry *e = entry_of(j, cancelled);
	if (e && j->code == 0) {
		if (j->facts.stats_period_s) /* else that it cannot be set is what was told */
			e->virt_err.text[0] = '\0';
		/* An event came meanwhile, and with it another inspection: whether it runs is that one's to say. */
		entry_inspected(e, j->run_events == e->run_events ? j->run_state : VIRT_OTHER, &j->facts);
		e = j->job.outgoing ? entry_by_id(j->d, j->id) : NULL; /* one that is off is gone by now */
		if (e)
			entry_migrating(e, j->job.pass);
	} else if (e && j->code == -ENOENT && !e->attach) {
		job_verify(e);
	} else if (e && j->code != -ENOENT) {
		inspect_later(e, j, "cannot be read from libvirt");
	}
	job_free(j);
}

void job_inspect(struct entry *e)
{
	struct job *j = job_new(e->daemon, e);
	e->inspect_again_ms = j ? NEVER_MS : now_ms() + RETRY_MS;
	if (j)
		j->run_events = e->run_events;
	submit(e->daemon->virt_pool, e->virt_lane, KEY_INSPECT, inspect_run, inspect_done, j);
}

static void verify_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_conn *c = connection(j, worker);
	if (c)
		j->code = virt_state(c, j->uuid, &j->run_state, &j->err);
}

static void verify_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	struct entry *e = entry_of(j, cancelled);
	bool off = j->code == -ENOENT || (j->code == 0 && j->run_state == VIRT_OFF);
	if (e && off && (!e->attach || e->stop_told))
		entry_stopped(e, "libvirt does not run it");
	else if (e && !cancelled && j->code == 0)
		e->stop_told = false;
	job_free(j);
}

void job_verify(struct entry *e)
{
	submit(e->daemon->virt_pool, e->virt_lane, KEY_VERIFY, verify_run, verify_done, job_new(e->daemon, e));
}

/* ---- libvirt: statistics, balloon, migration ---- */

static void stats_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_conn *c = connection(j, worker);
	if (c)
		j->code = virt_stats(c, j->uuid, &j->stats, &j->err);
}

static void stats_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	struct entry *e = entry_of(j, cancelled);
	if (e && j->code == 0)
		poll_result(e, &j->stats);
	else if (e)
		poll_failed(e, j->code, &j->err);
	job_free(j);
}

void job_stats(struct entry *e)
{
	submit(e->daemon->virt_pool, e->virt_lane, KEY_STATS, stats_run, stats_done, job_new(e->daemon, e));
}

static void period_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_conn *c = connection(j, worker);
	if (c)
		j->code = virt_set_stats_period(c, j->uuid, j->seconds, &j->err);
}

static void period_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	struct entry *e = entry_of(j, cancelled);
	if (e && j->code == 0)
		e->facts.stats_period_s = j->seconds;
	else if (e && j->code != -ENOENT)
		inspect_later(e, j, "statistics period could not be set");
	job_free(j);
}

void job_stats_period(struct entry *e, unsigned seconds)
{
	struct job *j = job_new(e->daemon, e);
	if (j)
		j->seconds = seconds;
	submit(e->daemon->virt_pool, e->virt_lane, KEY_PERIOD, period_run, period_done, j);
}

static void post_result(struct job *j, enum effect_op op, int code)
{
	struct event ev = {.type = EVENT_VM_RESULT, .vm = j->id};
	ev.result.op = op;
	ev.result.seq = j->seq;
	ev.result.code = code;
	ev.result.bytes = j->ret_bytes;
	daemon_post(j->d, ev);
}

static void balloon_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_conn *c = connection(j, worker);
	if (c)
		j->code = virt_set_balloon(c, j->uuid, j->bytes, &j->err);
}

static void balloon_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	struct entry *e = entry_of(j, false);
	if (!cancelled && j->code < 0 && j->code != -ENOENT)
		log_info("%s: balloon request failed: %s", j->name, j->err.text);
	if (e)
		post_result(j, OP_BALLOON, cancelled ? -ECANCELED : j->code);
	if (e && !cancelled)
		poll_rearm(e);
	job_free(j);
}

void job_balloon(struct entry *e, uint64_t bytes, uint32_t seq)
{
	struct job *j = job_new(e->daemon, e);
	if (j) {
		j->bytes = bytes;
		j->seq = seq;
	}
	submit(e->daemon->virt_pool, e->virt_lane, KEY_BALLOON, balloon_run, balloon_done, j);
}

static void migration_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_conn *c = connection(j, worker);
	if (c)
		j->code = virt_job(c, j->uuid, &j->job, &j->err);
}

static void migration_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	struct entry *e = entry_of(j, cancelled);
	if (e && e->in_core && j->code == 0 && !j->job.outgoing)
		entry_not_migrating(e);
	else if (e && j->code == 0 && j->job.pass == 1 && e->outgoing && e->outgoing_pass == 0)
		entry_migrating(e, 1); /* found before it read memory, and its event was lost */
	job_free(j);
}

void job_migration(struct entry *e)
{
	submit(e->daemon->virt_pool, e->virt_lane, KEY_MIGRATION, migration_run, migration_done, job_new(e->daemon, e));
}

static void progress_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	j->progress_done(j->user, !cancelled && j->code == 0 ? &j->job : NULL);
	job_free(j);
}

int job_progress(struct entry *e, struct work_lane *lane, progress_done_fn *done, void *user)
{
	struct job *j = job_new(e->daemon, e);
	if (!j)
		return -ENOMEM;
	j->progress_done = done;
	j->user = user;
	submit(e->daemon->virt_pool, lane, KEY_NONE, migration_run, progress_done, j);
	return 0;
}

/* ---- kernel: attach, limit, overhead ---- */

static void attach_run(void *arg, void **worker)
{
	struct job *j = arg;
	pid_t pid = 0;
	j->code = proc_find_qemu("", j->name, j->uuid, &pid, &j->err);
	if (j->code < 0)
		return;
	struct attach *a = calloc(1, sizeof(*a));
	j->code = a ? 0 : -ENOMEM;
	if (!a)
		return;
	atomic_init(&a->refs, 1);
	j->attach = a;
	j->code = proc_vm_open(pid, &a->proc, &j->err);
	if (j->code == 0)
		j->code = cgroup_vm_open(pid, &a->cgroup, &j->err);
	if (j->code == 0)
		j->code = proc_vm_start_ticks(a->proc, &a->start_ticks);
}

static void attach_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	struct entry *e = entry_of(j, cancelled);
	if (e && j->code == 0 && !e->attach) {
		struct attach *a = j->attach;
		j->attach = NULL;
		entry_attached(e, a);
	} else if (e && j->code < 0 && !e->attach) {
		entry_attach_failed(e, &j->err);
	}
	job_free(j);
}

void job_attach(struct entry *e)
{
	submit(e->daemon->kernel_pool, e->kernel_lane, KEY_ATTACH, attach_run, attach_done, job_new(e->daemon, e));
}

#define RECLAIM_MS 1000 /* one step's share of a worker, v2; v1 reclaims within the write */

static void limit_run(void *arg, void **worker)
{
	struct job *j = arg;
	j->code = cgroup_vm_set_limit(j->attach->cgroup, j->bytes, j->method, RECLAIM_MS, &j->ret_bytes, &j->err);
}

static void limit_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	struct entry *e = entry_of(j, false);
	if (!cancelled && j->code < 0 && j->code != -EBUSY && j->code != -EAGAIN && j->code != -ENODEV)
		log_warning("%s: limit could not be set: %s", j->name, j->err.text);
	if (e && !cancelled)
		e->limit_seen_bytes = j->ret_bytes;
	else if (e)
		j->ret_bytes = e->limit_seen_bytes;
	if (e)
		post_result(j, OP_LIMIT, cancelled ? -ECANCELED : j->code);
	job_free(j);
}

void job_limit(struct entry *e, uint64_t bytes, uint32_t seq)
{
	struct job *j = job_new(e->daemon, e);
	if (j) {
		j->bytes = bytes;
		j->seq = seq;
		j->method = e->daemon->config.cgroup_method;
		j->attach = attach_ref(e->attach);
		j->ret_bytes = e->limit_seen_bytes;
	}
	submit(e->daemon->kernel_pool, e->kernel_lane, KEY_LIMIT, limit_run, limit_done, j);
}

static void overhead_run(void *arg, void **worker)
{
	struct job *j = arg;
	j->code = proc_vm_guest_ram(j->attach->proc, &j->facts, &j->bytes, &j->ret_bytes, &j->err);
}

static void overhead_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	struct entry *e = entry_of(j, cancelled);
	struct event ev = {.type = EVENT_VM_SAMPLE, .vm = j->id};
	if (e && j->code < 0)
		log_debug("%s: QEMU's own memory is not measured: %s", j->name, j->err.text);
	if (e && e->in_core && e->attach && j->code == 0 && cgroup_vm_read(e->attach->cgroup, &ev.sample) == 0) {
		ev.sample.has_overhead = true;
		ev.sample.overhead_bytes = j->ret_bytes;
		ev.sample.guest_ram_bytes = j->bytes;
		ev.sample.has_major_faults = proc_vm_major_faults(e->attach->proc, &ev.sample.major_faults) == 0;
		daemon_post(j->d, ev);
	}
	job_free(j);
}

void job_overhead(struct entry *e)
{
	struct job *j = job_new(e->daemon, e);
	if (j) {
		j->attach = attach_ref(e->attach);
		j->facts = e->facts;
	}
	submit(e->daemon->kernel_pool, e->kernel_lane, KEY_OVERHEAD, overhead_run, overhead_done, j);
}

/* ---- the daemon's own ---- */

static void save_run(void *arg, void **worker)
{
	struct job *j = arg;
	j->code = state_save(j->d->options->state_dir, &j->state, &j->err);
}

static void save_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	keep_saved(j->d, cancelled ? -ECANCELED : j->code, &j->err);
	job_free(j);
}

void job_save_state(struct daemon *d, struct state *s)
{
	struct job *j = job_new(d, NULL);
	if (!j) {
		state_clear(s);
		keep_saved(d, -ENOMEM, &(struct memoc_err){"out of memory: the state was not saved"});
		return;
	}
	j->state = *s;
	submit(d->house_pool, NULL, KEY_NONE, save_run, save_done, j);
}

static void watchdog_run(void *arg, void **worker)
{
}

static void watchdog_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	j->d->watchdog_asked = false;
	if (!cancelled)
		sd_notify(0, "WATCHDOG=1");
	job_free(arg);
}

void job_watchdog(struct daemon *d)
{
	bool due = watchdog_due(now_ms(), d->decided_ms, d->config.core.interval_ms, d->watchdog_asked);
	struct job *j = due ? job_new(d, NULL) : NULL;
	if (!j)
		return;
	d->watchdog_asked = true;
	submit(d->house_pool, NULL, KEY_NONE, watchdog_run, watchdog_done, j);
}

/* ---- for the control socket ---- */

/* The VM of a policy job: known by its UUID, or named by a person and known to libvirt only. */
static int find_policy_vm(struct job *j, struct virt_conn *c)
{
	struct virt_domain dom;
	int r = 0;

	if (j->id) {
		r = virt_state(c, j->uuid, &j->run_state, &j->err);
	} else {
		r = virt_lookup(c, j->name, &dom, &j->err);
		if (r == 0) {
			memcpy(j->uuid, dom.uuid, sizeof(j->uuid));
			j->run_state = dom.run_state;
		}
	}
	if (r < 0)
		return r;
	if (j->run_state == VIRT_OFF && j->policy_job.live)
		return -EHOSTDOWN;
	return 0;
}

struct store_user {
	struct virt_conn *c;
	const char *uuid;
};

static int store_read(void *user, bool config, struct dom_facts *ret, struct memoc_err *err)
{
	const struct store_user *s = user;
	char *xml AUTO_FREE = NULL;
	int r = virt_xml(s->c, s->uuid, config, &xml, err);

	if (r < 0)
		return r;
	r = domxml_parse(xml, strlen(xml), ret, err);
	return r == -EINVAL ? -EIO : r; /* −EINVAL is for what the caller wants */
}

static int store_write(void *user, bool config, const struct vmpolicy *policy, struct memoc_err *err)
{
	const struct store_user *s = user;
	char *xml AUTO_FREE = NULL;
	int r = vmpolicy_to_xml(policy, &xml);

	return r < 0 ? r : virt_set_policy(s->c, s->uuid, xml, !config, config, err);
}

static void set_policy_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_conn *c = connection(j, worker);
	struct policy_job *p = &j->policy_job;
	struct store_user user = {.c = c, .uuid = j->uuid};
	const struct policy_store store = {&user, store_read, store_write};
	bool persistent = true;

	if (!c)
		return;
	j->code = find_policy_vm(j, c);
	if (j->code == 0)
		j->code = virt_persistent(c, j->uuid, &persistent, &j->err);
	if (j->code < 0)
		return;
	if (!p->live && !p->config) { /* as people expect it: now, and for good where it has a definition */
		p->live = j->run_state != VIRT_OFF;
		p->config = persistent;
	}
	j->code = p->config && !persistent
			  ? -EOPNOTSUPP
			  : policy_edit(&store, &p->keys, &p->last_good, p->live, p->config, &j->facts, &j->err);
}

static void get_policy_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_conn *c = connection(j, worker);
	struct policy_job *p = &j->policy_job;
	struct store_user user = {.c = c, .uuid = j->uuid};

	if (!c)
		return;
	j->code = find_policy_vm(j, c);
	if (j->code < 0)
		return;
	p->config |= j->run_state == VIRT_OFF;
	j->code = store_read(&user, p->config, &j->facts, &j->err);
}

static void policy_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	if (cancelled) {
		j->code = -ECANCELED;
		memoc_err_set(&j->err, 0, "the VM is gone");
	}
	j->policy_done(j->user, j->code, &j->policy_job, &j->facts, &j->err);
	job_free(j);
}

static int policy_submit(struct daemon *d, struct entry *e, const char *name, const struct policy_job *p,
			 work_run_fn *run, policy_done_fn *done, void *user)
{
	struct job *j = job_new(d, e);
	if (!j)
		return -ENOMEM;
	if (!e)
		snprintf(j->name, sizeof(j->name), "%s", name);
	j->policy_job = *p;
	j->policy_done = done;
	j->user = user;
	submit(d->virt_pool, e ? e->virt_lane : d->off_lane, KEY_NONE, run, policy_done, j);
	return 0;
}

int job_set_policy(struct daemon *d, struct entry *e, const char *name, const struct policy_job *p,
		   policy_done_fn *done, void *user)
{
	return policy_submit(d, e, name, p, set_policy_run, done, user);
}

int job_get_policy(struct daemon *d, struct entry *e, const char *name, const struct policy_job *p,
		   policy_done_fn *done, void *user)
{
	return policy_submit(d, e, name, p, get_policy_run, done, user);
}

/* VMs that are defined and off. One whose XML is no good, or that is gone by now, is left out. */
static void list_off_run(void *arg, void **worker)
{
	struct job *j = arg;
	struct virt_conn *c = connection(j, worker);

	if (c)
		j->code = virt_list(c, false, &j->list, &j->list_n, &j->err);
	if (!c || j->code < 0)
		return;
	j->off = calloc(j->list_n + 1, sizeof(*j->off));
	if (!j->off)
		j->code = memoc_err_set(&j->err, -ENOMEM, "out of memory");
	for (size_t i = 0; j->off && i < j->list_n; i++) {
		struct store_user user = {.c = c, .uuid = j->list[i].uuid};

		j->off_n += store_read(&user, true, &j->off[j->off_n], NULL) == 0;
	}
}

static void list_off_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	j->off_done(j->user, j->off, j->off_n);
	job_free(j);
}

int job_list_off(struct daemon *d, off_done_fn *done, void *user)
{
	struct job *j = job_new(d, NULL);
	if (!j)
		return -ENOMEM;
	j->off_done = done;
	j->user = user;
	submit(d->virt_pool, d->off_lane, KEY_NONE, list_off_run, list_off_done, j);
	return 0;
}

#define GROUPS_MAX 256

static void member_run(void *arg, void **worker)
{
	struct job *j = arg;
	char *buf = malloc(16384), *group_buf = malloc(65536);
	struct passwd pw, *found = NULL;
	struct group gr, *group = NULL;
	if (buf && group_buf && getgrnam_r("memoc", &gr, group_buf, 65536, &group) == 0 && group) {
		j->flag = j->gid == gr.gr_gid;
		gid_t groups[GROUPS_MAX];
		int n = GROUPS_MAX;
		if (getpwuid_r(j->uid, &pw, buf, 16384, &found) == 0 && found &&
		    getgrouplist(pw.pw_name, j->gid, groups, &n) >= 0)
			for (int i = 0; i < n; i++)
				j->flag |= groups[i] == gr.gr_gid;
	}
	free(buf);
	free(group_buf);
}

static void member_done(void *arg, bool cancelled)
{
	struct job *j = arg;
	j->member_done(j->user, !cancelled && j->flag);
	job_free(j);
}

int job_member(struct daemon *d, uid_t uid, gid_t gid, member_done_fn *done, void *user)
{
	struct job *j = job_new(d, NULL);
	if (!j)
		return -ENOMEM;
	j->uid = uid;
	j->gid = gid;
	j->member_done = done;
	j->user = user;
	submit(d->house_pool, NULL, KEY_NONE, member_run, member_done, j);
	return 0;
}
