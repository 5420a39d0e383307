/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/wss/lru_gen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* MAX_NR_GENS. When one more is opened, the oldest ends, and the pages in it, which nobody touched, become the next
 * one's. */
#define GENERATIONS_MOST 4

#define FILE_MOST ((size_t)16 << 20) /* a thousand groups of eight nodes are 500 KiB */

int lru_gen_enabled(const char *root)
{
	char text[64];
	ssize_t n = wss_read_text(root, LRU_GEN_ENABLED, text, sizeof(text));

	return n < 0 ? (int)n : (int)(strtoul(text, NULL, 0) & 0xff);
}

int lru_gen_sees_guests(const char *root, struct memoc_err *why)
{
	char text[64];
	unsigned major = 0, minor = 0;

	if (wss_read_text(root, "/proc/sys/kernel/osrelease", text, sizeof(text)) < 0 ||
	    sscanf(text, "%u.%u", &major, &minor) != 2)
		return memoc_err_set(why, -EIO, "the kernel does not tell its version");
	if (major < 6 || (major == 6 && minor < 12))
		return memoc_err_set(why, -EOPNOTSUPP,
				     "before Linux 6.12 (here %u.%u) it does not see what KVM guests access", major,
				     minor);
	return 0;
}

static ssize_t read_all(const char *root, char **ret)
{
	char *text AUTO_FREE = NULL;
	size_t used = 0, size = 0;
	int fd AUTO_CLOSE = wss_open_file(root, LRU_GEN, O_RDONLY);

	if (fd < 0)
		return fd;
	for (;;) {
		if (size - used < 4096) {
			size = size ? size * 2 : 65536;
			char *more = size <= FILE_MOST ? realloc(text, size) : NULL;
			if (!more)
				return -ENOMEM;
			text = more;
		}
		ssize_t n = read(fd, text + used, size - used - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	text[used] = '\0';
	*ret = TAKE(text);
	return (ssize_t)used;
}

/* "memcg    12 /machine.slice/…": the rest of its line is the path. */
static const char *find_group(char *text, const char *path, unsigned *ret_id)
{
	for (char *line = text; line && *line;) {
		char *next = strchr(line, '\n');
		int at = 0;

		if (next)
			*next++ = '\0';
		if (sscanf(line, "memcg %u %n", ret_id, &at) == 1 && at && strcmp(line + at, path) == 0)
			return next;
		line = next;
	}
	return NULL;
}

/*
 *  node     0
 *           654       1234          56          78      generation, its age, pages: anonymous (and shared memory),
 * files
 */
int lru_gen_parse(char *text, const char *path, const struct lru_generations *since, struct lru_generations *ret)
{
	const char *line = find_group(text, path, &ret->id);

	ret->nodes = 0;
	if (!line)
		return -ENOENT;
	for (; *line && strncmp(line, "memcg", 5) != 0; line += strcspn(line, "\n"), line += *line == '\n') {
		unsigned node;
		unsigned long long seq, age, anon;

		if (sscanf(line, " node %u", &node) == 1) {
			if (ret->nodes == LRU_NODES_MAX)
				return -E2BIG;
			ret->node[ret->nodes].node = node;
			ret->node[ret->nodes].youngest = ret->node[ret->nodes].since_pages = 0;
			ret->nodes++;
		} else if (ret->nodes && sscanf(line, " %llu %llu %llu", &seq, &age, &anon) == 3) {
			size_t i = ret->nodes - 1;
			bool counts = since && i < since->nodes && since->node[i].node == ret->node[i].node &&
				      seq > since->node[i].youngest;

			ret->node[i].youngest = max_u64(ret->node[i].youngest, seq);
			ret->node[i].since_pages += counts ? anon : 0;
		}
	}
	return ret->nodes ? 0 : -EBADMSG;
}

int lru_gen_window(const struct lru_generations *begin, const struct lru_generations *now, uint64_t *ret_pages,
		   struct memoc_err *err)
{
	bool same = begin->nodes == now->nodes;
	uint64_t pages = 0;

	for (size_t i = 0; same && i < now->nodes; i++) {
		same = begin->node[i].node == now->node[i].node;
		if (same && now->node[i].youngest >= begin->node[i].youngest + GENERATIONS_MOST)
			return memoc_err_set(
				err, -EAGAIN,
				"the kernel reclaims from it so fast that its generations end within the window");
		pages += now->node[i].since_pages;
	}
	if (!same)
		return memoc_err_set(err, -EAGAIN, "the host's memory nodes changed within the window");
	*ret_pages = pages;
	return 0;
}

int lru_gen_look(const char *root, const char *path, const struct lru_generations *since, struct lru_generations *ret)
{
	char *text AUTO_FREE = NULL;
	ssize_t n = read_all(root, &text);

	return n < 0 ? (int)n : lru_gen_parse(text, path, since, ret);
}
