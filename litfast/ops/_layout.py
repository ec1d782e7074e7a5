"""Layouts of a pair: one offset must name the same element of student, teacher and gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def same_layout(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both dense in the strides of the student's gradient; copied only where they are not so already."""
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
