/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a policy is: a function that looks at all VMs and the books and writes a wished size into each VM's plan. The
 * core then turns wishes into signals; dead band, observe-only and holds are not the policy's business.
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
	uint64_t now_ms;
};

struct policy_ops {
	const char *name;
	/* plan_bytes of every VM is its current target on entry; change it, with plan_reason and plan_urgent, where
	 * another is wished. */
	void (*plan)(struct plan *p);
};

extern const struct policy_ops policy_needy_greedy;
/* NULL: no policy of that name. */
const struct policy_ops *policy_find(const char *name);

/* ---- books.c ---- */
void books_update(struct books *b, const struct core_config *c, const struct host_sample *host, struct vm *const *vms,
		  size_t n);
/* Level with hysteresis from the buffer's fill and the host's own free memory. */
enum host_level books_level(const struct books *b, enum host_level before, const struct core_config *c,
			    const struct host_sample *host);
/* Memory that may be granted now: the buffer, but never more than the host really has free. */
uint64_t books_available(const struct books *b, const struct core_config *c, const struct host_sample *host);

#endif
