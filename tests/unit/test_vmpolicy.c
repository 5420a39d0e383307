/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A VM's policy: every key is read, refused, written and read back; nothing half-done on errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "common/domxml.h"
#include "common/vmpolicy.h"

static void assert_same(const struct vmpolicy *a, const struct vmpolicy *b)
{
	assert_int_equal(a->managed, b->managed);
	assert_true(a->min_bytes == b->min_bytes && a->max_bytes == b->max_bytes);
	assert_int_equal(a->weight, b->weight);
	assert_int_equal(a->balloon, b->balloon);
	assert_int_equal(a->swap, b->swap);
}

static void test_default(void **state)
{
	struct vmpolicy p = vmpolicy_default();

	assert_true(p.managed && p.balloon && p.swap);
	assert_true(p.min_bytes == 0 && p.max_bytes == 0);
	assert_int_equal(p.weight, 100);
	assert_int_equal(vmpolicy_check(&p, 0, NULL), 0);
	assert_int_equal(vmpolicy_check(&p, MIB, NULL), 0);
}

static void test_keys(void **state)
{
	static const char *const names[] = {"managed", "min", "max", "weight", "balloon", "swap"};
	size_t n = 0;

	for (const struct vmpolicy_key *k = vmpolicy_keys; k->name; k++, n++) {
		assert_true(n < ARRAY_SIZE(names));
		assert_string_equal(k->name, names[n]);
		assert_true(k->form && *k->form && k->help && *k->help);
	}
	assert_int_equal(n, ARRAY_SIZE(names));
}

