# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where guest RAM lies in a QEMU process, found from outside, against QEMU's own word (`gpa2hva`)."""

import re
import socket

import host
from lab import Child, LabError
from memocd import check_program
from run import limit

MIB = 1 << 20

# name, blocks in MiB as a domain's XML would list them, QEMU's arguments
MACHINES = [
    ("private", [256], ["-m", "256"]),
    ("private-object", [256], ["-m", "256", "-object", "memory-backend-ram,id=pc.ram,size=256M",
                               "-machine", "memory-backend=pc.ram"]),
    ("memfd", [256], ["-m", "256", "-object", "memory-backend-memfd,id=r,size=256M,share=on", "-machine", "memory-backend=r"]),
    ("cells", [192, 64], ["-m", "256", "-object", "memory-backend-ram,id=a,size=192M", "-object", "memory-backend-ram,id=b,size=64M",
                          "-numa", "node,nodeid=0,memdev=a", "-numa", "node,nodeid=1,memdev=b"]),
    ("equal-cells", [128, 128], ["-m", "256", "-object", "memory-backend-memfd,id=a,size=128M", "-object",
                                 "memory-backend-ram,id=b,size=128M", "-numa", "node,nodeid=0,memdev=a", "-numa",
                                 "node,nodeid=1,memdev=b"]),
    ("dimm", [256, 128], ["-m", "256,slots=2,maxmem=1G", "-object", "memory-backend-ram,id=a,size=256M", "-numa",
                          "node,nodeid=0,memdev=a", "-object", "memory-backend-ram,id=m,size=128M", "-device",
                          "pc-dimm,id=d,memdev=m"]),
]


def connected(path):
    """The socket's name is there a moment before anybody listens."""
    def attempt():
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(30)
        try:
            link.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            link.close()
            return None
        return link
    return host.wait_for(attempt, 30, f"QEMU's monitor at {path}")


def ask_monitor(path, command):
    with connected(path) as monitor:
        said = b""
        for sent in (None, command):
            if sent:
                monitor.sendall(sent.encode() + b"\n")
            said = b""
            while not said.endswith(b"(qemu) "):
                more = monitor.recv(65536)
                if not more:
                    raise LabError(f"QEMU's monitor ended: {said}")
                said += more
        return said.decode()


def blocks_of(monitor, sizes, dimms):
    """(host address, size) of each block: cells follow each other from guest address 0, DIMMs from 4 GiB on."""
    found, at = [], 0
    for number, size in enumerate(sizes):
        at = 4 << 30 if number == len(sizes) - dimms else at
        said = ask_monitor(monitor, f"gpa2hva {at:#x}")
        word = re.search(r"Host virtual address for \S+ \(\S+\) is 0x(\w+)", said)
        if not word:
            raise LabError(f"QEMU does not say where {at:#x} lies: {said}")
        found.append((int(word.group(1), 16), size * MIB))
        at += size * MIB
    return sorted(found)


@limit(240)
def test_ram_is_found_where_qemu_has_it(lab):
    """Private and shared memory, NUMA cells and a DIMM: each range is a block of QEMU's; a wrong size is refused with a reason."""
    check = check_program(lab.base, "ram_map_check")
    for name, blocks, arguments in MACHINES:
        monitor = lab.base / f"{name}.monitor"
        qemu = Child(lab, name, ["qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-S", "-nodefaults", "-nographic",
                                 "-no-user-config", "-monitor", f"unix:{monitor},server=on,wait=off", *arguments],
                     lab.base / f"{name}.log")
        host.wait_for(monitor.exists, 60, f"monitor of {name}", show=lambda log=qemu.log: host.tail(log))
        truth = blocks_of(monitor, blocks, arguments.count("-device"))
        said = host.run([check, str(qemu.pid), *map(str, blocks)]).stdout
        ranges = sorted((int(start, 16), int(end, 16) - int(start, 16)) for start, end in re.findall(r"^(\w+)-(\w+)$", said, re.MULTILINE))
        assert ranges == truth, f"{name}: {said} instead of {[hex(at) for at, _ in truth]}"
        wrong = host.run([check, str(qemu.pid), str(sum(blocks) + 32)]).stdout
        assert wrong.startswith("refused: ") and str((sum(blocks) + 32) * MIB) in wrong, f"{name}: {wrong}"
        qemu.kill()
        ended = host.run([check, str(qemu.pid), *map(str, blocks)]).stdout
        assert ended.startswith("refused: "), f"{name}: {ended}"
