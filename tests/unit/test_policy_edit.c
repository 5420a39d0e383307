/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changing some keys of a policy while others change it too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "controller/daemon/policy_edit.h"

/* Two XMLs, and somebody who writes his own at a given look or writing. */
struct shelf {
	struct dom_facts sides[2];
	unsigned reads, writes;
	unsigned meddle_at_read; /* before this read (1 = the first) the other writes into both sides; 0: never */
	bool meddle_always;
	int read_code, write_code;
	bool no_config; /* a transient VM */
};

static void meddle(struct shelf *s)
{
	for (size_t i = 0; i < 2; i++) {
		s->sides[i].policy.weight = 200 + s->reads;
		s->sides[i].policy_bad = false;
	}
}

static int shelf_read(void *user, bool config, struct dom_facts *ret, struct memoc_err *err)
{
	struct shelf *s = user;

	s->reads++;
	if (s->meddle_always || s->reads == s->meddle_at_read)
		meddle(s);
	if (s->read_code)
		return memoc_err_set(err, s->read_code, "unreadable");
	if (config && s->no_config)
		return memoc_err_set(err, -EOPNOTSUPP, "transient");
	*ret = s->sides[config];
	return 0;
}

static int shelf_write(void *user, bool config, const struct vmpolicy *policy, struct memoc_err *err)
{
	struct shelf *s = user;

	s->writes++;
	if (s->write_code)
		return memoc_err_set(err, s->write_code, "unwritable");
	s->sides[config].policy = *policy;
	s->sides[config].policy_bad = false;
	return 0;
}

static struct shelf new_shelf(void)
{
	struct dom_facts f = {.max_bytes = GIB, .policy = vmpolicy_default()};

	return (struct shelf){.sides = {f, f}};
}

static struct policy_keys keys(const char *const pairs[][2], size_t n)
{
	struct policy_keys k = {.values = vmpolicy_default()};

	for (size_t i = 0; i < n; i++)
		assert_int_equal(policy_keys_add(&k, pairs[i][0], pairs[i][1], NULL), 0);
	return k;
}

static int edit(struct shelf *s, const char *key, const char *value, bool live, bool config, struct dom_facts *ret,
		struct memoc_err *err)
{
	const struct policy_store store = {s, shelf_read, shelf_write};
	const char *const pair[][2] = {{key, value}};
	const struct policy_keys k = keys(pair, 1);
	struct vmpolicy last_good = vmpolicy_default();

	last_good.weight = 77;
	return policy_edit(&store, &k, &last_good, live, config, ret, err);
}

static void test_each_side_keeps_its_other_keys(void **state)
{
	struct shelf s = new_shelf();
	struct dom_facts now;

	s.sides[0].policy.weight = 5;
	s.sides[1].policy.min_bytes = 64 * MIB;
	assert_int_equal(edit(&s, "swap", "no", true, true, &now, NULL), 0);
	assert_true(!s.sides[0].policy.swap && s.sides[0].policy.weight == 5 && !s.sides[0].policy.min_bytes);
	assert_true(!s.sides[1].policy.swap && s.sides[1].policy.weight == 100);
	assert_int_equal(s.sides[1].policy.min_bytes, 64 * MIB);
	assert_int_equal(now.policy.weight, 5); /* of the live XML */
	assert_int_equal(edit(&s, "min", "", false, true, &now, NULL), 0);
	assert_int_equal(s.sides[1].policy.min_bytes, 0);
	assert_int_equal(now.policy.weight, 100); /* of the only one that was written */
	assert_int_equal(s.writes, 3);
}

/* Whenever the other writes, his value and ours are both there in the end. */
static void test_a_change_in_between_is_kept(void **state)
{
	for (unsigned at = 2; at <= 6; at++) {
		struct shelf s = new_shelf();
		struct dom_facts now;

		s.meddle_at_read = at;
		assert_int_equal(edit(&s, "swap", "no", true, true, &now, NULL), 0);
		assert_true(s.reads >= 6 && !now.policy.swap);
		for (size_t i = 0; i < 2; i++) {
			assert_false(s.sides[i].policy.swap);
			assert_int_equal(s.sides[i].policy.weight, 200 + at);
		}
	}
}

