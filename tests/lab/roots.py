# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lab's host boots from and what is installed on it: a root file system of a Debian release, and memoc's package.

All is cached by what went into it (tests/guest/image.py says where). The package is built on the release that it is for:
on this machine when that has it, or else in a file system of that release. Archives are those of this machine's apt.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "guest"))

# pylint: disable=wrong-import-position
from image import ImageError, cache_dir, locked, cached, run

FLAVOURS = ("bookworm", "trixie")
# systemd-container has machined, which gives VMs their scopes; python3 is for the tests.
HOST_PACKAGES = ["systemd", "systemd-sysv", "systemd-container", "dbus", "udev", "libpam-systemd", "libvirt-daemon-system",
                 "libvirt-daemon-driver-qemu", "libvirt-clients", "qemu-system-x86", "python3", "apparmor", "procps", "kmod",
                 "e2fsprogs", "iproute2", "util-linux"]
BUILD_PACKAGES = ["build-essential", "dpkg-dev", "fakeroot", "lintian"]
# Nobody reads them there; less to unpack and to write.
LEFT_OUT = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/lintian/*"]
LEFT_OUT_OF_BUILD = [path for path in LEFT_OUT if "lintian" not in path]  # which is a link into there
IMAGE_SIZE = "3G"

# Runs whatever the share holds; see machine.py.
UNIT = """[Unit]
Description=Work of the memoc lab
After=libvirtd.service dbus.service
[Service]
Type=simple
ExecStart=/bin/sh -c 'mkdir -p /lab && mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 lab /lab && exec /bin/sh /lab/job'
StandardOutput=journal+console
TimeoutStopSec=5
[Install]
WantedBy=multi-user.target
"""
# No address to wait for, no login on the console, nothing that runs by the clock.
MASKED = ["serial-getty@ttyS0.service", "getty@tty1.service", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer",
          "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "logrotate.timer", "man-db.timer", "libvirt-guests.service",
          "systemd-networkd-wait-online.service"]


def digest_of(*parts):
    """Of these, and of this file: how a file system is made is part of what it is."""
    made_by = pathlib.Path(__file__).read_text(encoding="utf-8")
    return hashlib.sha256("\0".join([*map(str, parts), made_by]).encode()).hexdigest()[:16]


def codename():
    return re.search(r"^VERSION_CODENAME=(\w+)", pathlib.Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE).group(1)


# ---- Debian ----

def mirror():
    """The archive that this machine's apt uses for the distribution itself: MEMOC_LAB_MIRROR names another."""
    given = os.environ.get("MEMOC_LAB_MIRROR")
    if given:
        return given
    listing = run(["apt-get", "indextargets", "--format", "$(SITE) $(ORIGIN) $(RELEASE)", "Created-By: Packages"])
    for line in listing.splitlines():
        site, origin, release = line.rsplit(" ", 2)
        if origin == "Debian" and "-" not in release:
            return site
    raise ImageError("apt names no archive of Debian: set MEMOC_LAB_MIRROR")


def apt_options():
    """Of this machine's apt what a file system made from the same archive needs too: proxies, and whether dates are checked."""
    dump = run(["apt-config", "dump"])
    return re.findall(r"^(Acquire::\S*(?:Check-|[Pp]roxy)\S* .*);$", dump, re.MULTILINE)


def bootstrap(flavour, packages, directory, left_out=()):
    """A minimal system with these packages, by mmdebstrap: it asks apt, so what a package depends on may be anything."""
    words = ["mmdebstrap", "--quiet", "--variant=apt", "--format=directory", f"--include={','.join(packages)}",
             '--aptopt=Apt::Install-Recommends "false"']
    words += [f"--aptopt={option}" for option in apt_options()]
    words += [f"--dpkgopt=path-exclude={pattern}" for pattern in left_out]
    run([*words, flavour, str(directory), mirror()])


# ---- memoc's package ----

def sources():
    """Files that go into the package, without those of the tests."""
    found = []
    for name in ("Makefile", "LICENSE", "README.md", "common", "controller", "hooks", "packaging"):
        path = TREE / name
        found += sorted(p for p in path.glob("**/*") if p.is_file() and "__pycache__" not in p.parts) if path.is_dir() else [path]
    return found


def sources_key():
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.relative_to(TREE)}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def build_dependencies():
    """Names out of debian/control."""
    control = (TREE / "packaging/debian/control").read_text(encoding="utf-8")
    field = re.search(r"^Build-Depends:((?:.*\n)(?:[ \t].*\n)*)", control, re.MULTILINE).group(1)
    names = [re.sub(r"[ (<\[|].*", "", word.strip()) for word in field.split(",")]
    compat = re.search(r"debhelper-compat", field)
    return sorted({name for name in names if name and name != "debhelper-compat"} | ({"debhelper"} if compat else set()))


