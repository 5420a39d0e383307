# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host has been rebooted since the package was installed. Nobody has touched memocd or a VM since then."""

import os
import pathlib

from run import limit
from installed import Site, installed, journal, systemctl, unit, wait_for


class Bench(Site):
    def __init__(self, lab):
        super().__init__(lab)
        assert int(os.environ["BOOT"]) > 1 and installed(), "this module looks at a second boot"
        for name in self.NAMES:
            wait_for(lambda n=name: self.libvirtd.virsh("domstate", n) == "running", 60, f"libvirt to start {name}")
            self.guest(name)


def fixture(lab):
    yield Bench(lab)


@limit(240)
def test_autostarted_vms_are_managed(site):
    """Host boots, VMs autostart, memoc manages them; told by the journal, and by nobody's order."""
    # systemctl show does not wake it: only its own unit, or the hook's message, does.
    wait_for(lambda: unit("memocd.service", "ActiveState") == "active", 120, "memocd, by nobody's order",
             show=lambda: systemctl("status", "--no-pager", "memocd.service", check=False))
    site.wait_managed(limit_s=120)
    for name, guest in site.guests.items():
        entries = journal("-b", f"MEMOC_VM={name}")
        assert entries and entries[0]["MEMOC_UUID"] == guest.uuid, entries[:2]
    site.assert_unharmed()


def test_nothing_failed(site):
    """systemd is content, and memocd was started once."""
    assert site.memocd.running()
    failed = systemctl("--failed", "--no-legend", "--plain")
    assert "memoc" not in failed, failed
    assert unit("memocd.service", "NRestarts") == "0"
    assert pathlib.Path("/run/memoc/memoc.sock").exists()
