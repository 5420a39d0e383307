/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/daemon/policy_edit.h"

#include <errno.h>
#include <string.h>

#define VALUE_LEN 64

/* One of the two XMLs while it is being changed. */
struct side {
	bool wanted, config;
	struct vmpolicy found, wants; /* what is there; what is to be there */
	bool found_bad;
	struct dom_facts facts;
};

static bool same(const struct vmpolicy *a, const struct vmpolicy *b)
{
	char va[VALUE_LEN], vb[VALUE_LEN];

	for (const struct vmpolicy_key *k = vmpolicy_keys; k->name; k++) {
		if (vmpolicy_get(a, k->name, va, sizeof(va)) < 0 || vmpolicy_get(b, k->name, vb, sizeof(vb)) < 0)
			return false;
		if (strcmp(va, vb) != 0)
			return false;
	}
	return true;
}

int policy_keys_add(struct policy_keys *k, const char *key, const char *value, struct memoc_err *err)
{
	int r = vmpolicy_set(&k->values, key, value, err);

	for (size_t i = 0; r == 0 && vmpolicy_keys[i].name; i++)
		if (strcmp(vmpolicy_keys[i].name, key) == 0)
			k->keys |= UINT32_C(1) << i;
	return r;
}

static int put_keys(struct vmpolicy *p, const struct policy_keys *k, struct memoc_err *err)
{
	char value[VALUE_LEN];
	int r = 0;

	for (size_t i = 0; r == 0 && vmpolicy_keys[i].name; i++) {
		if (!(k->keys & UINT32_C(1) << i))
			continue;
		r = vmpolicy_get(&k->values, vmpolicy_keys[i].name, value, sizeof(value));
		if (r == 0)
			r = vmpolicy_set(p, vmpolicy_keys[i].name, value, err);
	}
	return r;
}

static int look(const struct policy_store *store, struct side *s, struct memoc_err *err)
{
	return store->read(store->user, s->config, &s->facts, err);
}

static int plan(const struct policy_store *store, struct side *s, const struct policy_keys *k,
		const struct vmpolicy *last_good, struct memoc_err *err)
{
	int r = look(store, s, err);

	if (r < 0)
		return r;
	s->found = s->facts.policy;
	s->found_bad = s->facts.policy_bad;
	s->wants = s->found_bad ? *last_good : s->found;
	r = put_keys(&s->wants, k, err);
	return r < 0 ? r : vmpolicy_check(&s->wants, s->facts.max_bytes, err);
}

/* 0: it is there; −EAGAIN: somebody changed it before or after. */
static int put(const struct policy_store *store, struct side *s, struct memoc_err *err)
{
	int r = look(store, s, err);

	if (r < 0)
		return r;
	if (s->facts.policy_bad != s->found_bad || !same(&s->facts.policy, &s->found))
		return -EAGAIN;
	r = store->write(store->user, s->config, &s->wants, err);
	if (r == 0)
		r = look(store, s, err);
	if (r < 0)
		return r;
	return s->facts.policy_bad || !same(&s->facts.policy, &s->wants) ? -EAGAIN : 0;
}

int policy_edit(const struct policy_store *store, const struct policy_keys *k, const struct vmpolicy *last_good,
		bool live, bool config, struct dom_facts *ret, struct memoc_err *err)
{
	struct side sides[] = {{.wanted = live}, {.wanted = config, .config = true}};
	int r = -EAGAIN;

	for (unsigned tries = 0; r == -EAGAIN && tries < POLICY_EDIT_TRIES; tries++) {
		r = 0;
		for (size_t i = 0; r == 0 && i < ARRAY_SIZE(sides); i++)
			r = sides[i].wanted ? plan(store, &sides[i], k, last_good, err) : 0;
		for (size_t i = 0; r == 0 && i < ARRAY_SIZE(sides); i++)
			r = sides[i].wanted ? put(store, &sides[i], err) : 0;
	}
	if (r == -EAGAIN)
		return memoc_err_set(err, r, "others change its policy all the time: try again when they have done");
	if (r == 0)
		*ret = sides[live ? 0 : 1].facts;
	return r;
}
