/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All that the core knows of one VM, and the steps of its life. The struct is open for reading (the daemon shows it,
 * the policy weighs it); only the files of this room write it.
 */
#ifndef MEMOC_CORE_VM_H
#define MEMOC_CORE_VM_H

#include "controller/core/effect.h"
#include "controller/core/wss.h"

#define NEVER_MS UINT64_MAX

/* Signals of the state machine: what an event means for a VM. The table in vm_fsm.c has a cell for each state and
 * signal. */
enum vm_signal {
	SIG_RUNNING = 1,   /* vCPUs run */
	SIG_FRESH,	   /* guest statistics are believable */
	SIG_GRACE,	   /* they did not come in time, or are not to be expected */
	SIG_LOWER,	   /* the policy wants less */
	SIG_LOWER_NOW,	   /* … and the host cannot wait for balloons */
	SIG_RAISE,	   /* the policy wants more */
	SIG_BALLOON_DONE,  /* the balloon is where it was asked to be */
	SIG_BALLOON_STALL, /* it moves slower than min_speed */
	SIG_BALLOON_SKIP,  /* it is not worth asking: absent, stalled and not due, forbidden, quarantined */
	SIG_LIMIT_DONE,	   /* the limit is confirmed, or not to be used */
	SIG_LIMIT_FAIL,	   /* the kernel refused, repeatedly */
	SIG_NEEDY,	   /* the VM became needy */
	SIG_RETRY,	   /* time to try a stalled balloon again */
	SIG_REBOOT,
	SIG_PAUSE,
	SIG_MIGRATE_OUT,
	SIG_MIGRATE_OVER,
	SIG_STOP,
	SIG_FIX, /* not eligible any more */
	SIG_UNFIX,
	SIG_END
};

/* Why a target is what it is; the bounds that cut the policy's wish. Bits. */
enum vm_bound {
	BOUND_MIN = 1,
	BOUND_MAX = 2,
	BOUND_BUFFER = 4,
	BOUND_NEEDY = 8,
	BOUND_DWELL = 16,
	BOUND_NO_SWAP = 32,
	BOUND_DEAD_BAND = 64
};

/* Counters of a host sample, kept as the beginning of a rate. Unknown ones are 0. */
struct host_counters {
	uint64_t ms; /* 0 = none */
	bool has_major_faults, has_refaults, has_psi;
	uint64_t major_faults, refaults, psi_some_us;
};

/* Levels of its past demand that are kept of a VM: see vm_past_peak_bytes(). */
#define PAST_LEVELS 12

/* Memory advice of the migration (save, snapshot) that is under way. */
enum advice_state {
	ADVICE_NONE,
	ADVICE_GIVEN,
	ADVICE_ENDING, /* told to end; its last report is awaited */
	ADVICE_DONE    /* for this migration */
};

#define POLICY_SAMPLES 10 /* MOM's sample-history-length */

/*
 * What ported policies keep between rounds (policy.h), of a VM and of the host. Zeroed when the VM is added and when
 * another policy takes over; only the policy in use reads it. All members have 64 bits, so that there is no padding and
 * both can be recorded as an array of words.
 */
union policy_vm {
	struct {
		uint64_t balloon_bytes[POLICY_SAMPLES], unused_bytes[POLICY_SAMPLES];
		uint64_t n, next; /* samples in use, place of the next */
		uint64_t ready;	  /* 1: the last collection was complete */
	} mom;
	struct {
		uint64_t new_bytes; /* result of the round; 0 = none */
		uint64_t list;	    /* which list of the rules it is in */
		uint64_t done;	    /* 1: out of this pass */
	} pve;
	struct {
		uint64_t actual_bytes;		 /* at the last look */
		uint64_t new_bytes;		 /* target computed in this look */
		uint64_t progress_ms;		 /* when it last moved towards its target */
		uint64_t watched, stuck, active; /* 0 or 1 */
	} squeezed;
};

