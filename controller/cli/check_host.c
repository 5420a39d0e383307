/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What memoc needs of the kernel: each look says what it found, and what would be better. */
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "controller/cli/check.h"
#include "common/parse.h"

#define FILE_MAX 65536 /* mountinfo of a host with many containers */

/* ---- kernel version ---- */

struct kernel {
	char release[64];
	int major, minor; /* 0.0 where unknown */
};

static struct kernel read_kernel(const char *root)
{
	struct kernel k = {0};

	if (check_read(root, "/proc/sys/kernel/osrelease", k.release, sizeof(k.release)) < 0 ||
	    sscanf(k.release, "%d.%d", &k.major, &k.minor) != 2)
		k = (struct kernel){.release = "unknown"};
	return k;
}

static bool kernel_since(const struct kernel *k, int major, int minor)
{
	return k->major > major || (k->major == major && k->minor >= minor);
}

/* ---- cgroups ---- */

struct cgroup_mount {
	char path[256];
	bool read_only;
};

static bool has_word(const char *list, const char *word, const char *separators)
{
	size_t len = strlen(word);

	for (const char *p = list; *p;) {
		size_t n = strcspn(p, separators);
		if (n == len && !strncmp(p, word, len))
			return true;
		p += n;
		p += strspn(p, separators);
	}
	return false;
}

/*
 * One line of mountinfo (proc(5)): "36 35 98:0 / /mnt rw,noatime optional… - type source super-options". True where it
 * is of the type, and has the super-option (NULL: any).
 */
static bool match_mount(const char *line, const char *type, const char *option, struct cgroup_mount *ret)
{
	char path[256], options[256], found[32], super[512];
	const char *tail = strstr(line, " - ");

	if (!tail || sscanf(line, "%*s %*s %*s %*s %255s %255s", path, options) != 2 ||
	    sscanf(tail + 3, "%31s %*s %511s", found, super) != 2)
		return false;
	if (strcmp(found, type) || (option && !has_word(super, option, ",")))
		return false;
	snprintf(ret->path, sizeof(ret->path), "%s", path);
	ret->read_only = has_word(options, "ro", ",") || has_word(super, "ro", ",");
	return true;
}

static bool find_mount(const char *root, const char *type, const char *option, struct cgroup_mount *ret)
{
	char *text AUTO_FREE = malloc(FILE_MAX);
	char *state = NULL;

	if (!text || check_read(root, "/proc/self/mountinfo", text, FILE_MAX) < 0)
		return false;
	for (char *line = strtok_r(text, "\n", &state); line; line = strtok_r(NULL, "\n", &state))
		if (match_mount(line, type, option, ret))
			return true;
	return false;
}

static bool v2_has_memory(const char *root, const struct cgroup_mount *m)
{
	char path[PATH_MAX], controllers[256];

	snprintf(path, sizeof(path), "%s/cgroup.controllers", m->path);
	return check_read(root, path, controllers, sizeof(controllers)) >= 0 && has_word(controllers, "memory", " ");
}

/* Is there such a file in a group right below the mount? The root group itself has none of them. */
static bool any_group_has(const char *root, const struct cgroup_mount *m, const char *file)
{
	char pattern[PATH_MAX];
	glob_t found = {0};
	bool has;

	snprintf(pattern, sizeof(pattern), "%s%s/*/%s", root, m->path, file);
	has = glob(pattern, GLOB_NOSORT, NULL, &found) == 0;
	globfree(&found);
	return has;
}

static void check_reclaim(const char *root, const struct kernel *k, const struct cgroup_mount *m, struct check_list *l)
{
	bool there = any_group_has(root, m, "memory.reclaim");

	/* without any group under the memory controller only the version can tell */
	if (there || (!any_group_has(root, m, "memory.high") && kernel_since(k, 5, 19)))
		check_pass(l, "reclaim", "memory.reclaim: memory can be taken in bounded steps");
	else
		check_problem(
			l, CHECK_WARN, "reclaim", "run Linux 5.19 or later",
			"no memory.reclaim (kernel %s): a limit takes memory by memory.high alone, which slows the VM "
			"meanwhile",
			k->release);
}

