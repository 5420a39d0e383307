/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Included in front of every file that clang-tidy looks at (packaging/lint), and by nothing else. The analyzer sees one
 * file at a time, so it must be told what err.h promises: memoc_err_set returns its code, and nobody reports an error
 * of 0.
 */
#include "common/err.h"

#define TIDY_CODE(function, err, code, ...)                                                                            \
	({                                                                                                             \
		int tidy_code_ = (code);                                                                               \
		(function)(err, tidy_code_, __VA_ARGS__);                                                              \
		__builtin_assume(tidy_code_ != 0);                                                                     \
		tidy_code_;                                                                                            \
	})
#define memoc_err_set(err, code, ...) TIDY_CODE(memoc_err_set, err, code, __VA_ARGS__)
#define memoc_err_prefix(err, code, ...) TIDY_CODE(memoc_err_prefix, err, code, __VA_ARGS__)
