# SPDX-License-Identifier: LGPL-2.1-or-later
"""How memory is taken on cgroup v2: memory.high and memory.reclaim are what is used, memory.max is not touched, nobody is killed."""

import ctypes
import os
import struct

from host import MIB
from run import limit
from installed import CONFIG, Site, systemctl, wait_for

MEMORY_MIB = 128
TAKEN_MIB = 32


IN_MODIFY = 2
FEW = 2  # "high" events: where memory.high takes the memory there were 4 to 12, by memory.reclaim none


class Writes:
    """Who was written how often, by inotify: {path: times}. The kernel's own events of these files are not among them."""

    def __init__(self, *paths):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.fd >= 0, os.strerror(ctypes.get_errno())
        self.paths = {libc.inotify_add_watch(self.fd, os.fsencode(path), IN_MODIFY): path for path in paths}
        assert -1 not in self.paths, os.strerror(ctypes.get_errno())
        self.times = dict.fromkeys(paths, 0)

    def read(self):
        """At least so often: the kernel makes one event of several alike that nobody has read, and none before a write has ended."""
        try:
            while data := os.read(self.fd, 4096):
                for at in range(0, len(data), struct.calcsize("iIII")):
                    self.times[self.paths[struct.unpack_from("iIII", data, at)[0]]] += 1
        except BlockingIOError:
            pass
        return self.times

    def close(self):
        os.close(self.fd)


class Bench(Site):
    """A guest without driver, all of whose memory is on the host: the cgroup has to take everything."""

    def __init__(self, lab):
        super().__init__(lab)
        self.ready()
        self.mute = self.guest("mute", MEMORY_MIB, driver=False, fill=True)
        self.mute.wait_ready()
        self.memocd.wait_vm("mute", lambda vm: vm["state"] in ("steady", "fixed"), 120, "to be managed")
        self.memocd.memoc_text("set", "mute", f"min={MEMORY_MIB // 8}M")  # not in the way of what is taken

    def events(self):
        return {key: int(value) for key, value in (line.split() for line in self.mute.cgroup().read("memory.events").splitlines())}

    def measured(self):
        info = self.memocd.info("mute")
        return info if info["overhead_measured"] else None

    def shrink_by(self, method):
        """Takes TAKEN_MIB of what is in memory with that method; ("high" events of memory.events meanwhile, whether memory.reclaim was written)."""
        self.memocd.write_config({**CONFIG, "swap": {"method": method}})
        systemctl("restart", "memocd.service")
        self.memocd.wait_answering()
        self.memocd.memoc_text("resize", "mute", f"{MEMORY_MIB}M", "--wait", limit_s=120)
        info = wait_for(lambda: self.measured(), 60, "what QEMU itself needs to be measured")
        group, far = self.mute.cgroup(), info["overhead_bytes"] + (MEMORY_MIB - 4) * MIB
        wait_for(lambda: (group.limit() or 1 << 62) >= far, 60, "the limit to be far", show=lambda: (group.limit(), self.memocd.vm("mute")))
        self.mute.job("use 0")
        self.mute.job("touch 90")  # what was swapped out by the last test is back
        used, swapped = group.usage(), group.swapped()
        size = (used - TAKEN_MIB * MIB - info["overhead_bytes"]) // MIB
        assert size > MEMORY_MIB // 8, (used, info)
        before, writes = self.events(), Writes(group.path / "memory.high", group.path / "memory.reclaim")
        self.memocd.memoc_text("resize", "mute", f"{size}M")
        wait_for(lambda: group.limit() is not None and group.limit() < used and group.usage() <= group.limit() + 4 * MIB and
                 group.swapped() >= swapped + TAKEN_MIB // 2 * MIB, 120, f"mute held to {size} MiB",
                 show=lambda: (used, swapped, group.limit(), group.usage(), group.swapped(), self.memocd.vm("mute")))
        # A write to memory.high ends when the kernel has reclaimed that far, or has given up.
        wait_for(lambda: writes.read()[group.path / "memory.high"], 60, "the write to memory.high to end")
        times = writes.read()
        writes.close()
        high = self.events()["high"] - before["high"]
        print(f"{method}: {high} high events, writes to memory.high {times[group.path / 'memory.high']}, "
              f"to memory.reclaim {times[group.path / 'memory.reclaim']} at least")
        return high, times[group.path / "memory.reclaim"]


def fixture(lab):
    bench = Bench(lab)
    try:
        yield bench
    finally:
        bench.mute.destroy()
        bench.mute.undefine()


@limit(240)
def test_reclaim(site):
    """method = reclaim: memory.reclaim takes it, so that the guest is not throttled while it shrinks (no "high" event, or hardly one)."""
    high, reclaims = site.shrink_by("reclaim")
    assert reclaims and high <= FEW, (high, reclaims)
    site.assert_unharmed()


@limit(240)
def test_limit(site):
    """method = limit: memory.high alone takes it."""
    _, reclaims = site.shrink_by("limit")  # how many "high" events come of it is a matter of what the guest touches meanwhile
    assert not reclaims, reclaims
    site.assert_unharmed()


@limit(240)
def test_auto(site):
    """The default where the kernel has memory.reclaim: as reclaim, and the workload inside lives."""
    high, reclaims = site.shrink_by("auto")
    assert reclaims and high <= FEW, (high, reclaims)
    assert site.mute.report()["oom_kills"] == 0
    site.assert_unharmed()
