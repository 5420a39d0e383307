/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes of a record, little-endian, written field by field: no struct is ever copied as it lies in memory. Numbers are
 * LEB128 (7 bits a byte, lowest first), signed ones zigzag. A struct is a bitmap of the fields that differ from a base
 * that reader and writer share, then those fields; so what did not change costs a bit. Private to this room.
 */
#ifndef MEMOC_RECORD_CODEC_H
#define MEMOC_RECORD_CODEC_H

#include "controller/record/layout.h"

/* Grows up to `most`; what goes beyond sets `full` and is not written. Free bytes with bytes_free. */
struct bytes {
	uint8_t *data;
	size_t n, capacity, most;
	bool full;
};
void bytes_free(struct bytes *b); /* and empties it */
void put_bytes(struct bytes *b, const void *data, size_t n);
void put_u8(struct bytes *b, uint8_t v);
void put_u32(struct bytes *b, uint32_t v); /* 4 bytes */
void put_number(struct bytes *b, uint64_t v);
void put_signed(struct bytes *b, int64_t v);
void put_text(struct bytes *b, const char *text, size_t most); /* its length first; at most so many bytes of it */
void put_fields(struct bytes *b, const struct layout *t, const void *base, const void *object);

/* Reading. The first thing that is wrong sticks in `bad` (a word for it), and everything read after that is 0. */
struct reading {
	const uint8_t *at, *end;
	const char *bad;
	char where[64]; /* the field that is bad, "" = none */
};
uint8_t get_u8(struct reading *r);
uint32_t get_u32(struct reading *r);
uint64_t get_number(struct reading *r);
int64_t get_signed(struct reading *r);
void get_text(struct reading *r, char *ret, size_t size); /* ends with a NUL; the rest of ret is zero */
/* Changes `object`, which holds the base before, to what was written. */
void get_fields(struct reading *r, const struct layout *t, void *object);

#endif
