# SPDX-License-Identifier: LGPL-2.1-or-later
"""make policy-figures: measures the figures of memoc-policy(7) anew and writes them into its source.

    TRACES=DIR            the first *.csv, .gz or .xz in it with 20 VMs or more is played, and all with fewer
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
    ("waits", lambda r: r["relief_episodes"]),
    ("over 6 s", lambda r: r["relief_over_6s"]),
    ("churn", lambda r: r["churn"]),
    ("blind", lambda r: r["churn_blind"]),
    ("reversals", lambda r: r["reversals"]),
    ("breaches", lambda r: r["floor_breaches"]),
]


FAULT_COLUMNS = [
    ("regret %", lambda r: 100 * r["regret"]),
    ("of the others %", lambda r: 100 * r["honest_regret"]),
    ("of shares %", lambda r: 100 * r["share_lacked"]),
    ("most %", lambda r: 100 * r["share_lacked_most"]),
    ("p99 s", lambda r: r["relief_p99_s"]),
    ("churn", lambda r: r["churn"]),
    ("breaches", lambda r: r["floor_breaches"]),
]
DENSITY_DURATION = "24h"  # twenty runs


def traces_of(folder):
    """(the first of 20 VMs or more, those of fewer)"""
    large, small = None, []
    for trace in bars.real(folder):
        look = bars.simulate(trace, "static", "--overcommit", "4", "--duration", "1s")
        if look["vms"] < bars.FEW_VMS:
            small.append(trace)
        elif not large:
            large = trace
    if not large:
        bars.fail(f"TRACES={folder}: no trace of {bars.FEW_VMS} VMs or more there")
    return large, small


def played():
    return f" --duration {DURATION}" if bars.DURATION else ""


def hosts(ratio):
    return ["--vms-per-host", str(bars.VMS_PER_HOST), "--overcommit", ratio]


def put(heads, rows):
    widths = [max((row[i] for row in [heads, *rows]), key=len) for i in range(len(heads))]
    lines = [".Bl -column " + " ".join(f'"{width}"' for width in widths), ".It " + " Ta ".join(f'Sy "{head}"' for head in heads)]
    return lines + [".It " + " Ta ".join(row) for row in rows] + [".El"]


def rows_of(results, columns):
    return [[name] + [bars.number(of(result)) for _, of in columns] for name, result in results]


def table(trace, ratio):
    results = [(policy, bars.simulate(trace, policy, *hosts(ratio))) for policy in bars.POLICIES]
    first = results[0][1]
    return [
        ".Pp",
        f"Overcommit {ratio}, {first['vms']} VMs on {first['hosts']} hosts, {first['steps']} steps of 1 s:",
        ".Bd -literal",
        f"memoc simulate --trace {trace.name} \\e",
        f"    --policy {','.join(bars.POLICIES[:4])} \\e",
        f"    --policy {','.join(bars.POLICIES[4:])} \\e",
        f"    --vms-per-host {bars.VMS_PER_HOST} --overcommit {ratio}{played()} --seed {bars.SEED}",
        ".Ed",
    ] + put(["policy"] + [name for name, _ in COLUMNS], rows_of(results, COLUMNS))


def faults_table(trace, ratio):
    results = [(kind, bars.simulate(trace, bars.OURS, *hosts(ratio), "--faults", f"{kind}:10%")) for kind in bars.FAULTS]
    return [".Pp", f"Overcommit {ratio}, the same with a fault in every tenth VM", ".Pq Fl -faults No KIND:10% :"] + \
        put(["fault"] + [name for name, _ in FAULT_COLUMNS], rows_of(results, FAULT_COLUMNS))


def small_table(trace):
    names = (bars.OURS, "ideal", "mom", "pve", "squeezed", "static")
    results = [(policy, bars.simulate(trace, policy, "--overcommit", "2")) for policy in names]
    return [".Pp", f"{trace.name}, {results[0][1]['vms']} VMs, a pool of half of their sizes, seed {bars.SEED}:"] + \
        put(["policy"] + [name for name, _ in COLUMNS], rows_of(results, COLUMNS))


def density_lines(trace):
    found = [bars.simulate(trace, policy, *hosts("4"), "--duration", DENSITY_DURATION, "--density")["density_overcommit_ratio"]
             for policy in (bars.OURS, "oracle")]
    return [".Pp", "Density, the most overcommitment at which no more than 0.1 % of demand is", f"unmet, of the first {DENSITY_DURATION}",
            ".Pq Fl -density :", f"{bars.number(found[0])}; the oracle's is {bars.number(found[1])}."]


def main():
    if not bars.MEMOC.exists():
        bars.fail(f"{bars.MEMOC} is not built: run make first")
    folder = os.environ.get("TRACES", "")
    if not folder:
        bars.fail("TRACES=DIR is needed: where real traces lie")
    text = PAGE.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        bars.fail(f"{PAGE}: the marks are not there")
    trace, small = traces_of(folder)
    lines = []
    for ratio in RATIOS:
        lines += table(trace, ratio) + faults_table(trace, ratio)
    for other in small:
        lines += small_table(other)
    if bars.DENSITY:
        lines += density_lines(trace)
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1], encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
