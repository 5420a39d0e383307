/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* config: the running configuration, or memocd's verdict on a file. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

#include "controller/cli/commands.h"

extern char **environ;

#define VERDICT_MAX 4096 /* of memocd's words in JSON */

/* ---- where memocd is ---- */

/* memocd beside this very memoc (a build tree), or where one prefix has it: PREFIX/bin/memoc, PREFIX/sbin/memocd. */
static bool find_beside(char ret[PATH_MAX])
{
	static const char *const places[] = {"/memocd", "/../sbin/memocd"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n <= 0)
		return false;
	self[n] = '\0';
	slash = strrchr(self, '/');
	if (!slash)
		return false;
	*slash = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		if (snprintf(ret, PATH_MAX, "%s%s", self, places[i]) < PATH_MAX && access(ret, X_OK) == 0)
			return true;
	return false;
}

/* Users' PATH often lacks the sbin directories. */
static bool find_in_path(char ret[PATH_MAX])
{
	const char *path = getenv("PATH");
	const char *lists[] = {path ? path : "", "/usr/local/sbin:/usr/sbin:/sbin"};

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		for (const char *p = lists[i]; *p;) {
			size_t len = strcspn(p, ":");
			if (len > 0 && snprintf(ret, PATH_MAX, "%.*s/memocd", (int)len, p) < PATH_MAX &&
			    access(ret, X_OK) == 0)
				return true;
			p += len + (p[len] == ':');
		}
	return false;
}

/* ---- its verdict ---- */

static int spawn(const char *program, const char *file, int out_fd, pid_t *ret)
{
	char *argv[] = {(char *)program, (char *)"--check-config", (char *)"--config", (char *)file, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t pipe_set;
	int r;

	/* memoc ignores SIGPIPE; that is not to be inherited */
	sigemptyset(&pipe_set);
	sigaddset(&pipe_set, SIGPIPE);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigdefault(&attr, &pipe_set);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_init(&actions);
	if (out_fd >= 0) {
		posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
		posix_spawn_file_actions_adddup2(&actions, out_fd, STDERR_FILENO);
	}
	r = posix_spawn(ret, program, &actions, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return -r;
}

/* All that it says up to VERDICT_MAX; the rest is read and dropped, so that it never blocks. */
static void read_verdict(int fd, char text[VERDICT_MAX])
{
	char rest[512];
	size_t used = 0;
	ssize_t n;

	for (;;) {
		size_t room = VERDICT_MAX - 1 - used;
		n = room > 0 ? read(fd, text + used, room) : read(fd, rest, sizeof(rest));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		used += room > 0 ? (size_t)n : 0;
	}
	while (used > 0 && text[used - 1] == '\n')
		used--;
	text[used] = '\0';
}

static int verdict_json(struct cli *cli, const char *file, bool good, const char *said)
{
	struct json_writer *w = jw_new(true);
	int r;

	jw_object(w, NULL);
	jw_str(w, "file", file);
	jw_bool(w, "good", good);
	jw_str(w, "verdict", said);
	jw_end(w);
	r = cli_put_json(cli, w);
	if (r == CLI_DONE)
		r = cli_flush(cli);
	return r == CLI_DONE && !good ? CLI_FAILED : r;
}

static int check_file(struct cli *cli, const char *file)
{
	char program[PATH_MAX], said[VERDICT_MAX] = "";
	int pipe_fds[2] = {-1, -1}, status = 0, r;
	pid_t pid;

	if (!find_beside(program) && !find_in_path(program))
		return cli_fail(
			cli, CLI_FAILED,
			"cannot check %s: memocd, which reads it, is neither beside memoc nor in $PATH; install it",
			file);
	if (cli->json && pipe2(pipe_fds, O_CLOEXEC) < 0)
		return cli_fail(cli, CLI_FAILED, "cannot check %s: %s", file, strerror(errno));
	r = spawn(program, file, pipe_fds[1], &pid);
	if (pipe_fds[1] >= 0)
		close(pipe_fds[1]);
	if (r == 0 && pipe_fds[0] >= 0)
		read_verdict(pipe_fds[0], said);
	if (pipe_fds[0] >= 0)
		close(pipe_fds[0]);
	while (r == 0 && waitpid(pid, &status, 0) < 0)
		r = errno == EINTR ? 0 : -errno;
	if (r < 0)
		return cli_fail(cli, CLI_FAILED, "cannot run %s: %s", program, strerror(-r));
	if (WIFSIGNALED(status))
		return cli_fail(cli, CLI_FAILED, "%s was ended by signal %d; report it, with %s", program,
				WTERMSIG(status), file);
	if (cli->json)
		return verdict_json(cli, file, WEXITSTATUS(status) == 0, said);
	return WEXITSTATUS(status) == 0 ? CLI_DONE : CLI_FAILED;
}

/* ---- the running configuration ---- */

static const struct table_column config_columns[] = {
	{"KEY", false, 0, 0},
	{"VALUE", false, 0, 0},
	{"SOURCE", false, 24, 0},
};

static int config_table(struct cli *cli, const struct json *settings)
{
	struct table *t AUTO_TABLE = table_new(config_columns, ARRAY_SIZE(config_columns));

	for (size_t i = 0; i < json_len(settings); i++) {
		const struct json *s = json_at(settings, i);
		table_cell(t, text_member(s, "key"), COLOR_NONE);
		table_cell(t, text_member(s, "value"), COLOR_NONE);
		table_cell(t, text_member(s, "source"), COLOR_NONE);
	}
	return table_print(t, cli);
}

static int run_config(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	const char *file = cli_opt(cli, "check");
	const struct json *settings;
	int r;

	if (file)
		return check_file(cli, file);
	r = call_controller(cli, "Config", NULL, &reply);
	if (r == CLI_DONE)
		r = array_member(cli, &reply, "Config", "settings", &settings);
	if (r != CLI_DONE)
		return r;
	if (cli->json) {
		struct json_writer *w = jw_new(true);
		jw_json(w, NULL, settings);
		return cli_put_json(cli, w);
	}
	return config_table(cli, settings);
}

static const struct cli_option config_options[] = {
	{"check", 0, "FILE", "validate a file instead, with \"memocd --check-config\"; needs no running memocd",
	 WORDS_FILE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};
static const struct cli_example config_examples[] = {
	{"memoc config", "the effective configuration, and where each value came from"},
	{"memoc config --check /etc/memoc/memoc.conf", "whether memocd would take this file"},
	{NULL, NULL},
};
const struct cli_command command_config = {
	.name = "config",
	.summary = "effective configuration, or validate a file",
	.description =
		"Shows the configuration that memocd runs with: each setting, its value, and where that came from\n"
		"(default, file and line, or --set).",
	.options = config_options,
	.examples = config_examples,
	.failure = "it failed, or with --check the file is not good: memocd says why",
	.run = run_config,
};
