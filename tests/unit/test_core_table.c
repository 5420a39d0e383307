/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every cell of the VM's table, twice: against a table written here from the prose of the architecture ("A VM's life"),
 * and executed on VMs in many conditions with what must hold whatever happens.
 */
#include "tests/unit/core_kit.h"

struct expected {
	enum vm_state state;
	enum vm_signal sig;
	enum vm_state next;
	const char *action;
};

/* All that is not listed stays where it is and does nothing. */
static const struct expected exceptions[] = {
	/* "leaves on first fresh guest statistics, or grace timer" */
	{VM_STARTING, SIG_FRESH, VM_STEADY, "begin"},
	{VM_STARTING, SIG_GRACE, VM_STEADY, "begin"},
	{VM_STARTING, SIG_RUNNING, VM_STARTING, "await"},
	{VM_REBOOTING, SIG_FRESH, VM_STEADY, "begin"},
	{VM_REBOOTING, SIG_GRACE, VM_STEADY, "begin"},
	/* "steady: leaves on new target, pressure, lifecycle event" */
	{VM_STEADY, SIG_LOWER, VM_SHRINKING_BALLOON, "shrink"},
	{VM_STEADY, SIG_LOWER_NOW, VM_SHRINKING_LIMIT, "shrink_now"},
	{VM_STEADY, SIG_RAISE, VM_GROWING_LIMIT, "grow"},
	{VM_STEADY, SIG_RETRY, VM_SHRINKING_BALLOON, "retry"},
	/* "shrink: balloon first, then limit"; "target reached; progress timer runs out" */
	{VM_SHRINKING_BALLOON, SIG_LOWER, VM_SHRINKING_BALLOON, "shrink"},
	{VM_SHRINKING_BALLOON, SIG_LOWER_NOW, VM_SHRINKING_LIMIT, "shrink_now"},
	{VM_SHRINKING_BALLOON, SIG_RAISE, VM_GROWING_LIMIT, "grow"},
	{VM_SHRINKING_BALLOON, SIG_BALLOON_DONE, VM_SHRINKING_LIMIT, "limit_rest"},
	{VM_SHRINKING_BALLOON, SIG_BALLOON_STALL, VM_SHRINKING_LIMIT, "stalled"},
	{VM_SHRINKING_BALLOON, SIG_BALLOON_SKIP, VM_SHRINKING_LIMIT, "limit_rest"},
	{VM_SHRINKING_BALLOON, SIG_NEEDY, VM_STEADY, "halt"},
	/* "target reached; VM became needy" */
	{VM_SHRINKING_LIMIT, SIG_LOWER, VM_SHRINKING_BALLOON, "shrink"},
	{VM_SHRINKING_LIMIT, SIG_LOWER_NOW, VM_SHRINKING_LIMIT, "shrink_now"},
	{VM_SHRINKING_LIMIT, SIG_RAISE, VM_GROWING_LIMIT, "grow"},
	{VM_SHRINKING_LIMIT, SIG_BALLOON_DONE, VM_SHRINKING_LIMIT, "limit_rest"},
	{VM_SHRINKING_LIMIT, SIG_BALLOON_STALL, VM_SHRINKING_LIMIT, "stalled"},
	{VM_SHRINKING_LIMIT, SIG_LIMIT_DONE, VM_STEADY, "settle"},
	{VM_SHRINKING_LIMIT, SIG_LIMIT_FAIL, VM_STEADY, "give_up"},
	{VM_SHRINKING_LIMIT, SIG_NEEDY, VM_STEADY, "halt"},
	/* "grow: limit first, then balloon" */
	{VM_GROWING_LIMIT, SIG_LOWER, VM_SHRINKING_BALLOON, "shrink"},
	{VM_GROWING_LIMIT, SIG_LOWER_NOW, VM_SHRINKING_LIMIT, "shrink_now"},
	{VM_GROWING_LIMIT, SIG_RAISE, VM_GROWING_LIMIT, "grow"},
	{VM_GROWING_LIMIT, SIG_LIMIT_DONE, VM_GROWING_BALLOON, "grow_balloon"},
	{VM_GROWING_LIMIT, SIG_LIMIT_FAIL, VM_STEADY, "give_up"},
	{VM_GROWING_BALLOON, SIG_LOWER, VM_SHRINKING_BALLOON, "shrink"},
	{VM_GROWING_BALLOON, SIG_LOWER_NOW, VM_SHRINKING_LIMIT, "shrink_now"},
	{VM_GROWING_BALLOON, SIG_RAISE, VM_GROWING_LIMIT, "grow"},
	{VM_GROWING_BALLOON, SIG_BALLOON_DONE, VM_STEADY, "settle"},
	{VM_GROWING_BALLOON, SIG_BALLOON_STALL, VM_STEADY, "stalled_growing"},
	{VM_GROWING_BALLOON, SIG_BALLOON_SKIP, VM_STEADY, "settle"},
	/* "paused: leaves on resumed" */
	{VM_PAUSED, SIG_RUNNING, VM_STEADY, "resume"},
	{VM_PAUSED, SIG_REBOOT, VM_PAUSED, "reboot_paused"},
	{VM_PAUSED, SIG_MIGRATE_OUT, VM_MIGRATING_OUT, "freeze"},
	{VM_PAUSED, SIG_STOP, VM_STOPPING, "forget"},
	{VM_PAUSED, SIG_FIX, VM_FIXED, "fix"},
	/* "migrating-out: leaves on migration done or failed" */
	{VM_MIGRATING_OUT, SIG_MIGRATE_OVER, VM_STEADY, "resume"},
	{VM_MIGRATING_OUT, SIG_REBOOT, VM_MIGRATING_OUT, "note_reboot"},
	{VM_MIGRATING_OUT, SIG_STOP, VM_STOPPING, "forget"},
	/* "migrating-in: leaves on resumed here" */
	{VM_MIGRATING_IN, SIG_RUNNING, VM_STARTING, "await"},
	{VM_MIGRATING_IN, SIG_STOP, VM_STOPPING, "forget"},
	{VM_MIGRATING_IN, SIG_FIX, VM_FIXED, "fix"},
	/* "fixed: leaves on configuration change" */
	{VM_FIXED, SIG_REBOOT, VM_FIXED, "note_reboot"},
	{VM_FIXED, SIG_STOP, VM_STOPPING, "forget"},
	{VM_FIXED, SIG_UNFIX, VM_STARTING, "await"},
};

