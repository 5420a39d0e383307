/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What systemd remembers of a service. */
#include <stdio.h>
#include <systemd/sd-bus.h>

#include "controller/cli/check.h"

#define SERVICE "org.freedesktop.systemd1.Service"

static bool bus_object(char *buf, size_t len, const char *unit)
{
	char *path AUTO_FREE = NULL;

	return sd_bus_path_encode("/org/freedesktop/systemd1/unit", unit, &path) >= 0 &&
	       snprintf(buf, len, "%s", path) < (int)len;
}

/* The first command of ExecReload: path, arguments, ignore_errors, then start and end by two clocks in µs, pid, code,
 * status (org.freedesktop.systemd1(5)). Never run: all zero. */
static time_t reload_started(sd_bus *bus, const char *object)
{
	sd_bus_message *reply = NULL;
	uint64_t began_us = 0, unused;
	const char *path;
	time_t at = 0;

	if (sd_bus_get_property(bus, "org.freedesktop.systemd1", object, SERVICE, "ExecReload", NULL, &reply,
				"a(sasbttttuii)") < 0)
		return 0;
	if (sd_bus_message_enter_container(reply, 'a', "(sasbttttuii)") > 0 &&
	    sd_bus_message_enter_container(reply, 'r', "sasbttttuii") > 0 &&
	    sd_bus_message_read(reply, "s", &path) > 0 && sd_bus_message_skip(reply, "asb") > 0 &&
	    sd_bus_message_read(reply, "tt", &began_us, &unused) > 0)
		at = (time_t)(began_us / 1000000);
	sd_bus_message_unref(reply);
	return at;
}

time_t check_reloaded(const char *program, pid_t pid)
{
	char unit[64], object[256];
	sd_bus *bus = NULL;
	uint32_t main_pid = 0;
	time_t at = 0;

	snprintf(unit, sizeof(unit), "%s.service", program);
	if (!bus_object(object, sizeof(object), unit) || sd_bus_open_system(&bus) < 0)
		return 0;
	if (sd_bus_get_property_trivial(bus, "org.freedesktop.systemd1", object, SERVICE, "MainPID", NULL, 'u',
					&main_pid) >= 0 &&
	    (pid_t)main_pid == pid)
		at = reload_started(bus, object);
	sd_bus_flush_close_unref(bus);
	return at;
}
