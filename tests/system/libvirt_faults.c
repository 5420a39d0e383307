/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preloaded into memocd: real libvirt with one call that goes wrong, or with somebody who pauses the VM while it is
 * being looked at. A real libvirtd does such things when it is busy, at moments that no test can choose.
 *
 * $MEMOC_FAULT: list, xml: the first call fails. open: the second connection (the first of the workers) cannot be
 * opened at first. pause:N: while the XML is read for the Nth time the VM is suspended, and the caller hears of it
 * late.
 */
#include <dlfcn.h>
#include <libvirt/libvirt.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LATE_US 1000000 /* memocd has heard of the pause by then */

static atomic_int calls_list, calls_xml, calls_open;

static int is(const char *fault)
{
	const char *wanted = getenv("MEMOC_FAULT");

	return wanted && !strcmp(wanted, fault);
}

int virConnectListAllDomains(virConnectPtr conn, virDomainPtr **domains, unsigned flags)
{
	__typeof__(&virConnectListAllDomains) real = (__typeof__(real))dlsym(RTLD_NEXT, "virConnectListAllDomains");

	return atomic_fetch_add(&calls_list, 1) == 0 && is("list") ? -1 : real(conn, domains, flags);
}

char *virDomainGetXMLDesc(virDomainPtr domain, unsigned flags)
{
	__typeof__(&virDomainGetXMLDesc) real = (__typeof__(real))dlsym(RTLD_NEXT, "virDomainGetXMLDesc");
	int call = atomic_fetch_add(&calls_xml, 1) + 1;
	const char *wanted = getenv("MEMOC_FAULT");
	char *xml;

	if (call == 1 && is("xml"))
		return NULL;
	xml = real(domain, flags);
	if (wanted && !strncmp(wanted, "pause:", 6) && atoi(wanted + 6) == call && virDomainSuspend(domain) == 0)
		usleep(LATE_US);
	return xml;
}

virConnectPtr virConnectOpen(const char *uri)
{
	__typeof__(&virConnectOpen) real = (__typeof__(real))dlsym(RTLD_NEXT, "virConnectOpen");

	return atomic_fetch_add(&calls_open, 1) == 1 && is("open") ? NULL : real(uri);
}
