# SPDX-License-Identifier: LGPL-2.1-or-later
"""Working sets of real guests by each back-end, against the truth (windows.py says whence): takes half an hour, on demand.

    python3 tests/lab/run.py -k test_wss_table

A table for each kind of memory, in percent of the VM's memory. `idle` has to be right; of the others the best has to be of use.
Last what a reading costs, and what sampling does to the guest. All is in build/lab-FLAVOUR/wss-table, too.
"""

import pathlib
import re
import statistics
import subprocess
import time

import host
from host import MIB
from lab import LabError
from run import limit
from installed import Site
from windows import Errors, HugePages, Reclaiming, Rest, Watch, bottom_up, lab_program, reserved_huge_pages, shared_ram_offset

MEMORY_MIB = 128
WINDOW_MS = 2000
TURN_MS = 800  # the working set is gone through twice in a window, and what was walked is counted anyway
IDLE_WINDOWS, OTHER_WINDOWS = 10, 4  # of each pattern
HOLD_WINDOWS = 24  # refault feels its way down to the edge, and says nothing before
MOST_MIB = 76  # what a guest of this size can use and live
OTHERS = ("damon", "lru", "idle-host", "refault")
RESULTS = pathlib.Path("/lab/results/wss-table")
STEPS = (0.1, 0.1, 0.5, 0.5, 0.25, 0.25, 0.6, 0.6, 0.05, 0.05)
SAMPLING_PAIRS, SAMPLED_S = 100, 1  # so many times more often than memocd samples that it can be told from noise
LOWER_OF_PAIRS, UPPER_OF_PAIRS = 39, 60  # as sorted, from 0: these enclose the median of 100 with 96.5 % (binomial)
MEMOCD_EVERY_S = 60  # at most: a window of 30 s each 60 s
SLOWDOWN_MOST = 0.003


def say(line):
    print(line, flush=True)
    with open(RESULTS, "a", encoding="utf-8") as results:
        results.write(line + "\n")


def prepare(guest, pattern, index):
    """What the guest does in the next window of this pattern."""
    sizes = {"step": STEPS[index % len(STEPS)] * MEMORY_MIB, "shrink": MOST_MIB * 0.8 ** (index % 10), "hold": MEMORY_MIB / 2}
    mib = round(sizes.get(pattern, MOST_MIB))
    if index == 0:
        guest.cmd("pattern zipf" if pattern == "zipf" else "pattern walk")
        guest.cmd(f"pace {WINDOW_MS * 33 // 10 if pattern == 'sweep' else TURN_MS}")  # a sweep: three windows and a bit
    if guest.report()["use_mib"] != mib:
        guest.job(f"use {mib}")


PATTERNS = ("step", "shrink", "sweep", "zipf")


def plan(huge):
    """[(back-end, pattern, windows)]. What is true of huge pages takes the clearing of accessed bits, by which refault goes astray."""
    series = [("idle", pattern, IDLE_WINDOWS) for pattern in PATTERNS]
    series += [(backend, pattern, OTHER_WINDOWS) for backend in ("damon", "lru") for pattern in PATTERNS]
    series += [("idle-host", pattern, OTHER_WINDOWS) for pattern in ("step", "zipf")]  # QEMU's own memory is in what it reads
    return series + ([] if huge else [("refault", "step", OTHER_WINDOWS), ("refault", "hold", HOLD_WINDOWS)])


RECLAIMED = ("reclaimed from", "reclaimed from, with aging runs")


