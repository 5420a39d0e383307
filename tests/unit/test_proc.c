/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The procfs adapter. What is fake: the trees under a temporary root (host files, command lines, libvirt's pid file)
 * and the smaps texts of made-up QEMUs, written after real ones. What is real: this test's own process and its child.
 */
#include "controller/host/proc_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#define UUID "0f3a8b52-6d6c-4a1e-9a57-2f1c7d1f9b10"
#define OTHER_UUID "0f3a8b52-6d6c-4a1e-9a57-2f1c7d1f9b11"

/* ---- a fake root ---- */

static char root[64];

static int set_up(void **state)
{
	snprintf(root, sizeof(root), "/tmp/memoc-test-proc.XXXXXX");
	assert_non_null(mkdtemp(root));
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r '%s'", root);
	return system(command);
}

static void put_bytes(const char *file, const char *bytes, size_t len)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", root, file);
	for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = 0;
		assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
		*slash = '/';
	}
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static void put(const char *file, const char *text)
{
	put_bytes(file, text, strlen(text));
}

/* ---- host ---- */

#define MEMINFO                                                                                                        \
	"MemTotal:       24684092 kB\nMemFree:  1 kB\nMemAvailable:   24304092 kB\nSwapCached: 3 kB\n"                 \
	"SwapTotal:       1048576 kB\nSwapFree:         524288 kB\n"

static void test_host(void **state)
{
	struct memoc_err err = {0};
	struct proc_host *h = NULL;
	struct host_sample s;

	put("proc/meminfo", MEMINFO);
	put("proc/pressure/memory", "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\n"
				    "full avg10=5.60 avg60=0.00 avg300=0.00 total=0\n");
	assert_int_equal(proc_host_open(root, &h, &err), 0);
	assert_int_equal(proc_host_read(h, &s), 0);
	assert_true(s.has_memory && s.has_psi);
	assert_int_equal(s.mem_total_bytes, 24684092 * KIB);
	assert_int_equal(s.mem_available_bytes, 24304092 * KIB);
	assert_int_equal(s.swap_total_bytes, GIB);
	assert_int_equal(s.swap_free_bytes, GIB / 2);
	assert_true(s.psi_some_avg10 > 12.33 && s.psi_some_avg10 < 12.35);
	assert_true(s.psi_full_avg10 > 5.59 && s.psi_full_avg10 < 5.61);
	put("proc/pressure/memory", "some avg10=1e3 avg60=0\nfull avg10= avg60=0\n"); /* damaged: unknown, no error */
	assert_int_equal(proc_host_read(h, &s), 0);
	assert_true(s.has_memory && !s.has_psi);
	assert_null(proc_host_close(h));
}

static void test_host_without_psi(void **state)
{
	struct memoc_err err = {0};
	struct proc_host *h = NULL;
	struct host_sample s;

	assert_int_equal(proc_host_open(root, &h, &err), -ENOENT);
	assert_non_null(strstr(err.text, "meminfo"));
	put("proc/meminfo", MEMINFO);
	assert_int_equal(proc_host_open(root, &h, &err), 0);
	assert_int_equal(proc_host_read(h, &s), 0);
	assert_true(s.has_memory && !s.has_psi);
	s.mem_total_bytes = 1;
	put("proc/meminfo", "MemTotal: 5 kB\nMemAvailable: many kB\n");
	assert_int_equal(proc_host_read(h, &s), -EBADMSG);
	assert_int_equal(s.mem_total_bytes, 1);
	put("proc/meminfo", "");
	assert_int_equal(proc_host_read(h, &s), -EBADMSG);
	proc_host_close(h);
}

