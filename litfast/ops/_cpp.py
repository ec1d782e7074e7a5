"""The C++ kernels on the CPU: layouts are made to agree, addresses go in, sums come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import target_error
from ._dispatch import Backend, Call, only_reference
from ._layout import DTYPES, PENALTIES, address, contiguous_like, same_layout
from ._library import _C, LIBRARY, MISSING, OPS, loss_dtype, new_gradients


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
    if coefficients is not None:
        tau, alpha, scale = coefficients.tolist()
    gradients = new_gradients([student], needs)
    rows = student.new_empty(student.shape[:-1], dtype=torch.float64) if reduction == "none" else None
    logits = _Logits("kd_loss", student, teacher, target, ignore_index)
    divisor = logits.divisor if reduction == "mean" else 1
    kernel = logits.kernel(gradients[0], rows, soft, label_smoothing, alpha, tau, scale / divisor)
    sums = _run([], "l2", kernel)
    logits.finish(gradients[0])
    dtype = loss_dtype(student, teacher)
    if rows is not None:
        return (scale * rows).to(dtype), gradients
    return _scalar(scale * (alpha * sums.hard + (1 - alpha) * sums.soft) / divisor, dtype), gradients


def _ir(
    student_irs: list[Tensor],
    teacher_irs: list[Tensor],
    penalty: str,
    weights: list[float],
    scale: float,
    coefficients: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, list[Tensor]]:
    if coefficients is not None:
        (scale,) = coefficients.tolist()
    gradients = new_gradients(student_irs, needs)
    sums = _run(_sections(student_irs, teacher_irs, gradients, weights, scale), penalty)
    loss = scale * sum(w * mean for w, mean in zip(weights, sums.ir, strict=True))
    return _scalar(loss, loss_dtype(*student_irs, *teacher_irs)), gradients


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
    if coefficients is not None:
        tau, alpha, beta, scale = coefficients.tolist()
    gradients = new_gradients([*student_irs, student], needs)
    sections = _sections(student_irs, teacher_irs, gradients[:-1], weights, scale * (1 - beta))
    logits = _Logits("lit_loss", student, teacher, target, ignore_index)
    factor = scale * beta / logits.divisor
    kernel = logits.kernel(gradients[-1], None, soft, label_smoothing, alpha, tau, factor)
    sums = _run(sections, penalty, kernel)
    logits.finish(gradients[-1])
    soft_mean, hard_mean = sums.soft / logits.divisor, sums.hard / logits.divisor
    kd = alpha * hard_mean + (1 - alpha) * soft_mean
    total = scale * (beta * kd + (1 - beta) * sum(w * mean for w, mean in zip(weights, sums.ir, strict=True)))
    dtype = loss_dtype(*student_irs, *teacher_irs, student, teacher)
    parts = (_scalar(x, dtype) for x in (total, sums.ir, soft_mean, hard_mean))
    return (*parts, _scalar(sums.correct, torch.int64), gradients)  # type: ignore[return-value]


class _Sums(NamedTuple):
    """What one call of the kernels returns."""

    ir: list[float]  # [S] means
    soft: float  # sum over the valid rows, with tau^2
    hard: float  # sum over the valid rows
    correct: int


class _Section(NamedTuple):
    """One pair as the kernels want it: dense, the same strides, so that equal offsets are equal elements."""

    student: Tensor
    teacher: Tensor
    gradient: Tensor
    factor: float  # d total / d (sum of the penalties)

    def kernel(self) -> tuple[int, int, int, int, int, int, float]:
        """The fields of IrSection in csrc/ir.h."""
        student, teacher = self.student, self.teacher
        return (
            address(student),
            address(teacher),
            address(self.gradient),
            student.numel(),
            DTYPES[student.dtype],
            DTYPES[teacher.dtype],
            self.factor,
        )


class _Logits:
    """The logits of one call as the kernels want them: contiguous rows, valid rows counted."""

    def __init__(
        self, who: str, student: Tensor, teacher: Tensor, target: Tensor | None, ignore_index: int
    ) -> None:
        self.student, self.teacher = student.contiguous(), teacher.contiguous()
        self.target = None if target is None else target.contiguous()
        self.ignore_index = ignore_index
        self.K = student.shape[-1]
        self.B = student.numel() // self.K
        self.divisor = max(self.B if self.target is None else self._valid_rows(who, self.target), 1)

    def _valid_rows(self, who: str, target: Tensor) -> int:
        valid, bad = _C.scan_target(address(target), self.B, self.K, self.ignore_index)
        if bad >= 0:
            raise target_error(who, int(target.flatten()[bad]), self.K, self.ignore_index)
        return valid

    def kernel(
        self,
        gradient: Tensor,
        rows: Tensor | None,
        soft: str,
        label_smoothing: float,
        alpha: float,
        tau: float,
        factor: float,
    ) -> Any:
        """The struct Kd of csrc/kd.h; `finish` must follow the run."""
        self.gradient = contiguous_like(gradient)
        return _C.Kd(
            student=address(self.student),
            teacher=address(self.teacher),
            target=address(self.target),
            gradient=address(self.gradient),
            rows=address(rows),
            B=self.B,
            K=self.K,
            student_dtype=DTYPES[self.student.dtype],
            teacher_dtype=DTYPES[self.teacher.dtype],
            ignore_index=self.ignore_index,
            alpha=alpha,
            tau=tau,
            label_smoothing=label_smoothing,
            factor=factor,
            kl=soft == "kl",
        )

    def finish(self, gradient: Tensor) -> None:
        """Brings the gradient into the student's layout where the kernel could not write it there."""
        if self.gradient is not gradient:
            gradient.copy_(self.gradient)


def _sections(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    gradients: Sequence[Tensor],
    weights: Sequence[float],
    scale: float,
) -> list[_Section]:
    return [
        _Section(*same_layout(s, t), g, scale * w / max(s.numel(), 1))
        for s, t, g, w in zip(students, teachers, gradients, weights, strict=True)
    ]


def _run(sections: Sequence[_Section], penalty: str, kd: Any = None) -> _Sums:
    args = [section.kernel() for section in sections]
    ir, soft, hard, correct = _C.lit_cpu(args, PENALTIES[penalty], kd, torch.get_num_threads(), ISA)
    means = [total / max(section.student.numel(), 1) for total, section in zip(ir, sections, strict=True)]
    return _Sums(means, soft, hard, correct)


def _scalar(value: float | list[float], dtype: torch.dtype) -> Tensor:
    return torch.tensor(value, dtype=dtype, device="cpu")


def build_info() -> dict[str, Any] | None:
    """How the compiled half was built, and the instruction sets that it can use here; None without it."""
    return None if _C is None else dict(_C.build_info())


def _why_not(call: Call) -> str | None:
    """Why the C++ kernels cannot serve `call`."""
    for student, teacher in zip(call.students, call.teachers, strict=True):
        if student.device.type != "cpu":
            return f"tensors on {student.device}"
        if (student.dtype == torch.float64) != (teacher.dtype == torch.float64):
            return f"a {student.dtype} student with a {teacher.dtype} teacher"
    return only_reference(call)


if MISSING is None:
    ISA: str = _C.build_info()["isas"][0]  # the fastest instruction set that this machine runs
    for _name, _function in {"kd": _kd, "ir": _ir, "lit": _lit}.items():
        LIBRARY.impl(_name, _function, "CPU")
CPP = Backend(name="cpp", missing=lambda: MISSING, why_not=_why_not, ops=OPS)
