/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/sim/trace_read.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#define OWN_HEADER "time_s,vm,size_mib,demand_mib"
#define OWN_COLUMNS 4
#define SLOTS_MIN 1024

/* ---- faults ---- */

void reader_fault(struct reader *r, size_t column, const char *fmt, ...)
{
	unsigned long long line = r->line_number;
	struct memoc_err *e;
	char text[300];
	va_list args;

	if (r->report.n++ >= TRACE_FAULTS_MAX)
		return;
	e = &r->report.first[r->report.n - 1];
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (line == 0)
		memoc_err_set(e, 0, "%s: %s", r->file, text);
	else if (column == 0)
		memoc_err_set(e, 0, "%s:%llu: %s", r->file, line, text);
	else
		memoc_err_set(e, 0, "%s:%llu:%zu: %s", r->file, line, column, text);
}

const char *cell_shown(char buf[CELL_SHOWN_LEN], const struct cell *c)
{
	const size_t most = 40;
	int len = (int)(c->len < most ? c->len : most);

	snprintf(buf, CELL_SHOWN_LEN, "\"%.*s%s\"", len, c->text, c->len > most ? "..." : "");
	return buf;
}

/* ---- numbers ---- */

struct decimal {
	uint64_t digits; /* digits × 10^exponent */
	int exponent;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Digits from at on, beyond 19 of them only their number; where they end. */
static size_t scan_digits(const struct cell *c, size_t at, bool fraction, struct decimal *d)
{
	for (; at < c->len && is_digit(c->text[at]); at++) {
		bool kept = d->digits <= (UINT64_MAX - 9) / 10;

		if (kept)
			d->digits = d->digits * 10 + (uint64_t)(c->text[at] - '0');
		d->exponent += (int)!kept - (int)fraction;
	}
	return at;
}

/* "E7", "e-3" from at on; at itself where it is none. */
static size_t scan_exponent(const struct cell *c, size_t at, struct decimal *d)
{
	const int most = 9999;
	bool negative;
	size_t i = at + 1;
	int value = 0;

	if (at >= c->len || (c->text[at] != 'e' && c->text[at] != 'E'))
		return at;
	negative = i < c->len && c->text[i] == '-';
	i += negative || (i < c->len && c->text[i] == '+');
	if (i >= c->len)
		return at;
	for (; i < c->len; i++) {
		if (!is_digit(c->text[i]))
			return at;
		value = value < most ? value * 10 + (c->text[i] - '0') : value;
	}
	d->exponent += negative ? -value : value;
	return i;
}

static bool scan_decimal(const struct cell *c, bool exponent, struct decimal *ret)
{
	struct decimal d = {0};
	size_t at = scan_digits(c, 0, false, &d);

	if (at == 0)
		return false;
	if (at < c->len && c->text[at] == '.') {
		size_t begin = at + 1;

		at = scan_digits(c, begin, true, &d);
		if (at == begin)
			return false;
	}
	if (exponent)
		at = scan_exponent(c, at, &d);
	*ret = d;
	return at == c->len;
}

/* d × unit, to the nearest; above max: something above max. */
static uint64_t decimal_times(struct decimal d, uint64_t unit, uint64_t max)
{
	unsigned __int128 v = (unsigned __int128)d.digits * unit, divisor = 1;

	if (v == 0)
		return 0;
	for (; d.exponent > 0 && v <= max; d.exponent--)
		v *= 10;
	if (d.exponent < -38) /* less than 2^84 / 10^39 */
		return 0;
	for (; d.exponent < 0; d.exponent++)
		divisor *= 10;
	if (v <= UINT64_MAX / 2 && divisor <= UINT64_MAX / 2) /* the same, quicker */
		return ((uint64_t)v + (uint64_t)divisor / 2) / (uint64_t)divisor;
	v = (v + divisor / 2) / divisor;
	return v > max ? max + 1 : (uint64_t)v;
}

bool reader_decimal(struct reader *r, const struct cell *c, const struct decimal_form *form, uint64_t *ret)
{
	char shown[CELL_SHOWN_LEN];
	struct decimal d;
	uint64_t v;

	if (c->len > 1 && c->text[0] == '-' && is_digit(c->text[1])) {
		reader_fault(r, c->column, "%s %s is negative", form->name, cell_shown(shown, c));
		return false;
	}
	if (!scan_decimal(c, form->exponent, &d)) {
		reader_fault(r, c->column, "%s %s is not a number such as 512 or 0.25", form->name,
			     cell_shown(shown, c));
		return false;
	}
	v = decimal_times(d, form->unit, form->max);
	if (v > form->max) {
		reader_fault(r, c->column, "%s %s is too large; at most %llu", form->name, cell_shown(shown, c),
			     (unsigned long long)(form->max / form->unit));
		return false;
	}
	*ret = v;
	return true;
}

/* ---- VMs by name ---- */

/* FNV-1a. */
static size_t name_hash(const char *name, size_t len)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char)name[i]) * UINT64_C(0x100000001b3);
	return (size_t)(h ^ h >> 32);
}

