# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's host: a machine in QEMU (software emulation) that boots, runs one script, tells its output, and is gone.

A directory of this machine is its /lab (9p): job, environment and script go in, output, status and journal come out.
The disk is a snapshot: what the host writes is thrown away, unless it is asked to keep it.
"""

import os
import pathlib
import shutil
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "system"), str(HERE.parent / "guest")]

# pylint: disable=wrong-import-position
import host
from guest import clock_words
from lab import Child, LabError

MEMORY_MIB = 4096
CPUS = 2
CMDLINE = "root=/dev/vda rw console=ttyS0 loglevel=4 systemd.show_status=1 panic=-1 mitigations=off tsc=reliable no_timer_check " \
          "nowatchdog rcupdate.rcu_cpu_stall_suppress=1"


class Machine:
    """words: more for the kernel's command line. keep_disk: writes go into the image itself."""

    def __init__(self, lab, kernel, image, script, environment, *, words="apparmor=0", keep_disk=False):
        self.share = lab.base / "share"
        self.share.mkdir(mode=0o755)
        self.lab, self.kernel, self.image, self.words, self.keep_disk = lab, kernel, image, words, keep_disk
        self.console = lab.base / "console"
        shutil.copy(HERE / "inside.sh", self.share / "job")
        shutil.copy(script, self.share / "script")
        os.chmod(self.share / "script", 0o755)
        lines = [f"export {name}='{value}'\n" for name, value in environment.items()]
        (self.share / "environment").write_text("".join(lines), encoding="utf-8")
        self.child = None
        self.shown, self.rest = 0, ""

    def start(self):
        disk = f"file={self.image},format=raw,if=virtio,cache=unsafe,discard=unmap" + ("" if self.keep_disk else ",snapshot=on")
        self.child = Child(self.lab, "the lab's host", [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-machine", "pc", "-smp", CPUS, "-m", MEMORY_MIB, "-nodefaults",
            "-display", "none", "-serial", f"file:{self.console}", "-kernel", self.kernel,
            "-append", f"{CMDLINE}{clock_words()} {self.words}", "-drive", disk, "-device", "virtio-rng-pci",
            "-virtfs", f"local,path={self.share},mount_tag=lab,security_model=none,multidevs=remap"], self.lab.base / "qemu.log")

    def show_output(self, out, last=False):
        """The lines that came since the last time, indented: counts among them are not this machine's own."""
        try:
            with open(self.share / "output", "rb") as output:
                output.seek(self.shown)
                data = output.read()
        except FileNotFoundError:
            return
        self.shown += len(data)
        *lines, self.rest = (self.rest + data.decode("utf-8", "replace")).split("\n")
        if last and self.rest:
            lines.append(self.rest)
        out.writelines(f"  {line}\n" for line in lines)
        out.flush()

    def wait(self, limit_s, out=sys.stdout):
        """Until it has switched itself off; the script's exit status."""
        end = time.monotonic() + limit_s
        while self.child.running() and time.monotonic() < end:
            host.wait_exit(self.child.pid, 0.5)
            self.show_output(out)
        self.show_output(out, last=True)
        if self.child.running():
            raise LabError(f"the lab's host did not come to its end within {limit_s} s; its console: {host.tail(self.console, 40)}")
        try:
            return int((self.share / "status").read_text(encoding="ascii"))
        except (OSError, ValueError):
            raise LabError(f"the lab's host ended without a result; its console: {host.tail(self.console, 60)}; "
                           f"{host.tail(self.lab.base / 'qemu.log', 5)}") from None
