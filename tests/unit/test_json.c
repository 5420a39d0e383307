/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON: good texts read and written back, hostile ones refused within their limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/json.h"

static struct json *parse_good(const char *text)
{
	struct memoc_err err = {0};
	struct json *j = NULL;
	int r = json_parse(text, strlen(text), NULL, &j, &err);

	if (r < 0)
		print_error("%s: %s\n", text, err.text);
	assert_int_equal(r, 0);
	return j;
}

static void refused_len(const char *text, size_t len, const struct json_limits *limits, int code, const char *why)
{
	static struct json *const untouched = (struct json *)&untouched;
	struct json *j = untouched;
	struct memoc_err err = {0};
	int r = json_parse(text, len, limits, &j, &err);

	if (r != code || !strstr(err.text, why))
		print_error("%.60s: %d, %s (wanted %d, %s)\n", text, r, err.text, code, why);
	assert_int_equal(r, code);
	assert_ptr_equal(j, untouched);
	assert_non_null(strstr(err.text, why));
}

static void refused(const char *text, const char *why)
{
	refused_len(text, strlen(text), NULL, -EINVAL, why);
}

static void test_types(void **state)
{
	struct json *j AUTO_JSON = parse_good(
		" {\"n\":null,\"t\":true,\"f\":false,\"i\":-5,\"d\":2.5,\"s\":\"x\",\"a\":[1,[2]],\"o\":{}} ");
	const char *s = NULL;
	bool b = false;
	int64_t i = 0;
	double d = 0;

	assert_int_equal(json_type(j), JSON_OBJECT);
	assert_int_equal(json_len(j), 8);
	assert_int_equal(json_type(json_get(j, "n")), JSON_NULL);
	assert_int_equal(json_get_bool(j, "t", &b), 0);
	assert_true(b);
	assert_int_equal(json_get_bool(j, "f", &b), 0);
	assert_false(b);
	assert_int_equal(json_get_i64(j, "i", &i), 0);
	assert_true(i == -5);
	assert_int_equal(json_get_double(j, "d", &d), 0);
	assert_true(d == 2.5);
	assert_int_equal(json_get_double(j, "i", &d), 0);
	assert_true(d == -5);
	assert_int_equal(json_get_str(j, "s", &s), 0);
	assert_string_equal(s, "x");
	assert_int_equal(json_len(json_get(j, "a")), 2);
	assert_int_equal(json_type(json_at(json_get(j, "a"), 1)), JSON_ARRAY);
	assert_int_equal(json_type(json_get(j, "o")), JSON_OBJECT);
	assert_string_equal(json_key_at(j, 6), "a");
}

static void test_absent_and_wrong(void **state)
{
	struct json *j AUTO_JSON = parse_good("{\"n\":null,\"s\":\"x\",\"i\":1,\"d\":1.0,\"m\":-1}");
	const char *s = "kept";
	uint64_t u = 7;
	int64_t i = 7;
	double d = 7;
	bool b = true;

	assert_int_equal(json_get_str(j, "n", &s), -ENOENT);
	assert_int_equal(json_get_u64(j, "zz", &u), -ENOENT);
	assert_int_equal(json_get_str(j, "i", &s), -EINVAL);
	assert_int_equal(json_get_u64(j, "s", &u), -EINVAL);
	assert_int_equal(json_get_u64(j, "d", &u), -EINVAL);
	assert_int_equal(json_get_u64(j, "m", &u), -EINVAL);
	assert_int_equal(json_get_i64(j, "s", &i), -EINVAL);
	assert_int_equal(json_get_double(j, "s", &d), -EINVAL);
	assert_int_equal(json_get_bool(j, "i", &b), -EINVAL);
	assert_true(u == 7 && i == 7 && d == 7 && b);
	assert_string_equal(s, "kept");
	assert_null(json_get(NULL, "x"));
	assert_null(json_get(json_get(j, "s"), "x"));
	assert_null(json_at(j, 5));
	assert_null(json_key_at(j, 5));
	assert_int_equal(json_type(NULL), JSON_NULL);
	assert_int_equal(json_len(NULL), 0);
	assert_null(json_free(NULL));
}

