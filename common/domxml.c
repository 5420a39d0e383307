/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The text comes from libvirt, but parts of it (name, title, metadata) from whoever may define a VM, so it is read as
 * hostile: bounded, without document type, entities or network, and only elements at their exact place count (a
 * <hostdev> inside <metadata> is somebody's note). Values are read from the tree in place, without allocating.
 */
#include "common/domxml.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <libxml/parser.h>
#include <libxml/tree.h>

#include "common/text.h"

#define VALUE_LEN 64 /* numbers and short words; libvirt writes none that is longer */
#define POLICY_XML_BYTES_MAX ((size_t)64 << 10)
/*
 * NOCDATA: a CDATA section is text like other text. IGNORE_ENC: the text is UTF-8, which is checked before, and a
 * declaration that claims otherwise must not load converters (nothing else can then be guessed from its first bytes).
 * Never given: NOENT, HUGE, XINCLUDE and whatever loads a DTD.
 */
#define PARSE_OPTIONS                                                                                                  \
	(XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA | XML_PARSE_IGNORE_ENC)

/* ---- reading the tree ---- */

static void doc_free_p(xmlDocPtr *doc)
{
	if (*doc)
		xmlFreeDoc(*doc);
}

static void ctxt_free_p(xmlParserCtxtPtr *ctxt)
{
	if (!*ctxt)
		return;
	if ((*ctxt)->myDoc)
		xmlFreeDoc((*ctxt)->myDoc);
	xmlFreeParserCtxt(*ctxt);
}

/* What a run of the parser came upon; its context's _private. */
struct found {
	bool doctype, no_memory;
};

/* Called at "<!DOCTYPE name", before any declaration in it is read: no entity bomb is ever looked at. */
static void refuse_doctype(void *ctx, const xmlChar *name, const xmlChar *external_id, const xmlChar *system_id)
{
	xmlParserCtxtPtr ctxt = ctx;
	struct found *found = ctxt->_private;

	found->doctype = true;
	xmlStopParser(ctxt);
}

/*
 * Errors are asked for afterwards; nothing is printed, which libxml2 does for some in spite of XML_PARSE_NOERROR. But
 * that memory ended is noted at once: the parser may go on with a part missing, and then the last error looks like bad
 * XML, or there is none.
 */
static void note_error(void *ctx, const xmlError *e)
{
	struct found *found = ctx;

	found->no_memory |= e->code == XML_ERR_NO_MEMORY;
}

static int parse_failed(xmlParserCtxtPtr ctxt, const struct found *found, struct memoc_err *err)
{
	const xmlError *e = ctxt ? xmlCtxtGetLastError(ctxt) : NULL;
	int len;

	if (found->doctype)
		return memoc_err_set(err, -EINVAL, "the XML has a <!DOCTYPE>, which libvirt never writes: refused");
	/* What is bad has an error with a text; a parser that ends without one had no memory to say so. */
	if (found->no_memory || !e || !e->message || e->code == XML_ERR_NO_MEMORY)
		return memoc_err_set(err, -ENOMEM, "out of memory while reading XML");
	len = (int)strcspn(e->message, "\n");
	return memoc_err_set(err, -EINVAL, "not well-formed XML in line %d: %.*s", e->line, len, e->message);
}

/* NULL, or the document, which is the caller's as the context is. The error handler is the thread's: parts of libxml2
 * know of no parser. */
static xmlDocPtr parse(const char *xml, size_t len, xmlParserCtxtPtr *ret_ctxt, struct found *found)
{
	xmlStructuredErrorFunc before = xmlStructuredError;
	void *before_context = xmlStructuredErrorContext;
	xmlDocPtr doc = NULL;
	xmlParserCtxtPtr ctxt;

	xmlSetStructuredErrorFunc(found, (xmlStructuredErrorFunc)note_error); /* libxml2 2.12 made the error const */
	ctxt = xmlNewParserCtxt();
	if (ctxt) {
		ctxt->_private = found;
		ctxt->sax->internalSubset = refuse_doctype;
		doc = xmlCtxtReadMemory(ctxt, xml, (int)len, NULL, NULL, PARSE_OPTIONS);
		found->no_memory |= ctxt->errNo == XML_ERR_NO_MEMORY;
	}
	xmlSetStructuredErrorFunc(before_context, before);
	xmlResetLastError(); /* it holds copies of the text */
	*ret_ctxt = ctxt;
	return doc;
}

static int read_doc(const char *xml, size_t len, size_t bytes_max, xmlDocPtr *ret, struct memoc_err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	xmlParserCtxtPtr ctxt CLEANUP(ctxt_free_p) = NULL;
	struct found found = {.doctype = false};
	xmlDocPtr doc;
	size_t good;

	if (len > bytes_max)
		return memoc_err_set(err, -E2BIG, "the XML has %zu bytes, more than the %zu that are accepted", len,
				     bytes_max);
	if (!len)
		return memoc_err_set(err, -EINVAL, "the XML is empty");
	/* libxml2 would end there and might take the part before it for the whole. */
	if (memchr(xml, '\0', len))
		return memoc_err_set(err, -EINVAL, "the XML has a NUL byte in it");
	good = text_utf8_valid_len(xml, len);
	if (good != len)
		return memoc_err_set(err, -EINVAL, "the XML is not UTF-8 (at byte %zu)", good);
	/* libxml2 2.9 does not do it safely by itself when threads start together */
	pthread_once(&once, xmlInitParser);
	doc = parse(xml, len, &ctxt, &found);
	/* Without memory for a text node libxml2 may still hand out the tree, with the text missing. */
	if (!doc || !xmlDocGetRootElement(doc) || found.doctype || found.no_memory) {
		int r = parse_failed(ctxt, &found, err);

		doc_free_p(&doc);
		return r;
	}
	*ret = doc;
	return 0;
}

static bool is_element(const xmlNode *n, const char *name, const char *ns)
{
	if (n->type != XML_ELEMENT_NODE || strcmp((const char *)n->name, name) != 0)
		return false;
	return ns ? n->ns && !strcmp((const char *)n->ns->href, ns) : !n->ns;
}

static const xmlNode *next_named(const xmlNode *n, const char *name, const char *ns)
{
	while (n && !is_element(n, name, ns))
		n = n->next;
	return n;
}

/* First child of that name without a namespace; parent may be NULL, so that paths can be chained. */
static const xmlNode *child(const xmlNode *parent, const char *name)
{
	return parent ? next_named(parent->children, name, NULL) : NULL;
}

/* Value of an attribute without a namespace; NULL where absent. Without entities it is at most one text node. */
static const char *attr(const xmlNode *n, const char *name)
{
	const xmlAttr *a = n ? n->properties : NULL;

	while (a && (a->ns || strcmp((const char *)a->name, name) != 0))
		a = a->next;
	if (!a)
		return NULL;
	return a->children && a->children->content ? (const char *)a->children->content : "";
}

static bool attr_is(const xmlNode *n, const char *name, const char *value)
{
	const char *v = attr(n, name);

	return v && !strcmp(v, value);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* The element's own text without surrounding white space. −EINVAL: longer than the buffer. */
static int text_of(const xmlNode *n, char *buf, size_t size, struct memoc_err *err)
{
	size_t used = 0;

	for (const xmlNode *t = n->children; t; t = t->next) {
		const char *s = (const char *)t->content;

		if ((t->type != XML_TEXT_NODE && t->type != XML_CDATA_SECTION_NODE) || !s)
			continue;
		while (!used && is_blank(*s))
			s++;
		if (strlen(s) >= size - used)
			return memoc_err_set(err, -EINVAL, "<%s> is longer than %zu bytes", (const char *)n->name,
					     size - 1);
		memcpy(buf + used, s, strlen(s));
		used += strlen(s);
	}
	while (used && is_blank(buf[used - 1]))
		used--;
	buf[used] = '\0';
	return 0;
}

static int number_of(const xmlNode *n, uint64_t *ret, struct memoc_err *err)
{
	char text[VALUE_LEN];
	int r = text_of(n, text, sizeof(text), err);

	if (r < 0)
		return r;
	r = parse_u64(text, ret, err);
	return r < 0 ? memoc_err_prefix(err, -EINVAL, "<%s>", (const char *)n->name) : 0;
}

/* ---- memory sizes ---- */

/* Units as libvirt's virScaleInteger has them: 1024 for "k" and "KiB", 1000 for "KB", any case. No unit is KiB. */
static int unit_bytes(const char *unit, uint64_t *ret)
{
	static const char letters[] = "kmgtpe";
	const char *at;
	uint64_t base, bytes = 1;

	if (!unit || !*unit)
		unit = "k";
	if (!strcasecmp(unit, "b") || !strcasecmp(unit, "byte") || !strcasecmp(unit, "bytes")) {
		*ret = 1;
		return 0;
	}
	at = strchr(letters, tolower((unsigned char)unit[0]));
	if (!at)
		return -EINVAL;
	if (!unit[1] || !strcasecmp(unit + 1, "ib"))
		base = 1024;
	else if (!strcasecmp(unit + 1, "b"))
		base = 1000;
	else
		return -EINVAL;
	for (const char *l = letters; l <= at; l++)
		bytes *= base; /* 1024^6 = 2^60 at most */
	*ret = bytes;
	return 0;
}

static int memory_of(const xmlNode *n, uint64_t *ret_bytes, struct memoc_err *err)
{
	const char *unit = attr(n, "unit");
	uint64_t number, scale;
	int r = number_of(n, &number, err);

	if (r < 0)
		return r;
	if (unit_bytes(unit, &scale) < 0)
		return memoc_err_set(err, -EINVAL, "<%s unit=\"%.32s\">: no such unit; libvirt writes KiB",
				     (const char *)n->name, unit);
	/* The varlink interface carries sizes as signed 64-bit integers. */
	if (number > (uint64_t)INT64_MAX / scale)
		return memoc_err_set(err, -EINVAL, "<%s>: %" PRIu64 " times %" PRIu64 " bytes is too large",
				     (const char *)n->name, number, scale);
	*ret_bytes = number * scale;
	return 0;
}

static int read_memory(const xmlNode *dom, struct dom_facts *f, struct memoc_err *err)
{
	const xmlNode *memory = child(dom, "memory"), *current = child(dom, "currentMemory");
	int r;

	if (!memory)
		return memoc_err_set(err, -EINVAL, "the domain has no <memory>");
	r = memory_of(memory, &f->max_bytes, err);
	if (r < 0)
		return r;
	if (!f->max_bytes)
		return memoc_err_set(err, -EINVAL, "<memory> is 0");
	f->current_bytes = f->max_bytes;
	if (current) {
		r = memory_of(current, &f->current_bytes, err);
		if (r < 0)
			return r;
	}
	/* libvirt corrects it the same way when the VM starts. */
	f->current_bytes = min_u64(f->current_bytes, f->max_bytes);
	return 0;
}

/* ---- whose RAM cannot be taken back ---- */

static const char *const ineligible_texts[] = {
	[DOM_ELIGIBLE] = "",
	[DOM_VFIO] = "a passed-through device pins the guest's memory and stops its balloon",
	[DOM_HUGEPAGES] = "its memory is backed by huge pages, which are neither swapped nor ballooned page by page",
	[DOM_LOCKED] = "its memory is locked in RAM",
	[DOM_SEV] = "its memory is encrypted, which can be neither swapped nor ballooned",
	[DOM_UNMANAGED] = "its policy says managed=\"no\"",
};

const char *dom_ineligible_text(enum dom_ineligible why)
{
	if (why < DOM_ELIGIBLE || (size_t)why >= ARRAY_SIZE(ineligible_texts))
		return "";
	return ineligible_texts[why];
}

static const char *const ineligible_names[] = {
	[DOM_ELIGIBLE] = "",	 [DOM_VFIO] = "vfio", [DOM_HUGEPAGES] = "hugepages",
	[DOM_LOCKED] = "locked", [DOM_SEV] = "sev",   [DOM_UNMANAGED] = "unmanaged",
};

const char *dom_ineligible_name(enum dom_ineligible why)
{
	if (why < DOM_ELIGIBLE || (size_t)why >= ARRAY_SIZE(ineligible_names))
		return "";
	return ineligible_names[why];
}

enum dom_ineligible dom_ineligible_by_name(const char *name)
{
	for (enum dom_ineligible why = DOM_ELIGIBLE + 1; (size_t)why < ARRAY_SIZE(ineligible_names); why++)
		if (!strcmp(ineligible_names[why], name))
			return why;
	return 0;
}

/* One detail for people; names in the XML may hold anything, and this line goes to logs and terminals. */
static void set_ineligible(struct dom_facts *f, enum dom_ineligible why, const char *what, const char *which)
{
	struct memoc_err line = {""};

	memoc_err_set(&line, 0, "%s%s%.64s", what, *which ? " " : "", which);
	f->ineligible = why;
	snprintf(f->ineligible_detail, sizeof(f->ineligible_detail), "%.*s", (int)sizeof(f->ineligible_detail) - 1,
		 line.text);
}

/* "0000:65:00.0", "uuid of an mdev", or "" where the XML has it in no form known here. */
static void hostdev_address(const xmlNode *hostdev, char *buf, size_t size)
{
	static const char *const parts[] = {"domain", "bus", "slot", "function"};
	const xmlNode *address = child(child(hostdev, "source"), "address");
	unsigned long v[ARRAY_SIZE(parts)];

	buf[0] = '\0';
	if (attr(address, "uuid")) {
		snprintf(buf, size, "%.36s", attr(address, "uuid"));
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		const char *text = attr(address, parts[i]);

		if (!text)
			return;
		v[i] = strtoul(text, NULL, 0) & 0xffff; /* shown only */
	}
	snprintf(buf, size, "%04lx:%02lx:%02lx.%lx", v[0], v[1], v[2], v[3]);
}

/* USB and SCSI devices go through QEMU's own code and pin nothing. */
static bool hostdev_pins(const xmlNode *n, struct dom_facts *f)
{
	char address[VALUE_LEN];

	if (!attr_is(n, "type", "pci") && !attr_is(n, "type", "mdev"))
		return false;
	hostdev_address(n, address, sizeof(address));
	set_ineligible(f, DOM_VFIO, attr_is(n, "type", "pci") ? "hostdev pci" : "hostdev mdev", address);
	return true;
}

/* <actual> is what an interface of a libvirt network became; live XML shows it in the type itself. */
static bool interface_pins(const xmlNode *n, struct dom_facts *f)
{
	const xmlNode *actual = child(n, "actual");
	const char *mac = attr(child(n, "mac"), "address");

	if (attr_is(n, "type", "hostdev") || attr_is(actual, "type", "hostdev"))
		set_ineligible(f, DOM_VFIO, "interface hostdev", mac ? mac : "");
	else if (attr_is(n, "type", "vdpa"))
		set_ineligible(f, DOM_VFIO, "interface vdpa", mac ? mac : "");
	else
		return false;
	return true;
}

/* QEMU's own NVMe driver (type nvme) sits on VFIO and pins all guest RAM, as a passed-through device does. */
static bool disk_pins(const xmlNode *n, struct dom_facts *f)
{
	const char *target = attr(child(n, "target"), "dev");

	if (attr_is(n, "type", "vhostvdpa"))
		set_ineligible(f, DOM_VFIO, "disk vhostvdpa", target ? target : "");
	else if (attr_is(n, "type", "nvme"))
		set_ineligible(f, DOM_VFIO, "disk nvme", target ? target : "");
	else
		return false;
	return true;
}

static bool device_pins(const xmlNode *dom, struct dom_facts *f)
{
	const xmlNode *devices = child(dom, "devices");

	for (const xmlNode *n = devices ? devices->children : NULL; n; n = n->next)
		if ((is_element(n, "hostdev", NULL) && hostdev_pins(n, f)) ||
		    (is_element(n, "interface", NULL) && interface_pins(n, f)) ||
		    (is_element(n, "disk", NULL) && disk_pins(n, f)))
			return true;
	return false;
}

/* The policy must have been read: what the machine cannot do goes before what the administrator does not want. */
static void read_eligibility(const xmlNode *dom, struct dom_facts *f)
{
	const xmlNode *backing = child(dom, "memoryBacking"), *security = child(dom, "launchSecurity");
	const char *type = attr(security, "type");

	f->ineligible = DOM_ELIGIBLE;
	if (device_pins(dom, f))
		return;
	if (child(backing, "hugepages"))
		set_ineligible(f, DOM_HUGEPAGES, "memoryBacking hugepages", "");
	else if (child(backing, "locked"))
		set_ineligible(f, DOM_LOCKED, "memoryBacking locked", "");
	else if (security)
		set_ineligible(f, DOM_SEV, "launchSecurity", type ? type : "");
	else if (!f->policy.managed)
		set_ineligible(f, DOM_UNMANAGED, "policy managed=\"no\"", "");
}

/* ---- policy ---- */

static int policy_of(const xmlNode *n, struct vmpolicy *ret, struct memoc_err *err)
{
	struct vmpolicy p = vmpolicy_default();

	for (const xmlAttr *a = n->properties; a; a = a->next) {
		const char *value = a->children && a->children->content ? (const char *)a->children->content : "";
		int r;

		if (a->ns)
			continue; /* somebody else's note */
		r = vmpolicy_set(&p, (const char *)a->name, value, err);
		if (r < 0)
			return r;
	}
	*ret = p;
	return 0;
}

/* Never fails: a bad policy must not hide the VM. The default is kept then, and policy_err says what is wrong. */
static void read_policy(const xmlNode *dom, struct dom_facts *f)
{
	const xmlNode *metadata = child(dom, "metadata");
	const xmlNode *n = metadata ? next_named(metadata->children, VMPOLICY_ELEMENT, VMPOLICY_XMLNS) : NULL;
	struct vmpolicy p = vmpolicy_default();
	int r;

	f->policy = p;
	if (!n)
		return;
	if (next_named(n->next, VMPOLICY_ELEMENT, VMPOLICY_XMLNS))
		r = memoc_err_set(&f->policy_err, -EINVAL, "<metadata> has more than one policy: remove all but one");
	else
		r = policy_of(n, &p, &f->policy_err);
	if (!r)
		r = vmpolicy_check(&p, f->max_bytes, &f->policy_err);
	if (!r)
		f->policy = p;
	f->policy_bad = r < 0;
}

int domxml_parse_policy(const char *xml, size_t len, struct vmpolicy *ret, struct memoc_err *err)
{
	xmlDocPtr doc CLEANUP(doc_free_p) = NULL;
	struct vmpolicy p;
	const xmlNode *root;
	int r = read_doc(xml, len, POLICY_XML_BYTES_MAX, &doc, err);

	if (r < 0)
		return r;
	root = xmlDocGetRootElement(doc);
	/* virDomainGetMetadata takes the namespace off; virsh users give it. */
	if (!is_element(root, VMPOLICY_ELEMENT, NULL) && !is_element(root, VMPOLICY_ELEMENT, VMPOLICY_XMLNS))
		return memoc_err_set(err, -EINVAL, "<%.64s> is no <" VMPOLICY_ELEMENT "> of " VMPOLICY_XMLNS,
				     (const char *)root->name);
	r = policy_of(root, &p, err);
	if (!r)
		r = vmpolicy_check(&p, 0, err);
	if (r < 0)
		return -EINVAL;
	*ret = p;
	return 0;
}

/* ---- the rest ---- */

static int read_identity(const xmlNode *dom, struct dom_facts *f, struct memoc_err *err)
{
	const xmlNode *name = child(dom, "name"), *uuid = child(dom, "uuid");
	char text[VALUE_LEN];
	int r;

	if (!name || !uuid)
		return memoc_err_set(err, -EINVAL, "the domain has no <%s>", name ? "uuid" : "name");
	r = text_of(name, f->name, sizeof(f->name), err);
	if (r < 0)
		return r;
	if (!f->name[0])
		return memoc_err_set(err, -EINVAL, "<name> is empty");
	r = text_of(uuid, text, sizeof(text), err);
	if (r < 0)
		return r;
	r = parse_uuid(text, f->uuid, err);
	return r < 0 ? memoc_err_prefix(err, -EINVAL, "<uuid>") : 0;
}

/* vCPUs that are plugged now: <vcpu current='2'>8</vcpu> has 2. */
static int read_vcpus(const xmlNode *dom, struct dom_facts *f, struct memoc_err *err)
{
	const xmlNode *n = child(dom, "vcpu");
	const char *current = attr(n, "current");
	uint64_t vcpus = 1;
	int r = 0;

	if (current)
		r = parse_u64(current, &vcpus, err);
	else if (n)
		r = number_of(n, &vcpus, err);
	if (r < 0)
		return current ? memoc_err_prefix(err, -EINVAL, "<vcpu current=…>") : r;
	if (vcpus < 1 || vcpus > 65535)
		return memoc_err_set(err, -EINVAL, "<vcpu>: %" PRIu64 " vCPUs cannot be", vcpus);
	f->vcpus = (uint32_t)vcpus;
	return 0;
}

static int read_balloon(const xmlNode *dom, struct dom_facts *f, struct memoc_err *err)
{
	const xmlNode *n = child(child(dom, "devices"), "memballoon");
	const char *model = attr(n, "model"), *period = attr(child(n, "stats"), "period");
	uint64_t period_s = 0;

	/* virtio, virtio-transitional, virtio-non-transitional; others are "none" and Xen's */
	f->has_balloon = model && !strncmp(model, "virtio", strlen("virtio"));
	if (!f->has_balloon)
		return 0;
	f->free_page_reporting = attr_is(n, "freePageReporting", "on");
	if (period && (parse_u64(period, &period_s, NULL) < 0 || period_s > INT32_MAX))
		return memoc_err_set(err, -EINVAL, "<memballoon>: stats period \"%.32s\" is no number of seconds",
				     period);
	f->stats_period_s = (uint32_t)period_s;
	return 0;
}

/* Shared by <access>, by a NUMA cell, or by being a memfd: QEMU maps that shared unless told to keep it private. */
static bool ram_is_shared(const xmlNode *dom)
{
	const xmlNode *backing = child(dom, "memoryBacking"), *access = child(backing, "access");
	const xmlNode *numa = child(child(dom, "cpu"), "numa");

	for (const xmlNode *n = numa ? numa->children : NULL; n; n = n->next)
		if (is_element(n, "cell", NULL) && attr_is(n, "memAccess", "shared"))
			return true;
	if (access)
		return attr_is(access, "mode", "shared");
	return attr_is(child(backing, "source"), "type", "memfd");
}

static int add_block(struct dom_facts *f, const xmlNode *size, uint64_t *sum, uint32_t *n, struct memoc_err *err)
{
	uint64_t bytes = 0;
	int r = size ? memory_of(size, &bytes, err) : 0;

	if (r < 0)
		return r;
	if (bytes && *n < DOM_RAM_BLOCKS_MAX)
		f->ram_block_bytes[*n] = bytes;
	*n += bytes != 0;
	*sum = add_sat_u64(*sum, bytes);
	return 0;
}

/* <cell memory='1048576' unit='KiB'/>: as <memory>, but in an attribute. */
static int add_cell(struct dom_facts *f, const xmlNode *cell, uint64_t *sum, uint32_t *n, struct memoc_err *err)
{
	const char *memory = attr(cell, "memory"), *unit = attr(cell, "unit");
	uint64_t number, scale;

	if (!memory)
		return 0;
	if (parse_u64(memory, &number, NULL) < 0 || unit_bytes(unit, &scale) < 0 ||
	    number > (uint64_t)INT64_MAX / scale)
		return memoc_err_set(err, -EINVAL, "<cell memory=\"%.32s\" unit=\"%.32s\">: no size that it can be",
				     memory, unit ? unit : "KiB");
	if (number && *n < DOM_RAM_BLOCKS_MAX)
		f->ram_block_bytes[*n] = number * scale;
	*n += number != 0;
	*sum = add_sat_u64(*sum, number * scale);
	return 0;
}

/* Memory devices of any model: each has a mapping of its <target><size>, which <memory> includes. */
static int read_ram_blocks(const xmlNode *dom, struct dom_facts *f, struct memoc_err *err)
{
	const xmlNode *numa = child(child(dom, "cpu"), "numa"), *devices = child(dom, "devices");
	uint64_t sum = 0;
	uint32_t cells = 0, n;
	int r = 0;

	for (const xmlNode *c = numa ? numa->children : NULL; c && r == 0; c = c->next)
		if (is_element(c, "cell", NULL))
			r = add_cell(f, c, &sum, &cells, err);
	n = cells ? cells : 1; /* without cells the first block is what no device has */
	for (const xmlNode *d = devices ? devices->children : NULL; d && r == 0; d = d->next)
		if (is_element(d, "memory", NULL))
			r = add_block(f, child(child(d, "target"), "size"), &sum, &n, err);
	if (r < 0)
		return r;
	if (!cells && sum < f->max_bytes) {
		f->ram_block_bytes[0] = f->max_bytes - sum;
		sum = f->max_bytes;
	}
	f->ram_blocks = sum == f->max_bytes && f->ram_block_bytes[0] && n <= DOM_RAM_BLOCKS_MAX ? n : 0;
	return 0;
}

static int read_facts(const xmlNode *dom, struct dom_facts *f, struct memoc_err *err)
{
	static int (*const readers[])(const xmlNode *, struct dom_facts *, struct memoc_err *) = {
		read_identity, read_memory, read_ram_blocks, read_vcpus, read_balloon};
	const xmlNode *tb_cache = child(child(child(dom, "features"), "tcg"), "tb-cache");

	for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
		int r = readers[i](dom, f, err);

		if (r < 0)
			return r;
	}
	f->tcg = attr_is(dom, "type", "qemu");
	f->shared_memory = ram_is_shared(dom);
	read_policy(dom, f);
	read_eligibility(dom, f);
	return tb_cache ? memory_of(tb_cache, &f->tb_cache_bytes, err) : 0;
}

int domxml_parse(const char *xml, size_t len, struct dom_facts *ret, struct memoc_err *err)
{
	xmlDocPtr doc CLEANUP(doc_free_p) = NULL;
	struct dom_facts f = {.policy_bad = false};
	const xmlNode *root;
	int r = read_doc(xml, len, DOMXML_BYTES_MAX, &doc, err);

	if (r < 0)
		return r;
	root = xmlDocGetRootElement(doc);
	if (!is_element(root, "domain", NULL))
		return memoc_err_set(err, -EINVAL, "<%.64s> is no libvirt <domain>", (const char *)root->name);
	r = read_facts(root, &f, err);
	if (r < 0)
		return r;
	*ret = f;
	return 0;
}
