/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/daemon/config.h"

#include <dirent.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "controller/core/policy.h"
#include "controller/host/cgroup.h"
#include "controller/record/record.h"

#define DEFAULT_FILE "/etc/memoc/memoc.conf"
#define SECOND_MS 1000.0
#define MINUTE_MS (60 * SECOND_MS)
#define HOUR_MS (60 * MINUTE_MS)
#define TIB ((double)GIB * 1024)

/* ---- the table ---- */

static const struct enum_name on_exit_names[] = {{ON_EXIT_KEEP, "keep"}, {ON_EXIT_OPEN, "open"}, {0, NULL}};
static const struct enum_name method_names[] = {
	{CGROUP_METHOD_AUTO, "auto"}, {CGROUP_METHOD_LIMIT, "limit"}, {CGROUP_METHOD_RECLAIM, "reclaim"}, {0, NULL}};
static const struct enum_name admission_names[] = {
	{ADMISSION_OFF, "off"}, {ADMISSION_WARN, "warn"}, {ADMISSION_DENY, "deny"}, {0, NULL}};
static const struct enum_name policy_words[] = {{WORD_BUILT_IN, "needy-greedy"}, {WORD_BUILT_IN, "mom"},
						{WORD_BUILT_IN, "pve"},		 {WORD_BUILT_IN, "squeezed"},
						{WORD_BUILT_IN, "static"},	 {0, NULL}};
static const struct enum_name backend_words[] = {
	{WORD_BUILT_IN, "auto"}, {WORD_BUILT_IN, "none"},    {WORD_BUILT_IN, "idle"},	   {WORD_BUILT_IN, "damon"},
	{WORD_BUILT_IN, "lru"},	 {WORD_BUILT_IN, "refault"}, {WORD_BUILT_IN, "idle-host"}, {0, NULL}};
static const struct enum_name listen_words[] = {{WORD_BUILT_IN, "none"}, {0, NULL}};

#define FIELD(member) offsetof(struct config, member), sizeof(((struct config *)NULL)->member)
#define NO_RANGE 0, 0, NULL
#define RANGE(lo, hi) (lo), (hi), NULL
#define NAMES(table) 0, 0, (table)
#define ALSO_PERCENT 0, 1, NULL

_Static_assert(sizeof(((struct config *)NULL)->on_exit) == sizeof(int), "enums are stored as int");
_Static_assert(sizeof(((struct config *)NULL)->core.admission) == sizeof(int), "enums are stored as int");
_Static_assert(sizeof(((struct config *)NULL)->log_level) == sizeof(int), "enums are stored as int");