static void test_integers(void **state)
{
	struct json *j AUTO_JSON =
		parse_good("[0,-0,9223372036854775807,9223372036854775808,18446744073709551615,"
			   "18446744073709551616,-9223372036854775808,-9223372036854775809,1e3,5.0]");
	uint64_t u;
	int64_t i;
	double d;

	assert_int_equal(json_u64(json_at(j, 0), &u), 0);
	assert_true(u == 0);
	assert_int_equal(json_u64(json_at(j, 1), &u), 0);
	assert_true(u == 0);
	assert_int_equal(json_i64(json_at(j, 2), &i), 0);
	assert_true(i == INT64_MAX);
	assert_int_equal(json_i64(json_at(j, 3), &i), -EINVAL);
	assert_int_equal(json_u64(json_at(j, 3), &u), 0);
	assert_true(u == UINT64_C(1) << 63);
	assert_int_equal(json_u64(json_at(j, 4), &u), 0);
	assert_true(u == UINT64_MAX);
	assert_int_equal(json_u64(json_at(j, 5), &u), -EINVAL);
	assert_int_equal(json_double(json_at(j, 5), &d), 0);
	assert_true(d == 18446744073709551616.0);
	assert_int_equal(json_i64(json_at(j, 6), &i), 0);
	assert_true(i == INT64_MIN);
	assert_int_equal(json_i64(json_at(j, 7), &i), -EINVAL);
	assert_int_equal(json_type(json_at(j, 7)), JSON_DOUBLE);
	assert_int_equal(json_type(json_at(j, 8)), JSON_DOUBLE);
	assert_int_equal(json_u64(json_at(j, 9), &u), -EINVAL);
}

/* Every beginning of a good text is an error, and none reads beyond its end. */
static void test_truncated(void **state)
{
	static const char text[] = "{\"a\":[1,-2.5e3,\"x\\u00e9\\n\",{\"b\":null}],\"c\":true}";

	for (size_t len = 0; len < sizeof(text) - 1; len++) {
		char *copy = malloc(len ? len : 1);

		memcpy(copy, text, len);
		refused_len(copy, len, NULL, -EINVAL, "JSON");
		free(copy);
	}
}

static void test_syntax(void **state)
{
	static const char *const bad[] = {
		"",	   "  ",      "{",	   "}",	     "[1,]",   "{\"a\"}",   "{\"a\":}",	     "{a:1}",
		"{'a':1}", "[1 2]",   "1 2",	   "{} {}",  "nul",    "NaN",	    "Infinity",	     "+1",
		"01",	   "-",	      "1.",	   ".5",     "1e",     "0x10",	    "// c\n1",	     "/* c */1",
		"\"a",	   "\"\\x\"", "\"\\u12\"", "\"\n\"", "\"\t\"", "[\"a\":1]", "\xef\xbb\xbf{}"};
	static const char nul_outside[] = "[1\0]", nul_inside[] = "\"a\0b\"", nul_after[] = "{}\0";

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refused(bad[i], "JSON");
	refused_len(nul_outside, sizeof(nul_outside) - 1, NULL, -EINVAL, "JSON");
	refused_len(nul_inside, sizeof(nul_inside) - 1, NULL, -EINVAL, "JSON");
	refused_len(nul_after, sizeof(nul_after) - 1, NULL, -EINVAL, "JSON");
	refused("{\"a\":1,\"b\":x}", "byte 1");
}

