/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memoc command. One table of commands (commands.c) drives parsing, help and completion. A command composes its
 * whole output in memory and is printed only when it has succeeded, so that an error never follows half a table.
 * Single-threaded.
 */
#ifndef MEMOC_CLI_CLI_H
#define MEMOC_CLI_CLI_H

#include <stdio.h>

#include "common/varlink.h"

#define CLI_SOCKET_DEFAULT "/run/memoc/memoc.sock"
#define CLI_OPTIONS_MAX 64	  /* options of one command */
#define CLI_CALL_TIMEOUT_MS 10000 /* memocd answers from memory: far beyond any good answer */
#define CLI_WAIT_TIMEOUT_MS (5 * 60 * 1000)

/* What the program exits with: promised in interfaces.md. */
enum cli_status { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_UNREACHABLE = 3 };

/*
 * What a word on the command line stands for: tells completion what to offer. WORDS_LIST and what follows are lists
 * with commas: an option of these that is given again adds to its list.
 */
enum cli_words {
	WORDS_NONE = 1,
	WORDS_VM,	  /* that runs */
	WORDS_VM_DEFINED, /* whether it runs or not */
	WORDS_KEY_VALUE,
	WORDS_SIZE,
	WORDS_FILE,
	WORDS_SHELL,
	WORDS_TRACE_KIND,
	WORDS_LIST,
	WORDS_POLICIES,
};

struct cli_option {
	const char *name;  /* without dashes; a NULL name ends a list */
	char letter;	   /* short form, 0 where none */
	const char *value; /* what stands for its value in help; NULL: it takes none */
	const char *help;
	enum cli_words words; /* of the value */
};

struct cli_arg {
	const char *name; /* as in help; a NULL name ends a list */
	enum cli_words words;
	bool optional;
	bool repeats; /* only the last one may */
};

struct cli_example {
	const char *line, *what; /* a NULL line ends a list */
};

struct cli;
struct cli_command {
	const char *name, *summary;
	const char *description;	  /* paragraphs for --help */
	const struct cli_option *options; /* NULL: none */
	const struct cli_arg *args;	  /* NULL: none */
	const char *synopsis;		  /* only where options and args do not say it */
	const struct cli_example *examples;
	const char *failure;	     /* what exit status 1 means here; NULL: the usual */
	int (*run)(struct cli *cli); /* returns enum cli_status, having said why where it is not CLI_DONE */
	bool hidden;		     /* for completion scripts, not for people */
	bool passes_on; /* its options, and all words after "--", are another program's: kept as given, too */
};
extern const struct cli_command *const cli_commands[]; /* ended by NULL */
extern const struct cli_option cli_global_options[];

/* One run of the program. */
struct cli {
	const char *socket;
	bool json;
	bool color;
	unsigned width; /* columns of the terminal; 0: not a terminal, nothing is cut */
	int timeout_ms; /* given with --timeout; −1 where not */
	const struct cli_command *command;
	const char *options[CLI_OPTIONS_MAX]; /* by place in command->options; "" for a flag, NULL where not given */
	char *lists[CLI_OPTIONS_MAX];	      /* owned text of an option that was given more than once */
	const char **args;
	size_t n_args;
	const char **passed; /* where the command passes_on: words for the other program; NULL-ended */
	size_t n_passed;
	FILE *out; /* composed output; goes to stdout by cli_flush */
	char *out_text;
	size_t out_len;
	struct varlink_client *client; /* opened by the first call */
	bool quiet;		       /* print no message on stderr: completion, check */
	char said[512];		       /* the last message, printed or not */
};

/* The whole program: parses, runs, prints. Returns its exit status. */
int cli_main(int argc, char **argv);

/* Fills cli from the command line; CLI_DONE or CLI_USAGE (said on stderr). cli->args must have room for argc words. */
int cli_parse(struct cli *cli, int argc, char **argv, bool *ret_help, bool *ret_version);
const struct cli_command *cli_find_command(const char *name);
/* Value of one of the command's own options; NULL where not given. */
const char *cli_opt(const struct cli *cli, const char *name);
/* The n-th argument, NULL where not given. */
const char *cli_arg(const struct cli *cli, size_t n);

