# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's host as a user has it: its own libvirtd and memoc's package, both under systemd, and two guests that start with it.

Nothing here is undone: the host's disk is thrown away. What one module of tests leaves, the next finds, also after a reboot.
"""

import hashlib
import json
import os
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "system"), str(HERE.parent / "guest")]

# pylint: disable=wrong-import-position
import host
from host import MIB, LabError, add_zram, run, swaps, wait_for
from lab import Guest, Lab
from memocd import Memocd, config_text

HOOKS = pathlib.Path("/etc/libvirt/hooks")
DEB = pathlib.Path("/lab/memoc.deb")
BAD_CONFIG = pathlib.Path("/etc/memoc/memoc.conf.d/90-bad.conf")
BASE = pathlib.Path("/var/lib/memoc-lab/site")
MEMORY_MIB = 160
PACE_S = 4  # a guest's workload goes through its working set once in this time
REST_S = 5  # a limit that has not moved for so long has followed what it follows
# The dwell is short because guests here boot slowly enough; the rest is a user's default.
CONFIG = {"host": {"reserve": "256M"}, "policy": {"dwell": "1s"}}
# An administrator's own hooks. They tell what they were called with; libvirt gives them no environment worth the name.
FOREIGN = {HOOKS / "qemu": "main", HOOKS / "qemu.d/10-site": "site", HOOKS / "qemu.d/90-other": "other"}
FOREIGN_LOG = pathlib.Path("/var/log/foreign-hooks")


def systemctl(*args, check=True):
    return run(["systemctl", *args], check=check).stdout.strip()


def unit(name, key):
    return systemctl("show", "--value", "-p", key, name)


def journal(*args):
    """Entries as dictionaries, oldest first."""
    run(["journalctl", "--sync"], check=False)
    return [json.loads(line) for line in run(["journalctl", "-q", "-o", "json", *args], limit_s=120).stdout.splitlines()]


def installed():
    return run(["dpkg-query", "-W", "-f", "${db:Status-Status}", "memoc"], check=False).stdout == "installed"


class SystemLibvirtd:
    """What the parts of tests/system want to know of a libvirtd; this one is systemd's."""

    name, uri, base = "libvirtd", "qemu:///system", pathlib.Path("/")
    memoc_socket = pathlib.Path("/run/memoc/memoc.sock")

    @property
    def pid(self):
        return int(unit("libvirtd.service", "MainPID"))

    def running(self):
        return self.pid != 0

    def save_capabilities(self):
        """Its cache is the host's own."""

    def virsh(self, *args, check=True, limit_s=60):
        return run(["virsh", "-q", "-c", self.uri, *args], check=check, limit_s=limit_s).stdout.strip()

    def domains(self):
        return self.virsh("list", "--all", "--name").split()


class InstalledMemocd(Memocd):
    """memocd as the package installed it."""

    def __init__(self, site):  # pylint: disable=super-init-not-called  # nothing of a lab's memocd is made
        self.lab, self.libvirtd, self.name = site, site.libvirtd, "memocd"
        self.socket = site.libvirtd.memoc_socket
        self.state_dir, self.run_dir = pathlib.Path("/var/lib/memoc"), self.socket.parent
        self.config_path, self.config = pathlib.Path("/etc/memoc/memoc.conf.d/50-lab.conf"), CONFIG
        site.diagnostics.append(("journal of memocd", lambda: run(["journalctl", "-q", "-n", "40", "-u", "memocd"]).stdout))
        site.diagnostics.append(("memoc list", lambda: self.memoc_text("list", "--all", check=False)))

    @property
    def pid(self):
        return int(unit("memocd.service", "MainPID"))

    def running(self):
        return unit("memocd.service", "ActiveState") == "active"

    def start(self, wait=True, extra=()):
        systemctl("start", "memocd.service")
        self.wait_answering()
        return self

    def stop(self):
        systemctl("stop", "memocd.service")

    def reload(self):
        systemctl("reload", "memocd.service")

    def kill(self):
        systemctl("kill", "--signal=KILL", "memocd.service")

    def wait_answering(self, limit_s=20):
        wait_for(lambda: self.running() and self.host()["libvirt_connected"], limit_s, "memocd to answer",
                 show=lambda: systemctl("status", "--no-pager", "-n", "5", "memocd.service", check=False))


