/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Logging to journald with structured fields, or to stderr as one line each. Only programs log (see err.h).
 * Thread-safe after log_open. Messages about VMs and decisions carry a catalogued MESSAGE_ID.
 */
#ifndef MEMOC_COMMON_LOG_H
#define MEMOC_COMMON_LOG_H

#include "common/parse.h"

/* Same numbers as syslog(3), so that journald's PRIORITY is the level itself. */
enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_NOTICE = 5,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7
};
enum log_target { LOG_TARGET_STDERR = 1, LOG_TARGET_JOURNAL };

/* ident: SYSLOG_IDENTIFIER; lives as long as the program. Lines below the level are dropped. */
void log_open(enum log_target target, enum log_level level, const char *ident);
void log_set_level(enum log_level level);
/* Names for --log-level: error, warning, notice, info, debug. Table for enum_from_name. */
extern const struct enum_name log_level_names[];

/* Every pointer may be NULL: that field is then left out. has_… says whether the number beside it is meant. */
struct log_fields {
	const char *message_id; /* 32 hex digits, one of MSG_… below */
	const char *vm, *uuid, *state, *event, *reason;
	bool has_from, has_to;
	uint64_t from_bytes, to_bytes;
};

/* MEMOC_VM, MEMOC_UUID, MEMOC_STATE, MEMOC_EVENT, MEMOC_FROM_BYTES, MEMOC_TO_BYTES, MEMOC_REASON as in interfaces.md.
 */
void log_fields(enum log_level level, const struct log_fields *fields, const char *fmt, ...) PRINTF_LIKE(3, 4);
#define log_error(...) log_fields(LOG_LEVEL_ERROR, NULL, __VA_ARGS__)
#define log_warning(...) log_fields(LOG_LEVEL_WARNING, NULL, __VA_ARGS__)
#define log_notice(...) log_fields(LOG_LEVEL_NOTICE, NULL, __VA_ARGS__)
#define log_info(...) log_fields(LOG_LEVEL_INFO, NULL, __VA_ARGS__)
#define log_debug(...) log_fields(LOG_LEVEL_DEBUG, NULL, __VA_ARGS__)

/* Message ids: random 128-bit numbers, never reused; packaging's journal catalog explains each. */
#define MSG_DAEMON_READY "5b0d3c1f7c9c4c0c8f0a4a8d3f1f6e01"
#define MSG_DAEMON_STOPPING "8e1d6f0e2b5d4b5d9a6f3d2c7b9e4a02"
#define MSG_CONFIG_REFUSED "c2a97d5e6f814f3bb1d0e5a9c4873f03"
#define MSG_VM_MANAGED "1f4c8b7a9d3e4e62a5c0b6f7d8e91204"
#define MSG_VM_GONE "93b5e2d1c7f04a6c8e1f0a2b3c4d5e05"
#define MSG_VM_STATE "e7a1c3b5d9f24068a2c4e6f80b1d3f06"
#define MSG_VM_RESIZE "4d6f8a0c2e1b4357b9d1f3e5a7c90807"
#define MSG_VM_INELIGIBLE "a8c6e4d2b0f14938877665544b3a2f08"
#define MSG_VM_POLICY "60f1e2d3c4b54a69978897a6b5c4d309"
#define MSG_VM_POLICY_BAD "2b4d6f8190a34c5ebf7d8e9fa0b1c20a"
#define MSG_BALLOON_STALLED "d1e2f3a4b5c64d7e8f90a1b2c3d4e50b"
#define MSG_BALLOON_BACK "7c8d9eafb0c14d2e93f4a5b6c7d8e90c"
#define MSG_GUEST_SILENT "e378531768cb4245b0dcc04bdf643a9f"
#define MSG_GUEST_DISTRUSTED "229e019edee04e36b0eb86d3c6b69081"
#define MSG_DOUBLE_SWAP "f0e1d2c3b4a5469788796a5b4c3d2e0d"
#define MSG_VM_QUARANTINED "3a5c7e9fb1d34f5680a2c4e6f8091b0e"
#define MSG_HOST_LEVEL "b9d7f5e3c1a0482f9e8d7c6b5a49380f"
#define MSG_LIBVIRT_LINK "0d2f4b6a8c1e4f3095b7d9fb1d3f5110"
#define MSG_SWAP_LOW "82a4c6e8fa1c4e3f80b2d4f6a8cadc11"
#define MSG_ADVICE "a6b621228b1d4849806e5e8fd01656e2"
#define MSG_CLIENT_DROPPED "e5d4c3b2a19048f7a6e5d4c3b2a19012"
#define MSG_ADMISSION "48f6a5b4c3d24e1f90817263544f5a13"

#endif
