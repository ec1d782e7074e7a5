"""Run every suite beside this file and write one record for each, named by suite and device.

python benchmarks/run_all.py --out benchmarks/results
python benchmarks/run_all.py --out DIR --only ops
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from litfast.bench import machine, record

HERE = Path(__file__).resolve().parent
OPTIONS = (
    "--benchmark-max-time=0.5",
    "--benchmark-min-rounds=5",
    "--benchmark-warmup=on",
    "--benchmark-disable-gc",
    "--benchmark-columns=median,iqr,rounds",
    # a suite of which everything is skipped is no error
    "-Wignore::pytest_benchmark.logger.PytestBenchmarkWarning",
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
    chosen = [given.only] if given.only else list(suites)
    passed = [run_suite(name, suites[name], given.out) for name in chosen]
    return 0 if all(passed) else 1


def run_suite(name: str, path: Path, out: Path) -> bool:
    """Run one suite in its own process, write its record, print its medians; answer whether all passed."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        numbers, outcomes = Path(folder, "numbers.json"), Path(folder, "outcomes.xml")
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", str(path), *OPTIONS]
        command += [f"--benchmark-json={numbers}", f"--junitxml={outcomes}"]
        passed = subprocess.run(command, cwd=HERE.parent, check=False).returncode == 0
        text = numbers.read_text() if numbers.exists() else ""
        skipped, failed = read_outcomes(outcomes)
    entries = json.loads(text)["benchmarks"] if text else []
    written = record.write(
        out / f"{name}_{device()}.json",
        command=f"python benchmarks/run_all.py --out DIR --only {name}",
        results=rows(entries, failed),
        checks={entry["name"]: True for entry in entries} | dict.fromkeys(failed, False),
        skipped=skipped,
        failed=failed,
        seconds=round(time.perf_counter() - started, 1),
    )
    for row in written["results"]:
        print(f"{row['group']:<46} {row['contender']:<18} {row['median_ms']:>10.4f} ms{gain(row)}")
    return passed


def rows(entries: Sequence[Mapping[str, Any]], failed: Collection[str]) -> list[dict[str, Any]]:
    """One for each contender of each test that passed; `check` names that test.

    A test times one contender and may have timed others in the same rounds: those come after it, with
    `speedup`, how many times faster it is than they are, and `tie`, whether that could be 1.
    """
    found = []
    for entry in entries:
        if entry["name"] in failed:
            continue
        stats, extra = entry["stats"], dict(entry["extra_info"])
        head = {"group": entry["group"], "check": entry["name"], "contender": extra.pop("contender")}
        others = extra.pop("against", [])
        times = {f"{key}_ms": 1000 * stats[key] for key in ("median", "q1", "q3")}
        found.append(head | {"rounds": stats["rounds"]} | times | extra)
        found += [head | {"of": head["contender"]} | other for other in others]
    return found


def gain(row: Mapping[str, Any]) -> str:
    """What a line says of the ratio: which contender is how many times faster than this one."""
    if "speedup" not in row:
        return ""
    return f"  {row['of']} is {row['speedup']:.2f}x as fast" + (", a tie" if row["tie"] else "")


def device() -> str:
    """The device in a record's name: cpu, or the GPU, NVIDIA H200 as h200."""
    gpu = machine.describe()["gpu"]
    words = gpu["name"].lower().split() if gpu else ["cpu"]
    return "_".join(word for word in words if word != "nvidia")


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
