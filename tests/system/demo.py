# SPDX-License-Identifier: LGPL-2.1-or-later
"""make demo: real libvirt, real guests, memocd; a story in seven acts with a table and measured times after each.

KEEP=1 leaves everything running at the end and tells how to look around. Exit status 1 when any act failed.
"""

import os
import sys
import threading
import time

import host
from host import LabError, wait_for
from lab import Guest, HostSwap, Lab, PrivateLibvirtd
from memocd import Link, Memocd, program

MIB = 1 << 20
GUEST_MIB = 512
POOL_MIB = 1230  # 60 % of the sum of the guests; QEMU's own memory has to fit into it too
BUFFER_MIB = 112
CONFIG = {
    "host": {"pool": f"{POOL_MIB}M", "buffer": f"{BUFFER_MIB}M"},
    "policy": {"grace": "8s", "dwell": "10s", "dwell_max": "20s"},  # shorter than in life: the story is short too
    "balloon": {"stall_timeout": "2s"},
}
PATIENCE_S = 120  # for each condition: a busy machine is late, not wrong
FAIR_SHARE, FAIR_BYTES = 0.25, 8 * MIB  # how far from its fair share a guest may be, whichever is more: they live on meanwhile
ROUND_MS = 50  # decisions of one round are this close together


def mib(size):
    return round(size / MIB)


class Witness(threading.Thread):
    """Looks at all VMs many times a second, so that later it can be said what was so just before a decision."""

    def __init__(self, memocd):
        super().__init__(daemon=True)
        self.link, self.seen, self.ended = Link(memocd), [], threading.Event()

    def run(self):
        try:
            while not self.ended.wait(0.1):
                vms = self.link.list()
                self.seen.append((time.monotonic() * 1000, vms))
        except LabError:
            pass  # memocd is gone; who asks for a moment that was not seen is told
        finally:
            self.link.close()

    def before(self, at_ms):
        """The VMs as last seen before this moment."""
        found = [vms for seen_ms, vms in self.seen if seen_ms <= at_ms]
        if not found:
            raise LabError("nobody looked before the first decision")
        return found[-1]

    def end(self):
        self.ended.set()
        self.join(5)


def excess(vm):
    """What it has too much: beyond its need and its minimum, without what is being taken already."""
    size = vm["need_bytes"] + vm["greedy_bytes"]
    if vm["state"].startswith("shrinking"):
        size = min(size, vm["target_bytes"])
    spared = vm["needy"] or not vm["greedy_bytes"] or vm["pinned_bytes"] or vm["state"].startswith("growing")
    return 0 if spared else max(0, size - max(vm["need_bytes"], vm["min_bytes"]))


def check_proportion(rounds):
    """rounds: [({name: bytes given}, {name: (excess, weight)})]. All that was given in a round should have been given in
    proportion to excess / weight. Returns {name: (gave, fair share)}; LabError where these differ by too much."""
    gave, fair = {}, {}
    for given, had in rounds:
        parts = {name: bytes_ / weight for name, (bytes_, weight) in had.items()}
        for name in set(given) | {name for name, part in parts.items() if part}:
            share = sum(given.values()) * parts.get(name, 0) / max(1e-9, sum(parts.values()))
            gave[name], fair[name] = gave.get(name, 0) + given.get(name, 0), fair.get(name, 0) + share
    wrong = [name for name in gave if abs(gave[name] - fair[name]) > max(FAIR_BYTES, FAIR_SHARE * fair[name])]
    result = {name: (gave[name], fair[name]) for name in sorted(gave)}
    if wrong:
        told = {name: f"gave {mib(pair[0])}, fair {mib(pair[1])} MiB" for name, pair in result.items()}
        raise LabError(f"not in proportion to what each had too much: {told}")
    return result


class Act:
    def __init__(self, title):
        self.title, self.good, self.words = title, False, "not played"


