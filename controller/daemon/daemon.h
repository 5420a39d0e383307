/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The wiring of memocd: everything that happens becomes a core event, every effect becomes a job or a record. Private
 * to this room. All functions run on the loop thread unless they say otherwise; none of them blocks.
 */
#ifndef MEMOC_DAEMON_DAEMON_H
#define MEMOC_DAEMON_DAEMON_H

#include <ev.h>
#include <stdatomic.h>

#include "common/clock.h"
#include "common/log.h"
#include "controller/core/core.h"
#include "controller/daemon/config.h"
#include "controller/daemon/policy_edit.h"
#include "controller/daemon/ring.h"
#include "controller/daemon/state.h"
#include "controller/host/cgroup.h"
#include "controller/host/proc.h"
#include "controller/host/virt.h"
#include "controller/host/workpool.h"
#include "controller/wss/estimator.h"

struct control;
struct recorder;
struct measuring;
struct advising;

/* Why the loop woke up; names in show.c. */
enum wakeup {
	WAKEUP_TICK,
	WAKEUP_TIMER,	    /* the core's own: a deadline, a retry */
	WAKEUP_STATISTICS,  /* a VM's statistics are due */
	WAKEUP_RESIDENCY,   /* between two ticks, poll.c */
	WAKEUP_WORKING_SET, /* a window ends */
	WAKEUP_ADVICE,	    /* memory advice looks again */
	WAKEUP_STATE_FILE,
	WAKEUP_CLIENT,
	WAKEUP_END
};

/* What the command line says; pointers live as long as the program. */
struct options {
	const char *config_path; /* NULL: the default file */
	const char *const *sets;
	size_t n_sets;
	const char *uri, *socket_path, *state_dir, *run_dir;
	bool observe;
	bool log_level_given;
	enum log_level log_level;
};

/* A QEMU process and its cgroup. Counted, because a job may outlive the VM. */
struct attach {
	atomic_uint refs;
	struct proc_vm *proc;
	struct cgroup_vm *cgroup;
	uint64_t start_ticks;
	struct wss_memory wss_memory; /* written by workers, one at a time */
};
struct attach *attach_ref(struct attach *a);
void attach_unref(struct attach *a); /* takes NULL; any thread */

/* A VM as the daemon knows it, from the first word of it to the last. */
struct entry {
	struct daemon *daemon;
	struct entry *next;
	vm_id id;
	char uuid[UUID_TEXT_LEN + 1];
	struct dom_facts facts; /* from the hook at first, then from the live XML */
	bool has_xml;		/* facts are from the XML */
	bool in_core, running, running_told;
	bool paused;	/* last said to be; the core hears it as soon as the VM is in it */
	bool stop_told; /* someone says it stopped while its process seems to live: libvirt is being asked */
	bool outgoing;	/* its memory is being sent or saved, in this pass, as last heard */
	uint32_t outgoing_pass;
	bool outgoing_event; /* an event told of a pass of it: the first pass comes once */
	enum vm_origin origin;
	struct vm_memory memory; /* from the state file */
	struct attach *attach;
	unsigned attach_tries;
	ev_timer attach_timer, poll_timer;
	ev_io exit_io;
	struct work_lane *virt_lane, *kernel_lane;
	uint64_t limit_seen_bytes;
	uint64_t read_ms, overhead_due_ms, checked_ms;
	unsigned run_events;	   /* libvirt's events of running and pausing: an older look says nothing then */
	uint64_t inspect_again_ms; /* when to inspect it again, after a failure; NEVER_MS = no need */
	struct memoc_err virt_err; /* last failure of that, "" = none: told once */
	uint64_t usage_seen_bytes; /* charged to its cgroup when the core last heard of it */
	uint64_t wss_asked_ms;	   /* when its working set was last begun to be measured; 0 = never */
	uint64_t wss_cost_ns;	   /* of the last reading; 0 = not known */
	bool wss_none_told;
	const char *wss_not_why; /* told last: why it is not measured; NULL: it is */
	unsigned wss_reclaimed;	 /* windows in a row in which its pages were reclaimed */
	unsigned wss_instead;	 /* so many readings by the second back-end are to come, for that */
	uint64_t last_update_s;
	unsigned unchanged_reads, phase_reads;
	struct memoc_err stats_err; /* last failure of a statistics read, "" = none */
};

