/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests that lie or are silent, judged by their working sets. */
#include "tests/unit/core_kit.h"

#include <errno.h>

static int open_kit(void **state)
{
	static struct kit k;
	kit_open(&k, NULL);
	*state = &k;
	return 0;
}

static int close_kit(void **state)
{
	kit_close(*state);
	return 0;
}

static void wss_from(struct kit *k, uint64_t bytes, uint64_t error_bytes, uint64_t began_ms)
{
	struct event ev = {.type = EVENT_VM_WSS,
			   .vm = 1,
			   .wss = {.known = true,
				   .backend = WSS_IDLE,
				   .wss_bytes = bytes,
				   .error_bytes = error_bytes,
				   .began_ms = began_ms,
				   .good_ms = 180000}};
	assert_int_equal(kit_step(k, &ev), 0);
}

static void wss(struct kit *k, uint64_t bytes, uint64_t error_bytes)
{
	wss_from(k, bytes, error_bytes, k->now_ms - 30000);
}

static void unknown(struct kit *k, const char *why)
{
	struct event ev = {
		.type = EVENT_VM_WSS, .vm = 1, .wss = {.backend = WSS_DAMON, .began_ms = k->now_ms, .good_ms = 1}};
	snprintf(ev.wss.why, sizeof(ev.wss.why), "%s", why);
	assert_int_equal(kit_step(k, &ev), 0);
}

/* So many seconds of statistics, each with a tick and a sample of all that it has. */
static void seconds(struct kit *k, unsigned n, uint64_t usable_bytes, uint64_t swapped)
{
	for (unsigned i = 0; i < n; i++) {
		struct vm *vm = kit_vm(k, 1);
		k->now_ms += 1000;
		uint64_t actual = vm->actual_bytes ? vm->actual_bytes : GIB;
		kit_sample(k, 1, GIB, LIMIT_NONE, 0);
		kit_stats_swap(k, 1, actual, usable_bytes, vm->stats.swap_in_bytes + swapped,
			       vm->stats.swap_out_bytes + swapped);
	}
}

static void ticks(struct kit *k, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		kit_tick(k, 1000);
}

static const struct explain_term *explained(const struct kit *k, const char *name)
{
	static struct explain_term terms[EXPLAIN_TERMS_MAX];
	size_t n = core_explain(k->core, core_vm(k->core, 1), k->now_ms, terms);
	for (size_t i = 0; i < n; i++)
		if (strcmp(terms[i].name, name) == 0)
			return &terms[i];
	return NULL;
}

/* The line that says why its need is doubted, with such a pool; NULL: none. */
static const char *doubt(const struct kit *k, uint64_t pool_bytes)
{
	static char lines[EXPLAIN_LINES_MAX][160];
	struct books *b = (struct books *)core_books(k->core);
	uint64_t before = b->pool_bytes;
	b->pool_bytes = pool_bytes;
	size_t n = core_explain_lines(k->core, core_vm(k->core, 1), k->now_ms, lines);
	b->pool_bytes = before;
	for (size_t i = 0; i < n; i++)
		if (strstr(lines[i], "no claim beyond"))
			return lines[i];
	return NULL;
}

/* ---- silence ---- */

