/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/core/vm.h"

static const char *name_of(const char *const *names, size_t n, unsigned value)
{
	return value < n && names[value] ? names[value] : "?";
}

const char *vm_state_name(enum vm_state s)
{
	static const char *const names[] = {
		[VM_STARTING] = "starting",
		[VM_STEADY] = "steady",
		[VM_SHRINKING_BALLOON] = "shrinking-balloon",
		[VM_SHRINKING_LIMIT] = "shrinking-limit",
		[VM_GROWING_LIMIT] = "growing-limit",
		[VM_GROWING_BALLOON] = "growing-balloon",
		[VM_REBOOTING] = "rebooting",
		[VM_PAUSED] = "paused",
		[VM_MIGRATING_OUT] = "migrating-out",
		[VM_MIGRATING_IN] = "migrating-in",
		[VM_STOPPING] = "stopping",
		[VM_FIXED] = "fixed",
	};
	return name_of(names, ARRAY_SIZE(names), s);
}

const char *balloon_health_name(enum balloon_health h)
{
	static const char *const names[] = {
		[BALLOON_UNKNOWN] = "unknown", [BALLOON_WORKING] = "working", [BALLOON_SLOW] = "slow",
		[BALLOON_STALLED] = "stalled", [BALLOON_ABSENT] = "absent",   [BALLOON_INHIBITED] = "inhibited",
	};
	return name_of(names, ARRAY_SIZE(names), h);
}

const char *host_level_name(enum host_level l)
{
	static const char *const names[] = {
		[LEVEL_HIGH] = "high", [LEVEL_SOFT] = "soft", [LEVEL_HARD] = "hard", [LEVEL_LOW] = "low"};
	return name_of(names, ARRAY_SIZE(names), l);
}

const char *record_name(enum record_kind k)
{
	static const char *const names[] = {
		[RECORD_ADDED] = "added",
		[RECORD_STATE] = "state",
		[RECORD_TARGET] = "target",
		[RECORD_BALLOON] = "balloon",
		[RECORD_LIMIT] = "limit",
		[RECORD_LIMIT_CONFIRMED] = "limit-confirmed",
		[RECORD_BALLOON_REACHED] = "balloon-reached",
		[RECORD_BALLOON_STALLED] = "balloon-stalled",
		[RECORD_BALLOON_BACK] = "balloon-back",
		[RECORD_BALLOON_INHIBITED] = "balloon-inhibited",
		[RECORD_BALLOON_RETRY] = "balloon-retry",
		[RECORD_LIMIT_FAILED] = "limit-failed",
		[RECORD_LIMIT_DRIFT] = "limit-drift",
		[RECORD_NEEDY] = "needy",
		[RECORD_NEEDY_OVER] = "needy-over",
		[RECORD_SILENT] = "silent",
		[RECORD_SILENT_OVER] = "silent-over",
		[RECORD_DISTRUSTED] = "distrusted",
		[RECORD_DISTRUSTED_OVER] = "distrusted-over",
		[RECORD_DOUBLE_SWAP] = "double-swap",
		[RECORD_DOUBLE_SWAP_OVER] = "double-swap-over",
		[RECORD_REBOOTED] = "rebooted",
		[RECORD_PINNED] = "pinned",
		[RECORD_HELD] = "held",
		[RECORD_RELEASED] = "released",
		[RECORD_DRAINED] = "drained",
		[RECORD_FACTS] = "policy",
		[RECORD_QUARANTINED] = "quarantined",
		[RECORD_QUARANTINE_OVER] = "quarantine-over",
		[RECORD_ADVICE] = "advice",
		[RECORD_WOULD] = "would",
		[RECORD_GONE] = "gone",
		[RECORD_LEVEL] = "level",
		[RECORD_SWAP_LOW] = "swap-low",
		[RECORD_SWAP_LOW_OVER] = "swap-low-over",
	};
	return name_of(names, ARRAY_SIZE(names), k);
}

const char *vm_signal_name(enum vm_signal sig)
{
	static const char *const names[] = {
		[SIG_RUNNING] = "running",
		[SIG_FRESH] = "fresh",
		[SIG_GRACE] = "grace",
		[SIG_LOWER] = "lower",
		[SIG_LOWER_NOW] = "lower-now",
		[SIG_RAISE] = "raise",
		[SIG_BALLOON_DONE] = "balloon-done",
		[SIG_BALLOON_STALL] = "balloon-stall",
		[SIG_BALLOON_SKIP] = "balloon-skip",
		[SIG_LIMIT_DONE] = "limit-done",
		[SIG_LIMIT_FAIL] = "limit-fail",
		[SIG_NEEDY] = "needy",
		[SIG_RETRY] = "retry",
		[SIG_REBOOT] = "reboot",
		[SIG_PAUSE] = "pause",
		[SIG_MIGRATE_OUT] = "migrate-out",
		[SIG_MIGRATE_OVER] = "migrate-over",
		[SIG_STOP] = "stop",
		[SIG_FIX] = "fix",
		[SIG_UNFIX] = "unfix",
	};
	return name_of(names, ARRAY_SIZE(names), sig);
}
