# SPDX-License-Identifier: LGPL-2.1-or-later
"""make bench: the figures of the README, on real libvirt and real guests; medians of BENCH_RUNS (10) runs.

    python3 tests/bench/bench.py [spike] [squeeze] [idle] [hook] [wss] [advice] [migrate]

Figures are printed with their spread and never asserted: a busy machine is no defect.
"""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "system"))

# pylint: disable=wrong-import-position
import host
from host import LabError, wait_for
from lab import Guest, HostSwap, Lab, PrivateLibvirtd
from memocd import Link, Memocd, program
from test_migration import Pair, panicked

MIB = 1 << 20
WATCH_MS = 500  # how often a guest tells its rate while it is watched
RUNS = int(os.environ.get("BENCH_RUNS", "10"))
# Without it the guest is paused while it is sent: QEMU 7.2's emulated processors break most guests that migrate live here.
LIVE = ("--live",) if os.environ.get("BENCH_LIVE") else ()
GOOD_RATE = 0.7  # of the undisturbed pace; below it a workload counts as hurt


def figure(name, values, unit, wanted):
    """One line of the report."""
    values = sorted(values)
    print(f"  {name:<58} median {statistics.median(values):8.3f} {unit:<4} (min {values[0]:.3f}, max {values[-1]:.3f}, "
          f"n {len(values)}; wanted {wanted})", flush=True)


def start_lab(lab, config):
    HostSwap(lab, 2048)
    libvirtd = PrivateLibvirtd(lab)
    libvirtd.install_hook(program("memoc-hook"))
    libvirtd.start()
    return libvirtd, Memocd(lab, libvirtd, config=config)


def bench_spike():
    """A guest suddenly uses 128 MiB beyond its size: from the first touch until it has that size."""
    values = []
    with Lab() as lab:
        libvirtd, memocd = start_lab(lab, {"host": {"pool": "900M", "buffer": "320M"}, "policy": {"dwell": "1s"}})
        memocd.start()
        guest = Guest(lab, libvirtd, "spike", 512, stats_period=1)
        guest.start()
        guest.wait_ready()
        memocd.wait_vm("spike", lambda vm: vm["state"] == "steady" and vm["stats_age_ms"] is not None, 60, "steady")
        link = Link(memocd)
        for _ in range(RUNS):
            guest.job("use 60")
            memocd.wait_vm("spike", lambda vm: vm["need_bytes"] < 200 * MIB and not vm["needy"], 120, "its last spike forgotten")
            memocd.memoc_text("resize", "spike", "208M", "--wait", limit_s=60)
            memocd.memoc_text("resize", "spike", "auto")
            size, since = memocd.vm("spike")["balloon_bytes"], time.monotonic()
            # The second statistics after it: the first may have been taken while the balloon moved.
            vm = memocd.wait_vm("spike", lambda vm, since=since: vm["stats_age_ms"] + 1000 < 1000 * (time.monotonic() - since),
                                30, "statistics of its new size")
            usable = vm["usable_bytes"]
            begun, began = guest.begin(f"use {60 + (usable + 128 * MIB) // MIB}"), time.monotonic()
            wait_for(lambda size=size: link.list()["spike"]["balloon_bytes"] >= size + 128 * MIB, 60, "the size to be reached", every_s=0.02)
            values.append(time.monotonic() - began)
            guest.finish(begun)
    figure("spike of 128 MiB beyond its size: touch to size reached", values, "s", "<= 1.5")


def resident(guests):
    return sum(guest.cgroup().usage() for guest in guests)


def longest_hurt(guests, marks, began, until):
    """Longest time that any guest's workload was below GOOD_RATE in a row, in the span from began to until."""
    return max(longest_below(guest.rate_samples(since), began, until) for guest, since in zip(guests, marks))


def longest_below(samples, began, until):
    """samples: [(host time, rate since the sample before)], so that a rate counts for all the time since then. Silence up to
    the end of the span is hurt, because a frozen guest sends nothing; only the second in which the next sample is due is not."""
    worst, good_at = 0.0, began
    for at, rate in samples:
        if at > until:
            break
        if rate >= GOOD_RATE:
            good_at = max(began, at)
        worst = max(worst, at - good_at)
    return max(worst, until - good_at if until - good_at > 2 * WATCH_MS / 1000 else 0)


