# SPDX-License-Identifier: LGPL-2.1-or-later
"""memocd killed, libvirtd killed, a monitor that hangs: nobody else notices, and what was known is known again."""

import contextlib
import json
import os
import random
import signal
import time

import host
from stage import MIB, RESIZE_LIMIT_S, Stage, wait_for
from run import limit

CONFIG = {
    "host": {"pool": "3G", "buffer": "64M"},
    # The throttled balloon of below, some 6 MiB/s, is slow and has not stalled.
    "balloon": {"min_speed": "1M", "stall_timeout": "2s", "retry_min": "60s"},
}
KILLS = 20
BOOKS_S = 3  # from the start of the process until the books are correct
PERIOD_S = 1.5  # memocd looks at each VM once a second: its word is what was true at a moment of the time before
WORK_MIB = 60


class Bench(Stage):
    """One guest with driver, one without, both resident and working; one held."""

    def __init__(self, lab):
        super().__init__(lab, CONFIG)
        self.alpha = self.guest("alpha", free_page_reporting=False, fill=True)
        self.bare = self.guest("bare", driver=False, free_page_reporting=False, fill=True)
        self.third = self.guest("third")
        self.start_guests()
        self.memocd.start()
        self.wait_steady()
        for guest in (self.alpha, self.bare):
            guest.job(f"use {WORK_MIB}")
        self.trail = []  # what was wrong with the books, and when, in the last restart
        # Health is learned by trying.
        self.resize("alpha", 200)
        self.wait_balloon("alpha", 200)
        self.resize("bare", 200)
        self.wait_limited("bare", 200)

    def reset(self):
        if not self.libvirtd.running():
            self.libvirtd.start()
        if not self.memocd.running():
            self.memocd.start()
        for name, guest in self.guests.items():
            guest.kill(signal.SIGCONT)
            self.wait_vm(name, lambda vm: vm["state"] == "steady" and not vm["quarantined"], "to be steady")

    def truth(self):
        """(time, {name: {quantity: bytes}}) by kernel and QEMU; no limit is infinity."""
        sizes = {}
        for name, guest in self.guests.items():
            group = guest.cgroup()
            sizes[name] = {"limit": group.limit() or float("inf"), "balloon": guest.balloon_bytes(),
                           "present": group.usage() + group.swapped()}
        return time.monotonic(), sizes

    def books_errors(self, looks):
        """What memocd's account says otherwise than kernel and QEMU, in the last of `looks` or within a period before it.
        looks: truths, oldest first; one is added, so that memocd's word lies between two of them."""
        listed, total = self.memocd.list(), self.memocd.host()
        looks.append(self.truth())
        latest = [sizes for when, sizes in looks[:-2] if when > looks[-1][0] - PERIOD_S] + [sizes for _, sizes in looks[-2:]]
        wrong = []
        for name in self.guests:
            vm = listed.get(name)
            if vm is None or vm["resident_bytes"] is None or vm["balloon_bytes"] is None:
                wrong.append(f"{name}: not known yet")
                continue
            told = {"limit": vm["limit_bytes"] or float("inf"), "balloon": vm["balloon_bytes"],
                    "present": vm["resident_bytes"] + vm["swapped_bytes"]}
            for what, slack in (("limit", 0), ("balloon", MIB), ("present", 8 * MIB)):
                true = [sizes[name][what] for sizes in latest]
                if not min(true) - slack <= told[what] <= max(true) + slack:
                    wrong.append(f"{name}: {what} {told[what]}, really {true}")
        if total["vms"] != len(self.guests) or total["granted_bytes"] < sum(vm["resident_bytes"] or 0 for vm in listed.values()):
            wrong.append(f"host: {total}")
        return wrong

    def waited_s(self):
        """What those who take part in a restart waited for a processor: this is not memocd's doing. Guests answer side by side."""
        return sum(host.waited_seconds(pid) for pid in (self.memocd.pid, self.libvirtd.pid, os.getpid())) + \
            max(host.waited_seconds(guest.pid, only_main=True) for guest in self.guests.values())

    def restart_s(self):
        """Starts memocd; (seconds until its books are right, how much of that was waiting for a processor)."""
        def right():
            wrong = self.books_errors(looks)
            self.trail.append(f"{time.monotonic() - began:.2f}: {wrong}")
            return not wrong

        looks, began, self.trail = [self.truth()], time.monotonic(), []
        self.memocd.start(wait=False)
        waited_s = self.waited_s()
        wait_for(right, RESIZE_LIMIT_S, "correct books", show=lambda: self.trail)
        return time.monotonic() - began, self.waited_s() - waited_s


def fixture(lab):
    yield Bench(lab)


