/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/domjson.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum member_kind { MEMBER_U64 = 1, MEMBER_U32, MEMBER_BOOL };

static const struct member {
	const char *name;
	enum member_kind kind;
	size_t offset; /* of the field in struct dom_facts */
} members[] = {
	{"max_bytes", MEMBER_U64, offsetof(struct dom_facts, max_bytes)},
	{"current_bytes", MEMBER_U64, offsetof(struct dom_facts, current_bytes)},
	{"vcpus", MEMBER_U32, offsetof(struct dom_facts, vcpus)},
	{"has_balloon", MEMBER_BOOL, offsetof(struct dom_facts, has_balloon)},
	{"free_page_reporting", MEMBER_BOOL, offsetof(struct dom_facts, free_page_reporting)},
	{"stats_period_s", MEMBER_U32, offsetof(struct dom_facts, stats_period_s)},
	{"shared_memory", MEMBER_BOOL, offsetof(struct dom_facts, shared_memory)},
	{"tcg", MEMBER_BOOL, offsetof(struct dom_facts, tcg)},
	{"tb_cache_bytes", MEMBER_U64, offsetof(struct dom_facts, tb_cache_bytes)},
};

/* ---- writing ---- */

static void write_policy(struct json_writer *w, const struct dom_facts *f)
{
	char value[64];

	if (f->policy_bad) {
		jw_str(w, "policy_error", f->policy_err.text);
		return;
	}
	jw_object(w, "policy");
	for (const struct vmpolicy_key *k = vmpolicy_keys; k->name; k++)
		if (vmpolicy_get(&f->policy, k->name, value, sizeof(value)) == 0 && *value)
			jw_str(w, k->name, value);
	jw_end(w);
}

void domjson_write(struct json_writer *w, const struct dom_facts *f)
{
	struct memoc_err why = {""};

	jw_str(w, "uuid", f->uuid);
	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		const void *field = (const char *)f + members[i].offset;

		if (members[i].kind == MEMBER_U64)
			jw_u64(w, members[i].name, *(const uint64_t *)field);
		else if (members[i].kind == MEMBER_U32)
			jw_u64(w, members[i].name, *(const uint32_t *)field);
		else
			jw_bool(w, members[i].name, *(const bool *)field);
	}
	if (f->policy.min_bytes)
		jw_u64(w, "min_bytes", f->policy.min_bytes);
	write_policy(w, f);
	jw_bool(w, "eligible", f->ineligible == DOM_ELIGIBLE);
	if (f->ineligible == DOM_ELIGIBLE)
		return;
	memoc_err_set(&why, 0, "%s (%s)", dom_ineligible_text(f->ineligible), f->ineligible_detail);
	jw_str(w, "ineligible_reason", why.text);
	jw_str(w, "ineligible", dom_ineligible_name(f->ineligible));
	jw_str(w, "ineligible_detail", f->ineligible_detail);
}

/* ---- reading ---- */

static int wrong(const char *name, const char *why, struct memoc_err *err)
{
	return memoc_err_set(err, -EINVAL, "%s %s", name, why);
}

static int read_member(const struct json *p, const struct member *m, struct dom_facts *f, struct memoc_err *err)
{
	void *field = (char *)f + m->offset;
	uint64_t number;
	int r;

	if (m->kind == MEMBER_BOOL)
		return json_get_bool(p, m->name, field) == -EINVAL ? wrong(m->name, "is neither true nor false", err)
								   : 0;
	r = json_get_u64(p, m->name, &number);
	if (r == -ENOENT)
		return 0;
	if (r < 0 || number > (m->kind == MEMBER_U64 ? (uint64_t)INT64_MAX : UINT32_MAX))
		return wrong(m->name, "is no number that it can be", err);
	if (m->kind == MEMBER_U64)
		*(uint64_t *)field = number;
	else
		*(uint32_t *)field = (uint32_t)number;
	return 0;
}

static int read_ineligible(const struct json *p, struct dom_facts *f, struct memoc_err *err)
{
	const char *name, *detail = "";
	int r = json_get_str(p, "ineligible", &name);

	f->ineligible = DOM_ELIGIBLE;
	if (r == -ENOENT)
		return 0;
	f->ineligible = r == 0 ? dom_ineligible_by_name(name) : 0;
	if (!f->ineligible)
		return wrong("ineligible", "is no reason that is known here", err);
	if (json_get_str(p, "ineligible_detail", &detail) == -EINVAL)
		return wrong("ineligible_detail", "is no text", err);
	snprintf(f->ineligible_detail, sizeof(f->ineligible_detail), "%s", detail);
	return 0;
}

/* As domxml's read_policy: the whole policy or the default with the reason. */
static void read_policy(const struct json *p, struct dom_facts *f)
{
	const struct json *values = json_get(p, "policy");
	struct vmpolicy policy = vmpolicy_default();
	const char *text;
	int r = 0;

	f->policy = policy;
	if (json_get_str(p, "policy_error", &text) == 0)
		r = memoc_err_set(&f->policy_err, -EINVAL, "%s", text);
	else if (values && json_type(values) != JSON_OBJECT && json_type(values) != JSON_NULL)
		r = wrong("policy", "is no object", &f->policy_err);
	for (size_t i = 0; r == 0 && i < json_len(values); i++) {
		const char *key = json_key_at(values, i);

		r = json_str(json_at(values, i), &text) < 0 ? wrong(key, "must have text for its value", &f->policy_err)
							    : vmpolicy_set(&policy, key, text, &f->policy_err);
	}
	if (r == 0)
		r = vmpolicy_check(&policy, f->max_bytes, &f->policy_err);
	if (r == 0)
		f->policy = policy;
	f->policy_bad = r < 0;
}

int domjson_read(const struct json *parameters, struct dom_facts *ret, struct memoc_err *err)
{
	struct dom_facts f = {.vcpus = 1};
	const char *uuid;
	int r;

	if (json_type(json_get(parameters, "max_bytes")) == JSON_NULL || !json_get(parameters, "max_bytes"))
		return -ENOENT;
	if (json_get_str(parameters, "uuid", &uuid) < 0 || parse_uuid(uuid, f.uuid, NULL) < 0)
		return wrong("uuid", "is no UUID", err);
	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		r = read_member(parameters, &members[i], &f, err);
		if (r < 0)
			return r;
	}
	if (!f.max_bytes)
		return wrong("max_bytes", "is 0", err);
	if (!json_get(parameters, "current_bytes") || f.current_bytes > f.max_bytes)
		f.current_bytes = f.max_bytes;
	r = read_ineligible(parameters, &f, err);
	if (r < 0)
		return r;
	read_policy(parameters, &f);
	*ret = f;
	return 0;
}
