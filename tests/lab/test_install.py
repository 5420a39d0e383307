# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package comes to a host where libvirtd and VMs run already. These tests build on one another, in their order."""

import os
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
    """Groups by sysusers, directories by tmpfiles and the unit, the hook as a link that AppArmor lets libvirtd follow."""
    groups = run(["getent", "group", "memoc", "libvirt"]).stdout
    assert groups.count("\n") == 2, groups
    assert os.stat("/run/memoc").st_mode & 0o7777 == 0o755 and os.stat("/var/lib/memoc").st_mode & 0o7777 == 0o700
    assert os.readlink(HOOKS / "qemu.d/50-memoc") == "/usr/sbin/memoc-hook"
    assert run(["memoc", "--version"]).stdout.split()[0] == "memoc"


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


def test_check_passes(site):
    """memoc check: every line is true, and none is bad; each line that is not PASS says what to do."""
    done = run(["memoc", "check"], check=False)
    print(done.stdout)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert done.returncode == 0 and not [line for line in lines if line.startswith("FAIL")], done.stdout
