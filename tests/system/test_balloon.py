# SPDX-License-Identifier: LGPL-2.1-or-later
"""Balloons that are missing, late, slow or stuck: the limit finishes what they do not, and they are not forgotten.

Sizes are asked for by `memoc resize`, so that nothing here depends on what the policy would want.
"""

import re

from lab import HostSwap
from stage import MIB, RESIZE_LIMIT_S, Stage, SwaplessMemocd, assert_order, at, brief, host, pairs, wait_for
from run import Skip, alone, limit

MEMORY_MIB = 384
# A software-emulated guest's balloon takes 400 to 700 MiB/s; with a hundredth of a processor 5 to 9 MiB/s, and no more of it
# where the host is busy (a throttle in the guest leaves it wall time, of which it made up to 36 MiB/s). The bound between the
# two leaves a factor of several on both sides.
MIN_SPEED_MIB = 32
RETRY_MIN_S = 2
SMALL_SWAP_MIB = 128
KEEP_FREE_MIB = 30  # less than the quarter of that swap that is kept at most
CONFIG = {
    "host": {"pool": "3G", "buffer": "64M"},
    # A guest squeezed on purpose swaps: that is not what these tests are about (double swapping would open its limit).
    "policy": {"needy_swap": "1G"},
    "balloon": {"min_speed": f"{MIN_SPEED_MIB}M", "stall_timeout": "1500ms", "retry_min": f"{RETRY_MIN_S}s",
                "retry_max": "1h"},
}


class Bench(Stage):
    """One guest with driver, two without; all their memory is resident."""

    def __init__(self, lab):
        super().__init__(lab, CONFIG)
        self.plain = self.guest("plain", MEMORY_MIB, free_page_reporting=False, fill=True)
        self.late = self.guest("late", driver=False, free_page_reporting=False, fill=True)
        self.bare = self.guest("bare", driver=False, free_page_reporting=False, fill=True)
        self.start_guests()
        self.memocd.start()
        self.wait_steady()

    def reset(self):
        if not self.memocd.running():
            self.memocd.start()
            self.wait_steady()


def fixture(lab):
    yield Bench(lab)


def test_no_driver_is_shrunk_by_limit(bench):
    """A guest without driver: the balloon is tried, found absent, and the cgroup limit takes all of it."""
    mark = bench.resize("late", 160)
    bench.wait_limited("late", 160)
    events = bench.events(mark, "late")
    _, _, stalled, lowered = assert_order(events, "target", "balloon", "balloon-stalled", "limit")
    assert "no driver" in stalled["reason"], stalled
    assert lowered["to_bytes"] is not None
    vm = bench.vm("late")
    assert vm["balloon_health"] == "absent" and vm["balloon_bytes"] == 256 * MIB, vm
    assert bench.late.balloon_bytes() == 256 * MIB, "the balloon of a guest without driver moved"
    group = bench.late.cgroup()
    assert group.usage() <= group.limit() and group.swapped() > 32 * MIB, (group.usage(), group.limit(), group.swapped())
    bench.wait_vm("late", lambda vm: vm["swapped_bytes"] > 32 * MIB and vm["usable_bytes"] is None, "swapped, and silent")
    bench.assert_unharmed("late")


def test_driver_loaded_later_is_noticed(bench):
    """The driver comes at last: noticed without being asked for, trusted, and used from then on."""
    bench.resize("late", 160)
    bench.wait_limited("late", 160)
    mark = bench.mark()
    bench.late.job("load-driver")
    bench.wait_event("balloon-back", "late", mark)
    bench.wait_balloon("late", 160)  # the wish was left with QEMU
    bench.wait_vm("late", lambda vm: vm["balloon_health"] in ("working", "slow"), "a working balloon")
    bench.wait_vm("late", lambda vm: vm["usable_bytes"] is not None, "guest statistics")
    mark = bench.resize("late", 110)
    bench.wait_event("balloon-reached", "late", mark)
    bench.wait_balloon("late", 110)
    assert not bench.events(mark, "late", ("balloon-stalled",)), brief(bench.events(mark, "late"))
    vm = bench.wait_vm("late", lambda vm: vm["state"] == "steady", "to be steady")
    assert vm["balloon_bytes_per_s"] > MIN_SPEED_MIB * MIB, vm
    bench.assert_unharmed("late")


def test_speed_is_learned(bench):
    """A balloon that works: its speed in `info` is what was seen, and the limit comes behind it only."""
    bench.resize("plain", MEMORY_MIB)
    bench.wait_balloon("plain", MEMORY_MIB)
    mark = bench.resize("plain", 250)
    reached = bench.wait_event("balloon-reached", "plain", mark)
    bench.wait_vm("plain", lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is not None, "steady behind a limit")
    _, asked, reached, lowered = assert_order(bench.events(mark, "plain"), "target", "balloon", "balloon-reached", "limit")
    seen = (reached["from_bytes"] - reached["to_bytes"]) * 1000 / max(1, at(reached) - at(asked))
    info = bench.memocd.info("plain")
    assert seen / 4 < info["balloon_bytes_per_s"] < seen * 4, (seen, info["balloon_bytes_per_s"])
    assert info["balloon_health"] in ("working", "slow") and info["floor_bytes"] is None, info
    assert lowered["to_bytes"] > 250 * MIB, "a limit behind a working balloon leaves room for QEMU itself"


