/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The configuration: every setting of the table, whole files good and hostile, and the file that is shipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "controller/core/policy.h"
#include "controller/daemon/config.h"
#include "controller/host/cgroup.h"

#define SHIPPED "packaging/memoc.conf"
#define PAGE "packaging/man/memoc-policy.7"

/* A directory of this test's own, with memoc.conf and memoc.conf.d. */
struct place {
	char dir[64], conf[96], conf_d[128];
};

static int place_make(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	strcpy(p->dir, "/tmp/memoc-test-config-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->conf, sizeof(p->conf), "%s/memoc.conf", p->dir);
	snprintf(p->conf_d, sizeof(p->conf_d), "%s.d", p->conf);
	*state = p;
	return 0;
}

static int place_remove(void **state)
{
	struct place *p = *state;
	char command[128];
	int r;

	snprintf(command, sizeof(command), "rm -rf %s", p->dir);
	r = system(command); /* NOLINT(cert-env33-c): the path is our own */
	free(p);
	return r;
}

static void write_bytes(const char *path, const char *text, size_t len)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static void write_text(const char *path, const char *text)
{
	write_bytes(path, text, strlen(text));
}

static struct config load_good(const char *path, const char *const *sets, size_t n)
{
	struct memoc_err err = {0};
	struct config c;

	if (config_load(path, sets, n, &c, NULL, NULL, &err) != 0)
		fail_msg("%s", err.text);
	return c;
}

/* The text is refused, and the message holds all the (up to three) given parts. */
static void refused(struct place *p, const char *text, const char *a, const char *b, const char *c)
{
	struct memoc_err err = {0};
	struct config before, conf;
	const char *parts[] = {a, b, c};

	memset(&conf, 0x5a, sizeof(conf));
	memcpy(&before, &conf, sizeof(before));
	write_text(p->conf, text);
	assert_int_equal(config_load(p->conf, NULL, 0, &conf, NULL, NULL, &err), -EINVAL);
	assert_memory_equal(&before, &conf, sizeof(conf));
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		if (parts[i] && !strstr(err.text, parts[i]))
			fail_msg("'%s' is not in: %s", parts[i], err.text);
}

/* ---- the table ---- */

static const char *value_of(const struct config_setting *list, size_t n, const char *key, const char **ret_source)
{
	for (size_t i = 0; i < n; i++) {
		if (strcmp(list[i].key, key) == 0) {
			*ret_source = list[i].source;
			return list[i].value;
		}
	}
	fail_msg("no setting %s", key);
	return NULL;
}

/* Every default is text that --set accepts, and gives the default's own value back. */
static void test_defaults_read_back(void **state)
{
	struct place *p = *state;
	struct config plain, set;

	write_text(p->conf, "");
	plain = load_good(p->conf, NULL, 0);
	for (const struct config_key *k = config_keys; k->name; k++) {
		char text[256], def[CONFIG_TEXT_LEN], form[CONFIG_TEXT_LEN];
		const char *sets[] = {text};

		snprintf(text, sizeof(text), "%s.%s=%s", k->section, k->name, config_key_default(k, def));
		set = load_good(p->conf, sets, 1);
		if (memcmp((char *)&plain + k->offset, (char *)&set + k->offset, k->size) != 0)
			fail_msg("%s is not the default", text);
		assert_true(strlen(config_key_form(k, form)) > 0);
		assert_true(strlen(form) < CONFIG_TEXT_LEN - 1); /* nothing was cut */
	}
}

static void test_defaults_are_the_cores(void **state)
{
	struct place *p = *state;
	struct core_config d = core_config_default();
	struct config c;

	write_text(p->conf, "");
	c = load_good(p->conf, NULL, 0);
	assert_int_equal(c.core.interval_ms, d.interval_ms);
	assert_int_equal(c.core.retry_max_ms, d.retry_max_ms);
	assert_true(c.core.dead_band == d.dead_band);
	assert_ptr_equal(c.core.policy, d.policy);
	assert_int_equal(c.pool.kind, SIZE_AUTO);
	assert_int_equal(c.on_exit, ON_EXIT_KEEP);
	assert_false(c.log_level_set);
}

/* One good and one bad value for each setting; none may be forgotten. */
static const struct {
	const char *key, *good, *bad;
} samples[] = {
	{"host.pool", "8G", "lots"},
	{"host.reserve", "512M", "10%"},
	{"host.buffer", "2.5%", "101%"},
	{"host.on_exit", "open", "close"},
	{"policy.name", "mom", "oracle"},
	{"policy.interval", "2.5s", "99ms"},
	{"policy.wss_window", "1m", "10"},
	{"policy.dead_band", "2%", "0.02"},
	{"policy.min_share", "50%", "0%"},
	{"policy.headroom_share", "0%", "-1%"},
	{"policy.headroom", "0", "2T"},
	{"policy.dwell", "0s", "1d"},
	{"policy.dwell_max", "2h", "25h"},
	{"policy.grace", "90s", "0s"},
	{"policy.needy_hold", "0ms", "2h"},
	{"policy.stale", "10s", "500ms"},
	{"policy.needy_swap", "1M", "0"},
	{"policy.needy_faults", "12.5", "nan"},
	{"policy.needy_stall", "0.5%", "0%"},
	{"balloon.enabled", "no", "maybe"},
	{"balloon.min_speed", "1M", "4095"},
	{"balloon.stall_timeout", "5s", "0s"},
	{"balloon.retry_min", "10s", ""},
	{"balloon.retry_max", "1h", "1 h"},
	{"swap.enabled", "off", "OFF"},
	{"swap.method", "reclaim", "kill"},
	{"swap.max_step", "64M", "64"},
	{"swap.keep_free", "1G", "1X"},
	{"wss.backend", "damon", "kstaled"},
	{"wss.pages", "100", "63"},
	{"wss.target_error", "5%", "51%"},
	{"wss.budget", "1%", "0%"},
	{"migration.advice", "off", "perhaps"},
	{"admission.mode", "deny", "ask"},
	{"metrics.listen", "none", "127.0.0.1:9177"},
	{"log.level", "debug", "loud"},
	{"log.events", "16", "0"},
	{"log.record", "8M", "3M"},
};

static void test_each_key(void **state)
{
	struct place *p = *state;
	size_t keys = 0;

	for (const struct config_key *k = config_keys; k->name; k++)
		keys++;
	assert_int_equal(keys, ARRAY_SIZE(samples));
	write_text(p->conf, "");
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		struct config_setting *list AUTO_FREE = NULL;
		struct memoc_err err = {0};
		struct config c;
		size_t n = 0;
		char text[256];
		const char *sets[] = {text}, *source = NULL;

		snprintf(text, sizeof(text), "%s=%s", samples[i].key, samples[i].good);
		if (config_load(p->conf, sets, 1, &c, &list, &n, &err) != 0)
			fail_msg("%s", err.text);
		assert_string_equal(value_of(list, n, samples[i].key, &source), samples[i].good);
		assert_string_equal(source, "--set");
		snprintf(text, sizeof(text), "%s=%s", samples[i].key, samples[i].bad);
		if (config_load(p->conf, sets, 1, &c, NULL, NULL, &err) != -EINVAL)
			fail_msg("%s was accepted", text);
		assert_non_null(strstr(err.text, strchr(samples[i].key, '.') + 1));
		assert_non_null(strstr(err.text, "give "));
	}
}

