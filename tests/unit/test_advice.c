/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory advice on this process's own memory, which stands for a guest's: the map, who brought a page in, whose turn it
 * is. What needs swap is tests/system/test_advice.py's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "controller/advice/advice.h"
#include "controller/advice/advise.h"

#define PAGE 4096
#define BLOCK_BYTES (64 * MIB)

struct fixture {
	struct proc_vm *proc;
	int fd[2];
	volatile char *at[2];
	struct guest_ram_range ranges[2];
	struct guest_ram ram;
	struct advice *advice;
	struct advice_report counts;
};

/* Two blocks of shared memory in which nothing is allocated. */
static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(proc_vm_open(getpid(), &f->proc, NULL), 0);
	for (int i = 0; i < 2; i++) {
		f->fd[i] = memfd_create("memory-backend-memfd", MFD_CLOEXEC);
		assert_int_equal(ftruncate(f->fd[i], BLOCK_BYTES), 0);
		char *at = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd[i], 0);
		assert_true(at != MAP_FAILED);
		madvise(at, BLOCK_BYTES, MADV_NOHUGEPAGE);
		f->at[i] = at;
		f->ranges[i] = (struct guest_ram_range){(uintptr_t)at, (uintptr_t)at + BLOCK_BYTES, true, 0};
	}
	f->ram = (struct guest_ram){f->ranges, 1, BLOCK_BYTES};
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	advice_free(f->advice);
	for (int i = 0; i < 2; i++) {
		munmap((void *)(uintptr_t)f->at[i], BLOCK_BYTES);
		close(f->fd[i]);
	}
	proc_vm_close(f->proc);
	free(f);
	return 0;
}

/* map_files is for those with CAP_SYS_ADMIN alone: without it nothing of this can be tested. */
static void begin(struct fixture *f)
{
	struct memoc_err err = {""};
	int r = advice_begin(f->proc, &f->ram, &f->advice, &err);

	if (r == -EPERM) {
		print_message("skipped: %s\n", err.text);
		skip();
	}
	if (r != 0)
		fail_msg("%d: %s", r, err.text);
	advice_count_map(f->advice, &f->counts);
}

/* As QEMU reads: nothing is written, and what was not there is allocated. */
static void read_pages(volatile const char *at, size_t from_mib, size_t to_mib)
{
	for (size_t i = from_mib * MIB; i < to_mib * MIB; i += PAGE)
		assert_int_equal(at[i], 0);
}

static int step(struct fixture *f, uint64_t position_bytes)
{
	const struct advice_order order = {.position_bytes = position_bytes, .most_bytes = GIB};

	return advice_step(f->advice, &order, &f->counts, NULL);
}

static void the_map_is_what_was_never_allocated(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < 100; i++)
		((volatile char *)f->at[0])[(3000 + 2 * i) * PAGE] = 1;
	begin(f);
	assert_int_equal(f->counts.untouched_bytes, BLOCK_BYTES - 100 * PAGE);
	assert_int_equal(f->counts.swapped_bytes, 0);
	assert_true(advice_worthwhile(f->advice));
}

static void present_private_memory_is_not_worth_it(void **state)
{
	struct fixture *f = *state;
	char *at = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct guest_ram_range range = {(uintptr_t)at, (uintptr_t)at + MIB, false, 0};

	assert_true(at != MAP_FAILED);
	memset(at, 1, MIB / 2); /* the other half was never touched: reading it costs nothing */
	f->ram = (struct guest_ram){&range, 1, MIB};
	begin(f);
	assert_false(advice_worthwhile(f->advice));
	assert_int_equal(f->counts.swapped_bytes + f->counts.untouched_bytes, 0);
	munmap(at, MIB);
}

