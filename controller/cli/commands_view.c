/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* list, host, explain: what memocd sees and wants. */
#include <string.h>

#include "controller/cli/commands.h"
#include "common/parse.h"
#include "common/text.h"

/* ---- list ---- */

static const struct table_column list_columns[] = {
	/* name, right, cut, drop: target, resident, state and need tell most; limit and weights of evidence least */
	{"NAME", false, 14, 0},	 {"STATE", false, 17, 0}, {"MAX", true, 0, 3},	    {"TARGET", true, 0, 0},
	{"BALLOON", true, 0, 6}, {"LIMIT", true, 0, 7},	  {"RESIDENT", true, 0, 1}, {"SWAPPED", true, 0, 4},
	{"WSS", true, 0, 8},	 {"NEED", true, 0, 2},	  {"RANK", true, 0, 9},	    {"HEALTH", false, 0, 5},
};

static enum table_color state_color(const struct json *vm)
{
	const char *state = text_member(vm, "state");

	if (bool_member(vm, "quarantined"))
		return COLOR_BAD;
	if (bool_member(vm, "needy"))
		return COLOR_WARN;
	if (!strcmp(state, "steady"))
		return COLOR_GOOD;
	if (!strcmp(state, "fixed") || !strcmp(state, "paused") || !strcmp(state, "stopping"))
		return COLOR_DIM;
	return COLOR_BUSY;
}

/* The state and what goes with it: "steady,needy,held". */
static void cell_state(struct table *t, const struct json *vm)
{
	static const char *const flags[] = {"needy", "held", "quarantined"};
	char text[96] = "";
	size_t used = text_add(text, sizeof(text), 0, "%s", text_member(vm, "state"));

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		if (bool_member(vm, flags[i]))
			used = text_add(text, sizeof(text), used, ",%s", flags[i]);
	if (json_type(json_get(vm, "pinned_bytes")) == JSON_INT)
		text_add(text, sizeof(text), used, ",pinned");
	table_cell(t, text, state_color(vm));
}

static void cell_health(struct table *t, const struct json *vm)
{
	const char *health = text_member(vm, "balloon_health");
	bool bad = !strcmp(health, "stalled") || !strcmp(health, "absent") || !strcmp(health, "inhibited");

	table_cell(t, health,
		   bad				? COLOR_BAD
		   : !strcmp(health, "slow")	? COLOR_WARN
		   : !strcmp(health, "working") ? COLOR_GOOD
						: COLOR_NONE);
}

static void list_row(struct table *t, const struct json *vm)
{
	const struct json *limit = json_get(vm, "limit_bytes");
	char rank[24] = "-";
	bool needy = bool_member(vm, "needy");
	uint64_t place;

	if (json_get_u64(vm, "rank", &place) == 0)
		snprintf(rank, sizeof(rank), "%llu", (unsigned long long)place);
	table_cell(t, text_member(vm, "name"), COLOR_NONE);
	cell_state(t, vm);
	table_size(t, json_get(vm, "max_bytes"), COLOR_NONE);
	table_size(t, json_get(vm, "target_bytes"), COLOR_NONE);
	table_size(t, json_get(vm, "balloon_bytes"), COLOR_NONE);
	if (json_type(limit) == JSON_NULL)
		table_cell(t, "none", COLOR_NONE);
	else
		table_size(t, limit, COLOR_NONE);
	table_size(t, json_get(vm, "resident_bytes"), COLOR_NONE);
	table_size(t, json_get(vm, "swapped_bytes"), bool_member(vm, "double_swapping") ? COLOR_BAD : COLOR_NONE);
	table_size(t, json_get(vm, "wss_bytes"), COLOR_NONE);
	table_size(t, json_get(vm, "need_bytes"), needy ? COLOR_WARN : COLOR_NONE);
	table_cell(t, rank, needy ? COLOR_WARN : COLOR_NONE);
	cell_health(t, vm);
}

static int list_json(struct cli *cli, const struct json *vms)
{
	struct json_writer *w = jw_new(true);

	jw_array(w, NULL);
	for (size_t i = 0; i < json_len(vms); i++) {
		jw_object(w, NULL);
		fields_write(w, json_at(vms, i), fields_vm);
		jw_end(w);
	}
	jw_end(w);
	return cli_put_json(cli, w);
}

static int list_table(struct cli *cli, const struct json *vms)
{
	struct table *t AUTO_TABLE = table_new(list_columns, ARRAY_SIZE(list_columns));

	for (size_t i = 0; i < json_len(vms); i++)
		list_row(t, json_at(vms, i));
	return table_print(t, cli);
}

