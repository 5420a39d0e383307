/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memocd's command line. */
#include "controller/daemon/daemon.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char usage_text[] =
	"Usage: memocd [OPTIONS]\n"
	"The memoc controller: gives memory to the VMs of this host that need it.\n\n"
	"  --config FILE            configuration (default /etc/memoc/memoc.conf, then memoc.conf.d/*.conf)\n"
	"  --set SECTION.KEY=VALUE  any setting; may be given several times\n"
	"  --connect URI            libvirt (default qemu:///system)\n"
	"  --socket PATH            control socket (default $MEMOC_SOCKET or /run/memoc/memoc.sock)\n"
	"  --state-dir DIR          what survives a restart (default /var/lib/memoc)\n"
	"  --run-dir DIR            runtime files (default /run/memoc)\n"
	"  --observe                decide and log, change nothing\n"
	"  --log journal|stderr     where to log (default: journal under systemd, else stderr)\n"
	"  --log-level LEVEL        error, warning, notice, info or debug\n"
	"  --check-config           read the configuration, say what is wrong with it, exit\n"
	"  --version                print the version\n"
	"  --help                   print this\n";

enum {
	OPT_CONFIG = 256,
	OPT_SET,
	OPT_CONNECT,
	OPT_SOCKET,
	OPT_STATE,
	OPT_RUN,
	OPT_OBSERVE,
	OPT_LOG,
	OPT_LEVEL,
	OPT_CHECK,
	OPT_VERSION,
	OPT_HELP
};

static const struct option long_options[] = {
	{"config", required_argument, NULL, OPT_CONFIG},
	{"set", required_argument, NULL, OPT_SET},
	{"connect", required_argument, NULL, OPT_CONNECT},
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"state-dir", required_argument, NULL, OPT_STATE},
	{"run-dir", required_argument, NULL, OPT_RUN},
	{"observe", no_argument, NULL, OPT_OBSERVE},
	{"log", required_argument, NULL, OPT_LOG},
	{"log-level", required_argument, NULL, OPT_LEVEL},
	{"check-config", no_argument, NULL, OPT_CHECK},
	{"version", no_argument, NULL, OPT_VERSION},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

struct command_line {
	struct options options;
	enum log_target log;
	bool check_config;
	const char *sets[64];
};

static int wrong(const char *what, const char *why)
{
	fprintf(stderr, "memocd: %s: %s; see memocd --help\n", what, why);
	return 2;
}

/* 0: go on; 1: done (version, help); 2: wrong usage, said. */
static int take_option(struct command_line *c, int option, const char *value)
{
	struct options *o = &c->options;
	struct memoc_err err = {""};
	int level;
	switch (option) {
	case OPT_CONFIG:
		o->config_path = value;
		return 0;
	case OPT_SET:
		if (o->n_sets == ARRAY_SIZE(c->sets))
			return wrong("--set", "too many; use a file");
		c->sets[o->n_sets++] = value;
		return 0;
	case OPT_CONNECT:
		o->uri = value;
		return 0;
	case OPT_SOCKET:
		o->socket_path = value;
		return 0;
	case OPT_STATE:
		o->state_dir = value;
		return 0;
	case OPT_RUN:
		o->run_dir = value;
		return 0;
	case OPT_OBSERVE:
		o->observe = true;
		return 0;
	case OPT_LOG:
		if (strcmp(value, "journal") != 0 && strcmp(value, "stderr") != 0)
			return wrong("--log", "journal or stderr is wanted");
		c->log = strcmp(value, "journal") == 0 ? LOG_TARGET_JOURNAL : LOG_TARGET_STDERR;
		return 0;
	case OPT_LEVEL:
		if (enum_from_name(log_level_names, value, &level, &err) < 0)
			return wrong("--log-level", err.text);
		o->log_level_given = true;
		o->log_level = (enum log_level)level;
		return 0;
	case OPT_CHECK:
		c->check_config = true;
		return 0;
	case OPT_VERSION:
		puts("memocd " MEMOC_VERSION);
		return 1;
	case OPT_HELP:
		fputs(usage_text, stdout);
		return 1;
	default:
		return 2; /* getopt has said why */
	}
}

static int check_config(const struct options *o)
{
	struct config config;
	struct memoc_err err = {""};
	struct proc_host *host = NULL;
	struct host_sample sample;
	int r = config_load(o->config_path, o->sets, o->n_sets, &config, NULL, NULL, &err);
	if (r == 0)
		r = proc_host_open("", &host, &err);
	if (r == 0)
		r = proc_host_read(host, &sample);
	if (r == 0)
		r = config_resolve(&config, sample.mem_total_bytes, &err);
	proc_host_close(host);
	if (r < 0) {
		fprintf(stderr, "memocd: %s\n", err.text);
		return 1;
	}
	puts("configuration is good");
	return 0;
}

int main(int argc, char **argv)
{
	const char *socket_path = getenv("MEMOC_SOCKET");
	struct command_line c = {
		.options = {.uri = "qemu:///system",
			    .socket_path = socket_path && *socket_path ? socket_path : "/run/memoc/memoc.sock",
			    .state_dir = "/var/lib/memoc",
			    .run_dir = "/run/memoc"},
		.log = getenv("JOURNAL_STREAM") ? LOG_TARGET_JOURNAL : LOG_TARGET_STDERR,
	};
	c.options.sets = c.sets;
	for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
		int r = take_option(&c, option, optarg);
		if (r)
			return r == 1 ? 0 : 2;
	}
	if (optind < argc)
		return wrong(argv[optind], "no argument is wanted");
	if (c.check_config)
		return check_config(&c.options);
	log_open(c.log, c.options.log_level_given ? c.options.log_level : LOG_LEVEL_INFO, "memocd");
	struct memoc_err err = {""};
	int r = daemon_run(&c.options, &err);
	if (r)
		log_error("%s", err.text[0] ? err.text : "cannot start");
	return r < 0 ? 1 : r;
}
