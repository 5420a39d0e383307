/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls to memocd, and every way they fail told in one line: what, why, what to do. */
#include "controller/cli/cli.h"

#include <errno.h>
#include <string.h>

#include "common/parse.h"

#define CONTROLLER "org.memoc.Controller."
#define SERVICE "org.varlink.service."
/* What memocd itself needs to answer after a wait has run out. */
#define WAIT_SLACK_MS 5000

static int timeout_of(const struct cli *cli, int usual_ms)
{
	return cli->timeout_ms > 0 ? cli->timeout_ms : usual_ms;
}

int call_wait_ms(const struct cli *cli)
{
	return timeout_of(cli, CLI_WAIT_TIMEOUT_MS);
}

static int unreachable(struct cli *cli, int code, const struct memoc_err *err, int timeout_ms)
{
	char time[FORMAT_SIZE_LEN];

	switch (code) {
	case -ENOENT:
	case -ECONNREFUSED:
		return cli_fail(cli, CLI_UNREACHABLE,
				"cannot reach memocd: %s %s; start it (systemctl start memocd) or name its socket with "
				"--socket",
				code == -ENOENT ? "there is no socket" : "nobody listens on", cli->socket);
	case -EACCES:
	case -EPERM:
		return cli_fail(
			cli, CLI_UNREACHABLE,
			"cannot reach memocd: no permission to open %s; run as root or as a member of the group "
			"that owns the socket",
			cli->socket);
	case -ETIMEDOUT:
		return cli_fail(
			cli, CLI_UNREACHABLE,
			"memocd on %s did not answer within %s; see \"systemctl status memocd\", or wait longer "
			"with --timeout",
			cli->socket, format_duration(time, (uint64_t)timeout_ms));
	case -ECONNRESET:
	case -EPIPE:
		return cli_fail(cli, CLI_UNREACHABLE,
				"memocd on %s closed the connection; it may be restarting: try again, or see "
				"\"journalctl -u memocd\"",
				cli->socket);
	case -EPROTO:
	case -EINVAL:
	case -E2BIG:
		return cli_fail(cli, CLI_UNREACHABLE,
				"what listens on %s does not answer as memocd does (%s); check --socket and "
				"$MEMOC_SOCKET",
				cli->socket, err->text);
	case -ENOMEM:
		return cli_fail(cli, CLI_FAILED, "out of memory; free some and try again");
	default:
		return cli_fail(cli, CLI_UNREACHABLE, "cannot reach memocd on %s: %s", cli->socket,
				err->text[0] ? err->text : strerror(-code));
	}
}

static const char *text_of(const struct json *parameters, const char *key, const char *otherwise)
{
	const char *text = otherwise;

	json_get_str(parameters, key, &text);
	return text;
}

/* Asks for all names over the same connection; what fails there is not worth a second message. */
static int no_such_vm(struct cli *cli, const char *vm)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	const struct json *vms = NULL;
	const char **names AUTO_FREE = NULL, *name;
	char near[SUGGEST_TEXT_LEN] = "";
	size_t n = 0;

	if (varlink_call(cli->client, CONTROLLER "List", "{\"all\":true,\"off\":true}", 2000, &reply, NULL) == 0)
		vms = json_get(reply.parameters, "vms");
	if (json_len(vms) > 0)
		names = calloc(json_len(vms), sizeof(*names));
	for (size_t i = 0; names && i < json_len(vms); i++) {
		if (json_get_str(json_at(vms, i), "name", &name) < 0)
			continue;
		names[n++] = name;
		if (!strcmp(name, vm) || !strcmp(text_of(json_at(vms, i), "uuid", ""), vm))
			return cli_fail(cli, CLI_FAILED,
					"%s is not running: start it (virsh start), or see and change its policy with "
					"\"memoc get\" and \"memoc set\"",
					name);
	}
	if (n > 0)
		suggest_text(near, vm, names, n);
	return cli_fail(cli, CLI_FAILED, "memocd knows no VM \"%s\"%s%s", vm, near,
			near[0] ? "" : "; \"memoc list --all\" shows all");
}

static int still_resizing(struct cli *cli, const struct json *p)
{
	char target[FORMAT_SIZE_LEN] = "its target", size[FORMAT_SIZE_LEN] = "another size";
	const char *vm = cli_arg(cli, 0);
	uint64_t bytes;

	if (json_get_u64(p, "target_bytes", &bytes) == 0)
		format_size(target, bytes);
	if (json_get_u64(p, "size_bytes", &bytes) == 0)
		format_size(size, bytes);
	return cli_fail(
		cli, CLI_FAILED,
		"%s is at %s, not yet at %s: time is up; memocd goes on with it: watch \"memoc events --follow\", or "
		"wait longer with --timeout",
		vm ? vm : "the VM", size, target);
}

