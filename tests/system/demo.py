# SPDX-License-Identifier: LGPL-2.1-or-later
"""make demo: real libvirt, real guests, memocd; a story in seven acts with a table and measured times after each.

KEEP=1 leaves everything running at the end and tells how to look around. Exit status 1 when any act failed.
"""

import os
import sys
import time

import host
from host import LabError, wait_for
from lab import Guest, HostSwap, Lab, PrivateLibvirtd
from memocd import Memocd, program

MIB = 1 << 20
GUEST_MIB = 512
POOL_MIB = 1230  # 60 % of the sum of the guests; QEMU's own memory has to fit into it too
BUFFER_MIB = 112
CONFIG = {
    "host": {"pool": f"{POOL_MIB}M", "buffer": f"{BUFFER_MIB}M"},
    "policy": {"grace": "8s", "dwell": "10s", "dwell_max": "20s"},  # shorter than in life: the story is short too
    "balloon": {"stall_timeout": "2s"},
}


def mib(size):
    return round(size / MIB)


class Act:
    def __init__(self, title):
        self.title, self.good, self.words = title, False, "not played"


class Demo:
    def __init__(self, lab):
        self.lab, self.acts, self.began = lab, [], time.monotonic()

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
            guest.wait_ready()
        for guest, use_mib in zip(self.guests, (60, 40, 20, 20)):
            guest.job(f"use {use_mib}")
            if guest.rss() < GUEST_MIB * MIB:
                raise LabError(f"{guest.name} did not touch all its memory: {mib(guest.rss())} MiB resident")
        self.starts = {guest.name: self.starts_of(guest) for guest in self.guests}
        self.say(f"       booted and at work after {time.monotonic() - self.began:.0f} s; held until then by `memoc hold`\n")

    def idle_give(self):
        began = time.monotonic()
        self.memocd.memoc_text("release")
        self.wait_full_buffer(60)
        self.memocd.wait_vm("legacy", lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is not None, 30, "to be limited")
        vms = self.memocd.list()
        sizes = {name: self.size(vm) for name, vm in vms.items()}
        big = [name for name in ("web", "db", "build") if sizes[name] > 0.7 * GUEST_MIB * MIB]
        if big:
            raise LabError(f"{', '.join(big)} kept more than 70 % of their memory")
        for guest in self.guests:
            self.keeps_pace(guest, 30)
        freed = sum(GUEST_MIB * MIB - size for size in sizes.values())
        return (f"idle guests gave {mib(freed)} of {4 * GUEST_MIB} MiB; the buffer was full {time.monotonic() - began:.1f} s after "
                "they were at work, and every workload keeps its pace")

    def demand_doubles(self):
        marker, before = self.marker(), self.size(self.memocd.vm("web"))
        buffer_before = self.memocd.host()["buffer_bytes"]
        began = time.monotonic()
        begun = self.web.begin("use 150")
        self.memocd.wait_vm("web", lambda vm: self.size(vm) >= before + 60 * MIB, 30, "to grow by what it lacks")
        grown = time.monotonic() - began
        self.web.finish(begun)
        self.keeps_pace(self.web, 30)
        paced = time.monotonic() - began
        first = next((e for e in self.since(marker, event="target") if e["vm"] == "web"), None)
        earlier = [e["vm"] for e in self.since(marker, event="target") if first and e["details"]["number"] < first["details"]["number"]]
        if not first or not first["to_bytes"] > first["from_bytes"]:
            raise LabError("web's growth is not among the events")
        if earlier:
            raise LabError(f"{earlier} had to give before web was served: not from the buffer")
        return (f"web went from 60 to 150 MiB of use; served from the buffer ({mib(buffer_before)} MiB) before anybody gave: "
                f"{mib(before)} -> {mib(self.size(self.memocd.vm('web')))} MiB, size there after {grown:.1f} s, full pace after {paced:.1f} s")

    def buffer_refills(self):
        began = time.monotonic()
        self.wait_full_buffer(60)
        gave = {}
        for event in self.since(self.doubling_marker, event="target"):
            if event["vm"] != "web" and event["from_bytes"] and event["to_bytes"] < event["from_bytes"]:
                gave[event["vm"]] = gave.get(event["vm"], 0) + event["from_bytes"] - event["to_bytes"]
        if not gave:
            raise LabError("nobody gave")
        needy = {e["vm"] for e in self.since(self.doubling_marker, event="needy")} - {"web"}
        wrong = [e for e in self.since(self.doubling_marker, event="target") if e["vm"] in needy and e["from_bytes"] and
                 e["to_bytes"] < e["from_bytes"] and "headroom" in e["reason"]]
        if wrong:
            raise LabError(f"a needy VM was shrunk: {wrong}")
        shares = ", ".join(f"{name} {mib(size)}" for name, size in sorted(gave.items()))
        return f"full again {time.monotonic() - began:.1f} s later; given in proportion to what each had too much (MiB): {shares}"

    def second_needy(self):
        began, marker = time.monotonic(), self.marker()
        before = self.size(self.memocd.vm("db"))
        begun = self.db.begin("use 130")
        wait_for(lambda: self.since(marker, event="target", vm="db"), 30, "db to be given memory")
        self.db.finish(begun)
        self.keeps_pace(self.db, 60)
        after = self.size(self.memocd.vm("db"))
        if after <= before:
            raise LabError(f"db has {mib(after)} MiB, before {mib(before)}")
        self.keeps_pace(self.web, 60)
        return (f"db went from 40 to 130 MiB of use: {mib(before)} -> {mib(after)} MiB, full pace after {time.monotonic() - began:.1f} s; "
                "web keeps its pace")

    def driverless(self):
        before = self.memocd.vm("legacy")
        target_mib = max(mib(before["min_bytes"]) + 32, 160)
        began = time.monotonic()
        self.memocd.memoc_text("resize", "legacy", f"{target_mib}M", "--wait", limit_s=60)
        took = time.monotonic() - began
        vm = self.memocd.wait_vm("legacy", lambda vm: vm["limit_bytes"] is not None and
                                 vm["resident_bytes"] <= vm["limit_bytes"] + 4 * MIB, 20, "to be resident within its limit")
        if vm["balloon_bytes"] != vm["max_bytes"] or vm["balloon_health"] != "absent":
            raise LabError(f"its balloon moved: {vm['balloon_bytes']}, {vm['balloon_health']}")
        if vm["limit_bytes"] is None or vm["swapped_bytes"] == 0:
            raise LabError(f"limit {vm['limit_bytes']}, swapped {vm['swapped_bytes']}")
        self.keeps_pace(self.legacy, 30)
        return (f"no balloon driver: `memoc resize legacy {target_mib}M` was reached by the cgroup limit in {took:.1f} s, "
                f"{mib(vm['swapped_bytes'])} MiB swapped out, its workload keeps its pace")

    def reboot(self):
        marker, began = self.marker(), time.monotonic()
        since = len(self.build.line.events)
        self.build.reset()
        wait_for(lambda: self.since(marker, event="rebooted", vm="build"), 30, "the reboot to be noticed")
        noticed = time.monotonic() - began
        self.build.wait_reboot(since)
        self.memocd.wait_vm("build", lambda vm: vm["state"] == "steady" and vm["stats_age_ms"] is not None, 60, "to be steady again")
        self.wait_full_buffer(60)
        vm = self.memocd.vm("build")
        if self.size(vm) > 0.9 * GUEST_MIB * MIB:
            raise LabError(f"build still has {mib(self.size(vm))} MiB")
        return (f"noticed after {noticed:.1f} s, all limits of build opened while it booted; back at {mib(self.size(vm))} MiB with the "
                f"buffer full after {time.monotonic() - began:.1f} s")

    def release(self):
        began = time.monotonic()
        self.memocd.memoc_text("drain", "--all", "--wait", limit_s=90)
        vms = self.memocd.list()
        closed = [name for name, vm in vms.items() if vm["limit_bytes"] is not None or vm["balloon_bytes"] < 0.98 * vm["max_bytes"]]
        if closed:
            raise LabError(f"{', '.join(closed)} did not get everything back")
        for guest in self.guests:
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
