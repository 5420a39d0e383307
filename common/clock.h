/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The clock of everything that waits: CLOCK_MONOTONIC, which neither jumps nor stands still while the host runs. Any
 * thread. Not for the core, whose time comes with its events.
 */
#ifndef MEMOC_COMMON_CLOCK_H
#define MEMOC_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static inline uint64_t now_ms(void)
{
	return now_us() / 1000;
}

#endif
