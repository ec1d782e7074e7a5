"""Give every reader and every op its hostile cases (tests/fuzz) and write one record: how many were tried.

From the checkout, so that the record knows its commit:

python -m benchmarks.fuzz --out benchmarks/results/fuzz.json
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from litfast.bench import record


class Counts:
    """What each target of the run accepted and refused, from its report."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for key, value in report.user_properties:
            if key == "fuzz" and report.when == "call":
                assert isinstance(value, dict)
                self.found.append({**value, "seconds": round(report.duration, 1)})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the record to write")
    parser.add_argument("--short", action="store_true", help="30 cases each in place of 10,000")
    parser.add_argument("--only", default="", help="targets by pytest's -k, e.g. 'archives or idx'")
    given = parser.parse_args()
    counts = Counts()
    words = ["-q", "-p", "no:cacheprovider", "-m", "not long" if given.short else "long", "-k", given.only]
    code = pytest.main(["tests/fuzz", *words], plugins=[counts])
    tried = {key: sum(each.get(key, 0) for each in counts.found) for key in ("accepted", "refused")}
    results = {"cases": sum(tried.values()), **tried, "targets": counts.found}
    checks = {"every case was taken whole or refused in one line": code == 0}
    options = [
        given.out.name if word == str(given.out) else word for word in sys.argv[1:]
    ]  # no one's folders
    line = shlex.join(["python", "-m", "benchmarks.fuzz", *options])
    record.write(given.out, command=line, results=results, checks=checks)
    print(f"{given.out.name}: {results['cases']} cases of {len(counts.found)} targets, {tried}")
    sys.exit(code)


if __name__ == "__main__":
    main()
