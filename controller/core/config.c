/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/core/policy.h"

struct core_config core_config_default(void)
{
	return (struct core_config){
		.buffer_auto = true,
		.policy = &policy_needy_greedy,
		.interval_ms = 1000,
		.dead_band = 0.01,
		.min_share =
			0.25, /* of a VM's memory: a Linux guest still runs, and four times overcommit stays possible */
		.headroom_share = 0.10,
		.headroom_bytes = 24 * MIB,
		.dwell_ms = 60000, /* no reversal within 60 s under constant demand (policy.md) */
		.dwell_max_ms = 16 * 60000,
		.grace_ms = 60000,
		.needy_hold_ms = 3000,
		.stale_ms = 5000,
		.needy_swap_bytes_per_s = 256 * KIB,
		.needy_faults_per_s = 50,
		.needy_stall = 0.05,
		.balloon_enabled = true,
		.min_speed_bytes_per_s = 4 * MIB,
		.stall_timeout_ms = 3000,
		.retry_min_ms = 30000,
		.retry_max_ms = 30 * 60000,
		.swap_enabled = true,
		.max_step_bytes = 128 * MIB,
		.keep_free_bytes = 64 * MIB,
		.advice = true,
		.admission = ADMISSION_OFF,
	};
}