/* One line on stderr, "memoc: …", made printable; returns status. */
int cli_fail(struct cli *cli, int status, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Wrong usage: as above, and where help is; returns CLI_USAGE. */
int cli_usage(struct cli *cli, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* One line of output, made printable (it holds what others wrote: names, reasons). */
void cli_line(struct cli *cli, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* "Name:            value" */
void cli_field(struct cli *cli, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Prints what is composed so far. CLI_DONE, CLI_FAILED (said why), or −EPIPE: the reader has gone, stop quietly. */
int cli_flush(struct cli *cli);
/* Ends a writer and puts its text, with a newline, to the output. */
int cli_put_json(struct cli *cli, struct json_writer *w);

/* ---- help.c ---- */
void help_program(FILE *out);
void help_command(FILE *out, const struct cli_command *cmd);
void help_synopsis(FILE *out, const struct cli_command *cmd); /* "list [--all]" */

/* ---- call.c: talking to memocd ---- */
/* Calls org.memoc.Controller.METHOD; params is consumed (NULL: none). On CLI_DONE the caller clears *ret. */
int call_controller(struct cli *cli, const char *method, struct json_writer *params, struct varlink_reply *ret);
/* The same, giving memocd wait_ms on top of the usual deadline. */
int call_waiting(struct cli *cli, const char *method, struct json_writer *params, int wait_ms,
		 struct varlink_reply *ret);
/*
 * Starts a call with many replies; call_next gets one: CLI_DONE, −ETIMEDOUT where none has come within wait_ms (≤ 0:
 * for ever), or failed and said.
 */
int call_more(struct cli *cli, const char *method, struct json_writer *params);
int call_next(struct cli *cli, const char *method, int wait_ms, struct varlink_reply *ret);
/* {"vm": name}, name NULL → null; the caller adds members and hands it to a call. */
struct json_writer *call_params_vm(const char *name);
/* An answer that lacks what its interface promises: says so; returns CLI_FAILED. */
int call_bad_answer(struct cli *cli, const char *method, const char *what);
/* How long --wait waits. */
int call_wait_ms(const struct cli *cli);

/* ---- suggest.c: names near to a mistyped one ---- */
#define SUGGEST_MAX 3
/* Up to SUGGEST_MAX of the n names, nearest first; returns how many. */
size_t suggest(const char *word, const char *const *names, size_t n, const char *ret[SUGGEST_MAX]);
/* `: did you mean "web1" or "web2"?`, or "" where nothing is near. */
#define SUGGEST_TEXT_LEN 256
const char *suggest_text(char buf[SUGGEST_TEXT_LEN], const char *word, const char *const *names, size_t n);

/* ---- table.c: libsmartcols ---- */
struct table_column {
	const char *name;
	bool right;    /* align to the right: numbers */
	unsigned cut;  /* 0: never cut; else it may be, to so many columns, before whole columns are left out */
	unsigned drop; /* 0: always shown; else the higher, the sooner it is left out where the terminal is narrow */
};
enum table_color { COLOR_NONE = 0, COLOR_GOOD, COLOR_BUSY, COLOR_WARN, COLOR_BAD, COLOR_DIM };
struct table; /* errors stick and are reported by table_print */
struct table *table_new(const struct table_column *columns, size_t n);
struct table *table_free(struct table *t);
static inline void table_free_p(struct table **t)
{
	*t = table_free(*t);
}
#define AUTO_TABLE CLEANUP(table_free_p)
/* Cells are added row by row, left to right; text is copied, NULL is "-". */
void table_cell(struct table *t, const char *text, enum table_color color);
/* Size for people in the form that the command line takes: "512M", "1.25G", "0". */
void table_size(struct table *t, const struct json *size, enum table_color color);
int table_print(struct table *t, struct cli *cli);
#define SIZE_SHORT_LEN 16
const char *size_short(char buf[SIZE_SHORT_LEN], uint64_t bytes);
/* Of a JSON number of bytes; `unknown` where it is null or none. */
const char *size_short_json(char buf[SIZE_SHORT_LEN], const struct json *size, const char *unknown);

/* ---- fields.c: members of answers, for people ---- */
/* Writes the members of obj named in `promised` (NULL-ended; null where absent), then all others, into an open object.
 */
void fields_write(struct json_writer *w, const struct json *obj, const char *const *promised);
extern const char *const fields_vm[], *const fields_host[], *const fields_event[]; /* the names that are promised */
/* "Name:  512M"; `unknown` where it is null or absent. */
void field_size(struct cli *cli, const char *name, const struct json *obj, const char *key, const char *unknown);
void field_text(struct cli *cli, const char *name, const struct json *obj, const char *key, const char *unknown);
void field_bool(struct cli *cli, const char *name, const struct json *obj, const char *key);
void field_number(struct cli *cli, const char *name, const struct json *obj, const char *key, const char *unit);
void field_time(struct cli *cli, const char *name, const struct json *obj, const char *key_ms, const char *unknown);
/* Member as text; "-" where it is none. */
const char *text_member(const struct json *obj, const char *key);
bool bool_member(const struct json *obj, const char *key);
/* Array member of an answer; CLI_FAILED, said, where it is none. */
/* KEY VALUE EFFECTIVE SOURCE of an array of PolicyValue. */
int policy_table(struct cli *cli, const struct json *values);
int array_member(struct cli *cli, const struct varlink_reply *reply, const char *method, const char *key,
		 const struct json **ret);
int object_member(struct cli *cli, const struct varlink_reply *reply, const char *method, const char *key,
		  const struct json **ret);

/* ---- completion.c ---- */
int completion_script(FILE *out, const char *shell); /* −EINVAL: no such shell */
extern const char *const completion_shells[];	     /* ended by NULL */

#endif