/* Lifecycle means the same wherever the guest runs under memoc's hand. */
static const struct expected lifecycle[] = {
	{0, SIG_REBOOT, VM_REBOOTING, "reboot"}, {0, SIG_PAUSE, VM_PAUSED, "freeze"},
	{0, SIG_STOP, VM_STOPPING, "forget"},	 {0, SIG_MIGRATE_OUT, VM_MIGRATING_OUT, "freeze"},
	{0, SIG_FIX, VM_FIXED, "fix"},
};

static bool under_hand(enum vm_state s)
{
	return s <= VM_REBOOTING;
}

static bool transitional(enum vm_state s)
{
	return s == VM_STARTING || s == VM_REBOOTING || (s >= VM_SHRINKING_BALLOON && s <= VM_GROWING_BALLOON);
}

static struct expected expected_of(enum vm_state state, enum vm_signal sig)
{
	for (size_t i = 0; i < ARRAY_SIZE(exceptions); i++)
		if (exceptions[i].state == state && exceptions[i].sig == sig)
			return exceptions[i];
	for (size_t i = 0; under_hand(state) && i < ARRAY_SIZE(lifecycle); i++)
		if (lifecycle[i].sig == sig)
			return lifecycle[i];
	return (struct expected){state, sig, state, "nothing"};
}

static void every_cell_is_as_written(void **unused)
{
	unsigned cells = 0;
	for (int s = 1; s < VM_STATE_END; s++) {
		for (int sig = 1; sig < SIG_END; sig++) {
			struct expected e = expected_of(s, sig);
			const char *action = NULL;
			enum vm_state next = vm_table_next(s, sig, &action);
			if (next != e.next || !action || strcmp(action, e.action) != 0)
				fail_msg("%s on %s: %s/%s, expected %s/%s", vm_state_name(s), vm_signal_name(sig),
					 vm_state_name(next), action ? action : "(zero cell)", vm_state_name(e.next),
					 e.action);
			cells++;
		}
	}
	assert_int_equal(cells, 12 * 20);
}

static void every_state_and_signal_has_a_name(void **unused)
{
	for (int s = 1; s < VM_STATE_END; s++)
		assert_string_not_equal(vm_state_name(s), "?");
	for (int sig = 1; sig < SIG_END; sig++)
		assert_string_not_equal(vm_signal_name(sig), "?");
	for (int r = 1; r < RECORD_END; r++)
		assert_string_not_equal(record_name(r), "?");
	assert_string_equal(vm_state_name(VM_STATE_END), "?");
	assert_string_equal(record_name(0), "?");
	assert_string_equal(balloon_health_name(BALLOON_HEALTH_END), "?");
	assert_string_equal(host_level_name(LEVEL_END), "?");
}

