/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cgroup adapter without a cgroup: cutting of paths, and reading and writing in fake directories. What is fake: the
 * groups are ordinary directories whose files this test fills, so nothing is ever reclaimed, and the limit writer is
 * fake_write() instead of libcgroup. The same code on real groups: tests/system/cgroup_check.c.
 */
#include "controller/host/cgroup_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "controller/host/kernfile.h"

/* ---- cutting ---- */

static void cut_is(const char *path, const char *wanted)
{
	struct memoc_err err = {0};
	char *p = strdup(path);
	int r = cgroup_cut_path(p, &err);

	if (wanted) {
		assert_int_equal(r, 0);
		assert_string_equal(p, wanted);
	} else {
		assert_int_equal(r, -ENXIO);
		assert_true(err.text[0] != 0);
	}
	free(p);
}

static void test_cut_keeps_the_vm(void **state)
{
	/* without systemd, v1 and v2 */
	cut_is("/machine/qemu-1-vm1.libvirt-qemu", "/machine/qemu-1-vm1.libvirt-qemu");
	cut_is("/machine/qemu-1-vm1.libvirt-qemu/emulator", "/machine/qemu-1-vm1.libvirt-qemu");
	cut_is("/machine/qemu-1-vm1.libvirt-qemu/vcpu12", "/machine/qemu-1-vm1.libvirt-qemu");
	cut_is("/machine/qemu-1-vm1.libvirt-qemu/iothread1", "/machine/qemu-1-vm1.libvirt-qemu");
	cut_is("/lab.partition/qemu-3-x.libvirt-qemu", "/lab.partition/qemu-3-x.libvirt-qemu");
	/* with systemd: libvirt's own group inside the scope where there is one */
	cut_is("/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope/libvirt/emulator",
	       "/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope/libvirt");
	cut_is("/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope/libvirt/vcpu0",
	       "/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope/libvirt");
	cut_is("/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope/emulator",
	       "/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope");
	cut_is("/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope", "/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope");
}

static void test_cut_innermost_machine(void **state)
{
	/* A host inside a container of an outer libvirt, and a partition that is called "libvirt". */
	cut_is("/machine/lxc-1-host.libvirt-lxc/machine/qemu-2-vm.libvirt-qemu/emulator",
	       "/machine/lxc-1-host.libvirt-lxc/machine/qemu-2-vm.libvirt-qemu");
	cut_is("/machine/qemu-1-outer.libvirt-qemu/machine/qemu-2-vm.libvirt-qemu",
	       "/machine/qemu-1-outer.libvirt-qemu/machine/qemu-2-vm.libvirt-qemu");
	cut_is("/libvirt/qemu-2-vm.libvirt-qemu", "/libvirt/qemu-2-vm.libvirt-qemu");
	/* "libvirt" elsewhere below the machine is not libvirt's group. */
	cut_is("/machine/qemu-2-vm.libvirt-qemu/x/libvirt", "/machine/qemu-2-vm.libvirt-qemu");
	cut_is("/machine/qemu-2-emulator.libvirt-qemu/emulator", "/machine/qemu-2-emulator.libvirt-qemu");
}

static void test_cut_refuses(void **state)
{
	static const char *const refused[] = {
		"",
		"/",
		"//",
		"qemu-1-vm.libvirt-qemu", /* not absolute */
		"/system.slice/libvirtd.service",
		"/system.slice/virtqemud.service/libvirt",
		"/libvirt",
		"/libvirt/emulator",
		"/emulator",
		"/machine",
		"/machine.slice",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Boxes.scope",
		"/user.slice/user-1000.slice/session-2.scope",
		"/machine.slice/machine-lxc\\x2d1\\x2dbox.scope",
		"/machine.slice/machine-qemu.slice",
		"/machine/.libvirt-qemu", /* no name */
		"/machine/qemu-1-vm.libvirt-qemu2",
		"/../machine/qemu-1-vm.libvirt-qemu", /* other cgroup namespace */
		"/machine/qemu-1-vm.libvirt-qemu/../../system.slice",
	};

	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		cut_is(refused[i], NULL);
}

/* ---- /proc/PID/cgroup ---- */

