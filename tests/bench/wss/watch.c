/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Working set of a QEMU that runs, once a window: watch BACKEND PID MIB WINDOW_MS READINGS [CGROUP [PAGES [stepped]]].
 * MIB is the guest's memory (one block), CGROUP the directory where it is charged, below the hierarchy's mount point,
 * or
 * "" (lru and refault want it). What its guest uses is for the caller to know. Says where RAM was found first.
 *
 * Stepped, each window waits for a line on standard input, says "begun" when it has begun and "waited" when its time is
 * over, and waits for another line before it ends: so the guest can stand still meanwhile.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "controller/host/cgroup_internal.h"
#include "controller/wss/estimator.h"

static bool stepped;

/* false: nobody is there any more. */
static bool step(const char *said)
{
	char line[64];

	if (!stepped)
		return true;
	if (said)
		puts(said);
	fflush(stdout);
	return fgets(line, sizeof(line), stdin) != NULL;
}

static void sleep_ms(uint64_t ms)
{
	struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

static int window(struct wss *w, const struct wss_target *t, uint64_t window_ms, struct wss_reading *ret,
		  struct memoc_err *err)
{
	struct wss_sample *s = NULL;
	int r = wss_begin(w, t, &s, err);

	if (r == 0)
		r = wss_start(w, window_ms, err);
	if (r == 0 && stepped) {
		puts("begun");
		fflush(stdout);
	}
	if (r == 0) {
		sleep_ms((uint64_t)((double)window_ms * wss_collect_after(w)));
		r = wss_collect(w, err);
	}
	if (r == 0 && !step("waited"))
		r = memoc_err_set(err, -ECANCELED, "standard input has ended");
	if (r < 0)
		wss_cancel(s);
	return r < 0 ? r : wss_end(s, ret, err);
}

static int open_group(const char *path, struct cgroup_vm **ret, struct memoc_err *err)
{
	enum cgroup_version version;
	char *mount AUTO_FREE = NULL;
	int r = cgroup_setup(&version, err);

	if (r == 0)
		r = cgroup_lib_memory_mount(&mount, err);
	return r < 0 ? r
		     : cgroup_vm_open_path(mount, path, version == CGROUP_V2 ? &cgroup_v2_ops : &cgroup_v1_ops,
					   cgroup_lib_write, ret, err);
}

int main(int argc, char **argv)
{
	struct memoc_err err = {""};
	struct proc_vm *p = NULL;
	struct guest_ram ram = {0};
	struct wss *w = NULL;
	struct wss_memory memory = {0};
	struct dom_facts facts = {.name = "guest"};
	const char *group = argc > 6 && argv[6][0] ? argv[6] : NULL;
	struct cgroup_vm *cgroup = NULL;
	enum wss_backend backend = WSS_IDLE;

	if (argc < 6)
		return 2;
	while (backend < WSS_BACKEND_END && strcmp(argv[1], wss_backend_name(backend)) != 0)
		backend++;
	facts.max_bytes = strtoull(argv[3], NULL, 10) * MIB;
	stepped = argc > 8 && strcmp(argv[8], "stepped") == 0;
	if ((group && open_group(group, &cgroup, &err) < 0) ||
	    proc_vm_open((pid_t)strtol(argv[2], NULL, 10), &p, &err) < 0 ||
	    proc_vm_ram_map(p, &facts, &ram, &err) < 0 || wss_open("", backend, &w, &err) < 0) {
		fprintf(stderr, "watch: %s\n", err.text);
		return 1;
	}
	for (size_t i = 0; i < ram.n; i++)
		printf("RAM %llx-%llx %s\n", (unsigned long long)ram.list[i].start, (unsigned long long)ram.list[i].end,
		       ram.list[i].shared ? "shared" : "private");
	const struct wss_target t = {.pid = proc_vm_pid(p),
				     .pidfd = proc_vm_pidfd(p),
				     .ram = &ram,
				     .cgroup_path = group,
				     .cgroup = cgroup,
				     .memory = &memory,
				     .emulated = true, /* which is on the safe side */
				     .pages = argc > 7 ? (uint32_t)strtoul(argv[7], NULL, 10) : 2401};
	for (unsigned long n = strtoul(argv[5], NULL, 10); n > 0 && step(NULL); n--) {
		struct wss_reading r = {0};

		if (window(w, &t, strtoull(argv[4], NULL, 10), &r, &err) < 0)
			printf("unknown: %s\n", err.text);
		else
			printf("%.2f MiB ± %.2f, %llu pages, %.2f ms\n", (double)r.wss_bytes / (double)MIB,
			       (double)r.error_bytes / (double)MIB, (unsigned long long)r.pages,
			       (double)r.cost_ns / 1e6);
		fflush(stdout);
	}
	wss_close(w);
	cgroup_vm_close(cgroup);
	guest_ram_clear(&ram);
	proc_vm_close(p);
	return 0;
}
