/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The multi-generational LRU, as far as it can be asked: Documentation/admin-guide/mm/multigen_lru.rst. */
#ifndef MEMOC_WSS_LRU_GEN_H
#define MEMOC_WSS_LRU_GEN_H

#include "controller/wss/backend.h"

#define LRU_GEN "/sys/kernel/debug/lru_gen"
#define LRU_GEN_ENABLED "/sys/kernel/mm/lru_gen/enabled"

/* Bits of the file `enabled`. */
enum {
	LRU_GEN_IN_USE = 1,
	LRU_GEN_WALKS = 2, /* page tables, which is what an aging run is here */
};
/* Those bits, or −errno: −ENOENT where the kernel has none. */
int lru_gen_enabled(const char *root);
/* Does its aging see, and take, the accessed bits of KVM guests? 0; −EOPNOTSUPP: before Linux 6.12; −EIO. */
int lru_gen_sees_guests(const char *root, struct memoc_err *why);

#define LRU_NODES_MAX 64
struct lru_generations {
	unsigned id; /* of the memory cgroup */
	struct {
		unsigned node;
		uint64_t youngest, since_pages; /* of the generations after the youngest of `since` */
	} node[LRU_NODES_MAX];
	size_t nodes;
};
/* The part of one cgroup; the text is cut to pieces. since: NULL, or an earlier look. −ENOENT: not in it; −EBADMSG. */
int lru_gen_parse(char *text, const char *path, const struct lru_generations *since, struct lru_generations *ret);
/* The same of the kernel's own text, which holds all cgroups: as dear as they are many. */
int lru_gen_look(const char *root, const char *path, const struct lru_generations *since, struct lru_generations *ret);
/* Pages in the generations that were opened between two looks, the second with the first as `since`. −EAGAIN: nobody
 * can tell, as a node came or went, or generations ended. */
int lru_gen_window(const struct lru_generations *begin, const struct lru_generations *now, uint64_t *ret_pages,
		   struct memoc_err *err);

#endif