static void every_state_but_stopping_leads_to_stopping(void **unused)
{
	for (int s = 1; s < VM_STATE_END; s++)
		assert_int_equal(vm_table_next(s, SIG_STOP, NULL), VM_STOPPING);
	for (int sig = 1; sig < SIG_END; sig++)
		assert_int_equal(vm_table_next(VM_STOPPING, sig, NULL), VM_STOPPING);
}

/* ---- cells executed ---- */

struct condition {
	enum balloon_health health;
	uint64_t limit_bytes; /* LIMIT_NONE = open */
	bool limit_pending, swap, sampled, needy, quarantined, observe;
	uint64_t target_bytes;
};

#define VM_MAX (512 * MIB)
#define VM_RESIDENT (400 * MIB)

static struct vm *vm_in(struct kit *k, enum vm_state state, const struct condition *cond)
{
	struct vm *vm = kit_vm(k, 1);
	vm->state = state;
	vm->health = cond->health;
	vm->actual_bytes = 420 * MIB;
	vm->actual_trusted = cond->health != BALLOON_ABSENT && cond->health != BALLOON_UNKNOWN;
	vm->floor_bytes = cond->health == BALLOON_STALLED ? 420 * MIB : 0;
	vm->has_sample = cond->sampled;
	vm->sample = (struct vm_host_sample){
		.has_memory = cond->sampled, .resident_bytes = VM_RESIDENT, .limit_bytes = cond->limit_bytes};
	vm->sample_ms = vm->change_ms = k->now_ms;
	vm->limit_known = true;
	vm->limit_bytes = cond->limit_bytes;
	vm->limit_ours = cond->limit_bytes != LIMIT_NONE || cond->limit_pending;
	vm->limit_pending = cond->limit_pending;
	vm->limit_asked_bytes = cond->limit_pending ? 300 * MIB : cond->limit_bytes;
	vm->limit_sent_ms = k->now_ms;
	vm->target_bytes = vm->balloon_asked_bytes = cond->target_bytes;
	vm->needy = cond->needy;
	vm->quarantined = cond->quarantined;
	vm->deadline_ms = transitional(state) ? k->now_ms + 3000 : NEVER_MS;
	vm->op_ms = state == VM_SHRINKING_BALLOON || state == VM_GROWING_BALLOON ? k->now_ms : NEVER_MS;
	vm->op_growing = state == VM_GROWING_BALLOON;
	if (state == VM_GROWING_LIMIT)
		vm->limit_pending = true;
	return vm;
}

/* Returns what is wrong, or NULL. */
static const char *broken(const struct vm *vm, const struct condition *cond, const struct effects *out)
{
	static char why[160];
	if (vm->state < VM_STARTING || vm->state >= VM_STATE_END)
		return "no such state";
	if (vm->target_bytes > vm->facts.max_bytes)
		return "target above maximum";
	if (out->dropped)
		return "effects lost";
	for (size_t i = 0; i < out->n; i++) {
		const struct effect *e = &out->list[i];
		snprintf(why, sizeof(why), "effect %d of %llu MiB: ", e->type, (unsigned long long)(e->bytes / MIB));
		if (e->type == EFFECT_LIMIT && !cond->swap && e->bytes < VM_RESIDENT)
			return strcat(why, "limit below residency without swap");
		if (e->type == EFFECT_LIMIT && cond->observe)
			return strcat(why, "limit while observing");
		if (e->type == EFFECT_BALLOON && (e->bytes == 0 || e->bytes > vm->facts.max_bytes))
			return strcat(why, "balloon outside 1..max");
		if (e->type == EFFECT_BALLOON && (cond->quarantined || cond->observe))
			return strcat(why, "balloon that may not be asked");
		if (e->type == EFFECT_RECORD && !e->reason[0] && e->record == RECORD_STATE)
			return strcat(why, "state change without reason");
	}
	return NULL;
}

static bool waits_for_something(const struct vm *vm)
{
	switch (vm->state) {
	case VM_STARTING:
	case VM_REBOOTING:
	case VM_SHRINKING_BALLOON:
	case VM_GROWING_BALLOON:
		return vm->deadline_ms != NEVER_MS;
	case VM_GROWING_LIMIT:
		return vm->limit_pending;
	default:
		return true;
	}
}