static void check_cgroup(const char *root, const struct kernel *k, struct check_list *l)
{
	struct cgroup_mount m = {0};
	const char *version = NULL;

	if (find_mount(root, "cgroup", "memory", &m))
		version = "v1";
	else if (find_mount(root, "cgroup2", NULL, &m) && v2_has_memory(root, &m))
		version = "v2";
	if (!version) {
		check_problem(
			l, CHECK_FAIL, "cgroup",
			"boot without cgroup_disable=memory (on some machines: with cgroup_enable=memory), and mount "
			"cgroup2 at /sys/fs/cgroup",
			"no cgroup memory controller: VMs cannot be limited");
		return;
	}
	if (m.read_only)
		check_problem(l, CHECK_FAIL, "cgroup",
			      "run on the host itself, not in a container with a read-only /sys",
			      "cgroup %s memory controller at %s is mounted read-only: limits cannot be set", version,
			      m.path);
	else
		check_pass(l, "cgroup", "cgroup %s, memory controller at %s", version, m.path);
	if (!strcmp(version, "v2"))
		check_reclaim(root, k, &m, l);
}

/* ---- swap ---- */

static bool meminfo_bytes(const char *text, const char *name, uint64_t *ret)
{
	const char *at = strstr(text, name);
	unsigned long long kib;

	if (!at || sscanf(at + strlen(name), ": %llu kB", &kib) != 1)
		return false;
	*ret = kib * KIB;
	return true;
}

static void check_swap_size(const char *root, struct check_list *l, uint64_t *ret_total)
{
	char text[8192], total_text[FORMAT_SIZE_LEN], free_text[FORMAT_SIZE_LEN];
	uint64_t total = 0, free_bytes = 0;

	*ret_total = 0;
	if (check_read(root, "/proc/meminfo", text, sizeof(text)) < 0 || !meminfo_bytes(text, "SwapTotal", &total) ||
	    !meminfo_bytes(text, "SwapFree", &free_bytes)) {
		check_problem(l, CHECK_WARN, "swap", "mount /proc", "cannot tell: /proc/meminfo does not say");
		return;
	}
	*ret_total = total;
	format_size(total_text, total);
	format_size(free_text, free_bytes);
	if (total == 0)
		check_problem(l, CHECK_WARN, "swap", "add swap: a swap partition or file, or zram",
			      "none: only balloons can take memory back; a VM without a working one keeps what it has");
	else if (free_bytes < total / 10)
		check_problem(l, CHECK_WARN, "swap", "add swap, or run fewer VMs", "%s free of %s: nearly full",
			      free_text, total_text);
	else
		check_pass(l, "swap", "%s free of %s", free_text, total_text);
}

