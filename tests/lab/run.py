# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots the lab's host, a whole Debian with systemd, cgroup v2 and libvirt in QEMU, and runs something in it (as root).

    python3 tests/lab/run.py                          all tests; LAB=trixie (or --flavour) for Debian 13
    python3 tests/lab/run.py -k 'install journal'     tests whose name holds one of these words
    python3 tests/lab/run.py -k test_wss_table        a module that takes long, see ON_DEMAND: only when a word names it
    python3 tests/lab/run.py -k test_crash            so does any module of tests/system, of which PLAN has some tests only
    python3 tests/lab/run.py --list                   their names
    python3 tests/lab/run.py --shell-script FILE      one script inside the host, with memoc's package at /lab/memoc.deb (not
                                                      installed), this tree's tests at /lab/tree/tests, and kernel and initramfs
                                                      of a guest at $MEMOC_GUEST_IMAGE; files that it leaves in /lab/results are
                                                      copied to build/lab-FLAVOUR/, as are journal and console

Inside, tests/system/run.py runs the tests of the host (tests/lab/test_*.py), and those of tests/system that PLAN names, on cgroup
v2. The first run builds kernels, root file system and package, which takes about 15 minutes; all is cached, see
tests/guest/image.py. The last line is "N passed, N failed, N skipped".
"""

import argparse
import functools
import importlib.util
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent / "system"), str(HERE.parent / "guest")]

# pylint: disable=wrong-import-position
import lab as lab_module
from image import GuestImage, ImageError, cache_dir, cached, locked
from kernels import kernel_trees
from lab import Lab, LabError
from machine import Machine
from memocd import build_dir, check_program
from roots import FLAVOURS, digest_of, package, root_image

SLOW = 10  # how much slower than this machine the host inside is, for time limits
LIMIT_S = 2700
# Where things lie inside.
ENVIRONMENT = {"MEMOC_LAB_SLOW": str(SLOW), "MEMOC_GUEST_IMAGE": "/var/lib/memoc-lab", "MEMOC_CACHE": "/var/cache/memoc-tests",
               # An ACPI method that takes 30 s is given up, and with it the balloon's interrupt: not rare where all takes ten times as long.
               "MEMOC_GUEST_WORDS": "acpi=off 8250.nr_uarts=2",
               "MEMOC_BUILD": "/var/lib/memoc-lab/build", "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8",
               "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
# What is slow once and then known: systemd's first boot, and what libvirt asks of QEMU.
WARM_UP = """#!/bin/sh
systemctl is-system-running --wait
virsh -c qemu:///system domcapabilities --virttype qemu >/dev/null || exit 1
mkdir -p /var/cache/memoc-tests && ln -sfn /var/cache/libvirt/qemu/capabilities /var/cache/memoc-tests/libvirt-capabilities
ls /var/cache/libvirt/qemu/capabilities/*.xml || exit 1
journalctl --rotate -q; journalctl --vacuum-time=1s -q
"""


def say(text):
    print(text, flush=True)


# What runs inside, in this order: (which boot, directory of tests, module, words that choose among its tests). The level-1 scenarios
# bring their own libvirtd and come first, as there are no other guests yet: each takes a processor's time. The other modules build
# on one another: memoc comes with the first and goes with test_remove.
PLAN = [
    (1, "system", "test_lifecycle", "reset_from_outside pause_and_resume destroy_in_mid_shrink"),
    (1, "system", "test_resize", "order_of_limit_and_balloon"),
    (1, "system", "test_hook", "known_through_the_hook_alone"),
    (1, "lab", "test_install", ""),
    (1, "lab", "test_service", ""),
    (2, "lab", "test_boot", ""),
    (2, "lab", "test_cgroup_v2", ""),
    (2, "lab", "test_advice_here", ""),
    (2, "lab", "test_wss", ""),
    (2, "lab", "test_distrust", ""),
    (2, "lab", "test_remove", ""),
]
# Not part of all tests: for those who ask by the module's name, as they can for any module of tests/system.
ON_DEMAND = [(2, "lab", "test_hoard", ""), (1, "lab", "test_wss_table", ""), (1, "lab", "test_apparmor", "")]
# Programs for modules inside, in /lab/programs. They are of this machine: where
# its release is newer than the lab's they may not load there, which is skipped.
PROGRAMS = {"test_wss": ("watch",), "test_wss_table": ("watch", "cost"), "test_advice_here": ("advice_check",)}

# Put before the calls of run.py. Level-1 tests take the programs out of the package, which is not installed yet.
SCRIPT = """#!/bin/sh
mkdir -p /var/lib/memoc-lab && cp -n /lab/image/* /var/lib/memoc-lab/
if [ ! -d "$MEMOC_BUILD" ]; then
	dpkg-deb -x /lab/memoc.deb /var/lib/memoc-lab/package
	mkdir "$MEMOC_BUILD"
	for program in sbin/memocd sbin/memoc-hook bin/memoc; do ln -s /var/lib/memoc-lab/package/usr/$program "$MEMOC_BUILD"; done
fi
cd /lab/tree/tests/system
worst=0
"""


@functools.cache
def runner():
    """tests/system/run.py, under the name by which test modules know it; it is not this file."""
    spec = importlib.util.spec_from_file_location("run", HERE.parent / "system/run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["run"] = module
    spec.loader.exec_module(module)
    return module


def chosen(words):
    """[(boot, directory, [full names])] of the plan's tests whose name holds one of these words."""
    found = []
    asked = {word.split(".")[0] for word in words.split()}
    on_demand = [entry for entry in ON_DEMAND if entry[2] in asked]
    own = {module for _, directory, module, _ in PLAN if directory == "lab"}  # before one of the same name at level 1
    on_demand += [(1, "system", name, "") for name in sorted(asked - own) if (TREE / "tests/system" / f"{name}.py").exists()]
    modules = {module for _, _, module, _ in on_demand}
    for boot, directory, module, among in on_demand + [entry for entry in PLAN if entry[2] not in modules]:
        sys.path.insert(0, str(TREE / "tests" / directory))
        names = [name for _, tests in runner().collect(f"{module}.", TREE / "tests" / directory) for name, _ in tests]
        lost = [word for word in among.split() if not any(word in name for name in names)]
        if lost:
            raise SystemExit(f"lab: {module} has no test any more whose name holds {' or '.join(lost)}: mend PLAN")
        names = [name for name in names if not among or any(word in name for word in among.split())]
        names = [name for name in names if not words or any(word in name for word in words.split())]
        if names:
            found.append((boot, directory, names))
    return found


def make_programs(directory, names):
    """What tests inside run besides memoc, from these sources."""
    build = build_dir()
    directory.mkdir()
    for name in names:
        if (TREE / f"tests/system/{name}.c").exists():
            check_program(directory, name, ("advice", "host"))
        else:
            target = build / "tests/bench/wss" / name
            subprocess.run(["make", "-C", str(TREE), f"B={build}", "--no-print-directory", str(target)], check=True, stdout=subprocess.DEVNULL)
            shutil.copy(target, directory)


def script_of(tests):
    """A script for inside, which runs them and asks for a second boot when they want one."""
    lines = [SCRIPT]
    last = max(boot for boot, _, _ in tests)
    for boot in range(1, last + 1):
        lines.append(f'if [ "$BOOT" -eq {boot} ]; then\n')
        for _, directory, names in [entry for entry in tests if entry[0] == boot]:
            lines.append(f"python3 run.py --of ../{directory} -k '{' '.join(names)}' || worst=1\n")
        if boot < last:
            lines.append("python3 ../lab/installed.py || worst=1\n")  # the next boot finds memoc and its guests, whatever was chosen
            lines.append('echo "$worst" >/lab/worst; exit 194\n')
        lines.append("fi\n")
    lines.append('[ ! -e /lab/worst ] || [ "$(cat /lab/worst)" = 0 ] || worst=1\nexit $worst\n')
    return "".join(lines)


class Parts:
    """All that a run needs, from the cache or made for it."""

    def __init__(self, flavour):
        self.flavour = flavour
        trees = kernel_trees(say)
        self.kernel = trees["host"] / "boot/vmlinuz-host"
        self.guest = GuestImage(trees["guest"])
        self.deb = package(flavour, say)
        image = root_image(flavour, self.deb, say)
        self.disk = self.warmed(image, trees["host"])

    def warmed(self, image, kernel_tree):
        """The image after one boot, with what that boot found out."""
        target = cache_dir() / f"lab-disk-{image.parent.name}-{digest_of(kernel_tree.name, WARM_UP)}"
        with locked(cache_dir() / "lab-disk"):
            if not target.exists():
                say(f"lab: first boot of {self.flavour}")
            return cached(target, lambda directory: self.warm_up(image, directory), f"lab-disk-lab-root-{self.flavour}-*") / "disk.img"

    def warm_up(self, image, directory):
        disk = directory / "disk.img"
        subprocess.run(["cp", "--sparse=always", str(image), str(disk)], check=True)
        script = directory / "script"
        script.write_text(WARM_UP, encoding="ascii")
        with Lab() as lab:
            machine = Machine(lab, self.kernel, disk, script, {**ENVIRONMENT, "NO_JOURNAL": "1"}, keep_disk=True)
            machine.start()
            if machine.wait(600) != 0:
                raise LabError("the first boot failed")


def stage(machine, parts, programs):
    """Puts what the script may want into the share."""
    shutil.copytree(TREE / "tests", machine.share / "tree/tests", ignore=shutil.ignore_patterns("__pycache__", "corpus"))
    shutil.copytree(TREE / "common", machine.share / "tree/common")
    shutil.copy(parts.deb, machine.share / "memoc.deb")
    parts.guest.export(machine.share / "image")
    (machine.share / "results").mkdir()
    make_programs(machine.share / "programs", programs)


def keep_results(machine, directory):
    """Output, journal, console and results, for people."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name in ("output", "journal"):
        if (machine.share / name).exists():
            shutil.copy(machine.share / name, directory / name)
    if machine.console.exists():
        shutil.copy(machine.console, directory / "console")
    for path in (machine.share / "results").glob("*"):
        shutil.copy(path, directory / path.name)


def run_script(parts, script, limit_s, words, programs=()):
    """The script's exit status and all it said."""
    results = build_dir() / f"lab-{parts.flavour}"
    with Lab() as lab:
        machine = Machine(lab, parts.kernel, parts.disk, script, ENVIRONMENT, words=words)
        stage(machine, parts, programs)
        try:
            machine.start()
            status = machine.wait(limit_s)
        except LabError as error:  # what was done till then counts all the same
            say(f"lab: {error}")
            status = -1
        finally:
            keep_results(machine, results)
        output = (results / "output").read_text(encoding="utf-8", errors="replace")
    say(f"lab: output, journal and console are in {results}")
    return status, output


def sums(output):
    """Counts over all the runs that the output tells of."""
    found = re.findall(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", output, re.MULTILINE)
    return [sum(int(counts[i]) for counts in found) for i in range(3)]


def main():
    parser = argparse.ArgumentParser(description="memoc's nested lab (run as root)")
    parser.add_argument("--flavour", choices=FLAVOURS, default=os.environ.get("LAB") or FLAVOURS[0])
    parser.add_argument("-k", metavar="WORDS", default="", help="only tests whose name holds one of these words")
    parser.add_argument("--list", action="store_true", help="show the tests")
    parser.add_argument("--prepare", action="store_true", help="only make what a run needs")
    parser.add_argument("--shell-script", metavar="FILE", help="run this inside instead of tests")
    parser.add_argument("--words", help="for the kernel's command line (default: apparmor=0, but for test_apparmor: each VM's profile takes long)")
    parser.add_argument("--limit", metavar="S", type=int, default=LIMIT_S, help="seconds until the host is ended")
    arguments = parser.parse_args()
    if arguments.flavour not in FLAVOURS:  # $LAB, which argparse does not look at
        parser.error(f"LAB={arguments.flavour}: one of {', '.join(FLAVOURS)} is wanted")
    tests = chosen(arguments.k)
    if arguments.words is None:
        arguments.words = f"apparmor={int(any(name.startswith('test_apparmor.') for _, _, names in tests for name in names))}"
    if arguments.list:
        print(*(name for _, _, names in tests for name in names), sep="\n")
        return 0
    if not tests and not arguments.shell_script:
        print(f"no test of the lab matches {arguments.k!r}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    for problem in lab_module.sweep():
        print(f"sweep: {problem}", file=sys.stderr)
    began = time.monotonic()
    try:
        parts = Parts(arguments.flavour)
        say(f"lab: everything is there after {time.monotonic() - began:.0f} s")
        if arguments.prepare:
            return 0
        began = time.monotonic()
        if arguments.shell_script:
            return run_script(parts, arguments.shell_script, arguments.limit, arguments.words)[0]
        with tempfile.NamedTemporaryFile("w", prefix="memoc-lab-script.", encoding="ascii") as script:
            script.write(script_of(tests))
            script.flush()
            programs = {program for _, _, names in tests for program in PROGRAMS.get(names[0].split(".")[0], ())}
            status, output = run_script(parts, script.name, arguments.limit, arguments.words, programs)
    except (ImageError, LabError, subprocess.SubprocessError) as error:
        say(f"lab: {error}")
        say("0 passed, 1 failed, 0 skipped")
        return 1
    passed, failed, skipped = sums(output)
    for line in re.findall(r"^(?:failed|skipped): .*$", output, re.MULTILINE):
        say(line)
    say(f"lab: the host of {arguments.flavour} lived for {time.monotonic() - began:.0f} s")
    failed += status != 0 and not failed
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
