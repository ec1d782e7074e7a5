"""What models are judged by on the test split: its name, its unit and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]  # a run's results.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure of merit."""

    name: str
    unit: str = ""
    higher: bool  # is better

    @property
    def label(self) -> str:
        """Name and unit, for the head of a column: "accuracy, %"."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def text(self, value: float | None) -> str:
        """A value for people: "92.60 %"; "-" where there is none."""
        return "-" if value is None else f"{value:.2f} {self.unit}".rstrip()

    def cost(self, value: float) -> float:
        """The value turned so that less is better."""
        return -value if self.higher else value


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", unit="%", higher=True),
        Metric(name="agreement", unit="%", higher=True),  # with the teacher, where there are no labels
        Metric(name="perplexity", higher=False),
        Metric(name="FID", higher=False),
    )
}


def judged(results: Results) -> tuple[Metric, dict[str, float]]:
    """The metric of a run and its value of every model, by name.

    `test_accuracy`, `test_agreement` or `test_perplexity` of the results hold it; of generators it is the FID
    among `scores`.

    Raises:
        ValueError: the results hold none of them.
    """
    for name, metric in METRICS.items():
        if found := results.get(f"test_{name}"):
            return metric, dict(found)
    if not results.get("scores"):
        known = ", ".join(f"test_{name}" for name in METRICS)
        raise ValueError(f"results: must hold {known} or scores, got {', '.join(results) or 'nothing'}")
    return METRICS["FID"], {name: given["fid"] for name, given in results["scores"].items()}


def by_phase(results: Results) -> dict[str, tuple[float, float]]:
    """The metric on the test split of each phase's model, before and after; older runs have none."""
    metric, _ = judged(results)
    phases: Mapping[str, Any] = results.get("test_by_phase") or {}
    return {
        phase: (given["before"][metric.name], given["after"][metric.name]) for phase, given in phases.items()
    }
