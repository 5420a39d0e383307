/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Running the policies, with all that watches a run: allocations, picture, worst episodes, progress. */
#include "controller/cli/simulate.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/parse.h"

#define BAR_WIDTH 40
#define RUN_PART 0.1 /* of a search for the density, which runs about ten times more */

/* ---- who is where ---- */

const struct trace_vm *placed_vm(const struct placement *p, size_t host, size_t vm)
{
	const struct placed_host *h = host < p->n_hosts ? &p->hosts[host] : NULL;

	if (!h || vm < h->first_vm || vm - h->first_vm >= h->n)
		return NULL;
	return p->vms[h->first_slot + (vm - h->first_vm)];
}

static int grow(void **list, size_t *room, size_t n, size_t size)
{
	size_t more = *room ? 2 * *room : 64;
	void *grown;

	if (n < *room)
		return 0;
	grown = reallocarray(*list, more, size);
	if (!grown)
		return -ENOMEM;
	*list = grown;
	*room = more;
	return 0;
}

static void place(struct placement *p, size_t host, size_t vm, const struct trace_vm *of)
{
	if (p->error || host > p->n_hosts)
		return;
	p->error = grow((void **)&p->vms, &p->vms_room, p->n_vms, sizeof(const struct trace_vm *));
	if (!p->error)
		p->error = grow((void **)&p->hosts, &p->hosts_room, p->n_hosts, sizeof(*p->hosts));
	if (p->error)
		return;
	if (host == p->n_hosts)
		p->hosts[p->n_hosts++] = (struct placed_host){.first_vm = vm, .first_slot = p->n_vms};
	p->vms[p->n_vms++] = of;
	p->hosts[host].n++;
}

static void placement_clear(struct placement *p)
{
	free(p->hosts);
	free(p->vms);
	*p = (struct placement){0};
}

/* ---- the worst episodes ---- */

/* Order of two: more unmet is worse, then the earlier one; a total order, so the same run gives the same list. */
static int worse_first(const void *a, const void *b)
{
	const struct episode *x = a, *y = b;

	if (x->unmet_byte_s != y->unmet_byte_s)
		return x->unmet_byte_s < y->unmet_byte_s ? 1 : -1;
	if (x->begin_ms != y->begin_ms)
		return x->begin_ms > y->begin_ms ? 1 : -1;
	if (x->host != y->host)
		return x->host > y->host ? 1 : -1;
	return x->vm > y->vm ? 1 : x->vm < y->vm ? -1 : 0;
}

/* heap[0] is the least bad of those that are kept: the one to go when a worse one comes. */
static void sift_down(struct episode *heap, size_t n, size_t at)
{
	for (;;) {
		size_t child = 2 * at + 1;
		struct episode moved;
		if (child >= n)
			return;
		if (child + 1 < n && worse_first(&heap[child], &heap[child + 1]) < 0)
			child++;
		if (worse_first(&heap[child], &heap[at]) <= 0)
			return;
		moved = heap[at];
		heap[at] = heap[child];
		heap[child] = moved;
		at = child;
	}
}

static void keep_episode(struct outcome *o, size_t most, const struct episode *e)
{
	if (o->n_worst < most) {
		o->worst[o->n_worst++] = *e;
		if (o->n_worst == most)
			for (size_t i = most / 2; i-- > 0;)
				sift_down(o->worst, most, i);
	} else if (worse_first(e, &o->worst[0]) < 0) {
		o->worst[0] = *e;
		sift_down(o->worst, most, 0);
	}
}

/* ---- one run, watched ---- */

struct watched {
	struct run *run;
	struct outcome *outcome;
	struct out_file allocations;
	int written; /* 0, or what went wrong with the allocations */
	struct plot *plot;
	struct out_file picture;
	bool show_progress, searches; /* for the density, after the run */
};

/* v in units of 1 / 10^digits, as a decimal without trailing zeros. */
static char *put_decimal(char *at, uint64_t v, unsigned digits)
{
	char rev[32];
	size_t n = 0;
	bool seen = false;

	for (unsigned i = 0; i < digits || v > 0 || i == digits; i++, v /= 10) {
		if (i == digits && seen)
			rev[n++] = '.';
		if (i < digits && v % 10 == 0 && !seen)
			continue;
		seen = true;
		rev[n++] = (char)('0' + v % 10);
	}
	while (n > 0)
		*at++ = rev[--n];
	return at;
}

/* Seven decimals of a MiB are less than half a byte: multiplied by 2^20 and rounded, the very bytes come back. */
static char *put_mib(char *at, uint64_t bytes)
{
	return put_decimal(at, mul_div_u64(bytes, 10000000, MIB) + (bytes % MIB * 10000000 % MIB >= MIB / 2), 7);
}

