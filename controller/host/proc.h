/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * procfs: the host's memory and pressure, and what the kernel says of a QEMU process. Every function may be called from
 * any thread; those marked "worker" can take milliseconds. `root` for tests: "" on a real system, else a directory
 * prefix.
 */
#ifndef MEMOC_HOST_PROC_H
#define MEMOC_HOST_PROC_H

#include <sys/types.h>

#include "common/domxml.h"
#include "controller/core/types.h"

/* /proc/meminfo and /proc/pressure/memory on kept descriptors. A missing PSI is unknown, not an error. */
struct proc_host;
int proc_host_open(const char *root, struct proc_host **ret, struct memoc_err *err);
struct proc_host *proc_host_close(struct proc_host *h);
int proc_host_read(struct proc_host *h, struct host_sample *ret);

/*
 * PID of the QEMU that runs a domain: RUNDIR/qemu/NAME.pid where it is there and true, else a scan of /proc for a
 * process whose arguments hold "-uuid UUID" (libvirt always passes it). Either way the arguments are checked, so that a
 * recycled PID is not believed. −ESRCH: none; −EEXIST: several claim it (refused, err names them). Worker.
 */
int proc_find_qemu(const char *root, const char *name, const char *uuid, pid_t *ret, struct memoc_err *err);

/* One QEMU process, held by pidfd so that a recycled PID cannot be mistaken for it. */
struct proc_vm;
int proc_vm_open(pid_t pid, struct proc_vm **ret, struct memoc_err *err);
struct proc_vm *proc_vm_close(struct proc_vm *p);
int proc_vm_pidfd(const struct proc_vm *p); /* readable when the process has ended */
pid_t proc_vm_pid(const struct proc_vm *p);
/* Major faults (field 12 of /proc/PID/stat). −ESRCH: ended. */
int proc_vm_major_faults(struct proc_vm *p, uint64_t *ret);
/* When it was started (field 22, clock ticks since boot): with the PID, a name for this process that is not used again.
 */
int proc_vm_start_ticks(struct proc_vm *p, uint64_t *ret);

/*
 * *ret_overhead_bytes (may be NULL): QEMU's own memory, that is private memory that is not guest RAM, swapped or not,
 * and page tables. Not "cgroup usage minus RAM": parts of huge pages that a balloon gave back stay charged until the
 * kernel splits them, and would be taken for QEMU's own. *ret_held_bytes: bytes of guest RAM that exist, present (Rss)
 * or swapped out (Swap), from /proc/PID/smaps: the mappings that are guest RAM by exact size and kind (see facts.md:
 * never "the largest anonymous mapping"; never executable; rw-p anonymous, rw-s /memfd: or a file of memory backing).
 * Several blocks of one size are summed only where their sum is the domain's memory. −ENOTUNIQ: ambiguous, err says
 * why. Worker.
 */
int proc_vm_guest_ram(struct proc_vm *p, const struct dom_facts *facts, uint64_t *ret_held_bytes,
		      uint64_t *ret_overhead_bytes, struct memoc_err *err);
/*
 * Where guest RAM is in QEMU's address space, by /proc/PID/maps and what the domain XML says of its memory: ascending,
 * adjacent mappings of one file joined. Believed only where exactly one reading of the mappings gives what the XML
 * says: NUMA cells and DIMMs are found by their sizes, memory backing by its name as well. −ENOTUNIQ: ambiguous;
 * −ENOENT: not found; −EAGAIN: changed while it was read; −ESRCH: ended; err says which sizes are meant. Clear *ret
 * with guest_ram_clear. Worker.
 */
struct guest_ram_range {
	uint64_t start, end;
	bool shared;	 /* memfd or file: what is not mapped may still be in memory */
	uint64_t offset; /* shared: where in the file it begins, bytes */
};
struct guest_ram {
	struct guest_ram_range *list;
	size_t n;
	uint64_t bytes;
};
int proc_vm_ram_map(struct proc_vm *p, const struct dom_facts *facts, struct guest_ram *ret, struct memoc_err *err);
void guest_ram_clear(struct guest_ram *ram); /* takes an empty one */
/*
 * The file behind a shared range, for mincore and SEEK_DATA; open for writing, because mincore tells the truth only to
 * who may write. Through /proc/PID/map_files, which CAP_SYS_ADMIN opens. A descriptor; −ENOENT: no mapping begins there
 * (any more); −errno.
 */
int proc_vm_ram_file(struct proc_vm *p, const struct guest_ram_range *range);
/* /proc/PID/pagemap, read-only. A descriptor or −errno. */
int proc_vm_pagemap(struct proc_vm *p);
/* First guess of QEMU's own memory before anything was measured: see the formula at the definition. */
uint64_t proc_overhead_guess(const struct dom_facts *facts);

#endif
