/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A field that is added to one of these structs is added here: in the group of its struct. T is the struct that is
 * described, P the way from there to the group's own struct ("stats." or nothing).
 */
#include "controller/record/layout.h"

#include <stdio.h>
#include <zlib.h>

#define FIELD(T, P, member, kind, lo, end)                                                                             \
	{                                                                                                              \
#P #member, kind, offsetof(T, P member), sizeof(((T *)NULL)->P member), lo, end                        \
	}
#define BOOL(T, P, member) FIELD(T, P, member, FIELD_BOOL, 0, 0)
#define INT(T, P, member) FIELD(T, P, member, FIELD_INT, 0, 0)
#define ENUM(T, P, member, lo, end) FIELD(T, P, member, FIELD_ENUM, lo, end)
#define U64(T, P, member) FIELD(T, P, member, FIELD_U64, 0, 0)
#define DOUBLE(T, P, member) FIELD(T, P, member, FIELD_DOUBLE, 0, 0)
#define WORDS(T, P, member) FIELD(T, P, member, FIELD_WORDS, 0, 0)
#define TEXT(T, P, member) FIELD(T, P, member, FIELD_TEXT, 0, 0)

/* clang-format off */
#define VMPOLICY(T, P)                                                                                                 \
	BOOL(T, P, managed), U64(T, P, min_bytes), U64(T, P, max_bytes), INT(T, P, weight), BOOL(T, P, balloon),       \
	BOOL(T, P, swap)

#define FACTS(T, P)                                                                                                    \
	U64(T, P, max_bytes), U64(T, P, overhead_guess_bytes), BOOL(T, P, has_balloon), BOOL(T, P, eligible),          \
	VMPOLICY(T, P policy.)

#define MEMORY(T, P)                                                                                                   \
	BOOL(T, P, known), U64(T, P, target_bytes), ENUM(T, P, health, 0, BALLOON_HEALTH_END),                         \
	U64(T, P, speed_bytes_per_s), U64(T, P, floor_bytes), U64(T, P, retry_delay_ms), U64(T, P, pinned_bytes),      \
	BOOL(T, P, held), BOOL(T, P, drained), BOOL(T, P, limit_ours), BOOL(T, P, silent), BOOL(T, P, distrusted), BOOL(T, P, by_limit), U64(T, P, advice_limit_bytes),  \
	U64(T, P, trim_from_bytes), U64(T, P, overhead_bytes)

#define STATS(T, P)                                                                                                    \
	U64(T, P, last_update_s), U64(T, P, usable_bytes), U64(T, P, unused_bytes), U64(T, P, disk_caches_bytes),      \
	U64(T, P, actual_bytes), U64(T, P, available_bytes), U64(T, P, swap_in_bytes), U64(T, P, swap_out_bytes),      \
	U64(T, P, major_faults), BOOL(T, P, has_actual), BOOL(T, P, has_usable), BOOL(T, P, has_unused),               \
	BOOL(T, P, has_available), BOOL(T, P, has_swap), BOOL(T, P, has_major_faults), BOOL(T, P, has_disk_caches)

#define SAMPLE(T, P)                                                                                                   \
	U64(T, P, resident_bytes), U64(T, P, swapped_bytes), U64(T, P, limit_bytes), U64(T, P, major_faults),          \
	U64(T, P, refaults), U64(T, P, psi_some_us), BOOL(T, P, has_overhead), U64(T, P, overhead_bytes),              \
	U64(T, P, guest_ram_bytes), BOOL(T, P, has_memory), BOOL(T, P, under_oom), BOOL(T, P, has_major_faults),       \
	BOOL(T, P, has_refaults), BOOL(T, P, has_psi)

#define WSS(T, P)                                                                                                      \
	BOOL(T, P, known), ENUM(T, P, backend, 0, WSS_BACKEND_END), U64(T, P, wss_bytes), U64(T, P, error_bytes),      \
	U64(T, P, began_ms), U64(T, P, good_ms), U64(T, P, pages), U64(T, P, cost_ns), TEXT(T, P, why)

