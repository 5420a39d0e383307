# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory advice as the kernels take it: this machine's, and Debian's stock 6.1, which spares what was touched since its last look
and has no PAGEMAP_SCAN. No VM: advice_check.c reads memory as a migration does, and judges by what the kernel says afterwards.

That of the nested host (6.12, cgroup v2) runs the same program: tests/lab/test_advice_here.py.
"""

import os
import re

import host
from lab import HostSwap, LabError
from memocd import check_program
from run import limit
from stock_kernel import run_on_stock_kernel

HERE_MIB = 128
STOCK_MIB = 96


def judge(text):
    """The check's own verdict, and what it looked at: nothing failed, and it came to its end."""
    print("\n".join("    " + line for line in text.splitlines()))
    looks = re.findall(r"^(ok|FAILED) ", text, re.MULTILINE)
    if "FAILED" in looks or len(looks) < 15 or not text.rstrip().endswith("advice_check: 0 failed"):
        raise LabError(f"advice_check:\n{text[-3000:]}")


def build(lab):
    return check_program(lab.base, "advice_check", ("advice", "host"))


@limit(180)
def test_here(lab):
    """This machine's kernel."""
    HostSwap(lab, 512)
    judge(host.run([build(lab), str(HERE_MIB)], limit_s=120, check=False).stdout)


@limit(400)
def test_stock_kernel(lab):
    """Debian's."""
    text = run_on_stock_kernel(lab, build(lab), STOCK_MIB)
    assert "Linux " in text and os.uname().release not in text, text[:200]
    judge(text)
