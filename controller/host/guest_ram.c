/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which mappings of a QEMU process are guest RAM, and how much of it is present or swapped. By exact size, kind and
 * name, because "the largest anonymous mapping" is wrong (TCG's 1 GiB code buffer, rwxp, is larger than a small guest).
 * Where more than one reading of the mappings fits the domain's memory, none is believed.
 */
#include "controller/host/proc_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "controller/host/kernfile.h"

/* Longest line that matters: a header whose path is a memory backing file. What is longer is cut, not refused. */
#define LINE_MAX_LEN 1024
/* Blocks of one size: NUMA nodes and DIMMs. Smaller parts of a VM's memory are stacks and heaps. */
#define BLOCKS_MAX 64

/* Bytes held by the readings that may fit, filled while the file streams by. */
struct ram_scan {
	uint64_t max_bytes;
	struct guest_ram_map map; /* the one whose attribute lines are being read */
	bool in_map, seen_any;

	uint64_t own_bytes; /* private memory, present or swapped, of all mappings that are no memory backing */
	uint64_t backing_bytes, backing_held_bytes; /* all mappings with a name of memory backing */
	unsigned exact_count;
	uint64_t exact_held_bytes; /* one mapping of the domain's size */
	unsigned block_count[BLOCKS_MAX + 1];
	uint64_t block_held_bytes[BLOCKS_MAX + 1]; /* [n]: mappings of an n-th of the domain's size */
	struct guest_ram_map run;		   /* neighbours of RAM's kind, for RAM that madvise or mbind split */
	unsigned run_maps, run_count;
	uint64_t run_held_bytes;
};

static bool starts_with(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/*
 * Names: QEMU calls a memfd backend's file "memory-backend-memfd", libvirt puts files and huge pages below a directory
 * "libvirt/qemu/"; "/dev/zero" is anonymous memory that is shared. "/memfd:tcg-jit" is code, not RAM. "[heap]",
 * "[stack]" and other files never are.
 */
static void judge_kind(const char *perms, const char *name, struct guest_ram_map *m)
{
	bool shared = perms[3] == 's', memfd = starts_with(name, "/memfd:");

	m->ram_kind = m->backing = false;
	if (perms[0] != 'r' || perms[1] != 'w' || perms[2] != '-')
		return;
	m->backing = starts_with(name, "/memfd:memory-backend-") || strstr(name, "/libvirt/qemu/") != NULL;
	m->ram_kind = m->backing || (!*name && !shared) || (memfd && !starts_with(name, "/memfd:tcg-jit")) ||
		      (shared && starts_with(name, "/dev/zero")) || starts_with(name, "/dev/shm/") ||
		      starts_with(name, "/dev/hugepages") || starts_with(name, "/anon_hugepage");
}

bool guest_ram_parse_header(const char *line, struct guest_ram_map *ret)
{
	struct guest_ram_map m = {0};
	unsigned long long start, end;
	char perms[5] = "";
	int name_at = 0;

	/* "7f12a0000000-7f12b0000000 rw-p 00000000 00:00 0      NAME"; %*s would also skip, but not tell, a missing
	 * field */
	if (sscanf(line, "%llx-%llx %4s %*x %*x:%*x %*u %n", &start, &end, perms, &name_at) != 3 || name_at == 0 ||
	    strlen(perms) != 4 || end <= start)
		return false;
	m.start = start;
	m.end = end;
	judge_kind(perms, line + name_at, &m);
	*ret = m;
	return true;
}

static void run_end(struct ram_scan *s)
{
	if (s->run_maps > 1 && s->run.end - s->run.start == s->max_bytes) {
		s->run_count++;
		s->run_held_bytes = s->run.held_bytes;
	}
	s->run_maps = 0;
}

static void run_add(struct ram_scan *s)
{
	const struct guest_ram_map *m = &s->map;

	if (s->run_maps == 0 || s->run.end != m->start) {
		run_end(s);
		s->run = *m;
	} else {
		s->run.end = m->end;
		s->run.held_bytes += m->held_bytes;
	}
	s->run_maps++;
}

static void map_end(struct ram_scan *s)
{
	uint64_t bytes = s->map.end - s->map.start;

	if (!s->in_map || !s->map.ram_kind)
		return;
	if (s->map.backing) {
		s->backing_bytes = add_sat_u64(s->backing_bytes, bytes);
		s->backing_held_bytes += s->map.held_bytes;
	}
	if (bytes == s->max_bytes) {
		s->exact_count++;
		s->exact_held_bytes = s->map.held_bytes;
	} else if (s->max_bytes % bytes == 0 && s->max_bytes / bytes <= BLOCKS_MAX) {
		s->block_count[s->max_bytes / bytes]++;
		s->block_held_bytes[s->max_bytes / bytes] += s->map.held_bytes;
	}
	run_add(s);
}

static void take_line(struct ram_scan *s, const char *line)
{
	struct guest_ram_map m;
	uint64_t kib;

	if (guest_ram_parse_header(line, &m)) {
		map_end(s);
		s->map = m;
		s->in_map = s->seen_any = true;
		return;
	}
	bool rss = kernfile_field(line, "Rss:", &kib) == 0;
	bool swap = !rss && kernfile_field(line, "Swap:", &kib) == 0;
	bool anonymous = !rss && !swap && kernfile_field(line, "Anonymous:", &kib) == 0;
	if (!s->in_map || !(rss || swap || anonymous))
		return;
	/* More than the mapping is nonsense that must not overflow the sums. */
	uint64_t size = s->map.end - s->map.start, bytes = min_u64(mul_div_u64(kib, KIB, 1), size);
	if (rss || swap)
		s->map.held_bytes = min_u64(add_sat_u64(s->map.held_bytes, bytes), size);
	if ((swap || anonymous) && !s->map.backing)
		s->own_bytes = add_sat_u64(s->own_bytes, bytes);
}

static int stream_lines(int fd, struct ram_scan *s)
{
	char buf[16384], line[LINE_MAX_LEN];
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) != 0) {
		if (n < 0 && errno != EINTR)
			return -errno;
		for (ssize_t i = 0; i < n; i++) {
			if (buf[i] != '\n') {
				if (len < sizeof(line) - 1)
					line[len++] = buf[i];
				continue;
			}
			line[len] = 0;
			take_line(s, line);
			len = 0;
		}
	}
	map_end(s);
	run_end(s);
	return 0;
}

