"""Checks that several ops share. Shapes, dtypes and host numbers only: no check reads a device value."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from .reference import Coefficient

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def is_transformed() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp, ...) runs around the call."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def shown(value: object) -> str:
    """What came, for a line: plain values as they are, others by their type."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__name__


def check_choice(who: str, what: str, value: str, known: Sequence[str]) -> None:
    """Raises ValueError unless `value` is one of `known`."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{who}: {what} must be one of {', '.join(known)}, got {shown(value)}")


def check_fraction(who: str, what: str, value: Coefficient) -> None:
    """Raises ValueError unless `value` lies in [0, 1]; a tensor is only checked for its shape."""
    if not _is_scalar_tensor(who, what, value) and not 0 <= value <= 1:
        raise ValueError(f"{who}: {what} must lie in [0, 1], got {value}")


def check_tau(who: str, tau: Coefficient) -> None:
    """Raises ValueError unless `tau` is positive and finite; a tensor is only checked for its shape."""
    if not _is_scalar_tensor(who, "tau", tau) and not 0 < tau < math.inf:
        raise ValueError(f"{who}: tau must be positive and finite, got {tau}")


def check_scale(who: str, scale: Coefficient) -> None:
    """Raises ValueError unless `scale` is a number or a 0-d tensor."""
    _is_scalar_tensor(who, "scale", scale)


def check_strength(who: str, strength: Coefficient) -> None:
    """Raises ValueError unless `strength` is 0 or more and finite; a tensor is only checked for its shape."""
    if not _is_scalar_tensor(who, "strength", strength) and not 0 <= strength < math.inf:
        raise ValueError(f"{who}: strength must be 0 or more and finite, got {strength}")


def _is_scalar_tensor(who: str, what: str, value: Coefficient) -> bool:
    if isinstance(value, Tensor):
        if value.ndim or not value.is_floating_point():
            shape = f"{value.dtype} {list(value.shape)}"
            raise ValueError(f"{who}: {what} must be a number or a 0-d float tensor, got {shape}")
        return True
    check_number(who, what, value, "a number or a 0-d float tensor")
    return False


def check_number(who: str, what: str, value: object, rule: str = "a number") -> None:
    """Raises TypeError or ValueError unless `value` is a number of Python that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{who}: {what} must be {rule}, got {type(value).__name__}")
    if isinstance(value, int) and value.bit_length() >= sys.float_info.max_exp:
        raise ValueError(f"{who}: {what} must fit into a float, got {value.bit_length()} bits")


def check_sequence(who: str, what: str, value: object, of: str) -> None:
    """Raises TypeError unless `value` is a list, a tuple or another sequence."""
    if isinstance(value, Tensor) or not isinstance(value, Sequence):
        got = "a tensor" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{who}: {what} must be a sequence of {of}, got {got}")


def check_float(who: str, what: str, tensor: Tensor) -> None:
    """Raises TypeError unless `tensor` is a tensor of a dtype that the losses take."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{who}: {what} must be a tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise ValueError(f"{who}: {what} must be dense, got {tensor.layout}")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{who}: {what} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")


def check_finite(who: str, what: str, tensor: Tensor) -> None:
    """Raises TypeError or ValueError unless `tensor` is of such a dtype and finite; waits for its device."""
    check_float(who, what, tensor)
    if tensor.is_meta or not bool(tensor.isfinite().all()):
        got = "one without numbers (meta)" if tensor.is_meta else "infinities or NaN"
        raise ValueError(f"{who}: {what} must hold finite numbers, got {got}")


def check_pair(who: str, names: tuple[str, str], student: Tensor, teacher: Tensor, remedy: str) -> None:
    """Raises unless teacher and student are float tensors of one shape on one device."""
    ours, theirs = names
    check_float(who, ours, student)
    check_float(who, theirs, teacher)
    if student.shape != teacher.shape:
        want, got = list(teacher.shape), list(student.shape)
        raise ValueError(f"{who}: {ours} must match {theirs} {want}, got {got}; {remedy}")
    if student.device != teacher.device:
        raise ValueError(f"{who}: {ours} must be on {theirs}'s device {teacher.device}, got {student.device}")


def are_pair(student: Tensor, teacher: Tensor) -> bool:
    """Whether `check_pair` would pass: it needs no names, which take longer to make than the checks."""
    return (
        isinstance(student, Tensor)
        and isinstance(teacher, Tensor)
        and student.shape == teacher.shape
        and student.dtype in DTYPES
        and teacher.dtype in DTYPES
        and student.device == teacher.device
        and student.layout is teacher.layout is torch.strided
    )


def target_error(who: str, value: int, classes: int, ignore_index: int) -> ValueError:
    """The error for a target that is neither a class nor ignored."""
    rule = f"lie in [0, {classes}) or equal ignore_index {ignore_index}"
    return ValueError(f"{who}: target must {rule}, got {value}")


def check_target_range(who: str, target: Tensor | None, classes: int, ignore_index: int) -> None:
    """Raises ValueError for a target out of range, where that can be read without waiting for a device."""
    if target is None or not target.is_cpu or torch.compiler.is_compiling() or is_transformed():
        return
    bad = target[((target < 0) | (target >= classes)) & (target != ignore_index)]
    if bad.numel():
        raise target_error(who, int(bad[0]), classes, ignore_index)
