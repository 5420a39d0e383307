/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What `memoc simulate` prints: a row per policy, its worst episodes; or all of it as JSON. */
#include "controller/cli/simulate.h"

#include <math.h>
#include <string.h>

#include "common/parse.h"

#define NUMBER_LEN 32

/* Three digits that matter, without an exponent; "<0.0001" where that is not nothing. */
static const char *number(char buf[NUMBER_LEN], double v)
{
	int decimals = 0;

	if (!isfinite(v))
		snprintf(buf, NUMBER_LEN, "-");
	else if (v > 0 && v < 0.0001)
		snprintf(buf, NUMBER_LEN, "<0.0001");
	else {
		double shown = fabs(v);
		while (shown > 0 && shown < 99.95 && decimals < 4) {
			shown *= 10;
			decimals++;
		}
		snprintf(buf, NUMBER_LEN, "%.*f", decimals, v);
		if (strchr(buf, '.')) {
			char *end = buf + strlen(buf) - 1;
			while (*end == '0')
				*end-- = '\0';
			if (*end == '.')
				*end = '\0';
		}
	}
	return buf;
}

static const char *percent(char buf[NUMBER_LEN], double ratio)
{
	return number(buf, ratio * 100);
}

static double unmet_share(const struct sim_result *r)
{
	return r->demand_byte_s > 0 ? r->unmet_byte_s / r->demand_byte_s : 0;
}

const char *figures_line(char buf[FIGURES_LEN], const struct sim_result *r)
{
	char n[8][NUMBER_LEN];

	snprintf(buf, FIGURES_LEN,
		 "regret %s %%; unmet %s %% of demand; relief p50 %s s, p99 %s s, max %s s; churn %s; %llu reversals; "
		 "buffer %s "
		 "%%; %llu floor breaches",
		 percent(n[0], r->regret), percent(n[1], unmet_share(r)), number(n[2], r->relief_p50_s),
		 number(n[3], r->relief_p99_s), number(n[4], r->relief_max_s), number(n[5], r->churn),
		 (unsigned long long)r->reversals, percent(n[6], r->buffer_share_of_pool),
		 (unsigned long long)r->floor_breaches);
	return buf;
}

/* ---- text ---- */

static const struct table_column columns[] = {
	{"POLICY", false, 0, 0},
	{"REGRET%", true, 0, 0},
	{"UNMET%", true, 0, 3},
	{"P50 s", true, 0, 0},
	{"P95 s", true, 0, 5},
	{"P99 s", true, 0, 0},
	{"MAX s", true, 0, 4},
	{"FIT P99 s", true, 0, 9},
	{"CHURN", true, 0, 1},
	{"REVERSALS", true, 0, 7},
	{"BUFFER%", true, 0, 6},
	{"BELOW HALF%", true, 0, 8},
	{"BREACHES", true, 0, 2},
	/* only where asked for, in this order */
	{"HONEST%", true, 0, 0},
	{"DENSITY", true, 0, 0},
};
#define COLUMNS_ALWAYS 13

static void number_cell(struct table *t, double v)
{
	char buf[NUMBER_LEN];

	table_cell(t, number(buf, v), COLOR_NONE);
}

static void put_row(struct table *t, const struct outcome *o, bool honest, bool density)
{
	const struct sim_result *r = &o->result;

	table_cell(t, r->policy, COLOR_NONE);
	number_cell(t, r->regret * 100);
	number_cell(t, unmet_share(r) * 100);
	number_cell(t, r->relief_p50_s);
	number_cell(t, r->relief_p95_s);
	number_cell(t, r->relief_p99_s);
	number_cell(t, r->relief_max_s);
	number_cell(t, r->relief_fit_p99_s);
	number_cell(t, r->churn);
	number_cell(t, (double)r->reversals);
	number_cell(t, r->buffer_share_of_pool * 100);
	number_cell(t, r->buffer_below_half_share * 100);
	number_cell(t, (double)r->floor_breaches);
	if (honest)
		number_cell(t, r->honest_regret * 100);
	if (density)
		number_cell(t, o->density);
}