class Demo:
    def __init__(self, lab):
        self.lab, self.acts, self.began, self.served_ms = lab, [], time.monotonic(), None

    # -- telling --

    def say(self, text=""):
        print(text, flush=True)

    def table(self):
        """`memoc list` and a line about the host, as a person sees them."""
        self.say()
        for line in self.memocd.memoc_text("list").splitlines():
            self.say("    " + line)
        h = self.memocd.host()
        self.say(f"    pool {mib(h['pool_bytes'])} MiB, granted {mib(h['granted_bytes'])}, buffer {mib(h['buffer_bytes'])} of "
                 f"{mib(h['buffer_target_bytes'])}, resident {mib(h['resident_bytes'])}, swapped {mib(h['swapped_bytes'])}, "
                 f"level {h['level']}")
        self.say()

    def play(self, title, function):
        act = Act(title)
        self.acts.append(act)
        self.say(f"Act {len(self.acts)}. {title}")
        try:
            act.words = function()
            act.good = True
        except LabError as error:
            act.words = f"FAILED: {error}"
        self.say(f"  -> {act.words}")
        self.table()

    # -- helpers --

    def size(self, vm):
        """Guest memory that the VM can use now, from what `memoc list` shows."""
        size = vm["balloon_bytes"] or vm["max_bytes"]
        if vm["limit_bytes"] is not None:
            size = min(size, vm["limit_bytes"] - self.overhead(vm["name"]))
        return size

    def overhead(self, name):
        return self.memocd.info(name)["overhead_bytes"]

    def marker(self):
        events = self.memocd.events()
        return events[-1]["details"]["number"] if events else 0

    def since(self, marker, **wanted):
        return [e for e in self.memocd.events() if e["details"]["number"] > marker and
                all(e[key] == value for key, value in wanted.items())]

    def wait_event(self, marker, what, **wanted):
        return wait_for(lambda: next(iter(self.since(marker, **wanted)), None), PATIENCE_S, what,
                        show=lambda: self.since(marker))

    def down(self, marker):
        """Decisions to shrink."""
        return [e for e in self.since(marker, event="target") if e["from_bytes"] and e["to_bytes"] < e["from_bytes"]]

    def check_needy_spared(self, marker):
        """From the event that says that a VM is needy to the one that says that this is over, it is not shrunk."""
        needy = set()
        for event in self.since(marker):
            if event["event"] == "needy":
                needy.add(event["vm"])
            elif event["event"] in ("needy-over", "rebooted"):
                needy.discard(event["vm"])
            elif event["event"] == "target" and event["vm"] in needy and event["from_bytes"] and \
                    event["to_bytes"] < event["from_bytes"]:
                raise LabError(f"a needy VM was shrunk: {event}")

    def rounds(self, marker):
        """Each round of giving what was not needed: what each gave, and what it had too much just before, with its weight.
        A VM that grew a while ago is left alone by its dwell time: it counts only where it gave all the same."""
        events = [e for e in self.down(marker) if "it does not need" in e["reason"]]
        grew = [e for e in self.since(marker, event="target") if e["from_bytes"] and e["to_bytes"] > e["from_bytes"]]
        found, last_ms = [], None
        for event in events:
            at_ms = event["details"]["monotonic_ms"]
            if last_ms is None or at_ms - last_ms > ROUND_MS:
                left_alone = {e["vm"] for e in grew if e["details"]["monotonic_ms"] <= at_ms}
                found.append(({}, left_alone, self.witness.before(at_ms)))
            last_ms = at_ms
            given = found[-1][0]
            given[event["vm"]] = given.get(event["vm"], 0) + event["from_bytes"] - event["to_bytes"]
        return [(given, {name: (excess(vm), vm["weight"]) for name, vm in vms.items() if name in given or name not in left_alone})
                for given, left_alone, vms in found]

    def wait_full_buffer(self, limit_s):
        def full():
            h = self.memocd.host()
            return h["buffer_bytes"] >= 0.85 * h["buffer_target_bytes"] and h["level"] == "high"
        wait_for(full, limit_s, "the buffer to be full", show=self.memocd.host)

    def keeps_pace(self, guest, limit_s):
        wait_for(lambda: guest.relative_rate(0.5) > 0.8, limit_s, f"{guest.name}'s workload to keep its pace")

    @staticmethod
    def starts_of(guest):
        """How often the guest's workload was started since it booted: more than once, and its kernel killed it."""
        return max([event.data["starts"] for event in guest.line.events if event.data["event"] == "ready"] or [0])

    # -- the acts --

    def stage(self):
        lab = self.lab
        self.say(f"Stage: a private libvirtd, {GUEST_MIB} MiB guests whose memory was all touched once, a pool of {POOL_MIB} MiB "
                 f"({100 * POOL_MIB // (4 * GUEST_MIB)} % of their sum), 1 GiB of host swap on zram.")
        HostSwap(lab, 1024)
        self.libvirtd = PrivateLibvirtd(lab)
        self.libvirtd.install_hook(program("memoc-hook"))
        self.libvirtd.start()
        self.memocd = Memocd(lab, self.libvirtd, config=CONFIG)
        self.memocd.start()
        self.memocd.memoc_text("hold")  # observed only, until all have booted and touched all their memory
        options = {"free_page_reporting": False, "fill": True}
        self.web, self.db, self.build = (Guest(lab, self.libvirtd, name, GUEST_MIB, **options) for name in ("web", "db", "build"))
        self.legacy = Guest(lab, self.libvirtd, "legacy", GUEST_MIB, driver=False, **options)
        self.guests = [self.web, self.db, self.build, self.legacy]
        for guest in self.guests:
            guest.start()
        known = sorted(self.memocd.list())
        if known != sorted(guest.name for guest in self.guests):
            raise LabError(f"the hook told memocd only of {known}")
        self.say(f"       all four were known to memocd, told by libvirt's hook, {time.monotonic() - self.began:.0f} s after the beginning")
        for guest in self.guests:
            guest.wait_ready(3 * PATIENCE_S)  # four boots that touch all memory, perhaps beside other work
        self.witness = Witness(self.memocd)
        self.witness.start()
        for guest, use_mib in zip(self.guests, (60, 70, 80, 20)):
            guest.job(f"use {use_mib}", PATIENCE_S)
            if guest.rss() < GUEST_MIB * MIB:
                raise LabError(f"{guest.name} did not touch all its memory: {mib(guest.rss())} MiB resident")
        self.starts = {guest.name: self.starts_of(guest) for guest in self.guests}
        self.say(f"       booted and at work after {time.monotonic() - self.began:.0f} s; held until then by `memoc hold`\n")

    def idle_give(self):
        began = time.monotonic()
        self.memocd.memoc_text("release")
        self.wait_full_buffer(PATIENCE_S)
        took = time.monotonic() - began
        # That its driver is absent is known when a balloon was waited for: not where the others have given enough meanwhile.
        vm = self.memocd.wait_vm("legacy", lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is not None, PATIENCE_S,
                                 "to be limited")
        if not self.legacy.cgroup().limit() or not vm["swapped_bytes"] or vm["balloon_bytes"] < vm["max_bytes"]:
            raise LabError(f"legacy was not shrunk by its cgroup limit: {vm}")
        vms = self.memocd.list()
        sizes = {name: self.size(vm) for name, vm in vms.items()}
        big = [name for name, size in sizes.items() if size > (0.9 if name == "legacy" else 0.7) * GUEST_MIB * MIB]
        if big:
            raise LabError(f"{', '.join(big)} kept too much of their memory")
        for guest in (self.web, self.db, self.build):
            if vms[guest.name]["balloon_health"] != "working" or guest.balloon_bytes() > 0.7 * GUEST_MIB * MIB:
                raise LabError(f"{guest.name} did not give by its balloon: {vms[guest.name]}")
        wait_for(lambda: sum(guest.cgroup().usage() for guest in self.guests) <= POOL_MIB * MIB, PATIENCE_S,
                 "the kernel to count no more than the pool as resident")
        for guest in self.guests:
            self.keeps_pace(guest, PATIENCE_S)
        freed = sum(GUEST_MIB * MIB - size for size in sizes.values())
        self.build.job("use 20", PATIENCE_S)
        self.db.job("use 40", PATIENCE_S)
        for name, least_mib in (("build", 40), ("db", 16)):
            self.memocd.wait_vm(name, lambda vm, least_mib=least_mib: vm["greedy_bytes"] > least_mib * MIB, PATIENCE_S,
                                "to have too much after its work")
        return (f"idle guests gave {mib(freed)} of {4 * GUEST_MIB} MiB, legacy by its cgroup limit for want of a driver; the buffer was "
                f"full {took:.1f} s after they were released, and every workload keeps its pace. Then build and db end a job of 60 "
                "and 30 MiB")

    def demand_doubles(self):
        vm = self.memocd.vm("web")
        marker, before = self.marker(), self.size(vm)
        # The first act ends when the buffer is full: what web was left with beyond its need, it has not to grow for.
        use_mib = 150 + mib(vm["greedy_bytes"])
        buffer_before = self.memocd.host()["buffer_bytes"]
        began = time.monotonic()
        begun = self.web.begin(f"use {use_mib}")
        self.memocd.wait_vm("web", lambda vm: self.size(vm) >= before + 60 * MIB, PATIENCE_S, "to grow by what it lacks")
        grown = time.monotonic() - began
        self.web.finish(begun, PATIENCE_S)
        self.keeps_pace(self.web, PATIENCE_S)
        paced = time.monotonic() - began
        if self.web.balloon_bytes() < before + 60 * MIB:
            raise LabError(f"libvirt says that web has {mib(self.web.balloon_bytes())} MiB")
        first = next((e for e in self.since(marker, event="target") if e["vm"] == "web"), None)
        needy = next((e["details"]["number"] for e in self.since(marker, event="needy") if e["vm"] == "web"), None)
        earlier = [e["vm"] for e in self.down(marker) if first and needy and needy < e["details"]["number"] < first["details"]["number"]]
        if not first or not first["to_bytes"] > first["from_bytes"]:
            raise LabError("web's growth is not among the events")
        if earlier or first["to_bytes"] - first["from_bytes"] > buffer_before:
            raise LabError(f"not from the buffer of {mib(buffer_before)} MiB: {earlier} gave before {first}")
        self.served_ms = first["details"]["monotonic_ms"]
        return (f"web went from 60 to {use_mib} MiB of use; served from the buffer ({mib(buffer_before)} MiB) before anybody gave: "
                f"{mib(before)} -> {mib(self.size(self.memocd.vm('web')))} MiB, size there after {grown:.1f} s, full pace after {paced:.1f} s")

    def buffer_refills(self):
        if self.served_ms is None:
            raise LabError("web was not served in act 2: nothing to refill after")
        self.wait_full_buffer(PATIENCE_S)
        took = time.monotonic() - self.served_ms / 1000
        rounds = self.rounds(self.doubling_marker)
        shares = check_proportion(rounds)
        self.check_needy_spared(self.doubling_marker)
        total = sum(gave for gave, _ in shares.values())
        if total < 40 * MIB or sum(gave > 0 for gave, _ in shares.values()) < 2:
            raise LabError(f"too little was given by too few to speak of a proportion: {rounds}")
        words = ", ".join(f"{name} {mib(gave)} (fair {mib(fair)})" for name, (gave, fair) in shares.items())
        return (f"full again {took:.1f} s after web was served; given in {len(rounds)} rounds in proportion to what each had too much "
                f"by its weight, each within {100 * FAIR_SHARE:.0f} % or {mib(FAIR_BYTES)} MiB: {words} MiB")

    def second_needy(self):
        began, marker = time.monotonic(), self.marker()
        before = self.size(self.memocd.vm("db"))
        begun = self.db.begin("use 130")
        self.wait_event(marker, "db to become needy", event="needy", vm="db")
        needy_s = time.monotonic() - began
        served = wait_for(lambda: next((e for e in self.since(marker, event="target", vm="db") if e["reason"].startswith("needy, rank")
                                        and e["to_bytes"] > e["from_bytes"]), None), PATIENCE_S, "db to be served by its rank",
                          show=lambda: self.since(marker, vm="db"))
        self.db.finish(begun, PATIENCE_S)
        self.keeps_pace(self.db, PATIENCE_S)
        took = time.monotonic() - began
        after = self.size(self.memocd.vm("db"))
        if after < before + 40 * MIB or self.db.balloon_bytes() < before + 40 * MIB:
            raise LabError(f"db has {mib(after)} MiB, before {mib(before)}")
        self.keeps_pace(self.web, PATIENCE_S)
        self.check_needy_spared(marker)
        return (f"db went from 40 to 130 MiB of use: needy after {needy_s:.1f} s, served as \"{served['reason']}\": {mib(before)} -> "
                f"{mib(after)} MiB, full pace after {took:.1f} s; web keeps its pace, and nobody was shrunk while needy")

    def driverless(self):
        before = self.memocd.vm("legacy")
        target_mib = max(mib(before["min_bytes"]) + 32, 160)
        began = time.monotonic()
        self.memocd.memoc_text("resize", "legacy", f"{target_mib}M", "--wait", limit_s=60)
        took = time.monotonic() - began
        overhead = self.overhead("legacy")
        vm = self.memocd.wait_vm("legacy", lambda vm: vm["limit_bytes"] is not None and
                                 vm["resident_bytes"] <= vm["limit_bytes"] + 4 * MIB, PATIENCE_S, "to be resident within its limit")
        group = self.legacy.cgroup()
        if not group.limit() or group.usage() > group.limit() or group.limit() > target_mib * MIB + overhead + 32 * MIB:
            raise LabError(f"its cgroup has {mib(group.usage())} MiB under a limit of {mib(group.limit() or 0)} MiB")
        if vm["balloon_bytes"] != vm["max_bytes"] or vm["balloon_health"] != "absent":
            raise LabError(f"its balloon moved: {vm['balloon_bytes']}, {vm['balloon_health']}")
        if vm["limit_bytes"] is None or vm["swapped_bytes"] == 0:
            raise LabError(f"limit {vm['limit_bytes']}, swapped {vm['swapped_bytes']}")
        self.keeps_pace(self.legacy, PATIENCE_S)
        return (f"no balloon driver: `memoc resize legacy {target_mib}M` was reached by the cgroup limit in {took:.1f} s, "
                f"{mib(vm['swapped_bytes'])} MiB swapped out, its workload keeps its pace")

    def limit_build(self):
        """Balloon and limit of build are certainly closed, by a person's word that is then taken back."""
        vm = self.memocd.vm("build")
        size = max(min(self.size(vm), int(0.6 * GUEST_MIB * MIB)) - 8 * MIB, vm["min_bytes"])  # it may have given all that it can
        self.memocd.memoc_text("resize", "build", f"{mib(size)}M", "--wait", limit_s=PATIENCE_S)
        vm = self.memocd.wait_vm("build", lambda vm: vm["limit_bytes"] is not None, PATIENCE_S, "to have a limit")
        limit = wait_for(self.build.cgroup().limit, PATIENCE_S, "the kernel to know the limit")
        self.memocd.memoc_text("resize", "build", "auto")
        return vm, limit

    def watch_rebooting(self, marker):
        """The kernel's word on build's limit for as long as it is rebooting; the event that ends this."""
        looks = 0
        while True:
            limit = self.build.cgroup().limit()
            over = [e for e in self.since(marker, event="state", vm="build") if e["reason"].startswith("rebooting -> ")]
            if over:
                return looks, over[0]
            if limit:
                raise LabError(f"build boots under a limit of {mib(limit)} MiB")
            looks += 1
            if looks * 0.2 > PATIENCE_S * host.SLOW:
                raise LabError("build: no end of its reboot")
            time.sleep(0.2)

    def reboot(self):
        # No statistics, no judgement: longer than it takes to boot, so that nothing but fresh statistics ends the reboot.
        self.memocd.write_config({**CONFIG, "policy": {**CONFIG["policy"], "grace": f"{PATIENCE_S}s"}})
        self.memocd.reload()
        before, limit = self.limit_build()
        marker, began, since = self.marker(), time.monotonic(), len(self.build.line.events)
        self.build.reset()
        rebooted = self.wait_event(marker, "the reboot to be noticed", event="rebooted", vm="build")
        noticed = time.monotonic() - began
        opened = wait_for(lambda: next((e for e in self.since(marker, event="limit-confirmed", vm="build") if e["to_bytes"] is None), None),
                          PATIENCE_S, "its limit to be opened", show=lambda: self.since(marker, vm="build"))
        looks, over = self.watch_rebooting(marker)
        if not over["reason"].endswith("on fresh") or not looks:
            raise LabError(f"the reboot did not end by fresh statistics after {looks} looks at an open limit: {over}")
        self.build.wait_reboot(since, PATIENCE_S)
        ramp = wait_for(lambda: next((e for e in self.down(marker) if e["vm"] == "build"), None), PATIENCE_S, "build to be shrunk again",
                        show=lambda: self.since(marker, vm="build"))
        numbers = [event["details"]["number"] for event in (rebooted, opened, over, ramp)]
        if numbers != sorted(numbers):
            raise LabError(f"not in this order: {rebooted}, {opened}, {over}, {ramp}")
        self.memocd.wait_vm("build", lambda vm: vm["state"] == "steady" and vm["stats_age_ms"] is not None and
                            self.size(vm) < 0.9 * GUEST_MIB * MIB, PATIENCE_S, "to be steady again, and smaller")
        self.wait_full_buffer(PATIENCE_S)
        vm = self.memocd.vm("build")
        if self.build.balloon_bytes() > 0.9 * GUEST_MIB * MIB:
            raise LabError(f"libvirt says that build has {mib(self.build.balloon_bytes())} MiB")
        return (f"build ({mib(self.size(before))} MiB, limit {mib(limit)}) was reset: noticed after {noticed:.1f} s, its limit open by the "
                f"kernel's word until fresh statistics came {over['details']['monotonic_ms'] / 1000 - began:.1f} s after the reset; then shrunk "
                f"again, to {mib(self.size(vm))} MiB with the buffer full after {time.monotonic() - began:.1f} s")

    def release(self):
        began = time.monotonic()
        self.memocd.memoc_text("drain", "--all", "--wait", limit_s=PATIENCE_S)
        vms = self.memocd.list()
        closed = [name for name, vm in vms.items() if vm["limit_bytes"] is not None or vm["balloon_bytes"] < 0.98 * vm["max_bytes"]]
        if closed:
            raise LabError(f"{', '.join(closed)} did not get everything back")
        for guest in self.guests:
            if guest.cgroup().limit() or guest.balloon_bytes() < 0.98 * GUEST_MIB * MIB:
                raise LabError(f"{guest.name}: the kernel knows a limit of {guest.cgroup().limit()}, libvirt a balloon of "
                               f"{guest.balloon_bytes()}")
            if guest.cgroup().oom_kills():
                raise LabError(f"{guest.name} lost a process to the OOM killer")
            if self.starts_of(guest) > max(self.starts[guest.name], 1):
                raise LabError(f"{guest.name}'s own kernel killed its workload")
        return (f"limits open, balloons empty, everybody has {GUEST_MIB} MiB again after {time.monotonic() - began:.1f} s; no OOM kill, "
                "neither on the host nor in a guest")

    def run(self):
        self.stage()
        self.play("Idle guests give memory up", self.idle_give)
        self.doubling_marker = self.marker()
        self.play("One guest's demand doubles and is met from the buffer", self.demand_doubles)
        self.play("The buffer refills from greedy guests in proportion", self.buffer_refills)
        self.play("A second guest becomes needy", self.second_needy)
        self.play("The driverless guest is shrunk by limit", self.driverless)
        self.play("A guest reboots", self.reboot)
        self.play("All are released", self.release)

    def verdict(self):
        self.witness.end()
        bad = [act for act in self.acts if not act.good]
        self.say("Verdict")
        for number, act in enumerate(self.acts, 1):
            self.say(f"  {'good' if act.good else 'BAD '}  act {number}: {act.words}")
        cpu = host.cpu_seconds(self.memocd.pid)
        took = time.monotonic() - self.began
        self.say(f"  memocd used {cpu:.2f} s of CPU in {took:.0f} s, {host.proc_status_bytes(self.memocd.pid, 'RssAnon') / MIB:.1f} MiB of "
                 "private memory")
        self.say("memory moved to the VM that needed it, each time" if not bad else f"{len(bad)} of {len(self.acts)} acts failed")
        return 1 if bad else 0

    def look_around(self):
        self.lab.keep()
        self.say(f"""
Everything is still running. To look around (as root):
  export MEMOC_SOCKET={self.memocd.socket}
  {program('memoc')} list
  {program('memoc')} explain web
  {program('memoc')} events --follow
  {program('memoc')} release            # drained above: give the VMs back to the policy
  virsh -c '{self.libvirtd.uri}' list
  socat - UNIX-CONNECT:{self.web.line.path}     # then: use 200
To end it: python3 tests/system/lab.py sweep --kept""")


def main():
    try:
        with Lab() as lab:
            demo = Demo(lab)
            try:
                demo.run()
                status = demo.verdict()
            except LabError as error:
                print(f"the demo could not go on: {error}\n{lab.diagnose()}", file=sys.stderr)
                return 1
            if status:
                print(lab.diagnose(), file=sys.stderr)
            if os.environ.get("KEEP"):
                demo.look_around()
        return status
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
