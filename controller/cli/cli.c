/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parsing by the command table, messages, output that is printed whole or not at all. */
#include "controller/cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/parse.h"
#include "common/text.h"

#define FIELD_WIDTH 18 /* of the name and its colon in cli_field: fits the longest, "Guest swap in/out:" */

const struct cli_option cli_global_options[] = {
	{"socket", 0, "PATH", "memocd's socket (default $MEMOC_SOCKET, else " CLI_SOCKET_DEFAULT ")", WORDS_FILE},
	{"json", 0, NULL, "print JSON instead of text", WORDS_NONE},
	{"no-color", 0, NULL, "no colours (they are used on a terminal only; $NO_COLOR works too)", WORDS_NONE},
	{"timeout", 0, "TIME", "how long to wait for memocd (default 10s; with --wait 5m)", WORDS_NONE},
	{"version", 0, NULL, "print the version", WORDS_NONE},
	{"help", 'h', NULL, "print help, of a command where one is named", WORDS_NONE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};

/* ---- messages and output ---- */

static void say(struct cli *cli, const char *fmt, va_list ap)
{
	vsnprintf(cli->said, sizeof(cli->said), fmt, ap);
	text_make_printable(cli->said);
	if (!cli->quiet)
		fprintf(stderr, "memoc: %s\n", cli->said);
}

int cli_fail(struct cli *cli, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(cli, fmt, ap);
	va_end(ap);
	return status;
}

int cli_usage(struct cli *cli, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(cli, fmt, ap);
	va_end(ap);
	if (!cli->quiet)
		fprintf(stderr, "Try \"memoc%s%s --help\".\n", cli->command && !cli->command->hidden ? " " : "",
			cli->command && !cli->command->hidden ? cli->command->name : "");
	return CLI_USAGE;
}

static void put_line(struct cli *cli, const char *name, const char *fmt, va_list ap)
{
	char *text = NULL;

	if (vasprintf(&text, fmt, ap) < 0) {
		/* a memory stream without memory: cli_flush sees the error */
		fclose(cli->out);
		cli->out = NULL;
		return;
	}
	text_make_printable(text);
	if (name)
		fprintf(cli->out, "%s:%*s", name, (int)sub_sat_u64(FIELD_WIDTH, strlen(name)), "");
	fprintf(cli->out, "%s\n", text);
	free(text);
}

void cli_line(struct cli *cli, const char *fmt, ...)
{
	va_list ap;

	if (!cli->out)
		return;
	va_start(ap, fmt);
	put_line(cli, NULL, fmt, ap);
	va_end(ap);
}

void cli_field(struct cli *cli, const char *name, const char *fmt, ...)
{
	va_list ap;

	if (!cli->out)
		return;
	va_start(ap, fmt);
	put_line(cli, name, fmt, ap);
	va_end(ap);
}

static int write_all(const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(STDOUT_FILENO, text, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Closes what is composed and starts afresh; the text stays in the caller's hands. */
static int take_output(struct cli *cli, char **ret, size_t *ret_len)
{
	bool bad = !cli->out || ferror(cli->out);

	if (cli->out && fclose(cli->out) != 0)
		bad = true;
	*ret = TAKE(cli->out_text);
	*ret_len = cli->out_len;
	cli->out_len = 0;
	cli->out = open_memstream(&cli->out_text, &cli->out_len);
	return bad ? -ENOMEM : 0;
}

int cli_flush(struct cli *cli)
{
	char *text AUTO_FREE = NULL;
	size_t len = 0;
	int r = take_output(cli, &text, &len);

	if (r == 0)
		r = write_all(text, len);
	if (r == -EPIPE)
		return r;
	if (r < 0)
		return cli_fail(cli, CLI_FAILED, "cannot print: %s", strerror(-r));
	return CLI_DONE;
}

int cli_put_json(struct cli *cli, struct json_writer *w)
{
	char *text AUTO_FREE = NULL;
	size_t len = 0;
	int r = jw_finish(w, &text, &len);

	if (r < 0)
		return cli_fail(cli, CLI_FAILED, "cannot write JSON: %s", strerror(-r));
	if (!cli->out)
		return cli_fail(cli, CLI_FAILED, "cannot print: %s", strerror(ENOMEM));
	while (len > 0 && text[len - 1] == '\n')
		len--;
	fwrite(text, 1, len, cli->out);
	fputc('\n', cli->out);
	return CLI_DONE;
}

/* ---- parsing ---- */

const struct cli_command *cli_find_command(const char *name)
{
	for (size_t i = 0; cli_commands[i]; i++)
		if (!strcmp(cli_commands[i]->name, name))
			return cli_commands[i];
	return NULL;
}

const char *cli_opt(const struct cli *cli, const char *name)
{
	const struct cli_option *o = cli->command->options;

	for (size_t i = 0; o && o[i].name; i++)
		if (!strcmp(o[i].name, name))
			return cli->options[i];
	return NULL;
}

const char *cli_arg(const struct cli *cli, size_t n)
{
	return n < cli->n_args ? cli->args[n] : NULL;
}

/* NULL where the list has none such. word is what follows the dashes: of a long option up to '='. */
static const struct cli_option *find_option(const struct cli_option *list, const char *word, size_t len, bool is_long)
{
	for (const struct cli_option *o = list; o && o->name; o++)
		if (is_long ? strlen(o->name) == len && !strncmp(o->name, word, len) : len == 1 && o->letter == word[0])
			return o;
	return NULL;
}

static int unknown_option(struct cli *cli, const char *word)
{
	const char *names[CLI_OPTIONS_MAX + ARRAY_SIZE(cli_global_options)];
	char near[SUGGEST_TEXT_LEN];
	size_t n = 0;

	for (const struct cli_option *o = cli->command ? cli->command->options : NULL; o && o->name; o++)
		names[n++] = o->name;
	for (const struct cli_option *o = cli_global_options; o->name; o++)
		names[n++] = o->name;
	suggest_text(near, word + strspn(word, "-"), names, n);
	return cli_usage(cli, "%s%s has no option %s%s", cli->command ? "memoc " : "memoc",
			 cli->command ? cli->command->name : "", word, near);
}

static int unknown_command(struct cli *cli, const char *word)
{
	const char *names[64];
	char near[SUGGEST_TEXT_LEN];
	size_t n = 0;

	for (size_t i = 0; cli_commands[i] && n < ARRAY_SIZE(names); i++)
		if (!cli_commands[i]->hidden)
			names[n++] = cli_commands[i]->name;
	return cli_usage(cli, "there is no command \"%s\"%s", word, suggest_text(near, word, names, n));
}

static int set_global(struct cli *cli, const char *name, const char *value, bool *ret_help, bool *ret_version)
{
	struct memoc_err err = {0};
	uint64_t ms;

	if (!strcmp(name, "socket")) {
		cli->socket = value;
	} else if (!strcmp(name, "json")) {
		cli->json = true;
	} else if (!strcmp(name, "no-color")) {
		cli->color = false;
	} else if (!strcmp(name, "version")) {
		*ret_version = true;
	} else if (!strcmp(name, "help")) {
		*ret_help = true;
	} else if (!strcmp(name, "timeout")) {
		if (parse_duration_ms(value, &ms, &err) < 0)
			return cli_usage(cli, "--timeout: %s", err.text);
		if (ms == 0 || ms > INT32_MAX / 2)
			return cli_usage(cli, "--timeout %s: must be more than nothing and less than 12 days", value);
		cli->timeout_ms = (int)ms;
	}
	return CLI_DONE;
}

/* An option of the command itself: a list grows, anything else is replaced by what comes later. */
static int set_own(struct cli *cli, const struct cli_option *option, size_t at, const char *value)
{
	char *longer;

	if (!cli->options[at] || option->words < WORDS_LIST) {
		cli->options[at] = value;
		return CLI_DONE;
	}
	if (asprintf(&longer, "%s,%s", cli->options[at], value) < 0)
		return cli_fail(cli, CLI_FAILED, "cannot start: %s", strerror(ENOMEM));
	free(cli->lists[at]);
	cli->options[at] = cli->lists[at] = longer;
	return CLI_DONE;
}

static void pass_on(struct cli *cli, const char *word)
{
	cli->passed[cli->n_passed++] = word;
}

/* argv[*i] is an option: takes it, and its value from the next word where needed. */
static int parse_option(struct cli *cli, int argc, char **argv, int *i, bool *ret_help, bool *ret_version)
{
	const char *word = argv[*i];
	bool is_long = word[1] == '-';
	const char *name = word + (is_long ? 2 : 1), *eq = is_long ? strchr(name, '=') : NULL;
	size_t len = eq ? (size_t)(eq - name) : strlen(name);
	const struct cli_option *own = cli->command ? cli->command->options : NULL;
	const struct cli_option *own_option = find_option(own, name, len, is_long);
	const struct cli_option *o = own_option ? own_option : find_option(cli_global_options, name, len, is_long);

	if (!o)
		return unknown_option(cli, word);
	if (eq && !o->value)
		return cli_usage(cli, "--%s takes no value", o->name);
	const char *value = eq ? eq + 1 : "";
	if (o->value && !eq) {
		if (*i + 1 >= argc)
			return cli_usage(cli, "--%s needs a value: --%s %s", o->name, o->name, o->value);
		value = argv[++*i];
	}
	if (o->value && !*value)
		return cli_usage(cli, "--%s: its value (%s) is empty", o->name, o->value);
	if (own_option && cli->command && cli->command->passes_on) {
		pass_on(cli, word);
		if (o->value && !eq)
			pass_on(cli, value);
	}
	if (own_option)
		return set_own(cli, own_option, (size_t)(own_option - own), value);
	return set_global(cli, o->name, value, ret_help, ret_version);
}

static int check_args(struct cli *cli)
{
	size_t least = 0, most = 0;
	bool repeats = false;
	const char *missing = NULL;

	for (const struct cli_arg *a = cli->command->args; a && a->name; a++) {
		if (!a->optional && ++least > cli->n_args && !missing)
			missing = a->name;
		most++;
		repeats = repeats || a->repeats;
	}
	if (missing)
		return cli_usage(cli, "%s: %s is missing", cli->command->name, missing);
	if (cli->n_args > most && !repeats)
		return cli_usage(cli, "%s: \"%s\" is one word too many", cli->command->name, cli->args[most]);
	for (size_t i = 0; i < cli->n_args; i++)
		if (!cli->args[i][0])
			return cli_usage(cli, "%s: word %zu is empty", cli->command->name, i + 1);
	return CLI_DONE;
}

int cli_parse(struct cli *cli, int argc, char **argv, bool *ret_help, bool *ret_version)
{
	bool words_only = false;
	int r;

	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];
		if (!words_only && word[0] == '-' && word[1]) {
			if (!strcmp(word, "--")) {
				words_only = true;
				continue;
			}
			r = parse_option(cli, argc, argv, &i, ret_help, ret_version);
			if (r != CLI_DONE)
				return r;
		} else if (!cli->command) {
			cli->command = cli_find_command(word);
			if (!cli->command)
				return unknown_command(cli, word);
		} else if (words_only && cli->command->passes_on) {
			pass_on(cli, word);
		} else {
			cli->args[cli->n_args++] = word;
		}
	}
	if (*ret_help || *ret_version)
		return CLI_DONE;
	if (!cli->command)
		return cli_usage(cli, "no command given");
	return check_args(cli);
}

/* ---- the program ---- */

static unsigned terminal_width(void)
{
	struct winsize ws;

	if (!isatty(STDOUT_FILENO))
		return 0;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) < 0 || ws.ws_col == 0)
		return 80;
	return ws.ws_col;
}

