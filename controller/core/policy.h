/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a policy is: a function that looks at all VMs and the books and writes a wished size into each VM's plan. The
 * core then turns wishes into signals; dead band, observe-only and holds are not the policy's business.
 *
 * needy-greedy is memoc's own. The others are there to be compared with it, on a real host or in the simulator: `mom`,
 * `pve` and `squeezed` follow the published rules of oVirt MOM, Proxmox VE and xapi's squeezed, `static` shares the
 * pool out once. They decide by their own rules alone: the flags below keep the core's rules away from them.
 */
#ifndef MEMOC_CORE_POLICY_H
#define MEMOC_CORE_POLICY_H

#include "controller/core/core.h"

struct plan {
	const struct core_config *config;
	const struct host_sample *host;
	struct books *books; /* the policy sets unmet_bytes */
	struct vm_ctx *ctx;
	struct vm **vms; /* plannable ones only; may be reordered */
	size_t n;
	struct vm *const *all; /* every VM, to look at */
	size_t all_n;
	uint64_t now_ms;
	struct policy_host *memory; /* kept from round to round */
};

struct policy_ops {
	const char *name;
	const char *about; /* one line: whose rules these are */
	/* plan_bytes of every VM is its current target on entry; change it, with plan_reason and plan_urgent, where
	 * another is wished. */
	void (*plan)(struct plan *p);
	/*
	 * A round that would change nothing need not be made. `wishes`: may plan() change anything for the sake of this
	 * VM alone, whose plan_bytes is the current target? Follows from the VM and the configuration only. `at_ease`:
	 * where no VM does, would plan() leave all as it is, with nothing unmet? Follows from the books only. Without
	 * at_ease (NULL) plan() is called in each round.
	 */
	bool (*wishes)(const struct vm *vm, const struct core_config *config);
	bool (*at_ease)(const struct books *b);
	/* Time between two calls of plan(), which then come at ticks only. 0: at each tick and event. */
	uint64_t interval_ms;
	/*
	 * What plan() writes is done as it is. The core adds none of its own rules: no dead band, no guaranteed
	 * minimum, needy VMs are shrunk and a shrink goes on when its VM becomes needy. Pinned VMs (`memoc resize`) are
	 * not shown to such a policy: the core takes them to their size.
	 */
	bool own_bounds;
	/* Balloons only: limits are opened and stay open, and a balloon that stalls ends the shrink. */
	bool balloon_only;
};

extern const struct policy_ops policy_needy_greedy, policy_static, policy_mom, policy_pve, policy_squeezed;
/* All that memocd can run, ends with NULL. The simulator has more of its own: they use core_config.policy_data. */
extern const struct policy_ops *const policy_list[];
/* NULL: no policy of that name. */
const struct policy_ops *policy_find(const char *name);

/* ---- for the ports (policy_list.c) ---- */
/*
 * Free memory of the host as a peer sees it. Its host is memoc's pool: total is pool_bytes, free is what of it no VM
 * has resident, as MemFree + Buffers + Cached would say, and never more than the host has.
 */
uint64_t policy_host_free_bytes(const struct plan *p);
/* The balloon's size as libvirt and QEMU tell it, believed or not: peers do not doubt it. All where it is unknown. */
uint64_t policy_balloon_bytes(const struct vm *vm);

/* ---- headroom (policy_needy_greedy.c) ---- */
/* So little that a VM is neither tight nor has low usable memory, with something between: what even a short host leaves
 * to those who are not in need. */
uint64_t vm_least_headroom_bytes(const struct vm *vm);

/* ---- doubt (policy_needy_greedy.c) ---- */
/* What a VM has of the pool where all have alike: by its maximum and weight, at most its maximum. */
uint64_t vm_fair_share_bytes(const struct vm *vm, const struct books *b);
/* What a VM may have whatever it says: its fair share, and what it is seen to touch, with the error of that and
 * headroom to grow: who is not believed is judged by its working set. */
uint64_t vm_credit_bytes(const struct vm *vm, const struct books *b);
/*
 * Needy for five minutes on end with nearly all that it may have: either what it says is not true or it wants more than
 * its maximum. Until its need ends it has no claim beyond its credit: above that it gets no more, and where others are
 * in need or the host is short it can be taken. Also who claims to be in need and touches little (vm_wss.c).
 */
bool vm_doubted(const struct vm *vm, const struct books *b);

/* ---- books.c ---- */
/* What one VM counts for in the books. */
struct booked {
	uint64_t max_bytes, granted_bytes, resident_bytes, swapped_bytes;
};
struct booked booked_of(const struct vm *vm);
/* Over all VMs, and wide enough to be exact: what one VM counts for is put in and taken out without looking at others.
 */
struct book_sums {
	unsigned __int128 max_bytes, granted_bytes, resident_bytes, swapped_bytes;
};
/* A VM counted for `from` (NULL: it was not in) and counts for `to` (NULL: it is not any more). */
void book_sums_move(struct book_sums *s, const struct booked *from, const struct booked *to);
/* Books of that many VMs from their sums, saturated. Buffer's target, level, unmet and swap_low stay as they are. */
void books_set(struct books *b, const struct core_config *c, const struct book_sums *s, size_t vms);
/* The same from the VMs themselves, all of them. */
void books_update(struct books *b, const struct core_config *c, const struct host_sample *host, struct vm *const *vms,
		  size_t n);
/* Level with hysteresis from the buffer's fill and the host's own free memory. */
/*
 * What the host's own pressure asks for, HIGH where nothing: it is short (available below its reserve), all that runs
 * stalls (/proc/pressure/memory, full avg10, sustained by its averaging), and VMs are the cause: with what is free they
 * have the whole pool. Where others have eaten into the pool, squeezing VMs for them is left to the rule of half the
 * reserve. SOFT from 10 %, HARD from 30 %: systemd-oomd kills at 60 %, and VMs should have given before. Each is left
 * at half of that.
 */
enum host_level books_pressure_level(const struct books *b, enum host_level before, const struct core_config *c,
				     const struct host_sample *host);
enum host_level books_level(const struct books *b, enum host_level before, const struct core_config *c,
			    const struct host_sample *host);
/* Memory that may be granted now: the buffer, but never more than the host really has free. */
uint64_t books_available(const struct books *b, const struct core_config *c, const struct host_sample *host);

#endif
