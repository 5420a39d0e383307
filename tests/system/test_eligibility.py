# SPDX-License-Identifier: LGPL-2.1-or-later
"""What memocd makes of a VM as its XML describes it: memory in huge pages, devices that come later or are missing."""

import pathlib

from guest import pluggable_xml
from lab import KernelSetting
from stage import MIB, Stage, brief, host, wait_for

MEMORY_MIB = 256
DIMM_MIB = 128
CONFIG = {"host": {"pool": "3G", "buffer": "64M"}, "policy": {"grace": "1s", "dwell": "0s"}}
# Huge pages that are got when they are wanted and go with QEMU: nothing is reserved. (<locked/> takes CAP_SYS_RESOURCE.)
SURPLUS = pathlib.Path("/proc/sys/vm/nr_overcommit_hugepages")
HUGE = "<memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages><source type='memfd'/></memoryBacking>"


class Bench(Stage):
    """One guest to plug memory into, whose statistics are off; one in huge pages; one without balloon device that has memory to give."""

    def __init__(self, lab):
        super().__init__(lab, CONFIG, swap_mib=512)
        self.memocd.start()
        self.plug = self.guest("plug", MEMORY_MIB, stats_period=None, extra_xml=pluggable_xml(MEMORY_MIB))
        KernelSetting(lab, SURPLUS, int(SURPLUS.read_text(encoding="ascii")) + MEMORY_MIB * MIB // host.meminfo_bytes("Hugepagesize"))
        self.huge = self.guest("huge", MEMORY_MIB, extra_xml=HUGE)
        self.bare = self.guest("bare", MEMORY_MIB, balloon=False, fill=True)
        self.start_guests()

    def balloon_xml(self, name):
        """The element of the running VM's XML."""
        text = self.guests[name].virsh("dumpxml")
        return text[text.index("<memballoon"):text.index("</memballoon>")]


def fixture(lab):
    yield Bench(lab)


def test_statistics_are_switched_on_where_they_are_off(bench):
    """No <stats> in the XML: memocd sets a period of one second in libvirt, and the guest's own word arrives."""
    assert "<stats" not in bench.plug.xml()
    bench.wait_vm("plug", lambda vm: vm["usable_bytes"] is not None and vm["stats_age_ms"] < 3000, "fresh statistics")
    assert "<stats period='1'/>" in bench.balloon_xml("plug"), bench.balloon_xml("plug")
    assert bench.memocd.info("plug")["stats_period_s"] == 1


def test_plugged_memory_is_noticed(bench):
    """virsh attach-device of memory: told by libvirt's event, memocd reads the XML anew and counts the VM with what it may use now."""
    before = bench.memocd.host()["committed_bytes"]
    assert bench.vm("plug")["max_bytes"] == MEMORY_MIB * MIB, bench.vm("plug")
    bench.plug.plug(DIMM_MIB)
    vm = bench.wait_vm("plug", lambda vm: vm["max_bytes"] == (MEMORY_MIB + DIMM_MIB) * MIB, "its new size", limit_s=10)
    assert vm["eligible"], vm
    wait_for(lambda: bench.memocd.host()["committed_bytes"] == before + DIMM_MIB * MIB, 10, "the books",
             show=bench.memocd.host)
    bench.assert_unharmed("plug")


def test_huge_pages_are_never_resized(bench):
    """<hugepages/>: fixed and not eligible, with the reason, counted whole, refused to people, and left alone by a host that is short."""
    bench.wait_steady("plug", "bare")
    vm = bench.wait_vm("huge", lambda vm: vm["state"] == "fixed", "to be fixed")
    assert not vm["eligible"] and "huge pages" in vm["ineligible_reason"], vm
    text = bench.memocd.memoc_text("info", "huge"), bench.explain("huge")
    assert all("huge pages" in one for one in text), text
    assert bench.memocd.run("resize", "huge", "128M").returncode == 1
    total = bench.memocd.host()
    assert total["granted_bytes"] >= sum(one["target_bytes"] for one in bench.memocd.list().values()) >= vm["max_bytes"]
    mark = bench.mark()
    bench.memocd.write_config(dict(CONFIG, host={"pool": str(total["granted_bytes"] - 96 * MIB), "buffer": "64M"}))
    bench.memocd.reload()
    # By its event: what is short is met within milliseconds.
    bench.wait_event("level", None, mark, matches=lambda event: event["reason"].endswith(("hard", "low")))
    bench.wait_event("limit-confirmed", "bare", mark, matches=lambda event: event["to_bytes"] is not None)
    bench.wait_event("target", "plug", mark)
    bench.memocd.write_config(CONFIG)
    bench.memocd.reload()
    wait_for(lambda: bench.memocd.host()["level"] == "high", 60, "the end of it", show=bench.memocd.host)
    assert not bench.events(mark, "huge"), brief(bench.events(mark, "huge"))
    assert bench.huge.cgroup().limit() is None and bench.huge.balloon_bytes() == MEMORY_MIB * MIB
    vm = bench.vm("huge")
    assert vm["state"] == "fixed" and vm["target_bytes"] == vm["max_bytes"], vm
    bench.assert_unharmed("huge")
