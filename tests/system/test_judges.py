# SPDX-License-Identifier: LGPL-2.1-or-later
"""Those who judge, judged: what the demo and the benches take for good and for bad, on made-up input."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))

# pylint: disable=wrong-import-position
from bench import longest_below, unexplained
from demo import MIB, check_proportion, excess
from host import LabError

HAD = {"build": (90 * MIB, 100), "db": (45 * MIB, 100)}


def refuses(rounds):
    try:
        check_proportion(rounds)
    except LabError:
        return True
    return False


def test_demo_checks_proportion(_):
    """Act 3 of the demo: 2:1 of 2:1 is fair; equal shares, swapped shares, ignored weights and greed without giving are not."""
    assert check_proportion([({"build": 60 * MIB, "db": 32 * MIB}, HAD)])
    assert refuses([({"build": 46 * MIB, "db": 46 * MIB}, HAD)])
    assert refuses([({"build": 30 * MIB, "db": 60 * MIB}, HAD)])
    assert refuses([({"build": 60 * MIB, "db": 30 * MIB}, {**HAD, "db": (45 * MIB, 300)})])
    assert refuses([({"build": 60 * MIB}, HAD)])
    assert refuses([({"build": 60 * MIB, "web": 30 * MIB}, HAD)])
    # Rounds are judged together: the dead band of one is made up for by the next.
    assert check_proportion([({"build": 30 * MIB}, HAD), ({"build": 10 * MIB, "db": 20 * MIB}, HAD)])


def test_demo_knows_excess(_):
    """Too much is what lies beyond need and minimum and is not being taken already; needy and pinned VMs have none."""
    vm = {"need_bytes": 100, "greedy_bytes": 50, "min_bytes": 60, "target_bytes": 150, "state": "steady", "needy": False,
          "pinned_bytes": None}
    assert excess(vm) == 50
    assert excess({**vm, "min_bytes": 120}) == 30
    assert excess({**vm, "state": "shrinking-balloon", "target_bytes": 110}) == 10
    assert excess({**vm, "needy": True}) == excess({**vm, "pinned_bytes": 100}) == excess({**vm, "greedy_bytes": 0}) == 0


def test_bench_counts_silence_as_hurt(_):
    """The squeeze bench: a guest that is frozen to the end, or slow to the end, was hurt for all of that time."""
    good = [(at / 2, 1.0) for at in range(1, 41)]
    assert longest_below(good, 0, 20) == 0
    assert longest_below([], 0, 20) == 20
    assert longest_below(good[:10], 0, 20) == 15
    assert longest_below([*good[:10], (12, 0.1), (14, 0.1)], 0, 20) == 15
    assert longest_below([*good[:10], (9, 0.02), *good[18:]], 0, 20) == 4
    assert longest_below([(-5, 1.0), *good[8:]], 0, 20) == 0


def test_bench_explains_wakeups(_):
    """The idle bench: turns of the loop, jobs and their waits explain; what is more than these does not."""
    calm = {"loop": 13, "loop_for_nothing": 0, "jobs": 6, "job_sleeps": 8, "worker_for_nothing": 0, "sleeps": 27}
    assert unexplained(calm) == 0
    assert unexplained({**calm, "sleeps": 32}) == 5
    assert unexplained({**calm, "loop": 16, "loop_for_nothing": 3, "sleeps": 30}) == 3
    assert unexplained({**calm, "worker_for_nothing": 2}) == 2
