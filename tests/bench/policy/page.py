# SPDX-License-Identifier: LGPL-2.1-or-later
"""make policy-figures: measures the figures of memoc-policy(7) anew and writes them into its source.

    TRACES=DIR            the first *.csv, .gz or .xz in it with 20 VMs or more is played
    BENCH_DURATION=12h    only so much of it (default 12h; "all": all of it)
    BENCH_SEED=1          of placement and phases

Everything between the two marks in packaging/man/memoc-policy.7 is replaced, the commands that give the same figures
included; nothing else of the page is touched.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
DURATION = os.environ.setdefault("BENCH_DURATION", "12h")
if DURATION == "all":
    os.environ["BENCH_DURATION"] = ""
import bars  # noqa: E402  (it reads the environment)

PAGE = pathlib.Path("packaging/man/memoc-policy.7")
BEGIN, END = '.\\" figures: begin\n', '.\\" figures: end\n'
RATIOS = ("4", "6")
COLUMNS = [
    ("regret %", lambda r: 100 * r["regret"]),
    ("p50 s", lambda r: r["relief_p50_s"]),
    ("p99 s", lambda r: r["relief_p99_s"]),
    ("churn", lambda r: r["churn"]),
    ("blind", lambda r: r["churn_blind"]),
    ("reversals", lambda r: r["reversals"]),
    ("breaches", lambda r: r["floor_breaches"]),
]


def trace_of(folder):
    for trace in bars.real(folder):
        look = bars.simulate(trace, "static", "--overcommit", "4", "--duration", "1s")
        if look["vms"] >= bars.FEW_VMS:
            return trace
    bars.fail(f"TRACES={folder}: no trace of {bars.FEW_VMS} VMs or more there")
    return None


def table(trace, ratio):
    options = ["--vms-per-host", str(bars.VMS_PER_HOST), "--overcommit", ratio]
    results = [bars.simulate(trace, policy, *options) for policy in bars.POLICIES]
    first = results[0]
    played = f" --duration {DURATION}" if bars.DURATION else ""
    rows = [[result["policy"]] + [bars.number(of(result)) for _, of in COLUMNS] for result in results]
    heads = ["policy"] + [name for name, _ in COLUMNS]
    widths = [max((row[i] for row in [heads, *rows]), key=len) for i in range(len(heads))]
    lines = [
        ".Pp",
        f"Overcommit {ratio}, {first['vms']} VMs on {first['hosts']} hosts, {first['steps']} steps of 1 s:",
        ".Bd -literal",
        f"memoc simulate --trace {trace.name} \\e",
        f"    --policy {','.join(bars.POLICIES[:4])} \\e",
        f"    --policy {','.join(bars.POLICIES[4:])} \\e",
        f"    --vms-per-host {bars.VMS_PER_HOST} --overcommit {ratio}{played} --seed {bars.SEED}",
        ".Ed",
        ".Bl -column " + " ".join(f'"{width}"' for width in widths),
        ".It " + " Ta ".join(f'Sy "{head}"' for head in heads),
    ]
    lines += [".It " + " Ta ".join(row) for row in rows]
    return lines + [".El"]


def main():
    if not bars.MEMOC.exists():
        bars.fail(f"{bars.MEMOC} is not built: run make first")
    folder = os.environ.get("TRACES", "")
    if not folder:
        bars.fail("TRACES=DIR is needed: where real traces lie")
    text = PAGE.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        bars.fail(f"{PAGE}: the marks are not there")
    trace = trace_of(folder)
    lines = []
    for ratio in RATIOS:
        lines += table(trace, ratio)
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1], encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
