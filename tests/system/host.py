# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine that a lab runs on: waiting, processes, cgroups, swap. Everything that differs between hosts is here."""

import contextlib
import ctypes
import errno
import os
import pathlib
import re
import select
import signal
import subprocess
import threading
import time

MIB = 1 << 20
# Every time limit is multiplied by this: a nested host is about ten times slower.
SLOW = float(os.environ.get("MEMOC_LAB_SLOW", "1"))
LAB_ROOT = pathlib.Path(os.environ.get("MEMOC_LAB_ROOT", "/var/tmp"))
LAB_PREFIX = "memoc-lab."
CGROUP_ROOT = pathlib.Path("/sys/fs/cgroup")
CGROUP_PREFIX = "memoc-lab-"


class LabError(Exception):
    """Something the lab needs did not work; the text says what and where."""


def wait_for(predicate, limit_s, what, every_s=0.05, show=None):
    """Returns predicate()'s first true value. A LabError raised by it counts as "not yet".

    On failure the text says what was waited for and what was last seen: show(), or else the predicate's last value.
    """
    began = time.monotonic()
    last = None
    while True:
        try:
            last = predicate()
            if last:
                return last
        except LabError as error:
            last = error
        if time.monotonic() - began > limit_s * SLOW:
            seen = show() if show else last
            raise LabError(f"{what}: not within {limit_s * SLOW:g} s; last seen: {seen!r}")
        time.sleep(every_s)


def run(argv, limit_s=60, check=True, input_text=None, env=None):
    """subprocess.run with a limit and an error that says what the program said."""
    stdin = {"input": input_text} if input_text is not None else {"stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=limit_s * SLOW, env=env,
                              check=False, **stdin)
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(map(str, argv))}: no answer within {limit_s * SLOW:g} s") from None
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(map(str, argv))}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done


def tail(path, lines=30):
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"({error})"
    return "\n".join(text.replace("\r", "").splitlines()[-lines:])


# ---- processes ----

def process_start(pid):
    """Start time in clock ticks since boot, which together with the pid names one process; None when it has ended."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2:].split()
    return None if fields[0] in "ZX" else int(fields[19])


def major_faults(pid):
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(stat[stat.rindex(")") + 2:].split()[9])


def cpu_seconds(pid):
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = stat[stat.rindex(")") + 2:].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waited_seconds(pid, only_main=False):
    """How long threads of a process were ready to run and had no processor, since they began; 0 where the kernel does not
    tell. The difference of two readings is what a busy machine, not the program, took. Also of one that has just ended."""
    tasks = [pathlib.Path(f"/proc/{pid}")] if only_main else pathlib.Path(f"/proc/{pid}/task").glob("*")
    total = 0
    for task in tasks:
        with contextlib.suppress(OSError, ValueError):
            total += int((task / "schedstat").read_text(encoding="ascii").split()[1])
    return total / 1e9


def proc_status_bytes(pid, key):
    """VmRSS, VmSwap, RssAnon … of /proc/PID/status."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def meminfo_bytes(key):
    text = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    return int(re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE).group(1)) * 1024


def send_signal(pid, start, number):
    """Signals exactly the process that had this pid at this start time; False when it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if process_start(pid) != start:
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def end_process(pid, start, patience_s=10):
    """SIGTERM, then SIGKILL; SIGCONT first, as a stopped process would not hear."""
    if not send_signal(pid, start, signal.SIGTERM):
        return
    send_signal(pid, start, signal.SIGCONT)
    with contextlib.suppress(LabError):
        wait_for(lambda: process_start(pid) != start, patience_s, f"end of process {pid}")
        return
    send_signal(pid, start, signal.SIGKILL)
    wait_for(lambda: process_start(pid) != start, 20, f"end of process {pid} after SIGKILL")


def wait_exit(pid, limit_s):
    """Waits on a pidfd: no polling, and no need to be the parent."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], limit_s * SLOW)[0])
    finally:
        os.close(fd)