def bench_squeeze():
    """Four touched guests of 512 MiB, one without driver, under a pool of 70 % of what is resident; then a spike of 180 MiB."""
    inside, hurt, spike_hurt = [], [], []
    for _ in range(RUNS):
        with Lab() as lab:
            libvirtd, memocd = start_lab(lab, None)
            # Swap of half their memory: with little of it a squeezed guest's kernel kills in the first half second of the
            # spike, before there are any statistics of it.
            guests = [Guest(lab, libvirtd, name, 512, free_page_reporting=False, fill=True, driver=name != "d", swap_mib=256)
                      for name in ("a", "b", "c", "d")]
            for guest in guests:
                guest.start()
            for guest in guests:
                guest.wait_ready()
            for guest, use in zip(guests, (60, 120, 200, 90)):
                guest.job(f"use {use}")
                wait_for(lambda guest=guest: guest.relative_rate() > 0.9, 60, "an undisturbed pace")
            pool = int(0.7 * resident(guests))
            memocd.config = {"host": {"pool": str(pool)}, "policy": {"grace": "3s"}}
            marks = [len(guest.line.events) for guest in guests]
            for guest in guests:
                guest.cmd(f"watch {WATCH_MS}")
            began = time.monotonic()
            memocd.start()
            wait_for(lambda: resident(guests) <= pool, 120, "residency inside the pool", show=lambda: resident(guests))
            inside.append(time.monotonic() - began)
            time.sleep(15)  # the span that is judged, not a wait
            hurt.append(longest_hurt(guests, marks, began, time.monotonic()))
            marks, began = [max(0, len(guest.line.events) - 1) for guest in guests], time.monotonic()
            guests[0].begin("use 240")
            time.sleep(20)  # likewise
            spike_hurt.append(longest_hurt(guests, marks, began, time.monotonic()))
            if any(guest.cgroup().oom_kills() for guest in guests):
                raise LabError("a guest lost a process to the OOM killer")
    figure("four guests under 70 %: until inside the pool", inside, "s", "<= 15")
    figure("four guests under 70 %: longest time below 70 % of its rate", hurt, "s", "<= 3")
    figure("then a spike of 180 MiB in one: longest time below 70 %", spike_hurt, "s", "<= 3")


def switches(pid):
    """Times that any thread of the process was put to sleep by itself: its wake-ups."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def unexplained(run):
    """Wake-ups of memocd (its `wakeups`, a second) for which there was no reason. A turn of its loop is explained by anything
    that was due in it; a worker's waking by the job that it then ran, and what the job itself waits for by the job."""
    explained = run["loop"] - run["loop_for_nothing"] + run["jobs"] + run["job_sleeps"]
    return max(run["loop_for_nothing"] + run["worker_for_nothing"], run["sleeps"] - explained)


def private_bytes(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(("Private_Dirty", "Private_Clean")))


def bench_idle():
    """memocd with six idle VMs."""
    with Lab() as lab:
        libvirtd, memocd = start_lab(lab, {"host": {"pool": "3G", "buffer": "64M"}, "policy": {"grace": "5s"}})
        memocd.start()
        guests = [Guest(lab, libvirtd, f"idle{i}", 256) for i in range(6)]
        for guest in guests:
            guest.start()
        for guest in guests:
            guest.wait_ready()
            memocd.wait_vm(guest.name, lambda vm: vm["state"] == "steady", 60, "steady")
        time.sleep(10)
        link, cpu, private, wakes, runs = Link(memocd), [], [], [], []
        for _ in range(RUNS):
            told = link.call("Host")["host"]["wakeups"]
            before, woken, began = host.cpu_seconds(memocd.pid), switches(memocd.pid), time.monotonic()
            time.sleep(10)  # the span that is measured
            span = time.monotonic() - began
            cpu.append(100 * (host.cpu_seconds(memocd.pid) - before) / span)
            wakes.append((switches(memocd.pid) - woken) / span)
            private.append(private_bytes(memocd.pid) / MIB)
            now = link.call("Host")["host"]["wakeups"]
            runs.append({key: (now[key] - told[key]) / span for key in now})
        figure("six idle VMs: CPU of memocd", cpu, "%", "<= 0.5")
        figure("six idle VMs: private memory of memocd", private, "MiB", "<= 8")
        figure("six idle VMs: wake-ups of all its threads, by /proc", wakes, "/s", "-")
        figure("  of these without reason", [unexplained(run) for run in runs], "/s", "about 0")
        for key in runs[0]:
            figure(f"  counted: {key}", [run[key] for run in runs], "/s", "-")


HOOK_XML = """<domain type='kvm'><name>bench</name><uuid>6f1ca5b6-3a0c-4d8e-9a58-0d4e2b1c7f{0:02x}</uuid><memory unit='KiB'>524288</memory>
<vcpu>1</vcpu><os><type>hvm</type></os><devices><memballoon model='virtio'><stats period='1'/></memballoon></devices></domain>"""