const struct config_key config_keys[] = {
	{"host", "pool", "memory that VMs may use together; a percentage is of RAM; auto: RAM minus reserve",
	 CONFIG_SIZE_SPEC, FIELD(pool), ALSO_PERCENT},
	{"host", "reserve", "memory for the host itself; auto: 5% of RAM, at least 256M, at most half",
	 CONFIG_SIZE_SPEC, FIELD(reserve), NO_RANGE},
	{"host", "buffer",
	 "kept unused by any VM; a percentage is of the pool; auto: 5%, then sized by the growth seen",
	 CONFIG_SIZE_SPEC, FIELD(buffer), ALSO_PERCENT},
	{"host", "on_exit", "what SIGTERM leaves behind: keep the limits in place, or open them", CONFIG_ENUM,
	 FIELD(on_exit), NAMES(on_exit_names)},
	{"policy", "name", "the decision algorithm; those of others are for comparing", CONFIG_WORD, FIELD(policy_name),
	 NAMES(policy_words)},
	{"policy", "interval", "time between two rounds of the policy", CONFIG_DURATION, FIELD(core.interval_ms),
	 RANGE(100, MINUTE_MS)},
	{"policy", "wss_window", "time over which a working set is measured", CONFIG_DURATION, FIELD(wss_window_ms),
	 RANGE(SECOND_MS, HOUR_MS)},
	{"policy", "dead_band", "share of a VM's memory: smaller changes are not worth a resize", CONFIG_SHARE,
	 FIELD(core.dead_band), RANGE(0, 0.5)},
	{"policy", "min_share", "share of its memory that a VM keeps where its own policy names no min", CONFIG_SHARE,
	 FIELD(core.min_share), RANGE(0.01, 1)},
	{"policy", "headroom_share", "least headroom above what a VM uses, as a share of that", CONFIG_SHARE,
	 FIELD(core.headroom_share), RANGE(0, 1)},
	{"policy", "headroom", "least headroom above what a VM uses, absolute", CONFIG_BYTES,
	 FIELD(core.headroom_bytes), RANGE(0, TIB)},
	{"policy", "dwell", "no shrinking for this long after a growth, except at levels hard and low", CONFIG_DURATION,
	 FIELD(core.dwell_ms), RANGE(0, 24 * HOUR_MS)},
	{"policy", "dwell_max", "dwell doubles with each reversal up to this", CONFIG_DURATION,
	 FIELD(core.dwell_max_ms), RANGE(0, 24 * HOUR_MS)},
	{"policy", "grace", "how long a starting or rebooting VM may stay without guest statistics", CONFIG_DURATION,
	 FIELD(core.grace_ms), RANGE(SECOND_MS, HOUR_MS)},
	{"policy", "needy_hold", "a VM counts as needy for this long after the last sign", CONFIG_DURATION,
	 FIELD(core.needy_hold_ms), RANGE(0, HOUR_MS)},
	{"policy", "stale", "guest statistics older than this are not believed", CONFIG_DURATION, FIELD(core.stale_ms),
	 RANGE(SECOND_MS, HOUR_MS)},
	{"policy", "needy_swap", "swapping in of a guest, in bytes per second, that makes it needy", CONFIG_BYTE_RATE,
	 FIELD(core.needy_swap_bytes_per_s), RANGE(1, TIB)},
	{"policy", "needy_faults", "major faults of a QEMU per second that make its VM needy", CONFIG_RATE,
	 FIELD(core.needy_faults_per_s), RANGE(0.1, 1e6)},
	{"policy", "needy_stall", "share of time that a VM at its limit waits for memory and that makes it needy",
	 CONFIG_SHARE, FIELD(core.needy_stall), RANGE(0.001, 1)},
	{"balloon", "enabled", "may balloons be used", CONFIG_BOOL, FIELD(core.balloon_enabled), NO_RANGE},
	{"balloon", "min_speed", "bytes per second; a balloon that is slower has stalled", CONFIG_BYTES,
	 FIELD(core.min_speed_bytes_per_s), RANGE(4096, TIB)},
	{"balloon", "stall_timeout", "slower than min_speed for this long: the limit takes the rest", CONFIG_DURATION,
	 FIELD(core.stall_timeout_ms), RANGE(500, HOUR_MS)},
	{"balloon", "retry_min", "a stalled balloon is tried again after this; doubles with each failure",
	 CONFIG_DURATION, FIELD(core.retry_min_ms), RANGE(SECOND_MS, 24 * HOUR_MS)},
	{"balloon", "retry_max", "the longest time between two tries of a stalled balloon", CONFIG_DURATION,
	 FIELD(core.retry_max_ms), RANGE(SECOND_MS, 24 * HOUR_MS)},
	{"swap", "enabled", "may VMs be swapped by the host (cgroup limits below their memory)", CONFIG_BOOL,
	 FIELD(core.swap_enabled), NO_RANGE},
	{"swap", "method", "how cgroup v2 takes memory back: memory.high (limit), memory.reclaim, or both (auto)",
	 CONFIG_ENUM, FIELD(cgroup_method), NAMES(method_names)},
	{"swap", "max_step", "a limit is lowered below residency by at most this at a time", CONFIG_BYTES,
	 FIELD(core.max_step_bytes), RANGE(1 << 20, TIB)},
	{"swap", "keep_free", "of host swap: below it nothing more is swapped", CONFIG_BYTES,
	 FIELD(core.keep_free_bytes), RANGE(0, TIB)},
	{"wss", "backend", "where working sets come from", CONFIG_WORD, FIELD(wss_backend), NAMES(backend_words)},
	{"wss", "pages", "pages sampled of a VM at most (2401: within 2% of its size)", CONFIG_COUNT, FIELD(wss_pages),
	 RANGE(64, 1 << 24)},
	{"wss", "target_error", "error of a working set that is good enough, as a share of the VM's memory",
	 CONFIG_SHARE, FIELD(wss_target_error), RANGE(0.001, 0.5)},
	{"wss", "budget", "of one processor, for the working sets of all VMs together", CONFIG_SHARE, FIELD(wss_budget),
	 RANGE(0.0001, 1)},
	{"migration", "advice", "memory advice while a VM migrates away", CONFIG_BOOL, FIELD(core.advice), NO_RANGE},
	{"admission", "mode", "a VM whose guaranteed minimum no longer fits: off (start it), warn, or deny",
	 CONFIG_ENUM, FIELD(core.admission), NAMES(admission_names)},
	{"metrics", "listen", "where Prometheus metrics are served", CONFIG_WORD, FIELD(metrics_listen),
	 NAMES(listen_words)},
	{"log", "level", "lines below this level are dropped; --log-level goes before it", CONFIG_ENUM,
	 FIELD(log_level), NAMES(log_level_names)},
	{"log", "events", "how many events `memoc events` can look back", CONFIG_COUNT, FIELD(events_kept),
	 RANGE(16, 20000)},
	{"log", "record",
	 "every input and decision on disk, for `memoc replay`: this much, then the oldest goes; 0: off", CONFIG_BYTES,
	 FIELD(record_bytes), RANGE(0, TIB)},
	{.name = NULL},
};
#define KEYS (ARRAY_SIZE(config_keys) - 1)