static int service_error(struct cli *cli, const char *method, const char *name, const struct json *p)
{
	if (!strcmp(name, "MethodNotFound") || !strcmp(name, "InterfaceNotFound") ||
	    !strcmp(name, "MethodNotImplemented"))
		return cli_fail(cli, CLI_FAILED,
				"what listens on %s does not know " CONTROLLER
				"%s: it is another version of memocd than "
				"this memoc " MEMOC_VERSION ", or another program; restart memocd, or check --socket",
				cli->socket, method);
	if (!strcmp(name, "InvalidParameter"))
		return cli_fail(
			cli, CLI_FAILED,
			"memocd does not accept the parameter \"%s\" of %s; if memocd and memoc are of the same "
			"version (memoc check), report it",
			text_of(p, "parameter", "?"), method);
	return cli_fail(cli, CLI_FAILED, "memocd answered %s with " SERVICE "%s; see \"journalctl -u memocd\"", method,
			name);
}

static int explain_error(struct cli *cli, const char *method, const struct varlink_reply *reply)
{
	const struct json *p = reply->parameters;
	const char *vm = cli_arg(cli, 0), *name = reply->error;

	if (!strncmp(name, SERVICE, strlen(SERVICE)))
		return service_error(cli, method, name + strlen(SERVICE), p);
	if (!strncmp(name, CONTROLLER, strlen(CONTROLLER)))
		name += strlen(CONTROLLER);
	if (!strcmp(name, "NoSuchVm"))
		return no_such_vm(cli, text_of(p, "vm", vm ? vm : "?"));
	if (!strcmp(name, "AmbiguousVm"))
		return cli_fail(cli, CLI_FAILED,
				"several VMs match \"%s\"; give the UUID (memoc list --all --json shows it)",
				text_of(p, "vm", vm ? vm : "?"));
	if (!strcmp(name, "PermissionDenied"))
		return cli_fail(cli, CLI_FAILED, "permission denied: %s; run as root or as a member of the group memoc",
				text_of(p, "why", "memocd does not let you"));
	if (!strcmp(name, "Refused"))
		return cli_fail(cli, CLI_FAILED, "memocd refused %s: %s", text_of(p, "what", method),
				text_of(p, "why", "it gave no reason; see \"journalctl -u memocd\""));
	if (!strcmp(name, "StillResizing"))
		return still_resizing(cli, p);
	if (!strcmp(name, "NotSupported"))
		return cli_fail(cli, CLI_FAILED, "this memocd does not support %s; see \"memoc host\" for its version",
				text_of(p, "what", method));
	return cli_fail(cli, CLI_FAILED, "memocd failed at %s: %s; see \"journalctl -u memocd\"", method,
			text_of(p, "why", name));
}

int call_bad_answer(struct cli *cli, const char *method, const char *what)
{
	return cli_fail(cli, CLI_FAILED,
			"memocd's answer to %s has no good \"%s\": it is another version than this memoc " MEMOC_VERSION
			"; restart memocd after an upgrade",
			method, what);
}

struct json_writer *call_params_vm(const char *name)
{
	struct json_writer *w = jw_new(false);

	jw_object(w, NULL);
	jw_str(w, "vm", name);
	return w;
}

/* Connects where that is not done yet, and sends. params is consumed. */
static int send_call(struct cli *cli, const char *method, struct json_writer *params, int flags, int timeout_ms)
{
	char name[96], *text AUTO_FREE = NULL;
	struct memoc_err err = {0};
	int r = 0;

	if (params) {
		jw_end(params);
		r = jw_finish(params, &text, NULL);
	}
	if (r == 0 && !cli->client)
		r = varlink_connect(cli->socket, timeout_ms, &cli->client, &err);
	snprintf(name, sizeof(name), CONTROLLER "%s", method);
	if (r == 0)
		r = varlink_send(cli->client, name, text, flags, timeout_ms, &err);
	return r < 0 ? unreachable(cli, r, &err, timeout_ms) : CLI_DONE;
}

/* may_wait: −ETIMEDOUT is given back, unsaid: the reply may still come. */
static int receive(struct cli *cli, const char *method, int timeout_ms, bool may_wait, struct varlink_reply *ret)
{
	struct varlink_reply reply = {0};
	struct memoc_err err = {0};
	int r = varlink_receive(cli->client, timeout_ms, &reply, &err);

	if (r == -ETIMEDOUT && may_wait)
		return r;
	if (r < 0)
		return unreachable(cli, r, &err, timeout_ms);
	if (r == VARLINK_REPLY_ERROR) {
		r = explain_error(cli, method, &reply);
		varlink_reply_clear(&reply);
		return r;
	}
	*ret = reply;
	return CLI_DONE;
}

int call_waiting(struct cli *cli, const char *method, struct json_writer *params, int wait_ms,
		 struct varlink_reply *ret)
{
	int timeout_ms = wait_ms > 0 ? wait_ms + WAIT_SLACK_MS : timeout_of(cli, CLI_CALL_TIMEOUT_MS);
	int r = send_call(cli, method, params, 0, timeout_ms);

	return r == CLI_DONE ? receive(cli, method, timeout_ms, false, ret) : r;
}

int call_controller(struct cli *cli, const char *method, struct json_writer *params, struct varlink_reply *ret)
{
	return call_waiting(cli, method, params, 0, ret);
}

int call_more(struct cli *cli, const char *method, struct json_writer *params)
{
	return send_call(cli, method, params, VARLINK_MORE, timeout_of(cli, CLI_CALL_TIMEOUT_MS));
}

int call_next(struct cli *cli, const char *method, int wait_ms, struct varlink_reply *ret)
{
	return receive(cli, method, wait_ms, wait_ms > 0, ret);
}
