/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Facts from domain XML as libvirt writes it, and from XML that somebody made to hurt. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/domxml.h"

#define UUID "c7a5fdbd-edaf-9455-926a-d65c16db1809"
#define IDENTITY "<name>web1</name><uuid>" UUID "</uuid>"
#define HEAD "<domain type='kvm'>" IDENTITY
#define MEMORY "<memory unit='KiB'>1048576</memory>"
#define POLICY(attrs) "<metadata><memoc:policy xmlns:memoc='" VMPOLICY_XMLNS "' " attrs "/></metadata>"
#define DEVICES(xml) HEAD MEMORY "<devices>" xml "</devices></domain>"

static void parse_ok(const char *xml, struct dom_facts *f)
{
	struct memoc_err err = {""};
	int r = domxml_parse(xml, strlen(xml), f, &err);

	if (r)
		fail_msg("%d: %s\n%s", r, err.text, xml);
}

/* Refused with that code, a text that has `says` in it, and without touching the output. */
static void parse_bad(const char *xml, size_t len, int code, const char *says)
{
	struct dom_facts f, before;
	struct memoc_err err = {""};
	int r;

	memset(&f, 0x5a, sizeof(f));
	before = f;
	r = domxml_parse(xml, len, &f, &err);
	if (r != code || !strstr(err.text, says))
		fail_msg("%d \"%s\" instead of %d \"%s\" for %.300s", r, err.text, code, says, xml);
	assert_memory_equal(&f, &before, sizeof(f));
}

/* ---- what libvirt writes ---- */

static void test_live_xml(void **state)
{
	static const char xml[] =
		"<domain type='qemu' id='3'>\n  <name>web1</name>\n  "
		"<uuid>C7A5FDBD-edaf-9455-926a-d65c16db1809</uuid>\n"
		"  <title>a &lt;b&gt; &amp; c</title>\n" POLICY(
			"min='512M' max='1G' weight='250' swap='no'") "  <memory unit='KiB'>2097152</memory>\n  "
								      "<currentMemory "
								      "unit='KiB'>1048576</currentMemory>\n"
								      "  <memoryBacking><source type='memfd'/><access "
								      "mode='shared'/></memoryBacking>\n"
								      "  <vcpu placement='static' "
								      "current='2'>4</vcpu>\n"
								      "  <features><acpi/><tcg><tb-cache "
								      "unit='MiB'>32</tb-cache></tcg></features>\n"
								      "  "
								      "<devices><emulator>/usr/bin/qemu-system-x86_64</"
								      "emulator>\n"
								      "    <interface type='vhostuser'><mac "
								      "address='52:54:00:00:00:01'/></interface>\n"
								      "    <hostdev mode='subsystem' "
								      "type='usb'/><hostdev mode='subsystem' "
								      "type='scsi'/>\n"
								      "    <disk type='file' device='disk'><target "
								      "dev='vda'/></disk>\n"
								      "    <memballoon model='virtio' "
								      "freePageReporting='on'><stats "
								      "period='10'/></memballoon>\n"
								      "  </devices>\n</domain>\n";
	struct dom_facts f;

	parse_ok(xml, &f);
	assert_string_equal(f.name, "web1");
	assert_string_equal(f.uuid, UUID);
	assert_true(f.max_bytes == 2 * GIB && f.current_bytes == GIB);
	assert_int_equal(f.vcpus, 2);
	assert_true(f.has_balloon && f.free_page_reporting && f.tcg && f.shared_memory);
	assert_int_equal(f.stats_period_s, 10);
	assert_true(f.tb_cache_bytes == 32 * MIB);
	assert_int_equal(f.ineligible, DOM_ELIGIBLE);
	assert_string_equal(f.ineligible_detail, "");
	assert_false(f.policy_bad);
	assert_true(f.policy.managed && f.policy.balloon && !f.policy.swap);
	assert_true(f.policy.min_bytes == 512 * MIB && f.policy.max_bytes == GIB);
	assert_int_equal(f.policy.weight, 250);
}

static void test_least_xml(void **state)
{
	struct dom_facts f;

	parse_ok(HEAD MEMORY "</domain>", &f);
	assert_true(f.max_bytes == GIB && f.current_bytes == GIB);
	assert_int_equal(f.vcpus, 1);
	assert_false(f.has_balloon || f.free_page_reporting || f.tcg || f.shared_memory || f.policy_bad);
	assert_int_equal(f.stats_period_s, 0);
	assert_true(f.tb_cache_bytes == 0);
	assert_int_equal(f.ineligible, DOM_ELIGIBLE);
	assert_true(f.policy.managed && f.policy.weight == 100);
}

