# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds and caches what a test guest boots: Debian's cloud kernel, and an initramfs of busybox and the workload.

Run as a program it prints the paths of kernel and initramfs. Nothing is kept in the source tree: the cache is
$MEMOC_CACHE (default /var/cache/memoc-tests), one directory per kernel version and one per initramfs content.
$MEMOC_GUEST_IMAGE names a directory with `vmlinuz` and `initrd` made elsewhere (a nested host has no compiler).
"""

import contextlib
import fcntl
import hashlib
import lzma
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
KERNEL_META_PACKAGE = "linux-image-cloud-amd64"
# In this order the driver loads whatever the kernel's own dependency list says; what a kernel has built in is left out.
MODULES = ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "pvpanic-mmio",
           "zsmalloc", "lzo-rle", "zram", "virtio_balloon"]
BUSYBOX = ["/bin/busybox", "/usr/bin/busybox"]


class ImageError(Exception):
    """Says what could not be made and what to do."""


def run(argv, **kwargs):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          **kwargs)
    if done.returncode != 0:
        raise ImageError(f"{' '.join(map(str, argv))}: exit {done.returncode}: {done.stderr.strip()[-800:]}")
    return done.stdout


def cache_dir():
    return pathlib.Path(os.environ.get("MEMOC_CACHE", "/var/cache/memoc-tests"))


@contextlib.contextmanager
def locked(directory):
    """One builder at a time; the others wait and then find the work done.

    What takes minutes locks a directory of its own in the cache: no test that only wants its guests waits for a kernel.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made_whole(directory, make):
    """Runs make(temporary) and renames the result to `directory`: a half-made cache entry is never seen."""
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
    try:
        make(temporary)
        os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


KEPT = 4  # entries of each kind, those that were used last
LEFT_OVER_S = 86400  # what is being made, or used, by somebody else is younger


def cached(entry, make, kind):
    """`entry` of the cache, made whole if it is not there; others of its kind (a pattern of names) that nobody used for long go, as
    does what a builder left that was killed. The caller has the lock."""
    if not entry.exists():
        made_whole(entry, make)
    os.utime(entry)
    for path in sorted(entry.parent.glob(kind), key=os.path.getmtime)[:-KEPT] + list(entry.parent.glob(".*-*")):
        with contextlib.suppress(FileNotFoundError):  # another builder's, that is ready just now
            if time.time() - path.stat().st_mtime < LEFT_OVER_S:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
    return entry


# ---- kernel ----

def kernel_package():
    """(name, version) that the meta package stands for now, or None when apt knows nothing."""
    depends = subprocess.run(["apt-cache", "depends", KERNEL_META_PACKAGE], capture_output=True, text=True, check=False)
    names = re.findall(r"Depends: (linux-image-\S+-cloud-amd64)$", depends.stdout, re.MULTILINE)
    if not names:
        return None
    policy = run(["apt-cache", "policy", names[0]])
    version = re.search(r"Candidate: (\S+)", policy)
    return (names[0], version.group(1)) if version and version.group(1) != "(none)" else None


def fetch_kernel(package, directory):
    def make(temporary):
        with tempfile.TemporaryDirectory(prefix=".deb-", dir=directory.parent) as download:
            run(["apt-get", "download", "-q", f"{package[0]}={package[1]}"], cwd=download)
            debs = list(pathlib.Path(download).glob("*.deb"))
            if len(debs) != 1:
                raise ImageError(f"apt-get download {package[0]} brought {len(debs)} files instead of one")
            run(["dpkg", "-x", str(debs[0]), str(temporary)])

    made_whole(directory, make)


def kernel_tree():
    """Directory with boot/vmlinuz-* and lib/modules/*; downloaded once per version."""
    cache = cache_dir()
    package = kernel_package()
    have = sorted(cache.glob("kernel-*"), key=os.path.getmtime)
    if package is None and have:
        return have[-1]
    if package is None:
        run(["apt-get", "update", "-q"])
        package = kernel_package()
    if package is None:
        raise ImageError(f"apt knows no {KERNEL_META_PACKAGE}: add Debian's main archive, or set MEMOC_GUEST_IMAGE")
    directory = cache / f"kernel-{package[0]}_{package[1].replace(':', '%3a')}"
    with locked(cache):
        if not directory.exists():
            try:
                fetch_kernel(package, directory)
            except ImageError:  # the archive moved on since apt's lists were made
                run(["apt-get", "update", "-q"])
                package = kernel_package() or package
                directory = cache / f"kernel-{package[0]}_{package[1].replace(':', '%3a')}"
                if not directory.exists():
                    fetch_kernel(package, directory)
    return directory


