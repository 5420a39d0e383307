/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Strict numbers: each accepted form, its neighbours that are refused, and the ends of the range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/parse.h"

/* What every parser must refuse. */
static const char *const nonsense[] = {"",     " ",    "+1",	    "--1", "0x10", "1 ",  " 1",	   "1\n", "one",
				       "1,5G", "1..5", ".",	    "-",   "1.",   ".5",  "1e3",   "nan", "inf",
				       "\xff", "½",    "1\xc2\xa0", "%",   "G",	   "1.G", "1.5.5G"};

static void assert_refused(const char *text, int r, int code, const struct memoc_err *err)
{
	if (r != code)
		print_error("'%s' gave %d instead of %d\n", text ? text : "NULL", r, code);
	assert_int_equal(r, code);
	assert_true(strlen(err->text) > 10);
}

static void test_nonsense(void **state)
{
	uint64_t u = 77;
	double d = 77;
	bool b = true;

	for (size_t i = 0; i <= ARRAY_SIZE(nonsense); i++) {
		const char *t = i < ARRAY_SIZE(nonsense) ? nonsense[i] : NULL;
		struct size_spec spec = {.kind = SIZE_RATIO};
		struct memoc_err err = {0};

		assert_refused(t, parse_u64(t, &u, &err), -EINVAL, &err);
		assert_refused(t, parse_double(t, &d, &err), -EINVAL, &err);
		assert_refused(t, parse_bool(t, &b, &err), -EINVAL, &err);
		assert_refused(t, parse_size_bytes(t, &u, &err), -EINVAL, &err);
		assert_refused(t, parse_percent(t, &d, &err), -EINVAL, &err);
		assert_refused(t, parse_duration_ms(t, &u, &err), -EINVAL, &err);
		assert_refused(t, parse_size_spec(t, true, true, &spec, &err), -EINVAL, &err);
		assert_int_equal(spec.kind, SIZE_RATIO);
	}
	assert_true(u == 77 && d == 77 && b);
}

static void test_u64(void **state)
{
	struct memoc_err err = {0};
	uint64_t v = 5;

	assert_int_equal(parse_u64("0", &v, &err), 0);
	assert_true(v == 0);
	assert_int_equal(parse_u64("18446744073709551615", &v, &err), 0);
	assert_true(v == UINT64_MAX);
	assert_int_equal(parse_u64("007", &v, &err), 0);
	assert_true(v == 7);
	assert_refused("2^64", parse_u64("18446744073709551616", &v, &err), -ERANGE, &err);
	assert_non_null(strstr(err.text, "18446744073709551616"));
	assert_refused("long", parse_u64("99999999999999999999999999999999999999", &v, &err), -ERANGE, &err);
	assert_refused("-1", parse_u64("-1", &v, &err), -EINVAL, &err);
	assert_refused("1.5", parse_u64("1.5", &v, &err), -EINVAL, &err);
	assert_true(v == 7);
}

static void test_double(void **state)
{
	static const struct {
		const char *text;
		double v;
	} t[] = {{"0", 0}, {"12", 12}, {"-3", -3}, {"0.25", 0.25}, {"-0.5", -0.5}, {"123456789.125", 123456789.125}};
	struct memoc_err err = {0};
	char many[401];
	double v;

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		assert_int_equal(parse_double(t[i].text, &v, &err), 0);
		assert_true(v == t[i].v);
	}
	memset(many, '9', sizeof(many) - 1);
	many[sizeof(many) - 1] = 0;
	assert_refused("10^400", parse_double(many, &v, &err), -ERANGE, &err);
}

static void test_bool(void **state)
{
	static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false", "off", "0"};
	struct memoc_err err = {0};
	bool v;

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		v = false;
		assert_int_equal(parse_bool(yes[i], &v, &err), 0);
		assert_true(v);
		assert_int_equal(parse_bool(no[i], &v, &err), 0);
		assert_false(v);
	}
	assert_refused("Yes", parse_bool("Yes", &v, &err), -EINVAL, &err);
	assert_refused("yes ", parse_bool("yes ", &v, &err), -EINVAL, &err);
	assert_refused("2", parse_bool("2", &v, &err), -EINVAL, &err);
}

