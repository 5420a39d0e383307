# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of memocd have in common: a libvirtd with memoc's hook, a memocd, guests, and the reading of its events.

Events carry the host's monotonic clock, the same that time.monotonic() reads: a "mark" is a moment of it, and events since
a mark are those after it, also over a restart of memocd (whose own numbers begin anew).
"""

import itertools
import json
import re
import shlex
import time

import host
from host import MIB, LabError, wait_for
from lab import Child, Guest, HostSwap, Memocd, PrivateLibvirtd
from memocd import program

RESIZE_LIMIT_S = 60  # a resize takes a second; ten times that on a busy machine is late, not wrong


class Stage:
    """A private libvirtd with the hook, host swap, and a memocd that is not started yet."""

    def __init__(self, lab, config=None, swap_mib=1024, hook=True):
        self.lab = lab
        self.swap = HostSwap(lab, swap_mib) if swap_mib else None
        self.libvirtd = PrivateLibvirtd(lab)
        if hook:
            self.libvirtd.install_hook(program("memoc-hook"))
        self.libvirtd.start()
        self.memocd = Memocd(lab, self.libvirtd, config)
        self.guests = {}

    def guest(self, name, memory_mib=256, **kinds):
        self.guests[name] = Guest(self.lab, self.libvirtd, name, memory_mib, **kinds)
        return self.guests[name]

    def start_guests(self, *names):
        chosen = [self.guests[name] for name in names or self.guests]
        for guest in chosen:
            guest.start()
        for guest in chosen:
            guest.wait_ready()

    # -- events --

    @staticmethod
    def mark():
        return time.monotonic() * 1000

    def events(self, since=0, vm=None, kinds=None):
        """Of memocd's life now, oldest first."""
        return [event for event in self.memocd.events() if event["details"]["monotonic_ms"] >= int(since)
                and (vm is None or event["vm"] == vm) and (kinds is None or event["event"] in kinds)]

    def wait_event(self, kind, vm=None, since=0, limit_s=RESIZE_LIMIT_S, matches=lambda event: True):
        """The first event of this kind."""
        return wait_for(lambda: next((event for event in self.events(since, vm, (kind,)) if matches(event)), None), limit_s,
                        f"event {kind} of {vm or 'the host'}", every_s=0.1,
                        show=lambda: brief(self.events(since, vm)[-12:]))

    # -- VMs --

    def vm(self, name):
        found = self.memocd.list().get(name)
        if found is None:
            raise LabError(f"memocd does not list {name}")
        return found

    def wait_vm(self, name, predicate, what, limit_s=RESIZE_LIMIT_S):
        return self.memocd.wait_vm(name, predicate, limit_s, what)

    def wait_steady(self, *names, limit_s=90):
        for name in names or self.guests:
            self.wait_vm(name, lambda vm: vm["state"] == "steady" and vm["limit_bytes"] != 0, "to be steady", limit_s)

    def resize(self, name, size):
        """Pins a VM (size in MiB, or "auto"); returns the mark before it."""
        mark = self.mark()
        self.memocd.memoc_text("resize", name, size if size == "auto" else f"{size}M")
        return mark

    def wait_balloon(self, name, mib, tolerance_mib=8, limit_s=RESIZE_LIMIT_S):
        """By memocd's account and by libvirt's."""
        def there(size):
            return size is not None and abs(size - mib * MIB) <= tolerance_mib * MIB

        self.wait_vm(name, lambda vm: there(vm["balloon_bytes"]), f"balloon at {mib} MiB", limit_s)
        wait_for(lambda: there(self.guests[name].balloon_bytes()), limit_s, f"QEMU's balloon of {name} at {mib} MiB",
                 show=self.guests[name].memory_stats)

    def wait_limited(self, name, mib, limit_s=RESIZE_LIMIT_S):
        """The cgroup holds the guest to this size; QEMU's own memory comes on top. Returns memocd's object."""
        def held():
            overhead = self.memocd.info(name)["overhead_bytes"]
            limit = self.guests[name].cgroup().limit()
            vm = self.vm(name)
            close = limit is not None and limit <= mib * MIB + overhead + 2 * MIB
            return vm if close and vm["limit_bytes"] == limit and vm["state"] == "steady" else None

        return wait_for(held, limit_s, f"{name} held to {mib} MiB by its cgroup", every_s=0.1,
                        show=lambda: (self.vm(name), self.guests[name].cgroup().limit()))

    def explain(self, name):
        """All of `explain` as one text."""
        return json.dumps(self.memocd.memoc("explain", name))

    # -- harm --

    def assert_unharmed(self, *names, inside=True):
        """inside: the guest's own kernel killed nothing either since it booted."""
        for name in names or self.guests:
            guest = self.guests[name]
            assert guest.running() and guest.pid == guest.known_pid, f"{name}: its QEMU is not the one that was started"
            assert guest.cgroup().oom_kills() == 0, f"{name}: the kernel killed in its cgroup"
            assert not inside or guest.report()["oom_kills"] == 0, f"{name}: its own kernel killed: {guest.report()}"


class SwaplessMemocd(Memocd):
    """memocd on a host without swap. Other users of this machine may have some, so its meminfo says that there is none."""

    def start(self, wait=True, extra=()):
        fake = self.base / "meminfo"
        text = open("/proc/meminfo", encoding="ascii").read()
        fake.write_text(re.sub(r"^(Swap(?:Total|Free|Cached):\s+)\d+", r"\g<1>0", text, flags=re.MULTILINE), encoding="ascii")
        self.state_dir.mkdir(exist_ok=True)
        self.write_config()
        words = [program("memocd"), "--config", self.config_path, "--connect", self.libvirtd.uri, "--socket", self.socket,
                 "--state-dir", self.state_dir, "--run-dir", self.run_dir, "--log", "stderr"]
        script = f"mount --bind {shlex.quote(str(fake))} /proc/meminfo && exec {shlex.join(map(str, words))}"
        self.child = Child(self.lab, self.name, ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
                           self.log)
        self.wait_answering()
        return self


def brief(events):
    """One short line an event, for messages."""
    return [f"{event['details']['monotonic_ms']} {event['vm']} {event['event']} {mib(event['from_bytes'])}->"
            f"{mib(event['to_bytes'])} [{event['state']}] {event['reason']}" for event in events]


def mib(size):
    return "none" if size is None else size // MIB


def at(event):
    return event["details"]["monotonic_ms"]


def assert_order(events, *kinds):
    """The kinds occur one after the other in this order, whatever else occurs between them. Returns those events."""
    rest = iter(events)
    found = []
    for kind in kinds:
        event = next((event for event in rest if event["event"] == kind), None)
        assert event is not None, f"no {kind!r} after {[e['event'] for e in found]} in {brief(events)}"
        found.append(event)
    return found


def pairs(items):
    return list(itertools.pairwise(items))


__all__ = ["MIB", "RESIZE_LIMIT_S", "LabError", "Stage", "SwaplessMemocd", "assert_order", "at", "brief", "host", "mib", "pairs", "wait_for"]
