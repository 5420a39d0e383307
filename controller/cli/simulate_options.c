/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options of `memoc simulate`: all are checked before any file is looked at. */
#include "controller/cli/simulate.h"

#include <errno.h>
#include <string.h>

#include "common/parse.h"
#include "controller/core/policy.h"

#define STEP_MAX_MS (60 * 60 * 1000)
#define OVERCOMMIT_MAX 1000.0
#define VMS_MAX 100000

/* What a generated trace has where nothing is said: a day of a small host. */
#define GENERATE_VMS 50
#define GENERATE_SIZE (4 * GIB)
#define GENERATE_DURATION_MS (24 * 3600 * UINT64_C(1000))

/* ---- values ---- */

/* Each stores into *ret where the option was given, and complains by its name. */

static int take_u64(struct cli *cli, const char *name, uint64_t least, uint64_t most, uint64_t *ret)
{
	const char *text = cli_opt(cli, name);
	struct memoc_err err = {0};
	uint64_t v;

	if (!text)
		return CLI_DONE;
	if (parse_u64(text, &v, &err) < 0)
		return cli_usage(cli, "--%s: %s", name, err.text);
	if (v < least || v > most)
		return cli_usage(cli, "--%s %s: must be between %llu and %llu", name, text, (unsigned long long)least,
				 (unsigned long long)most);
	*ret = v;
	return CLI_DONE;
}

static int take_size(struct cli *cli, const char *name, uint64_t *ret)
{
	const char *text = cli_opt(cli, name);
	struct memoc_err err = {0};
	uint64_t v;

	if (!text)
		return CLI_DONE;
	if (parse_size_bytes(text, &v, &err) < 0)
		return cli_usage(cli, "--%s: %s", name, err.text);
	if (v < MIB || v > UINT64_C(1) << 50)
		return cli_usage(cli, "--%s %s: must be between 1M and 1024T", name, text);
	*ret = v;
	return CLI_DONE;
}

static int take_duration(struct cli *cli, const char *name, uint64_t most_ms, uint64_t *ret)
{
	const char *text = cli_opt(cli, name);
	struct memoc_err err = {0};
	char human[FORMAT_SIZE_LEN];
	uint64_t v;

	if (!text)
		return CLI_DONE;
	if (parse_duration_ms(text, &v, &err) < 0)
		return cli_usage(cli, "--%s: %s", name, err.text);
	if (v == 0 || v > most_ms)
		return cli_usage(cli, "--%s %s: must be more than nothing and at most %s", name, text,
				 format_duration(human, most_ms));
	*ret = v;
	return CLI_DONE;
}

/* The first of the names that was given; NULL where none was. */
static const char *given_of(const struct cli *cli, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (cli_opt(cli, names[i]))
			return names[i];
	return NULL;
}

/*
 * Takes the next item of a list with commas off *list, into buf; false at the end. An item that is too long is cut,
 * which whoever reads it will not know.
 */
static bool next_item(const char **list, char *buf, size_t size)
{
	size_t len;

	if (!*list)
		return false;
	len = strcspn(*list, ",");
	snprintf(buf, size, "%.*s", (int)min_u64(len, size - 1), *list);
	*list = (*list)[len] ? *list + len + 1 : NULL;
	return true;
}

/* ---- policies ---- */

size_t simulate_policy_names(const char *ret[SIMULATE_POLICIES_MAX])
{
	size_t n = 0;

	for (size_t i = 0; policy_list[i] && n < SIMULATE_POLICIES_MAX - 4; i++)
		ret[n++] = policy_list[i]->name;
	ret[n++] = "ideal";
	ret[n++] = "ideal-headroom";
	ret[n++] = "ideal-told";
	ret[n++] = "oracle";
	return n;
}

