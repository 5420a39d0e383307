/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads of this room: detached, with a small stack, and without signals, which belong to the loop thread. */
#ifndef MEMOC_HOST_THREAD_H
#define MEMOC_HOST_THREAD_H

#include "common/err.h"

/* Starts fn(arg); the name is cut at 15 characters. 0, −ENOMEM, or −EAGAIN where the system has no room for a thread.
 */
int thread_start(const char *name, void *(*fn)(void *arg), void *arg);

#endif
