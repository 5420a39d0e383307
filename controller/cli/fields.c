/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Members of memocd's answers: the names that are promised to scripts, and values in a form for people. */
#include <string.h>

#include "controller/cli/cli.h"
#include "common/parse.h"

const char *const fields_vm[] = {
	"name",
	"uuid",
	"state",
	"eligible",
	"ineligible_reason",
	"max_bytes",
	"min_bytes",
	"weight",
	"target_bytes",
	"balloon_bytes",
	"limit_bytes",
	"resident_bytes",
	"swapped_bytes",
	"usable_bytes",
	"wss_bytes",
	"wss_error_bytes",
	"need_bytes",
	"rank",
	"needy",
	"greedy_bytes",
	"balloon_health",
	"balloon_bytes_per_s",
	"guest_swap_in_per_s",
	"guest_swap_out_per_s",
	"host_major_faults_per_s",
	"stats_age_ms",
	"last_change_ms",
	"reason",
	NULL,
};

const char *const fields_host[] = {
	"pool_bytes",
	"reserve_bytes",
	"buffer_target_bytes",
	"buffer_bytes",
	"committed_bytes",
	"granted_bytes",
	"resident_bytes",
	"swapped_bytes",
	"overcommit_ratio",
	"level",
	"swap_total_bytes",
	"swap_free_bytes",
	"psi_some_avg10",
	"psi_full_avg10",
	"vms",
	"cgroup",
	"wss_backend",
	"observe_only",
	"version",
	"uptime_s",
	"libvirt_connected",
	NULL,
};

/* all but details, which is never null */
const char *const fields_event[] = {
	"time", "vm", "uuid", "event", "state", "from_bytes", "to_bytes", "reason", NULL,
};

static bool is_one_of(const char *name, const char *const *names)
{
	for (; *names; names++)
		if (!strcmp(*names, name))
			return true;
	return false;
}

void fields_write(struct json_writer *w, const struct json *obj, const char *const *promised)
{
	for (const char *const *name = promised; *name; name++)
		jw_json(w, *name, json_get(obj, *name));
	for (size_t i = 0; i < json_len(obj); i++)
		if (!is_one_of(json_key_at(obj, i), promised))
			jw_json(w, json_key_at(obj, i), json_at(obj, i));
}

const char *text_member(const struct json *obj, const char *key)
{
	const char *text = "-";

	json_get_str(obj, key, &text);
	return *text ? text : "-";
}

bool bool_member(const struct json *obj, const char *key)
{
	bool value = false;

	json_get_bool(obj, key, &value);
	return value;
}

void field_size(struct cli *cli, const char *name, const struct json *obj, const char *key, const char *unknown)
{
	char buf[FORMAT_SIZE_LEN];
	uint64_t bytes;

	cli_field(cli, name, "%s", json_get_u64(obj, key, &bytes) == 0 ? format_size(buf, bytes) : unknown);
}

void field_text(struct cli *cli, const char *name, const struct json *obj, const char *key, const char *unknown)
{
	const char *text = NULL;

	json_get_str(obj, key, &text);
	cli_field(cli, name, "%s", text && *text ? text : unknown);
}

void field_bool(struct cli *cli, const char *name, const struct json *obj, const char *key)
{
	bool value;

	cli_field(cli, name, "%s", json_get_bool(obj, key, &value) < 0 ? "-" : value ? "yes" : "no");
}

void field_number(struct cli *cli, const char *name, const struct json *obj, const char *key, const char *unit)
{
	double value;

	if (json_get_double(obj, key, &value) < 0)
		cli_field(cli, name, "-");
	else
		cli_field(cli, name, "%.6g%s", value, unit);
}

void field_time(struct cli *cli, const char *name, const struct json *obj, const char *key_ms, const char *unknown)
{
	char buf[FORMAT_SIZE_LEN];
	uint64_t ms;

	cli_field(cli, name, "%s", json_get_u64(obj, key_ms, &ms) == 0 ? format_duration(buf, ms) : unknown);
}

static int member(struct cli *cli, const struct varlink_reply *reply, const char *method, const char *key,
		  enum json_type type, const struct json **ret)
{
	const struct json *m = json_get(reply->parameters, key);

	if (json_type(m) != type)
		return call_bad_answer(cli, method, key);
	*ret = m;
	return CLI_DONE;
}

int array_member(struct cli *cli, const struct varlink_reply *reply, const char *method, const char *key,
		 const struct json **ret)
{
	return member(cli, reply, method, key, JSON_ARRAY, ret);
}

int object_member(struct cli *cli, const struct varlink_reply *reply, const char *method, const char *key,
		  const struct json **ret)
{
	return member(cli, reply, method, key, JSON_OBJECT, ret);
}
