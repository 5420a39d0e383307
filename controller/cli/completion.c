/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Completion scripts for bash, zsh and fish, written from the command table; they ask memoc itself for names of VMs. */
#include <errno.h>
#include <string.h>

#include "controller/cli/commands.h"
#include "controller/cli/simulate.h"
#include "common/vmpolicy.h"

/* A key press must not hang on a memocd that does. */
#define NAMES_TIMEOUT_MS 1000

const char *const completion_shells[] = {"bash", "zsh", "fish", NULL};

/* ---- what the three have in common ---- */

static void put_policies(FILE *out)
{
	const char *names[SIMULATE_POLICIES_MAX];
	size_t n = simulate_policy_names(names);

	for (size_t i = 0; i < n; i++)
		fprintf(out, "%s%s", i > 0 ? " " : "", names[i]);
}

/* The words for an argument as far as they are known beforehand, with a space between. */
static void put_fixed_words(FILE *out, enum cli_words words)
{
	const char *before = "";

	if (words == WORDS_SHELL)
		for (const char *const *s = completion_shells; *s; s++, before = " ")
			fprintf(out, "%s%s", before, *s);
	else if (words == WORDS_KEY_VALUE)
		for (const struct vmpolicy_key *k = vmpolicy_keys; k->name; k++, before = " ")
			fprintf(out, "%s%s=", before, k->name);
	else if (words == WORDS_SIZE)
		fputs("auto", out);
	else if (words == WORDS_POLICIES)
		put_policies(out);
	else if (words == WORDS_TRACE_KIND)
		for (const struct generate_kind *k = generate_kinds; k->name; k++, before = " ")
			fprintf(out, "%s%s", before, k->name);
}

/* The next option, from o on, that takes a value; NULL where none is left. */
static const struct cli_option *next_value_option(const struct cli_option *o)
{
	while (o && o->name && !o->value)
		o++;
	return o && o->name ? o : NULL;
}

/* "--socket|--limit|-n": the options, of all commands, whose next word is their value; files: only names of files. */
static void put_value_options(FILE *out, bool files, const char *between)
{
	const char *before = "";

	for (size_t i = 0; i == 0 || cli_commands[i - 1]; i++) {
		const struct cli_option *o = i == 0 ? cli_global_options : cli_commands[i - 1]->options;
		for (o = next_value_option(o); o; o = next_value_option(o + 1)) {
			if (files && o->words != WORDS_FILE)
				continue;
			fprintf(out, "%s--%s", before, o->name);
			if (o->letter)
				fprintf(out, "%s-%c", between, o->letter);
			before = between;
		}
	}
}

/* Text inside '…', as all three read it; specials get a backslash in front (zsh reads descriptions once more). */
static void put_quoted(FILE *out, const char *text, const char *specials)
{
	for (; *text; text++) {
		if (*text == '\'') {
			fputs("'\\''", out);
			continue;
		}
		if (strchr(specials, *text))
			fputc('\\', out);
		fputc(*text, out);
	}
}

/* ---- bash ---- */

static void bash_options(FILE *out, const struct cli_option *o)
{
	for (; o && o->name; o++)
		fprintf(out, " --%s", o->name);
}

/* Options whose values are known: the last item of a list is completed, what stands before it stays. */
static void bash_values(FILE *out)
{
	for (size_t i = 0; cli_commands[i]; i++)
		for (const struct cli_option *o = next_value_option(cli_commands[i]->options); o;
		     o = next_value_option(o + 1)) {
			if (o->words != WORDS_POLICIES && o->words != WORDS_TRACE_KIND)
				continue;
			fprintf(out,
				"\t\t\t\t--%s)\n\t\t\t\t\tmapfile -t COMPREPLY < <(compgen -P "
				"\"${list%%\"${list##*,}\"}\" -W '",
				o->name);
			put_fixed_words(out, o->words);
			fputs("' -- \"${list##*,}\") ;;\n", out);
		}
}

static void bash_command(FILE *out, const struct cli_command *cmd)
{
	int place = 0;

	fprintf(out, "\t%s,-)\n\t\twords='", cmd->name);
	bash_options(out, cmd->options);
	bash_options(out, cli_global_options);
	fputs("' ;;\n", out);
	for (const struct cli_arg *a = cmd->args; a && a->name; a++, place++) {
		if (a->repeats)
			fprintf(out, "\t%s,*)\n\t\t", cmd->name);
		else
			fprintf(out, "\t%s,%d)\n\t\t", cmd->name, place);
		if (a->words == WORDS_VM || a->words == WORDS_VM_DEFINED) {
			fprintf(out, "_memoc_names%s ;;\n", a->words == WORDS_VM ? "" : " defined");
			continue;
		}
		if (a->words == WORDS_KEY_VALUE)
			fputs("compopt -o nospace\n\t\t", out);
		fputs("words='", out);
		put_fixed_words(out, a->words);
		fputs("' ;;\n", out);
	}
}