def processes_naming(text):
    """[(pid, start, command line)] of the processes whose command line holds `text`; never this one."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            start = process_start(int(entry.name))
            if text in words and start is not None:
                found.append((int(entry.name), start, words))
    return found


# ---- cgroups ----

def cgroup_version():
    controllers = CGROUP_ROOT / "cgroup.controllers"
    return "v2" if controllers.exists() and "memory" in controllers.read_text(encoding="ascii").split() else "v1"


def cgroup_hierarchies():
    """Mount points of every cgroup hierarchy there is."""
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, right = line.split(" - ", 1)
        if right.split()[0] in ("cgroup", "cgroup2"):
            point = pathlib.Path(left.split()[4])
            if point not in found:
                found.append(point)
    return found


def has_systemd():
    return os.path.isdir("/run/systemd/system")


def memory_cgroup(pid):
    """Directory of the group where a process's memory is charged; for a QEMU of libvirt the one that holds the limit."""
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if cgroup_version() == "v2" and controllers == "":
            cut = re.split(r"/(?:emulator|vcpu\d+)$", path)[0]
            return pathlib.Path(str(CGROUP_ROOT) + cut)
        if cgroup_version() == "v1" and "memory" in controllers.split(","):
            return pathlib.Path(str(CGROUP_ROOT / "memory") + path)
    raise LabError(f"process {pid}: no memory cgroup in /proc/{pid}/cgroup")


class MemoryCgroup:
    """One group's memory, alike for v1 and v2. Sizes in bytes; None is "no limit".

    The limit is what memocd sets: v1's memory.limit_in_bytes, v2's memory.high (memory.max below usage is an OOM kill).
    """

    NAMES = {"v1": ("memory.usage_in_bytes", "memory.limit_in_bytes"), "v2": ("memory.current", "memory.high")}

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.usage_name, self.limit_name = self.NAMES[cgroup_version()]

    def read(self, name):
        return (self.path / name).read_text(encoding="ascii").strip()

    def usage(self):
        return int(self.read(self.usage_name))

    def limit(self):
        text = self.read(self.limit_name)
        return None if text == "max" or int(text) >= 1 << 62 else int(text)

    def set_limit(self, size):
        """Once, as it is; on v1 OSError EBUSY when a single reclaim did not get there, and the old limit stays."""
        text = str(size) if size is not None else ("max" if cgroup_version() == "v2" else "-1")
        (self.path / self.limit_name).write_text(text, encoding="ascii")

    def squeeze(self, size, limit_s=60, step=4 * MIB):
        """Lowers the limit to `size` though the pages are in use; on v1 under an OomGuard only. One big step may fail
        for ever there (what it reclaims is faulted back meanwhile); 4 MiB steps took 380 MiB to 150 in 2 s (measured)."""
        def lowered():
            try:
                self.set_limit(max(size, self.usage() - step))
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            return self.limit() == size

        wait_for(lowered, limit_s, f"limit of {self.path} at {size} bytes", every_s=0.01, show=self.usage)

    def stat(self):
        return {key: int(value) for key, value in (line.split() for line in self.read("memory.stat").splitlines())}

    def swapped(self):
        if cgroup_version() == "v2":
            return int(self.read("memory.swap.current"))
        return self.stat().get("swap", 0)

    def oom_kills(self):
        name = "memory.events" if cgroup_version() == "v2" else "memory.oom_control"
        found = re.search(r"^oom_kill (\d+)$", self.read(name), re.MULTILINE)
        return int(found.group(1)) if found else 0


class OomGuard:
    """On v1 a limit far below the working set can end in an OOM kill though swap is free: reclaim finds every page young,
    and a kernel 6.18 was seen to kill QEMU so. In a `with` of this the group waits instead, and gets 1 MiB more."""

    def __init__(self, group):
        self.group = group
        self.times = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        if cgroup_version() == "v1":
            (self.group.path / "memory.oom_control").write_text("1", encoding="ascii")
            self.thread.start()
        return self

    def _watch(self):
        with contextlib.suppress(OSError):  # the group is gone
            while not self.stop.wait(0.1):
                limit = self.group.limit()
                if limit is not None and "under_oom 1" in self.group.read("memory.oom_control"):
                    self.times += 1
                    self.group.set_limit(limit + MIB)

    def __exit__(self, *_):
        if self.thread.is_alive():
            self.stop.set()
            self.thread.join()
        with contextlib.suppress(OSError):
            if cgroup_version() == "v1":
                (self.group.path / "memory.oom_control").write_text("0", encoding="ascii")