class Bench(Site):
    """Guests come one after the other. What was measured is kept for the sums, also where a kind fails and all is made anew."""

    errors = {}  # (kind, pattern, backend)

    def small(self, **kinds):
        return self.guest("small", MEMORY_MIB, fill=True, free_page_reporting=False, swap_mib=0, **kinds)

    def aligned(self, **kinds):
        """One whose shared memory lies so that it can be backed by huge pages."""
        with bottom_up():
            for _ in range(4):
                guest = self.small(**kinds)
                offset = shared_ram_offset(guest.pid, MEMORY_MIB * MIB)
                if not offset:
                    return guest
                self.remove(guest)
        raise LabError(f"four QEMUs in a row have their memory at no multiple of a huge page, the last by {offset} bytes")

    def measure(self, name, huge, **kinds):
        """All back-ends and patterns on one guest of this kind."""
        with HugePages("always" if huge else "never"):
            guest = self.aligned(**kinds) if huge and kinds else self.small(**kinds)
            try:
                guest.wait_ready(180)
                rest = Rest(guest, WINDOW_MS)
                say(f"\n{name}: {MEMORY_MIB} MiB, {rest.huge:.0%} in huge pages, windows of {WINDOW_MS} ms; at rest it uses "
                    f"{rest.bytes / MIB:.1f} MiB (by the tables {rest.tables / MIB:.1f})")
                assert rest.huge > 0.9 if huge else rest.huge == 0, f"not backed as wanted: {rest.huge}"
                assert abs(rest.bytes - rest.tables) <= 0.02 * MEMORY_MIB * MIB, "at rest memoc and the tables are apart"
                say(f"{'':16}{Errors.HEAD}")
                for backend, pattern, windows in plan(huge):
                    self.series((name, pattern, backend), guest, rest, windows)
            finally:
                self.remove(guest)
        return Errors.together([errors for (kind, _, backend), errors in self.errors.items() if (kind, backend) == (name, "idle")])

    def series(self, key, guest, rest, windows):
        """Some windows of one pattern by one back-end. The truth of huge pages is the tables', the other the guest's own."""
        errors = self.errors[key] = Errors(MEMORY_MIB)
        _, pattern, backend = key
        apart = []
        with Watch(guest, backend, WINDOW_MS, tables=backend != "refault") as watch:
            for index in range(windows):
                prepare(guest, pattern, index)
                window = watch.window()
                errors.add(window, window.tables if rest.huge else window.guest + rest.tables)
                if window.tables is not None and not rest.huge:
                    apart.append(abs(window.tables - window.guest - rest.tables))
        apart = f"   truths {statistics.fmean(apart) / MEMORY_MIB / MIB:.2%} apart" if apart else ""
        say(f"{backend:8}{pattern:8}{errors.row()}{apart}" + (f"   {errors.unknown[-1]}" if errors.unknown else ""))


def fixture(lab):
    yield Bench(lab)


def assert_right(idle):
    """The bars. Over few readings 95 % are a matter of luck, so the sum of all kinds has to have them, a kind nearly."""
    say(f"idle: {idle}")
    assert len(idle.off) >= IDLE_WINDOWS * len(PATTERNS) - 4, idle.unknown
    assert idle.within(0.02) >= 0.9 and idle.mean() <= 0.01, str(idle)


@limit(300)
def test_private(bench):
    """Anonymous memory, pages of 4 KiB."""
    assert_right(bench.measure("private, 4 KiB", False))


@limit(300)
def test_memfd(bench):
    """Shared memory, pages of 4 KiB."""
    assert_right(bench.measure("memfd, 4 KiB", False, memfd=True))


@limit(300)
def test_private_huge(bench):
    """Anonymous memory, transparent huge pages."""
    assert_right(bench.measure("private, huge", True))


@limit(300)
def test_memfd_huge(bench):
    """Shared memory, transparent huge pages."""
    assert_right(bench.measure("memfd, huge", True, memfd=True))


@limit(240)
def test_reclaim(bench):
    """While the kernel takes memory from a VM, `idle` is right or says nothing; nothing where an aging run took the accessed bits."""
    with HugePages("never"):
        guest = bench.guest("small", MEMORY_MIB, fill=True, free_page_reporting=False, swap_mib=0)
        try:
            guest.wait_ready(180)
            rest = Rest(guest, WINDOW_MS)
            for kind in RECLAIMED:
                say(f"\n{kind}: {MEMORY_MIB} MiB, private, 4 KiB\n{'':16}{Errors.HEAD}")
                with Reclaiming(guest, aging=kind == RECLAIMED[1]):
                    for backend in ("idle", "lru", "damon"):
                        bench.series((kind, "step", backend), guest, rest, 2 * OTHER_WINDOWS)
            say("\nafterwards")
            bench.series(("afterwards", "step", "idle"), guest, rest, OTHER_WINDOWS)
        finally:
            bench.remove(guest)
    scanned, aged, after = (bench.errors[kind, "step", "idle"] for kind in (*RECLAIMED, "afterwards"))
    lru = [bench.errors[kind, "step", "lru"] for kind in RECLAIMED]
    # Reclaim has aging runs of its own when generations are used up, in most windows or in few: then nothing, and that reason.
    assert all(abs(off) <= 0.02 for off in scanned.off), str(scanned)
    assert all("reclaimed from within" in why for why in scanned.unknown), scanned.unknown
    damon = bench.errors[RECLAIMED[1], "step", "damon"]
    assert all(not errors.off and all("reclaimed from within" in why for why in errors.unknown) for errors in (aged, damon)), str(aged)
    assert all(len(errors.off) >= 2 and errors.mean() <= 0.1 for errors in lru), [str(errors) for errors in lru]
    assert len(after.off) >= OTHER_WINDOWS - 1 and after.mean() <= 0.01, str(after)


