/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The recording: that nothing a core decides by is left out of it, that a replay does the same byte for byte and says
 * where it does not, that no damage to a file does more than end its replay, and that the ring keeps within its bounds.
 */
#include "tests/unit/core_kit.h"
#include "tests/unit/alloc_fail.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "controller/record/format.h"

/* ---- the tables name every byte ---- */

#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
#define CLEAR_PADDING(p) __builtin_clear_padding(p)
#endif
#endif

#ifdef CLEAR_PADDING
/* `mask` has 0xff where the struct has something else than padding; each of these bytes is named exactly once. */
static void check_coverage(const struct layout *t, const uint8_t *mask, size_t from, size_t size)
{
	uint8_t named[4096] = {0};
	assert_true(from + size <= sizeof(named));
	for (size_t i = 0; i < t->n; i++) {
		const struct field *f = &t->list[i];
		for (size_t at = f->offset; at < (size_t)f->offset + f->size; at++) {
			if (named[at]++)
				fail_msg("%s.%s is in the table twice", t->name, f->name);
			assert_true(at >= from && at < from + size);
		}
	}
	for (size_t at = from; at < from + size; at++)
		if (mask[at] && !named[at])
			fail_msg("byte %zu of %s is in no field: add the new one to controller/record/layout.c", at,
				 t->name);
}

#define COVERAGE(table, type, object, from, size)                                                                      \
	do {                                                                                                           \
		union {                                                                                                \
			type one;                                                                                      \
			uint8_t bytes[sizeof(type)];                                                                   \
		} mask;                                                                                                \
		memset(&mask, 0xff, sizeof(mask));                                                                     \
		CLEAR_PADDING(&(object));                                                                              \
		check_coverage(table, mask.bytes, from, size);                                                         \
	} while (0)
#define COVERS(table, type) COVERAGE(table, type, mask.one, 0, sizeof(type))
#define COVERS_MEMBER(table, member)                                                                                   \
	COVERAGE(table, struct event, mask.one.member, offsetof(struct event, member),                                 \
		 sizeof(((struct event *)0)->member))

static void test_no_field_forgotten(void **state)
{
	COVERS(&layout_vm, struct vm);
	COVERS(&layout_image, struct core_image);
	COVERS(&layout_config, struct core_config);
	COVERS(&layout_host, struct host_sample);
	COVERS(&layout_stats, struct guest_stats);
	COVERS(&layout_sample, struct vm_host_sample);
	COVERS(&layout_facts, struct vm_facts);
	COVERS(&layout_effect, struct effect);
	COVERS_MEMBER(&layout_added, added);
	COVERS_MEMBER(&layout_result, result);
}
#else
static void test_no_field_forgotten(void **state)
{
	skip(); /* this compiler does not tell where padding is; another does */
}
#endif

/* ---- a recording in memory ---- */

#define SEGMENTS_MAX_TEST 64

struct tape {
	struct record_writer *writer;
	uint8_t *segments[SEGMENTS_MAX_TEST];
	size_t lengths[SEGMENTS_MAX_TEST], n;
};

static bool tape_name(void *user, vm_id vm, const char **ret_name, const char **ret_uuid)
{
	static char name[32], uuid[UUID_TEXT_LEN + 1];
	if (vm % 7 == 6)
		return false;
	snprintf(name, sizeof(name), "vm%u", vm);
	snprintf(uuid, sizeof(uuid), "00000000-0000-0000-0000-%012u", vm);
	*ret_name = name;
	*ret_uuid = uuid;
	return true;
}

static void tape_open(struct tape *t)
{
	const struct record_start start = {.session = 42, .total_bytes = 64 * MIB, .name = tape_name};
	memset(t, 0, sizeof(*t));
	assert_int_equal(record_writer_new(&start, &t->writer), 0);
}

static void tape_append(struct tape *t, const uint8_t *bytes, size_t n)
{
	size_t *length = &t->lengths[t->n - 1];
	t->segments[t->n - 1] = realloc(t->segments[t->n - 1], *length + n + 1);
	assert_non_null(t->segments[t->n - 1]);
	memcpy(t->segments[t->n - 1] + *length, bytes, n);
	*length += n;
}

static void tape_take(struct tape *t)
{
	struct record_block b;
	if (!record_writer_take(t->writer, &b))
		return;
	if (b.split)
		tape_append(t, b.bytes, b.split);
	if (b.split < b.n) {
		assert_true(t->n < SEGMENTS_MAX_TEST);
		t->n++;
		tape_append(t, b.bytes + b.split, b.n - b.split);
	}
	free(b.bytes);
}

static void tape_close(struct tape *t)
{
	record_writer_free(t->writer);
	for (size_t i = 0; i < t->n; i++)
		free(t->segments[i]);
}

/* Wall clock and monotonic clock are an hour apart. */
#define REALTIME(ms) ((ms) + 3600000)

static void tape_begin(struct tape *t, const struct kit *k)
{
	record_writer_begin(t->writer, k->core, REALTIME(k->now_ms), k->now_ms);
	assert_false(record_writer_wants_segment(t->writer));
}

static int tape_step(struct tape *t, struct kit *k, struct event *ev)
{
	int r = kit_step(k, ev);
	record_writer_event(t->writer, k->core, ev, r, &k->out);
	return r;
}

/* ---- replaying it ---- */

