"""A teacher that fits its data passes; one that does not gets a line that says what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from litfast import build, config
from litfast.build import checks
from litfast.engine import Evaluation
from litfast.engine.plan import BranchPlan
from litfast.models import create
from litfast.phase import Schedule

Found = Callable[..., list[str]]
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-8 of no use, but with the batch-norm statistics of the synthetic images."""
    torch.manual_seed(0)
    teacher = create("resnet8", classes=4)
    for layer in teacher.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches
    for batch in build.experiment(recipe()).test.batches(0):
        teacher(batch.images)
    path = tmp_path_factory.mktemp("run") / "teacher.pt"
    torch.save(teacher.state_dict(), path)
    return path


def recipe(*sets: str, **teacher: object) -> config.Config:
    given = teacher or {"model": "resnet8", "train": {"epochs": 1, "lr": 0.1}}
    table = {
        "data": {"name": "synthetic", "batch": 16, "options": {"size": 8}, "mean": MEAN, "std": STD},
        "teacher": given,
        "student": {"model": "resnet8"},
        "method": {"name": "kd"},
        "distill": {"epochs": 1, "lr": 0.1},
        "engine": {"precision": "fp32", "device": "cpu"},
    }
    for text in sets:
        key, value = text.split("=")
        table["data"][key] = json.loads(value)
    return build.resolve(config.parse(table))


@pytest.fixture
def found(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    """found(*sets, accuracy=, plans=, check=): the lines for a teacher of that accuracy."""

    def run(
        *sets: str, accuracy: float = 90.0, plans: list[BranchPlan] | None = None, check: str = "warn"
    ) -> list[str]:
        def evaluate(model: torch.nn.Module, loader: object) -> Evaluation:
            return Evaluation(accuracy=accuracy, loss=1.0, samples=min(len(loader), 256))

        monkeypatch.setattr(checks, "evaluate", evaluate)
        settings = recipe(*sets, model="resnet8", weights=str(weights), check=check)
        return build.warnings(build.experiment(settings), plans or [])

    return run


def test_a_teacher_that_fits_passes_in_silence(found: Found) -> None:
    assert found() == []


def test_near_chance_is_said_with_the_samples_that_were_looked_at(found: Found) -> None:
    (line,) = found("val=64", accuracy=40.0)
    assert line == (
        "teacher: accuracy must be above chance (25 %, by luck up to 41.2 %), "
        "got 40 % of 64 validation images; "
        "check teacher.weights, data.mean and data.std, the order of the classes"
    )
    assert found("val=64", accuracy=42.0) == []
    (line,) = found("val=0", accuracy=25.0)
    assert "got 25 % of 256 training images" in line
    assert found("val=2", accuracy=100.0) == []  # of two images all may be right by luck


def test_it_measures_the_teacher_itself(weights: Path) -> None:
    experiment = build.experiment(recipe("val=64", model="resnet8", weights=str(weights)))
    with torch.no_grad():
        *_, head = experiment.teacher.parameters()
        head.copy_(torch.tensor([1e6, 0.0, 0.0, 0.0]))  # one class for all images
    (line,) = build.warnings(experiment, [])
    assert line.startswith("teacher: accuracy must be above chance")


@pytest.mark.parametrize(
    "sets", [["std=[1, 1, 1]"], ["mean=[-3, -3, -3]"], ["mean=[0, 0, 0]", "std=[1, 1, 1]"]]
)
def test_another_normalisation_shows_at_the_first_batch_norm(sets: list[str], found: Found) -> None:
    (line,) = found(*sets)
    assert line.startswith("teacher: images must be normalised as in its training, got a mean ")
    assert "at batch norm 'bn1'; give data.mean and data.std those of its training" in line
    assert found("std=[0.2, 0.2, 0.2]") == []


def test_what_the_teachers_own_run_wrote_down_is_compared(
    found: Found, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_statistics", lambda *_: [])
    file = weights.with_name("model.json")
    try:
        file.write_text(json.dumps({"input": {"shape": [3, 16, 16], "mean": MEAN, "std": [0.2, 0.2, 0.2]}}))
        std, size = found()
        assert std == (
            f"teacher: data.std must be [0.2, 0.2, 0.2] as in {file}, got {STD}; "
            "--set data.std=[0.2, 0.2, 0.2]"
        )
        shape = build.experiment(recipe()).input.shape
        assert f"images must be 16x16 as in {file}, got {shape[1]}x{shape[2]}" in size
        file.write_text("no JSON")
        assert found() == []
    finally:
        file.unlink()


def test_a_step_larger_than_the_free_memory_is_said(found: Found) -> None:
    huge = BranchPlan(
        phase="distill",
        branch="student",
        schedule=Schedule(epochs=1, lr=0.1),
        steps=1,
        parameters=1,
        weight_bytes=0,
        activation_bytes=1 << 60,
    )
    (line,) = found(plans=[huge])
    assert line.startswith("recipe: a step with data.batch 16 must fit into the ")
    assert line.endswith("choose a smaller data.batch, or --set engine.accumulate=2")


def test_it_refuses_or_looks_away_where_the_recipe_says_so(found: Found) -> None:
    with pytest.raises(ValueError, match=r"teacher: accuracy must be above chance"):
        found(accuracy=25.0, check="refuse")
    assert found(accuracy=25.0, check="off") == []
    with pytest.raises(ValueError, match=r"recipe: teacher.check"):
        found(check="perhaps")


def test_a_teacher_that_the_run_trains_is_not_judged_yet() -> None:
    assert build.warnings(build.experiment(recipe()), []) == []


def test_out_of_memory_in_the_rehearsal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> list[BranchPlan]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    experiment = build.experiment(recipe())
    monkeypatch.setattr(sys.modules["litfast.build.experiment"], "plan", full)
    with pytest.raises(MemoryError, match=r"a step with data.batch 16 must fit into the memory of cpu"):
        experiment.rehearse()
