"""Give every reader and every op its hostile cases (tests/fuzz) and write one record: how many were tried.

From the checkout, so that the record knows its commit:

python -m benchmarks.fuzz --out benchmarks/results/fuzz.json
python -m benchmarks.fuzz --guided --out benchmarks/results/fuzz_guided.json

Without `--guided` hypothesis draws the cases, with it atheris looks for those that reach more of our code.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from litfast.bench import record
from tests.fuzz.harness import Hang, Target, fuzz
from tests.fuzz.targets import TARGETS
from tests.fuzz.test_hostile import FEW, MANY


def guided(target: Target, cases: int, folder: Path) -> dict[str, int]:
    """What atheris's cases came to, in a process of its own, which libFuzzer ends."""
    counts = folder / "counts.json"
    command = [sys.executable, "-m", "tests.fuzz.guided", target.name, "--cases", str(cases)]
    subprocess.run([*command, "--counts", str(counts)], check=True)
    found: dict[str, int] = json.loads(counts.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the record to write")
    parser.add_argument("--short", action="store_true", help="30 cases each in place of 10,000")
    parser.add_argument(
        "--guided", action="store_true", help="let atheris find the cases (pip install atheris)"
    )
    names = [target.name for target in TARGETS]
    parser.add_argument("--only", action="append", choices=names, help="this target (again for another)")
    given = parser.parse_args()
    hold, cases = guided if given.guided else fuzz, FEW if given.short else MANY
    found: list[dict[str, Any]] = []
    held = True
    for target in TARGETS:
        if target.name in (given.only or names):
            began = time.perf_counter()
            try:
                with tempfile.TemporaryDirectory() as folder:
                    counts = hold(target, cases, Path(folder))
                seconds = round(time.perf_counter() - began, 1)
                found.append({"target": target.name, **counts, "seconds": seconds})
                print(found[-1], flush=True)
            except (Exception, Hang):
                held = False
                traceback.print_exc()
    tried = {key: sum(each.get(key, 0) for each in found) for key in ("accepted", "refused")}
    results = {"cases": sum(tried.values()), **tried, "targets": found}
    checks = {"every case was taken whole or refused in one line": held}
    options = [
        given.out.name if word == str(given.out) else word for word in sys.argv[1:]
    ]  # no one's folders
    line = shlex.join(["python", "-m", "benchmarks.fuzz", *options])
    record.write(given.out, command=line, results=results, checks=checks)
    print(f"{given.out.name}: {results['cases']} cases of {len(found)} targets, {tried}")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
