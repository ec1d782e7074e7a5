"""Layouts that agree: the kernels compare elements at equal offsets."""

from __future__ import annotations

import torch
from torch import Tensor


def same_layout(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both dense in the strides of the student's gradient; copied only where they are not so already."""
    if student.is_contiguous() and teacher.is_contiguous():
        return student, teacher
    # Dense, the order of the student's dimensions: the layout that empty_like gives the gradient.
    like = student if student.is_contiguous() else torch.empty_like(student)
    if not _strides_agree(student, like):
        student = like.copy_(student)
    if not _strides_agree(teacher, like):
        teacher = torch.empty_like(like, dtype=teacher.dtype).copy_(teacher)
    return student, teacher


def _strides_agree(a: Tensor, b: Tensor) -> bool:
    return a.stride() == b.stride() or all(
        x == y or n == 1 for x, y, n in zip(a.stride(), b.stride(), a.shape, strict=True)
    )


def contiguous_like(gradient: Tensor) -> Tensor:
    """The gradient itself where it is contiguous, else room for its rows, to be copied into it afterwards."""
    if gradient.is_contiguous():
        return gradient
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)
