/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The multi-generational LRU (Documentation/admin-guide/mm/multigen_lru.rst) by its debugfs file: an aging run walks
 * the page tables of a cgroup's processes, puts what was accessed since the last one into the youngest generation and
 * opens a new one. One run at the begin, one at the end: what is then in the generations since the begin was touched in
 * the window.
 *
 * It counts what is charged to the VM's cgroup, so QEMU's own memory that is in use too: that is its error. Before
 * Linux 6.12 aging does not see what KVM guests access, so there it is not used.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "controller/wss/backend.h"

#define LRU_GEN "/sys/kernel/debug/lru_gen"
#define ENABLED "/sys/kernel/mm/lru_gen/enabled"
#define QEMU_BYTES (32 * MIB)	     /* of its own, in use: some of the 60 MiB that it has without its code buffer */
#define FILE_MOST ((size_t)16 << 20) /* a thousand groups of eight nodes are 500 KiB */

struct lru_sample {
	char *path;		      /* of the cgroup, as the file has it */
	struct lru_generations begin; /* youngest: what was the youngest before the first run */
};

static int probe(const char *root, struct memoc_err *why)
{
	char text[64];
	unsigned major = 0, minor = 0;
	int fd AUTO_CLOSE = -1;

	if (wss_read_text(root, ENABLED, text, sizeof(text)) < 0)
		return memoc_err_set(why, -ENOENT, "no multi-generational LRU: use a kernel with CONFIG_LRU_GEN");
	/* bit 0: in use; bit 1: by walking page tables, which is what aging is here */
	if ((strtoul(text, NULL, 0) & 3) != 3)
		return memoc_err_set(why, -EOPNOTSUPP, "the multi-generational LRU is off: echo y > %s", ENABLED);
	if (wss_read_text(root, "/proc/sys/kernel/osrelease", text, sizeof(text)) < 0 ||
	    sscanf(text, "%u.%u", &major, &minor) != 2)
		return memoc_err_set(why, -EIO, "the kernel does not tell its version");
	if (major < 6 || (major == 6 && minor < 12))
		return memoc_err_set(why, -EOPNOTSUPP,
				     "before Linux 6.12 (here %u.%u) it does not see what KVM guests access", major,
				     minor);
	fd = wss_open_file(root, LRU_GEN, O_RDWR);
	if (fd < 0)
		return memoc_err_set(why, fd, "%s cannot be opened (%s): mount debugfs", LRU_GEN, strerror(-fd));
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

static int look(const struct wss_sample *s, const struct lru_generations *since, struct lru_generations *ret)
{
	const struct lru_sample *own = s->own;
	char *text AUTO_FREE = NULL;
	ssize_t n = read_all(s->wss->root, &text);

	return n < 0 ? (int)n : lru_gen_parse(text, own->path, since, ret);
}

/* An aging run on each node, all page tables walked. */
static int age(const struct wss_sample *s, const struct lru_generations *g)
{
	char command[96];
	int r = 0;

	for (size_t i = 0; i < g->nodes && r == 0; i++) {
		if (wss_cancelled(s))
			return -ECANCELED;
		snprintf(command, sizeof(command), "+ %u %u %llu 100 1", g->id, g->node[i].node,
			 (unsigned long long)g->node[i].youngest);
		r = wss_write_text(s->wss->root, LRU_GEN, command);
	}
	return r;
}

static void clear(struct wss_sample *s)
{
	struct lru_sample *own = s->own;

	free(own->path);
	free(own);
}

static int failed(struct memoc_err *err, int r, const char *path)
{
	if (r == -ENOENT)
		return memoc_err_set(err, r, "%s does not know the cgroup %s", LRU_GEN, path);
	return memoc_err_set(err, r, "%s: %s", LRU_GEN, strerror(-r));
}

static int begin(struct wss *w, const struct wss_target *t, struct wss_sample *s, struct memoc_err *err)
{
	struct lru_sample *own;
	int r;

	if (!t->cgroup_path)
		return memoc_err_set(err, -ENXIO, "its memory cgroup is not known");
	own = s->own = calloc(1, sizeof(*own));
	if (own)
		own->path = strdup(t->cgroup_path);
	if (!own || !own->path)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	r = look(s, NULL, &own->begin);
	if (r == 0)
		r = age(s, &own->begin);
	return r < 0 ? failed(err, r, own->path) : 0;
}

static int end(struct wss_sample *s, struct wss_reading *ret, struct memoc_err *err)
{
	const struct lru_sample *own = s->own;
	struct lru_generations now;
	uint64_t pages = 0;
	int r = look(s, NULL, &now);

	if (r == 0)
		r = age(s, &now);
	if (r == 0)
		r = look(s, &own->begin, &now);
	if (r < 0)
		return failed(err, r, own->path);
	for (size_t i = 0; i < now.nodes; i++)
		pages += now.node[i].since_pages;
	ret->wss_bytes = min_u64(pages * WSS_PAGE_BYTES, s->ram.bytes);
	ret->error_bytes = max_u64(QEMU_BYTES, s->ram.bytes / 50);
	return 0;
}

const struct wss_ops wss_lru = {
	.kind = WSS_LRU, .collect_after = 1, .probe = probe, .begin = begin, .end = end, .clear = clear};
