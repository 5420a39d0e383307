/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* get, set, resize, hold, release, drain: a VM's policy, and what a person wants beyond it. */
#include <errno.h>
#include <string.h>

#include "controller/cli/commands.h"
#include "common/parse.h"
#include "common/vmpolicy.h"

static const struct cli_arg get_args[] = {
	{"VM", WORDS_VM_DEFINED, false, false},
	{NULL, WORDS_NONE, false, false},
};
static const struct cli_arg some_vm_args[] = {
	{"VM", WORDS_VM, true, false},
	{NULL, WORDS_NONE, false, false},
};

static int put_reply_json(struct cli *cli, const struct varlink_reply *reply)
{
	struct json_writer *w = jw_new(true);

	if (reply->parameters) {
		jw_json(w, NULL, reply->parameters);
	} else {
		jw_object(w, NULL);
		jw_end(w);
	}
	return cli_put_json(cli, w);
}

/* ---- get ---- */

static const struct table_column policy_columns[] = {
	{"KEY", false, 0, 0},
	{"VALUE", false, 0, 0},
	{"EFFECTIVE", false, 0, 0},
	{"SOURCE", false, 24, 0},
};

/* memocd gives effective sizes in bytes. */
static void cell_effective(struct table *t, const struct json *value)
{
	const char *key = text_member(value, "key"), *effective = text_member(value, "effective");
	char buf[SIZE_SHORT_LEN];
	uint64_t bytes;

	if ((!strcmp(key, "min") || !strcmp(key, "max")) && parse_u64(effective, &bytes, NULL) == 0)
		effective = size_short(buf, bytes);
	table_cell(t, effective, COLOR_NONE);
}

int policy_table(struct cli *cli, const struct json *values)
{
	struct table *t AUTO_TABLE = table_new(policy_columns, ARRAY_SIZE(policy_columns));

	for (size_t i = 0; i < json_len(values); i++) {
		const struct json *value = json_at(values, i);
		table_cell(t, text_member(value, "key"), COLOR_NONE);
		table_cell(t, text_member(value, "value"), COLOR_NONE);
		cell_effective(t, value);
		table_cell(t, text_member(value, "source"), COLOR_NONE);
	}
	return table_print(t, cli);
}

static int run_get(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	bool live = cli_opt(cli, "live"), config = cli_opt(cli, "config");
	const struct json *values;
	struct json_writer *params;
	int r;

	if (live && config)
		return cli_usage(cli, "get: --live and --config are two answers: ask for one");
	params = call_params_vm(cli_arg(cli, 0));
	if (live)
		jw_bool(params, "live", true);
	if (config)
		jw_bool(params, "config", true);
	r = call_controller(cli, "GetPolicy", params, &reply);
	if (r == CLI_DONE)
		r = array_member(cli, &reply, "GetPolicy", "values", &values);
	if (r != CLI_DONE)
		return r;
	if (cli->json) {
		struct json_writer *w = jw_new(true);
		jw_json(w, NULL, values);
		return cli_put_json(cli, w);
	}
	return policy_table(cli, values);
}

