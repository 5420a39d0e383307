/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Working-set back-ends on files that this test fills: a pagemap, kpageflags, an idle bitmap, DAMON's tree, lru_gen's
 * text. Nothing tracks accesses here; what a kernel would change between begin and end, the test changes. The same code
 * on kernels that track: tests/bench/wss. Real here: processes, their numbers used again, pidfds and, for the large
 * mapping, pagemap.
 */
#include "common/clock.h"
#include "controller/host/cgroup_internal.h"
#include "controller/wss/lru_gen.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#define PAGE UINT64_C(4096)
#define PRESENT (UINT64_C(1) << 63)
#define SWAPPED (UINT64_C(1) << 62)
#define LRU (UINT64_C(1) << 5)
#define ANON (UINT64_C(1) << 12)
#define HEAD (UINT64_C(1) << 15)
#define KSM (UINT64_C(1) << 21)
#define TAIL (UINT64_C(1) << 16)
#define HUGE (UINT64_C(1) << 17)
#define THP (UINT64_C(1) << 22)
#define ZERO (UINT64_C(1) << 24)

/* ---- a fake root ---- */

static char root[64];

static int set_up(void **state)
{
	snprintf(root, sizeof(root), "/tmp/memoc-test-wss.XXXXXX");
	assert_non_null(mkdtemp(root));
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r '%s'", root);
	return system(command);
}

static int open_new(const char *file)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", root, file);
	for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = 0;
		assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
		*slash = '/';
	}
	fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_true(fd >= 0);
	return fd;
}

