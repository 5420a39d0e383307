/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A domain's QEMU process: found by what libvirt passes it as arguments, held by pidfd. */
#include "controller/host/proc_internal.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/syscall.h>

#include "controller/host/kernfile.h"

/* ---- finding ---- */

/* Where in the arguments the scan is: the one that follows "-uuid" counts, whichever buffer it comes in. */
struct arg_scan {
	char arg[UUID_TEXT_LEN + 2]; /* one byte more than fits, so that a longer argument never looks equal */
	size_t len;
	bool after_uuid_option;
	bool found;
};

static void arg_end(struct arg_scan *s, const char *uuid)
{
	s->arg[s->len] = 0;
	if (s->after_uuid_option && strcasecmp(s->arg, uuid) == 0)
		s->found = true;
	s->after_uuid_option = strcmp(s->arg, "-uuid") == 0;
	s->len = 0;
}

/* A command line can be megabytes (ARG_MAX), so it is read in pieces. Unreadable or ended processes do not match. */
static bool args_hold_uuid(int proc_dir_fd, const char *pid_name, const char *uuid)
{
	struct arg_scan s = {0};
	char path[32], buf[4096];
	int fd AUTO_CLOSE = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "%.16s/cmdline", pid_name);
	fd = openat(proc_dir_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	while (!s.found && (n = read(fd, buf, sizeof(buf))) != 0) {
		if (n < 0 && errno != EINTR)
			return false;
		for (ssize_t i = 0; i < n; i++) {
			if (buf[i] == 0)
				arg_end(&s, uuid);
			else if (s.len < sizeof(s.arg) - 1)
				s.arg[s.len++] = buf[i];
		}
	}
	if (s.len > 0) /* a process may have overwritten the last NUL */
		arg_end(&s, uuid);
	return s.found;
}

static pid_t pid_of_name(const char *name)
{
	uint64_t v;

	if (!isdigit((unsigned char)*name) || kernfile_number(name, &v) < 0 || v == 0 || v > INT32_MAX)
		return 0;
	return (pid_t)v;
}

/* libvirt's own record. 0 where there is none or it does not hold any more. */
static pid_t from_pid_file(const char *root, int proc_dir_fd, const char *name, const char *uuid)
{
	char *path AUTO_FREE = NULL, text[32];
	int fd AUTO_CLOSE = -1;

	if (!*name || strchr(name, '/') || asprintf(&path, "%s/run/libvirt/qemu/%s.pid", root, name) < 0)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || kernfile_read(fd, text, sizeof(text)) < 0)
		return 0;
	text[strcspn(text, "\n")] = 0;
	if (!pid_of_name(text) || !args_hold_uuid(proc_dir_fd, text, uuid))
		return 0;
	return pid_of_name(text);
}

static int scan_proc(DIR *proc, const char *uuid, pid_t *ret, struct memoc_err *err)
{
	pid_t found = 0;

	for (;;) {
		struct dirent *e;
		pid_t pid;

		errno = 0;
		e = readdir(proc);
		if (!e && errno)
			return memoc_err_set(err, -errno, "cannot list processes in /proc: %m");
		if (!e)
			break;
		pid = pid_of_name(e->d_name);
		if (!pid || !args_hold_uuid(dirfd(proc), e->d_name, uuid))
			continue;
		if (found)
			return memoc_err_set(
				err, -EEXIST,
				"processes %d and %d both run with -uuid %s: end the one that libvirt does not know",
				(int)found, (int)pid, uuid);
		found = pid;
	}
	if (!found)
		return memoc_err_set(err, -ESRCH, "no process runs with -uuid %s", uuid);
	*ret = found;
	return 0;
}

int proc_find_qemu(const char *root, const char *name, const char *uuid, pid_t *ret, struct memoc_err *err)
{
	char *path AUTO_FREE = NULL;
	DIR *proc;
	pid_t pid;
	int r = 0;

	if (strlen(uuid) != UUID_TEXT_LEN)
		return memoc_err_set(err, -EINVAL, "'%s' of domain %s is no UUID", uuid, name);
	if (asprintf(&path, "%s/proc", root) < 0)
		return memoc_err_set(err, -ENOMEM, "out of memory for finding domain %s", name);
	proc = opendir(path);
	if (!proc)
		return memoc_err_set(err, -errno, "cannot open %s: %m", path);
	pid = from_pid_file(root, dirfd(proc), name, uuid);
	if (pid)
		*ret = pid;
	else
		r = scan_proc(proc, uuid, ret, err);
	closedir(proc);
	return r < 0 ? memoc_err_prefix(err, r, "domain %s", name) : 0;
}

