/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libcgroup, seen by this file alone. What of it is used, and why only that (2.0.2): cgroup_get_cgroup is broken on v2,
 * cgroup_get_value_uint64 fails on "max", its reads cost 20 to 46 µs where pread costs 1 to 9: so it discovers the
 * hierarchy and writes values, each write with a fresh struct (a reused one would write its old values again).
 */
#include "controller/host/cgroup_internal.h"

/* After our header's version enum: libcgroup 3 has enumerators of the same names in its public headers. */
#define CGROUP_V1 LIBCGROUP_V1
#define CGROUP_V2 LIBCGROUP_V2
#include <libcgroup.h>
#undef CGROUP_V1
#undef CGROUP_V2

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void free_cgroup(struct cgroup **c)
{
	if (*c)
		cgroup_free(c);
}

int cgroup_lib_memory_mount(char **ret_mount, struct memoc_err *err)
{
	char mount[FILENAME_MAX] = ""; /* libcgroup strcpy()s up to FILENAME_MAX into it */
	void *handle = NULL;
	int r = cgroup_init();

	if (r == 0) {
		r = cgroup_get_subsys_mount_point_begin("memory", &handle, mount);
		(void)cgroup_get_subsys_mount_point_end(&handle);
	}
	if (r == ECGEOF || r == ECGROUPNOTMOUNTED)
		return memoc_err_set(
			err, -ENOENT,
			"no cgroup hierarchy with the memory controller is mounted: mount cgroup2 on "
			"/sys/fs/cgroup, and see that the kernel was not booted with cgroup_disable=memory");
	if (r)
		return memoc_err_set(err, -EIO, "libcgroup cannot read the cgroup mounts in /proc/mounts: %s",
				     cgroup_strerror(r));
	*ret_mount = strdup(mount);
	return *ret_mount ? 0 : memoc_err_set(err, -ENOMEM, "out of memory for the cgroup mount point");
}

/* ECGOTHER: the write failed. ECGROUPVALUENOTEXIST: open did, and errno is still its own (only free() came after). */
static int errno_of(int ecg, int open_errno)
{
	int write_errno = cgroup_get_last_errno();

	if (ecg == ECGOTHER && write_errno > 0)
		return -write_errno;
	if (ecg == ECGROUPVALUENOTEXIST && open_errno > 0)
		return open_errno == ENOENT ? -ENODEV : -open_errno;
	return ecg == ECGROUPNOTALLOWED ? -EPERM : -EIO;
}

int cgroup_lib_write(const char *path, const char *file, const char *value, struct memoc_err *err)
{
	struct cgroup *c CLEANUP(free_cgroup) = cgroup_new_cgroup(path);
	struct cgroup_controller *ctl = c ? cgroup_add_controller(c, "memory") : NULL;
	int r;

	if (!ctl)
		return memoc_err_set(err, -ENOMEM, "out of memory for writing %s of %s", file, path);
	errno = 0;
	r = cgroup_set_value_string(ctl, file, value);
	if (r == 0)
		r = cgroup_modify_cgroup(c);
	if (r == 0)
		return 0;
	r = errno_of(r, errno);
	return memoc_err_set(err, r, "cannot write %s to %s of cgroup %s: %s", value, file, path, strerror(-r));
}
