/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Working sets as numbers. Expected values were computed by hand (bc), not by the code under test. */
#include "controller/core/wss.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void near(double got, double wanted, double within)
{
	if (fabs(got - wanted) > within)
		fail_msg("%.6f is not %.6f ± %.6f", got, wanted, within);
}

/* ---- error ---- */

static void test_error_of_half(void **state)
{
	/* n~ = 2401 + 3.8416 = 2404.8416; p~ = 1/2: 1.96·√(0.25/2404.8416) = 0.019984 */
	near(wss_error_share(1200, 2401, UINT64_C(1) << 40), 0.019984, 0.00001);
	/* 100 pages: 1.96·√(0.25/103.8416) = 0.096170 */
	near(wss_error_share(50, 100, UINT64_C(1) << 40), 0.096170, 0.00001);
	/* p~ = (240+1.9208)/2404.8416 = 0.100597: 1.96·√(0.090477/2404.8416) = 0.012022 */
	near(wss_error_share(240, 2401, UINT64_C(1) << 40), 0.012022, 0.00001);
}

static void test_error_of_finite_population(void **state)
{
	/* half of all pages were looked at: × √((4802−2401)/4801) = 0.707181 */
	near(wss_error_share(1200, 2401, 4802), 0.019984 * 0.707181, 0.00001);
	near(wss_error_share(1200, 2401, 2401), 0, 0);
	near(wss_error_share(7, 10, 10), 0, 0);
	near(wss_error_share(0, 0, 100), 1, 0);
}

static void test_error_of_none_is_not_nothing(void **state)
{
	/* p~ = 1.9208/2404.8416 = 0.00079872: 1.96·√(0.00079808/2404.8416) = 0.0011291 */
	near(wss_error_share(0, 2401, UINT64_C(1) << 40), 0.0011291, 0.000001);
	near(wss_error_share(2401, 2401, UINT64_C(1) << 40), 0.0011291, 0.000001);
	assert_true(wss_error_share(0, 1, 1000) < 1);
}

/* The interval holds the truth as often as it says: drawn from a population with a known share. */
static void test_error_covers(void **state)
{
	static bool page[20000];
	static const unsigned accessed[] = {0, 20, 400, 2000, 10000, 19900};
	uint32_t seed = 42;
	for (size_t s = 0; s < ARRAY_SIZE(accessed); s++) {
		unsigned outside = 0, draws = 600;
		for (size_t i = 0; i < ARRAY_SIZE(page); i++)
			page[i] = i < accessed[s];
		for (unsigned d = 0; d < draws; d++) {
			unsigned hits = 0, n = 500;
			for (unsigned i = 0; i < n; i++) { /* the first n of a partial shuffle */
				seed = seed * 1664525 + 1013904223;
				size_t with = i + (size_t)(((uint64_t)seed * (ARRAY_SIZE(page) - i)) >> 32);
				bool had = page[i];
				page[i] = page[with];
				page[with] = had;
				hits += page[i];
			}
			size_t all = ARRAY_SIZE(page);
			double share = (double)hits / n, truth = (double)accessed[s] / (double)all;
			outside += fabs(share - truth) > wss_error_share(hits, n, ARRAY_SIZE(page));
		}
		if (outside > draws / 12) /* 5 % wanted; 8.3 % would be three standard deviations of the count off */
			fail_msg("share %u/20000: %u of %u readings outside", accessed[s], outside, draws);
	}
}

/* ---- how many pages ---- */

static void test_pages(void **state)
{
	uint64_t all = UINT64_C(1) << 40;
	assert_int_equal(wss_pages_for(0.5, 0.5, 0.02, all, 100000), 2401);
	/* 3.8416 × 0.09 / 0.0004 = 864.36 */
	assert_int_equal(wss_pages_for(0.1, 0, 0.02, all, 100000), 865);
	assert_int_equal(wss_pages_for(0.9, 0, 0.02, all, 100000), 865);
	/* what the last reading allows: 0.12 → 3.8416 × 0.1056 / 0.0004 = 1014.18 */
	assert_int_equal(wss_pages_for(0.1, 0.02, 0.02, all, 100000), 1015);
	assert_int_equal(wss_pages_for(0.45, 0.1, 0.02, all, 100000), 2401);
	assert_int_equal(wss_pages_for(0.5, 0.5, 0.02, all, 2000), 2000);
	assert_int_equal(wss_pages_for(0, 0, 0.02, all, 2401), 865); /* it may have jumped since */
	assert_int_equal(wss_pages_for(0, 0, 0.2, all, 2401), WSS_PAGES_LEAST);
	/* 2401 / (1 + 2400/4096) = 1513.97 */
	assert_int_equal(wss_pages_for(0.5, 0.5, 0.02, 4096, 2401), 1514);
	assert_int_equal(wss_pages_for(0.5, 0.5, 0.02, 50, 2401), 50);
	assert_int_equal(wss_pages_for(0.5, 0.5, 0.02, 0, 2401), 0);
}

