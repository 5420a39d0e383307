/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM's own policy as an administrator writes it: attributes of <memoc:policy> in the domain's metadata, and the
 * keys of `memoc set`. One table of attributes drives reading, writing, checking, help and completion.
 */
#ifndef MEMOC_COMMON_VMPOLICY_H
#define MEMOC_COMMON_VMPOLICY_H

#include "common/err.h"

#define VMPOLICY_XMLNS "https://memoc.org/xmlns/policy/1.0"
#define VMPOLICY_PREFIX "memoc"
#define VMPOLICY_ELEMENT "policy"

/* Plain data. 0 bytes = not given: min then is the default share of the VM's memory, max all of it. */
struct vmpolicy {
	bool managed;	    /* default yes */
	uint64_t min_bytes; /* guaranteed: never below */
	uint64_t max_bytes; /* never above */
	uint32_t weight;    /* 1..10000, default 100 */
	bool balloon;	    /* may its balloon be used; default yes */
	bool swap;	    /* may the hypervisor swap it (a limit below its memory); default yes */
};

struct vmpolicy vmpolicy_default(void);

/* A key as in `key=value`: name, accepted form for messages and help. Table ended by a NULL name. */
struct vmpolicy_key {
	const char *name, *form, *help;
};
extern const struct vmpolicy_key vmpolicy_keys[];

/* −EINVAL/−ERANGE: err names key, value and the accepted form; p unchanged. An empty value resets the key to its
 * default. */
int vmpolicy_set(struct vmpolicy *p, const char *key, const char *value, struct memoc_err *err);
/* Value of a key as text that vmpolicy_set accepts ("" where not given). −EINVAL: no such key. */
int vmpolicy_get(const struct vmpolicy *p, const char *key, char *buf, size_t len);
/* Checks the attributes against each other and against the VM's memory (min ≤ max ≤ vm_max_bytes; 0 = unknown). */
int vmpolicy_check(const struct vmpolicy *p, uint64_t vm_max_bytes, struct memoc_err *err);
/* <policy …/> with the given (non-default) attributes, as virDomainSetMetadata wants it. The caller frees *ret. */
int vmpolicy_to_xml(const struct vmpolicy *p, char **ret_xml);

#endif