static void path_is(const char *text, enum cgroup_version version, int code, const char *wanted)
{
	struct memoc_err err = {0};
	char *path = NULL;

	assert_int_equal(cgroup_path_from_proc(text, version, &path, &err), code);
	if (wanted)
		assert_string_equal(path, wanted);
	else
		assert_null(path);
	free(path);
}

static void test_path_from_proc(void **state)
{
	static const char hybrid[] = "12:pids:/\n4:memory:/machine/qemu-1-a.libvirt-qemu\n3:cpu,cpuacct:/x\n0::/y\n";

	path_is(hybrid, CGROUP_V1, 0, "/machine/qemu-1-a.libvirt-qemu");
	path_is(hybrid, CGROUP_V2, 0, "/y");
	path_is("5:cpu,memory,pids:/a:b\n", CGROUP_V1, 0, "/a:b"); /* joint mount; a colon is a character like others */
	path_is("0::/a", CGROUP_V2, 0, "/a");			   /* no newline at the end */
}

static void test_path_from_proc_hostile(void **state)
{
	path_is("", CGROUP_V1, -ENXIO, NULL);
	path_is("\n\n\n", CGROUP_V2, -ENXIO, NULL);
	path_is("4:memory", CGROUP_V1, -ENXIO, NULL);
	path_is("memory\n:\n::", CGROUP_V1, -ENXIO, NULL);
	path_is("4:memoryx:/a\n5:xmemory:/b\n6:name=memory:/c\n", CGROUP_V1, -ENXIO, NULL);
	path_is("1:name=systemd:/memory:/a\n", CGROUP_V1, -ENXIO, NULL);
	path_is("10::/a\n1:x:/b\n", CGROUP_V2, -ENXIO, NULL);
	path_is("4:memory:/machine/a (deleted)\n", CGROUP_V1, -ENODEV, NULL);
	path_is("0::/ (deleted)\n", CGROUP_V2, -ENODEV, NULL);
}

/* ---- small files ---- */

static void test_numbers(void **state)
{
	uint64_t v = 7;

	assert_int_equal(kernfile_number("18446744073709551615\n", &v), 0);
	assert_true(v == UINT64_MAX);
	assert_int_equal(kernfile_number("12 kB\n", &v), 0);
	assert_int_equal(v, 12);
	assert_int_equal(kernfile_number("18446744073709551616", &v), -ERANGE);
	assert_int_equal(kernfile_number("", &v), -EBADMSG);
	assert_int_equal(kernfile_number("-1", &v), -EBADMSG);
	assert_int_equal(kernfile_number("1x", &v), -EBADMSG);
	assert_int_equal(v, 12);
}

static void test_fields(void **state)
{
	static const char text[] = "anon 1\nfile_mapped 2\nfile 3\nshmem_thp 4\nshmem 5\nlast";
	uint64_t v = 0;

	assert_int_equal(kernfile_field(text, "file", &v), 0);
	assert_int_equal(v, 3);
	assert_int_equal(kernfile_field(text, "shmem", &v), 0);
	assert_int_equal(v, 5);
	assert_int_equal(kernfile_field(text, "mapped", &v), -ENOENT);
	assert_int_equal(kernfile_field(text, "last", &v), -ENOENT); /* no value */
	assert_int_equal(kernfile_field(text, "", &v), -ENOENT);
	assert_int_equal(kernfile_field("", "file", &v), -ENOENT);
	assert_int_equal(kernfile_field("file -3\n", "file", &v), -EBADMSG);
}

/* ---- fake groups ---- */

#define GROUP "/machine/qemu-1-fake.libvirt-qemu"

static char root[64];

/* What the code under test wrote, in order: "FILE=VALUE;". */
static struct {
	char log[512];
	int fail; /* errno to give instead of writing */
} writer;

static void put(const char *file, const char *value)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s" GROUP "/%s", root, file);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(value, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void get(const char *file, char value[64])
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s" GROUP "/%s", root, file);
	f = fopen(path, "r");
	assert_non_null(f);
	value[fread(value, 1, 63, f)] = 0;
	fclose(f);
}

static void drop(const char *file)
{
	char path[256];

	snprintf(path, sizeof(path), "%s" GROUP "/%s", root, file);
	assert_int_equal(unlink(path), 0);
}