static struct config config_default(void)
{
	return (struct config){
		.pool.kind = SIZE_AUTO,
		.reserve.kind = SIZE_AUTO,
		.buffer.kind = SIZE_AUTO,
		.core = core_config_default(),
		.policy_name = "needy-greedy",
		.cgroup_method = CGROUP_METHOD_AUTO,
		.wss_backend = "auto",
		.wss_window_ms = 30000,
		.wss_pages = 2401, /* 1.96² × 0.25 / 0.02²: ±2 % at worst, at 95 % confidence */
		.wss_target_error = 0.02,
		.wss_budget = 0.03,
		.metrics_listen = "none",
		.log_level = LOG_LEVEL_INFO,
		.on_exit = ON_EXIT_KEEP,
		.events_kept = 1000,
		.record_bytes = 64 * MIB,
	};
}

/* ---- values as text ---- */

struct unit {
	const char *name;
	uint64_t factor;
};

/* The greatest unit that divides v without a rest, so that the text reads back as v. */
static void format_exact(char *buf, size_t len, uint64_t v, const struct unit *units)
{
	while (units->factor > 1 && (v == 0 || v % units->factor != 0))
		units++;
	snprintf(buf, len, "%llu%s", (unsigned long long)(v / units->factor), units->name);
}

static void format_bytes_exact(char *buf, size_t len, uint64_t v)
{
	static const struct unit units[] = {{"T", GIB << 10}, {"G", GIB}, {"M", MIB}, {"K", KIB}, {"", 1}};

	format_exact(buf, len, v, units);
}