static void put(const char *file, const char *text)
{
	int fd = open_new(file);

	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static const char *text_of(const char *file)
{
	static char text[512];
	ssize_t n = wss_read_text(root, file, text, sizeof(text));

	assert_true(n >= 0);
	text[strcspn(text, "\n")] = '\0';
	return text;
}

/* Files of words; sparse, as long as asked for. */
static int pagemap = -1, kpageflags = -1, bitmap = -1;

static void set(int fd, uint64_t index, uint64_t word)
{
	assert_int_equal(pwrite(fd, &word, 8, (off_t)(index * 8)), 8);
}

static uint64_t get(int fd, uint64_t index)
{
	uint64_t word = 0;

	assert_int_equal(pread(fd, &word, 8, (off_t)(index * 8)), 8);
	return word;
}

static void set_idle(uint64_t pfn, bool idle)
{
	uint64_t word = get(bitmap, pfn / 64), bit = UINT64_C(1) << pfn % 64;

	set(bitmap, pfn / 64, idle ? word | bit : word & ~bit);
}

static bool is_idle(uint64_t pfn)
{
	return get(bitmap, pfn / 64) >> pfn % 64 & 1;
}

static size_t idle_count(void)
{
	size_t n = 0;

	for (uint64_t i = 0; i < 65536 / 64; i++)
		n += (size_t)__builtin_popcountll(get(bitmap, i));
	return n;
}

/* RAM of 2048 pages in two ranges: the first at page 0x10000, 1536 long, the second at 0x20000, 512 long. */
#define FIRST UINT64_C(0x10000)
#define SECOND UINT64_C(0x20000)
static struct guest_ram_range ranges[] = {{FIRST * PAGE, (FIRST + 1536) * PAGE, false, 0},
					  {SECOND * PAGE, (SECOND + 512) * PAGE, true, 0}};
static const struct guest_ram ram = {ranges, 2, 2048 * PAGE};

static uint64_t page_of(unsigned i)
{
	return i < 1536 ? FIRST + i : SECOND + i - 1536;
}

static int open_idle_tree(void **state)
{
	char file[64];

	set_up(state);
	snprintf(file, sizeof(file), "proc/%d/pagemap", (int)getpid());
	pagemap = open_new(file);
	kpageflags = open_new("proc/kpageflags");
	bitmap = open_new("sys/kernel/mm/page_idle/bitmap");
	assert_int_equal(ftruncate(pagemap, (off_t)(SECOND + 512) * 8), 0);
	assert_int_equal(ftruncate(kpageflags, 65536 * 8), 0);
	assert_int_equal(ftruncate(bitmap, 65536 / 8), 0);
	return 0;
}

static int close_idle_tree(void **state)
{
	close(pagemap);
	close(kpageflags);
	close(bitmap);
	return tear_down(state);
}

static void map_page(unsigned i, uint64_t pfn, uint64_t flags)
{
	set(pagemap, page_of(i), PRESENT | pfn);
	set(kpageflags, pfn, flags);
}

/* Pages 0..511 absent; 512..1535 small ones at scattered frames from 1000 on; 1536..2047 a huge page at frame 8192. */
static uint64_t small_pfn(unsigned i)
{
	return 1000 + (uint64_t)(i - 512) * 3 % 1024 * 2;
}

static void usual_pages(void)
{
	for (unsigned i = 512; i < 1536; i++)
		map_page(i, small_pfn(i), LRU);
	for (unsigned i = 1536; i < 2048; i++)
		map_page(i, 8192 + i - 1536, i == 1536 ? LRU | HEAD : TAIL);
}

static int self_fd;
static atomic_bool cancel;

static struct wss_target target(uint32_t pages)
{
	return (struct wss_target){.pid = getpid(),
				   .pidfd = self_fd,
				   .ram = &ram,
				   .cgroup_path = "/vm",
				   .pages = pages,
				   .cancel = &cancel};
}

static struct wss *open_it(enum wss_backend kind)
{
	struct memoc_err err = {""};
	struct wss *w = NULL;
	int r = wss_open(root, kind, &w, &err);

	if (r < 0)
		fail_msg("%d: %s", r, err.text);
	return w;
}

static struct wss_sample *begin_it(struct wss *w, uint32_t pages)
{
	struct wss_target t = target(pages);
	struct memoc_err err = {""};
	struct wss_sample *s = NULL;
	int r = wss_begin(w, &t, &s, &err);

	if (r < 0)
		fail_msg("%d: %s", r, err.text);
	return s;
}

static void end_is(struct wss_sample *s, uint64_t pages, uint64_t of)
{
	struct wss_reading reading = {0};
	struct memoc_err err = {""};
	int r = wss_end(s, &reading, &err);

	if (r < 0)
		fail_msg("%d: %s", r, err.text);
	assert_int_equal(reading.pages, of);
	assert_int_equal(reading.wss_bytes, pages * ram.bytes / of);
	assert_true(reading.known && reading.cost_ns > 0);
}

static void end_fails(struct wss_sample *s, int code, const char *says)
{
	struct wss_reading reading = {.known = true, .wss_bytes = 77};
	struct memoc_err err = {""};
	int r = wss_end(s, &reading, &err);

	if (r != code || !strstr(err.text, says))
		fail_msg("%d \"%s\" instead of %d \"%s\"", r, err.text, code, says);
	assert_false(reading.known);
	assert_int_equal(reading.wss_bytes, 0);
	assert_true(reading.cost_ns > 0); /* a reading that fails costs as well */
}

static void begin_fails(struct wss *w, int code, const char *says)
{
	struct wss_target t = target(2048);
	struct memoc_err err = {""};
	struct wss_sample *s = NULL;
	int r = wss_begin(w, &t, &s, &err);

	if (r != code || !strstr(err.text, says))
		fail_msg("%d \"%s\" instead of %d \"%s\"", r, err.text, code, says);
	assert_null(s);
}

/* ---- a fake cgroup (v2), and what the multi-generational LRU would tell of it ---- */

static struct cgroup_vm *fake_group(const char *current)
{
	struct cgroup_vm *g = NULL;
	struct memoc_err err = {""};

	put("vm/memory.current", current);
	put("vm/memory.swap.current", "0\n");
	put("vm/memory.high", "max\n");
	put("vm/memory.stat", "anon 1\nfile 0\nshmem 0\nworkingset_refault_anon 0\n");
	if (cgroup_vm_open_path(root, "/vm", &cgroup_v2_ops, NULL, &g, &err) < 0)
		fail_msg("%s", err.text);
	return g;
}

#define LRU_TEXT                                                                                                       \
	"memcg     1 /\n node     0\n          0     100000          5          7 \n"                                  \
	"memcg    12 /vm\n"                                                                                            \
	" node     0\n"                                                                                                \
	"        653       9000       1000         70 \n"                                                              \
	"        654       8000        200         11 \n"                                                              \
	"        655       4000         30         10 \n"                                                              \
	" node     1\n"                                                                                                \
	"         10       4000          4         10 \n"                                                              \
	"         11       4000          5         10 \n"                                                              \
	"memcg    13 /vm2\n node     0\n          1     100000          5          7 \n"

/* ---- tools ---- */

static void test_pick(void **state)
{
	uint64_t page[2048], seed = 3;
	unsigned in_second = 0;

	assert_int_equal(wss_pick_pages(&ram, 2048, &seed, page), 2048);
	for (unsigned i = 0; i < 2048; i++)
		assert_int_equal(page[i], page_of(i));
	assert_int_equal(wss_pick_pages(&ram, 9999, &seed, page), 2048);
	for (unsigned round = 0; round < 100; round++) {
		assert_int_equal(wss_pick_pages(&ram, 100, &seed, page), 100);
		for (unsigned i = 0; i < 100; i++) {
			assert_true(i == 0 || page[i] > page[i - 1]);
			assert_true((page[i] >= FIRST && page[i] < FIRST + 1536) ||
				    (page[i] >= SECOND && page[i] < SECOND + 512));
			in_second += page[i] >= SECOND;
		}
	}
	assert_in_range(in_second, 2450, 2550); /* a quarter, and each part has its page */
	assert_int_equal(wss_pick_pages(&ram, 0, &seed, page), 0);
}

static void test_words(void **state)
{
	uint64_t index[3000], got[3000];
	int fd = open_new("words");

	for (unsigned i = 0; i < 3000; i++) {
		index[i] = (uint64_t)i * i / 50;
		set(fd, index[i], index[i] * 7);
	}
	assert_int_equal(wss_read_words(fd, WSS_GAP_PAGEMAP, index, 3000, got), 0);
	for (unsigned i = 0; i < 3000; i++)
		assert_int_equal(got[i], index[i] * 7);
	index[2999]++;
	assert_int_equal(wss_read_words(fd, WSS_GAP_PAGEMAP, index, 3000, got), -ENODATA);
	assert_int_equal(wss_read_words(-1, WSS_GAP_FRAMES, index, 1, got), -EBADF);
	close(fd);
	fd = open_new("bits");
	for (unsigned i = 0; i < 3000; i++)
		index[i] = (uint64_t)i * i / 3;
	assert_int_equal(wss_set_bits(fd, index, 3000), 0);
	for (uint64_t i = 0, at = 0; i < index[2999] / 64; i++) {
		uint64_t word = get(fd, i), wanted = 0;

		for (; at < 3000 && index[at] / 64 == i; at++)
			wanted |= UINT64_C(1) << index[at] % 64;
		assert_int_equal(word, wanted);
	}
	close(fd);
}

/* ---- idle ---- */

static void test_idle_marks_single_heads(void **state)
{
	struct wss *w;

	usual_pages();
	w = open_it(WSS_IDLE);
	struct wss_sample *s = begin_it(w, 2048);
	for (unsigned i = 512; i < 1536; i++)
		assert_true(is_idle(small_pfn(i)));
	assert_true(is_idle(8192));
	assert_int_equal(idle_count(), 1025);
	end_is(s, 0, 2048);
	/* 300 small ones were touched */
	s = begin_it(w, 2048);
	for (unsigned i = 600; i < 900; i++)
		set_idle(small_pfn(i), false);
	end_is(s, 300, 2048);
	/* the huge page counts by its size */
	s = begin_it(w, 2048);
	set_idle(8192, false);
	end_is(s, 512, 2048);
	/* a sample: the share is right, within its own error */
	s = begin_it(w, 700);
	set_idle(8192, false);
	struct wss_reading reading;
	struct memoc_err err;
	assert_int_equal(wss_end(s, &reading, &err), 0);
	assert_int_equal(reading.pages, 700);
	assert_in_range(reading.wss_bytes, 512 * PAGE - reading.error_bytes, 512 * PAGE + reading.error_bytes);
	assert_true(reading.error_bytes > 0 && reading.error_bytes < ram.bytes / 20);
	assert_null(wss_close(w));
}

static void test_idle_pages_that_change(void **state)
{
	struct wss *w;

	usual_pages();
	w = open_it(WSS_IDLE);
	struct wss_sample *s = begin_it(w, 2048);
	map_page(700, 20000, LRU); /* moved: its bit came along */
	set_idle(20000, true);
	map_page(701, 20001, LRU); /* swapped out and back: a new frame, in use; the old one was freed */
	set_idle(small_pfn(701), false);
	set(pagemap, page_of(702), SWAPPED | 12345);
	set(pagemap, page_of(703), 0); /* given back */
	map_page(3, 20003, LRU);       /* touched for the first time */
	map_page(4, 20004, 0);	       /* the same, and not on a list yet */
	map_page(5, 20005, ZERO);      /* read, never written: the page of zeroes is no memory */
	/* 702 and 703 were touched before they went: it is not what they are now */
	set_idle(small_pfn(702), false);
	end_is(s, 3, 2048);

	/* the huge page is split: its parts have its bit each; one was used since */
	map_page(700, small_pfn(700), LRU);
	map_page(701, small_pfn(701), LRU);
	map_page(4, 20004, LRU);
	s = begin_it(w, 2048);
	for (unsigned i = 1536; i < 2048; i++) {
		set(kpageflags, 8192 + i - 1536, LRU);
		set_idle(8192 + i - 1536, i != 1700);
	}
	end_is(s, 1, 2048);
	wss_close(w);
}

/* How many pages were judged, none of which is in use, and what the others may be. */
static void end_doubts(struct wss_sample *s, uint64_t unjudged)
{
	struct wss_reading reading;
	struct memoc_err err;

	assert_int_equal(wss_end(s, &reading, &err), 0);
	assert_int_equal(reading.pages, 2048 - unjudged);
	assert_int_equal(reading.wss_bytes, 0);
	assert_in_range(reading.error_bytes, unjudged * PAGE, (unjudged + 10) * PAGE);
}

/* A page that was written to and left a merged frame behind, which keeps its bit; the frame counts for what it says of
 * itself. */
static unsigned copied_from_merged(struct wss *w)
{
	struct wss_reading reading;
	struct memoc_err err = {""};

	map_page(600, small_pfn(600), LRU | ANON | KSM);
	struct wss_sample *s = begin_it(w, 2048);
	map_page(600, 20000, LRU | ANON | KSM);
	set_idle(20000, false);
	assert_int_equal(wss_end(s, &reading, &err), 0);
	return (unsigned)(reading.wss_bytes / PAGE);
}

/* Linux 6.12 says of all anonymous memory that it is merged: believed only where KSM is or was at work. */
static void test_idle_merged(void **state)
{
	struct wss *w;

	usual_pages();
	w = open_it(WSS_IDLE);
	assert_int_equal(copied_from_merged(w), 0); /* not looked up again: no kernel without KSM has such a page */
	put("sys/kernel/mm/ksm/run", "0\n");
	put("sys/kernel/mm/ksm/pages_shared", "0\n");
	assert_int_equal(copied_from_merged(w), 0);
	put("sys/kernel/mm/ksm/pages_shared", "17\n");
	assert_int_equal(copied_from_merged(w), 1);
	put("sys/kernel/mm/ksm/pages_shared", "0\n");
	put("sys/kernel/mm/ksm/run", "1\n");
	assert_int_equal(copied_from_merged(w), 1);
	wss_close(w);
}

/* What khugepaged puts together bears no mark: that is not known to be in use. */
static void test_idle_collapsed(void **state)
{
	const uint64_t huge = UINT64_C(59) * 512;
	struct wss *w;

	usual_pages();
	w = open_it(WSS_IDLE);
	struct wss_sample *s = begin_it(w, 2048);
	for (unsigned i = 0; i < 512; i++)
		set(kpageflags, huge + i, i ? TAIL | THP : LRU | HEAD | THP);
	for (unsigned i = 700; i < 800; i++)
		set(pagemap, page_of(i), PRESENT | (huge + i - 512));
	set_idle(huge, false);
	end_doubts(s, 100);

	/* the next window marks it, as any other */
	s = begin_it(w, 2048);
	end_is(s, 0, 2048);
	wss_close(w);
}

static void test_idle_untracked(void **state)
{
	struct wss *w;

	usual_pages();
	for (unsigned i = 512; i < 612; i++)
		set(kpageflags, small_pfn(i), 0);
	w = open_it(WSS_IDLE);
	struct wss_sample *s = begin_it(w, 2048);
	assert_int_equal(idle_count(), 925);
	/* a hundred are not counted: none of them may be idle, and that is said */
	struct wss_reading reading;
	struct memoc_err err;
	assert_int_equal(wss_end(s, &reading, &err), 0);
	assert_int_equal(reading.pages, 1948);
	assert_int_equal(reading.wss_bytes, 0);
	assert_in_range(reading.error_bytes, 100 * PAGE, 110 * PAGE);
	for (unsigned i = 612; i < 1300; i++)
		set(kpageflags, small_pfn(i), 0);
	s = begin_it(w, 2048);
	end_fails(s, -EAGAIN, "788 were in no state");
	wss_close(w);
}

static void test_idle_small_huge_pages(void **state)
{
	struct wss *w;

	/* 16 pages at frame 4112, next to 4 at 4128; tails point to their own head */
	for (unsigned i = 0; i < 16; i++)
		map_page(i, 4112 + i, i ? TAIL : LRU | HEAD);
	for (unsigned i = 16; i < 20; i++)
		map_page(i, 4112 + i, i > 16 ? TAIL : LRU | HEAD);
	w = open_it(WSS_IDLE);
	struct wss_sample *s = begin_it(w, 2048);
	assert_int_equal(idle_count(), 2);
	assert_true(is_idle(4112) && is_idle(4128));
	set_idle(4128, false);
	end_is(s, 4, 2048);
	wss_close(w);
}

static void test_idle_refuses(void **state)
{
	struct wss *w = open_it(WSS_IDLE);

	/* reserved huge pages */
	map_page(9, 512, HUGE | HEAD);
	begin_fails(w, -EOPNOTSUPP, "huge pages");
	/* numbers of frames are hidden */
	map_page(9, 0, 0);
	begin_fails(w, -EPERM, "CAP_SYS_ADMIN");
	map_page(9, 70000, 0); /* beyond what kpageflags has */
	assert_int_equal(ftruncate(kpageflags, 65536 * 8), 0);
	begin_fails(w, -ENODATA, "kpageflags");
	map_page(9, 1000, LRU);
	struct wss_sample *s = begin_it(w, 2048);
	assert_int_equal(ftruncate(bitmap, 8), 0); /* read short */
	end_fails(s, -ENODATA, "idle pages cannot be read");
	assert_int_equal(ftruncate(bitmap, 65536 / 8), 0);
	s = begin_it(w, 2048);
	assert_int_equal(ftruncate(pagemap, 100), 0); /* so does the pagemap of a process that has ended */
	end_fails(s, -ESRCH, "ended");
	begin_fails(w, -ESRCH, "ended");
	assert_int_equal(ftruncate(pagemap, (off_t)(SECOND + 512) * 8), 0);
	atomic_store(&cancel, true);
	begin_fails(w, -ECANCELED, "cancelled");
	atomic_store(&cancel, false);
	wss_close(w);
}

/* A process with just that number, which its last owner has left; −1 where that is not ours to ask, or it has one
 * again. */
static pid_t process_numbered(pid_t number)
{
	struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&number, .set_tid_size = 1};
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0) {
		pause();
		_exit(0);
	}
	if (pid < 0 && errno != EPERM && errno != EEXIST)
		fail_msg("no second process with number %d: %s", (int)number, strerror(errno));
	return pid;
}

