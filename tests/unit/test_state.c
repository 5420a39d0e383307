/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state file: what is saved comes back; what is damaged is put aside and never stops the daemon. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "controller/daemon/state.h"

#define UUID_A "11111111-2222-3333-4444-555555555555"
#define UUID_B "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"

struct place {
	char dir[64], file[96], bad[104], tmp[104];
};

static int place_make(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	strcpy(p->dir, "/tmp/memoc-test-state-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->file, sizeof(p->file), "%s/state.json", p->dir);
	snprintf(p->bad, sizeof(p->bad), "%s.bad", p->file);
	snprintf(p->tmp, sizeof(p->tmp), "%s.tmp", p->file);
	*state = p;
	return 0;
}

static int place_remove(void **state)
{
	struct place *p = *state;
	char command[128];
	int r;

	snprintf(command, sizeof(command), "rm -rf %s", p->dir);
	r = system(command); /* NOLINT(cert-env33-c): the path is our own */
	free(p);
	return r;
}

static void write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}

static struct state_vm vm_of(const char *uuid, const char *name)
{
	struct state_vm vm = {
		.pid = 4711,
		.pid_start_ticks = UINT64_C(9007199254740993), /* more than a double can hold */
		.memory = {.known = true,
			   .target_bytes = 3 * GIB,
			   .health = BALLOON_STALLED,
			   .speed_bytes_per_s = 123456789,
			   .floor_bytes = 700 * MIB,
			   .retry_delay_ms = 60000,
			   .pinned_bytes = GIB,
			   .held = true,
			   .drained = true,
			   .limit_ours = true,
			   .silent = true,
			   .distrusted = true,
			   .by_limit = true,
			   .advice_limit_bytes = 500 * MIB,
			   .trim_from_bytes = 900 * MIB,
			   .overhead_bytes = 70 * MIB},
		.policy = vmpolicy_default(),
	};

	vm.policy.min_bytes = 300 * MIB;
	vm.policy.max_bytes = 2 * GIB;
	vm.policy.weight = 250;
	vm.policy.swap = false;

	strcpy(vm.uuid, uuid);
	strcpy(vm.name, name);
	return vm;
}

/* Field by field: the gaps between them may hold anything. */
static void assert_same_memory(const struct vm_memory *a, const struct vm_memory *b)
{
	assert_int_equal(a->known, b->known);
	assert_int_equal(a->target_bytes, b->target_bytes);
	assert_int_equal(a->health, b->health);
	assert_int_equal(a->speed_bytes_per_s, b->speed_bytes_per_s);
	assert_int_equal(a->floor_bytes, b->floor_bytes);
	assert_int_equal(a->retry_delay_ms, b->retry_delay_ms);
	assert_int_equal(a->pinned_bytes, b->pinned_bytes);
	assert_int_equal(a->held, b->held);
	assert_int_equal(a->drained, b->drained);
	assert_int_equal(a->limit_ours, b->limit_ours);
	assert_int_equal(a->silent, b->silent);
	assert_int_equal(a->distrusted, b->distrusted);
	assert_int_equal(a->by_limit, b->by_limit);
	assert_int_equal(a->advice_limit_bytes, b->advice_limit_bytes);
	assert_int_equal(a->trim_from_bytes, b->trim_from_bytes);
	assert_int_equal(a->overhead_bytes, b->overhead_bytes);
}

static void assert_same_policy(const struct vmpolicy *a, const struct vmpolicy *b)
{
	assert_int_equal(a->managed, b->managed);
	assert_int_equal(a->min_bytes, b->min_bytes);
	assert_int_equal(a->max_bytes, b->max_bytes);
	assert_int_equal(a->weight, b->weight);
	assert_int_equal(a->balloon, b->balloon);
	assert_int_equal(a->swap, b->swap);
}

static void test_round_trip(void **state)
{
	struct place *p = *state;
	struct state_vm vms[] = {vm_of(UUID_A, "web 1 \"quoted\" \xC3\xA4"), vm_of(UUID_B, "db")};
	struct state s = {.hold_all = true, .whole = true, .vms = vms, .n = 2}, back = {0};
	struct memoc_err err = {0};
	const struct state_vm *a;

	vms[1].memory = (struct vm_memory){0};
	vms[1].limit_open = true;
	assert_int_equal(state_save(p->dir, &s, &err), 0);
	assert_false(exists(p->tmp));
	assert_int_equal(state_load(p->dir, &back, &err), 0);
	assert_string_equal(err.text, "");
	assert_true(back.hold_all);
	assert_true(back.whole);
	assert_int_equal(back.n, 2);
	a = state_find(&back, UUID_A);
	assert_non_null(a);
	assert_string_equal(a->name, vms[0].name);
	assert_int_equal(a->pid, 4711);
	assert_true(a->pid_start_ticks == vms[0].pid_start_ticks);
	assert_same_memory(&a->memory, &vms[0].memory);
	assert_same_policy(&a->policy, &vms[0].policy);
	a = state_find(&back, UUID_B);
	assert_non_null(a);
	assert_same_memory(&a->memory, &vms[1].memory);
	assert_true(a->limit_open);
	assert_null(state_find(&back, "00000000-0000-0000-0000-000000000000"));
	state_clear(&back);
	assert_null(back.vms);
	assert_int_equal(back.n, 0);
}

