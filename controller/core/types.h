/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plain data that the core is fed with and speaks in. No functions but names, no pointers to foreign memory: every
 * struct here can be copied, recorded and replayed. Sizes are bytes, times are milliseconds of a monotonic clock
 * whose origin does not matter (only differences are used); the core never reads a clock itself.
 */
#ifndef MEMOC_CORE_TYPES_H
#define MEMOC_CORE_TYPES_H

#include "common/util.h"
#include "common/vmpolicy.h"

/* Given by the caller, unique among living VMs; 0 is no VM. */
typedef uint32_t vm_id;

#define LIMIT_NONE UINT64_MAX /* no cgroup limit */

/* A VM's life; see the table in vm_fsm.c. Names by vm_state_name(): "starting", "shrinking-balloon" … */
enum vm_state {
	VM_STARTING = 1,      /* announced; limits open, reservation held */
	VM_STEADY,	      /* at its target */
	VM_SHRINKING_BALLOON, /* balloon target lowered, waiting for memory to come back */
	VM_SHRINKING_LIMIT,   /* the rest is taken by the cgroup limit, stepwise */
	VM_GROWING_LIMIT,     /* the limit is raised first */
	VM_GROWING_BALLOON,   /* then the balloon target */
	VM_REBOOTING,	      /* guest reset: the balloon's state is lost; limits open */
	VM_PAUSED,	      /* vCPUs stopped: statistics are stale */
	VM_MIGRATING_OUT,     /* target frozen */
	VM_MIGRATING_IN,      /* reservation held, no queries */
	VM_STOPPING,	      /* being forgotten */
	VM_FIXED,	      /* not eligible: counted, never resized */
	VM_STATE_END
};

/* What is known of a VM's balloon; learned, kept over restarts of memocd. */
enum balloon_health {
	BALLOON_UNKNOWN = 1,
	BALLOON_WORKING,
	BALLOON_SLOW,	   /* moves, but under four times min_speed */
	BALLOON_STALLED,   /* has worked, moves slower than min_speed now */
	BALLOON_ABSENT,	   /* never reacted and never sent statistics: no driver, or no device */
	BALLOON_INHIBITED, /* `actual` falls while residency does not: VFIO, SEV, post-copy … */
	BALLOON_HEALTH_END
};

/* How full the buffer is. */
enum host_level {
	LEVEL_HIGH = 1, /* nothing to do */
	LEVEL_SOFT,	/* reclaim by balloons */
	LEVEL_HARD,	/* limits at once, no waiting for balloons; only who has nothing left grows */
	LEVEL_LOW,	/* in addition no pinned VM grows, and memory in use may be taken */
	LEVEL_END
};

const char *vm_state_name(enum vm_state s);		/* "?" for an unknown value */
const char *balloon_health_name(enum balloon_health h); /* likewise */
const char *host_level_name(enum host_level l);		/* likewise */

/*
 * virtio-balloon statistics as libvirt hands them out. A has_… flag that is false means unknown, never zero.
 * swap/fault counters are cumulative since the guest booted. last_update_s is QEMU's wall clock; 0 = never.
 */
struct guest_stats {
	bool has_actual, has_usable, has_unused, has_available, has_swap, has_major_faults, has_disk_caches;
	uint64_t actual_bytes;	  /* balloon's actual: not residency, and a lie after a reboot */
	uint64_t usable_bytes;	  /* guest's MemAvailable */
	uint64_t unused_bytes;	  /* guest's MemFree */
	uint64_t available_bytes; /* guest's MemTotal */
	uint64_t disk_caches_bytes;
	uint64_t swap_in_bytes, swap_out_bytes;
	uint64_t major_faults;
	uint64_t last_update_s;
};

/* One look at a VM's cgroup and QEMU process. Counters are cumulative. */
struct vm_host_sample {
	bool has_memory;	 /* resident, swapped, limit */
	uint64_t resident_bytes; /* charged to the cgroup without reclaimable file cache: RAM, QEMU itself, page tables
				  */
	uint64_t swapped_bytes;
	bool under_oom;	      /* v1: at its limit nothing could be reclaimed, its tasks wait for a higher one */
	uint64_t limit_bytes; /* v1 limit_in_bytes, v2 memory.high; LIMIT_NONE where open */
	bool has_major_faults;
	uint64_t major_faults; /* of the QEMU process (field 12 of /proc/PID/stat) */
	bool has_refaults;
	uint64_t refaults; /* pages, workingset_refault_anon */
	bool has_psi;
	uint64_t psi_some_us;	  /* cgroup v2 memory.pressure "some total": microseconds */
	bool has_overhead;	  /* the two below; measured now and then */
	uint64_t overhead_bytes;  /* QEMU's own memory */
	uint64_t guest_ram_bytes; /* guest RAM that exists, present or swapped: what a balloon that works brings down */
};

/* Where a working set is known from; see controller/wss. Names by wss_backend_name(). */
enum wss_backend {
	WSS_NONE = 1,
	WSS_IDLE,      /* page_idle/bitmap */
	WSS_DAMON,     /* DAMON's access checks */
	WSS_LRU,       /* generations of the multi-generational LRU */
	WSS_REFAULT,   /* small reclaim, and what of it comes back */
	WSS_IDLE_HOST, /* page_idle/bitmap, frames of the host at random, their owner by kpagecgroup */
	WSS_BACKEND_END
};

/* Memory that a VM touched within a window, seen from outside: its guest has no say in it. */
struct wss_reading {
	bool known; /* else only backend, began_ms and why are meant */
	enum wss_backend backend;
	uint64_t wss_bytes, error_bytes; /* half width of the 95 % interval */
	uint64_t began_ms;		 /* the window ended when the event came */
	uint64_t good_ms;		 /* believed for so long after that */
	uint64_t pages;			 /* looked at; 0 where pages are not what was sampled */
	uint64_t cost_ns;		 /* processor time that it took */
	char why[104];			 /* not known: why, for people */
};

