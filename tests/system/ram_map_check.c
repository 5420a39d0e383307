/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ram_map_check PID MIB…: where the guest RAM of a process is, made of blocks of these sizes, a line "START-END" for
 * each range; or "refused: WHY". For test_ram_map.py, which asks QEMU for the truth.
 */
#include <stdio.h>
#include <stdlib.h>

#include "controller/host/proc.h"

int main(int argc, char **argv)
{
	struct dom_facts facts = {.name = "guest"};
	struct guest_ram ram = {0};
	struct memoc_err err = {""};
	struct proc_vm *p = NULL;

	for (int i = 2; i < argc && facts.ram_blocks < DOM_RAM_BLOCKS_MAX; i++) {
		uint64_t bytes = strtoull(argv[i], NULL, 10) * MIB;

		facts.ram_block_bytes[facts.ram_blocks++] = bytes;
		facts.max_bytes += bytes;
	}
	if (argc < 3 || proc_vm_open((pid_t)strtol(argv[1], NULL, 10), &p, &err) < 0 ||
	    proc_vm_ram_map(p, &facts, &ram, &err) < 0)
		printf("refused: %s\n", err.text);
	for (size_t i = 0; i < ram.n; i++)
		printf("%llx-%llx\n", (unsigned long long)ram.list[i].start, (unsigned long long)ram.list[i].end);
	guest_ram_clear(&ram);
	proc_vm_close(p);
	return 0;
}
