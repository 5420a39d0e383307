/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt's calls and events against its own test driver inside this process, and the event link against a private
 * libvirtd: one of a session without privileges, in a directory of its own, that serves the same test driver. What the
 * test driver cannot do (balloon events, migration, a hung monitor) is for the system tests.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <libvirt/libvirt.h>

#include "controller/host/evglue.h"
#include "controller/host/virt.h"

#define TEST_URI "test:///default"
#define TEST_NAME "test"
#define NO_UUID "00000000-0000-4000-8000-000000000001"
#define LIMIT_S 60.
#define NOBODY 65534

static struct ev_loop *loop;

static void on_limit(struct ev_loop *l, ev_timer *w, int revents)
{
	*(bool *)w->data = true;
}

/* ---- in process ---- */

struct fixture {
	struct virt_conn *c;
	virConnectPtr raw; /* to do what virt.h has no function for */
	virDomainPtr dom;
	char uuid[UUID_TEXT_LEN + 1];
};

static bool is_fresh(virConnectPtr c)
{
	virDomainPtr dom = virDomainLookupByName(c, TEST_NAME);
	int state = 0;

	if (dom) {
		virDomainGetState(dom, &state, NULL, 0);
		virDomainFree(dom);
	}
	return state == VIR_DOMAIN_RUNNING;
}

/*
 * Every connection to test:///default shares one state for as long as any is open. Each test starts afresh, once the
 * thread that closes the event link of the test before has done so.
 */
static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	double begun = ev_time();

	assert_non_null(f);
	for (;;) {
		f->raw = virConnectOpen(TEST_URI);
		assert_non_null(f->raw);
		if (is_fresh(f->raw))
			break;
		virConnectClose(f->raw);
		assert_true(ev_time() - begun < LIMIT_S);
		sched_yield();
	}
	assert_int_equal(virt_conn_open(TEST_URI, &f->c, NULL), 0);
	f->dom = virDomainLookupByName(f->raw, TEST_NAME);
	assert_non_null(f->dom);
	assert_int_equal(virDomainGetUUIDString(f->dom, f->uuid), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virDomainFree(f->dom);
	virConnectClose(f->raw);
	assert_null(virt_conn_close(f->c));
	free(f);
	return 0;
}

static void test_open_fails(void **state)
{
	struct virt_conn *c = (void *)1;
	struct memoc_err err = {0};

	assert_int_equal(virt_conn_open("nosuch:///driver", &c, &err), -ENOTCONN);
	assert_non_null(strstr(err.text, "nosuch:///driver"));
	assert_ptr_equal(c, (void *)1);
	assert_int_equal(virt_conn_open("test+unix:///default?socket=/nonexistent/sock", &c, &err), -ENOTCONN);
	assert_non_null(strstr(err.text, "/nonexistent/sock"));
	assert_null(virt_conn_close(NULL));
}

static void test_list_lookup_state(void **state)
{
	struct fixture *f = *state;
	struct memoc_err err = {0};
	struct virt_domain *list AUTO_FREE = NULL, one;
	enum virt_run_state run;
	size_t n;

	assert_true(virt_conn_alive(f->c));
	assert_int_equal(virt_list(f->c, true, &list, &n, &err), 0);
	assert_int_equal(n, 1);
	assert_string_equal(list[0].name, TEST_NAME);
	assert_string_equal(list[0].uuid, f->uuid);
	assert_int_equal(list[0].run_state, VIRT_RUNNING);
	assert_int_equal(virt_lookup(f->c, TEST_NAME, &one, &err), 0);
	assert_string_equal(one.uuid, f->uuid);
	assert_int_equal(virDomainSuspend(f->dom), 0);
	assert_int_equal(virt_state(f->c, f->uuid, &run, &err), 0);
	assert_int_equal(run, VIRT_PAUSED);
	assert_int_equal(virDomainDestroy(f->dom), 0);
	assert_int_equal(virt_state(f->c, f->uuid, &run, &err), 0);
	assert_int_equal(run, VIRT_OFF);
	assert_int_equal(virt_lookup(f->c, f->uuid, &one, &err), 0); /* by UUID, and off */
	assert_string_equal(one.name, TEST_NAME);
	assert_int_equal(one.run_state, VIRT_OFF);
	free(TAKE(list));
	assert_int_equal(virt_list(f->c, true, &list, &n, &err), 0);
	assert_int_equal(n, 0);
	free(TAKE(list));
	assert_int_equal(virt_list(f->c, false, &list, &n, &err), 0);
	assert_int_equal(n, 1);
	assert_string_equal(list[0].uuid, f->uuid);
}

