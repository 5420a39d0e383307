/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drawing the collected series as SVG: plain shapes and text on a light background of its own (dark viewers leave it),
 * no scripts, no fonts but those of the viewer. Lengths are pixels of SVG's user space.
 */
#include "controller/sim/plot_internal.h"

#include "common/parse.h"
#include "common/text.h"

#include <errno.h>
#include <string.h>

#define WIDTH 1120
#define MARGIN 24
#define HEAD 96	  /* title, figures, legend */
#define GUTTER 62 /* labels of the axis of sizes, left of a panel */
#define GAP 22	  /* between two panels, beside each other */

/* Okabe and Ito's colours: apart for eyes that do not see red and green apart too. */
#define DEMAND "#0072b2"
#define SIZE "#009e73"
#define UNMET "#d55e00"
#define INK "#222222"
#define FAINT "#667085"
#define GRID "#e3e6eb"

/* Where something is drawn and what its edges mean. */
struct panel {
	int x, y, width, height; /* of the plot itself, without labels */
	uint64_t end_ms, top_bytes;
};

/* ---- text ---- */

/* Escaped for XML, control characters and what is no UTF-8 replaced; cut to `most` bytes with a mark of the cut. */
static void put_text(FILE *out, const char *text, size_t most)
{
	char buf[512];
	size_t used = text_add(buf, sizeof(buf), 0, "%s", text);
	bool cut = used > most || strlen(buf) > most;

	if (cut)
		buf[text_utf8_valid_len(buf, most)] = '\0';
	for (const char *c = buf; *c; c++)
		if (strchr("&<>\"'", *c))
			fprintf(out, "&#%d;", *c);
		else
			fputc(*c, out);
	if (cut)
		fputs("…", out);
}

static void put_label(FILE *out, int x, int y, const char *class, const char *text)
{
	fprintf(out, "<text x=\"%d\" y=\"%d\" class=\"%s\">", x, y, class);
	put_text(out, text, 400);
	fputs("</text>\n", out);
}

/* ---- round ticks ---- */

struct unit {
	const char *name;
	uint64_t value;
};

/* The greatest unit that is not above v; the first where all are. */
static const struct unit *unit_of(const struct unit *units, size_t n, uint64_t v)
{
	while (n > 1 && units[n - 1].value > v)
		n--;
	return &units[n - 1];
}

/* 1, 2 or 5 times a power of ten units, so that at most `most` of them fit under top. */
static uint64_t size_step(uint64_t top, unsigned most, const struct unit **ret_unit)
{
	static const struct unit units[] = {{"B", 1}, {"KiB", KIB}, {"MiB", MIB}, {"GiB", GIB}, {"TiB", GIB * 1024}};
	static const unsigned factors[] = {1, 2, 5};
	const struct unit *unit = unit_of(units, ARRAY_SIZE(units), top);
	uint64_t power = 1;

	*ret_unit = unit;
	for (unsigned i = 0;; i++) {
		uint64_t step = factors[i % 3] * power * unit->value;
		if (top / step <= most || power > UINT64_MAX / unit->value / 100)
			return step;
		power *= i % 3 == 2 ? 10 : 1;
	}
}

static uint64_t time_step(uint64_t end_ms, unsigned most, const struct unit **ret_unit)
{
	static const unsigned steps_s[] = {1,	  2,	 5,	 10,	 15,	  30,	   60,	    120,
					   300,	  600,	 900,	 1800,	 3600,	  7200,	   10800,   21600,
					   43200, 86400, 172800, 604800, 1209600, 2419200, 7257600, 31536000};
	static const struct unit units[] = {{"s", 1000}, {"min", 60000}, {"h", 3600000}, {"d", 86400000}};
	uint64_t step = 0;

	for (size_t i = 0; i < ARRAY_SIZE(steps_s); i++) {
		step = UINT64_C(1000) * steps_s[i];
		if (end_ms / step <= most)
			break;
	}
	while (end_ms / step > most)
		step *= 2;
	*ret_unit = unit_of(units, ARRAY_SIZE(units), step);
	return step;
}

static double x_of(const struct panel *p, uint64_t time_ms)
{
	return p->x + (double)time_ms / (double)p->end_ms * p->width;
}

static double y_of(const struct panel *p, double bytes)
{
	return p->y + p->height - bytes / (double)p->top_bytes * p->height;
}

