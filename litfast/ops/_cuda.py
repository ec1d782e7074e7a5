"""The CUDA C++ kernels: one launch for all sections and the logits, nothing that the host waits for.

They compute in fp32, so fp64 is refused. Backward is one launch too, of a kernel of its own. A target out
of range cannot be reported without waiting for the device: that row's loss and gradient become NaN (a debug
build of the kernel stops at an assertion).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ._dispatch import Backend, Call, only_reference, students_of, teachers_of
from ._library import _C, MISSING, OP, Results, implement
from ._native import DTYPES, PENALTIES, Native

_OLDEST = (8, 0)  # compute capability
_slots: dict[tuple[int, int], int] = {}  # of (device, stream)
_free_slots = itertools.count()


def _launch(call: Call) -> Results:
    native = Native(call)
    device = students_of(call)[0].device
    with torch.cuda.device(device):
        launch = _C.CudaCall(
            sections=native.sections,
            penalty=PENALTIES[call.penalty],
            logits=native.logits,
            coefficients=native.coefficients,
            on_device=0 if call.coefficients is None else call.coefficients.data_ptr(),
            losses=native.losses,
            device=device.index,
        )
        workspace = torch.empty(launch.workspace_bytes, dtype=torch.uint8, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
        slot, counters = _slot(device.index, stream), None
        if slot >= _C.CUDA_SLOTS:
            slot, counters = 0, torch.zeros(_C.CUDA_COUNTER_BYTES, dtype=torch.uint8, device=device)
        launch.run(workspace.data_ptr(), 0 if counters is None else counters.data_ptr(), slot, stream)
    return native.results()


def _scale_into(gradients: Sequence[Tensor], scale: Tensor, out: Sequence[Tensor]) -> None:
    """out_i = scale * gradient_i for dense tensors of equal layouts; out_i may be gradient_i."""
    device = scale.device
    assert scale.dtype == torch.float32, scale.dtype  # autograd has cast it to the dtype of the loss
    with torch.cuda.device(device):
        _C.cuda_scale(
            tensors=[
                (gradient.data_ptr(), result.data_ptr(), gradient.numel(), DTYPES[result.dtype])
                for gradient, result in zip(gradients, out, strict=True)
            ],
            scale=scale.data_ptr(),
            device=device.index,
            stream=torch.cuda.current_stream(device).cuda_stream,
        )


def _slot(device: int, stream: int) -> int:
    """The counters of a launch: a stream has its own, a captured launch its own for ever.

    Launches on one stream follow each other, but graphs captured on one stream may be replayed on several.
    """
    if torch.cuda.is_current_stream_capturing():
        return next(_free_slots)
    slot = _slots.get((device, stream))
    return slot if slot is not None else _slots.setdefault((device, stream), next(_free_slots))


def _missing() -> str | None:
    """Why no call can be served here."""
    if MISSING is not None:
        return MISSING
    if not hasattr(_C, "CudaCall"):
        return "litfast._C without CUDA kernels; install litfast with nvcc on the PATH"
    if torch.version.cuda is None:
        return "torch without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device"
    supports, needs = _C.cuda_driver()
    if supports // 1000 < needs // 1000:
        return f"a driver for CUDA {supports // 1000}, kernels built with CUDA {needs // 1000}"
    return None


@functools.cache
def _capability(device: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _why_not(call: Call) -> str | None:
    """Why the kernel cannot serve `call`."""
    students = students_of(call)
    for student, teacher in zip(students, teachers_of(call), strict=True):
        if student.device.type != "cuda" or student.device != students[0].device:
            return f"tensors on {student.device}"
        if torch.float64 in (student.dtype, teacher.dtype):
            return "torch.float64, which the kernel does not compute in"
    if _capability(students[0].device.index) < _OLDEST:
        return "a GPU older than compute capability 8.0"
    return only_reference(call)


if hasattr(_C, "CudaCall"):
    implement("loss", "CUDA", _launch)
CUDA = Backend(
    name="cuda", missing=functools.cache(_missing), why_not=_why_not, op=OP, scale_into=_scale_into
)