static int run_list(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	struct json_writer *params = jw_new(false);
	const struct json *vms;
	bool all = cli_opt(cli, "all");
	int r;

	jw_object(params, NULL);
	jw_bool(params, "all", all);
	jw_bool(params, "off", all);
	r = call_controller(cli, "List", params, &reply);
	if (r == CLI_DONE)
		r = array_member(cli, &reply, "List", "vms", &vms);
	for (size_t i = 0; r == CLI_DONE && i < json_len(vms); i++)
		if (json_type(json_at(vms, i)) != JSON_OBJECT)
			r = call_bad_answer(cli, "List", "vms");
	if (r != CLI_DONE)
		return r;
	if (cli->json)
		return list_json(cli, vms);
	if (json_len(vms) > 0)
		return list_table(cli, vms);
	cli_line(cli, all ? "memocd knows no VMs." : "No VM is managed; \"memoc list --all\" shows the others.");
	return CLI_DONE;
}

static const struct cli_option list_options[] = {
	{"all", 0, NULL, "also the VMs that memoc does not resize (unmanaged), and those that are off", WORDS_NONE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};
static const struct cli_example list_examples[] = {
	{"memoc list", "the VMs that memoc resizes"},
	{"memoc list --all --json", "all VMs, for a script"},
	{NULL, NULL},
};
const struct cli_command command_list = {
	.name = "list",
	.summary = "table of VMs: sizes, state, need, balloon",
	.description = "Shows a table of VMs, sorted by name.\n\n"
		       "  MAX       all the memory that the VM can have\n"
		       "  TARGET    the size that memoc wants it to have now\n"
		       "  BALLOON   its size by the balloon\n"
		       "  LIMIT     its cgroup limit\n"
		       "  RESIDENT  its memory in the host's RAM; SWAPPED: in the host's swap\n"
		       "  WSS       its working set, as estimated from outside\n"
		       "  NEED      what it needs by memoc's reckoning; RANK: its place among those in need\n"
		       "  HEALTH    how well its balloon works\n\n"
		       "\"-\" stands for unknown. On a terminal that is too narrow, columns are left out.",
	.options = list_options,
	.examples = list_examples,
	.run = run_list,
};

/* ---- host ---- */

/* More may be granted than there is: then the buffer is below nothing. */
static void host_buffer(struct cli *cli, const struct json *h)
{
	char buf[FORMAT_SIZE_LEN];
	int64_t bytes;

	if (json_get_i64(h, "buffer_bytes", &bytes) < 0)
		cli_field(cli, "Buffer now", "-");
	else if (bytes < 0)
		cli_field(cli, "Buffer now", "overdrawn by %s", format_size(buf, -(uint64_t)bytes));
	else
		cli_field(cli, "Buffer now", "%s", format_size(buf, (uint64_t)bytes));
}

static void host_memory(struct cli *cli, const struct json *h)
{
	double ratio;

	field_text(cli, "Level", h, "level", "-");
	field_size(cli, "Pool", h, "pool_bytes", "-");
	field_size(cli, "Reserve", h, "reserve_bytes", "-");
	field_size(cli, "Buffer target", h, "buffer_target_bytes", "-");
	host_buffer(cli, h);
	field_size(cli, "Committed", h, "committed_bytes", "-");
	if (json_get_double(h, "overcommit_ratio", &ratio) == 0)
		cli_field(cli, "Overcommit", "%.2f", ratio);
	else
		cli_field(cli, "Overcommit", "-");
	field_size(cli, "Granted", h, "granted_bytes", "-");
	field_size(cli, "Resident", h, "resident_bytes", "-");
	field_size(cli, "Swapped", h, "swapped_bytes", "-");
}

static void host_swap(struct cli *cli, const struct json *h)
{
	char free_text[FORMAT_SIZE_LEN], total_text[FORMAT_SIZE_LEN];
	uint64_t total, free_bytes;

	if (json_get_u64(h, "swap_total_bytes", &total) < 0 || json_get_u64(h, "swap_free_bytes", &free_bytes) < 0)
		cli_field(cli, "Swap", "-");
	else if (total == 0)
		cli_field(cli, "Swap", "none: only balloons can take memory back");
	else
		cli_field(cli, "Swap", "%s free of %s%s", format_size(free_text, free_bytes),
			  format_size(total_text, total),
			  bool_member(h, "swap_low") ? ", low: nothing more is swapped out" : "");
}

/* The back-end in use; where there is none, why not, each in a line. */
static void host_working_sets(struct cli *cli, const struct json *h)
{
	const struct json *list = json_get(h, "wss_backends");
	const char *used = text_member(h, "wss_backend");

	cli_field(cli, "Working set by", "%s", used);
	for (size_t i = 0; strcmp(used, "none") == 0 && i < json_len(list); i++) {
		char name[64];

		snprintf(name, sizeof(name), "  not %.40s", text_member(json_at(list, i), "name"));
		cli_field(cli, name, "%s", text_member(json_at(list, i), "reason"));
	}
}

static void host_rest(struct cli *cli, const struct json *h)
{
	char buf[FORMAT_SIZE_LEN];
	uint64_t uptime_s;

	field_number(cli, "Pressure some", h, "psi_some_avg10", " % of the last 10 s");
	field_number(cli, "Pressure full", h, "psi_full_avg10", " % of the last 10 s");
	field_number(cli, "VMs", h, "vms", "");
	field_text(cli, "Cgroups", h, "cgroup", "-");
	host_working_sets(cli, h);
	field_text(cli, "Policy", h, "policy", "-");
	field_bool(cli, "Observe only", h, "observe_only");
	field_bool(cli, "Held", h, "held");
	field_bool(cli, "libvirt connected", h, "libvirt_connected");
	field_text(cli, "memocd", h, "version", "-");
	if (json_get_u64(h, "uptime_s", &uptime_s) == 0)
		cli_field(cli, "Up for", "%s", format_duration(buf, mul_div_u64(uptime_s, 1000, 1)));
}

static int run_host(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	const struct json *h;
	int r = call_controller(cli, "Host", NULL, &reply);

	if (r == CLI_DONE)
		r = object_member(cli, &reply, "Host", "host", &h);
	if (r != CLI_DONE)
		return r;
	if (cli->json) {
		struct json_writer *w = jw_new(true);
		jw_object(w, NULL);
		fields_write(w, h, fields_host);
		jw_end(w);
		return cli_put_json(cli, w);
	}
	host_memory(cli, h);
	host_swap(cli, h);
	host_rest(cli, h);
	return CLI_DONE;
}

static const struct cli_example host_examples[] = {
	{"memoc host", "how full the pool is"},
	{"memoc host --json | jq .level", "the level, for a script"},
	{NULL, NULL},
};
const struct cli_command command_host = {
	.name = "host",
	.summary = "pool, buffer, level, overcommit, swap, pressure",
	.description =
		"Shows the host as memocd sees it: the pool that VMs share, the buffer that no VM may use, what is\n"
		"committed (sum of maximums), granted (sum of targets and overhead) and resident, and the level:\n"
		"  high  nothing to do\n"
		"  soft  balloons take memory back\n"
		"  hard  limits do, at once, and only who has nothing left grows\n"
		"  low   in addition memory in use may be taken",
	.examples = host_examples,
	.run = run_host,
};

/* ---- explain ---- */

static const struct table_column term_columns[] = {
	{"TERM", false, 0, 0},
	{"VALUE", true, 0, 0},
	{"WHY", false, 24, 0},
};

static int put_terms(struct cli *cli, const struct json *terms)
{
	struct table *t AUTO_TABLE = table_new(term_columns, ARRAY_SIZE(term_columns));

	if (json_len(terms) == 0)
		return CLI_DONE;
	for (size_t i = 0; i < json_len(terms); i++) {
		const struct json *term = json_at(terms, i);
		table_cell(t, text_member(term, "name"), COLOR_NONE);
		table_size(t, json_get(term, "value_bytes"), COLOR_NONE);
		table_cell(t, text_member(term, "text"), COLOR_NONE);
	}
	cli_line(cli, "%s", "");
	return table_print(t, cli);
}

static void put_sentences(struct cli *cli, const char *title, const struct json *list)
{
	const char *text;

	if (json_len(list) == 0)
		return;
	cli_line(cli, "%s", "");
	cli_line(cli, "%s", title);
	for (size_t i = 0; i < json_len(list); i++)
		if (json_str(json_at(list, i), &text) == 0)
			cli_line(cli, "  - %s", text);
}

static int run_explain(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	const struct json *vm, *terms;
	int r = call_controller(cli, "Explain", call_params_vm(cli_arg(cli, 0)), &reply);

	if (r == CLI_DONE)
		r = object_member(cli, &reply, "Explain", "vm", &vm);
	if (r == CLI_DONE)
		r = array_member(cli, &reply, "Explain", "terms", &terms);
	if (r != CLI_DONE)
		return r;
	if (cli->json) {
		struct json_writer *w = jw_new(true);
		jw_json(w, NULL, reply.parameters);
		return cli_put_json(cli, w);
	}
	cli_line(cli, "%s: %s", text_member(vm, "name"), text_member(reply.parameters, "summary"));
	r = put_terms(cli, terms);
	if (r != CLI_DONE)
		return r;
	put_sentences(cli, "What bounds it:", json_get(reply.parameters, "bounds"));
	put_sentences(cli, "What comes next:", json_get(reply.parameters, "next"));
	return CLI_DONE;
}

static const struct cli_arg vm_args[] = {
	{"VM", WORDS_VM, false, false},
	{NULL, WORDS_NONE, false, false},
};
static const struct cli_example explain_examples[] = {
	{"memoc explain web1", "why web1 has the size that it has"},
	{NULL, NULL},
};
const struct cli_command command_explain = {
	.name = "explain",
	.summary = "why a VM has the target that it has",
	.description =
		"Tells why a VM (by name or UUID) has the target that it has: the terms of the formula with their\n"
		"values, what bounds the result, and what comes next, such as the balloon's next retry.",
	.args = vm_args,
	.examples = explain_examples,
	.run = run_explain,
};
