# SPDX-License-Identifier: LGPL-2.1-or-later
"""memocd as the lab runs it, and the memoc command against it."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import host
from host import LabError, run, wait_for

TREE = pathlib.Path(__file__).resolve().parent.parent.parent


def build_dir():
    return pathlib.Path(os.environ.get("MEMOC_BUILD", TREE / "build")).resolve()


def program(name):
    path = build_dir() / name
    if not path.exists():
        raise LabError(f"{path} is not built: run make, or set MEMOC_BUILD")
    return path


def check_program(directory, name, rooms=("host",)):
    """Compiles NAME.c of this directory against the archives of these rooms of controller/; the program's path, in `directory`."""
    archives = [*(program(f"libcontroller-{room}.a") for room in rooms), program("libcommon.a")]
    made = pathlib.Path(directory) / name
    run([os.environ.get("CC", "gcc"), "-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-D_GNU_SOURCE",
         f"-I{TREE}", "-o", made, TREE / f"tests/system/{name}.c", *archives, "-Wl,--as-needed", "-lcgroup", "-lpthread", "-lm"], limit_s=120)
    return made


def config_text(sections):
    """{"host": {"pool": "1G"}} as an INI file."""
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {value}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


class Memocd:
    """config: sections of settings. The socket lies where the libvirtd's hooks look for it by default.

    prefix: a command that runs memocd in its place (exec), in a namespace of its own for instance.
    """

    def __init__(self, lab, libvirtd, config=None, name="memocd", args=(), prefix=()):
        self.lab, self.libvirtd, self.name, self.args, self.prefix = lab, libvirtd, name, list(args), list(prefix)
        self.base = lab.base / name
        self.base.mkdir()
        self.config = config or {}
        self.config_path = self.base / "memoc.conf"
        self.state_dir = self.base / "state"
        self.run_dir = libvirtd.memoc_socket.parent
        self.socket = libvirtd.memoc_socket
        self.log = self.base / "memocd.log"
        self.child = None
        lab.diagnostics.append((f"{name} log", lambda: host.tail(self.log, 40)))
        lab.diagnostics.append((f"{name} list", lambda: self.memoc_text("list", "--all", check=False)))
        lab.diagnostics.append((f"{name} events", lambda: "\n".join(
            self.memoc_text("events", check=False).splitlines()[-40:])))

    def start(self, wait=True, extra=()):
        from lab import Child  # pylint: disable=import-outside-toplevel  # lab imports this module
        if self.running():
            raise LabError(f"{self.name} runs already")
        self.state_dir.mkdir(exist_ok=True)
        self.write_config()
        self.child = Child(self.lab, self.name, [
            *self.prefix, program("memocd"), "--config", self.config_path, "--connect", self.libvirtd.uri, "--socket", self.socket,
            "--state-dir", self.state_dir, "--run-dir", self.run_dir, "--log", "stderr", *self.args, *extra], self.log)
        if wait:
            self.wait_answering()
        return self

    def write_config(self, config=None):
        """For a running memocd follow with reload()."""
        if config is not None:
            self.config = config
        self.config_path.write_text(config_text(self.config), encoding="ascii")

    def running(self):
        return self.child is not None and self.child.running()

    @property
    def pid(self):
        return self.child.pid

    def wait_answering(self, limit_s=20):
        """It answers on its socket and is connected to libvirt."""
        def connected():
            if not self.running():
                raise LabError(f"{self.name} ended with status {self.child.popen.poll()}: {host.tail(self.log, 5)}")
            return self.host()["libvirt_connected"]

        wait_for(connected, limit_s, f"{self.name} to answer")

    def stop(self):
        """SIGTERM; the exit status."""
        return self.child.end()

    def kill(self):
        self.child.kill()

    def restart(self):
        self.stop()
        self.start()

    def signal(self, number):
        self.child.signal(number)

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def reload(self):
        self.signal(signal.SIGHUP)

    # -- the memoc command --

    def environment(self):
        return dict(os.environ, MEMOC_SOCKET=str(self.socket), LC_ALL="C.UTF-8")

    def run(self, *args, limit_s=20):
        """The finished process, whatever its exit status."""
        return run([program("memoc"), *args], limit_s=limit_s, check=False, env=self.environment())

    def memoc_text(self, *args, check=True, limit_s=20):
        """What a person sees."""
        done = self.run(*args, limit_s=limit_s)
        if check and done.returncode != 0:
            raise LabError(f"memoc {' '.join(args)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def memoc(self, *args, limit_s=20):
        """`memoc --json ARGS`, parsed."""
        text = self.memoc_text("--json", *args, limit_s=limit_s)
        try:
            return json.loads(text)
        except ValueError as error:
            raise LabError(f"memoc --json {' '.join(args)}: not JSON ({error}): {text[:300]!r}") from None

    def host(self):
        return self.memoc("host")

    def list(self):
        """{name: object} of all VMs that are not off."""
        return {vm["name"]: vm for vm in self.memoc("list", "--all") if vm["state"] != "off"}

    def vm(self, name):
        return self.list()[name]

    def info(self, name):
        return self.memoc("info", name)

    def events(self, *args):
        return [json.loads(line) for line in self.memoc_text("--json", "events", *args).splitlines() if line.strip()]

    def wait_vm(self, name, predicate, limit_s, what):
        """Until predicate(vm) is true of `memoc list`'s object for this VM, which is then returned."""
        def holds():
            vm = self.list().get(name)
            return vm if vm is not None and predicate(vm) else None

        return wait_for(holds, limit_s, f"{name}: {what}", every_s=0.1, show=lambda: self.list().get(name))


class Link:
    """Questions over one open connection: a process for each look would disturb what is measured. One thread only."""

    def __init__(self, memocd):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20 * host.SLOW)
        self.socket.connect(str(memocd.socket))

    def call(self, method, **parameters):
        """The reply's parameters as they are on the wire."""
        message = {"method": f"org.memoc.Controller.{method}", "parameters": parameters}
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\0")
            answer = b""
            while not answer.endswith(b"\0"):
                part = self.socket.recv(65536)
                if not part:
                    raise LabError(f"{method}: memocd closed the connection")
                answer += part
        except OSError as error:
            raise LabError(f"{method}: {error}") from None
        reply = json.loads(answer[:-1])
        if "error" in reply:
            raise LabError(f"{method}: {reply}")
        return reply["parameters"]

    def list(self):
        return {vm["name"]: vm for vm in self.call("List")["vms"]}

    def close(self):
        self.socket.close()