static bool terminal_color(void)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(STDOUT_FILENO) && !(no && *no) && !(term && !strcmp(term, "dumb"));
}

static int run(struct cli *cli, int argc, char **argv)
{
	bool help = false, version = false;
	int r = cli_parse(cli, argc, argv, &help, &version);

	if (r != CLI_DONE)
		return r;
	if (help && cli->command && !cli->command->hidden)
		help_command(cli->out, cli->command);
	else if (help)
		help_program(cli->out);
	else if (version)
		fprintf(cli->out, "memoc %s\n", MEMOC_VERSION);
	else
		r = cli->command->run(cli);
	if (r == CLI_DONE)
		r = cli_flush(cli);
	return r == -EPIPE ? CLI_DONE : r;
}

int cli_main(int argc, char **argv)
{
	const char *socket = getenv("MEMOC_SOCKET");
	struct cli cli = {
		.socket = socket && *socket ? socket : CLI_SOCKET_DEFAULT,
		.color = terminal_color(),
		.width = terminal_width(),
		.timeout_ms = -1,
	};
	int status = CLI_FAILED;

	/* a reader that leaves is seen as EPIPE where we write */
	signal(SIGPIPE, SIG_IGN);
	cli.args = calloc((size_t)argc + 1, sizeof(*cli.args));
	cli.passed = calloc((size_t)argc + 1, sizeof(*cli.passed));
	cli.out = open_memstream(&cli.out_text, &cli.out_len);
	if (!cli.args || !cli.passed || !cli.out)
		cli_fail(&cli, CLI_FAILED, "cannot start: %s", strerror(ENOMEM));
	else
		status = run(&cli, argc, argv);
	cli.client = varlink_client_free(cli.client);
	if (cli.out)
		fclose(cli.out);
	free(cli.out_text);
	free(cli.args);
	free(cli.passed);
	for (size_t i = 0; i < CLI_OPTIONS_MAX; i++)
		free(cli.lists[i]);
	return status;
}