static void format_ms_exact(char *buf, size_t len, uint64_t v)
{
	static const struct unit units[] = {{"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

	format_exact(buf, len, v, units);
}

static void format_spec(char *buf, size_t len, const struct size_spec *s)
{
	if (s->kind == SIZE_AUTO)
		snprintf(buf, len, "auto");
	else if (s->kind == SIZE_RATIO)
		snprintf(buf, len, "%g%%", s->ratio * 100);
	else
		format_bytes_exact(buf, len, s->bytes);
}

/* One bound or default of a number, in the form in which it is written. */
static void format_number(const struct config_key *key, char *buf, size_t len, double v)
{
	if (key->kind == CONFIG_DURATION)
		format_ms_exact(buf, len, (uint64_t)v);
	else if (key->kind == CONFIG_BYTES || key->kind == CONFIG_BYTE_RATE)
		format_bytes_exact(buf, len, (uint64_t)v);
	else if (key->kind == CONFIG_SHARE)
		snprintf(buf, len, "%g%%", v * 100);
	else
		snprintf(buf, len, "%.10g", v);
}

static double field_number(const struct config_key *key, const void *field)
{
	if (key->kind == CONFIG_COUNT)
		return *(const uint32_t *)field;
	if (key->kind == CONFIG_BYTES || key->kind == CONFIG_DURATION)
		return (double)*(const uint64_t *)field;
	return *(const double *)field;
}

const char *config_key_default(const struct config_key *key, char buf[CONFIG_TEXT_LEN])
{
	struct config c = config_default();
	const void *field = (const char *)&c + key->offset;

	switch (key->kind) {
	case CONFIG_BOOL:
		snprintf(buf, CONFIG_TEXT_LEN, "%s", *(const bool *)field ? "yes" : key->names ? "off" : "no");
		break;
	case CONFIG_SIZE_SPEC:
		format_spec(buf, CONFIG_TEXT_LEN, field);
		break;
	case CONFIG_ENUM:
		snprintf(buf, CONFIG_TEXT_LEN, "%s", enum_to_name(key->names, *(const int *)field));
		break;
	case CONFIG_WORD:
		snprintf(buf, CONFIG_TEXT_LEN, "%s", (const char *)field);
		break;
	case CONFIG_BYTES:
	case CONFIG_DURATION:
	case CONFIG_SHARE:
	case CONFIG_BYTE_RATE:
	case CONFIG_RATE:
	case CONFIG_COUNT:
		format_number(key, buf, CONFIG_TEXT_LEN, field_number(key, field));
		break;
	}
	return buf;
}

/* "auto, limit or reclaim" */
static void form_of_names(const struct config_key *key, char buf[CONFIG_TEXT_LEN])
{
	size_t offered = 0, i = 0;
	int used = 0;

	for (const struct enum_name *n = key->names; n->name; n++)
		offered++;
	for (const struct enum_name *n = key->names; n->name && used < CONFIG_TEXT_LEN; n++) {
		used += snprintf(buf + used, (size_t)(CONFIG_TEXT_LEN - used), "%s%s",
				 i == 0		    ? ""
				 : i + 1 == offered ? " or "
						    : ", ",
				 n->name);
		i++;
	}
	if (offered == 1 && used < CONFIG_TEXT_LEN)
		snprintf(buf + used, (size_t)(CONFIG_TEXT_LEN - used), ": nothing else is built in yet");
}

static void form_of_range(const struct config_key *key, char buf[CONFIG_TEXT_LEN])
{
	static const char *const what[] = {
		[CONFIG_BYTES] = "a size",
		[CONFIG_DURATION] = "a time",
		[CONFIG_SHARE] = "a percentage",
		[CONFIG_BYTE_RATE] = "a size per second",
		[CONFIG_RATE] = "a number per second",
		[CONFIG_COUNT] = "a whole number",
	};
	char lo[32], hi[32], def[CONFIG_TEXT_LEN];

	format_number(key, lo, sizeof(lo), key->min);
	format_number(key, hi, sizeof(hi), key->max);
	snprintf(buf, CONFIG_TEXT_LEN, "%s of %s to %s, such as %.20s", what[key->kind], lo, hi,
		 config_key_default(key, def));
}

const char *config_key_form(const struct config_key *key, char buf[CONFIG_TEXT_LEN])
{
	if (key->kind == CONFIG_BOOL)
		snprintf(buf, CONFIG_TEXT_LEN, key->names ? "off: nothing else is built in yet" : "yes or no");
	else if (key->kind == CONFIG_SIZE_SPEC)
		snprintf(buf, CONFIG_TEXT_LEN, "auto, a size such as 512M or 1.5G%s",
			 key->max > 0 ? ", or a percentage such as 5%" : "");
	else if (key->names)
		form_of_names(key, buf);
	else
		form_of_range(key, buf);
	return buf;
}

/* ---- text to values ---- */

/* A number of any unit as a double: exact below 2^53, and no bound of the table lies above. */
static int parse_number(const struct config_key *key, const char *value, double *ret)
{
	uint64_t whole = 0;
	int r;

	if (key->kind == CONFIG_SHARE)
		return parse_percent(value, ret, NULL);
	if (key->kind == CONFIG_RATE)
		return parse_double(value, ret, NULL);
	if (key->kind == CONFIG_DURATION)
		r = parse_duration_ms(value, &whole, NULL);
	else if (key->kind == CONFIG_COUNT)
		r = parse_u64(value, &whole, NULL);
	else
		r = parse_size_bytes(value, &whole, NULL);
	*ret = (double)whole;
	return r;
}

static int store_number(const struct config_key *key, const char *value, void *field)
{
	double v = 0;
	int r = parse_number(key, value, &v);

	if (r < 0)
		return r;
	if (!(v >= key->min && v <= key->max))
		return -ERANGE;
	if (key->kind == CONFIG_COUNT)
		*(uint32_t *)field = (uint32_t)v;
	else if (key->kind == CONFIG_BYTES || key->kind == CONFIG_DURATION)
		*(uint64_t *)field = (uint64_t)v;
	else
		*(double *)field = v;
	return 0;
}

static int store_word(const struct config_key *key, const char *value, char *field)
{
	int built_in = 0;

	if (enum_from_name(key->names, value, &built_in, NULL) < 0 || strlen(value) >= key->size)
		return -EINVAL;
	snprintf(field, key->size, "%s", value);
	return 0;
}

static int store_bool(const struct config_key *key, const char *value, bool *field)
{
	bool v;
	int r = parse_bool(value, &v, NULL);

	if (r < 0)
		return r;
	if (key->names && v)
		return -EOPNOTSUPP;
	*field = v;
	return 0;
}

static int store(const struct config_key *key, const char *value, struct config *c)
{
	void *field = (char *)c + key->offset;

	switch (key->kind) {
	case CONFIG_BOOL:
		return store_bool(key, value, field);
	case CONFIG_SIZE_SPEC:
		return parse_size_spec(value, true, key->max > 0, field, NULL);
	case CONFIG_ENUM:
		return enum_from_name(key->names, value, field, NULL);
	case CONFIG_WORD:
		return store_word(key, value, field);
	case CONFIG_BYTES:
	case CONFIG_DURATION:
	case CONFIG_SHARE:
	case CONFIG_BYTE_RATE:
	case CONFIG_RATE:
	case CONFIG_COUNT:
		break;
	}
	return store_number(key, value, field);
}

/* ---- loading ---- */

struct loader {
	struct config config;
	struct config_setting *settings; /* one per key, in the table's order */
	struct memoc_err *err;
	int result; /* of the first thing that was wrong; err tells it */
	/* the file at hand */
	FILE *file;
	const char *path;
	unsigned line;
	int error_line;	     /* where result comes from */
	unsigned seen[KEYS]; /* line in which this file sets the key; 0 = not yet */
};

/* Keeps the first error of all. `where` is for --set; in a file its name and line are put in front. */
static int refuse(struct loader *l, int code, const char *text)
{
	if (l->result < 0)
		return l->result;
	l->result = code;
	l->error_line = (int)l->line;
	if (l->path)
		return memoc_err_set(l->err, code, "%s:%u: %s", l->path, l->line, text);
	return memoc_err_set(l->err, code, "--set: %s", text);
}

static unsigned least(unsigned a, unsigned b, unsigned c)
{
	unsigned m = a < b ? a : b;

	return m < c ? m : c;
}

/* Letters to change, add or drop to make b of a (Levenshtein); UINT32_MAX where a is too long to be a slip of one of
 * ours. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[32];
	size_t n = strlen(b);

	if (strlen(a) >= ARRAY_SIZE(row) || n >= ARRAY_SIZE(row))
		return UINT32_MAX;
	for (size_t j = 0; j <= n; j++)
		row[j] = (unsigned)j;
	for (size_t i = 0; a[i]; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i + 1;
		for (size_t j = 0; j < n; j++) {
			unsigned above = row[j + 1];

			row[j + 1] = least(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
			diagonal = above;
		}
	}
	return row[n];
}

#define SLIP_LETTERS_MAX 2 /* a name that differs by more is no slip of the pen */

static int refuse_section(struct loader *l, const char *section)
{
	const char *near = NULL;
	unsigned best = SLIP_LETTERS_MAX + 1;
	char text[300];

	if (!*section)
		return refuse(l, -EINVAL, "a setting in front of the first [section]: put it into one");
	for (size_t i = 0; i < KEYS; i++) {
		unsigned d = distance(section, config_keys[i].section);

		if (d < best) {
			best = d;
			near = config_keys[i].section;
		}
	}
	if (near)
		snprintf(text, sizeof(text), "there is no section [%.50s]: did you mean [%s]?", section, near);
	else
		snprintf(text, sizeof(text),
			 "there is no section [%.50s]: give host, policy, balloon, swap, wss, migration, admission, "
			 "metrics or log",
			 section);
	return refuse(l, -EINVAL, text);
}

static bool known_section(const char *section)
{
	for (size_t i = 0; i < KEYS; i++)
		if (strcmp(config_keys[i].section, section) == 0)
			return true;
	return false;
}

/* The key is not in this section: a slip, at home elsewhere, or unknown. */
static int refuse_key(struct loader *l, const char *section, const char *name)
{
	const char *near = NULL, *home = NULL;
	unsigned best = SLIP_LETTERS_MAX + 1;
	char text[300];

	if (!known_section(section))
		return refuse_section(l, section);
	for (size_t i = 0; i < KEYS; i++) {
		const struct config_key *k = &config_keys[i];
		unsigned d = distance(name, k->name);

		if (d == 0)
			home = k->section;
		if (strcmp(k->section, section) == 0 && d < best) {
			best = d;
			near = k->name;
		}
	}
	if (near)
		snprintf(text, sizeof(text), "[%s] has no setting '%.50s': did you mean %s?", section, name, near);
	else if (home)
		snprintf(text, sizeof(text), "[%s] has no setting '%.50s': it belongs to [%s]", section, name, home);
	else
		snprintf(text, sizeof(text), "[%s] has no setting '%.50s': see memoc.conf for those there are", section,
			 name);
	return refuse(l, -EINVAL, text);
}

static int refuse_value(struct loader *l, const struct config_key *key, const char *value, int why)
{
	char text[360], form[CONFIG_TEXT_LEN];

	snprintf(text, sizeof(text), "[%s] %s = %.100s: %s: give %s", key->section, key->name, value,
		 why == -EOPNOTSUPP ? "not built in yet"
		 : why == -ERANGE   ? "out of range"
				    : "not good here",
		 config_key_form(key, form));
	return refuse(l, -EINVAL, text);
}

/* One setting from wherever. 0 or the error, which is also kept in l. */
static int apply(struct loader *l, const char *section, const char *name, const char *value)
{
	size_t i = 0;
	char text[200];
	int r;

	while (i < KEYS && (strcmp(config_keys[i].section, section) != 0 || strcmp(config_keys[i].name, name) != 0))
		i++;
	if (i == KEYS)
		return refuse_key(l, section, name);
	if (l->path && l->seen[i]) {
		snprintf(text, sizeof(text), "[%s] %s is set a second time, first in line %u: keep one of them",
			 section, name, l->seen[i]);
		return refuse(l, -EINVAL, text);
	}
	r = strlen(value) < CONFIG_TEXT_LEN ? store(&config_keys[i], value, &l->config) : -EINVAL;
	if (r < 0)
		return refuse_value(l, &config_keys[i], value, r);
	if (config_keys[i].offset == offsetof(struct config, log_level))
		l->config.log_level_set = true;
	l->seen[i] = l->line;
	snprintf(l->settings[i].value, sizeof(l->settings[i].value), "%s", value);
	if (l->path)
		snprintf(l->settings[i].source, sizeof(l->settings[i].source), "%s:%u", l->path, l->line);
	else
		snprintf(l->settings[i].source, sizeof(l->settings[i].source), "--set");
	return 0;
}

static int on_pair(void *user, const char *section, const char *name, const char *value)
{
	return apply(user, section, name, value ? value : "") == 0;
}

/* libinih says nothing of a section without settings, so that its name is checked here. */
static void check_section_line(struct loader *l, const char *text)
{
	char name[64];
	const char *end = strchr(text, ']');

	if (text[0] != '[' || !end || (size_t)(end - text) > sizeof(name))
		return;
	snprintf(name, sizeof(name), "%.*s", (int)(end - text - 1), text + 1);
	if (!known_section(name))
		refuse_section(l, name);
}

/*
 * Reads one line for libinih, as fgets would, but strictly: what libinih would cut, or take for the continuation of the
 * line above (it is indented), is refused or straightened here. NULL ends the file, also after an error.
 */
static char *read_line(char *buf, int size, void *user)
{
	struct loader *l = user;
	int n = 0, c;
	char text[100];

	if (l->result < 0)
		return NULL;
	l->line++;
	while ((c = getc(l->file)) != EOF) {
		if (c == '\0') {
			refuse(l, -EINVAL, "a zero byte: this is no text file");
			return NULL;
		}
		if (n >= size - 1) {
			snprintf(text, sizeof(text), "the line is too long: give at most %d characters", size - 2);
			refuse(l, -EINVAL, text);
			return NULL;
		}
		if (n > 0 || (c != ' ' && c != '\t'))
			buf[n++] = (char)c;
		if (c == '\n')
			break;
	}
	buf[n] = '\0';
	if (l->line == 1 && n >= 3 && memcmp(buf, "\xEF\xBB\xBF", 3) == 0) /* byte order mark that some editors write */
		memmove(buf, buf + 3, (size_t)n - 2);
	check_section_line(l, buf);
	return (n == 0 && c == EOF) || l->result < 0 ? NULL : buf;
}

static FILE *file_close(FILE *f)
{
	if (f)
		fclose(f);
	return NULL;
}

/* −ENOENT is returned without a word: the caller knows whether it matters. */
static int open_file(struct loader *l, const char *path)
{
	struct stat st;
	int r = 0;

	l->file = fopen(path, "re");
	if (!l->file && errno == ENOENT)
		return -ENOENT;
	if (!l->file || fstat(fileno(l->file), &st) < 0)
		r = -errno;
	else if (S_ISDIR(st.st_mode))
		r = -EISDIR;
	if (r < 0) {
		l->file = file_close(l->file);
		return memoc_err_set(l->err, r, "%s: cannot be read: %s", path, strerror(-r));
	}
	return 0;
}

static int load_file(struct loader *l, const char *path)
{
	int r = open_file(l, path), bad_line;

	if (r < 0)
		return r;
	l->path = path;
	l->line = 0;
	memset(l->seen, 0, sizeof(l->seen));
	bad_line = ini_parse_stream(read_line, l, on_pair, l);
	if (l->result == 0 && ferror(l->file))
		l->result = memoc_err_set(l->err, -EIO, "%s: cannot be read to its end", path);
	l->file = file_close(l->file);
	/* libinih reports the first bad line, ours or one that it cannot read at all; the earlier of the two is told.
	 */
	if (bad_line > 0 && (l->result == 0 || bad_line < l->error_line))
		l->result =
			memoc_err_set(l->err, -EINVAL, "%s:%d: neither a [section] nor 'key = value' nor a # comment",
				      path, bad_line);
	else if (bad_line < 0 && l->result == 0)
		l->result = memoc_err_set(l->err, -ENOMEM, "%s: no memory to read it", path);
	l->path = NULL;
	return l->result;
}

static int is_conf(const struct dirent *d)
{
	size_t len = strlen(d->d_name);

	return d->d_name[0] != '.' && len > 5 && strcmp(d->d_name + len - 5, ".conf") == 0;
}

/* By bytes, whatever the locale: the order of the files decides. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int load_directory(struct loader *l, const char *file_path)
{
	struct dirent **list = NULL;
	char dir[4096], path[4096 + 256 + 2];
	int n, r = 0;

	if ((size_t)snprintf(dir, sizeof(dir), "%s.d", file_path) >= sizeof(dir))
		return memoc_err_set(l->err, -ENAMETOOLONG, "%.100s…: the path is too long", file_path);
	n = scandir(dir, &list, is_conf, by_name);
	if (n < 0 && errno != ENOENT && errno != ENOTDIR)
		r = memoc_err_set(l->err, -errno, "%s: cannot be read: %s", dir, strerror(errno));
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, list[i]->d_name);
		free(list[i]);
		if (r == 0)
			r = load_file(l, path);
		if (r == -ENOENT) /* taken away since the directory was read */
			r = 0;
	}
	free(list);
	return r;
}

