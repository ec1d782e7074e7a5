"""`kd_loss`: its gradient through the public function, and one clear line for each mistake."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import kd_loss

S, T, Y = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([0, 4, 2])
OPTIONS = {"tau": 4.0, "alpha": 0.3}


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((S, T[:2], Y), {}, ValueError, "student_logits must match teacher_logits [2, 5], got [3, 5]"),
        ((S[:, :4], T, Y), {}, ValueError, "[3, 5], got [3, 4]; teacher and student need the same classes"),
        ((S[0], T[0], Y[0]), {}, ValueError, "student_logits must be [..., K] with K > 0, got [5]"),
        ((S[:, :0], T[:, :0], Y), {}, ValueError, "student_logits must be [..., K] with K > 0, got [3, 0]"),
        (
            (S.int(), T, Y),
            {},
            TypeError,
            "student_logits must be float32, float64, bfloat16 or float16, got torch.int32",
        ),
        ((S, T.tolist(), Y), {}, TypeError, "teacher_logits must be a tensor, got list"),
        (
            (S, T.to("meta"), Y),
            {},
            ValueError,
            "student_logits must be on teacher_logits's device meta, got cpu",
        ),
        ((S, T, Y.int()), {}, TypeError, "target must be int64 class indices, got torch.int32"),
        ((S, T, Y[:2]), {}, ValueError, "target must have the logits' leading shape [3], got [2]"),
        ((S, T, Y.to("meta")), {}, ValueError, "target must be on the logits' device cpu, got meta"),
        ((S, T, None), {}, ValueError, "target must be given unless alpha is the number 0, got alpha 0.3"),
        (
            (S, T, None),
            {"alpha": torch.tensor(0.0)},
            ValueError,
            "target must be given unless alpha is the number 0",
        ),
        ((S, T, Y), {"tau": 0.0}, ValueError, "tau must be positive and finite, got 0.0"),
        ((S, T, Y), {"tau": float("inf")}, ValueError, "tau must be positive and finite, got inf"),
        ((S, T, Y), {"tau": "4"}, TypeError, "tau must be a number or a 0-d float tensor, got str"),
        ((S, T, Y), {"alpha": 1.5}, ValueError, "alpha must lie in [0, 1], got 1.5"),
        ((S, T, Y), {"alpha": float("nan")}, ValueError, "alpha must lie in [0, 1], got nan"),
        (
            (S, T, Y),
            {"alpha": torch.ones(2)},
            ValueError,
            "alpha must be a number or a 0-d float tensor, got torch.float32 [2]",
        ),
        ((S, T, Y), {"scale": None}, TypeError, "scale must be a number or a 0-d float tensor, got NoneType"),
        ((S, T, Y), {"label_smoothing": -0.1}, ValueError, "label_smoothing must lie in [0, 1], got -0.1"),
        ((S, T, Y), {"soft": "mse"}, ValueError, "soft must be one of ce, kl, got 'mse'"),
        (
            (S, T, Y),
            {"reduction": "batchmean"},
            ValueError,
            "reduction must be one of mean, sum, none, got 'batchmean'",
        ),
        ((S, T, Y), {"convention": "hintn"}, ValueError, "convention must be one of lit, hinton"),
    ],
)
def test_a_mistake_gets_one_line(
    args: tuple[Any, ...], options: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match="^kd_loss: .*" + re.escape(message)):
        kd_loss(*args, **OPTIONS | options)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("bad", [5, -1])
def test_a_target_out_of_range_is_named(bad: int, backend: str) -> None:
    target = torch.tensor([0, bad, 2])
    with pytest.raises(
        ValueError,
        match=re.escape(f"kd_loss: target must lie in [0, 5) or equal ignore_index -100, got {bad}"),
    ):
        kd_loss(S, T, target, **OPTIONS, backend=backend)


def test_a_target_out_of_range_is_named_by_every_backend(backend: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape("kd_loss: target must lie in [0, 5) or equal ignore_index 7, got -100")
    ):
        kd_loss(S, T, torch.tensor([7, -100, 2]), **OPTIONS, ignore_index=7, backend=backend)


def test_a_row_of_reduction_none_gets_its_own_incoming_gradient(backend: str) -> None:
    incoming = torch.tensor([0.0, 2.0, -1.0])

    def gradient(backend: str) -> Tensor:
        student = S.clone().requires_grad_()
        kd_loss(student, T, Y, **OPTIONS, reduction="none", backend=backend).backward(incoming)
        assert student.grad is not None
        return student.grad

    got = gradient(backend)
    assert torch.equal(got[0], torch.zeros(5))
    torch.testing.assert_close(got, gradient("reference"))


def test_equal_logits_give_kl_exactly_0(backend: str) -> None:
    assert kd_loss(S, S, tau=3.0, alpha=0.0, soft="kl", backend=backend) == 0


@pytest.mark.parametrize(
    ("dtype", "result"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)]
)
def test_float64_stays_float64_and_half_gives_float32(
    dtype: torch.dtype, result: torch.dtype, backend: str
) -> None:
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("triton refuses float64")
    assert kd_loss(S.to(dtype), T.to(dtype), Y, **OPTIONS, backend=backend).dtype == result


def test_a_one_hot_teacher_is_cross_entropy_on_its_class() -> None:
    student = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    classes = torch.arange(7) % 5
    teacher = 1e4 * torch.nn.functional.one_hot(classes, 5).double()
    loss = kd_loss(student, teacher, tau=1.0, alpha=0.0)
    truth = torch.nn.functional.cross_entropy(student, classes)
    torch.testing.assert_close(loss, truth)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (loss, truth)))
