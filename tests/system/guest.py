# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real guest: its domain XML, its life through libvirt, and the line to the workload inside it."""

import collections
import functools
import json
import os
import re
import signal
import socket
import threading
import time
import uuid as uuid_module
from xml.sax.saxutils import quoteattr

import host
from host import MIB, LabError, MemoryCgroup, process_start, wait_for

POLICY_NS = "https://memoc.org/xmlns/policy/1.0"
# No lockup warnings and a trusted clock: under load a software-emulated guest is late, not broken.
CMDLINE = "console=ttyS0 loglevel=5 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 tsc=reliable no_timer_check mitigations=off"


def accelerator():
    """"qemu" (software emulation) unless MEMOC_LAB_ACCEL=kvm: Debian's kernel does not boot under every machine's KVM."""
    wanted = os.environ.get("MEMOC_LAB_ACCEL", "tcg")
    if wanted not in ("tcg", "kvm"):
        raise LabError(f"MEMOC_LAB_ACCEL={wanted}: tcg or kvm")
    return "kvm" if wanted == "kvm" else "qemu"


@functools.cache
def clock_words():
    """The processor's clock rate as this host's kernel found it. A guest that has to measure it while the host is busy gets
    it wrong by a factor, and then its time-outs run out while its devices start."""
    if accelerator() == "kvm":
        return ""
    log = host.run(["dmesg"], check=False).stdout
    found = re.findall(r"tsc: (?:Refined TSC clocksource calibration:|Detected) ([\d.]+) MHz", log)
    return f" tsc_early_khz={int(float(found[-1]) * 1000)}" if found else ""


def pluggable_xml(memory_mib, most_mib=1024, slots=4):
    """`extra_xml` of a guest that memory can be plugged into: libvirt wants slots and a NUMA cell."""
    return f"<maxMemory slots='{slots}' unit='MiB'>{most_mib}</maxMemory>" \
           f"<cpu><numa><cell id='0' cpus='0' memory='{memory_mib}' unit='MiB'/></numa></cpu>"


ASKS_ONLY = ("report", "meminfo", "ping")  # commands that change nothing

Event = collections.namedtuple("Event", "at data")  # at: time.monotonic() of the host


class Line:
    """The serial line to the workload. A thread reads it all the time, so that the guest never blocks on writing."""

    def __init__(self, path):
        self.path = path
        self.changed = threading.Condition()
        self.replies = {}
        self.waiting = set()
        self.events = []
        self.next_id = 1
        self.socket = None

    def connect(self):
        """Harmless when connected already."""
        if self.socket:
            return
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            link.connect(str(self.path))
        except OSError as error:
            link.close()
            raise LabError(f"{self.path}: {error}") from None
        self.socket = link
        threading.Thread(target=self._read, args=(link,), daemon=True).start()

    def _read(self, link):
        with link, link.makefile("rb") as lines:
            try:
                for raw in lines:
                    self._take(raw.decode("utf-8", "replace").strip())
            except OSError:
                pass
        with self.changed:
            if self.socket is link:
                self.socket = None
            self.changed.notify_all()

    def _take(self, line):
        at = time.monotonic()
        tag, _, text = line.partition(" ")
        try:
            data = json.loads(text)
        except ValueError:  # noise from the firmware or the kernel's opening of the line
            return
        with self.changed:
            if tag == "!":
                self.events.append(Event(at, data))
            elif tag in self.waiting:
                self.replies[tag] = data
            self.changed.notify_all()

    def close(self):
        link, self.socket = self.socket, None
        if link:
            try:
                link.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def ask(self, command, limit_s):
        """The workload's answer to one command."""
        self.connect()
        with self.changed:
            tag = str(self.next_id)
            self.next_id += 1
            self.waiting.add(tag)
        try:
            end = time.monotonic() + limit_s * host.SLOW
            # A byte may be lost while the line moves from one QEMU to another: what only asks is asked again.
            again_s = 3 if command in ASKS_ONLY else limit_s * host.SLOW
            while not self._sent_and_answered(tag, command, min(again_s, max(0, end - time.monotonic()))):
                if time.monotonic() >= end:
                    raise LabError(f"workload: no answer to {command!r} within {limit_s * host.SLOW:g} s")
            with self.changed:
                if tag not in self.replies:
                    raise LabError(f"workload: the line broke before the answer to {command!r}")
                return self.replies[tag]
        except (OSError, AttributeError) as error:
            raise LabError(f"workload: {command!r}: {error}") from None
        finally:
            with self.changed:
                self.waiting.discard(tag)
                self.replies.pop(tag, None)

    def _sent_and_answered(self, tag, command, patience_s):
        self.socket.sendall(f"\n{tag} {command}\n".encode())
        with self.changed:
            return self.changed.wait_for(lambda: tag in self.replies or not self.socket, patience_s)

    def wait_event(self, matches, limit_s, what, since=0):
        """The first event from index `since` on that matches(data)."""
        def find():
            return next((event for event in self.events[since:] if matches(event.data)), None)

        with self.changed:
            if not self.changed.wait_for(find, limit_s * host.SLOW):
                raise LabError(f"{what}: no such event within {limit_s * host.SLOW:g} s; last: {self.events[-3:]}")
            return find()