static void test_host_real(void **state)
{
	struct memoc_err err = {0};
	struct proc_host *h = NULL;
	struct host_sample s;

	assert_int_equal(proc_host_open("", &h, &err), 0);
	assert_int_equal(proc_host_read(h, &s), 0);
	assert_true(s.mem_total_bytes > 64 * MIB && s.mem_available_bytes <= s.mem_total_bytes);
	assert_int_equal(s.mem_total_bytes / KIB,
			 (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / KIB);
	proc_host_close(h);
}

/* ---- finding QEMU ---- */

#define ARGS(s) s, sizeof(s)
#define QEMU_ARGS(uuid)                                                                                                \
	"/usr/bin/qemu-system-x86_64\0-name\0guest=web1,debug-threads=on\0-uuid\0" uuid "\0-no-user-config"

static void find_is(const char *name, const char *uuid, int code, pid_t wanted)
{
	struct memoc_err err = {0};
	pid_t pid = -7;
	int r = proc_find_qemu(root, name, uuid, &pid, &err);

	if (r != code)
		print_message("%d: %s\n", r, err.text);
	assert_int_equal(r, code);
	assert_int_equal(pid, code == 0 ? wanted : -7);
	assert_true(code == 0 || err.text[0] != 0);
}

static void test_find_by_pid_file(void **state)
{
	put_bytes("proc/41/cmdline", ARGS(QEMU_ARGS(UUID)));
	put_bytes("proc/42/cmdline", ARGS(QEMU_ARGS(UUID)));
	put("run/libvirt/qemu/web1.pid", "42\n");
	find_is("web1", UUID, 0, 42); /* although 41 claims it as well: libvirt's own word counts */
	put("run/libvirt/qemu/web1.pid", "42");
	find_is("web1", UUID, 0, 42);
}

static void test_find_mistrusts_pid_file(void **state)
{
	static const char *const bad[] = {"",	    "\n", "43\n", "44\n", "-42", "0", "42x", "99999999999999999999",
					  "../42\n"};

	put_bytes("proc/42/cmdline", ARGS(QEMU_ARGS(UUID)));
	put_bytes("proc/43/cmdline", ARGS(QEMU_ARGS(OTHER_UUID))); /* the pid was given to another VM */
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		put("run/libvirt/qemu/web1.pid", bad[i]);
		find_is("web1", UUID, 0, 42);
	}
	find_is("../../x", UUID, 0, 42); /* never a path */
	find_is("", UUID, 0, 42);
}

static void test_find_by_scan(void **state)
{
	static const char padding[5000] = "x";
	char *args = calloc(1, 3 * sizeof(padding));
	size_t len = 0;

	put("proc/meminfo", "");
	put("proc/1/cmdline", "");				  /* kernel thread or zombie */
	put_bytes("proc/7/cmdline", ARGS("grep\0" UUID));	  /* the uuid, but not as -uuid's value */
	put_bytes("proc/8/cmdline", ARGS("x\0-uuid\0" UUID "0")); /* longer */
	put_bytes("proc/9/cmdline", ARGS("x\0-uuid " UUID));
	put_bytes("proc/10/cmdline", ARGS("x\0-uuid\0\0" UUID));
	put_bytes("proc/self2/cmdline", ARGS(QEMU_ARGS(UUID)));
	find_is("web1", UUID, -ESRCH, 0);
	/* The value at every place around the edge of the read buffer. */
	for (size_t shift = 4096 - 60; shift < 4096 + 4; shift++) {
		memset(args, 'x', shift);
		args[shift] = 0;
		len = shift + 1 + sizeof("-uuid\0" UUID);
		memcpy(args + shift + 1, "-uuid\0" UUID, sizeof("-uuid\0" UUID));
		put_bytes("proc/300/cmdline", args, len);
		find_is("web1", UUID, 0, 300);
	}
	put_bytes("proc/300/cmdline", args, len - 1); /* no NUL at the end */
	find_is("web1", UUID, 0, 300);
	put_bytes("proc/300/cmdline", ARGS("x\0-uuid\0"
					   "0F3A8B52-6D6C-4A1E-9A57-2F1C7D1F9B10"));
	find_is("web1", UUID, 0, 300);
	free(args);
}

static void test_find_refuses_two(void **state)
{
	struct memoc_err err = {0};
	pid_t pid = 0;

	put_bytes("proc/41/cmdline", ARGS(QEMU_ARGS(UUID)));
	put_bytes("proc/42/cmdline", ARGS(QEMU_ARGS(UUID)));
	assert_int_equal(proc_find_qemu(root, "web1", UUID, &pid, &err), -EEXIST);
	assert_non_null(strstr(err.text, "41"));
	assert_non_null(strstr(err.text, "42"));
	find_is("web1", "not-a-uuid", -EINVAL, 0);
}

/* ---- one process ---- */

