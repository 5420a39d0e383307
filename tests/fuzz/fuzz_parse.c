/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every strict parser on any text: a result within its range, or an error of one line and an untouched output. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "common/parse.h"
#include "common/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
	if (!good)
		abort();
}

static bool accepted(int r, struct memoc_err *err)
{
	check(r == 0 || ((r == -EINVAL || r == -ERANGE) && err->text[0]));
	for (const char *c = err->text; *c; c++)
		check((unsigned char)*c >= 0x20 && *c != 0x7f);
	check(text_utf8_valid_len(err->text, strlen(err->text)) == strlen(err->text));
	*err = (struct memoc_err){0};
	return r == 0;
}

/* A size that is read is shown, and digits read back as themselves. */
static void try_sizes(const char *text)
{
	static const uint64_t untouched = 0x5ca1ab1e;
	struct memoc_err err = {0};
	char buf[FORMAT_SIZE_LEN];
	uint64_t v = untouched;
	struct size_spec spec;

	if (accepted(parse_u64(text, &v, &err), &err))
		check(strlen(format_duration(buf, v)) < FORMAT_SIZE_LEN);
	else
		check(v == untouched);
	v = untouched;
	if (accepted(parse_size_bytes(text, &v, &err), &err)) {
		check(accepted(parse_size_spec(text, false, false, &spec, &err), &err) && spec.bytes == v);
		check(strlen(format_size(buf, v)) < FORMAT_SIZE_LEN);
	} else {
		check(v == untouched);
	}
	v = untouched;
	check(accepted(parse_duration_ms(text, &v, &err), &err) || v == untouched);
	if (accepted(parse_size_spec(text, true, true, &spec, &err), &err))
		check(spec.kind != SIZE_RATIO || (spec.ratio >= 0 && spec.ratio <= 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	char uuid[UUID_TEXT_LEN + 1], again[UUID_TEXT_LEN + 1];
	struct memoc_err err = {0};
	double d;
	bool b;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	try_sizes(text);
	if (accepted(parse_double(text, &d, &err), &err))
		check(isfinite(d));
	if (accepted(parse_percent(text, &d, &err), &err))
		check(d >= 0 && d <= 1);
	accepted(parse_bool(text, &b, &err), &err);
	if (accepted(parse_uuid(text, uuid, &err), &err))
		check(parse_uuid(uuid, again, &err) == 0 && strcmp(uuid, again) == 0);
	free(text);
	return 0;
}
