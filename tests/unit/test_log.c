/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log as its readers see it: fields given to the journal, bytes written to stderr. sd_journal_sendv is this file's
 * own here: a program's definition goes before a shared library's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "common/log.h"
#include "common/parse.h"

static char entry[16][4096];
static int entry_fields, entries;
static int journal_answer;

int sd_journal_sendv(const struct iovec *iov, int n)
{
	entries++;
	entry_fields = n;
	for (int i = 0; i < n && i < 16; i++)
		snprintf(entry[i], sizeof(entry[i]), "%.*s", (int)iov[i].iov_len, (const char *)iov[i].iov_base);
	errno = EBADMSG;
	return journal_answer;
}

static bool entry_has(const char *field)
{
	for (int i = 0; i < entry_fields; i++)
		if (strcmp(entry[i], field) == 0)
			return true;
	print_error("no field %s\n", field);
	return false;
}

/* ---- stderr goes into a file while a test runs ---- */

static int old_stderr;
static char text[1 << 20];

static int catch_stderr(void **state)
{
	char path[] = "/tmp/memoc-test-log-XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0)
		return -1;
	unlink(path);
	old_stderr = dup(STDERR_FILENO);
	dup2(fd, STDERR_FILENO);
	close(fd);
	fcntl(STDERR_FILENO, F_SETFL, O_APPEND);
	entries = entry_fields = journal_answer = 0;
	return old_stderr < 0;
}

static const char *caught(void)
{
	ssize_t n = pread(STDERR_FILENO, text, sizeof(text) - 1, 0);

	assert_true(n >= 0);
	text[n] = 0;
	return text;
}

static int release_stderr(void **state)
{
	dup2(old_stderr, STDERR_FILENO);
	close(old_stderr);
	return 0;
}

static const struct log_fields all = {
	.message_id = MSG_VM_RESIZE,
	.vm = "web1",
	.uuid = "1b4e28ba-2fa1-41d2-883f-b9a761bde3fb",
	.state = "steady",
	.event = "resize",
	.reason = "greedy since 12 s",
	.has_from = true,
	.has_to = true,
	.from_bytes = 2 * GIB,
	.to_bytes = 0,
};

static void test_stderr_line(void **state)
{
	log_open(LOG_TARGET_STDERR, LOG_LEVEL_INFO, "memocd");
	errno = EXDEV;
	log_info("ready after %d ms", 12);
	assert_int_equal(errno, EXDEV);
	assert_string_equal(caught(), "info: ready after 12 ms\n");
	assert_int_equal(entries, 0);
}

static void test_stderr_fields(void **state)
{
	static const struct log_fields some = {.vm = "web1", .has_to = true, .to_bytes = UINT64_MAX};

	log_open(LOG_TARGET_STDERR, LOG_LEVEL_INFO, "memocd");
	log_fields(LOG_LEVEL_NOTICE, &all, "resized");
	log_fields(LOG_LEVEL_WARNING, &some, "grown");
	assert_string_equal(caught(), "notice: resized [vm=web1 uuid=1b4e28ba-2fa1-41d2-883f-b9a761bde3fb state=steady "
				      "event=resize from=2147483648 to=0 reason=\"greedy since 12 s\"]\n"
				      "warning: grown [vm=web1 to=18446744073709551615]\n");
}

/* A VM's name comes from anybody who may define one: it must not forge lines or drive a terminal. */
static void test_stderr_control_characters(void **state)
{
	const struct log_fields evil = {.vm = "a\nerror: forged\x1b[2J", .reason = "\xc2\x9b\xff"};

	log_open(LOG_TARGET_STDERR, LOG_LEVEL_INFO, "memocd");
	log_fields(LOG_LEVEL_ERROR, &evil, "x\ry\tz");
	assert_string_equal(caught(), "error: x?y?z [vm=\"a?error: forged?[2J\" reason=???]\n");
}

static void test_stderr_long(void **state)
{
	char name[6000];
	const struct log_fields f = {.vm = name};
	size_t len;

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	log_open(LOG_TARGET_STDERR, LOG_LEVEL_INFO, "memocd");
	log_fields(LOG_LEVEL_ERROR, &f, "%s", name);
	log_error("next");
	len = strlen(caught());
	assert_true(len <= PIPE_BUF + strlen("error: next\n"));
	assert_string_equal(text + len - strlen("]\nerror: next\n"), "]\nerror: next\n");
}

