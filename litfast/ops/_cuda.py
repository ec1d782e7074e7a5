"""The CUDA C++ kernel: one launch for all sections and the logits, nothing that the host waits for.

It computes in fp32, so fp64 is refused. A target out of range cannot be reported without waiting for the
device: that row's loss and gradient become NaN (a debug build of the kernel stops at an assertion).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._dispatch import Backend, Call, only_reference
from ._layout import DTYPES, PENALTIES, address, contiguous_like, same_layout
from ._library import _C, LIBRARY, MISSING, OPS, new_gradients

_OLDEST = (8, 0)  # compute capability
_slots: dict[tuple[int, int], int] = {}  # of (device, stream)
_free_slots = itertools.count()


def _kd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None,
    soft: str,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
    tau: float,
    alpha: float,
    scale: float,
    coefficients: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, list[Tensor]]:
    gradients = new_gradients([student], needs)
    by_row = reduction == "none"
    loss = student.new_empty(student.shape[:-1] if by_row else (), dtype=torch.float32)
    logits = _Logits(student, teacher, target, gradients[0])
    kernel = logits.kernel(
        loss if by_row else None, soft, label_smoothing, ignore_index, mean=reduction == "mean"
    )
    numbers = _Numbers((tau, alpha, 1.0, scale), coefficients, (0, 1, -1, 2))
    _run([], "l2", kernel, numbers, [None if by_row else loss, None, None, None, None], student.device)
    logits.finish(gradients[0])
    return loss, gradients


def _ir(
    student_irs: list[Tensor],
    teacher_irs: list[Tensor],
    penalty: str,
    weights: list[float],
    scale: float,
    coefficients: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, list[Tensor]]:
    gradients = new_gradients(student_irs, needs)
    loss = student_irs[0].new_empty((), dtype=torch.float32)
    sections = _sections(student_irs, teacher_irs, gradients, weights)
    numbers = _Numbers((1.0, 0.0, 0.0, scale), coefficients, (-1, -1, -1, 0))
    _run(sections, penalty, None, numbers, [loss, None, None, None, None], loss.device)
    return loss, gradients


def _lit(
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
    gradients = new_gradients([*student_irs, student], needs)
    total, soft_mean, hard_mean = (student.new_empty((), dtype=torch.float32) for _ in range(3))
    ir = student.new_empty(len(student_irs), dtype=torch.float32)
    correct = student.new_empty((), dtype=torch.int64)
    sections = _sections(student_irs, teacher_irs, gradients[:-1], weights)
    logits = _Logits(student, teacher, target, gradients[-1])
    kernel = logits.kernel(None, soft, label_smoothing, ignore_index, mean=True)
    numbers = _Numbers((tau, alpha, beta, scale), coefficients, (0, 1, 2, 3))
    _run(sections, penalty, kernel, numbers, [total, ir, soft_mean, hard_mean, correct], student.device)
    logits.finish(gradients[-1])
    return total, ir, soft_mean, hard_mean, correct, gradients


class _Numbers(NamedTuple):
    """tau, alpha, beta, scale: each a number, or the element `places` of a tensor on the device."""

    numbers: tuple[float, float, float, float]
    tensor: Tensor | None
    places: tuple[int, int, int, int]  # -1: the number, always


class _Section(NamedTuple):
    """One pair as the kernel wants it: dense, the same strides, so that equal offsets are equal elements."""

    student: Tensor
    teacher: Tensor
    gradient: Tensor
    weight: float

    def kernel(self) -> tuple[int, int, int, int, int, int, float]:
        """The fields of Section in csrc/cuda/launch.h."""
        student, teacher, gradient, weight = self
        dtypes = DTYPES[student.dtype], DTYPES[teacher.dtype]
        return address(student), address(teacher), address(gradient), student.numel(), *dtypes, weight


def _sections(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    gradients: Sequence[Tensor],
    weights: Sequence[float],
) -> list[_Section]:
    return [
        _Section(*same_layout(s, t), g, w)
        for s, t, g, w in zip(students, teachers, gradients, weights, strict=True)
    ]


class _Logits:
    """The logits of one call as the kernel wants them: contiguous rows."""

    def __init__(self, student: Tensor, teacher: Tensor, target: Tensor | None, gradient: Tensor) -> None:
        self.student, self.teacher = student.contiguous(), teacher.contiguous()
        self.target = None if target is None else target.contiguous()
        self.gradient = contiguous_like(gradient)

    def kernel(
        self, rows: Tensor | None, soft: str, label_smoothing: float, ignore_index: int, *, mean: bool
    ) -> Any:
        """The struct Logits of csrc/cuda/launch.h; `finish` must follow the run."""
        K = self.student.shape[-1]
        return _C.CudaLogits(
            student=address(self.student),
            teacher=address(self.teacher),
            target=address(self.target),
            gradient=address(self.gradient),
            rows=address(rows),
            B=self.student.numel() // K,
            K=K,
            student_dtype=DTYPES[self.student.dtype],
            teacher_dtype=DTYPES[self.teacher.dtype],
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            kl=soft == "kl",
            mean=mean,
        )

    def finish(self, gradient: Tensor) -> None:
        """Brings the gradient into the student's layout where the kernel could not write it there."""
        if self.gradient is not gradient:
            gradient.copy_(self.gradient)


def _run(
    sections: Sequence[_Section],
    penalty: str,
    logits: Any,
    numbers: _Numbers,
    losses: Sequence[Tensor | None],
    device: torch.device,
) -> None:
    with torch.cuda.device(device):
        call = _C.CudaCall(
            sections=[section.kernel() for section in sections],
            penalty=PENALTIES[penalty],
            logits=logits,
            coefficients=numbers.numbers,
            on_device=address(numbers.tensor),
            places=numbers.places,
            losses=[address(loss) for loss in losses],
            device=device.index,
        )
        workspace = torch.empty(call.workspace_bytes, dtype=torch.uint8, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
        slot = _slot(device.index, stream)
        counters = None
        if slot >= _C.CUDA_SLOTS:
            slot, counters = 0, torch.zeros(_C.CUDA_COUNTER_BYTES, dtype=torch.uint8, device=device)
        call.run(address(workspace), address(counters), slot, stream)


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
    for student, teacher in zip(call.students, call.teachers, strict=True):
        if student.device.type != "cuda" or student.device != call.students[0].device:
            return f"tensors on {student.device}"
        if torch.float64 in (student.dtype, teacher.dtype):
            return "torch.float64, which the kernel does not compute in"
    if _capability(call.students[0].device.index) < _OLDEST:
        return "a GPU older than compute capability 8.0"
    return only_reference(call)


if hasattr(_C, "CudaCall"):
    for _name, _function in {"kd": _kd, "ir": _ir, "lit": _lit}.items():
        LIBRARY.impl(_name, _function, "CUDA")
CUDA = Backend(name="cuda", missing=functools.cache(_missing), why_not=_why_not, ops=OPS)
