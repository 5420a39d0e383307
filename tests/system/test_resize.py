# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who gets memory, who gives it, how much and in which order: real guests under a memocd whose pool is made too small.

The guests are filled while booting, so that all of their memory is on the host, as in guests that have been up for days.
"""

import collections
import contextlib
import time

import host
from host import LabError, wait_for
from lab import MIB, Guest, HostSwap, Memocd, PrivateLibvirtd
from run import limit

MEMORY_MIB = 384
MIN_MIB = 64  # less than an idle guest needs: in most tests it is not what stops a shrink
MINIMUMS = {"alpha": MIN_MIB * MIB, "beta": MIN_MIB * MIB}
PLENTY = "3G"
# Without growth an idle guest's need is then what it uses and these few MiB: what it has beyond can be computed.
HEADROOM_MIB = 16
POLICY = {"dwell": "0s", "headroom": f"{HEADROOM_MIB}M", "headroom_share": "0%"}


class Rig:
    """Two guests alike, and a memocd of its own for each test."""

    def __init__(self, lab):
        self.lab = lab
        self.swap = HostSwap(lab, 1024)
        self.libvirtd = PrivateLibvirtd(lab)
        self.libvirtd.start()
        self.alpha, self.beta = (Guest(lab, self.libvirtd, name, MEMORY_MIB, free_page_reporting=False, fill=True,
                                       swap_mib=160, policy={"min": f"{MIN_MIB}M"}) for name in ("alpha", "beta"))
        self.guests = [self.alpha, self.beta]
        for guest in self.guests:
            guest.start()
        for guest in self.guests:
            guest.wait_ready()
        self.memocd, self.count = None, 0

    def reset(self):
        """No memocd, no limits, no balloons, no load."""
        if self.memocd and self.memocd.running():
            self.memocd.kill()
        for guest in self.guests:
            guest.cgroup().set_limit(None)
            guest.set_balloon(MEMORY_MIB)
            for command in ("pace 200", "ramp 0", "use 0"):
                guest.cmd(command)
        for guest in self.guests:
            wait_for(lambda g=guest: g.balloon_bytes() == MEMORY_MIB * MIB, 30, f"{guest.name} to be whole again")

    def check(self):
        """After every test: nobody was killed for want of memory, by the host or inside."""
        for guest in self.guests:
            assert guest.running() and guest.cgroup().oom_kills() == 0 and guest.report()["oom_kills"] == 0, guest.name

    def start(self, **policy):
        """memocd with more memory than anybody wants; returns when it knows the guests well."""
        self.count += 1
        self.settings = {"host": {"pool": PLENTY, "reserve": "256M", "buffer": "64M"}, "policy": dict(POLICY, **policy)}
        self.memocd = Memocd(self.lab, self.libvirtd, self.settings, name=f"memocd{self.count}")
        self.memocd.start()
        for guest in self.guests:
            self.memocd.wait_vm(guest.name, lambda vm: vm["state"] == "steady" and vm["usable_bytes"] is not None, 60,
                                "steady, with statistics")
            wait_for(lambda g=guest: self.memocd.info(g.name)["overhead_measured"], 30, "QEMU's own memory to be measured")

    def squeeze(self, shortage_mib, buffer_mib):
        """Takes the pool down so far that this much is missing in a buffer of this size."""
        self.wait_calm()
        self.set_pool(self.memocd.host()["granted_bytes"] // MIB + buffer_mib - shortage_mib, buffer=f"{buffer_mib}M")

    def set_pool(self, pool, **others):
        """In MiB, in a running memocd."""
        self.settings["host"].update(pool=f"{pool}M", **others)
        self.memocd.write_config(self.settings)
        self.memocd.reload()
        wait_for(lambda: self.memocd.host()["pool_bytes"] == pool * MIB, 20, "the new pool to be in force",
                 show=self.memocd.host)

    @contextlib.contextmanager
    def policy(self, guest, **values):
        """That policy, for the length of the block."""
        self.memocd.memoc_text("set", guest.name, *(f"{key}={value}" for key, value in values.items()), "--live")
        try:
            yield
        finally:
            self.memocd.memoc_text("set", guest.name, f"min={MIN_MIB}M", "weight=", "--live")

    def wait_calm(self, limit_s=60):
        """Everybody steady and demand no longer falling: three looks alike, each with newer statistics."""
        last = collections.deque(maxlen=3)

        def calm():
            time.sleep(1)  # the period of the guests' statistics
            vms = self.memocd.list()
            last.append({name: vm["need_bytes"] for name, vm in vms.items()})
            steady = all(vm["state"] == "steady" for vm in vms.values())
            alike = all(max(look[name] for look in last) - min(look[name] for look in last) < MIB for name in vms)
            return steady and len(last) == 3 and alike

        wait_for(calm, limit_s, "calm", every_s=0, show=self.memocd.list)

    def wait_refilled(self, limit_s=60):
        """Nobody moves any more, and the buffer is as full as the policy fills it."""
        def refilled():
            now = self.memocd.host()
            return now["buffer_bytes"] >= 0.89 * now["buffer_target_bytes"] and \
                all(vm["state"] == "steady" for vm in self.memocd.list().values())

        wait_for(refilled, limit_s, "the buffer to be full again", every_s=0.2, show=self.memocd.host)

    def events(self, since=0):
        """Those after number `since`, oldest first."""
        return [event for event in self.memocd.events() if event["details"]["number"] > since]

    def last_event(self):
        return max((event["details"]["number"] for event in self.memocd.events()), default=0)

    def wait_size(self, guest, mib, limit_s=30):
        wait_for(lambda: abs(guest.balloon_bytes() - mib * MIB) <= 5 * MIB, limit_s, f"{guest.name} at {mib} MiB",
                 show=guest.memory_stats)

    def excess_mib(self, guest):
        """By the guest's own word: what it could do without, beyond the headroom that the policy leaves it."""
        return guest.cmd("meminfo")["MemAvailable_bytes"] / MIB - HEADROOM_MIB


