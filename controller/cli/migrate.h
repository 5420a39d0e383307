/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What memoc migrate runs: virsh, which knows each of libvirt's ways to migrate and how a job is cancelled, and what it
 * says of the job while that goes on. Private to command_migrate.c and its tests. Single-threaded; the functions that
 * run something block SIGINT, SIGTERM and SIGHUP for the rest of the program's life.
 */
#ifndef MEMOC_CLI_MIGRATE_H
#define MEMOC_CLI_MIGRATE_H

#include "controller/cli/cli.h"

/* A libvirt job's figures; 0 where libvirt does not tell. Names are libvirt's (VIR_DOMAIN_JOB_…). */
struct job_stats {
	uint64_t memory_total_bytes, memory_processed_bytes, memory_remaining_bytes; /* processed: really sent */
	uint64_t memory_bytes_per_s;
	uint64_t iteration; /* pass over the memory, from 1 on */
	uint64_t disk_total_bytes, disk_remaining_bytes;
	uint64_t elapsed_ms, downtime_ms;
};

/* From what `virsh domjobinfo --rawstats` prints ("memory_total: 1234" a line). False: there is no memory figure. */
bool job_stats_read(const char *text, struct job_stats *ret);
/* "memory, pass 2", "storage", "starting": where it is. */
#define JOB_PHASE_LEN 40
const char *job_phase(char buf[JOB_PHASE_LEN], const struct job_stats *s);
/* 0..1 of what is to be sent in this pass. */
double job_share(const struct job_stats *s);

struct migration {
	/* given */
	const char *uri;	  /* libvirt of this host */
	const char *vm, *desturi; /* as the user has them */
	const char *const *words; /* virsh migrate's other words, NULL-ended */
	/* Called each second or so; stats may be those of before, or all 0. */
	void (*progress)(void *user, const struct job_stats *stats);
	/* Called each half minute: whoever else must know that it goes on. */
	void (*renew)(void *user);
	void *user;
	/* what came of it */
	bool migrated, cancelled;
	struct job_stats stats; /* the last that was seen, or of the whole where libvirt still tells */
	char why[400];		/* not migrated: virsh's reason */
};

/*
 * Runs `virsh migrate` to its end. 0: see migrated; −errno: virsh could not be run, which left nothing behind. SIGINT,
 * SIGTERM and SIGHUP cancel the migration (virsh domjobabort), and the call returns when that has been done.
 */
int migration_run(struct migration *m);
/* The finished job's figures, of the source where that still knows the VM, else of the destination: m->stats. */
void migration_final_stats(struct migration *m, const char *name_there);

#endif
