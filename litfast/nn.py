"""The ops as modules: options at construction, by the names of the functions; tensors in the call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from . import ops


def _checked(op: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options, once every name among them is one of `op`'s and none that it needs is missing."""
    names = inspect.signature(op).parameters.values()
    known = {p.name: p for p in names if p.kind is p.KEYWORD_ONLY}
    inspect.Signature(list(known.values())).bind(**options)
    return options


class KDLoss(nn.Module):
    """`litfast.kd_loss` with its options fixed: KDLoss(tau=4, alpha=0.1)."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = _checked(ops.kd_loss, options)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        return ops.kd_loss(student_logits, teacher_logits, target, **self.options)


class IRLoss(nn.Module):
    """`litfast.ir_loss` with its options fixed: IRLoss(penalty="smooth_l1")."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = _checked(ops.ir_loss, options)

    def forward(self, student_irs: Sequence[Tensor], teacher_irs: Sequence[Tensor]) -> Tensor:
        return ops.ir_loss(student_irs, teacher_irs, **self.options)


class LITLoss(nn.Module):
    """`litfast.lit_loss` with its options fixed: LITLoss(alpha=0.95, beta=0.75, tau=6)."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = _checked(ops.lit_loss, options)

    def forward(
        self,
        student_irs: Sequence[Tensor],
        teacher_irs: Sequence[Tensor],
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor | None = None,
    ) -> ops.LITLoss:
        return ops.lit_loss(student_irs, teacher_irs, student_logits, teacher_logits, target, **self.options)