@limit(240)
def test_trickle_is_a_stall_and_retried(bench):
    """A driver that trickles: movement is not enough, the limit finishes, retries come ever later, and it may come back."""
    guest = bench.plain
    for size in (300, MEMORY_MIB):  # what it can do when it has time is learned before
        bench.resize("plain", size)
        bench.wait_balloon("plain", size)
        bench.wait_steady("plain")
    guest.throttle(1)
    try:
        mark = bench.resize("plain", 130)
        stalled = bench.wait_event("balloon-stalled", "plain", mark)
        assert stalled["from_bytes"] > 200 * MIB, f"no trickle but a working balloon: {stalled}"
        bench.wait_event("limit", "plain", at(stalled))
        info = bench.memocd.info("plain")
        assert info["balloon_health"] == "stalled" and info["balloon_bytes_per_s"] > MIN_SPEED_MIB * MIB, info
        assert abs(info["floor_bytes"] - info["balloon_bytes"]) < 64 * MIB, info
        wait_for(lambda: len(bench.events(mark, "plain", ("balloon-retry",))) >= 3, RESIZE_LIMIT_S, "three retries")
        bench.wait_event("balloon-stalled", "plain", mark, matches=lambda event: f"in {8 * RETRY_MIN_S} s" in event["reason"])
        group = guest.cgroup()
        assert group.limit() is not None and group.usage() <= group.limit() < 250 * MIB, (group.usage(), group.limit())
        assert guest.balloon_bytes() > 150 * MIB, "the guest was not slow enough for this test"
    finally:
        guest.throttle(100)
    tries = bench.events(mark, "plain", ("balloon", "balloon-stalled"))
    assert any(after["event"] == "balloon-stalled" and after["from_bytes"] < before["from_bytes"] for before, after in
               pairs(tries)), f"it did not even trickle: {brief(tries)}"
    judge_schedule(bench.events(mark, "plain", ("balloon-stalled", "balloon-retry")))
    back = bench.mark()
    bench.wait_event("balloon-back", "plain", mark)  # nobody asked it: what was left with QEMU is done now
    bench.wait_balloon("plain", 130)
    bench.wait_vm("plain", lambda vm: vm["balloon_health"] in ("working", "slow") and vm["state"] == "steady", "back")
    assert bench.memocd.info("plain")["next_retry_ms"] is None
    assert not bench.events(back, "plain", ("balloon-stalled",)), brief(bench.events(back, "plain"))
    bench.assert_unharmed("plain")


def judge_schedule(events):
    """Stall and retry in turn, each announced pause twice the one before and kept. It may last longer: a limit that is still on
    its way down is finished first."""
    stalls = [event for event in events if event["event"] == "balloon-stalled"]
    told = [int(re.search(r"next try in (\d+) s", event["reason"]).group(1)) for event in stalls]
    assert told[:4] == [RETRY_MIN_S * factor for factor in (1, 2, 4, 8)], brief(events)
    pauses = []
    for before, after in pairs(events):
        if (before["event"], after["event"]) == ("balloon-stalled", "balloon-retry"):
            pauses.append((at(after) - at(before)) / 1000)
    assert len(pauses) >= 3, brief(events)
    for wanted, pause in zip(told, pauses):
        assert pause > wanted * 0.95, f"retried after {pause} s instead of {wanted} s: {brief(events)}"


def test_floor_is_learned(bench):
    """Locked guest memory: the balloon's floor is remembered, and below it the limit does not wait for the balloon."""
    guest = bench.plain
    bench.resize("plain", MEMORY_MIB)
    bench.wait_balloon("plain", MEMORY_MIB)
    guest.job("lock 200")
    try:
        mark = bench.resize("plain", 160)
        bench.wait_event("balloon-stalled", "plain", mark)
        bench.wait_limited("plain", 160)
        floor = bench.memocd.info("plain")["floor_bytes"]
        assert floor and 190 * MIB < floor < 330 * MIB, floor
        assert any(term["name"] == "balloon floor" for term in bench.memocd.memoc("explain", "plain")["terms"])
        mark = bench.resize("plain", 150)
        events = bench.wait_limited("plain", 150) and bench.events(mark, "plain")
        target, lowered = assert_order(events, "target", "limit")
        assert not [event for event in events if event["event"] == "balloon-stalled" and at(event) < at(lowered)], brief(events)
        assert at(lowered) - at(target) < 1000, "the limit waited for a balloon that is known to be stuck"
    finally:
        guest.job("lock 0")
    bench.wait_balloon("plain", 150)
    bench.resize("plain", MEMORY_MIB)
    bench.wait_balloon("plain", MEMORY_MIB)
    bench.assert_unharmed("plain")