static void test_nothing_there(void **state)
{
	struct place *p = *state;
	struct state s = {.n = 77};
	struct memoc_err err = {0};
	char missing[128];

	assert_int_equal(state_load(p->dir, &s, &err), 0);
	assert_int_equal(s.n, 0);
	snprintf(missing, sizeof(missing), "%s/none", p->dir);
	assert_int_equal(state_load(missing, &s, &err), 0);
}

static void test_many(void **state)
{
	enum { MANY = 1000 };
	struct place *p = *state;
	struct state s = {.vms = calloc(MANY, sizeof(*s.vms)), .n = MANY}, back = {0};
	struct memoc_err err = {0};

	assert_non_null(s.vms);
	for (unsigned i = 0; i < MANY; i++) {
		char uuid[64];

		snprintf(uuid, sizeof(uuid), "%08x-2222-3333-4444-555555555555", i);
		s.vms[i] = vm_of(uuid, "some-name");
	}
	assert_int_equal(state_save(p->dir, &s, &err), 0);
	assert_int_equal(state_load(p->dir, &back, &err), 0);
	assert_int_equal(back.n, MANY);
	assert_non_null(state_find(&back, "000003e7-2222-3333-4444-555555555555"));
	state_clear(&s);
	state_clear(&back);
}

/* The directory is made, the file is private, and a later save replaces the earlier one. */
static void test_save_replaces(void **state)
{
	struct place *p = *state;
	struct state_vm vm = vm_of(UUID_A, "web1");
	struct state s = {.vms = &vm, .n = 1}, back = {0};
	struct memoc_err err = {0};
	struct stat st;
	char dir[128], file[160];

	snprintf(dir, sizeof(dir), "%s/new", p->dir);
	snprintf(file, sizeof(file), "%s/state.json", dir);
	assert_int_equal(state_save(dir, &s, &err), 0);
	s.n = 0;
	assert_int_equal(state_save(dir, &s, &err), 0);
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(state_load(dir, &back, &err), 0);
	assert_int_equal(back.n, 0);
	state_clear(&back);
}

/* What a killed memocd left half-written is neither read nor in the way, nor is a link that someone put there. */
static void test_leftover_temporary(void **state)
{
	struct place *p = *state;
	struct state s = {.hold_all = true}, back = {0};
	struct memoc_err err = {0};
	char victim[128], text[8] = "";
	FILE *f;

	snprintf(victim, sizeof(victim), "%s/victim", p->dir);
	write_text(victim, "keep");
	assert_int_equal(symlink(victim, p->tmp), 0);
	assert_int_equal(state_load(p->dir, &back, &err), 0);
	assert_false(back.hold_all);
	state_clear(&back);
	assert_int_equal(state_save(p->dir, &s, &err), 0);
	f = fopen(victim, "re");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	fclose(f);
	assert_string_equal(text, "keep");
	assert_int_equal(state_load(p->dir, &back, &err), 0);
	assert_true(back.hold_all);
	state_clear(&back);
}

#define VM(rest) "{\"memoc_state\":1,\"vms\":[{\"uuid\":\"" UUID_A "\",\"name\":\"a\"" rest "}]}"

static void test_damaged(void **state)
{
	static const char *const damaged[] = {
		"",
		"{",
		"null",
		"[]",
		"{}",
		"not json at all",
		"{\"memoc_state\":2,\"vms\":[]}",
		"{\"memoc_state\":1}",
		"{\"memoc_state\":1,\"vms\":{}}",
		"{\"memoc_state\":1,\"vms\":[null]}",
		"{\"memoc_state\":1,\"hold_all\":3,\"vms\":[]}",
		"{\"memoc_state\":1,\"vms\":[{\"uuid\":\"x\",\"name\":\"a\"}]}",
		"{\"memoc_state\":1,\"vms\":[{\"uuid\":\"" UUID_A "\"}]}",
		"{\"memoc_state\":1,\"vms\":[{\"uuid\":\"" UUID_A "\",\"name\":\"\"}]}",
		VM(",\"pid\":-1"),
		VM(",\"pid\":4294967296"),
		VM(",\"target_bytes\":\"1G\""),
		VM(",\"target_bytes\":-5"),
		VM(",\"balloon_health\":\"happy\""),
		VM(",\"balloon_health\":1"),
		VM(",\"held\":\"yes\""),
		VM(",\"drained\":1"),
		VM(",\"policy\":[]"),
		VM(",\"policy\":{\"weight\":\"heavy\"}"),
		VM(",\"policy\":{\"weight\":100}"),
		"{\"memoc_state\":1,\"vms\":[{\"uuid\":\"" UUID_A "\",\"name\":\"a\"},{\"uuid\":\"" UUID_A
		"\",\"name\":\"b\"}]}",
	};
	struct place *p = *state;

	for (size_t i = 0; i < ARRAY_SIZE(damaged); i++) {
		struct state s = {.n = 77};
		struct memoc_err err = {0};

		write_text(p->file, damaged[i]);
		if (state_load(p->dir, &s, &err) != 1)
			fail_msg("accepted: %s (%s)", damaged[i], err.text);
		assert_int_equal(s.n, 0);
		assert_null(s.vms);
		assert_non_null(strstr(err.text, p->bad));
		assert_true(exists(p->bad));
		assert_false(exists(p->file));
		/* The next start finds nothing and says nothing. */
		err.text[0] = '\0';
		assert_int_equal(state_load(p->dir, &s, &err), 0);
		assert_string_equal(err.text, "");
	}
}