static void test_no_such_domain(void **state)
{
	struct fixture *f = *state;
	struct virt_domain one = {.name = "untouched"};
	struct memoc_err err = {0};
	struct guest_stats stats;
	char *xml = NULL;

	assert_int_equal(virt_lookup(f->c, "nobody", &one, &err), -ENOENT);
	assert_non_null(strstr(err.text, "nobody"));
	assert_string_equal(one.name, "untouched");
	assert_int_equal(virt_stats(f->c, NO_UUID, &stats, &err), -ENOENT);
	assert_non_null(strstr(err.text, NO_UUID));
	assert_int_equal(virt_xml(f->c, NO_UUID, false, &xml, NULL), -ENOENT);
	assert_null(xml);
	assert_int_equal(virt_set_balloon(f->c, NO_UUID, GIB, &err), -ENOENT);
	assert_int_equal(virt_stats(f->c, "not a uuid", &stats, &err), -EIO);
}

static void test_not_running(void **state)
{
	struct fixture *f = *state;
	struct memoc_err err = {0};
	struct guest_stats stats;
	char *xml = NULL;

	assert_int_equal(virt_stats(f->c, f->uuid, &stats, &err), 0); /* the domain object is kept from here */
	assert_int_equal(virDomainDestroy(f->dom), 0);
	assert_int_equal(virt_stats(f->c, f->uuid, &stats, &err), -ENOENT);
	assert_int_equal(virt_xml(f->c, f->uuid, false, &xml, &err), -ENOENT);
	assert_non_null(strstr(err.text, "not running"));
	assert_int_equal(virt_set_balloon(f->c, f->uuid, GIB, &err), -ENOENT);
	assert_int_equal(virt_set_policy(f->c, f->uuid, "<policy/>", true, false, &err), -ENOENT);
	assert_int_equal(virt_xml(f->c, f->uuid, true, &xml, &err), 0); /* its persistent XML is there */
	assert_non_null(strstr(xml, f->uuid));
	free(xml);
	assert_int_equal(virDomainUndefine(f->dom), 0);
	assert_int_equal(virt_stats(f->c, f->uuid, &stats, &err), -ENOENT);
}

static void test_xml(void **state)
{
	struct fixture *f = *state;
	char *xml AUTO_FREE = NULL;

	assert_int_equal(virt_xml(f->c, f->uuid, false, &xml, NULL), 0);
	assert_non_null(strstr(xml, f->uuid));
}

static void test_balloon_and_stats(void **state)
{
	struct fixture *f = *state;
	struct memoc_err err = {0};
	struct guest_stats s;

	assert_int_equal(virt_set_balloon(f->c, f->uuid, 3 * GIB, &err), 0);
	assert_int_equal(virt_stats(f->c, f->uuid, &s, &err), 0);
	assert_true(s.has_actual);
	assert_int_equal(s.actual_bytes, 3 * GIB); /* so KiB both ways */
	/* The driver's own invention: all of it but 1 MiB unused … what matters is the unit. */
	assert_true(s.has_unused && s.has_swap && s.has_available);
	assert_true(s.unused_bytes > GIB && s.unused_bytes < 8 * GIB);
	assert_int_equal(virt_set_balloon(f->c, f->uuid, 0, &err), -EIO);
	assert_int_equal(virt_set_balloon(f->c, f->uuid, 1024 * GIB, &err), -EIO);
}

static void test_stats_period(void **state)
{
	struct fixture *f = *state;
	char *xml AUTO_FREE = NULL;

	assert_int_equal(virt_set_stats_period(f->c, f->uuid, 7, NULL), 0);
	assert_int_equal(virt_xml(f->c, f->uuid, false, &xml, NULL), 0);
	assert_non_null(strstr(xml, "<stats period='7'/>"));
}

