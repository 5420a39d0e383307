/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What both halves of varlink share: bytes of a non-blocking stream socket in and out, cut at NULs. Memory grows with
 * what has truly arrived or is truly to be sent, never with what a peer announces. Private to common/varlink_*.c.
 */
#ifndef MEMOC_COMMON_VARLINK_FRAMES_H
#define MEMOC_COMMON_VARLINK_FRAMES_H

#include "common/util.h"

/* Bytes that wait: data[start .. start+len). Zeroed = empty. */
struct frames {
	char *data;
	size_t start, len, cap;
	size_t searched; /* this many of the waiting bytes hold no NUL (reading only) */
};

void frames_clear(struct frames *f); /* frees; leaves it empty */

/* Appends. −ENOMEM: unchanged. */
int frames_add(struct frames *f, const char *data, size_t len);
/* Sends until all is out or the socket is full: 0 either way; −errno (−EPIPE: the peer left). */
int frames_send(struct frames *f, int fd);

/* One read of at most FRAMES_READ_BYTES. Bytes read; 0 = peer closed; −EAGAIN; −ENOMEM; −errno. */
#define FRAMES_READ_BYTES ((size_t)16 << 10)
ssize_t frames_receive(struct frames *f, int fd);
/*
 * Takes the next whole message out: 1 and *ret (NUL-terminated, good until the next receive); 0: none yet;
 * −E2BIG: it is longer than max without its NUL.
 */
int frames_next(struct frames *f, size_t max, const char **ret, size_t *ret_len);
/* Is a whole message waiting (or one that is too long already)? */
bool frames_has_next(struct frames *f, size_t max);

/* Names go into messages unescaped: letters, digits, '.', '-', '_' only, not empty. */
bool varlink_name_good(const char *name);
/* Is the text what may stand as "parameters": an object? Only its first character is looked at. */
bool varlink_parameters_good(const char *json);

#endif