# ---- modules ----

def module_bytes(path):
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", str(path)], stdout=subprocess.PIPE, check=True).stdout
    return data


def collect_modules(tree):
    """[(name, bytes)] in load order, with what they depend on."""
    files = {}
    for path in tree.glob("lib/modules/*/kernel/**/*.ko*"):
        files[path.name.split(".ko")[0].replace("-", "_")] = path
    order = []

    def add(name):
        name = name.replace("-", "_")
        if name not in files or any(name == known for known, _ in order):
            return
        data = module_bytes(files[name])
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for needed in filter(None, (depends.group(1).decode() if depends else "").split(",")):
            add(needed)
        order.append((name, data))

    for name in MODULES:
        add(name)
    if "virtio_balloon" not in [name for name, _ in order]:
        raise ImageError(f"{tree}: no virtio_balloon module: this kernel is of no use as a guest")
    return order


SHT_SYMTAB, SHT_RELA = 2, 4


def sections_of(module):
    """The section headers of an ELF-64 file: name, type, flags, address, offset, size, link, info, alignment, entry size."""
    table, = struct.unpack_from("<Q", module, 0x28)
    size, count = struct.unpack_from("<HH", module, 0x3A)
    return [struct.unpack_from("<IIQQQQIIQQ", module, table + i * size) for i in range(count)]


def symbols_of(module):
    """(name, section, value) of each symbol, in the order of the table."""
    sections = sections_of(module)
    for _, kind, _, _, start, length, strings, _, _, _ in sections:
        for at in range(start, start + length, 24) if kind == SHT_SYMTAB else ():
            word, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", module, at)
            begin = sections[strings][4] + word
            yield module[begin:module.index(b"\0", begin)], section, value


def function_offset(module, name):
    """Where in the file of an x86-64 kernel module the code of a function begins."""
    sections = sections_of(module)
    for symbol, section, value in symbols_of(module):
        if symbol == name and section < len(sections):
            return sections[section][4] + value
    raise ImageError(f"the module has no function {name.decode()}")


def calls_of(module, name):
    """(where in the file the operand of a call of a function of the kernel is, where its relocation is), of each call."""
    sections, wanted = sections_of(module), [symbol for symbol, _, _ in symbols_of(module)].index(name)
    for _, kind, _, _, start, length, _, target, _, _ in sections:
        for at in range(start, start + length, 24) if kind == SHT_RELA else ():
            offset, info, _ = struct.unpack_from("<QQq", module, at)
            operand = sections[target][4] + offset
            if info >> 32 == wanted and module[operand - 1] == 0xE8:
                yield operand, at


def unsigned(module):
    """A wrong signature is refused, none is not."""
    magic = b"~Module signature appended~\n"  # kernel/module_signature.c: signature, its description of 12 bytes, this
    if not module.endswith(magic):
        return module
    end = len(module) - len(magic)
    return module[:end - 12 - int.from_bytes(module[end - 4:end], "big")]


def silent_driver(driver):
    """virtio_balloon that never answers when it is asked for statistics, as guests whose balloon service does not run.

    What it answers with is made in stats_request() (drivers/virtio/virtio_balloon.c), which returns at once here. What it
    tells unasked when it is loaded stays: one snapshot that never changes.
    """
    entry = function_offset(driver, b"stats_request")
    for prologue in (b"\xf3\x0f\x1e\xfa", b"\xe8\0\0\0\0"):  # endbr64 and the call of __fentry__ stay where there are such
        entry += len(prologue) if driver[entry:entry + len(prologue)] == prologue else 0
    return unsigned(driver[:entry] + b"\xc3" + driver[entry + 1:])


