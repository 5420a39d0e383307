/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files that are there whole or not at all. Single-threaded: the list of what a signal removes is one of the program.
 */
#include "controller/cli/simulate.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#define BUFFER_BYTES (256 * 1024)

/* ---- a signal ends the program: what is half written goes ---- */

/* One entry a file that is open; "" is free. Only its first byte decides, written last. */
static struct {
	volatile char first;
	char rest[PATH_MAX];
} half_written[SIMULATE_POLICIES_MAX + 2];

static void remove_and_end(int sig)
{
	for (size_t i = 0; i < ARRAY_SIZE(half_written); i++)
		if (half_written[i].first) {
			char path[PATH_MAX + 1];
			path[0] = half_written[i].first;
			memcpy(path + 1, half_written[i].rest, sizeof(half_written[i].rest));
			unlink(path);
		}
	signal(sig, SIG_DFL);
	raise(sig);
}

static void remember(const char *part)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction before, action = {.sa_handler = remove_and_end};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler == SIG_DFL)
			sigaction(signals[i], &action, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(half_written); i++)
		if (!half_written[i].first) {
			snprintf(half_written[i].rest, sizeof(half_written[i].rest), "%s", part + 1);
			half_written[i].first = part[0];
			return;
		}
}

static void forget(const char *part)
{
	for (size_t i = 0; i < ARRAY_SIZE(half_written); i++)
		if (half_written[i].first == part[0] && !strcmp(half_written[i].rest, part + 1))
			half_written[i].first = '\0';
}

/* ---- files ---- */

static int failed(const struct out_file *f, int code, struct memoc_err *err)
{
	return memoc_err_set(err, code, "cannot write %s: %s%s", f->path, strerror(-code),
			     code == -ENOSPC ? "; make room, or write elsewhere" : "");
}

/* Permissions that the finished file shall have: those of what it replaces, else what the user's mask allows. */
static mode_t wished_mode(const struct stat *old)
{
	mode_t mask;

	if (old)
		return old->st_mode & 07777;
	mask = umask(0);
	umask(mask);
	return 0666 & ~mask;
}

static int open_beside(struct out_file *f, const struct stat *old)
{
	int fd AUTO_CLOSE = -1;

	if (snprintf(f->part, sizeof(f->part), "%s.XXXXXX", f->path) >= (int)sizeof(f->part)) {
		f->part[0] = '\0';
		return -ENAMETOOLONG;
	}
	fd = mkostemp(f->part, O_CLOEXEC);
	if (fd < 0) {
		f->part[0] = '\0';
		return -errno;
	}
	remember(f->part);
	if (fchmod(fd, wished_mode(old)) < 0)
		return -errno;
	return TAKE_FD(fd);
}

/* A descriptor to write to, or −errno. */
static int open_target(struct out_file *f, const char *path)
{
	struct stat old;
	bool exists = stat(path, &old) == 0;
	int fd;

	if (exists && S_ISDIR(old.st_mode))
		return -EISDIR;
	if (!exists || S_ISREG(old.st_mode))
		return open_beside(f, exists ? &old : NULL);
	fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

int out_file_open(struct out_file *f, const char *path, struct memoc_err *err)
{
	int fd AUTO_CLOSE = -1;
	int r;

	*f = (struct out_file){0};
	/* where a link leads: the link stays */
	if (!realpath(path, f->path))
		snprintf(f->path, sizeof(f->path), "%s", path);
	fd = open_target(f, path);
	if (fd >= 0)
		f->stream = fdopen(fd, "w");
	if (f->stream) {
		TAKE_FD(fd);
		setvbuf(f->stream, NULL, _IOFBF, BUFFER_BYTES);
		return 0;
	}
	r = fd < 0 ? fd : -errno;
	out_file_drop(f);
	return failed(f, r, err);
}

/* What the stream says of all writes up to here; the stream is closed. */
static int close_stream(struct out_file *f)
{
	bool bad = ferror(f->stream);
	int r = fflush(f->stream) != 0 ? -errno : bad ? -EIO : 0;

	/* data that a later crash may not lose: rename alone would be on disk first */
	if (r == 0 && f->part[0] && fsync(fileno(f->stream)) < 0)
		r = -errno;
	if (fclose(f->stream) != 0 && r == 0)
		r = -errno;
	f->stream = NULL;
	return r;
}

int out_file_commit(struct out_file *f, int written, struct memoc_err *err)
{
	int r = close_stream(f);

	if (written < 0)
		r = written;
	if (r == 0 && f->part[0] && rename(f->part, f->path) < 0)
		r = -errno;
	if (r < 0) {
		out_file_drop(f);
		return failed(f, r, err);
	}
	if (f->part[0])
		forget(f->part);
	f->part[0] = '\0';
	return 0;
}

void out_file_drop(struct out_file *f)
{
	if (f->stream)
		fclose(f->stream);
	f->stream = NULL;
	if (!f->part[0])
		return;
	unlink(f->part);
	forget(f->part);
	f->part[0] = '\0';
}