/* Behind the position all that came in was read; far before it the guest was at work. */
static void the_guests_pages_are_left_alone(void **state)
{
	struct fixture *f = *state;

	begin(f);
	read_pages(f->at[0], 0, 4);
	read_pages(f->at[0], 20, 21);
	assert_int_equal(step(f, 4 * MIB), 0);
	assert_int_equal(f->counts.zero_bytes, 4 * MIB);
	assert_int_equal(f->counts.guest_bytes, MIB);
	read_pages(f->at[0], 4, 64);
	assert_int_equal(step(f, 4 * MIB), 0); /* the position says that these are not read yet */
	assert_int_equal(f->counts.zero_bytes, 4 * MIB);
}

static void each_page_is_advised_once(void **state)
{
	struct fixture *f = *state;

	begin(f);
	read_pages(f->at[0], 0, 8);
	assert_int_equal(step(f, 8 * MIB), 0);
	assert_int_equal(step(f, 8 * MIB), 0);
	assert_int_equal(f->counts.zero_bytes, 8 * MIB);
	read_pages(f->at[0], 8, 64);
	assert_int_equal(step(f, ADVICE_ALL), 0);
	assert_int_equal(step(f, ADVICE_ALL), 0);
	assert_int_equal(f->counts.zero_bytes, BLOCK_BYTES);
}

static void a_step_is_bounded(void **state)
{
	struct fixture *f = *state;
	const struct advice_order order = {.position_bytes = ADVICE_ALL, .most_bytes = 16 * MIB};
	atomic_bool cancel = true;
	const struct advice_order cancelled = {.position_bytes = ADVICE_ALL, .most_bytes = GIB, .cancel = &cancel};

	begin(f);
	read_pages(f->at[0], 0, 64);
	assert_int_equal(advice_step(f->advice, &order, &f->counts, NULL), 1);
	assert_in_range(f->counts.zero_bytes, 16 * MIB, 32 * MIB);
	assert_int_equal(advice_step(f->advice, &cancelled, &f->counts, NULL), -ECANCELED);
	while (advice_step(f->advice, &order, &f->counts, NULL) == 1)
		;
	assert_int_equal(f->counts.zero_bytes, BLOCK_BYTES);
}

/* A step that was cut goes on at its old position; the reader did so as well, and that is not the guest's. */
static void the_rest_of_a_step_leaves_what_is_ahead(void **state)
{
	struct fixture *f = *state;
	const struct advice_order cut = {.position_bytes = 20 * MIB, .most_bytes = 8 * MIB};

	begin(f);
	read_pages(f->at[0], 0, 20);
	assert_int_equal(advice_step(f->advice, &cut, &f->counts, NULL), 1);
	read_pages(f->at[0], 20, 60);
	assert_int_equal(advice_step(f->advice, &cut, &f->counts, NULL), 0);
	assert_int_equal(f->counts.guest_bytes, 0);
	assert_int_equal(f->counts.zero_bytes, 20 * MIB);
	/* Asked anew it seems to stand still, but there is no gap in what came in. */
	assert_int_equal(step(f, 20 * MIB), 0);
	assert_int_equal(f->counts.guest_bytes, 0);
	assert_int_equal(step(f, ADVICE_ALL), 0);
	assert_int_equal(f->counts.zero_bytes, 60 * MIB);
}

/* Where all is zero it is many times as fast as between the steps before; the guest's begins after a gap. */
static void a_reader_that_races_is_not_the_guest(void **state)
{
	struct fixture *f = *state;

	begin(f);
	read_pages(f->at[0], 0, 4);
	assert_int_equal(step(f, 4 * MIB), 0);
	read_pages(f->at[0], 4, 40);
	read_pages(f->at[0], 44, 46);
	assert_int_equal(step(f, 6 * MIB), 0);
	assert_int_equal(f->counts.guest_bytes, 2 * MIB);
	assert_int_equal(f->counts.zero_bytes, 6 * MIB);
	read_pages(f->at[0], 40, 64);
	assert_int_equal(step(f, 8 * MIB), 0); /* up to the end */
	assert_int_equal(step(f, ADVICE_ALL), 0);
	assert_int_equal(f->counts.guest_bytes, 2 * MIB);
	assert_int_equal(f->counts.zero_bytes, BLOCK_BYTES - 2 * MIB);
}

