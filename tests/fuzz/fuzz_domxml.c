/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libFuzzer target: any bytes as domain XML and as a policy element; what is accepted must hold together. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/domxml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

/* A policy that was accepted can be written and comes back the same. */
static void check_policy(const struct vmpolicy *p)
{
	char *xml AUTO_FREE = NULL;
	struct vmpolicy back;

	require(vmpolicy_check(p, 0, NULL) == 0);
	require(vmpolicy_to_xml(p, &xml) == 0);
	require(domxml_parse_policy(xml, strlen(xml), &back, NULL) == 0);
	require(back.min_bytes == p->min_bytes && back.max_bytes == p->max_bytes && back.weight == p->weight);
	require(back.managed == p->managed && back.balloon == p->balloon && back.swap == p->swap);
}

static void check_facts(const struct dom_facts *f)
{
	require(strnlen(f->name, sizeof(f->name)) < sizeof(f->name) && f->name[0]);
	require(strnlen(f->uuid, sizeof(f->uuid)) == UUID_TEXT_LEN);
	require(f->max_bytes > 0 && f->max_bytes <= INT64_MAX && f->current_bytes <= f->max_bytes);
	require(f->vcpus > 0 && f->tb_cache_bytes <= INT64_MAX);
	require(f->ineligible >= DOM_ELIGIBLE && f->ineligible <= DOM_UNMANAGED);
	require(strnlen(f->ineligible_detail, sizeof(f->ineligible_detail)) < sizeof(f->ineligible_detail));
	require((f->ineligible == DOM_ELIGIBLE) == !*dom_ineligible_text(f->ineligible));
	require(f->policy_bad == !!f->policy_err.text[0]);
	require(vmpolicy_check(&f->policy, f->max_bytes, NULL) == 0);
	check_policy(&f->policy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct memoc_err err = {""};
	struct dom_facts f;
	struct vmpolicy p;
	int r = domxml_parse((const char *)data, size, &f, &err);

	if (r == 0)
		check_facts(&f);
	else
		require(r < 0 && err.text[0] && !strchr(err.text, '\n'));
	err.text[0] = '\0';
	r = domxml_parse_policy((const char *)data, size, &p, &err);
	if (r == 0)
		check_policy(&p);
	else
		require(r < 0 && err.text[0]);
	return 0;
}
