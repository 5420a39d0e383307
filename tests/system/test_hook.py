# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook, run by libvirt itself: what it tells memocd, and that nothing that is wrong with memocd disturbs a VM's start.

In libvirt's hook directory lies a wrapper that runs the real memoc-hook and notes how long it took and how it ended. What
hook and wrapper waited for a processor is told apart by the kernel: so each start is judged, also on a busy machine.
Guests start paused where only the start matters.
"""

import contextlib
import json
import os
import socket
import threading

import host
from host import LabError, wait_for
from lab import EventFollower, Guest, Memocd, PrivateLibvirtd
from memocd import program
from run import limit

DEADLINE_S = 0.2
SLACK_S = 0.1  # to start a process and to see its end
STARTS = 5

WRAPPER = """#!/usr/bin/python3 -ESs
import json, os, subprocess, sys, time
def waited(pid):
    try:
        return int(open(f"/proc/{{pid}}/schedstat").read().split()[1]) / 1e9
    except OSError:  # a kernel that does not tell
        return 0
own, began = waited("self"), time.monotonic()
hook = subprocess.Popen([{hook!r}, *sys.argv[1:]], stderr=subprocess.PIPE)
said = hook.stderr.read().decode("utf-8", "replace")
os.waitid(os.P_PID, hook.pid, os.WEXITED | os.WNOWAIT)
ended = time.monotonic()
idle = waited(hook.pid) + waited("self") - own
status = hook.wait()
note = dict(name=sys.argv[1], operation=sys.argv[2], began=began, ended=ended, seconds=ended - began - idle, waited=idle,
            status=status, said=said)
with open({notes!r}, "a") as notes:
    notes.write(json.dumps(note) + "\\n")
sys.stderr.write(said)
sys.exit(status)
"""

UNREACHABLE = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"


class Bench:
    """libvirtd with the noted hook, one small VM, and memocds that come and go."""

    def __init__(self, lab):
        self.lab = lab
        self.libvirtd = PrivateLibvirtd(lab)
        self.libvirtd.start()
        self.notes_path = lab.base / "hook-notes.jsonl"
        wrapper = lab.base / "hook-wrapper.py"
        wrapper.write_text(WRAPPER.format(hook=str(program("memoc-hook")), notes=str(self.notes_path)), encoding="ascii")
        self.libvirtd.install_hook(wrapper)
        lab.diagnostics.append(("hook notes", lambda: host.tail(self.notes_path, 12)))
        self.guest = Guest(lab, self.libvirtd, "web1", 256, policy={"min": "128M", "weight": "150"})
        self.other = Guest(lab, self.libvirtd, "db1", 256, policy={"min": "256M"})
        self.memocds = []

    def reset(self):
        for memocd in self.memocds:
            if memocd.running():
                memocd.thaw()
                memocd.kill()
        with contextlib.suppress(FileNotFoundError):
            self.libvirtd.memoc_socket.unlink()
        for guest in (self.guest, self.other):
            self.end(guest)

    @staticmethod
    def end(guest):
        """By SIGKILL: libvirt's own way lets QEMU take seconds."""
        if guest.running():
            guest.kill()
            guest.wait_gone()

    @staticmethod
    def redefine(guest, policy):
        """While it is off: another policy in its XML."""
        guest.policy = policy
        guest.define()

    def memocd(self, config=None):
        """A new one, not started."""
        memocd = Memocd(self.lab, self.libvirtd, config or {"host": {"pool": "2G", "reserve": "256M"}},
                        name=f"memocd{len(self.memocds)}")
        self.memocds.append(memocd)
        return memocd

    def notes(self, guest=None):
        """What the hook did, for this guest."""
        if not self.notes_path.exists():
            return []
        notes = [json.loads(line) for line in self.notes_path.read_text(encoding="utf-8").splitlines()]
        return [note for note in notes if guest is None or note["name"] == guest.name]

    def start_paused(self, guest=None):
        """Starts it; the hook's notes of this very start."""
        guest = guest or self.guest
        before = len(self.notes(guest))
        guest.start(paused=True)
        notes = self.notes(guest)[before:]
        assert [note["operation"] for note in notes] == ["prepare", "start", "started"], notes
        return notes

    def assert_starts_undisturbed(self):
        """The VM starts, each hook says nothing and exits 0, and within its deadline, whatever memocd is like."""
        notes = self.start_paused()
        assert self.guest.virsh("domstate") == "paused"
        assert all(note["status"] == 0 and not note["said"] for note in notes), notes
        assert max(note["seconds"] for note in notes) <= DEADLINE_S + SLACK_S, f"the deadline is {DEADLINE_S} s: {notes}"

    def assert_found_by(self, memocd):
        """memocd knows the running VM now, with what its XML says."""
        vm = memocd.wait_vm("web1", lambda vm: vm["resident_bytes"] and vm["weight"] == 150, 20, "to be found, with its XML read")
        assert vm["uuid"] == self.guest.uuid and vm["min_bytes"] == 128 << 20, vm