static void test_idle_process_dies(void **state)
{
	struct memoc_err err;
	struct wss *w;
	char link[512];
	pid_t child = fork();

	if (child == 0) {
		pause();
		_exit(0);
	}
	int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	assert_true(child > 0 && pidfd >= 0);
	usual_pages();
	snprintf(link, sizeof(link), "mkdir %s/proc/%d && cp %s/proc/%d/pagemap %s/proc/%d/pagemap", root, (int)child,
		 root, (int)getpid(), root, (int)child);
	assert_int_equal(system(link), 0);
	w = open_it(WSS_IDLE);
	struct wss_target t = target(100);
	struct wss_sample *s = NULL, *other = NULL;
	t.pid = child;
	t.pidfd = pidfd;
	assert_int_equal(wss_begin(w, &t, &s, &err), 0);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	pid_t heir = process_numbered(child);
	if (heir <= 0)
		print_message("not looked at here: another process with the same number, which only root can make\n");
	/* In mid-sample; and at the begin: whoever has that number now is not asked. */
	end_fails(s, -ESRCH, "has ended");
	assert_int_equal(wss_begin(w, &t, &other, &err), -ESRCH);
	assert_null(other);
	if (heir > 0) {
		kill(heir, SIGKILL);
		assert_int_equal(waitpid(heir, NULL, 0), heir);
	}
	close(pidfd);
	wss_close(w);
}