/* ---- holding ---- */

struct proc_vm {
	pid_t pid;
	int pidfd;
	int stat_fd, dir_fd; /* opened while the pidfd was alive: they speak of that process or of none */
};

static int pidfd_of(pid_t pid)
{
	/* The system call, because glibc has a function for it only since 2.36. */
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -errno : fd;
}

static bool has_ended(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, 0) != 0;
}

static int open_files(struct proc_vm *p, struct memoc_err *err)
{
	char dir[32];

	snprintf(dir, sizeof(dir), "/proc/%d", (int)p->pid);
	p->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (p->dir_fd >= 0)
		p->stat_fd = openat(p->dir_fd, "stat", O_RDONLY | O_CLOEXEC);
	if (p->dir_fd < 0 || p->stat_fd < 0)
		return memoc_err_set(err, errno == ENOENT ? -ESRCH : -errno, "cannot open %s: %m", dir);
	if (has_ended(p->pidfd))
		return memoc_err_set(err, -ESRCH, "process %d has ended", (int)p->pid);
	return 0;
}

int proc_vm_open(pid_t pid, struct proc_vm **ret, struct memoc_err *err)
{
	struct proc_vm *p = malloc(sizeof(*p));
	int r;

	if (!p)
		return memoc_err_set(err, -ENOMEM, "out of memory for process %d", (int)pid);
	*p = (struct proc_vm){.pid = pid, .pidfd = -1, .stat_fd = -1, .dir_fd = -1};
	r = pidfd_of(pid);
	if (r < 0) {
		r = memoc_err_set(err, r, "cannot open process %d: %s", (int)pid, strerror(-r));
	} else {
		p->pidfd = r;
		r = open_files(p, err);
	}
	if (r < 0)
		proc_vm_close(p);
	else
		*ret = p;
	return r;
}

struct proc_vm *proc_vm_close(struct proc_vm *p)
{
	if (!p)
		return NULL;
	if (p->pidfd >= 0)
		close(p->pidfd);
	if (p->stat_fd >= 0)
		close(p->stat_fd);
	if (p->dir_fd >= 0)
		close(p->dir_fd);
	free(p);
	return NULL;
}

int proc_vm_pidfd(const struct proc_vm *p)
{
	return p->pidfd;
}

pid_t proc_vm_pid(const struct proc_vm *p)
{
	return p->pid;
}

/* proc_pid_stat(5): the name in parentheses may hold anything, ')' and digits too; state is field 3. */
static int parse_stat_field(const char *stat, int wanted, uint64_t *ret)
{
	const char *at = strrchr(stat, ')');

	if (!at || at[1] != ' ' || !at[2])
		return -EBADMSG;
	at += 2;
	if (*at == 'Z' || *at == 'X')
		return -ESRCH;
	for (int field = 3; field < wanted; field++) {
		at = strchr(at, ' ');
		if (!at++)
			return -EBADMSG;
	}
	return kernfile_number(at, ret);
}

int proc_vm_parse_major_faults(const char *stat, uint64_t *ret)
{
	return parse_stat_field(stat, 12, ret);
}

static int read_stat_field(struct proc_vm *p, int wanted, uint64_t *ret)
{
	char text[1024];
	ssize_t n = kernfile_read(p->stat_fd, text, sizeof(text));

	return n < 0 ? (int)n : parse_stat_field(text, wanted, ret);
}

int proc_vm_major_faults(struct proc_vm *p, uint64_t *ret)
{
	return read_stat_field(p, 12, ret);
}

int proc_vm_start_ticks(struct proc_vm *p, uint64_t *ret)
{
	return read_stat_field(p, 22, ret);
}

/* Page tables are charged too; /proc/PID/status has them, in kB. */
static uint64_t page_table_bytes(struct proc_vm *p)
{
	char text[4096];
	uint64_t kib = 0;
	int fd AUTO_CLOSE = openat(p->dir_fd, "status", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || kernfile_read(fd, text, sizeof(text)) < 0 || kernfile_field(text, "VmPTE:", &kib) < 0)
		return 0;
	return mul_div_u64(kib, KIB, 1);
}

static int scan_ram(struct proc_vm *p, const char *file, const struct dom_facts *facts, uint64_t *ret_held_bytes,
		    uint64_t *ret_own_bytes, struct guest_ram *ret_map, struct memoc_err *err)
{
	int fd AUTO_CLOSE = openat(p->dir_fd, file, O_RDONLY | O_CLOEXEC);
	const struct guest_ram_wanted wanted = {facts->max_bytes, facts->ram_block_bytes, facts->ram_blocks};
	char who[DOMXML_NAME_MAX + 32];

	snprintf(who, sizeof(who), "%s (process %d)", facts->name, (int)p->pid);
	if (fd < 0)
		return memoc_err_set(err, errno == ENOENT ? -ESRCH : -errno, "cannot open %s of %s: %m", file, who);
	return guest_ram_scan(fd, who, &wanted, ret_held_bytes, ret_own_bytes, ret_map, err);
}

