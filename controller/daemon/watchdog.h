/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When may systemd be told that memocd is alive? Only while it makes progress: a tick was decided lately, the loop
 * turns (it asks this), and a worker answers (it tells systemd, and only then is another one asked). Whichever of these
 * is missing, systemd hears nothing, and after WatchdogSec= it kills memocd and starts another.
 */
#ifndef MEMOC_DAEMON_WATCHDOG_H
#define MEMOC_DAEMON_WATCHDOG_H

#include "common/util.h"

#define WATCHDOG_LATE_TICKS 3
#define WATCHDOG_LATE_MS 5000 /* what a busy host may delay a tick by, on top */

/* To ask a worker now? decided_ms: when the last tick was decided; interval_ms: of ticks; asked: one has not answered.
 */
static inline bool watchdog_due(uint64_t now_ms, uint64_t decided_ms, uint64_t interval_ms, bool asked)
{
	return !asked && now_ms - decided_ms <= WATCHDOG_LATE_TICKS * interval_ms + WATCHDOG_LATE_MS;
}

#endif
