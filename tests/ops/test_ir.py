"""`ir_loss`: layouts, and one clear line for each mistake."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from litfast.ops import ir_loss

A, B = torch.randn(2, 3), torch.randn(4)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (([], []), {}, ValueError, "student_irs must hold at least one section, got none"),
        (([A, B], [A]), {}, ValueError, "must hold the same number of sections, got 2 and 1"),
        (
            ([A, B], [A, A]),
            {},
            ValueError,
            "student_irs[1] must match teacher_irs[1] [2, 3], got [4]; add an adapter or choose equal widths",
        ),
        (
            ([A], [A.long()]),
            {},
            TypeError,
            "teacher_irs[0] must be float32, float64, bfloat16 or float16, got torch.int64",
        ),
        (
            ([A], [A.to("meta")]),
            {},
            ValueError,
            "student_irs[0] must be on teacher_irs[0]'s device meta, got cpu",
        ),
        ((A, A), {}, TypeError, "student_irs must be a sequence of tensors, got a tensor"),
        (
            ([A], [A]),
            {"weights": [1.0, 2.0]},
            ValueError,
            "weights must hold one number a section (1), got 2",
        ),
        (
            ([A], [A]),
            {"penalty": "huber"},
            ValueError,
            "penalty must be one of l2, l1, smooth_l1, got 'huber'",
        ),
        (([A], [A]), {"scale": "1"}, TypeError, "scale must be a number or a 0-d float tensor, got str"),
    ],
)
def test_a_mistake_gets_one_line(
    args: tuple[Any, ...], options: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match="^ir_loss: .*" + re.escape(message)):
        ir_loss(*args, **options)


def test_mixed_layouts_are_compared_element_by_element(backend: str) -> None:
    plain = torch.randn(2, 3, 5, 7)
    last = plain.to(memory_format=torch.channels_last)
    assert ir_loss([plain, last], [last, plain], backend=backend) == 0


@pytest.mark.parametrize(
    "student",
    [
        torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last),
        torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
        torch.randn(7, 5).t(),
        torch.randn(3, 5, 7).permute(1, 2, 0),
    ],
    ids=["channels last", "channels last 3d", "transposed", "permuted"],
)
def test_the_gradient_has_the_students_layout(student: torch.Tensor, backend: str) -> None:
    student = student.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(
        ir_loss([student], [torch.zeros(student.shape)], backend=backend), student
    )
    assert gradient.stride() == student.stride()
    torch.testing.assert_close(gradient, 2 * student.detach() / student.numel())


@pytest.mark.parametrize("penalty", ["l2", "l1", "smooth_l1"])
def test_equal_irs_give_loss_and_gradient_exactly_0(penalty: str, backend: str) -> None:
    student = torch.randn(3, 41, requires_grad=True)
    loss = ir_loss([student], [student.detach().clone()], penalty=penalty, backend=backend)
    loss.backward()
    assert loss == 0
    assert torch.equal(student.grad, torch.zeros(3, 41))