/* Lines and labels at round sizes; `most` of them. */
static void put_sizes(FILE *out, const struct panel *p, unsigned most)
{
	const struct unit *unit;
	uint64_t step = size_step(p->top_bytes, most, &unit);

	for (uint64_t v = 0; v <= p->top_bytes; v += step) {
		double y = y_of(p, (double)v);
		fprintf(out, "<path class=\"grid\" d=\"M%d %.1fh%d\"/><text class=\"y\" x=\"%d\" y=\"%.1f\">", p->x, y,
			p->width, p->x - 6, y + 3.5);
		if (v == 0)
			fputs("0</text>\n", out);
		else
			fprintf(out, "%llu %s</text>\n", (unsigned long long)(v / unit->value), unit->name);
	}
}

/* Lines at round times, and where asked for their labels under the panel. */
static void put_times(FILE *out, const struct panel *p, bool labels)
{
	const struct unit *unit;
	uint64_t step = time_step(p->end_ms, (unsigned)(p->width / 64), &unit);

	for (uint64_t t = 0; t <= p->end_ms; t += step) {
		double x = x_of(p, t);
		fprintf(out, "<path class=\"grid\" d=\"M%.1f %dv%d\"/>", x, p->y, p->height);
		if (labels)
			fprintf(out, "<text class=\"x\" x=\"%.1f\" y=\"%d\">%llu %s</text>", x, p->y + p->height + 14,
				(unsigned long long)(t / unit->value), unit->name);
	}
	fputc('\n', out);
}

/* ---- series ---- */

enum curve { CURVE_BELOW_DEMAND, CURVE_DEMAND, CURVE_SIZE, CURVE_UNMET_PEAK, CURVE_UNMET_MEAN };

static double curve_value(const struct plot_bucket *b, enum curve c, bool upper)
{
	switch (c) {
	case CURVE_BELOW_DEMAND:
		return upper ? (double)b->demand_max : 0;
	case CURVE_DEMAND:
		return (double)(upper ? b->demand_max : b->demand_min);
	case CURVE_SIZE:
		return (double)(upper ? b->size_max : b->size_min);
	case CURVE_UNMET_PEAK:
		return upper ? (double)b->unmet_max : 0;
	default:
		return upper ? b->unmet_sum / b->n : 0;
	}
}

/* A pen that draws steps, across and then up or down; equal heights are one line. Tenths of a pixel. */
struct edge {
	FILE *out;
	int x, y; /* where it is; y −1: nowhere yet */
};

static void edge_to(struct edge *e, int x, int y)
{
	if (e->y < 0)
		fprintf(e->out, "M%g %g", x / 10.0, y / 10.0);
	else if (y != e->y && x != e->x)
		fprintf(e->out, "H%gV%g", x / 10.0, y / 10.0);
	else if (y != e->y)
		fprintf(e->out, "V%g", y / 10.0);
	else
		return;
	e->x = x;
	e->y = y;
}

static int tenths(double v)
{
	return (int)(v * 10 + 0.5);
}

/* Buckets merged to whole pixels: columns[i] is what is to be seen at x + i; n = 0 where the one before holds on. */
static void to_columns(const struct plot_series *s, size_t n_buckets, uint64_t width_ms, const struct panel *p,
		       struct plot_bucket *columns)
{
	memset(columns, 0, (size_t)p->width * sizeof(*columns));
	for (size_t i = 0; i < n_buckets; i++) {
		size_t x = (size_t)min_u64((uint64_t)((double)(i * width_ms) / (double)p->end_ms * p->width),
					   (uint64_t)p->width - 1);
		plot_bucket_add(&columns[x], &s->buckets[i]);
	}
}

/* The area between the least and the greatest value of each pixel. */
static void put_curve(FILE *out, const struct panel *p, const struct plot_bucket *columns, enum curve c,
		      const char *class)
{
	struct edge e = {out, 0, -1};
	int right = 10 * (p->x + p->width);

	fprintf(out, "<path class=\"%s\" d=\"", class);
	for (int i = 0; i < p->width; i++)
		if (columns[i].n > 0)
			edge_to(&e, 10 * (p->x + i), tenths(y_of(p, curve_value(&columns[i], c, true))));
	fprintf(out, "H%d", right / 10);
	e.x = right;
	for (int i = p->width; i-- > 0;)
		if (columns[i].n > 0) {
			edge_to(&e, right, tenths(y_of(p, curve_value(&columns[i], c, false))));
			right = 10 * (p->x + i);
		}
	fprintf(out, "H%d", right / 10);
	fputs("z\"/>\n", out);
}

/* ---- panels ---- */

/* How the panels of a row share the width. */
struct layout {
	int columns, plot_height, strip_height, row_height, plot_width;
};

