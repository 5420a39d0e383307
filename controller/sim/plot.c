/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Collecting what a picture shows, in bounded memory. */
#include "controller/sim/plot_internal.h"

#include <errno.h>
#include <string.h>

struct plot *plot_new(void)
{
	struct plot *p = calloc(1, sizeof(*p));

	if (p)
		p->host_width_ms = p->vm_width_ms = 1;
	return p;
}

struct plot *plot_free(struct plot *p)
{
	if (!p)
		return NULL;
	for (size_t i = 0; i < p->n_hosts; i++)
		free(p->hosts[i].series.buckets);
	for (size_t i = 0; i < p->n_vms; i++)
		free(p->vms[i].series.buckets);
	free(p->hosts);
	free(p->vms);
	free(p);
	return NULL;
}

/* ---- who there is ---- */

/* Room for one element more, zeroed; false and a sticky error without memory. */
static bool make_room(struct plot *p, void **list, size_t *room, size_t n, size_t size)
{
	size_t more = *room ? 2 * *room : 16;
	void *grown;

	if (n < *room)
		return true;
	grown = reallocarray(*list, more, size);
	if (!grown) {
		p->error = -ENOMEM;
		return false;
	}
	memset((char *)grown + n * size, 0, (more - n) * size);
	*list = grown;
	*room = more;
	return true;
}

static bool series_init(struct plot *p, struct plot_series *s, size_t buckets)
{
	s->buckets = calloc(buckets, sizeof(*s->buckets));
	if (!s->buckets)
		p->error = -ENOMEM;
	return s->buckets;
}

void plot_placed(struct plot *p, size_t host, size_t vm, const char *name, uint64_t size_bytes, uint64_t pool_bytes)
{
	struct plot_host *h;
	struct plot_vm *v;

	if (p->error || host > p->n_hosts)
		return;
	if (host == p->n_hosts) {
		if (!make_room(p, (void **)&p->hosts, &p->hosts_room, p->n_hosts, sizeof(*p->hosts)) ||
		    !series_init(p, &p->hosts[host].series, HOST_BUCKETS))
			return;
		p->hosts[host].first_vm = vm;
		p->hosts[host].first_slot = p->n_vms;
		p->n_hosts++;
	}
	h = &p->hosts[host];
	h->pool_bytes = pool_bytes;
	if (!make_room(p, (void **)&p->vms, &p->vms_room, p->n_vms, sizeof(*p->vms)))
		return;
	v = &p->vms[p->n_vms];
	if (p->n_vms < PLOT_VMS_WATCHED && !series_init(p, &v->series, VM_BUCKETS))
		return;
	strncpy(v->name, name, sizeof(v->name) - 1);
	v->size_bytes = size_bytes;
	v->host = host;
	p->n_vms++;
	h->n++;
}

/* ---- what they did ---- */

void plot_bucket_add(struct plot_bucket *b, const struct plot_bucket *more)
{
	if (more->n == 0)
		return;
	if (b->n == 0) {
		*b = *more;
		return;
	}
	b->demand_min = min_u64(b->demand_min, more->demand_min);
	b->demand_max = max_u64(b->demand_max, more->demand_max);
	b->size_min = min_u64(b->size_min, more->size_min);
	b->size_max = max_u64(b->size_max, more->size_max);
	b->unmet_max = max_u64(b->unmet_max, more->unmet_max);
	b->unmet_sum += more->unmet_sum;
	b->n += more->n;
}

static void series_add(struct plot_series *s, size_t bucket, uint64_t demand, uint64_t size, uint64_t unmet)
{
	struct plot_bucket one = {demand, demand, size, size, unmet, (double)unmet, 1};

	s->unmet_sum += (double)unmet;
	s->top_bytes = max_u64(s->top_bytes, max_u64(demand, size));
	plot_bucket_add(&s->buckets[bucket], &one);
}

static void series_halve(struct plot_series *s, size_t n)
{
	if (!s->buckets)
		return;
	for (size_t i = 0; i < n / 2; i++) {
		struct plot_bucket pair = s->buckets[2 * i];
		plot_bucket_add(&pair, &s->buckets[2 * i + 1]);
		s->buckets[i] = pair;
	}
	memset(s->buckets + n / 2, 0, (n - n / 2) * sizeof(*s->buckets));
}

/* Adds the finished step's sums to their host's series. */
static void end_step(const struct plot *p, struct plot_host *h)
{
	series_add(&h->series, h->time_ms / p->host_width_ms, h->demand, h->size, h->unmet);
	h->unmet_max_bytes = max_u64(h->unmet_max_bytes, h->unmet);
	h->demand = h->size = h->unmet = 0;
}

void plot_end(struct plot *p)
{
	for (size_t i = 0; i < p->n_hosts; i++) {
		if (p->hosts[i].begun)
			end_step(p, &p->hosts[i]);
		p->hosts[i].begun = false;
	}
}

/* Merges buckets until the time has one. */
static void make_reach(struct plot *p, uint64_t time_ms)
{
	while (time_ms / p->host_width_ms >= HOST_BUCKETS) {
		for (size_t i = 0; i < p->n_hosts; i++)
			series_halve(&p->hosts[i].series, HOST_BUCKETS);
		p->host_width_ms *= 2;
	}
	while (time_ms / p->vm_width_ms >= VM_BUCKETS) {
		for (size_t i = 0; i < p->n_vms; i++)
			series_halve(&p->vms[i].series, VM_BUCKETS);
		p->vm_width_ms *= 2;
		for (size_t i = 0; i < p->n_hosts; i++)
			p->hosts[i].vm_bucket = p->hosts[i].time_ms / p->vm_width_ms;
	}
}

static void begin_step(struct plot *p, struct plot_host *h, uint64_t time_ms)
{
	if (h->begun) {
		end_step(p, h);
		p->step_ms = time_ms - h->time_ms;
	}
	make_reach(p, time_ms);
	h->begun = true;
	h->time_ms = time_ms;
	h->vm_bucket = time_ms / p->vm_width_ms;
	p->end_ms = max_u64(p->end_ms, time_ms);
}

void plot_step(struct plot *p, uint64_t time_ms, size_t host, size_t vm, uint64_t demand_bytes, uint64_t size_bytes)
{
	uint64_t unmet = sub_sat_u64(demand_bytes, size_bytes);
	struct plot_host *h;
	struct plot_vm *v;

	if (p->error || host >= p->n_hosts || vm < p->hosts[host].first_vm ||
	    vm - p->hosts[host].first_vm >= p->hosts[host].n)
		return;
	h = &p->hosts[host];
	if (!h->begun || time_ms > h->time_ms)
		begin_step(p, h, time_ms);
	h->demand += demand_bytes;
	h->size += size_bytes;
	h->unmet += unmet;
	v = &p->vms[h->first_slot + (vm - h->first_vm)];
	if (v->series.buckets)
		series_add(&v->series, h->vm_bucket, demand_bytes, size_bytes, unmet);
}
