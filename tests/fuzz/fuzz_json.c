/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whatever json_parse takes is within its limits and comes back the same from writing and parsing it again. */
#include <string.h>

#include "common/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct json_limits limits = {.bytes = 65536, .depth = 16, .nodes = 2000};

static void check(bool good)
{
	if (!good)
		abort();
}

static char *write_tree(const struct json *j, bool pretty)
{
	struct json_writer *w = jw_new(pretty);
	char *text = NULL;

	jw_json(w, NULL, j);
	check(jw_finish(w, &text, NULL) == 0);
	return text;
}

static size_t count(const struct json *j, unsigned depth)
{
	bool container = json_type(j) == JSON_ARRAY || json_type(j) == JSON_OBJECT;
	size_t n = 1;

	check(!container || depth < limits.depth);
	for (size_t i = 0; i < json_len(j); i++) {
		const char *key = json_key_at(j, i);

		check((key != NULL) == (json_type(j) == JSON_OBJECT));
		check(!key || json_get(j, key) == json_at(j, i));
		n += (key != NULL) + count(json_at(j, i), depth + 1);
	}
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct json *j AUTO_JSON = NULL, *again AUTO_JSON = NULL;
	char *text AUTO_FREE = NULL, *text_again AUTO_FREE = NULL;
	struct memoc_err err = {0};

	if (json_parse((const char *)data, size, &limits, &j, &err) < 0) {
		check(!j && err.text[0] && !strchr(err.text, '\n'));
		return 0;
	}
	check(count(j, 0) <= limits.nodes);
	text = write_tree(j, size & 1);
	check(json_parse(text, strlen(text), NULL, &again, &err) == 0);
	text_again = write_tree(again, size & 1);
	check(strcmp(text, text_again) == 0);
	return 0;
}
