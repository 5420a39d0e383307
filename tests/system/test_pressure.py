# SPDX-License-Identifier: LGPL-2.1-or-later
"""Both sides swapping one guest at once, and a host that runs short faster than balloons are."""

import time

import host
from stage import MIB, RESIZE_LIMIT_S, Stage, assert_order, at, brief, wait_for
from run import limit

QUICK_MIB = 320
DONOR_MIB = 384
BUFFER_MIB = 64
BASE = {
    "host": {"pool": "3G", "buffer": f"{BUFFER_MIB}M"},
    # Where balloons are waited for they are waited for this long: what happens sooner does not wait for them.
    "balloon": {"min_speed": "16M", "stall_timeout": "120s"},
}


class Bench(Stage):
    """Two guests that will want memory, two that have too much: one with a driver that crawls, one without."""

    def __init__(self, lab):
        super().__init__(lab, BASE, swap_mib=2048)
        self.hungry = [self.guest(name, QUICK_MIB, swap_mib=256) for name in ("hungry1", "hungry2")]
        self.crawler = self.guest("crawler", DONOR_MIB, free_page_reporting=False, fill=True)
        self.bare = self.guest("bare", DONOR_MIB, driver=False, free_page_reporting=False, fill=True)
        self.swapper = self.guest("swapper", 256, swap_mib=256, policy={"balloon": "no"})
        self.start_guests()
        self.memocd.start()
        self.wait_steady()


def fixture(lab):
    yield Bench(lab)


def swapping_of(guest, seconds=1.0):
    """(bytes a second that the guest moves to and from its own swap, major faults a second of its QEMU)."""
    def look():
        stats = guest.memory_stats()
        return (stats.get("swap_in", 0) + stats.get("swap_out", 0)) * 1024, host.major_faults(guest.pid), time.monotonic()

    first = look()
    time.sleep(seconds * host.SLOW)  # the length of the measurement
    second = look()
    span = second[2] - first[2]
    return (second[0] - first[0]) / span, (second[1] - first[1]) / span


@limit(300)
def test_double_swapping_is_ended(bench):
    """Guest and host swap the same guest under a limit that memocd left when it was killed: noticed, told, ended."""
    guest = bench.swapper
    guest.job("use 60")
    bench.resize("swapper", 130)  # by the limit: its policy forbids the balloon
    bench.wait_limited("swapper", 130)
    state = bench.memocd.state_dir / "state.json"
    wait_for(lambda: str(130 * MIB) in state.read_text(encoding="utf-8"), RESIZE_LIMIT_S, "the pin in the state file")
    bench.memocd.kill()
    guest.cmd("use 320")  # more than it has: its own kernel swaps, under a limit that makes the host swap too
    try:
        wait_for(lambda: min(a / b for a, b in zip(swapping_of(guest), (2 * MIB, 200))) > 1, RESIZE_LIMIT_S,
                 "guest and host to swap at once", show=lambda: swapping_of(guest))
        assert guest.cgroup().limit() is not None
        mark = bench.mark()
        bench.memocd.start()
        told = bench.wait_event("double-swap", "swapper", mark)
        assert told["to_bytes"] is None and "limit opened" in told["reason"], told
        opened = bench.wait_event("limit-confirmed", "swapper", mark, matches=lambda event: event["to_bytes"] is None)
        assert at(opened) >= at(told) - 2000, brief(bench.events(mark, "swapper"))
        assert guest.cgroup().limit() is None
        bench.wait_event("double-swap-over", "swapper", mark, limit_s=120)
        bench.wait_vm("swapper", lambda vm: not vm["double_swapping"] and vm["limit_bytes"] is None, "no double swapping")
        wait_for(lambda: swapping_of(guest)[1] < 50, RESIZE_LIMIT_S, "the host to stop swapping", show=lambda: swapping_of(guest))
        assert "swapping it at once" in bench.explain("swapper"), bench.explain("swapper")
        assert guest.cgroup().limit() is None, "limited again although it still swaps by itself"
        log = bench.memocd.log.read_text(encoding="utf-8")
        assert "swapper: double-swap:" in log and "swapper: double-swap-over" in log
        bench.assert_unharmed("swapper", inside=False)
    finally:
        guest.cmd("use 0")
        if not bench.memocd.running():
            bench.memocd.start()
        bench.resize("swapper", "auto")