#define ADVICE(T, P)                                                                                                   \
	BOOL(T, P, over), U64(T, P, swapped_bytes), U64(T, P, untouched_bytes), U64(T, P, out_bytes),                  \
	U64(T, P, stayed_bytes), U64(T, P, zero_bytes), U64(T, P, zero_out_bytes), U64(T, P, guest_bytes),             \
	U64(T, P, cost_ns), TEXT(T, P, why)

#define COUNTERS(T, P)                                                                                                 \
	U64(T, P, ms), BOOL(T, P, has_major_faults), BOOL(T, P, has_refaults), BOOL(T, P, has_psi),                    \
	U64(T, P, major_faults), U64(T, P, refaults), U64(T, P, psi_some_us)

#define HOST(T, P)                                                                                                     \
	U64(T, P, mem_available_bytes), DOUBLE(T, P, psi_some_avg10), DOUBLE(T, P, psi_full_avg10),                    \
	U64(T, P, swap_free_bytes), U64(T, P, swap_total_bytes), U64(T, P, mem_total_bytes), BOOL(T, P, has_memory),   \
	BOOL(T, P, has_psi)

#define CONFIG(T, P)                                                                                                   \
	U64(T, P, pool_bytes), U64(T, P, reserve_bytes), BOOL(T, P, buffer_auto), U64(T, P, buffer_bytes),             \
	BOOL(T, P, observe), FIELD(T, P, policy, FIELD_POLICY, 0, 0), FIELD(T, P, policy_data, FIELD_NOT, 0, 0),       \
	U64(T, P, interval_ms), DOUBLE(T, P, dead_band),                                                               \
	DOUBLE(T, P, min_share), DOUBLE(T, P, headroom_share), U64(T, P, headroom_bytes), U64(T, P, dwell_ms),         \
	U64(T, P, dwell_max_ms), U64(T, P, grace_ms), U64(T, P, needy_hold_ms), U64(T, P, stale_ms),                   \
	DOUBLE(T, P, needy_swap_bytes_per_s), DOUBLE(T, P, needy_faults_per_s), DOUBLE(T, P, needy_stall),             \
	BOOL(T, P, balloon_enabled),                                                                                   \
	U64(T, P, min_speed_bytes_per_s), U64(T, P, stall_timeout_ms), U64(T, P, retry_min_ms),                        \
	U64(T, P, retry_max_ms), BOOL(T, P, swap_enabled), U64(T, P, max_step_bytes), U64(T, P, keep_free_bytes),      \
	BOOL(T, P, advice),                                                                                            \
	ENUM(T, P, admission, 0, ADMISSION_DENY + 1)

#define BOOKS(T, P)                                                                                                    \
	U64(T, P, pool_bytes), U64(T, P, buffer_target_bytes), U64(T, P, committed_max_bytes), U64(T, P, granted_bytes), \
	U64(T, P, buffer_bytes), U64(T, P, resident_bytes), U64(T, P, swapped_bytes), U64(T, P, unmet_bytes),          \
	ENUM(T, P, level, LEVEL_HIGH, LEVEL_END), BOOL(T, P, swap_low), U64(T, P, vms)

static const struct field image_list[] = {
	CONFIG(struct core_image, config.),
	HOST(struct core_image, host.),
	BOOKS(struct core_image, books.),
	BOOL(struct core_image, , hold_all),
	U64(struct core_image, , now_ms),
	WORDS(struct core_image, , policy_memory),
	U64(struct core_image, , given_bytes),
	DOUBLE(struct core_image, , given_peak_per_s),
};

