# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people tell memocd, and what it tells them: per-VM policy by memoc and by virsh, sizes, hold, drain, configuration."""

import contextlib
import grp
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree

import host
from host import wait_for
from lab import MIB, Guest, Memocd, PrivateLibvirtd
from guest import POLICY_NS
from memocd import program
from run import Skip, limit

MEMORY_MIB = 256
MIN_MIB = 96


class Desk:
    """One running guest, and memocd with more memory than is wanted: nothing moves but what people say."""

    def __init__(self, lab):
        self.lab = lab
        self.libvirtd = PrivateLibvirtd(lab)
        self.libvirtd.start()
        self.libvirtd.install_hook(program("memoc-hook"))
        self.guest = Guest(lab, self.libvirtd, "web1", MEMORY_MIB, swap_mib=64, policy={"min": f"{MIN_MIB}M"})
        self.memocd = Memocd(lab, self.libvirtd, {"host": {"pool": "3G", "reserve": "256M", "buffer": "64M"}})
        self.memocd.start()
        self.guest.start()
        self.guest.wait_ready()
        self.wait_steady()

    def reset(self):
        """The guest runs at its full size with its first policy, and nobody holds it."""
        if not self.memocd.running():
            self.memocd.start()
        self.virsh_policy(f"<policy min='{MIN_MIB}M'/>", "--live", "--config")
        self.memocd.wait_vm("web1", lambda vm: vm["weight"] == 100 and vm["min_bytes"] == MIN_MIB * MIB, 20, "its first policy")
        self.memoc("release")
        self.memoc("release", "web1")
        self.memoc("resize", "web1", "auto")
        if self.guest.balloon_bytes() != MEMORY_MIB * MIB or self.guest.cgroup().limit() is not None:
            self.memoc("drain", "web1", "--wait", limit_s=90)
            self.memoc("release", "web1")
        self.wait_steady()

    def wait_steady(self):
        self.memocd.wait_vm("web1", lambda vm: vm["state"] == "steady" and vm["usable_bytes"] is not None, 60,
                            "steady, with statistics")

    def waited_s(self):
        """What memocd and libvirtd waited for a processor since they began."""
        return host.waited_seconds(self.memocd.pid) + host.waited_seconds(self.libvirtd.pid)

    def memoc(self, *args, limit_s=20):
        return self.memocd.memoc_text(*args, limit_s=limit_s)

    def refused(self, status, *args):
        """The command must fail with this status and one line, which is returned."""
        done = self.memocd.run(*args)
        assert done.returncode == status and not done.stdout, f"memoc {args}: {done.returncode}: {done.stdout}{done.stderr}"
        lines = done.stderr.splitlines()
        assert len(lines) == 1 or (status == 2 and len(lines) == 2 and lines[1].startswith("Try")), done.stderr
        return lines[0]

    def virsh_policy(self, xml, *flags):
        self.guest.virsh("metadata", "--uri", POLICY_NS, "--key", "memoc", "--set", xml, *flags)

    def xml_policy(self, *flags):
        """The policy's attributes in libvirt's XML."""
        root = ElementTree.fromstring(self.guest.virsh("dumpxml", *flags))
        element = root.find(f"metadata/{{{POLICY_NS}}}policy")
        return dict(element.attrib) if element is not None else None

    def policy(self, *flags):
        """{key: value} as memoc get tells."""
        return {row["key"]: row["value"] for row in self.memocd.memoc("get", "web1", *flags)}

    def wait_balloon(self, mib, limit_s=40):
        wait_for(lambda: abs(self.guest.balloon_bytes() - mib * MIB) <= 5 * MIB, limit_s, f"the balloon at {mib} MiB",
                 show=self.guest.memory_stats)


def fixture(lab):
    yield Desk(lab)


# ---- policy ----

def test_set_is_in_effect_at_once(desk):
    """memoc set: known when it returns, in libvirt's live and persistent XML, told as an event, and obeyed."""
    desk.memoc("resize", "web1", "128M", "--wait", limit_s=90)
    desk.wait_balloon(128)
    desk.memoc("set", "web1", "min=192M", "weight=250")
    vm = desk.memocd.vm("web1")
    assert vm["min_bytes"] == 192 * MIB and vm["weight"] == 250, vm
    for flags in ((), ("--inactive",)):
        assert desk.xml_policy(*flags) == {"min": "192M", "weight": "250"}, (flags, desk.xml_policy(*flags))
    assert desk.policy()["min"] == "192M" and desk.policy()["weight"] == "250", desk.policy()
    assert any(event["event"] == "policy" and "weight 250" in event["reason"] for event in desk.memocd.events("web1"))
    desk.wait_balloon(192)  # pinned below its new minimum, it gets the minimum
    desk.memoc("set", "web1", "min=")
    assert desk.memocd.vm("web1")["min_bytes"] == MEMORY_MIB // 4 * MIB, "the default share"
    assert desk.xml_policy() == {"weight": "250"}, desk.xml_policy()


