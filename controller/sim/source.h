/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines of a file that may be compressed, in constant memory. Private to this room. */
#ifndef MEMOC_SIM_SOURCE_H
#define MEMOC_SIM_SOURCE_H

#include "common/err.h"
#include "common/util.h"

struct source;

struct source_line {
	const char *text; /* no newline, no NUL after it; good until the next call */
	size_t len;	  /* overlong: the first TRACE_LINE_MAX bytes */
	uint64_t number;  /* from 1 */
	bool overlong;
};

/*
 * Reads fd, which stays the caller's; plain, gzip or xz by its first bytes. `name` is for errors and must outlive it.
 * −ENOMEM; −errno of reading. The caller frees with source_free().
 */
int source_new(int fd, const char *name, struct source **ret, struct memoc_err *err);
struct source *source_free(struct source *s); /* always NULL */
/*
 * 1 with a line (without "\r\n" or "\n"; a byte order mark before the first is skipped), 0 at the end. −EBADMSG for
 * compressed data that are damaged or cut off, −E2BIG where unpacking wants too much memory, −ENOMEM, −errno of
 * reading.
 */
int source_line(struct source *s, struct source_line *ret, struct memoc_err *err);

#endif
