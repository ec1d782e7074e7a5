"""Train a recipe with several seeds and write one record: accuracy of every seed, mean and spread, time.

From the checkout, so that the record knows its commit:

python -m benchmarks.record_training benchmarks/recipes/kd.toml --out benchmarks/results/cifar10_4000_kd.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from litfast.bench import record


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="a shipped recipe's name or a TOML file")
    parser.add_argument("--out", type=Path, required=True, help="the record to write")
    parser.add_argument("--seeds", default="0", help="comma separated")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    runs = [run(given.recipe, given.sets, seed) for seed in seeds]
    accuracies = [each["test_accuracy"]["student"] for each in runs]
    results = {
        "test_accuracy": accuracies,
        "mean": statistics.fmean(accuracies),
        "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "command_seconds": [each["command_seconds"] for each in runs],
        "threads": runs[0]["threads"],
        "runs": runs,
    }
    finite = all(0 < accuracy <= 100 for accuracy in accuracies)
    words = [given.out.name if word == str(given.out) else word for word in sys.argv[1:]]  # no one's folders
    line = shlex.join(["python", "-m", "benchmarks.record_training", *words])
    written = record.write(
        given.out, command=line, results=results, checks={"accuracies are percentages": finite}
    )
    print(
        f"{given.out.name}: {results['mean']:.2f} % mean of seeds {given.seeds}, commit {written['commit']}"
    )


def run(recipe: str, sets: list[str], seed: int) -> dict[str, Any]:
    """One whole `litfast train` in a process of its own; what it reports, and how long the command took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "litfast", "train", recipe, "--seed", str(seed), "--json"]
        command += ["--out", f"{folder}/run", *(word for text in sets for word in ("--set", text))]
        started = time.perf_counter()
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - started
    document = json.loads(answer.stdout)
    kept = ("method", "data", "samples", "test_accuracy", "phases", "seconds", "precision", "threads")
    return {"seed": seed, "command_seconds": round(seconds, 1), **{key: document[key] for key in kept}}


if __name__ == "__main__":
    main()
