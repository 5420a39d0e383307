/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/record/codec.h"

#include <stdio.h>
#include <string.h>

/* ---- writing ---- */

void bytes_free(struct bytes *b)
{
	free(b->data);
	*b = (struct bytes){.most = b->most};
}

static bool room(struct bytes *b, size_t n)
{
	if (b->full || n > b->most - b->n) {
		b->full = true;
		return false;
	}
	if (n <= b->capacity - b->n)
		return true;
	size_t capacity = max_u64(4096, b->capacity * 2);
	while (capacity - b->n < n)
		capacity *= 2;
	capacity = min_u64(capacity, b->most);
	uint8_t *data = realloc(b->data, capacity);
	if (!data) {
		b->full = true;
		return false;
	}
	b->data = data;
	b->capacity = capacity;
	return true;
}

void put_bytes(struct bytes *b, const void *data, size_t n)
{
	if (!n || !room(b, n))
		return;
	memcpy(b->data + b->n, data, n);
	b->n += n;
}

void put_u8(struct bytes *b, uint8_t v)
{
	put_bytes(b, &v, 1);
}

void put_u32(struct bytes *b, uint32_t v)
{
	const uint8_t le[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
	put_bytes(b, le, sizeof(le));
}

#define NUMBER_LEN 10 /* of 64 bits by 7 */

void put_number(struct bytes *b, uint64_t v)
{
	uint8_t le[NUMBER_LEN];
	size_t n = 0;
	for (; v >= 0x80; v >>= 7)
		le[n++] = (uint8_t)(v | 0x80);
	le[n++] = (uint8_t)v;
	put_bytes(b, le, n);
}

/* Small numbers of both signs become small ones: 0, −1, 1, −2 … to 0, 1, 2, 3 … */
void put_signed(struct bytes *b, int64_t v)
{
	put_number(b, (uint64_t)v << 1 ^ (v < 0 ? UINT64_MAX : 0));
}

void put_text(struct bytes *b, const char *text, size_t most)
{
	size_t n = strnlen(text, most);
	put_number(b, n);
	put_bytes(b, text, n);
}

static uint32_t u32_at(const void *at)
{
	uint32_t v;
	memcpy(&v, at, sizeof(v));
	return v;
}

static uint64_t u64_at(const void *at)
{
	uint64_t v;
	memcpy(&v, at, sizeof(v));
	return v;
}

static const char *policy_at(const void *at)
{
	const struct policy_ops *const *policy = at;
	return *policy ? (*policy)->name : "";
}

static bool differs(const struct field *f, const void *a, const void *b)
{
	if (f->kind == FIELD_TEXT)
		return strncmp(a, b, f->size) != 0;
	if (f->kind == FIELD_POLICY)
		return strcmp(policy_at(a), policy_at(b)) != 0;
	if (f->kind == FIELD_NOT)
		return false;
	return memcmp(a, b, f->size) != 0;
}

/* A bool that differs is the other one: it takes no byte. */
static void put_field(struct bytes *b, const struct field *f, const void *base, const void *v)
{
	uint64_t bits;
	switch (f->kind) {
	case FIELD_BOOL:
		break;
	case FIELD_INT:
	case FIELD_ENUM:
		put_signed(b, (int32_t)(u32_at(v) - u32_at(base)));
		break;
	case FIELD_U64:
		put_signed(b, (int64_t)(u64_at(v) - u64_at(base)));
		break;
	case FIELD_DOUBLE:
		bits = u64_at(v);
		put_u32(b, (uint32_t)bits);
		put_u32(b, (uint32_t)(bits >> 32));
		break;
	case FIELD_TEXT:
		put_text(b, v, f->size - 1U);
		break;
	case FIELD_POLICY:
		put_text(b, policy_at(v), 64);
		break;
	case FIELD_WORDS:
		for (size_t i = 0; i < f->size; i += 8)
			put_signed(b, (int64_t)(u64_at((const char *)v + i) - u64_at((const char *)base + i)));
		break;
	case FIELD_NOT:
		break;
	}
}

void put_fields(struct bytes *b, const struct layout *t, const void *base, const void *object)
{
	uint8_t changed[FIELDS_MAX / 8] = {0};
	for (size_t i = 0; i < t->n; i++) {
		size_t at = t->list[i].offset;
		if (differs(&t->list[i], (const char *)base + at, (const char *)object + at))
			changed[i / 8] |= (uint8_t)(1U << i % 8);
	}
	put_bytes(b, changed, (t->n + 7) / 8);
	for (size_t i = 0; i < t->n; i++) {
		size_t at = t->list[i].offset;
		if (changed[i / 8] >> i % 8 & 1)
			put_field(b, &t->list[i], (const char *)base + at, (const char *)object + at);
	}
}

/* ---- reading ---- */

static void bad(struct reading *r, const char *why)
{
	if (!r->bad)
		r->bad = why;
	r->at = r->end;
}

static bool get_bytes(struct reading *r, void *ret, size_t n)
{
	if (r->bad || n > (size_t)(r->end - r->at)) {
		bad(r, "it ends too soon");
		return false;
	}
	memcpy(ret, r->at, n);
	r->at += n;
	return true;
}

uint8_t get_u8(struct reading *r)
{
	uint8_t v = 0;
	get_bytes(r, &v, 1);
	return v;
}

uint32_t get_u32(struct reading *r)
{
	uint8_t le[4] = {0};
	get_bytes(r, le, sizeof(le));
	return le[0] | (uint32_t)le[1] << 8 | (uint32_t)le[2] << 16 | (uint32_t)le[3] << 24;
}

uint64_t get_number(struct reading *r)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < NUMBER_LEN; i++) {
		uint8_t byte = get_u8(r);
		if (i == NUMBER_LEN - 1 && byte > 1)
			break;
		v |= (uint64_t)(byte & 0x7f) << 7 * i;
		if (!(byte & 0x80))
			return r->bad ? 0 : v;
	}
	bad(r, "a number is too long");
	return 0;
}