@limit(240)
def test_reserved_huge_pages(bench):
    """Memory of hugetlb is found where QEMU has it. The kernel does not track it: no reading, and that reason."""
    with reserved_huge_pages(MEMORY_MIB + 16):
        guest = bench.guest("small", MEMORY_MIB, free_page_reporting=False, swap_mib=0, extra_xml="<memoryBacking><hugepages/></memoryBacking>")
        try:
            guest.wait_ready(180)
            with Watch(guest, "idle", WINDOW_MS, tables=False) as watch:
                assert watch.end - watch.start == MEMORY_MIB * MIB, (watch.start, watch.end)
                window = watch.window()
        finally:
            bench.remove(guest)
    assert window.read is None and "reserved huge pages" in window.why, window


@limit(10)
def test_sums(bench):
    """Over all kinds: idle keeps its bars, and the best of the others is within ±5 %."""
    assert bench.errors, "this one sums up what the others have measured"
    sums = {}
    for backend in ("idle", *OTHERS):
        kinds = [errors for (kind, _, name), errors in bench.errors.items() if name == backend and kind not in RECLAIMED]
        sums[backend] = Errors.together(kinds)
        say(f"all: {backend:8}{sums[backend]}")
    assert sums["idle"].within(0.02) >= 0.95 and sums["idle"].mean() <= 0.01, str(sums["idle"])
    for backend in ("idle", "damon"):  # lru and idle-host count QEMU's own memory, which the truth here does not
        assert sums[backend].honest() >= 0.9, f"{backend} says less than it is off: {sums[backend]}"
    # idle-host reads the same bits as idle: where one is missing so is the other.
    best = max((name for name in OTHERS if name != "idle-host"), key=lambda name: sums[name].within(0.05))
    say(f"best of the others: {best}")
    assert sums[best].within(0.05) >= 0.95, f"{best}: {sums[best]}"


@limit(60)
def test_cost(_bench):
    """What a reading of 2401 pages takes here: emulated, so no measure of the bar of 2 ms, but of what there is."""
    group = pathlib.Path("/proc/self/cgroup").read_text(encoding="ascii").strip().removeprefix("0::")
    done = subprocess.run([lab_program("cost"), "20", "32", "2401", "", group], capture_output=True, text=True, check=False)
    say(f"cost: {done.stdout.strip()}{done.stderr.strip()}")
    assert done.returncode == 0 and 0.9 * 20 * 2401 < int(re.search(r"(\d+) pages sampled", done.stdout)[1]) <= 20 * 2401, done


def walked(guest):
    report = guest.report()
    return report["walked_pages"], report["at_ms"]


def pace(guest, work):
    """Pages a ms of the guest's clock while work() goes on."""
    first, began = walked(guest)
    work()
    second, ended = walked(guest)
    return (second - first) / (ended - began)


def one_sample(guest):
    group = "/" + str(guest.cgroup().path.relative_to(host.CGROUP_ROOT))
    words = [lab_program("watch"), "idle", guest.pid, MEMORY_MIB, SAMPLED_S * 1000, 1, group]
    told = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout
    assert told.count("pages") == 1, told


@limit(120)
def test_slowdown(bench):
    """The guest's pace flat out, with a sample of 2401 pages a second and without, in pairs of seconds: what a machine does in the next
    ten may differ by half. What that costs is sixty times what memocd's one a minute does, so that the bar can be held against the
    upper end of what the pairs leave possible."""
    with HugePages("never"):
        guest = bench.guest("small", MEMORY_MIB, fill=True, free_page_reporting=False, swap_mib=0)
        try:
            guest.wait_ready(180)
            guest.job("use 64")
            guest.cmd("pace 0")
            guest.cmd("mark")
            ratios = []
            for index in range(SAMPLING_PAIRS):
                rates, took_s = {}, SAMPLED_S
                for sampled in (index % 2 == 0, index % 2 != 0):  # whatever drifts drifts for both
                    began = time.monotonic()
                    rates[sampled] = pace(guest, (lambda: one_sample(guest)) if sampled else lambda took_s=took_s: time.sleep(took_s))
                    took_s = time.monotonic() - began
                ratios.append(rates[True] / rates[False])
        finally:
            bench.remove(guest)
    ratios.sort()
    rarer = SAMPLED_S / MEMOCD_EVERY_S
    slowdown, least, most = (1 - r for r in (statistics.median(ratios), ratios[UPPER_OF_PAIRS], ratios[LOWER_OF_PAIRS]))
    say(f"slowdown: {slowdown:+.2%} ({least:+.2%} to {most:+.2%}) while sampled, of {len(ratios)} pairs of seconds; "
        f"at memocd's one in {MEMOCD_EVERY_S} s {slowdown * rarer:+.3%} ({least * rarer:+.3%} to {most * rarer:+.3%})")
    assert most * rarer <= SLOWDOWN_MOST and slowdown <= SLOWDOWN_MOST / rarer / 4, ratios
