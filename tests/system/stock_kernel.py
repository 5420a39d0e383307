# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program of this machine's run as root on Debian's stock kernel, in a machine of its own with cgroup v2 and zram swap."""

import pathlib
import re

import host
import image
from lab import Child, LabError

RAM_MIB = 512
SWAP_MIB = 256

INIT = """#!/bin/busybox sh
PATH=/bin
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
while read -r module; do
    insmod "/modules/$module.ko" || echo "init: no module $module"
done < /modules/order
echo {swap}M > /sys/block/zram0/disksize && mkswap /dev/zram0 > /dev/null && swapon /dev/zram0 || echo 'init: no swap'
uname -r
/{program} {words}
echo "init: exit status $?"
dmesg | grep -iE 'out of memory|oom-kill|blocked for more than|BUG:|call trace'
echo 'init: end'
poweroff -f
"""


def shared_libraries(program):
    """Paths of what the dynamic linker would load, the linker itself too."""
    listing = host.run(["ldd", program]).stdout
    found = re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", listing, re.MULTILINE)
    if not any("ld-linux" in path or "/ld" in path for path in found):
        raise LabError(f"ldd {program}: {listing}")
    return found


def modules_of(tree):
    """zram and what it needs, in load order: of what a test guest loads, all but the virtio drivers."""
    modules = [(name, data) for name, data in image.collect_modules(tree) if not name.startswith(("virtio", "pvpanic"))]
    if "zram" not in [name for name, _ in modules]:
        raise LabError(f"{tree}: the kernel has no zram module")
    return modules


def build_initrd(program, words, tree, target):
    """busybox, zram, the program and its shared libraries."""
    cpio = image.Cpio()
    libraries = shared_libraries(program)
    directories = {"bin", "dev", "modules", "proc", "sys"}
    for path in libraries:
        directories.update(str(parent).strip("/") for parent in pathlib.PurePosixPath(path).parents)
    for directory in sorted(directories - {""}):
        cpio.add(directory, 0o040755)
    cpio.add("init", 0o100755, INIT.format(swap=SWAP_MIB, program=program.name, words=" ".join(map(str, words))).encode())
    cpio.add("bin/busybox", 0o100755, image.find_busybox())
    cpio.add(program.name, 0o100755, program.read_bytes())
    for path in libraries:
        cpio.add(path.lstrip("/"), 0o100755, pathlib.Path(path).read_bytes())
    modules = modules_of(tree)
    for name, data in modules:
        cpio.add(f"modules/{name}.ko", 0o100644, data)
    cpio.add("modules/order", 0o100644, "".join(f"{name}\n" for name, _ in modules).encode())
    target.write_bytes(cpio.bytes())


def run_on_stock_kernel(lab, program, *words):
    """What it printed, the kernel's release in a line before. The kernel must not complain, and its exit status must be 0."""
    tree = image.kernel_tree()
    kernel = next(iter(sorted(tree.glob("boot/vmlinuz-*"))))
    initrd, console = lab.base / f"{program.name}.initrd", lab.base / f"{program.name}.console"
    build_initrd(program, words, tree, initrd)
    qemu = Child(lab, f"QEMU for {program.name}",
                 ["qemu-system-x86_64", "-accel", "tcg,tb-size=64", "-machine", "pc", "-m", RAM_MIB, "-smp", 1,
                  "-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{console}", "-kernel", kernel, "-initrd", initrd,
                  "-append", "console=ttyS0 quiet panic=-1"], lab.base / f"{program.name}.qemu.log")
    if not host.wait_exit(qemu.pid, 300):
        raise LabError(f"{program.name} on {kernel.name} did not come to its end:\n{host.tail(console, 40)}")
    text = console.read_text(encoding="utf-8", errors="replace").replace("\r", "")
    said, _, after = text.partition("init: exit status ")
    if not after.startswith("0\ninit: end\n"):
        raise LabError(f"{program.name}, its kernel or init complained:\n{said[-3000:]}{after[-2000:]}")
    return said
