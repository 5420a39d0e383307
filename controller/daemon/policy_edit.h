/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing some keys of a VM's policy where others may change it too: what is there is read, changed and written as
 * one, and done again on top of what somebody else wrote meanwhile. libvirt can only replace the whole element, without
 * asking what it replaces: what is written between our last look and our writing (under 1 ms) is lost unseen. memocd's
 * own changes of one VM never meet: they run in the VM's lane. Blocking; any thread.
 */
#ifndef MEMOC_DAEMON_POLICY_EDIT_H
#define MEMOC_DAEMON_POLICY_EDIT_H

#include "common/domxml.h"

/* Keys that a call names. */
struct policy_keys {
	struct vmpolicy values; /* the new values of the keys, all others at their defaults */
	uint32_t keys;		/* bit i: vmpolicy_keys[i] */
};
/* −EINVAL or −ERANGE, as vmpolicy_set. */
int policy_keys_add(struct policy_keys *k, const char *key, const char *value, struct memoc_err *err);

/* Where policies lie: config = false is the running VM's XML, true its persistent one. 0 or −errno with err. */
struct policy_store {
	void *user;
	int (*read)(void *user, bool config, struct dom_facts *ret, struct memoc_err *err);
	int (*write)(void *user, bool config, const struct vmpolicy *policy, struct memoc_err *err);
};

#define POLICY_EDIT_TRIES 20

/*
 * Writes the keys into the live XML, the persistent one, or both; each keeps its own values of the other keys, and a
 * refused policy there is replaced by last_good with the keys. Everything that can be refused (−EINVAL: the outcome
 * contradicts itself or the VM's memory) is found before anything is written. −EAGAIN: others kept changing it.
 * *ret (of the live XML if that was written) is what is there now.
 */
int policy_edit(const struct policy_store *store, const struct policy_keys *k, const struct vmpolicy *last_good,
		bool live, bool config, struct dom_facts *ret, struct memoc_err *err);

#endif
