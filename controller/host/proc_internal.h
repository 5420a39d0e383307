/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside of the procfs adapter: proc_host.c reads the host, proc_vm.c finds and holds a QEMU process, guest_ram.c
 * picks guest RAM out of smaps. Unit tests use this header to feed it made-up text.
 */
#ifndef MEMOC_HOST_PROC_INTERNAL_H
#define MEMOC_HOST_PROC_INTERNAL_H

#include "controller/host/proc.h"

/* Major faults out of the text of /proc/PID/stat. −ESRCH: a zombie. */
int proc_vm_parse_major_faults(const char *stat, uint64_t *ret);

/* One mapping as maps and smaps show it. */
struct guest_ram_map {
	uint64_t start, end;
	uint64_t offset;     /* shared: in its file */
	uint64_t held_bytes; /* smaps: Rss + Swap; hugetlb pages are not in it, and not in the memory cgroup either */
	bool ram_kind;	     /* may be guest RAM at all */
	bool backing;	     /* memory backing by its name: nothing but guest RAM is called so */
	bool shared;
	bool chosen; /* judged to be guest RAM */
};

/* The header line of a mapping. false: not one (then it is an attribute line). */
bool guest_ram_parse_header(const char *line, struct guest_ram_map *ret);
/*
 * All of a maps or smaps file. `who` is for messages. Contract as proc_vm_guest_ram's and proc_vm_ram_map's; each ret_…
 * may be NULL. ret_map is the caller's to clear.
 */
struct guest_ram_wanted {
	uint64_t max_bytes;
	const uint64_t *block_bytes; /* their sum is max_bytes */
	size_t blocks;		     /* 0: not known */
};
int guest_ram_scan(int maps_fd, const char *who, const struct guest_ram_wanted *wanted, uint64_t *ret_held_bytes,
		   uint64_t *ret_own_bytes, struct guest_ram *ret_map, struct memoc_err *err);

#endif