static void test_size(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} t[] = {
		{"0", 0},
		{"100", 100},
		{"1K", KIB},
		{"1k", KIB},
		{"512M", 512 * MIB},
		{"512MiB", 512 * MIB},
		{"512mb", 512 * MIB},
		{"1.5G", GIB + GIB / 2},
		{"1.5GB", GIB + GIB / 2},
		{"2T", 2048 * GIB},
		{"1P", GIB << 20},
		{"15E", UINT64_C(15) << 60},
		{"15.999E", UINT64_C(18445591152204944769)},
		{"0.0001K", 0},
		{"0.5K", 512},
		{"1.000000000000000001E", (UINT64_C(1) << 60) + 1},
		{"18446744073709551615", UINT64_MAX},
		{"17179869183.999999999G", UINT64_MAX - 1},
	};
	static const char *const great[] = {"16E", "18446744073709551616", "17179869184G", "18014398509481984K",
					    "99999999999999999999G"};
	static const char *const bad[] = {"1.5",   "1B",  "1iB",   "1GG",	"1Gi",
					  "1Gib ", "1BB", "1KiBs", "1%",	"1+",
					  "1 G",   "-1G", "1\x0b", "1\x67\x69", "1.0000000000000000001E",
					  "auto",  "1m1", "1[",	   "1{",	"1K\xc3\xa9"};
	struct memoc_err err = {0};
	uint64_t v = 0;

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		int r = parse_size_bytes(t[i].text, &v, &err);

		if (r != 0 || v != t[i].bytes)
			print_error("%s: %d, %llu: %s\n", t[i].text, r, (unsigned long long)v, err.text);
		assert_true(r == 0 && v == t[i].bytes);
	}
	v = 7;
	for (size_t i = 0; i < ARRAY_SIZE(great); i++)
		assert_refused(great[i], parse_size_bytes(great[i], &v, &err), -ERANGE, &err);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_refused(bad[i], parse_size_bytes(bad[i], &v, &err), -EINVAL, &err);
	assert_true(v == 7);
}

/* No byte but the twelve letters is a unit: the case fold must not let signs in. */
static void test_size_every_suffix(void **state)
{
	for (int c = 1; c < 256; c++) {
		char text[3] = {'1', (char)c, 0};
		uint64_t v;
		bool digit = c >= '0' && c <= '9';

		assert_int_equal(parse_size_bytes(text, &v, NULL), digit || strchr("KMGTPEkmgtpe", c) ? 0 : -EINVAL);
	}
}

static void test_percent(void **state)
{
	struct memoc_err err = {0};
	double v = 9;

	assert_int_equal(parse_percent("10%", &v, &err), 0);
	assert_true(fabs(v - 0.1) < 1e-15);
	assert_int_equal(parse_percent("2.5%", &v, &err), 0);
	assert_true(fabs(v - 0.025) < 1e-15);
	assert_int_equal(parse_percent("0%", &v, &err), 0);
	assert_true(v == 0);
	assert_int_equal(parse_percent("100.0%", &v, &err), 0);
	assert_true(v == 1);
	assert_refused("100.1%", parse_percent("100.1%", &v, &err), -ERANGE, &err);
	assert_refused("101%", parse_percent("101%", &v, &err), -ERANGE, &err);
	assert_refused("10", parse_percent("10", &v, &err), -EINVAL, &err);
	assert_refused("-1%", parse_percent("-1%", &v, &err), -EINVAL, &err);
	assert_refused("1%%", parse_percent("1%%", &v, &err), -EINVAL, &err);
	assert_true(v == 1);
}

static void test_duration(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms;
	} t[] = {{"250ms", 250},    {"1s", 1000}, {"0.5s", 500}, {"2m", 120000},
		 {"1.5h", 5400000}, {"0s", 0},	  {"0.0009s", 0}};
	struct memoc_err err = {0};
	uint64_t v = 0;

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		assert_int_equal(parse_duration_ms(t[i].text, &v, &err), 0);
		assert_true(v == t[i].ms);
	}
	assert_refused("5", parse_duration_ms("5", &v, &err), -EINVAL, &err);
	assert_non_null(strstr(err.text, "unit"));
	assert_refused("1S", parse_duration_ms("1S", &v, &err), -EINVAL, &err);
	assert_refused("1d", parse_duration_ms("1d", &v, &err), -EINVAL, &err);
	assert_refused("1 s", parse_duration_ms("1 s", &v, &err), -EINVAL, &err);
	assert_refused("great", parse_duration_ms("18446744073709551615h", &v, &err), -ERANGE, &err);
}

static void test_size_spec(void **state)
{
	struct memoc_err err = {0};
	struct size_spec s;

	assert_int_equal(parse_size_spec("auto", true, false, &s, &err), 0);
	assert_int_equal(s.kind, SIZE_AUTO);
	assert_int_equal(parse_size_spec("5%", false, true, &s, &err), 0);
	assert_int_equal(s.kind, SIZE_RATIO);
	assert_true(fabs(s.ratio - 0.05) < 1e-15);
	assert_int_equal(parse_size_spec("1G", false, false, &s, &err), 0);
	assert_true(s.kind == SIZE_BYTES && s.bytes == GIB);
	assert_refused("auto", parse_size_spec("auto", false, true, &s, &err), -EINVAL, &err);
	assert_null(strstr(err.text, "or auto"));
	assert_refused("5%", parse_size_spec("5%", true, false, &s, &err), -EINVAL, &err);
	assert_non_null(strstr(err.text, "or auto"));
	assert_refused("120%", parse_size_spec("120%", true, true, &s, &err), -ERANGE, &err);
	assert_refused("x", parse_size_spec("x", true, true, &s, &err), -EINVAL, &err);
	assert_non_null(strstr(err.text, "10%"));
	assert_true(s.kind == SIZE_BYTES && s.bytes == GIB);
}

