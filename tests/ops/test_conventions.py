"""The presets against the formulas of the toolkits that they are named after, written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from litfast.ops import kd_loss

ALPHA, TAU = 0.3, 4.0
Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


def hinton(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    kl = F.kl_div(F.log_softmax(student / TAU, 1), F.softmax(teacher / TAU, 1), reduction="batchmean")
    return kl * (ALPHA * TAU * TAU) + F.cross_entropy(student, target) * (1 - ALPHA)


def torchdistill(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    kl = F.kl_div(F.log_softmax(student / TAU, 1), F.softmax(teacher / TAU, 1), reduction="batchmean")
    return ALPHA * F.cross_entropy(student, target) + (1 - ALPHA) * TAU**2 * kl


def mdistiller(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    log_student, p_teacher = F.log_softmax(student / TAU, 1), F.softmax(teacher / TAU, 1)
    kd = F.kl_div(log_student, p_teacher, reduction="none").sum(1).mean() * TAU**2
    return ALPHA * F.cross_entropy(student, target) + (1 - ALPHA) * kd


def deit(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    log_student, log_teacher = F.log_softmax(student / TAU, 1), F.log_softmax(teacher / TAU, 1)
    kl = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return F.cross_entropy(student, target) * (1 - ALPHA) + kl * (TAU * TAU) / student.numel() * ALPHA


FORMULAS: dict[str, Formula] = {f.__name__: f for f in (hinton, torchdistill, mdistiller, deit)}


@pytest.fixture
def logits() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 17, 10, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher, torch.randint(10, (17,), generator=generator)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("tensors", [False, True], ids=["floats", "tensors"])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_convention_has_its_toolkits_value_and_gradient(
    name: str, tensors: bool, backend: str, logits: tuple[Tensor, Tensor, Tensor]
) -> None:
    student, teacher, target = logits
    alpha, tau = (torch.tensor(x, dtype=torch.float64) if tensors else x for x in (ALPHA, TAU))
    theirs = FORMULAS[name](*logits)
    (expected,) = torch.autograd.grad(theirs, student)
    ours = kd_loss(student, teacher, target, tau=tau, alpha=alpha, convention=name, backend=backend)
    (gradient,) = torch.autograd.grad(ours, student)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("name", ["hinton", "mdistiller", "deit"])
def test_either_weight_may_be_all(name: str, alpha: float, logits: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, target = logits
    soft_only = alpha == (0.0 if name == "mdistiller" else 1.0)
    value = kd_loss(student, teacher, target, tau=TAU, alpha=alpha, convention=name)
    hard = F.cross_entropy(student, target)
    assert (value != hard) if soft_only else torch.allclose(value, hard)


def test_torchdistill_without_labels_is_the_bare_kl(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, target = logits
    kl = F.kl_div(F.log_softmax(student / TAU, 1), F.softmax(teacher / TAU, 1), reduction="batchmean")
    for labels in (None, target):
        value = kd_loss(student, teacher, labels, tau=TAU, alpha=0.0, convention="torchdistill")
        torch.testing.assert_close(value, kl)


@pytest.mark.parametrize(("name", "alpha"), [("hinton", 1.0), ("deit", 1.0), ("mdistiller", 0.0)])
def test_without_a_hard_term_no_target_is_needed(
    name: str, alpha: float, logits: tuple[Tensor, Tensor, Tensor]
) -> None:
    student, teacher, target = logits
    options = {"tau": TAU, "alpha": alpha, "convention": name}
    assert kd_loss(student, teacher, None, **options) == kd_loss(student, teacher, target, **options)