class Site(Lab):
    """The host with its guests; memocd is there when the package is installed. One object a module of tests."""

    NAMES = ("web", "db")

    def __init__(self, lab):  # pylint: disable=super-init-not-called  # nothing is recorded to be undone
        self.base, self.undo, self.diagnostics, self._image = BASE, [], lab.diagnostics, None
        self.base.mkdir(parents=True, exist_ok=True)
        os.environ["MEMOC_BUILD"] = "/usr/bin"  # the memoc that was installed
        self.partition = host.Partition("unused")
        self.libvirtd = SystemLibvirtd()
        self.guests = {}
        self.memocd = InstalledMemocd(self)
        if not swaps():
            device = add_zram(1024)
            run(["mkswap", device])
            run(["swapon", device])
        lab.diagnostics.append(("units", lambda: systemctl("--failed", "--no-pager", check=False)))
        lab.defer("the lines to the guests", self.close_lines)

    def close_lines(self):
        """Each line takes one at a time: the next module is to have it."""
        for guest in self.guests.values():
            guest.line.close()

    def record(self, **entry):
        """Nothing is undone here."""

    def diagnose(self):
        return ""

    # -- guests --

    def guest(self, name, memory_mib=MEMORY_MIB, **kinds):
        """Known to libvirt, autostarted, running and ready; whoever started it."""
        guest = Guest(self, self.libvirtd, name, memory_mib, **kinds)
        if name in self.libvirtd.domains():
            guest.uuid, guest.defined = self.libvirtd.virsh("domuuid", name), True
        else:
            guest.define()
            guest.virsh("autostart")
        if guest.virsh("domstate") == "running":
            guest.adopt()
        else:
            guest.start()
        self.guests[name] = guest
        return guest

    def remove(self, guest):
        """It was for one test."""
        guest.destroy()
        guest.undefine()
        guest.line.close()
        del self.guests[guest.name]

    def start_guests(self):
        for name in self.NAMES:
            self.guest(name)
        for guest in self.guests.values():
            guest.wait_ready()
        return self

    def work(self):
        """A working set in each guest, gone through every few seconds: without a pause they would take all the time that there is."""
        for guest in self.guests.values():
            guest.cmd(f"pace {1000 * PACE_S}")
            guest.job("use 40")

    # -- the package --

    @staticmethod
    def apt(*args):
        return run(["apt-get", "-y", "-q", *args], limit_s=120, env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))

    def install(self, deb=DEB):
        self.apt("install", str(deb))

    def ready(self):
        """Installed, configured for tests, guests up and managed."""
        if not installed():
            self.install()
        self.start_guests()
        text = config_text(CONFIG)
        path = self.memocd.config_path
        if not path.exists() or path.read_text(encoding="ascii") != text:
            path.write_text(text, encoding="ascii")
            systemctl("restart", "memocd.service")
        self.memocd.wait_answering()
        self.wait_managed()
        return self

    def wait_managed(self, *names, limit_s=60):
        """memocd serves them: steady, with statistics of the guest."""
        for name in names or self.guests:
            self.memocd.wait_vm(name, lambda vm: vm["state"] == "steady" and vm["usable_bytes"] is not None, limit_s, "to be managed")

    def limit_all(self, size_mib=112):
        """Pins every guest to a size that takes balloon and limit; {name: limit in bytes} by the kernel, once they rest: a limit
        follows what QEMU itself needs, which is known some looks later."""
        for name in self.guests:
            self.memocd.memoc_text("resize", name, f"{size_mib}M")
        for name in self.guests:
            self.memocd.wait_vm(name, lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is not None
                                and abs(vm["target_bytes"] - size_mib * MIB) < 2 * MIB, 60, "limited")
        rest = [self.limits(), time.monotonic()]

        def resting():
            now = self.limits()
            if now != rest[0]:
                rest[:] = now, time.monotonic()
            return time.monotonic() - rest[1] >= REST_S
        wait_for(resting, 60, "limits to rest", show=self.limits)
        return rest[0]

    def limits(self):
        return {name: guest.cgroup().limit() for name, guest in self.guests.items()}

    def check(self):
        """After every test: nobody was killed for want of memory, on the host or in a guest."""
        self.assert_unharmed()
        for name, guest in self.guests.items():
            assert guest.report()["oom_kills"] == 0, f"{name}: killed something inside"

    def assert_unharmed(self):
        """The QEMUs of before, no OOM kill in any of their groups, and nobody has touched memory.max."""
        for name, guest in self.guests.items():
            assert guest.running() and guest.pid == guest.known_pid, f"{name}: its QEMU is not the one of before"
            for group in (guest.cgroup().path, guest.cgroup().path.parent):
                events = dict(line.split() for line in (group / "memory.events").read_text(encoding="ascii").splitlines())
                assert events["oom"] == events["oom_kill"] == "0", f"{name}: {group}: {events}"
                assert (group / "memory.max").read_text(encoding="ascii").strip() == "max", f"{name}: {group}: memory.max was set"


# ---- what is the administrator's ----

def plant_foreign_hooks():
    """Hooks that were there before memoc, unless they are; returns what they look like."""
    (HOOKS / "qemu.d").mkdir(parents=True, exist_ok=True)
    for path, word in FOREIGN.items():
        if path.exists():
            continue
        path.write_text(f'#!/bin/sh\necho "{word} $1 $2 $3" >>{FOREIGN_LOG}\nexit 0\n', encoding="ascii")
        path.chmod(0o755)
    return foreign_hooks()


def foreign_hooks():
    """{path: (content, mode, owner, times)}; the access time is not looked at."""
    found = {}
    for path in FOREIGN:
        stat = path.stat()
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = (content, stat.st_mode, stat.st_uid, stat.st_mtime_ns, stat.st_ctime_ns)
    return found


def main():
    """Everything installed and running, for tests after the next boot."""
    with Lab() as lab:
        Site(lab).ready()


__all__ = ["CONFIG", "DEB", "FOREIGN_LOG", "HOOKS", "LabError", "MIB", "Site", "foreign_hooks", "host", "installed", "journal", "plant_foreign_hooks",
           "run", "systemctl", "time", "unit", "wait_for"]

if __name__ == "__main__":
    main()