struct policy_host {
	uint64_t round_made, round_ms; /* the core's: last round of a policy with an interval of its own */
	uint64_t lacking_ms,
		lacking_until_ms; /* needy-greedy's: last that somebody lacked memory, and how long that counts */
	union {
		struct {
			uint64_t free_bytes[POLICY_SAMPLES];
			uint64_t n, next;	     /* as above */
			uint64_t started, decide_ms; /* last round of the rules, which is not each collection */
		} mom;
		struct {
			uint64_t balancing; /* 1: in the inner loop, until all targets are reached */
			uint64_t started,
				check_ms; /* last look whether the host is balanced, or end of the last loop */
		} squeezed;
	};
};

struct vm {
	vm_id id;
	enum vm_state state;
	enum vm_origin origin;
	struct vm_facts facts;
	uint64_t added_ms;
	uint64_t carried_bytes; /* arriving by migration: the size it had at its source; 0 = not known */
	bool booted;		/* judged once: from then on its size counts, not a reservation */

	/* --- what was seen last --- */
	struct guest_stats stats;
	bool has_stats;
	uint64_t stats_ms;	 /* when last_update_s last moved on */
	unsigned stats_advances; /* since the guest (re)started or resumed; believable from 2 on */
	uint64_t asked_ms;	 /* when statistics were read last, whatever they said */
	uint64_t silent_from_ms; /* asked since then, and never a word of what it uses */
	bool silent;		 /* so for long: see vm_by_limit_alone() */
	bool distrusted;	 /* its working set showed that its word is wrong: likewise; see vm_wss.c */
	bool hoarder;		 /* it did not even claim to be in need: it keeps its share */
	bool accused;		 /* by a plan, for the rest of the step */
	uint64_t claim_ms;	 /* when it last said that it lacks memory, believed or not, or could not speak */
	uint64_t evidence_ms;	 /* when its working set was last known */
	uint64_t trust_ms;	 /* so long without such a word, and it is believed again; 0: it never was distrusted */
	bool by_limit;		 /* its balloon is left empty: for that, and until it has what it then says it uses */
	struct vm_host_sample sample;
	bool has_sample;
	uint64_t sample_ms;
	uint64_t actual_bytes; /* balloon; 0 = unknown */
	bool actual_seen;      /* reported since memocd knows the VM, not only remembered */
	uint64_t actual_change_ms;
	bool actual_trusted; /* false after a reboot until the driver shows itself */
	bool actual_stale;   /* not changed since a reboot: perhaps still what the guest of before had */
	uint64_t actual_ms;
	uint64_t overhead_bytes; /* estimate of QEMU's own memory */
	bool overhead_measured;
	uint64_t guest_ram_bytes, guest_ram_ms; /* RAM that exists, as last measured */
	uint64_t hidden_bytes;			/* RAM the guest's kernel does not count in its own total */
	bool total_shrinks;			/* its total was seen to shrink with its balloon: no deflate-on-oom */

	/* --- rates --- */
	bool has_guest_rates, has_host_rates;
	double guest_swap_in_per_s, guest_swap_out_per_s; /* bytes */
	uint64_t guest_swap_delta_bytes;		  /* in + out between the last two statistics */
	double host_faults_per_s, host_faults_before_per_s;
	uint64_t faulting_ms; /* significant faults since then; NEVER_MS = there are none */
	struct host_counters counters_from, counters_next; /* begin of the rates below, and of those to come */
	bool has_lasting_faults, has_refault_rate, has_stall;
	double lasting_faults_per_s, host_refaults_per_s; /* over 3 to 6 s, see demand.c */
	double stall_share;				  /* 0..1: some task of it waited for memory */
	uint64_t rate_stats_ms, rate_sample_ms;

	/* --- between two statistics: what became present since the last ones, see demand.c --- */
	uint64_t surge_from_bytes; /* touched then, QEMU's own included; 0 = to be seen at the next look */
	uint64_t present_ms;	   /* last look */
	uint64_t surge_bytes;
	uint64_t surge_sign_ms; /* when that alone last made it needy */