/* A real pagemap of 511 GiB of which little is there; frames are real, only the bitmap is a file. */
static void test_idle_large_and_sparse(void **state)
{
	uint64_t size = 511 * GIB;
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
	     link[256];
	struct memoc_err err;
	struct wss *w;
	struct wss_sample *s = NULL;
	struct wss_reading reading;

	assert_true(p != MAP_FAILED);
	for (uint64_t at = 0; at < size; at += GIB)
		p[at] = 1;
	struct guest_ram_range range = {(uintptr_t)p, (uintptr_t)p + size, false, 0};
	struct guest_ram large = {&range, 1, size};
	snprintf(link, sizeof(link), "rm -r %s/proc && ln -s /proc %s/proc", root, root);
	assert_int_equal(system(link), 0);
	assert_int_equal(ftruncate(bitmap, (off_t)GIB), 0);
	w = open_it(WSS_IDLE);
	struct wss_target t = target(2401);
	t.ram = &large;
	int r = wss_begin(w, &t, &s, &err);
	if (r == -EPERM) { /* numbers of frames are root's to see; that it says so is what is tested then */
		assert_non_null(strstr(err.text, "CAP_SYS_ADMIN"));
		print_message("not looked at here: the reading, for want of CAP_SYS_ADMIN\n");
	} else {
		assert_int_equal(r, 0);
		assert_int_equal(wss_end(s, &reading, &err), 0);
		assert_int_equal(reading.pages, 2401);
		assert_true(reading.wss_bytes < size / 50);
	}
	wss_close(w);
	munmap(p, size);
}

static void test_idle_absent(void **state)
{
	struct memoc_err why[WSS_BACKEND_END];
	struct wss *w = NULL;

	assert_int_equal(wss_open(root, WSS_IDLE, &w, &why[0]), -ENOENT);
	assert_non_null(strstr(why[0].text, "CONFIG_IDLE_PAGE_TRACKING"));
	wss_open_best(root, &w, why);
	assert_null(w);
	for (enum wss_backend k = WSS_IDLE; k < WSS_BACKEND_END; k++)
		assert_true(why[k].text[0] != '\0');
	assert_int_equal(wss_open(root, WSS_NONE, &w, &why[0]), -EINVAL);
	assert_null(wss_close(NULL));
	wss_cancel(NULL);
}

static struct wss_memory remembered;
static uint64_t overhead_bytes; /* of QEMU, measured */

static struct wss_sample *begin_in(struct wss *w, struct cgroup_vm *g, bool emulated, int code, const char *says)
{
	struct wss_target t = target(2048);
	struct memoc_err err = {""};
	struct wss_sample *s = NULL;
	int r;

	t.cgroup = g;
	t.emulated = emulated;
	t.memory = &remembered;
	t.overhead_bytes = overhead_bytes;
	r = wss_begin(w, &t, &s, &err);
	if (r != code || !strstr(err.text, says))
		fail_msg("%d \"%s\" instead of %d \"%s\"", r, err.text, code, says);
	return s;
}

#define ENABLED_FILE "sys/kernel/mm/lru_gen/enabled"
#define RELEASE_FILE "proc/sys/kernel/osrelease"
#define VMSTAT_FILE "proc/vmstat"
#define LRU_FILE "sys/kernel/debug/lru_gen"

static void put_stat(unsigned scanned, unsigned stolen)
{
	char text[128];

	snprintf(text, sizeof(text), "anon 1\nfile 0\nshmem 0\npgscan %u\npgsteal %u\n", scanned, stolen);
	put("vm/memory.stat", text);
}

/* Accessed bits that reclaim takes away without a word: a reading is given only where they cannot be many. */
static void test_idle_under_reclaim(void **state)
{
	struct cgroup_vm *g = fake_group("4194304\n");
	struct memoc_err err = {""};
	struct wss_reading reading;
	struct wss *w;

	usual_pages();
	w = open_it(WSS_IDLE);
	put(ENABLED_FILE, "0x0007\n");
	put(RELEASE_FILE, "6.12.1\n");
	put(LRU_FILE, LRU_TEXT);
	put(VMSTAT_FILE, "pageoutrun 3\nallocstall_normal 5\n");
	put_stat(10, 10);
	struct wss_sample *s = begin_in(w, g, false, 0, "");
	end_is(s, 0, 2048);
	assert_false(remembered.scanned);
	/* the first window with reclaim in it: nobody knows whether there was an aging run */
	s = begin_in(w, g, false, 0, "");
	put_stat(1000, 1000);
	end_fails(s, -EBUSY, "reclaimed from within the window");
	assert_true(remembered.scanned);
	/* from the next one on that is known: no run, and all that was looked at was idle and went */
	s = begin_in(w, g, false, 0, "");
	put_stat(2000, 2000);
	assert_int_equal(wss_end(s, &reading, &err), 0);
	assert_int_equal(reading.error_bytes, 0);
	/* of two that were in use the neighbours' bits may have been taken, too: 128 of 2048 pages */
	s = begin_in(w, g, false, 0, "");
	put_stat(3000, 2998);
	assert_int_equal(wss_end(s, &reading, &err), 0);
	assert_int_equal(reading.error_bytes, 128 * PAGE);
	s = begin_in(w, g, false, 0, "");
	put_stat(4000, 3994);
	end_fails(s, -EBUSY, "reclaimed from within the window");
	s = begin_in(w, g, false, 0, "");
	put_stat(5000, 4994);
	put(LRU_FILE, "memcg    12 /vm\n node     0\n 656 10 5 1\n node     1\n 11 1 1 1\n");
	end_fails(s, -EBUSY, "reclaimed");
	/* kswapd was at work, and may have aged it without a scan */
	put(LRU_FILE, LRU_TEXT);
	s = begin_in(w, g, false, 0, "");
	end_is(s, 0, 2048);
	assert_false(remembered.scanned);
	s = begin_in(w, g, false, 0, "");
	put(VMSTAT_FILE, "pageoutrun 4\nallocstall_normal 5\n");
	end_fails(s, -EBUSY, "reclaimed");
	s = begin_in(w, g, false, 0, "");
	put(VMSTAT_FILE, "pageoutrun 4\nallocstall_normal 6\n");
	end_is(s, 0, 2048); /* it did not */
	/* a kernel whose aging does not see KVM guests leaves their bits alone, but not those of emulated ones */
	put(RELEASE_FILE, "6.8.0-49-generic\n");
	s = begin_in(w, g, false, 0, "");
	put_stat(6000, 4994);
	end_is(s, 0, 2048);
	s = begin_in(w, g, true, 0, "");
	put_stat(7000, 4994);
	end_fails(s, -EBUSY, "reclaimed");
	/* nor does one that is off */
	put(RELEASE_FILE, "6.12.1\n");
	put(ENABLED_FILE, "0x0006\n");
	s = begin_in(w, g, false, 0, "");
	put_stat(8000, 4994);
	end_is(s, 0, 2048);
	put(ENABLED_FILE, "0x0007\n");
	s = begin_in(w, g, false, 0, "");
	end_is(s, 0, 2048);
	assert_false(remembered.scanned);
	assert_null(wss_close(w));
	cgroup_vm_close(g);
}

