/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/host/thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

/* Enough for libvirt's RPC and its XML parser, little enough that hung threads cost nothing. */
#define THREAD_STACK_BYTES (256 * KIB)

struct start {
	char name[16];
	void *(*fn)(void *arg);
	void *arg;
};

static void *thread_main(void *arg)
{
	struct start start = *(struct start *)arg;

	free(arg);
	/* From inside: a detached thread may be gone before its starter could name it. */
	pthread_setname_np(pthread_self(), start.name);
	return start.fn(start.arg);
}

int thread_start(const char *name, void *(*fn)(void *arg), void *arg)
{
	struct start *start;
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	start = malloc(sizeof(*start));
	if (!start)
		return -ENOMEM;
	*start = (struct start){.fn = fn, .arg = arg};
	strncpy(start->name, name, sizeof(start->name) - 1);
	r = pthread_attr_init(&attr);
	if (r) {
		free(start);
		return -r;
	}
	pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	/* The mask is inherited: the new thread never sees a moment with signals open. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&thread, &attr, thread_main, start);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (r)
		free(start);
	return -r;
}