/* Nobody answers, nothing moves, no sample comes: after two minutes no VM may still be under way. */
static void wait_in_vain(struct vm *vm, struct vm_ctx *x)
{
	for (int s = 0; s < 240 && transitional(vm->state); s++) {
		x->now_ms += 500;
		x->out->n = 0;
		vm_timer(vm, x);
		if (s % 2 == 0)
			vm_maintain(vm, x);
	}
}

static void run_cell(enum vm_state state, enum vm_signal sig, const struct condition *cond)
{
	struct kit k;
	kit_open(&k, NULL);
	kit_add(&k, 1, VM_MAX);
	struct vm *vm = vm_in(&k, state, cond);
	struct effect list[32];
	struct effects out = {.list = list, .capacity = ARRAY_SIZE(list)};
	k.config.observe = cond->observe;
	k.host.swap_total_bytes = k.host.swap_free_bytes = cond->swap ? GIB : 0;
	struct vm_ctx x = {.config = &k.config, .host = &k.host, .level = LEVEL_SOFT, .now_ms = k.now_ms, .out = &out};
	vm_signal(vm, sig, &x);
	const char *why = broken(vm, cond, &out);
	if (!why && state == VM_STOPPING && (vm->state != VM_STOPPING || out.n))
		why = "stopping is not final";
	if (!why && !waits_for_something(vm))
		why = "waits for nothing";
	enum vm_state now = vm->state;
	if (!why) {
		wait_in_vain(vm, &x);
		why = transitional(vm->state) ? "never comes out" : broken(vm, cond, &out);
	}
	if (why)
		fail_msg("%s on %s (%s, limit %lld MiB%s%s%s%s%s%s, target %llu MiB) -> %s -> %s: %s",
			 vm_state_name(state), vm_signal_name(sig), balloon_health_name(cond->health),
			 cond->limit_bytes == LIMIT_NONE ? -1LL : (long long)(cond->limit_bytes / MIB),
			 cond->limit_pending ? " pending" : "", cond->swap ? "" : ", no swap",
			 cond->sampled ? "" : ", no sample", cond->needy ? ", needy" : "",
			 cond->quarantined ? ", quarantined" : "", cond->observe ? ", observe" : "",
			 (unsigned long long)(cond->target_bytes / MIB), vm_state_name(now), vm_state_name(vm->state),
			 why);
	kit_close(&k);
}

static void run_cells(const struct condition *cond)
{
	for (int s = 1; s < VM_STATE_END; s++)
		for (int sig = 1; sig < SIG_END; sig++)
			run_cell(s, sig, cond);
}

static void every_cell_holds_in_every_condition(void **unused)
{
	static const uint64_t targets[] = {0, 128 * MIB, 420 * MIB, VM_MAX};
	for (int health = BALLOON_UNKNOWN; health < BALLOON_HEALTH_END; health++) {
		for (unsigned bits = 0; bits < 16; bits++) {
			for (size_t t = 0; t < ARRAY_SIZE(targets); t++) {
				struct condition cond = {.health = health,
							 .limit_bytes = bits & 1 ? 410 * MIB : LIMIT_NONE,
							 .swap = bits & 2,
							 .sampled = bits & 4,
							 .needy = bits & 8,
							 .target_bytes = targets[t]};
				/* A limit step can only be under way where limits are allowed. */
				cond.limit_pending = cond.swap && (bits & 1);
				run_cells(&cond);
			}
		}
	}
}

static void every_cell_holds_quarantined_or_observing(void **unused)
{
	for (int health = BALLOON_UNKNOWN; health < BALLOON_HEALTH_END; health++) {
		struct condition cond = {.health = health,
					 .limit_bytes = 410 * MIB,
					 .swap = true,
					 .sampled = true,
					 .quarantined = true,
					 .target_bytes = 300 * MIB};
		run_cells(&cond);
		cond.quarantined = false;
		cond.observe = true;
		run_cells(&cond);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_cell_is_as_written),
		cmocka_unit_test(every_state_and_signal_has_a_name),
		cmocka_unit_test(every_state_but_stopping_leads_to_stopping),
		cmocka_unit_test(every_cell_holds_in_every_condition),
		cmocka_unit_test(every_cell_holds_quarantined_or_observing),
	};
	return cmocka_run_group_tests_name("core_table", tests, NULL, NULL);
}