/* Stands in for libcgroup: same contract, but the kernel's reaction is only what this function does. */
static int fake_write(const char *path, const char *file, const char *value, struct memoc_err *err)
{
	size_t used = strlen(writer.log);

	assert_string_equal(path, GROUP);
	snprintf(writer.log + used, sizeof(writer.log) - used, "%s=%s;", file, value);
	if (writer.fail)
		return memoc_err_set(err, -writer.fail, "fake");
	put(file, strcmp(value, "-1") == 0 ? "9223372036854771712\n" : value);
	return 0;
}

static int set_up(void **state)
{
	char path[256];

	memset(&writer, 0, sizeof(writer));
	snprintf(root, sizeof(root), "/tmp/memoc-test-cgroup.XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(path, sizeof(path), "%s/machine", root);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s" GROUP, root);
	assert_int_equal(mkdir(path, 0700), 0);
	return 0;
}

static int tear_down(void **state)
{
	static const char *const files[] = {
		"memory.usage_in_bytes",
		"memory.memsw.usage_in_bytes",
		"memory.stat",
		"memory.limit_in_bytes",
		"memory.memsw.limit_in_bytes",
		"memory.current",
		"memory.high",
		"memory.swap.current",
		"memory.pressure",
		"memory.reclaim",
		"memory.max",
	};
	char path[256];

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s" GROUP "/%s", root, files[i]);
		unlink(path);
	}
	snprintf(path, sizeof(path), "%s" GROUP, root);
	rmdir(path);
	snprintf(path, sizeof(path), "%s/machine", root);
	rmdir(path);
	return rmdir(root);
}

static void fill_v1(void)
{
	put("memory.usage_in_bytes", "419430400\n");	   /* 400 MiB */
	put("memory.memsw.usage_in_bytes", "419434496\n"); /* 4 KiB more */
	put("memory.limit_in_bytes", "9223372036854771712\n");
	put("memory.memsw.limit_in_bytes", "9223372036854771712\n");
	put("memory.stat", "cache 1\nshmem 1\nswap 1\ntotal_cache 167772160\ntotal_shmem 104857600\ntotal_swap 8\n"
			   "total_workingset_refault_anon 42\n");
}

