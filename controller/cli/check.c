/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/cli/check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/text.h"

static struct check_item *add(struct check_list *l, const char *name, enum check_result result, const char *remedy)
{
	if (l->error)
		return NULL;
	if (l->n == l->room) {
		size_t room = l->room ? 2 * l->room : 32;
		struct check_item *items = reallocarray(l->items, room, sizeof(*items));
		if (!items) {
			l->error = -ENOMEM;
			return NULL;
		}
		l->items = items;
		l->room = room;
	}
	struct check_item *item = &l->items[l->n++];
	*item = (struct check_item){.name = name, .result = result};
	text_add(item->remedy, sizeof(item->remedy), 0, "%s", remedy);
	return item;
}

static void set_text(struct check_item *item, const char *fmt, va_list ap)
{
	if (!item)
		return;
	vsnprintf(item->text, sizeof(item->text), fmt, ap);
	text_make_printable(item->text);
}

void check_pass(struct check_list *l, const char *name, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_text(add(l, name, CHECK_PASS, ""), fmt, ap);
	va_end(ap);
}

void check_problem(struct check_list *l, enum check_result result, const char *name, const char *remedy,
		   const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_text(add(l, name, result, remedy), fmt, ap);
	va_end(ap);
}

/* −ENAMETOOLONG where it does not fit. */
static int full_path(const char *root, const char *path, char ret[PATH_MAX])
{
	return snprintf(ret, PATH_MAX, "%s%s", root, path) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

int check_read(const char *root, const char *path, char *buf, size_t len)
{
	char full[PATH_MAX];
	int fd AUTO_CLOSE = -1;
	size_t used = 0;
	ssize_t n = full_path(root, path, full);

	if (n < 0)
		return (int)n;
	fd = open(full, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* files of /proc come in pieces */
	while (used < len - 1 && (n = read(fd, buf + used, len - 1 - used)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		used += (size_t)n;
	}
	while (used > 0 && buf[used - 1] == '\n')
		used--;
	buf[used] = '\0';
	return (int)used;
}

int check_read_number(const char *root, const char *path, long *ret)
{
	char text[64], *end;
	int r = check_read(root, path, text, sizeof(text));
	long number;

	if (r < 0)
		return r;
	errno = 0;
	number = strtol(text, &end, 10);
	if (end == text || errno)
		return -EINVAL;
	*ret = number;
	return 0;
}

bool check_exists(const char *root, const char *path)
{
	char full[PATH_MAX];

	return full_path(root, path, full) == 0 && access(full, F_OK) == 0;
}
