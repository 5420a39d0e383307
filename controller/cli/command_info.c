/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* info: all that is known of one VM. */
#include <string.h>

#include "controller/cli/commands.h"
#include "common/parse.h"

static void put_identity(struct cli *cli, const struct json *vm, const struct json *more)
{
	field_text(cli, "Name", vm, "name", "-");
	field_text(cli, "UUID", vm, "uuid", "-");
	field_text(cli, "State", vm, "state", "-");
	if (bool_member(vm, "eligible"))
		cli_field(cli, "Resized by memoc", "yes");
	else
		cli_field(cli, "Resized by memoc", "no: %s", text_member(vm, "ineligible_reason"));
	field_bool(cli, "Held", vm, "held");
	if (bool_member(vm, "quarantined"))
		cli_field(cli, "Quarantined", "yes: libvirt or QEMU does not answer for this VM");
	field_size(cli, "Pinned to", vm, "pinned_bytes", "no");
	field_number(cli, "QEMU process", more, "pid", "");
	field_text(cli, "Cgroup", more, "cgroup_path", "-");
	field_time(cli, "Last change", vm, "last_change_ms", "-");
	field_text(cli, "Reason", vm, "reason", "-");
}

static void put_sizes(struct cli *cli, const struct json *vm, const struct json *more)
{
	char buf[FORMAT_SIZE_LEN];
	uint64_t overhead;

	field_size(cli, "Maximum", vm, "max_bytes", "-");
	field_size(cli, "Minimum", vm, "min_bytes", "-");
	field_number(cli, "Weight", vm, "weight", "");
	field_size(cli, "Target", vm, "target_bytes", "-");
	field_size(cli, "Limit", vm, "limit_bytes", "none");
	field_size(cli, "Resident", vm, "resident_bytes", "-");
	field_size(cli, "Swapped", vm, "swapped_bytes", "-");
	if (json_get_u64(more, "overhead_bytes", &overhead) == 0)
		cli_field(cli, "QEMU's overhead", "%s, %s", format_size(buf, overhead),
			  bool_member(more, "overhead_measured") ? "measured" : "estimated");
	field_bool(cli, "Shared memory", more, "shared_memory");
}

/* Bytes per second. */
static void put_speed(struct cli *cli, const char *name, const struct json *vm, const char *key)
{
	char size[FORMAT_SIZE_LEN];
	double speed;

	if (json_get_double(vm, key, &speed) == 0 && speed >= 0 && speed < 0x1p63)
		cli_field(cli, name, "%s/s", format_size(size, (uint64_t)speed));
	else
		cli_field(cli, name, "-");
}

static void put_balloon(struct cli *cli, const struct json *vm, const struct json *more)
{
	uint64_t period;

	field_size(cli, "Balloon", vm, "balloon_bytes", "-");
	field_text(cli, "Balloon health", vm, "balloon_health", "-");
	put_speed(cli, "Balloon speed", vm, "balloon_bytes_per_s");
	field_size(cli, "Balloon floor", more, "floor_bytes", "-");
	field_time(cli, "Next retry in", more, "next_retry_ms", "-");
	field_time(cli, "Retry delay", more, "retry_delay_ms", "-");
	field_bool(cli, "Page reporting", more, "free_page_reporting");
	if (json_get_u64(more, "stats_period_s", &period) == 0 && period > 0)
		cli_field(cli, "Statistics each", "%llu s", (unsigned long long)period);
	else
		cli_field(cli, "Statistics each", "-");
	field_time(cli, "Statistics age", vm, "stats_age_ms", "-");
}

static void put_need(struct cli *cli, const struct json *vm, const struct json *more)
{
	char wss[FORMAT_SIZE_LEN], error[FORMAT_SIZE_LEN];
	uint64_t wss_bytes, error_bytes;

	field_size(cli, "Usable in guest", vm, "usable_bytes", "-");
	if (json_get_u64(vm, "wss_bytes", &wss_bytes) < 0)
		cli_field(cli, "Working set", "-");
	else if (json_get_u64(vm, "wss_error_bytes", &error_bytes) < 0)
		cli_field(cli, "Working set", "%s", format_size(wss, wss_bytes));
	else
		cli_field(cli, "Working set", "%s, give or take %s", format_size(wss, wss_bytes),
			  format_size(error, error_bytes));
	field_size(cli, "Demand", more, "demand_bytes", "-");
	field_size(cli, "Headroom", more, "headroom_bytes", "-");
	field_size(cli, "Need", vm, "need_bytes", "-");
	field_size(cli, "Greedy by", vm, "greedy_bytes", "-");
	field_bool(cli, "Needy", vm, "needy");
	field_number(cli, "Rank", vm, "rank", "");
	put_speed(cli, "Guest swap in", vm, "guest_swap_in_per_s");
	put_speed(cli, "Guest swap out", vm, "guest_swap_out_per_s");
	field_number(cli, "Host major faults", vm, "host_major_faults_per_s", "/s");
	field_bool(cli, "Double swapping", vm, "double_swapping");
	field_time(cli, "Shrink dwell", more, "dwell_ms", "-");
}

static const struct table_column signal_columns[] = {
	{"SIGNAL", false, 0, 0}, {"VALUE", true, 0, 0},	     {"UNIT", false, 0, 0},
	{"AGE", true, 0, 0},	 {"CONFIDENCE", true, 0, 0}, {"SOURCE", false, 24, 1},
};

