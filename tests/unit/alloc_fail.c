/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/unit/alloc_fail.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void __real_free(void *p);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
void __wrap_free(void *p);

static size_t to_go; /* allocations until the one that fails; 0: none will */
static bool failed;
static long live;

void alloc_fail_at(size_t n)
{
	to_go = n;
	failed = false;
}

bool alloc_fail_end(void)
{
	to_go = 0;
	return failed;
}

long alloc_live(void)
{
	return live;
}

static bool fails_now(void)
{
	if (to_go == 0 || --to_go > 0)
		return false;
	failed = true;
	return true;
}

static void *counted(void *p)
{
	live += p != NULL;
	return p;
}

void *__wrap_malloc(size_t size)
{
	return fails_now() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails_now() ? NULL : counted(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
	if (fails_now())
		return NULL;
	return p ? __real_realloc(p, size) : counted(__real_realloc(p, size));
}

char *__wrap_strdup(const char *s)
{
	return fails_now() ? NULL : counted(__real_strdup(s));
}

char *__wrap_strndup(const char *s, size_t n)
{
	return fails_now() ? NULL : counted(__real_strndup(s, n));
}

void __wrap_free(void *p)
{
	live -= p != NULL;
	__real_free(p);
}
