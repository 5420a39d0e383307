/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * virEventRegisterImpl on libev. libvirt's handles and timers live in the loop thread; add, update and remove may be
 * called from any thread (every thread that does RPC does), and wake the loop only where it has to act sooner than it
 * would: handles are changed in the kernel directly.
 * The traps of facts.md: a 0 ms timer fires on every iteration, −1 disables, ids start at 1, free callbacks run in a
 * later iteration and never inside remove, removed entries cannot be re-armed by a late update, no lock is held
 * while libvirt's callbacks run.
 */
#ifndef MEMOC_HOST_EVGLUE_H
#define MEMOC_HOST_EVGLUE_H

#include <ev.h>

#include "common/err.h"

/*
 * Registers with libvirt, once per process, before any connection is opened. Loop thread only. The ev_async does not
 * keep the loop alive by itself (ev_unref). 0, −EALREADY, −errno of epoll_create1().
 */
int evglue_register(struct ev_loop *loop);
/* How many handles and timers are alive: 0 after all connections are closed and the loop has run once more. For tests.
 */
size_t evglue_count(void);
/* How often libvirt was called because of a handle or a timer, ever. Loop thread. */
uint64_t evglue_calls(void);
/* How often the loop came here and nobody was to be called: events that nobody waits for any more, a timer that was put
 * off. Loop thread. */
uint64_t evglue_for_nothing(void);

#endif
