"""The LIT loss in Triton, in two launches: `ir.first_pass` over all sections, then `kd.rows`, which finishes.

Two, not one: the gradient of the logits is divided by the number of valid rows, and the ticket that says
which program is the last must be 0 before the first one draws. The first launch does both on the side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._library import new_gradients
from ._reduce import Workspace
from .ir import Sections
from .kd import Logits


def lit(
    student_irs: list[Tensor],
    teacher_irs: list[Tensor],
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None,
    penalty: str,
    weights: list[float],
    soft: str,
    label_smoothing: float,
    ignore_index: int,
    tau: float,
    alpha: float,
    beta: float,
    scale: float,
    coefficients: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """The op `lit` of _library.py."""
    gradients = new_gradients([*student_irs, student], needs)
    total, soft_mean, hard_mean = (student.new_empty((), dtype=torch.float32) for _ in range(3))
    ir = student.new_empty(len(student_irs), dtype=torch.float32)
    correct = student.new_empty((), dtype=torch.int64)
    with torch.cuda.device_of(student):
        logits = Logits("lit_loss", student, teacher, target, ignore_index, mean=True)
        sections = Sections(student_irs, teacher_irs, gradients[:-1], weights, needs[:-1])
        S, P = len(sections.sizes), max(sections.programs, default=0)
        work = Workspace(student.device, sections=S, programs=P, rows=logits.programs)
        sections.run(
            work,
            penalty,
            beta,
            scale,
            coefficients,
            target=logits.counted,
            ignore_index=ignore_index,
            counters=logits.counters,
        )
        parts, numbers = (ir, soft_mean, hard_mean, correct), (tau, alpha, beta, scale)
        logits.run(gradients[-1], needs[-1], total, parts, work, soft, label_smoothing, numbers, coefficients)
    return total, ir, soft_mean, hard_mean, correct, gradients
