/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of commands, in the order in which help shows them. */
#include "controller/cli/commands.h"

const struct cli_command *const cli_commands[] = {
	&command_list,	&command_info,	 &command_host,	  &command_explain,  &command_events,	  &command_get,
	&command_set,	&command_resize, &command_hold,	  &command_release,  &command_drain,	  &command_migrate,
	&command_check, &command_config, &command_replay, &command_simulate, &command_completion, &command_complete,
	NULL,
};
