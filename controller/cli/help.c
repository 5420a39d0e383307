/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Help, written from the command table. */
#include <string.h>

#include "controller/cli/cli.h"

void help_synopsis(FILE *out, const struct cli_command *cmd)
{
	fputs(cmd->name, out);
	if (cmd->synopsis) {
		fprintf(out, " %s", cmd->synopsis);
		return;
	}
	for (const struct cli_option *o = cmd->options; o && o->name; o++)
		fprintf(out, " [--%s%s%s]", o->name, o->value ? " " : "", o->value ? o->value : "");
	for (const struct cli_arg *a = cmd->args; a && a->name; a++)
		fprintf(out, a->optional ? " [%s%s]" : " %s%s", a->name, a->repeats ? "..." : "");
}

/* "-h, --help", "--socket PATH" */
static int put_form(FILE *out, const struct cli_option *o)
{
	char letter[8] = "";

	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c, ", o->letter);
	return fprintf(out, "  %s--%s%s%s", letter, o->name, o->value ? " " : "", o->value ? o->value : "");
}

/* Longer forms have a line of their own; others are two spaces or more before their text (packaging/man-page). */
#define FORM_WIDTH 19

static void put_options(FILE *out, const struct cli_option *o)
{
	for (; o && o->name; o++) {
		int width = put_form(out, o);
		if (width > FORM_WIDTH)
			fprintf(out, "\n%*s  %s\n", FORM_WIDTH, "", o->help);
		else
			fprintf(out, "%*s  %s\n", FORM_WIDTH - width, "", o->help);
	}
}

static void put_statuses(FILE *out, const char *failure)
{
	fprintf(out,
		"\nExit status:\n"
		"  0  done\n"
		"  1  %s\n"
		"  2  wrong usage\n"
		"  3  memocd not reachable\n",
		failure ? failure : "it failed: one line on stderr says what, why and what to do");
}

void help_program(FILE *out)
{
	fputs("Usage: memoc [GLOBAL OPTIONS] COMMAND [ARGS]\n\n"
	      "Shows and steers memocd, which moves memory between the VMs of a libvirt host.\n\n"
	      "Commands:\n",
	      out);
	for (size_t i = 0; cli_commands[i]; i++)
		if (!cli_commands[i]->hidden)
			fprintf(out, "  %-12s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
	fputs("\nGlobal options, before or after the command:\n", out);
	put_options(out, cli_global_options);
	fputs("\nSizes are written as 512M, 1.5G or 10% (of the pool); plain numbers are bytes.\n"
	      "\"memoc COMMAND --help\" tells more of one command.\n",
	      out);
	put_statuses(out, NULL);
}

void help_command(FILE *out, const struct cli_command *cmd)
{
	fputs("Usage: memoc [GLOBAL OPTIONS] ", out);
	help_synopsis(out, cmd);
	fprintf(out, "\n\n%s\n", cmd->description);
	if (cmd->options) {
		fputs("\nOptions:\n", out);
		put_options(out, cmd->options);
	}
	fputs("\nGlobal options:\n", out);
	put_options(out, cli_global_options);
	fputs("\nExamples:\n", out);
	for (const struct cli_example *e = cmd->examples; e && e->line; e++)
		fprintf(out, "  %s\n      %s\n", e->line, e->what);
	put_statuses(out, cmd->failure);
}
