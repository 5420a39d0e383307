/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How much can be promised: the highest overcommit at which demand is still met but for one part in a thousand. */
#include "controller/sim/sim.h"

#define UNMET_MAX 0.001 /* of demand (policy.md) */
#define RATIO_MIN 1.0	/* every VM has its size: nothing can be unmet */
#define RATIO_MAX 1024.0
#define PRECISION 1.01

#define RUNS_MOST 17.0 /* twice ten times, seven halves; mostly fewer */

struct search {
	const struct sim_watch *watch;
	unsigned runs;
};

static void tell_progress(void *user, double done)
{
	const struct search *s = user;
	double all = ((double)s->runs + done) / RUNS_MOST;
	s->watch->progress(s->watch->user, all > 1 ? 1 : all);
}

static int holds(const struct sim_options *o, struct search *s, double ratio, bool *ret, struct memoc_err *err)
{
	const struct sim_watch watch = {.progress = tell_progress, .user = s};
	struct sim_options at = *o;
	struct sim_result result;
	at.pool_bytes = 0;
	at.overcommit = ratio;
	int r = sim_run(&at, s->watch && s->watch->progress ? &watch : NULL, &result, err);
	s->runs++;
	if (r == 0)
		*ret = result.unmet_byte_s <= UNMET_MAX * result.demand_byte_s;
	return r;
}

int sim_density(const struct sim_options *o, const struct sim_watch *watch, double *ret_overcommit,
		struct memoc_err *err)
{
	struct search s = {.watch = watch};
	double low = RATIO_MIN, high = 2 * RATIO_MIN;
	bool good = true;
	int r = 0;
	while (r == 0 && good && high <= RATIO_MAX) {
		r = holds(o, &s, high, &good, err);
		if (r == 0 && good)
			low = high, high *= 2;
	}
	high = low >= RATIO_MAX ? low : high; /* where that many fit the bound is what was looked at */
	while (r == 0 && high / low > PRECISION) {
		double middle = (low + high) / 2;
		r = holds(o, &s, middle, &good, err);
		if (r == 0 && good)
			low = middle;
		else
			high = middle;
	}
	if (r == 0)
		*ret_overcommit = low;
	return r;
}