/* Where it is or would be. */
static size_t find_slot(const struct reader *r, const char *name, size_t len)
{
	size_t at = name_hash(name, len) & (r->slots_n - 1);

	for (; r->slots[at]; at = (at + 1) & (r->slots_n - 1)) {
		const char *other = r->t->vms[r->slots[at] - 1].name;

		if (memcmp(other, name, len) == 0 && other[len] == '\0')
			break;
	}
	return at;
}

size_t reader_find(const struct reader *r, const char *name, size_t len)
{
	uint32_t found = r->slots_n && len < TRACE_NAME_MAX ? r->slots[find_slot(r, name, len)] : 0;

	return found ? found - 1 : r->t->n;
}

/* At most half of the slots are ever taken. */
static int grow_slots(struct reader *r)
{
	size_t n = r->slots_n ? 2 * r->slots_n : SLOTS_MIN;
	uint32_t *slots;

	if (2 * (r->t->n + 1) <= r->slots_n)
		return 0;
	slots = calloc(n, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(r->slots);
	r->slots = slots;
	r->slots_n = n;
	for (size_t i = 0; i < r->t->n; i++)
		r->slots[find_slot(r, r->t->vms[i].name, strlen(r->t->vms[i].name))] = (uint32_t)i + 1;
	return 0;
}

int reader_add_vm(struct reader *r, const char *name, uint64_t size_bytes, size_t column, size_t *ret_vm)
{
	const char *problem = trace_name_problem(name, strlen(name));
	struct cell c = {.text = name, .len = strlen(name)};
	char shown[CELL_SHOWN_LEN];
	int e;

	if (problem) {
		reader_fault(r, column, "vm %s %s", cell_shown(shown, &c), problem);
		return -EINVAL;
	}
	e = grow_slots(r);
	if (e == 0)
		e = trace_add_vm(r->t, name, size_bytes, ret_vm);
	if (e == 0)
		r->slots[find_slot(r, name, c.len)] = (uint32_t)*ret_vm + 1;
	return e;
}

/* ---- our own format ---- */

/* Behind the closing quote of the one at offset `at`; 0 where it is not closed. A doubled quote is part of the text. */
static size_t quoted_end(const struct source_line *line, size_t at)
{
	for (size_t i = at + 1; i < line->len; i++) {
		if (line->text[i] != '"')
			continue;
		if (i + 1 >= line->len || line->text[i + 1] != '"')
			return i + 1;
		i++;
	}
	return 0;
}

/* The cell that begins at offset `at`; its end, or −1 with a fault noted. */
static ssize_t own_cell(struct reader *r, const struct source_line *line, size_t at, struct cell *ret)
{
	const char *comma = memchr(line->text + at, ',', line->len - at);
	size_t end = comma ? (size_t)(comma - line->text) : line->len;

	if (at < line->len && line->text[at] == '"') {
		end = quoted_end(line, at);
		if (end == 0 || (end < line->len && line->text[end] != ',')) {
			reader_fault(r, at + 1, "the double quote is not closed before a comma or the line's end");
			return -1;
		}
	}
	*ret = (struct cell){.text = line->text + at, .len = end - at, .column = at + 1};
	return (ssize_t)end;
}

static bool own_split(struct reader *r, const struct source_line *line, struct cell ret[OWN_COLUMNS])
{
	size_t n = 0, at = 0;

	for (;; at++) {
		struct cell c;
		ssize_t end = own_cell(r, line, at, &c);

		if (end < 0)
			return false;
		if (n < OWN_COLUMNS)
			ret[n] = c;
		n++;
		at = (size_t)end;
		if (at >= line->len)
			break;
	}
	if (n != OWN_COLUMNS)
		reader_fault(r, line->len + 1, "%zu column%s, wanted are 4: " OWN_HEADER, n, n == 1 ? "" : "s");
	return n == OWN_COLUMNS;
}

/* The name with its quotes taken off; false (fault noted) where it holds a NUL or is too long for buf. */
static bool own_name(struct reader *r, const struct cell *c, char buf[TRACE_NAME_MAX])
{
	bool quoted = c->len && c->text[0] == '"';
	size_t len = 0, end = c->len - quoted;
	const char *problem;

	for (size_t i = quoted; i < end && len < TRACE_NAME_MAX; i++) {
		i += quoted && c->text[i] == '"';
		buf[len++] = c->text[i];
	}
	problem = trace_name_problem(buf, len);
	if (problem) {
		char shown[CELL_SHOWN_LEN];

		reader_fault(r, c->column, "vm %s %s", cell_shown(shown, c), problem);
		return false;
	}
	buf[len] = '\0';
	return true;
}

static int own_add(struct reader *r, size_t column, const char *name, uint64_t time_ms, uint64_t size_bytes,
		   uint64_t demand_bytes)
{
	size_t vm = reader_find(r, name, strlen(name));
	int e = 0;

	if (vm == r->t->n)
		e = reader_add_vm(r, name, size_bytes, column, &vm);
	if (e < 0)
		return e;
	r->t->vms[vm].size_bytes = max_u64(r->t->vms[vm].size_bytes, size_bytes);
	r->last_ms = time_ms;
	r->rows++;
	return trace_add(r->t, vm, time_ms, min_u64(demand_bytes, size_bytes));
}

static int own_row(struct reader *r, const struct source_line *line)
{
	static const struct decimal_form time_form = {"time_s", 1000, TRACE_TIME_MAX_MS, false};
	static const struct decimal_form size_form = {"size_mib", MIB, TRACE_BYTES_MAX, false};
	static const struct decimal_form demand_form = {"demand_mib", MIB, TRACE_BYTES_MAX, false};
	uint64_t time_ms, size_bytes, demand_bytes;
	struct cell c[OWN_COLUMNS];
	char name[TRACE_NAME_MAX], shown[CELL_SHOWN_LEN];

	if (!own_split(r, line, c) || !reader_decimal(r, &c[0], &time_form, &time_ms))
		return 0;
	if (time_ms < r->last_ms) {
		reader_fault(r, c[0].column, "time_s %s is before %llu.%03llu of a row above; sort the rows by time",
			     cell_shown(shown, &c[0]), (unsigned long long)(r->last_ms / 1000),
			     (unsigned long long)(r->last_ms % 1000));
		return 0;
	}
	if (!own_name(r, &c[1], name) || !reader_decimal(r, &c[2], &size_form, &size_bytes) ||
	    !reader_decimal(r, &c[3], &demand_form, &demand_bytes))
		return 0;
	if (size_bytes == 0) {
		reader_fault(r, c[2].column, "size_mib is 0: a VM has memory");
		return 0;
	}
	return own_add(r, c[1].column, name, time_ms, size_bytes, demand_bytes);
}

/* ---- files ---- */

enum format { FORMAT_UNKNOWN, FORMAT_OWN, FORMAT_GWA };

/* By the first line that says anything: the separator that comes first, or how a header begins. */
static enum format line_format(const struct source_line *line)
{
	static const char gwa_begin[] = "Timestamp";

	if (line->len >= strlen(gwa_begin) && memcmp(line->text, gwa_begin, strlen(gwa_begin)) == 0)
		return FORMAT_GWA;
	for (size_t i = 0; i < line->len; i++)
		if (line->text[i] == ',' || line->text[i] == ';')
			return line->text[i] == ';' ? FORMAT_GWA : FORMAT_OWN;
	return FORMAT_OWN;
}

struct file_state {
	enum format format;
	const char *vm_name; /* of a GWA-T-12 file */
	bool in_folder, skip_rest;
	struct gwa gwa;
};

/* The first line of all tells the format, and is a header in GWA-T-12 and may be in ours. */
static int first_line(struct reader *r, struct file_state *f, const struct source_line *line)
{
	int e;

	f->format = f->in_folder ? FORMAT_GWA : line_format(line);
	if (f->format == FORMAT_OWN) {
		bool header = line->len == strlen(OWN_HEADER) && memcmp(line->text, OWN_HEADER, line->len) == 0;

		return header ? 0 : own_row(r, line);
	}
	r->gwa = f->skip_rest = true;
	if (!gwa_header(r, line, &f->gwa))
		return 0;
	if (reader_find(r, f->vm_name, strlen(f->vm_name)) < r->t->n) {
		reader_fault(r, 0, "there is another file for VM \"%s\"; remove one", f->vm_name);
		return 0;
	}
	e = reader_add_vm(r, f->vm_name, 1, 0, &f->gwa.vm);
	if (e == 0) {
		r->t->vms[f->gwa.vm].size_bytes = 0; /* the rows will tell */
		f->skip_rest = false;
	}
	return e == -EINVAL ? 0 : e;
}

static int one_line(struct reader *r, struct file_state *f, const struct source_line *line)
{
	if (line->len == 0 || line->text[0] == '#')
		return 0;
	if (line->overlong) {
		reader_fault(r, TRACE_LINE_MAX + 1, "the line is longer than %d bytes", TRACE_LINE_MAX);
		return 0;
	}
	if (f->format == FORMAT_UNKNOWN)
		return first_line(r, f, line);
	return f->format == FORMAT_OWN ? own_row(r, line) : gwa_row(r, &f->gwa, line);
}

static int too_much(const struct reader *r, int e, struct memoc_err *err)
{
	if (e == -E2BIG)
		return memoc_err_set(err, e,
				     "%s:%llu: too much for one trace: at most %d VMs and %zu changes of demand",
				     r->file, (unsigned long long)r->line_number, TRACE_VMS_MAX, TRACE_POINTS_MAX);
	return memoc_err_set(err, e, "%s:%llu: %s", r->file, (unsigned long long)r->line_number,
			     e == -ENOMEM ? "out of memory" : strerror(-e));
}

static int read_lines(struct reader *r, struct source *s, struct file_state *f, struct memoc_err *err)
{
	struct source_line line;
	int e;

	while ((e = source_line(s, &line, err)) > 0 && !f->skip_rest) {
		r->line_number = line.number;
		e = one_line(r, f, &line);
		if (e < 0)
			return too_much(r, e, err);
	}
	return e < 0 ? e : 0;
}

/* file: for errors. A file without a good or a bad row is bad itself. */
static int read_fd(struct reader *r, int fd, const char *file, struct file_state *f, struct memoc_err *err)
{
	uint64_t faults_before = r->report.n;
	struct source *s = NULL;
	int e;

	r->file = file;
	r->line_number = 0;
	r->rows = r->last_ms = 0;
	e = source_new(fd, file, &s, err);
	if (e == 0)
		e = read_lines(r, s, f, err);
	source_free(s);
	r->line_number = 0;
	if (e == 0 && r->rows == 0 && r->report.n == faults_before)
		reader_fault(r, 0, "has no rows; wanted are lines of " OWN_HEADER " or a file of GWA-T-12");
	return e;
}

/* Length of a trace's file name without its endings; *ret_csv says whether one of them was ".csv". */
static size_t stem_len(const char *name, bool *ret_csv)
{
	size_t len = strlen(name);

	if (len > 3 && (strcmp(name + len - 3, ".gz") == 0 || strcmp(name + len - 3, ".xz") == 0))
		len -= 3;
	*ret_csv = len > 4 && memcmp(name + len - 4, ".csv", 4) == 0;
	return *ret_csv ? len - 4 : len;
}

/* The end of a long path is what tells files apart. */
#define SHOWN_LEN 160
static const char *path_shown(char buf[SHOWN_LEN], const char *folder, const char *name)
{
	size_t folder_len = strlen(folder), name_len = strlen(name), kept = SHOWN_LEN - 8;
	bool slash = folder_len && folder[folder_len - 1] != '/';

	if (folder_len + slash + name_len <= kept)
		snprintf(buf, SHOWN_LEN, "%s%s%s", folder, slash ? "/" : "", name);
	else
		snprintf(buf, SHOWN_LEN, "...%s", name_len > kept ? name + (name_len - kept) : name);
	return buf;
}

static int read_file(struct reader *r, const char *path, int fd, struct memoc_err *err)
{
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	bool input = strcmp(path, "-") == 0, csv;
	char shown[SHOWN_LEN], *name AUTO_FREE = NULL;
	struct file_state f = {0};
	int e;

	name = input ? strdup("stdin") : strndup(base, stem_len(base, &csv));
	if (!name)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	f.vm_name = name;
	e = read_fd(r, fd, input ? "standard input" : path_shown(shown, "", path), &f, err);
	r->file = NULL;
	return e;
}

static int is_trace_file(const struct dirent *d)
{
	bool csv;

	stem_len(d->d_name, &csv);
	return csv && d->d_name[0] != '.';
}

static int read_in_folder(struct reader *r, const char *folder, int folder_fd, const char *base, struct memoc_err *err)
{
	struct file_state f = {.in_folder = true};
	char shown[SHOWN_LEN], *name AUTO_FREE = NULL;
	int fd AUTO_CLOSE = -1;
	struct stat st;
	bool csv;
	int e;

	path_shown(shown, folder, base);
	/* a fifo without a writer must not hold us up */
	fd = openat(folder_fd, base, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return memoc_err_set(err, -errno, "%s: cannot be opened: %s", shown, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return memoc_err_set(err, -EINVAL, "%s: is not a file; move it out of the folder", shown);
	name = strndup(base, stem_len(base, &csv));
	if (!name)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	f.vm_name = name;
	e = read_fd(r, fd, shown, &f, err);
	r->file = NULL;
	return e;
}

static int read_folder(struct reader *r, const char *path, int fd, struct memoc_err *err)
{
	struct dirent **entries = NULL;
	int n = scandirat(fd, ".", &entries, is_trace_file, versionsort), e = 0;
	char shown[SHOWN_LEN];

	path_shown(shown, "", path);
	if (n < 0)
		return memoc_err_set(err, -errno, "%s: cannot be read: %s", shown, strerror(errno));
	if (n == 0)
		e = memoc_err_set(err, -EINVAL, "%s: no file there is called *.csv, *.csv.gz or *.csv.xz", shown);
	for (int i = 0; i < n; i++) {
		if (e == 0)
			e = read_in_folder(r, path, fd, entries[i]->d_name, err);
		free(entries[i]);
	}
	free(entries);
	return e;
}

static int open_trace(const char *path, bool *ret_folder, struct memoc_err *err)
{
	int fd AUTO_CLOSE = strcmp(path, "-") == 0 ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
						   : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	char shown[SHOWN_LEN];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return memoc_err_set(err, -errno, "%s: cannot be opened: %s", path_shown(shown, "", path),
				     strerror(errno));
	*ret_folder = S_ISDIR(st.st_mode);
	return TAKE_FD(fd);
}

/* All was read: is it good, and is there anything? */
static int judge(const struct reader *r, const char *path, struct memoc_err *err)
{
	unsigned long long more = r->report.n - 1;
	char shown[SHOWN_LEN];

	if (r->report.n == 0 && r->t->n == 0)
		return memoc_err_set(err, -EINVAL, "%s: no VM there has any memory", path_shown(shown, "", path));
	if (r->report.n == 0)
		return 0;
	if (more == 0)
		return memoc_err_set(err, -EINVAL, "%s", r->report.first[0].text);
	return memoc_err_set(err, -EINVAL, "%.360s (and %llu more)", r->report.first[0].text, more);
}

int trace_read_report(const char *path, struct trace **ret, struct trace_report *ret_report, struct memoc_err *err)
{
	struct reader r = {.t = trace_new()};
	bool folder = false;
	int fd AUTO_CLOSE = -1, e;

	if (ret_report)
		*ret_report = (struct trace_report){0};
	if (!r.t)
		return memoc_err_set(err, -ENOMEM, "out of memory");
	fd = open_trace(path, &folder, err);
	e = fd < 0 ? fd : folder ? read_folder(&r, path, fd, err) : read_file(&r, path, fd, err);
	r.report.broken_off = e < 0;
	if (e == 0 && r.gwa)
		gwa_finish(r.t);
	if (e == 0)
		e = judge(&r, path, err);
	if (ret_report)
		*ret_report = r.report;
	free(r.slots);
	if (e < 0)
		trace_free(r.t);
	else
		*ret = r.t;
	return e;
}

int trace_read(const char *path, struct trace **ret, struct memoc_err *err)
{
	return trace_read_report(path, ret, NULL, err);
}
