/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `--faults`: what may be wrong with guests, and whom it befalls. */
#include "controller/sim/faults.h"
#include "controller/sim/random.h"
#include "common/parse.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_SHARE 0.10
#define REBOOT_MAX_S (10 * 366 * 86400.0)

static const struct enum_name fault_names[] = {
	{FAULT_STUCK, "stuck"},	      {FAULT_SLOW, "slow"},
	{FAULT_LYING, "lying"},	      {FAULT_STALE, "stale"},
	{FAULT_SILENT, "silent"},     {FAULT_TRICKLE, "trickle"},
	{FAULT_REBOOT, "reboot"},     {FAULT_NO_DRIVER, "no-driver"},
	{FAULT_HOARDING, "hoarding"}, {0, NULL},
};

const char *sim_fault_name(enum sim_fault f)
{
	return enum_to_name(fault_names, (int)f);
}

static int bad(struct memoc_err *err, const char *word, const char *why)
{
	return memoc_err_set(
		err, -EINVAL,
		"fault '%.80s': %s: give stuck, slow=RATE, lying, hoarding, stale, silent, trickle, "
		"reboot@SECONDS or no-driver, each with :SHARE%% where 10%% is not meant, separated by commas",
		word, why);
}

/* "slow=1M", "reboot@3600": the value after the kind's name. */
static int parse_kind(char *word, const char *whole, struct sim_fault_spec *s, struct memoc_err *err)
{
	char *value = strpbrk(word, "=@"), sign = value ? *value : 0;
	double seconds;
	int kind;
	if (value)
		*value++ = '\0';
	if (enum_from_name(fault_names, word, &kind, NULL) < 0)
		return bad(err, whole, "no such fault");
	s->kind = (enum sim_fault)kind;
	if (s->kind == FAULT_SLOW) {
		if (sign != '=' || parse_size_bytes(value, &s->value, NULL) < 0 || !s->value ||
		    s->value > UINT64_C(1) << 50)
			return bad(err, whole, "slow wants a speed, bytes per second");
	} else if (s->kind == FAULT_REBOOT) {
		if (sign != '@' || parse_double(value, &seconds, NULL) < 0 || seconds < 0 || seconds > REBOOT_MAX_S)
			return bad(err, whole, "reboot wants a time, seconds from the begin");
		s->value = (uint64_t)(seconds * 1000);
	} else if (sign) {
		return bad(err, whole, "it takes no value");
	}
	return 0;
}

static int parse_word(const char *begin, size_t len, struct sim_fault_spec *ret, struct memoc_err *err)
{
	char whole[96], word[96];
	struct sim_fault_spec s = {.share = DEFAULT_SHARE};
	snprintf(whole, sizeof(whole), "%.*s", (int)min_u64(len, sizeof(whole) - 1), begin);
	if (len >= sizeof(whole))
		return bad(err, whole, "too long");
	memcpy(word, whole, sizeof(word));
	char *share = strchr(word, ':');
	if (share) {
		*share++ = '\0';
		if (parse_percent(share, &s.share, NULL) < 0)
			return bad(err, whole, "the share is 0% to 100%");
	}
	int r = parse_kind(word, whole, &s, err);
	if (r == 0)
		*ret = s;
	return r;
}

int sim_faults_parse(const char *text, struct sim_fault_spec ret[SIM_FAULTS_MAX], size_t *ret_n, struct memoc_err *err)
{
	struct sim_fault_spec specs[SIM_FAULTS_MAX];
	size_t n = 0;
	double sum = 0;
	for (const char *p = text;; p++) {
		size_t len = strcspn(p, ",");
		if (n == SIM_FAULTS_MAX)
			return memoc_err_set(err, -EINVAL, "more than %d faults: give fewer", SIM_FAULTS_MAX);
		int r = parse_word(p, len, &specs[n], err);
		if (r < 0)
			return r;
		sum += specs[n++].share;
		p += len;
		if (!*p)
			break;
	}
	if (sum > 1 + 1e-9)
		return memoc_err_set(err, -EINVAL,
				     "the shares of all faults are %.0f%% together: a VM has one fault at most, so "
				     "give no more than 100%%",
				     sum * 100);
	memcpy(ret, specs, n * sizeof(specs[0]));
	*ret_n = n;
	return 0;
}

int sim_faults_assign(const struct sim_fault_spec *specs, size_t specs_n, size_t n, uint64_t seed,
		      const struct sim_fault_spec **ret)
{
	size_t *order = calloc(n ? n : 1, sizeof(*order)), next = 0;
	/* A stream of its own: faults do not change who is placed where. */
	struct sim_random random = {.state = seed ^ UINT64_C(0x6661756c7473)};
	if (!order)
		return -ENOMEM;
	random_shuffle(&random, order, n);
	memset(ret, 0, n * sizeof(ret[0]));
	for (size_t i = 0; i < specs_n; i++) {
		size_t count = (size_t)(specs[i].share * (double)n + 0.5);
		for (; count && next < n; count--)
			ret[order[next++]] = &specs[i];
	}
	free(order);
	return 0;
}
