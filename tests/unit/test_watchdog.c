/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When systemd is told that memocd lives. That a worker has to answer, and the loop to turn, is for test_daemon to
 * show. */
#include "controller/daemon/watchdog.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void told_while_ticks_are_decided(void **state)
{
	const uint64_t decided = 100000, interval = 2000, last = decided + 3 * interval + 5000;

	assert_true(watchdog_due(decided, decided, interval, false));
	assert_true(watchdog_due(last, decided, interval, false));
	assert_false(watchdog_due(last + 1, decided, interval, false));
	assert_false(watchdog_due(decided + 3600000, decided, interval, false));
}

static void one_worker_at_a_time(void **state)
{
	assert_false(watchdog_due(100, 100, 1000, true));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(told_while_ticks_are_decided),
		cmocka_unit_test(one_worker_at_a_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
