/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How much memory a VM touches in a window of time, seen from outside its guest. One interface over what kernels offer:
 *
 *   idle     page_idle/bitmap: single pages are marked idle; who touches them takes the mark away
 *   damon    DAMON's access checks, one random page in each of many equal pieces of RAM
 *   lru      generations of the multi-generational LRU of the VM's cgroup
 *   idle-host  the same bitmap; frames of the host's memory at random, and whose they are: one sample for all VMs
 *   refault  a little memory is reclaimed; what comes back was in use. Changes the VM, so it is used only where asked
 * for
 *
 * A window is begun, waited for by the caller, and ended. With some back-ends the windows of several VMs go together:
 * the caller begins all of a round, starts the round, collects it, ends all. What cannot be known is an error with a
 * reason, never a number.
 *
 * Threads: all functions may block for milliseconds and belong on a worker. Different samples may be begun and ended at
 * the same time by different threads, unless wss_in_rounds() says that a round is one thing: then the calls of a round
 * are not concurrent. root is "" on a real system; in tests a directory with a proc/ and a sys/ in it.
 */
#ifndef MEMOC_WSS_ESTIMATOR_H
#define MEMOC_WSS_ESTIMATOR_H

#include <stdatomic.h>
#include <sys/types.h>

#include "controller/core/wss.h"
#include "controller/host/proc.h"

/* What is kept of a VM from window to window; zero at first. */
struct wss_memory {
	bool scanned; /* reclaim was at work in the last window (idle, damon) */
	/* refault: */
	uint64_t step_bytes;
	unsigned edges;
	bool took; /* a step of before found something to take */
};

/* A VM for the time of a begin; nothing of it is kept but what is said to be. */
struct wss_target {
	pid_t pid;
	int pidfd;		     /* kept, not owned: good until the sample is gone */
	const struct guest_ram *ram; /* copied */
	const char *cgroup_path;     /* of its memory cgroup, below the hierarchy's mount point; NULL: not known */
	struct cgroup_vm *cgroup;    /* the same, to work on (refault); kept, not owned; NULL: not known */
	struct wss_memory *memory;   /* kept, not owned, until the sample is gone; NULL: forgotten each time */
	uint64_t overhead_bytes;     /* QEMU's own memory as it was measured; 0: it was not */
	bool emulated;		     /* by TCG, not KVM: its accesses are QEMU's own */
	uint32_t pages;		     /* to be looked at, where the back-end samples */
	const atomic_bool *cancel;   /* NULL, or kept: work ends with −ECANCELED soon after it became true */
};

struct wss;	   /* a back-end in use */
struct wss_sample; /* one window of one VM */

/* Can this kernel do it, as far as can be told without doing it? 0, or −errno with the reason and what to do. */
int wss_probe(const char *root, enum wss_backend kind, struct memoc_err *why);
/* What an earlier memocd left running in the kernel (kill -9), with whatever back-end, is ended. Before the first open.
 */
void wss_clear_left(const char *root);
int wss_open(const char *root, enum wss_backend kind, struct wss **ret, struct memoc_err *err);
/*
 * The best that works and was shown to be right; *ret NULL where none does. why (WSS_BACKEND_END of them): the reason
 * against each that was not taken, "" for the one that was.
 */
void wss_open_best(const char *root, struct wss **ret, struct memoc_err *why);
/* Leaves nothing behind in the kernel. No sample may be left. Takes NULL. */
struct wss *wss_close(struct wss *w);
enum wss_backend wss_kind(const struct wss *w);
bool wss_in_rounds(const struct wss *w);
/* Share of the window after which wss_collect() is to be called. */
double wss_collect_after(const struct wss *w);

int wss_begin(struct wss *w, const struct wss_target *t, struct wss_sample **ret, struct memoc_err *err);
/* After all samples of a round were begun. For back-ends without rounds nothing to do. */
int wss_start(struct wss *w, uint64_t window_ms, struct memoc_err *err);
/* May wait for the rest of the window. */
int wss_collect(struct wss *w, struct memoc_err *err);
/* Makes a wss_collect() that waits come back soon, with an error; while it runs, by another thread. For the end of all.
 */
void wss_abort(struct wss *w);
/*
 * Ends the window and frees the sample, also on error. Fills of *ret: known, backend, wss_bytes, error_bytes, pages,
 * cost_ns (begin, its part of start and collect, end); on an error backend and cost_ns alone. −ESRCH: ended;
 * −ECANCELED; −EAGAIN: nothing can be said this time; −EBUSY: nor will there be while its memory is
 * reclaimed from, but another back-end may; other: it does not work here.
 */
int wss_end(struct wss_sample *s, struct wss_reading *ret, struct memoc_err *err);
/* CPU time that the calling thread has used, nanoseconds. */
uint64_t wss_cpu_ns(void);
/* What was sampled; good as long as the sample. */
const struct guest_ram *wss_sample_ram(const struct wss_sample *s);
/* Frees a sample that is not wanted any more. Takes NULL. */
void wss_cancel(struct wss_sample *s);

#endif