static void a_silent_guest_is_judged_by_what_it_touches(void **state)
{
	struct kit *k = *state;
	kit_add(k, 1, GIB);
	kit_signal(k, EVENT_VM_RUNNING, 1);
	k->now_ms += k->config.grace_ms + 1000;
	kit_sample(k, 1, GIB, LIMIT_NONE, 0);
	ticks(k, 2);
	struct vm *vm = kit_vm(k, 1);
	assert_int_equal(vm->demand_bytes, 512 * MIB); /* half of what is resident: nothing is known */
	assert_non_null(strstr(explained(k, "wss")->text, "not measured yet"));
	wss(k, 700 * MIB, 20 * MIB);
	assert_int_equal(vm->demand_bytes, 720 * MIB);
	assert_true(vm->demand_confidence > 0.5);
	assert_int_equal(explained(k, "wss")->bytes, 700 * MIB);
	assert_non_null(strstr(explained(k, "wss")->text, "± 20 MiB, by idle"));
	k->now_ms += 60000;
	kit_sample(k, 1, GIB, LIMIT_NONE, 0);
	wss(k, 100 * MIB, 20 * MIB); /* believed slowly */
	assert_in_range(vm->demand_bytes, 400 * MIB, 700 * MIB);
	for (unsigned i = 0; i < 20; i++) {
		k->now_ms += 60000;
		kit_sample(k, 1, GIB, LIMIT_NONE, 0);
		wss(k, 100 * MIB, 20 * MIB);
	}
	assert_in_range(vm->demand_bytes, 119 * MIB, 123 * MIB);
	/* what could not be measured again becomes too old: half of what is resident again */
	unknown(k, "the process is busy");
	assert_in_range(explained(k, "wss")->bytes, 99 * MIB, 103 * MIB);
	assert_non_null(strstr(explained(k, "wss")->text, "since then: the process is busy"));
	k->now_ms += 181000;
	kit_sample(k, 1, GIB, LIMIT_NONE, 0);
	ticks(k, 1);
	assert_int_equal(vm->demand_bytes, 512 * MIB);
	assert_false(explained(k, "wss")->has_bytes);
	assert_non_null(strstr(explained(k, "wss")->text, "unknown: the process is busy"));
}

/* ---- lies ---- */

static void who_claims_to_need_and_touches_little_is_doubted(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	vm->facts.policy.swap = false; /* no limit shows its host what it lacks: its word is all there is */
	k->now_ms += 1000;
	vm->actual_bytes = 900 * MIB; /* less than its maximum, or nothing is to be had */
	seconds(k, 10, MIB, 8 * MIB);
	assert_true(vm->needy);
	wss(k, 100 * MIB, 20 * MIB); /* most of this window was before its need: nothing is said of it */
	assert_false(vm->wss_overclaims);
	seconds(k, 30, MIB, 8 * MIB);
	wss(k, 100 * MIB, 20 * MIB);
	assert_true(vm->wss_overclaims);
	assert_non_null(explained(k, "claim"));
	/* what is shown is the average: its error says how far the last window was from it */
	assert_true(vm_wss_bytes(vm) - vm_wss_error_bytes(vm) <= 100 * MIB - 20 * MIB);
	struct books b = *core_books(k->core);
	b.pool_bytes = b.committed_max_bytes / 2;
	assert_true(vm_doubted(vm, &b));
	b.pool_bytes = b.committed_max_bytes; /* within what all have alike there is nothing to doubt */
	assert_false(vm_doubted(vm, &b));
	/* a small share is no reason to take what it touches */
	b.pool_bytes = MIB;
	uint64_t touched = vm_wss_bytes(vm) + vm->wss.error_bytes + vm->headroom_bytes;
	assert_int_equal(vm_credit_bytes(vm, &b), touched);
	/* and that is what people are told, for the reason that it is */
	char text[64];
	snprintf(text, sizeof(text), "beyond %llu MiB, what it touches", (unsigned long long)(touched / MIB));
	assert_null(doubt(k, b.committed_max_bytes));
	assert_non_null(strstr(doubt(k, MIB), text));
	assert_non_null(strstr(doubt(k, MIB), "touches less than half"));
	assert_non_null(strstr(doubt(k, b.committed_max_bytes / 2), "beyond 512 MiB, its fair share"));
	vm->insatiable = true;
	assert_non_null(strstr(doubt(k, MIB), "its maximum did not end that"));
	assert_non_null(strstr(doubt(k, MIB), text));
	vm->insatiable = false;
	/* it touches more now: its word is as good as another's */
	wss(k, 600 * MIB, 20 * MIB);
	assert_false(vm->wss_overclaims);
	wss(k, 100 * MIB, 20 * MIB);
	assert_true(vm->wss_overclaims);
	/* evidence that is not believed any more is none */
	unknown(k, "its memory was reclaimed from");
	k->now_ms += 181000;
	seconds(k, 3, MIB, 8 * MIB);
	assert_true(vm->needy);
	b.pool_bytes = b.committed_max_bytes / 2;
	assert_false(vm_doubted(vm, &b));
	assert_null(explained(k, "claim"));
	seconds(k, 30, MIB, 8 * MIB);
	wss(k, 100 * MIB, 20 * MIB);
	assert_true(vm->wss_overclaims);
	/* its need ends */
	seconds(k, 30, 800 * MIB, 0);
	assert_false(vm->needy || vm->wss_overclaims);
}

