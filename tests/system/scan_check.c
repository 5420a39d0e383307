/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * scan_check PID MIB: how many pages of a process's private guest RAM (one block of that size) are swapped out, by
 * PAGEMAP_SCAN, by reading pagemap, and by both. For test_advice.py: each is to say the same. The two are the inside of
 * the map, so it is compiled in.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "controller/advice/map.c"

static int check(pid_t pid, uint64_t bytes, struct memoc_err *err)
{
	struct dom_facts facts = {.name = "guest", .max_bytes = bytes, .ram_blocks = 1, .ram_block_bytes = {bytes}};
	struct guest_ram ram = {0};
	struct proc_vm *p = NULL;
	size_t pages = bytes / ADVICE_PAGE_BYTES, scanned = 0, read = 0, both = 0;
	struct block a = {.pages = pages, .fd = -1, .swapped = calloc(pages / 64 + 1, 8)}, b = a;
	char path[64];
	int r = proc_vm_open(pid, &p, err);

	b.swapped = calloc(pages / 64 + 1, 8);
	if (r == 0)
		r = proc_vm_ram_map(p, &facts, &ram, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	int pagemap = open(path, O_RDONLY | O_CLOEXEC);
	a.start = b.start = ram.list[0].start;
	r = scan_private(&a, pagemap);
	if (r == 0)
		r = read_private(&b, pagemap);
	if (r < 0)
		return memoc_err_set(err, r, "%s", r == -ENOTTY ? "no PAGEMAP_SCAN" : strerror(-r));
	for (size_t i = 0; i < pages; i++) {
		scanned += bit_get(a.swapped, i);
		read += bit_get(b.swapped, i);
		both += bit_get(a.swapped, i) && bit_get(b.swapped, i);
	}
	printf("scanned %zu read %zu both %zu\n", scanned, read, both);
	close(pagemap);
	free(a.swapped);
	free(b.swapped);
	guest_ram_clear(&ram);
	proc_vm_close(p);
	return 0;
}

int main(int argc, char **argv)
{
	struct memoc_err err = {""};

	if (argc < 3)
		return 2;
	if (check((pid_t)strtol(argv[1], NULL, 10), strtoull(argv[2], NULL, 10) * MIB, &err) < 0)
		printf("refused: %s\n", err.text);
	return 0;
}
