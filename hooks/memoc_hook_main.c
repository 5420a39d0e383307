/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The program that libvirt runs as a qemu hook: see hook.h. */
#include "hooks/hook.h"

int main(int argc, char **argv)
{
	uint64_t start_ms = hook_now_ms();
	const char *socket_path;
	struct hook_io io;

	hook_guard(HOOK_DEADLINE_MS);
	socket_path = getenv("MEMOC_SOCKET");
	io = (struct hook_io){
		.xml_fd = STDIN_FILENO,
		.err_fd = STDERR_FILENO,
		.socket_path = socket_path && *socket_path ? socket_path : HOOK_SOCKET_PATH,
		.start_ms = start_ms,
		.deadline_ms = HOOK_WORK_MS,
	};
	/* Not exit(): nothing that libraries run at the end may change the status or take time. */
	_exit(hook_run(argc, argv, &io));
}
