"""Write the result table of README.md from the records; `--check` only says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from litfast.bench import record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"
ROWS = {
    "scratch": "scratch, hard labels",
    "kd": "KD",
    "lit_joint": "LIT, joint loss, random start",
    "lit_independent": "LIT, independent sections, random start",
    "lit_teacher_blocks": "**LIT, independent sections, from the teacher's blocks**",
}


def table() -> str:
    """One row a method, from its record; then how long the best one takes."""
    lines = ["| training of the ResNet-20 | test accuracy | seeds |", "|---|---|---|"]
    for name, label in ROWS.items():
        results = record.read(RESULTS / f"cifar10_4000_{name}.json")["results"]
        spread = "" if results["std"] is None else f" ± {results['std']:.2f}"
        lines.append(f"| {label} | {results['mean']:.2f} %{spread} | {len(results['test_accuracy'])} |")
    minutes = min(results["command_seconds"]) / 60
    took = f"The last one takes {minutes:.1f} minutes on {results['threads']} CPU cores, the whole command."
    return "\n".join([*lines, "", took]) + "\n"


def main() -> None:
    path = ROOT / "README.md"
    text = path.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    fresh = f"{head}{BEGIN}{table()}{END}{tail}"
    if "--check" in sys.argv[1:]:
        sys.exit(
            0 if fresh == text else "README.md: the result table must match the records, got another one"
        )
    path.write_text(fresh)


if __name__ == "__main__":
    main()
