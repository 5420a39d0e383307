/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* check: is this host fit for memoc, and is memoc well on it? */
#include <errno.h>
#include <string.h>

#include "controller/cli/check.h"
#include "controller/cli/commands.h"
#include "common/text.h"

/* ---- memocd and its VMs ---- */

/* The last message is "what: why; what to do": the remedy is what follows the last semicolon. */
static void unreachable(const struct cli *cli, struct check_list *l)
{
	char text[sizeof(cli->said)];
	char *remedy;

	snprintf(text, sizeof(text), "%s", cli->said);
	remedy = strrchr(text, ';');
	if (remedy)
		*remedy++ = '\0';
	check_problem(l, CHECK_WARN, "memocd",
		      remedy ? remedy + strspn(remedy, " ") : "see \"systemctl status memocd\"", "%s", text);
}

static void check_daemon(const struct cli *cli, const struct json *host, struct check_list *l)
{
	const char *version = text_member(host, "version");

	if (!strcmp(version, MEMOC_VERSION))
		check_pass(l, "memocd", "memocd %s answers on %s", version, cli->socket);
	else
		check_problem(l, CHECK_WARN, "memocd", "systemctl restart memocd after an upgrade",
			      "memocd is version %s, memoc is " MEMOC_VERSION, version);
	if (bool_member(host, "libvirt_connected"))
		check_pass(l, "memocd-libvirt", "memocd is connected to libvirt");
	else
		check_problem(l, CHECK_FAIL, "memocd-libvirt", "see \"journalctl -u memocd\" for the reason",
			      "memocd is not connected to libvirt: it cannot see VMs come, nor use their balloons");
	if (bool_member(host, "observe_only"))
		check_problem(l, CHECK_WARN, "memocd-mode", "start it without --observe", "memocd only observes");
	else if (bool_member(host, "held"))
		check_problem(l, CHECK_WARN, "memocd-mode", "memoc release", "all VMs are held: memocd resizes none");
	else
		check_pass(l, "memocd-mode", "memocd resizes VMs");
}

/* Free page reporting of a VM: 1 on, 0 off, −1 not to be counted (gone meanwhile, or not resized). */
static int reports_free_pages(struct cli *cli, const struct json *vm)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	bool on;

	if (!bool_member(vm, "eligible") ||
	    call_controller(cli, "Info", call_params_vm(text_member(vm, "uuid")), &reply))
		return -1;
	return json_get_bool(reply.parameters, "free_page_reporting", &on) == 0 ? on : -1;
}

static void check_reporting(struct cli *cli, struct check_list *l)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	char without[160] = "";
	const struct json *vms;
	size_t used = 0, n_without = 0, n = 0;

	if (call_controller(cli, "List", NULL, &reply) != CLI_DONE)
		return;
	vms = json_get(reply.parameters, "vms");
	for (size_t i = 0; i < json_len(vms); i++) {
		int on = reports_free_pages(cli, json_at(vms, i));
		n += on >= 0;
		if (on != 0)
			continue;
		used = text_add(without, sizeof(without), used, "%s%s", n_without ? ", " : "",
				text_member(json_at(vms, i), "name"));
		n_without++;
	}
	if (n_without > 0)
		check_problem(
			l, CHECK_WARN, "page-reporting",
			"freePageReporting='on' at <memballoon> in the VM's XML (virsh edit), from its next start",
			"%zu of %zu VMs without free page reporting: what their guests free stays resident until a "
			"balloon "
			"takes it (%s)",
			n_without, n, without);
	else if (n > 0)
		check_pass(l, "page-reporting", "free page reporting is on in all %zu VMs", n);
}

static void check_memocd(struct cli *cli, struct check_list *l)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	const struct json *host = NULL;

	cli->quiet = true;
	if (call_controller(cli, "Host", NULL, &reply) != CLI_DONE ||
	    object_member(cli, &reply, "Host", "host", &host) != CLI_DONE) {
		unreachable(cli, l);
	} else {
		check_daemon(cli, host, l);
		check_reporting(cli, l);
	}
	cli->quiet = false;
}

/* ---- output ---- */

static const char *const result_names[] = {[CHECK_PASS] = "PASS", [CHECK_WARN] = "WARN", [CHECK_FAIL] = "FAIL"};

static int print_json(struct cli *cli, const struct check_list *l)
{
	struct json_writer *w = jw_new(true);

	jw_array(w, NULL);
	for (size_t i = 0; i < l->n; i++) {
		const struct check_item *item = &l->items[i];
		jw_object(w, NULL);
		jw_str(w, "check", item->name);
		jw_str(w, "result", result_names[item->result]);
		jw_str(w, "text", item->text);
		jw_str(w, "remedy", item->remedy[0] ? item->remedy : NULL);
		jw_end(w);
	}
	jw_end(w);
	return cli_put_json(cli, w);
}

static int print_lines(struct cli *cli, const struct check_list *l, const size_t count[])
{
	static const char *const colors[] = {
		[CHECK_PASS] = "\033[32m", [CHECK_WARN] = "\033[33m", [CHECK_FAIL] = "\033[31m"};

	for (size_t i = 0; i < l->n && cli->out; i++) {
		const struct check_item *item = &l->items[i];
		fprintf(cli->out, "%s%s%s  %-15s ", cli->color ? colors[item->result] : "", result_names[item->result],
			cli->color ? "\033[0m" : "", item->name);
		cli_line(cli, "%s", item->text);
		if (item->remedy[0])
			cli_line(cli, "      -> %s", item->remedy);
	}
	cli_line(cli, "%zu passed, %zu warnings, %zu failed", count[CHECK_PASS], count[CHECK_WARN], count[CHECK_FAIL]);
	return CLI_DONE;
}

static int run_check(struct cli *cli)
{
	struct check_list l = {0};
	size_t count[CHECK_FAIL + 1] = {0};
	int r;

	check_host("", &l);
	check_libvirt("", &l);
	check_memocd(cli, &l);
	for (size_t i = 0; i < l.n; i++)
		count[l.items[i].result]++;
	if (l.error)
		r = cli_fail(cli, CLI_FAILED, "cannot check: %s", strerror(-l.error));
	else
		r = cli->json ? print_json(cli, &l) : print_lines(cli, &l, count);
	if (r == CLI_DONE && count[CHECK_FAIL] > 0)
		r = cli_flush(cli) == CLI_DONE ? CLI_FAILED : r;
	free(l.items);
	return r;
}

static const struct cli_example check_examples[] = {
	{"memoc check", "after installing, and when something is odd"},
	{"memoc check --json | jq '.[] | select(.result != \"PASS\")'", "what is not as it should be"},
	{NULL, NULL},
};
const struct cli_command command_check = {
	.name = "check",
	.summary = "validate the host: PASS, WARN, FAIL and remedies",
	.description = "Looks whether this host has what memoc needs, and prints a line for each: PASS, WARN (memoc "
		       "works, but\n"
		       "less well) or FAIL (it cannot work), with the remedy. Changes nothing, and works without "
		       "memocd; run it\n"
		       "as root to see everything.",
	.examples = check_examples,
	.failure = "at least one check failed",
	.run = run_check,
};