static const struct cli_option get_options[] = {
	{"live", 0, NULL, "of the running VM (the default for one that runs)", WORDS_NONE},
	{"config", 0, NULL,
	 "of its persistent definition, what holds from its next start (the default for one that is off)", WORDS_NONE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};
static const struct cli_example get_examples[] = {
	{"memoc get web1", "web1's policy: given value, effective value, where it comes from"},
	{NULL, NULL},
};
const struct cli_command command_get = {
	.name = "get",
	.summary = "a VM's policy, and where each value comes from",
	.description = "Shows the policy of a VM (by name or UUID, running or not), as it stands in its XML: for each "
		       "key the value given\n"
		       "(\"-\": none), the one in effect, and where that comes from.",
	.options = get_options,
	.args = get_args,
	.examples = get_examples,
	.run = run_get,
};

/* ---- set ---- */

static int check_assignment(struct cli *cli, const char *word, struct vmpolicy *p, char key[32], const char **ret_value)
{
	const char *eq = strchr(word, '='), *names[32];
	struct memoc_err err = {0};
	char near[SUGGEST_TEXT_LEN];
	size_t n = 0;

	if (!eq || eq == word)
		return cli_usage(cli, "set: \"%s\" is not of the form key=value", word);
	snprintf(key, 32, "%.*s", (int)(eq - word), word);
	for (const struct vmpolicy_key *k = vmpolicy_keys; k->name && n < ARRAY_SIZE(names); k++)
		names[n++] = k->name;
	bool known = false;
	for (size_t i = 0; i < n; i++)
		known |= strcmp(names[i], key) == 0;
	if (vmpolicy_set(p, key, eq + 1, &err) < 0)
		return cli_usage(cli, "set: %s%s", err.text, known ? "" : suggest_text(near, key, names, n));
	*ret_value = eq + 1;
	return CLI_DONE;
}

/* Adds "values" to params: every word checked before anything is sent. */
static int add_values(struct cli *cli, struct json_writer *params)
{
	struct vmpolicy p = vmpolicy_default();
	const char *value = NULL;
	char key[32];

	jw_object(params, "values");
	for (size_t i = 1; i < cli->n_args; i++) {
		int r = check_assignment(cli, cli->args[i], &p, key, &value);
		if (r != CLI_DONE)
			return r;
		for (size_t j = 1; j < i; j++)
			if (!strncmp(cli->args[j], key, strlen(key)) && cli->args[j][strlen(key)] == '=')
				return cli_usage(cli, "set: \"%s\" is given twice", key);
		jw_str(params, key, value);
	}
	jw_end(params);
	return CLI_DONE;
}

static int run_set(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	struct json_writer *params = call_params_vm(cli_arg(cli, 0));
	int r = add_values(cli, params);

	if (r != CLI_DONE) {
		jw_free(params);
		return r;
	}
	if (cli_opt(cli, "live"))
		jw_bool(params, "live", true);
	if (cli_opt(cli, "config"))
		jw_bool(params, "config", true);
	r = call_controller(cli, "SetPolicy", params, &reply);
	if (r != CLI_DONE || cli->json)
		return r == CLI_DONE ? put_reply_json(cli, &reply) : r;
	cli_line(cli, "%s: policy set", cli_arg(cli, 0));
	return CLI_DONE;
}

static const struct cli_option set_options[] = {
	{"live", 0, NULL, "in the running VM, until it stops", WORDS_NONE},
	{"config", 0, NULL, "in its persistent definition, from its next start", WORDS_NONE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};
static const struct cli_arg set_args[] = {
	{"VM", WORDS_VM_DEFINED, false, false},
	{"key=value", WORDS_KEY_VALUE, false, true},
	{NULL, WORDS_NONE, false, false},
};
static const struct cli_example set_examples[] = {
	{"memoc set web1 min=512M weight=200", "guarantee 512 MiB, and twice the usual weight"},
	{"memoc set web1 min= --config", "back to the default minimum, from the next start"},
	{"memoc set db1 swap=no", "never swap db1's memory on the host"},
	{NULL, NULL},
};
const struct cli_command command_set = {
	.name = "set",
	.summary = "change a VM's policy",
	.description =
		"Changes the policy of a VM (by name or UUID, running or not) in its XML, through libvirt; all values\n"
		"or none. It is in effect at once. With neither --live nor --config: in the VM if it runs, and in its\n"
		"persistent definition where it has one. An empty value resets a key to its default. Keys:\n\n"
		"  managed=yes|no      whether memoc resizes this VM at all\n"
		"  min=SIZE max=SIZE   guaranteed memory; memory it may have at most\n"
		"  weight=1..10000     its share against other VMs in need (default 100)\n"
		"  balloon=yes|no      whether its balloon may be used\n"
		"  swap=yes|no         whether the host may swap out its memory",
	.options = set_options,
	.args = set_args,
	.examples = set_examples,
	.run = run_set,
};

/* ---- resize ---- */

/* A share of the pool in bytes: asks memocd how large the pool is. */
static int share_of_pool(struct cli *cli, double ratio, uint64_t *ret_bytes)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	const struct json *host;
	uint64_t pool;
	int r = call_controller(cli, "Host", NULL, &reply);

	if (r == CLI_DONE)
		r = object_member(cli, &reply, "Host", "host", &host);
	if (r != CLI_DONE)
		return r;
	if (json_get_u64(host, "pool_bytes", &pool) < 0)
		return call_bad_answer(cli, "Host", "pool_bytes");
	*ret_bytes = (uint64_t)((double)pool * ratio);
	return CLI_DONE;
}

static int put_resize(struct cli *cli, const struct varlink_reply *reply)
{
	char from[FORMAT_SIZE_LEN], to[FORMAT_SIZE_LEN];
	uint64_t from_bytes, to_bytes;

	if (json_get_u64(reply->parameters, "from_bytes", &from_bytes) < 0)
		return call_bad_answer(cli, "Resize", "from_bytes");
	if (json_get_u64(reply->parameters, "to_bytes", &to_bytes) < 0)
		return call_bad_answer(cli, "Resize", "to_bytes");
	if (cli->json)
		return put_reply_json(cli, reply);
	if (!strcmp(cli_arg(cli, 1), "auto"))
		cli_line(cli, "%s: back to the policy, from %s", cli_arg(cli, 0), format_size(from, from_bytes));
	else
		cli_line(cli, "%s: %s -> %s, %s", cli_arg(cli, 0), format_size(from, from_bytes),
			 format_size(to, to_bytes),
			 bool_member(reply->parameters, "reached") ? "reached" : "under way");
	return CLI_DONE;
}

static int run_resize(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	struct size_spec size = {0};
	struct memoc_err err = {0};
	struct json_writer *params;
	uint64_t bytes = 0;
	int wait_ms = cli_opt(cli, "wait") ? call_wait_ms(cli) : 0, r = CLI_DONE;

	if (parse_size_spec(cli_arg(cli, 1), true, true, &size, &err) < 0)
		return cli_usage(cli, "resize: %s", err.text);
	if (size.kind == SIZE_RATIO)
		r = share_of_pool(cli, size.ratio, &bytes);
	else if (size.kind == SIZE_BYTES)
		bytes = size.bytes;
	if (r != CLI_DONE)
		return r;
	if (size.kind != SIZE_AUTO && (bytes == 0 || bytes > INT64_MAX))
		return cli_usage(cli, "resize: %s is no size for a VM", cli_arg(cli, 1));
	params = call_params_vm(cli_arg(cli, 0));
	if (size.kind == SIZE_AUTO)
		jw_null(params, "bytes");
	else
		jw_u64(params, "bytes", bytes);
	if (wait_ms > 0) {
		jw_bool(params, "wait", true);
		jw_u64(params, "timeout_ms", (uint64_t)wait_ms);
	}
	r = call_waiting(cli, "Resize", params, wait_ms, &reply);
	return r == CLI_DONE ? put_resize(cli, &reply) : r;
}

static const struct cli_option resize_options[] = {
	{"wait", 0, NULL, "return when the VM has that size (at most --timeout)", WORDS_NONE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};
static const struct cli_arg resize_args[] = {
	{"VM", WORDS_VM, false, false},
	{"SIZE|auto", WORDS_SIZE, false, false},
	{NULL, WORDS_NONE, false, false},
};
static const struct cli_example resize_examples[] = {
	{"memoc resize web1 1.5G --wait", "make it 1.5 GiB, keep it so, return when done"},
	{"memoc resize web1 10%", "a tenth of the pool"},
	{"memoc resize web1 auto", "give it back to the policy"},
	{NULL, NULL},
};
const struct cli_command command_resize = {
	.name = "resize",
	.summary = "pin a VM to a size, or give it back to the policy",
	.description = "Pins a VM (by name or UUID) to a size, within the limits of its policy and its XML; \"auto\" "
		       "gives it\n"
		       "back to the policy.",
	.options = resize_options,
	.args = resize_args,
	.examples = resize_examples,
	.failure = "it failed, or with --wait the size was not reached in time (memocd goes on with it)",
	.run = run_resize,
};

/* ---- hold, release ---- */

static int hold_or_release(struct cli *cli, const char *method, const char *did)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	const char *vm = cli_arg(cli, 0);
	int r = call_controller(cli, method, call_params_vm(vm), &reply);

	if (r != CLI_DONE || cli->json)
		return r == CLI_DONE ? put_reply_json(cli, &reply) : r;
	cli_line(cli, "%s: %s", vm ? vm : "all VMs", did);
	return CLI_DONE;
}

static int run_hold(struct cli *cli)
{
	return hold_or_release(cli, "Hold", "held");
}

static int run_release(struct cli *cli)
{
	return hold_or_release(cli, "Release", "released");
}

static const struct cli_example hold_examples[] = {
	{"memoc hold web1", "leave web1 as it is"},
	{"memoc hold", "leave all VMs as they are, and those that start later"},
	{NULL, NULL},
};
const struct cli_command command_hold = {
	.name = "hold",
	.summary = "stop resizing one VM or all: observe only",
	.description =
		"Stops resizing a VM (by name or UUID), or all VMs and every one to come. memocd goes on to observe.",
	.args = some_vm_args,
	.examples = hold_examples,
	.run = run_hold,
};

static const struct cli_example release_examples[] = {
	{"memoc release web1", "resize web1 again"},
	{"memoc release", "resize all VMs again"},
	{NULL, NULL},
};
const struct cli_command command_release = {
	.name = "release",
	.summary = "resume resizing one VM or all",
	.description = "Ends what \"memoc hold\" or \"memoc drain\" began, for a VM (by name or UUID) or for all.",
	.args = some_vm_args,
	.examples = release_examples,
	.run = run_release,
};

/* ---- drain ---- */

static int put_drain(struct cli *cli, const struct varlink_reply *reply, bool waited)
{
	uint64_t vms, open;

	if (json_get_u64(reply->parameters, "vms", &vms) < 0)
		return call_bad_answer(cli, "Drain", "vms");
	if (json_get_u64(reply->parameters, "open", &open) < 0)
		return call_bad_answer(cli, "Drain", "open");
	if (waited && open < vms)
		return cli_fail(
			cli, CLI_FAILED,
			"%llu of %llu VMs have all their memory back; memocd goes on with the others: see \"memoc "
			"list\", or wait longer with --timeout",
			(unsigned long long)open, (unsigned long long)vms);
	if (cli->json)
		return put_reply_json(cli, reply);
	cli_line(cli, "%llu of %llu VMs have all their memory back%s", (unsigned long long)open,
		 (unsigned long long)vms, open < vms ? "; the others are under way" : "");
	return CLI_DONE;
}

static int run_drain(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	const char *vm = cli_arg(cli, 0);
	bool all = cli_opt(cli, "all");
	int wait_ms = cli_opt(cli, "wait") ? call_wait_ms(cli) : 0, r;
	struct json_writer *params;

	if (all == (vm != NULL))
		return cli_usage(cli, "drain: name either one VM or --all");
	params = call_params_vm(vm);
	if (wait_ms > 0) {
		jw_bool(params, "wait", true);
		jw_u64(params, "timeout_ms", (uint64_t)wait_ms);
	}
	r = call_waiting(cli, "Drain", params, wait_ms, &reply);
	return r == CLI_DONE ? put_drain(cli, &reply, wait_ms > 0) : r;
}

static const struct cli_option drain_options[] = {
	{"all", 0, NULL, "all VMs", WORDS_NONE},
	{"wait", 0, NULL, "return when it is done (at most --timeout)", WORDS_NONE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};
static const struct cli_example drain_examples[] = {
	{"memoc drain web1", "give web1 all its memory, and leave it alone"},
	{"memoc drain --all --wait", "the way out before uninstalling"},
	{NULL, NULL},
};
const struct cli_command command_drain = {
	.name = "drain",
	.summary = "open all limits and deflate: the way out",
	.description = "Opens the limit of a VM (by name or UUID), or of all, gives it all its memory by the balloon, "
		       "and holds\n"
		       "it there until \"memoc release\". The host must have that much memory, or it will swap.",
	.options = drain_options,
	.args = some_vm_args,
	.synopsis = "VM|--all [--wait]",
	.examples = drain_examples,
	.failure = "it failed, or with --wait it was not done in time (memocd goes on with it)",
	.run = run_drain,
};
