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
/* Where the XML's blocks are not known: so many of one size, NUMA nodes and DIMMs. */
#define BLOCKS_MAX 64
/* More mappings than a process may have unless an administrator allowed it (vm.max_map_count). */
#define MAPS_MAX 262144

/* What may be guest RAM, in the order of addresses, collected while the file streams by. */
struct ram_scan {
	struct guest_ram_map map; /* the one whose attribute lines are being read */
	bool in_map, seen_any, changed;
	uint64_t own_bytes; /* private memory, present or swapped, of all mappings that are no memory backing */
	struct guest_ram_map *list;
	size_t n, capacity;
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
	unsigned long long start, end, offset;
	char perms[5] = "";
	int name_at = 0;

	/* "7f12a0000000-7f12b0000000 rw-p 00000000 00:00 0      NAME"; %*s would also skip, but not tell, a missing
	 * field */
	if (sscanf(line, "%llx-%llx %4s %llx %*x:%*x %*u %n", &start, &end, perms, &offset, &name_at) != 4 ||
	    name_at == 0 || strlen(perms) != 4 || end <= start)
		return false;
	m.start = start;
	m.end = end;
	m.shared = perms[3] == 's';
	m.offset = m.shared ? offset : 0; /* of private memory it says where it once was */
	judge_kind(perms, line + name_at, &m);
	*ret = m;
	return true;
}

static uint64_t size_of(const struct guest_ram_map *m)
{
	return m->end - m->start;
}

static int map_end(struct ram_scan *s)
{
	if (!s->in_map || !s->map.ram_kind)
		return 0;
	if (s->n == s->capacity) {
		size_t capacity = s->capacity ? s->capacity * 2 : 64;
		struct guest_ram_map *list = capacity <= MAPS_MAX ? realloc(s->list, capacity * sizeof(*list)) : NULL;
		if (!list)
			return -ENOMEM;
		s->list = list;
		s->capacity = capacity;
	}
	s->list[s->n++] = s->map;
	return 0;
}

static int take_line(struct ram_scan *s, const char *line)
{
	struct guest_ram_map m;
	uint64_t kib;

	if (guest_ram_parse_header(line, &m)) {
		int r = map_end(s);
		s->changed |= s->in_map && m.start < s->map.end;
		s->map = m;
		s->in_map = s->seen_any = true;
		return r;
	}
	bool rss = kernfile_field(line, "Rss:", &kib) == 0;
	bool swap = !rss && kernfile_field(line, "Swap:", &kib) == 0;
	bool anonymous = !rss && !swap && kernfile_field(line, "Anonymous:", &kib) == 0;
	if (!s->in_map || !(rss || swap || anonymous))
		return 0;
	/* More than the mapping is nonsense that must not overflow the sums. */
	uint64_t size = size_of(&s->map), bytes = min_u64(mul_div_u64(kib, KIB, 1), size);
	if (rss || swap)
		s->map.held_bytes = min_u64(add_sat_u64(s->map.held_bytes, bytes), size);
	if ((swap || anonymous) && !s->map.backing)
		s->own_bytes = add_sat_u64(s->own_bytes, bytes);
	return 0;
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
			int r = take_line(s, line);
			if (r < 0)
				return r;
			len = 0;
		}
	}
	return map_end(s);
}

/* ---- judging ---- */

enum fit { FIT_NONE, FIT_ONE, FIT_MANY };

static void unchoose(struct ram_scan *s)
{
	for (size_t i = 0; i < s->n; i++)
		s->list[i].chosen = false;
}

/* Rows of adjacent mappings of RAM's kind that are as long together: RAM that madvise or mbind split. */
static enum fit fit_rows(struct ram_scan *s, uint64_t bytes, size_t wanted)
{
	size_t rows = 0;
	for (size_t i = 0, end; i < s->n; i = end) {
		for (end = i + 1; end < s->n && s->list[end].start == s->list[end - 1].end;)
			end++;
		if (end - i < 2 || s->list[end - 1].end - s->list[i].start != bytes)
			continue;
		rows++;
		for (size_t k = i; k < end; k++)
			s->list[k].chosen = true;
	}
	return rows == wanted ? FIT_ONE : rows > wanted ? FIT_MANY : FIT_NONE;
}

/* `wanted` blocks of one size: all mappings of that size, or all of those whose name says what they are. */
static enum fit fit_size(struct ram_scan *s, uint64_t bytes, size_t wanted)
{
	size_t all = 0, named = 0;
	for (size_t i = 0; i < s->n; i++) {
		all += size_of(&s->list[i]) == bytes;
		named += size_of(&s->list[i]) == bytes && s->list[i].backing;
	}
	if (named != wanted && all > wanted)
		return FIT_MANY;
	if (named != wanted && all < wanted)
		return all ? FIT_NONE : fit_rows(s, bytes, wanted);
	for (size_t i = 0; i < s->n; i++)
		s->list[i].chosen |= size_of(&s->list[i]) == bytes && (named != wanted || s->list[i].backing);
	return FIT_ONE;
}

static size_t count_of(const struct guest_ram_wanted *w, uint64_t bytes, size_t *ret_first)
{
	size_t n = 0;
	for (size_t i = w->blocks; i-- > 0;)
		if (w->block_bytes[i] == bytes) {
			n++;
			*ret_first = i;
		}
	return n;
}

