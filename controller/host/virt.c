/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocking libvirt calls. Every call is one RPC where libvirt allows it: domain objects are looked up once per
 * connection and kept, which is sound because the drivers find a domain by its UUID alone, whatever its name or id is
 * by then. No keepalive here: only a frozen libvirtd would be found by it, and reopening a connection to that hangs as
 * well.
 */
#include "controller/host/virt.h"

#include <errno.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <signal.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* Domain objects kept per connection. Beyond that many VMs a call may cost a second RPC. */
#define DOMAINS_MAX 64

struct kept_domain {
	char uuid[UUID_TEXT_LEN + 1];
	virDomainPtr dom;
};

struct virt_conn {
	virConnectPtr conn;
	unsigned n_domains, next_victim;
	struct kept_domain domains[DOMAINS_MAX];
};

static void ignore_error(void *user, virErrorPtr error)
{
}

int virt_init(void)
{
	struct sigaction pipe;

	/* libvirt writes to sockets without MSG_NOSIGNAL, on the loop thread too: a restarted libvirtd must not kill
	 * us. */
	if (sigaction(SIGPIPE, NULL, &pipe) == 0 && pipe.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
	if (virInitialize() < 0)
		return -ENOMEM;
	virSetErrorFunc(NULL, ignore_error);
	return 0;
}

/* ---- errors ---- */

static int code_to_errno(int code)
{
	switch (code) {
	case VIR_ERR_NO_DOMAIN:
		return -ENOENT;
	case VIR_ERR_INVALID_CONN:
	case VIR_ERR_NO_CONNECT:
		return -ENOTCONN;
	case VIR_ERR_OPERATION_TIMEOUT: /* "cannot acquire state change lock": another job holds the domain */
	case VIR_ERR_RESOURCE_BUSY:
		return -EBUSY;
	case VIR_ERR_NO_SUPPORT:
	case VIR_ERR_OPERATION_UNSUPPORTED:
	case VIR_ERR_CONFIG_UNSUPPORTED:
	case VIR_ERR_ARGUMENT_UNSUPPORTED:
		return -EOPNOTSUPP;
	default:
		return -EIO;
	}
}

/*
 * libvirt says OPERATION_INVALID for "is not running", but also for a running domain without a balloon, or a transient
 * one without a persistent configuration: asking tells them apart. dom may be NULL. The last error is gone afterwards.
 */
static int fail(struct virt_conn *c, virDomainPtr dom, const char *uuid, const char *what, struct memoc_err *err)
{
	virErrorPtr last = virSaveLastError();
	int r = code_to_errno(last ? last->code : VIR_ERR_INTERNAL_ERROR);
	int active;

	if (last && last->code == VIR_ERR_OPERATION_INVALID && dom) {
		active = virDomainIsActive(dom);
		if (active == 0 || (active < 0 && virGetLastErrorCode() == VIR_ERR_NO_DOMAIN))
			r = -ENOENT;
		else if (active == 1)
			r = -EOPNOTSUPP;
	}
	if (virConnectIsAlive(c->conn) == 0)
		r = -ENOTCONN;
	memoc_err_set(err, r, "%s of domain %s: %s", what, uuid,
		      last && last->message ? last->message : "libvirt gave no reason");
	virFreeError(last);
	return r;
}

/* ---- connection ---- */

int virt_conn_open(const char *uri, struct virt_conn **ret, struct memoc_err *err)
{
	struct virt_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return memoc_err_set(err, -ENOMEM, "no memory for a connection to libvirt");
	c->conn = virConnectOpen(uri);
	if (!c->conn) {
		free(c);
		return memoc_err_set(err, -ENOTCONN, "cannot connect to libvirt at %s: %s",
				     uri ? uri : "its default URI", virGetLastErrorMessage());
	}
	*ret = c;
	return 0;
}

struct virt_conn *virt_conn_close(struct virt_conn *c)
{
	if (!c)
		return NULL;
	for (unsigned i = 0; i < c->n_domains; i++)
		virDomainFree(c->domains[i].dom);
	virConnectClose(c->conn);
	free(c);
	return NULL;
}

bool virt_conn_alive(struct virt_conn *c)
{
	return virConnectIsAlive(c->conn) == 1;
}

static void keep_domain(struct virt_conn *c, const char *uuid, virDomainPtr dom)
{
	struct kept_domain *k;

	if (c->n_domains < DOMAINS_MAX) {
		k = &c->domains[c->n_domains++];
	} else {
		k = &c->domains[c->next_victim];
		c->next_victim = (c->next_victim + 1) % DOMAINS_MAX;
		virDomainFree(k->dom);
	}
	snprintf(k->uuid, sizeof(k->uuid), "%s", uuid);
	k->dom = dom;
}

/* The object stays the connection's. */
static int find_domain(struct virt_conn *c, const char *uuid, virDomainPtr *ret, struct memoc_err *err)
{
	virDomainPtr dom;

	for (unsigned i = 0; i < c->n_domains; i++) {
		if (strcmp(c->domains[i].uuid, uuid) == 0) {
			*ret = c->domains[i].dom;
			return 0;
		}
	}
	dom = virDomainLookupByUUIDString(c->conn, uuid);
	if (!dom)
		return fail(c, NULL, uuid, "look-up", err);
	keep_domain(c, uuid, dom);
	*ret = dom;
	return 0;
}

/* ---- looking at domains ---- */

enum job_kind { JOB_NONE = 1, JOB_OUTGOING, JOB_INCOMING };

/*
 * Only what reads all of the memory counts as outgoing (a snapshot of disks alone does not, but is short). A backup
 * copies disks, for hours perhaps, and lets the size be changed meanwhile.
 */
static enum job_kind operation_kind(virTypedParameterPtr params, int n)
{
	int operation = VIR_DOMAIN_JOB_OPERATION_UNKNOWN;

	if (virTypedParamsGetInt(params, n, VIR_DOMAIN_JOB_OPERATION, &operation) < 0)
		virResetLastError();
	switch (operation) {
	case VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
	case VIR_DOMAIN_JOB_OPERATION_SAVE:
	case VIR_DOMAIN_JOB_OPERATION_DUMP:
	case VIR_DOMAIN_JOB_OPERATION_SNAPSHOT:
		return JOB_OUTGOING;
	case VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN:
	case VIR_DOMAIN_JOB_OPERATION_RESTORE:
		return JOB_INCOMING;
	default:
		return JOB_NONE;
	}
}

static uint64_t job_number(virTypedParameterPtr params, int n, const char *name, uint64_t otherwise)
{
	unsigned long long v = otherwise;

	if (virTypedParamsGetULLong(params, n, name, &v) < 0)
		virResetLastError();
	return v;
}

static void read_progress(virTypedParameterPtr params, int n, struct virt_job *ret)
{
	uint64_t page_bytes = job_number(params, n, VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE, 4096);
	uint64_t zeroes = job_number(params, n, VIR_DOMAIN_JOB_MEMORY_CONSTANT, 0);
	uint64_t others = job_number(params, n, VIR_DOMAIN_JOB_MEMORY_NORMAL, 0);

	ret->pass = (unsigned)min_u64(job_number(params, n, VIR_DOMAIN_JOB_MEMORY_ITERATION, 0), INT_MAX);
	ret->read_bytes = mul_div_u64(add_sat_u64(zeroes, others), page_bytes, 1);
}

/* 0 with the answer, or −1 with libvirt's error set. */
static int get_job(virDomainPtr dom, enum job_kind *ret, struct virt_job *ret_progress)
{
	virTypedParameterPtr params = NULL;
	int n = 0, type = VIR_DOMAIN_JOB_NONE;

	if (virDomainGetJobStats(dom, &type, &params, &n, 0) < 0) {
		/* "migration statistics are available only on the source host": said at once, without the monitor. */
		if (virGetLastErrorCode() != VIR_ERR_OPERATION_UNSUPPORTED)
			return -1;
		*ret = JOB_INCOMING;
		return 0;
	}
	*ret = JOB_NONE;
	if (type == VIR_DOMAIN_JOB_BOUNDED || type == VIR_DOMAIN_JOB_UNBOUNDED)
		*ret = operation_kind(params, n);
	if (ret_progress)
		read_progress(params, n, ret_progress);
	virTypedParamsFree(params, n);
	return 0;
}

/* Both ends of a migration say "paused" for the reason "migration": only the job tells them apart. */
static bool is_incoming(virDomainPtr dom)
{
	enum job_kind job;

	return get_job(dom, &job, NULL) == 0 && job == JOB_INCOMING;
}

static int get_state(virDomainPtr dom, enum virt_run_state *ret)
{
	int state, reason;

	if (virDomainGetState(dom, &state, &reason, 0) < 0)
		return -1;
	switch (state) {
	case VIR_DOMAIN_RUNNING:
	case VIR_DOMAIN_BLOCKED:
		*ret = VIRT_RUNNING;
		return 0;
	case VIR_DOMAIN_PAUSED:
		*ret = reason == VIR_DOMAIN_PAUSED_MIGRATION && is_incoming(dom) ? VIRT_INCOMING : VIRT_PAUSED;
		return 0;
	case VIR_DOMAIN_PMSUSPENDED: /* suspended to RAM by the guest: its vCPUs stand still */
		*ret = VIRT_PAUSED;
		return 0;
	case VIR_DOMAIN_SHUTOFF:
		*ret = VIRT_OFF;
		return 0;
	default: /* shutting down; crashed and preserved */
		*ret = VIRT_OTHER;
		return 0;
	}
}

static int describe(virDomainPtr dom, struct virt_domain *ret)
{
	const char *name = virDomainGetName(dom);

	if (!name || virDomainGetUUIDString(dom, ret->uuid) < 0)
		return -1;
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	return get_state(dom, &ret->run_state);
}

int virt_list(struct virt_conn *c, bool active, struct virt_domain **ret_list, size_t *ret_n, struct memoc_err *err)
{
	struct virt_domain *list AUTO_FREE = NULL;
	virDomainPtr *doms = NULL;
	size_t filled = 0;
	int n, r = 0;

	n = virConnectListAllDomains(c->conn, &doms,
				     active ? VIR_CONNECT_LIST_DOMAINS_ACTIVE : VIR_CONNECT_LIST_DOMAINS_INACTIVE);
	if (n < 0)
		return fail(c, NULL, "*", "list", err);
	list = calloc((size_t)n + 1, sizeof(*list));
	if (!list)
		r = memoc_err_set(err, -ENOMEM, "no memory for a list of %d domains", n);
	for (int i = 0; i < n; i++) {
		/* One that ended (or started) since the list was made is left out. */
		if (r == 0 && describe(doms[i], &list[filled]) == 0)
			filled += (list[filled].run_state != VIRT_OFF) == active;
		virDomainFree(doms[i]);
	}
	free(doms);
	if (r == 0 && !virt_conn_alive(c))
		r = memoc_err_set(err, -ENOTCONN, "the connection to libvirt was lost while listing domains");
	if (r < 0)
		return r;
	*ret_list = TAKE(list);
	*ret_n = filled;
	return 0;
}

int virt_lookup(struct virt_conn *c, const char *name, struct virt_domain *ret, struct memoc_err *err)
{
	char uuid[UUID_TEXT_LEN + 1];
	virDomainPtr dom = parse_uuid(name, uuid, NULL) == 0 ? virDomainLookupByUUIDString(c->conn, uuid)
							     : virDomainLookupByName(c->conn, name);
	struct virt_domain found;
	int r = 0;

	if (!dom)
		return fail(c, NULL, name, "look-up", err);
	if (describe(dom, &found) < 0)
		r = fail(c, dom, name, "state", err);
	virDomainFree(dom);
	if (r == 0)
		*ret = found;
	return r;
}

int virt_state(struct virt_conn *c, const char *uuid, enum virt_run_state *ret, struct memoc_err *err)
{
	virDomainPtr dom;
	int r = find_domain(c, uuid, &dom, err);

	if (r < 0)
		return r;
	return get_state(dom, ret) < 0 ? fail(c, dom, uuid, "state", err) : 0;
}

/* Live XML has an id in its first element; without one the domain is off, and this is its persistent XML. */
static bool xml_is_live(const char *xml)
{
	const char *tag = strstr(xml, "<domain"), *end = tag ? strchr(tag, '>') : NULL;
	const char *id = tag ? strstr(tag, " id='") : NULL;

	return id && end && id < end;
}

int virt_persistent(struct virt_conn *c, const char *uuid, bool *ret, struct memoc_err *err)
{
	virDomainPtr dom;
	int r = find_domain(c, uuid, &dom, err), persistent;

	if (r < 0)
		return r;
	persistent = virDomainIsPersistent(dom);
	if (persistent < 0)
		return fail(c, dom, uuid, "persistence", err);
	*ret = persistent == 1;
	return 0;
}

int virt_xml(struct virt_conn *c, const char *uuid, bool config, char **ret_xml, struct memoc_err *err)
{
	char *xml AUTO_FREE = NULL;
	virDomainPtr dom;
	bool persistent = true;
	int r = find_domain(c, uuid, &dom, err);

	if (r == 0 && config) /* asked for it, libvirt gives something for a transient one too */
		r = virt_persistent(c, uuid, &persistent, err);
	if (r < 0)
		return r;
	if (!persistent)
		return memoc_err_set(err, -EOPNOTSUPP, "XML of domain %s: it is transient", uuid);
	xml = virDomainGetXMLDesc(dom, config ? VIR_DOMAIN_XML_INACTIVE : 0);
	if (!xml)
		return fail(c, dom, uuid, "XML", err);
	if (!config && !xml_is_live(xml))
		return memoc_err_set(err, -ENOENT, "XML of domain %s: it is not running", uuid);
	*ret_xml = TAKE(xml);
	return 0;
}

/* ---- statistics ---- */

/* False: unknown. Sizes come in KiB: QEMU's 2^64 − 1 for "not reported" is divided by 1024 by then. */
static bool known_bytes(unsigned long long kib, uint64_t *ret)
{
	if (kib >= (UINT64_C(1) << 63) / KIB)
		return false;
	*ret = kib * KIB;
	return true;
}

static void take_stat(const virDomainMemoryStatStruct *stat, struct guest_stats *s, bool *has_in, bool *has_out)
{
	switch (stat->tag) {
	case VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON:
		s->has_actual = known_bytes(stat->val, &s->actual_bytes);
		break;
	case VIR_DOMAIN_MEMORY_STAT_USABLE:
		s->has_usable = known_bytes(stat->val, &s->usable_bytes);
		break;
	case VIR_DOMAIN_MEMORY_STAT_UNUSED:
		s->has_unused = known_bytes(stat->val, &s->unused_bytes);
		break;
	case VIR_DOMAIN_MEMORY_STAT_AVAILABLE:
		s->has_available = known_bytes(stat->val, &s->available_bytes);
		break;
	case VIR_DOMAIN_MEMORY_STAT_DISK_CACHES:
		s->has_disk_caches = known_bytes(stat->val, &s->disk_caches_bytes);
		break;
	case VIR_DOMAIN_MEMORY_STAT_SWAP_IN:
		*has_in = known_bytes(stat->val, &s->swap_in_bytes);
		break;
	case VIR_DOMAIN_MEMORY_STAT_SWAP_OUT:
		*has_out = known_bytes(stat->val, &s->swap_out_bytes);
		break;
	case VIR_DOMAIN_MEMORY_STAT_MAJOR_FAULT:
		s->has_major_faults = stat->val < UINT64_C(1) << 63;
		s->major_faults = s->has_major_faults ? stat->val : 0;
		break;
	case VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE:
		s->last_update_s = stat->val < UINT64_C(1) << 63 ? stat->val : 0;
		break;
	default:
		break;
	}
}

int virt_stats(struct virt_conn *c, const char *uuid, struct guest_stats *ret, struct memoc_err *err)
{
	virDomainMemoryStatStruct stats[VIR_DOMAIN_MEMORY_STAT_NR];
	struct guest_stats s = {0};
	bool has_in = false, has_out = false;
	virDomainPtr dom;
	int n, r = find_domain(c, uuid, &dom, err);

	if (r < 0)
		return r;
	n = virDomainMemoryStats(dom, stats, ARRAY_SIZE(stats), 0);
	if (n < 0)
		return fail(c, dom, uuid, "memory statistics", err);
	for (int i = 0; i < n; i++)
		take_stat(&stats[i], &s, &has_in, &has_out);
	s.has_swap = has_in && has_out;
	*ret = s;
	return 0;
}

/* ---- changing domains ---- */

int virt_set_balloon(struct virt_conn *c, const char *uuid, uint64_t bytes, struct memoc_err *err)
{
	virDomainPtr dom;
	int r = find_domain(c, uuid, &dom, err);

	if (r < 0)
		return r;
	if (virDomainSetMemoryFlags(dom, bytes / KIB, VIR_DOMAIN_AFFECT_LIVE) < 0)
		return fail(c, dom, uuid, "balloon target", err);
	return 0;
}

int virt_set_stats_period(struct virt_conn *c, const char *uuid, unsigned seconds, struct memoc_err *err)
{
	virDomainPtr dom;
	int r = find_domain(c, uuid, &dom, err);

	if (r < 0)
		return r;
	if (virDomainSetMemoryStatsPeriod(dom, (int)seconds, VIR_DOMAIN_AFFECT_LIVE) < 0)
		return fail(c, dom, uuid, "period of memory statistics", err);
	return 0;
}

int virt_set_policy(struct virt_conn *c, const char *uuid, const char *policy_xml, bool live, bool config,
		    struct memoc_err *err)
{
	unsigned flags = (live ? VIR_DOMAIN_AFFECT_LIVE : 0) | (config ? VIR_DOMAIN_AFFECT_CONFIG : 0);
	virDomainPtr dom;
	int r = find_domain(c, uuid, &dom, err);

	if (r < 0)
		return r;
	if (virDomainSetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, policy_xml, VMPOLICY_PREFIX, VMPOLICY_XMLNS, flags) <
		    0 &&
	    (policy_xml || virGetLastErrorCode() != VIR_ERR_NO_DOMAIN_METADATA)) /* removing nothing is fine */
		return fail(c, dom, uuid, "policy", err);
	return 0;
}

int virt_job(struct virt_conn *c, const char *uuid, struct virt_job *ret, struct memoc_err *err)
{
	struct virt_job progress = {.outgoing = false};
	enum job_kind job;
	virDomainPtr dom;
	int r = find_domain(c, uuid, &dom, err);

	if (r < 0)
		return r;
	if (get_job(dom, &job, &progress) < 0)
		return fail(c, dom, uuid, "job", err);
	progress.outgoing = job == JOB_OUTGOING;
	*ret = progress;
	return 0;
}