static void test_text_forms(void **state)
{
	struct dom_facts f;

	parse_ok("<?xml version='1.0' encoding='UTF-16'?><!-- c --><domain "
		 "type='kvm'><name><![CDATA[a<b]]>&amp;&#x43;</name>"
		 "<uuid>\n " UUID "\n</uuid><memory>10<!-- c -->24</memory><vcpu>\t8 </vcpu></domain>",
		 &f);
	assert_string_equal(f.name, "a<b&C");
	assert_true(f.max_bytes == MIB);
	assert_int_equal(f.vcpus, 8);
}

static void test_memory_units(void **state)
{
	static const struct {
		const char *unit;
		uint64_t bytes; /* of 3 units */
	} good[] = {
		{"", 3 * KIB},
		{"unit=''", 3 * KIB},
		{"unit='b'", 3},
		{"unit='bytes'", 3},
		{"unit='byte'", 3},
		{"unit='KB'", 3000},
		{"unit='k'", 3 * KIB},
		{"unit='KiB'", 3 * KIB},
		{"unit='kib'", 3 * KIB},
		{"unit='MB'", 3000000},
		{"unit='M'", 3 * MIB},
		{"unit='MiB'", 3 * MIB},
		{"unit='GB'", UINT64_C(3000000000)},
		{"unit='G'", 3 * GIB},
		{"unit='GiB'", 3 * GIB},
		{"unit='TB'", UINT64_C(3000000000000)},
		{"unit='T'", 3 * 1024 * GIB},
		{"unit='TiB'", 3 * 1024 * GIB},
		{"unit='PB'", UINT64_C(3000000000000000)},
		{"unit='PiB'", 3 * MIB * GIB},
		{"unit='EB'", UINT64_C(3000000000000000000)},
		{"unit='EiB'", 3 * GIB * GIB},
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		char xml[512];
		struct dom_facts f;

		snprintf(xml, sizeof(xml), HEAD "<memory %s>3</memory></domain>", good[i].unit);
		parse_ok(xml, &f);
		if (f.max_bytes != good[i].bytes)
			fail_msg("%s: %llu", good[i].unit, (unsigned long long)f.max_bytes);
	}
}

static void test_current_above_memory(void **state)
{
	struct dom_facts f;

	parse_ok(HEAD MEMORY "<currentMemory unit='GiB'>7</currentMemory></domain>", &f);
	assert_true(f.current_bytes == GIB);
}

