# SPDX-License-Identifier: LGPL-2.1-or-later
"""memocd as a service: socket activation, readiness and watchdog, reload, floods of clients. Real memocd; libvirt is its own built-in
test driver here, because no VM is wanted, and systemd is played by the test (it speaks the two protocols itself)."""

import os
import pathlib
import signal
import socket
import subprocess
import time

import host
from host import wait_for
from lab import Memocd
from memocd import program


class NoLibvirt:
    """What Memocd wants to know of a libvirtd."""

    def __init__(self, lab):
        self.uri = "test:///default"
        self.memoc_socket = lab.base / "run" / "memoc.sock"
        self.memoc_socket.parent.mkdir()


FAULTS = pathlib.Path(__file__).resolve().parent / "libvirt_faults.c"


def with_fault(service, fault):
    """memocd with libvirt_faults.c preloaded, running."""
    library = service.lab.base / "libvirt_faults.so"
    if not library.exists():
        host.run([*os.environ.get("CC", "cc").split(), "-shared", "-fPIC", "-Wall", "-Werror", "-D_GNU_SOURCE", "-o", library, FAULTS])
    memocd = service.memocd
    memocd.prefix = ["env", f"LD_PRELOAD={library}", f"MEMOC_FAULT={fault}"]
    try:
        return memocd.start()
    finally:
        memocd.prefix = []


class Service:
    def __init__(self, lab):
        self.lab = lab
        self.memocd = Memocd(lab, NoLibvirt(lab), {"host": {"pool": "1G"}})

    def reset(self):
        if self.memocd.running():
            self.memocd.stop()
        self.memocd.write_config({"host": {"pool": "1G"}})


def fixture(lab):
    yield Service(lab)


def backlog(path):
    """How many have connected to the listening socket and were not accepted yet."""
    found = host.run(["ss", "-xlnH", "src", str(path)]).stdout.split()
    return int(found[2])


def spawn(service, environment, listen=None):
    """memocd with systemd's variables; `listen` becomes descriptor 3, as systemd passes it."""
    memocd = service.memocd
    memocd.state_dir.mkdir(exist_ok=True)
    memocd.write_config()
    words = [str(program("memocd")), "--config", str(memocd.config_path), "--connect", memocd.libvirtd.uri, "--socket",
             str(memocd.socket), "--state-dir", str(memocd.state_dir), "--run-dir", str(memocd.run_dir), "--log", "stderr"]

    def place():
        if listen is not None:
            os.dup2(listen.fileno(), 3)

    with open(memocd.log, "ab") as log:
        popen = subprocess.Popen(["/bin/sh", "-c", 'LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$@"', "sh", *words], stdin=subprocess.DEVNULL,
                                 stdout=log, stderr=log, env=dict(os.environ, **environment), preexec_fn=place,
                                 pass_fds=(3,) if listen is not None else (), start_new_session=True)
    service.lab.record_process(popen.pid, "memocd")
    service.lab.defer("memocd under a played systemd", lambda: (popen.kill(), popen.wait()))
    return popen


def test_socket_activation(service):
    """A blocking socket, as systemd passes it, is served; it stays when memocd goes, and the next memocd serves it again."""
    path = service.memocd.socket
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)
        for _ in range(2):
            popen = spawn(service, {"LISTEN_FDS": "1"}, listener)
            for _ in range(3):
                assert service.memocd.host()["pool_bytes"] == 1 << 30
            popen.send_signal(signal.SIGTERM)
            wait_for(lambda popen=popen: popen.poll() is not None, 20, "memocd to end")
            assert popen.returncode == 0, popen.returncode
            assert path.exists()
    path.unlink()


