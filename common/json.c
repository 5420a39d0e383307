/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading: yajl's streaming parser calls back for every value; limits are counted in the callbacks, so a hostile text
 * costs no more than what it may. yajl itself uses what malloc gives without a look, so its memory comes from a pool
 * that jumps out of yajl when there is none. Writing: plain text into a growing buffer; nothing of yajl is needed.
 */
#include "common/json.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <yajl/yajl_parse.h>

#include "common/text.h"

/* Characters of one number: far beyond what any double or 64-bit integer needs. */
#define NUMBER_LEN_MAX 128

const struct json_limits json_limits_default = {.bytes = (size_t)1 << 20, .depth = 32, .nodes = 65536};

struct json {
	enum json_type type;
	bool negative;	     /* JSON_INT: value is −magnitude */
	char *key;	     /* its name, where the parent is an object */
	struct json *parent; /* only good while parsing */
	union {
		bool boolean;
		uint64_t magnitude;
		double number;
		char *string;
		struct {
			struct json **items;
			size_t len, cap;
		} members;
	};
};

/* ---- memory of one yajl handle ---- */

/* In front of every block, which starts behind it, aligned for anything. */
struct pool_block {
	_Alignas(max_align_t) struct pool_block *prev;
	struct pool_block *next;
	size_t size;
};

struct pool {
	struct pool_block head; /* ring of all blocks */
	jmp_buf no_memory;
};

static void *pool_malloc(void *ctx, size_t size)
{
	struct pool *pool = ctx;
	struct pool_block *b = size < SIZE_MAX / 2 ? malloc(sizeof(*b) + size) : NULL;

	if (!b)
		longjmp(pool->no_memory, 1);
	b->size = size;
	b->prev = &pool->head;
	b->next = pool->head.next;
	b->next->prev = b;
	pool->head.next = b;
	return b + 1;
}

static void pool_free(void *ctx, void *p)
{
	struct pool_block *b;

	if (!p)
		return;
	b = (struct pool_block *)p - 1;
	b->prev->next = b->next;
	b->next->prev = b->prev;
	free(b);
}

static void *pool_realloc(void *ctx, void *p, size_t size)
{
	struct pool_block *b;
	void *new = pool_malloc(ctx, size);

	if (!p)
		return new;
	b = (struct pool_block *)p - 1;
	memcpy(new, p, min_u64(size, b->size));
	pool_free(ctx, p);
	return new;
}

static void pool_init(struct pool *pool)
{
	pool->head.prev = pool->head.next = &pool->head;
}

static void pool_clear(struct pool *pool)
{
	struct pool_block *b = pool->head.next, *next;

	for (; b != &pool->head; b = next) {
		next = b->next;
		free(b);
	}
	pool_init(pool);
}

/* ---- tree ---- */

static bool is_container(const struct json *j)
{
	return j->type == JSON_ARRAY || j->type == JSON_OBJECT;
}

/* Recursion is as deep as the text was, which json_limits bounds. */
struct json *json_free(struct json *j)
{
	if (!j)
		return NULL;
	if (j->type == JSON_STRING)
		free(j->string);
	if (is_container(j)) {
		for (size_t i = 0; i < j->members.len; i++)
			json_free(j->members.items[i]);
		free(j->members.items);
	}
	free(j->key);
	free(j);
	return NULL;
}

static int members_append(struct json *parent, struct json *child)
{
	if (parent->members.len == parent->members.cap) {
		size_t cap = parent->members.cap ? 2 * parent->members.cap : 4;
		struct json **items = realloc(parent->members.items, cap * sizeof(struct json *));

		if (!items)
			return -ENOMEM;
		parent->members.items = items;
		parent->members.cap = cap;
	}
	parent->members.items[parent->members.len++] = child;
	return 0;
}

/* ---- parser ---- */

struct parser {
	struct pool pool;
	yajl_handle yajl;
	const struct json_limits *limits;
	unsigned depth;
	size_t nodes;
	struct json *root, *open; /* open: innermost array or object that has not ended */
	char *key;		  /* name of the value to come */
	int error;		  /* why a callback stopped the parser; text beside it */
	struct memoc_err *err;
};

