# SPDX-License-Identifier: LGPL-2.1-or-later
"""A laboratory: private libvirtd, real guests, host swap and memocd, all of which it undoes.

    with Lab() as lab:
        libvirtd = PrivateLibvirtd(lab); libvirtd.start()
        guest = Guest(lab, libvirtd, "web1", memory_mib=384); guest.start(); guest.wait_ready()
        guest.job("use 200"); print(guest.cmd("report"))

What a lab makes is written to records in its directory before it is made, so that `lab.py sweep` can remove what a
killed run left: processes by pid and start time, swaps, cgroups, the directory. `lab.py check` fails when anything of a
lab is left; `lab.py sweep --kept` ends labs that were kept on purpose (KEEP=1 of the demo).
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

# pylint: disable=wrong-import-position
import host
from host import (LAB_PREFIX, LAB_ROOT, MIB, LabError, Partition, add_zram, disk_sequence, end_process,
                  process_start, processes_naming, swaps, undo_swap, wait_for)
from image import GuestImage, ImageError

MAKING_PREFIX = f".{LAB_PREFIX}"


class Lab:
    """Owns a directory, a cgroup partition and everything registered on it; undone in reverse order at close()."""

    count = 0

    def __init__(self):
        if os.geteuid() != 0:
            raise LabError("the lab makes mounts, cgroups and swap: run it as root")
        Lab.count += 1
        name = f"{os.getpid()}-{Lab.count}"
        self.base = LAB_ROOT / f"{LAB_PREFIX}{name}"
        self.undo = []
        self.diagnostics = []  # (title, function that returns text)
        self.libvirtds = []
        self._image = None
        making = LAB_ROOT / f"{MAKING_PREFIX}{name}"  # a sweep takes a lab without owner for a dead one
        making.mkdir(mode=0o711)
        write_owner(making, False)
        making.rename(self.base)
        self.partition = Partition(name)
        self.record(kind="cgroup", name=name)
        self.partition.create()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def image(self):
        """Kernel and initramfs of the guests; built when first asked for."""
        if self._image is None:
            self._image = GuestImage()
        return self._image

    # -- records, for those who clean up after a killed run --

    def record(self, **entry):
        with open(self.base / "records.jsonl", "a", encoding="ascii") as records:
            records.write(json.dumps(entry) + "\n")

    def record_process(self, pid, what):
        start = process_start(pid)
        if start is None:
            raise LabError(f"{what} (process {pid}) ended at once")
        self.record(kind="process", pid=pid, start=start, what=what)
        return start

    # -- undoing --

    def defer(self, what, function):
        """function() runs at close(), whatever happens to the others; returns a handle for forget()."""
        entry = (what, function)
        self.undo.append(entry)
        return entry

    def forget(self, entry):
        with contextlib.suppress(ValueError):
            self.undo.remove(entry)

    def diagnose(self):
        """All that may explain a failure, as text."""
        parts = []
        for title, function in self.diagnostics:
            try:
                text = function()
            except Exception as error:  # pylint: disable=broad-except  # a diagnosis must not hide the failure
                text = f"({error})"
            parts.append(f"--- {title}\n{text}")
        return "\n".join(parts)

    def keep(self):
        """Leaves everything running when this process ends, until `lab.py sweep --kept`."""
        write_owner(self.base, True)
        self.undo = []

    def close(self):
        if (self.base / "owner.json").exists() and json.loads((self.base / "owner.json").read_text())["kept"]:
            return
        problems = []
        while self.undo:
            what, function = self.undo.pop()
            try:
                function()
            except Exception as error:  # pylint: disable=broad-except  # the rest must be undone too
                problems.append(f"{what}: {error}")
        problems += remove_lab(self.base)
        if problems:
            raise LabError("clean-up: " + "; ".join(problems))


class HostSwap:
    """Swap for tests: a zram disk of its own, or a file where the kernel has none to add. Preferred over other swap."""

    def __init__(self, lab, mib):
        self.lab = lab
        self.device = add_zram(mib) or self._make_file(mib)
        self.sequence = disk_sequence(self.device)
        lab.record(kind="swap", device=self.device, sequence=self.sequence)
        lab.defer(f"swap {self.device}", self.remove)
        host.run(["mkswap", "-L", "memoc-lab", self.device])
        host.run(["swapon", "-p", "1000", self.device])

    def _make_file(self, mib):
        path = str(self.lab.base / "swapfile")
        self.lab.record(kind="swap", device=path, sequence=None)
        with open(path, "wb") as file:
            os.chmod(path, 0o600)
            for _ in range(mib):
                file.write(bytes(MIB))
        return path

    def used_bytes(self):
        return swaps().get(self.device, 0)

    def remove(self):
        undo_swap(self.device, self.sequence)


class KernelSetting:
    """A file of /proc/sys with another number while the lab lives; put back at its end, also by a sweep after a killed run."""

    def __init__(self, lab, path, value):
        path = pathlib.Path(path)
        before = path.read_text(encoding="ascii")
        lab.record(kind="setting", path=str(path), before=before)
        lab.defer(str(path), lambda: path.write_text(before, encoding="ascii"))
        path.write_text(str(value), encoding="ascii")


class Child:
    """A program started by the lab: recorded, logged to a file, ended with the lab."""

    def __init__(self, lab, what, argv, log, **popen):
        self.lab, self.what, self.log = lab, what, pathlib.Path(log)
        with open(self.log, "ab") as out:
            # A session of its own: Ctrl-C reaches the harness, which then ends everything in order.
            self.popen = subprocess.Popen(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          start_new_session=True, **popen)
        self.pid = self.popen.pid
        self.start = process_start(self.pid)
        self.entry = lab.defer(what, self.end)
        if self.start is None:
            raise LabError(f"{what}: ended at once with status {self.popen.wait()}: {host.tail(self.log, 5)}")
        lab.record(kind="process", pid=self.pid, start=self.start, what=what)

    def running(self):
        return self.popen.poll() is None

    def signal(self, number):
        if self.running():
            self.popen.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.popen.wait()
        self.lab.forget(self.entry)

    def end(self, patience_s=10):
        """SIGTERM and wait; SIGKILL when that does not help. Returns the exit status."""
        if self.running():
            self.popen.terminate()
            self.popen.send_signal(signal.SIGCONT)
            try:
                self.popen.wait(patience_s * host.SLOW)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self.lab.forget(self.entry)
        return self.popen.wait()


# ---- sweeping up after dead runs ----

def labs():
    return sorted(LAB_ROOT.glob(f"{LAB_PREFIX}*"))


def write_owner(base, kept):
    """Whole or not at all: others read it at any time."""
    owner = {"pid": os.getpid(), "start": process_start(os.getpid()), "kept": kept}
    (base / "owner.new").write_text(json.dumps(owner), encoding="ascii")
    (base / "owner.new").rename(base / "owner.json")


def lab_owner(base):
    """(alive, kept) of a lab directory."""
    try:
        owner = json.loads((base / "owner.json").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False, False
    return owner["start"] is not None and process_start(owner["pid"]) == owner["start"], owner["kept"]


def lab_records(base):
    try:
        lines = (base / "records.jsonl").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line of a killed run may be half written
            entries.append(json.loads(line))
    return entries


def remove_lab(base):
    """Ends and removes all that a lab's records name, newest first, then its directory. Returns what did not work."""
    problems = []
    for entry in reversed(lab_records(base)):
        try:
            if entry["kind"] == "process":
                end_process(entry["pid"], entry["start"])
            elif entry["kind"] == "cgroup":
                Partition(entry["name"]).remove()
            elif entry["kind"] == "setting":
                pathlib.Path(entry["path"]).write_text(entry["before"], encoding="ascii")
        except (LabError, OSError) as error:
            problems.append(f"{entry}: {error}")
    for pid, start, _ in processes_naming(str(base) + "/"):  # started, but killed before it was recorded
        end_process(pid, start, patience_s=3)
    for entry in lab_records(base):  # after the guests: their pages need not be read back
        if entry["kind"] == "swap":
            try:
                undo_swap(entry["device"], entry.get("sequence"))
            except (LabError, OSError) as error:
                problems.append(f"{entry}: {error}")
    if not problems:
        shutil.rmtree(base, ignore_errors=True)
    return problems


