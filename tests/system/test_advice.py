# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory advice at the source of a migration: what was swapped out stays out, whatever becomes of the migration."""

import contextlib
import operator
import os
import re
import shutil
import signal
import subprocess

import host
from guest import pluggable_xml
from host import MIB, wait_for
from lab import Guest, HostSwap, Memocd, PrivateLibvirtd
from memocd import check_program, program
from pages import PAGE, fill_and_page_out, present_pages, swapped_bytes
from run import Skip, limit

CONFIG = {"host": {"pool": "2G", "buffer": "320M"}, "policy": {"grace": "5s"}}
MEMORY_MIB = 256
SIZE_MIB = 150
DIMM_MIB = 128
OWN_MIB = 24  # what QEMU has more of its own after a migration, at most
HOT_MIB = 20
AWAY_MIB_PER_S = 64
LAST_MIB = AWAY_MIB_PER_S // 4  # a look each 0.1 s, and a step after it
SLOW_MIB_PER_S = 24  # a first pass of ten seconds: long enough for something to happen in it
NO_NICE = ("setpriv", "--bounding-set", "-sys_nice")  # root without CAP_SYS_NICE, which process_madvise wants


class Pair:
    """A source with the hook and memocd, and a destination without either."""

    def __init__(self, lab):
        self.lab, self.swap = lab, HostSwap(lab, 1024)
        self.here, self.there = PrivateLibvirtd(lab, "here", "memoc-here"), PrivateLibvirtd(lab, "there", "memoc-there")
        self.here.install_hook(program("memoc-hook"))
        for libvirtd in (self.here, self.there):
            libvirtd.start()
        # Both would call their first group "qemu-1-NAME": source and destination would share one, and its limit.
        for number in range(1, 3):
            first = Guest(lab, self.there, f"number{number}", 64)
            first.start(paused=True)
            first.destroy()
        # With the source's /run for its own: in it libvirt says which of two QEMUs of one VM is its own. One host never has two.
        self.prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --rbind "$0" /run && exec "$@"',
                       str(self.here.base / "run")]
        self.memocd = Memocd(lab, self.here, CONFIG, prefix=self.prefix)
        self.memocd.start()
        self.known = {}

    def guest(self, name, **kinds):
        """With half its memory swapped out and a workload on the rest; the one of that name that is there, if it is."""
        known = self.known.get(name)
        if known and known.running():
            return known
        kinds.setdefault("fill", not kinds.get("memfd"))
        guest = self.known[name] = Guest(self.lab, self.here, name, MEMORY_MIB, driver=False, free_page_reporting=False, **kinds)
        guest.start()
        guest.wait_ready(240)  # it touches all its memory first
        if kinds.get("memfd"):
            guest.job("touch 140")
        guest.line.ask("pace 500", 30)
        guest.job(f"use {HOT_MIB}")
        self.memocd.wait_vm(name, lambda vm: vm["state"] == "steady", 120, "steady")
        self.memocd.memoc_text("resize", name, f"{SIZE_MIB if guest.fill else 100}M", "--wait", limit_s=120)
        wait_for(lambda: guest.cgroup().swapped() > 40 * MIB, 30, f"{name} to be swapped out in part")
        return guest

    def advice(self, name):
        return self.memocd.info(name)["advice"]

    def wait_advised(self, name, mib=4):
        """Mid-pass: so much came in and went out again."""
        wait_for(lambda: (self.advice(name) or {}).get("active") and self.advice(name)["out_bytes"] >= mib * MIB, 60,
                 f"advice for {name}", show=lambda: self.advice(name))

    def wait_back(self, guest, limit_bytes):
        """As before: no advice, managed, its limit, its memory swapped out, its workload at its pace."""
        # The limit follows QEMU's own memory, and a migration leaves it more of that.
        self.memocd.wait_vm(guest.name, lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is not None
                            and abs(vm["limit_bytes"] - limit_bytes) <= OWN_MIB * MIB, 60, "as before")
        wait_for(lambda: not self.advice(guest.name)["active"], 30, "advice to end")
        assert guest.cgroup().limit() <= limit_bytes + OWN_MIB * MIB and guest.cgroup().oom_kills() == 0
        assert guest.report()["use_mib"] == HOT_MIB

    def advice_events(self, name):
        return [event for event in self.memocd.events() if event["vm"] == name and event["event"] == "advice"]


