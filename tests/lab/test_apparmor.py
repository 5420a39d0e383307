# SPDX-License-Identifier: LGPL-2.1-or-later
"""AppArmor is on, as on a stock Debian: libvirt confines itself and its VMs, the hook runs, and memocd works under its own profile too.

    python3 tests/lab/run.py -k test_apparmor        on demand: profiles for each VM are compiled under emulation
"""

import pathlib
import re
import time

from host import MIB
from run import limit
from installed import CONFIG, Site, journal, run, systemctl, wait_for

APPARMOR = pathlib.Path("/etc/apparmor.d")
HEAD = pathlib.Path("/etc/apparmor.d/usr.sbin.memocd")


def confined_by(pid):
    """The profile of a process and its mode."""
    return pathlib.Path(f"/proc/{pid}/attr/current").read_text(encoding="ascii").strip("\n\0")


def denied(since):
    """What AppArmor has refused since then."""
    text = run(["journalctl", "-q", "-o", "cat", "--since", f"@{since:.6f}"], limit_s=60).stdout
    return [line for line in text.splitlines() if 'apparmor="DENIED"' in line]


class Bench(Site):
    def __init__(self, lab):
        super().__init__(lab)
        self.began = time.time()
        self.ready()
        self.work()

    def restart_guests(self):
        """A VM's profile is made when it starts."""
        for guest in self.guests.values():
            guest.destroy()
            guest.start()
        for guest in self.guests.values():
            guest.wait_ready()


def fixture(lab):
    assert pathlib.Path("/sys/module/apparmor/parameters/enabled").read_text(encoding="ascii").strip() == "Y", "AppArmor is off"
    yield Bench(lab)


@limit(240)
def test_libvirt_confines_and_the_hook_runs(site):
    """libvirtd and each QEMU are under profiles in force; a VM starts, memocd hears of it from the hook, and nothing of memoc's is refused."""
    assert re.fullmatch(r"(libvirtd|/usr/sbin/libvirtd) \(enforce\)", confined_by(site.libvirtd.pid)), confined_by(site.libvirtd.pid)
    site.memocd.config_path.write_text("[log]\nlevel = debug\n", encoding="ascii")
    site.memocd.reload()
    guest = site.guest("late", 96)
    guest.wait_ready()
    assert confined_by(guest.pid) == f"libvirt-{guest.uuid} (enforce)", confined_by(guest.pid)
    wait_for(lambda: any(str(entry["MESSAGE"]) == "hook: late prepare" for entry in journal("-u", "memocd")), 60, "the hook to tell of late")
    site.wait_managed("late")
    site.check()
    site.remove(guest)
    refused = [line for line in denied(site.began) if "memoc" in line]
    assert not refused, refused
    assert confined_by(site.memocd.pid) == "unconfined", "memocd's own profile comes switched off"


@limit(400)
def test_memocds_own_profile(site):
    """Switched on as its head says: memocd is confined, serves its VMs, limits them and measures them, and nothing is refused to it."""
    text = HEAD.read_text(encoding="utf-8")
    steps = re.findall(r"^#   ((?:echo|rm|apparmor_parser) .*)$", text, re.MULTILINE)
    assert len(steps) == 4, steps
    includes = "libvirt-qemu.d" in (APPARMOR / "abstractions/libvirt-qemu").read_text(encoding="utf-8")
    for step in steps[int(includes):2]:
        run(["sh", "-ec", f"mkdir -p {APPARMOR}/local/abstractions; {step}"])
    site.restart_guests()
    since = time.time()
    for step in steps[2:]:
        run(["sh", "-ec", step], limit_s=120)
    site.memocd.wait_answering()
    assert confined_by(site.memocd.pid) == "memocd (enforce)", confined_by(site.memocd.pid)
    site.memocd.write_config({**CONFIG, "policy": {**CONFIG["policy"], "wss_window": "2s"}, "wss": {"budget": "50%"}})
    systemctl("restart", "memocd.service")
    site.memocd.wait_answering()
    site.work()
    site.wait_managed()
    for backend in ("auto", "lru", "damon", "idle-host"):
        site.memocd.write_config({**CONFIG, "policy": {**CONFIG["policy"], "wss_window": "2s"}, "wss": {"budget": "50%", "backend": backend}})
        site.memocd.reload()
        wanted = "idle" if backend == "auto" else backend
        wait_for(lambda wanted=wanted: re.search(f"MiB, by {wanted}, ", site.memocd.memoc_text("explain", "web")), 90, f"a reading by {wanted}",
                 show=lambda: site.memocd.memoc_text("explain", "web"))
    limits = site.limit_all()
    assert all(limit_bytes and limit_bytes > 64 * MIB for limit_bytes in limits.values()), limits
    site.check()
    refused = [line for line in denied(since) if "memocd" in line]
    assert not refused, refused
    # That nothing was refused says something only where a refusal would have been seen.
    secret = run(["aa-exec", "-p", "memocd", "--", "/usr/sbin/memocd", "--check-config", "--config", "/etc/shadow"], check=False)
    assert secret.returncode != 0, secret
    wait_for(lambda: any("/etc/shadow" in line for line in denied(since)), 30, "a refusal to be seen", show=lambda: denied(since))
