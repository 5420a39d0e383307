/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether libvirt can be reached, and whether it calls memoc's hook. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include "controller/cli/check.h"

#define HOOK "/etc/libvirt/hooks/qemu.d/50-memoc"
#define CONNECT_TIMEOUT_S 2

/* Modular libvirt first: where its socket is there, it is the one that runs QEMU. */
static const struct {
	const char *program, *socket;
} libvirts[] = {
	{"virtqemud", "/run/libvirt/virtqemud-sock"},
	{"libvirtd", "/run/libvirt/libvirt-sock"},
};

/* ---- its socket ---- */

/* A blocking connect to a unix socket waits no longer than SO_SNDTIMEO. */
static int try_connect(const char *root, const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct timeval timeout = {.tv_sec = CONNECT_TIMEOUT_S};
	int fd AUTO_CLOSE = -1;

	if (snprintf(addr.sun_path, sizeof(addr.sun_path), "%s%s", root, path) >= (int)sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0)
		return -errno;
	return connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
}

static void check_socket(const char *root, struct check_list *l)
{
	int worst = -ENOENT;
	const char *where = libvirts[0].socket;

	for (size_t i = 0; i < ARRAY_SIZE(libvirts); i++) {
		int r = try_connect(root, libvirts[i].socket);
		if (r == 0) {
			check_pass(l, "libvirt", "%s takes connections at %s", libvirts[i].program, libvirts[i].socket);
			return;
		}
		if (r != -ENOENT) {
			worst = r;
			where = libvirts[i].socket;
		}
	}
	if (worst == -EACCES || worst == -EPERM)
		check_problem(l, CHECK_WARN, "libvirt", "run memoc check as root",
			      "%s is there, but you are not allowed to connect to it", where);
	else if (worst == -EAGAIN)
		check_problem(l, CHECK_FAIL, "libvirt", "look at it with systemctl status libvirtd virtqemud",
			      "%s takes no connection within %d s: libvirt is stuck", where, CONNECT_TIMEOUT_S);
	else
		check_problem(l, CHECK_FAIL, "libvirt", "systemctl start libvirtd (or virtqemud.socket)",
			      "neither virtqemud nor libvirtd takes connections in /run/libvirt");
}

/* ---- which libvirt runs, and since when ---- */

struct process {
	pid_t pid;
	char name[32];
	time_t started;
};

static bool boot_time(const char *root, long *ret)
{
	char *text AUTO_FREE = malloc(65536);
	const char *at;

	if (!text || check_read(root, "/proc/stat", text, 65536) < 0)
		return false;
	at = strstr(text, "\nbtime ");
	return at && sscanf(at, "\nbtime %ld", ret) == 1;
}

/* Another mount namespace has another /etc/libvirt: that libvirt is not ours to judge. */
static bool same_mounts(const char *root, const char *pid)
{
	char path[PATH_MAX], theirs[64], ours[64];
	ssize_t n, m;

	snprintf(path, sizeof(path), "%s/proc/%s/ns/mnt", root, pid);
	n = readlink(path, theirs, sizeof(theirs));
	snprintf(path, sizeof(path), "%s/proc/self/ns/mnt", root);
	m = readlink(path, ours, sizeof(ours));
	return n < 0 || m < 0 || (n == m && !memcmp(theirs, ours, (size_t)n));
}

/* Name and start (field 22, in ticks since boot) from /proc/PID/stat; the name stands in (), and may hold anything. */
static bool read_process(const char *root, const char *pid, long booted, struct process *ret)
{
	char path[NAME_MAX + 16], text[1024];
	const char *open_at, *close_at;
	unsigned long long ticks;

	snprintf(path, sizeof(path), "/proc/%s/stat", pid);
	if (check_read(root, path, text, sizeof(text)) < 0)
		return false;
	open_at = strchr(text, '(');
	close_at = strrchr(text, ')');
	if (!open_at || !close_at || close_at - open_at - 1 >= (ptrdiff_t)sizeof(ret->name))
		return false;
	if (sscanf(close_at + 1, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
		   &ticks) != 1)
		return false;
	*ret = (struct process){.pid = (pid_t)atol(pid), .started = booted + (time_t)(ticks / sysconf(_SC_CLK_TCK))};
	memcpy(ret->name, open_at + 1, (size_t)(close_at - open_at - 1));
	return true;
}

static bool is_libvirt(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(libvirts); i++)
		if (!strcmp(libvirts[i].program, name))
			return true;
	return false;
}

/* The libvirt daemon that was started first: the one most likely to have missed the hook. */
static bool find_libvirt(const char *root, struct process *ret)
{
	char path[PATH_MAX];
	struct process p;
	bool found = false;
	long booted;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/proc", root);
	if (!boot_time(root, &booted) || !(dir = opendir(path)))
		return false;
	for (struct dirent *d; (d = readdir(dir));) {
		if (!isdigit((unsigned char)d->d_name[0]) || !read_process(root, d->d_name, booted, &p))
			continue;
		if (is_libvirt(p.name) && same_mounts(root, d->d_name) && (!found || p.started < ret->started)) {
			*ret = p;
			found = true;
		}
	}
	closedir(dir);
	return found;
}

/* ---- the hook ---- */

/* libvirt looks for hooks when it starts and when it gets SIGHUP (src/util/virhook.c); a second counts as the same. */
static void check_hook_seen(const char *root, time_t installed, struct check_list *l)
{
	struct process p;

	if (!find_libvirt(root, &p))
		check_pass(l, "hook-seen", "libvirt is not running: it will find the hook when it starts");
	else if (p.started + 1 >= installed)
		check_pass(l, "hook-seen", "%s (process %d) was started after the hook was installed", p.name,
			   (int)p.pid);
	else if (!*root && check_reloaded(p.name, p.pid) + 1 >= installed) /* the bus is this host's alone */
		check_pass(l, "hook-seen", "%s (process %d) was reloaded after the hook was installed", p.name,
			   (int)p.pid);
	else
		check_problem(l, CHECK_WARN, "hook-seen",
			      "systemctl reload libvirtd (or virtqemud); it does no harm twice",
			      "%s (process %d) runs since before the hook was installed: unless it was reloaded since, "
			      "it may "
			      "not call it",
			      p.name, (int)p.pid);
}

static void check_hook(const char *root, struct check_list *l)
{
	char path[PATH_MAX];
	struct stat st;

	if (snprintf(path, sizeof(path), "%s" HOOK, root) >= (int)sizeof(path))
		return;
	if (stat(path, &st) < 0 && (errno == EACCES || errno == EPERM))
		check_problem(l, CHECK_WARN, "hook", "run memoc check as root",
			      "cannot look at " HOOK ": no permission");
	else if (stat(path, &st) < 0)
		check_problem(l, CHECK_WARN, "hook", "install memoc-hook as " HOOK ", then systemctl reload libvirtd",
			      HOOK
			      " is not there: memocd hears of VMs from libvirt's events alone, and cannot refuse one");
	else if (!S_ISREG(st.st_mode) || !(st.st_mode & 0111))
		check_problem(l, CHECK_FAIL, "hook", "chmod 755 " HOOK ", then systemctl reload libvirtd",
			      HOOK " is not an executable file: libvirt does not call it");
	else {
		check_pass(l, "hook", HOOK " is there and executable");
		/* a package keeps the file's own time; ctime tells when it came here */
		check_hook_seen(root, st.st_mtime > st.st_ctime ? st.st_mtime : st.st_ctime, l);
	}
}

void check_libvirt(const char *root, struct check_list *l)
{
	check_socket(root, l);
	check_hook(root, l);
}
