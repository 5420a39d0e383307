/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any bytes as a configuration file: read or refused with a line of text, and what was read can be resolved against a
 * host. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "controller/daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config_setting *settings AUTO_FREE = NULL;
	int fd AUTO_CLOSE = memfd_create("config", MFD_CLOEXEC);
	struct memoc_err err = {0};
	struct config c;
	char path[64];
	size_t n = 0;
	int r;

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = config_load(path, NULL, 0, &c, &settings, &n, &err);
	if ((r < 0) != (err.text[0] != '\0'))
		abort();
	if (r < 0)
		return 0;
	r = config_resolve(&c, 8 * GIB, &err);
	if (r == 0 && (c.core.pool_bytes == 0 || c.core.pool_bytes + c.core.reserve_bytes > 8 * GIB))
		abort();
	return 0;
}
