# SPDX-License-Identifier: LGPL-2.1-or-later
# memoc: `make help` lists the targets. Each room is an archive of its own; the link lines below are the house plan:
# a room can only use the rooms that are named after it.

.DEFAULT_GOAL := all
VERSION := 0.1.0
PREFIX ?= /usr
DESTDIR ?=
CC ?= cc
ifeq ($(origin CC),default)
CC := gcc
endif
READELF ?= readelf

# build/ is the plain build; sanitizer and clang builds live beside it, so that none overwrites another.
B := build$(if $(filter-out gcc,$(notdir $(CC))),-$(notdir $(CC)))$(if $(SAN),-san)

comma := ,
# Asked for where it is used, not here: `make check` may just have installed the library.
pkgflags = $(shell pkg-config --cflags $(1) 2>/dev/null)

# CPPFLAGS, CFLAGS and LDFLAGS are the user's, also on the command line; what the code needs stands in ALL_*.
ALL_CPPFLAGS := -I. -I$(B) -D_GNU_SOURCE -DMEMOC_VERSION='"$(VERSION)"' $(if $(SAN),,-D_FORTIFY_SOURCE=2) $(CPPFLAGS)
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings -Wvla \
	-Wno-unused-parameter $(if $(WERROR),-Werror)
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu11 $(WARN) -fstack-protector-strong -fPIE $(CFLAGS) $(SAN_FLAGS)
ALL_LDFLAGS = -pie -Wl,--as-needed -Wl,-z,relro,-z,now $(LDFLAGS) $(SAN_FLAGS)
ifdef SAN
# SAN=1; SAN=fuzz adds what libFuzzer wants to see of every file.
SAN_FLAGS := -fsanitize=address,undefined$(if $(filter fuzz,$(SAN)),$(comma)fuzzer-no-link) -fno-sanitize-recover=undefined \
	-fno-omit-frame-pointer
endif

# ---- rooms ----
ROOMS := common controller/core controller/record controller/sim controller/host controller/wss controller/advice controller/daemon controller/cli hooks
src = $(filter-out %_main.c,$(wildcard $(1)/*.c))
objs = $(patsubst %.c,$(B)/%.o,$(1))
lib = $(B)/lib$(subst /,-,$(1)).a
$(B)/common/%.o $(B)/controller/%.o $(B)/hooks/%.o $(B)/tests/%.o: ALL_CFLAGS += $(call pkgflags,libxml-2.0)
# libev casts every ev_TYPE * to ev_watcher * (its macros do it in the including file), which breaks the aliasing rules of C:
# the rooms that include ev.h are compiled without them.
$(B)/controller/host/%.o $(B)/controller/daemon/%.o $(B)/tests/%.o: ALL_CFLAGS += -fno-strict-aliasing

# The list of a room's files is a file too, so that the archive forgets one that was deleted.
define room_rule
$(call lib,$(1)).list: FORCE
	@mkdir -p $$(@D)
	@echo '$(call src,$(1))' | cmp -s - $$@ || echo '$(call src,$(1))' > $$@
$(call lib,$(1)): $(call objs,$(call src,$(1))) $(call lib,$(1)).list
	@rm -f $$@
	$$(Q)$$(AR) rcs $$@ $$(filter %.o,$$^)
endef
$(foreach r,$(ROOMS),$(eval $(call room_rule,$(r))))

Q := $(if $(V),,@)
L_COMMON := $(call lib,common)
L_CORE := $(call lib,controller/core)
L_RECORD := $(call lib,controller/record)
L_SIM := $(call lib,controller/sim)
L_HOST := $(call lib,controller/host)
L_WSS := $(call lib,controller/wss)
L_ADVICE := $(call lib,controller/advice)
L_DAEMON := $(call lib,controller/daemon)
L_CLI := $(call lib,controller/cli)
L_HOOKS := $(call lib,hooks)

LIBS_COMMON := -lyajl -lxml2 -lsystemd -lm
LIBS_RECORD := -lz
LIBS_SIM := -lz -llzma
LIBS_HOST := -lvirt -lev -lcgroup -lpthread
LIBS_DAEMON := -linih
LIBS_CLI := -lsmartcols

PROGRAMS := $(B)/memocd $(B)/memoc $(B)/memoc-hook

.PHONY: all help clean
all: $(PROGRAMS) $(B)/core-is-pure

# Programs: main file first, then rooms from the top of the house down.
$(B)/memocd: $(B)/controller/daemon/memocd_main.o $(L_DAEMON) $(L_WSS) $(L_ADVICE) $(L_HOST) $(L_RECORD) $(L_CORE) $(L_COMMON)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_DAEMON) $(LIBS_HOST) $(LIBS_RECORD) $(LIBS_COMMON)
$(B)/memoc: $(B)/controller/cli/memoc_main.o $(L_CLI) $(L_SIM) $(L_RECORD) $(L_CORE) $(L_COMMON)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CLI) $(LIBS_SIM) $(LIBS_RECORD) $(LIBS_COMMON)
# The hook starts with libc alone and opens these by the names that the linker would have written: hooks/memoc_hook_main.c.
soname = $(shell $(READELF) -d "$$($(CC) -print-file-name=$(1).so)" 2>/dev/null | sed -n 's/.*(SONAME).*\[\(.*\)\].*/\1/p')
$(B)/hooks/memoc_hook_main.o: ALL_CFLAGS += -DHOOK_LIBRARIES='"$(call soname,libyajl)\0$(call soname,libxml2)\0"'
$(B)/memoc-hook: $(B)/hooks/memoc_hook_main.o $(L_HOOKS) $(L_COMMON) packaging/check-hook-starts-alone
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter-out packaging/%,$^)
	$(Q)$(if $(SAN),,packaging/check-hook-starts-alone $@ || { rm -f $@; exit 1; })

$(B)/%.o: %.c $(B)/flags | $(B)/varlink-text.h
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# Rebuild everything when the compiler or its flags change.
FLAGS_NOW := $(CC) $(ALL_CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(SAN_FLAGS) $(WARN)
$(B)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' > $@
FORCE:

# The varlink interface texts, as C strings.
VARLINK := $(wildcard common/*.varlink)
$(B)/varlink-text.h: $(VARLINK)
	@mkdir -p $(@D)
	$(Q)for f in $^; do n=$$(basename $$f .varlink | tr . _); \
		printf '#define VARLINK_TEXT_%s \\\n' $$n; \
		sed -e 's/\\/\\\\/g; s/"/\\"/g; s/^/\t"/; s/$$/\\n" \\/' $$f; echo '	""'; done > $@

# The core may use nothing but libc's pure functions.
PURE := memcpy|memmove|memset|memcmp|bcmp|strcmp|strncmp|strlen|strnlen|qsort|calloc|free|realloc|malloc|snprintf|vsnprintf|abort
PURE := $(PURE)|__divti3|__udivti3|__stack_chk_fail|__snprintf_chk|__vsnprintf_chk|__memcpy_chk|__memset_chk|__strncpy_chk|strncpy|exp|sqrt|pow
$(B)/core-is-pure: $(L_CORE) packaging/check-core-is-pure
ifdef SAN
	@touch $@
else
	$(Q)packaging/check-core-is-pure $(L_CORE) '$(PURE)' && touch $@
endif

clean:
	rm -rf build build-*

-include packaging/targets.mk
-include $(shell find $(B) -path $(B)/deb -prune -o -type f -name '*.d' -print 2>/dev/null)