struct watched {
	uint64_t steps, effects, last_number, last_realtime_ms;
	char notes[4096];
	bool differs;
	char vm[64];
	int code, recorded_code;
	size_t n, recorded_n;
	uint64_t bytes, recorded_bytes; /* of the first effect */
};

static int watch_step(void *user, const struct replay *r, const struct replay_step *s)
{
	struct watched *w = user;
	w->steps++;
	w->effects += s->out->n;
	w->last_number = s->number;
	w->last_realtime_ms = s->realtime_ms;
	if (!s->differs) {
		assert_ptr_equal(s->out, s->recorded);
		return 0;
	}
	w->differs = true;
	snprintf(w->vm, sizeof(w->vm), "%s", s->vm);
	w->code = s->code;
	w->recorded_code = s->recorded_code;
	w->n = s->out->n;
	w->recorded_n = s->recorded->n;
	w->bytes = w->n ? s->out->list[0].to_bytes : 0;
	w->recorded_bytes = w->recorded_n ? s->recorded->list[0].to_bytes : 0;
	return 0;
}

static void watch_note(void *user, const char *text)
{
	struct watched *w = user;
	size_t used = strlen(w->notes);
	snprintf(w->notes + used, sizeof(w->notes) - used, "%s\n", text);
}

static int replay_bytes(struct replay *r, const uint8_t *bytes, size_t n, struct memoc_err *err)
{
	FILE *f = n ? fmemopen((void *)(uintptr_t)bytes, n, "r") : fopen("/dev/null", "re");
	assert_non_null(f);
	int result = replay_file(r, f, "tape", err);
	fclose(f);
	return result;
}

/* Segments from..to−1 of a tape. */
static int replay_tape(const struct tape *t, size_t from, size_t to, struct watched *w, struct replay_totals *totals,
		       struct memoc_err *err)
{
	const struct replay_hooks hooks = {.step = watch_step, .note = watch_note, .user = w};
	struct replay *r = NULL;
	int result = 0;
	memset(w, 0, sizeof(*w));
	*err = (struct memoc_err){0};
	assert_int_equal(replay_new(&hooks, &r), 0);
	for (size_t i = from; i < to && result == 0; i++)
		result = replay_bytes(r, t->segments[i], t->lengths[i], err);
	*totals = *replay_totals(r);
	replay_free(r);
	return result;
}

static void assert_same(const struct tape *t, size_t from, size_t to)
{
	struct watched w;
	struct replay_totals totals;
	struct memoc_err err;
	int r = replay_tape(t, from, to, &w, &totals, &err);
	if (r != 0)
		fail_msg("segments %zu to %zu: %d: %s (event %llu, %s)", from, to, r, err.text,
			 (unsigned long long)w.last_number, w.vm);
	assert_string_equal(w.notes, "");
	assert_false(totals.differs);
	assert_int_equal(totals.segments, to - from);
}

/* ---- random lives ---- */

static uint64_t rng = 1;

static uint64_t below(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % n;
}

static bool often(unsigned percent)
{
	return below(100) < percent;
}

static struct vm_facts random_facts(void)
{
	struct vm_facts f = kit_facts((1 + below(64)) * 64 * MIB);
	f.overhead_guess_bytes = below(64) * MIB;
	f.has_balloon = often(90);
	f.eligible = often(95);
	f.policy.min_bytes = often(30) ? f.max_bytes / 8 : 0;
	f.policy.weight = often(20) ? 1 + (uint32_t)below(500) : 100;
	f.policy.balloon = often(95);
	f.policy.swap = often(90);
	return f;
}

static struct guest_stats random_stats(const struct vm *vm)
{
	uint64_t max = vm->facts.max_bytes;
	struct guest_stats s = vm->stats;
	s.has_actual = often(97);
	s.has_usable = s.has_available = s.has_unused = often(95);
	s.has_swap = often(95);
	s.has_major_faults = s.has_disk_caches = often(80);
	s.actual_bytes = often(80) ? vm->balloon_asked_bytes ? vm->balloon_asked_bytes : max : max / 4 + below(max);
	s.available_bytes = often(90) ? s.actual_bytes - s.actual_bytes / 32 : below(max);
	s.usable_bytes = often(10) ? below(8 * MIB) : below(s.available_bytes + 1);
	s.unused_bytes = s.usable_bytes / 2;
	s.disk_caches_bytes = below(64 * MIB);
	s.swap_in_bytes += often(15) ? below(64 * MIB) : 0;
	s.swap_out_bytes += often(15) ? below(64 * MIB) : 0;
	s.major_faults += below(100);
	s.last_update_s += often(80) ? 1 : 0;
	return s;
}

static struct vm_host_sample random_sample(const struct vm *vm)
{
	struct vm_host_sample s = {.has_memory = often(98)};
	s.resident_bytes = often(50) ? vm->facts.max_bytes : below(vm->facts.max_bytes);
	s.swapped_bytes = often(20) ? below(256 * MIB) : 0;
	s.under_oom = often(1);
	s.limit_bytes = often(80) ? vm->limit_bytes : often(50) ? LIMIT_NONE : below(vm->facts.max_bytes);
	s.has_major_faults = often(95);
	s.major_faults = vm->sample.major_faults + (often(20) ? below(2000) : 0);
	s.has_refaults = s.has_psi = often(70);
	s.refaults = vm->sample.refaults + below(100);
	s.psi_some_us = vm->sample.psi_some_us + below(100000);
	s.has_overhead = often(20);
	s.overhead_bytes = below(96 * MIB);
	s.guest_ram_bytes = below(vm->facts.max_bytes);
	return s;
}