static const struct field vm_list[] = {
	INT(struct vm, , id), ENUM(struct vm, , state, VM_STARTING, VM_STATE_END), ENUM(struct vm, , origin, 0, ORIGIN_ADOPT + 1),
	FACTS(struct vm, facts.), U64(struct vm, , added_ms), U64(struct vm, , carried_bytes), BOOL(struct vm, , booted),
	/* what was seen last */
	STATS(struct vm, stats.), BOOL(struct vm, , has_stats), U64(struct vm, , stats_ms), INT(struct vm, , stats_advances),
	U64(struct vm, , asked_ms), U64(struct vm, , silent_from_ms), BOOL(struct vm, , silent), BOOL(struct vm, , distrusted), BOOL(struct vm, , hoarder), BOOL(struct vm, , accused),
	U64(struct vm, , claim_ms), U64(struct vm, , evidence_ms), U64(struct vm, , trust_ms), BOOL(struct vm, , by_limit),
	SAMPLE(struct vm, sample.), BOOL(struct vm, , has_sample), U64(struct vm, , sample_ms),
	U64(struct vm, , actual_bytes), BOOL(struct vm, , actual_seen), U64(struct vm, , actual_change_ms), BOOL(struct vm, , actual_trusted),
	BOOL(struct vm, , actual_stale), U64(struct vm, , actual_ms), U64(struct vm, , overhead_bytes), BOOL(struct vm, , overhead_measured),
	U64(struct vm, , guest_ram_bytes), U64(struct vm, , guest_ram_ms), U64(struct vm, , hidden_bytes), BOOL(struct vm, , total_shrinks),
	/* rates */
	BOOL(struct vm, , has_guest_rates), BOOL(struct vm, , has_host_rates), DOUBLE(struct vm, , guest_swap_in_per_s),
	DOUBLE(struct vm, , guest_swap_out_per_s), U64(struct vm, , guest_swap_delta_bytes), DOUBLE(struct vm, , host_faults_per_s),
	DOUBLE(struct vm, , host_faults_before_per_s), U64(struct vm, , faulting_ms),
	COUNTERS(struct vm, counters_from.), COUNTERS(struct vm, counters_next.),
	BOOL(struct vm, , has_lasting_faults), BOOL(struct vm, , has_refault_rate), BOOL(struct vm, , has_stall),
	DOUBLE(struct vm, , lasting_faults_per_s), DOUBLE(struct vm, , host_refaults_per_s), DOUBLE(struct vm, , stall_share),
	U64(struct vm, , rate_stats_ms),
	U64(struct vm, , rate_sample_ms),
	/* between two statistics */
	U64(struct vm, , surge_from_bytes), U64(struct vm, , present_ms), U64(struct vm, , surge_bytes), U64(struct vm, , surge_sign_ms),
	/* working set */
	WSS(struct vm, wss.), U64(struct vm, , wss_ms), U64(struct vm, , wss_from_ms), U64(struct vm, wss_average., fast_bytes),
	U64(struct vm, wss_average., slow_bytes), U64(struct vm, wss_average., ms), U64(struct vm, wss_average., readings),
	BOOL(struct vm, , wss_overclaims), BOOL(struct vm, , wss_underclaims), U64(struct vm, , untouched_ms), U64(struct vm, , untouched_of_bytes),
	/* estimates */
	U64(struct vm, , demand_bytes), DOUBLE(struct vm, , demand_confidence), U64(struct vm, , estimate_ms), U64(struct vm, , used_bytes),
	U64(struct vm, , used_ms), U64(struct vm, , blind_until_ms), U64(struct vm, , growth_from_bytes), U64(struct vm, , growth_from_ms), U64(struct vm, , grown_bytes),
	DOUBLE(struct vm, , growth_mean_bytes_per_s), DOUBLE(struct vm, , growth_dev_bytes_per_s), U64(struct vm, , headroom_bytes),
	WORDS(struct vm, , used_before_bytes), DOUBLE(struct vm, , noise_bytes),
	U64(struct vm, , need_bytes), U64(struct vm, , greedy_bytes), U64(struct vm, , host_floor_bytes), U64(struct vm, , host_floor_until_ms),
	WORDS(struct vm, , past_bytes), WORDS(struct vm, , past_ms), U64(struct vm, , past_n), U64(struct vm, , usable_bytes), U64(struct vm, , usable_ms),
	BOOL(struct vm, , needy), U64(struct vm, , needy_since_ms), BOOL(struct vm, , insatiable), U64(struct vm, , needy_sign_ms), INT(struct vm, , needy_rounds),
	BOOL(struct vm, , host_need), BOOL(struct vm, , left_known), U64(struct vm, , left_bytes), WORDS(struct vm, , stats_size_bytes),
	DOUBLE(struct vm, , need_score), INT(struct vm, , rank), TEXT(struct vm, , needy_why),
	/* target and how it is being reached */
	U64(struct vm, , target_bytes), BOOL(struct vm, , balloon_unsure), U64(struct vm, , balloon_asked_bytes), U64(struct vm, , limit_asked_bytes),
	U64(struct vm, , limit_bytes), BOOL(struct vm, , limit_known), BOOL(struct vm, , limit_ours), BOOL(struct vm, , balloon_pending),
	BOOL(struct vm, , limit_pending), INT(struct vm, , balloon_seq), INT(struct vm, , limit_seq), INT(struct vm, , limit_failures),
	U64(struct vm, , limit_sent_ms), U64(struct vm, , limit_result_ms), U64(struct vm, , balloon_sent_ms), U64(struct vm, , lowered_ms), U64(struct vm, , limit_hold_ms),
	U64(struct vm, , progress_ms), U64(struct vm, , progress_bytes), U64(struct vm, , limit_drift_ms), U64(struct vm, , step_ms), U64(struct vm, , op_ms),
	U64(struct vm, , op_actual_bytes), BOOL(struct vm, , op_growing), U64(struct vm, , window_ms), U64(struct vm, , window_actual_bytes),
	U64(struct vm, , deadline_ms),
	/* balloon health */
	ENUM(struct vm, , health, BALLOON_UNKNOWN, BALLOON_HEALTH_END), U64(struct vm, , speed_bytes_per_s), U64(struct vm, , floor_bytes),
	U64(struct vm, , retry_delay_ms), U64(struct vm, , retry_at_ms), U64(struct vm, , inhibit_suspect_ms),
	/* the policy's plan */
	U64(struct vm, , plan_bytes), U64(struct vm, , wish_bytes), BOOL(struct vm, , plan_urgent), TEXT(struct vm, , plan_reason), INT(struct vm, , bounds), TEXT(struct vm, , reason),
	U64(struct vm, , would_bytes),
	/* stability, double swapping, a person's word */
	U64(struct vm, , grow_ms), U64(struct vm, , shrink_ms), U64(struct vm, , dwell_ms), U64(struct vm, , change_ms), INT(struct vm, , double_swap_signs),
	BOOL(struct vm, , double_swap), U64(struct vm, , double_swap_ms), U64(struct vm, , double_swap_until_ms), U64(struct vm, , pinned_bytes),
	U64(struct vm, , trim_until_ms), U64(struct vm, , trim_from_bytes),
	ENUM(struct vm, , advice_state, 0, ADVICE_DONE + 1), ADVICE(struct vm, advice.), BOOL(struct vm, , advice_room_due), BOOL(struct vm, , advice_stopped), BOOL(struct vm, , advice_again), U64(struct vm, , advice_ms), U64(struct vm, , advice_limit_bytes),
	BOOL(struct vm, , held), BOOL(struct vm, , drained), BOOL(struct vm, , quarantined),
	WORDS(struct vm, , policy_memory),
};

