/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands, each defined beside its code and listed once in commands.c. */
#ifndef MEMOC_CLI_COMMANDS_H
#define MEMOC_CLI_COMMANDS_H

#include "controller/cli/cli.h"

/* commands_view.c */
extern const struct cli_command command_list, command_host, command_explain;
/* command_info.c */
extern const struct cli_command command_info;
/* command_events.c */
extern const struct cli_command command_events;
/* command_migrate.c */
extern const struct cli_command command_migrate;
/* commands_change.c */
extern const struct cli_command command_get, command_set, command_resize, command_hold, command_release, command_drain;
/* command_config.c */
extern const struct cli_command command_config;
/* command_check.c */
extern const struct cli_command command_check;
/* command_simulate.c */
extern const struct cli_command command_simulate;
/* command_replay.c */
extern const struct cli_command command_replay;
/* completion.c */
extern const struct cli_command command_completion, command_complete;

#endif
