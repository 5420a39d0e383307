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

#include "controller/advice/map.c" // NOLINT(bugprone-suspicious-include): its inside is what is checked

static int compare(struct block *a, struct block *b, int pagemap, struct memoc_err *err)
{
	size_t scanned = 0, read = 0, both = 0;
	int r = scan_private(a, pagemap);

	if (r == 0)
		r = read_private(b, pagemap);
	if (r < 0)
		return memoc_err_set(err, r, "%s", r == -ENOTTY ? "no PAGEMAP_SCAN" : strerror(-r));
	for (size_t i = 0; i < a->pages; i++) {
		scanned += bit_get(a->swapped, i);
		read += bit_get(b->swapped, i);
		both += bit_get(a->swapped, i) && bit_get(b->swapped, i);
	}
	printf("scanned %zu read %zu both %zu\n", scanned, read, both);
	return 0;
}

/* bits: for two blocks of that size. */
static int check(struct proc_vm *p, uint64_t bytes, uint64_t *bits, struct memoc_err *err)
{
	struct dom_facts facts = {.name = "guest", .max_bytes = bytes, .ram_blocks = 1, .ram_block_bytes = {bytes}};
	struct guest_ram ram = {0};
	size_t pages = bytes / ADVICE_PAGE_BYTES;
	int r = proc_vm_ram_map(p, &facts, &ram, err);
	char path[64];

	if (r < 0)
		return r;
	struct block a = {.start = ram.list[0].start, .pages = pages, .fd = -1, .swapped = bits}, b = a;
	guest_ram_clear(&ram);
	b.swapped = bits + pages / 64 + 1;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)proc_vm_pid(p));
	int pagemap AUTO_CLOSE = open(path, O_RDONLY | O_CLOEXEC);
	return compare(&a, &b, pagemap, err);
}

int main(int argc, char **argv)
{
	struct memoc_err err = {""};
	struct proc_vm *p = NULL;

	if (argc < 3)
		return 2;
	uint64_t bytes = strtoull(argv[2], NULL, 10) * MIB;
	uint64_t *bits = calloc(bytes / ADVICE_PAGE_BYTES / 64 + 1, 16);
	int r = bits ? proc_vm_open((pid_t)strtol(argv[1], NULL, 10), &p, &err) : -ENOMEM;
	if (r == 0)
		r = check(p, bytes, bits, &err);
	if (r < 0)
		printf("refused: %s\n", err.text);
	free(bits);
	proc_vm_close(p);
	return 0;
}