static int ambiguous(struct memoc_err *err, const char *who, const struct ram_scan *s, const char *how)
{
	return memoc_err_set(
		err, -ENOTUNIQ,
		"guest RAM of %s cannot be told apart: %s fit its %llu bytes; its overhead stays an estimate", who, how,
		(unsigned long long)s->max_bytes);
}

static int judge(const struct ram_scan *s, const char *who, uint64_t *ret_held_bytes, struct memoc_err *err)
{
	unsigned fits = s->exact_count;
	uint64_t held = s->exact_held_bytes;

	if (s->backing_bytes == s->max_bytes) {
		*ret_held_bytes = s->backing_held_bytes;
		return 0;
	}
	for (unsigned n = 2; n <= BLOCKS_MAX; n++) {
		if (s->block_count[n] != n)
			continue;
		fits++;
		held = s->block_held_bytes[n];
	}
	if (fits > 1)
		return ambiguous(err, who, s, "several mappings");
	if (fits == 0 && s->run_count > 1)
		return ambiguous(err, who, s, "several rows of adjacent mappings");
	if (fits == 0 && s->run_count == 0)
		return memoc_err_set(
			err, -ENOENT,
			"no mapping of %s has the size of its memory (%llu bytes): blocks of different sizes? Its "
			"overhead stays an estimate",
			who, (unsigned long long)s->max_bytes);
	*ret_held_bytes = fits == 1 ? held : s->run_held_bytes;
	return 0;
}

int guest_ram_scan(int smaps_fd, const char *who, uint64_t max_bytes, uint64_t *ret_held_bytes, uint64_t *ret_own_bytes,
		   struct memoc_err *err)
{
	struct ram_scan s = {.max_bytes = max_bytes};
	int r;

	if (max_bytes == 0)
		return memoc_err_set(err, -EINVAL, "the memory size of %s is not known", who);
	r = stream_lines(smaps_fd, &s);
	if (r < 0)
		return memoc_err_set(err, r, "cannot read smaps of %s: %s", who, strerror(-r));
	if (!s.seen_any)
		return memoc_err_set(err, -ESRCH, "%s has ended", who);
	r = judge(&s, who, ret_held_bytes, err);
	if (r == 0 && ret_own_bytes) /* RAM that is private memory was counted above */
		*ret_own_bytes = s.backing_bytes == max_bytes ? s.own_bytes : sub_sat_u64(s.own_bytes, *ret_held_bytes);
	return r;
}