/* What a callback returns to yajl: 0 stops it. */
static int stop(struct parser *p, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int stop(struct parser *p, int code, const char *fmt, ...)
{
	char text[200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	p->error = memoc_err_set(p->err, code, "JSON: %s (before byte %zu)", text, yajl_get_bytes_consumed(p->yajl));
	return 0;
}

static bool count_node(struct parser *p)
{
	if (++p->nodes <= p->limits->nodes)
		return true;
	stop(p, -E2BIG, "more than %zu values and names: send less", p->limits->nodes);
	return false;
}

/* A C string of the text. yajl turns half a surrogate pair into malformed UTF-8, and \u0000 would cut the string. */
static char *copy_text(struct parser *p, const unsigned char *s, size_t len)
{
	char *copy;

	if (memchr(s, 0, len)) {
		stop(p, -EINVAL, "a string contains \\u0000");
		return NULL;
	}
	if (text_utf8_valid_len((const char *)s, len) != len) {
		stop(p, -EINVAL, "a string is not UTF-8 once its escapes are resolved");
		return NULL;
	}
	copy = malloc(len + 1);
	if (!copy) {
		stop(p, -ENOMEM, "out of memory");
		return NULL;
	}
	memcpy(copy, s, len);
	copy[len] = 0;
	return copy;
}

/* New node under the open one (or the root); NULL after stop(). */
static struct json *add_node(struct parser *p, enum json_type type)
{
	struct json *j;

	if (!count_node(p))
		return NULL;
	j = calloc(1, sizeof(*j));
	if (!j || (p->open && members_append(p->open, j) < 0)) {
		free(j);
		stop(p, -ENOMEM, "out of memory");
		return NULL;
	}
	j->type = type;
	j->parent = p->open;
	j->key = TAKE(p->key);
	if (!p->open)
		p->root = j;
	return j;
}

static int on_null(void *ctx)
{
	return add_node(ctx, JSON_NULL) != NULL;
}

static int on_boolean(void *ctx, int value)
{
	struct json *j = add_node(ctx, JSON_BOOL);

	if (!j)
		return 0;
	j->boolean = value;
	return 1;
}

/* Digits with an optional '-' into j as an integer; false where it is none or does not fit. */
static bool read_integer(const char *text, struct json *j)
{
	bool negative = *text == '-';
	uint64_t v = 0;

	for (text += negative; *text; text++) {
		if (*text < '0' || *text > '9' || __builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
			return false;
	}
	if (negative && v > (uint64_t)INT64_MAX + 1)
		return false;
	j->negative = negative && v > 0;
	j->magnitude = v;
	return true;
}

static int on_number(void *ctx, const char *text, size_t len)
{
	struct parser *p = ctx;
	char copy[NUMBER_LEN_MAX + 1];
	struct json *j;
	double v;

	if (len > NUMBER_LEN_MAX)
		return stop(p, -EINVAL, "a number has more than %d characters", NUMBER_LEN_MAX);
	memcpy(copy, text, len);
	copy[len] = 0;
	j = add_node(p, JSON_INT);
	if (!j)
		return 0;
	if (read_integer(copy, j))
		return 1;
	v = text_to_double(copy);
	if (!isfinite(v))
		return stop(p, -EINVAL, "the number %.40s is beyond what a double holds", copy);
	j->type = JSON_DOUBLE;
	j->number = v;
	return 1;
}

static int on_string(void *ctx, const unsigned char *s, size_t len)
{
	struct parser *p = ctx;
	char *copy = copy_text(p, s, len);
	struct json *j = copy ? add_node(p, JSON_STRING) : NULL;

	if (!j) {
		free(copy);
		return 0;
	}
	j->string = copy;
	return 1;
}

static int on_key(void *ctx, const unsigned char *s, size_t len)
{
	struct parser *p = ctx;

	if (!count_node(p))
		return 0;
	p->key = copy_text(p, s, len);
	return p->key != NULL;
}

static int begin(struct parser *p, enum json_type type)
{
	struct json *j;

	if (p->depth >= p->limits->depth)
		return stop(p, -E2BIG, "nested deeper than %u", p->limits->depth);
	j = add_node(p, type);
	if (!j)
		return 0;
	p->depth++;
	p->open = j;
	return 1;
}

static int on_object(void *ctx)
{
	return begin(ctx, JSON_OBJECT);
}

static int on_array(void *ctx)
{
	return begin(ctx, JSON_ARRAY);
}

static int on_array_end(void *ctx)
{
	struct parser *p = ctx;

	p->depth--;
	p->open = p->open->parent;
	return 1;
}

static int by_key(const void *a, const void *b)
{
	return strcmp((*(struct json *const *)a)->key, (*(struct json *const *)b)->key);
}

/* Sorted, so that an object of 30,000 names does not cost 450 million comparisons. */
static int on_object_end(void *ctx)
{
	struct parser *p = ctx;
	struct json *obj = p->open;
	size_t len = obj->members.len;
	struct json **sorted AUTO_FREE = NULL;

	if (len > 1) {
		sorted = malloc(len * sizeof(struct json *));
		if (!sorted)
			return stop(p, -ENOMEM, "out of memory");
		memcpy(sorted, obj->members.items, len * sizeof(struct json *));
		qsort(sorted, len, sizeof(struct json *), by_key);
		for (size_t i = 1; i < len; i++)
			if (strcmp(sorted[i - 1]->key, sorted[i]->key) == 0)
				return stop(p, -EINVAL, "the name '%.64s' is twice in one object", sorted[i]->key);
	}
	return on_array_end(p);
}

static const yajl_callbacks callbacks = {
	.yajl_null = on_null,
	.yajl_boolean = on_boolean,
	.yajl_number = on_number,
	.yajl_string = on_string,
	.yajl_start_map = on_object,
	.yajl_map_key = on_key,
	.yajl_end_map = on_object_end,
	.yajl_start_array = on_array,
	.yajl_end_array = on_array_end,
};

/* yajl's own message without its line end, at the byte where it stopped. */
static int syntax_error(struct parser *p)
{
	unsigned char *text = yajl_get_error(p->yajl, 0, NULL, 0);

	return memoc_err_set(p->err, -EINVAL, "JSON: %.*s (at byte %zu)", (int)strcspn((char *)text, "\n"),
			     (char *)text, yajl_get_bytes_consumed(p->yajl));
}

static int run_yajl(struct parser *p, const char *text, size_t len)
{
	yajl_alloc_funcs memory = {.malloc = pool_malloc, .realloc = pool_realloc, .free = pool_free, .ctx = &p->pool};
	yajl_status status;

	if (setjmp(p->pool.no_memory))
		return memoc_err_set(p->err, -ENOMEM, "JSON: out of memory");
	p->yajl = yajl_alloc(&callbacks, &memory, p);
	status = yajl_parse(p->yajl, (const unsigned char *)text, len);
	if (status == yajl_status_ok)
		status = yajl_complete_parse(p->yajl);
	if (p->error)
		return p->error;
	if (status != yajl_status_ok)
		return syntax_error(p);
	return p->root ? 0 : memoc_err_set(p->err, -EINVAL, "JSON: the text is empty");
}

int json_parse(const char *text, size_t len, const struct json_limits *limits, struct json **ret, struct memoc_err *err)
{
	struct parser p = {.limits = limits ? limits : &json_limits_default, .err = err};
	size_t good;
	int r;

	if (len > p.limits->bytes)
		return memoc_err_set(err, -E2BIG, "JSON: %zu bytes, but at most %zu are read: send less", len,
				     p.limits->bytes);
	good = text_utf8_valid_len(text, len);
	if (good < len)
		return memoc_err_set(err, -EINVAL, "JSON: not UTF-8 (at byte %zu)", good);
	pool_init(&p.pool);
	r = run_yajl(&p, text, len);
	pool_clear(&p.pool);
	free(p.key);
	if (r < 0) {
		json_free(p.root);
		return r;
	}
	*ret = p.root;
	return 0;
}

/* ---- reading a tree ---- */

enum json_type json_type(const struct json *j)
{
	return j ? j->type : JSON_NULL;
}

size_t json_len(const struct json *j)
{
	return j && is_container(j) ? j->members.len : 0;
}

const struct json *json_at(const struct json *j, size_t i)
{
	return i < json_len(j) ? j->members.items[i] : NULL;
}

const char *json_key_at(const struct json *obj, size_t i)
{
	const struct json *j = json_at(obj, i);

	return j ? j->key : NULL;
}

const struct json *json_get(const struct json *obj, const char *key)
{
	if (json_type(obj) != JSON_OBJECT)
		return NULL;
	for (size_t i = 0; i < obj->members.len; i++)
		if (strcmp(obj->members.items[i]->key, key) == 0)
			return obj->members.items[i];
	return NULL;
}

int json_str(const struct json *j, const char **ret)
{
	if (json_type(j) != JSON_STRING)
		return -EINVAL;
	*ret = j->string;
	return 0;
}

int json_u64(const struct json *j, uint64_t *ret)
{
	if (json_type(j) != JSON_INT || j->negative)
		return -EINVAL;
	*ret = j->magnitude;
	return 0;
}

int json_i64(const struct json *j, int64_t *ret)
{
	if (json_type(j) != JSON_INT || (!j->negative && j->magnitude > INT64_MAX))
		return -EINVAL;
	*ret = j->negative ? -(int64_t)(j->magnitude - 1) - 1 : (int64_t)j->magnitude;
	return 0;
}

int json_double(const struct json *j, double *ret)
{
	if (json_type(j) == JSON_INT)
		*ret = j->negative ? -(double)j->magnitude : (double)j->magnitude;
	else if (json_type(j) == JSON_DOUBLE)
		*ret = j->number;
	else
		return -EINVAL;
	return 0;
}

int json_bool(const struct json *j, bool *ret)
{
	if (json_type(j) != JSON_BOOL)
		return -EINVAL;
	*ret = j->boolean;
	return 0;
}

int json_get_str(const struct json *obj, const char *key, const char **ret)
{
	const struct json *j = json_get(obj, key);

	return json_type(j) == JSON_NULL ? -ENOENT : json_str(j, ret);
}

int json_get_u64(const struct json *obj, const char *key, uint64_t *ret)
{
	const struct json *j = json_get(obj, key);

	return json_type(j) == JSON_NULL ? -ENOENT : json_u64(j, ret);
}

int json_get_i64(const struct json *obj, const char *key, int64_t *ret)
{
	const struct json *j = json_get(obj, key);

	return json_type(j) == JSON_NULL ? -ENOENT : json_i64(j, ret);
}

int json_get_double(const struct json *obj, const char *key, double *ret)
{
	const struct json *j = json_get(obj, key);

	return json_type(j) == JSON_NULL ? -ENOENT : json_double(j, ret);
}

int json_get_bool(const struct json *obj, const char *key, bool *ret)
{
	const struct json *j = json_get(obj, key);

	return json_type(j) == JSON_NULL ? -ENOENT : json_bool(j, ret);
}

/* ---- writer ---- */

/* What memoc writes is a handful deep; this bounds the bookkeeping and jw_json's recursion. */
#define WRITER_DEPTH_MAX 128

struct json_writer {
	char *text;
	size_t len, cap;
	int error; /* the first one; after it nothing is written */
	bool pretty;
	bool done;   /* a whole value is out */
	bool filled; /* the innermost open array or object has a member */
	unsigned depth;
	bool in_object[WRITER_DEPTH_MAX];
};

struct json_writer *jw_new(bool pretty)
{
	struct json_writer *w = calloc(1, sizeof(*w));

	if (w)
		w->pretty = pretty;
	return w;
}

struct json_writer *jw_free(struct json_writer *w)
{
	if (w)
		free(w->text);
	free(w);
	return NULL;
}

static void jw_fail(struct json_writer *w, int code)
{
	if (!w->error)
		w->error = code;
}

/* Always leaves room for the final NUL. */
static void put(struct json_writer *w, const char *s, size_t len)
{
	if (w->error)
		return;
	if (w->cap - w->len <= len) {
		size_t cap = max_u64(2 * w->cap, w->len + len + 256);
		char *text = realloc(w->text, cap);

		if (!text) {
			jw_fail(w, -ENOMEM);
			return;
		}
		w->text = text;
		w->cap = cap;
	}
	memcpy(w->text + w->len, s, len);
	w->len += len;
}

static void put_text(struct json_writer *w, const char *s)
{
	put(w, s, strlen(s));
}

static void put_line(struct json_writer *w)
{
	if (!w->pretty)
		return;
	put(w, "\n", 1);
	for (unsigned i = 0; i < w->depth; i++)
		put(w, "  ", 2);
}

static void put_escaped(struct json_writer *w, unsigned char c)
{
	char code[8];

	switch (c) {
	case '"':
		put_text(w, "\\\"");
		break;
	case '\\':
		put_text(w, "\\\\");
		break;
	case '\n':
		put_text(w, "\\n");
		break;
	case '\t':
		put_text(w, "\\t");
		break;
	default:
		snprintf(code, sizeof(code), "\\u%04x", c);
		put_text(w, code);
	}
}

static void put_string(struct json_writer *w, const char *s)
{
	size_t len = strlen(s), n;

	put(w, "\"", 1);
	for (size_t at = 0; at < len; at += n) {
		unsigned char c = (unsigned char)s[at];

		n = text_utf8_char(s + at, len - at);
		if (n == 0) {
			put_text(w, "\xef\xbf\xbd"); /* U+FFFD */
			n = 1;
		} else if (c < 0x20 || c == 0x7f || c == '"' || c == '\\') {
			put_escaped(w, c);
		} else {
			put(w, s + at, n);
		}
	}
	put(w, "\"", 1);
}

/* Comma, line and name in front of a value. False where no value may stand here. */
static bool put_name(struct json_writer *w, const char *key)
{
	bool named = w && w->depth > 0 && w->in_object[w->depth - 1];

	if (!w)
		return false;
	if (w->done || named != (key != NULL))
		jw_fail(w, -EINVAL);
	if (w->error)
		return false;
	if (w->filled)
		put(w, ",", 1);
	if (w->depth > 0)
		put_line(w);
	if (key) {
		put_string(w, key);
		put_text(w, w->pretty ? ": " : ":");
	}
	w->filled = true;
	w->done = w->depth == 0;
	return true;
}

static void put_value(struct json_writer *w, const char *key, const char *text)
{
	if (put_name(w, key))
		put_text(w, text);
}

static void open_container(struct json_writer *w, const char *key, bool object)
{
	if (!put_name(w, key))
		return;
	if (w->depth == WRITER_DEPTH_MAX) {
		jw_fail(w, -E2BIG);
		return;
	}
	put_text(w, object ? "{" : "[");
	w->in_object[w->depth++] = object;
	w->filled = w->done = false;
}

void jw_object(struct json_writer *w, const char *key)
{
	open_container(w, key, true);
}

void jw_array(struct json_writer *w, const char *key)
{
	open_container(w, key, false);
}

void jw_end(struct json_writer *w)
{
	if (!w || w->error)
		return;
	if (w->depth == 0) {
		jw_fail(w, -EINVAL);
		return;
	}
	w->depth--;
	if (w->filled)
		put_line(w);
	put_text(w, w->in_object[w->depth] ? "}" : "]");
	w->filled = true;
	w->done = w->depth == 0;
}

void jw_str(struct json_writer *w, const char *key, const char *value)
{
	if (!value)
		jw_null(w, key);
	else if (put_name(w, key))
		put_string(w, value);
}

void jw_u64(struct json_writer *w, const char *key, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	put_value(w, key, text);
}

void jw_i64(struct json_writer *w, const char *key, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%lld", (long long)value);
	put_value(w, key, text);
}

void jw_double(struct json_writer *w, const char *key, double value)
{
	char text[TEXT_DOUBLE_LEN];

	if (!isfinite(value))
		jw_null(w, key);
	else if (value == 0 && signbit(value))
		put_value(w, key, "-0.0"); /* "-0" would read back as the integer 0 */
	else
		put_value(w, key, text_from_double(text, value));
}

void jw_bool(struct json_writer *w, const char *key, bool value)
{
	put_value(w, key, value ? "true" : "false");
}

void jw_null(struct json_writer *w, const char *key)
{
	put_value(w, key, "null");
}

static void jw_integer(struct json_writer *w, const char *key, const struct json *value)
{
	int64_t negative;

	if (json_i64(value, &negative) == 0)
		jw_i64(w, key, negative);
	else
		jw_u64(w, key, value->magnitude);
}

/* open_container fails beyond WRITER_DEPTH_MAX, which ends the recursion. */
void jw_json(struct json_writer *w, const char *key, const struct json *value)
{
	switch (json_type(value)) {
	case JSON_NULL:
		jw_null(w, key);
		break;
	case JSON_BOOL:
		jw_bool(w, key, value->boolean);
		break;
	case JSON_INT:
		jw_integer(w, key, value);
		break;
	case JSON_DOUBLE:
		jw_double(w, key, value->number);
		break;
	case JSON_STRING:
		jw_str(w, key, value->string);
		break;
	case JSON_ARRAY:
	case JSON_OBJECT:
		open_container(w, key, value->type == JSON_OBJECT);
		for (size_t i = 0; w && !w->error && i < value->members.len; i++)
			jw_json(w, value->members.items[i]->key, value->members.items[i]);
		jw_end(w);
		break;
	}
}

int jw_finish(struct json_writer *w, char **ret_text, size_t *ret_len)
{
	int r;

	if (!w)
		return -ENOMEM;
	if (!w->done)
		jw_fail(w, -EINVAL);
	r = w->error;
	if (r == 0) {
		w->text[w->len] = 0;
		if (ret_len)
			*ret_len = w->len;
		*ret_text = TAKE(w->text);
	}
	jw_free(w);
	return r;
}