static void bash_script(FILE *out)
{
	fputs("# bash completion for memoc, written by \"memoc completion bash\".\n"
	      "_memoc_names()\n{\n"
	      "\tlocal name\n"
	      "\twhile IFS= read -r name; do\n"
	      "\t\tif [[ $name == \"$cur\"* ]]; then COMPREPLY+=(\"$(printf '%q' \"$name\")\"); fi\n"
	      "\tdone < <(\"${COMP_WORDS[0]}\" ${socket:+--socket \"$socket\"} __complete names ${1-} 2>/dev/null)\n"
	      "}\n\n"
	      "_memoc()\n{\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} word command='' socket='' words='' list\n"
	      "\tlocal -i i place=-1\n"
	      "\tCOMPREPLY=()\n"
	      "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
	      "\t\tword=${COMP_WORDS[i]}\n"
	      "\t\tcase $word in\n\t\t",
	      out);
	put_value_options(out, false, "|");
	fputs(")\n"
	      "\t\t\ti+=1\n"
	      "\t\t\tif [[ ${COMP_WORDS[i]} == '=' ]]; then i+=1; fi\n"
	      "\t\t\tif [[ $word == --socket ]]; then socket=${COMP_WORDS[i]}; fi\n"
	      "\t\t\tif ((i >= COMP_CWORD)); then\n"
	      "\t\t\t\tlist=${cur#=}\n"
	      "\t\t\t\tcase $word in\n\t\t\t\t",
	      out);
	put_value_options(out, true, "|");
	fputs(")\n"
	      "\t\t\t\t\tcompopt -o filenames\n"
	      "\t\t\t\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$list\") ;;\n",
	      out);
	bash_values(out);
	fputs("\t\t\t\tesac\n"
	      "\t\t\t\treturn\n"
	      "\t\t\tfi ;;\n"
	      "\t\t-*) ;;\n"
	      "\t\t*)\n"
	      "\t\t\tcommand=${command:-$word}\n"
	      "\t\t\tplace+=1 ;;\n"
	      "\t\tesac\n"
	      "\tdone\n"
	      "\tif [[ $cur == -* ]]; then place=-1; fi\n"
	      "\tcase $command,${place/#-1/-} in\n"
	      "\t,*)\n\t\twords='",
	      out);
	for (size_t i = 0; cli_commands[i]; i++)
		if (!cli_commands[i]->hidden)
			fprintf(out, "%s ", cli_commands[i]->name);
	bash_options(out, cli_global_options);
	fputs("' ;;\n", out);
	for (size_t i = 0; cli_commands[i]; i++)
		if (!cli_commands[i]->hidden)
			bash_command(out, cli_commands[i]);
	fputs("\tesac\n"
	      "\tif [[ -n $words ]]; then mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\"); fi\n"
	      "}\n"
	      "complete -F _memoc memoc\n",
	      out);
}

/* ---- zsh ---- */

static void zsh_value(FILE *out, const struct cli_option *o)
{
	fputc(':', out);
	put_quoted(out, o->value, ":");
	fputs(o->words == WORDS_FILE ? ":_files" : o->words == WORDS_POLICIES ? ":_values -s , policy " : ":", out);
	if (o->words == WORDS_TRACE_KIND)
		fputc('(', out);
	if (o->words == WORDS_TRACE_KIND || o->words == WORDS_POLICIES)
		put_fixed_words(out, o->words);
	if (o->words == WORDS_TRACE_KIND)
		fputc(')', out);
}

static void zsh_options(FILE *out, const struct cli_option *o)
{
	for (; o && o->name; o++) {
		char names[2][40];
		int n = 0;
		snprintf(names[n++], sizeof(names[0]), "--%s", o->name);
		if (o->letter)
			snprintf(names[n++], sizeof(names[0]), "-%c", o->letter);
		for (int i = 0; i < n; i++) {
			fprintf(out, " \\\n\t\t'%s[", names[i]);
			put_quoted(out, o->help, "[]:\\");
			fputc(']', out);
			if (o->value)
				zsh_value(out, o);
			fputc('\'', out);
		}
	}
}