static void test_vm_real(void **state)
{
	struct memoc_err err = {0};
	struct proc_vm *p = NULL;
	struct pollfd pollfd;
	uint64_t faults = 1, start = 0, own_start = 0;
	struct proc_vm *self = NULL;
	pid_t child = fork();

	if (child == 0) {
		pause();
		_exit(0);
	}
	assert_int_equal(proc_vm_open(child, &p, &err), 0);
	assert_int_equal(proc_vm_pid(p), child);
	pollfd = (struct pollfd){.fd = proc_vm_pidfd(p), .events = POLLIN};
	assert_int_equal(poll(&pollfd, 1, 0), 0);
	assert_int_equal(proc_vm_major_faults(p, &faults), 0);
	assert_int_equal(proc_vm_start_ticks(p, &start), 0);
	assert_int_equal(proc_vm_open(getpid(), &self, &err), 0);
	assert_int_equal(proc_vm_start_ticks(self, &own_start), 0);
	assert_true(own_start > 0 && start >= own_start);
	proc_vm_close(self);
	kill(child, SIGKILL);
	assert_int_equal(poll(&pollfd, 1, 10000), 1); /* ended, but a zombie still */
	assert_int_equal(proc_vm_major_faults(p, &faults), -ESRCH);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(proc_vm_major_faults(p, &faults), -ESRCH);
	assert_int_equal(proc_vm_start_ticks(p, &start), -ESRCH);
	assert_int_equal(proc_vm_guest_ram(p, &(struct dom_facts){.max_bytes = MIB}, &faults, NULL, &err), -ESRCH);
	assert_null(proc_vm_close(p));
	p = NULL;
	assert_int_equal(proc_vm_open(child, &p, &err), -ESRCH);
	assert_null(p);
	assert_null(proc_vm_close(NULL));
}

static void test_major_faults_text(void **state)
{
	uint64_t v = 7;

	/* The name may hold anything: it ends at the last ')'. */
	assert_int_equal(proc_vm_parse_major_faults("1 (a) R 9) (b) S 1 1 1 0 -1 4194560 1000 50 123 77 4 5 6\n", &v),
			 0);
	assert_int_equal(v, 123);
	assert_int_equal(proc_vm_parse_major_faults("1 (q) Z 1 1 1 0 -1 4194560 1000 50 123 77\n", &v), -ESRCH);
	assert_int_equal(proc_vm_parse_major_faults("1 (q) S 1 1 1 0 -1\n", &v), -EBADMSG);
	assert_int_equal(proc_vm_parse_major_faults("1 (q)", &v), -EBADMSG);
	assert_int_equal(proc_vm_parse_major_faults("", &v), -EBADMSG);
	assert_int_equal(proc_vm_parse_major_faults("1 (q) S 1 1 1 0 -1 4194560 1000 50 -1 77\n", &v), -EBADMSG);
	assert_int_equal(v, 123);
}

/* ---- guest RAM ---- */

/* With a guard page on either side, as QEMU maps RAM (util/mmap-alloc.c): else the kernel may join neighbours. */
static char *map(size_t bytes, size_t touched_bytes, int prot, int flags, int fd)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *guard = mmap(NULL, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *p;

	assert_true(guard != MAP_FAILED);
	p = mmap(guard + page, bytes, prot, flags | MAP_FIXED, fd, 0);
	assert_true(p == guard + page);
	madvise(p, bytes, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < touched_bytes; i += page)
		p[i] = 1;
	return p;
}

static void unmap(char *p, size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	assert_int_equal(munmap(p - page, bytes + 2 * page), 0);
}

