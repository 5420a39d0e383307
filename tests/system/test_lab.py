# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab itself: what the other tests take for granted of guests, libvirt, cgroups and swap."""

import os
import signal
import subprocess
import sys
import time

import host
import lab as lab_module
from lab import MIB, Guest, HostSwap, Lab, PrivateLibvirtd, wait_for
from run import ModuleRun, Results, limit

MEMORY_MIB = 384


class Bench:
    """Four guests: an ordinary one, one without driver, one filled while booting, one without swap of its own."""

    def __init__(self, lab):
        self.lab = lab
        self.swap = HostSwap(lab, 1024)
        self.libvirtd = PrivateLibvirtd(lab)
        self.libvirtd.start()
        self.plain = Guest(lab, self.libvirtd, "plain", MEMORY_MIB, free_page_reporting=False)
        self.driverless = Guest(lab, self.libvirtd, "driverless", MEMORY_MIB, driver=False)
        self.filled = Guest(lab, self.libvirtd, "filled", MEMORY_MIB, free_page_reporting=False, fill=True)
        self.shared = Guest(lab, self.libvirtd, "shared", MEMORY_MIB, memfd=True,
                            policy={"min": "128M", "weight": "100"})
        self.guests = [self.plain, self.driverless, self.filled, self.shared]
        for guest in self.guests:
            guest.start()
        for guest in self.guests:
            guest.wait_ready()

    def reset(self):
        for guest in self.guests:
            guest.cmd("use 0")


def fixture(lab):
    yield Bench(lab)


def wait_balloon(guest, mib, limit_s=30):
    wait_for(lambda: guest.balloon_bytes() == mib * MIB, limit_s, f"balloon of {guest.name} at {mib} MiB",
             show=guest.memory_stats)


def test_guest_keeps_its_pace(bench):
    """An undisturbed workload does at least 90 % of the wanted pages a second, by host and by guest clock."""
    bench.plain.job("use 150")
    wait_for(lambda: bench.plain.relative_rate() > 0.9, 20, "an undisturbed workload to keep its pace")
    report = bench.plain.report()
    assert report["use_mib"] == 150 and report["wanted_per_s"] == 150 * 256 * 5, report
    assert 0.85 < report["rate_per_s"] / report["wanted_per_s"] < 1.15, report


def test_working_set_shrinks(bench):
    """Less use gives memory back to the guest's kernel."""
    bench.plain.job("use 200")
    used = bench.plain.cmd("meminfo")["MemFree_bytes"]
    bench.plain.job("use 20")
    assert bench.plain.cmd("meminfo")["MemFree_bytes"] - used > 170 * MIB
    assert bench.plain.report()["use_mib"] == 20


def test_later_wish_replaces_earlier(bench):
    """`use` while an earlier `use` is still growing: the last one counts."""
    bench.plain.cmd("use 200")
    bench.plain.job("use 40")
    wait_for(lambda: bench.plain.report()["job"] == 0, 20, "jobs to end", show=bench.plain.report)
    assert bench.plain.report()["use_mib"] == 40, bench.plain.report()


def test_balloon_moves_both_ways(bench):
    """setmem shrinks and grows a guest with driver, and what it gives is the host's again."""
    guest = bench.filled
    before = guest.cgroup().usage()
    assert before > (MEMORY_MIB - 80) * MIB, f"fill at boot left only {before} bytes resident"
    guest.set_balloon(192)
    wait_balloon(guest, 192)
    wait_for(lambda: before - guest.cgroup().usage() > 150 * MIB, 10, "memory of the balloon back on the host",
             show=guest.cgroup().usage)
    guest.set_balloon(MEMORY_MIB)
    wait_balloon(guest, MEMORY_MIB)


def test_statistics_arrive(bench):
    """Guest statistics are there and go on being refreshed."""
    first = bench.plain.memory_stats()
    assert first["available"] > first["usable"] > 100 * MIB, first
    wait_for(lambda: bench.plain.memory_stats()["last_update"] >= first["last_update"] + 2, 20, "two more updates")


def test_no_driver_no_movement_until_loaded(bench):
    """Without driver setmem succeeds and nothing moves; the driver loaded later obeys at once; unloaded it is gone."""
    guest = bench.driverless
    guest.set_balloon(256)
    statistics = guest.memory_stats()
    assert statistics["actual"] == MEMORY_MIB * MIB and statistics.get("last_update", 0) == 0, statistics
    assert not guest.report()["driver"]
    time.sleep(1)  # the time in which it could have moved
    assert guest.balloon_bytes() == MEMORY_MIB * MIB
    guest.job("load-driver")
    assert guest.report()["driver"]
    wait_balloon(guest, 256)
    guest.set_balloon(MEMORY_MIB)
    wait_balloon(guest, MEMORY_MIB)
    guest.job("unload-driver")
    assert not guest.report()["driver"]


