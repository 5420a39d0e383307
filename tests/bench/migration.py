# SPDX-License-Identifier: LGPL-2.1-or-later
"""make bench: what a live migration does to its source, with memory advice on and off, in pairs on real guests.

    python3 tests/bench/migration.py [--runs N] [--kinds private,memfd] [--bandwidth MIB_PER_S] [--swap zram|file]

Half of the guest's memory is swapped out and a workload walks its hot pages while it migrates. Figures are printed beside the
bars of the issue and never asserted: a busy machine is no defect.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "system"))

# pylint: disable=wrong-import-position
import host
import lab as lab_module
from host import MIB, LabError, MemoryCgroup, wait_for
from lab import Guest, HostSwap, Lab, Memocd, PrivateLibvirtd
from memocd import program
from pages import PAGE, SharedMemory

MEMORY_MIB = 512
HOT_MIB = 48
PACE_MS = 500  # for one walk over the hot pages, which are written to: what a migration can keep up with under emulation
SETTLE_S = 3
WATCH_MS = 200  # how often the guest tells its rate


def thread_faults(pid, prefix):
    """Major faults of the threads of that name."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            name, _, rest = (task / "stat").read_text(encoding="ascii", errors="replace").partition("(")[2].rpartition(")")
            total += int(rest.split()[9]) if name.startswith(prefix) else 0
    return total


def swapped_bytes(pid):
    """Its pages that only swap has: the swap of its group counts what is in memory as well and has kept its place in a swap file."""
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Swap:")))


class Watcher(threading.Thread):
    """Looks at the source until its QEMU is gone; what it saw last is how it was at the end."""

    def __init__(self, guest, shared, swap):
        super().__init__(daemon=True)
        self.pid, self.group, self.shared, self.swap = guest.pid, MemoryCgroup(guest.cgroup().path), shared, swap
        self.seen = []

    def look(self):
        return {"at": time.monotonic(), "swapped": swapped_bytes(self.pid), "faults": thread_faults(self.pid, "CPU "),
                "swap_in": self.swap.moved_bytes("in"), "swap_out": self.swap.moved_bytes("out"), "usage": self.group.usage(),
                "zero": self.shared.zero_resident_bytes() if self.shared else 0}

    def run(self):
        with contextlib.suppress(OSError, ValueError, IndexError):
            while True:
                look = self.look()
                if self.seen and look["usage"] < self.seen[0]["usage"] * 0.8:  # it is being taken down
                    break
                if self.seen and look["faults"] < self.seen[-1]["faults"]:  # its threads end
                    break
                self.seen.append(look)
                time.sleep(0.05)


class CountedSwap(HostSwap):
    """Swap that tells how much was read from it and written to it."""

    def __init__(self, lab, mib, kind):
        self.kind = kind
        if kind == "file":
            lab_module.add_zram = lambda mib: None  # HostSwap then makes a file
        super().__init__(lab, mib)

    def moved_bytes(self, way):
        """In or out: of this zram; with a file, which has no counters of its own, of the whole machine."""
        if self.kind == "zram":
            stat = pathlib.Path(f"/sys/block/{os.path.basename(self.device)}/stat").read_text(encoding="ascii").split()
            return int(stat[2 if way == "in" else 6]) * 512
        return int(next(line.split()[1] for line in open("/proc/vmstat", encoding="ascii") if line.startswith(f"pswp{way} "))) * PAGE


class Stage:
    def __init__(self, lab, advice, arguments):
        self.lab, self.arguments = lab, arguments
        self.swap = CountedSwap(lab, 2048, arguments.swap)
        self.here, self.there = PrivateLibvirtd(lab, "here", "memoc-here"), PrivateLibvirtd(lab, "there", "memoc-there")
        self.here.install_hook(program("memoc-hook"))
        self.here.start()
        self.there.start()
        self._take_first_number()
        config = {"host": {"pool": "2G", "buffer": "320M"}, "policy": {"grace": "5s"}, "migration": {"advice": advice}}
        self.memocd = Memocd(lab, self.here, config)
        self.memocd.start()

    def _take_first_number(self):
        """Both libvirtds would call their first group "qemu-1-NAME": source and destination would share one, and its limit."""
        first = Guest(self.lab, self.there, "first", 64)
        first.start(paused=True)
        first.destroy()

    def guest(self, kind, name):
        guest = Guest(self.lab, self.here, name, MEMORY_MIB, driver=False, memfd=kind == "memfd", fill=kind == "private",
                      free_page_reporting=False)
        guest.start()
        guest.wait_ready(240)
        if kind == "memfd":
            guest.job("touch 330")
        guest.line.ask(f"pace {PACE_MS}", 30)
        guest.job(f"use {HOT_MIB}")
        self.memocd.wait_vm(name, lambda vm: vm["state"] == "steady", 120, "steady")
        self.memocd.memoc_text("resize", name, f"{MEMORY_MIB // 2 if kind == 'private' else 200}M", "--wait", limit_s=120)
        time.sleep(SETTLE_S)  # whatever the squeeze pushed out wrongly is back
        return guest

    def run_once(self, kind, name):
        guest = self.guest(kind, name)
        shared = SharedMemory(guest.pid, MEMORY_MIB * MIB) if kind == "memfd" else None
        watcher = Watcher(guest, shared, self.swap)
        try:
            if self.arguments.bandwidth:
                guest.virsh("migrate-setspeed", str(self.arguments.bandwidth))
            guest.line.ask(f"watch {WATCH_MS}", 30)
            quiet = watcher.look()
            time.sleep(5)
            before = watcher.look()
            watcher.start()
            began = time.monotonic()
            self.migrate(guest)
            seconds = time.monotonic() - began
            watcher.join()
            advice = [e["reason"] for e in self.memocd.events() if e["vm"] == name and e["event"] == "advice"]
            end = watcher.seen[-1]
            # With and without advice alike: what it goes by is what QEMU does, and not what becomes of it.
            reads = next((look for look in watcher.seen if look["swap_in"] > before["swap_in"] + 2 * MIB), before)
            while_migrating = rate(guest, began, end["at"])
            return {"start_mib": before["swapped"] / MIB, "end_mib": end["swapped"] / MIB,
                    "faults": end["faults"] - reads["faults"], "faults_before": reads["faults"] - before["faults"],
                    "noise": (before["faults"] - quiet["faults"]) / (before["at"] - quiet["at"]) * (end["at"] - before["at"]), "out_mib": (end["swap_out"] - before["swap_out"]) / MIB,
                    "zero_mib": end["zero"] / MIB, "peak_mib": max(look["usage"] for look in watcher.seen) / MIB,
                    "rate": while_migrating / rate(guest, 0, began), "seconds": seconds, "advice": advice}
        except LabError as error:
            raise LabError(f"{error}; console: {host.tail(guest.console, 6)}") from None
        finally:
            if shared:
                shared.close()
            guest.remove()

    def migrate(self, guest):
        """What becomes of it at the destination is not looked at: QEMU 7.2's emulated processors break a guest's kernel there."""
        try:
            guest.migrate(self.there)
        except LabError:
            if self.here.virsh("list", "--name").split():
                raise


