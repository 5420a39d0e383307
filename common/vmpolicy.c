/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One list of attributes (POLICY_ATTRS) makes both the public table of keys and the private table of where and how
 * each is kept: a key that is added there is read, written, checked and shown in help everywhere.
 */
#include "common/vmpolicy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/parse.h"

/* A smaller size is a unit that was forgotten ("512" is bytes), and no guest runs in it. */
#define POLICY_SIZE_MIN MIB
#define POLICY_WEIGHT_MIN 1
#define POLICY_WEIGHT_MAX 10000
#define POLICY_VALUE_LEN 32 /* the longest is 20 digits of a size that is no multiple of 1 KiB */

#define FORM_BOOL "yes or no"
#define FORM_SIZE "a size of 1M or more, such as 512M or 1.5G"
#define FORM_WEIGHT "a whole number from 1 to 10000"

/* field, kind, accepted form, help; the key's name is the field's without its unit */
#define POLICY_ATTRS(X)                                                                                                \
	X("managed", managed, KIND_BOOL, FORM_BOOL, "whether memoc resizes this VM at all (default yes)")              \
	X("min", min_bytes, KIND_SIZE, FORM_SIZE, "guaranteed memory; empty: the default share of the VM's memory")    \
	X("max", max_bytes, KIND_SIZE, FORM_SIZE, "memory it may have at most; empty: all of the VM's memory")         \
	X("weight", weight, KIND_WEIGHT, FORM_WEIGHT, "its share against other VMs in need (default 100)")             \
	X("balloon", balloon, KIND_BOOL, FORM_BOOL, "whether its balloon may be used (default yes)")                   \
	X("swap", swap, KIND_BOOL, FORM_BOOL, "whether the host may swap out its memory (default yes)")

enum attr_kind { KIND_BOOL = 1, KIND_SIZE, KIND_WEIGHT };

struct attr {
	enum attr_kind kind;
	size_t offset; /* of the field in struct vmpolicy */
};

#define AS_KEY(key, field, kind, form, help) {key, form, help},
#define AS_ATTR(key, field, kind, form, help) {kind, offsetof(struct vmpolicy, field)},

const struct vmpolicy_key vmpolicy_keys[] = {POLICY_ATTRS(AS_KEY){NULL, NULL, NULL}};
static const struct attr attrs[] = {POLICY_ATTRS(AS_ATTR)};

struct vmpolicy vmpolicy_default(void)
{
	return (struct vmpolicy){.managed = true, .weight = 100, .balloon = true, .swap = true};
}

/* Index into both tables, or −1. */
static int attr_find(const char *key)
{
	for (size_t i = 0; i < ARRAY_SIZE(attrs); i++)
		if (!strcmp(vmpolicy_keys[i].name, key))
			return (int)i;
	return -1;
}

static void *field_of(struct vmpolicy *p, size_t i)
{
	return (char *)p + attrs[i].offset;
}

static int unknown_key(const char *key, struct memoc_err *err)
{
	char known[128] = "";

	for (const struct vmpolicy_key *k = vmpolicy_keys; k->name; k++) {
		size_t used = strlen(known);
		snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "", k->name);
	}
	return memoc_err_set(err, -EINVAL, "no policy is called \"%.64s\"; there are %s", key, known);
}

static int set_bool(bool *field, const char *value)
{
	return parse_bool(value, field, NULL);
}

static int set_size(uint64_t *field, const char *value)
{
	uint64_t bytes;
	int r = parse_size_bytes(value, &bytes, NULL);

	if (r < 0)
		return r;
	/* The varlink interface carries sizes as signed 64-bit integers. */
	if (bytes < POLICY_SIZE_MIN || bytes > INT64_MAX)
		return -ERANGE;
	*field = bytes;
	return 0;
}

static int set_weight(uint32_t *field, const char *value)
{
	uint64_t weight;
	int r = parse_u64(value, &weight, NULL);

	if (r < 0)
		return r;
	if (weight < POLICY_WEIGHT_MIN || weight > POLICY_WEIGHT_MAX)
		return -ERANGE;
	*field = (uint32_t)weight;
	return 0;
}

static void reset_attr(struct vmpolicy *p, size_t i)
{
	struct vmpolicy def = vmpolicy_default();

	switch (attrs[i].kind) {
	case KIND_BOOL:
		*(bool *)field_of(p, i) = *(bool *)field_of(&def, i);
		break;
	case KIND_SIZE:
		*(uint64_t *)field_of(p, i) = *(uint64_t *)field_of(&def, i);
		break;
	case KIND_WEIGHT:
		*(uint32_t *)field_of(p, i) = *(uint32_t *)field_of(&def, i);
		break;
	}
}

