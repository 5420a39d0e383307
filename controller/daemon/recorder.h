/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The recording for `memoc replay`: every event of the core and what came of it, in STATE_DIR/record, written by a
 * worker once a second. Never in the way of deciding: what the disk cannot take in time is left out, counted and said.
 * Loop thread.
 */
#ifndef MEMOC_DAEMON_RECORDER_H
#define MEMOC_DAEMON_RECORDER_H

#include "controller/core/core.h"

struct daemon;
struct recorder;

/* Takes [log] record from the configuration; with 0 bytes it records nothing until that changes. −ENOMEM. */
int recorder_new(struct daemon *d, struct recorder **ret);
/* At exit, when the workers have ended: the rest is written here and now. NULL is taken. Returns NULL. */
struct recorder *recorder_free(struct recorder *r);
/* After each core_step, before its effects are carried out. */
void recorder_event(struct recorder *r, const struct event *ev, int code);
/* The configuration was read again. */
void recorder_configure(struct recorder *r);

#endif