static void test_strings(void **state)
{
	struct json *j AUTO_JSON =
		parse_good("[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\",\"\\u00e9\\ud83d\\udc18\",\"\xc3\xa9\",\"\"]");
	const char *s;

	assert_int_equal(json_str(json_at(j, 0), &s), 0);
	assert_string_equal(s, "\"\\/\b\f\n\r\t");
	assert_int_equal(json_str(json_at(j, 1), &s), 0);
	assert_string_equal(s, "\xc3\xa9\xf0\x9f\x90\x98");
	assert_int_equal(json_str(json_at(j, 2), &s), 0);
	assert_string_equal(s, "\xc3\xa9");
	assert_int_equal(json_str(json_at(j, 3), &s), 0);
	assert_string_equal(s, "");
	/* A string of C would end there: "root\0evil" must not pass for "root". */
	refused("\"root\\u0000evil\"", "u0000");
	refused("{\"root\\u0000evil\":1}", "u0000");
	refused("[\"\xff\"]", "UTF-8");
	refused("[\"\xc0\x80\"]", "UTF-8");
	refused("[\"\xed\xa0\x80\"]", "UTF-8");
	refused("[\"\xe2\x82\"]", "UTF-8");
	refused("\xff", "UTF-8");
	refused("\"\\udc18\"", "UTF-8");
}

static void test_duplicate_keys(void **state)
{
	static const struct json_limits limits = {.bytes = 1 << 20, .depth = 2, .nodes = 100000};
	struct json *j AUTO_JSON = parse_good("{\"a\":{\"a\":1},\"b\":{\"a\":1}}");
	struct json *many = NULL;
	char *text = malloc(1 << 20);
	size_t used = 1;

	assert_int_equal(json_len(j), 2);
	refused("{\"a\":1,\"a\":2}", "'a' is twice");
	refused("{\"a\":1,\"b\":3,\"\\u0061\":2}", "twice");
	refused("[{\"x\":{\"k\":1,\"l\":1,\"k\":1}}]", "twice");
	/* 40,000 names: only a sort is quick enough to go unnoticed here. */
	text[0] = '{';
	for (int i = 0; i < 40000; i++)
		used += (size_t)sprintf(text + used, "\"k%d\":1,", i);
	text[used - 1] = '}';
	assert_int_equal(json_parse(text, used, &limits, &many, NULL), 0);
	assert_int_equal(json_len(many), 40000);
	json_free(many);
	snprintf(text + used - 1, 20, ",\"k7\":1}");
	refused_len(text, strlen(text), &limits, -EINVAL, "'k7' is twice");
	free(text);
}

static void test_limit_depth(void **state)
{
	static const struct json_limits three = {.bytes = 1000, .depth = 3, .nodes = 1000};
	struct json *j = NULL;
	char *deep = malloc(1000000);

	assert_int_equal(json_parse("[[[1]],{\"a\":[]}]", 16, &three, &j, NULL), 0);
	json_free(j);
	refused_len("[[[[1]]]]", 9, &three, -E2BIG, "deeper than 3");
	refused_len("[[{\"a\":{}}]]", 12, &three, -E2BIG, "deeper than 3");
	memset(deep, '[', 1000000);
	refused_len(deep, 1000000, NULL, -E2BIG, "deeper than 32");
	for (size_t i = 0; i < 999995; i++)
		deep[i] = "{\"a\":"[i % 5];
	refused_len(deep, 999995, NULL, -E2BIG, "deeper than 32");
	free(deep);
}

static void test_limit_nodes_and_bytes(void **state)
{
	static const struct json_limits five = {.bytes = 20, .depth = 3, .nodes = 5};
	struct json *j = NULL;
	char *wide = malloc(200002);

	assert_int_equal(json_parse("[1,2,3,4]", 9, &five, &j, NULL), 0);
	json_free(j);
	refused_len("[1,2,3,4,5]", 11, &five, -E2BIG, "more than 5");
	assert_int_equal(json_parse("{\"a\":1,\"b\":2}", 13, &five, &j, NULL), 0);
	json_free(j);
	refused_len("{\"a\":1,\"b\":[]} ", 15, &(struct json_limits){100, 3, 4}, -E2BIG, "more than 4");
	refused_len("{\"a\":1,\"b\":2,\"c\"", 16, &five, -E2BIG, "more than 5");
	refused_len("                    1", 21, &five, -E2BIG, "21 bytes");
	memset(wide, '1', 200001);
	for (size_t i = 0; i < 200001; i += 2)
		wide[i] = i ? ',' : '[';
	wide[200000] = ']';
	refused_len(wide, 200001, NULL, -E2BIG, "more than 65536");
	free(wide);
}

