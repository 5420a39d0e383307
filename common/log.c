/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/log.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

/* journald would otherwise be told that every message comes from this file. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "common/parse.h"
#include "common/text.h"

/* One stderr line goes out in one write of at most PIPE_BUF, so that lines of threads never mix in a pipe. */
#define LINE_LEN PIPE_BUF
#define MESSAGE_LEN 2048
/* Names of fields are short and fixed; longer values (a reason) are cut. */
#define FIELD_LEN 512
#define FIELDS_MAX 12

const struct enum_name log_level_names[] = {
	{LOG_LEVEL_ERROR, "error"}, {LOG_LEVEL_WARNING, "warning"}, {LOG_LEVEL_NOTICE, "notice"},
	{LOG_LEVEL_INFO, "info"},   {LOG_LEVEL_DEBUG, "debug"},	    {0, NULL},
};

/* Set once by log_open before threads start; only the level may change later. */
static struct {
	enum log_target target;
	const char *ident;
	atomic_int level;
} log_state = {.target = LOG_TARGET_STDERR, .ident = "memoc", .level = LOG_LEVEL_INFO};

void log_open(enum log_target target, enum log_level level, const char *ident)
{
	log_state.target = target;
	log_state.ident = ident;
	atomic_store(&log_state.level, (int)level);
}

void log_set_level(enum log_level level)
{
	atomic_store(&log_state.level, (int)level);
}

/* ---- stderr ---- */

struct line {
	char text[LINE_LEN];
	size_t used;
	bool has_fields;
};

static void line_field(struct line *l, const char *name, const char *value)
{
	bool quote = value && strpbrk(value, " []\"=");

	if (!value)
		return;
	l->used = text_add(l->text, sizeof(l->text) - 2, l->used, "%s%s=%s%s%s", l->has_fields ? " " : " [", name,
			   quote ? "\"" : "", value, quote ? "\"" : "");
	l->has_fields = true;
}

static void line_bytes(struct line *l, const char *name, bool has, uint64_t bytes)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)bytes);
	line_field(l, name, has ? text : NULL);
}

static void to_stderr(enum log_level level, const struct log_fields *f, const char *message)
{
	struct line l = {.used = 0};

	/* Two bytes are kept back throughout for "]" and the line end. */
	l.used = text_add(l.text, sizeof(l.text) - 2, 0, "%s: %s", enum_to_name(log_level_names, (int)level), message);
	line_field(&l, "vm", f->vm);
	line_field(&l, "uuid", f->uuid);
	line_field(&l, "state", f->state);
	line_field(&l, "event", f->event);
	line_bytes(&l, "from", f->has_from, f->from_bytes);
	line_bytes(&l, "to", f->has_to, f->to_bytes);
	line_field(&l, "reason", f->reason);
	if (l.has_fields)
		l.text[l.used++] = ']';
	l.text[l.used++] = '\n';
	/* Nobody could be told that stderr is gone. */
	while (write(STDERR_FILENO, l.text, l.used) < 0 && errno == EINTR)
		;
}

/* ---- journal ---- */

struct entry {
	char text[FIELDS_MAX][FIELD_LEN];
	struct iovec iov[FIELDS_MAX + 1]; /* and the message */
	int n;
};

static void entry_field(struct entry *e, const char *name, const char *value)
{
	int len;

	if (!value || e->n == FIELDS_MAX)
		return;
	len = snprintf(e->text[e->n], FIELD_LEN, "%s=%s", name, value);
	e->iov[e->n].iov_base = e->text[e->n];
	e->iov[e->n].iov_len = min_u64((uint64_t)len, FIELD_LEN - 1);
	e->n++;
}

static void entry_number(struct entry *e, const char *name, bool has, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	entry_field(e, name, has ? text : NULL);
}

static int to_journal(enum log_level level, const struct log_fields *f, const char *message)
{
	struct entry e = {.n = 0};
	char text[MESSAGE_LEN + sizeof("MESSAGE=")];

	entry_number(&e, "PRIORITY", true, level);
	entry_field(&e, "SYSLOG_IDENTIFIER", log_state.ident);
	entry_field(&e, "MESSAGE_ID", f->message_id);
	entry_field(&e, "MEMOC_VM", f->vm);
	entry_field(&e, "MEMOC_UUID", f->uuid);
	entry_field(&e, "MEMOC_STATE", f->state);
	entry_field(&e, "MEMOC_EVENT", f->event);
	entry_number(&e, "MEMOC_FROM_BYTES", f->has_from, f->from_bytes);
	entry_number(&e, "MEMOC_TO_BYTES", f->has_to, f->to_bytes);
	entry_field(&e, "MEMOC_REASON", f->reason);
	snprintf(text, sizeof(text), "MESSAGE=%s", message);
	e.iov[e.n].iov_base = text;
	e.iov[e.n].iov_len = strlen(text);
	return sd_journal_sendv(e.iov, e.n + 1);
}

void log_fields(enum log_level level, const struct log_fields *fields, const char *fmt, ...)
{
	static const struct log_fields none;
	char message[MESSAGE_LEN];
	int saved_errno = errno;
	va_list args;

	if ((int)level > atomic_load(&log_state.level))
		return;
	if (!fields)
		fields = &none;
	va_start(args, fmt);
	if (vsnprintf(message, sizeof(message), fmt, args) < 0)
		snprintf(message, sizeof(message), "%s", fmt);
	va_end(args);
	/* A journal that refuses the entry must not swallow it. */
	if (log_state.target == LOG_TARGET_STDERR || to_journal(level, fields, message) < 0)
		to_stderr(level, fields, message);
	errno = saved_errno;
}
