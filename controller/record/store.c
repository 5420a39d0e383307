/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Segments as files: written by one worker at a time. */
#include "controller/record/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define PREFIX "segment-"
#define PREFIX_LEN (sizeof(PREFIX) - 1)
/* Each start of memocd and each loss begins a segment, so that many may be small. */
#define SEGMENTS_MAX 64

struct record_store {
	char *dir;
	uint64_t total_bytes;
	int fd; /* of the segment at hand; −1: none */
	char name[RECORD_SEGMENT_NAME_LEN];
	uint64_t good_bytes; /* of it: where the last block that was written whole ends */
	uint64_t number;     /* of the last segment that was begun; 0: none yet */
};

const char *record_segment_name(char buf[RECORD_SEGMENT_NAME_LEN], uint64_t number)
{
	/* Sorted by name, sorted by age: for people. */
	snprintf(buf, RECORD_SEGMENT_NAME_LEN, PREFIX "%08llu", (unsigned long long)number);
	return buf;
}

int record_store_new(const char *dir, uint64_t total_bytes, struct record_store **ret)
{
	struct record_store *s = calloc(1, sizeof(*s));
	char *copy = strdup(dir);
	if (!s || !copy) {
		free(s);
		free(copy);
		return -ENOMEM;
	}
	*s = (struct record_store){.dir = copy, .total_bytes = total_bytes, .fd = -1};
	*ret = s;
	return 0;
}

static void close_segment(struct record_store *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

struct record_store *record_store_free(struct record_store *s)
{
	if (!s)
		return NULL;
	close_segment(s);
	free(s->dir);
	free(s);
	return NULL;
}

void record_store_resize(struct record_store *s, uint64_t total_bytes)
{
	s->total_bytes = total_bytes;
}

/* ---- what is there ---- */

static bool number_of(const char *name, uint64_t *ret)
{
	if (strncmp(name, PREFIX, PREFIX_LEN) != 0 || strlen(name) >= RECORD_SEGMENT_NAME_LEN)
		return false;
	return parse_u64(name + PREFIX_LEN, ret, NULL) == 0 && *ret > 0;
}

static int by_number(const void *a, const void *b)
{
	const uint64_t *na = a, *nb = b;
	return *na < *nb ? -1 : *na > *nb;
}

static int add_number(uint64_t **list, size_t *n, uint64_t number)
{
	if ((*n & (*n + 1)) == 0) { /* room is a power of two, less one in use */
		uint64_t *more = realloc(*list, 2 * (*n + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		*list = more;
	}
	(*list)[(*n)++] = number;
	return 0;
}

int record_store_list(const char *dir, uint64_t **ret, size_t *ret_n)
{
	uint64_t *list AUTO_FREE = NULL, number = 0;
	size_t n = 0;
	int r = 0;
	DIR *d = opendir(dir);
	if (!d)
		return -errno;
	for (struct dirent *e; r == 0 && (e = readdir(d));)
		if (number_of(e->d_name, &number))
			r = add_number(&list, &n, number);
	closedir(d);
	if (r < 0)
		return r;
	if (n)
		qsort(list, n, sizeof(*list), by_number);
	*ret = TAKE(list);
	*ret_n = n;
	return 0;
}

/* ---- writing ---- */

/* The oldest go until the rest, and a whole segment more, is within the bounds. */
static int make_room(struct record_store *s, int dir_fd)
{
	uint64_t *list AUTO_FREE = NULL, sum = s->total_bytes / RECORD_SEGMENTS;
	char name[RECORD_SEGMENT_NAME_LEN];
	size_t n = 0, kept = 0;
	int r = record_store_list(s->dir, &list, &n);
	if (r < 0)
		return r;
	for (size_t i = n; i > 0; i--) {
		struct stat st;
		record_segment_name(name, list[i - 1]);
		if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		sum = add_sat_u64(sum, (uint64_t)st.st_size);
		if (sum <= s->total_bytes && ++kept < SEGMENTS_MAX)
			continue;
		sum = s->total_bytes;
		if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
			return -errno;
	}
	s->number = max_u64(s->number, n ? list[n - 1] : 0);
	return 0;
}

static int open_segment(struct record_store *s)
{
	if (mkdir(s->dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	int dir_fd AUTO_CLOSE = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return -errno;
	int r = make_room(s, dir_fd);
	if (r < 0)
		return r;
	record_segment_name(s->name, s->number + 1);
	s->fd = openat(dir_fd, s->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (s->fd < 0)
		return -errno;
	s->number++;
	s->good_bytes = 0;
	return 0;
}

/* Half a block would only be reported as damage; a segment without a whole one is none. */
static void give_up_segment(struct record_store *s)
{
	if (s->fd < 0)
		return;
	if (s->good_bytes == 0) {
		int dir_fd AUTO_CLOSE = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir_fd >= 0 && unlinkat(dir_fd, s->name, 0) == 0)
			s->number--;
	} else {
		(void)!ftruncate(s->fd, (off_t)s->good_bytes);
	}
	close_segment(s);
}

static int write_whole(struct record_store *s, const uint8_t *bytes, size_t n)
{
	size_t done = 0;
	if (s->fd < 0 && n)
		return -EBADF;
	while (done < n) {
		ssize_t r = write(s->fd, bytes + done, n - done);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		done += (size_t)r;
	}
	s->good_bytes += n;
	return 0;
}

int record_store_write(struct record_store *s, const struct record_block *block, struct memoc_err *err)
{
	int r = write_whole(s, block->bytes, block->split);
	if (r == 0 && block->split < block->n) {
		close_segment(s);
		r = open_segment(s);
		if (r == 0)
			r = write_whole(s, block->bytes + block->split, block->n - block->split);
	}
	if (r == 0)
		return 0;
	give_up_segment(s);
	return memoc_err_set(err, r, "%s: the recording for memoc replay cannot be written: %s", s->dir, strerror(-r));
}
