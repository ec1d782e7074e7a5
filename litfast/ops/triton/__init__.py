"""The Triton backend: for CUDA tensors without nvcc, and for CPU tensors under TRITON_INTERPRET=1.

Triton itself is imported by the first call that these kernels serve.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from .. import _augment, _low_rank
from .._augment import Augment
from .._checks import is_transformed
from .._dispatch import Backend, Call, only_reference, students_of, teachers_of
from .._library import Results, define, implement


def _run(call: Call) -> Results:
    from .lit import lit

    return lit(call)


def _scale(*args: Any) -> None:
    from .scale import scale_into

    scale_into(*args)


def _run_augment(call: Augment) -> None:
    from .augment import augment_into

    augment_into(call)


def _look_up(call: _low_rank.Call) -> Tensor:
    from .low_rank import look_up

    return look_up(call)


def _score(call: _low_rank.Call) -> Tensor:
    from .low_rank import score

    return score(call)


def _why_not_low_rank(call: _low_rank.Call) -> str | None:
    """Why the kernels cannot serve `call`."""
    if call.factors[0].dtype == torch.float64:
        return "torch.float64 tensors (the kernels compute in float32)"
    return _why_not_on(call.x.device) or _low_rank.only_reference(call)


def _why_not_augment(call: Augment) -> str | None:
    """Why the kernel cannot serve `call`."""
    return _why_not_on(call.images.device) or ("a torch.func transform" if is_transformed() else None)


def _why_not(call: Call) -> str | None:
    """Why these kernels cannot serve `call`."""
    students = students_of(call)
    for tensor in (*students, *teachers_of(call)):
        if tensor.device != students[0].device:
            return f"tensors on {students[0].device} and {tensor.device}"
        if tensor.dtype == torch.float64:
            return "torch.float64 tensors (the kernels compute in float32)"
    return _why_not_on(students[0].device) or only_reference(call)


def _why_not_on(device: torch.device) -> str | None:
    """Why no kernel runs on `device`."""
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "tensors on cpu (TRITON_INTERPRET=1 serves them, slowly)"
    if device.type not in ("cpu", "cuda"):
        return f"tensors on {device}"
    return None


# Found once: Dynamo, which may trace a call to it, knows neither caches nor importlib.
_MISSING = None if importlib.util.find_spec("triton") else "triton is not installed; pip install triton"
_OP = define("triton_loss")
_AUGMENT_OP = _augment.define("triton_augment")
_LOW_RANK_OPS = _low_rank.define("triton_")
for _device in ("CPU", "CUDA"):
    implement("triton_loss", _device, _run)
    _augment.implement("triton_augment", _device, _run_augment)
    _low_rank.implement("triton_", _device, _look_up, _score)
TRITON = Backend(
    name="triton",
    missing=lambda: _MISSING,
    why_not=_why_not,
    op=_OP,
    scale_into=_scale,
    automatic_on=("cuda",),
)
TRITON_AUGMENT = Backend(
    name="triton",
    missing=lambda: _MISSING,
    why_not=_why_not_augment,
    op=_AUGMENT_OP,
    automatic_on=("cuda",),
)
TRITON_LOW_RANK = tuple(
    Backend(
        name="triton",
        missing=lambda: _MISSING,
        why_not=_why_not_low_rank,
        op=op,
        automatic_on=("cuda",),
    )
    for op in _LOW_RANK_OPS
)
