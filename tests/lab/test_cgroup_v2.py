# SPDX-License-Identifier: LGPL-2.1-or-later
"""How memory is taken on cgroup v2: memory.high and memory.reclaim are what is used, memory.max is not touched, nobody is killed."""

from host import MIB
from run import limit
from installed import CONFIG, Site, systemctl, wait_for

MEMORY_MIB = 128
SMALL_MIB = 80


class Bench(Site):
    """A guest without driver, all of whose memory is on the host: the cgroup has to take everything."""

    def __init__(self, lab):
        super().__init__(lab)
        self.ready()
        self.mute = self.guest("mute", MEMORY_MIB, driver=False, fill=True)
        self.mute.wait_ready()
        self.memocd.wait_vm("mute", lambda vm: vm["state"] in ("steady", "fixed"), 120, "to be managed")

    def events(self):
        return {key: int(value) for key, value in (line.split() for line in self.mute.cgroup().read("memory.events").splitlines())}

    def shrink_by(self, method):
        """Takes SMALL_MIB with that method; memory.events before and after."""
        self.memocd.write_config({**CONFIG, "swap": {"method": method}})
        systemctl("restart", "memocd.service")
        self.memocd.wait_answering()
        self.memocd.memoc_text("resize", "mute", f"{MEMORY_MIB}M")
        group = self.mute.cgroup()
        wait_for(lambda: (group.limit() or 1 << 62) > MEMORY_MIB * MIB, 60, "the limit to be far", show=group.limit)
        self.mute.job("use 0")
        self.mute.job("touch 90")  # what was swapped out by the last test is back
        before = self.events()
        self.memocd.memoc_text("resize", "mute", f"{SMALL_MIB}M")
        overhead = self.memocd.info("mute")["overhead_bytes"]
        wait_for(lambda: group.limit() is not None and group.limit() <= SMALL_MIB * MIB + overhead + 2 * MIB, 120,
                 "mute held to its size", show=lambda: (group.limit(), self.memocd.vm("mute")))
        assert group.usage() <= group.limit() + 4 * MIB, (group.usage(), group.limit())
        assert group.swapped() > 8 * MIB, group.swapped()
        return before, self.events()


def fixture(lab):
    bench = Bench(lab)
    yield bench
    bench.mute.destroy()
    bench.mute.undefine()


@limit(240)
def test_reclaim(site):
    """method = reclaim: memory.reclaim takes it, so that the guest is not throttled while it shrinks (no "high" event, or hardly one)."""
    before, after = site.shrink_by("reclaim")
    print(f"events before {before}, after {after}")
    assert after["high"] - before["high"] < 50, (before, after)
    site.assert_unharmed()


@limit(240)
def test_limit(site):
    """method = limit: memory.high alone takes it."""
    before, after = site.shrink_by("limit")
    print(f"events before {before}, after {after}")
    assert after["high"] > before["high"], (before, after)
    site.assert_unharmed()


@limit(240)
def test_auto(site):
    """The default: both, and the workload inside lives."""
    site.shrink_by("auto")
    assert site.mute.report()["oom_kills"] == 0
    site.assert_unharmed()