/* value → what `get` shows for it */
static void test_set_and_get(void **state)
{
	static const struct {
		const char *key, *value, *shown;
	} good[] = {
		{"managed", "no", "no"},  {"managed", "true", "yes"},	{"min", "512M", "512M"},
		{"min", "1.5G", "1536M"}, {"min", "1048576", "1M"},	{"min", "1048577", "1048577"},
		{"min", "1E", "1E"},	  {"max", "4GiB", "4G"},	{"max", "2048K", "2M"},
		{"weight", "1", "1"},	  {"weight", "10000", "10000"}, {"balloon", "off", "no"},
		{"swap", "0", "no"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct vmpolicy p = vmpolicy_default(), again = vmpolicy_default();
		struct memoc_err err = {""};
		char buf[64];

		if (vmpolicy_set(&p, good[i].key, good[i].value, &err))
			fail_msg("%s=%s: %s", good[i].key, good[i].value, err.text);
		assert_int_equal(vmpolicy_get(&p, good[i].key, buf, sizeof(buf)), 0);
		assert_string_equal(buf, good[i].shown);
		assert_int_equal(vmpolicy_set(&again, good[i].key, buf, NULL), 0);
		assert_same(&p, &again);
	}
}

static void test_set_refuses(void **state)
{
	static const struct {
		const char *key, *value;
		int code;
		const char *says;
	} bad[] = {
		{"managed", "maybe", -EINVAL, "yes or no"},
		{"managed", "YES", -EINVAL, "yes or no"},
		{"min", "lots", -EINVAL, "512M"},
		{"min", "-1G", -EINVAL, "512M"},
		{"min", " 1G", -EINVAL, "512M"},
		{"min", "0", -ERANGE, "1M"},
		{"min", "512", -ERANGE, "1M"},
		{"max", "8E", -ERANGE, "1M"},
		{"max", "99999999999999999999E", -ERANGE, "1M"},
		{"max", "50%", -EINVAL, "1M"},
		{"weight", "0", -ERANGE, "10000"},
		{"weight", "10001", -ERANGE, "10000"},
		{"weight", "4294967396", -ERANGE, "10000"}, /* 2^32 + 100 */
		{"weight", "1.5", -EINVAL, "10000"},
		{"balloon", "2", -EINVAL, "yes or no"},
		{"swap", "yes ", -EINVAL, "yes or no"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vmpolicy p = vmpolicy_default(), before = p;
		struct memoc_err err = {""};
		int r = vmpolicy_set(&p, bad[i].key, bad[i].value, &err);

		if (r != bad[i].code)
			fail_msg("%s=%s gave %d, not %d (%s)", bad[i].key, bad[i].value, r, bad[i].code, err.text);
		assert_non_null(strstr(err.text, bad[i].key));
		assert_non_null(strstr(err.text, bad[i].value));
		assert_non_null(strstr(err.text, bad[i].says));
		assert_same(&p, &before);
	}
}

static void test_unknown_key(void **state)
{
	struct vmpolicy p = vmpolicy_default(), before = p;
	struct memoc_err err = {""};
	char buf[8] = "kept";

	assert_int_equal(vmpolicy_set(&p, "wieght", "5", &err), -EINVAL);
	assert_non_null(strstr(err.text, "wieght"));
	assert_non_null(strstr(err.text, "managed, min, max, weight, balloon, swap"));
	assert_int_equal(vmpolicy_set(&p, "", "5", &err), -EINVAL);
	assert_int_equal(vmpolicy_get(&p, "wieght", buf, sizeof(buf)), -EINVAL);
	assert_string_equal(buf, "kept");
	assert_same(&p, &before);
}

static void test_empty_resets(void **state)
{
	struct vmpolicy def = vmpolicy_default();
	struct vmpolicy p = {.min_bytes = GIB, .max_bytes = 2 * GIB, .weight = 7};

	for (const struct vmpolicy_key *k = vmpolicy_keys; k->name; k++)
		assert_int_equal(vmpolicy_set(&p, k->name, "", NULL), 0);
	assert_same(&p, &def);
}

static void test_get_short_buffer(void **state)
{
	struct vmpolicy p = vmpolicy_default();
	char buf[4] = "old";

	p.min_bytes = 512 * MIB;
	assert_int_equal(vmpolicy_get(&p, "min", buf, sizeof(buf)), -ENOSPC);
	assert_string_equal(buf, "old");
	assert_int_equal(vmpolicy_get(&p, "max", buf, 1), 0); /* not given: "" fits in one byte */
	assert_string_equal(buf, "");
}

static void test_check(void **state)
{
	static const struct {
		uint64_t min_bytes, max_bytes, vm_bytes;
		int code;
		const char *says;
	} cases[] = {
		{GIB, 2 * GIB, 4 * GIB, 0, ""},
		{2 * GIB, 2 * GIB, 2 * GIB, 0, ""},
		{4 * GIB, 0, 4 * GIB, 0, ""},
		{4 * GIB, 8 * GIB, 0, 0, ""}, /* the VM's memory is not known */
		{2 * GIB, GIB, 4 * GIB, -EINVAL, "min=\"2G\" is above max=\"1G\""},
		{2 * GIB, GIB, 0, -EINVAL, "min=\"2G\" is above max=\"1G\""},
		{5 * GIB, 0, 4 * GIB, -EINVAL, "min=\"5G\" is above the VM's memory of 4 GiB"},
		{GIB, 5 * GIB, 4 * GIB, -EINVAL, "max=\"5G\" is above the VM's memory of 4 GiB"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vmpolicy p = vmpolicy_default();
		struct memoc_err err = {""};

		p.min_bytes = cases[i].min_bytes;
		p.max_bytes = cases[i].max_bytes;
		assert_int_equal(vmpolicy_check(&p, cases[i].vm_bytes, &err), cases[i].code);
		assert_non_null(strstr(err.text, cases[i].says));
	}
}

static void test_check_weight(void **state)
{
	struct vmpolicy p = vmpolicy_default();
	struct memoc_err err = {""};

	p.weight = 0;
	assert_int_equal(vmpolicy_check(&p, 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "weight=\"0\""));
	p.weight = 10001;
	assert_int_equal(vmpolicy_check(&p, 0, &err), -EINVAL);
}

static void test_to_xml(void **state)
{
	struct vmpolicy p = vmpolicy_default();
	char *xml AUTO_FREE = NULL, *full AUTO_FREE = NULL;

	assert_int_equal(vmpolicy_to_xml(&p, &xml), 0);
	assert_string_equal(xml, "<policy/>");
	p = (struct vmpolicy){.min_bytes = 512 * MIB, .max_bytes = (UINT64_C(1) << 62) + 1, .weight = 10000};
	assert_int_equal(vmpolicy_to_xml(&p, &full), 0);
	assert_string_equal(full, "<policy managed=\"no\" min=\"512M\" max=\"4611686018427387905\" weight=\"10000\" "
				  "balloon=\"no\" swap=\"no\"/>");
}

static void test_xml_reads_back(void **state)
{
	static const uint64_t sizes[] = {0, MIB, 3 * GIB + KIB, 5 * GIB + 1};

	for (unsigned bits = 0; bits < 8; bits++)
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			struct vmpolicy p = {.managed = bits & 1,
					     .min_bytes = sizes[i],
					     .weight = 1 + bits * 100,
					     .balloon = bits & 2,
					     .swap = bits & 4};
			struct vmpolicy back;
			char *xml AUTO_FREE = NULL;

			p.max_bytes = sizes[ARRAY_SIZE(sizes) - 1];
			assert_int_equal(vmpolicy_to_xml(&p, &xml), 0);
			assert_int_equal(domxml_parse_policy(xml, strlen(xml), &back, NULL), 0);
			assert_same(&p, &back);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_default),		 cmocka_unit_test(test_keys),
		cmocka_unit_test(test_set_and_get),	 cmocka_unit_test(test_set_refuses),
		cmocka_unit_test(test_unknown_key),	 cmocka_unit_test(test_empty_resets),
		cmocka_unit_test(test_get_short_buffer), cmocka_unit_test(test_check),
		cmocka_unit_test(test_check_weight),	 cmocka_unit_test(test_to_xml),
		cmocka_unit_test(test_xml_reads_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