def bench_hook():
    """memoc-hook as libvirt runs it, memocd up: the whole process. `/bin/true` beside it shows what a process costs here."""
    with Lab() as lab:
        _, memocd = start_lab(lab, {"host": {"pool": "1G"}})
        memocd.start()
        took, nothing = [], []
        for i in range(max(RUNS, 10) * 5):
            argv = [str(program("memoc-hook")), "bench", ("prepare", "release")[i % 2], ("begin", "end")[i % 2], "-"]
            began = time.monotonic()
            subprocess.run(argv, input=HOOK_XML.format(i % 256).encode(), env=memocd.environment(), check=True)
            took.append(1000 * (time.monotonic() - began))
            began = time.monotonic()
            subprocess.run(["/bin/true"], input=b"", check=True)
            nothing.append(1000 * (time.monotonic() - began))
        figure("memoc-hook, memocd up", took, "ms", "<= 5")
        figure("/bin/true, started the same way", nothing, "ms", "-")


# Processes, MiB each, pages a sample: where these lie near to one another, and where not; many small ones, as 1,000 VMs are in which
# little changes: 865 pages are enough for what uses a twentieth of its memory. In 16 MiB most reads of pagemap merge, which in large VMs
# they do not: there it is the budget that keeps to its share, by fewer pages and longer intervals.
WSS_SHAPES = ((20, 64, 2401), (4, 1024, 2401), (300, 16, 2401), (300, 16, 865))


def own_memory_cgroup():
    """Of this process, relative to the memory controller's mount."""
    for line in pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") or not controllers and host.cgroup_version() == "v2":
            return path
    raise LabError("this process is in no memory cgroup")


def bench_wss():
    """A reading of a working set by idle page tracking: processor time, and what 1,000 VMs a minute would take."""
    with tempfile.TemporaryDirectory(prefix="memoc-bench-") as directory:
        words = []
        if not pathlib.Path("/sys/kernel/mm/page_idle/bitmap").exists():
            print("  no idle page tracking in this kernel: a plain file stands for its bitmap, so its own work for a bit is missing")
            root = pathlib.Path(directory)
            (root / "proc").symlink_to("/proc")
            (root / "sys/kernel/mm/page_idle").mkdir(parents=True)
            with open(root / "sys/kernel/mm/page_idle/bitmap", "wb") as bitmap:
                bitmap.truncate(1 << 30)
            words = [directory, ""]
        else:
            words = ["", own_memory_cgroup()]  # asked about reclaim, as a VM's is
        for processes, mib, pages in WSS_SHAPES:
            for use in ("", "idle") if words[0] else ("",):
                argv = [program("tests/bench/wss/cost"), processes, mib, pages, *words, use]
                told = [host.run(list(map(str, argv)), limit_s=120).stdout for _ in range(RUNS)]
                each = [float(re.search(r"([\d.]+) ms a reading", text)[1]) for text in told]
                figure(f"{processes} of {mib} MiB, {pages} pages, {'none' if use else 'all'} in use: a reading", each, "ms", "<= 2")
                figure("  a page", [1e6 * ms / pages for ms in each], "ns", "-")
                figure("  1,000 VMs each 60 s, of a processor", [ms * 1000 / 60000 * 100 for ms in each], "%", "<= 3")


def bench_advice():
    """How fast memory advice is, on 1 GiB of a process of its own: as ranges and page by page."""
    with Lab() as lab:
        HostSwap(lab, 3072)
        rates = {}
        for _ in range(RUNS):
            kind = ""
            for line in host.run([program("tests/bench/advice/cost"), "1024"], limit_s=300).stdout.splitlines():
                row = re.match(r"  (.*\S) +([\d.]+) GiB/s", line)
                if row:
                    rates.setdefault(f"{kind}, {row[1]}", []).append(float(row[2]))
                else:
                    kind = line.split()[0]
        for what, values in rates.items():
            figure(what, values, "GiB/s", ">= 5" if what.endswith("MADV_COLD, contiguous") else "-")


def swap_out(guest):
    """All of a guest's memory, once; what it uses comes back."""
    group = guest.cgroup()
    name, text = ("memory.reclaim", str(group.usage())) if host.cgroup_version() == "v2" else ("memory.force_empty", "0")
    try:
        (group.path / name).write_text(text, encoding="ascii")
    except OSError:
        pass  # v2: less than all of it was reclaimed


def make_full(guest, side, swapped):
    """All its memory was touched, it has all of it, and uses a sixth; memocd knows, and the rest is swapped out or not."""
    side.memocd.memoc_text("resize", guest.name, f"{guest.memory_mib}M", "--wait", limit_s=90)
    side.memocd.memoc_text("resize", guest.name, "auto")
    guest.job("use 60")
    guest.cmd("pace 1000")
    guest.job("touch 270", limit_s=90)
    side.memocd.wait_vm(guest.name, lambda vm: vm["state"] == "steady" and vm["need_bytes"] < 190 * MIB and not vm["needy"], 120,
                        "steady and known to need little")
    if swapped:
        swap_out(guest)
        side.memocd.wait_vm(guest.name, lambda vm: vm["swapped_bytes"] > 100 * MIB and not vm["needy"], 120, "swapped out")