static int put_figures(struct cli *cli, const struct run *run)
{
	struct table_column used[ARRAY_SIZE(columns)];
	bool honest = run->options->sim.faults_n > 0, density = run->options->density;
	size_t n = COLUMNS_ALWAYS;
	struct table *t AUTO_TABLE = NULL;

	memcpy(used, columns, sizeof(used));
	if (honest)
		used[n++] = columns[COLUMNS_ALWAYS];
	if (density)
		used[n++] = columns[COLUMNS_ALWAYS + 1];
	t = table_new(used, n);
	for (size_t i = 0; i < run->n; i++)
		put_row(t, &run->outcomes[i], honest, density);
	return table_print(t, cli);
}

static const struct table_column worst_columns[] = {
	{"UNMET", true, 0, 0},
	{"FROM", true, 0, 0},
	{"LASTED", true, 0, 0},
	{"HOST", true, 0, 1},
	{"VM", false, 16, 0},
	{"WHY IT HAD NO MORE", false, 24, 0},
	{"WHAT ENDED IT", false, 24, 0},
};

static const char *vm_name(char buf[TRACE_NAME_MAX], const struct run *run, const struct episode *e)
{
	const struct trace_vm *of = placed_vm(&run->placement, e->host, e->vm);

	if (of)
		return of->name;
	snprintf(buf, TRACE_NAME_MAX, "%zu", e->vm);
	return buf;
}

/* Virtual time, with days where there are any: "2d 03:04:05.5". */
static const char *clock_text(char buf[NUMBER_LEN], uint64_t ms)
{
	unsigned long long s = ms / 1000;
	int n = 0;

	if (s >= 86400)
		n = snprintf(buf, NUMBER_LEN, "%llud ", s / 86400);
	n += snprintf(buf + n, NUMBER_LEN - (size_t)n, "%02llu:%02llu:%02llu", s / 3600 % 24, s / 60 % 60, s % 60);
	if (ms % 1000)
		snprintf(buf + n, NUMBER_LEN - (size_t)n, ".%03u", (unsigned)(ms % 1000));
	return buf;
}

static int put_worst(struct cli *cli, const struct run *run, const struct outcome *o)
{
	struct table *t AUTO_TABLE = NULL;

	cli_line(cli, "%s", "");
	if (o->n_worst == 0) {
		cli_line(cli, "%s: no VM ever lacked memory that its host had", o->result.policy);
		return CLI_DONE;
	}
	cli_line(cli, "%s: the %zu worst of %zu episodes, by unmet bytes times seconds", o->result.policy, o->n_worst,
		 max_u64(o->n_worst, o->result.relief_n));
	t = table_new(worst_columns, ARRAY_SIZE(worst_columns));
	for (size_t i = 0; i < o->n_worst; i++) {
		const struct episode *e = &o->worst[i];
		char size[FORMAT_SIZE_LEN], text[FORMAT_SIZE_LEN + 8], when[NUMBER_LEN], name[TRACE_NAME_MAX];
		snprintf(text, sizeof(text), "%s s", format_size(size, e->unmet_byte_s));
		table_cell(t, text, COLOR_NONE);
		table_cell(t, clock_text(when, e->begin_ms), COLOR_NONE);
		table_cell(t, format_duration(size, e->end_ms - e->begin_ms), COLOR_NONE);
		snprintf(text, sizeof(text), "%zu", e->host);
		table_cell(t, text, COLOR_NONE);
		table_cell(t, vm_name(name, run, e), COLOR_NONE);
		table_cell(t, e->cause, COLOR_NONE);
		table_cell(t, e->cure, COLOR_NONE);
	}
	return table_print(t, cli);
}

int show_text(struct cli *cli, const struct run *run)
{
	const struct simulate_options *o = run->options;
	const struct sim_result *first = &run->outcomes[0].result;
	char buf[FORMAT_SIZE_LEN], step[FORMAT_SIZE_LEN], load[64];
	int r;

	if (o->sim.pool_bytes)
		snprintf(load, sizeof(load), "pool %s", format_size(buf, o->sim.pool_bytes));
	else
		snprintf(load, sizeof(load), "overcommit %g", o->sim.overcommit);
	cli_line(cli, "%s: %zu VMs on %zu host%s, %s; %s in steps of %s; seed %llu", o->trace_path, first->vms,
		 first->hosts, first->hosts == 1 ? "" : "s", load, format_duration(buf, first->steps * o->sim.step_ms),
		 format_duration(step, o->sim.step_ms), (unsigned long long)o->sim.seed);
	if (first->vms < run->trace->n)
		cli_line(cli, "(%zu of the trace's %zu VMs left out: they would not fill a host)",
			 run->trace->n - first->vms, run->trace->n);
	if (o->sim.duration_ms > run->trace->duration_ms)
		cli_line(cli, "(the trace ends after %s: its last demands hold for the rest)",
			 format_duration(buf, run->trace->duration_ms));
	r = put_figures(cli, run);
	for (size_t i = 0; r == CLI_DONE && o->n_worst > 0 && i < run->n; i++)
		r = put_worst(cli, run, &run->outcomes[i]);
	return r;
}

