/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Strict text ↔ number conversion. Whole strings only: leading or trailing space, signs, an empty string and
 * overflow are errors (−EINVAL, −ERANGE) whose text names the value and the accepted form. No locale is used.
 */
#ifndef MEMOC_COMMON_PARSE_H
#define MEMOC_COMMON_PARSE_H

#include "common/err.h"

/* Decimal digits only. */
int parse_u64(const char *text, uint64_t *ret, struct memoc_err *err);
/* Optional '-', digits, optional fraction; finite; no exponent. */
int parse_double(const char *text, double *ret, struct memoc_err *err);
/* "yes|no|true|false|on|off|1|0", case-sensitive. */
int parse_bool(const char *text, bool *ret, struct memoc_err *err);
/*
 * "512M", "1.5G", "100" (bytes), suffix K M G T P E, each optionally followed by "iB" or "B", powers of 1024,
 * upper or lower case. A fraction needs a suffix; the result is rounded down to a byte.
 */
int parse_size_bytes(const char *text, uint64_t *ret_bytes, struct memoc_err *err);
/* "10%", "2.5%": 0..100 inclusive; *ret_ratio is 0..1. */
int parse_percent(const char *text, double *ret_ratio, struct memoc_err *err);
/* "250ms", "1s", "2m", "1h", fraction allowed; a plain number is refused because its unit is unknown. */
int parse_duration_ms(const char *text, uint64_t *ret_ms, struct memoc_err *err);

/* A size given as "auto", in bytes or relative to the pool. */
enum size_kind { SIZE_AUTO = 1, SIZE_BYTES, SIZE_RATIO };
struct size_spec {
	enum size_kind kind;
	uint64_t bytes; /* SIZE_BYTES */
	double ratio;	/* SIZE_RATIO, 0..1 */
};
/* allow_auto/allow_percent say which forms beyond a plain size are good here. */
int parse_size_spec(const char *text, bool allow_auto, bool allow_percent, struct size_spec *ret,
		    struct memoc_err *err);

/* 36-character UUID with dashes, any case, → lower case. */
#define UUID_TEXT_LEN 36
int parse_uuid(const char *text, char ret[UUID_TEXT_LEN + 1], struct memoc_err *err);

#define FORMAT_SIZE_LEN 32
/* For people: "512 MiB", "1.5 GiB", "0 B"; three significant digits. Writes into buf and returns it. */
const char *format_size(char buf[FORMAT_SIZE_LEN], uint64_t bytes);
/* For people: "0.25 s", "12 s", "3 min". */
const char *format_duration(char buf[FORMAT_SIZE_LEN], uint64_t ms);
/* RFC 3339 UTC with milliseconds, "2026-11-22T20:15:25.123Z"; `realtime_ms` since the epoch. */
#define FORMAT_TIME_LEN 32
const char *format_rfc3339(char buf[FORMAT_TIME_LEN], uint64_t realtime_ms);

/* Enumerations ↔ names: a table per enum, ended by {0, NULL}; values start at 1 so that 0 is "not set". */
struct enum_name {
	int value;
	const char *name;
};
/* "?" for an unknown value: never NULL. */
const char *enum_to_name(const struct enum_name *table, int value);
/* −EINVAL with the accepted names in err. */
int enum_from_name(const struct enum_name *table, const char *name, int *ret, struct memoc_err *err);

#endif
