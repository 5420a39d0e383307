# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's two kernels, built from Debian's source of 6.12 and cached: of the host, and of the guests inside it.

Run as a program it builds what is missing and prints the directories. An entry of the cache (tests/guest/image.py says
where that is) is named after what went into it: version of the source, configuration, and the commands below.
"""

import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "guest"))

# pylint: disable=wrong-import-position
from image import ImageError, cache_dir, cached, locked, run

# Debian 12 has it among its security updates, Debian 13 as its own kernel's source.
SOURCE_PACKAGE = "linux-source-6.12"
# {source}: the unpacked source; {config}: our fragment. All run in the build's own directory, with O= for it.
CONFIGURE = ("make -s -C {source} O={build} tinyconfig", "{source}/scripts/kconfig/merge_config.sh -m -O {build} {build}/.config {config}",
             "make -s -C {source} O={build} olddefconfig")
BUILD = ("make -s -j{jobs} -C {source} O={build} {targets}", "strip --strip-debug -o {build}/vmlinux.stripped {build}/vmlinux")
# Both are started uncompressed, by their PVH entry.
TARGETS = {"host": "vmlinux", "guest": "vmlinux modules"}


def source_version():
    """What apt would install, or None."""
    policy = subprocess.run(["apt-cache", "policy", SOURCE_PACKAGE], capture_output=True, text=True, check=False)
    found = re.search(r"Candidate: (\S+)", policy.stdout)
    return found.group(1) if found and found.group(1) != "(none)" else None


def config(name):
    return HERE / f"{name}.config"


def key(name, version):
    digest = hashlib.sha256("\0".join([version, TARGETS[name], *CONFIGURE, *BUILD]).encode())
    digest.update(config(name).read_bytes())
    return digest.hexdigest()[:16]


def unpack(version, directory):
    """Path of the source tree below `directory`."""
    run(["apt-get", "download", "-q", f"{SOURCE_PACKAGE}={version}"], cwd=directory)
    package = next(iter(pathlib.Path(directory).glob("*.deb")))
    run(["dpkg", "-x", str(package), f"{directory}/package"])
    run(["tar", "-xf", f"{directory}/package/usr/src/{SOURCE_PACKAGE}.tar.xz", "-C", directory])
    return pathlib.Path(directory) / SOURCE_PACKAGE


def assert_configured(name, build):
    """An option that was dropped for a missing dependency would be missed much later, and elsewhere."""
    have = set((build / ".config").read_text(encoding="ascii").splitlines())
    wanted = [line for line in config(name).read_text(encoding="ascii").splitlines() if re.match(r"CONFIG_\w+=", line)]
    lost = [line for line in wanted if line not in have and not (line.endswith("=n") and line[:-1] + "y" not in have)]
    if lost:
        raise ImageError(f"{config(name)}: this kernel does not take {', '.join(lost)}")


def build_kernel(name, source, directory):
    """boot/vmlinuz-NAME and lib/modules/NAME/kernel/*, as a distribution's package has them."""
    def make(temporary):
        build = pathlib.Path(tempfile.mkdtemp(prefix=f"build-{name}-", dir=source.parent))
        words = {"source": source, "build": build, "config": config(name), "targets": TARGETS[name], "jobs": os.cpu_count()}
        for command in CONFIGURE:
            run(command.format(**words).split())
        assert_configured(name, build)
        for command in BUILD:
            run(command.format(**words).split())
        (temporary / "boot").mkdir()
        os.rename(build / "vmlinux.stripped", temporary / f"boot/vmlinuz-{name}")
        (temporary / "config").write_bytes((build / ".config").read_bytes())
        modules = temporary / "lib/modules" / name / "kernel"
        modules.mkdir(parents=True)
        for path in build.glob("**/*.ko"):
            (modules / path.name).write_bytes(path.read_bytes())

    cached(directory, make, f"lab-kernel-{name}-*")


def kernel_trees(say=print):
    """{"host": directory, "guest": directory}; what is not in the cache is built, which takes minutes."""
    cache = cache_dir()
    version = source_version()
    if version is None:
        run(["apt-get", "update", "-q"])
        version = source_version()
    if version is None:
        raise ImageError(f"apt knows no {SOURCE_PACKAGE}: Debian 12 has it among its security updates")
    trees = {name: cache / f"lab-kernel-{name}-{key(name, version)}" for name in TARGETS}
    with locked(cache / "lab"):
        missing = [name for name, tree in trees.items() if not tree.exists()]
        if missing:
            say(f"lab: building the kernel of {' and '.join(missing)} from {SOURCE_PACKAGE} {version}")
            with tempfile.TemporaryDirectory(prefix=".kernel-", dir=cache) as directory:
                try:
                    source = unpack(version, directory)
                except ImageError:  # the archive moved on since apt's lists were made
                    run(["apt-get", "update", "-q"])
                    source = unpack(version, directory)
                for name in missing:
                    build_kernel(name, source, trees[name])
        for tree in trees.values():
            os.utime(tree)
    return trees


if __name__ == "__main__":
    try:
        print(*kernel_trees().values(), sep="\n")
    except ImageError as error:
        sys.exit(f"kernels: {error}")