/* v1 does not count scans: the generations tell, where they can be read. */
static void test_idle_under_reclaim_v1(void **state)
{
	struct cgroup_vm *g = fake_group("4194304\n");
	struct wss_sample *s;
	struct wss *w;

	usual_pages();
	w = open_it(WSS_IDLE);
	put(ENABLED_FILE, "0x0007\n");
	put(RELEASE_FILE, "6.12.1\n");
	put("vm/memory.stat", "anon 1\nfile 0\nshmem 0\n");
	put(LRU_FILE, "");
	assert_null(begin_in(w, g, false, -EOPNOTSUPP, "mount debugfs"));
	put(LRU_FILE, LRU_TEXT);
	s = begin_in(w, g, false, 0, "");
	end_is(s, 0, 2048);
	s = begin_in(w, NULL, false, 0, "");
	put(LRU_FILE, "memcg    12 /vm\n node     0\n 656 10 5 1\n node     1\n 11 1 1 1\n");
	end_fails(s, -EBUSY, "reclaimed");
	s = begin_in(w, NULL, false, 0, "");
	put(LRU_FILE, "");
	end_fails(s, -EBUSY, "reclaimed"); /* it cannot be told any more */
	/* nor is it known where the host does not say whether it reclaims */
	put_stat(1, 1);
	put(VMSTAT_FILE, "allocstall_normal 6\n");
	assert_null(begin_in(w, g, false, -EOPNOTSUPP, "mount debugfs"));
	put(VMSTAT_FILE, "pageoutrun 4\nallocstall_normal 6\n");
	s = begin_in(w, g, false, 0, "");
	end_is(s, 0, 2048);
	assert_null(wss_close(w));
	cgroup_vm_close(g);
}

static void test_best_is_idle(void **state)
{
	struct memoc_err why[WSS_BACKEND_END];
	struct wss *w = NULL;

	put("proc/meminfo", "SwapTotal: 1024 kB\n");
	wss_open_best(root, &w, why);
	assert_non_null(w);
	assert_int_equal(wss_kind(w), WSS_IDLE);
	assert_string_equal(why[WSS_IDLE].text, "");
	assert_non_null(strstr(why[WSS_DAMON].text, "CONFIG_DAMON_VADDR"));
	assert_non_null(strstr(why[WSS_LRU].text, "CONFIG_LRU_GEN"));
	assert_non_null(strstr(why[WSS_REFAULT].text, "only where"));
	wss_close(w);
}

/* ---- idle, host sampler ---- */

#define SWAPBACKED (UINT64_C(1) << 14)

static void test_idle_host(void **state)
{
	struct memoc_err err = {""};
	int owners = open_new("proc/kpagecgroup");
	struct cgroup_vm *g = fake_group("4194304\n"); /* 1024 pages */
	uint64_t inode = cgroup_vm_inode(g);

	assert_int_equal(ftruncate(owners, 65536 * 8), 0);
	put("proc/iomem",
	    "00000000-0fffffff : System RAM\n  01000000-01ffffff : Kernel code\n10000000-1fffffff : PCI\n");
	for (unsigned i = 512; i < 1536; i++) {
		set(kpageflags, small_pfn(i), LRU | SWAPBACKED);
		set(owners, small_pfn(i), inode);
	}
	set(kpageflags, 30000, LRU | SWAPBACKED); /* somebody else's */
	set(owners, 30000, inode + 1);
	set(kpageflags, 30001, LRU); /* its file cache */
	set(owners, 30001, inode);
	struct wss *w = open_it(WSS_IDLE_HOST);
	struct wss_target t = target(2048);
	struct wss_sample *s = NULL;
	t.cgroup = g;
	assert_int_equal(wss_begin(w, &t, &s, &err), 0);
	assert_int_equal(wss_start(w, 1000, &err), 0); /* it has a 64th of the host: every frame is looked at */
	assert_int_equal(idle_count(), 1024);
	for (unsigned i = 512; i < 812; i++)
		set_idle(small_pfn(i), false);
	set(owners, small_pfn(812), inode + 1);	  /* went to somebody else */
	set(kpageflags, 30002, LRU | SWAPBACKED); /* came */
	set(owners, 30002, inode);
	assert_int_equal(wss_collect(w, &err), 0);
	struct wss_reading reading;
	assert_int_equal(wss_end(s, &reading, &err), 0);
	assert_int_equal(reading.pages, 1024);
	assert_int_equal(reading.wss_bytes, 301 * PAGE);
	/* one of whom there is nothing in the sample */
	assert_int_equal(wss_begin(w, &t, &s, &err), 0);
	assert_int_equal(ftruncate(owners, 0), 0);
	assert_int_equal(ftruncate(owners, 65536 * 8), 0);
	assert_int_equal(wss_start(w, 1000, &err), 0);
	assert_int_equal(wss_collect(w, &err), 0);
	end_fails(s, -EAGAIN, "too few");
	t.cgroup = NULL;
	assert_int_equal(wss_begin(w, &t, &s, &err), -ENXIO);
	wss_close(w);
	put("proc/iomem", "00000000-00000000 : System RAM\n");
	assert_int_equal(wss_open(root, WSS_IDLE_HOST, &w, &err), -EPERM);
	cgroup_vm_close(g);
	close(owners);
}

/* ---- damon ---- */

#define KDAMONDS "sys/kernel/mm/damon/admin/kdamonds/"
#define CONTEXT KDAMONDS "0/contexts/0/"

/* The directories that the kernel would make for so many regions of one target. */
static void damon_tree(unsigned regions)
{
	static const char *const files[] = {"contexts/nr_contexts",
					    "state",
					    "contexts/0/operations",
					    "contexts/0/monitoring_attrs/intervals/sample_us",
					    "contexts/0/monitoring_attrs/intervals/aggr_us",
					    "contexts/0/monitoring_attrs/intervals/update_us",
					    "contexts/0/monitoring_attrs/nr_regions/min",
					    "contexts/0/monitoring_attrs/nr_regions/max",
					    "contexts/0/targets/nr_targets",
					    "contexts/0/targets/0/pid_target",
					    "contexts/0/targets/0/regions/nr_regions",
					    "contexts/0/schemes/nr_schemes",
					    "contexts/0/schemes/0/action",
					    "contexts/0/schemes/0/access_pattern/sz/min",
					    "contexts/0/schemes/0/access_pattern/sz/max",
					    "contexts/0/schemes/0/access_pattern/nr_accesses/min",
					    "contexts/0/schemes/0/access_pattern/nr_accesses/max",
					    "contexts/0/schemes/0/access_pattern/age/min",
					    "contexts/0/schemes/0/access_pattern/age/max",
					    "contexts/0/schemes/0/filters/nr_filters",
					    "contexts/0/schemes/0/filters/0/type",
					    "contexts/0/schemes/0/filters/0/matching",
					    "contexts/0/schemes/0/filters/0/damon_target_idx"};
	char path[160];

	put(KDAMONDS "nr_kdamonds", "0\n");
	put(CONTEXT "avail_operations", "vaddr\nfvaddr\npaddr\n");
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), KDAMONDS "0/%s", files[i]);
		put(path, "0\n");
	}
	for (unsigned i = 0; i < regions; i++) {
		snprintf(path, sizeof(path), CONTEXT "targets/0/regions/%u/start", i);
		put(path, "0\n");
		snprintf(path, sizeof(path), CONTEXT "targets/0/regions/%u/end", i);
		put(path, "0\n");
	}
	put(CONTEXT "schemes/0/tried_regions/total_bytes", "0\n");
}

