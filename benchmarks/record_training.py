"""Train a recipe with several seeds and write one record: how every seed does, mean and spread, time.

With `--keep FOLDER` the runs stay, FOLDER for one seed, FOLDER-SEED for several; a stopped one is resumed.

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

WANTED = (  # of a run's results
    *("method", "data", "samples", "test_accuracy", "test_perplexity", "scores", "test_by_phase", "phases"),
    *("models", "seconds", "precision", "threads"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="a shipped recipe's name or a TOML file")
    parser.add_argument("--out", type=Path, required=True, help="the record to write")
    parser.add_argument("--seeds", default="0", help="comma separated")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the run folders")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    many = len(seeds) > 1
    kept = {seed: given.keep and (f"{given.keep}-{seed}" if many else given.keep) for seed in seeds}
    runs = [run(given.recipe, given.sets, seed, kept[seed]) for seed in seeds]
    what = next((key for key in ("test_accuracy", "test_perplexity") if key in runs[0]), "fid")
    found = [each[what]["student"] if what in each else each["scores"]["student"][what] for each in runs]
    results = {
        what: found,
        "mean": statistics.fmean(found),
        "std": statistics.stdev(found) if many else None,
        "command_seconds": [each["command_seconds"] for each in runs],
        "threads": runs[0]["threads"],
        "runs": runs,
    }
    checks = {
        "test_accuracy": {"accuracies are percentages": all(0 < value <= 100 for value in found)},
        "test_perplexity": {"perplexities are above 1": all(1 < value < float("inf") for value in found)},
        "fid": {"distances are positive": all(0 <= value < float("inf") for value in found)},
    }
    words = [given.out.name if word == str(given.out) else word for word in sys.argv[1:]]  # no one's folders
    line = shlex.join(["python", "-m", "benchmarks.record_training", *words])
    written = record.write(given.out, command=line, results=results, checks=checks[what])
    said = f"{what} {results['mean']:.2f}, mean of seeds {given.seeds}"
    print(f"{given.out.name}: {said}, commit {written['commit']}")


def run(recipe: str, sets: list[str], seed: int, keep: str | None) -> dict[str, Any]:
    """One whole `litfast train` in a process of its own; what it reports, and how long the command took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "litfast", "train", "--json", "--out", keep or f"{folder}/run"]
        resumed = keep is not None and (Path(keep) / "run.json").exists()
        if resumed:
            command.append("--resume")
        else:
            command += [recipe, "--seed", str(seed), *(word for text in sets for word in ("--set", text))]
        started = time.perf_counter()
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - started
    document = json.loads(answer.stdout)
    known = {key: document[key] for key in WANTED if key in document}
    return {"seed": seed, "resumed": resumed, "command_seconds": round(seconds, 1), **known}


if __name__ == "__main__":
    main()