class Partition:
    """A cgroup of the lab's own under which libvirt puts the VMs, so that no trace of them stays and no other's is touched.

    `resource` is what goes into the domain's <partition>, or None where systemd must own the groups (there libvirt asks
    systemd for scopes, which go away by themselves).
    """

    def __init__(self, name):
        self.name = CGROUP_PREFIX + name
        self.resource = None if has_systemd() else "/" + self.name

    def directories(self):
        # libvirt appends ".partition" to names of its caller's making (virCgroupSetPartitionSuffix).
        return [point / f"{self.name}.partition" for point in cgroup_hierarchies()] if self.resource else []

    def create(self):
        for directory in self.directories():
            directory.mkdir(exist_ok=True)
            for knob in ("cpuset.cpus", "cpuset.mems"):  # empty in a new v1 group, and then nothing may run there
                path = directory / knob
                if path.exists() and cgroup_version() == "v1":
                    path.write_text((directory.parent / knob).read_text(encoding="ascii"), encoding="ascii")
            if cgroup_version() == "v2":
                wanted = (directory / "cgroup.controllers").read_text(encoding="ascii").split()
                (directory / "cgroup.subtree_control").write_text(" ".join("+" + w for w in wanted), encoding="ascii")

    def members(self):
        """[(pid, start)] of the processes in it."""
        found = set()
        for directory in self.directories():
            for path in directory.glob("**/cgroup.procs"):
                with contextlib.suppress(OSError):
                    for pid in map(int, path.read_text(encoding="ascii").split()):
                        start = process_start(pid)
                        if start is not None:
                            found.add((pid, start))
        return sorted(found)

    def remove(self):
        for pid, start in self.members():
            end_process(pid, start, patience_s=2)
        for directory in self.directories():
            wait_for(lambda d=directory: remove_cgroup_tree(d), 20, f"removal of cgroup {directory}")


def remove_cgroup_tree(directory):
    """True when it is gone; a group that a dying process still holds stays a moment."""
    for parent, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(parent)
    return not directory.exists()


def our_cgroups():
    """Directories of partitions that labs made, this one's and others'."""
    return [path for point in cgroup_hierarchies() for path in point.glob(f"{CGROUP_PREFIX}*.partition")]


# ---- swap ----

def swaps():
    """{path: used bytes} of the host's active swap."""
    lines = pathlib.Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]
    return {fields[0]: int(fields[3]) * 1024 for fields in (line.split() for line in lines)}


def add_zram(mib):
    """A new zram disk of this size, or None where the kernel has no zram control."""
    control = pathlib.Path("/sys/class/zram-control/hot_add")
    if not control.exists():
        run(["modprobe", "zram"], check=False)
    if not control.exists():
        return None
    number = int(control.read_text(encoding="ascii"))
    disk = f"zram{number}"
    wait_for(lambda: os.path.exists(f"/dev/{disk}"), 10, f"/dev/{disk}")
    pathlib.Path(f"/sys/block/{disk}/disksize").write_text(f"{mib}M", encoding="ascii")
    return f"/dev/{disk}"


def disk_sequence(device):
    """Tells a disk from a later one of the same name; None for a file, and for a kernel before 5.15."""
    try:
        return int(pathlib.Path(f"/sys/block/{os.path.basename(device)}/diskseq").read_text(encoding="ascii"))
    except FileNotFoundError:
        return None


def remove_zram(device):
    disk = os.path.basename(device)
    if os.path.exists(f"/sys/block/{disk}"):
        pathlib.Path(f"/sys/block/{disk}/reset").write_text("1", encoding="ascii")
        pathlib.Path("/sys/class/zram-control/hot_remove").write_text(disk.removeprefix("zram"), encoding="ascii")


def swap_off(device):
    if device in swaps():
        run(["swapoff", device], limit_s=120)


def undo_swap(device, sequence):
    """swapoff, and removal of the zram disk or file behind it. Nothing there any more is no error, nor is another disk."""
    if disk_sequence(device) != sequence:
        return
    swap_off(device)
    if device.startswith("/dev/zram"):
        remove_zram(device)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(device)


PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


def thread_of(pid, name):
    """The only thread of this process whose name begins so."""
    found = [path.parent.name for path in pathlib.Path(f"/proc/{pid}/task").glob("*/comm") if path.read_text(encoding="utf-8").startswith(name)]
    assert len(found) == 1, found
    return int(found[0])


class Stopped:
    """One thread stands still, as one does that hangs in the kernel."""

    def __init__(self, tid):
        self.tid, self.libc = tid, ctypes.CDLL(None, use_errno=True)

    def _ptrace(self, request):
        none = ctypes.c_void_p(0)
        if self.libc.ptrace(ctypes.c_long(request), ctypes.c_long(self.tid), none, none) < 0:
            raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {self.tid}")

    def __enter__(self):
        self._ptrace(PTRACE_SEIZE)
        self._ptrace(PTRACE_INTERRUPT)
        os.waitpid(self.tid, WALL)
        return self

    def __exit__(self, *_):
        self._ptrace(PTRACE_DETACH)
