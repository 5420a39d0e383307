/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a reading by idle page tracking costs: cost PROCESSES MIB PAGES [ROOT [CGROUP [idle]]]. So many processes of so
 * much touched memory, each sampled once; then what a thousand VMs, each once a minute, would take of a processor.
 * ROOT: where the kernel has no idle page tracking, a directory with proc (a link to /proc) and a sparse file for the
 * bitmap: then what the kernel itself does for a bit is missing, and all is found in use, or with "idle" nothing.
 * CGROUP: where this program is charged, which is asked about reclaim as a VM's is; "" for none. A reading that fails
 * is the end, with status 1.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "controller/host/cgroup_internal.h"
#include "controller/wss/estimator.h"

struct process {
	pid_t pid;
	int pidfd;
	uint64_t start;
};

static void live(uint64_t bytes, int fd)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t start = (uintptr_t)p;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (p == MAP_FAILED)
		_exit(1);
	madvise(p, bytes, MADV_NOHUGEPAGE);
	memset(p, 1, bytes);
	if (write(fd, &start, sizeof(start)) == sizeof(start))
		pause();
	_exit(1);
}

static struct cgroup_vm *open_group(const char *path, struct memoc_err *err)
{
	struct cgroup_vm *g = NULL;
	enum cgroup_version version;
	char *mount AUTO_FREE = NULL;

	if (cgroup_setup(&version, err) < 0 || cgroup_lib_memory_mount(&mount, err) < 0 ||
	    cgroup_vm_open_path(mount, path, version == CGROUP_V2 ? &cgroup_v2_ops : &cgroup_v1_ops, cgroup_lib_write,
				&g, err) < 0)
		return NULL;
	return g;
}

/* A plain file loses bits that are set beside others; all of them set again are a host on which nobody did anything. */
static int set_all(const char *root)
{
	static uint8_t ones[1 << 16];
	char path[256];
	struct stat st;
	int r = 0;

	memset(ones, 0xff, sizeof(ones));
	snprintf(path, sizeof(path), "%s/sys/kernel/mm/page_idle/bitmap", root);
	int fd AUTO_CLOSE = open(path, O_WRONLY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	for (off_t at = 0; at < st.st_size && r == 0; at += (off_t)sizeof(ones))
		r = pwrite(fd, ones, sizeof(ones), at) == (ssize_t)sizeof(ones) ? 0 : -1;
	return r;
}

int main(int argc, char **argv)
{
	bool grouped = argc > 5 && argv[5][0], idle = argc > 6 && strcmp(argv[6], "idle") == 0;
	if (argc < 4)
		return 2;
	size_t n = strtoul(argv[1], NULL, 10), pages = strtoul(argv[3], NULL, 10);
	uint64_t bytes = strtoull(argv[2], NULL, 10) * MIB, began_ns = 0, ended_ns = 0, sampled = 0;
	struct process *list = calloc(n, sizeof(*list));
	struct wss_sample **samples = calloc(n, sizeof(struct wss_sample *));
	struct memoc_err err = {""};
	struct wss *w = NULL;
	struct cgroup_vm *group = grouped ? open_group(argv[5], &err) : NULL;
	int fds[2], failed = 0;

	if (!list || !samples || pipe(fds) < 0 || (grouped && !group) ||
	    wss_open(argc > 4 ? argv[4] : "", WSS_IDLE, &w, &err) < 0) {
		fprintf(stderr, "cost: %s\n", err.text);
		return 1;
	}
	for (size_t i = 0; i < n; i++) {
		list[i].pid = fork();
		if (list[i].pid == 0)
			live(bytes, fds[1]);
		list[i].pidfd = (int)syscall(SYS_pidfd_open, list[i].pid, 0);
		if (read(fds[0], &list[i].start, 8) != 8)
			return 1;
	}
	for (size_t i = 0; i < n; i++) {
		struct guest_ram_range range = {.start = list[i].start, .end = list[i].start + bytes};
		struct guest_ram ram = {&range, 1, bytes};
		const struct wss_target t = {.pid = list[i].pid,
					     .pidfd = list[i].pidfd,
					     .ram = &ram,
					     .cgroup = group,
					     .cgroup_path = grouped ? argv[5] : NULL,
					     .pages = (uint32_t)pages};

		failed += wss_begin(w, &t, &samples[i], &err) < 0;
	}
	if (idle && set_all(argv[4]) < 0) {
		perror("cost: bitmap");
		return 1;
	}
	for (size_t i = 0; i < n; i++) {
		struct wss_reading r;

		if (samples[i] && wss_end(samples[i], &r, &err) < 0) {
			failed++;
		} else if (samples[i]) {
			ended_ns += r.cost_ns;
			began_ns = r.cost_ns > began_ns ? r.cost_ns : began_ns;
			sampled += r.pages;
		}
		kill(list[i].pid, SIGKILL);
		waitpid(list[i].pid, NULL, 0);
	}
	wss_close(w);
	cgroup_vm_close(group);
	free(samples);
	free(list);
	if (failed || sampled == 0) {
		fprintf(stderr, "cost: %d of %zu readings failed: %s\n", failed, n, err.text);
		return 1;
	}
	double each_ms = (double)ended_ns / 1e6 / (double)n;

	printf("%zu processes of %llu MiB, %llu pages sampled: %.3f ms a reading (most %.3f), %.0f ns a page; 1000 VMs "
	       "each 60 "
	       "s: %.2f %% of a processor\n",
	       n, (unsigned long long)(bytes / MIB), (unsigned long long)sampled, each_ms, (double)began_ns / 1e6,
	       (double)ended_ns / (double)sampled, each_ms * 1000 / 60000 * 100);
	return 0;
}
