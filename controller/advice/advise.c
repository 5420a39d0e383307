/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/advice/advise.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#include "controller/advice/advice.h"
#include "controller/host/kernfile.h"

#define VECTORS 1024 /* UIO_MAXIOV: more is EINVAL */

/* The system call, because glibc has a function for it only since 2.36. */
static ssize_t process_madvise_call(int pidfd, const struct iovec *v, size_t n, int advice)
{
	return syscall(SYS_process_madvise, pidfd, v, n, advice, 0);
}

/* Where the call stopped: it tells bytes, and stops at the first range that it refuses, which is passed over. */
static size_t after(const struct iovec *v, size_t n, uint64_t bytes)
{
	size_t i = 0;

	while (i < n && bytes >= v[i].iov_len)
		bytes -= v[i++].iov_len;
	return i < n ? i + 1 : n;
}

static int advise_vector(int pidfd, const struct iovec *v, size_t n, int advice)
{
	while (n) {
		ssize_t done = process_madvise_call(pidfd, v, n, advice);

		if (done < 0 && (errno == EPERM || errno == ESRCH || errno == ENOSYS))
			return -errno;
		if (done < 0 && errno == EINTR)
			continue;
		size_t k = after(v, n, done < 0 ? 0 : (uint64_t)done);
		v += k;
		n -= k;
	}
	return 0;
}

int advise(int pidfd, const struct run *runs, size_t n, int advice)
{
	struct iovec v[VECTORS];

	for (size_t i = 0; i < n;) {
		size_t k = min_u64(n - i, VECTORS);

		for (size_t j = 0; j < k; j++)
			v[j] = (struct iovec){(void *)(uintptr_t)runs[i + j].start, runs[i + j].bytes};
		int r = advise_vector(pidfd, v, k, advice);
		if (r < 0)
			return r;
		i += k;
	}
	return 0;
}

int advice_permitted(int pidfd, struct memoc_err *err)
{
	struct iovec none = {0};

	if (process_madvise_call(pidfd, &none, 0, MADV_COLD) >= 0)
		return 0;
	if (errno == ENOSYS)
		return memoc_err_set(err, -ENOSYS, "this kernel has no process_madvise: run Linux 5.10 or later");
	if (errno == EPERM || errno == EACCES)
		return memoc_err_set(err, -EPERM,
				     "process_madvise is not permitted: memocd needs CAP_SYS_NICE and CAP_SYS_PTRACE");
	if (errno == ESRCH)
		return memoc_err_set(err, -ESRCH, "the process has ended");
	return memoc_err_set(err, -errno, "process_madvise: %m");
}

/* ---- what a page of zeroes costs in swap ---- */

/* mm/page_io.c, swap_zeromap, came with Linux 6.12. */
static bool kernel_has_zeromap(const char *root)
{
	struct utsname u;
	int major = 0, minor = 0;

	return !*root && uname(&u) == 0 && sscanf(u.release, "%d.%d", &major, &minor) == 2 &&
	       (major > 6 || (major == 6 && minor >= 12));
}

bool advice_zeroes_swap_free(const char *root)
{
	char path[256], text[4096], *state = NULL;
	bool any = false, all = true;

	if (kernel_has_zeromap(root))
		return true;
	snprintf(path, sizeof(path), "%s/proc/swaps", root);
	int fd AUTO_CLOSE = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || kernfile_read(fd, text, sizeof(text)) < 0)
		return false;
	for (char *line = strtok_r(text, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
		if (line[0] != '/')
			continue; /* the headings */
		any = true;
		all &= strncmp(line, "/dev/zram", strlen("/dev/zram")) == 0;
	}
	return any && all;
}
