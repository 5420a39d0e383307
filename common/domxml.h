/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What memoc must know of a libvirt domain, read from its XML with libxml2 (no network, no entities, no DTD, size
 * limited). Used by the hook (stdin of libvirt's hook) and by the daemon (virDomainGetXMLDesc).
 */
#ifndef MEMOC_COMMON_DOMXML_H
#define MEMOC_COMMON_DOMXML_H

#include "common/parse.h"
#include "common/vmpolicy.h"

#define DOMXML_BYTES_MAX ((size_t)4 << 20)
#define DOMXML_NAME_MAX 256

/* Why memory of a VM cannot be taken back; DOM_ELIGIBLE otherwise. Names by dom_ineligible_text(). */
enum dom_ineligible {
	DOM_ELIGIBLE = 1,
	DOM_VFIO,      /* hostdev passed through (PCI or mdev) or a vDPA interface/disk: guest RAM is pinned, balloon
			  inhibited */
	DOM_HUGEPAGES, /* <memoryBacking><hugepages/> */
	DOM_LOCKED,    /* <memoryBacking><locked/> */
	DOM_SEV,       /* <launchSecurity>: encrypted memory cannot be swapped or ballooned */
	DOM_UNMANAGED, /* policy managed="no" */
};

#define DOM_RAM_BLOCKS_MAX 64

struct dom_facts {
	char name[DOMXML_NAME_MAX];
	char uuid[UUID_TEXT_LEN + 1];
	uint64_t max_bytes;	/* <memory>, plus plugged <memory model='dimm'> devices that it already includes */
	uint64_t current_bytes; /* <currentMemory>; max_bytes where absent */
	uint32_t vcpus;
	bool has_balloon;	  /* virtio memballoon present (model none or absent: false) */
	bool free_page_reporting; /* freePageReporting='on' */
	uint32_t stats_period_s;  /* <stats period=…>; 0 = off */
	/*
	 * The pieces that QEMU's RAM is made of: each NUMA cell (or all that is no memory device), then each memory
	 * device (DIMM). 0: not known, because their sum is not max_bytes, there are more, or the facts are the hook's.
	 */
	uint32_t ram_blocks;
	uint64_t ram_block_bytes[DOM_RAM_BLOCKS_MAX];
	bool shared_memory;	 /* memfd/file backing with access shared: RAM is shmem */
	uint64_t tb_cache_bytes; /* <features><tcg><tb-cache>; 0 where not given */
	bool tcg;		 /* <domain type='qemu'> */
	enum dom_ineligible ineligible;
	char ineligible_detail[128]; /* which device, for people */
	struct vmpolicy policy;	     /* default where no element */
	bool policy_bad; /* element present but refused: policy is the default, policy_err says name, value, why */
	struct memoc_err policy_err;
};

/* Any domain XML. −EINVAL (not a domain, bad number …), −E2BIG, −ENOMEM. Thread-safe. */
int domxml_parse(const char *xml, size_t len, struct dom_facts *ret, struct memoc_err *err);
/* One sentence for people, with the detail; "" for an eligible one. */
const char *dom_ineligible_text(enum dom_ineligible why);
/* One word for programs ("vfio", "unmanaged" …), "" for an eligible one; and back, 0 for a word that is none. */
const char *dom_ineligible_name(enum dom_ineligible why);
enum dom_ineligible dom_ineligible_by_name(const char *name);
/* Just a policy element as virDomainGetMetadata returns it. −EINVAL names attribute and value. */
int domxml_parse_policy(const char *xml, size_t len, struct vmpolicy *ret, struct memoc_err *err);

#endif
