/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the tests of the core share: a core with a host and VMs that are told what they see by plain function calls.
 * Every step checks that no effect was lost; failures name the caller's line through cmocka.
 */
#ifndef MEMOC_TESTS_CORE_KIT_H
#define MEMOC_TESTS_CORE_KIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "controller/core/policy.h"

struct kit {
	struct core *core;
	struct core_config config;
	struct effects out; /* of the last step */
	uint64_t now_ms;
	struct host_sample host;
};

/* Pool 2 GiB, buffer 128 MiB, fixed; host with reserve 512 MiB, 4 GiB free, 1 GiB of swap. */
struct core_config kit_config(void);
void kit_open(struct kit *k, const struct core_config *config);
void kit_close(struct kit *k);
/* Core_step() with k's time; room for all effects; fails the test where one was dropped. */
int kit_step(struct kit *k, struct event *ev);
void kit_tick(struct kit *k, uint64_t advance_ms);

struct vm_facts kit_facts(uint64_t max_bytes);
struct vm *kit_add(struct kit *k, vm_id id, uint64_t max_bytes);
struct vm *kit_add_facts(struct kit *k, vm_id id, enum vm_origin origin, const struct vm_facts *facts);
struct vm *kit_vm(struct kit *k, vm_id id);
/* Two advances of statistics at the present time and a sample with everything resident: the VM is steady. */
struct vm *kit_steady(struct kit *k, vm_id id, uint64_t max_bytes, uint64_t usable_bytes);
void kit_stats(struct kit *k, vm_id id, uint64_t actual_bytes, uint64_t usable_bytes);
void kit_stats_swap(struct kit *k, vm_id id, uint64_t actual_bytes, uint64_t usable_bytes, uint64_t in, uint64_t out);
void kit_sample(struct kit *k, vm_id id, uint64_t resident_bytes, uint64_t limit_bytes, uint64_t faults);
void kit_signal(struct kit *k, enum event_type type, vm_id id);
/* Answers every balloon and limit effect of the last step as done, and those that follow from it. */
void kit_answer(struct kit *k);
int kit_result(struct kit *k, vm_id id, enum effect_op op, uint32_t seq, int code, uint64_t bytes);

const struct effect *kit_find(const struct kit *k, enum effect_type type, vm_id id); /* last one; NULL: none */
const struct effect *kit_record(const struct kit *k, enum record_kind kind, vm_id id);
size_t kit_count(const struct kit *k, enum effect_type type);

#endif
