# SPDX-License-Identifier: LGPL-2.1-or-later
"""What memocd recorded of real guests, replayed: the same decisions, byte for byte; over kills, gaps and a full disk."""

import itertools
import json
import pathlib
import shlex
import shutil
import time

from lab import Memocd
from run import limit
from stage import MIB, Stage, wait_for

CONFIG = {"host": {"pool": "640M", "reserve": "256M", "buffer": "64M"}, "balloon": {"stall_timeout": "2s"}}
MEMORY_MIB = 256


class Studio(Stage):
    """Two guests, one of them without a driver, in a pool that is a little too small when both want memory."""

    def __init__(self, lab):
        super().__init__(lab, CONFIG)
        self.guest("able", MEMORY_MIB, swap_mib=128)
        self.guest("bare", MEMORY_MIB, driver=False, fill=True)
        self.start_guests()

    def reset(self):
        """A memocd that begins anew, with an empty recording."""
        if self.memocd.running():
            self.memocd.stop()
        shutil.rmtree(self.recording(), ignore_errors=True)
        self.memocd.config = dict(CONFIG)
        for guest in self.guests.values():
            if not guest.running():
                guest.start()
                guest.wait_ready()
        self.memocd.start()
        self.wait_steady()

    def recording(self):
        return self.memocd.state_dir / "record"

    def segments(self):
        return sorted(path.name for path in self.recording().iterdir())

    def replay(self, *args, path=None):
        """(exit status, summary, decisions, stderr)."""
        done = self.memocd.run("--json", "replay", "--explain", *args, str(path or self.recording()), limit_s=60)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        summary = next((line for line in lines if "same" in line), None)
        return done.returncode, summary, [line for line in lines if "event" in line], done.stderr

    def assert_reproduced(self, path=None):
        status, summary, decisions, stderr = self.replay(path=path)
        assert status == 0 and summary["same"], (status, summary, stderr)
        assert stderr == "", stderr
        return summary, decisions

    def much_happens(self):
        """Of all kinds of events as many as a minute allows."""
        able, memocd = self.guests["able"], self.memocd
        self.resize("able", 160)
        self.wait_balloon("able", 160)
        self.resize("bare", 200)
        self.wait_limited("bare", 200)
        self.resize("able", "auto")
        able.job("use 200")
        wait_for(lambda: self.events(vm="able", kinds=("needy", "target")), 60, "able to want memory")
        memocd.memoc_text("hold", "able")
        memocd.memoc_text("release", "able")
        able.suspend()
        self.wait_vm("able", lambda vm: vm["state"] == "paused", "to be paused")
        able.resume()
        memocd.memoc_text("set", "--live", "bare", "weight=300")
        memocd.write_config({**CONFIG, "policy": {"name": "mom", "dead_band": "2%"}})
        memocd.reload()
        wait_for(lambda: "configuration reloaded" in memocd.log.read_text(), 20, "the reload")
        time.sleep(6)
        memocd.write_config(dict(CONFIG))
        memocd.reload()
        able.reset()
        self.wait_event("rebooted", "able")
        memocd.memoc_text("drain", "bare")
        self.guests["bare"].destroy()
        self.wait_event("gone", "bare")


def fixture(lab):
    yield Studio(lab)


def spoken(events):
    """What memocd's ring and a replay both say of a decision; the daemon's own notes are of no core."""
    return [(event["vm"], event["event"], event["state"], event["from_bytes"], event["to_bytes"], event["reason"])
            for event in events if event["event"] not in ("link-up", "link-down")]


@limit(300)
def test_same_decisions(studio):
    """A memocd that runs, and that has ended: every decision that it told comes out again, in its order, and no other."""
    studio.much_happens()
    told = spoken(studio.events())
    time.sleep(3)  # what it has told is written within a second or two
    studio.assert_reproduced()  # while it runs
    assert studio.memocd.stop() == 0
    summary, decisions = studio.assert_reproduced()
    assert summary["inputs"] > 100 and summary["effects"] > 50 and summary["inputs_missing"] == 0, summary
    assert summary["notes"] == [], summary
    again = spoken(decisions)
    assert again[:len(told)] == told, next((pair for pair in itertools.zip_longest(told, again) if pair[0] != pair[1]), None)
    kinds = {event["event"] for event in decisions}
    assert {"added", "target", "balloon", "limit", "held", "released", "rebooted", "drained", "gone", "policy"} <= kinds, kinds
    assert all(event["uuid"] for event in decisions if event["vm"]), decisions
    person = studio.memocd.run("replay", str(studio.recording()))
    assert person.returncode == 0 and "all as recorded" in person.stdout, person