static uint64_t number_of(const char *file)
{
	return strtoull(text_of(file), NULL, 10);
}

static void test_damon_round(void **state)
{
	struct memoc_err err = {""};
	struct wss *w;
	uint64_t end = 0, covered = 0;
	char path[160];

	damon_tree(8);
	w = open_it(WSS_DAMON);
	assert_true(wss_in_rounds(w) && wss_collect_after(w) < 1);
	assert_string_equal(text_of("/" KDAMONDS "nr_kdamonds"), "0"); /* between rounds it is anybody's */
	struct wss_sample *s = begin_it(w, 8);
	assert_int_equal(wss_start(w, 30000, &err), 0);
	assert_string_equal(text_of("/" KDAMONDS "nr_kdamonds"), "1");
	assert_string_equal(text_of("/" KDAMONDS "0/state"), "on");
	assert_string_equal(text_of("/" CONTEXT "operations"), "fvaddr");
	assert_string_equal(text_of("/" CONTEXT "monitoring_attrs/intervals/sample_us"), "30000000");
	assert_string_equal(text_of("/" CONTEXT "monitoring_attrs/intervals/aggr_us"), "30000000");
	assert_int_equal(number_of("/" CONTEXT "targets/0/pid_target"), getpid());
	assert_int_equal(number_of("/" CONTEXT "targets/0/regions/nr_regions"), 8);
	for (unsigned i = 0; i < 8; i++) {
		uint64_t from, to;

		snprintf(path, sizeof(path), "/" CONTEXT "targets/0/regions/%u/start", i);
		from = number_of(path);
		snprintf(path, sizeof(path), "/" CONTEXT "targets/0/regions/%u/end", i);
		to = number_of(path);
		assert_true(from >= end && to > from && from % PAGE == 0 && to % PAGE == 0);
		end = to;
		covered += to - from;
	}
	assert_int_equal(covered, ram.bytes);
	assert_int_equal(end, (SECOND + 512) * PAGE);
	begin_fails(w, -EAGAIN, "under way");
	wss_abort(w); /* a real collect that waits would come back now */
	assert_string_equal(text_of("/" KDAMONDS "0/state"), "off");
	put(CONTEXT "schemes/0/tried_regions/total_bytes", "2097152\n"); /* 512 pages of 2048: two regions */
	assert_int_equal(wss_collect(w, &err), 0);
	assert_string_equal(text_of("/" KDAMONDS "nr_kdamonds"), "0");
	end_is(s, 2, 8);
	wss_close(w);
}

/* DAMON refuses all processes where one is no more: it is left out, and the others have their reading. */
static void test_damon_without_who_ended(void **state)
{
	struct memoc_err err = {""};
	pid_t child = fork();
	struct wss_sample *gone = NULL;

	if (child == 0) {
		pause();
		_exit(0);
	}
	damon_tree(8);
	struct wss *w = open_it(WSS_DAMON);
	struct wss_target t = target(8);
	t.pid = child;
	t.pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	assert_true(child > 0 && t.pidfd >= 0);
	assert_int_equal(wss_begin(w, &t, &gone, &err), 0);
	struct wss_sample *s = begin_it(w, 8);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(wss_start(w, 30000, &err), 0);
	assert_int_equal(number_of("/" CONTEXT "targets/nr_targets"), 1);
	assert_int_equal(number_of("/" CONTEXT "targets/0/pid_target"), getpid());
	put(CONTEXT "schemes/0/tried_regions/total_bytes", "2097152\n");
	wss_abort(w);
	assert_int_equal(wss_collect(w, &err), 0);
	end_fails(gone, -ESRCH, "has ended");
	end_is(s, 2, 8);
	close(t.pidfd);
	wss_close(w);
}

static void test_damon_of_others(void **state)
{
	struct memoc_err err = {""};
	struct wss *w = NULL;

	damon_tree(8);
	put(KDAMONDS "nr_kdamonds", "2\n");
	assert_int_equal(wss_open(root, WSS_DAMON, &w, &err), -EBUSY);
	assert_non_null(strstr(err.text, "somebody else"));
	put(KDAMONDS "nr_kdamonds", "1\n");
	assert_int_equal(wss_open(root, WSS_DAMON, &w, &err), -EBUSY);
	assert_string_equal(text_of("/" KDAMONDS "nr_kdamonds"), "1");
	/* what an earlier memocd left is ours */
	put(CONTEXT "monitoring_attrs/intervals/update_us", "1093500113\n");
	put(KDAMONDS "0/state", "on\n");
	w = open_it(WSS_DAMON);
	assert_string_equal(text_of("/" KDAMONDS "0/state"), "off");
	assert_string_equal(text_of("/" KDAMONDS "nr_kdamonds"), "0");
	/* somebody comes between two rounds */
	struct wss_sample *s = begin_it(w, 8);
	put(KDAMONDS "nr_kdamonds", "1\n");
	put(CONTEXT "monitoring_attrs/intervals/update_us", "1000000\n");
	assert_int_equal(wss_start(w, 1000, &err), -EBUSY);
	end_fails(s, -EAGAIN, "no result");
	assert_string_equal(text_of("/" KDAMONDS "nr_kdamonds"), "1");
	wss_close(w);
	assert_string_equal(text_of("/" KDAMONDS "nr_kdamonds"), "1");
}

static void test_damon_cannot_watch_processes(void **state)
{
	struct memoc_err err = {""};
	struct wss *w = NULL;

	damon_tree(8);
	put(CONTEXT "avail_operations", "paddr\n");
	assert_int_equal(wss_open(root, WSS_DAMON, &w, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "CONFIG_DAMON_VADDR"));
	assert_string_equal(text_of("/" KDAMONDS "nr_kdamonds"), "0");
}

static void test_damon_cancelled(void **state)
{
	struct memoc_err err = {""};
	struct wss *w;

	damon_tree(8);
	w = open_it(WSS_DAMON);
	struct wss_sample *s = begin_it(w, 8), *gone = begin_it(w, 8);
	wss_cancel(gone);
	assert_int_equal(wss_start(w, 30000, &err), 0);
	assert_string_equal(text_of("/" CONTEXT "targets/nr_targets"), "1");
	wss_cancel(s); /* the last of the round ends it */
	assert_string_equal(text_of("/" KDAMONDS "0/state"), "off");
	assert_string_equal(text_of("/" KDAMONDS "nr_kdamonds"), "0");
	s = begin_it(w, 8);
	assert_int_equal(wss_start(w, 30000, &err), 0);
	wss_cancel(s);
	wss_close(w);
}