class Guest:
    """One VM. `driver=False` boots without the balloon driver, `driver="silent"` with one that never answers for statistics,
    `driver="lying"` with one that always says that nothing is usable; `balloon=False` gives it no balloon device at all.

    policy: attributes of memoc's policy element in the domain's metadata; None leaves the element out.
    stats_period: whole seconds, None leaves it off. swap_mib: swap inside the guest (without any, a squeezed guest's
    kernel kills the workload). fill: all memory is touched once while booting, so that it is resident on the host.
    """

    def __init__(self, lab, libvirtd, name, memory_mib=384, *, balloon=True, driver=True, free_page_reporting=True,
                 stats_period=1, memfd=False, swap_mib=64, fill=False, policy=None, extra_devices="", extra_xml=""):
        self.lab, self.libvirtd, self.name, self.memory_mib = lab, libvirtd, name, memory_mib
        self.balloon, self.driver, self.free_page_reporting = balloon, driver, free_page_reporting
        self.stats_period, self.memfd, self.swap_mib, self.fill = stats_period, memfd, swap_mib, fill
        self.policy, self.extra_devices, self.extra_xml = policy, extra_devices, extra_xml
        self.uuid = str(uuid_module.uuid4())
        self.directory = lab.base / "guests"
        self.directory.mkdir(exist_ok=True)
        self.console = self.directory / f"{name}.log"
        self.line = Line(self.line_path(libvirtd))
        self.defined = False
        self.known_pid = None
        lab.defer(f"guest {name}", self.remove)
        lab.diagnostics.append((f"guest {name} console", lambda: host.tail(self.console, 12)))

    def line_path(self, libvirtd):
        """Of the workload's line, as seen from outside. For QEMU it is in /run, which each libvirtd has for itself: so source
        and destination of a migration have the same XML and do not fight for one socket."""
        return libvirtd.base / "run" / f"{self.name}.line"

    # -- XML --

    def xml(self):
        driver = {True: "1", False: "0"}.get(self.driver, self.driver)
        words = f"{CMDLINE}{clock_words()} {os.environ.get('MEMOC_GUEST_WORDS', '')} memoc.driver={driver} memoc.swap_mib={self.swap_mib} memoc.fill={int(self.fill)}"
        resource = self.lab.partition.resource
        parts = [
            f"<domain type='{accelerator()}'>",
            f"<name>{self.name}</name><uuid>{self.uuid}</uuid>",
            f"<metadata>{self._policy_xml()}</metadata>" if self.policy is not None else "",
            f"<memory unit='MiB'>{self.memory_mib}</memory><vcpu>1</vcpu>",
            "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>" if self.memfd else "",
            f"<resource><partition>{resource}</partition></resource>" if resource else "",
            f"<os><type arch='x86_64' machine='pc'>hvm</type><kernel>{self.lab.image.kernel}</kernel>"
            f"<initrd>{self.lab.image.initrd}</initrd><cmdline>{words}</cmdline></os>",
            # Without a bound the buffer for translated code dwarfs the guest.
            "<features><acpi/>" + ("<tcg><tb-cache unit='MiB'>32</tb-cache></tcg>" if accelerator() == "qemu" else "")
            + "</features>",
            "<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>",
            "<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>",
            "<controller type='usb' model='none'/><input type='keyboard' bus='ps2'/>",
            f"<serial type='file'><source path='{self.console}'/><target port='0'/></serial>",
            f"<serial type='unix'><source mode='bind' path='/run/{self.name}.line'/><target port='1'/></serial>",
            "<panic model='isa'/>",
            self._balloon_xml(),
            self.extra_devices,
            "</devices>",
            self.extra_xml,
            "</domain>",
        ]
        return "\n".join(filter(None, parts))

    def _policy_xml(self):
        attributes = " ".join(f"{key}={quoteattr(str(value))}" for key, value in self.policy.items())
        return f"<memoc:policy xmlns:memoc='{POLICY_NS}' {attributes}/>"

    def _balloon_xml(self):
        if not self.balloon:
            return "<memballoon model='none'/>"
        stats = f"<stats period='{self.stats_period}'/>" if self.stats_period else ""
        return f"<memballoon model='virtio' freePageReporting='{'on' if self.free_page_reporting else 'off'}'>" \
               f"{stats}</memballoon>"

    # -- life --

    def virsh(self, command, *args, check=True, limit_s=60):
        return self.libvirtd.virsh(command, self.name, *args, check=check, limit_s=limit_s)

    def define(self):
        path = self.directory / f"{self.name}.xml"
        path.write_text(self.xml(), encoding="utf-8")
        self.libvirtd.virsh("define", str(path))
        self.defined = True

    def start(self, paused=False, limit_s=60):
        """Returns host time (time.monotonic()) from which the VM was running, by virsh's return."""
        if not self.defined:
            self.define()
        self.virsh("start", *(["--paused"] if paused else []), limit_s=limit_s)
        at = time.monotonic()
        self.adopt()
        self.libvirtd.save_capabilities()
        return at

    def adopt(self):
        """Takes note of the QEMU process of a guest that runs: after start, restore, migration."""
        self.known_pid = self.pid
        self.lab.record_process(self.known_pid, f"guest {self.name}")

    @property
    def pid(self):
        path = self.libvirtd.base / f"run/libvirt/qemu/{self.name}.pid"
        try:
            return int(path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            raise LabError(f"guest {self.name} does not run: no {path}") from None

    def running(self):
        return self.known_pid is not None and process_start(self.known_pid) is not None

    def wait_ready(self, limit_s=90):
        """The workload inside answers (with fill: after all memory was touched)."""
        def answers():
            if not self.running():
                raise LabError(f"QEMU of {self.name} has ended")
            return self.line.ask("ping", 1 / host.SLOW)

        wait_for(answers, limit_s, f"guest {self.name} to be ready", every_s=0.1,
                 show=lambda: host.tail(self.console, 6) + "; " + self._qemu_log(4))

    def _qemu_log(self, lines):
        return host.tail(self.libvirtd.base / f"log/qemu/{self.name}.log", lines)

    def wait_reboot(self, since, limit_s=90):
        """The workload announced itself anew; `since` is len(guest.line.events) before whatever causes the reboot."""
        return self.line.wait_event(lambda data: data["event"] == "ready", limit_s, f"reboot of {self.name}", since)

    def destroy(self):
        self.virsh("destroy")
        self.wait_gone()

    def wait_gone(self, limit_s=30):
        """Its QEMU has ended, and libvirt has noticed."""
        wait_for(lambda: not self.running(), limit_s, f"end of guest {self.name}'s QEMU")
        self.line.close()
        if self.libvirtd.running():
            wait_for(lambda: self.name not in self.libvirtd.virsh("list", "--name").split(), limit_s,
                     f"libvirt to notice the end of {self.name}")

    def undefine(self):
        self.virsh("undefine", "--managed-save", check=False)
        self.defined = False

    def reset(self):
        self.virsh("reset")

    def suspend(self):
        self.virsh("suspend")

    def resume(self):
        self.virsh("resume")

    def managed_save(self):
        self.virsh("managedsave", limit_s=180)
        self.wait_gone()

    def kill(self, number=signal.SIGKILL):
        """A signal to QEMU: SIGKILL is its crash, SIGSTOP hangs its monitor."""
        os.kill(self.pid, number)

    def migrate(self, destination):
        """Live, to another libvirtd of the lab; the guest's control follows it."""
        self.virsh("migrate", "--live", *self.way_to(destination), limit_s=180)
        self.moved_to(destination)

    def way_to(self, destination):
        """virsh migrate's words for where to."""
        return ["--desturi", destination.uri, "--migrateuri", f"unix://{self.directory / self.name}.migrate"]

    def moved_to(self, destination):
        self.line.close()
        self.libvirtd = destination
        self.line.path = self.line_path(destination)
        self.defined = False
        self.adopt()

    def throttle(self, percent):
        """Lets the vCPU have this share of one processor, from the host's side: the monitor stays quick."""
        period_us = 100000
        quota = -1 if percent >= 100 else max(1000, period_us * percent // 100)
        self.virsh("schedinfo", "--live", "--set", f"vcpu_period={period_us}", "--set", f"vcpu_quota={quota}")

    def remove(self):
        """Ends and undefines it; without libvirtd's help when there is none."""
        self.line.close()
        if self.running():
            host.send_signal(self.known_pid, process_start(self.known_pid), signal.SIGKILL)
            wait_for(lambda: not self.running(), 20, f"end of guest {self.name}")
        if self.defined and self.libvirtd.running():
            self.undefine()

    # -- memory, as seen from outside --

    def cgroup(self):
        return MemoryCgroup(host.memory_cgroup(self.pid))

    def rss(self):
        return host.proc_status_bytes(self.pid, "VmRSS")

    def swapped(self):
        return host.proc_status_bytes(self.pid, "VmSwap")

    def memory_stats(self):
        """virsh dommemstat; sizes in bytes, counters as they are."""
        counters = ("swap_in", "swap_out", "last_update")
        stats = dict(line.split() for line in self.virsh("dommemstat").splitlines())
        return {key: int(value) if key in counters or "fault" in key or "htlb" in key else int(value) * 1024
                for key, value in stats.items()}

    def balloon_bytes(self):
        return self.memory_stats()["actual"]

    def set_balloon(self, mib):
        self.virsh("setmem", f"{mib}MiB", "--live")

    # -- the workload --

    def cmd(self, command, limit_s=15):
        """One command to the workload; its answer as a dictionary."""
        answer = self.line.ask(command, limit_s)
        if "error" in answer:
            raise LabError(f"guest {self.name}: {command!r}: {answer['error']}")
        return answer

    def begin(self, command):
        """Starts a job (use, touch, lock, load-driver, unload-driver); give what it returns to finish()."""
        since = len(self.line.events)
        return self.cmd(command), since, time.monotonic(), command

    def finish(self, begun, limit_s=60):
        """Waits for the end of a job; host seconds (time.monotonic()) when the end was told."""
        answer, since, at, command = begun
        if answer["finished"]:
            return at
        event = self.line.wait_event(lambda data: data["event"] == "done" and data["job"] == answer["job"], limit_s,
                                     f"guest {self.name}: {command}", since)
        if not event.data["ok"]:
            raise LabError(f"guest {self.name}: {command!r} failed: {event.data}; console: {host.tail(self.console, 4)}")
        return event.at

    def job(self, command, limit_s=60):
        return self.finish(self.begin(command), limit_s)

    def plug(self, mib=128):
        """A DIMM more, of a guest that was made with pluggable_xml()."""
        path = self.directory / f"{self.name}.dimm.xml"
        path.write_text(f"<memory model='dimm'><target><size unit='MiB'>{mib}</size><node>0</node></target></memory>", encoding="ascii")
        self.virsh("attach-device", str(path), "--live")

    def report(self):
        return self.cmd("report")

    def rate(self, seconds=1.0):
        """Pages a second that the walker really did, by the host's clock, over the coming time; and the wanted rate."""
        first, began = self.report(), time.monotonic()
        time.sleep(seconds * host.SLOW)  # the length of the measurement, not a wait for something
        second, ended = self.report(), time.monotonic()
        return (second["walked_pages"] - first["walked_pages"]) / (ended - began), second["wanted_per_s"]

    def relative_rate(self, seconds=1.0):
        """1.0: the workload keeps its pace; 0.01: it thrashes."""
        done, wanted = self.rate(seconds)
        return done / wanted if wanted else 1.0

    def rate_samples(self, since_event=0):
        """[(host time, relative rate)] out of the "rate" events that `watch MS` makes; rates between neighbours."""
        events = [event for event in self.line.events[since_event:] if event.data["event"] == "rate"]
        samples = []
        for before, after in zip(events, events[1:]):
            walked, wanted = after.data["walked_pages"] - before.data["walked_pages"], after.data["wanted_per_s"]
            if wanted and after.at > before.at:
                samples.append((after.at, walked / (after.at - before.at) / wanted))
        return samples


__all__ = ["Guest", "Line", "MIB", "POLICY_NS", "pluggable_xml"]
