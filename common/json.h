/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON, the only room that knows yajl (streaming API; yajl_tree_parse is not used: CVE-2023-33460). Reading gives a
 * tree of immutable nodes; writing is a stream with a sticky error, checked once at the end.
 * Nothing here is shared between threads; distinct objects may be used in distinct threads.
 */
#ifndef MEMOC_COMMON_JSON_H
#define MEMOC_COMMON_JSON_H

#include "common/err.h"

enum json_type { JSON_NULL = 1, JSON_BOOL, JSON_INT, JSON_DOUBLE, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* What a text may cost at most. Exceeding one is −E2BIG with the limit named in err. */
struct json_limits {
	size_t bytes;	/* length of the text */
	unsigned depth; /* nested arrays and objects */
	size_t nodes;	/* values and keys in all */
};
extern const struct json_limits json_limits_default; /* 1 MiB, 32 deep, 65,536 nodes */

struct json;

/*
 * Parses exactly one value (UTF-8 checked, no comments, nothing after it but white space; duplicate keys are an error).
 * limits NULL = default. Returns 0, −EINVAL (err says where), −E2BIG, −ENOMEM. The caller owns *ret.
 */
int json_parse(const char *text, size_t len, const struct json_limits *limits, struct json **ret,
	       struct memoc_err *err);
struct json *json_free(struct json *j); /* takes NULL, returns NULL */
static inline void json_free_p(struct json **j)
{
	*j = json_free(*j);
}
#define AUTO_JSON CLEANUP(json_free_p)

enum json_type json_type(const struct json *j); /* JSON_NULL for NULL */
size_t json_len(const struct json *j);		/* members of an array or object, else 0 */
const struct json *json_at(const struct json *j, size_t i);
const char *json_key_at(const struct json *obj, size_t i);
const struct json *json_get(const struct json *obj, const char *key); /* NULL where absent or not an object */

/* Value of a node, −EINVAL where it is of another type (an integer is a good double). Strings live as long as j. */
int json_str(const struct json *j, const char **ret);
int json_u64(const struct json *j, uint64_t *ret);
int json_i64(const struct json *j, int64_t *ret);
int json_double(const struct json *j, double *ret);
int json_bool(const struct json *j, bool *ret);

/* Member of an object: 0; −ENOENT where absent or null; −EINVAL where of another type. *ret is kept on error. */
int json_get_str(const struct json *obj, const char *key, const char **ret);
int json_get_u64(const struct json *obj, const char *key, uint64_t *ret);
int json_get_i64(const struct json *obj, const char *key, int64_t *ret);
int json_get_double(const struct json *obj, const char *key, double *ret);
int json_get_bool(const struct json *obj, const char *key, bool *ret);

/*
 * Writer. Errors (memory, wrong nesting, NaN) stick and are reported by jw_finish; no call in between needs a
 * check. Keys are given to the value functions; pass NULL inside arrays and at the top.
 */
struct json_writer;
struct json_writer *
jw_new(bool pretty); /* NULL without memory: every function below takes NULL and jw_finish says −ENOMEM */
void jw_object(struct json_writer *w, const char *key);
void jw_array(struct json_writer *w, const char *key);
void jw_end(struct json_writer *w);					/* closes the innermost object or array */
void jw_str(struct json_writer *w, const char *key, const char *value); /* NULL → null; invalid UTF-8 → U+FFFD */
void jw_u64(struct json_writer *w, const char *key, uint64_t value);
void jw_i64(struct json_writer *w, const char *key, int64_t value);
void jw_double(struct json_writer *w, const char *key,
	       double value); /* shortest form that reads back; NaN/inf → null */
void jw_bool(struct json_writer *w, const char *key, bool value);
void jw_null(struct json_writer *w, const char *key);
void jw_json(struct json_writer *w, const char *key, const struct json *value); /* copies a tree; NULL → null */
/* Frees w in every case. The caller owns *ret_text (NUL-terminated; *ret_len may be NULL). */
int jw_finish(struct json_writer *w, char **ret_text, size_t *ret_len);
struct json_writer *jw_free(struct json_writer *w); /* drop without a result */

#endif
