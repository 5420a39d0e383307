/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/text.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Least and greatest second byte by first byte: Unicode 15, table 3-7 (well-formed UTF-8 byte sequences). */
static bool second_byte_good(unsigned char first, unsigned char second)
{
	unsigned char lo = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
	unsigned char hi = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;

	return second >= lo && second <= hi;
}

size_t text_utf8_char(const char *s, size_t len)
{
	const unsigned char *u = (const unsigned char *)s;
	size_t need;

	if (len == 0)
		return 0;
	if (u[0] < 0x80)
		return 1;
	if (u[0] < 0xc2 || u[0] > 0xf4)
		return 0;
	need = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
	if (len < need || !second_byte_good(u[0], u[1]))
		return 0;
	for (size_t i = 2; i < need; i++)
		if ((u[i] & 0xc0) != 0x80)
			return 0;
	return need;
}

size_t text_utf8_valid_len(const char *s, size_t len)
{
	size_t at = 0, n;

	while (at < len && (n = text_utf8_char(s + at, len - at)) > 0)
		at += n;
	return at;
}

void text_make_printable(char *s)
{
	size_t len = strlen(s), n;

	for (size_t at = 0; at < len; at += n) {
		unsigned char c = (unsigned char)s[at];
		bool control = c < 0x20 || c == 0x7f;

		n = text_utf8_char(s + at, len - at);
		/* C1 controls U+0080..U+009F: some terminals obey them as they do ESC sequences. */
		if (n == 2 && c == 0xc2 && (unsigned char)s[at + 1] < 0xa0)
			control = true;
		if (n == 0 || control) {
			n = max_u64(n, 1);
			memset(s + at, '?', n);
		}
	}
}

/* Takes off the bytes of a character that snprintf cut in the middle. */
static void drop_half_char(char *s, size_t len)
{
	size_t back = 0;

	while (back < 3 && back < len && ((unsigned char)s[len - 1 - back] & 0xc0) == 0x80)
		back++;
	if (back < len && (unsigned char)s[len - 1 - back] >= 0xc0 && text_utf8_char(s + len - 1 - back, back + 1) == 0)
		s[len - 1 - back] = 0;
}

size_t text_add(char *buf, size_t size, size_t used, const char *fmt, ...)
{
	va_list args;
	int n;

	if (used + 1 >= size)
		return used;
	va_start(args, fmt);
	n = vsnprintf(buf + used, size - used, fmt, args);
	va_end(args);
	if (n < 0) {
		buf[used] = 0;
		return used;
	}
	if ((size_t)n >= size - used)
		drop_half_char(buf, size - 1);
	text_make_printable(buf + used);
	return used + strlen(buf + used);
}

/* glibc keeps the "C" locale as a constant object: no allocation, no failure, nothing to free. */
static locale_t c_locale(void)
{
	return newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

double text_to_double(const char *s)
{
	return strtod_l(s, NULL, c_locale());
}

const char *text_from_double(char buf[TEXT_DOUBLE_LEN], double v)
{
	/* 15 digits survive any way through a normal double, so a shorter form would come out of %.15g already. */
	int digits = fabs(v) < DBL_MIN ? 1 : DBL_DIG;
	locale_t old = uselocale(c_locale());

	do
		snprintf(buf, TEXT_DOUBLE_LEN, "%.*g", digits, v);
	while (text_to_double(buf) != v && ++digits <= DBL_DECIMAL_DIG);
	uselocale(old);
	return buf;
}