/* A name as CSV has it: quoted where it must be. */
static char *put_name(char *at, const char *name)
{
	bool quoted = strpbrk(name, ",\"\r\n");

	if (quoted)
		*at++ = '"';
	for (; *name; name++) {
		if (*name == '"')
			*at++ = '"';
		*at++ = *name;
	}
	if (quoted)
		*at++ = '"';
	return at;
}

static void write_allocation(struct watched *w, uint64_t time_ms, size_t host, size_t vm, uint64_t demand,
			     uint64_t size)
{
	const struct trace_vm *of = placed_vm(&w->run->placement, host, vm);
	char row[2 * TRACE_NAME_MAX + 160], *at = put_decimal(row, time_ms, 3);

	if (w->written)
		return;
	*at++ = ',';
	at = put_decimal(at, host, 0);
	*at++ = ',';
	at = of ? put_name(at, of->name) : put_decimal(at, vm, 0);
	*at++ = ',';
	at = put_mib(at, demand);
	*at++ = ',';
	at = put_mib(at, size);
	*at++ = '\n';
	if (fwrite_unlocked(row, 1, (size_t)(at - row), w->allocations.stream) != (size_t)(at - row))
		w->written = errno > 0 ? -errno : -EIO;
}

static void watch_placed(void *user, size_t host, size_t vm, const struct trace_vm *of, uint64_t pool_bytes)
{
	struct watched *w = user;

	place(&w->run->placement, host, vm, of);
	if (w->plot)
		plot_placed(w->plot, host, vm, of->name, of->size_bytes, pool_bytes);
}

static void watch_step(void *user, uint64_t time_ms, size_t host, size_t vm, uint64_t demand, uint64_t size)
{
	struct watched *w = user;

	if (w->allocations.stream)
		write_allocation(w, time_ms, host, vm, demand, size);
	if (w->plot)
		plot_step(w->plot, time_ms, host, vm, demand, size);
}

static void watch_episode(void *user, const struct sim_episode *ended)
{
	struct watched *w = user;
	struct episode e = {.host = ended->host,
			    .vm = ended->vm,
			    .begin_ms = ended->begin_ms,
			    .end_ms = ended->end_ms,
			    .unmet_byte_s = ended->unmet_byte_s};

	snprintf(e.cause, sizeof(e.cause), "%s", ended->cause);
	snprintf(e.cure, sizeof(e.cure), "%s", ended->cure);
	keep_episode(w->outcome, w->run->options->n_worst, &e);
}

/* ---- progress, on a terminal ---- */

static void watch_progress(void *user, double done)
{
	const struct watched *w = user;
	const struct run *run = w->run;
	size_t at = (size_t)(w->outcome - run->outcomes);
	double part = !run->options->density ? done : w->searches ? RUN_PART + (1 - RUN_PART) * done : RUN_PART * done;
	double all = ((double)at + part) / (double)run->options->n_policies;
	int full = (int)(all * BAR_WIDTH);

	if (w->show_progress)
		fprintf(stderr, "\r[%.*s%*s] %3d %%  %-14s", full, "########################################",
			BAR_WIDTH - full, "", (int)(all * 100), run->options->policies[at]);
}

static void clear_progress(const struct watched *w)
{
	if (w->show_progress)
		fputs("\r\033[K", stderr);
}

/* ---- files ---- */

