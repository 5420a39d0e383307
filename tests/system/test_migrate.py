# SPDX-License-Identifier: LGPL-2.1-or-later
"""memoc migrate, and what the destination's memocd makes of a VM that arrives."""

import json
import os
import signal
import subprocess
import threading
import time

from host import MIB, LabError, MemoryCgroup, memory_cgroup, wait_for
from lab import Guest
from memocd import program
from run import limit
from test_migration import Pair, kinds

BUFFER = 64 * MIB  # of test_migration's configuration
SLOW = ("--bandwidth", "4")  # MiB/s: it would take most of a minute


class Traffic(Pair):
    """Two hosts, and a guest that stays on the first through all that goes wrong."""

    def __init__(self, lab):
        super().__init__(lab)
        self.stayer = None

    def settled(self, name, memory_mib=384, use_mib=60):
        """A guest of which all memory was touched once, that uses little of it, and of which memocd knows that."""
        guest = Guest(self.lab, self.here.libvirtd, name, memory_mib, fill=True, free_page_reporting=False)
        guest.start()
        guest.wait_ready()
        guest.job(f"use {use_mib}")
        self.wait_settled(name)
        return guest

    def wait_settled(self, name):
        # After a migration that failed statistics of before it do not count: two new ones are awaited.
        return self.here.memocd.wait_vm(name, lambda vm: vm["state"] == "steady" and vm["need_bytes"] < vm["max_bytes"] // 2 and not vm["needy"]
                                        and vm["usable_bytes"] is not None and vm["greedy_bytes"] >= 100 * MIB
                                        and vm["stats_age_ms"] is not None and vm["last_change_ms"] >= 3000, 90,
                                        "steady and known to need little")

    def wait_stayer(self):
        if not self.stayer:
            self.stayer = self.settled("stayer")
        self.wait_settled("stayer")
        return self.stayer

    def begin(self, guest, *words):
        """memoc migrate of a guest, under way."""
        argv = [program("memoc"), "migrate", guest.name, *self.way(guest), *words]
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 env=self.here.memocd.environment(), start_new_session=True)
        self.lab.record_process(child.pid, "memoc migrate")
        return child

    def way(self, guest):
        desturi, migrateuri = guest.way_to(self.there.libvirtd)[1::2]
        return [desturi, "--migrateuri", migrateuri]

    def migrate(self, guest, *words):
        """memoc migrate to its good end: its figures."""
        child = self.begin(guest, "--json", *words)
        out, err = child.communicate(timeout=180)
        if child.returncode != 0:
            raise LabError(f"memoc migrate: exit {child.returncode}: {err.strip()}")
        guest.moved_to(self.there.libvirtd)
        return json.loads(out)


def fixture(lab):
    yield Traffic(lab)


def on_its_way(pair, guest):
    pair.here.memocd.wait_vm(guest.name, lambda vm: vm["state"] == "migrating-out", 60, "to be frozen")
    pair.there.memocd.wait_vm(guest.name, lambda vm: vm["state"] == "migrating-in", 30, "to be announced")


def fails(child):
    """What it says, when it has ended with exit status 1."""
    out, err = child.communicate(timeout=120)
    assert child.returncode == 1 and err.count("\n") == 1, (child.returncode, out, err)
    return err


def goes_on_here(pair, guest, before):
    """It runs here, has its size of before, and is forgotten there."""
    pair.here.memocd.wait_vm(guest.name, lambda vm: vm["state"] == "steady" and vm["balloon_bytes"] >= before - 4 * MIB, 60,
                             "its size of before")
    assert guest.report()["use_mib"] == 60
    wait_for(lambda: guest.name not in pair.there.memocd.list(), 90, "the destination to forget it")


def pid_path(libvirtd, name):
    return libvirtd.base / f"run/libvirt/qemu/{name}.pid"


