/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Has the kernel's own reclaim taken accessed bits away within a window? The classic LRU tells page_idle when it does
 * (folio_referenced_one); the multi-generational one keeps what it finds for its generations and tells nobody. A page
 * that was used before that and not after still bears its idle bit then: the reading would be too low.
 *
 *   an aging run takes the bits of all pages      the youngest generation has a new number: no reading
 *   a look around a page that was to go and was   scans that freed nothing tell how often at most: the error is wider,
 *   found in use takes those of 64                or too wide for a reading
 */
#ifndef MEMOC_WSS_AGING_H
#define MEMOC_WSS_AGING_H

#include "controller/wss/estimator.h"

struct aging {
	bool harmful;	  /* there is a multi-generational LRU that sees this guest's accesses */
	bool scans_known; /* v2 */
	uint64_t scanned, stolen;
	uint64_t host_reclaims; /* how often anybody reclaimed for the host's sake: may age without a scan */
	bool generation_known;	/* reading it is dear: only where there were scans before, or nothing else tells (v1) */
	uint64_t generation;
};

/* At the begin. 0; −EOPNOTSUPP: it may happen and nothing here would tell. */
int aging_begin(const struct wss *w, const struct wss_target *t, struct aging *ret, struct memoc_err *err);
/* At the end, after all has been read. 0: bits are good, but for those of this share of RAM at most; −EBUSY: they are
 * not. */
int aging_end(const struct wss_sample *s, const struct aging *begin, double *ret_share, struct memoc_err *err);

#endif
