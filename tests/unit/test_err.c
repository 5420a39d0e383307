/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One printable line, cut at a character, whatever goes in. */
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

#include "common/err.h"
#include "common/text.h"

static void test_set(void **state)
{
	struct memoc_err err = {0};

	errno = EXDEV;
	assert_int_equal(memoc_err_set(&err, -EINVAL, "%s: %d", "a", 7), -EINVAL);
	assert_int_equal(errno, EXDEV);
	assert_string_equal(err.text, "a: 7");
	assert_int_equal(memoc_err_set(NULL, -EIO, "nobody listens"), -EIO);
	assert_int_equal(memoc_err_prefix(NULL, -EIO, "nobody listens"), -EIO);
}

static void test_prefix(void **state)
{
	struct memoc_err err = {0};

	memoc_err_set(&err, -EINVAL, "bad size");
	assert_int_equal(memoc_err_prefix(&err, -ERANGE, "file %s line %d", "x.conf", 3), -ERANGE);
	assert_string_equal(err.text, "file x.conf line 3: bad size");
	memset(&err, 0, sizeof(err));
	memoc_err_prefix(&err, -1, "alone");
	assert_string_equal(err.text, "alone");
}

static void test_own_text_as_argument(void **state)
{
	struct memoc_err err = {0};

	memoc_err_set(&err, 0, "inner");
	memoc_err_set(&err, 0, "outer (%s)", err.text);
	assert_string_equal(err.text, "outer (inner)");
	memoc_err_prefix(&err, 0, "again %s", err.text);
	assert_string_equal(err.text, "again outer (inner): outer (inner)");
}

static void test_control_characters(void **state)
{
	struct memoc_err err = {0};

	memoc_err_set(&err, 0, "a\nb\tc\x1b[31md\x7f");
	assert_string_equal(err.text, "a?b?c?[31md?");
	memoc_err_set(&err, 0, "grün \xc2\x9b 31m \xff\xfe");
	assert_string_equal(err.text, "grün ?? 31m ??");
}

/* For every place the cut may fall, the line is full to the last whole character and is UTF-8. */
static void test_cut(void **state)
{
	struct memoc_err err = {0};
	char text[1200];

	for (size_t pad = 0; pad < 5; pad++) {
		memset(text, 0, sizeof(text));
		memset(text, 'x', pad);
		for (size_t i = pad; i + 4 < sizeof(text); i += 4)
			snprintf(text + i, 5, "%s", "\xf0\x9f\x90\x98");
		memoc_err_set(&err, 0, "%s", text);
		assert_int_equal(strlen(err.text), pad + (sizeof(err.text) - 1 - pad) / 4 * 4);
		assert_int_equal(text_utf8_valid_len(err.text, strlen(err.text)), strlen(err.text));
		memoc_err_prefix(&err, 0, "p");
		assert_memory_equal(err.text, "p: ", 3);
		assert_int_equal(text_utf8_valid_len(err.text, strlen(err.text)), strlen(err.text));
		assert_null(strchr(err.text, '?'));
	}
}

static void test_utf8(void **state)
{
	static const struct {
		const char *s;
		size_t len; /* of the first character; 0: malformed */
	} t[] = {
		{"a", 1},
		{"\x7f", 1},
		{"\xc2\x80", 2},
		{"\xdf\xbf", 2},
		{"\xe0\xa0\x80", 3},
		{"\xed\x9f\xbf", 3},
		{"\xee\x80\x80", 3},
		{"\xef\xbf\xbf", 3},
		{"\xf0\x90\x80\x80", 4},
		{"\xf4\x8f\xbf\xbf", 4},
		{"\x80", 0},
		{"\xbf", 0},
		{"\xc0\x80", 0},
		{"\xc1\xbf", 0},
		{"\xc2", 0},
		{"\xc2\x20", 0},
		{"\xe0\x9f\xbf", 0},
		{"\xed\xa0\x80", 0},
		{"\xe2\x82", 0},
		{"\xe2\x82\x20", 0},
		{"\xf0\x8f\xbf\xbf", 0},
		{"\xf4\x90\x80\x80", 0},
		{"\xf5\x80\x80\x80", 0},
		{"\xff", 0},
		{"", 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(text_utf8_char(t[i].s, strlen(t[i].s)), t[i].len);
	assert_int_equal(text_utf8_valid_len("ab\xffz", 4), 2);
	assert_int_equal(text_utf8_valid_len("a\0b", 3), 3);
}

static void test_doubles(void **state)
{
	static const struct {
		double v;
		const char *text;
	} t[] = {
		{0, "0"},
		{1, "1"},
		{-2.5, "-2.5"},
		{0.1, "0.1"},
		{1e21, "1e+21"},
		{5e-324, "5e-324"},
		{1.0 / 3, "0.3333333333333333"},
		{0.1 + 0.2, "0.30000000000000004"},
		{DBL_MAX, "1.7976931348623157e+308"},
	};
	char buf[TEXT_DOUBLE_LEN];

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		assert_string_equal(text_from_double(buf, t[i].v), t[i].text);
		assert_true(text_to_double(buf) == t[i].v);
	}
	assert_true(isinf(text_to_double("1e999")));
}

/* A decimal comma in the user's language must change nothing. C.UTF-8 is everywhere; others where installed. */
static void test_locale(void **state)
{
	static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8"};
	char buf[TEXT_DOUBLE_LEN];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		setlocale(LC_ALL, names[i]);
		assert_string_equal(text_from_double(buf, 1.5), "1.5");
		assert_true(text_to_double("1.5") == 1.5);
	}
	setlocale(LC_ALL, "C");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set),
		cmocka_unit_test(test_prefix),
		cmocka_unit_test(test_own_text_as_argument),
		cmocka_unit_test(test_control_characters),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_utf8),
		cmocka_unit_test(test_doubles),
		cmocka_unit_test(test_locale),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