/* ---- frame numbers that are hidden ---- */

/* The words of the probe's own stack, which lies below ours. */
static void put_own_pages(int fd, uint64_t word)
{
	uint64_t top = (uint64_t)(uintptr_t)__builtin_frame_address(0) / PAGE;

	for (uint64_t page = top - 64; page <= top; page++)
		set(fd, page, word);
}

/* Without CAP_SYS_ADMIN all can be opened, and no reading would ever come of it. */
static void test_idle_hidden_frames(void **state)
{
	struct memoc_err err = {""}, why[WSS_BACKEND_END];
	struct wss *w = NULL;

	assert_int_equal(wss_probe(root, WSS_IDLE, &err), 0); /* no such file here: not known */
	int own = open_new("proc/self/pagemap");
	assert_int_equal(wss_probe(root, WSS_IDLE, &err), 0);
	put_own_pages(own, 0); /* swapped out just now */
	assert_int_equal(wss_probe(root, WSS_IDLE, &err), 0);
	put_own_pages(own, PRESENT | 77);
	assert_int_equal(wss_probe(root, WSS_IDLE, &err), 0);
	put_own_pages(own, PRESENT);
	assert_int_equal(wss_probe(root, WSS_IDLE, &err), -EPERM);
	assert_non_null(strstr(err.text, "CAP_SYS_ADMIN is missing"));
	damon_tree(8);
	wss_open_best(root, &w, why);
	assert_true(w && wss_kind(w) == WSS_DAMON);
	assert_non_null(strstr(why[WSS_IDLE].text, "CAP_SYS_ADMIN is missing"));
	wss_close(w);
	close(own);
}

/* ---- lru ---- */

static void test_lru_text(void **state)
{
	struct lru_generations a, b;
	char text[] = LRU_TEXT, later[] = LRU_TEXT, other[] = LRU_TEXT, none[] = "memcg 12 /vm\n", empty[] = "";

	assert_int_equal(lru_gen_parse(text, "/vm", NULL, &a), 0);
	assert_true(a.id == 12 && a.nodes == 2);
	assert_true(a.node[0].node == 0 && a.node[0].youngest == 655 && a.node[0].since_pages == 0);
	assert_true(a.node[1].node == 1 && a.node[1].youngest == 11);
	a.node[0].youngest = 653;
	a.node[1].youngest = 10;
	assert_int_equal(lru_gen_parse(later, "/vm", &a, &b), 0);
	assert_int_equal(b.node[0].since_pages, 230); /* anonymous and shared memory; files do not count */
	assert_int_equal(b.node[1].since_pages, 5);
	assert_int_equal(lru_gen_parse(other, "/v", NULL, &a), -ENOENT);
	assert_int_equal(lru_gen_parse(none, "/vm", NULL, &a), -EBADMSG);
	assert_int_equal(lru_gen_parse(empty, "/vm", NULL, &a), -ENOENT);
}

static void lru_probe_is(const char *enabled, const char *release, int code, const char *says)
{
	struct memoc_err err = {""};

	put("sys/kernel/mm/lru_gen/enabled", enabled);
	put("proc/sys/kernel/osrelease", release);
	int r = wss_probe(root, WSS_LRU, &err);
	if (r != code || !strstr(err.text, says))
		fail_msg("%d \"%s\" instead of %d \"%s\"", r, err.text, code, says);
}

static void test_lru_probe(void **state)
{
	struct memoc_err err = {""};

	assert_int_equal(wss_probe(root, WSS_LRU, &err), -ENOENT);
	lru_probe_is("0x0000\n", "6.12.1-amd64\n", -EOPNOTSUPP, "echo y");
	lru_probe_is("0x0001\n", "6.12.1-amd64\n", -EOPNOTSUPP, "echo y");
	lru_probe_is("0x0007\n", "6.1.0-13-amd64\n", -EOPNOTSUPP, "KVM guests");
	lru_probe_is("0x0007\n", "6.12.1\n", -ENOENT, "debugfs");
	put("sys/kernel/debug/lru_gen", LRU_TEXT);
	lru_probe_is("0x0007\n", "6.12.1\n", 0, "");
	lru_probe_is("0x0007\n", "7.0\n", 0, "");
	lru_probe_is("0x0007\n", "strange\n", -EIO, "version");
}

static void window_is(const char *begin, const char *now, int code, uint64_t pages, const char *says)
{
	struct lru_generations a, b;
	struct memoc_err err = {""};
	uint64_t found = 0;
	char text[1024];
	int r;

	snprintf(text, sizeof(text), "memcg 12 /vm\n%s", begin);
	assert_int_equal(lru_gen_parse(text, "/vm", NULL, &a), 0);
	snprintf(text, sizeof(text), "memcg 12 /vm\n%s", now);
	assert_int_equal(lru_gen_parse(text, "/vm", &a, &b), 0);
	r = lru_gen_window(&a, &b, &found, &err);
	if (r != code || found != pages || !strstr(err.text, says))
		fail_msg("%d, %llu pages, \"%s\"", r, (unsigned long long)found, err.text);
}

/* What nobody touched since the begin lies in older generations; a node that comes or goes within the window has no two
 * looks. */
static void test_lru_window(void **state)
{
	const char *one = " node 0\n 7 10 200 11\n", *two = " node 0\n 7 10 200 11\n node 1\n 9 10 300 11\n";

	window_is(two, " node 0\n 7 10 200 11\n 8 10 40 11\n node 1\n 9 10 300 11\n 10 10 60 11\n", 0, 100, "");
	window_is(one, two, -EAGAIN, 0, "memory nodes changed");
	window_is(two, one, -EAGAIN, 0, "memory nodes changed");
	window_is(two, " node 0\n 7 10 200 11\n node 2\n 9 10 300 11\n", -EAGAIN, 0, "memory nodes changed");
	window_is(one, " node 0\n 8 10 200 11\n 9 1 1 1\n 10 1 1 1\n 11 1 1 1\n", -EAGAIN, 0,
		  "reclaims from it so fast");
}

/* ---- refault ---- */

static void test_refault_probe(void **state)
{
	struct memoc_err err = {""};

	put("proc/meminfo", "MemTotal: 5 kB\nSwapTotal: 0 kB\n");
	assert_int_equal(wss_probe(root, WSS_REFAULT, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "no swap"));
	put("proc/meminfo", "MemTotal: 5 kB\nSwapTotal: 100 kB\n");
	assert_int_equal(wss_probe(root, WSS_REFAULT, &err), 0);
	struct wss *w = open_it(WSS_REFAULT);
	begin_fails(w, -ENXIO, "cgroup is not known");
	wss_close(w);
}

static void put_refaults(unsigned refaults, unsigned scanned)
{
	char text[128];

	snprintf(text, sizeof(text), "anon 1\nfile 0\nshmem 0\nworkingset_refault_anon %u\npgscan %u\npgsteal 0\n",
		 refaults, scanned);
	put("vm/memory.stat", text);
}

