/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/parse.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/text.h"

/* Fraction digits that are exact in 128 bits times the greatest unit: 10^18 × 2^60 < 2^128. */
#define FRACTION_DIGITS_MAX 18

/* A decimal number in front of a unit: whole + fraction / scale. */
struct decimal {
	uint64_t whole;
	uint64_t fraction, scale; /* scale: a power of ten; 1 where no '.' was written */
	bool has_point;
};

struct unit {
	const char *name;
	uint64_t factor;
};

static const char *shown(const char *text)
{
	return text ? text : "(nothing)";
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static int bad(struct memoc_err *err, const char *text, const char *form)
{
	return memoc_err_set(err, -EINVAL, "'%s' is not good here: give %s", shown(text), form);
}

static int too_great(struct memoc_err *err, const char *text, const char *form)
{
	return memoc_err_set(err, -ERANGE, "'%s' is out of range: give %s", shown(text), form);
}

/* Reads digits from *pos. −EINVAL where there are none, −ERANGE beyond 64 bits. */
static int take_digits(const char **pos, uint64_t *ret)
{
	const char *p = *pos;
	uint64_t v = 0;

	if (!is_digit(*p))
		return -EINVAL;
	for (; is_digit(*p); p++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return -ERANGE;
	*pos = p;
	*ret = v;
	return 0;
}

/* DIGITS[.DIGITS]; *ret_rest is what follows. */
static int take_decimal(const char *text, struct decimal *ret, const char **ret_rest)
{
	struct decimal d = {.scale = 1};
	int r = take_digits(&text, &d.whole);

	if (r < 0)
		return r;
	if (*text == '.') {
		const char *from = ++text;

		d.has_point = true;
		for (; is_digit(*text) && text - from < FRACTION_DIGITS_MAX; text++) {
			d.fraction = d.fraction * 10 + (uint64_t)(*text - '0');
			d.scale *= 10;
		}
		if (text == from || is_digit(*text))
			return -EINVAL;
	}
	*ret = d;
	*ret_rest = text;
	return 0;
}

/* d × factor rounded down; false where it does not fit 64 bits. */
static bool decimal_times(const struct decimal *d, uint64_t factor, uint64_t *ret)
{
	unsigned __int128 v = (unsigned __int128)d->whole * factor;

	v += (unsigned __int128)d->fraction * factor / d->scale;
	if (v > UINT64_MAX)
		return false;
	*ret = (uint64_t)v;
	return true;
}

int parse_u64(const char *text, uint64_t *ret, struct memoc_err *err)
{
	static const char form[] = "a whole number of 0 to 18446744073709551615, digits only";
	const char *pos = text;
	uint64_t v = 0;
	int r = text ? take_digits(&pos, &v) : -EINVAL;

	if (r == -ERANGE)
		return too_great(err, text, form);
	if (r < 0 || *pos)
		return bad(err, text, form);
	*ret = v;
	return 0;
}

int parse_double(const char *text, double *ret, struct memoc_err *err)
{
	static const char form[] = "a number such as 12, -3 or 0.25";
	const char *p = text ? text : "";
	double v;

	if (*p == '-')
		p++;
	if (!is_digit(*p))
		return bad(err, text, form);
	while (is_digit(*p))
		p++;
	if (*p == '.') {
		if (!is_digit(*++p))
			return bad(err, text, form);
		while (is_digit(*p))
			p++;
	}
	if (*p)
		return bad(err, text, form);
	v = text_to_double(text);
	if (!isfinite(v))
		return too_great(err, text, form);
	*ret = v;
	return 0;
}

int parse_bool(const char *text, bool *ret, struct memoc_err *err)
{
	static const struct {
		const char *name;
		bool value;
	} words[] = {
		{"yes", true}, {"no", false},  {"true", true}, {"false", false},
		{"on", true},  {"off", false}, {"1", true},    {"0", false},
	};

	for (size_t i = 0; text && i < ARRAY_SIZE(words); i++) {
		if (strcmp(text, words[i].name) == 0) {
			*ret = words[i].value;
			return 0;
		}
	}
	return bad(err, text, "yes or no (or true, false, on, off, 1, 0)");
}

/* "" is 1; otherwise one letter, optionally followed by "iB" or "B". 0 where it is no such unit. */
static uint64_t size_factor(const char *suffix)
{
	static const char letters[] = "KMGTPE";
	const char *letter;
	char upper = (char)(*suffix & ~0x20);

	if (!*suffix)
		return 1;
	letter = strchr(letters, upper);
	/* The mask maps some signs onto letters: only true letters count. */
	if (!letter || !*letter || !((*suffix >= 'A' && *suffix <= 'Z') || (*suffix >= 'a' && *suffix <= 'z')))
		return 0;
	suffix++;
	if (*suffix == 'i' || *suffix == 'I') {
		if (suffix[1] != 'B' && suffix[1] != 'b')
			return 0;
		suffix++;
	}
	if (*suffix == 'B' || *suffix == 'b')
		suffix++;
	return *suffix ? 0 : UINT64_C(1) << (10 * (letter - letters + 1));
}

int parse_size_bytes(const char *text, uint64_t *ret_bytes, struct memoc_err *err)
{
	static const char form[] = "a size such as 512M, 1.5G or plain bytes, below 16E";
	struct decimal d;
	const char *rest = "";
	uint64_t factor, bytes;
	int r = text ? take_decimal(text, &d, &rest) : -EINVAL;

	if (r == -ERANGE)
		return too_great(err, text, form);
	factor = r < 0 ? 0 : size_factor(rest);
	if (factor == 0 || (factor == 1 && d.has_point))
		return bad(err, text, form);
	if (!decimal_times(&d, factor, &bytes))
		return too_great(err, text, form);
	*ret_bytes = bytes;
	return 0;
}

int parse_percent(const char *text, double *ret_ratio, struct memoc_err *err)
{
	static const char form[] = "a share of 0% to 100%, such as 10% or 2.5%";
	struct decimal d;
	const char *rest = "";
	int r = text ? take_decimal(text, &d, &rest) : -EINVAL;

	if (r == -ERANGE)
		return too_great(err, text, form);
	if (r < 0 || strcmp(rest, "%") != 0)
		return bad(err, text, form);
	if (d.whole > 100 || (d.whole == 100 && d.fraction > 0))
		return too_great(err, text, form);
	*ret_ratio = ((double)d.whole + (double)d.fraction / (double)d.scale) / 100;
	return 0;
}

int parse_duration_ms(const char *text, uint64_t *ret_ms, struct memoc_err *err)
{
	static const char form[] = "a time with its unit, such as 250ms, 1.5s, 2m or 1h";
	static const struct unit units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
	struct decimal d;
	const char *rest = "";
	uint64_t ms;
	int r = text ? take_decimal(text, &d, &rest) : -EINVAL;

	if (r == -ERANGE)
		return too_great(err, text, form);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(units); i++) {
		if (strcmp(rest, units[i].name) != 0)
			continue;
		if (!decimal_times(&d, units[i].factor, &ms))
			return too_great(err, text, form);
		*ret_ms = ms;
		return 0;
	}
	return bad(err, text, form);
}

int parse_size_spec(const char *text, bool allow_auto, bool allow_percent, struct size_spec *ret, struct memoc_err *err)
{
	struct size_spec spec = {0};
	struct memoc_err why = {0};
	size_t len = text ? strlen(text) : 0;
	int r;

	if (allow_auto && len > 0 && strcmp(text, "auto") == 0) {
		spec.kind = SIZE_AUTO;
		r = 0;
	} else if (allow_percent && len > 0 && text[len - 1] == '%') {
		spec.kind = SIZE_RATIO;
		r = parse_percent(text, &spec.ratio, &why);
	} else {
		spec.kind = SIZE_BYTES;
		r = parse_size_bytes(text, &spec.bytes, &why);
	}
	if (r < 0)
		return memoc_err_set(err, r, "%s%s%s", why.text, allow_auto ? ", or auto" : "",
				     allow_percent && spec.kind == SIZE_BYTES ? ", or a share such as 10%" : "");
	*ret = spec;
	return 0;
}

int parse_uuid(const char *text, char ret[UUID_TEXT_LEN + 1], struct memoc_err *err)
{
	char out[UUID_TEXT_LEN + 1] = {0};
	bool good = text && strlen(text) == UUID_TEXT_LEN;

	for (size_t i = 0; good && i < UUID_TEXT_LEN; i++) {
		char c = text[i];

		if (i == 8 || i == 13 || i == 18 || i == 23)
			good = c == '-';
		else if (c >= 'A' && c <= 'F')
			c = (char)(c - 'A' + 'a');
		else
			good = is_digit(c) || (c >= 'a' && c <= 'f');
		out[i] = c;
	}
	if (!good)
		return bad(err, text, "a UUID such as 1b4e28ba-2fa1-41d2-883f-b9a761bde3fb");
	memcpy(ret, out, sizeof(out));
	return 0;
}

/* Three significant digits of v × 1000 thousandths without a locale's decimal sign or trailing zeros. */
static void format_3_digits(char *buf, size_t size, uint64_t milli)
{
	uint64_t step = milli < 10000 ? 10 : milli < 100000 ? 100 : 1000;
	uint64_t rounded = (milli + step / 2) / step * step;
	unsigned long long whole = rounded / 1000;
	unsigned part = (unsigned)(rounded % 1000);

	if (part == 0)
		snprintf(buf, size, "%llu", whole);
	else if (part % 100 == 0)
		snprintf(buf, size, "%llu.%u", whole, part / 100);
	else
		snprintf(buf, size, "%llu.%02u", whole, part / 10);
}

const char *format_size(char buf[FORMAT_SIZE_LEN], uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	size_t u = 0;
	char digits[24];
	uint64_t milli = bytes;

	while (u + 1 < ARRAY_SIZE(units) && bytes >> (10 * u) >= 1024)
		u++;
	milli = u == 0 ? bytes * 1000 : mul_div_u64(bytes, 1000, UINT64_C(1) << (10 * u));
	/* 1023.6 KiB would round to 1024 KiB: the next unit says it better. */
	if (milli >= 1023500 && u + 1 < ARRAY_SIZE(units))
		milli = mul_div_u64(bytes, 1000, UINT64_C(1) << (10 * ++u));
	format_3_digits(digits, sizeof(digits), milli);
	snprintf(buf, FORMAT_SIZE_LEN, "%s %s", digits, units[u]);
	return buf;
}

const char *format_duration(char buf[FORMAT_SIZE_LEN], uint64_t ms)
{
	static const struct unit units[] = {{"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}, {"d", 86400000}};
	/* Up to two of a unit are still said in the one below ("90 s"), so that a short time stays exact. */
	size_t u = ms < 100 ? 0 : ms < 120000 ? 1 : ms < 7200000 ? 2 : ms < 172800000 ? 3 : 4;
	char digits[24];

	format_3_digits(digits, sizeof(digits), mul_div_u64(ms, 1000, units[u].factor));
	snprintf(buf, FORMAT_SIZE_LEN, "%s %s", digits, units[u].name);
	return buf;
}

const char *format_rfc3339(char buf[FORMAT_TIME_LEN], uint64_t realtime_ms)
{
	/* The form has four digits for the year; a clock beyond that is shown as the last instant of it. */
	uint64_t ms = min_u64(realtime_ms, UINT64_C(253402300799999));
	time_t s = (time_t)(ms / 1000);
	struct tm tm;
	char date[24];

	gmtime_r(&s, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf, FORMAT_TIME_LEN, "%s.%03uZ", date, (unsigned)(ms % 1000));
	return buf;
}

const char *enum_to_name(const struct enum_name *table, int value)
{
	for (; table->name; table++)
		if (table->value == value)
			return table->name;
	return "?";
}

int enum_from_name(const struct enum_name *table, const char *name, int *ret, struct memoc_err *err)
{
	char names[256] = "";
	size_t used = 0;

	for (const struct enum_name *e = table; e->name; e++) {
		if (name && strcmp(name, e->name) == 0) {
			*ret = e->value;
			return 0;
		}
		used = text_add(names, sizeof(names), used, "%s%s", used ? ", " : "", e->name);
	}
	return memoc_err_set(err, -EINVAL, "'%s' is not known: give one of %s", shown(name), names);
}
