"""The fused ops as `torch.ops.litfast.*`: schemas and fakes. A backend implements them for its device.

An op takes its inputs to (losses, gradients) in one pass. Losses are fp64 when an input is, fp32 otherwise.
Gradients are those of the first loss, finished: layout of the student, dtype of the student except that
float16 waits in fp32 for the loss scale; a gradient that is not needed is an empty tensor. `coefficients`, a
tensor on the device, replaces the float coefficients in the order of the schema. Autocast casts nothing,
because no op has a rule for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch  # before _C, which then gets the OpenMP runtime that torch has loaded: one thread pool for both
from torch import Tensor

try:
    from litfast import _C as _C

    MISSING: str | None = None
except ImportError as error:
    _C = None  # type: ignore[assignment]
    MISSING = f"no litfast._C ({error}); install litfast with a C++ compiler and without LITFAST_NATIVE=off"

LIBRARY = torch.library.Library("litfast", "DEF")
_IRS = "Tensor[] student_irs, Tensor[] teacher_irs"
_LOGITS = "Tensor student_logits, Tensor teacher_logits, Tensor? target"
_SOFT = "str soft, float label_smoothing, int ignore_index"
_LAST = "Tensor? coefficients, bool[] needs"  # needs: which gradients to write, the logits' last
_SCHEMAS = (
    f"kd({_LOGITS}, {_SOFT}, str reduction, float tau, float alpha, float scale, {_LAST}) "
    "-> (Tensor loss, Tensor[] gradients)",
    f"ir({_IRS}, str penalty, float[] weights, float scale, {_LAST}) -> (Tensor loss, Tensor[] gradients)",
    f"lit({_IRS}, {_LOGITS}, str penalty, float[] weights, {_SOFT}, float tau, float alpha, float beta, "
    f"float scale, {_LAST}) "
    "-> (Tensor total, Tensor ir, Tensor soft, Tensor hard, Tensor correct, Tensor[] gradients)",
)


def loss_dtype(*tensors: Tensor) -> torch.dtype:
    """fp64 when any input is, fp32 otherwise."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def new_gradients(students: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor]:
    """Room for the gradients that an op returns."""
    return [
        torch.empty_like(s, dtype=torch.float32 if s.dtype == torch.float16 else s.dtype)
        if need
        else s.new_empty(0)
        for s, need in zip(students, needs, strict=True)
    ]


def _kd_fake(
    student: Tensor, teacher: Tensor, target: Tensor | None, *options: Any
) -> tuple[Tensor, list[Tensor]]:
    shape = student.shape[:-1] if options[3] == "none" else ()
    return student.new_empty(shape, dtype=loss_dtype(student, teacher)), new_gradients([student], options[-1])


def _ir_fake(students: list[Tensor], teachers: list[Tensor], *options: Any) -> tuple[Tensor, list[Tensor]]:
    loss = students[0].new_empty((), dtype=loss_dtype(*students, *teachers))
    return loss, new_gradients(students, options[-1])


def _lit_fake(
    student_irs: list[Tensor], teacher_irs: list[Tensor], student: Tensor, teacher: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    dtype = loss_dtype(*student_irs, *teacher_irs, student, teacher)
    total, soft, hard = (student.new_empty((), dtype=dtype) for _ in range(3))
    ir = student.new_empty(len(student_irs), dtype=dtype)
    correct = student.new_empty((), dtype=torch.int64)
    return total, ir, soft, hard, correct, new_gradients([*student_irs, student], options[-1])


_FAKES: dict[str, Callable[..., Any]] = {"kd": _kd_fake, "ir": _ir_fake, "lit": _lit_fake}


def define(prefix: str = "") -> dict[str, Callable[..., Any]]:
    """Schema and fake of each op under `prefix`: two backends of one device need ops of their own."""
    for schema in _SCHEMAS:
        LIBRARY.define(prefix + schema, tags=torch.Tag.pt2_compliant_tag)
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"litfast::{prefix}{name}", fake, lib=LIBRARY)
    return {name: getattr(torch.ops.litfast, prefix + name) for name in _FAKES}


OPS = define()
