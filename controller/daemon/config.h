/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memocd's configuration: built-in defaults, then the file, then FILE.d/ *.conf in name order, then --set. Read with
 * libinih. One table of settings drives reading, checking, `memoc config` and the documentation in
 * packaging/memoc.conf. All or nothing: any unknown section or key, bad value or contradiction refuses the whole, with
 * file, line, key, value and the accepted form.
 */
#ifndef MEMOC_DAEMON_CONFIG_H
#define MEMOC_DAEMON_CONFIG_H

#include <sys/types.h>

#include "common/log.h"
#include "common/parse.h"
#include "controller/core/types.h"

#define CONFIG_TEXT_LEN 128 /* of a value, with its NUL */

struct config {
	struct size_spec pool, reserve, buffer; /* [host]; percent of RAM (pool) or of the pool (buffer) */
	struct core_config core;		/* everything the core takes, but pool/reserve/buffer */
	char policy_name[32];			/* [policy] name: one of policy_list[] */
	int cgroup_method;			/* [swap] method: enum cgroup_method */
	char wss_backend[16];			/* [wss] backend: auto, none or the name of one */
	uint64_t wss_window_ms;			/* [policy] wss_window */
	uint32_t wss_pages;			/* [wss] pages: sampled of a VM at most */
	double wss_target_error;		/* [wss] target_error: of a VM's memory, 95 % confidence */
	double wss_budget;			/* [wss] budget: of one processor */
	char metrics_listen[128];		/* [metrics] listen: only "none" yet */
	bool log_level_set;
	enum log_level log_level;			 /* [log] level */
	enum { ON_EXIT_KEEP = 1, ON_EXIT_OPEN } on_exit; /* [host] on_exit */
	uint32_t events_kept;				 /* [log] events: size of the ring in memory */
	uint64_t record_bytes;				 /* [log] record: on disk, for memoc replay; 0: off */
};

/* One line of `memoc config`: key "section.key", value as text, where it came from ("default", "FILE:LINE", "--set").
 */
struct config_setting {
	char key[64], value[CONFIG_TEXT_LEN], source[256];
};

/*
 * path NULL: the default file, which may be missing; a named one may not. sets: "section.key=value" strings. Returns 0
 * or −EINVAL/−ENOENT/−EACCES … with err naming file and line. *ret_settings (may be NULL) is an array of *ret_n, freed
 * by the caller.
 */
int config_load(const char *path, const char *const *sets, size_t n_sets, struct config *ret,
		struct config_setting **ret_settings, size_t *ret_n, struct memoc_err *err);

/* What a setting's value looks like; says which type of struct config it is stored in. */
enum config_kind {
	CONFIG_BOOL = 1,  /* bool */
	CONFIG_BYTES,	  /* uint64_t, a size */
	CONFIG_DURATION,  /* uint64_t, ms */
	CONFIG_SHARE,	  /* double 0..1, a percentage */
	CONFIG_BYTE_RATE, /* double, bytes per second given as a size */
	CONFIG_RATE,	  /* double, per second */
	CONFIG_COUNT,	  /* uint32_t */
	CONFIG_SIZE_SPEC, /* struct size_spec: auto or a size; max 1: or a percentage */
	CONFIG_ENUM,	  /* an enum of int's size, by names */
	CONFIG_WORD,	  /* char[], one of names */
};
enum { WORD_BUILT_IN = 1 };

/* The settings table, for reading, help and documentation alike; ended by a NULL name. */
struct config_key {
	const char *section, *name, *help; /* help: one line */
	enum config_kind kind;
	size_t offset;	 /* in struct config */
	size_t size;	 /* of the field there */
	double min, max; /* inclusive, in the field's unit */
	const struct enum_name *names;
};
extern const struct config_key config_keys[];
/* Default as text that is good in a file, made from the default itself. Writes into buf and returns it. */
const char *config_key_default(const struct config_key *key, char buf[CONFIG_TEXT_LEN]);
/* Accepted form and range, for messages and help: "a time of 100ms to 1m, such as 1s". */
const char *config_key_form(const struct config_key *key, char buf[CONFIG_TEXT_LEN]);

/*
 * Resolves pool, reserve and buffer against this host's memory into c->core. auto: reserve = max(256 MiB, 5 % of RAM)
 * at most half of RAM; pool = RAM − reserve; buffer = 5 % of the pool, sized by the core from then on. −EINVAL: pool
 * larger than RAM, buffer larger than half the pool …
 */
int config_resolve(struct config *c, uint64_t mem_total_bytes, struct memoc_err *err);

#endif