static struct layout layout_of(size_t panels, int most_columns, int plot_height, int strip_height)
{
	struct layout l = {.plot_height = plot_height, .strip_height = strip_height};

	l.columns = (int)min_u64(panels, (uint64_t)most_columns);
	l.plot_width = (WIDTH - 2 * MARGIN - (l.columns - 1) * GAP) / l.columns - GUTTER;
	l.row_height = 22 + plot_height + 10 + strip_height + 34;
	return l;
}

static int layout_height(const struct layout *l, size_t panels)
{
	return ((int)panels + l->columns - 1) / l->columns * l->row_height;
}

/* What a panel shows beside its series. */
struct caption {
	const char *name, *rest;
	uint64_t line_bytes;	   /* dashed: the pool, or the VM's own memory */
	uint64_t unmet_top;	   /* of the strip's axis */
	uint64_t end_ms, width_ms; /* of the axis, of a bucket */
	size_t n_buckets;
};

static int put_panel(FILE *out, const struct layout *l, size_t at, int top, const struct plot_series *s,
		     const struct caption *c)
{
	int x = MARGIN + GUTTER + (int)(at % (size_t)l->columns) * (l->plot_width + GUTTER + GAP);
	int y = top + (int)(at / (size_t)l->columns) * l->row_height + 22;
	uint64_t highest = max_u64(max_u64(s->top_bytes, c->line_bytes), 1);
	struct panel p = {x, y, l->plot_width, l->plot_height, c->end_ms, highest + highest / 20 + 1};
	struct panel strip = {x,
			      y + l->plot_height + 10,
			      l->plot_width,
			      l->strip_height,
			      c->end_ms,
			      c->unmet_top + c->unmet_top / 6 + 1};
	struct plot_bucket *columns AUTO_FREE = calloc((size_t)p.width, sizeof(*columns));

	if (!columns)
		return -ENOMEM;
	to_columns(s, c->n_buckets, c->width_ms, &p, columns);
	fprintf(out, "<g><text class=\"name\" x=\"%d\" y=\"%d\">", x, y - 7);
	put_text(out, c->name, (size_t)l->plot_width / 14);
	fputs("<tspan class=\"rest\" dx=\"8\">", out);
	put_text(out, c->rest, 100);
	fputs("</tspan></text>\n", out);
	put_sizes(out, &p, l->plot_height / 28);
	put_times(out, &p, false);
	put_curve(out, &p, columns, CURVE_BELOW_DEMAND, "below");
	put_curve(out, &p, columns, CURVE_SIZE, "size");
	put_curve(out, &p, columns, CURVE_DEMAND, "demand");
	fprintf(out, "<path class=\"pool\" d=\"M%d %.1fh%d\"/>\n", x, y_of(&p, (double)c->line_bytes), p.width);
	put_sizes(out, &strip, 2);
	put_times(out, &strip, true);
	if (s->unmet_sum > 0) {
		put_curve(out, &strip, columns, CURVE_UNMET_PEAK, "peak");
		put_curve(out, &strip, columns, CURVE_UNMET_MEAN, "mean");
	}
	/* a low strip has no room beside its curve */
	if (s->unmet_sum <= 0)
		put_label(out, x + 5, strip.y + 10, "none", "unmet: none");
	else if (l->strip_height > 40)
		put_label(out, x + 5, strip.y + 10, "some", "unmet");
	fputs("</g>\n", out);
	return 0;
}

/* ---- which hosts and VMs ---- */

struct choice {
	size_t at;
	double unmet;
};

static int most_unmet_first(const void *a, const void *b)
{
	const struct choice *x = a, *y = b;

	if (x->unmet != y->unmet)
		return x->unmet < y->unmet ? 1 : -1;
	return x->at < y->at ? -1 : x->at > y->at;
}

