# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens to VMs: reboot, pause, save, restore, end in the middle of an operation, crash, undefine, rename."""

import os
import signal

from stage import MIB, RESIZE_LIMIT_S, Stage, assert_order, at, brief, wait_for
from run import limit

MEMORY_MIB = 256
SMALL_MIB = 160
CONFIG = {
    "host": {"pool": "3G", "buffer": "64M"},
    "policy": {"grace": "30s"},
    # Stalls are not the subject here: the last pages of a guest that boots on a busy machine may take their time.
    "balloon": {"min_speed": "1M", "stall_timeout": "5s", "retry_min": "2s"},
}


class Bench(Stage):
    """A guest that lives through it all, and a bystander that must not notice."""

    def __init__(self, lab):
        super().__init__(lab, CONFIG)
        self.memocd.start()
        self.actor = self.guest("actor", MEMORY_MIB, free_page_reporting=False)
        self.bystander = self.guest("bystander", MEMORY_MIB)
        self.start_guests()
        self.wait_steady()
        # Not while it boots: after a reset it is pinned, and would lack what it touches then.
        self.actor.job(f"touch {MEMORY_MIB * 2 // 3}")
        self.bystander.job("use 60")

    def reset(self):
        if not self.memocd.running():
            self.memocd.start()
        if not self.actor.running():
            self.actor.start()
        self.actor.wait_ready()
        self.wait_steady("actor")
        self.resize("actor", "auto")

    def shrink_actor(self):
        """Balloon and limit at a size that is not the one it was born with."""
        mark = self.resize("actor", SMALL_MIB)
        self.wait_balloon("actor", SMALL_MIB)
        self.wait_vm("actor", lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is not None, "steady behind a limit")
        assert self.actor.cgroup().limit() is not None
        return mark

    def shrink_halfway(self):
        """In mid-shrink, and it stays there long enough: the guest has no time for its balloon."""
        self.actor.cmd("throttle 1")
        self.resize("actor", 100)
        self.wait_vm("actor", lambda vm: vm["state"].startswith("shrinking"), "to be shrinking")

    def wait_left_nothing(self, name, uuid, group):
        """No entry, no cgroup, nothing in the state file, no answer to questions about it."""
        wait_for(lambda: name not in self.memocd.list(), RESIZE_LIMIT_S, f"memocd to forget {name}", show=self.memocd.list)
        assert self.memocd.run("info", name).returncode == 1
        wait_for(lambda: not group.path.exists(), RESIZE_LIMIT_S, f"the end of {group.path}")
        wait_for(lambda: uuid not in self.state_text(), RESIZE_LIMIT_S, f"{name} to leave the state file", show=self.state_text)
        # A write to a limit under way has the group open until the kernel has reclaimed.
        wait_for(lambda: not [path for path in self.descriptors() if path.startswith(str(group.path))], RESIZE_LIMIT_S,
                 f"{group.path} to be closed", show=self.descriptors)

    def descriptors(self):
        directory = f"/proc/{self.memocd.pid}/fd"
        return [os.readlink(f"{directory}/{number}") for number in os.listdir(directory) if os.path.lexists(f"{directory}/{number}")]

    def wait_true_terms(self, name, size_mib, used_mib):
        """Until memocd believes that it has that much and uses at least so much."""
        def terms():
            return {term["name"]: term["value_bytes"] for term in self.memocd.memoc("explain", name)["terms"]}

        def right():
            now = terms()
            return now["size"] == size_mib * MIB and now["demand"] > used_mib * MIB

        wait_for(right, RESIZE_LIMIT_S, f"{name}'s true size and use", show=terms)

    def state_text(self):
        return "".join(path.read_text(encoding="utf-8") for path in self.memocd.state_dir.glob("*.json"))

    def assert_bystander_unharmed(self):
        self.assert_unharmed("bystander")
        assert self.vm("bystander")["state"] == "steady", self.vm("bystander")


def fixture(lab):
    yield Bench(lab)


def reboots(bench, reboot):
    guest = bench.actor
    bench.shrink_actor()
    mark, since, pid = bench.mark(), len(guest.line.events), guest.pid
    reboot()
    bench.wait_event("rebooted", "actor", mark)
    bench.wait_event("limit", "actor", mark, matches=lambda event: event["to_bytes"] is None)
    guest.wait_reboot(since)
    bench.wait_event("state", "actor", mark, matches=lambda event: event["reason"].startswith("rebooting -> steady"))
    # It is still pinned: it is shrunk again once its driver is there again.
    bench.wait_balloon("actor", SMALL_MIB)
    bench.wait_vm("actor", lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is not None, "steady behind a limit")
    events = bench.events(mark, "actor")
    # A guest at work while it boots on a busy machine may take its time over the last pages: then the limit comes first.
    rebooted = assert_order(events, "rebooted", "limit", "state", "target", "balloon", "limit")
    assert any(event["event"] in ("balloon-reached", "balloon-back") for event in events if at(event) > at(rebooted[4])), brief(events)
    assert rebooted[1]["to_bytes"] is None, f"the limit was not opened first: {brief(events)}"
    assert guest.pid == pid
    bench.assert_unharmed("actor")
    bench.assert_unharmed("bystander")


