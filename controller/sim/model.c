/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Settings of the host model: their defaults, and `--model key=value`. */
#include "controller/sim/sim.h"
#include "common/parse.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct sim_model sim_model_default(void)
{
	return (struct sim_model){
		/* policy.md; measured with virtio-balloon on a desktop host: 0.95 and 2.34 GiB/s */
		.balloon_take_bytes_per_s = GIB / 100 * 95,
		.balloon_return_bytes_per_s = GIB / 100 * 234,
		.limit_reclaim_bytes_per_s = GIB,
		/* so MOM's rules have the regret that policy.md knows: 0.36 % at overcommit 4, 6.5 at 6 */
		.touch_bytes_per_s = MIB,
		.stats_period_ms = 1000,
		.wss_pages = 2401, /* 95 % confidence of ±2 % */
		.wss_period_ms = 60000,
		.swap_bytes = 64 * GIB,
		.minimums_share = 0.01,
	};
}

enum kind { KIND_SPEED, KIND_DURATION, KIND_PAGES, KIND_SIZE, KIND_SHARE };

static const struct key {
	const char *name;
	enum kind kind;
	size_t offset;
	uint64_t min, max;
} keys[] = {
	/* speeds: nothing moves at 0, and 1 PiB/s moves everything in a step */
	{"balloon_take", KIND_SPEED, offsetof(struct sim_model, balloon_take_bytes_per_s), 1, UINT64_C(1) << 50},
	{"balloon_return", KIND_SPEED, offsetof(struct sim_model, balloon_return_bytes_per_s), 1, UINT64_C(1) << 50},
	{"limit_reclaim", KIND_SPEED, offsetof(struct sim_model, limit_reclaim_bytes_per_s), 1, UINT64_C(1) << 50},
	{"touch", KIND_SPEED, offsetof(struct sim_model, touch_bytes_per_s), 0, UINT64_C(1) << 50},
	{"stats_period", KIND_DURATION, offsetof(struct sim_model, stats_period_ms), 100, 3600000},
	{"wss_pages", KIND_PAGES, offsetof(struct sim_model, wss_pages), 0, 1000000},
	{"wss_period", KIND_DURATION, offsetof(struct sim_model, wss_period_ms), 1000, 86400000},
	{"swap", KIND_SIZE, offsetof(struct sim_model, swap_bytes), 0, UINT64_C(1) << 50},
	{"minimums", KIND_SHARE, offsetof(struct sim_model, minimums_share), 0, 0},
};

static const struct key *find_key(const char *text, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (strlen(keys[i].name) == len && memcmp(keys[i].name, text, len) == 0)
			return &keys[i];
	return NULL;
}

static int parse_value(const struct key *k, const char *text, uint64_t *ret, struct memoc_err *err)
{
	switch (k->kind) {
	case KIND_DURATION:
		return parse_duration_ms(text, ret, err);
	case KIND_PAGES:
		return parse_u64(text, ret, err);
	default:
		return parse_size_bytes(text, ret, err);
	}
}

int sim_model_set(struct sim_model *m, const char *text, struct memoc_err *err)
{
	const char *eq = strchr(text, '=');
	const struct key *k = find_key(text, eq ? (size_t)(eq - text) : strlen(text));
	uint64_t v = 0;
	if (!k || !eq)
		return memoc_err_set(err, -EINVAL,
				     "model setting '%.80s': give KEY=VALUE with one of balloon_take, balloon_return, "
				     "limit_reclaim, touch (a size per second: 0.95G), stats_period, wss_period (1s), "
				     "wss_pages (a number), swap (a size), minimums (a percentage)",
				     text);
	int r = k->kind == KIND_SHARE ? parse_percent(eq + 1, &m->minimums_share, err)
				      : parse_value(k, eq + 1, &v, err);
	if (r < 0)
		return memoc_err_prefix(err, r, "model setting %s", k->name);
	if (k->kind == KIND_SHARE)
		return 0;
	if (v < k->min || v > k->max)
		return memoc_err_set(err, -EINVAL, "model setting %s: '%.80s' is out of range: give %llu to %llu%s",
				     k->name, eq + 1, (unsigned long long)k->min, (unsigned long long)k->max,
				     k->kind == KIND_DURATION ? " ms"
				     : k->kind == KIND_PAGES  ? " pages"
							      : " bytes");
	if (k->kind == KIND_PAGES)
		m->wss_pages = (uint32_t)v;
	else
		memcpy((char *)m + k->offset, &v, sizeof(v));
	return 0;
}
