/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Everything the core ever wants done. The caller carries effects out in order and answers EFFECT_BALLOON and
 * EFFECT_LIMIT with EVENT_VM_RESULT, always, also on failure.
 */
#ifndef MEMOC_CORE_EFFECT_H
#define MEMOC_CORE_EFFECT_H

#include "controller/core/event.h"

enum effect_type {
	EFFECT_BALLOON = 1, /* ask the balloon for `bytes` of guest memory */
	EFFECT_LIMIT,	    /* set the VM's cgroup limit to `bytes` (LIMIT_NONE = open) */
	EFFECT_RECORD,	    /* a decision or change worth telling: journal and event ring */
	EFFECT_FORGET,	    /* the VM is gone from the core; its id is free */
	/* Memory advice (controller/advice); how it goes comes back as EVENT_VM_ADVICE, at the end always. */
	EFFECT_ADVICE_BEGIN,  /* `bytes` of swap may be taken for pages of zeroes */
	EFFECT_ADVICE_FINISH, /* all was read once: what is left, and no more */
	EFFECT_ADVICE_STOP,   /* at once */
};

/* What a record tells; name by record_name(): the `event` field of `memoc events`. */
enum record_kind {
	RECORD_ADDED = 1,	  /* "added" */
	RECORD_STATE,		  /* "state": from → to in state_from/state_to */
	RECORD_TARGET,		  /* "target": the policy wants another size */
	RECORD_BALLOON,		  /* "balloon": a balloon request is sent */
	RECORD_LIMIT,		  /* "limit": a limit is sent */
	RECORD_LIMIT_CONFIRMED,	  /* "limit-confirmed" */
	RECORD_BALLOON_REACHED,	  /* "balloon-reached" */
	RECORD_BALLOON_STALLED,	  /* "balloon-stalled" */
	RECORD_BALLOON_BACK,	  /* "balloon-back" */
	RECORD_BALLOON_INHIBITED, /* "balloon-inhibited" */
	RECORD_BALLOON_RETRY,	  /* "balloon-retry" */
	RECORD_LIMIT_FAILED,	  /* "limit-failed" */
	RECORD_LIMIT_DRIFT,	  /* "limit-drift": someone else changed it; put back */
	RECORD_NEEDY,		  /* "needy" */
	RECORD_NEEDY_OVER,	  /* "needy-over" */
	RECORD_SILENT,		  /* "silent": a guest that is asked does not tell what it uses */
	RECORD_SILENT_OVER,	  /* "silent-over" */
	RECORD_DISTRUSTED,	  /* "distrusted": what it touches shows that what it says is wrong */
	RECORD_DISTRUSTED_OVER,	  /* "distrusted-over" */
	RECORD_DOUBLE_SWAP,	  /* "double-swap" */
	RECORD_DOUBLE_SWAP_OVER,  /* "double-swap-over" */
	RECORD_REBOOTED,	  /* "rebooted" */
	RECORD_PINNED,		  /* "pinned" */
	RECORD_HELD,		  /* "held" */
	RECORD_RELEASED,	  /* "released" */
	RECORD_DRAINED,		  /* "drained" */
	RECORD_FACTS,		  /* "policy": maximum, policy or eligibility changed */
	RECORD_QUARANTINED,	  /* "quarantined" */
	RECORD_QUARANTINE_OVER,	  /* "quarantine-over" */
	RECORD_ADVICE,		  /* "advice": what it did, when it is over */
	RECORD_WOULD,		  /* "would": observe-only decision */
	RECORD_GONE,		  /* "gone" */
	RECORD_LEVEL,		  /* "level": host level changed (no VM) */
	RECORD_SWAP_LOW,	  /* "swap-low" (no VM) */
	RECORD_SWAP_LOW_OVER,	  /* "swap-low-over" (no VM) */
	RECORD_END
};
const char *record_name(enum record_kind k);

#define EFFECT_REASON_LEN 128

struct effect {
	enum effect_type type;
	vm_id vm; /* 0: the host */
	uint64_t bytes;
	uint32_t seq; /* of a balloon or limit effect; comes back in the result */
	/* EFFECT_RECORD */
	enum record_kind record;
	enum vm_state state; /* the VM's state after it */
	uint64_t from_bytes, to_bytes;
	char reason[EFFECT_REASON_LEN];
};

/* A bounded list that the caller provides; room for core_effects_max() never overflows. */
struct effects {
	struct effect *list;
	size_t capacity, n;
	size_t dropped; /* records that did not fit; balloon, limit and forget effects are never dropped silently */
};

#endif
