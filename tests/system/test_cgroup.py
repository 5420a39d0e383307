# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cgroup adapter against real kernels: this machine's cgroup v1 or v2, and v2 of Debian's stock kernel in a guest.

cgroup_check.c does the checking; this module builds it against the archives of $MEMOC_BUILD (default: build), gives it
swap and judges what it prints. `python3 tests/system/test_cgroup.py` runs just these tests.
"""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]

# pylint: disable=wrong-import-position
import host
from lab import HostSwap, LabError
from memocd import check_program
from run import limit
from stock_kernel import run_on_stock_kernel

HERE_MIB = 200
GUEST_MIB = 96


def judge(text):
    """The check's own verdict: every line that failed, and whether it came to its end."""
    failed = [line for line in text.splitlines() if line.startswith("FAILED")]
    verdict = re.search(r"^cgroup_check: (\d+) passed, (\d+) failed$", text, re.MULTILINE)
    if failed or not verdict or int(verdict.group(2)) or not int(verdict.group(1)):
        raise LabError("\n".join(failed) if failed else f"cgroup_check did not come to its end:\n{text[-3000:]}")


@limit(180)
def test_cgroup_here(lab):
    """This machine's memory controller: sampling, lowering with and without swap, raising, opening, a group's end."""
    program = check_program(lab.base, "cgroup_check")
    HostSwap(lab, 512)
    done = host.run([program, host.cgroup_version(), HERE_MIB, "swap"], limit_s=120, check=False)
    judge(done.stdout)
    if done.returncode != 0 or "skip   lowering" in done.stdout:
        raise LabError(f"exit {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")


@limit(400)
def test_cgroup_v2_in_guest(lab):
    """v2 of Debian's stock kernel: memory.high and memory.reclaim with zram swap; memory.max untouched, no OOM kill."""
    text = run_on_stock_kernel(lab, check_program(lab.base, "cgroup_check"), "v2", GUEST_MIB, "swap")
    judge(text)
    if "skip   lowering" in text:
        raise LabError(f"lowering was not looked at:\n{text[-2000:]}")


if __name__ == "__main__":
    import run

    sys.argv[1:1] = ["-k", "test_cgroup."]
    sys.exit(run.main())