static void fill_v2(void)
{
	put("memory.current", "419430400\n");
	put("memory.high", "max\n");
	put("memory.max", "max\n");
	put("memory.swap.current", "8192\n");
	put("memory.stat", "anon 1\nfile 167772160\nfile_mapped 9\nshmem 104857600\nworkingset_refault_anon 43\n");
	put("memory.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=123456\n"
			       "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
	put("memory.reclaim", "");
}

static struct cgroup_vm *open_fake(const struct cgroup_ops *ops)
{
	struct memoc_err err = {0};
	struct cgroup_vm *g = NULL;
	int r = cgroup_vm_open_path(root, GROUP, ops, fake_write, &g, &err);

	if (r < 0)
		print_message("%s\n", err.text);
	assert_int_equal(r, 0);
	assert_string_equal(cgroup_vm_path(g), GROUP);
	return g;
}

static void test_v1_read(void **state)
{
	struct vm_host_sample s = {.has_overhead = true, .major_faults = 5};
	struct cgroup_vm *g;

	fill_v1();
	g = open_fake(&cgroup_v1_ops);
	assert_int_equal(cgroup_vm_read(g, &s), 0);
	assert_true(s.has_memory && s.has_refaults && !s.has_psi);
	assert_int_equal(s.resident_bytes, 340 * MIB); /* 400 − (160 − 100) */
	assert_int_equal(s.swapped_bytes, 4096);
	assert_int_equal(s.refaults, 42);
	assert_true(s.limit_bytes == LIMIT_NONE);
	assert_true(s.has_overhead && s.major_faults == 5); /* not its own */
	put("memory.limit_in_bytes", "314572800\n");	    /* the kept descriptor sees it */
	assert_int_equal(cgroup_vm_read(g, &s), 0);
	assert_int_equal(s.limit_bytes, 300 * MIB);
	/* "none" on a kernel with pages of 64 KiB */
	put("memory.limit_in_bytes", "9223372036854710272\n");
	assert_int_equal(cgroup_vm_read(g, &s), 0);
	assert_true(s.limit_bytes == LIMIT_NONE);
	cgroup_vm_close(g);
}

static void test_v2_read(void **state)
{
	struct vm_host_sample s = {0};
	struct cgroup_vm *g;

	fill_v2();
	g = open_fake(&cgroup_v2_ops);
	assert_int_equal(cgroup_vm_read(g, &s), 0);
	assert_true(s.has_memory && s.has_refaults && s.has_psi);
	assert_int_equal(s.resident_bytes, 340 * MIB);
	assert_int_equal(s.swapped_bytes, 8192);
	assert_int_equal(s.refaults, 43);
	assert_int_equal(s.psi_some_us, 123456);
	assert_true(s.limit_bytes == LIMIT_NONE);
	put("memory.pressure", "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
	assert_int_equal(cgroup_vm_read(g, &s), 0);
	assert_false(s.has_psi);
	put("memory.pressure", "some avg10=1.50\nfull total=7\n"); /* the total of another line is not some's */
	assert_int_equal(cgroup_vm_read(g, &s), 0);
	assert_false(s.has_psi);
	cgroup_vm_close(g);
}

static void test_read_hostile(void **state)
{
	static const char *const stats[] = {"", "total_cache\n", "total_cache -1\n",
					    "total_cache 99999999999999999999\n", "x 1\n"};
	struct vm_host_sample s = {0}, before = s;
	struct cgroup_vm *g;
	char *big = malloc(CGROUP_STAT_MAX + 1);

	fill_v1();
	g = open_fake(&cgroup_v1_ops);
	for (size_t i = 0; i < ARRAY_SIZE(stats); i++) {
		put("memory.stat", stats[i]);
		assert_int_equal(cgroup_vm_read(g, &s), -EBADMSG);
	}
	memset(big, 'a', CGROUP_STAT_MAX);
	big[CGROUP_STAT_MAX] = 0;
	put("memory.stat", big);
	assert_int_equal(cgroup_vm_read(g, &s), -EMSGSIZE);
	free(big);
	put("memory.stat", "total_cache 10\n");
	put("memory.usage_in_bytes", "nonsense\n");
	assert_int_equal(cgroup_vm_read(g, &s), -EBADMSG);
	assert_memory_equal(&s, &before, sizeof(s)); /* nothing written on failure */
	put("memory.usage_in_bytes", "5\n");	     /* parts exceed the whole */
	assert_int_equal(cgroup_vm_read(g, &s), 0);
	assert_int_equal(s.resident_bytes, 0);
	assert_false(s.has_refaults); /* an old kernel has no such line: unknown, not zero */
	cgroup_vm_close(g);
}

static void test_open_errors(void **state)
{
	struct memoc_err err = {0};
	struct cgroup_vm *g = NULL;

	fill_v2();
	assert_int_equal(cgroup_vm_open_path(root, "/machine/none.libvirt-qemu", &cgroup_v2_ops, fake_write, &g, &err),
			 -ENODEV);
	drop("memory.high"); /* the memory controller is not enabled there */
	assert_int_equal(cgroup_vm_open_path(root, GROUP, &cgroup_v2_ops, fake_write, &g, &err), -ENXIO);
	assert_non_null(strstr(err.text, "memory.high"));
	assert_null(g);
	assert_null(cgroup_vm_close(NULL));
}

static void test_v1_limit(void **state)
{
	struct memoc_err err = {0};
	uint64_t got = 0;
	struct cgroup_vm *g;

	fill_v1();
	put("memory.usage_in_bytes", "209715200\n"); /* 200 MiB: what is above it needs no steps */
	g = open_fake(&cgroup_v1_ops);
	assert_int_equal(cgroup_vm_set_limit(g, 300 * MIB - 1, CGROUP_METHOD_AUTO, 100, &got, &err), 0);
	assert_int_equal(got, 300 * MIB); /* rounded up to a page */
	assert_int_equal(cgroup_vm_set_limit(g, LIMIT_NONE, CGROUP_METHOD_LIMIT, 100, &got, &err), 0);
	assert_true(got == LIMIT_NONE);
	assert_string_equal(writer.log, "memory.limit_in_bytes=314572800;memory.limit_in_bytes=-1;");
	writer.fail = EBUSY;
	got = 0;
	assert_int_equal(cgroup_vm_set_limit(g, 100 * MIB, CGROUP_METHOD_AUTO, 100, &got, &err), -EBUSY);
	assert_true(got == LIMIT_NONE); /* read back on failure too */
	assert_true(err.text[0] != 0);
	writer.fail = 0;
	assert_int_equal(cgroup_vm_set_limit(g, 100 * MIB, CGROUP_METHOD_RECLAIM, 100, &got, &err), -EOPNOTSUPP);
	assert_int_equal(cgroup_vm_set_limit(g, 500 * MIB, CGROUP_METHOD_RECLAIM, 100, &got, &err), 0); /* growing */
	assert_int_equal(cgroup_vm_set_limit(g, 0, CGROUP_METHOD_AUTO, 100, &got, &err), -EINVAL);
	assert_int_equal(got, 500 * MIB);
	cgroup_vm_close(g);
}

/* Below usage in steps of 16 MiB, with the group's OOM killer off while it is limited; what waits at the limit is told.
 */
static void test_v1_steps_and_oom(void **state)
{
	struct vm_host_sample s = {0};
	struct memoc_err err = {0};
	uint64_t got = 0;
	struct cgroup_vm *g;

	fill_v1();
	put("memory.usage_in_bytes", "419430400\n"); /* 400 MiB */
	put("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
	g = open_fake(&cgroup_v1_ops);
	assert_int_equal(cgroup_vm_set_limit(g, 360 * MIB, CGROUP_METHOD_AUTO, 5000, &got, &err), 0);
	assert_string_equal(writer.log, "memory.oom_control=1;memory.limit_in_bytes=402653184;"
					"memory.limit_in_bytes=385875968;memory.limit_in_bytes=377487360;");
	put("memory.oom_control", "oom_kill_disable 1\nunder_oom 1\noom_kill 0\n");
	assert_int_equal(cgroup_vm_read(g, &s), 0);
	assert_true(s.under_oom);
	put("memory.oom_control", "nonsense\n");
	assert_int_equal(cgroup_vm_read(g, &s), 0);
	assert_false(s.under_oom);
	cgroup_vm_close(g);
	drop("memory.oom_control");
}

static void test_v1_memsw_is_the_ceiling(void **state)
{
	struct vm_host_sample s = {0};
	struct memoc_err err = {0};
	uint64_t got = 0;
	struct cgroup_vm *g;

	fill_v1();
	put("memory.memsw.limit_in_bytes", "629145600\n"); /* 600 MiB */
	g = open_fake(&cgroup_v1_ops);
	assert_int_equal(cgroup_vm_set_limit(g, 700 * MIB, CGROUP_METHOD_AUTO, 100, &got, &err), 0);
	assert_int_equal(got, 600 * MIB);
	assert_int_equal(cgroup_vm_set_limit(g, LIMIT_NONE, CGROUP_METHOD_AUTO, 100, &got, &err), 0);
	assert_int_equal(got, 600 * MIB);
	cgroup_vm_close(g);
	drop("memory.memsw.limit_in_bytes"); /* no swap accounting */
	drop("memory.memsw.usage_in_bytes");
	g = open_fake(&cgroup_v1_ops);
	assert_int_equal(cgroup_vm_read(g, &s), 0);
	assert_int_equal(s.swapped_bytes, 0);
	assert_int_equal(cgroup_vm_set_limit(g, 700 * MIB, CGROUP_METHOD_AUTO, 100, &got, &err), 0);
	assert_int_equal(got, 700 * MIB);
	cgroup_vm_close(g);
}

static void test_v2_limit_method(void **state)
{
	struct memoc_err err = {0};
	uint64_t got = 0;
	struct cgroup_vm *g;
	char text[64];

	fill_v2();
	g = open_fake(&cgroup_v2_ops);
	/* Raising, or lowering above usage: one write, no reclaim. */
	assert_int_equal(cgroup_vm_set_limit(g, 500 * MIB, CGROUP_METHOD_AUTO, 100, &got, &err), 0);
	assert_int_equal(got, 500 * MIB);
	get("memory.reclaim", text);
	assert_string_equal(text, "");
	/* Below usage: the limit is in force although nothing moved. */
	assert_int_equal(cgroup_vm_set_limit(g, 300 * MIB, CGROUP_METHOD_LIMIT, 100, &got, &err), -EAGAIN);
	assert_int_equal(got, 300 * MIB);
	get("memory.reclaim", text);
	assert_string_equal(text, "16777216"); /* a bounded chunk */
	assert_int_equal(cgroup_vm_set_limit(g, 350 * MIB, CGROUP_METHOD_LIMIT, 100, &got, &err),
			 0); /* raised, if below usage */
	assert_int_equal(cgroup_vm_set_limit(g, LIMIT_NONE, CGROUP_METHOD_RECLAIM, 100, &got, &err), 0);
	assert_true(got == LIMIT_NONE);
	assert_string_equal(writer.log,
			    "memory.high=524288000;memory.high=314572800;memory.high=367001600;memory.high=max;");
	get("memory.max", text);
	assert_string_equal(text, "max\n");
	cgroup_vm_close(g);
}

static void test_v2_reclaim_method(void **state)
{
	struct memoc_err err = {0};
	uint64_t got = 0;
	struct cgroup_vm *g;
	char text[64];

	fill_v2();
	g = open_fake(&cgroup_v2_ops);
	assert_int_equal(cgroup_vm_set_limit(g, 399 * MIB, CGROUP_METHOD_RECLAIM, 100, &got, &err), -EAGAIN);
	get("memory.reclaim", text);
	assert_string_equal(text, "1048576"); /* no more than is above the limit */
	assert_int_equal(got, 416 * MIB);     /* a chunk above usage: never below it */
	/* A limit that is there already is not raised for that. */
	put("memory.high", "424673280"); /* 405 MiB */
	assert_int_equal(cgroup_vm_set_limit(g, 300 * MIB, CGROUP_METHOD_AUTO, 100, &got, &err), -EAGAIN);
	assert_int_equal(got, 405 * MIB);
	put("memory.high", "max\n");
	put("memory.current", "314572800"); /* reclaimed already: only the limit is left to do */
	assert_int_equal(cgroup_vm_set_limit(g, 300 * MIB, CGROUP_METHOD_RECLAIM, 100, &got, &err), 0);
	assert_int_equal(got, 300 * MIB);
	assert_string_equal(writer.log, "memory.high=436207616;memory.high=314572800;");
	cgroup_vm_close(g);
}

static void test_v2_without_reclaim(void **state)
{
	struct memoc_err err = {0};
	uint64_t got = 0;
	struct cgroup_vm *g;

	fill_v2();
	drop("memory.reclaim"); /* Linux before 5.19 */
	g = open_fake(&cgroup_v2_ops);
	assert_int_equal(cgroup_vm_set_limit(g, 300 * MIB, CGROUP_METHOD_RECLAIM, 100, &got, &err), -EOPNOTSUPP);
	assert_true(got == LIMIT_NONE);
	assert_string_equal(writer.log, "");
	assert_int_equal(cgroup_vm_set_limit(g, 300 * MIB, CGROUP_METHOD_AUTO, 100, &got, &err), -EAGAIN);
	assert_int_equal(got, 300 * MIB);
	cgroup_vm_close(g);
}

static void test_v2_write_error(void **state)
{
	struct memoc_err err = {0};
	uint64_t got = 0;
	struct cgroup_vm *g;

	fill_v2();
	g = open_fake(&cgroup_v2_ops);
	writer.fail = EACCES;
	assert_int_equal(cgroup_vm_set_limit(g, 300 * MIB, CGROUP_METHOD_LIMIT, 100, &got, &err), -EACCES);
	assert_true(got == LIMIT_NONE);
	put("memory.current", ""); /* what a removed group gives is ENODEV; anything unreadable stops the write */
	assert_int_equal(cgroup_vm_set_limit(g, 500 * MIB, CGROUP_METHOD_LIMIT, 100, &got, &err), -EBADMSG);
	assert_string_equal(writer.log, "memory.high=314572800;");
	cgroup_vm_close(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cut_keeps_the_vm),
		cmocka_unit_test(test_cut_innermost_machine),
		cmocka_unit_test(test_cut_refuses),
		cmocka_unit_test(test_path_from_proc),
		cmocka_unit_test(test_path_from_proc_hostile),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_fields),
		cmocka_unit_test_setup_teardown(test_v1_read, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v2_read, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_read_hostile, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_open_errors, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v1_limit, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v1_steps_and_oom, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v1_memsw_is_the_ceiling, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v2_limit_method, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v2_reclaim_method, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v2_without_reclaim, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v2_write_error, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("cgroup", tests, NULL, NULL);
}
