/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names near to a mistyped one, by edit distance. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "controller/cli/cli.h"
#include "common/text.h"

#define WORD_MAX 64 /* longer words are not typed by hand */

/* Optimal string alignment: insertions, deletions, replacements and swaps of neighbours, regardless of case. */
static unsigned distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	unsigned rows[3][WORD_MAX + 1];
	unsigned *before = rows[0], *above = rows[1], *row = rows[2];

	if (la > WORD_MAX || lb > WORD_MAX)
		return WORD_MAX;
	for (size_t j = 0; j <= lb; j++)
		above[j] = (unsigned)j;
	memcpy(before, above, sizeof(rows[0]));
	for (size_t i = 1; i <= la; i++) {
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
			unsigned best = above[j - 1] + (ca != cb);
			best = above[j] + 1 < best ? above[j] + 1 : best;
			best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
			if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
			    cb == tolower((unsigned char)a[i - 2]) && before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			row[j] = best;
		}
		unsigned *oldest = before;
		before = above;
		above = row;
		row = oldest;
	}
	return above[lb];
}

/* 0 is best; WORD_MAX and more is not near at all. A word that was only begun counts as near. */
static unsigned farness(const char *word, const char *name)
{
	unsigned d = distance(word, name), most = 1 + (unsigned)strlen(word) / 3;

	if (d <= most)
		return d;
	return strlen(word) >= 2 && !strncasecmp(word, name, strlen(word)) ? most + 1 : WORD_MAX;
}

size_t suggest(const char *word, const char *const *names, size_t n, const char *ret[SUGGEST_MAX])
{
	unsigned far[SUGGEST_MAX];
	size_t found = 0;

	for (size_t i = 0; i < n; i++) {
		unsigned f = farness(word, names[i]);
		size_t at = found;
		if (f >= WORD_MAX)
			continue;
		while (at > 0 && far[at - 1] > f)
			at--;
		if (at >= SUGGEST_MAX)
			continue;
		if (found < SUGGEST_MAX)
			found++;
		memmove(far + at + 1, far + at, (found - at - 1) * sizeof(*far));
		memmove(ret + at + 1, ret + at, (found - at - 1) * sizeof(*ret));
		far[at] = f;
		ret[at] = names[i];
	}
	return found;
}

const char *suggest_text(char buf[SUGGEST_TEXT_LEN], const char *word, const char *const *names, size_t n)
{
	const char *near[SUGGEST_MAX];
	size_t found = suggest(word, names, n, near), used = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < found; i++)
		used = text_add(buf, SUGGEST_TEXT_LEN, used, "%s\"%.64s\"",
				i == 0		 ? ": did you mean "
				: i + 1 == found ? " or "
						 : ", ",
				near[i]);
	if (found > 0)
		text_add(buf, SUGGEST_TEXT_LEN, used, "?");
	return buf;
}