static struct event random_added(vm_id vm)
{
	struct event ev = {.type = EVENT_VM_ADDED, .vm = vm};
	ev.added.origin = 1 + below(3);
	ev.added.facts = random_facts();
	if (often(50))
		ev.added.memory = (struct vm_memory){.known = true,
						     .target_bytes = often(50) ? below(ev.added.facts.max_bytes) : 0,
						     .health = below(BALLOON_HEALTH_END),
						     .speed_bytes_per_s = below(GIB),
						     .retry_delay_ms = often(50) ? below(60000) : 0,
						     .pinned_bytes = often(10) ? 256 * MIB : 0,
						     .held = often(5),
						     .limit_ours = often(50),
						     .silent = often(10),
						     .distrusted = often(10)};
	return ev;
}

static struct event random_result(const struct vm *vm)
{
	struct event ev = {.type = EVENT_VM_RESULT};
	bool limit = vm->limit_pending ? often(80) : often(20);
	ev.result.op = limit ? OP_LIMIT : OP_BALLOON;
	ev.result.seq = limit ? vm->limit_seq : vm->balloon_seq;
	ev.result.code = often(90) ? 0 : -EBUSY;
	ev.result.bytes = often(90) ? vm->limit_asked_bytes : LIMIT_NONE;
	return ev;
}

static struct wss_reading random_wss(const struct vm *vm, uint64_t now_ms)
{
	struct wss_reading r = {.known = often(80),
				.backend = WSS_NONE + below(WSS_BACKEND_END - WSS_NONE),
				.wss_bytes = below(vm->facts.max_bytes),
				.error_bytes = below(64 * MIB),
				.began_ms = now_ms - below(40000),
				.good_ms = below(200000),
				.pages = below(2401),
				.cost_ns = below(10000000)};
	if (!r.known)
		snprintf(r.why, sizeof(r.why), "for reason %d", (int)below(100));
	return r;
}

static struct advice_report random_advice(void)
{
	struct advice_report r = {.over = often(20),
				  .swapped_bytes = below(GIB),
				  .untouched_bytes = below(GIB),
				  .out_bytes = below(GIB),
				  .stayed_bytes = below(64 * MIB),
				  .zero_bytes = below(GIB),
				  .zero_out_bytes = below(GIB),
				  .guest_bytes = below(64 * MIB),
				  .cost_ns = below(10000000)};
	if (often(10))
		snprintf(r.why, sizeof(r.why), "for reason %d", (int)below(100));
	return r;
}

/* `config` lives as long as the step. */
static struct event random_event(const struct kit *k, vm_id *next_id, struct core_config *config)
{
	static const enum event_type plain[] = {EVENT_VM_RUNNING,	EVENT_VM_PAUSED,	 EVENT_VM_REBOOTED,
						EVENT_VM_MIGRATING_OUT, EVENT_VM_MIGRATION_OVER, EVENT_VM_RUNNING};
	size_t n = core_vm_count(k->core);
	const struct vm *vm = n ? core_vm_at(k->core, below(n)) : NULL;
	struct event ev = {.type = EVENT_TICK, .host = k->host};
	unsigned what = (unsigned)below(1000);
	ev.host.mem_available_bytes = often(5) ? below(512 * MIB) : 2 * GIB + below(2 * GIB);
	ev.host.swap_free_bytes = often(5) ? below(64 * MIB) : GIB;
	ev.host.psi_some_avg10 = (double)below(10000) / 100;
	if (!vm || (n < 12 && what < 12))
		return random_added(often(90) ? (*next_id)++ : *next_id / 2);
	if (what < 200)
		return ev;
	if (what < 205) {
		size_t policies = 0;
		while (policy_list[policies])
			policies++;
		config->policy = policy_list[below(policies)];
		config->buffer_bytes = below(512 * MIB);
		config->observe = often(10);
		return (struct event){.type = EVENT_CONFIG, .config = config};
	}
	ev = (struct event){.type = EVENT_VM_STATS};
	if (what < 520)
		ev.stats = random_stats(vm);
	else if (what < 750)
		ev = (struct event){.type = often(30) ? EVENT_VM_RESIDENCY : EVENT_VM_SAMPLE,
				    .sample = random_sample(vm)};
	else if (what < 880)
		ev = random_result(vm);
	else if (what < 900)
		ev = (struct event){.type = EVENT_VM_BALLOON, .bytes = below(vm->facts.max_bytes)};
	else if (what < 920)
		ev = (struct event){.type = EVENT_VM_WSS, .wss = random_wss(vm, k->now_ms)};
	else if (what < 925)
		ev = (struct event){.type = EVENT_TIMER};
	else if (what < 930)
		ev = (struct event){.type = EVENT_VM_ADVICE, .advice = random_advice()};
	else if (what < 935)
		ev = (struct event){.type = EVENT_VM_MIGRATING_OUT,
				    .pass = often(20) ? PASS_POSTCOPY : (uint32_t)below(4)};
	else if (what < 950)
		ev = (struct event){.type = plain[below(ARRAY_SIZE(plain))]};
	else if (what < 960)
		ev = (struct event){.type = EVENT_VM_FACTS, .facts = random_facts()};
	else if (what < 970)
		ev = (struct event){.type = EVENT_VM_QUARANTINE, .flag = often(40)};
	else if (what < 980)
		ev = (struct event){.type = EVENT_VM_PIN, .bytes = often(50) ? below(4 * GIB) : 0};
	else if (what < 990)
		ev = (struct event){.type = EVENT_VM_HOLD, .flag = often(30)};
	else if (what < 991)
		ev = (struct event){.type = EVENT_VM_DRAIN};
	else if (what < 993)
		ev = (struct event){.type = EVENT_VM_TRIM, .flag = often(60)};
	else
		ev = (struct event){.type = EVENT_VM_STOPPING};
	if (ev.type != EVENT_TIMER)
		ev.vm = often(98) ? vm->id : often(50) ? 0 : *next_id + 3;
	return ev;
}

