/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* simulate: policies in virtual time over a trace of memory demand. */
#include <errno.h>
#include <string.h>

#include "controller/cli/commands.h"
#include "controller/cli/simulate.h"

/* The first faults, a line each, and how many more there are; last, why reading did not come to the end. */
static int bad_trace(struct cli *cli, const struct trace_report *report, const char *why)
{
	size_t shown = min_u64(report->n, TRACE_FAULTS_MAX);

	if (shown == 0 || (shown == 1 && !report->broken_off))
		return cli_fail(cli, CLI_FAILED, "%s", why);
	for (size_t i = 0; i < shown; i++)
		cli_fail(cli, CLI_FAILED, "%s", report->first[i].text);
	if (report->n > shown)
		cli_fail(cli, CLI_FAILED, "and %llu more", (unsigned long long)(report->n - shown));
	if (report->broken_off)
		cli_fail(cli, CLI_FAILED, "%s", why);
	return CLI_FAILED;
}

static int simulate_trace(struct cli *cli)
{
	struct trace_report report;
	struct simulate_options options;
	struct memoc_err err = {0};
	struct trace *trace = NULL;
	struct run run = {.cli = cli, .options = &options};
	int r = simulate_parse(cli, &options);

	if (r != CLI_DONE)
		return r;
	if (trace_read_report(options.trace_path, &trace, &report, &err) < 0)
		return bad_trace(cli, &report, err.text);
	run.trace = trace;
	r = run_policies(&run);
	if (r == CLI_DONE)
		r = cli->json ? show_json(cli, &run) : show_text(cli, &run);
	run_free(&run);
	trace_free(trace);
	return r;
}

/* Straight to the descriptor: a trace of many VMs is too long to be composed in memory. */
static int write_stdout(struct cli *cli, const struct trace *trace)
{
	int r = trace_write(trace, stdout);

	if (r == 0 && (fflush(stdout) != 0 || ferror(stdout)))
		r = errno > 0 ? -errno : -EIO;
	if (r == -EPIPE)
		return r;
	return r < 0 ? cli_fail(cli, CLI_FAILED, "cannot print: %s", strerror(-r)) : CLI_DONE;
}

static int write_file(struct cli *cli, const struct trace *trace, const char *path)
{
	struct memoc_err err = {0};
	struct out_file f;
	int r = out_file_open(&f, path, &err);

	if (r == 0)
		r = out_file_commit(&f, trace_write(trace, f.stream), &err);
	return r < 0 ? cli_fail(cli, CLI_FAILED, "%s", err.text) : CLI_DONE;
}

static int generate(struct cli *cli)
{
	struct generate_options options;
	struct memoc_err err = {0};
	struct trace *trace = NULL;
	const char *path;
	int r = simulate_parse_generate(cli, &options, &path);

	if (r != CLI_DONE)
		return r;
	if (trace_generate(&options, &trace, &err) < 0)
		return cli_fail(cli, CLI_FAILED, "%s", err.text);
	r = path ? write_file(cli, trace, path) : write_stdout(cli, trace);
	trace_free(trace);
	return r;
}

static int run_simulate(struct cli *cli)
{
	return cli_opt(cli, "generate") ? generate(cli) : simulate_trace(cli);
}

