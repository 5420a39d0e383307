/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What memocd remembers over its own death: STATE_DIR/state.json, written whole and atomically (temporary file, fsync,
 * rename). A damaged or foreign file is put aside as state.json.bad, said once, and the daemon goes on with what it
 * finds.
 */
#ifndef MEMOC_DAEMON_STATE_H
#define MEMOC_DAEMON_STATE_H

#include <sys/types.h>

#include "common/parse.h"
#include "controller/core/types.h"

struct state_vm {
	char uuid[UUID_TEXT_LEN + 1];
	char name[256];
	pid_t pid; /* of the QEMU it was learned from: balloon health outlives it, target and limit do not */
	uint64_t pid_start_ticks; /* field 22 of /proc/PID/stat: tells a recycled PID */
	bool limit_open;	  /* it had no limit when this was written: after a kill one that is found is memoc's */
	struct vm_memory memory;
	struct vmpolicy policy; /* the last good one: what holds where its XML has become bad meanwhile */
};
struct state {
	bool hold_all;
	bool whole; /* the last word of a memocd that ended in order: nothing was done after it */
	struct state_vm *vms;
	size_t n;
};

/* Missing file: an empty state. Returns 0; 1: the file is damaged or cannot be read, and was put aside as far as that
 * is possible (err says where and why), the state is empty; −ENOMEM, −ENAMETOOLONG. */
int state_load(const char *state_dir, struct state *ret, struct memoc_err *err);
int state_save(const char *state_dir, const struct state *s, struct memoc_err *err);
void state_clear(struct state *s);
const struct state_vm *state_find(const struct state *s, const char *uuid);

#endif