/* A cut anywhere, as a full disk would leave it, is noticed. */
static void test_cut_anywhere(void **state)
{
	static const char whole[] = VM(",\"pid\":1,\"balloon_health\":\"slow\",\"held\":true");
	struct place *p = *state;
	struct state s = {0};
	struct memoc_err err = {0};
	char part[sizeof(whole)];

	for (size_t len = 0; len < sizeof(whole) - 1; len++) {
		memcpy(part, whole, len);
		part[len] = '\0';
		write_text(p->file, part);
		assert_int_equal(state_load(p->dir, &s, &err), 1);
	}
	write_text(p->file, whole);
	assert_int_equal(state_load(p->dir, &s, &err), 0);
	assert_int_equal(s.n, 1);
	assert_int_equal(s.vms[0].memory.health, BALLOON_SLOW);
	state_clear(&s);
}

/* Keys of a later memocd are passed over; those that are missing mean "not known". */
static void test_more_and_less(void **state)
{
	struct place *p = *state;
	struct state s = {0};
	struct memoc_err err = {0};

	write_text(p->file, VM(",\"mood\":{\"a\":[1]},\"target_bytes\":null"));
	assert_int_equal(state_load(p->dir, &s, &err), 0);
	assert_int_equal(s.n, 1);
	assert_false(s.vms[0].memory.known);
	assert_int_equal(s.vms[0].memory.target_bytes, 0);
	assert_int_equal(s.vms[0].memory.advice_limit_bytes, 0);
	assert_int_equal(s.vms[0].pid, 0);
	state_clear(&s);
}

static void test_no_file_at_all(void **state)
{
	struct place *p = *state;
	struct state s = {0};
	struct memoc_err err = {0};
	char dir[128];

	/* Something else lies there: it is put aside like any other damage. */
	assert_int_equal(mkfifo(p->file, 0600), 0);
	assert_int_equal(state_load(p->dir, &s, &err), 1);
	assert_true(exists(p->bad));
	assert_int_equal(remove(p->bad), 0);
	write_text(p->file, "x");
	snprintf(dir, sizeof(dir), "%s/state.json", p->dir);
	assert_int_equal(state_save(dir, &s, &err), -ENOTDIR);
	assert_non_null(strstr(err.text, dir));
}

/* Neither readable nor to be moved: memocd starts all the same, and the next save replaces what can be replaced. */
static void test_in_the_way(void **state)
{
	struct place *p = *state;
	struct state s = {.hold_all = true}, back = {.n = 77};
	struct memoc_err err = {0};

	assert_int_equal(symlink("state.json", p->file), 0); /* a loop */
	assert_int_equal(mkdir(p->bad, 0700), 0);
	assert_int_equal(state_load(p->dir, &back, &err), 1);
	assert_int_equal(back.n, 0);
	assert_non_null(strstr(err.text, p->file));
	assert_non_null(strstr(err.text, "cannot be put aside"));
	assert_int_equal(state_save(p->dir, &s, &err), 0);
	assert_int_equal(state_load(p->dir, &back, &err), 0);
	assert_true(back.hold_all);
	state_clear(&back);
	assert_int_equal(rmdir(p->bad), 0);
}

#define WITH_PLACE(f) cmocka_unit_test_setup_teardown(f, place_make, place_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_PLACE(test_round_trip),	WITH_PLACE(test_nothing_there),	     WITH_PLACE(test_many),
		WITH_PLACE(test_save_replaces), WITH_PLACE(test_leftover_temporary), WITH_PLACE(test_damaged),
		WITH_PLACE(test_cut_anywhere),	WITH_PLACE(test_more_and_less),	     WITH_PLACE(test_no_file_at_all),
		WITH_PLACE(test_in_the_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
