/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Traces: both formats, three packings, all that can be wrong with them; and the traces that are made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lzma.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#include "controller/sim/generate.h"
#include "controller/sim/trace.h"
#include "tests/unit/alloc_fail.h"

#define OWN_HEADER "time_s,vm,size_mib,demand_mib\n"
#define GWA_HEADER                                                                                                     \
	"Timestamp [ms];\tCPU cores;\tCPU capacity provisioned [MHZ];\tCPU usage [MHZ];\tCPU usage [%];\t"             \
	"Memory capacity provisioned [KB];\tMemory usage [KB];\tDisk read throughput [KB/s]\n"

static char folder[64]; /* where all files of a test are */

static int setup(void **state)
{
	strcpy(folder, "/tmp/memoc-trace-XXXXXX");
	return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
	char command[100];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command); /* NOLINT(cert-env33-c): a path of our own making */
}

/* ---- files ---- */

struct bytes {
	unsigned char *data;
	size_t n;
};

static struct bytes plain(const void *data, size_t n)
{
	struct bytes b = {malloc(n + 1), n};

	assert_non_null(b.data);
	memcpy(b.data, data, n);
	return b;
}

static struct bytes gzip(const void *data, size_t n)
{
	struct bytes b = {malloc(n + n / 100 + 200), 0};
	z_stream z = {0};

	assert_non_null(b.data);
	assert_int_equal(deflateInit2(&z, 1, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (Bytef *)(uintptr_t)data;
	z.avail_in = (uInt)n;
	z.next_out = b.data;
	z.avail_out = (uInt)(n + n / 100 + 200);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	b.n = z.total_out;
	deflateEnd(&z);
	return b;
}

static struct bytes xz(const void *data, size_t n)
{
	struct bytes b = {malloc(lzma_stream_buffer_bound(n)), 0};

	assert_non_null(b.data);
	assert_int_equal(
		lzma_easy_buffer_encode(0, LZMA_CHECK_CRC32, NULL, data, n, b.data, &b.n, lzma_stream_buffer_bound(n)),
		LZMA_OK);
	return b;
}

static struct bytes (*const packers[])(const void *, size_t) = {plain, gzip, xz};

/* Writes a file into the test's folder; its path, good until the next call. */
static const char *put(const char *name, const void *data, size_t n)
{
	static char path[400];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
	return path;
}

static const char *put_text(const char *name, const char *text)
{
	return put(name, text, strlen(text));
}

static struct trace *must_read(const char *path)
{
	struct memoc_err err = {0};
	struct trace *t = NULL;
	int r = trace_read(path, &t, &err);

	if (r < 0)
		print_error("%s\n", err.text);
	assert_int_equal(r, 0);
	assert_string_equal(err.text, "");
	return t;
}

static struct trace *read_text(const char *text)
{
	return must_read(put_text("t", text));
}

static char *written(const struct trace *t, size_t *ret_n)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, ret_n);

	assert_non_null(f);
	assert_int_equal(trace_write(t, f), 0);
	assert_int_equal(fclose(f), 0);
	return text;
}

static void assert_written(const struct trace *t, const char *wanted)
{
	char *text AUTO_FREE = NULL;
	size_t n = 0;

	text = written(t, &n);
	assert_string_equal(text, wanted);
}

/* What reading it must say, after the file's name; the report's only line is the same. */
static void assert_refused(const char *path, int code, const char *wanted)
{
	struct trace *untouched = (struct trace *)&folder, *t = untouched;
	struct trace_report report;
	struct memoc_err err = {0};
	char text[700];

	memset(&report, 0xff, sizeof(report));
	snprintf(text, sizeof(text), "%s%s", path, wanted);
	assert_int_equal(trace_read_report(path, &t, &report, &err), code);
	assert_ptr_equal(t, untouched);
	assert_string_equal(err.text, text);
	assert_true(report.n <= 1);
	if (report.n)
		assert_string_equal(report.first[0].text, text);
}

/* ---- our own format ---- */

static void test_own(void **state)
{
	struct trace *t = read_text("\xef\xbb\xbf# a comment, with commas\r\n" OWN_HEADER "\n"
				    "0.5,web,1024,100\r\n"
				    "0.5,db 2,2048,300\n"
				    "2,web,1024,100\n" /* no change */
				    "# another\n"
				    "3,web,512,600\n"	/* cut to the size of the moment */
				    "4,web,4096,5000\n" /* the largest size stays */
				    "4,db 2,2048,0\n"
				    "4,db 2,2048,7\n" /* the same time: the later counts */
				    "9.001,web,1024,4096");

	assert_int_equal(t->n, 2);
	assert_int_equal(t->points_n, 6);
	assert_int_equal(t->duration_ms, 9001);
	assert_string_equal(t->vms[0].name, "web");
	assert_int_equal(t->vms[0].size_bytes, 4096 * MIB);
	assert_string_equal(t->vms[1].name, "db 2");
	assert_written(t, OWN_HEADER "0.5,web,4096,100\n0.5,db 2,2048,300\n3,web,4096,512\n4,web,4096,4096\n"
				     "4,db 2,2048,7\n9.001,web,4096,1024\n");
	trace_free(t);
}

static void test_own_without_header(void **state)
{
	/* A last row that changes nothing lengthens the trace, and is written again. */
	struct trace *t = read_text("0,a,1,1\n60,a,1,1\n");

	assert_int_equal(t->points_n, 1);
	assert_int_equal(t->duration_ms, 60000);
	assert_written(t, OWN_HEADER "0,a,1,1\n60,a,1,1\n");
	trace_free(t);
	assert_null(trace_free(NULL));
}

static void test_names(void **state)
{
	static const char text[] =
		OWN_HEADER "0,\"a,b\",1,1\n0,\"say \"\"hi\"\"\",1,1\n0,\"plain\",1,1\n0,m\xc3\xbcller,1,1\n"
			   "0,\"\"\"\",1,1\n1,plain,1,0\n1, x ,1,0\n1,123456789012345678901234567890"
			   "123456789012345678901234567890123,1,0\n";
	struct trace *t = read_text(text);

	assert_int_equal(t->n, 7);
	assert_string_equal(t->vms[0].name, "a,b");
	assert_string_equal(t->vms[1].name, "say \"hi\"");
	assert_int_equal(t->vms[2].n, 2);
	assert_string_equal(t->vms[4].name, "\"");
	assert_string_equal(t->vms[5].name, " x ");
	assert_int_equal(strlen(t->vms[6].name), 63);
	assert_written(t, OWN_HEADER
		       "0,\"a,b\",1,1\n0,\"say \"\"hi\"\"\",1,1\n0,plain,1,1\n0,m\xc3\xbcller,1,1\n0,\"\"\"\",1,1\n"
		       "1,plain,1,0\n1, x ,1,0\n1,123456789012345678901234567890"
		       "123456789012345678901234567890123,1,0\n");
	trace_free(t);
}

