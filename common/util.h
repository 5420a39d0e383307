/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Small helpers that every room uses: clean-up attributes, saturating byte arithmetic, array size.
 * Header only and pure, so the core may include it. No function here can fail or block.
 */
#ifndef MEMOC_COMMON_UTIL_H
#define MEMOC_COMMON_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define CLEANUP(f) __attribute__((cleanup(f)))
#define UNUSED __attribute__((unused))

/* char *p AUTO_FREE = NULL; int fd AUTO_CLOSE = -1; */
#define AUTO_FREE CLEANUP(util_free_p)
#define AUTO_CLOSE CLEANUP(util_close_p)

static inline void util_free_p(void *p)
{
	free(*(void **)p);
}

static inline void util_close_p(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* Hands an owned pointer to the caller: `*ret = TAKE(p);` leaves p NULL, so that AUTO_FREE frees nothing. */
#define TAKE(p)                                                                                                        \
	({                                                                                                             \
		__typeof__(p) take_tmp_ = (p);                                                                         \
		(p) = NULL;                                                                                            \
		take_tmp_;                                                                                             \
	})

/* The same for a descriptor under AUTO_CLOSE: `return TAKE_FD(fd);`. */
#define TAKE_FD(fd)                                                                                                    \
	({                                                                                                             \
		int take_fd_ = (fd);                                                                                   \
		(fd) = -1;                                                                                             \
		take_fd_;                                                                                              \
	})

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* a − b, or 0 where that would be negative: sizes are never below nothing. */
static inline uint64_t sub_sat_u64(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* a + b, or UINT64_MAX where that would overflow. */
static inline uint64_t add_sat_u64(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static inline uint64_t clamp_u64(uint64_t v, uint64_t lo, uint64_t hi)
{
	return v < lo ? lo : v > hi ? hi : v;
}

/* v × num / den without overflow in between; den must not be 0; saturates at UINT64_MAX. */
static inline uint64_t mul_div_u64(uint64_t v, uint64_t num, uint64_t den)
{
	unsigned __int128 r = (unsigned __int128)v * num / den;
	return r > UINT64_MAX ? UINT64_MAX : (uint64_t)r;
}

#endif
