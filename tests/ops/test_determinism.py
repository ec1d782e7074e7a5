"""Every op of the C++ backend gives the same bits with any number of threads, and again in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from litfast import ops

THREADS = (1, 2, 3, 4)


@pytest.fixture(autouse=True)
def threads(cpp: str) -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lit() -> list[Tensor]:
    students = [normal(3, 16, 40, 40), normal(1271, 41, seed=1).bfloat16(), normal(67, 333, seed=2)]
    teachers = [student.flip(0) for student in students]
    target = torch.arange(67) % 333
    *irs, logits = [student.clone().requires_grad_() for student in students]
    options = {"alpha": 0.3, "beta": 0.6, "tau": 4.0, "label_smoothing": 0.1}
    found = ops.lit_loss(irs, teachers[:-1], logits, teachers[-1], target, **options, backend="cpp")
    return [*found, *torch.autograd.grad(found.total, [*irs, logits])]


def kd() -> list[Tensor]:
    made = []
    for classes, reduction in ((5000, "mean"), (10, "sum"), (33, "none")):
        student = normal(41, classes).requires_grad_()
        target = torch.arange(41) % classes
        target[::7] = -100
        options = {"alpha": 0.3, "tau": 2.0, "soft": "kl", "reduction": reduction}
        loss = ops.kd_loss(student, normal(41, classes, seed=1), target, **options, backend="cpp")
        made += [loss, *torch.autograd.grad(loss.sum(), [student])]
    return made


def ir() -> list[Tensor]:
    made = []
    for penalty in ("l2", "l1", "smooth_l1"):
        student = normal(7, 24, 33, 31).requires_grad_()
        loss = ops.ir_loss([student], [normal(7, 24, 33, 31, seed=1)], penalty=penalty, backend="cpp")
        made += [loss, *torch.autograd.grad(loss, [student])]
    return made


def channel_l1() -> list[Tensor]:
    scales = [normal(count, seed=count).requires_grad_() for count in (17, 40_000, 3)]
    loss = ops.channel_l1(scales, strength=1e-4, backend="cpp")
    return [loss, *torch.autograd.grad(loss, scales)]


def augment() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 32, 32, 3), generator=generator).byte()
    index, top, left, flips = (torch.randint(n, (64,), generator=generator) for n in (40, 9, 9, 2))
    table = ops.augment_table((0.5,) * 3, (0.25,) * 3)
    draws = (index, top, left, flips > 0)
    return [
        ops.augment(images, *draws, table=table, crop=4, channels_last=last, backend="cpp")
        for last in (True, False)
    ]


def low_rank() -> list[Tensor]:
    factors, bases = (
        [normal(300, 12), normal(700, 5), normal(90, 65)],
        [normal(12, 65), normal(5, 65), normal(0, 65)],
    )
    place = torch.randperm(1090, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(333) * 7 % 1090
    return [
        ops.low_rank_embedding(ids, factors, bases, place, backend="cpp"),
        ops.low_rank_softmax(normal(41, 65), factors, bases, place, normal(1090), backend="cpp"),
    ]


@pytest.mark.parametrize("op", [lit, kd, ir, channel_l1, augment, low_rank], ids=lambda op: op.__name__)
def test_no_thread_count_and_no_repetition_changes_a_bit(op: Callable[[], list[Tensor]]) -> None:
    first = None
    for count in (*THREADS, *THREADS):
        torch.set_num_threads(count)
        made = [tensor.detach() for tensor in op()]
        first = first or made
        assert all(torch.equal(a, b) for a, b in zip(first, made, strict=True)), f"{count} threads"
