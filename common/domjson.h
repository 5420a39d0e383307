/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is known of a domain (struct dom_facts) as members of org.memoc.Hook.Notify: written by the hook, read by
 * memocd. One list of members here serves both, so that neither can forget what the other tells.
 */
#ifndef MEMOC_COMMON_DOMJSON_H
#define MEMOC_COMMON_DOMJSON_H

#include "common/domxml.h"
#include "common/json.h"

/* Members of the object that is open in w. Not the name: that is libvirt's argument. */
void domjson_write(struct json_writer *w, const struct dom_facts *f);
/*
 * The same from a message, which is not trusted. −ENOENT: nothing of it is there; −EINVAL: err names the member that is
 * wrong and why, ret is untouched. A policy that is refused (by whoever wrote it, or here) is no such error: it is in
 * policy_bad and policy_err as domxml_parse has it. The name is left empty.
 */
int domjson_read(const struct json *parameters, struct dom_facts *ret, struct memoc_err *err);

#endif