def rate(guest, since, until):
    """Hot pages a second, by what the guest told between two moments."""
    told = [event for event in guest.line.events if event.data["event"] == "rate" and since <= event.at <= until]
    if len(told) < 2:
        raise LabError("the guest told its rate less than twice while it was watched")
    return (told[-1].data["walked_pages"] - told[0].data["walked_pages"]) / (told[-1].data["at_ms"] - told[0].data["at_ms"])


def measure(kind, advice, number, arguments):
    for _ in range(3):
        try:
            with Lab() as lab:
                result = Stage(lab, advice, arguments).run_once(kind, f"{kind}{number}{advice}")
            print(f"  {kind} {advice:3}: " + " ".join(f"{k}={v:.1f}" if isinstance(v, float) else f"{k}={v}" for k, v in result.items()),
                  flush=True)
            return result
        except (LabError, StopIteration) as error:  # the emulator breaks a guest's kernel now and then while it migrates it
            print(f"  {kind} {advice}: once more: {str(error)[:400]}", flush=True)
    raise LabError(f"{kind}, advice {advice}: three times without a result")


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def table(kind, off, on):
    def share(key):
        ratios = [with_advice[key] / without[key] for with_advice, without in zip(on, off) if without[key]]
        return statistics.median(ratios) if ratios else float("nan")

    kept = [statistics.median(abs(run["end_mib"] / run["start_mib"] - 1) for run in runs) for runs in (on, off)]
    rows = [("swapped at the end, off the start by", f"{kept[0]:.1%}", f"{kept[1]:.1%}", "<= 5 %"),
            ("major faults of the vCPU", median(on, "faults"), median(off, "faults"),
             f"0 beyond noise ({median(on, 'noise'):.0f} in as long before)"),
            # An emulated processor forgets its translations when QEMU begins to log what is written to, and then reads pages of the
            # guest that it has not needed since: no KVM does, and nothing has been read or advised yet.
            ("  and before QEMU reads anything swapped", median(on, "faults_before"), median(off, "faults_before"), "the emulator's"),
            ("swap-out, MiB (share of without)", f"{median(on, 'out_mib'):.0f} ({share('out_mib'):.0%})", f"{median(off, 'out_mib'):.0f}",
             "<= 10 %"),
            ("workload's rate, of undisturbed", f"{median(on, 'rate'):.2f} ({share('rate'):.2f}x)", f"{median(off, 'rate'):.2f}", ">= 1.2x"),
            ("migration, s", f"{median(on, 'seconds'):.2f} ({share('seconds'):.2f}x)", f"{median(off, 'seconds'):.2f}", "<= 1.05x"),
            ("most in memory, MiB", f"{median(on, 'peak_mib'):.0f}", f"{median(off, 'peak_mib'):.0f}", "")]
    if kind == "memfd":
        rows.append(("pages of zeroes resident, MiB", f"{median(on, 'zero_mib'):.1f} ({share('zero_mib'):.1%})",
                     f"{median(off, 'zero_mib'):.1f}", "<= 5 %"))
    print(f"{kind}, medians of {len(on)} pairs and of their ratios:\n  {'':42} {'advice on':>18} {'off':>12}   bar")
    for name, with_advice, without, bar in rows:
        print(f"  {name:42} {with_advice!s:>18} {without!s:>12}   {bar}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=int(os.environ.get("BENCH_RUNS", "3")))
    parser.add_argument("--kinds", default="private,memfd")
    parser.add_argument("--bandwidth", type=int, help="MiB/s; without it as fast as it goes")
    parser.add_argument("--swap", choices=("zram", "file"), default="zram")
    arguments = parser.parse_args()
    for kind in arguments.kinds.split(","):
        pairs = []
        for n in range(arguments.runs):
            order = ("off", "on") if n % 2 == 0 else ("on", "off")  # whatever drifts drifts for both
            pairs.append({advice: measure(kind, advice, n, arguments) for advice in order})
        table(kind, *([pair[advice] for pair in pairs] for advice in ("off", "on")))


if __name__ == "__main__":
    sys.exit(main())
