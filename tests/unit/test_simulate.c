/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memoc simulate as a user sees it: cli_main in a child process, its output in files. Figures are computed here once
 * more, from --allocations alone and by the definitions of the reference, and must be those that are printed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "common/json.h"
#include "controller/cli/cli.h"
#include "controller/cli/simulate.h"
#include "controller/sim/plot.h"

#define WORDS_MAX 40

static pid_t tests_pid;
static char dir[64];

/* ---- running it ---- */

struct text {
	char *bytes;
	size_t len;
};

static struct text outputs[2]; /* of the last run: standard output, errors */

static struct text read_file(const char *path)
{
	struct text t = {NULL, 0};
	struct stat st;
	FILE *f = fopen(path, "re");

	assert_non_null(f);
	assert_int_equal(fstat(fileno(f), &st), 0);
	t.bytes = calloc(1, (size_t)st.st_size + 1);
	assert_non_null(t.bytes);
	t.len = fread(t.bytes, 1, (size_t)st.st_size, f);
	assert_int_equal(t.len, st.st_size);
	fclose(f);
	return t;
}

static const char *in_dir(const char *name)
{
	static char path[4][512];
	static unsigned next;
	char *p = path[next++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
	return p;
}

static void put_file(const char *name, const char *text)
{
	FILE *f = fopen(in_dir(name), "we");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static bool there(const char *name)
{
	return access(in_dir(name), F_OK) == 0;
}

/* A child: what cmocka catches is its own business again, and it dies with its parent. */
static pid_t start(const char *line, const char *out_path)
{
	static const int signals[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS};
	char copy[1024], *argv[WORDS_MAX + 1] = {(char *)"memoc"}, *save = NULL;
	int argc = 1;
	pid_t pid;

	assert_int_equal(getpid(), tests_pid);
	assert_true(snprintf(copy, sizeof(copy), "%s", line) < (int)sizeof(copy));
	for (char *word = strtok_r(copy, " ", &save); word && argc < WORDS_MAX; word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid > 0)
		return pid;
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		signal(signals[i], SIG_DFL);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != tests_pid || chdir(dir) < 0)
		_exit(99);
	if (!freopen(out_path, "we", stdout) || !freopen("stderr", "we", stderr))
		_exit(99);
	argc = cli_main(argc, argv);
	fflush(NULL);
	_exit(argc);
}

static int finish(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* Words of line after "memoc"; files are relative to the test's directory. Returns the exit status. */
static int run_to(const char *out_path, const char *line)
{
	int status = finish(start(line, out_path));

	for (size_t i = 0; i < 2; i++) {
		free(outputs[i].bytes);
		outputs[i] = (struct text){calloc(1, 1), 0};
	}
	if (out_path[0] != '/') {
		free(outputs[0].bytes);
		outputs[0] = read_file(in_dir(out_path));
	}
	free(outputs[1].bytes);
	outputs[1] = read_file(in_dir("stderr"));
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int run(const char *line)
{
	return run_to("stdout", line);
}

static void assert_contains(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" is not in \"%.2000s\"", part, text);
}

static void assert_file(const char *name, const char *text, bool same)
{
	struct text t = read_file(in_dir(name));

	if (same)
		assert_string_equal(t.bytes, text);
	else
		assert_string_not_equal(t.bytes, text);
	free(t.bytes);
}

static void assert_error(const char *line, int status, const char *part)
{
	int got = run(line);

	if (got != status)
		fail_msg("\"%s\": status %d, not %d; \"%.500s\"", line, got, status, outputs[1].bytes);
	assert_contains(outputs[1].bytes, part);
	assert_string_equal(outputs[0].bytes, "");
}

static void assert_runs(const char *line)
{
	int got = run(line);

	if (got != CLI_DONE || outputs[1].len > 0)
		fail_msg("\"%s\": status %d, \"%.500s\"", line, got, outputs[1].bytes);
}

/* ---- fixture: a directory with a trace in it ---- */

static int setup(void **state)
{
	if (getpid() != tests_pid)
		_exit(99);
	snprintf(dir, sizeof(dir), "/tmp/memoc-test-simulate-XXXXXX");
	assert_non_null(mkdtemp(dir));
	unsetenv("NO_COLOR");
	assert_runs("simulate --generate bursts --vms 12 --size 2G --duration 20m --seed 3 --output t.csv");
	return 0;
}

static int teardown(void **state)
{
	struct dirent *e;
	DIR *d = opendir(dir);

	assert_non_null(d);
	while ((e = readdir(d)))
		unlink(in_dir(e->d_name));
	closedir(d);
	assert_int_equal(rmdir(dir), 0);
	for (size_t i = 0; i < 2; i++) {
		free(outputs[i].bytes);
		outputs[i] = (struct text){NULL, 0};
	}
	return 0;
}

/* ---- options ---- */

static void test_wrong_options(void **state)
{
	static const struct {
		const char *line, *error;
	} bad[] = {
		{"simulate", "give --trace FILE"},
		{"simulate --trace t.csv", "give --pool SIZE or --overcommit RATIO"},
		{"simulate --trace t.csv --pool 4G --overcommit 2", "not both"},
		{"simulate --trace t.csv --pool 4Q", "--pool: '4Q'"},
		{"simulate --trace t.csv --pool 0", "between 1M and"},
		{"simulate --trace t.csv --overcommit -1", "--overcommit"},
		{"simulate --trace t.csv --overcommit 0", "must be between"},
		{"simulate --trace t.csv --overcommit nan", "--overcommit"},
		{"simulate --trace t.csv --overcommit 2 --policy nedy-greedy", "did you mean \"needy-greedy\"?"},
		{"simulate --trace t.csv --overcommit 2 --policy zebra", "there are needy-greedy, static"},
		{"simulate --trace t.csv --overcommit 2 --policy mom,,pve", "no policy \"\""},
		{"simulate --trace t.csv --overcommit 2 --policy mom,pve,mom", "mom is named twice"},
		{"simulate --trace t.csv --overcommit 2 --policy mom --policy mom", "mom is named twice"},
		{"simulate --trace t.csv --overcommit 2 --step 5", "--step"},
		{"simulate --trace t.csv --overcommit 2 --step 0s", "--step 0s: must be more than nothing"},
		{"simulate --trace t.csv --overcommit 2 --duration 0s", "--duration"},
		{"simulate --trace t.csv --overcommit 2 --seed -1", "--seed"},
		{"simulate --trace t.csv --overcommit 2 --seed 99999999999999999999", "--seed"},
		{"simulate --trace t.csv --overcommit 2 --vms-per-host 0", "--vms-per-host 0: must be between 1"},
		{"simulate --trace t.csv --overcommit 2 --buffer 1G", "as a share of the pool"},
		{"simulate --trace t.csv --overcommit 2 --buffer 100%", "less than the pool"},
		{"simulate --trace t.csv --pool 1G --buffer 1G", "less than the pool"},
		{"simulate --trace t.csv --overcommit 2 --buffer 0%", "more than nothing"},
		{"simulate --trace t.csv --overcommit 2 --model speed=1", "--model: "},
		{"simulate --trace t.csv --overcommit 2 --model wss_pages", "--model: "},
		{"simulate --trace t.csv --overcommit 2 --faults broken", "--faults: "},
		{"simulate --trace t.csv --overcommit 2 --faults stuck:200%", "--faults: "},
		{"simulate --trace t.csv --overcommit 2 --explain-worst 0", "--explain-worst 0"},
		{"simulate --trace t.csv --overcommit 2 --explain-worst 1000000", "--explain-worst"},
		{"simulate --trace t.csv --overcommit 2 --densty", "did you mean \"density\"?"},
		{"simulate --trace t.csv --overcommit 2 --vms 5", "--vms is for --generate"},
		{"simulate --trace t.csv --overcommit 2 more", "one word too many"},
		{"simulate --generate ramp", "did you mean \"ramps\"?"},
		{"simulate --generate xyz", "there are diurnal, bursts"},
		{"simulate --generate ramps --trace t.csv", "--trace does not go with --generate"},
		{"simulate --generate ramps --plot x.svg", "--plot does not go with --generate"},
		{"simulate --generate ramps --json", "traces are CSV"},
		{"simulate --generate ramps --vms 0", "--vms 0"},
		{"simulate --generate ramps --size 5%", "--size"},
		{"simulate --generate", "--generate needs a value"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_error(bad[i].line, CLI_USAGE, bad[i].error);
}

static void test_bad_input(void **state)
{
	put_file("bad.csv", "time_s,vm,size_mib,demand_mib\n5,a,1024,10\n4,a,1024,20\n");
	put_file("empty.csv", "");
	put_file("kept.csv", "old\n");
	assert_error("simulate --trace nowhere.csv --overcommit 2", CLI_FAILED, "nowhere.csv");
	assert_error("simulate --trace empty.csv --overcommit 2", CLI_FAILED, "empty.csv");
	/* no partial result: what was there stays as it was */
	assert_error("simulate --trace bad.csv --overcommit 2 --allocations kept.csv --plot new.svg", CLI_FAILED,
		     "bad.csv");
	assert_file("kept.csv", "old\n", true);
	assert_false(there("new.svg"));
	put_file("worse.csv", "time_s,vm,size_mib,demand_mib\n1,a,-5,1\n2,a,-5,1\n3,a,-5,1\n4,a,-5,1\n5,a,-5,1\n"
			      "6,a,-5,1\n7,a,-5,1\n8,a,-5,1\n9,a,-5,1\n10,a,-5,1\n11,a,-5,1\n12,a,-5,1\n");
	/* ten with file, line and reason, then a count */
	assert_error("simulate --trace worse.csv --overcommit 2", CLI_FAILED, "worse.csv:11:");
	assert_error("simulate --trace worse.csv --overcommit 2", CLI_FAILED, "memoc: and 2 more");
	/* what was bad before reading ended early, and why it did */
	assert_int_equal(mkdir(in_dir("folder"), 0755), 0);
	put_file("folder/1.csv", "Timestamp [ms];CPU cores;Memory capacity provisioned [KB];Memory usage [KB]\n1;x\n");
	assert_int_equal(mkdir(in_dir("folder/2.csv"), 0755), 0);
	assert_error("simulate --trace folder --overcommit 2", CLI_FAILED, "folder/1.csv:");
	assert_error("simulate --trace folder --overcommit 2", CLI_FAILED, "folder/2.csv: is not a file");
	assert_int_equal(rmdir(in_dir("folder/2.csv")), 0);
	assert_int_equal(unlink(in_dir("folder/1.csv")), 0);
	assert_int_equal(rmdir(in_dir("folder")), 0);
}

/* Neither the trace nor one another. */
static void test_files_are_not_overwritten(void **state)
{
	const char *trace = "time_s,vm,size_mib,demand_mib\n0,a,1024,10\n60,a,1024,20\n";

	put_file("own.csv", trace);
	assert_error("simulate --trace own.csv --overcommit 2 --allocations own.csv", CLI_FAILED,
		     "--allocations own.csv is the trace itself");
	assert_file("own.csv", trace, true);
	assert_error("simulate --trace own.csv --overcommit 2 --allocations both --plot both", CLI_USAGE,
		     "both both: give each a file of its own");
	assert_false(there("both"));
}

/* Far more VMs than there is memory for, and nobody wants any: what was touched is all that there is to evict. */
static void test_nobody_wants_anything(void **state)
{
	put_file("idle.csv", "time_s,vm,size_mib,demand_mib\n0,a,1024,0\n0,b,1024,0\n60,a,1024,0\n");
	assert_runs("simulate --json --trace idle.csv --pool 1M");
	assert_runs("simulate --json --trace idle.csv --overcommit 1 --density");
}

static void test_policy_paths(void **state)
{
	char path[PATH_MAX], *overlong = calloc(1, PATH_MAX + 8);

	assert_int_equal(policy_path(path, "a/b.csv", "mom", 1), 0);
	assert_string_equal(path, "a/b.csv");
	assert_int_equal(policy_path(path, "a/b.csv", "mom", 2), 0);
	assert_string_equal(path, "a/b.mom.csv");
	assert_int_equal(policy_path(path, "a.d/b", "mom", 2), 0);
	assert_string_equal(path, "a.d/b.mom");
	assert_int_equal(policy_path(path, ".hidden", "pve", 2), 0);
	assert_string_equal(path, ".hidden.pve");
	assert_non_null(overlong);
	memset(overlong, 'x', PATH_MAX);
	assert_int_equal(policy_path(path, overlong, "mom", 2), -ENAMETOOLONG);
	free(overlong);
}

/* ---- generate ---- */

static void test_generate(void **state)
{
	struct text first;

	assert_runs("simulate --generate steps --vms 3 --duration 10m --seed 9");
	first = outputs[0];
	outputs[0] = (struct text){NULL, 0};
	assert_contains(first.bytes, "time_s,vm,size_mib,demand_mib\n");
	assert_runs("simulate --generate steps --vms 3 --duration 10m --seed 9 --output same.csv");
	assert_string_equal(outputs[0].bytes, "");
	assert_file("same.csv", first.bytes, true);
	assert_runs("simulate --generate steps --vms 3 --duration 10m --seed 10");
	assert_string_not_equal(outputs[0].bytes, first.bytes);
	assert_int_equal(run_to("/dev/full", "simulate --generate steps --vms 3 --duration 10m"), CLI_FAILED);
	assert_contains(outputs[1].bytes, "cannot print: No space left");
	free(first.bytes);
	for (const struct generate_kind *k = generate_kinds; k->name; k++) {
		char line[128];
		snprintf(line, sizeof(line), "simulate --generate %s --vms 2 --duration 5m --output k.csv", k->name);
		assert_runs(line);
		assert_runs("simulate --trace k.csv --overcommit 2");
	}
}

/* ---- the figures, once more ---- */

#define CHECK_VMS 64
#define CHECK_HOSTS 8

struct checked_vm {
	char name[TRACE_NAME_MAX];
	size_t host;
	uint64_t demand, size, begin_ms, crowded_ms; /* of the episode, with a host short of memory */
	bool seen, open;
};

struct checked {
	uint64_t pool_bytes;
	double demand, unmet, bound, moved; /* bytes, or bytes × s at a step of 1 s */
	uint64_t relief_ms[65536], fit_ms[65536];
	size_t relief_n;
	struct checked_vm vms[CHECK_VMS];
	size_t n;
	uint64_t rows, now_ms;
};

static uint64_t bytes_of(const char *mib)
{
	return (uint64_t)llround(strtod(mib, NULL) * (double)MIB);
}

static struct checked_vm *checked_find(struct checked *c, size_t host, const char *name)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->vms[i].host == host && !strcmp(c->vms[i].name, name))
			return &c->vms[i];
	assert_true(c->n < CHECK_VMS);
	c->vms[c->n].host = host;
	snprintf(c->vms[c->n].name, TRACE_NAME_MAX, "%s", name);
	return &c->vms[c->n++];
}

static void keep_relief(struct checked *c, struct checked_vm *v, uint64_t now_ms)
{
	assert_true(c->relief_n < ARRAY_SIZE(c->relief_ms));
	c->relief_ms[c->relief_n] = now_ms - v->begin_ms;
	c->fit_ms[c->relief_n++] = now_ms - v->begin_ms - v->crowded_ms;
	v->open = false;
}

/* All rows of one host and one time are in: what the definitions say of them. */
static void check_step(struct checked *c, size_t host, uint64_t now_ms)
{
	uint64_t demand = 0;

	for (size_t i = 0; i < c->n; i++)
		demand += c->vms[i].host == host ? c->vms[i].demand : 0;
	c->demand += (double)demand;
	c->bound += (double)sub_sat_u64(demand, c->pool_bytes);
	for (size_t i = 0; i < c->n; i++) {
		struct checked_vm *v = &c->vms[i];
		if (v->host != host)
			continue;
		c->unmet += (double)sub_sat_u64(v->demand, v->size);
		if (v->open && v->size >= v->demand)
			keep_relief(c, v, now_ms);
		if (!v->open && v->demand > v->size && demand <= c->pool_bytes) {
			v->open = true;
			v->begin_ms = now_ms;
			v->crowded_ms = 0;
		}
		if (v->open && demand > c->pool_bytes)
			v->crowded_ms += 1000;
	}
}

static void check_row(struct checked *c, char *line)
{
	char *field[5], *save = NULL;
	struct checked_vm *v;
	uint64_t size;

	for (size_t i = 0; i < 5; i++)
		assert_non_null(field[i] = strtok_r(i == 0 ? line : NULL, ",", &save));
	assert_null(strtok_r(NULL, ",", &save));
	v = checked_find(c, strtoul(field[1], NULL, 10), field[2]);
	v->demand = bytes_of(field[3]);
	size = bytes_of(field[4]);
	if (v->seen)
		c->moved += fabs((double)size - (double)v->size);
	v->size = size;
	v->seen = true;
	c->rows++;
}

/* Rows come in any order of hosts, times ascending within each. */
static void check_allocations(struct checked *c, const char *name)
{
	struct text t = read_file(in_dir(name));
	char *save = NULL, *line = strtok_r(t.bytes, "\n", &save);
	uint64_t now_ms = 0;
	size_t host = 0;
	bool any = false;

	assert_string_equal(line, "time_s,host,vm,demand_mib,size_mib");
	while ((line = strtok_r(NULL, "\n", &save))) {
		char *rest;
		uint64_t ms = (uint64_t)llround(strtod(line, &rest) * 1000);
		size_t of = strtoul(rest + 1, NULL, 10);
		if (any && (ms != now_ms || of != host))
			check_step(c, host, now_ms);
		now_ms = ms;
		host = of;
		any = true;
		check_row(c, line);
	}
	check_step(c, host, now_ms);
	c->now_ms = now_ms + 1000;
	for (size_t i = 0; i < c->n; i++)
		if (c->vms[i].open)
			keep_relief(c, &c->vms[i], c->now_ms);
	free(t.bytes);
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Nearest rank. */
static double percentile_s(const uint64_t *list, size_t n, size_t percent)
{
	size_t rank = (n * percent + 99) / 100;

	return n > 0 ? (double)list[rank > 0 ? rank - 1 : 0] / 1000 : 0;
}

static void assert_number(const struct json *obj, const char *key, double expected)
{
	double v;

	assert_int_equal(json_get_double(obj, key, &v), 0);
	if (fabs(v - expected) > 1e-9 * fmax(1, fabs(expected)))
		fail_msg("%s: printed %.17g, computed from --allocations %.17g", key, v, expected);
}

static void check_printed(const struct json *result, struct checked *c)
{
	static const struct {
		const char *name;
		size_t percent;
	} percents[] = {{"p50", 50}, {"p95", 95}, {"p99", 99}, {"max", 100}};
	char key[32];

	qsort(c->relief_ms, c->relief_n, sizeof(c->relief_ms[0]), ascending);
	qsort(c->fit_ms, c->relief_n, sizeof(c->fit_ms[0]), ascending);
	assert_number(result, "demand_byte_s", c->demand);
	assert_number(result, "unmet_byte_s", c->unmet);
	assert_number(result, "bound_byte_s", c->bound);
	assert_number(result, "regret", (c->unmet - c->bound) / c->demand);
	assert_number(result, "moved_bytes", c->moved);
	assert_number(result, "relief_episodes", (double)c->relief_n);
	for (size_t i = 0; i < ARRAY_SIZE(percents); i++) {
		snprintf(key, sizeof(key), "relief_%s_s", percents[i].name);
		assert_number(result, key, percentile_s(c->relief_ms, c->relief_n, percents[i].percent));
		snprintf(key, sizeof(key), "relief_fit_%s_s", percents[i].name);
		assert_number(result, key, percentile_s(c->fit_ms, c->relief_n, percents[i].percent));
	}
	assert_number(result, "vms", (double)c->n);
}

static struct json *printed(void)
{
	struct json *j = NULL;

	assert_int_equal(json_parse(outputs[0].bytes, outputs[0].len, NULL, &j, NULL), 0);
	return j;
}

static void test_figures_can_be_recomputed(void **state)
{
	static const char *const policies[] = {"needy-greedy", "static", "mom", "squeezed", "ideal", "oracle"};
	struct checked *c = malloc(sizeof(*c));
	struct json *j;

	assert_non_null(c);
	assert_runs("simulate --json --trace t.csv --pool 4G --vms-per-host 6 --seed 5 --allocations a.csv "
		    "--policy needy-greedy,static,mom --policy squeezed,ideal --policy oracle");
	j = printed();
	assert_int_equal(json_len(json_get(j, "policies")), ARRAY_SIZE(policies));
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++) {
		const struct json *result = json_at(json_get(j, "policies"), i);
		const char *name;
		char file[64];
		assert_int_equal(json_get_str(result, "policy", &name), 0);
		assert_string_equal(name, policies[i]);
		memset(c, 0, sizeof(*c));
		c->pool_bytes = 4 * GIB;
		snprintf(file, sizeof(file), "a.%s.csv", name);
		check_allocations(c, file);
		assert_int_equal(c->n, 12);
		check_printed(result, c);
	}
	assert_false(there("a.csv"));
	json_free(j);
	free(c);
}

/* ---- the same bytes ---- */

static void test_same_seed_same_bytes(void **state)
{
	struct text first[3];
	static const char line[] = "simulate --json --trace t.csv --overcommit 3 --vms-per-host 4 --seed 11 --faults "
				   "lying:20%,slow=10M:20% --explain-worst 50 --allocations a.csv --plot p.svg";
	static const char *const files[] = {"stdout", "a.csv", "p.svg"};

	assert_runs(line);
	for (size_t i = 0; i < 3; i++)
		first[i] = read_file(in_dir(files[i]));
	assert_runs(line);
	for (size_t i = 0; i < 3; i++) {
		struct text again = read_file(in_dir(files[i]));
		assert_int_equal(again.len, first[i].len);
		assert_memory_equal(again.bytes, first[i].bytes, again.len);
		free(again.bytes);
	}
	assert_runs("simulate --json --trace t.csv --overcommit 3 --vms-per-host 4 --seed 12 --allocations a.csv");
	assert_file("a.csv", first[1].bytes, false);
	for (size_t i = 0; i < 3; i++)
		free(first[i].bytes);
}

/* ---- what people see ---- */

static void test_table(void **state)
{
	assert_runs(
		"simulate --trace t.csv --overcommit 3 --vms-per-host 4 --policy needy-greedy,mom --explain-worst 3");
	assert_contains(outputs[0].bytes, "t.csv: 12 VMs on 3 hosts, overcommit 3; 20 min in steps of 1 s; seed 0\n");
	assert_contains(outputs[0].bytes, "POLICY");
	assert_contains(outputs[0].bytes, "REGRET%");
	assert_contains(outputs[0].bytes, "\nneedy-greedy ");
	assert_contains(outputs[0].bytes, "\nmom ");
	assert_contains(outputs[0].bytes, "mom: the 3 worst of ");
	assert_contains(outputs[0].bytes, "WHY IT HAD NO MORE");
	assert_null(strstr(outputs[0].bytes, "left out"));
	assert_null(strstr(outputs[0].bytes, "HONEST%"));
	assert_null(strstr(outputs[0].bytes, "DENSITY"));
	assert_runs("simulate --trace t.csv --overcommit 0.5 --explain-worst 3 --faults silent:30%");
	assert_contains(outputs[0].bytes, "HONEST%");
	assert_runs("simulate --trace t.csv --overcommit 2 --duration 1m --vms-per-host 5");
	assert_contains(outputs[0].bytes, "t.csv: 10 VMs on 2 hosts");
	assert_contains(outputs[0].bytes, "(2 of the trace's 12 VMs left out");
	assert_null(strstr(outputs[0].bytes, "the trace ends"));
	assert_runs("simulate --trace t.csv --overcommit 2 --duration 1h");
	assert_contains(outputs[0].bytes, "(the trace ends after 20 min: its last demands hold for the rest)\n");
}

static void test_density(void **state)
{
	double density;
	struct json *j;

	assert_runs("simulate --json --trace t.csv --overcommit 2 --policy oracle --duration 5m --density");
	j = printed();
	assert_int_equal(json_get_double(json_at(json_get(j, "policies"), 0), "density_overcommit_ratio", &density), 0);
	assert_true(density > 0.5 && density < 1000);
	json_free(j);
}

/* The list of few is the beginning of the list of all. */
static void test_worst_are_the_worst(void **state)
{
	static const char common[] = "simulate --json --trace t.csv --overcommit 4 --vms-per-host 6 --policy mom";
	struct json *all, *few;
	const struct json *all_list, *few_list;
	uint64_t before = UINT64_MAX, episodes = 0;
	char line[256];

	snprintf(line, sizeof(line), "%s --explain-worst 10000", common);
	assert_runs(line);
	all = printed();
	snprintf(line, sizeof(line), "%s --explain-worst 7", common);
	assert_runs(line);
	few = printed();
	all_list = json_get(json_at(json_get(all, "policies"), 0), "worst");
	few_list = json_get(json_at(json_get(few, "policies"), 0), "worst");
	assert_int_equal(json_get_u64(json_at(json_get(all, "policies"), 0), "relief_episodes", &episodes), 0);
	assert_true(episodes > 7);
	assert_int_equal(json_len(all_list), episodes);
	assert_int_equal(json_len(few_list), 7);
	for (size_t i = 0; i < episodes; i++) {
		uint64_t unmet = 0, same = 0;
		assert_int_equal(json_get_u64(json_at(all_list, i), "unmet_byte_s", &unmet), 0);
		assert_true(unmet <= before);
		before = unmet;
		if (i >= 7)
			continue;
		assert_int_equal(json_get_u64(json_at(few_list, i), "unmet_byte_s", &same), 0);
		assert_int_equal(same, unmet);
	}
	json_free(all);
	json_free(few);
}

/* ---- files ---- */

static size_t files_there(void)
{
	size_t n = 0;
	DIR *d = opendir(dir);

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static void test_files_that_cannot_be_written(void **state)
{
	size_t before = files_there() + 1; /* stdout; stderr is there of setup */

	before -= there("stdout");
	assert_error("simulate --trace t.csv --overcommit 2 --allocations /dev/full", CLI_FAILED,
		     "cannot write /dev/full: No space left");
	assert_error("simulate --trace t.csv --overcommit 2 --plot /dev/full", CLI_FAILED,
		     "cannot write /dev/full: No space left");
	assert_error("simulate --trace t.csv --overcommit 2 --allocations nowhere/a.csv", CLI_FAILED,
		     "cannot write nowhere/a.csv: No such file");
	assert_error("simulate --trace t.csv --overcommit 2 --allocations .", CLI_FAILED, "Is a directory");
	assert_error("simulate --generate ramps --vms 2 --duration 5m --output /dev/full", CLI_FAILED, "No space left");
	assert_int_equal(files_there(), before);
}

static void test_file_replaces_and_keeps_mode(void **state)
{
	struct stat st;

	put_file("a.csv", "old\n");
	assert_int_equal(chmod(in_dir("a.csv"), 0640), 0);
	assert_int_equal(symlink("a.csv", in_dir("link.csv")), 0);
	assert_runs("simulate --trace t.csv --overcommit 2 --duration 10s --allocations link.csv");
	assert_int_equal(lstat(in_dir("link.csv"), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(stat(in_dir("a.csv"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_true(st.st_size > 100);
}

/* A run that would take long is interrupted: what it has begun is not left behind. */
static void test_interrupt_leaves_nothing(void **state)
{
	const struct timespec nap = {.tv_nsec = 20000000};
	size_t before;
	pid_t pid;
	int status;

	put_file("long.csv", "0,a,1024,512\n0,b,1024,300\n20000000,a,1024,600\n");
	put_file("stdout", "");
	before = files_there();
	pid = start("simulate --trace long.csv --pool 1G --allocations a.csv", "stdout");
	for (int i = 0; i < 1500 && files_there() == before; i++)
		nanosleep(&nap, NULL);
	assert_int_equal(files_there(), before + 1);
	assert_int_equal(kill(pid, SIGINT), 0);
	status = finish(pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGINT);
	assert_int_equal(files_there(), before);
}

/* ---- the picture ---- */

/* Only shapes and text; nothing that runs or is fetched. */
static void check_node(const xmlNode *node, size_t *ret_n)
{
	static const char *const good[] = {"svg", "title", "style", "g", "path", "text", "tspan"};

	for (; node; node = node->next) {
		bool known = false;
		if (node->type != XML_ELEMENT_NODE)
			continue;
		for (size_t i = 0; i < ARRAY_SIZE(good); i++)
			known = known || !xmlStrcmp(node->name, (const xmlChar *)good[i]);
		if (!known)
			fail_msg("<%s> in the picture", (const char *)node->name);
		for (const xmlAttr *a = node->properties; a; a = a->next)
			assert_true(strncmp((const char *)a->name, "on", 2) && strcmp((const char *)a->name, "href"));
		(*ret_n)++;
		check_node(node->children, ret_n);
	}
}

/* Well-formed, of the elements above, under a megabyte; the text of the document goes to ret where asked for. */
static void check_svg(const char *svg, size_t len, char **ret)
{
	xmlDoc *doc = xmlReadMemory(svg, (int)len, "plot.svg", NULL, XML_PARSE_NONET | XML_PARSE_NOENT);
	size_t n = 0;

	assert_non_null(doc);
	assert_true(len < 1000000);
	assert_null(strstr(svg, "nan"));
	assert_null(strstr(svg, "inf\""));
	check_node(xmlDocGetRootElement(doc), &n);
	assert_true(n > 20);
	if (ret)
		*ret = (char *)xmlNodeGetContent(xmlDocGetRootElement(doc));
	xmlFreeDoc(doc);
}

static char *drawn(struct plot *p, size_t *ret_len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, ret_len);

	assert_non_null(f);
	assert_int_equal(plot_write(p, "t<itle> & \x01\xff", "figures \"]]>\"", f), 0);
	fclose(f);
	return text;
}

/* A week of seconds, all of it jagged, on more hosts than are shown. */
static void test_plot_is_bounded(void **state)
{
	struct plot *p = plot_new();
	char *svg, *content;
	size_t len = 0;

	assert_non_null(p);
	for (size_t h = 0; h < 14; h++) {
		for (size_t v = 0; v < 2; v++)
			plot_placed(p, h, v, v ? "<b a=\"x\">&amp;'\x02\xc3" : "plain", 4 * GIB, 5 * GIB);
		for (uint64_t t = 0; t < 604800; t++)
			for (size_t v = 0; v < 2; v++)
				plot_step(p, 1000 * t, h, v, (t * 7919 + v) % 4096 * MIB,
					  (t * 104729 + h) % 4096 * MIB);
	}
	svg = drawn(p, &len);
	check_svg(svg, len, &content);
	assert_contains(content, "t<itle> & ??");
	assert_contains(content, "<b a=\"x\">&amp;'");
	assert_contains(content, "12 of 14");
	assert_contains(content, "7 d");
	assert_true(len > 100000);
	xmlFree(content);
	free(svg);
	plot_free(p);
}

static void test_plot_without_much(void **state)
{
	struct plot *p = plot_new();
	char *svg, *content;
	size_t len = 0;
	FILE *f = tmpfile();

	assert_non_null(p);
	assert_non_null(f);
	assert_int_equal(plot_write(p, "", "", f), -ENODATA);
	plot_placed(p, 0, 0, "one", GIB, GIB);
	plot_step(p, 0, 0, 0, MIB, GIB);
	plot_step(p, 0, 3, 0, MIB, GIB); /* of hosts and VMs that nobody announced */
	plot_step(p, 0, 0, 9, MIB, GIB);
	svg = drawn(p, &len);
	check_svg(svg, len, &content);
	assert_contains(content, "unmet: none");
	assert_true(len < 20000);
	xmlFree(content);
	free(svg);
	fclose(f);
	plot_free(p);
}

/* A peak of one second within a week is seen. */
static void test_plot_keeps_peaks(void **state)
{
	struct plot *p = plot_new();
	char *svg, *content;
	size_t len = 0;

	assert_non_null(p);
	plot_placed(p, 0, 0, "one", 8 * GIB, 8 * GIB);
	for (uint64_t t = 0; t < 604800; t++)
		plot_step(p, 1000 * t, 0, 0, t == 123456 ? 3 * GIB : GIB, 2 * GIB);
	svg = drawn(p, &len);
	check_svg(svg, len, &content);
	assert_contains(content, "unmet 1 GiB·s, peak 1 GiB");
	assert_contains(svg, "class=\"peak\"");
	xmlFree(content);
	free(svg);
	plot_free(p);
}

static void test_plot_of_a_run(void **state)
{
	struct text svg;
	char *content;

	assert_runs("simulate --trace t.csv --overcommit 4 --vms-per-host 6 --policy mom,static --plot p.svg");
	assert_false(there("p.svg"));
	assert_true(there("p.static.svg"));
	svg = read_file(in_dir("p.mom.svg"));
	check_svg(svg.bytes, svg.len, &content);
	assert_contains(content, "mom on t.csv: 12 VMs, 2 hosts, overcommit 4");
	assert_contains(content, "regret ");
	assert_contains(content, "host 1");
	xmlFree(content);
	free(svg.bytes);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_wrong_options),
		TEST(test_bad_input),
		TEST(test_files_are_not_overwritten),
		TEST(test_nobody_wants_anything),
		TEST(test_policy_paths),
		TEST(test_generate),
		TEST(test_figures_can_be_recomputed),
		TEST(test_same_seed_same_bytes),
		TEST(test_table),
		TEST(test_density),
		TEST(test_worst_are_the_worst),
		TEST(test_files_that_cannot_be_written),
		TEST(test_file_replaces_and_keeps_mode),
		TEST(test_interrupt_leaves_nothing),
		TEST(test_plot_is_bounded),
		TEST(test_plot_without_much),
		TEST(test_plot_keeps_peaks),
		TEST(test_plot_of_a_run),
	};

	tests_pid = getpid();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
