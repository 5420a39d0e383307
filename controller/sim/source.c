/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/sim/source.h"

#include <errno.h>
#include <lzma.h>
#include <string.h>
#include <zlib.h>

#include "controller/sim/trace.h"

#define PACKED_BYTES (64 * 1024)
#define LINES_BYTES (256 * 1024)
/* xz -9 needs 65 MiB to unpack. */
#define XZ_MEMORY_BYTES (256 * MIB)

enum packing { PLAIN = 1, GZIP, XZ };

struct source {
	int fd;
	const char *name;
	enum packing packing;
	bool packed_end;	    /* fd has no more */
	bool stream_end;	    /* gzip: between members; xz: all is said */
	size_t packed_at, packed_n; /* what was read and not yet unpacked */
	size_t at, n;		    /* what was unpacked and not yet handed out */
	bool end;		    /* nothing comes after that */
	uint64_t lines;
	z_stream gzip;
	lzma_stream xz;
	unsigned char packed[PACKED_BYTES];
	char text[LINES_BYTES];
};

/* Fills `packed` when it is empty. 0 or −errno. */
static int refill(struct source *s, struct memoc_err *err)
{
	ssize_t got;

	if (s->packed_at < s->packed_n || s->packed_end)
		return 0;
	s->packed_at = s->packed_n = 0;
	do
		got = read(s->fd, s->packed, sizeof(s->packed));
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return memoc_err_set(err, -errno, "%s: cannot be read: %s", s->name, strerror(errno));
	s->packed_n = (size_t)got;
	s->packed_end = got == 0;
	return 0;
}

static int damaged(const struct source *s, struct memoc_err *err)
{
	return memoc_err_set(err, -EBADMSG, "%s: the %s data are damaged after line %llu; get the file again", s->name,
			     s->packing == GZIP ? "gzip" : "xz", (unsigned long long)s->lines);
}

static int cut_off(const struct source *s, struct memoc_err *err)
{
	return memoc_err_set(err, -EBADMSG, "%s: the %s data end too early, after line %llu; get the file again",
			     s->name, s->packing == GZIP ? "gzip" : "xz", (unsigned long long)s->lines);
}

static int no_memory(const struct source *s, struct memoc_err *err)
{
	return memoc_err_set(err, -ENOMEM, "%s: out of memory while reading it", s->name);
}

/* Members of a gzip file may follow each other. Takes from `packed`, gives to out; 0 bytes given is fine. */
static int gzip_step(struct source *s, char *out, size_t room, size_t *ret_given, struct memoc_err *err)
{
	int z;

	if (s->stream_end) {
		if (s->packed_end)
			return 0;
		if (inflateReset(&s->gzip) != Z_OK)
			return damaged(s, err);
		s->stream_end = false;
	}
	s->gzip.next_in = s->packed + s->packed_at;
	s->gzip.avail_in = (uInt)(s->packed_n - s->packed_at);
	s->gzip.next_out = (Bytef *)out;
	s->gzip.avail_out = (uInt)room;
	z = inflate(&s->gzip, Z_NO_FLUSH);
	s->packed_at = s->packed_n - s->gzip.avail_in;
	*ret_given = room - s->gzip.avail_out;
	if (z == Z_MEM_ERROR)
		return no_memory(s, err);
	if (z == Z_BUF_ERROR && s->packed_end) /* what it had kept for want of room has been given, too */
		return cut_off(s, err);
	if (z != Z_OK && z != Z_STREAM_END)
		return damaged(s, err);
	s->stream_end = z == Z_STREAM_END;
	return 0;
}

static int xz_step(struct source *s, char *out, size_t room, size_t *ret_given, struct memoc_err *err)
{
	lzma_ret l;

	s->xz.next_in = s->packed + s->packed_at;
	s->xz.avail_in = s->packed_n - s->packed_at;
	s->xz.next_out = (uint8_t *)out;
	s->xz.avail_out = room;
	l = lzma_code(&s->xz, s->packed_end ? LZMA_FINISH : LZMA_RUN);
	s->packed_at = s->packed_n - s->xz.avail_in;
	*ret_given = room - s->xz.avail_out;
	if (l == LZMA_OK || l == LZMA_STREAM_END) {
		s->stream_end = l == LZMA_STREAM_END;
		return 0;
	}
	if (l == LZMA_MEM_ERROR)
		return no_memory(s, err);
	if (l == LZMA_MEMLIMIT_ERROR)
		return memoc_err_set(err, -E2BIG, "%s: unpacking it needs more than %u MiB; pack it with xz -9 or less",
				     s->name, (unsigned)(XZ_MEMORY_BYTES / MIB));
	return l == LZMA_BUF_ERROR ? cut_off(s, err) : damaged(s, err);
}

static int plain_step(struct source *s, char *out, size_t room, size_t *ret_given)
{
	*ret_given = s->packed_n - s->packed_at < room ? s->packed_n - s->packed_at : room;
	memcpy(out, s->packed + s->packed_at, *ret_given);
	s->packed_at += *ret_given;
	return 0;
}

