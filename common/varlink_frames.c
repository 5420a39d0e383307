/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/varlink_frames.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* A buffer that once grew beyond this for one large message is given back when it is empty. */
#define KEEP_BYTES ((size_t)64 << 10)

void frames_clear(struct frames *f)
{
	free(f->data);
	*f = (struct frames){0};
}

static void tidy_empty(struct frames *f)
{
	if (f->len > 0)
		return;
	f->start = 0;
	if (f->cap > KEEP_BYTES)
		frames_clear(f);
}

/* Makes room for more bytes behind the waiting ones. */
static int make_room(struct frames *f, size_t more)
{
	size_t cap;
	char *data;

	if (f->start > 0 && f->cap - f->start - f->len < more) {
		memmove(f->data, f->data + f->start, f->len);
		f->start = 0;
	}
	if (f->cap - f->start - f->len >= more)
		return 0;
	cap = max_u64(add_sat_u64(f->len, more), f->cap + f->cap / 2);
	data = realloc(f->data, cap);
	if (!data)
		return -ENOMEM;
	f->data = data;
	f->cap = cap;
	return 0;
}

int frames_add(struct frames *f, const char *data, size_t len)
{
	int r = make_room(f, len);

	if (r < 0)
		return r;
	memcpy(f->data + f->start + f->len, data, len);
	f->len += len;
	return 0;
}

int frames_send(struct frames *f, int fd)
{
	while (f->len > 0) {
		ssize_t n = send(fd, f->data + f->start, f->len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0) {
			f->start += (size_t)n;
			f->len -= (size_t)n;
			tidy_empty(f);
		} else if (errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		else if (errno != EINTR)
			return -errno;
	}
	return 0;
}

ssize_t frames_receive(struct frames *f, int fd)
{
	ssize_t n;
	int r;

	tidy_empty(f);
	r = make_room(f, FRAMES_READ_BYTES);
	if (r < 0)
		return r;
	do
		n = recv(fd, f->data + f->start + f->len, FRAMES_READ_BYTES, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	f->len += (size_t)n;
	return n;
}

/* Looks only at bytes that were not looked at before, so that a message in a thousand pieces costs no more than one. */
static const char *find_end(struct frames *f)
{
	const char *from, *end;

	if (f->searched == f->len)
		return NULL;
	from = f->data + f->start + f->searched;
	end = memchr(from, 0, f->len - f->searched);
	f->searched = end ? (size_t)(end - (f->data + f->start)) : f->len;
	return end;
}

bool frames_has_next(struct frames *f, size_t max)
{
	return find_end(f) || f->len > max;
}

int frames_next(struct frames *f, size_t max, const char **ret, size_t *ret_len)
{
	const char *end = find_end(f);
	size_t len = end ? (size_t)(end - (f->data + f->start)) : f->len;

	if (len > max)
		return -E2BIG;
	if (!end)
		return 0;
	*ret = f->data + f->start;
	*ret_len = len;
	/* The bytes stay where they are, for *ret; the next receive tidies up. */
	f->start += len + 1;
	f->len -= len + 1;
	f->searched = 0;
	return 1;
}

bool varlink_name_good(const char *name)
{
	return name && *name &&
	       name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_")] == 0;
}

bool varlink_parameters_good(const char *json)
{
	return json[strspn(json, " \t\r\n")] == '{';
}