def fixture(lab):
    yield Rig(lab)


def steps(events, name):
    """(event, from, to) of one VM's events; no limit is infinity."""
    endless = float("inf")
    return [(event["event"], *(endless if "limit" in event["event"] and size is None else size
                               for size in (event.get("from_bytes"), event.get("to_bytes"))))
            for event in events if event["vm"] == name]


def moves(events, name, kind, down):
    """Indexes of a VM's requests of one kind ("balloon", "limit", "target") that go down, or up."""
    return [i for i, event in enumerate(events) if event["vm"] == name and event["event"] == kind and
            changes(event) == (-1 if down else 1)]


def changes(event):
    endless = float("inf") if event["event"] == "limit" else None
    before, after = (event[key] if event[key] is not None else endless for key in ("from_bytes", "to_bytes"))
    if before is None or after is None:
        return 0
    return (after > before) - (after < before)


def check_needy_never_shrunk(events):
    """No target, balloon or limit of a VM is lowered while it is needy. Returns how many needy periods there were."""
    needy, periods = set(), 0
    for event in events:
        if event["event"] == "needy":
            needy.add(event["vm"])
            periods += 1
        elif event["event"] == "needy-over":
            needy.discard(event["vm"])
        elif event["event"] in ("target", "balloon", "limit") and event["vm"] in needy:
            assert changes(event) >= 0, f"shrunk while needy: {event}"
    return periods


def check_minimum(events, minimums):
    """Nobody is asked to go below its minimum, by balloon or by limit."""
    for event in events:
        if event["event"] in ("target", "balloon", "limit") and event["to_bytes"] is not None:
            assert event["to_bytes"] >= minimums[event["vm"]], f"below the minimum: {event}"


def check_raise_order(events, name):
    """Whenever the balloon is let up, the limit that is in force is already above the size it is let up to."""
    in_force, raised = float("inf"), 0
    for kind, before, after in steps(events, name):
        if kind == "limit-confirmed":
            in_force = after
        elif kind == "balloon" and before is not None and after > before:
            assert in_force >= after, f"{name}: balloon up to {after} under a limit of {in_force}"
            raised += 1
    return raised