/* "section.key=value" */
static int load_set(struct loader *l, const char *set)
{
	char text[256], *dot, *equals;

	l->line = 0;
	if (strlen(set) >= sizeof(text))
		return refuse(l, -EINVAL, "the text is too long: give section.key=value");
	strcpy(text, set);
	equals = strchr(text, '=');
	dot = strchr(text, '.');
	if (!equals || !dot || dot > equals) {
		char why[300];

		snprintf(why, sizeof(why), "'%.200s' is not good here: give section.key=value, such as host.pool=8G",
			 set);
		return refuse(l, -EINVAL, why);
	}
	*dot = *equals = '\0';
	return apply(l, text, dot + 1, equals + 1);
}

static const char *source_of(const struct loader *l, size_t offset)
{
	for (size_t i = 0; i < KEYS; i++)
		if (config_keys[i].offset == offset)
			return l->settings[i].source;
	return "?";
}

/* Settings that are good alone but not together. */
static int check_together(struct loader *l)
{
	const struct core_config *c = &l->config.core;

#define SOURCE(member) source_of(l, offsetof(struct config, member))
	if (c->retry_min_ms > c->retry_max_ms)
		return memoc_err_set(l->err, -EINVAL,
				     "[balloon] retry_min (%s) is above retry_max (%s): give a smaller one",
				     SOURCE(core.retry_min_ms), SOURCE(core.retry_max_ms));
	if (c->dwell_ms > c->dwell_max_ms)
		return memoc_err_set(l->err, -EINVAL, "[policy] dwell (%s) is above dwell_max (%s): give a smaller one",
				     SOURCE(core.dwell_ms), SOURCE(core.dwell_max_ms));
	if (c->stale_ms < c->interval_ms)
		return memoc_err_set(l->err, -EINVAL,
				     "[policy] stale (%s) is below interval (%s): no statistics would ever be believed",
				     SOURCE(core.stale_ms), SOURCE(core.interval_ms));
	if (l->config.record_bytes && l->config.record_bytes < RECORD_BYTES_MIN)
		return memoc_err_set(l->err, -EINVAL,
				     "[log] record (%s) is too small to be of use: give 0 (off) or at least 4M",
				     SOURCE(record_bytes));
#undef SOURCE
	return 0;
}