/* ---- averages ---- */

static void test_average_rises_at_once(void **state)
{
	struct wss_average a = {0};
	assert_int_equal(wss_average_bytes(&a), 0);
	for (unsigned i = 0; i < 10; i++)
		wss_average_take(&a, 100 * MIB, 20 * MIB, 1000 + i * 60000);
	assert_int_equal(wss_average_bytes(&a), 100 * MIB);
	wss_average_take(&a, 500 * MIB, 20 * MIB, 601000);
	assert_int_equal(wss_average_bytes(&a), 500 * MIB);
}

static void test_average_falls_slowly(void **state)
{
	struct wss_average a = {0};
	wss_average_take(&a, 1000, 10, 1000);
	wss_average_take(&a, 100, 10, 61000);
	/* slow: 100 + 900·e^(−60/150) = 703.29; fast: 100 + 900·e^(−2) = 221.8 */
	assert_int_equal(a.slow_bytes, 703);
	assert_int_equal(a.fast_bytes, 222);
	assert_int_equal(wss_average_bytes(&a), 703);
	for (unsigned i = 0; i < 20; i++)
		wss_average_take(&a, 100, 10, 121000 + i * 60000);
	assert_in_range(wss_average_bytes(&a), 100, 101);
}

/* One reading far above the others is gone soon; one far below does not count for much. */
static void test_average_outliers(void **state)
{
	struct wss_average a = {0};
	uint64_t t = 1000;
	for (unsigned i = 0; i < 10; i++)
		wss_average_take(&a, 1000, 10, t += 60000);
	wss_average_take(&a, 5000, 10, t += 60000);
	assert_int_equal(wss_average_bytes(&a), 5000);
	wss_average_take(&a, 1000, 10, t += 60000);
	/* fast 1000 + 4000·e^(−2) = 1541; slow: 1000 + 4000·(1−e^(−0.4))·e^(−0.4) = 1884 */
	assert_in_range(wss_average_bytes(&a), 1880, 1888);
	wss_average_take(&a, 1000, 10, t += 60000);
	assert_in_range(wss_average_bytes(&a), 1589, 1597); /* 884 × e^(−0.4) = 592.6 */
	for (unsigned i = 0; i < 10; i++)
		wss_average_take(&a, 1000, 10, t += 60000);
	wss_average_take(&a, 0, 10, t += 60000);
	assert_in_range(wss_average_bytes(&a), 660, 690);
	wss_average_take(&a, 1000, 10, t += 60000);
	assert_int_equal(wss_average_bytes(&a), 1000);
}

static void test_average_noise(void **state)
{
	struct wss_average a = {0};
	uint32_t seed = 7;
	double sum = 0;
	for (unsigned i = 0; i < 1000; i++) {
		double noise = 0; /* twelve uniform ones: as good as normal, deviation 1 */
		for (unsigned k = 0; k < 12; k++) {
			seed = seed * 1664525 + 1013904223;
			noise += (double)seed / 4294967296.0 - 0.5;
		}
		wss_average_take(&a, (uint64_t)(500000 + 10000 * noise), 19600, 1000 + i * UINT64_C(60000));
		sum += (double)wss_average_bytes(&a);
	}
	/* the larger of two averages lies above the truth, by less than half the error */
	near(sum / 1000, 505000, 5000);
}

/* A clock that stands still or goes back changes nothing but what a reading says. */
static void test_average_no_time(void **state)
{
	struct wss_average a = {0};
	wss_average_take(&a, 1000, 10, 5000);
	wss_average_take(&a, 500, 10, 5000);
	wss_average_take(&a, 500, 10, 4000);
	assert_int_equal(wss_average_bytes(&a), 1000);
	wss_average_take(&a, UINT64_MAX, UINT64_MAX, 70000);
	assert_true(wss_average_bytes(&a) > 0);
}

/* ---- who is next ---- */

static void test_choose_most_to_gain_first(void **state)
{
	struct wss_budget b = {0};
	struct wss_wish w[] = {{1, 60000, 1 * GIB, 1000000},
			       {2, 60000, 8 * GIB, 1000000},
			       {3, 30000, 99 * GIB, 1000000},
			       {4, 60000, 4 * GIB, 1000000}};
	assert_int_equal(wss_choose(&b, 0.03, 60000, 1000, w, 4), 3); /* 3 was read half a period ago */
	assert_int_equal(w[0].vm, 2);
	assert_int_equal(w[1].vm, 4);
	assert_int_equal(w[2].vm, 1);
}