static void zsh_command(FILE *out, const struct cli_command *cmd)
{
	int place = 1;

	fprintf(out, "\t%s)\n\t\t_arguments", cmd->name);
	zsh_options(out, cmd->options);
	zsh_options(out, cli_global_options);
	for (const struct cli_arg *a = cmd->args; a && a->name; a++, place++) {
		if (a->repeats)
			fputs(" \\\n\t\t'*", out);
		else
			fprintf(out, " \\\n\t\t'%d", place);
		fputc(':', out);
		if (a->optional)
			fputc(':', out);
		put_quoted(out, a->name, ":");
		fputc(':', out);
		if (a->words == WORDS_VM || a->words == WORDS_VM_DEFINED || a->words == WORDS_KEY_VALUE) {
			fprintf(out, "%s'",
				a->words == WORDS_VM	      ? "_memoc_names"
				: a->words == WORDS_KEY_VALUE ? "_memoc_keys"
							      : "_memoc_defined");
			continue;
		}
		fputc('(', out);
		put_fixed_words(out, a->words);
		fputs(")'", out);
	}
	fputs(" ;;\n", out);
}

static void zsh_script(FILE *out)
{
	fputs("#compdef memoc\n"
	      "# zsh completion for memoc, written by \"memoc completion zsh\".\n"
	      "_memoc_names()\n{\n"
	      "\tlocal -a names\n"
	      "\tnames=(${(f)\"$(memoc ${socket:+--socket} ${socket:+\"$socket\"} __complete names $which "
	      "2>/dev/null)\"})\n"
	      "\tcompadd -a names\n"
	      "}\n\n"
	      "_memoc_defined()\n{\n"
	      "\tlocal which=defined\n"
	      "\t_memoc_names\n"
	      "}\n\n"
	      "_memoc_keys()\n{\n"
	      "\tcompadd -S '' -- ",
	      out);
	put_fixed_words(out, WORDS_KEY_VALUE);
	fputs("\n}\n\n"
	      "_memoc()\n{\n"
	      "\tlocal curcontext=$curcontext state line socket=''\n"
	      "\tlocal -a commands\n"
	      "\tlocal -A opt_args\n"
	      "\tcommands=(\n",
	      out);
	for (size_t i = 0; cli_commands[i]; i++)
		if (!cli_commands[i]->hidden) {
			fprintf(out, "\t\t'%s:", cli_commands[i]->name);
			put_quoted(out, cli_commands[i]->summary, "\\");
			fputs("'\n", out);
		}
	fputs("\t)\n"
	      "\t_arguments -C",
	      out);
	zsh_options(out, cli_global_options);
	fputs(" \\\n\t\t'1:command:->command' \\\n\t\t'*::argument:->argument'\n"
	      "\tsocket=${opt_args[--socket]}\n"
	      "\tcase $state in\n"
	      "\tcommand)\n\t\t_describe command commands\n\t\treturn ;;\n"
	      "\targument) ;;\n"
	      "\t*)\n\t\treturn ;;\n"
	      "\tesac\n"
	      "\tcase $words[1] in\n",
	      out);
	for (size_t i = 0; cli_commands[i]; i++)
		if (!cli_commands[i]->hidden)
			zsh_command(out, cli_commands[i]);
	fputs("\tesac\n"
	      "}\n\n"
	      "if [[ $funcstack[1] == _memoc ]]; then _memoc \"$@\"; else compdef _memoc memoc; fi\n",
	      out);
}

/* ---- fish ---- */

static void fish_options(FILE *out, const char *condition, const struct cli_option *o)
{
	for (; o && o->name; o++) {
		fputs("complete -c memoc", out);
		if (condition)
			fprintf(out, " -n '__memoc_at %s'", condition);
		fprintf(out, " -l %s", o->name);
		if (o->letter)
			fprintf(out, " -s %c", o->letter);
		if (o->value)
			fputs(o->words == WORDS_FILE ? " -r -F" : " -x", out);
		if (o->words == WORDS_POLICIES || o->words == WORDS_TRACE_KIND) {
			fputs(" -a '", out);
			put_fixed_words(out, o->words);
			fputc('\'', out);
		}
		fputs(" -d '", out);
		put_quoted(out, o->help, "\\");
		fputs("'\n", out);
	}
}

static void fish_command(FILE *out, const struct cli_command *cmd)
{
	int place = 0;

	fprintf(out, "complete -c memoc -n __memoc_at -a %s -d '", cmd->name);
	put_quoted(out, cmd->summary, "\\");
	fputs("'\n", out);
	fish_options(out, cmd->name, cmd->options);
	for (const struct cli_arg *a = cmd->args; a && a->name; a++, place++) {
		fprintf(out, "complete -c memoc -n '__memoc_at %s %s %d' -a '", cmd->name, a->repeats ? "-ge" : "-eq",
			place);
		if (a->words == WORDS_VM || a->words == WORDS_VM_DEFINED)
			fprintf(out, "(__memoc_names%s)", a->words == WORDS_VM ? "" : " defined");
		else
			put_fixed_words(out, a->words);
		fputs("'\n", out);
	}
}