def test_virsh_metadata_is_in_effect_at_once(desk):
    """A policy that virsh writes is picked up by itself, is shown by memoc, and can be taken away again."""
    waited_s = desk.waited_s()
    desk.virsh_policy("<policy min='128M' weight='77' swap='no'/>", "--live")
    written = time.monotonic()
    vm = desk.memocd.wait_vm("web1", lambda vm: vm["weight"] == 77, 20, "the policy that virsh wrote")
    assert vm["min_bytes"] == 128 * MIB and desk.policy()["swap"] == "no"
    told = [event for event in desk.memocd.events("web1") if event["event"] == "policy" and "weight 77" in event["reason"]]
    late_s = told[-1]["details"]["monotonic_ms"] / 1000 - written - (desk.waited_s() - waited_s)
    assert late_s < 0.5 * host.SLOW, f"{late_s:.2f} s after virsh had written it"
    desk.guest.virsh("metadata", "--uri", POLICY_NS, "--remove", "--live")
    vm = desk.memocd.wait_vm("web1", lambda vm: vm["weight"] == 100, 20, "the default policy")
    assert vm["min_bytes"] == MEMORY_MIB // 4 * MIB, vm


def test_managed_no_takes_a_vm_out(desk):
    """managed=no: the VM is counted and never resized, with the reason; managed=yes takes it back."""
    desk.memoc("set", "web1", "managed=no")
    vm = desk.memocd.wait_vm("web1", lambda vm: vm["state"] == "fixed", 10, "fixed")
    assert not vm["eligible"] and vm["ineligible_reason"], vm
    assert "web1" in desk.refused(1, "resize", "web1", "128M")
    assert desk.memocd.host()["vms"] == 1
    desk.memoc("set", "web1", "managed=yes")
    assert desk.memocd.wait_vm("web1", lambda vm: vm["state"] != "fixed", 10, "managed")["eligible"]


def test_bad_values_by_memoc_set(desk):
    """Refused with the key, the value and what is right; all or nothing; policy, XML and the VM stay as they are."""
    before = desk.memocd.vm("web1"), desk.xml_policy(), desk.xml_policy("--inactive")
    wrong_usage = {
        "weight=0": ("weight", '"0"', "1 to 10000"), "weight=-5": ("weight", '"-5"'), "weight=heavy": ("weight", '"heavy"'),
        "min=12Q": ("min", '"12Q"'), "min=512": ("min", '"512"', "1M"), "max=-1G": ("max", '"-1G"'),
        "swap=maybe": ("swap", '"maybe"', "yes or no"), "wieght=5": ("wieght", "weight"), "min": ("min", "key=value"),
    }
    for word, told in wrong_usage.items():
        line = desk.refused(2, "set", "web1", "swap=no" if "weight" in word else "weight=300", word)
        assert all(text in line for text in told), f"{word}: {line}"
    refused = {"min=1G": ("min", "1G", "256"), "max=1G": ("max", "1G", "256"), "max=32M": ("max", "32M", "min", "96M")}
    for word, told in refused.items():
        for flags in ((), ("--live",), ("--config",)):
            line = desk.refused(1, "set", "web1", "weight=300", word, *flags)
            assert all(text in line for text in told), f"{word}: {line}"
    assert "web2" in desk.refused(1, "set", "web2", "weight=5")
    after = desk.memocd.vm("web1"), desk.xml_policy(), desk.xml_policy("--inactive")
    for key in ("min_bytes", "weight", "max_bytes", "target_bytes"):
        assert before[0][key] == after[0][key], key
    assert before[1:] == after[1:]


def test_bad_values_by_virsh(desk):
    """virsh cannot be refused: the last good policy stays; log, info and explain name VM, attribute and value."""
    desk.memoc("set", "web1", "weight=300")
    bad = {"<policy weight='0'/>": ("weight", "0"), "<policy min='9G'/>": ("min", "9G"),
           "<policy swap='perhaps'/>": ("swap", "perhaps"), "<policy min='128M' colour='red'/>": ("colour",)}
    for xml, told in bad.items():
        desk.virsh_policy(xml, "--live")
        error = wait_for(lambda t=told: (text := desk.memocd.info("web1")["policy_error"]) and all(w in text for w in t) and text,
                         10, f"{xml} to be refused", show=lambda: desk.memocd.info("web1")["policy_error"])
        vm = desk.memocd.vm("web1")
        assert vm["weight"] == 300 and vm["min_bytes"] == MIN_MIB * MIB, f"{xml}: the last good policy is gone: {vm}"
        log = [line for line in desk.memocd.log.read_text(encoding="utf-8").splitlines() if "web1" in line]
        assert any(all(word in line for word in told) for line in log), f"{xml}: not in the log"
        assert error in desk.memoc("explain", "web1"), error
    desk.virsh_policy("<policy weight='301'/>", "--live")
    desk.memocd.wait_vm("web1", lambda vm: vm["weight"] == 301, 10, "the next good policy")
    assert desk.memocd.info("web1")["policy_error"] is None


