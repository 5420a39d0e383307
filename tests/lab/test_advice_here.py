# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory advice on this host's kernel, 6.12 with cgroup v2: the program of tests/system/test_advice_kernels.py, and its judge."""

from host import run
from installed import Site
from run import limit
from test_advice_kernels import judge
from windows import lab_program

MEMORY_MIB = 96


def fixture(lab):
    yield Site(lab)  # for the swap


@limit(120)
def test_here(_site):
    """What was swapped out is out again behind the reader; what the guest uses stays."""
    judge(run([lab_program("advice_check"), str(MEMORY_MIB)], limit_s=60, check=False).stdout)
