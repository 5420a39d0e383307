/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which fields the structs of the core have, so that one table serves writing, reading and comparing. Nothing else in
 * this room knows a field of them; test_record fails when a struct has a byte that no table names. Private to this
 * room.
 */
#ifndef MEMOC_RECORD_LAYOUT_H
#define MEMOC_RECORD_LAYOUT_H

#include "controller/core/policy.h"

enum field_kind {
	FIELD_BOOL = 1,
	FIELD_INT,    /* int, unsigned, uint32_t: 4 bytes */
	FIELD_ENUM,   /* 4 bytes, a value of lo … end − 1 */
	FIELD_U64,    /* uint64_t, int64_t */
	FIELD_DOUBLE, /* by its bits */
	FIELD_TEXT,   /* char[], ended by a NUL within it */
	FIELD_WORDS,  /* of 8 bytes each */
	FIELD_POLICY, /* const struct policy_ops *, by its name */
	FIELD_NOT,    /* not recorded: memocd never sets it */
};

struct field {
	const char *name;
	enum field_kind kind;
	uint16_t offset, size;
	uint16_t lo, end; /* FIELD_ENUM */
};

struct layout {
	const char *name; /* of the struct */
	const struct field *list;
	size_t n, size; /* size of the struct */
};

#define FIELDS_MAX 256 /* of one struct */

extern const struct layout layout_image, layout_vm, layout_config, layout_host, layout_stats, layout_sample, layout_wss,
	layout_advice, layout_facts, layout_effect;
/* Offsets from the beginning of struct event. */
extern const struct layout layout_added, layout_result;
extern const struct layout *const layout_all[]; /* ended by NULL */

/* Changes with every change of a table: files are read only by who has the same tables. */
uint32_t layout_fingerprint(void);
/* Value of a field as text, for messages. Returns buf. */
#define FIELD_VALUE_LEN 160
const char *field_value(const struct field *f, const void *object, char buf[FIELD_VALUE_LEN]);

#endif
