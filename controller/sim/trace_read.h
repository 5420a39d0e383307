/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the readers of both formats share. Private to this room. */
#ifndef MEMOC_SIM_TRACE_READ_H
#define MEMOC_SIM_TRACE_READ_H

#include "controller/sim/source.h"
#include "controller/sim/trace.h"

struct reader {
	struct trace *t;
	struct trace_report report;
	uint32_t *slots; /* VMs by name: index + 1, open addressing; 0 = free */
	size_t slots_n;	 /* a power of two */
	bool gwa;	 /* times are since the epoch, VMs in the order of files */
	/* of the file being read */
	const char *file;     /* for errors */
	uint64_t line_number; /* of the line being read; 0: the file as a whole */
	uint64_t rows;	      /* good ones */
	uint64_t last_ms;     /* of the last of them */
};

/* A part of a line. */
struct cell {
	const char *text;
	size_t len;
	size_t column; /* of its first byte, from 1 */
};

/* Notes what is wrong there; column 0: the whole line. */
void reader_fault(struct reader *r, size_t column, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Finds the VM called so; t->n where there is none. */
size_t reader_find(const struct reader *r, const char *name, size_t len);
/* Adds it to the trace and to what is found; 0 or −errno of trace_add_vm(), −EINVAL noted as a fault at `column`. */
int reader_add_vm(struct reader *r, const char *name, uint64_t size_bytes, size_t column, size_t *ret_vm);

struct decimal_form {
	const char *name; /* the column's, for errors */
	uint64_t unit;	  /* what 1 stands for; at most 2^20 */
	uint64_t max;	  /* of the result */
	bool exponent;	  /* "6.7E7" is good too */
};
/* Digits, optional fraction, times the unit, to the nearest; false (and a fault noted) where it is anything else. */
bool reader_decimal(struct reader *r, const struct cell *c, const struct decimal_form *form, uint64_t *ret);

/* Printable text of a cell for errors, in quotes, cut where long. */
#define CELL_SHOWN_LEN 48
const char *cell_shown(char buf[CELL_SHOWN_LEN], const struct cell *c);

/* ---- gwa.c: one file of GWA-T-12 is one VM ---- */

struct gwa {
	size_t columns, time_at, size_at, usage_at;
	uint64_t time_unit_ms; /* 0: not known yet */
	size_t vm;
};
/* Reads the header line; false (fault noted) where a needed column is not there. Adds no VM. */
bool gwa_header(struct reader *r, const struct source_line *line, struct gwa *ret);
/* Reads a row of the VM g->vm, with times since the epoch. 0, with or without a fault noted, or −errno of trace_add().
 */
int gwa_row(struct reader *r, struct gwa *g, const struct source_line *line);
/* When all files are read: times begin at the earliest row, VMs are in order of appearance, those without memory go. */
void gwa_finish(struct trace *t);

#endif