def fixture(lab):
    yield Pair(lab)


class Migration:
    """`virsh migrate` on its own; ends with the `with`."""

    def __init__(self, pair, guest, *options, speed_mib=SLOW_MIB_PER_S):
        self.pair, self.guest = pair, guest
        if speed_mib:
            guest.virsh("migrate-setspeed", str(speed_mib))
        xml = guest.virsh("dumpxml", "--migratable").replace(str(guest.line_path(pair.here)), str(guest.line_path(pair.there)))
        path = pair.lab.base / f"{guest.name}.xml"
        path.write_text(xml, encoding="utf-8")
        channel = pair.lab.base / f"{guest.name}.migrate"
        self.virsh = subprocess.Popen(["virsh", "-q", "-c", pair.here.uri, "migrate", guest.name, "--live", *options, "--xml", str(path),
                                       "--desturi", pair.there.uri, "--migrateuri", f"unix://{channel}"], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        pair.lab.record_process(self.virsh.pid, "virsh migrate")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.virsh.kill()
        self.virsh.wait()
        self.end_there()

    def there_pid(self):
        return int((self.pair.there.base / f"run/libvirt/qemu/{self.guest.name}.pid").read_text(encoding="ascii"))

    def end_there(self):
        """What arrived is not looked at: QEMU 7.2's emulated processors break a guest's kernel there now and then."""
        with contextlib.suppress(OSError, ValueError, host.LabError):
            pid = self.there_pid()
            self.pair.lab.record_process(pid, f"{self.guest.name} there")
            host.end_process(pid, host.process_start(pid))


def mib_of(event):
    """The numbers of an advice event's reason: out, stayed, the guest's, zeroes gone, zeroes."""
    return [int(number) for number in re.findall(r"(\d+)", event["reason"])]


def migrate_away(pair, guest):
    swapped = guest.cgroup().swapped()
    with Migration(pair, guest, speed_mib=AWAY_MIB_PER_S):
        wait_for(lambda: not guest.running(), 120, f"{guest.name} to be gone")
        wait_for(lambda: guest.name not in pair.memocd.list(), 30, "memocd to forget it")
    event = pair.advice_events(guest.name)[-1]
    out, stayed, guests, zeroes_gone, zeroes = mib_of(event)
    print(f"    {guest.name}: swapped {swapped // MIB} MiB; {event['reason']}", flush=True)
    assert stayed <= 2 + out // 20, event
    # Swapped is QEMU's own memory as well (up to 40 MiB); what was read before the map was taken is not on it.
    assert event["from_bytes"] >= 0.8 * (swapped - 40 * MIB), (swapped, event)
    # What was read since the last look ends with QEMU.
    assert event["to_bytes"] >= event["from_bytes"] - (LAST_MIB + guests) * MIB, event
    return zeroes_gone, zeroes


def cancel_and_look(pair, guest, mib=32):
    """Cancelled in mid-pass, when so much came in and went out again: everything is as before, by the kernel's own word."""
    size_bytes = MEMORY_MIB * MIB
    before, faults, present = guest.cgroup().limit(), host.major_faults(guest.pid), present_pages(guest, size_bytes)
    with Migration(pair, guest) as migration:
        pair.wait_advised(guest.name, mib)
        guest.virsh("domjobabort")
        assert migration.virsh.wait(60) != 0
    pair.wait_back(guest, before)
    assert host.major_faults(guest.pid) > faults
    now = present_pages(guest, size_bytes)
    was, kept = sum(present), sum(map(operator.and_, present, now))
    came = sum(now) - kept
    print(f"    {guest.name}: {kept * PAGE // MIB} of {was * PAGE // MIB} MiB that were in memory before are so after the cancelled migration "
          f"({kept / was:.1%}), and {came * PAGE / MIB:.1f} that were not", flush=True)
    assert kept >= 0.95 * was
    # It read so much at least, and had room for it. What is left was read after the last look before the end, or is the guest's own.
    assert came * PAGE <= mib * MIB // 2


@limit(500)
def test_private_memory(pair):
    """Live, to the end: nearly all that was swapped out was read and is out again, and nothing stayed."""
    migrate_away(pair, pair.guest("away"))


@limit(500)
def test_scan_and_pagemap_agree(pair):
    """The kernel's PAGEMAP_SCAN, by which the map is taken where there is one, says what reading pagemap says."""
    if not shutil.which(os.environ.get("CC", "gcc")):
        raise Skip("no compiler here: the inside of the map is compiled for it")
    guest = pair.guest("stayer")
    check = check_program(pair.lab.base, "scan_check")
    guest.virsh("suspend")
    try:
        said = host.run([check, str(guest.pid), str(MEMORY_MIB)]).stdout
    finally:
        guest.virsh("resume")
    if "no PAGEMAP_SCAN" in said:
        raise Skip("Linux before 6.7: pagemap is read")
    scanned, read, both = map(int, re.findall(r"\d+", said))
    assert scanned == read == both and both * PAGE >= 40 * MIB, said


@limit(500)
def test_shared_memory(pair):
    """The same with memfd; pages of zeroes that only the reading allocated are gone as well. Cancelled once before."""
    guest = pair.guest("shared", memfd=True)
    cancel_and_look(pair, guest)
    gone, zeroes = migrate_away(pair, guest)
    assert zeroes >= 10 and gone >= 0.95 * zeroes, (gone, zeroes)


@limit(500)
def test_cancelled(pair):
    """Cancelled in mid-pass: advice stops, limit and target are as they were, and what was in memory before still is, and nothing else."""
    cancel_and_look(pair, pair.guest("stayer"))


@limit(500)
def test_destination_killed(pair):
    """libvirt tells of no failure: polling finds it."""
    guest = pair.guest("stayer")
    before = guest.cgroup().limit()
    with Migration(pair, guest) as migration:
        pair.wait_advised("stayer")
        os.kill(migration.there_pid(), signal.SIGKILL)
        assert migration.virsh.wait(60) != 0
    pair.wait_back(guest, before)


@limit(500)
def test_memocd_restarted(pair):
    """Killed in mid-pass: the next memocd finds the migration, takes a map of its own, goes on, and knows the limit of before."""
    guest = pair.guest("stayer")
    pair.memocd.memoc_text("hold", "stayer")  # else its pin alone would bring it back to its size
    before = guest.cgroup().limit()
    with Migration(pair, guest, speed_mib=12) as migration:
        pair.wait_advised("stayer")
        wait_for(lambda: guest.cgroup().limit() > before, 10, "its limit to be raised", show=guest.cgroup().limit)
        pair.memocd.kill()
        pair.memocd.start()
        pair.memocd.wait_vm("stayer", lambda vm: vm["state"] == "migrating-out", 30, "found migrating")
        pair.wait_advised("stayer")
        guest.virsh("domjobabort")
        assert migration.virsh.wait(60) != 0
    pair.wait_back(guest, before)  # not the limit that was raised for the reading
    pair.memocd.memoc_text("release", "stayer")


@limit(500)
def test_not_permitted(pair):
    """One warning, however often; the migration goes on."""
    guest = pair.guest("stayer")
    pair.memocd.stop()
    said = pair.memocd.log.stat().st_size
    pair.memocd.prefix = [*pair.prefix, *NO_NICE]
    try:
        pair.memocd.start()
        for _ in range(2):
            pair.memocd.wait_vm("stayer", lambda vm: vm["state"] == "steady", 60, "steady")
            with Migration(pair, guest) as migration:
                wait_for(lambda: (pair.advice("stayer") or {}).get("refused"), 30, "advice to be refused")
                pair.memocd.wait_vm("stayer", lambda vm: vm["state"] == "migrating-out", 30, "frozen")
                guest.virsh("domjobabort")
                assert migration.virsh.wait(60) != 0
        pair.memocd.wait_vm("stayer", lambda vm: vm["state"] == "steady", 60, "steady again")
        with open(pair.memocd.log, encoding="utf-8", errors="replace") as log:
            log.seek(said)
            warnings = [line for line in log if "no memory advice" in line]
        assert len(warnings) == 1 and "CAP_SYS_NICE" in warnings[0], warnings
    finally:
        pair.memocd.stop()
        pair.memocd.prefix = pair.prefix
        pair.memocd.start()


@limit(500)
def test_two_at_once_one_destroyed(pair):
    """Both are advised; one is destroyed in the middle and is told of, the other goes on."""
    guests = [pair.guest("stayer"), pair.guest("doomed")]
    with Migration(pair, guests[0], speed_mib=10) as stays, Migration(pair, guests[1], speed_mib=10):
        for guest in guests:
            pair.wait_advised(guest.name, 2)
        guests[1].virsh("destroy")
        wait_for(lambda: "doomed" not in pair.memocd.list(), 30, "memocd to forget it")
        assert pair.advice_events("doomed")
        more = pair.advice("stayer")["out_bytes"] // MIB + 2
        pair.wait_advised("stayer", more)
        guests[0].virsh("domjobabort")
        stays.virsh.wait(60)
    pair.memocd.wait_vm("stayer", lambda vm: vm["state"] == "steady", 60, "steady again")


@limit(500)
def test_postcopy(pair):
    """From the switch on nothing is advised."""
    guest = pair.guest("stayer")
    events = len(pair.advice_events("stayer"))
    with Migration(pair, guest, "--postcopy"):
        pair.wait_advised("stayer")
        guest.virsh("migrate-postcopy")
        wait_for(lambda: len(pair.advice_events("stayer")) > events, 30, "advice to end")
        # Nothing but the switch can have ended it: the first pass was far from over.
        out = mib_of(pair.advice_events("stayer")[-1])[0]
        assert out < 0.8 * pair.advice_events("stayer")[-1]["from_bytes"] / MIB, pair.advice_events("stayer")[-1]
        guest.virsh("migrate-setspeed", "1000", check=False)
        wait_for(lambda: not guest.running(), 90, "the rest to be fetched")


@limit(500)
def test_plugged_memory_and_save(pair):
    """A DIMM that was plugged while it ran is part of the map; and saving reads all memory as a migration does."""
    guest = pair.guest("plugged", extra_xml=pluggable_xml(MEMORY_MIB))
    guest.plug(DIMM_MIB)
    wait_for(lambda: pair.memocd.info("plugged")["max_bytes"] == (MEMORY_MIB + DIMM_MIB) * MIB, 30, "memocd to know of the DIMM")
    # Its kernel is lean and does not take a DIMM into use: the test does.
    fill_and_page_out(guest.pid, DIMM_MIB * MIB, 48 * MIB)
    swapped = [swapped_bytes(guest.pid, size * MIB) for size in (MEMORY_MIB, DIMM_MIB)]
    image = pair.lab.base / "plugged.memory"
    guest.virsh("save", str(image), limit_s=120)
    wait_for(lambda: not guest.running(), 60, "it to be saved")
    event = pair.advice_events("plugged")[-1]
    assert swapped[1] >= 40 * MIB, swapped
    print(f"    saved: swapped {swapped[0] // MIB} MiB and {swapped[1] // MIB} of the DIMM; {event['reason']}", flush=True)
    assert event["from_bytes"] >= 0.9 * sum(swapped), (event, swapped)
    # Part of it may be read before the map is there.
    assert event["to_bytes"] >= 8 * MIB and mib_of(event)[1] <= 2 + event["to_bytes"] // MIB // 20, event
    image.unlink()


@limit(500)
def test_live_snapshot(pair):
    """A snapshot of memory of a VM that runs on (`virsh snapshot-create-as --live`): read as by a migration, and afterwards as before."""
    guest = pair.guest("pictured")
    before, swapped, limit_bytes = len(pair.advice_events("pictured")), guest.cgroup().swapped(), guest.cgroup().limit()
    image = pair.lab.base / "pictured.memory"
    guest.virsh("snapshot-create-as", "--no-metadata", "--live", "--memspec", f"file={image},snapshot=external", limit_s=200)
    assert image.stat().st_size > HOT_MIB * MIB
    pair.memocd.wait_vm("pictured", lambda vm: vm["state"] == "steady", 60, "steady again")
    pair.wait_back(guest, limit_bytes)
    event = pair.advice_events("pictured")[before]
    print(f"    snapshot: swapped {swapped // MIB} MiB before, {guest.cgroup().swapped() // MIB} after; {event['reason']}", flush=True)
    out, stayed = mib_of(event)[:2]
    # A file takes it so fast that part of it may be read before the map is there; then the limit sends out as much.
    assert out >= 4 and stayed <= 2 + out // 20, event
    assert guest.cgroup().swapped() >= swapped * 9 // 10, (swapped, guest.cgroup().swapped())
    image.unlink()
