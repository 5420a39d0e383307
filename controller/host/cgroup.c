/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding and opening a VM's memory cgroup. Names of groups are escaped and truncated by libvirt and systemd, so they
 * are never built: the path comes from /proc/PID/cgroup and is cut.
 */
#include "controller/host/cgroup_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "controller/host/kernfile.h"

/* Written once under the lock by cgroup_setup, which comes before any cgroup_vm_open. */
static struct {
	pthread_mutex_t lock;
	char *mount;
	enum cgroup_version version;
} hierarchy = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int find_hierarchy(struct memoc_err *err)
{
	char *mount AUTO_FREE = NULL;
	struct statfs fs;
	int r = cgroup_lib_memory_mount(&mount, err);

	if (r < 0)
		return r;
	if (statfs(mount, &fs) < 0)
		return memoc_err_set(err, -errno, "cannot look at the memory cgroup hierarchy on %s: %m", mount);
	hierarchy.version = fs.f_type == CGROUP2_SUPER_MAGIC ? CGROUP_V2 : CGROUP_V1;
	hierarchy.mount = TAKE(mount);
	return 0;
}

int cgroup_setup(enum cgroup_version *ret_version, struct memoc_err *err)
{
	int r = 0;

	pthread_mutex_lock(&hierarchy.lock);
	if (!hierarchy.mount)
		r = find_hierarchy(err);
	if (r == 0)
		*ret_version = hierarchy.version;
	pthread_mutex_unlock(&hierarchy.lock);
	return r;
}

/* Does the v1 controller list "cpu,cpuacct" hold "memory"? */
static bool list_has_memory(const char *list, size_t len)
{
	static const char name[] = "memory";
	const char *end = list + len;

	while (list < end) {
		const char *comma = memchr(list, ',', (size_t)(end - list));
		size_t n = (size_t)((comma ? comma : end) - list);

		if (n == sizeof(name) - 1 && memcmp(list, name, n) == 0)
			return true;
		list += n + 1;
	}
	return false;
}

/* "HIERARCHY-ID:CONTROLLERS:PATH" (cgroups(7)); v2 is "0::PATH". A path may hold colons. */
static const char *path_of_line(const char *line, size_t len, enum cgroup_version version)
{
	const char *first = memchr(line, ':', len);
	const char *second = first ? memchr(first + 1, ':', len - (size_t)(first + 1 - line)) : NULL;

	if (!second)
		return NULL;
	if (version == CGROUP_V2)
		return first == line + 1 && *line == '0' && second == first + 1 ? second + 1 : NULL;
	return list_has_memory(first + 1, (size_t)(second - first - 1)) ? second + 1 : NULL;
}

int cgroup_path_from_proc(const char *text, enum cgroup_version version, char **ret_path, struct memoc_err *err)
{
	static const char deleted[] = " (deleted)"; /* proc_cgroup_show() appends it */
	const char *path = NULL, *end = text;
	size_t len;

	for (const char *line = text; *line && !path; line = *end ? end + 1 : end) {
		end = strchrnul(line, '\n');
		path = path_of_line(line, (size_t)(end - line), version);
	}
	if (!path)
		return memoc_err_set(err, -ENXIO, "the process is in no memory cgroup (v%d)", version);
	len = (size_t)(end - path);
	if (len >= sizeof(deleted) - 1 && memcmp(end - (sizeof(deleted) - 1), deleted, sizeof(deleted) - 1) == 0)
		return memoc_err_set(err, -ENODEV, "the process' cgroup %.*s was removed", (int)min_u64(len, 200),
				     path);
	*ret_path = strndup(path, len);
	return *ret_path ? 0 : memoc_err_set(err, -ENOMEM, "out of memory for a cgroup path");
}

static bool starts_with(const char *s, size_t len, const char *prefix)
{
	size_t n = strlen(prefix);

	return len >= n && memcmp(s, prefix, n) == 0;
}

static bool ends_with(const char *s, size_t len, const char *suffix)
{
	size_t n = strlen(suffix);

	return len > n && memcmp(s + len - n, suffix, n) == 0;
}

/*
 * The group of one machine: libvirt without systemd names it "….libvirt-qemu" (virCgroupNewDomainPartition), systemd's
 * machined a scope with '-' escaped (virSystemdMakeScopeName): "machine-qemu\x2d1\x2dvm.scope".
 */
static bool is_machine(const char *part, size_t len)
{
	return ends_with(part, len, ".libvirt-qemu") ||
	       (starts_with(part, len, "machine-qemu\\x2d") && ends_with(part, len, ".scope"));
}

static bool is_dots(const char *part, size_t len)
{
	return len == 2 && memcmp(part, "..", 2) == 0;
}