	/* --- working set, see vm_wss.c --- */
	struct wss_reading wss; /* the last one */
	uint64_t wss_ms;	/* when it came; NEVER_MS = none since the guest (re)started */
	uint64_t wss_from_ms;	/* windows that began before say nothing: another guest, or it was paused */
	struct wss_average wss_average;
	bool wss_overclaims, wss_underclaims; /* it says it uses more, or less, than it touches */
	uint64_t untouched_ms; /* since when each window saw less than half of what it says it uses; NEVER_MS: not so */
	uint64_t untouched_of_bytes; /* what it said at the last of them */

	/* --- estimates, see demand.c --- */
	uint64_t demand_bytes;
	double demand_confidence;		    /* 0..1 */
	uint64_t estimate_ms;			    /* of the last estimate; NEVER_MS = none */
	uint64_t used_bytes, used_ms;		    /* last that the guest's own account made sense; NEVER_MS = never */
	uint64_t blind_until_ms;		    /* the guest's word is awaited: nothing is taken before */
	uint64_t growth_from_bytes, growth_from_ms; /* demand at the last statistics */
	uint64_t grown_bytes;			    /* from the statistics before to those */
	double growth_mean_bytes_per_s, growth_dev_bytes_per_s;
	uint64_t used_before_bytes[2]; /* used_bytes at the last statistics, and at those before; 0 = none */
	double noise_bytes;	       /* of used_bytes: mean of what went to and fro from statistics to statistics */
	uint64_t headroom_bytes, need_bytes, greedy_bytes;
	/* what it used once and when it used so much last: heights fall and times rise from [0] on */
	uint64_t past_bytes[PAST_LEVELS], past_ms[PAST_LEVELS], past_n;
	uint64_t usable_bytes, usable_ms; /* left at the last sign of need that it had too little; NEVER_MS = never */
	bool left_known;		  /* by its last statistics; what the balloon returned since counts in */
	uint64_t left_bytes;
	uint64_t stats_size_bytes[3]; /* its size when the last statistics came, those before, and before those; 0 =
					 none */
	uint64_t host_floor_bytes,
		host_floor_until_ms; /* size at which the host last saw it fault: not below until then */
	bool needy;
	bool host_need; /* its host sees so, too */
	uint64_t needy_since_ms, needy_sign_ms;
	bool insatiable;       /* all it may have did not end its need for minutes; until the need ends */
	unsigned needy_rounds; /* growths that did not end it */
	double need_score;     /* weighted; orders the needy */
	unsigned rank;	       /* 1 = neediest; 0 = not needy */
	char needy_why[80];

	/* --- target and how it is being reached --- */
	uint64_t target_bytes; /* guest memory the VM is to have */
	bool balloon_unsure;   /* whether QEMU has that request is not known: memocd was killed, or nothing moved */
	uint64_t balloon_asked_bytes; /* last request sent; 0 = none */
	uint64_t limit_asked_bytes;   /* last limit sent */
	uint64_t limit_bytes;	      /* in force as far as known; LIMIT_NONE = open */
	bool limit_known;
	bool limit_ours;		     /* set by memoc, so memoc's to open */
	bool balloon_pending, limit_pending; /* effect sent, result not seen */
	uint32_t balloon_seq, limit_seq;
	unsigned limit_failures;
	uint64_t limit_sent_ms, limit_result_ms, balloon_sent_ms;
	uint64_t lowered_ms;		      /* when its limit last went down; 0 = never */
	uint64_t limit_hold_ms;		      /* no new try by limit before: the last one came to nothing */
	uint64_t progress_ms, progress_bytes; /* of residency while the limit is lowered */
	uint64_t limit_drift_ms;
	uint64_t step_ms;		 /* when the next limit step may follow */
	uint64_t op_ms, op_actual_bytes; /* balloon operation began, and where */
	bool op_growing;
	uint64_t window_ms, window_actual_bytes; /* progress window */
	uint64_t deadline_ms;			 /* of the state: stall window or grace */

