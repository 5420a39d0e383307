/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Has the kernel's own reclaim taken accessed bits away within a window? The classic LRU tells page_idle when it does
 * (folio_referenced_one); the multi-generational one keeps what it finds for its generations and tells nobody, neither
 * where it walks page tables (aging) nor where it looks around a page that is to go. A page that was used before that
 * and not after still bears its idle bit then: the reading would be too low, by any amount.
 */
#ifndef MEMOC_WSS_AGING_H
#define MEMOC_WSS_AGING_H

#include "controller/wss/backend.h"

enum aging_told_by {
	AGING_HARMLESS,	      /* no multi-generational LRU, or one that does not see this guest's accesses */
	AGING_BY_SCANS,	      /* pgscan and pgrefill of the VM's cgroup: v2 */
	AGING_BY_GENERATIONS, /* the youngest of its generations, by debugfs: v1. Does not show what only looks around */
};

struct aging {
	enum aging_told_by by;
	uint64_t count;
};

/* At the begin. 0; −EOPNOTSUPP: it may happen and nothing here would tell. */
int aging_begin(const struct wss *w, const struct wss_target *t, struct aging *ret, struct memoc_err *err);
/* At the end, after all has been read. 0: it did not happen; −EBUSY: it did. */
int aging_end(const struct wss_sample *s, const struct aging *begin, struct memoc_err *err);

#endif