/* libvirt answers "operation invalid" as it does for a domain that is off: it must not be taken for gone. */
static void test_running_but_unable(void **state)
{
	static const char xml[] = "<domain type='test'><name>bare</name><memory>1024</memory><os><type>hvm</type></os>"
				  "<devices><memballoon model='none'/></devices></domain>";
	struct fixture *f = *state;
	struct memoc_err err = {0};
	char uuid[UUID_TEXT_LEN + 1], *policy = NULL;
	virDomainPtr dom = virDomainCreateXML(f->raw, xml, 0);

	assert_non_null(dom);
	assert_int_equal(virDomainGetUUIDString(dom, uuid), 0);
	assert_int_equal(virt_xml(f->c, uuid, true, &policy, &err), -EOPNOTSUPP); /* it is transient */
	assert_non_null(strstr(err.text, uuid));
	assert_int_equal(virt_set_stats_period(f->c, uuid, 1, &err), -EIO); /* this driver's "internal error" */
	assert_non_null(strstr(err.text, "balloon"));
	assert_int_equal(virDomainDestroy(dom), 0);
	virDomainFree(dom);
	assert_int_equal(virt_set_stats_period(f->c, uuid, 1, &err), -ENOENT);
}

/* The test driver knows no jobs. */
static void test_job(void **state)
{
	struct fixture *f = *state;
	struct memoc_err err = {0};
	struct virt_job job = {.outgoing = true, .pass = 7};

	assert_int_equal(virt_job(f->c, NO_UUID, &job, NULL), -ENOENT);
	assert_int_equal(virt_job(f->c, f->uuid, &job, &err), -EOPNOTSUPP);
	assert_true(job.outgoing && job.pass == 7);
	assert_true(*err.text);
}

static int job_operation = -1; /* that virDomainGetJobStats() tells of; −1: libvirt's own answer */

/* In place of libvirt's. */
int virDomainGetJobStats(virDomainPtr dom, int *type, virTypedParameterPtr *params, int *nparams, unsigned int flags)
{
	int (*own)(virDomainPtr, int *, virTypedParameterPtr *, int *, unsigned int);
	int max = 0;

	if (job_operation < 0) {
		*(void **)&own = dlsym(RTLD_NEXT, "virDomainGetJobStats");
		return own(dom, type, params, nparams, flags);
	}
	*type = VIR_DOMAIN_JOB_UNBOUNDED;
	*params = NULL;
	*nparams = 0;
	return virTypedParamsAddInt(params, nparams, &max, VIR_DOMAIN_JOB_OPERATION, job_operation);
}

static void test_job_that_reads_memory(void **state)
{
	struct fixture *f = *state;
	struct virt_job job;

	for (job_operation = 0; job_operation < 12; job_operation++) {
		bool reads = job_operation == VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT ||
			     job_operation == VIR_DOMAIN_JOB_OPERATION_SAVE ||
			     job_operation == VIR_DOMAIN_JOB_OPERATION_SNAPSHOT ||
			     job_operation == VIR_DOMAIN_JOB_OPERATION_DUMP;

		assert_int_equal(virt_job(f->c, f->uuid, &job, NULL), 0);
		if (job.outgoing != reads)
			fail_msg("operation %d: %d", job_operation, job.outgoing);
	}
	job_operation = -1;
}

/* The policy element as libvirt has it; NULL where there is none. */
static char *policy_of(virDomainPtr dom, bool config)
{
	return virDomainGetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, VMPOLICY_XMLNS,
				    config ? VIR_DOMAIN_AFFECT_CONFIG : VIR_DOMAIN_AFFECT_LIVE);
}