struct daemon {
	struct ev_loop *loop;
	const struct options *options;
	struct config config;
	struct config_setting *settings;
	size_t n_settings;
	struct core *core;
	struct effects effects;
	struct event *queue; /* events posted and not yet stepped */
	size_t queue_n, queue_capacity;
	bool draining;
	bool closing; /* nothing is decided any more: limits stay as they are */
	bool watchdog_asked;
	uint64_t decided_ms; /* the last tick that the core has dealt with */
	struct entry *entries;
	vm_id next_id;
	struct virt_events *link;
	struct workpool *virt_pool, *kernel_pool, *house_pool; /* libvirt; cgroups and procfs; memocd's own affairs */
	struct work_lane *off_lane;			       /* in virt_pool: for VMs without an entry */
	struct proc_host *proc_host;
	enum cgroup_version cgroup_version;
	struct ring *ring;
	struct recorder *recorder;
	struct measuring *measuring;
	struct advising *advising;
	struct state remembered; /* of the last memocd, until each VM has taken its own */
	bool state_dirty, state_writing;
	bool looked;		/* libvirt has told of all VMs that run, or was found not to be there */
	bool drain_all;		/* VMs that are still being looked at are drained too: `memoc drain --all`, until `memoc
				   release` */
	uint64_t list_again_ms; /* when to ask libvirt again for all VMs, after a failure; NEVER_MS = no need */
	int lock_fd;
	struct control *control;
	uint64_t wakeups[WAKEUP_END];		 /* callbacks, ever */
	uint64_t loop_wakeups, loop_for_nothing; /* turns of the loop, and those of them in which nothing was due */
	ev_timer tick_timer, wake_timer, watch_timer, state_timer, watchdog_timer;
	ev_signal sig_term, sig_int, sig_hup;
	uint64_t started_ms;
	int exit_code;
};

/* ---- daemon.c ---- */
/* Starting again helps only when the configuration was corrected: systemd's name for this exit status is NOTCONFIGURED.
 */
#define DAEMON_NOT_CONFIGURED 6
/* Runs until it is asked to end: 0. It could not start, err says why: −errno, or DAEMON_NOT_CONFIGURED. */
int daemon_run(const struct options *options, struct memoc_err *err);
/* Queues an event (its time is set here) and, unless that is under way already, steps until the queue is empty. */
void daemon_post(struct daemon *d, struct event ev);

/* ---- effects.c ---- */
void effects_carry_out(struct daemon *d);
void record_own(struct daemon *d, const struct entry *e, enum record_kind kind, enum log_level level, const char *fmt,
		...) PRINTF_LIKE(5, 6);

/* ---- entries.c: who is here ---- */
struct entry *entry_by_uuid(struct daemon *d, const char *uuid);
struct entry *entry_by_id(struct daemon *d, vm_id id);
/* By name or UUID. */
struct entry *entry_by_word(struct daemon *d, const char *word);
/* New or known. NULL without memory. */
struct entry *entry_get(struct daemon *d, const char *uuid, const char *name, enum vm_origin origin, bool *ret_new);
void entry_learn(struct entry *e, const struct dom_facts *facts,
		 bool from_xml);		      /* facts known: into the core with it */
void entry_running(struct entry *e);		      /* its QEMU runs: attach, inspect, tell the core */
void entry_stopped(struct entry *e, const char *why); /* gone: forgotten by core and daemon */
void entry_free(struct entry *e);		      /* after EFFECT_FORGET, or at exit */
void entries_free(struct daemon *d);
void entry_inspected(struct entry *e, enum virt_run_state state, const struct dom_facts *facts);
void entry_migrating(struct entry *e, uint32_t pass);	/* its memory is being sent or saved: which pass */
void entry_not_migrating(struct entry *e);		/* … and is not, or not any more */
void entry_attached(struct entry *e, struct attach *a); /* takes over a */
void entry_attach_failed(struct entry *e, const struct memoc_err *err);
void link_event(const struct virt_event *ev, void *daemon);
struct hook_notice {
	const char *name, *uuid, *operation;
	struct dom_facts facts;
	bool has_facts;
};
void hook_notice(struct daemon *d, const struct hook_notice *n);
struct vm_facts core_facts(const struct dom_facts *f);

