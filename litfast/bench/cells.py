"""Runs of one setting under several seeds, summed up: mean and spread of whatever they report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from litfast.bench.metric import METRICS

Results = Mapping[str, Any]  # a run's results.json
VAL, VAL_WORDS = "validation accuracy, %", "validation perplexity"


def figures(results: Results, keep: str = "last") -> dict[str, float]:
    """What a run's student is judged by, each figure named with the split that it is of.

    The test accuracy or perplexity or, for a method that reports `scores` in its place, those of the
    student; then the validation accuracy or perplexity of the last phase that was validated: of the weights
    that it ended with, those of its last or its best epoch (`keep`).
    """
    found: dict[str, float] = {}
    for name, metric in METRICS.items():
        if (value := results.get(f"test_{name}", {}).get("student")) is not None:
            found[f"test {metric.label}"] = value
    scores: Mapping[str, Any] = results.get("scores") or {}
    own: Mapping[str, Any] = scores.get("student", scores)
    found |= {f"test {name}": value for name, value in own.items() if isinstance(value, float | int)}
    validated = [phase[keep] for phase in results.get("phases", {}).values() if phase[keep] is not None]
    name = VAL_WORDS if "test_perplexity" in results else VAL
    return found | ({name: validated[-1]} if validated else {})


def seconds(results: Results) -> float:
    """Training time of a run, but for the teacher's, which runs may share."""
    return float(sum(value for phase, value in results["seconds"].items() if phase != "teacher"))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None of a single value) and the values themselves."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def text(figure: Mapping[str, Any], digits: int = 2) -> str:
    """A spread for a table: mean ± std."""
    said = f"{figure['mean']:.{digits}f}"
    return said if figure["std"] is None else f"{said} ± {figure['std']:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds for a table, with a tenth where that is much of them."""
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
