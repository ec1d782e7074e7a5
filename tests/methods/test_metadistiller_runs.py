"""Whole runs of MetaDistiller: when its branches train, how they resume, what they leave."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine.plan import plan
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.methods import metadistiller
from litfast.models import Input, SectionedModel, create, parameters
from litfast.phase import Phase, Schedule

CPU = torch.device("cpu")
SCHEDULE = Schedule(epochs=2, lr=0.05)
IMAGE = Input((3, 8, 8))


def small() -> SectionedModel:
    torch.manual_seed(0)
    return create("resnet8", classes=4).double()


def phase_of(student: SectionedModel, **options: Any) -> Phase:
    torch.manual_seed(1)
    return next(metadistiller(student, train=SCHEDULE, input=IMAGE, **options))


def test_every_third_step_trains_the_generator(data: ResidentLoader) -> None:
    reports = litfast.train([phase_of(small(), every=3)], data, log_every=1)
    said = [[*report.metrics] for report in reports if report.kind == "step"]
    assert len(said) == 8
    with prepared(phase := phase_of(small(), every=3), CPU):
        step = Step(phase, precision="fp32", device=CPU)
        assert [[b.name for b in step.due(at)] for at in range(4)] == [
            ["generator", "student"],
            ["student"],
            ["student"],
            ["generator", "student"],
        ]


@pytest.mark.parametrize(
    ("second_order", "engine"),
    [
        (True, {}),
        (True, {"precision": "bf16"}),
        (True, {"accumulate": 2, "ema": 0.9}),
        (False, {}),
        (False, {"precision": "bf16"}),
    ],
    ids=["exact", "exact bf16", "exact in parts, ema", "first order", "first order bf16"],
)
def test_a_stopped_run_resumes_to_the_bit(
    second_order: bool, engine: dict[str, Any], data: ResidentLoader, tmp_path: Path
) -> None:
    def train(name: str, **options: Any) -> tuple[SectionedModel, Any]:
        student = small() if "precision" not in engine else small().float()
        phase = phase_of(student, every=2, second_order=second_order)
        loader = data if "precision" not in engine else _Single(data)
        return student, litfast.train([phase], loader, out=tmp_path / name, **engine, **options)

    whole, reports = train("whole")
    last = [report.metrics for report in reports if report.kind == "epoch"][-1]
    assert {"student.loss", "student.accuracy", "generator.loss"} <= set(last)
    _, reports = train("parts")
    for _ in range(6):
        next(reports)
    reports.close()
    resumed, reports = train("parts", resume=True)
    list(reports)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


class _Single:
    """A loader's images in fp32."""

    def __init__(self, loader: ResidentLoader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def batches(self, *args: Any, **options: Any) -> Iterator[Batch]:
        return (Batch(b.images.float(), b.target) for b in self._loader.batches(*args, **options))


def test_what_a_run_leaves_is_the_backbone_alone(data: ResidentLoader) -> None:
    student, fresh = small(), small()
    before = deepcopy(student.state_dict())
    epochs = [
        report.metrics["student.accuracy"]
        for report in litfast.train(
            metadistiller(student, train=Schedule(epochs=6, lr=0.05), input=IMAGE, every=2), data
        )
        if report.kind == "epoch"
    ]
    assert epochs[-1] > 80 > epochs[0]
    assert parameters(student) == parameters(fresh)
    assert student.state_dict().keys() == fresh.state_dict().keys()
    assert not any(torch.equal(value, before[key]) for key, value in student.state_dict().items())
    again = create(**student.spec or {}).double()
    again.load_state_dict(student.state_dict())
    images = next(data.batches(0)).images
    assert torch.equal(again.eval()(images), student.eval()(images))


def test_the_run_is_planned(data: ResidentLoader) -> None:
    phases = metadistiller(small(), train=SCHEDULE, input=IMAGE, every=3)
    found = list(plan(phases, data, device=CPU, precision="fp32"))
    assert [(p.branch, p.steps, p.schedule.optimizer) for p in found] == [
        ("generator", 3, "adam"),
        ("student", 8, "sgd"),
    ]
    assert all(p.activation_bytes > 0 for p in found)
    assert found[1].parameters > parameters(small())
