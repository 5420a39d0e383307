/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Any bytes as a recording: replayed, or refused with a line of text. The first byte says how: even: the rest is a
 * file, of this layout where the byte has bit 1; odd: it is the records of frames (divided at each 0xfe 0xfd), which
 * get a good file header and good checksums, so that what is behind those is reached at all.
 */
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "controller/record/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int on_step(void *user, const struct replay *r, const struct replay_step *s)
{
	if (s->out->n > s->out->capacity || strlen(s->vm) >= DOMXML_NAME_MAX)
		abort();
	return 0;
}

static void put_frame(struct bytes *b, const uint8_t *data, size_t size)
{
	put_u32(b, (uint32_t)size);
	put_u32(b, (uint32_t)crc32(crc32(0, NULL, 0), data, (uInt)size));
	put_bytes(b, data, size);
}

static void make_file(struct bytes *b, const uint8_t *data, size_t size)
{
	size_t from = 0;
	put_bytes(b, RECORD_MAGIC, RECORD_MAGIC_LEN);
	put_u32(b, RECORD_VERSION);
	put_u32(b, layout_fingerprint());
	for (size_t i = 0; i + 1 < size; i++) {
		if (data[i] != 0xfe || data[i + 1] != 0xfd)
			continue;
		put_frame(b, data + from, i - from);
		from = i + 2;
	}
	put_frame(b, data + from, size - from);
}

/* A seed that was recorded is of the layout of its time, and would be refused at once. */
static void set_layout(struct bytes *b)
{
	struct bytes head = {.most = FRAME_LEN_MAX};

	put_u32(&head, RECORD_VERSION);
	put_u32(&head, layout_fingerprint());
	if (b->n >= RECORD_MAGIC_LEN + head.n)
		memcpy(b->data + RECORD_MAGIC_LEN, head.data, head.n);
	bytes_free(&head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct replay_hooks hooks = {.step = on_step};
	struct bytes b = {.most = FRAME_LEN_MAX};
	struct memoc_err err = {0};
	struct replay *r = NULL;

	if (size < 2 || replay_new(&hooks, &r) < 0)
		return 0;
	if (data[0] & 1)
		make_file(&b, data + 1, size - 1);
	else
		put_bytes(&b, data + 1, size - 1);
	if (!(data[0] & 1) && data[0] & 2)
		set_layout(&b);
	FILE *f = b.n ? fmemopen(b.data, b.n, "r") : NULL;
	int result = f ? replay_file(r, f, "fuzz", &err) : 0;
	if (result < 0 && !err.text[0])
		abort();
	if (result == 1 && !replay_totals(r)->differs)
		abort();
	if (f)
		fclose(f);
	replay_free(r);
	bytes_free(&b);
	return 0;
}