def test_no_host_swap_no_limit(bench):
    """Without host swap no limit is set, `explain` says why, and one that memocd had set is opened."""
    bench.resize("bare", 160)
    bench.wait_limited("bare", 160)
    bench.memocd.stop()
    swapless = SwaplessMemocd(bench.lab, bench.libvirtd, CONFIG, name="swapless")
    swapless.state_dir.symlink_to(bench.memocd.state_dir)
    kept, bench.memocd = bench.memocd, swapless
    try:
        swapless.start()
        assert swapless.host()["swap_total_bytes"] == 0
        bench.wait_vm("bare", lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is None, "an open limit")
        assert bench.bare.cgroup().limit() is None
        assert "no swap" in bench.explain("bare"), bench.explain("bare")
        mark = bench.resize("bare", 128)
        bench.resize("plain", 200)  # what goes by the balloon still goes
        bench.wait_balloon("plain", 200)
        for name in ("bare", "plain"):
            bench.wait_vm(name, lambda vm: vm["state"] == "steady", "to be steady")
            assert bench.guests[name].cgroup().limit() is None, f"{name}: limited without swap"
            events = bench.events(mark, name)
            assert not [event for event in events if event["event"] == "limit" and event["to_bytes"] is not None], brief(events)
        bench.assert_unharmed("bare", "plain")
    finally:
        swapless.stop()
        bench.memocd = kept


def replace_swap(bench, mib):
    """Another size of host swap."""
    old, bench.swap = bench.swap, HostSwap(bench.lab, mib)
    old.remove()


@alone
def test_nearly_full_host_swap_is_kept(bench):
    """[swap] keep_free: limits stop where host swap is nearly full, say so, and go on once there is room again."""
    if set(host.swaps()) != {bench.swap.device}:
        raise Skip("this host has swap of its own, which would have to be filled")
    for name in bench.guests:
        bench.memocd.memoc_text("drain", name, "--wait", limit_s=90)
        bench.memocd.memoc_text("release", name)
    bench.memocd.stop()
    replace_swap(bench, SMALL_SWAP_MIB)
    bench.memocd.write_config(dict(CONFIG, swap={"keep_free": f"{KEEP_FREE_MIB}M"}))
    bench.memocd.start()
    bench.wait_steady()
    mark = bench.resize("bare", 64)  # more than that swap holds
    low = bench.wait_event("swap-low", None, mark)
    bench.resize("plain", 300)  # in the meantime balloons do their work
    bench.wait_balloon("plain", 300)
    bench.wait_steady("bare", "plain")
    lower = [event for event in bench.events(at(low) + 1, "bare", ("limit",))
             if event["to_bytes"] is None or event["to_bytes"] < bench.bare.cgroup().limit()]
    assert not lower, f"swapped on although swap was low: {brief(bench.events(mark))}"
    # The kernel swaps in clusters and counts late, and a step is 4 MiB at least.
    free = host.meminfo_bytes("SwapFree")
    assert KEEP_FREE_MIB - 10 < free / MIB <= KEEP_FREE_MIB + 8, (free / MIB, brief(bench.events(mark)))
    assert bench.plain.cgroup().limit() is None, "limited although swap was low"
    assert "keep_free" in bench.explain("bare"), bench.explain("bare")
    bench.assert_unharmed("bare", "plain")
    mark = bench.mark()
    replace_swap(bench, 1024)
    bench.wait_event("swap-low-over", None, mark)
    bench.wait_limited("bare", 64)
    assert "keep_free" not in bench.explain("bare"), bench.explain("bare")
    bench.assert_unharmed("bare", "plain")
    bench.memocd.write_config(CONFIG)
    bench.memocd.reload()
    bench.resize("bare", 256)
    bench.wait_vm("bare", lambda vm: vm["limit_bytes"] is None and vm["state"] == "steady", "an open limit")


def test_driver_without_a_task_is_noticed(bench):
    """A late driver that has nothing to do is noticed by its statistics alone, and is the first choice from then on."""
    bench.resize("bare", 200)
    bench.wait_limited("bare", 200)
    assert bench.vm("bare")["balloon_health"] == "absent", bench.vm("bare")
    bench.resize("bare", 256)
    bench.wait_vm("bare", lambda vm: vm["limit_bytes"] is None and vm["state"] == "steady", "an open limit")
    mark = bench.mark()
    bench.bare.job("load-driver")
    bench.wait_event("balloon-back", "bare", mark, matches=lambda event: "statistics" in event["reason"])
    mark = bench.resize("bare", 200)
    bench.wait_event("balloon-reached", "bare", mark)
    bench.wait_balloon("bare", 200)
    assert not bench.events(mark, "bare", ("balloon-stalled",)), brief(bench.events(mark, "bare"))
    bench.assert_unharmed("bare")
