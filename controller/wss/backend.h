/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of the working-set room: what a back-end is, and the small tools that several of them use. */
#ifndef MEMOC_WSS_BACKEND_H
#define MEMOC_WSS_BACKEND_H

#include "controller/wss/aging.h"
#include "controller/wss/estimator.h"

#define WSS_PAGE_BYTES 4096 /* of x86-64 and arm64 hosts as distributions build them; checked at wss_open */

struct wss_ops {
	enum wss_backend kind;
	bool rounds;
	bool marks; /* lives on accessed bits from begin to end: good only while nobody else takes them (aging.h) */
	double collect_after;
	int (*probe)(const char *root, struct memoc_err *why);
	int (*open)(struct wss *w, struct memoc_err *err); /* sets w->own */
	void (*close)(struct wss *w);
	int (*begin)(struct wss *w, const struct wss_target *t, struct wss_sample *s, struct memoc_err *err);
	int (*start)(struct wss *w, uint64_t window_ms, struct memoc_err *err);
	int (*collect)(struct wss *w, struct memoc_err *err);
	void (*abort)(struct wss *w);
	int (*end)(struct wss_sample *s, struct wss_reading *ret, struct memoc_err *err);
	void (*clear)(struct wss_sample *s); /* frees s->own */
};
extern const struct wss_ops wss_idle, wss_damon, wss_lru, wss_refault, wss_idle_host;

/* damon.c: ends what a memocd that was killed had running there, whatever this one will use. */
void wss_damon_clear_left(const char *root);

#define WSS_BITMAP "/sys/kernel/mm/page_idle/bitmap"
#define WSS_KPAGEFLAGS "/proc/kpageflags"
/* idle.c: is idle page tracking of frames there? As wss_ops.probe. */
int wss_idle_probe(const char *root, struct memoc_err *why);

struct wss {
	const struct wss_ops *ops;
	char *root;
	void *own;
	atomic_uint_fast64_t seed; /* of the next sample */
};

struct wss_sample {
	struct wss *wss;
	const struct wss_ops *ops;
	pid_t pid;
	int pidfd;
	const atomic_bool *cancel;
	struct guest_ram ram;
	char *cgroup_path;	   /* NULL: not known */
	struct cgroup_vm *cgroup;  /* not owned; likewise */
	struct wss_memory *memory; /* likewise */
	uint64_t overhead_bytes;   /* of QEMU; 0: not measured */
	struct aging aging;
	uint64_t seed; /* for wss_random */
	uint64_t cost_ns;
	void *own;
};

/* ---- tools.c ---- */
/*
 * By how much a reading of all the pages of a cgroup may be too high: QEMU's own memory is among them, and how much of
 * it is in use is not known. In small pages it was some of the 60 MiB that a QEMU has without its code buffer; in huge
 * ones, which are used as a whole, 40 MiB of a guest of 128 MiB. So all of it as it was measured; 32 MiB at least.
 */
uint64_t wss_qemu_bytes(const struct wss_sample *s);
bool wss_ended(int pidfd);
bool wss_cancelled(const struct wss_sample *s);
uint64_t wss_random(uint64_t *state); /* xorshift64*; state is never 0 */
/* `pages` pages of the RAM, one at random in each of as many equal parts: ascending page numbers of the address space.
 * Returns how many (fewer only where RAM has fewer). */
size_t wss_pick_pages(const struct guest_ram *ram, size_t pages, uint64_t *seed, uint64_t *ret);
/* Opens root + path. −errno. */
int wss_open_file(const char *root, const char *path, int flags);
/* A small text file below root, whole, NUL-ended. Bytes or −errno. */
ssize_t wss_read_text(const char *root, const char *path, char *buf, size_t size);
int wss_read_number(const char *root, const char *path, uint64_t *ret);
/* One write of the text to root + path. */
int wss_write_text(const char *root, const char *path, const char *text);

/*
 * A system call costs as much as so many words of the file that are read only to get over a gap: facts.md (pagemap 36
 * ns a word and 1151 a call, kpagecgroup 70 and 565), and measured.
 */
enum wss_gap { WSS_GAP_PAGEMAP = 24, WSS_GAP_FRAMES = 6, WSS_GAP_BITMAP = 6 };

/*
 * Words of 8 bytes out of a file of them, at ascending indexes (equal ones allowed). Neighbours that are nearer than a
 * system call is dear are read together, at most 4096 bytes at a time. 0; −ENODATA: the file ends before (for pagemap:
 * the process has ended); −errno.
 */
int wss_read_words(int fd, enum wss_gap gap, const uint64_t *index, size_t n, uint64_t *ret);
/* Sets single bits, by ascending bit numbers, in a file of words of 8 bytes in which zeros change nothing. */
int wss_set_bits(int fd, const uint64_t *bit, size_t n);

#endif