def test_activated_with_a_bad_configuration(service):
    """It fails with status 6 and says why to those who wait at its socket, who would have it started again and again otherwise."""
    memocd = service.memocd
    memocd.config = {"policy": {"dead_band": "often"}}
    memocd.socket.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as silent:
        listener.bind(str(memocd.socket))
        listener.listen(16)
        silent.connect(str(memocd.socket))
        asking = subprocess.Popen([program("memoc"), "host"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  env=memocd.environment())
        service.lab.record_process(asking.pid, "memoc host")
        wait_for(lambda: backlog(memocd.socket) == 2, 20, "both to wait at the socket")
        popen = spawn(service, {"LISTEN_FDS": "1"}, listener)
        assert popen.wait(20 * host.SLOW) == 6
        said = asking.communicate(timeout=20 * host.SLOW)[1]
        assert asking.returncode == 1 and f"{memocd.config_path}:2" in said and "often" in said, said
        assert b"org.memoc.Controller.Failed" in silent.recv(4096)
        assert backlog(memocd.socket) == 0
    memocd.socket.unlink()
    memocd.config = {"host": {"pool": "1G"}}


def falls_silent(notify):
    """What was under way may still come."""
    notify.settimeout(1.5)
    try:
        for _ in range(4):
            notify.recv(4096)
    except TimeoutError:
        return True
    finally:
        notify.settimeout(20 * host.SLOW)
    return False


def test_ready_and_watchdog(service):
    """READY=1 once it answers, WATCHDOG=1 again and again while it turns and a worker answers, none while it is frozen or only turns,
    STOPPING=1 at the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind("\0memoc-test-notify-%d" % os.getpid())
        notify.settimeout(20 * host.SLOW)
        popen = spawn(service, {"NOTIFY_SOCKET": "@memoc-test-notify-%d" % os.getpid(), "WATCHDOG_USEC": "400000"})
        said = [notify.recv(4096)]
        assert b"READY=1" in said[0], said
        assert service.memocd.host()["vms"] >= 0
        for _ in range(3):
            assert b"WATCHDOG=1" in notify.recv(4096)
        popen.send_signal(signal.SIGSTOP)
        assert falls_silent(notify), "a frozen memocd pets its watchdog"
        popen.send_signal(signal.SIGCONT)
        assert b"WATCHDOG=1" in notify.recv(4096)
        with host.Stopped(host.thread_of(popen.pid, "house")):
            assert falls_silent(notify), "it pets its watchdog, and no worker answers"
            assert service.memocd.host()["vms"] >= 0  # its loop turns
        assert b"WATCHDOG=1" in notify.recv(4096)
        popen.send_signal(signal.SIGTERM)
        while b"STOPPING=1" not in notify.recv(4096):
            pass
        assert popen.wait(20 * host.SLOW) == 0


def test_reload_is_all_or_nothing(service):
    """SIGHUP with a bad file: refused with file, line and reason, what runs stays; with a good one: taken over."""
    memocd = service.memocd.start()
    before = len(memocd.log.read_text())
    memocd.write_config({"host": {"pool": "2G"}, "policy": {"dead_band": "often"}})
    memocd.reload()
    wait_for(lambda: "dead_band" in memocd.log.read_text()[before:], 20, "the refusal in the log")
    line = next(line for line in memocd.log.read_text()[before:].splitlines() if "dead_band" in line)
    assert f"{memocd.config_path}:4" in line and "often" in line, line
    assert memocd.host()["pool_bytes"] == 1 << 30
    memocd.write_config({"host": {"pool": "2G"}})
    memocd.reload()
    wait_for(lambda: memocd.host()["pool_bytes"] == 2 << 30, 20, "the new pool")
    memocd.stop()


def test_bad_configuration_at_start(service):
    """It does not start, says file, line, key, value and the accepted form, and leaves no socket."""
    memocd = service.memocd
    memocd.write_config({"host": {"pool": "lots"}})
    done = host.run([program("memocd"), "--config", memocd.config_path, "--connect", memocd.libvirtd.uri, "--socket", memocd.socket,
                     "--state-dir", memocd.state_dir, "--run-dir", memocd.run_dir], check=False)
    assert done.returncode == 6 and f"{memocd.config_path}:2" in done.stderr and "lots" in done.stderr, done.stderr
    assert not memocd.socket.exists()


def test_one_memocd_per_state(service):
    """A second one refuses to fight over the same VMs and the first goes on."""
    memocd = service.memocd.start()
    done = host.run([program("memocd"), "--config", memocd.config_path, "--connect", memocd.libvirtd.uri, "--socket",
                     service.lab.base / "other.sock", "--state-dir", memocd.state_dir, "--run-dir", memocd.run_dir], check=False)
    assert done.returncode == 1 and "another memocd" in done.stderr, done.stderr
    assert memocd.host()["pool_bytes"] == 1 << 30
    memocd.stop()


def test_flood_of_clients(service):
    """More idle connections than it takes: the newest are dropped and said so, those before are served, and so is the next once they go."""
    memocd = service.memocd.start()
    first = socket.socket(socket.AF_UNIX)
    first.connect(str(memocd.socket))
    flood = []
    for _ in range(80):
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(memocd.socket))
        flood.append(link)
    wait_for(lambda: "too many connections" in memocd.log.read_text(), 20, "the refusal in the log")
    first.sendall(b'{"method":"org.varlink.service.GetInfo"}\0')
    first.settimeout(20 * host.SLOW)
    assert b"memocd" in first.recv(65536)
    for link in flood:
        link.close()
    first.close()
    wait_for(lambda: memocd.run("host").returncode == 0, 20, "the next client to be served")
    memocd.stop()


def test_failed_calls_are_made_again(service):
    """A list, an XML or a connection that libvirt refuses once, while its events still come: the VM is known soon after all the same."""
    for fault in ("list", "xml", "open"):
        memocd = with_fault(service, fault)
        memocd.wait_vm("test", lambda vm: vm["max_bytes"], 60, f"known in spite of a failed call ({fault})")
        assert "tried again" in memocd.log.read_text() or fault == "open", f"{fault}: the failure is not in the log"
        memocd.stop()


def test_pause_during_a_look(service):
    """Paused while memocd reads its XML, new to the core or known to it: it is paused, whatever that look still saw."""
    for call in (1, 2):
        memocd = with_fault(service, f"pause:{call}")
        memocd.wait_vm("test", lambda vm: vm["max_bytes"], 60, "known")
        if call == 2:
            memocd.memoc_text("set", "test", "weight=200", "--live")  # looked at again
        memocd.wait_vm("test", lambda vm: vm["state"] == "paused", 60, "paused")
        time.sleep(3)  # the span in which the late look comes back, and longer: not a wait
        assert memocd.vm("test")["state"] == "paused", memocd.events()
        memocd.stop()