	/* --- balloon health --- */
	enum balloon_health health;
	uint64_t speed_bytes_per_s, floor_bytes;
	uint64_t retry_delay_ms, retry_at_ms;
	uint64_t inhibit_suspect_ms;

	/* --- policy's plan of this round --- */
	uint64_t plan_bytes;
	uint64_t wish_bytes; /* what it asks for this time, beyond what is granted */
	bool plan_urgent;    /* by the limit, at once */
	char plan_reason[EFFECT_REASON_LEN];
	unsigned bounds;		/* enum vm_bound */
	char reason[EFFECT_REASON_LEN]; /* of the target in force */
	uint64_t would_bytes;		/* observe only: last told */

	/* --- stability --- */
	uint64_t grow_ms, shrink_ms; /* last changes of target; NEVER_MS = never */
	uint64_t dwell_ms;	     /* current, doubled by reversals */
	uint64_t change_ms;

	/* --- double swapping --- */
	unsigned double_swap_signs;
	bool double_swap;
	uint64_t double_swap_ms, double_swap_until_ms;

	/* --- memory advice, see vm_advice.c --- */
	enum advice_state advice_state;
	struct advice_report advice; /* of the last time */
	uint64_t advice_ms;	     /* when that began; 0 = never */
	bool advice_room_due;	     /* the limit may still be raised for this reading */
	bool advice_stopped;	     /* what is ending is of a migration that is over */
	bool advice_again;	     /* and the next has begun: advised when the last word of that has come */
	uint64_t advice_limit_bytes; /* what the limit is to go back to; 0 = it was not raised */

	/* --- a person's word --- */
	uint64_t pinned_bytes;
	uint64_t trim_until_ms;	  /* about to migrate away: what is not needed stays away; 0 = no */
	uint64_t trim_from_bytes; /* its size before that */
	bool held, drained, quarantined;

	union policy_vm policy_memory;
};

/* What every step of a VM needs. */
struct vm_ctx {
	const struct core_config *config;
	const struct host_sample *host;
	bool swap_low; /* host swap below keep_free */
	bool hold_all;
	enum host_level level;
	int64_t buffer_bytes; /* as the step began */
	uint64_t now_ms;
	struct effects *out;
};

/* ---- sizes; bytes of guest memory unless said otherwise. These are asked for at every look: inline ---- */
/* Saturating. */
static inline uint64_t share_of(uint64_t bytes, double share)
{
	double part = (double)bytes * share;
	return part >= 0x1p64 ? UINT64_MAX : part > 0 ? (uint64_t)part : 0;
}

static inline uint64_t vm_max_bytes(const struct vm *vm)
{
	uint64_t wish = vm->facts.policy.max_bytes;
	return wish ? min_u64(wish, vm->facts.max_bytes) : vm->facts.max_bytes;
}

static inline uint64_t vm_min_bytes(const struct vm *vm, const struct core_config *c)
{
	uint64_t given = vm->facts.policy.min_bytes;
	if (!given)
		given = share_of(vm->facts.max_bytes, c->min_share);
	return min_u64(given, vm_max_bytes(vm));
}

static inline uint64_t vm_dead_band_bytes(const struct vm *vm, const struct core_config *c)
{
	return max_u64(4 * MIB, share_of(vm->facts.max_bytes, c->dead_band));
}

/* Enforces the size by itself. */
static inline bool vm_balloon_works(const struct vm *vm)
{
	return vm->actual_trusted && (vm->health == BALLOON_WORKING || vm->health == BALLOON_SLOW);
}

/* Reset since its balloon last spoke: it is empty, whatever QEMU still says. */
static inline bool vm_balloon_forgotten(const struct vm *vm)
{
	return vm->actual_stale && !vm->actual_trusted;
}

