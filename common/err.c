/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/text.h"

/* Formats aside first: the arguments may point into err->text itself. rest is what follows the new text, or "". */
static void err_write(struct memoc_err *err, const char *rest, const char *fmt, va_list args)
{
	char text[2 * sizeof(err->text)];
	struct memoc_err out = {0};
	size_t used;

	if (vsnprintf(text, sizeof(text), fmt, args) < 0)
		snprintf(text, sizeof(text), "%s", "(unprintable)");
	used = text_add(out.text, sizeof(out.text), 0, "%s", text);
	if (*rest)
		text_add(out.text, sizeof(out.text), used, ": %s", rest);
	*err = out;
}

int memoc_err_set(struct memoc_err *err, int code, const char *fmt, ...)
{
	int saved_errno = errno;
	va_list args;

	if (!err)
		return code;
	va_start(args, fmt);
	err_write(err, "", fmt, args);
	va_end(args);
	errno = saved_errno;
	return code;
}

int memoc_err_prefix(struct memoc_err *err, int code, const char *fmt, ...)
{
	int saved_errno = errno;
	va_list args;

	if (!err)
		return code;
	va_start(args, fmt);
	err_write(err, err->text, fmt, args);
	va_end(args);
	errno = saved_errno;
	return code;
}