int proc_vm_guest_ram(struct proc_vm *p, const struct dom_facts *facts, uint64_t *ret_held_bytes,
		      uint64_t *ret_overhead_bytes, struct memoc_err *err)
{
	uint64_t own = 0;
	int r = scan_ram(p, "smaps", facts, ret_held_bytes, &own, NULL, err);

	if (r == 0 && ret_overhead_bytes) {
		/* KVM's second level is kernel memory of the same size again, which no file tells. */
		uint64_t tables = page_table_bytes(p);
		*ret_overhead_bytes = own + tables * (facts->tcg ? 1 : 2);
	}
	return r;
}

int proc_vm_ram_map(struct proc_vm *p, const struct dom_facts *facts, struct guest_ram *ret, struct memoc_err *err)
{
	return scan_ram(p, "maps", facts, NULL, NULL, ret, err);
}

int proc_vm_pagemap(struct proc_vm *p)
{
	int fd = openat(p->dir_fd, "pagemap", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* A range may be several mappings in a row (madvise splits them): any of them leads to the file, the first is looked
 * for. */
static bool begins_at(const char *name, uint64_t start)
{
	unsigned long long from, to;

	return sscanf(name, "%llx-%llx", &from, &to) == 2 && from == start;
}

static int open_mapped(int dir_fd, uint64_t start)
{
	DIR *dir = fdopendir(dir_fd);
	const struct dirent *d;
	int fd = -1;

	if (!dir) {
		int r = -errno;
		close(dir_fd);
		return r;
	}
	errno = ENOENT;
	while ((d = readdir(dir)))
		if (begins_at(d->d_name, start)) {
			fd = openat(dirfd(dir), d->d_name, O_RDWR | O_CLOEXEC);
			break;
		}
	int r = fd < 0 ? -(errno ? errno : ENOENT) : fd;
	closedir(dir);
	return r;
}

int proc_vm_ram_file(struct proc_vm *p, const struct guest_ram_range *range)
{
	char name[64];
	int fd, dir_fd;

	snprintf(name, sizeof(name), "map_files/%llx-%llx", (unsigned long long)range->start,
		 (unsigned long long)range->end);
	fd = openat(p->dir_fd, name, O_RDWR | O_CLOEXEC);
	if (fd >= 0 || errno != ENOENT)
		return fd < 0 ? -errno : fd;
	dir_fd = openat(p->dir_fd, "map_files", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir_fd < 0 ? -errno : open_mapped(dir_fd, range->start);
}

/* ---- overhead ---- */

/*
 * Measured as cgroup usage without file cache minus guest RAM, QEMU 7.2 with balloon, serial, USB and network devices:
 * 66.4 MiB (256 MiB of RAM, 1 vCPU), 67.2 MiB (1 GiB, 2 vCPUs), 68.8 MiB (4 GiB, 4 vCPUs), each with 31 to 32 MiB of a
 * TCG code buffer limited to 32 MiB in it; 42 MiB of an unlimited one (it may take min(1 GiB, RAM of the host ÷ 8))
 * after 5 s. The base is rounded up for what libvirt adds (monitor, graphics, disk queues).
 */
#define OVERHEAD_BASE_BYTES (40 * MIB)
#define OVERHEAD_PER_VCPU_BYTES (1 * MIB) /* thread, its stack and its share of device state: 0.8 MiB measured */
#define OVERHEAD_TCG_BYTES (64 * MIB)	  /* of an unlimited or larger code buffer, until it is measured */
/* 8 bytes of page table for each page of 4 KiB; the kernel charges them to the cgroup, KVM's second level too. */
#define PAGE_TABLE_SHARE 512

uint64_t proc_overhead_guess(const struct dom_facts *facts)
{
	uint64_t tables = facts->max_bytes / PAGE_TABLE_SHARE, tcg = 0;

	if (facts->tcg)
		tcg = facts->tb_cache_bytes ? min_u64(facts->tb_cache_bytes, OVERHEAD_TCG_BYTES) : OVERHEAD_TCG_BYTES;
	return OVERHEAD_BASE_BYTES + facts->vcpus * OVERHEAD_PER_VCPU_BYTES + tables * (facts->tcg ? 1 : 2) + tcg;
}