/* What it can use now without swapping: without what the balloon took, if that can be believed, and without what the
 * limit keeps from it. */
static inline uint64_t vm_size_bytes(const struct vm *vm)
{
	uint64_t size = vm->facts.max_bytes;
	if (vm->actual_trusted && vm->actual_bytes && vm->health != BALLOON_INHIBITED)
		size = min_u64(size, vm->actual_bytes);
	if (vm->limit_known && vm->limit_bytes != LIMIT_NONE)
		size = min_u64(size, sub_sat_u64(vm->limit_bytes, vm->overhead_bytes));
	return size;
}

/* They came lately. */
static inline bool vm_stats_recent(const struct vm *vm, const struct core_config *c, uint64_t now_ms)
{
	return vm->has_stats && vm->stats_advances >= 2 && now_ms - vm->stats_ms <= c->stale_ms;
}

/* And are believed. */
static inline bool vm_stats_fresh(const struct vm *vm, const struct core_config *c, uint64_t now_ms)
{
	return vm_stats_recent(vm, c, now_ms) && !vm->distrusted;
}

/* ---- the same (vm.c) ---- */
uint64_t vm_resident_guest_bytes(const struct vm *vm); /* residency without overhead; 0 where unknown */
uint64_t vm_committed_bytes(const struct vm *vm);      /* counted against the pool, overhead included */
uint64_t vm_limit_margin_bytes(const struct vm *vm);
/* Its balloon holds its size, and a limit only backs that up: with a margin, because it must not swap QEMU's own
 * memory. */
bool vm_limit_backs_up(const struct vm *vm, const struct vm_ctx *x);
/* cgroup limit that lets it use size_bytes; LIMIT_NONE where that is all */
uint64_t vm_limit_for(const struct vm *vm, const struct vm_ctx *x, uint64_t size_bytes);
bool vm_balloon_allowed(const struct vm *vm,
			const struct core_config *c);		    /* device there, not forbidden, not quarantined */
bool vm_limit_allowed(const struct vm *vm, const struct vm_ctx *x); /* may host swap take the rest */
/*
 * A guest with a working balloon that tells nothing of itself (Windows without its balloon service), or nothing that is
 * true: whether a balloon hurts it nobody would see, while a limit shows in its faults on the host. So its balloon is
 * emptied and the limit alone sizes it, where limits may be used. Not while a person has pinned its size.
 */
bool vm_by_limit_alone(const struct vm *vm, const struct vm_ctx *x);
bool vm_limit_alone_works(const struct vm *vm, const struct vm_ctx *x); /* could the limit alone size it */
bool vm_balloon_usable(const struct vm *vm,
		       const struct vm_ctx *x); /* to shrink it: allowed, and it is not by limit alone */
uint64_t vm_shrink_floor_bytes(const struct vm *vm,
			       const struct vm_ctx *x); /* no way below; UINT64_MAX: no way at all */
const char *vm_limit_forbidden_why(const struct vm *vm, const struct vm_ctx *x); /* NULL where allowed */
bool vm_plannable(const struct vm *vm, const struct vm_ctx *x); /* may the policy change its target now */
/* What a balloon would take from it for nothing: what it has beyond demand and headroom. 0, and why not, where that is
 * not known or no balloon takes it. ret_why may be NULL. */
uint64_t vm_spare_bytes(const struct vm *vm, const struct vm_ctx *x, const char **ret_why);

/* ---- effects (effect.c) ---- */
struct effect *effect_add(struct effects *out, enum effect_type type, vm_id vm);
void record(struct vm_ctx *x, const struct vm *vm, enum record_kind kind, uint64_t from_bytes, uint64_t to_bytes,
	    const char *fmt, ...) PRINTF_LIKE(6, 7);
void vm_send_balloon(struct vm *vm, struct vm_ctx *x, uint64_t bytes);
void vm_send_limit(struct vm *vm, struct vm_ctx *x, uint64_t bytes);