/* Towards the end QEMU answers nobody: the reader is followed by what comes in, and not beyond that. */
static void the_reader_is_followed_to_the_end(void **state)
{
	struct fixture *f = *state;
	struct advice_order last = {.position_bytes = 4 * MIB, .follow = true, .most_bytes = GIB};

	begin(f);
	read_pages(f->at[0], 0, 4);
	assert_int_equal(step(f, 4 * MIB), 0);
	read_pages(f->at[0], 4, 20);
	read_pages(f->at[0], 40, 41);
	assert_int_equal(advice_step(f->advice, &last, &f->counts, NULL), 0);
	assert_int_equal(advice_position_bytes(f->advice), 20 * MIB);
	assert_int_equal(f->counts.zero_bytes, 20 * MIB);
	assert_int_equal(f->counts.guest_bytes, MIB);
	assert_false(advice_all_read(f->advice));
	last.position_bytes = advice_position_bytes(f->advice);
	assert_int_equal(advice_step(f->advice, &last, &f->counts, NULL), 0);
	assert_int_equal(advice_position_bytes(f->advice), 20 * MIB); /* it stands still */
	read_pages(f->at[0], 20, 64);
	assert_int_equal(advice_step(f->advice, &last, &f->counts, NULL), 0);
	assert_true(advice_all_read(f->advice));
	assert_int_equal(f->counts.zero_bytes, BLOCK_BYTES - MIB);
}

/* From one block into the next, which is known by what has come in of it. */
static void the_reader_is_followed_through_blocks(void **state)
{
	struct fixture *f = *state;
	struct advice_order last = {.position_bytes = 4 * MIB, .follow = true, .most_bytes = GIB};

	f->ram = (struct guest_ram){f->ranges, 2, 2 * BLOCK_BYTES};
	begin(f);
	read_pages(f->at[1], 0, 4);
	assert_int_equal(step(f, 4 * MIB), 0);
	read_pages(f->at[1], 4, 64);
	assert_int_equal(advice_step(f->advice, &last, &f->counts, NULL), 0);
	assert_int_equal(advice_position_bytes(f->advice), BLOCK_BYTES);
	assert_false(advice_all_read(f->advice));
	read_pages(f->at[0], 0, 64);
	last.position_bytes = advice_position_bytes(f->advice);
	assert_int_equal(advice_step(f->advice, &last, &f->counts, NULL), 0);
	assert_true(advice_all_read(f->advice));
	assert_int_equal(f->counts.zero_bytes, 2 * BLOCK_BYTES);
}

/* Of two cells of one size it is the one that comes in, whichever lies first in the address space. */
static void blocks_of_one_size_go_as_they_come(void **state)
{
	for (int first = 0; first < 2; first++) {
		struct fixture *f = *state;

		f->ram = (struct guest_ram){f->ranges, 2, 2 * BLOCK_BYTES};
		begin(f);
		assert_int_equal(step(f, 2 * MIB), 0); /* nothing has come in yet: it is not known which */
		assert_int_equal(f->counts.zero_bytes, 0);
		read_pages(f->at[first], 0, 10);
		assert_int_equal(step(f, 10 * MIB), 0);
		assert_int_equal(f->counts.zero_bytes, 10 * MIB);
		read_pages(f->at[first], 10, 64);
		read_pages(f->at[!first], 0, 6);
		assert_int_equal(step(f, BLOCK_BYTES + 6 * MIB), 0);
		assert_int_equal(f->counts.zero_bytes, BLOCK_BYTES + 6 * MIB);
		tear_down(state);
		set_up(state);
	}
}

/* Of two cells one has nothing on the map, and cannot be seen coming in: the other is known by what comes, whoever is
 * first. */
