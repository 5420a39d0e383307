/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Small text files of the kernel (procfs, cgroupfs): read whole from a kept descriptor and picked apart. Their content
 * is not trusted to be well-formed: another kernel, or a test's fake directory, may have written it.
 */
#ifndef MEMOC_HOST_KERNFILE_H
#define MEMOC_HOST_KERNFILE_H

#include "common/util.h"

/*
 * Reads all of the file from its beginning into buf and ends it with NUL. Number of bytes, or −errno; −EMSGSIZE where
 * it does not fit. Does not move the descriptor's offset, so threads may share it.
 */
ssize_t kernfile_read(int fd, char *buf, size_t size);
/*
 * Exactly so many bytes from a place in a kept descriptor on: words of 8 bytes in pagemap, kpageflags and their like.
 * 0; −ENODATA: the file ends before (for pagemap: the process has ended), or in the middle of a word; −errno.
 */
int kernfile_read_at(int fd, void *buf, size_t bytes, uint64_t at);
/* Digits at *text up to a space, a newline or the end. −EBADMSG: no number; −ERANGE: beyond 64 bits. */
int kernfile_number(const char *text, uint64_t *ret);
/* A file that holds one number, or "max" (v2), which becomes UINT64_MAX. */
int kernfile_read_number(int fd, uint64_t *ret);
/* The number after "KEY" and blanks at the start of a line. −ENOENT: no such line. */
int kernfile_field(const char *text, const char *key, uint64_t *ret);
/* The rest of the line that starts with `key`, NULL where none does. */
const char *kernfile_line(const char *text, const char *key);

#endif
