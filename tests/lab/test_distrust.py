# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that says for ever that it has nothing left: what it touches tells the truth, and its host is believed in its place."""

import re

from host import MIB
from run import limit
from installed import CONFIG, Site, systemctl, wait_for
from windows import HugePages

# What booting leaves untouched, 30 MiB, is far below a quarter of either: a claim to memory that was never touched is no need.
MEMORY_MIB = 256
PINNED_MIB = 216
WINDOW_S = 2
SEEN_LIMIT_S = 90  # some windows, on a slow machine


class Bench(Site):
    """One guest whose driver lies, on a host that has nothing left to give it; what it was given is resident."""

    def __init__(self, lab):
        super().__init__(lab)
        self.ready()
        self.configure("2G")  # enough for all: a balloon that was filled and emptied leaves memory that is not resident
        for name in self.NAMES:
            self.memocd.wait_vm(name, lambda vm: vm["state"] != "starting", 60, "to be known")
            self.memocd.memoc_text("hold", name)  # they are not to give, nor to take
        self.liar = self.guest("liar", MEMORY_MIB, driver="lying", free_page_reporting=False, fill=True)
        self.liar.wait_ready()
        self.liar.cmd(f"pace {WINDOW_S * 1000 // 4}")
        self.liar.job("use 20")
        self.memocd.wait_vm("liar", lambda vm: vm["state"] == "steady" and vm["usable_bytes"] is not None, 60, "to be managed")

    def configure(self, pool, restart=True):
        self.memocd.write_config({**CONFIG, "host": {**CONFIG["host"], "pool": pool, "buffer": "32M"},
                                  "policy": {**CONFIG["policy"], "wss_window": f"{WINDOW_S}s"}, "wss": {"budget": "50%"}})
        if restart:
            self.restart()
        else:
            self.memocd.reload()

    def restart(self):
        systemctl("restart", "memocd.service")
        self.memocd.wait_answering()

    def events(self, *kinds):
        return [event for event in self.memocd.events() if event["vm"] == "liar" and event["event"] in kinds]

    def event(self, kind, since):
        return wait_for(lambda: next((event for event in self.events(kind) if event["time"] > since), None), SEEN_LIMIT_S,
                        f"{kind} of liar", every_s=0.5, show=lambda: self.memocd.memoc_text("explain", "liar"))

    def mark(self):
        """The time of the last event of all."""
        return max(event["time"] for event in self.memocd.events())


def fixture(lab):
    with HugePages("never"):
        bench = Bench(lab)
        try:
            yield bench
        finally:
            bench.remove(bench.liar)
            bench.memocd.memoc_text("release", check=False)
            bench.memocd.write_config(CONFIG)
            bench.restart()


@limit(300)
def test_a_guest_that_lies_is_sized_by_what_it_touches(site):
    """It asks for more with what it does not touch: its word counts no more, its limit alone sizes it, and its host sees real need."""
    site.memocd.memoc_text("resize", "liar", f"{PINNED_MIB}M")
    site.memocd.wait_vm("liar", lambda vm: vm["state"] == "steady" and abs(vm["target_bytes"] - PINNED_MIB * MIB) < 2 * MIB, 60, "its pin")
    assert site.memocd.info("liar")["usable_bytes"] == 0, "its driver tells the truth"
    granted = site.memocd.host()["granted_bytes"]
    mark = site.mark()
    site.configure(f"{granted // MIB - PINNED_MIB // 2}M", restart=False)  # nobody else gives: half of what it has is lacking
    site.memocd.memoc_text("resize", "liar", "auto")

    told = site.event("distrusted", mark)
    assert re.search(r"touches \d+ of \d+ MiB", told["reason"]), told
    site.memocd.wait_vm("liar", lambda vm: vm["limit_bytes"] is not None and vm["target_bytes"] < PINNED_MIB // 2 * MIB, SEEN_LIMIT_S,
                        "to be sized by what it touches")
    word = next(signal for signal in site.memocd.info("liar")["signals"] if signal["name"] == "usable")
    assert word["value"] == 0 and word["confidence"] <= 0.2, f"shown as if it were believed: {word}"
    wait_for(lambda: site.liar.balloon_bytes() == MEMORY_MIB * MIB, 60, "its balloon to be empty", show=site.liar.balloon_bytes)
    assert site.liar.cgroup().limit() is not None
    text = site.memocd.memoc_text("explain", "liar")
    assert "not believed" in text and "limit alone" in text, text

    # What it really needs its host sees by its faults, maybe before it wants more: those of the shrink count as well.
    site.configure(f"{granted // MIB + 100}M", restart=False)
    site.liar.begin("use 100")
    wait_for(lambda: site.liar.relative_rate() > 0.8, 60, "it to have what it uses", show=site.liar.report)
    needy = site.event("needy", told["time"])
    assert not needy["reason"].startswith("guest"), f"by its word: {needy}"
    assert not site.events("distrusted-over", "double-swap"), site.events("distrusted-over", "double-swap")