/* ---- JSON ---- */

static void json_worst(struct json_writer *w, const struct run *run, const struct outcome *o)
{
	char name[TRACE_NAME_MAX];

	jw_array(w, "worst");
	for (size_t i = 0; i < o->n_worst; i++) {
		const struct episode *e = &o->worst[i];
		jw_object(w, NULL);
		jw_u64(w, "host", e->host);
		jw_str(w, "vm", vm_name(name, run, e));
		jw_double(w, "begin_s", (double)e->begin_ms / 1000);
		jw_double(w, "end_s", (double)e->end_ms / 1000);
		jw_u64(w, "unmet_byte_s", e->unmet_byte_s);
		jw_str(w, "cause", e->cause);
		jw_str(w, "reason", e->cure);
		jw_end(w);
	}
	jw_end(w);
}

static void json_result(struct json_writer *w, const struct run *run, const struct outcome *o)
{
	const struct sim_result *r = &o->result;

	jw_object(w, NULL);
	jw_str(w, "policy", r->policy);
	jw_u64(w, "hosts", r->hosts);
	jw_u64(w, "vms", r->vms);
	jw_u64(w, "steps", r->steps);
	jw_double(w, "regret", r->regret);
	jw_double(w, "honest_regret", r->honest_regret);
	jw_double(w, "share_lacked", r->share_lacked);
	jw_double(w, "share_lacked_most", r->share_lacked_most);
	jw_double(w, "demand_byte_s", r->demand_byte_s);
	jw_double(w, "unmet_byte_s", r->unmet_byte_s);
	jw_double(w, "bound_byte_s", r->bound_byte_s);
	jw_u64(w, "relief_episodes", r->relief_n);
	jw_u64(w, "relief_over_6s", r->relief_long_n);
	jw_double(w, "relief_p50_s", r->relief_p50_s);
	jw_double(w, "relief_p95_s", r->relief_p95_s);
	jw_double(w, "relief_p99_s", r->relief_p99_s);
	jw_double(w, "relief_max_s", r->relief_max_s);
	jw_double(w, "relief_fit_p50_s", r->relief_fit_p50_s);
	jw_double(w, "relief_fit_p95_s", r->relief_fit_p95_s);
	jw_double(w, "relief_fit_p99_s", r->relief_fit_p99_s);
	jw_double(w, "relief_fit_max_s", r->relief_fit_max_s);
	jw_double(w, "churn", r->churn);
	jw_double(w, "churn_blind", r->churn_blind);
	jw_double(w, "moved_bytes", r->moved_bytes);
	jw_double(w, "least_moved_bytes", r->least_moved_bytes);
	jw_u64(w, "reversals", r->reversals);
	jw_double(w, "buffer_ratio", r->buffer_share_of_pool);
	jw_double(w, "buffer_below_half_ratio", r->buffer_below_half_share);
	jw_u64(w, "floor_breaches", r->floor_breaches);
	if (run->options->density)
		jw_double(w, "density_overcommit_ratio", o->density);
	if (run->options->n_worst > 0)
		json_worst(w, run, o);
	jw_end(w);
}

int show_json(struct cli *cli, const struct run *run)
{
	const struct sim_options *s = &run->options->sim;
	struct json_writer *w = jw_new(true);

	jw_object(w, NULL);
	jw_str(w, "trace", run->options->trace_path);
	jw_u64(w, "trace_vms", run->trace->n);
	jw_double(w, "step_s", (double)s->step_ms / 1000);
	jw_u64(w, "seed", s->seed);
	if (s->pool_bytes)
		jw_u64(w, "pool_bytes", s->pool_bytes);
	else
		jw_double(w, "overcommit_ratio", s->overcommit);
	jw_array(w, "policies");
	for (size_t i = 0; i < run->n; i++)
		json_result(w, run, &run->outcomes[i]);
	jw_end(w);
	jw_end(w);
	return cli_put_json(cli, w);
}
