/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory advice: a migration (or save, or snapshot) reads every page of a VM. What was swapped out comes in for that,
 * and what shared memory never had is allocated; under a limit both push out what the guest is using. So a map of what
 * was not in memory is taken when the reading begins, and behind the reader what is on the map is advised away again,
 * by process_madvise from outside QEMU. What the guest itself brought back is left alone, no page is advised twice (but
 * see advice_step), and what came of it is looked at, because success of the call says nothing.
 *
 * The advice is MADV_PAGEOUT and nothing else changes memory: no page can be lost by it. (Punching a hole where a page
 * of zeroes was allocated would give back more, and would lose what the guest writes between the look and the hole.)
 *
 * Adapter of the host: no clock but that of processor time, no thread of its own. One struct advice is used by one
 * thread at a time; every function but advice_free can take many milliseconds: workers.
 */
#ifndef MEMOC_ADVICE_ADVICE_H
#define MEMOC_ADVICE_ADVICE_H

#include <stdatomic.h>

#include "controller/host/proc.h"

struct advice;

/*
 * Takes the map. proc and ram are needed during the call only: descriptors of the process are kept, and it is known by
 * its pidfd. cost: about 36 ns a page (pagemap), less where memory is shared. Errors say what and what to do: −EPERM:
 * process_madvise is not permitted, or the files are not; −ENOSYS: the kernel has none (Linux 5.10); −ESRCH: the
 * process has ended; −ENOMEM; −errno.
 */
int advice_begin(struct proc_vm *proc, const struct guest_ram *ram, struct advice **ret, struct memoc_err *err);
struct advice *advice_free(struct advice *a); /* takes NULL */
/* Is anything on the map? Else nothing was swapped out, and all was allocated. */
bool advice_worthwhile(const struct advice *a);
/* Adds what is on the map to .swapped_bytes and .untouched_bytes. */
void advice_count_map(const struct advice *a, struct advice_report *counts);

#define ADVICE_ALL UINT64_MAX

struct advice_order {
	/*
	 * How much RAM was read since the reading began, in the reader's order: blocks largest first, ascending
	 * addresses (QEMU's ram_block_add and find_dirty_block). Read by the caller before the step: the reader has
	 * gone on since, by about as much as since the step before at most. ADVICE_ALL: all of it.
	 */
	uint64_t position_bytes;
	/*
	 * It is a step's earlier position, and the reader is followed by what has come in since: QEMU answers nobody
	 * while it reads the last part, at its fastest and with the guest standing still.
	 */
	bool follow;
	bool zero_out;		   /* pages of zeroes: out (MADV_PAGEOUT) instead of first in line (MADV_COLD) */
	uint64_t most_bytes;	   /* of one step */
	const atomic_bool *cancel; /* stop soon; may be NULL */
};

/*
 * Advises what came in behind the position and marks what the guest brought in ahead of it. Where more than a part of
 * the pages stayed (Linux 6.1 spares what was touched since it last looked, which its look then is), these are advised
 * once more, at once, and never again. Adds to *counts (all but .over and .why). 1: there is more to do behind the
 * position; 0: not; −ESRCH: the process has ended; −EPERM as above; −ECANCELED; −errno.
 */
int advice_step(struct advice *a, const struct advice_order *order, struct advice_report *counts,
		struct memoc_err *err);
/* Where the reader was in the last step, in its order, and is that the end? */
uint64_t advice_position_bytes(const struct advice *a);
bool advice_all_read(const struct advice *a);

/*
 * May pages of zeroes be swapped out for nothing? Where swap does not store them: Linux 6.12 and later (a bitmap), zram
 * (same-filled pages). root: "" or, for tests, a directory with a /proc in it.
 */
bool advice_zeroes_swap_free(const char *root);
/* As memocd is now: 0, −ENOSYS or −EPERM, err says what to do. pidfd: of a process that it would advise. */
int advice_permitted(int pidfd, struct memoc_err *err);

#endif
