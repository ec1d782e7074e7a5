"""`ir_loss`: distance between the intermediate representations of student and teacher."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from numbers import Real

from torch import Tensor

from . import reference
from ._autograd import fused
from ._checks import are_pair, check_choice, check_pair, check_scale, check_sequence
from ._dispatch import Call, choose
from .reference import Coefficient

PENALTIES = ("l2", "l1", "smooth_l1")


def ir_loss(
    student_irs: Sequence[Tensor],  # S of any shape
    teacher_irs: Sequence[Tensor],  # S, pairwise the student's shapes
    *,
    penalty: str = "l2",
    weights: Sequence[float] | None = None,
    scale: Coefficient = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Distance between the section outputs of student and teacher.

        loss = scale * sum_i weights_i * mean_over_all_elements penalty(student_i - teacher_i)

    penalty(d): l2 d^2; l1 |d|; smooth_l1 d^2 / 2 where |d| < 1, else |d| - 1/2. An empty section gives 0.

    Args:
        student_irs: S section outputs, float32, float64, bfloat16 or float16, any layout.
        teacher_irs: S, pairwise the student's shapes and devices, any of these dtypes and any layout.
        penalty: "l2", "l1" or "smooth_l1".
        weights: one number a section; None: all 1.
        scale: multiplies the loss; a number or a 0-d tensor. Costs nothing here, unlike a factor outside.
        backend: "auto", or one of `litfast.ops.backends()`.

    Returns:
        [], fp64 when an input is fp64, fp32 otherwise.

    Raises:
        ValueError, TypeError: a shape, dtype, device or option is not as above.
        RuntimeError: the named backend is not installed, or a fused backend is differentiated twice.

    Source: Koratana et al., ICML 2019, section 3 (the IR term of LIT).
    """
    check_scale("ir_loss", scale)
    check_irs("ir_loss", student_irs, teacher_irs, penalty, weights)
    if not student_irs:
        raise ValueError("ir_loss: student_irs must hold at least one section, got none")
    weights = weights_or_ones(weights, student_irs)
    call = Call(
        "ir_loss", student_irs, teacher_irs, None, None, None, penalty=penalty, weights=weights, scale=scale
    )
    if served_by := choose(backend, call):
        return fused(served_by, call)[0]
    return reference.ir_loss(student_irs, teacher_irs, penalty=penalty, weights=weights, scale=scale)


def weights_or_ones(weights: Sequence[float] | None, irs: Sequence[Tensor]) -> list[float]:
    """One number a section."""
    return [1.0] * len(irs) if weights is None else [float(w) for w in weights]


def check_irs(
    who: str,
    student_irs: Sequence[Tensor],
    teacher_irs: Sequence[Tensor],
    penalty: str,
    weights: Sequence[float] | None,
) -> None:
    """Raises ValueError or TypeError for what `ir_loss` and `lit_loss` refuse about sections."""
    check_choice(who, "penalty", penalty, PENALTIES)
    for what, irs in (("student_irs", student_irs), ("teacher_irs", teacher_irs)):
        check_sequence(who, what, irs, "tensors")
    sections = len(student_irs)
    if len(teacher_irs) != sections:
        raise ValueError(
            f"{who}: student_irs and teacher_irs must hold the same number of sections, "
            f"got {sections} and {len(teacher_irs)}"
        )
    if weights is not None:
        _check_weights(who, weights, sections)
    for i, (student, teacher) in enumerate(zip(student_irs, teacher_irs, strict=True)):
        if not are_pair(student, teacher):
            names = (f"student_irs[{i}]", f"teacher_irs[{i}]")
            check_pair(who, names, student, teacher, "add an adapter or choose equal widths")


def _check_weights(who: str, weights: Sequence[float], sections: int) -> None:
    check_sequence(who, "weights", weights, "numbers")
    if len(weights) != sections:
        raise ValueError(f"{who}: weights must hold one number a section ({sections}), got {len(weights)}")
    for i, weight in enumerate(weights):
        if not isinstance(weight, Real):
            raise TypeError(f"{who}: weights[{i}] must be a number, got {type(weight).__name__}")
        if abs(weight) > sys.float_info.max and weight not in (math.inf, -math.inf):
            raise ValueError(f"{who}: weights[{i}] must fit into a float, got more")
