/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tables by libsmartcols. Where the terminal is narrower than the table, whole columns are left out, least important
 * first, and only then text is cut: a row never wraps.
 */
#include "controller/cli/cli.h"

#include <errno.h>
#include <libsmartcols/libsmartcols.h>
#include <string.h>
#include <wchar.h>

#include "common/parse.h"

#define GAP 1 /* columns between two cells, as libsmartcols puts them */

struct cell {
	char *text;
	enum table_color color;
};

struct table {
	const struct table_column *columns;
	size_t n_columns;
	struct cell *cells; /* row after row */
	size_t n, room;
	int error;
};

static const char *const colors[] = {
	[COLOR_GOOD] = "green", [COLOR_BUSY] = "cyan",	  [COLOR_WARN] = "yellow",
	[COLOR_BAD] = "red",	[COLOR_DIM] = "darkgray",
};

struct table *table_new(const struct table_column *columns, size_t n)
{
	struct table *t = calloc(1, sizeof(*t));

	if (t) {
		t->columns = columns;
		t->n_columns = n;
	}
	return t;
}

struct table *table_free(struct table *t)
{
	if (!t)
		return NULL;
	for (size_t i = 0; i < t->n; i++)
		free(t->cells[i].text);
	free(t->cells);
	free(t);
	return NULL;
}

void table_cell(struct table *t, const char *text, enum table_color color)
{
	if (!t || t->error)
		return;
	if (t->n == t->room) {
		size_t room = t->room ? 2 * t->room : 64;
		struct cell *cells = reallocarray(t->cells, room, sizeof(*cells));
		if (!cells) {
			t->error = -ENOMEM;
			return;
		}
		t->cells = cells;
		t->room = room;
	}
	t->cells[t->n] = (struct cell){strdup(text && *text ? text : "-"), color};
	if (t->cells[t->n].text)
		t->n++;
	else
		t->error = -ENOMEM;
}

const char *size_short(char buf[SIZE_SHORT_LEN], uint64_t bytes)
{
	char human[FORMAT_SIZE_LEN];
	char *space;

	format_size(human, bytes);
	space = strchr(human, ' ');
	/* "1.5 GiB" → "1.5G", "12 B" → "12" */
	if (space) {
		space[0] = space[1] == 'B' ? '\0' : space[1];
		space[1] = '\0';
	}
	snprintf(buf, SIZE_SHORT_LEN, "%.*s", SIZE_SHORT_LEN - 1, human);
	return buf;
}

const char *size_short_json(char buf[SIZE_SHORT_LEN], const struct json *size, const char *unknown)
{
	uint64_t bytes;

	return json_u64(size, &bytes) == 0 ? size_short(buf, bytes) : unknown;
}

void table_size(struct table *t, const struct json *size, enum table_color color)
{
	char buf[SIZE_SHORT_LEN];

	table_cell(t, size_short_json(buf, size, "-"), color);
}

/*
 * The character at text: its bytes, and its columns on screen. libsmartcols prints what is no character of this locale
 * as \x.., four columns a byte.
 */
static size_t char_bytes(const char *text, size_t *ret_width)
{
	mbstate_t state = {0};
	wchar_t c;
	size_t n = mbrtowc(&c, text, MB_CUR_MAX, &state);
	int width = n != (size_t)-1 && n != (size_t)-2 ? wcwidth(c) : -1;

	if (width < 0) {
		*ret_width = 4;
		return 1;
	}
	*ret_width = (size_t)width;
	return n;
}

static size_t text_width(const char *text)
{
	size_t total = 0, width;

	for (; *text; total += width)
		text += char_bytes(text, &width);
	return total;
}

/* Cuts text that is wider, and marks the cut by a '~'. */
static void cut_text(char *text, size_t most)
{
	size_t at = 0, used = 0, width, n;

	if (text_width(text) <= most || most == 0)
		return;
	for (;; at += n, used += width) {
		n = char_bytes(text + at, &width);
		if (used + width > most - 1)
			break;
	}
	strcpy(text + at, "~");
}

static size_t column_width(const struct table *t, size_t column)
{
	size_t width = text_width(t->columns[column].name);

	for (size_t i = column; i < t->n; i += t->n_columns)
		if (text_width(t->cells[i].text) > width)
			width = text_width(t->cells[i].text);
	return width;
}

/* The least that it can be shown in. */
static size_t least_width(const struct table *t, size_t column)
{
	size_t width = column_width(t, column);

	return t->columns[column].cut ? min_u64(width, t->columns[column].cut) : width;
}