def state_text(desk):
    return (desk.memocd.state_dir / "state.json").read_text(encoding="utf-8")


@limit(180)
def test_the_last_word_survives_a_kill(desk):
    """A policy whose XML has become bad, and a drain: both are as they were when memocd is killed and comes back."""
    desk.memoc("set", "web1", "weight=300")
    desk.memocd.wait_vm("web1", lambda vm: vm["weight"] == 300, 10, "its weight")
    desk.virsh_policy("<policy weight='0'/>", "--live")
    wait_for(lambda: desk.memocd.info("web1")["policy_error"], 10, "the bad policy to be refused")
    desk.memoc("drain", "web1", "--wait", limit_s=90)
    wait_for(lambda: '"drained": true' in state_text(desk) and '"weight": "300"' in state_text(desk), 20,
             "both in the state file", show=lambda: state_text(desk))
    desk.memocd.kill()
    desk.memocd.start()
    vm = desk.memocd.wait_vm("web1", lambda vm: vm["state"] == "steady", 60, "steady again")
    assert vm["weight"] == 300 and vm["min_bytes"] == MIN_MIB * MIB and vm["held"], vm
    assert "weight" in desk.memocd.info("web1")["policy_error"]
    assert "drain" in json.dumps(desk.memocd.memoc("explain", "web1")), desk.memoc("explain", "web1")


@limit(180)
def test_live_and_config(desk):
    """--live until the VM stops, --config from its next start, each without the other's values; neither means both."""
    desk.memoc("set", "web1", "weight=310", "--live")
    assert desk.memocd.vm("web1")["weight"] == 310
    assert desk.policy("--live")["weight"] == "310" and desk.policy("--config")["weight"] == "100"
    desk.memoc("set", "web1", "min=128M", "--config")
    assert desk.memocd.vm("web1")["min_bytes"] == MIN_MIB * MIB
    assert desk.xml_policy("--inactive") == {"min": "128M"}, desk.xml_policy("--inactive")
    assert desk.policy("--config")["min"] == "128M" and desk.policy("--live")["min"] == f"{MIN_MIB}M"
    # Neither: the value goes into both, and both keep what else they have.
    desk.memoc("set", "web1", "swap=no")
    assert desk.xml_policy() == {"min": f"{MIN_MIB}M", "weight": "310", "swap": "no"}, desk.xml_policy()
    assert desk.xml_policy("--inactive") == {"min": "128M", "swap": "no"}, desk.xml_policy("--inactive")
    desk.memoc("set", "web1", "swap=yes")
    # What is refused for the persistent XML is refused by its own values: max would be above the live minimum.
    assert "112M" in desk.refused(1, "set", "web1", "max=112M", "--config")
    desk.guest.kill()
    desk.guest.wait_gone()
    wait_for(lambda: "web1" not in desk.memocd.list(), 10, "its end to be noticed")
    desk.guest.start()
    desk.guest.wait_ready()
    vm = desk.memocd.wait_vm("web1", lambda vm: vm["max_bytes"] > 0, 10, "to be known")
    assert vm["weight"] == 100 and vm["min_bytes"] == 128 * MIB, vm
    assert "--live and --config" in desk.refused(2, "get", "web1", "--live", "--config")


