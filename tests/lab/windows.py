# SPDX-License-Identifier: LGPL-2.1-or-later
"""Windows of a guest's working set: what it touches in one against what a back-end of memoc reads of it from outside.

What is read comes from tests/bench/wss/watch, which uses memocd's own estimator and says what each window gave, unsmoothed.
What is true comes twice, from neither of which memoc knows:

    by the guest    its workload counts the pages that it walked between `mark` and `stand`, and stands still while a window
                    begins and ends; on top comes what the guest uses at rest, by the tables
    by the tables   accessed bits of QEMU's page tables, cleared before (clear_refs) and counted after (Referenced of smaps).
                    Emulated guests only. It speaks of huge pages too, where a byte of use is 2 MiB in use
"""

import collections
import os
import pathlib
import re
import statistics
import subprocess
import threading

import host
from host import MIB, LabError
from run import Skip

PAGE_BYTES = 4096
HUGE_BYTES = 2 * MIB
PROGRAMS = pathlib.Path(os.environ.get("MEMOC_LAB_PROGRAMS", "/lab/programs"))
THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage")



def lab_program(name):
    """What run.py's PROGRAMS made outside; a C library older than the one it was made with cannot load it."""
    path = PROGRAMS / name
    said = host.run([path], check=False, limit_s=60)
    if "GLIBC_" in said.stderr:
        raise Skip(f"{name} was made on a newer release than this one: {said.stderr.strip()[-120:]}")
    return path


Window = collections.namedtuple("Window", "read error guest tables cost_ms why")  # bytes; read None: unknown, and why


