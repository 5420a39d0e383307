/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Included in front of every file that cppcheck looks at, and by nothing else: macros of <sys/queue.h>, which it does
 * not read. */
#define LIST_HEAD(name, type)                                                                                          \
	struct name {                                                                                                  \
		struct type *lh_first;                                                                                 \
	}
#define TAILQ_HEAD(name, type) LIST_HEAD(name, type)
#define STAILQ_HEAD(name, type) LIST_HEAD(name, type)
#define LIST_ENTRY(type)                                                                                               \
	struct {                                                                                                       \
		struct type *le_next;                                                                                  \
	}
#define TAILQ_ENTRY(type) LIST_ENTRY(type)
#define STAILQ_ENTRY(type) LIST_ENTRY(type)
#define LIST_FOREACH(var, head, field) for ((var) = (head)->lh_first; (var); (var) = (var)->field.le_next)
#define TAILQ_FOREACH(var, head, field) LIST_FOREACH(var, head, field)
#define STAILQ_FOREACH(var, head, field) LIST_FOREACH(var, head, field)