static void test_values_arrive(void **state)
{
	struct place *p = *state;
	struct config c;

	write_text(p->conf, "[host]\npool = 1.5G\nbuffer=2.5%\non_exit = open\n"
			    "[policy]\ninterval: 250ms ; quick\ndead_band = 2%\nneedy_swap = 1M\nneedy_faults = 12.5\n"
			    "[swap]\nenabled = no\nmethod = reclaim\nmax_step = 64MiB\n"
			    "[admission]\nmode = deny\n[log]\nlevel = debug\nevents = 17\n"
			    "[wss]\nbackend = none\npages = 100\n");
	c = load_good(p->conf, NULL, 0);
	assert_int_equal(c.pool.kind, SIZE_BYTES);
	assert_int_equal(c.pool.bytes, GIB * 3 / 2);
	assert_int_equal(c.buffer.kind, SIZE_RATIO);
	assert_true(c.buffer.ratio == 0.025);
	assert_int_equal(c.on_exit, ON_EXIT_OPEN);
	assert_int_equal(c.core.interval_ms, 250);
	assert_true(c.core.dead_band == 0.02);
	assert_true(c.core.needy_swap_bytes_per_s == (double)MIB);
	assert_true(c.core.needy_faults_per_s == 12.5);
	assert_false(c.core.swap_enabled);
	assert_int_equal(c.cgroup_method, CGROUP_METHOD_RECLAIM);
	assert_int_equal(c.core.max_step_bytes, 64 * MIB);
	assert_int_equal(c.core.admission, ADMISSION_DENY);
	assert_true(c.log_level_set);
	assert_int_equal(c.log_level, LOG_LEVEL_DEBUG);
	assert_int_equal(c.events_kept, 17);
	assert_string_equal(c.wss_backend, "none");
	assert_int_equal(c.wss_pages, 100);
}

