/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Included in front of every file that cppcheck looks at, and by nothing else: macros of <sys/queue.h>, which it does not read. */
#define LIST_HEAD(name, type)                                                                                          \
	struct name {                                                                                                  \
		struct type *lh_first;                                                                                 \
	}
