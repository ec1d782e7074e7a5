"""What a call of the C++ kernels allocates: the gradients, and under 1 % more.

float16 is the exception: its gradient waits in fp32 for the loss scale until backward rounds it, so for a
moment it takes three times its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from litfast.ops import ir_loss, kd_loss, lit_loss

SECTIONS = [(128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8)]  # of a CIFAR ResNet
Loss = Callable[[str], Tensor]


def peak(function: Callable[[], object]) -> int:
    """The most bytes that torch held at once for `function` beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    kept = record.profiler
    assert kept is not None
    events = [(e.start_ns(), e.nbytes()) for e in kept.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for _, size in sorted(events):
        live += size
        most = max(most, live)
    return most


def pair(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    student, teacher = (torch.randn(shape).to(dtype) for _ in range(2))
    return student.requires_grad_(), teacher


def call(op: str, dtype: torch.dtype) -> tuple[Loss, Sequence[Tensor]]:
    """The loss as a function of the backend, and the students that get a gradient."""
    if op == "kd":
        (student, teacher), target = pair((512, 32_000), dtype), torch.randint(32_000, (512,))
        return lambda b: kd_loss(student, teacher, target, tau=4.0, alpha=0.3, backend=b), [student]
    irs, teacher_irs = zip(*(pair(shape, dtype) for shape in SECTIONS), strict=True)
    if op == "ir":
        return lambda b: ir_loss(irs, teacher_irs, backend=b), irs
    logits, target = pair((128, 10), dtype), torch.randint(10, (128,))
    options = {"tau": 4.0, "alpha": 0.3, "beta": 0.6}
    args = irs, teacher_irs, *logits, target
    return lambda b: lit_loss(*args, **options, backend=b).total, [*irs, logits[0]]


def nbytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", ["kd", "ir", "lit"])
def test_loss_and_gradient_allocate_the_gradients_and_under_a_hundredth_more(
    op: str, dtype: torch.dtype, cpp: str
) -> None:
    loss, students = call(op, dtype)
    assert peak(lambda: torch.autograd.grad(loss(cpp), students)) < 1.01 * nbytes(students)
    assert peak(lambda: loss(cpp).backward()) < 1.01 * nbytes(students)  # .grad takes them, it copies nothing
    assert all(student.grad is not None for student in students)


@pytest.mark.parametrize("op", ["ir", "lit"])
def test_float16_holds_its_gradient_in_fp32_until_backward(op: str, cpp: str) -> None:
    loss, students = call(op, torch.float16)
    assert peak(lambda: loss(cpp)) < 1.01 * 2 * nbytes(students)
    assert peak(lambda: torch.autograd.grad(loss(cpp), students)) < 1.01 * 3 * nbytes(students)


def test_a_loss_without_gradient_allocates_next_to_nothing(cpp: str) -> None:
    loss, students = call("lit", torch.float32)
    with torch.no_grad():
        assert peak(lambda: loss(cpp)) < 0.01 * nbytes(students)


def test_a_scale_outside_allocates_the_gradients_a_second_time(cpp: str) -> None:
    """Out of place, so that a graph can be run again; `scale=` inside costs nothing."""
    loss, students = call("ir", torch.float32)
    assert peak(lambda: torch.autograd.grad(2 * loss(cpp), students)) < 2.01 * nbytes(students)


def test_the_meter_sees_what_the_reference_allocates(cpp: str) -> None:
    loss, students = call("kd", torch.float32)
    assert peak(lambda: torch.autograd.grad(loss("reference"), students)) > 2 * nbytes(students)
