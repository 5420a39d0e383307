/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When whose working set is measured. Each tick those VMs are chosen that are worth a reading now, as far as the budget
 * goes (core/wss.h); a worker begins the window, a timer waits for it, a worker ends it, and the core hears what came
 * of it. VMs that go together (one VM, or with DAMON all of a round) are a group. Private to this room; loop thread
 * only.
 */
#ifndef MEMOC_DAEMON_WSS_H
#define MEMOC_DAEMON_WSS_H

#include "controller/core/wss.h"
#include "controller/daemon/daemon.h"

struct measuring;
/* Nothing is opened yet: the first tick does that, by a worker. −ENOMEM, −EAGAIN. */
int measuring_new(struct daemon *d, struct measuring **ret);
/* Ends what is under way; leaves nothing behind in the kernel. Takes NULL. */
struct measuring *measuring_free(struct measuring *m);
void measuring_tick(struct measuring *m);
void measuring_configure(struct measuring *m); /* d->config has changed */
void measuring_count(struct measuring *m, struct workpool_counts *counts);

/* For `memoc host`: what is in use, and why not the others ("" for the one in use; WSS_BACKEND_END of them). */
enum wss_backend measuring_backend(const struct measuring *m);
const struct memoc_err *measuring_why(const struct measuring *m);

#endif
