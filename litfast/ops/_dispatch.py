"""Which backend serves a call: the one that is named, or with "auto" the first that can.

The reference serves whatever no fused backend can. A new backend is a `Backend` that `litfast.ops` registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..registry import Registry, unknown
from ._checks import is_transformed
from .reference import Coefficient


class Call(NamedTuple):
    """One call of the loss op, in the order of its schema: `kd_loss` has no sections, `ir_loss` no logits."""

    who: str  # the public function
    student_irs: Sequence[Tensor]  # S of any shape
    teacher_irs: Sequence[Tensor]  # S, pairwise the students' shapes and devices
    student: Tensor | None  # logits [..., K]
    teacher: Tensor | None  # logits [..., K]
    target: Tensor | None  # [...] int64
    penalty: str = "l2"
    weights: Sequence[float] = ()  # one a section
    soft: str = "ce"
    label_smoothing: float = 0.0
    ignore_index: int = -100
    reduction: str = "mean"  # of the logits' rows
    tau: Coefficient = 1.0
    alpha: Coefficient = 0.0
    beta: Coefficient = 0.0
    scale: Coefficient = 1.0
    # From here on the op's own; there tau to scale are numbers.
    coefficients: Tensor | None = None  # [4] fp64 on the device: tau, alpha, beta, scale in their place
    needs: Sequence[bool] = ()  # which gradients to write, the logits' last


NUMBERS = Call._fields.index("tau")  # where tau, alpha, beta and scale begin


def students_of(call: Call) -> list[Tensor]:
    """What may get a gradient: the sections, then the logits."""
    return [*call.student_irs] if call.student is None else [*call.student_irs, call.student]


def teachers_of(call: Call) -> list[Tensor]:
    """Pairwise the teachers of `students_of`."""
    return [*call.teacher_irs] if call.teacher is None else [*call.teacher_irs, call.teacher]


AnyCall = TypeVar("AnyCall")


@dataclass(frozen=True, kw_only=True)
class Backend(Generic[AnyCall]):
    """One fused implementation of the losses, whose call is a `Call`, or of another op."""

    name: str
    missing: Callable[[], str | None]  # why it cannot run in this installation at all
    why_not: Callable[[AnyCall], str | None]  # why it cannot serve this call, given that it runs
    op: Callable[..., Any]  # the schema of _library.py, or of the other op
    # How backward scales off the CPU, without reading `scale` on the host; None: serves the CPU alone.
    scale_into: Callable[[Sequence[Tensor], Tensor, Sequence[Tensor]], None] | None = None
    automatic_on: tuple[str, ...] = ("cpu", "cuda")  # device types where "auto" may take it


_BACKENDS: Registry[Backend[Call]] = Registry("backend")


def register(backend: Backend[Call]) -> None:
    """Adds a fused backend of the losses; "auto" tries them in the order of registration."""
    _BACKENDS[backend.name] = backend


def only_reference(call: Call) -> str | None:
    """What no fused backend serves, because it would take a gradient that the ops do not write."""
    if is_transformed():
        return "a torch.func transform"
    if forward_ad._current_level >= 0:  # unpacking costs too much to do it always
        for tensor in (*students_of(call), *teachers_of(call)):
            if forward_ad.unpack_dual(tensor).tangent is not None:
                return "a tangent of forward-mode AD"
    if torch.is_grad_enabled():
        for teacher in teachers_of(call):
            if teacher.requires_grad:
                return "a teacher that requires grad"
    for coefficient in (call.tau, call.alpha, call.beta, call.scale):
        if isinstance(coefficient, Tensor) and coefficient.requires_grad:
            return "a coefficient that requires grad"
    return None


def choose(backend: str, call: Call) -> Backend[Call] | None:
    """The fused backend that serves `call`, or None for the reference.

    Raises:
        ValueError: tensors on several devices, an unknown name, or a backend that cannot serve this call.
        RuntimeError: the named backend cannot run in this installation.
    """
    _check_devices(call)
    return serving(_BACKENDS, backend, call.who, students_of(call)[0].device, call)


def serving(
    known: Registry[Backend[AnyCall]], backend: str, who: str, device: torch.device, call: AnyCall
) -> Backend[AnyCall] | None:
    """As `choose`, among the backends `known` of any op."""
    if backend == "reference":
        return None
    if backend == "auto":
        # When the surroundings are being compiled, plain torch lets the compiler fuse the op into them.
        if torch.compiler.is_compiling():
            return None
        for candidate in known.values():
            runs = device.type in candidate.automatic_on and candidate.missing() is None
            if runs and candidate.why_not(call) is None:
                return candidate
        return None
    if backend not in known:
        raise ValueError(f"{who}: {unknown('backend', backend, ['auto', 'reference', *known])}")
    chosen = known[backend]
    if missing := chosen.missing():
        raise RuntimeError(f"{who}: backend {backend!r} must be installed, got {missing}")
    if reason := chosen.why_not(call):
        rule = f"backend {backend!r} must be able to serve the call, got {reason}"
        raise ValueError(f'{who}: {rule}; use backend="reference"')
    return chosen


def _check_devices(call: Call) -> None:
    students = students_of(call)
    device = students[0].device
    for i, student in enumerate(students):
        if student.device != device:
            what = "student_logits" if student is call.student else f"student_irs[{i}]"
            rule = f"be on student_irs[0]'s device {device}"
            raise ValueError(f"{call.who}: {what} must {rule}, got {student.device}")
    for what, value in zip(("tau", "alpha", "beta", "scale"), call[NUMBERS : NUMBERS + 4], strict=True):
        if isinstance(value, Tensor) and not value.is_cpu and value.device != device:
            rule = f"be on the CPU or the students' device {device}"
            raise ValueError(f"{call.who}: {what} must {rule}, got {value.device}")


def backends() -> list[tuple[str, str | None]]:
    """Every backend in the order that "auto" tries them, each with why it cannot run here (None: it can)."""
    return [*((backend.name, backend.missing()) for backend in _BACKENDS.values()), ("reference", None)]