class Watch:
    """What a memocd says of a VM, and its cgroup, from the first that is seen of them, until stop()."""

    def __init__(self, memocd, name):
        self.memocd, self.name, self.seen, self.over = memocd, name, [], threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        pid_file = pid_path(self.memocd.libvirtd, self.name)
        while not self.over.wait(0.1):
            try:
                vm = self.memocd.list().get(self.name)
                pid = int(pid_file.read_text(encoding="ascii"))
                # memocd itself cannot tell which of two QEMUs of one UUID, which one machine has here, is its own.
                group = MemoryCgroup(memory_cgroup(pid))
                vm.update(group=group.path, group_limit_bytes=group.limit(), group_bytes=group.usage())
            except (LabError, OSError, ValueError, AttributeError):
                continue  # not there yet, or there no more
            self.seen.append(vm)

    def stop(self):
        self.over.set()
        self.thread.join(30)
        return self.seen


@limit(300)
def test_arrives_as_small_as_it_left(pair):
    """A pinned VM under a limit is made smaller and migrated. At the destination it is reserved for by what it brings, has no
    limit while it is loaded and is asked nothing; then it stays at that size, and grows when it needs more."""
    guest = pair.settled("arrival")
    here, there, name = pair.here.memocd, pair.there.memocd, guest.name
    here.memoc_text("resize", name, "300M", "--wait", limit_s=60)
    assert here.vm(name)["limit_bytes"] is not None
    left = guest.cgroup().path
    watch = Watch(there, name)
    try:
        figures = pair.migrate(guest, "--bandwidth", "50")  # paused, so that it comes to an end at that speed
        there.wait_vm(name, lambda vm: vm["state"] == "steady" and vm["stats_age_ms"] is not None, 60, "steady there")
    finally:
        seen = watch.stop()
    small = figures["to_bytes"]
    assert figures["from_bytes"] >= 290 * MIB and small <= 220 * MIB, figures
    assert 60 * MIB < figures["sent_bytes"] <= small + 32 * MIB, figures
    loading = [vm for vm in seen if vm["state"] == "migrating-in"]
    assert loading and all(vm["limit_bytes"] is None and vm["stats_age_ms"] is None for vm in loading), loading
    assert all(vm["group_limit_bytes"] is None and vm["group"] != left for vm in loading), loading
    assert max(vm["group_bytes"] for vm in loading) > 100 * MIB, loading
    assert guest.cgroup().limit() is None
    arrived = kinds(there, name)
    assert arrived[0]["event"] == "added" and abs(arrived[0]["from_bytes"] - small) <= MIB, (arrived[0], small)
    moved = [event for event in arrived if event["event"] in ("target", "balloon", "limit")]
    assert not moved, moved
    # QEMU's own memory is charged too; what is to be seen is that nothing beyond the buffer came on top.
    most = max(vm["group_bytes"] for vm in seen)
    overhead = there.memoc("info", name)["overhead_bytes"]
    assert most <= small + overhead + BUFFER, (most, small, overhead)
    assert guest.report()["use_mib"] == 60
    # Its memory is all there already, so that only its statistics tell: it grows no faster than these can come.
    guest.cmd("ramp 8")
    guest.job("use 180", limit_s=90)
    there.wait_vm(name, lambda vm: vm["balloon_bytes"] > small + 20 * MIB, 60, "more memory where it needs it")
    assert guest.report()["oom_kills"] == 0 and guest.cgroup().oom_kills() == 0
    guest.destroy()


@limit(300)
def test_refused_by_admission(pair):
    """Its guaranteed minimum does not fit there: refused within a moment, and it goes on here as it was."""
    there = pair.there.memocd
    guest = pair.wait_stayer()
    guest.virsh("metadata", "https://memoc.org/xmlns/policy/1.0", "--live", "--key", "memoc", "--set", '<policy min="100M"/>')
    before = pair.here.memocd.wait_vm("stayer", lambda vm: vm["min_bytes"] == 100 * MIB, 30, "its minimum")["balloon_bytes"]
    there.write_config({"host": {"pool": "64M", "buffer": "16M"}, "policy": {"grace": "20s"}, "admission": {"mode": "deny"}})
    there.reload()
    wait_for(lambda: there.host()["pool_bytes"] == 64 * MIB, 20, "the small pool")
    try:
        said = fails(pair.begin(guest, "--live"))
    finally:
        there.write_config({"host": {"pool": "1G", "buffer": "64M"}, "policy": {"grace": "20s"}})
        there.reload()
        wait_for(lambda: there.host()["pool_bytes"] == 1024 * MIB, 20, "the large pool")
    assert "stayer was not migrated" in said and "would no longer fit" in said and "missing" in said, said
    goes_on_here(pair, guest, before)