static void random_life(uint64_t seed, size_t steps, size_t segment_steps, struct tape *t)
{
	struct kit k;
	vm_id next_id = 1;
	rng = seed * 0x9e3779b97f4a7c15 + 1;
	kit_open(&k, NULL);
	struct core_config config = k.config;
	tape_open(t);
	tape_begin(t, &k);
	for (size_t i = 0; i < steps; i++) {
		struct event ev = random_event(&k, &next_id, &config);
		k.now_ms += below(300);
		tape_step(t, &k, &ev);
		if (often(2))
			tape_take(t);
		if (i % segment_steps == segment_steps - 1) {
			tape_take(t);
			tape_begin(t, &k);
		}
	}
	tape_take(t);
	assert_int_equal(record_writer_events(t->writer), steps);
	assert_int_equal(record_writer_events_lost(t->writer), 0);
	kit_close(&k);
}

/* All of it in one go, where each segment's snapshot is compared with the core run up to there; and each alone. */
static void test_random_lives(void **state)
{
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct tape t;
		struct watched w;
		struct replay_totals totals;
		struct memoc_err err;
		print_message("seed %llu\n", (unsigned long long)seed);
		random_life(seed, 6000, 500, &t);
		assert_same(&t, 0, t.n);
		for (size_t i = 0; i < t.n; i++)
			assert_same(&t, i, i + 1);
		assert_int_equal(replay_tape(&t, 0, t.n, &w, &totals, &err), 0);
		assert_int_equal(totals.events, 6000);
		assert_int_equal(w.last_number, 6000);
		assert_true(totals.effects > 500);
		assert_int_equal(totals.restarts, 0);
		assert_int_equal(totals.to_ms, w.last_realtime_ms);
		tape_close(&t);
	}
}

/* ---- differences ---- */

static struct event stats_event(const struct vm *vm, uint64_t usable_bytes)
{
	struct event ev = {.type = EVENT_VM_STATS, .vm = vm->id};
	ev.stats = (struct guest_stats){.has_actual = true,
					.has_usable = true,
					.has_available = true,
					.actual_bytes = vm->facts.max_bytes,
					.available_bytes = vm->facts.max_bytes,
					.usable_bytes = usable_bytes,
					.last_update_s = vm->stats.last_update_s + 1};
	return ev;
}

static void open_life(struct kit *k, struct tape *t)
{
	kit_open(k, NULL);
	kit_steady(k, 1, GIB, 512 * MIB);
	kit_steady(k, 2, GIB, 512 * MIB);
	tape_open(t);
	tape_begin(t, k);
	for (int i = 0; i < 5; i++) {
		struct event ev = {.type = EVENT_TICK, .host = k->host};
		k->now_ms += 1000;
		assert_int_equal(tape_step(t, k, &ev), 0);
	}
}

static void test_difference_in_effects(void **state)
{
	struct kit k;
	struct tape t;
	struct watched w;
	struct replay_totals totals;
	struct memoc_err err;
	open_life(&k, &t);
	struct event ev = {.type = EVENT_VM_PIN, .vm = 2, .bytes = 512 * MIB};
	assert_int_equal(kit_step(&k, &ev), 0);
	assert_true(k.out.n > 0);
	k.out.list[0].to_bytes++;
	uint64_t told = k.out.list[0].to_bytes;
	record_writer_event(t.writer, k.core, &ev, 0, &k.out);
	struct event after = {.type = EVENT_TICK, .host = k.host};
	tape_step(&t, &k, &after);
	tape_take(&t);
	assert_int_equal(replay_tape(&t, 0, 1, &w, &totals, &err), 1);
	assert_true(w.differs && totals.differs);
	assert_int_equal(totals.differs_at, 6);
	assert_int_equal(w.last_number, 6); /* and no further */
	assert_string_equal(w.vm, "vm2");
	assert_int_equal(w.n, w.recorded_n);
	assert_int_equal(w.recorded_bytes, told);
	assert_int_equal(w.bytes, told - 1);
	tape_close(&t);
	kit_close(&k);
}

static void test_difference_in_result(void **state)
{
	struct kit k;
	struct tape t;
	struct watched w;
	struct replay_totals totals;
	struct memoc_err err;
	open_life(&k, &t);
	struct event ev = {.type = EVENT_VM_RUNNING, .vm = 1};
	kit_step(&k, &ev);
	record_writer_event(t.writer, k.core, &ev, -ENOENT, &k.out);
	tape_take(&t);
	assert_int_equal(replay_tape(&t, 0, 1, &w, &totals, &err), 1);
	assert_int_equal(w.code, 0);
	assert_int_equal(w.recorded_code, -ENOENT);
	tape_close(&t);
	kit_close(&k);
}

