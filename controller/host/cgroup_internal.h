/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside of the cgroup adapter: cgroup.c finds and opens a VM's group, cgroup_v1.c and cgroup_v2.c know the files of
 * their version, cgroup_lib.c is the only file that sees libcgroup (whose headers name enumerators as ours are named).
 * Unit tests use this header to work on fake directories.
 */
#ifndef MEMOC_HOST_CGROUP_INTERNAL_H
#define MEMOC_HOST_CGROUP_INTERNAL_H

#include "controller/host/cgroup.h"

/* /proc/PID/cgroup has a line per hierarchy (about 12 on v1), each with a path of at most PATH_MAX. */
#define CGROUP_PROC_MAX ((size_t)64 << 10)
/* memory.stat is 1.3 KiB (v1, 6.18) to 1.6 KiB (v2, 6.1); both grow by lines with new kernels. */
#define CGROUP_STAT_MAX ((size_t)16 << 10)
#define CGROUP_PAGE_BYTES ((uint64_t)sysconf(_SC_PAGESIZE))
#define CGROUP_RECLAIM_CHUNK_BYTES (16 * MIB)

struct cgroup_vm;

struct cgroup_ops {
	int (*open)(struct cgroup_vm *g, struct memoc_err *err);
	int (*read)(struct cgroup_vm *g, struct vm_host_sample *ret);
	int (*set_limit)(struct cgroup_vm *g, uint64_t bytes, enum cgroup_method method, uint64_t max_ms,
			 struct memoc_err *err);
	/* Until usage is under it, without a limit; NULL, or −EOPNOTSUPP where the kernel cannot. */
	int (*reclaim_to)(struct cgroup_vm *g, uint64_t bytes, uint64_t max_ms);
	int (*limit)(struct cgroup_vm *g, uint64_t *ret_bytes); /* in force; LIMIT_NONE where open */
};

extern const struct cgroup_ops cgroup_v1_ops, cgroup_v2_ops;

/* Writes one value into one file of the group: libcgroup, or a test's stand-in. 0 or −errno. */
typedef int cgroup_write_fn(const char *path, const char *file, const char *value, struct memoc_err *err);

/* Nothing here changes after open, which is why the reader needs no lock against the writer. −1: no such file. */
struct cgroup_vm {
	const struct cgroup_ops *ops;
	cgroup_write_fn *write;
	char *path; /* below the mount point, "/…" */
	int dir_fd;
	int usage_fd, stat_fd, limit_fd;
	int swap_fd;		/* v1: memsw usage, where swap is accounted; v2: memory.swap.current */
	int memsw_limit_fd;	/* v1, likewise */
	int oom_fd;		/* v1: memory.oom_control */
	int psi_fd, reclaim_fd; /* v2 */
};

/* The memory path out of the text of /proc/PID/cgroup; the caller frees it. −ENXIO: none; −ENODEV: group deleted. */
int cgroup_path_from_proc(const char *text, enum cgroup_version version, char **ret_path, struct memoc_err *err);
/* Cuts the path, in place, to the group libvirt made for the whole VM. −ENXIO: not such a group. */
int cgroup_cut_path(char *path, struct memoc_err *err);
/* Opens an already cut path below a hierarchy's mount point. */
int cgroup_vm_open_path(const char *mount, const char *path, const struct cgroup_ops *ops, cgroup_write_fn *write,
			struct cgroup_vm **ret, struct memoc_err *err);
/* Opens one file of the group. Not there: −ENXIO with a text where it must be, else *ret_fd = −1. */
int cgroup_open_file(struct cgroup_vm *g, const char *file, int flags, bool must, int *ret_fd, struct memoc_err *err);

/* libcgroup: mount point of the memory controller; the caller frees it. −ENOENT: none. */
int cgroup_lib_memory_mount(char **ret_mount, struct memoc_err *err);
cgroup_write_fn cgroup_lib_write;

#endif
