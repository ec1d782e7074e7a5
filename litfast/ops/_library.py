"""The fused loss op as `torch.ops.litfast.*`: schema and fake. A backend implements it for its device.

The op takes a `Call` to its losses and gradients in one pass: total, parts [2 + S] (soft, hard, each
section's mean) and correct; without logits their parts are 0. Rows that are not reduced are the total [...],
which then has no parts. Losses are fp64 when an input is, fp32 otherwise. Gradients are those of the total,
finished: layout of the student, dtype of the student except that float16 waits in fp32 for the loss scale; a
gradient that is not needed is an empty tensor. Autocast casts nothing, because the op has no rule for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch  # before _C, which then gets the OpenMP runtime that torch has loaded: one thread pool for both
from torch import Tensor

from ._dispatch import Call, students_of, teachers_of

try:
    from litfast import _C as _C

    MISSING: str | None = None
except ImportError as error:
    _C = None  # type: ignore[assignment]
    MISSING = f"no litfast._C ({error}); install litfast with a C++ compiler and without LITFAST_NATIVE=off"

Results = tuple[Tensor, Tensor, Tensor, list[Tensor]]

LIBRARY = torch.library.Library("litfast", "DEF")
_SCHEMA = (  # the fields of Call
    "(str who, Tensor[] student_irs, Tensor[] teacher_irs, Tensor? student, Tensor? teacher, Tensor? target, "
    "str penalty, float[] weights, str soft, float label_smoothing, int ignore_index, str reduction, "
    "float tau, float alpha, float beta, float scale, Tensor? coefficients, bool[] needs) "
    "-> (Tensor total, Tensor parts, Tensor correct, Tensor[] gradients)"
)


def new_results(call: Call) -> Results:
    """Room for what the op returns."""
    students = students_of(call)
    first, dtype = students[0], _loss_dtype(students, teachers_of(call))
    by_row = call.reduction == "none"
    return (
        first.new_empty(first.shape[:-1] if by_row else (), dtype=dtype),
        first.new_empty(0 if by_row else 2 + len(call.student_irs), dtype=dtype),
        first.new_empty(0 if by_row else (), dtype=torch.int64),
        [
            torch.empty_like(s, dtype=torch.float32 if s.dtype == torch.float16 else s.dtype)
            if need
            else s.new_empty(0)
            for s, need in zip(students, call.needs, strict=True)
        ],
    )


def _loss_dtype(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> torch.dtype:
    """fp64 when any input is, fp32 otherwise."""
    wide = any(t.dtype == torch.float64 for t in (*students, *teachers))
    return torch.float64 if wide else torch.float32


def define(name: str) -> Callable[..., Any]:
    """The op `litfast::name` with its fake: two backends of one device need ops of their own."""
    LIBRARY.define(name + _SCHEMA, tags=torch.Tag.pt2_compliant_tag)
    torch.library.register_fake(f"litfast::{name}", lambda *args: new_results(Call(*args)), lib=LIBRARY)
    op: Callable[..., Any] = getattr(torch.ops.litfast, name).default
    return op


def implement(name: str, device: str, run: Callable[[Call], Results]) -> None:
    """Makes `run` what the op `litfast::name` does on `device`, CPU or CUDA."""
    LIBRARY.impl(name, lambda *args: run(Call(*args)), device)


OP = define("loss")