/* No effect shows it: the state that the next segment begins with does. */
static void test_difference_in_state(void **state)
{
	struct kit k;
	struct tape t;
	struct watched w;
	struct replay_totals totals;
	struct memoc_err err;
	open_life(&k, &t);
	kit_vm(&k, 2)->hidden_bytes = 4711;
	tape_take(&t);
	tape_begin(&t, &k);
	tape_take(&t);
	assert_int_equal(replay_tape(&t, 0, 2, &w, &totals, &err), 1);
	assert_false(w.differs);
	assert_true(totals.differs);
	assert_non_null(strstr(err.text, "vm2: hidden_bytes was 4711, is 0 now"));
	assert_non_null(strstr(err.text, "event 5"));
	assert_same(&t, 1, 2);
	tape_close(&t);
	kit_close(&k);
}

/* ---- gaps ---- */

static void test_gap_and_restart(void **state)
{
	struct kit k;
	struct tape t, other;
	struct watched w;
	struct replay_totals totals;
	struct memoc_err err;
	open_life(&k, &t);
	tape_take(&t);
	record_writer_lost(t.writer, 2);
	assert_true(record_writer_wants_segment(t.writer));
	struct event ev = stats_event(kit_vm(&k, 1), 100 * MIB);
	tape_step(&t, &k, &ev); /* lost: nothing is open */
	tape_begin(&t, &k);
	struct event tick = {.type = EVENT_TICK, .host = k.host};
	tape_step(&t, &k, &tick);
	tape_take(&t);
	assert_int_equal(record_writer_events_lost(t.writer), 3);
	assert_int_equal(t.n, 2);
	assert_int_equal(replay_tape(&t, 0, 2, &w, &totals, &err), 0);
	assert_int_equal(totals.lost, 1); /* the other two are on this tape all the same */
	assert_non_null(strstr(w.notes, "events missing before tape: 1 "));

	tape_open(&other);
	record_writer_free(other.writer);
	const struct record_start start = {.session = 43, .total_bytes = 64 * MIB, .name = tape_name};
	assert_int_equal(record_writer_new(&start, &other.writer), 0);
	tape_begin(&other, &k);
	tape_step(&other, &k, &tick);
	struct record_block b;
	assert_true(record_writer_take(other.writer, &b));
	t.n++;
	tape_append(&t, b.bytes, b.n);
	free(b.bytes);
	assert_int_equal(replay_tape(&t, 0, 3, &w, &totals, &err), 0);
	assert_int_equal(totals.restarts, 1);
	assert_non_null(strstr(w.notes, "another run of memocd"));
	tape_close(&other);
	tape_close(&t);
	kit_close(&k);
}

/* A disk that does not take anything: memory stays bounded, and what follows is good again. */
static void test_disk_too_slow(void **state)
{
	struct kit k;
	struct tape t;
	struct watched w;
	struct replay_totals totals;
	struct memoc_err err;
	open_life(&k, &t);
	while (!record_writer_wants_segment(t.writer)) {
		struct event ev = random_added(1000000);
		ev.type = EVENT_VM_FACTS, ev.vm = 1;
		ev.facts = random_facts();
		ev.facts.eligible = true;
		tape_step(&t, &k, &ev);
		assert_true(record_writer_waiting(t.writer) <= MIB);
	}
	for (int i = 0; i < 10; i++) {
		struct event ev = {.type = EVENT_TICK, .host = k.host};
		tape_step(&t, &k, &ev);
	}
	record_writer_begin(t.writer, k.core, k.now_ms, k.now_ms);
	assert_true(record_writer_wants_segment(t.writer)); /* still no room, or one begun already */
	tape_take(&t);
	tape_begin(&t, &k);
	struct event ev = {.type = EVENT_TICK, .host = k.host};
	tape_step(&t, &k, &ev);
	tape_take(&t);
	assert_int_equal(record_writer_events_lost(t.writer), 11);
	assert_int_equal(replay_tape(&t, 0, t.n, &w, &totals, &err), 0);
	assert_int_equal(totals.lost, 11);
	assert_int_equal(totals.events + totals.lost, record_writer_events(t.writer));
	tape_close(&t);
	kit_close(&k);
}

/* ---- damage ---- */

/* Any beginning of a segment is good as far as it goes. */
static void test_torn_anywhere(void **state)
{
	struct tape t;
	struct watched w;
	struct replay_totals totals;
	struct memoc_err err;
	random_life(5, 300, 1000, &t);
	size_t whole = t.lengths[0], before = 0;
	for (size_t n = 0; n < whole; n++) {
		t.lengths[0] = n;
		int r = replay_tape(&t, 0, 1, &w, &totals, &err);
		if (r != 0)
			fail_msg("%zu of %zu bytes: %d: %s", n, whole, r, err.text);
		assert_true(totals.events >= before);
		before = totals.events;
	}
	assert_true(before > 100);
	t.lengths[0] = whole;
	assert_same(&t, 0, 1);
	t.segments[0] = realloc(t.segments[0], whole + 500); /* a power cut */
	memset(t.segments[0] + whole, 0, 500);
	t.lengths[0] = whole + 500;
	assert_int_equal(replay_tape(&t, 0, 1, &w, &totals, &err), 0);
	assert_int_equal(totals.events, 300);
	assert_non_null(strstr(w.notes, "ends within a record"));
	tape_close(&t);
}

