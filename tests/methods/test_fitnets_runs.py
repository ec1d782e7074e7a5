"""Whole runs of FitNets: interrupted, in parts, in half precision, with validation samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import litfast
from litfast.data import sets
from litfast.data.resident import ResidentLoader
from litfast.methods import fitnets
from litfast.models import Input, SectionedModel, create
from litfast.phase import Phase, Schedule

SCHEDULE = Schedule(epochs=2, lr=0.002, optimizer="rmsprop", momentum=0.0, weight_decay=0.0)
OPTIONS: dict[str, Any] = {"hint": SCHEDULE, "distill": SCHEDULE, "input": Input((3, 8, 8))}
STOPS = [("teacher", "phase", 1), ("hint", "step", 3), ("hint", "phase", 1), ("distill", "step", 3)]


def state(
    path: Path, data: ResidentLoader, stop: tuple[str, str, int] | None = None, **engine: Any
) -> dict[str, Tensor]:
    """The student of a run on fresh models, teacher first, closed at the n-th report of a phase and kind."""
    torch.manual_seed(5)
    teacher, student = create("resnet8", classes=4), create("resnet14", classes=4, width=4)

    def phases() -> Iterator[Phase]:
        yield from litfast.methods.scratch(teacher, train=Schedule(epochs=1, lr=0.01), name="teacher")
        yield from fitnets(teacher, student, **OPTIONS)

    reports = litfast.train(phases(), data, out=path, **engine)
    phase, kind, left = stop or ("", "", 0)
    for report in reports:
        left -= (report.phase, report.kind) == (phase, kind)
        if stop is not None and not left:
            reports.close()  # type: ignore[attr-defined]
    return {key: value.clone() for key, value in student.state_dict().items()}


@pytest.fixture(scope="module")
def singles() -> ResidentLoader:
    """Four batches of 16 in fp32."""
    images = sets.load("synthetic", size=8, train=64).train
    return ResidentLoader(images.images, images.labels, batch=16, mean=[0.5] * 3, std=[0.5] * 3, train=True)


@pytest.fixture(scope="module")
def whole(singles: ResidentLoader, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return state(tmp_path_factory.mktemp("whole"), singles)


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: " ".join(map(str, stop)))
def test_an_interrupted_run_ends_bit_identical(
    stop: tuple[str, str, int], whole: dict[str, Tensor], singles: ResidentLoader, tmp_path: Path
) -> None:
    """Also behind the teacher's own training: the regressor starts from the same draw when that is loaded."""
    state(tmp_path, singles, stop)
    ours = state(tmp_path, singles, resume=True)
    assert [key for key, value in whole.items() if not torch.equal(value, ours[key])] == []


@pytest.mark.parametrize(
    "engine", [{"accumulate": 2}, {"precision": "bf16"}, {"ema": 0.9}], ids=["in parts", "bf16", "ema"]
)
def test_it_trains_however_the_engine_runs(
    engine: dict[str, Any], whole: dict[str, Tensor], singles: ResidentLoader, tmp_path: Path
) -> None:
    ours = state(tmp_path, singles, **engine)
    assert all(value.isfinite().all() for value in ours.values())
    assert not torch.equal(ours["conv1.weight"], whole["conv1.weight"])


def test_the_random_head_of_the_first_phase_is_not_judged(
    teacher: SectionedModel, student: SectionedModel, data: ResidentLoader
) -> None:
    reports = list(litfast.train(fitnets(teacher, student, **OPTIONS), data, data, keep="best"))
    judged = {report.phase: report.val is not None for report in reports if report.kind == "epoch"}
    assert judged == {"hint": False, "distill": True}