class EventFollower:
    """`memoc --json events --follow`, each line with the host time of its arrival."""

    def __init__(self, memocd):
        self.events = []  # (time.monotonic(), event)
        self.changed = threading.Condition()
        self.popen = subprocess.Popen([program("memoc"), "--json", "events", "--follow"], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, env=memocd.environment(), start_new_session=True)
        memocd.lab.record_process(self.popen.pid, "memoc events --follow")
        self.entry = memocd.lab.defer("event follower", self.stop)
        self.lab = memocd.lab
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.popen.stdout:
            with self.changed:
                self.events.append((time.monotonic(), json.loads(line)))
                self.changed.notify_all()

    def wait(self, matches, limit_s, what, since=0):
        """(host time, event) of the first event from index `since` on that matches."""
        def find():
            return next((pair for pair in self.events[since:] if matches(pair[1])), None)

        with self.changed:
            if not self.changed.wait_for(find, limit_s * host.SLOW):
                raise LabError(f"{what}: no such event within {limit_s * host.SLOW:g} s; "
                               f"last: {[event for _, event in self.events[-5:]]}")
            return find()

    def stop(self):
        self.lab.forget(self.entry)
        self.popen.kill()
        self.popen.wait()
        self.thread.join(5)
        self.popen.stdout.close()