static void test_ram_of_this_process(void **state)
{
	struct memoc_err err = {0};
	struct proc_vm *p = NULL;
	struct dom_facts f = {.name = "self", .max_bytes = 77 * MIB};
	uint64_t present = 0;
	int fd = memfd_create("memory-backend-memfd", MFD_CLOEXEC);
	char *anon = map(77 * MIB, 11 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1), *shared;
	char *larger = map(200 * MIB, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	char *code = map(77 * MIB, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	assert_int_equal(proc_vm_open(getpid(), &p, &err), 0);
	/* One mapping of the size: the larger one and the executable one do not disturb. */
	assert_int_equal(proc_vm_guest_ram(p, &f, &present, NULL, &err), 0);
	assert_int_equal(present, 11 * MIB);
	/* Split by madvise, as mbind does for NUMA nodes: still one row of neighbours. */
	assert_int_equal(madvise(anon + 20 * MIB, 30 * MIB, MADV_DONTDUMP), 0);
	assert_int_equal(proc_vm_guest_ram(p, &f, &present, NULL, &err), 0);
	assert_int_equal(present, 11 * MIB);
	/* Memory backing is known by its name, whatever else has its size. */
	assert_int_equal(ftruncate(fd, 77 * (off_t)MIB), 0);
	shared = map(77 * MIB, 5 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	assert_int_equal(proc_vm_guest_ram(p, &f, &present, NULL, &err), 0);
	assert_int_equal(present, 5 * MIB);
	f.max_bytes = 78 * MIB;
	assert_int_equal(proc_vm_guest_ram(p, &f, &present, NULL, &err), -ENOENT);
	assert_int_equal(present, 5 * MIB);
	proc_vm_close(p);
	unmap(shared, 77 * MIB);
	unmap(code, 77 * MIB);
	unmap(larger, 200 * MIB);
	unmap(anon, 77 * MIB);
	close(fd);
}

static int scan_text(const char *text, size_t len, const struct guest_ram_wanted *wanted, uint64_t *ret,
		     struct guest_ram *ret_map)
{
	struct memoc_err err = {0};
	int fd = memfd_create("smaps", MFD_CLOEXEC), r;

	assert_int_equal(write(fd, text, len), len);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	r = guest_ram_scan(fd, "fake", wanted, ret, NULL, ret_map, &err);
	assert_true(r == 0 || err.text[0] != 0);
	close(fd);
	return r;
}

static void ram_is(const char *text, uint64_t max_mib, int code, uint64_t wanted_kib)
{
	const struct guest_ram_wanted wanted = {.max_bytes = max_mib * MIB};
	uint64_t present = 99;

	assert_int_equal(scan_text(text, strlen(text), &wanted, &present, NULL), code);
	assert_int_equal(present, code == 0 ? wanted_kib * KIB : 99);
}

/* Mappings of 256 MiB (0x10000000) and of a half, with gaps between them. */
#define M(start, end, perms, tail, rss)                                                                                \
	start "-" end " " perms " 00000000 00:00 0 " tail "\nSize: 1 kB\nRss:   " rss " kB\nPss: 1 kB\n"
#define WHOLE(perms, tail, rss) M("7f0000000000", "7f0010000000", perms, tail, rss)
#define WHOLE2(perms, tail, rss) M("7f0020000000", "7f0030000000", perms, tail, rss)
#define HALF1(perms, tail, rss) M("7f0100000000", "7f0108000000", perms, tail, rss)
#define HALF2(perms, tail, rss) M("7f0110000000", "7f0118000000", perms, tail, rss)
#define HALF3(perms, tail, rss) M("7f0120000000", "7f0128000000", perms, tail, rss)
#define JIT M("7e0000000000", "7e0040000000", "rwxp", "", "900000")

static void test_ram_kinds(void **state)
{
	ram_is(JIT WHOLE("rw-p", "", "1234"), 256, 0, 1234);
	ram_is(JIT WHOLE("rw-s", "                  /memfd:memory-backend-memfd (deleted)", "7"), 256, 0, 7);
	ram_is(WHOLE("rw-s", "/memfd:pc.ram (deleted)", "7"), 256, 0, 7);
	ram_is(WHOLE("rw-p", "/memfd:memory-backend-memfd (deleted)", "7"), 256, 0, 7);
	ram_is(WHOLE("rw-s", "/dev/zero (deleted)", "7"), 256, 0, 7);
	ram_is(WHOLE("rw-s", "/var/lib/libvirt/qemu/ram/1-web1/pc.ram", "7"), 256, 0, 7);
	ram_is(WHOLE("rwxp", "", "1"), 256, -ENOENT, 0);
	ram_is(WHOLE("r--p", "", "1"), 256, -ENOENT, 0);
	ram_is(WHOLE("---p", "", "1"), 256, -ENOENT, 0);
	ram_is(WHOLE("rw-p", "[heap]", "1"), 256, -ENOENT, 0);
	ram_is(WHOLE("rw-p", "/var/lib/libvirt/images/disk.img", "1"), 256, -ENOENT, 0);
	ram_is(WHOLE("rw-s", "/memfd:tcg-jit (deleted)", "1"), 256, -ENOENT, 0);
	ram_is(WHOLE("rw-s", "", "1"), 256, -ENOENT, 0);
}

static void test_ram_counts_swap(void **state)
{
	static const char map[] = "7f0000000000-7f0010000000 rw-p 00000000 00:00 0 \nSize: 262144 kB\nRss: 100 kB\n"
				  "Pss: 50 kB\nSwap: 2000 kB\nSwapPss: 1000 kB\nLocked: 7 kB\n";

	ram_is(map, 256, 0, 2100); /* with what is swapped out; no other line */
	ram_is("7f0000000000-7f0010000000 rw-p 00000000 00:00 0\nRss: 262144 kB\nSwap: 18014398509481983 kB\n", 256, 0,
	       256 * 1024); /* a page in the swap cache is both, and nonsense does not overflow */
}

static void test_ram_blocks(void **state)
{
	ram_is(HALF1("rw-p", "", "10") HALF2("rw-p", "", "20"), 256, 0, 30);
	ram_is(HALF1("rw-p", "", "10"), 256, -ENOENT, 0);
	/* Three halves: which two? */
	ram_is(HALF1("rw-p", "", "10") HALF2("rw-p", "", "20") HALF3("rw-p", "", "30"), 256, -ENOENT, 0);
	/* Blocks of different sizes are believed only by name. */
	ram_is(M("7f0100000000", "7f010c000000", "rw-p", "", "1") M("7f0200000000", "7f0204000000", "rw-p", "", "2"),
	       256, -ENOENT, 0);
	ram_is(M("7f0100000000", "7f010c000000", "rw-s", "/memfd:memory-backend-memfd (deleted)", "1")
		       M("7f0200000000", "7f0204000000", "rw-s", "/memfd:memory-backend-memfd (deleted)", "2"),
	       256, 0, 3);
}

static void test_ram_ambiguous(void **state)
{
	ram_is(WHOLE("rw-p", "", "1") WHOLE2("rw-p", "", "2"), 256, -ENOTUNIQ, 0);
	ram_is(WHOLE("rw-p", "", "1") HALF1("rw-p", "", "2") HALF2("rw-p", "", "2"), 256, -ENOTUNIQ, 0);
	ram_is(WHOLE("rw-p", "", "1") WHOLE2("rw-s", "/memfd:memory-backend-memfd (deleted)", "2"), 256, 0, 2);
	ram_is(M("7f0000000000", "7f000c000000", "rw-p", "", "1") M("7f000c000000", "7f0010000000", "rw-p", "", "1")
		       M("7f0100000000", "7f010c000000", "rw-p", "", "1")
			       M("7f010c000000", "7f0110000000", "rw-p", "", "1"),
	       256, -ENOTUNIQ, 0);
}

static void test_ram_hostile(void **state)
{
	const struct guest_ram_wanted none = {0}, wanted = {.max_bytes = 256 * MIB};
	uint64_t present = 99;
	char *text = malloc(2 * MIB);
	size_t used = 0;

	ram_is("", 256, -ESRCH, 0);
	ram_is("Rss: 5 kB\nnonsense\n\n\n-\n", 256, -ESRCH, 0);
	ram_is("7f0010000000-7f0000000000 rw-p 00000000 00:00 0\nRss: 5 kB\n", 256, -ESRCH, 0); /* backwards */
	ram_is("0-0 rw-p 00000000 00:00 0\nRss: 5 kB\n", 256, -ESRCH, 0); /* no size to divide by */
	ram_is("7f0000000000-7f0010000000 rw-p 00000000 00:00 0\nRss: 99999999999 kB\n", 256, 0, 256 * 1024);
	ram_is("7f0000000000-7f0010000000 rw-p 00000000 00:00 0\nRss: -5 kB\n", 256, 0, 0);
	assert_int_equal(scan_text("x", 1, &none, &present, NULL), -EINVAL);
	/* A path longer than the line buffer and the read buffer; then thousands of mappings; then RAM. */
	used += (size_t)sprintf(text + used, "100-200 rw-p 00000000 00:00 0 /");
	memset(text + used, 'p', 20000);
	used += 20000;
	used += (size_t)sprintf(text + used, "\nRss: 1 kB\n");
	for (int i = 0; i < 10000; i++)
		used += (size_t)sprintf(text + used, "%x000-%x000 rw-p 00000000 00:00 0 \nRss: 4 kB\n", 2 * i + 1,
					2 * i + 2);
	used += (size_t)sprintf(text + used, WHOLE("rw-p", "", "77"));
	assert_int_equal(scan_text(text, used, &wanted, &present, NULL), 0);
	assert_int_equal(present, 77 * KIB);
	free(text);
}

/* ---- the map ---- */

/* "START-END" of each range, "s" behind shared ones; or the error. */
static void map_is(const char *text, const uint64_t *mib, size_t blocks, int code, const char *ranges)
{
	uint64_t bytes[DOM_RAM_BLOCKS_MAX], sum = 0;
	struct guest_ram ram = {0};
	char said[512] = "";

	for (size_t i = 0; i < blocks; i++)
		sum += bytes[i] = mib[i] * MIB;
	const struct guest_ram_wanted wanted = {sum, bytes, blocks};
	assert_int_equal(scan_text(text, strlen(text), &wanted, NULL, &ram), code);
	for (size_t i = 0; i < ram.n; i++)
		snprintf(said + strlen(said), sizeof(said) - strlen(said), "%s%llx-%llx%s", i ? " " : "",
			 (unsigned long long)ram.list[i].start, (unsigned long long)ram.list[i].end,
			 ram.list[i].shared ? "s" : "");
	assert_string_equal(said, ranges);
	assert_int_equal(ram.bytes, code == 0 ? sum : 0);
	guest_ram_clear(&ram);
}

#define BLOCKS(...) (const uint64_t[]){__VA_ARGS__}, sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)
#define L(start, end, perms, tail) start "-" end " " perms " 00000000 00:00 0                          " tail "\n"
#define CODE L("7e0000000000", "7e0040000000", "rwxp", "")
#define STACK L("7e8000000000", "7e8000800000", "rw-p", "")
#define MEMFD "/memfd:memory-backend-memfd (deleted)"

static void test_map_one_block(void **state)
{
	map_is(CODE STACK L("7f0000000000", "7f0010000000", "rw-p", ""), BLOCKS(256), 0, "7f0000000000-7f0010000000");
	map_is(CODE L("7f0000000000", "7f0010000000", "rw-s", MEMFD), BLOCKS(256), 0, "7f0000000000-7f0010000000s");
	map_is(L("7f0000000000", "7f0010000000", "rw-p", "/anon_hugepage (deleted)"), BLOCKS(256), 0,
	       "7f0000000000-7f0010000000");
	map_is(L("7f0000000000", "7f0010000000", "rw-s", "/dev/hugepages/libvirt/qemu/1-web1/pc.ram (deleted)"),
	       BLOCKS(256), 0, "7f0000000000-7f0010000000s");
	/* split by madvise: the ranges are one */
	map_is(L("7f0000000000", "7f0004000000", "rw-p", "") L("7f0004000000", "7f0010000000", "rw-p", ""), BLOCKS(256),
	       0, "7f0000000000-7f0010000000");
	map_is(L("7f0000000000", "7f0010000000", "rw-p", "") L("7f0020000000", "7f0030000000", "rw-p", ""), BLOCKS(256),
	       -ENOTUNIQ, "");
	map_is(STACK, BLOCKS(256), -ENOENT, "");
}

static void test_map_numa_and_dimms(void **state)
{
	/* two cells of different size and a DIMM, told apart by their sizes from a stack and the code buffer */
	static const char three[] = CODE STACK L("7f0000000000", "7f000c000000", "rw-p", "")
		L("7f0010000000", "7f0014000000", "rw-p", "") L("7f0020000000", "7f0028000000", "rw-s", MEMFD);
	map_is(three, BLOCKS(64, 192, 128), 0,
	       "7f0000000000-7f000c000000 7f0010000000-7f0014000000 7f0020000000-7f0028000000s");
	map_is(three, BLOCKS(64, 192, 128, 128), -ENOENT, "");
	map_is(three, BLOCKS(64, 192), 0, "7f0000000000-7f000c000000 7f0010000000-7f0014000000");
	/* two cells alike, one mapping too many of that size */
	map_is(L("7f0000000000", "7f0004000000", "rw-p", "") L("7f0010000000", "7f0014000000", "rw-p", ""),
	       BLOCKS(64, 64), 0, "7f0000000000-7f0004000000 7f0010000000-7f0014000000");
	map_is(L("7f0000000000", "7f0004000000", "rw-p", "") L("7f0010000000", "7f0014000000", "rw-p", "")
		       L("7f0020000000", "7f0024000000", "rw-p", ""),
	       BLOCKS(64, 64), -ENOTUNIQ, "");
	/* names decide where sizes do not */
	map_is(L("7f0000000000", "7f0004000000", "rw-s", MEMFD) L("7f0010000000", "7f0014000000", "rw-s", MEMFD)
		       L("7f0020000000", "7f0024000000", "rw-p", ""),
	       BLOCKS(64, 64), 0, "7f0000000000-7f0004000000s 7f0010000000-7f0014000000s");
	/* old machine types: one mapping for all cells */
	map_is(L("7f0000000000", "7f0010000000", "rw-p", ""), BLOCKS(64, 192), 0, "7f0000000000-7f0010000000");
}

static void test_map_changing(void **state)
{
	map_is(L("7f0000000000", "7f0010000000", "rw-p", "") L("7f0008000000", "7f0020000000", "rw-p", ""), BLOCKS(256),
	       -EAGAIN, "");
	map_is("", BLOCKS(256), -ESRCH, "");
}

static void test_map_of_this_process(void **state)
{
	struct memoc_err err = {0};
	struct proc_vm *p = NULL;
	struct guest_ram ram = {0};
	struct dom_facts f = {
		.name = "self", .max_bytes = 96 * MIB, .ram_blocks = 2, .ram_block_bytes = {77 * MIB, 19 * MIB}};
	int fd = memfd_create("memory-backend-memfd", MFD_CLOEXEC);
	char *anon = map(77 * MIB, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1), *shared;

	assert_int_equal(ftruncate(fd, 19 * (off_t)MIB), 0);
	shared = map(19 * MIB, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	assert_int_equal(proc_vm_open(getpid(), &p, &err), 0);
	assert_int_equal(proc_vm_ram_map(p, &f, &ram, &err), 0);
	assert_int_equal(ram.n, 2);
	assert_int_equal(ram.bytes, 96 * MIB);
	for (size_t i = 0; i < 2; i++) {
		char *wanted = ram.list[i].shared ? shared : anon;

		assert_true(ram.list[i].start == (uintptr_t)wanted);
		assert_int_equal(ram.list[i].end - ram.list[i].start, (wanted == shared ? 19 : 77) * MIB);
	}
	guest_ram_clear(&ram);
	f.ram_block_bytes[1] = 18 * MIB;
	f.max_bytes = 95 * MIB;
	assert_int_equal(proc_vm_ram_map(p, &f, &ram, &err), -ENOENT);
	assert_non_null(strstr(err.text, "self"));
	proc_vm_close(p);
	unmap(shared, 19 * MIB);
	unmap(anon, 77 * MIB);
	close(fd);
}

static void test_overhead_guess(void **state)
{
	struct dom_facts f = {.max_bytes = 4 * GIB, .vcpus = 4};

	assert_int_equal(proc_overhead_guess(&f), 40 * MIB + 4 * MIB + 2 * 8 * MIB);
	f.tcg = true;
	f.tb_cache_bytes = 32 * MIB; /* measured on such a one: 68.8 MiB */
	assert_in_range(proc_overhead_guess(&f), 68 * MIB, 90 * MIB);
	f.tb_cache_bytes = 0;
	assert_int_equal(proc_overhead_guess(&f), 40 * MIB + 4 * MIB + 8 * MIB + 64 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_host, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_host_without_psi, set_up, tear_down),
		cmocka_unit_test(test_host_real),
		cmocka_unit_test_setup_teardown(test_find_by_pid_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_find_mistrusts_pid_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_find_by_scan, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_find_refuses_two, set_up, tear_down),
		cmocka_unit_test(test_vm_real),
		cmocka_unit_test(test_major_faults_text),
		cmocka_unit_test(test_ram_of_this_process),
		cmocka_unit_test(test_ram_kinds),
		cmocka_unit_test(test_ram_counts_swap),
		cmocka_unit_test(test_ram_blocks),
		cmocka_unit_test(test_ram_ambiguous),
		cmocka_unit_test(test_ram_hostile),
		cmocka_unit_test(test_map_one_block),
		cmocka_unit_test(test_map_numa_and_dimms),
		cmocka_unit_test(test_map_changing),
		cmocka_unit_test(test_map_of_this_process),
		cmocka_unit_test(test_overhead_guess),
	};

	return cmocka_run_group_tests_name("proc", tests, NULL, NULL);
}