static void a_block_with_nothing_on_the_map_is_not_taken_for_the_one_that_is_read(void **state)
{
	for (int first = 0; first < 2; first++) {
		struct fixture *f = *state;

		f->ram = (struct guest_ram){f->ranges, 2, 2 * BLOCK_BYTES};
		read_pages(f->at[0], 0, 64); /* all there before */
		begin(f);
		uint64_t base = first ? 0 : BLOCK_BYTES;
		if (first == 0) {
			assert_int_equal(step(f, 10 * MIB), 0);
			assert_int_equal(step(f, BLOCK_BYTES - 2 * MIB), 0);
			assert_int_equal(f->counts.zero_bytes, 0);
		}
		read_pages(f->at[1], 0, 10);
		read_pages(f->at[1], 50, 51); /* the guest's */
		assert_int_equal(step(f, base + 10 * MIB), 0);
		assert_int_equal(f->counts.zero_bytes, 10 * MIB);
		assert_int_equal(f->counts.guest_bytes, MIB);
		read_pages(f->at[1], 10, 64);
		assert_int_equal(step(f, base + BLOCK_BYTES), 0);
		assert_int_equal(f->counts.zero_bytes, BLOCK_BYTES - MIB);
		assert_int_equal(step(f, 2 * BLOCK_BYTES), 0);
		assert_int_equal(f->counts.zero_bytes, BLOCK_BYTES - MIB);
		tear_down(state);
		set_up(state);
	}
}

/* More ranges than a call takes, and some in the middle that are not mapped. */
static void refused_ranges_are_passed_over(void **state)
{
	struct fixture *f = *state;
	struct run runs[3000];
	struct memoc_err err = {""};

	if (advice_permitted(proc_vm_pidfd(f->proc), &err) < 0) {
		print_message("skipped: %s\n", err.text);
		skip();
	}
	read_pages(f->at[0], 0, 64);
	for (size_t i = 0; i < ARRAY_SIZE(runs); i++)
		runs[i] = (struct run){(uintptr_t)f->at[0] + 2 * i * PAGE, PAGE};
	runs[700].start = runs[1700].start = PAGE;
	assert_int_equal(advise(proc_vm_pidfd(f->proc), runs, ARRAY_SIZE(runs), MADV_COLD), 0);
}

static void zeroes_cost_nothing_on_zram_alone(void **state)
{
	char root[] = "/tmp/memoc-advice-XXXXXX", path[64];
	static const struct {
		const char *text;
		bool is_free;
	} cases[] = {{"Filename Type Size Used Priority\n/dev/zram0 partition 1048572 0 -2\n", true},
		     {"Filename Type Size Used Priority\n/dev/zram0 partition 8 0 -2\n/swapfile file 8 0 -3\n", false},
		     {"Filename Type Size Used Priority\n", false}};

	assert_non_null(mkdtemp(root));
	assert_false(advice_zeroes_swap_free(root));
	snprintf(path, sizeof(path), "%s/proc", root);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/proc/swaps", root);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		FILE *file = fopen(path, "we");
		assert_non_null(file);
		fputs(cases[i].text, file);
		fclose(file);
		assert_int_equal(advice_zeroes_swap_free(root), cases[i].is_free);
	}
	unlink(path);
	snprintf(path, sizeof(path), "%s/proc", root);
	rmdir(path);
	rmdir(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_map_is_what_was_never_allocated, set_up, tear_down),
		cmocka_unit_test_setup_teardown(present_private_memory_is_not_worth_it, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_guests_pages_are_left_alone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(each_page_is_advised_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_step_is_bounded, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_rest_of_a_step_leaves_what_is_ahead, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_reader_that_races_is_not_the_guest, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_reader_is_followed_to_the_end, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_reader_is_followed_through_blocks, set_up, tear_down),
		cmocka_unit_test_setup_teardown(blocks_of_one_size_go_as_they_come, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_block_with_nothing_on_the_map_is_not_taken_for_the_one_that_is_read,
						set_up, tear_down),
		cmocka_unit_test_setup_teardown(refused_ranges_are_passed_over, set_up, tear_down),
		cmocka_unit_test(zeroes_cost_nothing_on_zram_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
