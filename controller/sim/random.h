/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A seeded generator that gives the same numbers on every machine: splitmix64 (Steele, Lea, Flood 2014). */
#ifndef MEMOC_SIM_RANDOM_H
#define MEMOC_SIM_RANDOM_H

#include "common/util.h"

struct sim_random {
	uint64_t state;
};

static inline uint64_t random_u64(struct sim_random *r)
{
	uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* 0 ≤ result < n; n > 0. The bias of the modulo is below 2⁻³² for n < 2³². */
static inline uint64_t random_below(struct sim_random *r, uint64_t n)
{
	return random_u64(r) % n;
}

/* Numbers 0 … n − 1 in a random order (Fisher, Yates 1938). */
static inline void random_shuffle(struct sim_random *r, size_t *ret, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		size_t j = (size_t)random_below(r, i + 1);
		ret[i] = ret[j];
		ret[j] = i;
	}
}

/* 0 ≤ result < 1, 53 bits. */
static inline double random_unit(struct sim_random *r)
{
	return (double)(random_u64(r) >> 11) * 0x1p-53;
}

#endif
