# SPDX-License-Identifier: LGPL-2.1-or-later
"""Working sets of real guests, as far as this kernel can tell them; where it cannot, memocd says why."""

from guest import pluggable_xml
from stage import MIB, Stage, wait_for
from run import limit

MEMORY_MIB = 256
SEEN_LIMIT_S = 120
REFAULT_SAYS = "came back", "by refault"
CONFIG = {
    "host": {"pool": "3G", "buffer": "64M"},
    "policy": {"wss_window": "2s"},
}


class Bench(Stage):
    """One guest at ease."""

    def __init__(self, lab):
        super().__init__(lab, CONFIG)
        self.one = self.guest("one", MEMORY_MIB, fill=True, swap_mib=64, extra_xml=pluggable_xml(MEMORY_MIB))
        self.start_guests()
        self.one.job("use 60")
        self.memocd.start()
        self.wait_steady()

    def with_backend(self, name):
        self.memocd.config["wss"] = {"backend": name}
        self.memocd.write_config()
        self.memocd.reload()

    def said(self, *words):
        """The line of `memoc explain one` with one of these words, or None."""
        return next((line for line in self.memocd.memoc_text("explain", "one").splitlines() if any(word in line for word in words)), None)

    def backends(self):
        return {each["name"]: each["reason"] for each in self.memocd.host()["wss_backends"]}


def fixture(lab):
    yield Bench(lab)


@limit(300)
def test_auto_says_what_it_uses_or_why_it_cannot(bench):
    """One back-end is in use and the VM has a reading with an error, or each has its reason and the VM says so too."""
    bench.with_backend("auto")
    wait_for(lambda: bench.backends()["idle"] != "not looked at yet", SEEN_LIMIT_S, "back-ends to be looked at", show=bench.backends)
    used = bench.memocd.host()["wss_backend"]
    assert bench.backends()["refault"], "auto has taken the one that takes memory from VMs"
    if used == "none":
        assert all(bench.backends().values()), bench.backends()
        wait_for(lambda: "this host can measure none" in bench.explain("one"), SEEN_LIMIT_S, "explain to say why",
                 show=lambda: bench.explain("one"))
        assert bench.vm("one")["wss_bytes"] is None
        return
    vm = bench.wait_vm("one", lambda vm: vm["wss_bytes"] is not None, "a working set", SEEN_LIMIT_S)
    assert 50 * MIB <= vm["wss_bytes"] <= MEMORY_MIB * MIB and vm["wss_error_bytes"] <= MEMORY_MIB * MIB / 5, vm


@limit(300)
def test_refault_takes_little_and_gives_the_limit_back(bench):
    """Asked for, it leaves a held VM alone; else it reclaims in small steps, says how far it is, and the VM's limit is what it was; then
    it can be left again."""
    before, swapped = bench.one.cgroup().limit(), bench.one.cgroup().swapped()
    bench.memocd.memoc_text("hold", "one")
    bench.with_backend("refault")
    wait_for(lambda: bench.said("held: nothing is taken from it"), SEEN_LIMIT_S, "explain to say why not", show=lambda: bench.explain("one"))
    assert bench.one.cgroup().swapped() <= swapped, "memory of a held VM was reclaimed"
    bench.memocd.memoc_text("release", "one")
    wait_for(lambda: bench.memocd.host()["wss_backend"] == "refault", SEEN_LIMIT_S, "refault to be in use", show=bench.backends)
    wait_for(lambda: bench.said(*REFAULT_SAYS), SEEN_LIMIT_S, "a window to end", show=lambda: bench.explain("one"))
    taken = bench.one.cgroup().swapped() - swapped
    assert taken <= MEMORY_MIB * MIB / 8, f"{taken} bytes were taken"
    bench.with_backend("none")
    wait_for(lambda: bench.memocd.host()["wss_backend"] == "none", SEEN_LIMIT_S, "refault to be left", show=bench.backends)
    wait_for(lambda: bench.one.cgroup().limit() == before, SEEN_LIMIT_S, "its limit to be what it was", show=bench.one.cgroup().limit)
    bench.assert_unharmed()


@limit(400)
def test_memory_plugged_within_a_window(bench):
    """A sample taken of less memory than there is at its end gives no reading, and says so; the next window is of all of it."""
    bench.memocd.config["policy"]["wss_window"] = "6s"  # long enough for libvirt to plug it
    bench.with_backend("refault")
    wait_for(lambda: bench.memocd.host()["wss_backend"] == "refault", SEEN_LIMIT_S, "refault to be in use", show=bench.backends)
    before = bench.one.cgroup().swapped()
    wait_for(lambda: bench.one.cgroup().swapped() > before + MIB, SEEN_LIMIT_S, "a window to begin, by what it reclaims",
             show=lambda: bench.explain("one"))
    bench.one.plug(128)
    bench.wait_vm("one", lambda vm: vm["max_bytes"] == (MEMORY_MIB + 128) * MIB, "its new size", 30)
    wait_for(lambda: bench.said("its memory changed within the window"), SEEN_LIMIT_S, "the window to tell", show=lambda: bench.explain("one"))
    wait_for(lambda: bench.said(*REFAULT_SAYS), SEEN_LIMIT_S, "a reading of all of it", show=lambda: bench.explain("one"))
    bench.assert_unharmed()