def test_many_sets_at_once(desk):
    """Each of many memoc set that run at once sets a key of its own: none is lost, in the live or the persistent XML."""
    for round_ in range(4):
        wanted = {"min": f"{100 + round_}M", "max": f"{240 + round_}M", "weight": str(400 + round_),
                  "balloon": ("no", "yes")[round_ % 2], "swap": ("no", "yes")[round_ % 2]}
        processes = [subprocess.Popen([program("memoc"), "set", "web1", f"{key}={value}"], env=desk.memocd.environment(),
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                     for _ in range(3) for key, value in wanted.items()]
        for process in processes:
            error = process.communicate(timeout=30 * host.SLOW)[1]
            assert process.returncode == 0, error
        for flags in ((), ("--inactive",)):
            found = {"balloon": "yes", "swap": "yes", **desk.xml_policy(*flags)}
            assert found == wanted, (flags, found, wanted)
        assert {**desk.policy(), "managed": None} == {**wanted, "managed": None}, desk.policy()


@limit(180)
def test_a_vm_that_is_off(desk):
    """get and set reach a VM that does not run, as virsh does; what was set holds from the first moment of its start."""
    uuid = desk.guest.uuid
    desk.guest.kill()
    desk.guest.wait_gone()
    wait_for(lambda: "web1" not in desk.memocd.list(), 10, "its end to be noticed")
    try:
        off = {vm["name"]: vm for vm in desk.memocd.memoc("list", "--all")}["web1"]
        assert off["state"] == "off" and off["uuid"] == uuid and off["max_bytes"] == MEMORY_MIB * MIB, off
        assert off["min_bytes"] == MIN_MIB * MIB and off["weight"] == 100 and off["resident_bytes"] is None, off
        assert desk.memocd.memoc("list") == [] and "off" in desk.memoc("list", "--all")
        rows = {row["key"]: row for row in desk.memocd.memoc("get", "web1")}
        assert rows["min"]["value"] == f"{MIN_MIB}M" and rows["min"]["source"] == "persistent domain XML", rows
        assert rows["max"]["effective"] == str(MEMORY_MIB * MIB), rows
        desk.memoc("set", "web1", "min=128M", "weight=340")
        desk.memoc("set", uuid, "swap=no", "--config")
        assert desk.xml_policy("--inactive") == {"min": "128M", "weight": "340", "swap": "no"}, desk.xml_policy("--inactive")
        assert desk.policy("--config") == desk.policy() and desk.policy()["swap"] == "no", desk.policy()
        for flags in (("--live",), ("--live", "--config")):
            assert "web1: it is not running" in desk.refused(1, "set", "web1", "weight=341", *flags)
        assert "web1: it is not running" in desk.refused(1, "get", "web1", "--live")
        assert "256" in desk.refused(1, "set", "web1", "min=1G") and "weight" in desk.refused(2, "set", "web1", "weight=0")
        for command in (("info",), ("explain",), ("resize", "128M"), ("hold",), ("drain",)):
            line = desk.refused(1, command[0], "web1", *command[1:])
            assert "web1 is not running" in line, (command, line)
        assert "web2" in desk.refused(1, "get", "web2") and "web2" in desk.refused(1, "set", "web2", "weight=1")
        assert desk.memocd.run("__complete", "names").stdout == ""
        assert desk.memocd.run("__complete", "names", "defined").stdout.split() == ["web1"]
        assert desk.xml_policy("--inactive") == {"min": "128M", "weight": "340", "swap": "no"}
        with ListWatch(desk.memocd) as watch:
            desk.guest.start()
            desk.memocd.wait_vm("web1", lambda vm: vm["resident_bytes"], 20, "to be watched")
        seen = [vm for vm in watch.seen if vm["state"] != "off"]
        assert seen and all(vm["weight"] == 340 and vm["min_bytes"] == 128 * MIB for vm in seen), seen
        assert desk.policy()["swap"] == "no" and desk.policy("--live") == desk.policy(), desk.policy()
    finally:
        if not desk.guest.running():
            desk.guest.start()
        desk.guest.wait_ready()


class ListWatch:
    """What `memoc list --all` says of web1, again and again until the end of the with block."""

    def __init__(self, memocd):
        self.memocd, self.seen, self.ends = memocd, [], threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        while not self.ends.is_set():
            self.seen += [vm for vm in self.memocd.memoc("list", "--all") if vm["name"] == "web1"]

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


def test_hotplug_has_the_xml_read_again(desk):
    """A device plugged into a running VM (one that pins memory cannot be had here): memocd reads all of its XML again."""
    device = desk.lab.base / "rng.xml"
    device.write_text("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>", encoding="ascii")
    assert desk.memocd.info("web1")["stats_period_s"] == 1
    desk.guest.virsh("dommemstat", "--period", "2", "--live")  # libvirt tells nobody of this
    try:
        desk.guest.virsh("attach-device", str(device), "--live")
        wait_for(lambda: desk.memocd.info("web1")["stats_period_s"] == 2, 10, "the XML to be read again")
        assert desk.memocd.vm("web1")["eligible"]
    finally:
        desk.guest.virsh("dommemstat", "--period", "1", "--live")


def test_transient_domain(desk):
    """A VM without persistent definition: set changes what runs; --config alone is refused and says so."""
    desk.guest.virsh("undefine")  # while it runs: it goes on, and is gone once it stops
    try:
        desk.memoc("set", "web1", "weight=330")
        assert desk.memocd.vm("web1")["weight"] == 330 and desk.xml_policy()["weight"] == "330"
        assert "transient" in desk.refused(1, "set", "web1", "weight=331", "--config")
        assert desk.memocd.vm("web1")["weight"] == 330
    finally:
        desk.guest.define()


def test_policy_survives_memocd(desk):
    """The policy is in the VM's own XML: a memocd that is killed and comes back has it."""
    desk.memoc("set", "web1", "weight=320", "--live")
    desk.memocd.kill()
    desk.virsh_policy("<policy min='112M' weight='321'/>", "--live")  # changed while nobody looks
    desk.memocd.start()
    desk.memocd.wait_vm("web1", lambda vm: vm["weight"] == 321 and vm["min_bytes"] == 112 * MIB, 20, "its policy")


# ---- sizes ----

def test_resize_wait_and_auto(desk):
    """--wait returns when the guest has the size; a size is kept; auto gives it back; what cannot be is refused."""
    text = desk.memoc("resize", "web1", "144M", "--wait", limit_s=90)
    assert "reached" in text and abs(desk.guest.balloon_bytes() - 144 * MIB) <= 5 * MIB, (text, desk.guest.balloon_bytes())
    assert desk.memocd.vm("web1")["pinned_bytes"] == 144 * MIB
    assert "pinned" in desk.memoc("explain", "web1")
    reply = desk.memocd.memoc("resize", "web1", "200M", "--wait", limit_s=90)
    assert reply["to_bytes"] == 200 * MIB and reply["reached"] is True and abs(reply["from_bytes"] - 144 * MIB) < 5 * MIB, reply
    desk.wait_balloon(200)
    desk.memoc("resize", "web1", "auto")
    assert desk.memocd.vm("web1")["pinned_bytes"] is None
    for size, told in (("64M", "minimum"), ("1G", "maximum")):
        assert told in desk.refused(1, "resize", "web1", size)
    for size in ("0", "-5M", "big", "10%%", "1e9"):
        assert size in desk.refused(2, "resize", "web1", size)
    assert "web2" in desk.refused(1, "resize", "web2", "128M")
    assert desk.memocd.vm("web1")["pinned_bytes"] is None


def test_resize_wait_gives_up_in_time(desk):
    """--wait with --timeout on a size that is not reached (paused guest): an error that tells how far it came."""
    desk.guest.suspend()
    try:
        desk.memocd.wait_vm("web1", lambda vm: vm["state"] == "paused", 10, "paused")
        line = desk.refused(1, "resize", "web1", "160M", "--wait", "--timeout", "1s")
        assert "256" in line and "160" in line, line
    finally:
        desk.guest.resume()
    desk.wait_balloon(160)  # memocd went on with it


def test_hold_and_release(desk):
    """A held VM is not resized, by no size and no shortage; released it is. hold without a name holds all."""
    for name in (["web1"], []):
        desk.memoc("hold", *name)
        assert desk.memocd.vm("web1")["held"]
        assert desk.memocd.host()["held"] == (not name)
        desk.memoc("resize", "web1", "160M")
        rounds = len(desk.memocd.events())
        wait_for(lambda: desk.memocd.info("web1")["stats_age_ms"] < 900, 20, "more statistics")
        number = desk.guest.memory_stats()["last_update"]
        wait_for(lambda n=number: desk.guest.memory_stats()["last_update"] >= n + 3, 20, "three rounds of the policy")
        assert desk.guest.balloon_bytes() == MEMORY_MIB * MIB and desk.guest.cgroup().limit() is None
        assert not any(event["event"] in ("balloon", "limit", "target") for event in desk.memocd.events()[rounds:])
        desk.memoc("release", *name)
        assert not desk.memocd.vm("web1")["held"]
        desk.wait_balloon(160)
        desk.memoc("resize", "web1", "256M", "--wait", limit_s=90)
        desk.memoc("resize", "web1", "auto")
        desk.wait_balloon(256)


def test_hold_and_size_survive_a_restart(desk):
    """A person's word outlives memocd: held and pinned are remembered, over SIGTERM and over kill -9."""
    desk.memoc("resize", "web1", "176M", "--wait", limit_s=90)
    desk.memoc("hold", "web1")
    for end in (desk.memocd.stop, desk.memocd.kill):
        if end == desk.memocd.kill:  # the file may come a moment after the word
            wait_for(lambda: any('"held":true' in path.read_text(encoding="utf-8").replace(" ", "")
                                 for path in desk.memocd.state_dir.iterdir()), 20, "the state file to tell")
        end()
        desk.memocd.start()
        vm = desk.memocd.wait_vm("web1", lambda vm: vm["state"] == "steady", 60, "steady again")
        assert vm["held"] and vm["pinned_bytes"] == 176 * MIB, vm
    desk.memoc("release", "web1")


def test_drain(desk):
    """drain --wait: when it returns there is no limit and no balloon, and the VM is left alone until released."""
    desk.memoc("resize", "web1", "144M", "--wait", limit_s=90)
    desk.memoc("drain", "--all", "--wait", limit_s=90)
    assert desk.guest.cgroup().limit() is None and desk.guest.balloon_bytes() >= (MEMORY_MIB - 5) * MIB
    vm = desk.memocd.vm("web1")
    assert vm["held"] and vm["pinned_bytes"] is None and vm["limit_bytes"] is None, vm
    assert "all VMs are held" in desk.refused(1, "release", "web1")
    desk.memoc("release")
    desk.memoc("resize", "web1", "144M", "--wait", limit_s=90)
    assert "web1" not in desk.refused(2, "drain")
    reply = desk.memocd.memoc("drain", "web1", "--wait", limit_s=90)
    assert reply == {"vms": 1, "open": 1}, reply


def test_drain_begins_with_the_start(desk):
    """drain --all --wait to a memocd that has just come up, as a package's removal does: it waits until all VMs are known, and drains them."""
    desk.memoc("resize", "web1", "144M", "--wait", limit_s=90)
    desk.memocd.kill()
    desk.memocd.start()
    desk.memoc("drain", "--all", "--wait", limit_s=90)
    assert desk.guest.cgroup().limit() is None and desk.guest.balloon_bytes() >= (MEMORY_MIB - 5) * MIB
    desk.memoc("release")


# ---- telling ----

def test_explain_and_info(desk):
    """explain gives state, target and reason; info its signals with age and source; unknown names are helped."""
    explained = desk.memocd.memoc("explain", "web1")
    vm = desk.memocd.vm("web1")
    assert explained["vm"]["target_bytes"] == vm["target_bytes"] and vm["state"] in explained["summary"], explained
    assert explained["terms"] and all(term["name"] and term["text"] for term in explained["terms"]), explained["terms"]
    text = desk.memoc("explain", desk.guest.uuid)
    assert "web1" in text and vm["reason"] in text, text
    signals = {signal["name"]: signal for signal in desk.memocd.info("web1")["signals"]}
    for name in ("usable", "resident", "demand"):
        assert signals[name]["value"] > 0 and signals[name]["source"], signals[name]
    assert "web1" in desk.refused(1, "explain", "web"), "the nearest name is suggested"


def test_config_shown_and_checked(desk):
    """config: value and source of each setting; --check refuses a bad file with line and reason, without memocd."""
    rows = {row["key"]: row for row in desk.memocd.memoc("config")}
    assert rows["host.pool"]["value"] == "3G" and "memoc.conf" in rows["host.pool"]["source"], rows["host.pool"]
    assert rows["policy.interval"]["source"] == "default", rows["policy.interval"]
    assert re.search(r"host\.pool +3G", desk.memoc("config"))
    good, bad = desk.lab.base / "good.conf", desk.lab.base / "bad.conf"
    good.write_text("[host]\npool = 3G\n", encoding="ascii")
    bad.write_text("[host]\npool = 3G\n[policy]\ninterval = soon\n", encoding="ascii")
    assert desk.memocd.run("config", "--check", str(good)).returncode == 0
    done = desk.memocd.run("config", "--check", str(bad))
    assert done.returncode == 1 and all(word in done.stderr for word in ("bad.conf", "4", "interval", "soon")), done.stderr


def test_reload_is_all_or_nothing(desk):
    """SIGHUP with a bad file: refused whole, with line and reason; the running configuration stays. A good one is taken."""
    first = dict(desk.memocd.config)
    try:
        desk.memocd.write_config({"host": {"pool": "3584M", "buffer": "lots"}})
        desk.memocd.reload()
        wait_for(lambda: "lots" in desk.memocd.log.read_text(encoding="utf-8"), 10, "the refusal in the log")
        assert desk.memocd.host()["pool_bytes"] == 3 << 30
        desk.memocd.write_config({"host": {"pool": "3584M", "reserve": "256M", "buffer": "64M"}})
        desk.memocd.reload()
        wait_for(lambda: desk.memocd.host()["pool_bytes"] == 3584 << 20, 10, "the new pool")
    finally:
        desk.memocd.write_config(first)
        desk.memocd.reload()
    wait_for(lambda: desk.memocd.host()["pool_bytes"] == 3 << 30, 10, "the first pool")


def kernel_facts():
    """{line of memoc check: (whether it has to pass, what its text has to name)}, by the kernel's own files."""
    def fact(path):
        path = pathlib.Path(path)
        return path.read_text(encoding="ascii").strip() if path.exists() else ""

    swap_areas = len(fact("/proc/swaps").splitlines()) - 1
    generations = fact("/sys/kernel/mm/lru_gen/enabled")
    ksm = fact("/sys/kernel/mm/ksm/run")
    return {
        "cgroup": (True, "v2" if (host.CGROUP_ROOT / "cgroup.controllers").exists() else "v1"),
        "swap": (None, "") if swap_areas else (False, "none"),  # how full it is other tests decide
        "psi": (bool(fact("/proc/pressure/memory")), ""),
        "page-idle": (pathlib.Path("/sys/kernel/mm/page_idle/bitmap").exists(), ""),
        "mglru": (None if generations and int(generations, 0) & 1 else False, ""),  # what else it takes is its own affair
        "overcommit": (fact("/proc/sys/vm/overcommit_memory") != "2", f"vm.overcommit_memory={fact('/proc/sys/vm/overcommit_memory')}"),
        "madvise": (True, os.uname().release),
        "ksm": (None, "off" if ksm in ("", "0") else ""),
    }


def test_check(desk):
    """check: every line says what the kernel says, what is not right has a remedy, and the status tells; memocd is not needed."""
    for up in (True, False):
        if not up:
            desk.memocd.stop()
        facts = kernel_facts()
        done = desk.memocd.run("--json", "check")
        facts = dict(facts.items() & kernel_facts().items())  # other tests come and go with swap
        assert len(facts) >= 6, facts
        rows = json.loads(done.stdout)
        assert {row["result"] for row in rows} <= {"PASS", "WARN", "FAIL"} and len(rows) >= 8, rows
        assert all(row["remedy"] for row in rows if row["result"] != "PASS"), rows
        assert (done.returncode == 1) == any(row["result"] == "FAIL" for row in rows), (done.returncode, rows)
        verdict = {row["check"]: row["result"] for row in rows}
        assert (verdict["memocd"] == "PASS") == up, rows
        text = {row["check"]: row["text"] for row in rows}
        for name, (passes, named) in facts.items():
            assert passes is None or passes == (verdict[name] == "PASS"), (name, passes, rows)
            assert named in text[name], (name, named, rows)
    assert "cannot reach memocd" in desk.refused(3, "list")


def test_completion(desk):
    """The scripts are valid for their shells and know commands, keys and the names of the running VMs."""
    assert desk.memocd.run("__complete", "names").stdout.split() == ["web1"]
    script = desk.lab.base / "completion.bash"
    script.write_text(desk.memoc("completion", "bash"), encoding="utf-8")
    # compopt works only where the shell itself completes.
    asked = 'compopt() { :; }; source "$1"; COMP_WORDS=("${@:2}"); COMP_CWORD=$(($# - 2)); COMP_LINE="${*:2}"; COMP_POINT=${#COMP_LINE}; ' \
            'f=$(complete -p memoc); f=${f##*-F }; ' \
            '${f%% *} memoc "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"; echo "${COMPREPLY[@]}"'
    path = f"{program('memoc').parent}:{os.environ['PATH']}"

    def complete(*words):
        done = host.run(["bash", "--norc", "-c", asked, "bash", script, *words], env=dict(desk.memocd.environment(), PATH=path))
        assert not done.stderr, done.stderr
        return done.stdout.split()

    assert {"list", "explain", "drain"} <= set(complete("memoc", ""))
    assert complete("memoc", "expl") == ["explain"]
    assert complete("memoc", "info", "") == ["web1"]
    assert any(word.startswith("weight=") for word in complete("memoc", "set", "web1", "w"))
    for shell in ("zsh", "fish"):
        text = desk.memoc("completion", shell)
        assert "explain" in text and "weight" in text
        if shutil.which(shell):
            assert host.run([shell, "-n"], input_text=text).returncode == 0
    assert "tcsh" in desk.refused(2, "completion", "tcsh")


# ---- who may ----

LIBVIRT_GID, MEMOC_GID, ALICE, BOB, CAROL = 54001, 54002, 54321, 54322, 54323


@contextlib.contextmanager
def own_users(desk):
    """memocd with a user and group database of its own, in a mount namespace: the machine's stays as it is."""
    with open("/etc/passwd", encoding="utf-8") as passwd, open("/etc/group", encoding="utf-8") as group:
        users = passwd.read() + f"alice:x:{ALICE}:{ALICE}::/:/bin/false\nbob:x:{BOB}:{BOB}::/:/bin/false\n"
        groups = "".join(line for line in group if line.split(":")[0] not in ("libvirt", "memoc"))
    groups += f"libvirt:x:{LIBVIRT_GID}:alice,bob\nmemoc:x:{MEMOC_GID}:alice\n"
    for name, text in (("passwd", users), ("group", groups)):
        (desk.lab.base / name).write_text(text, encoding="utf-8")
        (desk.lab.base / name).chmod(0o644)
    mounts = "; ".join(f"mount --bind {desk.lab.base / name} /etc/{name}" for name in ("passwd", "group"))
    memoc = desk.lab.base / "memoc"  # where everybody may run it
    shutil.copyfile(program("memoc"), memoc)
    memoc.chmod(0o755)
    desk.memocd.stop()
    desk.memocd.prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'set -e; {mounts}; exec "$@"',
                          "memocd"]

    def memoc_as(uid, gid, groups, *args):
        return subprocess.run([memoc, *args], user=uid, group=gid, extra_groups=groups, env=desk.memocd.environment(),
                              cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30 * host.SLOW, check=False)

    try:
        desk.memocd.start()
        desk.wait_steady()
        yield memoc_as
    finally:
        desk.memocd.prefix = []
        desk.memocd.restart()