static const struct field effect_list[] = {
	ENUM(struct effect, , type, EFFECT_BALLOON, EFFECT_ADVICE_STOP + 1), INT(struct effect, , vm),
	U64(struct effect, , bytes), INT(struct effect, , seq), ENUM(struct effect, , record, 0, RECORD_END),
	ENUM(struct effect, , state, 0, VM_STATE_END), U64(struct effect, , from_bytes), U64(struct effect, , to_bytes),
	TEXT(struct effect, , reason),
};

static const struct field config_list[] = {CONFIG(struct core_config, )};
static const struct field host_list[] = {HOST(struct host_sample, )};
static const struct field stats_list[] = {STATS(struct guest_stats, )};
static const struct field sample_list[] = {SAMPLE(struct vm_host_sample, )};
static const struct field wss_list[] = {WSS(struct wss_reading, )};
static const struct field advice_list[] = {ADVICE(struct advice_report, )};
static const struct field facts_list[] = {FACTS(struct vm_facts, )};
static const struct field added_list[] = {ENUM(struct event, added., origin, 0, ORIGIN_ADOPT + 1),
					  U64(struct event, added., carried_bytes),
					  FACTS(struct event, added.facts.), MEMORY(struct event, added.memory.)};
static const struct field result_list[] = {ENUM(struct event, result., op, 0, OP_LIMIT + 1),
					   INT(struct event, result., seq), INT(struct event, result., code),
					   U64(struct event, result., bytes)};