static void test_policy(void **state)
{
	static const char text[] = "<policy min=\"1G\" weight=\"200\"/>";
	struct fixture *f = *state;
	struct memoc_err err = {0};
	char *xml = policy_of(f->dom, false);

	assert_null(xml);
	assert_int_equal(virt_set_policy(f->c, f->uuid, NULL, true, true, &err), 0); /* nothing to remove */
	assert_int_equal(virt_set_policy(f->c, f->uuid, text, true, false, &err), 0);
	xml = policy_of(f->dom, true);
	assert_null(xml);
	xml = policy_of(f->dom, false);
	assert_non_null(strstr(xml, "weight=\"200\""));
	free(xml);
	assert_int_equal(virt_set_policy(f->c, f->uuid, text, false, true, &err), 0);
	xml = policy_of(f->dom, true);
	assert_non_null(strstr(xml, "min=\"1G\""));
	free(xml);
	xml = virDomainGetXMLDesc(f->dom, 0);
	assert_non_null(strstr(xml, "<memoc:policy xmlns:memoc=\"" VMPOLICY_XMLNS "\""));
	free(xml);
	assert_int_equal(virt_set_policy(f->c, f->uuid, NULL, true, true, &err), 0);
	xml = policy_of(f->dom, false);
	assert_null(xml);
	assert_int_equal(virt_set_policy(f->c, f->uuid, "<broken", true, false, &err), -EIO);
}

/* More domains than a connection keeps: the oldest object gives way and is looked up again. */
static void test_more_domains_than_kept(void **state)
{
	struct fixture *f = *state;
	virDomainPtr made[70];
	char xml[512], uuids[70][UUID_TEXT_LEN + 1];
	struct virt_domain *list AUTO_FREE = NULL;
	enum virt_run_state run;
	size_t n;

	for (int i = 0; i < 70; i++) {
		snprintf(xml, sizeof(xml),
			 "<domain "
			 "type='test'><name>many%d</name><memory>1024</memory><os><type>hvm</type></os></domain>",
			 i);
		made[i] = virDomainCreateXML(f->raw, xml, 0);
		assert_non_null(made[i]);
		assert_int_equal(virDomainGetUUIDString(made[i], uuids[i]), 0);
	}
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 70; i++) {
			assert_int_equal(virt_state(f->c, uuids[i], &run, NULL), 0);
			assert_int_equal(run, VIRT_RUNNING);
		}
	}
	assert_int_equal(virt_list(f->c, true, &list, &n, NULL), 0);
	assert_int_equal(n, 71);
	for (int i = 0; i < 70; i++) {
		assert_int_equal(virDomainDestroy(made[i]), 0);
		virDomainFree(made[i]);
		assert_int_equal(virt_state(f->c, uuids[i], &run, NULL), -ENOENT); /* transient: gone altogether */
	}
}

/* ---- events ---- */

struct heard {
	enum virt_event_type type;
	char name[64], uuid[UUID_TEXT_LEN + 1], text[sizeof(struct memoc_err)];
};

struct log {
	struct virt_events *events;
	struct heard heard[256];
	size_t n, looked_at;
	enum virt_event_type free_at; /* frees the subscription in this event's callback */
};

static void on_event(const struct virt_event *ev, void *user)
{
	struct log *log = user;
	struct heard *h = &log->heard[log->n++ % ARRAY_SIZE(log->heard)];

	h->type = ev->type;
	snprintf(h->name, sizeof(h->name), "%s", ev->name ? ev->name : "");
	snprintf(h->uuid, sizeof(h->uuid), "%s", ev->uuid ? ev->uuid : "");
	snprintf(h->text, sizeof(h->text), "%s", ev->text ? ev->text : "");
	if (log->free_at == ev->type)
		log->events = virt_events_free(log->events);
}

/* The next event, whatever it is. The loop sleeps while there is none. */
static const struct heard *next_event(struct log *log)
{
	bool late = false;
	ev_timer limit;

	ev_now_update(loop);
	ev_timer_init(&limit, on_limit, LIMIT_S, 0.);
	limit.data = &late;
	ev_timer_start(loop, &limit);
	while (log->n == log->looked_at && !late)
		ev_run(loop, EVRUN_ONCE);
	ev_timer_stop(loop, &limit);
	assert_false(late);
	return &log->heard[log->looked_at++ % ARRAY_SIZE(log->heard)];
}

