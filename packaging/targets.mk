# SPDX-License-Identifier: LGPL-2.1-or-later
# Everything but the programs themselves: tests, static analysis, fuzzing, installing, packages. Included by the Makefile.

PYTHON ?= python3
FUZZ_SECONDS ?= 30
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo -E)

.PHONY: deps deps-dev check check-unit check-system check-lab bench bench-policy policy-figures demo lint fuzz fuzz-run install uninstall deb check-deb rpm tests
help:
	@echo 'make                 the programs, in $(B)/'
	@echo 'make deps            install what building and testing need (apt or dnf; asks for root by sudo)'
	@echo 'make deps-dev        the same and what lint, fuzz and deb need'
	@echo 'make demo            the story told by real guests, under 3 minutes (root; KEEP=1 leaves it running)'
	@echo 'make check           deps, build, check-unit, check-system'
	@echo 'make check-unit      unit tests and virtual-time scenarios; no root'
	@echo 'make check-system    real libvirt and real guests (root); TESTS="words" picks some by name, LANES=N: side by side'
	@echo 'make check-lab       a whole Debian in QEMU, memoc installed on it from its package (root, Debian); LAB=bookworm|trixie, TESTS="words"'
	@echo 'make bench           figures, tests/bench (root)'
	@echo 'make bench-policy    policies over traces and the bars they have to meet; TRACES=DIR: real ones; tests/bench/policy'
	@echo 'make policy-figures  the figures of memoc-policy(7) measured anew and written into it; TRACES=DIR'
	@echo 'make lint            clang-tidy, cppcheck, shellcheck, format, catalog, man pages; fuzz: FUZZ_SECONDS=30 for each target'
	@echo 'make install         DESTDIR= PREFIX=/usr SYSCONFDIR=/etc; make uninstall takes it away again'
	@echo 'make deb             a Debian package, in $(B)/deb/; make check-deb installs, upgrades and purges it in a view of this root (root)'
	@echo 'make rpm             an RPM package, in $(B)/rpm/'
	@echo 'make clean           removes build/ and build-*/'
	@echo 'Variables: CC=gcc|clang  WERROR=1  SAN=1 (address and undefined behaviour)  V=1 (show commands)  B=DIR'

deps:
	@packaging/deps
deps-dev:
	@packaging/deps --dev