/* ---- state machine (vm_fsm.c) ---- */
void vm_signal(struct vm *vm, enum vm_signal sig, struct vm_ctx *x);
const char *vm_signal_name(enum vm_signal sig);
/* The cell of the table, for tests: next state (0 = invalid, must not exist) and the action's name. */
enum vm_state vm_table_next(enum vm_state s, enum vm_signal sig, const char **ret_action);

/* ---- balloon and limit work between signals (resize.c) ---- */
void vm_balloon_moved(struct vm *vm, struct vm_ctx *x, uint64_t actual_bytes);
void vm_limit_result(struct vm *vm, struct vm_ctx *x, int code, uint64_t limit_bytes);
void vm_balloon_result(struct vm *vm, struct vm_ctx *x, int code);
void vm_timer(struct vm *vm, struct vm_ctx *x);	   /* deadlines that have come */
void vm_maintain(struct vm *vm, struct vm_ctx *x); /* each tick: next limit step, drift, backstop, retry, inhibition,
						      what never came */
uint64_t vm_next_deadline_ms(const struct vm *vm);
/* Used by the state machine's actions. Each returns the signal that follows at once, or 0. */
enum vm_signal resize_ask_balloon(struct vm *vm, struct vm_ctx *x, bool growing);
enum vm_signal resize_lower_limit(struct vm *vm, struct vm_ctx *x);
enum vm_signal resize_raise_limit(struct vm *vm, struct vm_ctx *x);
void resize_watch_balloon(struct vm *vm, struct vm_ctx *x, bool growing,
			  bool retry); /* judged from now on, where it is worth it */
uint64_t resize_open_limit_for(const struct vm *vm, const struct vm_ctx *x, uint64_t size_bytes);
void resize_stalled(struct vm *vm, struct vm_ctx *x, bool growing);

/* ---- memory advice (vm_advice.c) ---- */
/* A pass begins, or is found under way; the state machine has heard of it. */
void vm_advice_pass(struct vm *vm, struct vm_ctx *x, uint32_t pass);
void vm_advice_report(struct vm *vm, struct vm_ctx *x, const struct advice_report *r);
void vm_advice_over(struct vm *vm, struct vm_ctx *x);	  /* the migration failed or was cancelled */
void vm_advice_gone(struct vm *vm, struct vm_ctx *x);	  /* the VM goes */
void vm_advice_maintain(struct vm *vm, struct vm_ctx *x); /* each tick: a raised limit is to go back */
/* The answer to the limit sent last; before_bytes was in force. */
void vm_advice_limit_result(struct vm *vm, struct vm_ctx *x, int code, bool reached, uint64_t before_bytes);

/* ---- working set (vm_wss.c) ---- */
/* A reading came: averages, and what it says of the guest's own word. */
void vm_take_wss(struct vm *vm, struct vm_ctx *x, const struct wss_reading *r);
/* What was read is of another time: after a reboot or resume. */
void vm_forget_wss(struct vm *vm, uint64_t now_ms);
/* It became needy, or is not any more: what is claimed is another thing now. */
void vm_wss_new_claim(struct vm *vm);
/* Once an estimate: whether a guest that is distrusted still is. */
void vm_review_distrust(struct vm *vm, struct vm_ctx *x);
/* It was reset: another guest, of which nothing is known. */
void vm_forget_distrust(struct vm *vm, struct vm_ctx *x);
/* Is there an estimate that is still believed? Until vm_wss_until_ms(). */
bool vm_wss_known(const struct vm *vm, uint64_t now_ms);
uint64_t vm_wss_until_ms(const struct vm *vm);	  /* NEVER_MS: nothing is known that could become old */
uint64_t vm_wss_bytes(const struct vm *vm);	  /* the average; at most its maximum */
uint64_t vm_wss_error_bytes(const struct vm *vm); /* of that: the last reading's, and how far the average is from it */
/* It claims to be in need, and what was measured, and is still believed, says that it is not. */
bool vm_wss_overclaims(const struct vm *vm, uint64_t now_ms);
/* For ten minutes and longer it has touched less than half of what it says it uses, as far as is known. */
bool vm_wss_untouched(const struct vm *vm, uint64_t now_ms);
/* And says so now, needs nothing, and its limit alone can size it: what it does not touch may be had of it. */
bool vm_hoards(const struct vm *vm, const struct vm_ctx *x);
/* It is distrusted for that, but keeps its credit. */
void vm_accuse(struct vm *vm, struct vm_ctx *x);

