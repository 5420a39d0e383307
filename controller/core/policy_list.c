/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The policies that there are, and how a port sees memoc's world in its own project's terms. */
#include "controller/core/policy.h"

#include <string.h>

const struct policy_ops *const policy_list[] = {&policy_needy_greedy, &policy_static,	&policy_mom,
						&policy_pve,	      &policy_squeezed, NULL};

const struct policy_ops *policy_find(const char *name)
{
	for (size_t i = 0; policy_list[i]; i++)
		if (strcmp(policy_list[i]->name, name) == 0)
			return policy_list[i];
	return NULL;
}

uint64_t policy_host_free_bytes(const struct plan *p)
{
	const struct books *b = p->books;
	uint64_t used = b->resident_bytes ? b->resident_bytes : b->granted_bytes; /* nobody was sampled yet */
	uint64_t free = sub_sat_u64(b->pool_bytes, used);
	return p->host->has_memory ? min_u64(free, p->host->mem_available_bytes) : free;
}

uint64_t policy_balloon_bytes(const struct vm *vm)
{
	return vm->facts.has_balloon && vm->actual_bytes ? vm->actual_bytes : vm->facts.max_bytes;
}
