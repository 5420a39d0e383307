#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Builds and runs core_decide.c against the core that was built in $MEMOC_BUILD (default build).
set -eu
cd "$(dirname "$0")/../.."
build=${MEMOC_BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${CC:-gcc}" -std=gnu11 -O2 -I. -D_GNU_SOURCE -o "$work/core_decide" tests/bench/core_decide.c \
	"$build/libcontroller-core.a" "$build/libcommon.a" -lm
"$work/core_decide"