/* ---- estimators (demand.c) ---- */
void vm_take_stats(struct vm *vm, struct vm_ctx *x, const struct guest_stats *s);
void vm_take_sample(struct vm *vm, struct vm_ctx *x, const struct vm_host_sample *s);
/* Memory of the sample only: what the guest touched since its statistics. */
void vm_take_residency(struct vm *vm, const struct vm_ctx *x, const struct vm_host_sample *s);
/* Its parts: statistics came; a look at its residency came, that is in the sample already. */
void vm_surge_begins(struct vm *vm, uint64_t now_ms);
void vm_note_stats_size(struct vm *vm);
void vm_note_surge(struct vm *vm, uint64_t now_ms);
/* What vm_take_sample() keeps of counters that have been the same for so long that all their rates are 0. */
void vm_counters_stand(struct vm *vm, uint64_t now_ms);
bool vm_surge_visible(const struct vm *vm, const struct core_config *c, uint64_t now_ms);
/*
 * The host's signs of need, each as a multiple of what is significant: 1 and more is need. 0 where the VM is not at its
 * limit or the sign is unknown. Thresholds: needy_faults; eight refaults for each such fault (readahead); needy_stall.
 */
struct host_signs {
	bool at_limit;
	bool cold; /* faults with hardly any refaults after its limit went down: not counted for a while */
	double faults, refaults, stall;
};
struct host_signs vm_host_signs(const struct vm *vm, const struct core_config *c, uint64_t now_ms);
void vm_estimate(struct vm *vm, struct vm_ctx *x); /* demand, headroom, need, greedy, needy */
/* What vm_estimate() keeps of a look that showed the same use. */
void vm_note_use(struct vm *vm, uint64_t now_ms);
/* The same for a VM at rest (rest.h) after statistics that said nothing new. Returns whether only times and its
 * decaying growth changed; otherwise its estimates. */
bool vm_estimate_again(struct vm *vm, struct vm_ctx *x);
#define DEMAND_DECAY_MS 10000 /* falling demand is believed after this; rising at once */
#define SAMPLE_APART_MS 100   /* two looks nearer to each other say nothing of a rate */
/* What it uses by its last statistics, believed or not; false: they do not tell. */
bool vm_guest_used_bytes(const struct vm *vm, uint64_t *ret);
/* RAM that the guest's kernel keeps from its own total, as far as it shows now. */
uint64_t vm_hidden_bytes(const struct vm *vm, uint64_t now_ms);
bool vm_total_shrinks(const struct vm *vm, uint64_t now_ms); /* likewise */
/* The most it has used from since_ms on by its own account; 0 where nothing of that time is known. */
uint64_t vm_past_peak_bytes(const struct vm *vm, uint64_t since_ms);
/* Where its demand went the last time that it was above `bytes`; 0 = it never was, or that is forgotten. */
uint64_t vm_past_above_bytes(const struct vm *vm, uint64_t bytes);
/* Usable memory so low that the guest is about to reclaim in earnest. */
uint64_t vm_low_usable_bytes(const struct vm *vm);
void vm_watch_double_swap(struct vm *vm, struct vm_ctx *x); /* once a tick */
void vm_forget_signals(struct vm *vm); /* after a reboot or resume: nothing from the guest is believed */
void vm_forget_account(struct vm *vm); /* what it said of its use and its growth, and what that led to */

#endif