static void test_any_byte_changed(void **state)
{
	struct tape t;
	struct watched w;
	struct replay_totals totals;
	struct memoc_err err;
	random_life(6, 300, 1000, &t);
	for (size_t i = 0; i < t.lengths[0]; i++) {
		t.segments[0][i] ^= (uint8_t)(1 + below(255));
		int r = replay_tape(&t, 0, 1, &w, &totals, &err);
		bool torn = r == 0 && strstr(w.notes, "ends within a record");
		if (!torn && (r != -EBADMSG || !err.text[0]))
			fail_msg("byte %zu: %d: %s %s", i, r, err.text, w.notes);
		if (i < 12)
			t.segments[0][i] = (uint8_t)(RECORD_MAGIC "\1\0\0\0")[i];
		else { /* whatever it was: made anew */
			tape_close(&t);
			random_life(6, 300, 1000, &t);
			i += 37;
		}
	}
	tape_close(&t);
}

static void test_other_version(void **state)
{
	struct tape t;
	struct watched w;
	struct replay_totals totals;
	struct memoc_err err;
	random_life(7, 20, 1000, &t);
	t.segments[0][8]++;
	assert_int_equal(replay_tape(&t, 0, 1, &w, &totals, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "another version of memoc"));
	t.segments[0][8]--;
	t.segments[0][13]++;
	assert_int_equal(replay_tape(&t, 0, 1, &w, &totals, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "another version of memoc"));
	t.segments[0][0] = 'X';
	assert_int_equal(replay_tape(&t, 0, 1, &w, &totals, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "no recording"));
	tape_close(&t);
}

/* ---- the ring on disk ---- */

struct place {
	char dir[64], record[80];
};