@limit(400)
def test_memocd_killed_in_mid_shrink(bench):
    """20 times SIGKILL at random moments of resizes: adopted again, nobody harmed, books right, what was learned is kept."""
    seed = int(os.environ.get("MEMOC_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"test_crash: MEMOC_TEST_SEED={seed}", flush=True)
    chance = random.Random(seed)
    bench.memocd.memoc_text("hold", "third")
    speed = bench.vm("alpha")["balloon_bytes_per_s"]
    wait_for(lambda: '"held": true' in state_text(bench), RESIZE_LIMIT_S, "the hold to be in the state file",
             show=lambda: state_text(bench))
    bench.alpha.cmd("throttle 2")  # its resizes take seconds: a random moment is in the middle of one
    took_s, states, pins = [], {}, {"alpha": {200}, "bare": {200}}
    for number in range(KILLS):
        for name in pins:
            bench.wait_vm(name, lambda vm: vm["state"] != "starting", "to be judged")
            size = (130, 200)[number % 2]
            bench.resize(name, size)
            pins[name].add(size)
        time.sleep(chance.uniform(0, 1.5))  # the random moment
        with contextlib.suppress(Exception):
            state = bench.vm("alpha")["state"]
            states[state] = states.get(state, 0) + 1
        bench.memocd.kill()
        took_s.append((*bench.restart_s(), bench.trail))
        listed = bench.memocd.list()
        for name, sizes in pins.items():
            assert listed[name]["pinned_bytes"] in {size * MIB for size in sizes}, listed[name]
        assert listed["third"]["held"] and listed["third"]["pinned_bytes"] is None, listed["third"]
        assert listed["alpha"]["balloon_health"] in ("working", "slow"), listed["alpha"]
        assert listed["bare"]["balloon_health"] == "absent", listed["bare"]
        assert listed["alpha"]["balloon_bytes_per_s"] and listed["alpha"]["balloon_bytes_per_s"] > speed / 20, listed["alpha"]
        bench.assert_unharmed()
    halfway = sum(count for state, count in states.items() if state.startswith("shrinking"))
    assert halfway >= KILLS // 5, f"hardly ever killed in mid-shrink: {states}, seed {seed}"
    bench.alpha.cmd("throttle 100")
    told = ", ".join(f"{whole_s:.2f} ({waited_s:.2f})" for whole_s, waited_s, _ in took_s)
    print(f"test_crash: states when killed {states}; s until books right (of it waiting for a processor): {told}; "
          f"what the slowest waited for: {max(took_s)[2]}", flush=True)
    # Waits overlap: they excuse half of the time at most.
    late = [(whole_s, trail) for whole_s, waited_s, trail in took_s if whole_s - min(waited_s, whole_s / 2) > BOOKS_S * host.SLOW]
    assert not late, f"books late: {late}; all: {told}"
    bench.memocd.memoc_text("release", "third")
    for name, size in (("alpha", 200), ("bare", 200)):
        bench.resize(name, size)
    bench.wait_balloon("alpha", 200)
    bench.wait_limited("bare", 200)
    for guest in (bench.alpha, bench.bare):
        wait_for(lambda one=guest: one.relative_rate() > 0.7, RESIZE_LIMIT_S, f"the workload of {guest.name} at its pace")


def test_what_an_orderly_stop_leaves(bench):
    """SIGTERM: limits stay with on_exit = keep; with open those that memoc set are gone, and somebody else's stays."""
    def both_limited():
        for name in ("alpha", "bare"):  # the first behind its balloon, with room for QEMU's own memory
            bench.wait_vm(name, lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is not None, "limited")

    limited, foreign = (bench.alpha, bench.bare), bench.third
    for name in ("alpha", "bare"):
        bench.resize(name, 200)
    both_limited()
    assert bench.memocd.stop() == 0
    assert None not in [guest.cgroup().limit() for guest in limited], "not kept"
    theirs = 1024 * MIB
    foreign.cgroup().set_limit(theirs)
    bench.memocd.write_config(dict(CONFIG, host=dict(CONFIG["host"], on_exit="open")))
    bench.memocd.start()
    both_limited()
    bench.wait_steady()
    assert foreign.cgroup().limit() == theirs
    assert bench.memocd.stop() == 0
    assert [guest.cgroup().limit() for guest in limited] == [None, None], "not opened"
    assert foreign.cgroup().limit() == theirs, "somebody else's limit was opened"
    foreign.cgroup().set_limit(None)
    bench.assert_unharmed()
    bench.memocd.write_config(CONFIG)
    bench.memocd.start()  # sizes were remembered; whose balloon is at its size needs no limit to get there
    bench.wait_vm("bare", lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is not None, "limited again")


def test_limit_of_the_last_moment(bench):
    """Killed right after a VM's first limit, which no state file knows of: the next memocd takes it for memoc's and opens it when it may."""
    name, last = "third", 1024 * MIB
    bench.memocd.memoc_text("drain", name, "--wait", limit_s=60)
    wait_for(lambda: json.loads(state_text(bench))["vms"] and all(
        vm["limit_open"] for vm in json.loads(state_text(bench))["vms"] if vm["name"] == name), RESIZE_LIMIT_S, "the state file to say so",
        show=lambda: state_text(bench))
    bench.memocd.kill()
    bench.third.cgroup().set_limit(last)
    bench.memocd.start()
    bench.wait_vm(name, lambda vm: vm["state"] != "starting", "looked at")
    bench.memocd.memoc_text("release", name)
    bench.memocd.memoc_text("set", name, "swap=no")
    wait_for(lambda: bench.third.cgroup().limit() is None, RESIZE_LIMIT_S, "the limit to be opened", show=bench.third.cgroup().limit)
    bench.memocd.memoc_text("set", name, "swap=yes")
    bench.assert_unharmed()


def state_text(bench):
    return "".join(path.read_text(encoding="utf-8") for path in bench.memocd.state_dir.glob("*.json"))


@limit(240)
def test_libvirtd_killed_and_restarted(bench):
    """Without libvirtd the cgroups are served on; when it is back memocd is too, with all that happened meanwhile."""
    bench.resize("bare", 200)
    bench.wait_limited("bare", 200)
    doomed = bench.guest("doomed")
    bench.start_guests("doomed")
    bench.wait_steady("doomed")
    bench.libvirtd.kill()
    try:
        wait_for(lambda: not bench.memocd.host()["libvirt_connected"], RESIZE_LIMIT_S, "memocd to miss libvirtd")
        bench.resize("bare", 130)
        bench.wait_limited("bare", 130)
        bench.resize("bare", 220)
        wait_for(lambda: (bench.bare.cgroup().limit() or 1 << 62) > 200 * MIB, RESIZE_LIMIT_S, "bare's limit to be raised",
                 show=bench.bare.cgroup().limit)
        ours = bench.bare.cgroup().limit()
        mark = bench.mark()
        bench.bare.cgroup().set_limit(None)  # somebody else's doing is noticed and put back
        wait_for(lambda: bench.bare.cgroup().limit() == ours, RESIZE_LIMIT_S, "bare's limit to be put back",
                 show=bench.bare.cgroup().limit)
        bench.wait_event("limit-drift", "bare", mark)
        doomed.kill(signal.SIGKILL)
        wait_for(lambda: "doomed" not in bench.memocd.list(), RESIZE_LIMIT_S, "memocd to notice the end of a VM by itself")
    finally:
        bench.libvirtd.start()
        del bench.guests["doomed"]
    late = bench.guest("latecomer")
    late.start()  # perhaps before memocd is connected again
    wait_for(lambda: bench.memocd.host()["libvirt_connected"], RESIZE_LIMIT_S, "memocd to reconnect")
    late.wait_ready()
    try:
        bench.wait_steady("latecomer")
        for name, size in (("alpha", 140), ("latecomer", 180)):
            mark = bench.resize(name, size)
            bench.wait_event("balloon-reached", name, mark)
            bench.wait_balloon(name, size)
        bench.wait_vm("alpha", lambda vm: vm["stats_age_ms"] is not None and vm["stats_age_ms"] < 5000, "fresh statistics")
        assert "doomed" not in bench.memocd.list()
        bench.assert_unharmed()
    finally:
        late.remove()
        del bench.guests["latecomer"]


@limit(240)
def test_hung_monitor_is_quarantined(bench):
    """A QEMU that does not answer is quarantined and shown so; the others are served in time; it may come back."""
    def resize_both_s():
        began = time.monotonic()
        for size in (200, 140):
            bench.resize("third", size)
            bench.wait_balloon("third", size)
            bench.resize("bare", size)
            bench.wait_limited("bare", size)
        return time.monotonic() - began

    undisturbed_s = resize_both_s()
    mark = bench.mark()
    bench.alpha.kill(signal.SIGSTOP)
    try:
        bench.wait_event("quarantined", "alpha", mark)
        assert bench.vm("alpha")["quarantined"] and "quarantined" in bench.explain("alpha")
        assert not bench.vm("third")["quarantined"] and not bench.vm("bare")["quarantined"]
        disturbed_s = resize_both_s()
        assert disturbed_s < 3 * undisturbed_s + 5 * host.SLOW, f"{disturbed_s:.1f} s instead of {undisturbed_s:.1f} s"
        assert bench.vm("alpha")["quarantined"]
        assert not bench.events(mark, "third", ("quarantined",)) and not bench.events(mark, "bare", ("quarantined",))
    finally:
        bench.alpha.kill(signal.SIGCONT)
    bench.wait_event("quarantine-over", "alpha", mark)
    bench.wait_vm("alpha", lambda vm: not vm["quarantined"], "no quarantine")
    for size in (210, 150):
        mark = bench.resize("alpha", size)
        bench.wait_event("balloon-reached", "alpha", mark)
        bench.wait_balloon("alpha", size)
    bench.assert_unharmed()
