# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package's later life, with VMs under load: upgrade, removal, purge. In this order; afterwards memoc is not there any more."""

import pathlib
import re
import time

import host
from host import MIB
from run import limit
from installed import BAD_CONFIG, DEB, HOOKS, PACE_S, Site, foreign_hooks, installed, plant_foreign_hooks, run, systemctl, unit, wait_for

LEFT_BEHIND = ["/run/memoc", "/var/lib/memoc", "/etc/memoc", "/usr/sbin/memocd", "/usr/sbin/memoc-hook", "/usr/bin/memoc",
               "/etc/libvirt/hooks/qemu.d/50-memoc"]


class Bench(Site):
    def __init__(self, lab):
        super().__init__(lab)
        self.foreign = plant_foreign_hooks()
        self.ready()
        self.work()


def fixture(lab):
    yield Bench(lab)


def another_version(version, directory):
    """The package under another version number: what is in it does not matter here, but what its scripts do."""
    tree = pathlib.Path(directory) / "package"
    run(["dpkg-deb", "-R", DEB, tree], limit_s=60)
    control = tree / "DEBIAN/control"
    text = re.sub(r"^Version: .*$", f"Version: {version}", control.read_text(encoding="utf-8"), flags=re.MULTILINE)
    control.write_text(text, encoding="utf-8")
    target = pathlib.Path(directory) / f"memoc_{version}.deb"
    run(["dpkg-deb", "-Znone", "-b", tree, target], limit_s=60)
    return target


def rates(site, what):
    """{name: pages a second that its workload went through while what() ran}, by the guest's own clock."""
    first = {name: guest.report() for name, guest in site.guests.items()}
    what()
    last = {name: guest.report() for name, guest in site.guests.items()}
    return {name: 1000 * (last[name]["walked_pages"] - one["walked_pages"]) / (last[name]["at_ms"] - one["at_ms"]) for name, one in first.items()}


@limit(240)
def test_upgrade_under_load(site):
    """A newer package over this one: memocd is another process, VMs and libvirtd are not; pins, policies and limits stay, and the
    guests' work goes on meanwhile."""
    kept = site.limit_all()
    alone = rates(site, lambda: time.sleep(4 * PACE_S))
    site.memocd.memoc_text("set", "web", "weight=150")
    site.memocd.memoc_text("hold", "db")
    pids, pid, libvirtd = {name: guest.pid for name, guest in site.guests.items()}, site.memocd.pid, site.libvirtd.pid

    def upgrade():
        site.install(another_version("999.0", site.base))
        wait_for(lambda: site.memocd.pid not in (0, pid), 30, "the new memocd")
        site.memocd.wait_answering()
        site.wait_managed()

    meanwhile = rates(site, upgrade)
    print("pages a second that the guests went through, without and with the upgrade: " +
          ", ".join(f"{name} {alone[name]:.0f}, {meanwhile[name]:.0f}" for name in alone))
    # dpkg takes processor time from the guests of an emulated host; a guest that swaps or stands still would do next to nothing.
    assert all(alone[name] > 0 and meanwhile[name] >= alone[name] / 10 for name in alone), (alone, meanwhile)
    assert {name: guest.pid for name, guest in site.guests.items()} == pids and site.libvirtd.pid == libvirtd
    for name in site.guests:
        vm = site.memocd.vm(name)
        assert abs(vm["target_bytes"] - 112 * MIB) < 2 * MIB and vm["limit_bytes"] is not None, vm
    # Never open; and as before, but for what QEMU's own memory has moved, which a limit follows.
    assert None not in site.limits().values(), site.limits()
    wait_for(lambda: all(abs(now - kept[name]) <= 8 * MIB for name, now in site.limits().items()), 30, f"limits of {kept}", show=site.limits)
    assert "150" in site.memocd.memoc_text("get", "web") and site.memocd.info("db")["held"]
    site.memocd.memoc_text("release", "db")
    assert site.memocd.config_path.exists(), "the administrator's configuration is gone"
    site.assert_unharmed()
    assert foreign_hooks() == site.foreign


@limit(480)
def test_remove_drains_first(site):
    """apt remove: limits are open and balloons empty before memocd goes, whether it runs or is kept from it; libvirt forgets the hook; VMs
    go on."""
    pids = {name: guest.pid for name, guest in site.guests.items()}
    for how in ("running", "disabled", "badly configured"):  # masked goes the way of disabled
        site.limit_all()
        if how == "disabled":  # what it did stays: on_exit = keep
            systemctl("disable", "--now", "memocd.socket", "memocd.service")
        elif how == "badly configured":
            BAD_CONFIG.write_text("[policy]\ndead_band = often\n", encoding="ascii")
            systemctl("restart", "memocd.service", check=False)
            wait_for(lambda: unit("memocd.service", "ActiveState") == "failed", 60, "the unit to fail")
        assert None not in site.limits().values(), (how, site.limits())
        site.apt("remove", "memoc")
        assert set(site.limits().values()) == {None}, (how, site.limits())
        for name, guest in site.guests.items():
            wait_for(lambda g=guest: g.balloon_bytes() == g.memory_mib * MIB, 30, f"the balloon of {name}", show=guest.memory_stats)
        assert {name: guest.pid for name, guest in site.guests.items()} == pids, how
        assert not host.processes_naming("memocd --config /dev/null"), how
        if how != "badly configured":
            site.install()
            systemctl("enable", "--now", "memocd.socket", "memocd.service")
            site.memocd.wait_answering()
            for name in site.guests:
                site.memocd.wait_vm(name, lambda vm: vm["state"] != "starting", 60, "to be known")
                site.memocd.memoc_text("release", name)  # what was drained stays so until somebody says otherwise
            site.wait_managed()
    BAD_CONFIG.unlink()
    assert not (HOOKS / "qemu.d/50-memoc").is_symlink() and unit("memocd.service", "LoadState") == "not-found"
    site.assert_unharmed()
    guest = site.guests["db"]
    guest.destroy()
    guest.start()
    guest.wait_ready()
    assert foreign_hooks() == site.foreign


@limit(120)
def test_purge_leaves_nothing(site):
    """apt purge: no file, no group, no unit of memoc is left, and no other hook was touched."""
    site.apt("purge", "memoc")
    assert not installed()
    left = [path for path in LEFT_BEHIND if pathlib.Path(path).is_symlink() or pathlib.Path(path).exists()]
    left += [str(path) for top in ("/usr/lib", "/lib/systemd", "/etc/systemd", "/usr/share", "/var/lib/systemd")
             for path in pathlib.Path(top).glob("**/*memoc*") if "memoc-lab" not in str(path)]
    left += [str(path) for path in pathlib.Path("/etc/apparmor.d").glob("**/*memoc*")]
    assert not left, left
    assert run(["getent", "group", "memoc"], check=False).returncode != 0, "the group memoc is still there"
    assert systemctl("list-units", "--all", "--no-legend", "--plain", "memocd*") == ""
    assert foreign_hooks() == site.foreign