@limit(300)
def test_cancelled_in_mid_pass(pair):
    """Ctrl-C: exit status 1, one line, and the VM has its size of before."""
    guest = pair.wait_stayer()
    before = pair.here.memocd.vm("stayer")["balloon_bytes"]
    child = pair.begin(guest, "--live", *SLOW)
    on_its_way(pair, guest)
    assert pair.here.memocd.vm("stayer")["balloon_bytes"] < before - 100 * MIB
    child.send_signal(signal.SIGINT)
    said = fails(child)
    assert "stayer was not migrated: cancelled" in said, said
    goes_on_here(pair, guest, before)


@limit(300)
def test_cancelled_after_memocd_was_killed(pair):
    """The memocd that made it smaller is gone; the next one knows what size it is to have again."""
    guest, memocd = pair.wait_stayer(), pair.here.memocd
    before = memocd.vm("stayer")["balloon_bytes"]
    child = pair.begin(guest, "--live", *SLOW)
    on_its_way(pair, guest)
    assert memocd.vm("stayer")["balloon_bytes"] < before - 100 * MIB
    memocd.kill()
    memocd.start()
    memocd.wait_vm("stayer", lambda vm: vm["state"] == "migrating-out", 30, "found migrating")
    child.send_signal(signal.SIGINT)
    said = fails(child)
    assert "stayer was not migrated: cancelled" in said, said
    goes_on_here(pair, guest, before)


@limit(300)
def test_cancelled_before_it_began(pair):
    """Ctrl-C while its balloon still moves: memocd notices that whoever wanted it has gone."""
    here, guest = pair.here.memocd, pair.wait_stayer()
    before, number = here.vm("stayer")["balloon_bytes"], here.events()[-1]["details"]["number"]
    child = pair.begin(guest, "--live")
    wait_for(lambda: any(event["event"] == "target" for event in kinds(here, "stayer", number)), 30, "it to be prepared", every_s=0.02)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGINT, child.returncode
    goes_on_here(pair, guest, before)
    assert not any(event["state"] == "migrating-out" for event in kinds(here, "stayer", number))


@limit(300)
def test_destination_killed(pair):
    """QEMU at the destination is killed in mid-pass."""
    guest = pair.wait_stayer()
    before = pair.here.memocd.vm("stayer")["balloon_bytes"]
    child = pair.begin(guest, "--live", *SLOW)
    on_its_way(pair, guest)
    os.kill(int(pid_path(pair.there.libvirtd, "stayer").read_text(encoding="ascii")), signal.SIGKILL)
    said = fails(child)
    assert "stayer was not migrated: " in said and "gets its size back" in said, said
    goes_on_here(pair, guest, before)


@limit(300)
def test_destination_restarted(pair):
    """memocd at the destination is killed in mid-pass: the next one finds a VM that comes in, and leaves it alone until it runs."""
    there, guest = pair.there.memocd, pair.wait_stayer()
    before = pair.here.memocd.vm("stayer")["balloon_bytes"]
    child = pair.begin(guest, "--live", *SLOW)
    on_its_way(pair, guest)
    there.kill()
    there.start()
    there.wait_vm("stayer", lambda vm: vm["state"] == "migrating-in", 30, "to be found coming in")
    time.sleep(7)  # one that was running already would be judged after 5 s
    assert there.vm("stayer")["state"] == "migrating-in"
    assert [event["event"] for event in kinds(there, "stayer")] == ["added"], kinds(there, "stayer")
    child.send_signal(signal.SIGINT)
    fails(child)
    goes_on_here(pair, guest, before)