@limit(240)
def test_reset_from_outside(bench):
    """virsh reset: limits open at once, the guest has all its memory until it can be judged, then it is shrunk again."""
    reboots(bench, bench.actor.reset)


@limit(240)
def test_reboot_from_inside(bench):
    """The same for a guest that reboots by itself."""
    reboots(bench, lambda: bench.actor.cmd("reboot"))


@limit(240)
def test_reset_and_nothing_asked(bench):
    """After a reset QEMU still tells the balloon of before and nobody corrects it: memocd knows better, another memocd too."""
    guest = bench.actor
    bench.shrink_actor()
    bench.resize("actor", "auto")
    mark, since = bench.mark(), len(guest.line.events)
    guest.reset()
    bench.wait_event("rebooted", "actor", mark)
    guest.wait_reboot(since)
    bench.wait_steady("actor")
    # By then the policy may have given it some more than it was shrunk to.
    assert guest.balloon_bytes() <= MEMORY_MIB * MIB * 7 // 8, "QEMU forgot its balloon: this test is about nothing"
    guest.job("use 150")
    bench.wait_true_terms("actor", MEMORY_MIB, 150)
    bench.memocd.kill()
    bench.memocd.start()
    bench.wait_steady("actor")
    bench.wait_true_terms("actor", MEMORY_MIB, 150)
    assert bench.vm("actor")["balloon_health"] != "inhibited"
    drained = bench.memocd.run("--timeout", f"{RESIZE_LIMIT_S}s", "drain", "actor", "--wait")
    assert drained.returncode == 0, drained
    assert not bench.events(mark, "actor", ("balloon-stalled", "balloon-inhibited")), brief(bench.events(mark, "actor"))
    assert bench.memocd.run("release", "actor").returncode == 0
    guest.job("use 20")  # squeezed by a limit where its balloon is slow, it would swap on both sides
    bench.shrink_actor()  # the driver is asked for less: now QEMU knows again, too
    bench.assert_unharmed("bystander")


def test_pause_and_resume(bench):
    """A paused VM is left alone, whatever is asked; resumed it is served again, by fresh statistics."""
    bench.resize("actor", MEMORY_MIB)
    bench.wait_balloon("actor", MEMORY_MIB)
    bench.actor.suspend()
    bench.wait_vm("actor", lambda vm: vm["state"] == "paused", "to be paused")
    mark = bench.resize("actor", SMALL_MIB)
    bench.resize("bystander", 200)  # somebody else's resize takes place in the meantime
    bench.wait_balloon("bystander", 200)
    bench.resize("bystander", "auto")
    assert not bench.events(mark, "actor", ("balloon", "limit", "needy")), brief(bench.events(mark, "actor"))
    assert bench.vm("actor")["state"] == "paused" and bench.actor.balloon_bytes() == MEMORY_MIB * MIB
    bench.actor.resume()
    bench.wait_balloon("actor", SMALL_MIB)
    bench.wait_vm("actor", lambda vm: vm["state"] == "steady" and vm["stats_age_ms"] is not None
                  and vm["stats_age_ms"] < 5000, "steady with fresh statistics")
    bench.assert_unharmed("actor")
    bench.assert_unharmed("bystander")


@limit(240)
def test_save_and_restore(bench):
    """virsh save ends a VM without a trace; restored it is known at once, with its balloon where it was."""
    kills = bench.actor.report()["oom_kills"]
    bench.shrink_actor()
    group, uuid = bench.actor.cgroup(), bench.actor.uuid
    path = bench.lab.base / "actor.saved"
    bench.actor.virsh("save", str(path), limit_s=180)
    bench.actor.wait_gone()
    bench.wait_left_nothing("actor", uuid, group)
    mark = bench.mark()
    bench.libvirtd.virsh("restore", str(path), limit_s=180)
    path.unlink()
    bench.actor.adopt()
    bench.actor.wait_ready()
    bench.wait_event("added", "actor", mark)
    vm = bench.wait_vm("actor", lambda vm: vm["state"] == "steady" and vm["usable_bytes"] is not None, "steady with statistics")
    assert vm["pinned_bytes"] is None, vm
    assert abs(bench.actor.balloon_bytes() - vm["balloon_bytes"]) < 8 * MIB, (bench.actor.balloon_bytes(), vm)
    bench.resize("actor", 200)
    bench.wait_balloon("actor", 200)
    bench.assert_unharmed("actor")
    assert bench.actor.report()["oom_kills"] == kills, "its own kernel killed"  # the counter is as old as its boot
    bench.assert_unharmed("bystander")