static void test_choose_within_budget(void **state)
{
	struct wss_budget b = {0};
	struct wss_wish w[100];
	for (unsigned i = 0; i < 100; i++)
		w[i] = (struct wss_wish){i + 1, UINT64_MAX, i * MIB, 100000000};
	/* 3 % of a core for a minute is 1.8 s: eighteen of 0.1 s */
	assert_int_equal(wss_choose(&b, 0.03, 60000, 1000, w, 100), 18);
	assert_int_equal(w[0].vm, 100);
	assert_int_equal(b.saved_ns, 0);
	assert_int_equal(wss_choose(&b, 0.03, 60000, 1000, w + 18, 82), 0); /* no time has passed */
	assert_int_equal(wss_choose(&b, 0.03, 60000, 2000, w + 18, 82), 1); /* 30 ms: one, on credit */
	assert_int_equal(b.saved_ns, -70000000);
	assert_int_equal(wss_choose(&b, 0.03, 60000, 4000, w + 18, 82), 0); /* not paid back yet */
	wss_settle(&b, 100000000, 40000000);
	assert_int_equal(b.saved_ns, 50000000);
	wss_settle(&b, 100000000, 250000000);
	assert_int_equal(b.saved_ns, -100000000);
	assert_int_equal(wss_choose(&b, 0.03, 60000, 1000000, w, 1), 1);
	assert_int_equal(b.saved_ns, 1600000000); /* a minute's worth came in, not all that passed */
}

/* Over an hour of a budget for a third of them everybody is read, and who has more to gain more often. */
static void test_choose_is_fair(void **state)
{
	struct wss_budget b = {0};
	uint64_t last[30] = {0};
	unsigned reads[30] = {0};
	uint64_t gap[30] = {0};
	for (uint64_t now = 60000; now <= 3660000; now += 1000) {
		struct wss_wish w[30];
		for (unsigned i = 0; i < 30; i++)
			w[i] = (struct wss_wish){i + 1, now - last[i], i < 15 ? 0 : GIB, 180000000};
		size_t n = wss_choose(&b, 0.03, 60000, now, w, 30);
		for (size_t k = 0; k < n; k++) {
			unsigned i = w[k].vm - 1;
			gap[i] = max_u64(gap[i], last[i] ? now - last[i] : 0);
			last[i] = now;
			reads[i]++;
		}
	}
	unsigned poor = 0, rich = 0, all = 0;
	for (unsigned i = 0; i < 30; i++) {
		assert_true(reads[i] >= 10 && gap[i] <= 360000);
		*(i < 15 ? &poor : &rich) += reads[i];
		all += reads[i];
	}
	if (rich <= poor * 3 / 2)
		fail_msg("rich %u, poor %u", rich, poor);
	assert_in_range(all, 590, 625); /* 10 a minute is what 3 % pays for at 0.18 s */
}

static void test_choose_nobody(void **state)
{
	struct wss_budget b = {0};
	struct wss_wish w = {1, 10, 0, 1};
	assert_int_equal(wss_choose(&b, 0.03, 60000, 1000, &w, 0), 0);
	assert_int_equal(wss_choose(&b, 0.03, 60000, 1000, &w, 1), 0);
	w.age_ms = 60000;
	b = (struct wss_budget){0};
	assert_int_equal(wss_choose(&b, 0, 60000, 1000, &w, 1), 0); /* a budget of nothing reads nothing */
}

static void test_names(void **state)
{
	assert_string_equal(wss_backend_name(WSS_IDLE), "idle");
	assert_string_equal(wss_backend_name(WSS_NONE), "none");
	assert_string_equal(wss_backend_name(WSS_BACKEND_END), "?");
	assert_string_equal(wss_backend_name(0), "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_error_of_half),
		cmocka_unit_test(test_error_of_finite_population),
		cmocka_unit_test(test_error_of_none_is_not_nothing),
		cmocka_unit_test(test_error_covers),
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_average_rises_at_once),
		cmocka_unit_test(test_average_falls_slowly),
		cmocka_unit_test(test_average_outliers),
		cmocka_unit_test(test_average_noise),
		cmocka_unit_test(test_average_no_time),
		cmocka_unit_test(test_choose_most_to_gain_first),
		cmocka_unit_test(test_choose_within_budget),
		cmocka_unit_test(test_choose_is_fair),
		cmocka_unit_test(test_choose_nobody),
		cmocka_unit_test(test_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