@limit(300)
def test_a_spike_is_seen_before_the_guest_tells_it(bench):
    """What a guest touches shows in its residency long before its next statistics, and between two rounds of the policy."""
    bench.memocd.write_config(dict(BASE, policy={"interval": "10s", "stale": "30s", "dwell": "1s"}))
    bench.memocd.reload()
    guest, seen = bench.guest("jumper", 512, swap_mib=256), []
    bench.start_guests("jumper")
    bench.wait_vm("jumper", lambda vm: vm["state"] == "steady" and vm["stats_age_ms"] is not None, "to be steady")
    for _ in range(3):
        guest.job("use 60")
        bench.wait_vm("jumper", lambda vm: not vm["needy"] and vm["need_bytes"] < 200 * MIB, "its last spike forgotten", limit_s=120)
        bench.resize("jumper", 208)
        bench.wait_balloon("jumper", 208)
        bench.resize("jumper", "auto")
        size_ms = bench.mark()
        # The second statistics after it: the first may have been taken while the balloon moved.
        usable = bench.wait_vm("jumper", lambda vm, size_ms=size_ms: vm["stats_age_ms"] + 1000 < bench.mark() - size_ms,
                               "statistics of its new size")["usable_bytes"]
        mark = bench.mark()
        begun = guest.begin(f"use {60 + usable // MIB + 128}")
        bench.wait_vm("jumper", lambda vm: vm["balloon_bytes"] > 330 * MIB, "to have grown")
        guest.finish(begun)
        seen.append(bench.wait_event("needy", "jumper", mark)["reason"])
    # One of them may begin just before the statistics that tell of it.
    assert sum("guest touched" in reason for reason in seen) >= 2, seen
    bench.assert_unharmed("jumper")
    guest.destroy()
    bench.memocd.write_config(BASE)
    bench.memocd.reload()


@limit(300)
def test_host_emergency_acts_by_limits(bench):
    """Two guests want more at once than the buffer holds: limits act in that moment, no balloon is waited for, nobody dies."""
    bench.swapper.destroy()
    for guest in bench.hungry:
        guest.job("use 40")
    for name in ("hungry1", "hungry2"):
        bench.resize(name, 150)
        bench.wait_balloon(name, 150)
    # All that is granted now, and the buffer: nothing is wrong, and nothing is left.
    bench.wait_steady("hungry1", "hungry2", "crawler", "bare")
    pool = bench.memocd.host()["granted_bytes"] + (BUFFER_MIB + 24) * MIB
    bench.memocd.write_config(dict(BASE, host={"pool": str(pool), "buffer": f"{BUFFER_MIB}M"}))
    bench.memocd.reload()
    wait_for(lambda: bench.memocd.host()["pool_bytes"] == pool, RESIZE_LIMIT_S, "the new pool", show=bench.memocd.host)
    for name in ("hungry1", "hungry2"):
        bench.resize(name, "auto")
    wait_for(lambda: bench.memocd.host()["level"] in ("high", "soft"), RESIZE_LIMIT_S, "a level without need", show=bench.memocd.host)
    bench.crawler.cmd("throttle 1")
    mark = bench.mark()
    for guest in bench.hungry:
        guest.cmd("use 200")
    level = bench.wait_event("level", None, mark, matches=lambda event: event["reason"].endswith(("hard", "low")))
    for name in ("crawler", "bare"):  # by what was done: bare's faults may soon make it needy, and then its limit goes again
        bench.wait_event("limit-confirmed", name, mark, matches=lambda event: event["to_bytes"] is not None)
    wait_for(lambda: bench.crawler.cgroup().swapped() > 16 * MIB, RESIZE_LIMIT_S, "the crawler to be swapped out by its limit",
             show=lambda: brief(bench.events(mark)))
    for guest in bench.hungry:
        wait_for(lambda one=guest: one.relative_rate() > 0.7, 120, f"the workload of {guest.name} to be at its pace",
                 show=lambda one=guest: (one.report(), bench.memocd.list()))
    judge_emergency(bench, mark, level)
    bench.crawler.cmd("throttle 100")
    wait_for(lambda: bench.memocd.host()["level"] in ("high", "soft"), 120, "the end of the emergency", show=bench.memocd.host)
    bench.assert_unharmed("hungry1", "hungry2", "crawler", "bare")
    assert bench.memocd.host()["resident_bytes"] <= pool


def judge_emergency(bench, mark, level):
    """Both were limited in the same moment, long before a balloon could be judged; the crawler's balloon was still at it."""
    for name in ("crawler", "bare"):
        events = bench.events(mark, name)
        now = [event for event in events if event["event"] == "state" and event["reason"].endswith("on lower-now")]
        assert now, f"{name} was never shrunk at once: {brief(events)}"
        urgent = [event for event in events if at(event) >= at(now[0])]
        _, lowered = assert_order(urgent, "state", "limit")
        assert lowered["to_bytes"] is not None and at(lowered) - at(now[0]) < 2000, brief(urgent)
        assert at(lowered) >= at(level) - 1000, f"before the emergency: {brief(bench.events(mark))}"
        early = [event for event in events if event["event"] in ("balloon-stalled", "balloon-reached") and at(event) < at(lowered)]
        assert not early, f"a balloon was waited for: {brief(events)}"
    assert bench.crawler.balloon_bytes() > 200 * MIB, "the crawler's balloon was too quick for this test"