int vmpolicy_set(struct vmpolicy *p, const char *key, const char *value, struct memoc_err *err)
{
	int r = 0, i = attr_find(key);

	if (i < 0)
		return unknown_key(key, err);
	if (!*value) {
		reset_attr(p, (size_t)i);
		return 0;
	}
	switch (attrs[i].kind) {
	case KIND_BOOL:
		r = set_bool(field_of(p, (size_t)i), value);
		break;
	case KIND_SIZE:
		r = set_size(field_of(p, (size_t)i), value);
		break;
	case KIND_WEIGHT:
		r = set_weight(field_of(p, (size_t)i), value);
		break;
	}
	if (r < 0)
		return memoc_err_set(err, r, "%s=\"%.64s\" is %s: give %s", key, value,
				     r == -ERANGE ? "out of range" : "not understood", vmpolicy_keys[i].form);
	return 0;
}

/* The largest unit that gives a whole number, so that reading it back gives the same bytes. */
static void size_text(uint64_t bytes, char buf[POLICY_VALUE_LEN])
{
	static const char units[] = {'\0', 'K', 'M', 'G', 'T', 'P', 'E'};
	size_t u = 0;

	while (bytes && u + 1 < sizeof(units) && bytes % 1024 == 0) {
		bytes /= 1024;
		u++;
	}
	snprintf(buf, POLICY_VALUE_LEN, "%" PRIu64 "%.1s", bytes, &units[u]);
}

static void attr_text(const struct vmpolicy *p, size_t i, char buf[POLICY_VALUE_LEN])
{
	const void *field = (const char *)p + attrs[i].offset;

	buf[0] = '\0';
	switch (attrs[i].kind) {
	case KIND_BOOL:
		snprintf(buf, POLICY_VALUE_LEN, "%s", *(const bool *)field ? "yes" : "no");
		break;
	case KIND_SIZE:
		if (*(const uint64_t *)field)
			size_text(*(const uint64_t *)field, buf);
		break;
	case KIND_WEIGHT:
		snprintf(buf, POLICY_VALUE_LEN, "%" PRIu32, *(const uint32_t *)field);
		break;
	}
}

int vmpolicy_get(const struct vmpolicy *p, const char *key, char *buf, size_t len)
{
	char text[POLICY_VALUE_LEN];
	int i = attr_find(key);

	if (i < 0)
		return -EINVAL;
	attr_text(p, (size_t)i, text);
	if (strlen(text) >= len)
		return -ENOSPC;
	memcpy(buf, text, strlen(text) + 1);
	return 0;
}

int vmpolicy_check(const struct vmpolicy *p, uint64_t vm_max_bytes, struct memoc_err *err)
{
	char min[POLICY_VALUE_LEN], max[POLICY_VALUE_LEN], have[FORMAT_SIZE_LEN];

	size_text(p->min_bytes, min);
	size_text(p->max_bytes, max);
	if (p->weight < POLICY_WEIGHT_MIN || p->weight > POLICY_WEIGHT_MAX)
		return memoc_err_set(err, -EINVAL, "weight=\"%" PRIu32 "\" is out of range: give " FORM_WEIGHT,
				     p->weight);
	if (p->max_bytes && p->min_bytes > p->max_bytes)
		return memoc_err_set(err, -EINVAL, "min=\"%s\" is above max=\"%s\": lower min or raise max", min, max);
	if (vm_max_bytes && p->min_bytes > vm_max_bytes)
		return memoc_err_set(err, -EINVAL, "min=\"%s\" is above the VM's memory of %s: lower min", min,
				     format_size(have, vm_max_bytes));
	if (vm_max_bytes && p->max_bytes > vm_max_bytes)
		return memoc_err_set(err, -EINVAL,
				     "max=\"%s\" is above the VM's memory of %s: lower max, or leave it out", max,
				     format_size(have, vm_max_bytes));
	return 0;
}

int vmpolicy_to_xml(const struct vmpolicy *p, char **ret_xml)
{
	const struct vmpolicy def = vmpolicy_default();
	char buf[ARRAY_SIZE(attrs) * (POLICY_VALUE_LEN + 16) + 32]; /* ` name="value"` each; no value needs escaping */
	size_t used = (size_t)snprintf(buf, sizeof(buf), "<" VMPOLICY_ELEMENT);
	char *xml;

	for (size_t i = 0; i < ARRAY_SIZE(attrs); i++) {
		char text[POLICY_VALUE_LEN], def_text[POLICY_VALUE_LEN];

		attr_text(p, i, text);
		attr_text(&def, i, def_text);
		if (strcmp(text, def_text) != 0)
			used += (size_t)snprintf(buf + used, sizeof(buf) - used, " %s=\"%s\"", vmpolicy_keys[i].name,
						 text);
	}
	snprintf(buf + used, sizeof(buf) - used, "/>");
	xml = strdup(buf);
	if (!xml)
		return -ENOMEM;
	*ret_xml = xml;
	return 0;
}