def build_root(flavour):
    """A file system of that release in which the package can be built."""
    packages = BUILD_PACKAGES + build_dependencies()
    directory = cache_dir() / f"lab-build-{flavour}-{digest_of(*packages, *LEFT_OUT_OF_BUILD)}"
    cached(directory, lambda temporary: bootstrap(flavour, packages, temporary / "root", LEFT_OUT_OF_BUILD), f"lab-build-{flavour}-*")
    return directory / "root"


def make_deb_in(root, output):
    """`make deb` in a copy of the sources inside `root`, which stays as it is: the copy and /proc live in a mount namespace."""
    script = """set -e
mount -t tmpfs lab "$1/mnt"; mount -t proc proc "$1/proc"; mount -t tmpfs tmp "$1/tmp"
mkdir "$1/mnt/memoc" "$1/mnt/out"
tar -c -C "$2" --exclude=__pycache__ Makefile LICENSE README.md common controller hooks packaging tests | tar -x -C "$1/mnt/memoc"
chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/tmp make -C /mnt/memoc deb B=/mnt/out
cp "$1"/mnt/out/deb/*.deb "$3"
"""
    run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(root), str(TREE), str(output)])


def make_deb_here(output):
    with tempfile.TemporaryDirectory(prefix=".deb-", dir=cache_dir()) as directory:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        run(["make", "-C", str(TREE), "deb", f"B={directory}"], env=environment)
        for path in pathlib.Path(directory).glob("deb/*.deb"):
            shutil.copy(path, output)


def package(flavour, say=print):
    """Path of the .deb for that release."""
    directory = cache_dir() / f"lab-deb-{flavour}-{sources_key()}"
    with locked(cache_dir() / "lab"):
        if not directory.exists():
            say(f"lab: building memoc's package for {flavour}")
        here = codename() == flavour
        cached(directory, make_deb_here if here else lambda output: make_deb_in(build_root(flavour), output), f"lab-deb-{flavour}-*")
    return next(path for path in directory.glob("memoc_*.deb"))


def dependencies(deb):
    """Names of what the package depends on."""
    depends = run(["dpkg-deb", "-f", str(deb), "Pre-Depends", "Depends"])
    depends = re.sub(r"^(Pre-)?Depends:", ",", depends, flags=re.MULTILINE)
    return sorted({re.sub(r"[ (|:].*", "", word.strip()) for word in depends.replace("\n", " ").split(",") if word.strip()})


# ---- root file system ----

def furnish(root):
    """Makes a host of it that does the lab's work after boot."""
    (root / "etc/systemd/system/memoc-lab.service").write_text(UNIT, encoding="ascii")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "memoc-lab.service").symlink_to("/etc/systemd/system/memoc-lab.service")
    for name in MASKED:
        with contextlib.suppress(FileNotFoundError):
            (root / "etc/systemd/system" / name).unlink()
        (root / "etc/systemd/system" / name).symlink_to("/dev/null")
    (root / "etc/hostname").write_text("lab\n", encoding="ascii")
    (root / "etc/hosts").write_text("127.0.0.1 localhost lab\n", encoding="ascii")
    (root / "etc/fstab").write_text("", encoding="ascii")
    (root / "etc/machine-id").write_text("", encoding="ascii")
    (root / "var/log/journal").mkdir(exist_ok=True)


def root_image(flavour, deb, say=print):
    """Path of an ext4 image without memoc, but with all that its package depends on."""
    packages = sorted({*HOST_PACKAGES, *dependencies(deb)})
    depends = run(["dpkg-deb", "-f", str(deb), "Pre-Depends", "Depends"])  # with versions: an older image may not do for it
    directory = cache_dir() / f"lab-root-{flavour}-{digest_of(*packages, depends, UNIT, *MASKED, IMAGE_SIZE, *LEFT_OUT)}"

    def make(temporary):
        root = temporary / "root"
        bootstrap(flavour, packages, root, LEFT_OUT)
        furnish(root)
        run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(root), str(temporary / "root.img"), IMAGE_SIZE])
        shutil.rmtree(root)

    with locked(cache_dir() / "lab"):
        if not directory.exists():
            say(f"lab: making a root file system of {flavour}")
        cached(directory, make, f"lab-root-{flavour}-*")
    return directory / "root.img"


def main(argv):
    flavour = argv[1] if len(argv) > 1 else FLAVOURS[0]
    if flavour not in FLAVOURS:
        print(f"roots: {flavour}: one of {', '.join(FLAVOURS)}", file=sys.stderr)
        return 2
    try:
        deb = package(flavour)
        print(deb)
        print(root_image(flavour, deb))
    except (ImageError, subprocess.SubprocessError) as error:
        print(f"roots: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