static void test_levels(void **state)
{
	int level;

	log_open(LOG_TARGET_STDERR, LOG_LEVEL_WARNING, "memocd");
	log_notice("not shown");
	log_warning("one");
	log_set_level(LOG_LEVEL_DEBUG);
	log_debug("two");
	log_set_level(LOG_LEVEL_ERROR);
	log_warning("not shown");
	log_error("three");
	assert_string_equal(caught(), "warning: one\ndebug: two\nerror: three\n");
	for (const struct enum_name *n = log_level_names; n->name; n++) {
		assert_int_equal(enum_from_name(log_level_names, n->name, &level, NULL), 0);
		assert_int_equal(level, n->value);
	}
	assert_string_equal(enum_to_name(log_level_names, LOG_LEVEL_NOTICE), "notice");
}

static void test_journal_fields(void **state)
{
	log_open(LOG_TARGET_JOURNAL, LOG_LEVEL_INFO, "memocd");
	errno = EXDEV;
	log_fields(LOG_LEVEL_NOTICE, &all, "resized %s", "it");
	assert_int_equal(errno, EXDEV);
	assert_int_equal(entries, 1);
	assert_int_equal(entry_fields, 11);
	assert_true(entry_has("MESSAGE=resized it"));
	assert_true(entry_has("PRIORITY=5"));
	assert_true(entry_has("SYSLOG_IDENTIFIER=memocd"));
	assert_true(entry_has("MESSAGE_ID=" MSG_VM_RESIZE));
	assert_true(entry_has("MEMOC_VM=web1"));
	assert_true(entry_has("MEMOC_UUID=1b4e28ba-2fa1-41d2-883f-b9a761bde3fb"));
	assert_true(entry_has("MEMOC_STATE=steady"));
	assert_true(entry_has("MEMOC_EVENT=resize"));
	assert_true(entry_has("MEMOC_FROM_BYTES=2147483648"));
	assert_true(entry_has("MEMOC_TO_BYTES=0"));
	assert_true(entry_has("MEMOC_REASON=greedy since 12 s"));
	assert_string_equal(caught(), "");
}

static void test_journal_leaves_out(void **state)
{
	log_open(LOG_TARGET_JOURNAL, LOG_LEVEL_INFO, "memocd");
	log_warning("plain");
	assert_int_equal(entry_fields, 3);
	assert_true(entry_has("MESSAGE=plain"));
	assert_true(entry_has("PRIORITY=4"));
	log_debug("below the level");
	assert_int_equal(entries, 1);
}

static void test_journal_long(void **state)
{
	char name[6000];
	const struct log_fields f = {.vm = name};

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	log_open(LOG_TARGET_JOURNAL, LOG_LEVEL_INFO, "memocd");
	log_fields(LOG_LEVEL_ERROR, &f, "%s", name);
	assert_int_equal(entry_fields, 4);
	for (int i = 0; i < entry_fields; i++)
		assert_true(strlen(entry[i]) < 2100);
}

static void test_journal_refuses(void **state)
{
	log_open(LOG_TARGET_JOURNAL, LOG_LEVEL_INFO, "memocd");
	journal_answer = -ENOBUFS;
	log_error("kept");
	assert_int_equal(entries, 1);
	assert_string_equal(caught(), "error: kept\n");
}

static void *log_many(void *arg)
{
	const struct log_fields f = {.vm = arg};

	for (int i = 0; i < 500; i++)
		log_fields(LOG_LEVEL_INFO, &f, "a line that must stay whole");
	return NULL;
}

static void test_threads(void **state)
{
	static char names[4][8] = {"a", "b", "c", "d"};
	pthread_t threads[4];
	int lines = 0;

	log_open(LOG_TARGET_STDERR, LOG_LEVEL_INFO, "memocd");
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, log_many, names[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	caught();
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		assert_memory_equal(line, "info: a line that must stay whole [vm=", 38);
		assert_string_equal(line + 39, "]");
		lines++;
	}
	assert_int_equal(lines, 2000);
}

int main(void)
{
#define LOG_TEST(f) cmocka_unit_test_setup_teardown(f, catch_stderr, release_stderr)
	const struct CMUnitTest tests[] = {
		LOG_TEST(test_stderr_line),
		LOG_TEST(test_stderr_fields),
		LOG_TEST(test_stderr_control_characters),
		LOG_TEST(test_stderr_long),
		LOG_TEST(test_levels),
		LOG_TEST(test_journal_fields),
		LOG_TEST(test_journal_leaves_out),
		LOG_TEST(test_journal_long),
		LOG_TEST(test_journal_refuses),
		LOG_TEST(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