/* clang-format on */

#define LAYOUT(what, T)                                                                                                \
	const struct layout layout_##what = {#what, what##_list, ARRAY_SIZE(what##_list), sizeof(T)};                  \
	_Static_assert(ARRAY_SIZE(what##_list) <= FIELDS_MAX, "FIELDS_MAX is too small")
LAYOUT(image, struct core_image);
LAYOUT(vm, struct vm);
LAYOUT(config, struct core_config);
LAYOUT(host, struct host_sample);
LAYOUT(stats, struct guest_stats);
LAYOUT(sample, struct vm_host_sample);
LAYOUT(wss, struct wss_reading);
LAYOUT(advice, struct advice_report);
LAYOUT(facts, struct vm_facts);
LAYOUT(effect, struct effect);
LAYOUT(added, struct event);
LAYOUT(result, struct event);

const struct layout *const layout_all[] = {&layout_image, &layout_vm,	  &layout_config, &layout_host,
					   &layout_stats, &layout_sample, &layout_wss,	  &layout_advice,
					   &layout_facts, &layout_effect, &layout_added,  &layout_result,
					   NULL};

uint32_t layout_fingerprint(void)
{
	uLong crc = crc32(0, NULL, 0);
	for (const struct layout *const *t = layout_all; *t; t++) {
		for (size_t i = 0; i < (*t)->n; i++) {
			const struct field *f = &(*t)->list[i];
			char text[160];
			/* No offset: where a compiler puts a field does not matter. A pointer's size does not either.
			 */
			unsigned size = f->kind >= FIELD_POLICY ? 0 : f->size;
			int len = snprintf(text, sizeof(text), "%s.%s %d %u %u %u\n", (*t)->name, f->name, (int)f->kind,
					   size, (unsigned)f->lo, (unsigned)f->end);
			crc = crc32(crc, (const Bytef *)text, (uInt)len);
		}
	}
	return (uint32_t)crc;
}

const char *field_value(const struct field *f, const void *object, char buf[FIELD_VALUE_LEN])
{
	const void *at = (const char *)object + f->offset;
	const struct policy_ops *policy;
	switch (f->kind) {
	case FIELD_BOOL:
		snprintf(buf, FIELD_VALUE_LEN, "%s", *(const bool *)at ? "yes" : "no");
		break;
	case FIELD_INT:
	case FIELD_ENUM:
		snprintf(buf, FIELD_VALUE_LEN, "%d", *(const int *)at);
		break;
	case FIELD_U64:
		snprintf(buf, FIELD_VALUE_LEN, "%lld", (long long)*(const int64_t *)at);
		break;
	case FIELD_DOUBLE:
		snprintf(buf, FIELD_VALUE_LEN, "%.17g", *(const double *)at);
		break;
	case FIELD_TEXT:
		snprintf(buf, FIELD_VALUE_LEN, "\"%.150s\"", (const char *)at);
		break;
	case FIELD_WORDS: /* which one differs says nothing to anybody but its policy */
		snprintf(buf, FIELD_VALUE_LEN, "%u words", f->size / 8U);
		break;
	case FIELD_NOT:
		snprintf(buf, FIELD_VALUE_LEN, "not recorded");
		break;
	case FIELD_POLICY:
		policy = *(const struct policy_ops *const *)at;
		snprintf(buf, FIELD_VALUE_LEN, "%s", policy ? policy->name : "none");
		break;
	}
	return buf;
}