/*
 * What memory advice did, and what it saw, while a VM's memory was read once by a migration, save or snapshot. Bytes,
 * since it began.
 */
struct advice_report {
	bool over; /* the last one: nothing is advised any more */
	/* how it was when it began: the map */
	uint64_t swapped_bytes;	  /* swapped out */
	uint64_t untouched_bytes; /* shared memory that was never allocated */
	/* of the map */
	uint64_t out_bytes;	 /* came in by the reading and went out again by advice */
	uint64_t stayed_bytes;	 /* advised in vain: still in memory */
	uint64_t zero_bytes;	 /* pages of zeroes that the reading allocated, advised */
	uint64_t zero_out_bytes; /* those of them that are in memory no more */
	uint64_t guest_bytes;	 /* brought in by the guest itself: left alone */
	uint64_t cost_ns;	 /* processor time of it all */
	char why[104];		 /* advice could not be given: why; "" = it could */
};

/* One look at the host. */
struct host_sample {
	bool has_memory;
	uint64_t mem_total_bytes, mem_available_bytes;
	uint64_t swap_total_bytes, swap_free_bytes; /* 0/0: no swap */
	bool has_psi;
	double psi_some_avg10, psi_full_avg10; /* percent, as /proc/pressure/memory prints them */
};

/* What an administrator or libvirt says of a VM; may change while it lives. */
struct vm_facts {
	uint64_t max_bytes;	       /* all the RAM it has when the balloon is empty */
	uint64_t overhead_guess_bytes; /* QEMU's own memory before the first measurement */
	bool has_balloon;
	bool eligible;
	struct vmpolicy policy;
};

/* What a restarted controller remembers, or finds out, of a VM that it did not start with. */
struct vm_memory {
	bool known;	       /* everything below is meant */
	uint64_t target_bytes; /* 0 = none */
	enum balloon_health health;
	uint64_t speed_bytes_per_s;  /* learned; 0 = unknown */
	uint64_t floor_bytes;	     /* the balloon would not go below; 0 = unknown */
	uint64_t retry_delay_ms;     /* 0 = none pending */
	uint64_t pinned_bytes;	     /* `memoc resize`; 0 = not pinned */
	bool held;		     /* `memoc hold` */
	bool drained;		     /* `memoc drain`; held as well */
	bool limit_ours;	     /* the cgroup limit found was set by memoc */
	bool silent;		     /* it did not tell what it uses */
	bool distrusted;	     /* what it told was wrong */
	bool by_limit;		     /* for one or the other, and perhaps a while longer: its balloon is left empty */
	uint64_t advice_limit_bytes; /* the limit found was raised while its memory is read, and is to go back to this;
					0 = no */
	uint64_t trim_from_bytes;    /* made small because it is about to migrate, and of this size before; 0 = no */
	uint64_t overhead_bytes;     /* QEMU's own memory as it was measured; 0 = it was not */
};

struct core_config {
	/* [host], resolved to bytes */
	uint64_t pool_bytes;
	uint64_t reserve_bytes; /* of the host; below half of it in MemAvailable the level is at least hard */
	bool buffer_auto;	/* buffer_bytes is the start; the core then sizes it by growth seen */
	uint64_t buffer_bytes;
	bool observe; /* decide and record, change nothing */
	/* [policy] */
	const struct policy_ops *policy;
	/* For policies of the simulator (oracle, ideal): what they know and a real host cannot. NULL for all others.
	 * Not owned; good as long as this configuration is in use. */
	const void *policy_data;
	uint64_t interval_ms;
	double dead_band;	       /* of a VM's max: smaller changes are not worth a resize */
	double min_share;	       /* of a VM's max: its min where the VM's policy gives none */
	double headroom_share;	       /* of demand: least headroom */
	uint64_t headroom_bytes;       /* least headroom, absolute */
	uint64_t dwell_ms;	       /* no shrink this long after a growth, except at hard and low */
	uint64_t dwell_max_ms;	       /* dwell doubles after each reversal, up to this */
	uint64_t grace_ms;	       /* how long a starting or rebooting VM may stay without statistics */
	uint64_t needy_hold_ms;	       /* needy this long after the last sign */
	uint64_t stale_ms;	       /* guest statistics older than this are not believed */
	double needy_swap_bytes_per_s; /* guest swap-in that is significant */
	double needy_faults_per_s;     /* QEMU major faults that are significant */
	/*
	 * Share of time (memory.pressure "some" of its cgroup) that is significant. The default, 5 %, is thirty times
	 * what senpai squeezes to (10 ms in 6 s) and a twelfth of what systemd-oomd kills for (60 %).
	 */
	double needy_stall;
	/* [balloon] */
	bool balloon_enabled;
	uint64_t min_speed_bytes_per_s;
	uint64_t stall_timeout_ms;
	uint64_t retry_min_ms, retry_max_ms;
	/* [swap] */
	bool swap_enabled;
	uint64_t max_step_bytes;  /* one lowering of a limit below residency */
	uint64_t keep_free_bytes; /* of host swap: below it nothing more is swapped */
	/* [migration] */
	bool advice;
	/* [admission] */
	enum admission_mode { ADMISSION_OFF = 1, ADMISSION_WARN, ADMISSION_DENY } admission;
};

/* Defaults as documented in the configuration; pool/reserve/buffer are 0 and must be set by the caller. */
struct core_config core_config_default(void);

#endif