def fixture(lab):
    yield Bench(lab)


class FakeServer:
    """Listens where memocd should, and does to each connection what it is told to do."""

    def __init__(self, bench, treat):
        self.treat, self.calls, self.open = treat, [], []
        path = str(bench.libvirtd.memoc_socket)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.listener.bind(path)
        self.listener.listen(8)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                link = self.listener.accept()[0]
            except OSError:
                return
            self.open.append(link)
            link.settimeout(5 * host.SLOW)
            with contextlib.suppress(OSError):
                if self.treat is not None:
                    self.treat(link)
                text = b""
                while b"\0" not in text and (piece := link.recv(65536)):
                    text += piece
                if text:
                    self.calls.append(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for link in self.open:
            link.close()
        self.thread.join(10 * host.SLOW)


def reply(text):
    """What sends these bytes as soon as somebody connects: an answer that is there before the question."""
    return lambda link: link.sendall(text)


# ---- a hook that tells ----

def test_known_through_the_hook_alone(bench):
    """memocd cannot reach libvirt at all: still it knows of the VM before `virsh start` returns, and of its end."""
    memocd = bench.memocd()
    memocd.start(wait=False, extra=("--connect", UNREACHABLE))
    wait_for(lambda: memocd.host()["libvirt_connected"] is False, 20, "memocd to answer, without libvirt")
    assert memocd.list() == {}
    follower = EventFollower(memocd)
    notes = bench.start_paused()
    vm = memocd.list().get("web1")
    assert vm, "not known when virsh start had returned"
    assert vm["uuid"] == bench.guest.uuid and vm["max_bytes"] == 256 << 20 and vm["min_bytes"] == 128 << 20, vm
    event = follower.wait(lambda event: event["event"] == "added", 5, "the VM to be added")[1]
    assert event["vm"] == "web1" and all(note["status"] == 0 for note in notes), (event, notes)
    assert not memocd.host()["libvirt_connected"]
    # Announced, it is watched: its process and its cgroup are found without libvirt.
    vm = memocd.wait_vm("web1", lambda vm: vm["resident_bytes"], 20, "its cgroup to be found")
    assert memocd.info("web1")["pid"] == bench.guest.pid
    bench.guest.destroy()
    wait_for(lambda: "web1" not in memocd.list(), 10, "its end to be noticed", show=memocd.list)
    follower.stop()


def test_the_hook_tells_the_whole_policy(bench):
    """Without libvirt: memocd knows each key of a VM's policy by the hook, managed=no and a value to be refused included."""
    first = bench.guest.policy, bench.other.policy
    memocd = bench.memocd()
    memocd.start(wait=False, extra=("--connect", UNREACHABLE))
    wait_for(lambda: memocd.host()["libvirt_connected"] is False, 20, "memocd to answer, without libvirt")
    told = {"min": "64M", "max": "192M", "weight": "150", "balloon": "no", "swap": "no", "managed": "yes"}
    try:
        bench.redefine(bench.guest, told)
        bench.redefine(bench.other, {"managed": "no"})
        for guest in (bench.guest, bench.other):
            bench.start_paused(guest)
        assert {row["key"]: row["value"] for row in memocd.memoc("get", "web1")} == told
        vm = memocd.vm("web1")
        assert vm["eligible"] and vm["min_bytes"] == 64 << 20 and vm["weight"] == 150, vm
        vm = memocd.vm("db1")
        assert vm["state"] == "fixed" and not vm["eligible"] and "managed" in vm["ineligible_reason"], vm
        assert [vm["name"] for vm in memocd.memoc("list")] == ["web1"]
        bench.end(bench.other)
        wait_for(lambda: "db1" not in memocd.list(), 10, "its end to be noticed", show=memocd.list)
        bench.redefine(bench.other, {"weight": "0", "min": "64M"})
        bench.start_paused(bench.other)
        assert 'weight="0"' in memocd.info("db1")["policy_error"], memocd.info("db1")
        assert memocd.vm("db1")["weight"] == 100 and 'db1: policy refused: weight="0"' in host.tail(memocd.log, 40)
    finally:
        for guest, policy in zip((bench.guest, bench.other), first):
            bench.end(guest)
            bench.redefine(guest, policy)


def test_known_within_a_second(bench):
    """With libvirt reachable: each time known to memocd within 1 s of libvirt's first hook, and before its last one ends."""
    memocd = bench.memocd().start()
    follower = EventFollower(memocd)
    for _ in range(STARTS):
        bench.end(bench.guest)
        since = len(follower.events)
        notes = bench.start_paused()
        assert "web1" in memocd.list()
        event = follower.wait(lambda event: event["event"] == "added", 5, "the VM to be added", since)[1]
        known = event["details"]["monotonic_ms"] / 1000  # the same clock, cut to milliseconds
        # memocd answers the hook, then takes the VM up: libvirt is not to wait for more than the answer.
        assert notes[0]["began"] < known + 0.001 and known <= notes[-1]["ended"], f"{known}: not in its start: {notes}"
        assert known - notes[0]["began"] <= 1 * host.SLOW + notes[0]["waited"], (known, notes)
        assert all(note["status"] == 0 and not note["said"] for note in notes), notes
    bench.assert_found_by(memocd)
    follower.stop()


# ---- a memocd that is not well ----

def test_socket_absent(bench):
    """No memocd and no socket: the VM starts undisturbed, and memocd finds it when it comes up."""
    assert not bench.libvirtd.memoc_socket.exists()
    bench.assert_starts_undisturbed()
    bench.assert_found_by(bench.memocd().start())


def test_memocd_killed(bench):
    """memocd was killed and its socket is still there: the VM starts undisturbed, and the next memocd finds it."""
    memocd = bench.memocd().start()
    memocd.kill()
    assert bench.libvirtd.memoc_socket.exists()
    bench.assert_starts_undisturbed()
    memocd.start()
    bench.assert_found_by(memocd)


def test_memocd_frozen(bench):
    """memocd is stopped (SIGSTOP): prepare gives up at its deadline, the VM starts; thawed, memocd knows the VM."""
    memocd = bench.memocd().start()
    memocd.freeze()
    bench.assert_starts_undisturbed()
    prepare = [note for note in bench.notes(bench.guest) if note["operation"] == "prepare"][-1]
    assert prepare["ended"] - prepare["began"] > DEADLINE_S / 2, f"prepare did not wait for an answer: {prepare}"
    memocd.thaw()
    bench.assert_found_by(memocd)


def test_connect_queue_full(bench):
    """The socket's queue is full and nobody accepts: the hook gives up at its deadline, the VM starts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
        listener.bind(str(bench.libvirtd.memoc_socket))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                link = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
                link.setblocking(False)
                link.connect(str(bench.libvirtd.memoc_socket))
        bench.assert_starts_undisturbed()


@limit(240)
def test_garbage_answers(bench):
    """Whatever answers on the socket, short of a whole and valid "no", the VM starts undisturbed."""
    treatments = {
        "closes at once": lambda link: link.close(),
        "silent": None,
        "no JSON": reply(b"HTTP/1.1 400 Bad Request\r\n\r\n\0"),
        "endless": lambda link: [link.sendall(b"x" * 65536) for _ in range(4096)],
        "wrong types": reply(b'{"parameters":{"admitted":0,"missing_bytes":"all","mode":["deny"]}}\0'),
        "an error": reply(b'{"error":"org.memoc.Controller.Failed","parameters":{"admitted":false,"mode":"deny"}}\0'),
        "no, but mode warn": reply(b'{"parameters":{"admitted":false,"missing_bytes":1,"mode":"warn"}}\0'),
    }
    for name, treat in treatments.items():
        try:
            with FakeServer(bench, treat):
                bench.assert_starts_undisturbed()
        except (AssertionError, LabError) as error:
            raise AssertionError(f"{name}: {error}") from None
        bench.end(bench.guest)


def test_definite_no_of_any_server(bench):
    """The counterpart: a valid "no" in mode deny, and only then, refuses the start."""
    no = reply(b'{"parameters":{"admitted":false,"missing_bytes":104857600,"mode":"deny"}}\0')
    with FakeServer(bench, no) as server:
        refused_start(bench, bench.guest, "100")
        assert not bench.guest.running()
        assert any(b"org.memoc.Hook.Notify" in call for call in server.calls), server.calls


def test_libvirtd_restarts_while_memocd_is_frozen(bench):
    """libvirt kills a running VM whose reconnect hook fails: with memocd frozen or gone the VM lives on."""
    memocd = bench.memocd().start()
    bench.start_paused()
    pid = bench.guest.pid
    for trouble in (memocd.freeze, memocd.kill):
        trouble()
        bench.libvirtd.restart()
        reconnects = wait_for(lambda: [note for note in bench.notes(bench.guest) if note["operation"] == "reconnect"], 20,
                              "the reconnect hook")
        assert all(note["status"] == 0 for note in reconnects), reconnects
        assert bench.guest.virsh("domstate") == "paused" and bench.guest.pid == pid and bench.guest.running()
    memocd.start()
    bench.assert_found_by(memocd)


# ---- admission ----

def refused_start(bench, guest, *words):
    """The start must fail, and libvirt hands on why; returns that text."""
    done = host.run(["virsh", "-q", "-c", bench.libvirtd.uri, "start", "--paused", guest.name], check=False,
                    env=dict(os.environ, LC_ALL="C"))
    if done.returncode == 0:
        guest.adopt()
        raise AssertionError(f"{guest.name} was started: {bench.notes(guest)[-3:]}")
    for word in (guest.name, "minimums", "missing", *words):
        assert word in done.stderr, f"{word!r} is not in {done.stderr!r}"
    prepare = [note for note in bench.notes(guest) if note["operation"] == "prepare"][-1]
    assert prepare["status"] == 1 and prepare["said"].count("\n") == 1, prepare
    return done.stderr


def admission(mode, pool="400M"):
    return {"host": {"pool": pool, "reserve": "256M"}, "admission": {"mode": mode}}


def test_admission_denies(bench):
    """deny: a VM whose guaranteed minimum does not fit is not started, libvirt says why; memocd forgets it; less fits."""
    memocd = bench.memocd(admission("deny")).start()
    bench.start_paused(bench.guest)
    bench.other.define()
    refused_start(bench, bench.other, "M")
    assert not bench.other.running() and bench.other.virsh("domstate") == "shut off"
    wait_for(lambda: set(memocd.list()) == {"web1"}, 10, "the refused VM to be forgotten", show=memocd.list)
    assert "db1" in memocd.log.read_text(encoding="utf-8")
    # With a minimum that fits it may start: the refusal was about the minimum, not about the VM.
    bench.other.policy = {"min": "32M"}
    bench.other.define()
    try:
        notes = bench.start_paused(bench.other)
        assert all(note["status"] == 0 for note in notes), notes
    finally:
        bench.other.policy = {"min": "256M"}
        bench.end(bench.other)
        bench.other.define()


def test_admission_warns(bench):
    """warn: the same VM starts, and the log says what is missing. off: it starts, and nothing is said."""
    for mode, told in (("warn", True), ("off", False)):
        memocd = bench.memocd(admission(mode)).start()
        bench.start_paused(bench.guest)
        notes = bench.start_paused(bench.other)
        assert all(note["status"] == 0 and not note["said"] for note in notes), notes
        assert ("minimums" in memocd.log.read_text(encoding="utf-8")) == told, host.tail(memocd.log, 10)
        bench.reset()


def test_admission_without_memocd(bench):
    """A memocd in mode deny that is frozen admits: no answer is no refusal."""
    memocd = bench.memocd(admission("deny")).start()
    bench.start_paused(bench.guest)
    memocd.freeze()
    notes = bench.start_paused(bench.other)
    assert all(note["status"] == 0 for note in notes), notes