static const struct cli_option simulate_options[] = {
	{"trace", 0, "FILE", "what VMs demand over time: memoc's CSV or GWA-T-12, plain, .gz or .xz; \"-\" is stdin",
	 WORDS_FILE},
	{"policy", 0, "NAME[,NAME...]", "policies to compare (default needy-greedy; see above)", WORDS_POLICIES},
	{"pool", 0, "SIZE", "memory of each host for its VMs; or else", WORDS_NONE},
	{"overcommit", 0, "RATIO", "sum of the sizes of a host's VMs by its pool, such as 4", WORDS_NONE},
	{"vms-per-host", 0, "N", "how many VMs a host has, by a seeded shuffle (default: all on one host)", WORDS_NONE},
	{"step", 0, "TIME", "of virtual time, between two looks at all (default 1s)", WORDS_NONE},
	{"duration", 0, "TIME", "how much of the trace is played (default all); with --generate its length (24h)",
	 WORDS_NONE},
	{"seed", 0, "N", "of all that is by chance (default 0): the same seed gives the same bytes", WORDS_NONE},
	{"buffer", 0, "SIZE|PERCENT", "memory that no VM may use; PERCENT is of the pool (default as memocd)",
	 WORDS_NONE},
	{"model", 0, "KEY=VALUE[,...]", "how fast balloons and reclaim are, and the like; a wrong key lists all keys",
	 WORDS_LIST},
	{"faults", 0, "KIND[:SHARE][,...]", "guests that misbehave, such as stuck:10%,slow=1M:5%,reboot@3600:20%",
	 WORDS_LIST},
	{"allocations", 0, "FILE.csv", "write time_s,host,vm,demand_mib,size_mib of every VM in every step",
	 WORDS_FILE},
	{"plot", 0, "FILE.svg", "draw demand, sizes and what was not met", WORDS_FILE},
	{"density", 0, NULL, "also search the highest overcommit at which 0.1 % of demand is not met (takes ten runs)",
	 WORDS_NONE},
	{"explain-worst", 0, "N",
	 "list the N episodes that cost most, with the policy's reasons: of the size before, and of what ended it",
	 WORDS_NONE},
	{"generate", 0, "KIND", "write a made-up trace instead (see above)", WORDS_TRACE_KIND},
	{"vms", 0, "N", "with --generate: how many (default 50)", WORDS_NONE},
	{"size", 0, "SIZE", "with --generate: of each VM (default 4G)", WORDS_NONE},
	{"output", 0, "FILE", "with --generate: where to (default stdout)", WORDS_FILE},
	{NULL, 0, NULL, NULL, WORDS_NONE},
};
static const struct cli_example simulate_examples[] = {
	{"memoc simulate --generate diurnal --vms 50 --seed 7 --output day.csv", "a day of 50 VMs to play with"},
	{"memoc simulate --trace day.csv --overcommit 3 --policy needy-greedy,mom,oracle", "memoc, a peer, the bound"},
	{"memoc simulate --trace week.csv.xz --vms-per-host 50 --overcommit 4 --explain-worst 10 --plot week.svg",
	 "what went worst, and a picture"},
	{"memoc simulate --trace day.csv --pool 60G --faults stuck:10%,lying:10%",
	 "with balloons that do not move, and liars"},
	{NULL, NULL},
};
const struct cli_command command_simulate = {
	.name = "simulate",
	.summary = "play policies over a trace of demand, in virtual time",
	.description =
		"Plays the demand of real or made-up VMs against a model of the host, with the very code by which "
		"memocd\n"
		"decides. It needs no memocd and changes nothing. The same command gives the same bytes.\n\n"
		"Policies: needy-greedy (memoc's own); static, mom, pve and squeezed as memocd has them for "
		"comparison;\n"
		"ideal knows the true demand, ideal-headroom leaves everybody a little, too, ideal-told knows demand "
		"when\n"
		"statistics can tell it, oracle knows the future: they show what could be reached, for the simulator "
		"alone.\n\n"
		"Columns: REGRET% is demand that was not met though the host had the memory, of all demand; UNMET% all "
		"that\n"
		"was not met; P50 to MAX how long a VM waited for memory that its host had; CHURN bytes moved by the "
		"least\n"
		"that meeting demand would move; REVERSALS changes of direction within 60 s; BUFFER% its size, of the "
		"pool;\n"
		"BELOW HALF% of the time; BREACHES steps of a VM below its minimum; HONEST% regret of VMs without a "
		"fault;\n"
		"DENSITY the highest overcommit ratio.\n\n"
		"With several policies --allocations and --plot write a file for each, with the policy in its name:\n"
		"FILE.mom.csv. Files are whole or not there at all.\n\n"
		"Traces of --generate: diurnal, bursts, steps, ramps, sawtooth, surge (all VMs at once) and "
		"boot-storm. Lists\n"
		"may be given in one option, with commas, or the option again.",
	.options = simulate_options,
	.synopsis = "--trace FILE --pool SIZE|--overcommit RATIO [OPTIONS] | --generate KIND [OPTIONS]",
	.examples = simulate_examples,
	.run = run_simulate,
};