/* Swap devices by kind, from /proc/swaps: "/dev/zram0 partition 1048572 0 -2" after a line of headings. */
static void count_swaps(const char *root, unsigned *ret_zram, unsigned *ret_other)
{
	char text[4096], *state = NULL;

	*ret_zram = *ret_other = 0;
	if (check_read(root, "/proc/swaps", text, sizeof(text)) < 0)
		return;
	for (char *line = strtok_r(text, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
		if (line[0] != '/')
			continue;
		if (!strncmp(line, "/dev/zram", strlen("/dev/zram")))
			++*ret_zram;
		else
			++*ret_other;
	}
}

static void check_compression(const char *root, struct check_list *l)
{
	char enabled[8] = "";
	unsigned zram, other;
	bool has_zswap = check_read(root, "/sys/module/zswap/parameters/enabled", enabled, sizeof(enabled)) >= 0;
	bool zswap = enabled[0] == 'Y' || enabled[0] == '1';

	count_swaps(root, &zram, &other);
	if (zram > 0 && zswap)
		check_problem(l, CHECK_WARN, "swap-cache", "echo N > /sys/module/zswap/parameters/enabled",
			      "swap on zram and zswap in front of it: pages are compressed twice");
	else if (zram > 0)
		check_pass(l, "swap-cache",
			   other ? "part of the swap is zram: compressed memory" : "swap is zram: compressed memory");
	else if (zswap)
		check_pass(l, "swap-cache", "zswap is on: swapped pages are compressed in memory first");
	else
		check_problem(l, CHECK_WARN, "swap-cache",
			      has_zswap ? "echo Y > /sys/module/zswap/parameters/enabled"
					: "use a kernel with zswap, or zram",
			      "neither zswap nor zram: every swapped page goes to the disk");
}

static void check_swappiness(const char *root, struct check_list *l)
{
	long value;

	if (check_read_number(root, "/proc/sys/vm/swappiness", &value) < 0)
		return;
	/* mm/vmscan.c, get_scan_count(): a cgroup's reclaim leaves anonymous memory alone at 0 */
	if (value == 0)
		check_problem(l, CHECK_WARN, "swappiness", "sysctl vm.swappiness=60",
			      "vm.swappiness=0: a cgroup's limit does not swap out a VM's memory");
	else
		check_pass(l, "swappiness", "vm.swappiness=%ld", value);
}

/* Total bytes; 0 = none, or not known. */
static uint64_t check_swap(const char *root, struct check_list *l)
{
	uint64_t total = 0;

	check_swap_size(root, l, &total);
	if (total == 0)
		return 0;
	check_compression(root, l);
	check_swappiness(root, l);
	return total;
}

/* ---- pressure ---- */

static void check_psi(const char *root, struct check_list *l)
{
	char text[256];
	int r = check_read(root, "/proc/pressure/memory", text, sizeof(text));

	/* built in but switched off: the file opens and cannot be read, or does not open */
	if (r >= 0)
		check_pass(l, "psi", "memory pressure is measured");
	else
		check_problem(l, CHECK_WARN, "psi",
			      r == -ENOENT ? "use a kernel with CONFIG_PSI; boot with psi=1" : "boot with psi=1",
			      "no memory pressure (/proc/pressure/memory: %s): memoc has one sign of need less",
			      strerror(-r));
}

/* ---- what can tell a VM's working set ---- */

static bool check_page_idle(const char *root, struct check_list *l)
{
	bool there = check_exists(root, "/sys/kernel/mm/page_idle/bitmap");

	if (there)
		check_pass(l, "page-idle", "idle page tracking is there");
	else
		check_problem(l, CHECK_WARN, "page-idle", "use a kernel with CONFIG_IDLE_PAGE_TRACKING",
			      "no idle page tracking: the most exact source of working sets is missing");
	return there;
}

#define KERNEL_CONFIG_MOST_BYTES (512 * 1024)

/* What distributions put into /boot, or the kernel's own copy (CONFIG_IKCONFIG_PROC). */
static bool read_kernel_config(const char *root, const struct kernel *k, char *ret)
{
	char path[256];

	snprintf(path, sizeof(path), "/boot/config-%s", k->release);
	if (check_read(root, path, ret, KERNEL_CONFIG_MOST_BYTES) >= 0)
		return true;
	snprintf(path, sizeof(path), "%s/proc/config.gz", root);
	gzFile file = gzopen(path, "re");
	if (!file)
		return false;
	int n = gzread(file, ret, KERNEL_CONFIG_MOST_BYTES - 1);
	gzclose(file);
	ret[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* y, n or ? of a kernel option. */
static char kernel_option(const char *root, const struct kernel *k, const char *option)
{
	char wanted[64];
	char *text AUTO_FREE = malloc(KERNEL_CONFIG_MOST_BYTES);
	const char *at;

	if (!text || !read_kernel_config(root, k, text))
		return '?';
	snprintf(wanted, sizeof(wanted), "\n%s=", option);
	at = strstr(text, wanted);
	return at && (at[strlen(wanted)] == 'y' || at[strlen(wanted)] == 'm') ? 'y' : 'n';
}

/* y, n or ?: can it watch processes? */
static char check_damon(const char *root, const struct kernel *k, struct check_list *l)
{
	static const char remedy[] = "use a kernel with CONFIG_DAMON_VADDR and CONFIG_DAMON_SYSFS";

	if (!check_exists(root, "/sys/kernel/mm/damon/admin")) {
		check_problem(l, CHECK_WARN, "damon", remedy, "no DAMON");
		return 'n';
	}
	char option = kernel_option(root, k, "CONFIG_DAMON_VADDR");

	switch (option) {
	case 'y':
		check_pass(l, "damon", "DAMON is there and can watch processes");
		break;
	case 'n':
		check_problem(l, CHECK_WARN, "damon", remedy, "DAMON is there, but cannot watch processes");
		break;
	default:
		check_problem(
			l, CHECK_WARN, "damon",
			"look for CONFIG_DAMON_VADDR=y in the kernel's configuration; if it is there, all is well",
			"DAMON is there; whether it can watch processes cannot be told: neither /boot/config-%s nor "
			"/proc/config.gz",
			k->release);
	}
	return option;
}

#define LRU_GEN_WORKS 3 /* of /sys/kernel/mm/lru_gen/enabled: in use, and page tables are walked */

static bool check_mglru(const char *root, const struct kernel *k, struct check_list *l)
{
	char text[32] = "";
	bool there = check_read(root, "/sys/kernel/mm/lru_gen/enabled", text, sizeof(text)) >= 0;
	bool on = (strtoul(text, NULL, 0) & LRU_GEN_WORKS) == LRU_GEN_WORKS;

	if (!there)
		check_problem(l, CHECK_WARN, "mglru", "use a kernel with CONFIG_LRU_GEN", "no multi-generational LRU");
	else if (!on)
		check_problem(l, CHECK_WARN, "mglru", "echo y > /sys/kernel/mm/lru_gen/enabled",
			      "multi-generational LRU is there, but off");
	else if (!kernel_since(k, 6, 12))
		check_problem(
			l, CHECK_WARN, "mglru", "run Linux 6.12 or later",
			"multi-generational LRU is on; before Linux 6.12 (here %s) it may not see what KVM guests use",
			k->release);
	else if (!check_exists(root, "/sys/kernel/debug/lru_gen"))
		check_problem(l, CHECK_WARN, "mglru", "mount -t debugfs debugfs /sys/kernel/debug",
			      "multi-generational LRU is on, but /sys/kernel/debug/lru_gen is not to be seen");
	else
		check_pass(l, "mglru", "multi-generational LRU is on");
	return on && kernel_since(k, 6, 12) && check_exists(root, "/sys/kernel/debug/lru_gen");
}

/* In the order in which memocd takes them ([wss] backend = auto); `memoc host` says what it uses in the end. */
static void check_wss(const char *root, const struct kernel *k, uint64_t swap_bytes, struct check_list *l)
{
	bool idle = check_page_idle(root, l);
	char damon = check_damon(root, k, l);
	bool lru = check_mglru(root, k, l);

	if (idle || damon == 'y' || lru)
		check_pass(l, "wss", "working sets can be measured by %s",
			   idle		  ? "idle page tracking"
			   : damon == 'y' ? "DAMON"
					  : "the multi-generational LRU");
	else if (damon == '?')
		check_problem(l, CHECK_WARN, "wss", "ask memocd, once it runs: memoc host",
			      "working sets can perhaps be measured by DAMON, see above");
	else
		check_problem(
			l, CHECK_WARN, "wss",
			swap_bytes ? "use a kernel with one of the three sources above; or set [wss] backend = "
				     "refault, which takes a little memory from VMs and looks what comes back"
				   : "use a kernel with one of the three sources above",
			"nothing here can measure working sets: a guest that lies or says nothing is judged by what "
			"it has in memory and by faults");
}

/* ---- the rest ---- */

/* process_madvise came with Linux 5.10, pidfd_open with 5.3. */
static void check_madvise(const struct kernel *k, struct check_list *l)
{
	if (kernel_since(k, 5, 10))
		check_pass(l, "madvise",
			   "kernel %s has pidfd and process_madvise: memory advice during migration can work",
			   k->release);
	else
		check_problem(l, CHECK_WARN, "madvise", "run Linux 5.10 or later",
			      "kernel %s: before Linux 5.10 there is no process_madvise, so no advice during migration",
			      k->release);
}

static void check_overcommit(const char *root, struct check_list *l)
{
	long value;

	if (check_read_number(root, "/proc/sys/vm/overcommit_memory", &value) < 0)
		return;
	if (value == 2)
		check_problem(
			l, CHECK_WARN, "overcommit", "sysctl vm.overcommit_memory=0",
			"vm.overcommit_memory=2: the kernel lets no VM start whose full memory it cannot promise");
	else
		check_pass(l, "overcommit", "vm.overcommit_memory=%ld", value);
}

static void check_ksm(const char *root, struct check_list *l)
{
	static const char remedy[] = "echo 2 > /sys/kernel/mm/ksm/run, and disable ksm and ksmtuned";
	long run, shared = 0;

	if (check_read_number(root, "/sys/kernel/mm/ksm/run", &run) < 0) {
		check_pass(l, "ksm", "not in this kernel");
		return;
	}
	check_read_number(root, "/sys/kernel/mm/ksm/pages_shared", &shared);
	if (run == 1)
		check_problem(
			l, CHECK_WARN, "ksm", remedy,
			"on: shared pages are a liability, they cost memory again as soon as a guest writes to them");
	else if (shared > 0)
		check_problem(
			l, CHECK_WARN, "ksm", remedy,
			"stopped, but %ld pages are still shared: they cost memory again when a guest writes to them",
			shared);
	else
		check_pass(l, "ksm", "off");
}

/* Bits of linux/capability.h, and what memocd wants them for. */
static const struct {
	unsigned bit;
	const char *name, *why;
} capabilities[] = {
	{1, "CAP_DAC_OVERRIDE", "writing limits"},
	{19, "CAP_SYS_PTRACE", "reading QEMU's memory map"},
	{21, "CAP_SYS_ADMIN", "telling which pages are in use"},
	{23, "CAP_SYS_NICE", "advising the kernel about QEMU's memory"},
};

static void check_capabilities(const char *root, struct check_list *l)
{
	char text[8192], missing[256] = "";
	const char *uid_at, *caps_at;
	unsigned long long caps;
	unsigned uid;
	size_t used = 0;

	if (check_read(root, "/proc/self/status", text, sizeof(text)) < 0)
		return;
	uid_at = strstr(text, "\nUid:");
	caps_at = strstr(text, "\nCapEff:");
	if (!uid_at || sscanf(uid_at, "\nUid: %*u %u", &uid) != 1 || uid != 0 || !caps_at ||
	    sscanf(caps_at, "\nCapEff: %llx", &caps) != 1)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++)
		if (!(caps >> capabilities[i].bit & 1))
			used += (size_t)snprintf(missing + used, sizeof(missing) - used, "%s%s (%s)", used ? ", " : "",
						 capabilities[i].name, capabilities[i].why);
	if (used == 0)
		check_pass(l, "privileges", "root here has the capabilities that memocd needs");
	else
		check_problem(l, CHECK_WARN, "privileges", "run memocd on the host itself, not in a container",
			      "root here lacks %s", missing);
}

void check_host(const char *root, struct check_list *l)
{
	struct kernel k = read_kernel(root);

	check_cgroup(root, &k, l);
	uint64_t swap_bytes = check_swap(root, l);
	check_psi(root, l);
	check_wss(root, &k, swap_bytes, l);
	check_madvise(&k, l);
	check_overcommit(root, l);
	check_ksm(root, l);
	check_capabilities(root, l);
}
