/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of the advice room: giving advice. */
#ifndef MEMOC_ADVICE_ADVISE_H
#define MEMOC_ADVICE_ADVISE_H

#include "common/err.h"
#include "common/util.h"

/* Pages in a row. */
struct run {
	uint64_t start; /* address in QEMU */
	uint64_t bytes;
};

/*
 * process_madvise over all of them, 1024 a call. A run that the kernel refuses (unmapped meanwhile, huge, locked) is
 * passed over. 0; −ESRCH, −EPERM, −ENOSYS.
 */
int advise(int pidfd, const struct run *runs, size_t n, int advice);

#endif