static int load_all(struct loader *l, const char *path, const char *const *sets, size_t n_sets)
{
	const char *main_path = path ? path : DEFAULT_FILE;
	int r = load_file(l, main_path);

	if (r == -ENOENT && path)
		return memoc_err_set(l->err, r, "%s: there is no such file: give the configuration's path", path);
	if (r == 0 || r == -ENOENT)
		r = load_directory(l, main_path);
	for (size_t i = 0; i < n_sets && r == 0; i++)
		r = load_set(l, sets[i]);
	return r == 0 ? check_together(l) : r;
}

int config_load(const char *path, const char *const *sets, size_t n_sets, struct config *ret,
		struct config_setting **ret_settings, size_t *ret_n, struct memoc_err *err)
{
	struct config_setting *settings AUTO_FREE = calloc(KEYS, sizeof(*settings));
	struct loader l = {.config = config_default(), .settings = settings, .err = err};
	int r;

	if (!settings)
		return memoc_err_set(err, -ENOMEM, "no memory for the configuration");
	for (size_t i = 0; i < KEYS; i++) {
		snprintf(settings[i].key, sizeof(settings[i].key), "%s.%s", config_keys[i].section,
			 config_keys[i].name);
		config_key_default(&config_keys[i], settings[i].value);
		strcpy(settings[i].source, "default");
	}
	r = load_all(&l, path, sets, n_sets);
	if (r < 0)
		return r;
	l.config.core.policy = policy_find(l.config.policy_name);
	*ret = l.config;
	if (ret_settings) {
		*ret_settings = TAKE(settings);
		*ret_n = KEYS;
	}
	return 0;
}

