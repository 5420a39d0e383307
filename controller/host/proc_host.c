/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/host/proc_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/parse.h"
#include "controller/host/kernfile.h"

/* meminfo is 1.5 KiB today; each kernel adds a line or two. */
#define MEMINFO_MAX ((size_t)16 << 10)
#define PSI_MAX ((size_t)512)

struct proc_host {
	int meminfo_fd;
	int psi_fd; /* −1: kernel without PSI, or booted with psi=0 */
};

static int open_under(const char *root, const char *file)
{
	char *path AUTO_FREE = NULL;
	int fd;

	if (asprintf(&path, "%s%s", root, file) < 0)
		return -ENOMEM;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int proc_host_open(const char *root, struct proc_host **ret, struct memoc_err *err)
{
	struct proc_host *h = calloc(1, sizeof(*h));

	if (!h)
		return memoc_err_set(err, -ENOMEM, "out of memory for reading /proc/meminfo");
	h->meminfo_fd = open_under(root, "/proc/meminfo");
	if (h->meminfo_fd < 0) {
		int r = h->meminfo_fd;

		free(h);
		return memoc_err_set(err, r, "cannot open %s/proc/meminfo (is /proc mounted?): %s", root, strerror(-r));
	}
	h->psi_fd = open_under(root, "/proc/pressure/memory");
	*ret = h;
	return 0;
}

struct proc_host *proc_host_close(struct proc_host *h)
{
	if (!h)
		return NULL;
	close(h->meminfo_fd);
	if (h->psi_fd >= 0)
		close(h->psi_fd);
	free(h);
	return NULL;
}

/* "KEY:   12345 kB" → bytes. */
static int field_bytes(const char *text, const char *key, uint64_t *ret_bytes)
{
	uint64_t kib;
	int r = kernfile_field(text, key, &kib);

	if (r == 0)
		*ret_bytes = mul_div_u64(kib, KIB, 1);
	return r;
}

static int read_meminfo(int fd, struct host_sample *s)
{
	char text[MEMINFO_MAX];
	ssize_t n = kernfile_read(fd, text, sizeof(text));

	if (n < 0)
		return (int)n;
	if (field_bytes(text, "MemTotal:", &s->mem_total_bytes) < 0 ||
	    field_bytes(text, "MemAvailable:", &s->mem_available_bytes) < 0 ||
	    field_bytes(text, "SwapTotal:", &s->swap_total_bytes) < 0 ||
	    field_bytes(text, "SwapFree:", &s->swap_free_bytes) < 0)
		return -EBADMSG;
	s->has_memory = true;
	return 0;
}

/* "some avg10=1.23 avg60=…": the first number of the line that starts with `kind`. */
static bool psi_avg10(const char *text, const char *kind, double *ret_percent)
{
	const char *at = kernfile_line(text, kind);
	char number[16];
	size_t len;

	if (!at || strncmp(at, " avg10=", 7) != 0)
		return false;
	at += 7;
	len = strcspn(at, " \n");
	if (len == 0 || len >= sizeof(number))
		return false;
	memcpy(number, at, len);
	number[len] = 0;
	return parse_double(number, ret_percent, NULL) == 0;
}

static void read_psi(int fd, struct host_sample *s)
{
	char text[PSI_MAX];
	double some, full;

	if (fd < 0 || kernfile_read(fd, text, sizeof(text)) < 0)
		return;
	if (!psi_avg10(text, "some", &some) || !psi_avg10(text, "full", &full))
		return;
	s->has_psi = true;
	s->psi_some_avg10 = some;
	s->psi_full_avg10 = full;
}

int proc_host_read(struct proc_host *h, struct host_sample *ret)
{
	struct host_sample s = {0};
	int r = read_meminfo(h->meminfo_fd, &s);

	if (r < 0)
		return r;
	read_psi(h->psi_fd, &s);
	*ret = s;
	return 0;
}