static void test_limit_numbers(void **state)
{
	char digits[1001];

	memset(digits, '1', 1000);
	digits[1000] = 0;
	refused(digits, "128 characters");
	refused("1e999", "double");
	refused("-1e999", "double");
	digits[128] = 0;
	json_free(parse_good(digits));
}

/* ---- writer ---- */

static char *written(struct json_writer *w)
{
	char *text = NULL;
	size_t len = 0;

	assert_int_equal(jw_finish(w, &text, &len), 0);
	assert_int_equal(strlen(text), len);
	return text;
}

static void test_write(void **state)
{
	struct json_writer *w = jw_new(false);
	char *text AUTO_FREE = NULL;

	jw_object(w, NULL);
	jw_str(w, "s", "a\"b\\c\n\t\x01\x7f/é");
	jw_str(w, "bad", "x\xffy\xed\xa0\x80");
	jw_str(w, "none", NULL);
	jw_u64(w, "u", UINT64_MAX);
	jw_i64(w, "i", INT64_MIN);
	jw_double(w, "d", 0.1);
	jw_double(w, "nan", NAN);
	jw_double(w, "inf", -INFINITY);
	jw_double(w, "zero", -0.0);
	jw_bool(w, "b", true);
	jw_null(w, "n");
	jw_array(w, "a");
	jw_array(w, NULL);
	jw_end(w);
	jw_object(w, NULL);
	jw_end(w);
	jw_u64(w, NULL, 1);
	jw_end(w);
	jw_str(w, "k\"ey", "");
	jw_end(w);
	text = written(w);
	assert_string_equal(
		text, "{\"s\":\"a\\\"b\\\\c\\n\\t\\u0001\\u007f/"
		      "é\",\"bad\":\"x\xef\xbf\xbdy\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\","
		      "\"none\":null,\"u\":18446744073709551615,\"i\":-9223372036854775808,\"d\":0.1,\"nan\":null,"
		      "\"inf\":null,\"zero\":-0.0,\"b\":true,\"n\":null,\"a\":[[],{},1],\"k\\\"ey\":\"\"}");
	json_free(parse_good(text));
}

static void test_write_pretty(void **state)
{
	struct json_writer *w = jw_new(true);
	char *text AUTO_FREE = NULL;

	jw_object(w, NULL);
	jw_u64(w, "a", 1);
	jw_array(w, "b");
	jw_bool(w, NULL, false);
	jw_null(w, NULL);
	jw_end(w);
	jw_object(w, "c");
	jw_end(w);
	jw_end(w);
	text = written(w);
	assert_string_equal(text, "{\n  \"a\": 1,\n  \"b\": [\n    false,\n    null\n  ],\n  \"c\": {}\n}");
}

static void test_write_top_level(void **state)
{
	struct json_writer *w = jw_new(true);
	char *text AUTO_FREE = NULL;

	jw_u64(w, NULL, 7);
	text = written(w);
	assert_string_equal(text, "7");
}

static void finish_fails(struct json_writer *w, int code)
{
	char *text = (char *)"kept";

	assert_int_equal(jw_finish(w, &text, NULL), code);
	assert_string_equal(text, "kept");
}

