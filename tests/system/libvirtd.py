# SPDX-License-Identifier: LGPL-2.1-or-later
"""A libvirtd of the lab's own, in a mount namespace where /run and libvirt's directories are the lab's.

The directories lie under the lab's base, so the socket, the hooks and the logs can be reached from outside. The whole
of /run is private: inside, memoc's default socket /run/memoc/memoc.sock is BASE/NAME/run/memoc/memoc.sock, and so the
hook binary, which libvirtd starts with an empty environment, finds memocd without any wrapper.
"""

import os
import shlex
import shutil
import signal
import uuid

import host
from host import LabError, run, wait_for
from image import cache_dir

QEMU_CONF = """user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
namespaces = [ ]
"""

LIBVIRTD_CONF = """auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
log_filters = "2:daemon.libvirtd 3:util 3:qemu"
host_uuid = "{host_uuid}"
"""

PRIVATE = {"run": "/run", "etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt",
           "log": "/var/log/libvirt"}
# On a host of systemd libvirt asks machined, by D-Bus, for the VMs' groups.
SHARED = ("/run/dbus", "/run/systemd")


class PrivateLibvirtd:
    """hostname: another host, to migrate to (its own UTS namespace and host UUID)."""

    def __init__(self, lab, name="libvirtd", hostname=None):
        self.lab, self.name, self.hostname = lab, name, hostname
        self.base = lab.base / name
        for directory in PRIVATE:
            (self.base / directory).mkdir(parents=True)
        for directory in ("cache/qemu/capabilities", "run/memoc", "run/lock", "etc/hooks/qemu.d", "etc/qemu"):
            (self.base / directory).mkdir(parents=True)
        (self.base / "etc/qemu.conf").write_text(QEMU_CONF, encoding="ascii")
        self.host_uuid = str(uuid.uuid4())
        (self.base / "etc/libvirtd.conf").write_text(LIBVIRTD_CONF.format(host_uuid=self.host_uuid), encoding="ascii")
        self.socket = self.base / "run/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///system?socket={self.socket}"
        self.memoc_socket = self.base / "run/memoc/memoc.sock"
        self.log = self.base / "log/libvirtd.log"
        self.child = None
        self._copy_capabilities(self._capability_cache(), self.base / "cache/qemu/capabilities")
        lab.diagnostics.append((f"{name} log", lambda: host.tail(self.log, 15)))
        lab.libvirtds.append(self)

    # -- what libvirt found out about QEMU: 4 s of probing; libvirt itself checks whether it still holds --

    @staticmethod
    def _capability_cache():
        return cache_dir() / "libvirt-capabilities"

    @staticmethod
    def _copy_capabilities(source, target):
        target.mkdir(parents=True, exist_ok=True)
        for path in source.glob("*.xml"):
            copy = target / path.name
            if not copy.exists() or copy.read_bytes() != path.read_bytes():
                partial = copy.with_name(f".{path.name}.{os.getpid()}")
                shutil.copyfile(path, partial)
                os.rename(partial, copy)

    def save_capabilities(self):
        self._copy_capabilities(self.base / "cache/qemu/capabilities", self._capability_cache())

    # -- the daemon --

    def start(self):
        from lab import Child  # pylint: disable=import-outside-toplevel  # lab imports this module
        if self.running():
            raise LabError(f"{self.name} runs already")
        mounts = "\n".join(f"mount --rbind {shlex.quote(str(own))} {shlex.quote(str(where))}" for own, where in self._mounts())
        hostname = f"hostname {shlex.quote(self.hostname)}" if self.hostname else ":"
        script = f"set -e\nmkdir -p {' '.join(PRIVATE.values())}\n{mounts}\n{hostname}\n" \
                 f"exec libvirtd -p {shlex.quote(str(self.base))}/run/libvirtd.pid -f {shlex.quote(str(self.base))}/etc/libvirtd.conf"
        unshare = ["unshare", "--mount", "--propagation", "private"] + (["--uts"] if self.hostname else [])
        self.child = Child(self.lab, self.name, unshare + ["sh", "-c", script], self.base / "log/stderr.log",
                           env=self._environment())
        self.wait_answering()

    def _mounts(self):
        """[(directory, over what it is mounted)]; what of the host's /run is wanted comes before /run goes out of sight."""
        shared = [where for where in SHARED if os.path.isdir(where)]
        for where in shared:
            (self.base / where.lstrip("/")).mkdir(exist_ok=True)
        return [(where, self.base / where.lstrip("/")) for where in shared] + [(self.base / own, where) for own, where in PRIVATE.items()]

    @staticmethod
    def _environment():
        return {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}

    def wait_answering(self, limit_s=60):
        def answers():
            if not self.child.running():
                return None
            return run(["virsh", "-q", "-c", self.uri, "list"], limit_s=limit_s, check=False).returncode == 0

        wait_for(lambda: answers() or not self.child.running(), limit_s, f"{self.name} to answer at {self.uri}",
                 every_s=0.1, show=lambda: host.tail(self.log, 5))
        if not self.child.running():
            raise LabError(f"{self.name} ended: {host.tail(self.base / 'log/stderr.log', 10)} {host.tail(self.log, 10)}")

    def running(self):
        return self.child is not None and self.child.running()

    def crashed(self):
        """By itself: we end it with SIGTERM and SIGKILL only."""
        return self.child is not None and self.child.popen.poll() in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS)

    @property
    def pid(self):
        return self.child.pid

    def stop(self):
        """SIGTERM; guests go on."""
        self.child.end()

    def kill(self):
        """SIGKILL; guests go on."""
        self.child.kill()

    def restart(self):
        self.stop()
        self.start()

    def signal(self, number):
        self.child.signal(number)

    def reload(self):
        """SIGHUP, and waits until libvirtd says that it has reloaded (it then looks for hooks again)."""
        def reloads():
            return self.log.read_text(encoding="utf-8").count("Reloading configuration on SIGHUP") if self.log.exists() else 0

        before = reloads()
        self.signal(signal.SIGHUP)
        wait_for(lambda: reloads() > before, 20, f"{self.name} to reload")

    # -- hooks --

    def install_hook(self, program, name="50-memoc"):
        """Copies a program into hooks/qemu.d and makes a running libvirtd see it."""
        target = self.base / "etc/hooks/qemu.d" / name
        partial = target.with_name("." + name)  # never half there when libvirt looks
        shutil.copyfile(program, partial)
        os.chmod(partial, 0o755)
        os.rename(partial, target)
        if self.running():
            self.reload()
        return target

    def remove_hook(self, name="50-memoc"):
        (self.base / "etc/hooks/qemu.d" / name).unlink()
        if self.running():
            self.reload()

    # -- virsh --

    def virsh(self, *args, check=True, limit_s=60):
        """Standard output of a virsh command."""
        env = dict(os.environ, LC_ALL="C")
        return run(["virsh", "-q", "-c", self.uri, *args], check=check, limit_s=limit_s, env=env).stdout.strip()

    def domains(self):
        return self.virsh("list", "--all", "--name").split()