/* Where its host sees by its faults whether it lacks memory, its word is not needed: it counts as one that is silent.
 */
static void who_claims_to_need_and_touches_little_is_not_listened_to(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	const struct core_config *c = core_config(k->core);
	k->now_ms += 1000;
	vm->actual_bytes = 900 * MIB;
	seconds(k, 45, MIB, 8 * MIB);
	assert_true(vm->needy && !vm->distrusted);
	assert_true(vm->demand_bytes > 800 * MIB);
	wss(k, 100 * MIB, 20 * MIB);
	const struct effect *told = kit_record(k, RECORD_DISTRUSTED, 1);
	assert_non_null(told);
	assert_non_null(strstr(told->reason, "touches 100 of "));
	assert_true(vm->distrusted && !vm->needy && !vm->wss_overclaims);
	assert_int_equal(vm->demand_bytes, 120 * MIB); /* at once: what it said is forgotten */
	assert_true(vm_by_limit_alone(vm, &(struct vm_ctx){.config = c, .host = &k->host, .now_ms = k->now_ms}));
	assert_true(vm_stats_recent(vm, c, k->now_ms) && !vm_stats_fresh(vm, c, k->now_ms));
	assert_non_null(strstr(explained(k, "usable")->text, "not believed"));
	/* It goes on claiming, and is neither needy nor silent for that. */
	for (unsigned i = 0; i < 15; i++) {
		seconds(k, 60, MIB, 8 * MIB);
		wss(k, 100 * MIB, 20 * MIB);
	}
	assert_true(vm->distrusted && !vm->needy && !vm->silent && !vm->double_swap);
	assert_int_equal(vm->demand_bytes, 120 * MIB);
	/* Its host sees it fault at its limit: that is need, whoever it is. */
	vm->limit_known = true;
	vm->limit_bytes = 300 * MIB;
	k->now_ms += 1000;
	kit_sample(k, 1, 300 * MIB, 300 * MIB, 0);
	k->now_ms += 1000;
	kit_sample(k, 1, 300 * MIB, 300 * MIB, 100000);
	kit_tick(k, 0);
	assert_true(vm->needy && vm->host_need);
	vm->limit_bytes = LIMIT_NONE;
	/* It lacks nothing with an empty balloon, and says so; but not that it uses no more than it touches. */
	for (unsigned i = 0; i < 15; i++) {
		seconds(k, 60, 500 * MIB, 0);
		wss(k, 100 * MIB, 20 * MIB);
	}
	assert_true(vm->distrusted);
	/* Both are true for ten minutes. */
	for (unsigned i = 0; i < 9; i++) {
		seconds(k, 60, 500 * MIB, 0);
		wss(k, 300 * MIB, 20 * MIB);
		assert_true(vm->distrusted);
	}
	seconds(k, 1, MIB, 8 * MIB); /* once more */
	seconds(k, 59, 500 * MIB, 0);
	wss(k, 300 * MIB, 20 * MIB);
	assert_true(vm->distrusted);
	for (unsigned i = 0; i < 9; i++) {
		seconds(k, 60, 500 * MIB, 0);
		wss(k, 300 * MIB, 20 * MIB);
	}
	seconds(k, 2, 500 * MIB, 0);
	assert_false(vm->distrusted);
	seconds(k, 1, 500 * MIB, 0);
	assert_in_range(vm->demand_bytes, 400 * MIB, 700 * MIB); /* by its own word again */
}