static int place_make(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	assert_non_null(p);
	strcpy(p->dir, "/tmp/memoc-test-record-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->record, sizeof(p->record), "%s/record", p->dir);
	*state = p;
	return 0;
}

static int place_remove(void **state)
{
	struct place *p = *state;
	char command[128];
	snprintf(command, sizeof(command), "rm -rf %s", p->dir);
	int r = system(command); /* NOLINT(cert-env33-c): the path is our own */
	free(p);
	return r;
}

static uint64_t segment_bytes(const struct place *p, uint64_t number)
{
	char path[160], name[RECORD_SEGMENT_NAME_LEN];
	struct stat st;
	snprintf(path, sizeof(path), "%s/%s", p->record, record_segment_name(name, number));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	return (uint64_t)st.st_size;
}

static uint64_t ring_bytes(const struct place *p, size_t *ret_n, uint64_t *ret_first, uint64_t *ret_last)
{
	uint64_t *list AUTO_FREE = NULL, sum = 0;
	assert_int_equal(record_store_list(p->record, &list, ret_n), 0);
	for (size_t i = 0; i < *ret_n; i++)
		sum += segment_bytes(p, list[i]);
	assert_true(*ret_n > 0);
	*ret_first = list[0];
	*ret_last = list[*ret_n - 1];
	return sum;
}

static int write_waiting(struct record_writer *w, struct record_store *s, struct memoc_err *err)
{
	struct record_block b;
	if (!record_writer_take(w, &b))
		return 0;
	int r = record_store_write(s, &b, err);
	if (r < 0)
		record_writer_lost(w, b.events);
	free(b.bytes);
	return r;
}

static int replay_place(const struct place *p, struct watched *w, struct replay_totals *totals, struct memoc_err *err)
{
	const struct replay_hooks hooks = {.step = watch_step, .note = watch_note, .user = w};
	uint64_t *list AUTO_FREE = NULL;
	struct replay *r = NULL;
	size_t n = 0;
	int result = 0;
	memset(w, 0, sizeof(*w));
	*err = (struct memoc_err){0};
	assert_int_equal(record_store_list(p->record, &list, &n), 0);
	assert_int_equal(replay_new(&hooks, &r), 0);
	for (size_t i = 0; i < n && result == 0; i++) {
		char path[160], name[RECORD_SEGMENT_NAME_LEN];
		snprintf(path, sizeof(path), "%s/%s", p->record, record_segment_name(name, list[i]));
		FILE *f = fopen(path, "re");
		assert_non_null(f);
		result = replay_file(r, f, name, err);
		fclose(f);
	}
	*totals = *replay_totals(r);
	replay_free(r);
	return result;
}

/* A recording of 4 MiB and three times as much to be kept. */
static void test_ring_is_bounded(void **state)
{
	const struct place *p = *state;
	const struct record_start start = {.session = 1, .total_bytes = RECORD_BYTES_MIN, .name = tape_name};
	struct record_writer *writer = NULL;
	struct record_store *store = NULL;
	struct core_config config;
	struct memoc_err err = {0};
	struct replay_totals totals;
	struct watched w;
	struct stat st;
	uint64_t first = 0, last = 0;
	vm_id next_id = 1;
	size_t n = 0;
	struct kit k;
	rng = 77;
	kit_open(&k, NULL);
	config = k.config;
	assert_int_equal(record_writer_new(&start, &writer), 0);
	assert_int_equal(record_store_new(p->record, RECORD_BYTES_MIN, &store), 0);
	record_writer_begin(writer, k.core, k.now_ms, k.now_ms);
	for (size_t i = 0; last < 13; i++) {
		struct event ev = random_event(&k, &next_id, &config);
		k.now_ms += 100;
		int r = kit_step(&k, &ev);
		record_writer_event(writer, k.core, &ev, r, &k.out);
		if (record_writer_wants_segment(writer))
			record_writer_begin(writer, k.core, k.now_ms, k.now_ms);
		if (i % 200 != 199)
			continue;
		assert_int_equal(write_waiting(writer, store, &err), 0);
		assert_true(ring_bytes(p, &n, &first, &last) <= RECORD_BYTES_MIN);
		assert_true(n <= RECORD_SEGMENTS);
	}
	assert_int_equal(first, 10);
	assert_int_equal(stat(p->record, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(record_writer_events_lost(writer), 0);
	assert_int_equal(replay_place(p, &w, &totals, &err), 0);
	assert_string_equal(w.notes, "");
	assert_int_equal(totals.segments, 4);

	/* the next memocd goes on beside it */
	record_store_free(store);
	assert_int_equal(record_store_new(p->record, RECORD_BYTES_MIN, &store), 0);
	record_writer_lost(writer, 0);
	record_writer_begin(writer, k.core, k.now_ms, k.now_ms);
	assert_int_equal(write_waiting(writer, store, &err), 0);
	ring_bytes(p, &n, &first, &last);
	assert_int_equal(last, 14);
	record_store_free(store);
	record_writer_free(writer);
	kit_close(&k);
}

/* The limit on file sizes stands for a full disk; in a child, for it cannot be undone. */
static int full_disk(const struct place *p)
{
	const struct record_start start = {.session = 1, .total_bytes = RECORD_BYTES_MIN, .name = tape_name};
	const struct rlimit small = {.rlim_cur = 20000, .rlim_max = RLIM_INFINITY},
			    large = {RLIM_INFINITY, RLIM_INFINITY};
	struct record_writer *writer = NULL;
	struct record_store *store = NULL;
	struct memoc_err err = {0};
	struct kit k;
	int failures = 0;
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &small);
	kit_open(&k, NULL);
	assert_int_equal(record_writer_new(&start, &writer), 0);
	assert_int_equal(record_store_new(p->record, RECORD_BYTES_MIN, &store), 0);
	record_writer_begin(writer, k.core, k.now_ms, k.now_ms);
	for (int i = 0; i < 3000; i++) {
		struct event ev = {.type = EVENT_TICK, .host = k.host};
		ev.host.psi_some_avg10 = i;
		k.now_ms += 1000;
		int r = kit_step(&k, &ev);
		record_writer_event(writer, k.core, &ev, r, &k.out);
		if (i == 2000)
			setrlimit(RLIMIT_FSIZE, &large);
		if (i % 100 == 99 && record_writer_wants_segment(writer))
			record_writer_begin(writer, k.core, k.now_ms, k.now_ms);
		if (i % 100 == 99 && write_waiting(writer, store, &err) < 0)
			failures++;
	}
	record_store_free(store);
	record_writer_free(writer);
	kit_close(&k);
	return failures;
}

static void test_full_disk(void **state)
{
	const struct place *p = *state;
	struct replay_totals totals;
	struct memoc_err err;
	struct watched w;
	int status = 0;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(full_disk(p));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_true(WEXITSTATUS(status) > 0 && WEXITSTATUS(status) < 10);
	assert_int_equal(replay_place(p, &w, &totals, &err), 0);
	assert_null(strstr(w.notes, "ends within")); /* what was half written is taken back */
	assert_non_null(strstr(w.notes, "events missing before"));
	assert_int_equal(w.last_number, 3000);
	assert_int_equal(totals.events + totals.lost, 3000);
	assert_true(totals.events > 1500);
}

static void test_store_errors(void **state)
{
	const struct place *p = *state;
	struct record_store *store = NULL;
	struct memoc_err err = {0};
	uint8_t byte = 0;
	struct record_block b = {.bytes = &byte, .n = 1, .split = 0};
	char path[160];
	uint64_t *list = NULL;
	size_t n = 0;
	snprintf(path, sizeof(path), "%s/missing/record", p->dir);
	assert_int_equal(record_store_new(path, RECORD_BYTES_MIN, &store), 0);
	assert_int_equal(record_store_write(store, &b, &err), -ENOENT);
	assert_non_null(strstr(err.text, path));
	b.split = 1; /* goes on with a segment that never began */
	assert_int_equal(record_store_write(store, &b, &err), -EBADF);
	record_store_free(store);
	assert_int_equal(record_store_list(path, &list, &n), -ENOENT);
	const struct record_start start = {.total_bytes = RECORD_BYTES_MIN - 1, .name = tape_name};
	struct record_writer *writer = NULL;
	assert_int_equal(record_writer_new(&start, &writer), -EINVAL);
	assert_null(record_writer_free(NULL));
	assert_null(record_store_free(NULL));
	assert_null(replay_free(NULL));
}

/* ---- allocations that fail ---- */

static const struct tape *sweep_tape;

static int op_replay(void)
{
	struct replay_hooks hooks = {0};
	struct memoc_err err = {0};
	struct replay *r = NULL;
	int result = replay_new(&hooks, &r);
	for (size_t i = 0; result == 0 && i < sweep_tape->n; i++)
		result = replay_bytes(r, sweep_tape->segments[i], sweep_tape->lengths[i], &err);
	replay_free(r);
	return result;
}

static void test_replay_without_memory(void **state)
{
	struct tape t;
	bool hit = true;
	size_t n = 0;
	random_life(9, 400, 200, &t);
	sweep_tape = &t;
	while (hit && ++n < 10000) {
		long before = alloc_live();
		alloc_fail_at(n);
		int r = op_replay();
		hit = alloc_fail_end();
		assert_int_equal(r, hit ? -ENOMEM : 0);
		assert_int_equal(alloc_live() - before, 0);
	}
	assert_true(n > 20);
	tape_close(&t);
}

/* The writer only loses what it had no memory for. */
static void test_writer_without_memory(void **state)
{
	for (size_t n = 1; n < 40; n++) {
		struct tape t;
		struct watched w;
		struct replay_totals totals;
		struct memoc_err err;
		struct kit k;
		kit_open(&k, NULL);
		kit_steady(&k, 1, GIB, 512 * MIB);
		tape_open(&t);
		for (int i = 0; i < 60; i++) {
			struct event ev = {.type = EVENT_TICK, .host = k.host};
			k.now_ms += 1000;
			int r = kit_step(&k, &ev);
			if (i == 20)
				alloc_fail_at(n);
			record_writer_event(t.writer, k.core, &ev, r, &k.out);
			if (record_writer_wants_segment(t.writer) || i == 25)
				record_writer_begin(t.writer, k.core, k.now_ms, k.now_ms);
			if (i == 28)
				alloc_fail_end();
			if (i % 20 == 10)
				tape_take(&t);
		}
		tape_take(&t);
		assert_int_equal(replay_tape(&t, 0, t.n, &w, &totals, &err), 0);
		assert_true(totals.events >= 50);
		tape_close(&t);
		kit_close(&k);
	}
}

/* ---- bytes ---- */

static void test_codec(void **state)
{
	static const uint64_t values[] = {0,	     1, 127, 128, 300, UINT32_MAX, INT64_MAX, (uint64_t)INT64_MAX + 1,
					  UINT64_MAX};
	struct bytes b = {.most = 4096};
	char text[8];
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		put_number(&b, values[i]);
		put_signed(&b, (int64_t)values[i]);
	}
	put_text(&b, "seven", 100);
	put_text(&b, "too long for it", 100);
	struct reading r = {.at = b.data, .end = b.data + b.n};
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		assert_int_equal(get_number(&r), values[i]);
		assert_int_equal((uint64_t)get_signed(&r), values[i]);
	}
	get_text(&r, text, sizeof(text));
	assert_string_equal(text, "seven");
	assert_null(r.bad);
	get_text(&r, text, sizeof(text));
	assert_non_null(r.bad);
	assert_int_equal(get_number(&r), 0);
	bytes_free(&b);
	const uint8_t endless[11] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1};
	r = (struct reading){.at = endless, .end = endless + sizeof(endless)};
	get_number(&r);
	assert_non_null(r.bad);
	b.most = 3;
	put_u32(&b, 1);
	assert_true(b.full && b.n == 0);
	bytes_free(&b);
}

