/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The error contract of every room. A function returns 0, or −errno, which the caller may forward; a positive
 * return is part of that function's own contract and must be handled by the caller. Where a person will read it,
 * the function also fills a struct memoc_err with one line: what went wrong, where, and what to do. The caller at
 * the top logs or prints it once; libraries stay silent. Outputs named ret_… are written only on success.
 */
#ifndef MEMOC_COMMON_ERR_H
#define MEMOC_COMMON_ERR_H

#include "common/util.h"

/* One line of text without a newline; empty when nothing was said. Plain data: needs no freeing. */
struct memoc_err {
	char text[400];
};

/*
 * Writes the line (cut where too long, control characters replaced by '?') and returns `code` unchanged, so that
 * `return memoc_err_set(err, -EINVAL, "…")` is one statement. err may be NULL. Thread-safe on distinct objects.
 */
int memoc_err_set(struct memoc_err *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "CONTEXT: " in front of what err says already; returns code. err may be NULL. */
int memoc_err_prefix(struct memoc_err *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
