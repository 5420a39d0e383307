/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Everything the core ever learns, each with its time. Plain data, recordable. Who posts it is said beside each.
 */
#ifndef MEMOC_CORE_EVENT_H
#define MEMOC_CORE_EVENT_H

#include "controller/core/types.h"

enum event_type {
	EVENT_TICK = 1, /* daemon's interval timer: .host */
	EVENT_TIMER,	/* core_next_wakeup_ms() has come */
	EVENT_CONFIG,	/* new configuration: .config (pointer good during the step only) */
	/* about one VM (.vm) */
	/* .added: hook, libvirt event or start-up scan; the first event of a VM. Told again as ORIGIN_INCOMING of one
	 * that was told to boot: it arrives. */
	EVENT_VM_ADDED,
	EVENT_VM_FACTS,	  /* .facts: domain XML read (again) */
	EVENT_VM_RUNNING, /* vCPUs run: started, resumed, unpaused, migration arrived */
	EVENT_VM_PAUSED,
	EVENT_VM_REBOOTED,	 /* guest reset */
	EVENT_VM_MIGRATING_OUT,	 /* .pass: its memory is read to be sent or saved */
	EVENT_VM_MIGRATION_OVER, /* outgoing migration failed or was cancelled: the VM stays */
	EVENT_VM_STOPPING,	 /* shutting down, or gone: forget it */
	EVENT_VM_STATS,		 /* .stats: guest statistics read, new or not */
	EVENT_VM_SAMPLE,	 /* .sample: cgroup and process read */
	EVENT_VM_RESIDENCY,	 /* .sample, its memory only: read between two samples, see core_watch_residency() */
	EVENT_VM_WSS,		 /* .wss: a window of its working set ended, or could not be measured */
	EVENT_VM_ADVICE,	 /* .advice: how memory advice goes, and that it is over */
	EVENT_VM_BALLOON,	 /* .bytes: BALLOON_CHANGE event */
	EVENT_VM_RESULT,	 /* .result: what became of an effect */
	EVENT_VM_QUARANTINE,	 /* .flag: a libvirt call does not come back (true) / came back (false) */
	/* from a person */
	EVENT_VM_PIN,	/* .bytes: resize to a size, 0 = auto */
	EVENT_VM_HOLD,	/* .flag */
	EVENT_VM_DRAIN, /* open the limit, deflate, hold */
	/*
	 * .flag true: it is about to migrate away. What its guest does not need is given back, by balloon alone: what
	 * is not there need not be sent. Told again while that goes on: it takes longer. false: it does not migrate
	 * after all; it gets its size of before.
	 */
	EVENT_VM_TRIM,
	EVENT_TYPE_END
};

enum vm_origin {
	ORIGIN_START = 1, /* a new guest is about to boot */
	ORIGIN_INCOMING,  /* incoming migration */
	ORIGIN_ADOPT,	  /* was running before memocd was */
};

/* Which time all of the memory is gone through, from 1 on; later passes read only what was changed since. */
#define PASS_UNKNOWN 0U
#define PASS_POSTCOPY UINT32_MAX /* the guest runs elsewhere: pages leave as they are asked for there */

enum effect_op { OP_BALLOON = 1, OP_LIMIT };

struct event {
	enum event_type type;
	uint64_t now_ms;
	vm_id vm;
	union {
		struct host_sample host;
		const struct core_config *config;
		struct {
			enum vm_origin origin;
			/* ORIGIN_INCOMING: what its balloon left it where it comes from (the XML that libvirt sends
			 * ahead, <currentMemory>); 0 = not known */
			uint64_t carried_bytes;
			struct vm_facts facts;
			struct vm_memory memory;
		} added;
		struct vm_facts facts;
		struct guest_stats stats;
		struct vm_host_sample sample;
		struct wss_reading wss;
		struct advice_report advice;
		uint64_t bytes;
		uint32_t pass;
		bool flag;
		struct {
			enum effect_op op;
			uint32_t seq;	/* of the effect */
			int code;	/* 0 or −errno */
			uint64_t bytes; /* OP_LIMIT: the limit in force now (LIMIT_NONE = open) */
		} result;
	};
};

#endif