static void test_gives_up(void **state)
{
	struct shelf s = new_shelf();
	struct memoc_err err = {""};
	struct dom_facts now = {.max_bytes = 7};

	s.meddle_always = true;
	assert_int_equal(edit(&s, "swap", "no", true, false, &now, &err), -EAGAIN);
	assert_non_null(strstr(err.text, "try again"));
	assert_int_equal(now.max_bytes, 7);
	assert_true(s.reads >= POLICY_EDIT_TRIES && s.reads <= 3 * POLICY_EDIT_TRIES);
}

static void test_nothing_is_written_where_one_side_is_refused(void **state)
{
	struct shelf s = new_shelf();
	struct memoc_err err = {""};
	struct dom_facts now;

	s.sides[1].policy.min_bytes = 512 * MIB;
	assert_int_equal(edit(&s, "max", "256M", true, true, &now, &err), -EINVAL);
	assert_non_null(strstr(err.text, "min=\"512M\""));
	s.sides[1].max_bytes = 128 * MIB; /* its own memory counts, not the other side's */
	s.sides[1].policy.min_bytes = 0;
	assert_int_equal(edit(&s, "min", "256M", true, true, &now, &err), -EINVAL);
	assert_non_null(strstr(err.text, "128"));
	assert_int_equal(s.writes, 0);
	s.no_config = true;
	assert_int_equal(edit(&s, "swap", "no", true, true, &now, &err), -EOPNOTSUPP);
	assert_int_equal(s.writes, 0);
}

static void test_a_bad_policy_is_replaced_by_the_last_good(void **state)
{
	struct shelf s = new_shelf();
	struct dom_facts now;

	s.sides[0].policy_bad = true;
	assert_int_equal(edit(&s, "swap", "no", true, false, &now, NULL), 0);
	assert_false(s.sides[0].policy_bad);
	assert_true(s.sides[0].policy.weight == 77 && !s.sides[0].policy.swap);
}

static void test_errors_are_handed_on(void **state)
{
	struct shelf s = new_shelf();
	struct memoc_err err = {""};
	struct dom_facts now;

	s.write_code = -EBUSY;
	assert_int_equal(edit(&s, "swap", "no", true, true, &now, &err), -EBUSY);
	assert_string_equal(err.text, "unwritable");
	assert_int_equal(s.writes, 1);
	s.read_code = -ENOTCONN;
	assert_int_equal(edit(&s, "swap", "no", true, true, &now, &err), -ENOTCONN);
	assert_string_equal(err.text, "unreadable");
}

static void test_keys(void **state)
{
	const char *const pairs[][2] = {{"weight", "9"}, {"min", "64M"}};
	struct policy_keys k = keys(pairs, ARRAY_SIZE(pairs)), before = k;
	struct memoc_err err = {""};

	assert_int_equal(__builtin_popcount(k.keys), 2);
	assert_int_equal(policy_keys_add(&k, "weight", "0", &err), -ERANGE);
	assert_non_null(strstr(err.text, "weight"));
	assert_int_equal(policy_keys_add(&k, "hue", "red", &err), -EINVAL);
	assert_memory_equal(&k, &before, sizeof(k));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_side_keeps_its_other_keys),
		cmocka_unit_test(test_a_change_in_between_is_kept),
		cmocka_unit_test(test_gives_up),
		cmocka_unit_test(test_nothing_is_written_where_one_side_is_refused),
		cmocka_unit_test(test_a_bad_policy_is_replaced_by_the_last_good),
		cmocka_unit_test(test_errors_are_handed_on),
		cmocka_unit_test(test_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