/* The blocks that the XML lists, each size with as many mappings as there are blocks of it. */
static enum fit fit_blocks(struct ram_scan *s, const struct guest_ram_wanted *w)
{
	for (size_t i = 0; i < w->blocks; i++) {
		size_t first = i, n = count_of(w, w->block_bytes[i], &first);
		if (first != i)
			continue;
		enum fit fit = fit_size(s, w->block_bytes[i], n);
		if (fit != FIT_ONE)
			return fit;
	}
	return FIT_ONE;
}

/* Without a list: all in one, or equal parts of it. */
static enum fit fit_guess(struct ram_scan *s, uint64_t max_bytes)
{
	size_t fits = 0, best = 0;
	for (size_t n = 1; n <= BLOCKS_MAX; n++) {
		size_t found = 0, named = 0;
		for (size_t i = 0; i < s->n && max_bytes % n == 0; i++) {
			found += size_of(&s->list[i]) == max_bytes / n;
			named += size_of(&s->list[i]) == max_bytes / n && s->list[i].backing;
		}
		if (n == 1 && found > 1 && named != 1)
			return FIT_MANY;
		if (found != n && !(n == 1 && named == 1))
			continue;
		fits++;
		best = n;
	}
	if (fits > 1)
		return FIT_MANY;
	return fits ? fit_size(s, max_bytes / best, best) : fit_rows(s, max_bytes, 1);
}

static bool fit_by_name(struct ram_scan *s, uint64_t max_bytes)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < s->n; i++)
		bytes = s->list[i].backing ? add_sat_u64(bytes, size_of(&s->list[i])) : bytes;
	for (size_t i = 0; i < s->n && bytes == max_bytes; i++)
		s->list[i].chosen = s->list[i].backing;
	return bytes == max_bytes;
}

static int judge(struct ram_scan *s, const char *who, const struct guest_ram_wanted *w, struct memoc_err *err)
{
	enum fit fit = FIT_ONE;
	if (!fit_by_name(s, w->max_bytes)) {
		fit = w->blocks ? fit_blocks(s, w) : FIT_NONE;
		if (fit != FIT_ONE)
			unchoose(s);
		/* Old machine types have one mapping for all NUMA cells. */
		if (fit == FIT_NONE)
			fit = fit_guess(s, w->max_bytes);
	}
	if (fit == FIT_ONE)
		return 0;
	if (fit == FIT_MANY)
		return memoc_err_set(err, -ENOTUNIQ,
				     "guest RAM of %s cannot be told apart: several mappings fit its %llu bytes", who,
				     (unsigned long long)w->max_bytes);
	return memoc_err_set(err, -ENOENT, "no mapping of %s has the size of its memory (%llu bytes, in %s)", who,
			     (unsigned long long)w->max_bytes,
			     w->blocks > 1 ? "the blocks that its XML lists" : "one or in equal blocks");
}

static int copy_chosen(const struct ram_scan *s, struct guest_ram *ret)
{
	struct guest_ram ram = {.list = malloc((s->n + 1) * sizeof(*ram.list))};
	if (!ram.list)
		return -ENOMEM;
	for (size_t i = 0; i < s->n; i++) {
		const struct guest_ram_map *m = &s->list[i];
		struct guest_ram_range *last = ram.n ? &ram.list[ram.n - 1] : NULL;
		if (!m->chosen)
			continue;
		ram.bytes += size_of(m);
		/* Two files that lie side by side: the second begins at its own beginning. */
		bool follows = last && last->end == m->start && last->shared == m->shared &&
			       (!m->shared || m->offset == last->offset + (last->end - last->start));
		if (follows)
			last->end = m->end;
		else
			ram.list[ram.n++] = (struct guest_ram_range){m->start, m->end, m->shared, m->offset};
	}
	*ret = ram;
	return 0;
}

void guest_ram_clear(struct guest_ram *ram)
{
	free(ram->list);
	*ram = (struct guest_ram){0};
}

static int scan(int fd, const char *who, const struct guest_ram_wanted *wanted, struct ram_scan *s,
		struct memoc_err *err)
{
	int r = stream_lines(fd, s);
	if (r < 0)
		return memoc_err_set(err, r, "cannot read the mappings of %s: %s", who, strerror(-r));
	if (!s->seen_any)
		return memoc_err_set(err, -ESRCH, "%s has ended", who);
	if (s->changed)
		return memoc_err_set(err, -EAGAIN, "the mappings of %s changed while they were read", who);
	return judge(s, who, wanted, err);
}

int guest_ram_scan(int maps_fd, const char *who, const struct guest_ram_wanted *wanted, uint64_t *ret_held_bytes,
		   uint64_t *ret_own_bytes, struct guest_ram *ret_map, struct memoc_err *err)
{
	struct ram_scan s = {.in_map = false};
	uint64_t held = 0, own_held = 0;
	if (wanted->max_bytes == 0)
		return memoc_err_set(err, -EINVAL, "the memory size of %s is not known", who);
	int r = scan(maps_fd, who, wanted, &s, err);
	for (size_t i = 0; i < s.n && r == 0; i++) {
		held += s.list[i].chosen ? s.list[i].held_bytes : 0;
		own_held += s.list[i].chosen && !s.list[i].backing ? s.list[i].held_bytes : 0;
	}
	if (r == 0 && ret_map && copy_chosen(&s, ret_map) < 0)
		r = memoc_err_set(err, -ENOMEM, "out of memory for the mappings of %s", who);
	free(s.list);
	if (r == 0 && ret_held_bytes)
		*ret_held_bytes = held;
	if (r == 0 && ret_own_bytes) /* RAM that is private memory was counted there, too */
		*ret_own_bytes = sub_sat_u64(s.own_bytes, own_held);
	return r;
}