static void test_uuid(void **state)
{
	static const char *const bad[] = {"",
					  "1b4e28ba",
					  "1b4e28ba-2fa1-41d2-883f-b9a761bde3fg",
					  "1b4e28ba2fa1-41d2-883f-b9a761bde3fbb",
					  "1b4e28ba-2fa1-41d2-883f-b9a761bde3fb ",
					  "-b4e28ba-2fa1-41d2-883f-b9a761bde3fb",
					  "1b4e28ba-2fa1-41d2-883f-b9a761bde3f",
					  "{b4e28ba-2fa1-41d2-883f-b9a761bde3f}",
					  NULL};
	char out[UUID_TEXT_LEN + 1] = "kept";
	struct memoc_err err = {0};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_refused(bad[i], parse_uuid(bad[i], out, &err), -EINVAL, &err);
	assert_string_equal(out, "kept");
	assert_int_equal(parse_uuid("1B4E28BA-2fa1-41D2-883f-B9A761BDE3FB", out, &err), 0);
	assert_string_equal(out, "1b4e28ba-2fa1-41d2-883f-b9a761bde3fb");
}

static void test_format_size(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} t[] = {
		{0, "0 B"},
		{1, "1 B"},
		{1023, "1023 B"},
		{KIB, "1 KiB"},
		{1536, "1.5 KiB"},
		{512 * MIB, "512 MiB"},
		{GIB + GIB / 2, "1.5 GiB"},
		{GIB + GIB / 4, "1.25 GiB"},
		{MIB - 1, "1 MiB"},
		{GIB - 1, "1 GiB"},
		{1000 * MIB, "1000 MiB"},
		{10 * MIB + 52 * KIB, "10.1 MiB"},
		{UINT64_MAX, "16 EiB"},
		{GIB << 20, "1 PiB"},
		{1100 * KIB, "1.07 MiB"},
	};
	char buf[FORMAT_SIZE_LEN];

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		assert_string_equal(format_size(buf, t[i].bytes), t[i].text);
}

static void test_format_duration(void **state)
{
	static const struct {
		uint64_t ms;
		const char *text;
	} t[] = {
		{0, "0 ms"},
		{99, "99 ms"},
		{250, "0.25 s"},
		{1000, "1 s"},
		{12000, "12 s"},
		{12345, "12.3 s"},
		{90000, "90 s"},
		{180000, "3 min"},
		{119999, "120 s"},
		{5400000, "90 min"},
		{7200000, "2 h"},
		{86400000, "24 h"},
		{UINT64_C(5) * 86400000, "5 d"},
		{UINT64_C(4000) * 86400000, "4000 d"},
		{UINT64_MAX, "213503982335 d"},
	};
	char buf[FORMAT_SIZE_LEN];

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		assert_string_equal(format_duration(buf, t[i].ms), t[i].text);
}

static void test_format_time(void **state)
{
	char buf[FORMAT_TIME_LEN];

	assert_string_equal(format_rfc3339(buf, 0), "1970-01-01T00:00:00.000Z");
	assert_string_equal(format_rfc3339(buf, UINT64_C(1795378525123)), "2026-11-22T20:15:25.123Z");
	assert_string_equal(format_rfc3339(buf, UINT64_MAX), "9999-12-31T23:59:59.999Z");
}

static void test_enum(void **state)
{
	static const struct enum_name t[] = {{1, "one"}, {2, "two"}, {0, NULL}};
	struct memoc_err err = {0};
	int v = 9;

	assert_string_equal(enum_to_name(t, 2), "two");
	assert_string_equal(enum_to_name(t, 0), "?");
	assert_string_equal(enum_to_name(t, 3), "?");
	assert_int_equal(enum_from_name(t, "three", &v, &err), -EINVAL);
	assert_non_null(strstr(err.text, "one, two"));
	assert_non_null(strstr(err.text, "three"));
	assert_int_equal(enum_from_name(t, NULL, &v, &err), -EINVAL);
	assert_int_equal(v, 9);
	assert_int_equal(enum_from_name(t, "two", &v, &err), 0);
	assert_int_equal(v, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nonsense),    cmocka_unit_test(test_u64),
		cmocka_unit_test(test_double),	    cmocka_unit_test(test_bool),
		cmocka_unit_test(test_size),	    cmocka_unit_test(test_size_every_suffix),
		cmocka_unit_test(test_percent),	    cmocka_unit_test(test_duration),
		cmocka_unit_test(test_size_spec),   cmocka_unit_test(test_uuid),
		cmocka_unit_test(test_format_size), cmocka_unit_test(test_format_duration),
		cmocka_unit_test(test_format_time), cmocka_unit_test(test_enum),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
