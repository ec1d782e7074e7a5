"""The fused gradients inside autograd: run twice, scaled, accumulated, refused where they cannot be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import ir_loss, kd_loss, lit_loss


def leaf(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(7, 41).to(dtype).requires_grad_()


def total(student: Tensor, backend: str, scale: Any = 1.0) -> Tensor:
    """All three ops on one student."""
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(7, 41, generator=generator).to(student.dtype)
    target = torch.randint(41, (7,), generator=generator)
    kd = {"tau": 4.0, "alpha": 0.3, "scale": scale, "backend": backend}
    irs = [student], [teacher]
    losses = (
        lit_loss(*irs, student, teacher, target, beta=0.6, **kd).total,
        kd_loss(student, teacher, target, **kd),
        ir_loss(*irs, scale=scale, backend=backend),
    )
    return torch.stack(losses).sum()


def test_a_graph_can_be_run_twice(backend: str) -> None:
    student = leaf()
    loss = total(student, backend)
    (first,) = torch.autograd.grad(loss, student, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(3 * loss, student)
    torch.testing.assert_close(second, 3 * kept)
    assert torch.equal(first, kept)


def test_gradients_accumulate(backend: str) -> None:
    student = leaf()
    for _ in range(2):
        total(student, backend).backward()
    (once,) = torch.autograd.grad(total(student, backend), student)
    torch.testing.assert_close(student.grad, 2 * once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_scale_inside_equals_a_factor_outside(dtype: torch.dtype, backend: str) -> None:
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("triton refuses float64")
    student = leaf(dtype)
    inside, outside = total(student, backend, scale=0.37), 0.37 * total(student, backend)
    torch.testing.assert_close(inside, outside)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (inside, outside)]
    torch.testing.assert_close(*gradients)


def test_a_loss_scale_keeps_the_float16_gradients_that_float16_cannot_hold(backend: str) -> None:
    student = torch.randn(256, 1024).half().requires_grad_()
    teacher = student.detach() + 0.01
    gradients = {}
    for name in (backend, "reference"):
        (gradients[name],) = torch.autograd.grad(65536 * ir_loss([student], [teacher], backend=name), student)
    torch.testing.assert_close(gradients[backend], gradients["reference"], rtol=2e-3, atol=0)
    assert gradients[backend].dtype == torch.float16
    unscaled = gradients["reference"].float() / 65536
    assert (unscaled < torch.finfo(torch.float16).smallest_normal).all()


def test_autograd_gets_the_finished_gradient_without_another_kernel(
    cpp: str, ops_called: Callable[..., list[str]]
) -> None:
    loss = ir_loss([leaf()], [torch.randn(7, 41)], backend=cpp)
    names = ops_called(loss.backward)
    assert not any("mul" in name for name in names)


@pytest.mark.parametrize("create_graph", [True, False])
def test_double_backward_is_refused_by_fused_backends_only(create_graph: bool, backend: str) -> None:
    student = leaf()
    loss = total(student, backend)
    if not create_graph:
        assert torch.autograd.grad(loss, student)[0].isfinite().all()
        return
    with pytest.raises(
        RuntimeError, match=r"_loss: the loss must not be differentiated twice .* use backend=\"reference\""
    ):
        torch.autograd.grad(loss, student, create_graph=True)
    (gradient,) = torch.autograd.grad(total(student, "reference"), student, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), student)[0].abs().sum() > 0


def test_the_reference_gives_a_teacher_its_gradient_under_auto() -> None:
    student, teacher = leaf(), leaf()
    ir_loss([student], [teacher]).backward()
    torch.testing.assert_close(teacher.grad, -student.grad)


def test_no_gradient_is_computed_where_none_is_recorded(cpp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from litfast.ops import _cpp

    wanted = []
    run = _cpp._C.lit_cpu
    module = type("C", (), {"lit_cpu": staticmethod(lambda s, *a: wanted.append(s[0][2] != 0) or run(s, *a))})
    monkeypatch.setattr(_cpp, "_C", module)
    student = leaf()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            ir_loss([student], [torch.randn(7, 41)], backend=cpp)
    ir_loss([student.detach()], [torch.randn(7, 41)], backend=cpp)
    ir_loss([student], [torch.randn(7, 41)], backend=cpp)
    assert wanted == [False, False, False, True]


def test_inference_mode_gives_the_same_value(backend: str) -> None:
    student = leaf()
    with torch.inference_mode():
        value = total(student, backend)
    assert torch.equal(value.clone(), total(student, backend).detach())


def test_tensor_coefficients_equal_numbers(backend: str) -> None:
    student, teacher, target = leaf(), torch.randn(7, 41), torch.randint(41, (7,))
    numbers = {"alpha": 0.25, "beta": 0.5, "tau": 4.0, "scale": 0.5}
    tensors = {name: torch.tensor(value) for name, value in numbers.items()}
    mixed = numbers | {"beta": tensors["beta"]}
    results = []
    for options in (numbers, tensors, mixed):
        loss = lit_loss([student], [teacher], student, teacher, target, **options, backend=backend)
        results.append((loss.total.detach(), torch.autograd.grad(loss.total, student)[0]))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))