static void test_write_misuse(void **state)
{
	struct json_writer *w = jw_new(false);

	finish_fails(w, -EINVAL); /* nothing */
	w = jw_new(false);
	jw_object(w, NULL);
	finish_fails(w, -EINVAL); /* not ended */
	w = jw_new(false);
	jw_object(w, NULL);
	jw_u64(w, NULL, 1); /* no name in an object */
	jw_end(w);
	finish_fails(w, -EINVAL);
	w = jw_new(false);
	jw_array(w, NULL);
	jw_u64(w, "k", 1); /* a name in an array */
	jw_end(w);
	finish_fails(w, -EINVAL);
	w = jw_new(false);
	jw_u64(w, NULL, 1);
	jw_u64(w, NULL, 1); /* two values */
	finish_fails(w, -EINVAL);
	w = jw_new(false);
	jw_end(w);
	finish_fails(w, -EINVAL);
	w = jw_new(false);
	jw_u64(w, "k", 1); /* a name at the top */
	finish_fails(w, -EINVAL);
	w = jw_new(false);
	for (int i = 0; i < 1000; i++)
		jw_array(w, NULL);
	finish_fails(w, -E2BIG);
	finish_fails(NULL, -ENOMEM);
	jw_object(NULL, NULL);
	jw_str(NULL, NULL, NULL);
	jw_end(NULL);
	assert_null(jw_free(NULL));
	w = jw_new(false);
	jw_array(w, NULL);
	assert_null(jw_free(w));
}

static void test_copy_tree(void **state)
{
	static const char text[] =
		"{\"a\":[1,-2,18446744073709551615,2.5,1e+300,null,true,\"é\"],\"o\":{\"x\":{}},\"e\":[]}";
	struct json *j AUTO_JSON = parse_good(text);
	struct json_writer *w = jw_new(false);
	char *copy AUTO_FREE = NULL;

	jw_json(w, NULL, j);
	copy = written(w);
	assert_string_equal(copy, text);
	w = jw_new(false);
	jw_array(w, NULL);
	jw_json(w, NULL, NULL);
	jw_json(w, NULL, json_get(j, "o"));
	jw_end(w);
	free(copy);
	copy = written(w);
	assert_string_equal(copy, "[null,{\"x\":{}}]");
	jw_json(NULL, NULL, j);
}

static void test_copy_too_deep(void **state)
{
	static const struct json_limits limits = {.bytes = 10000, .depth = 4000, .nodes = 4000};
	struct json_writer *w = jw_new(false);
	struct json *j AUTO_JSON = NULL;
	char text[6000];

	memset(text, '[', 3000);
	memset(text + 3000, ']', 3000);
	assert_int_equal(json_parse(text, 6000, &limits, &j, NULL), 0);
	jw_json(w, NULL, j);
	finish_fails(w, -E2BIG);
}

/* Doubles survive writing and reading bit for bit; the generator's seed is fixed, so a failure repeats. */
static void test_doubles_round_trip(void **state)
{
	uint64_t bits = 0x9e3779b97f4a7c15;

	for (int i = 0; i < 20000; i++) {
		struct json_writer *w = jw_new(false);
		char *text AUTO_FREE = NULL;
		struct json *j AUTO_JSON = NULL;
		double v, back = 0;

		bits = bits * 6364136223846793005 + 1442695040888963407;
		memcpy(&v, &bits, sizeof(v));
		if (!isfinite(v))
			v = i;
		jw_double(w, NULL, v);
		text = written(w);
		j = parse_good(text);
		assert_int_equal(json_double(j, &back), 0);
		assert_memory_equal(&back, &v, sizeof(v));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_types),
		cmocka_unit_test(test_absent_and_wrong),
		cmocka_unit_test(test_integers),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_syntax),
		cmocka_unit_test(test_strings),
		cmocka_unit_test(test_duplicate_keys),
		cmocka_unit_test(test_limit_depth),
		cmocka_unit_test(test_limit_nodes_and_bytes),
		cmocka_unit_test(test_limit_numbers),
		cmocka_unit_test(test_write),
		cmocka_unit_test(test_write_pretty),
		cmocka_unit_test(test_write_top_level),
		cmocka_unit_test(test_write_misuse),
		cmocka_unit_test(test_copy_tree),
		cmocka_unit_test(test_copy_too_deep),
		cmocka_unit_test(test_doubles_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
