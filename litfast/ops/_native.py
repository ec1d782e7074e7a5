"""A call as the compiled kernels of either device want it: dense tensors, raw addresses, room for results."""

from __future__ import annotations

import torch
from torch import Tensor

from ._dispatch import Call
from ._layout import contiguous_like, same_layout
from ._library import Results, new_results

LogitsArgs = tuple[int, int, int, int, int, int, int, int, int, float, bool, bool]

PENALTIES = {"l2": 0, "l1": 1, "smooth_l1": 2}  # Penalty of csrc/math.h
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # Dtype of csrc/math.h


class Native:
    """The tuples of csrc/args.h, and the tensors behind their addresses. `results` must follow the run."""

    def __init__(self, call: Call) -> None:
        self._results = total, parts, correct, gradients = new_results(call)
        at, by_row, fp64 = address(total), call.reduction == "none", total.dtype == torch.float64
        self.losses = 0 if by_row else at, address(parts), address(correct), at if by_row else 0, fp64
        self.coefficients = float(call.tau), float(call.alpha), float(call.beta), float(call.scale)
        # The kernels compare equal offsets: what had to be copied for that lives as long as its address.
        self._pairs = [same_layout(s, t) for s, t in zip(call.student_irs, call.teacher_irs, strict=True)]
        self.sections = [
            (address(s), address(t), address(g), s.numel(), DTYPES[s.dtype], DTYPES[t.dtype], weight)
            for (s, t), g, weight in zip(self._pairs, gradients, call.weights, strict=False)
        ]
        self.logits = None
        if call.student is not None and call.teacher is not None:
            self.logits = self._logits(call, call.student.contiguous(), call.teacher.contiguous())

    def _logits(self, call: Call, student: Tensor, teacher: Tensor) -> LogitsArgs:
        target = None if call.target is None else call.target.contiguous()
        gradient = contiguous_like(self._results[-1][-1])
        self._rows = student, teacher, target, gradient  # as the pairs
        K = student.shape[-1]
        return (
            address(student),
            address(teacher),
            0 if target is None else address(target),
            address(gradient),
            student.numel() // K,
            K,
            DTYPES[student.dtype],
            DTYPES[teacher.dtype],
            call.ignore_index,
            call.label_smoothing,
            call.soft == "kl",
            call.reduction == "mean",
        )

    def results(self) -> Results:
        """What the op returns; the logits' gradient is brought into the student's layout."""
        if self.logits is not None:
            gradients, rows = self._results[-1], self._rows[-1]
            if rows is not gradients[-1]:
                gradients[-1].copy_(rows)
        return self._results


def address(tensor: Tensor) -> int:
    """Of the first element; 0 for nothing."""
    return tensor.data_ptr() if tensor.numel() else 0
