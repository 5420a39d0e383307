/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The program that libvirt runs as a qemu hook: see hook.h.
 *
 * It needs libc alone to start. Where the loader misses a library (a distribution's upgrade changed a soname, and memoc
 * was built from source), a program that was linked with it ends with status 127 before main; for `reconnect` libvirt
 * then kills the running VM. So the JSON and XML libraries are opened once the guard stands, and without them VMs start
 * and stop undisturbed. The functions below are the only ones that common/json.c and common/domxml.c call here: one
 * more, and the link fails.
 */
#include "hooks/hook.h"

#include <dlfcn.h>
#include <libxml/parser.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <yajl/yajl_parse.h>

/* From the Makefile: sonames of what the headers belong to, each followed by a NUL. Static analysis has none. */
#ifdef HOOK_LIBRARIES
_Static_assert(sizeof(HOOK_LIBRARIES) > sizeof("lib.so.\0lib.so.\0"), "the Makefile found no sonames");
#else
#define HOOK_LIBRARIES ""
#endif

#define LIBRARIES_MAX 4

static void *libraries[LIBRARIES_MAX];

/* Ends the run as if it had found no memocd: VMs come first. */
static void give_up(const char *why)
{
	dprintf(STDERR_FILENO, "memoc-hook: %s; memocd is told nothing, libvirt goes on\n", why);
	_exit(0);
}

static void open_libraries(void)
{
	const char *name = HOOK_LIBRARIES;

	for (size_t i = 0; i < LIBRARIES_MAX && *name; i++, name += strlen(name) + 1) {
		libraries[i] = dlopen(name, RTLD_LAZY | RTLD_LOCAL);
		if (!libraries[i])
			give_up(dlerror());
	}
}

/* Asked of each library, not of the process: the functions below have the same names. */
static void *late(const char *name)
{
	for (size_t i = 0; i < LIBRARIES_MAX && libraries[i]; i++) {
		void *symbol = dlsym(libraries[i], name);

		if (symbol)
			return symbol;
	}
	give_up("a library is not the one that memoc was built with");
	return NULL;
}

/* A function of a library by its own name, found when it is first called. */
#define LATE(result, name, params, args)                                                                               \
	result name params                                                                                             \
	{                                                                                                              \
		static __typeof__(&(name)) found;                                                                      \
		if (!found)                                                                                            \
			found = (__typeof__(&(name)))late(#name);                                                      \
		return found args;                                                                                     \
	}
#define LATE_VOID(name, params, args)                                                                                  \
	void name params                                                                                               \
	{                                                                                                              \
		static __typeof__(&(name)) found;                                                                      \
		if (!found)                                                                                            \
			found = (__typeof__(&(name)))late(#name);                                                      \
		found args;                                                                                            \
	}

LATE_VOID(xmlInitParser, (void), ())
LATE_VOID(xmlSetStructuredErrorFunc, (void *context, xmlStructuredErrorFunc f), (context, f))
LATE_VOID(xmlResetLastError, (void), ())
/* What the names xmlStructuredError and xmlStructuredErrorContext stand for: each thread has its own. */
LATE(xmlStructuredErrorFunc *, __xmlStructuredError, (void), ())
LATE(void **, __xmlStructuredErrorContext, (void), ())
LATE(xmlParserCtxtPtr, xmlNewParserCtxt, (void), ())
LATE_VOID(xmlFreeParserCtxt, (xmlParserCtxtPtr c), (c))
LATE_VOID(xmlStopParser, (xmlParserCtxtPtr c), (c))
LATE(__typeof__(xmlCtxtGetLastError(NULL)), xmlCtxtGetLastError, (void *c), (c))
LATE(xmlDocPtr, xmlCtxtReadMemory,
     (xmlParserCtxtPtr c, const char *text, int len, const char *url, const char *encoding, int options),
     (c, text, len, url, encoding, options))
LATE(xmlNodePtr, xmlDocGetRootElement, (const xmlDoc *doc), (doc))
LATE_VOID(xmlFreeDoc, (xmlDocPtr doc), (doc))
LATE(yajl_handle, yajl_alloc, (const yajl_callbacks *callbacks, yajl_alloc_funcs *alloc, void *user),
     (callbacks, alloc, user))
LATE(yajl_status, yajl_parse, (yajl_handle h, const unsigned char *text, size_t len), (h, text, len))
LATE(yajl_status, yajl_complete_parse, (yajl_handle h), (h))
LATE(size_t, yajl_get_bytes_consumed, (yajl_handle h), (h))
LATE(unsigned char *, yajl_get_error, (yajl_handle h, int verbose, const unsigned char *text, size_t len),
     (h, verbose, text, len))

int main(int argc, char **argv)
{
	uint64_t start_ms = now_ms();
	const char *socket_path;
	struct hook_io io;

	hook_guard(HOOK_DEADLINE_MS);
	open_libraries();
	socket_path = getenv("MEMOC_SOCKET");
	io = (struct hook_io){
		.xml_fd = STDIN_FILENO,
		.err_fd = STDERR_FILENO,
		.socket_path = socket_path && *socket_path ? socket_path : HOOK_SOCKET_PATH,
		.start_ms = start_ms,
		.deadline_ms = HOOK_WORK_MS,
	};
	/* Not exit(): nothing that libraries run at the end may change the status or take time. */
	_exit(hook_run(argc, argv, &io));
}
