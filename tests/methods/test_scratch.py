from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.methods import scratch
from litfast.models import SectionedModel
from litfast.phase import Phase, Schedule

SCHEDULE = Schedule(epochs=2, lr=0.1)

Ready = Callable[[Iterator[Phase]], Phase]
Gradients = Callable[..., dict[str, Tensor | None]]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_cross_entropy_on_the_labels(
    smoothing: float, student: SectionedModel, batch: Batch, ready: Ready
) -> None:
    phase = ready(scratch(student, train=SCHEDULE, label_smoothing=smoothing))
    losses = phase.branches[0].loss(phase.observe(batch))
    logits = student(batch.images)
    expected = cross_entropy(logits.float(), batch.target, label_smoothing=smoothing)
    torch.testing.assert_close(losses["loss"], expected, rtol=1e-6, atol=0)
    assert losses["correct"].item() == (logits.argmax(1) == batch.target).sum().item()
    assert not losses["hard"].requires_grad


def test_every_parameter_of_the_student_gets_a_gradient(
    student: SectionedModel, batch: Batch, ready: Ready, gradients: Gradients
) -> None:
    phase = ready(scratch(student, train=SCHEDULE))
    assert all(gradient is not None for gradient in gradients(phase, batch).values())


def test_training_learns_the_patterns(student: SectionedModel, data: ResidentLoader) -> None:
    reports: list[Any] = list(litfast.train(scratch(student, train=Schedule(epochs=10, lr=0.05)), data))
    epochs = [report.metrics["student.accuracy"] for report in reports if report.kind == "epoch"]
    assert epochs[0] < 60 < 90 < epochs[-1]


def test_the_phase_can_be_renamed(student: SectionedModel) -> None:
    assert next(scratch(student, train=SCHEDULE, name="teacher")).name == "teacher"
