# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package comes to a host where libvirtd and VMs run already. These tests build on one another, in their order."""

import json
import os
import pathlib
import re
import time

from run import limit
from installed import FOREIGN_LOG, HOOKS, Site, foreign_hooks, installed, journal, plant_foreign_hooks, run, systemctl, unit, wait_for


class Bench(Site):
    def __init__(self, lab):
        super().__init__(lab)
        self.was_installed = installed()  # set up again after a test failed
        self.foreign = plant_foreign_hooks()  # libvirtd looked for hooks when it started, and found none: it calls none of them yet
        self.start_guests()
        self.work()
        self.before = {name: guest.pid for name, guest in self.guests.items()}
        self.libvirtd_pid = self.libvirtd.pid


def fixture(lab):
    yield Bench(lab)


@limit(180)
def test_install_adopts_running_vms(site):
    """apt install, and nothing else: memocd runs and manages the VMs of before; no VM and no libvirtd was restarted."""
    assert not site.was_installed, "memoc is here already: this test is about its installation"
    site.install()
    assert unit("memocd.service", "ActiveState") == "active" and unit("memocd.socket", "ActiveState") == "active"
    assert unit("memocd.service", "UnitFileState") == "enabled" and unit("memocd.socket", "UnitFileState") == "enabled"
    site.memocd.wait_answering()
    site.wait_managed()
    assert {name: guest.pid for name, guest in site.guests.items()} == site.before, "a VM was restarted"
    assert site.libvirtd.pid == site.libvirtd_pid, "libvirtd was restarted"
    site.assert_unharmed()


def test_files_are_where_they_belong(site):
    """Groups by sysusers, directories by tmpfiles and the unit, the hook as a link to the program."""
    groups = run(["getent", "group", "memoc", "libvirt"]).stdout
    assert groups.count("\n") == 2, groups
    assert os.stat("/run/memoc").st_mode & 0o7777 == 0o755 and os.stat("/var/lib/memoc").st_mode & 0o7777 == 0o700
    assert os.readlink(HOOKS / "qemu.d/50-memoc") == "/usr/sbin/memoc-hook"
    assert run(["memoc", "--version"]).stdout.split()[0] == "memoc"
    said = run(["systemd-analyze", "verify", "--man=no", "memocd.service", "memocd.socket"], check=False)
    assert said.returncode == 0 and "memoc" not in said.stdout + said.stderr, said
    run(["systemd-analyze", "security", "--threshold=40", "memocd.service"])


@limit(180)
def test_hook_is_seen_without_a_restart(site):
    """libvirtd, which had found no hook at all when it started, was reloaded by the package: a VM that starts now is told to memocd by
    the hook, and the administrator's hooks run beside it."""
    FOREIGN_LOG.unlink(missing_ok=True)
    site.memocd.config_path.write_text("[log]\nlevel = debug\n", encoding="ascii")
    site.memocd.reload()
    wait_for(lambda: re.search(r"^log\.level +debug ", site.memocd.memoc_text("config"), re.MULTILINE), 30, "memocd to tell more")
    guest, began = site.guest("late", 96), time.monotonic()
    guest.wait_ready()
    print(f"a guest of 96 MiB is ready {time.monotonic() - began:.1f} s after it was started")
    wait_for(lambda: any(str(e["MESSAGE"]) == "hook: late prepare" for e in journal("-u", "memocd")), 60, "the hook to tell of late")
    assert [event["event"] for event in site.memocd.events() if event["vm"] == "late"][0] == "added"
    site.check()
    guest.destroy()
    life = wait_for(lambda: [e["MEMOC_EVENT"] for e in journal("MEMOC_VM=late")][-1:] == ["gone"] and
                    [e["MEMOC_EVENT"] for e in journal("MEMOC_VM=late")], 30, "the journal to tell of late's end")
    assert life[0] == "added" and life.count("added") == life.count("gone") == 1, life
    guest.undefine()
    del site.guests["late"]
    said = wait_for(lambda: FOREIGN_LOG.exists() and "other late release" in FOREIGN_LOG.read_text(encoding="utf-8")
                    and FOREIGN_LOG.read_text(encoding="utf-8"), 20, "the administrator's hooks")
    for word in ("main", "site", "other"):
        assert f"{word} late prepare begin" in said, said


def test_foreign_hooks_are_untouched(site):
    """Content, mode, owner and times of the administrator's hooks are those of before."""
    assert foreign_hooks() == site.foreign


def fact(path):
    return pathlib.Path(path).read_text(encoding="ascii").strip()


def test_check_passes(site):
    """memoc check: all is right here, line by line as the kernel and systemd say it themselves; what is made wrong is told with a remedy."""
    def check():
        done = run(["memoc", "--json", "check"], check=False)
        return done.returncode, {row["check"]: row for row in json.loads(done.stdout)}

    status, rows = check()
    print("\n".join(f"{row['result']}  {name:15} {row['text']}" for name, row in rows.items()))
    assert status == 0 and {row["result"] for row in rows.values()} == {"PASS"}, rows
    text = {name: row["text"] for name, row in rows.items()}
    assert fact("/proc/version").split()[2] in text["madvise"] and f"vm.swappiness={fact('/proc/sys/vm/swappiness')}" in text["swappiness"]
    assert f"vm.overcommit_memory={fact('/proc/sys/vm/overcommit_memory')}" in text["overcommit"] and "v2" in text["cgroup"], text
    assert os.path.exists("/sys/kernel/mm/page_idle/bitmap") and "idle page tracking" in text["wss"], text
    assert int(fact("/sys/kernel/mm/lru_gen/enabled"), 0) & 1 and "is on" in text["mglru"], text
    assert f"process {site.libvirtd.pid}" in text["hook-seen"] and str(HOOKS / "qemu.d/50-memoc") in text["hook"], text
    assert f"{len(site.guests)} VMs" in text["page-reporting"], text

    link = HOOKS / "qemu.d/50-memoc"
    target = os.readlink(link)
    site.memocd.memoc_text("hold")
    link.unlink()
    try:
        link.touch(0o644)
        status, rows = check()
    finally:
        link.unlink()
        link.symlink_to(target)
        site.memocd.memoc_text("release")
    assert status == 1 and rows["hook"]["result"] == "FAIL" and rows["hook"]["remedy"], rows["hook"]
    assert rows["memocd-mode"]["result"] == "WARN" and "release" in rows["memocd-mode"]["remedy"], rows["memocd-mode"]
    assert check()[0] == 0