def sweep(kept=False):
    """Removes what dead runs left (and kept labs, if asked). Returns what did not work."""
    problems = []
    for base in labs():
        alive, is_kept = lab_owner(base)
        if alive or (is_kept and not kept):
            continue
        print(f"lab: sweeping {base}", file=sys.stderr)
        problems += remove_lab(base)
    for base in LAB_ROOT.glob(f"{MAKING_PREFIX}*"):
        if process_start(int(base.name.removeprefix(MAKING_PREFIX).split("-")[0])) is None:
            shutil.rmtree(base, ignore_errors=True)
    return problems


def leftovers(kept_too=True):
    """What labs that are not running any more have left, as lines of text. Labs that run now are not leftovers."""
    found = []
    living = [base for base in labs() if lab_owner(base)[0] or (lab_owner(base)[1] and not kept_too)]
    living_names = [base.name.removeprefix(LAB_PREFIX) for base in living]
    for base in labs():
        if base not in living:
            found.append(f"directory {base}")
    for pid, _, words in processes_naming(f"{LAB_ROOT}/{LAB_PREFIX}"):
        if not any(str(base) + "/" in words for base in living):
            found.append(f"process {pid}: {words[:150]}")
    for path in host.our_cgroups():
        if path.name.removeprefix(host.CGROUP_PREFIX).removesuffix(".partition") not in living_names:
            found.append(f"cgroup {path}")
    recorded = {entry["device"] for base in living for entry in lab_records(base) if entry["kind"] == "swap"}
    for device in swaps():
        if device not in recorded and swap_is_ours(device):
            found.append(f"swap {device}")
    for line in pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        if LAB_PREFIX in line and not any(str(base) in line for base in living):
            found.append(f"mount {line}")
    return found


def swap_is_ours(device):
    """By the label that HostSwap gives it."""
    label = host.run(["swaplabel", device], check=False).stdout
    return "memoc-lab" in label


def main(argv):
    if argv[1:] in (["sweep"], ["sweep", "--kept"]):
        problems = sweep(kept="--kept" in argv)
        print("\n".join(problems), end="\n" if problems else "", file=sys.stderr)
        return 1 if problems else 0
    if argv[1:] == ["check"]:
        found = leftovers()
        for line in found:
            print(f"left over: {line}")
        return 1 if found else 0
    print("usage: lab.py sweep [--kept] | check", file=sys.stderr)
    return 2


# The parts, so that users need one import only.
from libvirtd import PrivateLibvirtd  # noqa: E402
from guest import Guest  # noqa: E402
from memocd import EventFollower, Memocd  # noqa: E402

__all__ = ["EventFollower", "Guest", "GuestImage", "HostSwap", "ImageError", "Lab", "KernelSetting", "LabError", "MIB", "Memocd",
           "PrivateLibvirtd", "leftovers", "sweep", "wait_for", "Child", "time"]

if __name__ == "__main__":
    sys.exit(main(sys.argv))