def lying_driver(driver):
    """virtio_balloon whose statistics always say that nothing is usable, as those of a guest that wants more than it needs.

    What it asks the kernel for that, si_mem_available(), is 0 here.
    """
    lying = bytearray(driver)
    for operand, relocation in calls_of(driver, b"si_mem_available"):
        lying[operand - 1:operand + 4] = b"\x31\xc0\x0f\x1f\x00"  # xor eax, eax; nop
        struct.pack_into("<Q", lying, relocation + 8, 0)  # R_X86_64_NONE
    if lying == driver:
        raise ImageError("the balloon driver does not call si_mem_available()")
    return unsigned(bytes(lying))


# ---- initramfs ----

class Cpio:
    """A writer for the newc format, which needs neither root nor temporary files."""

    def __init__(self):
        self.parts = []
        self.count = 0

    def add(self, name, mode, data=b""):
        self.count += 1
        raw = name.encode() + b"\0"
        fields = [self.count, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        self.parts.append(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))

    def bytes(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def find_busybox():
    for path in BUSYBOX:
        if os.path.exists(path):
            data = pathlib.Path(path).read_bytes()
            if b"ld-linux" not in data[:4096]:
                return data
    raise ImageError("no static busybox: install the package busybox-static")


def compile_workload(target):
    compiler = os.environ.get("MEMOC_GUEST_CC", "gcc")
    run([compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-s", "-o", str(target),
         str(HERE / "workload.c")])


def build_initrd(tree, temporary):
    compile_workload(temporary / "workload")
    modules = collect_modules(tree)
    cpio = Cpio()
    for directory in ("bin", "dev", "modules", "modules/lying", "modules/silent", "proc", "sys", "tmp"):
        cpio.add(directory, 0o040755)
    cpio.add("init", 0o100755, (HERE / "init").read_bytes())
    cpio.add("bin/busybox", 0o100755, find_busybox())
    cpio.add("workload", 0o100755, (temporary / "workload").read_bytes())
    for name, data in modules:
        cpio.add(f"modules/{name}.ko", 0o100644, data)
    for kind, made in (("silent", silent_driver), ("lying", lying_driver)):
        cpio.add(f"modules/{kind}/virtio_balloon.ko", 0o100644, made(dict(modules)["virtio_balloon"]))
    cpio.add("modules/order", 0o100644, "".join(f"{name}\n" for name, _ in modules).encode())
    # Not compressed: unpacking under software emulation costs more than reading.
    (temporary / "initrd").write_bytes(cpio.bytes())


def initrd_key(tree):
    digest = hashlib.sha256()
    for path in (HERE / "workload.c", HERE / "init", pathlib.Path(__file__)):
        digest.update(path.read_bytes())
    digest.update(find_busybox())
    digest.update(tree.name.encode())
    return digest.hexdigest()[:16]


class GuestImage:
    """`kernel` and `initrd`: paths of what a guest boots. tree: another kernel than Debian's, laid out as kernel_tree() is."""

    def __init__(self, tree=None):
        given = os.environ.get("MEMOC_GUEST_IMAGE")
        if given and tree is None:
            self.kernel, self.initrd = pathlib.Path(given) / "vmlinuz", pathlib.Path(given) / "initrd"
            for path in (self.kernel, self.initrd):
                if not path.exists():
                    raise ImageError(f"MEMOC_GUEST_IMAGE={given}: {path.name} is not there")
            return
        tree = tree or kernel_tree()
        kernels = list(tree.glob("boot/vmlinuz-*"))
        if len(kernels) != 1:
            raise ImageError(f"{tree}: {len(kernels)} kernels instead of one: remove the directory and try again")
        self.kernel = kernels[0]
        directory = cache_dir() / f"initrd-{initrd_key(tree)}"
        with locked(cache_dir()):
            cached(directory, lambda temporary: build_initrd(tree, temporary), "initrd-*")
        self.initrd = directory / "initrd"

    def export(self, directory):
        """Copies both into `directory`, in the shape that MEMOC_GUEST_IMAGE wants."""
        os.makedirs(directory, exist_ok=True)
        shutil.copyfile(self.kernel, os.path.join(directory, "vmlinuz"))
        shutil.copyfile(self.initrd, os.path.join(directory, "initrd"))


def main(argv):
    try:
        image = GuestImage()
    except ImageError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    if len(argv) > 1:
        image.export(argv[1])
    print(image.kernel)
    print(image.initrd)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