/* Unpacks something into the free part of `text`, after moving what is left to its front; sets `end`. */
static int unpack(struct source *s, struct memoc_err *err)
{
	int r = 0;

	memmove(s->text, s->text + s->at, s->n - s->at);
	s->n -= s->at;
	s->at = 0;
	for (size_t given = 0; given == 0 && !s->end && r == 0; s->n += given) {
		char *out = s->text + s->n;
		size_t room = sizeof(s->text) - s->n;

		r = refill(s, err);
		if (r < 0)
			break;
		if (s->packing == GZIP)
			r = gzip_step(s, out, room, &given, err);
		else if (s->packing == XZ)
			r = xz_step(s, out, room, &given, err);
		else
			r = plain_step(s, out, room, &given);
		s->end = s->packing == XZ || (s->packed_end && s->packed_at == s->packed_n);
		s->end = s->end && (s->packing == PLAIN || s->stream_end);
	}
	return r;
}

/* What the first bytes say; `packed` holds them unless the file ends before. */
static int detect(struct source *s, struct memoc_err *err)
{
	static const unsigned char gzip_magic[] = {0x1f, 0x8b}, xz_magic[] = {0xfd, '7', 'z', 'X', 'Z', 0};

	s->packing = PLAIN;
	if (s->packed_n >= sizeof(gzip_magic) && memcmp(s->packed, gzip_magic, sizeof(gzip_magic)) == 0) {
		if (inflateInit2(&s->gzip, MAX_WBITS + 16) != Z_OK)
			return no_memory(s, err);
		s->packing = GZIP;
	} else if (s->packed_n >= sizeof(xz_magic) && memcmp(s->packed, xz_magic, sizeof(xz_magic)) == 0) {
		if (lzma_stream_decoder(&s->xz, XZ_MEMORY_BYTES, LZMA_CONCATENATED) != LZMA_OK)
			return no_memory(s, err);
		s->packing = XZ;
	}
	return 0;
}

/* A pipe may give its first bytes one by one. */
static int read_magic(struct source *s, struct memoc_err *err)
{
	while (s->packed_n < 6 && !s->packed_end) {
		ssize_t got = read(s->fd, s->packed + s->packed_n, sizeof(s->packed) - s->packed_n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return memoc_err_set(err, -errno, "%s: cannot be read: %s", s->name, strerror(errno));
		s->packed_n += (size_t)got;
		s->packed_end = got == 0;
	}
	return 0;
}

static void skip_byte_order_mark(struct source *s)
{
	if (s->n - s->at >= 3 && memcmp(s->text + s->at, "\xef\xbb\xbf", 3) == 0)
		s->at += 3;
}

int source_new(int fd, const char *name, struct source **ret, struct memoc_err *err)
{
	struct source *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return memoc_err_set(err, -ENOMEM, "%s: out of memory", name);
	s->fd = fd;
	s->name = name;
	r = read_magic(s, err);
	if (r == 0)
		r = detect(s, err);
	while (r == 0 && s->n < 3 && !s->end)
		r = unpack(s, err);
	if (r < 0) {
		source_free(s);
		return r;
	}
	skip_byte_order_mark(s);
	*ret = s;
	return 0;
}

struct source *source_free(struct source *s)
{
	if (!s)
		return NULL;
	if (s->packing == GZIP)
		inflateEnd(&s->gzip);
	if (s->packing == XZ)
		lzma_end(&s->xz);
	free(s);
	return NULL;
}

/* The rest of a line of which TRACE_LINE_MAX bytes were seen is let go; those stay where they are, at the front. */
static int skip_rest(struct source *s, struct memoc_err *err)
{
	int r = 0;

	if (s->at > 0) /* the front is where unpack() leaves it alone */
		memmove(s->text, s->text + s->at, s->n - s->at);
	s->n -= s->at;
	s->at = 0;
	for (;;) {
		char *rest = s->text + TRACE_LINE_MAX, *newline = memchr(rest, '\n', s->n - TRACE_LINE_MAX);

		if (newline) {
			s->at = (size_t)(newline + 1 - s->text);
			return 0;
		}
		s->n = TRACE_LINE_MAX;
		if (s->end) {
			s->at = s->n;
			return 0;
		}
		r = unpack(s, err);
		if (r < 0)
			return r;
	}
}

int source_line(struct source *s, struct source_line *ret, struct memoc_err *err)
{
	for (;;) {
		char *begin = s->text + s->at, *newline = memchr(begin, '\n', s->n - s->at);
		size_t len = newline ? (size_t)(newline - begin) : s->n - s->at;
		struct source_line line = {.text = begin, .len = len, .number = s->lines + 1};
		int r;

		if (len > TRACE_LINE_MAX) {
			r = skip_rest(s, err);
			if (r < 0)
				return r;
			line.text = s->text;
			line.len = TRACE_LINE_MAX;
			line.overlong = true;
		} else if (newline) {
			s->at += len + 1;
		} else if (!s->end) {
			r = unpack(s, err);
			if (r < 0)
				return r;
			continue;
		} else if (len > 0) {
			s->at = s->n;
		} else {
			return 0;
		}
		if (line.len && line.text[line.len - 1] == '\r')
			line.len--;
		s->lines++;
		*ret = line;
		return 1;
	}
}
