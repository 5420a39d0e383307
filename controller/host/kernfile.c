/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/host/kernfile.h"

#include <errno.h>
#include <string.h>

ssize_t kernfile_read(int fd, char *buf, size_t size)
{
	size_t used = 0;

	for (;;) {
		ssize_t n = pread(fd, buf + used, size - used, (off_t)used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		used += (size_t)n;
		if (used == size)
			return -EMSGSIZE;
	}
	buf[used] = 0;
	return (ssize_t)used;
}

int kernfile_read_at(int fd, void *buf, size_t bytes, uint64_t at)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t n = pread(fd, (char *)buf + done, bytes - done, (off_t)(at + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0 || n % 8)
			return -ENODATA;
		done += (size_t)n;
	}
	return 0;
}

int kernfile_number(const char *text, uint64_t *ret)
{
	uint64_t v = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return -ERANGE;
	if (p == text || (*p && *p != ' ' && *p != '\n' && *p != '\t'))
		return -EBADMSG;
	*ret = v;
	return 0;
}

int kernfile_read_number(int fd, uint64_t *ret)
{
	char buf[64];
	ssize_t n = kernfile_read(fd, buf, sizeof(buf));

	if (n < 0)
		return (int)n;
	if (strcmp(buf, "max\n") == 0 || strcmp(buf, "max") == 0) {
		*ret = UINT64_MAX;
		return 0;
	}
	return kernfile_number(buf, ret);
}

const char *kernfile_line(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *p = text; p && *p;) {
		if (strncmp(p, key, len) == 0)
			return p + len;
		p = strchr(p, '\n');
		if (p)
			p++;
	}
	return NULL;
}

int kernfile_field(const char *text, const char *key, uint64_t *ret)
{
	size_t len = strlen(key);
	const char *rest = text;

	/* "shmem" must not find "shmem_thp": after the key comes a blank. */
	while ((rest = kernfile_line(rest, key)) && *rest != ' ' && *rest != '\t') {
		rest = strchr(rest, '\n');
		if (!rest || !*++rest)
			return -ENOENT;
	}
	if (!rest || len == 0)
		return -ENOENT;
	while (*rest == ' ' || *rest == '\t')
		rest++;
	return kernfile_number(rest, ret);
}
