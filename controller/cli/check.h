/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `memoc check`: looks at the host as it is and changes nothing. A root in front of every path lets tests give a
 * made-up host; "" is this one.
 */
#ifndef MEMOC_CLI_CHECK_H
#define MEMOC_CLI_CHECK_H

#include <sys/types.h>

#include "common/util.h"

enum check_result { CHECK_PASS = 1, CHECK_WARN, CHECK_FAIL };

struct check_item {
	const char *name; /* "swap", "page-idle": stable, for scripts */
	enum check_result result;
	char text[320];
	char remedy[320]; /* empty with CHECK_PASS */
};

/* Errors stick; the owner frees items. */
struct check_list {
	struct check_item *items;
	size_t n, room;
	int error;
};

void check_pass(struct check_list *l, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* result WARN or FAIL. */
void check_problem(struct check_list *l, enum check_result result, const char *name, const char *remedy,
		   const char *fmt, ...) PRINTF_LIKE(5, 6);

/* Text of a file without its last newlines, cut at len; bytes, or −errno. */
int check_read(const char *root, const char *path, char *buf, size_t len);
/* A decimal number at the start of a file; −errno. */
int check_read_number(const char *root, const char *path, long *ret);
bool check_exists(const char *root, const char *path);

/*
 * check_systemd.c: when systemd last reloaded the service of that program and main process; 0 where it never did, or
 * where there is no systemd to ask.
 */
time_t check_reloaded(const char *program, pid_t pid);
/* check_host.c: cgroups, swap, pressure, working-set sources, sysctls, privileges */
void check_host(const char *root, struct check_list *l);
/* check_libvirt.c: its socket, and the hook */
void check_libvirt(const char *root, struct check_list *l);

#endif