static void test_numbers(void **state)
{
	static const struct {
		const char *time, *demand;
		uint64_t time_ms, demand_bytes;
	} good[] = {
		{"0", "0", 0, 0},
		{"00.001", "007.50", 1, 15 * MIB / 2},
		{"1.0004", "0.0000004", 1000, 0}, /* to the nearest: 0.42 bytes */
		{"1.0005", "0.0000005", 1001, 1},
		{"12345.678", "0.0000010", 12345678, 1},
		{"3155760000", "67108864", TRACE_TIME_MAX_MS, TRACE_BYTES_MAX},
		{"1.00000000000000000000000000000000000000000000000000", "1.49999999999999999999999999", 1000,
		 3 * MIB / 2},
		{"1.00049999999999999999", "0.00000000000000000000000000000000000000000000000000009", 1000, 0},
		{"00000000000000000000000000000000000000002", "0000000000000000000000000000001", 2000, MIB},
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		char text[300];
		struct trace *t;

		snprintf(text, sizeof(text), "%s,a,67108864,%s\n", good[i].time, good[i].demand);
		t = read_text(text);
		assert_int_equal(t->vms[0].points[0].time_ms, good[i].time_ms);
		assert_int_equal(t->vms[0].points[0].demand_bytes, good[i].demand_bytes);
		trace_free(t);
	}
}

/* Every byte count comes back from seven decimals of a MiB, and as few decimals as it needs are written. */
static void test_bytes_come_back(void **state)
{
	static const uint64_t bytes[] = {
		1, 2, 3, 4095, 4096, MIB - 1, MIB, MIB + 1, 5 * GIB + 12345, TRACE_BYTES_MAX - 1};

	for (size_t i = 0; i < ARRAY_SIZE(bytes); i++) {
		struct trace *t = trace_new(), *back;
		char *text AUTO_FREE = NULL;
		size_t vm = 9, n;

		assert_int_equal(trace_add_vm(t, "a", bytes[i], &vm), 0);
		assert_int_equal(vm, 0);
		assert_int_equal(trace_add(t, 0, 7, bytes[i]), 0);
		text = written(t, &n);
		back = read_text(text);
		assert_int_equal(back->vms[0].size_bytes, bytes[i]);
		assert_int_equal(back->vms[0].points[0].demand_bytes, bytes[i]);
		assert_int_equal(back->duration_ms, 7);
		trace_free(t);
		trace_free(back);
	}
}