def test_overuse_is_told(bench):
    """A workload that wants more than the guest has is killed by the guest's kernel, starts anew and says so."""
    guest = bench.driverless
    before, since = guest.report(), len(guest.line.events)
    guest.cmd(f"use {MEMORY_MIB + 200}")
    guest.wait_reboot(since)
    after = guest.report()
    assert after["oom_kills"] > before["oom_kills"] and after["starts"] == before["starts"] + 1, after


def test_locked_memory_is_the_balloons_floor(bench):
    """Memory locked in the guest stops the balloon above it: a stall as drivers have them."""
    guest = bench.plain
    guest.job("lock 200")
    try:
        guest.set_balloon(160)
        wait_for(lambda: guest.balloon_bytes() < 330 * MIB, 30, "the balloon to begin", show=guest.balloon_bytes)
        lowest = guest.balloon_bytes()
        for _ in range(8):
            time.sleep(0.25)  # the time in which it could have reached its target
            lowest = min(lowest, guest.balloon_bytes())
        assert lowest > 200 * MIB, f"the balloon took locked memory: {lowest}"
    finally:
        guest.set_balloon(MEMORY_MIB)
        guest.job("lock 0")
    wait_balloon(guest, MEMORY_MIB)


def test_throttled_guest_is_slow(bench):
    """Both throttles: a real-time thread in the guest, and a vCPU quota on the host."""
    guest = bench.plain
    guest.cmd("pace 20")
    guest.job("use 150")
    free = guest.rate()[0]  # on a busy host it may have little to lose

    def slow():
        return guest.rate()[0] < free / 2

    guest.cmd("throttle 5")
    wait_for(slow, 60, f"a thread in the guest to halve its rate of {free:.0f} pages/s")
    guest.cmd("throttle 100")
    guest.throttle(3)
    wait_for(slow, 60, f"a quota on the host to halve its rate of {free:.0f} pages/s")
    guest.throttle(100)
    guest.cmd("pace 200")


def test_limit_pushes_to_swap_and_slows(bench):
    """A limit below the working set: pages go to host swap, QEMU has major faults, the workload falls far behind."""
    guest = bench.shared if host.cgroup_version() == "v2" else bench.plain
    guest.job("use 200")
    wait_for(lambda: guest.relative_rate() > 0.9, 20, "the full pace before the limit")
    group, faults = guest.cgroup(), host.major_faults(guest.pid)
    with host.OomGuard(group):
        try:
            guest.suspend()  # what is reclaimed on v1 may else be faulted back as fast, for ever
            group.squeeze(150 * MIB)
            guest.resume()
            wait_for(lambda: guest.relative_rate() < 0.5, 30, "the workload to fall behind", show=guest.report)
            assert group.swapped() > 40 * MIB and bench.swap.used_bytes() > 0
            assert host.major_faults(guest.pid) - faults > 1000
        finally:
            group.set_limit(None)
    wait_for(lambda: guest.relative_rate() > 0.9, 30, "the full pace after the limit", show=guest.report)
    assert group.oom_kills() == 0 and guest.report()["oom_kills"] == 0


def test_reset_and_reboot(bench):
    """virsh reset and a reboot from inside: the workload is back, with its memory forgotten."""
    guest = bench.plain
    for reboot in (guest.reset, lambda: guest.cmd("reboot")):
        guest.job("use 30")
        since, pid = len(guest.line.events), guest.pid
        reboot()
        guest.wait_reboot(since)
        guest.wait_ready()
        assert guest.report()["use_mib"] == 0 and guest.pid == pid


def test_pause_stops_the_workload(bench):
    """A suspended guest walks nothing, and goes on when resumed."""
    guest = bench.shared
    guest.job("use 50")
    guest.cmd("watch 100")
    since = len(guest.line.events)
    guest.line.wait_event(lambda data: data["event"] == "rate", 10, "a rate event", since)
    guest.suspend()
    since = len(guest.line.events)
    time.sleep(1)  # the time in which events could come
    assert len(guest.line.events) - since <= 1
    guest.resume()
    guest.line.wait_event(lambda data: data["event"] == "rate", 10, "a rate event after resume", since + 1)
    guest.cmd("watch 0")
    assert guest.rate_samples()