def nss_is_plain():
    """Whether groups come from /etc/group, so that the test can have its own."""
    with open("/etc/nsswitch.conf", encoding="utf-8") as conf:
        words = next((line.split(":")[1].split() for line in conf if line.startswith("group:")), ["files"])
    return words[0] in ("files", "compat") and not os.path.exists("/run/nscd/socket")


def test_who_may_do_what(desk):
    """Outside of group libvirt: no access. In it: may look, may not change. In group memoc: may change, and it is done."""
    if not nss_is_plain():
        raise Skip("users and groups do not come from files first: the test cannot have its own")
    look = [("list",), ("info", "web1"), ("host",), ("events",), ("explain", "web1"), ("get", "web1"), ("config",)]
    change = [("set", "web1", "weight=500"), ("resize", "web1", "160M"), ("hold",), ("hold", "web1"), ("release",),
              ("drain", "web1"), ("drain", "--all")]
    with own_users(desk) as memoc_as:
        socket_stat = os.stat(desk.memocd.socket)
        assert (socket_stat.st_uid, socket_stat.st_gid, socket_stat.st_mode & 0o777) == (0, LIBVIRT_GID, 0o660)
        for command in look + change:
            done = memoc_as(CAROL, CAROL, [], *command)
            assert done.returncode == 3 and "permission" in done.stderr, f"carol, {command}: {done}"
        # Bob is in libvirt; that his group list holds memoc's number too is no membership: the database decides.
        for command in look:
            done = memoc_as(BOB, BOB, [LIBVIRT_GID], *command)
            assert done.returncode == 0, f"bob, {command}: {done}"
        for command in change:
            done = memoc_as(BOB, BOB, [LIBVIRT_GID, MEMOC_GID], *command)
            assert done.returncode == 1 and "permission denied" in done.stderr and "memoc" in done.stderr, f"bob, {command}: {done}"
        vm = desk.memocd.vm("web1")
        assert vm["weight"] == 100 and vm["pinned_bytes"] is None and not vm["held"], vm
        # Alice is a member by the database; Carol's process has memoc as its own group.
        for uid, gid, weight in ((ALICE, ALICE, 510), (CAROL, MEMOC_GID, 520)):
            done = memoc_as(uid, gid, [LIBVIRT_GID], "set", "web1", f"weight={weight}")
            assert done.returncode == 0, f"{uid}: {done}"
            assert desk.memocd.vm("web1")["weight"] == weight
        done = memoc_as(ALICE, ALICE, [LIBVIRT_GID], "resize", "web1", "192M", "--wait")
        assert done.returncode == 0 and "reached" in done.stdout, done
        for command in (("hold", "web1"), ("release", "web1"), ("resize", "web1", "auto"), ("drain", "web1", "--wait"),
                        ("release", "web1")):
            done = memoc_as(ALICE, ALICE, [LIBVIRT_GID], *command)
            assert done.returncode == 0, f"alice, {command}: {done}"


def test_without_the_group_only_root(desk):
    """The machine's own groups: the socket belongs to group libvirt if there is one; others are kept out."""
    try:
        wanted = (grp.getgrnam("libvirt").gr_gid, 0o660)
    except KeyError:
        wanted = (0, 0o600)
    status = os.stat(desk.memocd.socket)
    assert (status.st_gid, status.st_mode & 0o777) == wanted, status