@limit(200)
def test_killed(studio):
    """SIGKILL, again and again: what was written is good, the next memocd goes on beside it."""
    for size in (200, 160, 220):
        studio.resize("able", size)
        time.sleep(2.3)
        studio.memocd.kill()
        studio.memocd.start()
        studio.wait_vm("able", lambda vm: vm["state"] != "starting", "to be adopted")
    time.sleep(2.5)
    studio.memocd.kill()
    summary, _ = studio.assert_reproduced()
    assert summary["restarts"] == 3 and summary["segments"] == 4, summary
    assert summary["inputs_missing"] == 0, summary
    assert sum("another run" in note for note in summary["notes"]) == 3, summary


def test_files(studio):
    """Only root reads it; 0 turns it off, while running, and back on."""
    time.sleep(2.5)
    assert studio.recording().stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in studio.recording().iterdir())
    memocd = studio.memocd
    memocd.write_config({**CONFIG, "log": {"record": "0"}})
    memocd.reload()
    wait_for(lambda: "configuration reloaded" in memocd.log.read_text(), 20, "the reload")
    time.sleep(2)
    before = [(path.name, path.stat().st_size) for path in sorted(studio.recording().iterdir())]
    time.sleep(3)
    assert before == [(path.name, path.stat().st_size) for path in sorted(studio.recording().iterdir())]
    memocd.write_config({**CONFIG, "log": {"record": "8M"}})
    memocd.reload()
    wait_for(lambda: len(studio.segments()) == len(before) + 1, 20, "a new segment", show=studio.segments)
    studio.assert_reproduced()


def test_tampered(studio):
    """A recording that was damaged, cut or is of another version: said in one line, no traceback, no partial result."""
    time.sleep(4)
    studio.memocd.stop()
    segment = studio.recording() / studio.segments()[-1]
    good = segment.read_bytes()
    for name, content, said in (("changed", good[:60] + bytes([good[60] ^ 1]) + good[61:], "damaged near byte"),
                                ("other", good[:8] + b"\x63" + good[9:], "another version"),
                                ("foreign", b"#!/bin/sh\n" * 20, "no recording")):
        path = studio.lab.base / name
        path.write_bytes(content)
        done = studio.memocd.run("replay", str(path))
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done
        assert done.stdout == "", done
    path.write_bytes(good[:len(good) * 2 // 3])
    done = studio.memocd.run("replay", str(path))
    assert done.returncode == 0 and "ends within a record" in done.stdout, done
    done = studio.memocd.run("replay", str(studio.lab.base / "nothing"))
    assert done.returncode == 1 and "nothing" in done.stderr, done


class OwnLibvirtd:
    """The stage's, for a second memocd with sockets of its own."""

    def __init__(self, lab, libvirtd):
        self.uri = libvirtd.uri
        self.memoc_socket = lab.base / "full" / "memoc.sock"
        self.memoc_socket.parent.mkdir()


@limit(120)
def test_full_disk(studio):
    """The disk is full: said once, decisions go on; with room again it goes on, and a replay says what is missing."""
    studio.memocd.stop()
    state = studio.lab.base / "small" / "state" / "record"
    script = f"mkdir -p {shlex.quote(str(state))} && mount -t tmpfs -o size=256k tmpfs {shlex.quote(str(state))} && exec \"$@\""
    memocd = Memocd(studio.lab, OwnLibvirtd(studio.lab, studio.libvirtd), CONFIG, name="small",
                    prefix=("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"))
    memocd.start()
    seen = memocd_path(memocd, state)
    wait_for(lambda: list(seen.glob("segment-*")), 20, "a segment")
    try:
        (seen / "filler").write_bytes(bytes(1 << 20))
    except OSError:
        pass

    def refused():
        """Idle guests fill the last page of the file only slowly."""
        for word in ("hold", "release"):
            memocd.memoc_text(word, "able")
        return "cannot be written" in memocd.log.read_text()

    wait_for(refused, 60, "the full disk in the log")
    for size in (150, 190):
        memocd.memoc_text("resize", "able", f"{size}M")
        memocd.wait_vm("able", lambda vm, size=size: abs(vm["balloon_bytes"] - size * MIB) < 8 * MIB, 30, f"its balloon at {size} MiB")
    time.sleep(12)
    assert memocd.log.read_text().count("cannot be written") == 1, memocd.log.read_text()
    (seen / "filler").unlink()
    wait_for(lambda: "is written again" in memocd.log.read_text(), 60, "the end of it in the log")
    time.sleep(2.5)
    summary, _ = studio.assert_reproduced(path=seen)
    assert summary["inputs_missing"] > 0, summary
    memocd.stop()


def memocd_path(memocd, path):
    """As memocd sees it."""
    return pathlib.Path(f"/proc/{memocd.pid}/root{path}")