static void signal_row(struct table *t, const struct json *s)
{
	const char *unit = text_member(s, "unit");
	char value[SIZE_SHORT_LEN] = "-", age[FORMAT_SIZE_LEN] = "-", confidence[16] = "-";
	double number;
	uint64_t age_ms;

	if (json_get_double(s, "value", &number) == 0) {
		if (!strncmp(unit, "bytes", strlen("bytes")) && number >= 0 && number < 0x1p63)
			size_short(value, (uint64_t)number);
		else
			snprintf(value, sizeof(value), "%.4g", number);
	}
	if (json_get_u64(s, "age_ms", &age_ms) == 0)
		format_duration(age, age_ms);
	if (json_get_double(s, "confidence", &number) == 0)
		snprintf(confidence, sizeof(confidence), "%.0f%%", 100 * number);
	table_cell(t, text_member(s, "name"), COLOR_NONE);
	table_cell(t, value, COLOR_NONE);
	table_cell(t, unit, COLOR_NONE);
	table_cell(t, age, COLOR_NONE);
	table_cell(t, confidence, COLOR_NONE);
	table_cell(t, text_member(s, "source"), COLOR_NONE);
}

static int put_signals(struct cli *cli, const struct json *signals)
{
	struct table *t AUTO_TABLE = table_new(signal_columns, ARRAY_SIZE(signal_columns));

	for (size_t i = 0; i < json_len(signals); i++)
		signal_row(t, json_at(signals, i));
	if (json_len(signals) == 0)
		return CLI_DONE;
	cli_line(cli, "%s", "");
	return table_print(t, cli);
}

static int put_policy(struct cli *cli, const struct json *values)
{
	if (json_len(values) == 0)
		return CLI_DONE;
	cli_line(cli, "%s", "");
	return policy_table(cli, values);
}

/* {"vm": {…}, more} → one flat object: the promised names first, then all the rest. */
static int info_json(struct cli *cli, const struct json *vm, const struct json *more)
{
	struct json_writer *w = jw_new(true);

	jw_object(w, NULL);
	fields_write(w, vm, fields_vm);
	for (size_t i = 0; i < json_len(more); i++)
		if (strcmp(json_key_at(more, i), "vm") && !json_get(vm, json_key_at(more, i)))
			jw_json(w, json_key_at(more, i), json_at(more, i));
	jw_end(w);
	return cli_put_json(cli, w);
}

static uint64_t size_of(const struct json *object, const char *key)
{
	uint64_t bytes = 0;

	json_get_u64(object, key, &bytes);
	return bytes;
}

/* Of the migration, save or dump that is under way, or of the last one; nothing where there was none. */
static void put_advice(struct cli *cli, const struct json *advice)
{
	char out[FORMAT_SIZE_LEN], of[FORMAT_SIZE_LEN], stayed[FORMAT_SIZE_LEN], guest[FORMAT_SIZE_LEN];
	const char *refused;

	if (!advice || json_type(advice) != JSON_OBJECT)
		return;
	cli_line(cli, "%s", "");
	field_bool(cli, "Advice under way", advice, "active");
	field_time(cli, "Advice began", advice, "age_ms", "-");
	if (json_get_str(advice, "refused", &refused) == 0)
		cli_field(cli, "Advice refused", "%s", refused);
	cli_field(cli, "Sent out again", "%s of %s that were swapped out",
		  format_size(out, size_of(advice, "out_bytes")), format_size(of, size_of(advice, "swapped_bytes")));
	cli_field(cli, "Stayed in memory", "%s, and %s that the guest brought in",
		  format_size(stayed, size_of(advice, "stayed_bytes")),
		  format_size(guest, size_of(advice, "guest_bytes")));
	cli_field(cli, "Zeroes given back", "%s of %s", format_size(out, size_of(advice, "zero_out_bytes")),
		  format_size(of, size_of(advice, "zero_bytes")));
}

static int run_info(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	const struct json *vm, *more;
	const char *policy_error;
	int r = call_controller(cli, "Info", call_params_vm(cli_arg(cli, 0)), &reply);

	if (r == CLI_DONE)
		r = object_member(cli, &reply, "Info", "vm", &vm);
	if (r != CLI_DONE)
		return r;
	more = reply.parameters;
	if (cli->json)
		return info_json(cli, vm, more);
	put_identity(cli, vm, more);
	cli_line(cli, "%s", "");
	put_sizes(cli, vm, more);
	cli_line(cli, "%s", "");
	put_balloon(cli, vm, more);
	cli_line(cli, "%s", "");
	put_need(cli, vm, more);
	put_advice(cli, json_get(more, "advice"));
	r = put_signals(cli, json_get(more, "signals"));
	if (r == CLI_DONE)
		r = put_policy(cli, json_get(more, "policy"));
	if (json_get_str(more, "policy_error", &policy_error) == 0)
		cli_line(cli, "The policy in the VM's XML is refused, the last good one holds: %s", policy_error);
	return r;
}

static const struct cli_arg info_args[] = {
	{"VM", WORDS_VM, false, false},
	{NULL, WORDS_NONE, false, false},
};
static const struct cli_example info_examples[] = {
	{"memoc info web1", "all that is known of web1"},
	{"memoc info web1 --json | jq .resident_bytes", "one figure of it, for a script"},
	{NULL, NULL},
};
const struct cli_command command_info = {
	.name = "info",
	.summary = "all that is known of one VM",
	.description =
		"Shows all that memocd knows of a VM (by name or UUID): sizes, balloon, need, its policy, and each\n"
		"signal with its age and how far it is believed.",
	.args = info_args,
	.examples = info_examples,
	.run = run_info,
};
