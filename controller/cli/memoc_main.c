/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memoc: the command for people and scripts. All of it is in this room's archive, so that tests can call it. */
#include <locale.h>

#include "controller/cli/cli.h"

int main(int argc, char **argv)
{
	/* which characters can be printed and how wide they are; numbers stay as in C */
	setlocale(LC_CTYPE, "");
	return cli_main(argc, argv);
}