static int in_order(const void *a, const void *b)
{
	const struct choice *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

/* The hosts to be shown, in their order. −ENOMEM. */
static int choose_hosts(const struct plot *p, struct choice ret[PLOT_HOST_PANELS], size_t *ret_n)
{
	struct choice *all AUTO_FREE = calloc(p->n_hosts, sizeof(*all));

	if (!all)
		return -ENOMEM;
	for (size_t i = 0; i < p->n_hosts; i++)
		all[i] = (struct choice){i, p->hosts[i].series.unmet_sum};
	qsort(all, p->n_hosts, sizeof(*all), most_unmet_first);
	*ret_n = min_u64(p->n_hosts, PLOT_HOST_PANELS);
	memcpy(ret, all, *ret_n * sizeof(*all));
	qsort(ret, *ret_n, sizeof(*ret), in_order);
	return 0;
}

/* The VMs that missed most, worst first; none of those that missed nothing. −ENOMEM. */
static int choose_vms(const struct plot *p, struct choice ret[PLOT_VM_PANELS], size_t *ret_n)
{
	struct choice *all AUTO_FREE = calloc(p->n_vms, sizeof(*all));
	size_t n = 0;

	if (!all)
		return -ENOMEM;
	for (size_t i = 0; i < p->n_vms; i++)
		if (p->vms[i].series.buckets && p->vms[i].series.unmet_sum > 0)
			all[n++] = (struct choice){i, p->vms[i].series.unmet_sum};
	qsort(all, n, sizeof(*all), most_unmet_first);
	*ret_n = min_u64(n, PLOT_VM_PANELS);
	memcpy(ret, all, *ret_n * sizeof(*all));
	return 0;
}

/* ---- the whole ---- */

static void put_style(FILE *out)
{
	fputs("<style>\n"
	      "text{font-family:\"DejaVu Sans\",Helvetica,Arial,sans-serif;font-size:11px;fill:" INK "}\n"
	      ".title{font-size:19px;font-weight:bold}.figures{font-size:13px}.section{font-size:14px;font-weight:bold}"
	      "\n"
	      ".name{font-size:12px;font-weight:bold}.rest{font-weight:normal;fill:" FAINT "}\n"
	      ".x{text-anchor:middle;fill:" FAINT "}.y{text-anchor:end;fill:" FAINT "}\n"
	      ".grid{fill:none;stroke:" GRID ";stroke-width:1}\n"
	      ".below{fill:" DEMAND ";fill-opacity:.13}.none{font-size:10px;fill:" FAINT
	      "}.some{font-size:10px;fill:" UNMET "}\n"
	      ".demand{fill:" DEMAND ";fill-opacity:.55;stroke:" DEMAND ";stroke-width:.8}\n"
	      ".size{fill:" SIZE ";fill-opacity:.35;stroke:" SIZE ";stroke-width:1.2}\n"
	      ".pool{fill:none;stroke:" INK ";stroke-width:1.2;stroke-dasharray:6 4}\n"
	      ".peak{fill:" UNMET ";fill-opacity:.35;stroke:" UNMET ";stroke-width:.6}.mean{fill:" UNMET "}\n"
	      "</style>\n",
	      out);
}

static void put_legend(FILE *out, int y)
{
	static const struct {
		const char *class, *text;
		int width;
	} keys[] = {
		{"demand", "demand", 100},
		{"size", "size: usable without swapping", 232},
		{"pool", "pool of the host (of a VM: its memory)", 282},
		{"mean", "unmet: mean", 122},
		{"peak", "unmet: peak within a pixel", 0},
	};
	int x = MARGIN;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (!strcmp(keys[i].class, "pool"))
			fprintf(out, "<path class=\"pool\" d=\"M%d %dh22\"/>", x, y - 4);
		else
			fprintf(out, "<path class=\"%s\" d=\"M%d %dh22v9h-22z\"/>", keys[i].class, x, y - 9);
		put_label(out, x + 28, y, "key", keys[i].text);
		x += keys[i].width;
	}
}

static const char *byte_time(char *buf, size_t len, double byte_s)
{
	char size[FORMAT_SIZE_LEN];

	snprintf(buf, len, "%s·s", format_size(size, byte_s >= 0x1p63 ? UINT64_MAX : (uint64_t)byte_s));
	return buf;
}

static int put_hosts(FILE *out, const struct plot *p, const struct layout *l, const struct choice *hosts, size_t n,
		     int top)
{
	uint64_t unmet_top = 1;
	int r = 0;

	for (size_t i = 0; i < n; i++)
		unmet_top = max_u64(unmet_top, p->hosts[hosts[i].at].unmet_max_bytes);
	if (unmet_top == 1)
		unmet_top = GIB;
	for (size_t i = 0; r == 0 && i < n; i++) {
		const struct plot_host *h = &p->hosts[hosts[i].at];
		char name[40], rest[160], pool[FORMAT_SIZE_LEN], peak[FORMAT_SIZE_LEN], sum[FORMAT_SIZE_LEN + 8];
		struct caption c = {name, rest, h->pool_bytes, unmet_top, p->end_ms, p->host_width_ms, HOST_BUCKETS};
		snprintf(name, sizeof(name), "host %zu", hosts[i].at);
		snprintf(rest, sizeof(rest), "%zu VMs, pool %s; unmet %s, peak %s", h->n,
			 format_size(pool, h->pool_bytes),
			 byte_time(sum, sizeof(sum), h->series.unmet_sum * (double)p->step_ms / 1000),
			 format_size(peak, h->unmet_max_bytes));
		r = put_panel(out, l, i, top, &h->series, &c);
	}
	return r;
}

