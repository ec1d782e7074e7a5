"""The Triton backend: for CUDA tensors without nvcc, and for CPU tensors under TRITON_INTERPRET=1.

Triton itself is imported by the first call that these kernels serve.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

from .._dispatch import Backend, Call, only_reference
from .._library import LIBRARY, define


def _kd(*args: Any) -> Any:
    from .kd import kd

    return kd(*args)


def _ir(*args: Any) -> Any:
    from .ir import ir

    return ir(*args)


def _lit(*args: Any) -> Any:
    from .lit import lit

    return lit(*args)


def _scale(*args: Any) -> None:
    from .scale import scale_into

    scale_into(*args)


def _why_not(call: Call) -> str | None:
    """Why these kernels cannot serve `call`."""
    for tensor in (*call.students, *call.teachers):
        if tensor.device != call.students[0].device:
            return f"tensors on {call.students[0].device} and {tensor.device}"
        if tensor.dtype == torch.float64:
            return "torch.float64 tensors (the kernels compute in float32)"
    device = call.students[0].device
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "tensors on cpu (TRITON_INTERPRET=1 serves them, slowly)"
    if device.type not in ("cpu", "cuda"):
        return f"tensors on {device}"
    return only_reference(call)


# Found once: Dynamo, which may trace a call to it, knows neither caches nor importlib.
_MISSING = None if importlib.util.find_spec("triton") else "triton is not installed; pip install triton"
_FUNCTIONS: dict[str, Callable[..., Any]] = {"kd": _kd, "ir": _ir, "lit": _lit}
_OPS = define("triton_")
for _name, _function in _FUNCTIONS.items():
    for _key in ("CPU", "CUDA"):
        LIBRARY.impl(f"triton_{_name}", _function, _key)
TRITON = Backend(
    name="triton",
    missing=lambda: _MISSING,
    why_not=_why_not,
    ops=_OPS,
    scale_into=_scale,
    automatic_on=("cuda",),
)