static void expect(struct log *log, enum virt_event_type type, const char *text)
{
	const struct heard *h = next_event(log);

	assert_int_equal(h->type, type);
	if (text)
		assert_string_equal(h->text, text);
}

/* Until libvirt has given back every handle and timer: the link closes on a thread of its own. */
static void drain(void)
{
	bool late = false;
	ev_timer limit;

	ev_now_update(loop);
	ev_timer_init(&limit, on_limit, LIMIT_S, 0.);
	limit.data = &late;
	ev_timer_start(loop, &limit);
	while (evglue_count() && !late)
		ev_run(loop, EVRUN_ONCE);
	ev_timer_stop(loop, &limit);
	assert_false(late);
}

static void begin(struct log *log, const char *uri)
{
	assert_int_equal(virt_events_new(loop, uri, on_event, log, &log->events), 0);
	assert_false(virt_events_connected(log->events));
	expect(log, VIRT_EVENT_LINK_UP, "");
	assert_true(virt_events_connected(log->events));
}

static void test_lifecycle_events(void **state)
{
	struct fixture *f = *state;
	struct log log = {0};
	const struct heard *h;

	begin(&log, TEST_URI);
	assert_int_equal(virDomainSuspend(f->dom), 0);
	h = next_event(&log);
	assert_int_equal(h->type, VIRT_EVENT_PAUSED);
	assert_string_equal(h->name, TEST_NAME);
	assert_string_equal(h->uuid, f->uuid);
	assert_string_equal(h->text, "paused");
	assert_int_equal(virDomainResume(f->dom), 0);
	expect(&log, VIRT_EVENT_RESUMED, "resumed");
	assert_int_equal(virDomainShutdown(f->dom), 0);
	expect(&log, VIRT_EVENT_STOPPED, "shut off");
	assert_int_equal(virDomainCreate(f->dom), 0);
	expect(&log, VIRT_EVENT_STARTED, "booted");
	assert_int_equal(virDomainDestroy(f->dom), 0);
	expect(&log, VIRT_EVENT_STOPPED, "destroyed");
	assert_int_equal(virDomainUndefine(f->dom), 0);
	expect(&log, VIRT_EVENT_RENAMED, "undefined");
	assert_null(virt_events_free(log.events));
	drain();
	assert_int_equal(log.n, log.looked_at);
}

static void test_restore_is_paused_at_first(void **state)
{
	struct fixture *f = *state;
	char file[] = "/tmp/memoc-test-save-XXXXXX";
	struct log log = {0};
	int fd = mkstemp(file);

	assert_true(fd >= 0);
	close(fd);
	begin(&log, TEST_URI);
	assert_int_equal(virDomainSave(f->dom, file), 0);
	expect(&log, VIRT_EVENT_STOPPED, "saved");
	assert_int_equal(virDomainRestore(f->raw, file), 0);
	expect(&log, VIRT_EVENT_STARTED_PAUSED, "restored");
	virt_events_free(log.events);
	unlink(file);
	drain();
}

static void test_policy_and_definition_events(void **state)
{
	struct fixture *f = *state;
	char *xml AUTO_FREE = NULL;
	struct log log = {0};
	virDomainPtr same;

	begin(&log, TEST_URI);
	/* Somebody else's metadata is not ours to hear of. */
	assert_int_equal(virDomainSetMetadata(f->dom, VIR_DOMAIN_METADATA_ELEMENT, "<x/>", "o", "urn:other", 0), 0);
	assert_int_equal(virDomainSetMetadata(f->dom, VIR_DOMAIN_METADATA_TITLE, "title", NULL, NULL, 0), 0);
	assert_int_equal(virt_set_policy(f->c, f->uuid, "<policy/>", true, false, NULL), 0);
	expect(&log, VIRT_EVENT_POLICY, "");
	xml = virDomainGetXMLDesc(f->dom, VIR_DOMAIN_XML_INACTIVE);
	same = virDomainDefineXML(f->raw, xml);
	assert_non_null(same);
	expect(&log, VIRT_EVENT_RENAMED, "configuration changed");
	virDomainFree(same);
	virt_events_free(log.events);
	drain();
	assert_int_equal(log.n, log.looked_at);
}

