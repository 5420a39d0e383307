/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "controller/wss/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "controller/host/kernfile.h"

uint64_t wss_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

bool wss_ended(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, 0) != 0;
}

bool wss_cancelled(const struct wss_sample *s)
{
	return s->cancel && atomic_load(s->cancel);
}

uint64_t wss_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return x * UINT64_C(2685821657736338717);
}

size_t wss_pick_pages(const struct guest_ram *ram, size_t pages, uint64_t *seed, uint64_t *ret)
{
	uint64_t all = ram->bytes / WSS_PAGE_BYTES, base = 0;
	size_t n = min_u64(pages, all), range = 0;

	for (size_t i = 0; i < n; i++) {
		/* part i begins at i·all/n, which is never past the next one's begin */
		uint64_t from = mul_div_u64(all, i, n), to = mul_div_u64(all, i + 1, n);
		uint64_t at = from + (uint64_t)(((unsigned __int128)wss_random(seed) * (to - from)) >> 64);

		for (;;) {
			const struct guest_ram_range *r = &ram->list[range];
			uint64_t size = (r->end - r->start) / WSS_PAGE_BYTES;

			if (at - base < size) {
				ret[i] = r->start / WSS_PAGE_BYTES + (at - base);
				break;
			}
			base += size;
			range++;
		}
	}
	return n;
}

#define QEMU_LEAST_BYTES (32 * MIB)

uint64_t wss_qemu_bytes(const struct wss_sample *s)
{
	return max_u64(s->overhead_bytes, QEMU_LEAST_BYTES);
}

/* ---- files ---- */

int wss_open_file(const char *root, const char *path, int flags)
{
	char full[PATH_MAX];
	int fd;

	if ((size_t)snprintf(full, sizeof(full), "%s%s", root, path) >= sizeof(full))
		return -ENAMETOOLONG;
	fd = open(full, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

ssize_t wss_read_text(const char *root, const char *path, char *buf, size_t size)
{
	int fd AUTO_CLOSE = wss_open_file(root, path, O_RDONLY);

	return fd < 0 ? fd : kernfile_read(fd, buf, size);
}

int wss_read_number(const char *root, const char *path, uint64_t *ret)
{
	int fd AUTO_CLOSE = wss_open_file(root, path, O_RDONLY);

	return fd < 0 ? fd : kernfile_read_number(fd, ret);
}

int wss_write_text(const char *root, const char *path, const char *text)
{
	int fd AUTO_CLOSE = wss_open_file(root, path, O_WRONLY | O_TRUNC);
	ssize_t n;

	if (fd < 0)
		return fd;
	do
		n = write(fd, text, strlen(text));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == strlen(text) ? 0 : -EIO;
}

/* ---- words and bits ---- */

#define CHUNK_WORDS 512 /* page_idle/bitmap takes no more than 4096 bytes at a time; the others cost by the word */
/* A system call costs as much as some words: pagemap 36 ns a word, 0.6 to 1.2 µs a call (facts.md, and measured). */

static int whole_write(int fd, const void *buf, size_t bytes, uint64_t at)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t n = pwrite(fd, (const char *)buf + done, bytes - done, (off_t)(at + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0 || n % 8)
			return -ENODATA;
		done += (size_t)n;
	}
	return 0;
}

/* How many of the next indexes go into one transfer; shift: bits to a word. */
static size_t chunk(const uint64_t *index, size_t n, unsigned shift, enum wss_gap gap)
{
	uint64_t first = index[0] >> shift, last = first;
	size_t k = 1;

	for (; k < n; k++) {
		uint64_t word = index[k] >> shift;

		if (word - last > gap || word - first >= CHUNK_WORDS)
			break;
		last = word;
	}
	return k;
}

int wss_read_words(int fd, enum wss_gap gap, const uint64_t *index, size_t n, uint64_t *ret)
{
	uint64_t words[CHUNK_WORDS] = {0};

	for (size_t i = 0; i < n;) {
		size_t k = chunk(index + i, n - i, 0, gap), count = (size_t)(index[i + k - 1] - index[i] + 1);
		int r = kernfile_read_at(fd, words, count * 8, index[i] * 8);

		if (r < 0)
			return r;
		for (size_t j = i; j < i + k; j++)
			ret[j] = words[index[j] - index[i]];
		i += k;
	}
	return 0;
}

int wss_set_bits(int fd, const uint64_t *bit, size_t n)
{
	uint64_t words[CHUNK_WORDS];

	for (size_t i = 0; i < n;) {
		size_t k = chunk(bit + i, n - i, 6, WSS_GAP_BITMAP);
		uint64_t first = bit[i] / 64, count = bit[i + k - 1] / 64 - first + 1;

		memset(words, 0, count * 8);
		for (size_t j = i; j < i + k; j++)
			words[bit[j] / 64 - first] |= UINT64_C(1) << bit[j] % 64;
		int r = whole_write(fd, words, count * 8, first * 8);
		if (r < 0)
			return r;
		i += k;
	}
	return 0;
}
