/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Working sets as numbers: how far a sample can be off, how many pages a sample needs, how readings become an estimate,
 * and which VM is worth a reading now. Pure arithmetic; what is read of which kernel file is another room's business
 * (controller/wss). Shares are 0..1; "error" is always the half width of a 95 % interval.
 */
#ifndef MEMOC_CORE_WSS_H
#define MEMOC_CORE_WSS_H

#include "controller/core/types.h"

/* Fewer pages than this say nothing (±9.8 %: what ESX takes). */
#define WSS_PAGES_LEAST 100

/*
 * Error of accessed/pages as an estimate of the share in a population of so many pages, drawn without replacement:
 * 1.96·√(p(1−p)/n · (N−n)/(N−1)), with Agresti's and Coull's p and n (1998), because with the plain ones a sample of
 * which no page was accessed would claim an error of nothing. 0 where all pages were looked at, 1 where none.
 */
double wss_error_share(uint64_t accessed, uint64_t pages, uint64_t population);
/*
 * What comes on top where some of the pages could not be judged and `share` was taken from the others: they may all be
 * in use, or none, so the share is off by at most their part × max(share, 1 − share). No interval but a bound.
 */
double wss_unjudged_share(double share, uint64_t unjudged, uint64_t pages);

/*
 * How many pages make an error of error_share likely, when the last reading said `share` ± share_error (0.5 ± 0.5 where
 * there was none): for the share nearest to a half that it allows, taken for 10 to 90 % because it may have jumped
 * since, with the finite population's correction. From WSS_PAGES_LEAST (or all there are) to `most`.
 */
uint32_t wss_pages_for(double share, double share_error, double error_share, uint64_t population, uint32_t most);

/*
 * Fast upwards and slow downwards, as ESX (Waldspurger 2002): the larger of a fast and a slow moving average. Growth
 * beyond a reading's error is believed at once; a fall within minutes; a single spike is forgotten sooner than a level
 * that lasted.
 */
struct wss_average {
	uint64_t fast_bytes, slow_bytes;
	uint64_t ms; /* of the last reading; NEVER is told by readings = 0 */
	uint64_t readings;
};
void wss_average_take(struct wss_average *a, uint64_t bytes, uint64_t error_bytes, uint64_t now_ms);
uint64_t wss_average_bytes(const struct wss_average *a); /* 0 where there was no reading */

/* ---- who is read next ---- */

/* A VM that can be read. */
struct wss_wish {
	vm_id vm;
	uint64_t age_ms;     /* of its last reading, known or not; UINT64_MAX: it never had one */
	uint64_t gain_bytes; /* what is at stake: memory it may not need, more where nothing else tells */
	uint64_t cost_ns;    /* of its last reading; a guess where there was none */
};

/* The processor time that readings may take, saved up while they take less; below zero where they took more. */
struct wss_budget {
	int64_t saved_ns;
	uint64_t ms;
};

/*
 * Puts those to be read now first, in order, and returns how many they are. Due is who was not read for period_ms. By
 * age times (1 + its part of the largest gain): most to gain first, and nobody waits for ever, because age grows. As
 * many as `budget` pays for at share (of one core), the last one perhaps on credit: so one that is dearer than all
 * savings is read too, and the wait that follows pays. Savings end at one period's worth.
 */
size_t wss_choose(struct wss_budget *budget, double share, uint64_t period_ms, uint64_t now_ms, struct wss_wish *wishes,
		  size_t n);
/* What readings took in the end, more or less than was reckoned with. */
void wss_settle(struct wss_budget *budget, uint64_t reckoned_ns, uint64_t took_ns);

/* "idle", "damon", "lru", "refault", "idle-host", "none"; "?" for an unknown value. */
const char *wss_backend_name(enum wss_backend b);

#endif