/*
 * The test driver plugs no devices. What is registered with libvirt is written down on its way there, and called as
 * libvirt would.
 */
static struct {
	virConnectDomainEventGenericCallback fn;
	void *opaque;
} registered[64]; /* by event id */

int virConnectDomainEventRegisterAny(virConnectPtr conn, virDomainPtr dom, int id,
				     virConnectDomainEventGenericCallback fn, void *opaque, virFreeCallback free_fn)
{
	int (*libvirts)(virConnectPtr, virDomainPtr, int, virConnectDomainEventGenericCallback, void *,
			virFreeCallback);

	assert_in_range(id, 0, ARRAY_SIZE(registered) - 1);
	*(void **)&libvirts = dlsym(RTLD_NEXT, "virConnectDomainEventRegisterAny");
	registered[id].fn = fn;
	registered[id].opaque = opaque;
	return libvirts(conn, dom, id, fn, opaque, free_fn);
}

/* Added and removed come with the same arguments. */
static void plug(struct fixture *f, int id, const char *alias)
{
	assert_non_null(registered[id].fn);
	((virConnectDomainEventDeviceAddedCallback)(void (*)(void))registered[id].fn)(f->raw, f->dom, alias,
										      registered[id].opaque);
}

static void test_device_events(void **state)
{
	const int id = VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE;
	struct fixture *f = *state;
	struct log log = {0};

	memset(registered, 0, sizeof(registered));
	begin(&log, TEST_URI);
	plug(f, VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, "hostdev0");
	expect(&log, VIRT_EVENT_DEVICES, "hostdev0");
	assert_string_equal(log.heard[1].uuid, f->uuid);
	plug(f, VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, "hostdev1");
	expect(&log, VIRT_EVENT_DEVICES, "hostdev1");
	assert_non_null(registered[id].fn);
	((virConnectDomainEventMemoryDeviceSizeChangeCallback)(void (*)(void))registered[id].fn)(
		f->raw, f->dom, "virtiomem0", 1024, registered[id].opaque);
	expect(&log, VIRT_EVENT_DEVICES, "virtiomem0");
	virt_events_free(log.events);
	drain();
}

static void test_free_inside_a_callback(void **state)
{
	struct fixture *f = *state;
	struct log log = {.free_at = VIRT_EVENT_PAUSED};

	begin(&log, TEST_URI);
	assert_int_equal(virDomainSuspend(f->dom), 0);
	assert_int_equal(virDomainResume(f->dom), 0);
	expect(&log, VIRT_EVENT_PAUSED, NULL);
	assert_null(log.events);
	drain();
	assert_int_equal(log.n, log.looked_at); /* no RESUMED any more */
}

static void test_free_while_opening(void **state)
{
	struct log log = {0};

	for (int i = 0; i < 20; i++) {
		assert_int_equal(virt_events_new(loop, TEST_URI, on_event, &log, &log.events), 0);
		if (i % 2)
			ev_run(loop, EVRUN_NOWAIT);
		virt_events_free(log.events);
	}
	assert_null(virt_events_free(NULL));
	drain();
}

/* ---- a libvirtd of our own ---- */

struct daemon_fixture {
	pid_t pid;
	char dir[64], uri[192], conf[96], log[96];
	struct sockaddr_un address;
};

static bool answers(const struct daemon_fixture *d)
{
	int fd AUTO_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return connect(fd, (const struct sockaddr *)&d->address, sizeof(d->address)) == 0;
}

/*
 * In the child, between fork and exec. This process has threads (libvirt's, the event link's), and one of them may hold
 * the allocator's or the environment's lock at the fork for ever: nothing here takes a lock. The raw calls change this
 * one thread, which is all that there is.
 */