static void test_balloon_models(void **state)
{
	static const struct {
		const char *xml;
		bool has;
	} cases[] = {
		{"<memballoon model='virtio'/>", true},
		{"<memballoon model='virtio-transitional'/>", true},
		{"<memballoon model='virtio-non-transitional'/>", true},
		{"<memballoon model='none'/>", false},
		{"<memballoon model='xen'/>", false},
		{"<memballoon/>", false},
		{"", false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char xml[512];
		struct dom_facts f;

		snprintf(xml, sizeof(xml), DEVICES("%s"), cases[i].xml);
		parse_ok(xml, &f);
		assert_int_equal(f.has_balloon, cases[i].has);
	}
}

static void test_shared_memory(void **state)
{
	static const struct {
		const char *xml;
		bool shared;
	} cases[] = {
		{"<memoryBacking><source type='memfd'/></memoryBacking>", true},
		{"<memoryBacking><source type='memfd'/><access mode='private'/></memoryBacking>", false},
		{"<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>", true},
		{"<memoryBacking><source type='file'/></memoryBacking>", false},
		{"<memoryBacking><source type='anonymous'/></memoryBacking>", false},
		{"<cpu><numa><cell id='0' memAccess='private'/><cell id='1' memAccess='shared'/></numa></cpu>", true},
		{"<cpu><numa><cell id='0'/></numa></cpu>", false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char xml[512];
		struct dom_facts f;

		snprintf(xml, sizeof(xml), HEAD MEMORY "%s</domain>", cases[i].xml);
		parse_ok(xml, &f);
		if (f.shared_memory != cases[i].shared)
			fail_msg("%s", cases[i].xml);
	}
}

/* ---- eligibility ---- */

static void test_ineligible(void **state)
{
	static const struct {
		const char *xml;
		enum dom_ineligible why;
		const char *detail;
	} cases[] = {
		{DEVICES("<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' "
			 "bus='0x65' "
			 "slot='0x00' function='0x1'/></source></hostdev>"),
		 DOM_VFIO, "hostdev pci 0000:65:00.1"},
		{DEVICES("<hostdev mode='subsystem' type='mdev'><source><address uuid='" UUID "'/></source></hostdev>"),
		 DOM_VFIO, "hostdev mdev " UUID},
		{DEVICES("<hostdev type='pci'/>"), DOM_VFIO, "hostdev pci"},
		{DEVICES("<hostdev type='usb'/><hostdev type='scsi'/><hostdev type='pci'/>"), DOM_VFIO, "hostdev pci"},
		{DEVICES("<interface type='hostdev'><mac address='52:54:00:12:34:56'/></interface>"), DOM_VFIO,
		 "interface hostdev 52:54:00:12:34:56"},
		{DEVICES("<interface type='network'><actual type='hostdev'/></interface>"), DOM_VFIO,
		 "interface hostdev"},
		{DEVICES("<interface type='vdpa'/>"), DOM_VFIO, "interface vdpa"},
		{DEVICES("<disk type='vhostvdpa'><target dev='vdb'/></disk>"), DOM_VFIO, "disk vhostvdpa vdb"},
		{DEVICES("<disk type='nvme'><target dev='vdc'/></disk>"), DOM_VFIO, "disk nvme vdc"},
		{DEVICES("<disk type='vhostuser'/><interface type='vhostuser'/><hostdev type='scsi_host'/>"),
		 DOM_ELIGIBLE, ""},
		{HEAD MEMORY "<memoryBacking><hugepages><page size='2' unit='M'/></hugepages></memoryBacking></domain>",
		 DOM_HUGEPAGES, "memoryBacking hugepages"},
		{HEAD MEMORY "<memoryBacking><locked/></memoryBacking></domain>", DOM_LOCKED, "memoryBacking locked"},
		{HEAD MEMORY "<memoryBacking><nosharepages/></memoryBacking></domain>", DOM_ELIGIBLE, ""},
		{HEAD MEMORY "<launchSecurity type='sev'/></domain>", DOM_SEV, "launchSecurity sev"},
		{HEAD MEMORY "<launchSecurity type='sev-snp'/></domain>", DOM_SEV, "launchSecurity sev-snp"},
		{HEAD MEMORY "<launchSecurity type='s390-pv'/></domain>", DOM_SEV, "launchSecurity s390-pv"},
		{HEAD MEMORY POLICY("managed='no'") "</domain>", DOM_UNMANAGED, "policy managed=\"no\""},
		/* what the machine cannot do goes first */
		{HEAD MEMORY POLICY("managed='no'") "<memoryBacking><locked/></memoryBacking></domain>", DOM_LOCKED,
		 "memoryBacking locked"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct dom_facts f;

		parse_ok(cases[i].xml, &f);
		if (f.ineligible != cases[i].why || strcmp(f.ineligible_detail, cases[i].detail))
			fail_msg("%d \"%s\" for %s", (int)f.ineligible, f.ineligible_detail, cases[i].xml);
	}
}

/* Elements count only at their own place and without a foreign namespace. */
static void test_elsewhere_is_nothing(void **state)
{
	static const char *const cases[] = {
		HEAD MEMORY
		"<metadata><hostdev type='pci'/><memoryBacking><locked/></memoryBacking></metadata></domain>",
		HEAD MEMORY "<hostdev type='pci'/></domain>",
		DEVICES("<controller><hostdev type='pci'/></controller>"),
		DEVICES("<x:hostdev xmlns:x='urn:x' type='pci'/>"),
		DEVICES("<hostdev xmlns:x='urn:x' x:type='pci'/>"),
		HEAD MEMORY "<description>&lt;memoryBacking&gt;&lt;locked/&gt;</description></domain>",
		"<domain>" MEMORY "<metadata><a><b><name>evil</name></b></a></metadata>" IDENTITY "</domain>",
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct dom_facts f;

		parse_ok(cases[i], &f);
		assert_string_equal(f.name, "web1");
		if (f.ineligible != DOM_ELIGIBLE)
			fail_msg("%s: %s", f.ineligible_detail, cases[i]);
	}
}

static void test_ineligible_texts(void **state)
{
	for (int why = DOM_VFIO; why <= DOM_UNMANAGED; why++)
		assert_true(strlen(dom_ineligible_text((enum dom_ineligible)why)) > 10);
	assert_string_equal(dom_ineligible_text(DOM_ELIGIBLE), "");
	assert_string_equal(dom_ineligible_text((enum dom_ineligible)0), "");
	assert_string_equal(dom_ineligible_text((enum dom_ineligible)99), "");
}

static void test_detail_is_one_printable_line(void **state)
{
	char xml[1024];
	char which[400];
	struct dom_facts f;

	memset(which, 'x', sizeof(which) - 1);
	which[sizeof(which) - 1] = '\0';
	snprintf(xml, sizeof(xml), DEVICES("<disk type='nvme'><target dev='&#10;&#9;&#27;[31m%s'/></disk>"), which);
	parse_bad(xml, strlen(xml), -EINVAL, "line 1"); /* ESC is not XML at all */
	snprintf(xml, sizeof(xml), DEVICES("<disk type='nvme'><target dev='&#10;&#9;%s'/></disk>"), which);
	parse_ok(xml, &f);
	assert_int_equal(f.ineligible, DOM_VFIO);
	assert_true(strlen(f.ineligible_detail) < sizeof(f.ineligible_detail));
	assert_null(strpbrk(f.ineligible_detail, "\n\t"));
}

/* ---- policy ---- */

static void test_policy_bad_keeps_the_vm(void **state)
{
	static const struct {
		const char *xml, *says;
	} cases[] = {
		{POLICY("weight='0'"), "weight=\"0\""},
		{POLICY("min='many'"), "min=\"many\""},
		{POLICY("wieght='5'"), "wieght"},
		{POLICY("min='512M' max='256M'"), "min=\"512M\" is above max=\"256M\""},
		{POLICY("min='2G'"), "above the VM's memory of 1 GiB"},
		{"<metadata><p:policy xmlns:p='" VMPOLICY_XMLNS "' weight='5'/><q:policy xmlns:q='" VMPOLICY_XMLNS
		 "' weight='6'/></metadata>",
		 "more than one"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char xml[1024];
		struct dom_facts f;

		snprintf(xml, sizeof(xml), HEAD MEMORY "%s</domain>", cases[i].xml);
		parse_ok(xml, &f);
		assert_true(f.policy_bad);
		if (!strstr(f.policy_err.text, cases[i].says))
			fail_msg("\"%s\" does not say \"%s\"", f.policy_err.text, cases[i].says);
		assert_true(f.policy.managed && f.policy.min_bytes == 0 && f.policy.max_bytes == 0);
		assert_int_equal(f.policy.weight, 100);
		assert_int_equal(f.ineligible, DOM_ELIGIBLE);
	}
}

/* The namespace decides, not the prefix; others' elements and attributes are not ours. */
static void test_policy_namespace(void **state)
{
	static const struct {
		const char *xml;
		unsigned weight;
	} cases[] = {
		{"<metadata><policy xmlns='" VMPOLICY_XMLNS "' weight='7'/></metadata>", 7},
		{"<metadata><x:policy xmlns:x='" VMPOLICY_XMLNS
		 "' xmlns:y='urn:y' y:weight='9' weight='8'/></metadata>",
		 8},
		{"<metadata><policy weight='7'/></metadata>", 100},
		{"<metadata><memoc:policy xmlns:memoc='https://memoc.org/xmlns/policy/2.0' weight='7'/></metadata>",
		 100},
		{"<metadata><memoc:other xmlns:memoc='" VMPOLICY_XMLNS "' weight='7'/></metadata>", 100},
		{"<metadata><a><memoc:policy xmlns:memoc='" VMPOLICY_XMLNS "' weight='7'/></a></metadata>", 100},
		{"<memoc:policy xmlns:memoc='" VMPOLICY_XMLNS "' weight='7'/>", 100},
		{POLICY("weight=''"), 100},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char xml[1024];
		struct dom_facts f;

		snprintf(xml, sizeof(xml), HEAD MEMORY "%s</domain>", cases[i].xml);
		parse_ok(xml, &f);
		assert_false(f.policy_bad);
		if (f.policy.weight != cases[i].weight)
			fail_msg("weight %u: %s", (unsigned)f.policy.weight, cases[i].xml);
	}
}

static void test_parse_policy(void **state)
{
	static const char *const good[] = {
		"<policy weight='7'/>",
		"<memoc:policy xmlns:memoc='" VMPOLICY_XMLNS "' weight='7'/>",
		"<policy xmlns='" VMPOLICY_XMLNS "' weight='7'>text</policy>",
	};
	static const struct {
		const char *xml, *says;
	} bad[] = {
		{"<policy weight='-7'/>", "weight=\"-7\""},
		{"<policy min='2G' max='1G'/>", "min=\"2G\" is above max=\"1G\""},
		{"<policies/>", "policies"},
		{"<x:policy xmlns:x='urn:x'/>", VMPOLICY_XMLNS},
		{"<policy", "well-formed"},
		{"", "empty"},
		{"<!DOCTYPE policy><policy/>", "DOCTYPE"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct vmpolicy p;

		assert_int_equal(domxml_parse_policy(good[i], strlen(good[i]), &p, NULL), 0);
		assert_int_equal(p.weight, 7);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vmpolicy p = {.weight = 55};
		struct memoc_err err = {""};

		assert_int_equal(domxml_parse_policy(bad[i].xml, strlen(bad[i].xml), &p, &err), -EINVAL);
		if (!strstr(err.text, bad[i].says))
			fail_msg("\"%s\" does not say \"%s\"", err.text, bad[i].says);
		assert_int_equal(p.weight, 55);
	}
}

/* ---- hostile ---- */

static void test_refused(void **state)
{
	static const struct {
		const char *xml, *says;
	} cases[] = {
		{"", "empty"},
		{"   ", "well-formed"},
		{"web1", "well-formed"},
		{"<domain", "well-formed"},
		{HEAD MEMORY, "well-formed"},
		{HEAD MEMORY "</domain><domain/>", "well-formed"},
		{HEAD MEMORY "&undeclared;</domain>", "well-formed"},
		{"<domainsnapshot/>", "domainsnapshot"},
		{"<domain xmlns='urn:x'>" IDENTITY MEMORY "</domain>", "no libvirt <domain>"},
		{"<domain>" MEMORY "</domain>", "<name>"},
		{"<domain><name>a</name>" MEMORY "</domain>", "<uuid>"},
		{"<domain><name> </name><uuid>" UUID "</uuid>" MEMORY "</domain>", "<name> is empty"},
		{"<domain><name>a</name><uuid>123</uuid>" MEMORY "</domain>", "<uuid>"},
		{HEAD "</domain>", "no <memory>"},
		{HEAD "<memory/></domain>", "<memory>"},
		{HEAD "<memory>0</memory></domain>", "0"},
		{HEAD "<memory>-1</memory></domain>", "<memory>"},
		{HEAD "<memory>1e6</memory></domain>", "<memory>"},
		{HEAD "<memory unit='KiBs'>1</memory></domain>", "KiBs"},
		{HEAD "<memory unit='Z'>1</memory></domain>", "unit=\"Z\""},
		{HEAD "<memory unit='KiB '>1</memory></domain>", "unit"},
		{HEAD "<memory unit='EiB'>8</memory></domain>", "too large"},
		{HEAD "<memory unit='b'>9223372036854775808</memory></domain>", "too large"},
		{HEAD "<memory unit='KiB'>18446744073709551615</memory></domain>", "too large"},
		{HEAD "<memory unit='KiB'>18446744073709551616</memory></domain>", "<memory>"},
		{HEAD "<memory>00000000000000000000000000000000000000000000000000000000000000000001</memory></domain>",
		 "longer"},
		{HEAD MEMORY "<currentMemory>x</currentMemory></domain>", "<currentMemory>"},
		{HEAD MEMORY "<vcpu>0</vcpu></domain>", "<vcpu>"},
		{HEAD MEMORY "<vcpu current='many'>4</vcpu></domain>", "<vcpu"},
		{HEAD MEMORY "<vcpu>70000</vcpu></domain>", "70000"},
		{HEAD MEMORY "<features><tcg><tb-cache unit='x'>1</tb-cache></tcg></features></domain>", "tb-cache"},
		{DEVICES("<memballoon model='virtio'><stats period='often'/></memballoon>"), "often"},
		{DEVICES("<memballoon model='virtio'><stats period='4294967297'/></memballoon>"), "4294967297"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		parse_bad(cases[i].xml, strlen(cases[i].xml), -EINVAL, cases[i].says);
}

static void test_doctype(void **state)
{
	static const char *const cases[] = {
		"<!DOCTYPE domain>" HEAD MEMORY "</domain>",
		"<!DOCTYPE domain SYSTEM 'file:///etc/passwd'>" HEAD MEMORY "</domain>",
		"<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>" HEAD MEMORY "<title>&x;</title></domain>",
		"<!DOCTYPE domain [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>"
		"<!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'><!ENTITY d '&c;&c;&c;&c;&c;&c;&c;&c;'>"
		"<!ENTITY e '&d;&d;&d;&d;&d;&d;&d;&d;'><!ENTITY f '&e;&e;&e;&e;&e;&e;&e;&e;'>"
		"<!ENTITY g '&f;&f;&f;&f;&f;&f;&f;&f;'><!ENTITY h '&g;&g;&g;&g;&g;&g;&g;&g;'>]>" HEAD MEMORY
		"<title>&h;</title></domain>",
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		parse_bad(cases[i], strlen(cases[i]), -EINVAL, "DOCTYPE");
}

static void test_nul_byte(void **state)
{
	static const char inside[] = HEAD MEMORY "</domain>\0<evil/>";

	parse_bad(inside, sizeof(inside) - 1, -EINVAL, "NUL");
	parse_bad("\0", 1, -EINVAL, "NUL");
}

/* Every cut of a good text is refused, and nothing is read behind its end (the sanitizers look). */
static void test_truncated(void **state)
{
	static const char xml[] = DEVICES("<memballoon model='virtio'><stats period='10'/></memballoon>");

	for (size_t len = 0; len < sizeof(xml) - 1; len++) {
		char *cut = malloc(len + !len);

		assert_non_null(cut);
		memcpy(cut, xml, len);
		parse_bad(cut, len, -EINVAL, "");
		free(cut);
	}
}

static char *domain_with_title(size_t bytes, size_t *ret_len)
{
	static const char head[] = HEAD MEMORY "<title>", tail[] = "</title></domain>";
	char *xml = malloc(bytes);

	assert_non_null(xml);
	memset(xml, 'x', bytes);
	memcpy(xml, head, sizeof(head) - 1);
	memcpy(xml + bytes - (sizeof(tail) - 1), tail, sizeof(tail) - 1);
	*ret_len = bytes;
	return xml;
}

static void test_size_limit(void **state)
{
	size_t len;
	char *most AUTO_FREE = domain_with_title(DOMXML_BYTES_MAX, &len), *more AUTO_FREE = NULL;
	struct dom_facts f;

	assert_int_equal(domxml_parse(most, len, &f, NULL), 0);
	more = domain_with_title(DOMXML_BYTES_MAX + 1, &len);
	parse_bad(more, len, -E2BIG, "4194304");
}

static void test_name_limit(void **state)
{
	char xml[1024], name[DOMXML_NAME_MAX + 1];
	struct dom_facts f;

	memset(name, 'n', sizeof(name));
	name[DOMXML_NAME_MAX - 1] = '\0';
	snprintf(xml, sizeof(xml), "<domain><name>%s</name><uuid>" UUID "</uuid>" MEMORY "</domain>", name);
	parse_ok(xml, &f);
	assert_string_equal(f.name, name);
	name[DOMXML_NAME_MAX - 1] = 'n';
	name[DOMXML_NAME_MAX] = '\0';
	snprintf(xml, sizeof(xml), "<domain><name>%s</name><uuid>" UUID "</uuid>" MEMORY "</domain>", name);
	parse_bad(xml, strlen(xml), -EINVAL, "<name> is longer");
}

/* 100,000 elements deep: libxml2's own limit (256) must end it, not the stack. */
static void test_deep(void **state)
{
	const size_t depth = 100000, size = depth * 9 + 1;
	char *xml AUTO_FREE = malloc(size);

	assert_non_null(xml);
	for (size_t i = 0; i < depth; i++)
		memcpy(xml + i * 9, "<hostdev>", 9);
	xml[size - 1] = '\0';
	parse_bad(xml, size - 1, -EINVAL, "well-formed");
}

static void test_many_devices(void **state)
{
	const size_t devices = 20000;
	static const char one[] = "<hostdev type='usb'/>", tail[] = "<hostdev type='pci'/></devices></domain>";
	char *xml AUTO_FREE = malloc(1024 + devices * sizeof(one));
	size_t len;
	struct dom_facts f;

	assert_non_null(xml);
	len = (size_t)sprintf(xml, HEAD MEMORY "<devices>");
	for (size_t i = 0; i < devices; i++, len += sizeof(one) - 1)
		memcpy(xml + len, one, sizeof(one) - 1);
	memcpy(xml + len, tail, sizeof(tail));
	parse_ok(xml, &f);
	assert_int_equal(f.ineligible, DOM_VFIO);
}

/* ---- threads ---- */

static void *parse_often(void *arg)
{
	static const char xml[] = DEVICES("<memballoon model='virtio'/>");

	for (int i = 0; i < 200; i++) {
		struct dom_facts f;

		if (domxml_parse(xml, sizeof(xml) - 1, &f, NULL) || !f.has_balloon || f.max_bytes != GIB)
			return arg;
	}
	return NULL;
}

static void test_threads(void **state)
{
	pthread_t threads[4];
	int bad = 0;

	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, parse_often, &bad), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		void *r;

		assert_int_equal(pthread_join(threads[i], &r), 0);
		assert_null(r);
	}
}

/* ---- blocks of RAM ---- */

static void blocks_are(const char *memory_kib, const char *cpu, const char *devices, uint32_t n, const uint64_t *mib)
{
	char xml[4096];
	struct dom_facts f;

	snprintf(xml, sizeof(xml), HEAD "<memory unit='KiB'>%s</memory><cpu>%s</cpu><devices>%s</devices></domain>",
		 memory_kib, cpu, devices);
	parse_ok(xml, &f);
	assert_int_equal(f.ram_blocks, n);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(f.ram_block_bytes[i], mib[i] * MIB);
}

#define DIMM(kib) "<memory model='dimm'><target><size unit='KiB'>" kib "</size><node>0</node></target></memory>"

static void test_ram_blocks(void **state)
{
	static const char cells[] = "<numa><cell id='0' cpus='0' memory='262144' unit='KiB'/>"
				    "<cell id='1' cpus='1' memory='512' unit='MiB'/></numa>";

	blocks_are("1048576", "", "", 1, (const uint64_t[]){1024});
	blocks_are("1048576", "", DIMM("262144"), 2, (const uint64_t[]){768, 256});
	blocks_are("786432", cells, "", 2, (const uint64_t[]){256, 512});
	blocks_are("1048576", cells, DIMM("131072") DIMM("131072"), 4, (const uint64_t[]){256, 512, 128, 128});
	/* what does not add up is not known */
	blocks_are("1048576", cells, "", 0, NULL);
	blocks_are("1048576", "", DIMM("2097152"), 0, NULL);
	blocks_are("786432", "<numa><cell id='0' memory='262144'/><cell id='1'/></numa>", "", 0, NULL);
	parse_bad(HEAD MEMORY "<cpu><numa><cell memory='many'/></numa></cpu></domain>",
		  strlen(HEAD MEMORY "<cpu><numa><cell memory='many'/></numa></cpu></domain>"), -EINVAL, "many");
}

static void test_ram_blocks_too_many(void **state)
{
	char xml[16384] = HEAD "<memory unit='MiB'>100</memory><devices>";
	struct dom_facts f;

	for (unsigned i = 0; i < 80; i++)
		strcat(xml, DIMM("1024"));
	strcat(xml, "</devices></domain>");
	parse_ok(xml, &f);
	assert_int_equal(f.ram_blocks, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ram_blocks),
		cmocka_unit_test(test_ram_blocks_too_many),
		cmocka_unit_test(test_live_xml),
		cmocka_unit_test(test_least_xml),
		cmocka_unit_test(test_text_forms),
		cmocka_unit_test(test_memory_units),
		cmocka_unit_test(test_current_above_memory),
		cmocka_unit_test(test_balloon_models),
		cmocka_unit_test(test_shared_memory),
		cmocka_unit_test(test_ineligible),
		cmocka_unit_test(test_elsewhere_is_nothing),
		cmocka_unit_test(test_ineligible_texts),
		cmocka_unit_test(test_detail_is_one_printable_line),
		cmocka_unit_test(test_policy_bad_keeps_the_vm),
		cmocka_unit_test(test_policy_namespace),
		cmocka_unit_test(test_parse_policy),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_doctype),
		cmocka_unit_test(test_nul_byte),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_size_limit),
		cmocka_unit_test(test_name_limit),
		cmocka_unit_test(test_deep),
		cmocka_unit_test(test_many_devices),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