int cgroup_cut_path(char *path, struct memoc_err *err)
{
	char *cut = NULL, *part = path;
	bool after_machine = false;

	/* The innermost machine counts: a libvirt host inside a container is itself below a machine's group. */
	while (*part == '/') {
		size_t len = strcspn(++part, "/");

		if (is_dots(part, len))
			return memoc_err_set(err, -ENXIO,
					     "cgroup %s is outside of this process' cgroup namespace: run memocd "
					     "in the host's namespace",
					     path);
		/* What libvirt makes for itself inside a systemd scope; limits there survive systemd's daemon-reload.
		 */
		if (is_machine(part, len) || (after_machine && len == 7 && memcmp(part, "libvirt", 7) == 0))
			cut = part + len;
		after_machine = is_machine(part, len);
		part += len;
	}
	if (!cut)
		return memoc_err_set(
			err, -ENXIO,
			"cgroup %s is not one that libvirt made for a single VM (session VM, or libvirt without "
			"cgroups?): its limit would hit others",
			*path ? path : "/");
	*cut = 0;
	return 0;
}

int cgroup_open_file(struct cgroup_vm *g, const char *file, int flags, bool must, int *ret_fd, struct memoc_err *err)
{
	int fd = openat(g->dir_fd, file, flags | O_CLOEXEC);

	/* EOPNOTSUPP: memory.pressure of a kernel booted with psi=0. */
	if (fd < 0 && !must && (errno == ENOENT || errno == EACCES || errno == EOPNOTSUPP)) {
		*ret_fd = -1;
		return 0;
	}
	if (fd < 0 && errno == ENOENT)
		return memoc_err_set(err, -ENXIO,
				     "cgroup %s has no %s: the memory controller is not enabled for it "
				     "(cgroup_controllers in libvirt's qemu.conf)",
				     g->path, file);
	if (fd < 0)
		return memoc_err_set(err, -errno, "cannot open %s of cgroup %s: %m", file, g->path);
	*ret_fd = fd;
	return 0;
}

static struct cgroup_vm *vm_new(const char *path, const struct cgroup_ops *ops, cgroup_write_fn *write_fn)
{
	struct cgroup_vm *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->ops = ops;
	g->write = write_fn;
	g->dir_fd = g->usage_fd = g->stat_fd = g->limit_fd = -1;
	g->memsw_limit_fd = g->swap_fd = g->oom_fd = g->psi_fd = g->reclaim_fd = -1;
	g->path = strdup(path);
	return g->path ? g : cgroup_vm_close(g);
}

int cgroup_vm_open_path(const char *mount, const char *path, const struct cgroup_ops *ops, cgroup_write_fn *write_fn,
			struct cgroup_vm **ret, struct memoc_err *err)
{
	struct cgroup_vm *g = vm_new(path, ops, write_fn);
	char *dir AUTO_FREE = NULL;
	int r;

	if (!g || asprintf(&dir, "%s%s", mount, path) < 0) {
		cgroup_vm_close(g);
		return memoc_err_set(err, -ENOMEM, "out of memory for cgroup %s", path);
	}
	g->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (g->dir_fd < 0)
		r = memoc_err_set(err, errno == ENOENT ? -ENODEV : -errno, "cannot open cgroup directory %s: %m", dir);
	else
		r = ops->open(g, err);
	if (r < 0)
		cgroup_vm_close(g);
	else
		*ret = g;
	return r;
}

static int read_proc_cgroup(pid_t pid, char **ret_text, struct memoc_err *err)
{
	char *text AUTO_FREE = calloc(1, CGROUP_PROC_MAX), file[40];
	int fd AUTO_CLOSE = -1;
	ssize_t n;

	if (!text)
		return memoc_err_set(err, -ENOMEM, "out of memory for /proc/%d/cgroup", (int)pid);
	snprintf(file, sizeof(file), "/proc/%d/cgroup", (int)pid);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -errno : kernfile_read(fd, text, CGROUP_PROC_MAX);
	if (n < 0)
		return memoc_err_set(err, n == -ENOENT ? -ESRCH : (int)n, "cannot read %s: %s", file,
				     strerror((int)-n));
	*ret_text = TAKE(text);
	return 0;
}

int cgroup_vm_open(pid_t pid, struct cgroup_vm **ret, struct memoc_err *err)
{
	char *text AUTO_FREE = NULL, *path AUTO_FREE = NULL;
	enum cgroup_version version;
	int r = cgroup_setup(&version, err);

	if (r == 0)
		r = read_proc_cgroup(pid, &text, err);
	if (r == 0)
		r = cgroup_path_from_proc(text, version, &path, err);
	if (r == 0)
		r = cgroup_cut_path(path, err);
	if (r == 0)
		r = cgroup_vm_open_path(hierarchy.mount, path, version == CGROUP_V2 ? &cgroup_v2_ops : &cgroup_v1_ops,
					cgroup_lib_write, ret, err);
	return r < 0 ? memoc_err_prefix(err, r, "process %d", (int)pid) : 0;
}