static void exec_daemon(const struct daemon_fixture *d, int log, char *const environment[])
{
	static char name[] = "libvirtd", option[] = "-f";
	char *const argv[] = {name, option, (char *)d->conf, NULL};
	static const char failed[] = "cannot start libvirtd; package libvirt-daemon has it\n";

	if (dup2(log, STDERR_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0)
		_exit(126);
	if (getuid() == 0 &&
	    (syscall(SYS_setgroups, 0, NULL) || syscall(SYS_setgid, NOBODY) || syscall(SYS_setuid, NOBODY)))
		_exit(126);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the change of user, which forgets it */
	execve("/usr/sbin/libvirtd", argv, environment);
	if (write(STDERR_FILENO, failed, sizeof(failed) - 1) < 0)
		_exit(126);
	_exit(127);
}

static void daemon_failed(const struct daemon_fixture *d)
{
	FILE *log = fopen(d->log, "re");
	char line[256];

	while (log && fgets(line, sizeof(line), log))
		fputs(line, stderr);
	fail_msg("the private libvirtd did not start");
}

/* Returns when it answers. */
static void daemon_start(struct daemon_fixture *d)
{
	/* Unprivileged it is a session's daemon: all its files are below the directories named here. */
	static const char *const names[] = {"HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"};
	static char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	char text[ARRAY_SIZE(names)][96], *environment[ARRAY_SIZE(names) + 2] = {0};
	int log AUTO_CLOSE = open(d->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	double begun = ev_time();

	assert_true(log >= 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(text[i], sizeof(text[i]), "%s=%s", names[i], d->dir);
		environment[i] = text[i];
	}
	environment[ARRAY_SIZE(names)] = path;
	d->pid = fork();
	assert_true(d->pid >= 0);
	if (d->pid == 0)
		exec_daemon(d, log, environment);
	while (!answers(d)) {
		if (ev_time() - begun > LIMIT_S || waitpid(d->pid, NULL, WNOHANG) != 0)
			daemon_failed(d);
		ev_sleep(0.01);
	}
}

static void daemon_end(struct daemon_fixture *d)
{
	if (d->pid <= 0)
		return;
	kill(d->pid, SIGKILL);
	waitpid(d->pid, NULL, 0);
	d->pid = 0;
}

static int daemon_setup(void **state)
{
	struct daemon_fixture *d = calloc(1, sizeof(*d));
	FILE *conf;

	assert_non_null(d);
	snprintf(d->dir, sizeof(d->dir), "/tmp/memoc-test-virt-XXXXXX");
	assert_non_null(mkdtemp(d->dir));
	assert_int_equal(chmod(d->dir, 0700), 0);
	snprintf(d->conf, sizeof(d->conf), "%s/libvirtd.conf", d->dir);
	snprintf(d->log, sizeof(d->log), "%s/log", d->dir);
	d->address.sun_family = AF_UNIX;
	snprintf(d->address.sun_path, sizeof(d->address.sun_path), "%s/libvirt/libvirt-sock", d->dir);
	snprintf(d->uri, sizeof(d->uri), "test+unix:///default?socket=%s", d->address.sun_path);
	conf = fopen(d->conf, "we");
	assert_non_null(conf);
	assert_true(fputs("log_outputs=\"3:stderr\"\n", conf) >= 0);
	assert_int_equal(fclose(conf), 0);
	if (getuid() == 0)
		assert_int_equal(chown(d->dir, NOBODY, NOBODY), 0);
	*state = d;
	return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int daemon_teardown(void **state)
{
	struct daemon_fixture *d = *state;

	daemon_end(d);
	nftw(d->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	free(d);
	return 0;
}

static void test_remote_calls_and_lost_connection(void **state)
{
	struct daemon_fixture *d = *state;
	struct memoc_err err = {0};
	struct virt_domain one;
	struct guest_stats stats;
	struct virt_conn *c;

	daemon_start(d);
	assert_int_equal(virt_conn_open(d->uri, &c, &err), 0);
	assert_int_equal(virt_lookup(c, TEST_NAME, &one, &err), 0);
	assert_int_equal(virt_stats(c, one.uuid, &stats, &err), 0);
	assert_true(stats.has_actual);
	daemon_end(d);
	assert_int_equal(virt_stats(c, one.uuid, &stats, &err), -ENOTCONN);
	assert_false(virt_conn_alive(c));
	assert_int_equal(virt_stats(c, NO_UUID, &stats, &err), -ENOTCONN);
	virt_conn_close(c);
	drain();
}

static void test_link_comes_back(void **state)
{
	struct daemon_fixture *d = *state;
	struct log log = {0};
	struct virt_domain one;
	struct virt_conn *c;

	/* Nobody there at first: said once, however often it is tried. */
	assert_int_equal(virt_events_new(loop, d->uri, on_event, &log, &log.events), 0);
	expect(&log, VIRT_EVENT_LINK_DOWN, NULL);
	assert_non_null(strstr(log.heard[0].text, d->address.sun_path));
	daemon_start(d);
	expect(&log, VIRT_EVENT_LINK_UP, "");
	for (int round = 0; round < 2; round++) {
		daemon_end(d);
		expect(&log, VIRT_EVENT_LINK_DOWN, NULL);
		assert_false(virt_events_connected(log.events));
		daemon_start(d);
		expect(&log, VIRT_EVENT_LINK_UP, "");
	}
	/* Subscribed again, for real. */
	assert_int_equal(virt_conn_open(d->uri, &c, NULL), 0);
	assert_int_equal(virt_lookup(c, TEST_NAME, &one, NULL), 0);
	assert_int_equal(virt_set_policy(c, one.uuid, "<policy/>", true, false, NULL), 0);
	expect(&log, VIRT_EVENT_POLICY, "");
	virt_conn_close(c);
	virt_events_free(log.events);
	drain();
}

/* Frozen, not dead: the socket stays open, and only the keepalive finds out, in 5 s × 3 and the answer's own time. */
static void test_frozen_libvirtd(void **state)
{
	struct daemon_fixture *d = *state;
	struct log log = {0};
	double frozen;

	daemon_start(d);
	begin(&log, d->uri);
	assert_int_equal(kill(d->pid, SIGSTOP), 0);
	frozen = ev_time();
	expect(&log, VIRT_EVENT_LINK_DOWN, NULL);
	assert_true(ev_time() - frozen > 5);
	assert_non_null(strstr(log.heard[1].text, "does not answer"));
	/* Reopening hangs now, in its own thread: the loop goes on, and the freezing ends well. */
	assert_int_equal(kill(d->pid, SIGCONT), 0);
	expect(&log, VIRT_EVENT_LINK_UP, "");
	/* Freeing does not wait for a frozen one either. */
	assert_int_equal(kill(d->pid, SIGSTOP), 0);
	frozen = ev_time();
	virt_events_free(log.events);
	assert_true(ev_time() - frozen < 3);
	daemon_end(d); /* which lets the closing thread go */
	drain();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_fails),
		cmocka_unit_test_setup_teardown(test_list_lookup_state, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_such_domain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_running, setup, teardown),
		cmocka_unit_test_setup_teardown(test_xml, setup, teardown),
		cmocka_unit_test_setup_teardown(test_balloon_and_stats, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stats_period, setup, teardown),
		cmocka_unit_test_setup_teardown(test_running_but_unable, setup, teardown),
		cmocka_unit_test_setup_teardown(test_job, setup, teardown),
		cmocka_unit_test_setup_teardown(test_job_that_reads_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_policy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_more_domains_than_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lifecycle_events, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restore_is_paused_at_first, setup, teardown),
		cmocka_unit_test_setup_teardown(test_policy_and_definition_events, setup, teardown),
		cmocka_unit_test_setup_teardown(test_device_events, setup, teardown),
		cmocka_unit_test_setup_teardown(test_free_inside_a_callback, setup, teardown),
		cmocka_unit_test(test_free_while_opening),
		cmocka_unit_test_setup_teardown(test_remote_calls_and_lost_connection, daemon_setup, daemon_teardown),
		cmocka_unit_test_setup_teardown(test_link_comes_back, daemon_setup, daemon_teardown),
		cmocka_unit_test_setup_teardown(test_frozen_libvirtd, daemon_setup, daemon_teardown),
	};

	loop = ev_loop_new(EVFLAG_AUTO);
	if (!loop || virt_init() < 0 || evglue_register(loop) < 0) {
		fprintf(stderr, "no libvirt or no event loop to test with\n");
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