/* Each way that its word becomes the only one; and what is none. */
static void distrust_ends_with_what_it_rests_on(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	vm->actual_bytes = 900 * MIB;
	for (unsigned why = 0; why < 3; why++) {
		seconds(k, 45, MIB, 8 * MIB);
		assert_true(vm->needy);
		wss(k, 100 * MIB, 20 * MIB);
		assert_true(vm->distrusted && vm->by_limit);
		k->host.swap_free_bytes = 0; /* that passes */
		kit_tick(k, 1000);
		seconds(k, 2, MIB, 8 * MIB);
		assert_true(core_books(k->core)->swap_low && vm->distrusted);
		k->host.swap_free_bytes = GIB;
		kit_tick(k, 1000);
		if (why == 0)
			vm->facts.policy.swap = false;		/* limits are forbidden */
		for (unsigned i = 0; why == 1 && i < 16; i++) { /* nor is a while without a reading */
			assert_true(vm->distrusted || i > 11);
			k->now_ms += 60000;
			seconds(k, 1, MIB, 8 * MIB);
		}
		if (why == 2)
			kit_signal(k, EVENT_VM_REBOOTED, 1); /* another guest */
		seconds(k, 2, MIB, 8 * MIB);
		assert_false(vm->distrusted);
		vm->facts.policy.swap = true;
		k->now_ms += 1000;
	}
	assert_false(vm->by_limit);
}

/* Ten minutes in which it could not speak are not ten minutes without a claim; and whoever is found out again waits
 * longer. */
static void trust_comes_back_later_each_time(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	for (unsigned times = 0; times < 3; times++) {
		unsigned minutes = 0;
		vm->actual_bytes = 900 * MIB;
		vm->limit_bytes = LIMIT_NONE;
		seconds(k, 45, MIB, 8 * MIB);
		wss(k, 100 * MIB, 20 * MIB);
		assert_true(vm->distrusted);
		for (unsigned i = 0; i < 15; i++) { /* silent, and measured */
			for (unsigned s = 0; s < 6; s++) {
				k->now_ms += 10000;
				kit_sample(k, 1, GIB, LIMIT_NONE, 0);
				kit_tick(k, 0);
			}
			wss(k, 100 * MIB, 20 * MIB);
		}
		for (; vm->distrusted && minutes < 100; minutes++) {
			seconds(k, 60, 500 * MIB, 0);
			wss(k, 300 * MIB, 20 * MIB);
		}
		assert_in_range(minutes, 10U << times, (10U << times) + 1);
	}
}

/* It claims to be in need, but never for a whole window: it keeps what it has while nobody lacks it, and no longer. */
static void a_claim_with_pauses_is_found_out_where_others_lack_memory(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	vm->actual_bytes = 900 * MIB;
	for (unsigned i = 0; i < 24; i++) {
		assert_false(vm_wss_untouched(vm, k->now_ms));
		for (unsigned half = 0; half < 2; half++) {
			seconds(k, 10, MIB, 8 * MIB);
			seconds(k, 5, 500 * MIB, 0);
		}
		wss(k, 100 * MIB, 20 * MIB);
		assert_true(!vm->wss_overclaims && !vm->distrusted);
		if (vm_wss_untouched(vm, k->now_ms))
			break;
	}
	assert_true(vm_wss_untouched(vm, k->now_ms));
	assert_non_null(strstr(explained(k, "claim")->text, "for 10 min"));
	seconds(k, 5, MIB, 8 * MIB);
	struct vm_ctx x = {.config = core_config(k->core), .host = &k->host, .now_ms = k->now_ms, .out = &k->out};
	assert_true(vm->needy && !vm_hoards(vm, &x)); /* it is to be served, and may not be hit for that */
	seconds(k, 10, 500 * MIB, 0);
	x.now_ms = k->now_ms;
	assert_false(vm->needy);
	assert_true(vm_hoards(vm, &x));
	vm->facts.policy.swap = false; /* its word is all there is */
	assert_false(vm_hoards(vm, &x));
	vm->facts.policy.swap = true;
	uint64_t said = vm->demand_bytes;
	vm->demand_bytes += vm->demand_bytes / 2; /* that no window has seen */
	assert_false(vm_hoards(vm, &x));
	vm->demand_bytes = said;
	kit_signal(k, EVENT_VM_PAUSED, 1);
	kit_signal(k, EVENT_VM_RUNNING, 1);
	assert_false(vm_hoards(vm, &x));
}