@limit(240)
def test_save_crash_and_poweroff(bench):
    """Managed save keeps the workload's state; a guest's panic and its power-off end QEMU."""
    guest = bench.shared
    guest.job("use 40")
    guest.managed_save()
    guest.start()
    guest.wait_ready()
    assert guest.report()["use_mib"] == 40
    for ending in ("crash", "poweroff"):
        guest.cmd(ending)
        guest.wait_gone()
        guest.start()
        guest.wait_ready()


def test_libvirtd_killed_and_restarted(bench):
    """Guests outlive their libvirtd, and the next one adopts them; a hook installed while it runs is used."""
    pid = bench.plain.pid
    bench.libvirtd.kill()
    bench.libvirtd.start()
    assert bench.plain.pid == pid and bench.plain.virsh("domstate") == "running"
    note = bench.lab.base / "hook-was-here"
    script = bench.lab.base / "hook.sh"
    script.write_text(f"#!/bin/sh\necho \"$1 $2\" >>{note}\ncat >/dev/null\n", encoding="ascii")
    bench.libvirtd.install_hook(script, "10-note")
    try:
        bench.driverless.destroy()
        bench.driverless.start()
        assert "driverless prepare" in note.read_text(encoding="ascii"), note.read_text(encoding="ascii")
    finally:
        bench.libvirtd.remove_hook("10-note")
    bench.driverless.wait_ready()


@limit(180)
def test_killed_run_is_swept(bench):
    """A run ended by SIGKILL leaves processes, swap, cgroups; they are seen as left over, and a sweep removes them all."""
    code = ("import sys, time; sys.path.insert(0, sys.argv[1])\n"
            "from lab import *\n"
            "lab = Lab(); HostSwap(lab, 64); daemon = PrivateLibvirtd(lab); daemon.start()\n"
            "Guest(lab, daemon, 'orphan', 256).start()\n"
            "print(lab.base, flush=True); time.sleep(600)\n")
    with subprocess.Popen([sys.executable, "-c", code, os.path.dirname(os.path.abspath(__file__))],
                          stdout=subprocess.PIPE, text=True) as victim:
        base = victim.stdout.readline().strip()
        assert base.startswith(str(host.LAB_ROOT)), base
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    name = os.path.basename(base).removeprefix(host.LAB_PREFIX)
    seen = [line.split()[0] for line in lab_module.leftovers() if name in line or line.startswith("swap")]
    assert {"directory", "process", "cgroup", "swap"} <= set(seen), seen
    assert lab_module.sweep() == []
    left = [line for line in lab_module.leftovers() if name in line or line.startswith("swap")]
    assert left == [], left
    assert bench.plain.running() and bench.swap.device in host.swaps(), "the sweep touched a living lab"


def test_close_leaves_nothing(bench):
    """A lab with a hung guest and a dead libvirtd still closes without a trace."""
    with Lab() as other:
        HostSwap(other, 64)
        daemon = PrivateLibvirtd(other)
        daemon.start()
        guest = Guest(other, daemon, "hung", 256)
        guest.start()
        guest.kill(signal.SIGSTOP)
        daemon.kill()
        base, pid = other.base, guest.pid
    assert not base.exists() and host.process_start(pid) is None
    assert not host.processes_naming(str(base))
    assert not [path for path in host.our_cgroups() if base.name.removeprefix(host.LAB_PREFIX) in path.name]
    assert bench.plain.running()


class CrashOnce:
    """A module whose first run ends with a crash of libvirtd, or with a kill of it, which is no crash."""

    def __init__(self, number):
        self.number, self.runs = number, 0

    def fixture(self, lab):
        daemon = PrivateLibvirtd(lab)
        daemon.start()
        yield daemon

    def test(self, daemon):
        self.runs += 1
        if self.runs == 1:
            daemon.signal(self.number)
            wait_for(lambda: not daemon.running(), 20, "libvirtd to end")
            host.run(["virsh", "-q", "-c", daemon.uri, "list"])
        daemon.wait_answering()


@limit(180)
def test_a_crash_of_libvirtd_is_no_failure_at_once(_bench):
    """What libvirtd's own crash broke is run once more with another; what we ended fails."""
    for number, outcome, runs in ((signal.SIGSEGV, "passed", 2), (signal.SIGKILL, "failed", 1)):
        module, results = CrashOnce(number), Results()
        run = ModuleRun(module, results)
        run.run("made up", module.test)
        run.finish("made up")
        assert results.counts == {"passed": 0, "failed": 0, "skipped": 0} | {outcome: 1} and module.runs == runs, results.counts
