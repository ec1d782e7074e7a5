"""A run's journal as panels: what stands together, what is left out."""

from __future__ import annotations

from typing import Any

import pytest

from litfast.bench import curves


def row(phase: str, **values: float) -> dict[str, Any]:
    pace = {"samples_per_s": 100.0, "data_wait": 0.25}
    return {"step": 1, "phase": phase, "epoch": 1, **pace} | {
        k.replace("__", "."): v for k, v in values.items()
    }


@pytest.fixture
def lit() -> list[dict[str, Any]]:
    """Two epochs of independent sections, one of fine-tuning."""
    sections = [
        row("sections", layer1__loss=0.4, layer1__ir=0.4, layer2__loss=0.8, layer2__ir=0.8),
        row("sections", layer1__loss=0.2, layer1__ir=0.2, layer2__loss=0.6, layer2__ir=0.6),
    ]
    tuned = row("finetune", student__loss=9.0, student__soft=9.0, student__hard=1.5, student__accuracy=60.0)
    return [*sections, tuned | {"val_accuracy": 55.0, "val_loss": 1.2}]


def test_a_phase_of_sections_has_a_curve_a_section(lit: list[dict[str, Any]]) -> None:
    sections, tuned = curves.losses(lit)
    assert sections.title == "Loss in phase sections" and sections.epochs == 2
    assert sections.series == {"layer1": [(1, 0.4), (2, 0.2)], "layer2": [(1, 0.8), (2, 0.6)]}
    assert tuned.series == {"student": [(1, 9.0)], "hard": [(1, 1.5)]}  # soft is the whole loss


def test_a_joint_loss_shows_the_ir_term_of_every_section() -> None:
    (panel,) = curves.losses([row("sections", student__loss=2.0, student__ir__layer1=0.5, student__hard=1.0)])
    assert list(panel.series) == ["student", "layer1", "hard"]


def test_the_parts_of_several_branches_have_panels_of_their_own() -> None:
    panels = curves.losses(
        [row("train", critic__loss=-1.0, critic__real=-2.0, critic__gp=0.1, generator__loss=3.0)]
    )
    assert [panel.title for panel in panels] == ["Loss in phase train", "Loss of critic in phase train"]
    assert list(panels[0].series) == ["critic", "generator"] and list(panels[1].series) == ["real", "gp"]


def test_accuracy_runs_through_all_phases_beside_the_test_scores(lit: list[dict[str, Any]]) -> None:
    (panel,) = curves.merits(lit, {"accuracy": {"teacher": 90.0}})
    assert panel.series == {"student, training": [(3, 60.0)], "validation": [(3, 55.0)]}
    assert panel.phases == {"sections": 0, "finetune": 2} and panel.epochs == 3
    assert panel.levels == {"teacher, test": 90.0} and panel.unit == "%"


def test_a_language_model_has_perplexity_too_and_a_generator_neither() -> None:
    words = row("train", student__loss=5.0, student__accuracy=10.0) | {"val_perplexity": 150.0}
    assert [panel.title for panel in curves.merits([words], {})] == ["Accuracy", "Perplexity"]
    assert curves.merits([row("train", generator__loss=3.0)], {"FID": {"student": 2.0}}) == []


def test_timing_is_throughput_and_the_share_of_waiting_in_percent(lit: list[dict[str, Any]]) -> None:
    pace, waiting = curves.timing(lit)
    assert pace.series == {"throughput": [(1, 100.0), (2, 100.0), (3, 100.0)]} and pace.from_zero
    assert waiting.series == {"waiting for data": [(1, 25.0), (2, 25.0), (3, 25.0)]}
    old = [{k: v for k, v in one.items() if k != "data_wait"} for one in lit]
    assert [panel.title for panel in curves.timing(old)] == ["Throughput"]


def test_what_is_not_finite_is_not_drawn() -> None:
    (panel,) = curves.losses([row("train", student__loss=float("nan")), row("train", student__loss=1.0)])
    assert panel.series == {"student": [(2, 1.0)]}