static uint64_t series_unmet_max(const struct plot_series *s)
{
	uint64_t most = 1;

	for (size_t i = 0; i < VM_BUCKETS; i++)
		most = max_u64(most, s->buckets[i].unmet_max);
	return most;
}

static int put_vms(FILE *out, const struct plot *p, const struct layout *l, const struct choice *vms, size_t n, int top)
{
	uint64_t unmet_top = 1;
	int r = 0;

	for (size_t i = 0; i < n; i++)
		unmet_top = max_u64(unmet_top, series_unmet_max(&p->vms[vms[i].at].series));
	for (size_t i = 0; r == 0 && i < n; i++) {
		const struct plot_vm *v = &p->vms[vms[i].at];
		char name[sizeof(v->name) + 3], rest[120], sum[FORMAT_SIZE_LEN + 8];
		struct caption c = {name, rest, v->size_bytes, unmet_top, p->end_ms, p->vm_width_ms, VM_BUCKETS};
		snprintf(name, sizeof(name), "VM %s", v->name);
		snprintf(rest, sizeof(rest), "host %zu; unmet %s", v->host,
			 byte_time(sum, sizeof(sum), v->series.unmet_sum * (double)p->step_ms / 1000));
		r = put_panel(out, l, i, top, &v->series, &c);
	}
	return r;
}

static void put_section(FILE *out, int y, const char *what, size_t shown, size_t all, const char *which)
{
	char text[160];

	if (shown < all)
		snprintf(text, sizeof(text), "%s (%zu of %zu: %s)", what, shown, all, which);
	else
		snprintf(text, sizeof(text), "%s", what);
	put_label(out, MARGIN, y, "section", text);
}

static int put_all(struct plot *p, const char *title, const char *figures, FILE *out)
{
	struct choice hosts[PLOT_HOST_PANELS], vms[PLOT_VM_PANELS];
	size_t n_hosts = 0, n_vms = 0;
	int r = choose_hosts(p, hosts, &n_hosts);

	if (r == 0)
		r = choose_vms(p, vms, &n_vms);
	if (r < 0)
		return r;
	struct layout lh = layout_of(n_hosts, 2, n_hosts > 1 ? 150 : 230, 44),
		      lv = layout_of(PLOT_VM_PANELS, 3, 96, 30);
	int hosts_top = HEAD + 26, vms_top = hosts_top + layout_height(&lh, n_hosts) + 26;
	int height = n_vms > 0 ? vms_top + layout_height(&lv, n_vms) : vms_top - 26;

	fprintf(out,
		"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\">\n<title>",
		WIDTH, height, WIDTH, height);
	put_text(out, title, 400);
	fputs("</title>\n", out);
	put_style(out);
	fprintf(out, "<path fill=\"#ffffff\" d=\"M0 0h%dv%dH0z\"/>\n", WIDTH, height);
	put_label(out, MARGIN, 34, "title", title);
	put_label(out, MARGIN, 56, "figures", figures);
	put_legend(out, 82);
	put_section(out, HEAD + 14, "Hosts: all VMs together", n_hosts, p->n_hosts, "those with most unmet");
	r = put_hosts(out, p, &lh, hosts, n_hosts, hosts_top);
	if (r == 0 && n_vms > 0) {
		put_section(out, vms_top - 12, "VMs with most unmet", n_vms, p->n_vms, "worst first");
		r = put_vms(out, p, &lv, vms, n_vms, vms_top);
	}
	fputs("</svg>\n", out);
	return r;
}

int plot_write(struct plot *p, const char *title, const char *figures, FILE *out)
{
	int r;

	if (p->error)
		return p->error;
	plot_end(p);
	if (p->n_hosts == 0 || p->hosts[0].series.top_bytes == 0)
		return -ENODATA;
	/* the last step lasts as long as the others */
	p->end_ms = max_u64(p->end_ms + p->step_ms, 1);
	errno = 0;
	r = put_all(p, title, figures, out);
	if (r == 0 && (fflush(out) != 0 || ferror(out)))
		r = errno > 0 ? -errno : -EIO;
	return r;
}