@limit(300)
def test_destroyed_in_mid_pass(pair):
    """The VM itself is destroyed while it migrates: both sides forget it. The last that the guest that stays is used for."""
    guest = pair.wait_stayer()
    child = pair.begin(guest, "--live", *SLOW)
    on_its_way(pair, guest)
    pair.stayer = None
    guest.destroy()
    said = fails(child)
    assert "stayer was not migrated: " in said, said
    for side in (pair.here, pair.there):
        wait_for(lambda memocd=side.memocd: "stayer" not in memocd.list(), 90, f"{side.memocd.name} to forget it")


@limit(300)
def test_two_at_once(pair):
    """Both arrive with their sizes, and nothing is taken from one for the arrival of the other."""
    there = pair.there.memocd
    guests = [pair.settled(f"pair-{letter}", 256, 40) for letter in "ab"]
    children = [pair.begin(guest, "--json") for guest in guests]
    figures = []
    for child in children:
        out, err = child.communicate(timeout=180)
        assert child.returncode == 0, err
        figures.append(json.loads(out))
    for guest, figure in zip(guests, figures):
        guest.moved_to(pair.there.libvirtd)
        there.wait_vm(guest.name, lambda vm: vm["state"] == "steady" and vm["stats_age_ms"] is not None, 60, "steady there")
        arrived = kinds(there, guest.name)
        assert abs(arrived[0]["from_bytes"] - figure["to_bytes"]) <= MIB, (arrived[0], figure)
        assert not [event for event in arrived if event["event"] in ("target", "balloon", "limit")], arrived
        assert guest.report()["use_mib"] == 40
        guest.destroy()


def hook_that_loses(operation):
    """memoc's hook, but for one operation of which the message does not get through."""
    return f"#!/bin/sh\n[ \"$2\" = {operation} ] || exec {program('memoc-hook')} \"$@\"\n"


@limit(300)
def test_restore_that_only_libvirt_tells(pair):
    """The hook's message that a VM is restored is lost, those of its start are not: libvirt's event corrects what was thought."""
    path = pair.lab.base / "hook"
    path.write_text(hook_that_loses("restore"), encoding="ascii")
    pair.here.libvirtd.install_hook(path)
    try:
        save_and_restore(pair, "restored")
    finally:
        pair.here.libvirtd.install_hook(program("memoc-hook"))


@limit(300)
def test_save_and_restore(pair):
    """A saved VM comes back with the size it was saved with, reserved for by that, and with no limit while it is read."""
    save_and_restore(pair, "saved")


def save_and_restore(pair, name):
    here = pair.here.memocd
    guest = pair.settled(name)
    here.memoc_text("resize", name, "200M", "--wait", limit_s=60)
    # libvirt's XML, which the saved image has, says what QEMU told last: once a second at most.
    wait_for(lambda: f"<currentMemory unit='KiB'>{guest.balloon_bytes() // 1024}<" in guest.virsh("dumpxml"), 20, "libvirt to know")
    size = guest.balloon_bytes()
    number = here.events()[-1]["details"]["number"]
    guest.managed_save()
    wait_for(lambda: name not in here.list(), 30, "it to be forgotten")
    guest.virsh("start", limit_s=120)
    guest.adopt()
    here.wait_vm(name, lambda vm: vm["state"] == "steady" and vm["stats_age_ms"] is not None, 60, "steady again")
    back = [event for event in kinds(here, name, number) if event["event"] == "added"]
    assert back[-1]["state"] == "migrating-in" and abs(back[-1]["from_bytes"] - size) <= MIB, (back, size)
    after = kinds(here, name, back[-1]["details"]["number"])
    running = next(i for i, event in enumerate(after) if event["event"] == "state")
    assert not [event for event in after[:running] if event["event"] in ("target", "balloon", "limit")], after
    assert not [event for event in after if event["to_bytes"] > size + BUFFER and event["event"] == "balloon"], after
    assert guest.report()["use_mib"] == 60
    guest.destroy()
