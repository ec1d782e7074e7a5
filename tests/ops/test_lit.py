"""`lit_loss`: parts, weights of the terms, who gets a gradient, and one clear line for each mistake."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import LITLoss, kd_loss, lit_loss

OPTIONS = {"alpha": 0.3, "beta": 0.6, "tau": 4.0}
BACKENDS = ["reference", "auto"]


def inputs() -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    irs = [torch.randn(3, 4, requires_grad=True), torch.randn(5, requires_grad=True)]
    logits = torch.randn(3, 10, requires_grad=True)
    return irs, [torch.randn(3, 4), torch.randn(5)], logits, torch.randn(3, 10), torch.randint(10, (3,))


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_total_carries_gradient(backend: str) -> None:
    loss = lit_loss(*inputs(), **OPTIONS, backend=backend)
    assert isinstance(loss, LITLoss)
    assert [part.requires_grad for part in loss] == [True, False, False, False, False]
    assert [list(part.shape) for part in loss] == [[], [2], [], [], []]
    assert loss.correct.dtype == torch.int64


@pytest.mark.parametrize("backend", BACKENDS)
def test_beta_0_gives_the_logits_gradient_0_and_beta_1_the_irs(backend: str) -> None:
    irs, teacher_irs, logits, *rest = inputs()
    for beta, zero, others in ((0.0, [logits], irs), (1.0, irs, [logits])):
        total = lit_loss(irs, teacher_irs, logits, *rest, **OPTIONS | {"beta": beta}, backend=backend).total
        gradients = dict(zip([*irs, logits], torch.autograd.grad(total, [*irs, logits]), strict=True))
        assert all((gradients[student] == 0).all() for student in zero)
        assert all((gradients[student] != 0).any() for student in others)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_section_gets_the_gradient_of_its_own_term_only(backend: str) -> None:
    irs, teacher_irs, *rest = inputs()
    total = lit_loss(irs, teacher_irs, *rest, **OPTIONS, weights=[0.0, 3.0], backend=backend).total
    first, second = torch.autograd.grad(total, irs)
    assert (first == 0).all()
    torch.testing.assert_close(second, 0.4 * 3 * 2 * (irs[1] - teacher_irs[1]).detach() / 5)


def test_only_students_that_require_grad_get_one(backend: str) -> None:
    irs, teacher_irs, logits, *rest = inputs()
    irs[0] = irs[0].detach()
    lit_loss(irs, teacher_irs, logits.detach(), *rest, **OPTIONS, backend=backend).total.backward()
    assert irs[0].grad is None
    assert logits.grad is None
    torch.testing.assert_close(irs[1].grad, 0.4 * 2 * (irs[1] - teacher_irs[1]).detach() / 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_target_the_hard_term_and_the_count_are_0(backend: str) -> None:
    *tensors, _ = inputs()
    loss = lit_loss(*tensors, **OPTIONS | {"alpha": 0.0}, backend=backend)
    assert loss.hard == loss.correct == 0
    assert loss.soft > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_sections_the_kd_term_is_left(backend: str) -> None:
    _, _, *logits = inputs()
    loss = lit_loss([], [], *logits, **OPTIONS, backend=backend)
    expected = 0.6 * kd_loss(*logits, tau=4.0, alpha=0.3, backend=backend)
    torch.testing.assert_close(loss.total, expected)
    assert loss.ir.shape == (0,)
    gradients = [torch.autograd.grad(total, logits[0])[0] for total in (loss.total, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "row", [[0.0, 3.0, 3.0], [0.0, 3.0, float("nan")], [float("inf"), 3.0, float("inf")]]
)
def test_the_count_breaks_ties_and_ranks_nan_as_argmax_does(row: list[float], backend: str) -> None:
    irs = [torch.zeros(1)], [torch.zeros(1)]
    for target in range(3):
        loss = lit_loss(
            *irs, torch.tensor([row]), torch.zeros(1, 3), torch.tensor([target]), **OPTIONS, backend=backend
        )
        assert loss.correct == int(torch.tensor(row).argmax() == target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -0.5}, "beta must lie in [0, 1], got -0.5"),
        ({"alpha": 2}, "alpha must lie in [0, 1], got 2"),
        ({"tau": -1.0}, "tau must be positive and finite, got -1.0"),
        ({"penalty": "l3"}, "penalty must be one of l2, l1, smooth_l1, got 'l3'"),
        ({"weights": [1.0]}, "weights must hold one number a section (2), got 1"),
    ],
)
def test_a_mistake_gets_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape("lit_loss: " + message)):
        lit_loss(*inputs(), **OPTIONS | options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_target_out_of_range_is_named(backend: str) -> None:
    *tensors, target = inputs()
    target[1] = 10
    with pytest.raises(
        ValueError, match=re.escape("lit_loss: target must lie in [0, 10) or equal ignore_index -100, got 10")
    ):
        lit_loss(*tensors, target, **OPTIONS, backend=backend)
