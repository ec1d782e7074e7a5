"""Which figure a run is judged by, and which of two is better."""

from __future__ import annotations

from typing import Any

import pytest

from litfast.bench.metric import METRICS, by_phase, judged

CLASSIFIER: dict[str, Any] = {
    "test_accuracy": {"teacher": 92.6, "student": 90.35},
    "test_by_phase": {"finetune": {"before": {"accuracy": 71.5}, "after": {"accuracy": 90.35}}},
}
LANGUAGE: dict[str, Any] = {
    "test_perplexity": {"teacher": 80.8, "student": 92.9},
    "test_by_phase": {
        "finetune": {
            "before": {"accuracy": 20.0, "perplexity": 156.6},
            "after": {"accuracy": 24.0, "perplexity": 92.9},
        }
    },
}
GENERATOR: dict[str, Any] = {"scores": {"student": {"fid": 5.84, "grid": "a.png"}}}


@pytest.mark.parametrize(
    ("results", "name", "student"),
    [(CLASSIFIER, "accuracy", 90.35), (LANGUAGE, "perplexity", 92.9), (GENERATOR, "FID", 5.84)],
)
def test_the_results_say_what_they_are_judged_by(results: dict[str, Any], name: str, student: float) -> None:
    metric, values = judged(results)
    assert (metric.name, values["student"]) == (name, student)


def test_only_accuracy_is_better_when_it_is_higher() -> None:
    assert METRICS["accuracy"].cost(90.0) < METRICS["accuracy"].cost(89.0)
    for name in ("perplexity", "FID"):
        assert METRICS[name].cost(80.0) < METRICS[name].cost(81.0)


def test_a_value_is_shown_with_its_unit() -> None:
    assert METRICS["accuracy"].text(92.6) == "92.60 %" and METRICS["accuracy"].label == "accuracy, %"
    assert METRICS["perplexity"].text(92.9) == "92.90" and METRICS["perplexity"].label == "perplexity"
    assert METRICS["FID"].text(None) == "-"


def test_each_phase_has_the_metric_before_and_after() -> None:
    assert by_phase(CLASSIFIER) == {"finetune": (71.5, 90.35)}
    assert by_phase(LANGUAGE) == {"finetune": (156.6, 92.9)}
    assert by_phase(GENERATOR) == {}  # and of older runs


def test_results_without_a_known_metric_are_refused() -> None:
    with pytest.raises(ValueError, match=r"results: must hold test_accuracy, .* or scores, got method, unit"):
        judged({"method": "lit", "unit": "images"})
