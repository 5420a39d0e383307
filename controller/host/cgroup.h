/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM's memory cgroup: discovery and limit writes through libcgroup, hot reads on kept-open descriptors.
 * v1: memory.limit_in_bytes. v2: memory.high a little above what is wanted, bounded memory.reclaim; memory.max is never
 * written near usage (that is an OOM kill). Reads may run on the loop thread, writes block (v1 reclaims in the write):
 * workers only; one writer at a time per object, concurrent with the reader.
 */
#ifndef MEMOC_HOST_CGROUP_H
#define MEMOC_HOST_CGROUP_H

#include <sys/types.h>

#include "controller/core/types.h"

enum cgroup_version { CGROUP_V1 = 1, CGROUP_V2 };
enum cgroup_method { CGROUP_METHOD_AUTO = 1, CGROUP_METHOD_LIMIT, CGROUP_METHOD_RECLAIM };

/* Finds the memory controller's hierarchy with libcgroup. Once per process. −ENOENT: no memory controller (err says
 * what to do). */
int cgroup_setup(enum cgroup_version *ret_version, struct memoc_err *err);

struct cgroup_vm;
/*
 * The group that libvirt made for this QEMU: from /proc/PID/cgroup, cut at "libvirt" or before "emulator"/"vcpuN";
 * refused (−ENXIO) where it is the root or a group that other processes than a VM's share (e.g. libvirtd's own service
 * group, user session).
 */
int cgroup_vm_open(pid_t pid, struct cgroup_vm **ret, struct memoc_err *err);
struct cgroup_vm *cgroup_vm_close(struct cgroup_vm *g);
const char *cgroup_vm_path(const struct cgroup_vm *g); /* below the hierarchy's mount point */
/* What /proc/kpagecgroup calls it; 0: the group is gone. */
uint64_t cgroup_vm_inode(const struct cgroup_vm *g);
/* Fills memory, refaults and psi of the sample (not major faults, not overhead). −ENODEV: the group is gone. About 10
 * µs. */
int cgroup_vm_read(struct cgroup_vm *g, struct vm_host_sample *ret);
/* All that is charged to it, file cache too: one small read, under 1 µs. −ENODEV: the group is gone. */
int cgroup_vm_usage(struct cgroup_vm *g, uint64_t *ret_bytes);
/* Pages of it that reclaim has looked at so far, and those of them that it freed, by whomever: they grow. −ENODATA: v1
 * does not tell; −ENODEV. */
int cgroup_vm_scanned(struct cgroup_vm *g, uint64_t *ret_scanned, uint64_t *ret_stolen);
/*
 * Brings the limit to `bytes` (LIMIT_NONE opens). *ret_bytes: the limit in force afterwards, read back, also on error.
 * v1: in steps of at most 16 MiB below usage; −EBUSY where the kernel could not reclaim enough, −EAGAIN after max_ms:
 * what was reached stays. A limited group's OOM killer is off (see cgroup_v1.c), an open one's is on. v2: memory.high
 * first; then memory.reclaim in chunks of 16 MiB until usage is under it, at most max_ms; −EAGAIN: not there yet, the
 * limit (memory.high) is in force nevertheless. method RECLAIM on v2 sets no memory.high below usage until reclaim got
 * there.
 */
int cgroup_vm_set_limit(struct cgroup_vm *g, uint64_t bytes, enum cgroup_method method, uint64_t max_ms,
			uint64_t *ret_bytes, struct memoc_err *err);
/*
 * Reclaims about so many bytes, once, and leaves the limit as it was: memory.reclaim, or (v1, and v2 before 5.19) a
 * limit that is lowered and put back. *ret_bytes: by how much usage went down, also on error. A writer, as above.
 */
int cgroup_vm_reclaim(struct cgroup_vm *g, uint64_t bytes, uint64_t max_ms, uint64_t *ret_bytes, struct memoc_err *err);

#endif