static void random_field(const struct field *f, uint8_t *object)
{
	uint8_t *at = object + f->offset;
	int value = f->lo + (int)below(f->end > f->lo ? (uint64_t)(f->end - f->lo) : 1);
	double number = (double)below(1 << 30) / 7;
	for (size_t i = 0; i < f->size && f->kind != FIELD_NOT; i++)
		at[i] = (uint8_t)(often(30) ? 0 : below(256));
	if (f->kind == FIELD_BOOL)
		at[0] &= 1;
	else if (f->kind == FIELD_ENUM)
		memcpy(at, &value, sizeof(value));
	else if (f->kind == FIELD_DOUBLE)
		memcpy(at, &number, sizeof(number));
	else if (f->kind == FIELD_POLICY)
		memcpy(at, &policy_list[below(2)], sizeof(policy_list[0]));
	else if (f->kind == FIELD_TEXT)
		at[below(f->size)] = at[f->size - 1] = 0;
}

/* Random contents of every struct come back, against a base of zeroes and against another. */
static void test_fields_come_back(void **state)
{
	rng = 4242;
	for (const struct layout *const *t = layout_all; *t; t++) {
		for (int round = 0; round < 200; round++) {
			uint8_t base[4096] = {0}, object[4096] = {0}, back[4096] = {0};
			struct bytes b = {.most = 8192};
			assert_true((*t)->size <= sizeof(base));
			for (size_t i = 0; i < (*t)->n; i++)
				random_field(&(*t)->list[i], object);
			put_fields(&b, *t, base, object);
			struct reading r = {.at = b.data, .end = b.data + b.n};
			get_fields(&r, *t, back);
			assert_null(r.bad);
			assert_ptr_equal(r.at, r.end);
			struct bytes same = {.most = 8192};
			put_fields(&same, *t, object, back);
			for (size_t i = 0; i < same.n; i++)
				assert_int_equal(same.data[i], 0); /* no field differs */
			bytes_free(&same);
			bytes_free(&b);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_field_forgotten),
		cmocka_unit_test(test_codec),
		cmocka_unit_test(test_fields_come_back),
		cmocka_unit_test(test_random_lives),
		cmocka_unit_test(test_difference_in_effects),
		cmocka_unit_test(test_difference_in_result),
		cmocka_unit_test(test_difference_in_state),
		cmocka_unit_test(test_gap_and_restart),
		cmocka_unit_test(test_disk_too_slow),
		cmocka_unit_test(test_torn_anywhere),
		cmocka_unit_test(test_any_byte_changed),
		cmocka_unit_test(test_other_version),
		cmocka_unit_test_setup_teardown(test_ring_is_bounded, place_make, place_remove),
		cmocka_unit_test_setup_teardown(test_full_disk, place_make, place_remove),
		cmocka_unit_test_setup_teardown(test_store_errors, place_make, place_remove),
		cmocka_unit_test(test_replay_without_memory),
		cmocka_unit_test(test_writer_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
