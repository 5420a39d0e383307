# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest whose balloon works but that tells nothing of itself: sized by its limit alone, where the host sees what hurts it."""

from stage import MIB, RESIZE_LIMIT_S, Stage, assert_order, at, brief, wait_for
from run import limit

MEMORY_MIB = 384
SILENT_LIMIT_S = 180  # a minute of silence, on a slow machine
CONFIG = {
    "host": {"pool": "720M", "buffer": "64M"},  # less than both have, more than both use
    "policy": {"dwell": "5s"},
}


class Bench(Stage):
    """One guest whose driver has no statistics, and one that tells all; all their memory is resident."""

    def __init__(self, lab):
        super().__init__(lab, CONFIG)
        self.mute = self.guest("mute", MEMORY_MIB, driver="silent", free_page_reporting=False, fill=True, swap_mib=256)
        self.open = self.guest("open", MEMORY_MIB, free_page_reporting=False, fill=True, swap_mib=256)
        self.start_guests()
        for guest in (self.mute, self.open):
            guest.job("use 60")
        self.memocd.start()
        self.wait_steady()

    def by_limit_alone(self, limit_s=RESIZE_LIMIT_S):
        """Its balloon is empty by QEMU's word, and its limit is in force by the kernel's."""
        def holds():
            held = self.mute.cgroup().limit()
            return held if held is not None and self.mute.balloon_bytes() == MEMORY_MIB * MIB else None

        return wait_for(holds, limit_s, "mute's balloon to be empty behind a limit",
                        show=lambda: (self.vm("mute"), self.mute.cgroup().limit(), self.mute.balloon_bytes()))


def fixture(lab):
    yield Bench(lab)


@limit(400)
def test_a_silent_guest_is_sized_by_its_limit(bench):
    """Its balloon works and is tried, then emptied behind a limit; demand is seen by the host and met; a restart changes nothing."""
    told = bench.wait_event("silent", "mute", limit_s=SILENT_LIMIT_S)
    assert not bench.events(0, "open", ("silent",)), "a guest that tells is taken for silent"
    held = bench.by_limit_alone()
    order = bench.events(at(told), "mute", ("limit-confirmed", "balloon"))
    before = bench.events(0, "mute", ("limit-confirmed",))
    emptied = next(event for event in order if event["event"] == "balloon")
    assert emptied["to_bytes"] == MEMORY_MIB * MIB and any(at(event) <= at(emptied) for event in before), brief(order)
    assert "limit alone" in bench.explain("mute"), bench.explain("mute")
    assert bench.vm("mute")["usable_bytes"] is None and bench.vm("mute")["target_bytes"] < MEMORY_MIB * MIB, (bench.vm("mute"), held)

    mark = bench.mark()
    small = bench.vm("mute")["target_bytes"] < 300 * MIB  # pages that came home may have passed for need while it was tried
    bench.mute.begin("use 280")
    if small:
        needy, _ = assert_order(wait_for_all(bench, mark, ("needy", "limit-confirmed")), "needy", "limit-confirmed")
        # Faults, refaults or stalls, whichever is strongest: all three are the host's, and the guest's word would begin with "guest".
        assert not needy["reason"].startswith("guest"), f"not seen by the host: {needy}"
    wait_for(lambda: bench.mute.relative_rate() > 0.7, RESIZE_LIMIT_S, "mute to have what it uses", show=bench.mute.report)
    assert bench.mute.cgroup().limit() is None or bench.mute.cgroup().limit() > held or not small
    assert not [event for event in bench.events(at(told), "mute", ("balloon",)) if event["to_bytes"] < MEMORY_MIB * MIB], \
        f"its balloon was used: {brief(bench.events(at(told), 'mute'))}"
    bench.mute.job("use 60")

    bench.memocd.kill()
    bench.memocd.start()
    bench.wait_steady()
    assert "limit alone" in bench.explain("mute"), "forgotten by a memocd that was killed"
    bench.wait_vm("mute", lambda vm: vm["limit_bytes"] is not None, "its limit to be known")
    bench.by_limit_alone()
    assert not bench.events(0, "mute", ("balloon",)), brief(bench.events(0, "mute"))
    bench.assert_unharmed()


@limit(300)
def test_a_guest_that_speaks_again_has_its_balloon_back(bench):
    """An ordinary driver comes: its statistics end the silence, and the balloon takes over what the limit held."""
    bench.by_limit_alone(SILENT_LIMIT_S)
    mark = bench.mark()
    bench.mute.job("unload-driver")
    bench.mute.job("load-driver")
    over = bench.wait_event("silent-over", "mute", mark)
    bench.wait_vm("mute", lambda vm: vm["usable_bytes"] is not None, "guest statistics")
    bench.resize("mute", 160)
    bench.wait_balloon("mute", 160)
    assert not [event for event in bench.events(at(over), "mute", ("silent",))], brief(bench.events(mark, "mute"))
    bench.resize("mute", "auto")
    bench.assert_unharmed()


def wait_for_all(bench, since, kinds):
    """The events of these kinds of `mute`, once there is one of each."""
    def found():
        events = bench.events(since, "mute", kinds)
        return events if {event["event"] for event in events} == set(kinds) else None

    return wait_for(found, RESIZE_LIMIT_S, f"{kinds} of mute", show=lambda: brief(bench.events(since, "mute")))