static int add_policy(struct cli *cli, struct simulate_options *o, const char *name)
{
	const char *known[SIMULATE_POLICIES_MAX];
	size_t n = simulate_policy_names(known), at = 0;
	char near[SUGGEST_TEXT_LEN];

	while (at < n && strcmp(known[at], name))
		at++;
	if (at == n) {
		char all[SIMULATE_POLICIES_MAX * POLICY_NAME_MAX] = "";
		for (size_t i = 0, used = 0; i < n; i++)
			used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s", i ? ", " : "", known[i]);
		suggest_text(near, name, known, n);
		return cli_usage(cli, "--policy: there is no policy \"%s\"%s%s%s", name, near,
				 *near ? " There are " : "; there are ", all);
	}
	for (size_t i = 0; i < o->n_policies; i++)
		if (!strcmp(o->policies[i], name))
			return cli_usage(cli, "--policy: %s is named twice", name);
	snprintf(o->policies[o->n_policies++], POLICY_NAME_MAX, "%s", known[at]);
	return CLI_DONE;
}

static int take_policies(struct cli *cli, struct simulate_options *o)
{
	const char *list = cli_opt(cli, "policy");
	char name[2 * POLICY_NAME_MAX];
	int r = CLI_DONE;

	if (!list)
		list = "needy-greedy";
	while (r == CLI_DONE && next_item(&list, name, sizeof(name)))
		r = add_policy(cli, o, name);
	return r;
}

/* ---- the host and its faults ---- */

static int take_model(struct cli *cli, struct sim_model *m)
{
	const char *list = cli_opt(cli, "model");
	struct memoc_err err = {0};
	char item[128];

	*m = sim_model_default();
	while (next_item(&list, item, sizeof(item)))
		if (sim_model_set(m, item, &err) < 0)
			return cli_usage(cli, "--model: %s", err.text);
	return CLI_DONE;
}

static int take_faults(struct cli *cli, struct sim_options *s)
{
	const char *text = cli_opt(cli, "faults");
	struct memoc_err err = {0};

	if (text && sim_faults_parse(text, s->faults, &s->faults_n, &err) < 0)
		return cli_usage(cli, "--faults: %s", err.text);
	return CLI_DONE;
}

static int take_pool(struct cli *cli, struct sim_options *s)
{
	const char *pool = cli_opt(cli, "pool"), *ratio = cli_opt(cli, "overcommit");
	struct memoc_err err = {0};

	if (pool && ratio)
		return cli_usage(cli, "give --pool or --overcommit, not both: each says how much memory a host has");
	if (!pool && !ratio)
		return cli_usage(cli, "give --pool SIZE or --overcommit RATIO: how much memory a host has for its VMs");
	if (pool)
		return take_size(cli, "pool", &s->pool_bytes);
	if (parse_double(ratio, &s->overcommit, &err) < 0)
		return cli_usage(cli, "--overcommit: %s", err.text);
	if (!(s->overcommit >= 0.1 && s->overcommit <= OVERCOMMIT_MAX))
		return cli_usage(cli, "--overcommit %s: must be between 0.1 and %g", ratio, OVERCOMMIT_MAX);
	return CLI_DONE;
}

static int take_buffer(struct cli *cli, struct sim_options *s)
{
	const char *text = cli_opt(cli, "buffer");
	struct size_spec spec;
	struct memoc_err err = {0};

	if (!text)
		return CLI_DONE;
	if (parse_size_spec(text, false, true, &spec, &err) < 0)
		return cli_usage(cli, "--buffer: %s", err.text);
	if (spec.kind == SIZE_BYTES && s->pool_bytes == 0)
		return cli_usage(cli, "--buffer %s: with --overcommit give it as a share of the pool, such as 5%%",
				 text);
	s->buffer_share = spec.kind == SIZE_BYTES ? (double)spec.bytes / (double)s->pool_bytes : spec.ratio;
	if (!(s->buffer_share > 0 && s->buffer_share < 1))
		return cli_usage(cli, "--buffer %s: must be more than nothing and less than the pool", text);
	return CLI_DONE;
}

/* ---- all ---- */

/* Options of the other use of the command. */
static int refuse(struct cli *cli, const char *const *names, size_t n, const char *why)
{
	const char *name = given_of(cli, names, n);

	return name ? cli_usage(cli, "--%s %s", name, why) : CLI_DONE;
}