class Watch:
    """One back-end on one guest, a window at a time. tables=False leaves the accessed bits alone: refault needs them."""

    def __init__(self, guest, backend, window_ms, *, pages=2401, tables=True):
        self.guest, self.pid, self.tables = guest, guest.pid, tables
        group = "/" + str(guest.cgroup().path.relative_to(host.CGROUP_ROOT))
        words = [lab_program("watch"), backend, self.pid, guest.memory_mib, window_ms, 1 << 30, group, pages, "stepped"]
        self.popen = subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, encoding="utf-8")
        said = self._hear()
        found = re.fullmatch(r"RAM ([0-9a-f]+)-([0-9a-f]+) (private|shared)", said)
        if not found:
            self.close()
            raise LabError(f"{backend}: {said}")
        self.start, self.end = int(found[1], 16), int(found[2], 16)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.popen.stdin.close()
        self.popen.stdout.close()
        self.popen.wait()

    def _hear(self):
        line = self.popen.stdout.readline()
        if not line:
            raise LabError(f"watch ended with status {self.popen.wait()}")
        return line.strip()

    def _tell(self):
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def window(self):
        """The guest walks in it and stands before and after."""
        self.guest.cmd("stand")
        if self.tables:
            pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("1", encoding="ascii")
        self._tell()
        said = self._hear()
        if said == "begun":
            self.guest.cmd("mark")
            said = self._hear()
        walked = self.guest.cmd("stand")["marked_pages"] * PAGE_BYTES
        tables = self.of_ram("Referenced") if self.tables else None  # before lru takes the bits away
        if said == "waited":
            self._tell()
            said = self._hear()
        found = re.fullmatch(r"([\d.]+) MiB ± ([\d.]+), \d+ pages, ([\d.]+) ms", said)
        if not found:
            return Window(None, None, walked, tables, None, said)
        return Window(float(found[1]) * MIB, float(found[2]) * MIB, walked, tables, float(found[3]), "")

    def of_ram(self, *keys):
        """Of QEMU's mappings of guest RAM by smaps: the sum of these fields, bytes."""
        total, inside = 0, False
        for line in pathlib.Path(f"/proc/{self.pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if found:
                inside = self.start <= int(found[1], 16) < self.end
            elif inside and line.split(":")[0] in keys:
                total += int(line.split()[1]) * 1024
        return total


LRU_GEN = pathlib.Path("/sys/kernel/debug/lru_gen")


class Reclaiming:
    """Takes memory from a guest's cgroup all the time, a little at a time, as a limit does that is too low. aging: with a run of the
    multi-generational LRU over its page tables now and then, as the kernel makes one when a generation is used up."""

    BYTES, EVERY_S, AGING_EVERY = MIB, 0.5, 3

    def __init__(self, guest, aging=False):
        self.group, self.aging = guest.cgroup().path, aging
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _age(self):
        name = "/" + str(self.group.relative_to(host.CGROUP_ROOT))
        text = LRU_GEN.read_text(encoding="ascii")
        found = re.search(rf"^memcg +(\d+) {re.escape(name)}\n node +0\n((?: +\d+ .*\n)+)", text, re.MULTILINE)
        youngest = max(int(line.split()[0]) for line in found[2].splitlines())
        LRU_GEN.write_text(f"+ {found[1]} 0 {youngest} 1 1", encoding="ascii")

    def _run(self):
        turn = 0
        while not self.over.wait(self.EVERY_S):
            turn += 1
            try:
                if self.aging and turn % self.AGING_EVERY == 0:
                    self._age()
                (self.group / "memory.reclaim").write_text(str(self.BYTES), encoding="ascii")
            except OSError:  # it was looked for, and not all of it found
                pass

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Rest:
    """What a guest uses that does not do anything, per window: the median of some windows in which all pages are looked at."""

    def __init__(self, guest, window_ms, windows=3):
        guest.job("use 0")
        with Watch(guest, "idle", window_ms, pages=guest.memory_mib * MIB // PAGE_BYTES) as watch:
            taken = [watch.window() for _ in range(windows)]
            self.huge = watch.of_ram("AnonHugePages", "ShmemPmdMapped") / watch.of_ram("Rss")  # share of what is there
        unknown = [window.why for window in taken if window.read is None]
        if unknown:
            raise LabError(f"at rest: {unknown}")
        self.bytes = statistics.median(window.read for window in taken)
        self.tables = statistics.median(window.tables for window in taken)


class Errors:
    """Readings against the truth, as shares of the VM's memory."""

    def __init__(self, memory_mib):
        self.whole, self.off, self.stated, self.unknown, self.cost_ms = memory_mib * MIB, [], [], [], []

    @classmethod
    def together(cls, series):
        """Several series as one."""
        found = cls(0)
        for errors in series:
            found.off += errors.off
            found.stated += errors.stated
            found.unknown += errors.unknown
            found.cost_ms += errors.cost_ms
        return found

    def add(self, window, truth):
        if window.read is None:
            self.unknown.append(window.why)
        else:
            self.off.append((window.read - truth) / self.whole)
            self.stated.append(window.error / self.whole)
            self.cost_ms.append(window.cost_ms)

    def within(self, share):
        return sum(abs(off) <= share for off in self.off) / len(self.off) if self.off else 0.0

    def honest(self):
        """Share of the readings that are no farther off than they say themselves, with a hundredth for what the truth leaves open."""
        return sum(abs(off) <= stated + 0.01 for off, stated in zip(self.off, self.stated)) / len(self.off) if self.off else 0.0

    def mean(self):
        return statistics.fmean(map(abs, self.off)) if self.off else float("inf")

    def __str__(self):
        return f"{len(self.off)} readings, {self.within(0.02):.1%} within ±2 %, {self.within(0.05):.1%} within ±5 %, mean error " \
               f"{self.mean():.2%}, {self.honest():.1%} within what they say, {len(self.unknown)} unknown"

    def row(self):
        """A line under HEAD."""
        if not self.off:
            return f"{0:4} {len(self.unknown):4}      -      -      -      -       -       -"
        return f"{len(self.off):4} {len(self.unknown):4} {self.within(0.02):5.0%}  {self.within(0.05):5.0%}  {self.mean():6.2%} " \
               f"{max(self.off, key=abs):+6.1%}  {self.honest():5.0%} {statistics.median(self.cost_ms):7.1f}"

    HEAD = "   n unkn.  ±2 %   ±5 %    mean   most honest cost ms"


class Setting:
    """A setting of the kernel for the length of a block."""

    def __init__(self, path, value):
        self.path, self.value = pathlib.Path(path), str(value)

    def __enter__(self):
        self.before = self.path.read_text(encoding="ascii")
        self.path.write_text(self.value, encoding="ascii")

    def __exit__(self, *_):
        self.path.write_text(self.before, encoding="ascii")


def bottom_up():
    """QEMUs that start meanwhile map their memory from below: each large mapping begins where an aligned one ended. Shared memory is
    backed by huge pages only where it is mapped at a multiple of their size, and QEMU takes what address the kernel gives."""
    return Setting("/proc/sys/vm/legacy_va_layout", 1)


def reserved_huge_pages(mib):
    """Of 2 MiB, for guests that ask for such."""
    return Setting("/proc/sys/vm/nr_hugepages", mib // 2)


def shared_ram_offset(pid, size_bytes):
    """How far above a multiple of a huge page a QEMU has mapped its shared memory of this size."""
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text(encoding="ascii", errors="replace").splitlines():
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if "memfd:" in line and end - start == size_bytes:
            return start % HUGE_BYTES
    raise LabError(f"QEMU {pid} has no shared memory of {size_bytes} bytes")


class HugePages:
    """How the host backs the memory of guests that start meanwhile: "never", or "always" huge pages, shared memory too."""

    def __init__(self, wanted):
        self.wanted = {THP / "enabled": wanted, THP / "shmem_enabled": wanted}
        self.before = {}

    def __enter__(self):
        for path, word in self.wanted.items():
            self.before[path] = re.search(r"\[(\w+)\]", path.read_text(encoding="ascii"))[1]
            path.write_text(word, encoding="ascii")
        return self

    def __exit__(self, *_):
        for path, word in self.before.items():
            path.write_text(word, encoding="ascii")
