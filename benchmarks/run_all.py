"""Run every suite beside this file and write one record for each.

python benchmarks/run_all.py --out benchmarks/results
python benchmarks/run_all.py --out DIR --only ops
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from litfast.bench import record

Stats = Mapping[str, float]
HERE = Path(__file__).resolve().parent
OPTIONS = (
    "--benchmark-max-time=0.5",
    "--benchmark-min-rounds=5",
    "--benchmark-warmup=on",
    "--benchmark-disable-gc",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when every suite passed, 1 when one failed, 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        description="Run every benchmarks/bench_*.py suite and write JSON records."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the records")
    parser.add_argument("--only", metavar="NAME", help="one suite: ops for bench_ops.py")
    given = parser.parse_args(arguments)
    suites = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    if given.only and given.only not in suites:
        parser.error(f"--only must be one of {', '.join(suites)}, got {given.only}")
    chosen = [suites[given.only]] if given.only else list(suites.values())
    passed = [run_suite(path, given.out) for path in chosen]
    return 0 if all(passed) else 1


def run_suite(path: Path, out: Path) -> bool:
    """Run one suite in its own process, write its record, print its medians; answer whether all passed."""
    with tempfile.TemporaryDirectory() as folder:
        numbers, outcomes = Path(folder, "numbers.json"), Path(folder, "outcomes.xml")
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", str(path), *OPTIONS]
        command += [
            f"--benchmark-json={numbers}",
            f"--junitxml={outcomes}",
            "--benchmark-columns=median,iqr,rounds",
        ]
        passed = subprocess.run(command, cwd=HERE.parent, check=False).returncode == 0
        entries = json.loads(numbers.read_text())["benchmarks"] if numbers.exists() else []
        skipped, failed = read_outcomes(outcomes)
    written = record.write(
        out / f"{path.stem}.json",
        command=f"python benchmarks/run_all.py --out DIR --only {path.stem.removeprefix('bench_')}",
        results=rows(entries, passed=passed),
        checks={path.stem: passed},
        skipped=skipped,
        failed=failed,
    )
    for row in written["results"]:
        gain = "" if row["speedup"] is None else "  tie" if row["tie"] else f"  {row['speedup']:.2f}x"
        print(f"{row['group']:<32} {row['contender']:<12} {row['median_ms']:>10.4f} ms{gain}")
    return passed


def rows(entries: Sequence[Mapping[str, Any]], *, passed: bool) -> list[dict[str, Any]]:
    """pytest-benchmark's entries as rows, each against its group's baseline and roof by the median.

    A tie: the quartiles of the two overlap. In a suite that failed no speed-up is given at all.
    """
    baselines = {entry["group"]: entry["stats"] for entry in entries if entry["extra_info"].get("baseline")}
    roofs = {entry["group"]: entry["stats"] for entry in entries if entry["extra_info"].get("roof")}
    return [
        _row(entry, baselines.get(entry["group"]) if passed else None, roofs.get(entry["group"]))
        for entry in entries
    ]


def _row(entry: Mapping[str, Any], baseline: Stats | None, roof: Stats | None) -> dict[str, Any]:
    stats, extra = entry["stats"], dict(entry["extra_info"])
    alone = extra.pop("baseline", False) or extra.pop("roof", False)
    row = {"group": entry["group"], "contender": extra.pop("contender"), "rounds": stats["rounds"]}
    row |= {f"{key}_ms": 1000 * stats[key] for key in ("median", "q1", "q3", "min", "mean", "stddev")}
    row |= {"speedup": None, "tie": None, "of_roof": None}
    if baseline and not alone:
        row["speedup"] = baseline["median"] / stats["median"]
        row["tie"] = stats["q1"] <= baseline["q3"] and baseline["q1"] <= stats["q3"]
    if roof:
        row["of_roof"] = roof["median"] / stats["median"]
    if "bytes" in extra:
        row["gb_per_s"] = extra["bytes"] / stats["median"] / 1e9
    return row | extra


def read_outcomes(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What pytest skipped and what failed, by test, each with its one-line reason."""
    found: dict[str, dict[str, str]] = {"skipped": {}, "failure": {}, "error": {}}
    for case in ElementTree.parse(path).iter("testcase") if path.exists() else ():
        for kind, reasons in found.items():
            mark = case.find(kind)
            if mark is not None:
                reasons[str(case.get("name"))] = (mark.get("message") or "").split("\n")[0]
    return found["skipped"], found["failure"] | found["error"]


if __name__ == "__main__":
    sys.exit(main())