/* ---- sizes against this host ---- */

#define RESERVE_LEAST_BYTES (256 * MIB)
#define RESERVE_DIVISOR 20 /* 5 % of RAM */
#define BUFFER_DIVISOR 20  /* 5 % of the pool */

static uint64_t spec_bytes(const struct size_spec *s, uint64_t whole_bytes, uint64_t auto_bytes)
{
	if (s->kind == SIZE_BYTES)
		return s->bytes;
	return s->kind == SIZE_RATIO ? (uint64_t)(s->ratio * (double)whole_bytes) : auto_bytes;
}

static int resolve_pool(const struct config *c, uint64_t ram, uint64_t *ret_pool, uint64_t *ret_reserve,
			struct memoc_err *err)
{
	uint64_t usual = min_u64(max_u64(RESERVE_LEAST_BYTES, ram / RESERVE_DIVISOR), ram / 2);
	uint64_t reserve = spec_bytes(&c->reserve, ram, usual), pool;
	char a[FORMAT_SIZE_LEN], b[FORMAT_SIZE_LEN], d[FORMAT_SIZE_LEN];

	if (reserve >= ram)
		return memoc_err_set(err, -EINVAL, "[host] reserve is %s, but this host has %s of memory: give less",
				     format_size(a, reserve), format_size(b, ram));
	pool = spec_bytes(&c->pool, ram, ram - reserve);
	if (pool == 0)
		return memoc_err_set(err, -EINVAL, "[host] pool is nothing: VMs need some memory");
	if (pool > ram)
		return memoc_err_set(err, -EINVAL, "[host] pool is %s, but this host has %s of memory: give less",
				     format_size(a, pool), format_size(b, ram));
	if (c->reserve.kind == SIZE_AUTO)
		reserve = min_u64(reserve, ram - pool); /* who names the pool has decided what the host keeps */
	if (pool > ram - reserve)
		return memoc_err_set(err, -EINVAL,
				     "[host] pool %s and reserve %s together are more than this host's %s: give less",
				     format_size(a, pool), format_size(b, reserve), format_size(d, ram));
	*ret_pool = pool;
	*ret_reserve = reserve;
	return 0;
}

int config_resolve(struct config *c, uint64_t mem_total_bytes, struct memoc_err *err)
{
	uint64_t pool = 0, reserve = 0, buffer;
	char a[FORMAT_SIZE_LEN], b[FORMAT_SIZE_LEN];
	int r;

	if (mem_total_bytes == 0)
		return memoc_err_set(err, -EINVAL, "this host's memory is not known: is /proc mounted?");
	r = resolve_pool(c, mem_total_bytes, &pool, &reserve, err);
	if (r < 0)
		return r;
	buffer = spec_bytes(&c->buffer, pool, pool / BUFFER_DIVISOR);
	if (buffer > pool / 2)
		return memoc_err_set(err, -EINVAL, "[host] buffer is %s, more than half of the pool of %s: give less",
				     format_size(a, buffer), format_size(b, pool));
	c->core.pool_bytes = pool;
	c->core.reserve_bytes = reserve;
	c->core.buffer_bytes = buffer;
	c->core.buffer_auto = c->buffer.kind == SIZE_AUTO;
	return 0;
}