/* A group that is searched and in which nothing cold is found: after two such windows what is in memory is in use, as
 * is some of QEMU's own. */
static void test_refault_edge(void **state)
{
	struct wss_reading reading;
	struct memoc_err err = {""};

	put("proc/meminfo", "MemTotal: 5 kB\nSwapTotal: 100 kB\n");
	put("vm/memory.reclaim", "");
	struct cgroup_vm *g = fake_group("6291456\n");
	struct wss *w = open_it(WSS_REFAULT);
	remembered = (struct wss_memory){0};
	put_refaults(0, 5000);
	struct wss_sample *s = begin_in(w, g, false, 0, "");
	put_refaults(0, 6000);
	end_fails(s, -EAGAIN, "once more to be sure");
	s = begin_in(w, g, false, 0, "");
	put_refaults(0, 7000);
	assert_int_equal(wss_end(s, &reading, &err), 0);
	assert_int_equal(reading.wss_bytes, 6291456);
	assert_in_range(reading.error_bytes, 32 * MIB, 34 * MIB);
	/* QEMU's own memory was measured: it may be in use, all of it */
	overhead_bytes = 100 * MIB;
	s = begin_in(w, g, false, 0, "");
	overhead_bytes = 0;
	put_refaults(0, 7500);
	assert_int_equal(wss_end(s, &reading, &err), 0);
	assert_in_range(reading.error_bytes, 100 * MIB, 102 * MIB);
	/* much comes back: it grows, and the edge is not where it is now */
	s = begin_in(w, g, false, 0, "");
	put_refaults(2000, 8000);
	end_fails(s, -EAGAIN, "no edge is found yet");
	assert_int_equal(remembered.edges, 0);
	wss_close(w);
	cgroup_vm_close(g);
}

/* Reclaim that does not even look (no swappiness, no swap for this group) finds nothing in a guest that sleeps, too. */
static void test_refault_of_what_cannot_be_reclaimed(void **state)
{
	struct wss_reading reading;
	struct memoc_err err = {""};

	put("proc/meminfo", "MemTotal: 5 kB\nSwapTotal: 100 kB\n");
	put("vm/memory.reclaim", "");
	struct cgroup_vm *g = fake_group("6291456\n");
	struct wss *w = open_it(WSS_REFAULT);
	remembered = (struct wss_memory){.took = true}; /* which was once, and is no evidence where more is known */
	put_refaults(0, 5000);
	for (unsigned i = 0; i < 3; i++)
		end_fails(begin_in(w, g, false, 0, ""), -EAGAIN, "that says nothing");
	/* no two edges in a row, with such a window between */
	struct wss_sample *s = begin_in(w, g, false, 0, "");
	put_refaults(0, 6000);
	end_fails(s, -EAGAIN, "once more to be sure");
	end_fails(begin_in(w, g, false, 0, ""), -EAGAIN, "that says nothing");
	s = begin_in(w, g, false, 0, "");
	put_refaults(0, 7000);
	end_fails(s, -EAGAIN, "once more to be sure");
	/* v1 does not count scans: of whom nothing was ever taken nothing is said */
	put("vm/memory.stat", "anon 1\nfile 0\nshmem 0\nworkingset_refault_anon 0\n");
	remembered = (struct wss_memory){0};
	for (unsigned i = 0; i < 3; i++)
		end_fails(begin_in(w, g, false, 0, ""), -EAGAIN, "that says nothing");
	remembered.took = true;
	end_fails(begin_in(w, g, false, 0, ""), -EAGAIN, "once more to be sure");
	s = begin_in(w, g, false, 0, "");
	assert_int_equal(wss_end(s, &reading, &err), 0);
	assert_int_equal(reading.wss_bytes, 6291456);
	wss_close(w);
	cgroup_vm_close(g);
}

static void write_psi(uint64_t some_us)
{
	char text[128];

	snprintf(text, sizeof(text), "some avg10=0.00 avg60=0.00 avg300=0.00 total=%llu\n",
		 (unsigned long long)some_us);
	put("vm/memory.pressure", text);
}

/* Nothing comes back, but the VM waits for memory: that is the edge as well. */
static void test_refault_pressure(void **state)
{
	struct wss_reading reading;
	struct memoc_err err = {""};

	put("proc/meminfo", "MemTotal: 5 kB\nSwapTotal: 100 kB\n");
	put("vm/memory.reclaim", "");
	write_psi(1000);
	struct cgroup_vm *g = fake_group("6291456\n");
	struct wss *w = open_it(WSS_REFAULT);
	remembered = (struct wss_memory){.took = true};
	for (unsigned i = 0; i < 2; i++) {
		write_psi(1000);
		struct wss_sample *s = begin_in(w, g, false, 0, "");
		for (uint64_t began = now_ms(); now_ms() == began;)
			;	       /* a window of no length has no share */
		write_psi(1000000000); /* more than the window can have been: a share is taken of it, however long it
					  was */
		if (i == 0)
			end_fails(s, -EAGAIN, "it waits for memory");
		else
			assert_int_equal(wss_end(s, &reading, &err), 0);
	}
	assert_int_equal(reading.wss_bytes, 6291456);
	wss_close(w);
	cgroup_vm_close(g);
}

#define ON_IDLE_TREE(test) cmocka_unit_test_setup_teardown(test, open_idle_tree, close_idle_tree)
#define ON_ROOT(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pick),
		ON_ROOT(test_words),
		ON_IDLE_TREE(test_idle_marks_single_heads),
		ON_IDLE_TREE(test_idle_pages_that_change),
		ON_IDLE_TREE(test_idle_merged),
		ON_IDLE_TREE(test_idle_collapsed),
		ON_IDLE_TREE(test_idle_untracked),
		ON_IDLE_TREE(test_idle_small_huge_pages),
		ON_IDLE_TREE(test_idle_refuses),
		ON_IDLE_TREE(test_idle_process_dies),
		ON_IDLE_TREE(test_idle_large_and_sparse),
		ON_ROOT(test_idle_absent),
		ON_IDLE_TREE(test_idle_hidden_frames),
		ON_IDLE_TREE(test_best_is_idle),
		ON_IDLE_TREE(test_idle_host),
		ON_ROOT(test_damon_round),
		ON_ROOT(test_damon_without_who_ended),
		ON_ROOT(test_damon_of_others),
		ON_ROOT(test_damon_cannot_watch_processes),
		ON_ROOT(test_damon_cancelled),
		ON_IDLE_TREE(test_idle_under_reclaim),
		ON_IDLE_TREE(test_idle_under_reclaim_v1),
		cmocka_unit_test(test_lru_text),
		ON_ROOT(test_lru_probe),
		cmocka_unit_test(test_lru_window),
		ON_ROOT(test_refault_probe),
		ON_ROOT(test_refault_edge),
		ON_ROOT(test_refault_of_what_cannot_be_reclaimed),
		ON_ROOT(test_refault_pressure),
	};

	self_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	return cmocka_run_group_tests_name("wss_backends", tests, NULL, NULL);
}