int policy_path(char ret[PATH_MAX], const char *path, const char *policy, size_t n_policies)
{
	const char *base = strrchr(path, '/');
	const char *dot = strrchr(base ? base + 1 : path, '.');
	size_t stem = dot && dot > (base ? base + 1 : path) ? (size_t)(dot - path) : strlen(path);
	int n = n_policies == 1 ? snprintf(ret, PATH_MAX, "%s", path)
				: snprintf(ret, PATH_MAX, "%.*s.%s%s", (int)stem, path, policy, path + stem);

	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int open_file(struct out_file *f, const char *option, const char *path, const struct watched *w,
		     const char *policy, struct memoc_err *err)
{
	char of_policy[PATH_MAX];
	struct stat there, trace;

	if (policy_path(of_policy, path, policy, w->run->options->n_policies) < 0)
		return memoc_err_set(err, -ENAMETOOLONG, "%s: the name of the file is too long", option);
	if (stat(of_policy, &there) == 0 && stat(w->run->options->trace_path, &trace) == 0 &&
	    there.st_dev == trace.st_dev && there.st_ino == trace.st_ino)
		return memoc_err_set(err, -EEXIST, "%s %s is the trace itself: give another file", option, of_policy);
	return out_file_open(f, of_policy, err);
}

/* Before the run: what cannot be written is known at once, not after minutes. */
static int open_files(struct watched *w, const char *policy, struct memoc_err *err)
{
	const struct simulate_options *o = w->run->options;
	int r = o->plot ? open_file(&w->picture, "--plot", o->plot, w, policy, err) : 0;

	if (r == 0 && o->allocations)
		r = open_file(&w->allocations, "--allocations", o->allocations, w, policy, err);
	if (w->allocations.stream && fputs("time_s,host,vm,demand_mib,size_mib\n", w->allocations.stream) < 0)
		w->written = -errno;
	return r;
}

static int write_plot(struct watched *w, const char *policy, struct memoc_err *err)
{
	const struct simulate_options *o = w->run->options;
	const struct sim_result *res = &w->outcome->result;
	const char *base = strrchr(o->trace_path, '/');
	char title[256], figures[FIGURES_LEN], load[64];
	char size[FORMAT_SIZE_LEN];
	int r;

	if (o->sim.pool_bytes)
		snprintf(load, sizeof(load), "pool %s", format_size(size, o->sim.pool_bytes));
	else
		snprintf(load, sizeof(load), "overcommit %g", o->sim.overcommit);
	snprintf(title, sizeof(title), "%s on %.128s: %zu VMs, %zu host%s, %s", policy,
		 base && base[1] ? base + 1 : o->trace_path, res->vms, res->hosts, res->hosts == 1 ? "" : "s", load);
	r = plot_write(w->plot, title, figures_line(figures, res), w->picture.stream);
	return out_file_commit(&w->picture, r, err);
}

/* ---- runs ---- */

static int prepare(struct watched *w, const char *policy, struct memoc_err *err)
{
	const struct simulate_options *o = w->run->options;

	placement_clear(&w->run->placement);
	if (o->n_worst > 0)
		w->outcome->worst = calloc(o->n_worst, sizeof(*w->outcome->worst));
	if (o->plot)
		w->plot = plot_new();
	if ((o->n_worst > 0 && !w->outcome->worst) || (o->plot && !w->plot))
		return memoc_err_set(err, -ENOMEM, "cannot run %s: %s", policy, strerror(ENOMEM));
	return open_files(w, policy, err);
}

static int simulate(struct watched *w, const char *policy, struct memoc_err *err)
{
	const struct simulate_options *o = w->run->options;
	struct sim_options sim = o->sim;
	struct sim_watch watch = {
		.placed = watch_placed,
		.vm_step = o->allocations || o->plot ? watch_step : NULL,
		.progress = w->show_progress ? watch_progress : NULL,
		.episode = o->n_worst > 0 ? watch_episode : NULL,
		.user = w,
	};
	int r;

	sim.trace = w->run->trace;
	sim.policy = policy;
	watch_progress(w, 0);
	r = sim_run(&sim, &watch, &w->outcome->result, err);
	if (r == 0 && w->run->placement.error)
		r = memoc_err_set(err, -ENOMEM, "%s", strerror(ENOMEM));
	w->searches = true;
	if (r == 0 && o->density)
		r = sim_density(&sim, &watch, &w->outcome->density, err);
	return r < 0 ? memoc_err_prefix(err, r, "policy %s", policy) : 0;
}

/* One policy, all its files. 0 or −errno with err. */
static int run_policy(struct run *run, const char *policy, struct memoc_err *err)
{
	struct watched w = {.run = run, .outcome = &run->outcomes[run->n], .show_progress = isatty(STDERR_FILENO)};
	int r = prepare(&w, policy, err);

	if (r == 0) {
		run->n++;
		r = simulate(&w, policy, err);
		clear_progress(&w);
	}
	if (r == 0 && w.allocations.stream)
		r = out_file_commit(&w.allocations, w.written, err);
	out_file_drop(&w.allocations);
	if (r == 0 && w.plot)
		r = write_plot(&w, policy, err);
	out_file_drop(&w.picture);
	plot_free(w.plot);
	if (w.outcome->n_worst > 0)
		qsort(w.outcome->worst, w.outcome->n_worst, sizeof(*w.outcome->worst), worse_first);
	return r;
}

int run_policies(struct run *run)
{
	struct memoc_err err = {0};

	for (size_t i = 0; i < run->options->n_policies; i++)
		if (run_policy(run, run->options->policies[i], &err) < 0)
			return cli_fail(run->cli, CLI_FAILED, "%s", err.text);
	return CLI_DONE;
}

void run_free(struct run *run)
{
	for (size_t i = 0; i < SIMULATE_POLICIES_MAX; i++)
		free(run->outcomes[i].worst);
	placement_clear(&run->placement);
}