@limit(240)
def test_managed_save(bench):
    """The same through managed save, whose start is a restore."""
    kills = bench.actor.report()["oom_kills"]
    bench.shrink_actor()
    group, uuid = bench.actor.cgroup(), bench.actor.uuid
    bench.actor.managed_save()
    bench.wait_left_nothing("actor", uuid, group)
    bench.actor.start(limit_s=180)
    bench.actor.wait_ready()
    bench.wait_steady("actor")
    bench.resize("actor", 200)
    bench.wait_balloon("actor", 200)
    bench.assert_unharmed("actor")
    assert bench.actor.report()["oom_kills"] == kills, "its own kernel killed"  # the counter is as old as its boot
    bench.assert_unharmed("bystander")


def ends(bench, end):
    guest = bench.actor
    bench.shrink_halfway()
    mark, group = bench.mark(), guest.cgroup()
    end()
    guest.wait_gone()
    bench.wait_event("gone", "actor", mark)
    bench.wait_left_nothing("actor", guest.uuid, group)
    assert bench.vm("bystander")["state"] == "steady"
    bench.resize("bystander", 200)  # no lane, no worker is stuck
    bench.wait_balloon("bystander", 200)
    bench.resize("bystander", "auto")
    bench.assert_bystander_unharmed()
    mark = bench.mark()
    guest.start()
    guest.wait_ready()
    vm = bench.wait_vm("actor", lambda vm: vm["state"] == "steady", "to be steady")
    assert vm["pinned_bytes"] is None and vm["balloon_bytes"] == MEMORY_MIB * MIB, vm
    assert len(bench.events(mark, "actor", ("added",))) == 1


@limit(240)
def test_destroy_in_mid_shrink(bench):
    """virsh destroy in the middle of an operation leaves nothing, and its next life begins anew."""
    ends(bench, lambda: bench.actor.virsh("destroy"))


@limit(240)
def test_crash_of_qemu_in_mid_shrink(bench):
    """QEMU killed by SIGKILL in the middle of an operation: the same."""
    ends(bench, lambda: bench.actor.kill(signal.SIGKILL))


@limit(240)
def test_end_of_an_adopted_vm(bench):
    """A VM that memocd remembers from before its own restart leaves as little when it ends."""
    bench.shrink_actor()
    wait_for(lambda: bench.actor.uuid in bench.state_text(), RESIZE_LIMIT_S, "actor in the state file")
    bench.memocd.restart()
    bench.wait_vm("actor", lambda vm: vm["state"] == "steady" and vm["pinned_bytes"] == SMALL_MIB * MIB, "adopted with its pin")
    group = bench.actor.cgroup()
    bench.actor.destroy()
    bench.wait_left_nothing("actor", bench.actor.uuid, group)


@limit(240)
def test_undefine_while_it_runs(bench):
    """Without its definition a VM goes on and is served on; at its end nothing is left."""
    guest = bench.actor
    guest.virsh("undefine")
    guest.defined = False
    bench.resize("actor", 200)
    bench.wait_balloon("actor", 200)
    group = guest.cgroup()
    guest.destroy()
    bench.wait_left_nothing("actor", guest.uuid, group)
    assert "actor" not in bench.libvirtd.domains()


@limit(240)
def test_rename(bench):
    """A VM that was renamed while it was off is known by its new name only."""
    guest = bench.actor
    guest.destroy()
    guest.virsh("domrename", "diva")
    guest.name = "diva"
    bench.guests["diva"] = bench.guests.pop("actor")
    try:
        guest.start()
        guest.wait_ready()
        bench.wait_steady("diva")
        assert bench.vm("diva")["uuid"] == guest.uuid and "actor" not in bench.memocd.list()
        bench.resize("diva", 200)
        bench.wait_balloon("diva", 200)
        bench.assert_unharmed("diva")
    finally:
        if guest.running():
            guest.destroy()
        guest.virsh("domrename", "actor")
        guest.name = "actor"
        bench.guests["actor"] = bench.guests.pop("diva")
