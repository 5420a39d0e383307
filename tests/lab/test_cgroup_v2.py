# SPDX-License-Identifier: LGPL-2.1-or-later
"""How memory is taken on cgroup v2: memory.high and memory.reclaim are what is used, memory.max is not touched, nobody is killed."""

import threading

from host import MIB
from run import limit
from installed import CONFIG, Site, systemctl, wait_for

MEMORY_MIB = 128
TAKEN_MIB = 32


class Taker(threading.Thread):
    """Who takes a cgroup's memory while it runs: what is swapped out while usage is below memory.high is not memory.high's doing."""

    def __init__(self, group):
        super().__init__(daemon=True)
        self.group, self.ended = group, threading.Event()
        self.below_bytes = self.above_bytes = self.looks = 0

    def look(self):
        limit = self.group.limit()
        return limit, self.group.swapped(), limit is None or self.group.usage() <= limit

    def run(self):
        before = self.look()
        while not self.ended.is_set():
            now = self.look()
            self.looks += 1
            if before[0] == now[0]:  # which of the two it was where memory.high changed in between is not known
                taken = max(now[1] - before[1], 0)
                if before[2] and now[2]:
                    self.below_bytes += taken
                else:
                    self.above_bytes += taken
            before = now

    def stop(self):
        self.ended.set()
        self.join()


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
        """Takes TAKEN_MIB of what is in memory with that method; what was taken below memory.high, and above it, in bytes."""
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
        high, taker = self.events()["high"], Taker(group)
        taker.start()
        try:
            self.memocd.memoc_text("resize", "mute", f"{size}M")
            wait_for(lambda: group.limit() is not None and group.limit() < used and group.usage() <= group.limit() + 4 * MIB and
                     group.swapped() >= swapped + TAKEN_MIB // 2 * MIB, 120, f"mute held to {size} MiB",
                     show=lambda: (used, swapped, group.limit(), group.usage(), group.swapped(), self.memocd.vm("mute")))
        finally:
            taker.stop()
        below, above = taker.below_bytes, taker.above_bytes
        print(f"{method}: {below / MIB:.1f} MiB taken below memory.high, {above / MIB:.1f} above, in {taker.looks} looks; "
              f"{self.events()['high'] - high} high events")
        return below, above


def fixture(lab):
    bench = Bench(lab)
    try:
        yield bench
    finally:
        bench.mute.destroy()
        bench.mute.undefine()


@limit(240)
def test_reclaim(site):
    """method = reclaim: memory.reclaim takes it and memory.high follows, so that the guest is not throttled while it shrinks."""
    below, above = site.shrink_by("reclaim")
    assert below > max(above, TAKEN_MIB // 4 * MIB), (below, above)
    site.assert_unharmed()


@limit(240)
def test_limit(site):
    """method = limit: memory.high comes first and takes it."""
    below, above = site.shrink_by("limit")
    assert above > below, (below, above)
    site.assert_unharmed()


@limit(240)
def test_auto(site):
    """The default where the kernel has memory.reclaim: as reclaim, and the workload inside lives."""
    below, above = site.shrink_by("auto")
    assert below > max(above, TAKEN_MIB // 4 * MIB), (below, above)
    assert site.mute.report()["oom_kills"] == 0
    site.assert_unharmed()