/* Which columns fit: bit i of the result is column i. */
static uint64_t choose_columns(const struct table *t, unsigned terminal_width)
{
	uint64_t shown = (UINT64_C(1) << t->n_columns) - 1;
	size_t total = 0;

	for (size_t c = 0; c < t->n_columns; c++)
		total += least_width(t, c) + (c > 0 ? GAP : 0);
	while (terminal_width > 0 && total > terminal_width) {
		size_t victim = t->n_columns;
		for (size_t c = 0; c < t->n_columns; c++)
			if (shown >> c & 1 && t->columns[c].drop > 0 &&
			    (victim == t->n_columns || t->columns[c].drop > t->columns[victim].drop))
				victim = c;
		if (victim == t->n_columns)
			break;
		shown &= ~(UINT64_C(1) << victim);
		total -= least_width(t, victim) + GAP;
	}
	return shown;
}

/* Cuts what must be cut; the rightmost column that may be cut gets what is to spare, or gives what is missing. */
static void cut_columns(struct table *t, uint64_t shown, unsigned terminal_width)
{
	size_t total = 0;

	for (size_t c = 0; c < t->n_columns; c++)
		if (shown >> c & 1)
			total += least_width(t, c) + (total > 0 ? GAP : 0);
	for (size_t c = t->n_columns; terminal_width > 0 && c-- > 0;) {
		size_t least = least_width(t, c), head = text_width(t->columns[c].name), change;
		if (!(shown >> c & 1) || !t->columns[c].cut)
			continue;
		if (total > terminal_width) {
			change = min_u64(sub_sat_u64(least, head), total - terminal_width);
			least -= change;
			total -= change;
		} else {
			change = min_u64(column_width(t, c) - least, terminal_width - total);
			least += change;
			total += change;
		}
		for (size_t i = c; i < t->n; i += t->n_columns)
			cut_text(t->cells[i].text, least);
	}
}

static int fill_line(const struct table *t, struct libscols_line *line, size_t row, uint64_t shown)
{
	size_t at = 0;

	for (size_t c = 0; c < t->n_columns; c++) {
		const struct cell *cell = &t->cells[row * t->n_columns + c];
		if (!(shown >> c & 1))
			continue;
		if (scols_line_set_data(line, at, cell->text) != 0)
			return -ENOMEM;
		if (cell->color != COLOR_NONE &&
		    scols_cell_set_color(scols_line_get_cell(line, at), colors[cell->color]) != 0)
			return -ENOMEM;
		at++;
	}
	return 0;
}

static int fill(const struct table *t, struct libscols_table *s, uint64_t shown)
{
	for (size_t c = 0; c < t->n_columns; c++) {
		const struct table_column *col = &t->columns[c];
		int flags = col->right ? SCOLS_FL_RIGHT : 0;
		if (shown >> c & 1 && !scols_table_new_column(s, col->name, 1, flags))
			return -ENOMEM;
	}
	for (size_t row = 0; row * t->n_columns < t->n; row++) {
		struct libscols_line *line = scols_table_new_line(s, NULL);
		if (!line || fill_line(t, line, row, shown) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int render(const struct table *t, const struct cli *cli, uint64_t shown, char **ret)
{
	struct libscols_table *s = scols_new_table();
	int r = s ? fill(t, s, shown) : -ENOMEM;

	if (r == 0) {
		scols_table_enable_colors(s, cli->color);
		scols_table_set_termforce(s, cli->width ? SCOLS_TERMFORCE_ALWAYS : SCOLS_TERMFORCE_NEVER);
		if (cli->width)
			scols_table_set_termwidth(s, cli->width);
		r = scols_print_table_to_string(s, ret) != 0 ? -ENOMEM : 0;
	}
	scols_unref_table(s);
	return r;
}

int table_print(struct table *t, struct cli *cli)
{
	char *text AUTO_FREE = NULL;
	uint64_t shown;
	int r, hidden;

	if (!t || t->error || !cli->out)
		return cli_fail(cli, CLI_FAILED, "cannot make the table: %s", strerror(ENOMEM));
	shown = choose_columns(t, cli->width);
	cut_columns(t, shown, cli->width);
	r = render(t, cli, shown, &text);
	if (r < 0)
		return cli_fail(cli, CLI_FAILED, "cannot make the table: %s", strerror(-r));
	/* without rows libsmartcols prints nothing, not even headings */
	fputs(text ? text : "", cli->out);
	if (text && *text && text[strlen(text) - 1] != '\n')
		fputc('\n', cli->out);
	hidden = (int)t->n_columns - __builtin_popcountll(shown);
	if (hidden > 0 && t->n > 0)
		cli_line(cli, "(%d column%s left out; widen the terminal, or use --json)", hidden,
			 hidden == 1 ? "" : "s");
	return CLI_DONE;
}