int simulate_parse(struct cli *cli, struct simulate_options *ret)
{
	static const char *const generate_only[] = {"vms", "size", "output"};
	struct simulate_options o = {.trace_path = cli_opt(cli, "trace"), .sim = {.step_ms = 1000}};
	uint64_t per_host = 0, worst = 0;
	int r = refuse(cli, generate_only, ARRAY_SIZE(generate_only), "is for --generate");

	if (r == CLI_DONE && !o.trace_path)
		r = cli_usage(cli, "give --trace FILE: what VMs demand over time (--generate writes one)");
	if (r == CLI_DONE)
		r = take_policies(cli, &o);
	if (r == CLI_DONE)
		r = take_pool(cli, &o.sim);
	if (r == CLI_DONE)
		r = take_buffer(cli, &o.sim);
	if (r == CLI_DONE)
		r = take_u64(cli, "vms-per-host", 1, VMS_MAX, &per_host);
	if (r == CLI_DONE)
		r = take_duration(cli, "step", STEP_MAX_MS, &o.sim.step_ms);
	if (r == CLI_DONE)
		r = take_duration(cli, "duration", UINT64_MAX / 2, &o.sim.duration_ms);
	if (r == CLI_DONE)
		r = take_u64(cli, "seed", 0, UINT64_MAX, &o.sim.seed);
	if (r == CLI_DONE)
		r = take_u64(cli, "explain-worst", 1, SIMULATE_WORST_MAX, &worst);
	if (r == CLI_DONE)
		r = take_model(cli, &o.sim.model);
	if (r == CLI_DONE)
		r = take_faults(cli, &o.sim);
	if (r != CLI_DONE)
		return r;
	o.sim.vms_per_host = per_host;
	o.n_worst = worst;
	o.allocations = cli_opt(cli, "allocations");
	o.plot = cli_opt(cli, "plot");
	if (o.allocations && o.plot && !strcmp(o.allocations, o.plot))
		return cli_usage(cli, "--allocations and --plot are both %s: give each a file of its own", o.plot);
	o.density = cli_opt(cli, "density");
	*ret = o;
	return CLI_DONE;
}

static int take_kind(struct cli *cli, const char **ret)
{
	const char *kind = cli_opt(cli, "generate"), *names[32];
	char near[SUGGEST_TEXT_LEN], all[512] = "";
	size_t n = 0, used = 0;

	for (const struct generate_kind *k = generate_kinds; k->name && n < ARRAY_SIZE(names); k++) {
		if (!strcmp(k->name, kind)) {
			*ret = k->name;
			return CLI_DONE;
		}
		used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s", n ? ", " : "", k->name);
		names[n++] = k->name;
	}
	suggest_text(near, kind, names, n);
	return cli_usage(cli, "--generate: there is no kind \"%s\"%s%s%s", kind, near,
			 *near ? " There are " : "; there are ", all);
}

int simulate_parse_generate(struct cli *cli, struct generate_options *ret, const char **ret_path)
{
	static const char *const simulate_only[] = {"trace",	    "policy", "pool",	 "overcommit",
						    "vms-per-host", "buffer", "model",	 "faults",
						    "allocations",  "plot",   "density", "explain-worst"};
	struct generate_options o = {.step_ms = 1000};
	uint64_t vms = GENERATE_VMS;
	int r = refuse(cli, simulate_only, ARRAY_SIZE(simulate_only),
		       "does not go with --generate: it only writes a trace");

	o.size_bytes = GENERATE_SIZE;
	o.duration_ms = GENERATE_DURATION_MS;
	if (r == CLI_DONE && cli->json)
		r = cli_usage(cli, "--json does not go with --generate: traces are CSV");
	if (r == CLI_DONE)
		r = take_kind(cli, &o.kind);
	if (r == CLI_DONE)
		r = take_u64(cli, "vms", 1, VMS_MAX, &vms);
	if (r == CLI_DONE)
		r = take_size(cli, "size", &o.size_bytes);
	if (r == CLI_DONE)
		r = take_duration(cli, "step", STEP_MAX_MS, &o.step_ms);
	if (r == CLI_DONE)
		r = take_duration(cli, "duration", UINT64_MAX / 2, &o.duration_ms);
	if (r == CLI_DONE)
		r = take_u64(cli, "seed", 0, UINT64_MAX, &o.seed);
	if (r != CLI_DONE)
		return r;
	o.vms = vms;
	*ret = o;
	*ret_path = cli_opt(cli, "output");
	return CLI_DONE;
}
