/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of `memoc simulate`: options, the run of each policy with what watches it, what is printed, files. */
#ifndef MEMOC_CLI_SIMULATE_H
#define MEMOC_CLI_SIMULATE_H

#include <limits.h>

#include "controller/cli/cli.h"
#include "controller/sim/generate.h"
#include "controller/sim/plot.h"
#include "controller/sim/sim.h"

#define SIMULATE_POLICIES_MAX 16
#define SIMULATE_WORST_MAX 10000
#define POLICY_NAME_MAX 32

/* ---- simulate_options.c ---- */

/* Names that --policy takes: those that memocd has, and those of the simulator alone. Returns how many. */
size_t simulate_policy_names(const char *ret[SIMULATE_POLICIES_MAX]);

struct simulate_options {
	const char *trace_path;
	struct sim_options sim; /* without trace and policy */
	uint64_t buffer_bytes;	/* 0: not given, or as a share, in sim */
	char policies[SIMULATE_POLICIES_MAX][POLICY_NAME_MAX];
	size_t n_policies;
	const char *allocations, *plot; /* NULL: not wanted */
	bool density;
	size_t n_worst;
};

/* From the command line, without looking at any file. CLI_DONE, or CLI_USAGE and said. */
int simulate_parse(struct cli *cli, struct simulate_options *ret);
/* The same of --generate; *ret_path is NULL for standard output. */
int simulate_parse_generate(struct cli *cli, struct generate_options *ret, const char **ret_path);

/* ---- simulate_file.c ---- */

/*
 * A file that is there whole or not at all: written beside its place and renamed when all is on disk; what stands there
 * before stays until then. Removed when the writing fails or a signal ends the program. Devices and pipes are written
 * directly.
 */
struct out_file {
	FILE *stream;
	char path[PATH_MAX], part[PATH_MAX]; /* part is "" where written directly */
};
/* 0, or −errno with err. */
int out_file_open(struct out_file *f, const char *path, struct memoc_err *err);
/* Closes and puts it in place; `written` is what writing it said (0 or −errno). On an error the file is removed. */
int out_file_commit(struct out_file *f, int written, struct memoc_err *err);
/* Removes what is not committed. */
void out_file_drop(struct out_file *f);

/* ---- simulate_run.c ---- */

struct episode {
	size_t host, vm;
	uint64_t begin_ms, end_ms, unmet_byte_s;
	char cause[EFFECT_REASON_LEN], cure[EFFECT_REASON_LEN];
};

/* What one policy's run gave. */
struct outcome {
	struct sim_result result;
	double density;	       /* 0: not asked for */
	struct episode *worst; /* most unmet first */
	size_t n_worst;
};

/* Which VM of the trace has which number, as the simulator told. */
struct placement {
	struct placed_host {
		size_t first_vm, first_slot, n;
	} * hosts;
	size_t n_hosts, hosts_room;
	const struct trace_vm **vms; /* those of a host one after the other, from first_slot on */
	size_t n_vms, vms_room;
	int error;
};
/* NULL where not told. */
const struct trace_vm *placed_vm(const struct placement *p, size_t host, size_t vm);

/* The run of all policies, one after the other; outcomes in their order. */
struct run {
	struct cli *cli;
	const struct simulate_options *options;
	const struct trace *trace;
	struct placement placement; /* of the policy that is being run, the same for all */
	struct outcome outcomes[SIMULATE_POLICIES_MAX];
	size_t n;
};

/* Runs them and writes the files asked for. CLI_DONE or CLI_FAILED, said; free with run_free in every case. */
int run_policies(struct run *run);
void run_free(struct run *run);
/* The path that a policy's file has: the very path for a single policy, else with its name before the extension. */
int policy_path(char ret[PATH_MAX], const char *path, const char *policy, size_t n_policies);

/* ---- simulate_show.c ---- */

int show_json(struct cli *cli, const struct run *run);
int show_text(struct cli *cli, const struct run *run);
/* One line of a result's figures, for the picture. */
#define FIGURES_LEN 256
const char *figures_line(char buf[FIGURES_LEN], const struct sim_result *r);

#endif
