"""The C++ kernels on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from . import _augment
from ._augment import Augment
from ._checks import is_transformed, target_error
from ._dispatch import Backend, Call, only_reference, students_of, teachers_of
from ._library import _C, MISSING, OP, Results, implement
from ._native import PENALTIES, Native


def _run(call: Call) -> Results:
    native = Native(call)
    coefficients = native.coefficients if call.coefficients is None else tuple(call.coefficients.tolist())
    bad = _C.lit_cpu(
        native.sections,
        PENALTIES[call.penalty],
        native.logits,
        coefficients,
        native.losses,
        torch.get_num_threads(),
        ISA,
    )
    if bad >= 0:
        assert call.target is not None and call.student is not None
        value, classes = int(call.target.flatten()[bad]), call.student.shape[-1]
        raise target_error(call.who, value, classes, call.ignore_index)
    return native.results()


def _run_augment(call: Augment) -> None:
    tensors = _augment.dense(call)
    N, H, W, C = call.images.shape
    sizes = (N, H, W, C, call.chosen.shape[0], call.crop)
    threads = torch.get_num_threads()
    addresses = [tensor.data_ptr() for tensor in tensors]
    bad = _C.augment_cpu(addresses, sizes, call.table.element_size(), call.channels_last, threads)
    if bad >= 0:
        raise _augment.range_error(call, bad)


def build_info() -> dict[str, Any] | None:
    """How the compiled half was built, and the instruction sets that it can use here; None without it."""
    return None if _C is None else dict(_C.build_info())


def _why_not(call: Call) -> str | None:
    """Why the C++ kernels cannot serve `call`."""
    for student, teacher in zip(students_of(call), teachers_of(call), strict=True):
        if not student.is_cpu:
            return f"tensors on {student.device}"
        if (student.dtype == torch.float64) != (teacher.dtype == torch.float64):
            return f"a {student.dtype} student with a {teacher.dtype} teacher"
    return only_reference(call)


def _why_not_augment(call: Augment) -> str | None:
    """Why the C++ kernel cannot serve `call`."""
    if not call.images.is_cpu:
        return f"tensors on {call.images.device}"
    return "a torch.func transform" if is_transformed() else None


if MISSING is None:
    ISA: str = _C.build_info()["isas"][0]  # the fastest instruction set that this machine runs
    implement("loss", "CPU", _run)
    _augment.implement("augment", "CPU", _run_augment)
CPP = Backend(name="cpp", missing=lambda: MISSING, why_not=_why_not, op=OP)
CPP_AUGMENT = Backend(name="cpp", missing=lambda: MISSING, why_not=_why_not_augment, op=_augment.OP)
