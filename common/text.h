/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What err, log, parse and json need of text alike: strict UTF-8, printable lines, numbers without a locale.
 * Thread-safe: nothing here keeps state.
 */
#ifndef MEMOC_COMMON_TEXT_H
#define MEMOC_COMMON_TEXT_H

#include "common/util.h"

/* Bytes (1..4) of the well-formed UTF-8 character at s (no overlong form, no surrogate, ≤ U+10FFFF); 0 where none. */
size_t text_utf8_char(const char *s, size_t len);
/* Offset of the first byte that is not well-formed UTF-8; len where all is good. */
size_t text_utf8_valid_len(const char *s, size_t len);
/* Replaces, in place and byte by byte, control characters (C0, DEL, C1) and malformed UTF-8 by '?'. */
void text_make_printable(char *s);
/* As snprintf into buf, but a cut leaves no half character and the result is printable; what follows is added at used.
 */
size_t text_add(char *buf, size_t size, size_t used, const char *fmt, ...) PRINTF_LIKE(4, 5);

/* Number of a text whose form the caller has checked: always '.', whatever the locale. ±HUGE_VAL beyond a double. */
double text_to_double(const char *s);
/* Shortest decimal form of a finite v that reads back as v; always '.'. */
#define TEXT_DOUBLE_LEN 32
const char *text_from_double(char buf[TEXT_DOUBLE_LEN], double v);

#endif
