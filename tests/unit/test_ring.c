/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal kept in memory: what it keeps, in which order, and over a change of its size. */
#include "controller/daemon/ring.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct ring *filled(size_t kept, size_t events)
{
	struct ring *r = NULL;
	assert_int_equal(ring_new(kept, &r), 0);
	for (size_t i = 0; i < events; i++)
		ring_add(r)->from_bytes = i + 1;
	return r;
}

/* The newest `n` of `last` events, oldest first, each with its own number. */
static void assert_newest(const struct ring *r, size_t n, size_t last)
{
	assert_int_equal(ring_count(r), n);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(ring_at(r, i)->number, last - n + i + 1);
		assert_int_equal(ring_at(r, i)->from_bytes, last - n + i + 1);
	}
	assert_null(ring_at(r, n));
}

static void the_newest_are_kept(void **state)
{
	static const size_t sizes[] = {1, 2, 63, 64, 65, 100, 1000};
	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		for (size_t events = 0; events <= 2 * sizes[s] + 3; events += 1 + sizes[s] / 7) {
			struct ring *r = filled(sizes[s], events);
			assert_newest(r, events < sizes[s] ? events : sizes[s], events);
			ring_free(r);
		}
	}
}

static void a_slot_is_empty_but_for_its_number(void **state)
{
	struct ring *r = filled(2, 5);
	const struct ring_event *e = ring_add(r);
	assert_int_equal(e->number, 6);
	assert_int_equal(e->from_bytes, 0);
	ring_free(r);
}

static void resizing_keeps_the_newest_and_goes_on(void **state)
{
	static const size_t sizes[] = {1, 3, 64, 65, 200};
	for (size_t a = 0; a < ARRAY_SIZE(sizes); a++) {
		for (size_t b = 0; b < ARRAY_SIZE(sizes); b++) {
			for (size_t events = 0; events < 270; events += 33) {
				struct ring *r = filled(sizes[a], events);
				size_t had = events < sizes[a] ? events : sizes[a];
				assert_int_equal(ring_resize(r, sizes[b]), 0);
				had = had < sizes[b] ? had : sizes[b];
				assert_newest(r, had, events);
				for (size_t i = 0; i < 70; i++)
					ring_add(r)->from_bytes = events + i + 1;
				assert_newest(r, had + 70 < sizes[b] ? had + 70 : sizes[b], events + 70);
				ring_free(r);
			}
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_newest_are_kept),
		cmocka_unit_test(a_slot_is_empty_but_for_its_number),
		cmocka_unit_test(resizing_keeps_the_newest_and_goes_on),
	};
	return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