static void fish_script(FILE *out)
{
	fputs("# fish completion for memoc, written by \"memoc completion fish\".\n"
	      "function __memoc_names\n"
	      "    memoc __complete names $argv 2>/dev/null\n"
	      "end\n\n"
	      "# Without arguments: no command is given yet. With a command: it is given; with a place: so many words "
	      "follow it.\n"
	      "function __memoc_at -a command compare place\n"
	      "    set -l tokens (commandline -opc)\n"
	      "    set -l words\n"
	      "    set -l skip 0\n"
	      "    set -e tokens[1]\n"
	      "    for token in $tokens\n"
	      "        if test $skip = 1\n"
	      "            set skip 0\n"
	      "        else if contains -- $token ",
	      out);
	put_value_options(out, false, " ");
	fputs("\n"
	      "            set skip 1\n"
	      "        else if not string match -q -- '-*' $token\n"
	      "            set -a words $token\n"
	      "        end\n"
	      "    end\n"
	      "    if test -z \"$command\"\n"
	      "        test (count $words) = 0\n"
	      "        return\n"
	      "    end\n"
	      "    test \"$words[1]\" = $command; or return 1\n"
	      "    test -z \"$compare\"; or test (math (count $words) - 1) $compare $place\n"
	      "end\n\n"
	      "complete -c memoc -f\n",
	      out);
	fish_options(out, NULL, cli_global_options);
	for (size_t i = 0; cli_commands[i]; i++)
		if (!cli_commands[i]->hidden)
			fish_command(out, cli_commands[i]);
}

/* ---- the commands ---- */

int completion_script(FILE *out, const char *shell)
{
	static void (*const writers[])(FILE *) = {bash_script, zsh_script, fish_script};

	for (size_t i = 0; completion_shells[i]; i++)
		if (!strcmp(completion_shells[i], shell)) {
			writers[i](out);
			return 0;
		}
	return -EINVAL;
}

static int run_completion(struct cli *cli)
{
	if (completion_script(cli->out, cli_arg(cli, 0)) < 0)
		return cli_usage(cli, "completion: no script for \"%s\"; there are bash, zsh and fish",
				 cli_arg(cli, 0));
	return CLI_DONE;
}

static const struct cli_arg completion_args[] = {
	{"bash|zsh|fish", WORDS_SHELL, false, false},
	{NULL, WORDS_NONE, false, false},
};
static const struct cli_example completion_examples[] = {
	{"source <(memoc completion bash)", "in this shell"},
	{"memoc completion bash > /usr/share/bash-completion/completions/memoc", "for everybody"},
	{"memoc completion zsh > /usr/share/zsh/vendor-completions/_memoc", "the same for zsh"},
	{"memoc completion fish > /usr/share/fish/vendor_completions.d/memoc.fish", "the same for fish"},
	{NULL, NULL},
};
const struct cli_command command_completion = {
	.name = "completion",
	.summary = "print the completion script for a shell",
	.description = "Prints a script that completes commands, options, keys and names of VMs.",
	.args = completion_args,
	.examples = completion_examples,
	.run = run_completion,
};

/* What scripts ask: names of VMs that run, or of all that are defined, one a line. A key press gets no error messages.
 */
static int run_complete(struct cli *cli)
{
	struct varlink_reply reply AUTO_REPLY = {0};
	struct json_writer *params;
	const struct json *vms;
	const char *name;

	cli->quiet = true;
	if (strcmp(cli_arg(cli, 0), "names") || (cli_arg(cli, 1) && strcmp(cli_arg(cli, 1), "defined")))
		return CLI_USAGE;
	if (cli->timeout_ms < 0)
		cli->timeout_ms = NAMES_TIMEOUT_MS;
	params = jw_new(false);
	jw_object(params, NULL);
	jw_bool(params, "all", true);
	jw_bool(params, "off", cli_arg(cli, 1) != NULL);
	if (call_controller(cli, "List", params, &reply) != CLI_DONE)
		return CLI_DONE;
	vms = json_get(reply.parameters, "vms");
	for (size_t i = 0; i < json_len(vms); i++)
		if (json_get_str(json_at(vms, i), "name", &name) == 0)
			cli_line(cli, "%s", name);
	return CLI_DONE;
}

static const struct cli_arg complete_args[] = {
	{"WHAT", WORDS_NONE, false, false},
	{"defined", WORDS_NONE, true, false},
	{NULL, WORDS_NONE, false, false},
};
const struct cli_command command_complete = {
	.name = "__complete",
	.args = complete_args,
	.run = run_complete,
	.hidden = true,
};
