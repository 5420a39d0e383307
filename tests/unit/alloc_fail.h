/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Allocations that fail on demand, for test_alloc: the linker sends every malloc, calloc, realloc, strdup, strndup and
 * free of memoc's own code through here (-Wl,--wrap=…). Libraries are not touched. One thread only.
 */
#ifndef MEMOC_TESTS_ALLOC_FAIL_H
#define MEMOC_TESTS_ALLOC_FAIL_H

#include "common/util.h"

/* The n-th allocation from now on fails, once; 0: none does. */
void alloc_fail_at(size_t n);
/* Did it come to that? Ends it. */
bool alloc_fail_end(void);
/* Allocations that were not freed yet; negative where something of a library was freed here. */
long alloc_live(void);

#endif
