"""The modules give what the functions give, and refuse options that the functions do not know."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from litfast import nn, ops

IRS, TEACHER_IRS = [torch.randn(3, 4), torch.randn(5)], [torch.randn(3, 4), torch.randn(5)]
LOGITS, TEACHER, TARGET = torch.randn(3, 10), torch.randn(3, 10), torch.tensor([0, 9, -100])
KD: dict[str, Any] = {"tau": 4.0, "alpha": 0.3, "soft": "kl", "label_smoothing": 0.1}


def test_modules_equal_the_functions() -> None:
    kd = nn.KDLoss(**KD, reduction="sum")(LOGITS, TEACHER, TARGET)
    assert torch.equal(kd, ops.kd_loss(LOGITS, TEACHER, TARGET, **KD, reduction="sum"))
    ir = nn.IRLoss(penalty="l1", weights=[1.0, 0.5])(IRS, TEACHER_IRS)
    assert torch.equal(ir, ops.ir_loss(IRS, TEACHER_IRS, penalty="l1", weights=[1.0, 0.5]))
    lit = nn.LITLoss(**KD, beta=0.6)(IRS, TEACHER_IRS, LOGITS, TEACHER, TARGET)
    expected = ops.lit_loss(IRS, TEACHER_IRS, LOGITS, TEACHER, TARGET, **KD, beta=0.6)
    assert all(torch.equal(a, b) for a, b in zip(lit, expected, strict=True))


def test_modules_pass_gradient() -> None:
    student = LOGITS.clone().requires_grad_()
    nn.KDLoss(tau=4.0, alpha=0.0)(student, TEACHER).backward()
    expected = 4 * ((LOGITS / 4).softmax(-1) - (TEACHER / 4).softmax(-1)) / 3
    torch.testing.assert_close(student.grad, expected)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (nn.KDLoss, {"tau": 4.0, "alpha": 0.3, "beta": 0.5}, "unexpected keyword argument 'beta'"),
        (nn.KDLoss, {"tau": 4.0}, "missing a required argument: 'alpha'"),
        (nn.IRLoss, {"student_irs": IRS}, "unexpected keyword argument 'student_irs'"),
        (nn.LITLoss, {"tau": 4.0, "alpha": 0.3}, "missing a required argument: 'beta'"),
    ],
)
def test_an_option_that_the_function_lacks_fails_at_construction(
    module: type, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        module(**options)


def test_modules_have_no_state() -> None:
    assert not nn.LITLoss(tau=4.0, alpha=0.3, beta=0.5).state_dict()