struct cgroup_vm *cgroup_vm_close(struct cgroup_vm *g)
{
	if (!g)
		return NULL;
	for (int *fd = (int[]){g->dir_fd, g->usage_fd, g->stat_fd, g->limit_fd, g->memsw_limit_fd, g->swap_fd,
			       g->psi_fd, g->reclaim_fd, g->oom_fd, -2};
	     *fd != -2; fd++)
		if (*fd >= 0)
			close(*fd);
	free(g->path);
	free(g);
	return NULL;
}

const char *cgroup_vm_path(const struct cgroup_vm *g)
{
	return g->path;
}

uint64_t cgroup_vm_inode(const struct cgroup_vm *g)
{
	struct stat st;

	return fstat(g->dir_fd, &st) == 0 ? st.st_ino : 0;
}

int cgroup_vm_read(struct cgroup_vm *g, struct vm_host_sample *ret)
{
	return g->ops->read(g, ret);
}

int cgroup_vm_usage(struct cgroup_vm *g, uint64_t *ret_bytes)
{
	return kernfile_read_number(g->usage_fd, ret_bytes);
}

int cgroup_vm_scanned(struct cgroup_vm *g, uint64_t *ret_scanned, uint64_t *ret_stolen)
{
	char stat[CGROUP_STAT_MAX];
	ssize_t n = kernfile_read(g->stat_fd, stat, sizeof(stat));

	if (n < 0)
		return (int)n;
	return kernfile_field(stat, "pgscan", ret_scanned) < 0 || kernfile_field(stat, "pgsteal", ret_stolen) < 0
		       ? -ENODATA
		       : 0;
}

int cgroup_vm_set_limit(struct cgroup_vm *g, uint64_t bytes, enum cgroup_method method, uint64_t max_ms,
			uint64_t *ret_bytes, struct memoc_err *err)
{
	uint64_t page = CGROUP_PAGE_BYTES, now;
	int r, got;

	/* libcgroup writes by path: a group that was made anew under the same path is not this VM's. */
	r = kernfile_read_number(g->usage_fd, &now);
	if (r < 0)
		return memoc_err_set(err, r, "cgroup %s is gone: %s", g->path, strerror(-r));
	if (bytes < page)
		r = memoc_err_set(err, -EINVAL, "a limit of %llu bytes for cgroup %s would stop the VM",
				  (unsigned long long)bytes, g->path);
	else /* the kernel rounds down to a page, and would give less than asked for */
		r = g->ops->set_limit(g, bytes > LIMIT_NONE - page ? LIMIT_NONE : (bytes + page - 1) / page * page,
				      method, max_ms, err);
	got = g->ops->limit(g, ret_bytes);
	if (got < 0 && r == 0)
		r = memoc_err_set(err, got, "cannot read back the limit of cgroup %s: %s", g->path, strerror(-got));
	return r;
}

/* Down and up again. What a limit of before could not be put back to is worse than what reclaim came to. */
static int reclaim_by_limit(struct cgroup_vm *g, uint64_t bytes, uint64_t max_ms, struct memoc_err *err)
{
	struct memoc_err ignored;
	uint64_t limit, now;
	int r = g->ops->limit(g, &limit), back;

	if (r < 0)
		return memoc_err_set(err, r, "cannot read the limit of cgroup %s: %s", g->path, strerror(-r));
	if (limit <= bytes) /* it is under that already: nothing to take */
		return 0;
	r = cgroup_vm_set_limit(g, bytes, CGROUP_METHOD_LIMIT, max_ms, &now, err);
	back = cgroup_vm_set_limit(g, limit, CGROUP_METHOD_LIMIT, max_ms, &now, &ignored);
	return back < 0 ? memoc_err_set(err, back, "%s", ignored.text) : r;
}

int cgroup_vm_reclaim(struct cgroup_vm *g, uint64_t bytes, uint64_t max_ms, uint64_t *ret_bytes, struct memoc_err *err)
{
	uint64_t before, after, wanted;
	int r = kernfile_read_number(g->usage_fd, &before);

	if (r < 0)
		return memoc_err_set(err, r, "cgroup %s is gone: %s", g->path, strerror(-r));
	wanted = max_u64(sub_sat_u64(before, bytes), CGROUP_PAGE_BYTES);
	r = g->ops->reclaim_to ? g->ops->reclaim_to(g, wanted, max_ms) : -EOPNOTSUPP;
	if (r == -EOPNOTSUPP)
		r = reclaim_by_limit(g, wanted, max_ms, err);
	else if (r < 0)
		memoc_err_set(err, r, "cgroup %s: %s", g->path, strerror(-r));
	*ret_bytes = kernfile_read_number(g->usage_fd, &after) == 0 ? sub_sat_u64(before, after) : 0;
	return r;
}