/* ---- poll.c: when to read what ---- */
void poll_rearm(struct entry *e);
void poll_result(struct entry *e, const struct guest_stats *s);
void poll_failed(struct entry *e, int code, const struct memoc_err *err);
void poll_samples(struct daemon *d); /* all cgroups, before each tick */
void poll_timer_cb(struct ev_loop *loop, ev_timer *w, int revents);
void poll_watch_cb(struct ev_loop *loop, ev_timer *w, int revents); /* residency between two ticks */

/* ---- jobs.c: work for the workers; results come back through the functions above ---- */
void jobs_worker_fini(void *worker);
void job_list(struct daemon *d);
void job_lookup(struct daemon *d, const char *name, bool running);
void job_inspect(struct entry *e); /* XML and run state */
void job_verify(struct entry *e);  /* is it still there? */
void job_stats(struct entry *e);
void job_migration(struct entry *e); /* is the outgoing job still active? */
/*
 * The same, and how far it is. done is called once, on the loop; job NULL: could not be asked, or the VM is gone. In a
 * lane of the caller's: a change that was asked for just before the migration holds up the VM's own for 30 s.
 */
typedef void progress_done_fn(void *user, const struct virt_job *job);
int job_progress(struct entry *e, struct work_lane *lane, progress_done_fn *done, void *user);
void job_stats_period(struct entry *e, unsigned seconds);
void job_balloon(struct entry *e, uint64_t bytes, uint32_t seq);
void job_limit(struct entry *e, uint64_t bytes, uint32_t seq);
void job_attach(struct entry *e);
void job_overhead(struct entry *e);
void job_save_state(struct daemon *d, struct state *s); /* takes over the contents of s */
void job_watchdog(struct daemon *d);
/*
 * For control. What is asked of a VM's policy, and (in done) where it was looked for in the end: with neither live nor
 * config, get reads the live XML of a VM that runs, set changes that and the persistent one where there is one; of a VM
 * that is off both use the persistent one.
 */
struct policy_job {
	bool live, config;
	struct policy_keys keys;   /* set only */
	struct vmpolicy last_good; /* what stands in for a policy that is refused */
};
/*
 * done is called once, on the loop. code: −ENOENT no such VM; −EHOSTDOWN it is off and live was asked for; −EOPNOTSUPP
 * it is transient and config was asked for; −EINVAL what set would make contradicts itself; or −errno. facts: as the
 * XML is now (the live one where both).
 */
typedef void policy_done_fn(void *user, int code, const struct policy_job *p, const struct dom_facts *facts,
			    const struct memoc_err *err);
/* In the VM's libvirt lane; e NULL: a VM that only libvirt knows, by name or UUID, in the lane of those that are off.
 */
int job_set_policy(struct daemon *d, struct entry *e, const char *name, const struct policy_job *p,
		   policy_done_fn *done, void *user);
int job_get_policy(struct daemon *d, struct entry *e, const char *name, const struct policy_job *p,
		   policy_done_fn *done, void *user);
/* VMs that are defined and off; none where libvirt does not say. */
typedef void off_done_fn(void *user, const struct dom_facts *off, size_t n);
int job_list_off(struct daemon *d, off_done_fn *done, void *user);
/* Is this user in group memoc? NSS may block, so a worker asks. */
typedef void member_done_fn(void *user, bool member);
int job_member(struct daemon *d, uid_t uid, gid_t gid, member_done_fn *done, void *user);

/* ---- keep.c: the state file ---- */
int keep_load(struct daemon *d, struct memoc_err *err);
void keep_mark(struct daemon *d);
void keep_soon(struct daemon *d);		      /* a person's word: written at once, not within a second */
void keep_forget(struct daemon *d, const char *uuid); /* what the last memocd knew of a VM that is no more */
void keep_write(struct daemon *d);
void keep_saved(struct daemon *d, int code, const struct memoc_err *err);
void keep_now(struct daemon *d); /* at exit, synchronously */

/* ---- control.c, methods.c: the socket ---- */
int control_new(struct daemon *d, struct control **ret, struct memoc_err *err);
struct control *control_free(struct control *c);
/* For a memocd that systemd started for its socket and that cannot go on: who waits there is told why. Else the socket,
 * on which they still wait, would have it started again at once, until systemd gives both up. */
void control_refuse_waiting(const char *why);
void control_event(struct control *c, const struct ring_event *ev); /* to those who follow */
void control_after_step(struct control *c);			    /* those who wait for a size */

#endif