def by_virsh(guest, there):
    began = time.monotonic()
    guest.virsh("migrate", *LIVE, *guest.way_to(there.libvirtd), limit_s=300)
    took = time.monotonic() - began
    raw = there.libvirtd.virsh("domjobinfo", guest.name, "--completed", "--rawstats")
    stats = dict(line.split(": ") for line in raw.splitlines() if ": " in line)
    guest.moved_to(there.libvirtd)
    return int(stats["memory_processed"]) / MIB, took


def by_memoc(guest, here, there):
    desturi, migrateuri = guest.way_to(there.libvirtd)[1::2]
    told = here.memocd.memoc_text("migrate", guest.name, desturi, *LIVE, "--json", "--migrateuri", migrateuri, limit_s=300)
    figures = json.loads(told)
    guest.moved_to(there.libvirtd)
    return figures["sent_bytes"] / MIB, figures["total_ms"] / 1000, figures["prepare_ms"] / 1000, figures["swap_in_avoided_bytes"] / MIB


def there_and_back(pair, guest, swapped, memoc_first):
    """One pair: the same VM there by one, and back by the other."""
    figures, way = {}, (pair.here, pair.there)
    for memoc in (memoc_first, not memoc_first):
        make_full(guest, way[0], swapped)
        figures[memoc] = by_memoc(guest, *way) if memoc else by_virsh(guest, way[1])
        way[1].memocd.wait_vm(guest.name, lambda vm: vm["state"] == "steady" and vm["stats_age_ms"] is not None, 90, "steady there")
        way = way[::-1]
    return figures


def migrations(pair, swapped):
    """RUNS pairs; a pair in which the emulator broke the guest's kernel, as QEMU 7.2's does now and then, is made anew."""
    pairs, broken, guest = [], 0, None
    while len(pairs) < RUNS and broken <= 3 * RUNS:
        try:
            if not guest:
                guest = Guest(pair.lab, pair.here.libvirtd, f"full{broken}{'s' if swapped else ''}", 384, free_page_reporting=False)
                guest.start()
                guest.wait_ready()
                pair.here.memocd.wait_vm(guest.name, lambda vm: vm["state"] == "steady", 60, "steady")
            pairs.append(there_and_back(pair, guest, swapped, len(pairs) % 2 == 0))
        except LabError:
            if not panicked(guest):
                raise
            broken += 1
            guest.remove()
            guest = None
    if guest:
        guest.remove()
    if broken:
        print(f"  {broken} pairs were lost to kernel panics of the emulated guest")
    return pairs


def bench_migrate():
    """memoc migrate beside virsh migrate of the same VM (BENCH_LIVE=1: live): 384 MiB, all touched once, 60 MiB in use."""
    with Lab() as lab:
        pair = Pair(lab)
        for swapped in (False, True):
            what = "most swapped out" if swapped else "all resident"
            pairs = migrations(pair, swapped)
            for memoc in (False, True):
                name = f"{what}: {'memoc' if memoc else 'virsh'} migrate"
                figure(f"{name}, sent", [figures[memoc][0] for figures in pairs], "MiB", "-")
                figure(f"{name}, time", [figures[memoc][1] for figures in pairs], "s", "-")
            figure(f"{what}: of that for the balloon", [figures[True][2] for figures in pairs], "s", "-")
            if swapped:
                figure(f"{what}: swap that was not read back", [figures[True][3] for figures in pairs], "MiB", "-")
            for i, unit in ((0, "bytes"), (1, "time")):
                shares = [figures[True][i] / figures[False][i] for figures in pairs]
                figure(f"{what}: {unit}, memoc by virsh, of each pair", shares, "", "< 1")


BENCHES = {"spike": bench_spike, "squeeze": bench_squeeze, "idle": bench_idle, "hook": bench_hook, "wss": bench_wss,
           "advice": bench_advice,
           "migrate": bench_migrate}


def main(argv):
    unknown = [name for name in argv if name not in BENCHES]
    if unknown:
        print(f"no such bench: {', '.join(unknown)}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, kernel {os.uname().release}, guests under "
          f"{os.environ.get('MEMOC_LAB_ACCEL', 'tcg')}")
    for name in argv or BENCHES:
        print(f"{name}: {(BENCHES[name].__doc__ or '').splitlines()[0]}", flush=True)
        BENCHES[name]()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"bench: {error}")
