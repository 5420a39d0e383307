# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that uses much and touches little keeps it while nobody lacks it; when another does, it pays by its limit, down to its share."""

from host import MIB
from run import limit
from installed import CONFIG, Site, systemctl, wait_for
from windows import HugePages

MEMORY_MIB = 256
USED_MIB = 170
NEVER_MS = 24 * 3600 * 1000  # the workload goes through its memory once in so long
WINDOW_S = 5
WEIGHT = 50
UNTOUCHED_S = 600  # so long it has to be idle: UNTOUCHED_MS of controller/core/vm_wss.c


class Bench(Site):
    """web is the one that will want more; db is held; heap has allocated and written much, and leaves it alone."""

    def __init__(self, lab):
        super().__init__(lab)
        self.ready()
        self.configure("3G")
        self.heap = self.guest("heap", MEMORY_MIB, free_page_reporting=False, fill=True)
        self.heap.wait_ready()
        self.heap.cmd(f"pace {NEVER_MS}")
        self.heap.job(f"use {USED_MIB}")
        self.web = self.guests["web"]
        self.web.cmd("pace 1000")
        self.web.job("use 20")
        self.wait_managed("heap", "web", "db")
        self.memocd.memoc_text("hold", "db")
        self.memocd.memoc_text("set", "heap", f"weight={WEIGHT}")  # it uses more than its share

    def configure(self, pool):
        self.memocd.write_config({**CONFIG, "host": {**CONFIG["host"], "pool": pool, "buffer": "16M"},
                                  "policy": {**CONFIG["policy"], "wss_window": f"{WINDOW_S}s"}, "wss": {"budget": "50%"}})
        systemctl("restart", "memocd.service")
        self.memocd.wait_answering()

    def claim(self):
        return [line for line in self.memocd.memoc_text("explain", "heap").splitlines() if line.startswith("claim")]

    def share_bytes(self):
        """Of the pool, by size and weight."""
        return self.memocd.host()["pool_bytes"] * MEMORY_MIB // sum(guest.memory_mib for guest in self.guests.values()) * WEIGHT // 100


def fixture(lab):
    with HugePages("never"):
        bench = Bench(lab)
        try:
            yield bench
        finally:
            bench.remove(bench.heap)
            bench.memocd.memoc_text("release", check=False)
            bench.memocd.write_config(CONFIG)
            systemctl("restart", "memocd.service")
            bench.memocd.wait_answering()


@limit(300)
def test_what_is_idle_is_had_where_another_lacks_it(site):
    """Nothing happens to it for ten idle minutes; then another's need is met from it, and it keeps its share and its pace."""
    # Everybody has what he uses, and nobody more: the smallest pool that leaves nobody in need.
    for name in ("web", "heap"):
        site.memocd.memoc_text("resize", name, "90M" if name == "web" else f"{USED_MIB + 46}M")
    for name, mib in (("web", 90), ("heap", USED_MIB + 46)):
        site.memocd.wait_vm(name, lambda vm, mib=mib: vm["state"] == "steady" and abs(vm["target_bytes"] - mib * MIB) < 2 * MIB, 60, "its pin")
    site.configure(f"{site.memocd.host()['granted_bytes'] // MIB + 16}M")
    for name in ("web", "heap"):
        site.memocd.memoc_text("resize", name, "auto")
    wait_for(site.claim, UNTOUCHED_S // 5, "heap to have been idle for ten minutes", every_s=5,
             show=lambda: site.memocd.memoc_text("explain", "heap"))
    assert not [e for e in site.memocd.events() if e["vm"] == "heap" and e["event"] == "distrusted"], "nobody lacked anything"
    before, share = site.memocd.vm("heap")["target_bytes"], site.share_bytes()
    assert before > share + 16 * MIB, (before, share)

    begun = site.web.begin("use 100")
    told = wait_for(lambda: next((e for e in site.memocd.events() if e["vm"] == "heap" and e["event"] == "distrusted"), None), 60,
                    "heap to pay", every_s=0.5, show=lambda: site.memocd.memoc_text("explain", "heap"))
    assert told["reason"].startswith("others lack memory"), told
    site.web.finish(begun, 60)
    wait_for(lambda: site.web.relative_rate() > 0.8, 60, "web to have what it uses", show=site.web.report)
    heap = site.memocd.wait_vm("heap", lambda vm: vm["state"] == "steady" and vm["limit_bytes"] is not None, 60, "to be limited")
    assert share - 2 * MIB <= heap["target_bytes"] < before, (heap, share)
    wait_for(lambda: site.heap.balloon_bytes() == MEMORY_MIB * MIB, 60, "its balloon to be empty", show=site.heap.balloon_bytes)
    site.assert_unharmed()
