# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cgroup adapter against real kernels: this machine's cgroup v1 or v2, and v2 of Debian's stock kernel in a guest.

cgroup_check.c does the checking; this module builds it against the archives of $MEMOC_BUILD (default: build), gives it
swap and judges what it prints. `python3 tests/system/test_cgroup.py` runs just these tests.
"""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]

# pylint: disable=wrong-import-position
import host
import image
from lab import Child, HostSwap, LabError
from memocd import check_program
from run import limit

HERE_MIB = 200
GUEST_MIB = 96
GUEST_RAM_MIB = 512

GUEST_INIT = f"""#!/bin/busybox sh
PATH=/bin
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
while read -r module; do
    insmod "/modules/$module.ko" || echo "init: no module $module"
done < /modules/order
echo 256M > /sys/block/zram0/disksize && mkswap /dev/zram0 > /dev/null && swapon /dev/zram0 || echo 'init: no swap'
uname -r
/cgroup_check v2 {GUEST_MIB} swap
echo "cgroup_check exit status $?"
dmesg | grep -iE 'out of memory|oom-kill|blocked for more than|BUG:|call trace'
echo 'init: end'
poweroff -f
"""


def judge(text):
    """The check's own verdict: every line that failed, and whether it came to its end."""
    failed = [line for line in text.splitlines() if line.startswith("FAILED")]
    verdict = re.search(r"^cgroup_check: (\d+) passed, (\d+) failed$", text, re.MULTILINE)
    if failed or not verdict or int(verdict.group(2)) or not int(verdict.group(1)):
        raise LabError("\n".join(failed) if failed else f"cgroup_check did not come to its end:\n{text[-3000:]}")


@limit(180)
def test_cgroup_here(lab):
    """This machine's memory controller: sampling, lowering with and without swap, raising, opening, a group's end."""
    program = check_program(lab.base, "cgroup_check")
    HostSwap(lab, 512)
    done = host.run([program, host.cgroup_version(), HERE_MIB, "swap"], limit_s=120, check=False)
    judge(done.stdout)
    if done.returncode != 0 or "skip   lowering" in done.stdout:
        raise LabError(f"exit {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")


def shared_libraries(program):
    """Paths of what the dynamic linker would load, the linker itself too."""
    listing = host.run(["ldd", program]).stdout
    found = re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", listing, re.MULTILINE)
    if not any("ld-linux" in path or "/ld" in path for path in found):
        raise LabError(f"ldd {program}: {listing}")
    return found


def guest_modules(tree):
    """zram and what it needs, in load order: of what a test guest loads, all but the virtio drivers."""
    modules = [(name, data) for name, data in image.collect_modules(tree) if not name.startswith(("virtio", "pvpanic"))]
    if "zram" not in [name for name, _ in modules]:
        raise LabError(f"{tree}: the kernel has no zram module")
    return modules


def build_initrd(program, tree, target):
    """busybox, zram, the check and its shared libraries."""
    cpio = image.Cpio()
    libraries = shared_libraries(program)
    directories = {"bin", "dev", "modules", "proc", "sys"}
    for path in libraries:
        directories.update(str(parent).strip("/") for parent in pathlib.PurePosixPath(path).parents)
    for directory in sorted(directories - {""}):
        cpio.add(directory, 0o040755)
    cpio.add("init", 0o100755, GUEST_INIT.encode())
    cpio.add("bin/busybox", 0o100755, image.find_busybox())
    cpio.add("cgroup_check", 0o100755, program.read_bytes())
    for path in libraries:
        cpio.add(path.lstrip("/"), 0o100755, pathlib.Path(path).read_bytes())
    modules = guest_modules(tree)
    for name, data in modules:
        cpio.add(f"modules/{name}.ko", 0o100644, data)
    cpio.add("modules/order", 0o100644, "".join(f"{name}\n" for name, _ in modules).encode())
    target.write_bytes(cpio.bytes())


@limit(400)
def test_cgroup_v2_in_guest(lab):
    """v2 of Debian's stock kernel: memory.high and memory.reclaim with zram swap; memory.max untouched, no OOM kill."""
    program = check_program(lab.base, "cgroup_check")
    tree = image.kernel_tree()
    kernel = next(iter(sorted(tree.glob("boot/vmlinuz-*"))))
    initrd, console = lab.base / "initrd", lab.base / "console"
    build_initrd(program, tree, initrd)
    qemu = Child(lab, "QEMU for cgroup v2",
                 ["qemu-system-x86_64", "-accel", "tcg,tb-size=64", "-machine", "pc", "-m", GUEST_RAM_MIB, "-smp", 1,
                  "-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{console}", "-kernel", kernel, "-initrd", initrd,
                  "-append", "console=ttyS0 quiet panic=-1"], lab.base / "qemu.log")
    if not host.wait_exit(qemu.pid, 300):
        raise LabError(f"the guest did not come to its end:\n{host.tail(console, 40)}")
    text = console.read_text(encoding="utf-8", errors="replace").replace("\r", "")
    judge(text)
    after = text.split("cgroup_check exit status ", 1)[-1]
    if not after.startswith("0\ninit: end\n") or "skip   lowering" in text:
        raise LabError(f"the guest's kernel or init complained:\n{after[-2000:]}")


if __name__ == "__main__":
    import run

    sys.argv[1:1] = ["-k", "test_cgroup."]
    sys.exit(run.main())