def test_order_of_limit_and_balloon(rig):
    """Shrinking: the balloon first, then the limit behind it. Growing: the limit first, confirmed, then the balloon."""
    rig.start()
    since = rig.last_event()
    rig.memocd.memoc_text("resize", "alpha", "208M", "--wait", limit_s=90)
    rig.wait_size(rig.alpha, 208)
    # Confirmed: else that the limit goes up again afterwards would be told as one that comes down from none.
    wait_for(lambda: rig.alpha.cgroup().limit() is not None and any(e["event"] == "limit-confirmed" for e in rig.events(since)), 20,
             "a limit behind the balloon", show=rig.memocd.list)
    shrink = rig.events(since)
    asked, lowered = moves(shrink, "alpha", "balloon", down=True), moves(shrink, "alpha", "limit", down=True)
    reached = [i for i, event in enumerate(shrink) if event["vm"] == "alpha" and event["event"] == "balloon-reached"]
    assert asked and reached and lowered, shrink
    assert asked[0] < reached[0] < lowered[0], [(event["event"], event["to_bytes"]) for event in shrink]
    assert not moves(shrink, "alpha", "limit", down=False) and not moves(shrink, "alpha", "balloon", down=False)

    since = rig.last_event()
    rig.memocd.memoc_text("resize", "alpha", "336M", "--wait", limit_s=90)
    rig.wait_size(rig.alpha, 336)
    grow = rig.events(since)
    raised, let_up = moves(grow, "alpha", "limit", down=False), moves(grow, "alpha", "balloon", down=False)
    # Before that the limit may still have come down after QEMU's own memory.
    confirmed = [i for i, event in enumerate(grow) if event["vm"] == "alpha" and event["event"] == "limit-confirmed" and i > raised[0]]
    assert raised and confirmed and let_up, grow
    assert confirmed[0] < let_up[0], [(event["event"], event["to_bytes"]) for event in grow]
    assert not moves(grow, "alpha", "balloon", down=True)
    limit_bytes = rig.alpha.cgroup().limit()
    assert limit_bytes is None or limit_bytes > 336 * MIB, limit_bytes