static void an_honest_needy_guest_is_not_doubted(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	vm->actual_bytes = 900 * MIB;
	seconds(k, 40, MIB, 8 * MIB);
	assert_true(vm->needy);
	wss(k, 850 * MIB, 20 * MIB);
	assert_false(vm->wss_overclaims);
	unknown(k, "cannot be told");
	assert_false(vm->wss_overclaims);
}

/* What a guest of 1 GiB, all of which it has, says of itself. */
static struct event says(uint64_t usable_bytes, uint64_t unused_bytes)
{
	return (struct event){.type = EVENT_VM_STATS,
			      .vm = 1,
			      .stats = {.has_actual = true,
					.has_usable = true,
					.has_unused = true,
					.has_available = true,
					.actual_bytes = GIB,
					.usable_bytes = usable_bytes,
					.unused_bytes = unused_bytes,
					.available_bytes = GIB}};
}

/* The same once a second. */
static void hear(struct kit *k, struct event *ev, unsigned times)
{
	for (unsigned i = 0; i < times; i++) {
		k->now_ms += 1000;
		ev->stats.last_update_s = kit_vm(k, 1)->stats.last_update_s + 1;
		assert_int_equal(kit_step(k, ev), 0);
	}
}

static void who_claims_to_use_nothing_has_what_it_touches(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, GIB - 10 * MIB);
	struct event ev = says(GIB - 10 * MIB, GIB - 50 * MIB);

	hear(k, &ev, 40);
	assert_int_equal(vm->demand_bytes, 10 * MIB);
	wss(k, 150 * MIB, 20 * MIB); /* free memory that comes and goes is touched, too */
	assert_false(vm->wss_underclaims);
	assert_int_equal(vm->demand_bytes, 10 * MIB);
	wss(k, 600 * MIB, 20 * MIB);
	assert_true(vm->wss_underclaims);
	assert_int_equal(vm->demand_bytes, 600 * MIB);
	assert_non_null(explained(k, "claim"));
	/* it says so itself: nothing is to be corrected */
	ev.stats.usable_bytes = 300 * MIB;
	ev.stats.unused_bytes = 250 * MIB;
	hear(k, &ev, 3);
	wss(k, 600 * MIB, 20 * MIB);
	assert_false(vm->wss_underclaims);
}

/* Only `usable` is forged: nothing is free, and there is no page cache that would be what it touches. */
static void one_forged_statistic_is_held_against_the_others(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, GIB - 10 * MIB);
	struct event ev = says(GIB - 10 * MIB, 0);

	ev.stats.has_disk_caches = true;
	ev.stats.disk_caches_bytes = 50 * MIB;
	hear(k, &ev, 40);
	/* 10 MiB used, 50 of page cache, 128 of its kernel's caches, and a tenth of all: 290 MiB may be touched */
	wss(k, 300 * MIB, 20 * MIB);
	assert_false(vm->wss_underclaims);
	wss(k, 330 * MIB, 20 * MIB);
	assert_true(vm->wss_underclaims);
	assert_true(vm->demand_bytes >= 300 * MIB);
	/* the page cache is that large: it may touch it */
	ev.stats.disk_caches_bytes = 900 * MIB;
	hear(k, &ev, 1);
	wss(k, 600 * MIB, 20 * MIB);
	assert_false(vm->wss_underclaims);
}

/* What it used in the window, not what it uses now, is compared with what it touched in it. */
static void who_has_just_given_memory_back_does_not_lie(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 200 * MIB);
	seconds(k, 20, 200 * MIB, 0);
	seconds(k, 5, 900 * MIB, 0);
	struct event ev = {.type = EVENT_VM_STATS, .vm = 1, .stats = vm->stats};
	ev.stats.has_unused = true;
	ev.stats.unused_bytes = 890 * MIB;
	ev.stats.last_update_s++;
	k->now_ms += 1000;
	assert_int_equal(kit_step(k, &ev), 0);
	wss(k, 800 * MIB, 20 * MIB);
	assert_false(vm->wss_underclaims);
}

/* ---- another guest ---- */

