"""torch.func and forward-mode AD: the reference serves them, a fused backend refuses them by one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from litfast.ops import ir_loss, kd_loss, lit_loss

Loss = Callable[..., Tensor]
KD: dict[str, Any] = {"tau": 4.0, "alpha": 0.3}
TARGET = torch.tensor([0, 4, -100])
STUDENTS, TEACHERS = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
STUDENT, TEACHER = STUDENTS[0], TEACHERS[0]
REFUSAL = r"^\w+_loss: backend '\w+' must be able to serve the call, got .*; use backend=\"reference\"$"


def kd(backend: str) -> Loss:
    return lambda s, t, y=TARGET: kd_loss(s, t, y, **KD, backend=backend)


def ir(backend: str) -> Loss:
    return lambda s, t, y=TARGET: ir_loss([s], [t], backend=backend)


def lit(backend: str) -> Loss:
    return lambda s, t, y=TARGET: lit_loss([s], [t], s, t, y, beta=0.6, **KD, backend=backend).total


OPS = {"kd": kd, "ir": ir, "lit": lit}
every_op = pytest.mark.parametrize("op", OPS)
served = pytest.mark.parametrize("backend", ["reference", "auto"])


def plain_gradient(op: str, student: Tensor, *rest: Tensor) -> Tensor:
    student = student.detach().requires_grad_()
    return torch.autograd.grad(OPS[op]("reference")(student, *rest), student)[0]


@served
@every_op
def test_func_grad_gives_the_gradient(op: str, backend: str) -> None:
    gradient, value = torch.func.grad_and_value(OPS[op](backend))(STUDENT, TEACHER)
    torch.testing.assert_close(value, OPS[op]("reference")(STUDENT, TEACHER))
    torch.testing.assert_close(gradient, plain_gradient(op, STUDENT, TEACHER))


@served
@every_op
def test_vmap_gives_each_loss_and_each_gradient(op: str, backend: str) -> None:
    targets = torch.stack([TARGET, TARGET.flip(0)]).repeat(2, 1)
    each = torch.func.vmap(torch.func.grad_and_value(OPS[op](backend)))
    gradients, values = each(STUDENTS, TEACHERS, targets)
    for i, row in enumerate(zip(STUDENTS, TEACHERS, targets, strict=True)):
        torch.testing.assert_close(values[i], OPS[op]("reference")(*row))
        torch.testing.assert_close(gradients[i], plain_gradient(op, *row))


@served
@every_op
def test_the_hessian_is_there(op: str, backend: str) -> None:
    hessian = torch.func.hessian(OPS[op](backend))(STUDENT, TEACHER)
    expected = torch.autograd.functional.hessian(lambda s: OPS[op]("reference")(s, TEACHER), STUDENT)
    torch.testing.assert_close(hessian, expected)


def directional(op: str) -> Tensor:
    """The derivative along the teacher, from the gradient."""
    return (plain_gradient(op, STUDENT, TEACHER) * TEACHER).sum()


@served
@every_op
def test_jvp_gives_the_directional_derivative(op: str, backend: str) -> None:
    loss = OPS[op](backend)
    _, slope = torch.func.jvp(lambda s: loss(s, TEACHER), (STUDENT,), (TEACHER,))
    # torch's tangent of a number times an fp32 tensor is fp64.
    torch.testing.assert_close(slope.float(), directional(op))


@served
@every_op
def test_forward_mode_gives_the_directional_derivative(op: str, backend: str) -> None:
    with forward_ad.dual_level():
        loss = OPS[op](backend)(forward_ad.make_dual(STUDENT, TEACHER), TEACHER)
        slope = forward_ad.unpack_dual(loss).tangent
    assert slope is not None
    torch.testing.assert_close(slope, directional(op))


@every_op
def test_a_named_fused_backend_refuses_a_transform_in_one_line(op: str, backend: str) -> None:
    loss = OPS[op](backend)
    with pytest.raises(ValueError, match=REFUSAL):
        torch.func.grad(loss)(STUDENT, TEACHER)
    with pytest.raises(ValueError, match=REFUSAL):
        torch.func.vmap(loss)(STUDENTS, TEACHERS)


@every_op
def test_a_named_fused_backend_refuses_a_tangent_in_one_line(op: str, backend: str) -> None:
    loss = OPS[op](backend)
    with pytest.raises(ValueError, match=REFUSAL):
        torch.func.jvp(lambda s: loss(s, TEACHER), (STUDENT,), (TEACHER,))
    with forward_ad.dual_level(), pytest.raises(ValueError, match=REFUSAL):
        loss(forward_ad.make_dual(STUDENT, TEACHER), TEACHER)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_batched_incoming_gradients_are_served(reduction: str, backend: str) -> None:
    """`autograd.grad(is_grads_batched=True)`: a row of rows, or of numbers, for one backward."""
    results = []
    for name in (backend, "reference"):
        student = STUDENT.clone().requires_grad_()
        loss = kd_loss(student, TEACHER, TARGET, **KD, reduction=reduction, backend=name)
        incoming = torch.stack([loss.detach().new_full(loss.shape, x) for x in (1.0, 0.5, -2.0)])
        results.append(torch.autograd.grad(loss, student, incoming, is_grads_batched=True)[0])
    torch.testing.assert_close(*results)
