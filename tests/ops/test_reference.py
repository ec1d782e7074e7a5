"""The reference against the papers' formulas and the values of the published code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litfast.ops import reference

Z_S, Z_T, TARGET = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([2])


def logits(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    return student, torch.randn(shape, dtype=torch.float64), torch.randint(shape[-1], shape[:-1])


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"alpha": 0.95}, 2.414536),
        ({"alpha": 1.0}, 0.407606),
        ({"alpha": 0.0}, 40.546206),
        ({"alpha": 0.0, "soft": "kl"}, 1.327197),
    ],
)
def test_kd_loss_equals_the_published_code(options: dict[str, float], value: float) -> None:
    assert reference.kd_loss(Z_S, Z_T, TARGET, tau=6, **options).item() == pytest.approx(value, abs=1e-5)


def test_kd_loss_of_zero_logits_equals_the_published_code() -> None:
    zeros, target = torch.zeros(5, 10), torch.zeros(5, dtype=torch.int64)
    assert reference.kd_loss(zeros, zeros, target, tau=6, alpha=0.95).item() == pytest.approx(
        6.332109, abs=1e-5
    )


@pytest.mark.parametrize("soft", ["ce", "kl"])
def test_kd_gradient_equals_the_papers_formula(soft: str) -> None:
    student, teacher, target = logits(7, 41)
    alpha, tau = 0.3, 4.0
    reference.kd_loss(student, teacher, target, tau=tau, alpha=alpha, soft=soft).backward()
    hard = student.softmax(-1) - F.one_hot(target, 41)
    gap = (student / tau).softmax(-1) - (teacher / tau).softmax(-1)
    torch.testing.assert_close(student.grad, ((alpha * hard + (1 - alpha) * tau * gap) / 7).detach())


def test_kd_gradient_at_large_tau_matches_logits() -> None:
    student, teacher, _ = logits(1, 10)
    student = (student - student.mean()).detach().requires_grad_()
    teacher = teacher - teacher.mean()
    reference.kd_loss(student, teacher, tau=1e5, alpha=0.0).backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 10, rtol=1e-4, atol=1e-6)


def test_alpha_1_is_plain_cross_entropy_with_mask_and_smoothing() -> None:
    student, teacher, target = logits(9, 41)
    target[4] = 7
    options = {"label_smoothing": 0.1, "ignore_index": 7}
    loss = reference.kd_loss(student, teacher, target, tau=4, alpha=1.0, **options)
    expected = F.cross_entropy(student, target, **options)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, student)[0], torch.autograd.grad(expected, student)[0]
    )


def test_kl_is_ce_less_the_teachers_entropy() -> None:
    student, teacher, _ = logits(9, 41)
    ce, kl = (reference.kd_loss(student, teacher, tau=3.0, alpha=0.0, soft=soft) for soft in ("ce", "kl"))
    entropy = torch.distributions.Categorical(logits=teacher / 3.0).entropy().mean()
    torch.testing.assert_close(ce - kl, 9 * entropy)


def test_reductions_agree_over_the_valid_rows() -> None:
    student, teacher, target = logits(2, 5, 41)
    target[0, 1] = target[1, 3] = -100
    mean, total, rows = (
        reference.kd_loss(student, teacher, target, tau=4, alpha=0.3, reduction=r)
        for r in ("mean", "sum", "none")
    )
    assert rows.shape == (2, 5)
    assert rows[0, 1] == rows[1, 3] == 0
    torch.testing.assert_close(total, rows.sum())
    torch.testing.assert_close(mean, rows.sum() / 8)


def test_an_ignored_row_gives_zero_even_when_it_holds_nan() -> None:
    student, teacher, target = logits(3, 5)
    target[1] = -100
    with torch.no_grad():
        student[1, 2] = teacher[1, 0] = torch.nan
    loss = reference.kd_loss(student, teacher, target, tau=4, alpha=0.3)
    loss.backward()
    assert loss.isfinite()
    assert (student.grad[1] == 0).all()
    assert (student.grad[0] != 0).all()


@pytest.mark.parametrize("rows", [0, 3])
def test_no_valid_row_gives_loss_0_and_gradient_0(rows: int) -> None:
    student, teacher, _ = logits(rows, 5)
    target = torch.full((rows,), -100)
    loss = reference.kd_loss(student, teacher, target, tau=4, alpha=0.3)
    loss.backward()
    assert loss == 0
    assert torch.equal(student.grad, torch.zeros(rows, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("penalty", "value"), [("l2", (0.25 + 4) / 3), ("l1", 2.5 / 3), ("smooth_l1", (0.125 + 1.5) / 3)]
)
def test_ir_loss_is_the_mean_penalty(penalty: str, value: float) -> None:
    student, teacher = torch.tensor([0.5, 1.0, -2.0]), torch.tensor([0.0, 1.0, 0.0])
    loss = reference.ir_loss(
        [student, student], [teacher, student], penalty=penalty, weights=[2.0, 5.0], scale=0.5
    )
    assert loss.item() == pytest.approx(value)


@pytest.mark.parametrize("penalty", ["l2", "l1", "smooth_l1"])
def test_ir_loss_of_equals_is_exactly_0(penalty: str) -> None:
    irs = [torch.randn(3, 5), torch.randn(7)]
    assert reference.ir_loss(irs, irs, penalty=penalty) == 0


def test_lit_total_is_linear_in_beta_and_made_of_its_parts() -> None:
    irs = [torch.randn(3, 4), torch.randn(5)], [torch.randn(3, 4), torch.randn(5)]
    student, teacher, target = logits(3, 10)
    at = {
        beta: reference.lit_loss(*irs, student, teacher, target, alpha=0.3, beta=beta, tau=4, scale=0.5)
        for beta in (0.0, 0.25, 1.0)
    }
    torch.testing.assert_close(at[0.25].total, 0.75 * at[0.0].total + 0.25 * at[1.0].total)
    parts = at[0.25]
    kd = 0.3 * parts.hard + 0.7 * parts.soft
    torch.testing.assert_close(parts.total, 0.5 * (0.25 * kd + 0.75 * parts.ir.sum()))
    torch.testing.assert_close(
        at[1.0].total, 0.5 * reference.kd_loss(student, teacher, target, alpha=0.3, tau=4)
    )
    assert not any(part.requires_grad for part in parts[1:])


def test_lit_counts_the_top_1_hits_on_valid_rows() -> None:
    student = torch.tensor([[0.0, 2.0], [3.0, 1.0], [5.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([1, 1, 0, -100])
    options = {"alpha": 0.3, "beta": 0.5, "tau": 4}
    irs = [torch.zeros(1)], [torch.zeros(1)]
    assert reference.lit_loss(*irs, student, student, target, **options).correct == 2
    assert reference.lit_loss(*irs, student, student, None, **options | {"alpha": 0.0}).correct == 0


@pytest.mark.parametrize("soft", ["ce", "kl"])
def test_kd_passes_gradcheck_in_student_teacher_and_coefficients(soft: str) -> None:
    student, teacher, target = logits(3, 3)
    target[1] = -100
    tau, alpha = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (3.0, 0.4))

    def loss(s: Tensor, t: Tensor, tau: Tensor, alpha: Tensor) -> Tensor:
        return reference.kd_loss(s, t, target, tau=tau, alpha=alpha, soft=soft, label_smoothing=0.1)

    inputs = (student, teacher.requires_grad_(), tau, alpha)
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


@pytest.mark.parametrize("penalty", ["l2", "smooth_l1"])
def test_lit_passes_gradcheck(penalty: str) -> None:
    student, teacher, target = logits(2, 3)
    ir = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def total(ir: Tensor, student: Tensor) -> Tensor:
        irs = [ir], [torch.zeros_like(ir)]
        options = {"alpha": 0.3, "beta": 0.6, "tau": 4, "penalty": penalty, "weights": [0.7]}
        return reference.lit_loss(*irs, student, teacher, target, **options).total

    assert torch.autograd.gradcheck(total, (ir, student))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_fp32(dtype: torch.dtype) -> None:
    student, teacher = torch.randn(3, 41).to(dtype), torch.randn(3, 41).to(dtype)
    ours = reference.kd_loss(student, teacher, tau=4, alpha=0.0)
    wide = reference.kd_loss(student.float(), teacher.float(), tau=4, alpha=0.0)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, wide)
