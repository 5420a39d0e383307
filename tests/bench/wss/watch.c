/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Working set of a QEMU that runs, once a window: watch BACKEND PID MIB WINDOW_MS READINGS [CGROUP]. MIB is the guest's
 * memory (one block). What its guest uses is for the caller to know. Says where RAM was found first.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "controller/wss/estimator.h"

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
	if (r < 0) {
		wss_cancel(s);
		return r;
	}
	sleep_ms((uint64_t)((double)window_ms * wss_collect_after(w)));
	r = wss_collect(w, err);
	if (r < 0)
		wss_cancel(s);
	return r < 0 ? r : wss_end(s, ret, err);
}

int main(int argc, char **argv)
{
	struct memoc_err err = {""};
	struct proc_vm *p = NULL;
	struct guest_ram ram = {0};
	struct wss *w = NULL;
	struct wss_memory memory = {0};
	struct dom_facts facts = {.name = "guest"};
	enum wss_backend backend = WSS_IDLE;

	if (argc < 6)
		return 2;
	while (backend < WSS_BACKEND_END && strcmp(argv[1], wss_backend_name(backend)) != 0)
		backend++;
	facts.max_bytes = strtoull(argv[3], NULL, 10) * MIB;
	if (proc_vm_open((pid_t)strtol(argv[2], NULL, 10), &p, &err) < 0 ||
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
				     .cgroup_path = argc > 6 ? argv[6] : NULL,
				     .memory = &memory,
				     .pages = 2401};
	for (unsigned long n = strtoul(argv[5], NULL, 10); n > 0; n--) {
		struct wss_reading r = {0};

		if (window(w, &t, strtoull(argv[4], NULL, 10), &r, &err) < 0)
			printf("unknown: %s\n", err.text);
		else
			printf("%.1f MiB ± %.1f, %llu pages, %.2f ms\n", (double)r.wss_bytes / (double)MIB,
			       (double)r.error_bytes / (double)MIB, (unsigned long long)r.pages,
			       (double)r.cost_ns / 1e6);
		fflush(stdout);
	}
	wss_close(w);
	guest_ram_clear(&ram);
	proc_vm_close(p);
	return 0;
}