# ---- unit tests: each tests/unit/test_NAME.c is a program; other files there are shared by all of them ----
UNIT_SRC := $(wildcard tests/unit/test_*.c)
UNIT := $(patsubst %.c,$(B)/%,$(UNIT_SRC))
UNIT_SHARED := $(call objs,$(filter-out $(UNIT_SRC) tests/unit/alloc_fail.c,$(wildcard tests/unit/*.c)))
L_ALL := $(L_HOOKS) $(L_CLI) $(L_DAEMON) $(L_WSS) $(L_ADVICE) $(L_HOST) $(L_SIM) $(L_RECORD) $(L_CORE) $(L_COMMON)
LIBS_ALL := $(LIBS_CLI) $(LIBS_DAEMON) $(LIBS_HOST) $(LIBS_SIM) $(LIBS_COMMON)

# Allocations fail on demand in these tests alone: their linker flags come from the __wrap_ functions that alloc_fail.c defines.
ALLOC_FAIL := $(wildcard tests/unit/alloc_fail.c)
WRAPS := $(if $(ALLOC_FAIL),$(shell grep -o '\b__wrap_[a-z0-9_]*' $(ALLOC_FAIL) | sort -u | sed 's/__wrap_/-Wl,--wrap=/'))
ALLOC_TESTS := $(B)/tests/unit/test_alloc $(B)/tests/unit/test_sim $(B)/tests/unit/test_trace $(B)/tests/unit/test_record
$(ALLOC_TESTS): TEST_LDFLAGS := $(WRAPS)
$(ALLOC_TESTS): $(call objs,$(ALLOC_FAIL))

$(UNIT): $(B)/tests/unit/%: $(B)/tests/unit/%.o $(UNIT_SHARED) $(L_ALL)
	$(Q)$(CC) $(ALL_LDFLAGS) $(TEST_LDFLAGS) -o $@ $(filter %.o,$^) $(L_ALL) -lcmocka $(LIBS_ALL)
tests: $(UNIT)

check-unit: all $(UNIT)
	@MEMOC_BUILD=$(abspath $(B)) packaging/run-unit $(UNIT)

LANES ?= 2
check-system: all
	$(SUDO) env MEMOC_BUILD=$(abspath $(B)) $(PYTHON) tests/system/run.py --lanes $(LANES) $(if $(TESTS),-k '$(TESTS)')

# Recursive, so that what deps has just installed is seen when flags are asked for.
check:
	@packaging/deps
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory check-unit
	@$(MAKE) --no-print-directory check-system

# What it builds once is kept outside of the tree: tests/guest/image.py says where. The package is built from these sources too.
check-lab:
	@packaging/deps --lab
	$(SUDO) env MEMOC_BUILD=$(abspath $(B)) LAB='$(LAB)' $(PYTHON) tests/lab/run.py $(if $(TESTS),-k '$(TESTS)')

# Working-set back-ends against a process whose use of memory is known, and on a QEMU; see the files.
$(B)/tests/bench/wss/truth $(B)/tests/bench/wss/watch $(B)/tests/bench/wss/cost: %: %.o $(L_WSS) $(L_HOST) $(L_CORE) $(L_COMMON)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_HOST) $(LIBS_COMMON)

# What memory advice costs here; see the file.
$(B)/tests/bench/advice/cost: %: %.o $(L_ADVICE) $(L_HOST) $(L_CORE) $(L_COMMON)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_HOST) $(LIBS_COMMON)

bench: all $(B)/tests/bench/wss/cost $(B)/tests/bench/advice/cost
	@set -e; found=; for f in tests/bench/*.py tests/bench/*.sh; do \
		[ -e "$$f" ] || continue; found=1; echo "== $$f"; \
		case $$f in *.py) run=$(PYTHON);; *) run=bash;; esac; \
		$(SUDO) env MEMOC_BUILD=$(abspath $(B)) $$run "$$f"; \
	done; [ -n "$$found" ] || { echo 'make bench: nothing in tests/bench' >&2; exit 1; }

bench-policy: $(B)/memoc
	@MEMOC_BUILD=$(abspath $(B)) TRACES='$(TRACES)' $(PYTHON) tests/bench/policy/bars.py
policy-figures: $(B)/memoc
	@MEMOC_BUILD=$(abspath $(B)) TRACES='$(TRACES)' $(PYTHON) tests/bench/policy/page.py

demo:
	@packaging/deps
	@$(MAKE) --no-print-directory all
	$(SUDO) env MEMOC_BUILD=$(abspath $(B)) KEEP=$(KEEP) $(PYTHON) tests/system/demo.py

# ---- manual pages, with what the programs say of themselves put in ----
MAN := $(patsubst packaging/man/%,$(B)/man/%,$(wildcard packaging/man/*.[1-8]))
$(MAN): $(B)/man/%: packaging/man/% packaging/man-page packaging/memoc.conf $(B)/memoc $(B)/memocd
	@mkdir -p $(@D)
	$(Q)packaging/man-page $(B) $< > $@.new && mv $@.new $@

# ---- static analysis ----
lint: $(B)/varlink-text.h $(MAN)
	@B='$(B)' FLAGS="$(filter-out -D_FORTIFY_SOURCE=2 -DMEMOC_VERSION=%,$(ALL_CPPFLAGS)) -std=gnu11 $(call pkgflags,libxml-2.0) $(WARN)" \
		packaging/lint

# ---- fuzzing: a build of its own, everything instrumented ----
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ := $(patsubst %.c,$(B)/%,$(FUZZ_SRC))
$(FUZZ): $(B)/tests/fuzz/%: $(B)/tests/fuzz/%.o $(L_ALL)
	$(Q)$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $< $(L_ALL) $(LIBS_ALL)
fuzz-run: $(FUZZ)
	@packaging/run-fuzz $(FUZZ_SECONDS) $(B)/fuzz $(FUZZ)
fuzz:
	@$(MAKE) --no-print-directory CC=clang SAN=fuzz B=$(if $(filter file command%,$(origin B_FUZZ)),$(B_FUZZ),build-fuzz) fuzz-run

# ---- installing ----
SYSCONFDIR ?= /etc
SBINDIR ?= $(PREFIX)/sbin
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
DATADIR ?= $(PREFIX)/share
UNITDIR ?= $(LIBDIR)/systemd/system
ZSHDIR ?= $(DATADIR)/zsh/site-functions
MANDIR ?= $(DATADIR)/man
HOOKDIR ?= $(SYSCONFDIR)/libvirt/hooks/qemu.d
# HOOK_LINK=1 (packages): the hook lives in SBINDIR and hooks/qemu.d holds a link, so that no program is a file of /etc.
# Otherwise the program itself lies there: a link into /usr/local would be refused by AppArmor.
HOOK_LINK ?=

INSTALLED := $(SBINDIR)/memocd $(BINDIR)/memoc $(HOOKDIR)/50-memoc $(SBINDIR)/memoc-hook \
	$(UNITDIR)/memocd.service $(UNITDIR)/memocd.socket \
	$(LIBDIR)/sysusers.d/memoc.conf $(LIBDIR)/tmpfiles.d/memoc.conf $(LIBDIR)/systemd/catalog/memoc.catalog \
	$(DATADIR)/bash-completion/completions/memoc $(ZSHDIR)/_memoc \
	$(DATADIR)/fish/vendor_completions.d/memoc.fish $(patsubst common/%,$(DATADIR)/varlink/%,$(VARLINK)) \
	$(foreach page,$(notdir $(MAN)),$(MANDIR)/man$(subst .,,$(suffix $(page)))/$(page))

install: all $(MAN)
	install -D -m 755 $(B)/memocd $(DESTDIR)$(SBINDIR)/memocd
	install -D -m 755 $(B)/memoc $(DESTDIR)$(BINDIR)/memoc
ifeq ($(HOOK_LINK),)
	install -D -m 755 $(B)/memoc-hook $(DESTDIR)$(HOOKDIR)/50-memoc
else
	install -D -m 755 $(B)/memoc-hook $(DESTDIR)$(SBINDIR)/memoc-hook
	install -d $(DESTDIR)$(HOOKDIR)
	ln -sfn $(SBINDIR)/memoc-hook $(DESTDIR)$(HOOKDIR)/50-memoc
endif
	[ -e $(DESTDIR)$(SYSCONFDIR)/memoc/memoc.conf ] || \
		install -D -m 644 packaging/memoc.conf $(DESTDIR)$(SYSCONFDIR)/memoc/memoc.conf
	install -d $(DESTDIR)$(SYSCONFDIR)/memoc/memoc.conf.d $(DESTDIR)$(UNITDIR)
	sed 's|@SBINDIR@|$(SBINDIR)|g' packaging/memocd.service > $(DESTDIR)$(UNITDIR)/memocd.service
	chmod 644 $(DESTDIR)$(UNITDIR)/memocd.service
	install -D -m 644 packaging/memocd.socket $(DESTDIR)$(UNITDIR)/memocd.socket
	install -D -m 644 packaging/memoc.sysusers $(DESTDIR)$(LIBDIR)/sysusers.d/memoc.conf
	install -D -m 644 packaging/memoc.tmpfiles $(DESTDIR)$(LIBDIR)/tmpfiles.d/memoc.conf
	install -D -m 644 packaging/memoc.catalog $(DESTDIR)$(LIBDIR)/systemd/catalog/memoc.catalog
	install -d $(DESTDIR)$(DATADIR)/bash-completion/completions $(DESTDIR)$(ZSHDIR) \
		$(DESTDIR)$(DATADIR)/fish/vendor_completions.d
	$(B)/memoc completion bash > $(DESTDIR)$(DATADIR)/bash-completion/completions/memoc
	$(B)/memoc completion zsh > $(DESTDIR)$(ZSHDIR)/_memoc
	$(B)/memoc completion fish > $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/memoc.fish
	install -d $(DESTDIR)$(DATADIR)/varlink
	install -m 644 $(VARLINK) $(DESTDIR)$(DATADIR)/varlink/
	for page in $(MAN); do install -D -m 644 $$page $(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/}; done
	$(if $(DESTDIR),,@packaging/after-install $(PREFIX))

# The configuration in /etc and the state in /var/lib/memoc stay: they are the administrator's.
uninstall:
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))
	$(if $(DESTDIR),,@packaging/after-install --removed)

deb:
	@packaging/make-deb '$(VERSION)' $(B)/deb
rpm:
	@packaging/make-rpm "$(VERSION)" $(B)/rpm
check-deb: deb
	@$(SUDO) packaging/check-deb $$(ls $(B)/deb/memoc_*.deb)
