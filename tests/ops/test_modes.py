"""Modes, layouts and dtypes of the surrounding training loop change neither value nor gradient."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import kd_loss, lit_loss

KD: dict[str, Any] = {"tau": 4.0, "alpha": 0.3, "label_smoothing": 0.1}
IR, LOGITS = (2, 3, 5, 7), (2, 41)
TARGET = torch.tensor([40, -100])
LAST = torch.channels_last


def tensors(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """One section and the logits of a network."""
    generator = torch.Generator().manual_seed(seed)
    ir, logits = (torch.randn(shape, generator=generator).to(dtype) for shape in (IR, LOGITS))
    return ir, logits


def outcome(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], backend: str) -> list[Tensor]:
    """Every part of `lit_loss`, and the gradient at each student that requires one."""
    loss = lit_loss(
        [student[0]], [teacher[0]], student[1], teacher[1], TARGET, beta=0.6, **KD, backend=backend
    )
    wanted = [s for s in student if s.requires_grad]
    gradients = torch.autograd.grad(loss.total, wanted) if wanted and torch.is_grad_enabled() else ()
    return [*(part.detach() for part in loss), *gradients]


def leaves(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t.detach().requires_grad_() for t in tensors)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_no_gradient_is_recorded_every_part_has_the_same_value(
    mode: Callable[[], AbstractContextManager[None]], backend: str
) -> None:
    student, teacher = leaves(tensors()), tensors(seed=1)
    with mode():
        quiet = lit_loss(
            [student[0]], [teacher[0]], student[1], teacher[1], TARGET, beta=0.6, **KD, backend=backend
        )
        rows = kd_loss(student[1], teacher[1], TARGET, **KD, reduction="none", backend=backend)
    assert not any(part.requires_grad for part in (*quiet, rows))
    plain = outcome(student, teacher, backend)[:5]
    torch.testing.assert_close([part.clone() for part in quiet], plain, rtol=0, atol=0)


def test_a_teacher_that_ran_under_inference_mode_is_served(backend: str) -> None:
    with torch.inference_mode():
        teacher = tuple(t + 0 for t in tensors(seed=1))
    assert all(t.is_inference() for t in teacher)
    got = outcome(leaves(tensors()), teacher, backend)
    torch.testing.assert_close(got, outcome(leaves(tensors()), tensors(seed=1), backend), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_casts_nothing_for_any_backend(dtype: torch.dtype, backend: str) -> None:
    def run(cast: AbstractContextManager[None]) -> list[Tensor]:
        with cast:
            return outcome(leaves(tensors(dtype)), tensors(seed=1), backend)

    plain, cast = run(nullcontext()), run(torch.autocast("cpu", torch.bfloat16))
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)


def test_the_gradient_reaches_the_weights_of_a_network_under_autocast(backend: str) -> None:
    """The layer gives bf16 activations, its weight is fp32: the op's bf16 gradient goes through the layer."""
    x, teacher = torch.randn(9, 8), torch.randn(9, 41)
    gradients = []
    for name in (backend, "reference"):
        weight = torch.randn(41, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            logits = torch.nn.functional.linear(x, weight)
            assert logits.dtype == torch.bfloat16
            loss = kd_loss(logits, teacher, tau=4.0, alpha=0.0, backend=name)
            assert loss.dtype == torch.float32
        loss.backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients, rtol=2**-7, atol=2**-10)


@pytest.mark.parametrize("wanted", [(True, False), (False, True)], ids=["section", "logits"])
def test_a_student_gets_the_same_gradient_when_the_other_wants_none(
    wanted: tuple[bool, bool], backend: str
) -> None:
    both = outcome(leaves(tensors()), tensors(seed=1), backend)
    student = tuple(t.requires_grad_(want) for t, want in zip(tensors(), wanted, strict=True))
    got = outcome(student, tensors(seed=1), backend)
    torch.testing.assert_close(got[:5], both[:5], rtol=0, atol=0)
    assert len(got) == 6
    assert torch.equal(got[5], both[5 if wanted[0] else 6])


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float16),
    ],
    ids=str,
)
def test_a_network_of_another_dtype_gives_the_value_of_both_in_fp32(
    student: torch.dtype, teacher: torch.dtype, backend: str
) -> None:
    ours, theirs = tensors(student), tensors(teacher, seed=1)
    got = outcome(leaves(ours), theirs, backend)
    wide = outcome(
        leaves(tuple(t.float() for t in ours)), tuple(t.float() for t in theirs), backend="reference"
    )
    assert [g.dtype for g in got[5:]] == [student, student]
    torch.testing.assert_close(got[:5], wide[:5])
    half_ulp = torch.finfo(student).eps
    torch.testing.assert_close([g.float() for g in got[5:]], wide[5:], rtol=half_ulp, atol=1e-7)


@pytest.mark.parametrize("layouts", [(LAST, LAST), (LAST, None), (None, LAST)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_layout_of_either_network_changes_value_or_gradient(
    layouts: tuple[torch.memory_format | None, ...], dtype: torch.dtype, backend: str
) -> None:
    def laid_out(pair: tuple[Tensor, Tensor], layout: torch.memory_format | None) -> tuple[Tensor, Tensor]:
        return pair[0].to(memory_format=layout or torch.contiguous_format), pair[1].t().contiguous().t()

    plain = outcome(leaves(tensors(dtype)), tensors(dtype, seed=1), "reference")
    student, teacher = laid_out(tensors(dtype), layouts[0]), laid_out(tensors(dtype, seed=1), layouts[1])
    got = outcome(leaves(student), teacher, backend)
    assert [g.stride() for g in got[5:]] == [s.stride() for s in student]
    torch.testing.assert_close(got, plain)


@pytest.mark.parametrize("layouts", [(LAST, LAST), (LAST, None), (None, LAST), (None, None)], ids=str)
def test_logits_of_a_segmentation_network_keep_their_layout(
    layouts: tuple[torch.memory_format | None, ...], backend: str
) -> None:
    """[B, K, H, W] seen as [B, H, W, K]: rows that are dense in channels-last, strided otherwise."""
    ours, theirs = (
        torch.randn(2, 5, 3, 4).to(memory_format=layout or torch.contiguous_format) for layout in layouts
    )
    target = torch.randint(5, (2, 3, 4))
    target[0, 1] = -100
    student = ours.requires_grad_()
    results = []
    for name in (backend, "reference"):
        options = {"tau": 4.0, "alpha": 0.3, "backend": name}
        loss = kd_loss(student.movedim(1, -1), theirs.movedim(1, -1), target, **options)
        results.append((loss, *torch.autograd.grad(loss, student)))
    assert results[0][1].stride() == student.stride()
    torch.testing.assert_close(*results)
