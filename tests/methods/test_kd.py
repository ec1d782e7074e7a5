from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softmax

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.methods import kd
from litfast.models import SectionedModel
from litfast.phase import Phase, Schedule

SCHEDULE = Schedule(epochs=2, lr=0.1)

Ready = Callable[[Iterator[Phase]], Phase]
Seen = Callable[[Phase, Batch], Any]
Gradients = Callable[..., dict[str, Tensor | None]]


def by_hand(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, alpha: float, tau: float
) -> Tensor:
    soft = -(softmax(teacher_logits / tau, 1) * log_softmax(student_logits / tau, 1)).sum(1)
    return (
        alpha * cross_entropy(student_logits, target, reduction="none") + (1 - alpha) * tau**2 * soft
    ).mean()


@pytest.mark.parametrize(("alpha", "tau"), [(0.95, 6.0), (0.1, 4.0), (0.0, 1.0), (1.0, 3.0)])
def test_loss_and_gradient_are_the_formula_with_alpha_on_the_hard_labels(
    alpha: float,
    tau: float,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    phase = ready(kd(teacher, student, distill=SCHEDULE, alpha=alpha, tau=tau))
    observation = seen(phase, batch)
    ours = gradients(phase, observation)
    loss = by_hand(student(batch.images), teacher(batch.images), batch.target, alpha, tau)
    torch.testing.assert_close(phase.branches[0].loss(observation)["loss"], loss, rtol=1e-12, atol=1e-12)
    theirs = torch.autograd.grad(loss, list(student.parameters()))
    torch.testing.assert_close(list(ours.values()), list(theirs), rtol=1e-10, atol=1e-12)


def test_alpha_one_is_plain_cross_entropy(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(kd(teacher, student, distill=SCHEDULE, alpha=1.0))
    losses = phase.branches[0].loss(seen(phase, batch))
    plain = cross_entropy(student(batch.images), batch.target)
    torch.testing.assert_close(losses["loss"], plain, rtol=1e-12, atol=0)
    assert losses["correct"].item() == (student(batch.images).argmax(1) == batch.target).sum().item()


def test_soft_kl_differs_from_ce_in_value_by_the_teachers_entropy_and_not_in_gradient(
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    phases = {soft: ready(kd(teacher, student, distill=SCHEDULE, soft=soft)) for soft in ("ce", "kl")}
    observation = seen(phases["ce"], batch)
    ours = {soft: gradients(phase, observation) for soft, phase in phases.items()}
    torch.testing.assert_close(ours["ce"], ours["kl"], rtol=1e-10, atol=1e-12)
    soft = {kind: phase.branches[0].loss(observation)["soft"] for kind, phase in phases.items()}
    scaled = observation.logits / 6.0
    entropy = -36 * (softmax(scaled, 1) * log_softmax(scaled, 1)).sum(1).mean()
    torch.testing.assert_close(soft["ce"] - soft["kl"], entropy, rtol=1e-10, atol=0)


def test_loss_scale_scales_the_gradient(
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    whole, half = (ready(kd(teacher, student, distill=SCHEDULE, loss_scale=scale)) for scale in (1.0, 0.5))
    observation = seen(whole, batch)
    halved = {name: 0.5 * gradient for name, gradient in gradients(whole, observation).items()}
    torch.testing.assert_close(gradients(half, observation), halved, rtol=1e-12, atol=1e-15)


def test_the_teacher_is_bit_identical_after_training_and_the_student_is_not(
    teacher: SectionedModel, student: SectionedModel, data: ResidentLoader
) -> None:
    before = deepcopy(teacher.state_dict()), deepcopy(student.state_dict())
    for _ in litfast.train(kd(teacher, student, distill=SCHEDULE), data):
        assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(value, before[0][key]) for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    changed = [key for key, value in student.state_dict().items() if not torch.equal(value, before[1][key])]
    assert set(changed) == set(student.state_dict())