@limit(240)
def test_spike_is_met_from_the_buffer(rig):
    """A guest that suddenly wants more gets it from the buffer before anybody else has given; then the other refills it."""
    rig.start()
    rig.squeeze(shortage_mib=340, buffer_mib=140)
    rig.wait_refilled()
    rig.wait_calm()
    sizes = {guest.name: guest.balloon_bytes() for guest in rig.guests}
    assert all(size < (MEMORY_MIB - 60) * MIB for size in sizes.values()), sizes
    since, buffer_before = rig.last_event(), rig.memocd.host()["buffer_bytes"]
    wanted = min(sizes["alpha"] // MIB + 40, MEMORY_MIB - 90)
    rig.alpha.cmd("ramp 40")  # a second of it, the time between two statistics, fits into what it swaps to
    rig.alpha.cmd(f"use {wanted}")
    rig.memocd.wait_vm("alpha", lambda vm: vm["balloon_bytes"] > sizes["alpha"] + 40 * MIB, 30, "to have grown")
    wait_for(lambda: rig.alpha.report()["use_mib"] == wanted, 60, "the guest to have what it wants", show=rig.alpha.report)
    wait_for(lambda: rig.alpha.relative_rate() > 0.8, 40, "the guest to keep its pace", show=rig.memocd.list)
    rig.wait_refilled()

    events = rig.events(since)
    grown = moves(events, "alpha", "target", down=False)
    gave = moves(events, "beta", "balloon-reached", down=True)  # what is decided in one round has no order
    assert grown and gave and grown[0] < gave[0], [(e["vm"], e["event"], e["reason"]) for e in events]
    first = next(event for event in events if event["vm"] == "alpha" and event["event"] == "target")
    # It may get all of it, and what the guests of this host have moves a little after it was asked for.
    assert first["to_bytes"] - first["from_bytes"] <= buffer_before + 4 * MIB, f"more than there was: {first}, {buffer_before}"
    assert rig.beta.balloon_bytes() < sizes["beta"] - 10 * MIB, "the buffer was not refilled from the greedy guest"
    everything = rig.events()
    assert check_raise_order(everything, "alpha") > 0
    check_raise_order(everything, "beta")
    check_needy_never_shrunk(everything)
    check_minimum(everything, MINIMUMS)


@limit(240)
def test_greedy_give_in_proportion(rig):
    """Excess 2:1 (by the guests' own word) gives 2:1, within 15 %."""
    spare = rig.excess_mib(rig.beta)
    rig.beta.job(f"use {int(spare - rig.excess_mib(rig.alpha) / 2)}")
    rig.start()
    rig.wait_calm()
    excess = {guest.name: rig.excess_mib(guest) for guest in rig.guests}
    assert 1.8 < excess["alpha"] / excess["beta"] < 2.2, excess
    rig.squeeze(shortage_mib=150, buffer_mib=260)
    rig.wait_refilled()
    gave = {guest.name: MEMORY_MIB - guest.balloon_bytes() / MIB for guest in rig.guests}
    fair = excess["alpha"] / excess["beta"]
    assert min(gave.values()) > 0, gave
    assert 0.85 * fair < gave["alpha"] / gave["beta"] < 1.15 * fair, f"gave {gave}, excess {excess}"
    assert 0.85 * 150 < sum(gave.values()) < 1.3 * 150, gave


@limit(240)
def test_weights_matter(rig):
    """Two guests with the same excess: one of twice the weight gives half as much."""
    rig.start()
    with rig.policy(rig.beta, weight=200):
        rig.squeeze(shortage_mib=150, buffer_mib=260)
        rig.wait_refilled()
    gave = {guest.name: MEMORY_MIB - guest.balloon_bytes() / MIB for guest in rig.guests}
    assert min(gave.values()) > 0, gave
    assert 1.7 < gave["alpha"] / gave["beta"] < 2.3, gave


@limit(240)
def test_needy_is_never_shrunk(rig):
    """A guest that swaps is needy: however short the host becomes it does not give, though it could; the other gives nearly all."""
    rig.start(needy_hold="20s")
    rig.squeeze(shortage_mib=340, buffer_mib=48)
    rig.wait_refilled()
    since, pool = rig.last_event(), rig.memocd.host()["pool_bytes"] // MIB
    wanted = rig.alpha.balloon_bytes() // MIB + 60
    rig.alpha.cmd(f"use {min(wanted, MEMORY_MIB - 90)}")
    rig.memocd.wait_vm("alpha", lambda vm: vm["needy"], 40, "needy")
    rig.set_pool(pool - 300)
    wait_for(lambda: rig.beta.balloon_bytes() <= (MIN_MIB + 24) * MIB, 40, "the other to give nearly all",
             show=rig.memocd.list)
    assert rig.memocd.host()["level"] == "low" and rig.memocd.vm("alpha")["needy"]
    until = time.monotonic() + 4 * host.SLOW  # four rounds in which it could be shrunk, far above its minimum
    while time.monotonic() < until and rig.memocd.vm("alpha")["needy"]:
        assert rig.alpha.balloon_bytes() > (MIN_MIB + 60) * MIB
    rig.set_pool(pool + 100)
    wait_for(lambda: rig.alpha.relative_rate() > 0.8, 90, "the needy guest to keep its pace", show=rig.memocd.list)
    events = rig.events()
    assert check_needy_never_shrunk(events) > 0
    assert moves(rig.events(since), "beta", "target", down=True)
    assert moves(rig.events(since), "alpha", "target", down=False)
    check_minimum(events, MINIMUMS)


@limit(240)
def test_nobody_falls_below_its_minimum(rig):
    """A pool that cannot even hold the minimums: everything above them is taken, nothing of them is."""
    floor = {"alpha": 144, "beta": 176}
    lowest = {guest.name: MEMORY_MIB * MIB for guest in rig.guests}

    def all_taken():
        for guest in rig.guests:
            size = min(guest.balloon_bytes(), guest.cgroup().limit() or MEMORY_MIB * MIB)
            lowest[guest.name] = min(lowest[guest.name], size)
        return all(size <= (floor[name] + 12) * MIB for name, size in lowest.items())

    rig.start()
    with rig.policy(rig.alpha, min="144M"), rig.policy(rig.beta, min="176M"):
        rig.squeeze(shortage_mib=2 * MEMORY_MIB - sum(floor.values()) + 160, buffer_mib=64)
        wait_for(all_taken, 90, "all above the minimums to be taken", show=rig.memocd.list)
        until = time.monotonic() + 4 * host.SLOW  # four rounds in which more could be taken
        while time.monotonic() < until:
            all_taken()
        assert all(size >= (floor[name] - 1) * MIB for name, size in lowest.items()), lowest
        check_minimum(rig.events(), {name: mib * MIB for name, mib in floor.items()})
        assert rig.memocd.host()["level"] == "low"
        assert all(vm["target_bytes"] >= vm["min_bytes"] == floor[name] * MIB for name, vm in rig.memocd.list().items())
    for guest in rig.guests:
        if guest.cgroup().oom_kills():
            raise LabError(f"{guest.name} was killed for lack of memory")