/* Whatever the core can run can be asked for, and is what the core then gets. */
static void test_each_policy(void **state)
{
	struct place *p = *state;
	size_t i = 0;

	write_text(p->conf, "");
	for (; policy_list[i]; i++) {
		struct config_setting *list AUTO_FREE = NULL;
		struct memoc_err err = {0};
		struct config c;
		size_t n = 0;
		char text[64];
		const char *sets[] = {text}, *source = NULL;

		snprintf(text, sizeof(text), "policy.name=%s", policy_list[i]->name);
		if (config_load(p->conf, sets, 1, &c, &list, &n, &err) != 0)
			fail_msg("%s", err.text);
		assert_ptr_equal(c.core.policy, policy_list[i]);
		assert_null(c.core.policy_data);
		assert_string_equal(value_of(list, n, "policy.name", &source), policy_list[i]->name);
	}
	assert_int_equal(i, 5);
}

/* ---- files ---- */

static void test_order_of_sources(void **state)
{
	struct place *p = *state;
	struct config_setting *list AUTO_FREE = NULL;
	const char *sets[] = {"policy.grace=7s", "policy.grace=8s"}, *source = NULL;
	struct memoc_err err = {0};
	struct config c;
	char path[256], expected[300];
	size_t n = 0;

	assert_int_equal(mkdir(p->conf_d, 0700), 0);
	write_text(p->conf, "[policy]\ninterval = 2s\nstale = 6s\ngrace = 3s\n");
	snprintf(path, sizeof(path), "%s/.hidden.conf", p->conf_d);
	write_text(path, "nonsense");
	snprintf(path, sizeof(path), "%s/90-late.conf.bak", p->conf_d);
	write_text(path, "nonsense");
	snprintf(path, sizeof(path), "%s/Z.conf", p->conf_d); /* 'Z' comes before 'a' in every locale */
	write_text(path, "[policy]\nstale = 7s\ninterval = 3s\n");
	snprintf(path, sizeof(path), "%s/a.conf", p->conf_d);
	write_text(path, "# comment\n[policy]\nstale = 8s\n");
	if (config_load(p->conf, sets, 2, &c, &list, &n, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(c.core.interval_ms, 3000);
	assert_int_equal(c.core.stale_ms, 8000);
	assert_int_equal(c.core.grace_ms, 8000);
	snprintf(expected, sizeof(expected), "%s:3", path);
	assert_string_equal(value_of(list, n, "policy.stale", &source), "8s");
	assert_string_equal(source, expected);
	assert_string_equal(value_of(list, n, "policy.grace", &source), "8s");
	assert_string_equal(source, "--set");
	assert_string_equal(value_of(list, n, "log.level", &source), "info");
	assert_string_equal(source, "default");
}

static void test_bad_file_of_the_directory(void **state)
{
	struct place *p = *state;
	struct memoc_err err = {0};
	struct config c;
	char path[256];

	assert_int_equal(mkdir(p->conf_d, 0700), 0);
	write_text(p->conf, "");
	snprintf(path, sizeof(path), "%s/x.conf", p->conf_d);
	write_text(path, "[log]\nlevel=loud\n");
	assert_int_equal(config_load(p->conf, NULL, 0, &c, NULL, NULL, &err), -EINVAL);
	assert_memory_equal(err.text, path, strlen(path));
}

static void test_missing_and_unreadable(void **state)
{
	struct place *p = *state;
	struct memoc_err err = {0};
	struct config c;

	assert_int_equal(config_load(p->conf, NULL, 0, &c, NULL, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.text, p->conf));
	assert_int_equal(config_load(p->dir, NULL, 0, &c, NULL, NULL, &err), -EISDIR);
	assert_non_null(strstr(err.text, p->dir));
}

static void test_unknown_names(void **state)
{
	refused(*state, "[polcy]\ninterval = 1s\n", ":1: ", "[polcy]", "did you mean [policy]?");
	refused(*state, "\n[nonsense]\n", ":2: ", "[nonsense]", "host, policy");
	refused(*state, "[policy]\nintervall = 1s\n", ":2: ", "intervall", "did you mean interval?");
	refused(*state, "[policy]\nretry_min = 1s\n", ":2: ", "retry_min", "belongs to [balloon]");
	refused(*state, "[log]\nxyzzyxyzzy = 1\n", ":2: ", "xyzzyxyzzy", "see memoc.conf");
	refused(*state, "pool = 1G\n", ":1: ", "first [section]", NULL);
	refused(*state, "[policy]\nInterval = 1s\n", ":2: ", "did you mean interval?", NULL);
}

static void test_bad_values(void **state)
{
	refused(*state, "[policy]\n\ninterval = 1\n", ":3: [policy] interval = 1: ", "not good here",
		"a time of 100ms to 1m, such as 1s");
	refused(*state, "[policy]\ninterval = 2m\n", "interval = 2m", "out of range", "100ms to 1m");
	refused(*state, "[policy]\nname = greedy\n", "name = greedy", "not good here",
		"give needy-greedy, mom, pve, squeezed or static");
	refused(*state, "[migration]\nadvice = perhaps\n", "advice = perhaps", "not good here", NULL);
	refused(*state, "[swap]\nmethod = x\n", "method = x", "auto, limit or reclaim", NULL);
	refused(*state, "[host]\npool =\n", ":2: [host] pool = ", "give auto, a size", "percentage");
	refused(*state, "[host]\npool = 1G # mine\n", "pool = 1G # mine", NULL, NULL);
}

static void test_broken_lines(void **state)
{
	struct place *p = *state;
	struct memoc_err err = {0};
	struct config c;
	char text[600];

	refused(p, "[host\npool = 1G\n", ":1: ", "neither a [section]", NULL);
	refused(p, "[host]\npool\n", ":2: ", "neither a [section]", NULL);
	refused(p, "[host]\nnonsense\npool = x\n", ":2: ", "neither a [section]", NULL);
	refused(p, "[host]\npool = 1G\npool = 2G\n", ":3: ", "a second time", "line 2");
	/* Indented: for libinih the continuation of the line above. */
	refused(p, "[host]\npool = 1G\n  pool = 2G\n", ":3: ", "a second time", "line 2");
	snprintf(text, sizeof(text), "[host]\npool = 1%0*dG\n", 300, 0);
	refused(p, text, ":2: ", "too long", NULL);
	snprintf(text, sizeof(text), "[host]\npool = 1%0*d\n", 150, 0);
	refused(p, text, ":2: ", "pool = 1000", NULL);
	write_bytes(p->conf, "[host]\n\0pool = 1G\n", 18);
	assert_int_equal(config_load(p->conf, NULL, 0, &c, NULL, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, ":2: a zero byte"));
}

static void test_tolerated(void **state)
{
	struct place *p = *state;

	write_text(p->conf, "\xEF\xBB\xBF[host]\r\npool = 1G\r\n");
	assert_int_equal(load_good(p->conf, NULL, 0).pool.bytes, GIB);
	write_text(p->conf, "\xEF\xBB\xBF# only a comment");
	load_good(p->conf, NULL, 0);
	/* A section may come again, indented, and the last line may lack its newline. */
	write_text(p->conf, "[host]\n\tpool = 1G\n[log]\n\n  [host]\n\treserve = 1G");
	assert_int_equal(load_good(p->conf, NULL, 0).reserve.bytes, GIB);
}

static void test_bad_sets(void **state)
{
	static const char *const bad[] = {"",	     "host.pool", "pool=1G",	"=",	    ".=",
					  "host.=1", ".pool=1G",  "host.pool=", "host=a.b", "host.pool=1G "};
	struct place *p = *state;

	write_text(p->conf, "");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct memoc_err err = {0};
		struct config c;

		if (config_load(p->conf, &bad[i], 1, &c, NULL, NULL, &err) != -EINVAL)
			fail_msg("--set '%s' was accepted", bad[i]);
		assert_memory_equal(err.text, "--set: ", 7);
	}
}

static void test_contradictions(void **state)
{
	refused(*state, "[balloon]\nretry_min = 1h\n", "retry_min", ":2)", "retry_max (default)");
	refused(*state, "[policy]\ndwell = 1h\ndwell_max = 1m\n", "dwell (", ":2)", ":3)");
	refused(*state, "[policy]\ninterval = 30s\n", "stale (default)", "interval", ":2)");
}

/* ---- the shipped file, which is memoc.conf(5) too ---- */

/* "#name = value" → the same without the '#'; counts them. */
static size_t uncomment(const char *from, const char *to)
{
	FILE *in = fopen(from, "re"), *out = fopen(to, "we");
	char line[256];
	size_t n = 0;

	assert_non_null(in);
	assert_non_null(out);
	while (fgets(line, sizeof(line), in)) {
		bool setting = line[0] == '#' && line[1] != ' ' && strstr(line, " = ");

		n += setting;
		fputs(line + setting, out);
	}
	fclose(in);
	assert_int_equal(fclose(out), 0);
	return n;
}

static void test_shipped_file(void **state)
{
	struct place *p = *state;
	struct config_setting *plain AUTO_FREE = NULL, *all AUTO_FREE = NULL;
	struct memoc_err err = {0};
	struct config c;
	size_t n = 0, m = 0;

	if (config_load(SHIPPED, NULL, 0, &c, &plain, &n, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(uncomment(SHIPPED, p->conf), n);
	if (config_load(p->conf, NULL, 0, &c, &all, &m, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(n, m);
	for (size_t i = 0; i < n; i++) {
		assert_string_equal(plain[i].source, "default");
		assert_string_not_equal(all[i].source, "default");
		if (strcmp(plain[i].value, all[i].value) != 0)
			fail_msg(SHIPPED " says %s = %s, but the default is %s", all[i].key, all[i].value,
				 plain[i].value);
	}
}

static const struct config_key *key_of(const char *section, const char *name)
{
	for (const struct config_key *k = config_keys; k->name; k++)
		if (strcmp(k->section, section) == 0 && strcmp(k->name, name) == 0)
			return k;
	fail_msg(SHIPPED ": there is no %s in [%s]", name, section);
	return NULL;
}

/* The comment above each setting ends with the form that the table wants, in parentheses. */
static void test_shipped_forms(void **state)
{
	char line[256], section[32] = "", name[64], about[1024] = "", wanted[CONFIG_TEXT_LEN + 4],
			form[CONFIG_TEXT_LEN];
	FILE *f = fopen(SHIPPED, "re");
	size_t n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		if (strncmp(line, "# ", 2) == 0) {
			assert_true(strlen(about) + strlen(line) < sizeof(about));
			strcat(about, line + (*about ? 1 : 2));
			continue;
		}
		if (sscanf(line, "#%63s = ", name) == 1) {
			const struct config_key *k = key_of(section, name);
			/* A range says "such as" the default, which stands below. */
			config_key_form(k, form);
			if (strncmp(form, "auto, ", 6) != 0 && strstr(form, ", such as "))
				*strstr(form, ", such as ") = 0;
			snprintf(wanted, sizeof(wanted), "(%s).", form);
			if (!strstr(about, wanted) || strlen(strstr(about, wanted)) != strlen(wanted))
				fail_msg(SHIPPED ": what is said of %s does not end with: %s", name, wanted);
			n++;
		}
		(void)sscanf(line, "[%31[^]]]", section);
		*about = 0;
	}
	fclose(f);
	for (const struct config_key *k = config_keys; k->name; k++)
		n--;
	assert_int_equal(n, 0);
}

/* ---- sizes against a host ---- */

static struct config resolved(const char *pool, const char *reserve, const char *buffer, uint64_t ram, int expected)
{
	struct memoc_err err = {0};
	struct config c = {0};

	assert_int_equal(parse_size_spec(pool, true, true, &c.pool, NULL), 0);
	assert_int_equal(parse_size_spec(reserve, true, false, &c.reserve, NULL), 0);
	assert_int_equal(parse_size_spec(buffer, true, true, &c.buffer, NULL), 0);
	if (config_resolve(&c, ram, &err) != expected)
		fail_msg("pool %s reserve %s buffer %s: %s", pool, reserve, buffer, err.text);
	assert_int_equal(err.text[0] != '\0', expected != 0);
	return c;
}

static void test_resolve_auto(void **state)
{
	struct config c = resolved("auto", "auto", "auto", 100 * GIB, 0);

	assert_int_equal(c.core.reserve_bytes, 5 * GIB);
	assert_int_equal(c.core.pool_bytes, 95 * GIB);
	assert_int_equal(c.core.buffer_bytes, 95 * GIB / 20);
	assert_true(c.core.buffer_auto);
	c = resolved("auto", "auto", "auto", 2 * GIB, 0);
	assert_int_equal(c.core.reserve_bytes, 256 * MIB);
	c = resolved("auto", "auto", "auto", 256 * MIB, 0);
	assert_int_equal(c.core.reserve_bytes, 128 * MIB);
	assert_int_equal(c.core.pool_bytes, 128 * MIB);
	c = resolved("auto", "auto", "auto", UINT64_MAX, 0);
	assert_int_equal(c.core.pool_bytes, UINT64_MAX - UINT64_MAX / 20);
}

static void test_resolve_given(void **state)
{
	struct config c = resolved("50%", "1G", "10%", 8 * GIB, 0);

	assert_int_equal(c.core.pool_bytes, 4 * GIB);
	assert_int_equal(c.core.reserve_bytes, GIB);
	assert_int_equal(c.core.buffer_bytes, 4 * GIB / 10);
	assert_false(c.core.buffer_auto);
	/* Who names the pool has decided what is left for the host. */
	c = resolved("100%", "auto", "0", 8 * GIB, 0);
	assert_int_equal(c.core.pool_bytes, 8 * GIB);
	assert_int_equal(c.core.reserve_bytes, 0);
	assert_int_equal(c.core.buffer_bytes, 0);
	c = resolved("auto", "3G", "auto", 8 * GIB, 0);
	assert_int_equal(c.core.pool_bytes, 5 * GIB);
}

static void test_resolve_refused(void **state)
{
	resolved("9G", "auto", "auto", 8 * GIB, -EINVAL);
	resolved("8G", "1", "auto", 8 * GIB, -EINVAL);
	resolved("auto", "8G", "auto", 8 * GIB, -EINVAL);
	resolved("0", "auto", "auto", 8 * GIB, -EINVAL);
	resolved("4G", "auto", "2.1G", 8 * GIB, -EINVAL);
	resolved("4G", "auto", "51%", 8 * GIB, -EINVAL);
	resolved("auto", "auto", "auto", 0, -EINVAL);
	resolved("15E", "15E", "auto", UINT64_MAX, -EINVAL);
}

/* What decides is explained in memoc-policy(7): each setting under its section's heading, with the default in force,
 * and no setting that is not there any more. */
static void test_page_of_the_policy(void **state)
{
	char line[256], section[32] = "", name[64], value[CONFIG_TEXT_LEN], def[CONFIG_TEXT_LEN];
	size_t said[4] = {0}, are[4] = {0};
	static const char *const sections[] = {"host", "policy", "balloon", "swap"};
	FILE *f = fopen(PAGE, "re");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		bool heading = strncmp(line, ".Sh ", 4) == 0 || strncmp(line, ".Ss ", 4) == 0;
		if (heading && sscanf(line, ".Ss Section %31s", section) != 1)
			section[0] = 0;
		if (!*section || sscanf(line, ".It Cm %63s = %63[^\n]", name, value) != 2)
			continue;
		const struct config_key *k = config_keys;
		while (k->name && (strcmp(k->section, section) != 0 || strcmp(k->name, name) != 0))
			k++;
		if (!k->name)
			fail_msg("%s: there is no %s in [%s]", PAGE, name, section);
		assert_string_equal(value, config_key_default(k, def));
		for (size_t i = 0; i < ARRAY_SIZE(sections); i++)
			said[i] += strcmp(section, sections[i]) == 0;
	}
	fclose(f);
	for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
		for (const struct config_key *k = config_keys; k->name; k++)
			are[i] += strcmp(k->section, sections[i]) == 0;
		if (said[i] != are[i])
			fail_msg("%s explains %zu of the %zu settings of [%s]", PAGE, said[i], are[i], sections[i]);
	}
}

#define WITH_PLACE(f) cmocka_unit_test_setup_teardown(f, place_make, place_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_PLACE(test_defaults_read_back),
		WITH_PLACE(test_defaults_are_the_cores),
		WITH_PLACE(test_each_key),
		WITH_PLACE(test_values_arrive),
		WITH_PLACE(test_each_policy),
		WITH_PLACE(test_order_of_sources),
		WITH_PLACE(test_bad_file_of_the_directory),
		WITH_PLACE(test_missing_and_unreadable),
		WITH_PLACE(test_unknown_names),
		WITH_PLACE(test_bad_values),
		WITH_PLACE(test_broken_lines),
		WITH_PLACE(test_tolerated),
		WITH_PLACE(test_bad_sets),
		WITH_PLACE(test_contradictions),
		WITH_PLACE(test_shipped_file),
		cmocka_unit_test(test_shipped_forms),
		cmocka_unit_test(test_page_of_the_policy),
		cmocka_unit_test(test_resolve_auto),
		cmocka_unit_test(test_resolve_given),
		cmocka_unit_test(test_resolve_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