int64_t get_signed(struct reading *r)
{
	uint64_t v = get_number(r);
	return (int64_t)(v >> 1 ^ (v & 1 ? UINT64_MAX : 0));
}

void get_text(struct reading *r, char *ret, size_t size)
{
	uint64_t n = get_number(r);
	memset(ret, 0, size);
	if (n >= size)
		bad(r, "a text is too long");
	else if (get_bytes(r, ret, n) && memchr(ret, '\0', n))
		bad(r, "a text holds a zero byte");
}

static void get_u32_field(struct reading *r, const struct field *f, void *at)
{
	int64_t diff = get_signed(r);
	uint32_t v = u32_at(at) + (uint32_t)diff;
	if (diff < INT32_MIN || diff > INT32_MAX || (f->kind == FIELD_ENUM && (v < f->lo || v >= f->end)))
		bad(r, "a value that there is not");
	else
		memcpy(at, &v, sizeof(v));
}

/* All are rates, shares, percentages and scores; a guest that lies comes up to 1e23 (2^64 bytes in a millisecond). */
#define DOUBLE_MOST 1e30

static void get_double(struct reading *r, void *at)
{
	uint64_t bits = get_u32(r);
	bits |= (uint64_t)get_u32(r) << 32;
	double v;
	memcpy(&v, &bits, sizeof(v));
	if (!(v >= 0 && v <= DOUBLE_MOST))
		bad(r, "a number that cannot be");
	else
		memcpy(at, &v, sizeof(v));
}

static void get_policy(struct reading *r, void *at)
{
	char name[64];
	get_text(r, name, sizeof(name));
	const struct policy_ops *policy = r->bad ? NULL : policy_find(name);
	if (!policy)
		bad(r, "a policy that this memoc does not know");
	memcpy(at, &policy, sizeof(policy));
}

static void get_field(struct reading *r, const struct field *f, void *at)
{
	uint64_t v;
	bool flag;
	switch (f->kind) {
	case FIELD_BOOL:
		flag = !*(const bool *)at;
		memcpy(at, &flag, sizeof(flag));
		break;
	case FIELD_INT:
	case FIELD_ENUM:
		get_u32_field(r, f, at);
		break;
	case FIELD_U64:
		v = u64_at(at) + (uint64_t)get_signed(r);
		memcpy(at, &v, sizeof(v));
		break;
	case FIELD_DOUBLE:
		get_double(r, at);
		break;
	case FIELD_TEXT:
		get_text(r, at, f->size);
		break;
	case FIELD_POLICY:
		get_policy(r, at);
		break;
	case FIELD_WORDS:
		for (size_t i = 0; i < f->size; i += 8) {
			v = u64_at((char *)at + i) + (uint64_t)get_signed(r);
			memcpy((char *)at + i, &v, sizeof(v));
		}
		break;
	case FIELD_NOT:
		bad(r, "a value that is never recorded");
		break;
	}
}

void get_fields(struct reading *r, const struct layout *t, void *object)
{
	uint8_t changed[FIELDS_MAX / 8] = {0};
	if (!get_bytes(r, changed, (t->n + 7) / 8))
		return;
	for (size_t i = 0; i < t->n && !r->bad; i++) {
		const struct field *f = &t->list[i];
		if (changed[i / 8] >> i % 8 & 1)
			get_field(r, f, (char *)object + f->offset);
		/* A base of zeroes is no good value of some: then it must have been changed. */
		if (!r->bad && f->kind == FIELD_ENUM && u32_at((char *)object + f->offset) < f->lo)
			bad(r, "a value that is missing");
		if (r->bad && !r->where[0])
			snprintf(r->where, sizeof(r->where), "%s", f->name);
	}
}
