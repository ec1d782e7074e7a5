"""The C++ kernels on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _augment, _low_rank
from ._augment import Augment
from ._checks import is_transformed, target_error
from ._dispatch import Backend, Call, only_reference, students_of, teachers_of
from ._library import _C, MISSING, OP, Results, implement
from ._native import PENALTIES, Native, address


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


def _look_up(call: _low_rank.Call) -> Tensor:
    wide, blocks, width, fp64 = _blocks(call)
    ids, place = call.x.contiguous(), call.place.contiguous()
    out = wide[0].new_empty((*ids.shape, width))
    addresses = address(ids), address(place), address(out)
    threads = torch.get_num_threads()
    bad = _C.low_rank_embedding_cpu(blocks, addresses, ids.numel(), width, fp64, threads, ISA)
    _check_place(call, bad)
    if bad >= 0:
        raise _low_rank.id_error(int(ids.flatten()[bad]), len(place))
    return out.to(call.factors[0].dtype)


def _score(call: _low_rank.Call) -> Tensor:
    wide, blocks, width, fp64 = _blocks(call)
    hidden, place = call.x.to(wide[0].dtype).contiguous(), call.place.contiguous()
    bias = None if call.bias is None else call.bias.to(wide[0].dtype).contiguous()
    out = _low_rank.new_logits(hidden, place)
    addresses = address(hidden), address(place), 0 if bias is None else address(bias), address(out)
    threads = torch.get_num_threads()
    rows = hidden.numel() // width
    _check_place(call, _C.low_rank_softmax_cpu(blocks, addresses, rows, width, fp64, threads, ISA))
    return out.to(call.x.dtype)


def _columns(x: Tensor, index: Tensor) -> Tensor:
    x, index = x.contiguous(), index.contiguous()
    out = x.new_empty(len(x), len(index))
    sizes = (*x.shape, len(index), x.element_size())
    _C.columns_cpu((address(x), address(index), address(out)), sizes, torch.get_num_threads())
    return out


def _blocks(call: _low_rank.Call) -> tuple[list[Tensor], list[tuple[int, int, int, int]], int, bool]:
    """What the kernels compute in, fp32 or fp64: tensors that must live on, their addresses, d."""
    fp64 = call.factors[0].dtype == torch.float64
    dtype = torch.float64 if fp64 else torch.float32
    wide = [table.to(dtype).contiguous() for table in (*call.factors, *call.bases)]
    pairs = zip(wide[: len(call.factors)], wide[len(call.factors) :], strict=True)
    blocks = [(address(factor), address(basis), *factor.shape) for factor, basis in pairs]
    return wide, blocks, call.bases[0].shape[1], fp64


def _check_place(call: _low_rank.Call, found: int) -> None:
    if found == _BAD_PLACE:
        low, high = call.place.aminmax()
        rule = f"lie in [0, {len(call.place)})"
        raise ValueError(f"{call.who}: place must {rule}, got {int(low)} to {int(high)}")


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


def _why_not_low_rank(call: _low_rank.Call) -> str | None:
    """Why the C++ kernels cannot serve `call`."""
    return _low_rank.only_reference(call) if call.x.is_cpu else f"tensors on {call.x.device}"


_BAD_PLACE = -2  # kBadPlace of csrc/cpu/kernels.h

if MISSING is None:
    ISA: str = _C.build_info()["isas"][0]  # the fastest instruction set that this machine runs
    implement("loss", "CPU", _run)
    _augment.implement("augment", "CPU", _run_augment)
    _low_rank.implement("", "CPU", _look_up, _score)
    _low_rank.implement_columns("CPU", _columns)
CPP = Backend(name="cpp", missing=lambda: MISSING, why_not=_why_not, op=OP)
CPP_AUGMENT = Backend(name="cpp", missing=lambda: MISSING, why_not=_why_not_augment, op=_augment.OP)
CPP_LOW_RANK = tuple(
    Backend(name="cpp", missing=lambda: MISSING, why_not=_why_not_low_rank, op=op) for op in _low_rank.OPS
)