static void a_reboot_forgets_and_its_windows_too(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	k->now_ms += 60000;
	wss(k, 700 * MIB, 20 * MIB);
	assert_true(vm_wss_known(vm, k->now_ms));
	uint64_t began_ms = k->now_ms;
	k->now_ms += 10000;
	kit_signal(k, EVENT_VM_REBOOTED, 1);
	assert_false(vm_wss_known(vm, k->now_ms));
	k->now_ms += 20000;
	wss_from(k, 700 * MIB, 20 * MIB, began_ms); /* of the guest of before */
	assert_false(vm_wss_known(vm, k->now_ms));
	k->now_ms += 30000;
	wss(k, 50 * MIB, 20 * MIB);
	assert_true(vm_wss_known(vm, k->now_ms));
	assert_int_equal(vm_wss_bytes(vm), 50 * MIB);
}

static void a_window_with_a_pause_says_nothing(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	k->now_ms += 60000;
	wss(k, 700 * MIB, 20 * MIB);
	uint64_t began_ms = k->now_ms;
	k->now_ms += 1000;
	kit_signal(k, EVENT_VM_PAUSED, 1);
	k->now_ms += 29000;
	wss_from(k, 10 * MIB, 20 * MIB, began_ms); /* of one second, and it stands still yet */
	assert_int_equal(vm_wss_bytes(vm), 700 * MIB);
	k->now_ms += 31000;
	wss(k, 0, 20 * MIB); /* begun and ended within the pause */
	assert_int_equal(vm_wss_bytes(vm), 700 * MIB);
	assert_int_equal(vm->wss_average.readings, 1);
	kit_signal(k, EVENT_VM_RUNNING, 1);
	wss_from(k, 10 * MIB, 20 * MIB, began_ms);
	wss(k, 0, 20 * MIB);
	assert_int_equal(vm_wss_bytes(vm), 700 * MIB);
	k->now_ms += 30000;
	wss(k, 720 * MIB, 20 * MIB);
	assert_int_equal(vm->wss_average.readings, 2);
}

/* QEMU reads all of it to send it. */
static void a_window_with_a_migration_says_nothing(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	k->now_ms += 60000;
	wss(k, 200 * MIB, 20 * MIB);
	kit_signal(k, EVENT_VM_MIGRATING_OUT, 1);
	k->now_ms += 30000;
	wss(k, GIB, 20 * MIB);
	assert_int_equal(vm_wss_bytes(vm), 200 * MIB);
	kit_signal(k, EVENT_VM_MIGRATION_OVER, 1);
	k->now_ms += 10000;
	wss(k, GIB, 20 * MIB);
	assert_int_equal(vm_wss_bytes(vm), 200 * MIB);
	k->now_ms += 20000;
	wss(k, 220 * MIB, 20 * MIB);
	assert_int_equal(vm->wss_average.readings, 2);
}

static void nonsense_is_bounded(void **state)
{
	struct kit *k = *state;
	struct vm *vm = kit_steady(k, 1, GIB, 800 * MIB);
	k->now_ms += 60000;
	wss(k, UINT64_MAX, UINT64_MAX);
	assert_int_equal(vm_wss_bytes(vm), GIB);
	struct event ev = {.type = EVENT_VM_WSS, .vm = 7};
	assert_int_equal(kit_step(k, &ev), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_silent_guest_is_judged_by_what_it_touches, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(who_claims_to_need_and_touches_little_is_not_listened_to, open_kit,
						close_kit),
		cmocka_unit_test_setup_teardown(distrust_ends_with_what_it_rests_on, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(trust_comes_back_later_each_time, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(who_claims_to_need_and_touches_little_is_doubted, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_claim_with_pauses_is_found_out_where_others_lack_memory, open_kit,
						close_kit),
		cmocka_unit_test_setup_teardown(an_honest_needy_guest_is_not_doubted, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(who_claims_to_use_nothing_has_what_it_touches, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(one_forged_statistic_is_held_against_the_others, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(who_has_just_given_memory_back_does_not_lie, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_reboot_forgets_and_its_windows_too, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_window_with_a_pause_says_nothing, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(a_window_with_a_migration_says_nothing, open_kit, close_kit),
		cmocka_unit_test_setup_teardown(nonsense_is_bounded, open_kit, close_kit),
	};
	return cmocka_run_group_tests_name("core_wss", tests, NULL, NULL);
}