static void test_bad_rows(void **state)
{
	static const struct {
		const char *text, *wanted;
	} bad[] = {
		{"", ": has no rows; wanted are lines of time_s,vm,size_mib,demand_mib or a file of GWA-T-12"},
		{"\n#x\n\r\n" OWN_HEADER,
		 ": has no rows; wanted are lines of time_s,vm,size_mib,demand_mib or a file of GWA-T-12"},
		{"0,a,1,1\n" OWN_HEADER, ":2:1: time_s \"time_s\" is not a number such as 512 or 0.25"},
		{"time_s,vm\n0,a,1,1\n", ":1:10: 2 columns, wanted are 4: time_s,vm,size_mib,demand_mib"},
		{"0\n", ":1:2: 1 column, wanted are 4: time_s,vm,size_mib,demand_mib"},
		{"0,a,1,1\n0,a,1,1,\n", ":2:9: 5 columns, wanted are 4: time_s,vm,size_mib,demand_mib"},
		{"0,a,1,1\n\n# c\n0,a,1\n", ":4:6: 3 columns, wanted are 4: time_s,vm,size_mib,demand_mib"},
		{"-1,a,1,1", ":1:1: time_s \"-1\" is negative"},
		{"0,a,-0,1", ":1:5: size_mib \"-0\" is negative"},
		{"0,a,1,-7.5", ":1:7: demand_mib \"-7.5\" is negative"},
		{"0,a,1,-", ":1:7: demand_mib \"-\" is not a number such as 512 or 0.25"},
		{"0,a,1,nan", ":1:7: demand_mib \"nan\" is not a number such as 512 or 0.25"},
		{"0,a,1,-inf", ":1:7: demand_mib \"-inf\" is not a number such as 512 or 0.25"},
		{"inf,a,1,1", ":1:1: time_s \"inf\" is not a number such as 512 or 0.25"},
		{"0,a,1,", ":1:7: demand_mib \"\" is not a number such as 512 or 0.25"},
		{"0,a,1, 1", ":1:7: demand_mib \" 1\" is not a number such as 512 or 0.25"},
		{"0,a,1,1 ", ":1:7: demand_mib \"1 \" is not a number such as 512 or 0.25"},
		{"0,a,1,+1", ":1:7: demand_mib \"+1\" is not a number such as 512 or 0.25"},
		{"0,a,1,1.", ":1:7: demand_mib \"1.\" is not a number such as 512 or 0.25"},
		{"0,a,1,.5", ":1:7: demand_mib \".5\" is not a number such as 512 or 0.25"},
		{"0,a,1,1.2.3", ":1:7: demand_mib \"1.2.3\" is not a number such as 512 or 0.25"},
		{"0,a,1,1e3", ":1:7: demand_mib \"1e3\" is not a number such as 512 or 0.25"},
		{"0,a,1,0x10", ":1:7: demand_mib \"0x10\" is not a number such as 512 or 0.25"},
		{"0,a,1,\"1\"", ":1:7: demand_mib \"\"1\"\" is not a number such as 512 or 0.25"},
		{"0,a,0,0", ":1:5: size_mib is 0: a VM has memory"},
		{"0,a,0.0000001,0", ":1:5: size_mib is 0: a VM has memory"},
		{"0,a,67108864.000001,1", ":1:5: size_mib \"67108864.000001\" is too large; at most 67108864"},
		{"0,a,1,67108865", ":1:7: demand_mib \"67108865\" is too large; at most 67108864"},
		{"0,a,99999999999999999999999999999999999999999999,1",
		 ":1:5: size_mib \"9999999999999999999999999999999999999999...\" is too large; at most 67108864"},
		{"0,a,18446744073709551616,1",
		 ":1:5: size_mib \"18446744073709551616\" is too large; at most 67108864"},
		{"3155760000.001,a,1,1", ":1:1: time_s \"3155760000.001\" is too large; at most 3155760000"},
		{"2.5,a,1,1\n2.499,b,1,1",
		 ":2:1: time_s \"2.499\" is before 2.500 of a row above; sort the rows by time"},
		{"0,,1,1", ":1:3: vm \"\" is empty"},
		{"0,\"\",1,1", ":1:3: vm \"\"\"\" is empty"},
		{"0,\x1b[31m,1,1", ":1:3: vm \"?[31m\" has a control character"},
		{"0,a\x7f,1,1", ":1:3: vm \"a?\" has a control character"},
		{"0,a\xff,1,1", ":1:3: vm \"a?\" is not UTF-8"},
		{"0,1234567890123456789012345678901234567890123456789012345678901234,1,1",
		 ":1:3: vm \"1234567890123456789012345678901234567890...\" is longer than 63 bytes"},
		{"0,\"a,1,1\n", ":1:3: the double quote is not closed before a comma or the line's end"},
		{"0,\"a\"\",1,1\n", ":1:3: the double quote is not closed before a comma or the line's end"},
		{"0,\"a\"b,1,1\n", ":1:3: the double quote is not closed before a comma or the line's end"},
		{"0,a,1,\"", ":1:7: the double quote is not closed before a comma or the line's end"},
		{"0,a,1,\"\"\"", ":1:7: the double quote is not closed before a comma or the line's end"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_refused(put_text("bad.csv", bad[i].text), -EINVAL, bad[i].wanted);
	assert_refused(put("nul.csv", "0,a\0b,1,1", 9), -EINVAL, ":1:3: vm \"a\" has a control character");
}

/* The first ten with their lines, then a count; good rows between them do not help. */
static void test_many_faults(void **state)
{
	struct trace *t = (struct trace *)&folder;
	struct trace_report report;
	struct memoc_err err = {0};
	char text[2000] = "", wanted[500];
	const char *path;

	for (int i = 0; i < 12; i++)
		strcat(text, i % 2 ? "5,a,1,x\n5,a,1,1\n" : "5,a,1,x\n");
	path = put_text("many", text);
	assert_int_equal(trace_read_report(path, &t, &report, &err), -EINVAL);
	assert_ptr_equal(t, &folder);
	assert_int_equal(report.n, 12);
	for (int i = 0; i < TRACE_FAULTS_MAX; i++) {
		snprintf(wanted, sizeof(wanted), "%s:%d:7: demand_mib \"x\" is not a number such as 512 or 0.25", path,
			 1 + i + i / 2);
		assert_string_equal(report.first[i].text, wanted);
	}
	snprintf(wanted, sizeof(wanted), "%s (and 11 more)", report.first[0].text);
	assert_string_equal(err.text, wanted);
	/* Nobody has to want a report or a text. */
	assert_int_equal(trace_read(path, &t, NULL), -EINVAL);
}

static void test_limits(void **state)
{
	static char text[TRACE_VMS_MAX * 20 + 2 * TRACE_LINE_MAX];
	struct trace *t;
	size_t at;

	/* A line as long as it may be, which is a comment, and a number that fills another. */
	memset(text, '#', TRACE_LINE_MAX);
	strcpy(text + TRACE_LINE_MAX, "\n0,a,1,");
	at = strlen(text);
	memset(text + at, '0', TRACE_LINE_MAX - 6);
	strcpy(text + at + TRACE_LINE_MAX - 6, "\n1,a,1,1\n");
	t = read_text(text);
	assert_int_equal(t->vms[0].n, 2);
	trace_free(t);
	/* One byte more. */
	memset(text + at, '0', TRACE_LINE_MAX - 5);
	strcpy(text + at + TRACE_LINE_MAX - 5, "\n1,a,1,1\n");
	assert_refused(put_text("t", text), -EINVAL, ":2:4097: the line is longer than 4096 bytes");
	/* The same at the end of the file, and much longer than all buffers. */
	strcpy(text, "0,a,1,1\n");
	memset(text + 8, '1', sizeof(text) - 8);
	assert_refused(put("t", text, sizeof(text)), -EINVAL, ":2:4097: the line is longer than 4096 bytes");
	/* The line after such a one has the next number. */
	strcpy(text + sizeof(text) - 12, "\n2,b,1,x\n");
	text[0] = '#';
	text[7] = '#';
	assert_refused(put("t", text, strlen(text)), -EINVAL,
		       ":2:7: demand_mib \"x\" is not a number such as 512 or 0.25");
	at = 0;
	for (int i = 0; i < TRACE_VMS_MAX; i++)
		at += (size_t)snprintf(text + at, sizeof(text) - at, "0,%d,1,1\n", i);
	t = read_text(text);
	assert_int_equal(t->n, TRACE_VMS_MAX);
	assert_string_equal(t->vms[TRACE_VMS_MAX - 1].name, "99999");
	trace_free(t);
	snprintf(text + at, sizeof(text) - at, "0,one more,1,1\n");
	assert_refused(put_text("t", text), -E2BIG,
		       ":100001: too much for one trace: at most 100000 VMs and 100000000 changes of demand");
}

static void test_not_there(void **state)
{
	char path[100], longer[600];
	struct memoc_err err;
	struct trace *t;

	snprintf(path, sizeof(path), "%s/none", folder);
	assert_refused(path, -ENOENT, ": cannot be opened: No such file or directory");
	assert_refused(folder, -EINVAL, ": no file there is called *.csv, *.csv.gz or *.csv.xz");
	/* The end of a long path is shown, and the reason still fits. */
	memset(longer, 'x', sizeof(longer));
	snprintf(longer + 300, 20, "/end");
	assert_int_equal(trace_read(longer, &t, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.text, "/end: cannot be opened: File name too long"));
	assert_memory_equal(err.text, "...xxx", 6);
}

/* ---- packings ---- */

/* Some thousand lines: more than any buffer on the way. */
static char *big_text(size_t *ret_n)
{
	struct generate_options o = {"bursts", 70, GIB * 16, 3600 * 1000, 1000, 1};
	struct trace *t;
	char *text;

	assert_int_equal(trace_generate(&o, &t, NULL), 0);
	text = written(t, ret_n);
	trace_free(t);
	assert_true(*ret_n > 300000);
	return text;
}

static void assert_reads_as(const char *path, const char *wanted)
{
	struct trace *t = must_read(path);

	assert_written(t, wanted);
	trace_free(t);
}

static void test_members(void **state)
{
	char *text AUTO_FREE = NULL;
	size_t n, half;

	text = big_text(&n);
	half = n / 2;
	for (size_t i = 0; i < ARRAY_SIZE(packers); i++) {
		struct bytes a = packers[i](text, half), b = packers[i](text + half, n - half);

		a.data = realloc(a.data, a.n + b.n + 1);
		assert_non_null(a.data);
		memcpy(a.data + a.n, b.data, b.n);
		assert_reads_as(put("both", a.data, a.n + b.n), text);
		if (packers[i] != plain) { /* what follows is neither a member nor a stream */
			struct trace *t;

			a.data[a.n + b.n] = 'x';
			assert_int_equal(trace_read(put("tail", a.data, a.n + b.n + 1), &t, NULL), -EBADMSG);
		}
		free(a.data);
		free(b.data);
	}
}

/* Cut off or changed anywhere: an error, never other numbers. */
static void test_damaged(void **state)
{
	char *text AUTO_FREE = NULL;
	struct memoc_err err;
	struct trace *t;
	size_t n;

	text = big_text(&n);
	for (size_t i = 1; i < ARRAY_SIZE(packers); i++) {
		struct bytes b = packers[i](text, n);

		for (size_t cut = 6; cut < b.n; cut += cut < 40 || cut + 40 > b.n ? 1 : b.n / 9) {
			assert_int_equal(trace_read(put("cut", b.data, cut), &t, &err), -EBADMSG);
			assert_non_null(strstr(err.text, i == 1 ? "/cut: the gzip data end too early, after line "
								: "/cut: the xz data end too early, after line "));
			assert_non_null(strstr(err.text, "; get the file again"));
		}
		for (size_t at = 10; at + 4 < b.n; at += b.n / 29) {
			int r;

			b.data[at] ^= 0x55;
			r = trace_read(put("flip", b.data, b.n), &t, &err);
			assert_true(r == -EBADMSG || r == -EINVAL);
			b.data[at] ^= 0x55;
		}
		b.data[b.n - 5] ^= 1; /* the sum or the footer at the end */
		assert_int_equal(trace_read(put("flip", b.data, b.n), &t, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "data are damaged after line "));
		free(b.data);
	}
}

/* An xz file whose header asks for a dictionary of 1.5 GiB: refused, not tried. */
static void test_xz_wants_memory(void **state)
{
	lzma_options_lzma options;
	lzma_filter filters[] = {{LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, NULL}};
	unsigned char out[400];
	size_t n = 0;

	assert_false(lzma_lzma_preset(&options, 0));
	options.dict_size = 1536U << 20;
	options.mode = LZMA_MODE_FAST;
	options.mf = LZMA_MF_HC3;
	/* The encoder needs as much memory and is not asked: only the header of the block is made. */
	lzma_stream_flags flags = {.check = LZMA_CHECK_CRC32};
	lzma_block block = {.filters = filters,
			    .check = LZMA_CHECK_CRC32,
			    .compressed_size = LZMA_VLI_UNKNOWN,
			    .uncompressed_size = LZMA_VLI_UNKNOWN};

	assert_int_equal(lzma_stream_header_encode(&flags, out), LZMA_OK);
	n = LZMA_STREAM_HEADER_SIZE;
	assert_int_equal(lzma_block_header_size(&block), LZMA_OK);
	assert_int_equal(lzma_block_header_encode(&block, out + n), LZMA_OK);
	n += block.header_size;
	memset(out + n, 0, 30);
	assert_refused(put("t", out, n + 30), -E2BIG,
		       ": unpacking it needs more than 256 MiB; pack it with xz -9 or less");
}

/* Standard input through a pipe that gives one byte first. */
static void test_standard_input(void **state)
{
	char *text AUTO_FREE = NULL;
	struct memoc_err err = {0};
	struct bytes b;
	struct trace *t;
	int saved = dup(STDIN_FILENO), p[2];
	size_t n;

	text = big_text(&n);
	b = gzip(text, 20000);
	assert_true(b.n < 60000);
	assert_int_equal(pipe(p), 0);
	assert_int_equal(dup2(p[0], STDIN_FILENO), STDIN_FILENO);
	close(p[0]);
	assert_int_equal(write(p[1], b.data, b.n), b.n);
	close(p[1]);
	text[20000] = '\0'; /* the last line is cut: a number may be, too, but not the line before */
	assert_int_equal(trace_read("-", &t, &err), strrchr(text, '\n')[1] ? -EINVAL : 0);
	assert_memory_equal(err.text, "standard input:", 15);
	assert_true(fcntl(STDIN_FILENO, F_GETFD) >= 0);
	assert_int_equal(dup2(saved, STDIN_FILENO), STDIN_FILENO);
	close(saved);
	free(b.data);
}

/* ---- GWA-T-12 ---- */

static void test_gwa_file(void **state)
{
	/* As published: seconds under "[ms]", Java's numbers, a time that comes twice. */
	const char *path = put_text("17.csv", GWA_HEADER
				    "1376314846;\t4;\t11703.9;\t10912.02;\t93.2;\t6.7108864E7;\t6129274.4;\t0.1\n"
				    "1376315146;\t4;\t11703.9;\t10912.02;\t93.2;\t6.7108864E7;\t1.048576E6;\t0.1\n"
				    "1376315146;\t4;\t11703.9;\t10912.02;\t93.2;\t67108864;\t2.097152e+6;\t0.1\n"
				    "1376315446;\t4;\t0;\t0;\t0;\t0.0;\t7;\t0\n"
				    "1376315746;\t4;\t0;\t0;\t0;\t1024;\t4096E-2;\t0\n"
				    "1376316046;\t4;\t0;\t0;\t0;\t1024;\t40.96;\t0\r\n");
	struct trace *t = must_read(path);

	assert_int_equal(t->n, 1);
	assert_string_equal(t->vms[0].name, "17");
	assert_int_equal(t->vms[0].size_bytes, 64 * GIB);
	assert_int_equal(t->vms[0].points[0].demand_bytes, 6276376986); /* 6276376985.6 */
	assert_int_equal(t->duration_ms, 1200000);
	assert_int_equal(t->vms[0].n, 4);
	assert_int_equal(t->vms[0].points[0].time_ms, 0);
	assert_int_equal(t->vms[0].points[1].time_ms, 300000);
	assert_int_equal(t->vms[0].points[1].demand_bytes, 2 * GIB);
	assert_int_equal(t->vms[0].points[2].demand_bytes, 0);
	assert_int_equal(t->vms[0].points[3].demand_bytes, 41943);
	trace_free(t);
}

/* Times: by the first one. */
static void test_gwa_units(void **state)
{
	static const struct {
		const char *first, *second;
		uint64_t ms;
	} cases[] = {
		{"0", "300000", 300000},
		{"99999999", "100000001", 2},
		{"100000000", "100000001", 1000},
		{"99999999", "99999999.6", 1}, /* to the nearest */
		{"1376314846", "1376314846.25", 250},
		{"1376314846000", "1376315146000", 300000},
		{"1.376314846E12", "1376314846001", 1},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char text[300];
		struct trace *t;

		snprintf(text, sizeof(text),
			 "Memory usage [KB];Timestamp [ms];Memory capacity provisioned [KB]\n1;%s;9\n2;%s;9\n",
			 cases[i].first, cases[i].second);
		t = must_read(put_text("vm.csv", text));
		assert_int_equal(t->vms[0].points[0].time_ms, 0);
		assert_int_equal(t->duration_ms, cases[i].ms);
		assert_int_equal(t->vms[0].points[1].demand_bytes, 2048);
		trace_free(t);
	}
}

#define SHORT_HEADER "Timestamp [ms];Memory capacity provisioned [KB];Memory usage [KB]\n"

static void test_gwa_bad(void **state)
{
	static const struct {
		const char *text, *wanted;
	} bad[] = {
		{SHORT_HEADER,
		 ": has no rows; wanted are lines of time_s,vm,size_mib,demand_mib or a file of GWA-T-12"},
		{"Timestamp\n", ":1: the header of GWA-T-12 has no column \"Timestamp [ms]\""},
		{"Timestamp [ms];x\n1;2\n",
		 ":1: the header of GWA-T-12 has no column \"Memory capacity provisioned [KB]\""},
		{"#\nTimestamp [ms]; Memory capacity provisioned [KB]\n",
		 ":2: the header of GWA-T-12 has no column \"Memory usage [KB]\""},
		{"Timestamp [ms];Memory capacity provisioned [KB];Memory usage [KB]; Timestamp [ms]\n",
		 ":1:68: the header has the column \"Timestamp [ms]\" twice"},
		{"Timestamp [ms];;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;\n", ":1: the header has 33 columns; at most 32"},
		{SHORT_HEADER "1;2\n", ":2:4: 2 columns, the header has 3"},
		{SHORT_HEADER "1;2;3;\n", ":2:7: 4 columns, the header has 3"},
		{SHORT_HEADER "1;2;1\n5\n", ":3:2: 1 column, the header has 3"},
		{SHORT_HEADER "-1;2;1\n", ":2:1: Timestamp [ms] \"-1\" is negative"},
		{SHORT_HEADER "1;-2;1\n", ":2:3: Memory capacity provisioned [KB] \"-2\" is negative"},
		{SHORT_HEADER "1; 2;\t-1 \n", ":2:7: Memory usage [KB] \"-1\" is negative"},
		{SHORT_HEADER "1;2;NaN\n", ":2:5: Memory usage [KB] \"NaN\" is not a number such as 512 or 0.25"},
		{SHORT_HEADER "1;2;Infinity\n",
		 ":2:5: Memory usage [KB] \"Infinity\" is not a number such as 512 or 0.25"},
		{SHORT_HEADER "1;2;1E\n", ":2:5: Memory usage [KB] \"1E\" is not a number such as 512 or 0.25"},
		{SHORT_HEADER "1;2;1E-\n", ":2:5: Memory usage [KB] \"1E-\" is not a number such as 512 or 0.25"},
		{SHORT_HEADER "1;2;1E5x\n", ":2:5: Memory usage [KB] \"1E5x\" is not a number such as 512 or 0.25"},
		{SHORT_HEADER "1;2;1E99999999999999\n",
		 ":2:5: Memory usage [KB] \"1E99999999999999\" is too large; at most 68719476736"},
		{SHORT_HEADER "1;6.8719476737E10;1\n",
		 ":2:3: Memory capacity provisioned [KB] \"6.8719476737E10\" is too large; at most 68719476736"},
		{SHORT_HEADER "9E12;2;1\n", ":2:1: Timestamp [ms] \"9E12\" is too large; at most 3155760000000"},
		{SHORT_HEADER "5;2;1\n4;2;1\n",
		 ":3:1: Timestamp [ms] \"4\" is before that of a row above; sort the rows by time"},
		{SHORT_HEADER "1;0;1\n2;0E5;1E-9999999\n", ": no VM there has any memory"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_refused(put_text("bad.csv", bad[i].text), -EINVAL, bad[i].wanted);
	{
		struct memoc_err err;
		struct trace *t;

		assert_int_equal(trace_read(put_text("\x1b\xff", SHORT_HEADER "1;2;1\n"), &t, &err), -EINVAL);
		assert_non_null(strstr(err.text, "/??:1: vm \"??\" has a control character"));
	}
}

static void put_packed(const char *name, struct bytes (*pack)(const void *, size_t), const char *text)
{
	struct bytes b = pack(text, strlen(text));

	put(name, b.data, b.n);
	free(b.data);
}

static void test_gwa_folder(void **state)
{
	struct trace *t;
	char path[400];

	put_packed("10.csv.xz", xz, SHORT_HEADER "1376314900;1024;512\n");
	put_packed("2.csv.gz", gzip, SHORT_HEADER "1376314900;1024;256\n1376315000;1024;1024\n");
	put_packed("3.csv", plain, SHORT_HEADER "1376314850;2048;128\n");
	put_packed("off.csv", plain, SHORT_HEADER "1376314840;0;128\n");
	/* Not looked at. */
	put_text("README", "what this is");
	put_text(".hidden.csv", "junk");
	put_text(".csv", "junk");
	t = must_read(folder);
	assert_written(t, OWN_HEADER "10,3,2,0.125\n60,2,1,0.25\n60,10,1,0.5\n160,2,1,1\n");
	assert_int_equal(t->points_n, 4);
	trace_free(t);
	/* A slash at the end shows once in errors; each file's faults are told, in order. */
	put_text("4.csv", "nothing");
	snprintf(path, sizeof(path), "%s/", folder);
	assert_int_equal(trace_read(path, &t, NULL), -EINVAL);
	{
		struct trace_report report;
		struct memoc_err err;
		char wanted[500];

		put_text("5.csv", SHORT_HEADER);
		put_text("2.csv", SHORT_HEADER "1;1;1\n");
		put_text("6.csv", "0,a,1,1\n");
		put_text("50.csv", "0,a,1,1\n"); /* after 6 */
		assert_int_equal(trace_read_report(path, &t, &report, &err), -EINVAL);
		assert_int_equal(report.n, 5);
		snprintf(wanted, sizeof(wanted), "%s/2.csv.gz:1: there is another file for VM \"2\"; remove one",
			 folder);
		assert_string_equal(report.first[0].text, wanted);
		snprintf(wanted, sizeof(wanted), "%s/4.csv:1: the header of GWA-T-12 has no column \"Timestamp [ms]\"",
			 folder);
		assert_string_equal(report.first[1].text, wanted);
		snprintf(wanted, sizeof(wanted), "%s/5.csv: has no rows;", folder);
		assert_memory_equal(report.first[2].text, wanted, strlen(wanted));
		snprintf(wanted, sizeof(wanted), "%s/6.csv:1: the header of GWA-T-12", folder);
		assert_memory_equal(report.first[3].text, wanted, strlen(wanted));
	}
}

static void test_gwa_folder_oddities(void **state)
{
	struct memoc_err err;
	struct trace *t;
	char path[400];

	put_text("1.csv", SHORT_HEADER "1;1;1\n");
	snprintf(path, sizeof(path), "%s/2.csv", folder);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(trace_read(folder, &t, &err), -EINVAL);
	assert_non_null(strstr(err.text, "/2.csv: is not a file; move it out of the folder"));
	unlink(path);
	assert_int_equal(symlink("nowhere", path), 0);
	assert_int_equal(trace_read(folder, &t, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/2.csv: cannot be opened: No such file"));
	unlink(path);
	put("2.csv", "\x1f\x8b\x08", 3);
	assert_int_equal(trace_read(folder, &t, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "/2.csv: the gzip data end too early"));
}

/* ---- building and writing ---- */

static void test_add(void **state)
{
	struct trace *t = trace_new();
	size_t vm = 77;

	assert_int_equal(trace_add_vm(t, "", 1, &vm), -EINVAL);
	assert_int_equal(trace_add_vm(t, "a", 0, &vm), -EINVAL);
	assert_int_equal(trace_add_vm(t, "a\n", 1, &vm), -EINVAL);
	assert_int_equal(trace_add_vm(t, "a", TRACE_BYTES_MAX + 1, &vm), -E2BIG);
	assert_int_equal(vm, 77);
	assert_int_equal(trace_add(t, 0, 0, 0), -EINVAL);
	assert_int_equal(trace_add_vm(t, "a", 100, &vm), 0);
	assert_int_equal(trace_add(t, 1, 0, 0), -EINVAL);
	assert_int_equal(trace_add(t, 0, 5, 50), 0);
	assert_int_equal(trace_add(t, 0, 4, 50), -EINVAL);
	assert_int_equal(trace_add(t, 0, TRACE_TIME_MAX_MS + 1, 50), -E2BIG);
	assert_int_equal(t->duration_ms, 5);
	assert_int_equal(trace_add(t, 0, 6, 101), 0);
	assert_int_equal(t->vms[0].points[1].demand_bytes, 100);
	assert_int_equal(trace_add(t, 0, 6, 50), 0); /* replaced, and so nothing new any more */
	assert_int_equal(t->vms[0].n, 1);
	assert_int_equal(t->points_n, 1);
	assert_int_equal(trace_add(t, 0, 5, 20), 0); /* the only one there is */
	assert_int_equal(t->vms[0].n, 1);
	assert_int_equal(t->vms[0].points[0].demand_bytes, 20);
	t->points_n = TRACE_POINTS_MAX;
	assert_int_equal(trace_add(t, 0, 7, 20), 0);
	assert_int_equal(trace_add(t, 0, 8, 21), -E2BIG);
	assert_int_equal(t->duration_ms, 7);
	trace_free(t);
}

/* Rows are sorted by time whatever the order of the VMs, and at one time by that order. */
static void test_write_sorts(void **state)
{
	struct trace *t = trace_new();

	for (uint64_t i = 0; i < 7; i++) {
		char name[] = {(char)('a' + i), '\0'};
		size_t vm;

		assert_int_equal(trace_add_vm(t, name, MIB, &vm), 0);
		assert_int_equal(trace_add(t, vm, (7 - i) / 2 * 1000, 0), 0);
	}
	assert_written(t, OWN_HEADER "0,g,1,0\n1,e,1,0\n1,f,1,0\n2,c,1,0\n2,d,1,0\n3,a,1,0\n3,b,1,0\n");
	trace_free(t);
}

static void test_write_fails(void **state)
{
	struct trace *t = trace_new();
	FILE *full = fopen("/dev/full", "we");

	assert_non_null(full);
	assert_int_equal(trace_write(t, full), -ENOSPC);
	fclose(full);
	assert_written(t, OWN_HEADER); /* nothing in it */
	trace_free(t);
}

/* ---- made-up traces ---- */

static uint64_t hash(const char *text, size_t n)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
	return h;
}

static struct trace *made_up(const char *kind, uint64_t size_bytes, uint64_t step_ms, uint64_t seed)
{
	struct generate_options o = {kind, 5, size_bytes, 4 * 3600 * 1000, step_ms, seed};
	struct memoc_err err = {0};
	struct trace *t = NULL;

	assert_int_equal(trace_generate(&o, &t, &err), 0);
	return t;
}

/* What it writes comes back the same through every packing, and is the same bytes on every machine. */
static void test_round_trips(void **state)
{
	static const struct {
		const char *kind;
		uint64_t hash;
	} kinds[] = {
		{"diurnal", UINT64_C(0x243e5d0e8fcb5922)},    {"bursts", UINT64_C(0x211b41b50a133ec7)},
		{"steps", UINT64_C(0x69eed6919040676f)},      {"ramps", UINT64_C(0x4704057149eb5d20)},
		{"sawtooth", UINT64_C(0xebbad3acb4a79df6)},   {"surge", UINT64_C(0x8fdd8ef298f2b187)},
		{"boot-storm", UINT64_C(0xc6be62aae8cd9bcd)},
	};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct trace *t = made_up(kinds[i].kind, 8 * GIB + 12345, 1000, 42);
		char *text AUTO_FREE = NULL;
		size_t n;

		assert_string_equal(generate_kinds[i].name, kinds[i].kind);
		assert_true(generate_kinds[i].what[0]);
		text = written(t, &n);
		if (hash(text, n) != kinds[i].hash)
			print_error("{\"%s\", UINT64_C(0x%" PRIx64 ")},\n", kinds[i].kind, hash(text, n));
		for (size_t k = 0; k < ARRAY_SIZE(packers); k++) {
			struct bytes b = packers[k](text, n);
			struct trace *back = must_read(put("round", b.data, b.n));

			assert_written(back, text);
			assert_int_equal(back->duration_ms, t->duration_ms);
			assert_int_equal(back->points_n, t->points_n);
			free(b.data);
			trace_free(back);
		}
		trace_free(t);
		assert_int_equal(hash(text, n), kinds[i].hash);
	}
	assert_null(generate_kinds[ARRAY_SIZE(kinds)].name);
}

static uint64_t demand_at(const struct trace_vm *v, uint64_t time_ms)
{
	size_t i = 0;

	while (i + 1 < v->n && v->points[i + 1].time_ms <= time_ms)
		i++;
	return v->points[i].time_ms <= time_ms ? v->points[i].demand_bytes : 0;
}

static void assert_plausible(const struct trace *t, uint64_t size_bytes, bool jumps)
{
	uint64_t quantum = max_u64(MIB, size_bytes / 1024 / MIB * MIB);

	for (size_t i = 0; i < t->n; i++) {
		const struct trace_vm *v = &t->vms[i];
		uint64_t least = UINT64_MAX, most = 0;

		assert_int_equal(v->size_bytes, size_bytes);
		for (size_t k = 0; k < v->n; k++) {
			const struct trace_point *p = &v->points[k];

			assert_true(p->demand_bytes >= quantum && p->demand_bytes <= size_bytes);
			assert_int_equal(p->demand_bytes % quantum, 0);
			assert_int_equal(p->time_ms % 1000, 0);
			least = min_u64(least, p->demand_bytes);
			most = max_u64(most, p->demand_bytes);
			if (k > 0 && !jumps)
				assert_true(p->demand_bytes <=
					    p[-1].demand_bytes + quantum +
						    GENERATE_GROWTH_BYTES_PER_S / 1000 * (p->time_ms - p[-1].time_ms));
		}
		assert_true(most - least > size_bytes / 12); /* something happens */
	}
}

static void test_kinds(void **state)
{
	for (const struct generate_kind *k = generate_kinds; k->name; k++) {
		static const uint64_t sizes[] = {GENERATE_SIZE_MIN_BYTES, 8 * GIB, 512 * GIB};
		struct trace *t = NULL, *other;
		char *a AUTO_FREE = NULL, *b AUTO_FREE = NULL;
		size_t n;

		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			trace_free(t);
			t = made_up(k->name, sizes[i], 1000, 7);
			assert_int_equal(t->duration_ms, 4 * 3600 * 1000);
			assert_string_equal(t->vms[4].name, "vm5");
			assert_plausible(t, sizes[i], strcmp(k->name, "steps") == 0);
		}
		/* Other seeds make other traces; VMs of one trace differ. */
		other = made_up(k->name, sizes[2], 1000, 8);
		a = written(t, &n);
		b = written(other, &n);
		assert_string_not_equal(a, b);
		assert_true(t->vms[0].n != t->vms[1].n ||
			    t->vms[0].points[0].demand_bytes != t->vms[1].points[0].demand_bytes);
		trace_free(other);
		/* A longer step only looks less often. */
		other = made_up(k->name, sizes[2], 20000, 7);
		for (uint64_t at = 0; at <= t->duration_ms; at += 20000)
			for (size_t i = 0; i < t->n; i++)
				if (at >= other->vms[i].points[0].time_ms)
					assert_int_equal(demand_at(&t->vms[i], at), demand_at(&other->vms[i], at));
		trace_free(other);
		trace_free(t);
	}
}

/* Share of the time, in percent, in which every VM has more than half of its size in use. */
static unsigned all_high(const struct trace *t)
{
	unsigned high = 0, looks = 0;

	for (uint64_t at = 0; at <= t->duration_ms; at += 10000, looks++) {
		bool all = true;

		for (size_t i = 0; i < t->n; i++)
			all = all && demand_at(&t->vms[i], at) > t->vms[i].size_bytes / 2;
		high += all;
	}
	return high * 100 / looks;
}

static void test_together(void **state)
{
	struct trace *t = made_up("surge", 8 * GIB, 1000, 3);

	assert_in_range(all_high(t), 10, 60);
	trace_free(t);
	t = made_up("bursts", 8 * GIB, 1000, 3);
	assert_int_equal(all_high(t), 0);
	trace_free(t);
}

/* One after the other within two minutes, each with a peak that goes away; then, after an hour or two, again. */
static void test_boot_storm(void **state)
{
	struct trace *t = made_up("boot-storm", 8 * GIB, 1000, 3);

	for (size_t i = 0; i < t->n; i++) {
		const struct trace_vm *v = &t->vms[i];
		uint64_t begin = v->points[0].time_ms, peak = 0, reboots = 0;

		assert_in_range(begin, 24000 * i, 24000 * (i + 1) + 1000);
		assert_true(v->points[0].demand_bytes < v->size_bytes / 10); /* of the first second */
		for (size_t k = 0; v->points[k].time_ms < begin + 60000; k++)
			peak = max_u64(peak, v->points[k].demand_bytes);
		assert_true(peak > v->size_bytes / 3);
		assert_true(demand_at(v, begin + 10 * 60000) < v->size_bytes / 3);
		for (size_t k = 1; k < v->n; k++)
			reboots += v->points[k].demand_bytes < v->size_bytes / 12 &&
				   v->points[k - 1].demand_bytes > v->size_bytes / 8;
		assert_in_range(reboots, 1, 4);
	}
	trace_free(t);
}

static void test_diurnal(void **state)
{
	struct generate_options o = {"diurnal", 4, 8 * GIB, UINT64_C(7) * 24 * 3600 * 1000, 600000, 5};
	const uint64_t hour = 3600 * 1000;
	struct trace *t;

	assert_int_equal(trace_generate(&o, &t, NULL), 0);
	for (size_t i = 0; i < t->n; i++) {
		uint64_t day = demand_at(&t->vms[i], 4 * hour + hour / 2),
			 night = demand_at(&t->vms[i], 16 * hour + hour / 2);

		assert_true(day > night + 2 * GIB);
		/* the same on the next day, a third of it at the weekend */
		assert_in_range(demand_at(&t->vms[i], 28 * hour + hour / 2), day - GIB / 3, day + GIB / 3);
		assert_true(demand_at(&t->vms[i], (5 * 24 + 4) * hour + hour / 2) < night + (day - night) / 2);
	}
	trace_free(t);
}

static void test_generate_refuses(void **state)
{
	static const struct {
		struct generate_options o;
		int code;
		const char *wanted;
	} bad[] = {
		{{"noise", 1, GIB, 1000, 1000, 1},
		 -EINVAL,
		 "no kind of trace is called \"noise\"; there are diurnal, bursts, steps, ramps, sawtooth, surge, "
		 "boot-storm"},
		{{"steps", 0, GIB, 1000, 1000, 1}, -EINVAL, "0 VMs cannot be made up; 1 to 100000 can"},
		{{"steps", 100001, GIB, 1000, 1000, 1}, -EINVAL, "100001 VMs cannot be made up; 1 to 100000 can"},
		{{"steps", 1, GENERATE_SIZE_MIN_BYTES - 1, 1000, 1000, 1},
		 -EINVAL,
		 "a VM's size must be 16 MiB to 64 TiB"},
		{{"steps", 1, TRACE_BYTES_MAX + 1, 1000, 1000, 1}, -EINVAL, "a VM's size must be 16 MiB to 64 TiB"},
		{{"steps", 1, GIB, 1000, 0, 1}, -EINVAL, "the step must be more than 0 and not more than the duration"},
		{{"steps", 1, GIB, 1000, 1001, 1},
		 -EINVAL,
		 "the step must be more than 0 and not more than the duration"},
		{{"steps", 1, GIB, TRACE_TIME_MAX_MS + 1, 1000, 1},
		 -EINVAL,
		 "the duration must not be more than 100 years"},
		{{"steps", 100000, GIB, TRACE_TIME_MAX_MS, TRACE_TIME_MAX_MS, 1},
		 -E2BIG,
		 "that would take too long; ask for fewer VMs, a shorter time or a longer step"},
		{{"steps", 1, GIB, 4000000001, 1, 1},
		 -E2BIG,
		 "that would take too long; ask for fewer VMs, a shorter time or a longer step"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct trace *t = (struct trace *)&folder;
		struct memoc_err err = {0};

		assert_int_equal(trace_generate(&bad[i].o, &t, &err), bad[i].code);
		assert_string_equal(err.text, bad[i].wanted);
		assert_ptr_equal(t, &folder);
	}
}

/* The least there can be, in steps that fit neither a second nor the duration. */
static void test_generate_small(void **state)
{
	for (const struct generate_kind *k = generate_kinds; k->name; k++) {
		struct generate_options o = {k->name, 3, GENERATE_SIZE_MIN_BYTES, 10, 7, 1};
		struct trace *t;

		for (int i = 0; i < 2; i++, o.size_bytes = TRACE_BYTES_MAX) {
			assert_int_equal(trace_generate(&o, &t, NULL), 0);
			assert_int_equal(t->duration_ms, 10);
			assert_true(t->vms[0].n >= 1 && t->vms[2].n >= 1);
			trace_free(t);
		}
	}
}

/* ---- no memory ---- */

/* As in test_alloc: each allocation fails once. */
static void sweep(int (*op)(void))
{
	size_t n;

	for (n = 1; n < 2000; n++) {
		long before = alloc_live();
		int r;

		alloc_fail_at(n);
		r = op();
		if (!alloc_fail_end()) {
			assert_int_equal(r, 0);
			break;
		}
		assert_int_equal(r, -ENOMEM);
		assert_int_equal(alloc_live() - before, 0);
	}
	assert_in_range(n, 3, 1999);
}

static char sweep_path[400];

static int op_read(void)
{
	struct trace *t = NULL;
	struct memoc_err err = {0};
	int r = trace_read(sweep_path, &t, &err);

	assert_true((r == 0) == (t != NULL));
	assert_true((r == 0) == !err.text[0]);
	if (r < 0)
		assert_non_null(strstr(err.text, "memory"));
	trace_free(t);
	return r;
}

static int op_write(void)
{
	struct trace *t = must_read(sweep_path);
	FILE *f = fopen("/dev/null", "we");
	int r;

	alloc_fail_at(2); /* the second of the writer's own */
	r = trace_write(t, f);
	assert_true(alloc_fail_end());
	assert_int_equal(r, -ENOMEM);
	fclose(f);
	trace_free(t);
	return 0;
}

static int op_generate(void)
{
	struct generate_options o = {"bursts", 40, GIB, 600000, 1000, 1};
	struct trace *t = NULL;
	struct memoc_err err = {0};
	int r = trace_generate(&o, &t, &err);

	assert_true((r == 0) == (t != NULL));
	if (r < 0)
		assert_string_equal(err.text, "out of memory for the trace; ask for a longer step");
	trace_free(t);
	return r;
}

static void test_no_memory(void **state)
{
	char text[20000] = "";
	size_t at = 0;

	for (int i = 0; i < 1200; i++) /* the table of names grows */
		at += (size_t)snprintf(text + at, sizeof(text) - at, "0,%d,1,%d\n", i % 600, i / 600);
	for (size_t i = 0; i < ARRAY_SIZE(packers); i++) {
		struct bytes b = packers[i](text, at);

		strcpy(sweep_path, put("sweep", b.data, b.n));
		free(b.data);
		sweep(op_read);
	}
	op_write();
	put_text("1.csv", SHORT_HEADER "1;1;1\n");
	strcpy(sweep_path, put_text("2.csv", SHORT_HEADER "1;1;1\n"));
	sweep(op_read);
	sweep(op_generate);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_FOLDER(test_own),
		IN_FOLDER(test_own_without_header),
		IN_FOLDER(test_names),
		IN_FOLDER(test_numbers),
		IN_FOLDER(test_bytes_come_back),
		IN_FOLDER(test_bad_rows),
		IN_FOLDER(test_many_faults),
		IN_FOLDER(test_limits),
		IN_FOLDER(test_not_there),
		IN_FOLDER(test_members),
		IN_FOLDER(test_damaged),
		IN_FOLDER(test_xz_wants_memory),
		IN_FOLDER(test_standard_input),
		IN_FOLDER(test_gwa_file),
		IN_FOLDER(test_gwa_units),
		IN_FOLDER(test_gwa_bad),
		IN_FOLDER(test_gwa_folder),
		IN_FOLDER(test_gwa_folder_oddities),
		cmocka_unit_test(test_add),
		cmocka_unit_test(test_write_sorts),
		cmocka_unit_test(test_write_fails),
		IN_FOLDER(test_round_trips),
		cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_together),
		cmocka_unit_test(test_boot_storm),
		cmocka_unit_test(test_diurnal),
		cmocka_unit_test(test_generate_refuses),
		cmocka_unit_test(test_generate_small),
		IN_FOLDER(test_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
