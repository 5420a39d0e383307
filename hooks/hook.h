/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memoc-hook: tells memocd what libvirt is about to do with a VM (org.memoc.Hook.Notify), within one deadline.
 * libvirt waits for its hooks without a limit, mostly with the VM locked, and takes a failing one for a "no" — for
 * `reconnect` it even kills the running VM. So the answer is 0, whatever happens, but for one case (hook_run).
 */
#ifndef MEMOC_HOOKS_HOOK_H
#define MEMOC_HOOKS_HOOK_H

#include "common/clock.h"
#include "common/err.h"

#define HOOK_DEADLINE_MS 200 /* of the whole run, a promise of interfaces.md */
/* The orderly way out comes before the watchdog's. */
#define HOOK_WORK_MS (HOOK_DEADLINE_MS - 10)
#define HOOK_SOCKET_PATH "/run/memoc/memoc.sock"

/* What a run works with; tests give their own. */
struct hook_io {
	int xml_fd;		 /* domain XML until end of file; stays open */
	int err_fd;		 /* one line for people; stays open */
	const char *socket_path; /* of memocd */
	uint64_t start_ms;	 /* now_ms() when the process started */
	uint64_t deadline_ms;	 /* after start_ms: work ends here whatever is missing */
};

/*
 * One run with libvirt's arguments (argv[1..4] = NAME OPERATION SUBOPERATION EXTRA). Returns the exit status: 1 for
 * operation `prepare` where memocd answered in time that the VM is not admitted and its mode is `deny` (the line on
 * err_fd says what is missing); 0 in every other case, errors of all sorts included. Writes nothing to stdout.
 */
int hook_run(int argc, char *const argv[], const struct hook_io *io);

/*
 * Makes this process end with status 0 whatever happens from here on: after HOOK_DEADLINE_MS or `watchdog_ms`, on a
 * crash (stack overflow included), and on signals that ask it to end. Broken pipes are ignored. Descriptors 0 to 2 that
 * are closed are opened on /dev/null, so that the socket cannot become standard error. Process-wide.
 */
void hook_guard(uint64_t watchdog_ms);

#endif
