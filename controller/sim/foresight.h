/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Policies that know what no host can know; core_config.policy_data is their struct host. They show what could be
 * reached at all, under the same balloons and limits.
 */
#ifndef MEMOC_SIM_FORESIGHT_H
#define MEMOC_SIM_FORESIGHT_H

#include "controller/core/policy.h"

/* "ideal": true demand of this moment; "ideal-headroom": leaves everybody a little, too; "ideal-told": as soon and
 * as exactly as statistics can tell it. "oracle": all that is to come,
 * too. Ends with NULL. */
extern const struct policy_ops *const foresight_policies[];

#endif
